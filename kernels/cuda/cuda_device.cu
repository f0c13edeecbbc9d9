/* cuda_device.cu - which device and kernels are used: creation, description and end of the backend.
 *
 * Everything that a step needs is made here: streams, events, the cuBLAS handle with its workspace,
 * the progress word. Nothing is chosen silently: what was asked for and is not there is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_internal.cuh"

#if defined(CAIRN_CUDA_SIM)
static const bool simulated = true;
#else
static const bool simulated = false;
#endif

enum {
    OLDEST_CAPABILITY = 75,
    AMPERE_CAPABILITY = 80,
    TENSOR_CAPABILITY = 80,
    LARGE_WORKSPACE_CAPABILITY = 90
};

/* ---- what was built and what is there ---- */

const char *backend_cuda_build(void) {
#if defined(CAIRN_CUDA_SIM)
    return "cuda (SIMULATED device, for tests)";
#else
    return "cuda (toolkit " CAIRN_CUDA_TOOLKIT ", " CAIRN_CUDA_CUDNN ", " CAIRN_CUDA_CODE ")";
#endif
}

/* Compute capability as 10 major + minor, without making a context. */
static cudaError_t device_capability(int device, int *out) {
    int major = 0, minor = 0;
    cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess) {
        error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    }
    *out = 10 * major + minor;
    return error;
}

bool backend_cuda_available(void) {
    int count = 0, capability = 0;
    return !simulated && cudaGetDeviceCount(&count) == cudaSuccess && count > 0 &&
           device_capability(0, &capability) == cudaSuccess && capability >= OLDEST_CAPABILITY;
}

static enum status choose_device(uint32_t wanted, int *capability, struct error *err) {
    int count = 0;
    CUDA_TRY(cudaGetDeviceCount(&count), "looking for CUDA devices", err);
    CHECK(wanted < (uint32_t)count, err, STATUS_DEVICE,
          "there is no device %u: this machine has %d CUDA device%s, numbered from 0", wanted,
          count, count == 1 ? "" : "s");
    CUDA_TRY(device_capability((int)wanted, capability), "asking for the compute capability", err);
    CHECK(*capability >= OLDEST_CAPABILITY, err, STATUS_DEVICE,
          "cuda:%u has compute capability %d.%d; this program needs %d.%d or newer", wanted,
          *capability / 10, *capability % 10, OLDEST_CAPABILITY / 10, OLDEST_CAPABILITY % 10);
    CUDA_TRY(cudaSetDevice((int)wanted), "cudaSetDevice", err);
    return STATUS_OK;
}

/* ---- which kernels ---- */

/* Weights of the largest sizes lie partly in shared memory, of which Turing has 64 KiB. */
static unsigned fused_hidden_max(int capability) {
    return capability >= AMPERE_CAPABILITY ? CUDA_FUSED_HIDDEN_MAX : 112;
}

static enum status choose_lstm(const struct backend_options *options, int capability,
                               enum cuda_lstm *out, struct error *err) {
    const char *lstm = options->lstm != NULL ? options->lstm : "auto";
    unsigned largest = fused_hidden_max(capability);
    bool fits = options->hidden <= largest;
    bool cudnn = strcmp(lstm, "cudnn") == 0 || (strcmp(lstm, "auto") == 0 && !fits);
    CHECK(cudnn || fits, err, STATUS_DEVICE,
          "--lstm fused: the fused kernels take hidden sizes up to %u, not %u; --lstm cudnn takes "
          "any",
          largest, options->hidden);
#if !defined(CAIRN_CUDNN)
    CHECK(!cudnn || fits, err, STATUS_DEVICE,
          "hidden size %u needs cuDNN, which this build lacks: the fused kernels go up to %u",
          options->hidden, largest);
    CHECK(!cudnn, err, STATUS_DEVICE,
          "--lstm cudnn: this build lacks cuDNN; --lstm fused takes hidden sizes up to %u",
          largest);
#endif
    *out = cudnn ? CUDA_LSTM_CUDNN : CUDA_LSTM_FUSED;
    return STATUS_OK;
}

/* How cuBLAS multiplies. Anything but fp32 needs tensor cores that know the type: without them the
 * libraries would silently compute in fp32. */
static enum status choose_precision(struct cuda_backend *be, const char *precision, int capability,
                                    struct error *err) {
    be->blas_compute = CUBLAS_COMPUTE_32F;
    if (strcmp(precision, "fp32") == 0) {
        return STATUS_OK;
    }
    CHECK(!simulated, err, STATUS_DEVICE, "--precision %s: the simulated device has fp32 only",
          precision);
    CHECK(capability >= TENSOR_CAPABILITY, err, STATUS_DEVICE,
          "--precision %s needs compute capability %d.%d; %s has %d.%d", precision,
          TENSOR_CAPABILITY / 10, TENSOR_CAPABILITY % 10, be->device_name, capability / 10,
          capability % 10);
    bool bf16 = strcmp(precision, "bf16") == 0;
    CHECK(!bf16 || be->lstm == CUDA_LSTM_FUSED, err, STATUS_DEVICE,
          "--precision bf16: cuDNN's recurrence has no bf16 products of fp32 data; there are fp32 "
          "and tf32");
    be->blas_compute = bf16 ? CUBLAS_COMPUTE_32F_FAST_16BF : CUBLAS_COMPUTE_32F_FAST_TF32;
    return STATUS_OK;
}

/* ---- making it ---- */

/* Work that a step waits for first: the copies of a snapshot and the sorting beside the recurrence
 * take what is left. */
static enum status make_streams(struct cuda_backend *be, struct error *err) {
    int least = 0, greatest = 0;
    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities", err);
    cudaStream_t *streams[] = {&be->stream[BACKEND_STREAM_COMPUTE],
                               &be->stream[BACKEND_STREAM_COPY], &be->words_stream};
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
        CUDA_TRY(cudaStreamCreateWithPriority(streams[i], cudaStreamNonBlocking,
                                              i == 0 ? greatest : least),
                 "cudaStreamCreate", err);
    }
    cudaEvent_t *events[] = {&be->forked, &be->sorted};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        CUDA_TRY(cudaEventCreateWithFlags(events[i], cudaEventDisableTiming), "cudaEventCreate",
                 err);
    }
    return STATUS_OK;
}

#define BLAS_TRY(call, err)                                                                        \
    do {                                                                                           \
        cublasStatus_t blas_try_status = (call);                                                   \
        if (blas_try_status != CUBLAS_STATUS_SUCCESS) {                                            \
            return error_set(err, STATUS_DEVICE, "%s: %s", #call,                                  \
                             cublasGetStatusString(blas_try_status));                              \
        }                                                                                          \
    } while (0)

/* A workspace of its own keeps cuBLAS from allocating, and its results the same from call to call.
 * The sizes are those that its documentation recommends. Setting the stream forgets the workspace,
 * so the stream comes first and is never set again. */
static enum status make_blas(struct cuda_backend *be, int capability, struct error *err) {
    size_t bytes = (size_t)(capability >= LARGE_WORKSPACE_CAPABILITY ? 32 : 4) << 20;
    if (simulated) {
        bytes = 4096; /* it needs none, and protects all of its memory at every call */
    }
    CUDA_TRY(cudaMalloc(&be->blas_workspace, bytes), "memory for cuBLAS", err);
    BLAS_TRY(cublasCreate(&be->blas), err);
    BLAS_TRY(cublasSetStream(be->blas, be->stream[BACKEND_STREAM_COMPUTE]), err);
    BLAS_TRY(cublasSetWorkspace(be->blas, be->blas_workspace, bytes), err);
    return STATUS_OK;
}

static enum status make_memory(struct cuda_backend *be, struct error *err) {
    CUDA_TRY(cudaHostAlloc((void **)&be->progress, sizeof *be->progress,
                           cudaHostAllocMapped | cudaHostAllocPortable),
             "memory for the progress word", err);
    CUDA_TRY(cudaHostGetDevicePointer((void **)&be->progress_device, be->progress, 0),
             "the progress word's device address", err);
    *be->progress = CUDA_OP_NONE;
    CUDA_TRY(cudaMalloc((void **)&be->norm_parts, CUDA_NORM_PARTS * sizeof *be->norm_parts),
             "memory for the partial norms", err);
    return STATUS_OK;
}

enum { PROBE_THREADS = 32 };

static __global__ void __launch_bounds__(PROBE_THREADS) probe_kernel(uint32_t *progress) {
    cuda_block_of(PROBE_THREADS);
    cuda_mark(progress, CUDA_OP_COUNT);
}

/* One tiny kernel says whether this build has code for the device and whether its writes arrive. */
static enum status run_probe(struct cuda_backend *be, struct error *err) {
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    TRY(cuda_launch(stream, "the first kernel", dim3(1, 1, 1), PROBE_THREADS, 0, probe_kernel, err,
                    be->progress_device));
    CUDA_TRY(cudaStreamSynchronize(stream), "the first kernel", err);
    CHECK(*(volatile uint32_t *)be->progress == CUDA_OP_COUNT, err, STATUS_DEVICE,
          "%s runs kernels whose results do not arrive", be->device_name);
    *be->progress = CUDA_OP_NONE;
    return STATUS_OK;
}

static enum status probe(struct cuda_backend *be, struct error *err) {
    enum status status = run_probe(be, err);
    return status == STATUS_OK
               ? status
               : error_prefix(err, status, "%s, %s", be->device_name, backend_cuda_build());
}

/* ---- names ---- */

static enum status name_everything(struct cuda_backend *be, const char *precision, int capability,
                                   struct error *err) {
    cudaDeviceProp properties;
    CUDA_TRY(cudaGetDeviceProperties(&properties, be->device), "cudaGetDeviceProperties", err);
    const char *lstm = be->lstm == CUDA_LSTM_FUSED ? "fused" : "cudnn";
    const char *slower = strcmp(precision, "fp32") == 0 ? "" : precision;
    if (simulated) {
        snprintf(be->kernel_path, sizeof be->kernel_path, "simulated-cuda-%s", lstm);
    } else {
        /* Libraries choose their kernels, and with them the order of sums, by the capability. */
        snprintf(be->kernel_path, sizeof be->kernel_path, "cuda-%s%s%s-sm%d", lstm,
                 slower[0] != '\0' ? "-" : "", slower, capability);
    }
    snprintf(be->base.description, sizeof be->base.description,
             "%s%s %.60s (sm_%d, %d SM), %s, %s%s", simulated ? "SIMULATED CUDA device, " : "",
             be->device_name, properties.name, capability, properties.multiProcessorCount,
             be->lstm == CUDA_LSTM_FUSED ? "fused LSTM kernels" : "cuDNN LSTM",
             be->graph ? "CUDA graph, " : "", precision);
    be->base.device = be->device_name;
    be->base.kernel_path = be->kernel_path;
    return STATUS_OK;
}

static enum status make(struct cuda_backend *be, const struct backend_options *options,
                        struct error *err) {
    const char *precision = options->precision != NULL ? options->precision : "fp32";
    int capability = 0;
    be->base.table = &cuda_table;
    snprintf(be->device_name, sizeof be->device_name, "cuda:%u", options->device);
    TRY(choose_device(options->device, &capability, err));
    be->device = (int)options->device;
    TRY(choose_lstm(options, capability, &be->lstm, err));
    TRY(choose_precision(be, precision, capability, err));
    /* cuDNN wants the lengths of a batch on the host, so its steps cannot be recorded. */
    be->graph = options->graph && be->lstm == CUDA_LSTM_FUSED;
    TRY(make_streams(be, err));
    TRY(make_memory(be, err));
    TRY(probe(be, err));
    TRY(make_blas(be, capability, err));
    if (be->lstm == CUDA_LSTM_CUDNN) {
        TRY(cuda_cudnn_create(be, precision, err));
    }
    return name_everything(be, precision, capability, err);
}

enum status backend_cuda_create(const struct backend_options *options, struct backend **out,
                                struct error *err) {
    struct cuda_backend *be = (struct cuda_backend *)calloc(1, sizeof *be);
    CHECK(be != NULL, err, STATUS_MEMORY, "out of memory for the CUDA backend");
    enum status status = make(be, options, err);
    if (status != STATUS_OK) {
        cuda_free(&be->base);
        return status;
    }
    *out = &be->base;
    return STATUS_OK;
}

/* Also takes one that was made in part only. Nothing can be done about errors here, so they are
 * not looked at. */
void cuda_free(struct backend *base) {
    if (base == NULL) {
        return;
    }
    struct cuda_backend *be = cuda_of(base);
    cudaStream_t streams[] = {be->words_stream, be->stream[BACKEND_STREAM_COPY],
                              be->stream[BACKEND_STREAM_COMPUTE]};
    for (cudaStream_t stream : streams) {
        if (stream != NULL) {
            cudaStreamSynchronize(stream);
        }
    }
    cuda_cudnn_free(be);
    if (be->blas != NULL) {
        cublasDestroy(be->blas);
    }
    cudaFree(be->blas_workspace);
    cudaFree(be->norm_parts);
    cudaFreeHost(be->progress);
    cudaEvent_t events[] = {be->forked, be->sorted};
    for (cudaEvent_t event : events) {
        if (event != NULL) {
            cudaEventDestroy(event);
        }
    }
    for (cudaStream_t stream : streams) {
        if (stream != NULL) {
            cudaStreamDestroy(stream);
        }
    }
    free(be);
}
