#include "io/checkpoint.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "host/base/parallel.h"
#include "host/base/text.h"
#include "io/checkpoint_frames.h"
#include "io/checkpoint_layout.h"
#include "io/safetensors.h"

/* Frames of the largest content: header, data, digest. */
#define ENTRIES_MAX (CHECKPOINT_CONTENT_BYTES_MAX / CHECKPOINT_FRAME_BYTES + 3)

_Static_assert((int)CHECKPOINT_FRAME_BYTES >=
                   (int)CHECKPOINT_HEADER_BYTES_MAX + (int)SAFETENSORS_LENGTH_BYTES,
               "the header fits into one frame");

/* What the first pass over a tensor finds. */
struct summary {
    char digest[33];
    bool finite;
};

struct checkpoint_encoder {
    struct checkpoint_frames *frames;
    XXH3_state_t *digest;                     /* of the raw bytes of the checkpoint being written */
    XXH3_state_t *passes[PARALLEL_LANES_MAX]; /* one a thread, of the tensor it looks at */
    uint8_t *trailer;                         /* digest frame and seek table */
    size_t entries;                           /* seek table entries written so far */
    double cpu_seconds; /* of other threads than the caller's, in the latest encoding */
    struct summary summaries[CHECKPOINT_TENSORS_MAX];
};

/* ---- create ---- */

enum status checkpoint_encoder_create(int level, unsigned threads, struct checkpoint_encoder **out,
                                      struct error *err) {
    struct checkpoint_encoder *encoder = calloc(1, sizeof *encoder);
    CHECK(encoder != NULL, err, STATUS_MEMORY, "no memory for the checkpoint encoder");
    encoder->digest = XXH3_createState();
    encoder->trailer = malloc(LAYOUT_DIGEST_FRAME_BYTES + layout_seek_table_bytes(ENTRIES_MAX));
    bool complete = encoder->digest != NULL && encoder->trailer != NULL;
    for (unsigned i = 0; i < threads && i < PARALLEL_LANES_MAX; i++) {
        encoder->passes[i] = XXH3_createState();
        complete = complete && encoder->passes[i] != NULL;
    }
    enum status status =
        complete ? checkpoint_frames_create(level, threads, &encoder->frames, err)
                 : error_set(err, STATUS_MEMORY, "no memory for the checkpoint encoder");
    if (status != STATUS_OK) {
        checkpoint_encoder_free(encoder);
        return status;
    }
    *out = encoder;
    return STATUS_OK;
}

void checkpoint_encoder_free(struct checkpoint_encoder *encoder) {
    if (encoder != NULL) {
        checkpoint_frames_free(encoder->frames);
        XXH3_freeState(encoder->digest);
        for (unsigned i = 0; i < PARALLEL_LANES_MAX; i++) {
            XXH3_freeState(encoder->passes[i]);
        }
        free(encoder->trailer);
        free(encoder);
    }
}

double checkpoint_encoder_cpu_seconds(const struct checkpoint_encoder *encoder) {
    return encoder->cpu_seconds;
}

/* ---- checks before the first byte ---- */

/* A value is finite unless all its exponent bits are set. No branch inside the loops, so that
 * compilers make vector code of them: every save runs them over the whole state. */
static bool all_finite_f32(const uint8_t *data, size_t count) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, data + i * sizeof bits, sizeof bits);
        bad |= (uint32_t)((bits & 0x7F800000u) == 0x7F800000u);
    }
    return bad == 0;
}

static bool all_finite_f64(const uint8_t *data, size_t count) {
    uint64_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, data + i * sizeof bits, sizeof bits);
        bad |= (uint64_t)((bits & 0x7FF0000000000000u) == 0x7FF0000000000000u);
    }
    return bad == 0;
}

/* `exponent`: all bits of a two-byte format's. */
static bool all_finite_16(const uint8_t *data, size_t count, uint16_t exponent) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + i * sizeof bits, sizeof bits);
        bad |= (uint32_t)((bits & exponent) == exponent);
    }
    return bad == 0;
}

static bool all_finite(enum dtype dtype, const uint8_t *data, size_t count) {
    switch (dtype) {
    case DTYPE_F32:
        return all_finite_f32(data, count);
    case DTYPE_F64:
        return all_finite_f64(data, count);
    case DTYPE_F16:
        return all_finite_16(data, count, 0x7C00u);
    case DTYPE_BF16:
        return all_finite_16(data, count, 0x7F80u);
    default:
        return true;
    }
}

static bool element_is_finite(const struct tensor_view *tensor, size_t index) {
    size_t width = dtype_bytes(tensor->dtype);
    return all_finite(tensor->dtype, (const uint8_t *)tensor->data + index * width, 1);
}

/* Values that describe the run rather than the model: a NaN among them is legal. */
static bool may_be_nonfinite(const char *name) {
    return strncmp(name, "state.", 6) == 0 || strncmp(name, "history.", 8) == 0;
}

/* Only for a tensor of which the first pass said that it is not. */
static enum status nonfinite_error(const struct tensor_view *tensor, struct error *err) {
    size_t at = 0;
    while (element_is_finite(tensor, at)) {
        at++;
    }
    return error_set(err, STATUS_NONFINITE,
                     "element %zu of '%s' is not finite; a state that diverged is not saved", at,
                     tensor->name);
}

static enum status check_tensor(const struct tensor_view *tensors, size_t index,
                                struct error *err) {
    const struct tensor_view *tensor = &tensors[index];
    char shown[4 * TENSOR_NAME_CAPACITY + 1];
    text_escape(tensor->name, strlen(tensor->name), shown, sizeof shown);
    CHECK(tensor->name[0] != '\0' && tensor_name_is_printable(tensor->name) &&
              strcmp(tensor->name, "__metadata__") != 0,
          err, STATUS_CONFIG, "'%s' cannot be the name of a tensor", shown);
    CHECK(tensor_find(tensors, index, tensor->name) == NULL, err, STATUS_CONFIG,
          "two tensors are called '%s'", shown);
    uint64_t bytes;
    CHECK(tensor_bytes(tensor, &bytes) && bytes <= CHECKPOINT_CONTENT_BYTES_MAX, err, STATUS_CONFIG,
          "tensor '%s' is larger than a checkpoint may be", shown);
    return STATUS_OK;
}

static enum status check_metadata(const struct metadata_pair *metadata, size_t index,
                                  struct error *err) {
    const char *key = metadata[index].key;
    CHECK(strcmp(key, "format_version") != 0 && strncmp(key, "digest.", 7) != 0, err, STATUS_CONFIG,
          "metadata '%s' is the format's own", key);
    for (size_t i = 0; i < index; i++) {
        CHECK(strcmp(metadata[i].key, key) != 0, err, STATUS_CONFIG, "two metadata are called '%s'",
              key);
    }
    return STATUS_OK;
}

static enum status check_all(const struct tensor_view *tensors, size_t tensor_count,
                             const struct metadata_pair *metadata, size_t metadata_count,
                             struct error *err) {
    CHECK(tensor_count <= CHECKPOINT_TENSORS_MAX, err, STATUS_CONFIG,
          "%zu tensors, %d is the limit of a checkpoint", tensor_count, CHECKPOINT_TENSORS_MAX);
    for (size_t i = 0; i < metadata_count; i++) {
        TRY(check_metadata(metadata, i, err));
    }
    for (size_t i = 0; i < tensor_count; i++) {
        TRY(check_tensor(tensors, i, err));
    }
    return STATUS_OK;
}

/* ---- writing ---- */

/* One encoding on its way: where the bytes go and what has been counted. */
struct output {
    struct checkpoint_encoder *encoder;
    checkpoint_sink sink;
    void *context;
    uint64_t bytes;
    double sink_seconds;
};

static enum status give(struct output *output, const void *bytes, size_t size, struct error *err) {
    double start = clock_monotonic_seconds();
    enum status status = output->sink(output->context, bytes, size, err);
    output->sink_seconds += clock_monotonic_seconds() - start;
    output->bytes += size;
    return status;
}

static uint8_t *seek_entry(struct checkpoint_encoder *encoder, size_t index) {
    return encoder->trailer + LAYOUT_DIGEST_FRAME_BYTES + LAYOUT_SKIPPABLE_HEADER_BYTES +
           index * LAYOUT_SEEK_ENTRY_BYTES;
}

static void add_seek_entry(struct checkpoint_encoder *encoder, size_t frame_bytes,
                           size_t content_bytes, uint32_t checksum) {
    uint8_t *entry = seek_entry(encoder, encoder->entries++);
    layout_put32(entry, (uint32_t)frame_bytes);
    layout_put32(entry + 4, (uint32_t)content_bytes);
    layout_put32(entry + 8, checksum);
}

/* A checkpoint_take: note a frame and send it. */
static enum status write_frame(void *context, const struct checkpoint_frame *frame,
                               struct error *err) {
    struct output *output = context;
    struct checkpoint_encoder *encoder = output->encoder;
    /* The seekable format asks for the very checksum that ends a zstd frame. */
    add_seek_entry(encoder, frame->size, frame->content_bytes, frame->checksum);
    XXH3_128bits_update(encoder->digest, frame->bytes, frame->size);
    return give(output, frame->bytes, frame->size, err);
}

static enum status write_trailer(struct checkpoint_encoder *encoder, struct output *output,
                                 struct error *err) {
    uint8_t *digest = encoder->trailer;
    layout_put32(digest, LAYOUT_DIGEST_MAGIC);
    layout_put32(digest + 4, LAYOUT_DIGEST_BYTES);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(encoder->digest));
    memcpy(digest + LAYOUT_SKIPPABLE_HEADER_BYTES, canonical.digest, LAYOUT_DIGEST_BYTES);
    add_seek_entry(encoder, LAYOUT_DIGEST_FRAME_BYTES, 0, LAYOUT_CHECKSUM_OF_NOTHING);

    size_t table_bytes = layout_seek_table_bytes(encoder->entries);
    uint8_t *table = encoder->trailer + LAYOUT_DIGEST_FRAME_BYTES;
    layout_put32(table, LAYOUT_SEEK_MAGIC);
    layout_put32(table + 4, (uint32_t)(table_bytes - LAYOUT_SKIPPABLE_HEADER_BYTES));
    uint8_t *footer = seek_entry(encoder, encoder->entries);
    layout_put32(footer, (uint32_t)encoder->entries);
    footer[4] = LAYOUT_SEEK_DESCRIPTOR;
    layout_put32(footer + 5, LAYOUT_SEEKABLE_FOOTER);
    return give(output, encoder->trailer, LAYOUT_DIGEST_FRAME_BYTES + table_bytes, err);
}

/* ---- the first pass: digests, and whether all is finite ---- */

/* Bytes that stay in a core's cache between the two looks that each of them gets. */
enum { PASS_BYTES = 64 << 10 };

void checkpoint_digest_text(const uint8_t digest[LAYOUT_DIGEST_BYTES], char out[33]) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < LAYOUT_DIGEST_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[32] = '\0';
}

static void digest_text(XXH128_hash_t hash, char out[33]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    checkpoint_digest_text(canonical.digest, out);
}

static void summarise(const struct tensor_view *tensor, XXH3_state_t *state, struct summary *out) {
    uint64_t bytes = tensor_known_bytes(tensor);
    size_t width = dtype_bytes(tensor->dtype);
    bool may_be_any = may_be_nonfinite(tensor->name);
    const uint8_t *data = tensor->data;
    XXH3_128bits_reset(state);
    out->finite = true;
    for (uint64_t done = 0; done < bytes; done += PASS_BYTES) {
        size_t n = bytes - done < PASS_BYTES ? (size_t)(bytes - done) : PASS_BYTES;
        XXH3_128bits_update(state, data + done, n);
        out->finite =
            (may_be_any || all_finite(tensor->dtype, data + done, n / width)) && out->finite;
    }
    digest_text(XXH3_128bits_digest(state), out->digest);
}

struct pass {
    const struct tensor_view *tensors;
    size_t count;
    struct checkpoint_encoder *encoder;
    atomic_size_t next;
};

static void pass_lane(void *context, unsigned lane) {
    struct pass *pass = context;
    struct checkpoint_encoder *encoder = pass->encoder;
    for (size_t i; (i = atomic_fetch_add(&pass->next, 1)) < pass->count;) {
        summarise(&pass->tensors[i], encoder->passes[lane], &encoder->summaries[i]);
    }
}

static enum status look_at_tensors(struct checkpoint_encoder *encoder,
                                   const struct tensor_view *tensors, size_t count,
                                   struct error *err) {
    struct pass pass = {tensors, count, encoder, 0};
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        total += tensor_known_bytes(&tensors[i]);
    }
    unsigned lanes = parallel_lanes_for(total, checkpoint_frames_threads(encoder->frames));
    encoder->cpu_seconds += parallel_run(lanes, pass_lane, &pass);
    for (size_t i = 0; i < count; i++) {
        if (!encoder->summaries[i].finite) {
            return nonfinite_error(&tensors[i], err);
        }
    }
    return STATUS_OK;
}

/* ---- encode ---- */

static void add_digest(struct safetensors_builder *builder, const struct tensor_view *tensor,
                       const struct summary *summary) {
    char key[TENSOR_NAME_CAPACITY + 8] = "digest.";
    strcat(key, tensor->name);
    safetensors_add_metadata(builder, key, summary->digest);
}

static enum status build_header(struct safetensors_builder *builder,
                                const struct summary *summaries, const struct tensor_view *tensors,
                                size_t tensor_count, const struct metadata_pair *metadata,
                                size_t metadata_count, struct error *err) {
    char version[16];
    snprintf(version, sizeof version, "%d", CHECKPOINT_FORMAT_VERSION);
    safetensors_add_metadata(builder, "format_version", version);
    for (size_t i = 0; i < metadata_count; i++) {
        safetensors_add_metadata(builder, metadata[i].key, metadata[i].value);
    }
    for (size_t i = 0; i < tensor_count; i++) {
        add_digest(builder, &tensors[i], &summaries[i]);
    }
    for (size_t i = 0; i < tensor_count; i++) {
        safetensors_add_tensor(builder, &tensors[i]);
    }
    TRY(safetensors_finish(builder, err));
    CHECK(builder->data_bytes <= CHECKPOINT_CONTENT_BYTES_MAX, err, STATUS_CONFIG,
          "the tensors take more bytes than a checkpoint may hold");
    return STATUS_OK;
}

/* The header's frame, the tensors' frames, what ends the file. */
static enum status write_all(struct checkpoint_encoder *encoder, const struct text *header,
                             const struct tensor_view *tensors, size_t tensor_count,
                             struct output *output, struct error *err) {
    struct checkpoint_frame frame;
    encoder->entries = 0;
    XXH3_128bits_reset(encoder->digest);
    TRY(checkpoint_frames_make(encoder->frames, header->bytes, header->size, &frame, err));
    TRY(write_frame(output, &frame, err));
    TRY(checkpoint_frames_run(encoder->frames, tensors, tensor_count, write_frame, output, err));
    return write_trailer(encoder, output, err);
}

enum status checkpoint_encode(struct checkpoint_encoder *encoder, const struct tensor_view *tensors,
                              size_t tensor_count, const struct metadata_pair *metadata,
                              size_t metadata_count, checkpoint_sink sink, void *sink_context,
                              uint64_t *out_bytes, double *compress_seconds, struct error *err) {
    double start = clock_monotonic_seconds();
    struct output output = {.encoder = encoder, .sink = sink, .context = sink_context};
    struct safetensors_builder builder = {0};
    encoder->cpu_seconds = 0;
    TRY(check_all(tensors, tensor_count, metadata, metadata_count, err));
    TRY(look_at_tensors(encoder, tensors, tensor_count, err));
    enum status status = build_header(&builder, encoder->summaries, tensors, tensor_count, metadata,
                                      metadata_count, err);
    if (status == STATUS_OK) {
        status = write_all(encoder, &builder.text, tensors, tensor_count, &output, err);
    }
    text_free(&builder.text);
    encoder->cpu_seconds += checkpoint_frames_cpu_seconds(encoder->frames);
    TRY(status);
    if (out_bytes != NULL) {
        *out_bytes = output.bytes;
    }
    if (compress_seconds != NULL) {
        *compress_seconds = clock_monotonic_seconds() - start - output.sink_seconds;
    }
    return STATUS_OK;
}

void checkpoint_digest_hex(const void *bytes, size_t size, char out[33]) {
    digest_text(XXH3_128bits(bytes, size), out);
}
