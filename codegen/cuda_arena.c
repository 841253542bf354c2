/* Activations of a GPU code: which ones are tiles, which floats f16, and places where
 * these differ in size from those of the CPUs' plan. Contract: cuda_plan.h.
 *
 * The plan's places say which calls share a value: a buffer begins where a call writes a place, and
 * lives until the last call that reads it. What a phase reads and did not write (the hidden states
 * that @logits takes from @prefill) is the same buffer in every phase, for the program's life.
 */
#include "codegen/cuda_plan.h"

typedef struct Buf {
    CgPlace place; /* in the plan: CG_ACT, or CG_PRIVATE, which on a GPU is no different */
    u64 off, bytes;
    i32 first, last; /* calls; first -1: the phase did not write it */
    bool not_half;
    u64 size, to; /* in the code's arena */
} Buf;

typedef struct Bufs {
    VEC(Buf) all;
} Bufs;

static bool is_activation(const CgRef *r)
{
    return r->place == CG_ACT || r->place == CG_PRIVATE;
}

static bool covers(const Buf *b, const CgRef *r)
{
    return b->place == r->place && b->off <= r->off && r->off + r->bytes <= b->off + b->bytes;
}

/* The buffer that a place is in when a call begins: the last made that covers it. */
static Buf *find(Bufs *bufs, const CgRef *r)
{
    for (u32 i = bufs->all.n; i-- > 0;)
        if (covers(&bufs->all.at[i], r)) return &bufs->all.at[i];
    return NULL;
}

static Buf *add(CgMake *mk, Bufs *bufs, const CgRef *r, i32 first)
{
    const Buf b = {
        .place = r->place, .off = r->off, .bytes = r->bytes, .first = first, .last = first};
    vec_push(mk->a, &bufs->all, b);
    return &bufs->all.at[bufs->all.n - 1];
}

static u64 up1k(u64 n)
{
    return (n + 1023) / 1024 * 1024;
}

/* ---- buffers of a phase; per pick the buffers of its operands ---- */

typedef struct Sides { /* index into Bufs + 1; 0: not an activation */
    u32 in[CG_IN], out[CG_OUT];
} Sides;

static u32 index_of(const Bufs *bufs, const Buf *b)
{
    return (u32)(b - bufs->all.at) + 1;
}

static void collect_call(CgMake *mk, Bufs *bufs, const CgPick *pick, Sides *sides)
{
    for (u32 i = 0; i < CG_IN; i++) {
        const CgRef *r = &pick->c->in[i];
        if (!is_activation(r)) continue;
        Buf *b = find(bufs, r);
        if (!b) b = add(mk, bufs, r, -1);
        b->last = (i32)pick->index;
        sides->in[i] = index_of(bufs, b);
    }
    for (u32 i = 0; i < CG_OUT; i++) {
        const CgRef *r = &pick->c->out[i];
        if (!is_activation(r)) continue;
        Buf *b = NULL;
        for (u32 k = 0; k < CG_IN && !b; k++) /* in place */
            if (sides->in[k] && pick->c->in[k].place == r->place && pick->c->in[k].off == r->off &&
                pick->c->in[k].bytes == r->bytes)
                b = &bufs->all.at[sides->in[k] - 1];
        if (!b) b = add(mk, bufs, r, (i32)pick->index);
        sides->out[i] = index_of(bufs, b);
    }
}

static Sides *collect(CgMake *mk, u32 phase, Bufs *bufs)
{
    Sides *sides = NEWN(mk->a, Sides, mk->pick[phase].n + 1);
    bufs->all.n = 0;
    for (u32 i = 0; i < mk->pick[phase].n; i++) {
        const CgPick *pick = &mk->pick[phase].at[i];
        if (i && pick->index == pick[-1].index)
            sides[i] = sides[i - 1];
        else
            collect_call(mk, bufs, pick, &sides[i]);
    }
    return sides;
}

/* Buffers that a phase finds, one for all phases. */
static Buf *kept(Bufs *keep, const Buf *b)
{
    for (u32 i = 0; i < keep->all.n; i++)
        if (keep->all.at[i].place == b->place && keep->all.at[i].off == b->off &&
            keep->all.at[i].bytes == b->bytes)
            return &keep->all.at[i];
    return NULL;
}

/* All that some phase finds, placed from 0 on; returns the bytes that they take. */
static u64 keep_all(CgMake *mk, Bufs *keep)
{
    Bufs bufs = {0};
    u64 base = 0;
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++) {
        collect(mk, p, &bufs);
        for (u32 i = 0; i < bufs.all.n; i++) {
            Buf *b = &bufs.all.at[i];
            if (b->first >= 0 || kept(keep, b)) continue;
            b->to = base;
            base += up1k(b->bytes);
            vec_push(mk->a, &keep->all, *b);
        }
    }
    return base;
}

/* ---- tiles ---- */

static CgRowId row_of(const CgMake *mk, const CgPick *pick)
{
    return mk->p->kernels.at[pick->c->kernel].row;
}

/* The buffer of a pick that may be tiles: quantised rows that a linear reads, or floats, which it
 * then reads as bf16. 0: none. */
static u32 may_read(const CgMake *mk, const CgPick *pick, const Sides *s)
{
    const CgRowId row = row_of(mk, pick);
    const bool s8 = (i64)pick->c->val[C_fmt] == cg_format("s8") && cg_row_is(row, "linear");
    return s8 || row == ROW_LINEAR_BF16 ? s->in[0] : 0;
}

/* The same of what makes them: quantised rows or floats, of gate and up of bf16 floats. */
static u32 may_make(const CgMake *mk, const CgPick *pick, const Sides *s)
{
    const CgRowId row = row_of(mk, pick);
    const i64 fmt = (i64)pick->c->val[C_fmt];
    if (row == ROW_LINEAR_BF16)
        return (i64)pick->c->val[C_epi] == cg_epilogue("swiglu") ? s->out[0] : 0;
    const bool floats = fmt == cg_format("f32") && (row == ROW_NORM || row == ROW_ATTEND),
               bytes = fmt == cg_format("s8") && (row == ROW_NORM || row == ROW_QUANT ||
                                                  row == ROW_HADAMARD || row == ROW_ATTEND);
    return floats || bytes ? s->out[0] : 0;
}

enum { WANT_ROWS = 1, WANT_TILES = 2, WANTED = 4 };

/* What a pick's buffers have to be for it. */
static void add_wants(const CgMake *mk, const CgPick *pick, const Sides *s, u8 *want)
{
    const u32 read = may_read(mk, pick, s), made = may_make(mk, pick, s);
    want[read] |= WANTED | (pick->launch.tiles ? WANT_TILES : WANT_ROWS);
    if (!(cg_cuda_row_uses(pick->row) >> C_tiles & 1)) want[made] |= WANT_ROWS;
    for (u32 i = 0; i < CG_IN; i++) {
        if (s->in[i] != read) want[s->in[i]] |= WANT_ROWS;
        if (s->out[i] != made) want[s->out[i]] |= WANT_ROWS;
    }
}

/* What each buffer's users can take, as a set; then those that cannot have what they want give way.
 */
static bool agree(CgMake *mk, u32 phase, const Bufs *bufs, const Sides *sides)
{
    u8 *want = NEWN(mk->a, u8, bufs->all.n + 1); /* of 0, no buffer, it says nothing */
    bool ok = true;
    for (u32 i = 0; i < mk->pick[phase].n; i++)
        add_wants(mk, &mk->pick[phase].at[i], &sides[i], want);
    want[0] = 0;
    for (u32 i = 0; i < mk->pick[phase].n; i++) {
        CgPick *pick = &mk->pick[phase].at[i];
        pick->reads_tiles = want[may_read(mk, pick, &sides[i])] == (WANT_TILES | WANTED);
        pick->tiles = want[may_make(mk, pick, &sides[i])] == (WANT_TILES | WANTED);
        if (!pick->launch.tiles || pick->reads_tiles) continue;
        mk->no_tiles[phase][pick->index] = true;
        ok = false;
    }
    return ok;
}

bool cg_cuda_tiles(CgMake *mk)
{
    bool ok = true;
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++) {
        Bufs bufs = {0};
        const Sides *sides = collect(mk, p, &bufs);
        ok = agree(mk, p, &bufs, sides) && ok;
    }
    return ok;
}

/* ---- halves ---- */

/* The operands that c_half is about: the floats of a linear, what norms and their like read, rows.
 */
static bool may_be_half(const CgMake *mk, const CgPick *pick, bool out, u32 i)
{
    const CgRowId row = mk->p->kernels.at[pick->c->kernel].row;
    if (!pick->launch.half && !(cg_cuda_row_uses(pick->row) >> C_half & 1)) return false;
    if (cg_row_is(row, "linear"))
        return (i64)pick->c->val[C_epi] != cg_epilogue("qkv") && i == (out ? 0 : 2);
    return (row == ROW_NORM || row == ROW_QUANT || row == ROW_HADAMARD) && !out && i == 0;
}

bool cg_cuda_half(const CgMake *mk, const CgPick *pick, bool out, u32 i)
{
    return pick->half && may_be_half(mk, pick, out, i);
}

typedef struct Halves { /* of a phase */
    Bufs bufs;
    const Sides *sides;
    bool * not; /* [bufs + 1] */
} Halves;

/* Whether all that may be f16 of a pick is. */
static bool all_half(const CgMake *mk, const CgPick *pick, const Sides *s, const bool * not)
{
    u32 n = 0;
    for (u32 i = 0; i < 2 * CG_IN; i++) {
        const bool out = i >= CG_IN;
        const u32 k = i % CG_IN, b = out ? s->out[k] : s->in[k];
        const CgRef *r = out ? &pick->c->out[k] : &pick->c->in[k];
        if (!may_be_half(mk, pick, out, k) || r->place == CG_NONE) continue;
        if (!b || not[b]) return false; /* 0: not an activation, but logits */
        n++;
    }
    return n > 0;
}

/* Marks the buffers of a pick that it keeps from being f16; whether there are new ones. */
static bool mark(const CgMake *mk, const CgPick *pick, const Sides *s, bool * not)
{
    const bool half = all_half(mk, pick, s, not);
    bool more = false;
    for (u32 i = 0; i < CG_IN; i++) {
        const u32 b[2] = {s->in[i], s->out[i]};
        for (u32 o = 0; o < 2; o++) {
            if (!b[o] || not[b[o]] || (half && may_be_half(mk, pick, o, i))) continue;
            not[b[o]] = more = true;
        }
    }
    return more;
}

/* The same of a phase; its buffers that other phases find are as these have them. */
static bool mark_phase(CgMake *mk, u32 phase, Halves *h, Bufs *keep)
{
    bool more = false;
    for (u32 i = 0; i < mk->pick[phase].n; i++)
        more = mark(mk, &mk->pick[phase].at[i], &h->sides[i], h->not) || more;
    for (u32 i = 0; i < h->bufs.all.n; i++) {
        Buf *k = kept(keep, &h->bufs.all.at[i]);
        if (!k || k->not_half == h->not[i + 1]) continue;
        k->not_half = h->not[i + 1] = more = true;
    }
    return more;
}

static bool set_halves(CgMake *mk, u32 phase, const Halves *h)
{
    bool ok = true;
    for (u32 i = 0; i < mk->pick[phase].n; i++) {
        CgPick *pick = &mk->pick[phase].at[i];
        pick->half = all_half(mk, pick, &h->sides[i], h->not);
        if (!pick->launch.half || pick->half) continue;
        mk->no_half[phase][pick->index] = true;
        ok = false;
    }
    return ok;
}

/* A buffer is f16 if all its users can have it so, in all numbers of rows and all phases. */
bool cg_cuda_halves(CgMake *mk)
{
    Bufs keep = {0};
    Halves h[PFQ_CUDA_N_PHASES] = {0};
    keep_all(mk, &keep);
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++) {
        h[p].sides = collect(mk, p, &h[p].bufs);
        h[p].not = NEWN(mk->a, bool, h[p].bufs.all.n + 1);
    }
    for (bool more = true; more;) {
        more = false;
        for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++)
            more = mark_phase(mk, p, &h[p], &keep) || more;
    }
    bool ok = true;
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++)
        ok = set_halves(mk, p, &h[p]) && ok;
    return ok;
}

/* ---- places ---- */

/* First fit above `base`, behind the buffers that live at the same time. */
static void place(Bufs *bufs, u32 n, u64 base)
{
    Buf *b = &bufs->all.at[n];
    b->to = base;
    for (bool moved = true; moved;) {
        moved = false;
        for (u32 i = 0; i < n; i++) {
            const Buf *o = &bufs->all.at[i];
            if (o->first < 0 || o->last < b->first || b->last < o->first ||
                o->to + o->size <= b->to || b->to + b->size <= o->to)
                continue;
            b->to = o->to + o->size;
            moved = true;
        }
    }
}

static void size_buffers(const CgMake *mk, u32 phase, Bufs *bufs, const Sides *sides)
{
    for (u32 i = 0; i < bufs->all.n; i++)
        bufs->all.at[i].size = up1k(bufs->all.at[i].bytes);
    for (u32 i = 0; i < mk->pick[phase].n; i++) {
        const CgPick *pick = &mk->pick[phase].at[i];
        if (!pick->reads_tiles) continue;
        const u32 b = may_read(mk, pick, &sides[i]);
        const u64 k = (u64)pick->c->val[C_K] * (row_of(mk, pick) == ROW_LINEAR_BF16 ? 2 : 1);
        bufs->all.at[b - 1].size = up1k((k + 127) / 128 * 128 * (u64)cg_cuda_capacity(mk));
    }
}

static void move(CgRef *r, const Bufs *bufs, u32 b)
{
    if (!b) return;
    r->off = bufs->all.at[b - 1].to + (r->off - bufs->all.at[b - 1].off);
    r->place = CG_ACT;
}

static void place_phase(CgMake *mk, u32 phase, Bufs *keep, u64 base)
{
    Bufs bufs = {0};
    const Sides *sides = collect(mk, phase, &bufs);
    size_buffers(mk, phase, &bufs, sides);
    for (u32 i = 0; i < bufs.all.n; i++) {
        Buf *b = &bufs.all.at[i];
        const Buf *k = kept(keep, b);
        if (k)
            b->to = k->to, b->first = -1;
        else
            place(&bufs, i, base);
        if (b->to + b->size > mk->code->act_bytes) mk->code->act_bytes = b->to + b->size;
    }
    for (u32 i = 0; i < mk->pick[phase].n; i++) {
        CgPick *pick = &mk->pick[phase].at[i];
        for (u32 k = 0; k < CG_IN; k++) {
            move(&pick->in[k], &bufs, sides[i].in[k]);
            move(&pick->out[k], &bufs, sides[i].out[k]);
        }
    }
}

void cg_cuda_arena(CgMake *mk)
{
    bool tiles = false;
    Bufs keep = {0};
    const u64 base = keep_all(mk, &keep);
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++)
        for (u32 i = 0; i < mk->pick[p].n; i++)
            tiles = tiles || mk->pick[p].at[i].reads_tiles;
    mk->code->act_bytes = tiles ? base : mk->p->act_bytes;
    mk->code->own_bytes = tiles ? 0 : mk->p->scratch_bytes - mk->p->kernel_scratch;
    if (!tiles) return;
    for (u32 p = 0; p < PFQ_CUDA_N_PHASES; p++)
        place_phase(mk, p, &keep, base);
}
