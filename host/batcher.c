#include "host/batcher.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/queue.h"
#include "host/base/rng.h"
#include "host/base/thread.h"

enum { BATCH_SLOTS = 2 };

/* ---- the order of an epoch ---------------------------------------------------------------- */

/* Memory for working out one order; allocated once, so that the thread cannot run out of it. */
struct scratch {
    uint64_t *keys;    /* [keys_count(options, examples)] */
    uint32_t *copy;    /* [examples] */
    uint32_t *batches; /* [steps] */
};

static uint64_t minimum(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

struct batcher_options batcher_options_of(const struct options *options) {
    return (struct batcher_options){
        .shuffle = options->shuffle,
        .shuffle_buffer = options->shuffle_buffer,
        .bucket_window = options->bucket_window,
        .batch_size = options->batch_size,
        .seed = options->seed,
    };
}

static uint64_t steps_count(const struct batcher_options *options, uint64_t examples) {
    return examples / options->batch_size + (examples % options->batch_size != 0);
}

/* Examples that are sorted together: whole batches, so that only the epoch's last one is short. */
static uint64_t window_size(const struct batcher_options *options, uint64_t examples) {
    uint64_t batch = minimum(options->batch_size, examples);
    uint64_t window = minimum(options->bucket_window, examples);
    uint64_t batches = window / batch + (window % batch != 0);
    return minimum((batches == 0 ? 1 : batches) * batch, examples);
}

static uint32_t example_length(const struct corpus *corpus, uint32_t example) {
    return (uint32_t)(corpus->first[example + 1] - corpus->first[example]);
}

static int compare_keys(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Stable: the key is the inverted length, then the place before sorting. `keys` and `copy` hold
 * `count`. */
static void sort_descending(const struct corpus *corpus, uint32_t *order, size_t count,
                            uint64_t *keys, uint32_t *copy) {
    for (size_t i = 0; i < count; i++) {
        keys[i] = (uint64_t)(UINT32_MAX - example_length(corpus, order[i])) << 32 | i;
    }
    qsort(keys, count, sizeof *keys, compare_keys);
    memcpy(copy, order, count * sizeof *order);
    for (size_t i = 0; i < count; i++) {
        order[i] = copy[(uint32_t)keys[i]];
    }
}

static void sort_chunks(const struct corpus *corpus, uint64_t chunk, uint32_t *order,
                        struct scratch *scratch) {
    for (uint64_t begin = 0; begin < corpus->examples; begin += chunk) {
        sort_descending(corpus, order + begin, minimum(chunk, corpus->examples - begin),
                        scratch->keys, scratch->copy);
    }
}

/* tf.data's shuffle: the first `size` wait in a buffer; a random one of them leaves, the next
 * example takes its place. */
static void shuffle_buffer(struct rng *rng, uint64_t size, uint32_t *order, uint64_t count,
                           uint32_t *buffer) {
    uint64_t waiting = minimum(size, count), next = waiting;
    memcpy(buffer, order, waiting * sizeof *order);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t chosen = rng_below(rng, waiting);
        uint32_t example = buffer[chosen];
        buffer[chosen] = next < count ? order[next++] : buffer[--waiting];
        order[i] = example; /* i < next: what stood here is in the buffer or has left */
    }
}

static void shuffle_examples(const struct batcher_options *options, uint64_t epoch, uint32_t *order,
                             uint64_t count, uint32_t *buffer) {
    struct rng rng = rng_make(options->seed, RNG_STREAM_SHUFFLE, (uint32_t)epoch);
    for (uint64_t i = 0; i < count; i++) {
        order[i] = (uint32_t)i;
    }
    if (options->shuffle == SHUFFLE_FULL) {
        rng_permute(&rng, order, count);
    } else if (options->shuffle == SHUFFLE_BUFFER) {
        shuffle_buffer(&rng, options->shuffle_buffer, order, count, buffer);
    }
}

/* Batches of `order`, in a random order of batches. */
static void shuffle_batches(const struct batcher_options *options, uint64_t epoch, uint32_t *order,
                            uint64_t examples, uint64_t *starts, struct scratch *scratch) {
    uint64_t steps = steps_count(options, examples), size = options->batch_size;
    struct rng rng = rng_make(options->seed, RNG_STREAM_BATCHES, (uint32_t)epoch);
    for (uint64_t i = 0; i < steps; i++) {
        scratch->batches[i] = (uint32_t)i;
    }
    rng_permute(&rng, scratch->batches, steps);
    memcpy(scratch->copy, order, examples * sizeof *order);
    uint64_t at = 0;
    for (uint64_t i = 0; i < steps; i++) {
        uint64_t from = scratch->batches[i] * size;
        uint64_t count = minimum(size, examples - from);
        starts[i] = at;
        memcpy(order + at, scratch->copy + from, count * sizeof *order);
        at += count;
    }
    starts[steps] = at;
}

static void compute_order(const struct batcher_options *options, const struct corpus *corpus,
                          uint64_t epoch, uint32_t *order, uint64_t *starts,
                          struct scratch *scratch) {
    uint64_t examples = corpus->examples, steps = steps_count(options, examples);
    assert(epoch <= UINT32_MAX);
    shuffle_examples(options, epoch, order, examples, scratch->copy);
    if (options->bucket_window == 0) {
        sort_chunks(corpus, minimum(options->batch_size, examples), order, scratch);
    } else {
        sort_chunks(corpus, window_size(options, examples), order, scratch);
    }
    if (options->bucket_window > 0 && options->shuffle != SHUFFLE_NONE) {
        shuffle_batches(options, epoch, order, examples, starts, scratch);
        return;
    }
    for (uint64_t i = 0; i <= steps; i++) {
        starts[i] = minimum(i * options->batch_size, examples);
    }
}

static void scratch_deinit(struct scratch *scratch) {
    free(scratch->keys);
    free(scratch->copy);
    free(scratch->batches);
    *scratch = (struct scratch){0};
}

static enum status scratch_init(struct scratch *scratch, const struct batcher_options *options,
                                uint64_t examples, struct error *err) {
    *scratch = (struct scratch){
        .keys = malloc(window_size(options, examples) * sizeof *scratch->keys),
        .copy = malloc(examples * sizeof *scratch->copy),
        .batches = malloc(steps_count(options, examples) * sizeof *scratch->batches),
    };
    if (scratch->keys == NULL || scratch->copy == NULL || scratch->batches == NULL) {
        scratch_deinit(scratch);
        return error_set(err, STATUS_MEMORY, "out of memory for the order of %llu examples",
                         (unsigned long long)examples);
    }
    return STATUS_OK;
}

static enum status check_options(const struct batcher_options *options, const struct corpus *corpus,
                                 struct error *err) {
    CHECK(corpus->examples > 0, err, STATUS_DATA, "the data set has no examples to train on");
    CHECK(corpus->examples <= UINT32_MAX, err, STATUS_DATA,
          "the data set has %llu examples; at most %lu are possible",
          (unsigned long long)corpus->examples, (unsigned long)UINT32_MAX);
    CHECK(options->batch_size > 0, err, STATUS_USAGE, "--batch-size must be at least 1");
    CHECK(options->shuffle != SHUFFLE_BUFFER || options->shuffle_buffer > 0, err, STATUS_USAGE,
          "--shuffle-buffer must be at least 1");
    return STATUS_OK;
}

enum status batcher_order(const struct batcher_options *options, const struct corpus *corpus,
                          uint64_t epoch, uint32_t *order, uint64_t *starts, struct error *err) {
    struct scratch scratch;
    TRY(check_options(options, corpus, err));
    TRY(scratch_init(&scratch, options, corpus->examples, err));
    compute_order(options, corpus, epoch, order, starts, &scratch);
    scratch_deinit(&scratch);
    return STATUS_OK;
}

static int compare_lengths(const void *a, const void *b, void *corpus) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint32_t x_length = example_length(corpus, x), y_length = example_length(corpus, y);
    if (x_length != y_length) {
        return x_length > y_length ? -1 : 1;
    }
    return x < y ? -1 : x > y;
}

void batcher_sort_by_length(const struct corpus *corpus, uint32_t *order, size_t count) {
    qsort_r(order, count, sizeof *order, compare_lengths, (void *)corpus);
}

/* ---- the batcher and its thread ----------------------------------------------------------- */

/* THREADS: batcher_create starts the preparing thread, batcher_free ends and joins it. The
 * trainer's thread asks for (epoch, position) under `mutex`; each such request has a number, and
 * every batch carries the number of the request it was made for. A batch of an older request is
 * never handed out: whoever meets it puts it back among the free ones. Batches circulate through
 * two queues. */
struct batcher {
    /* constant after create */
    struct batcher_options options;
    const struct corpus *corpus;
    uint64_t steps;
    uint64_t most_tokens; /* of any batch of any order */
    struct queue *free_batches, *ready_batches;
    pthread_t thread;
    struct batch slots[BATCH_SLOTS];

    /* trainer's thread */
    uint64_t next_index; /* of the batch that batcher_next hands out */

    /* preparing thread */
    uint32_t *order;  /* [examples] */
    uint64_t *starts; /* [steps + 1] */
    struct scratch scratch;

    /* guarded by mutex */
    pthread_mutex_t mutex;
    pthread_cond_t asked;
    uint64_t request; /* 0: nothing asked for yet; written by the trainer's thread only */
    uint64_t epoch, position;
    bool closing;
};

static void fill_batch(const struct batcher *batcher, struct batch *batch, uint64_t index) {
    const struct corpus *corpus = batcher->corpus;
    const uint32_t *examples = batcher->order + batcher->starts[index];
    uint32_t count = (uint32_t)(batcher->starts[index + 1] - batcher->starts[index]);
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t example = examples[i];
        batch->examples[i] = example;
        batch->first[i] = corpus->first[example];
        batch->length[i] = example_length(corpus, example);
        batch->label[i] = corpus->labels[example];
        total += batch->length[i];
    }
    batch->index = index;
    batch->view = (struct batch_view){.tokens = corpus->tokens,
                                      .token_bytes = corpus->token_bytes,
                                      .sequences = count,
                                      .total_tokens = total,
                                      .first = batch->first,
                                      .length = batch->length,
                                      .label = batch->label};
}

/* Wait for a request newer than `served`. False when the batcher closes. */
static bool wait_for_request(struct batcher *batcher, uint64_t served, uint64_t *request,
                             uint64_t *epoch, uint64_t *position) {
    pthread_mutex_lock(&batcher->mutex);
    while (batcher->request == served && !batcher->closing) {
        pthread_cond_wait(&batcher->asked, &batcher->mutex);
    }
    bool open = !batcher->closing;
    *request = batcher->request;
    *epoch = batcher->epoch;
    *position = batcher->position;
    pthread_mutex_unlock(&batcher->mutex);
    return open;
}

static bool is_current(struct batcher *batcher, uint64_t request) {
    pthread_mutex_lock(&batcher->mutex);
    bool current = batcher->request == request && !batcher->closing;
    pthread_mutex_unlock(&batcher->mutex);
    return current;
}

static void *prepare_batches(void *argument) {
    struct batcher *batcher = argument;
    uint64_t request = 0, epoch, position;
    while (wait_for_request(batcher, request, &request, &epoch, &position)) {
        compute_order(&batcher->options, batcher->corpus, epoch, batcher->order, batcher->starts,
                      &batcher->scratch);
        for (uint64_t index = position; index < batcher->steps; index++) {
            struct batch *batch = queue_pop(batcher->free_batches);
            if (batch == NULL) {
                return NULL;
            }
            if (!is_current(batcher, request)) {
                queue_push(batcher->free_batches, batch);
                break;
            }
            fill_batch(batcher, batch, index);
            batch->request = request;
            queue_push(batcher->ready_batches, batch);
        }
    }
    return NULL;
}

static enum status slots_init(struct batcher *batcher, struct error *err) {
    size_t size = minimum(batcher->options.batch_size, batcher->corpus->examples);
    for (int i = 0; i < BATCH_SLOTS; i++) {
        struct batch *batch = &batcher->slots[i];
        batch->examples = malloc(size * sizeof *batch->examples);
        batch->first = malloc(size * sizeof *batch->first);
        batch->length = malloc(size * sizeof *batch->length);
        batch->label = malloc(size * sizeof *batch->label);
        CHECK(batch->examples != NULL && batch->first != NULL && batch->length != NULL &&
                  batch->label != NULL,
              err, STATUS_MEMORY, "out of memory for batches of %zu examples", size);
        queue_push(batcher->free_batches, batch);
    }
    return STATUS_OK;
}

static void free_memory(struct batcher *batcher) {
    for (int i = 0; i < BATCH_SLOTS; i++) {
        free(batcher->slots[i].examples);
        free(batcher->slots[i].first);
        free(batcher->slots[i].length);
        free(batcher->slots[i].label);
    }
    queue_free(batcher->free_batches);
    queue_free(batcher->ready_batches);
    scratch_deinit(&batcher->scratch);
    free(batcher->order);
    free(batcher->starts);
    pthread_mutex_destroy(&batcher->mutex);
    pthread_cond_destroy(&batcher->asked);
    free(batcher);
}

/* The longest examples, all in one batch: no order can do worse. */
static enum status count_most_tokens(struct batcher *batcher, struct error *err) {
    const struct corpus *corpus = batcher->corpus;
    uint64_t *with_length = calloc((size_t)corpus->longest + 1, sizeof *with_length);
    CHECK(with_length != NULL, err, STATUS_MEMORY, "out of memory for %lu lengths",
          (unsigned long)corpus->longest);
    for (uint64_t i = 0; i < corpus->examples; i++) {
        with_length[example_length(corpus, (uint32_t)i)]++;
    }
    uint64_t left = minimum(batcher->options.batch_size, corpus->examples);
    for (uint64_t length = corpus->longest; left > 0; length--) {
        uint64_t taken = minimum(left, with_length[length]);
        batcher->most_tokens += taken * length;
        left -= taken;
    }
    free(with_length);
    return STATUS_OK;
}

static enum status allocate(struct batcher *batcher, struct error *err) {
    uint64_t examples = batcher->corpus->examples;
    batcher->order = malloc(examples * sizeof *batcher->order);
    batcher->starts = malloc((batcher->steps + 1) * sizeof *batcher->starts);
    CHECK(batcher->order != NULL && batcher->starts != NULL, err, STATUS_MEMORY,
          "out of memory for the order of %llu examples", (unsigned long long)examples);
    TRY(scratch_init(&batcher->scratch, &batcher->options, examples, err));
    TRY(count_most_tokens(batcher, err));
    TRY(queue_create(BATCH_SLOTS, &batcher->free_batches, err));
    TRY(queue_create(BATCH_SLOTS, &batcher->ready_batches, err));
    return slots_init(batcher, err);
}

enum status batcher_create(const struct batcher_options *options, const struct corpus *corpus,
                           struct batcher **out, struct error *err) {
    TRY(check_options(options, corpus, err));
    struct batcher *batcher = calloc(1, sizeof *batcher);
    CHECK(batcher != NULL, err, STATUS_MEMORY, "out of memory for the batches");
    batcher->options = *options;
    batcher->corpus = corpus;
    batcher->steps = steps_count(options, corpus->examples);
    pthread_mutex_init(&batcher->mutex, NULL);
    pthread_cond_init(&batcher->asked, NULL);
    enum status status = allocate(batcher, err);
    if (status == STATUS_OK) {
        int failure = thread_start(&batcher->thread, prepare_batches, batcher);
        if (failure != 0) {
            status = error_set(err, STATUS_MEMORY, "cannot start the batch preparation thread: %s",
                               strerror(failure));
        }
    }
    if (status != STATUS_OK) {
        free_memory(batcher);
        return status;
    }
    *out = batcher;
    return STATUS_OK;
}

uint64_t batcher_steps_per_epoch(const struct batcher *batcher) {
    return batcher->steps;
}

void batcher_limits(const struct batcher *batcher, uint32_t *sequences, uint64_t *total_tokens,
                    uint32_t *longest) {
    *sequences = (uint32_t)minimum(batcher->options.batch_size, batcher->corpus->examples);
    *total_tokens = batcher->most_tokens;
    *longest = batcher->corpus->longest;
}

enum status batcher_start(struct batcher *batcher, uint64_t epoch, uint64_t position,
                          struct error *err) {
    CHECK(position <= batcher->steps && epoch <= UINT32_MAX, err, STATUS_CORRUPT,
          "batch %llu of epoch %llu does not exist: an epoch has %llu batches",
          (unsigned long long)position, (unsigned long long)epoch,
          (unsigned long long)batcher->steps);
    struct batch *stale;
    pthread_mutex_lock(&batcher->mutex);
    /* Drained under the lock, before there is a batch of the new request that could be lost. */
    while ((stale = queue_try_pop(batcher->ready_batches)) != NULL) {
        queue_push(batcher->free_batches, stale);
    }
    batcher->epoch = epoch;
    batcher->position = position;
    batcher->request++;
    pthread_cond_signal(&batcher->asked);
    pthread_mutex_unlock(&batcher->mutex);
    batcher->next_index = position;
    return STATUS_OK;
}

struct batch *batcher_next(struct batcher *batcher) {
    assert(batcher->request > 0);
    if (batcher->next_index == batcher->steps) {
        return NULL;
    }
    for (;;) {
        struct batch *batch = queue_pop(batcher->ready_batches);
        if (batch->request == batcher->request) {
            assert(batch->index == batcher->next_index);
            batcher->next_index++;
            return batch;
        }
        queue_push(batcher->free_batches, batch);
    }
}

void batcher_recycle(struct batcher *batcher, struct batch *batch) {
    queue_push(batcher->free_batches, batch);
}

void batcher_free(struct batcher *batcher) {
    if (batcher == NULL) {
        return;
    }
    pthread_mutex_lock(&batcher->mutex);
    batcher->closing = true;
    pthread_cond_signal(&batcher->asked);
    pthread_mutex_unlock(&batcher->mutex);
    queue_close(batcher->free_batches);
    pthread_join(batcher->thread, NULL);
    free_memory(batcher);
}
