// Launches of kernels: checks at the call, then the blocks one after the other in an order drawn by
// seed, a few at a time.
#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {

thread_local const char *next_name = "kernel";
std::map<const void *, size_t> shared_allowed; // by kernel

class KernelWork : public Work {
  public:
    KernelWork(std::string name, const cudaLaunchConfig_t &config, std::function<void()> body)
        : name_(std::move(name)), config_(config), body_(std::move(body)),
          order_(static_cast<size_t>(config.gridDim.x) * config.gridDim.y * config.gridDim.z) {
        std::iota(order_.begin(), order_.end(), size_t{0});
        for (size_t i = order_.size(); i > 1; i--) {
            std::swap(order_[i - 1], order_[state.random.next() % i]);
        }
    }
    bool step() override {
        if (next_ == 0) {
            state.counts.launches++;
            if (injected(&state.fail_launch)) {
                fail_device(cudaErrorLaunchFailure);
                return true;
            }
        }
        const size_t left = order_.size() - next_;
        for (size_t count = 1 + state.random.next() % left; count > 0; count--) {
            if (!run(order_[next_++])) {
                return true;
            }
        }
        return next_ == order_.size();
    }

  private:
    bool run(size_t index) {
        const dim3 grid = config_.gridDim;
        running.grid_dim = grid;
        running.block_dim = config_.blockDim;
        running.block = {static_cast<unsigned>(index % grid.x),
                         static_cast<unsigned>(index / grid.x % grid.y),
                         static_cast<unsigned>(index / grid.x / grid.y)};
        state.counts.blocks++;
        const cudaError_t error =
            run_block(name_.c_str(), body_, static_cast<unsigned>(config_.dynamicSmemBytes));
        if (error != cudaSuccess) {
            fail_device(error);
        }
        return error == cudaSuccess;
    }

    std::string name_;
    cudaLaunchConfig_t config_;
    std::function<void()> body_;
    std::vector<size_t> order_;
    size_t next_ = 0;
};

// Empty: nothing is wrong with it.
std::string wrong_with(const cudaLaunchConfig_t &c, const void *kernel, cudaError_t *error) {
    const uint64_t threads = uint64_t{c.blockDim.x} * c.blockDim.y * c.blockDim.z;
    const uint64_t blocks = uint64_t{c.gridDim.x} * c.gridDim.y * c.gridDim.z;
    *error = cudaErrorInvalidConfiguration;
    if (threads == 0 || threads > 1024 || c.blockDim.z > 64) {
        return format("a block of %u x %u x %u threads", c.blockDim.x, c.blockDim.y, c.blockDim.z);
    }
    if (blocks == 0 || c.gridDim.x > 2147483647u || c.gridDim.y > 65535 || c.gridDim.z > 65535) {
        return format("a grid of %u x %u x %u blocks", c.gridDim.x, c.gridDim.y, c.gridDim.z);
    }
    const auto allowed = shared_allowed.find(kernel);
    const size_t most =
        std::max<size_t>(SHARED_DEFAULT, allowed == shared_allowed.end() ? 0 : allowed->second);
    *error = cudaErrorInvalidValue;
    if (c.dynamicSmemBytes > most) {
        return format("%zu bytes of dynamic shared memory, %zu are allowed", c.dynamicSmemBytes,
                      most);
    }
    *error = cudaSuccess;
    return {};
}

} // namespace

void name_launch(const char *name) {
    next_name = name;
}

cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel, std::function<void()> body,
                   int bad_argument) {
    Entered entered;
    const std::string name = next_name;
    next_name = "kernel";
    CUstream_st *stream = find_stream(config.stream);
    if (usable() != cudaSuccess || stream == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    cudaError_t error;
    std::string wrong = wrong_with(config, kernel, &error);
    if (wrong.empty() && bad_argument != 0) {
        wrong = format("argument %d points to memory that the device cannot reach", bad_argument);
        error = cudaErrorInvalidValue;
    }
    if (!wrong.empty()) {
        report("launch", name + ": " + wrong);
        return returned(error);
    }
    Operation operation;
    operation.name = name;
    operation.make = [name, config, body = std::move(body)] {
        return std::make_unique<KernelWork>(name, config, body);
    };
    error = enqueue(stream, std::move(operation));
    poll();
    return returned(error);
}

void forget_launches() {
    shared_allowed.clear();
    next_name = "kernel";
}

} // namespace simcuda

using namespace simcuda;

cudaError_t cudaFuncSetAttribute(const void *func, cudaFuncAttribute attr, int value) {
    Entered entered;
    if (usable() != cudaSuccess) {
        return returned(usable());
    }
    if (attr == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || static_cast<unsigned>(value) > SHARED_MOST) {
            report("launch", format("%d bytes of dynamic shared memory asked for, the smallest "
                                    "supported device has %u",
                                    value, SHARED_MOST));
            return returned(cudaErrorInvalidValue);
        }
        shared_allowed[func] = static_cast<size_t>(value);
    }
    return cudaSuccess;
}
