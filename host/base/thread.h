/* thread.h - start a thread that takes no signals.
 *
 * A thread inherits the signal mask of the one that makes it, so all signals are blocked while it
 * is made: they go to the thread that waits for them (host/signals.c), or to the one that the user
 * of the library chose.
 *
 *     int code = thread_start(&thread, body, context);
 *     if (code != 0) {
 *         return error_set(err, STATUS_MEMORY, "cannot start ...: %s", strerror(code));
 *     }
 *     ...
 *     pthread_join(thread, NULL);
 */
#ifndef CAIRN_HOST_BASE_THREAD_H
#define CAIRN_HOST_BASE_THREAD_H

#include <pthread.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Run body(context) in a new thread, which the caller joins. 0, or the errno of pthread_create:
 * there is no thread then. The caller's own mask is as it was. Any thread; does not wait for the
 * new one. */
MUST_USE int thread_start(pthread_t *thread, void *(*body)(void *context), void *context);

#ifdef __cplusplus
}
#endif

#endif
