#include "inspect/sizes.h"

#include "inspect/plan.h"

#include "ir/encoding.h"
#include "ir/text.h"

#include <stdlib.h>

static void add(Arena *a, Sizes *s, Str name, Str layout, i64 bytes)
{
    i64 layer;
    bool added;
    const Str role = plan_role(a, name, &layer);
    u32 *at =
        map_put(&s->index, str_c(arena_printf(a, "%.*s %.*s", STRF(role), STRF(layout))), &added);
    if (added) {
        *at = s->list.n;
        vec_push(a, &s->list, ((Size){role, layout, 0, 0, s->list.n}));
    }
    Size *z = &s->list.at[*at];
    z->bytes += bytes;
    z->n++;
    s->most = z->bytes > s->most ? z->bytes : s->most;
}

static void add_tensor(Arena *a, Sizes *s, Module *m, const Op *op)
{
    const Type *t = type_of(m, op->out);
    const char *enc = op_str(m, op, A_ENC);
    const EncId id = enc_by_name(str_c(enc));
    u64 bytes = 0;
    if (op->kind == OP_TENSOR && (!id || !enc_bytes(id, (u64)type_elems(t), &bytes))) return;
    if (bytes > (u64)1 << 53) return;
    const char *layout = arena_printf(a, "%s %s", op->kind == OP_TENSOR ? enc : "synthetic",
                                      strchr(ir_type_text(m, t), '['));
    add(a, s, str_c(ir_cstr(m, value_at(m, op->out)->name)), str_c(layout), (i64)bytes);
}

/* The largest first; equal ones as they came. */
static int by_bytes(const void *x, const void *y)
{
    const Size *a = x, *b = y;
    return a->bytes != b->bytes ? (a->bytes < b->bytes) - (a->bytes > b->bytes)
                                : (a->first > b->first) - (a->first < b->first);
}

/* Sections that are made while the program loads have no bytes in the image: those of the module.
 */
static i64 section_bytes(const View *v, const PlSection *x)
{
    const u32 *value = v->m && !x->bytes ? map_get(&v->m->const_map, x->name) : NULL;
    const Type *t = value ? type_of(v->m, *value) : NULL;
    return t && t->dt == DT_U8 && t->rank == 1 && t->dim[0] > 0 ? t->dim[0] : x->bytes;
}

Sizes sizes_of(Arena *a, const View *v)
{
    Sizes s = {.index = {.a = a}, .most = 1};
    for (u32 i = 0; v->plan && i < v->plan->section.n; i++) {
        const PlSection *x = &v->plan->section.at[i];
        add(a, &s, x->name, x->layout, section_bytes(v, x));
    }
    for (u32 i = 0; !v->plan && v->m && i < v->m->consts.n; i++) {
        const Op *op = op_at(v->m, v->m->consts.at[i]);
        if (op->kind == OP_TENSOR || op->kind == OP_SYNTHETIC) add_tensor(a, &s, v->m, op);
    }
    if (s.list.n) qsort(s.list.at, s.list.n, sizeof *s.list.at, by_bytes);
    return s;
}
