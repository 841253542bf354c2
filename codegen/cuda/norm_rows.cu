/* norm and quant for rows of 4-byte aligned quarters: RMSNorm of rows, as f32 or quantised to s8, a
 * read of x (f16 if c_half) and a write. Slots and constants are those of codegen/cpu/norm.c; c_fmt
 * f32 or s8; c_K a multiple of 4, at most 16 * NORM_THREADS * 4.
 *
 * A block per row (blockIdx.y; the last rows first, which the kernel before this one wrote last and
 * the L2 still has), which it keeps in registers: four columns of a thread, then
 * NORM_THREADS further. c_tiles: the result is tiles of so many rows (tiles.cuh), of s8 or, if
 * c_fmt is f32, of bf16, whose padding becomes 0. Roofline: memory; a row of 4096 is some 16 KB in
 * flight of a block, 8 blocks an SM. A single row is latency: one read, one barrier (two if the
 * scale is dynamic), one write.
 */
#include "intrin.cuh"
#include "overlap.cuh"
#include "quantise.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_gain);
PFQ_CONST(int32_t, c_static);
PFQ_CONST(int32_t, c_tiles);
PFQ_CONST(int32_t, c_half);
PFQ_CONST(float, c_eps);

#ifndef NORM_THREADS
#define NORM_THREADS 256
#endif

struct alignas(16) Quarter {
    float v[4];
};

/* v of all warps, added up or the largest; one barrier. part: which of the kernel's two. */
PFQ_DEVICE float of_block(float v, int32_t which)
{
    __shared__ float part[2][NORM_THREADS / 32];
    v = which ? pfq_warp_max(v) : pfq_warp_sum(v);
    if (pfq_lane() == 0) part[which][pfq_warp()] = v;
    __syncthreads();
    v = part[which][0];
    PFQ_UNROLL
    for (int32_t i = 1; i < NORM_THREADS / 32; i++)
        v = which ? fmaxf(v, part[which][i]) : v + part[which][i];
    return v;
}

/* Columns k .. k + 3 of row t. */
PFQ_DEVICE void put(const PfqCudaArgs &a, int32_t t, int32_t k, const float *y, float inv)
{
    if (c_fmt == PFQ_FMT_F32 && c_tiles) {
        if (k < pfq_up(c_K, 64))
            *(uint2 *)((uint8_t *)a.out[0] + pfq_tile_at(c_tiles, t, 2 * k)) =
                make_uint2(pfq_two_bf16(y[0], y[1]), pfq_two_bf16(y[2], y[3]));
        return;
    }
    if (c_fmt == PFQ_FMT_F32) {
        if (k < c_K)
            *(Quarter *)((float *)a.out[0] + (int64_t)t * c_K + k) = {{y[0], y[1], y[2], y[3]}};
        return;
    }
    const uint32_t w = pfq_quant_four(y, inv);
    uint8_t *out = (uint8_t *)a.out[0];
    if (c_tiles)
        *(uint32_t *)(out + pfq_tile_at(c_tiles, t, k)) = pfq_tiled(w);
    else if (k < c_K)
        *(uint32_t *)(out + (int64_t)t * pfq_up(c_K, 64) + k) = w ^ 0x80808080u;
}

/* Columns k .. k + 3 of what row t reads. */
PFQ_DEVICE Quarter quarter(const PfqCudaArgs &a, int32_t t, int32_t k)
{
    const int64_t at = (int64_t)t * c_K + k;
    if (!c_half) return *(const Quarter *)((const float *)a.in[0] + at);
    const uint2 h = *(const uint2 *)((const uint16_t *)a.in[0] + at);
    return {{pfq_h_to_f((uint16_t)h.x), pfq_h_to_f((uint16_t)(h.x >> 16)),
             pfq_h_to_f((uint16_t)h.y), pfq_h_to_f((uint16_t)(h.y >> 16))}};
}

/* A row of up to N quarters of each thread. */
template <int N> PFQ_DEVICE void row_of(const PfqCudaArgs &a, bool norm)
{
    const int32_t t = (int32_t)(gridDim.y - 1 - blockIdx.y);
    const float *gain = (const float *)a.aux[0];
    Quarter y[N], g[N];
    float r = 1.0f, most = 0.0f;
    PFQ_UNROLL
    for (int32_t i = 0; i < N; i++) {
        const int32_t k = 4 * ((int32_t)threadIdx.x + NORM_THREADS * i);
        g[i] = norm && c_gain && k < c_K ? *(const Quarter *)(gain + k)
                                         : Quarter{{1.0f, 1.0f, 1.0f, 1.0f}};
    }
    const float scale = c_fmt == PFQ_FMT_S8 && c_static ? *(const float *)a.aux[1] : 1.0f;
    pfq_follow();
    PFQ_UNROLL
    for (int32_t i = 0; i < N; i++) {
        const int32_t k = 4 * ((int32_t)threadIdx.x + NORM_THREADS * i);
        y[i] = k < c_K ? quarter(a, t, k) : Quarter{{0.0f, 0.0f, 0.0f, 0.0f}};
    }
    if (norm) {
        float sum = 0.0f;
        PFQ_UNROLL
        for (int32_t i = 0; i < N; i++) {
            PFQ_UNROLL
            for (int32_t j = 0; j < 4; j++)
                sum = fmaf(y[i].v[j], y[i].v[j], sum);
        }
        r = 1.0f / sqrtf(of_block(sum, 0) / (float)c_K + c_eps);
    }
    PFQ_UNROLL
    for (int32_t i = 0; i < N; i++) {
        PFQ_UNROLL
        for (int32_t j = 0; j < 4; j++) {
            if (norm) y[i].v[j] = c_gain ? y[i].v[j] * r * g[i].v[j] : y[i].v[j] * r;
            most = fmaxf(most, fabsf(y[i].v[j]));
        }
    }
    float inv = 1.0f;
    if (c_fmt == PFQ_FMT_S8)
        inv =
            c_static ? pfq_inv(scale) : pfq_quant_dynamic(of_block(most, 1), (float *)a.out[1] + t);
    PFQ_UNROLL
    for (int32_t i = 0; i < N; i++) {
        const int32_t k = 4 * ((int32_t)threadIdx.x + NORM_THREADS * i);
        if (k < pfq_up(c_K, 128)) put(a, t, k, y[i].v, inv);
    }
}

PFQ_DEVICE void rows_of(const PfqCudaArgs &a, bool norm)
{
    pfq_begin();
    const int32_t n = (pfq_up(c_K, 128) / 4 + NORM_THREADS - 1) / NORM_THREADS;
    if (n <= 1)
        row_of<1>(a, norm);
    else if (n <= 2)
        row_of<2>(a, norm);
    else if (n <= 4)
        row_of<4>(a, norm);
    else if (n <= 8)
        row_of<8>(a, norm);
    else
        row_of<16>(a, norm);
}

PFQ_KERNEL(pfq_cu_norm_rows, NORM_THREADS)
{
    rows_of(a, true);
}

PFQ_KERNEL(pfq_cu_quant_rows, NORM_THREADS)
{
    rows_of(a, false);
}
