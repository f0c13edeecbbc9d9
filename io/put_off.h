/* put_off.h - copies that are put off until somebody needs them.
 *
 * A list of copies that one thread makes known and any thread may carry out, in pieces, together
 * with others. For the snapshot: the trainer only lists what is to be copied; the writer's thread,
 * or while that is still at an earlier save a thread of its own, makes the copies while the next
 * batch goes forward and backward, and the trainer what is left of them when it is about to change
 * the source (CheckFreq's overlapped snapshot, Mohan, Phanishayee and Chidambaram, FAST 2021).
 *
 * Usage (trainer):                                   (writer thread):
 *     put_off_clear(&copies);                            put_off_finish(&copies);
 *     put_off_add(&copies, to, from, bytes);             read `to`
 *     hand over to the writer                        (a thread that helps):
 *     put_off_finish(&copies);      ... then change `from`   put_off_assist(&copies);
 *
 * THREADS: init and deinit by one thread while no other uses the list; clear and add by one thread
 * at a time, whoever owns the slot; finish and assist by any number, at any time.
 */
#ifndef CAIRN_IO_PUT_OFF_H
#define CAIRN_IO_PUT_OFF_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct put_off_copy {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
};

struct put_off {
    size_t capacity;
    bool has_mutex, has_done;

    pthread_mutex_t mutex;       /* guards the rest */
    pthread_cond_t done;         /* the last piece was copied */
    struct put_off_copy *copies; /* [capacity] */
    size_t count;
    size_t next, offset;         /* where the first piece begins that nobody has taken */
    size_t under_way;            /* pieces taken and not yet copied */
    size_t assisted_bytes;       /* that put_off_assist copied since the last clear, */
    double assisted_cpu_seconds; /* and the processor time that it took */
};

/* Room for `capacity` copies. STATUS_MEMORY, and then nothing is to be freed but by deinit. */
MUST_USE enum status put_off_init(struct put_off *list, size_t capacity, struct error *err);
/* Zeroed memory is fine. */
void put_off_deinit(struct put_off *list);

/* Forget all copies, also those that were not made; waits for pieces that other threads are at. */
void put_off_clear(struct put_off *list);

/* One copy more, at most `capacity`; one that goes on where the last one ends, in source and
 * destination, is joined to it. Neither range may be freed, `to` not be used, nor `from` changed
 * before put_off_finish or put_off_clear. Never blocks. */
void put_off_add(struct put_off *list, void *to, const void *from, size_t bytes);

/* Make the copies that nobody has made, in pieces, and wait for the pieces of other threads: on
 * return all of them are there. */
void put_off_finish(struct put_off *list);

/* Make copies as long as there is one that nobody has taken; does not wait for other threads. */
void put_off_assist(struct put_off *list);

#ifdef __cplusplus
}
#endif
#endif
