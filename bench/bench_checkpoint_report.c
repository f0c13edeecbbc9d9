#include "bench/bench_checkpoint_report.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <string.h>

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

static double value_at(const struct checkpoint_round *round, size_t offset) {
    double value;
    memcpy(&value, (const char *)round + offset, sizeof value);
    return value;
}

static void list_samples(const struct checkpoint_case *cell, size_t interval,
                         enum checkpoint_mode mode, size_t offset, double scale,
                         double samples[BENCH_REPEATS_MAX]) {
    for (unsigned i = 0; i < cell->repeats; i++) {
        samples[i] = value_at(&cell->rounds[interval][mode][i], offset) * scale;
    }
}

struct bench_spread checkpoint_spread(const struct checkpoint_case *cell, size_t interval,
                                      enum checkpoint_mode mode, size_t offset, double scale) {
    double samples[BENCH_REPEATS_MAX];
    list_samples(cell, interval, mode, offset, scale, samples);
    for (unsigned i = 0; i < cell->repeats; i++) {
        if (isnan(samples[i])) {
            return (struct bench_spread){(double)NAN, (double)NAN, (double)NAN};
        }
    }
    return bench_clock_spread(samples, cell->repeats);
}

/* Does the figure mean anything in this mode? */
static bool applies(const struct checkpoint_column *column, enum checkpoint_mode mode) {
    if (mode == CHECKPOINT_COPY) {
        return !column->of_saves;
    }
    return mode != CHECKPOINT_OFF || !(column->of_saves || column->of_calls);
}

/* ---- CSV ------------------------------------------------------------------------------------- */

/* Behind the columns of the saves come those of what is measured once of a state, or of a place. */
enum {
    CACHES = 2,
    RESTORE_FIELDS = CACHES * CHECKPOINT_RESTORE_PARTS,
    ENCODE_FIELDS = 4,
    KILL_FIELDS = 2
};
static const char *const cache_names[CACHES] = {"cold", "warm"};

/* "stall_p99_us" of {"stall p99", "us"}. */
static void print_column_name(FILE *csv, const struct checkpoint_column *column) {
    const char *unit = strcmp(column->unit, "%") == 0 ? "percent" : column->unit;
    fprintf(csv, ",");
    for (const char *at = column->name; *at != '\0'; at++) {
        fputc(*at == ' ' ? '_' : *at, csv);
    }
    if (unit[0] != '\0') {
        fprintf(csv, "_%s", strcmp(unit, "MB/s") == 0 ? "MB_per_s" : unit);
    }
}

enum status checkpoint_csv_open(const struct options *options, FILE **out, struct error *err) {
    *out = NULL;
    if (options->csv[0] == '\0') {
        return STATUS_OK;
    }
    *out = fopen(options->csv, "w");
    CHECK(*out != NULL, err, STATUS_OUTPUT, "--csv %s cannot be written: %s", options->csv,
          strerror(errno));
    fprintf(*out, "storage,state,mode,interval,repeat");
    for (size_t i = 0; i < checkpoint_column_count; i++) {
        print_column_name(*out, &checkpoint_columns[i]);
    }
    for (int cache = 0; cache < CACHES; cache++) {
        for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
            fprintf(*out, ",restore_%s_%s_ms", cache_names[cache],
                    checkpoint_restore_part_name(part));
        }
    }
    fprintf(*out, ",encode_MB_per_s,encode_ratio,zstd_alone_MB_per_s,zstd_alone_ratio");
    fprintf(*out, ",steps_lost_mean,steps_lost_max\n");
    return STATUS_OK;
}

static void skip_fields(size_t count, FILE *csv) {
    while (count-- > 0) {
        fputc(',', csv);
    }
}

static void write_lines(const struct checkpoint_case *cell, size_t interval,
                        enum checkpoint_mode mode, FILE *csv) {
    char every[24];
    for (unsigned repeat = 0; repeat < cell->repeats; repeat++) {
        fprintf(csv, "%s,%s,%s,%s,%u", cell->place, cell->state, checkpoint_mode_name(mode),
                checkpoint_interval_name(cell, interval, every), repeat + 1);
        for (size_t i = 0; i < checkpoint_column_count; i++) {
            const struct checkpoint_column *column = &checkpoint_columns[i];
            double value = checkpoint_column_value(column, &cell->rounds[interval][mode][repeat]);
            fprintf(csv, ",");
            if (applies(column, mode) && !isnan(value)) {
                fprintf(csv, "%.10g", value);
            }
        }
        skip_fields(RESTORE_FIELDS + ENCODE_FIELDS + KILL_FIELDS, csv);
        fprintf(csv, "\n");
    }
}

static void write_restores(const struct checkpoint_case *cell,
                           const struct checkpoint_restore *restore, FILE *csv) {
    for (unsigned repeat = 0; repeat < restore->repeats; repeat++) {
        fprintf(csv, "%s,%s,restore,,%u", cell->place, cell->state, repeat + 1);
        skip_fields(checkpoint_column_count, csv);
        for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
            fputc(',', csv);
            if (restore->cold_possible) {
                fprintf(csv, "%.10g", restore->cold[part][repeat] * 1e3);
            }
        }
        for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
            fprintf(csv, ",%.10g", restore->warm[part][repeat] * 1e3);
        }
        skip_fields(ENCODE_FIELDS + KILL_FIELDS, csv);
        fprintf(csv, "\n");
    }
}

static void write_encodings(const struct checkpoint_case *cell,
                            const struct checkpoint_encoding *encoding, FILE *csv) {
    for (unsigned repeat = 0; repeat < encoding->repeats; repeat++) {
        fprintf(csv, "%s,%s,encode,,%u", cell->place, cell->state, repeat + 1);
        skip_fields(checkpoint_column_count + RESTORE_FIELDS, csv);
        fprintf(csv, ",%.10g,%.10g,%.10g,%.10g", encoding->speed[repeat] * 1e-6,
                encoding->raw_bytes / encoding->bytes, encoding->zstd_speed[repeat] * 1e-6,
                encoding->raw_bytes / encoding->zstd_bytes);
        skip_fields(KILL_FIELDS, csv);
        fprintf(csv, "\n");
    }
}

static void write_kills(const char *place, const char *state, const char *every,
                        const struct checkpoint_kills *kills, FILE *csv) {
    fprintf(csv, "%s,%s,kill %s,%s,", place, state, checkpoint_mode_name(kills->mode), every);
    skip_fields(checkpoint_column_count + RESTORE_FIELDS + ENCODE_FIELDS, csv);
    fprintf(csv, ",%.10g,%.10g\n", kills->lost_mean, kills->lost_max);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void add_figures(const struct checkpoint_case *cell, size_t interval,
                        enum checkpoint_mode mode, struct bench_report *report) {
    char section[128], every[24];
    snprintf(section, sizeof section, "%s, %s, %s, every %s", cell->place, cell->state,
             checkpoint_mode_name(mode), checkpoint_interval_name(cell, interval, every));
    bench_report_section(report, section);
    for (size_t i = 0; i < checkpoint_column_count; i++) {
        const struct checkpoint_column *column = &checkpoint_columns[i];
        double samples[BENCH_REPEATS_MAX];
        if (!applies(column, mode)) {
            continue;
        }
        bool lacks = isnan(checkpoint_spread(cell, interval, mode, column->offset, 1).median);
        for (unsigned repeat = 0; repeat < cell->repeats; repeat++) {
            const struct checkpoint_round *round = &cell->rounds[interval][mode][repeat];
            samples[repeat] = lacks ? (double)NAN : checkpoint_column_value(column, round);
        }
        bench_report_figure(report, column->name, column->unit, 1.0, samples, cell->repeats);
    }
}

/* ---- the table ------------------------------------------------------------------------------- */

/* Right-aligned in 9 characters after a blank; "-" where a repeat lacks the figure. */
static void print_stall(double microseconds, FILE *table) {
    if (isnan(microseconds)) {
        fprintf(table, " %9s", "-");
    } else {
        fprintf(table, " %9.0f", microseconds);
    }
}

#define MEDIAN(field, scale)                                                                       \
    checkpoint_spread(cell, interval, mode, offsetof(struct checkpoint_round, field), scale).median

static void print_stalls(const struct checkpoint_case *cell, size_t interval,
                         enum checkpoint_mode mode, FILE *table) {
    char every[24];
    double losses[BENCH_REPEATS_MAX];
    list_samples(cell, interval, mode, offsetof(struct checkpoint_round, lost), 100, losses);
    const struct bench_spread lost = bench_clock_spread(losses, cell->repeats);
    const struct bench_interval likely = bench_clock_confidence(losses, cell->repeats);
    fprintf(table, "  %5s %-11s %9.3f", checkpoint_interval_name(cell, interval, every),
            checkpoint_mode_name(mode), MEDIAN(step_seconds, 1e3));
    if (mode == CHECKPOINT_OFF) {
        fprintf(table, "\n");
        return;
    }
    if (isnan(lost.median)) {
        fprintf(table, " %26s", "-");
    } else {
        fprintf(table, " %7.2f (%6.2f to %6.2f)", lost.median, lost.min, lost.max);
    }
    if (isnan(likely.low)) {
        fprintf(table, " %15s", "-");
    } else {
        fprintf(table, " %5.2f to %6.2f", likely.low, likely.high);
    }
    print_stall(MEDIAN(stall_p50, 1e6), table);
    print_stall(MEDIAN(stall_p99, 1e6), table);
    print_stall(MEDIAN(stall_max, 1e6), table);
    print_stall(MEDIAN(cpu_p99, 1e6), table);
    if (checkpoint_mode_saves(mode)) {
        /* Of an even number of repeats it may be a half; they add up to what was asked. */
        fprintf(table, " %6.6g %6.6g %6.6g %6.6g", MEDIAN(asked, 1), MEDIAN(done, 1),
                MEDIAN(skipped, 1), MEDIAN(delayed, 1));
    }
    fprintf(table, "\n");
}

static void print_durable(const struct checkpoint_case *cell, size_t interval,
                          enum checkpoint_mode mode, FILE *table) {
    char every[24];
    fprintf(table,
            "  %5s %-11s %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %6.3f %8.0f\n",
            checkpoint_interval_name(cell, interval, every), checkpoint_mode_name(mode),
            MEDIAN(durable_p50, 1e3), MEDIAN(durable_max, 1e3), MEDIAN(queued, 1e3),
            MEDIAN(snapshot, 1e3), MEDIAN(compress, 1e3), MEDIAN(write, 1e3), MEDIAN(fsync, 1e3),
            MEDIAN(rename, 1e3), MEDIAN(retain, 1e3), MEDIAN(writer_cpu, 1e3), MEDIAN(ratio, 1),
            MEDIAN(writer_speed, 1e-6));
}

static void print_memory(const struct checkpoint_case *cell, FILE *table) {
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        size_t interval = 0;
        if (cell->modes[mode] && checkpoint_mode_saves(mode)) {
            fprintf(table,
                    "  memory, %s: pinned %.2f MB, device %.2f MB; the process grew by %.2f MB; "
                    "a file has %.0f bytes of %.0f\n",
                    checkpoint_mode_name(mode), MEDIAN(pinned_bytes, 1e-6),
                    MEDIAN(device_bytes, 1e-6), MEDIAN(resident_bytes, 1e-6), MEDIAN(bytes, 1),
                    MEDIAN(raw_bytes, 1));
        }
    }
}

/* Of each cell in the order of intervals and modes. */
typedef void (*cell_printer)(const struct checkpoint_case *cell, size_t interval,
                             enum checkpoint_mode mode, FILE *table);

static void print_cells(const struct checkpoint_case *cell, bool saves_only, cell_printer print,
                        FILE *table) {
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
            if (cell->modes[mode] && (!saves_only || checkpoint_mode_saves(mode))) {
                print(cell, interval, mode, table);
            }
        }
    }
}

void checkpoint_report_case(const struct checkpoint_case *cell, struct bench_report *report,
                            FILE *csv, FILE *table) {
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
            if (!cell->modes[mode]) {
                continue;
            }
            add_figures(cell, interval, mode, report);
            if (csv != NULL) {
                write_lines(cell, interval, mode, csv);
            }
        }
    }
    fprintf(table, "\n%s, %s state: medians of %u repeats; stalls are of one save\n", cell->place,
            cell->state, cell->repeats);
    fprintf(table, "  %5s %-11s %9s %26s %15s %9s %9s %9s %9s %6s %6s %6s %6s\n", "every", "mode",
            "step ms", "throughput lost %", "95 % of median", "stall p50", "p99", "max us",
            "cpu p99", "asked", "done", "skip", "delay");
    print_cells(cell, false, print_stalls, table);
    fprintf(table,
            "\n  %5s %-11s %8s %8s %8s %8s %8s %8s %8s %8s %8s %8s %6s %8s   (ms; MB/s of "
            "compressing)\n",
            "every", "mode", "durable", "max", "queued", "snapshot", "compress", "write", "fsync",
            "rename", "retain", "cpu", "ratio", "MB/s");
    print_cells(cell, true, print_durable, table);
    print_memory(cell, table);
}

/* ---- restore and kills ----------------------------------------------------------------------- */

static void report_restore(const struct checkpoint_case *cell, const char *cache,
                           const double samples[CHECKPOINT_RESTORE_PARTS][BENCH_REPEATS_MAX],
                           unsigned repeats, double bytes, struct bench_report *report,
                           FILE *table) {
    char section[128];
    snprintf(section, sizeof section, "%s, %s, restore, %s", cell->place, cell->state, cache);
    bench_report_section(report, section);
    fprintf(table, "  restore, %s page cache, ms:", cache);
    double whole = 0;
    for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
        const char *name = checkpoint_restore_part_name(part);
        bench_report_figure(report, name, "ms", 1e3, samples[part], repeats);
        whole = bench_clock_spread(samples[part], repeats).median;
        fprintf(table, "%s %s %.2f", part == 0 ? "" : ",", name, whole * 1e3);
    }
    fprintf(table, " (%.0f MB/s)\n", bytes * 1e-6 / whole);
}

void checkpoint_report_restore(const struct checkpoint_case *cell,
                               const struct checkpoint_restore *restore,
                               struct bench_report *report, FILE *csv, FILE *table) {
    if (csv != NULL) {
        write_restores(cell, restore, csv);
    }
    if (restore->cold_possible) {
        report_restore(cell, cache_names[0], restore->cold, restore->repeats, restore->bytes,
                       report, table);
    } else {
        fprintf(table, "  restore, cold: the page cache of %s does not let go of the file\n",
                cell->place);
    }
    report_restore(cell, cache_names[1], restore->warm, restore->repeats, restore->bytes, report,
                   table);
}

void checkpoint_report_encoding(const struct checkpoint_case *cell,
                                const struct checkpoint_encoding *encoding,
                                struct bench_report *report, FILE *csv, FILE *table) {
    char section[128];
    if (csv != NULL) {
        write_encodings(cell, encoding, csv);
    }
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
    fprintf(table,
            "  encode, level %d, %u thread%s: %.0f MB/s (%.0f to %.0f), ratio %.3f; zstd alone, 1 "
            "thread: %.0f MB/s (%.0f to %.0f), ratio %.3f; %.2f times its speed (%.2f to %.2f)\n",
            encoding->level, encoding->threads, encoding->threads == 1 ? "" : "s",
            ours.median * 1e-6, ours.min * 1e-6, ours.max * 1e-6, ratio, theirs.median * 1e-6,
            theirs.min * 1e-6, theirs.max * 1e-6, zstd_ratio, share.median, share.min, share.max);
}

void checkpoint_report_kills(const char *place, const char *state,
                             const struct checkpoint_kills *kills, struct bench_report *report,
                             FILE *csv, FILE *table) {
    char section[128], every[24];
    checkpoint_steps_name(kills->interval, every);
    unsigned count = kills->count > BENCH_REPEATS_MAX ? BENCH_REPEATS_MAX : (unsigned)kills->count;
    snprintf(section, sizeof section, "%s, kill, %s", place, checkpoint_mode_name(kills->mode));
    bench_report_section(report, section);
    bench_report_figure(report, "steps lost", "", 1.0, kills->lost, count);
    bench_report_figure(report, "steps lost, mean", "", 1.0, &kills->lost_mean, 1);
    bench_report_figure(report, "steps lost, max", "", 1.0, &kills->lost_max, 1);
    bench_report_figure(report, "steps made, mean", "", 1.0, &kills->steps_mean, 1);
    if (csv != NULL) {
        write_kills(place, state, every, kills, csv);
    }
    fprintf(table, "  %-11s steps lost: mean %.1f, at most %.0f, of %.0f made (mean)\n",
            checkpoint_mode_name(kills->mode), kills->lost_mean, kills->lost_max,
            kills->steps_mean);
}
