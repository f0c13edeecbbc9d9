/* cuda_lstm_forward.cu - the recurrence forwards: one block per (sequence, direction).
 *
 * Block b works on sequence b / 2 in direction b % 2, the longest sequences first, for exactly as
 * many steps as the sequence has. Thread t belongs to unit t / 4 and ends each product with gate
 * t % 4 (i, f, g, o) of it; lanes 1 and 3 of the four then finish the unit. The hidden state is all
 * that the threads share; two copies of it take turns, so that a step needs one barrier.
 *
 * With a block to itself a multiprocessor waits for the chain of dependent instructions, so
 * whatever can be moved off it is:
 *  - the factors of the exponents are part of the weights and of the gathered input, and the cell
 *    is kept times LSTM_CELL, the factor of tanh's exponent;
 *  - what backward needs is stored behind the barrier, in the shadow of the next product;
 *  - gathered inputs are loaded AHEAD steps before their use. Their row numbers are loaded before
 *    that, AHEAD of them at once by neighbouring lanes, which hand them out.
 */
#include "kernels/cuda/cuda_internal.cuh"
#include "kernels/cuda/cuda_lstm.cuh"

static constexpr float LSTM_LOG2E = 1.44269504f;
static constexpr float LSTM_CELL = 2.0f * LSTM_LOG2E; /* tanh(x) = 1 - 2 / (1 + 2^(LSTM_CELL x)) */

/* What distinguishes the lanes of the four gates. */
struct lstm_gate {
    float exponent;      /* with r = 1 / (1 + 2^(exponent z)) ... */
    float scale, shift;  /* ... the activation is scale r + shift */
    float slope_scale;   /* what r (1 - r) times the other factor of a slope is multiplied by */
    uint32_t kept_pitch; /* f: bytes of a row of `carry`; o: of `hidden` */
};

/* Everything in device memory. Arrays by direction. */
struct lstm_forward_job {
    const struct step_inputs *inputs;
    const uint32_t *offset;    /* [B + 1] */
    const uint32_t *row_index; /* [N] */
    const float *projected[2]; /* [.., 4H] */
    const float *w_hh[2];      /* [4H, H] */
    float *slope[2];           /* [N, 4H]; this and the next two: training */
    float2 *carry[2];          /* [N, H] */
    float *hidden[2];          /* [N, H] */
    float *final_state;        /* [B, 2H] */
    struct lstm_gate gate[4];  /* i, f, g, o; itself part of the arguments */
    uint32_t size;             /* H */
};

/* ---- one thread ---- */

template <unsigned HP, bool TRAINING> struct lstm_forward_thread {
    static constexpr unsigned AHEAD = lstm_ahead(HP);
    lstm_weights<HP, HP> weights;
    Shared<float> state; /* [2][HP] */
    unsigned unit, gate, size;
    bool real;            /* not a unit that only fills up to HP */
    bool finishes, keeps; /* lanes 1 and 3 of a real unit */

    const uint32_t *row_index;
    const float *projected; /* of this unit and gate; row 0 */
    float *slope;           /* likewise */
    float *kept;            /* lane 1: carry, lane 3: hidden; of this unit, row 0 */
    unsigned pitch;         /* bytes of a row of `projected` and `slope` */
    unsigned kept_pitch;    /* bytes of a row of `kept` */
    unsigned row, row_step; /* of the current step; +1 or -1 */

    float exponent, scale, shift, slope_scale; /* of struct lstm_gate */
    float cell, h;                             /* after the latest step; cell times LSTM_CELL */
    float ahead_input[AHEAD];                  /* of the next AHEAD steps */

    /* This thread's quads: four columns, by turns of 16, of the unit's four gates. */
    __device__ __forceinline__ void load_weights(const float *w_hh) {
#pragma unroll
        for (unsigned r = 0; r < 4; r++) {
            unsigned which = r ^ gate;
            const float *row = w_hh + ((size_t)which * size + unit) * size;
            float by = which == 2 ? -2.0f * LSTM_LOG2E : -LSTM_LOG2E;
#pragma unroll
            for (unsigned k = 0; k < HP / 16; k++) {
                unsigned from = k * 16 + gate * 4;
                const float *w = row + from;
                lstm_pace<HP, HP>(k);
                weights.set(4 * k + r, make_float4(real && from < size ? w[0] * by : 0.0f,
                                                   real && from + 1 < size ? w[1] * by : 0.0f,
                                                   real && from + 2 < size ? w[2] * by : 0.0f,
                                                   real && from + 3 < size ? w[3] * by : 0.0f));
            }
        }
    }

    __device__ __forceinline__ void begin(const lstm_forward_job &job, unsigned direction) {
        unit = threadIdx.x / 4;
        gate = threadIdx.x % 4;
        size = job.size;
        real = unit < size;
        finishes = real && gate == 1;
        keeps = real && gate == 3;
        load_weights(direction == 0 ? job.w_hh[0] : job.w_hh[1]);
        const struct lstm_gate &mine = job.gate[gate];
        exponent = mine.exponent;
        scale = mine.scale;
        shift = mine.shift;
        slope_scale = mine.slope_scale;
        kept_pitch = mine.kept_pitch;
        cell = 0.0f;
        h = 0.0f;
        /* Units beyond the real ones load an input and do something with it; nothing reads it. */
        unsigned column = gate * size + (real ? unit : 0);
        pitch = 16 * size;
        row_index = job.row_index;
        projected = (direction == 0 ? job.projected[0] : job.projected[1]) + column;
        if (TRAINING) {
            slope = (direction == 0 ? job.slope[0] : job.slope[1]) + column;
            float *carry = reinterpret_cast<float *>(direction == 0 ? job.carry[0] : job.carry[1]);
            float *hidden = direction == 0 ? job.hidden[0] : job.hidden[1];
            kept = gate == 1 ? carry + 2 * unit : hidden + unit;
        }
    }

    __device__ __forceinline__ float load_input(unsigned index) const {
        return *lstm_at(projected, index, pitch);
    }

    /* One time step: reads the state at `from`, leaves it at `to`. */
    __device__ __forceinline__ void step(unsigned from, unsigned to, float input) {
        float z = lstm_product(weights, state, from + gate * 4, 16, 1, input * exponent);
        float sigmoid = cuda_reciprocal(1.0f + cuda_exp2(z));
        float own = fmaf(scale, sigmoid, shift);
        /* Lane 1 (own f) gets i, o, g; lane 3 (own o) gets g, f, i; what 0 and 2 finish is unused. */
        float by1 = __shfl_xor_sync(LSTM_ALL_LANES, own, 1);
        float by2 = __shfl_xor_sync(LSTM_ALL_LANES, own, 2);
        float by3 = __shfl_xor_sync(LSTM_ALL_LANES, own, 3);
        float forget = finishes ? own : by2;
        float output = finishes ? by2 : own;
        float cell_before = cell, h_before = h;
        cell = fmaf(forget, cell, by1 * by3);
        float part = cuda_reciprocal(1.0f + cuda_exp2(cell));
        float tanh_cell = fmaf(-2.0f, part, 1.0f);
        h = output * tanh_cell;
        if (finishes) {
            state.store(to + unit, h);
        }
        __syncthreads();
        if (TRAINING) {
            float other = finishes ? cell_before : keeps ? tanh_cell : by2;
            float derivative = fmaf(-sigmoid, sigmoid, sigmoid) * slope_scale;
            if (real) {
                *lstm_at(slope, row, pitch) = derivative * other;
            }
            float *at = lstm_at(kept, row, kept_pitch);
            if (finishes) {
                float through = output * fmaf(-tanh_cell, tanh_cell, 1.0f);
                *reinterpret_cast<float2 *>(at) = make_float2(through, forget);
            }
            if (keeps) {
                *at = h_before;
            }
        }
        row += row_step;
    }

    /* All steps. Those that are no multiple of AHEAD come first, so that the loop has no other. */
    __device__ __forceinline__ void walk(unsigned length) {
        unsigned odd = length % AHEAD;
        unsigned from = odd % 2 * HP; /* the loop begins with the first copy of the state */
        for (unsigned t = 0; t < odd; t++) {
            step(from, HP - from, load_input(row_index[row]));
            from = HP - from;
        }
        unsigned left = length - odd;
        if (left == 0) {
            return;
        }
        unsigned turn = threadIdx.x % AHEAD;
        unsigned index = row_index[row + turn * row_step];
#pragma unroll
        for (unsigned u = 0; u < AHEAD; u++) {
            ahead_input[u] = load_input(__shfl_sync(LSTM_ALL_LANES, index, u, AHEAD));
        }
        if (left > AHEAD) {
            index = row_index[row + (AHEAD + turn) * row_step];
        }
        do {
#pragma unroll
            for (unsigned u = 0; u < AHEAD; u++) {
                step(u % 2 * HP, HP - u % 2 * HP, ahead_input[u]);
                ahead_input[u] = load_input(__shfl_sync(LSTM_ALL_LANES, index, u, AHEAD));
            }
            if (left > 2 * AHEAD) {
                index = row_index[row + (AHEAD + turn) * row_step];
            }
            left -= AHEAD;
        } while (left != 0);
    }
};

template <unsigned HP, bool TRAINING>
__global__ void __launch_bounds__(4 * HP, HP <= 64 ? 2 : 1)
    lstm_forward_kernel(struct lstm_forward_job job) {
    cuda_block_of(4 * HP);
    unsigned sequence = blockIdx.x / 2, direction = blockIdx.x % 2;
    if (sequence >= job.inputs->sequences) {
        return;
    }
    lstm_forward_thread<HP, TRAINING> me;
    SharedMemory memory;
    me.state = memory.take<float>(2 * HP);
    me.weights.rest = memory.take<float>(lstm_weights<HP, HP>::REST_FLOATS);
    me.begin(job, direction);
    unsigned first = job.offset[sequence];
    unsigned length = job.offset[sequence + 1] - first;
    me.row_step = direction == 0 ? 1u : ~0u;
    me.row = direction == 0 ? first : first + length - 1;
    if (threadIdx.x < 2 * HP) {
        me.state.store(threadIdx.x, 0.0f);
    }
    __syncthreads();

    me.walk(length);
    if (me.finishes) {
        job.final_state[((size_t)sequence * 2 + direction) * me.size + me.unit] = me.h;
    }
}

/* ---- launching ---- */

typedef void (*lstm_forward_function)(struct lstm_forward_job);

/* By HP / 16 - 1 and training. */
static const lstm_forward_function lstm_forward_functions[][2] = {
    {lstm_forward_kernel<16, false>, lstm_forward_kernel<16, true>},
    {lstm_forward_kernel<32, false>, lstm_forward_kernel<32, true>},
    {lstm_forward_kernel<48, false>, lstm_forward_kernel<48, true>},
    {lstm_forward_kernel<64, false>, lstm_forward_kernel<64, true>},
    {lstm_forward_kernel<80, false>, lstm_forward_kernel<80, true>},
    {lstm_forward_kernel<96, false>, lstm_forward_kernel<96, true>},
    {lstm_forward_kernel<112, false>, lstm_forward_kernel<112, true>},
    {lstm_forward_kernel<128, false>, lstm_forward_kernel<128, true>},
};

enum status cuda_lstm_forward(struct cuda_backend *be, const struct cuda_workspace *ws,
                              const struct lstm_args *args, struct error *err) {
    uint32_t H = args->shape.hidden;
    struct lstm_forward_job job = {};
    job.inputs = args->batch.inputs;
    job.offset = ws->offset;
    job.row_index = ws->row_index;
    for (int d = 0; d < 2; d++) {
        job.projected[d] = ws->projected[d];
        job.w_hh[d] = args->weights.w_hh[d];
        job.slope[d] = ws->slope[d];
        job.carry[d] = ws->carry[d];
        job.hidden[d] = ws->hidden[d];
    }
    job.final_state = args->final_state;
    /* The candidate's tanh(z) = 2 sigmoid(2z) - 1, times LSTM_CELL like the cell that it goes into;
     * its derivative is 4 times that of the sigmoid. Slopes of i and f take the factor out again. */
    job.gate[0] = {-LSTM_LOG2E, 1.0f, 0.0f, 1.0f / LSTM_CELL, 0};
    job.gate[1] = {-LSTM_LOG2E, 1.0f, 0.0f, 1.0f / LSTM_CELL, 8 * H};
    job.gate[2] = {-2.0f * LSTM_LOG2E, 2.0f * LSTM_CELL, -LSTM_CELL, 4.0f, 0};
    job.gate[3] = {-LSTM_LOG2E, 1.0f, 0.0f, 1.0f, 4 * H};
    job.size = H;
    unsigned index = lstm_padded(H) / 16 - 1;
    lstm_forward_function function = lstm_forward_functions[index][args->training];
    return lstm_launch(be, "lstm_forward", args, lstm_padded(H), function, job, err);
}
