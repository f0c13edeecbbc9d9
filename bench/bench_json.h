/* bench_json.h - what the JSON of every benchmark has: what was measured and when, texts, the
 * machine, the options.
 *
 * Usage:
 *     json_t *root = bench_json_begin("bench train");
 *     json_object_set_new(root, "data", bench_json_text(path, strlen(path)));
 *     json_object_set_new(root, "machine", bench_json_machine(&machine));
 *     json_object_set_new(root, "options", bench_json_options(options));
 *
 * Everything made here belongs to the caller and is NULL when memory is short, which jansson's
 * functions take and say.
 *
 * THREADS: the caller's.
 */
#ifndef CAIRN_BENCH_BENCH_JSON_H
#define CAIRN_BENCH_BENCH_JSON_H

#include <jansson.h>

#include "host/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* {"program": "cairn", "version", "revision", "date", "benchmark", "format": 1}. The revision is
 * the commit that was built, with "-dirty" where its files had been changed, or "unknown"; the date
 * is now, in UTC (ISO 8601). */
json_t *bench_json_begin(const char *benchmark);

/* jansson refuses what is not UTF-8, and a path need not be: such a text is escaped as in a message
 * (text_escape). */
json_t *bench_json_text(const char *bytes, size_t size);

/* null where it is no number: a difference of two short times may be zero, and a rate then is none.
 */
json_t *bench_json_number(double value);

struct bench_machine {
    char processor[256]; /* what /proc/cpuinfo calls the first one, or the architecture */
    uint32_t cores;
};

/* {"processor", "cores", "memory_bytes", "system"}; `out` for the table. */
json_t *bench_json_machine(struct bench_machine *out);

/* {name: text}, every option of the benchmark. */
json_t *bench_json_options(const struct options *options);

#ifdef __cplusplus
}
#endif
#endif
