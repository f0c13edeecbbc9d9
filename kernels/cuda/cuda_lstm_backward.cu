/* cuda_lstm_backward.cu - the recurrence backwards: one block per (sequence, direction).
 *
 * The same blocks and threads as forward, walking each sequence from its last step to its first.
 * Forward has left the local derivatives of every step (cuda_internal.cuh), so that one step back
 * is three multiplications between two products. Thread t works on gate t % 4 of unit t / 4; the
 * gradients dz of all gates are what the threads of a block share, again in two copies that take
 * turns.
 *
 * In the product dh = W_hh^T dz a thread multiplies the four dz of each HP/16 units (those equal to
 * its lane modulo 16) with their weights to the four units of its group of 16 lanes. Two exchanges
 * bring a unit's dh together, in all four lanes that work on it.
 *
 * d_gates takes the place of the slopes, element by element, each by the thread that read it.
 */
#include "kernels/cuda/cuda_internal.cuh"
#include "kernels/cuda/cuda_lstm.cuh"

/* Everything in device memory. Arrays by direction. */
struct lstm_backward_job {
    const struct step_inputs *inputs;
    const uint32_t *offset;     /* [B + 1] */
    const float *w_hh[2];       /* [4H, H] */
    float *slope[2];            /* [N, 4H] in, d_gates out */
    const float2 *carry[2];     /* [N, H] {k, f} */
    const float *d_final_state; /* [B, 2H] */
    uint32_t *progress;
    uint32_t size; /* H */
};

/* ---- one thread ---- */

template <unsigned HP> struct lstm_backward_thread {
    static constexpr unsigned AHEAD = lstm_ahead(HP);

    lstm_weights<HP, 4 * HP> weights;
    Shared<float> shared_dz; /* [2][HP][4] */
    unsigned unit, gate, size;
    bool real;    /* not a unit that only fills up to HP */
    bool carries; /* gate i, f or g: dz_o knows nothing of the cell */

    float *slope;           /* of this unit and gate; row 0 */
    const float2 *carry;    /* of this unit; row 0 */
    unsigned pitch;         /* bytes of a row of `slope`; those of `carry` have half as many */
    unsigned row, row_step; /* of the current step; +1 or -1 */

    float dh, dc;
    float ahead_slope[AHEAD]; /* of the next AHEAD steps */
    float2 ahead_carry[AHEAD];

    /* This thread's quads: from the four gates of unit 16 k + lane to one unit of the group. */
    __device__ __forceinline__ void load_weights(const float *w_hh) {
        unsigned lane = threadIdx.x % 16;
        size_t gate_floats = (size_t)size * size;
#pragma unroll
        for (unsigned r = 0; r < 4; r++) {
            unsigned to = threadIdx.x / 16 * 4 + (r ^ (lane / 4));
#pragma unroll
            for (unsigned k = 0; k < HP / 16; k++) {
                unsigned from = k * 16 + lane;
                const float *w = w_hh + (size_t)from * size + to;
                bool inside = from < size && to < size;
                lstm_pace<HP, 4 * HP>(k);
                weights.set(4 * k + r,
                            make_float4(inside ? w[0] : 0.0f, inside ? w[gate_floats] : 0.0f,
                                        inside ? w[2 * gate_floats] : 0.0f,
                                        inside ? w[3 * gate_floats] : 0.0f));
            }
        }
    }

    __device__ __forceinline__ void load(unsigned from_row, float *to_slope, float2 *to_carry) {
        *to_slope = *lstm_at(slope, from_row, pitch);
        if (carries) {
            *to_carry = *lstm_at(carry, from_row, pitch / 2);
        }
    }

    /* One time step: its dz, left at `at`, and dh of the step before. */
    __device__ __forceinline__ void step(unsigned at, float own_slope, float2 own_carry) {
        float d = fmaf(dh, own_carry.x, dc); /* lane o: {1, 0}, so that d = dh */
        float dz = d * own_slope;
        dc = d * own_carry.y;
        shared_dz.store(at + threadIdx.x, dz);
        __syncthreads();
        if (real) {
            *lstm_at(slope, row, pitch) = dz;
        }
        row += row_step;
        float part = lstm_product(weights, shared_dz, at + threadIdx.x % 16 * 4, 64, 4, 0.0f);
        float by1 = __shfl_xor_sync(LSTM_ALL_LANES, part, 1);
        float by2 = __shfl_xor_sync(LSTM_ALL_LANES, part, 2);
        float by3 = __shfl_xor_sync(LSTM_ALL_LANES, part, 3);
        dh = (part + by1) + (by2 + by3);
    }
};

template <unsigned HP>
__global__ void __launch_bounds__(4 * HP, HP <= 64 ? 2 : 1)
    lstm_backward_kernel(struct lstm_backward_job job) {
    cuda_block_of(4 * HP);
    cuda_mark(job.progress, CUDA_OP_LSTM_BACKWARD);
    unsigned sequence = blockIdx.x / 2, direction = blockIdx.x % 2;
    if (sequence >= job.inputs->sequences) {
        return;
    }
    lstm_backward_thread<HP> me;
    SharedMemory memory;
    me.shared_dz = memory.take<float>(8 * HP);
    me.weights.rest = memory.take<float>(lstm_weights<HP, 4 * HP>::REST_FLOATS);
    me.unit = threadIdx.x / 4;
    me.gate = threadIdx.x % 4;
    me.size = job.size;
    me.real = me.unit < me.size;
    me.carries = me.gate != 3;
    me.load_weights(direction == 0 ? job.w_hh[0] : job.w_hh[1]);
    me.dc = 0.0f;
    me.dh = 0.0f;
    if (me.real) {
        me.dh = job.d_final_state[((size_t)sequence * 2 + direction) * me.size + me.unit];
    }

    unsigned first = job.offset[sequence];
    unsigned length = job.offset[sequence + 1] - first;
    me.row_step = direction == 0 ? ~0u : 1u;
    me.row = direction == 0 ? first + length - 1 : first;
    me.pitch = 16 * me.size;
    /* Units beyond the real ones load what is another's; their dh and their weights are 0. */
    unsigned unit = me.real ? me.unit : 0;
    me.slope = (direction == 0 ? job.slope[0] : job.slope[1]) + me.gate * me.size + unit;
    me.carry = (direction == 0 ? job.carry[0] : job.carry[1]) + unit;

    constexpr unsigned AHEAD = lstm_backward_thread<HP>::AHEAD;
    /* The steps that are no multiple of AHEAD come first, so that the loop below has no other. */
    unsigned odd = length % AHEAD;
    unsigned at = odd % 2 * 4 * HP;
    for (unsigned t = 0; t < odd; t++) {
        float slope;
        float2 carry = make_float2(1.0f, 0.0f);
        me.load(me.row, &slope, &carry);
        me.step(at, slope, carry);
        at = 4 * HP - at;
    }
    unsigned left = length - odd;
    if (left == 0) {
        return;
    }
#pragma unroll
    for (unsigned u = 0; u < AHEAD; u++) {
        me.ahead_carry[u] = make_float2(1.0f, 0.0f);
        me.load(me.row + u * me.row_step, &me.ahead_slope[u], &me.ahead_carry[u]);
    }
    do {
        unsigned ahead = left > AHEAD ? AHEAD * me.row_step : 0; /* 0: loads what it has, unused */
#pragma unroll
        for (unsigned u = 0; u < AHEAD; u++) {
            unsigned row = me.row;
            me.step(u % 2 * 4 * HP, me.ahead_slope[u], me.ahead_carry[u]);
            me.load(row + ahead, &me.ahead_slope[u], &me.ahead_carry[u]);
        }
        left -= AHEAD;
    } while (left != 0);
}

/* ---- launching ---- */

typedef void (*lstm_backward_function)(struct lstm_backward_job);

/* By HP / 16 - 1. */
static const lstm_backward_function lstm_backward_functions[] = {
    lstm_backward_kernel<16>,  lstm_backward_kernel<32>,  lstm_backward_kernel<48>,
    lstm_backward_kernel<64>,  lstm_backward_kernel<80>,  lstm_backward_kernel<96>,
    lstm_backward_kernel<112>, lstm_backward_kernel<128>,
};

static enum status lstm_backward_recurrence(struct cuda_backend *be,
                                            const struct cuda_workspace *ws,
                                            const struct lstm_args *args, struct error *err) {
    struct lstm_backward_job job = {};
    job.inputs = args->batch.inputs;
    job.offset = ws->offset;
    for (int d = 0; d < 2; d++) {
        job.w_hh[d] = args->weights.w_hh[d];
        job.slope[d] = ws->slope[d];
        job.carry[d] = ws->carry[d];
    }
    job.d_final_state = args->d_final_state;
    job.progress = be->progress_device;
    job.size = args->shape.hidden;
    unsigned hp = lstm_padded(job.size);
    return lstm_launch(be, "lstm_backward", args, 4 * hp, lstm_backward_functions[hp / 16 - 1], job,
                       err);
}

enum status cuda_lstm_backward(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, struct error *err) {
    TRY(lstm_backward_recurrence(be, ws, args, err));
    uint32_t H = args->shape.hidden;
    struct cuda_outer product[2] = {};
    for (int d = 0; d < 2; d++) {
        product[d].a = ws->slope[d]; /* d_gates by now */
        product[d].b = ws->hidden[d];
        product[d].out = args->gradients.w_hh[d];
        product[d].row_sums = args->gradients.bias[d];
        product[d].rows = 4 * H;
        product[d].columns = H;
    }
    return cuda_outer_products(be, &product[0], &product[1], &args->batch.inputs->total_tokens,
                               NULL, args->limits.total_tokens, ws->product_parts,
                               "lstm_weight_gradients", err);
}
