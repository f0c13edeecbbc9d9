/* cpu_probe.h - what the vectors of one instruction set do by themselves: their activations, which
 * a test compares with activation.h bit by bit, and the rate of multiply-add that a benchmark takes
 * for the processor's peak.
 *
 *     const struct cpu_probe *probe = cpu_probe_find("avx512");
 *     start = now();
 *     double flops = probe->multiply_add(rounds);
 *     peak = flops / (now() - start);
 *
 * THREADS: any; the functions share nothing.
 */
#ifndef CAIRN_KERNELS_CPU_CPU_PROBE_H
#define CAIRN_KERNELS_CPU_CPU_PROBE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cpu_probe {
    const char *isa;
    /* sigmoid[i] and tanh[i] of x[i], `count` of each. */
    void (*activate)(const float *x, float *sigmoid, float *tanh, size_t count);
    /* Keep the multiply-add units busy from registers alone; returns the floating-point operations
     * done. */
    double (*multiply_add)(uint64_t rounds);
};

/* The probe of an instruction set of this build that this processor has; NULL when it has not. */
const struct cpu_probe *cpu_probe_find(const char *isa);

extern const struct cpu_probe cpu_probe_portable;
#if defined(__x86_64__)
extern const struct cpu_probe cpu_probe_avx2, cpu_probe_avx512;
#endif

#ifdef __cplusplus
}
#endif
#endif
