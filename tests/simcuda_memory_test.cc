// The simulated device: global memory, allocation and copies.
#include <cublas_v2.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "tests/simcuda_program.h"

namespace {

using namespace kernels;

// ---- memory ----

TEST_F(SimCuda, GlobalMemoryOutOfBoundsIsCaught) {
    // Far behind: an inaccessible page. Just behind: what lies there is watched.
    expect_fault("out-of-bounds", cudaErrorIllegalAddress,
                 [] { launch(nullptr, ALL, multiples, device<float>(COUNT - 100), COUNT, 1.0f); });
    expect_fault("out-of-bounds", cudaErrorIllegalAddress,
                 [] { launch(nullptr, ALL, multiples, device<float>(COUNT - 1), COUNT, 1.0f); });
    expect_fault("out-of-bounds", cudaErrorIllegalAddress, [] {
        float *in = device<float>(100);
        launch(nullptr, ALL, plus, device<float>(COUNT), in, COUNT, 1.0f);
    });
}

TEST_F(SimCuda, UseAfterFreeIsCaught) {
    expect_fault("out-of-bounds", cudaErrorIllegalAddress, [] {
        float *x = device<float>(COUNT);
        cudaFree(x);
        launch(nullptr, ALL, multiples, x, COUNT, 1.0f);
    });
    EXPECT_TRUE(report_says("freed device memory #1")) << simcuda::reports_text();
    EXPECT_EQ(seeds_reporting("copy",
                              [] {
                                  float *x = device<float>(COUNT);
                                  cudaFree(x);
                                  float y;
                                  EXPECT_EQ(cudaMemcpy(&y, x, 4, cudaMemcpyDeviceToHost),
                                            cudaErrorInvalidValue);
                              }),
              SEEDS);
}

TEST_F(SimCuda, LeaksAreListed) {
    const unsigned caught = seeds_where([] {
        cudaFree(device<float>(1));
        device<float>(2);
        pinned<float>(3);
        new_stream();
        new_event();
        cublasHandle_t blas;
        cublasCreate(&blas);
        return simcuda::leaks() == Strings{"device memory #2 (8 bytes)",
                                           "pinned memory #3 (12 bytes)", "stream 1", "event 0",
                                           "cuBLAS handle 0"};
    });
    EXPECT_EQ(caught, SEEDS);
}

TEST_F(SimCuda, UninitialisedMemoryIsReported) {
    // Also what was computed from it, as float or double.
    EXPECT_GE(seeds_reporting("uninitialised",
                              [] {
                                  float *x = device<float>(COUNT);
                                  float *y = device<float>(COUNT);
                                  launch(nullptr, ALL, plus, y, x, COUNT, 1.0f);
                                  fetch(y, COUNT);
                              }),
              ENOUGH);
    simcuda::reset(1);
    fetch(device<double>(1), 1);
    EXPECT_TRUE(reported("uninitialised"));
}

TEST_F(SimCuda, PoisonSurvivesArithmetic) {
    const uint32_t word = simcuda::POISON;
    const uint64_t wide = uint64_t{word} << 32 | word;
    volatile float x;
    volatile double d;
    memcpy(const_cast<float *>(&x), &word, 4);
    memcpy(const_cast<double *>(&d), &wide, 8);
    EXPECT_TRUE(x != x);
    EXPECT_TRUE(d != d);
    const float sum = 1.0f - x * 2.0f;
    const double widened = 3.0 * static_cast<double>(x);
    const float narrowed = static_cast<float>(d + 1.0);
    double *out = device<double>(3);
    for (int i = 0; i < 3; i++) {
        double place = 0.0;
        memcpy(&place, i == 0 ? static_cast<const void *>(&sum) : &narrowed, 4);
        place = i == 2 ? widened : place;
        cudaMemcpy(out + i, &place, 8, cudaMemcpyHostToDevice);
        EXPECT_FALSE(reported("uninitialised"));
        fetch(out + i, 1);
        EXPECT_TRUE(reported("uninitialised")) << i;
        simcuda::reset(1);
        out = device<double>(3);
    }
}

TEST_F(SimCuda, WrongFreesAreReported) {
    float *x = device<float>(1);
    float *y = pinned<float>(1);
    EXPECT_EQ(cudaFree(x), cudaSuccess);
    EXPECT_EQ(cudaFree(x), cudaErrorInvalidValue);
    EXPECT_EQ(cudaFree(y), cudaErrorInvalidValue);
    EXPECT_EQ(cudaFreeHost(y + 1), cudaErrorInvalidValue);
    float host;
    EXPECT_EQ(cudaFree(&host), cudaErrorInvalidValue);
    EXPECT_EQ(simcuda::take_reports().size(), 4u);
    EXPECT_EQ(cudaFreeHost(y), cudaSuccess);
    EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
}

TEST_F(SimCuda, CopiesOutOfBoundsAreRefused) {
    float *x = device<float>(10);
    float host[20] = {};
    EXPECT_EQ(cudaMemcpy(x, host, 44, cudaMemcpyDefault), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemcpy(x + 10, host, 4, cudaMemcpyDefault), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemcpy(host, x, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemset(x, 0, 41), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemset(host, 0, 4), cudaErrorInvalidValue);
    EXPECT_EQ(simcuda::take_reports().size(), 5u);
}

TEST_F(SimCuda, AllocationsAreAlignedAndFinite) {
    for (size_t bytes : {1u, 255u, 256u, 257u, 4096u, 5000u}) {
        void *p = nullptr;
        ASSERT_EQ(cudaMalloc(&p, bytes), cudaSuccess);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 256, 0u);
    }
    simcuda::set_device_memory(10000);
    size_t free_bytes = 0, total = 0;
    EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
    EXPECT_EQ(total, 10000u);
    EXPECT_EQ(free_bytes, 10000u - 9865u);
    void *p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, 136), cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaMalloc(&p, 135), cudaSuccess);
}

TEST_F(SimCuda, KernelsReachPinnedMemory) {
    expect_clean([] {
        unsigned *word = pinned<unsigned>(1);
        void *p = nullptr;
        EXPECT_EQ(cudaHostGetDevicePointer(&p, word, 0), cudaSuccess);
        launch(nullptr, ONE, mark, static_cast<unsigned *>(p), 7u);
        cudaDeviceSynchronize();
        EXPECT_EQ(*word, 7u);
        cudaFreeHost(word);
    });
}

using SimCudaDeathTest = SimCuda;

TEST_F(SimCudaDeathTest, HostCodeCannotReadDeviceMemory) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    for (unsigned seed = 1; seed <= 3; seed++) {
        simcuda::reset(seed);
        float *x = device<float>(COUNT);
        launch(nullptr, ALL, multiples, x, COUNT, 1.0f);
        cudaDeviceSynchronize();
        EXPECT_DEATH(*const_cast<volatile float *>(x) += 1.0f, "");
        float *slot = pinned<float>(1);
        cudaFreeHost(slot);
        EXPECT_DEATH(*const_cast<volatile float *>(slot) += 1.0f, "");
    }
}

TEST_F(SimCudaDeathTest, UnreadReportsAreToldAtTheEnd) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(
        {
            cudaFree(reinterpret_cast<void *>(8));
            exit(0);
        },
        ::testing::ExitedWithCode(0), "simulated device: free: cudaFree of address 0x8");
    EXPECT_EXIT(
        {
            setenv("CAIRN_SIM_STRICT", "1", 1);
            simcuda::read_environment();
            cudaFree(reinterpret_cast<void *>(8));
            exit(0);
        },
        ::testing::ExitedWithCode(simcuda::EXIT_REPORTS), "simulated device: free");
}

} // namespace
