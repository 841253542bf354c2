/* Every op of ops.def against hand-computed or independently computed values, in f32 and f64. The table at the end has
 * one row per op; the last test fails when an op has none. */
#include "tests/unit/eval_util.h"

/* ---- leaves ---- */

static void op_tensor(Run *r)
{
    load(r, "file 0 \"tests/data/eval/leaf.bin\" {bytes = 44}\n"
            "@w = tensor {enc = \"f32\", file = 0, offset = 0} : f32[2,3]\n"
            "@h = tensor {enc = \"bf16\", file = 0, offset = 24} : bf16[4]\n"
            "@r = tensor {enc = \"f32\", file = 0, offset = 0} : f16[2,3]\n"
            "@i = tensor {enc = \"i32\", file = 0, offset = 32} : s8[1,3]\n");
    must(r, eval_open(&r->d, r->m));
    Tensor w = constant(r, "w"), h = constant(r, "h"), f = constant(r, "r"), i = constant(r, "i"), part;
    expect(r, &w, 6, VALS(1, -2, 0.5, 1024.5, 3, -4), 0);
    expect(r, &h, 4, VALS(1, -1, 2, 0.5), 0);
    expect(r, &f, 6, VALS(1, -2, 0.5, 1024, 3, -4), 0);
    expect(r, &i, 3, VALS(5, -6, 127), 0); /* 1000 does not fit s8 */
    must(r, eval_const(r->e, *map_get(&r->m->const_map, STR("w")), 1, 1, 1, 2, &part));
    expect(r, &part, 2, VALS(3, -4), 0);
}

static void op_synthetic(Run *r)
{
    load(r, "@s = synthetic {scale = 0.5, seed = 7, stream = 3} : f32[4,5]\n");
    Tensor s = constant(r, "s");
    for (i64 i = 0; i < 20; i++) expect_near(get(r, &s, i), 0.5 * (double)synthetic_value(7, 3, (u64)i), 0, "s", i);
}

static void op_literal(Run *r)
{
    load(r, "@l = literal {values = [1, 2.5, -3, 4]} : f32[2,2]\n@i = literal {values = [7, -8]} : s4[2]\n");
    Tensor l = constant(r, "l"), i = constant(r, "i");
    expect(r, &l, 4, VALS(1, 2.5, -3, 4), 0);
    expect(r, &i, 2, VALS(7, -8), 0);
}

static void op_state(Run *r)
{
    /* A state has no value of its own; what was stored comes back, rounded to its type. */
    load(r, "@h = state : f16[T,2]\nfunc @f(%x: f32[T,2], %i: i32[R]) {\n  store %x, @h\n  %y = rows @h, %i : f16[R,2]\n  return %y\n}\n");
    Tensor x = filled(r, DT_F32, DIMS(3, 2), VALS(1, 2, 3, 2049, 5, 6)), i = filled(r, DT_I32, DIMS(2), VALS(2, 1));
    Tensor y = call(r, ARGS(x, i)), none;
    expect(r, &y, 4, VALS(5, 6, 3, 2048), 0);
    Tensor far = filled(r, DT_I32, DIMS(1), VALS(3)); /* rows of an earlier, longer store are gone */
    assert_true(call_fails(r, ARGS(x, far)));
    assert_false(eval_const(r->e, *map_get(&r->m->const_map, STR("h")), 0, 1, 0, 1, &none));
    r->d.msgs.n = 0;
}

static void op_rope_freqs(Run *r)
{
    load(r, "@f = rope_freqs {dim = 8} : f32[4]\n@g = rope_freqs {dim = 4, factor = 4, mode = \"linear\", theta = 100} : f32[2]\n");
    Tensor f = constant(r, "f"), g = constant(r, "g");
    expect(r, &f, 4, VALS((float)1, (double)0.1f, (double)0.01f, (double)0.001f), r->f64 ? 1 : 1e-8); /* an ulp of f32 */
    expect(r, &g, 2, VALS(0.25, (double)(0.1f / 4)), r->f64 ? 2 : 1e-8);
}

/* ---- elements and moves ---- */

static void op_cast(Run *r)
{
    load(r, "@x = literal {values = [1.0009765625, 2049, 65519, 65520, 1e-8, -6.103515625e-05, 0.1]} : f32[7]\n"
            "@h = cast @x {dtype = \"f16\"} : f16[7]\n@b = cast @x {dtype = \"bf16\"} : bf16[7]\n");
    Tensor h = constant(r, "h"), b = constant(r, "b");
    expect(r, &h, 7, VALS(1.0009765625, 2048, 65504, INFINITY, 0, -0x1p-14, 0.0999755859375), 0);
    expect(r, &b, 7, VALS(1, 2048, 65536, 65536, 0x1.58p-27, -0x1p-14, 0.10009765625), 0);
}

static void op_copy(Run *r)
{
    load(r, "@x = literal {values = [1, 2, 3]} : f32[3]\n@y = copy @x : f32[3]\n"
            "func @f(%a: f32[2]) {\n  %b = copy %a : f32[2]\n  return %b\n}\n");
    Tensor y = constant(r, "y"), b = call(r, ARGS(filled(r, DT_F32, DIMS(2), VALS(4, 5))));
    expect(r, &y, 3, VALS(1, 2, 3), 0);
    expect(r, &b, 2, VALS(4, 5), 0);
}

#define COUNT6 "@x = literal {values = [1, 2, 3, 4, 5, 6]} : f32[2,3]\n"

static void op_reshape(Run *r)
{
    load(r, COUNT6 "@y = reshape @x {shape = [3, 2]} : f32[3,2]\n"
                   "func @f(%a: f32[T,6]) {\n  %b = reshape %a {shape = [-1, 3, 2]} : f32[T,3,2]\n  return %b\n}\n");
    Tensor y = constant(r, "y"), part;
    expect(r, &y, 6, VALS(1, 2, 3, 4, 5, 6), 0);
    must(r, eval_const(r->e, *map_get(&r->m->const_map, STR("y")), 1, 2, 1, 1, &part));
    expect(r, &part, 2, VALS(4, 6), 0);
    Tensor b = call(r, ARGS(filled(r, DT_F32, DIMS(1, 6), VALS(1, 2, 3, 4, 5, 6))));
    assert_int_equal(b.rank, 3);
    expect(r, &b, 6, VALS(1, 2, 3, 4, 5, 6), 0);
}

static void op_transpose(Run *r)
{
    load(r, COUNT6 "@y = transpose @x : f32[3,2]\nfunc @f(%a: f32[2,2]) {\n  %b = transpose %a : f32[2,2]\n  return %b\n}\n");
    Tensor y = constant(r, "y"), b = call(r, ARGS(filled(r, DT_F32, DIMS(2, 2), VALS(1, 2, 3, 4))));
    expect(r, &y, 6, VALS(1, 4, 2, 5, 3, 6), 0);
    expect(r, &b, 4, VALS(1, 3, 2, 4), 0);
}

static void op_slice(Run *r)
{
    load(r, COUNT6 "@r = slice @x {axis = 0, begin = 1, end = 2} : f32[1,3]\n@c = slice @x {axis = 1, begin = 1, end = 3} : f32[2,2]\n"
                   "func @f(%a: f32[T,2,2]) {\n  %b = slice %a {axis = 1, begin = 1, end = 2} : f32[T,1,2]\n  return %b\n}\n");
    Tensor a = constant(r, "r"), c = constant(r, "c");
    expect(r, &a, 3, VALS(4, 5, 6), 0);
    expect(r, &c, 4, VALS(2, 3, 5, 6), 0);
    Tensor b = call(r, ARGS(filled(r, DT_F32, DIMS(2, 2, 2), VALS(1, 2, 3, 4, 5, 6, 7, 8))));
    expect(r, &b, 4, VALS(3, 4, 7, 8), 0);
}

static void op_concat(Run *r)
{
    load(r, COUNT6 "@z = literal {values = [7, 8, 9]} : f32[1,3]\n@r = concat @x, @z {axis = 0} : f32[3,3]\n"
                   "@c = concat @x, @x {axis = 1} : f32[2,6]\n"
                   "func @f(%a: f32[T,1,2], %b: f32[T,2,2]) {\n  %c = concat %a, %b {axis = 1} : f32[T,3,2]\n  return %c\n}\n");
    Tensor a = constant(r, "r"), c = constant(r, "c");
    expect(r, &a, 9, VALS(1, 2, 3, 4, 5, 6, 7, 8, 9), 0);
    expect(r, &c, 12, VALS(1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6), 0);
    Tensor f = call(r, ARGS(filled(r, DT_F32, DIMS(2, 1, 2), VALS(1, 2, 3, 4)), filled(r, DT_F32, DIMS(2, 2, 2), VALS(5, 6, 7, 8, 9, 10, 11, 12))));
    expect(r, &f, 12, VALS(1, 2, 5, 6, 7, 8, 3, 4, 9, 10, 11, 12), 0);
}

static void op_rope_unpermute(Run *r)
{
    load(r, "@w = literal {values = [0, 10, 20, 30, 40, 50, 60, 70]} : f32[8,1]\n@b = literal {values = [0, 10, 20, 30]} : f32[4]\n"
            "@y = rope_unpermute @w {heads = 2} : f32[8,1]\n@c = rope_unpermute @b {heads = 1} : f32[4]\n");
    Tensor y = constant(r, "y"), c = constant(r, "c");
    expect(r, &y, 8, VALS(0, 20, 10, 30, 40, 60, 50, 70), 0);
    expect(r, &c, 4, VALS(0, 20, 10, 30), 0);
}

static void op_rows(Run *r)
{
    load(r, "func @f(%x: f32[T,2], %i: i32[R]) {\n  %y = rows %x, %i : f32[R,2]\n  return %y\n}\n");
    Tensor x = filled(r, DT_F32, DIMS(2, 2), VALS(1, 2, 3, 4));
    Tensor y = call(r, ARGS(x, filled(r, DT_I32, DIMS(3), VALS(1, 0, 1))));
    expect(r, &y, 6, VALS(3, 4, 1, 2, 3, 4), 0);
    assert_true(call_fails(r, ARGS(x, filled(r, DT_I32, DIMS(1), VALS(2)))));
    assert_true(call_fails(r, ARGS(x, filled(r, DT_I32, DIMS(1), VALS(-1)))));
}

static void op_add(Run *r)
{
    load(r, COUNT6 "@b = literal {values = [10, 20, 30]} : f32[3]\n@c = literal {values = [100, 200]} : f32[2,1]\n@s = literal {values = [1000]} : f32[]\n"
                   "@xb = add @x, @b : f32[2,3]\n@xc = add @x, @c : f32[2,3]\n@xs = add @x, @s : f32[2,3]\n"
                   "@k = literal {values = [1, 2]} : f32[2,1]\n"
                   "func @f(%a: f32[T,2,2]) {\n  %b = add %a, @k : f32[T,2,2]\n  return %b\n}\n");
    Tensor xb = constant(r, "xb"), xc = constant(r, "xc"), xs = constant(r, "xs");
    expect(r, &xb, 6, VALS(11, 22, 33, 14, 25, 36), 0);
    expect(r, &xc, 6, VALS(101, 102, 103, 204, 205, 206), 0);
    expect(r, &xs, 6, VALS(1001, 1002, 1003, 1004, 1005, 1006), 0);
    Tensor f = call(r, ARGS(filled(r, DT_F32, DIMS(2, 2, 2), VALS(0, 0, 0, 0, 10, 10, 10, 10))));
    expect(r, &f, 8, VALS(1, 1, 2, 2, 11, 11, 12, 12), 0);
}

static void op_mul(Run *r)
{
    load(r, COUNT6 "@b = literal {values = [1, 2, 3]} : f32[3]\n@y = mul @x, @b : f32[2,3]\n"
                   "func @f(%a: f32[T,2], %b: f32[T,2]) {\n  %c = mul %a, %b : f32[T,2]\n  return %c\n}\n");
    Tensor y = constant(r, "y");
    expect(r, &y, 6, VALS(1, 4, 9, 4, 10, 18), 0);
    Tensor f = call(r, ARGS(filled(r, DT_F32, DIMS(1, 2), VALS(2, 3)), filled(r, DT_F32, DIMS(1, 2), VALS(-4, 5))));
    expect(r, &f, 2, VALS(-8, 15), 0);
}

static void op_div(Run *r)
{
    load(r, COUNT6 "@b = literal {values = [1, 2, 4]} : f32[3]\n@y = div @x, @b : f32[2,3]\n"
                   "func @f(%a: f32[T,2], %b: f32[1]) {\n  %c = div %a, %b : f32[T,2]\n  return %c\n}\n");
    Tensor y = constant(r, "y");
    expect(r, &y, 6, VALS(1, 1, 0.75, 4, 2.5, 1.5), 0);
    Tensor f = call(r, ARGS(filled(r, DT_F32, DIMS(1, 2), VALS(2, 3)), filled(r, DT_F32, DIMS(1), VALS(-4))));
    expect(r, &f, 2, VALS(-0.5, -0.75), 0);
}

static void op_hadamard(Run *r)
{
    load(r, "@w = literal {values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]} : f32[4,2]\n"
            "@row = hadamard @w : f32[4,2]\n"
            "@col = hadamard @w {mode = \"rows\"} : f32[4,2]\n"
            "@two = hadamard @w {group = 2, mode = \"rows\"} : f32[4,2]\n"
            "@s = synthetic {scale = 2.0, seed = 1} : f32[24,36]\n"
            "@once = hadamard @s {seed = 5} : f32[24,36]\n"
            "@turned = transpose @s : f32[36,24]\n"
            "@mixed = hadamard @turned {mode = \"rows\", seed = 5} : f32[36,24]\n"
            "@back = transpose @mixed : f32[24,36]\n");
    double h = sqrt(0.5);
    Tensor row = constant(r, "row"), col = constant(r, "col"), two = constant(r, "two");
    expect(r, &row, 8, VALS(3 * h, -h, 7 * h, -h, 11 * h, -h, 15 * h, -h), 1e-5);
    expect(r, &col, 8, VALS(8, 10, -2, -2, -4, -4, 0, 0), 1e-5);
    expect(r, &two, 8, VALS(4 * h, 6 * h, -2 * h, -2 * h, 12 * h, 14 * h, -2 * h, -2 * h), 1e-5);
    /* Mixing rows is mixing columns of the transpose; norms stay; rectangles agree with the whole. */
    Tensor s = constant(r, "s"), once = constant(r, "once"), back = constant(r, "back"), part;
    double before = 0, after = 0;
    for (i64 i = 0; i < 24 * 36; i++) {
        expect_near(get(r, &once, i), get(r, &back, i), 1e-6, "rows", i);
        before += get(r, &s, i) * get(r, &s, i);
        after += get(r, &once, i) * get(r, &once, i);
    }
    expect_near(after, before, 1e-4, "norm", 0);
    must(r, eval_const(r->e, *map_get(&r->m->const_map, STR("mixed")), 7, 5, 3, 4, &part));
    Tensor mixed = constant(r, "mixed");
    for (i64 i = 0; i < 20; i++) expect_near(get(r, &part, i), get(r, &mixed, (7 + i / 4) * 24 + 3 + i % 4), 1e-6, "part", i);
}

static void op_hadamard_base(Run *r)
{
    load(r, "@b = hadamard_base {dim = 6} : f32[3,3]\n@one = hadamard_base {dim = 8} : f32[1,1]\n");
    Tensor b = constant(r, "b"), one = constant(r, "one");
    double c = cos(2 * M_PI / 3), s = sin(2 * M_PI / 3);
    expect(r, &b, 9, VALS(1, 1, 1, 1, c + s, c - s, 1, c - s, c + s), 1e-6);
    expect(r, &one, 1, VALS(1), 0);
}

static void op_silu(Run *r)
{
    load(r, "func @f(%x: f32[T]) {\n  %y = silu %x : f32[T]\n  return %y\n}\n");
    Tensor y = call(r, ARGS(filled(r, DT_F32, DIMS(4), VALS(0, 1, -2, 100))));
    expect(r, &y, 4, VALS(0, 0.73105857863000488, -0.23840584404423512, 100), 1e-6);
}

static void op_gelu(Run *r)
{
    load(r, "func @f(%x: f32[T]) {\n  %y = gelu %x : f32[T]\n  return %y\n}\n");
    Tensor x = filled(r, DT_F32, DIMS(3), VALS(0, 1, -2)), y = call(r, &x);
    expect(r, &y, 3, VALS(0, 0.84134474606854293, -0.045500263896358417), 1e-6);
    load(r, "func @f(%x: f32[T]) {\n  %y = gelu %x {mode = \"tanh\"} : f32[T]\n  return %y\n}\n");
    x = filled(r, DT_F32, DIMS(3), VALS(0, 1, -2)), y = call(r, &x);
    expect(r, &y, 3, VALS(0, 0.84119199060827690, -0.04540230591222494), 1e-6);
}

/* ---- quantisation ---- */

static void op_qparams(Run *r)
{
    load(r, "@x = literal {values = [1, -127, 3, 0, 0, 5]} : f32[2,3]\n"
            "@s = qparams @x {dtype = \"s8\"} : f32[2,1]\n@g = qparams @x {dtype = \"s8\", group = 2, scale = 0.5} : f32[2,2]\n");
    Tensor s = constant(r, "s"), g = constant(r, "g");
    expect(r, &s, 2, VALS(1, 5.0 / 127), 1e-8);
    expect(r, &g, 4, VALS(0.5, 1.5 / 127, 1, 2.5 / 127), 1e-8); /* a group of zeros has scale 1 */
    load(r, "@x = literal {values = [1, -15, 3, 0, 0, 3.75]} : f32[2,3]\n"
            "@s = qparams @x {dtype = \"s4\", full = 1} : f32[2,1]\n@g = qparams @x {dtype = \"s8\", full = 1, scale = 0.5} : f32[2,1]\n");
    s = constant(r, "s"), g = constant(r, "g");
    const double less = 1 / (1 + 0x1p-20); /* so that the largest is no tie */
    expect(r, &s, 2, VALS(2 * less, 0.5 * less), 1e-7);
    expect(r, &g, 2, VALS(7.5 / 127.5 * less, 1.875 / 127.5 * less), 1e-8);
}

static void op_qparams_asym(Run *r)
{
    load(r, "@x = literal {values = [-1, 14, 2, 2, 0.1, 0.2, 3, 5]} : f32[2,4]\n"
            "@s, @m = qparams_asym @x {dtype = \"u4\", group = 2} : f32[2,2], f32[2,2]\n");
    Tensor s = constant(r, "s"), m = constant(r, "m");
    expect(r, &s, 4, VALS(1, 1, 0.0066680908203125, 0.13330078125), 0); /* (0.2 - 0.1) / 15, 2/15 to f16 */
    expect(r, &m, 4, VALS(-1, 2, 0.0999755859375, 3), 0);
    load(r, "@x = literal {values = [-2, 13, 4, 8]} : f32[1,4]\n@s, @m = qparams_asym @x {dtype = \"u4\", scale = 0.5} : f32[1,1], f32[1,1]\n");
    s = constant(r, "s"), m = constant(r, "m");
    expect(r, &s, 1, VALS(0.5), 0);
    expect(r, &m, 1, VALS(-1), 0);
    load(r, "@x = literal {values = [-3.4, 11.6, 3.5, 18.5]} : f32[1,4]\n@s, @m = qparams_asym @x {dtype = \"u4\", group = 2, zero = 1} : f32[1,2], f32[1,2]\n");
    s = constant(r, "s"), m = constant(r, "m");
    expect(r, &s, 2, VALS(1, 1), 0);
    expect(r, &m, 2, VALS(-3, 4), 0);
}

static void op_quantize(Run *r)
{
    load(r, "@x = literal {values = [0.5, 1.5, -2.5, 300, -300, 0.49]} : f32[1,6]\n@one = literal {values = [1]} : f32[]\n@m = literal {values = [-2]} : f32[1,1]\n"
            "@s = literal {values = [1, 0.5]} : f32[1,2]\n"
            "@q = quantize @x, @one {dtype = \"s8\"} : s8[1,6]\n@u = quantize @x, @one, @m {dtype = \"u8\"} : u8[1,6]\n"
            "@o = quantize @x, @one, @m {dtype = \"s8\"} : s8[1,6]\n@g = quantize @x, @s {dtype = \"s8\", group = 3} : s8[1,6]\n"
            "@w = quantize @x, @one {dtype = \"s16\"} : s16[1,6]\n");
    Tensor q = constant(r, "q"), u = constant(r, "u"), o = constant(r, "o"), g = constant(r, "g"), w = constant(r, "w"), part;
    expect(r, &q, 6, VALS(0, 2, -2, 127, -127, 0), 0);
    expect(r, &u, 6, VALS(2, 4, 0, 255, 0, 2), 0); /* 2.5 -> 2, 3.5 -> 4, -0.5 -> 0 */
    expect(r, &o, 6, VALS(2, 4, 0, 127, -128, 2), 0);
    expect(r, &g, 6, VALS(0, 2, -2, 127, -127, 1), 0);
    expect(r, &w, 6, VALS(0, 2, -2, 300, -300, 0), 0);
    must(r, eval_const(r->e, *map_get(&r->m->const_map, STR("g")), 0, 1, 2, 3, &part)); /* across a group boundary */
    expect(r, &part, 3, VALS(-2, 127, -127), 0);
    load(r, "@x = literal {values = [0.5, 1.5, -2.5, 300, -300, -128.5]} : f32[1,6]\n@one = literal {values = [1]} : f32[1,1]\n"
            "@q = quantize @x, @one {dtype = \"s4\"} : s4[1,6]\n@f = quantize @x, @one {dtype = \"s4\", full = 1} : s4[1,6]\n"
            "@e = quantize @x, @one {dtype = \"s8\", full = 1} : s8[1,6]\n");
    Tensor e = constant(r, "e");
    q = constant(r, "q"), g = constant(r, "f");
    expect(r, &q, 6, VALS(0, 2, -2, 7, -7, -7), 0);
    expect(r, &g, 6, VALS(0, 2, -2, 7, -8, -8), 0);
    expect(r, &e, 6, VALS(0, 2, -2, 127, -128, -128), 0);
    /* Static scales: one per head of [T, heads, d]. */
    load(r, "@s = literal {values = [1, 2]} : f32[2,1]\nfunc @f(%x: f32[T,2,2]) {\n"
            "  %q = quantize %x, @s {dtype = \"s4\", full = 1} : s4[T,2,2]\n  %y = dequantize %q, @s : f32[T,2,2]\n  return %y\n}\n");
    Tensor y = call(r, ARGS(filled(r, DT_F32, DIMS(2, 2, 2), VALS(1.4, -9, 2.9, -30, 0.6, 5, 3.1, 5))));
    expect(r, &y, 8, VALS(1, -8, 2, -16, 1, 5, 4, 4), 0);
}

static void op_dequantize(Run *r)
{
    load(r, "@q = literal {values = [0, 15, 7, 1]} : u4[2,2]\n@s = literal {values = [0.5, 2]} : f32[2,1]\n@m = literal {values = [-1, 3]} : f32[2,1]\n"
            "@y = dequantize @q, @s, @m : f32[2,2]\n@z = dequantize @q, @s : f32[2,2]\n");
    Tensor y = constant(r, "y"), z = constant(r, "z");
    expect(r, &y, 4, VALS(-1, 6.5, 17, 5), 0);
    expect(r, &z, 4, VALS(0, 7.5, 14, 2), 0);
}

static void op_pack(Run *r)
{
    /* Layouts have a test of their own (test_eval_const.c); here: the value is the packed bytes. */
    load(r, "@w = literal {values = [1, 2, 3, 4]} : f32[2,2]\n@p = pack @w {layout = \"f32\"} : u8[128]\n");
    Tensor p = constant(r, "p");
    assert_int_equal(tensor_count(&p), 128);
    const int top[4] = {0x3f, 0x40, 0x40, 0x40}, at[4] = {3, 64 + 3, 7, 64 + 7}; /* top bytes of 1, 2, 3, 4 */
    for (int i = 0; i < 4; i++) assert_int_equal(p.i[at[i]], top[i]);
    for (int i = 8; i < 64; i++) assert_int_equal(p.i[i], 0);
}

/* ---- the model ---- */

static void op_embedding(Run *r)
{
    load(r, "@w = literal {values = [1, 2, 3, 4, 5, 6]} : f32[3,2]\nfunc @f(%t: i32[T]) {\n  %y = embedding %t, @w : f32[T,2]\n  return %y\n}\n");
    Tensor y = call(r, ARGS(filled(r, DT_I32, DIMS(3), VALS(2, 0, 2))));
    expect(r, &y, 6, VALS(5, 6, 1, 2, 5, 6), 0);
    assert_true(call_fails(r, ARGS(filled(r, DT_I32, DIMS(1), VALS(3)))));
}

static void op_rmsnorm(Run *r)
{
    load(r, "@g = literal {values = [1, 2]} : f32[2]\nfunc @f(%x: f32[T,2]) {\n  %y = rmsnorm %x, @g {eps = 0.5} : f32[T,2]\n  return %y\n}\n");
    Tensor y = call(r, ARGS(filled(r, DT_F32, DIMS(2, 2), VALS(3, 4, 0, 0))));
    expect(r, &y, 4, VALS(3 / sqrt(13), 8 / sqrt(13), 0, 0), 1e-6);
    load(r, "func @f(%x: f32[T,2]) {\n  %y = rmsnorm %x {eps = 0.5} : f32[T,2]\n  return %y\n}\n");
    y = call(r, ARGS(filled(r, DT_F32, DIMS(1, 2), VALS(3, 4))));
    expect(r, &y, 2, VALS(3 / sqrt(13), 4 / sqrt(13)), 1e-6);
}

static void op_linear(Run *r)
{
    /* Sizes that leave tails in every loop, and more weight rows than a tile holds. */
    enum { N = 700, K = 53 };
    for (i64 t = 1; t <= 6; t++) {
        load(r, "@w = synthetic {seed = 1} : f32[700,53]\n@b = synthetic {seed = 2} : f32[700]\n"
                "func @f(%x: f32[T,53]) {\n  %y = linear %x, @w, @b : f32[T,700]\n  return %y\n}\n");
        Tensor x = noise(r, 1, 1, DIMS(t, K)), w = constant(r, "w"), b = constant(r, "b"), y = call(r, &x);
        for (i64 i = 0; i < t * N; i++) {
            double sum = get(r, &b, i % N);
            for (i64 k = 0; k < K; k++) sum += get(r, &x, i / N * K + k) * get(r, &w, i % N * K + k);
            expect_near(get(r, &y, i), sum, r->f64 ? 1e-13 : 1e-5, "y", i);
        }
    }
}

/* With the formula of ops.def over dequantised operands: group sums by themselves are exact in double. */
static void qlinear_case(Run *r, const char *text)
{
    load(r, text);
    Tensor x = noise(r, 9, 1, DIMS(3, 70)), w = constant(r, "wd"), y = call(r, &x), xd;
    u32 fn = (u32)(ir_fn(r->m, "xd") - r->m->fns.at);
    must(r, eval_call(r->e, fn, &x, &xd));
    for (i64 i = 0; i < 3 * 5; i++) {
        double sum = 0;
        for (i64 k = 0; k < 70; k++) sum += get(r, &xd, i / 5 * 70 + k) * get(r, &w, i % 5 * 70 + k);
        expect_near(get(r, &y, i), sum, r->f64 ? 1e-12 : 2e-5, "y", i);
    }
}

static void op_qlinear(Run *r)
{
    qlinear_case(r,
                 "@w = synthetic {seed = 1} : f32[5,70]\n@s, @m = qparams_asym @w {dtype = \"u4\", group = 32} : f32[5,3], f32[5,3]\n"
                 "@q = quantize @w, @s, @m {dtype = \"u4\", group = 32} : u4[5,70]\n@wd = dequantize @q, @s, @m {group = 32} : f32[5,70]\n"
                 "func @f(%x: f32[T,70]) {\n  %s = qparams %x {dtype = \"s16\", group = 32} : f32[T,3]\n"
                 "  %q = quantize %x, %s {dtype = \"s16\", group = 32} : s16[T,70]\n  %y = qlinear %q, %s, @q, @s, @m {group = 32} : f32[T,5]\n  return %y\n}\n"
                 "func @xd(%x: f32[T,70]) {\n  %s = qparams %x {dtype = \"s16\", group = 32} : f32[T,3]\n"
                 "  %q = quantize %x, %s {dtype = \"s16\", group = 32} : s16[T,70]\n  %y = dequantize %q, %s {group = 32} : f32[T,70]\n  return %y\n}\n");
    qlinear_case(r,
                 "@w = synthetic {seed = 1} : f32[5,70]\n@s = qparams @w {dtype = \"s8\"} : f32[5,1]\n"
                 "@q = quantize @w, @s {dtype = \"s8\"} : s8[5,70]\n@wd = dequantize @q, @s : f32[5,70]\n@xs = literal {values = [0.0078125]} : f32[]\n"
                 "func @f(%x: f32[T,70]) {\n  %q = quantize %x, @xs {dtype = \"s8\"} : s8[T,70]\n  %y = qlinear %q, @xs, @q, @s : f32[T,5]\n  return %y\n}\n"
                 "func @xd(%x: f32[T,70]) {\n  %q = quantize %x, @xs {dtype = \"s8\"} : s8[T,70]\n  %y = dequantize %q, @xs : f32[T,70]\n  return %y\n}\n");
    /* The bias, and a sum by hand: 0.5 * (2 * (1*3 + 2*4) - 1 * (1 + 2)) + 7. */
    load(r, "@q = literal {values = [3, 4]} : u4[1,2]\n@s = literal {values = [2]} : f32[1,1]\n@m = literal {values = [-1]} : f32[1,1]\n@b = literal {values = [7]} : f32[1]\n"
            "@xs = literal {values = [0.5]} : f32[1,1]\nfunc @f(%x: s8[T,2]) {\n  %y = qlinear %x, @xs, @q, @s, @m, @b : f32[T,1]\n  return %y\n}\n");
    Tensor y = call(r, ARGS(filled(r, DT_S8, DIMS(1, 2), VALS(1, 2))));
    expect(r, &y, 1, VALS(16.5), 0);
}

static void op_rope(Run *r)
{
    load(r, "@f = literal {values = [1, 0.5]} : f32[2]\nfunc @f(%x: f32[T,2,5], %p: i32[T]) {\n  %y = rope %x, %p, @f {mscale = 2} : f32[T,2,5]\n  return %y\n}\n");
    Tensor x = noise(r, 1, 1, DIMS(3, 2, 5)), p = filled(r, DT_I32, DIMS(3), VALS(0, 1, 5)), y = call(r, ARGS(x, p));
    const double freq[2] = {1, 0.5}, pos[3] = {0, 1, 5};
    for (i64 row = 0; row < 6; row++)
        for (i64 i = 0; i < 5; i++) {
            double v = get(r, &x, row * 5 + i), want = v;
            if (i < 4) {
                double angle = pos[row / 2] * freq[i % 2], other = get(r, &x, row * 5 + (i + 2) % 4);
                want = 2 * (v * cos(angle) + (i < 2 ? -other : other) * sin(angle));
            }
            expect_near(get(r, &y, row * 5 + i), want, r->f64 ? 1e-14 : 1e-6, "y", row * 5 + i);
        }
}

/* Naive attention over all keys seen so far. key(j) and value(j) are rows [kv heads * d] of the given arrays. */
static void naive_attention(const Run *r, const Tensor *q, const Tensor *k, const Tensor *v, i64 prefix, i64 pos0, i64 window, const Tensor *y)
{
    i64 heads = q->dim[1], d = q->dim[2], g = k->dim[1];
    for (i64 t = 0; t < q->dim[0]; t++)
        for (i64 h = 0; h < heads; h++) {
            double score[64], sum = 0, top = -1e300;
            i64 pos = pos0 + t, kv = h / (heads / g);
            for (i64 j = 0; j <= pos; j++) {
                score[j] = 0;
                for (i64 i = 0; i < d; i++) score[j] += 0.3 * get(r, q, (t * heads + h) * d + i) * get(r, k, (j * g + kv) * d + i);
                if (j >= prefix && window && pos - j >= window) score[j] = -INFINITY;
                if (score[j] > top) top = score[j];
            }
            for (i64 j = 0; j <= pos; j++) sum += score[j] = exp(score[j] - top);
            for (i64 i = 0; i < d; i++) {
                double want = 0;
                for (i64 j = 0; j <= pos; j++) want += score[j] / sum * get(r, v, (j * g + kv) * d + i);
                expect_near(get(r, y, (t * heads + h) * d + i), want, r->f64 ? 1e-13 : 2e-6, "attention", t);
            }
        }
}

/* Rows [first, first + n) of a tensor. */
static Tensor take(const Run *r, const Tensor *t, i64 first, i64 n)
{
    Tensor s = *t;
    i64 row = tensor_count(t) / t->dim[0];
    s.dim[0] = n;
    if (r->f64) s.d += first * row;
    else s.f += first * row;
    return s;
}

static Tensor positions(Run *r, i64 first, i64 n)
{
    Tensor t = tensor(r, DT_I32, DIMS(n));
    for (i64 i = 0; i < n; i++) t.i[i] = (i32)(first + i);
    return t;
}

static void op_attention(Run *r)
{
    load(r, "func @f(%q: f32[T,4,6], %k: f32[T,2,6], %v: f32[T,2,6], %p: i32[T]) {\n"
            "  %y = attention %q, %k, %v, %p {cache = 1, scale = 0.3, window = 3} : f32[T,4,6]\n  return %y\n}\n");
    Tensor q = noise(r, 1, 2, DIMS(7, 4, 6)), k = noise(r, 2, 2, DIMS(7, 2, 6)), v = noise(r, 3, 2, DIMS(7, 2, 6));
    for (i64 t = 0, n; t < 7; t += n) { /* in calls of 4, 1, 2 tokens: the cache carries over */
        n = t == 0 ? 4 : t == 4 ? 1 : 2;
        Tensor qt = take(r, &q, t, n), y = call(r, ARGS(qt, take(r, &k, t, n), take(r, &v, t, n), positions(r, t, n)));
        naive_attention(r, &qt, &k, &v, 0, t, 3, &y);
    }
    assert_true(call_fails(r, ARGS(take(r, &q, 0, 1), take(r, &k, 0, 1), take(r, &v, 0, 1), positions(r, 64, 1))));
    eval_set_context(r->e, 64);
    /* A prefix of 2 rows: never masked by the window; the user's positions start at 2. */
    load(r, "@pk = synthetic {scale = 2, seed = 7, stream = 2} : f32[2,2,6]\n@pv = synthetic {scale = 2, seed = 7, stream = 3} : f32[2,2,6]\n"
            "func @f(%q: f32[T,4,6], %k: f32[T,2,6], %v: f32[T,2,6], %p: i32[T]) {\n"
            "  %y = attention %q, %k, %v, %p, @pk, @pv {cache = 0, scale = 0.3, window = 2} : f32[T,4,6]\n  return %y\n}\n");
    q = noise(r, 1, 2, DIMS(5, 4, 6)), k = noise(r, 2, 2, DIMS(7, 2, 6)), v = noise(r, 3, 2, DIMS(7, 2, 6));
    Tensor y = call(r, ARGS(q, take(r, &k, 2, 5), take(r, &v, 2, 5), positions(r, 2, 5)));
    naive_attention(r, &q, &k, &v, 2, 2, 2, &y);
    assert_true(call_fails(r, ARGS(take(r, &q, 0, 1), take(r, &k, 0, 1), take(r, &v, 0, 1), positions(r, 1, 1))));
}

#define STATES "@ks = state : f32[2,C,6]\n@vs = state : f32[2,C,6]\n"

static void op_kv_append(Run *r)
{
    load(r, STATES "func @f(%k: f32[T,2,6], %v: f32[T,2,6], %p: i32[T], %q: f32[T,2,6]) {\n  kv_append %k, %v, %p, @ks, @vs\n"
                   "  %y = attend %q, %p, @ks, @vs {scale = 1, window = 1} : f32[T,2,6]\n  return %y\n}\n");
    /* A window of one key: attention returns the value just appended, out of order as well. */
    Tensor k = noise(r, 1, 1, DIMS(3, 2, 6)), v = noise(r, 2, 1, DIMS(3, 2, 6)), q = noise(r, 3, 1, DIMS(3, 2, 6));
    Tensor p = filled(r, DT_I32, DIMS(3), VALS(5, 0, 63)), y = call(r, ARGS(k, v, p, q));
    for (i64 i = 0; i < 36; i++) expect_near(get(r, &y, i), get(r, &v, i), 0, "v", i);
    assert_true(call_fails(r, ARGS(k, v, filled(r, DT_I32, DIMS(3), VALS(0, 1, 64)), q)));
    /* States of type f16 round what is appended. */
    load(r, "@ks = state : f16[1,C,2]\n@vs = state : f16[1,C,2]\n"
            "func @f(%k: f32[T,1,2], %v: f32[T,1,2], %p: i32[T]) {\n  kv_append %k, %v, %p, @ks, @vs\n"
            "  %y = attend %k, %p, @ks, @vs {scale = 1} : f32[T,1,2]\n  return %y\n}\n");
    k = filled(r, DT_F32, DIMS(1, 1, 2), VALS(2049, 0.1)), p = positions(r, 0, 1), y = call(r, ARGS(k, k, p));
    expect(r, &y, 2, VALS(2048, 0.0999755859375), 0);
}

static void op_attend(Run *r)
{
    load(r, STATES "func @f(%q: f32[T,4,6], %k: f32[T,2,6], %v: f32[T,2,6], %p: i32[T]) {\n  kv_append %k, %v, %p, @ks, @vs\n"
                   "  %y = attend %q, %p, @ks, @vs {scale = 0.3, window = 4} : f32[T,4,6]\n  return %y\n}\n");
    Tensor q = noise(r, 1, 2, DIMS(7, 4, 6)), k = noise(r, 2, 2, DIMS(7, 2, 6)), v = noise(r, 3, 2, DIMS(7, 2, 6));
    for (i64 t = 0, n; t < 7; t += n) {
        n = t == 0 ? 5 : 1;
        Tensor qt = take(r, &q, t, n), y = call(r, ARGS(qt, take(r, &k, t, n), take(r, &v, t, n), positions(r, t, n)));
        naive_attention(r, &qt, &k, &v, 0, t, 4, &y);
    }
}

/* ---- attention over integer caches ---- */

typedef struct IntKv { /* one way to quantise keys and values of 2 heads of 6, and queries of 4 heads */
    const char *name, *consts, *body, *operands; /* body defines %kq, %vq and, dequantized, %kd, %vd */
    const char *q, *states, *scales;             /* what attend reads as q; types of states; its scale operands */
    i64 prefix;
} IntKv;

#define STATIC_SCALES                                                                                                  \
    "@s.k = literal {values = [0.25, 0.4]} : f32[2,1]\n@s.v = literal {values = [0.3]} : f32[1,1]\n"                   \
    "@s.q = literal {values = [0.01, 0.02, 0.015, 0.03]} : f32[4,1]\n"
#define STATIC_BODY(TYPE)                                                                                              \
    "  %kq = quantize %k, @s.k {dtype = \"" TYPE "\", full = 1} : " TYPE "[T,2,6]\n"                                    \
    "  %vq = quantize %v, @s.v {dtype = \"" TYPE "\", full = 1} : " TYPE "[T,2,6]\n"                                    \
    "  %kd = dequantize %kq, @s.k : f32[T,2,6]\n  %vd = dequantize %vq, @s.v : f32[T,2,6]\n"
#define FLOAT_Q "  %qi = copy %q : f32[T,4,6]\n  %qd = copy %q : f32[T,4,6]\n"
#define INT_Q                                                                                                          \
    "  %qi = quantize %q, @s.q {dtype = \"s8\"} : s8[T,4,6]\n  %qd = dequantize %qi, @s.q : f32[T,4,6]\n"
#define SCALE_STATES "@ks.s = state : f16[2,C,1]\n@vs.s = state : f16[2,C,1]\n"
#define MIN_STATES "@ks.m = state : f16[2,C,1]\n@vs.m = state : f16[2,C,1]\n"
#define SYM(X)                                                                                                         \
    "  %" X "r = qparams %" X " {dtype = \"s8\"} : f32[T,2,1]\n  %" X "s = cast %" X "r {dtype = \"f16\"} : f16[T,2,1]\n"  \
    "  %" X "q = quantize %" X ", %" X "s {dtype = \"s8\"} : s8[T,2,6]\n  %" X "d = dequantize %" X "q, %" X "s : f32[T,2,6]\n"
#define ASYM(X)                                                                                                        \
    "  %" X "s, %" X "m = qparams_asym %" X " {dtype = \"u4\", scale = 0.9} : f32[T,2,1], f32[T,2,1]\n"                 \
    "  %" X "q = quantize %" X ", %" X "s, %" X "m {dtype = \"u4\"} : u4[T,2,6]\n"                                      \
    "  %" X "d = dequantize %" X "q, %" X "s, %" X "m : f32[T,2,6]\n"

static const IntKv int_kv[] = {
    {"static s4", STATIC_SCALES, STATIC_BODY("s4") FLOAT_Q, "", "_", "s4", "@s.k, _, @s.v, _", 0},
    {"static s4, integer q, prefix", STATIC_SCALES, STATIC_BODY("s4") INT_Q, "", "@s.q", "s4", "@s.k, _, @s.v, _", 3},
    {"static s8, integer q", STATIC_SCALES, STATIC_BODY("s8") INT_Q, "", "@s.q", "s8", "@s.k, _, @s.v, _", 0},
    {"dynamic s8, prefix", SCALE_STATES, SYM("k") SYM("v") FLOAT_Q, ", %ks, _, %vs, _, @ks.s, _, @vs.s", "_", "s8", "@ks.s, _, @vs.s, _", 2},
    {"dynamic s8, integer q", STATIC_SCALES SCALE_STATES, SYM("k") SYM("v") INT_Q, ", %ks, _, %vs, _, @ks.s, _, @vs.s, _", "@s.q", "s8", "@ks.s, _, @vs.s, _", 0},
    {"dynamic u4 with offsets", SCALE_STATES MIN_STATES, ASYM("k") ASYM("v") FLOAT_Q, ", %ks, %km, %vs, %vm, @ks.s, @ks.m, @vs.s, @vs.m", "_", "u4", "@ks.s, @ks.m, @vs.s, @vs.m", 0},
    {"dynamic u4 with offsets, integer q, prefix", STATIC_SCALES SCALE_STATES MIN_STATES, ASYM("k") ASYM("v") INT_Q, ", %ks, %km, %vs, %vm, @ks.s, @ks.m, @vs.s, @vs.m", "@s.q", "u4", "@ks.s, @ks.m, @vs.s, @vs.m", 1},
};

/* The same values through `attention` of what was dequantized, in calls of 4, 1 and 2 tokens. */
static void int_attend(Run *r, const IntKv *c, i64 window)
{
    i64 p = c->prefix;
    StrBuf b = {.a = NULL};
    Arena a = {0};
    b.a = &a;
    sb_printf(&b, "%s@ks = state : %s[2,C,6]\n@vs = state : %s[2,C,6]\n", c->consts, c->states, c->states);
    if (p)
        sb_printf(&b, "@pk = synthetic {scale = 2, seed = 1} : f16[%lld,2,6]\n@pv = synthetic {scale = 2, seed = 2} : f16[%lld,2,6]\n", (long long)p, (long long)p);
    sb_printf(&b, "func @f(%%q: f32[T,4,6], %%k: f32[T,2,6], %%v: f32[T,2,6], %%p: i32[T]) {\n%s", c->body);
    sb_printf(&b, "  kv_append %%kq, %%vq, %%p, @ks, @vs%s {prefix = %lld}\n", c->operands, (long long)p);
    sb_printf(&b, "  %%y = attend %%qi, %%p, @ks, @vs, %s, %s%s {prefix = %lld, scale = 0.3, window = %lld} : f32[T,4,6]\n",
              c->q, c->scales, p ? ", @pk, @pv" : "", (long long)p, (long long)window);
    sb_printf(&b, "  %%z = attention %%qd, %%kd, %%vd, %%p%s {cache = 0, scale = 0.3, window = %lld} : f32[T,4,6]\n  return %%y, %%z\n}\n",
              p ? ", @pk, @pv" : "", (long long)window);
    load(r, b.p);
    Tensor q = noise(r, 1, 2, DIMS(7, 4, 6)), k = noise(r, 2, 2, DIMS(7, 2, 6)), v = noise(r, 3, 2, DIMS(7, 2, 6)), out[2];
    eval_set_context(r->e, 7); /* the prefix takes no room */
    for (i64 t = 0, n; t < 7; t += n) {
        n = t == 0 ? 4 : t == 4 ? 1 : 2;
        must(r, eval_call(r->e, 1, ARGS(take(r, &q, t, n), take(r, &k, t, n), take(r, &v, t, n), positions(r, p + t, n)), out));
        for (i64 i = 0; i < n * 24; i++)
            expect_near(get(r, &out[0], i), get(r, &out[1], i), r->f64 ? 1e-13 : 3e-6, c->name, i);
    }
    const Tensor beyond[] = {take(r, &q, 0, 1), take(r, &k, 0, 1), take(r, &v, 0, 1), positions(r, p + 7, 1)};
    assert_true(call_fails(r, beyond));
    const Tensor inside[] = {beyond[0], beyond[1], beyond[2], positions(r, p - 1, 1)};
    assert_true(call_fails(r, inside));
    arena_free(&a);
}

static void op_attend_integers(Run *r)
{
    for (size_t i = 0; i < sizeof int_kv / sizeof *int_kv; i++)
        for (i64 window = 0; window <= 3; window += 3) int_attend(r, &int_kv[i], window);
    /* By hand: keys 1 and 3 (times 0.5), values 2 and 4 (times 10, plus 1), the prefix key 0 and value 5; scores 0, ln 2
     * and 3 ln 2 with the query. */
    load(r, "@k = state : s4[1,C,1]\n@v = state : u4[1,C,1]\n@s = literal {values = [0.5]} : f32[]\n@t = literal {values = [10]} : f32[1,1]\n"
            "@m = literal {values = [1]} : f32[1,1]\n@pk = literal {values = [0]} : f16[1,1,1]\n@pv = literal {values = [5]} : f16[1,1,1]\n"
            "func @f(%k: s4[T,1,1], %v: u4[T,1,1], %p: i32[T], %q: s8[T,1,1]) {\n  kv_append %k, %v, %p, @k, @v {prefix = 1}\n"
            "  %y = attend %q, %p, @k, @v, @s, @s, _, @t, @m, @pk, @pv {prefix = 1, scale = 0.34657359027997264, window = 2} : f32[T,1,1]\n  return %y\n}\n");
    Tensor y = call(r, ARGS(filled(r, DT_S4, DIMS(2, 1, 1), VALS(1, 3)), filled(r, DT_U4, DIMS(2, 1, 1), VALS(2, 4)), positions(r, 1, 2), filled(r, DT_S8, DIMS(2, 1, 1), VALS(8, 8))));
    expect(r, &y, 2, VALS((5 + 2 * 21) / 3.0, (5 + 2 * 21 + 8 * 41) / 11.0), 1e-5);
}

static void op_store(Run *r)
{
    load(r, "@h = state : f32[T,1]\nfunc @f(%x: f32[T,1], %i: i32[R]) {\n  store %x, @h\n  %y = rows @h, %i : f32[R,1]\n  return %y\n}\n");
    Tensor y = call(r, ARGS(filled(r, DT_F32, DIMS(3, 1), VALS(1, 2, 3)), filled(r, DT_I32, DIMS(1), VALS(2))));
    expect(r, &y, 1, VALS(3), 0);
    assert_true(call_fails(r, ARGS(filled(r, DT_F32, DIMS(1, 1), VALS(4)), filled(r, DT_I32, DIMS(1), VALS(1)))));
    eval_set_context(r->e, 2);
    assert_true(call_fails(r, ARGS(filled(r, DT_F32, DIMS(3, 1), VALS(1, 2, 3)), filled(r, DT_I32, DIMS(1), VALS(0)))));
}

/* ---- the table ---- */

static const struct OpTest {
    OpKind kind;
    void (*fn)(Run *r);
} tests[] = {
    {OP_TENSOR, op_tensor}, {OP_SYNTHETIC, op_synthetic}, {OP_LITERAL, op_literal}, {OP_STATE, op_state},
    {OP_ROPE_FREQS, op_rope_freqs}, {OP_CAST, op_cast}, {OP_COPY, op_copy}, {OP_RESHAPE, op_reshape},
    {OP_TRANSPOSE, op_transpose}, {OP_SLICE, op_slice}, {OP_CONCAT, op_concat}, {OP_ROPE_UNPERMUTE, op_rope_unpermute},
    {OP_ROWS, op_rows}, {OP_ADD, op_add}, {OP_MUL, op_mul}, {OP_DIV, op_div}, {OP_HADAMARD, op_hadamard}, {OP_HADAMARD_BASE, op_hadamard_base}, {OP_SILU, op_silu}, {OP_GELU, op_gelu},
    {OP_QPARAMS, op_qparams}, {OP_QPARAMS_ASYM, op_qparams_asym}, {OP_QUANTIZE, op_quantize},
    {OP_DEQUANTIZE, op_dequantize}, {OP_PACK, op_pack}, {OP_EMBEDDING, op_embedding}, {OP_RMSNORM, op_rmsnorm},
    {OP_LINEAR, op_linear}, {OP_QLINEAR, op_qlinear}, {OP_ROPE, op_rope}, {OP_ATTENTION, op_attention},
    {OP_KV_APPEND, op_kv_append}, {OP_ATTEND, op_attend}, {OP_ATTEND, op_attend_integers}, {OP_STORE, op_store},
};
enum { N_TESTS = sizeof tests / sizeof *tests };

static void run_all(bool f64)
{
    for (int i = 0; i < N_TESTS; i++) {
        Run r;
        run_init(&r, f64);
        print_message("  %s\n", op_info[tests[i].kind].mnemonic);
        tests[i].fn(&r);
        run_free(&r);
    }
}

static void ops_in_f32(void **state)
{
    (void)state;
    run_all(false);
}

static void ops_in_f64(void **state)
{
    (void)state;
    run_all(true);
}

static void every_op_has_a_test(void **state)
{
    (void)state;
    for (int kind = 1; kind < OP_COUNT; kind++) {
        int found = 0;
        for (int i = 0; i < N_TESTS; i++) found += tests[i].kind == (OpKind)kind;
        if (!found) fail_msg("%s has no evaluator test", op_info[kind].mnemonic);
    }
}

int main(void)
{
    const struct CMUnitTest all[] = {cmocka_unit_test(ops_in_f32), cmocka_unit_test(ops_in_f64), cmocka_unit_test(every_op_has_a_test)};
    return cmocka_run_group_tests(all, NULL, NULL);
}
