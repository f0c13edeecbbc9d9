#include "io/read_ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/queue.h"
#include "host/base/thread.h"

struct block {
    char *bytes; /* the texts, one after the other */
    size_t size, capacity;
    struct {
        size_t size;
        unsigned label;
    } examples[READ_AHEAD_BLOCK_EXAMPLES];
    size_t count;
};

/* THREADS: `filling`, `status` and `error` belong to the reading thread until it is joined; a block
 * to whoever took it out of a queue. */
struct ahead {
    read_ahead_source source;
    void *source_context;
    pthread_t thread;
    struct queue *empty, *filled; /* both have room for every block: pushing never waits */
    struct block *filling;
    enum status status;
    struct error error;
    struct block blocks[READ_AHEAD_BLOCKS];
};

/* ---- on the reading thread ------------------------------------------------------------------- */

static bool reserve(struct block *block, size_t size) {
    if (block->size + size <= block->capacity) {
        return true;
    }
    size_t capacity = block->size + size;
    capacity = capacity < READ_AHEAD_BLOCK_BYTES ? READ_AHEAD_BLOCK_BYTES : capacity;
    char *bytes = realloc(block->bytes, capacity);
    if (bytes == NULL) {
        return false;
    }
    block->bytes = bytes;
    block->capacity = capacity;
    return true;
}

static bool is_full(const struct block *block, size_t size) {
    return block->count == READ_AHEAD_BLOCK_EXAMPLES ||
           (block->count > 0 && block->size + size > READ_AHEAD_BLOCK_BYTES);
}

static void hand_over(struct ahead *ahead) {
    if (ahead->filling != NULL) {
        queue_push(ahead->filled, ahead->filling);
        ahead->filling = NULL;
    }
}

static enum status push_example(void *context, const char *text, size_t size, unsigned label,
                                struct error *err) {
    struct ahead *ahead = context;
    if (ahead->filling != NULL && is_full(ahead->filling, size)) {
        hand_over(ahead);
    }
    if (ahead->filling == NULL) {
        ahead->filling = queue_pop(ahead->empty);
        CHECK(ahead->filling != NULL, err, STATUS_STOPPED, "nobody wants more examples");
        ahead->filling->size = ahead->filling->count = 0;
    }
    struct block *block = ahead->filling;
    CHECK(reserve(block, size), err, STATUS_MEMORY, "no memory for a text of %zu bytes", size);
    if (size > 0) { /* `text` may be NULL */
        memcpy(block->bytes + block->size, text, size);
    }
    block->size += size;
    block->examples[block->count].size = size;
    block->examples[block->count++].label = label;
    return STATUS_OK;
}

static void *read_all(void *context) {
    struct ahead *ahead = context;
    ahead->status = ahead->source(ahead->source_context, push_example, ahead, &ahead->error);
    hand_over(ahead); /* what came before a failure was good */
    queue_close(ahead->filled);
    return NULL;
}

/* ---- on the caller's thread ------------------------------------------------------------------ */

static enum status start_thread(struct ahead *ahead, struct error *err) {
    int code = thread_start(&ahead->thread, read_all, ahead);
    CHECK(code == 0, err, STATUS_MEMORY, "cannot start the thread that reads the data: %s",
          strerror(code));
    return STATUS_OK;
}

static enum status deliver_block(const struct block *block, dataset_callback callback,
                                 void *context, struct error *err) {
    const char *text = block->bytes != NULL ? block->bytes : ""; /* all texts may be empty */
    for (size_t i = 0; i < block->count; i++) {
        TRY(callback(context, text, block->examples[i].size, block->examples[i].label, err));
        text += block->examples[i].size;
    }
    return STATUS_OK;
}

static enum status deliver_all(struct ahead *ahead, dataset_callback callback, void *context,
                               struct error *err) {
    struct block *block;
    while ((block = queue_pop(ahead->filled)) != NULL) {
        TRY(deliver_block(block, callback, context, err));
        queue_push(ahead->empty, block);
    }
    return STATUS_OK;
}

static enum status run(struct ahead *ahead, dataset_callback callback, void *context,
                       struct error *err) {
    TRY(start_thread(ahead, err));
    enum status status = deliver_all(ahead, callback, context, err);
    queue_close(ahead->empty); /* after a failure the reading thread ends at its next new block */
    pthread_join(ahead->thread, NULL);
    if (status == STATUS_OK && ahead->status != STATUS_OK) {
        status = ahead->status;
        if (err != NULL) {
            *err = ahead->error;
        }
    }
    return status;
}

/* Allocated here: the caller of a failed one has nothing to undo but ahead_free. */
static enum status ahead_init(struct ahead *ahead, struct error *err) {
    TRY(queue_create(READ_AHEAD_BLOCKS, &ahead->empty, err));
    TRY(queue_create(READ_AHEAD_BLOCKS, &ahead->filled, err));
    for (size_t i = 0; i < READ_AHEAD_BLOCKS; i++) {
        queue_push(ahead->empty, &ahead->blocks[i]);
    }
    return STATUS_OK;
}

static void ahead_free(struct ahead *ahead) {
    queue_free(ahead->empty);
    queue_free(ahead->filled);
    for (size_t i = 0; i < READ_AHEAD_BLOCKS; i++) {
        free(ahead->blocks[i].bytes);
    }
    free(ahead);
}

enum status read_ahead(read_ahead_source source, void *source_context, dataset_callback callback,
                       void *context, struct error *err) {
    struct ahead *ahead = calloc(1, sizeof *ahead);
    CHECK(ahead != NULL, err, STATUS_MEMORY, "no memory to read ahead");
    ahead->source = source;
    ahead->source_context = source_context;
    enum status status = ahead_init(ahead, err);
    if (status == STATUS_OK) {
        status = run(ahead, callback, context, err);
    }
    ahead_free(ahead);
    return status;
}
