/* export_checkpoint.c - weights, vocabulary and text rules in the format of Cairn's checkpoints:
 * what --checkpoint FILE and --init-from FILE need, and nothing else. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"
#include "io/checkpoint.h"
#include "io/export.h"
#include "io/model_names.h"

/* Weights hardly compress: more than this costs time and gains nothing. */
enum { COMPRESSION_LEVEL = 3 };

/* What is stored behind the weights. */
struct extras {
    struct text vocabulary, label_names;
    int64_t strip_html, max_length;
};

static void extras_init(struct extras *extras, const struct export_model *model) {
    *extras =
        (struct extras){.strip_html = model->strip_html, .max_length = (int64_t)model->max_length};
    for (uint64_t i = 0; i < model->vocabulary_size; i++) {
        text_append(&extras->vocabulary, model->tokens[i], strlen(model->tokens[i]));
        text_append(&extras->vocabulary, "\n", 1);
    }
    text_printf(&extras->label_names, "%s\n%s\n", model->label_names[0], model->label_names[1]);
}

static void extras_deinit(struct extras *extras) {
    text_free(&extras->vocabulary);
    text_free(&extras->label_names);
}

/* All tensors in the order of a checkpoint; the caller frees *out. */
static enum status list_tensors(const struct export_model *model, struct extras *extras,
                                struct tensor_view **out, size_t *count, struct error *err) {
    struct tensor_view *tensors = calloc(model->weight_count + 4, sizeof *tensors);
    CHECK(tensors != NULL, err, STATUS_MEMORY, "no memory for the list of tensors");
    memcpy(tensors, model->weights, model->weight_count * sizeof *tensors);
    size_t n = model->weight_count;
    uint64_t vocabulary_bytes = extras->vocabulary.size, names_bytes = extras->label_names.size;
    tensors[n++] =
        tensor_make(TENSOR_VOCABULARY, DTYPE_U8, extras->vocabulary.bytes, 1, &vocabulary_bytes);
    tensors[n++] = tensor_make(TENSOR_STRIP_HTML, DTYPE_I64, &extras->strip_html, 0, NULL);
    tensors[n++] = tensor_make(TENSOR_MAX_LENGTH, DTYPE_I64, &extras->max_length, 0, NULL);
    tensors[n++] =
        tensor_make(TENSOR_LABEL_NAMES, DTYPE_U8, extras->label_names.bytes, 1, &names_bytes);
    *out = tensors;
    *count = n;
    return STATUS_OK;
}

static enum status write_piece(void *publish, const void *bytes, size_t size, struct error *err) {
    return publish_write(publish, bytes, size, err);
}

static enum status encode(const struct export_model *model, struct extras *extras,
                          struct publish *publish, struct error *err) {
    char step[24];
    snprintf(step, sizeof step, "%" PRIu64, model->step);
    const struct metadata_pair metadata = {"step", step};
    struct checkpoint_encoder *encoder;
    struct tensor_view *tensors = NULL;
    size_t count = 0;
    TRY(list_tensors(model, extras, &tensors, &count, err));
    enum status status = checkpoint_encoder_create(COMPRESSION_LEVEL, 1, &encoder, err);
    if (status == STATUS_OK) {
        status = checkpoint_encode(encoder, tensors, count, &metadata, model->has_step, write_piece,
                                   publish, NULL, NULL, err);
        checkpoint_encoder_free(encoder);
    }
    free(tensors);
    return status;
}

static enum status write_file(const struct file_table *files, const struct export_model *model,
                              struct extras *extras, const char *path, struct error *err) {
    CHECK(!extras->vocabulary.failed && !extras->label_names.failed, err, STATUS_MEMORY,
          "no memory for the vocabulary");
    struct publish publish;
    TRY(export_begin(files, path, &publish, err));
    enum status status = encode(model, extras, &publish, err);
    if (status != STATUS_OK) {
        publish_abort(&publish);
        return status;
    }
    return publish_commit(&publish, err);
}

enum status export_checkpoint(const struct file_table *files, const struct export_model *model,
                              const char *path, struct error *err) {
    struct extras extras;
    extras_init(&extras, model);
    enum status status = write_file(files, model, &extras, path, err);
    extras_deinit(&extras);
    return status;
}
