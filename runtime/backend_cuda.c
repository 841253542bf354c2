/* The phases on a GPU. Contract: backend.h; the work is in cuda.c. */
#include "runtime/backend.h"

static bool cuda_choose(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err)
{
    const PfqGpuWish wish = {c->cuda_driver, c->cuda_device, c->cuda_code};
    if (!pfq_gpu_choose(&e->gpu_choice, e->model, &wish, err)) {
        return false;
    }
    e->code = e->gpu_choice.code->target;
    e->chip = e->gpu_choice.name;
    return true;
}

static bool cuda_open(PfqEngine *e, const PfqEngineConfig *c, PfqErr *err)
{
    const uint64_t row = (uint64_t)e->model->vocab * sizeof *e->logits,
                   pages = ((uint64_t)e->slots * row + PFQ_HUGE_PAGE - 1) / PFQ_HUGE_PAGE;
    const PfqGpuConfig config = {.weights = e->image.data,
                                 .logits = e->logits,
                                 .pinned_bytes =
                                     pages * PFQ_HUGE_PAGE, /* pfq_map_buffer has room */
                                 .ctx = pfq_padded_ctx(e),
                                 .slots = e->slots + e->spare,
                                 .rows = e->slots,
                                 .sync = c->cuda_sync,
                                 .plain = c->cuda_graph,
                                 .alone = e->exact};
    e->gpu = pfq_gpu_open(&e->gpu_choice, e->model, &config, err);
    return e->gpu != NULL;
}

static void cuda_close(PfqEngine *e)
{
    pfq_gpu_close(e->gpu);
    e->gpu = NULL;
}

static bool cuda_run(PfqEngine *e, PfqPhaseId phase, const int32_t *tokens, int32_t n, PfqErr *err)
{
    const PfqRow at = {.pos = e->pos, .slot = e->slot};
    return pfq_gpu_run(e->gpu, phase, tokens, n, at, e->logits, err);
}

static bool cuda_batch(PfqEngine *e, const int32_t *tokens, const PfqRow *rows, int32_t n,
                       PfqDraw *draw, PfqErr *err)
{
    return pfq_gpu_batch(e->gpu, tokens, rows, n, draw, e->logits, err);
}

static bool cuda_copy(PfqEngine *e, PfqRow from, PfqRow to, int32_t n, PfqErr *err)
{
    return pfq_gpu_copy(e->gpu, from, to, n, err);
}

const PfqBackend pfq_backend_cuda = {.name = "cuda",
                                     .title = "CUDA",
                                     .choose = cuda_choose,
                                     .open = cuda_open,
                                     .close = cuda_close,
                                     .run = cuda_run,
                                     .batch = cuda_batch,
                                     .copy = cuda_copy,
                                     .turn = 256};
