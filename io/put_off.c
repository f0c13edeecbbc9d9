#include "io/put_off.h"

#include <assert.h>
#include <stdlib.h>

#include "host/base/memory.h"

/* Large enough to be written past the cache, small enough that a thread that waits for another's
 * piece waits for less than a millisecond. */
enum { PIECE_BYTES = MEMORY_STREAM_BYTES };

enum status put_off_init(struct put_off *list, size_t capacity, struct error *err) {
    list->capacity = capacity;
    list->copies = calloc(capacity, sizeof list->copies[0]);
    list->has_mutex = pthread_mutex_init(&list->mutex, NULL) == 0;
    list->has_done = pthread_cond_init(&list->done, NULL) == 0;
    CHECK(list->copies != NULL && list->has_mutex && list->has_done, err, STATUS_MEMORY,
          "snapshot: no memory for a list of %zu copies", capacity);
    return STATUS_OK;
}

void put_off_deinit(struct put_off *list) {
    if (list->has_done) {
        pthread_cond_destroy(&list->done);
    }
    if (list->has_mutex) {
        pthread_mutex_destroy(&list->mutex);
    }
    free(list->copies);
}

void put_off_clear(struct put_off *list) {
    pthread_mutex_lock(&list->mutex);
    list->count = list->next = list->offset = 0;
    while (list->under_way > 0) {
        pthread_cond_wait(&list->done, &list->mutex);
    }
    pthread_mutex_unlock(&list->mutex);
}

void put_off_add(struct put_off *list, void *to, const void *from, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    pthread_mutex_lock(&list->mutex);
    struct put_off_copy *last = list->count == 0 ? NULL : &list->copies[list->count - 1];
    if (last != NULL && last->to + last->bytes == to && last->from + last->bytes == from) {
        last->bytes += bytes;
    } else {
        assert(list->count < list->capacity);
        list->copies[list->count++] = (struct put_off_copy){to, from, bytes};
    }
    pthread_mutex_unlock(&list->mutex);
}

/* The next piece that nobody has taken; false when there is none left. */
static bool take_locked(struct put_off *list, struct put_off_copy *out) {
    if (list->next == list->count) {
        return false;
    }
    const struct put_off_copy *copy = &list->copies[list->next];
    size_t left = copy->bytes - list->offset;
    /* What remains behind a piece is not less than one: the last is up to two pieces long. */
    size_t bytes = left < 2 * (size_t)PIECE_BYTES ? left : (size_t)PIECE_BYTES;
    *out = (struct put_off_copy){copy->to + list->offset, copy->from + list->offset, bytes};
    list->offset += bytes;
    if (list->offset == copy->bytes) {
        list->next++;
        list->offset = 0;
    }
    list->under_way++;
    return true;
}

void put_off_finish(struct put_off *list) {
    struct put_off_copy piece;
    pthread_mutex_lock(&list->mutex);
    while (take_locked(list, &piece)) {
        pthread_mutex_unlock(&list->mutex);
        memory_copy(piece.to, piece.from, piece.bytes);
        pthread_mutex_lock(&list->mutex);
        list->under_way--;
        if (list->under_way == 0) {
            pthread_cond_broadcast(&list->done);
        }
    }
    while (list->under_way > 0) {
        pthread_cond_wait(&list->done, &list->mutex);
    }
    pthread_mutex_unlock(&list->mutex);
}
