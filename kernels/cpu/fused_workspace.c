#include "kernels/cpu/fused_workspace.h"

#include <assert.h>

#include "kernels/cpu/cpu_arena.h"
#include "kernels/cpu/cpu_workspace.h"

_Static_assert((int)FUSED_CHUNK >= (int)FUSED_SLICE, "a step's rows must fit into a chunk");

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* The product, or so much that no workspace has it. */
static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

/* Forward: h twice and c; z of a block; h twice as bf16. Backward: dh twice, dc, tanh(c) twice; a
 * chunk's dz and h; db and dW; dz of a block as bf16. */
static uint64_t scratch_floats(uint64_t units, uint64_t lanes, bool training) {
    return training ? units * (FUSED_SLICE * 5 + FUSED_CHUNK * 5 + 4 + 4 * units) +
                          FUSED_SLICE * lanes * 4 / 2
                    : (units * 4 + lanes * 4) * FUSED_SLICE;
}

static struct fused_workspace divide(struct cpu_arena *arena, const struct model_shape *shape,
                                     uint32_t lanes, uint64_t sequences, uint64_t tokens,
                                     bool training) {
    struct fused_workspace ws = {
        .units = ((uint64_t)shape->hidden + lanes - 1) / lanes * lanes,
        .inputs = ((uint64_t)shape->embedding + lanes - 1) / lanes * lanes,
        .slices = (sequences + FUSED_SLICE - 1) / FUSED_SLICE,
    };
    uint64_t V = shape->vocabulary, units = ws.units;
    uint64_t distinct_max = smaller(tokens, V);
    uint64_t slice_words_max = smaller(tokens, times(ws.slices, V));
    ws.blocks = units / lanes;
    ws.scratch = scratch_floats(units, lanes, training);
    ws.offset = cpu_arena_take(arena, sequences, 1, sizeof *ws.offset);
    ws.distinct = cpu_arena_take(arena, 1, 1, sizeof *ws.distinct);
    ws.words = cpu_arena_take(arena, distinct_max, 1, sizeof *ws.words);
    ws.word_slot = cpu_arena_take(arena, V, 1, sizeof *ws.word_slot);
    ws.slot = cpu_arena_take(arena, tokens, 1, sizeof *ws.slot);
    ws.states = cpu_arena_floats(arena, 2 * ws.slices, ws.scratch);
    if (training) {
        ws.slice_first = cpu_arena_take(arena, ws.slices + 1, 1, sizeof *ws.slice_first);
        ws.slice_words = cpu_arena_take(arena, slice_words_max, 1, sizeof *ws.slice_words);
        ws.slice_slot = cpu_arena_take(arena, tokens, 1, sizeof *ws.slice_slot);
    }
    ws.embedding = cpu_arena_floats(arena, distinct_max, ws.inputs);
    for (int dir = 0; dir < 2; dir++) {
        ws.bias[dir] = cpu_arena_floats(arena, 4, units);
        ws.pack_ih[dir] = cpu_arena_floats(arena, 4 * units, ws.inputs);
        ws.pack_hh[dir] = cpu_arena_floats(arena, 4 * units, units);
        ws.table[dir] = cpu_arena_floats(arena, distinct_max, 4 * units);
        if (training) {
            ws.kept[dir] = cpu_arena_floats(arena, tokens, FUSED_KEPT * units);
            ws.sums[dir] = cpu_arena_floats(arena, slice_words_max, 4 * units);
        }
    }
    return ws;
}

size_t fused_workspace_bytes(const struct model_shape *shape, uint32_t lanes, uint32_t sequences,
                             uint64_t tokens, bool training) {
    struct cpu_arena arena = {.used = cpu_workspace_head_bytes(shape, sequences)};
    if (arena.used == SIZE_MAX) {
        return SIZE_MAX;
    }
    divide(&arena, shape, lanes, sequences, tokens, training);
    return arena.overflow ? SIZE_MAX : arena.used;
}

struct fused_workspace fused_workspace_make(void *memory, const struct model_shape *shape,
                                            uint32_t lanes, uint32_t sequences, uint64_t tokens,
                                            bool training) {
    assert(memory != NULL && (uintptr_t)memory % 64 == 0);
    struct cpu_arena arena = {.memory = memory, .used = cpu_workspace_head_bytes(shape, sequences)};
    struct fused_workspace ws = divide(&arena, shape, lanes, sequences, tokens, training);
    assert(!arena.overflow);
    return ws;
}
