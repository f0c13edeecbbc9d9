/* signals.h - stop signals become one flag.
 *
 * SIGTERM, SIGINT, SIGUSR1 and SIGHUP (unless ignored at start, as under nohup) are blocked in
 * every thread and taken by one watcher thread with sigwait: the first one raises the flag of
 * host/base/stop.h, the second one ends the process at once with 128 + n (whatever is durable
 * stays). SIGPIPE is ignored: a write to a closed pipe fails with EPIPE and the command ends
 * quietly. So is SIGXFSZ: a write beyond the limit on the size of files fails with EFBIG and is
 * treated as one on a full disk.
 *
 * Usage:
 *     TRY(signals_start(err));     first thing in main, before any other thread
 *
 * THREADS: signals_start on the main thread before others exist; the watcher lives until exit.
 */
#ifndef CAIRN_HOST_SIGNALS_H
#define CAIRN_HOST_SIGNALS_H

#include <sys/types.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

MUST_USE enum status signals_start(struct error *err);

/* "SIGTERM" for a number. */
const char *signals_name(int signal_number);

/* Start the program argv[0], found in PATH, as a child with no signal blocked and the default actions:
 * this process blocks the stop signals and ignores SIGPIPE and SIGXFSZ. Its descriptor `to` is our
 * `from`. Returns 0 or an errno value. */
int signals_spawn(char *const *argv, int from, int to, pid_t *pid);

/* The same with standard input `in` and standard output `out`. */
int signals_spawn_filter(char *const *argv, int in, int out, pid_t *pid);

/* Run `command` (split at white space; single and double quotes group; no shell) as a child process
 * and wait for it. Signal masks are reset in the child. *exit_code: its exit status or 128 +
 * signal. */
MUST_USE enum status signals_run_command(const char *command, int *exit_code, struct error *err);

/* Could `command` be run: is there a word in it, and is every quote closed? STATUS_USAGE otherwise.
 */
MUST_USE enum status signals_check_command(const char *command, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
