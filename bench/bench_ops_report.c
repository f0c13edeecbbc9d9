#include "bench/bench_ops_report.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_json.h"

struct ops_report {
    json_t *root, *entries, *absent, *failures, *length_sets, *peaks, *bars; /* belong to root */
    const char *json;                                                        /* of the options */
    FILE *table;
    char section[32]; /* of the latest line of the table */
    bool failed;      /* memory ran out: the JSON is incomplete */
    bool remove;      /* the file is there only because ops_report_create tried it */
};

/* ---- JSON ---- */

/* jansson takes NULL where memory ran out, and then says so. */
static void append(struct ops_report *report, json_t *array, json_t *value) {
    report->failed = json_array_append_new(array, value) != 0 || report->failed;
}

static void set(struct ops_report *report, json_t *object, const char *name, json_t *value) {
    report->failed = json_object_set_new(object, name, value) != 0 || report->failed;
}

static json_t *part(struct ops_report *report, const char *name, json_t *value) {
    set(report, report->root, name, value);
    return value;
}

static json_t *spread_json(const struct bench_spread *spread) {
    return json_pack("{s:o, s:o, s:o}", "median", bench_json_number(spread->median), "min",
                     bench_json_number(spread->min), "max", bench_json_number(spread->max));
}

static json_t *samples_json(struct ops_report *report, const double *samples, unsigned count,
                            double scale) {
    json_t *array = json_array();
    for (unsigned i = 0; i < count; i++) {
        append(report, array, bench_json_number(samples[i] * scale));
    }
    return array;
}

/* ---- begin and end ---- */

/* The backend says in its path what it runs on. */
static const char *figures_of(const struct backend *be) {
    if (strncmp(be->kernel_path, "simulated", strlen("simulated")) == 0) {
        return "simulated device";
    }
    return strncmp(be->device, "cuda", strlen("cuda")) == 0 ? "gpu" : "cpu";
}

/* A wrong path must show before minutes are spent; what the file holds stays until the end. */
static enum status try_file(struct ops_report *report, struct error *err) {
    if (report->json[0] == '\0') {
        return STATUS_OK;
    }
    bool existed = access(report->json, F_OK) == 0;
    FILE *file = fopen(report->json, "a");
    CHECK(file != NULL, err, STATUS_OUTPUT, "--json %s cannot be written: %s", report->json,
          strerror(errno));
    fclose(file);
    report->remove = !existed;
    return STATUS_OK;
}

static void begin(struct ops_report *report, const struct backend *be,
                  const struct options *options, unsigned repeats) {
    struct bench_machine machine;
    const char *figures = figures_of(be);
    bool simulated = strcmp(figures, "simulated device") == 0;
    report->root = bench_json_begin("bench ops");
    part(report, "device", json_string(be->device));
    part(report, "description", json_string(be->description));
    part(report, "build", json_string(backend_cuda_build()));
    part(report, "figures_of", json_string(figures));
    part(report, "simulated", json_boolean(simulated));
    part(report, "repeats", json_integer((json_int_t)repeats));
    part(report, "machine", bench_json_machine(&machine));
    part(report, "options", bench_json_options(options));
    report->length_sets = part(report, "length_sets", json_object());
    report->absent = part(report, "absent", json_array());
    report->failures = part(report, "failures", json_array());
    report->peaks = part(report, "peaks", json_array());
    report->bars = part(report, "bars", json_array());
    report->entries = part(report, "entries", json_array());
    fprintf(report->table, "%s\n", be->description);
    if (strcmp(figures, "gpu") != 0) {
        fprintf(report->table, "These are figures of the %s; they say nothing about a GPU.\n",
                simulated ? "simulated device" : "CPU");
    }
    if (strcmp(figures, "cpu") != 0) {
        fprintf(report->table,
                "The peak of multiply-add, and shares of it, are measured on the CPU "
                "only (--device cpu).\n");
    }
}

enum status ops_report_create(const struct backend *be, const struct options *options,
                              unsigned repeats, FILE *table, struct ops_report **out,
                              struct error *err) {
    *out = NULL;
    struct ops_report *report = calloc(1, sizeof *report);
    CHECK(report != NULL, err, STATUS_MEMORY, "out of memory for the report");
    report->json = options->json;
    report->table = table;
    enum status status = try_file(report, err);
    if (status != STATUS_OK) {
        ops_report_free(report);
        return status;
    }
    begin(report, be, options, repeats);
    *out = report;
    return STATUS_OK;
}

enum status ops_report_write(struct ops_report *report, struct error *err) {
    CHECK(!report->failed, err, STATUS_MEMORY, "out of memory for the report");
    if (report->json[0] == '\0') {
        return STATUS_OK;
    }
    FILE *file = fopen(report->json, "w");
    CHECK(file != NULL, err, STATUS_OUTPUT, "--json %s cannot be written: %s", report->json,
          strerror(errno));
    report->remove = false;
    bool written = json_dumpf(report->root, file, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) == 0 &&
                   fputc('\n', file) != EOF;
    written = fclose(file) == 0 && written;
    CHECK(written, err, STATUS_IO, "--json %s could not be written: %s", report->json,
          strerror(errno));
    return STATUS_OK;
}

void ops_report_free(struct ops_report *report) {
    if (report == NULL) {
        return;
    }
    if (report->remove) {
        unlink(report->json);
    }
    json_decref(report->root);
    free(report);
}

/* ---- entries ---- */

/* What follows from the time of an entry, sample by sample; a median of 0 where it has none. */
struct rates {
    struct bench_spread ns_per_token, gflops, share;
};

static struct rates rates_of(const struct ops_entry *entry) {
    struct rates rates = {0};
    double tokens = (double)entry->rig->batch.total_tokens;
    double ns[BENCH_REPEATS_MAX], gflops[BENCH_REPEATS_MAX], share[BENCH_REPEATS_MAX];
    for (unsigned i = 0; i < entry->repeats; i++) {
        ns[i] = 1e9 * entry->samples[i] / tokens;
        gflops[i] = 1e-9 * entry->flops / entry->samples[i];
        share[i] = entry->peak > 0.0 ? 1e9 * gflops[i] / entry->peak : 0.0;
    }
    rates.ns_per_token = bench_clock_spread(ns, entry->repeats);
    if (entry->flops > 0.0) {
        rates.gflops = bench_clock_spread(gflops, entry->repeats);
        rates.share = bench_clock_spread(share, entry->repeats);
    }
    return rates;
}

static json_t *shape_json(const struct model_shape *shape) {
    return json_pack("{s:I, s:I, s:I, s:I}", "vocabulary", (json_int_t)shape->vocabulary,
                     "embedding", (json_int_t)shape->embedding, "hidden", (json_int_t)shape->hidden,
                     "dense", (json_int_t)shape->dense);
}

static json_t *batch_json(const char *lengths, const struct batch_view *batch) {
    return json_pack("{s:s, s:I, s:I, s:I}", "lengths", lengths, "sequences",
                     (json_int_t)batch->sequences, "tokens", (json_int_t)batch->total_tokens,
                     "longest", (json_int_t)batch->length[0]);
}

static void append_entry(struct ops_report *report, const struct ops_entry *entry,
                         const struct bench_spread *spread, const char *unit, double scale) {
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:o, s:o, s:i, s:I, s:b, s:s, s:f, s:f, s:f}", "section",
        entry->section, "op", entry->op, "variant", entry->variant, "kernel_path",
        entry->rig->be->kernel_path, "shape", shape_json(&entry->rig->model->shape), "batch",
        batch_json(entry->lengths, &entry->rig->batch), "repeats", (int)entry->repeats, "times",
        (json_int_t)entry->times, "derived", entry->times == 0, "unit", unit, "median",
        spread->median, "min", spread->min, "max", spread->max);
    set(report, object, "samples", samples_json(report, entry->samples, entry->repeats, scale));
    if (entry->threads > 0) {
        set(report, object, "threads", json_integer(entry->threads));
    }
    if (entry->flops > 0.0) {
        struct rates rates = rates_of(entry);
        set(report, object, "ns_per_token", spread_json(&rates.ns_per_token));
        set(report, object, "gflops", spread_json(&rates.gflops));
        if (entry->peak > 0.0) {
            set(report, object, "peak_share", spread_json(&rates.share));
        }
    }
    append(report, report->entries, object);
}

static void print_entry(struct ops_report *report, const struct ops_entry *entry,
                        const struct bench_spread *spread, const char *unit) {
    const struct batch_view *batch = &entry->rig->batch;
    const struct model_shape *shape = &entry->rig->model->shape;
    if (strcmp(report->section, entry->section) != 0) {
        snprintf(report->section, sizeof report->section, "%s", entry->section);
        fprintf(report->table, "\n%s\n%-26s %-14s %6s %4s %4s %-12s %7s %7s %12s   (min to max)\n",
                entry->section, "what", "variant", "V", "H", "B", "lengths", "longest", "tokens",
                "median");
    }
    fprintf(report->table, "%-26s %-14s %6u %4u %4u %-12s %7u %7llu %9.3f %-5s (%.3f to %.3f)\n",
            entry->op, entry->variant, shape->vocabulary, shape->hidden, batch->sequences,
            entry->lengths, batch->length[0], (unsigned long long)batch->total_tokens,
            spread->median, unit, spread->min, spread->max);
}

/* ---- tables of rates ---- */

void ops_report_batch(struct ops_report *report, const char *section, const char *lengths,
                      const struct bench_rig *rig) {
    const struct batch_view *batch = &rig->batch;
    const struct model_shape *shape = &rig->model->shape;
    report->section[0] = '\0'; /* the lines that follow get a head of their own */
    fprintf(report->table,
            "\n%s: V %u, E %u, H %u, D %u; batch \"%s\" of %u, %llu tokens, %u words, longest %u\n",
            section, shape->vocabulary, shape->embedding, shape->hidden, shape->dense, lengths,
            batch->sequences, (unsigned long long)batch->total_tokens, rig->words,
            batch->length[0]);
}

static void print_rates_head(struct ops_report *report) {
    static const char head[] = "rates";
    if (strcmp(report->section, head) != 0) {
        snprintf(report->section, sizeof report->section, "%s", head);
        fprintf(report->table, "%-26s %-14s %12s %26s %9s %9s %8s\n", "what", "variant",
                "median us", "(min to max)", "ns/token", "GFLOP/s", "of peak");
    }
}

static void print_rates(struct ops_report *report, const struct ops_entry *entry,
                        const struct bench_spread *spread) {
    char range[64];
    struct rates rates = rates_of(entry);
    print_rates_head(report);
    snprintf(range, sizeof range, "(%.1f to %.1f)", spread->min, spread->max);
    fprintf(report->table, "%-26s %-14s %12.1f %26s %9.1f", entry->op, entry->variant,
            spread->median, range, rates.ns_per_token.median);
    if (entry->flops > 0.0) {
        fprintf(report->table, " %9.1f", rates.gflops.median);
        if (entry->peak > 0.0) {
            fprintf(report->table, " %6.1f %%", 100.0 * rates.share.median);
        }
    }
    fputc('\n', report->table);
}

void ops_report_add(struct ops_report *report, const struct ops_entry *entry) {
    struct bench_spread spread = bench_clock_spread(entry->samples, entry->repeats);
    const char *unit = entry->unit != NULL ? entry->unit : "us";
    double scale = entry->unit != NULL ? 1.0 : 1e6;
    spread = (struct bench_spread){spread.median * scale, spread.min * scale, spread.max * scale};
    append_entry(report, entry, &spread, unit, scale);
    if (entry->rates) {
        print_rates(report, entry, &spread);
    } else {
        print_entry(report, entry, &spread, unit);
    }
    fflush(report->table);
}

void ops_report_peak(struct ops_report *report, const char *isa, uint32_t threads,
                     const char *lengths, const double *rates, unsigned repeats) {
    struct bench_spread spread = bench_clock_spread(rates, repeats);
    spread = (struct bench_spread){1e-9 * spread.median, 1e-9 * spread.min, 1e-9 * spread.max};
    json_t *peak = spread_json(&spread);
    set(report, peak, "isa", json_string(isa));
    set(report, peak, "threads", json_integer(threads));
    set(report, peak, "lengths", json_string(lengths));
    set(report, peak, "unit", json_string("GFLOP/s"));
    set(report, peak, "samples", samples_json(report, rates, repeats, 1e-9));
    append(report, report->peaks, peak);
    fprintf(report->table, "multiply-add peak of %s, %u thread%s: %.1f GFLOP/s (%.1f to %.1f)\n",
            isa, threads, threads == 1 ? "" : "s", spread.median, spread.min, spread.max);
}

void ops_report_bar(struct ops_report *report, const struct ops_entry *entry) {
    struct rates rates = rates_of(entry);
    const struct batch_view *batch = &entry->rig->batch;
    uint32_t hidden = entry->rig->model->shape.hidden;
    append(report, report->bars,
           json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:o, s:o, s:o}", "variant",
                     entry->variant, "kernel_path", entry->rig->be->kernel_path, "threads",
                     (json_int_t)entry->threads, "lengths", entry->lengths, "hidden",
                     (json_int_t)hidden, "sequences", (json_int_t)batch->sequences, "tokens",
                     (json_int_t)batch->total_tokens, "gflops", spread_json(&rates.gflops),
                     "peak_gflops", bench_json_number(1e-9 * entry->peak), "share",
                     spread_json(&rates.share)));
    fprintf(report->table,
            "recurrent kernels, forward + backward, H = %u, batch %u, %s, %s, %u thread%s: "
            "%.1f %% (%.1f to %.1f) of the multiply-add peak, %.1f of %.1f GFLOP/s\n",
            hidden, batch->sequences, entry->lengths, entry->rig->be->kernel_path, entry->threads,
            entry->threads == 1 ? "" : "s", 100.0 * rates.share.median, 100.0 * rates.share.min,
            100.0 * rates.share.max, rates.gflops.median, 1e-9 * entry->peak);
    if (rates.share.median > 1.0) {
        fprintf(report->table, "  More than the peak: that was not reached when it was measured, "
                               "and this share means nothing.\n");
    }
}

/* ---- what is not there, what failed ---- */

void ops_report_absent(struct ops_report *report, const char *variant, uint32_t hidden,
                       const char *why) {
    size_t i;
    json_t *entry;
    json_array_foreach(report->absent, i, entry) {
        if (strcmp(json_string_value(json_object_get(entry, "variant")), variant) == 0 &&
            json_integer_value(json_object_get(entry, "hidden")) == (json_int_t)hidden) {
            return; /* by an earlier section */
        }
    }
    append(
        report, report->absent,
        json_pack("{s:s, s:I, s:s}", "variant", variant, "hidden", (json_int_t)hidden, "why", why));
    fprintf(report->table, "%s, H = %u: left out: %s\n", variant, hidden, why);
}

void ops_report_failure(struct ops_report *report, const char *section, const char *why) {
    append(report, report->failures, json_pack("{s:s, s:s}", "section", section, "why", why));
    fprintf(report->table, "\n%s FAILED: %s\n", section, why);
}

void ops_report_lengths(struct ops_report *report, const char *name, const uint32_t *lengths,
                        uint32_t count) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < count; i++) {
        append(report, array, json_integer((json_int_t)lengths[i]));
    }
    set(report, report->length_sets, name, array);
}

unsigned ops_report_failures(const struct ops_report *report) {
    return (unsigned)json_array_size(report->failures);
}
