// libcairn-checkpoint with tensors on a CUDA device: what a checkpoint holds is what the trainer's
// own stream had written before the save, whatever the order in which the streams get to run.
#include <gtest/gtest.h>

#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "include/cairn/checkpoint.h"
#include "tests/support/cuda_device.h"
#include "tests/support/temporary_directory.h"

namespace {

constexpr size_t kLarge = 30000, kSmall = 5;

// A trainer whose step writes its number into every byte of both tensors.
class DeviceTrainer {
  public:
    explicit DeviceTrainer(const std::string &directory) : directory_(directory) {
        EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
        EXPECT_EQ(cudaMalloc(&large, kLarge), cudaSuccess);
        EXPECT_EQ(cudaMalloc(&small, kSmall * sizeof(int64_t)), cudaSuccess);
    }
    ~DeviceTrainer() {
        cairn_checkpoint_close(saves, nullptr);
        cudaFree(small);
        cudaFree(large);
        cudaStreamDestroy(stream);
    }
    DeviceTrainer(const DeviceTrainer &) = delete;
    DeviceTrainer &operator=(const DeviceTrainer &) = delete;

    void start() {
        cairn_checkpoint_options options = CAIRN_CHECKPOINT_OPTIONS_INIT;
        options.cuda_stream = stream;
        options.busy = CAIRN_CHECKPOINT_LATEST;
        options.keep_max = 0;
        ASSERT_EQ(cairn_checkpoint_open(directory_.c_str(), &options, &saves, &error), CAIRN_OK)
            << error.message;
        const cairn_tensor tensors[] = {{"large", CAIRN_U8, CAIRN_CUDA, large, 2, {100, 300}},
                                        {"host", CAIRN_I64, CAIRN_HOST, &host, 0, {}},
                                        {"none", CAIRN_F32, CAIRN_CUDA, nullptr, 1, {0}},
                                        {"small", CAIRN_I64, CAIRN_CUDA, small, 1, {kSmall}}};
        for (const cairn_tensor &tensor : tensors) {
            ASSERT_EQ(cairn_checkpoint_add(saves, &tensor, &error), CAIRN_OK) << error.message;
        }
        ASSERT_EQ(cairn_checkpoint_restore_latest(saves, &found, &step, &error), CAIRN_OK)
            << error.message;
    }

    void train() {
        step++;
        EXPECT_EQ(cudaMemsetAsync(large, static_cast<int>(step), kLarge, stream), cudaSuccess);
        EXPECT_EQ(cudaMemsetAsync(small, static_cast<int>(step), kSmall * sizeof(int64_t), stream),
                  cudaSuccess);
        host = static_cast<int64_t>(step);
    }

    cairn_status save(unsigned flags = 0) {
        return cairn_checkpoint_save(saves, step, flags, nullptr, &error);
    }

    // What the device holds now; -1 when not all bytes are equal.
    int value() {
        std::vector<uint8_t> bytes(kLarge + kSmall * sizeof(int64_t));
        EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        EXPECT_EQ(cudaMemcpy(bytes.data(), large, kLarge, cudaMemcpyDeviceToHost), cudaSuccess);
        EXPECT_EQ(cudaMemcpy(bytes.data() + kLarge, small, kSmall * sizeof(int64_t),
                             cudaMemcpyDeviceToHost),
                  cudaSuccess);
        for (uint8_t byte : bytes) {
            if (byte != bytes[0]) {
                return -1;
            }
        }
        return bytes[0];
    }

    cudaStream_t stream = nullptr;
    void *large = nullptr, *small = nullptr;
    int64_t host = 0;
    uint64_t step = 0;
    bool found = false;
    cairn_checkpoint *saves = nullptr;
    cairn_error error = {};

  private:
    std::string directory_;
};

class LibraryCuda : public CudaTest {};

TEST_F(LibraryCuda, ThisBuildHasIt) {
    EXPECT_TRUE(cairn_checkpoint_has_cuda());
}

// Every checkpoint of a run that never waits holds its step and nothing of a later one.
TEST_F(LibraryCuda, EachCheckpointIsTheStateAtItsStep) {
    const uint64_t seeds = cuda_is_simulated() ? 5 : 1;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        cuda_schedule(seed);
        TemporaryDirectory directory;
        {
            DeviceTrainer trainer(directory.file("run"));
            trainer.start();
            EXPECT_FALSE(trainer.found);
            while (trainer.step < 12) {
                trainer.train();
                ASSERT_EQ(trainer.save(trainer.step % 4 == 0 ? CAIRN_CHECKPOINT_MUST : 0), CAIRN_OK)
                    << trainer.error.message;
            }
            trainer.train(); // not saved
            ASSERT_EQ(cairn_checkpoint_wait(trainer.saves, &trainer.error), CAIRN_OK)
                << trainer.error.message;
            const cairn_checkpoint_totals *totals = cairn_checkpoint_get_totals(trainer.saves);
            EXPECT_GE(totals->saved, 3u);
            EXPECT_EQ(trainer.value(), 13);
        }
        // The newest first, then each older one.
        for (uint64_t below = 13; below > 1;) {
            DeviceTrainer resumed(directory.file("run"));
            resumed.start();
            if (!resumed.found) {
                EXPECT_LT(below, 13u);
                break;
            }
            ASSERT_LT(resumed.step, below);
            below = resumed.step;
            EXPECT_EQ(resumed.value(), static_cast<int>(resumed.step)) << "seed " << seed;
            EXPECT_EQ(resumed.host, static_cast<int64_t>(resumed.step));
            std::string newest = directory.file("run/model.ckpt-" + std::to_string(resumed.step) +
                                                ".safetensors.zst");
            ASSERT_EQ(remove(newest.c_str()), 0) << newest;
        }
    }
}

TEST_F(LibraryCuda, OnlyMemoryOfADeviceIsTaken) {
    TemporaryDirectory directory;
    cairn_checkpoint *saves = nullptr;
    cairn_error error = {};
    ASSERT_EQ(cairn_checkpoint_open(directory.file("run").c_str(), nullptr, &saves, &error),
              CAIRN_OK);
    float host = 0;
    const cairn_tensor tensor = {"host", CAIRN_F32, CAIRN_CUDA, &host, 0, {}};
    EXPECT_EQ(cairn_checkpoint_add(saves, &tensor, &error), CAIRN_ERROR_DEVICE);
    EXPECT_NE(std::string(error.message).find("CAIRN_HOST"), std::string::npos) << error.message;
    EXPECT_EQ(cairn_checkpoint_close(saves, nullptr), CAIRN_OK);
}

} // namespace
