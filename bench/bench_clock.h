/* bench_clock.h - times of things that are enqueued on a device, by the host's clock.
 *
 * A sample is: wait until the device is idle, enqueue the subject many times, wait again, divide.
 * All subjects of one call take turns, sample by sample, so that a slow stretch of the machine hits
 * them alike and differences between them can be taken pair by pair.
 *
 * Usage:
 *     double a[7], b[7];
 *     struct bench_subject subjects[] = {{forward, finish, rig, 1, a}, {step, finish, rig, 1, b}};
 *     TRY(bench_clock_run(subjects, 2, &effort, err));
 *     struct bench_spread spread = bench_clock_spread(a, effort.repeats);
 *
 * THREADS: the caller's.
 */
#ifndef CAIRN_BENCH_BENCH_CLOCK_H
#define CAIRN_BENCH_BENCH_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { BENCH_REPEATS_MAX = 255 };

struct bench_effort {
    unsigned repeats;      /* samples of each subject, 1 to BENCH_REPEATS_MAX */
    double sample_seconds; /* how long a sample should take at least */
    uint64_t times_max;    /* calls in one sample at most */
};

struct bench_subject {
    enum status (*enqueue)(void *context, struct error *err);
    enum status (*finish)(void *context, struct error *err); /* blocks until all of it has run */
    void *context;
    unsigned per_call; /* how often one call of `enqueue` does the thing that is timed */
    double *samples;   /* [repeats] out, seconds of one */
    uint64_t times;    /* out: how often it was done in one sample */
    /* NULL, or where the subject itself adds up the seconds that count: the clock takes those. */
    const double *spent;
};

/* Warm up, choose `times`, take the samples. STATUS_STOPPED, after the sample that is being taken,
 * on a stop signal. */
MUST_USE enum status bench_clock_run(struct bench_subject *subjects, size_t count,
                                     const struct bench_effort *effort, struct error *err);

struct bench_spread {
    double median, min, max;
};

/* Of 1 to BENCH_REPEATS_MAX samples, which stay as they are. */
struct bench_spread bench_clock_spread(const double *samples, unsigned count);

struct bench_interval {
    double low, high;
};

/* Holds the median of what was sampled with a confidence of 95 % or more, however it is distributed:
 * two of the samples, chosen by their rank (the sign test's interval). NaN for fewer than six
 * samples. */
struct bench_interval bench_clock_confidence(const double *samples, unsigned count);

/* Seconds of a clock that never goes back. */
double bench_clock_now(void);

#ifdef __cplusplus
}
#endif
#endif
