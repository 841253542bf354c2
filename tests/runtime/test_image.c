/* The weight image's checksums, layout, and what the reader refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/image.h"

static const uint8_t id[16] = {1, 2, 3};
static const char *const path = "test_image.weights";

typedef struct Built {
    unsigned char *bytes;
    size_t n;
    uint64_t data_offset;
} Built;

static Built build(void)
{
    PfqImageSection s[3] = {
        {.name = "a", .bytes = 1000}, {.name = "empty", .bytes = 0}, {.name = "b", .bytes = 70001}};
    uint64_t off, bytes, total;
    assert_true(pfq_image_layout(s, 3, &off, &bytes, &total));
    assert_int_equal(off, 65536);
    assert_int_equal(s[2].offset, 1024);
    assert_int_equal(bytes, 71025);
    assert_int_equal(total, 3 * 65536);
    Built b = {.bytes = calloc(1, total), .n = total, .data_offset = off};
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < s[i].bytes; k++) {
            b.bytes[off + s[i].offset + k] = (unsigned char)(k * 7 + i);
        }
        s[i].sum = pfq_sum(b.bytes + off + s[i].offset, s[i].bytes);
    }
    assert_true(pfq_image_header(s, 3, id, b.bytes));
    return b;
}

static void put(const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static bool opens(PfqErr *err)
{
    PfqImage im;
    bool ok = pfq_image_open(&im, path, "m", id, err);
    if (ok) {
        pfq_image_close(&im);
    }
    return ok;
}

static void sum_is_the_same_in_pieces(void **state)
{
    (void)state;
    unsigned char data[257];
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)(i * 31);
    }
    uint64_t whole = pfq_sum(data, sizeof data);
    for (size_t step = 1; step < sizeof data; step++) {
        PfqSum s;
        pfq_sum_init(&s);
        for (size_t at = 0; at < sizeof data; at += step) {
            size_t left = sizeof data - at;
            pfq_sum_update(&s, data + at, left < step ? left : step);
        }
        assert_int_equal(pfq_sum_final(&s), whole);
    }
    for (size_t bit = 0; bit < sizeof data * 8; bit++) {
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        assert_int_not_equal(pfq_sum(data, sizeof data), whole);
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    unsigned char zeros[64] = {0};
    assert_int_not_equal(pfq_sum(zeros, 31), pfq_sum(zeros, 32));
    assert_int_not_equal(pfq_sum(zeros, 32), pfq_sum(zeros, 64));
}

static void good_image_opens_and_verifies(void **state)
{
    (void)state;
    Built b = build();
    put(b.bytes, b.n);
    PfqImage im;
    PfqErr err;
    assert_true(pfq_image_open(&im, path, "m", id, &err));
    assert_int_equal(im.header->n_sections, 3);
    assert_memory_equal(im.data, b.bytes + b.data_offset, 71025);
    assert_true(pfq_image_verify(&im, NULL, &err));
    pfq_image_close(&im);

    b.bytes[b.data_offset + 1024 + 500] ^= 4;
    put(b.bytes, b.n);
    assert_true(pfq_image_open(&im, path, "m", id, &err));
    assert_false(pfq_image_verify(&im, NULL, &err));
    assert_non_null(strstr(err.text, "'b'"));
    pfq_image_close(&im);
    free(b.bytes);
}

static void every_bit_of_the_header_counts(void **state)
{
    (void)state;
    Built b = build();
    PfqErr err;
    put(b.bytes, b.n);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    for (size_t bit = 0; bit < pfq_image_header_bytes(3) * 8; bit++) {
        unsigned char flipped = (unsigned char)(b.bytes[bit / 8] ^ 1u << bit % 8);
        assert_int_equal(pwrite(fd, &flipped, 1, (off_t)(bit / 8)), 1);
        err.text[0] = 0;
        assert_false(opens(&err));
        assert_true(strlen(err.text) > 20);
        assert_int_equal(pwrite(fd, &b.bytes[bit / 8], 1, (off_t)(bit / 8)), 1);
    }
    assert_true(opens(&err));
    assert_true(pfq_image_settle(fd));
    assert_true(opens(&err));
    close(fd);
    assert_false(pfq_image_settle(fd));
    free(b.bytes);
}

static void truncation_is_refused(void **state)
{
    (void)state;
    Built b = build();
    PfqErr err;
    put(b.bytes, b.n);
    for (size_t n = b.n - 1; n > 0; n = n > 65536 ? n - 4096 : n > 400 ? n - 100 : n - 1) {
        assert_int_equal(truncate(path, (off_t)n), 0);
        assert_false(opens(&err));
    }
    put("", 0);
    assert_false(opens(&err));
    free(b.bytes);
}

static void wrong_files_are_named(void **state)
{
    (void)state;
    PfqImage im;
    PfqErr err;
    const uint8_t other[16] = {9};
    Built b = build();
    put(b.bytes, b.n);
    assert_false(pfq_image_open(&im, path, "m", other, &err));
    assert_non_null(strstr(err.text, "compiled with weights 0900"));
    assert_false(pfq_image_open(&im, "/dev/zero", "m", id, &err));
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_false(pfq_image_open(&im, ".", "m", id, &err));
    assert_false(pfq_image_open(&im, "no-such-file", "m", id, &err));
    assert_non_null(strstr(err.text, "No such file"));
    free(b.bytes);
}

/* A file that shrinks under a running program ends it with a message, not a signal. */
static void shrinking_file_is_an_error(void **state)
{
    (void)state;
    Built b = build();
    put(b.bytes, b.n);
    free(b.bytes);
    int pipe_fd[2], status = 0;
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t child = fork();
    if (child == 0) {
        PfqImage im;
        PfqErr err;
        dup2(pipe_fd[1], 2);
        if (!pfq_image_open(&im, path, "m", id, &err) || truncate(path, 65536) != 0) {
            _exit(7);
        }
        pfq_image_prefault(&im);
        _exit(*(const volatile char *)(im.data + 70000) == 1 ? 8 : 9);
    }
    char message[200] = "";
    close(pipe_fd[1]);
    assert_true(read(pipe_fd[0], message, sizeof message - 1) > 0);
    close(pipe_fd[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_non_null(strstr(message, "became shorter"));
}

static void sizes_that_wrap_are_refused(void **state)
{
    (void)state;
    PfqImageSection s[2] = {{.bytes = UINT64_MAX - 10}, {.bytes = 100}};
    uint64_t a, b, c;
    assert_false(pfq_image_layout(s, 2, &a, &b, &c));
    s[0].bytes = INT64_MAX;
    assert_false(pfq_image_layout(s, 2, &a, &b, &c));
    assert_false(pfq_image_layout(s, PFQ_IMAGE_MAX_SECTIONS + 1, &a, &b, &c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_is_the_same_in_pieces),
        cmocka_unit_test(good_image_opens_and_verifies),
        cmocka_unit_test(every_bit_of_the_header_counts),
        cmocka_unit_test(truncation_is_refused),
        cmocka_unit_test(wrong_files_are_named),
        cmocka_unit_test(shrinking_file_is_an_error),
        cmocka_unit_test(sizes_that_wrap_are_refused),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
