/* Attention on its own: the fast templates against f64 on the host, and their times.
 *
 *   lab_attend [T=1] [pos=1023] [ragged=0] [ctx=..] [slots=..] [grid=..] [reps=20] [check=8]
 * [alone=0]
 *
 * LAB_SPLIT: attend_split.cu, each row a sequence; LAB_HALF: attend_half.cu, else attend_wgmma.cu,
 * rows of one sequence. check: rows of the result that are compared, spread over all of them.
 * ragged: positions differ, up to pos. alone: PfqCudaArgs.alone, and these rows once more, without
 * the rows in front of them and most behind, must have the same bits. Exit 1: a result is wrong.
 */
#include "tests/cuda/lab.cuh"
#ifdef PFQ_SIMT
#define CONSTANTS(X)                                                                               \
    X(int32_t, c_heads)                                                                            \
    X(int32_t, c_kv_heads)                                                                         \
    X(int32_t, c_head_dim)                                                                         \
    X(int32_t, c_window)                                                                           \
    X(int32_t, c_fmt)                                                                              \
    X(int32_t, c_q8) X(int32_t, c_prefix) X(int32_t, c_tiles) X(int32_t, c_kv)                     \
        X(int32_t, c_kv_static) X(int32_t, c_kv_lo) X(float, c_kv_top) X(float, c_kv_clip)         \
            X(int32_t, c_qlo) X(int32_t, c_qhi) X(float, c_qtop) X(float, c_clip)                  \
                X(float, c_scale) X(int32_t, c_each) X(int32_t, c_overlap) X(int32_t, c_parts)     \
                    X(int32_t, c_xshift)
#define DEFINE(type, name) type name;
extern "C" {
CONSTANTS(DEFINE)
}
#endif
#ifdef LAB_SPLIT
#include "codegen/cuda/attend_split.cu"
#define KERNEL pfq_cu_attend_split
#define BLOCK  128
#elif defined LAB_HALF
#include "codegen/cuda/attend_half.cu"
#define KERNEL pfq_cu_attend_half
#define BLOCK  HALF_THREADS
#else
#include "codegen/cuda/attend_wgmma.cu"
#define KERNEL pfq_cu_attend_wgmma
#define BLOCK  WG_THREADS
#endif

static bool is_ints, is_nibbles, is_unsigned, dynamic;
static int row_bytes;

struct Cache {
    Buffer rows, scales, minima, fixed;
    Cache(int slots, int G, int64_t ctx, size_t slot_bytes)
        : rows(slot_bytes * (size_t)slots), scales(slot_bytes * (size_t)slots),
          minima(slot_bytes * (size_t)slots), fixed((size_t)G * 4)
    {
        (void)ctx;
    }
};

static double value_of(Cache &c, size_t slot, int g, int64_t ctx, int64_t j, int d)
{
    const uint8_t *row = c.rows.at() + slot + (size_t)(g * ctx + j) * (size_t)row_bytes;
    if (!is_ints) return half_of(((const uint16_t *)row)[d]);
    int q = is_nibbles ? row[d / 2] >> (d & 1) * 4 & 15 : row[d];
    if (!is_unsigned) q = is_nibbles ? (q ^ 8) - 8 : (int8_t)q;
    if (!dynamic) return q * (double)c.fixed.as<float>()[g];
    const size_t at = slot / 2 + (size_t)(g * ctx + j);
    return q * (double)half_of(c.scales.as<uint16_t>()[at]) +
           (is_unsigned ? half_of(c.minima.as<uint16_t>()[at]) : 0.0);
}

static void random_cache(Cache &c, int slots, int G, int64_t ctx, size_t slot_bytes)
{
    for (size_t i = 0; i < c.rows.host.size() / 8 - 256; i++)
        c.rows.as<uint64_t>()[i] = (uint64_t)lab_random() << 32 | lab_random();
    if (!is_ints)
        for (size_t i = 0; i < c.rows.host.size() / 2 - 1024; i++)
            c.rows.as<uint16_t>()[i] = to_half(lab_uniform());
    if (dynamic)
        for (int s = 0; s < slots; s++)
            for (int64_t j = 0; j < G * ctx; j++) {
                const float top = is_nibbles ? 16 : 256;
                c.scales.as<uint16_t>()[(size_t)s * slot_bytes / 2 + (size_t)j] =
                    to_half((1 + 0.5f * lab_uniform()) / top);
                c.minima.as<uint16_t>()[(size_t)s * slot_bytes / 2 + (size_t)j] =
                    to_half(lab_uniform() - 1);
            }
    for (int g = 0; g < G; g++)
        c.fixed.as<float>()[g] = (1 + 0.5f * lab_uniform()) / (is_nibbles ? 8 : 128);
    c.rows.up(), c.scales.up(), c.minima.up(), c.fixed.up();
}

/* Column `col` of row t of a result of n columns. */
static double result_of(Buffer &out, int t, int col, size_t n)
{
    if (!c_fmt && !c_tiles) return out.as<float>()[(size_t)t * n + (size_t)col];
    if (!c_fmt) { /* tiles of bf16 */
        const size_t row = (size_t)(col / 64) * (size_t)c_tiles + (size_t)t,
                     at = row * 64 + (size_t)((col / 8 ^ t) & 7) * 8 + (size_t)(col % 8);
        const uint32_t x = (uint32_t)out.as<uint16_t>()[at] << 16;
        float y;
        memcpy(&y, &x, 4);
        return (double)y;
    }
    if (!c_tiles) return out.at()[(size_t)t * ((n + 63) / 64 * 64) + (size_t)col] - 128;
    const int8_t x = (int8_t)out.at()[((size_t)(col / 128) * (size_t)c_tiles + (size_t)t) * 128 +
                                      (size_t)((col / 16 ^ t) & 7) * 16 + (size_t)(col % 16)];
    return x / (1 << c_xshift);
}

int main(int argc, char **argv)
{
    lab_argc = argc, lab_argv = argv;
#ifdef PFQ_SIMT
#define READ(type, name) name = (type)lab_arg(#name, 0);
    CONSTANTS(READ)
    if (getenv("PFQ_SHUFFLE")) simt_shuffle = true;
#endif
    const int H = c_heads, G = c_kv_heads, D = c_head_dim, T = (int)lab_arg("T", 1);
    const int pos = (int)lab_arg("pos", 1023), ragged = (int)lab_arg("ragged", 0);
#ifdef LAB_SPLIT
    const int each = 1;
#else
    const int each = 0;
#endif
    const int last = each ? pos : pos + T - 1;
    const int64_t ctx = (int64_t)lab_arg("ctx", (last + 64) / 64 * 64);
    is_ints = c_kv >= 2, is_nibbles = c_kv == 3 || c_kv == 5, is_unsigned = c_kv >= 4;
    dynamic = is_ints && !c_kv_static;
    row_bytes = is_nibbles ? D / 2 : is_ints ? D : 2 * D;
    const size_t slot_bytes = (size_t)(G * ctx) * (size_t)row_bytes;
    int slots = (int)lab_arg("slots", each ? T : 1);
    if (slots < (each ? T : 1)) slots = T;
    Cache k(slots, G, ctx, slot_bytes), v(slots, G, ctx, slot_bytes);
    random_cache(k, slots, G, ctx, slot_bytes);
    random_cache(v, slots, G, ctx, slot_bytes);

    const size_t n = (size_t)(H * D), q_row = c_q8 ? (n + 63) / 64 * 64 : 4 * n;
    Buffer q((size_t)T * q_row), q_scales((size_t)H * 4), out_scale(4),
        prefix_k((size_t)(c_prefix * G * D) * 2 + 16),
        prefix_v((size_t)(c_prefix * G * D) * 2 + 16), rows((size_t)slots * 2 * (size_t)T * 8);
    for (size_t i = 0; i < (size_t)T * q_row / (c_q8 ? 1 : 4); i++)
        if (c_q8)
            q.at()[i] = (uint8_t)lab_random();
        else
            q.as<float>()[i] = 2 * lab_uniform();
    for (int h = 0; h < H; h++)
        q_scales.as<float>()[h] = (1 + 0.5f * lab_uniform()) / 64;
    *out_scale.as<float>() = 0.01f;
    for (int i = 0; i < c_prefix * G * D; i++) {
        prefix_k.as<uint16_t>()[i] = to_half(lab_uniform());
        prefix_v.as<uint16_t>()[i] = to_half(lab_uniform());
    }
    /* Sets of rows, for cold caches: set i begins at slot i. */
    const int sets = each ? slots : 1;
    std::vector<int> at(T);
    size_t keys = 0;
    for (int t = 0; t < T; t++) {
        at[t] = each ? (ragged ? (int)(lab_random() % (unsigned)(pos + 1)) : pos) : pos + t;
        const int first = c_window && at[t] >= c_window ? at[t] - c_window + 1 : 0;
        keys += (size_t)(at[t] - first + 1);
        for (int s = 0; s < sets; s++) {
            int32_t *r = rows.as<int32_t>() + 2 * (s * T + t);
            r[0] = at[t], r[1] = each ? (t + s) % slots : 0;
        }
    }
    q.up(), q_scales.up(), out_scale.up(), prefix_k.up(), prefix_v.up(), rows.up();

    const size_t K128 = (n + 127) / 128 * 128;
    const bool bf16 = !c_fmt && c_tiles; /* tiles of it */
    Buffer out(bf16    ? (size_t)c_tiles * 2 * n
               : c_fmt ? (c_tiles ? (size_t)c_tiles * K128 : (size_t)T * ((n + 63) / 64 * 64))
                       : (size_t)T * n * 4);
    out.fill(0xcd);
    PfqCudaArgs a = {};
    a.in[0] = q.dev, a.in[1] = k.rows.dev, a.in[2] = v.rows.dev;
    if (dynamic)
        a.in[3] = k.scales.dev, a.in[4] = k.minima.dev, a.in[5] = v.scales.dev,
        a.in[6] = v.minima.dev;
    a.aux[0] = prefix_k.dev, a.aux[1] = prefix_v.dev, a.aux[2] = k.fixed.dev,
    a.aux[3] = v.fixed.dev;
    a.aux[4] = q_scales.dev, a.aux[5] = out_scale.dev;
    a.out[0] = out.dev;
    a.rows = rows.dev, a.slot = slot_bytes, a.T = T, a.ctx = (int32_t)ctx;
    a.alone = (int32_t)lab_arg("alone", 0);
#ifdef LAB_SPLIT
    const int wide = H / G > 4 ? 8 : 4, passes_ = (H / G + wide - 1) / wide;
    const int per_sm = (int)lab_arg("per_sm", 3);
    const int grid = (int)lab_arg("grid", per_sm * lab_sms()), grid_y = 1, grid_rows = T;
    const size_t stage = 64 * (size_t)row_bytes + (dynamic ? 256 : 0);
    const size_t shared = 4 * DEC_STAGES * stage + 4 * (size_t)wide * 128 +
                          5 * 4 * (size_t)(wide * D + 3 * wide) + 16 + 4 * (size_t)T;
    const int states = T * G * passes_ * c_parts > 2 * grid ? T * G * passes_ * c_parts : 2 * grid;
    Buffer work((size_t)states * (size_t)(wide * D + 2 * wide) * 4),
        sync((size_t)(T * G * passes_) * 4);
    sync.fill(0);
    a.work = work.dev, a.sync = sync.dev;
#elif defined LAB_HALF
    const int grid_rows = HALF_ROWS / (H / G), grid = G, grid_y = (T + grid_rows - 1) / grid_rows;
    const size_t shared = 1024 + HALF_STAGES * HALF_KEYS * 4 * (size_t)D + HALF_THREADS * (size_t)D;
#else
    const int grid_rows = WG_ROWS / (H / G), grid = G, grid_y = (T + grid_rows - 1) / grid_rows;
    const size_t shared = 1040 + 3 * (64 * 128 + (size_t)(D + 8) * 128 + (dynamic ? 1024 : 0)) +
                          (size_t)(c_q8 ? 1 : 2) * (size_t)(D / 2) * WG_THREADS +
                          2 * (128 * (size_t)row_bytes + 128 + (dynamic ? 512 : 0));
#endif
    lab_prepare(KERNEL, shared);
#ifdef PFQ_SIMT
    const int launches = 2;
#else
    const int launches = 1;
#endif
    double worst = 0, sum_error = 0, sum_want = 0;
    int wrong = 0;
    for (int l = 0; l < launches; l++) {
        out.fill(0xcd);
        lab_launch(KERNEL, grid, grid_y, BLOCK, shared, a);
        out.down();
        const int check = (int)lab_arg("check", 8);
        for (int c = 0; c < check && c < T; c++) {
            const int t = check >= T ? c : (int)((int64_t)c * (T - 1) / (check - 1));
            const size_t slot = each ? (size_t)(t % slots) * slot_bytes : 0;
            for (int h = 0; h < H; h += check > 8 && H > 8 ? 5 : 1) {
                const int g = h / (H / G), p = at[t],
                          first = c_window && p >= c_window ? p - c_window + 1 : 0;
                const int keys_ = c_prefix + p - first + 1;
                std::vector<double> s(keys_), o(D);
                double top = -1e300, sum = 0, largest = 0;
                for (int j = 0; j < keys_; j++) {
                    double dot = 0;
                    for (int d = 0; d < D; d++) {
                        const double x =
                            c_q8 ? ((int)q.at()[(size_t)t * q_row + (size_t)(h * D + d)] - 128) *
                                       (double)q_scales.as<float>()[h]
                                 : q.as<float>()[(size_t)t * n + (size_t)(h * D + d)];
                        dot += x * (j < c_prefix
                                        ? half_of(prefix_k.as<uint16_t>()[(j * G + g) * D + d])
                                        : value_of(k, slot, g, ctx, first + j - c_prefix, d));
                    }
                    s[j] = dot * c_scale;
                    top = fmax(top, s[j]);
                }
                for (int j = 0; j < keys_; j++) {
                    const double e = exp(s[j] - top);
                    sum += e;
                    for (int d = 0; d < D; d++)
                        o[d] += e * (j < c_prefix
                                         ? half_of(prefix_v.as<uint16_t>()[(j * G + g) * D + d])
                                         : value_of(v, slot, g, ctx, first + j - c_prefix, d));
                }
                for (int d = 0; d < D; d++)
                    largest = fmax(largest, fabs(o[d] /= sum));
                for (int d = 0; d < D; d++) {
                    const int col = h * D + d;
                    const double got = result_of(out, t, col, n);
                    double e;
                    if (c_fmt) {
                        const double x = fmin(fmax(o[d] / 0.01f, c_qlo), c_qhi);
                        e = fmax(0.0, fabs(got - x) - 0.5);
                    } else
                        e = fabs(got - o[d]) / (largest + 1e-3);
                    sum_error += e * e, sum_want += 1;
                    if (!(e <= worst)) worst = e;
                    if (!(e < (bf16 ? fmax(LAB_TOLERANCE, 6e-3) : LAB_TOLERANCE)) && wrong++ < 5)
                        printf("  row %d head %d column %d: %g, expected %g\n", t, h, d, got,
                               c_fmt ? o[d] / 0.01f : o[d]);
                }
            }
        }
    }
    Buffer again(out.host.size());
    const int check = a.alone ? (int)lab_arg("check", 8) : 0;
    for (int c = 0; c < check && c < T; c++) {
        const int t = check >= T ? c : (int)((int64_t)c * (T - 1) / (check - 1));
        PfqCudaArgs b = a;
        b.in[0] += (uint64_t)t * q_row, b.rows += 8 * (uint64_t)t, b.out[0] = again.dev;
        b.T = T - t < 1 + c ? T - t : 1 + c;
        lab_launch(KERNEL, grid, each ? 1 : (b.T + grid_rows - 1) / grid_rows, BLOCK, shared, b);
        again.down();
        for (int i = 0; i < b.T * H * D; i++) {
            const int row = i / (H * D), col = i % (H * D);
            const double want = result_of(out, t + row, col, n),
                         got = result_of(again, row, col, n);
            if ((got < want || got > want) && wrong++ < 5)
                printf("  row %d column %d: %g among %d rows, %g among %d\n", t + row, col, want, T,
                       got, b.T);
        }
    }
    const double bytes = (double)keys * G * 2 * (row_bytes + (dynamic ? (is_unsigned ? 4 : 2) : 0));
    const double flops = 4.0 * (double)keys * H * D;
    double us = 0;
    if (lab_arg("reps", 20) > 0)
        us = lab_time((int)lab_arg("reps", 20), [&](int i) {
            PfqCudaArgs b = a;
            b.rows = rows.dev + (uint64_t)(i * T % sets) * (uint64_t)T * 8;
            (void)b;
            lab_enqueue(KERNEL, grid, grid_y, BLOCK, shared, b);
        });
    printf("%s kv %d static %d q8 %d fmt %d heads %d/%d x %d T %d pos %d window %d prefix %d grid "
           "%d shared %zu: error %.2e (worst) "
           "%.2e (rms) %s; %.2f us, KV %.2f MB %.0f GB/s, %.1f TOPS\n",
           LAB_NAME, c_kv, c_kv_static, c_q8, c_fmt, H, G, D, T, pos, c_window, c_prefix, grid,
           shared, worst, sqrt(sum_error / sum_want), wrong ? "WRONG" : "ok", us, bytes / 1e6,
           us > 0 ? bytes / us / 1e3 : 0, us > 0 ? flops / us / 1e6 : 0);
    return wrong != 0;
}
