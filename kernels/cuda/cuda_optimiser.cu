/* cuda_optimiser.cu - global norm of the gradients, and Adam. */
#include <math.h>

#include "kernels/cuda/cuda_internal.cuh"

enum { NORM_THREADS = 256, ADAM_THREADS = 256 };
static_assert((int)NORM_THREADS == (int)CUDA_NORM_PARTS, "one thread adds one part at the end");

/* ---- global norm ---- */

static __device__ __forceinline__ double sum_of_block(double value) {
    SharedMemory memory;
    return cuda_sum_of_block<NORM_THREADS>(value, memory.take<double>(NORM_THREADS / 32));
}

static __device__ __forceinline__ double square(float x) {
    return (double)x * (double)x;
}

/* parts[block] = sum of the squares of every element whose float4 is the block's turn. The order of
 * the sum depends on `count` alone. `aligned`: x is a multiple of 16 bytes. */
static __global__ void __launch_bounds__(NORM_THREADS)
    squares_kernel(const float *x, size_t count, bool aligned, double *parts, uint32_t *progress) {
    cuda_block_of(NORM_THREADS);
    cuda_mark(progress, CUDA_OP_GLOBAL_NORM);
    size_t fours = count / 4, first = (size_t)blockIdx.x * NORM_THREADS;
    if (first >= fours && blockIdx.x > 0) {
        if (threadIdx.x == 0) {
            parts[blockIdx.x] = 0.0;
        }
        return;
    }
    double sum = 0.0;
    size_t i = first + threadIdx.x;
    size_t tail = 4 * fours + i;
    for (; i < fours; i += (size_t)CUDA_NORM_PARTS * NORM_THREADS) {
        const float *p = x + 4 * i;
        float4 v =
            aligned ? *reinterpret_cast<const float4 *>(p) : make_float4(p[0], p[1], p[2], p[3]);
        sum += (square(v.x) + square(v.y)) + (square(v.z) + square(v.w));
    }
    if (tail < count) {
        sum += square(x[tail]);
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
    }
}

static __global__ void __launch_bounds__(NORM_THREADS)
    norm_kernel(const double *parts, double clip_norm, float *scale, double *norm) {
    cuda_block_of(NORM_THREADS);
    double value = sqrt(sum_of_block(parts[threadIdx.x]));
    if (threadIdx.x == 0) {
        *norm = value;
        *scale = clip_norm > 0.0 && value > clip_norm ? (float)(clip_norm / value) : 1.0f;
    }
}

enum status cuda_global_norm(struct cuda_backend *be, const struct norm_args *args,
                             struct error *err) {
    const size_t shared_bytes = NORM_THREADS / 32 * sizeof(double);
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    TRY(cuda_launch(stream, "global_norm", dim3(CUDA_NORM_PARTS), NORM_THREADS, shared_bytes,
                    squares_kernel, err, args->gradients, args->count,
                    (uintptr_t)args->gradients % 16 == 0, be->norm_parts, be->progress_device));
    return cuda_launch(stream, "global_norm", dim3(1), NORM_THREADS, shared_bytes, norm_kernel, err,
                       be->norm_parts, args->clip_norm, args->scale, args->norm);
}

/* ---- Adam ---- */

struct adam_job {
    float *p, *m, *v;
    const float *g, *scale;
    const struct step_inputs *inputs;
    size_t count;
    float take_m, take_v, epsilon; /* take: the share of the difference */
    uint32_t *progress;
};

/* One element; the operations and their order are those of every backend. */
static __device__ __forceinline__ void adam(const struct adam_job &job, float scale, float rate,
                                            float gradient, float *p, float *m, float *v) {
    float g = cuda_multiply(gradient, scale);
    *m = fmaf(g - *m, job.take_m, *m);
    *v = fmaf(fmaf(g, g, -*v), job.take_v, *v);
    *p -= rate * *m / (sqrtf(*v) + job.epsilon);
}

/* A float4 of elements per thread where FOUR, which needs all four arrays at multiples of 16 bytes;
 * the last count % 4 elements, or all where not FOUR, one per thread. */
template <bool FOUR>
static __global__ void __launch_bounds__(ADAM_THREADS) adam_kernel(struct adam_job job) {
    cuda_block_of(ADAM_THREADS);
    cuda_mark(job.progress, CUDA_OP_ADAM_STEP);
    float scale = job.scale != NULL ? *job.scale : 1.0f, rate = job.inputs->rate;
    size_t i = (size_t)blockIdx.x * ADAM_THREADS + threadIdx.x;
    size_t fours = FOUR ? job.count / 4 : 0;
    if (i < fours) {
        float4 g = reinterpret_cast<const float4 *>(job.g)[i];
        float4 p = reinterpret_cast<float4 *>(job.p)[i];
        float4 m = reinterpret_cast<float4 *>(job.m)[i];
        float4 v = reinterpret_cast<float4 *>(job.v)[i];
        adam(job, scale, rate, g.x, &p.x, &m.x, &v.x);
        adam(job, scale, rate, g.y, &p.y, &m.y, &v.y);
        adam(job, scale, rate, g.z, &p.z, &m.z, &v.z);
        adam(job, scale, rate, g.w, &p.w, &m.w, &v.w);
        reinterpret_cast<float4 *>(job.p)[i] = p;
        reinterpret_cast<float4 *>(job.m)[i] = m;
        reinterpret_cast<float4 *>(job.v)[i] = v;
        return;
    }
    i += 3 * fours; /* threads behind the fours take single elements */
    if (i < job.count) {
        adam(job, scale, rate, job.g[i], job.p + i, job.m + i, job.v + i);
    }
}

enum status cuda_adam_step(struct cuda_backend *be, const struct adam_args *args,
                           struct error *err) {
    struct adam_job job = {};
    job.p = args->parameters;
    job.m = args->m;
    job.v = args->v;
    job.g = args->gradients;
    job.scale = args->scale;
    job.inputs = args->inputs;
    job.count = args->count;
    job.take_m = (float)(1.0 - args->beta1);
    job.take_v = (float)(1.0 - args->beta2);
    job.epsilon = (float)args->epsilon;
    job.progress = be->progress_device;
    bool four =
        ((uintptr_t)job.p | (uintptr_t)job.m | (uintptr_t)job.v | (uintptr_t)job.g) % 16 == 0;
    size_t threads = four ? job.count / 4 + job.count % 4 : job.count;
    if (threads == 0) {
        return STATUS_OK;
    }
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "adam_step",
                       dim3(cuda_blocks(threads, ADAM_THREADS)), ADAM_THREADS, 0,
                       four ? adam_kernel<true> : adam_kernel<false>, err, job);
}
