#include "io/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct arena_block {
    struct arena_block *next;
};

void *arena_take(struct arena *arena, size_t count, size_t size) {
    struct arena_block *block = NULL;
    if (!arena->failed && (size == 0 || count <= (SIZE_MAX - sizeof *block) / size)) {
        block = calloc(1, sizeof *block + count * size);
    }
    if (block == NULL) {
        arena->failed = true;
        return NULL;
    }
    block->next = arena->blocks;
    arena->blocks = block;
    return block + 1;
}

void *arena_copy(struct arena *arena, const void *from, size_t bytes) {
    void *copy = arena_take(arena, bytes, 1);
    if (copy != NULL && bytes > 0) {
        memcpy(copy, from, bytes);
    }
    return copy;
}

void arena_deinit(struct arena *arena) {
    while (arena->blocks != NULL) {
        struct arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
}
