/* arena.h - many small pieces of memory that are freed together.
 *
 * For structures full of pointers that live and die as one, such as a protobuf message. Running out
 * of memory is remembered: check `failed` once, at the end.
 *
 * Usage:
 *     struct arena arena = {0};
 *     char *name = arena_copy(&arena, "weights", 8);
 *     CHECK(!arena.failed, err, STATUS_MEMORY, "no memory");
 *     arena_deinit(&arena);
 *
 * THREADS: an arena belongs to one thread.
 */
#ifndef CAIRN_IO_ARENA_H
#define CAIRN_IO_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct arena_block;

struct arena {
    struct arena_block *blocks;
    bool failed; /* memory ran out: what was built is incomplete */
};

/* `count` * `size` bytes, all zero, aligned for pointers and 64-bit numbers; valid until
 * arena_deinit. NULL, and `failed`, when there are none, and ever after. */
void *arena_take(struct arena *arena, size_t count, size_t size);

/* A copy of `bytes` bytes; `from` may be NULL when there are none. NULL as arena_take. */
void *arena_copy(struct arena *arena, const void *from, size_t bytes);

void arena_deinit(struct arena *arena);

#ifdef __cplusplus
}
#endif
#endif
