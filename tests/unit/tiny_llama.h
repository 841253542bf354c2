/* A small llama-type @main built by hand, with synthetic weights: for tests of passes and code
 * generation that need no checkpoint. Shapes and features are chosen by TinyLlama. */
#ifndef PFQC_TESTS_TINY_LLAMA_H
#define PFQC_TESTS_TINY_LLAMA_H

#include "ir/ir.h"

#include <math.h>

typedef struct TinyLlama {
    i64 layers, hidden, heads, kv_heads, head_dim, ffn, vocab, window;
    bool tied, bias, qk_norm;
} TinyLlama;

/* Grouped heads and a tied head; odd sizes, biases and a window; q and k norms. */
static const TinyLlama shapes[] = {
    {.layers = 2,
     .hidden = 64,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 16,
     .ffn = 96,
     .vocab = 100,
     .tied = true},
    {.layers = 1,
     .hidden = 72,
     .heads = 3,
     .kv_heads = 1,
     .head_dim = 24,
     .ffn = 100,
     .vocab = 33,
     .bias = true,
     .window = 3},
    {.layers = 2,
     .hidden = 48,
     .heads = 2,
     .kv_heads = 2,
     .head_dim = 20,
     .ffn = 40,
     .vocab = 50,
     .qk_norm = true},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

typedef struct TinyBuild {
    Builder c, b; /* constants, body */
    const TinyLlama *t;
    i64 stream;
} TinyBuild;

static ValueId tiny_const(TinyBuild *z, const char *name, u32 rank, i64 rows, i64 cols,
                          double scale)
{
    Module *m = z->c.m;
    const i64 dim[2] = {rows, cols};
    TypeId type = ir_type(m, DT_F32, rank, dim);
    z->c.layer = z->b.layer;
    if (z->b.layer >= 0) name = arena_printf(m->a, "blk.%d.%s", z->b.layer, name);
    return ir_op(&z->c, OP_SYNTHETIC, NULL, 0,
                 ATTRS({A_SEED, .i = 7}, {A_STREAM, .i = ++z->stream}, {A_SCALE, .f = scale}), type,
                 name);
}

static ValueId tiny_linear(TinyBuild *z, const char *name, ValueId x, i64 rows, i64 cols)
{
    Module *m = z->c.m;
    ValueId w = tiny_const(z, arena_printf(m->a, "%s.weight", name), 2, rows, cols,
                           1.5 / sqrt((double)cols));
    ValueId bias =
        z->t->bias ? tiny_const(z, arena_printf(m->a, "%s.bias", name), 1, rows, 0, 0.1) : 0;
    return ir_op(&z->b, OP_LINEAR, INS(x, w, bias), NULL, 0, NULL);
}

static ValueId tiny_norm(TinyBuild *z, const char *name, ValueId x, i64 n)
{
    ValueId g = tiny_const(z, name, 1, n, 0, 1.0);
    return ir_op(&z->b, OP_RMSNORM, INS(x, g), ATTRS({A_EPS, .f = 1e-5}), 0, NULL);
}

static ValueId tiny_heads(TinyBuild *z, ValueId x, i64 n)
{
    const i64 shape[3] = {DIM_T, n, z->t->head_dim};
    return ir_op(&z->b, OP_RESHAPE, INS(x), ATTRS({A_SHAPE, .n = 3, .ints = shape}), 0, NULL);
}

static ValueId tiny_attention(TinyBuild *z, ValueId x, ValueId pos, ValueId freqs)
{
    const TinyLlama *t = z->t;
    const i64 D = t->head_dim, flat[2] = {DIM_T, t->heads * D};
    ValueId q = tiny_heads(z, tiny_linear(z, "attn_q", x, t->heads * D, t->hidden), t->heads);
    ValueId k = tiny_heads(z, tiny_linear(z, "attn_k", x, t->kv_heads * D, t->hidden), t->kv_heads);
    ValueId v = tiny_heads(z, tiny_linear(z, "attn_v", x, t->kv_heads * D, t->hidden), t->kv_heads);
    if (t->qk_norm) q = tiny_norm(z, "attn_q_norm", q, D), k = tiny_norm(z, "attn_k_norm", k, D);
    q = ir_op(&z->b, OP_ROPE, INS(q, pos, freqs), NULL, 0, NULL);
    k = ir_op(&z->b, OP_ROPE, INS(k, pos, freqs), NULL, 0, NULL);
    const AttrSpec *attrs = ATTRS({A_CACHE, .i = z->b.layer}, {A_SCALE, .f = 1 / sqrt((double)D)},
                                  {A_WINDOW, .i = t->window});
    ValueId y = ir_op(&z->b, OP_ATTENTION, INS(q, k, v, pos), attrs, 0, NULL);
    return ir_op(&z->b, OP_RESHAPE, INS(y), ATTRS({A_SHAPE, .n = 2, .ints = flat}), 0, NULL);
}

static ValueId tiny_layer(TinyBuild *z, ValueId x, ValueId pos, ValueId freqs)
{
    const TinyLlama *t = z->t;
    ValueId n = tiny_norm(z, "attn_norm", x, t->hidden);
    ValueId a = tiny_attention(z, n, pos, freqs);
    x = ir_op(&z->b, OP_ADD,
              INS(x, tiny_linear(z, "attn_output", a, t->hidden, t->heads * t->head_dim)), NULL, 0,
              NULL);
    n = tiny_norm(z, "ffn_norm", x, t->hidden);
    ValueId g =
        ir_op(&z->b, OP_SILU, INS(tiny_linear(z, "ffn_gate", n, t->ffn, t->hidden)), NULL, 0, NULL);
    ValueId u = tiny_linear(z, "ffn_up", n, t->ffn, t->hidden);
    u = ir_op(&z->b, OP_MUL, INS(g, u), NULL, 0, NULL);
    return ir_op(&z->b, OP_ADD, INS(x, tiny_linear(z, "ffn_down", u, t->hidden, t->ffn)), NULL, 0,
                 NULL);
}

static inline Module *tiny_llama(Diag *d, const TinyLlama *t)
{
    Module *m = ir_module_new(d->a, "tiny", ".");
    u32 fn = ir_fn_new(m, "main");
    TinyBuild z = {
        .c = {.m = m, .d = d, .layer = -1}, .b = {.m = m, .d = d, .fn = fn, .layer = -1}, .t = t};
    const i64 T = DIM_T;
    ValueId tokens = ir_param(m, fn, "tokens", ir_type(m, DT_I32, 1, &T)),
            pos = ir_param(m, fn, "pos", ir_type(m, DT_I32, 1, &T));
    ValueId freqs =
        ir_op(&z.c, OP_ROPE_FREQS, NULL, 0, ATTRS({A_DIM, .i = t->head_dim}), 0, "rope_freqs");
    ValueId table = tiny_const(&z, "token_embd.weight", 2, t->vocab, t->hidden, 1.0);
    ValueId x = ir_op(&z.b, OP_EMBEDDING, INS(tokens, table), NULL, 0, NULL);
    for (i64 l = 0; l < t->layers; l++) {
        z.b.layer = (i32)l;
        x = tiny_layer(&z, x, pos, freqs);
    }
    z.b.layer = -1;
    x = tiny_norm(&z, "output_norm", x, t->hidden);
    ValueId y = t->tied ? ir_op(&z.b, OP_LINEAR, INS(x, table), NULL, 0, NULL) : 0;
    if (!y) {
        ValueId w =
            tiny_const(&z, "output.weight", 2, t->vocab, t->hidden, 1.0 / sqrt((double)t->hidden));
        y = ir_op(&z.b, OP_LINEAR, INS(x, w), NULL, 0, NULL);
    }
    vec_push(m->a, &m->fns.at[fn].results, y);
    ir_meta_int(m, "vocab", t->vocab);
    ir_meta_int(m, "layers", t->layers);
    return m;
}

#endif
