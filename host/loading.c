#include "host/loading.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/corpus.h"
#include "io/store.h"

/* ---- devices ------------------------------------------------------------------------------------
 */

enum status loading_create_backend(const struct options *options, struct backend **out,
                                   struct error *err) {
    CHECK(strcmp(options->precision, "fp32") == 0, err, STATUS_DEVICE,
          "--precision %s: this build computes in fp32 only", options->precision);
    CHECK(strncmp(options->device, "cuda", 4) != 0, err, STATUS_DEVICE,
          "--device %s: this build has no CUDA backend; --device cpu runs everywhere",
          options->device);
    struct backend_options backend_options = {
        .threads = (uint32_t)options->threads,
        .isa = options->isa,
    };
    return backend_cpu_create(&backend_options, out, err);
}

/* ---- what a checkpoint says ---------------------------------------------------------------------
 */

static const struct tensor_view *find(const struct checkpoint *checkpoint, const char *name) {
    return tensor_find(checkpoint->tensors, checkpoint->tensor_count, name);
}

/* An I64 scalar; `fallback` when the file has none (a plain safetensors file). */
static int64_t read_scalar(const struct checkpoint *checkpoint, const char *name,
                           int64_t fallback) {
    const struct tensor_view *tensor = find(checkpoint, name);
    if (tensor == NULL || tensor->dtype != DTYPE_I64 || tensor->rank != 0) {
        return fallback;
    }
    int64_t value;
    memcpy(&value, tensor->data, sizeof value);
    return value;
}

/* Two names, each ended by a newline; "neg" and "pos" where the file has none. */
static void read_label_names(const struct checkpoint *checkpoint,
                             char names[2][DATASET_LABEL_CAPACITY]) {
    snprintf(names[0], DATASET_LABEL_CAPACITY, "neg");
    snprintf(names[1], DATASET_LABEL_CAPACITY, "pos");
    const struct tensor_view *tensor = find(checkpoint, TENSOR_LABEL_NAMES);
    if (tensor == NULL || tensor->dtype != DTYPE_U8 || tensor->rank != 1) {
        return;
    }
    const char *at = tensor->data, *end = at + tensor->shape[0];
    for (int label = 0; label < 2; label++) {
        const char *newline = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
        if (newline == NULL) {
            return;
        }
        snprintf(names[label], DATASET_LABEL_CAPACITY, "%.*s", (int)(newline - at), at);
        at = newline + 1;
    }
}

enum status loading_read_text(const struct checkpoint *checkpoint, const char *path,
                              const char *vocabulary_file, struct vocabulary **vocabulary,
                              struct text_rules *rules, struct error *err) {
    const struct tensor_view *tensor = find(checkpoint, TENSOR_VOCABULARY);
    if (tensor != NULL) {
        CHECK(tensor->dtype == DTYPE_U8 && tensor->rank == 1, err, STATUS_MISFIT,
              "%s: tensor " TENSOR_VOCABULARY " should be U8 of rank 1", path);
        TRY(vocabulary_parse(tensor->data, (size_t)tensor->shape[0], path, vocabulary, err));
    } else {
        CHECK(vocabulary_file[0] != '\0', err, STATUS_USAGE,
              "%s holds no vocabulary; pass the one it was trained with as --vocabulary FILE",
              path);
        TRY(vocabulary_load(&file_posix, vocabulary_file, vocabulary, err));
    }
    rules->strip_html = read_scalar(checkpoint, TENSOR_STRIP_HTML, 0) != 0;
    int64_t max_length = read_scalar(checkpoint, TENSOR_MAX_LENGTH, 0);
    rules->max_length = max_length > 0 ? (uint64_t)max_length : 0;
    read_label_names(checkpoint, rules->label_names);
    return STATUS_OK;
}

/* A size that fits the model's 32-bit letters. */
static enum status read_size(const struct checkpoint *checkpoint, const char *path,
                             const char *name, uint32_t axis, uint32_t divisor, uint32_t *out,
                             struct error *err) {
    const struct tensor_view *tensor = find(checkpoint, name);
    CHECK(tensor != NULL, err, STATUS_MISFIT, "%s: tensor %s is missing: not a model of this kind",
          path, name);
    uint64_t size = axis < tensor->rank ? tensor->shape[axis] : 0;
    CHECK(tensor->dtype == DTYPE_F32 && tensor->rank == 2 && size > 0 && size % divisor == 0 &&
              size / divisor <= INT32_MAX,
          err, STATUS_MISFIT, "%s: tensor %s has no usable shape", path, name);
    *out = (uint32_t)(size / divisor);
    return STATUS_OK;
}

enum status loading_shape(const struct checkpoint *checkpoint, const char *path,
                          struct model_shape *out, struct error *err) {
    TRY(read_size(checkpoint, path, "embedding.weight", 0, 1, &out->vocabulary, err));
    TRY(read_size(checkpoint, path, "embedding.weight", 1, 1, &out->embedding, err));
    TRY(read_size(checkpoint, path, "lstm.weight_hh_l0", 1, 1, &out->hidden, err));
    TRY(read_size(checkpoint, path, "dense.weight", 0, 1, &out->dense, err));
    struct model_layout layout;
    TRY(model_layout_make(out, &layout, err));
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        const struct tensor_view *want = &layout.tensors[i];
        const struct tensor_view *have = find(checkpoint, want->name);
        CHECK(have != NULL, err, STATUS_MISFIT, "%s: tensor %s is missing", path, want->name);
        char have_text[96], want_text[96];
        CHECK(have->dtype == DTYPE_F32 && have->rank == want->rank &&
                  memcmp(have->shape, want->shape, sizeof have->shape) == 0,
              err, STATUS_MISFIT, "%s: tensor %s has shape %s, the other tensors ask for %s", path,
              want->name, tensor_shape_text(have, have_text, sizeof have_text),
              tensor_shape_text(want, want_text, sizeof want_text));
    }
    return STATUS_OK;
}

enum status loading_upload(struct model *model, float *part, const char *prefix,
                           const struct checkpoint *checkpoint, struct error *err) {
    struct tensor_view views[MODEL_TENSORS];
    model_views(model, prefix, part, views);
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        const struct tensor_view *from = find(checkpoint, views[i].name);
        CHECK(from != NULL, err, STATUS_MISFIT, "tensor %s is missing", views[i].name);
        uint64_t have, want;
        CHECK(tensor_bytes(from, &have) && tensor_bytes(&views[i], &want) && have == want &&
                  from->dtype == DTYPE_F32,
              err, STATUS_MISFIT, "tensor %s does not fit the model", views[i].name);
        TRY(model_upload(model, views[i].data, from->data, (size_t)want, err));
    }
    return STATUS_OK;
}

/* ---- finding one --------------------------------------------------------------------------------
 */

static void name_damage(void *context, const char *path, const char *reason) {
    (void)context;
    fprintf(stderr, "Warning: checkpoint %s is damaged and passed over: %s\n", path, reason);
}

static enum status open_checkpoint(const struct options *options, struct loaded *out,
                                   struct error *err) {
    const char *which = options->checkpoint;
    bool latest = strcmp(which, "latest") == 0, best = strcmp(which, "best") == 0;
    if (!latest && !best) {
        snprintf(out->path, sizeof out->path, "%s", which);
        return checkpoint_read_file(&file_posix, which, &out->checkpoint, err);
    }
    CHECK(options->model_dir[0] != '\0' || options->allow_untrained, err, STATUS_USAGE,
          "which model? Pass --model-dir DIR or --checkpoint FILE");
    if (options->model_dir[0] == '\0') {
        return STATUS_OK;
    }
    if (best) {
        CHECK(file_join_path(out->path, sizeof out->path, options->model_dir, STORE_BEST_FILE), err,
              STATUS_USAGE, "--model-dir: the path is too long");
        return checkpoint_read_file(&file_posix, out->path, &out->checkpoint, err);
    }
    return store_load_newest(&file_posix, options->model_dir, name_damage, NULL, &out->checkpoint,
                             out->path, err);
}

/* Initial weights: the sizes are the options' defaults, the vocabulary is given or learned. */
static enum status open_untrained(const struct options *options, struct loaded *out,
                                  struct error *err) {
    CHECK(options->vocabulary[0] != '\0' || options->data[0] != '\0', err, STATUS_USAGE,
          "--allow-untrained needs --vocabulary FILE or --data PATH to know the words");
    if (options->vocabulary[0] != '\0') {
        TRY(vocabulary_load(&file_posix, options->vocabulary, &out->vocabulary, err));
    } else {
        struct corpus_request request = {
            .files = &file_posix,
            .path = options->data,
            .vocabulary_limit = options->vocabulary_size,
            .strip_html = options->strip_html,
        };
        struct text notes = {0};
        enum status status = corpus_learn_vocabulary(&request, &out->vocabulary, &notes, err);
        text_free(&notes);
        TRY(status);
    }
    fprintf(stderr, "Warning: no checkpoint: these are the initial, untrained weights "
                    "(--allow-untrained)\n");
    out->path[0] = '\0';
    out->seed = options->seed;
    out->rules.strip_html = options->strip_html;
    out->rules.max_length = options->max_length;
    snprintf(out->rules.label_names[0], DATASET_LABEL_CAPACITY, "neg");
    snprintf(out->rules.label_names[1], DATASET_LABEL_CAPACITY, "pos");
    out->shape = (struct model_shape){
        .vocabulary = vocabulary_size(out->vocabulary),
        .embedding = (uint32_t)options->embedding_size,
        .hidden = (uint32_t)options->hidden_size,
        .dense = (uint32_t)options->dense_size,
    };
    return STATUS_OK;
}

/* Everything that depends on the checkpoint found. */
static enum status read_checkpoint(const struct options *options, struct loaded *out,
                                   struct error *err) {
    TRY(loading_shape(out->checkpoint, out->path, &out->shape, err));
    TRY(loading_read_text(out->checkpoint, out->path, options->vocabulary, &out->vocabulary,
                          &out->rules, err));
    CHECK(vocabulary_size(out->vocabulary) == out->shape.vocabulary, err, STATUS_MISFIT,
          "%s: embedding.weight has %u rows, the vocabulary has %u entries", out->path,
          out->shape.vocabulary, vocabulary_size(out->vocabulary));
    int64_t step = read_scalar(out->checkpoint, "state.step", 0);
    if (step == 0) { /* a weights-only file keeps the step in its metadata */
        const char *text = checkpoint_metadata(out->checkpoint, "step");
        if (text == NULL || !text_parse_i64(text, &step)) {
            step = 0;
        }
    }
    out->step = step > 0 ? (uint64_t)step : 0;
    return STATUS_OK;
}

enum status loading_open(const struct options *options, struct loaded *out, struct error *err) {
    memset(out, 0, sizeof *out);
    struct error why = {0};
    enum status status = open_checkpoint(options, out, &why);
    bool missing = status == STATUS_INPUT || (status == STATUS_OK && out->checkpoint == NULL);
    if (missing && options->allow_untrained) {
        status = open_untrained(options, out, err);
    } else if (missing && status == STATUS_INPUT) {
        status = error_set(err, status, "%s", why.message);
    } else if (missing) {
        status =
            error_set(err, STATUS_INPUT,
                      "no checkpoint (model.ckpt-*.safetensors.zst) in %s: train a model there "
                      "first, name another --model-dir, or pass --allow-untrained",
                      options->model_dir);
    } else if (status != STATUS_OK) {
        status = error_set(err, status, "%s", why.message);
    } else {
        status = read_checkpoint(options, out, err);
    }
    if (status != STATUS_OK) {
        loading_close(out);
    }
    return status;
}

enum status loading_create_model(const struct loaded *loaded, struct backend *be,
                                 const struct batch_limits *limits, struct model **out,
                                 struct error *err) {
    struct model_options options = {.limits = *limits};
    TRY(model_create(be, &loaded->shape, &options, out, err));
    enum status status = loaded->checkpoint != NULL
                             ? loading_upload(*out, (*out)->weights, "", loaded->checkpoint, err)
                             : model_initialise(*out, loaded->seed, err);
    if (status != STATUS_OK) {
        model_free(*out);
        *out = NULL;
    }
    return status;
}

bool loading_lies_in(const char *path, const char *directory) {
    char parent[FILE_PATH_CAPACITY], real_parent[PATH_MAX], real_directory[PATH_MAX];
    file_split_path(path, parent, sizeof parent);
    return realpath(parent, real_parent) != NULL && realpath(directory, real_directory) != NULL &&
           strcmp(real_parent, real_directory) == 0;
}

void loading_close(struct loaded *loaded) {
    checkpoint_free(loaded->checkpoint);
    vocabulary_free(loaded->vocabulary);
    memset(loaded, 0, sizeof *loaded);
}
