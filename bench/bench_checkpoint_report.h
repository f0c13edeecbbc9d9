/* bench_checkpoint_report.h - the results of `cairn bench checkpoint`: table, JSON, CSV, pictures.
 *
 * --csv: kind,storage,state,mode,interval,repeat, a field for every checkpoint_columns entry
 * ("stall p99" in us is stall_p99_us), then restore_cold_find_ms to restore_warm_whole_ms,
 * encode_..., and those of kills. A line of each `kind`:
 *     repeat       one repeat of a cell
 *     all repeats  a cell: its stalls and saves of all repeats together (checkpoint_cell_whole)
 *     restore      one repeat of a state's restores, without mode and interval; encode: likewise
 *     kill         one killed trainer: steps_lost, steps_made, lived_ms; `repeat` counts them
 *     all kills    those of a mode: steps_lost_mean, steps_lost_max, their interval_steps
 * Fields are empty where a line has no such figure, and for a p99 of fewer than 100 stalls.
 * --stalls: storage,state,mode,interval,repeat,stall_us,stall_cpu_us, a line for every stall.
 *
 * JSON: bench_report.h; sections "dir, real, async+zstd, every 10", "dir, real, restore, cold",
 * "dir, real, encode" and "dir, kill, async+zstd, every 10"; a figure that a repeat lacks is null.
 * Of all repeats together (bench_report_whole) are "stall max", "stall cpu max", "durable max",
 * "stall p99 of all" and "stall cpu p99 of all"; "stall p99" is each repeat's own. Facts "dir,
 * kill" say which trainers were killed; "left out: tmpfs, 330 MB" and "left out: tmpfs, kill" say
 * why, the fact "incomplete" what ended the benchmark early.
 *
 * THREADS: the main thread.
 */
#ifndef CAIRN_BENCH_BENCH_CHECKPOINT_REPORT_H
#define CAIRN_BENCH_BENCH_CHECKPOINT_REPORT_H

#include <stdio.h>

#include "bench/bench_checkpoint.h"
#include "bench/bench_report.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- cells ----------------------------------------------------------------------------------- */

/* All cells of one trainee in one place. */
struct checkpoint_case {
    const char *place;
    bool in_memory;
    char state[32]; /* "real", "330 MB" */
    uint64_t intervals[CHECKPOINT_LIST_MAX];
    size_t interval_count;
    uint64_t epoch_steps; /* what an interval of 0 stands for */
    unsigned repeats;
    bool modes[CHECKPOINT_MODES];
    struct checkpoint_round rounds[CHECKPOINT_LIST_MAX][CHECKPOINT_MODES][BENCH_REPEATS_MAX];
    struct checkpoint_stalls stalls[CHECKPOINT_LIST_MAX][CHECKPOINT_MODES];
};

void checkpoint_case_free(struct checkpoint_case *cell); /* NULL is fine */

struct checkpoint_column {
    const char *name, *unit; /* in the JSON; "name_unit" in the CSV */
    size_t offset;           /* of a double in struct checkpoint_round */
    double scale;
    bool of_saves; /* means something only where saves were made */
    bool of_calls; /* means something for `copy` too */
    bool most;     /* what counts is the largest of all repeats; they are only samples of it */
};

extern const struct checkpoint_column checkpoint_columns[];
extern const size_t checkpoint_column_count;

double checkpoint_column_value(const struct checkpoint_column *column,
                               const struct checkpoint_round *round);
/* Does the figure mean anything in this mode? */
bool checkpoint_column_applies(const struct checkpoint_column *column, enum checkpoint_mode mode);

/* "10", or "epoch" of 0, into `out`. Returns it. */
char *checkpoint_steps_name(uint64_t steps, char out[24]);
char *checkpoint_interval_name(const struct checkpoint_case *cell, size_t interval, char out[24]);

/* One figure of every repeat. */
void checkpoint_cell_samples(const struct checkpoint_case *cell, size_t interval,
                             enum checkpoint_mode mode, size_t offset, double scale,
                             double samples[BENCH_REPEATS_MAX]);
/* Its median and range over the repeats; NaN when one of them lacks it. */
struct bench_spread checkpoint_cell_spread(const struct checkpoint_case *cell, size_t interval,
                                           enum checkpoint_mode mode, size_t offset, double scale);

/* All repeats as one: percentiles and largest of all stalls, sums of saves, means over all that
 * became durable; NaN in what only repeats have. STATUS_MEMORY. */
MUST_USE enum status checkpoint_cell_whole(const struct checkpoint_case *cell, size_t interval,
                                           enum checkpoint_mode mode, struct checkpoint_round *out,
                                           struct error *err);

/* ---- CSV ------------------------------------------------------------------------------------- */

enum { CHECKPOINT_CACHES = 2 };
extern const char *const checkpoint_cache_names[CHECKPOINT_CACHES]; /* "cold", "warm" */

struct checkpoint_csv {
    FILE *lines, *stalls; /* NULL: not asked for */
};

/* Could --csv and --stalls be written, where asked for? What is in them stays. STATUS_OUTPUT. */
MUST_USE enum status checkpoint_csv_try(const struct options *options, struct error *err);
/* Open them, and write their first lines. STATUS_OUTPUT. */
MUST_USE enum status checkpoint_csv_open(const struct options *options, struct checkpoint_csv *out,
                                         struct error *err);
/* Closed twice is fine. STATUS_IO when something could not be written. */
MUST_USE enum status checkpoint_csv_close(struct checkpoint_csv *csv, const struct options *options,
                                          struct error *err);
/* `whole`: of checkpoint_cell_whole, or NULL for a mode without stalls. */
void checkpoint_csv_cell(struct checkpoint_csv *csv, const struct checkpoint_case *cell,
                         size_t interval, enum checkpoint_mode mode,
                         const struct checkpoint_round *whole);
void checkpoint_csv_restores(struct checkpoint_csv *csv, const struct checkpoint_case *cell,
                             const struct checkpoint_restore *restore);
void checkpoint_csv_encodings(struct checkpoint_csv *csv, const struct checkpoint_case *cell,
                              const struct checkpoint_encoding *encoding);
/* `state`: as checkpoint_case has it. */
void checkpoint_csv_kills(struct checkpoint_csv *csv, const char *place, const char *state,
                          const struct checkpoint_kills *kills);

/* ---- the table ------------------------------------------------------------------------------- */

/* What the columns mean, once above all tables. */
void checkpoint_table_legend(FILE *table);
/* The tables of a state. STATUS_MEMORY. */
MUST_USE enum status checkpoint_table_print(const struct checkpoint_case *cell, FILE *table,
                                            struct error *err);

/* ---- the report ------------------------------------------------------------------------------ */

/* Where results go. */
struct checkpoint_output {
    struct bench_report *report;
    struct checkpoint_csv csv;
    FILE *table;
};

/* STATUS_MEMORY. */
MUST_USE enum status checkpoint_report_case(struct checkpoint_output *out,
                                            const struct checkpoint_case *cell, struct error *err);
void checkpoint_report_restore(struct checkpoint_output *out, const struct checkpoint_case *cell,
                               const struct checkpoint_restore *restore);
void checkpoint_report_encoding(struct checkpoint_output *out, const struct checkpoint_case *cell,
                                const struct checkpoint_encoding *encoding);
/* `state`: as checkpoint_case has it. */
void checkpoint_report_kills(struct checkpoint_output *out, const char *place, const char *state,
                             const struct checkpoint_kills *kills);

/* ---- pictures -------------------------------------------------------------------------------- */

/* Is there a loss of throughput by saving, at two intervals or more, to draw? */
bool checkpoint_picture_shows(const struct checkpoint_case *cell);

/* Throughput lost against the interval, a line for each mode, with characters; or nothing. */
void checkpoint_picture_print(const struct checkpoint_case *cell, FILE *out);

/* The same of `cases` [count], all of which have something to show, as the PNG --plot by gnuplot.
 * *drawn is false, with STATUS_OK, when there is no gnuplot. STATUS_IO when it fails, STATUS_OUTPUT
 * when the file cannot be written. */
MUST_USE enum status checkpoint_picture_draw(const struct checkpoint_case *const *cases,
                                             size_t count, const struct checkpoint_plan *plan,
                                             bool *drawn, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
