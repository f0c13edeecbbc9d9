#include "bench/bench_peak.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_clock.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_pool.h"
#include "kernels/cpu/cpu_probe.h"

struct bench_peak {
    const struct cpu_probe *probe;
    struct cpu_pool *pool;
    uint32_t threads;
    uint64_t rounds; /* of each thread in a run */
    double flops;    /* of a run */
    atomic_uint arrived;
};

static const struct cpu_probe *find_probe(const char *isa) {
    if (strcmp(isa, "auto") == 0 || strcmp(isa, "reference") == 0) {
        isa = backend_cpu_isa_names()[0];
    }
    return cpu_probe_find(isa);
}

/* A thread that waits here cannot take a second task: each gets one, and all begin together. */
static void wait_for_all(struct bench_peak *peak) {
    atomic_fetch_add(&peak->arrived, 1);
    while (atomic_load(&peak->arrived) < peak->threads) {
    }
}

static void run_one_thread(void *context, uint32_t index) {
    (void)index;
    struct bench_peak *peak = context;
    wait_for_all(peak);
    (void)peak->probe->multiply_add(peak->rounds);
}

enum status bench_peak_run(void *context, struct error *err) {
    (void)err;
    struct bench_peak *peak = context;
    atomic_store(&peak->arrived, 0);
    cpu_pool_run(peak->pool, peak->threads, run_one_thread, peak);
    return STATUS_OK;
}

enum status bench_peak_finish(void *context, struct error *err) {
    (void)context, (void)err;
    return STATUS_OK;
}

/* Doubles the rounds until a run is long enough to tell how many `run_seconds` are. */
static void choose_rounds(struct bench_peak *peak, double run_seconds) {
    for (uint64_t rounds = 1024;; rounds *= 2) {
        double begin = bench_clock_now();
        double flops = peak->probe->multiply_add(rounds);
        double seconds = bench_clock_now() - begin;
        if (seconds > run_seconds / 4.0) {
            double wanted = (double)rounds * run_seconds / seconds;
            peak->rounds = wanted > 1.0 ? (uint64_t)wanted : 1;
            peak->flops = flops / (double)rounds * (double)peak->rounds * peak->threads;
            return;
        }
    }
}

enum status bench_peak_create(const char *isa, uint32_t threads, double run_seconds,
                              struct bench_peak **out, struct error *err) {
    *out = NULL;
    const struct cpu_probe *probe = find_probe(isa);
    CHECK(probe != NULL, err, STATUS_DEVICE,
          "the rate of multiply-add cannot be measured with the instruction set '%.40s': this "
          "processor or this build lacks it",
          isa);
    struct bench_peak *peak = calloc(1, sizeof *peak);
    CHECK(peak != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    peak->probe = probe;
    peak->threads = threads > 0 ? threads : backend_cpu_default_threads();
    atomic_init(&peak->arrived, 0);
    enum status status = cpu_pool_create(peak->threads, &peak->pool, err);
    if (status != STATUS_OK) {
        bench_peak_free(peak);
        return status;
    }
    choose_rounds(peak, run_seconds);
    *out = peak;
    return STATUS_OK;
}

void bench_peak_free(struct bench_peak *peak) {
    if (peak != NULL) {
        cpu_pool_free(peak->pool);
        free(peak);
    }
}

double bench_peak_flops(const struct bench_peak *peak) {
    return peak->flops;
}

const char *bench_peak_isa(const struct bench_peak *peak) {
    return peak->probe->isa;
}

uint32_t bench_peak_threads(const struct bench_peak *peak) {
    return peak->threads;
}

enum status bench_peak_measure(const char *isa, uint32_t threads, double seconds,
                               double *flops_per_second, struct error *err) {
    enum { RUNS = 5 };
    struct bench_peak *peak;
    double samples[RUNS];
    TRY(bench_peak_create(isa, threads, seconds / (RUNS + 2), &peak, err)); /* 2 to warm up */
    struct bench_subject subject = {bench_peak_run, bench_peak_finish, peak, 1, samples, 0};
    const struct bench_effort effort = {.repeats = RUNS, .sample_seconds = 0.0, .times_max = 1};
    enum status status = bench_clock_run(&subject, 1, &effort, err);
    if (status == STATUS_OK) {
        *flops_per_second = peak->flops / bench_clock_spread(samples, RUNS).median;
    }
    bench_peak_free(peak);
    return status;
}
