#include "bench/bench_clock.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/base/stop.h"

double bench_clock_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Seconds that `calls` calls take, from an idle device to an idle device. */
static enum status take(const struct bench_subject *subject, uint64_t calls, double *seconds,
                        struct error *err) {
    CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
    TRY(subject->finish(subject->context, err));
    double begin = subject->spent != NULL ? *subject->spent : bench_clock_now();
    for (uint64_t i = 0; i < calls; i++) {
        TRY(subject->enqueue(subject->context, err));
    }
    TRY(subject->finish(subject->context, err));
    *seconds = (subject->spent != NULL ? *subject->spent : bench_clock_now()) - begin;
    return STATUS_OK;
}

/* The first call may record, load code and fault pages in; the second tells how many make a sample.
 */
static enum status choose_times(struct bench_subject *subject, const struct bench_effort *effort,
                                struct error *err) {
    double seconds;
    TRY(take(subject, 1, &seconds, err));
    TRY(take(subject, 1, &seconds, err));
    uint64_t calls = 1;
    if (seconds < effort->sample_seconds) {
        double wanted = seconds > 0.0 ? effort->sample_seconds / seconds + 1.0 : 1e18;
        calls = wanted < (double)effort->times_max ? (uint64_t)wanted : effort->times_max;
    }
    subject->times = calls * subject->per_call;
    return STATUS_OK;
}

enum status bench_clock_run(struct bench_subject *subjects, size_t count,
                            const struct bench_effort *effort, struct error *err) {
    assert(effort->repeats > 0 && effort->repeats <= BENCH_REPEATS_MAX && effort->times_max > 0);
    for (size_t i = 0; i < count; i++) {
        TRY(choose_times(&subjects[i], effort, err));
    }
    for (unsigned repeat = 0; repeat < effort->repeats; repeat++) {
        for (size_t i = 0; i < count; i++) {
            double seconds = 0.0;
            TRY(take(&subjects[i], subjects[i].times / subjects[i].per_call, &seconds, err));
            subjects[i].samples[repeat] = seconds / (double)subjects[i].times;
        }
    }
    return STATUS_OK;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sort(double sorted[BENCH_REPEATS_MAX], const double *samples, unsigned count) {
    assert(count > 0 && count <= BENCH_REPEATS_MAX);
    memcpy(sorted, samples, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_value);
}

struct bench_spread bench_clock_spread(const double *samples, unsigned count) {
    double sorted[BENCH_REPEATS_MAX];
    sort(sorted, samples, count);
    double median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
    return (struct bench_spread){median, sorted[0], sorted[count - 1]};
}

/* The median lies below the sample of rank r (from 0) when r samples or fewer fell below it, which is
 * as likely as r heads or fewer in `count` tosses of a coin. */
struct bench_interval bench_clock_confidence(const double *samples, unsigned count) {
    double sorted[BENCH_REPEATS_MAX];
    sort(sorted, samples, count);
    double heads = pow(0.5, count), at_most = heads; /* exactly `rank` of them; so many or fewer */
    unsigned rank = 0;
    while (at_most <= 0.025) {
        heads *= (double)(count - rank) / (double)(rank + 1);
        rank++;
        at_most += heads;
    }
    if (rank == 0) {
        return (struct bench_interval){(double)NAN, (double)NAN};
    }
    return (struct bench_interval){sorted[rank - 1], sorted[count - rank]};
}
