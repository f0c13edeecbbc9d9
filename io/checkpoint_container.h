/* checkpoint_container.h - a compressed checkpoint on its way to being trusted: what surrounds the
 * content (checkpoint_layout.h draws it). It knows zstd frames, their checksums, the digest frame
 * and the seek table; not what the content means, but for the number of bytes that it must have.
 *
 * The order of the calls is the order of trust: nothing is believed before it was compared, no
 * memory is asked for on the word of a field that could lie about it.
 *
 * Usage:
 *     TRY(checkpoint_container_open(bytes, size, &container, err));
 *     ... decompress container.header_frame: it says how many bytes of tensors there are ...
 *     TRY(checkpoint_container_check(&container, data_bytes, err));
 *     offsets = checkpoint_container_offsets(&container);
 *     frame = checkpoint_container_frame(&container, offsets, 1);
 *     TRY(checkpoint_container_decompress(&container, zstd, &frame, content, err));
 *     TRY(checkpoint_container_check_digest(&container, hex, err));
 *
 * Private to io/checkpoint_decode.c.
 *
 * THREADS: no state but what is passed; the last three functions may run at the same time.
 */
#ifndef CAIRN_IO_CHECKPOINT_CONTAINER_H
#define CAIRN_IO_CHECKPOINT_CONTAINER_H

#include <stddef.h>
#include <stdint.h>
#include <zstd.h>

#include "host/base/status.h"

/* A zstd frame: in the file, and what it claims to decompress to, which is no more than
 * CHECKPOINT_FRAME_BYTES and than so many bytes can stand for. */
struct container_frame {
    const uint8_t *bytes;
    size_t size;
    uint64_t content_bytes;
};

struct checkpoint_container {
    const uint8_t *bytes; /* [size] the file; the caller's, which outlives this */
    size_t size;
    struct container_frame header_frame;
    /* after checkpoint_container_check */
    size_t digest_offset; /* where the digest frame starts: everything before it is digested */
    size_t table_offset;  /* where the seek table starts */
    uint64_t frames;      /* zstd frames, the header's included */
};

/* Find the first frame. STATUS_CORRUPT. */
MUST_USE enum status checkpoint_container_open(const uint8_t *bytes, size_t size,
                                               struct checkpoint_container *out, struct error *err);

/* Compare frames, seek table and the place of the digest frame with each other and with the
 * `data_bytes` of tensors that the header speaks of; nothing is decompressed. STATUS_CORRUPT. */
MUST_USE enum status checkpoint_container_check(struct checkpoint_container *container,
                                                uint64_t data_bytes, struct error *err);

/* Where each frame begins in the file, [container->frames]; the caller frees it. NULL: out of
 * memory. */
size_t *checkpoint_container_offsets(const struct checkpoint_container *container);

/* The frame of that number; 0 is the header's. */
struct container_frame checkpoint_container_frame(const struct checkpoint_container *container,
                                                  const size_t *offsets, uint64_t index);

/* Decompress into exactly the frame's content_bytes, which are compared with its checksum.
 * STATUS_CORRUPT. Blocking. */
MUST_USE enum status checkpoint_container_decompress(const struct checkpoint_container *container,
                                                     ZSTD_DCtx *zstd,
                                                     const struct container_frame *frame,
                                                     uint8_t *content, struct error *err);

/* Compare the bytes before the digest frame with it; `hex` becomes the digest. STATUS_CORRUPT.
 * Blocking: it reads all of the file. */
MUST_USE enum status checkpoint_container_check_digest(const struct checkpoint_container *container,
                                                       char hex[33], struct error *err);

#endif
