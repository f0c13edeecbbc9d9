/* cuda_packed.cu - rows packed by time, as cuDNN takes them.
 *
 * The first tokens of all sequences, then the second ones of those that have any, and so on;
 * nothing is padded. Our rows are packed by sequence: here is the way from one order to the other,
 * for embeddings, their gradients and the final states. `running`: the sequences with tokens, which
 * are the first ones of the batch.
 *
 * Steps with cuDNN are never recorded, so sizes are taken from the arguments.
 */
#include "kernels/cuda/cuda_internal.cuh"

enum { ROW_THREADS = 256 };

/* ---- kernels ---- */

/* The sequence that a row belongs to. */
static __device__ uint32_t sequence_of(const uint32_t *offset, uint32_t sequences, uint32_t row) {
    uint32_t low = 0, high = sequences; /* offset[low] <= row < offset[high] */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (offset[middle] <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Sequences longer than `step`: they come first. */
static __device__ uint32_t running_at(const uint32_t *length, uint32_t sequences, uint32_t step) {
    uint32_t low = 0, high = sequences;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (length[middle] > step) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Before the token of sequence b at step t stand the steps before t, which are t of each of the
 * `running` sequences and all of each shorter one, and b tokens of step t. */
static __global__ void __launch_bounds__(ROW_THREADS)
    packed_rows_kernel(uint32_t rows, uint32_t sequences, const uint32_t *length,
                       const uint32_t *offset, uint32_t *packed_row) {
    cuda_block_of(ROW_THREADS);
    uint32_t row = blockIdx.x * ROW_THREADS + threadIdx.x;
    if (row < rows) {
        uint32_t b = sequence_of(offset, sequences, row);
        uint32_t step = row - offset[b];
        uint32_t running = running_at(length, sequences, step);
        packed_row[row] = step * running + (rows - offset[running]) + b;
    }
}

/* x[packed_row[n]] = embedding[row_word[n]] */
static __global__ void __launch_bounds__(ROW_THREADS)
    gather_kernel(uint64_t elements, uint32_t columns, const float *embedding,
                  const uint32_t *row_word, const uint32_t *packed_row, float *x) {
    cuda_block_of(ROW_THREADS);
    uint64_t i = (uint64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i < elements) {
        uint64_t row = i / columns, column = i % columns;
        x[(uint64_t)packed_row[row] * columns + column] =
            embedding[(uint64_t)row_word[row] * columns + column];
    }
}

/* d_tokens[n] = dx[packed_row[n]] */
static __global__ void __launch_bounds__(ROW_THREADS)
    scatter_kernel(uint64_t elements, uint32_t columns, const float *dx, const uint32_t *packed_row,
                   float *d_tokens, uint32_t *progress) {
    cuda_block_of(ROW_THREADS);
    cuda_mark(progress, CUDA_OP_EMBEDDING_GRAD);
    uint64_t i = (uint64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i < elements) {
        d_tokens[i] = dx[(uint64_t)packed_row[i / columns] * columns + i % columns];
    }
}

/* final_state [B, 2H] from state [2, running, H]: zeros for sequences without tokens. */
static __global__ void __launch_bounds__(ROW_THREADS)
    final_state_kernel(uint64_t elements, uint32_t running, uint32_t H, const float *state,
                       float *final_state) {
    cuda_block_of(ROW_THREADS);
    uint64_t i = (uint64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i < elements) {
        uint64_t b = i / (2 * H), dir = i % (2 * H) / H, unit = i % H;
        final_state[i] = b < running ? state[(dir * running + b) * H + unit] : 0.0f;
    }
}

/* The same backwards: state [2, running, H] from d_final_state [B, 2H]. */
static __global__ void __launch_bounds__(ROW_THREADS)
    d_state_kernel(uint64_t elements, uint32_t running, uint32_t H, const float *d_final_state,
                   float *state, uint32_t *progress) {
    cuda_block_of(ROW_THREADS);
    cuda_mark(progress, CUDA_OP_LSTM_BACKWARD);
    uint64_t i = (uint64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i < elements) {
        uint64_t dir = i / ((uint64_t)running * H), b = i / H % running, unit = i % H;
        state[i] = d_final_state[(b * 2 + dir) * H + unit];
    }
}

/* ---- launchers ---- */

static dim3 blocks_for(uint64_t elements) {
    return dim3(cuda_blocks(elements, ROW_THREADS), 1, 1);
}

enum status cuda_packed_gather(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, uint32_t *packed_row, float *x,
                               struct error *err) {
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    uint32_t rows = (uint32_t)args->batch.total_tokens, E = args->shape.embedding;
    uint64_t elements = (uint64_t)rows * E;
    TRY(cuda_launch(stream, "rows packed by time", blocks_for(rows), ROW_THREADS, 0,
                    packed_rows_kernel, err, rows, args->batch.sequences, args->batch.length,
                    ws->offset, packed_row));
    return cuda_launch(stream, "gathering embeddings", blocks_for(elements), ROW_THREADS, 0,
                       gather_kernel, err, elements, E, args->weights.embedding, ws->row_word,
                       packed_row, x);
}

enum status cuda_packed_scatter(struct cuda_backend *be, const struct cuda_workspace *ws,
                                const struct lstm_args *args, const uint32_t *packed_row,
                                const float *dx, struct error *err) {
    uint64_t elements = args->batch.total_tokens * args->shape.embedding;
    if (elements == 0) {
        return STATUS_OK;
    }
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "gradients of the rows",
                       blocks_for(elements), ROW_THREADS, 0, scatter_kernel, err, elements,
                       args->shape.embedding, dx, packed_row, ws->d_tokens, be->progress_device);
}

enum status cuda_packed_final_state(struct cuda_backend *be, const struct lstm_args *args,
                                    const float *state, uint32_t running, struct error *err) {
    uint64_t elements = (uint64_t)args->batch.sequences * 2 * args->shape.hidden;
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "final states", blocks_for(elements),
                       ROW_THREADS, 0, final_state_kernel, err, elements, running,
                       args->shape.hidden, state, args->final_state);
}

enum status cuda_packed_d_state(struct cuda_backend *be, const struct lstm_args *args, float *state,
                                uint32_t running, struct error *err) {
    uint64_t elements = (uint64_t)running * 2 * args->shape.hidden;
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "gradients of the final states",
                       blocks_for(elements), ROW_THREADS, 0, d_state_kernel, err, elements, running,
                       args->shape.hidden, args->d_final_state, state, be->progress_device);
}
