/* Specialising a kernel template with LLVM's C API.
 *
 * The C API clones modules, not functions, so each specialisation parses the template's bitcode
 * afresh in a context of its own: threads share nothing, and the result does not depend on what was
 * compiled before. Everything but the wanted entry becomes internal; global dead code elimination,
 * first in default<O3>, drops the rest.
 */
#include "codegen/codegen_int.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/BitReader.h>
#include <llvm-c/Core.h>
#include <llvm-c/ErrorHandling.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

static const LLVMAttributeIndex FUNCTION = (LLVMAttributeIndex)LLVMAttributeFunctionIndex;
static const char triple[] = "x86_64-pc-linux-gnu";

/* One specialisation in progress. The LLVM objects are released by job_end, whatever happened. */
typedef struct Job {
    const CgSpec *spec;
    CgObject *out;
    LLVMContextRef ctx;
    LLVMModuleRef mod;
    LLVMTargetMachineRef tm;
    LLVMPassBuilderOptionsRef opts;
    jmp_buf fatal;
} Job;

/* LLVM's fatal error handler is one per process and must not return. */
static _Thread_local Job *current;

static bool fail(Job *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(Job *j, const char *fmt, ...)
{
    if (j->out->error) return false; /* the first reason is the useful one */
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&j->out->error, fmt, ap) < 0) die_oom();
    va_end(ap);
    return false;
}

static void on_fatal(const char *reason)
{
    Job *j = current;
    if (!j) return; /* not ours: LLVM exits */
    fail(j, "%s: LLVM stopped: %s", j->spec->what, reason);
    longjmp(j->fatal, 1);
}

static void on_diagnostic(LLVMDiagnosticInfoRef info, void *arg)
{
    if (LLVMGetDiagInfoSeverity(info) != LLVMDSError) return;
    Job *j = arg;
    char *text = LLVMGetDiagInfoDescription(info);
    fail(j, "%s: LLVM: %s", j->spec->what, text);
    LLVMDisposeMessage(text);
}

static void init_llvm(void)
{
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmParser();
    LLVMInitializeX86AsmPrinter();
    LLVMInstallFatalErrorHandler(on_fatal);
}

static bool parse(Job *j)
{
    const CgSpec *s = j->spec;
    j->ctx = LLVMContextCreate();
    LLVMContextSetDiagnosticHandler(j->ctx, on_diagnostic, j);
    LLVMMemoryBufferRef buf =
        LLVMCreateMemoryBufferWithMemoryRange(s->bitcode.p, s->bitcode.n, s->what, 0);
    LLVMBool bad = LLVMParseBitcodeInContext2(j->ctx, buf, &j->mod);
    LLVMDisposeMemoryBuffer(buf);
    if (bad) {
        j->mod = NULL;
        return fail(j, "%s: the template's bitcode cannot be read", s->what);
    }
    LLVMSetModuleIdentifier(j->mod, s->symbol, strlen(s->symbol));
    LLVMSetSourceFileName(j->mod, s->symbol,
                          strlen(s->symbol)); /* becomes the object's FILE symbol */
    return true;
}

static bool make_machine(Job *j)
{
    const CgTarget *t = j->spec->target;
    char *why = NULL;
    LLVMTargetRef target;
    if (LLVMGetTargetFromTriple(triple, &target, &why)) {
        fail(j, "%s: LLVM has no target %s: %s", j->spec->what, triple, why);
        LLVMDisposeMessage(why);
        return false;
    }
    j->tm = LLVMCreateTargetMachine(target, triple, t->variant->cpu, t->variant->features,
                                    LLVMCodeGenLevelAggressive, LLVMRelocPIC, LLVMCodeModelSmall);
    if (!j->tm) return fail(j, "%s: LLVM cannot make code for %s", j->spec->what, t->variant->cpu);
    LLVMSetTarget(j->mod, triple);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(j->tm);
    LLVMSetModuleDataLayout(j->mod, layout);
    LLVMDisposeTargetData(layout);
    return true;
}

/* Gives `extern const` globals their values. Every declaration must get one. */
static bool set_constants(Job *j)
{
    const CgSpec *s = j->spec;
    for (LLVMValueRef g = LLVMGetFirstGlobal(j->mod); g; g = LLVMGetNextGlobal(g)) {
        if (!LLVMIsDeclaration(g)) continue;
        size_t len;
        const char *name = LLVMGetValueName2(g, &len);
        const CgConst *c = NULL;
        for (u32 i = 0; i < s->n_consts && !c; i++)
            if (str_eq(str_c(s->consts[i].name), (Str){name, len})) c = &s->consts[i];
        if (!c) {
            if (!LLVMGetFirstUse(g)) continue;
            return fail(j, "%s: the constant '%.*s' has no value", s->what, (int)len, name);
        }
        LLVMTypeRef type = LLVMGlobalGetValueType(g);
        LLVMTypeKind kind = LLVMGetTypeKind(type);
        LLVMValueRef value;
        if (kind == LLVMIntegerTypeKind && !c->is_float) {
            u32 bits = LLVMGetIntTypeWidth(type);
            if (bits < 64 && (c->i < -((i64)1 << (bits - 1)) || c->i >= (i64)1 << bits))
                return fail(j, "%s: constant '%s' = %lld does not fit %u bits", s->what, c->name,
                            (long long)c->i, bits);
            value = LLVMConstInt(type, (u64)c->i, true);
        } else if ((kind == LLVMFloatTypeKind || kind == LLVMDoubleTypeKind) && c->is_float) {
            value = LLVMConstReal(type, c->f);
        } else {
            return fail(j, "%s: constant '%s' is %s, the template declares another type", s->what,
                        c->name, c->is_float ? "a float" : "an integer");
        }
        LLVMSetInitializer(g, value);
        LLVMSetGlobalConstant(g, true);
        LLVMSetLinkage(g, LLVMPrivateLinkage);
        LLVMSetVisibility(g, LLVMDefaultVisibility);
    }
    return true;
}

static void replace_attribute(LLVMContextRef ctx, LLVMValueRef fn, const char *key,
                              const char *value)
{
    LLVMRemoveStringAttributeAtIndex(fn, FUNCTION, key, (u32)strlen(key));
    if (!*value) return;
    LLVMAttributeRef attr =
        LLVMCreateStringAttribute(ctx, key, (u32)strlen(key), value, (u32)strlen(value));
    LLVMAddAttributeAtIndex(fn, FUNCTION, attr);
}

/* Attributes of the bitcode would override the target machine, so they become the target's. */
static bool prepare_functions(Job *j)
{
    const CgSpec *s = j->spec;
    LLVMValueRef entry = LLVMGetNamedFunction(j->mod, s->entry);
    if (!entry || LLVMIsDeclaration(entry))
        return fail(j, "%s: there is no function '%s'", s->what, s->entry);
    for (LLVMValueRef f = LLVMGetFirstFunction(j->mod); f; f = LLVMGetNextFunction(f)) {
        if (LLVMGetIntrinsicID(f) != 0) continue;
        replace_attribute(j->ctx, f, "target-cpu", s->target->variant->cpu);
        replace_attribute(j->ctx, f, "target-features", s->target->variant->features);
        replace_attribute(j->ctx, f, "tune-cpu", s->target->tune);
        if (f == entry || LLVMIsDeclaration(f)) continue;
        LLVMSetVisibility(f, LLVMDefaultVisibility);
        LLVMSetLinkage(f, LLVMInternalLinkage);
    }
    LLVMSetValueName2(entry, s->symbol, strlen(s->symbol));
    LLVMSetLinkage(entry, LLVMExternalLinkage);
    LLVMSetVisibility(entry, LLVMHiddenVisibility);
    return true;
}

static bool optimise(Job *j)
{
    char *why = NULL;
    if (LLVMVerifyModule(j->mod, LLVMReturnStatusAction, &why)) {
        fail(j, "%s: the specialised template is not valid: %s", j->spec->what, why);
        LLVMDisposeMessage(why);
        return false;
    }
    LLVMDisposeMessage(why);
    j->opts = LLVMCreatePassBuilderOptions();
    LLVMErrorRef err = LLVMRunPasses(j->mod, "default<O3>", j->tm, j->opts);
    if (err) {
        char *text = LLVMGetErrorMessage(err);
        fail(j, "%s: %s", j->spec->what, text);
        LLVMDisposeErrorMessage(text);
    }
    return !j->out->error;
}

/* What a kernel may call: LLVM itself makes these out of loops. */
static bool check_calls(Job *j)
{
    static const char *const allowed[] = {"memcpy", "memset", "memmove"};
    for (LLVMValueRef f = LLVMGetFirstFunction(j->mod); f; f = LLVMGetNextFunction(f)) {
        if (!LLVMIsDeclaration(f) || LLVMGetIntrinsicID(f) != 0) continue;
        size_t len;
        const char *name = LLVMGetValueName2(f, &len);
        bool ok = false;
        for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
            ok = ok || str_eq(str_c(allowed[i]), (Str){name, len});
        if (!ok) return fail(j, "%s: the template calls '%.*s'", j->spec->what, (int)len, name);
    }
    return true;
}

static bool emit(Job *j)
{
    char *why = NULL;
    LLVMMemoryBufferRef buf = NULL;
    if (LLVMTargetMachineEmitToMemoryBuffer(j->tm, j->mod, LLVMObjectFile, &why, &buf)) {
        fail(j, "%s: LLVM cannot emit code: %s", j->spec->what, why);
        LLVMDisposeMessage(why);
        return false;
    }
    if (!j->out->error) {
        j->out->bytes = LLVMGetBufferSize(buf);
        j->out->data = xmalloc(j->out->bytes, 1);
        memcpy(j->out->data, LLVMGetBufferStart(buf), j->out->bytes);
    }
    LLVMDisposeMemoryBuffer(buf);
    return !j->out->error;
}

/* A relocatable with one read-only global, for data that the program carries. */
static bool emit_data(Job *j, Str data)
{
    j->ctx = LLVMContextCreate();
    j->mod = LLVMModuleCreateWithNameInContext(j->spec->symbol, j->ctx);
    LLVMSetSourceFileName(j->mod, j->spec->symbol, strlen(j->spec->symbol));
    LLVMValueRef text = LLVMConstStringInContext2(j->ctx, data.p, data.n, true);
    LLVMValueRef g = LLVMAddGlobal(j->mod, LLVMTypeOf(text), j->spec->symbol);
    LLVMSetInitializer(g, text);
    LLVMSetGlobalConstant(g, true);
    LLVMSetVisibility(g, LLVMHiddenVisibility);
    LLVMSetAlignment(g, 64);
    return make_machine(j) && emit(j);
}

static void job_end(Job *j)
{
    if (j->opts) LLVMDisposePassBuilderOptions(j->opts);
    if (j->mod) LLVMDisposeModule(j->mod);
    if (j->tm) LLVMDisposeTargetMachine(j->tm);
    if (j->ctx) LLVMContextDispose(j->ctx);
}

/* Runs one job with LLVM's fatal errors caught. `data` is NULL for a template. */
static void run(const CgSpec *spec, const Str *data, CgObject *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_llvm);
    *out = (CgObject){0};
    Job *j = xmalloc(1, sizeof *j); /* on the heap: it must survive longjmp unchanged */
    memset(j, 0, sizeof *j);
    j->spec = spec;
    j->out = out;
    current = j;
    if (setjmp(j->fatal) == 0) {
        if (data)
            emit_data(j, *data);
        else if (parse(j) && make_machine(j) && set_constants(j) && prepare_functions(j) &&
                 optimise(j) && check_calls(j))
            emit(j);
        current = NULL;
        job_end(j);
    } else {
        current = NULL; /* LLVM's objects are in an unknown state: they are left alone */
    }
    free(j);
}

void cg_specialise(const CgSpec *spec, CgObject *out)
{
    run(spec, NULL, out);
}

void cg_data_object(const char *symbol, Str data, CgObject *out)
{
    static const CgVariant baseline = {"baseline", "x86-64", "", 0};
    const CgTarget target = {&baseline, "generic"};
    const CgSpec spec = {.what = symbol, .symbol = symbol, .target = &target};
    run(&spec, &data, out);
}

void cg_object_free(CgObject *o)
{
    free(o->data);
    free(o->error);
    *o = (CgObject){0};
}

typedef struct Batch {
    const CgSpec *specs;
    CgObject *out;
    const u32 *order; /* in which they are taken */
} Batch;

static bool specialise_one(void *arg, u32 i)
{
    const Batch *b = arg;
    i = b->order[i];
    cg_specialise(&b->specs[i], &b->out[i]);
    return !b->out[i].error;
}

/* The largest template first: it takes longest, and nothing should wait for it at the end. */
static u32 *by_size(const CgSpec *specs, u32 n)
{
    u32 *order = xmalloc(n + 1, sizeof *order);
    for (u32 i = 0; i < n; i++) {
        u32 k = i;
        for (; k > 0 && specs[order[k - 1]].bitcode.n < specs[i].bitcode.n; k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
    return order;
}

bool cg_specialise_all(Diag *d, const CgSpec *specs, CgObject *out, u32 n, u32 threads)
{
    u32 *order = by_size(specs, n);
    Batch b = {specs, out, order};
    memset(out, 0, n * sizeof *out);
    cg_parallel(n, threads, specialise_one, &b);
    free(order);
    for (u32 i = 0; i < n; i++)
        if (out[i].error) return diag_error(d, E_LLVM, LOC_NONE, "%s", out[i].error);
    return true;
}
