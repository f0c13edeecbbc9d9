/* queue.h - a bounded first-in first-out queue of pointers between threads.
 *
 * Pre-allocated buffers circulate through two of these (one of free, one of ready buffers); see
 * host/batcher.c and io/writer.c. The queue owns its ring, never what the pointers point to.
 *
 * Usage:
 *     struct queue *ready;
 *     TRY(queue_create(2, &ready, err));
 *     queue_push(ready, batch);              producer; false after queue_close
 *     while ((batch = queue_pop(ready))) {}  consumer; NULL when closed and empty
 *     queue_close(ready); pthread_join(...); queue_free(ready);
 *
 * THREADS: any number of producers and consumers.
 */
#ifndef CAIRN_HOST_BASE_QUEUE_H
#define CAIRN_HOST_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct queue;

/* A queue of at most `capacity` (> 0) entries. The caller frees it with queue_free. */
MUST_USE enum status queue_create(size_t capacity, struct queue **out, struct error *err);

/* Append `item` (not NULL); blocks while the queue is full. False, with nothing appended, when the
 * queue is closed. */
bool queue_push(struct queue *queue, void *item);

/* Take the oldest entry; blocks while the queue is empty and open. NULL when closed and empty. */
void *queue_pop(struct queue *queue);

/* Take the oldest entry without blocking; NULL when there is none now. */
void *queue_try_pop(struct queue *queue);

/* Take the newest entry without blocking; NULL when there is none now. */
void *queue_try_pop_newest(struct queue *queue);

/* Refuse further pushes and wake everyone who waits. Entries already queued can still be popped. */
void queue_close(struct queue *queue);

/* Entries in the queue at this moment. */
size_t queue_count(struct queue *queue);

/* Free the ring. No thread may be inside a call. NULL is fine. */
void queue_free(struct queue *queue);

#ifdef __cplusplus
}
#endif
#endif
