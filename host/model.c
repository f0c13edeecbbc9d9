#include "host/model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/rng.h"

/* ---- layout ---- */

/* Indices of the tensors in the layout. Those of one direction follow each other. */
enum {
    T_EMBEDDING,
    T_W_IH,
    T_W_HH,
    T_BIAS,
    T_REVERSE = T_W_IH + 3,
    T_DENSE_WEIGHT = T_W_IH + 6,
    T_DENSE_BIAS,
    T_OUTPUT_WEIGHT,
    T_OUTPUT_BIAS
};
_Static_assert(T_OUTPUT_BIAS + 1 == MODEL_TENSORS, "the table below has one row per tensor");

enum { PART_ALIGNMENT_FLOATS = 16 }; /* 64 bytes */

static enum status check_shape(const struct model_shape *shape, struct error *err) {
    CHECK(shape->vocabulary > 0, err, STATUS_USAGE, "the vocabulary is empty");
    CHECK(shape->embedding > 0, err, STATUS_USAGE, "--embedding-size must be at least 1");
    CHECK(shape->hidden > 0, err, STATUS_USAGE, "--hidden-size must be at least 1");
    CHECK(shape->dense > 0, err, STATUS_USAGE, "--dense-size must be at least 1");
    return STATUS_OK;
}

enum status model_layout_make(const struct model_shape *shape, struct model_layout *out,
                              struct error *err) {
    TRY(check_shape(shape, err));
    uint64_t V = shape->vocabulary, E = shape->embedding, H = shape->hidden, D = shape->dense;
    const struct {
        const char *name;
        uint32_t rank;
        uint64_t shape[2];
    } rows[MODEL_TENSORS] = {
        {"embedding.weight", 2, {V, E}},
        {"lstm.weight_ih_l0", 2, {4 * H, E}},
        {"lstm.weight_hh_l0", 2, {4 * H, H}},
        {"lstm.bias_l0", 1, {4 * H}},
        {"lstm.weight_ih_l0_reverse", 2, {4 * H, E}},
        {"lstm.weight_hh_l0_reverse", 2, {4 * H, H}},
        {"lstm.bias_l0_reverse", 1, {4 * H}},
        {"dense.weight", 2, {D, 2 * H}},
        {"dense.bias", 1, {D}},
        {"output.weight", 2, {1, D}},
        {"output.bias", 1, {1}},
    };
    struct model_layout layout = {0};
    uint64_t total = 0;
    for (int i = 0; i < MODEL_TENSORS; i++) {
        layout.tensors[i] = tensor_make(rows[i].name, DTYPE_F32, NULL, rows[i].rank, rows[i].shape);
        layout.offset[i] = (size_t)total;
        uint64_t elements;
        bool fits = tensor_elements(&layout.tensors[i], &elements) &&
                    !__builtin_add_overflow(total, elements, &total) && total <= SIZE_MAX / 64;
        CHECK(
            fits, err, STATUS_USAGE,
            "a model with vocabulary %u, embedding %u, hidden %u and dense size %u is larger than "
            "memory can be; ask for smaller sizes",
            shape->vocabulary, shape->embedding, shape->hidden, shape->dense);
    }
    layout.parameters = (size_t)total;
    layout.part_floats = (layout.parameters + PART_ALIGNMENT_FLOATS - 1) / PART_ALIGNMENT_FLOATS *
                         PART_ALIGNMENT_FLOATS;
    *out = layout;
    return STATUS_OK;
}

struct model_weights model_weights_at(const struct model *model, float *part) {
    const size_t *offset = model->layout.offset;
    struct model_weights weights = {.embedding = part + offset[T_EMBEDDING],
                                    .dense_weight = part + offset[T_DENSE_WEIGHT],
                                    .dense_bias = part + offset[T_DENSE_BIAS],
                                    .output_weight = part + offset[T_OUTPUT_WEIGHT],
                                    .output_bias = part + offset[T_OUTPUT_BIAS]};
    for (int dir = 0; dir < 2; dir++) {
        const size_t *at = offset + dir * (T_REVERSE - T_W_IH);
        weights.w_ih[dir] = part + at[T_W_IH];
        weights.w_hh[dir] = part + at[T_W_HH];
        weights.bias[dir] = part + at[T_BIAS];
    }
    return weights;
}

void model_views(const struct model *model, const char *prefix, float *part,
                 struct tensor_view out[MODEL_TENSORS]) {
    for (int i = 0; i < MODEL_TENSORS; i++) {
        const struct tensor_view *tensor = &model->layout.tensors[i];
        assert(strlen(prefix) + strlen(tensor->name) < TENSOR_NAME_CAPACITY);
        out[i] = *tensor;
        snprintf(out[i].name, sizeof out[i].name, "%.47s%.47s", prefix, tensor->name);
        out[i].data = part + model->layout.offset[i];
    }
}

/* ---- memory ---- */

static enum status allocate(struct model *model, size_t bytes, void *out, const char *what,
                            struct error *err) {
    void *memory = NULL;
    enum status status = model->be->table->device_alloc(model->be, bytes, &memory, err);
    if (status != STATUS_OK) {
        return error_prefix(err, status, "memory for %s", what);
    }
    memcpy(out, &memory, sizeof memory);
    return STATUS_OK;
}

/* The flat state buffer and the pointers to its parts. */
static enum status allocate_state(struct model *model, struct error *err) {
    size_t part = model->layout.part_floats;
    size_t parts = 1u + (model->options.training ? 2u : 0u) + (model->options.keep_best ? 1u : 0u);
    model->state_bytes = parts * part * sizeof(float) + sizeof(struct pass_sums);
    TRY(allocate(model, model->state_bytes, &model->state, "weights and optimiser state", err));
    float *next = (float *)(void *)model->state;
    model->weights = next;
    next += part;
    if (model->options.training) {
        model->m = next;
        model->v = next + part;
        next += 2 * part;
    }
    if (model->options.keep_best) {
        model->best = next;
        next += part;
    }
    model->sums = (struct pass_sums *)(void *)next;
    return STATUS_OK;
}

_Static_assert(sizeof(struct step_inputs) <= MODEL_FIRST_AT, "the sizes come before the offsets");

static size_t align_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* The region that a batch travels to, and the slots that it travels from. */
static enum status allocate_slots(struct model *model, struct error *err) {
    const struct backend_table *table = model->be->table;
    size_t B = model->options.limits.sequences;
    model->length_at = MODEL_FIRST_AT + align_up(B * sizeof(uint64_t));
    model->label_at = model->length_at + align_up(B * sizeof(uint32_t));
    model->upload_bytes = model->label_at + align_up(B);
    TRY(allocate(model, model->upload_bytes, &model->batch_device, "a batch", err));
    for (size_t i = 0; i < MODEL_STEPS_AHEAD; i++) {
        struct model_slot *slot = &model->slots[i];
        void *memory;
        TRY(table->host_alloc(model->be, model->upload_bytes + sizeof *slot->sums, &memory, err));
        slot->upload = memory;
        slot->sums = (struct pass_sums *)(void *)(slot->upload + model->upload_bytes);
        TRY(table->event_create(model->be, &slot->done, err));
    }
    return STATUS_OK;
}

static enum status allocate_batch(struct model *model, struct error *err) {
    const struct batch_limits *limits = &model->options.limits;
    size_t B = limits->sequences, H = model->shape.hidden;
    size_t workspace;
    TRY(model->be->table->workspace_bytes(model->be, &model->shape, limits, &workspace, err));
    TRY(allocate(model, B * 2 * H * sizeof(float), &model->final_state, "final states", err));
    TRY(allocate(model, B * sizeof(float), &model->logits, "logits", err));
    TRY(allocate(model, B * sizeof(double), &model->losses, "losses", err));
    TRY(allocate(model, workspace, &model->workspace, "the workspace of the largest batch", err));
    if (model->options.training) {
        size_t part_bytes = model->layout.part_floats * sizeof(float);
        TRY(allocate(model, part_bytes, &model->gradients, "gradients", err));
        TRY(allocate(model, B * 2 * H * sizeof(float), &model->d_final_state, "gradients", err));
        TRY(allocate(model, sizeof(float), &model->scale, "the gradient's scale", err));
        TRY(allocate(model, sizeof(double), &model->norm, "the gradient's norm", err));
    }
    return model->be->unified_memory ? STATUS_OK : allocate_slots(model, err);
}

enum status model_create(struct backend *be, const struct model_shape *shape,
                         const struct model_options *options, struct model **out,
                         struct error *err) {
    assert(options->limits.sequences > 0);
    struct model *model = calloc(1, sizeof *model);
    CHECK(model != NULL, err, STATUS_MEMORY, "out of memory for the model");
    model->be = be;
    model->shape = *shape;
    model->options = *options;
    model->options.limits.training = options->training;
    enum status status = model_layout_make(shape, &model->layout, err);
    if (status == STATUS_OK) {
        status = allocate_state(model, err);
    }
    if (status == STATUS_OK) {
        status = allocate_batch(model, err);
    }
    if (status != STATUS_OK) {
        model_free(model);
        return status;
    }
    *out = model;
    return STATUS_OK;
}

void model_free(struct model *model) {
    if (model == NULL) {
        return;
    }
    const struct backend_table *table = model->be->table;
    /* Steps may still be under way; what they report no longer matters. */
    (void)table->stream_synchronize(model->be, BACKEND_STREAM_COMPUTE, NULL);
    table->recording_free(model->be, model->recording);
    for (size_t i = 0; i < MODEL_STEPS_AHEAD; i++) {
        table->host_free(model->be, model->slots[i].upload);
        if (model->slots[i].done != NULL) {
            table->event_free(model->be, model->slots[i].done);
        }
    }
    void *const memory[] = {
        model->state,  model->gradients, model->final_state, model->logits,    model->d_final_state,
        model->losses, model->scale,     model->norm,        model->workspace, model->batch_device};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        table->device_free(model->be, memory[i]);
    }
    free(model);
}

enum status model_upload(struct model *model, void *device, const void *host, size_t bytes,
                         struct error *err) {
    const struct backend_table *table = model->be->table;
    TRY(table->copy(model->be, device, host, bytes, BACKEND_STREAM_COMPUTE, err));
    return table->stream_synchronize(model->be, BACKEND_STREAM_COMPUTE, err);
}

enum status model_download(struct model *model, void *host, const void *device, size_t bytes,
                           struct error *err) {
    const struct backend_table *table = model->be->table;
    TRY(table->copy(model->be, host, device, bytes, BACKEND_STREAM_COMPUTE, err));
    return table->stream_synchronize(model->be, BACKEND_STREAM_COMPUTE, err);
}

/* ---- initialisation ---- */

static void draw_uniform(struct rng *rng, float *values, size_t count, double limit) {
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)((2.0 * rng_uniform(rng) - 1.0) * limit);
    }
}

static double dot(const double *a, const double *b, size_t count) {
    double lanes[8] = {0};
    for (size_t i = 0; i < count; i++) {
        lanes[i % 8] += a[i] * b[i];
    }
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
           ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

/* Make vectors[last] orthogonal to the ones before it and of length 1. Twice, because once leaves
 * what rounding made of the cancellation. */
static void orthonormalise(double *vectors, size_t last, size_t size) {
    double *v = vectors + last * size;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < last; i++) {
            const double *u = vectors + i * size;
            double along = dot(u, v, size);
            for (size_t k = 0; k < size; k++) {
                v[k] -= along * u[k];
            }
        }
        double length = sqrt(dot(v, v, size));
        for (size_t k = 0; k < size; k++) {
            v[k] /= length;
        }
    }
}

/* Keras draws a normal [4H, H] matrix, takes Q of its QR decomposition with the signs that make R's
 * diagonal positive, and transposes it: Gram-Schmidt gives that Q, column by column. */
static enum status draw_orthogonal(struct rng *rng, float *values, size_t H, struct error *err) {
    size_t size = 4 * H;
    double *vectors = malloc(H * size * sizeof *vectors);
    CHECK(vectors != NULL, err, STATUS_MEMORY,
          "out of memory for an orthogonal matrix of %zu x %zu", size, H);
    for (size_t column = 0; column < H; column++) {
        for (size_t k = 0; k < size; k++) {
            vectors[column * size + k] = rng_normal(rng);
        }
        orthonormalise(vectors, column, size);
        for (size_t k = 0; k < size; k++) {
            values[k * H + column] = (float)vectors[column * size + k];
        }
    }
    free(vectors);
    return STATUS_OK;
}

/* One tensor's initial values. Matrices are [outputs, inputs]. */
static enum status draw_tensor(const struct model *model, int index, uint64_t seed, float *values,
                               struct error *err) {
    const struct tensor_view *tensor = &model->layout.tensors[index];
    struct rng rng = rng_make(seed, RNG_STREAM_INIT, (uint32_t)index);
    size_t count = (size_t)tensor->shape[0] * (tensor->rank == 2 ? (size_t)tensor->shape[1] : 1);
    size_t H = model->shape.hidden;
    memset(values, 0, count * sizeof *values);
    switch (index) {
    case T_EMBEDDING:
        draw_uniform(&rng, values, count, 0.05);
        break;
    case T_W_HH:
    case T_W_HH + T_REVERSE - T_W_IH:
        return draw_orthogonal(&rng, values, H, err);
    case T_BIAS:
    case T_BIAS + T_REVERSE - T_W_IH:
        for (size_t j = H; j < 2 * H; j++) {
            values[j] = 1.0f; /* forget gate */
        }
        break;
    case T_DENSE_BIAS:
    case T_OUTPUT_BIAS:
        break;
    default:
        draw_uniform(&rng, values, count,
                     sqrt(6.0 / (double)(tensor->shape[0] + tensor->shape[1])));
    }
    return STATUS_OK;
}

enum status model_initialise(struct model *model, uint64_t seed, struct error *err) {
    const struct backend_table *table = model->be->table;
    size_t bytes = model->layout.part_floats * sizeof(float);
    float *values = calloc(1, bytes);
    CHECK(values != NULL, err, STATUS_MEMORY, "out of memory for the initial weights");
    enum status status = STATUS_OK;
    for (int i = 0; i < MODEL_TENSORS && status == STATUS_OK; i++) {
        status = draw_tensor(model, i, seed, values + model->layout.offset[i], err);
    }
    if (status == STATUS_OK) {
        status = table->fill_zero(model->be, model->state, model->state_bytes,
                                  BACKEND_STREAM_COMPUTE, err);
    }
    if (status == STATUS_OK) {
        status = model_upload(model, model->weights, values, bytes, err);
    }
    free(values);
    return status;
}
