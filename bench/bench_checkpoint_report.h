/* bench_checkpoint_report.h - the results of `cairn bench checkpoint`: table, JSON, CSV, pictures.
 *
 * CSV: storage,state,mode,interval,repeat, a field for every checkpoint_columns entry ("stall p99"
 * in us is stall_p99_us), then restore_cold_find_ms to restore_warm_whole_ms, encode_..., and
 * steps_lost_mean and steps_lost_max. A line for every repeat of every cell; of every restore and
 * encoding (their mode is "restore" and "encode", without an interval); and one for the trainers
 * killed in a mode ("kill async+zstd", without a repeat). Fields are empty where a line has no such
 * figure, and for a p99 of fewer than 100 calls.
 *
 * JSON: bench_report.h; sections "dir, real, async+zstd, every 10", "dir, real, restore, cold",
 * "dir, real, encode" and "dir, kill, async+zstd"; a figure that a repeat lacks is null; the fact
 * "dir, kill" says which trainers were killed; facts "left out: tmpfs, 330 MB" and "left out:
 * tmpfs, kill" say why, the fact "incomplete" what ended the benchmark early.
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

/* All cells of one trainee in one place. */
struct checkpoint_case {
    const char *place;
    char state[32]; /* "real", "330 MB" */
    uint64_t intervals[CHECKPOINT_LIST_MAX];
    size_t interval_count;
    uint64_t epoch_steps; /* what an interval of 0 stands for */
    unsigned repeats;
    bool modes[CHECKPOINT_MODES];
    struct checkpoint_round rounds[CHECKPOINT_LIST_MAX][CHECKPOINT_MODES][BENCH_REPEATS_MAX];
};

/* "10", or "epoch" of 0, into `out`. Returns it. */
char *checkpoint_steps_name(uint64_t steps, char out[24]);
char *checkpoint_interval_name(const struct checkpoint_case *cell, size_t interval, char out[24]);

/* Median and range over the repeats of one figure. */
struct bench_spread checkpoint_spread(const struct checkpoint_case *cell, size_t interval,
                                      enum checkpoint_mode mode, size_t offset, double scale);

/* Open --csv, if asked for, and write its first line. STATUS_OUTPUT. *out is NULL without. */
MUST_USE enum status checkpoint_csv_open(const struct options *options, FILE **out,
                                         struct error *err);

/* `csv` may be NULL here and below. */
void checkpoint_report_case(const struct checkpoint_case *cell, struct bench_report *report,
                            FILE *csv, FILE *table);
void checkpoint_report_restore(const struct checkpoint_case *cell,
                               const struct checkpoint_restore *restore,
                               struct bench_report *report, FILE *csv, FILE *table);
void checkpoint_report_encoding(const struct checkpoint_case *cell,
                                const struct checkpoint_encoding *encoding,
                                struct bench_report *report, FILE *csv, FILE *table);
/* `state`: as checkpoint_case has it. */
void checkpoint_report_kills(const char *place, const char *state,
                             const struct checkpoint_kills *kills, struct bench_report *report,
                             FILE *csv, FILE *table);

/* ---- pictures -------------------------------------------------------------------------------- */

/* Is there a loss of throughput at two intervals or more to draw? */
bool checkpoint_picture_shows(const struct checkpoint_case *cell);

/* Throughput lost against the interval, a line for each mode, with characters; or nothing. */
void checkpoint_picture_print(const struct checkpoint_case *cell, FILE *out);

/* The same of `cases` [count], all of which have something to show, as a PNG by gnuplot. *drawn is
 * false, with STATUS_OK, when there is no gnuplot. STATUS_IO when it fails, STATUS_OUTPUT when the
 * file cannot be written. */
MUST_USE enum status checkpoint_picture_draw(const struct checkpoint_case *const *cases,
                                             size_t count, const char *path, bool *drawn,
                                             struct error *err);

#ifdef __cplusplus
}
#endif
#endif
