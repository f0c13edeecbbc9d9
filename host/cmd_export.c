/* cmd_export.c - a checkpoint's weights, vocabulary and text rules in the formats of others. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/text.h"
#include "host/cmd.h"
#include "host/export_output.h"
#include "host/loading.h"
#include "io/export.h"

/* ---- where to -------------------------------------------------------------------------------- */

static const char *format_name(enum export_format format) {
    static const char *const names[] = {[EXPORT_SAFETENSORS] = "safetensors",
                                        [EXPORT_ONNX] = "onnx",
                                        [EXPORT_KERAS] = "keras",
                                        [EXPORT_CHECKPOINT] = "checkpoint"};
    return names[format];
}

static bool ends_with(const char *text, const char *ending) {
    size_t size = strlen(text), tail = strlen(ending);
    return size >= tail && strcmp(text + size - tail, ending) == 0;
}

static bool writes_folder(const struct options *options) {
    return options->export_format == EXPORT_SAFETENSORS;
}

static enum status check_output(const struct options *options, struct error *err) {
    bool folder = writes_folder(options);
    CHECK(!folder || !ends_with(options->output, ".safetensors"), err, STATUS_USAGE,
          "--output %s: --format safetensors writes a folder (model.safetensors in it, with "
          "config.json, vocab.txt, README.md): name the folder",
          text_show(options->output).text);
    return export_output_check(options->output, folder, format_name(options->export_format), err);
}

/* ---- what ---------------------------------------------------------------------------------- */

/* struct export_model with the memory behind it. */
struct exported {
    struct tensor_view weights[MODEL_TENSORS];
    char *token_bytes;
    const char **tokens;
};

static void exported_deinit(struct exported *exported) {
    free(exported->token_bytes);
    free(exported->tokens);
}

/* The checkpoint's own text with NULs for newlines, and where each token begins. */
static enum status copy_tokens(const struct vocabulary *vocabulary, struct exported *out,
                               struct error *err) {
    size_t size;
    const char *text = vocabulary_text(vocabulary, &size);
    uint32_t count = vocabulary_size(vocabulary);
    out->token_bytes = malloc(size);
    out->tokens = calloc(count, sizeof *out->tokens);
    CHECK(out->token_bytes != NULL && out->tokens != NULL, err, STATUS_MEMORY,
          "no memory for the vocabulary");
    memcpy(out->token_bytes, text, size);
    char *at = out->token_bytes;
    for (uint32_t id = 0; id < count; id++) {
        out->tokens[id] = at;
        at += vocabulary_entry(vocabulary, id).size;
        *at++ = '\0';
    }
    return STATUS_OK;
}

static enum status check_finite(const struct tensor_view *tensor, const char *path,
                                struct error *err) {
    uint64_t elements = 0;
    (void)!tensor_elements(tensor, &elements); /* the decoder saw that it has a size */
    const float *values = tensor->data;
    for (uint64_t i = 0; i < elements; i++) {
        CHECK(isfinite(values[i]), err, STATUS_NONFINITE,
              "%s: element %" PRIu64 " of tensor %s is not finite; such a model is not exported",
              text_show(path).text, i, tensor->name);
    }
    return STATUS_OK;
}

static enum status find_weights(const struct loaded *loaded, struct exported *out,
                                struct error *err) {
    struct model_layout layout;
    TRY(model_layout_make(&loaded->shape, &layout, err));
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        const struct tensor_view *weight = tensor_find(
            loaded->checkpoint->tensors, loaded->checkpoint->tensor_count, layout.tensors[i].name);
        CHECK(weight != NULL, err, STATUS_INTERNAL, "tensor %s is gone", layout.tensors[i].name);
        TRY(check_finite(weight, loaded->path, err));
        out->weights[i] = *weight;
    }
    return STATUS_OK;
}

static struct export_model describe(const struct loaded *loaded, const struct exported *exported) {
    return (struct export_model){
        .vocabulary_size = loaded->shape.vocabulary,
        .embedding_size = loaded->shape.embedding,
        .hidden_size = loaded->shape.hidden,
        .dense_size = loaded->shape.dense,
        .weights = exported->weights,
        .weight_count = MODEL_TENSORS,
        .tokens = exported->tokens,
        .strip_html = loaded->rules.strip_html,
        .max_length = loaded->rules.max_length,
        .label_names = {loaded->rules.label_names[0], loaded->rules.label_names[1]},
        .step = loaded->step,
        .has_step = loaded->has_step,
    };
}

/* ---- writing --------------------------------------------------------------------------------- */

static enum status write_format(const struct options *options, const struct export_model *model,
                                struct error *err) {
    const char *path = options->output;
    switch (options->export_format) {
    case EXPORT_SAFETENSORS:
        return export_safetensors(&file_posix, model, path, err);
    case EXPORT_ONNX:
        return export_onnx(&file_posix, model, path, options->with_text, err);
    case EXPORT_KERAS:
        return export_keras(&file_posix, model, path, err);
    case EXPORT_CHECKPOINT:
        return export_checkpoint(&file_posix, model, path, err);
    }
    return STATUS_INTERNAL;
}

/* A folder that was made for an export which then failed goes again (if nothing is in it). */
static enum status write_output(const struct options *options, const struct export_model *model,
                                struct error *err) {
    struct file_stat info;
    bool was_there = file_posix.stat(file_posix.context, options->output, &info) >= 0;
    enum status status = write_format(options, model, err);
    if (status != STATUS_OK && !was_there && writes_folder(options)) {
        rmdir(options->output);
    }
    return status;
}

static void report(const struct options *options, const struct loaded *loaded) {
    fprintf(stderr, "Exported %s", text_show(loaded->path).text);
    if (loaded->has_step) {
        fprintf(stderr, " (step %" PRIu64 ")", loaded->step);
    }
    fprintf(stderr, " as %s: %s\n", format_name(options->export_format),
            text_show(options->output).text);
    if (loaded->has_step && loaded->step == 0) {
        fprintf(stderr, "Warning: this checkpoint was saved before the first step: its weights are "
                        "not trained\n");
    }
}

static enum status export_loaded(const struct options *options, const struct loaded *loaded,
                                 struct error *err) {
    TRY(export_output_check_source(options->output, writes_folder(options), loaded->path, err));
    struct exported exported = {0};
    enum status status = find_weights(loaded, &exported, err);
    if (status == STATUS_OK) {
        status = copy_tokens(loaded->vocabulary, &exported, err);
    }
    if (status == STATUS_OK) {
        struct export_model model = describe(loaded, &exported);
        status = write_output(options, &model, err);
    }
    exported_deinit(&exported);
    return status;
}

enum status cmd_export(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    TRY(check_output(options, err));
    struct loaded loaded = {0};
    TRY(loading_open(options, &loaded, err));
    enum status status = export_loaded(options, &loaded, err);
    if (status == STATUS_OK) {
        report(options, &loaded);
    }
    loading_close(&loaded);
    return status;
}
