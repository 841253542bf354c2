#include "ir/pack.h"

#include "ir/base/half.h"

static const PackLayout layouts[] = {
    {"f32", DT_F32, 1, 0, 1, 0, PACK_ROWS * 4, 0},
    {"bf16", DT_BF16, 1, 0, 2, 0, PACK_ROWS * 4, 0},
    {"s8", DT_S8, 2, 0, 4, PACK_ROWS * 8, PACK_ROWS * 4, INT32_MAX / (255 * 128)},
    {"s4", DT_S4, 2, 0, 8, PACK_ROWS * 8, PACK_ROWS * 4, INT32_MAX / (255 * 128)},
    {"u4g32", DT_U4, 3, 32, 32, 0, PACK_ROWS * 4 + PACK_ROWS * 16, 0},
};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts };

const PackLayout *pack_layout(const char *name)
{
    for (size_t i = 0; i < N_LAYOUTS; i++)
        if (strcmp(layouts[i].name, name) == 0) return &layouts[i];
    return NULL;
}

const char *pack_layout_names(void)
{
    return "f32, bf16, s8, s4, u4g32";
}

i64 pack_tiles(i64 rows, i64 interleave)
{
    return (rows / interleave + PACK_ROWS - 1) / PACK_ROWS * interleave;
}

i64 pack_tile_bytes(const PackLayout *l, i64 cols)
{
    i64 units = cols / l->kpad + (cols % l->kpad != 0), n;
    return __builtin_mul_overflow(units, l->unit_bytes, &n) ||
                   __builtin_add_overflow(n, l->head_bytes, &n)
               ? -1
               : n;
}

i64 pack_bytes(const PackLayout *l, i64 rows, i64 cols, i64 interleave)
{
    i64 tile = pack_tile_bytes(l, cols), n;
    return tile < 0 || __builtin_mul_overflow(pack_tiles(rows, interleave), tile, &n) ? -1 : n;
}

static u8 *put(u8 *p, const void *v, size_t n)
{
    memcpy(p, v, n);
    return p + n;
}

static void pack_f32(i64 cols, const float *w, u8 *out)
{
    for (i64 k = 0; k < cols; k++)
        for (i64 r = 0; r < PACK_ROWS; r++)
            out = put(out, &w[r * cols + k], 4);
}

/* Pairs of k: what one word holds is a product of two for instructions that have it. */
static void pack_bf16(i64 cols, const float *w, u8 *out)
{
    for (i64 k0 = 0; k0 < cols; k0 += 2)
        for (i64 r = 0; r < PACK_ROWS; r++)
            for (i64 k = k0; k < k0 + 2; k++) {
                u16 h = k < cols ? f32_to_bf16(w[r * cols + k]) : 0;
                out = put(out, &h, 2);
            }
}

/* 16 scales and 16 times 128 * sum(w), which corrects for activations stored as x + 128. */
static u8 *pack_head(i64 cols, const i32 *q, const float *s, u8 *out)
{
    out = put(out, s, PACK_ROWS * 4);
    for (i64 r = 0; r < PACK_ROWS; r++) {
        i32 sum = 0;
        for (i64 k = 0; k < cols; k++)
            sum += q[r * cols + k];
        sum *= 128;
        out = put(out, &sum, 4);
    }
    return out;
}

static void pack_s8(i64 cols, const i32 *q, const float *s, u8 *out)
{
    out = pack_head(cols, q, s, out);
    for (i64 k = 0; k < cols; k += 4)
        for (i64 r = 0; r < PACK_ROWS; r++)
            for (i64 i = k; i < k + 4; i++)
                *out++ = (u8)(i < cols ? q[r * cols + i] : 0);
}

static u8 nibble(const i32 *q, i64 cols, i64 r, i64 k)
{
    return k < cols ? (u8)(q[r * cols + k] & 15) : 0;
}

/* Eight k from k0 on: byte (r, i) holds k0 + i in its low and k0 + 4 + i in its high nibble. */
static u8 *pack_nibbles(i64 cols, const i32 *q, i64 k0, u8 *out)
{
    for (i64 r = 0; r < PACK_ROWS; r++)
        for (i64 k = k0; k < k0 + 4; k++)
            *out++ = (u8)(nibble(q, cols, r, k) | nibble(q, cols, r, k + 4) << 4);
    return out;
}

static void pack_s4(i64 cols, const i32 *q, const float *s, u8 *out)
{
    out = pack_head(cols, q, s, out);
    for (i64 k = 0; k < cols; k += 8)
        out = pack_nibbles(cols, q, k, out);
}

static void pack_u4g32(i64 cols, const i32 *q, const float *s, const float *m, u8 *out)
{
    i64 groups = (cols + 31) / 32;
    for (i64 g = 0; g < groups; g++) {
        for (int part = 0; part < 2; part++)
            for (i64 r = 0; r < PACK_ROWS; r++) {
                u16 h = f32_to_f16((part ? m : s)[r * groups + g]);
                out = put(out, &h, 2);
            }
        for (i64 k = g * 32; k < g * 32 + 32; k += 8)
            out = pack_nibbles(cols, q, k, out);
    }
}

void pack_tile(const PackLayout *l, i64 cols, const i32 *q, const float *w, const float *s,
               const float *m, u8 *out)
{
    switch (l->dtype) {
    case DT_F32: pack_f32(cols, w, out); break;
    case DT_BF16: pack_bf16(cols, w, out); break;
    case DT_S8: pack_s8(cols, q, s, out); break;
    case DT_S4: pack_s4(cols, q, s, out); break;
    default: pack_u4g32(cols, q, s, m, out); break;
    }
}
