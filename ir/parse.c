/* Reading .pfir: a recursive-descent parser over one look-ahead token. Every op goes through the
 * builder, so a parsed module has passed the type rules; written types must equal the inferred
 * ones. */
#include "ir/base/json.h"
#include "ir/text.h"

typedef enum Tok { T_END, T_WORD, T_INT, T_FLOAT, T_STR, T_CONST, T_VALUE, T_PUNCT } Tok;

typedef struct Parser {
    Diag *d;
    Module *m;
    const Source *src;
    size_t at;       /* next byte */
    Tok tok;         /* look-ahead */
    size_t off, len; /* its bytes */
    Str text;        /* word, decoded string or name */
    i64 i;
    double f;
    char c;       /* punctuation */
    Map values;   /* of the current function: printed name -> ValueId */
    u32 numbered; /* unnamed values seen in this function */
} Parser;

static bool syntax(Parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool syntax(Parser *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *text = arena_vprintf(p->m->a, fmt, ap);
    va_end(ap);
    return diag_error(p->d, E_IR_SYNTAX,
                      (Loc){.src = p->src, .off = p->off, .len = p->len ? p->len : 1}, "%s", text);
}

/* ---- lexer ---- */

static bool lex_string(Parser *p)
{
    StrBuf b = {.a = p->m->a};
    const char *t = p->src->text;
    sb_str(&b, "");
    for (p->at++; p->at < p->src->n && t[p->at] != '"'; p->at++) {
        char c = t[p->at];
        if ((u8)c < 0x20) return syntax(p, "control character in a string");
        if (c != '\\') {
            sb_ch(&b, c);
            continue;
        }
        if (++p->at >= p->src->n) break;
        c = t[p->at];
        if (c == 'n')
            sb_ch(&b, '\n');
        else if (c == '"' || c == '\\')
            sb_ch(&b, c);
        else if (c == 'u' && p->src->n - p->at > 4 && memcmp(t + p->at + 1, "00", 2) == 0) {
            unsigned v = 0;
            for (int k = 3; k <= 4; k++) {
                char h = t[p->at + (size_t)k];
                unsigned x = h >= '0' && h <= '9'   ? (unsigned)(h - '0')
                             : h >= 'a' && h <= 'f' ? (unsigned)(h - 'a' + 10)
                                                    : 99;
                if (x == 99) return syntax(p, "bad \\u escape in a string");
                v = v * 16 + x;
            }
            if (v == 0 || v >= 0x20)
                return syntax(p, "only control characters are written as \\u00xx");
            sb_ch(&b, (char)v);
            p->at += 4;
        } else
            return syntax(p, "unknown escape in a string");
    }
    if (p->at >= p->src->n) return syntax(p, "unfinished string");
    p->at++;
    p->text = (Str){b.p, b.n};
    return utf8_valid(p->text) || syntax(p, "the string is not valid UTF-8");
}

static bool lex_number(Parser *p)
{
    const char *t = p->src->text;
    size_t b = p->at;
    while (p->at < p->src->n &&
           (strchr("+-.eE", t[p->at]) || (t[p->at] >= '0' && t[p->at] <= '9')) && t[p->at])
        p->at++;
    p->text = (Str){t + b, p->at - b};
    p->tok = T_INT;
    if (str_to_i64(p->text, &p->i)) {
        p->f = (double)p->i;
        return true;
    }
    p->tok = T_FLOAT;
    return str_to_f64(p->text, &p->f) ||
           syntax(p, "'%.*s' is not a number", (int)(p->text.n < 40 ? p->text.n : 40), p->text.p);
}

static void lex_name(Parser *p)
{
    size_t b = p->at;
    while (p->at < p->src->n && ir_name_char(p->src->text[p->at]))
        p->at++;
    p->text = (Str){p->src->text + b, p->at - b};
}

static bool next(Parser *p)
{
    const char *t = p->src->text;
    for (; p->at < p->src->n;
         p->at++) { /* blanks, and // comments, which tests write and dumps never hold */
        if (t[p->at] == '/' && p->src->n - p->at > 1 && t[p->at + 1] == '/')
            while (p->at + 1 < p->src->n && t[p->at + 1] != '\n')
                p->at++;
        else if (t[p->at] != ' ' && t[p->at] != '\n' && t[p->at] != '\t')
            break;
    }
    p->off = p->at;
    p->len = 0;
    if (p->at >= p->src->n) {
        p->tok = T_END;
        return true;
    }
    char c = t[p->at];
    bool ok = true;
    if (c == '@' || c == '%') {
        p->at++;
        if (p->at < p->src->n && t[p->at] == '"')
            ok = lex_string(p);
        else
            lex_name(p);
        p->tok = c == '@' ? T_CONST : T_VALUE;
        if (ok && p->text.n == 0) ok = syntax(p, "a name must follow '%c'", c);
        if (ok && memchr(p->text.p, 0, p->text.n)) ok = syntax(p, "a name holds a NUL");
    } else if (c == '"') {
        ok = lex_string(p);
        p->tok = T_STR;
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        ok = lex_number(p);
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        p->tok = T_WORD;
        lex_name(p);
    } else if (c && strchr("{}()[],=:_", c)) {
        p->tok = T_PUNCT;
        p->c = c;
        p->at++;
    } else {
        p->len = 1;
        ok = syntax(p, "unexpected byte 0x%02x", (unsigned)(u8)c);
    }
    p->len = p->at - p->off;
    return ok;
}

static bool is_punct(const Parser *p, char c)
{
    return p->tok == T_PUNCT && p->c == c;
}
static bool is_word(const Parser *p, const char *w)
{
    return p->tok == T_WORD && str_is(p->text, w);
}

static bool expect(Parser *p, char c)
{
    return is_punct(p, c) ? next(p) : syntax(p, "expected '%c'", c);
}

static bool expect_word(Parser *p, const char *w)
{
    return is_word(p, w) ? next(p) : syntax(p, "expected '%s'", w);
}

/* ---- pieces ---- */

static bool parse_type(Parser *p, TypeId *out)
{
    DType dt = p->tok == T_WORD ? dtype_by_name(p->text) : DT_NONE;
    if (!dt) return syntax(p, "expected a type such as f32[T,64]");
    i64 dim[MAX_RANK];
    u32 rank = 0;
    if (!next(p) || !expect(p, '[')) return false;
    while (!is_punct(p, ']')) {
        if (rank == MAX_RANK) return syntax(p, "a type has at most %d dimensions", MAX_RANK);
        if (rank && !expect(p, ',')) return false;
        if (p->tok == T_INT && p->i > 0)
            dim[rank++] = p->i;
        else if (is_word(p, "T"))
            dim[rank++] = DIM_T;
        else if (is_word(p, "R"))
            dim[rank++] = DIM_R;
        else if (is_word(p, "C"))
            dim[rank++] = DIM_C;
        else
            return syntax(p, "expected a dimension: a positive number, T, R or C");
        if (!next(p)) return false;
    }
    *out = ir_type(p->m, dt, rank, dim);
    return next(p);
}

static bool parse_list(Parser *p, bool floats, AttrSpec *s)
{
    VEC(i64) ints = {0};
    VEC(double) fs = {0};
    if (!expect(p, '[')) return false;
    while (!is_punct(p, ']')) {
        if ((ints.n || fs.n) && !expect(p, ',')) return false;
        if (p->tok != T_INT && !(floats && p->tok == T_FLOAT))
            return syntax(p, "expected %s", floats ? "a number" : "an integer");
        if (floats)
            vec_push(p->m->a, &fs, p->f);
        else
            vec_push(p->m->a, &ints, p->i);
        if (!next(p)) return false;
    }
    s->n = floats ? fs.n : ints.n;
    s->ints = ints.at;
    s->floats = fs.at;
    return next(p);
}

static bool parse_attr_value(Parser *p, AttrKind kind, AttrSpec *s)
{
    switch (kind) {
    case AK_INT:
        if (p->tok != T_INT) return syntax(p, "expected an integer");
        s->i = p->i;
        return next(p);
    case AK_FLOAT:
        if (p->tok != T_INT && p->tok != T_FLOAT) return syntax(p, "expected a number");
        s->f = p->f;
        return next(p);
    case AK_STR:
        if (p->tok != T_STR) return syntax(p, "expected a string");
        s->s = p->text.p;
        return next(p);
    default: return parse_list(p, kind == AK_FLOATS, s);
    }
}

enum { MAX_ATTRS = 16, MAX_IN = 64, MAX_OUT = 2 };

static bool parse_attrs(Parser *p, AttrSpec *specs, i32 *layer)
{
    u32 n = 0;
    *layer = -1;
    if (!is_punct(p, '{')) return true;
    if (!next(p)) return false;
    for (bool first = true; !is_punct(p, '}'); first = false) {
        if (!first && !expect(p, ',')) return false;
        if (p->tok != T_WORD) return syntax(p, "expected an attribute name");
        if (is_word(p, "layer")) {
            if (!next(p) || !expect(p, '=')) return false;
            if (p->tok != T_INT || p->i < 0 || p->i > 1 << 20)
                return syntax(p, "expected a layer number");
            *layer = (i32)p->i;
            if (!next(p)) return false;
            continue;
        }
        AttrId id = A_NONE;
        for (int k = 1; k < A_COUNT; k++)
            if (str_is(p->text, attr_info[k].name)) id = (AttrId)k;
        if (!id) return syntax(p, "unknown attribute '%.*s'", STRF(p->text));
        for (u32 k = 0; k < n; k++)
            if (specs[k].id == id)
                return syntax(p, "the attribute '%s' appears twice", attr_info[id].name);
        if (n == MAX_ATTRS) return syntax(p, "too many attributes");
        specs[n] = (AttrSpec){.id = id};
        if (!next(p) || !expect(p, '=') || !parse_attr_value(p, attr_info[id].kind, &specs[n]))
            return false;
        n++;
    }
    specs[n] = (AttrSpec){0};
    return next(p);
}

static bool look_up(Parser *p, ValueId *out)
{
    const u32 *v = map_get(p->tok == T_CONST ? &p->m->const_map : &p->values, p->text);
    if (!v || !*v)
        return syntax(p, "'%c%.*s' is not defined before this", p->tok == T_CONST ? '@' : '%',
                      STRF(p->text));
    *out = *v;
    return next(p);
}

static bool parse_operand(Parser *p, ValueId *out)
{
    *out = 0;
    if (is_punct(p, '_')) return next(p);
    if (p->tok != T_CONST && p->tok != T_VALUE)
        return syntax(p, "expected a value: %%name, @name or _");
    return look_up(p, out);
}

/* ---- ops ---- */

typedef struct ResultName {
    const char *name; /* NULL: numbered */
    Str key;          /* as written, for the map */
    size_t off;
} ResultName;

static bool parse_result_name(Parser *p, u32 fn, ResultName *r)
{
    if (p->tok != (fn ? T_VALUE : T_CONST)) return syntax(p, "expected the name of a result");
    *r = (ResultName){NULL, p->text, p->off};
    i64 n;
    bool quoted = p->src->text[p->off + 1] == '"';
    if (fn && !quoted && str_to_i64(p->text, &n)) {
        if (n != p->numbered++)
            return syntax(p, "numbered values must count up: expected %%%u", p->numbered - 1);
    } else
        r->name = arena_strdup(p->m->a, p->text.p, p->text.n);
    const u32 *old = map_get(fn ? &p->values : &p->m->const_map, p->text);
    if (old && *old) return syntax(p, "'%.*s' is defined twice", STRF(p->text));
    return next(p);
}

static bool parse_op(Parser *p, u32 fn, u32 step)
{
    ResultName res[MAX_OUT];
    u32 nres = 0, nin = 0;
    size_t start = p->off;
    if (p->tok == T_CONST || p->tok == T_VALUE) {
        do {
            if (nres && !next(p)) return false;
            if (nres == MAX_OUT) return syntax(p, "an op has at most %d results", MAX_OUT);
            if (!parse_result_name(p, fn, &res[nres])) return false;
            for (u32 k = 0; k < nres; k++)
                if (str_eq(res[k].key, res[nres].key)) return syntax(p, "one name for two results");
            nres++;
        } while (is_punct(p, ','));
        if (!expect(p, '=')) return false;
    }
    OpKind kind = p->tok == T_WORD ? op_by_name(p->text) : OP_NONE;
    if (!kind) {
        const char *names[OP_COUNT];
        for (int k = 1; k < OP_COUNT; k++)
            names[k - 1] = op_info[k].mnemonic;
        syntax(p, "expected an op");
        const char *near = p->tok == T_WORD ? str_nearest(p->text, names, OP_COUNT - 1) : NULL;
        if (near) diag_hint(p->d, "did you mean '%s'?", near);
        return false;
    }
    if (nres != op_info[kind].nout)
        return syntax(p, "'%s' has %u results, %u are named", op_info[kind].mnemonic,
                      op_info[kind].nout, nres);
    ValueId in[MAX_IN];
    AttrSpec specs[MAX_ATTRS + 1] = {0};
    i32 layer;
    if (!next(p)) return false;
    while (p->tok == T_CONST || p->tok == T_VALUE || is_punct(p, '_')) {
        if (nin == MAX_IN) return syntax(p, "too many operands");
        if (!parse_operand(p, &in[nin++])) return false;
        if (!is_punct(p, ',')) break;
        if (!next(p)) return false;
    }
    if (!parse_attrs(p, specs, &layer)) return false;
    TypeId type[MAX_OUT] = {0};
    for (u32 k = 0; k < nres; k++)
        if (!expect(p, k ? ',' : ':') || !parse_type(p, &type[k])) return false;

    Builder b = {.m = p->m, .d = p->d, .fn = fn, .layer = layer};
    bool leaf = op_info[kind].flags & OPF_LEAF;
    Loc loc = {.src = p->src, .off = start, .len = 1};
    ValueId v = ir_op(&b, kind, in, nin, specs, leaf ? type[0] : 0, nres ? res[0].name : NULL);
    if (!v) {
        u32 line, col;
        loc_line_col(loc, &line, &col);
        diag_note(p->d, "at %s:%u:%u", p->src->name, line, col);
        return false;
    }
    op_at(p->m, p->m->ops.n - 1)->step = step;
    for (u32 k = 0; k < nres; k++) {
        if (value_at(p->m, v + k)->type != type[k])
            return diag_error(p->d, E_IR_VERIFY, loc, "result %u has type %s, the text says %s", k,
                              ir_type_text(p->m, type_of(p->m, v + k)),
                              ir_type_text(p->m, &p->m->types.at[type[k]]));
        if (fn) {
            value_at(p->m, v + k)->name = res[k].name ? ir_str(p->m, res[k].name) : 0;
            *map_put(&p->values, res[k].key, NULL) = v + k;
        } else if (k)
            ir_rename(p->m, v + k, res[k].name);
    }
    return true;
}

static bool parse_step(Parser *p, u32 fn)
{
    Fn *f = &p->m->fns.at[fn];
    if (!next(p)) return false;
    if (p->tok != T_INT || p->i != f->steps.n + 1)
        return syntax(p, "steps must count up: expected %u", f->steps.n + 1);
    if (!next(p)) return false;
    if (p->tok != T_STR) return syntax(p, "expected the kernel's name in quotes");
    Step s = {.kernel = ir_strn(p->m, p->text)};
    if (!next(p)) return false;
    if (p->tok == T_CONST && !look_up(p, &s.weights)) return false;
    vec_push(p->m->a, &f->steps, s);
    u32 step = f->steps.n;
    if (!expect(p, '{')) return false;
    if (is_punct(p, '}')) return syntax(p, "a step holds at least one op");
    while (!is_punct(p, '}'))
        if (!parse_op(p, fn, step)) return false;
    return next(p);
}

static bool parse_fn(Parser *p)
{
    if (!next(p)) return false;
    if (p->tok != T_CONST) return syntax(p, "expected the function's name");
    const char *name = arena_strdup(p->m->a, p->text.p, p->text.n);
    if (ir_fn(p->m, name)) return syntax(p, "the function '%s' is defined twice", name);
    u32 fn = ir_fn_new(p->m, name);
    p->values = (Map){.a = p->m->a};
    p->numbered = 0;
    if (!next(p) || !expect(p, '(')) return false;
    for (bool first = true; !is_punct(p, ')'); first = false) {
        ResultName r;
        TypeId type;
        if (!first && !expect(p, ',')) return false;
        if (!parse_result_name(p, fn, &r) || !expect(p, ':') || !parse_type(p, &type)) return false;
        *map_put(&p->values, r.key, NULL) = ir_param(p->m, fn, r.name ? r.name : "", type);
    }
    if (!next(p) || !expect(p, '{')) return false;
    if (is_word(p, "act")) {
        if (!next(p) || !expect(p, '=')) return false;
        if (p->tok != T_INT || p->i < 0) return syntax(p, "expected a number of bytes");
        p->m->fns.at[fn].act_bytes = (u64)p->i;
        if (!next(p) || !expect(p, '}') || !expect(p, '{')) return false;
    }
    while (!is_word(p, "return"))
        if (!(is_word(p, "step") ? parse_step(p, fn) : parse_op(p, fn, 0))) return false;
    if (!next(p)) return false;
    for (bool first = true; !is_punct(p, '}'); first = false) {
        ValueId v;
        if (!first && !expect(p, ',')) return false;
        if (!parse_operand(p, &v)) return false;
        if (!v) return syntax(p, "a result cannot be absent");
        vec_push(p->m->a, &p->m->fns.at[fn].results, v);
    }
    return next(p);
}

/* ---- module ---- */

static bool parse_meta(Parser *p)
{
    if (!is_punct(p, '{')) return true;
    if (!next(p)) return false;
    for (bool first = true; !is_punct(p, '}'); first = false) {
        if (!first && !expect(p, ',')) return false;
        if ((p->tok != T_WORD && p->tok != T_STR) || !p->text.n || memchr(p->text.p, 0, p->text.n))
            return syntax(p, "expected a key");
        const char *key = arena_strdup(p->m->a, p->text.p, p->text.n);
        if (!next(p) || !expect(p, '=')) return false;
        if (p->tok == T_INT)
            ir_meta_int(p->m, key, p->i);
        else if (p->tok == T_FLOAT)
            ir_meta_float(p->m, key, p->f);
        else if (p->tok == T_STR)
            ir_meta_str(p->m, key, p->text.p);
        else
            return syntax(p, "expected a number or a string");
        if (!next(p)) return false;
    }
    return next(p);
}

static bool parse_file(Parser *p)
{
    if (!next(p)) return false;
    if (p->tok != T_INT || p->i != p->m->files.n)
        return syntax(p, "files must count up: expected %u", p->m->files.n);
    if (!next(p)) return false;
    if (p->tok != T_STR || !p->text.n || memchr(p->text.p, 0, p->text.n))
        return syntax(p, "expected a path in quotes");
    u32 n = p->m->files.n;
    u32 f = ir_file(p->m, p->text.p, 0);
    if (f != n) return syntax(p, "the file is listed twice");
    if (!next(p)) return false;
    if (!is_punct(p, '{')) return true;
    if (!next(p) || !expect_word(p, "bytes") || !expect(p, '=')) return false;
    if (p->tok != T_INT || p->i <= 0) return syntax(p, "expected a number of bytes");
    p->m->files.at[f].bytes = (u64)p->i;
    return next(p) && expect(p, '}');
}

static bool parse_module(Parser *p)
{
    if (!next(p) || !expect_word(p, "pfir")) return false;
    if (p->tok != T_INT || p->i != 1) return syntax(p, "this pfqc reads version 1");
    if (!next(p) || !expect_word(p, "module")) return false;
    if (p->tok != T_CONST) return syntax(p, "expected the module's name");
    p->m->name = ir_strn(p->m, p->text);
    if (!next(p) || !parse_meta(p)) return false;
    while (is_word(p, "file"))
        if (!parse_file(p)) return false;
    while (p->tok == T_CONST)
        if (!parse_op(p, 0, 0)) return false;
    while (is_word(p, "func"))
        if (!parse_fn(p)) return false;
    return p->tok == T_END || syntax(p, "expected 'func' or the end of the file");
}

Module *ir_parse(Diag *d, Arena *a, const Source *src, const char *dir)
{
    Module *m = ir_module_new(a, "", dir);
    Parser p = {.d = d, .m = m, .src = src, .values = {.a = a}};
    return parse_module(&p) && ir_verify(d, m) ? m : NULL;
}
