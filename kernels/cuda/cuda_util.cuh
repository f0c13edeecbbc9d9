/* cuda_util.cuh - the few things the kernels need beside CUDA C++ itself.
 *
 * Every kernel of this room is compiled twice: by nvcc for the device, and as plain C++ for the
 * simulated device of the tests (tests/simcuda, CAIRN_CUDA_SIM), whose headers stand in for those of
 * the toolkit. What the two must do differently is here and nowhere else:
 *  - shared memory is taken from the block's dynamic part by SharedMemory, and its elements are read
 *    and written by load and store only. On the device these are plain accesses; the simulated one
 *    checks each (bounds, never written, not separated by a barrier from another thread's);
 *  - kernels are launched by cuda_launch only, and say in their first line how many threads a block
 *    has (cuda_block_of);
 *  - the approximate instructions have a plain C++ twin.
 * No `__shared__`, no `<<< >>>`, no float atomics anywhere in this room.
 *
 * Usage:
 *     template <unsigned THREADS>
 *     __global__ void __launch_bounds__(THREADS) scale_kernel(float *x, unsigned count, float by) {
 *         cuda_block_of(THREADS);
 *         SharedMemory memory;
 *         Shared<float> part = memory.take<float>(THREADS);
 *         part.store(threadIdx.x, 1.0f);
 *         __syncthreads();
 *         ...
 *     }
 *     TRY(cuda_launch(stream, "scale", {blocks, 1, 1}, THREADS, THREADS * sizeof(float),
 *                     scale_kernel<THREADS>, err, x, count, by));
 */
#ifndef CAIRN_KERNELS_CUDA_CUDA_UTIL_CUH
#define CAIRN_KERNELS_CUDA_CUDA_UTIL_CUH

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"

/* ---- shared memory ---- */

#if defined(CAIRN_CUDA_SIM)

using simcuda::Shared;
using simcuda::SharedMemory;

static inline void cuda_block_of(unsigned threads) {
    simcuda::expect_block(threads);
}

#else

/* An array in the block's shared memory. */
template <class T> struct Shared {
    T *data;
    __device__ __forceinline__ T load(unsigned i) const { return data[i]; }
    __device__ __forceinline__ void store(unsigned i, T value) const { data[i] = value; }
    /* Elements i to i + 3 of a float array; i is a multiple of 4. */
    __device__ __forceinline__ float4 load4(unsigned i) const {
        return *reinterpret_cast<const float4 *>(data + i);
    }
    __device__ __forceinline__ void store4(unsigned i, float4 value) const {
        *reinterpret_cast<float4 *>(data + i) = value;
    }
    /* Integers only; returns the value before. */
    __device__ __forceinline__ T atomic_add(unsigned i, T value) const {
        return atomicAdd(data + i, value);
    }
};

/* Hands out the block's dynamic shared memory from its beginning; every array starts at a multiple
 * of 16 bytes. The launch says how much there is. All threads must take the same arrays. */
class SharedMemory {
  public:
    __device__ __forceinline__ SharedMemory() {
        extern __shared__ float4 cuda_dynamic_shared[];
        next_ = reinterpret_cast<char *>(cuda_dynamic_shared);
    }
    template <class T> __device__ __forceinline__ Shared<T> take(unsigned count) {
        Shared<T> array = {reinterpret_cast<T *>(next_)};
        next_ += (count * sizeof(T) + 15) / 16 * 16;
        return array;
    }

  private:
    char *next_;
};

/* The block has `threads` threads, as the kernel's __launch_bounds__ says. */
__device__ __forceinline__ void cuda_block_of(unsigned threads) {
    __builtin_assume(blockDim.x == threads);
}

#endif

/* ---- arithmetic ---- */

/* 2^x, relative error below 2^-22 (PTX ISA, ex2.approx.ftz.f32). */
__device__ __forceinline__ float cuda_exp2(float x) {
#if defined(__CUDA_ARCH__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/* 1/x, at most 1 ulp off (PTX ISA, rcp.approx.ftz.f32). */
__device__ __forceinline__ float cuda_reciprocal(float x) {
#if defined(__CUDA_ARCH__)
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1.0f / x;
#endif
}

/* a b + c in both halves, each rounded once: one instruction from sm_100 on, two before, the same
 * bits. */
__device__ __forceinline__ float2 cuda_fma2(float2 a, float2 b, float2 c) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    unsigned long long ra, rb, rc, rd;
    asm("mov.b64 %0, {%1, %2};" : "=l"(ra) : "f"(a.x), "f"(a.y));
    asm("mov.b64 %0, {%1, %2};" : "=l"(rb) : "f"(b.x), "f"(b.y));
    asm("mov.b64 %0, {%1, %2};" : "=l"(rc) : "f"(c.x), "f"(c.y));
    asm("fma.rn.ftz.f32x2 %0, %1, %2, %3;" : "=l"(rd) : "l"(ra), "l"(rb), "l"(rc));
    float2 d;
    asm("mov.b64 {%0, %1}, %2;" : "=f"(d.x), "=f"(d.y) : "l"(rd));
    return d;
#else
    return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y));
#endif
}

/* a b, rounded, never part of a fused multiplication and addition: the compilers may otherwise make
 * one of it and what is added next. */
__device__ __forceinline__ float cuda_multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

/* ---- sums ---- */

/* Sum of `value` over the block, in an order that is always the same; every thread gets it. `parts`
 * has an element for each of the block's warps, and nobody else's use of it may be under way. */
template <unsigned THREADS>
__device__ __forceinline__ double cuda_sum_of_block(double value, Shared<double> parts) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(~0u, value, distance);
    }
    if (threadIdx.x % 32 == 0) {
        parts.store(threadIdx.x / 32, value);
    }
    __syncthreads();
    double sum = 0.0;
    for (unsigned warp = 0; warp < THREADS / 32; warp++) {
        sum += parts.load(warp);
    }
    __syncthreads();
    return sum;
}

/* ---- calls and launches ---- */

/* "<operation>: <the driver's words> (<name of the error>)"; STATUS_MEMORY for want of memory,
 * otherwise STATUS_DEVICE. */
enum status cuda_failed(cudaError_t error, const char *operation, struct error *err);

#define CUDA_TRY(call, operation, err)                                                             \
    do {                                                                                           \
        cudaError_t cuda_try_error = (call);                                                       \
        if (cuda_try_error != cudaSuccess) {                                                       \
            return cuda_failed(cuda_try_error, operation, err);                                    \
        }                                                                                          \
    } while (0)

static inline unsigned cuda_blocks(uint64_t work, unsigned per_block) {
    return (unsigned)((work + per_block - 1) / per_block);
}

/* Enqueue a kernel: `blocks` blocks of `threads` threads with `shared_bytes` of dynamic shared
 * memory. Does not block. `name` is a literal. */
template <class... Parameters, class... Arguments>
enum status cuda_launch(cudaStream_t stream, const char *name, dim3 blocks, unsigned threads,
                        size_t shared_bytes, void (*kernel)(Parameters...), struct error *err,
                        Arguments... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = dim3(threads, 1, 1);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
#if defined(CAIRN_CUDA_SIM)
    simcuda::name_launch(name);
#endif
    CUDA_TRY(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name, err);
    return STATUS_OK;
}

/* More than 48 KiB of dynamic shared memory must be asked for, once per kernel and device. */
template <class... Parameters>
enum status cuda_allow_shared(const char *name, void (*kernel)(Parameters...), size_t shared_bytes,
                              struct error *err) {
    CUDA_TRY(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes),
             name, err);
    return STATUS_OK;
}

#endif
