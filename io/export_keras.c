/* Keras 3: a .keras archive (a zip of metadata.json, config.json and model.weights.h5) or the
 * weights alone. config.json names only what differs from Keras' own defaults, so that any Keras 3
 * reads it. */
#include <archive.h>
#include <archive_entry.h>
#include <inttypes.h>
#include <string.h>

#include "host/base/text.h"
#include "io/export.h"
#include "io/export_keras_h5.h"

static bool ends_with(const char *path, const char *ending) {
    size_t size = strlen(path), tail = strlen(ending);
    return size > tail && strcmp(path + size - tail, ending) == 0;
}

/* ---- the archive's JSON ---- */

static void append_string(struct text *json, const char *string) {
    text_append_json(json, string, strlen(string));
}

static void append_vocabulary(struct text *json, const struct export_model *model) {
    text_printf(json, "[");
    for (uint64_t i = 0; i < model->vocabulary_size; i++) {
        text_printf(json, i > 0 ? ", " : "");
        append_string(json, model->tokens[i]);
    }
    text_printf(json, "]");
}

/* {"module": "keras.layers", "class_name": C, "config": {"name": N, ..., and the caller goes on
 * with the rest of the configuration and "}, ..." (layer_end). */
static void layer_begin(struct text *json, const char *class_name, const char *name) {
    text_printf(json,
                "{\"module\": \"keras.layers\", \"class_name\": \"%s\", \"config\": {\"name\": "
                "\"%s\"",
                class_name, name);
}

static void layer_end(struct text *json, const char *separator) {
    text_printf(json, "}, \"registered_name\": null}%s", separator);
}

bool export_keras_takes_texts(const struct export_model *model) {
    for (uint64_t i = 0; i < model->vocabulary_size; i++) {
        if (!text_is_utf8(model->tokens[i], strlen(model->tokens[i]))) {
            return false;
        }
    }
    return !model->strip_html && model->vocabulary_size > 2; /* TensorFlow has no empty tables */
}

static void append_input(struct text *json, const struct export_model *model) {
    if (!export_keras_takes_texts(model)) {
        layer_begin(json, "InputLayer", "token_ids");
        text_printf(json, ", \"batch_shape\": [null, null], \"dtype\": \"int64\"");
        layer_end(json, ", ");
        return;
    }
    layer_begin(json, "InputLayer", "texts");
    text_printf(json, ", \"batch_shape\": [null], \"dtype\": \"string\"");
    layer_end(json, ", ");
    layer_begin(json, "TextVectorization", "text_vectorization");
    text_printf(json, ", \"max_tokens\": null, \"standardize\": \"lower_and_strip_punctuation\", "
                      "\"split\": \"whitespace\", \"ngrams\": null, \"output_mode\": \"int\"");
    if (model->max_length > 0) {
        text_printf(json, ", \"output_sequence_length\": %" PRIu64, model->max_length);
    }
    text_printf(json, ", \"vocabulary\": ");
    append_vocabulary(json, model);
    layer_end(json, ", ");
}

static void append_config(struct text *json, const struct export_model *model) {
    text_printf(json, "{\"module\": \"keras\", \"class_name\": \"Sequential\", \"config\": "
                      "{\"name\": \"cairn\", \"layers\": [");
    append_input(json, model);
    layer_begin(json, "Embedding", "embedding");
    text_printf(json,
                ", \"input_dim\": %" PRIu64 ", \"output_dim\": %" PRIu64 ", \"mask_zero\": true",
                model->vocabulary_size, model->embedding_size);
    layer_end(json, ", ");
    layer_begin(json, "Bidirectional", "bidirectional");
    text_printf(json, ", \"merge_mode\": \"concat\", \"layer\": ");
    layer_begin(json, "LSTM", "lstm");
    text_printf(json, ", \"units\": %" PRIu64, model->hidden_size);
    layer_end(json, "");
    layer_end(json, ", ");
    layer_begin(json, "Dense", "dense");
    text_printf(json, ", \"units\": %" PRIu64 ", \"activation\": \"relu\"", model->dense_size);
    layer_end(json, ", ");
    layer_begin(json, "Dense", "output");
    text_printf(json, ", \"units\": 1, \"activation\": \"linear\"");
    layer_end(json, "]");
    text_printf(json, "}, \"registered_name\": null}");
}

/* Keras' own key, which says how old a Keras may be that made this, and ours: what a program needs
 * to turn texts into ids and logits into labels where the model does not. */
static void append_metadata(struct text *json, const struct export_model *model) {
    text_printf(json, "{\"keras_version\": \"3.0.0\", \"cairn\": {\"labels\": [");
    append_string(json, model->label_names[0]);
    text_printf(json, ", ");
    append_string(json, model->label_names[1]);
    text_printf(json, "], \"max_length\": %" PRIu64 ", \"strip_html\": %s", model->max_length,
                model->strip_html ? "true" : "false");
    if (model->has_step) {
        text_printf(json, ", \"step\": %" PRIu64, model->step);
    }
    text_printf(json, ", \"vocabulary\": ");
    append_vocabulary(json, model);
    text_printf(json, "}}");
}

/* ---- the archive ---- */

static la_ssize_t append_block(struct archive *archive, void *out, const void *bytes, size_t size) {
    (void)archive;
    text_append(out, bytes, size);
    return (la_ssize_t)size;
}

/* Stored, as Keras does, and without times: the same model gives the same bytes. */
static struct archive *open_zip(struct text *out) {
    struct archive *zip = archive_write_new();
    if (zip != NULL && (archive_write_set_format_zip(zip) != ARCHIVE_OK ||
                        archive_write_set_options(zip, "zip:compression=store") != ARCHIVE_OK ||
                        archive_write_set_bytes_per_block(zip, 0) != ARCHIVE_OK ||
                        archive_write_open(zip, out, NULL, append_block, NULL) != ARCHIVE_OK)) {
        archive_write_free(zip);
        return NULL;
    }
    return zip;
}

static bool add_file(struct archive *zip, const char *name, const struct text *content) {
    struct archive_entry *entry = archive_entry_new();
    if (entry == NULL || content->failed) {
        archive_entry_free(entry);
        return false;
    }
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, (la_int64_t)content->size);
    bool added =
        archive_write_header(zip, entry) == ARCHIVE_OK &&
        archive_write_data(zip, content->bytes, content->size) == (la_ssize_t)content->size;
    archive_entry_free(entry);
    return added;
}

static enum status append_archive(const struct export_model *model, const struct text *weights,
                                  struct text *out, struct error *err) {
    struct text config = {0}, metadata = {0};
    append_config(&config, model);
    append_metadata(&metadata, model);
    struct archive *zip = open_zip(out);
    bool done = zip != NULL && add_file(zip, "metadata.json", &metadata) &&
                add_file(zip, "config.json", &config) && add_file(zip, "model.weights.h5", weights);
    done = zip != NULL && archive_write_close(zip) == ARCHIVE_OK && done && !out->failed;
    archive_write_free(zip);
    text_free(&config);
    text_free(&metadata);
    CHECK(done, err, STATUS_MEMORY, "no memory for the model as a Keras archive");
    return STATUS_OK;
}

/* ---- the exporter ---- */

enum status export_keras(const struct file_table *files, const struct export_model *model,
                         const char *path, struct error *err) {
    bool archive = ends_with(path, ".keras");
    char shown[256];
    CHECK(archive || ends_with(path, ".weights.h5"), err, STATUS_USAGE,
          "--output %s: Keras knows its files by their ending: expected NAME.keras (model and "
          "weights) or NAME.weights.h5 (weights only)",
          text_escape(path, strlen(path), shown, sizeof shown));
    struct text weights = {0}, whole = {0};
    enum status status = export_keras_h5(model, &weights, err);
    if (status == STATUS_OK && archive) {
        status = append_archive(model, &weights, &whole, err);
    }
    if (status == STATUS_OK) {
        const struct text *file = archive ? &whole : &weights;
        status = export_publish(files, path, file->bytes, file->size, err);
    }
    text_free(&whole);
    text_free(&weights);
    return status;
}
