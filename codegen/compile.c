/* cg_compile: plan, specialise, write the weights, emit the sources, link. */
#include "codegen/plan.h"

#include "ir/base/meter.h" /* cpu_count */
#include "ir/base/spans.h"
#include "ir/text.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

typedef struct Compile {
    Diag *d;
    Arena *a;
    CgPlan plan;
    CgOptions opt; /* threads resolved */
    CgBuild build;
    CgTargets targets;
    CgCuda cuda;
    CgObject *objects; /* [n_cpu * kernels], then the tokenizer's, the chat templates' and CUDA's */
    u32 n_objects;
    char *src;
    CgResult *res;
} Compile;

/* The model's name becomes file names. */
static bool check_name(Diag *d, const char *name)
{
    static const char *const ours[] = {"src",         "ir",         "plan.json",
                                       "passes.json", "model.pfir", "inspect.html"};
    bool ok = *name && *name != '.' && *name != '-' && strlen(name) <= 100;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        ok = ok && strcmp(name, ours[i]) != 0;
    for (const char *p = name; *p; p++)
        ok = ok && ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                    (*p >= '0' && *p <= '9') || strchr("._-", *p));
    if (ok) return true;
    diag_error(d, E_FILE_WRITE, LOC_WHAT("name"), "the model's name '%s' cannot name the program",
               name);
    diag_hint(d, "use letters, digits, '.', '_' and '-', beginning with a letter or digit; not "
                 "src, ir, plan.json, passes.json, model.pfir or inspect.html");
    return false;
}

/* Bytes that the program carries. */
static bool add_data(Compile *c, const char *symbol, const void *data, u64 bytes)
{
    CgObject *o = &c->objects[c->n_objects++];
    cg_data_object(symbol, (Str){data, bytes}, o);
    return !o->error || diag_error(c->d, E_LLVM, LOC_NONE, "%s", o->error);
}

static bool specialise(Compile *c)
{
    const CgPlan *p = &c->plan;
    const u32 n = c->targets.n_cpu * p->kernels.n;
    CgSpec *specs = NEWN(c->a, CgSpec, n);
    c->objects = NEWN(c->a, CgObject, n + 3);
    for (u32 i = 0; i < n; i++) {
        const CgTarget *t = &c->targets.cpu[i / p->kernels.n];
        const CgKernel *k = &p->kernels.at[i % p->kernels.n];
        const CgRow *row = &cg_rows[k->row];
        CgConst *consts = NEWN(c->a, CgConst, CG_N_CONSTS);
        u32 nc = 0;
        for (u32 j = 0; j < CG_N_CONSTS; j++)
            if (k->uses >> j & 1)
                consts[nc++] = (CgConst){cg_const_info[j].name, cg_const_info[j].is_float,
                                         (i64)k->val[j], k->val[j]};
        specs[i] = (CgSpec){
            .what = row->name, .entry = row->entry, .consts = consts, .n_consts = nc, .target = t};
        specs[i].symbol = arena_printf(c->a, "%s_%s", t->variant->name, k->name);
        const char *bc = arena_printf(c->a, "%s/%.*s.bc", t->variant->name,
                                      (int)strcspn(row->template, "."), row->template);
        if (!cg_embedded_find(bc, &specs[i].bitcode))
            return diag_error(c->d, E_KERNEL, LOC_NONE, "there is no template %s", bc);
    }
    c->n_objects = n;
    if (!cg_specialise_all(c->d, specs, c->objects, n, c->opt.threads)) return false;
    return (!c->opt.tokenizer ||
            add_data(c, "pfq_tokenizer_blob", c->opt.tokenizer, c->opt.tokenizer_bytes)) &&
           (!c->opt.chat || add_data(c, "pfq_chat_blob", c->opt.chat, c->opt.chat_bytes)) &&
           (!c->build.cuda || add_data(c, "pfq_cuda_code", c->cuda.blob, c->cuda.bytes));
}

static bool write_text(Compile *c, const char *dir, const char *name, const StrBuf *b)
{
    return io_write_file(c->d, c->a, io_join(c->a, dir, name), b->p, b->n);
}

/* Kernels have a source each, on GPUs those with code of their own. */
static u32 n_sources(const Compile *c, bool cuda)
{
    return cuda ? c->cuda.kernels.n : c->plan.kernels.n;
}

static const char *source_name(const Compile *c, bool cuda, u32 i)
{
    return cuda ? c->cuda.kernels.at[i].name : c->plan.kernels.at[i].name;
}

/* Kernels that an earlier compile left in the folder: files NAME + suffix, but for those that this
 * one writes. Only files that begin as ours do are removed. */
static void remove_stale(Compile *c, bool cuda, const char *dir, const char *suffix, bool written)
{
    DIR *list = opendir(dir);
    for (const struct dirent *e; list && (e = readdir(list));) {
        const size_t all = strlen(e->d_name), n = all - strlen(suffix);
        if (all > 200 || all <= strlen(suffix) || strcmp(e->d_name + n, suffix) != 0) continue;
        bool current = false;
        for (u32 i = 0; written && i < n_sources(c, cuda); i++) {
            const char *name = source_name(c, cuda, i);
            current = current || (strlen(name) == n && strncmp(name, e->d_name, n) == 0);
        }
        char want[256], have[256];
        const size_t len = (size_t)snprintf(want, sizeof want, "/* %.*s: ", (int)n, e->d_name);
        const char *path = io_join(c->a, dir, e->d_name);
        const int fd = current ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0) continue;
        if (read(fd, have, len) == (ssize_t)len && memcmp(want, have, len) == 0) unlink(path);
        close(fd);
    }
    if (list) closedir(list);
}

static bool write_kernel(Compile *c, bool cuda, u32 i, const char *dir, const char *suffix)
{
    if (cuda && c->cuda.kernels.at[i].source != i) return true;
    StrBuf b = {.a = c->a};
    if (cuda)
        cg_emit_cuda_kernel(&c->cuda, i, &b);
    else
        cg_emit_kernel(&c->build, i, &b);
    return write_text(c, dir, arena_printf(c->a, "%s%s", source_name(c, cuda, i), suffix), &b);
}

/* One file per kernel in `kernels`, what they include in `templates`. */
static bool write_kernels(Compile *c, bool cuda, const char *kernels, const char *templates)
{
    const char *prefix = cuda ? "cuda/" : "cpu/", *suffix = cuda ? ".cu" : ".c", *name;
    const bool wanted = cuda ? c->targets.n_gpu > 0 : c->targets.n_cpu > 0;
    remove_stale(c, cuda, kernels, suffix, wanted);
    if (!wanted) return true;
    if (!io_mkdirs(c->d, kernels) || !io_mkdirs(c->d, templates)) return false;
    for (u32 i = 0; (name = cg_embedded_name(i)); i++) {
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        StrBuf b = {.a = c->a};
        cg_emit_template(name, &b);
        if (!write_text(c, templates, name + strlen(prefix), &b)) return false;
    }
    bool ok = true;
    for (u32 i = 0; ok && i < n_sources(c, cuda); i++)
        ok = write_kernel(c, cuda, i, kernels, suffix);
    return ok;
}

/* The module that all of it was made of, for readers: files are named without their folders, which
 * differ from machine to machine. */
static void print_module(Compile *c, StrBuf *out)
{
    Module *m = c->plan.m;
    StrId *path = NEWN(c->a, StrId, m->files.n);
    for (u32 i = 0; i < m->files.n; i++) {
        path[i] = m->files.at[i].path;
        const char *name = strrchr(ir_cstr(m, path[i]), '/');
        if (name) m->files.at[i].path = ir_str(m, name + 1);
    }
    ir_print(m, out);
    for (u32 i = 0; i < m->files.n; i++)
        m->files.at[i].path = path[i];
}

static bool write_sources(Compile *c)
{
    const char *cuda = io_join(c->a, c->src, "cuda");
    if (!io_mkdirs(c->d, c->src) ||
        !write_kernels(c, false, io_join(c->a, c->src, "kernels"),
                       io_join(c->a, c->src, "templates")) ||
        !write_kernels(c, true, cuda, io_join(c->a, cuda, "templates")))
        return false;
    Str abi;
    if (!cg_embedded_find("abi.h", &abi)) BUG("abi.h is not embedded");
    StrBuf model = {.a = c->a}, plan = {.a = c->a}, passes = {.a = c->a}, ir = {.a = c->a};
    cg_emit_model(&c->build, &model);
    cg_emit_plan_json(&c->build, &plan);
    cg_emit_passes_json(&c->build, &passes);
    print_module(c, &ir);
    return io_write_file(c->d, c->a, io_join(c->a, c->src, "abi.h"), abi.p, abi.n) &&
           write_text(c, c->src, "model.c", &model) &&
           write_text(c, c->opt.out_dir, "plan.json", &plan) &&
           write_text(c, c->opt.out_dir, "passes.json", &passes) &&
           write_text(c, c->opt.out_dir, "model.pfir", &ir);
}

static CgInput *link_inputs(Compile *c, u32 *n, u64 *bytes)
{
    CgInput *in = NEWN(c->a, CgInput, c->n_objects + 1);
    *n = 0;
    *bytes = 0;
    for (u32 i = 0; i < c->n_objects; i++)
        in[(*n)++] = (CgInput){"kernel", {(const char *)c->objects[i].data, c->objects[i].bytes}};
    in[*n].name = "runtime";
    if (!cg_embedded_find("libpfqrt.a", &in[(*n)++].data)) BUG("the runtime is not embedded");
    for (u32 i = 0; i < *n; i++)
        *bytes += in[i].data.n;
    return in;
}

/* Links to a temporary of its own, because a linker replaces its output file, and copies it to the
 * start of `f`. */
static bool link_to(Compile *c, const CgInput *in, u32 n, const char *binary, OutFile *f, u64 *size)
{
    OutFile *tmp = io_create(c->d, c->a, arena_printf(c->a, "%s.link", binary));
    if (!tmp) return false;
    MappedFile linked = {0};
    bool ok = cg_link(c->d, c->a, c->src, in, n, io_temp_path(tmp)) &&
              io_map(c->d, c->a, io_temp_path(tmp), &linked) &&
              io_pwrite(f, linked.data, linked.size, 0);
    *size = linked.size;
    if (linked.data) io_unmap(&linked);
    io_discard(tmp);
    return ok;
}

static u64 up64k(u64 n)
{
    return (n + PFQ_IMAGE_ALIGN - 1) / PFQ_IMAGE_ALIGN * PFQ_IMAGE_ALIGN;
}

/* Weights come first: the program holds the image's id, which is made of its checksums. An embedded
 * image is therefore placed before the program is linked, behind a bound of its size: what goes in,
 * the schedule, and start-up code. */
static bool build(Compile *c, OutFile *bin, OutFile *weights)
{
    u32 n_in;
    u64 bytes;
    const CgInput *in = link_inputs(c, &n_in, &bytes);
    u64 calls = 0; /* of CPUs some 512 bytes of code each, of GPUs tables */
    for (u32 i = 0; i < CG_N_PHASES; i++)
        calls += 512 * c->plan.phase[i].calls.n;
    for (u32 i = 0; i < c->cuda.n_codes; i++)
        calls += cg_cuda_table_bytes(&c->cuda, &c->cuda.code[i]);
    const u64 at = c->opt.embed_weights ? up64k(bytes + calls + (256u << 10)) : 0;
    u32 span = span_begin("weight image");
    if (!cg_write_weights(c->d, &c->plan, weights ? weights : bin, at, &c->opt)) return false;
    span_end(span, NULL);
    span = span_begin("sources and link");
    if (!write_sources(c) || !link_to(c, in, n_in, c->res->binary, bin, &c->res->binary_bytes))
        return false;
    span_end(span, NULL);
    c->res->weight_bytes = c->plan.data_bytes;
    if (weights) return true;
    if (c->res->binary_bytes > at)
        return diag_error(c->d, E_LINK, LOC_NONE, "the program has %llu bytes, more than its parts",
                          (unsigned long long)c->res->binary_bytes);
    PfqImageTrailer tail;
    pfq_image_trailer(&tail, at, c->plan.total_bytes, c->plan.image_id);
    c->res->binary_bytes = at + c->plan.total_bytes + sizeof tail;
    return io_pwrite(bin, &tail, sizeof tail, at + c->plan.total_bytes);
}

/* Lets the first start read the weights in huge pages (image.h); where that fails they are only
 * slower. */
static void settle(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)pfq_image_settle(fd);
    close(fd);
}

static bool write_all(Compile *c)
{
    OutFile *bin = io_create(c->d, c->a, c->res->binary);
    OutFile *weights = c->res->weights && bin ? io_create(c->d, c->a, c->res->weights) : NULL;
    bool ok = bin && (weights || !c->res->weights) && build(c, bin, weights);
    if (ok && weights) {
        ok = io_commit(weights, 0666);
        weights = NULL;
        settle(c->res->weights);
    }
    if (ok) {
        ok = io_commit(bin, 0777);
        if (!c->res->weights) settle(c->res->binary);
        return ok;
    }
    if (weights) io_discard(weights);
    if (bin) io_discard(bin);
    return false;
}

bool cg_compile(Diag *d, Module *m, const CgOptions *opt, CgResult *res)
{
    const char *name = ir_cstr(m, m->name);
    Compile c = {.d = d, .a = m->a, .opt = *opt, .res = res};
    *res = (CgResult){0};
    if (!c.opt.threads) c.opt.threads = cpu_count();
    if (!check_name(d, name)) return false;
    if (!cg_targets(d, c.a, opt->targets, opt->n_targets, &c.targets) ||
        !cg_plan(d, c.a, m, &c.plan) || (!c.targets.n_cpu && !cg_plan_generate(d, &c.plan)))
        return false;
    c.build = (CgBuild){&c.plan, &c.targets, c.targets.n_gpu ? &c.cuda : NULL, &c.opt};
    c.src = io_join(c.a, opt->out_dir, "src");
    res->binary = io_join(c.a, opt->out_dir, name);
    if (!opt->embed_weights)
        res->weights = arena_printf(c.a, "%s%s", res->binary, PFQ_IMAGE_SUFFIX);
    res->n_kernels = c.plan.kernels.n;
    res->n_variants = c.targets.n_cpu + c.targets.n_gpu;
    u32 span = span_begin("kernels");
    bool ok = (!c.build.cuda || cg_cuda(d, &c.plan, &c.targets, &c.opt, &c.cuda)) &&
              io_mkdirs(d, opt->out_dir) && specialise(&c);
    span_end(span, arena_printf(c.a, "%u kernels", res->n_kernels));
    span = span_begin("logits for self-test");
    ok = ok && cg_expect(d, &c.plan);
    span_end(span, NULL);
    ok = ok && write_all(&c);
    for (u32 i = 0; i < c.n_objects; i++)
        cg_object_free(&c.objects[i]);
    cg_cuda_free(&c.cuda);
    return ok;
}
