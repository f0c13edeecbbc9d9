#include "kernels/cpu/cpu_probe.h"

#include "kernels/cpu/reference.h"
#include "kernels/cpu/simd_activation.h"

/* In whole lockstep groups, the last one padded. */
static void activate(const float *x, float *sigmoid, float *tanh, size_t count) {
    enum { GROUP = 4 * SIMD_LANES };
    for (size_t at = 0; at < count; at += GROUP) {
        size_t bytes = (count - at < GROUP ? count - at : GROUP) * sizeof(float);
        float in[GROUP] = {0}, out[GROUP];
        memcpy(in, x + at, bytes);
        simd gates[4], tangents[4];
        for (int v = 0; v < 4; v++) {
            tangents[v] = simd_load(in + v * SIMD_LANES);
        }
        simd_tanh(4, tangents);
        for (int v = 0; v < 4; v++) {
            /* A gate's third vector is a tanh: each vector takes its turn as the first. */
            for (int i = 0; i < 4; i++) {
                gates[i] = simd_load(in + (v + i) % 4 * SIMD_LANES);
            }
            simd_gates(4, gates);
            simd_store(out + v * SIMD_LANES, gates[0]);
        }
        memcpy(sigmoid + at, out, bytes);
        for (int v = 0; v < 4; v++) {
            simd_store(out + v * SIMD_LANES, tangents[v]);
        }
        memcpy(tanh + at, out, bytes);
    }
}

/* Sums that do not wait for each other, as many as there are registers beside the two factors: more
 * than latency times units with a fused multiply-add, about as many where a multiplication and an
 * addition follow each other. */
enum { PEAK_SUMS = SIMD_ROWS * SIMD_VECTORS > 14 ? SIMD_ROWS *SIMD_VECTORS : 14, PEAK_TIMES = 8 };

#if defined(__x86_64__)
#define IN_REGISTER(value) __asm__ volatile("" : "+v"(value))
#elif defined(__aarch64__)
#define IN_REGISTER(value) __asm__ volatile("" : "+w"(value))
#else
#define IN_REGISTER(value) __asm__ volatile("" : "+m"(value))
#endif

static double run_multiply_adds(uint64_t rounds) {
    simd factor = simd_all(0.5f), addend = simd_all(1.0f);
    /* Every index is a constant once the loops are unrolled, this one too: a single one that is not
     * would keep the sums in memory, and the rate would be that of loads and stores. */
    simd sum[PEAK_SUMS];
#pragma GCC unroll 32
    for (int i = 0; i < PEAK_SUMS; i++) {
        sum[i] = simd_all((float)i);
    }
    for (uint64_t round = 0; round < rounds; round++) {
        for (int time = 0; time < PEAK_TIMES; time++) {
#pragma GCC unroll 32
            for (int i = 0; i < PEAK_SUMS; i++) {
                sum[i] = simd_multiply_add(sum[i], factor, addend);
                IN_REGISTER(sum[i]); /* or all sums would be seen to be the same */
            }
        }
    }
    return 2.0 * SIMD_LANES * PEAK_SUMS * PEAK_TIMES * (double)rounds;
}

const struct cpu_probe CPU_SYMBOL(cpu_probe) = {
    .isa = CPU_ISA_TEXT,
    .activate = activate,
    .multiply_add = run_multiply_adds,
};
