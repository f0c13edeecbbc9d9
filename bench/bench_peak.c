#include "bench/bench_peak.h"

#include <sched.h>
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
    double spent;    /* seconds of all runs so far */
    atomic_uint arrived;
    struct stretch {
        double begin, end;
    } * stretches; /* [threads] of the latest run */
};

static const struct cpu_probe *find_probe(const char *isa) {
    if (strcmp(isa, "auto") == 0 || strcmp(isa, "reference") == 0) {
        isa = backend_cpu_isa_names()[0];
    }
    return cpu_probe_find(isa);
}

/* A thread that waits here cannot take a second task: each gets one, and all begin together. On a
 * machine that is busy the one they wait for may need the core of one that waits. */
static void wait_for_all(struct bench_peak *peak) {
    atomic_fetch_add(&peak->arrived, 1);
    while (atomic_load(&peak->arrived) < peak->threads) {
        sched_yield();
    }
}

static void run_one_thread(void *context, uint32_t index) {
    struct bench_peak *peak = context;
    wait_for_all(peak);
    peak->stretches[index].begin = bench_clock_now();
    (void)peak->probe->multiply_add(peak->rounds);
    peak->stretches[index].end = bench_clock_now();
}

/* From the first thread that begins to the last that ends: waking them up is no part of it. */
static double seconds_of_run(const struct bench_peak *peak) {
    struct stretch all = peak->stretches[0];
    for (uint32_t i = 1; i < peak->threads; i++) {
        const struct stretch *one = &peak->stretches[i];
        all.begin = one->begin < all.begin ? one->begin : all.begin;
        all.end = one->end > all.end ? one->end : all.end;
    }
    return all.end - all.begin;
}

enum status bench_peak_run(void *context, struct error *err) {
    (void)err;
    struct bench_peak *peak = context;
    atomic_store(&peak->arrived, 0);
    cpu_pool_run(peak->pool, peak->threads, run_one_thread, peak);
    peak->spent += seconds_of_run(peak);
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
    peak->stretches = calloc(peak->threads, sizeof *peak->stretches);
    enum status status = peak->stretches != NULL
                             ? cpu_pool_create(peak->threads, &peak->pool, err)
                             : error_set(err, STATUS_MEMORY, "out of memory for a benchmark");
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
        free(peak->stretches);
        free(peak);
    }
}

double bench_peak_flops(const struct bench_peak *peak) {
    return peak->flops;
}

const double *bench_peak_spent(const struct bench_peak *peak) {
    return &peak->spent;
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
    struct bench_subject subject = {bench_peak_run,        bench_peak_finish, peak, 1, samples, 0,
                                    bench_peak_spent(peak)};
    const struct bench_effort effort = {.repeats = RUNS, .sample_seconds = 0.0, .times_max = 1};
    enum status status = bench_clock_run(&subject, 1, &effort, err);
    if (status == STATUS_OK) {
        *flops_per_second = peak->flops / bench_clock_spread(samples, RUNS).median;
    }
    bench_peak_free(peak);
    return status;
}
