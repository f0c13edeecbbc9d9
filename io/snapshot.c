/* snapshot.c - two slots, and the asynchronous copies that fill them.
 *
 * Why no further synchronisation is needed, although nobody waits for a copy:
 *  - The image of the device region is taken in compute-stream order: every op enqueued before
 *    snapshot_fill has run, none enqueued later has. From then on training may change the region.
 *  - A device with its own memory has one staging buffer per slot, not one for both: the slow copy
 *    to the host of one slot and the next snapshot's fast copy into the other one never meet.
 *  - A slot comes back only after snapshot_wait has seen `copied`, so its staging buffer and image
 *    are idle when it is filled again. The exception is a waiting save that a newer one replaces
 *    while its copy to the host still runs: the new staging copy is ordered behind that copy, on
 *    the device.
 *  - Copies that were put off need no order: they read what does not change before snapshot_settle.
 *    Those of a waiting save that is replaced are forgotten; of what snapshot_assist is at, the end
 *    is waited for.
 */
#include "io/snapshot.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/memory.h"

enum {
    HOST_ALIGNMENT = 8,     /* by-value tensors start at multiples of it: the largest element */
    GATHER_ALIGNMENT = 256, /* so do gathered ones: copies of a device like it */
    PAGE_BYTES = 4096,      /* the smallest page there is */
    SPARE_MAX = 1 << 20     /* by-value bytes for which a slot grows ahead of need */
};

struct snapshot_pool {
    /* constant after create */
    struct backend *be;
    const uint8_t *region; /* NULL: the pool gathers, or has no device tensors */
    size_t device_bytes;
    bool staged;                      /* device memory is copied on the device first */
    uint8_t *staging[SNAPSHOT_SLOTS]; /* device memory; NULL unless staged */
    struct backend_event *staged_event[SNAPSHOT_SLOTS]; /* the region is in the staging buffer */
    bool has_mutex, has_freed;

    pthread_mutex_t mutex;
    pthread_cond_t freed; /* a slot was released */
    struct snapshot_slot slots[SNAPSHOT_SLOTS];
};

/* ---- create and free ---- */

/* Written once here, so that no page fault falls into the step loop. Volatile: of a malloc and a
 * memset to zero compilers make a calloc, which touches nothing. */
static void touch_pages(uint8_t *memory, size_t bytes) {
    volatile uint8_t *touch = memory;
    for (size_t i = 0; i < bytes; i += PAGE_BYTES) {
        touch[i] = 0;
    }
    touch[bytes - 1] = 0;
}

static enum status grow_host_copy(struct snapshot_slot *slot, size_t bytes, struct error *err) {
    if (bytes <= slot->host_capacity && slot->host_copy != NULL) {
        return STATUS_OK;
    }
    /* When it grows, by half as much again, so that a history that grows by a row per epoch does
     * not come here each time. The old content is of no use, and both need not fit at once. */
    size_t spare = slot->host_copy == NULL ? 0 : bytes / 2;
    size_t capacity = bytes + (spare < SPARE_MAX ? spare : SPARE_MAX) + HOST_ALIGNMENT;
    free(slot->host_copy);
    slot->host_capacity = 0;
    slot->host_copy = malloc(capacity);
    CHECK(slot->host_copy != NULL, err, STATUS_MEMORY,
          "snapshot: no memory for %zu bytes of host values; nothing was saved", capacity);
    memory_ask_large_pages(slot->host_copy, capacity);
    touch_pages(slot->host_copy, capacity);
    slot->host_capacity = capacity;
    return STATUS_OK;
}

static enum status create_slot(struct snapshot_pool *pool, size_t index, size_t host_capacity,
                               struct error *err) {
    const struct backend_table *table = pool->be->table;
    struct snapshot_slot *slot = &pool->slots[index];
    slot->pool = pool;
    TRY(put_off_init(&slot->put_off, SNAPSHOT_TENSORS_MAX, err));
    TRY(table->event_create(pool->be, &slot->copied, err));
    TRY(grow_host_copy(slot, host_capacity, err));
    if (pool->device_bytes == 0) {
        return STATUS_OK;
    }
    TRY(table->host_alloc(pool->be, pool->device_bytes, (void **)&slot->device_copy, err));
    if (pool->staged) {
        TRY(table->event_create(pool->be, &pool->staged_event[index], err));
        TRY(table->device_alloc(pool->be, pool->device_bytes, (void **)&pool->staging[index], err));
    }
    return STATUS_OK;
}

static void free_slot(struct snapshot_pool *pool, size_t index) {
    const struct backend_table *table = pool->be->table;
    struct snapshot_slot *slot = &pool->slots[index];
    assert(!slot->busy);
    table->device_free(pool->be, pool->staging[index]);
    if (pool->staged_event[index] != NULL) {
        table->event_free(pool->be, pool->staged_event[index]);
    }
    if (slot->device_copy != NULL) {
        table->host_free(pool->be, slot->device_copy);
    }
    if (slot->copied != NULL) {
        table->event_free(pool->be, slot->copied);
    }
    put_off_deinit(&slot->put_off);
    free(slot->host_copy);
}

enum status snapshot_pool_create(struct backend *be, const void *device_region, size_t device_bytes,
                                 size_t host_capacity, bool direct, struct snapshot_pool **out,
                                 struct error *err) {
    *out = NULL;
    struct snapshot_pool *pool = calloc(1, sizeof *pool);
    CHECK(pool != NULL, err, STATUS_MEMORY, "snapshot: no memory for the pool");
    pool->be = be;
    pool->region = device_region;
    pool->device_bytes = device_bytes;
    pool->staged = !direct && !be->unified_memory;
    pool->has_mutex = pthread_mutex_init(&pool->mutex, NULL) == 0;
    pool->has_freed = pthread_cond_init(&pool->freed, NULL) == 0;
    enum status status = STATUS_OK;
    if (!pool->has_mutex || !pool->has_freed) {
        status = error_set(err, STATUS_MEMORY, "snapshot: cannot create a lock");
    }
    for (size_t i = 0; i < SNAPSHOT_SLOTS && status == STATUS_OK; i++) {
        status = create_slot(pool, i, host_capacity, err);
    }
    if (status != STATUS_OK) {
        snapshot_pool_free(pool);
        return status;
    }
    *out = pool;
    return STATUS_OK;
}

void snapshot_pool_free(struct snapshot_pool *pool) {
    if (pool == NULL) {
        return;
    }
    /* A fill that failed half-way may have left copies running; what they report no longer matters.
     */
    (void)pool->be->table->stream_synchronize(pool->be, BACKEND_STREAM_COMPUTE, NULL);
    (void)pool->be->table->stream_synchronize(pool->be, BACKEND_STREAM_COPY, NULL);
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        free_slot(pool, i);
    }
    if (pool->has_freed) {
        pthread_cond_destroy(&pool->freed);
    }
    if (pool->has_mutex) {
        pthread_mutex_destroy(&pool->mutex);
    }
    free(pool);
}

void snapshot_pool_memory(const struct snapshot_pool *pool, size_t *pinned_bytes,
                          size_t *device_bytes) {
    size_t images = SNAPSHOT_SLOTS * pool->device_bytes;
    *pinned_bytes = images;
    *device_bytes = pool->staged ? images : 0;
}

/* ---- acquire and release ---- */

static struct snapshot_slot *acquire_locked(struct snapshot_pool *pool) {
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        if (!pool->slots[i].busy) {
            pool->slots[i].busy = true;
            return &pool->slots[i];
        }
    }
    return NULL;
}

struct snapshot_slot *snapshot_acquire(struct snapshot_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    struct snapshot_slot *slot = acquire_locked(pool);
    pthread_mutex_unlock(&pool->mutex);
    return slot;
}

struct snapshot_slot *snapshot_acquire_wait(struct snapshot_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    struct snapshot_slot *slot = acquire_locked(pool);
    while (slot == NULL) {
        pthread_cond_wait(&pool->freed, &pool->mutex);
        slot = acquire_locked(pool);
    }
    pthread_mutex_unlock(&pool->mutex);
    return slot;
}

void snapshot_release(struct snapshot_slot *slot) {
    struct snapshot_pool *pool = slot->pool;
    put_off_clear(&slot->put_off);
    pthread_mutex_lock(&pool->mutex);
    assert(slot->busy);
    slot->busy = false;
    pthread_cond_signal(&pool->freed);
    pthread_mutex_unlock(&pool->mutex);
}

/* ---- places ---- */

static size_t align_up(size_t bytes, size_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

size_t snapshot_gathered_bytes(const struct snapshot_source *sources, size_t count) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        if (sources[i].kind == SNAPSHOT_DEVICE && tensor_bytes(&sources[i].view, &bytes)) {
            total += align_up((size_t)bytes, GATHER_ALIGNMENT);
        }
    }
    return total;
}

/* A device tensor's place in the slot's image; *gathered: bytes of it that are taken. */
static enum status place_device_tensor(struct snapshot_slot *slot, struct tensor_view *tensor,
                                       uint64_t bytes, size_t *gathered, struct error *err) {
    const struct snapshot_pool *pool = slot->pool;
    /* As numbers: comparing pointers into different objects has no meaning in C. */
    uintptr_t offset =
        pool->region == NULL ? *gathered : (uintptr_t)tensor->data - (uintptr_t)pool->region;
    CHECK(bytes <= pool->device_bytes && offset <= pool->device_bytes - bytes, err, STATUS_INTERNAL,
          "snapshot: tensor %s does not lie in the device region", tensor->name);
    tensor->data = slot->device_copy + offset;
    *gathered += align_up((size_t)bytes, GATHER_ALIGNMENT);
    return STATUS_OK;
}

/* Where the tensors will lie in the slot; *host_bytes: what the by-value ones take. The data of
 * by-value tensors is set by copy_host_values, once their memory is known to be large enough. */
static enum status place_tensors(struct snapshot_slot *slot, const struct snapshot_source *sources,
                                 size_t count, size_t *host_bytes, struct error *err) {
    size_t gathered = 0;
    CHECK(count <= SNAPSHOT_TENSORS_MAX, err, STATUS_INTERNAL,
          "snapshot: %zu tensors, at most %d are possible", count, (int)SNAPSHOT_TENSORS_MAX);
    *host_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        struct tensor_view *tensor = &slot->tensors[i];
        *tensor = sources[i].view;
        uint64_t bytes;
        CHECK(tensor_bytes(tensor, &bytes) && bytes <= SIZE_MAX / 4, err, STATUS_INTERNAL,
              "snapshot: the size of tensor %s overflows", tensor->name);
        if (bytes == 0) {
            tensor->data = NULL;
        } else if (sources[i].kind == SNAPSHOT_HOST) {
            *host_bytes += align_up((size_t)bytes, HOST_ALIGNMENT);
        } else if (sources[i].kind == SNAPSHOT_DEVICE) {
            TRY(place_device_tensor(slot, tensor, bytes, &gathered, err));
        }
    }
    return STATUS_OK;
}

/* ---- which copies can be put off ---- */

/* Bytes of a tensor that place_tensors has seen; 0 for a constant, which is not copied. */
static size_t bytes_to_copy(const struct snapshot_source *source) {
    return source->kind == SNAPSHOT_CONSTANT ? 0 : (size_t)tensor_known_bytes(&source->view);
}

/* May it be copied later, by a processor? */
static bool can_wait(const struct snapshot_pool *pool, const struct snapshot_source *source) {
    return source->steady && (source->kind == SNAPSHOT_HOST || pool->be->unified_memory);
}

/* Bytes that are copied later. */
static size_t bytes_to_put_off(const struct snapshot_pool *pool,
                               const struct snapshot_source *sources, size_t count) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        total += can_wait(pool, &sources[i]) ? bytes_to_copy(&sources[i]) : 0;
    }
    return total;
}

/* ---- fill and wait ---- */

static void copy_host_values(struct snapshot_slot *slot, const struct snapshot_source *sources,
                             size_t count) {
    size_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes = sources[i].kind == SNAPSHOT_HOST ? bytes_to_copy(&sources[i]) : 0;
        if (bytes == 0) {
            continue;
        }
        void *to = slot->tensors[i].data = slot->host_copy + offset;
        if (can_wait(slot->pool, &sources[i])) {
            put_off_add(&slot->put_off, to, sources[i].view.data, bytes);
        } else {
            memory_copy(to, sources[i].view.data, bytes);
        }
        offset += align_up(bytes, HOST_ALIGNMENT);
    }
}

/* The device tensors into `image`, each where place_tensors put it, behind the compute stream. */
static enum status copy_device_tensors(struct snapshot_slot *slot,
                                       const struct snapshot_source *sources, size_t count,
                                       uint8_t *image, struct error *err) {
    const struct snapshot_pool *pool = slot->pool;
    const struct backend_table *table = pool->be->table;
    if (pool->region != NULL && (slot->put_off_bytes == 0 || pool->staged)) {
        return table->copy(pool->be, image, pool->region, pool->device_bytes,
                           BACKEND_STREAM_COMPUTE, err);
    }
    for (size_t i = 0; i < count; i++) {
        size_t bytes = sources[i].kind == SNAPSHOT_DEVICE ? bytes_to_copy(&sources[i]) : 0;
        if (bytes == 0) {
            continue;
        }
        size_t offset = (size_t)((uint8_t *)slot->tensors[i].data - slot->device_copy);
        if (can_wait(pool, &sources[i])) {
            put_off_add(&slot->put_off, image + offset, sources[i].view.data, bytes);
        } else {
            TRY(table->copy(pool->be, image + offset, sources[i].view.data, bytes,
                            BACKEND_STREAM_COMPUTE, err));
        }
    }
    return STATUS_OK;
}

static enum status enqueue_copies(struct snapshot_slot *slot, const struct snapshot_source *sources,
                                  size_t count, struct error *err) {
    struct snapshot_pool *pool = slot->pool;
    struct backend *be = pool->be;
    const struct backend_table *table = be->table;
    if (pool->device_bytes == 0) {
        return STATUS_OK;
    }
    if (!pool->staged) {
        TRY(copy_device_tensors(slot, sources, count, slot->device_copy, err));
        return table->event_record(be, slot->copied, BACKEND_STREAM_COMPUTE, err);
    }
    size_t index = (size_t)(slot - pool->slots);
    /* A save that a newer one replaced was not waited for: its way to the host may still read the
     * staging copy. Otherwise `copied` was reached long ago and this is free. */
    TRY(table->stream_wait_event(be, BACKEND_STREAM_COMPUTE, slot->copied, err));
    TRY(copy_device_tensors(slot, sources, count, pool->staging[index], err));
    TRY(table->event_record(be, pool->staged_event[index], BACKEND_STREAM_COMPUTE, err));
    TRY(table->stream_wait_event(be, BACKEND_STREAM_COPY, pool->staged_event[index], err));
    TRY(table->copy(be, slot->device_copy, pool->staging[index], pool->device_bytes,
                    BACKEND_STREAM_COPY, err));
    enum status status = table->event_record(be, slot->copied, BACKEND_STREAM_COPY, err);
    if (status != STATUS_OK) { /* no event tells when the copy ends, so it ends here */
        (void)table->stream_synchronize(be, BACKEND_STREAM_COPY, NULL);
    }
    return status;
}

enum status snapshot_fill(struct snapshot_slot *slot, const struct snapshot_source *sources,
                          size_t count, struct error *err) {
    size_t host_bytes = 0;
    put_off_clear(&slot->put_off);
    TRY(place_tensors(slot, sources, count, &host_bytes, err));
    TRY(grow_host_copy(slot, host_bytes, err));
    slot->put_off_bytes = bytes_to_put_off(slot->pool, sources, count);
    TRY(enqueue_copies(slot, sources, count,
                       err)); /* first: the device works while the host values are copied */
    copy_host_values(slot, sources, count);
    slot->tensor_count = count;
    return STATUS_OK;
}

void snapshot_settle(struct snapshot_pool *pool) {
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        put_off_finish(&pool->slots[i].put_off);
    }
}

void snapshot_assist(struct snapshot_pool *pool) {
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        put_off_assist(&pool->slots[i].put_off);
    }
}

struct snapshot_assisted snapshot_assisted(struct snapshot_slot *slot) {
    struct put_off *list = &slot->put_off;
    pthread_mutex_lock(&list->mutex);
    struct snapshot_assisted assisted = {list->assisted_bytes, list->assisted_cpu_seconds};
    pthread_mutex_unlock(&list->mutex);
    return assisted;
}

enum status snapshot_wait(struct snapshot_slot *slot, struct error *err) {
    struct backend *be = slot->pool->be;
    if (slot->pool->device_bytes > 0) {
        TRY(be->table->event_wait(be, slot->copied, err));
    }
    put_off_finish(&slot->put_off);
    return STATUS_OK;
}
