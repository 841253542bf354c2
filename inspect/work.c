#include "inspect/work.h"

#include <math.h>

enum { KEYS = 1024 };

/* Dense 8-bit integer operations and bytes a second, of the best known card of a kind, from
 * NVIDIA's data sheets and architecture papers. Those of B300 (sm_103a) say different things of
 * integers. */
const Machine work_machine[] = {{"sm_120a", "RTX 5090", 838e12, 1.792e12},
                                {"sm_100a", "B200", 4500e12, 8e12},
                                {"sm_90a", "H100 SXM", 1979e12, 3.35e12},
                                {"sm_89", "RTX 4090", 660.6e12, 1.008e12},
                                {"sm_86", "RTX 3090", 284e12, 0.936e12},
                                {"sm_80", "A100 SXM", 624e12, 2.039e12},
                                {NULL, NULL, 0, 0}};

bool work_roof(const Plan *p, const Times *t, Machine *out)
{
    for (u32 k = 0; k < p->target.n; k++)
        for (const Machine *m = work_machine; m->target; m++)
            if (str_is(p->target.at[k], m->target)) return *out = *m, true;
    *out = (Machine){"cpu", "a plain read by the same threads", 0, t ? t->read : 0};
    return out->bytes > 0;
}

double work_least_us(const Machine *m, double flops, double bytes)
{
    return 1e6 * fmax(m->ops > 0 ? flops / m->ops : 0, bytes / m->bytes);
}

double work_least_of_all(const Plan *p, const Work *w, const Machine *roof)
{
    double us = 0;
    for (u32 i = 0; i < p->kernel.n && roof; i++)
        us += work_least_us(roof, w[i].flops, w[i].bytes);
    return us;
}

double work_took(const Plan *p, const Work *w, const Times *t)
{
    double us = t ? t->whole : 0;
    for (u32 i = 0; i < p->kernel.n && t; i++)
        us += w[i].us;
    return us;
}

double work_rows(const Times *t)
{
    return t ? t->rows : 1;
}

double work_keys(const Plan *p, const Times *t)
{
    const double keys = t && t->n ? t->keys : (double)KEYS;
    return fmin(keys, (double)p->context);
}

static double bytes_of(const PlRef *r, u32 n, double rows, double keys)
{
    double sum = 0;
    for (u32 i = 0; i < n; i++) /* of the KV cache, a token's bytes */
        sum += (double)r[i].bytes * (str_is(r[i].place, "kv") ? keys : rows);
    return sum;
}

Work *work_of(Arena *a, const Plan *p, const Times *t, double rows, double keys)
{
    const PlPhase *ph = &p->phase[PL_PHASES - 1];
    Work *w = NEWN(a, Work, p->kernel.n);
    for (u32 i = 0; i < ph->n; i++) {
        const PlCall *c = &ph->call[i];
        Work *k = &w[c->kernel];
        if (!k->calls++) k->step = c->step;
        k->one = c->flops;
        k->flops += (double)c->flops * rows * (c->per_key ? keys : 1);
        k->bytes += (double)c->bytes + bytes_of(c->in, c->n_in, rows, keys * work_rows(t)) +
                    bytes_of(c->out, c->n_out, rows, rows);
        if (t && c->step < t->n) k->us += t->us[c->step];
        vec_push(a, &k->layers, c->layer);
    }
    return w;
}
