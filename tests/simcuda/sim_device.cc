// State of the device: errors, reports, injected failures, facts about it, and the test's controls.
#include <cuda_runtime.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

State state;

namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

unsigned long environment(const char *name, unsigned long otherwise) {
    const char *text = getenv(name);
    return text == nullptr || *text == '\0' ? otherwise : strtoul(text, nullptr, 10);
}

void at_exit() {
    std::lock_guard<std::mutex> lock(state.mutex);
    const bool unread = state.reports_read < state.reports.size();
    for (size_t i = state.reports_read; i < state.reports.size() && !state.print_reports; i++) {
        fprintf(stderr, "simulated device: %s: %s\n", state.reports[i].kind.c_str(),
                state.reports[i].text.c_str());
    }
    if (state.print_reports) {
        std::vector<std::string> alive;
        list_memory(&alive);
        list_streams(&alive);
        list_graphs(&alive);
        list_blas(&alive);
        for (const std::string &thing : alive) {
            fprintf(stderr, "simulated device: leak: %s\n", thing.c_str());
        }
    }
    if (unread && state.strict) {
        fflush(nullptr);
        _exit(EXIT_REPORTS);
    }
}

void begin(uint64_t seed) {
    state.seed = seed;
    state.random = Random(seed * 0x2545f4914f6cdd1du + 1);
    for (int i = 0; i < 4; i++) {
        state.random.next();
    }
}

void read_environment_locked() {
    begin(environment("CAIRN_SIM_SEED", 1));
    state.device_count = static_cast<int>(environment("CAIRN_SIM_DEVICES", 1));
    state.print_reports = environment("CAIRN_SIM_REPORT", 0) != 0;
    state.strict = environment("CAIRN_SIM_STRICT", 0) != 0;
    state.fail_launch = static_cast<unsigned>(environment("CAIRN_SIM_FAIL_LAUNCH", 0));
    state.fail_copy = static_cast<unsigned>(environment("CAIRN_SIM_FAIL_COPY", 0));
    state.fail_allocation = static_cast<unsigned>(environment("CAIRN_SIM_FAIL_ALLOC", 0));
    static const int registered = atexit(at_exit);
    (void)registered;
}

} // namespace

// ---- entries and errors ----

Entered::Entered() : lock_(state.mutex) {
    static bool entered;
    if (!entered) {
        entered = true;
        read_environment_locked();
    }
}

cudaError_t returned(cudaError_t error) {
    if (error != cudaSuccess) {
        last_error = error;
    }
    return error;
}

cudaError_t usable() {
    return state.device_count == 0 ? cudaErrorNoDevice : state.sticky;
}

void fail_device(cudaError_t error) {
    if (state.sticky == cudaSuccess) {
        state.sticky = error;
    }
}

void report(const char *kind, const std::string &text) {
    constexpr size_t MOST = 1000; // a mistake in every step of a long run
    if (state.reports.size() >= MOST) {
        return;
    }
    state.reports.push_back({kind, text});
    if (state.print_reports) {
        fprintf(stderr, "simulated device: %s: %s\n", kind, text.c_str());
    }
}

std::string format(const char *pattern, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, pattern);
    vsnprintf(text, sizeof(text), pattern, arguments);
    va_end(arguments);
    return text;
}

bool injected(unsigned *countdown) {
    return *countdown > 0 && --*countdown == 0;
}

// ---- controls ----

void reset(uint64_t seed) {
    Entered entered;
    drop_pending();
    forget_blas();
    forget_graphs();
    forget_streams();
    forget_order();
    forget_launches();
    forget_memory();
    forget_nvtx();
    state.sticky = cudaSuccess;
    state.reports.clear();
    state.reports_read = 0;
    state.counts = {};
    state.fail_launch = state.fail_copy = state.fail_allocation = 0;
    state.device_count = 1;
    state.device_memory = size_t{8} << 30;
    last_error = cudaSuccess;
    current_device = 0;
    begin(seed);
}

void read_environment() {
    Entered entered;
    read_environment_locked();
}

uint64_t seed() {
    Entered entered;
    return state.seed;
}

void set_device_count(int count) {
    Entered entered;
    state.device_count = count;
}

void set_device_memory(size_t bytes) {
    Entered entered;
    state.device_memory = bytes;
}

void fail_launch(unsigned nth) {
    Entered entered;
    state.fail_launch = nth;
}

void fail_copy(unsigned nth) {
    Entered entered;
    state.fail_copy = nth;
}

void fail_allocation(unsigned nth) {
    Entered entered;
    state.fail_allocation = nth;
}

std::vector<Report> take_reports() {
    Entered entered;
    state.reports_read = state.reports.size();
    return state.reports;
}

std::string reports_text() {
    std::string text;
    for (const Report &each : take_reports()) {
        text += each.kind + ": " + each.text + "\n";
    }
    return text;
}

std::vector<std::string> leaks() {
    Entered entered;
    std::vector<std::string> alive;
    list_memory(&alive);
    list_streams(&alive);
    list_graphs(&alive);
    list_blas(&alive);
    return alive;
}

Counts counts() {
    Entered entered;
    return state.counts;
}

} // namespace simcuda

using namespace simcuda;

// ---- errors by name ----

namespace {

struct ErrorText {
    cudaError_t error;
    const char *name;
    const char *text;
};

#define ERROR_TEXT(error, text)                                                                    \
    { error, #error, text }
const ErrorText ERROR_TEXTS[] = {
    ERROR_TEXT(cudaSuccess, "no error"),
    ERROR_TEXT(cudaErrorInvalidValue, "invalid argument"),
    ERROR_TEXT(cudaErrorMemoryAllocation, "out of memory"),
    ERROR_TEXT(cudaErrorInitializationError, "initialization error"),
    ERROR_TEXT(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR_TEXT(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    ERROR_TEXT(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ERROR_TEXT(cudaErrorInsufficientDriver,
               "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR_TEXT(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR_TEXT(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR_TEXT(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR_TEXT(cudaErrorNoKernelImageForDevice,
               "no kernel image is available for execution on the device"),
    ERROR_TEXT(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    ERROR_TEXT(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR_TEXT(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ERROR_TEXT(cudaErrorNotReady, "device not ready"),
    ERROR_TEXT(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR_TEXT(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR_TEXT(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ERROR_TEXT(cudaErrorAssert, "device-side assert triggered"),
    ERROR_TEXT(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR_TEXT(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR_TEXT(cudaErrorNotPermitted, "operation not permitted"),
    ERROR_TEXT(cudaErrorNotSupported, "operation not supported"),
    ERROR_TEXT(cudaErrorStreamCaptureUnsupported,
               "operation not permitted when stream is capturing"),
    ERROR_TEXT(cudaErrorStreamCaptureInvalidated,
               "operation failed due to a previous error during capture"),
    ERROR_TEXT(cudaErrorStreamCaptureMerge,
               "operation would result in a merge of separate capture sequences"),
    ERROR_TEXT(cudaErrorStreamCaptureUnmatched,
               "capture was not ended in the same stream as it began"),
    ERROR_TEXT(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR_TEXT(cudaErrorStreamCaptureIsolation,
               "dependency created on uncaptured work in another stream"),
    ERROR_TEXT(cudaErrorStreamCaptureImplicit,
               "operation would make the legacy stream depend on a capturing blocking stream"),
    ERROR_TEXT(cudaErrorCapturedEvent,
               "operation not permitted on an event last recorded in a capturing stream"),
    ERROR_TEXT(cudaErrorStreamCaptureWrongThread,
               "attempt to terminate a thread-local capture sequence from another thread"),
    ERROR_TEXT(cudaErrorUnknown, "unknown error"),
};
#undef ERROR_TEXT

const ErrorText *error_text(cudaError_t error) {
    for (const ErrorText &each : ERROR_TEXTS) {
        if (each.error == error) {
            return &each;
        }
    }
    return nullptr;
}

} // namespace

const char *cudaGetErrorName(cudaError_t error) {
    const ErrorText *found = error_text(error);
    return found == nullptr ? "unrecognized error code" : found->name;
}

const char *cudaGetErrorString(cudaError_t error) {
    const ErrorText *found = error_text(error);
    return found == nullptr ? "unrecognized error code" : found->text;
}

cudaError_t cudaGetLastError() {
    Entered entered;
    const cudaError_t error = state.sticky != cudaSuccess ? state.sticky : last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() {
    Entered entered;
    return state.sticky != cudaSuccess ? state.sticky : last_error;
}

// ---- facts ----

cudaError_t cudaGetDeviceCount(int *count) {
    Entered entered;
    *count = state.device_count;
    return returned(state.device_count == 0 ? cudaErrorNoDevice : cudaSuccess);
}

static cudaError_t check_device(int device) {
    if (state.device_count == 0) {
        return cudaErrorNoDevice;
    }
    return device < 0 || device >= state.device_count ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    Entered entered;
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) {
        current_device = device;
    }
    return returned(error != cudaSuccess ? error : state.sticky);
}

cudaError_t cudaGetDevice(int *device) {
    Entered entered;
    *device = current_device;
    return returned(usable());
}

cudaError_t cudaSetDeviceFlags(unsigned int) {
    Entered entered;
    return returned(usable());
}

cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
    Entered entered;
    return returned(check_device(device));
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device) {
    Entered entered;
    if (cudaError_t error = check_device(device)) {
        return returned(error);
    }
    memset(prop, 0, sizeof(*prop));
    snprintf(prop->name, sizeof(prop->name), "Simulated device");
    prop->totalGlobalMem = state.device_memory;
    prop->sharedMemPerBlock = SHARED_DEFAULT;
    prop->sharedMemPerBlockOptin = SHARED_MOST;
    prop->sharedMemPerMultiprocessor = 100 * 1024;
    prop->reservedSharedMemPerBlock = 1024;
    prop->regsPerBlock = prop->regsPerMultiprocessor = 65536;
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->maxThreadsDim[0] = prop->maxThreadsDim[1] = 1024;
    prop->maxThreadsDim[2] = 64;
    prop->maxGridSize[0] = 2147483647;
    prop->maxGridSize[1] = prop->maxGridSize[2] = 65535;
    prop->major = 8;
    prop->minor = 6;
    prop->multiProcessorCount = 1;
    prop->canMapHostMemory = 1;
    prop->asyncEngineCount = 2;
    prop->unifiedAddressing = 1;
    prop->memoryBusWidth = 64;
    prop->l2CacheSize = 1 << 20;
    prop->maxThreadsPerMultiProcessor = 1536;
    prop->streamPrioritiesSupported = 1;
    prop->pciBusID = device;
    return returned(state.sticky);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device) {
    cudaDeviceProp prop;
    if (cudaError_t error = cudaGetDeviceProperties(&prop, device)) {
        return error;
    }
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = prop.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = static_cast<int>(prop.sharedMemPerBlock);
        break;
    case cudaDevAttrWarpSize:
        *value = prop.warpSize;
        break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
        *value = 1000; // kHz
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = prop.multiProcessorCount;
        break;
    case cudaDevAttrIntegrated:
        *value = 0;
        break;
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrUnifiedAddressing:
        *value = 1;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = prop.memoryBusWidth;
        break;
    case cudaDevAttrL2CacheSize:
        *value = prop.l2CacheSize;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = prop.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = prop.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = static_cast<int>(prop.sharedMemPerMultiprocessor);
        break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
        *value = prop.regsPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(prop.sharedMemPerBlockOptin);
        break;
    default:
        return returned(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *pciBusId, int len, int device) {
    Entered entered;
    if (cudaError_t error = check_device(device)) {
        return returned(error);
    }
    snprintf(pciBusId, static_cast<size_t>(len), "0000:%02x:00.0", static_cast<unsigned>(device));
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *leastPriority, int *greatestPriority) {
    Entered entered;
    *leastPriority = 0;
    *greatestPriority = -5;
    return returned(usable());
}

cudaError_t cudaDeviceReset() {
    reset(seed());
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
