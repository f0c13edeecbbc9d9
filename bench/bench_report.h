/* bench_report.h - what a benchmark measured: a table on a stream, and the same figures as JSON.
 *
 * Table: what machine it was, facts, then one line per figure with its median, least and most.
 * JSON: {what bench_json_begin has, "machine": {"processor", "cores", "memory_bytes", "system"},
 * "device": {"name", "description", "kernel_path", "threads"} or null, "options": {name: text},
 * "repeats", "facts": {name: text or number}, "figures": [{"section", "name", "unit", "median",
 * "min", "max", "samples": [...]}]}, with "median_low" and "median_high" where there are six
 * samples or more (bench_clock_confidence). Of a figure of all repeats together median, min and max
 * are one number, and the samples are the repeats' own. A figure is found by section and name,
 * which are unique together. Texts that are not UTF-8 are escaped (bench_json.h).
 *
 * Usage:
 *     struct bench_report *report;
 *     TRY(bench_report_create(options, stdout, &report, err));
 *     bench_report_device(report, be);
 *     bench_report_fact(report, "data", "%llu examples", examples);
 *     bench_report_section(report, "training");
 *     bench_report_figure(report, "epoch", "s", 1.0, seconds, repeats);
 *     status = bench_report_write(report, err);
 *     bench_report_free(report);
 *
 * THREADS: the caller's. Memory that runs out on the way shows at bench_report_write.
 */
#ifndef CAIRN_BENCH_BENCH_REPORT_H
#define CAIRN_BENCH_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "host/base/status.h"
#include "host/options.h"
#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct bench_report;

/* Begin: prints the machine to `table`. `options` name the benchmark (command_name), the file of
 * --json and the repeats, and must outlive the report. STATUS_OUTPUT, before anything is measured,
 * when the file cannot be written. */
MUST_USE enum status bench_report_create(const struct options *options, FILE *table,
                                         struct bench_report **out, struct error *err);

/* What computes, for benchmarks that have --threads; the JSON's "device" is null without. Its
 * "threads" are those of the CPU that compute, null where a GPU does. */
void bench_report_device(struct bench_report *report, const struct backend *be);

/* Something about the run that is no measurement, in words; or a number with its unit ("" = none).
 */
void bench_report_fact(struct bench_report *report, const char *name, const char *format, ...)
    PRINTF_LIKE(3, 4);
void bench_report_number(struct bench_report *report, const char *name, double value,
                         const char *unit);

/* A heading; the figures that follow belong to it. */
void bench_report_section(struct bench_report *report, const char *section);

/* Sections and figures go to the JSON only, where a benchmark prints a table of its own. */
void bench_report_quiet(struct bench_report *report, bool quiet);

/* One figure: `samples` [count], 1 to BENCH_REPEATS_MAX, each multiplied by `scale` (1e3 from
 * seconds to "ms"). */
void bench_report_figure(struct bench_report *report, const char *name, const char *unit,
                         double scale, const double *samples, unsigned count);

/* A figure of all repeats together: its median, least and most are this one number. `samples`
 * [count]: each repeat's own. */
void bench_report_whole(struct bench_report *report, const char *name, const char *unit,
                        double value, const double *samples, unsigned count);

/* Write the file of --json, if one was asked for. STATUS_OUTPUT when it cannot be created,
 * STATUS_IO when writing fails, STATUS_MEMORY. */
MUST_USE enum status bench_report_write(struct bench_report *report, struct error *err);

/* NULL is fine. A file that bench_report_create made and nobody has written is removed. */
void bench_report_free(struct bench_report *report);

#ifdef __cplusplus
}
#endif
#endif
