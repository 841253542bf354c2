#include "ir/eval_int.h"

#include <math.h>

/* Frequencies are f32 by definition, whatever the evaluator's precision: they are what transformers
 * computes (modeling_rope_utils.py: default, linear, llama3), in its order of f32 operations (torch
 * divides a number by a tensor by multiplying with the reciprocal), and what kernels read. A
 * frequency off by one part in 2^24 turns position 8192 by 5e-4, so "the same formula in f64" would
 * be another model. */
static float llama3(float freq, double factor, double low, double high, double context)
{
    float wavelen = 1 / freq * (float)(2 * 3.14159265358979323846);
    if (wavelen > (float)(context / low)) return freq / (float)factor;
    if (wavelen < (float)(context / high)) return freq;
    float smooth = (1 / wavelen * (float)context - (float)low) / (float)(high - low);
    return (1 - smooth) * freq / (float)factor + smooth * freq;
}

void ev_rope_frequencies(const Module *m, const Op *op, float *out)
{
    i64 dim = op_int(op, A_DIM);
    const char *mode = op_str(m, op, A_MODE);
    float theta = (float)op_float(op, A_THETA);
    double factor = op_float(op, A_FACTOR), low = op_float(op, A_LOW), high = op_float(op, A_HIGH);
    double context = (double)op_int(op, A_CONTEXT);
    for (i64 i = 0; i < dim / 2; i++) {
        float freq = 1 / powf(theta, (float)(2 * i) / (float)dim);
        if (strcmp(mode, "linear") == 0) freq /= (float)factor;
        if (strcmp(mode, "llama3") == 0) freq = llama3(freq, factor, low, high, context);
        out[i] = freq;
    }
}
