/* bench_saves.h - training steps with a snapshot after each, and what takes the snapshots away.
 *
 * As in a training run: the trainer takes a free slot and enqueues the copies, never waiting; a
 * thread in the writer's place waits for the bytes and gives the slot back. Nothing is compressed
 * or written, so that what is timed is the device's part of a save. No tensor is called steady: in
 * host memory, where a trainer leaves the copy to the writer, it is made and timed here.
 *
 * THREADS: the caller's is the trainer's; one more is made and joined here.
 */
#ifndef CAIRN_BENCH_BENCH_SAVES_H
#define CAIRN_BENCH_BENCH_SAVES_H

#include "bench/bench_rig.h"

#ifdef __cplusplus
extern "C" {
#endif

struct bench_saves;

MUST_USE enum status bench_saves_create(struct bench_rig *rig, struct bench_saves **out,
                                        struct error *err);
void bench_saves_free(struct bench_saves *saves); /* NULL is fine */

/* A training step, then a snapshot unless both slots are busy; for bench_clock. */
MUST_USE enum status bench_saves_step(void *saves, struct error *err);
/* One snapshot from the first copy until its bytes are in host memory. Blocks. */
MUST_USE enum status bench_saves_whole(void *saves, struct error *err);
/* Block until everything has run and both slots are free. */
MUST_USE enum status bench_saves_finish(void *saves, struct error *err);

struct bench_saves_counts {
    uint64_t taken, skipped; /* by bench_saves_step; skipped: both slots were busy */
    double stall_seconds, stall_seconds_max; /* host time in the calls that enqueue; sum, largest */
    size_t bytes;                            /* of one snapshot */
};
struct bench_saves_counts bench_saves_count(const struct bench_saves *saves);

#ifdef __cplusplus
}
#endif
#endif
