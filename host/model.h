/* model.h - the parameters of the classifier and the steps of training, on any backend.
 *
 * One flat state buffer in device memory holds, in this order, weights, Adam's m, Adam's v, the
 * best weights (only if asked for) and the running sums of the epoch:
 *     [ weights P | m P | v P | (best P) | struct pass_sums ]
 * P floats each, padded so that each part starts at a multiple of 64 bytes. One copy of it is a
 * consistent snapshot. Gradients are a second flat buffer of P floats. One table of named tensors
 * (model_layout) drives initialisation, optimiser and checkpoint.
 *
 * Usage:
 *     TRY(model_create(be, &shape, &model_options, &model, err));
 *     TRY(model_initialise(model, seed, err));
 *     TRY(model_train_step(model, &batch_view, step, err));       forward, backward, Adam
 *     TRY(model_poll_sums(model, false, &sums, &step, err));      what has come back by now
 *     TRY(model_forward(model, &batch_view, logits, losses, err));
 *     model_free(model);
 *
 * A device with its own memory works behind the host: what a step needs travels in one copy from
 * one of MODEL_STEPS_AHEAD pinned slots, and the sums of that step come back into the same slot.
 * The host is never further ahead than there are slots, and waits for the device only when they are
 * all under way or when somebody asks for exact sums.
 *
 * Files: model.c (layout, memory, initial weights), model_steps.c (the steps).
 *
 * THREADS: the trainer's thread. The backend must outlive the model.
 */
#ifndef CAIRN_HOST_MODEL_H
#define CAIRN_HOST_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/tensor.h"
#include "kernels/backend.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MODEL_TENSORS = 11 };

/* Names, shapes and float offsets of the parameters, in the order of the flat buffer. */
struct model_layout {
    struct tensor_view tensors[MODEL_TENSORS]; /* data is NULL */
    size_t offset[MODEL_TENSORS];              /* in floats from the start of a part */
    size_t parameters;                         /* P without padding: 138,369 with the defaults */
    size_t part_floats;                        /* floats of one part, padded */
};

/* Contract names: embedding.weight, lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_l0, the same
 * with _reverse, dense.weight, dense.bias, output.weight, output.bias. Pure. STATUS_USAGE when a
 * size is 0 or the sum overflows. */
MUST_USE enum status model_layout_make(const struct model_shape *shape, struct model_layout *out,
                                       struct error *err);

struct model_options {
    struct batch_limits limits; /* largest batch of training or evaluation, whichever is larger */
    bool training;              /* false: weights only, no moments and no gradients */
    bool keep_best;             /* room for best weights */
    double learning_rate, clip_norm; /* clip_norm 0 = off */
};

enum { MODEL_STEPS_AHEAD = 4, MODEL_FIRST_AT = 64 };

/* One batch on its way to a device with its own memory. */
struct model_slot {
    uint8_t *upload;            /* pinned: step_inputs, first, length, label */
    struct pass_sums *sums;     /* pinned, behind it: what comes back */
    struct backend_event *done; /* the batch has been used and the sums are there */
    bool under_way;
    uint64_t step; /* of a training step; 0: no sums come back */
};

struct model {
    struct backend *be;
    struct model_shape shape;
    struct model_layout layout;
    struct model_options options;
    uint8_t *state; /* the flat state buffer (device) */
    size_t state_bytes;
    float *weights, *m, *v,
        *best;              /* parts of state; m, v NULL without training, best without keep_best */
    struct pass_sums *sums; /* part of state */
    float *gradients;       /* [part_floats] device; NULL without training */
    float *final_state, *d_final_state, *logits; /* device, per batch */
    double *losses;
    float *scale;
    double *norm;
    void *workspace;
    struct step_inputs inputs; /* of the latest batch, where the device reads host memory */
    /* Only on a device with its own memory; one region as in struct model_slot. */
    uint8_t *batch_device;
    size_t length_at, label_at, upload_bytes; /* offsets in it; `first` is at MODEL_FIRST_AT */
    struct model_slot slots[MODEL_STEPS_AHEAD];
    size_t next_slot;
    struct pass_sums latest_sums; /* the newest that came back, of step latest_step */
    uint64_t latest_step;
    struct backend_recording *recording;  /* of the training step */
    void (*before_change)(void *context); /* model_before_change */
    void *before_change_context;
};

/* Allocates everything; the step allocates nothing. The caller frees with model_free.
 * STATUS_MEMORY, STATUS_DEVICE. */
MUST_USE enum status model_create(struct backend *be, const struct model_shape *shape,
                                  const struct model_options *options, struct model **out,
                                  struct error *err);
void model_free(struct model *model);

/* Keras' initialisers, drawn from the counter-based generator: embedding uniform +-0.05, glorot
 * uniform kernels, orthogonal recurrent kernels (per direction: a [H, 4H] orthogonal matrix as
 * Keras makes one, stored transposed), zero biases with 1 for the forget gate. Moments and sums
 * zero. A pure function of seed and shape. */
MUST_USE enum status model_initialise(struct model *model, uint64_t seed, struct error *err);

/* Have `settle(context)` called before weights, m, v or best weights change, on the calling thread:
 * in the middle of a step, between the gradients and the update, and before best weights are
 * captured or swapped; so that somebody can read them until then (io/snapshot.h, steady tensors).
 * Not by model_initialise and model_upload. Only where memory is unified: a device with its own is
 * read in stream order. NULL: nothing. */
void model_before_change(struct model *model, void (*settle)(void *context), void *context);

/* The weights of a part (weights, m, v, best, gradients) as a struct of pointers. */
struct model_weights model_weights_at(const struct model *model, float *part);

/* One view per parameter of a part, named prefix + name ("adam.m." + "dense.bias"), into `out`
 * [MODEL_TENSORS]; data points into device memory. */
void model_views(const struct model *model, const char *prefix, float *part,
                 struct tensor_view out[MODEL_TENSORS]);

/* Copy one tensor between host and device (blocking). */
MUST_USE enum status model_upload(struct model *model, void *device, const void *host, size_t bytes,
                                  struct error *err);
MUST_USE enum status model_download(struct model *model, void *host, const void *device,
                                    size_t bytes, struct error *err);

/* Forward, backward, clip, Adam with t = `step` (from 1), sums added to. Labels are needed.
 * Enqueues only; on the CPU everything has run on return. `batch` holds host arrays with `tokens`
 * already resident (device), the same tokens in every step; offsets, lengths and labels are copied
 * before the call returns. Blocks while MODEL_STEPS_AHEAD steps are under way. */
MUST_USE enum status model_train_step(struct model *model, const struct batch_view *batch,
                                      uint64_t step, struct error *err);
/* The parts of it, for tests: gradients of one batch into model->gradients, no update, no clip. */
MUST_USE enum status model_gradients(struct model *model, const struct batch_view *batch,
                                     struct error *err);

/* Forward only with the current weights: logits_host [B] and, with labels, losses_host [B] (may be
 * NULL). Blocking. */
MUST_USE enum status model_forward(struct model *model, const struct batch_view *batch,
                                   float *logits_host, double *losses_host, struct error *err);

/* Running sums of the newest training step whose sums have come back, and which one that was (0:
 * none yet). With `wait` those of the latest step (blocking); otherwise never blocks. On the CPU
 * they are always the latest. */
MUST_USE enum status model_poll_sums(struct model *model, bool wait, struct pass_sums *out,
                                     uint64_t *step, struct error *err);

/* Running sums as they are in the state: read, set (both blocking). */
MUST_USE enum status model_read_sums(struct model *model, struct pass_sums *out, struct error *err);
MUST_USE enum status model_write_sums(struct model *model, const struct pass_sums *sums,
                                      struct error *err);

/* weights -> best; weights <-> best, between steps (device copies in stream order). */
MUST_USE enum status model_capture_best(struct model *model, struct error *err);
MUST_USE enum status model_swap_best(struct model *model, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
