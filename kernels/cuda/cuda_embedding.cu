/* cuda_embedding.cu - W_ih embedding + b, and the gradients of embedding and w_ih. */
#include "kernels/cuda/cuda_internal.cuh"

enum {
    FILL_THREADS = 256,
    FILL_BLOCKS = 1024, /* the most; each goes on from there */
    SUM_THREADS = 128,
    SUM_GROUP = 8 /* rows on their way from memory at a time */
};
static_assert((int)CUDA_PIECE_ROWS % (int)SUM_GROUP == 0, "a piece is whole groups");
static_assert((int)CUDA_PIECE_ROWS <= (int)SUM_THREADS, "one thread for each row of a piece");

/* ---- projection ---- */

/* out[v, c] = bias[c] of both directions, for the product to be added to. */
static __global__ void __launch_bounds__(FILL_THREADS)
    bias_kernel(const float *bias0, const float *bias1, float *out0, float *out1, uint32_t rows,
                uint32_t columns) {
    cuda_block_of(FILL_THREADS);
    const float *bias = blockIdx.y == 0 ? bias0 : bias1;
    float *out = blockIdx.y == 0 ? out0 : out1;
    for (uint32_t v = blockIdx.x; v < rows; v += gridDim.x) {
        for (uint32_t c = threadIdx.x; c < columns; c += FILL_THREADS) {
            out[(size_t)v * columns + c] = bias[c];
        }
    }
}

static enum status project_words(struct cuda_backend *be, const struct cuda_workspace *ws,
                                 const struct lstm_args *args, struct error *err) {
    const struct model_weights *w = &args->weights;
    uint32_t V = args->shape.vocabulary, columns = 4 * args->shape.hidden;
    TRY(cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "bias of the table",
                    dim3(V < FILL_BLOCKS ? V : (unsigned)FILL_BLOCKS, 2), FILL_THREADS, 0,
                    bias_kernel, err, w->bias[0], w->bias[1], ws->projected[0], ws->projected[1], V,
                    columns));
    for (int dir = 0; dir < 2; dir++) {
        struct cuda_product product = {};
        product.a = w->embedding;
        product.b = w->w_ih[dir];
        product.b_transposed = true;
        product.out = ws->projected[dir];
        product.rows = V;
        product.columns = columns;
        product.depth = args->shape.embedding;
        product.add = true;
        TRY(cuda_blas_product(be, &product, "table of the words", err));
    }
    return STATUS_OK;
}

static enum status project_tokens(struct cuda_backend *be, const struct cuda_workspace *ws,
                                  const struct lstm_args *args, struct error *err) {
    for (int dir = 0; dir < 2; dir++) {
        struct cuda_rows product = {};
        product.a = args->weights.embedding;
        product.index = ws->row_word;
        product.w = args->weights.w_ih[dir];
        product.init = args->weights.bias[dir];
        product.out = ws->projected[dir];
        product.columns = 4 * args->shape.hidden;
        product.K = args->shape.embedding;
        TRY(cuda_row_products(be, &product, &args->batch.inputs->total_tokens,
                              args->limits.total_tokens, "projection of the tokens", err));
    }
    return STATUS_OK;
}

enum status cuda_embedding_project(struct cuda_backend *be, const struct cuda_workspace *ws,
                                   const struct lstm_args *args, struct error *err) {
    return ws->table ? project_words(be, ws, args, err) : project_tokens(be, ws, args, err);
}

/* ---- sums by word ---- */

/* to[m][word, c] = sum of from[m][row, c] over the rows of the word, in their order. Words that do
 * not occur are not written. */
struct word_sums {
    const struct step_inputs *inputs;
    const uint32_t *word, *row; /* [N] sorted by word */
    const float *from[2];       /* [N, columns] */
    float *to[2];               /* [V, columns] */
    float *edges;               /* [piece][2][matrices * columns], see sum_pieces_kernel */
    uint32_t columns, matrices, column_blocks;
};

/* The column that a thread adds up, and where it is in a row of `edges`. */
struct sum_column {
    const float *from;
    float *to;
    uint32_t column, edge;
};

static __device__ __forceinline__ struct sum_column column_of(const struct word_sums &sums) {
    struct sum_column at;
    bool second = blockIdx.y >= sums.column_blocks;
    at.column = blockIdx.y % sums.column_blocks * SUM_THREADS + threadIdx.x;
    at.edge = (second ? sums.columns : 0) + at.column;
    at.from = (second ? sums.from[1] : sums.from[0]) + at.column;
    at.to = (second ? sums.to[1] : sums.to[0]) + at.column;
    return at;
}

static __device__ __forceinline__ float *edge_at(const struct word_sums &sums, uint64_t piece,
                                                 unsigned side, uint32_t column) {
    return sums.edges + (2 * piece + side) * sums.matrices * sums.columns + column;
}

/* Adds up each run of equal words in CUDA_PIECE_ROWS sorted rows. A run that ends and begins here
 * goes to its word; one that goes on from the piece before to edge 0; one that begins here and goes
 * on in the piece behind to edge 1. Blocks: pieces x columns. */
static __global__ void __launch_bounds__(SUM_THREADS) sum_pieces_kernel(struct word_sums sums) {
    cuda_block_of(SUM_THREADS);
    uint64_t count = sums.inputs->total_tokens;
    uint64_t first = (uint64_t)blockIdx.x * CUDA_PIECE_ROWS;
    if (first >= count) {
        return;
    }
    unsigned rows = (unsigned)min((uint64_t)CUDA_PIECE_ROWS, count - first);
    SharedMemory memory;
    Shared<uint32_t> word = memory.take<uint32_t>(CUDA_PIECE_ROWS);
    Shared<uint32_t> row = memory.take<uint32_t>(CUDA_PIECE_ROWS);
    if (threadIdx.x < rows) {
        word.store(threadIdx.x, sums.word[first + threadIdx.x]);
        row.store(threadIdx.x, sums.row[first + threadIdx.x]);
    }
    __syncthreads();
    struct sum_column at = column_of(sums);
    if (at.column >= sums.columns) {
        return;
    }
    uint32_t current = word.load(0);
    bool begun_before = first > 0 && sums.word[first - 1] == current;
    float sum = 0.0f;
    for (unsigned group = 0; group < rows; group += SUM_GROUP) {
        float value[SUM_GROUP];
#pragma unroll
        for (unsigned i = 0; i < SUM_GROUP; i++) {
            value[i] = 0.0f;
            if (group + i < rows) {
                value[i] = at.from[(size_t)row.load(group + i) * sums.columns];
            }
        }
#pragma unroll
        for (unsigned i = 0; i < SUM_GROUP; i++) {
            uint32_t next = group + i < rows ? word.load(group + i) : current;
            if (next != current) {
                *(begun_before ? edge_at(sums, blockIdx.x, 0, at.edge)
                               : at.to + (size_t)current * sums.columns) = sum;
                current = next;
                begun_before = false;
                sum = 0.0f;
            }
            sum += value[i];
        }
    }
    bool goes_on = first + rows < count && sums.word[first + rows] == current;
    *(begun_before || goes_on ? edge_at(sums, blockIdx.x, begun_before ? 0 : 1, at.edge)
                              : at.to + (size_t)current * sums.columns) = sum;
}

/* The first of the sorted rows from `first` on with a word above `word`. */
static __device__ __forceinline__ uint64_t run_end(const struct word_sums &sums, uint64_t first,
                                                   uint64_t count, uint32_t word) {
    uint64_t end = count;
    while (first < end) {
        uint64_t middle = first + (end - first) / 2;
        if (sums.word[middle] > word) {
            end = middle;
        } else {
            first = middle + 1;
        }
    }
    return end;
}

/* The runs that cross pieces: the block of the piece where one begins adds it up. */
static __global__ void __launch_bounds__(SUM_THREADS) sum_edges_kernel(struct word_sums sums) {
    cuda_block_of(SUM_THREADS);
    uint64_t count = sums.inputs->total_tokens;
    uint64_t first = (uint64_t)blockIdx.x * CUDA_PIECE_ROWS;
    uint64_t behind = first + CUDA_PIECE_ROWS;
    if (behind >= count) {
        return;
    }
    uint32_t word = sums.word[behind - 1];
    bool begun_before = first > 0 && sums.word[first - 1] == word;
    struct sum_column at = column_of(sums);
    if (sums.word[behind] != word || begun_before || at.column >= sums.columns) {
        return;
    }
    uint64_t last_piece = (run_end(sums, behind, count, word) - 1) / CUDA_PIECE_ROWS;
    float sum = *edge_at(sums, blockIdx.x, 1, at.edge);
#pragma unroll 8
    for (uint64_t piece = blockIdx.x + 1; piece <= last_piece; piece++) {
        sum += *edge_at(sums, piece, 0, at.edge);
    }
    at.to[(size_t)word * sums.columns] = sum;
}

/* Zeros where the sums go, those of words that do not occur too. */
static __global__ void __launch_bounds__(FILL_THREADS)
    zero_kernel(float *to0, float *to1, size_t count, uint32_t *progress) {
    cuda_block_of(FILL_THREADS);
    cuda_mark(progress, CUDA_OP_EMBEDDING_GRAD);
    float *to = blockIdx.y == 0 ? to0 : to1;
    size_t i = (size_t)blockIdx.x * FILL_THREADS + threadIdx.x;
    for (; i < count; i += (size_t)gridDim.x * FILL_THREADS) {
        to[i] = 0.0f;
    }
}

static unsigned fill_blocks(size_t count) {
    size_t most = (size_t)FILL_BLOCKS * FILL_THREADS;
    return cuda_blocks(count < most ? count : most, FILL_THREADS);
}

static enum status zero_sums(struct cuda_backend *be, float *to0, float *to1, size_t count,
                             struct error *err) {
    return cuda_launch(be->stream[BACKEND_STREAM_COMPUTE], "embedding_grad",
                       dim3(fill_blocks(count), to1 != NULL ? 2 : 1), FILL_THREADS, 0, zero_kernel,
                       err, to0, to1, count, be->progress_device);
}

static enum status sum_by_word(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, struct word_sums sums,
                               struct error *err) {
    sums.inputs = args->batch.inputs;
    sums.word = ws->sorted_word[0];
    sums.row = ws->sorted_row[0];
    sums.edges = ws->piece_sums;
    sums.column_blocks = cuda_blocks(sums.columns, SUM_THREADS);
    dim3 blocks(cuda_blocks(args->limits.total_tokens, CUDA_PIECE_ROWS),
                sums.column_blocks * sums.matrices);
    if (blocks.x == 0) {
        return STATUS_OK;
    }
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    TRY(cuda_launch(stream, "sums by word", blocks, SUM_THREADS,
                    2 * CUDA_PIECE_ROWS * sizeof(uint32_t), sum_pieces_kernel, err, sums));
    return cuda_launch(stream, "sums by word", blocks, SUM_THREADS, 0, sum_edges_kernel, err, sums);
}

/* ---- gradients ---- */

static enum status word_gradients(struct cuda_backend *be, const struct cuda_workspace *ws,
                                  const struct lstm_args *args, struct error *err) {
    uint32_t V = args->shape.vocabulary, E = args->shape.embedding, G = 4 * args->shape.hidden;
    struct word_sums sums = {};
    sums.columns = G;
    sums.matrices = 2;
    for (int dir = 0; dir < 2; dir++) {
        sums.from[dir] = ws->slope[dir];
        sums.to[dir] = ws->d_projected[dir];
    }
    TRY(zero_sums(be, sums.to[0], sums.to[1], (size_t)V * G, err));
    TRY(sum_by_word(be, ws, args, sums, err));
    for (int dir = 0; dir < 2; dir++) {
        struct cuda_product d_embedding = {};
        d_embedding.a = ws->d_projected[dir];
        d_embedding.b = args->weights.w_ih[dir];
        d_embedding.out = args->gradients.embedding;
        d_embedding.rows = V;
        d_embedding.columns = E;
        d_embedding.depth = G;
        d_embedding.add = dir == 1;
        TRY(cuda_blas_product(be, &d_embedding, "gradient of the embedding", err));
        struct cuda_product d_w_ih = {};
        d_w_ih.a = ws->d_projected[dir];
        d_w_ih.a_transposed = true;
        d_w_ih.b = args->weights.embedding;
        d_w_ih.out = args->gradients.w_ih[dir];
        d_w_ih.rows = G;
        d_w_ih.columns = E;
        d_w_ih.depth = V;
        TRY(cuda_blas_product(be, &d_w_ih, "gradient of w_ih", err));
    }
    return STATUS_OK;
}

static enum status sum_tokens(struct cuda_backend *be, const struct cuda_workspace *ws,
                              const struct lstm_args *args, struct error *err) {
    struct word_sums sums = {};
    sums.columns = args->shape.embedding;
    sums.matrices = 1;
    sums.from[0] = ws->d_tokens;
    sums.to[0] = args->gradients.embedding;
    return sum_by_word(be, ws, args, sums, err);
}

static enum status zero_embedding(struct cuda_backend *be, const struct lstm_args *args,
                                  struct error *err) {
    size_t count = (size_t)args->shape.vocabulary * args->shape.embedding;
    return zero_sums(be, args->gradients.embedding, NULL, count, err);
}

enum status cuda_embedding_sum_tokens(struct cuda_backend *be, const struct cuda_workspace *ws,
                                      const struct lstm_args *args, struct error *err) {
    TRY(zero_embedding(be, args, err));
    return sum_tokens(be, ws, args, err);
}

static enum status token_gradients(struct cuda_backend *be, const struct cuda_workspace *ws,
                                   const struct lstm_args *args, struct error *err) {
    uint32_t E = args->shape.embedding, G = 4 * args->shape.hidden;
    const uint64_t *tokens = &args->batch.inputs->total_tokens;
    uint64_t tokens_max = args->limits.total_tokens;
    struct cuda_outer d_w_ih[2] = {};
    TRY(zero_embedding(be, args, err)); /* first: it says which op runs */
    for (int dir = 0; dir < 2; dir++) {
        struct cuda_rows d_tokens = {};
        d_tokens.a = ws->slope[dir];
        d_tokens.w = args->weights.w_ih[dir];
        d_tokens.transposed = true;
        d_tokens.out = ws->d_tokens;
        d_tokens.columns = E;
        d_tokens.K = G;
        d_tokens.add = dir == 1;
        TRY(cuda_row_products(be, &d_tokens, tokens, tokens_max, "gradient of the tokens", err));
        d_w_ih[dir].a = ws->slope[dir];
        d_w_ih[dir].b = args->weights.embedding;
        d_w_ih[dir].index = ws->row_word;
        d_w_ih[dir].out = args->gradients.w_ih[dir];
        d_w_ih[dir].rows = G;
        d_w_ih[dir].columns = E;
    }
    TRY(sum_tokens(be, ws, args, err));
    return cuda_outer_products(be, &d_w_ih[0], &d_w_ih[1], tokens, NULL, tokens_max,
                               ws->product_parts, "gradient of w_ih", err);
}

enum status cuda_embedding_gradients(struct cuda_backend *be, const struct cuda_workspace *ws,
                                     const struct lstm_args *args, struct error *err) {
    return ws->table ? word_gradients(be, ws, args, err) : token_gradients(be, ws, args, err);
}
