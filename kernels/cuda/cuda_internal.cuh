/* cuda_internal.cuh - the CUDA backend's struct, its workspace, and who calls whom in this room.
 *
 *   cuda_device.cu         create: choose the device, streams, cuBLAS, description; free
 *   cuda_backend.cu        the table: memory, copies, streams, events, errors, ops in their order
 *   cuda_recording.cu      CUDA graphs
 *   cuda_workspace.cu      divides the workspace
 *   cuda_words.cu          rows of the batch; rows sorted by word
 *   cuda_lstm_forward.cu   recurrence, one block per (sequence, direction)
 *   cuda_lstm_backward.cu  the same backwards
 *   cuda_products.cu       products whose size depends on the batch; cuBLAS for the others
 *   cuda_embedding.cu      W_ih embedding + b, and the gradients of embedding and w_ih
 *   cuda_head.cu           dense head, loss, running sums and their gradients
 *   cuda_optimiser.cu      global norm, Adam
 *   cuda_cudnn.cu          recurrence by cuDNN (only where it was found)
 *   cuda_packed.cu         rows in cuDNN's order
 *
 * Data flow of a training step (N rows: the tokens of the batch, sequence by sequence; both
 * directions share the rows; nothing is padded):
 *   step_inputs, first, length --words--> offset [B + 1], row_word [N]
 *                                   `---> sorted_word, sorted_row [N]         (second stream, joined
 *                                                                              by embedding_grad)
 *   table path:  projected [V, 4H] = embedding W_ih^T + b            per direction, by cuBLAS
 *   plain path:  projected [N, 4H] = embedding[row_word] W_ih^T + b  per direction, own product
 *   lstm forward: reads projected[row_index[n]]; leaves per row
 *       slope  [N, 4H]  derivative of the step's (c, h) by each gate's input, see below
 *       carry  [N, H]   {k, f}
 *       hidden [N, H]   h before the step
 *   head: final_state -> loss, d_final_state
 *   lstm backward: slope becomes d_gates [N, 4H] (gradient of z), in place
 *   products: dW_hh = d_gates^T hidden, db = column sums of d_gates
 *   embedding: table path d_projected [V, 4H] = sums of d_gates by word, in the order of the rows;
 *              then two small products. Plain path: d_tokens [N, E] = d_gates W_ih, summed by word;
 *              dW_ih = d_gates^T embedding[row_word].
 *
 * The local derivatives. With u = tanh(c_t), forward stores for each unit
 *       slope_i = g i (1 - i)   slope_f = c_{t-1} f (1 - f)   slope_g = i (1 - g^2)
 *       slope_o = u o (1 - o)   k = o (1 - u^2)   f
 * so that one step back needs no activation at all:
 *       d = dc + dh k           dc_{t-1} = d f
 *       dz_i = d slope_i        dz_f = d slope_f   dz_g = d slope_g   dz_o = dh slope_o
 *       dh_{t-1} = W_hh^T dz
 *
 * Which path: CUDA_TABLE_WORDS decides by the vocabulary alone, so that a run and its continuation
 * take the same.
 *
 * Sizes. Kernels read B and N from struct step_inputs in device memory, and launches are sized by
 * the limits: one recorded graph serves every batch. Blocks without work return at once. Indices of
 * rows fit 32 bits (checked by workspace_bytes: SIZE_MAX above), products of them are 64-bit.
 *
 * Determinism: no atomics but on integers whose result does not depend on the order; every sum has
 * an order fixed by the data. cuBLAS runs on one stream with a workspace of its own.
 */
#ifndef CAIRN_KERNELS_CUDA_CUDA_INTERNAL_CUH
#define CAIRN_KERNELS_CUDA_CUDA_INTERNAL_CUH

#include <cublas_v2.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_util.cuh"

enum cuda_lstm { CUDA_LSTM_FUSED, CUDA_LSTM_CUDNN };

/* What runs on the device; the first kernel of an op writes it to the progress word, so that an
 * asynchronous failure can be told by name. */
enum cuda_op {
    CUDA_OP_NONE,
    CUDA_OP_LSTM_FORWARD,
    CUDA_OP_HEAD,
    CUDA_OP_LSTM_BACKWARD,
    CUDA_OP_EMBEDDING_GRAD,
    CUDA_OP_GLOBAL_NORM,
    CUDA_OP_ADAM_STEP,
    CUDA_OP_COUNT
};

struct cuda_cudnn; /* cuda_cudnn.cu */

struct cuda_backend {
    struct backend base;  /* first, so that the pointers are the same */
    char device_name[16]; /* "cuda:0" */
    char kernel_path[48]; /* "cuda-fused-sm90", "cuda-cudnn-tf32-sm80", "simulated-cuda-fused" */
    int device;
    enum cuda_lstm lstm;
    bool graph;
    cudaStream_t stream[BACKEND_STREAM_COUNT];
    cudaStream_t words_stream;  /* sorting by word, beside the recurrence */
    cudaEvent_t forked, sorted; /* compute -> words_stream, and back */
    bool sort_open;             /* `sorted` was recorded and compute does not wait for it yet */
    bool capturing;             /* between the begin and the end of a recording */
    cublasHandle_t blas;
    cublasComputeType_t blas_compute;
    void *blas_workspace;
    uint32_t *progress;        /* mapped pinned host memory: the op that the device began last */
    uint32_t *progress_device; /* the same word as the device sees it */
    double *norm_parts;        /* [CUDA_NORM_PARTS] device memory of cuda_global_norm */
    struct cuda_cudnn *cudnn;
};

static inline struct cuda_backend *cuda_of(struct backend *be) {
    return (struct cuda_backend *)be;
}

/* First statement of the first kernel of an op, by one thread of one block. */
__device__ __forceinline__ void cuda_mark(uint32_t *progress, uint32_t op) {
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        *(volatile uint32_t *)progress = op;
    }
}

/* ---- workspace ---- */

enum {
    CUDA_FUSED_HIDDEN_MAX = 128,
    CUDA_TABLE_WORDS = 8192,   /* largest vocabulary that takes the table path */
    CUDA_PRODUCT_ROWS = 256,   /* rows of the batch that one partial product sums; more where */
    CUDA_PRODUCT_CHUNKS = 256, /* there would be more partial products than this */
    CUDA_SORT_ROWS = 1024,     /* rows that one block of the sort orders */
    CUDA_SORT_DIGITS = 256,    /* values of one digit */
    CUDA_PIECE_ROWS = 32,      /* sorted rows that one partial sum by word takes */
    CUDA_NORM_PARTS = 256      /* partial sums of the global norm */
};

/* Parts of the workspace; [x] as in the picture above, NULL where the path or the mode has no use
 * for it. N and B are those of the limits. */
struct cuda_workspace {
    bool table;
    uint32_t *offset;         /* [B + 1] first row of each sequence */
    uint32_t *row_word;       /* [N] token id of each row */
    uint32_t *row_index;      /* [N] row of `projected`: row_word (table) or 0, 1, 2, ... (plain) */
    float *projected[2];      /* [V or N, 4H] */
    float *slope[2];          /* [N, 4H]; training; d_gates after lstm_backward */
    float2 *carry[2];         /* [N, H]; training */
    float *hidden[2];         /* [N, H]; training */
    uint32_t *sorted_word[2]; /* [N]; training; two for the passes of the sort, result in [0] */
    uint32_t *sorted_row[2];  /* [N] */
    uint32_t *sort_counts;    /* [CUDA_SORT_DIGITS, blocks of the sort] */
    float *d_projected[2];    /* [V, 4H]; table; training. May be `projected` */
    float *d_tokens;          /* [N, E]; plain; training */
    float *piece_sums;        /* [pieces, 2, columns of what is summed by word] */
    float *product_parts;     /* partial products, as cuda_products.cu divides it */
    float *head_hidden;       /* [B, D] */
    float *head_d_hidden;     /* [B, D] */
    float *head_d_logit;      /* [B] */
};

size_t cuda_workspace_bytes(const struct cuda_backend *be, const struct model_shape *shape,
                            const struct batch_limits *limits);
struct cuda_workspace cuda_workspace_make(void *memory, const struct cuda_backend *be,
                                          const struct model_shape *shape,
                                          const struct batch_limits *limits);

/* ---- the parts of the ops; all enqueue only, on the stream they are given ---- */

/* offset, row_word and row_index of the batch; marks `op`. */
enum status cuda_words_rows(struct cuda_backend *be, const struct cuda_workspace *ws,
                            const struct lstm_args *args, struct error *err);
/* sorted_word and sorted_row: rows by ascending word, equal words in the order of their rows
 * (stable counting sort by digits; Knuth vol. 3, 5.2.5). */
enum status cuda_words_sort(struct cuda_backend *be, const struct cuda_workspace *ws,
                            const struct lstm_args *args, cudaStream_t stream, struct error *err);

/* projected, of both directions. */
enum status cuda_embedding_project(struct cuda_backend *be, const struct cuda_workspace *ws,
                                   const struct lstm_args *args, struct error *err);
/* Gradients of embedding and w_ih from d_gates and the sorted rows; marks
 * CUDA_OP_EMBEDDING_GRAD. */
enum status cuda_embedding_gradients(struct cuda_backend *be, const struct cuda_workspace *ws,
                                     const struct lstm_args *args, struct error *err);
/* The part of it that cuDNN's path uses too: gradients.embedding = sums of d_tokens by word; marks
 * CUDA_OP_EMBEDDING_GRAD. */
enum status cuda_embedding_sum_tokens(struct cuda_backend *be, const struct cuda_workspace *ws,
                                      const struct lstm_args *args, struct error *err);

/* The recurrences. Forward writes final_state. Backward marks CUDA_OP_LSTM_BACKWARD. */
enum status cuda_lstm_forward(struct cuda_backend *be, const struct cuda_workspace *ws,
                              const struct lstm_args *args, struct error *err);
enum status cuda_lstm_backward(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, struct error *err);

/* out[r, c] = sum over n < count of a[n, r] b[index[n], c] (index NULL: b[n, c]), and row_sums[r] =
 * sum over n of a[n, r] where asked for: CUDA_PRODUCT_ROWS rows at a time into `parts`, which are
 * then added in order. `count_max` sizes the launch. */
struct cuda_outer {
    const float *a, *b; /* [count, rows], [.., columns] */
    const uint32_t *index;
    float *out;      /* [rows, columns] */
    float *row_sums; /* [rows] or NULL */
    uint32_t rows, columns;
};
/* Floats of `parts` for one product of this size; SIZE_MAX where that is too many. */
size_t cuda_outer_floats(uint64_t count_max, uint32_t rows, uint32_t columns);
/* `pair`: two products of the same size (the directions) in one launch; NULL second: one. `count`
 * points to N or B in struct step_inputs: exactly one of the two is not NULL. */
enum status cuda_outer_products(struct cuda_backend *be, const struct cuda_outer *first,
                                const struct cuda_outer *second, const uint64_t *tokens,
                                const uint32_t *sequences, uint64_t count_max, float *parts,
                                const char *name, struct error *err);

/* out[n, c] = init[c] (NULL: 0) + sum over k of a[index[n], k] w(c, k), for n < *tokens; w(c, k) is
 * w[c * K + k], or w[k * columns + c] where `transposed`. With `add` to what out holds. */
struct cuda_rows {
    const float *a, *w, *init;
    const uint32_t *index; /* NULL: a[n, k] */
    float *out;            /* [N, columns] */
    uint32_t columns, K;
    bool transposed, add;
};
enum status cuda_row_products(struct cuda_backend *be, const struct cuda_rows *product,
                              const uint64_t *tokens, uint64_t count_max, const char *name,
                              struct error *err);

/* out[r, c] = sum over k < depth of a(r, k) b(k, c), by cuBLAS: for sizes that no batch changes.
 * a(r, k) is a[r * depth + k], or a[k * rows + r] where a_transposed; b(k, c) is b[k * columns +
 * c], or b[c * depth + k] where b_transposed. With `add` to what out holds. */
struct cuda_product {
    const float *a, *b;
    float *out; /* [rows, columns] */
    uint32_t rows, columns, depth;
    bool a_transposed, b_transposed, add;
};
enum status cuda_blas_product(struct cuda_backend *be, const struct cuda_product *product,
                              const char *name, struct error *err);

/* The ops of the table that are a file of their own. */
enum status cuda_head(struct cuda_backend *be, const struct cuda_workspace *ws,
                      const struct head_args *args, struct error *err);
enum status cuda_global_norm(struct cuda_backend *be, const struct norm_args *args,
                             struct error *err);
enum status cuda_adam_step(struct cuda_backend *be, const struct adam_args *args,
                           struct error *err);
enum status cuda_replay(struct backend *be, struct backend_recording **recording,
                        enum status (*enqueue)(void *context, struct error *err), void *context,
                        struct error *err);
void cuda_recording_free(struct backend *be, struct backend_recording *recording);

/* ---- cuDNN (cuda_cudnn.cu; without it these fail with STATUS_DEVICE) ---- */

enum status cuda_cudnn_create(struct cuda_backend *be, const char *precision, struct error *err);
void cuda_cudnn_free(struct cuda_backend *be);
/* The table's workspace_bytes; the common part must not be SIZE_MAX. cuDNN's answers are kept: the
 * other functions take `limits` that were asked for here. */
enum status cuda_cudnn_workspace_bytes(struct cuda_backend *be, const struct model_shape *shape,
                                       const struct batch_limits *limits, size_t *out,
                                       struct error *err);
enum status cuda_cudnn_forward(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, struct error *err);
enum status cuda_cudnn_backward(struct cuda_backend *be, const struct cuda_workspace *ws,
                                const struct lstm_args *args, struct error *err);
enum status cuda_cudnn_embedding_gradients(struct cuda_backend *be, const struct cuda_workspace *ws,
                                           const struct lstm_args *args, struct error *err);

/* ---- rows packed by time (cuda_packed.cu); sizes from the arguments, of at least one row ---- */

/* packed_row [N], where each row of the batch is in the packed order; x [N, E], the embeddings in
 * it. */
enum status cuda_packed_gather(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, uint32_t *packed_row, float *x,
                               struct error *err);
/* d_tokens from dx [N, E] in the packed order; no rows is fine. Marks CUDA_OP_EMBEDDING_GRAD. */
enum status cuda_packed_scatter(struct cuda_backend *be, const struct cuda_workspace *ws,
                                const struct lstm_args *args, const uint32_t *packed_row,
                                const float *dx, struct error *err);
/* final_state [B, 2H] from state [2, running, H], zeros for the others; and state from
 * d_final_state, which marks CUDA_OP_LSTM_BACKWARD. `running`: the sequences with tokens. */
enum status cuda_packed_final_state(struct cuda_backend *be, const struct lstm_args *args,
                                    const float *state, uint32_t running, struct error *err);
enum status cuda_packed_d_state(struct cuda_backend *be, const struct lstm_args *args, float *state,
                                uint32_t running, struct error *err);

/* ---- errors and order (cuda_backend.cu) ---- */

/* "CUDA <op the device was in>: <the driver's words>": what an asynchronous failure is reported as,
 * by whichever call it surfaces at. */
enum status cuda_surfaced(struct cuda_backend *be, cudaError_t error, const char *call,
                          struct error *err);

/* Has earlier asynchronous work failed? Never blocks. While recording nothing can be asked. */
enum status cuda_check(struct cuda_backend *be, const char *call, struct error *err);
/* What a call ends with that came to `status`: where that is STATUS_DEVICE because the device had
 * failed before, that failure. */
enum status cuda_ended(struct cuda_backend *be, enum status status, const char *call,
                       struct error *err);
/* Later work on the compute stream starts after the sorting by word, where some is under way. Every
 * fork is joined before the workspace is used again and before a recording begins or ends. */
enum status cuda_join(struct cuda_backend *be, struct error *err);

/* The table of cuda_backend.cu, and its last entry, which is in cuda_device.cu. */
extern const struct backend_table cuda_table;
void cuda_free(struct backend *be);

#endif
