/* gpu_ops.c - times the operations of a training step, one by one, on a GPU or any other backend.
 *
 *     gpu_ops [--device cuda[:N]|cpu] [--quick] [--repeats N] [--section NAME] [--json FILE]
 *
 * See usage() for what it says about itself, bench_clock.h for how a time is taken, and
 * gpu_ops_report.h for the JSON. bench/gpu.sh runs it on a machine with a GPU; the same program
 * runs on the CPU and on the simulated device, where it says that its figures are theirs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_lengths.h"
#include "bench/bench_saves.h"
#include "bench/gpu_ops_group.h"

/* ---- what is measured, and how large ---- */

enum { LIST_MAX = 8, SEQUENCES_MAX = 512 };

struct sizes {
    uint32_t hidden[LIST_MAX], hidden_count; /* of the recurrence's section */
    uint32_t base_hidden, embedding, dense, vocabulary, large_vocabulary;
    uint32_t steps;                        /* T; per time step is taken from T and 2 T */
    uint32_t batch[LIST_MAX], batch_count; /* of the section of batch sizes */
    uint32_t recurrence_batch[2];
    uint32_t base_batch;
    uint32_t divisor; /* of the lengths of ragged batches */
};

static const struct sizes full_sizes = {
    .hidden = {16, 32, 48, 64, 80, 96, 112, 128},
    .hidden_count = 8,
    .base_hidden = 64,
    .embedding = 64,
    .dense = 64,
    .vocabulary = 1000,
    .large_vocabulary = 20000,
    .steps = 256,
    .batch = {1, 64, 132, 256},
    .batch_count = 4,
    .recurrence_batch = {1, 64},
    .base_batch = 64,
    .divisor = 1,
};

static const struct sizes quick_sizes = {
    .hidden = {32},
    .hidden_count = 1,
    .base_hidden = 16,
    .embedding = 16,
    .dense = 8,
    .vocabulary = 40,
    .large_vocabulary = 9000,
    .steps = 3,
    .batch = {1, 3},
    .batch_count = 2,
    .recurrence_batch = {1, 2},
    .base_batch = 4,
    .divisor = 100,
};

/* Forward with and without what backward needs, and forward with backward: three subjects. */
enum { FORWARD, INFERENCE, BOTH, LSTM_SUBJECTS };

static void group_add_lstm(struct group *group, size_t variant, const char *lengths,
                           struct bench_rig *rig) {
    group_add(group, "lstm_forward", variant, lengths, rig, bench_rig_forward, 1);
    group_add(group, "lstm_forward, inference", variant, lengths, rig, bench_rig_inference, 1);
    group_add(group, "lstm_forward + backward", variant, lengths, rig, bench_rig_forward_backward,
              1);
}

static void group_derive_backward(struct group *group, size_t first, double *out) {
    group_difference(group, "lstm_backward", first + BOTH, group->samples[first + BOTH],
                     group->samples[first + FORWARD], 1.0, out);
}

static struct model_shape shape_of(const struct sizes *sizes, uint32_t hidden) {
    return (struct model_shape){sizes->vocabulary, sizes->embedding, hidden, sizes->dense};
}

static void fill_uniform(uint32_t *lengths, uint32_t count, uint32_t length) {
    for (uint32_t i = 0; i < count; i++) {
        lengths[i] = length;
    }
}

/* ---- sections ---- */

/* Per time step: the difference between T and 2 T steps, over T. With one sequence it is the
 * latency of a step alone; with more, also what grows with the tokens: the rows' words, dW_hh. */
static void derive_per_step(struct group *group) {
    for (size_t first = 0; first + LSTM_SUBJECTS < group->count; first += 2 * LSTM_SUBJECTS) {
        size_t twice = first + LSTM_SUBJECTS;
        double steps = (double)group->entries[first].rig->batch.length[0];
        double backward[2][BENCH_REPEATS_MAX], out[BENCH_REPEATS_MAX];
        group_derive_backward(group, first, backward[0]);
        group_derive_backward(group, twice, backward[1]);
        group_difference(group, "forward per step", twice, group->samples[twice + FORWARD],
                         group->samples[first + FORWARD], steps, out);
        group_difference(group, "inference per step", twice, group->samples[twice + INFERENCE],
                         group->samples[first + INFERENCE], steps, out);
        group_difference(group, "backward per step", twice, backward[1], backward[0], steps, out);
    }
}

static enum status measure_recurrence(struct bench *bench, uint32_t hidden, uint32_t sequences,
                                      struct group *group, struct error *err) {
    struct model_shape shape = shape_of(bench->sizes, hidden);
    uint32_t lengths[SEQUENCES_MAX];
    for (size_t v = 0; v < VARIANTS; v++) {
        for (uint32_t times = 1; times <= 2 && group->backends[v] != NULL; times++) {
            struct bench_rig *rig;
            fill_uniform(lengths, sequences, times * bench->sizes->steps);
            TRY(group_rig(group, v, &shape, lengths, sequences, &rig, err));
            group_add_lstm(group, v, "uniform", rig);
        }
    }
    TRY(group_run(group, err));
    derive_per_step(group);
    return STATUS_OK;
}

static enum status section_recurrence(struct bench *bench, struct error *err) {
    for (uint32_t h = 0; h < bench->sizes->hidden_count; h++) {
        for (size_t b = 0; b < 2; b++) {
            uint32_t hidden = bench->sizes->hidden[h];
            struct group *group = group_open(bench, "recurrence", hidden, false);
            CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
            enum status status =
                measure_recurrence(bench, hidden, bench->sizes->recurrence_batch[b], group, err);
            group_close(group);
            TRY(status);
        }
    }
    return STATUS_OK;
}

/* Forward and backward of some batches, given by name and lengths, on every variant. */
struct batch_case {
    const char *name;
    uint32_t sequences;
    uint32_t lengths[SEQUENCES_MAX];
};

static enum status measure_batches(struct group *group, const struct batch_case *cases,
                                   size_t count, struct error *err) {
    struct bench *bench = group->bench;
    struct model_shape shape = shape_of(bench->sizes, bench->sizes->base_hidden);
    for (size_t v = 0; v < VARIANTS; v++) {
        for (size_t i = 0; i < count && group->backends[v] != NULL; i++) {
            struct bench_rig *rig;
            TRY(group_rig(group, v, &shape, cases[i].lengths, cases[i].sequences, &rig, err));
            group_add_lstm(group, v, cases[i].name, rig);
        }
    }
    TRY(group_run(group, err));
    for (size_t first = 0; first < group->count; first += LSTM_SUBJECTS) {
        double out[BENCH_REPEATS_MAX];
        group_derive_backward(group, first, out);
    }
    return STATUS_OK;
}

static enum status measure_cases(struct bench *bench, const char *section,
                                 const struct batch_case *cases, size_t count, struct error *err) {
    struct group *group = group_open(bench, section, bench->sizes->base_hidden, false);
    CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
    enum status status = measure_batches(group, cases, count, err);
    group_close(group);
    return status;
}

static enum status section_batch(struct bench *bench, struct error *err) {
    for (uint32_t i = 0; i < bench->sizes->batch_count; i++) {
        struct batch_case one = {.name = "uniform", .sequences = bench->sizes->batch[i]};
        fill_uniform(one.lengths, one.sequences, bench->sizes->steps);
        TRY(measure_cases(bench, "batch", &one, 1, err));
    }
    return STATUS_OK;
}

/* A batch in random order; and of the 64 that a window of 4096 sorted by length makes, one of about
 * the mean length. */
static struct batch_case imdb_batch(const struct sizes *sizes) {
    struct batch_case one = {.name = "imdb", .sequences = sizes->base_batch};
    bench_lengths_fill(0.0, 1.0, sizes->divisor, one.lengths, one.sequences);
    return one;
}

static struct batch_case window_batch(const struct sizes *sizes) {
    struct batch_case one = {.name = "window", .sequences = sizes->base_batch};
    bench_lengths_fill(42.0 / 64.0, 43.0 / 64.0, sizes->divisor, one.lengths, one.sequences);
    return one;
}

/* A ragged batch beside uniform ones of its longest review (what a padded implementation computes)
 * and of its number of tokens (what it would be without raggedness). */
static enum status section_ragged(struct bench *bench, struct error *err) {
    struct batch_case cases[4] = {imdb_batch(bench->sizes),
                                  {.name = "same longest"},
                                  {.name = "same tokens"},
                                  window_batch(bench->sizes)};
    uint32_t B = cases[0].sequences, tokens = 0;
    for (uint32_t i = 0; i < B; i++) {
        tokens += cases[0].lengths[i];
    }
    cases[1].sequences = cases[2].sequences = B;
    fill_uniform(cases[1].lengths, B, cases[0].lengths[0]);
    fill_uniform(cases[2].lengths, B, (tokens + B / 2) / B);
    return measure_cases(bench, "ragged", cases, 4, err);
}

/* The operations beside the recurrence, with a vocabulary that takes the table path and with one
 * that takes the plain path. */
static enum status measure_operations(struct group *group, const struct model_shape *shape,
                                      struct error *err) {
    struct batch_case batch = window_batch(group->bench->sizes);
    for (size_t v = 0; v < VARIANTS; v++) {
        if (group->backends[v] == NULL) {
            continue;
        }
        struct bench_rig *rig;
        TRY(group_rig(group, v, shape, batch.lengths, batch.sequences, &rig, err));
        group_add_lstm(group, v, batch.name, rig);
        group_add(group, "embedding_grad", v, batch.name, rig, bench_rig_embedding_grad, 1);
        group_add(group, "head_forward_backward", v, batch.name, rig, bench_rig_head,
                  group->bench->repeated);
        group_add(group, "global_norm + adam_step", v, batch.name, rig, bench_rig_update,
                  group->bench->repeated);
    }
    return group_run(group, err);
}

static enum status section_operations(struct bench *bench, struct error *err) {
    const struct sizes *sizes = bench->sizes;
    const uint32_t vocabularies[2] = {sizes->vocabulary, sizes->large_vocabulary};
    for (size_t i = 0; i < 2; i++) {
        struct model_shape shape = shape_of(sizes, sizes->base_hidden);
        shape.vocabulary = vocabularies[i];
        struct group *group = group_open(bench, "operations", sizes->base_hidden, false);
        CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
        enum status status = measure_operations(group, &shape, err);
        group_close(group);
        TRY(status);
    }
    return STATUS_OK;
}

/* Whole training steps, as `cairn train` enqueues them. */
static enum status measure_steps(struct group *group, struct error *err) {
    const struct sizes *sizes = group->bench->sizes;
    const struct batch_case cases[2] = {imdb_batch(sizes), window_batch(sizes)};
    struct model_shape shape = shape_of(sizes, sizes->base_hidden);
    for (size_t v = 0; v < VARIANTS; v++) {
        for (size_t i = 0; i < 2 && group->backends[v] != NULL; i++) {
            struct bench_rig *rig;
            TRY(group_rig(group, v, &shape, cases[i].lengths, cases[i].sequences, &rig, err));
            group_add(group, "training step", v, cases[i].name, rig, bench_rig_step, 1);
        }
    }
    return group_run(group, err);
}

static enum status section_step(struct bench *bench, struct error *err) {
    struct group *group = group_open(bench, "step", bench->sizes->base_hidden, true);
    CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
    enum status status = measure_steps(group, err);
    group_close(group);
    return status;
}

static void report_saves(struct group *group, const struct bench_saves *saves) {
    struct bench_saves_counts counts = bench_saves_count(saves);
    const struct {
        const char *op, *unit;
        double value;
    } rows[] = {
        {"host time of a save, mean", NULL,
         counts.taken > 0 ? counts.stall_seconds / (double)counts.taken : 0.0},
        {"host time of a save, largest", NULL, counts.stall_seconds_max},
        {"snapshots taken", "count", (double)counts.taken},
        {"snapshots skipped", "count", (double)counts.skipped},
        {"bytes of a snapshot", "bytes", (double)counts.bytes},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct report_entry entry = group->entries[0];
        entry.op = rows[i].op;
        entry.unit = rows[i].unit;
        entry.samples = &rows[i].value;
        entry.repeats = 1;
        entry.times = counts.taken;
        report_add(group->bench->report, &entry);
    }
}

/* Steps with a snapshot after each and steps without, of one and the same model in turn. */
static enum status measure_saves(struct group *group, struct error *err) {
    const struct sizes *sizes = group->bench->sizes;
    struct batch_case batch = window_batch(sizes);
    struct model_shape shape = shape_of(sizes, sizes->base_hidden);
    struct bench_rig *rig;
    struct bench_saves *saves;
    TRY(group_rig(group, 0, &shape, batch.lengths, batch.sequences, &rig, err));
    TRY(bench_saves_create(rig, &saves, err));
    group_add(group, "step without a save", 0, batch.name, rig, bench_rig_step, 1);
    group_add(group, "step with a save", 0, batch.name, rig, bench_saves_step, 1);
    group_add(group, "a snapshot by itself", 0, batch.name, rig, bench_saves_whole, 1);
    for (size_t i = 1; i < group->count; i++) {
        group->subjects[i].context = saves;
        group->subjects[i].finish = bench_saves_finish;
    }
    enum status status = group_run(group, err);
    if (status == STATUS_OK) {
        double out[BENCH_REPEATS_MAX];
        group_difference(group, "a save costs a step", 1, group->samples[1], group->samples[0], 1.0,
                         out);
        report_saves(group, saves);
    }
    bench_saves_free(saves);
    return status;
}

static enum status section_save(struct bench *bench, struct error *err) {
    struct group *group = group_open(bench, "save", bench->sizes->base_hidden, false);
    CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
    enum status status = measure_saves(group, err);
    group_close(group);
    return status;
}

static const struct section {
    const char *name;
    enum status (*run)(struct bench *bench, struct error *err);
} sections[] = {
    {"recurrence", section_recurrence}, {"batch", section_batch}, {"ragged", section_ragged},
    {"operations", section_operations}, {"step", section_step},   {"save", section_save},
};
enum { SECTIONS = sizeof sections / sizeof sections[0] };

/* ---- the program ---- */

struct arguments {
    const char *device, *section, *json;
    unsigned repeats;
    bool quick;
};

static int usage(FILE *out, int code) {
    fputs(
        "gpu_ops - time the operations of a training step on a device\n"
        "\n"
        "  --device cuda[:N]|cpu  the device (default cuda)\n"
        "  --section NAME         only recurrence, batch, ragged, operations, step or save\n"
        "  --repeats N            samples of each thing, 1 to 31 (default 7; 2 with --quick)\n"
        "  --quick                tiny sizes, to see that it works\n"
        "  --json FILE            JSON into FILE and the table on stdout; without it JSON goes to\n"
        "                         stdout and the table to stderr\n"
        "\n"
        "Times are medians of samples by the host's clock around many enqueued repetitions and a\n"
        "wait for the device; variants take turns. Exit code 0: all measured; 1: a section "
        "failed;\n"
        "2: usage; 69: no such device; 74: the JSON could not be written.\n",
        out);
    return code;
}

static bool section_exists(const char *name) {
    for (size_t i = 0; i < SECTIONS; i++) {
        if (strcmp(sections[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* False: usage has to be shown. */
static bool parse(int argc, char **argv, struct arguments *arguments) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--quick") == 0) {
            arguments->quick = true;
            continue;
        }
        if (value == NULL) {
            return false;
        }
        i++;
        if (strcmp(argv[i - 1], "--device") == 0) {
            arguments->device = value;
        } else if (strcmp(argv[i - 1], "--section") == 0 && section_exists(value)) {
            arguments->section = value;
        } else if (strcmp(argv[i - 1], "--json") == 0) {
            arguments->json = value;
        } else if (strcmp(argv[i - 1], "--repeats") == 0) {
            char *end;
            unsigned long repeats = strtoul(value, &end, 10);
            if (*end != '\0' || repeats < 1 || repeats > BENCH_REPEATS_MAX) {
                return false;
            }
            arguments->repeats = (unsigned)repeats;
        } else {
            return false;
        }
    }
    return strcmp(arguments->device, "cpu") == 0 || group_is_cuda(arguments->device);
}

static void run_sections(struct bench *bench, const char *only) {
    struct batch_case sets[2] = {imdb_batch(bench->sizes), window_batch(bench->sizes)};
    for (size_t i = 0; i < 2; i++) {
        report_lengths(bench->report, sets[i].name, sets[i].lengths, sets[i].sequences);
    }
    for (size_t i = 0; i < SECTIONS; i++) {
        struct error err = {0};
        if ((only == NULL || strcmp(only, sections[i].name) == 0) &&
            sections[i].run(bench, &err) != STATUS_OK) {
            report_failure(bench->report, sections[i].name, err.message);
        }
    }
}

static int write_json(const struct report *report, const char *path) {
    FILE *out = path != NULL ? fopen(path, "w") : stdout;
    bool written = out != NULL && report_write_json(report, out);
    if (path != NULL && out != NULL && fclose(out) != 0) {
        written = false;
    }
    if (!written) {
        fprintf(stderr, "gpu_ops: %s: %s\n", path != NULL ? path : "stdout", strerror(errno));
        return status_exit_code(STATUS_IO);
    }
    return report_failures(report) > 0 ? 1 : 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        return usage(stdout, 0);
    }
    struct arguments arguments = {.device = "cuda"};
    if (!parse(argc, argv, &arguments)) {
        return usage(stderr, 2);
    }
    bool quick = arguments.quick;
    unsigned repeats = arguments.repeats > 0 ? arguments.repeats : quick ? 2 : 7;
    struct bench bench = {
        .device = arguments.device,
        .sizes = quick ? &quick_sizes : &full_sizes,
        .effort = {.repeats = repeats, .sample_seconds = quick ? 0.0 : 0.01, .times_max = 10000},
        .repeated = quick ? 1 : 16,
    };
    struct error err = {0};
    struct backend *be;
    enum status status = group_open_backend(bench.device, &group_variants(bench.device)[0],
                                            bench.sizes->base_hidden, &be, &err);
    if (status != STATUS_OK) {
        fprintf(stderr, "gpu_ops: --device %s: %s\n", bench.device, err.message);
        return status_exit_code(status);
    }
    bench.report = report_create(be, repeats, arguments.json != NULL ? stdout : stderr);
    be->table->free(be);
    run_sections(&bench, arguments.section);
    int code = write_json(bench.report, arguments.json);
    report_free(bench.report);
    return code;
}
