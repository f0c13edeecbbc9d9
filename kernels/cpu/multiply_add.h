/* multiply_add.h - a * b + c as one operation where the instruction set has it.
 *
 * Whether the product is rounded by itself is decided here, at compile time and in the source, and
 * everything in kernels/cpu is compiled with -ffp-contract=off: a vectorised loop, its remainder
 * and the same expression elsewhere then give the same bits.
 */
#ifndef CAIRN_KERNELS_CPU_MULTIPLY_ADD_H
#define CAIRN_KERNELS_CPU_MULTIPLY_ADD_H

#if defined(__GNUC__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE static inline
#endif

ALWAYS_INLINE float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__FP_FAST_FMAF) || defined(MULTIPLY_ADD_FUSED)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

#endif
