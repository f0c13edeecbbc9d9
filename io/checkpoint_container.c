/* checkpoint_container.c - frames, digest frame and seek table of a compressed checkpoint. */
#include "io/checkpoint_container.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/checkpoint_layout.h"

/* No zstd block says more with less: four bytes can stand for 128 KiB of one value. What a frame
 * claims beyond that is a lie, so memory for it is never asked for. */
#define RATIO_MAX 32768

/* ---- one zstd frame ---- */

/* The largest distance back in the content that a frame's data may refer to, from its header (RFC
 * 8878, 3.1.1.1.2); 0 when the frame is a single segment and needs no window. */
static uint64_t frame_window_bytes(const uint8_t *frame) {
    bool single_segment = (frame[4] & 0x20) != 0;
    if (single_segment) {
        return 0;
    }
    uint64_t base = (uint64_t)1 << (10 + (frame[5] >> 3));
    return base + base / 8 * (frame[5] & 7);
}

/* Find the zstd frame at `offset` and read what its header says; nothing is decompressed. */
static enum status read_frame(const uint8_t *bytes, size_t size, size_t offset,
                              struct container_frame *out, struct error *err) {
    const uint8_t *at = bytes + offset;
    size_t left = size - offset;
    CHECK(left >= 4 && layout_get32(at) == LAYOUT_FRAME_MAGIC, err, STATUS_CORRUPT,
          "a zstd frame is expected at byte %zu and there is none", offset);
    size_t frame_bytes = ZSTD_findFrameCompressedSize(at, left);
    CHECK(!ZSTD_isError(frame_bytes), err, STATUS_CORRUPT,
          "the zstd frame at byte %zu is cut off or damaged: %s", offset,
          ZSTD_getErrorName(frame_bytes));
    uint8_t descriptor = at[4];
    CHECK((descriptor & 0x04) != 0, err, STATUS_CORRUPT,
          "the zstd frame at byte %zu has no content checksum", offset);
    CHECK((descriptor & 0x0B) == 0, err, STATUS_CORRUPT,
          "the zstd frame at byte %zu has a dictionary or an unknown flag", offset);
    CHECK(frame_window_bytes(at) <= (uint64_t)1 << CHECKPOINT_WINDOW_LOG_MAX, err, STATUS_CORRUPT,
          "the zstd frame at byte %zu asks for a window of more than %d bytes", offset,
          1 << CHECKPOINT_WINDOW_LOG_MAX);
    unsigned long long content_bytes = ZSTD_getFrameContentSize(at, left);
    CHECK(content_bytes != ZSTD_CONTENTSIZE_UNKNOWN && content_bytes != ZSTD_CONTENTSIZE_ERROR, err,
          STATUS_CORRUPT, "the zstd frame at byte %zu does not say how large its content is",
          offset);
    CHECK(content_bytes <= CHECKPOINT_FRAME_BYTES && content_bytes / RATIO_MAX <= frame_bytes, err,
          STATUS_CORRUPT, "the zstd frame at byte %zu (%zu bytes) claims to hold %llu bytes",
          offset, frame_bytes, content_bytes);
    *out = (struct container_frame){at, frame_bytes, content_bytes};
    return STATUS_OK;
}

enum status checkpoint_container_open(const uint8_t *bytes, size_t size,
                                      struct checkpoint_container *out, struct error *err) {
    *out = (struct checkpoint_container){.bytes = bytes, .size = size};
    return read_frame(bytes, size, 0, &out->header_frame, err);
}

/* ---- the end of the file, and the frames before it ---- */

static const uint8_t *table_entry(const struct checkpoint_container *container, uint64_t index) {
    return container->bytes + container->table_offset + LAYOUT_SKIPPABLE_HEADER_BYTES +
           index * LAYOUT_SEEK_ENTRY_BYTES;
}

/* The header says how many frames there are, so the end of the file has one possible form. */
static enum status check_end(struct checkpoint_container *container, uint64_t data_bytes,
                             struct error *err) {
    const uint8_t *end = container->bytes + container->size;
    container->frames = 1 + layout_data_frames(data_bytes);
    uint64_t entries = container->frames + 1;
    size_t table_bytes = layout_seek_table_bytes(entries);
    CHECK(container->size >= container->header_frame.size + LAYOUT_DIGEST_FRAME_BYTES + table_bytes,
          err, STATUS_CORRUPT,
          "the file is cut off: %zu bytes cannot hold the %" PRIu64 " bytes of its tensors",
          container->size, data_bytes);
    container->table_offset = container->size - table_bytes;
    container->digest_offset = container->table_offset - LAYOUT_DIGEST_FRAME_BYTES;
    const uint8_t *footer = end - LAYOUT_SEEK_FOOTER_BYTES;
    CHECK(layout_get32(footer + 5) == LAYOUT_SEEKABLE_FOOTER, err, STATUS_CORRUPT,
          "the file does not end with a seek table: it is cut off, or something was appended");
    const uint8_t *table = container->bytes + container->table_offset;
    CHECK(layout_get32(footer) == entries && footer[4] == LAYOUT_SEEK_DESCRIPTOR &&
              layout_get32(table) == LAYOUT_SEEK_MAGIC &&
              layout_get32(table + 4) == table_bytes - LAYOUT_SKIPPABLE_HEADER_BYTES,
          err, STATUS_CORRUPT,
          "the seek table at byte %zu is damaged: a table of %" PRIu64 " entries is expected",
          container->table_offset, entries);
    return STATUS_OK;
}

static enum status check_entry(const struct checkpoint_container *container, uint64_t index,
                               size_t frame_bytes, uint64_t content_bytes, uint32_t checksum,
                               struct error *err) {
    const uint8_t *entry = table_entry(container, index);
    CHECK(layout_get32(entry) == frame_bytes && layout_get32(entry + 4) == content_bytes &&
              layout_get32(entry + 8) == checksum,
          err, STATUS_CORRUPT,
          "entry %" PRIu64 " of the seek table (%" PRIu32 " bytes, content %" PRIu32
          ", checksum %08" PRIx32 ") is not what the file holds (%zu, %" PRIu64 ", %08" PRIx32 ")",
          index, layout_get32(entry), layout_get32(entry + 4), layout_get32(entry + 8), frame_bytes,
          content_bytes, checksum);
    return STATUS_OK;
}

/* Walk the frames: each holds what the header's sizes say, each is what its entry says, and they
 * end where the digest frame starts. */
static enum status check_frames(const struct checkpoint_container *container, uint64_t data_bytes,
                                struct error *err) {
    size_t offset = 0;
    uint64_t left = data_bytes;
    for (uint64_t i = 0; i < container->frames; i++) {
        struct container_frame frame = {0};
        TRY(read_frame(container->bytes, container->digest_offset, offset, &frame, err));
        if (i > 0) {
            uint64_t expected = left < CHECKPOINT_FRAME_BYTES ? left : CHECKPOINT_FRAME_BYTES;
            CHECK(frame.content_bytes == expected, err, STATUS_CORRUPT,
                  "the zstd frame at byte %zu holds %" PRIu64 " bytes, %" PRIu64 " are expected",
                  offset, frame.content_bytes, expected);
            left -= expected;
        }
        uint32_t checksum = layout_get32(frame.bytes + frame.size - LAYOUT_CHECKSUM_BYTES);
        TRY(check_entry(container, i, frame.size, frame.content_bytes, checksum, err));
        offset += frame.size;
    }
    CHECK(offset == container->digest_offset, err, STATUS_CORRUPT,
          "the frames end at byte %zu, the digest frame would start at byte %zu", offset,
          container->digest_offset);
    return check_entry(container, container->frames, LAYOUT_DIGEST_FRAME_BYTES, 0,
                       LAYOUT_CHECKSUM_OF_NOTHING, err);
}

enum status checkpoint_container_check(struct checkpoint_container *container, uint64_t data_bytes,
                                       struct error *err) {
    TRY(check_end(container, data_bytes, err));
    return check_frames(container, data_bytes, err);
}

enum status checkpoint_container_check_digest(const struct checkpoint_container *container,
                                              char hex[33], struct error *err) {
    const uint8_t *digest = container->bytes + container->digest_offset;
    CHECK(layout_get32(digest) == LAYOUT_DIGEST_MAGIC &&
              layout_get32(digest + 4) == LAYOUT_DIGEST_BYTES,
          err, STATUS_CORRUPT, "the digest frame at byte %zu is damaged", container->digest_offset);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(container->bytes, container->digest_offset));
    CHECK(
        memcmp(canonical.digest, digest + LAYOUT_SKIPPABLE_HEADER_BYTES, LAYOUT_DIGEST_BYTES) == 0,
        err, STATUS_CORRUPT,
        "the digest of the first %zu bytes is not the one in the digest frame: the file is damaged",
        container->digest_offset);
    checkpoint_digest_text(canonical.digest, hex);
    return STATUS_OK;
}

/* ---- what is in the frames ---- */

size_t *checkpoint_container_offsets(const struct checkpoint_container *container) {
    size_t *offsets = malloc((size_t)container->frames * sizeof offsets[0]);
    size_t offset = 0;
    for (uint64_t i = 0; offsets != NULL && i < container->frames; i++) {
        offsets[i] = offset;
        offset += layout_get32(table_entry(container, i));
    }
    return offsets;
}

/* check_frames has compared these numbers with the frame itself. */
struct container_frame checkpoint_container_frame(const struct checkpoint_container *container,
                                                  const size_t *offsets, uint64_t index) {
    const uint8_t *entry = table_entry(container, index);
    return (struct container_frame){container->bytes + offsets[index], layout_get32(entry),
                                    layout_get32(entry + 4)};
}

/* zstd checks the content checksum. */
enum status checkpoint_container_decompress(const struct checkpoint_container *container,
                                            ZSTD_DCtx *zstd, const struct container_frame *frame,
                                            uint8_t *content, struct error *err) {
    size_t at = (size_t)(frame->bytes - container->bytes);
    size_t result =
        ZSTD_decompressDCtx(zstd, content, (size_t)frame->content_bytes, frame->bytes, frame->size);
    CHECK(!ZSTD_isError(result), err, STATUS_CORRUPT, "the zstd frame at byte %zu is damaged: %s",
          at, ZSTD_getErrorName(result));
    CHECK(result == frame->content_bytes, err, STATUS_CORRUPT,
          "the zstd frame at byte %zu holds %zu bytes and claims %" PRIu64, at, result,
          frame->content_bytes);
    return STATUS_OK;
}
