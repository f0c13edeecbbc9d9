#include "bench/bench_rig.h"

#include <math.h>
#include <stdlib.h>

#include "host/base/rng.h"

enum { UNKNOWN_WORD = 1, FIRST_WORD = 2 };
static const double unknown_part = 0.244; /* of IMDB's tokens, with a vocabulary of 1000 */

/* ---- the batch ---- */

/* Ids by Zipf's law: the rank is e^u with u uniform. */
static uint32_t draw_word(struct rng *rng, uint32_t vocabulary) {
    double unknown = rng_uniform(rng), u = rng_uniform(rng);
    if (unknown < unknown_part || vocabulary <= FIRST_WORD) {
        return vocabulary > UNKNOWN_WORD ? UNKNOWN_WORD : 0;
    }
    double rank = exp(u * log((double)(vocabulary - FIRST_WORD)));
    uint32_t word = FIRST_WORD + (uint32_t)rank - 1;
    return word < vocabulary ? word : vocabulary - 1;
}

/* *words: how many different ones there are. */
static void *draw_tokens(uint64_t count, uint32_t vocabulary, uint32_t token_bytes,
                         uint32_t *words) {
    void *tokens = malloc(count * token_bytes + 1);
    unsigned char *seen = calloc(vocabulary, 1);
    if (tokens == NULL || seen == NULL) {
        free(tokens);
        free(seen);
        return NULL;
    }
    struct rng rng = rng_make(1, RNG_STREAM_DEMO, vocabulary);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t word = draw_word(&rng, vocabulary);
        *words += seen[word] == 0;
        seen[word] = 1;
        if (token_bytes == 2) {
            ((uint16_t *)tokens)[i] = (uint16_t)word;
        } else {
            ((uint32_t *)tokens)[i] = word;
        }
    }
    free(seen);
    return tokens;
}

/* rig->batch, but for the tokens. */
static enum status make_batch(struct bench_rig *rig, const uint32_t *lengths, uint32_t sequences,
                              struct error *err) {
    uint64_t *first = malloc(sequences * sizeof *first);
    uint32_t *length = malloc(sequences * sizeof *length);
    uint8_t *label = malloc(sequences);
    rig->batch = (struct batch_view){.sequences = sequences,
                                     .first = first,
                                     .length = length,
                                     .label = label,
                                     .length_host = length,
                                     .token_bytes = rig->model->shape.vocabulary <= 65536 ? 2 : 4};
    CHECK(first != NULL && length != NULL && label != NULL, err, STATUS_MEMORY,
          "out of memory for a batch of %u", sequences);
    for (uint32_t i = 0; i < sequences; i++) {
        first[i] = rig->batch.total_tokens;
        length[i] = lengths[i];
        label[i] = (uint8_t)(i % 2);
        rig->batch.total_tokens += lengths[i];
    }
    return STATUS_OK;
}

/* `bytes` of host memory as new device memory. */
static enum status place(struct bench_rig *rig, const void *host, size_t bytes, const void **out,
                         struct error *err) {
    void *device;
    TRY(rig->be->table->device_alloc(rig->be, bytes, &device, err));
    *out = device;
    return model_upload(rig->model, device, host, bytes, err);
}

/* Everything of the batch in device memory, for calls of single operations. */
static enum status place_batch(struct bench_rig *rig, struct error *err) {
    const struct batch_view *batch = &rig->batch;
    size_t B = batch->sequences;
    struct step_inputs inputs = {.total_tokens = batch->total_tokens,
                                 .sequences = batch->sequences};
    rig->placed = (struct batch_view){.token_bytes = batch->token_bytes,
                                      .sequences = batch->sequences,
                                      .total_tokens = batch->total_tokens,
                                      .length_host = batch->length};
    struct batch_view *placed = &rig->placed;
    TRY(place(rig, batch->first, B * sizeof *batch->first, (const void **)&placed->first, err));
    TRY(place(rig, batch->length, B * sizeof *batch->length, (const void **)&placed->length, err));
    TRY(place(rig, batch->label, B, (const void **)&placed->label, err));
    return place(rig, &inputs, sizeof inputs, (const void **)&placed->inputs, err);
}

static enum status place_tokens(struct bench_rig *rig, struct error *err) {
    struct batch_view *batch = &rig->batch;
    void *tokens = draw_tokens(batch->total_tokens, rig->model->shape.vocabulary,
                               batch->token_bytes, &rig->words);
    CHECK(tokens != NULL, err, STATUS_MEMORY, "out of memory for %llu tokens",
          (unsigned long long)batch->total_tokens);
    size_t bytes = (size_t)batch->total_tokens * batch->token_bytes;
    enum status status = place(rig, tokens, bytes, &rig->placed.tokens, err);
    free(tokens);
    batch->tokens = rig->placed.tokens;
    return status;
}

/* ---- operations ---- */

static struct lstm_args lstm_args_of(struct bench_rig *rig, bool training) {
    struct model *model = rig->model;
    return (struct lstm_args){.shape = model->shape,
                              .limits = model->options.limits,
                              .batch = rig->placed,
                              .weights = model_weights_at(model, model->weights),
                              .gradients = model_weights_at(model, model->gradients),
                              .final_state = model->final_state,
                              .d_final_state = model->d_final_state,
                              .workspace = model->workspace,
                              .training = training};
}

enum status bench_rig_forward(void *context, struct error *err) {
    struct bench_rig *rig = context;
    struct lstm_args args = lstm_args_of(rig, true);
    return rig->be->table->lstm_forward(rig->be, &args, err);
}

enum status bench_rig_inference(void *context, struct error *err) {
    struct bench_rig *rig = context;
    struct lstm_args args = lstm_args_of(rig, false);
    return rig->be->table->lstm_forward(rig->be, &args, err);
}

enum status bench_rig_forward_backward(void *context, struct error *err) {
    struct bench_rig *rig = context;
    struct lstm_args args = lstm_args_of(rig, true);
    TRY(rig->be->table->lstm_forward(rig->be, &args, err));
    return rig->be->table->lstm_backward(rig->be, &args, err);
}

enum status bench_rig_embedding_grad(void *context, struct error *err) {
    struct bench_rig *rig = context;
    struct lstm_args args = lstm_args_of(rig, true);
    return rig->be->table->embedding_grad(rig->be, &args, err);
}

static enum status enqueue_head(void *context, struct error *err) {
    struct bench_rig *rig = context;
    struct model *model = rig->model;
    struct head_args args = {.shape = model->shape,
                             .limits = model->options.limits,
                             .batch = rig->placed,
                             .weights = model_weights_at(model, model->weights),
                             .gradients = model_weights_at(model, model->gradients),
                             .final_state = model->final_state,
                             .d_final_state = model->d_final_state,
                             .logits = model->logits,
                             .losses = model->losses,
                             .sums = model->sums,
                             .workspace = model->workspace,
                             .training = true};
    for (unsigned i = 0; i < rig->repeated; i++) {
        TRY(rig->be->table->head_forward_backward(rig->be, &args, err));
    }
    return STATUS_OK;
}

static enum status enqueue_update(void *context, struct error *err) {
    struct bench_rig *rig = context;
    struct model *model = rig->model;
    const struct backend_table *table = rig->be->table;
    struct norm_args norm = {.gradients = model->gradients,
                             .count = model->layout.parameters,
                             .clip_norm = 1.0,
                             .scale = model->scale,
                             .norm = model->norm};
    struct adam_args adam = {.parameters = model->weights,
                             .m = model->m,
                             .v = model->v,
                             .gradients = model->gradients,
                             .count = model->layout.parameters,
                             .scale = model->scale,
                             .inputs = rig->placed.inputs,
                             .beta1 = 0.9,
                             .beta2 = 0.999,
                             .epsilon = 1e-7};
    for (unsigned i = 0; i < rig->repeated; i++) {
        TRY(table->global_norm(rig->be, &norm, err));
        TRY(table->adam_step(rig->be, &adam, err));
    }
    return STATUS_OK;
}

enum status bench_rig_head(void *context, struct error *err) {
    struct bench_rig *rig = context;
    return rig->be->table->replay(rig->be, &rig->head, enqueue_head, rig, err);
}

enum status bench_rig_update(void *context, struct error *err) {
    struct bench_rig *rig = context;
    return rig->be->table->replay(rig->be, &rig->update, enqueue_update, rig, err);
}

enum status bench_rig_step(void *context, struct error *err) {
    struct bench_rig *rig = context;
    return model_train_step(rig->model, &rig->batch, ++rig->step, err);
}

enum status bench_rig_finish(void *context, struct error *err) {
    struct bench_rig *rig = context;
    return rig->be->table->stream_synchronize(rig->be, BACKEND_STREAM_COMPUTE, err);
}

/* What each operation reads has been written by the ones before it. */
static enum status run_chain(struct bench_rig *rig, struct error *err) {
    TRY(bench_rig_forward(rig, err));
    TRY(enqueue_head(rig, err));
    TRY(bench_rig_forward_backward(rig, err));
    TRY(bench_rig_embedding_grad(rig, err));
    return bench_rig_finish(rig, err);
}

/* ---- create and free ---- */

static enum status build(struct bench_rig *rig, const struct model_shape *shape,
                         const uint32_t *lengths, uint32_t sequences, struct error *err) {
    struct model_options options = {
        .limits = {.sequences = sequences, .longest = lengths[0], .training = true},
        .training = true,
        .learning_rate = 1e-4};
    for (uint32_t i = 0; i < sequences; i++) {
        options.limits.total_tokens += lengths[i];
    }
    TRY(model_create(rig->be, shape, &options, &rig->model, err));
    TRY(model_initialise(rig->model, 1, err));
    TRY(make_batch(rig, lengths, sequences, err));
    TRY(place_batch(rig, err));
    TRY(place_tokens(rig, err));
    return run_chain(rig, err);
}

enum status bench_rig_create(struct backend *be, const struct model_shape *shape,
                             const uint32_t *lengths, uint32_t sequences, unsigned repeated,
                             struct bench_rig **out, struct error *err) {
    *out = NULL;
    struct bench_rig *rig = calloc(1, sizeof *rig);
    CHECK(rig != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    rig->be = be;
    rig->repeated = repeated;
    enum status status = build(rig, shape, lengths, sequences, err);
    if (status != STATUS_OK) {
        bench_rig_free(rig);
        return status;
    }
    *out = rig;
    return STATUS_OK;
}

void bench_rig_free(struct bench_rig *rig) {
    if (rig == NULL) {
        return;
    }
    const struct backend_table *table = rig->be->table;
    (void)table->stream_synchronize(rig->be, BACKEND_STREAM_COMPUTE,
                                    NULL); /* what still runs uses what is freed below */
    table->recording_free(rig->be, rig->head);
    table->recording_free(rig->be, rig->update);
    const void *const memory[] = {rig->placed.tokens, rig->placed.first, rig->placed.length,
                                  rig->placed.label, rig->placed.inputs};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        table->device_free(rig->be, (void *)memory[i]);
    }
    model_free(rig->model);
    free((void *)rig->batch.first);
    free((void *)rig->batch.length);
    free((void *)rig->batch.label);
    free(rig);
}
