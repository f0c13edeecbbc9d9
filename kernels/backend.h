/* backend.h - the one table between the trainer and a device.
 *
 * A backend is memory, copies, streams, events and the operations of ops.h. The CPU fills the table
 * with ordinary memory and streams that run at once (kernels/cpu/); a GPU backend fills the same
 * table. Host code calls through the table only and never asks which device it is.
 *
 * Order: work on one stream runs in the order of the calls. Work on different streams is ordered by
 * events only. The ops and `copy` on BACKEND_STREAM_COMPUTE make up the training step; a snapshot
 * (io/snapshot.h) uses BACKEND_STREAM_COPY behind an event, so that training never waits for it.
 *
 * Usage:
 *     struct backend *be;
 *     TRY(backend_cpu_create(&(struct backend_options){.threads = 2, .isa = "auto"}, &be, err));
 *     float *x;
 *     TRY(be->table->device_alloc(be, bytes, (void **)&x, err));
 *     TRY(be->table->lstm_forward(be, &args, err));
 *     be->table->device_free(be, x);
 *     be->table->free(be);
 *
 * THREADS: created, used and freed by the trainer's thread. Exceptions, callable from any thread
 * while the backend lives: `event_wait` and `event_query` (the checkpoint writer waits for the end
 * of a copy), `range_begin` and `range_end`.
 * ERRORS: a call that fails returns a status and leaves a message with the operation's
 * name; a device error of earlier asynchronous work surfaces at a later call, the same way.
 */
#ifndef CAIRN_KERNELS_BACKEND_H
#define CAIRN_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct backend;
struct backend_event;
struct backend_recording; /* a recorded step, see `replay` */

enum backend_stream { BACKEND_STREAM_COMPUTE, BACKEND_STREAM_COPY, BACKEND_STREAM_COUNT };

struct backend_table {
    /* ---- memory (blocking) ---- */
    /* `bytes` of device memory, zero-filled, aligned to 64. Freed by device_free; NULL is fine. */
    enum status (*device_alloc)(struct backend *be, size_t bytes, void **out, struct error *err);
    void (*device_free)(struct backend *be, void *memory);
    /* Host memory that `copy` can reach asynchronously (pinned), zero-filled and touched, so that a
     * later copy into it takes no page fault. Freed by host_free. */
    enum status (*host_alloc)(struct backend *be, size_t bytes, void **out, struct error *err);
    void (*host_free)(struct backend *be, void *memory);

    /* ---- copies (asynchronous, in stream order; direction is found by the backend) ---- */
    enum status (*copy)(struct backend *be, void *dst, const void *src, size_t bytes,
                        enum backend_stream stream, struct error *err);
    enum status (*fill_zero)(struct backend *be, void *dst, size_t bytes,
                             enum backend_stream stream, struct error *err);

    /* ---- streams and events ---- */
    /* Block until everything enqueued on the stream has run. */
    enum status (*stream_synchronize)(struct backend *be, enum backend_stream stream,
                                      struct error *err);
    /* Later work on `stream` starts after `event`'s latest record. Does not block the caller. */
    enum status (*stream_wait_event)(struct backend *be, enum backend_stream stream,
                                     struct backend_event *event, struct error *err);
    enum status (*event_create)(struct backend *be, struct backend_event **out, struct error *err);
    void (*event_free)(struct backend *be, struct backend_event *event);
    enum status (*event_record)(struct backend *be, struct backend_event *event,
                                enum backend_stream stream, struct error *err);
    /* Block until the latest record of `event` has been reached. Any thread. */
    enum status (*event_wait)(struct backend *be, struct backend_event *event, struct error *err);
    /* Has it been reached? Never blocks. Any thread. */
    enum status (*event_query)(struct backend *be, struct backend_event *event, bool *done,
                               struct error *err);

    /* ---- operations (ops.h), on BACKEND_STREAM_COMPUTE ---- */
    /* Bytes that `workspace` needs for batches up to `limits`. STATUS_MEMORY where no memory can be
     * that large, STATUS_DEVICE where the backend cannot do such a model or such batches. */
    enum status (*workspace_bytes)(struct backend *be, const struct model_shape *shape,
                                   const struct batch_limits *limits, size_t *out,
                                   struct error *err);
    /* final_state from tokens. With args->training the workspace then holds what backward needs. */
    enum status (*lstm_forward)(struct backend *be, const struct lstm_args *args,
                                struct error *err);
    /* logits; with labels losses and sums; with training also gradients of the head. */
    enum status (*head_forward_backward)(struct backend *be, const struct head_args *args,
                                         struct error *err);
    /* Gate gradients (kept in the workspace), gradients of w_hh and bias. */
    enum status (*lstm_backward)(struct backend *be, const struct lstm_args *args,
                                 struct error *err);
    /* Gradients of embedding and w_ih, from the gate gradients in the workspace. */
    enum status (*embedding_grad)(struct backend *be, const struct lstm_args *args,
                                  struct error *err);
    enum status (*global_norm)(struct backend *be, const struct norm_args *args, struct error *err);
    enum status (*adam_step)(struct backend *be, const struct adam_args *args, struct error *err);

    /* ---- recorded steps ---- */
    /* Do what `enqueue(context)` does: it calls ops and copies on BACKEND_STREAM_COMPUTE and nothing
     * else. A backend may record one of the first calls into *recording (NULL before) and later only
     * launch the recording, without calling `enqueue`; then every argument of those ops must stay
     * the same but for what lies in device memory and the sizes of the batch, which struct
     * step_inputs has.
     * A backend without recordings calls `enqueue` each time and leaves *recording NULL. */
    enum status (*replay)(struct backend *be, struct backend_recording **recording,
                          enum status (*enqueue)(void *context, struct error *err), void *context,
                          struct error *err);
    void (*recording_free)(struct backend *be,
                           struct backend_recording *recording); /* NULL: fine */

    /* Name a stretch of host time for a profiler (NVTX on a GPU); ranges nest. `name` is a literal.
     * Any thread. */
    void (*range_begin)(struct backend *be, const char *name);
    void (*range_end)(struct backend *be);

    void (*free)(struct backend *be);
};

/* What every backend starts with. */
struct backend {
    const struct backend_table *table;
    const char *device; /* "cpu", "cuda:0" */
    const char *
        kernel_path; /* what decides the bits, e.g. "cpu-reference-avx2"; recorded in checkpoints */
    char description[160]; /* for the run header: device, kernels, threads */
    bool unified_memory;   /* device memory is host memory: a snapshot needs no staging copy and
                              host code may read device pointers after stream_synchronize */
};

struct backend_options {
    /* CPU */
    uint32_t threads; /* 0: the cores in the affinity mask and the cgroup's quota */
    const char *isa;  /* "auto" or one of backend_cpu_isa_names() */
    /* CPU: "fp32", also for NULL, or "bf16"; CUDA: "fp32", "tf32" or "bf16" */
    const char *precision;
    /* CUDA */
    uint32_t device; /* which one, from 0 */
    uint32_t hidden; /* H of the model that will run: decides between the fused kernels and cuDNN */
    const char *lstm; /* "auto", "fused" or "cudnn" */
    bool graph;       /* record the step (`replay`) */
};

/* Names the CPU paths of this build that this processor can run, best first, NULL-terminated. */
const char *const *backend_cpu_isa_names(void);

/* Cores that this process may use: affinity mask and cgroup quota, at least 1. */
uint32_t backend_cpu_default_threads(void);

/* The CPU backend. STATUS_DEVICE when the processor lacks the asked-for isa, naming those it has, or
 * when there are no bf16 kernels for it or for that isa. */
MUST_USE enum status backend_cpu_create(const struct backend_options *options, struct backend **out,
                                        struct error *err);

/* The CUDA backend: kernels/cuda/ in a build with CAIRN_CUDA=on, the same sources on the simulated
 * device with CAIRN_CUDA=sim; elsewhere a function that fails. STATUS_DEVICE with the driver's own
 * words when there is no usable device, or when what was asked for (cudnn, a precision, fused
 * kernels for a hidden size above 128) is not there. */
MUST_USE enum status backend_cuda_create(const struct backend_options *options,
                                         struct backend **out, struct error *err);

/* May `--device auto` choose CUDA: a real device is there and usable. Never in a simulated build. */
bool backend_cuda_available(void);

/* One line for --version: toolkit, architectures, cuDNN, or that there is none, or simulated. */
const char *backend_cuda_build(void);

#ifdef __cplusplus
}
#endif
#endif
