/* bench_ops.c - `cairn bench ops`: the operations of a training step, timed one by one.
 *
 * See bench_ops_sections.h for what is measured, bench_clock.h for how a time is taken, and
 * bench_ops_report.h for the JSON. The same program serves every device; on a simulated one it says
 * that its figures are not a GPU's. bench/gpu.sh runs it on a machine with a GPU.
 */
#include <stdio.h>
#include <string.h>

#include "bench/bench_ops_sections.h"
#include "host/cmd.h"

/* ---- what is measured, and how large ---- */

static const struct ops_sizes full_sizes = {
    .hidden = {16, 32, 48, 64, 80, 96, 112, 128},
    .hidden_count = 8,
    .large_vocabulary = 20000,
    .steps = 256,
    .batch = {1, 64, 132, 256},
    .batch_count = 4,
    .step_batch = {1, 64},
    .divisor = 1,
};

/* --quick: to see that all of it works. */
static const struct ops_sizes quick_sizes = {
    .shape = {.vocabulary = 40, .embedding = 16, .hidden = 16, .dense = 8},
    .batch_size = 4,
    .hidden = {32},
    .hidden_count = 1,
    .large_vocabulary = 9000,
    .steps = 3,
    .batch = {1, 3},
    .batch_count = 2,
    .step_batch = {1, 2},
    .divisor = 100,
};

/* What is asked for; `quick` where nothing is. */
static uint32_t size_of(const struct options *options, const char *name, uint64_t value,
                        uint32_t quick) {
    return options->quick && !options_given(options, name) ? quick : (uint32_t)value;
}

static void choose_sizes(const struct options *options, struct ops_sizes *sizes) {
    const struct ops_sizes *quick = &quick_sizes;
    *sizes = options->quick ? quick_sizes : full_sizes;
    sizes->shape = (struct model_shape){
        size_of(options, "vocabulary-size", options->vocabulary_size, quick->shape.vocabulary),
        size_of(options, "embedding-size", options->embedding_size, quick->shape.embedding),
        size_of(options, "hidden-size", options->hidden_size, quick->shape.hidden),
        size_of(options, "dense-size", options->dense_size, quick->shape.dense)};
    sizes->batch_size = size_of(options, "batch-size", options->batch_size, quick->batch_size);
    if (options_given(options, "hidden-size")) {
        sizes->hidden[0] = sizes->shape.hidden;
        sizes->hidden_count = 1;
    }
    if (options_given(options, "vocabulary-size")) {
        sizes->large_vocabulary = 0;
    }
}

static enum status check_sizes(const struct options *options, struct error *err) {
    CHECK(options->vocabulary_size > 0, err, STATUS_USAGE,
          "--vocabulary-size 0 takes all the words of a data set, and this benchmark makes its "
          "batches up; pass a number");
    CHECK(options->batch_size <= OPS_SEQUENCES_MAX, err, STATUS_USAGE,
          "--batch-size %llu: this benchmark takes batches of up to %d",
          (unsigned long long)options->batch_size, OPS_SEQUENCES_MAX);
    return STATUS_OK;
}

/* ---- variants ---- */

static void add_variant(struct ops_bench *bench, struct ops_variant variant, const char *name) {
    snprintf(variant.name, sizeof variant.name, "%s", name);
    bench->variants[bench->variant_count++] = variant;
}

static void choose_cuda_variants(struct ops_bench *bench) {
    const char *lstm = bench->options->lstm, *isa = bench->options->isa;
    if (strcmp(lstm, "cudnn") != 0) {
        add_variant(bench, (struct ops_variant){.isa = isa, .lstm = "fused", .graph = "on"},
                    "fused");
        add_variant(bench,
                    (struct ops_variant){
                        .isa = isa, .lstm = "fused", .graph = "off", .use = OPS_VARIANT_STEP},
                    "fused-no-graph");
    }
    if (strcmp(lstm, "fused") != 0) {
        add_variant(bench, (struct ops_variant){.isa = isa, .lstm = "cudnn", .graph = "off"},
                    "cudnn");
    }
}

/* The instruction set on all threads, and on one for the rates. */
static void add_isa(struct ops_bench *bench, const char *isa) {
    const struct options *options = bench->options;
    uint32_t threads =
        options->threads > 0 ? (uint32_t)options->threads : backend_cpu_default_threads();
    struct ops_variant variant = {
        .isa = isa, .lstm = options->lstm, .graph = "off", .threads = threads};
    char name[sizeof variant.name];
    add_variant(bench, variant, isa);
    if (threads > 1) {
        variant.threads = 1;
        variant.use = OPS_VARIANT_RECURRENCE;
        snprintf(name, sizeof name, "%.20s/1", isa);
        add_variant(bench, variant, name);
    }
}

/* Is `isa` one of the names, separated by commas, in `list`? */
static bool lists(const char *list, const char *isa) {
    size_t size = strlen(isa);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, isa, size) == 0 && (at[size] == ',' || at[size] == '\0')) {
            return true;
        }
    }
    return false;
}

/* How many names the list has. */
static size_t count_names(const char *list) {
    size_t count = 1;
    for (const char *at = list; (at = strchr(at, ',')) != NULL; at++) {
        count++;
    }
    return count;
}

static enum status choose_cpu_variants(struct ops_bench *bench, struct error *err) {
    const char *const *names = backend_cpu_isa_names();
    const char *asked = bench->options->isa;
    if (strcmp(asked, "auto") == 0) {
        asked = names[0];
    }
    bool all = strcmp(asked, "all") == 0;
    size_t found = 0;
    for (size_t i = 0; names[i] != NULL; i++) {
        if (all || lists(asked, names[i])) {
            add_isa(bench, names[i]);
            found++;
        }
    }
    if (all || found == count_names(asked)) {
        return STATUS_OK;
    }
    char known[128] = "";
    for (size_t i = 0, used = 0; names[i] != NULL && used < sizeof known; i++) {
        used += (size_t)snprintf(known + used, sizeof known - used, ", %s", names[i]);
    }
    return error_set(err, STATUS_DEVICE,
                     "--isa %.80s: expected auto, all, or some of those that this processor runs, "
                     "each once, separated by commas%s",
                     asked, known);
}

/* ---- the command ---- */

static const struct ops_section *find_section(const char *name) {
    const struct ops_section *section = bench_ops_sections;
    while (section->name != NULL && strcmp(section->name, name) != 0) {
        section++;
    }
    return section->name != NULL ? section : NULL;
}

static enum status check_section(const struct ops_bench *bench, struct error *err) {
    const struct ops_section *section = find_section(bench->options->section);
    CHECK(section == NULL || bench->cuda || section->cpu != NULL, err, STATUS_USAGE,
          "--section %s is a GPU's; on the CPU the section recurrence has the same operations",
          section->name);
    return STATUS_OK;
}

/* A section that fails is reported and the next one runs; a stop signal ends all of it. */
static enum status run_sections(struct ops_bench *bench, struct error *err) {
    const struct ops_batch sets[2] = {bench_ops_random_batch(&bench->sizes),
                                      bench_ops_window_batch(&bench->sizes)};
    const struct ops_section *only = find_section(bench->options->section);
    for (size_t i = 0; i < 2; i++) {
        ops_report_lengths(bench->report, sets[i].name, sets[i].lengths, sets[i].sequences);
    }
    for (const struct ops_section *section = bench_ops_sections; section->name != NULL; section++) {
        struct error failure = {0};
        enum status (*run)(struct ops_bench *, struct error *) =
            bench->cuda ? section->cuda : section->cpu;
        if (run != NULL && (only == NULL || only == section) && run(bench, &failure) != STATUS_OK) {
            CHECK(failure.status != STATUS_STOPPED, err, STATUS_STOPPED, "%s", failure.message);
            ops_report_failure(bench->report, section->name, failure.message);
        }
    }
    return STATUS_OK;
}

/* The first variant that is there names the device. */
static enum status open_report(struct ops_bench *bench, struct error *err) {
    struct backend *be = NULL;
    enum status status = STATUS_DEVICE;
    for (size_t i = 0; i < bench->variant_count && be == NULL; i++) {
        status = ops_group_backend(bench, &bench->variants[i], bench->sizes.shape.hidden, &be, err);
    }
    if (be == NULL) {
        return status;
    }
    status =
        ops_report_create(be, bench->options, bench->effort.repeats, stdout, &bench->report, err);
    be->table->free(be);
    return status;
}

/* As loading.c: a GPU where one can be used, unless a path of the CPU is asked for. */
static bool wants_cuda(const struct options *options) {
    if (strcmp(options->device, "auto") == 0) {
        return strcmp(options->isa, "auto") == 0 && backend_cuda_available();
    }
    return strncmp(options->device, "cuda", strlen("cuda")) == 0;
}

enum status cmd_bench_ops(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    bool quick = options->quick;
    unsigned repeats = quick && !options_given(options, "repeats") ? 2 : (unsigned)options->repeats;
    struct ops_bench bench = {
        .options = options,
        .cuda = wants_cuda(options),
        .effort = {.repeats = repeats, .sample_seconds = quick ? 0.0 : 0.01, .times_max = 10000},
        .repeated = quick ? 1 : 16,
    };
    TRY(check_sizes(options, err));
    TRY(check_section(&bench, err));
    choose_sizes(options, &bench.sizes);
    if (bench.cuda) {
        choose_cuda_variants(&bench);
    } else {
        TRY(choose_cpu_variants(&bench, err));
    }
    TRY(open_report(&bench, err));
    enum status status = run_sections(&bench, err);
    unsigned failures = ops_report_failures(bench.report);
    if (status == STATUS_OK) {
        status = ops_report_write(bench.report, err);
    }
    ops_report_free(bench.report);
    if (status == STATUS_OK && failures > 0) {
        status = error_set(err, STATUS_INTERNAL, "%u section%s failed; the table says why",
                           failures, failures == 1 ? "" : "s");
    }
    return status;
}
