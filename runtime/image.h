/* The weight image: one file with everything the kernels read, mapped and never copied.
 *
 * Layout (little-endian; all offsets from the first byte of the image):
 *
 *     0            PfqImageHeader, 64 bytes
 *     64           PfqImageSection[n_sections]
 *     data_offset  section bytes; data_offset and total_bytes are multiples of 64 KiB
 *
 * The image is either a file of its own, `<binary>.weights` or `<model name>.weights` in the
 * binary's folder, or appended to the binary at a multiple of 64 KiB and followed by a
 * PfqImageTrailer, the file's last bytes. PfqExec.weights and the offsets in generated code count
 * from data_offset.
 *
 * Writer (codegen/): fill name and bytes of each section, pfq_image_layout(), stream the data to
 * data_offset + section.offset while summing it with pfq_sum_*(), then write pfq_image_header()'s
 * bytes at 0. Gaps and the tail of the last 64 KiB are zero. When the image is appended, the
 * trailer comes last. Reader (the shipped binary): pfq_image_open() checks the whole header and
 * table against the file's real size before anything is used; data checksums are compared by
 * pfq_image_verify() only (`self-test`).
 *
 * Threading: a PfqImage is immutable after open. Errors: false, and a sentence in `err`.
 * Not here: what the sections mean (the packed layouts are codegen's).
 */
#ifndef PFQC_RUNTIME_IMAGE_H
#define PFQC_RUNTIME_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PFQ_IMAGE_VERSION      1u
#define PFQ_IMAGE_ALIGN        65536u /* of the data, the total and an appended image */
#define PFQ_SECTION_ALIGN      256u   /* of a section inside the data */
#define PFQ_IMAGE_MAX_SECTIONS 1000000u
#define PFQ_IMAGE_ENDIAN       0x01020304u
#define PFQ_IMAGE_SUFFIX       ".weights"

typedef struct PfqImageHeader {
    char magic[4];    /* "PFQW" */
    uint32_t version; /* PFQ_IMAGE_VERSION */
    uint32_t endian;  /* PFQ_IMAGE_ENDIAN as the writer's machine stores it */
    uint32_t n_sections;
    uint8_t id[16]; /* equals PfqModel.image_id */
    uint64_t total_bytes;
    uint64_t data_offset;
    uint64_t data_bytes; /* end of the last section, from data_offset */
    uint64_t table_sum;  /* pfq_sum of header (with this field 0) and table */
} PfqImageHeader;

typedef struct PfqImageSection {
    char name[72];   /* for messages and tools: NUL-terminated, cut if longer, need not be unique */
    uint64_t offset; /* from data_offset, multiple of PFQ_SECTION_ALIGN */
    uint64_t bytes;
    uint64_t sum; /* pfq_sum of the bytes */
} PfqImageSection;

typedef struct PfqImageTrailer {
    char magic[8];   /* "PFQWTAIL" */
    uint64_t offset; /* of the image in this file, multiple of PFQ_IMAGE_ALIGN */
    uint64_t bytes;  /* total_bytes of the image */
    uint8_t id[16];
} PfqImageTrailer;

_Static_assert(sizeof(PfqImageHeader) == 64, "header is 64 bytes in the file");
_Static_assert(sizeof(PfqImageSection) == 96, "section is 96 bytes in the file");
_Static_assert(sizeof(PfqImageTrailer) == 40, "trailer is 40 bytes in the file");

/* Running 64-bit checksum: four lanes of xor, odd multiply and xor-shift. Each step is a bijection
 * of its lane, so any change confined to one lane's word changes the sum; it is not meant to resist
 * an adversary. */
typedef struct PfqSum {
    uint64_t lane[4];
    uint64_t bytes;
    unsigned char tail[32];
} PfqSum;

void pfq_sum_init(PfqSum *s);
void pfq_sum_update(PfqSum *s, const void *data, size_t n);
uint64_t pfq_sum_final(const PfqSum *s);
uint64_t pfq_sum(const void *data, size_t n);

/* ---- writer ---- */

/* Sets offset of each section from its bytes, in order; *data_bytes and *data_offset and *total
 * follow. False when there are too many sections or a sum of sizes overflows. */
bool pfq_image_layout(PfqImageSection *sections, size_t n, uint64_t *data_offset,
                      uint64_t *data_bytes, uint64_t *total);

/* Bytes of header and table for n sections; pfq_image_header writes that many to out. Sections must
 * have been laid out and carry their sums. */
size_t pfq_image_header_bytes(size_t n);
bool pfq_image_header(const PfqImageSection *sections, size_t n, const uint8_t id[16], void *out);

void pfq_image_trailer(PfqImageTrailer *t, uint64_t offset, uint64_t total_bytes,
                       const uint8_t id[16]);

/* Call when everything is written: syncs, then drops the file from the page cache. Its pages there
 * are small ones; the first reader, which maps it with huge pages in mind, then brings it back in
 * huge ones where the file system can (ext4, xfs on recent kernels): one thread read 32 GB/s so
 * instead of 20. False as fsync fails. */
bool pfq_image_settle(int fd);

/* ---- reader ---- */

typedef struct PfqImage {
    const PfqImageHeader *header; /* all three point into the mapping */
    const PfqImageSection *sections;
    const char *data;
    void *map;
    size_t map_bytes;
    char path[4096]; /* the file that was opened */
    bool appended;
} PfqImage;

typedef struct PfqErr {
    char text[1024]; /* one sentence, no newline */
} PfqErr;

/* Stores the sentence and returns false. */
bool pfq_fail(PfqErr *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Finds, maps and validates the image of this binary: `file` if not NULL; else the image appended
 * to /proc/self/exe; else beside it (see above). `id` is what it must carry. */
bool pfq_image_open(PfqImage *im, const char *file, const char *model_name, const uint8_t id[16],
                    PfqErr *err);
void pfq_image_close(PfqImage *im);

/* Brings the whole image into memory, unless it is larger than half of that; shows its progress. */
void pfq_image_prefault(const PfqImage *im);

/* Compares every section's checksum; the first wrong one is named. `progress` (NULL: none), once
 * started, is told of each section. */
struct PfqProgress;
bool pfq_image_verify(const PfqImage *im, struct PfqProgress *progress, PfqErr *err);

#endif
