/* cuda_words.cu - rows of the batch, and rows sorted by word. */
#include "kernels/cuda/cuda_internal.cuh"

enum {
    SCAN_THREADS = 512,
    SCAN_ITEMS = 4, /* consecutive ones of a thread */
    ROWS_THREADS = 256,
    SORT_THREADS = (int)CUDA_SORT_DIGITS, /* one thread looks after one digit */
    SORT_WARPS = SORT_THREADS / 32,
    SORT_ROUNDS = (int)CUDA_SORT_ROWS / SORT_THREADS,
    DIGIT_BITS = 8
};
static_assert((int)SORT_ROUNDS * (int)SORT_THREADS == (int)CUDA_SORT_ROWS,
              "rows of a block in whole rounds");
static_assert(1 << (int)DIGIT_BITS == (int)CUDA_SORT_DIGITS, "a digit is so many bits");

/* ---- prefix sums ---- */

/* Sum of `value` over the threads before this one; *all is that of the whole block. `totals` has an
 * element for each warp. */
static __device__ uint32_t sum_before(uint32_t value, Shared<uint32_t> totals, uint32_t *all) {
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t inclusive = value;
    for (unsigned distance = 1; distance < 32; distance *= 2) {
        uint32_t other = __shfl_up_sync(~0u, inclusive, distance);
        inclusive += lane >= distance ? other : 0;
    }
    if (lane == 31) {
        totals.store(warp, inclusive);
    }
    __syncthreads();
    uint32_t before = inclusive - value;
    *all = 0;
    for (unsigned w = 0; w < SCAN_THREADS / 32; w++) {
        uint32_t total = totals.load(w);
        before += w < warp ? total : 0;
        *all += total;
    }
    __syncthreads();
    return before;
}

/* out[i] = sum of in[0 .. i) for i <= count, by one block; `in` may be `out`. */
static __device__ void scan(const uint32_t *in, uint32_t *out, uint64_t count) {
    SharedMemory memory;
    Shared<uint32_t> totals = memory.take<uint32_t>(SCAN_THREADS / 32);
    uint32_t carried = 0;
    for (uint64_t base = 0; base < count; base += SCAN_THREADS * SCAN_ITEMS) {
        uint64_t first = base + threadIdx.x * SCAN_ITEMS;
        uint32_t items[SCAN_ITEMS];
        uint32_t sum = 0;
        for (unsigned i = 0; i < SCAN_ITEMS; i++) {
            items[i] = first + i < count ? in[first + i] : 0;
            sum += items[i];
        }
        uint32_t all;
        uint32_t before = carried + sum_before(sum, totals, &all);
        for (unsigned i = 0; i < SCAN_ITEMS; i++) {
            if (first + i < count) {
                out[first + i] = before;
            }
            before += items[i];
        }
        carried += all;
    }
    if (threadIdx.x == 0) {
        out[count] = carried;
    }
}

/* ---- rows ---- */

static __global__ void __launch_bounds__(SCAN_THREADS)
    offset_kernel(const struct step_inputs *inputs, const uint32_t *length, uint32_t *offset,
                  uint32_t *progress) {
    cuda_block_of(SCAN_THREADS);
    cuda_mark(progress, CUDA_OP_LSTM_FORWARD);
    scan(length, offset, inputs->sequences);
}

/* One block per sequence. row_index is row_word itself where projected rows are words. */
template <class Id>
static __global__ void __launch_bounds__(ROWS_THREADS)
    rows_kernel(const struct step_inputs *inputs, const Id *tokens, const uint64_t *first,
                const uint32_t *offset, uint32_t *row_word, uint32_t *row_index) {
    cuda_block_of(ROWS_THREADS);
    uint32_t b = blockIdx.x;
    if (b >= inputs->sequences) {
        return;
    }
    const Id *ids = tokens + first[b];
    uint32_t begin = offset[b], length = offset[b + 1] - begin;
    for (uint32_t t = threadIdx.x; t < length; t += ROWS_THREADS) {
        row_word[begin + t] = ids[t];
        if (row_index != row_word) {
            row_index[begin + t] = begin + t;
        }
    }
}

template <class Id>
static enum status launch_rows(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, struct error *err) {
    const struct batch_view *batch = &args->batch;
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "rows of the batch",
                       dim3(args->limits.sequences), ROWS_THREADS, 0, rows_kernel<Id>, err,
                       batch->inputs, static_cast<const Id *>(batch->tokens), batch->first,
                       ws->offset, ws->row_word, ws->row_index);
}

enum status cuda_words_rows(struct cuda_backend *be, const struct cuda_workspace *ws,
                            const struct lstm_args *args, struct error *err) {
    TRY(cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "offsets of the batch", dim3(1),
                    SCAN_THREADS, SCAN_THREADS / 32 * sizeof(uint32_t), offset_kernel, err,
                    args->batch.inputs, args->batch.length, ws->offset, be->progress_device));
    return args->batch.token_bytes == 2 ? launch_rows<uint16_t>(be, ws, args, err)
                                        : launch_rows<uint32_t>(be, ws, args, err);
}

/* ---- sort ---- */

/* One pass of the sort, by the digit `shift` bits up. */
struct sort_pass {
    const struct step_inputs *inputs;
    const uint32_t *word_in, *row_in; /* row_in NULL: 0, 1, 2, ... */
    uint32_t *word_out, *row_out;
    uint32_t *counts; /* [CUDA_SORT_DIGITS][blocks of this batch] */
    uint32_t shift;
};

static __device__ __forceinline__ unsigned digit_of(const struct sort_pass &pass, uint32_t word) {
    return (word >> pass.shift) % CUDA_SORT_DIGITS;
}

static __device__ __forceinline__ uint64_t sort_blocks(uint64_t rows) {
    return (rows + CUDA_SORT_ROWS - 1) / CUDA_SORT_ROWS;
}

/* counts[digit][block] = rows of the block with that digit. */
static __global__ void __launch_bounds__(SORT_THREADS) digits_kernel(struct sort_pass pass) {
    cuda_block_of(SORT_THREADS);
    uint64_t rows = pass.inputs->total_tokens;
    uint64_t first = (uint64_t)blockIdx.x * CUDA_SORT_ROWS;
    if (first >= rows) {
        return;
    }
    SharedMemory memory;
    Shared<uint32_t> counts = memory.take<uint32_t>(CUDA_SORT_DIGITS);
    counts.store(threadIdx.x, 0);
    __syncthreads();
    for (unsigned r = 0; r < SORT_ROUNDS; r++) {
        uint64_t i = first + r * SORT_THREADS + threadIdx.x;
        if (i < rows) {
            counts.atomic_add(digit_of(pass, pass.word_in[i]), 1);
        }
    }
    __syncthreads();
    pass.counts[threadIdx.x * sort_blocks(rows) + blockIdx.x] = counts.load(threadIdx.x);
}

/* Counts become the places where each block's rows of each digit begin. */
static __global__ void __launch_bounds__(SCAN_THREADS) places_kernel(struct sort_pass pass) {
    cuda_block_of(SCAN_THREADS);
    scan(pass.counts, pass.counts, CUDA_SORT_DIGITS * sort_blocks(pass.inputs->total_tokens));
}

/* The lanes of the warp with the same digit as this one. */
static __device__ unsigned same_digit(unsigned digit, bool valid) {
    unsigned lanes = __ballot_sync(~0u, valid);
    for (unsigned bit = 0; bit < DIGIT_BITS; bit++) {
        bool set = (digit >> bit & 1) != 0;
        unsigned with = __ballot_sync(~0u, set);
        lanes &= set ? with : ~with;
    }
    return lanes;
}

/* Every warp takes consecutive rows, 32 at a time, and counts what it has seen of each digit: the
 * count is the rank of a row among the warp's. */
static __global__ void __launch_bounds__(SORT_THREADS) scatter_kernel(struct sort_pass pass) {
    cuda_block_of(SORT_THREADS);
    uint64_t rows = pass.inputs->total_tokens;
    uint64_t block_first = (uint64_t)blockIdx.x * CUDA_SORT_ROWS;
    if (block_first >= rows) {
        return;
    }
    SharedMemory memory;
    Shared<uint32_t> seen = memory.take<uint32_t>(SORT_WARPS * CUDA_SORT_DIGITS);
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned w = 0; w < SORT_WARPS; w++) {
        seen.store(w * CUDA_SORT_DIGITS + threadIdx.x, 0);
    }
    __syncthreads();

    uint64_t first = block_first + warp * (32 * SORT_ROUNDS) + lane;
    uint32_t word[SORT_ROUNDS], rank[SORT_ROUNDS];
    for (unsigned r = 0; r < SORT_ROUNDS; r++) {
        bool valid = first + 32 * r < rows;
        word[r] = valid ? pass.word_in[first + 32 * r] : 0;
        unsigned mine = warp * CUDA_SORT_DIGITS + digit_of(pass, word[r]);
        unsigned lanes = same_digit(digit_of(pass, word[r]), valid);
        unsigned before = (unsigned)__popc(lanes & ((1u << lane) - 1));
        uint32_t earlier = seen.load(mine);
        rank[r] = earlier + before;
        __syncwarp();
        if (valid && before == 0) {
            seen.store(mine, earlier + (unsigned)__popc(lanes));
        }
        __syncwarp();
    }
    __syncthreads();

    uint32_t place = pass.counts[threadIdx.x * sort_blocks(rows) + blockIdx.x];
    for (unsigned w = 0; w < SORT_WARPS; w++) {
        unsigned mine = w * CUDA_SORT_DIGITS + threadIdx.x;
        uint32_t count = seen.load(mine);
        seen.store(mine, place);
        place += count;
    }
    __syncthreads();

    for (unsigned r = 0; r < SORT_ROUNDS; r++) {
        uint64_t i = first + 32 * r;
        if (i < rows) {
            uint32_t to = seen.load(warp * CUDA_SORT_DIGITS + digit_of(pass, word[r])) + rank[r];
            pass.word_out[to] = word[r];
            pass.row_out[to] = pass.row_in != NULL ? pass.row_in[i] : (uint32_t)i;
        }
    }
}

static enum status launch_pass(const struct sort_pass *pass, unsigned blocks, cudaStream_t stream,
                               struct error *err) {
    const size_t digits_bytes = CUDA_SORT_DIGITS * sizeof(uint32_t);
    TRY(cuda_launch(stream, "digits of the words", dim3(blocks), SORT_THREADS, digits_bytes,
                    digits_kernel, err, *pass));
    TRY(cuda_launch(stream, "places of the words", dim3(1), SCAN_THREADS,
                    SCAN_THREADS / 32 * sizeof(uint32_t), places_kernel, err, *pass));
    return cuda_launch(stream, "sorting by word", dim3(blocks), SORT_THREADS,
                       SORT_WARPS * digits_bytes, scatter_kernel, err, *pass);
}

enum status cuda_words_sort(struct cuda_backend *be, const struct cuda_workspace *ws,
                            const struct lstm_args *args, cudaStream_t stream, struct error *err) {
    (void)be;
    unsigned blocks = cuda_blocks(args->limits.total_tokens, CUDA_SORT_ROWS);
    if (blocks == 0) {
        return STATUS_OK;
    }
    unsigned passes = 1;
    while (passes < 4 && (args->shape.vocabulary - 1) >> (DIGIT_BITS * passes) != 0) {
        passes++;
    }
    struct sort_pass pass = {};
    pass.inputs = args->batch.inputs;
    pass.counts = ws->sort_counts;
    pass.word_in = ws->row_word;
    for (unsigned p = 0; p < passes; p++) {
        unsigned to = (passes - 1 - p) % 2; /* the last pass ends in [0] */
        pass.word_out = ws->sorted_word[to];
        pass.row_out = ws->sorted_row[to];
        pass.shift = DIGIT_BITS * p;
        TRY(launch_pass(&pass, blocks, stream, err));
        pass.word_in = pass.word_out;
        pass.row_in = pass.row_out;
    }
    return STATUS_OK;
}
