// simcuda_program.h - the words in which the tests of the simulated device write their programs, and
// what is expected of a program: to be clean under all of 100 seeds, or caught under at least 95.
#ifndef CAIRN_TESTS_SIMCUDA_PROGRAM_H
#define CAIRN_TESTS_SIMCUDA_PROGRAM_H

#include <cuda_runtime.h>
#include <string.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/simcuda/simcuda.h"
#include "tests/simcuda_kernels.h"
#include "gtest/gtest.h"

using Strings = std::vector<std::string>;
using kernels::THREADS;

constexpr unsigned SEEDS = 100;
constexpr unsigned ENOUGH = 95;
constexpr unsigned COUNT = 1000; // floats of most arrays

template <class T> T *device(size_t count) {
    T *p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, count * sizeof(T)), cudaSuccess);
    return p;
}

template <class T> T *pinned(size_t count) {
    T *p = nullptr;
    EXPECT_EQ(cudaHostAlloc(&p, count * sizeof(T), cudaHostAllocDefault), cudaSuccess);
    memset(p, 0, count * sizeof(T));
    return p;
}

inline cudaStream_t new_stream() {
    cudaStream_t stream = nullptr;
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    return stream;
}

inline cudaEvent_t new_event() {
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    return event;
}

struct Shape {
    dim3 blocks;
    unsigned threads;
    unsigned shared_bytes;
};
inline constexpr Shape ONE = {1, THREADS, THREADS * 2 * sizeof(float)};
inline constexpr Shape ALL = {(COUNT + THREADS - 1) / THREADS, THREADS, 0};

template <class... P, class... A>
cudaError_t launch(cudaStream_t stream, const Shape &shape, void (*kernel)(P...), A... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.blocks;
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream;
    simcuda::name_launch("tested");
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

template <class T> std::vector<T> fetch(const T *p, size_t count) {
    std::vector<T> out(count);
    EXPECT_EQ(cudaMemcpy(out.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return out;
}

inline bool reported(const std::string &kind) {
    for (const simcuda::Report &each : simcuda::take_reports()) {
        if (each.kind == kind) {
            return true;
        }
    }
    return false;
}

inline bool report_says(const std::string &words) {
    return simcuda::reports_text().find(words) != std::string::npos;
}

// Under how many of the seeds does `program` end with a report of this kind?
inline unsigned seeds_reporting(const std::string &kind, const std::function<void()> &program) {
    unsigned caught = 0;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        simcuda::reset(seed);
        program();
        caught += reported(kind);
    }
    return caught;
}

inline unsigned seeds_where(const std::function<bool()> &program) {
    unsigned caught = 0;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        simcuda::reset(seed);
        caught += program();
    }
    return caught;
}

// A kernel with a mistake: the report, and the error that the device is left with.
inline void expect_fault(const std::string &kind, cudaError_t error,
                         const std::function<void()> &program) {
    const unsigned caught = seeds_where([&] {
        program();
        return cudaDeviceSynchronize() == error && cudaGetLastError() == error && reported(kind);
    });
    EXPECT_GE(caught, ENOUGH) << simcuda::reports_text();
}

// A correct program: no report, nothing left over.
inline void expect_clean(const std::function<void()> &program) {
    for (unsigned seed = 1; seed <= SEEDS && !::testing::Test::HasFailure(); seed++) {
        SCOPED_TRACE(seed);
        simcuda::reset(seed);
        program();
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        EXPECT_EQ(simcuda::reports_text(), "");
        EXPECT_EQ(simcuda::leaks(), Strings());
    }
}

class SimCuda : public ::testing::Test {
  protected:
    void SetUp() override { simcuda::reset(1); }
    void TearDown() override { simcuda::reset(1); } // reports of seeded faults are not news
};

#endif
