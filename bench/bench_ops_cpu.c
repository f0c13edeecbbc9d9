/* bench_ops_cpu.c - the section "recurrence" on the CPU: every operation of a training step as a
 * rate, and the recurrent kernels as a share of what the multiply-add units can do.
 *
 * The peak is that of the best instruction set of the machine, on as many threads as the kernels
 * have, measured in turns with them. Rates are divided by the peak's fastest repeat: whatever else
 * the machine does slows the peak down as well, and a share must not become larger by that. The
 * time of the recurrent kernels is that of whole lstm_forward and lstm_backward, with the
 * elementwise work and the products of the input.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/bench_ops_count.h"
#include "bench/bench_ops_sections.h"
#include "bench/bench_peak.h"

enum { PEAKS_MAX = OPS_VARIANTS, OPERATIONS = OPS_LSTM_SUBJECTS + 3 };

struct rates_run {
    struct ops_group *group;
    struct bench_peak *peaks[PEAKS_MAX];
    size_t peak_subjects[PEAKS_MAX]; /* index in group->subjects */
    double peak_rates[PEAKS_MAX][BENCH_REPEATS_MAX];
    size_t peak_count;
    size_t first[OPS_VARIANTS]; /* of the variant's subjects */
};

/* ---- the peaks ---- */

/* One of each instruction set and number of threads. */
static enum status add_peak(struct rates_run *run, const char *isa, uint32_t threads,
                            struct error *err) {
    struct bench_peak *peak;
    double seconds = run->group->bench->options->quick ? 0.001 : 0.02;
    TRY(bench_peak_create(isa, threads, seconds, &peak, err));
    for (size_t i = 0; i < run->peak_count; i++) {
        if (strcmp(bench_peak_isa(run->peaks[i]), bench_peak_isa(peak)) == 0 &&
            bench_peak_threads(run->peaks[i]) == threads) {
            bench_peak_free(peak);
            return STATUS_OK;
        }
    }
    run->peaks[run->peak_count++] = peak;
    return STATUS_OK;
}

/* The machine's, and for comparison that of each instruction set alone. */
static enum status add_peaks(struct rates_run *run, struct error *err) {
    struct ops_bench *bench = run->group->bench;
    for (size_t v = 0; v < bench->variant_count; v++) {
        if (run->group->backends[v] != NULL) {
            TRY(add_peak(run, "auto", bench->variants[v].threads, err));
            TRY(add_peak(run, bench->variants[v].isa, bench->variants[v].threads, err));
        }
    }
    for (size_t i = 0; i < run->peak_count; i++) {
        size_t at = run->group->count++;
        run->peak_subjects[i] = at;
        run->group->subjects[at] = (struct bench_subject){.enqueue = bench_peak_run,
                                                          .finish = bench_peak_finish,
                                                          .context = run->peaks[i],
                                                          .per_call = 1,
                                                          .samples = run->group->samples[at],
                                                          .spent = bench_peak_spent(run->peaks[i])};
    }
    return STATUS_OK;
}

static void report_peaks(struct rates_run *run, const char *lengths) {
    unsigned repeats = run->group->bench->effort.repeats;
    for (size_t i = 0; i < run->peak_count; i++) {
        const double *seconds = run->group->samples[run->peak_subjects[i]];
        for (unsigned r = 0; r < repeats; r++) {
            run->peak_rates[i][r] = bench_peak_flops(run->peaks[i]) / seconds[r];
        }
        ops_report_peak(run->group->bench->report, bench_peak_isa(run->peaks[i]),
                        bench_peak_threads(run->peaks[i]), lengths, run->peak_rates[i], repeats);
    }
}

/* What the machine can do on this number of threads. */
static double peak_of(const struct rates_run *run, uint32_t threads) {
    unsigned repeats = run->group->bench->effort.repeats;
    for (size_t i = 0; i < run->peak_count; i++) {
        if (strcmp(bench_peak_isa(run->peaks[i]), backend_cpu_isa_names()[0]) == 0 &&
            bench_peak_threads(run->peaks[i]) == threads) {
            return bench_clock_spread(run->peak_rates[i], repeats).max;
        }
    }
    return 0.0;
}

/* ---- the operations ---- */

static enum status add_operations(struct rates_run *run, const struct ops_batch *batch,
                                  struct error *err) {
    struct ops_group *group = run->group;
    for (size_t v = 0; v < group->bench->variant_count; v++) {
        struct bench_rig *rig;
        if (group->backends[v] == NULL) {
            continue;
        }
        TRY(ops_group_rig(group, v, &group->bench->sizes.shape, batch->lengths, batch->sequences,
                          &rig, err));
        run->first[v] = group->count;
        ops_group_add_lstm(group, v, batch->name, rig);
        ops_group_add(group, "embedding_grad", v, batch->name, rig, bench_rig_embedding_grad, 1,
                      bench_ops_count_embedding_grad(rig));
        ops_group_add(group, "head_forward_backward", v, batch->name, rig, bench_rig_head,
                      group->bench->repeated, bench_ops_count_head(rig));
        ops_group_add(group, "global_norm + adam_step", v, batch->name, rig, bench_rig_update,
                      group->bench->repeated, 0.0);
    }
    return STATUS_OK;
}

/* lstm_backward, in seconds, as an entry like that of both. */
static struct ops_entry backward_of(const struct ops_group *group, size_t first, double *seconds) {
    struct ops_entry entry = group->entries[first + OPS_BOTH];
    for (unsigned i = 0; i < entry.repeats; i++) {
        seconds[i] = group->samples[first + OPS_BOTH][i] - group->samples[first + OPS_FORWARD][i];
    }
    entry.op = "lstm_backward";
    entry.samples = seconds;
    entry.times = 0;
    entry.flops = bench_ops_count_backward(entry.rig);
    return entry;
}

static void report_operations(struct rates_run *run) {
    struct ops_group *group = run->group;
    for (size_t op = 0; op < OPERATIONS; op++) {
        for (size_t v = 0; v < group->bench->variant_count; v++) {
            double seconds[BENCH_REPEATS_MAX];
            if (group->backends[v] == NULL) {
                continue;
            }
            struct ops_entry *entry = &group->entries[run->first[v] + op];
            entry->rates = true;
            entry->peak = peak_of(run, entry->threads);
            ops_report_add(group->bench->report, entry);
            if (op == OPS_BOTH) {
                struct ops_entry backward = backward_of(group, run->first[v], seconds);
                ops_report_add(group->bench->report, &backward);
            }
        }
    }
    for (size_t v = 0; v < group->bench->variant_count; v++) {
        if (group->backends[v] != NULL) {
            ops_report_bar(group->bench->report, &group->entries[run->first[v] + OPS_BOTH]);
        }
    }
}

/* ---- the section ---- */

static enum status measure(struct rates_run *run, const struct ops_batch *batch,
                           struct error *err) {
    TRY(add_operations(run, batch, err));
    CHECK(run->group->rig_count > 0, err, STATUS_DEVICE, "there are no kernels to measure");
    TRY(add_peaks(run, err));
    TRY(ops_group_measure(run->group, err));
    ops_report_batch(run->group->bench->report, run->group->section, batch->name,
                     run->group->rigs[0]);
    report_peaks(run, batch->name);
    report_operations(run);
    return STATUS_OK;
}

static enum status measure_batch(struct ops_bench *bench, const struct ops_batch *batch,
                                 struct error *err) {
    struct rates_run *run = calloc(1, sizeof *run);
    CHECK(run != NULL, err, STATUS_MEMORY, "out of memory");
    run->group =
        ops_group_open(bench, "recurrence", bench->sizes.shape.hidden, OPS_VARIANT_RECURRENCE);
    enum status status = run->group != NULL ? measure(run, batch, err)
                                            : error_set(err, STATUS_MEMORY, "out of memory");
    for (size_t i = 0; i < run->peak_count; i++) {
        bench_peak_free(run->peaks[i]);
    }
    if (run->group != NULL) {
        ops_group_close(run->group);
    }
    free(run);
    return status;
}

enum status bench_ops_cpu_recurrence(struct ops_bench *bench, struct error *err) {
    const struct ops_batch window = bench_ops_window_batch(&bench->sizes);
    const struct ops_batch random = bench_ops_random_batch(&bench->sizes);
    TRY(measure_batch(bench, &window, err));
    return measure_batch(bench, &random, err);
}
