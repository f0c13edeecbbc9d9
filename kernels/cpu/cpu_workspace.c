#include "kernels/cpu/cpu_workspace.h"

#include <assert.h>

/* Hands out aligned pieces; only counts while `memory` is NULL. */
struct arena {
    uint8_t *memory;
    size_t used;
    bool overflow;
};

static void *take(struct arena *arena, uint64_t rows, uint64_t columns, size_t element) {
    uint64_t bytes;
    size_t end;
    if (__builtin_mul_overflow(rows, columns, &bytes) ||
        __builtin_mul_overflow(bytes, (uint64_t)element, &bytes) ||
        __builtin_add_overflow(arena->used, bytes, &end) || end > SIZE_MAX - 64) {
        arena->overflow = true;
        return NULL;
    }
    void *piece = arena->memory != NULL ? arena->memory + arena->used : NULL;
    arena->used = (end + 63) & ~(size_t)63;
    return piece;
}

static float *take_floats(struct arena *arena, uint64_t rows, uint64_t columns) {
    return take(arena, rows, columns, sizeof(float));
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Floats of a [rows, columns] matrix packed with either side as columns. */
static uint64_t packed_floats(uint64_t rows, uint64_t columns) {
    uint64_t mask = CPU_PACK_COLUMNS - 1;
    return larger(((rows + mask) & ~mask) * columns, ((columns + mask) & ~mask) * rows);
}

static struct cpu_workspace divide(struct arena *arena, const struct model_shape *shape,
                                   uint64_t sequences, uint64_t tokens, bool training) {
    uint64_t V = shape->vocabulary, E = shape->embedding, H = shape->hidden, D = shape->dense;
    uint64_t distinct_max = tokens < V ? tokens : V;
    uint64_t slices = (sequences + CPU_SLICE - 1) / CPU_SLICE;
    struct cpu_workspace ws = {0};
    ws.hidden = take_floats(arena, sequences, D);
    ws.d_hidden = take_floats(arena, sequences, D);
    ws.d_logit = take_floats(arena, sequences, 1);
    ws.head_pack = take_floats(arena, 1, packed_floats(D, 2 * H));
    ws.offset = take(arena, sequences, 1, sizeof *ws.offset);
    ws.distinct = take(arena, 1, 1, sizeof *ws.distinct);
    ws.words = take(arena, distinct_max, 1, sizeof *ws.words);
    ws.word_slot = take(arena, V, 1, sizeof *ws.word_slot);
    ws.slot = take(arena, tokens, 1, sizeof *ws.slot);
    ws.scratch = take_floats(arena, 2 * slices, CPU_SLICE * 6 * H);
    for (int dir = 0; dir < 2; dir++) {
        ws.table[dir] = take_floats(arena, distinct_max, 4 * H);
        ws.pack_ih[dir] = take_floats(arena, 1, packed_floats(4 * H, E));
        ws.pack_hh[dir] = take_floats(arena, 1, packed_floats(4 * H, H));
        if (training) {
            ws.gates[dir] = take_floats(arena, tokens, 4 * H);
            ws.cells[dir] = take_floats(arena, tokens, H);
            ws.hiddens[dir] = take_floats(arena, tokens, H);
        }
    }
    return ws;
}

size_t cpu_workspace_bytes(const struct model_shape *shape, uint32_t sequences, uint64_t tokens,
                           bool training) {
    struct arena arena = {0};
    divide(&arena, shape, sequences, tokens, training);
    return arena.overflow ? SIZE_MAX : arena.used;
}

struct cpu_workspace cpu_workspace_make(void *memory, const struct model_shape *shape,
                                        uint32_t sequences, uint64_t tokens, bool training) {
    assert(memory != NULL && (uintptr_t)memory % 64 == 0);
    struct arena arena = {.memory = memory};
    struct cpu_workspace ws = divide(&arena, shape, sequences, tokens, training);
    assert(!arena.overflow);
    return ws;
}
