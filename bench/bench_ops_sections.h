/* bench_ops_sections.h - what `cairn bench ops` measures, one function per section.
 *
 * On a GPU:     recurrence (latency of a time step), batch, ragged, operations, step, save
 * On the CPU:   recurrence (rates, and the share of the machine's multiply-add peak; also what
 *               `operations` has on a GPU), batch, ragged, step, save
 *
 * Usage:
 *     for (size_t i = 0; bench_ops_sections[i].name != NULL; i++) {
 *         status = bench_ops_sections[i].cpu(&bench, &err);
 *     }
 *
 * THREADS: the caller's.
 */
#ifndef CAIRN_BENCH_BENCH_OPS_SECTIONS_H
#define CAIRN_BENCH_BENCH_OPS_SECTIONS_H

#include "bench/bench_ops_group.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ops_section {
    const char *name;
    enum status (*cuda)(struct ops_bench *bench, struct error *err);
    enum status (*cpu)(struct ops_bench *bench, struct error *err); /* NULL: measured elsewhere */
};
extern const struct ops_section bench_ops_sections[]; /* ends with a NULL name */

/* A ragged batch, by name and lengths. */
struct ops_batch {
    const char *name;
    uint32_t sequences;
    uint32_t lengths[OPS_SEQUENCES_MAX];
};

/* "imdb": a batch in random order. "window": of those that a sorted window of 4096 makes, one of
 * about the mean length. */
struct ops_batch bench_ops_random_batch(const struct ops_sizes *sizes);
struct ops_batch bench_ops_window_batch(const struct ops_sizes *sizes);

/* bench_ops_cpu.c: on both of these batches all operations of a step, with every instruction set
 * asked for, on all threads and on one, in turns with the multiply-add peak. */
MUST_USE enum status bench_ops_cpu_recurrence(struct ops_bench *bench, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
