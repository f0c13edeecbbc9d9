/* reference.h - the operations of ops.h on the CPU: one table per instruction set.
 *
 * reference.c (recurrence, embedding) and reference_head.c (head, loss, norm, Adam) are plain
 * loops. The build compiles them once per instruction set, with CPU_ISA naming it; cpu_backend.c
 * picks a table at run time. The fused kernels (fused.h) stand behind the same table, with the
 * reference's head, norm and Adam.
 *
 * All functions: no status, because nothing can fail; arguments were checked by cpu_backend.c.
 *
 * THREADS: called by the trainer's thread; the work is dealt out through the pool.
 */
#ifndef CAIRN_KERNELS_CPU_REFERENCE_H
#define CAIRN_KERNELS_CPU_REFERENCE_H

#include "kernels/cpu/cpu_pool.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cpu_kernels {
    const char *isa;  /* "portable", "avx2", "avx512", "avx512-bf16" */
    const char *path; /* kernel_path of backend.h */
    /* Bytes of workspace for a batch; SIZE_MAX when it does not fit. */
    size_t (*workspace_bytes)(const struct model_shape *shape, uint32_t sequences, uint64_t tokens,
                              bool training);
    /* The batch's words: their numbers, and W_ih E + b of each. Before lstm_forward, with the same
     * arguments; NULL where lstm_forward does it itself. Apart so that it can be timed. */
    void (*lstm_words)(struct cpu_pool *pool, const struct lstm_args *args);
    void (*lstm_forward)(struct cpu_pool *pool, const struct lstm_args *args);
    void (*lstm_backward)(struct cpu_pool *pool, const struct lstm_args *args);
    void (*embedding_grad)(struct cpu_pool *pool, const struct lstm_args *args);
    void (*head_forward_backward)(struct cpu_pool *pool, const struct head_args *args);
    void (*global_norm)(struct cpu_pool *pool, const struct norm_args *args);
    void (*adam_step)(struct cpu_pool *pool, const struct adam_args *args);
};

/* The reference, and the fused kernels (fused.h). */
extern const struct cpu_kernels cpu_kernels_portable, cpu_fused_portable;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_fused_avx2;
extern const struct cpu_kernels cpu_kernels_avx512, cpu_fused_avx512;
extern const struct cpu_kernels cpu_fused_avx512_bf16; /* the recurrence with bf16 factors */
#endif

/* CPU_SYMBOL(name) is name_<isa>, CPU_ISA_TEXT the name of the instruction set. */
#define CPU_PASTE2(name, isa) name##_##isa
#define CPU_PASTE(name, isa) CPU_PASTE2(name, isa)
#define CPU_SYMBOL(name) CPU_PASTE(name, CPU_ISA)
#define CPU_QUOTE2(text) #text
#define CPU_QUOTE(text) CPU_QUOTE2(text)
#define CPU_ISA_TEXT CPU_QUOTE(CPU_ISA)

#if defined(CPU_ISA)
void CPU_SYMBOL(reference_head_forward_backward)(struct cpu_pool *pool,
                                                 const struct head_args *args);
void CPU_SYMBOL(reference_global_norm)(struct cpu_pool *pool, const struct norm_args *args);
void CPU_SYMBOL(reference_adam_step)(struct cpu_pool *pool, const struct adam_args *args);
#endif

#ifdef __cplusplus
}
#endif
#endif
