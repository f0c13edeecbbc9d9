#include "host/import_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"

/* ---- names ----------------------------------------------------------------------------------- */

/* A tensor of floats and its name without Keras 2's ":0". */
struct entry {
    const struct tensor_view *tensor;
    char name[TENSOR_NAME_CAPACITY];
    bool taken;
};

struct matching {
    const char *path;
    struct entry *entries;
    size_t count;
    bool keras;
};

/* How the layers of a framework call their weights; in Keras [in, out], in PyTorch [out, in]. */
static const char *weight_word(const struct matching *matching) {
    return matching->keras ? "kernel" : "weight";
}

static bool is_float(const struct tensor_view *tensor) {
    return tensor->dtype == DTYPE_F32 || tensor->dtype == DTYPE_F64 || tensor->dtype == DTYPE_F16 ||
           tensor->dtype == DTYPE_BF16;
}

/* Is `word` the last part of the name? Then *prefix is what stands before it ("lstm." of
 * "lstm.weight_ih_l0"). */
static bool ends_with_word(const char *name, const char *word, size_t *prefix) {
    size_t size = strlen(name), tail = strlen(word);
    if (size < tail || strcmp(name + size - tail, word) != 0) {
        return false;
    }
    *prefix = size - tail;
    return *prefix == 0 || name[*prefix - 1] == '.' || name[*prefix - 1] == '/';
}

static void copy_name(const char *from, char to[TENSOR_NAME_CAPACITY]) {
    snprintf(to, TENSOR_NAME_CAPACITY, "%s", from);
    char *colon = strrchr(to, ':');
    if (colon != NULL && colon[1] != '\0' && colon[1 + strspn(colon + 1, "0123456789")] == '\0') {
        *colon = '\0';
    }
}

static bool holds_word(const struct checkpoint *file, const char *word) {
    char name[TENSOR_NAME_CAPACITY];
    size_t prefix;
    for (size_t i = 0; i < file->tensor_count; i++) {
        copy_name(file->tensors[i].name, name);
        if (ends_with_word(name, word, &prefix)) {
            return true;
        }
    }
    return false;
}

bool import_names_are_foreign(const struct checkpoint *file) {
    bool ours = tensor_find(file->tensors, file->tensor_count, "lstm.bias_l0") != NULL;
    return !ours && (holds_word(file, "weight_ih_l0") || holds_word(file, "recurrent_kernel"));
}

/* prefix + word, not taken yet; NULL when there is none. */
static struct entry *find(const struct matching *matching, const char *prefix, size_t prefix_size,
                          const char *word) {
    for (size_t i = 0; i < matching->count; i++) {
        struct entry *entry = &matching->entries[i];
        if (!entry->taken && strncmp(entry->name, prefix, prefix_size) == 0 &&
            strcmp(entry->name + prefix_size, word) == 0) {
            return entry;
        }
    }
    return NULL;
}

static enum status take(const struct matching *matching, const char *prefix, size_t prefix_size,
                        const char *word, const struct tensor_view **out, struct error *err) {
    struct entry *entry = find(matching, prefix, prefix_size, word);
    if (entry == NULL) {
        char name[TENSOR_NAME_CAPACITY + 64];
        snprintf(name, sizeof name, "%.*s%s", (int)prefix_size, prefix, word);
        return error_set(err, STATUS_MISFIT,
                         "%s: tensor %s is missing: expected the weights of an embedding, one "
                         "bidirectional LSTM with biases and two linear layers",
                         matching->path, text_show(name).text);
    }
    entry->taken = true;
    *out = entry->tensor;
    return STATUS_OK;
}

/* ---- the recurrence -------------------------------------------------------------------------- */

/* Indices of the layout: one direction's three tensors follow each other (model.h). */
enum { AT_EMBEDDING, AT_FORWARD, AT_BACKWARD = 4, AT_DENSE = 7, AT_OUTPUT = 9 };

static enum status take_torch_direction(const struct matching *matching, const char *prefix,
                                        size_t prefix_size, const char *suffix,
                                        struct import_source *out, struct error *err) {
    static const char *const words[] = {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0"};
    char word[64];
    for (size_t i = 0; i < 3; i++) {
        snprintf(word, sizeof word, "%s%s", words[i], suffix);
        TRY(take(matching, prefix, prefix_size, word, &out[i].tensor, err));
    }
    snprintf(word, sizeof word, "bias_hh_l0%s", suffix);
    return take(matching, prefix, prefix_size, word, &out[2].added, err);
}

static enum status take_torch_lstm(const struct matching *matching, struct import_plan *plan,
                                   struct error *err) {
    size_t prefix_size = 0;
    const char *prefix = "";
    for (size_t i = 0; i < matching->count && prefix_size == 0; i++) {
        if (ends_with_word(matching->entries[i].name, "weight_ih_l0", &prefix_size)) {
            prefix = matching->entries[i].name;
        }
    }
    TRY(take_torch_direction(matching, prefix, prefix_size, "", plan->sources + AT_FORWARD, err));
    return take_torch_direction(matching, prefix, prefix_size, "_reverse",
                                plan->sources + AT_BACKWARD, err);
}

/* Is the last part of the path that begins with forward_ or backward_ this one? */
static bool runs(const char *name, const char *direction) {
    bool is_it = false;
    for (const char *part = name; part != NULL;) {
        if (strncmp(part, "forward_", 8) == 0 || strncmp(part, "backward_", 9) == 0) {
            is_it = strncmp(part, direction, strlen(direction)) == 0;
        }
        part = strpbrk(part, "/.");
        part += part != NULL;
    }
    return is_it;
}

static enum status take_keras_direction(const struct matching *matching, const char *direction,
                                        struct import_source *out, struct error *err) {
    for (size_t i = 0; i < matching->count; i++) {
        const char *prefix = matching->entries[i].name;
        size_t prefix_size;
        if (!runs(prefix, direction) || !ends_with_word(prefix, "recurrent_kernel", &prefix_size)) {
            continue;
        }
        TRY(take(matching, prefix, prefix_size, "kernel", &out[0].tensor, err));
        TRY(take(matching, prefix, prefix_size, "recurrent_kernel", &out[1].tensor, err));
        out[0].transposed = out[1].transposed = true;
        return take(matching, prefix, prefix_size, "bias", &out[2].tensor, err);
    }
    return error_set(err, STATUS_MISFIT,
                     "%s: tensor .../%s.../recurrent_kernel is missing: expected the weights of a "
                     "keras.layers.Bidirectional around an LSTM",
                     matching->path, direction);
}

static enum status take_keras_lstm(const struct matching *matching, struct import_plan *plan,
                                   struct error *err) {
    TRY(take_keras_direction(matching, "forward_", plan->sources + AT_FORWARD, err));
    return take_keras_direction(matching, "backward_", plan->sources + AT_BACKWARD, err);
}

/* ---- embedding and linear layers ------------------------------------------------------------- */

/* A weight of rank 2 that is not taken, with what stands before its last part. */
static bool is_weight(const struct entry *entry, const char *word, size_t *prefix_size) {
    return !entry->taken && entry->tensor->rank == 2 &&
           ends_with_word(entry->name, word, prefix_size);
}

static enum status take_embedding(const struct matching *matching, struct import_plan *plan,
                                  struct error *err) {
    const char *word = matching->keras ? "embeddings" : "weight";
    for (size_t i = 0; i < matching->count; i++) {
        struct entry *entry = &matching->entries[i];
        size_t prefix_size;
        if (is_weight(entry, word, &prefix_size) &&
            find(matching, entry->name, prefix_size, "bias") == NULL) {
            entry->taken = true;
            plan->sources[AT_EMBEDDING].tensor = entry->tensor;
            return STATUS_OK;
        }
    }
    return error_set(err, STATUS_MISFIT,
                     "%s: the embedding's weight is missing: expected a tensor of two dimensions "
                     "called ...%s%s",
                     matching->path, word, matching->keras ? "" : " that has no bias beside it");
}

/* A linear layer: `outputs` of [out, in] or [in, out]. */
struct linear {
    struct entry *weight, *bias;
    uint64_t inputs, outputs;
};

enum { LINEAR_MAX = 8 };

static size_t list_linear(const struct matching *matching, struct linear out[LINEAR_MAX]) {
    size_t count = 0;
    for (size_t i = 0; i < matching->count && count < LINEAR_MAX; i++) {
        struct entry *entry = &matching->entries[i];
        size_t prefix_size;
        if (!is_weight(entry, weight_word(matching), &prefix_size)) {
            continue;
        }
        struct entry *bias = find(matching, entry->name, prefix_size, "bias");
        if (bias != NULL) {
            const uint64_t *shape = entry->tensor->shape;
            out[count++] = (struct linear){entry, bias, shape[matching->keras ? 0 : 1],
                                           shape[matching->keras ? 1 : 0]};
        }
    }
    return count;
}

static void take_linear(const struct matching *matching, const struct linear *linear,
                        struct import_source *out) {
    linear->weight->taken = linear->bias->taken = true;
    out[0] = (struct import_source){linear->weight->tensor, NULL, matching->keras};
    out[1] = (struct import_source){linear->bias->tensor, NULL, false};
}

static enum status no_linear(const struct matching *matching, const struct linear *linear,
                             size_t count, uint64_t inputs, struct error *err) {
    struct text found = {0};
    char shape[96];
    for (size_t i = 0; i < count; i++) {
        text_printf(&found, "%s%s %s", i > 0 ? ", " : "", text_show(linear[i].weight->name).text,
                    tensor_shape_text(linear[i].weight->tensor, shape, sizeof shape));
    }
    enum status status = error_set(
        err, STATUS_MISFIT,
        "%s: the linear layers do not fit: expected one from %llu (both directions of the LSTM) to "
        "any number D and one from D to 1 (a single logit), each with weight and bias; found %s",
        matching->path, (unsigned long long)inputs,
        count > 0 && !found.failed ? found.bytes : "none");
    text_free(&found);
    return status;
}

/* Which of them is the dense layer and which the output follows from their sizes. */
static enum status take_head(const struct matching *matching, uint64_t inputs,
                             struct import_plan *plan, struct error *err) {
    struct linear linear[LINEAR_MAX];
    size_t count = list_linear(matching, linear);
    for (size_t dense = 0; dense < count; dense++) {
        for (size_t output = 0; output < count; output++) {
            bool fits = dense != output && linear[dense].inputs == inputs &&
                        linear[dense].outputs > 0 && linear[dense].outputs <= INT32_MAX &&
                        linear[output].inputs == linear[dense].outputs &&
                        linear[output].outputs == 1;
            if (fits) {
                take_linear(matching, &linear[dense], plan->sources + AT_DENSE);
                take_linear(matching, &linear[output], plan->sources + AT_OUTPUT);
                plan->shape.dense = (uint32_t)linear[dense].outputs;
                return STATUS_OK;
            }
        }
    }
    return no_linear(matching, linear, count, inputs, err);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static enum status read_size(const struct matching *matching, const struct tensor_view *tensor,
                             uint32_t axis, uint32_t *out, struct error *err) {
    char shape[96];
    CHECK(tensor->rank == 2 && tensor->shape[axis] > 0 && tensor->shape[axis] <= INT32_MAX, err,
          STATUS_MISFIT, "%s: tensor %s has no usable shape: %s", matching->path,
          text_show(tensor->name).text, tensor_shape_text(tensor, shape, sizeof shape));
    *out = (uint32_t)tensor->shape[axis];
    return STATUS_OK;
}

static bool shape_fits(const struct tensor_view *have, const struct tensor_view *want,
                       bool transposed) {
    if (have->rank != want->rank) {
        return false;
    }
    for (uint32_t i = 0; i < want->rank; i++) {
        if (have->shape[i] != want->shape[transposed ? want->rank - 1 - i : i]) {
            return false;
        }
    }
    return true;
}

static enum status check_shape(const struct matching *matching, const struct tensor_view *have,
                               const struct tensor_view *want, bool transposed, struct error *err) {
    char have_text[96], want_text[96];
    struct tensor_view needed = *want;
    for (uint32_t i = 0; transposed && i < want->rank; i++) {
        needed.shape[i] = want->shape[want->rank - 1 - i];
    }
    CHECK(shape_fits(have, want, transposed), err, STATUS_MISFIT,
          "%s: tensor %s has shape %s, and %s is needed for %s beside the other tensors",
          matching->path, text_show(have->name).text,
          tensor_shape_text(have, have_text, sizeof have_text),
          tensor_shape_text(&needed, want_text, sizeof want_text), want->name);
    return STATUS_OK;
}

static enum status check_shapes(const struct matching *matching, struct import_plan *plan,
                                struct error *err) {
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        const struct import_source *source = &plan->sources[i];
        const struct tensor_view *want = &plan->layout.tensors[i];
        TRY(check_shape(matching, source->tensor, want, source->transposed, err));
        if (source->added != NULL) {
            TRY(check_shape(matching, source->added, want, false, err));
        }
    }
    return STATUS_OK;
}

static enum status check_all_taken(const struct matching *matching, struct error *err) {
    for (size_t i = 0; i < matching->count; i++) {
        char shape[96];
        const struct tensor_view *tensor = matching->entries[i].tensor;
        CHECK(matching->entries[i].taken, err, STATUS_MISFIT,
              "%s: tensor %s %s has no place: expected an embedding, one bidirectional LSTM with "
              "one layer, a linear layer with ReLU and one with a single logit",
              matching->path, text_show(tensor->name).text,
              tensor_shape_text(tensor, shape, sizeof shape));
    }
    return STATUS_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static enum status match(const struct matching *matching, struct import_plan *plan,
                         struct error *err) {
    TRY(matching->keras ? take_keras_lstm(matching, plan, err)
                        : take_torch_lstm(matching, plan, err));
    TRY(take_embedding(matching, plan, err));
    const struct tensor_view *embedding = plan->sources[AT_EMBEDDING].tensor;
    const struct tensor_view *recurrent = plan->sources[AT_FORWARD + 1].tensor;
    TRY(read_size(matching, embedding, 0, &plan->shape.vocabulary, err));
    TRY(read_size(matching, embedding, 1, &plan->shape.embedding, err));
    TRY(read_size(matching, recurrent, matching->keras ? 0 : 1, &plan->shape.hidden, err));
    TRY(take_head(matching, 2 * (uint64_t)plan->shape.hidden, plan, err));
    TRY(model_layout_make(&plan->shape, &plan->layout, err));
    TRY(check_shapes(matching, plan, err));
    return check_all_taken(matching, err);
}

enum status import_names_match(const struct checkpoint *file, const char *path,
                               struct import_plan *out, struct error *err) {
    memset(out, 0, sizeof *out);
    struct matching matching = {.path = path, .keras = !holds_word(file, "weight_ih_l0")};
    matching.entries = calloc(file->tensor_count + 1, sizeof *matching.entries);
    CHECK(matching.entries != NULL, err, STATUS_MEMORY, "no memory for the names of the tensors");
    for (size_t i = 0; i < file->tensor_count; i++) {
        if (is_float(&file->tensors[i])) {
            struct entry *entry = &matching.entries[matching.count++];
            entry->tensor = &file->tensors[i];
            copy_name(file->tensors[i].name, entry->name);
        }
    }
    enum status status = match(&matching, out, err);
    free(matching.entries);
    return status;
}
