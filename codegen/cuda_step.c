/* A whole step of decoding as one kernel (codegen/cuda/step.cu): recognised in the plan's calls,
 * layer by layer, and written down as PfqStep, the schedule and constants in front of the template.
 * Contract: cuda_plan.h. What the kernel cannot do leaves decoding to single kernels; st->why says
 * what that was.
 */
#include "codegen/cuda_plan.h"

#include "ir/text.h"

#include <math.h>

#define LL(x) ((unsigned long long)(x))

enum { WORKERS = 512, LOADERS = 128 }; /* threads of a block */
enum { SLOT = 8192, SHARED = 227 * 1024, FLIGHT = 4, SPLITS = 16, MAX_WORDS = 6 };
enum { ALIGN = 1024, CONTROL = 256 };
enum { LEAST_BLOCKS = 16 }; /* multiprocessors of the least slice of an H100 */

/* Steps of several rows: one kernel for `from` to `rows`. Units whose sums a block keeps in shared
 * memory at once: of all rows, what all but the head have. */
static const struct Rows {
    i32 from, rows;
    i64 units;
    bool many; /* of decode_pieces.cuh */
} all_rows[] = {{1, 1, 40, false}, {2, 4, 16, false}, {5, 16, 6, true}};
enum { N_ROWS = sizeof all_rows / sizeof *all_rows };

typedef struct Layer { /* the calls of a layer; `join` and `mix` quantise the inputs of o and down
                        */
    const CgCall *first, *qkv, *attend, *join, *o, *second, *gate_up, *mix, *down;
} Layer;

typedef enum Sums { SUM_QKV, SUM_O, SUM_GATE_UP, SUM_DOWN, SUM_HEAD, N_SUMS } Sums;

typedef struct Whole {
    CgMake *mk;
    const CgPhase *ph;
    u32 at; /* next call */
    const char *why;
    const CgCall *embed, *last, *head;
    VEC(Layer) layers;
    CgRef x; /* the residual stream, as the calls see it */
    StrBuf o;
    VEC(u64) table; /* [layers][N_COLUMNS] */
    u64 sum_at[N_SUMS], sync, work;
    u64 parts_at, mixed_at, normed_at, turned_at, best_at, token_at;
    i64 act, scratch;
    const struct Rows *rows;
} Whole;

static bool no(Whole *st, const char *why)
{
    if (!st->why) st->why = why;
    return false;
}
#define NEED(condition, why)                                                                       \
    if (!(condition)) return no(st, why)

static i64 I(const CgCall *c, CgConstId id)
{
    return (i64)c->val[id];
}
static i64 up(i64 x, i64 m)
{
    return (x + m - 1) / m * m;
}
/* Bytes of the memory that is zero between steps. */
static u64 reserve(Whole *st, i64 align, i64 bytes)
{
    const u64 at = (u64)up((i64)st->sync, align);
    st->sync = at + (u64)bytes;
    return at;
}
static bool same(const CgRef *a, const CgRef *b)
{
    return a->place == b->place && a->section == b->section && a->off == b->off;
}

/* ---- recognising ---- */

static CgRowId row_of(const Whole *st, const CgCall *c)
{
    return st->mk->p->kernels.at[c->kernel].row;
}

/* The next call, if it is of this row. */
static const CgCall *take(Whole *st, CgRowId row)
{
    if (st->at >= st->ph->calls.n) return NULL;
    const CgCall *c = &st->ph->calls.at[st->at];
    if (row_of(st, c) != row) return NULL;
    st->at++;
    return c;
}

static const CgCall *take_linear(Whole *st)
{
    const CgCall *c = take(st, ROW_LINEAR_S4);
    return c ? c : take(st, ROW_LINEAR_S8);
}

/* Quantises to one or two bytes. */
static bool quantises(const CgCall *c)
{
    return I(c, C_fmt) == 1 || I(c, C_fmt) == 2;
}

static bool is_linear(Whole *st, const CgCall *c, i64 epi, const CgRef *input)
{
    NEED(c, "a linear is missing, or of weights that are not 4 or 8 bits with a scale a row");
    NEED(I(c, C_epi) == epi, "a linear has another epilogue");
    NEED(quantises(c) && same(&c->in[0], input), "a linear reads something else");
    NEED(!I(c, C_bias), "a linear has a bias");
    const CgLayout l = row_of(st, c) == ROW_LINEAR_S4 ? LAYOUT_FRAG4 : LAYOUT_FRAG8;
    NEED(cg_cuda_can_pack(st->mk->p, c->w.section, l), "weights cannot be packed");
    return true;
}

static bool is_norm(Whole *st, const CgCall *c)
{
    NEED(c && quantises(c) && same(&c->in[0], &st->x),
         "a norm does not quantise the residual stream");
    NEED(I(c, C_K) % 4 == 0 && I(c, C_K) <= 16384,
         "the hidden size is no multiple of 4, or too large");
    return true;
}

static bool residual(Whole *st, const CgCall *c, const CgRef *input)
{
    if (!is_linear(st, c, cg_epilogue("residual"), input)) return false;
    NEED(same(&c->in[2], &st->x), "a linear adds to something else than the residual stream");
    st->x = c->out[0];
    return true;
}

static bool attention(Whole *st, Layer *l)
{
    const CgCall *q = l->qkv, *a = l->attend = take(st, ROW_ATTEND);
    NEED(a, "attention is missing");
    const i64 D = I(a, C_head_dim), group = I(a, C_heads) / I(a, C_kv_heads);
    NEED(group * I(a, C_kv_heads) == I(a, C_heads) && group * D <= WORKERS && group <= 8,
         "a group of query heads has more than 512 columns");
    NEED(D % 8 == 0 && D <= 256 && (!I(q, C_r3) || (D & (D - 1)) == 0), "the head size");
    NEED(!I(a, C_window), "attention has a window");
    NEED(I(a, C_kv) > cg_kv_format("f16") || (I(a, C_kv) == cg_kv_format("f16") && D <= 128),
         "the KV cache is f32, or f16 of large heads");
    NEED(same(&a->in[0], &q->out[0]) && same(&a->in[1], &q->out[1]) && same(&a->in[2], &q->out[2]),
         "attention reads something else");
    l->join = I(a, C_fmt) ? a : take(st, ROW_QUANT);
    NEED(l->join && quantises(l->join), "attention's result is not quantised");
    NEED(l->join == a || same(&l->join->in[0], &a->out[0]), "attention's result goes elsewhere");
    NEED(I(l->join, C_static) || I(a, C_heads) * D <= 6144, "attention's result is too wide");
    return true;
}

/* The transform's two halves: rows of `inner` columns. */
static i64 inner_of(const CgCall *mix)
{
    const i64 m = I(mix, C_N) / I(mix, C_base);
    return m > 512 ? 512 : m;
}

static bool transform(Whole *st, Layer *l)
{
    const CgCall *m = l->mix = take(st, ROW_HADAMARD);
    if (!m) {
        m = l->mix = take(st, ROW_QUANT);
        NEED(m && quantises(m) && same(&m->in[0], &l->gate_up->out[0]),
             "what follows gate and up is no transform or quantiser of it");
        return true;
    }
    NEED(I(m, C_fmt) == 1 && same(&m->in[0], &l->gate_up->out[0]), "a transform is not quantised");
    NEED(I(m, C_N) == I(m, C_K), "a transform is of blocks");
    NEED(inner_of(m) >= 32 && I(m, C_base) <= 64 && I(m, C_N) / inner_of(m) <= 128,
         "a transform's size");
    return true;
}

static bool layer(Whole *st)
{
    Layer l = {.first = take(st, ROW_NORM)};
    if (!is_norm(st, l.first)) return false;
    l.qkv = take_linear(st);
    if (!is_linear(st, l.qkv, cg_epilogue("qkv"), &l.first->out[0]) || !attention(st, &l))
        return false;
    l.o = take_linear(st);
    if (!residual(st, l.o, &l.join->out[0])) return false;
    l.second = take(st, ROW_NORM);
    if (!is_norm(st, l.second)) return false;
    l.gate_up = take_linear(st);
    if (!is_linear(st, l.gate_up, cg_epilogue("swiglu"), &l.second->out[0]) || !transform(st, &l))
        return false;
    l.down = take_linear(st);
    if (!residual(st, l.down, &l.mix->out[0])) return false;
    vec_push(st->mk->a, &st->layers, l);
    return true;
}

/* All layers are alike: one loop runs them. */
static bool alike(Whole *st)
{
    const CgCall *const *a = &st->layers.at[0].first;
    for (u32 i = 1; i < st->layers.n; i++) {
        const CgCall *const *b = &st->layers.at[i].first;
        for (u32 k = 0; k < sizeof(Layer) / sizeof *a; k++)
            NEED(a[k]->kernel == b[k]->kernel, "layers differ");
        /* PFQ_AT_FREQ is one for all. */
        NEED(same(&st->layers.at[0].qkv->aux[1], &st->layers.at[i].qkv->aux[1]),
             "layers turn by different frequencies");
    }
    return true;
}

static bool recognise(Whole *st)
{
    static const CgRowId embeddings[] = {ROW_EMBED_F32, ROW_EMBED_S8, ROW_EMBED_U4G32};
    for (u32 i = 0; i < 3 && !st->embed; i++)
        st->embed = take(st, embeddings[i]);
    NEED(st->embed, "does not begin with an embedding");
    st->x = st->embed->out[0];
    while (st->at + 2 < st->ph->calls.n)
        if (!layer(st)) return false;
    NEED(st->layers.n, "has no layers");
    st->last = take(st, ROW_NORM);
    if (!is_norm(st, st->last)) return false;
    st->head = take_linear(st);
    if (!is_linear(st, st->head, cg_epilogue("none"), &st->last->out[0])) return false;
    NEED(st->head->out[0].place == CG_LOGITS && st->at == st->ph->calls.n,
         "does not end in logits");
    return alike(st);
}

/* ---- the table ---- */

/* A column: what each layer's entry refers to. KV offsets have the highest bit. */
static u64 entry(Whole *st, const CgRef *r, CgLayout layout)
{
    CgMake *mk = st->mk;
    if (r->place == CG_KV) return (u64)1 << 63 | r->off;
    if (r->place != CG_WEIGHT) return 0;
    return cg_cuda_packed(mk->cuda, mk->code, r->section, layout).off;
}

/* Which call and operand of a layer a column is: kinds of operands. */
typedef enum Operand { OF_W, OF_SCALE, OF_IN, OF_AUX } Operand;

typedef struct Column {
    const char *name;
    i32 call; /* index in Layer; -1: the last norm's or the head's */
    Operand of;
    u32 i;
} Column;

enum { /* of Layer, and two more */
       AT_FIRST,
       AT_QKV,
       AT_ATTEND,
       AT_JOIN,
       AT_O,
       AT_SECOND,
       AT_GATE_UP,
       AT_MIX,
       AT_DOWN,
       AT_LAST,
       AT_HEAD
};

static const Column all_columns[] = {
    {"W_QKV", AT_QKV, OF_W, 0},          {"W_O", AT_O, OF_W, 0},
    {"W_GATE_UP", AT_GATE_UP, OF_W, 0},  {"W_DOWN", AT_DOWN, OF_W, 0},
    {"W_HEAD", AT_HEAD, OF_W, 0},        {"S_QKV", AT_QKV, OF_SCALE, 0},
    {"S_O", AT_O, OF_SCALE, 0},          {"S_GATE_UP", AT_GATE_UP, OF_SCALE, 0},
    {"S_DOWN", AT_DOWN, OF_SCALE, 0},    {"S_HEAD", AT_HEAD, OF_SCALE, 0},
    {"GAIN_FIRST", AT_FIRST, OF_AUX, 0}, {"GAIN_SECOND", AT_SECOND, OF_AUX, 0},
    {"GAIN_LAST", AT_LAST, OF_AUX, 0},   {"X_FIRST", AT_FIRST, OF_AUX, 1},
    {"X_JOIN", AT_JOIN, OF_AUX, 5},      {"X_SECOND", AT_SECOND, OF_AUX, 1},
    {"X_MIX", AT_MIX, OF_AUX, 1},        {"X_LAST", AT_LAST, OF_AUX, 1},
    {"CACHE_K", AT_ATTEND, OF_IN, 1},    {"CACHE_V", AT_ATTEND, OF_IN, 2},
    {"SCALES_K", AT_ATTEND, OF_IN, 3},   {"SCALES_V", AT_ATTEND, OF_IN, 5},
    {"MINIMA_K", AT_ATTEND, OF_IN, 4},   {"MINIMA_V", AT_ATTEND, OF_IN, 6},
    {"Q_SCALE", AT_QKV, OF_AUX, 6},      {"K_SCALE", AT_QKV, OF_AUX, 4},
    {"V_SCALE", AT_QKV, OF_AUX, 5},      {"Q_GAIN", AT_QKV, OF_AUX, 2},
    {"K_GAIN", AT_QKV, OF_AUX, 3},       {"PREFIX_K", AT_ATTEND, OF_AUX, 0},
    {"PREFIX_V", AT_ATTEND, OF_AUX, 1},
};
enum { N_COLUMNS = sizeof all_columns / sizeof *all_columns };

static const CgCall *call_of(const Whole *st, u32 l, i32 which)
{
    if (which == AT_LAST) return st->last;
    if (which == AT_HEAD) return st->head;
    return (&st->layers.at[l].first)[which];
}

static u64 panels(const CgCall *c)
{
    const i64 n = I(c, C_N);
    return (u64)(I(c, C_epi) == cg_epilogue("swiglu") ? up(n / 2, 32) * 2 : up(n, 64)) / 64;
}
static i64 bits(const Whole *st, const CgCall *c)
{
    return row_of(st, c) == ROW_LINEAR_S4 ? 4 : 8;
}

static u64 column_entry(Whole *st, u32 l, const Column *c)
{
    const CgCall *call = call_of(st, l, c->call);
    const CgLayout packed = bits(st, call) == 4 ? LAYOUT_FRAG4 : LAYOUT_FRAG8;
    switch (c->of) {
    case OF_W: return entry(st, &call->w, packed);
    case OF_SCALE:
        return entry(st, &call->w, packed) +
               panels(call) * (u64)(up(I(call, C_K), 128) / 128 * 1024 * bits(st, call));
    case OF_IN: return entry(st, &call->in[c->i], LAYOUT_IMAGE);
    case OF_AUX: {
        /* A quantiser on its own keeps its scale where norms do. */
        const u32 i = c->call == AT_JOIN && row_of(st, call) == ROW_QUANT ? 1 : c->i;
        return entry(st, &call->aux[i], LAYOUT_IMAGE);
    }
    }
    return 0;
}

static void make_table(Whole *st)
{
    for (u32 l = 0; l < st->layers.n; l++)
        for (u32 i = 0; i < N_COLUMNS; i++)
            vec_push(st->mk->a, &st->table, column_entry(st, l, &all_columns[i]));
}

/* ---- constants ---- */

/* In how many parts a linear's k is cut: runs of at least 256 columns that are whole blocks and
 * whole rows of what makes them. One where activations need the largest of all. */
static i64 parts_of(const Whole *st, const CgCall *c, i64 whole, bool fixed)
{
    const i64 K = I(c, C_K), block = bits(st, c) == 4 ? 64 : 32;
    if (!fixed || K % 128) return 1;
    for (i64 part = block; part < K; part += block)
        if (part >= 256 && part % whole == 0 && K % part == 0) return K / part;
    return 1;
}

static i64 planes(const CgCall *c)
{
    return I(c, C_fmt) == 2 ? 2 : 1;
}

/* Of many rows whose bytes are made elsewhere: so few that activations leave room for a ring. */
static i64 many_parts(const CgCall *c, i64 most)
{
    const i64 K = I(c, C_K);
    i64 parts = most;
    while (parts > 1 && K % (parts * 128))
        parts /= 2;
    return parts;
}

/* How many blocks at most share a row of sums, if that is few enough to hand them over as words
 * that carry a flag; 0: they are added up in memory. Chips of sm_90a have 132 multiprocessors. */
static i64 words_of(const Whole *st, const CgCall *c)
{
    const i64 blocks = up(I(c, C_K), 128) / (bits(st, c) == 4 ? 64 : 32), unit = (blocks + 3) / 4,
              words = unit * 132 / ((i64)panels(c) * unit) + 2;
    return words <= MAX_WORDS && planes(c) == 1 ? words : 0;
}

/* Columns of x that a thread block reads at most, of parts in a row: PfqDeal has slots of four
 * blocks. */
static i64 columns_of(const Whole *st, const CgCall *c, i64 parts)
{
    const i64 K = I(c, C_K), blocks = up(K, 128) / (bits(st, c) == 4 ? 64 : 32) / parts,
              part = (i64)panels(c) * ((blocks + 3) / 4),
              each = (parts * part + LEAST_BLOCKS - 1) / LEAST_BLOCKS,
              seen = (each + part - 2) / part + 1;
    if (st->rows->many) return up(K / parts, 64);
    const bool all = st->rows->rows == 1 || planes(c) > 1 || seen >= parts;
    return up(all ? K : seen * (K / parts) + 64, 128);
}

static void emit_linear(Whole *st, const char *name, const CgCall *c, const char *column, i64 parts,
                        i64 words, Sums sums)
{
    const bool apart = st->rows->many && parts > 1;
    const i64 width = apart ? I(c, C_K) / parts : up(I(c, C_K), 128),
              bytes = planes(c) * columns_of(st, c, parts);
    if (bytes > st->act) st->act = bytes;
    const bool twin = !words && sums != SUM_HEAD;
    const i64 each = words ? 2 * words : twin ? 2 * planes(c) : planes(c);
    st->sum_at[sums] = reserve(st, 1, (i64)panels(c) * 256 * st->rows->rows * each);
    sb_printf(&st->o,
              "    struct %s {\n        static constexpr int32_t N = %lld, K = %lld, bits = %lld, "
              "parts = %lld, w = W_%s, scale = S_%s, sums = PFQ_AT_SUMS + %d, words = %lld, "
              "planes = %lld, plane = %lld;\n        static constexpr bool fixed = %s, twin = "
              "%s, apart = %s;\n    };\n",
              name,
              I(c, C_epi) == cg_epilogue("swiglu") ? (long long)panels(c) * 64
                                                   : (long long)I(c, C_N),
              (long long)I(c, C_K), (long long)bits(st, c), (long long)parts, column, column,
              (int)sums, (long long)words, (long long)planes(c), (long long)width,
              I(c, C_static) ? "true" : "false", twin ? "true" : "false", apart ? "true" : "false");
}

static void emit_float(Whole *st, const char *name, double v)
{
    sb_printf(&st->o, "        static constexpr float %s = ", name);
    cg_emit_float(&st->o, v);
    sb_str(&st->o, ";\n");
}

/* What PfqWorker::fixed_scale says a quantiser has. c: the call that quantises; to, reader: the
 * linear that reads. */
static void emit_quantiser(Whole *st, const CgCall *c, const CgCall *to, const char *reader,
                           const char *column)
{
    sb_printf(&st->o,
              "        static constexpr bool fixed = %s;\n        static constexpr int32_t "
              "scale_at = %s, "
              "lo = %lld, hi = %lld, planes = %lld, plane = %s::plane, dump = 0;\n",
              I(c, C_static) ? "true" : "false", column,
              (long long)I(c, C_fmt) == 2 ? -32512LL : (long long)I(c, C_qlo),
              (long long)I(c, C_fmt) == 2 ? 32512LL : (long long)I(c, C_qhi), (long long)planes(to),
              reader);
    emit_float(st, "clip", I(c, C_fmt) == 2 ? 1.0 : c->val[C_clip]);
    emit_float(st, "top", I(c, C_fmt) == 2 ? 32512.0 : c->val[C_qtop]);
}

static void emit_norm(Whole *st, const char *name, const CgCall *c, const CgCall *to,
                      const char *reader, const char *from, bool prior, const char *which)
{
    sb_printf(&st->o,
              "    struct %s {\n        typedef %s From;\n        typedef %s To;\n        static "
              "constexpr "
              "bool prior = %s;\n        static constexpr int32_t gain = ",
              name, from, reader, prior ? "true" : "false");
    sb_printf(&st->o, I(c, C_gain) ? "GAIN_%s;\n" : "-1;\n", which);
    emit_float(st, "eps", c->val[C_eps]);
    emit_quantiser(st, c, to, reader, arena_printf(st->mk->a, "X_%s", which));
    sb_str(&st->o, "    };\n");
}

/* Memory of PfqPieces: n of a row, of `bytes` together. */
static u64 pieces(Whole *st, i64 n, i64 bytes)
{
    return reserve(st, 128, up(4 * (n + 1) * st->rows->rows, 128) + st->rows->rows * bytes);
}

static void emit_attention(Whole *st, const Layer *l)
{
    const CgCall *q = l->qkv, *a = l->attend;
    const i64 D = I(a, C_head_dim), group = I(a, C_heads) / I(a, C_kv_heads);
    const bool ints = I(a, C_kv) > cg_kv_format("f16");
    sb_printf(
        &st->o,
        "    struct Join;\n    struct Attend {\n        typedef Qkv From;\n        typedef Join "
        "Out;\n        static constexpr int32_t "
        "rows = %d, heads = %lld, "
        "kv_heads = %lld, D = %lld, rot = %lld, prefix = %lld, q8 = %lld, kv = %lld, kv_lo = "
        "%lld;\n"
        "        static constexpr bool r3 = %s, kv_static = %s;\n",
        (int)st->rows->rows, (long long)I(a, C_heads), (long long)I(a, C_kv_heads), (long long)D,
        (long long)I(q, C_rot), (long long)I(a, C_prefix), (long long)I(q, C_q8),
        (long long)I(a, C_kv), (long long)I(q, C_kv_lo), I(q, C_r3) ? "true" : "false",
        !ints || I(q, C_kv_static) ? "true" : "false");
    emit_float(st, "kv_top", q->val[C_kv_top]);
    emit_float(st, "kv_clip", q->val[C_kv_clip]);
    emit_float(st, "score", a->val[C_scale]);
    emit_float(st, "tiny", q->val[C_eps]);
    sb_printf(
        &st->o,
        "        static constexpr int32_t cache = CACHE_K, numbers = SCALES_K, q_scale = Q_SCALE, "
        "k_scale = K_SCALE, v_scale = V_SCALE, q_gain = %s, k_gain = %s, prefix_k = PREFIX_K, "
        "prefix_v = PREFIX_V;\n    };\n",
        I(q, C_qk_norm) ? "Q_GAIN" : "-1", I(q, C_qk_norm) ? "K_GAIN" : "-1");
    const bool many = st->rows->many;
    const i64 token = (group + 2) * D * 4 + (group + 4) * D + 4 * (group + 6),
              attend = (many ? up(token, 128) : 0) + WORKERS / 32 * group * (D * 4 + 8),
              rows = st->rows->rows, splits = rows * (rows < SPLITS ? SPLITS / rows : 1),
              join = I(a, C_heads) * splits * 4 +
                     (I(l->join, C_static) ? 0 : rows * I(a, C_heads) * D * 4);
    st->scratch = attend > join || many ? attend : join;
    st->parts_at = many ? pieces(st, I(a, C_kv_heads), I(a, C_heads) * D)
                        : reserve(st, 1, I(a, C_heads) * splits * (D + 2) * 8);
    sb_str(&st->o, "    struct Join {\n        typedef Attend From;\n        typedef O To;\n");
    emit_quantiser(st, l->join, l->o, "O", "X_JOIN");
    sb_str(&st->o, "    };\n");
}

static void emit_ffn(Whole *st, const Layer *l)
{
    const bool turn = row_of(st, l->mix) == ROW_HADAMARD;
    const i64 ffn = I(l->gate_up, C_N) / 2, inner = turn ? inner_of(l->mix) : ffn;
    const i64 base = turn ? I(l->mix, C_base) : 1;
    const i64 columns = st->rows->many ? 4 : (inner + LEAST_BLOCKS - 1) / LEAST_BLOCKS,
              glu = st->rows->rows * (ffn / inner) * columns * 4;
    if (st->scratch < 32768) st->scratch = 32768;
    if (st->scratch < glu) st->scratch = glu;
    st->mixed_at = reserve(st, 16, up(8 * ffn * st->rows->rows, ALIGN));
    st->turned_at = st->rows->many ? pieces(st, ffn / inner, ffn) : st->sync;
    sb_printf(&st->o,
              "    struct Glu {\n        typedef GateUp From;\n        typedef Down To;\n        "
              "static constexpr bool turn = %s;\n"
              "        static constexpr int32_t ffn = %lld, base = %lld, outer = %lld, inner = "
              "%lld, kind = %lld;\n",
              turn ? "true" : "false", (long long)ffn, (long long)base, (long long)(ffn / inner),
              (long long)inner, (long long)I(l->gate_up, C_act));
    emit_float(st, "scale", turn ? l->mix->val[C_scale] : 1.0);
    sb_str(&st->o, "    };\n    struct Mix : Glu {\n");
    emit_quantiser(st, l->mix, l->down, "Down", "X_MIX");
    sb_str(&st->o, "    };\n");
}

static const char schedule[] = "    template <class R> PFQ_STATIC void schedule(R &r)\n"
                               "    {\n"
                               "        r.template embed<Embed>();\n"
                               "        for (int32_t l = 0; l < layers; l++) {\n"
                               "            r.layer(l);\n"
                               "            r.template norm<First>();\n"
                               "            if (l > 0) r.template clear<O>(l - 1);\n"
                               "            if (l > 0) r.template clear<GateUp>(l - 1);\n"
                               "            r.template gemv<Qkv>();\n"
                               "            r.template meet_for<Qkv>();\n"
                               "            r.template attend<Attend>();\n"
                               "            r.template combine<Join>();\n"
                               "            r.template gemv<O>();\n"
                               "            r.meet();\n"
                               "            r.template norm<Second>();\n"
                               "            if (l > 0) r.template clear<Down>(l - 1);\n"
                               "            r.template clear<Qkv>(l);\n"
                               "            r.template gemv<GateUp>();\n"
                               "            r.template meet_for<GateUp>();\n"
                               "            r.template glu<Glu>();\n"
                               "            r.template mix<Mix>();\n"
                               "            r.template gemv<Down>();\n"
                               "            r.meet();\n"
                               "        }\n"
                               "        r.template norm<Last>();\n"
                               "        r.template clear<O>(layers - 1);\n"
                               "        r.template clear<GateUp>(layers - 1);\n"
                               "        r.template gemv<Head>();\n"
                               "        r.meet();\n"
                               "        r.template logits<Head>();\n"
                               "        r.template clear<Down>(layers - 1);\n"
                               "        r.meet();\n"
                               "        r.choose();\n"
                               "    }\n";

static void emit_ops(Whole *st)
{
    const Layer *l = &st->layers.at[0];
    const bool turn = row_of(st, l->mix) == ROW_HADAMARD, many = st->rows->many;
    const i64 o_parts = many ? many_parts(l->o, 4) : parts_of(st, l->o, 64, I(l->join, C_static)),
              down_parts =
                  many ? many_parts(l->down, 4)
                       : parts_of(st, l->down, turn ? inner_of(l->mix) : 1, I(l->mix, C_static)),
              head_parts = many ? many_parts(st->head, planes(st->head)) : 1;
    static const char *const formats[] = {"F32", "S8", "U4G32"};
    sb_printf(
        &st->o,
        "    struct Embed {\n        static constexpr int32_t N = %lld, format = PFQ_EMBED_%s;\n",
        (long long)I(st->embed, C_N), formats[row_of(st, st->embed) - ROW_EMBED_F32]);
    emit_float(st, "scale", st->embed->val[C_scale]);
    sb_str(&st->o, "    };\n");
    emit_linear(st, "Qkv", l->qkv, "QKV", 1, words_of(st, l->qkv), SUM_QKV);
    emit_linear(st, "O", l->o, "O", o_parts, 0, SUM_O);
    emit_linear(st, "GateUp", l->gate_up, "GATE_UP", 1, words_of(st, l->gate_up), SUM_GATE_UP);
    emit_linear(st, "Down", l->down, "DOWN", down_parts, 0, SUM_DOWN);
    emit_linear(st, "Head", st->head, "HEAD", head_parts, 0, SUM_HEAD);
    emit_norm(st, "First", l->first, l->qkv, "Qkv", "Down", true, "FIRST");
    emit_norm(st, "Second", l->second, l->gate_up, "GateUp", "O", false, "SECOND");
    emit_norm(st, "Last", st->last, st->head, "Head", "Down", false, "LAST");
    emit_attention(st, l);
    emit_ffn(st, l);
}

/* ---- the whole ---- */

static void emit_table(Whole *st)
{
    sb_str(&st->o, "enum {\n");
    for (u32 i = 0; i < N_COLUMNS; i++)
        sb_printf(&st->o, "    %s,\n", all_columns[i].name);
    sb_printf(&st->o,
              "};\n/* A row a layer: offsets in the weights; with the highest bit, in the cache, "
              "times ctx. */\n"
              "PFQ_TABLE uint64_t pfq_step_table[%u] = {",
              st->table.n);
    for (u32 i = 0; i < st->table.n; i++)
        sb_printf(&st->o, "%s0x%llx", i % N_COLUMNS == 0 ? i ? ",\n    " : "\n    " : ", ",
                  LL(st->table.at[i]));
    sb_str(&st->o, "};\n\n");
}

static void emit_args(Whole *st)
{
    const Layer *l = &st->layers.at[0];
    const bool based = row_of(st, l->mix) == ROW_HADAMARD && I(l->mix, C_base) > 1;
    const u64 embed = entry(st, &st->embed->w, LAYOUT_IMAGE),
              freq = entry(st, &l->qkv->aux[1], LAYOUT_IMAGE),
              base = based ? entry(st, &l->mix->w, LAYOUT_IMAGE) : 0;
    sb_str(&st->o, "    PFQ_STATIC uint64_t address(const PfqDecodeArgs &d, int32_t i)\n    {\n"
                   "        const uint64_t e = pfq_step_table[i];\n"
                   "        return e >> 63 ? d.at[PFQ_AT_CACHE] + (e << 1 >> 1) * (uint64_t)d.ctx "
                   ": d.at[PFQ_AT_WEIGHTS] + e;\n    }\n"
                   "    PFQ_STATIC PfqDecodeArgs args(const PfqCudaArgs &a)\n    {\n        "
                   "PfqDecodeArgs d = {};\n"
                   "        d.ctx = a.ctx;\n        d.rows = a.T;\n        d.slot = a.slot;\n"
                   "        d.at[PFQ_AT_CONTROL] = a.sync;\n        d.at[PFQ_AT_WEIGHTS] = a.w;\n"
                   "        d.at[PFQ_AT_CACHE] = a.in[1];\n"
                   "        d.at[PFQ_AT_ROWS] = a.rows;\n        d.at[PFQ_AT_IDS] = a.in[0];\n"
                   "        d.at[PFQ_AT_LOGITS] = a.out[0];\n");
    sb_printf(
        &st->o,
        "        d.at[PFQ_AT_EMBED] = a.w + %lluu;\n        d.at[PFQ_AT_FREQ] = a.w + %lluu;\n"
        "        d.at[PFQ_AT_BASE] = a.w + %lluu;\n        d.at[PFQ_AT_PARTS] = a.sync + %lluu;\n"
        "        d.at[PFQ_AT_MIXED] = a.sync + %lluu;\n        d.at[PFQ_AT_NORMED] = a.sync + "
        "%lluu;\n        d.at[PFQ_AT_TURNED] = a.sync + %lluu;\n        d.at[PFQ_AT_BEST] = a.work "
        "+ %lluu;\n"
        "        d.at[PFQ_AT_TOKEN] = a.work + %lluu;\n",
        LL(embed), LL(freq), LL(base), LL(st->parts_at), LL(st->mixed_at), LL(st->normed_at),
        LL(st->turned_at), LL(st->best_at), LL(st->token_at));
    for (u32 i = 0; i < N_SUMS; i++)
        sb_printf(&st->o, "        d.at[PFQ_AT_SUMS + %u] = a.sync + %lluu;\n", i,
                  LL(st->sum_at[i]));
    sb_str(&st->o, "        return d;\n    }\n");
}

/* Bytes of shared memory (PfqRoom) with a ring of `slots`. */
static i64 room(const Whole *st, i64 slots, i64 base, i64 rot)
{
    const i64 rows = st->rows->rows, act = up(st->act, 128) + (rows > 1 ? 64 : 0),
              acts = up(rows * act, 128), scratch = up(st->scratch, 128),
              sums = st->rows->units * (rows > 1 ? 68 : 64) * 4,
              data = !st->rows->many  ? acts + scratch
                     : acts > scratch ? acts
                                      : scratch,
              before = slots * (SLOT + 16) + data + up(rows * sums, 128) +
                       (base > 1 ? up(base, 16) * 4 * base : 0) + 2 * 4 * (WORKERS / 32) +
                       up(4 * rows, 8) + 8 * rows;
    return up(before + 4 * rows * rot, 16) + 8 * (i64)st->table.n;
}

/* The longest ring that fits: whole groups of slots, or enough beside the copies in flight. */
static i64 ring(const Whole *st, i64 base, i64 rot)
{
    i64 slots = 24;
    while (slots > 0 && (room(st, slots, base, rot) > SHARED ||
                         (slots % 4 && (slots < FLIGHT + 4 || st->rows->rows == 1))))
        slots--;
    return slots;
}

static void add(Whole *st, i64 shared)
{
    static const CgCudaRow row = {.name = "step", .template = "step.cu", .entry = "pfq_cu_step"};
    CgMake *mk = st->mk;
    const bool one = st->rows->rows == 1;
    const CgCudaKernel k = {
        .row = &row,
        .what = "a step of decoding",
        .name = one ? "step" : arena_printf(mk->a, "step%d", (int)st->rows->rows),
        .prelude = st->o.p,
        .phase = CG_DECODE,
        .step = st->embed->step,
        .launch = {.block = WORKERS + LOADERS,
                   .grid_x = 1 << 20,
                   .per_sm = 1,
                   .shared = shared,
                   .flags = PFQ_CUDA_COOPERATIVE,
                   .work = (i64)st->work,
                   .sync = (i64)st->sync},
    };
    CgCudaCall call = {.phase = CG_DECODE, .from = st->rows->from};
    call.to = mk->cuda->step_rows < st->rows->rows ? mk->cuda->step_rows : st->rows->rows;
    call.kernel = cg_cuda_kernel(mk->cuda, mk->code, &k);
    call.c = (CgCall){.step = st->embed->step, .layer = -1};
    call.c.in[0] = (CgRef){.place = CG_TOKENS};
    call.c.in[1] = (CgRef){.place = CG_KV};
    call.c.out[0] = (CgRef){.place = CG_LOGITS};
    call.c.w = (CgRef){.place = CG_WEIGHT};
    vec_push(mk->a, &mk->code->call[one ? PFQ_CUDA_STEP : PFQ_CUDA_STEPS], call);
}

/* What many rows need (decode_pieces.cuh, decode_attend_many.cuh, decode_ffn.cuh). */
static bool many(Whole *st)
{
    const Layer *l = &st->layers.at[0];
    const CgCall *q = l->qkv, *a = l->attend;
    const i64 D = I(a, C_head_dim), kv = I(a, C_kv);
    NEED(kv == cg_kv_format("s4") || kv == cg_kv_format("s8"),
         "the KV cache has no signed integers");
    NEED(I(q, C_kv_static) && I(q, C_q8), "keys or queries have no static scales");
    NEED(D % (kv == cg_kv_format("s4") ? 64 : 32) == 0, "the head size");
    NEED(I(a, C_prefix) <= WORKERS / 32, "a prefix of more than 16 tokens");
    NEED(I(l->join, C_static) && I(l->mix, C_static), "o or down have no static scales");
    NEED(planes(l->o) == 1 && planes(l->down) == 1, "o or down read 16 bits");
    NEED(row_of(st, l->mix) == ROW_HADAMARD && inner_of(l->mix) % 64 == 0,
         "no transform of runs of 64");
    NEED(I(l->mix, C_N) / inner_of(l->mix) <= WORKERS / 4, "a transform of more than 128 runs");
    NEED(I(l->first, C_K) % 128 == 0 && I(l->o, C_K) % 128 == 0 && I(l->down, C_K) % 128 == 0,
         "columns are no multiple of 128");
    return true;
}

/* Writes PfqStep; false: it does not fit the chip. */
static bool write(Whole *st)
{
    const Layer *l = &st->layers.at[0];
    NEED(st->rows->rows == 1 || I(l->first, C_K) % 8 == 0, "the hidden size is no multiple of 8");
    if (st->rows->many && !many(st)) return false;
    const i64 rot = I(l->qkv, C_rot);
    const i64 base = row_of(st, l->mix) == ROW_HADAMARD ? I(l->mix, C_base) : 1;
    StrBuf head = {.a = st->mk->a}, body;
    st->sync = CONTROL;
    make_table(st);
    emit_ops(st);
    st->normed_at = st->rows->many
                        ? pieces(st, 1, 2 * I(l->first, C_K))
                        : reserve(st, 1, st->rows->rows * (I(l->first, C_K) / 2 + 2) * 8);
    st->best_at = st->work;
    st->token_at = st->work + 8 * 1024 * (u64)st->rows->rows;
    st->work = st->token_at + 64;
    const i64 slots = ring(st, base, rot), shared = room(st, slots, base, rot);
    NEED(slots >= 4, "shared memory");
    body = st->o;
    st->o = head;
    sb_str(&st->o, "#include \"templates/decode.cuh\"\n\n");
    emit_table(st);
    sb_printf(&st->o,
              "struct PfqStep {\n    static constexpr int32_t rows = %d, layers = %u, columns = "
              "%u, hidden = %lld, slots = %lld, "
              "flight = %d, act = %lld, units = %lld, scratch = %lld, base = %lld, rot = %lld, "
              "prefix = %lld;\n",
              (int)st->rows->rows, st->layers.n, N_COLUMNS, (long long)I(l->first, C_K),
              (long long)slots, FLIGHT, (long long)st->act, (long long)st->rows->units,
              (long long)st->scratch, (long long)base, (long long)rot,
              (long long)I(l->attend, C_prefix));
    emit_float(st, "rope_scale", l->qkv->val[C_rope_scale]);
    sb_str(&st->o, "    static constexpr bool keep = false, wait = true, trace = false;\n");
    sb_add(&st->o, body.p, body.n);
    emit_args(st);
    sb_str(&st->o, schedule);
    sb_printf(&st->o,
              "};\nstatic_assert(PfqRoom<PfqStep>::bytes == %lld, \"what the launch asks for\");\n",
              (long long)shared);
    add(st, shared);
    return true;
}

bool cg_cuda_step_fits(CgMake *mk)
{
    Whole st = {.mk = mk, .ph = &mk->p->phase[CG_DECODE]};
    if (strcmp(mk->code->arch, "sm_90a") != 0) return false;
    const bool ok = recognise(&st);
    mk->code->no_step = st.why;
    return ok;
}

static bool add_step(CgMake *mk, const struct Rows *rows, const char **why)
{
    Whole *st = NEW(mk->a, Whole);
    *st = (Whole){.mk = mk, .ph = &mk->p->phase[CG_DECODE], .o = {.a = mk->a}, .rows = rows};
    const bool ok = recognise(st) && write(st);
    *why = st->why;
    return ok;
}

bool cg_cuda_step(CgMake *mk)
{
    bool ok = add_step(mk, &all_rows[0], &mk->code->no_step);
    const char *why;
    const i32 seqs = cg_cuda_sequences(mk), most = mk->cuda->step_rows;
    for (u32 i = 1; ok && i < N_ROWS && all_rows[i].from <= (seqs < most ? seqs : most); i++)
        if (!add_step(mk, &all_rows[i], &why)) break;
    return ok;
}
