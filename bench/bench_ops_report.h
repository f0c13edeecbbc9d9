/* bench_ops_report.h - what `cairn bench ops` measured, as JSON and as a table.
 *
 * JSON: {what bench_json_begin has, "device", "description", "build",
 * "figures_of": "gpu" | "cpu" | "simulated device", "simulated", "repeats", "machine": {...} and
 * "options": {name: text} as in bench_report.h, "length_sets": {name: [lengths]}, "absent":
 * [{...}], "failures": [{...}], "peaks": [{"isa", "threads", "lengths", "unit", "median", "min",
 * "max", "samples"}], "bars": [{"variant", "kernel_path", "threads", "lengths", "hidden",
 * "sequences", "tokens", "gflops", "peak_gflops", "share"}], "entries": [{"section", "op",
 * "variant", "kernel_path", "shape": {...}, "batch": {"lengths", "sequences", "tokens", "longest"},
 * "repeats", "times", "derived", "unit", "median", "min", "max", "samples": [...]}]}. `times`: how
 * often in one sample; `derived`: a difference of measured samples. Entries have "threads" on the
 * CPU, "ns_per_token" and "gflops" where operations are counted (bench_ops_count.h), "peak_share"
 * where the peak of multiply-add was measured beside them. Rates, shares: {"median", "min", "max"};
 * "peak_gflops" is the fastest repeat of the peak.
 *
 * THREADS: the caller's. Memory that runs out on the way shows at ops_report_write.
 */
#ifndef CAIRN_BENCH_BENCH_OPS_REPORT_H
#define CAIRN_BENCH_BENCH_OPS_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "bench/bench_clock.h"
#include "bench/bench_rig.h"
#include "host/options.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ops_report;

/* `be` only names the device. The table goes to `table`, line by line as entries come; `options`
 * name the file of the JSON, "" for none, and must outlive the report; `repeats`: as taken.
 * STATUS_OUTPUT when the file cannot be created, before anything is measured. */
MUST_USE enum status ops_report_create(const struct backend *be, const struct options *options,
                                       unsigned repeats, FILE *table, struct ops_report **out,
                                       struct error *err);
void ops_report_free(struct ops_report *report); /* NULL is fine */

struct ops_entry {
    const char *section, *op, *variant;
    uint32_t threads;            /* 0: not said */
    const char *lengths;         /* what the batch is called: "uniform", "imdb", "window" */
    const struct bench_rig *rig; /* shape, batch and kernel path */
    const double *samples;       /* [repeats] seconds (or counts, where the unit says so) */
    unsigned repeats;
    uint64_t times;   /* 0 for a derived entry */
    const char *unit; /* NULL: us */
    double flops;     /* 0: not counted */
    bool rates;       /* a line of the table of rates, below ops_report_batch */
    double peak;      /* operations a second that the machine can do; 0: not measured */
};
void ops_report_add(struct ops_report *report, const struct ops_entry *entry);

/* Head of a table of rates: shape and batch, once for all its lines. */
void ops_report_batch(struct ops_report *report, const char *section, const char *lengths,
                      const struct bench_rig *rig);

/* The multiply-add peak beside the batch `lengths`: rates [repeats], operations a second. */
void ops_report_peak(struct ops_report *report, const char *isa, uint32_t threads,
                     const char *lengths, const double *rates, unsigned repeats);

/* The figure of the recurrent kernels: `entry` has the time of lstm_forward and lstm_backward, and
 * flops and peak. */
void ops_report_bar(struct ops_report *report, const struct ops_entry *entry);

/* What this build or device does not have: no failure. */
void ops_report_absent(struct ops_report *report, const char *variant, uint32_t hidden,
                       const char *why);
void ops_report_failure(struct ops_report *report, const char *section, const char *why);
void ops_report_lengths(struct ops_report *report, const char *name, const uint32_t *lengths,
                        uint32_t count);

unsigned ops_report_failures(const struct ops_report *report);

/* The JSON, where a file was named. STATUS_IO when it cannot be written, STATUS_MEMORY. */
MUST_USE enum status ops_report_write(struct ops_report *report, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
