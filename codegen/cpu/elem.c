/* Element-wise kernels for what no fused step covers. X and Y are [T, c_K] f32.
 *
 *   add       out[0] = in[0] + in[1]
 *   mul       out[0] = in[0] * in[1]
 *   act       out[0] = act(in[0]), act is c_act
 *   glu       out[0] = act(in[0]) * in[1]
 *   scale     out[0] = in[0] * c_scale
 *   mul_row   out[0] = in[0] * aux[0], aux[0] [c_K] f32
 *   add_row   out[0] = in[0] + aux[0]
 *   rows      out[0][t] = in[0][in[1][t]], in[1] row numbers [T] i32, 0 .. c_rows-1 (others read
 * the nearest)
 *
 * out[0] may be an operand (not for rows). Rows are divided over threads; all are bound by memory.
 */
#include "kernel.h"

PFQ_CONST(int32_t, c_K);
PFQ_CONST(int32_t, c_act);
PFQ_CONST(int32_t, c_rows);
PFQ_CONST(float, c_scale);

enum { ADD, MUL, ACT, GLU, SCALE, MUL_ROW, ADD_ROW };

PFQ_INLINE F element(int32_t op, F x, F y)
{
    switch (op) {
    case ADD:
    case ADD_ROW: return x + y;
    case ACT: return f_act(c_act, x);
    case GLU: return f_act(c_act, x) * y;
    case SCALE: return x * f_set(c_scale);
    default: return x * y;
    }
}

PFQ_INLINE void elementwise(const PfqArgs *a, int tid, int nt, int32_t op)
{
    int64_t b, e;
    pfq_split(a->T, tid, nt, &b, &e);
    const bool by_row = op == MUL_ROW || op == ADD_ROW, unary = op == ACT || op == SCALE;
    for (int64_t t = b; t < e; t++) {
        const float *x = (const float *)a->in[0] + t * c_K;
        const float *y = by_row ? a->aux[0] : unary ? x : (const float *)a->in[1] + t * c_K;
        float *out = (float *)a->out[0] + t * c_K;
        for (int32_t k = 0; k < c_K; k += 16)
            f_store_n(out + k, element(op, f_load_n(x + k, c_K - k), f_load_n(y + k, c_K - k)),
                      c_K - k);
    }
}

void pfq_add(const PfqArgs *a, int tid, int nt)
{
    elementwise(a, tid, nt, ADD);
}
void pfq_mul(const PfqArgs *a, int tid, int nt)
{
    elementwise(a, tid, nt, MUL);
}
void pfq_act(const PfqArgs *a, int tid, int nt)
{
    elementwise(a, tid, nt, ACT);
}
void pfq_glu(const PfqArgs *a, int tid, int nt)
{
    elementwise(a, tid, nt, GLU);
}
void pfq_scale(const PfqArgs *a, int tid, int nt)
{
    elementwise(a, tid, nt, SCALE);
}
void pfq_mul_row(const PfqArgs *a, int tid, int nt)
{
    elementwise(a, tid, nt, MUL_ROW);
}
void pfq_add_row(const PfqArgs *a, int tid, int nt)
{
    elementwise(a, tid, nt, ADD_ROW);
}

void pfq_rows(const PfqArgs *a, int tid, int nt)
{
    int64_t b, e;
    pfq_split(a->T, tid, nt, &b, &e);
    for (int64_t t = b; t < e; t++) {
        int32_t r = pfq_min(pfq_max(((const int32_t *)a->in[1])[t], 0), c_rows - 1);
        const float *x = (const float *)a->in[0] + (int64_t)r * c_K;
        float *y = (float *)a->out[0] + t * c_K;
        for (int32_t k = 0; k < c_K; k += 16)
            f_store_n(y + k, f_load_n(x + k, c_K - k), c_K - k);
    }
}
