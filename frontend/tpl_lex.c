/* Tokens of a Jinja template, by the rules of Jinja 3.1's lexer with trim_blocks and lstrip_blocks:
 * a line end directly after a block or comment goes, and so does white space from the start of a
 * line to a block or comment. */
#include "frontend/tpl.h"

#include "runtime/unicode.h"

typedef struct Lex {
    Diag *d;
    Arena *a;
    const Source *src;
    const char *s;
    size_t n, at;
    bool line_start; /* what was read last ended a line */
    VEC(TplTok) tok;
    u32 line; /* of the offset `counted` */
    size_t counted;
    VEC(char) open; /* brackets of the current tag that are not closed */
} Lex;

static Loc loc(const Lex *l, size_t off, size_t len)
{
    return (Loc){.src = l->src, .off = off, .len = len};
}

static bool here(const Lex *l, const char *text)
{
    const size_t n = strlen(text);
    return l->n - l->at >= n && memcmp(l->s + l->at, text, n) == 0;
}

static bool is_space(u32 c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) ||
           (c > 0x7f && (pfq_uc_bits(c) & PFQ_UC_SPACE));
}

/* The offset after the white space at i. */
static size_t skip_space(const Lex *l, size_t i)
{
    for (size_t next = i; i < l->n; i = next)
        if (!is_space(pfq_utf8_next(l->s, l->n, &next))) break;
    return i;
}

static TplTok *add(Lex *l, TplTokKind kind, size_t off, size_t end, Str text)
{
    for (; l->counted < off; l->counted++)
        l->line += l->s[l->counted] == '\n';
    TplTok t = {kind, (u32)off, (u32)(end - off), l->line, text, 0, 0};
    vec_push(l->a, &l->tok, t);
    return &l->tok.at[l->tok.n - 1];
}

static void moved(Lex *l, size_t end)
{
    l->line_start = end > 0 && l->s[end - 1] == '\n';
    l->at = end;
}

/* ---- text between tags ---- */

/* Without white space at its end. */
static size_t rstrip(const Lex *l, size_t from, size_t to)
{
    size_t end = from;
    for (size_t i = from; i < to;)
        if (!is_space(pfq_utf8_next(l->s, to, &i))) end = i;
    return end;
}

/* Text [from, to) in front of a tag: '-' strips it, and a block strips its indentation. */
static void add_data(Lex *l, size_t from, size_t to, char sign, bool block)
{
    size_t end = to;
    if (sign == '-') {
        end = rstrip(l, from, to);
    } else if (sign != '+' && block) {
        size_t line = to;
        while (line > from && l->s[line - 1] != '\n')
            line--;
        if ((line > from || l->line_start) && rstrip(l, line, to) == line) end = line;
    }
    if (end > from) add(l, TK_DATA, from, end, (Str){l->s + from, end - from});
}

/* The end of a tag at l->at: "-END", "+END" (blocks and comments) or "END"; 0 if there is none
 * here. `trim`: a line end after it goes too. */
static size_t tag_end(const Lex *l, const char *end, bool trim)
{
    const size_t n = strlen(end);
    const char c = l->at < l->n ? l->s[l->at] : 0;
    const bool sign = c == '-' || (c == '+' && trim);
    const size_t at = l->at + sign;
    if (l->n - at < n || memcmp(l->s + at, end, n) != 0) return 0;
    if (sign) return c == '-' ? skip_space(l, at + n) : at + n;
    return at + n + (trim && at + n < l->n && l->s[at + n] == '\n');
}

static bool comment(Lex *l, size_t begin)
{
    for (; l->at < l->n; l->at++) {
        const size_t end = tag_end(l, "#}", true);
        if (!end) continue;
        moved(l, end);
        return true;
    }
    return diag_error(l->d, E_TEMPLATE, loc(l, begin, 2), "the comment has no end, expected #}");
}

/* "raw" between {% and %}: the offset behind the tag, or 0. */
static size_t raw_tag(const Lex *l, size_t at, const char *word)
{
    const size_t n = strlen(word);
    at = skip_space(l, at);
    if (l->n - at < n || memcmp(l->s + at, word, n) != 0) return 0;
    return skip_space(l, at + n);
}

static size_t raw_begin(const Lex *l, size_t after_sign)
{
    const size_t at = raw_tag(l, after_sign, "raw");
    if (!at) return 0;
    if (l->n - at >= 3 && memcmp(l->s + at, "-%}", 3) == 0) return skip_space(l, at + 3);
    return l->n - at >= 2 && memcmp(l->s + at, "%}", 2) == 0 ? at + 2 : 0;
}

static bool raw(Lex *l, size_t begin)
{
    const size_t from = l->at;
    for (; l->at < l->n; l->at++) {
        const size_t to = l->at;
        if (!here(l, "{%")) continue;
        const char sign = to + 2 < l->n ? l->s[to + 2] : 0;
        const bool signed_ = sign == '-' || sign == '+';
        const size_t at = raw_tag(l, to + 2 + signed_, "endraw");
        if (!at) continue;
        l->at = at;
        const size_t end = tag_end(l, "%}", true);
        l->at = to;
        if (!end) continue;
        add_data(l, from, to, signed_ ? sign : 0, true);
        moved(l, end);
        return true;
    }
    return diag_error(l->d, E_TEMPLATE, loc(l, begin, 2), "there is no {%% endraw %%} to this raw");
}

/* ---- inside tags ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (c & 0x80);
}

static size_t digits(const Lex *l, size_t i)
{
    while (i < l->n &&
           (is_digit(l->s[i]) || (l->s[i] == '_' && i + 1 < l->n && is_digit(l->s[i + 1]))))
        i++;
    return i;
}

static bool number(Lex *l)
{
    const size_t from = l->at;
    size_t i = digits(l, from), n = 0;
    char copy[64];
    bool real = false;
    const bool index = from > 0 && l->s[from - 1] == '.'; /* x.0.1 is no fraction */
    if (!index && i + 1 < l->n && l->s[i] == '.' && is_digit(l->s[i + 1]))
        real = true, i = digits(l, i + 1);
    size_t e = i + 1;
    if (i < l->n && (l->s[i] | 32) == 'e') {
        e += e < l->n && (l->s[e] == '+' || l->s[e] == '-');
        if (e < l->n && is_digit(l->s[e])) real = true, i = digits(l, e);
    }
    for (size_t k = from; k < i && n < sizeof copy; k++)
        if (l->s[k] != '_') copy[n++] = l->s[k];
    i64 whole = 0;
    double f = 0;
    const bool octal = !real && n > 1 && copy[0] == '0';
    if (octal || n == sizeof copy || (i < l->n && is_word(l->s[i])) ||
        !(real ? str_to_f64((Str){copy, n}, &f) : str_to_i64((Str){copy, n}, &whole)))
        return diag_error(l->d, E_TEMPLATE, loc(l, from, i - from),
                          "not a decimal number of 64 bits");
    TplTok *t = add(l, real ? TK_REAL : TK_INT, from, i, (Str){0});
    t->i = whole;
    t->f = f;
    l->at = i;
    return true;
}

/* Hexadecimal (or octal) digits of an escape, at most `most`. */
static size_t escape_digits(const Lex *l, size_t i, size_t end, unsigned base, size_t most,
                            u32 *out)
{
    const size_t from = i;
    for (*out = 0; i < end && i - from < most; i++) {
        const char c = l->s[i];
        const u32 v = is_digit(c)                          ? (u32)(c - '0')
                      : (c | 32) >= 'a' && (c | 32) <= 'f' ? (u32)((c | 32) - 'a' + 10)
                                                           : 99;
        if (v >= base) break;
        *out = *out * base + v;
    }
    return i;
}

/* The escape after the backslash at i; Python's rules: what is no escape stays as it is. Returns
 * the offset behind it, or 0 after a diagnostic. */
static size_t escape(Lex *l, size_t i, size_t end, StrBuf *b)
{
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    const char c = l->s[i + 1];
    const char *at = c ? strchr(names, c) : NULL;
    const size_t want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    char utf8[4];
    u32 v;
    if (at) {
        sb_ch(b, values[at - names]);
        return i + 2;
    }
    if (c == '\n') return i + 2;
    if (c >= '0' && c <= '7') {
        const size_t stop = escape_digits(l, i + 1, end, 8, 3, &v);
        sb_add(b, utf8, pfq_utf8_put(v, utf8));
        return stop;
    }
    if (!want && c != 'N') {
        sb_ch(b, '\\');
        return i + 1;
    }
    const size_t stop = escape_digits(l, i + 2, end, 16, want, &v);
    if (!want || stop != i + 2 + want || v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) {
        diag_error(l->d, want ? E_TEMPLATE : E_TEMPLATE_UNSUPPORTED, loc(l, i, 2),
                   want ? "the escape names no character" : "\\N escapes are not supported");
        return 0;
    }
    sb_add(b, utf8, pfq_utf8_put(v, utf8));
    return stop;
}

static bool string(Lex *l)
{
    const size_t from = l->at;
    size_t end = from + 1;
    StrBuf b = {.a = l->a};
    while (end < l->n && l->s[end] != l->s[from])
        end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->n) return diag_error(l->d, E_TEMPLATE, loc(l, from, 1), "the string has no end");
    sb_str(&b, "");
    for (size_t i = from + 1; i < end;) {
        if (l->s[i] != '\\') {
            sb_ch(&b, l->s[i++]);
            continue;
        }
        i = escape(l, i, end, &b);
        if (!i) return false;
    }
    l->at = end + 1;
    add(l, TK_STRING, from, l->at, (Str){b.p, b.n});
    return true;
}

static bool bracket(Lex *l, char c)
{
    static const char opening[] = "([{", closing[] = ")]}";
    const char *open = strchr(opening, c), *close = strchr(closing, c);
    if (open) vec_push(l->a, &l->open, closing[open - opening]);
    if (!close) return true;
    if (!l->open.n || l->open.at[l->open.n - 1] != c)
        return diag_error(l->d, E_TEMPLATE, loc(l, l->at, 1), "unexpected '%c'", c);
    l->open.n--;
    return true;
}

static bool operator(Lex *l)
{
    static const char *const ops[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                      ">",  "<",  "=",  ".",  ":",  "|",  ","};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!here(l, ops[i])) continue;
        if (!bracket(l, *ops[i])) return false;
        add(l, TK_OP, l->at, l->at + strlen(ops[i]), str_c(ops[i]));
        l->at += strlen(ops[i]);
        return true;
    }
    return diag_error(l->d, E_TEMPLATE, loc(l, l->at, 1), "an unexpected character");
}

static bool word(Lex *l)
{
    size_t end = l->at;
    while (end < l->n && is_word(l->s[end]))
        end++;
    add(l, TK_NAME, l->at, end, (Str){l->s + l->at, end - l->at});
    l->at = end;
    return true;
}

/* From behind {{ or {% to its end. */
static bool tag(Lex *l, bool block, size_t begin)
{
    l->open.n = 0;
    for (;;) {
        const size_t end = l->open.n ? 0 : tag_end(l, block ? "%}" : "}}", block);
        if (end) {
            add(l, block ? TK_BLOCK_END : TK_VAR_END, l->at, l->at + 2, (Str){0});
            moved(l, end);
            return true;
        }
        const size_t next = skip_space(l, l->at);
        if (next > l->at) {
            l->at = next;
            continue;
        }
        if (l->at >= l->n)
            return diag_error(l->d, E_TEMPLATE, loc(l, begin, 2), "the tag has no end, expected %s",
                              block ? "%}" : "}}");
        const char c = l->s[l->at];
        const bool ok = is_digit(c)             ? number(l)
                        : is_word(c)            ? word(l)
                        : c == '"' || c == '\'' ? string(l)
                                                : operator(l);
        if (!ok) return false;
    }
}

/* The tag at l->at, in front of which the text [from, l->at) stands. */
static bool any_tag(Lex *l, size_t from)
{
    const size_t begin = l->at;
    const char kind = l->s[begin + 1], sign = begin + 2 < l->n ? l->s[begin + 2] : 0;
    const bool signed_ = sign == '-' || sign == '+', block = kind == '%';
    const size_t after_sign = begin + 2 + signed_, raw_at = block ? raw_begin(l, after_sign) : 0;
    add_data(l, from, begin, signed_ ? sign : 0, kind != '{');
    moved(l, raw_at ? raw_at : after_sign);
    if (raw_at) return raw(l, begin);
    if (kind == '#') return comment(l, begin);
    add(l, block ? TK_BLOCK : TK_VAR, begin, begin + 2, (Str){0});
    return tag(l, block, begin);
}

bool tpl_lex(Diag *d, Arena *a, const Source *src, TplTokens *out)
{
    Lex l = {
        .d = d, .a = a, .src = src, .s = src->text, .n = src->n, .line_start = true, .line = 1};
    if (l.n && l.s[l.n - 1] == '\n') l.n--; /* keep_trailing_newline is off */
    size_t from = 0;
    while (l.at < l.n) {
        const char next = l.at + 1 < l.n ? l.s[l.at + 1] : 0;
        if (l.s[l.at] != '{' || (next != '{' && next != '%' && next != '#')) {
            l.at++;
            continue;
        }
        if (!any_tag(&l, from)) return false;
        from = l.at;
    }
    if (l.n > from) add(&l, TK_DATA, from, l.n, (Str){l.s + from, l.n - from});
    add(&l, TK_END, l.n, l.n, (Str){0});
    *out = (TplTokens){l.tok.at, l.tok.n};
    return true;
}
