/* simd.h - one vector of floats and the few operations that the fused kernels need of it.
 *
 * A source that uses it is compiled once per instruction set. Arithmetic is written with GCC's
 * vector extensions (+ - * /); what they lack stands here. Multiply-add is fused or not as in
 * multiply_add.h, so that a vector lane has the bits of the scalar expression.
 */
#ifndef CAIRN_KERNELS_CPU_SIMD_H
#define CAIRN_KERNELS_CPU_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/multiply_add.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* SIMD_ROWS: rows of a register tile of SIMD_VECTORS vectors, as many as leave room for the
 * operands: 24 sums of 32 registers, 12 or 8 of 16. */
#if defined(__AVX512F__)
typedef __m512 simd;
enum { SIMD_LANES = 16, SIMD_ROWS = 6 };
#elif defined(__AVX2__)
typedef __m256 simd;
enum { SIMD_LANES = 8, SIMD_ROWS = 3 };
#elif defined(__aarch64__)
typedef float32x4_t simd;
enum { SIMD_LANES = 4, SIMD_ROWS = 6 };
#else
typedef float simd __attribute__((vector_size(16)));
enum { SIMD_LANES = 4, SIMD_ROWS = 2 };
#endif
enum { SIMD_VECTORS = 4 };

/* The next cache lines of `floats` floats will be read. Any address. */
ALWAYS_INLINE void simd_prefetch(const float *from, size_t floats) {
    for (size_t i = 0; i < floats; i += 16) {
        __builtin_prefetch(from + i, 0, 3);
    }
}

/* Likewise, but not so soon that it should take room in the nearest cache. */
ALWAYS_INLINE void simd_prefetch_far(const float *from, size_t floats) {
    for (size_t i = 0; i < floats; i += 16) {
        __builtin_prefetch(from + i, 0, 2);
    }
}

/* A loop over vectors that disappears: its bound is a constant where it is used. */
#define SIMD_EACH(i, count) _Pragma("GCC unroll 8") for (int i = 0; i < (count); i++)

/* A loop that is to have all registers to itself. */
#define NEVER_INLINE __attribute__((noinline))

typedef uint32_t simd_bits __attribute__((vector_size(sizeof(simd))));

/* At any address. */
ALWAYS_INLINE simd simd_load(const float *from) {
    simd value;
    memcpy(&value, from, sizeof value);
    return value;
}

ALWAYS_INLINE void simd_store(float *to, simd value) {
    memcpy(to, &value, sizeof value);
}

ALWAYS_INLINE simd simd_all(float value) {
#if defined(__AVX512F__)
    return _mm512_set1_ps(value);
#elif defined(__AVX2__)
    return _mm256_set1_ps(value);
#elif defined(__aarch64__)
    return vdupq_n_f32(value);
#else
    return (simd){value, value, value, value};
#endif
}

ALWAYS_INLINE simd simd_zero(void) {
    return simd_all(0.0f);
}

/* Past the caches, to an address aligned to the vector: for what is not read again soon. Without it
 * every line would be read from memory before it is overwritten. Other threads see it after
 * simd_stream_end(). */
ALWAYS_INLINE void simd_stream(float *to, simd value) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
    _mm256_stream_ps(to, value);
#elif defined(__SSE2__)
    _mm_stream_ps(to, value);
#else
    simd_store(to, value);
#endif
}

ALWAYS_INLINE void simd_stream_end(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* a * b + c */
ALWAYS_INLINE simd simd_multiply_add(simd a, simd b, simd c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

/* x held between low and high; NaN stays NaN. */
ALWAYS_INLINE simd simd_clamp(simd x, float low, float high) {
#if defined(__AVX512F__)
    return _mm512_max_ps(simd_all(low), _mm512_min_ps(simd_all(high), x));
#elif defined(__AVX2__)
    return _mm256_max_ps(simd_all(low), _mm256_min_ps(simd_all(high), x));
#elif defined(__SSE2__)
    return _mm_max_ps(simd_all(low), _mm_min_ps(simd_all(high), x));
#else
    simd_bits above = (simd_bits)(x > simd_all(high)), below = (simd_bits)(x < simd_all(low));
    simd_bits kept = (simd_bits)x & ~above & ~below;
    return (simd)(kept | (above & (simd_bits)simd_all(high)) | (below & (simd_bits)simd_all(low)));
#endif
}

#endif
