/* Some steps in one mode at one interval, and what they show. */
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_checkpoint.h"
#include "host/base/percentile.h"
#include "host/base/stop.h"
#include "host/base/text.h"

/* ---- clocks and memory ----------------------------------------------------------------------- */

static double resident_bytes(void) {
    double pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file != NULL) {
        if (fscanf(file, "%*s %lf", &pages) != 1) {
            pages = 0;
        }
        fclose(file);
    }
    return pages * (double)sysconf(_SC_PAGESIZE);
}

/* ---- a block --------------------------------------------------------------------------------- */

enum { COPIES = 2 };

struct block {
    struct checkpoint_trainee *trainee;
    enum checkpoint_mode mode;
    struct writer *writer; /* NULL when nothing is saved */
    void *copies[COPIES];  /* pinned; of CHECKPOINT_COPY */
    double *walls, *cpus;  /* [capacity] of accepted calls */
    double *durables;      /* [capacity] */
    size_t calls, durable_count, capacity;
    struct save_result sums; /* of the saves that became durable */
    struct writer_settled settled;
    struct writer_totals before; /* of the writer when the block began */
    double resident_before;
    struct error failure; /* of the first save that failed */
};

/* Sorts. Nothing took no time. */
static double percentile(double *values, size_t count, unsigned percent) {
    percentile_sort(values, count);
    return count == 0 ? 0.0 : percentile_of(values, count, percent);
}

/* Of fewer than 100 values it would be their largest. */
static double percentile_99(double *values, size_t count) {
    return count < 100 ? (double)NAN : percentile(values, count, 99);
}

static void add_result(struct block *block, const struct save_result *result) {
    struct save_result *sums = &block->sums;
    if (result->status != STATUS_OK) {
        if (block->failure.status == STATUS_OK) {
            error_set(&block->failure, result->status, "%s", result->message);
        }
        return;
    }
    if (result->dropped || block->durable_count == block->capacity) {
        sums->cpu_seconds += result->cpu_seconds;
        return;
    }
    block->durables[block->durable_count++] = result->durable_seconds;
    sums->stall_seconds += result->stall_seconds - result->settle_seconds; /* beside the rest */
    sums->durable_seconds += result->durable_seconds;
    sums->snapshot_seconds += result->snapshot_seconds;
    sums->compress_seconds += result->compress_seconds;
    sums->write_seconds += result->write_seconds;
    sums->fsync_seconds += result->fsync_seconds;
    sums->rename_seconds += result->rename_seconds;
    sums->retain_seconds += result->retain_seconds;
    sums->cpu_seconds += result->cpu_seconds;
    sums->bytes += result->bytes;
    sums->raw_bytes += result->raw_bytes;
}

static void poll_results(struct block *block) {
    struct save_result result;
    while (writer_poll(block->writer, &result)) {
        add_result(block, &result);
        block->trainee->heard(block->trainee, &result);
    }
}

static enum status copy_state(struct block *block, struct error *err) {
    struct checkpoint_trainee *trainee = block->trainee;
    struct backend *be = trainee->be;
    TRY(be->table->copy(be, block->copies[block->calls % COPIES], trainee->region,
                        trainee->region_bytes, BACKEND_STREAM_COMPUTE, err));
    return be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, err);
}

static enum status save_state(struct block *block, enum save_outcome *outcome, struct error *err) {
    TRY(block->trainee->save(block->trainee, outcome, err));
    if (checkpoint_mode_waits(block->mode)) {
        writer_drain(block->writer);
    }
    return STATUS_OK;
}

/* The call that is timed: wall clock, and what this thread really computed in it. What a later step
 * waits for the save's copies comes to it by add_settled. */
static enum status timed_call(struct block *block, struct error *err) {
    enum save_outcome outcome = SAVE_ACCEPTED;
    double cpu = clock_thread_cpu_seconds(), wall = bench_clock_now();
    TRY(block->mode == CHECKPOINT_COPY ? copy_state(block, err) : save_state(block, &outcome, err));
    wall = bench_clock_now() - wall;
    cpu = clock_thread_cpu_seconds() - cpu;
    if (outcome == SAVE_ACCEPTED && block->calls < block->capacity) {
        block->walls[block->calls] = wall;
        block->cpus[block->calls] = cpu;
        block->calls++;
    }
    return STATUS_OK;
}

/* What was waited for the copies of the latest save belongs to its stall. */
static void add_settled(struct block *block) {
    if (block->writer == NULL || block->calls == 0) {
        return;
    }
    struct writer_settled before = block->settled;
    block->settled = writer_settled(block->writer);
    block->walls[block->calls - 1] += block->settled.seconds - before.seconds;
    block->cpus[block->calls - 1] += block->settled.cpu_seconds - before.cpu_seconds;
}

static enum status make_steps(struct block *block, uint64_t interval, uint64_t steps,
                              struct error *err) {
    struct checkpoint_trainee *trainee = block->trainee;
    for (uint64_t i = 0; i < steps; i++) {
        CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
        TRY(trainee->make_step(trainee, err));
        add_settled(block);
        /* In the middle of the interval, so that what follows a save is within the block. */
        bool due = i % interval == (interval - 1) / 2;
        if (due && block->mode != CHECKPOINT_OFF) {
            TRY(timed_call(block, err));
        }
        if (block->writer != NULL) {
            poll_results(block);
        }
    }
    if (block->writer != NULL) { /* the step after the last one would */
        writer_settle(block->writer);
        add_settled(block);
    }
    struct backend *be = trainee->be;
    return be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, err);
}

static enum status open_block(struct block *block, const struct checkpoint_plan *plan,
                              struct error *err) {
    struct checkpoint_trainee *trainee = block->trainee;
    struct backend *be = trainee->be;
    block->walls = calloc(block->capacity, sizeof *block->walls);
    block->cpus = calloc(block->capacity, sizeof *block->cpus);
    block->durables = calloc(block->capacity, sizeof *block->durables);
    CHECK(block->walls != NULL && block->cpus != NULL && block->durables != NULL, err,
          STATUS_MEMORY, "out of memory for a benchmark");
    for (size_t i = 0; i < COPIES && block->mode == CHECKPOINT_COPY; i++) {
        TRY(be->table->host_alloc(be, trainee->region_bytes, &block->copies[i], err));
    }
    /* What a block before has freed, and this one gets again, is to count as its own. */
    malloc_trim(0);
    block->resident_before = resident_bytes();
    if (checkpoint_mode_saves(block->mode)) {
        TRY(checkpoint_block_writer(trainee, plan->options, block->mode, &block->writer, err));
    }
    trainee->writer = block->writer;
    return STATUS_OK;
}

static void close_block(struct block *block) {
    struct backend *be = block->trainee->be;
    writer_free(block->writer);
    block->trainee->writer = NULL;
    for (size_t i = 0; i < COPIES; i++) {
        if (block->copies[i] != NULL) {
            be->table->host_free(be, block->copies[i]);
        }
    }
    free(block->walls);
    free(block->cpus);
    free(block->durables);
}

/* A run of the trainer saves its state before the first step, too: what a writer pays once, for
 * memory that nobody has touched yet, is no part of a block. */
static enum status begin_saving(struct block *block, struct error *err) {
    enum save_outcome ignored;
    TRY(block->trainee->save(block->trainee, &ignored, err));
    writer_drain(block->writer);
    poll_results(block);
    memset(&block->sums, 0, sizeof block->sums);
    block->durable_count = 0;
    block->settled = writer_settled(block->writer);
    block->before = writer_get_totals(block->writer);
    return STATUS_OK;
}

/* ---- what it shows --------------------------------------------------------------------------- */

static enum status append(double **values, size_t count, const double *more, size_t more_count,
                          struct error *err) {
    double *grown = realloc(*values, (count + more_count) * sizeof *grown);
    CHECK(grown != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    memcpy(grown + count, more, more_count * sizeof *grown);
    *values = grown;
    return STATUS_OK;
}

static enum status append_stalls(const struct block *block, struct checkpoint_stalls *stalls,
                                 struct error *err) {
    if (stalls == NULL || block->calls == 0) {
        return STATUS_OK;
    }
    TRY(append(&stalls->walls, stalls->count, block->walls, block->calls, err));
    TRY(append(&stalls->cpus, stalls->count, block->cpus, block->calls, err));
    stalls->count += block->calls;
    return STATUS_OK;
}

void checkpoint_block_describe(double *walls, double *cpus, size_t count,
                               struct checkpoint_round *out) {
    out->stalls = (double)count;
    out->stall_p50 = percentile(walls, count, 50);
    out->stall_p99 = percentile_99(walls, count);
    out->stall_max = percentile(walls, count, 100);
    out->cpu_p50 = percentile(cpus, count, 50);
    out->cpu_p99 = percentile_99(cpus, count);
    out->cpu_max = percentile(cpus, count, 100);
}

static void describe_saves(struct block *block, struct checkpoint_round *out) {
    const struct save_result *sums = &block->sums;
    const struct writer_totals totals = writer_get_totals(block->writer), *before = &block->before;
    double n = block->durable_count > 0 ? (double)block->durable_count : 1;
    out->asked = (double)(totals.requested - before->requested);
    out->done = (double)(totals.saved - before->saved);
    out->skipped = (double)(totals.skipped - before->skipped);
    out->delayed = (double)(totals.delayed - before->delayed);
    out->failed = (double)(totals.failed - before->failed);
    out->share_done = out->asked > 0 ? out->done / out->asked : (double)NAN;
    out->durable_p50 = percentile(block->durables, block->durable_count, 50);
    out->durable_max = percentile(block->durables, block->durable_count, 100);
    out->snapshot = sums->snapshot_seconds / n;
    out->compress = sums->compress_seconds / n;
    out->write = sums->write_seconds / n;
    out->fsync = sums->fsync_seconds / n;
    out->rename = sums->rename_seconds / n;
    out->retain = sums->retain_seconds / n;
    out->durable_mean = sums->durable_seconds / n;
    out->call = sums->stall_seconds / n;
    out->queued = out->durable_mean - (out->call + out->snapshot + out->compress + out->write +
                                       out->fsync + out->rename);
    out->bytes = (double)sums->bytes / n;
    out->raw_bytes = (double)sums->raw_bytes / n;
    out->ratio = sums->bytes > 0 ? (double)sums->raw_bytes / (double)sums->bytes : 0;
    out->writer_cpu = sums->cpu_seconds / n;
    out->writer_speed =
        sums->compress_seconds > 0 ? (double)sums->raw_bytes / sums->compress_seconds : 0;
    size_t pinned, device;
    writer_memory(block->writer, &pinned, &device);
    out->pinned_bytes = (double)pinned;
    out->device_bytes = (double)device;
    double grown = resident_bytes() - block->resident_before;
    out->resident_bytes = grown > 0 ? grown : 0;
}

static enum status run_block(struct block *block, const struct checkpoint_plan *plan,
                             uint64_t interval, uint64_t steps, struct checkpoint_round *out,
                             struct checkpoint_stalls *stalls, struct error *err) {
    TRY(open_block(block, plan, err));
    TRY(block->trainee->rewind(block->trainee, err));
    if (block->writer != NULL) {
        TRY(begin_saving(block, err));
    }
    double begin = bench_clock_now();
    TRY(make_steps(block, interval, steps, err));
    out->seconds = bench_clock_now() - begin;
    out->steps = (double)steps;
    out->step_seconds = out->seconds / out->steps;
    TRY(append_stalls(block, stalls, err));
    checkpoint_block_describe(block->walls, block->cpus, block->calls, out);
    if (block->writer != NULL) {
        writer_drain(block->writer);
        poll_results(block);
        describe_saves(block, out);
    }
    CHECK(block->failure.status == STATUS_OK, err, block->failure.status, "%s",
          block->failure.message);
    return STATUS_OK;
}

enum status checkpoint_block_run(struct checkpoint_trainee *trainee,
                                 const struct checkpoint_plan *plan, enum checkpoint_mode mode,
                                 uint64_t interval, uint64_t steps, struct checkpoint_round *out,
                                 struct checkpoint_stalls *stalls, struct error *err) {
    memset(out, 0, sizeof *out);
    struct block block = {
        .trainee = trainee, .mode = mode, .capacity = (size_t)(steps / interval + 1)};
    enum status status = run_block(&block, plan, interval, steps, out, stalls, err);
    close_block(&block);
    if (out->raw_bytes > 0) {
        trainee->state_bytes = out->raw_bytes;
    }
    return status;
}

/* ---- writers --------------------------------------------------------------------------------- */

enum status checkpoint_block_writer(struct checkpoint_trainee *trainee,
                                    const struct options *options, enum checkpoint_mode mode,
                                    struct writer **out, struct error *err) {
    static const enum writer_busy policies[] = {
        [BUSY_SKIP] = WRITER_BUSY_SKIP,
        [BUSY_LATEST] = WRITER_BUSY_LATEST,
        [BUSY_WAIT] = WRITER_BUSY_WAIT,
    };
    const struct writer_options writer_options = {
        .files = &file_posix,
        .store = trainee->store,
        .compression_level = checkpoint_mode_level(mode, options),
        .busy = policies[options->checkpoint_busy],
        .compression_threads = (unsigned)options->compression_threads,
        .host_capacity = 64 * 1024, /* the trainer's */
        .direct = checkpoint_mode_is_direct(mode),
    };
    return writer_create(&writer_options, trainee->be, trainee->region, trainee->region_bytes, out,
                         err);
}

enum status checkpoint_block_save(struct checkpoint_trainee *trainee,
                                  const struct checkpoint_plan *plan, struct error *err) {
    struct checkpoint_round ignored;
    return checkpoint_block_run(trainee, plan, CHECKPOINT_SYNC_ZSTD, 1, 1, &ignored, NULL, err);
}
