/* cuda_head.cu - dense head, loss, running sums and their gradients. */
#include "kernels/cuda/cuda_internal.cuh"

enum {
    HEAD_THREADS = 256,
    HEAD_WARPS = HEAD_THREADS / 32,
    OUTPUT_COLUMNS = 32, /* of a block that makes the gradient of output_weight */
    OUTPUT_GROUPS = HEAD_THREADS / OUTPUT_COLUMNS
};

/* What the kernels share. */
struct head_job {
    const struct step_inputs *inputs;
    const uint8_t *label;
    const float *final_state, *dense_weight, *dense_bias, *output_weight, *output_bias;
    float *d_final_state, *d_output_weight, *d_output_bias; /* NULL where not training */
    float *hidden, *d_hidden, *d_logit;
    float *logits;
    double *losses;
    struct pass_sums *sums;
    uint32_t D, S; /* S: 2H */
    uint32_t *progress;
};

static __device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(~0u, value, distance);
    }
    return value;
}

static __device__ __forceinline__ double loss_of(double logit, double y) {
    return (logit > 0.0 ? logit : 0.0) - logit * y + log1p(exp(-fabs(logit)));
}

/* ---- one sequence ---- */

/* hidden = relu(W state + b), a warp per output; returns the warp's part of the logit. */
static __device__ double hidden_of_sequence(const struct head_job &job, const float *state,
                                            float *hidden) {
    unsigned lane = threadIdx.x % 32;
    double logit = 0.0;
    for (uint32_t d = threadIdx.x / 32; d < job.D; d += HEAD_WARPS) {
        const float *weight = job.dense_weight + (size_t)d * job.S;
        float sum = 0.0f;
#pragma unroll 4
        for (uint32_t s = lane; s < job.S; s += 32) {
            sum = fmaf(weight[s], state[s], sum);
        }
        float a = sum_of_warp(sum) + job.dense_bias[d];
        a = a < 0.0f ? 0.0f : a; /* this way round a NaN stays */
        if (lane == 0) {
            hidden[d] = a;
        }
        logit += (double)job.output_weight[d] * (double)a;
    }
    return logit;
}

/* The logit of the sequence from the warps' parts; its loss and the gradient of the logit. */
static __device__ float finish_sequence(const struct head_job &job, uint32_t b,
                                        Shared<double> parts) {
    double logit = job.output_bias[0];
    for (unsigned w = 0; w < HEAD_WARPS; w++) {
        logit += parts.load(w);
    }
    job.logits[b] = (float)logit;
    logit = (float)logit;
    if (job.label == NULL) {
        return 0.0f;
    }
    double y = job.label[b];
    if (job.losses != NULL) {
        job.losses[b] = loss_of(logit, y);
    }
    return (float)((1.0 / (1.0 + exp(-logit)) - y) / job.inputs->sequences);
}

static __device__ void gradients_of_sequence(const struct head_job &job, uint32_t b,
                                             float d_logit) {
    const float *hidden = job.hidden + (size_t)b * job.D;
    float *d_hidden = job.d_hidden + (size_t)b * job.D;
    for (uint32_t d = threadIdx.x; d < job.D; d += HEAD_THREADS) {
        d_hidden[d] = hidden[d] > 0.0f ? d_logit * job.output_weight[d] : 0.0f;
    }
    __syncthreads();
    for (uint32_t s = threadIdx.x; s < job.S; s += HEAD_THREADS) {
        float sum = 0.0f;
#pragma unroll 8
        for (uint32_t d = 0; d < job.D; d++) {
            sum = fmaf(job.dense_weight[(size_t)d * job.S + s], d_hidden[d], sum);
        }
        job.d_final_state[(size_t)b * job.S + s] = sum;
    }
}

/* One block per sequence. */
static __global__ void __launch_bounds__(HEAD_THREADS) head_kernel(struct head_job job) {
    cuda_block_of(HEAD_THREADS);
    cuda_mark(job.progress, CUDA_OP_HEAD);
    uint32_t b = blockIdx.x;
    if (b >= job.inputs->sequences) {
        return;
    }
    SharedMemory memory;
    Shared<double> parts = memory.take<double>(HEAD_WARPS);
    Shared<float> shared_d_logit = memory.take<float>(1);
    double part = hidden_of_sequence(job, job.final_state + (size_t)b * job.S,
                                     job.hidden + (size_t)b * job.D);
    if (threadIdx.x % 32 == 0) {
        parts.store(threadIdx.x / 32, part);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float d_logit = finish_sequence(job, b, parts);
        shared_d_logit.store(0, d_logit);
        if (job.d_final_state != NULL) {
            job.d_logit[b] = d_logit;
        }
    }
    __syncthreads();
    if (job.d_final_state != NULL) {
        gradients_of_sequence(job, b, shared_d_logit.load(0));
    }
}

/* ---- the batch ---- */

static __device__ void sum_batch(const struct head_job &job) {
    SharedMemory memory;
    Shared<double> parts = memory.take<double>(HEAD_WARPS);
    uint32_t B = job.inputs->sequences;
    double loss = 0.0, correct = 0.0, d_bias = 0.0;
    for (uint32_t b = threadIdx.x; b < B; b += HEAD_THREADS) {
        double logit = job.logits[b], y = job.label[b];
        loss += loss_of(logit, y);
        correct += (logit > 0.0) == (y > 0.5) ? 1.0 : 0.0;
        d_bias += job.d_output_bias != NULL ? job.d_logit[b] : 0.0;
    }
    loss = cuda_sum_of_block<HEAD_THREADS>(loss, parts);
    correct = cuda_sum_of_block<HEAD_THREADS>(correct, parts);
    d_bias = cuda_sum_of_block<HEAD_THREADS>(d_bias, parts);
    if (threadIdx.x != 0) {
        return;
    }
    if (job.sums != NULL) {
        job.sums->loss += loss;
        job.sums->correct += correct;
        job.sums->examples += B;
        job.sums->batch_loss = loss / B;
    }
    if (job.d_output_bias != NULL) {
        job.d_output_bias[0] = (float)d_bias;
    }
}

/* OUTPUT_COLUMNS elements of the gradient of output_weight: every OUTPUT_GROUPS-th sequence by a
 * group of threads, then the groups in order. */
static __device__ void output_gradient(const struct head_job &job, uint32_t first) {
    SharedMemory memory;
    Shared<float> parts = memory.take<float>(HEAD_THREADS);
    uint32_t B = job.inputs->sequences;
    uint32_t d = first + threadIdx.x % OUTPUT_COLUMNS;
    float sum = 0.0f;
    if (d < job.D) {
#pragma unroll 4
        for (uint32_t b = threadIdx.x / OUTPUT_COLUMNS; b < B; b += OUTPUT_GROUPS) {
            sum = fmaf(job.d_logit[b], job.hidden[(size_t)b * job.D + d], sum);
        }
    }
    parts.store(threadIdx.x, sum);
    __syncthreads();
    if (threadIdx.x < OUTPUT_COLUMNS && d < job.D) {
        for (unsigned group = 1; group < OUTPUT_GROUPS; group++) {
            sum += parts.load(group * OUTPUT_COLUMNS + threadIdx.x);
        }
        job.d_output_weight[d] = sum;
    }
}

/* Block 0: sums over the batch; the others (where training): gradient of output_weight. */
static __global__ void __launch_bounds__(HEAD_THREADS) head_sums_kernel(struct head_job job) {
    cuda_block_of(HEAD_THREADS);
    if (blockIdx.x == 0) {
        sum_batch(job);
    } else {
        output_gradient(job, (blockIdx.x - 1) * OUTPUT_COLUMNS);
    }
}

static struct head_job make_job(const struct cuda_backend *be, const struct cuda_workspace *ws,
                                const struct head_args *args) {
    struct head_job job = {};
    job.inputs = args->batch.inputs;
    job.label = args->batch.label;
    job.final_state = args->final_state;
    job.dense_weight = args->weights.dense_weight;
    job.dense_bias = args->weights.dense_bias;
    job.output_weight = args->weights.output_weight;
    job.output_bias = args->weights.output_bias;
    if (args->training) {
        job.d_final_state = args->d_final_state;
        job.d_output_weight = args->gradients.output_weight;
        job.d_output_bias = args->gradients.output_bias;
    }
    job.hidden = ws->head_hidden;
    job.d_hidden = ws->head_d_hidden;
    job.d_logit = ws->head_d_logit;
    job.logits = args->logits;
    job.losses = args->losses;
    job.sums = args->sums;
    job.D = args->shape.dense;
    job.S = 2 * args->shape.hidden;
    job.progress = be->progress_device;
    return job;
}

enum status cuda_head(struct cuda_backend *be, const struct cuda_workspace *ws,
                      const struct head_args *args, struct error *err) {
    struct head_job job = make_job(be, ws, args);
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    TRY(cuda_launch(stream, "head", dim3(args->limits.sequences), HEAD_THREADS,
                    HEAD_WARPS * sizeof(double) + 16, head_kernel, err, job));
    if (args->training || (args->sums != NULL && args->batch.label != NULL)) {
        unsigned blocks = args->training ? 1 + cuda_blocks(job.D, OUTPUT_COLUMNS) : 1;
        TRY(cuda_launch(stream, "sums of the batch", dim3(blocks), HEAD_THREADS,
                        HEAD_THREADS * sizeof(float), head_sums_kernel, err, job));
    }
    if (!args->training) {
        return STATUS_OK;
    }
    struct cuda_outer dense = {};
    dense.a = job.d_hidden;
    dense.b = job.final_state;
    dense.out = args->gradients.dense_weight;
    dense.row_sums = args->gradients.dense_bias;
    dense.rows = job.D;
    dense.columns = job.S;
    return cuda_outer_products(be, &dense, NULL, NULL, &args->batch.inputs->sequences,
                               args->limits.sequences, ws->product_parts,
                               "gradient of the dense layer", err);
}
