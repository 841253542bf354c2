/* Printing. The names of constants are unique by construction; the values of a function are made
 * unique here: an unnamed one prints as the number of unnamed ones before it, a repeated name gets
 * a numeric suffix. */
#include "ir/text.h"

#include "ir/base/json.h"

#include <math.h>

static const char symbol_char[] = "?TRC";

static void put_type(StrBuf *b, const Type *t)
{
    sb_str(b, dtype_info[t->dt].name);
    sb_ch(b, '[');
    for (u32 i = 0; i < t->rank; i++) {
        if (i) sb_ch(b, ',');
        if (t->dim[i] < 0)
            sb_ch(b, symbol_char[-t->dim[i]]);
        else
            sb_printf(b, "%lld", (long long)t->dim[i]);
    }
    sb_ch(b, ']');
}

bool ir_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '/' || c == '-' || c == '#';
}

/* Plain when it lexes as a name and cannot be taken for a number; quoted like a JSON string
 * otherwise. */
static void put_name(StrBuf *b, char sigil, const char *name)
{
    bool plain = *name != 0, digits = true;
    for (const char *p = name; *p; p++)
        plain &= ir_name_char(*p), digits &= *p >= '0' && *p <= '9';
    sb_ch(b, sigil);
    if (plain && !digits)
        sb_str(b, name);
    else
        sb_json_str(b, str_c(name));
}

typedef struct Print {
    const Module *m;
    StrBuf *b;
    const char *
        *names;    /* printed form of each value of the current function; NULL: not named yet */
    u32 list_most; /* longer lists of numbers are shortened; 0: none is */
} Print;

static void put_value(Print *p, ValueId v)
{
    const Value *val = value_at(p->m, v);
    if (!v)
        sb_ch(p->b, '_');
    else if (val->fn == 0)
        put_name(p->b, '@', ir_cstr(p->m, val->name));
    else if (p->names && p->names[v])
        sb_str(p->b, p->names[v]);
    else if (val->name)
        put_name(p->b, '%', ir_cstr(p->m, val->name));
    else
        sb_printf(p->b, "%%v%u", v);
}

static void put_attr_value(const Module *m, StrBuf *b, AttrKind kind, const Attr *a, u32 list_most)
{
    const u32 n = list_most && a->n > list_most ? list_most : a->n;
    switch (kind) {
    case AK_INT: sb_printf(b, "%lld", (long long)a->i); break;
    case AK_FLOAT: sb_f64(b, a->f); break;
    case AK_STR: sb_json_str(b, str_c(ir_cstr(m, a->s))); break;
    case AK_INTS:
    case AK_FLOATS:
        sb_ch(b, '[');
        for (u32 i = 0; i < n; i++) {
            if (i) sb_str(b, ", ");
            if (kind == AK_INTS)
                sb_printf(b, "%lld", (long long)a->ints[i]);
            else
                sb_f64(b, a->floats[i]);
        }
        if (n < a->n) sb_printf(b, ", ... %u", a->n);
        sb_ch(b, ']');
        break;
    }
}

static void put_attrs(const Print *p, const Op *op)
{
    StrBuf *b = p->b;
    const char *sep = " {";
    for (u32 i = 0; i < op->nattr; i++, sep = ", ") {
        sb_printf(b, "%s%s = ", sep, attr_info[op->attr[i].id].name);
        put_attr_value(p->m, b, attr_info[op->attr[i].id].kind, &op->attr[i], p->list_most);
    }
    if (op->layer >= 0) sb_printf(b, "%slayer = %d", sep, op->layer), sep = ", ";
    if (sep[0] == ',') sb_ch(b, '}');
}

static void put_op(Print *p, const Op *op)
{
    for (u32 i = 0; i < op->nout; i++) {
        if (i) sb_str(p->b, ", ");
        put_value(p, op->out + i);
    }
    if (op->nout) sb_str(p->b, " = ");
    sb_str(p->b, op_info[op->kind].mnemonic);
    for (u32 i = 0; i < op->nin; i++) {
        sb_str(p->b, i ? ", " : " ");
        put_value(p, op->in[i]);
    }
    put_attrs(p, op);
    for (u32 i = 0; i < op->nout; i++) {
        sb_str(p->b, i ? ", " : " : ");
        put_type(p->b, &p->m->types.at[value_at(p->m, op->out + i)->type]);
    }
}

static void name_value(Print *p, Map *used, ValueId v, u32 *number)
{
    StrBuf b = {.a = p->b->a};
    const char *base = ir_cstr(p->m, value_at(p->m, v)->name);
    if (strspn(base, "0123456789") ==
        strlen(base)) { /* unnamed, or a name that would read as a number */
        sb_printf(&b, "%%%u", (*number)++);
    } else {
        const char *try = base;
        for (u32 i = 1;; i++) {
            bool added;
            map_put(used, str_c(try), &added);
            if (added) break;
            try = arena_printf(p->b->a, "%s.%u", base, i);
        }
        put_name(&b, '%', try);
    }
    p->names[v] = b.p;
}

static void name_values(Print *p, const Fn *f)
{
    Map used = {.a = p->b->a};
    u32 number = 0;
    for (u32 i = 0; i < f->params.n; i++)
        name_value(p, &used, f->params.at[i], &number);
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(p->m, f->body.at[i]);
        for (u32 k = 0; k < op->nout; k++)
            name_value(p, &used, op->out + k, &number);
    }
}

static void put_fn(Print *p, const Fn *f)
{
    StrBuf *b = p->b;
    name_values(p, f);
    sb_str(b, "\nfunc ");
    put_name(b, '@', ir_cstr(p->m, f->name));
    sb_ch(b, '(');
    for (u32 i = 0; i < f->params.n; i++) {
        if (i) sb_str(b, ", ");
        put_value(p, f->params.at[i]);
        sb_str(b, ": ");
        put_type(b, type_of(p->m, f->params.at[i]));
    }
    sb_ch(b, ')');
    if (f->act_bytes) sb_printf(b, " {act = %llu}", (unsigned long long)f->act_bytes);
    sb_str(b, " {\n");
    u32 step = 0;
    for (u32 i = 0; i < f->body.n; i++) {
        const Op *op = op_at(p->m, f->body.at[i]);
        if (op->step != step) {
            if (step) sb_str(b, "  }\n");
            step = op->step;
            if (step) {
                const Step *s = &f->steps.at[step - 1];
                sb_printf(b, "  step %u ", step);
                sb_json_str(b, str_c(ir_cstr(p->m, s->kernel)));
                if (s->weights) sb_ch(b, ' '), put_value(p, s->weights);
                sb_str(b, " {\n");
            }
        }
        sb_str(b, step ? "    " : "  ");
        put_op(p, op);
        sb_ch(b, '\n');
    }
    if (step) sb_str(b, "  }\n");
    sb_str(b, "  return");
    for (u32 i = 0; i < f->results.n; i++) {
        sb_str(b, i ? ", " : " ");
        put_value(p, f->results.at[i]);
    }
    sb_str(b, "\n}\n");
}

/* A key is a word; one that is none (it may hold a value's name) is quoted. A float has a point or
 * an exponent, so that it is read back as a float. */
static void put_meta(const Module *m, StrBuf *b, const KeyVal *kv)
{
    const char *key = ir_cstr(m, kv->key);
    bool word = (*key >= 'a' && *key <= 'z') || (*key >= 'A' && *key <= 'Z');
    for (const char *p = key; *p; p++)
        word &= ir_name_char(*p);
    if (word)
        sb_str(b, key);
    else
        sb_json_str(b, str_c(key));
    sb_str(b, " = ");
    size_t at = b->n;
    put_attr_value(m, b, kv->kind, &kv->val, 0);
    if (kv->kind == AK_FLOAT && !strpbrk(b->p + at, ".e")) sb_str(b, ".0");
}

void ir_print(const Module *m, StrBuf *b)
{
    Print p = {m, b, NULL, 0};
    sb_str(b, "pfir 1\nmodule ");
    put_name(b, '@', ir_cstr(m, m->name));
    for (u32 i = 0; i < m->meta.n; i++) {
        sb_str(b, i ? ", " : " {");
        put_meta(m, b, &m->meta.at[i]);
    }
    sb_str(b, m->meta.n ? "}\n" : "\n");
    for (u32 i = 0; i < m->files.n; i++) {
        sb_printf(b, "file %u ", i);
        sb_json_str(b, str_c(ir_cstr(m, m->files.at[i].path)));
        if (m->files.at[i].bytes)
            sb_printf(b, " {bytes = %llu}", (unsigned long long)m->files.at[i].bytes);
        sb_ch(b, '\n');
    }
    for (u32 i = 0; i < m->consts.n; i++) {
        put_op(&p, op_at(m, m->consts.at[i]));
        sb_ch(b, '\n');
    }
    p.names = NEWN(b->a, const char *, m->values.n);
    for (u32 i = 1; i < m->fns.n; i++)
        put_fn(&p, &m->fns.at[i]);
}

const char **ir_value_names(const Module *m, u32 fn, Arena *a)
{
    StrBuf b = {.a = a};
    Print p = {m, &b, NEWN(a, const char *, m->values.n), 0};
    name_values(&p, &m->fns.at[fn]);
    return p.names;
}

const char *ir_type_text(Module *m, const Type *t)
{
    StrBuf b = {.a = m->a};
    put_type(&b, t);
    return b.p;
}

const char *ir_op_text(Module *m, const Op *op)
{
    StrBuf b = {.a = m->a};
    Print p = {m, &b, NULL, 0};
    Op bare = *op;
    if (bare.out + bare.nout > m->values.n)
        bare.nout = 0; /* an op that is being built has no results yet */
    put_op(&p, &bare);
    return b.p;
}

void ir_print_op(const Module *m, const char **names, const Op *op, u32 list_most, StrBuf *b)
{
    Print p = {m, b, names, list_most};
    put_op(&p, op);
}

bool ir_json_number(StrBuf *b, const KeyVal *kv)
{
    if (kv->kind == AK_INT)
        sb_printf(b, "%lld", (long long)kv->val.i);
    else if (kv->kind == AK_FLOAT && isfinite(kv->val.f))
        sb_f64(b, kv->val.f);
    else
        return false;
    return true;
}
