// What tests of the CUDA backend's inner parts need: arrays in device memory, and the sizes of a
// batch there. Compiled like the backend itself: by nvcc, or as C++ for the simulated device.
#ifndef CAIRN_TESTS_SUPPORT_CUDA_PARTS_H
#define CAIRN_TESTS_SUPPORT_CUDA_PARTS_H

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/cuda_internal.cuh"

// An array in device memory.
template <class T> class DeviceArray {
  public:
    explicit DeviceArray(const std::vector<T> &values) : count_(values.size()) {
        allocate();
        put(values);
    }
    // Every byte is 0xff, which is a NaN as a float: nothing may rely on what was there.
    explicit DeviceArray(size_t count) : count_(count) {
        allocate();
        EXPECT_EQ(cudaMemset(data_, 0xff, bytes()), cudaSuccess);
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); // a fill does not wait by itself
    }
    ~DeviceArray() { cudaFree(data_); }
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;

    T *data() const { return data_; }
    void put(const std::vector<T> &values) {
        ASSERT_EQ(values.size(), count_);
        EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
                  cudaSuccess);
    }
    std::vector<T> get() const {
        std::vector<T> values(count_);
        EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
                  cudaSuccess);
        return values;
    }

  private:
    size_t bytes() const { return (count_ > 0 ? count_ : 1) * sizeof(T); }
    void allocate() {
        void *memory = nullptr;
        EXPECT_EQ(cudaMalloc(&memory, bytes()), cudaSuccess);
        data_ = static_cast<T *>(memory);
    }

    size_t count_;
    T *data_ = nullptr;
};

// step_inputs of a batch in device memory.
class DeviceInputs {
  public:
    DeviceInputs(uint64_t tokens, uint32_t sequences)
        : array_(std::vector<step_inputs>{{tokens, sequences, 0.0f}}) {}
    const step_inputs *data() const { return array_.data(); }

  private:
    DeviceArray<step_inputs> array_;
};

// The same numbers for the same seed; what they are like does not matter.
class Noise {
  public:
    explicit Noise(uint64_t seed) : state_(seed * 2 + 1) {}
    uint32_t below(uint32_t bound) {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)((state_ >> 33) % bound);
    }
    // -range to range; sums of products of such numbers are exact in float while below 2^24.
    float whole(uint32_t range) { return (float)below(2 * range + 1) - (float)range; }
    std::vector<float> wholes(size_t count, uint32_t range) {
        std::vector<float> values(count);
        for (float &value : values) {
            value = whole(range);
        }
        return values;
    }
    std::vector<float> fractions(size_t count) {
        std::vector<float> values(count);
        for (float &value : values) {
            value = whole(1000000) / 1000003.0f;
        }
        return values;
    }
    std::vector<uint32_t> words(size_t count, uint32_t vocabulary) {
        std::vector<uint32_t> values(count);
        for (uint32_t &value : values) {
            value = below(vocabulary);
        }
        return values;
    }

  private:
    uint64_t state_;
};

#endif
