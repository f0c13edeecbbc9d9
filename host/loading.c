#include "host/loading.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/corpus.h"
#include "host/import.h"
#include "io/store.h"

/* ---- devices --------------------------------------------------------------------------------- */

/* What is asked for and absent is an error, never a silent fallback. */
static enum status check_cpu(const struct options *options, struct error *err) {
    CHECK(strcmp(options->precision, "tf32") != 0, err, STATUS_DEVICE,
          "--precision tf32 is for a GPU, and the CPU is what is used here: its kernels compute in "
          "fp32, or some with bf16 factors (--precision bf16)");
    CHECK(strcmp(options->lstm, "auto") == 0, err, STATUS_DEVICE,
          "--lstm %s chooses between kernels of a GPU, and the CPU is what is used here; leave it "
          "out, or pass --device cuda",
          options->lstm);
    return STATUS_OK;
}

static enum status check_cuda(const struct options *options, struct error *err) {
    CHECK(strcmp(options->isa, "auto") == 0, err, STATUS_DEVICE,
          "--isa %s chooses a path of the CPU, and --device %s is asked for; leave one of them out",
          options->isa, options->device);
    return STATUS_OK;
}

/* `auto` is a GPU where one can be used, unless the user pins a path of the CPU. */
static bool wants_cuda(const struct options *options) {
    if (strcmp(options->device, "auto") == 0) {
        return strcmp(options->isa, "auto") == 0 && backend_cuda_available();
    }
    return strncmp(options->device, "cuda", 4) == 0;
}

enum status loading_create_backend(const struct options *options, uint64_t hidden,
                                   struct backend **out, struct error *err) {
    const char *ordinal = strchr(options->device, ':');
    struct backend_options backend_options = {
        .threads = (uint32_t)options->threads,
        .isa = options->isa,
        .device = ordinal != NULL ? (uint32_t)strtoul(ordinal + 1, NULL, 10) : 0,
        .hidden = (uint32_t)hidden,
        .lstm = options->lstm,
        .precision = options->precision,
        .graph = strcmp(options->cuda_graph, "on") == 0,
    };
    if (!wants_cuda(options)) {
        TRY(check_cpu(options, err));
        return backend_cpu_create(&backend_options, out, err);
    }
    TRY(check_cuda(options, err));
    if (backend_cuda_create(&backend_options, out, err) != STATUS_OK) {
        return error_prefix(err, STATUS_DEVICE, "--device %s", options->device);
    }
    return STATUS_OK;
}

/* ---- what a checkpoint says ------------------------------------------------------------------ */

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

void loading_read_rules(const struct checkpoint *checkpoint, struct text_rules *rules) {
    rules->strip_html = read_scalar(checkpoint, TENSOR_STRIP_HTML, 0) != 0;
    int64_t max_length = read_scalar(checkpoint, TENSOR_MAX_LENGTH, 0);
    rules->max_length = max_length > 0 ? (uint64_t)max_length : 0;
    read_label_names(checkpoint, rules->label_names);
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
              "%s holds no vocabulary, and no " IMPORT_VOCABULARY_FILE
              " lies beside it; pass the one it was trained with as --vocabulary FILE",
              path);
        TRY(vocabulary_load(&file_posix, vocabulary_file, vocabulary, err));
    }
    loading_read_rules(checkpoint, rules);
    return STATUS_OK;
}

/* A size that fits the model's 32-bit letters. */
static enum status read_size(const struct checkpoint *checkpoint, const char *path,
                             const char *name, uint32_t axis, uint32_t *out, struct error *err) {
    const struct tensor_view *tensor = find(checkpoint, name);
    CHECK(tensor != NULL, err, STATUS_MISFIT, "%s: tensor %s is missing: not a model of this kind",
          path, name);
    uint64_t size = axis < tensor->rank ? tensor->shape[axis] : 0;
    CHECK(tensor->dtype == DTYPE_F32 && tensor->rank == 2 && size > 0 && size <= INT32_MAX, err,
          STATUS_MISFIT, "%s: tensor %s has no usable shape", path, name);
    *out = (uint32_t)size;
    return STATUS_OK;
}

enum status loading_shape(const struct checkpoint *checkpoint, const char *path,
                          struct model_shape *out, struct error *err) {
    TRY(read_size(checkpoint, path, "embedding.weight", 0, &out->vocabulary, err));
    TRY(read_size(checkpoint, path, "embedding.weight", 1, &out->embedding, err));
    TRY(read_size(checkpoint, path, "lstm.weight_hh_l0", 1, &out->hidden, err));
    TRY(read_size(checkpoint, path, "dense.weight", 0, &out->dense, err));
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

/* The options whose sizes differ: what the checkpoint has and what is asked for. */
static void name_options(const struct model_shape *have, const struct model_shape *want,
                         struct text *out) {
    const struct {
        const char *option;
        uint32_t have, want;
    } sizes[] = {
        {"--vocabulary-size", have->vocabulary, want->vocabulary},
        {"--embedding-size", have->embedding, want->embedding},
        {"--hidden-size", have->hidden, want->hidden},
        {"--dense-size", have->dense, want->dense},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].have != sizes[i].want) {
            text_printf(out, "%s%s %u in the checkpoint, %u asked for", out->size > 0 ? "; " : "",
                        sizes[i].option, sizes[i].have, sizes[i].want);
        }
    }
}

/* What the file that was imported calls the tensor, as " (dense/kernel in the file)"; or "". */
static void name_in_file(const struct checkpoint *checkpoint, const char *name, char *out,
                         size_t capacity) {
    char key[TENSOR_NAME_CAPACITY + sizeof IMPORT_NAME_KEY], shown[160];
    snprintf(key, sizeof key, IMPORT_NAME_KEY "%s", name);
    const char *other = checkpoint_metadata(checkpoint, key);
    out[0] = '\0';
    if (other != NULL && strcmp(other, name) != 0) {
        snprintf(out, capacity, " (%s in the file)",
                 text_escape(other, strlen(other), shown, sizeof shown));
    }
}

static enum status check_tensor(const struct checkpoint *checkpoint, const char *path,
                                const char *prefix, const struct tensor_view *want,
                                const char *options, const char *way_out, struct error *err) {
    char name[TENSOR_NAME_CAPACITY], have_text[96], want_text[96], other[192];
    name_in_file(checkpoint, want->name, other, sizeof other);
    snprintf(name, sizeof name, "%s%s", prefix, want->name);
    const struct tensor_view *have = find(checkpoint, name);
    CHECK(have != NULL, err, STATUS_MISFIT,
          "%s: tensor %s is missing: not a whole training state. Pass the file as --init-from with "
          "another --model-dir to begin a new run from its weights",
          path, name);
    CHECK(
        have->dtype == DTYPE_F32 && have->rank == want->rank &&
            memcmp(have->shape, want->shape, sizeof have->shape) == 0,
        err, STATUS_MISFIT,
        "%s does not fit the model asked for: tensor %s%s has shape %s there, %s here (%s). Either "
        "ask for the old value, or %s",
        path, name, other, tensor_shape_text(have, have_text, sizeof have_text),
        tensor_shape_text(want, want_text, sizeof want_text), options, way_out);
    return STATUS_OK;
}

enum status loading_check_fit(const struct checkpoint *checkpoint, const char *path,
                              const struct model_shape *want, bool moments, const char *way_out,
                              struct error *err) {
    static const char *const prefixes[] = {"", "adam.m.", "adam.v."};
    struct model_shape have;
    struct model_layout layout;
    TRY(loading_shape(checkpoint, path, &have, err));
    TRY(model_layout_make(want, &layout, err));
    struct text options = {0};
    name_options(&have, want, &options);
    enum status status = STATUS_OK;
    for (size_t p = 0; p < (moments ? 3 : 1) && status == STATUS_OK; p++) {
        for (size_t i = 0; i < MODEL_TENSORS && status == STATUS_OK; i++) {
            status = check_tensor(checkpoint, path, prefixes[p], &layout.tensors[i],
                                  options.size > 0 ? options.bytes : "", way_out, err);
        }
    }
    text_free(&options);
    return status;
}

enum status loading_check_vocabulary(const struct checkpoint *checkpoint, const char *path,
                                     const char *file, struct error *err) {
    const struct tensor_view *tensor = find(checkpoint, TENSOR_VOCABULARY);
    if (file[0] == '\0' || tensor == NULL) {
        return STATUS_OK;
    }
    struct vocabulary *asked;
    TRY(vocabulary_load(&file_posix, file, &asked, err));
    size_t size;
    const char *text = vocabulary_text(asked, &size);
    bool same = tensor->dtype == DTYPE_U8 && tensor->rank == 1 && tensor->shape[0] == size &&
                memcmp(tensor->data, text, size) == 0;
    uint32_t entries = vocabulary_size(asked);
    vocabulary_free(asked);
    CHECK(
        same, err, STATUS_MISFIT,
        "%s does not fit: tensor vocabulary (shape [%llu]) holds other words than --vocabulary %s "
        "(%u entries, shape [%zu]). Leave --vocabulary away to use the checkpoint's own, or choose "
        "another model",
        path, (unsigned long long)tensor->shape[0], file, entries, size);
    return STATUS_OK;
}

static bool is_finite(const struct tensor_view *tensor, uint64_t bytes) {
    const float *values = tensor->data;
    for (uint64_t i = 0; i < bytes / sizeof *values; i++) {
        if (!isfinite(values[i])) {
            return false;
        }
    }
    return true;
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
        CHECK(is_finite(from, have), err, STATUS_NONFINITE,
              "tensor %s holds a value that is not finite", views[i].name);
        TRY(model_upload(model, views[i].data, from->data, (size_t)want, err));
    }
    return STATUS_OK;
}

/* ---- finding one ----------------------------------------------------------------------------- */

void loading_name_damage(void *context, const char *path, const char *reason) {
    (void)context;
    fprintf(stderr, "Warning: checkpoint %s is damaged and passed over: %s\n", path, reason);
}

static enum status open_checkpoint(const struct options *options, struct loaded *out,
                                   struct error *err) {
    const char *which = options->checkpoint;
    bool latest = strcmp(which, "latest") == 0, best = strcmp(which, "best") == 0;
    if (!latest && !best) {
        snprintf(out->path, sizeof out->path, "%s", which);
        /* A vocabulary that the user names goes before one that lies beside the file. */
        return import_read(&file_posix, which, options->vocabulary[0] == '\0', &out->checkpoint,
                           err);
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
    return store_load_newest(&file_posix, options->model_dir, loading_name_damage, NULL,
                             &out->checkpoint, out->path, err);
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

static uint64_t size_asked(const struct options *options, const char *name, uint64_t asked,
                           uint64_t have) {
    return options_given(options, name) ? asked : have;
}

/* Sizes, vocabulary and text rules are the checkpoint's; an option that says otherwise is a misfit,
 * not something to pass over. (tokenize may try out other text rules.) */
static enum status check_given(const struct options *options, const struct loaded *loaded,
                               struct error *err) {
    const struct model_shape *have = &loaded->shape;
    struct model_shape want = {
        .vocabulary = have->vocabulary,
        .embedding = (uint32_t)size_asked(options, "embedding-size", options->embedding_size,
                                          have->embedding),
        .hidden = (uint32_t)size_asked(options, "hidden-size", options->hidden_size, have->hidden),
        .dense = (uint32_t)size_asked(options, "dense-size", options->dense_size, have->dense),
    };
    TRY(loading_check_fit(loaded->checkpoint, loaded->path, &want, false, "leave the option away",
                          err));
    TRY(loading_check_vocabulary(loaded->checkpoint, loaded->path, options->vocabulary, err));
    if (options->command == COMMAND_TOKENIZE) {
        return STATUS_OK;
    }
    bool length_fits =
        !options_given(options, "max-length") || options->max_length == loaded->rules.max_length;
    bool html_fits =
        !options_given(options, "strip-html") || options->strip_html == loaded->rules.strip_html;
    CHECK(length_fits && html_fits, err, STATUS_MISFIT,
          "%s was trained with --max-length %llu and --strip-html %s; other values do not fit it. "
          "Leave "
          "the option away",
          loaded->path, (unsigned long long)loaded->rules.max_length,
          loaded->rules.strip_html ? "on" : "off");
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
    TRY(check_given(options, out, err));
    int64_t step = read_scalar(out->checkpoint, "state.step", -1);
    const char *text = checkpoint_metadata(out->checkpoint, "step"); /* of a weights-only file */
    out->has_step = step >= 0 || (text != NULL && text_parse_i64(text, &step) && step >= 0);
    out->step = out->has_step ? (uint64_t)step : 0;
    return STATUS_OK;
}

/* Which commands have --allow-untrained; Estimator does not export such a model either. */
static bool takes_untrained(enum command command) {
    return command == COMMAND_EVALUATE || command == COMMAND_PREDICT;
}

/* A checkpoint that is there and cannot be read is not one that is missing; nor is one in a
 * directory that cannot be listed, which has no path. */
static bool is_absent(const char *path) {
    struct file_stat info;
    int result = path[0] == '\0' ? 0 : file_posix.stat(file_posix.context, path, &info);
    return result == -ENOENT || result == -ENOTDIR;
}

enum status loading_open(const struct options *options, struct loaded *out, struct error *err) {
    memset(out, 0, sizeof *out);
    struct error why = {0};
    enum status status = open_checkpoint(options, out, &why);
    bool missing = status == STATUS_OK ? out->checkpoint == NULL
                                       : status == STATUS_INPUT && is_absent(out->path);
    if (missing && options->allow_untrained) {
        status = open_untrained(options, out, err);
    } else if (missing && status == STATUS_INPUT) {
        status = error_set(err, status, "%s", why.message);
    } else if (missing) {
        status =
            error_set(err, STATUS_INPUT,
                      "no checkpoint (model.ckpt-*.safetensors.zst) in %s: train a model there "
                      "first, %s",
                      options->model_dir,
                      takes_untrained(options->command)
                          ? "name another --model-dir, or pass --allow-untrained"
                          : "or name another --model-dir");
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
        char shown[400];
        model_free(*out);
        *out = NULL;
        text_escape(loaded->path, strlen(loaded->path), shown, sizeof shown);
        return loaded->checkpoint != NULL ? error_prefix(err, status, "%s", shown) : status;
    }
    return STATUS_OK;
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
