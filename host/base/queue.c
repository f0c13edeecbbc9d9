#include "host/base/queue.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

/* THREADS: any thread may enter; every field below `mutex` is read and written under it. */
struct queue {
    size_t capacity; /* constant after create */

    pthread_mutex_t mutex;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    size_t head; /* ring index of the oldest entry */
    size_t count;
    bool closed;
    void *ring[]; /* [capacity] */
};

enum status queue_create(size_t capacity, struct queue **out, struct error *err) {
    assert(capacity > 0);
    struct queue *queue = NULL;
    if (capacity <= (SIZE_MAX - sizeof *queue) / sizeof queue->ring[0]) {
        queue = calloc(1, sizeof *queue + capacity * sizeof queue->ring[0]);
    }
    CHECK(queue != NULL, err, STATUS_MEMORY, "out of memory for a queue of %zu entries", capacity);
    queue->capacity = capacity;
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_cond_init(&queue->not_empty, NULL);
    pthread_cond_init(&queue->not_full, NULL);
    *out = queue;
    return STATUS_OK;
}

static void *take_oldest_locked(struct queue *queue) {
    void *item = queue->ring[queue->head];
    queue->head = (queue->head + 1) % queue->capacity;
    queue->count--;
    pthread_cond_signal(&queue->not_full);
    return item;
}

bool queue_push(struct queue *queue, void *item) {
    assert(item != NULL);
    pthread_mutex_lock(&queue->mutex);
    while (queue->count == queue->capacity && !queue->closed) {
        pthread_cond_wait(&queue->not_full, &queue->mutex);
    }
    bool open = !queue->closed;
    if (open) {
        queue->ring[(queue->head + queue->count) % queue->capacity] = item;
        queue->count++;
        pthread_cond_signal(&queue->not_empty);
    }
    pthread_mutex_unlock(&queue->mutex);
    return open;
}

void *queue_pop(struct queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    while (queue->count == 0 && !queue->closed) {
        pthread_cond_wait(&queue->not_empty, &queue->mutex);
    }
    void *item = queue->count > 0 ? take_oldest_locked(queue) : NULL;
    pthread_mutex_unlock(&queue->mutex);
    return item;
}

void *queue_try_pop(struct queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    void *item = queue->count > 0 ? take_oldest_locked(queue) : NULL;
    pthread_mutex_unlock(&queue->mutex);
    return item;
}

void *queue_try_pop_newest(struct queue *queue) {
    void *item = NULL;
    pthread_mutex_lock(&queue->mutex);
    if (queue->count > 0) {
        queue->count--;
        item = queue->ring[(queue->head + queue->count) % queue->capacity];
        pthread_cond_signal(&queue->not_full);
    }
    pthread_mutex_unlock(&queue->mutex);
    return item;
}

void queue_close(struct queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    queue->closed = true;
    pthread_cond_broadcast(&queue->not_empty);
    pthread_cond_broadcast(&queue->not_full);
    pthread_mutex_unlock(&queue->mutex);
}

size_t queue_count(struct queue *queue) {
    pthread_mutex_lock(&queue->mutex);
    size_t count = queue->count;
    pthread_mutex_unlock(&queue->mutex);
    return count;
}

void queue_free(struct queue *queue) {
    if (queue == NULL) {
        return;
    }
    pthread_cond_destroy(&queue->not_full);
    pthread_cond_destroy(&queue->not_empty);
    pthread_mutex_destroy(&queue->mutex);
    free(queue);
}
