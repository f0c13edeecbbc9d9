/* bench_train.c - `cairn bench train`: how fast this machine trains on a data set, and what the
 * time goes into.
 *
 * Every repeat takes, in turns, an epoch (or its first --steps batches) as `cairn train` runs it,
 * the same once more with its phases timed (bench_phases.h), an evaluation of the test part, and in
 * between the machine's peak of multiply-add (bench_peak.h): that of its best instruction set, on
 * as many threads as the kernels have, whatever --isa says. Shares are of its fastest repeat, as
 * those of `bench ops` are: whatever else the machine does can only slow the peak down, and must
 * not make a share larger. Totals come from the pass without phases. What is counted as an
 * operation is documented in bench_train_run.h.
 *
 * Phases: `words` is the table of the distinct words of a batch; taking each token's row from it
 * happens inside `forward`, and is a part of that. `update` is the norm of the gradients and Adam.
 * `wait for batches` is how long the trainer stood still because the batcher's thread, which puts
 * batches together beside it, had none ready. "forward and backward" has the operations of the
 * recurrence over the time of `words`, `forward` and `backward`, which is what `bench ops` times
 * as lstm_forward and lstm_backward. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/bench_clock.h"
#include "bench/bench_peak.h"
#include "bench/bench_phases.h"
#include "bench/bench_report.h"
#include "bench/bench_train_run.h"
#include "host/base/text.h"
#include "host/cmd.h"
#include "host/loading.h"

static const double peak_seconds = 0.1; /* of one run */

/* What one repeat found; seconds unless said otherwise. */
struct repeat {
    struct bench_train_work work;
    struct bench_train_pass pass, phased;
    double phases[BENCH_PHASE_COUNT];
    uint64_t calls[BENCH_PHASE_COUNT];
    double peak; /* the fastest of its runs, operations per second; 0: none */
    double evaluation;
};

struct train_bench {
    const struct options *options;
    struct backend *be;
    struct bench_train_run *run;
    struct bench_peak *peak; /* NULL on a GPU */
    struct bench_report *report;
    unsigned repeats;
    struct repeat *found; /* [repeats] */
    double peak_rate;     /* the fastest of all repeats */
};

/* ---- measuring ---------------------------------------------------------------------------- */

static enum status time_peak(struct train_bench *bench, struct repeat *repeat, struct error *err) {
    if (bench->peak == NULL) {
        return STATUS_OK;
    }
    double before = *bench_peak_spent(bench->peak);
    TRY(bench_peak_run(bench->peak, err));
    double rate = bench_peak_flops(bench->peak) / (*bench_peak_spent(bench->peak) - before);
    repeat->peak = fmax(repeat->peak, rate);
    bench->peak_rate = fmax(bench->peak_rate, rate);
    return STATUS_OK;
}

static enum status run_phased(struct train_bench *bench, uint64_t epoch, struct repeat *repeat,
                              struct error *err) {
    struct bench_phases phases;
    bench_phases_begin(&phases, bench->be);
    enum status status = bench_train_run_pass(bench->run, epoch, true, &repeat->phased, err);
    bench_phases_end(&phases);
    memcpy(repeat->phases, phases.seconds, sizeof repeat->phases);
    memcpy(repeat->calls, phases.calls, sizeof repeat->calls);
    return status;
}

static enum status measure_repeat(struct train_bench *bench, unsigned index, struct error *err) {
    struct repeat *repeat = &bench->found[index];
    TRY(bench_train_run_work(bench->run, index, &repeat->work, err));
    TRY(time_peak(bench, repeat, err));
    TRY(bench_train_run_pass(bench->run, index, false, &repeat->pass, err));
    TRY(time_peak(bench, repeat, err));
    TRY(run_phased(bench, index, repeat, err));
    TRY(time_peak(bench, repeat, err));
    if (bench_train_run_corpora(bench->run)->validation.examples > 0) {
        TRY(bench_train_run_evaluate(bench->run, &repeat->evaluation, err));
    }
    return STATUS_OK;
}

/* ---- reporting ---------------------------------------------------------------------------- */

/* A figure of one repeat, in the unit that is shown. */
typedef double (*figure_function)(const struct train_bench *bench, const struct repeat *repeat);

static void figure(struct train_bench *bench, const char *name, const char *unit,
                   figure_function of) {
    double samples[BENCH_REPEATS_MAX];
    for (unsigned i = 0; i < bench->repeats; i++) {
        samples[i] = of(bench, &bench->found[i]);
    }
    bench_report_figure(bench->report, name, unit, 1.0, samples, bench->repeats);
}

static double pass_seconds(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return repeat->pass.seconds;
}

static double step_ms(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return 1e3 * repeat->pass.seconds / (double)repeat->work.steps;
}

static double tokens_rate(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return (double)repeat->work.tokens / repeat->pass.seconds;
}

static double examples_rate(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return (double)repeat->work.examples / repeat->pass.seconds;
}

static double recurrence_rate(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return 1e-9 * repeat->work.recurrence / repeat->pass.seconds;
}

static double products_rate(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    const struct bench_train_work *work = &repeat->work;
    return 1e-9 * (work->recurrence + work->word_products + work->head) / repeat->pass.seconds;
}

static double peak_rate(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return 1e-9 * repeat->peak;
}

static double pass_share(const struct train_bench *bench, const struct repeat *repeat) {
    return 1e11 * recurrence_rate(bench, repeat) / bench->peak_rate;
}

static double saves_made(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return (double)repeat->pass.saves;
}

static double saves_skipped(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return (double)repeat->pass.skipped;
}

static void report_training(struct train_bench *bench) {
    bool whole = bench->options->steps == 0;
    bench_report_section(bench->report, "training");
    figure(bench, whole ? "epoch" : "pass", "s", pass_seconds);
    figure(bench, "step", "ms", step_ms);
    figure(bench, "tokens", "tokens/s", tokens_rate);
    figure(bench, "examples", "examples/s", examples_rate);
    figure(bench, "recurrence", "GFLOP/s", recurrence_rate);
    figure(bench, "all products", "GFLOP/s", products_rate);
    if (bench->options->save_checkpoints_steps > 0) { /* none is due without */
        figure(bench, "saves", "a pass", saves_made);
        figure(bench, "skipped saves", "a pass", saves_skipped);
    }
    if (bench->peak != NULL) {
        figure(bench, "multiply-add peak", "GFLOP/s", peak_rate);
        figure(bench, "recurrence of peak", "%", pass_share);
    }
}

/* lstm_forward and lstm_backward, with the elementwise work and the products of the input. */
static double recurrence_seconds(const struct repeat *repeat) {
    return repeat->phases[BENCH_PHASE_WORDS] + repeat->phases[BENCH_PHASE_FORWARD] +
           repeat->phases[BENCH_PHASE_BACKWARD];
}

static double kernels_rate(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return 1e-9 * repeat->work.recurrence / recurrence_seconds(repeat);
}

static double kernels_share(const struct train_bench *bench, const struct repeat *repeat) {
    return 1e11 * kernels_rate(bench, repeat) / bench->peak_rate;
}

static double phased_per_step(const struct repeat *repeat, double seconds) {
    return 1e3 * seconds / (double)repeat->work.steps;
}

static double batch_ms(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return phased_per_step(repeat, repeat->phased.batch_seconds);
}

static double save_ms(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return phased_per_step(repeat, repeat->phased.save_seconds);
}

static double rest_ms(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    double rest =
        repeat->phased.seconds - repeat->phased.batch_seconds - repeat->phased.save_seconds;
    for (int i = 0; i < BENCH_PHASE_COUNT; i++) {
        rest -= repeat->phases[i];
    }
    return phased_per_step(repeat, rest);
}

static double phased_ms(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return phased_per_step(repeat, repeat->phased.seconds);
}

static double order_ms(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return 1e3 * repeat->work.order_seconds;
}

static double save_us(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return 1e6 * repeat->phased.save_seconds_max;
}

static double phased_saves_made(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return (double)repeat->phased.saves;
}

static double phased_saves_skipped(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return (double)repeat->phased.skipped;
}

static void report_operations(struct train_bench *bench) {
    double samples[BENCH_REPEATS_MAX];
    for (enum bench_phase phase = 0; phase < BENCH_PHASE_COUNT; phase++) {
        for (unsigned i = 0; i < bench->repeats; i++) {
            samples[i] = phased_per_step(&bench->found[i], bench->found[i].phases[phase]);
        }
        if (bench->found[0].calls[phase] > 0) { /* not every backend has "words" by itself */
            bench_report_figure(bench->report, bench_phase_name(phase), "ms/step", 1.0, samples,
                                bench->repeats);
        }
    }
}

static void report_phases(struct train_bench *bench) {
    bench_report_section(bench->report, "phases");
    report_operations(bench);
    figure(bench, "wait for batches", "ms/step", batch_ms);
    figure(bench, "snapshots", "ms/step", save_ms);
    figure(bench, "rest", "ms/step", rest_ms);
    figure(bench, "all of it", "ms/step", phased_ms);
    figure(bench, "saves", "a pass", phased_saves_made);
    if (bench->options->save_checkpoints_steps > 0) { /* the one at the end is never skipped */
        figure(bench, "skipped saves", "a pass", phased_saves_skipped);
    }
    figure(bench, "longest stall of a save", "us", save_us);
    figure(bench, "order, in background", "ms/epoch", order_ms);
    figure(bench, "forward and backward", "GFLOP/s", kernels_rate);
    if (bench->peak != NULL) {
        figure(bench, "of multiply-add peak", "%", kernels_share);
    }
}

static double evaluation_seconds(const struct train_bench *bench, const struct repeat *repeat) {
    (void)bench;
    return repeat->evaluation;
}

static double evaluation_rate(const struct train_bench *bench, const struct repeat *repeat) {
    double examples = (double)bench_train_run_corpora(bench->run)->validation.examples;
    return examples / repeat->evaluation;
}

static void report_evaluation(struct train_bench *bench) {
    if (bench_train_run_corpora(bench->run)->validation.examples == 0) {
        return;
    }
    bench_report_section(bench->report, "evaluation");
    figure(bench, "evaluation", "s", evaluation_seconds);
    figure(bench, "examples", "examples/s", evaluation_rate);
}

static void report_facts(struct train_bench *bench) {
    const struct corpora *corpora = bench_train_run_corpora(bench->run);
    const struct model_shape *shape = bench_train_run_shape(bench->run);
    const struct bench_train_work *work = &bench->found[0].work;
    struct rusage usage = {0};
    bool simulated = strncmp(bench->be->kernel_path, "simulated", strlen("simulated")) == 0;
    bench_report_fact(bench->report, "data", "%s: %llu examples, %llu tokens, %llu for evaluation",
                      bench->options->data, (unsigned long long)corpora->train.examples,
                      (unsigned long long)corpora->train.token_count,
                      (unsigned long long)corpora->validation.examples);
    bench_report_fact(bench->report, "model", "V %u, E %u, H %u, D %u", shape->vocabulary,
                      shape->embedding, shape->hidden, shape->dense);
    bench_report_fact(bench->report, "pass", "%llu batches: %llu examples, %llu tokens",
                      (unsigned long long)work->steps, (unsigned long long)work->examples,
                      (unsigned long long)work->tokens);
    bench_report_number(bench->report, "load", bench_train_run_load_seconds(bench->run), "s");
    bench_report_number(bench->report, "distinct words", (double)work->words / (double)work->steps,
                        "a batch");
    bench_report_number(bench->report, "recurrence", 1e-9 * work->recurrence, "GFLOP a pass");
    bench_report_number(bench->report, "word products", 1e-9 * work->word_products, "GFLOP a pass");
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        bench_report_number(bench->report, "peak memory", (double)usage.ru_maxrss / 1024.0, "MiB");
    }
    if (bench->peak != NULL) {
        bench_report_fact(bench->report, "multiply-add peak", "of %s, %u thread%s",
                          bench_peak_isa(bench->peak), bench_peak_threads(bench->peak),
                          bench_peak_threads(bench->peak) == 1 ? "" : "s");
    } else {
        bench_report_fact(bench->report, "multiply-add peak", "not measured on %s%s",
                          bench->be->device,
                          simulated ? ", a simulated device: its times mean nothing" : "");
    }
}

/* ---- the command -------------------------------------------------------------------------- */

static bool on_cpu(const struct train_bench *bench) {
    return strcmp(bench->be->device, "cpu") == 0;
}

static enum status open_bench(struct train_bench *bench, struct error *err) {
    const struct options *options = bench->options;
    TRY(loading_create_backend(options, options->hidden_size, &bench->be, err));
    uint32_t threads = (uint32_t)options->threads;
    threads = threads > 0 ? threads : backend_cpu_default_threads();
    TRY(bench_report_create(options, stdout, &bench->report, err));
    bench_report_device(bench->report, bench->be);
    if (on_cpu(bench)) {
        TRY(bench_peak_create("auto", threads, peak_seconds, &bench->peak, err));
    }
    bench->found = calloc(bench->repeats, sizeof *bench->found);
    CHECK(bench->found != NULL, err, STATUS_MEMORY, "out of memory for the figures");
    return bench_train_run_open(options, bench->be, &bench->run, err);
}

static void close_bench(struct train_bench *bench) {
    bench_train_run_close(bench->run);
    bench_peak_free(bench->peak);
    bench_report_free(bench->report);
    free(bench->found);
    if (bench->be != NULL) {
        bench->be->table->free(bench->be);
    }
}

static enum status run_bench(struct train_bench *bench, struct error *err) {
    TRY(open_bench(bench, err));
    TRY(bench_train_run_warm_up(bench->run, err));
    for (unsigned i = 0; i < bench->repeats; i++) {
        TRY(measure_repeat(bench, i, err));
    }
    report_facts(bench);
    report_training(bench);
    report_phases(bench);
    report_evaluation(bench);
    return bench_report_write(bench->report, err);
}

enum status cmd_bench_train(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    struct train_bench bench = {.options = options, .repeats = (unsigned)options->repeats};
    enum status status = run_bench(&bench, err);
    close_bench(&bench);
    return status;
}
