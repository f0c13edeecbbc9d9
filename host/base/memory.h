/* memory.h - large blocks of memory: large pages, and copies that spare the cache.
 *
 * THREADS: any. */
#ifndef CAIRN_HOST_BASE_MEMORY_H
#define CAIRN_HOST_BASE_MEMORY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ask for large pages (2 MiB) where they fit into the block: filling 330 MB for the first time
 * takes 80,000 page faults without them and 160 with them. A wish: nothing tells whether it was
 * granted, and a block too small for one page is left alone. Does not touch the memory. */
void memory_ask_large_pages(void *memory, size_t bytes);

/* memcpy. Blocks of MEMORY_STREAM_BYTES and more are written past the cache on x86-64: the caller
 * does not read them again soon, and a store through the cache would first read the line that it
 * overwrites, half as much traffic again. Ranges must not overlap; NULL is fine for 0 bytes. */
enum { MEMORY_STREAM_BYTES = 16 << 20 };
void memory_copy(void *to, const void *from, size_t bytes);

/* The same past the cache whatever the size: for a piece of such a block. */
void memory_copy_past_cache(void *to, const void *from, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
