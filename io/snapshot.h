/* snapshot.h - a consistent copy of the training state that training never waits for.
 *
 * Two slots of pinned host memory circulate between the trainer, which fills one, and the
 * checkpoint writer, which drains it. Device tensors all lie in one region (the flat state buffer),
 * copied whole in stream order, or anywhere (a gathering pool), copied one by one: on a device with
 * its own memory first device to device on the compute stream, then to the slot on the copy stream
 * behind an event; with unified memory in one step. Host values are copied by value in the call.
 * Constants (the vocabulary) are not copied: they never change.
 *
 * In host memory there is no copy engine, and a large state takes a processor milliseconds. So a
 * tensor may be called steady: its owner promises to call snapshot_settle before he changes it.
 * Such tensors are not copied in snapshot_fill but by snapshot_wait, on the writer's thread, by
 * snapshot_assist, on any, and by snapshot_settle, whichever is there first: what is between save
 * and update, a forward and a backward pass, hides the copy.
 *
 * Usage (trainer):                                   (writer thread):
 *     slot = snapshot_acquire(pool);                     snapshot_wait(slot, err);
 *     TRY(snapshot_fill(slot, sources, n, err));         checkpoint_encode(.., slot->tensors, ..);
 *     hand over to the writer                            snapshot_release(slot);
 *     forward, backward
 *     snapshot_settle(pool);
 *     update
 *
 * THREADS: acquire, fill and settle on the trainer's thread; wait on the writer's; assist on any. A
 * slot belongs to the trainer from acquire until it is handed over, then to the writer; who has it
 * releases it.
 */
#ifndef CAIRN_IO_SNAPSHOT_H
#define CAIRN_IO_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/tensor.h"
#include "io/put_off.h"
#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SNAPSHOT_SLOTS = 2, SNAPSHOT_TENSORS_MAX = 1024 };

enum snapshot_kind {
    SNAPSHOT_DEVICE,  /* view.data lies in the device region; in a gathering pool anywhere */
    SNAPSHOT_HOST,    /* copied by value; view.data may change after snapshot_fill returns, unless
                         it is called steady */
    SNAPSHOT_CONSTANT /* view.data stays valid and unchanged as long as the pool lives */
};

struct snapshot_source {
    struct tensor_view view;
    enum snapshot_kind kind;
    bool steady; /* does not change between snapshot_fill and snapshot_settle. Means something for
                    host values, and for device tensors where memory is unified */
};

struct snapshot_pool;

struct snapshot_slot {
    struct tensor_view tensors[SNAPSHOT_TENSORS_MAX]; /* what was snapshot; data is host memory */
    size_t tensor_count;
    size_t put_off_bytes;       /* of them, not copied in snapshot_fill */
    struct snapshot_pool *pool; /* private from here */
    uint8_t *device_copy;       /* pinned image of the device region */
    uint8_t *host_copy;         /* by-value tensors, grown outside the step loop */
    size_t host_capacity;
    struct backend_event *copied;
    struct put_off put_off; /* copies that snapshot_wait, _assist or _settle makes */
    bool busy;              /* guarded by the pool's mutex */
};

/* Bytes that the SNAPSHOT_DEVICE tensors of `sources` take in a gathering pool. */
size_t snapshot_gathered_bytes(const struct snapshot_source *sources, size_t count);

/* `device_region` of `device_bytes` holds every SNAPSHOT_DEVICE tensor. NULL with `device_bytes` >
 * 0: the pool gathers; `device_bytes` is snapshot_gathered_bytes of the largest set of them.
 * Allocates both slots (and on a device with its own memory the staging copies) at once;
 * host_capacity bytes for by-value tensors. With `direct` there are no staging copies: device
 * memory goes to the slot on the compute stream, which waits for it. The backend and the region
 * must outlive the pool. */
MUST_USE enum status snapshot_pool_create(struct backend *be, const void *device_region,
                                          size_t device_bytes, size_t host_capacity, bool direct,
                                          struct snapshot_pool **out, struct error *err);
/* All slots must have been released. */
void snapshot_pool_free(struct snapshot_pool *pool);

/* A free slot, or NULL when both are with the writer. Never blocks. */
struct snapshot_slot *snapshot_acquire(struct snapshot_pool *pool);
/* As above, but waits until one is free. */
struct snapshot_slot *snapshot_acquire_wait(struct snapshot_pool *pool);

/* Enqueue the copies and copy host values. Never waits for the device: a copy of an
 * asynchronous device may still be under way (snapshot_wait); in host memory it is done, but for
 * steady tensors. Sources are `count` views that are only needed during the call. Grows the
 * by-value area when it must (never in the step loop: only the epoch history grows). On failure the
 * slot still belongs to the caller, who releases it. */
MUST_USE enum status snapshot_fill(struct snapshot_slot *slot,
                                   const struct snapshot_source *sources, size_t count,
                                   struct error *err);

/* Block until the slot's bytes are all there; copies what was put off. Writer's thread. */
MUST_USE enum status snapshot_wait(struct snapshot_slot *slot, struct error *err);

/* Steady tensors may change from here on: blocks until nobody reads them any more, and copies what
 * was put off and is not yet done. Trainer's thread. */
void snapshot_settle(struct snapshot_pool *pool);

/* Make copies that were put off and that nobody has begun, of any slot, as long as there are any.
 * Any thread, at any time; does not wait for others. */
void snapshot_assist(struct snapshot_pool *pool);

/* What snapshot_assist has copied of this slot, and the processor time that it took; final after
 * snapshot_wait. */
struct snapshot_assisted {
    size_t bytes;
    double cpu_seconds;
};
struct snapshot_assisted snapshot_assisted(struct snapshot_slot *slot);

/* Give the slot back. Copies that were put off and not made are not made any more. */
void snapshot_release(struct snapshot_slot *slot);

/* Bytes of pinned host memory and of device staging memory that the pool holds. */
void snapshot_pool_memory(const struct snapshot_pool *pool, size_t *pinned_bytes,
                          size_t *device_bytes);

#ifdef __cplusplus
}
#endif
#endif
