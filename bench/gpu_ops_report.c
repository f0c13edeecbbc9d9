#include "bench/gpu_ops_report.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_clock.h"

struct report {
    json_t *root, *entries, *absent, *failures, *length_sets; /* the parts belong to root */
    FILE *table;
    char section[32]; /* of the latest line of the table */
};

/* jansson returns NULL and -1 when memory is short. */
static json_t *some(json_t *value) {
    if (value == NULL) {
        fprintf(stderr, "gpu_ops: out of memory for the report\n");
        exit(1);
    }
    return value;
}

static json_t *part(json_t *root, const char *name, json_t *value) {
    if (json_object_set_new(root, name, some(value)) != 0) {
        some(NULL);
    }
    return value;
}

static void append(json_t *array, json_t *value) {
    if (json_array_append_new(array, some(value)) != 0) {
        some(NULL);
    }
}

/* The backend says in its path what it runs on. */
static const char *figures_of(const struct backend *be) {
    if (strncmp(be->kernel_path, "simulated", strlen("simulated")) == 0) {
        return "simulated device";
    }
    return strncmp(be->device, "cuda", strlen("cuda")) == 0 ? "gpu" : "cpu";
}

struct report *report_create(const struct backend *be, unsigned repeats, FILE *table) {
    struct report *report = calloc(1, sizeof *report);
    if (report == NULL) {
        some(NULL);
        return NULL;
    }
    const char *figures = figures_of(be);
    bool simulated = strcmp(figures, "simulated device") == 0;
    report->table = table;
    report->root = some(json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:b, s:i}", "program", "gpu_ops",
                                  "format", 1, "device", be->device, "description", be->description,
                                  "build", backend_cuda_build(), "figures_of", figures, "simulated",
                                  simulated, "repeats", (int)repeats));
    report->length_sets = part(report->root, "length_sets", json_object());
    report->absent = part(report->root, "absent", json_array());
    report->failures = part(report->root, "failures", json_array());
    report->entries = part(report->root, "entries", json_array());
    fprintf(table, "%s\n", be->description);
    if (strcmp(figures, "gpu") != 0) {
        fprintf(table, "These are figures of the %s; they say nothing about a GPU.\n",
                simulated ? "simulated device" : "CPU");
    }
    return report;
}

void report_free(struct report *report) {
    if (report != NULL) {
        json_decref(report->root);
        free(report);
    }
}

/* ---- entries ---- */

static json_t *shape_json(const struct model_shape *shape) {
    return some(json_pack("{s:I, s:I, s:I, s:I}", "vocabulary", (json_int_t)shape->vocabulary,
                          "embedding", (json_int_t)shape->embedding, "hidden",
                          (json_int_t)shape->hidden, "dense", (json_int_t)shape->dense));
}

static json_t *batch_json(const char *lengths, const struct batch_view *batch) {
    return some(json_pack("{s:s, s:I, s:I, s:I}", "lengths", lengths, "sequences",
                          (json_int_t)batch->sequences, "tokens", (json_int_t)batch->total_tokens,
                          "longest", (json_int_t)batch->length[0]));
}

static void print_line(struct report *report, const struct report_entry *entry,
                       const struct bench_spread *spread, const char *unit) {
    const struct batch_view *batch = &entry->rig->batch;
    const struct model_shape *shape = &entry->rig->model->shape;
    if (strcmp(report->section, entry->section) != 0) {
        snprintf(report->section, sizeof report->section, "%s", entry->section);
        fprintf(report->table, "\n%s\n%-26s %-12s %6s %4s %4s %-12s %7s %7s %12s   (min to max)\n",
                entry->section, "what", "variant", "V", "H", "B", "lengths", "longest", "tokens",
                "median");
    }
    fprintf(report->table, "%-26s %-12s %6u %4u %4u %-12s %7u %7llu %9.3f %-5s (%.3f to %.3f)\n",
            entry->op, entry->variant, shape->vocabulary, shape->hidden, batch->sequences,
            entry->lengths, batch->length[0], (unsigned long long)batch->total_tokens,
            spread->median, unit, spread->min, spread->max);
    fflush(report->table);
}

void report_add(struct report *report, const struct report_entry *entry) {
    struct bench_spread spread = bench_clock_spread(entry->samples, entry->repeats);
    const char *unit = entry->unit != NULL ? entry->unit : "us";
    double scale = entry->unit != NULL ? 1.0 : 1e6;
    spread = (struct bench_spread){spread.median * scale, spread.min * scale, spread.max * scale};
    append(report->entries,
           json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:i, s:I, s:b, s:s, s:f, s:f, s:f}", "section",
                     entry->section, "op", entry->op, "variant", entry->variant, "kernel_path",
                     entry->rig->be->kernel_path, "shape", shape_json(&entry->rig->model->shape),
                     "batch", batch_json(entry->lengths, &entry->rig->batch), "repeats",
                     (int)entry->repeats, "times", (json_int_t)entry->times, "derived",
                     entry->times == 0, "unit", unit, "median", spread.median, "min", spread.min,
                     "max", spread.max));
    print_line(report, entry, &spread, unit);
}

void report_absent(struct report *report, const char *variant, uint32_t hidden, const char *why) {
    size_t i;
    json_t *entry;
    json_array_foreach(report->absent, i, entry) {
        if (strcmp(json_string_value(json_object_get(entry, "variant")), variant) == 0 &&
            json_integer_value(json_object_get(entry, "hidden")) == (json_int_t)hidden) {
            return; /* by an earlier section */
        }
    }
    append(report->absent, json_pack("{s:s, s:I, s:s}", "variant", variant, "hidden",
                                     (json_int_t)hidden, "why", why));
}

void report_failure(struct report *report, const char *section, const char *why) {
    append(report->failures, json_pack("{s:s, s:s}", "section", section, "why", why));
    fprintf(report->table, "\n%s FAILED: %s\n", section, why);
}

void report_lengths(struct report *report, const char *name, const uint32_t *lengths,
                    uint32_t count) {
    json_t *array = some(json_array());
    for (uint32_t i = 0; i < count; i++) {
        append(array, json_integer((json_int_t)lengths[i]));
    }
    part(report->length_sets, name, array);
}

unsigned report_failures(const struct report *report) {
    return (unsigned)json_array_size(report->failures);
}

bool report_write_json(const struct report *report, FILE *out) {
    return json_dumpf(report->root, out, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) == 0 &&
           fputc('\n', out) != EOF && fflush(out) == 0;
}
