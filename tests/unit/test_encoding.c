/* ir/encoding: every storage encoding decodes to the reference's f32 values, bit for bit, over any
 * range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ir/base/half.h"
#include "ir/base/io.h"
#include "ir/encoding.h"

#include <math.h>
#include <stdlib.h>

static void assert_same_bits(const char *what, const float *got, const float *want, u64 n)
{
    for (u64 i = 0; i < n; i++) {
        if (isnan(got[i]) && isnan(want[i])) continue;
        if (bits_f32(got[i]) != bits_f32(want[i]))
            fail_msg("%s: element %llu is %a, expected %a", what, (unsigned long long)i,
                     (double)got[i], (double)want[i]);
    }
}

/* tests/data/encodings/NAME.bin holds u32 blocks, the blocks, the f32 values
 * (tests/tools/make_encodings.py). */
static void blocks_match_the_reference(void **state)
{
    (void)state;
    static const char *const names[] = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0",    "iq4_nl", "q2_k",
                                        "q3_k", "q4_k", "q5_k", "q6_k", "f8_e4m3", "f8_e5m2"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        Arena a = {0};
        Diag d;
        MappedFile f;
        diag_init(&d, &a);
        if (!io_map(&d, &a, arena_printf(&a, "tests/data/encodings/%s.bin", names[k]), &f))
            fail_msg("no data for %s", names[k]);
        EncId enc = enc_by_name(str_c(names[k]));
        const EncInfo *e = enc_info(enc);
        u32 blocks;
        memcpy(&blocks, f.data, 4);
        u64 n = (u64)blocks * e->block, bytes;
        assert_true(enc_bytes(enc, n, &bytes));
        assert_int_equal(f.size, 4 + bytes + 4 * n);
        const u8 *src = f.data + 4;
        float *want = xmalloc(n, 4), *got = xmalloc(n + 1, 4);
        memcpy(want, src + bytes, 4 * n);
        enc_decode(enc, src, 0, n, got);
        assert_same_bits(names[k], got, want, n);
        for (u32 r = 0, seed = 7; r < 2000; r++) { /* ranges that start and end anywhere */
            seed = seed * 1664525 + 1013904223;
            u64 first = (seed >> 8) % n, count = (seed >> 4) % (n - first + 1);
            got[count] = 42;
            enc_decode(enc, src, first, count, got);
            assert_same_bits(names[k], got, want + first, count);
            if (!(got[count] == 42)) fail_msg("%s: wrote past the range", names[k]);
        }
        free(want), free(got);
        io_unmap(&f);
        arena_free(&a);
    }
}

static void halves_match_the_scalar_form(void **state)
{
    (void)state;
    u16 *src = xmalloc(65536, 2);
    float *got = xmalloc(65536, 4), *want = xmalloc(65536, 4);
    for (u32 h = 0; h < 65536; h++)
        src[h] = (u16)h;
    enc_decode(ENC_F16, (const u8 *)src, 0, 65536, got);
    for (u32 h = 0; h < 65536; h++)
        want[h] = f16_to_f32((u16)h);
    assert_same_bits("f16", got, want, 65536);
    enc_decode(ENC_BF16, (const u8 *)src, 0, 65536, got);
    for (u32 h = 0; h < 65536; h++)
        want[h] = bf16_to_f32((u16)h);
    assert_same_bits("bf16", got, want, 65536);
    free(src), free(got), free(want);
}

/* Unaligned sources of each plain type; wide types round to nearest even. */
static void plain_types_widen_or_round(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        u64 bits;
        double value;
    } rows[] = {
        {"f32", 0x7f7fffff, 0x1.fffffep127},
        {"f64", 0x3ff0000010000000, 1.0}, /* halfway between 1 and its successor: to even */
        {"f64", 0x3ff0000030000000, 1.0 + 0x1p-22},    /* halfway the other way */
        {"f64", 0x7fe0000000000000, (double)INFINITY}, /* beyond f32 */
        {"i8", 0x80, -128},
        {"i16", 0x8000, -32768},
        {"i32", 0x80000000, -0x1p31},
        {"i32", 0x01000001, 0x1p24},
        {"i64", 0x8000000000000000, -0x1p63},
        {"i64", 0x7fffffffffffffff, 0x1p63},
        {"u8", 0xff, 255},
        {"u16", 0xffff, 65535},
        {"u32", 0xffffffff, 0x1p32},
        {"u64", 0xffffffffffffffff, 0x1p64},
        {"bool", 1, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        EncId enc = enc_by_name(str_c(rows[i].name));
        u8 buf[1 + 8 * 3] = {0};
        float got;
        memcpy(buf + 1 + 2 * enc_info(enc)->bytes, &rows[i].bits, enc_info(enc)->bytes);
        enc_decode(enc, buf + 1, 2, 1, &got);
        if (bits_f32(got) != bits_f32((float)rows[i].value))
            fail_msg("%s %llx gave %a", rows[i].name, (unsigned long long)rows[i].bits,
                     (double)got);
    }
}

static void table_is_consistent(void **state)
{
    (void)state;
    for (int e = 1; e < ENC_COUNT; e++) {
        const EncInfo *i = enc_info((EncId)e);
        assert_int_equal(enc_by_name(str_c(i->name)), e);
        if (i->safetensors) assert_int_equal(enc_by_safetensors(str_c(i->safetensors)), e);
        if (i->gguf >= 0) assert_int_equal(enc_by_gguf((u32)i->gguf), e);
        assert_true(i->block >= 1 && i->block <= 256); /* enc_decode's buffer */
    }
    assert_int_equal(enc_by_name(STR("q4_2")), ENC_NONE);
    assert_int_equal(enc_by_safetensors(STR("f32")), ENC_NONE);
    assert_int_equal(enc_by_gguf(UINT32_MAX), ENC_NONE);
    u64 bytes;
    assert_true(enc_bytes(ENC_Q4_1, 64, &bytes) && bytes == 40);
    assert_false(enc_bytes(ENC_Q4_1, 63, &bytes));
    assert_false(enc_bytes(ENC_F64, UINT64_MAX / 8 + 1, &bytes));
    assert_true(enc_bytes(ENC_Q4_K, 0, &bytes) && bytes == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_match_the_reference),
        cmocka_unit_test(halves_match_the_scalar_form),
        cmocka_unit_test(plain_types_widen_or_round),
        cmocka_unit_test(table_is_consistent),
    };
    return cmocka_run_group_tests_name("encoding", tests, NULL, NULL);
}
