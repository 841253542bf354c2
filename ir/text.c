#include "ir/text.h"

const char *ir_type_text(Module *m, const Type *t)
{
    static const char symbols[] = "?TRC";
    StrBuf b = {.a = m->a};
    sb_str(&b, dtype_info[t->dt].name);
    sb_ch(&b, '[');
    for (u32 i = 0; i < t->rank; i++) {
        if (i) sb_ch(&b, ',');
        if (t->dim[i] < 0) sb_ch(&b, symbols[-t->dim[i]]);
        else sb_printf(&b, "%lld", (long long)t->dim[i]);
    }
    sb_ch(&b, ']');
    return b.p;
}

const char *ir_op_text(Module *m, const Op *op)
{
    StrBuf b = {.a = m->a};
    sb_str(&b, op_info[op->kind].mnemonic);
    for (u32 i = 0; i < op->nin; i++) sb_printf(&b, "%s %%%u", i ? "," : "", op->in[i]);
    return b.p;
}
