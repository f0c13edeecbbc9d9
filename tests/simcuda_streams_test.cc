// The simulated device: streams, events, pinned memory and a writer thread, graphs, cuBLAS, NVTX.
#include <cublas_v2.h>
#include <nvtx3/nvToolsExt.h>

#include <functional>
#include <thread>
#include <vector>

#include "tests/simcuda_program.h"

namespace {

using namespace kernels;

// Two streams hand a buffer back and forth.
void ping_pong(bool wait, std::vector<float> *seen) {
    cudaStream_t compute = new_stream();
    cudaStream_t copy = new_stream();
    cudaEvent_t computed = new_event();
    cudaEvent_t copied = new_event();
    float *x = device<float>(COUNT);
    float *slot = pinned<float>(COUNT);
    for (unsigned round = 1; round <= 8; round++) {
        launch(compute, ALL, multiples, x, COUNT, static_cast<float>(round));
        cudaEventRecord(computed, compute);
        if (wait) {
            cudaStreamWaitEvent(copy, computed, 0);
        }
        cudaMemcpyAsync(slot, x, COUNT * sizeof(float), cudaMemcpyDeviceToHost, copy);
        cudaEventRecord(copied, copy);
        cudaEventSynchronize(copied);
        seen->push_back(slot[COUNT - 1]);
    }
    cudaFreeHost(slot);
    cudaFree(x);
    cudaEventDestroy(copied);
    cudaEventDestroy(computed);
    cudaStreamDestroy(copy);
    cudaStreamDestroy(compute);
}

TEST_F(SimCuda, EventsOrderStreams) {
    expect_clean([] {
        std::vector<float> seen;
        ping_pong(true, &seen);
        for (size_t i = 0; i < seen.size(); i++) {
            EXPECT_EQ(seen[i], static_cast<float>(i + 1) * 999.0f);
        }
    });
}

TEST_F(SimCuda, MissingWaitBetweenKernelAndCopyShows) {
    const unsigned caught = seeds_where([] {
        std::vector<float> seen;
        ping_pong(false, &seen);
        bool wrong = false;
        for (size_t i = 0; i < seen.size(); i++) {
            wrong = wrong || seen[i] != static_cast<float>(i + 1) * 999.0f;
        }
        return wrong;
    });
    EXPECT_GE(caught, ENOUGH);
}

TEST_F(SimCuda, MissingWaitBetweenCopiesIsReported) {
    const unsigned caught = seeds_reporting("order", [] {
        cudaStream_t one = new_stream();
        cudaStream_t other = new_stream();
        float *x = device<float>(COUNT);
        float *slot = pinned<float>(COUNT);
        cudaMemcpyAsync(x, slot, 400, cudaMemcpyHostToDevice, one);
        cudaMemcpyAsync(slot + 500, x + 99, 400, cudaMemcpyDeviceToHost, other); // one word
    });
    EXPECT_EQ(caught, SEEDS);
}

TEST_F(SimCuda, ASeedRepeats) {
    std::vector<uint64_t> switches[2];
    for (auto &each : switches) {
        for (unsigned seed = 1; seed <= 10; seed++) {
            simcuda::reset(seed);
            std::vector<float> seen;
            ping_pong(false, &seen);
            each.push_back(simcuda::counts().switches);
            each.push_back(static_cast<uint64_t>(seen[0] == 999.0f));
        }
    }
    EXPECT_EQ(switches[0], switches[1]);
}

// The default stream and blocking ones wait for each other by themselves.
TEST_F(SimCuda, DefaultStreamOrders) {
    expect_clean([] {
        cudaStream_t blocking = nullptr;
        cudaStreamCreate(&blocking);
        float *x = device<float>(COUNT);
        launch(blocking, ALL, multiples, x, COUNT, 2.0f);
        EXPECT_EQ(fetch(x, COUNT)[10], 20.0f); // cudaMemcpy, on the default stream
        cudaMemset(x, 0, COUNT * sizeof(float));
        launch(blocking, ALL, plus, x, x, COUNT, 1.0f);
        cudaStreamSynchronize(blocking);
        EXPECT_EQ(fetch(x, COUNT)[10], 1.0f);
        cudaFree(x);
        cudaStreamDestroy(blocking);
    });
}

// ---- a snapshot: device copy, pinned slot, writer thread ----

enum class Snapshot { CORRECT, WRITER_DOES_NOT_WAIT, SOURCE_OVERWRITTEN };

// True: all that the writer saw was whole and of its step.
bool snapshot(Snapshot mistake) {
    cudaStream_t compute = new_stream();
    cudaStream_t copy = new_stream();
    cudaEvent_t computed = new_event();
    cudaEvent_t copied = new_event();
    float *x = device<float>(COUNT);
    float *staging = device<float>(COUNT);
    float *slot = pinned<float>(COUNT);
    bool whole = true;
    for (unsigned step = 1; step <= 8; step++) {
        launch(compute, ALL, multiples, x, COUNT, static_cast<float>(step));
        cudaMemcpyAsync(staging, x, COUNT * sizeof(float), cudaMemcpyDefault, compute);
        cudaEventRecord(computed, compute);
        cudaStreamWaitEvent(copy, computed, 0);
        cudaMemcpyAsync(slot, staging, COUNT * sizeof(float), cudaMemcpyDefault, copy);
        cudaEventRecord(copied, copy);
        std::thread writer([&] {
            if (mistake != Snapshot::WRITER_DOES_NOT_WAIT) {
                cudaEventSynchronize(copied);
            }
            for (unsigned i = 0; i < COUNT; i++) {
                whole = whole && slot[i] == static_cast<float>(i * step);
            }
        });
        // The next step goes on meanwhile.
        launch(compute, ALL, multiples, x, COUNT, -1.0f);
        writer.join();
        cudaStreamWaitEvent(compute, copied, 0);
    }
    cudaDeviceSynchronize();
    cudaFreeHost(slot);
    cudaFree(staging);
    cudaFree(x);
    cudaEventDestroy(copied);
    cudaEventDestroy(computed);
    cudaStreamDestroy(copy);
    cudaStreamDestroy(compute);
    return whole;
}

TEST_F(SimCuda, SnapshotWithWriterThread) {
    expect_clean([] { EXPECT_TRUE(snapshot(Snapshot::CORRECT)); });
}

TEST_F(SimCuda, WriterThatDoesNotWaitShows) {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer finds it by itself";
#endif
    EXPECT_GE(seeds_where([] { return !snapshot(Snapshot::WRITER_DOES_NOT_WAIT); }), ENOUGH);
}

TEST_F(SimCuda, PinnedSourceOverwrittenTooEarlyShows) {
    const unsigned caught = seeds_where([] {
        cudaStream_t stream = new_stream();
        float *x = device<float>(24 * 64);
        float *source = pinned<float>(64);
        for (unsigned batch = 0; batch < 24; batch++) {
            for (unsigned i = 0; i < 64; i++) {
                source[i] = static_cast<float>(batch); // the copy before this may still read
            }
            cudaMemcpyAsync(x + batch * 64, source, 256, cudaMemcpyHostToDevice, stream);
        }
        cudaStreamSynchronize(stream);
        const std::vector<float> got = fetch(x, 24 * 64);
        for (unsigned i = 0; i < got.size(); i++) {
            if (got[i] != static_cast<float>(i / 64)) {
                return true;
            }
        }
        return false;
    });
    EXPECT_GE(caught, ENOUGH);
}

// Pageable memory may be changed as soon as the call has returned.
TEST_F(SimCuda, PageableSourceIsReadAtTheCall) {
    expect_clean([] {
        cudaStream_t stream = new_stream();
        float *x = device<float>(4);
        float source[4] = {1, 2, 3, 4};
        cudaMemcpyAsync(x, source, sizeof(source), cudaMemcpyDefault, stream);
        source[2] = 0;
        float back[4] = {};
        cudaMemcpyAsync(back, x, sizeof(back), cudaMemcpyDefault, stream);
        EXPECT_EQ(back[2], 3.0f); // and written when it returns
        cudaFree(x);
        cudaStreamDestroy(stream);
    });
}

TEST_F(SimCuda, QueriesGetThere) {
    expect_clean([] {
        cudaStream_t stream = new_stream();
        cudaEvent_t event = new_event();
        EXPECT_EQ(cudaEventQuery(event), cudaSuccess); // never recorded
        float *x = device<float>(COUNT);
        launch(stream, ALL, multiples, x, COUNT, 1.0f);
        cudaEventRecord(event, stream);
        cudaError_t error = cudaErrorNotReady;
        while (error == cudaErrorNotReady) {
            error = cudaEventQuery(event);
        }
        EXPECT_EQ(error, cudaSuccess);
        EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
        EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        cudaFree(x);
        cudaEventDestroy(event);
        cudaStreamDestroy(stream);
    });
}

// ---- graphs ----

struct Branches {
    cudaStream_t stream = new_stream();
    cudaStream_t side = new_stream();
    cudaEvent_t forked = new_event();
    cudaEvent_t joined = new_event();
    ~Branches() {
        cudaEventDestroy(joined);
        cudaEventDestroy(forked);
        cudaStreamDestroy(side);
        cudaStreamDestroy(stream);
    }
};

TEST_F(SimCuda, GraphsRunWhatWasCaptured) {
    expect_clean([] {
        Branches b;
        float *x = device<float>(COUNT);
        float *y = device<float>(COUNT);
        float *z = device<float>(COUNT);
        cudaStreamCaptureStatus status;
        cudaMemset(x, 0, COUNT * sizeof(float));
        cudaDeviceSynchronize();
        EXPECT_EQ(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
        EXPECT_EQ(cudaStreamIsCapturing(b.stream, &status), cudaSuccess);
        EXPECT_EQ(status, cudaStreamCaptureStatusActive);
        launch(b.stream, ALL, plus, x, x, COUNT, 1.0f);
        cudaEventRecord(b.forked, b.stream);
        cudaStreamWaitEvent(b.side, b.forked, 0);
        launch(b.side, ALL, plus, y, x, COUNT, 10.0f);
        cudaEventRecord(b.joined, b.side);
        launch(b.stream, ALL, plus, z, x, COUNT, 100.0f);
        cudaStreamWaitEvent(b.stream, b.joined, 0);
        launch(b.stream, ALL, plus, z, y, COUNT, 1000.0f);
        cudaGraph_t graph;
        EXPECT_EQ(cudaStreamEndCapture(b.stream, &graph), cudaSuccess);
        size_t nodes = 0;
        EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
        EXPECT_EQ(nodes, 4u);
        cudaGraphExec_t exec;
        EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
        EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
        for (int i = 0; i < 3; i++) {
            EXPECT_EQ(cudaGraphLaunch(exec, b.stream), cudaSuccess);
        }
        cudaStreamSynchronize(b.stream);
        EXPECT_EQ(fetch(z, COUNT)[5], 1013.0f);
        EXPECT_EQ(simcuda::counts().launches, 12u);
        EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
        cudaFree(z);
        cudaFree(y);
        cudaFree(x);
    });
}

TEST_F(SimCuda, CapturedWorkDoesNotRun) {
    cudaStream_t stream = new_stream();
    float *x = device<float>(COUNT);
    cudaMemset(x, 0, COUNT * sizeof(float));
    cudaDeviceSynchronize();
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
    launch(stream, ALL, multiples, x, COUNT, 1.0f);
    cudaGraph_t graph;
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    cudaDeviceSynchronize();
    EXPECT_EQ(fetch(x, COUNT)[9], 0.0f);
    EXPECT_EQ(simcuda::leaks().back(), "graph 0");
}

// Ends the capture with this error after `mistake` was made in it.
cudaError_t end_after(const std::function<void(const Branches &)> &mistake) {
    Branches b;
    cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeGlobal);
    mistake(b);
    cudaGraph_t graph;
    return cudaStreamEndCapture(b.stream, &graph);
}

TEST_F(SimCuda, SynchronisingInACaptureIsRefused) {
    const cudaError_t refused = cudaErrorStreamCaptureUnsupported;
    const std::vector<std::function<void(const Branches &)>> mistakes = {
        [&](const Branches &b) { EXPECT_EQ(cudaStreamSynchronize(b.stream), refused); },
        [&](const Branches &) { EXPECT_EQ(cudaDeviceSynchronize(), refused); },
        [&](const Branches &b) { EXPECT_EQ(cudaStreamQuery(b.stream), refused); },
        [&](const Branches &b) { EXPECT_EQ(cudaEventQuery(b.joined), refused); },
        [&](const Branches &) {
            void *p = nullptr;
            EXPECT_EQ(cudaMalloc(&p, 4), refused);
        },
        [&](const Branches &b) {
            cudaEventRecord(b.forked, b.stream);
            EXPECT_EQ(cudaEventSynchronize(b.forked), cudaErrorCapturedEvent);
        },
    };
    for (const auto &mistake : mistakes) {
        EXPECT_EQ(
            seeds_where([&] { return end_after(mistake) == cudaErrorStreamCaptureInvalidated; }),
            SEEDS);
    }
}

TEST_F(SimCuda, MissingJoinIsRefused) {
    EXPECT_EQ(seeds_where([] {
                  float *x = device<float>(COUNT);
                  return end_after([&](const Branches &b) {
                             cudaEventRecord(b.forked, b.stream);
                             cudaStreamWaitEvent(b.side, b.forked, 0);
                             launch(b.side, ALL, multiples, x, COUNT, 1.0f);
                         }) == cudaErrorStreamCaptureUnjoined;
              }),
              SEEDS);
}

TEST_F(SimCuda, EventFromOutsideACaptureIsRefused) {
    EXPECT_EQ(end_after([](const Branches &b) {
                  cudaEventRecord(b.joined, b.side);
                  EXPECT_EQ(cudaStreamWaitEvent(b.stream, b.joined, 0),
                            cudaErrorStreamCaptureIsolation);
              }),
              cudaErrorStreamCaptureInvalidated);
}

// Branches of a graph that touch the same bytes.
TEST_F(SimCuda, MissingOrderInAGraphIsReported) {
    const unsigned caught = seeds_reporting("order", [] {
        float *x = device<float>(COUNT);
        end_after([&](const Branches &b) {
            cudaEventRecord(b.forked, b.stream);
            cudaStreamWaitEvent(b.side, b.forked, 0);
            cudaMemsetAsync(x, 0, 400, b.side);
            cudaMemsetAsync(x, 1, 400, b.stream);
            cudaEventRecord(b.joined, b.side);
            cudaStreamWaitEvent(b.stream, b.joined, 0);
        });
    });
    EXPECT_EQ(caught, SEEDS);
}

// ---- cuBLAS and NVTX ----

// C (2 x 3) = A (2 x 4) B (4 x 3), row-major as the project has it: the column-major product of
// the transposes.
void product(cublasHandle_t blas, float *c, const float *a, const float *b, float beta) {
    const float alpha = 1.0f;
    EXPECT_EQ(cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 3, 2, 4, &alpha, b, 3, a, 4, &beta, c, 3),
              CUBLAS_STATUS_SUCCESS);
}

struct Matrices {
    cublasHandle_t blas = nullptr;
    float *a = device<float>(8);
    float *b = device<float>(12);
    float *c = device<float>(6);
    Matrices() {
        cublasCreate(&blas);
        const float a_host[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        const float b_host[12] = {1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 1, 1};
        cudaMemcpy(a, a_host, sizeof(a_host), cudaMemcpyDefault);
        cudaMemcpy(b, b_host, sizeof(b_host), cudaMemcpyDefault);
    }
    ~Matrices() {
        cudaFree(c);
        cudaFree(b);
        cudaFree(a);
        cublasDestroy(blas);
    }
};

TEST_F(SimCuda, ProductsOfMatrices) {
    expect_clean([] {
        Matrices m;
        cudaStream_t stream = new_stream();
        EXPECT_EQ(cublasSetStream(m.blas, stream), CUBLAS_STATUS_SUCCESS);
        product(m.blas, m.c, m.a, m.b, 0.0f);
        product(m.blas, m.c, m.a, m.b, 1.0f); // added to the first
        cudaStreamSynchronize(stream);
        EXPECT_EQ(fetch(m.c, 6), (std::vector<float>{20, 12, 18, 52, 28, 50}));
        // A^T A of the 2 x 4 matrix above, its first two rows and columns.
        const float one = 1.0f, zero = 0.0f;
        EXPECT_EQ(cublasGemmEx(m.blas, CUBLAS_OP_N, CUBLAS_OP_T, 2, 2, 2, &one, m.a, CUDA_R_32F, 4,
                               m.a, CUDA_R_32F, 4, &zero, m.c, CUDA_R_32F, 2, CUBLAS_COMPUTE_32F,
                               CUBLAS_GEMM_DEFAULT),
                  CUBLAS_STATUS_SUCCESS);
        cudaStreamSynchronize(stream);
        EXPECT_EQ(fetch(m.c, 4), (std::vector<float>{26, 32, 32, 40}));
        cudaStreamDestroy(stream);
    });
}

TEST_F(SimCuda, ProductReadWithoutWaitingIsReported) {
    const unsigned caught = seeds_reporting("order", [] {
        Matrices m;
        cudaStream_t stream = new_stream();
        cudaStream_t other = new_stream();
        cublasSetStream(m.blas, stream);
        product(m.blas, m.c, m.a, m.b, 0.0f);
        float *slot = pinned<float>(6);
        cudaMemcpyAsync(slot, m.c, 24, cudaMemcpyDeviceToHost, other);
    });
    EXPECT_EQ(caught, SEEDS);
}

// A kernel on another stream reads it: the schedules show that.
TEST_F(SimCuda, ProductReadByKernelWithoutWaitingShows) {
    const unsigned caught = seeds_where([] {
        Matrices m;
        cudaStream_t stream = new_stream();
        cudaStream_t other = new_stream();
        cublasSetStream(m.blas, stream);
        float *out = device<float>(60);
        for (unsigned i = 0; i < 10; i++) {
            cudaMemsetAsync(m.c, 0, 24, stream);
            cudaStreamSynchronize(stream);
            product(m.blas, m.c, m.a, m.b, 0.0f);
            launch(other, {1, 32, 0}, plus, out + i * 6, m.c, 6, 0.0f);
            cudaStreamSynchronize(other);
        }
        cudaDeviceSynchronize();
        const std::vector<float> got = fetch(out, 60);
        bool wrong = false;
        for (unsigned i = 0; i < 60; i += 6) {
            wrong = wrong || got[i] != 10.0f;
        }
        return wrong;
    });
    EXPECT_GE(caught, ENOUGH);
}

TEST_F(SimCuda, SharedWorkspaceIsReported) {
    const unsigned caught = seeds_reporting("order", [] {
        Matrices m;
        Matrices n;
        float *workspace = device<float>(256);
        cublasSetStream(m.blas, new_stream());
        cublasSetStream(n.blas, new_stream());
        cublasSetWorkspace(m.blas, workspace, 1024);
        cublasSetWorkspace(n.blas, workspace, 1024);
        product(m.blas, m.c, m.a, m.b, 0.0f);
        product(n.blas, n.c, n.a, n.b, 0.0f);
    });
    EXPECT_EQ(caught, SEEDS);
}

TEST_F(SimCuda, WhatCublasLacksIsRefused) {
    Matrices m;
    const float one = 1.0f;
    EXPECT_EQ(cublasSetMathMode(m.blas, CUBLAS_TF32_TENSOR_OP_MATH), CUBLAS_STATUS_NOT_SUPPORTED);
    EXPECT_EQ(cublasSetMathMode(m.blas, CUBLAS_PEDANTIC_MATH), CUBLAS_STATUS_SUCCESS);
    for (cublasComputeType_t type : {CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F_FAST_16BF}) {
        EXPECT_EQ(cublasGemmEx(m.blas, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, m.a, CUDA_R_32F, 2,
                               m.a, CUDA_R_32F, 2, &one, m.c, CUDA_R_32F, 2, type,
                               CUBLAS_GEMM_DEFAULT),
                  CUBLAS_STATUS_NOT_SUPPORTED);
    }
    EXPECT_EQ(
        cublasSgemm(m.blas, CUBLAS_OP_N, CUBLAS_OP_N, 3, 2, 4, &one, m.b, 2, m.a, 4, &one, m.c, 3),
        CUBLAS_STATUS_INVALID_VALUE); // lda below m
}

TEST_F(SimCuda, ProfilerRangesAreCounted) {
    EXPECT_EQ(nvtxRangePushA("step"), 0);
    EXPECT_EQ(nvtxRangePush("forward"), 1);
    EXPECT_EQ(nvtxRangePop(), 1);
    EXPECT_EQ(nvtxRangePop(), 0);
    EXPECT_LT(nvtxRangePop(), 0);
    const simcuda::ProfilerRanges ranges = simcuda::profiler_ranges();
    EXPECT_EQ(ranges.pushes, 2u);
    EXPECT_EQ(ranges.pops, 2u);
    EXPECT_EQ(ranges.unmatched_pops, 1u);
}

} // namespace
