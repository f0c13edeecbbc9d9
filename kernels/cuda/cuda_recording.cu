/* cuda_recording.cu - a training step as one CUDA graph.
 *
 * The first call runs the step as it is; only the second records it. By then every kernel of it has
 * been loaded, and cuBLAS has allocated and chosen what it needs: neither may happen while a stream
 * is recorded. From then on a step is one launch.
 *
 * Recording is of this thread only (cudaStreamCaptureModeThreadLocal): the writer's thread may wait
 * for its events meanwhile. The sorting by word, on a stream of its own, becomes part of the graph
 * because it forks from the compute stream and is joined again before the end.
 */
#include <stdlib.h>

#include <nvtx3/nvToolsExt.h>

#include "kernels/cuda/cuda_internal.cuh"

struct backend_recording {
    cudaGraph_t graph;
    cudaGraphExec_t step; /* NULL until the second call */
};

static enum status record(struct cuda_backend *be, cudaGraph_t *graph,
                          enum status (*enqueue)(void *context, struct error *err), void *context,
                          struct error *err) {
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
             "beginning to record the step", err);
    be->capturing = true;
    enum status status = enqueue(context, err);
    if (status == STATUS_OK) {
        status = cuda_join(be, err);
    }
    /* Ended in any case: a stream in recording can do nothing else. */
    cudaError_t error = cudaStreamEndCapture(stream, graph);
    be->capturing = false;
    if (status != STATUS_OK) {
        cudaGetLastError();
        be->sort_open = false; /* what was forked lay in the recording that is given up */
        return status;
    }
    CUDA_TRY(error, "recording the step", err);
    return STATUS_OK;
}

/* Graph and executable, or neither. */
static enum status record_step(struct cuda_backend *be, struct backend_recording *recording,
                               enum status (*enqueue)(void *context, struct error *err),
                               void *context, struct error *err) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t step = NULL;
    enum status status = record(be, &graph, enqueue, context, err);
    if (status == STATUS_OK) {
        cudaError_t error = cudaGraphInstantiate(&step, graph, 0);
        if (error != cudaSuccess) {
            status = cuda_failed(error, "making the recorded step executable", err);
        }
    }
    if (status != STATUS_OK) {
        if (graph != NULL) {
            cudaGraphDestroy(graph);
        }
        return status;
    }
    recording->graph = graph;
    recording->step = step;
    return STATUS_OK;
}

static enum status launch(struct cuda_backend *be, struct backend_recording *recording,
                          struct error *err) {
    nvtxRangePushA("recorded step");
    cudaError_t error = cudaGraphLaunch(recording->step, be->stream[BACKEND_STREAM_COMPUTE]);
    nvtxRangePop();
    if (error != cudaSuccess) {
        const char *call = "launching the recorded step";
        return cuda_ended(be, cuda_failed(error, call, err), call, err);
    }
    return STATUS_OK;
}

enum status cuda_replay(struct backend *base, struct backend_recording **recording,
                        enum status (*enqueue)(void *context, struct error *err), void *context,
                        struct error *err) {
    struct cuda_backend *be = cuda_of(base);
    TRY(cuda_check(be, "replay", err));
    if (!be->graph) {
        return enqueue(context, err);
    }
    TRY(cuda_join(be, err));
    if (*recording == NULL) {
        TRY(enqueue(context, err));
        *recording = (struct backend_recording *)calloc(1, sizeof **recording);
        CHECK(*recording != NULL, err, STATUS_MEMORY, "out of memory for a recorded step");
        return STATUS_OK;
    }
    if ((*recording)->step == NULL) {
        const char *call = "recording the step";
        TRY(cuda_ended(be, record_step(be, *recording, enqueue, context, err), call, err));
    }
    return launch(be, *recording, err);
}

void cuda_recording_free(struct backend *base, struct backend_recording *recording) {
    if (recording == NULL) {
        return;
    }
    struct cuda_backend *be = cuda_of(base);
    cudaSetDevice(be->device);
    /* A launched graph must have run before it is destroyed. */
    cudaStreamSynchronize(be->stream[BACKEND_STREAM_COMPUTE]);
    if (recording->step != NULL) {
        cudaGraphExecDestroy(recording->step);
        cudaGraphDestroy(recording->graph);
    }
    free(recording);
}
