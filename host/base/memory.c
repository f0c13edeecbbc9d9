#include "host/base/memory.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

void memory_ask_large_pages(void *memory, size_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t large = (uintptr_t)1 << 21;
    uintptr_t begin = ((uintptr_t)memory + large - 1) & ~(large - 1);
    uintptr_t end = ((uintptr_t)memory + bytes) & ~(large - 1);
    if (begin < end) {
        (void)madvise((char *)memory + (begin - (uintptr_t)memory), end - begin, MADV_HUGEPAGE);
    }
#else
    (void)memory, (void)bytes;
#endif
}

#ifdef __SSE2__
/* `to` is aligned to a cache line, `bytes` a multiple of one. */
static void copy_lines(uint8_t *to, const uint8_t *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) {
        const __m128i *line = (const __m128i *)(const void *)(from + i);
        __m128i a = _mm_loadu_si128(line), b = _mm_loadu_si128(line + 1);
        __m128i c = _mm_loadu_si128(line + 2), d = _mm_loadu_si128(line + 3);
        __m128i *out = (__m128i *)(void *)(to + i);
        _mm_stream_si128(out, a);
        _mm_stream_si128(out + 1, b);
        _mm_stream_si128(out + 2, c);
        _mm_stream_si128(out + 3, d);
    }
    _mm_sfence(); /* streaming stores are ordered by nothing else */
}
#endif

void memory_copy_past_cache(void *to, const void *from, size_t bytes) {
    size_t done = 0;
#ifdef __SSE2__
    size_t head = (64 - ((uintptr_t)to & 63)) & 63;
    if (bytes >= head) {
        memcpy(to, from, head);
        done = head + ((bytes - head) & ~(size_t)63);
        copy_lines((uint8_t *)to + head, (const uint8_t *)from + head, done - head);
    }
#endif
    if (done < bytes) {
        memcpy((uint8_t *)to + done, (const uint8_t *)from + done, bytes - done);
    }
}

void memory_copy(void *to, const void *from, size_t bytes) {
    if (bytes >= MEMORY_STREAM_BYTES) {
        memory_copy_past_cache(to, from, bytes);
    } else if (bytes > 0) {
        memcpy(to, from, bytes);
    }
}
