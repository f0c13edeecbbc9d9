#include "io/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define METADATA_KEY "__metadata__"

/* ---- writing ---- */

static void open_document(struct safetensors_builder *builder) {
    if (!builder->opened) {
        static const uint8_t length_later[SAFETENSORS_LENGTH_BYTES] = {0};
        text_append(&builder->text, length_later, sizeof length_later);
        text_append(&builder->text, "{", 1);
        builder->opened = true;
    }
}

void safetensors_add_metadata(struct safetensors_builder *builder, const char *key,
                              const char *value) {
    assert(builder->tensor_count == 0 && !builder->metadata_closed);
    bool first = !builder->opened;
    open_document(builder);
    text_printf(&builder->text, "%s", first ? "\"" METADATA_KEY "\":{" : ",");
    text_append_json(&builder->text, key, strlen(key));
    text_append(&builder->text, ":", 1);
    text_append_json(&builder->text, value, strlen(value));
}

/* The brace behind the metadata, if there is any. */
static void close_metadata(struct safetensors_builder *builder) {
    if (builder->opened && !builder->metadata_closed) {
        text_append(&builder->text, "}", 1);
    }
    builder->metadata_closed = true;
}

void safetensors_add_tensor(struct safetensors_builder *builder, const struct tensor_view *tensor) {
    struct text *text = &builder->text;
    bool separate = builder->opened;
    close_metadata(builder);
    open_document(builder);
    uint64_t bytes;
    if (!tensor_bytes(tensor, &bytes)) {
        assert(!"a tensor in memory has a size");
        bytes = 0;
    }
    text_printf(text, "%s", separate ? "," : "");
    text_append_json(text, tensor->name, strlen(tensor->name));
    text_printf(text, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(tensor->dtype));
    for (uint32_t i = 0; i < tensor->rank; i++) {
        text_printf(text, "%s%" PRIu64, i > 0 ? "," : "", tensor->shape[i]);
    }
    text_printf(text, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", builder->data_bytes,
                builder->data_bytes + bytes);
    builder->data_bytes += bytes;
    builder->tensor_count++;
}

enum status safetensors_finish(struct safetensors_builder *builder, struct error *err) {
    close_metadata(builder);
    open_document(builder);
    struct text *text = &builder->text;
    text_append(text, "}", 1);
    while (!text->failed && text->size % SAFETENSORS_ALIGNMENT != 0) {
        text_append(text, " ", 1);
    }
    CHECK(!text->failed, err, STATUS_MEMORY, "no memory for the header of a checkpoint");
    size_t length = text->size - SAFETENSORS_LENGTH_BYTES;
    CHECK(length <= CHECKPOINT_HEADER_BYTES_MAX, err, STATUS_CONFIG,
          "the header of the checkpoint would take %zu bytes, %d is the limit: shorter metadata or "
          "fewer tensors are needed",
          length, CHECKPOINT_HEADER_BYTES_MAX);
    for (size_t i = 0; i < SAFETENSORS_LENGTH_BYTES; i++) {
        text->bytes[i] = (char)(unsigned char)(length >> (8 * i));
    }
    return STATUS_OK;
}

/* ---- reading ---- */

uint64_t safetensors_length(const uint8_t bytes[SAFETENSORS_LENGTH_BYTES]) {
    uint64_t length = 0;
    for (size_t i = 0; i < SAFETENSORS_LENGTH_BYTES; i++) {
        length |= (uint64_t)bytes[i] << (8 * i);
    }
    return length;
}

/* A tensor and where its bytes lie, while the order is still the JSON's. */
struct placed_tensor {
    struct tensor_view view;
    uint64_t begin, end;
    size_t index;
};

/* An integer from 0; false for anything else. jansson refuses integers above 2^63 - 1 by itself. */
static bool read_unsigned(const json_t *value, uint64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static enum status read_shape(const json_t *shape, struct tensor_view *view, struct error *err) {
    CHECK(json_is_array(shape), err, STATUS_CORRUPT, "tensor '%s': \"shape\" is not a list",
          text_show(view->name).text);
    size_t rank = json_array_size(shape);
    CHECK(rank <= TENSOR_RANK_MAX, err, STATUS_CORRUPT,
          "tensor '%s' has %zu dimensions, %d is the limit", text_show(view->name).text, rank,
          TENSOR_RANK_MAX);
    view->rank = (uint32_t)rank;
    for (size_t i = 0; i < rank; i++) {
        CHECK(read_unsigned(json_array_get(shape, i), &view->shape[i]), err, STATUS_CORRUPT,
              "tensor '%s': dimension %zu of its shape is not a number from 0 to 2^63 - 1",
              text_show(view->name).text, i);
    }
    return STATUS_OK;
}

static enum status read_offsets(const json_t *offsets, struct placed_tensor *tensor,
                                struct error *err) {
    const char *name = tensor->view.name;
    bool pair = json_is_array(offsets) && json_array_size(offsets) == 2 &&
                read_unsigned(json_array_get(offsets, 0), &tensor->begin) &&
                read_unsigned(json_array_get(offsets, 1), &tensor->end);
    CHECK(pair && tensor->begin <= tensor->end, err, STATUS_CORRUPT,
          "tensor '%s': \"data_offsets\" are not two ascending numbers", text_show(name).text);
    uint64_t bytes;
    CHECK(tensor_bytes(&tensor->view, &bytes), err, STATUS_CORRUPT,
          "tensor '%s': its shape overflows 64 bits", text_show(name).text);
    CHECK(tensor->end - tensor->begin == bytes, err, STATUS_CORRUPT,
          "tensor '%s': its shape and dtype need %" PRIu64 " bytes, its data_offsets hold %" PRIu64,
          text_show(name).text, bytes, tensor->end - tensor->begin);
    return STATUS_OK;
}

static enum status read_tensor(const char *name, const json_t *entry, struct placed_tensor *out,
                               struct error *err) {
    size_t name_bytes = strlen(name);
    CHECK(name_bytes > 0, err, STATUS_CORRUPT, "a tensor has an empty name");
    CHECK(name_bytes < TENSOR_NAME_CAPACITY, err, STATUS_CORRUPT,
          "the name of tensor '%s' has %zu bytes, %d is the limit", text_show(name).text,
          name_bytes, TENSOR_NAME_CAPACITY - 1);
    memcpy(out->view.name, name, name_bytes + 1);
    const json_t *dtype = json_object_get(entry, "dtype");
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    CHECK(dtype && shape && offsets && json_object_size(entry) == 3, err, STATUS_CORRUPT,
          "tensor '%s' is not described by exactly \"dtype\", \"shape\" and \"data_offsets\"",
          text_show(name).text);
    CHECK(json_is_string(dtype), err, STATUS_CORRUPT, "tensor '%s': \"dtype\" is not a string",
          text_show(name).text);
    CHECK(dtype_from_name(json_string_value(dtype), &out->view.dtype), err, STATUS_CORRUPT,
          "tensor '%s' has dtype '%s'; F64, F32, F16, BF16, I64, I32 and U8 can be read",
          text_show(name).text, text_show(json_string_value(dtype)).text);
    TRY(read_shape(shape, &out->view, err));
    return read_offsets(offsets, out, err);
}

static enum status read_metadata(const json_t *object, struct safetensors_header *out,
                                 struct error *err) {
    CHECK(json_is_object(object), err, STATUS_CORRUPT, "\"" METADATA_KEY "\" is not an object");
    out->metadata = calloc(json_object_size(object) + 1, sizeof *out->metadata);
    CHECK(out->metadata != NULL, err, STATUS_MEMORY, "no memory for the metadata");
    /* The document stays alive as long as the header, so its strings can be pointed at. jansson
     * keeps the order of insertion. */
    for (void *at = json_object_iter((json_t *)object); at != NULL;
         at = json_object_iter_next((json_t *)object, at)) {
        const json_t *value = json_object_iter_value(at);
        CHECK(json_is_string(value), err, STATUS_CORRUPT, "metadata '%s' is not a string",
              text_show(json_object_iter_key(at)).text);
        out->metadata[out->metadata_count++] =
            (struct metadata_pair){json_object_iter_key(at), json_string_value(value)};
    }
    return STATUS_OK;
}

static int compare_place(const void *left, const void *right) {
    const struct placed_tensor *a = left, *b = right;
    if (a->begin != b->begin) {
        return a->begin < b->begin ? -1 : 1;
    }
    if (a->end != b->end) { /* an empty tensor lies before the one that starts there */
        return a->end < b->end ? -1 : 1;
    }
    return a->index < b->index ? -1 : 1;
}

/* Sorted tensors must cover the data without gap or overlap: then the sum of their sizes is what
 * the file must hold, and no byte belongs to nobody or to two. */
static enum status check_cover(const struct placed_tensor *tensors, size_t count,
                               uint64_t *data_bytes, struct error *err) {
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        CHECK(tensors[i].begin == at, err, STATUS_CORRUPT,
              "tensor '%s' starts at byte %" PRIu64 " of the data, but the one before it ends at "
              "%" PRIu64 " (%s)",
              text_show(tensors[i].view.name).text, tensors[i].begin, at,
              tensors[i].begin < at ? "overlap" : "hole");
        at = tensors[i].end;
    }
    CHECK(at <= CHECKPOINT_CONTENT_BYTES_MAX, err, STATUS_CORRUPT,
          "the tensors take %" PRIu64 " bytes, %" PRIu64 " is the limit", at,
          CHECKPOINT_CONTENT_BYTES_MAX);
    *data_bytes = at;
    return STATUS_OK;
}

/* Every entry but the metadata, which is read, into `placed`, which has room for all of them. */
static enum status read_entries(json_t *document, struct placed_tensor *placed,
                                struct safetensors_header *out, struct error *err) {
    for (void *at = json_object_iter(document); at != NULL;
         at = json_object_iter_next(document, at)) {
        const char *name = json_object_iter_key(at);
        const json_t *entry = json_object_iter_value(at);
        if (strcmp(name, METADATA_KEY) == 0) {
            continue;
        }
        CHECK(out->tensor_count < CHECKPOINT_TENSORS_MAX, err, STATUS_CORRUPT,
              "more than %d tensors", CHECKPOINT_TENSORS_MAX);
        placed[out->tensor_count].index = out->tensor_count;
        TRY(read_tensor(name, entry, &placed[out->tensor_count], err));
        out->tensor_count++;
    }
    return STATUS_OK;
}

static enum status read_document(const json_t *document, struct safetensors_header *out,
                                 struct error *err) {
    CHECK(json_is_object(document), err, STATUS_CORRUPT,
          "the safetensors header is not a JSON object");
    const json_t *metadata = json_object_get(document, METADATA_KEY);
    return metadata == NULL ? STATUS_OK : read_metadata(metadata, out, err);
}

enum status safetensors_describe(struct safetensors_header *out, struct error *err) {
    json_t *document = out->document;
    size_t entries = json_object_size(document);
    size_t room = (entries < CHECKPOINT_TENSORS_MAX ? entries : CHECKPOINT_TENSORS_MAX) + 1;
    struct placed_tensor *placed = calloc(room, sizeof *placed);
    out->tensors = calloc(room, sizeof *out->tensors);
    enum status status = STATUS_OK;
    if (placed == NULL || out->tensors == NULL) {
        status =
            error_set(err, STATUS_MEMORY, "no memory for the descriptions of %zu tensors", room);
    }
    if (status == STATUS_OK) {
        status = read_entries(document, placed, out, err);
    }
    if (status == STATUS_OK) {
        qsort(placed, out->tensor_count, sizeof *placed, compare_place);
        status = check_cover(placed, out->tensor_count, &out->data_bytes, err);
    }
    for (size_t i = 0; status == STATUS_OK && i < out->tensor_count; i++) {
        out->tensors[i] = placed[i].view;
    }
    free(placed);
    return status;
}

enum status safetensors_parse(const uint8_t *json, size_t size, struct safetensors_header *out,
                              struct error *err) {
    CHECK(size <= CHECKPOINT_HEADER_BYTES_MAX, err, STATUS_CORRUPT,
          "the safetensors header has %zu bytes, %d is the limit", size,
          CHECKPOINT_HEADER_BYTES_MAX);
    CHECK(size > 0 && json[0] == '{', err, STATUS_CORRUPT,
          "the safetensors header does not start with '{'");
    struct safetensors_header header = {0};
    json_error_t reason;
    json_t *document = json_loadb((const char *)json, size, JSON_REJECT_DUPLICATES, &reason);
    CHECK(document != NULL || json_error_code(&reason) != json_error_out_of_memory, err,
          STATUS_MEMORY, "no memory for the header of a checkpoint");
    CHECK(document != NULL, err, STATUS_CORRUPT,
          "the safetensors header is not valid JSON at its byte %d: %s", reason.position,
          text_show(reason.text).text);
    header.document = document;
    enum status status = read_document(document, &header, err);
    if (status != STATUS_OK) {
        safetensors_header_free(&header);
        return status;
    }
    *out = header;
    return STATUS_OK;
}

void safetensors_header_free(struct safetensors_header *header) {
    free(header->tensors);
    free(header->metadata);
    json_decref(header->document);
    *header = (struct safetensors_header){0};
}
