/* checkpoint_layout.h - the container around a checkpoint's content: constants and fields that the
 * encoder and the decoder must agree on. docs/checkpoint-format.md says the same in words.
 *
 *     zstd frame: length and JSON of the safetensors header
 *     zstd frames: the tensors' bytes, CHECKPOINT_FRAME_BYTES each, the last one shorter
 *     digest frame (skippable): XXH3-128 of all bytes before it
 *     seek table (skippable): one entry per frame above, the digest frame included
 *
 * Private to io/checkpoint_encode.c, _frames.c, _container.c and _decode.c.
 */
#ifndef CAIRN_IO_CHECKPOINT_LAYOUT_H
#define CAIRN_IO_CHECKPOINT_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "io/checkpoint.h"

#define LAYOUT_FRAME_MAGIC 0xFD2FB528u         /* zstd frame */
#define LAYOUT_DIGEST_MAGIC 0x184D2A5Du        /* skippable frame, D for digest */
#define LAYOUT_SEEK_MAGIC 0x184D2A5Eu          /* skippable frame, the seekable format's own */
#define LAYOUT_SEEKABLE_FOOTER 0x8F92EAB1u     /* last four bytes of the file */
#define LAYOUT_CHECKSUM_OF_NOTHING 0x51D8E999u /* low half of XXH64 of no bytes, seed 0 */

enum {
    LAYOUT_SKIPPABLE_HEADER_BYTES = 8, /* magic, size of what follows */
    LAYOUT_DIGEST_BYTES = 16,          /* canonical (big-endian) XXH3-128 */
    LAYOUT_DIGEST_FRAME_BYTES = LAYOUT_SKIPPABLE_HEADER_BYTES + LAYOUT_DIGEST_BYTES,
    LAYOUT_SEEK_ENTRY_BYTES = 12,    /* compressed size, content size, checksum of the content */
    LAYOUT_SEEK_FOOTER_BYTES = 9,    /* number of entries, descriptor, magic */
    LAYOUT_SEEK_DESCRIPTOR = 0x80,   /* entries have checksums */
    LAYOUT_CHECKSUM_BYTES = 4,       /* at the end of every zstd frame: low half of XXH64 */
    LAYOUT_STORED_DESCRIPTOR = 0xA4, /* of a stored frame: size in 4 bytes, one segment, checksum */
    LAYOUT_BLOCK_BYTES = 128 << 10   /* the largest block that zstd allows */
};

/* The 16 bytes of a canonical XXH3-128 as 32 hex digits and a NUL. In checkpoint_encode.c. */
void checkpoint_digest_text(const uint8_t digest[LAYOUT_DIGEST_BYTES], char out[33]);

/* Data frames for so many bytes of tensors. */
static inline uint64_t layout_data_frames(uint64_t data_bytes) {
    return (data_bytes + CHECKPOINT_FRAME_BYTES - 1) / CHECKPOINT_FRAME_BYTES;
}

/* Bytes of a whole seek table with so many entries. */
static inline size_t layout_seek_table_bytes(uint64_t entries) {
    return LAYOUT_SKIPPABLE_HEADER_BYTES + (size_t)entries * LAYOUT_SEEK_ENTRY_BYTES +
           LAYOUT_SEEK_FOOTER_BYTES;
}

static inline void layout_put32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static inline uint32_t layout_get32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

#endif
