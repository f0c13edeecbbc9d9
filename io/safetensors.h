/* safetensors.h - the header of a safetensors file: build it, parse it.
 *
 * A safetensors file (Hugging Face) is an 8-byte little-endian length, that many bytes of JSON,
 * then the tensors' bytes. The JSON maps each name to {"dtype", "shape", "data_offsets": [begin,
 * end]}, offsets counted from the end of the JSON, plus "__metadata__" with string pairs. This
 * module knows the header only; the bytes are the checkpoint encoder's and decoder's affair.
 *
 * Usage, writing:
 *     struct safetensors_builder builder = {0};
 *     safetensors_add_metadata(&builder, "format_version", "1");  all pairs before the first tensor
 *     safetensors_add_tensor(&builder, &tensor);                  in the order of their bytes
 *     TRY(safetensors_finish(&builder, err));       builder.text is what the file begins with
 *     text_free(&builder.text);
 *
 * Usage, reading (bytes from anywhere, trusted in nothing):
 *     TRY(safetensors_parse(json, json_bytes, &header, err));     the metadata are there
 *     status = safetensors_describe(&header, err);                the tensors too
 *     safetensors_header_free(&header);
 *
 * THREADS: no shared state.
 */
#ifndef CAIRN_IO_SAFETENSORS_H
#define CAIRN_IO_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/tensor.h"
#include "host/base/text.h"
#include "io/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SAFETENSORS_LENGTH_BYTES = 8, /* of the length in front of the JSON */
    SAFETENSORS_ALIGNMENT = 8 /* the tensors' bytes start at a multiple of it (JSON is padded) */
};

/* ---- writing ---- */

struct safetensors_builder {
    struct text text;    /* length, JSON; owned, freed by the caller with text_free */
    uint64_t data_bytes; /* of all tensors added so far */
    size_t tensor_count;
    bool opened, metadata_closed; /* private */
};

/* Append. Running out of memory shows in safetensors_finish. Keys and names must be unique; the
 * shape of a tensor must be a possible one (its bytes exist in memory). */
void safetensors_add_metadata(struct safetensors_builder *builder, const char *key,
                              const char *value);
void safetensors_add_tensor(struct safetensors_builder *builder, const struct tensor_view *tensor);

/* Close the JSON, pad it with spaces, fill in the length. STATUS_CONFIG when the JSON is longer
 * than CHECKPOINT_HEADER_BYTES_MAX, STATUS_MEMORY. */
MUST_USE enum status safetensors_finish(struct safetensors_builder *builder, struct error *err);

/* ---- reading ---- */

struct safetensors_header {
    struct tensor_view *tensors; /* ascending by place in the data; their `data` is NULL */
    size_t tensor_count;
    struct metadata_pair *metadata; /* in file order; strings valid as long as the header */
    size_t metadata_count;
    uint64_t data_bytes; /* of all tensors: they cover [0, data_bytes) without gap or overlap */
    void *document;      /* private: owns the strings */
};

/* The 8 bytes in front of the JSON. */
uint64_t safetensors_length(const uint8_t bytes[SAFETENSORS_LENGTH_BYTES]);

/* Parse the JSON (without the length), and read the metadata: what a version is known by. Refused
 * with STATUS_CORRUPT and the reason: longer than CHECKPOINT_HEADER_BYTES_MAX, no JSON object,
 * duplicate keys, metadata that are no strings. Also STATUS_MEMORY. On success the caller calls
 * safetensors_header_free; on failure nothing is left to do. */
MUST_USE enum status safetensors_parse(const uint8_t *json, size_t size,
                                       struct safetensors_header *out, struct error *err);
/* Read the tensors of a header that was parsed, once. Refused with STATUS_CORRUPT and the reason:
 * more than CHECKPOINT_TENSORS_MAX tensors, a name that is empty or too long, an entry with other
 * keys than the three, a dtype that Cairn lacks, rank above TENSOR_RANK_MAX, sizes that overflow or
 * do not agree with the offsets, gaps, overlaps, more than CHECKPOINT_CONTENT_BYTES_MAX bytes. Also
 * STATUS_MEMORY. The header is the caller's to free, also on failure. */
MUST_USE enum status safetensors_describe(struct safetensors_header *header, struct error *err);
void safetensors_header_free(struct safetensors_header *header);

#ifdef __cplusplus
}
#endif
#endif
