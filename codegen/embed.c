#include "codegen/codegen_int.h"

/* Table of build/embed.S, ended by a NULL name. */
struct Embedded {
    const char *name;
    const char *data;
    u64 bytes;
};
extern const struct Embedded cg_embedded[];

bool cg_embedded_find(const char *name, Str *out)
{
    for (const struct Embedded *e = cg_embedded; e->name; e++) {
        if (strcmp(e->name, name) == 0) {
            *out = (Str){e->data, (size_t)e->bytes};
            return true;
        }
    }
    return false;
}

const char *cg_embedded_name(u32 i)
{
    return cg_embedded[i].name;
}
