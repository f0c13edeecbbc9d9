/* gpu_ops_report.h - what gpu_ops measured, as JSON and as a table.
 *
 * JSON: {"program", "format", "device", "description", "build", "figures_of": "gpu" | "cpu" |
 * "simulated device", "simulated", "repeats", "length_sets": {name: [lengths]}, "absent": [{...}],
 * "failures": [{...}], "entries": [{"section", "op", "variant", "kernel_path", "shape": {...},
 * "batch": {"lengths", "sequences", "tokens", "longest"}, "repeats", "times", "derived", "unit",
 * "median", "min", "max"}]}. `times`: how often in one sample; `derived`: a difference of measured
 * samples.
 *
 * THREADS: the caller's. Out of memory ends the program with a message: there is nothing to save.
 */
#ifndef CAIRN_BENCH_GPU_OPS_REPORT_H
#define CAIRN_BENCH_GPU_OPS_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "bench/bench_rig.h"

#ifdef __cplusplus
extern "C" {
#endif

struct report;

/* `be` only names the device. The table goes to `table`, line by line as entries come. */
struct report *report_create(const struct backend *be, unsigned repeats, FILE *table);
void report_free(struct report *report);

struct report_entry {
    const char *section, *op, *variant;
    const char *lengths;         /* what the batch is called: "uniform", "imdb", "window" */
    const struct bench_rig *rig; /* shape, batch and kernel path */
    const double *samples;       /* [repeats] seconds (or counts, where the unit says so) */
    unsigned repeats;
    uint64_t times;   /* 0 for a derived entry */
    const char *unit; /* NULL: us */
};
void report_add(struct report *report, const struct report_entry *entry);

/* What this build or device does not have: no failure. */
void report_absent(struct report *report, const char *variant, uint32_t hidden, const char *why);
void report_failure(struct report *report, const char *section, const char *why);
void report_lengths(struct report *report, const char *name, const uint32_t *lengths,
                    uint32_t count);

unsigned report_failures(const struct report *report);
/* False, with errno set, when it cannot be written. */
bool report_write_json(const struct report *report, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
