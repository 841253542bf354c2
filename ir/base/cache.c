#include "ir/base/cache.h"

#include <stdlib.h>
#include <string.h>

static u64 turn(u64 x, int n)
{
    return x << n | x >> (64 - n);
}

void content_add(ContentHash *h, const void *data, u64 n)
{
    const u8 *p = data;
    u64 w[4], left = n;
    for (; left >= 32; left -= 32, p += 32) {
        memcpy(w, p, 32);
        for (int i = 0; i < 4; i++)
            h->lane[i] = turn(h->lane[i] ^ w[i], 29) * 0x9fb21c651e98df25u;
    }
    memset(w, 0, sizeof w);
    if (left) memcpy(w, p, left);
    for (int i = 0; i < 4; i++) /* the length keeps "a" + "" and "" + "a" apart */
        h->lane[i] = turn(h->lane[i] ^ w[i] ^ n, 31) * 0xff51afd7ed558ccdu + (u64)i;
}

ContentHash content_new(void)
{
    return (ContentHash){
        {0x243f6a8885a308d3u, 0x13198a2e03707344u, 0xa4093822299f31d0u, 0x082efa98ec4e6c89u}};
}

const char *content_text(Arena *a, const ContentHash *h)
{
    u64 x = h->lane[0], y = h->lane[2];
    x = (x ^ turn(h->lane[1], 23)) * 0xff51afd7ed558ccdu;
    y = (y ^ turn(h->lane[3], 41)) * 0xc4ceb9fe1a85ec53u;
    x ^= turn(y, 17) ^ x >> 33;
    y ^= turn(x * 0x9e3779b97f4a7c15u, 7) ^ y >> 29;
    return arena_printf(a, "%016llx%016llx", (unsigned long long)(x * 0xff51afd7ed558ccdu),
                        (unsigned long long)(y * 0xc4ceb9fe1a85ec53u));
}

const char *cache_folder(Arena *a, const char *given)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given) return given;
    if (xdg && *xdg == '/') return arena_printf(a, "%s/pfqc", xdg);
    return home && *home == '/' ? arena_printf(a, "%s/.cache/pfqc", home) : NULL;
}
