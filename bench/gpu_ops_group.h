/* gpu_ops_group.h - things that are timed in turn, on every variant of a backend that there is.
 *
 * Usage:
 *     struct group *group = group_open(&bench, "step", hidden, true);
 *     TRY(group_rig(group, variant, &shape, lengths, sequences, &rig, err));
 *     group_add(group, "training step", variant, "uniform", rig, bench_rig_step, 1);
 *     TRY(group_run(group, err));        measures and reports
 *     group_close(group);
 *
 * THREADS: the caller's.
 */
#ifndef CAIRN_BENCH_GPU_OPS_GROUP_H
#define CAIRN_BENCH_GPU_OPS_GROUP_H

#include "bench/bench_clock.h"
#include "bench/bench_rig.h"
#include "bench/gpu_ops_report.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { VARIANTS = 3, GROUP_MAX = 24 };

struct variant {
    const char *name, *lstm;
    bool graph;
    bool steps_only; /* differs from another one in whole steps only */
};

/* [VARIANTS]; ends early with a NULL name. */
const struct variant *group_variants(const char *device);
bool group_is_cuda(const char *device);

struct bench {
    const char *device;
    const struct sizes *sizes; /* gpu_ops.c */
    struct bench_effort effort;
    unsigned repeated; /* bench_rig.h */
    struct report *report;
};

struct group {
    struct bench *bench;
    const char *section;
    struct backend *backends[VARIANTS]; /* NULL: absent */
    struct bench_rig *rigs[GROUP_MAX];
    size_t rig_count;
    struct bench_subject subjects[GROUP_MAX];
    struct report_entry entries[GROUP_MAX];
    double samples[GROUP_MAX][BENCH_REPEATS_MAX];
    size_t count;
};

/* One variant of the backend. STATUS_DEVICE when it is not there. */
MUST_USE enum status group_open_backend(const char *device, const struct variant *variant,
                                        uint32_t hidden, struct backend **out, struct error *err);

/* Open the backends of a hidden size; what is not there is reported as absent and left out. NULL
 * when memory is short. */
struct group *group_open(struct bench *bench, const char *section, uint32_t hidden,
                         bool whole_steps);
void group_close(struct group *group);

/* A model and a batch on `variant`, which must be there; belongs to the group. */
MUST_USE enum status group_rig(struct group *group, size_t variant, const struct model_shape *shape,
                               const uint32_t *lengths, uint32_t sequences, struct bench_rig **out,
                               struct error *err);

/* Something to time; `lengths` is what the batch is called, strings are literals. At most
 * GROUP_MAX. */
typedef enum status (*enqueue_function)(void *context, struct error *err);
void group_add(struct group *group, const char *op, size_t variant, const char *lengths,
               struct bench_rig *rig, enqueue_function enqueue, unsigned per_call);

/* Measure, and report what was measured. */
MUST_USE enum status group_run(struct group *group, struct error *err);

/* Report (a - b) / divisor, sample by sample, as `op` of entry `like`'s case; out [repeats]. */
void group_difference(struct group *group, const char *op, size_t like, const double *a,
                      const double *b, double divisor, double *out);

#ifdef __cplusplus
}
#endif
#endif
