/* checkpoint_decode.c - from the bytes of a file to tensors of which every bit was verified. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "host/base/memory.h"
#include "host/base/parallel.h"
#include "host/base/text.h"
#include "io/checkpoint.h"
#include "io/checkpoint_container.h"
#include "io/checkpoint_layout.h"
#include "io/safetensors.h"

#define TENSOR_ALIGNMENT 64 /* in memory; the header promises 8 */

enum { LANES_MAX = 16 };

_Static_assert(sizeof(size_t) >= 8, "checkpoints may be larger than 4 GiB");

/* What checkpoint_free must free: the strings and shapes, and the tensors' bytes. */
struct memory {
    struct safetensors_header header;
    uint8_t *data;
};

/* ---- the header's content ---- */

static const char *find_metadata(const struct safetensors_header *header, const char *key) {
    for (size_t i = 0; i < header->metadata_count; i++) {
        if (strcmp(header->metadata[i].key, key) == 0) {
            return header->metadata[i].value;
        }
    }
    return NULL;
}

/* A file of another version is refused before anything else is held against it: it may have other
 * dtypes, other limits, other entries. */
static enum status check_version(const struct safetensors_header *header, struct error *err) {
    const char *version = find_metadata(header, "format_version");
    char known[16], shown[64];
    snprintf(known, sizeof known, "%d", CHECKPOINT_FORMAT_VERSION);
    if (version != NULL && strcmp(version, known) != 0) {
        return error_set(err, STATUS_DATA,
                         "the checkpoint has format version '%s', this program reads version %s: "
                         "use the version of Cairn that wrote it, or a newer one",
                         text_escape(version, strlen(version), shown, sizeof shown), known);
    }
    return STATUS_OK;
}

/* What no writer of checkpoints leaves out, and other readers rely on. */
static enum status check_form(const uint8_t *json, size_t size,
                              const struct safetensors_header *header, struct error *err) {
    CHECK(find_metadata(header, "format_version") != NULL, err, STATUS_CORRUPT,
          "the metadata lack \"format_version\": this is not a checkpoint of Cairn");
    size_t end = size;
    while (json[end - 1] == ' ') { /* it starts with '{': safetensors_parse has looked */
        end--;
    }
    CHECK(size % SAFETENSORS_ALIGNMENT == 0 && json[end - 1] == '}', err, STATUS_CORRUPT,
          "the JSON of %zu bytes is not padded with spaces to a multiple of %d", size,
          SAFETENSORS_ALIGNMENT);
    for (size_t i = 0; i < header->tensor_count; i++) {
        const char *name = header->tensors[i].name;
        CHECK(tensor_name_is_printable(name), err, STATUS_CORRUPT,
              "'%s' cannot be the name of a tensor: printable ASCII without spaces is expected",
              text_show(name).text);
    }
    return STATUS_OK;
}

static enum status read_header(const uint8_t *json, size_t size, bool is_compressed,
                               struct safetensors_header *out, struct error *err) {
    TRY(safetensors_parse(json, size, out, err));
    TRY(check_version(out, err));
    TRY(safetensors_describe(out, err));
    return is_compressed ? check_form(json, size, out, err) : STATUS_OK;
}

/* ---- the tensors' bytes ---- */

/* One block for all tensors, each aligned. In the file they follow each other without gaps, so most
 * of them would lie unaligned if the content were kept as it comes. */
static enum status place_tensors(struct memory *memory, struct error *err) {
    struct safetensors_header *header = &memory->header;
    size_t total = TENSOR_ALIGNMENT;
    for (size_t i = 0; i < header->tensor_count; i++) {
        size_t bytes = (size_t)tensor_known_bytes(&header->tensors[i]);
        total += (bytes + TENSOR_ALIGNMENT - 1) / TENSOR_ALIGNMENT * TENSOR_ALIGNMENT;
    }
    memory->data = aligned_alloc(TENSOR_ALIGNMENT, total);
    CHECK(memory->data != NULL, err, STATUS_MEMORY, "no memory for a checkpoint of %zu bytes",
          total);
    memory_ask_large_pages(memory->data, total);
    uint8_t *at = memory->data;
    for (size_t i = 0; i < header->tensor_count; i++) {
        header->tensors[i].data = at;
        size_t bytes = (size_t)tensor_known_bytes(&header->tensors[i]);
        at += (bytes + TENSOR_ALIGNMENT - 1) / TENSOR_ALIGNMENT * TENSOR_ALIGNMENT;
    }
    return STATUS_OK;
}

/* A stretch of the content, and where its first byte lies: in `tensor`, behind `skip` bytes. */
struct stretch {
    const struct tensor_view *tensor;
    uint64_t skip;
};

static struct stretch find_stretch(const struct safetensors_header *header, uint64_t offset) {
    const struct tensor_view *tensor = header->tensors;
    uint64_t bytes = tensor_known_bytes(tensor);
    for (; offset >= bytes; bytes = tensor_known_bytes(tensor)) {
        offset -= bytes;
        tensor++;
    }
    return (struct stretch){tensor, offset};
}

/* Deal content out to the tensors. */
static void deal(struct stretch at, const uint8_t *bytes, size_t size) {
    while (size > 0) {
        uint64_t room = tensor_known_bytes(at.tensor) - at.skip;
        size_t n = size < room ? size : (size_t)room;
        if (n > 0) {
            memcpy((uint8_t *)at.tensor->data + at.skip, bytes, n);
        }
        bytes += n;
        size -= n;
        at = (struct stretch){at.tensor + 1, 0};
    }
}

/* More threads do not help: memory is slower than they are. */
static unsigned lanes_for(uint64_t bytes) {
    unsigned processors = parallel_processors();
    return parallel_lanes_for(bytes, processors < LANES_MAX ? processors : LANES_MAX);
}

/* ---- digests ---- */

struct digest_work {
    const struct safetensors_header *header;
    bool required;
};

/* One tensor against its digest. */
static enum status check_tensor_digest(void *context, unsigned lane, uint64_t index,
                                       struct error *err) {
    (void)lane;
    const struct digest_work *work = context;
    const struct tensor_view *tensor = &work->header->tensors[index];
    char key[TENSOR_NAME_CAPACITY + 8] = "digest.", hex[33];
    char shown[TENSOR_NAME_CAPACITY];
    const char *digest = find_metadata(work->header, strcat(key, tensor->name));
    text_escape(tensor->name, strlen(tensor->name), shown, sizeof shown);
    CHECK(digest != NULL || !work->required, err, STATUS_CORRUPT, "tensor '%s' has no digest",
          shown);
    if (digest != NULL) {
        checkpoint_digest_hex(tensor->data, (size_t)tensor_known_bytes(tensor), hex);
        CHECK(strcmp(digest, hex) == 0, err, STATUS_CORRUPT,
              "tensor '%s' does not have the digest that the metadata give for it", shown);
    }
    return STATUS_OK;
}

/* Every tensor against its digest. `required`: a file of ours, where each must have one and none
 * may be left over. */
static enum status check_tensor_digests(const struct safetensors_header *header, bool required,
                                        struct error *err) {
    struct digest_work work = {header, required};
    TRY(parallel_tasks(lanes_for(header->data_bytes), header->tensor_count, check_tensor_digest,
                       &work, err));
    size_t digests = 0;
    for (size_t i = 0; i < header->metadata_count; i++) {
        digests += strncmp(header->metadata[i].key, "digest.", 7) == 0;
    }
    CHECK(digests == header->tensor_count || !required, err, STATUS_CORRUPT,
          "the metadata hold digests of %zu tensors, the file has %zu tensors", digests,
          header->tensor_count);
    return STATUS_OK;
}

/* ---- compressed checkpoints ---- */

/* Decompress the header's frame into a buffer of its own and parse it. */
static enum status read_header_frame(ZSTD_DCtx *zstd, const struct checkpoint_container *container,
                                     struct safetensors_header *header, struct error *err) {
    const struct container_frame *frame = &container->header_frame;
    CHECK(frame->content_bytes >= SAFETENSORS_LENGTH_BYTES &&
              frame->content_bytes <= SAFETENSORS_LENGTH_BYTES + CHECKPOINT_HEADER_BYTES_MAX,
          err, STATUS_CORRUPT,
          "the header's frame holds %" PRIu64 " bytes, from %d to %d are expected",
          frame->content_bytes, SAFETENSORS_LENGTH_BYTES,
          SAFETENSORS_LENGTH_BYTES + CHECKPOINT_HEADER_BYTES_MAX);
    uint8_t *content = malloc((size_t)frame->content_bytes);
    CHECK(content != NULL, err, STATUS_MEMORY, "no memory for the header of a checkpoint");
    enum status status = checkpoint_container_decompress(container, zstd, frame, content, err);
    uint64_t json_bytes = frame->content_bytes - SAFETENSORS_LENGTH_BYTES;
    if (status == STATUS_OK && safetensors_length(content) != json_bytes) {
        status = error_set(err, STATUS_CORRUPT,
                           "the header's frame holds %" PRIu64 " bytes of JSON and says %" PRIu64,
                           json_bytes, safetensors_length(content));
    }
    if (status == STATUS_OK) {
        status =
            read_header(content + SAFETENSORS_LENGTH_BYTES, (size_t)json_bytes, true, header, err);
    }
    free(content);
    return status;
}

/* What the lanes that take the data out of their frames share. */
struct data_work {
    const struct checkpoint_container *container;
    const struct safetensors_header *header;
    const size_t *offsets; /* [frames] in the file */
    char (*digest)[33];
    struct {
        ZSTD_DCtx *zstd;
        uint8_t *content; /* [CHECKPOINT_FRAME_BYTES] of more tensors than one */
    } lanes[LANES_MAX];
};

/* Task 0 is the digest of the whole file, each other one the frame of its number. A frame lands in
 * its tensor directly where it can. */
static enum status read_data_task(void *context, unsigned lane, uint64_t index, struct error *err) {
    struct data_work *work = context;
    const struct checkpoint_container *container = work->container;
    if (index == 0) {
        return checkpoint_container_check_digest(container, *work->digest, err);
    }
    struct container_frame frame = checkpoint_container_frame(container, work->offsets, index);
    struct stretch at = find_stretch(work->header, (index - 1) * CHECKPOINT_FRAME_BYTES);
    ZSTD_DCtx *zstd = work->lanes[lane].zstd;
    if (frame.content_bytes <= tensor_known_bytes(at.tensor) - at.skip) {
        return checkpoint_container_decompress(container, zstd, &frame,
                                               (uint8_t *)at.tensor->data + at.skip, err);
    }
    uint8_t *content = work->lanes[lane].content;
    TRY(checkpoint_container_decompress(container, zstd, &frame, content, err));
    deal(at, content, (size_t)frame.content_bytes);
    return STATUS_OK;
}

/* Digest the file and take all data out of their frames into the tensors. */
static enum status read_data(const struct checkpoint_container *container,
                             const struct memory *memory, char digest[33], struct error *err) {
    const struct safetensors_header *header = &memory->header;
    struct data_work work = {.container = container, .header = header};
    size_t *offsets = checkpoint_container_offsets(container);
    work.offsets = offsets;
    work.digest = (char(*)[33])digest;
    unsigned lanes = lanes_for(header->data_bytes);
    bool complete = offsets != NULL;
    for (unsigned i = 0; i < lanes && complete; i++) {
        work.lanes[i].zstd = ZSTD_createDCtx();
        work.lanes[i].content = malloc(CHECKPOINT_FRAME_BYTES);
        complete = work.lanes[i].zstd != NULL && work.lanes[i].content != NULL;
    }
    enum status status =
        complete ? parallel_tasks(lanes, container->frames, read_data_task, &work, err)
                 : error_set(err, STATUS_MEMORY, "no memory for decompressing a checkpoint");
    for (unsigned i = 0; i < lanes; i++) {
        ZSTD_freeDCtx(work.lanes[i].zstd);
        free(work.lanes[i].content);
    }
    free(offsets);
    return status;
}

static enum status read_compressed(ZSTD_DCtx *zstd, const uint8_t *bytes, size_t size,
                                   struct memory *memory, struct checkpoint *out,
                                   struct error *err) {
    struct checkpoint_container container;
    struct safetensors_header *header = &memory->header;
    double begin = clock_monotonic_seconds();
    TRY(checkpoint_container_open(bytes, size, &container, err));
    TRY(read_header_frame(zstd, &container, header, err));
    TRY(checkpoint_container_check(&container, header->data_bytes, err));
    double decompress = clock_monotonic_seconds();
    TRY(place_tensors(memory, err));
    TRY(read_data(&container, memory, out->digest, err));
    double digests = clock_monotonic_seconds();
    TRY(check_tensor_digests(header, true, err));
    out->verify_seconds = decompress - begin + clock_monotonic_seconds() - digests;
    out->decompress_seconds = digests - decompress;
    return STATUS_OK;
}

static enum status decode_compressed(const uint8_t *bytes, size_t size, struct memory *memory,
                                     struct checkpoint *out, struct error *err) {
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    CHECK(zstd != NULL, err, STATUS_MEMORY, "no memory for the zstd decoder");
    enum status status = read_compressed(zstd, bytes, size, memory, out, err);
    ZSTD_freeDCtx(zstd);
    return status;
}

/* ---- plain safetensors files ---- */

#define TORCH_RECIPE "safetensors.torch.save_model(model, \"w.safetensors\")"
#define KERAS_RECIPE                                                                               \
    "safetensors.numpy.save_file({w.path: keras.ops.convert_to_numpy(w) for w in model.weights}, " \
    "\"w.safetensors\")"

/* What people have instead of safetensors, by its first bytes; NULL for anything else. As the
 * length of a header all of them are far beyond the limit. */
static const char *other_format(const uint8_t *bytes) {
    if (memcmp(bytes, "PK\3\4", 4) == 0) {
        return "a ZIP archive, as .keras files and those of torch.save are: load it there and save "
               "the weights, in Keras with " KERAS_RECIPE ", in PyTorch with " TORCH_RECIPE;
    }
    if (memcmp(bytes, "\x89HDF", 4) == 0) {
        return "an HDF5 file, as .weights.h5 and .h5 of Keras are: load it there and save the "
               "weights with " KERAS_RECIPE;
    }
    if (bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5) {
        return "a Python pickle, as old .pt and .pth files are: load it in PyTorch and save the "
               "weights with " TORCH_RECIPE;
    }
    return NULL;
}

static enum status decode_plain(const uint8_t *bytes, size_t size, struct memory *memory,
                                struct error *err) {
    CHECK(size >= SAFETENSORS_LENGTH_BYTES, err, STATUS_CORRUPT,
          "%zu bytes are neither a checkpoint nor a safetensors file", size);
    uint64_t json_bytes = safetensors_length(bytes);
    bool fits = json_bytes <= CHECKPOINT_HEADER_BYTES_MAX;
    const char *other = fits ? NULL : other_format(bytes);
    CHECK(other == NULL, err, STATUS_CORRUPT,
          "the file is neither a checkpoint nor a safetensors file but %s", other);
    CHECK(
        fits, err, STATUS_CORRUPT,
        "the file is neither a checkpoint (no zstd frame at its start) nor a safetensors file (its "
        "header would have %" PRIu64 " bytes, %d is the limit)",
        json_bytes, CHECKPOINT_HEADER_BYTES_MAX);
    CHECK(json_bytes <= size - SAFETENSORS_LENGTH_BYTES, err, STATUS_CORRUPT,
          "the safetensors file is cut off in its header");
    const uint8_t *json = bytes + SAFETENSORS_LENGTH_BYTES;
    TRY(read_header(json, (size_t)json_bytes, false, &memory->header, err));
    size_t data_bytes = size - SAFETENSORS_LENGTH_BYTES - (size_t)json_bytes;
    CHECK(data_bytes == memory->header.data_bytes, err, STATUS_CORRUPT,
          "the safetensors file holds %zu bytes of tensors, its header describes %" PRIu64,
          data_bytes, memory->header.data_bytes);
    TRY(place_tensors(memory, err));
    deal((struct stretch){memory->header.tensors, 0}, json + json_bytes, data_bytes);
    bool ours = find_metadata(&memory->header, "format_version") != NULL;
    return check_tensor_digests(&memory->header, ours, err);
}

/* ---- decode ---- */

static void free_memory(struct memory *memory) {
    safetensors_header_free(&memory->header);
    free(memory->data);
    free(memory);
}

static bool is_compressed(const uint8_t *bytes, size_t size) {
    return size >= 4 && layout_get32(bytes) == LAYOUT_FRAME_MAGIC;
}

enum status checkpoint_decode(const void *bytes, size_t size, struct checkpoint **out,
                              struct error *err) {
    CHECK(size > 0, err, STATUS_CORRUPT, "the file is empty");
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    struct memory *memory = calloc(1, sizeof *memory);
    if (checkpoint == NULL || memory == NULL) {
        free(checkpoint);
        free(memory);
        return error_set(err, STATUS_MEMORY, "no memory for a checkpoint");
    }
    checkpoint->plain = !is_compressed(bytes, size);
    enum status status = checkpoint->plain
                             ? decode_plain(bytes, size, memory, err)
                             : decode_compressed(bytes, size, memory, checkpoint, err);
    if (status != STATUS_OK) {
        free_memory(memory);
        free(checkpoint);
        return status;
    }
    checkpoint->memory = memory;
    checkpoint->tensors = memory->header.tensors;
    checkpoint->tensor_count = memory->header.tensor_count;
    checkpoint->metadata = memory->header.metadata;
    checkpoint->metadata_count = memory->header.metadata_count;
    checkpoint->file_bytes = size;
    *out = checkpoint;
    return STATUS_OK;
}

enum status checkpoint_read_file(const struct file_table *files, const char *path,
                                 struct checkpoint **out, struct error *err) {
    uint8_t *bytes;
    size_t size;
    TRY(file_read_all(files, path, CHECKPOINT_FILE_BYTES_MAX, &bytes, &size, err));
    enum status status = checkpoint_decode(bytes, size, out, err);
    free(bytes);
    char shown[400];
    return status == STATUS_OK ? status
                               : error_prefix(err, status, "%s",
                                              text_escape(path, strlen(path), shown, sizeof shown));
}

const char *checkpoint_metadata(const struct checkpoint *checkpoint, const char *key) {
    const struct memory *memory = checkpoint->memory;
    return find_metadata(&memory->header, key);
}

void checkpoint_free(struct checkpoint *checkpoint) {
    if (checkpoint != NULL) {
        free_memory(checkpoint->memory);
        free(checkpoint);
    }
}
