/* fake_image OUT [BINARY]: writes the toy model's weight image as codegen would; with BINARY, a
 * copy of that program with the image appended. */
#include "fake_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/image.h"

_Noreturn static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Copies the program and pads it to the image's alignment; returns the offset reached. */
static uint64_t copy_program(FILE *out, const char *path)
{
    FILE *in = fopen(path, "rb");
    if (!in) {
        die(path);
    }
    uint64_t n = 0;
    for (int ch; (ch = getc(in)) != EOF; n++) {
        putc(ch, out);
    }
    fclose(in);
    for (; n % PFQ_IMAGE_ALIGN; n++) {
        putc(0, out);
    }
    return n;
}

int main(int argc, char **argv)
{
    static const uint8_t id[16] = FAKE_IMAGE_ID;
    float bias[FAKE_VOCAB];
    for (int32_t v = 0; v < FAKE_VOCAB; v++) {
        bias[v] = fake_bias(v);
    }
    PfqImageSection s = {.name = "bias", .bytes = sizeof bias, .sum = pfq_sum(bias, sizeof bias)};
    uint64_t data_offset, data_bytes, total;
    FILE *out = argc > 1 ? fopen(argv[1], "wb") : NULL;
    if (!out || !pfq_image_layout(&s, 1, &data_offset, &data_bytes, &total)) {
        die("fake_image");
    }
    unsigned char *image = calloc(1, total);
    if (!image || !pfq_image_header(&s, 1, id, image)) {
        die("fake_image");
    }
    memcpy(image + data_offset + s.offset, bias, sizeof bias);
    uint64_t at = argc > 2 ? copy_program(out, argv[2]) : 0;
    fwrite(image, 1, total, out);
    if (argc > 2) {
        PfqImageTrailer t;
        pfq_image_trailer(&t, at, total, id);
        fwrite(&t, sizeof t, 1, out);
    }
    free(image);
    if (fclose(out) != 0) {
        die(argv[1]);
    }
    return 0;
}
