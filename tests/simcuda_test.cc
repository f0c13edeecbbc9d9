// The simulated device: blocks, their barriers, lanes and shared memory; launches; what a device says
// of itself and failures that a test asks for.
#include <signal.h>

#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/simcuda_program.h"

namespace {

using namespace kernels;

// ---- correct programs ----

TEST_F(SimCuda, KernelsComputeUnderAllSeeds) {
    expect_clean([] {
        float *x = device<float>(COUNT);
        float *sum = device<float>(1);
        EXPECT_EQ(launch(nullptr, ALL, multiples, x, COUNT, 3.0f), cudaSuccess);
        EXPECT_EQ(launch(nullptr, ONE, tree_sum, sum, x), cudaSuccess);
        EXPECT_EQ(fetch(sum, 1)[0], 3.0f * 63.0f * 64.0f / 2.0f);
        EXPECT_EQ(fetch(x, COUNT)[999], 2997.0f);
        float *row = device<float>(THREADS);
        EXPECT_EQ(launch(nullptr, {1, THREADS, 16 + THREADS * 16}, four_at_once, row), cudaSuccess);
        EXPECT_EQ(fetch(row, THREADS)[10], 530.0f); // (63 - 10) * (1 + 2 + 3 + 4)
        cudaFree(row);
        cudaFree(sum);
        cudaFree(x);
    });
}

TEST_F(SimCuda, LanesTellEachOther) {
    expect_clean([] {
        int *out = device<int>(THREADS * 8);
        EXPECT_EQ(launch(nullptr, ONE, warp_functions, out), cudaSuccess);
        const std::vector<int> got = fetch(out, THREADS * 8);
        for (int thread = 0; thread < static_cast<int>(THREADS); thread++) {
            const int lane = thread % 32;
            const int *own = got.data() + thread * 8;
            EXPECT_EQ(own[0], lane ^ 5);
            EXPECT_EQ(own[1], 21);
            EXPECT_EQ(own[2], lane < 2 ? lane : lane - 2);
            EXPECT_EQ(own[3], lane > 28 ? lane : lane + 3);
            EXPECT_EQ(own[4], 0x49249249);
            EXPECT_EQ(own[5], 2);
            EXPECT_EQ(own[6], 1);
            EXPECT_EQ(own[7], lane < 16 ? (lane ^ 1) * 2 + 1 : 0);
        }
        cudaFree(out);
    });
}

TEST_F(SimCuda, BarriersOrderSharedMemory) {
    expect_clean([] {
        float *out = device<float>(THREADS);
        EXPECT_EQ(launch(nullptr, ONE, neighbours, out, Mistake::NONE), cudaSuccess);
        EXPECT_EQ(fetch(out, THREADS)[40], 2.0f * 9.0f); // (40 + 33) % 64
        EXPECT_EQ(launch(nullptr, ONE, warp_passes, out), cudaSuccess);
        EXPECT_EQ(fetch(out, THREADS)[40], 41.0f);
        EXPECT_EQ(launch(nullptr, {1, 32, 128}, lane_reads_lane, out, Order::WARP_BARRIER),
                  cudaSuccess);
        cudaFree(out);
        unsigned *bins = device<unsigned>(4);
        unsigned *in = device<unsigned>(5);
        const unsigned words[] = {1, 5, 2, 7, 9};
        cudaMemcpy(in, words, sizeof(words), cudaMemcpyDefault);
        EXPECT_EQ(launch(nullptr, ONE, histogram, bins, in, 5), cudaSuccess);
        EXPECT_EQ(fetch(bins, 4), (std::vector<unsigned>{0, 3, 1, 1}));
        cudaFree(in);
        cudaFree(bins);
    });
}

// ---- faults of kernels ----

void expect_shared_fault(const std::string &kind, cudaError_t error, SharedMistake mistake) {
    expect_fault(kind, error,
                 [=] { launch(nullptr, ONE, bad_shared, device<float>(THREADS), mistake); });
}

void expect_mask_fault(Mask mistake) {
    expect_fault("warp-mask", cudaErrorLaunchFailure, [=] {
        launch(nullptr, {1, 32, 0}, bad_mask, device<int>(32), mistake);
    });
}

TEST_F(SimCuda, MissingBarrierBeforeReadIsCaught) {
    expect_fault("race", cudaErrorLaunchFailure, [] {
        launch(nullptr, ONE, neighbours, device<float>(THREADS), Mistake::READ_AFTER_WRITE);
    });
}

TEST_F(SimCuda, MissingBarrierBeforeWriteIsCaught) {
    expect_fault("race", cudaErrorLaunchFailure, [] {
        launch(nullptr, ONE, neighbours, device<float>(THREADS), Mistake::WRITE_AFTER_READ);
    });
    expect_fault("race", cudaErrorLaunchFailure, [] {
        launch(nullptr, ONE, neighbours, device<float>(THREADS), Mistake::WRITE_AFTER_WRITE);
    });
}

TEST_F(SimCuda, ShuffleDoesNotOrderMemory) {
    expect_fault("race", cudaErrorLaunchFailure, [] {
        launch(nullptr, {1, 32, 128}, lane_reads_lane, device<float>(32), Order::SHUFFLE);
    });
}

TEST_F(SimCuda, WarpBarrierOrdersItsLanesOnly) {
    expect_fault("race", cudaErrorLaunchFailure, [] {
        launch(nullptr, {1, 32, 128}, lane_reads_lane, device<float>(32), Order::OTHER_LANES);
    });
}

TEST_F(SimCuda, ReadBesideAtomicAdditionIsCaught) {
    expect_fault("race", cudaErrorLaunchFailure,
                 [] { launch(nullptr, ONE, reads_while_counting, device<unsigned>(1)); });
}

TEST_F(SimCuda, DivergentBarrierIsCaught) {
    expect_fault("divergent-barrier", cudaErrorLaunchFailure,
                 [] { launch(nullptr, ONE, barrier_for_some, device<float>(THREADS)); });
    expect_fault("divergent-barrier", cudaErrorLaunchFailure,
                 [] { launch(nullptr, ONE, two_barriers, device<float>(THREADS)); });
}

TEST_F(SimCuda, ShuffleWithPartialMaskIsCaught) {
    expect_mask_fault(Mask::SOME_LANES_ABSENT);
    expect_mask_fault(Mask::NOT_NAMED);
    expect_mask_fault(Mask::DIFFERENT);
    expect_mask_fault(Mask::READS_OUTSIDE);
    expect_mask_fault(Mask::ENDED);
}

TEST_F(SimCuda, SharedMemoryOutOfBoundsIsCaught) {
    expect_shared_fault("out-of-bounds", cudaErrorIllegalAddress, SharedMistake::OUT_OF_BOUNDS);
    expect_shared_fault("out-of-bounds", cudaErrorIllegalAddress,
                        SharedMistake::FOUR_OUT_OF_BOUNDS);
    expect_shared_fault("out-of-bounds", cudaErrorIllegalAddress, SharedMistake::TOO_LARGE);
    expect_shared_fault("misaligned", cudaErrorMisalignedAddress, SharedMistake::UNALIGNED);
}

TEST_F(SimCuda, SharedMemoryNeverWrittenIsCaught) {
    expect_shared_fault("uninitialised", cudaErrorLaunchFailure, SharedMistake::UNWRITTEN);
}

TEST_F(SimCuda, WrongLaunchBoundsAreCaught) {
    expect_fault("launch-bounds", cudaErrorLaunchFailure, [] {
        launch(nullptr, {8, THREADS * 2, 0}, multiples, device<float>(COUNT), COUNT, 1.0f);
    });
}

TEST_F(SimCuda, OtherFaultsOfThreads) {
    launch(nullptr, ONE, divides, device<unsigned>(THREADS), 0);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    EXPECT_TRUE(reported("division"));
    simcuda::reset(1);
    launch(nullptr, {1, 1, 0}, recurses, device<unsigned>(1));
    EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    EXPECT_TRUE(reported("stack"));
}

// The report names kernel, block, thread, place; the error stays.
TEST_F(SimCuda, FaultTellsWhere) {
    launch(nullptr, ONE, bad_shared, device<float>(THREADS), SharedMistake::UNWRITTEN);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    EXPECT_TRUE(report_says("kernel tested, block (0,0,0), thread 9: ")) << simcuda::reports_text();
    EXPECT_TRUE(report_says("simcuda_kernels.h:")) << simcuda::reports_text();
    void *p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, 4), cudaErrorLaunchFailure);
    EXPECT_EQ(launch(nullptr, ONE, mark, nullptr, 0u), cudaErrorLaunchFailure);
    EXPECT_STREQ(cudaGetErrorString(cudaGetLastError()), "unspecified launch failure");
    EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure); // not cleared
}

// The writer blocks all signals; a fault on its thread is the kernel's all the same.
TEST_F(SimCuda, FaultOnAThreadThatBlocksSignals) {
    expect_fault("out-of-bounds", cudaErrorIllegalAddress, [] {
        cudaStream_t stream = new_stream();
        launch(stream, ALL, multiples, device<float>(1), COUNT, 1.0f);
        std::thread waiter([=] {
            sigset_t all;
            sigfillset(&all);
            pthread_sigmask(SIG_BLOCK, &all, nullptr);
            cudaStreamSynchronize(stream);
        });
        waiter.join();
    });
}

TEST_F(SimCuda, LaunchesOutOfRangeAreRefused) {
    float *x = device<float>(COUNT);
    const auto grid = [&](dim3 blocks, unsigned threads, unsigned shared) {
        return launch(nullptr, {blocks, threads, shared}, plus, x, x, COUNT, 0.0f);
    };
    EXPECT_EQ(grid(1, 1025, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(grid(1, 0, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(grid(0, 32, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(grid({1, 65536}, 32, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(grid(1, 32, 48 * 1024 + 1), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue); // the device is not lost
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_TRUE(reported("launch"));
    const void *kernel = reinterpret_cast<const void *>(plus);
    const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    EXPECT_EQ(cudaFuncSetAttribute(kernel, most, 99 * 1024 + 1), cudaErrorInvalidValue);
    EXPECT_EQ(cudaFuncSetAttribute(kernel, most, 99 * 1024), cudaSuccess);
    cudaMemset(x, 0, COUNT * sizeof(float));
    EXPECT_EQ(grid(1, 32, 99 * 1024), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST_F(SimCuda, HostPointerAsArgumentIsRefused) {
    float host[COUNT];
    EXPECT_EQ(launch(nullptr, ALL, multiples, host, COUNT, 1.0f), cudaErrorInvalidValue);
    EXPECT_TRUE(report_says("argument 1")) << simcuda::reports_text();
}

TEST_F(SimCuda, OrderOfBlocksShows) {
    std::set<float> results;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        simcuda::reset(seed);
        float *chain = device<float>(1);
        cudaMemset(chain, 0, sizeof(float));
        launch(nullptr, {5, 32, 0}, blocks_in_order, chain);
        results.insert(fetch(chain, 1)[0]);
    }
    EXPECT_GT(results.size(), 30u); // 5! orders have a hundred and more results
}

// ---- devices and injected failures ----

TEST_F(SimCuda, NoDevice) {
    simcuda::set_device_count(0);
    int count = -1;
    EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    EXPECT_EQ(count, 0);
    EXPECT_STREQ(cudaGetErrorString(cudaErrorNoDevice), "no CUDA-capable device is detected");
    EXPECT_EQ(cudaSetDevice(0), cudaErrorNoDevice);
    void *p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, 1), cudaErrorNoDevice);
}

TEST_F(SimCuda, Devices) {
    simcuda::set_device_count(2);
    EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
    EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
    int device_now = -1;
    EXPECT_EQ(cudaGetDevice(&device_now), cudaSuccess);
    EXPECT_EQ(device_now, 1);
    cudaDeviceProp prop;
    EXPECT_EQ(cudaGetDeviceProperties(&prop, 1), cudaSuccess);
    EXPECT_STREQ(prop.name, "Simulated device");
    int value = 0;
    EXPECT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
              cudaSuccess);
    EXPECT_EQ(value, 99 * 1024);
}

TEST_F(SimCuda, InjectedFailures) {
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        simcuda::reset(seed);
        simcuda::fail_allocation(2);
        float *x = device<float>(COUNT);
        void *p = nullptr;
        EXPECT_EQ(cudaMalloc(&p, 4), cudaErrorMemoryAllocation);
        EXPECT_EQ(cudaMalloc(&p, 4), cudaSuccess);
        simcuda::fail_launch(2);
        launch(nullptr, ALL, multiples, x, COUNT, 1.0f);
        EXPECT_EQ(fetch(x, COUNT)[3], 3.0f);
        launch(nullptr, ALL, multiples, x, COUNT, 1.0f);
        EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
        EXPECT_EQ(simcuda::reports_text(), "");
        simcuda::reset(seed);
        simcuda::fail_copy(2);
        x = device<float>(COUNT);
        cudaMemset(x, 0, 4);
        cudaMemset(x, 0, 4);
        EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorECCUncorrectable);
    }
}

} // namespace
