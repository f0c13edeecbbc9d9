/* The JSON of `cairn bench checkpoint`, and its lines on the terminal that are no tables. */
#include "bench/bench_checkpoint_report.h"

#include <math.h>
#include <string.h>

/* ---- cells ----------------------------------------------------------------------------------- */

static void add_figure(const struct checkpoint_case *cell, size_t interval,
                       enum checkpoint_mode mode, const struct checkpoint_column *column,
                       const struct checkpoint_round *whole, struct bench_report *report) {
    double samples[BENCH_REPEATS_MAX];
    size_t offset = column->offset;
    checkpoint_cell_samples(cell, interval, mode, offset, column->scale, samples);
    if (column->most) {
        bench_report_whole(report, column->name, column->unit,
                           checkpoint_column_value(column, whole), samples, cell->repeats);
        return;
    }
    bool lacks = isnan(checkpoint_cell_spread(cell, interval, mode, offset, 1).median);
    for (unsigned repeat = 0; lacks && repeat < cell->repeats; repeat++) {
        samples[repeat] = (double)NAN;
    }
    bench_report_figure(report, column->name, column->unit, 1.0, samples, cell->repeats);
}

/* Of the stalls of all repeats together, beside the median of each repeat's own. */
static void add_p99_of_all(const struct checkpoint_case *cell, size_t interval,
                           enum checkpoint_mode mode, const struct checkpoint_round *whole,
                           struct bench_report *report) {
    double walls[BENCH_REPEATS_MAX], cpus[BENCH_REPEATS_MAX];
    checkpoint_cell_samples(cell, interval, mode, offsetof(struct checkpoint_round, stall_p99), 1e6,
                            walls);
    checkpoint_cell_samples(cell, interval, mode, offsetof(struct checkpoint_round, cpu_p99), 1e6,
                            cpus);
    bench_report_whole(report, "stall p99 of all", "us", whole->stall_p99 * 1e6, walls,
                       cell->repeats);
    bench_report_whole(report, "stall cpu p99 of all", "us", whole->cpu_p99 * 1e6, cpus,
                       cell->repeats);
}

static void add_cell(const struct checkpoint_case *cell, size_t interval, enum checkpoint_mode mode,
                     const struct checkpoint_round *whole, struct bench_report *report) {
    char section[128], every[24];
    snprintf(section, sizeof section, "%s, %s, %s, every %s", cell->place, cell->state,
             checkpoint_mode_name(mode), checkpoint_interval_name(cell, interval, every));
    bench_report_section(report, section);
    for (size_t i = 0; i < checkpoint_column_count; i++) {
        if (checkpoint_column_applies(&checkpoint_columns[i], mode)) {
            add_figure(cell, interval, mode, &checkpoint_columns[i], whole, report);
        }
    }
    if (mode != CHECKPOINT_OFF) {
        add_p99_of_all(cell, interval, mode, whole, report);
    }
}

enum status checkpoint_report_case(struct checkpoint_output *out,
                                   const struct checkpoint_case *cell, struct error *err) {
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
            struct checkpoint_round whole;
            if (cell->modes[mode]) {
                TRY(checkpoint_cell_whole(cell, interval, mode, &whole, err));
                add_cell(cell, interval, mode, &whole, out->report);
                checkpoint_csv_cell(&out->csv, cell, interval, mode,
                                    mode == CHECKPOINT_OFF ? NULL : &whole);
            }
        }
    }
    return checkpoint_table_print(cell, out->table, err);
}

/* ---- restore, encode, kills ------------------------------------------------------------------ */

static void report_restore(struct checkpoint_output *out, const struct checkpoint_case *cell,
                           const char *cache,
                           const double samples[CHECKPOINT_RESTORE_PARTS][BENCH_REPEATS_MAX],
                           const struct checkpoint_restore *restore) {
    char section[128];
    snprintf(section, sizeof section, "%s, %s, restore, %s", cell->place, cell->state, cache);
    bench_report_section(out->report, section);
    fprintf(out->table, "  restore, %s page cache, ms:", cache);
    double whole = 0;
    for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
        const char *name = checkpoint_restore_part_name(part);
        bench_report_figure(out->report, name, "ms", 1e3, samples[part], restore->repeats);
        whole = bench_clock_spread(samples[part], restore->repeats).median;
        fprintf(out->table, "%s %s %.2f", part == 0 ? "" : ",", name, whole * 1e3);
    }
    fprintf(out->table, " (%.0f MB/s)\n", restore->bytes * 1e-6 / whole);
}

void checkpoint_report_restore(struct checkpoint_output *out, const struct checkpoint_case *cell,
                               const struct checkpoint_restore *restore) {
    checkpoint_csv_restores(&out->csv, cell, restore);
    fprintf(out->table, "\n");
    if (restore->cold_possible) {
        report_restore(out, cell, checkpoint_cache_names[0], restore->cold, restore);
    } else {
        fprintf(out->table, "  restore, cold: the page cache of %s does not let go of the file\n",
                cell->place);
    }
    report_restore(out, cell, checkpoint_cache_names[1], restore->warm, restore);
}

void checkpoint_report_encoding(struct checkpoint_output *out, const struct checkpoint_case *cell,
                                const struct checkpoint_encoding *encoding) {
    char section[128];
    struct bench_report *report = out->report;
    checkpoint_csv_encodings(&out->csv, cell, encoding);
    unsigned n = encoding->repeats;
    double ratio = encoding->raw_bytes / encoding->bytes;
    double zstd_ratio = encoding->raw_bytes / encoding->zstd_bytes;
    snprintf(section, sizeof section, "%s, %s, encode", cell->place, cell->state);
    bench_report_section(report, section);
    bench_report_figure(report, "speed", "MB/s", 1e-6, encoding->speed, n);
    bench_report_figure(report, "ratio", "", 1.0, &ratio, 1);
    bench_report_figure(report, "zstd alone, speed", "MB/s", 1e-6, encoding->zstd_speed, n);
    bench_report_figure(report, "zstd alone, ratio", "", 1.0, &zstd_ratio, 1);
    bench_report_figure(report, "share of zstd's speed", "", 1.0, encoding->share, n);
    const struct bench_spread ours = bench_clock_spread(encoding->speed, n);
    const struct bench_spread theirs = bench_clock_spread(encoding->zstd_speed, n);
    const struct bench_spread share = bench_clock_spread(encoding->share, n);
    fprintf(out->table,
            "  encode, level %d, %u thread%s: %.0f MB/s (%.0f to %.0f), ratio %.3f; zstd alone, 1 "
            "thread: %.0f MB/s (%.0f to %.0f), ratio %.3f; %.2f times its speed (%.2f to %.2f)\n",
            encoding->level, encoding->threads, encoding->threads == 1 ? "" : "s",
            ours.median * 1e-6, ours.min * 1e-6, ours.max * 1e-6, ratio, theirs.median * 1e-6,
            theirs.min * 1e-6, theirs.max * 1e-6, zstd_ratio, share.median, share.min, share.max);
}

void checkpoint_report_kills(struct checkpoint_output *out, const char *place, const char *state,
                             const struct checkpoint_kills *kills) {
    char section[128], every[24];
    struct bench_report *report = out->report;
    double mean = checkpoint_kills_mean(kills), most = checkpoint_kills_most(kills);
    double steps = (double)kills->interval_steps;
    snprintf(section, sizeof section, "%s, kill, %s, every %s", place,
             checkpoint_mode_name(kills->mode), checkpoint_steps_name(kills->interval, every));
    bench_report_section(report, section);
    bench_report_figure(report, "steps lost", "", 1.0, kills->lost, kills->count);
    bench_report_figure(report, "steps lost, mean", "", 1.0, &mean, 1);
    bench_report_figure(report, "steps lost, max", "", 1.0, &most, 1);
    bench_report_figure(report, "steps between saves", "", 1.0, &steps, 1);
    bench_report_figure(report, "steps made", "", 1.0, kills->made, kills->count);
    bench_report_figure(report, "lived", "ms", 1e3, kills->lived, kills->count);
    bench_report_figure(report, "interval", "ms", 1e3, &kills->interval_seconds, 1);
    bench_report_figure(report, "durable", "ms", 1e3, &kills->durable_seconds, 1);
    checkpoint_csv_kills(&out->csv, place, state, kills);
    char after[48];
    const struct bench_spread lived = bench_clock_spread(kills->lived, kills->count);
    snprintf(after, sizeof after, "%.2f to %.2f", lived.min, lived.max);
    fprintf(out->table, "  %5s %-11s %10.1f %10.0f %10llu %8u %16s %10.1f %10.1f\n", every,
            checkpoint_mode_name(kills->mode), mean, most,
            (unsigned long long)kills->interval_steps, kills->count, after,
            kills->interval_seconds * 1e3, kills->durable_seconds * 1e3);
}
