/* docs/ops.md, made from the tables. */
#include "ir/text.h"

static void operand_count(StrBuf *b, const OpInfo *o)
{
    if (o->min_in == o->max_in)
        sb_printf(b, "%u", o->min_in);
    else
        sb_printf(b, "%u-%u", o->min_in, o->max_in);
}

void ir_doc_ops(StrBuf *b)
{
    sb_str(b, "# Ops\n\nMade by `pfqc doc ops` from ir/ops.def and ir/attrs.def. C: allowed in the "
              "constant region; S: reads or "
              "writes state; L: leaf, its type is written. `?`: the attribute may be left out.\n\n"
              "| op | in | out | flags | attributes | effect |\n|---|---|---|---|---|---|\n");
    for (int k = 1; k < OP_COUNT; k++) {
        const OpInfo *o = &op_info[k];
        sb_printf(b, "| `%s` | ", o->mnemonic);
        operand_count(b, o);
        sb_printf(b, " | %u | %s%s%s | %s | ", o->nout, o->flags & OPF_CONST ? "C" : "",
                  o->flags & OPF_STATEFUL ? "S" : "", o->flags & OPF_LEAF ? "L" : "", o->attrs);
        for (const char *p = o->effect; *p; p++) {
            if (*p == '|') sb_ch(b, '\\');
            sb_ch(b, *p);
        }
        sb_str(b, " |\n");
    }
    sb_str(b, "\n## Attributes\n\n| attribute | kind | default | meaning |\n|---|---|---|---|\n");
    static const char *const kinds[] = {"int", "float", "string", "ints", "floats"};
    for (int k = 1; k < A_COUNT; k++) {
        const AttrInfo *i = &attr_info[k];
        sb_printf(b, "| `%s` | %s | ", i->name, kinds[i->kind]);
        if (i->kind == AK_INT || i->kind == AK_FLOAT) sb_printf(b, "%g", i->def);
        sb_printf(b, " | %s |\n", i->doc);
    }
    sb_str(b, "\n## Element types\n\n| type | bits | range |\n|---|---|---|\n");
    for (int k = 1; k < DT_COUNT; k++) {
        const DTypeInfo *t = &dtype_info[k];
        if (t->is_float)
            sb_printf(b, "| `%s` | %u | |\n", t->name, t->bits);
        else
            sb_printf(b, "| `%s` | %u | %lld to %lld |\n", t->name, t->bits, (long long)t->lo,
                      (long long)t->hi);
    }
}
