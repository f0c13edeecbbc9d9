/* library_cuda.c - memory, copies, streams and events of a CUDA device, through the runtime alone.
 *
 * The compute stream is the trainer's own: a snapshot is ordered behind what was enqueued there. No
 * kernel is launched, so this is C for the host compiler; the tests compile it as C++ for the
 * simulated device. The current device belongs to the thread and, on the trainer's, to the
 * trainer: each entry puts it back, but for event_wait, which is called on the writer's.
 */
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime.h>

#include "library/library_device.h"

struct cuda_device {
    struct backend base; /* first: a pointer to it is one to this */
    struct backend_table table;
    int device;
    cudaStream_t streams[BACKEND_STREAM_COUNT]; /* the copy stream is ours */
};

struct backend_event {
    cudaEvent_t event;
};

static struct cuda_device *of(struct backend *be) {
    return (struct cuda_device *)be;
}

static int enter(const struct backend *be) {
    int before = 0, device = ((const struct cuda_device *)be)->device;
    if (cudaGetDevice(&before) != cudaSuccess || before != device) {
        cudaSetDevice(device);
    }
    return before;
}

/* The runtime's own note of the error is taken away, so that the trainer's next cudaGetLastError
 * does not show our failure. */
static enum status status_of(cudaError_t error, const char *what, struct error *err) {
    if (error != cudaSuccess) {
        cudaGetLastError();
    }
    enum status status = error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_DEVICE;
    return error == cudaSuccess ? STATUS_OK
                                : error_set(err, status, "CUDA: %s: %s (%s)", what,
                                            cudaGetErrorString(error), cudaGetErrorName(error));
}

static enum status leave(int before, cudaError_t error, const char *what, struct error *err) {
    enum status status = status_of(error, what, err);
    cudaSetDevice(before);
    return status;
}

/* ---- memory ---- */

/* Zero-filled, as the table promises: the gaps between gathered tensors travel along. */
static enum status device_alloc(struct backend *be, size_t bytes, void **out, struct error *err) {
    int before = enter(be);
    cudaStream_t stream = of(be)->streams[BACKEND_STREAM_COPY];
    void *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, bytes);
    if (error == cudaSuccess) {
        error = cudaMemsetAsync(memory, 0, bytes, stream);
    }
    if (error == cudaSuccess) {
        error = cudaStreamSynchronize(stream);
    }
    if (error != cudaSuccess) {
        cudaFree(memory);
        memory = NULL;
    }
    *out = memory;
    return leave(before, error, "device memory for a snapshot", err);
}

static void device_free(struct backend *be, void *memory) {
    int before = enter(be);
    (void)leave(before, cudaFree(memory), "cudaFree", NULL);
}

static enum status host_alloc(struct backend *be, size_t bytes, void **out, struct error *err) {
    int before = enter(be);
    cudaError_t error = cudaHostAlloc(out, bytes, cudaHostAllocPortable);
    if (error == cudaSuccess) {
        memset(*out, 0, bytes);
    }
    return leave(before, error, "pinned host memory for a snapshot", err);
}

static void host_free(struct backend *be, void *memory) {
    int before = enter(be);
    (void)leave(before, cudaFreeHost(memory), "cudaFreeHost", NULL);
}

static enum status copy(struct backend *be, void *dst, const void *src, size_t bytes,
                        enum backend_stream stream, struct error *err) {
    int before = enter(be);
    cudaError_t error = cudaSuccess;
    if (bytes > 0) {
        error = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, of(be)->streams[stream]);
    }
    return leave(before, error, "copy of a snapshot", err);
}

/* ---- streams and events ---- */

static enum status stream_synchronize(struct backend *be, enum backend_stream stream,
                                      struct error *err) {
    int before = enter(be);
    return leave(before, cudaStreamSynchronize(of(be)->streams[stream]), "waiting for a stream",
                 err);
}

static enum status stream_wait_event(struct backend *be, enum backend_stream stream,
                                     struct backend_event *event, struct error *err) {
    int before = enter(be);
    return leave(before, cudaStreamWaitEvent(of(be)->streams[stream], event->event, 0),
                 "ordering two streams", err);
}

/* A thread that waits sleeps: it is the writer's and should not take a core from the trainer. */
static enum status event_create(struct backend *be, struct backend_event **out, struct error *err) {
    int before = enter(be);
    struct backend_event *made = (struct backend_event *)calloc(1, sizeof *made);
    cudaError_t error = cudaErrorMemoryAllocation;
    if (made != NULL) {
        error =
            cudaEventCreateWithFlags(&made->event, cudaEventDisableTiming | cudaEventBlockingSync);
    }
    if (error != cudaSuccess) {
        free(made);
        made = NULL;
    }
    *out = made;
    return leave(before, error, "an event", err);
}

static void event_free(struct backend *be, struct backend_event *event) {
    int before = enter(be);
    (void)leave(before, cudaEventDestroy(event->event), "cudaEventDestroy", NULL);
    free(event);
}

static enum status event_record(struct backend *be, struct backend_event *event,
                                enum backend_stream stream, struct error *err) {
    int before = enter(be);
    return leave(before, cudaEventRecord(event->event, of(be)->streams[stream]),
                 "marking the end of a copy", err);
}

/* Only the writer's thread waits (io/snapshot.h). Every thread begins on device 0: to put that back
 * would make a context there, of some hundred megabytes, whatever device the tensors are on. */
static enum status event_wait(struct backend *be, struct backend_event *event, struct error *err) {
    (void)enter(be);
    return status_of(cudaEventSynchronize(event->event), "waiting for a copy", err);
}

static void range_begin(struct backend *be, const char *name) {
    (void)be, (void)name;
}

static void range_end(struct backend *be) {
    (void)be;
}

/* ---- create and free ---- */

static void free_backend(struct backend *be) {
    int before = enter(be);
    cudaStream_t copies = of(be)->streams[BACKEND_STREAM_COPY];
    cudaError_t error = copies == NULL ? cudaSuccess : cudaStreamDestroy(copies);
    (void)leave(before, error, "cudaStreamDestroy", NULL);
    free(of(be));
}

/* By assignment: C++17, which the tests compile this as, knows no designated initialisers. */
static void fill_table(struct backend_table *table) {
    table->device_alloc = device_alloc;
    table->device_free = device_free;
    table->host_alloc = host_alloc;
    table->host_free = host_free;
    table->copy = copy;
    table->stream_synchronize = stream_synchronize;
    table->stream_wait_event = stream_wait_event;
    table->event_create = event_create;
    table->event_free = event_free;
    table->event_record = event_record;
    table->event_wait = event_wait;
    table->range_begin = range_begin;
    table->range_end = range_end;
    table->free = free_backend;
}

bool library_cuda_built(void) {
    return true;
}

enum status library_cuda_create(int device, void *stream, struct backend **out, struct error *err) {
    *out = NULL;
    struct cuda_device *be = (struct cuda_device *)calloc(1, sizeof *be);
    CHECK(be != NULL, err, STATUS_MEMORY, "no memory for the checkpoint library");
    fill_table(&be->table);
    be->base.table = &be->table;
    be->base.device = "cuda";
    be->base.kernel_path = "";
    be->device = device;
    be->streams[BACKEND_STREAM_COMPUTE] = (cudaStream_t)stream;
    int before = enter(&be->base);
    cudaError_t error =
        cudaStreamCreateWithFlags(&be->streams[BACKEND_STREAM_COPY], cudaStreamNonBlocking);
    enum status status = leave(before, error, "a stream for snapshots", err);
    if (status != STATUS_OK) {
        free(be);
        return status;
    }
    *out = &be->base;
    return STATUS_OK;
}

enum status library_cuda_device_of(const void *pointer, int *device, struct error *err) {
    struct cudaPointerAttributes attributes;
    memset(&attributes, 0, sizeof attributes);
    cudaError_t error = cudaPointerGetAttributes(&attributes, pointer);
    *device = attributes.device;
    if (error != cudaSuccess) {
        cudaGetLastError();
        return error_set(err, STATUS_DEVICE, "CUDA: asking whose memory a tensor is: %s (%s)",
                         cudaGetErrorString(error), cudaGetErrorName(error));
    }
    CHECK(attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged, err,
          STATUS_DEVICE, "it is not memory of a CUDA device: register it as CAIRN_HOST");
    return STATUS_OK;
}
