/* parallel.h - a few threads for the length of one call.
 *
 * For work that comes seldom and is large: decoding a checkpoint, compressing one. Threads are made
 * and joined by the call, so nothing idles in between; the training step, which runs its loops
 * thousands of times a second, has a pool of its own (kernels/cpu/cpu_pool.h).
 *
 * Usage:
 *     static void lane(void *context, unsigned index) {
 *         struct job *job = context;
 *         for (size_t i; (i = atomic_fetch_add(&job->next, 1)) < job->count;) { ... }
 *     }
 *     (void)parallel_run(parallel_processors(), lane, &job);
 *
 * THREADS: any thread; several may call at once. Lanes block all signals.
 */
#ifndef CAIRN_HOST_BASE_PARALLEL_H
#define CAIRN_HOST_BASE_PARALLEL_H

#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PARALLEL_LANES_MAX = 64 };

/* Processors that the calling thread may use, from 1. */
unsigned parallel_processors(void);

/* Run work(context, lane) once for each lane from 0 to lanes - 1, all at the same time, lane 0 on
 * the calling thread and even where `lanes` is 0; returns when all have returned. More than
 * PARALLEL_LANES_MAX are that many. A thread that cannot be started is a lane that is missing, so
 * lanes take their work from what they share. Returns the processor time in seconds that the lanes
 * above 0 used, the making of their threads left out. Blocking. */
double parallel_run(unsigned lanes, void (*work)(void *context, unsigned lane), void *context);

/* Threads that so many bytes are worth, from 1 to `most`: each has enough to do for its start. */
unsigned parallel_lanes_for(uint64_t bytes, unsigned most);

/* Run work(context, lane, i, err) for i from 0 to count - 1, each once, on up to `lanes` threads.
 * Tasks are begun in this order; when some fail, further ones are not begun, and the status and
 * error of the first of them in this order are returned, whichever thread was faster. Blocking. */
MUST_USE enum status parallel_tasks(unsigned lanes, uint64_t count,
                                    enum status (*work)(void *context, unsigned lane,
                                                        uint64_t index, struct error *err),
                                    void *context, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
