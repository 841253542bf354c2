/* step: a whole token of decoding as one cooperative kernel (decode.cuh). In front of it stand the
 * constants and the schedule, PfqStep, that pfqc made of the plan's calls (codegen/cuda_step.c).
 *
 *   in[0] the token; in[1] the KV cache, slot 0; w the weights; out[0] logits f32
 *   work  scratch, sync the meetings' counter and the sums, zero between steps
 */
#include "decode.cuh"
#include "decode_attend_many.cuh"
#include "decode_ffn.cuh"
#include "decode_head.cuh"
#include "decode_norm.cuh"

PFQ_COOPERATIVE(pfq_cu_step, 640, 1)
{
    pfq_decode<PfqStep>(PfqStep::args(a));
}
