/* cpu_arena.h - hands out aligned pieces of one block of memory, or only counts them.
 *
 * THREADS: a plain value of whoever divides the memory.
 */
#ifndef CAIRN_KERNELS_CPU_ARENA_H
#define CAIRN_KERNELS_CPU_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cpu_arena {
    uint8_t *memory; /* NULL: only count */
    size_t used;
    bool overflow; /* more than an address space */
};

/* rows x columns elements, aligned to 64 bytes; NULL while only counting. */
static inline void *cpu_arena_take(struct cpu_arena *arena, uint64_t rows, uint64_t columns,
                                   size_t element) {
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

static inline float *cpu_arena_floats(struct cpu_arena *arena, uint64_t rows, uint64_t columns) {
    return (float *)cpu_arena_take(arena, rows, columns, sizeof(float));
}

#endif
