/* cpu_pool.h - a fixed set of threads that run one loop together.
 *
 * The tasks of a loop are independent of each other: which thread runs which task, and how many
 * threads there are, never changes a result. The caller takes part and returns when all are done.
 * Denormals are flushed to zero inside the tasks, in every thread, and the caller's own
 * floating-point mode is restored afterwards: gradients of long reviews shrink below 1e-38, where a
 * processor without flushing is ten to fifty times slower.
 *
 * Usage:
 *     TRY(cpu_pool_create(2, &pool, err));
 *     cpu_pool_run(pool, 8, add_rows, &job);      add_rows(&job, 0) ... add_rows(&job, 7)
 *     cpu_pool_free(pool);
 *
 * THREADS: one thread at a time calls cpu_pool_run; workers block all signals.
 */
#ifndef CAIRN_KERNELS_CPU_POOL_H
#define CAIRN_KERNELS_CPU_POOL_H

#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cpu_pool;

/* `threads` (from 1) in all, the caller of cpu_pool_run included. */
MUST_USE enum status cpu_pool_create(uint32_t threads, struct cpu_pool **out, struct error *err);

/* Run task(context, 0 .. tasks-1), each once; blocks until all have returned. */
void cpu_pool_run(struct cpu_pool *pool, uint32_t tasks,
                  void (*task)(void *context, uint32_t index), void *context);

uint32_t cpu_pool_threads(const struct cpu_pool *pool);

void cpu_pool_free(struct cpu_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
