/* cuda_lstm.cuh - what the two recurrent kernels share: the product with W_hh that every time step
 * is made of.
 *
 * One block works on one (sequence, direction) with 4 HP threads, HP being the hidden size rounded
 * up to 16. A thread holds HP weights as HP/4 quads: quad 4k + r is multiplied with the k-th quad of
 * values that the thread reads from shared memory and adds to its r-th sum. So one 16-byte load
 * feeds 16 multiplications, and the four sums of a thread belong to four results whose other parts
 * lie in three other lanes: sum r of a lane belongs to the result that lane XOR r (times `apart`)
 * finishes. One exchange of three independent shuffles brings them together without a select.
 *
 * Pairs (x, y) and (z, w) of a quad go through cuda_fma2 into the two halves of a sum, so that
 * every architecture adds in the same order.
 *
 * Registers hold all weights up to HP = 96. Above, 16 HP^2 bytes of weights would fill the register
 * file, and some quads wait in shared memory, each thread's own.
 */
#ifndef CAIRN_KERNELS_CUDA_CUDA_LSTM_CUH
#define CAIRN_KERNELS_CUDA_CUDA_LSTM_CUH

#include "kernels/cuda/cuda_internal.cuh"

static constexpr unsigned LSTM_ALL_LANES = 0xffffffffu;

/* Time steps that one turn of the loop makes, and that its loads from device memory run ahead: a
 * step is shorter than such a load by a factor that shrinks with the size. Even, for the two copies
 * of what the block shares. */
static constexpr unsigned lstm_ahead(unsigned hp) {
    return hp <= 64 ? 4 : 2;
}

/* Shared memory that a block can have on every device from sm_80 on; without asking. */
static constexpr size_t LSTM_SHARED_BYTES = 99 * 1024;
static constexpr size_t LSTM_PLAIN_SHARED_BYTES = 48 * 1024;

/* Quads of a thread's weights that are kept in registers, where the threads exchange `exchanged`
 * floats a step. */
static constexpr unsigned lstm_kept_quads(unsigned hp, unsigned exchanged) {
    unsigned quads = hp / 4;
    if (hp <= 96) {
        return quads;
    }
    unsigned fit = (unsigned)((LSTM_SHARED_BYTES - 2 * exchanged * sizeof(float)) / (64 * hp));
    unsigned least = quads - (fit < quads ? fit : quads);
    return least > 20 ? least : 20;
}

/* Floats of shared memory for the other quads of all threads. */
static constexpr unsigned lstm_rest_floats(unsigned hp, unsigned exchanged) {
    return (hp / 4 - lstm_kept_quads(hp, exchanged)) * 16 * hp;
}

/* HP for H hidden units. */
static constexpr unsigned lstm_padded(unsigned size) {
    return (size + 15) / 16 * 16;
}

/* The element of another row: `base` lies in row 0, rows have `pitch` bytes. One instruction where
 * the index of an element takes three. */
template <class T> __device__ __forceinline__ T *lstm_at(T *base, unsigned row, unsigned pitch) {
    return reinterpret_cast<T *>(reinterpret_cast<char *>(base) + (uint64_t)row * pitch);
}
template <class T>
__device__ __forceinline__ const T *lstm_at(const T *base, unsigned row, unsigned pitch) {
    return reinterpret_cast<const T *>(reinterpret_cast<const char *>(base) +
                                       (uint64_t)row * pitch);
}

/* HP weights of one thread. */
template <unsigned HP, unsigned EXCHANGED> struct lstm_weights {
    static constexpr unsigned THREADS = 4 * HP;
    static constexpr unsigned QUADS = HP / 4;
    static constexpr unsigned KEPT = lstm_kept_quads(HP, EXCHANGED);
    static constexpr unsigned REST_FLOATS = lstm_rest_floats(HP, EXCHANGED);

    float4 kept[KEPT];
    Shared<float> rest; /* [QUADS - KEPT][THREADS][4] */

    /* How many of the first i quads are kept: those in shared memory lie evenly between them, so
     * that the loads of a product do too. */
    static constexpr __host__ __device__ unsigned kept_before(unsigned i) {
        return i * KEPT / QUADS;
    }
    static constexpr __host__ __device__ bool is_kept(unsigned i) {
        return kept_before(i) != kept_before(i + 1);
    }

    __device__ __forceinline__ void set(unsigned i, float4 quad) {
        unsigned before = kept_before(i);
        if (is_kept(i)) {
            kept[before] = quad;
        } else {
            rest.store4(((i - before) * THREADS + threadIdx.x) * 4, quad);
        }
    }
    __device__ __forceinline__ float4 get(unsigned i) const {
        unsigned before = kept_before(i);
        return is_kept(i) ? kept[before] : rest.load4(((i - before) * THREADS + threadIdx.x) * 4);
    }
};

/* Stands before the loads of quads 4k to 4k + 3 where registers are scarce: without it the compiler
 * starts more loads at once than it has registers for. How often is found by trial: as rarely as
 * does without spills (bench/sass_report --check). */
template <unsigned HP, unsigned EXCHANGED> __device__ __forceinline__ void lstm_pace(unsigned k) {
    if (HP > 96 && k != 0 && k % (EXCHANGED > HP ? 2 : 4) == 0) {
        __syncwarp();
    }
}

/* Sum over the quads of `values` at first, first + stride, ... HP/16 of them, times the weights:
 * this lane's result, complete. `start` is added once. `apart` is the distance of the lanes that
 * share a result. */
template <unsigned HP, unsigned EXCHANGED>
__device__ __forceinline__ float lstm_product(const lstm_weights<HP, EXCHANGED> &weights,
                                              Shared<float> values, unsigned first, unsigned stride,
                                              int apart, float start) {
    float2 sum[4] = {make_float2(start, 0.0f), make_float2(0.0f, 0.0f), make_float2(0.0f, 0.0f),
                     make_float2(0.0f, 0.0f)};
#pragma unroll
    for (unsigned k = 0; k < HP / 16; k++) {
        lstm_pace<HP, EXCHANGED>(k);
        float4 value = values.load4(first + k * stride);
#pragma unroll
        for (unsigned r = 0; r < 4; r++) {
            float4 w = weights.get(4 * k + r);
            sum[r] = cuda_fma2(make_float2(w.x, w.y), make_float2(value.x, value.y), sum[r]);
            sum[r] = cuda_fma2(make_float2(w.z, w.w), make_float2(value.z, value.w), sum[r]);
        }
    }
    float part1 = __shfl_xor_sync(LSTM_ALL_LANES, sum[1].x + sum[1].y, apart);
    float part2 = __shfl_xor_sync(LSTM_ALL_LANES, sum[2].x + sum[2].y, 2 * apart);
    float part3 = __shfl_xor_sync(LSTM_ALL_LANES, sum[3].x + sum[3].y, 3 * apart);
    return (sum[0].x + sum[0].y + part1) + (part2 + part3);
}

/* One block of `function` per sequence and direction, sized by the limits. */
template <class Job>
enum status lstm_launch(struct cuda_backend *be, const char *name, const struct lstm_args *args,
                        unsigned exchanged, void (*function)(Job), const Job &job,
                        struct error *err) {
    unsigned hp = lstm_padded(args->shape.hidden);
    size_t shared_bytes = (2 * exchanged + lstm_rest_floats(hp, exchanged)) * sizeof(float);
    if (shared_bytes > LSTM_PLAIN_SHARED_BYTES) {
        TRY(cuda_allow_shared(name, function, shared_bytes, err));
    }
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], name,
                       dim3(2 * args->limits.sequences, 1, 1), 4 * hp, shared_bytes, function, err,
                       job);
}

#endif
