/* The tables of a state on the terminal: throughput and stalls, time until durable, saves. */
#include <math.h>

#include "bench/bench_checkpoint_report.h"

void checkpoint_table_legend(FILE *table) {
    fprintf(
        table,
        "\n"
        "all    over all saves of all repeats; med: median of the repeats' own values, where each "
        "has 100 saves or more;\n"
        "       where nothing is said: median of the repeats. 95 %%: where the median lies (sign "
        "test, from six repeats on)\n"
        "stall  what training waits for one save, and how much of it is processor time; mode copy "
        "saves nothing, it copies\n"
        "       the state once in memory\n"
        "durable  from the call until the file's name is on the disk. Its mean is the sum of the "
        "means behind it: call, the\n"
        "       trainer's own part; queued, until the writer takes it up; snapshot, the writer's "
        "copying; compress; write;\n"
        "       fsync of the file; rename, with the fsync of the directory. retain comes after "
        "it: the state file, and\n"
        "       what is deleted\n");
}

/* ---- cells ----------------------------------------------------------------------------------- */

/* A cell, and what its repeats together show. */
struct row {
    const struct checkpoint_case *cell;
    size_t interval;
    enum checkpoint_mode mode;
    struct checkpoint_round whole;
    FILE *table;
};

/* Right-aligned after a blank; "-" where there is none. */
static void print_value(const struct row *row, double value, int decimals) {
    if (isnan(value)) {
        fprintf(row->table, " %8s", "-");
    } else {
        fprintf(row->table, " %8.*f", decimals, value);
    }
}

static void print_names(const struct row *row) {
    char every[24];
    fprintf(row->table, "  %5s %-11s", checkpoint_interval_name(row->cell, row->interval, every),
            checkpoint_mode_name(row->mode));
}

static struct bench_spread spread_of(const struct row *row, size_t offset, double scale) {
    return checkpoint_cell_spread(row->cell, row->interval, row->mode, offset, scale);
}

#define MEDIAN(field, scale) spread_of(row, offsetof(struct checkpoint_round, field), scale).median

/* ---- throughput and stalls ------------------------------------------------------------------- */

static void print_stalls_head(FILE *table) {
    fprintf(table, "  %5s %-11s %8s %25s %16s %8s %8s %8s %8s %8s %8s\n", "every", "mode", "step",
            "throughput lost", "95 % of median", "stall", "p99", "p99", "max", "cpu p99",
            "cpu p99");
    fprintf(table, "  %5s %-11s %8s %25s %16s %8s %8s %8s %8s %8s %8s\n", "steps", "", "ms",
            "% (least to most)", "%", "p50, us", "all, us", "med, us", "all, us", "all, us",
            "med, us");
}

static void print_stalls(const struct row *row) {
    double losses[BENCH_REPEATS_MAX];
    print_names(row);
    print_value(row, MEDIAN(step_seconds, 1e3), 3);
    if (row->mode == CHECKPOINT_OFF) {
        fprintf(row->table, "\n");
        return;
    }
    checkpoint_cell_samples(row->cell, row->interval, row->mode,
                            offsetof(struct checkpoint_round, lost), 100, losses);
    const struct bench_spread lost = bench_clock_spread(losses, row->cell->repeats);
    const struct bench_interval likely = bench_clock_confidence(losses, row->cell->repeats);
    if (isnan(lost.median)) {
        fprintf(row->table, " %25s", "-");
    } else {
        fprintf(row->table, " %6.2f (%6.2f to %6.2f)", lost.median, lost.min, lost.max);
    }
    if (isnan(likely.low)) {
        fprintf(row->table, " %16s", "-");
    } else {
        fprintf(row->table, " %6.2f to %6.2f", likely.low, likely.high);
    }
    print_value(row, MEDIAN(stall_p50, 1e6), 0);
    print_value(row, row->whole.stall_p99 * 1e6, 0);
    print_value(row, MEDIAN(stall_p99, 1e6), 0);
    print_value(row, row->whole.stall_max * 1e6, 0);
    print_value(row, row->whole.cpu_p99 * 1e6, 0);
    print_value(row, MEDIAN(cpu_p99, 1e6), 0);
    fprintf(row->table, "\n");
}

/* ---- until durable --------------------------------------------------------------------------- */

static void print_durable_head(FILE *table) {
    fprintf(table, "\n  %5s %-11s %8s %8s %8s %8s %8s %8s %8s %8s %8s %8s %8s\n", "every", "mode",
            "durable", "max", "mean", "= call", "+ queued", "+ snap", "+ compr.", "+ write",
            "+ fsync", "+ rename", "(retain)");
    fprintf(table, "  %5s %-11s %8s %8s %8s %8s %8s %8s %8s %8s %8s %8s %8s\n", "steps", "",
            "p50, ms", "all, ms", "all, ms", "ms", "ms", "ms", "ms", "ms", "ms", "ms", "ms");
}

static void print_durable(const struct row *row) {
    const struct checkpoint_round *whole = &row->whole;
    const double parts[] = {whole->durable_max, whole->durable_mean, whole->call,  whole->queued,
                            whole->snapshot,    whole->compress,     whole->write, whole->fsync,
                            whole->rename,      whole->retain};
    print_names(row);
    print_value(row, MEDIAN(durable_p50, 1e3), 2);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        print_value(row, parts[i] * 1e3, 2);
    }
    fprintf(row->table, "\n");
}

/* ---- saves ----------------------------------------------------------------------------------- */

static void print_saves_head(FILE *table) {
    fprintf(table, "\n  %5s %-11s %7s %7s %6s %7s %7s %8s %8s %8s %8s %8s %8s %8s %8s\n", "every",
            "mode", "asked", "done", "done", "skipped", "delayed", "writer", "compress", "ratio",
            "file", "tensors", "pinned", "device", "grown");
    fprintf(table, "  %5s %-11s %7s %7s %6s %7s %7s %8s %8s %8s %8s %8s %8s %8s %8s\n", "steps", "",
            "saves", "saves", "%", "saves", "saves", "cpu, ms", "MB/s", "", "MB", "MB", "MB", "MB",
            "MB");
}

static void print_saves(const struct row *row) {
    print_names(row);
    /* Of an even number of repeats it may be a half; they add up to what was asked. */
    fprintf(row->table, " %7.6g %7.6g %6.1f %7.6g %7.6g", MEDIAN(asked, 1), MEDIAN(done, 1),
            MEDIAN(share_done, 100), MEDIAN(skipped, 1), MEDIAN(delayed, 1));
    print_value(row, MEDIAN(writer_cpu, 1e3), 2);
    print_value(row, MEDIAN(writer_speed, 1e-6), 0);
    print_value(row, MEDIAN(ratio, 1), 3);
    print_value(row, MEDIAN(bytes, 1e-6), 3);
    print_value(row, MEDIAN(raw_bytes, 1e-6), 3);
    print_value(row, MEDIAN(pinned_bytes, 1e-6), 2);
    print_value(row, MEDIAN(device_bytes, 1e-6), 2);
    print_value(row, MEDIAN(resident_bytes, 1e-6), 2);
    fprintf(row->table, "\n");
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* A line for each cell in the order of intervals and modes. */
static enum status print_rows(const struct checkpoint_case *cell, bool saves_only,
                              void (*print)(const struct row *row), FILE *table,
                              struct error *err) {
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
            struct row row = {.cell = cell, .interval = interval, .mode = mode, .table = table};
            if (cell->modes[mode] && (!saves_only || checkpoint_mode_saves(mode))) {
                TRY(checkpoint_cell_whole(cell, interval, mode, &row.whole, err));
                print(&row);
            }
        }
    }
    return STATUS_OK;
}

static bool has_saves(const struct checkpoint_case *cell) {
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        if (cell->modes[mode] && checkpoint_mode_saves(mode)) {
            return true;
        }
    }
    return false;
}

enum status checkpoint_table_print(const struct checkpoint_case *cell, FILE *table,
                                   struct error *err) {
    fprintf(table, "\n%s, %s state: %u repeat%s\n", cell->place, cell->state, cell->repeats,
            cell->repeats == 1 ? "" : "s");
    print_stalls_head(table);
    TRY(print_rows(cell, false, print_stalls, table, err));
    if (!has_saves(cell)) {
        return STATUS_OK;
    }
    print_durable_head(table);
    TRY(print_rows(cell, true, print_durable, table, err));
    print_saves_head(table);
    return print_rows(cell, true, print_saves, table, err);
}
