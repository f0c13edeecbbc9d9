/* activation.h - sigmoid and tanh in straight-line code that a compiler vectorises.
 *
 * Both rest on exp(x) - 1 split as 2^n (1 + p) - 1 with x = n ln 2 + r, |r| <= ln(2) / 2 and p the
 * Taylor polynomial of exp(r) - 1 up to r^7 (its first omitted term is below 6e-9, a tenth of a
 * float's rounding). p keeps its relative accuracy near zero, and so does tanh.
 *
 * Errors against double precision over all of their range, every float taken
 * (tests/activation_test.cc): sigmoid at most 2.5 ulp for x >= -87, tanh 3 ulp. Below -87 sigmoid
 * stays at sigmoid(-87) = 1.6e-38, so that no result is a denormal. NaN gives NaN.
 */
#ifndef CAIRN_KERNELS_CPU_ACTIVATION_H
#define CAIRN_KERNELS_CPU_ACTIVATION_H

#include <stdint.h>
#include <string.h>

#include "kernels/cpu/multiply_add.h"

/* exp(x) = scale (1 + p), scale a power of two, for |x| <= 87. */
struct activation_exponential {
    float scale;
    float p;
};

ALWAYS_INLINE struct activation_exponential activation_exponential(float x) {
    const float log2_e = 1.44269504f;
    /* ln 2 in two parts; the first has few bits, so that n * ln2_high is exact. */
    const float ln2_high = 0.693359375f;
    const float ln2_low = -2.12194440e-4f;
    /* Adding 1.5 * 2^23 rounds to an integer, which then lies in the low bits of the sum. */
    const float rounder = 12582912.0f;
    float shifted = multiply_add(x, log2_e, rounder);
    float n = shifted - rounder;
    float r = multiply_add(-n, ln2_high, x);
    r = multiply_add(-n, ln2_low, r);

    float q = 1.0f / 5040.0f;
    q = multiply_add(q, r, 1.0f / 720.0f);
    q = multiply_add(q, r, 1.0f / 120.0f);
    q = multiply_add(q, r, 1.0f / 24.0f);
    q = multiply_add(q, r, 1.0f / 6.0f);
    q = multiply_add(q, r, 0.5f);

    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23; /* the rounder's own bits are shifted out */
    struct activation_exponential result;
    memcpy(&result.scale, &bits, sizeof bits);
    result.p = multiply_add(r * r, q, r);
    return result;
}

/* 1 / (1 + exp(-x)) */
ALWAYS_INLINE float activation_sigmoid(float x) {
    float y = -x;
    y = y > 87.0f ? 87.0f : y;
    y = y < -87.0f ? -87.0f : y;
    struct activation_exponential e = activation_exponential(y);
    return 1.0f / (1.0f + multiply_add(e.scale, e.p, e.scale));
}

/* (exp(2x) - 1) / (exp(2x) + 1); beyond 10 it is 1 to all digits. */
ALWAYS_INLINE float activation_tanh(float x) {
    float y = x > 10.0f ? 10.0f : x;
    y = y < -10.0f ? -10.0f : y;
    struct activation_exponential e = activation_exponential(2.0f * y);
    float minus_one = multiply_add(e.scale, e.p, e.scale - 1.0f);
    return minus_one / (minus_one + 2.0f);
}

#endif
