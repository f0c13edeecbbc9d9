/* cuda_backend.cu - the backend table on a CUDA device: memory, copies, streams, events, and the
 * parts of each op in their order.
 *
 * Errors. A launch or a copy that cannot be enqueued fails in its own call. What fails later, on
 * the device, spoils every call after it; each call therefore asks first (cuda_check) and reports
 * the op that the device had begun last, which the ops' first kernels write into the progress word:
 * host memory, readable even when the device answers nothing any more.
 *
 * Order. Sorting the rows by word needs only the batch's tokens, so it runs on a stream of its own
 * beside the recurrence: forked in lstm_forward, joined by embedding_grad. A forward pass whose
 * backward never comes is joined by whatever comes next: another forward pass, the begin or the end
 * of a recording, or a wait for the stream.
 *
 * THREADS: as backend.h says. The current device belongs to the thread, so every entry sets it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <nvtx3/nvToolsExt.h>

#include "kernels/cuda/cuda_internal.cuh"

/* ---- errors ---- */

enum status cuda_failed(cudaError_t error, const char *operation, struct error *err) {
    enum status status = error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_DEVICE;
    return error_set(err, status, "%s: %s (%s)", operation, cudaGetErrorString(error),
                     cudaGetErrorName(error));
}

static const char *op_name(uint32_t op) {
    static const char *const names[CUDA_OP_COUNT] = {"before the first operation",
                                                     "lstm_forward",
                                                     "head_forward_backward",
                                                     "lstm_backward",
                                                     "embedding_grad",
                                                     "global_norm",
                                                     "adam_step"};
    return op < CUDA_OP_COUNT ? names[op] : "unknown operation";
}

enum status cuda_surfaced(struct cuda_backend *be, cudaError_t error, const char *call,
                          struct error *err) {
    uint32_t op = *(volatile uint32_t *)be->progress;
    return error_set(err, STATUS_DEVICE, "CUDA %s: %s (%s), noticed by %s", op_name(op),
                     cudaGetErrorString(error), cudaGetErrorName(error), call);
}

/* Later calls of this thread go to the backend's device, which exists: what fails here has failed
 * before. */
static enum status use_device(struct cuda_backend *be, const char *call, struct error *err) {
    cudaError_t error = cudaSetDevice(be->device);
    return error == cudaSuccess ? STATUS_OK : cuda_surfaced(be, error, call, err);
}

/* A failure of the device rather than of one call: it comes back from asking the stream. */
static cudaError_t device_error(struct cuda_backend *be) {
    if (be->capturing) {
        return cudaSuccess; /* asking would spoil the recording */
    }
    cudaError_t error = cudaStreamQuery(be->stream[BACKEND_STREAM_COMPUTE]);
    if (error == cudaErrorNotReady) {
        cudaGetLastError(); /* still busy is no error, and cuBLAS must not find it as one */
        return cudaSuccess;
    }
    return error;
}

enum status cuda_check(struct cuda_backend *be, const char *call, struct error *err) {
    TRY(use_device(be, call, err));
    cudaError_t error = device_error(be);
    return error == cudaSuccess ? STATUS_OK : cuda_surfaced(be, error, call, err);
}

enum status cuda_ended(struct cuda_backend *be, enum status status, const char *call,
                       struct error *err) {
    cudaError_t error = status == STATUS_DEVICE ? device_error(be) : cudaSuccess;
    return error == cudaSuccess ? status : cuda_surfaced(be, error, call, err);
}

/* The same for an entry that is one call of the runtime. */
#define ENTRY_TRY(be, call, name, err)                                                             \
    do {                                                                                           \
        cudaError_t entry_error = (call);                                                          \
        if (entry_error != cudaSuccess) {                                                          \
            return cuda_ended(be, cuda_failed(entry_error, name, err), name, err);                 \
        }                                                                                          \
    } while (0)

/* ---- memory ---- */

static enum status device_alloc(struct backend *base, size_t bytes, void **out, struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    TRY(cuda_check(be, "device_alloc", err));
    void *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not the device's failure: it goes on */
        size_t available = 0, total = 0;
        cudaMemGetInfo(&available, &total);
        return error_set(err, STATUS_MEMORY,
                         "%s: out of memory: %zu bytes asked for, %zu of %zu free", be->device_name,
                         bytes, available, total);
    }
    ENTRY_TRY(be, error, "device_alloc", err);
    error = cudaMemsetAsync(memory, 0, bytes > 0 ? bytes : 1, stream);
    if (error == cudaSuccess) {
        error = cudaStreamSynchronize(stream);
    }
    if (error != cudaSuccess) {
        cudaFree(memory);
    }
    ENTRY_TRY(be, error, "device_alloc", err);
    *out = memory;
    return STATUS_OK;
}

/* Waits for the device, so that nothing under way uses the memory any more. */
static void device_free(struct backend *base, void *memory) {
    if (memory != NULL) {
        cudaSetDevice(cuda_of(base)->device);
        cudaFree(memory);
    }
}

static enum status host_alloc(struct backend *base, size_t bytes, void **out, struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "host_alloc", err));
    void *memory = NULL;
    ENTRY_TRY(be, cudaHostAlloc(&memory, bytes > 0 ? bytes : 1, cudaHostAllocPortable),
              "host_alloc", err);
    memset(memory, 0, bytes > 0 ? bytes : 1);
    *out = memory;
    return STATUS_OK;
}

static void host_free(struct backend *base, void *memory) {
    if (memory != NULL) {
        cudaSetDevice(cuda_of(base)->device);
        cudaFreeHost(memory);
    }
}

/* ---- copies ---- */

static enum status copy(struct backend *base, void *dst, const void *src, size_t bytes,
                        enum backend_stream stream, struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "copy", err));
    if (bytes > 0) {
        ENTRY_TRY(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, be->stream[stream]),
                  "copy", err);
    }
    return STATUS_OK;
}

static enum status fill_zero(struct backend *base, void *dst, size_t bytes,
                             enum backend_stream stream, struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "fill_zero", err));
    if (bytes > 0) {
        ENTRY_TRY(be, cudaMemsetAsync(dst, 0, bytes, be->stream[stream]), "fill_zero", err);
    }
    return STATUS_OK;
}

/* ---- streams and events ---- */

struct backend_event {
    cudaEvent_t event;
};

enum status cuda_join(struct cuda_backend *be, struct error *err) {
    if (be->sort_open) {
        CUDA_TRY(cudaStreamWaitEvent(be->stream[BACKEND_STREAM_COMPUTE], be->sorted, 0),
                 "joining the sorting by word", err);
        be->sort_open = false;
    }
    return STATUS_OK;
}

static enum status stream_synchronize(struct backend *base, enum backend_stream stream,
                                      struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "stream_synchronize", err));
    if (stream == BACKEND_STREAM_COMPUTE) {
        TRY(cuda_join(be, err));
    }
    ENTRY_TRY(be, cudaStreamSynchronize(be->stream[stream]), "stream_synchronize", err);
    return STATUS_OK;
}

static enum status stream_wait_event(struct backend *base, enum backend_stream stream,
                                     struct backend_event *event, struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "stream_wait_event", err));
    ENTRY_TRY(be, cudaStreamWaitEvent(be->stream[stream], event->event, 0), "stream_wait_event",
              err);
    return STATUS_OK;
}

/* Without timing, which would cost the device something; a thread that waits sleeps, since it is
 * the writer's and should not take a core from the trainer. */
static enum status event_create(struct backend *base, struct backend_event **out,
                                struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "event_create", err));
    struct backend_event *event = (struct backend_event *)calloc(1, sizeof *event);
    CHECK(event != NULL, err, STATUS_MEMORY, "out of memory for an event");
    cudaError_t error =
        cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming | cudaEventBlockingSync);
    if (error != cudaSuccess) {
        free(event);
    }
    ENTRY_TRY(be, error, "event_create", err);
    *out = event;
    return STATUS_OK;
}

static void event_free(struct backend *base, struct backend_event *event) {
    if (event != NULL) {
        cudaSetDevice(cuda_of(base)->device);
        cudaEventDestroy(event->event);
        free(event);
    }
}

static enum status event_record(struct backend *base, struct backend_event *event,
                                enum backend_stream stream, struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "event_record", err));
    ENTRY_TRY(be, cudaEventRecord(event->event, be->stream[stream]), "event_record", err);
    return STATUS_OK;
}

/* These two run on any thread, so they touch nothing of the backend but constants and the progress
 * word: the trainer may be recording meanwhile. */
static enum status event_wait(struct backend *base, struct backend_event *event,
                              struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(use_device(be, "event_wait", err));
    cudaError_t error = cudaEventSynchronize(event->event);
    return error == cudaSuccess ? STATUS_OK : cuda_surfaced(be, error, "event_wait", err);
}

static enum status event_query(struct backend *base, struct backend_event *event, bool *done,
                               struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(use_device(be, "event_query", err));
    cudaError_t error = cudaEventQuery(event->event);
    if (error == cudaErrorNotReady) {
        cudaGetLastError();
    } else if (error != cudaSuccess) {
        return cuda_surfaced(be, error, "event_query", err);
    }
    *done = error == cudaSuccess;
    return STATUS_OK;
}

/* ---- profiler ranges ---- */

static void range_begin(struct backend *base, const char *name) {
    (void)base;
    nvtxRangePushA(name);
}

static void range_end(struct backend *base) {
    (void)base;
    nvtxRangePop();
}

/* ---- operations ---- */

/* What every op has around its parts: the question for earlier failures and a profiler range. */
template <class Parts>
static enum status run_op(struct backend *base, const char *name, struct error *err, Parts parts) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, name, err));
    nvtxRangePushA(name);
    enum status status = parts(be);
    nvtxRangePop();
    return cuda_ended(be, status, name, err);
}

/* With a large vocabulary the fused kernels leave cuBLAS nothing to do, so that a precision would
 * change nothing. */
static enum status check_precision(const struct cuda_backend *be, const struct model_shape *shape,
                                   struct error *err) {
    CHECK(be->blas_compute == CUBLAS_COMPUTE_32F || be->lstm == CUDA_LSTM_CUDNN ||
              shape->vocabulary <= CUDA_TABLE_WORDS,
          err, STATUS_DEVICE,
          "--precision %s has no effect here: with the fused kernels and more than %d words (this "
          "vocabulary has %u) every product is fp32; pass --precision fp32",
          be->blas_compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? "tf32" : "bf16", CUDA_TABLE_WORDS,
          shape->vocabulary);
    return STATUS_OK;
}

static enum status workspace_bytes(struct backend *base, const struct model_shape *shape,
                                   const struct batch_limits *limits, size_t *out,
                                   struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "workspace_bytes", err));
    TRY(check_precision(be, shape, err));
    *out = cuda_workspace_bytes(be, shape, limits);
    CHECK(*out != SIZE_MAX, err, STATUS_MEMORY,
          "%s: batches of %u sequences and %" PRIu64 " tokens with hidden size %u are larger than "
          "its kernels can address",
          be->device_name, limits->sequences, limits->total_tokens, shape->hidden);
    return be->lstm == CUDA_LSTM_CUDNN ? cuda_cudnn_workspace_bytes(be, shape, limits, out, err)
                                       : STATUS_OK;
}

static enum status fork_sort(struct cuda_backend *be, const struct cuda_workspace *ws,
                             const struct lstm_args *args, struct error *err) {
    CUDA_TRY(cudaEventRecord(be->forked, be->stream[BACKEND_STREAM_COMPUTE]), "lstm_forward", err);
    CUDA_TRY(cudaStreamWaitEvent(be->words_stream, be->forked, 0), "lstm_forward", err);
    enum status status = cuda_words_sort(be, ws, args, be->words_stream, err);
    /* Also behind a sort that failed half way: what was enqueued must be joined. */
    CUDA_TRY(cudaEventRecord(be->sorted, be->words_stream), "lstm_forward", err);
    be->sort_open = true;
    return status;
}

static enum status lstm_forward(struct backend *base, const struct lstm_args *args,
                                struct error *err) {
    return run_op(base, "lstm_forward", err, [=](struct cuda_backend *be) {
        struct cuda_workspace ws =
            cuda_workspace_make(args->workspace, be, &args->shape, &args->limits);
        TRY(cuda_join(be, err));
        TRY(cuda_words_rows(be, &ws, args, err));
        if (args->training) {
            TRY(fork_sort(be, &ws, args, err));
        }
        if (be->lstm == CUDA_LSTM_CUDNN) {
            return cuda_cudnn_forward(be, &ws, args, err);
        }
        TRY(cuda_embedding_project(be, &ws, args, err));
        return cuda_lstm_forward(be, &ws, args, err);
    });
}

static enum status head_forward_backward(struct backend *base, const struct head_args *args,
                                         struct error *err) {
    return run_op(base, "head_forward_backward", err, [=](struct cuda_backend *be) {
        struct cuda_workspace ws =
            cuda_workspace_make(args->workspace, be, &args->shape, &args->limits);
        return cuda_head(be, &ws, args, err);
    });
}

static enum status lstm_backward(struct backend *base, const struct lstm_args *args,
                                 struct error *err) {
    return run_op(base, "lstm_backward", err, [=](struct cuda_backend *be) {
        struct cuda_workspace ws =
            cuda_workspace_make(args->workspace, be, &args->shape, &args->limits);
        return be->lstm == CUDA_LSTM_CUDNN ? cuda_cudnn_backward(be, &ws, args, err)
                                           : cuda_lstm_backward(be, &ws, args, err);
    });
}

static enum status embedding_grad(struct backend *base, const struct lstm_args *args,
                                  struct error *err) {
    return run_op(base, "embedding_grad", err, [=](struct cuda_backend *be) {
        TRY(cuda_join(be, err));
        struct cuda_workspace ws =
            cuda_workspace_make(args->workspace, be, &args->shape, &args->limits);
        return be->lstm == CUDA_LSTM_CUDNN ? cuda_cudnn_embedding_gradients(be, &ws, args, err)
                                           : cuda_embedding_gradients(be, &ws, args, err);
    });
}

static enum status global_norm(struct backend *base, const struct norm_args *args,
                               struct error *err) {
    return run_op(base, "global_norm", err,
                  [=](struct cuda_backend *be) { return cuda_global_norm(be, args, err); });
}

static enum status adam_step(struct backend *base, const struct adam_args *args,
                             struct error *err) {
    return run_op(base, "adam_step", err,
                  [=](struct cuda_backend *be) { return cuda_adam_step(be, args, err); });
}

/* In the order of the declaration: designated initialisers are not C++17. */
const struct backend_table cuda_table = {
    device_alloc,  device_free,         host_alloc,         host_free,
    copy,          fill_zero,           stream_synchronize, stream_wait_event,
    event_create,  event_free,          event_record,       event_wait,
    event_query,   workspace_bytes,     lstm_forward,       head_forward_backward,
    lstm_backward, embedding_grad,      global_norm,        adam_step,
    cuda_replay,   cuda_recording_free, range_begin,        range_end,
    cuda_free,
};
