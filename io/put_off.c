#include "io/put_off.h"

#include <assert.h>
#include <stdlib.h>

#include "host/base/memory.h"
#include "host/base/text.h"

/* Who comes to change the source may have to wait for a piece that another thread has taken: so
 * long as a tenth of a millisecond, if that thread runs. */
enum { PIECE_BYTES = 2 << 20 };

struct piece {
    struct put_off_copy copy;
    bool past_cache;
};

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
    list->assisted_bytes = 0;
    list->assisted_cpu_seconds = 0;
    pthread_mutex_unlock(&list->mutex);
}

void put_off_add(struct put_off *list, void *to, const void *from, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    pthread_mutex_lock(&list->mutex);
    /* One that was taken whole is not looked at any more, so nothing can be joined to it. */
    bool has_last = list->next < list->count;
    struct put_off_copy *last = has_last ? &list->copies[list->count - 1] : NULL;
    if (last != NULL && last->to + last->bytes == to && last->from + last->bytes == from) {
        last->bytes += bytes;
    } else {
        assert(list->count < list->capacity);
        list->copies[list->count++] = (struct put_off_copy){to, from, bytes};
    }
    pthread_mutex_unlock(&list->mutex);
}

/* The next piece that nobody has taken; false when there is none left. */
static bool take_locked(struct put_off *list, struct piece *out) {
    if (list->next == list->count) {
        return false;
    }
    const struct put_off_copy *copy = &list->copies[list->next];
    size_t left = copy->bytes - list->offset;
    size_t bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
    out->copy = (struct put_off_copy){copy->to + list->offset, copy->from + list->offset, bytes};
    out->past_cache = copy->bytes >= MEMORY_STREAM_BYTES;
    list->offset += bytes;
    if (list->offset == copy->bytes) {
        list->next++;
        list->offset = 0;
    }
    list->under_way++;
    return true;
}

static void copy_piece(const struct piece *piece) {
    const struct put_off_copy *copy = &piece->copy;
    if (piece->past_cache) {
        memory_copy_past_cache(copy->to, copy->from, copy->bytes);
    } else {
        memory_copy(copy->to, copy->from, copy->bytes);
    }
}

/* The next piece, copied; false when there is none left to take. Called and left with the mutex. */
static bool copy_next_locked(struct put_off *list, size_t *bytes) {
    struct piece piece;
    if (!take_locked(list, &piece)) {
        return false;
    }
    pthread_mutex_unlock(&list->mutex);
    copy_piece(&piece);
    pthread_mutex_lock(&list->mutex);
    *bytes = piece.copy.bytes;
    return true;
}

static void piece_is_done_locked(struct put_off *list) {
    list->under_way--;
    if (list->under_way == 0) {
        pthread_cond_broadcast(&list->done);
    }
}

void put_off_assist(struct put_off *list) {
    size_t bytes = 0;
    double cpu_before = clock_thread_cpu_seconds();
    pthread_mutex_lock(&list->mutex);
    while (copy_next_locked(list, &bytes)) {
        double cpu = clock_thread_cpu_seconds();
        list->assisted_bytes += bytes;
        list->assisted_cpu_seconds += cpu - cpu_before;
        cpu_before = cpu;
        piece_is_done_locked(list); /* behind what is counted: who waits for it may read that */
    }
    pthread_mutex_unlock(&list->mutex);
}

void put_off_finish(struct put_off *list) {
    size_t bytes = 0;
    pthread_mutex_lock(&list->mutex);
    while (copy_next_locked(list, &bytes)) {
        piece_is_done_locked(list);
    }
    while (list->under_way > 0) {
        pthread_cond_wait(&list->done, &list->mutex);
    }
    pthread_mutex_unlock(&list->mutex);
}
