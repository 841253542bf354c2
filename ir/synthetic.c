#include "ir/eval_int.h"

/* The finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
 * 2014). */
static u64 mix(u64 z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

enum { GOLDEN_HI = 0x9e3779b9, GOLDEN_LO = 0x7f4a7c15 };
static const u64 golden = (u64)GOLDEN_HI << 32 | GOLDEN_LO;

u64 synthetic_key(u64 seed, u64 stream)
{
    return mix(mix(seed + golden) ^ (stream + 1) * golden);
}

static float value(u64 key, u64 i)
{
    i32 top = (i32)(mix(key + i * golden) >> 40) - (1 << 23); /* 24 bits: exact in a float */
    return (float)top * 0x1p-23f;
}

float synthetic_value(u64 seed, u64 stream, u64 i)
{
    return value(synthetic_key(seed, stream), i);
}

void synthetic_fill(u64 seed, u64 stream, u64 first, i64 n, float *out)
{
    u64 key = synthetic_key(seed, stream);
    for (i64 k = 0; k < n; k++)
        out[k] = value(key, first + (u64)k);
}
