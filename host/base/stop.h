/* stop.h - the one flag of the process: has a stop signal arrived?
 *
 * The signal watcher (host/signals.h) raises it; every loop that may run longer than a blink
 * (training, evaluation, vocabulary learning, reading data) polls it and returns STATUS_STOPPED.
 * It lives at the bottom of the house so that every room may poll it. This is the only mutable
 * global of Cairn.
 *
 * THREADS: any thread may call any function; lock-free.
 */
#ifndef CAIRN_HOST_BASE_STOP_H
#define CAIRN_HOST_BASE_STOP_H

#ifdef __cplusplus
extern "C" {
#endif

/* Number of the first stop signal that arrived, 0 while there is none. */
int stop_signal(void);

/* Raise the flag. The first signal stays; later calls change nothing. */
void stop_raise(int signal_number);

/* Lower the flag. For tests only. */
void stop_reset(void);

#ifdef __cplusplus
}
#endif
#endif
