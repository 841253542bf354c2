/* Constants in rectangles: parts equal the whole for random expressions; packed bytes read back by an unpacker written
 * from ARCHITECTURE.md; RoPE frequencies of transformers; synthetic values; files and expressions that are refused. */
#include "tests/unit/eval_util.h"

#include "ir/base/half.h"
#include "ir/pack.h"

/* ---- random expressions ---- */

typedef struct Rng {
    u64 n;
} Rng;

static i64 pick(Rng *g, i64 n) { return (i64)((double)(synthetic_value(42, 0, g->n++) + 1) / 2 * (double)n); }

typedef struct Gen {
    Run *r;
    Builder b;
    Rng *g;
    ValueId pool[64];
    u32 n;
} Gen;

static const Type *pool_type(const Gen *x, ValueId v) { return type_of(x->r->m, v); }

static void keep(Gen *x, ValueId v)
{
    must(x->r, v != 0);
    if (x->n < 64) x->pool[x->n++] = v;
}

static ValueId leaf(Gen *x, u32 rank, const i64 *dim)
{
    return ir_op(&x->b, OP_SYNTHETIC, NULL, 0, ATTRS({A_SEED, .i = 5}, {A_STREAM, .i = (i64)x->g->n++}), ir_type(x->r->m, DT_F32, rank, dim), NULL);
}

/* A float operand that broadcasts to t: some dimensions 1, leading ones missing. */
static ValueId stretchy(Gen *x, const Type *t)
{
    i64 dim[MAX_RANK], skip = pick(x->g, t->rank + 1);
    u32 n = 0;
    for (u32 i = (u32)skip; i < t->rank; i++) dim[n++] = pick(x->g, 3) ? t->dim[i] : 1;
    return leaf(x, n, dim);
}

static void grow_shape(Gen *x, ValueId v, const Type *t)
{
    i64 dim[MAX_RANK], left = type_elems(t);
    u32 axis = t->rank ? (u32)pick(x->g, t->rank) : 0, n = 0;
    switch (pick(x->g, 5)) {
    case 0:
        for (i64 f = 2; n < 2; n++) { /* factors in random order */
            while (f < left && left % f) f++;
            dim[n] = left >= f && left % f == 0 ? f : 1;
            left /= dim[n];
        }
        dim[n++] = left;
        keep(x, ir_op(&x->b, OP_RESHAPE, INS(v), ATTRS({A_SHAPE, .n = n, .ints = dim}), 0, NULL));
        break;
    case 1:
        if (t->rank == 2) keep(x, ir_op(&x->b, OP_TRANSPOSE, INS(v), NULL, 0, NULL));
        break;
    case 2:
        if (t->rank) {
            i64 lo = pick(x->g, t->dim[axis]), hi = lo + 1 + pick(x->g, t->dim[axis] - lo);
            keep(x, ir_op(&x->b, OP_SLICE, INS(v), ATTRS({A_AXIS, .i = axis}, {A_BEGIN, .i = lo}, {A_END, .i = hi}), 0, NULL));
        }
        break;
    case 3:
        if (t->rank && left < 2000) keep(x, ir_op(&x->b, OP_CONCAT, INS(v, v), ATTRS({A_AXIS, .i = axis}), 0, NULL));
        break;
    default:
        if (t->rank >= 1 && t->rank <= 2 && t->dim[0] % 2 == 0)
            keep(x, ir_op(&x->b, OP_ROPE_UNPERMUTE, INS(v), ATTRS({A_HEADS, .i = t->dim[0] % 4 ? 1 : 2}), 0, NULL));
    }
}

static void grow_quant(Gen *x, ValueId v, const Type *t)
{
    if (!t->rank) return;
    i64 group = pick(x->g, type_cols(t) + 1);
    AttrSpec u4[] = {{A_DTYPE, .s = "u4"}, {A_GROUP, .i = group}, {0}}, s8[] = {{A_DTYPE, .s = "s8"}, {A_GROUP, .i = group}, {0}};
    ValueId s, m = 0, q;
    if (pick(x->g, 2)) {
        s = ir_op(&x->b, OP_QPARAMS_ASYM, INS(v), u4, 0, NULL);
        m = s + 1;
    } else s = ir_op(&x->b, OP_QPARAMS, INS(v), s8, 0, NULL);
    keep(x, s);
    q = ir_op(&x->b, OP_QUANTIZE, INS(v, s, m), m ? u4 : s8, 0, NULL);
    keep(x, q);
    keep(x, ir_op(&x->b, OP_DEQUANTIZE, INS(q, s, m), ATTRS({A_GROUP, .i = group}), 0, NULL));
}

static void grow(Gen *x)
{
    ValueId v = x->pool[pick(x->g, x->n)];
    Type t = *pool_type(x, v);
    bool is_float = dtype_info[t.dt].is_float;
    switch (pick(x->g, 6)) {
    case 0:
        if (is_float) keep(x, ir_op(&x->b, OP_CAST, INS(v), ATTRS({A_DTYPE, .s = pick(x->g, 2) ? "f16" : "bf16"}), 0, NULL));
        break;
    case 1:
        if (is_float) keep(x, ir_op(&x->b, pick(x->g, 2) ? OP_ADD : OP_MUL, INS(v, stretchy(x, &t)), NULL, 0, NULL));
        break;
    case 2:
        if (is_float) grow_quant(x, v, &t);
        break;
    case 3: keep(x, ir_op(&x->b, OP_COPY, INS(v), NULL, 0, NULL)); break;
    default: grow_shape(x, v, &t);
    }
}

static void parts_equal_whole(Run *r, ValueId v, Rng *g)
{
    const Type *t = type_of(r->m, v);
    i64 rows = type_rows(t), cols = type_cols(t);
    Tensor whole, part;
    must(r, eval_const(r->e, v, 0, rows, 0, cols, &whole));
    for (int i = 0; i < 6; i++) {
        i64 r0 = pick(g, rows), nr = 1 + pick(g, rows - r0), c0 = pick(g, cols), nc = 1 + pick(g, cols - c0);
        must(r, eval_const(r->e, v, r0, nr, c0, nc, &part));
        for (i64 k = 0; k < nr * nc; k++)
            expect_near(get(r, &part, k), get(r, &whole, (r0 + k / nc) * cols + c0 + k % nc), 0, ir_cstr(r->m, value_at(r->m, v)->name), k);
    }
    eval_reset(r->e);
}

static void rectangles(void **state)
{
    (void)state;
    Rng g = {0};
    for (int round = 0; round < 300; round++) {
        Run r;
        run_init(&r, round % 2);
        r.m = ir_module_new(&r.a, "t", ".");
        Gen x = {.r = &r, .b = {.m = r.m, .d = &r.d, .layer = -1}, .g = &g};
        const i64 dim[3] = {1 + pick(&g, 12), 1 + pick(&g, 12), 1 + pick(&g, 40)};
        u32 rank = 1 + (u32)pick(&g, 3);
        keep(&x, leaf(&x, rank, dim));
        for (int i = 0; i < 12; i++) grow(&x);
        must(&r, r.d.n_errors == 0);
        r.e = eval_new(&r.d, r.m, r.f64);
        for (u32 i = 0; i < x.n; i++) parts_equal_whole(&r, x.pool[i], &g);
        run_free(&r);
    }
}

/* ---- packing ---- */

/* Source row of row r of packed tile t, -1 for padding. */
static i64 source_row(i64 rows, i64 parts, i64 t, i64 r)
{
    i64 block = rows / parts, i = t / parts * 16 + r;
    return i < block ? t % parts * block + i : -1;
}

static float read_f32(const u8 *p) { return f32_bits((u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24); }
static float read_f16(const u8 *p) { return f16_to_f32((u16)(p[0] | p[1] << 8)); }

typedef struct Packed {
    Tensor w, s, m; /* the operands, whole */
    i64 rows, cols, parts;
    const u8 *bytes;
} Packed;

static double operand_at(const Run *r, const Tensor *t, i64 row, i64 col)
{
    return row < 0 || col >= t->dim[1] ? 0 : get(r, t, row * t->dim[1] + col);
}

static void check_f32(const Run *r, const Packed *p, i64 tile, const u8 *b)
{
    for (i64 k = 0; k < p->cols; k++)
        for (i64 i = 0; i < 16; i++, b += 4)
            expect_near(read_f32(b), operand_at(r, &p->w, source_row(p->rows, p->parts, tile, i), k), 0, "f32", k);
}

/* Two k of a row beside each other. */
static void check_bf16(const Run *r, const Packed *p, i64 tile, const u8 *b)
{
    for (i64 k = 0; k < (p->cols + 1) / 2 * 2; k++)
        for (i64 i = 0; i < 16; i++) {
            const u8 *at = b + (k / 2 * 16 + i) * 4 + k % 2 * 2;
            expect_near(bf16_to_f32((u16)(at[0] | at[1] << 8)), operand_at(r, &p->w, source_row(p->rows, p->parts, tile, i), k), 0, "bf16", k);
        }
}

static void check_s8(const Run *r, const Packed *p, i64 tile, const u8 *b)
{
    i64 row[16];
    for (i64 i = 0; i < 16; i++) {
        row[i] = source_row(p->rows, p->parts, tile, i);
        expect_near(read_f32(b + 4 * i), operand_at(r, &p->s, row[i], 0), 1e-7, "scale", i);
        i32 sum = 0;
        for (i64 k = 0; k < p->cols; k++) sum += (i32)operand_at(r, &p->w, row[i], k);
        assert_int_equal((i32)bits_f32(read_f32(b + 64 + 4 * i)), 128 * sum);
    }
    b += 128;
    for (i64 k = 0; k < p->cols; k += 4)
        for (i64 i = 0; i < 16; i++)
            for (i64 j = 0; j < 4; j++) assert_int_equal((int8_t)*b++, (int)operand_at(r, &p->w, row[i], k + j));
}

static int signed_nibble(int v) { return v >= 8 ? v - 16 : v; }

/* Half a byte each: k and k + 4 of every eight. */
static void check_s4(const Run *r, const Packed *p, i64 tile, const u8 *b)
{
    for (i64 i = 0; i < 16; i++) {
        i64 row = source_row(p->rows, p->parts, tile, i);
        i32 sum = 0;
        for (i64 k = 0; k < p->cols; k++) sum += (i32)operand_at(r, &p->w, row, k);
        expect_near(read_f32(b + 4 * i), operand_at(r, &p->s, row, 0), 1e-7, "scale", i);
        assert_int_equal((i32)bits_f32(read_f32(b + 64 + 4 * i)), 128 * sum);
        for (i64 k = 0; k < (p->cols + 7) / 8 * 8; k++) {
            u8 byte = b[128 + (k / 8 * 16 + i) * 4 + k % 4];
            assert_int_equal(signed_nibble(k % 8 < 4 ? byte & 15 : byte >> 4), (int)operand_at(r, &p->w, row, k));
        }
    }
}

static void check_u4(const Run *r, const Packed *p, i64 tile, const u8 *b)
{
    for (i64 g = 0; g < (p->cols + 31) / 32; g++, b += 320)
        for (i64 i = 0; i < 16; i++) {
            i64 row = source_row(p->rows, p->parts, tile, i);
            expect_near(read_f16(b + 2 * i), operand_at(r, &p->s, row, g), 0, "scale", g);
            expect_near(read_f16(b + 32 + 2 * i), operand_at(r, &p->m, row, g), 0, "offset", g);
            for (i64 k = 0; k < 32; k++) {
                u8 byte = b[64 + (k / 8 * 16 + i) * 4 + k % 4];
                assert_int_equal(k % 8 < 4 ? byte & 15 : byte >> 4, (int)operand_at(r, &p->w, row, g * 32 + k));
            }
        }
}

static void pack_case(bool f64, const char *layout, i64 rows, i64 cols, i64 parts)
{
    Run r;
    run_init(&r, f64);
    r.m = ir_module_new(&r.a, "t", ".");
    Builder b = {.m = r.m, .d = &r.d, .layer = -1};
    const PackLayout *l = pack_layout(layout);
    ValueId w = ir_op(&b, OP_SYNTHETIC, NULL, 0, ATTRS({A_SEED, .i = 3}), ir_type2(r.m, DT_F32, rows, cols), NULL), in[3] = {w, 0, 0};
    AttrSpec u4[] = {{A_DTYPE, .s = "u4"}, {A_GROUP, .i = cols < 32 ? 0 : 32}, {0}}, s8[] = {{A_DTYPE, .s = "s8"}, {0}};
    AttrSpec s4[] = {{A_DTYPE, .s = "s4"}, {A_FULL, .i = 1}, {0}};
    AttrSpec *q = l->operands == 3 ? u4 : l->dtype == DT_S4 ? s4 : s8;
    if (l->operands > 1) in[1] = ir_op(&b, l->operands == 3 ? OP_QPARAMS_ASYM : OP_QPARAMS, INS(w), q, 0, NULL);
    if (l->operands > 2) in[2] = in[1] + 1;
    if (l->operands > 1) in[0] = ir_op(&b, OP_QUANTIZE, (ValueId[]){w, in[1], in[2]}, 3, q, 0, NULL);
    if (l->dtype == DT_BF16) in[0] = ir_op(&b, OP_CAST, INS(w), ATTRS({A_DTYPE, .s = "bf16"}), 0, NULL);
    ValueId p = ir_op(&b, OP_PACK, in, l->operands, ATTRS({A_LAYOUT, .s = layout}, {A_INTERLEAVE, .i = parts}), 0, NULL);
    must(&r, p != 0);
    r.e = eval_new(&r.d, r.m, f64);
    i64 tiles = pack_tiles(rows, parts), bytes = pack_tile_bytes(l, cols), half = tiles / 2;
    u8 *out = arena_alloc(&r.a, (size_t)(tiles * bytes), 1, 1);
    Packed c = {.rows = rows, .cols = cols, .parts = parts, .bytes = out};
    must(&r, eval_pack(r.e, p, 0, half, out) && eval_pack(r.e, p, half, tiles - half, out + half * bytes));
    Tensor *dst[3] = {&c.w, &c.s, &c.m}, value;
    for (u32 i = 0; i < l->operands; i++) must(&r, eval_const(r.e, in[i], 0, rows, 0, type_cols(type_of(r.m, in[i])), dst[i]));
    for (i64 t = 0; t < tiles; t++) (l->dtype == DT_F32 ? check_f32 : l->dtype == DT_BF16 ? check_bf16 : l->dtype == DT_S8 ? check_s8 : l->dtype == DT_S4 ? check_s4 : check_u4)(&r, &c, t, out + t * bytes);
    i64 from = bytes / 2, n = bytes < tiles * bytes - from ? bytes : tiles * bytes - from; /* the value is those bytes */
    must(&r, eval_const(r.e, p, 0, 1, from, n, &value));
    for (i64 i = 0; i < n; i++) assert_int_equal(value.i[i], out[from + i]);
    assert_false(eval_pack(r.e, p, 1, tiles, out));
    run_free(&r);
}

static void packing(void **state)
{
    (void)state;
    const char *layouts[] = {"f32", "s8", "u4g32", "s4", "bf16"};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        pack_case(false, layouts[i], 1, 1, 1);
        pack_case(false, layouts[i], 16, 64, 1);
        pack_case(true, layouts[i], 37, 33, 1);
        pack_case(false, layouts[i], 66, 45, 3);
        pack_case(true, layouts[i], 64, 96, 2);
        pack_case(false, layouts[i], 17, 4133, 1); /* several column chunks */
    }
}

/* Every pair of 4-bit values in every byte that holds two: row r of tile t has the values (t, r) - 8 in the places of
 * pair k % 4, and others elsewhere. Bytes of s4 and u4g32, read as a kernel reads them, give the values back: (b & 0xF0)
 * and (b << 4) are 16 times the signed values. */
static void nibble_pairs(void **state)
{
    (void)state;
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        const PackLayout *l = pack_layout(is_signed ? "s4" : "u4g32");
        i64 cols = is_signed ? 8 : 32;
        float one[16] = {0};
        u8 out[1024];
        for (int lo = 0; lo < 16; lo++)
            for (int at = 0; at < 4; at++) {
                i32 q[16 * 32];
                for (int r = 0; r < 16; r++)
                    for (int k = 0; k < cols; k++) {
                        int v = k == at ? lo : k == at + 4 ? r : (7 * k + 3 * r + lo) % 16;
                        q[r * cols + k] = is_signed ? signed_nibble(v) : v;
                    }
                memset(out, 0xee, sizeof out);
                pack_tile(l, cols, q, NULL, one, one, out);
                const u8 *b = out + (is_signed ? 128 : 64);
                assert_int_equal(out[pack_tile_bytes(l, cols)], 0xee);
                for (int r = 0; r < 16; r++) {
                    assert_int_equal(b[r * 4 + at], lo | r << 4);
                    for (int k = 0; k < cols; k++) {
                        u8 byte = b[(k / 8 * 16 + r) * 4 + k % 4], high = (u8)(k % 8 < 4 ? byte << 4 : byte & 0xf0);
                        assert_int_equal(is_signed ? (int8_t)high : high, 16 * q[r * cols + k]);
                    }
                }
            }
    }
}

/* Every 8-bit value in every place. */
static void byte_pairs(void **state)
{
    (void)state;
    const PackLayout *l = pack_layout("s8");
    float one[16] = {0};
    for (int a = -128; a < 128; a++)
        for (int c = -128; c < 128; c += 16) {
            i32 q[16 * 4];
            u8 out[192];
            for (int r = 0; r < 16; r++)
                for (int k = 0; k < 4; k++) q[r * 4 + k] = k % 2 ? a : c + r;
            pack_tile(l, 4, q, NULL, one, NULL, out);
            for (int i = 0; i < 64; i++) assert_int_equal((int8_t)out[128 + i], q[i]);
            for (int r = 0; r < 16; r++) assert_int_equal((i32)bits_f32(read_f32(out + 64 + 4 * r)), 256 * (a + c + r));
        }
}

/* ---- RoPE frequencies ---- */

/* transformers 5.23 on torch, as bits: modeling_rope_utils.py with
 *   llama3: theta 500000, factor 32, low 1, high 4, original context 8192, head_dim 64 (Llama-3.2-1B);
 *   linear: theta 10000, factor 2.5, head_dim 32;  default: theta 100000, head_dim 64. */
static const u32 llama3_freqs[32] = {
    0x3f800000, 0x3f29e1c6, 0x3ee177bc, 0x3e959ee3, 0x3e4693b0, 0x3e03c6a0, 0x3daee4ad, 0x3d681e67,
    0x3d1a08c8, 0x3ccc6f49, 0x3c87a9c3, 0x3c340d6d, 0x3beef74f, 0x3b9e9402, 0x3b527720, 0x3aa9279b,
    0x39e13620, 0x38cb98f7, 0x37a3418d, 0x3758ac81, 0x370fc8f8, 0x36bed4f4, 0x367d45c3, 0x3628126b,
    0x35df10c4, 0x359406cb, 0x35447610, 0x35025f34, 0x34ad07a7, 0x3465a54d, 0x341864a7, 0x33ca41b0};
static const u32 linear_freqs[16] = {
    0x3ecccccd, 0x3e6655c3, 0x3e0186e2, 0x3d91ad39, 0x3d23d70a, 0x3cb8449b, 0x3c4f3e38, 0x3be91528,
    0x3b83126e, 0x3b136a16, 0x3aa5cb60, 0x3a3a7753, 0x39d1b718, 0x396bdcf0, 0x3904a2b3, 0x38952c42};
static const u32 default_freqs[32] = {
    0x3f800000, 0x3f32a506, 0x3ef953cf, 0x3eadfcff, 0x3e72d423, 0x3e297409, 0x3dec7fd6, 0x3da50956,
    0x3d6655c2, 0x3d20bc1d, 0x3ce054d2, 0x3c9c8b97, 0x3c5a7bf2, 0x3c187705, 0x3bd4ca15, 0x3b947dae,
    0x3b4f3e38, 0x3b109edb, 0x3ac9d75c, 0x3a8cd9db, 0x3a44948c, 0x3a092e02, 0x39bf74d7, 0x39859aa9,
    0x393a7753, 0x39021f2b, 0x38b59b1b, 0x387d75d4, 0x3830df52, 0x37f6da96, 0x37ac431d, 0x37706b6d};

/* torch's vectorised pow is not correctly rounded; one ulp of f32 is allowed. */
static void expect_freqs(const Run *r, const Tensor *t, const u32 *bits, i64 n)
{
    assert_int_equal(tensor_count(t), n);
    for (i64 i = 0; i < n; i++) {
        double want = (double)f32_bits(bits[i]);
        expect_near(get(r, t, i), want, want * 0x1p-23, "freq", i);
    }
}

static void frequencies(void **state)
{
    (void)state;
    for (int f64 = 0; f64 < 2; f64++) {
        Run r;
        run_init(&r, f64);
        load(&r, "@a = rope_freqs {context = 8192, dim = 64, factor = 32, high = 4, low = 1, mode = \"llama3\", theta = 500000} : f32[32]\n"
                 "@b = rope_freqs {dim = 32, factor = 2.5, mode = \"linear\"} : f32[16]\n@c = rope_freqs {dim = 64, theta = 100000} : f32[32]\n");
        Tensor a = constant(&r, "a"), b = constant(&r, "b"), c = constant(&r, "c"), part;
        expect_freqs(&r, &a, llama3_freqs, 32);
        expect_freqs(&r, &b, linear_freqs, 16);
        expect_freqs(&r, &c, default_freqs, 32);
        must(&r, eval_const(r.e, *map_get(&r.m->const_map, STR("b")), 0, 1, 3, 2, &part));
        expect_freqs(&r, &part, linear_freqs + 3, 2);
        run_free(&r);
    }
}

/* ---- synthetic values ---- */

static void synthetic_values(void **state)
{
    (void)state;
    double sum = 0, square = 0, lag = 0;
    const double n = 100000;
    for (u64 i = 0; i < (u64)n; i++) {
        double v = (double)synthetic_value(1, 2, i);
        assert_true(v >= -1 && v < 1);
        sum += v;
        square += v * v;
        lag += v * (double)synthetic_value(1, 3, i);
    }
    expect_near(sum / n, 0, 0.01, "mean", 0);
    expect_near(square / n, 1.0 / 3, 0.01, "variance", 0);
    expect_near(lag / n, 0, 0.01, "correlation", 0);
    /* Fixed for ever: synthetic models must be the same on every machine and in every version. */
    const struct {
        u64 seed, stream, i;
        float want;
    } known[] = {{0, 0, 0, -1947995 * 0x1p-23f}, {0, 0, 1, -6499484 * 0x1p-23f}, {1, 0, 0, 1007024 * 0x1p-23f}, {0, 1, 0, -7176492 * 0x1p-23f}, {123, 45, 6789, 1442521 * 0x1p-23f}, {UINT64_MAX, UINT64_MAX, UINT64_MAX, 4415428 * 0x1p-23f}};
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        expect_near((double)synthetic_value(known[k].seed, known[k].stream, known[k].i), (double)known[k].want, 0, "value", (i64)k);
}

/* ---- refusals ---- */

static void refused(const char *text, ErrCode code)
{
    Run r;
    run_init(&r, false);
    load(&r, text);
    r.d.silent = false;
    assert_false(eval_open(&r.d, r.m));
    assert_int_equal(r.d.msgs.at[0].code, code);
    run_free(&r);
}

static void files_are_checked(void **state)
{
    (void)state;
#define LEAF_FILE "file 0 \"tests/data/eval/leaf.bin\" {bytes = 44}\n"
    refused("file 0 \"tests/data/eval/absent.bin\"\n", E_FILE_READ);
    refused("file 0 \"tests/data/eval/leaf.bin\" {bytes = 45}\n", E_FILE_READ);
    refused(LEAF_FILE "@w = tensor {enc = \"f32\", file = 0, offset = 0} : f32[3,4]\n", E_FILE_READ);
    refused(LEAF_FILE "@w = tensor {enc = \"f32\", file = 0, offset = 4} : f32[11]\n", E_FILE_READ);
    refused(LEAF_FILE "@w = tensor {enc = \"f32\", file = 0, offset = -4} : f32[4]\n", E_FILE_READ);
    refused(LEAF_FILE "@w = tensor {enc = \"f32\", file = 0, offset = 9223372036854775807} : f32[4]\n", E_FILE_READ);
    refused(LEAF_FILE "@w = tensor {enc = \"f32\", file = 0, offset = 0} : f32[4611686018427387904]\n", E_FILE_READ);
    refused(LEAF_FILE "@w = tensor {enc = \"q4_0\", file = 0, offset = 0} : f32[2,16]\n", E_IR_EVAL);
    refused(LEAF_FILE "@w = tensor {enc = \"q9\", file = 0, offset = 0} : f32[2,16]\n", E_IR_EVAL);
    refused(LEAF_FILE "@w = tensor {enc = \"f32\", file = 1, offset = 0} : f32[2]\n", E_IR_EVAL);
    Run r;
    run_init(&r, false);
    load(&r, LEAF_FILE "@w = tensor {enc = \"f32\", file = 0, offset = 0} : f32[2]\n"); /* never opened */
    Tensor t;
    assert_false(eval_const(r.e, 1, 0, 1, 0, 2, &t));
    must(&r, eval_open(&r.d, r.m));
    must(&r, eval_const(r.e, 1, 0, 1, 0, 2, &t));
    assert_false(eval_const(r.e, 1, 0, 1, 1, 2, &t));
    assert_false(eval_const(r.e, 1, 1, 1, 0, 2, &t));
    run_free(&r);
}

/* Doubling a value n times by adding it to itself: linear work thanks to the memo, and a limit on nesting. */
static void deep_expressions(void **state)
{
    (void)state;
    for (int depth = 60; depth <= 5000; depth += 4940) {
        Run r;
        run_init(&r, true);
        r.m = ir_module_new(&r.a, "t", ".");
        Builder b = {.m = r.m, .d = &r.d, .layer = -1};
        ValueId v = ir_op(&b, OP_LITERAL, NULL, 0, ATTRS({A_VALUES, .n = 1, .floats = VALS(1)}), ir_type2(r.m, DT_F32, 1, 1), NULL);
        for (int i = 0; i < depth; i++) v = ir_op(&b, OP_ADD, INS(v, v), NULL, 0, arena_printf(&r.a, "x%d", i)); /* names: finding a free one is quadratic */
        r.e = eval_new(&r.d, r.m, true);
        Tensor t;
        bool ok = eval_const(r.e, v, 0, 1, 0, 1, &t);
        assert_int_equal(ok, depth == 60);
        if (ok) expect_near(t.d[0], ldexp(1, 60), 0, "sum", 0);
        run_free(&r);
    }
}

int main(void)
{
    const struct CMUnitTest all[] = {cmocka_unit_test(rectangles),       cmocka_unit_test(packing), cmocka_unit_test(nibble_pairs), cmocka_unit_test(byte_pairs),           cmocka_unit_test(frequencies),
                                     cmocka_unit_test(synthetic_values), cmocka_unit_test(files_are_checked), cmocka_unit_test(deep_expressions)};
    return cmocka_run_group_tests(all, NULL, NULL);
}
