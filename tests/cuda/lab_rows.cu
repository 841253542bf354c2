/* norm, quant and hadamard on rows: the fast templates against f64 on the host, and their times.
 *
 *   lab_rows [T=2048] [reps=20] [check=8]
 *
 * LAB_HADAMARD: hadamard_rows.cu, with LAB_HALF hadamard_half.cu; else norm_rows.cu, or with
 * LAB_QUANT its quant. The rows that are checked once more, without those in front of them and most
 * behind, must have the same bits. Exit 1: a result is wrong.
 */
#include "tests/cuda/lab.cuh"
#ifdef PFQ_SIMT
#define CONSTANTS(X)                                                                               \
    X(int32_t, c_K)                                                                                \
    X(int32_t, c_N)                                                                                \
    X(int32_t, c_base)                                                                             \
    X(int32_t, c_fmt)                                                                              \
    X(int32_t, c_static)                                                                           \
    X(int32_t, c_gain)                                                                             \
    X(int32_t, c_tiles)                                                                            \
    X(int32_t, c_overlap)                                                                          \
    X(int32_t, c_half) X(int32_t, c_qlo) X(int32_t, c_qhi) X(float, c_qtop) X(float, c_clip)       \
        X(float, c_scale) X(float, c_eps) X(int32_t, c_xshift)
#define DEFINE(type, name) type name;
extern "C" {
CONSTANTS(DEFINE)
}
#endif
#ifdef LAB_HADAMARD
#ifdef LAB_HALF
#include "codegen/cuda/hadamard_half.cu"
#define KERNEL pfq_cu_hadamard_half
#else
#include "codegen/cuda/hadamard_rows.cu"
#define KERNEL pfq_cu_hadamard_rows
#endif
#define BLOCK HAD_THREADS
#else
#include "codegen/cuda/norm_rows.cu"
#define BLOCK NORM_THREADS
#ifdef LAB_QUANT
#define KERNEL pfq_cu_quant_rows
#else
#define KERNEL pfq_cu_norm_rows
#endif
#endif

/* Column k of row t of a result: floats or integers, as rows or as tiles of c_tiles rows. */
static double result_of(Buffer &out, int t, int k)
{
    const size_t row = (size_t)t, col = (size_t)k, K64 = ((size_t)c_K + 63) / 64 * 64;
    if (c_fmt && c_tiles)
        return (int8_t)out.at()[(col / 128 * (size_t)c_tiles + row) * 128 +
                                ((col / 16 ^ row) & 7) * 16 + col % 16] /
               (1 << c_xshift);
    if (c_fmt) return out.at()[row * K64 + col] - 128;
    if (!c_tiles) return (double)out.as<float>()[row * (size_t)c_K + col];
    const uint32_t bf16 = (uint32_t)out.as<uint16_t>()[(col / 64 * (size_t)c_tiles + row) * 64 +
                                                       ((col / 8 ^ row) & 7) * 8 + col % 8]
                          << 16;
    float value;
    memcpy(&value, &bf16, 4);
    return (double)value;
}

int main(int argc, char **argv)
{
    lab_argc = argc, lab_argv = argv;
#ifdef PFQ_SIMT
#define READ(type, name) name = (type)lab_arg(#name, 0);
    CONSTANTS(READ)
    if (getenv("PFQ_SHUFFLE")) simt_shuffle = true;
#endif
    const int T = (int)lab_arg("T", 2048), K = c_K, cap = c_tiles;
    const size_t n = (size_t)T * (size_t)K, K128 = ((size_t)K + 127) / 128 * 128,
                 K64 = ((size_t)K + 63) / 64 * 64;
    const bool bf16 = !c_fmt && c_tiles; /* tiles of it */
    const size_t out_bytes = bf16    ? (size_t)cap * 2 * K64
                             : c_fmt ? (c_tiles ? (size_t)cap * K128 : (size_t)T * K64)
                                     : 4 * n;
    const int copies = (int)lab_arg("copies", n * 4 > (64u << 20) ? 1 : T >= 256 ? 3 : 1);
    const size_t size = c_half ? 2 : 4; /* bytes of an element given */
    Buffer x(4 * n * (size_t)copies), given(size * n * (size_t)copies), gain(4 * (size_t)K),
        out(out_bytes * (size_t)copies), scales(4 * (size_t)T), scale(4);
    for (size_t i = 0; i < n * (size_t)copies; i++)
        x.as<float>()[i] = lab_uniform() * (i % 97 ? 1 : 8);
    for (size_t i = 0; i < n * (size_t)copies; i++)
        if (c_half) {
            given.as<uint16_t>()[i] = to_half(x.as<float>()[i]);
            x.as<float>()[i] = half_of(given.as<uint16_t>()[i]);
        } else
            given.as<float>()[i] = x.as<float>()[i];
    for (int k = 0; k < K; k++)
        gain.as<float>()[k] = 1 + 0.5f * lab_uniform();
    *scale.as<float>() = 0.07f;
    given.up(), gain.up(), scale.up();
    PfqCudaArgs a = {};
    a.in[0] = given.dev, a.out[0] = out.dev, a.out[1] = scales.dev;
    a.aux[0] = gain.dev, a.aux[1] = scale.dev, a.T = T;
    int grid = 1;
    size_t shared = 0;
#ifdef LAB_HADAMARD
    const int base = c_base, m = c_N / base, tiles = (base + 15) / 16;
    Buffer b((size_t)tiles * 16 * (size_t)base * 4);
    std::vector<float> B((size_t)(base * base));
    for (int i = 0; i < base; i++)
        for (int j = 0; j < base; j++) {
            B[(size_t)(i * base + j)] =
                lab_arg("signs", 1) > 0 ? (lab_random() & 1 ? 1.0f : -1.0f) : lab_uniform();
            b.as<float>()[(i / 16 * base + j) * 16 + i % 16] = B[(size_t)(i * base + j)];
        }
    b.up();
    a.w = b.dev;
    grid = base > 1 ? (base + 3) / 4 : 1;
#ifdef LAB_HALF
    grid = (int)lab_arg("grid", 2.0 * lab_sms());
    grid = grid < T ? grid : T;
#endif
    shared = 4 * ((size_t)K + (size_t)K / 8 + (base > 1 ? (size_t)K / (size_t)m * 8 : 0) + 4) +
             (base > 1 ? 1024 * (size_t)((base + 15) / 16) * (size_t)((base + 7) / 8) : 0);
#endif
#ifdef LAB_HALF
    const size_t rows_of_base = base > 1 ? (size_t)base : 32;
    shared = 6 * ((size_t)K + 8 * rows_of_base);
    const int lines = 1;
#else
    const int lines = T;
#endif
    lab_prepare(KERNEL, shared);
    out.fill(0xcd);
    lab_launch(KERNEL, grid, lines, BLOCK, shared, a);
    out.down(), scales.down();
    double worst = 0;
    int wrong = 0;
    const int check = (int)lab_arg("check", 8);
    for (int c = 0; c < check && c < T; c++) {
        const int t = check >= T ? c : (int)((int64_t)c * (T - 1) / (check - 1));
        const float *row = x.as<float>() + (size_t)t * (size_t)K;
        std::vector<double> y(row, row + K);
#ifdef LAB_HADAMARD
        for (int g = 0; g < K; g += c_N) {
            for (int h = 1; h < m; h *= 2)
                for (int i = g; i < g + c_N; i++)
                    if (!((i - g) % m & h)) {
                        const double u = y[i], v = y[i + h];
                        y[i] = u + v, y[i + h] = u - v;
                    }
            std::vector<double> z(y.begin() + g, y.begin() + g + c_N);
            for (int i = 0; base > 1 && i < base; i++)
                for (int q = 0; q < m; q++) {
                    double s = 0;
                    for (int j = 0; j < base; j++)
                        s += (double)B[(size_t)(i * base + j)] * z[(size_t)(j * m + q)];
                    y[(size_t)(g + i * m + q)] = s;
                }
        }
        for (double &v : y)
            v *= (double)c_scale;
#elif !defined(LAB_QUANT)
        double s = 0;
        for (int k = 0; k < K; k++)
            s += y[k] * y[k];
        for (int k = 0; k < K; k++)
            y[k] *= (c_gain ? (double)gain.as<float>()[k] : 1) / sqrt(s / K + c_eps);
#endif
        double most = 0;
        for (double v : y)
            most = fmax(most, fabs(v));
        const double unit = c_static ? (double)0.07f : most * c_clip / c_qtop;
        if (c_fmt && !c_static && fabs(scales.as<float>()[t] / unit - 1) > 1e-5) wrong++;
        for (int k = 0; k < (bf16 ? (int)K64 : c_fmt && c_tiles ? (int)K128 : K); k++) {
            const double got = result_of(out, t, k);
            double e;
            const double want = k < K ? y[k] : 0;
            if (c_fmt)
                e = fmax(0.0, fabs(got - fmin(fmax(want / unit, c_qlo), c_qhi)) - 0.5);
            else
                e = fabs(got - want) / (most + 1e-3);
            if (!(e <= worst)) worst = e;
            if (!(e < (bf16 ? 0x1p-8 : 1e-4)) && wrong++ < 5)
                printf("  row %d column %d: %g, expected %g\n", t, k, got,
                       c_fmt ? want / unit : want);
        }
    }
    Buffer again(out_bytes), again_scales(4 * (size_t)T);
    for (int c = 0; c < check && c < T; c++) {
        const int t = check >= T ? c : (int)((int64_t)c * (T - 1) / (check - 1));
        PfqCudaArgs b_ = a;
        b_.in[0] += (uint64_t)t * size * (uint64_t)K;
        b_.out[0] = again.dev, b_.out[1] = again_scales.dev;
        b_.T = T - t < 1 + c ? T - t : 1 + c;
        const bool line = lines < T; /* the grid is a line of rows, not a row of blocks each */
        lab_launch(KERNEL, line && grid > b_.T ? b_.T : grid, line ? 1 : b_.T, BLOCK, shared, b_);
        again.down(), again_scales.down();
        for (int row = 0; row < b_.T; row++) {
            const bool scaled = c_fmt && !c_static;
            bool same =
                !scaled || !memcmp(scales.as<float>() + t + row, again_scales.as<float>() + row, 4);
            for (int k = 0; k < K && same; k++) {
                const double want = result_of(out, t + row, k), got = result_of(again, row, k);
                same = !(got < want || got > want);
            }
            if (!same && wrong++ < 5)
                printf("  row %d is another among %d rows than among %d\n", t + row, b_.T, T);
        }
    }
    const double bytes = (double)T * ((c_half ? 2.0 : 4.0) * K + (c_fmt ? (double)K : 4.0 * K));
    double us = 0;
    if (lab_arg("reps", 20) > 0)
        us = lab_time((int)lab_arg("reps", 20), [&](int i) {
            PfqCudaArgs b_ = a;
            b_.in[0] = given.dev + (uint64_t)(i % copies) * size * n;
            b_.out[0] = out.dev + (uint64_t)(i % copies) * out_bytes;
            (void)b_;
            lab_enqueue(KERNEL, grid, lines, BLOCK, shared, b_);
        });
    printf("%s K %d fmt %d static %d T %d block %d shared %zu: error %.2e %s; %.2f us, %.0f GB/s\n",
           LAB_NAME, K, c_fmt, c_static, T, BLOCK, shared, worst, wrong ? "WRONG" : "ok", us,
           us > 0 ? bytes / us / 1e3 : 0);
    return wrong != 0;
}
