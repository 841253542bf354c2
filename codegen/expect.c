/* What the program's self-test compares with: logits of a few tokens, from the reference evaluator
 * in f64 (f32 where anything has 4 bits) on the very module that is compiled.
 *
 * Recorded logits are rounded to a grid much coarser than their arithmetic and much finer than the
 * tolerance, so that a libm that differs in its last bit between machines does not change the
 * output. */
#include "codegen/plan.h"

#include "ir/eval.h"

#include <math.h>

enum { N_TOKENS = 5, N_TOP = 16 };

/* The evaluator's loops are simple: beyond this many weights (about 5 s) nothing is recorded. */
static const i64 most_weights = 1000000000;

/* What f32 arithmetic may do to the logits, as a part of the largest: a quantiser's rounding may
 * fall the other way, by one step, and later layers carry that on. */
static double allowed(const Module *m, const Op *op)
{
    if (op->kind == OP_LINEAR && type_of(m, op->in[1])->dt == DT_BF16)
        return 2e-2; /* tensor cores round what they multiply with it */
    if (op->kind != OP_QUANTIZE) return 1e-4;
    const int bits = dtype_info[op_dtype(m, op)].bits;
    return bits <= 4 ? 2.5e-1 : bits <= 8 ? 5e-2 : 2e-3;
}

/* Weights of the linears of @prefill and @logits, the fewest bits of one, and the coarsest rounding
 * of activations in them. */
static i64 look(const CgPlan *p, double *tolerance, int *bits)
{
    i64 total = 0;
    *tolerance = 0;
    *bits = 64;
    for (u32 i = 0; i < CG_DECODE; i++) {
        const Fn *fn = &p->m->fns.at[p->phase[i].fn];
        for (u32 k = 0; k < fn->body.n; k++) {
            const Op *op = op_at(p->m, fn->body.at[k]);
            if (*tolerance < allowed(p->m, op)) *tolerance = allowed(p->m, op);
            if (op->kind != OP_LINEAR && op->kind != OP_QLINEAR) continue;
            const Type *w = type_of(p->m, op->in[op->kind == OP_QLINEAR ? 2 : 1]);
            if (*bits > dtype_info[w->dt].bits) *bits = dtype_info[w->dt].bits;
            const i64 n = type_elems(w);
            if (n < 0 || n > most_weights - total) return most_weights;
            total += n;
        }
    }
    return total;
}

/* Ids of the k largest, in descending order; equal ones by id. */
static void top(const double *y, i32 n, i32 k, i32 *ids)
{
    for (i32 i = 0, have = 0; i < n; i++) {
        i32 at = have;
        while (at > 0 && y[ids[at - 1]] < y[i])
            at--;
        if (at >= k) continue;
        if (have < k) have++;
        for (i32 j = have - 1; j > at; j--)
            ids[j] = ids[j - 1];
        ids[at] = i;
    }
}

bool cg_expect(Diag *d, CgPlan *p)
{
    double fraction;
    int bits;
    const i64 vocab = ir_meta_get_int(p->m, "vocab", 0);
    if (look(p, &fraction, &bits) >= most_weights || vocab < 1 || vocab > INT32_MAX) return true;
    const i32 n_top = vocab < N_TOP ? (i32)vocab : N_TOP;
    i32 *tokens = NEWN(p->a, i32, N_TOKENS), *ids = NEWN(p->a, i32, N_TOP);
    float *logits = NEWN(p->a, float, N_TOP);
    for (i64 i = 0; i < N_TOKENS; i++)
        tokens[i] = (i32)((i + 1) * 2654435761 % vocab); /* spread over the vocabulary */
    if (!eval_open(d, p->m)) return false;
    /* One rounding of one weight changes a 4-bit model beyond recognition, and f64 rounds some of
     * them otherwise than the packed weights, which f32 made. */
    const bool f64 = fraction < 0.1 && bits > 4;
    Eval *e = eval_new(d, p->m, f64);
    if (!e) return false;
    eval_set_context(e, N_TOKENS);
    Tensor y;
    bool ok = eval_model(e, tokens, N_TOKENS, 0, false, false, &y);
    if (ok) {
        double *all = NEWN(p->a, double, vocab);
        for (i64 i = 0; i < vocab; i++)
            all[i] = f64 ? y.d[i] : (double)y.f[i];
        double largest = 0;
        for (i64 i = 0; i < vocab; i++)
            if (fabs(all[i]) > largest) largest = fabs(all[i]);
        int exponent;
        (void)frexp(largest, &exponent);
        const double grid = ldexp(1, exponent - (f64 ? 20 : 12));
        for (i64 i = 0; i < vocab; i++)
            all[i] = rint(all[i] / grid) * grid;
        top(all, (i32)vocab, n_top, ids);
        for (i32 i = 0; i < n_top; i++)
            logits[i] = (float)all[ids[i]];
        p->expect = NEW(p->a, PfqExpect);
        *p->expect = (PfqExpect){N_TOKENS, tokens, n_top,
                                 ids,      logits, (float)(ldexp(1, exponent) * fraction)};
    }
    eval_free(e);
    return ok;
}
