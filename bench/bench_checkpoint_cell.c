/* The figures of a cell: repeat by repeat, and of all its repeats as one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_checkpoint_report.h"

#define COLUMN(column, unit_name, field, factor)                                                   \
    .name = (column), .unit = (unit_name), .offset = offsetof(struct checkpoint_round, field),     \
    .scale = (factor)

const struct checkpoint_column checkpoint_columns[] = {
    {COLUMN("steps", "", steps, 1)},
    {COLUMN("time of a step", "ms", step_seconds, 1e3)},
    {COLUMN("throughput lost", "%", lost, 100)},
    {COLUMN("stalls", "", stalls, 1), .of_calls = true},
    {COLUMN("stall p50", "us", stall_p50, 1e6), .of_calls = true},
    {COLUMN("stall p99", "us", stall_p99, 1e6), .of_calls = true},
    {COLUMN("stall max", "us", stall_max, 1e6), .of_calls = true, .most = true},
    {COLUMN("stall cpu p50", "us", cpu_p50, 1e6), .of_calls = true},
    {COLUMN("stall cpu p99", "us", cpu_p99, 1e6), .of_calls = true},
    {COLUMN("stall cpu max", "us", cpu_max, 1e6), .of_calls = true, .most = true},
    {COLUMN("saves asked", "", asked, 1), .of_saves = true},
    {COLUMN("saves done", "", done, 1), .of_saves = true},
    {COLUMN("share of saves done", "%", share_done, 100), .of_saves = true},
    {COLUMN("saves skipped", "", skipped, 1), .of_saves = true},
    {COLUMN("saves delayed", "", delayed, 1), .of_saves = true},
    {COLUMN("durable p50", "ms", durable_p50, 1e3), .of_saves = true},
    {COLUMN("durable max", "ms", durable_max, 1e3), .of_saves = true, .most = true},
    {COLUMN("durable mean", "ms", durable_mean, 1e3), .of_saves = true},
    {COLUMN("call", "ms", call, 1e3), .of_saves = true},
    {COLUMN("queued", "ms", queued, 1e3), .of_saves = true},
    {COLUMN("snapshot", "ms", snapshot, 1e3), .of_saves = true},
    {COLUMN("compress", "ms", compress, 1e3), .of_saves = true},
    {COLUMN("write", "ms", write, 1e3), .of_saves = true},
    {COLUMN("fsync", "ms", fsync, 1e3), .of_saves = true},
    {COLUMN("rename", "ms", rename, 1e3), .of_saves = true},
    {COLUMN("retain", "ms", retain, 1e3), .of_saves = true},
    {COLUMN("tensors", "bytes", raw_bytes, 1), .of_saves = true},
    {COLUMN("file", "bytes", bytes, 1), .of_saves = true},
    {COLUMN("ratio", "", ratio, 1), .of_saves = true},
    {COLUMN("compress speed", "MB/s", writer_speed, 1e-6), .of_saves = true},
    {COLUMN("writer cpu", "ms", writer_cpu, 1e3), .of_saves = true},
    {COLUMN("pinned memory", "MB", pinned_bytes, 1e-6), .of_saves = true},
    {COLUMN("device memory", "MB", device_bytes, 1e-6), .of_saves = true},
    {COLUMN("resident memory", "MB", resident_bytes, 1e-6), .of_saves = true},
};
const size_t checkpoint_column_count = sizeof checkpoint_columns / sizeof checkpoint_columns[0];

static double value_at(const struct checkpoint_round *round, size_t offset) {
    double value;
    memcpy(&value, (const char *)round + offset, sizeof value);
    return value;
}

static void set_value_at(struct checkpoint_round *round, size_t offset, double value) {
    memcpy((char *)round + offset, &value, sizeof value);
}

double checkpoint_column_value(const struct checkpoint_column *column,
                               const struct checkpoint_round *round) {
    return value_at(round, column->offset) * column->scale;
}

bool checkpoint_column_applies(const struct checkpoint_column *column, enum checkpoint_mode mode) {
    if (mode == CHECKPOINT_COPY) {
        return !column->of_saves;
    }
    return mode != CHECKPOINT_OFF || !(column->of_saves || column->of_calls);
}

char *checkpoint_steps_name(uint64_t steps, char out[24]) {
    if (steps == 0) {
        snprintf(out, 24, "epoch");
    } else {
        snprintf(out, 24, "%llu", (unsigned long long)steps);
    }
    return out;
}

char *checkpoint_interval_name(const struct checkpoint_case *cell, size_t interval, char out[24]) {
    return checkpoint_steps_name(cell->intervals[interval], out);
}

void checkpoint_case_free(struct checkpoint_case *cell) {
    for (size_t interval = 0; cell != NULL && interval < CHECKPOINT_LIST_MAX; interval++) {
        for (int mode = 0; mode < CHECKPOINT_MODES; mode++) {
            free(cell->stalls[interval][mode].walls);
            free(cell->stalls[interval][mode].cpus);
        }
    }
    free(cell);
}

/* ---- repeat by repeat ------------------------------------------------------------------------ */

void checkpoint_cell_samples(const struct checkpoint_case *cell, size_t interval,
                             enum checkpoint_mode mode, size_t offset, double scale,
                             double samples[BENCH_REPEATS_MAX]) {
    for (unsigned i = 0; i < cell->repeats; i++) {
        samples[i] = value_at(&cell->rounds[interval][mode][i], offset) * scale;
    }
}

struct bench_spread checkpoint_cell_spread(const struct checkpoint_case *cell, size_t interval,
                                           enum checkpoint_mode mode, size_t offset, double scale) {
    double samples[BENCH_REPEATS_MAX];
    checkpoint_cell_samples(cell, interval, mode, offset, scale, samples);
    for (unsigned i = 0; i < cell->repeats; i++) {
        if (isnan(samples[i])) {
            return (struct bench_spread){(double)NAN, (double)NAN, (double)NAN};
        }
    }
    return bench_clock_spread(samples, cell->repeats);
}

/* ---- all repeats as one ---------------------------------------------------------------------- */

static enum status describe_stalls(const struct checkpoint_stalls *stalls,
                                   struct checkpoint_round *out, struct error *err) {
    size_t n = stalls->count;
    double *sorted = calloc(2 * n + 1, sizeof *sorted);
    CHECK(sorted != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    if (n > 0) {
        memcpy(sorted, stalls->walls, n * sizeof *sorted);
        memcpy(sorted + n, stalls->cpus, n * sizeof *sorted);
    }
    checkpoint_block_describe(sorted, sorted + n, n, out);
    free(sorted);
    return STATUS_OK;
}

static double sum_over(const struct checkpoint_round *rounds, unsigned repeats, size_t offset) {
    double sum = 0;
    for (unsigned i = 0; i < repeats; i++) {
        sum += value_at(&rounds[i], offset);
    }
    return sum;
}

/* Each repeat's mean counts as often as it has saves. */
static double mean_over(const struct checkpoint_round *rounds, unsigned repeats, size_t offset) {
    double sum = 0, count = 0;
    for (unsigned i = 0; i < repeats; i++) {
        sum += value_at(&rounds[i], offset) * rounds[i].done;
        count += rounds[i].done;
    }
    return count > 0 ? sum / count : 0;
}

static double most_of(const struct checkpoint_round *rounds, unsigned repeats, size_t offset) {
    double most = value_at(&rounds[0], offset);
    for (unsigned i = 1; i < repeats; i++) {
        most = fmax(most, value_at(&rounds[i], offset));
    }
    return most;
}

enum status checkpoint_cell_whole(const struct checkpoint_case *cell, size_t interval,
                                  enum checkpoint_mode mode, struct checkpoint_round *out,
                                  struct error *err) {
#define FIELD(field) offsetof(struct checkpoint_round, field)
    static const size_t sums[] = {FIELD(asked), FIELD(done), FIELD(skipped), FIELD(delayed)};
    static const size_t means[] = {FIELD(durable_mean), FIELD(call),     FIELD(queued),
                                   FIELD(snapshot),     FIELD(compress), FIELD(write),
                                   FIELD(fsync),        FIELD(rename),   FIELD(retain)};
    const struct checkpoint_round *rounds = cell->rounds[interval][mode];
    for (size_t i = 0; i < checkpoint_column_count; i++) {
        set_value_at(out, checkpoint_columns[i].offset, (double)NAN);
    }
    TRY(describe_stalls(&cell->stalls[interval][mode], out, err));
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
        set_value_at(out, sums[i], sum_over(rounds, cell->repeats, sums[i]));
    }
    for (size_t i = 0; i < sizeof means / sizeof means[0]; i++) {
        set_value_at(out, means[i], mean_over(rounds, cell->repeats, means[i]));
    }
    out->share_done = out->asked > 0 ? out->done / out->asked : (double)NAN;
    out->durable_max = most_of(rounds, cell->repeats, FIELD(durable_max));
    return STATUS_OK;
#undef FIELD
}
