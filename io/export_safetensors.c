/* export_safetensors.c - a folder as people find it on model hubs: model.safetensors with the names
 * of a PyTorch module, config.json, vocab.txt, README.md.
 *
 * torch.nn.LSTM has two biases whose sum counts: ours is the first, the second is zero. Gates are
 * in PyTorch's order (i, f, g, o) already, so every other tensor goes out as it is. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"
#include "io/export.h"
#include "io/export_card.h"
#include "io/safetensors.h"

/* ---- model.safetensors ----------------------------------------------------------------------- */

enum { TENSORS = 13 };

static const struct {
    const char *name;
    const char *source; /* NULL: zeros */
} rows[TENSORS] = {
    {"embedding.weight", "embedding.weight"},
    {"lstm.weight_ih_l0", "lstm.weight_ih_l0"},
    {"lstm.weight_hh_l0", "lstm.weight_hh_l0"},
    {"lstm.bias_ih_l0", "lstm.bias_l0"},
    {"lstm.bias_hh_l0", NULL},
    {"lstm.weight_ih_l0_reverse", "lstm.weight_ih_l0_reverse"},
    {"lstm.weight_hh_l0_reverse", "lstm.weight_hh_l0_reverse"},
    {"lstm.bias_ih_l0_reverse", "lstm.bias_l0_reverse"},
    {"lstm.bias_hh_l0_reverse", NULL},
    {"dense.weight", "dense.weight"},
    {"dense.bias", "dense.bias"},
    {"output.weight", "output.weight"},
    {"output.bias", "output.bias"},
};

static void list_tensors(const struct export_model *model, float *zeros,
                         struct tensor_view out[TENSORS]) {
    uint64_t bias_shape = 4 * model->hidden_size;
    for (size_t i = 0; i < TENSORS; i++) {
        if (rows[i].source == NULL) {
            out[i] = tensor_make(rows[i].name, DTYPE_F32, zeros, 1, &bias_shape);
        } else {
            const struct tensor_view *from = export_weight(model, rows[i].source);
            out[i] = tensor_make(rows[i].name, from->dtype, from->data, from->rank, from->shape);
        }
    }
}

static enum status write_header(struct publish *publish, const struct tensor_view *tensors,
                                struct error *err) {
    struct safetensors_builder builder = {0};
    safetensors_add_metadata(&builder, "format", "pt"); /* what the hub's libraries look for */
    for (size_t i = 0; i < TENSORS; i++) {
        safetensors_add_tensor(&builder, &tensors[i]);
    }
    enum status status = safetensors_finish(&builder, err);
    if (status == STATUS_OK) {
        status = publish_write(publish, builder.text.bytes, builder.text.size, err);
    }
    text_free(&builder.text);
    return status;
}

static enum status write_tensors(struct publish *publish, const struct tensor_view *tensors,
                                 struct error *err) {
    TRY(write_header(publish, tensors, err));
    for (size_t i = 0; i < TENSORS; i++) {
        size_t bytes = (size_t)tensor_known_bytes(&tensors[i]);
        TRY(publish_write(publish, tensors[i].data, bytes, err));
    }
    return STATUS_OK;
}

static enum status write_weights(const struct export_model *model, struct publish *publish,
                                 struct error *err) {
    struct tensor_view tensors[TENSORS];
    float *zeros = calloc((size_t)(4 * model->hidden_size), sizeof *zeros);
    CHECK(zeros != NULL, err, STATUS_MEMORY, "no memory for the second biases");
    list_tensors(model, zeros, tensors);
    enum status status = write_tensors(publish, tensors, err);
    free(zeros);
    return status;
}

/* ---- the small files ------------------------------------------------------------------------- */

static void append_label(struct text *text, const struct export_model *model, int label) {
    text_append_json(text, model->label_names[label], strlen(model->label_names[label]));
}

/* Hub names where there are any (vocab_size, id2label); "text" is what makes ids of a string. */
static void format_config(const struct export_model *model, struct text *text) {
    text_printf(text,
                "{\n"
                "  \"architectures\": [\"BiLSTMForTextClassification\"],\n"
                "  \"model_type\": \"bilstm\",\n"
                "  \"vocab_size\": %" PRIu64 ",\n"
                "  \"embedding_size\": %" PRIu64 ",\n"
                "  \"hidden_size\": %" PRIu64 ",\n"
                "  \"dense_size\": %" PRIu64 ",\n"
                "  \"num_hidden_layers\": 1,\n"
                "  \"bidirectional\": true,\n"
                "  \"gate_order\": \"ifgo\",\n"
                "  \"hidden_act\": \"relu\",\n"
                "  \"problem_type\": \"single_label_classification\",\n"
                "  \"output\": \"one logit; its sigmoid is the probability of label 1\",\n",
                model->vocabulary_size, model->embedding_size, model->hidden_size,
                model->dense_size);
    text_printf(text, "  \"id2label\": {\"0\": ");
    append_label(text, model, 0);
    text_printf(text, ", \"1\": ");
    append_label(text, model, 1);
    text_printf(text,
                "},\n"
                "  \"pad_token_id\": 0,\n"
                "  \"unk_token_id\": 1,\n"
                "  \"text\": {\n"
                "    \"strip_html\": %s,\n"
                "    \"lowercase\": \"ascii\",\n"
                "    \"strip_punctuation\": \"ascii\",\n"
                "    \"split\": \"whitespace\",\n"
                "    \"max_length\": %" PRIu64 "\n"
                "  },\n"
                "  \"torch_dtype\": \"float32\"",
                model->strip_html ? "true" : "false", model->max_length);
    if (model->has_step) {
        text_printf(text, ",\n  \"step\": %" PRIu64, model->step);
    }
    text_printf(text, "\n}\n");
}

/* A line a token: the number of the line, from 0, is the token's id. */
static void format_vocabulary(const struct export_model *model, struct text *text) {
    for (uint64_t i = 0; i < model->vocabulary_size; i++) {
        text_append(text, model->tokens[i], strlen(model->tokens[i]));
        text_append(text, "\n", 1);
    }
}

static enum status write_text(struct publish *publish, struct text *text, struct error *err) {
    enum status status = STATUS_OK;
    if (text->failed) {
        status = error_set(err, STATUS_MEMORY, "no memory for the text of %s", publish->final_path);
    } else {
        status = publish_write(publish, text->bytes, text->size, err);
    }
    text_free(text);
    return status;
}

static enum status write_config(const struct export_model *model, struct publish *publish,
                                struct error *err) {
    struct text text = {0};
    format_config(model, &text);
    return write_text(publish, &text, err);
}

static enum status write_vocabulary(const struct export_model *model, struct publish *publish,
                                    struct error *err) {
    struct text text = {0};
    format_vocabulary(model, &text);
    return write_text(publish, &text, err);
}

static enum status write_card(const struct export_model *model, struct publish *publish,
                              struct error *err) {
    struct text text = {0};
    export_card(model, &text);
    return write_text(publish, &text, err);
}

/* ---- the folder ------------------------------------------------------------------------------ */

enum { FILES = 4 };

static const struct {
    const char *name;
    enum status (*write)(const struct export_model *model, struct publish *publish,
                         struct error *err);
} parts[FILES] = {
    /* In the order of their renames: config.json says whose the folder is, and without the weights,
     * which come last, it is no model. */
    {"config.json", write_config},
    {"vocab.txt", write_vocabulary},
    {"README.md", write_card},
    {"model.safetensors", write_weights},
};
enum { WEIGHTS = FILES - 1 };

/* Files on their way: those in [committed, begun) are temporary ones. */
struct folder {
    struct publish files[FILES];
    size_t begun, committed;
};

static enum status begin_part(const struct file_table *files, const char *path, size_t index,
                              struct folder *folder, struct error *err) {
    char name[FILE_PATH_CAPACITY];
    struct file_stat info;
    CHECK(file_join_path(name, sizeof name, path, parts[index].name), err, STATUS_OUTPUT,
          "the path of %s in the folder is too long", parts[index].name);
    char shown[400];
    CHECK(files->stat(files->context, name, &info) < 0 || !info.is_directory, err, STATUS_OUTPUT,
          "%s is a directory: remove it, or name another folder",
          text_escape(name, strlen(name), shown, sizeof shown));
    TRY(export_begin(files, name, &folder->files[index], err));
    folder->begun++;
    return STATUS_OK;
}

/* Old weights must not be found beside new words, whatever happens next: they go first. */
static enum status remove_weights(const struct file_table *files, const char *path,
                                  const struct folder *folder, struct error *err) {
    const char *name = folder->files[WEIGHTS].final_path;
    char shown[400], reason[256];
    int result = files->unlink(files->context, name);
    if (result == -ENOENT) {
        return STATUS_OK;
    }
    if (result >= 0) {
        result = file_sync_directory(files, path);
    }
    CHECK(result >= 0, err, STATUS_IO, "cannot replace %s: removing the old file failed: %s",
          text_escape(name, strlen(name), shown, sizeof shown),
          file_errno_text(result, reason, sizeof reason));
    return STATUS_OK;
}

/* Nothing is removed or renamed before all of it is written and safe: a full disk leaves the old
 * folder. */
static enum status write_all(const struct file_table *files, const struct export_model *model,
                             const char *path, struct folder *folder, struct error *err) {
    for (size_t i = 0; i < FILES; i++) {
        TRY(begin_part(files, path, i, folder, err));
        TRY(parts[i].write(model, &folder->files[i], err));
        TRY(publish_seal(&folder->files[i], err));
    }
    TRY(remove_weights(files, path, folder, err));
    while (folder->committed < FILES) {
        TRY(publish_commit(&folder->files[folder->committed++], err));
    }
    return STATUS_OK;
}

enum status export_safetensors(const struct file_table *files, const struct export_model *model,
                               const char *path, struct error *err) {
    struct folder *folder = calloc(1, sizeof *folder);
    CHECK(folder != NULL, err, STATUS_MEMORY, "no memory for the names of the files");
    enum status status = file_make_directories(files, path, err);
    if (status == STATUS_OK) {
        status = write_all(files, model, path, folder, err);
    }
    while (folder->committed < folder->begun) {
        publish_abort(&folder->files[folder->committed++]);
    }
    free(folder);
    return status;
}
