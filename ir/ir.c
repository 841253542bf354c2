#include "ir/ir.h"

/* ---- tables ---- */

const DTypeInfo dtype_info[DT_COUNT] = {
    {"none", 0, false, 0, 0},
#define X(id, name, bits, is_float, lo, hi) {name, bits, is_float, lo, hi},
#include "ir/dtypes.def"
#undef X
};

const AttrInfo attr_info[A_COUNT] = {
    {"", AK_INT, 0, ""},
#define X(id, name, kind, def, doc) {name, AK_##kind, def, doc},
#include "ir/attrs.def"
#undef X
};

enum { LEAF = OPF_LEAF, CONST = OPF_CONST, STATEFUL = OPF_STATEFUL };

const OpInfo op_info[OP_COUNT] = {
    {"none", 0, 0, 0, 0, "", TILE_NONE, ""},
#define X(id, mnemonic, lo, hi, nout, flags, attrs, type, eval, tile, effect)                      \
    {mnemonic, lo, hi, nout, flags, attrs, TILE_##tile, effect},
#include "ir/ops.def"
#undef X
};

DType dtype_by_name(Str s)
{
    for (int i = 1; i < DT_COUNT; i++)
        if (str_is(s, dtype_info[i].name)) return (DType)i;
    return DT_NONE;
}

OpKind op_by_name(Str s)
{
    for (int i = 1; i < OP_COUNT; i++)
        if (str_is(s, op_info[i].mnemonic)) return (OpKind)i;
    return OP_NONE;
}

/* ---- module ---- */

Module *ir_module_new(Arena *a, const char *name, const char *dir)
{
    Module *m = NEW(a, Module);
    m->a = a;
    m->dir = arena_strdup(a, dir, strlen(dir));
    m->type_map.a = m->str_map.a = m->const_map.a = a;
    vec_push(a, &m->types, (Type){0}); /* handle 0 is none everywhere */
    vec_push(a, &m->ops, (Op){0});
    vec_push(a, &m->values, (Value){0});
    vec_push(a, &m->fns, (Fn){0});
    vec_push(a, &m->strs, "");
    m->name = ir_str(m, name);
    return m;
}

StrId ir_strn(Module *m, Str s)
{
    if (s.n == 0) return 0;
    bool added;
    u32 *slot = map_put(&m->str_map, s, &added);
    if (added) {
        *slot = m->strs.n;
        vec_push(m->a, &m->strs, arena_strdup(m->a, s.p, s.n));
    }
    return *slot;
}

StrId ir_str(Module *m, const char *s)
{
    return ir_strn(m, str_c(s));
}
const char *ir_cstr(const Module *m, StrId s)
{
    return m->strs.at[s];
}

TypeId ir_type(Module *m, DType dt, u32 rank, const i64 *dim)
{
    if (rank > MAX_RANK) BUG("rank %u", rank);
    Type t = {.dt = dt, .rank = rank};
    for (u32 i = 0; i < rank; i++)
        t.dim[i] = dim[i];
    bool added;
    u32 *slot = map_put(&m->type_map, (Str){(const char *)&t, sizeof t}, &added);
    if (added) {
        *slot = m->types.n;
        vec_push(m->a, &m->types, t);
    }
    return *slot;
}

TypeId ir_type2(Module *m, DType dt, i64 rows, i64 cols)
{
    return ir_type(m, dt, 2, (const i64[]){rows, cols});
}

const Type *type_of(const Module *m, ValueId v)
{
    return &m->types.at[m->values.at[v].type];
}

static i64 product(const i64 *dim, u32 n)
{
    i64 r = 1;
    for (u32 i = 0; i < n; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(r, dim[i], &r)) return -1;
    return r;
}

i64 type_elems(const Type *t)
{
    return product(t->dim, t->rank);
}
i64 type_cols(const Type *t)
{
    return t->rank ? t->dim[t->rank - 1] : 1;
}
i64 type_rows(const Type *t)
{
    return t->rank ? product(t->dim, t->rank - 1) : 1;
}

u32 ir_fn_new(Module *m, const char *name)
{
    Fn f = {.name = ir_str(m, name)};
    vec_push(m->a, &m->fns, f);
    return m->fns.n - 1;
}

Fn *ir_fn(Module *m, const char *name)
{
    for (u32 i = 1; i < m->fns.n; i++)
        if (strcmp(ir_cstr(m, m->fns.at[i].name), name) == 0) return &m->fns.at[i];
    return NULL;
}

static ValueId value_new(Module *m, Value v)
{
    vec_push(m->a, &m->values, v);
    return m->values.n - 1;
}

ValueId ir_param(Module *m, u32 fn, const char *name, TypeId type)
{
    Fn *f = &m->fns.at[fn];
    ValueId v = value_new(
        m, (Value){.type = type, .fn = fn, .index = f->params.n, .name = ir_str(m, name)});
    vec_push(m->a, &f->params, v);
    return v;
}

u32 ir_file(Module *m, const char *path, u64 bytes)
{
    StrId p = ir_str(m, path);
    for (u32 i = 0; i < m->files.n; i++)
        if (m->files.at[i].path == p) return i;
    File f = {.path = p, .bytes = bytes};
    vec_push(m->a, &m->files, f);
    return m->files.n - 1;
}

/* ---- metadata ---- */

static KeyVal *meta_find(const Module *m, const char *key)
{
    for (u32 i = 0; i < m->meta.n; i++)
        if (strcmp(ir_cstr(m, m->meta.at[i].key), key) == 0) return &m->meta.at[i];
    return NULL;
}

static KeyVal *meta_slot(Module *m, const char *key)
{
    KeyVal *kv = meta_find(m, key);
    if (kv) return kv;
    vec_push(m->a, &m->meta, (KeyVal){.key = ir_str(m, key)});
    u32 i = m->meta.n - 1; /* keep sorted: dumps must not depend on the order of insertion */
    for (; i > 0 && strcmp(ir_cstr(m, m->meta.at[i - 1].key), key) > 0; i--)
        m->meta.at[i] = m->meta.at[i - 1];
    m->meta.at[i] = (KeyVal){.key = ir_str(m, key)};
    return &m->meta.at[i];
}

void ir_meta_int(Module *m, const char *key, i64 v)
{
    KeyVal *kv = meta_slot(m, key);
    kv->kind = AK_INT;
    kv->val.i = v;
}

void ir_meta_float(Module *m, const char *key, double v)
{
    KeyVal *kv = meta_slot(m, key);
    kv->kind = AK_FLOAT;
    kv->val.f = v;
}

void ir_meta_str(Module *m, const char *key, const char *v)
{
    StrId s = ir_str(m, v);
    KeyVal *kv = meta_slot(m, key);
    kv->kind = AK_STR;
    kv->val.s = s;
}

i64 ir_meta_get_int(const Module *m, const char *key, i64 def)
{
    const KeyVal *kv = meta_find(m, key);
    return kv && kv->kind == AK_INT ? kv->val.i : def;
}

const char *ir_meta_get_str(const Module *m, const char *key, const char *def)
{
    const KeyVal *kv = meta_find(m, key);
    return kv && kv->kind == AK_STR ? ir_cstr(m, kv->val.s) : def;
}

/* ---- attributes ---- */

const Attr *op_attr(const Op *op, AttrId id)
{
    for (u32 i = 0; i < op->nattr; i++)
        if (op->attr[i].id == id) return &op->attr[i];
    return NULL;
}

i64 op_int(const Op *op, AttrId id)
{
    const Attr *a = op_attr(op, id);
    return a ? a->i : (i64)attr_info[id].def;
}

double op_float(const Op *op, AttrId id)
{
    const Attr *a = op_attr(op, id);
    return a ? a->f : attr_info[id].def;
}

const char *op_str(const Module *m, const Op *op, AttrId id)
{
    const Attr *a = op_attr(op, id);
    return a ? ir_cstr(m, a->s) : "";
}

DType op_dtype(const Module *m, const Op *op)
{
    return dtype_by_name(str_c(op_str(m, op, A_DTYPE)));
}

/* The attribute's place in the sorted array, made if absent. */
static Attr *attr_slot(Module *m, Op *op, AttrId id)
{
    u32 i = 0;
    while (i < op->nattr && op->attr[i].id < id)
        i++;
    if (i < op->nattr && op->attr[i].id == id) return &op->attr[i];
    Attr *grown = NEWN(m->a, Attr, op->nattr + 1);
    for (u32 k = 0; k < op->nattr; k++)
        grown[k + (k >= i)] = op->attr[k];
    grown[i].id = id;
    op->attr = grown;
    op->nattr++;
    return &op->attr[i];
}

static void attr_drop(Op *op, AttrId id)
{
    u32 n = 0;
    for (u32 i = 0; i < op->nattr; i++)
        if (op->attr[i].id != id) op->attr[n++] = op->attr[i];
    op->nattr = n;
}

void op_set_int(Module *m, OpId op, AttrId id, i64 v)
{
    if (attr_info[id].kind == AK_INT && v == (i64)attr_info[id].def)
        attr_drop(op_at(m, op), id);
    else
        attr_slot(m, op_at(m, op), id)->i = v;
}

void op_set_ints(Module *m, OpId op, AttrId id, const i64 *v, u32 n)
{
    i64 *copy = NEWN(m->a, i64, n);
    if (n) memcpy(copy, v, n * sizeof *v);
    Attr *a = attr_slot(m, op_at(m, op), id);
    a->n = n;
    a->ints = copy;
}

/* Defaults are never stored, so that equal ops are equal records. */
static bool is_default(const AttrSpec *s)
{
    const AttrInfo *info = &attr_info[s->id];
    switch (info->kind) {
    case AK_INT: return s->i == (i64)info->def;
    case AK_FLOAT: return !(s->f < info->def) && !(s->f > info->def);
    case AK_STR: return !s->s || !*s->s;
    default: return false;
    }
}

static bool attr_required(OpKind kind, const char *name)
{
    const char *list = op_info[kind].attrs;
    size_t n = strlen(name);
    for (const char *p = strstr(list, name); p; p = strstr(p + 1, name))
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == 0)) return true;
    return false;
}

static void attrs_add(Module *m, Op *op, const AttrSpec *spec)
{
    for (; spec && spec->id; spec++) {
        if (is_default(spec) && !attr_required(op->kind, attr_info[spec->id].name)) continue;
        Attr *a = attr_slot(m, op, spec->id);
        a->n = spec->n;
        switch (attr_info[spec->id].kind) {
        case AK_INT: a->i = spec->i; break;
        case AK_FLOAT: a->f = spec->f; break;
        case AK_STR: a->s = ir_str(m, spec->s ? spec->s : ""); break;
        case AK_INTS: {
            i64 *v = NEWN(m->a, i64, spec->n);
            if (spec->n) memcpy(v, spec->ints, spec->n * sizeof *v);
            a->ints = v;
            break;
        }
        case AK_FLOATS: {
            double *v = NEWN(m->a, double, spec->n);
            if (spec->n) memcpy(v, spec->floats, spec->n * sizeof *v);
            a->floats = v;
            break;
        }
        }
    }
}

/* ---- ops ---- */

static StrId const_name(Module *m, const char *name, ValueId v)
{
    const char *base = name && *name ? name : "c";
    const char *try = base;
    for (u32 i = 1;; i++) {
        bool added;
        u32 *slot = map_put(&m->const_map, str_c(try), &added);
        if (added || !*slot) { /* a new name, or one that ir_erase or ir_rename freed */
            *slot = v;
            return ir_str(m, try);
        }
        try = arena_printf(m->a, "%s.%u", base, i);
    }
}

u32 ir_op_position(const Module *m, OpId id)
{
    const Op *op = op_at(m, id);
    const OpId *at = op->fn ? m->fns.at[op->fn].body.at : m->consts.at;
    u32 n = op->fn ? m->fns.at[op->fn].body.n : m->consts.n;
    for (u32 i = 0; i < n; i++)
        if (at[i] == id) return i;
    BUG("op %u is not in its body", id);
}

static void body_insert(Module *m, u32 fn, OpId before, OpId id)
{
    u32 at = before ? ir_op_position(m, before) : UINT32_MAX;
    if (fn) {
        Fn *f = &m->fns.at[fn];
        vec_push(m->a, &f->body, id);
        if (before) {
            memmove(f->body.at + at + 1, f->body.at + at, (f->body.n - 1 - at) * sizeof(OpId));
            f->body.at[at] = id;
        }
    } else {
        vec_push(m->a, &m->consts, id);
        if (before) {
            memmove(m->consts.at + at + 1, m->consts.at + at,
                    (m->consts.n - 1 - at) * sizeof(OpId));
            m->consts.at[at] = id;
        }
    }
}

ValueId ir_op(Builder *b, OpKind kind, const ValueId *in, u32 nin, const AttrSpec *attrs,
              TypeId type, const char *name)
{
    Module *m = b->m;
    const OpInfo *info = &op_info[kind];
    while (nin > info->min_in && in[nin - 1] == 0)
        nin--; /* absent trailing operands are not stored */
    Op op = {.kind = kind,
             .fn = b->fn,
             .layer = b->layer,
             .nin = nin,
             .nout = info->nout,
             .out = m->values.n};
    op.in = NEWN(m->a, ValueId, nin);
    if (nin) memcpy(op.in, in, nin * sizeof *in);
    attrs_add(m, &op, attrs);
    TypeId out[2] = {type, 0};
    if (!ir_infer(b->d, m, &op, out)) return 0;
    OpId id = m->ops.n;
    vec_push(m->a, &m->ops, op);
    for (u32 i = 0; i < info->nout; i++) {
        ValueId v = value_new(m, (Value){.type = out[i], .def = id, .fn = b->fn, .index = i});
        const char *nm = i && name ? arena_printf(m->a, "%s.%u", name, i) : name;
        value_at(m, v)->name = b->fn ? (nm ? ir_str(m, nm) : 0) : const_name(m, nm, v);
    }
    body_insert(m, b->fn, b->before, id);
    return info->nout ? op.out : UINT32_MAX;
}
