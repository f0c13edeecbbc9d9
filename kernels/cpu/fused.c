/* fused.c - the operations of ops.h by the fused kernels; head, norm and Adam are the reference's. */
#include "kernels/cpu/fused.h"

#if defined(FUSED_BF16)
#define FUSED_NAME "avx512-bf16"
#else
#define FUSED_NAME CPU_ISA_TEXT
#endif

static struct fused_job make_job(const struct lstm_args *args) {
    return (struct fused_job){.args = args,
                              .ws = fused_workspace_make(args->workspace, &args->shape, SIMD_LANES,
                                                         args->batch.sequences,
                                                         args->batch.total_tokens, args->training)};
}

static size_t workspace_bytes(const struct model_shape *shape, uint32_t sequences, uint64_t tokens,
                              bool training) {
    return fused_workspace_bytes(shape, SIMD_LANES, sequences, tokens, training);
}

static void lstm_words(struct cpu_pool *pool, const struct lstm_args *args) {
    struct fused_job job = make_job(args);
    CPU_SYMBOL(fused_words_table)(pool, &job);
}

static void lstm_forward(struct cpu_pool *pool, const struct lstm_args *args) {
    struct fused_job job = make_job(args);
    CPU_SYMBOL(fused_forward)(pool, &job);
}

static void lstm_backward(struct cpu_pool *pool, const struct lstm_args *args) {
    struct fused_job job = make_job(args);
    CPU_SYMBOL(fused_backward)(pool, &job);
}

static void embedding_grad(struct cpu_pool *pool, const struct lstm_args *args) {
    struct fused_job job = make_job(args);
    CPU_SYMBOL(fused_words_gradients)(pool, &job);
}

const struct cpu_kernels CPU_SYMBOL(cpu_fused) = {
    .isa = FUSED_NAME,
    .path = "cpu-fused-" FUSED_NAME,
    .workspace_bytes = workspace_bytes,
    .lstm_words = lstm_words,
    .lstm_forward = lstm_forward,
    .lstm_backward = lstm_backward,
    .embedding_grad = embedding_grad,
    .head_forward_backward = CPU_SYMBOL(reference_head_forward_backward),
    .global_norm = CPU_SYMBOL(reference_global_norm),
    .adam_step = CPU_SYMBOL(reference_adam_step),
};
