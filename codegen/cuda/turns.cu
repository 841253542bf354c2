/* RoPE's cosines and sines of each row, which the qkv epilogues of rows FAST read (c_turns).
 *
 *   out[0]  [T][c_rot / 2] pairs of f32: cosine and sine, times c_rope_scale, of the row's position
 *           + c_prefix times
 *   aux[1]  [c_rot / 2] f32: frequencies
 *
 * A warp per row, 8 of a block. Bound by its launch: 2048 rows of 64 pairs are 1 MB.
 */
#include "lanes.cuh"
#include "math.cuh"

PFQ_CONST(int32_t, c_rot);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(float, c_rope_scale);

PFQ_KERNEL(pfq_cu_turns, 256)
{
    const int32_t t = (int32_t)blockIdx.y * 8 + pfq_warp(), half = c_rot / 2;
    if (t >= a.T) return;
    const double pos = (double)(pfq_row(a, t).pos + c_prefix);
    for (int32_t i = pfq_lane(); i < half; i += 32) {
        float s, c;
        pfq_sincos((double)((const float *)a.aux[1])[i] * pos, &s, &c);
        ((float2 *)a.out[0])[(int64_t)t * half + i] = {c * c_rope_scale, s * c_rope_scale};
    }
}
