/* codegen: targets, and specialisation of kernel templates, on a toy one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codegen/codegen_int.h"
#include "runtime/abi.h"

#include <llvm-c/BitWriter.h>
#include <llvm-c/Core.h>
#include <llvm-c/IRReader.h>
#include <llvm-c/Object.h>

#include <stdlib.h>
#include <unistd.h>

/* Two entries and a helper, as clang writes them with its passes off; attributes of another CPU. */
static const char toy_text[] =
    "target triple = \"x86_64-pc-linux-gnu\"\n"
    "@c_K = external constant i32, align 4\n"
    "@c_eps = external constant float, align 4\n"
    "define i32 @toy(i32 %x) #0 {\n"
    "  %k = load i32, ptr @c_K, align 4\n"
    "  %wide = icmp sgt i32 %k, 100\n"
    "  br i1 %wide, label %a, label %b\n"
    "a:\n"
    "  %r = mul i32 %x, %k\n"
    "  ret i32 %r\n"
    "b:\n"
    "  %s = call i32 @not_there(i32 %x)\n"
    "  ret i32 %s\n"
    "}\n"
    "define float @other(float %x) #0 {\n"
    "  %e = load float, ptr @c_eps, align 4\n"
    "  %r = fadd float %x, %e\n"
    "  ret float %r\n"
    "}\n"
    "declare i32 @not_there(i32)\n"
    "attributes #0 = { \"target-cpu\"=\"pentium4\" \"target-features\"=\"-avx\" }\n";

static Str bitcode(const char *text)
{
    LLVMContextRef cx = LLVMContextCreate();
    LLVMModuleRef m;
    char *why = NULL;
    LLVMMemoryBufferRef in = LLVMCreateMemoryBufferWithMemoryRangeCopy(text, strlen(text), "toy");
    if (LLVMParseIRInContext(cx, in, &m, &why)) fail_msg("%s", why);
    LLVMMemoryBufferRef out = LLVMWriteBitcodeToMemoryBuffer(m);
    size_t n = LLVMGetBufferSize(out);
    char *p = malloc(n);
    assert_non_null(p);
    memcpy(p, LLVMGetBufferStart(out), n);
    LLVMDisposeMemoryBuffer(out);
    LLVMDisposeModule(m);
    LLVMContextDispose(cx);
    return (Str){p, n};
}

/* Symbols of an object as "name name name ", undefined ones included (LLVM's C API gives no more).
 */
static char *symbols(Arena *a, const CgObject *o)
{
    LLVMMemoryBufferRef buf =
        LLVMCreateMemoryBufferWithMemoryRangeCopy((const char *)o->data, o->bytes, "o");
    char *why = NULL;
    LLVMBinaryRef bin = LLVMCreateBinary(buf, NULL, &why);
    if (!bin) fail_msg("%s", why);
    StrBuf sb = {.a = a};
    sb_str(&sb, " ");
    LLVMSymbolIteratorRef it = LLVMObjectFileCopySymbolIterator(bin);
    for (; !LLVMObjectFileIsSymbolIteratorAtEnd(bin, it); LLVMMoveToNextSymbol(it))
        sb_printf(&sb, "%s ", LLVMGetSymbolName(it));
    LLVMDisposeSymbolIterator(it);
    LLVMDisposeBinary(bin);
    LLVMDisposeMemoryBuffer(buf);
    return sb.p;
}

static CgTarget target(Arena *a, const char *spec)
{
    Diag d;
    diag_init(&d, a);
    CgTargets t;
    assert_true(cg_targets(&d, a, &spec, 1, &t));
    assert_int_equal(t.n_cpu, 1);
    return t.cpu[0];
}

static const CgConst toy_consts[] = {{.name = "c_K", .i = 1234567},
                                     {.name = "c_eps", .is_float = true, .f = 1e-5},
                                     {.name = "c_none", .i = 1}};

static CgObject specialise(const CgTarget *t, Str bc, const char *entry, const CgConst *c, u32 n)
{
    CgSpec s = {.what = "toy",
                .bitcode = bc,
                .entry = entry,
                .symbol = "k7_toy",
                .consts = c,
                .n_consts = n,
                .target = t};
    CgObject o;
    cg_specialise(&s, &o);
    return o;
}

static void toy_is_specialised(void **state)
{
    (void)state;
    Arena a = {0};
    Str bc = bitcode(toy_text);
    CgTarget t = target(&a, "cpu:x86-64-v3");
    CgObject o = specialise(&t, bc, "toy", toy_consts, 3);
    if (o.error) fail_msg("%s", o.error);
    /* the constant was folded (else not_there would remain), the entry renamed, the rest dropped */
    assert_string_equal(symbols(&a, &o), " k7_toy k7_toy ");
    /* imul $1234567, %edi, %eax; ret */
    static const u8 code[] = {0x69, 0xc7, 0x87, 0xd6, 0x12, 0x00, 0xc3};
    assert_non_null(memmem(o.data, o.bytes, code, sizeof code));
    assert_null(memmem(o.data, o.bytes, ".comment", 8));

    CgObject again = specialise(&t, bc, "toy", toy_consts, 3);
    assert_int_equal(o.bytes, again.bytes);
    assert_memory_equal(o.data, again.data, o.bytes);
    cg_object_free(&again);
    cg_object_free(&o);

    /* the target's attributes replace the template's: AVX's three-operand add of a constant */
    o = specialise(&t, bc, "other", toy_consts, 3);
    static const u8 vadd[] = {0xc5, 0xfa, 0x58};
    assert_non_null(memmem(o.data, o.bytes, vadd, sizeof vadd));
    cg_object_free(&o);
    free((void *)(uintptr_t)bc.p);
    arena_free(&a);
}

static void bad_templates_are_refused(void **state)
{
    (void)state;
    static const CgConst narrow[] = {{.name = "c_K", .i = 50}};
    static const CgConst wrong[] = {{.name = "c_K", .is_float = true, .f = 1}};
    static const CgConst big[] = {{.name = "c_K", .i = (i64)1 << 40}};
    static const struct {
        const char *entry;
        const CgConst *c;
        const char *says;
    } cases[] = {
        {"absent", toy_consts, "no function 'absent'"},
        {"toy", narrow, "c_eps"},
        {"toy", wrong, "another type"},
        {"toy", big, "does not fit"},
    };
    Arena a = {0};
    Str bc = bitcode(toy_text);
    CgTarget t = target(&a, "cpu:x86-64-v3");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CgObject o =
            specialise(&t, bc, cases[i].entry, cases[i].c, cases[i].c == toy_consts ? 3 : 1);
        assert_null(o.data);
        assert_non_null(o.error);
        if (!strstr(o.error, cases[i].says)) fail_msg("'%s' lacks '%s'", o.error, cases[i].says);
        cg_object_free(&o);
    }
    CgConst calls[] = {toy_consts[0], toy_consts[1]};
    calls[0].i = 50;
    CgObject o = specialise(&t, bc, "toy", calls, 2);
    assert_non_null(strstr(o.error, "calls 'not_there'"));
    cg_object_free(&o);

    o = specialise(&t, (Str){bc.p, bc.n / 2}, "toy", toy_consts, 3);
    assert_non_null(o.error);
    cg_object_free(&o);
    free((void *)(uintptr_t)bc.p);

    bc = bitcode("define void @toy() {\n call void asm sideeffect \"frobnicate %eax\", \"\"()\n "
                 "ret void\n}\n");
    o = specialise(&t, bc, "toy", toy_consts, 3);
    assert_non_null(strstr(o.error, "LLVM"));
    assert_null(o.data);
    cg_object_free(&o);
    free((void *)(uintptr_t)bc.p);

#ifndef __SANITIZE_ADDRESS__ /* what LLVM held at a fatal error is lost, and the sanitizer would   \
                                say so */
    /* LLVM's fatal errors end as a sentence too: an intrinsic that cannot be selected for this CPU
     */
    bc = bitcode(
        "declare <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32>, <16 x i32>, <16 x i32>)\n"
        "define void @toy(ptr %p) {\n %v = load <16 x i32>, ptr %p\n"
        " %r = call <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32> %v, <16 x i32> %v, <16 x "
        "i32> %v)\n"
        " store <16 x i32> %r, ptr %p\n ret void\n}\n");
    o = specialise(&t, bc, "toy", toy_consts, 3);
    assert_non_null(o.error);
    assert_non_null(strstr(o.error, "LLVM stopped"));
    cg_object_free(&o);
    free((void *)(uintptr_t)bc.p);
#endif
    arena_free(&a);
}

static void data_objects_hold_data(void **state)
{
    (void)state;
    Arena a = {0};
    CgObject o;
    cg_data_object("pfq_blob", (Str){"ab\0cd", 5}, &o);
    if (o.error) fail_msg("%s", o.error);
    assert_string_equal(symbols(&a, &o), " pfq_blob pfq_blob ");
    assert_non_null(memmem(o.data, o.bytes, "ab\0cd", 5));
    cg_object_free(&o);
    arena_free(&a);
}

static void targets_are_known(void **state)
{
    (void)state;
    Arena a = {0};
    assert_string_equal(target(&a, "cpu:x86-64-v3").variant->name, "avx2");
    assert_string_equal(target(&a, "cpu:x86-64-v4").variant->name, "avx2");
    assert_string_equal(target(&a, "cpu:znver4").variant->name, "avx512vnni");
    assert_string_equal(target(&a, "cpu:znver4").tune, "znver4");
    assert_string_equal(target(&a, "cpu:sapphirerapids").variant->name, "avx512amx");
    Diag d;
    diag_init(&d, &a);
    d.silent = true;
    CgTargets t;
    assert_true(cg_targets(&d, &a,
                           (const char *[]){"cpu:haswell", "cuda:sm_80", "cpu:icelake-server",
                                            "cuda:sm_90a", "cpu:znver3", "cuda:sm_80"},
                           6, &t));
    assert_int_equal(t.n_cpu, 2);
    assert_string_equal(t.cpu[0].variant->name, "avx512vnni");
    assert_string_equal(t.cpu[1].tune, "haswell");
    assert_int_equal(t.n_gpu, 2);
    assert_string_equal(t.gpu[0]->name, "sm_90a");
    assert_true(t.gpu[0]->exact);
    assert_string_equal(t.gpu[1]->name, "sm_80");
    assert_int_equal(d.n_errors, 0);
    static const char *const bad[] = {
        "cpu:zenver4", "gpu",   "",     "cpu:",       "x86-64-v3", "cpu:pentium",
        "sm_90a",      "cuda:", "cuda", "cuda:sm_90", "cpu:sm_80"};
    for (u32 i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(cg_targets(&d, &a, &bad[i], 1, &t));
        assert_int_equal(d.n_errors, i + 1);
    }
    arena_free(&a);
}

/* E0603, which nothing provokes from outside (tests/cli/explain.py): of many kernels, one that LLVM
 * refuses is one diagnostic, whatever thread met it. */
static void refusals_become_a_diagnostic(void **state)
{
    (void)state;
    Arena a = {0};
    Diag d;
    diag_init(&d, &a);
    CgTarget t = target(&a, "cpu:x86-64-v3");
    const Str good = bitcode(toy_text), cut = {good.p, good.n / 2};
    CgSpec specs[8];
    CgObject out[8];
    for (u32 i = 0; i < 8; i++)
        specs[i] = (CgSpec){.what = "toy",
                            .bitcode = i == 5 ? cut : good,
                            .entry = "toy",
                            .symbol = "k7_toy",
                            .consts = toy_consts,
                            .n_consts = 3,
                            .target = &t};
    for (u32 threads = 1; threads <= 3; threads += 2) {
        d.msgs.n = 0;
        assert_false(cg_specialise_all(&d, specs, out, 8, threads));
        assert_int_equal(d.msgs.n, 1);
        assert_string_equal(err_name(d.msgs.at[0].code), "E0603");
        assert_non_null(strstr(d.msgs.at[0].text, "toy"));
        for (u32 i = 0; i < 8; i++)
            cg_object_free(&out[i]);
    }
    free((void *)(uintptr_t)good.p);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(toy_is_specialised),           cmocka_unit_test(bad_templates_are_refused),
        cmocka_unit_test(data_objects_hold_data),       cmocka_unit_test(targets_are_known),
        cmocka_unit_test(refusals_become_a_diagnostic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
