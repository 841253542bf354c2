/* The fields of requests. Contract: fields.h. */
#include "runtime/fields.h"

#include <math.h>
#include <string.h>

typedef enum Type { T_INT, T_REAL, T_BOOL, T_TEXT, T_JSON, T_ONLY } Type;

enum {
    COMPLETIONS = PFQ_API_COMPLETIONS,
    CHAT = PFQ_API_CHAT,
    TOKENIZE = PFQ_API_TOKENIZE,
    DETOKENIZE = PFQ_API_DETOKENIZE
};

typedef struct Row {
    unsigned routes;
    const char *name;
    Type type;
    size_t at; /* of its value in PfqFields */
    double def, min, max;
    const char *help;
} Row;

static const Row rows[] = {
#define FIELD(routes, name, type, member, def, min, max, help)                                     \
    {routes, name, T_##type, offsetof(PfqFields, member), (double)(def), min, (double)(max), help},
#include "runtime/fields.def"
};
enum { N_ROWS = sizeof rows / sizeof *rows };

/* The whole numbers that doubles of the table cannot say. */
static int64_t whole(double v)
{
    return v >= 0x1p63 ? INT64_MAX : (int64_t)v;
}

static void put_default(PfqFields *f, const Row *r)
{
    void *at = (char *)f + r->at;
    switch (r->type) {
    case T_INT: *(int64_t *)at = whole(r->def); break;
    case T_REAL:
    case T_ONLY: *(double *)at = r->def; break;
    case T_BOOL: *(bool *)at = r->def != 0; break;
    case T_TEXT:
    case T_JSON: *(const PfqJson **)at = NULL; break;
    }
}

static bool number_in(const Row *r, double v, PfqErr *err)
{
    if (v >= r->min && v <= r->max) { /* false of NaN, which JSON has not */
        return true;
    }
    return pfq_fail(err, "'%s' must be from %.17g to %.17g", r->name, r->min, r->max);
}

/* 5.0 is a whole number, too. */
static bool put_int(int64_t *at, const Row *r, const PfqJson *v, PfqErr *err)
{
    const double d = pfq_json_number(v);
    if (v->type == PFQ_JSON_REAL && (fabs(d) > 0x1p53 || d != trunc(d))) {
        return pfq_fail(err, "'%s' must be a whole number", r->name);
    }
    *at = v->type == PFQ_JSON_REAL ? (int64_t)d : v->i;
    return number_in(r, d, err);
}

static bool put_value(PfqFields *f, const Row *r, const PfqJson *v, PfqErr *err)
{
    static const unsigned types[] = {[T_INT] = PFQ_JSON_NUMBER,
                                     [T_REAL] = PFQ_JSON_NUMBER,
                                     [T_BOOL] = 1u << PFQ_JSON_BOOL,
                                     [T_TEXT] = 1u << PFQ_JSON_STRING,
                                     [T_JSON] = ~0u,
                                     [T_ONLY] = PFQ_JSON_NUMBER};
    static const char *const wanted[] = {"a whole number", "a number", "true or false",
                                         "a string",       "a value",  "a number"};
    void *at = (char *)f + r->at;
    if (!(types[r->type] >> v->type & 1)) {
        return pfq_fail(err, "'%s' must be %s, not %s", r->name, wanted[r->type],
                        pfq_json_type_name((PfqJsonType)v->type));
    }
    switch (r->type) {
    case T_INT: return put_int(at, r, v, err);
    case T_REAL: *(double *)at = pfq_json_number(v); return number_in(r, *(double *)at, err);
    case T_ONLY:
        return pfq_json_number(v) == r->def ||
               pfq_fail(err, "'%s' is not supported: it may be %g only", r->name, r->def);
    case T_BOOL: *(bool *)at = v->b; return true;
    case T_TEXT:
        *(const PfqJson **)at = v;
        return v->n <= r->max ||
               (r->max > 0 ? pfq_fail(err, "'%s' is longer than %.0f bytes", r->name, r->max)
                           : pfq_fail(err, "'%s' is not supported: it may be empty only", r->name));
    case T_JSON: *(const PfqJson **)at = v; return true;
    }
    return false;
}

bool pfq_fields_read(PfqFields *f, PfqApiRoute route, const PfqJson *body, const char **param,
                     PfqErr *err)
{
    const PfqJson *value[N_ROWS], *unknown;
    PfqJsonField field[N_ROWS];
    size_t n = 0, of[N_ROWS];
    *param = NULL;
    for (size_t i = 0; i < N_ROWS; i++) {
        put_default(f, &rows[i]);
        if (rows[i].routes & route) {
            of[n] = i;
            field[n] = (PfqJsonField){rows[i].name, ~0u, &value[n]};
            n++;
        }
    }
    if (body->type != PFQ_JSON_OBJECT) {
        return pfq_fail(err, "the body must be a JSON object, not %s",
                        pfq_json_type_name((PfqJsonType)body->type));
    }
    if (!pfq_json_fields(body, field, n, &unknown, err)) {
        return false;
    }
    if (unknown) {
        *param = unknown->s;
        return pfq_fail(err, "there is no field '%.100s', or it is not supported", unknown->s);
    }
    for (size_t i = 0; i < n; i++) {
        if (value[i] && value[i]->type != PFQ_JSON_NULL &&
            !put_value(f, &rows[of[i]], value[i], err)) {
            *param = rows[of[i]].name;
            return false;
        }
    }
    return true;
}

/* ---- the page ---- */

static const struct {
    PfqApiRoute route;
    const char *name;
} routes[] = {
    {PFQ_API_COMPLETIONS, "POST /v1/completions"},
    {PFQ_API_CHAT, "POST /v1/chat/completions"},
    {PFQ_API_TOKENIZE, "POST /tokenize"},
    {PFQ_API_DETOKENIZE, "POST /detokenize"},
};

static void number(PfqOut *out, const char *before, double v)
{
    if (v >= 0x1p63) {
        pfq_out_printf(out, "%s%lld", before, (long long)INT64_MAX);
    } else {
        pfq_out_printf(out, "%s%.15g", before, v);
    }
}

static void value_doc(PfqOut *out, const Row *r)
{
    static const char *const names[] = {"whole number", "number", "true or false",
                                        "text",         "",       "number"};
    pfq_out_printf(out, "%s", names[r->type]);
    if (r->type == T_INT || r->type == T_REAL) {
        number(out, ", ", r->min);
        number(out, " to ", r->max);
        if (r->def >= r->min) {
            number(out, " (default ", r->def);
            pfq_out_printf(out, ")");
        }
    } else if (r->type == T_ONLY) {
        number(out, ", only ", r->def);
    } else if (r->type == T_BOOL) {
        pfq_out_printf(out, " (default %s)", r->def != 0 ? "true" : "false");
    } else if (r->type == T_TEXT && r->max > 0) {
        number(out, ", at most ", r->max);
        pfq_out_printf(out, " bytes");
    }
}

void pfq_fields_doc(PfqOut *out)
{
    pfq_out_printf(out,
                   "# Fields of requests to `NAME serve`\n\nA body is one JSON object. A field "
                   "that is not here is refused, and so is a value of another type or out of "
                   "range;\n`null` is the same as not given. docs/server.md says what the "
                   "routes answer.\n");
    for (size_t k = 0; k < sizeof routes / sizeof *routes; k++) {
        pfq_out_printf(out, "\n## `%s`\n\n| field | value | meaning |\n|---|---|---|\n",
                       routes[k].name);
        for (size_t i = 0; i < N_ROWS; i++) {
            if (rows[i].routes & routes[k].route) {
                pfq_out_printf(out, "| `%s` | ", rows[i].name);
                value_doc(out, &rows[i]);
                pfq_out_printf(out, " | %s |\n", rows[i].help);
            }
        }
    }
}
