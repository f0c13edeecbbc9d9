#include "kernels/cpu/cpu_workspace.h"

#include <assert.h>

#include "kernels/cpu/cpu_arena.h"

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Floats of a [rows, columns] matrix packed with either side as columns. */
static uint64_t packed_floats(uint64_t rows, uint64_t columns) {
    uint64_t mask = CPU_PACK_COLUMNS - 1;
    return larger(((rows + mask) & ~mask) * columns, ((columns + mask) & ~mask) * rows);
}

/* The head's part comes first: cpu_workspace_head_bytes() relies on it. */
static struct cpu_workspace divide_head(struct cpu_arena *arena, const struct model_shape *shape,
                                        uint64_t sequences) {
    uint64_t H = shape->hidden, D = shape->dense;
    struct cpu_workspace ws = {0};
    ws.hidden = cpu_arena_floats(arena, sequences, D);
    ws.d_hidden = cpu_arena_floats(arena, sequences, D);
    ws.d_logit = cpu_arena_floats(arena, sequences, 1);
    ws.head_pack = cpu_arena_floats(arena, 1, packed_floats(D, 2 * H));
    return ws;
}

static struct cpu_workspace divide(struct cpu_arena *arena, const struct model_shape *shape,
                                   uint64_t sequences, uint64_t tokens, bool training) {
    uint64_t V = shape->vocabulary, E = shape->embedding, H = shape->hidden;
    uint64_t distinct_max = tokens < V ? tokens : V;
    uint64_t slices = (sequences + CPU_SLICE - 1) / CPU_SLICE;
    struct cpu_workspace ws = divide_head(arena, shape, sequences);
    ws.offset = cpu_arena_take(arena, sequences, 1, sizeof *ws.offset);
    ws.distinct = cpu_arena_take(arena, 1, 1, sizeof *ws.distinct);
    ws.words = cpu_arena_take(arena, distinct_max, 1, sizeof *ws.words);
    ws.word_slot = cpu_arena_take(arena, V, 1, sizeof *ws.word_slot);
    ws.slot = cpu_arena_take(arena, tokens, 1, sizeof *ws.slot);
    ws.scratch = cpu_arena_floats(arena, 2 * slices, CPU_SLICE * 6 * H);
    for (int dir = 0; dir < 2; dir++) {
        ws.table[dir] = cpu_arena_floats(arena, distinct_max, 4 * H);
        ws.pack_ih[dir] = cpu_arena_floats(arena, 1, packed_floats(4 * H, E));
        ws.pack_hh[dir] = cpu_arena_floats(arena, 1, packed_floats(4 * H, H));
        if (training) {
            ws.gates[dir] = cpu_arena_floats(arena, tokens, 4 * H);
            ws.cells[dir] = cpu_arena_floats(arena, tokens, H);
            ws.hiddens[dir] = cpu_arena_floats(arena, tokens, H);
        }
    }
    return ws;
}

size_t cpu_workspace_bytes(const struct model_shape *shape, uint32_t sequences, uint64_t tokens,
                           bool training) {
    struct cpu_arena arena = {0};
    divide(&arena, shape, sequences, tokens, training);
    return arena.overflow ? SIZE_MAX : arena.used;
}

size_t cpu_workspace_head_bytes(const struct model_shape *shape, uint32_t sequences) {
    struct cpu_arena arena = {0};
    divide_head(&arena, shape, sequences);
    return arena.overflow ? SIZE_MAX : arena.used;
}

struct cpu_workspace cpu_workspace_make(void *memory, const struct model_shape *shape,
                                        uint32_t sequences, uint64_t tokens, bool training) {
    assert(memory != NULL && (uintptr_t)memory % 64 == 0);
    struct cpu_arena arena = {.memory = memory};
    struct cpu_workspace ws = divide(&arena, shape, sequences, tokens, training);
    assert(!arena.overflow);
    return ws;
}
