/* model_steps.c - what model.h does with batches: steps, forward passes, running sums. */
#include "host/model.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Adam's constants, as Keras has them. */
static const double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-7;

/* ---- slots: batches on their way to the device, sums on their way back ---- */

/* Take what came back with the slot, whose event has been reached. Slots are taken in the order of
 * their steps. */
static void settle_slot(struct model *model, struct model_slot *slot) {
    if (slot->step > 0) {
        model->latest_sums = *slot->sums;
        model->latest_step = slot->step;
    }
    slot->under_way = false;
}

/* Settle slots from the oldest on: those that have arrived, with `wait` all. */
static enum status settle_slots(struct model *model, bool wait, struct error *err) {
    const struct backend_table *table = model->be->table;
    for (size_t i = 0; i < MODEL_STEPS_AHEAD; i++) {
        struct model_slot *slot = &model->slots[(model->next_slot + i) % MODEL_STEPS_AHEAD];
        if (!slot->under_way) {
            continue;
        }
        bool done = true;
        if (wait) {
            TRY(table->event_wait(model->be, slot->done, err));
        } else {
            TRY(table->event_query(model->be, slot->done, &done, err));
        }
        if (!done) {
            return STATUS_OK;
        }
        settle_slot(model, slot);
    }
    return STATUS_OK;
}

/* The oldest slot, free to be filled: MODEL_STEPS_AHEAD batches ago it was used last. */
static enum status take_slot(struct model *model, struct model_slot **out, struct error *err) {
    struct model_slot *slot = &model->slots[model->next_slot];
    if (slot->under_way) {
        TRY(model->be->table->event_wait(model->be, slot->done, err));
        settle_slot(model, slot);
    }
    model->next_slot = (model->next_slot + 1) % MODEL_STEPS_AHEAD;
    *out = slot;
    return STATUS_OK;
}

/* The slot may be filled again when all that was enqueued so far has run. */
static enum status give_slot(struct model *model, struct model_slot *slot, uint64_t step,
                             struct error *err) {
    TRY(model->be->table->event_record(model->be, slot->done, BACKEND_STREAM_COMPUTE, err));
    slot->under_way = true;
    slot->step = step;
    return STATUS_OK;
}

static void fill_upload(const struct model *model, uint8_t *upload,
                        const struct batch_view *batch) {
    size_t B = batch->sequences;
    memcpy(upload, &model->inputs, sizeof model->inputs);
    memcpy(upload + MODEL_FIRST_AT, batch->first, B * sizeof *batch->first);
    memcpy(upload + model->length_at, batch->length, B * sizeof *batch->length);
    if (batch->label != NULL) {
        memcpy(upload + model->label_at, batch->label, B);
    }
}

/* The batch as the backend wants it: sizes, offsets, lengths and labels where the device reads
 * them. `out_slot` is NULL where that is the host's own memory. */
static enum status place_batch(struct model *model, const struct batch_view *batch, float rate,
                               struct batch_view *out, struct model_slot **out_slot,
                               struct error *err) {
    assert(batch->sequences > 0 && batch->sequences <= model->options.limits.sequences);
    assert(batch->total_tokens <= model->options.limits.total_tokens);
    *out = *batch;
    *out_slot = NULL;
    model->inputs = (struct step_inputs){
        .total_tokens = batch->total_tokens, .sequences = batch->sequences, .rate = rate};
    out->inputs = &model->inputs;
    out->length_host = batch->length;
    if (model->be->unified_memory) {
        return STATUS_OK;
    }
    struct model_slot *slot;
    TRY(take_slot(model, &slot, err));
    fill_upload(model, slot->upload, batch);
    TRY(model->be->table->copy(model->be, model->batch_device, slot->upload, model->upload_bytes,
                               BACKEND_STREAM_COMPUTE, err));
    const uint8_t *region = model->batch_device;
    out->inputs = (const struct step_inputs *)(const void *)region;
    out->first = (const uint64_t *)(const void *)(region + MODEL_FIRST_AT);
    out->length = (const uint32_t *)(const void *)(region + model->length_at);
    out->label = batch->label != NULL ? region + model->label_at : NULL;
    *out_slot = slot;
    return STATUS_OK;
}

/* ---- steps ---- */

void model_before_change(struct model *model, void (*settle)(void *context), void *context) {
    model->before_change = settle;
    model->before_change_context = context;
}

static void announce_change(const struct model *model) {
    if (model->before_change != NULL && model->be->unified_memory) {
        model->before_change(model->before_change_context);
    }
}

static struct lstm_args lstm_args_of(struct model *model, const struct batch_view *batch,
                                     bool training) {
    struct lstm_args args = {.shape = model->shape,
                             .limits = model->options.limits,
                             .batch = *batch,
                             .weights = model_weights_at(model, model->weights),
                             .final_state = model->final_state,
                             .d_final_state = model->d_final_state,
                             .workspace = model->workspace,
                             .training = training};
    if (training) {
        args.gradients = model_weights_at(model, model->gradients);
    }
    return args;
}

static struct head_args head_args_of(struct model *model, const struct lstm_args *lstm,
                                     struct pass_sums *sums) {
    return (struct head_args){.shape = model->shape,
                              .limits = model->options.limits,
                              .batch = lstm->batch,
                              .weights = lstm->weights,
                              .gradients = lstm->gradients,
                              .final_state = model->final_state,
                              .d_final_state = model->d_final_state,
                              .logits = model->logits,
                              .losses = lstm->batch.label != NULL ? model->losses : NULL,
                              .sums = sums,
                              .workspace = model->workspace,
                              .training = lstm->training};
}

static enum status enqueue_gradients(struct model *model, const struct batch_view *placed,
                                     struct pass_sums *sums, struct error *err) {
    const struct backend_table *table = model->be->table;
    struct lstm_args lstm = lstm_args_of(model, placed, true);
    struct head_args head = head_args_of(model, &lstm, sums);
    TRY(table->lstm_forward(model->be, &lstm, err));
    TRY(table->head_forward_backward(model->be, &head, err));
    TRY(table->lstm_backward(model->be, &lstm, err));
    return table->embedding_grad(model->be, &lstm, err);
}

static enum status enqueue_update(struct model *model, const struct batch_view *placed,
                                  struct error *err) {
    const struct backend_table *table = model->be->table;
    bool clip = model->options.clip_norm > 0.0;
    if (clip) {
        struct norm_args norm = {.gradients = model->gradients,
                                 .count = model->layout.parameters,
                                 .clip_norm = model->options.clip_norm,
                                 .scale = model->scale,
                                 .norm = model->norm};
        TRY(table->global_norm(model->be, &norm, err));
    }
    struct adam_args adam = {.parameters = model->weights,
                             .m = model->m,
                             .v = model->v,
                             .gradients = model->gradients,
                             .count = model->layout.parameters,
                             .scale = clip ? model->scale : NULL,
                             .inputs = placed->inputs,
                             .beta1 = adam_beta1,
                             .beta2 = adam_beta2,
                             .epsilon = adam_epsilon};
    announce_change(model);
    return table->adam_step(model->be, &adam, err);
}

/* What `replay` calls. */
struct step_call {
    struct model *model;
    struct batch_view placed;
};

static enum status enqueue_step(void *context, struct error *err) {
    struct step_call *call = context;
    TRY(enqueue_gradients(call->model, &call->placed, call->model->sums, err));
    return enqueue_update(call->model, &call->placed, err);
}

static float adam_rate(const struct model *model, uint64_t step) {
    double t = (double)step;
    double correction = sqrt(1.0 - pow(adam_beta2, t)) / (1.0 - pow(adam_beta1, t));
    return (float)(model->options.learning_rate * correction);
}

enum status model_train_step(struct model *model, const struct batch_view *batch, uint64_t step,
                             struct error *err) {
    assert(model->options.training && batch->label != NULL && step > 0);
    const struct backend_table *table = model->be->table;
    struct step_call call = {.model = model};
    struct model_slot *slot;
    TRY(place_batch(model, batch, adam_rate(model, step), &call.placed, &slot, err));
    TRY(table->replay(model->be, &model->recording, enqueue_step, &call, err));
    if (slot == NULL) {
        model->latest_step = step;
        return STATUS_OK;
    }
    TRY(table->copy(model->be, slot->sums, model->sums, sizeof *slot->sums, BACKEND_STREAM_COMPUTE,
                    err));
    return give_slot(model, slot, step, err);
}

enum status model_gradients(struct model *model, const struct batch_view *batch,
                            struct error *err) {
    assert(model->options.training && batch->label != NULL);
    struct batch_view placed;
    struct model_slot *slot;
    TRY(place_batch(model, batch, 0.0f, &placed, &slot, err));
    TRY(enqueue_gradients(model, &placed, NULL, err));
    return slot != NULL ? give_slot(model, slot, 0, err) : STATUS_OK;
}

enum status model_forward(struct model *model, const struct batch_view *batch, float *logits_host,
                          double *losses_host, struct error *err) {
    struct batch_view placed;
    struct model_slot *slot;
    TRY(place_batch(model, batch, 0.0f, &placed, &slot, err));
    const struct backend_table *table = model->be->table;
    struct lstm_args lstm = lstm_args_of(model, &placed, false);
    struct head_args head = head_args_of(model, &lstm, NULL);
    TRY(table->lstm_forward(model->be, &lstm, err));
    TRY(table->head_forward_backward(model->be, &head, err));
    if (slot != NULL) {
        TRY(give_slot(model, slot, 0, err));
    }
    size_t B = batch->sequences;
    if (losses_host != NULL && batch->label != NULL) {
        TRY(table->copy(model->be, losses_host, model->losses, B * sizeof *losses_host,
                        BACKEND_STREAM_COMPUTE, err));
    }
    return model_download(model, logits_host, model->logits, B * sizeof *logits_host, err);
}

/* ---- sums and best weights ---- */

enum status model_poll_sums(struct model *model, bool wait, struct pass_sums *out, uint64_t *step,
                            struct error *err) {
    if (model->be->unified_memory) {
        TRY(model_read_sums(model, &model->latest_sums, err));
    } else {
        TRY(settle_slots(model, wait, err));
    }
    *out = model->latest_sums;
    *step = model->latest_step;
    return STATUS_OK;
}

enum status model_read_sums(struct model *model, struct pass_sums *out, struct error *err) {
    return model_download(model, out, model->sums, sizeof *out, err);
}

enum status model_write_sums(struct model *model, const struct pass_sums *sums, struct error *err) {
    if (!model->be->unified_memory) {
        TRY(settle_slots(model, true, err)); /* or older sums would come back later */
    }
    model->latest_sums = *sums;
    return model_upload(model, model->sums, sums, sizeof *sums, err);
}

enum status model_capture_best(struct model *model, struct error *err) {
    assert(model->best != NULL);
    announce_change(model);
    return model->be->table->copy(model->be, model->best, model->weights,
                                  model->layout.part_floats * sizeof(float), BACKEND_STREAM_COMPUTE,
                                  err);
}

enum status model_swap_best(struct model *model, struct error *err) {
    assert(model->best != NULL && model->gradients != NULL);
    const struct backend_table *table = model->be->table;
    size_t bytes = model->layout.part_floats * sizeof(float);
    announce_change(model);
    /* The gradients are free between steps; three copies in stream order make the swap. */
    TRY(table->copy(model->be, model->gradients, model->weights, bytes, BACKEND_STREAM_COMPUTE,
                    err));
    TRY(table->copy(model->be, model->weights, model->best, bytes, BACKEND_STREAM_COMPUTE, err));
    return table->copy(model->be, model->best, model->gradients, bytes, BACKEND_STREAM_COMPUTE,
                       err);
}
