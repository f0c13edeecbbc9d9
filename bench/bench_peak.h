/* bench_peak.h - the rate of single-precision multiply-add that a machine reaches, measured.
 *
 * Threads multiply and add in registers alone (kernels/cpu/cpu_probe.h), all beginning together,
 * and the slowest one ends the run: what kernels could reach at most if they did nothing else. What
 * it takes to wake the threads up does not count. A multiply-add counts as two operations. Threads
 * are not bound to cores, as those of the CPU backend are not. A rate that others are compared with
 * should be taken beside them, in turns; its fastest repeat is the machine's, since whatever else
 * the machine does can only slow it down:
 *
 *     struct bench_peak *peak;
 *     TRY(bench_peak_create("auto", 2, 0.02, &peak, err));
 *     struct bench_subject subject = {bench_peak_run, bench_peak_finish, peak, 1, samples, 0,
 *                                     bench_peak_spent(peak)};
 *     TRY(bench_clock_run(&subject, 1, &effort, err));
 *     rate = bench_peak_flops(peak) / samples[0];
 *     bench_peak_free(peak);
 *
 * or, where nothing else is going on, TRY(bench_peak_measure("auto", 2, 0.2, &rate, err)).
 *
 * THREADS: the caller's is one of them; the others live as long as the object and sleep between
 * runs.
 */
#ifndef CAIRN_BENCH_BENCH_PEAK_H
#define CAIRN_BENCH_BENCH_PEAK_H

#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct bench_peak;

/* `isa`: "auto" or "reference" for the best instruction set of this processor, or a name of
 * backend_cpu_isa_names(); `threads`: 0 for as many as the CPU backend takes by default.
 * `run_seconds`: about how long one run should take. Measures that for about as long. STATUS_DEVICE
 * when the processor lacks the instruction set. */
MUST_USE enum status bench_peak_create(const char *isa, uint32_t threads, double run_seconds,
                                       struct bench_peak **out, struct error *err);
void bench_peak_free(struct bench_peak *peak); /* NULL is fine */

/* One run on all threads; blocks. For bench_clock, as is bench_peak_finish, which does nothing. */
MUST_USE enum status bench_peak_run(void *peak, struct error *err);
MUST_USE enum status bench_peak_finish(void *peak, struct error *err);

/* Seconds of all runs so far, each from the moment all threads were there; for bench_clock. Valid
 * as long as the object. */
const double *bench_peak_spent(const struct bench_peak *peak);

double bench_peak_flops(const struct bench_peak *peak);     /* operations of one run, all threads */
const char *bench_peak_isa(const struct bench_peak *peak);  /* "avx512"; static */
uint32_t bench_peak_threads(const struct bench_peak *peak); /* from 1 */

/* The median rate of some runs that take about `seconds` together, in operations per second. */
MUST_USE enum status bench_peak_measure(const char *isa, uint32_t threads, double seconds,
                                        double *flops_per_second, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
