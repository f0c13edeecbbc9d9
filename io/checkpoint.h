/* checkpoint.h - the checkpoint format: encode tensors and metadata to bytes, decode and verify.
 *
 * The format (docs/checkpoint-format.md has every byte): a safetensors file (Hugging Face), cut
 * into independent zstd frames with content checksums, then a skippable frame with an XXH3-128
 * digest of all bytes before it, last a seek table in zstd's seekable format. `zstd -d` and any
 * safetensors reader open it. `__metadata__` holds string pairs; the encoder adds "format_version"
 * and, for every tensor, "digest.<name>" = XXH3-128 of its bytes in hex. Nothing here knows models,
 * files or threads: encode writes to a callback, decode is a pure function of bytes and can be fed
 * bytes from anywhere.
 *
 * Usage:
 *     TRY(checkpoint_encoder_create(1, 1, &encoder, err));
 *     TRY(checkpoint_encode(encoder, tensors, 13, metadata, 2, write, &file, &bytes, err));
 *     ...
 *     TRY(checkpoint_decode(bytes, size, &checkpoint, err));
 *     w = tensor_find(checkpoint->tensors, checkpoint->tensor_count, "dense.weight");
 *     checkpoint_free(checkpoint);
 *
 * THREADS: one thread at a time uses an encoder (the checkpoint writer's). Both directions may start
 * threads that live for the call; decode has no shared state.
 */
#ifndef CAIRN_IO_CHECKPOINT_H
#define CAIRN_IO_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/tensor.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Constants that writer and reader must agree on. */
enum {
    CHECKPOINT_FORMAT_VERSION = 1,
    CHECKPOINT_TENSORS_MAX = 1024,
    CHECKPOINT_HEADER_BYTES_MAX = 1 << 20, /* JSON header */
    CHECKPOINT_FRAME_BYTES = 4 << 20,      /* content bytes of one frame; the last may be shorter */
    CHECKPOINT_WINDOW_LOG_MAX = 23         /* zstd window a reader accepts */
};

/* Largest content: what the writer takes and the reader accepts, in bytes of tensors. */
#define CHECKPOINT_CONTENT_BYTES_MAX ((uint64_t)1 << 36)
/* Largest file: what does not shrink grows by less than one part in 256 (ZSTD_COMPRESSBOUND). The
 * rest is for the header, the digest and the seek table. */
#define CHECKPOINT_FILE_BYTES_MAX                                                                  \
    (CHECKPOINT_CONTENT_BYTES_MAX + CHECKPOINT_CONTENT_BYTES_MAX / 256 + ((uint64_t)4 << 20))

struct metadata_pair {
    const char *key;   /* NUL-terminated UTF-8 */
    const char *value; /* NUL-terminated UTF-8 */
};

/* ---- writing ---- */

struct checkpoint_encoder;

/* `level`: zstd's, -7 to 19 (0 is 3); below 3 what would shrink by less than an eighth is stored as
 * it is (io/checkpoint_frames.h). `threads` compress, from 1, the caller's included; the bytes do not
 * depend on it. Allocates everything that encoding needs (10 to 15 MB a thread at levels up to 3, up to
 * 80 MB from level 15 on), so that encode
 * allocates only what the JSON header takes. STATUS_CONFIG, STATUS_MEMORY. */
MUST_USE enum status checkpoint_encoder_create(int level, unsigned threads,
                                               struct checkpoint_encoder **out, struct error *err);
void checkpoint_encoder_free(struct checkpoint_encoder *encoder);

/* Where encoded bytes go, in order. A failure ends the encoding and is returned by it. */
typedef enum status (*checkpoint_sink)(void *context, const void *bytes, size_t size,
                                       struct error *err);

/* Encode. `tensors` in the order in which they are stored; names unique, none empty; their data
 * must not change during the call. `metadata` keys unique, not "format_version", not "digest.*".
 * F64, F32, F16 and BF16 tensors must be finite: STATUS_NONFINITE naming the tensor, before a byte
 * went out, except tensors whose name starts with "state." or "history." (a NaN may be a legal best
 * value).
 * STATUS_CONFIG when limits are passed (tensors, header). *out_bytes (may be NULL): bytes given to
 * the sink. *compress_seconds (may be NULL): time spent outside the sink. Blocking. */
MUST_USE enum status checkpoint_encode(struct checkpoint_encoder *encoder,
                                       const struct tensor_view *tensors, size_t tensor_count,
                                       const struct metadata_pair *metadata, size_t metadata_count,
                                       checkpoint_sink sink, void *sink_context,
                                       uint64_t *out_bytes, double *compress_seconds,
                                       struct error *err);

/* Processor time in seconds that the latest encode used on threads other than the caller's. */
double checkpoint_encoder_cpu_seconds(const struct checkpoint_encoder *encoder);

/* ---- reading ---- */

struct checkpoint {
    struct tensor_view
        *tensors; /* data points into memory that the checkpoint owns, aligned to 8 */
    size_t tensor_count;
    struct metadata_pair *metadata; /* in file order, digests included */
    size_t metadata_count;
    bool plain; /* an uncompressed .safetensors: no frames, digests optional */
    uint64_t file_bytes;
    char digest[33]; /* XXH3-128 of the file's frames in hex; "" when plain */
    /* How long decoding took: comparing the frames with the seek table, and the tensors' digests;
     * taking the content out of the frames, which checks theirs, with the digest of the file beside
     * it. 0 when plain. */
    double verify_seconds, decompress_seconds;
    void *memory; /* private */
};

/* Decode and verify all of a checkpoint, or of a plain safetensors file when `bytes` do not start
 * with a zstd frame. Everything is checked before *out exists: frames, content checksums, the
 * whole-file digest, the seek table against the frames, the safetensors header (contiguous, no
 * overlap, rank at most 4, known dtypes, unique names, sizes without overflow), the format version,
 * every tensor's digest. An unaligned tensor is moved to aligned memory. Allocates what the header
 * asks for, at most CHECKPOINT_CONTENT_BYTES_MAX and never more than the file can account for
 * (ratio limit of zstd). STATUS_CORRUPT with the reason (and where), STATUS_DATA for a file
 * file of another format version, STATUS_MEMORY. The caller
 * frees *out. */
MUST_USE enum status checkpoint_decode(const void *bytes, size_t size, struct checkpoint **out,
                                       struct error *err);

/* Read a file and decode it; the message starts with the path. STATUS_INPUT when it is missing. */
MUST_USE enum status checkpoint_read_file(const struct file_table *files, const char *path,
                                          struct checkpoint **out, struct error *err);

/* Value of a metadata key, or NULL. Valid as long as the checkpoint. */
const char *checkpoint_metadata(const struct checkpoint *checkpoint, const char *key);

/* XXH3-128 of `bytes` as 32 hex digits and a NUL. */
void checkpoint_digest_hex(const void *bytes, size_t size, char out[33]);

void checkpoint_free(struct checkpoint *checkpoint);

#ifdef __cplusplus
}
#endif
#endif
