/* factors.h - what the three recurrent products multiply: fp32 numbers, or with FUSED_BF16 bf16
 * numbers (8 bits of significand, rounded to nearest, ties to even), two to the place of a float.
 *
 * The two are neighbours along the depth, the index that the product sums over, the first in the
 * low half: one instruction multiplies both pairs and adds both products to an fp32 sum. A row of
 * factors is half as long as the row of numbers and lies in memory that is typed as floats; it is
 * moved around whole and never read as numbers. Everything but the factors stays fp32: sums, states,
 * activations, gate gradients, weights and their updates, and all products with W_ih.
 *
 * Subnormal factors count as zero, as everywhere in the kernels.
 */
#ifndef CAIRN_KERNELS_CPU_FACTORS_H
#define CAIRN_KERNELS_CPU_FACTORS_H

#include "kernels/cpu/simd.h"

/* Terms of a sum in one multiplication. */
#if defined(FUSED_BF16)
enum { RECURRENT_TERMS = 2 };
#else
enum { RECURRENT_TERMS = 1 };
#endif

/* Multiplications for a sum of `terms`. */
ALWAYS_INLINE size_t factors_depth(size_t terms) {
    return (terms + RECURRENT_TERMS - 1) / RECURRENT_TERMS;
}

/* c + a b, of one term or of the pair. */
ALWAYS_INLINE simd factors_multiply_add(const int terms, simd a, simd b, simd c) {
#if defined(FUSED_BF16)
    if (terms == 2) {
        return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
    }
#endif
    (void)terms;
    return simd_multiply_add(a, b, c);
}

/* Numbers `at`, at + 1, .. of a row along the depth. */
ALWAYS_INLINE void factors_store(float *row, size_t at, simd value) {
#if defined(FUSED_BF16)
    __m256bh narrow = _mm512_cvtneps_pbh(value);
    memcpy((uint16_t *)row + at, &narrow, sizeof narrow);
#else
    simd_store(row + at, value);
#endif
}

/* Number `at` of a row becomes zero. */
ALWAYS_INLINE void factors_clear(float *row, size_t at) {
    memset((char *)row + at * sizeof(float) / RECURRENT_TERMS, 0, sizeof(float) / RECURRENT_TERMS);
}

#if defined(FUSED_BF16)
/* The pairs of two rows that are neighbours along the depth. */
ALWAYS_INLINE simd factors_pair(simd first, simd second) {
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (simd)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}
#endif

/* Make the numbers [rows, columns], whose rows are the depth, the factors [factors_depth(rows),
 * columns] in the same place. `columns` is a multiple of SIMD_LANES. */
ALWAYS_INLINE void factors_rows(float *matrix, size_t rows, size_t columns) {
#if defined(FUSED_BF16)
    float *to = matrix;
    for (size_t row = 0; row < rows; row += 2) {
        const float *first = matrix + row * columns;
        for (size_t j = 0; j < columns; j += SIMD_LANES, to += SIMD_LANES) {
            simd second = row + 1 < rows ? simd_load(first + columns + j) : simd_zero();
            simd_store(to, factors_pair(simd_load(first + j), second));
        }
    }
#else
    (void)matrix, (void)rows, (void)columns;
#endif
}

#endif
