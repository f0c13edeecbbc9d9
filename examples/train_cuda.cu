// train_cuda.cu - the library with tensors that live on a CUDA device: logistic regression on
// made-up points, trained by two small kernels. A save copies the weights on the device, in stream
// order, and returns; training goes on while the copy travels to the host and to the disk.
//
//     nvcc train_cuda.cu -o train_cuda $(pkg-config --cflags --libs cairn-checkpoint)
//     ./train_cuda runs/cuda [STEPS, default 2000]
//
// Needs a libcairn-checkpoint that was built with CUDA. Sums are taken in a fixed order, so that a
// resumed run gives the same bits.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cairn/checkpoint.h>

enum { FEATURES = 64, BATCH = 256 };

#define CUDA_CHECK(call)                                                                           \
    do {                                                                                           \
        const cudaError_t cuda_check_error = (call);                                               \
        if (cuda_check_error != cudaSuccess) {                                                     \
            fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(cuda_check_error));              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void check(cairn_status status, const cairn_error &error) {
    if (status != CAIRN_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
}

// ---- the model ----

// A number in [-1, 1) from what it is for (SplitMix64, Steele 2014): nothing of it has to be saved.
static __device__ float feature(uint64_t step, unsigned example, unsigned index) {
    uint64_t z = ((step * BATCH + example) * FEATURES + index + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (float)((z ^ (z >> 31)) >> 40) * (2.0f / 16777216.0f) - 1.0f;
}

// One thread per example: d(loss)/d(logit). The label is whether the first half of the features
// outweighs the second.
static __global__ void logit_gradients(const float *weights, uint64_t step, float *dlogit) {
    const unsigned example = threadIdx.x;
    float logit = 0.0f, balance = 0.0f;
    for (unsigned i = 0; i < FEATURES; i++) {
        const float x = feature(step, example, i);
        logit += weights[i] * x;
        balance += i < FEATURES / 2 ? x : -x;
    }
    const float label = balance > 0.0f ? 1.0f : 0.0f;
    dlogit[example] = (1.0f / (1.0f + expf(-logit)) - label) / BATCH;
}

// One thread per weight, its sum over the batch in order.
static __global__ void update(float *weights, float *momentum, const float *dlogit, uint64_t step) {
    const unsigned i = threadIdx.x;
    float gradient = 0.0f;
    for (unsigned example = 0; example < BATCH; example++) {
        gradient += dlogit[example] * feature(step, example, i);
    }
    momentum[i] = 0.9f * momentum[i] + gradient;
    weights[i] -= 0.5f * momentum[i];
}

// ---- the program ----

static float *device_floats(size_t count) {
    void *memory = nullptr;
    CUDA_CHECK(cudaMalloc(&memory, count * sizeof(float)));
    CUDA_CHECK(cudaMemset(memory, 0, count * sizeof(float)));
    return static_cast<float *>(memory);
}

static cairn_checkpoint *open_checkpoints(const char *directory, cudaStream_t stream,
                                          float *weights, float *momentum, uint64_t *step) {
    cairn_checkpoint_options options = CAIRN_CHECKPOINT_OPTIONS_INIT;
    options.cuda_stream = stream;
    cairn_checkpoint *saves = nullptr;
    cairn_error error;
    check(cairn_checkpoint_open(directory, &options, &saves, &error), error);
    const cairn_tensor tensors[] = {
        {"weights", CAIRN_F32, CAIRN_CUDA, weights, 1, {FEATURES}},
        {"momentum", CAIRN_F32, CAIRN_CUDA, momentum, 1, {FEATURES}},
    };
    for (const cairn_tensor &tensor : tensors) {
        check(cairn_checkpoint_add(saves, &tensor, &error), error);
    }
    bool found = false;
    check(cairn_checkpoint_restore_latest(saves, &found, step, &error), error);
    printf("%s at step %llu\n", found ? "resumed" : "started", (unsigned long long)*step);
    return saves;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [STEPS]\n", argv[0]);
        return 2;
    }
    const uint64_t steps = argc > 2 ? strtoull(argv[2], nullptr, 10) : 2000;
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreate(&stream));
    float *weights = device_floats(FEATURES), *momentum = device_floats(FEATURES);
    float *dlogit = device_floats(BATCH);
    CUDA_CHECK(cudaDeviceSynchronize()); // the zeroes, before another stream reads them

    uint64_t step = 0;
    cairn_checkpoint *saves = open_checkpoints(argv[1], stream, weights, momentum, &step);
    cairn_error error;
    while (step < steps) {
        logit_gradients<<<1, BATCH, 0, stream>>>(weights, step, dlogit);
        update<<<1, FEATURES, 0, stream>>>(weights, momentum, dlogit, step);
        CUDA_CHECK(cudaGetLastError());
        step++;
        if (step % 100 == 0) {
            check(cairn_checkpoint_save(saves, step, 0, nullptr, &error), error);
        }
    }
    check(cairn_checkpoint_save(saves, step, CAIRN_CHECKPOINT_MUST, nullptr, &error), error);
    check(cairn_checkpoint_close(saves, &error), error);

    float first = 0.0f;
    CUDA_CHECK(cudaMemcpy(&first, weights, sizeof first, cudaMemcpyDeviceToHost));
    printf("step %llu: weight 0 is %.9g\n", (unsigned long long)step, (double)first);
    CUDA_CHECK(cudaFree(dlogit));
    CUDA_CHECK(cudaFree(momentum));
    CUDA_CHECK(cudaFree(weights));
    CUDA_CHECK(cudaStreamDestroy(stream));
    return 0;
}
