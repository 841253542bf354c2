/* UTF-8, general categories, case, widths and NFC, over tables made at build time
 * (scripts/gen_unicode.c).
 *
 * Text is any bytes. A byte that is not part of well-formed UTF-8 (RFC 3629: no overlong forms,
 * surrogates or values past U+10FFFF) counts as one character of its own, PFQ_UC_BAD | byte, in
 * category Cn. Thread-safe, no state. Only pfq_nfc allocates. Not here: case mapping to several
 * characters, compatibility forms.
 */
#ifndef PFQC_RUNTIME_UNICODE_H
#define PFQC_RUNTIME_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PFQ_UC_BAD 0x80000000u

/* A set of general categories is a bit mask, bit = the category's number below; bit 31 is regex
 * `\s` (White_Space: TAB..CR, NEL and category Z), so that one lookup answers every class of a
 * pattern. */
enum {
    PFQ_UC_CN = 1u << 0,
    PFQ_UC_LU = 1u << 1,
    PFQ_UC_LL = 1u << 2,
    PFQ_UC_LT = 1u << 3,
    PFQ_UC_LM = 1u << 4,
    PFQ_UC_LO = 1u << 5,
    PFQ_UC_L = 0x3eu,      /* Lu Ll Lt Lm Lo */
    PFQ_UC_M = 0x1c0u,     /* Mn Mc Me */
    PFQ_UC_N = 0xe00u,     /* Nd Nl No */
    PFQ_UC_P = 0x7f000u,   /* Pc Pd Ps Pe Pi Pf Po */
    PFQ_UC_S = 0x780000u,  /* Sm Sc Sk So */
    PFQ_UC_Z = 0x3800000u, /* Zs Zl Zp */
};
#define PFQ_UC_SPACE (1u << 31)

extern const uint32_t pfq_uc_version; /* 0x0F0000 = Unicode 15.0.0 */

uint32_t pfq_uc_bits(uint32_t c); /* category bit of a code point, or PFQ_UC_CN past U+10FFFF */
unsigned pfq_uc_ccc(uint32_t c);  /* canonical combining class */

/* Simple case mapping: one character to one; c itself where there is none. */
uint32_t pfq_uc_upper(uint32_t c);
uint32_t pfq_uc_lower(uint32_t c);

/* Columns of a terminal that c takes: 0, 1 or 2; 0 for control characters. */
int pfq_uc_width(uint32_t c);

/* Decodes the character at s[*i] (*i < n) and moves *i past it. */
uint32_t pfq_utf8_next(const char *s, size_t n, size_t *i);

/* Writes c (a code point or PFQ_UC_BAD | byte) and returns its length, 1..4. */
size_t pfq_utf8_put(uint32_t c, char out[4]);

/* Normalization form C of s[0..n). On success returns true; *out is NULL if s is known to be in
 * that form already, else a malloc'ed string of *out_n bytes. Returns false when out of memory. */
bool pfq_nfc(const char *s, size_t n, char **out, size_t *out_n);

#endif
