#include "bench/bench_report.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_clock.h"
#include "bench/bench_json.h"
#include "host/base/text.h"

struct bench_report {
    const struct options *options;
    FILE *table;
    json_t *root, *facts, *figures; /* the parts belong to root */
    char section[64];
    bool quiet;
    bool failed; /* memory ran out: the JSON is incomplete */
    bool remove; /* the file is there only because bench_report_create tried it */
};

/* ---- JSON --------------------------------------------------------------------------------- */

/* The value becomes a part of `object` and is returned; jansson says NULL and -1 when memory is
 * short. */
static json_t *add(struct bench_report *report, json_t *object, const char *name, json_t *value) {
    if (json_object_set_new(object, name, value) != 0) {
        report->failed = true;
        return NULL;
    }
    return value;
}

static json_t *text(const char *bytes) {
    return bench_json_text(bytes, strlen(bytes));
}

/* ---- the machine -------------------------------------------------------------------------- */

static void add_machine(struct bench_report *report) {
    struct bench_machine machine;
    add(report, report->root, "machine", bench_json_machine(&machine));
    fprintf(report->table, "%s: %llu repeat%s, median (least to most)\n%-22s %s, %u core%s\n",
            command_name(report->options->command), (unsigned long long)report->options->repeats,
            report->options->repeats == 1 ? "" : "s", "processor", machine.processor, machine.cores,
            machine.cores == 1 ? "" : "s");
}

void bench_report_device(struct bench_report *report, const struct backend *be) {
    bool on_cpu = strcmp(be->device, "cpu") == 0;
    uint64_t asked = report->options->threads;
    uint64_t threads = asked > 0 ? asked : backend_cpu_default_threads();
    json_t *device = add(report, report->root, "device", json_object());
    add(report, device, "name", json_string(be->device));
    add(report, device, "description", text(be->description));
    add(report, device, "kernel_path", json_string(be->kernel_path));
    add(report, device, "threads", on_cpu ? json_integer((json_int_t)threads) : json_null());
    fprintf(report->table, "%-22s %s\n", "device", be->description);
}

/* ---- facts and figures -------------------------------------------------------------------- */

void bench_report_fact(struct bench_report *report, const char *name, const char *format, ...) {
    char words[512], shown[4 * sizeof words];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    text_escape(words, strlen(words), shown, sizeof shown); /* a path may hold anything */
    add(report, report->facts, name, text(words));
    fprintf(report->table, "%-22s %s\n", name, shown);
}

/* Four digits that count, and no fraction of what is large. */
static void print_number(char out[32], double value) {
    double size = fabs(value);
    int decimals = size >= 1000.0 || size == 0.0 ? 0 : 3 - (int)floor(log10(size));
    snprintf(out, 32, "%.*f", decimals < 0 ? 0 : decimals > 6 ? 6 : decimals, value);
}

void bench_report_number(struct bench_report *report, const char *name, double value,
                         const char *unit) {
    char shown[32];
    print_number(shown, value);
    add(report, report->facts, name, bench_json_number(value));
    fprintf(report->table, "%-22s %s%s%s\n", name, shown, unit[0] == '\0' ? "" : " ", unit);
}

void bench_report_section(struct bench_report *report, const char *section) {
    snprintf(report->section, sizeof report->section, "%s", section);
    if (!report->quiet) {
        fprintf(report->table, "\n%s\n", section);
    }
}

void bench_report_quiet(struct bench_report *report, bool quiet) {
    report->quiet = quiet;
}

static void print_figure(FILE *table, const char *name, const char *unit,
                         const struct bench_spread *spread) {
    char median[32], min[32], max[32];
    print_number(median, spread->median);
    print_number(min, spread->min);
    print_number(max, spread->max);
    fprintf(table, "  %-28s %12s %-12s (%s to %s)\n", name, median, unit, min, max);
}

static void add_figure(struct bench_report *report, const char *name, const char *unit,
                       const struct bench_spread *spread, const struct bench_interval *likely,
                       const double *samples, unsigned count) {
    json_t *figure = json_object(), *list = json_array();
    for (unsigned i = 0; i < count; i++) {
        report->failed =
            json_array_append_new(list, bench_json_number(samples[i])) != 0 || report->failed;
    }
    if (!report->quiet) {
        print_figure(report->table, name, unit, spread);
    }
    add(report, figure, "section", json_string(report->section));
    add(report, figure, "name", json_string(name));
    add(report, figure, "unit", json_string(unit));
    add(report, figure, "median", bench_json_number(spread->median));
    add(report, figure, "min", bench_json_number(spread->min));
    add(report, figure, "max", bench_json_number(spread->max));
    if (!isnan(likely->low)) {
        add(report, figure, "median_low", bench_json_number(likely->low));
        add(report, figure, "median_high", bench_json_number(likely->high));
    }
    add(report, figure, "samples", list);
    report->failed = json_array_append_new(report->figures, figure) != 0 || report->failed;
}

void bench_report_figure(struct bench_report *report, const char *name, const char *unit,
                         double scale, const double *samples, unsigned count) {
    double scaled[BENCH_REPEATS_MAX];
    for (unsigned i = 0; i < count; i++) {
        scaled[i] = samples[i] * scale;
    }
    const struct bench_spread spread = bench_clock_spread(scaled, count);
    const struct bench_interval likely = bench_clock_confidence(scaled, count);
    add_figure(report, name, unit, &spread, &likely, scaled, count);
}

void bench_report_whole(struct bench_report *report, const char *name, const char *unit,
                        double value, const double *samples, unsigned count) {
    const struct bench_spread spread = {value, value, value};
    const struct bench_interval none = {(double)NAN, (double)NAN};
    add_figure(report, name, unit, &spread, &none, samples, count);
}

/* ---- begin and end ------------------------------------------------------------------------ */

/* A wrong path must show before minutes are spent; what the file holds stays until the end. */
static enum status try_file(struct bench_report *report, struct error *err) {
    const char *path = report->options->json;
    if (path[0] == '\0') {
        return STATUS_OK;
    }
    bool existed = access(path, F_OK) == 0;
    FILE *file = fopen(path, "a");
    CHECK(file != NULL, err, STATUS_OUTPUT, "--json %s cannot be written: %s", path,
          strerror(errno));
    fclose(file);
    report->remove = !existed;
    return STATUS_OK;
}

enum status bench_report_create(const struct options *options, FILE *table,
                                struct bench_report **out, struct error *err) {
    struct bench_report *report = calloc(1, sizeof *report);
    CHECK(report != NULL, err, STATUS_MEMORY, "out of memory for the report");
    report->options = options;
    report->table = table;
    report->root = bench_json_begin(command_name(options->command));
    enum status status = try_file(report, err);
    if (status != STATUS_OK) {
        bench_report_free(report);
        return status;
    }
    add_machine(report);
    add(report, report->root, "device", json_null());
    add(report, report->root, "options", bench_json_options(options));
    add(report, report->root, "repeats", json_integer((json_int_t)options->repeats));
    report->facts = add(report, report->root, "facts", json_object());
    report->figures = add(report, report->root, "figures", json_array());
    *out = report;
    return STATUS_OK;
}

enum status bench_report_write(struct bench_report *report, struct error *err) {
    const char *path = report->options->json;
    CHECK(!report->failed, err, STATUS_MEMORY, "out of memory for the report");
    if (path[0] == '\0') {
        return STATUS_OK;
    }
    FILE *file = fopen(path, "w");
    CHECK(file != NULL, err, STATUS_OUTPUT, "--json %s cannot be written: %s", path,
          strerror(errno));
    report->remove = false;
    bool written = json_dumpf(report->root, file, JSON_INDENT(1)) == 0 && fputc('\n', file) != EOF;
    written = fclose(file) == 0 && written;
    CHECK(written, err, STATUS_IO, "--json %s could not be written: %s", path, strerror(errno));
    return STATUS_OK;
}

void bench_report_free(struct bench_report *report) {
    if (report == NULL) {
        return;
    }
    if (report->remove) {
        unlink(report->options->json);
    }
    json_decref(report->root);
    free(report);
}
