/* simd_activation.h - activation.h on vectors: the same operations in the same order, so every lane
 * has the bits of the scalar functions, and with them their error bounds (sigmoid 2.5 ulp, tanh
 * 3 ulp). tests/fused_test.cc compares the bits.
 *
 * Every function works on `count` vectors in lockstep, a constant where it is used: one exponential
 * is a chain of fifteen operations that wait for each other, and a processor does not look far
 * enough ahead to find the next chain by itself.
 */
#ifndef CAIRN_KERNELS_CPU_SIMD_ACTIVATION_H
#define CAIRN_KERNELS_CPU_SIMD_ACTIVATION_H

#include "kernels/cpu/simd.h"

enum { SIMD_LOCKSTEP = 8 }; /* vectors at most */

/* exp(x) = scale (1 + p) for |x| <= 87; see activation.h. */
struct simd_exponentials {
    simd scale[SIMD_LOCKSTEP], p[SIMD_LOCKSTEP];
};

ALWAYS_INLINE void simd_polynomial(const int count, const simd *r, simd *q) {
    SIMD_EACH(i, count) {
        q[i] = simd_multiply_add(simd_all(1.0f / 5040.0f), r[i], simd_all(1.0f / 720.0f));
    }
    SIMD_EACH(i, count) {
        q[i] = simd_multiply_add(q[i], r[i], simd_all(1.0f / 120.0f));
    }
    SIMD_EACH(i, count) {
        q[i] = simd_multiply_add(q[i], r[i], simd_all(1.0f / 24.0f));
    }
    SIMD_EACH(i, count) {
        q[i] = simd_multiply_add(q[i], r[i], simd_all(1.0f / 6.0f));
    }
    SIMD_EACH(i, count) {
        q[i] = simd_multiply_add(q[i], r[i], simd_all(0.5f));
    }
}

ALWAYS_INLINE void simd_exponentials(const int count, const simd *x, struct simd_exponentials *e) {
    const simd rounder = simd_all(12582912.0f);
    simd r[SIMD_LOCKSTEP], q[SIMD_LOCKSTEP];
    SIMD_EACH(i, count) {
        q[i] = simd_multiply_add(x[i], simd_all(1.44269504f), rounder);
    }
    SIMD_EACH(i, count) {
        r[i] = rounder - q[i]; /* -n */
        e->scale[i] = (simd)(((simd_bits)q[i] + 127u) << 23);
        q[i] = simd_multiply_add(r[i], simd_all(0.693359375f), x[i]);
    }
    SIMD_EACH(i, count) {
        r[i] = simd_multiply_add(r[i], simd_all(-2.12194440e-4f), q[i]);
    }
    simd_polynomial(count, r, q);
    SIMD_EACH(i, count) {
        e->p[i] = simd_multiply_add(r[i] * r[i], q[i], r[i]);
    }
}

/* What the exponential is taken of, and what is made of it. */
ALWAYS_INLINE simd simd_sigmoid_before(simd x) {
    return simd_clamp(-x, -87.0f, 87.0f);
}

ALWAYS_INLINE simd simd_sigmoid_after(simd scale, simd p) {
    return simd_all(1.0f) / (simd_all(1.0f) + simd_multiply_add(scale, p, scale));
}

ALWAYS_INLINE simd simd_tanh_before(simd x) {
    simd y = simd_clamp(x, -10.0f, 10.0f);
    return y + y;
}

ALWAYS_INLINE simd simd_tanh_after(simd scale, simd p) {
    simd minus_one = simd_multiply_add(scale, p, scale - simd_all(1.0f));
    return minus_one / (minus_one + simd_all(2.0f));
}

/* x[i] = tanh(x[i]) */
ALWAYS_INLINE void simd_tanh(const int count, simd *x) {
    struct simd_exponentials e;
    SIMD_EACH(i, count) {
        x[i] = simd_tanh_before(x[i]);
    }
    simd_exponentials(count, x, &e);
    SIMD_EACH(i, count) {
        x[i] = simd_tanh_after(e.scale[i], e.p[i]);
    }
}

/* x[i] = sigmoid(x[i]), and tanh for every fourth, from the third: gates i, f, g, o. */
ALWAYS_INLINE void simd_gates(const int count, simd *x) {
    struct simd_exponentials e;
    SIMD_EACH(i, count) {
        x[i] = i % 4 == 2 ? simd_tanh_before(x[i]) : simd_sigmoid_before(x[i]);
    }
    simd_exponentials(count, x, &e);
    SIMD_EACH(i, count) {
        x[i] = i % 4 == 2 ? simd_tanh_after(e.scale[i], e.p[i])
                          : simd_sigmoid_after(e.scale[i], e.p[i]);
    }
}

#endif
