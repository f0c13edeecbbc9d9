#include "host/import.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host/base/text.h"
#include "host/import_names.h"
#include "io/dataset.h"
#include "io/model_names.h"
#include "io/safetensors.h"

enum { CONFIG_BYTES_MAX = 1 << 20 };
#define VOCABULARY_BYTES_MAX ((uint64_t)1 << 30)

/* What lies beside a plain file; absent values are NULL or negative. */
struct beside {
    char *vocabulary; /* [vocabulary_bytes] owned; tokens, each ended by a newline */
    size_t vocabulary_bytes;
    int64_t strip_html, max_length, step;
    char
        label_names[2 * DATASET_LABEL_CAPACITY + 1]; /* two names, each ended by a newline; or "" */
};

/* ---- vocab.txt ------------------------------------------------------------------------------- */

/* How others write the two entries that are no words. */
static bool is_padding(const char *line, size_t size) {
    return size == 0 || (size == 5 && strncasecmp(line, "[PAD]", size) == 0) ||
           (size == 5 && strncasecmp(line, "<pad>", size) == 0);
}

static bool is_unknown(const char *line, size_t size) {
    return size == 5 &&
           (strncasecmp(line, "[UNK]", size) == 0 || strncasecmp(line, "<unk>", size) == 0);
}

static size_t line_size(const char *at, const char *end) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    return (size_t)((newline != NULL ? newline : end) - at);
}

static size_t without_return(const char *line, size_t size) {
    return size > 0 && line[size - 1] == '\r' ? size - 1 : size;
}

/* The two special lines become ours; the vocabulary's own parser judges all others. */
static void normalise(const char *text, size_t size, struct text *out) {
    const char *at = text, *end = text + size;
    if (size >= 3 && memcmp(at, "\xEF\xBB\xBF", 3) == 0) {
        at += 3;
    }
    size_t first = line_size(at, end);
    const char *next = at + first + (at + first < end);
    size_t second = line_size(next, end);
    if (is_padding(at, without_return(at, first)) &&
        is_unknown(next, without_return(next, second))) {
        text_printf(out, "\n[UNK]\n");
        at = next + second + (next + second < end);
    }
    text_append(out, at, (size_t)(end - at));
}

static bool is_file(const struct file_table *files, const char *path) {
    struct file_stat info;
    return files->stat(files->context, path, &info) >= 0 && info.is_regular;
}

static enum status read_vocabulary(const struct file_table *files, const char *directory,
                                   struct beside *out, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    if (!file_join_path(path, sizeof path, directory, IMPORT_VOCABULARY_FILE) ||
        !is_file(files, path)) {
        return STATUS_OK;
    }
    uint8_t *bytes;
    size_t size;
    TRY(file_read_all(files, path, VOCABULARY_BYTES_MAX, &bytes, &size, err));
    struct text text = {0};
    normalise((const char *)bytes, size, &text);
    free(bytes);
    if (text.failed || text.size == 0) {
        bool empty = !text.failed;
        text_free(&text);
        return empty ? error_set(err, STATUS_DATA, "%s is empty: expected one token a line",
                                 text_show(path).text)
                     : error_set(err, STATUS_MEMORY, "no memory for %s", text_show(path).text);
    }
    out->vocabulary = text.bytes;
    out->vocabulary_bytes = text.size;
    return STATUS_OK;
}

/* ---- config.json ----------------------------------------------------------------------------- */

/* A value that counts, null as none: every hub model has a config.json, but its other entries say
 * nothing here. */
static const json_t *entry(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static enum status unusable(const char *path, const char *key, const char *expected,
                            struct error *err) {
    return error_set(err, STATUS_DATA,
                     "%s: \"%s\" should be %s: mend it, or leave it out if it means something else",
                     path, key, expected);
}

/* A line of label_names, and a field of a table. */
static bool is_label(const char *name) {
    size_t size = name != NULL ? strlen(name) : 0;
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)name[i] < ' ' || name[i] == '\x7F') {
            return false;
        }
    }
    return size > 0 && size < DATASET_LABEL_CAPACITY;
}

static enum status read_labels(const json_t *config, const char *path, struct beside *out,
                               struct error *err) {
    const json_t *labels = entry(config, "id2label");
    if (labels == NULL) {
        return STATUS_OK;
    }
    const char *names[2] = {json_string_value(json_object_get(labels, "0")),
                            json_string_value(json_object_get(labels, "1"))};
    if (!is_label(names[0]) || !is_label(names[1]) || strcmp(names[0], names[1]) == 0) {
        return unusable(path, "id2label",
                        "two different names, {\"0\": ..., \"1\": ...}, each of 1 to 31 bytes "
                        "without control characters",
                        err);
    }
    snprintf(out->label_names, sizeof out->label_names, "%s\n%s\n", names[0], names[1]);
    return STATUS_OK;
}

/* An integer from 0 that is left alone where there is none. */
static enum status read_count(const json_t *value, const char *path, const char *key, int64_t *out,
                              struct error *err) {
    if (value == NULL) {
        return STATUS_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return unusable(path, key, "an integer from 0", err);
    }
    *out = (int64_t)json_integer_value(value);
    return STATUS_OK;
}

/* Rules that are the same in every model of Cairn: another value means another tokenizer. */
static enum status check_fixed_rules(const json_t *rules, const char *path, struct error *err) {
    static const char *const fixed[][3] = {
        {"lowercase", "text.lowercase", "ascii"},
        {"strip_punctuation", "text.strip_punctuation", "ascii"},
        {"split", "text.split", "whitespace"},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        const json_t *value = entry(rules, fixed[i][0]);
        const char *found = json_string_value(value);
        if (value != NULL && (found == NULL || strcmp(found, fixed[i][2]) != 0)) {
            char expected[64];
            snprintf(expected, sizeof expected, "\"%s\", the only rule that Cairn has",
                     fixed[i][2]);
            return unusable(path, fixed[i][1], expected, err);
        }
    }
    return STATUS_OK;
}

static enum status read_rules(const json_t *config, const char *path, struct beside *out,
                              struct error *err) {
    const json_t *rules = entry(config, "text");
    if (rules != NULL && !json_is_object(rules)) {
        return unusable(path, "text", "an object with strip_html and max_length", err);
    }
    const json_t *strip_html = entry(rules, "strip_html");
    if (strip_html != NULL && !json_is_boolean(strip_html)) {
        return unusable(path, "text.strip_html", "true or false", err);
    }
    if (strip_html != NULL) {
        out->strip_html = json_is_true(strip_html);
    }
    TRY(read_count(entry(rules, "max_length"), path, "text.max_length", &out->max_length, err));
    return check_fixed_rules(rules, path, err);
}

static enum status read_entries(const json_t *config, const char *path, struct beside *out,
                                struct error *err) {
    TRY(read_rules(config, path, out, err));
    TRY(read_count(entry(config, "step"), path, "step", &out->step, err));
    return read_labels(config, path, out, err);
}

static enum status read_config(const struct file_table *files, const char *directory,
                               struct beside *out, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    if (!file_join_path(path, sizeof path, directory, IMPORT_CONFIG_FILE) ||
        !is_file(files, path)) {
        return STATUS_OK;
    }
    uint8_t *bytes;
    size_t size;
    TRY(file_read_all(files, path, CONFIG_BYTES_MAX, &bytes, &size, err));
    json_error_t reason;
    json_t *config = json_loadb((const char *)bytes, size, 0, &reason);
    free(bytes);
    const struct text_shown shown = text_show(path);
    CHECK(config != NULL, err, STATUS_DATA, "%s: line %d: %s: expected a JSON object", shown.text,
          reason.line, text_show(reason.text).text);
    enum status status = read_entries(config, shown.text, out, err);
    json_decref(config);
    return status;
}

/* ---- a checkpoint with our names ------------------------------------------------------------- */

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 0x1Fu;
    uint32_t fraction = half & 0x3FFu;
    if (exponent == 0) { /* zero and subnormal: fraction * 2^-24 */
        float value = (float)fraction * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float read_element(const struct tensor_view *tensor, uint64_t index) {
    const uint8_t *at = (const uint8_t *)tensor->data + index * dtype_bytes(tensor->dtype);
    float single;
    double wide;
    uint16_t half;
    switch (tensor->dtype) {
    case DTYPE_F64:
        memcpy(&wide, at, sizeof wide);
        return (float)wide;
    case DTYPE_F16:
        memcpy(&half, at, sizeof half);
        return half_to_float(half);
    case DTYPE_BF16: {
        memcpy(&half, at, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&single, &bits, sizeof single);
        return single;
    }
    default:
        memcpy(&single, at, sizeof single);
        return single;
    }
}

/* Finite values that have no fp32 of their size: an infinity would be blamed on the file. */
static enum status too_large(const struct import_source *source, uint64_t index, const char *path,
                             struct error *err) {
    char shape[96];
    return error_set(err, STATUS_NONFINITE,
                     "%s: tensor %s %s: element %" PRIu64
                     "%s is too large for fp32, in which Cairn "
                     "computes",
                     path, text_show(source->tensor->name).text,
                     tensor_shape_text(source->tensor, shape, sizeof shape), index,
                     source->added != NULL ? ", to which the second bias is added," : "");
}

static bool is_finite_element(const struct tensor_view *tensor, uint64_t index) {
    double wide;
    if (tensor->dtype != DTYPE_F64) {
        return isfinite(read_element(tensor, index));
    }
    memcpy(&wide, (const uint8_t *)tensor->data + index * sizeof wide, sizeof wide);
    return isfinite(wide);
}

/* Append the values of one weight in our order. */
static enum status append_weight(const struct import_source *source, const struct tensor_view *want,
                                 const char *path, struct text *out, struct error *err) {
    uint64_t columns = want->rank == 2 ? want->shape[1] : 1, rows = want->shape[0];
    for (uint64_t row = 0; row < rows && !out->failed; row++) {
        for (uint64_t column = 0; column < columns; column++) {
            uint64_t index = source->transposed ? column * rows + row : row * columns + column;
            float value = read_element(source->tensor, index);
            if (source->added != NULL) {
                value += read_element(source->added, index);
            }
            if (!isfinite(value) && is_finite_element(source->tensor, index) &&
                (source->added == NULL || is_finite_element(source->added, index))) {
                return too_large(source, index, path, err);
            }
            text_append(out, &value, sizeof value);
        }
    }
    return STATUS_OK;
}

static bool has(const struct checkpoint *checkpoint, const char *name) {
    return tensor_find(checkpoint->tensors, checkpoint->tensor_count, name) != NULL;
}

/* What `beside` adds to the file, in the order of its bytes; returns the number of tensors. */
static size_t list_text(const struct checkpoint *file, struct beside *beside,
                        struct tensor_view out[4]) {
    size_t n = 0;
    if (beside->strip_html >= 0 && !has(file, TENSOR_STRIP_HTML)) {
        out[n++] = tensor_make(TENSOR_STRIP_HTML, DTYPE_I64, &beside->strip_html, 0, NULL);
    }
    if (beside->max_length >= 0 && !has(file, TENSOR_MAX_LENGTH)) {
        out[n++] = tensor_make(TENSOR_MAX_LENGTH, DTYPE_I64, &beside->max_length, 0, NULL);
    }
    uint64_t bytes = strlen(beside->label_names);
    if (bytes > 0) {
        out[n++] = tensor_make(TENSOR_LABEL_NAMES, DTYPE_U8, beside->label_names, 1, &bytes);
    }
    if (beside->vocabulary != NULL) {
        bytes = beside->vocabulary_bytes;
        out[n++] = tensor_make(TENSOR_VOCABULARY, DTYPE_U8, beside->vocabulary, 1, &bytes);
    }
    return n;
}

/* Where the weights are taken from: renamed, or as they are (every tensor of the file). */
struct content {
    const struct checkpoint *file;
    const struct import_plan *plan; /* NULL: as they are */
    struct beside *beside;
    const char *path; /* for messages */
};

static void add_metadata(const struct content *content, struct safetensors_builder *builder) {
    const struct checkpoint *file = content->file;
    bool has_step = checkpoint_metadata(file, "step") != NULL;
    for (size_t i = 0; i < file->metadata_count; i++) {
        const char *key = file->metadata[i].key;
        bool checked = strncmp(key, "digest.", 7) == 0; /* and names may change */
        bool ours = strncmp(key, IMPORT_NAME_KEY, sizeof IMPORT_NAME_KEY - 1) == 0;
        if (!checked && !ours) {
            safetensors_add_metadata(builder, key, file->metadata[i].value);
        }
    }
    if (content->beside->step >= 0 && !has_step) {
        char step[24];
        snprintf(step, sizeof step, "%" PRId64, content->beside->step);
        safetensors_add_metadata(builder, "step", step);
    }
    for (size_t i = 0; content->plan != NULL && i < MODEL_TENSORS; i++) {
        char key[TENSOR_NAME_CAPACITY + sizeof IMPORT_NAME_KEY];
        snprintf(key, sizeof key, IMPORT_NAME_KEY "%s", content->plan->layout.tensors[i].name);
        safetensors_add_metadata(builder, key, content->plan->sources[i].tensor->name);
    }
}

static void append_tensor(struct safetensors_builder *builder, const struct tensor_view *tensor,
                          struct text *data) {
    safetensors_add_tensor(builder, tensor);
    text_append(data, tensor->data, (size_t)tensor_known_bytes(tensor));
}

static enum status append_content(const struct content *content,
                                  struct safetensors_builder *builder, struct text *data,
                                  struct error *err) {
    struct tensor_view text_tensors[4];
    add_metadata(content, builder);
    if (content->plan != NULL) {
        for (size_t i = 0; i < MODEL_TENSORS; i++) {
            safetensors_add_tensor(builder, &content->plan->layout.tensors[i]);
            TRY(append_weight(&content->plan->sources[i], &content->plan->layout.tensors[i],
                              content->path, data, err));
        }
    } else {
        for (size_t i = 0; i < content->file->tensor_count; i++) {
            append_tensor(builder, &content->file->tensors[i], data);
        }
    }
    size_t count = list_text(content->file, content->beside, text_tensors);
    for (size_t i = 0; i < count; i++) {
        append_tensor(builder, &text_tensors[i], data);
    }
    return STATUS_OK;
}

/* By way of the format itself: what comes out is checked like any other file. */
static enum status rebuild(const struct content *content, struct checkpoint **out,
                           struct error *err) {
    struct safetensors_builder builder = {0};
    struct text data = {0};
    enum status status = append_content(content, &builder, &data, err);
    if (status == STATUS_OK) {
        status = safetensors_finish(&builder, err);
    }
    if (status == STATUS_OK) {
        text_append(&builder.text, data.bytes, data.size);
        status = builder.text.failed || data.failed
                     ? error_set(err, STATUS_MEMORY, "no memory for the weights")
                     : checkpoint_decode(builder.text.bytes, builder.text.size, out, err);
    }
    text_free(&data);
    text_free(&builder.text);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The file that `path` means: itself, or the weights in a folder. */
static enum status find_file(const struct file_table *files, const char *path,
                             char file[FILE_PATH_CAPACITY], struct error *err) {
    struct file_stat info;
    bool folder = files->stat(files->context, path, &info) >= 0 && info.is_directory;
    bool fits = folder ? file_join_path(file, FILE_PATH_CAPACITY, path, IMPORT_WEIGHTS_FILE)
                       : snprintf(file, FILE_PATH_CAPACITY, "%s", path) < FILE_PATH_CAPACITY;
    CHECK(fits, err, STATUS_INPUT, "the path of the weights is too long");
    CHECK(!folder || is_file(files, file), err, STATUS_INPUT,
          "%s is a directory without " IMPORT_WEIGHTS_FILE
          ": expected a checkpoint, a .safetensors "
          "file, or a folder as `cairn export` writes it (of a model directory, name one of its "
          "checkpoints; an export that was cut short is to be repeated)",
          text_show(path).text);
    return STATUS_OK;
}

/* Does the file hold its text rules itself? Then what lies beside it is none of its affair. */
static bool is_complete(const struct checkpoint *file) {
    return !file->plain || has(file, TENSOR_VOCABULARY) || has(file, TENSOR_LABEL_NAMES);
}

static enum status read_beside(const struct file_table *files, const char *path, bool take_words,
                               struct beside *out, struct error *err) {
    char directory[FILE_PATH_CAPACITY];
    CHECK(file_split_path(path, directory, sizeof directory) != NULL, err, STATUS_INPUT,
          "the path of the weights is too long");
    if (take_words) {
        TRY(read_vocabulary(files, directory, out, err));
    }
    return read_config(files, directory, out, err);
}

/* A new checkpoint of the file's weights under our names, with what lies beside it. */
static enum status translate(const struct file_table *files, const char *path, bool take_words,
                             const struct checkpoint *file, struct checkpoint **out,
                             struct error *err) {
    struct beside beside = {.strip_html = -1, .max_length = -1, .step = -1};
    const struct text_shown shown = text_show(path);
    bool renamed = import_names_are_foreign(file);
    struct import_plan *plan = renamed ? malloc(sizeof *plan) : NULL;
    CHECK(!renamed || plan != NULL, err, STATUS_MEMORY, "no memory for the names of the tensors");
    enum status status = renamed ? import_names_match(file, shown.text, plan, err) : STATUS_OK;
    if (status == STATUS_OK && !is_complete(file)) {
        status = read_beside(files, path, take_words, &beside, err);
    }
    if (status == STATUS_OK) {
        const struct content content = {file, plan, &beside, shown.text};
        status = rebuild(&content, out, err);
    }
    free(beside.vocabulary);
    free(plan);
    return status;
}

enum status import_read(const struct file_table *files, const char *path, bool beside,
                        struct checkpoint **out, struct error *err) {
    char name[FILE_PATH_CAPACITY];
    struct checkpoint *file;
    TRY(find_file(files, path, name, err));
    TRY(checkpoint_read_file(files, name, &file, err));
    if (is_complete(file) && !import_names_are_foreign(file)) {
        *out = file;
        return STATUS_OK;
    }
    enum status status = translate(files, name, beside, file, out, err);
    checkpoint_free(file);
    return status;
}
