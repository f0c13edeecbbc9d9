/* bench_ops_group.h - things that are timed in turn, on every variant of a backend that there is.
 *
 * A variant is what takes part in a comparison: on a GPU the fused kernels, the same without
 * recorded steps, and cuDNN; on the CPU an instruction set and a number of threads.
 *
 * Usage:
 *     struct ops_group *group = ops_group_open(&bench, "step", hidden, OPS_VARIANT_STEP);
 *     TRY(ops_group_rig(group, variant, &shape, lengths, sequences, &rig, err));
 *     ops_group_add(group, "training step", variant, "uniform", rig, bench_rig_step, 1, 0.0);
 *     TRY(ops_group_run(group, err));        measures and reports
 *     ops_group_close(group);
 *
 * THREADS: the caller's.
 */
#ifndef CAIRN_BENCH_BENCH_OPS_GROUP_H
#define CAIRN_BENCH_BENCH_OPS_GROUP_H

#include "bench/bench_clock.h"
#include "bench/bench_ops_report.h"
#include "bench/bench_rig.h"
#include "host/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* OPS_SEQUENCES_MAX: what a section keeps in memory grows with it, by GB. */
enum { OPS_VARIANTS = 8, OPS_GROUP_MAX = 56, OPS_LIST_MAX = 8, OPS_SEQUENCES_MAX = 1024 };

/* The section that a variant takes part in. */
enum ops_variant_use { OPS_VARIANT_ALWAYS, OPS_VARIANT_STEP, OPS_VARIANT_RECURRENCE };

struct ops_variant {
    char name[32];
    const char *isa, *lstm, *graph; /* values of the options of these names */
    uint32_t threads;               /* of the CPU; 0: does not matter */
    enum ops_variant_use use;
};

/* What is measured, and how large. */
struct ops_sizes {
    struct model_shape shape;                    /* the one asked for */
    uint32_t batch_size;                         /* likewise */
    uint32_t hidden[OPS_LIST_MAX], hidden_count; /* of the time steps */
    uint32_t large_vocabulary;                   /* takes the plain path of a GPU; 0: left out */
    uint32_t steps; /* T; a time step is the difference between T and 2 T */
    uint32_t batch[OPS_LIST_MAX], batch_count; /* of the section of batch sizes */
    uint32_t step_batch[2];                    /* of the time steps */
    uint32_t divisor;                          /* of the lengths of ragged batches */
};

struct ops_bench {
    const struct options *options;
    bool cuda; /* what --device asks for, "auto" decided; a simulated one counts */
    struct ops_variant variants[OPS_VARIANTS];
    size_t variant_count;
    struct ops_sizes sizes;
    struct bench_effort effort;
    unsigned repeated; /* bench_rig.h */
    struct ops_report *report;
};

struct ops_group {
    struct ops_bench *bench;
    const char *section;
    struct backend *backends[OPS_VARIANTS]; /* NULL: absent */
    struct bench_rig *rigs[OPS_GROUP_MAX];
    size_t rig_count;
    struct bench_subject subjects[OPS_GROUP_MAX];
    struct ops_entry entries[OPS_GROUP_MAX];
    double samples[OPS_GROUP_MAX][BENCH_REPEATS_MAX];
    size_t count;
};

/* One variant of the backend, for a hidden size. STATUS_DEVICE when it is not there. */
MUST_USE enum status ops_group_backend(const struct ops_bench *bench,
                                       const struct ops_variant *variant, uint32_t hidden,
                                       struct backend **out, struct error *err);

/* Open the backends of a hidden size, those for all sections and those for `use`; what is not there
 * is reported as absent and left out. NULL when memory is short. */
struct ops_group *ops_group_open(struct ops_bench *bench, const char *section, uint32_t hidden,
                                 enum ops_variant_use use);
void ops_group_close(struct ops_group *group);

/* A model and a batch on `variant`, which must be there; belongs to the group. */
MUST_USE enum status ops_group_rig(struct ops_group *group, size_t variant,
                                   const struct model_shape *shape, const uint32_t *lengths,
                                   uint32_t sequences, struct bench_rig **out, struct error *err);

/* Something to time; `lengths` is what the batch is called, strings are literals. `flops`: counted
 * floating-point operations, 0 where nothing is counted. At most OPS_GROUP_MAX. */
typedef enum status (*ops_function)(void *context, struct error *err);
void ops_group_add(struct ops_group *group, const char *op, size_t variant, const char *lengths,
                   struct bench_rig *rig, ops_function enqueue, unsigned per_call, double flops);

/* Three things to time: forward with and without what backward needs, and forward with backward,
 * which backward is the difference of. */
enum { OPS_FORWARD, OPS_INFERENCE, OPS_BOTH, OPS_LSTM_SUBJECTS };
void ops_group_add_lstm(struct ops_group *group, size_t variant, const char *lengths,
                        struct bench_rig *rig);

/* Measure; report what was measured. */
MUST_USE enum status ops_group_measure(struct ops_group *group, struct error *err);
void ops_group_report(struct ops_group *group);
/* Both. */
MUST_USE enum status ops_group_run(struct ops_group *group, struct error *err);

/* Report (a - b) / divisor, sample by sample, as `op` of entry `like`'s case; out [repeats]. */
void ops_group_difference(struct ops_group *group, const char *op, size_t like, const double *a,
                          const double *b, double divisor, double *out);
/* lstm_backward of the three subjects from `first` on. */
void ops_group_backward(struct ops_group *group, size_t first, double *out);

#ifdef __cplusplus
}
#endif
#endif
