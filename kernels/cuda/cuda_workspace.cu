/* cuda_workspace.cu - divides the workspace (see cuda_internal.cuh for its parts). */
#include <assert.h>

#include "kernels/cuda/cuda_internal.cuh"

/* Rows are numbered in 32 bits, and the sort numbers 256 counts for each 1024 of them. */
static const uint64_t tokens_max = (uint64_t)1 << 31;
static const uint32_t sequences_max = (uint32_t)1 << 24;

/* Hands out aligned pieces; only counts while `memory` is NULL. A piece begins where a whole
 * transaction of the memory does. */
struct arena {
    char *memory;
    size_t used;
    bool overflow;
};

static const size_t piece_alignment = 256;

template <class T> static T *take(struct arena *arena, uint64_t rows, uint64_t columns) {
    uint64_t bytes;
    size_t end;
    if (__builtin_mul_overflow(rows, columns, &bytes) ||
        __builtin_mul_overflow(bytes, (uint64_t)sizeof(T), &bytes) ||
        __builtin_add_overflow(arena->used, bytes, &end) || end > SIZE_MAX - piece_alignment) {
        arena->overflow = true;
        return NULL;
    }
    void *piece = arena->memory != NULL ? arena->memory + arena->used : NULL;
    arena->used = (end + piece_alignment - 1) / piece_alignment * piece_alignment;
    return static_cast<T *>(piece);
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Of one product for each direction. */
static uint64_t pair_floats(uint64_t count_max, uint32_t rows, uint32_t columns) {
    uint64_t floats = cuda_outer_floats(count_max, rows, columns);
    return floats > SIZE_MAX / 2 ? SIZE_MAX : 2 * floats;
}

/* What the largest of the products over rows or sequences leaves in parts. One runs at a time. */
static uint64_t parts_floats(const struct cuda_workspace *ws, const struct model_shape *shape,
                             const struct batch_limits *limits, bool fused) {
    uint32_t G = 4 * shape->hidden;
    uint64_t floats = cuda_outer_floats(limits->sequences, shape->dense, 2 * shape->hidden);
    if (fused) {
        floats = larger(floats, pair_floats(limits->total_tokens, G, shape->hidden));
    }
    if (fused && !ws->table) {
        floats = larger(floats, pair_floats(limits->total_tokens, G, shape->embedding));
    }
    return floats;
}

static void take_training(struct cuda_workspace *ws, struct arena *arena,
                          const struct model_shape *shape, const struct batch_limits *limits,
                          bool fused) {
    uint64_t H = shape->hidden, E = shape->embedding, N = limits->total_tokens;
    uint64_t sort_blocks = (N + CUDA_SORT_ROWS - 1) / CUDA_SORT_ROWS;
    uint64_t pieces = (N + CUDA_PIECE_ROWS - 1) / CUDA_PIECE_ROWS;
    for (int i = 0; i < 2; i++) {
        ws->sorted_word[i] = take<uint32_t>(arena, N, 1);
        ws->sorted_row[i] = take<uint32_t>(arena, N, 1);
        if (fused) {
            ws->slope[i] = take<float>(arena, N, 4 * H);
            ws->carry[i] = take<float2>(arena, N, H);
            ws->hidden[i] = take<float>(arena, N, H);
        }
        /* The table has been read when its gradient is written. */
        ws->d_projected[i] = ws->table ? ws->projected[i] : NULL;
    }
    ws->sort_counts = take<uint32_t>(arena, sort_blocks * CUDA_SORT_DIGITS + 1, 1);
    ws->d_tokens = ws->table ? NULL : take<float>(arena, N, E);
    ws->piece_sums = take<float>(arena, 2 * pieces, ws->table ? 8 * H : E);
    ws->product_parts = take<float>(arena, parts_floats(ws, shape, limits, fused), 1);
    ws->head_d_hidden = take<float>(arena, limits->sequences, shape->dense);
    ws->head_d_logit = take<float>(arena, limits->sequences, 1);
}

static struct cuda_workspace divide(struct arena *arena, const struct cuda_backend *be,
                                    const struct model_shape *shape,
                                    const struct batch_limits *limits) {
    uint64_t V = shape->vocabulary, H = shape->hidden, N = limits->total_tokens;
    bool fused = be->lstm == CUDA_LSTM_FUSED;
    struct cuda_workspace ws = {};
    ws.table = fused && V <= CUDA_TABLE_WORDS;
    ws.offset = take<uint32_t>(arena, (uint64_t)limits->sequences + 1, 1);
    ws.row_word = take<uint32_t>(arena, N, 1);
    ws.row_index = fused && !ws.table ? take<uint32_t>(arena, N, 1) : ws.row_word;
    for (int dir = 0; dir < 2 && fused; dir++) {
        ws.projected[dir] = take<float>(arena, ws.table ? V : N, 4 * H);
    }
    ws.head_hidden = take<float>(arena, limits->sequences, shape->dense);
    if (limits->training) {
        take_training(&ws, arena, shape, limits, fused);
    }
    return ws;
}

static bool too_large(const struct model_shape *shape, const struct batch_limits *limits) {
    return limits->total_tokens > tokens_max || limits->sequences > sequences_max ||
           shape->hidden > UINT32_MAX / 8;
}

size_t cuda_workspace_bytes(const struct cuda_backend *be, const struct model_shape *shape,
                            const struct batch_limits *limits) {
    if (too_large(shape, limits)) {
        return SIZE_MAX;
    }
    struct arena arena = {};
    divide(&arena, be, shape, limits);
    return arena.overflow ? SIZE_MAX : arena.used;
}

struct cuda_workspace cuda_workspace_make(void *memory, const struct cuda_backend *be,
                                          const struct model_shape *shape,
                                          const struct batch_limits *limits) {
    assert(memory != NULL && (uintptr_t)memory % 64 == 0 && !too_large(shape, limits));
    struct arena arena = {};
    arena.memory = static_cast<char *>(memory);
    struct cuda_workspace ws = divide(&arena, be, shape, limits);
    assert(!arena.overflow);
    return ws;
}
