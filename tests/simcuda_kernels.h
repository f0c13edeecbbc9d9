// simcuda_kernels.h - tiny kernels, correct ones and ones with a mistake, for the tests of the
// simulated device. Written as those of kernels/cuda are.
#ifndef CAIRN_TESTS_SIMCUDA_KERNELS_H
#define CAIRN_TESTS_SIMCUDA_KERNELS_H

#include <cuda_runtime.h>

namespace kernels {

using simcuda::Shared;
using simcuda::SharedMemory;

constexpr unsigned THREADS = 64;

// ---- correct ----

// out[i] = i * by, one thread each; blocks of THREADS.
inline __global__ void multiples(float *out, unsigned count, float by) {
    simcuda::expect_block(THREADS);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        out[i] = static_cast<float>(i) * by;
    }
}

// out[i] = in[i] + add
inline __global__ void plus(float *out, const float *in, unsigned count, float add) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        out[i] = in[i] + add;
    }
}

// out[0] = sum of in[0 .. THREADS): a tree with a barrier on each level.
inline __global__ void tree_sum(float *out, const float *in) {
    simcuda::expect_block(THREADS);
    SharedMemory memory;
    Shared<float> part = memory.take<float>(THREADS);
    part.store(threadIdx.x, in[threadIdx.x]);
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            part.store(threadIdx.x, part.load(threadIdx.x) + part.load(threadIdx.x + half));
        }
    }
    if (threadIdx.x == 0) {
        *out = part.load(0);
    }
}

// Everything that lanes can tell each other: out[threadIdx.x * 8 + ...].
inline __global__ void warp_functions(int *out) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    int *own = out + threadIdx.x * 8;
    own[0] = __shfl_xor_sync(0xffffffffu, lane, 5);
    own[1] = __shfl_sync(0xffffffffu, lane * 3, 7);
    own[2] = __shfl_up_sync(0xffffffffu, lane, 2u);
    own[3] = __shfl_down_sync(0xffffffffu, lane, 3u);
    own[4] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
    own[5] = __any_sync(0xffffffffu, lane == 40) + 2 * __any_sync(0xffffffffu, lane == 31);
    own[6] = __all_sync(0xffffffffu, lane < 32) + 2 * __all_sync(0xffffffffu, lane < 31);
    own[7] = 0;
    if (lane < 16) { // half a warp among itself
        const double wide = __shfl_xor_sync(0xffffu, 0.5 + lane, 1, 16);
        own[7] = static_cast<int>(wide * 2.0);
    }
}

// Lanes pass a value on through shared memory, the barrier of their warp between.
inline __global__ void warp_passes(float *out) {
    SharedMemory memory;
    Shared<float> cell = memory.take<float>(THREADS);
    const unsigned neighbour = threadIdx.x ^ 1u;
    cell.store(threadIdx.x, static_cast<float>(threadIdx.x));
    __syncwarp();
    const float theirs = cell.load(neighbour);
    __syncwarp();
    cell.store(threadIdx.x, theirs + 1.0f);
    __syncwarp(threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u);
    out[threadIdx.x] = cell.load(neighbour);
}

// Counts by atomic additions on shared memory.
inline __global__ void histogram(unsigned *out, const unsigned *in, unsigned count) {
    SharedMemory memory;
    Shared<unsigned> bins = memory.take<unsigned>(4);
    if (threadIdx.x < 4) {
        bins.store(threadIdx.x, 0);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        bins.atomic_add(in[i] % 4, 1u);
    }
    __syncthreads();
    if (threadIdx.x < 4) {
        out[threadIdx.x] = bins.load(threadIdx.x);
    }
}

inline __global__ void four_at_once(float *out) {
    SharedMemory memory;
    Shared<int> pad = memory.take<int>(3); // the next array begins at a multiple of 16
    Shared<float> row = memory.take<float>(THREADS * 4);
    if (threadIdx.x < 3) {
        pad.store(threadIdx.x, 0);
    }
    const float x = static_cast<float>(threadIdx.x);
    row.store4(threadIdx.x * 4, make_float4(x, 2.0f * x, 3.0f * x, 4.0f * x));
    __syncthreads();
    const float4 all = row.load4((THREADS - 1 - threadIdx.x) * 4);
    out[threadIdx.x] = all.x + all.y + all.z + all.w;
}

inline __global__ void mark(volatile unsigned *word, unsigned value) {
    if (threadIdx.x == 0 && blockIdx.x == 0) {
        *word = value;
    }
}

// ---- mistakes with barriers ----

enum class Mistake { NONE, READ_AFTER_WRITE, WRITE_AFTER_READ, WRITE_AFTER_WRITE };

// Twice the neighbour's value; with a mistake one of its three barriers is missing.
inline __global__ void neighbours(float *out, Mistake mistake) {
    SharedMemory memory;
    Shared<float> cell = memory.take<float>(THREADS);
    const unsigned neighbour = (threadIdx.x + 33) % THREADS; // in another warp
    cell.store(mistake == Mistake::WRITE_AFTER_WRITE ? neighbour : threadIdx.x, 0.0f);
    if (mistake != Mistake::WRITE_AFTER_WRITE) {
        __syncthreads();
    }
    cell.store(threadIdx.x, static_cast<float>(threadIdx.x));
    if (mistake != Mistake::READ_AFTER_WRITE) {
        __syncthreads();
    }
    const float theirs = cell.load(neighbour);
    if (mistake != Mistake::WRITE_AFTER_READ) {
        __syncthreads();
    }
    cell.store(threadIdx.x, 2.0f * theirs);
    out[threadIdx.x] = cell.load(threadIdx.x);
}

enum class Order { WARP_BARRIER, SHUFFLE, OTHER_LANES };

// A lane reads what another one wrote; only a __syncwarp of both orders that.
inline __global__ void lane_reads_lane(float *out, Order order) {
    SharedMemory memory;
    Shared<float> cell = memory.take<float>(32);
    cell.store(threadIdx.x, 1.0f);
    __syncwarp();
    cell.store(threadIdx.x, 2.0f);
    float extra = 0.0f;
    if (order == Order::WARP_BARRIER) {
        __syncwarp();
    } else if (order == Order::SHUFFLE) {
        extra = __shfl_xor_sync(0xffffffffu, 0.0f, 16);
    } else {
        __syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u); // and reads across
    }
    out[threadIdx.x] = cell.load(threadIdx.x ^ 16u) + extra;
}

// What was counted is read without a barrier.
inline __global__ void reads_while_counting(unsigned *out) {
    SharedMemory memory;
    Shared<unsigned> bin = memory.take<unsigned>(1);
    if (threadIdx.x == 0) {
        bin.store(0, 0);
    }
    __syncthreads();
    bin.atomic_add(0, 1u);
    if (threadIdx.x == 5) {
        *out = bin.load(0);
    }
}

inline __global__ void barrier_for_some(float *out) {
    if (threadIdx.x < 32) {
        __syncthreads();
    }
    out[threadIdx.x] = 1.0f;
}

inline __global__ void two_barriers(float *out) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1.0f;
}

// ---- mistakes with lanes ----

enum class Mask { SOME_LANES_ABSENT, NOT_NAMED, DIFFERENT, READS_OUTSIDE, ENDED };

inline __global__ void bad_mask(int *out, Mask mistake) {
    const int lane = static_cast<int>(threadIdx.x);
    int got = 0;
    if (mistake == Mask::SOME_LANES_ABSENT) {
        if (lane < 16) {
            got = __shfl_xor_sync(0xffffffffu, lane, 1);
        }
        __syncthreads();
    } else if (mistake == Mask::NOT_NAMED) {
        got = __shfl_xor_sync(0xffffu, lane, 1);
    } else if (mistake == Mask::DIFFERENT) {
        got = __shfl_xor_sync(lane == 3 ? 0x7fffffffu : 0xffffffffu, lane, 0);
    } else if (mistake == Mask::READS_OUTSIDE) {
        if (lane < 16) {
            got = __shfl_sync(0xffffu, lane, 20);
        }
    } else if (lane > 0) { // lane 0 has ended
        __syncwarp();
    }
    out[lane] = got;
}

// ---- mistakes with memory ----

enum class SharedMistake { OUT_OF_BOUNDS, FOUR_OUT_OF_BOUNDS, UNWRITTEN, UNALIGNED, TOO_LARGE };

inline __global__ void bad_shared(float *out, SharedMistake mistake) {
    SharedMemory memory;
    Shared<float> first = memory.take<float>(THREADS);
    Shared<float> second =
        memory.take<float>(mistake == SharedMistake::TOO_LARGE ? THREADS + 1 : THREADS);
    first.store(threadIdx.x, 1.0f);
    if (threadIdx.x != 9) {
        second.store(threadIdx.x, 1.0f);
    }
    __syncthreads();
    float got = 0.0f;
    if (threadIdx.x == 9) {
        switch (mistake) {
        case SharedMistake::OUT_OF_BOUNDS:
            got = first.load(THREADS); // lies in `second`
            break;
        case SharedMistake::FOUR_OUT_OF_BOUNDS:
            got = second.load4(THREADS).x;
            break;
        case SharedMistake::UNALIGNED:
            got = first.load4(2).x;
            break;
        default:
            got = second.load(9);
        }
    }
    out[threadIdx.x] = got;
}

// Each block adds to what the blocks before it have left.
inline __global__ void blocks_in_order(float *chain) {
    if (threadIdx.x == 0) {
        chain[0] = chain[0] * 2.0f + static_cast<float>(blockIdx.x);
    }
}

// The fault is meant, so UndefinedBehaviorSanitizer must let it happen.
__attribute__((no_sanitize("integer-divide-by-zero"))) inline __global__ void divides(unsigned *out,
                                                                                      unsigned by) {
    out[threadIdx.x] = threadIdx.x / by;
}

inline unsigned deep(volatile unsigned *out, unsigned level) {
    volatile unsigned char frame[1024] = {};
    frame[level % 1024] = 1;
    *out = level;
    return level == 0 ? 0u : deep(out, level - 1) + frame[1];
}

inline __global__ void recurses(unsigned *out) {
    *out = deep(out, 1000000);
}

} // namespace kernels

#endif
