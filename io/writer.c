/* writer.c - the background thread that turns a snapshot into a durable file, and its helper.
 *
 * THREADS: a save is a `struct job`, one per snapshot slot. Its state says who owns it: FREE
 * nobody, FILLING the trainer, WAITING the queue (either thread may take it, under the mutex),
 * WRITING the writer's thread. Waiting jobs are written in the order of their ids. Jobs, their
 * memory, encoder and results are allocated by writer_create; a save allocates only when its
 * metadata outgrow the job's memory or its by-value tensors the slot's.
 */
#include "io/writer.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/base/text.h"
#include "host/base/thread.h"
#include "io/writer_account.h"
#include "io/writer_targets.h"

enum {
    UNPUBLISHED_KEPT =
        2 * SNAPSHOT_SLOTS,           /* a save can only wait for one that was queued before it */
    STRINGS_INITIAL_BYTES = 64 * 1024 /* the effective options of a run take about 4 KiB */
};

enum job_state { JOB_FREE, JOB_FILLING, JOB_WAITING, JOB_WRITING };

struct job {
    enum job_state state; /* guarded by the mutex */
    bool must;            /* constant while WAITING */

    /* owned as the state says */
    uint64_t id, step, after_id;
    struct snapshot_slot *slot;
    double entered_seconds; /* monotonic clock, entry of writer_save */
    double stall_seconds;
    struct save_target targets[WRITER_TARGETS_MAX];
    size_t target_count;
    struct metadata_pair metadata[WRITER_METADATA_MAX]; /* point into strings */
    size_t metadata_count;
    char *strings;
    size_t strings_capacity;
};

struct writer {
    /* constant after create */
    struct writer_options options;
    struct backend *be;
    struct snapshot_pool *pool;
    pthread_t thread, copier;
    bool has_thread, has_copier, has_mutex, has_work, has_idle, has_listed;

    /* trainer's thread only */
    uint64_t last_id;
    bool unsettled; /* a save was accepted since the last writer_settle */
    struct writer_settled settled;

    /* writer's thread only */
    int policy; /* of scheduling, as it was set last; -1: somebody else's choice, which stays */
    double ended_seconds, took_seconds; /* of the latest save; monotonic clock */
    struct writer_targets publisher;
    struct save_result result; /* of the job being written */
    uint64_t
        unpublished[UNPUBLISHED_KEPT]; /* ids of the latest saves of which nothing was published */
    uint64_t unpublished_count;

    pthread_mutex_t mutex; /* guards what follows, and the states of the jobs */
    pthread_cond_t work;   /* a job is waiting, or closing */
    pthread_cond_t idle;   /* a job was finished */
    pthread_cond_t listed; /* copies_wanted, or closing */
    bool copies_wanted;    /* copies were put off, and the writer has another save to write */
    bool closing;
    struct job jobs[SNAPSHOT_SLOTS];
    struct writer_account account;
};

/* ---- writer's thread ---- */

static void begin_result(struct save_result *result, const struct job *job) {
    memset(result, 0, sizeof *result);
    result->id = job->id;
    result->step = job->step;
    result->stall_seconds = job->stall_seconds;
    result->put_off_bytes = job->slot->put_off_bytes;
    result->target_count = job->target_count;
    memcpy(result->path, job->targets[0].path, sizeof result->path);
}

static void add_copier(struct save_result *result, const struct job *job) {
    struct snapshot_assisted assisted = snapshot_assisted(job->slot);
    result->copier_bytes = assisted.bytes;
    result->cpu_seconds += assisted.cpu_seconds;
}

static bool is_unpublished(const struct writer *writer, uint64_t id) {
    for (size_t i = 0; i < UNPUBLISHED_KEPT && id != 0; i++) {
        if (writer->unpublished[i] == id) {
            return true;
        }
    }
    return false;
}

static void write_job(struct writer *writer, const struct job *job) {
    struct save_result *result = &writer->result;
    begin_result(result, job);
    double cpu_before = clock_thread_cpu_seconds();
    struct error err = {STATUS_OK, ""};
    double before = clock_monotonic_seconds();
    const struct backend_table *table = writer->be->table;
    table->range_begin(writer->be, "checkpoint: wait");
    enum status status = snapshot_wait(job->slot, &err);
    table->range_end(writer->be);
    if (status == STATUS_OK && is_unpublished(writer, job->after_id)) {
        status = error_set(&err, STATUS_IO,
                           "it builds on a save that could not be published (the best model)");
    }
    result->snapshot_seconds = clock_monotonic_seconds() - before;
    if (status == STATUS_OK) {
        table->range_begin(writer->be, "checkpoint: write");
        status = writer_targets_write(&writer->publisher, job->slot, job->step, job->targets,
                                      job->target_count, job->metadata, job->metadata_count, result,
                                      &err);
        table->range_end(writer->be);
    }
    double whole = clock_monotonic_seconds() - job->entered_seconds;
    result->durable_seconds = whole - result->retain_seconds;
    add_copier(result, job);
    result->cpu_seconds += clock_thread_cpu_seconds() - cpu_before;
    result->status = status;
    if (result->targets_published == 0) {
        writer->unpublished[writer->unpublished_count++ % UNPUBLISHED_KEPT] = job->id;
    }
    if (status != STATUS_OK) {
        memcpy(result->message, err.message, sizeof result->message);
    }
}

static struct job *oldest_waiting_locked(struct writer *writer) {
    struct job *oldest = NULL;
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        struct job *job = &writer->jobs[i];
        if (job->state == JOB_WAITING && (oldest == NULL || job->id < oldest->id)) {
            oldest = job;
        }
    }
    return oldest;
}

/* The result is there and the slot is free before anybody hears that the job is finished. */
static void finish_job_locked(struct writer *writer, struct job *job) {
    writer_account_add(&writer->account, &writer->result);
    if (writer->result.status == STATUS_OK) {
        writer->account.totals.saved++;
    } else {
        writer->account.totals.failed++;
    }
    struct snapshot_slot *slot = job->slot;
    job->slot = NULL;
    job->state = JOB_FREE;
    snapshot_release(slot);
    pthread_cond_broadcast(&writer->idle);
}

/* A thread that wakes up may take the processor of the thread that woke it, which is the trainer,
 * in the middle of its save: on a machine without an idle core that was a stall of milliseconds,
 * one save in fifty. Linux does not do so for a thread of the policy SCHED_BATCH (sched(7)). While
 * it writes, the writer is an ordinary thread, or else each of its waits for the disk would end
 * when the trainer's time slice does; but not where saves come so fast that it hardly rests: there
 * training goes first, and the busy policy says what becomes of the saves. A policy that the user
 * chose (chrt), before or while the program runs, stays, and nothing is done where the system
 * refuses. */
static void set_yielding(struct writer *writer, bool yielding) {
    const struct sched_param none = {0};
    int wanted = yielding ? SCHED_BATCH : SCHED_OTHER;
    if (writer->policy < 0 || writer->policy == wanted) {
        return;
    }
    bool untouched = sched_getscheduler(0) == writer->policy;
    bool set = untouched && pthread_setschedparam(pthread_self(), wanted, &none) == 0;
    writer->policy = set ? wanted : -1;
}

/* Has the writer rested for most of the time since the save before this one? */
static bool has_rested(const struct writer *writer, double now) {
    return now - writer->ended_seconds >= 3 * writer->took_seconds;
}

static void write_job_politely(struct writer *writer, const struct job *job) {
    double begin = clock_monotonic_seconds();
    if (has_rested(writer, begin)) {
        set_yielding(writer, false);
    }
    write_job(writer, job);
    set_yielding(writer, true);
    writer->ended_seconds = clock_monotonic_seconds();
    writer->took_seconds = writer->ended_seconds - begin;
}

static void *writer_thread(void *context) {
    struct writer *writer = context;
    writer->policy = SCHED_OTHER;
    set_yielding(writer, true);
    pthread_mutex_lock(&writer->mutex);
    for (;;) {
        struct job *job = oldest_waiting_locked(writer);
        if (job != NULL) {
            job->state = JOB_WRITING;
            pthread_mutex_unlock(&writer->mutex);
            write_job_politely(writer, job);
            pthread_mutex_lock(&writer->mutex);
            finish_job_locked(writer, job);
        } else if (writer->closing) {
            break;
        } else {
            pthread_cond_wait(&writer->work, &writer->mutex);
        }
    }
    pthread_mutex_unlock(&writer->mutex);
    return NULL;
}

/* ---- copier's thread ---- */

/* Copies that were put off are the writer's work. While it is still at an earlier save, computing
 * or asleep until the disk has synced, this thread makes them in its stead; or else the trainer
 * would have to, before it may go on. Like the writer it does not take the processor of the thread
 * that wakes it. */
static void *copier_thread(void *context) {
    struct writer *writer = context;
    const struct sched_param none = {0};
    if (sched_getscheduler(0) == SCHED_OTHER) {
        (void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
    }
    pthread_mutex_lock(&writer->mutex);
    while (!writer->closing) {
        if (!writer->copies_wanted) {
            pthread_cond_wait(&writer->listed, &writer->mutex);
            continue;
        }
        writer->copies_wanted = false;
        pthread_mutex_unlock(&writer->mutex);
        snapshot_assist(writer->pool);
        pthread_mutex_lock(&writer->mutex);
    }
    pthread_mutex_unlock(&writer->mutex);
    return NULL;
}

/* ---- trainer's thread: a save ---- */

/* A job that nobody owns. There is one for every slot that was acquired: finish_job_locked frees
 * the job before its slot. */
static struct job *take_free_job(struct writer *writer, struct snapshot_slot *slot) {
    struct job *found = NULL;
    pthread_mutex_lock(&writer->mutex);
    for (size_t i = 0; i < SNAPSHOT_SLOTS && found == NULL; i++) {
        if (writer->jobs[i].state == JOB_FREE) {
            found = &writer->jobs[i];
            found->state = JOB_FILLING;
            found->slot = slot;
        }
    }
    pthread_mutex_unlock(&writer->mutex);
    assert(found != NULL);
    return found;
}

/* BUSY_LATEST: take a waiting save that may be skipped out of the queue; its slot is used again. */
static struct job *replace_waiting_job(struct writer *writer) {
    struct job *found = NULL;
    pthread_mutex_lock(&writer->mutex);
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        struct job *job = &writer->jobs[i];
        if (job->state == JOB_WAITING && !job->must && (found == NULL || job->id < found->id)) {
            found = job;
        }
    }
    if (found != NULL) {
        struct save_result dropped;
        begin_result(&dropped, found);
        add_copier(&dropped, found);
        dropped.dropped = true;
        writer_account_add(&writer->account, &dropped);
        writer->account.totals.skipped++;
        found->state = JOB_FILLING;
        pthread_cond_broadcast(&writer->idle);
    }
    pthread_mutex_unlock(&writer->mutex);
    return found;
}

/* A job with a slot by the busy policy, or NULL: this save is skipped. */
static struct job *acquire_job(struct writer *writer, bool must) {
    struct snapshot_slot *slot = snapshot_acquire(writer->pool);
    if (slot != NULL) {
        return take_free_job(writer, slot);
    }
    if (must || writer->options.busy == WRITER_BUSY_WAIT) {
        pthread_mutex_lock(&writer->mutex);
        writer->account.totals.delayed++;
        pthread_mutex_unlock(&writer->mutex);
        return take_free_job(writer, snapshot_acquire_wait(writer->pool));
    }
    return writer->options.busy == WRITER_BUSY_LATEST ? replace_waiting_job(writer) : NULL;
}

static enum status copy_metadata(struct job *job, const struct save_request *request,
                                 struct error *err) {
    size_t sizes[WRITER_METADATA_MAX][2];
    size_t total = 0;
    for (size_t i = 0; i < request->metadata_count; i++) {
        sizes[i][0] = strlen(request->metadata[i].key) + 1;
        sizes[i][1] = strlen(request->metadata[i].value) + 1;
        total += sizes[i][0] + sizes[i][1];
    }
    if (total > job->strings_capacity) {
        char *strings = malloc(2 * total);
        CHECK(strings != NULL, err, STATUS_MEMORY, "save: no memory for %zu bytes of metadata",
              total);
        free(job->strings);
        job->strings = strings;
        job->strings_capacity = 2 * total;
    }
    char *end = job->strings;
    for (size_t i = 0; i < request->metadata_count; i++) {
        job->metadata[i].key = memcpy(end, request->metadata[i].key, sizes[i][0]);
        end += sizes[i][0];
        job->metadata[i].value = memcpy(end, request->metadata[i].value, sizes[i][1]);
        end += sizes[i][1];
    }
    job->metadata_count = request->metadata_count;
    return STATUS_OK;
}

static enum status fill_job(struct job *job, const struct snapshot_source *sources, size_t count,
                            const struct save_request *request, struct error *err) {
    TRY(snapshot_fill(job->slot, sources, count, err));
    job->step = request->step;
    job->must = request->must;
    job->after_id = request->after_id;
    memcpy(job->targets, request->targets, request->target_count * sizeof job->targets[0]);
    job->target_count = request->target_count;
    return copy_metadata(job, request, err);
}

/* Has the writer another save to write before this one? */
static bool is_behind_locked(const struct writer *writer, const struct job *job) {
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        const struct job *other = &writer->jobs[i];
        if (other != job && (other->state == JOB_WAITING || other->state == JOB_WRITING)) {
            return true;
        }
    }
    return false;
}

static void enqueue_job(struct writer *writer, struct job *job, double entered) {
    job->id = ++writer->last_id;
    writer->unsettled = true;
    job->entered_seconds = entered;
    pthread_mutex_lock(&writer->mutex);
    job->state = JOB_WAITING;
    pthread_cond_signal(&writer->work);
    if (job->slot->put_off_bytes > 0 && is_behind_locked(writer, job)) {
        writer->copies_wanted = true;
        pthread_cond_signal(&writer->listed);
    }
    /* Taken here, behind the wake-up, so that a stall contains all that the trainer pays for. */
    job->stall_seconds = clock_monotonic_seconds() - entered;
    writer_account_stall(&writer->account, job->id, job->stall_seconds);
    pthread_mutex_unlock(&writer->mutex);
}

static void give_up_job(struct writer *writer, struct job *job) {
    pthread_mutex_lock(&writer->mutex);
    struct snapshot_slot *slot = job->slot;
    job->slot = NULL;
    job->state = JOB_FREE;
    writer->account.totals.failed++;
    snapshot_release(slot);
    pthread_mutex_unlock(&writer->mutex);
}

enum status writer_save(struct writer *writer, const struct snapshot_source *sources, size_t count,
                        const struct save_request *request, enum save_outcome *outcome,
                        struct error *err) {
    double entered = clock_monotonic_seconds();
    assert(request->target_count >= 1 && request->target_count <= WRITER_TARGETS_MAX);
    assert(request->metadata_count <= WRITER_METADATA_MAX);
    *outcome = SAVE_SKIPPED;
    struct job *job = acquire_job(writer, request->must);
    pthread_mutex_lock(&writer->mutex);
    writer->account.totals.requested++;
    writer->account.totals.skipped += job == NULL;
    pthread_mutex_unlock(&writer->mutex);
    if (job == NULL) {
        return STATUS_OK;
    }
    enum status status = fill_job(job, sources, count, request, err);
    if (status != STATUS_OK) {
        give_up_job(writer, job);
        return status;
    }
    *outcome = SAVE_ACCEPTED;
    enqueue_job(writer, job, entered);
    return STATUS_OK;
}

/* Called before each update: between saves it is one comparison. */
void writer_settle(struct writer *writer) {
    if (!writer->unsettled) {
        return;
    }
    writer->unsettled = false;
    double cpu = clock_thread_cpu_seconds(), begin = clock_monotonic_seconds();
    snapshot_settle(writer->pool);
    double seconds = clock_monotonic_seconds() - begin;
    writer->settled.seconds += seconds;
    writer->settled.cpu_seconds += clock_thread_cpu_seconds() - cpu;
    pthread_mutex_lock(&writer->mutex);
    writer_account_settle(&writer->account, seconds);
    pthread_mutex_unlock(&writer->mutex);
}

struct writer_settled writer_settled(const struct writer *writer) {
    return writer->settled;
}

static bool all_free_locked(const struct writer *writer) {
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        if (writer->jobs[i].state != JOB_FREE) {
            return false;
        }
    }
    return true;
}

void writer_drain(struct writer *writer) {
    pthread_mutex_lock(&writer->mutex);
    while (!all_free_locked(writer)) {
        pthread_cond_wait(&writer->idle, &writer->mutex);
    }
    pthread_mutex_unlock(&writer->mutex);
}

/* ---- what became of saves ---- */

bool writer_poll(struct writer *writer, struct save_result *out) {
    pthread_mutex_lock(&writer->mutex);
    bool found = writer_account_take(&writer->account, out);
    pthread_mutex_unlock(&writer->mutex);
    return found;
}

struct writer_totals writer_get_totals(struct writer *writer) {
    pthread_mutex_lock(&writer->mutex);
    struct writer_totals totals = writer_account_totals(&writer->account);
    pthread_mutex_unlock(&writer->mutex);
    return totals;
}

void writer_memory(const struct writer *writer, size_t *pinned_bytes, size_t *device_bytes) {
    snapshot_pool_memory(writer->pool, pinned_bytes, device_bytes);
}

/* ---- create and free ---- */

static enum status allocate_buffers(struct writer *writer, struct error *err) {
    bool complete = true;
    for (size_t i = 0; i < SNAPSHOT_SLOTS && complete; i++) {
        writer->jobs[i].strings = malloc(STRINGS_INITIAL_BYTES);
        writer->jobs[i].strings_capacity = STRINGS_INITIAL_BYTES;
        complete = writer->jobs[i].strings != NULL;
    }
    CHECK(complete, err, STATUS_MEMORY, "checkpoint writer: no memory for its buffers");
    return STATUS_OK;
}

static enum status create_locks(struct writer *writer, struct error *err) {
    writer->has_mutex = pthread_mutex_init(&writer->mutex, NULL) == 0;
    writer->has_work = pthread_cond_init(&writer->work, NULL) == 0;
    writer->has_idle = pthread_cond_init(&writer->idle, NULL) == 0;
    writer->has_listed = pthread_cond_init(&writer->listed, NULL) == 0;
    CHECK(writer->has_mutex && writer->has_work && writer->has_idle && writer->has_listed, err,
          STATUS_MEMORY, "checkpoint writer: cannot create a lock");
    return STATUS_OK;
}

static enum status start_thread(struct writer *writer, void *(*body)(void *), pthread_t *thread,
                                bool *has_thread, struct error *err) {
    int code = thread_start(thread, body, writer);
    CHECK(code == 0, err, STATUS_MEMORY, "checkpoint writer: cannot start a thread: %s",
          strerror(code));
    *has_thread = true;
    return STATUS_OK;
}

static enum status start_threads(struct writer *writer, struct error *err) {
    TRY(start_thread(writer, copier_thread, &writer->copier, &writer->has_copier, err));
    return start_thread(writer, writer_thread, &writer->thread, &writer->has_thread, err);
}

static enum status init_writer(struct writer *writer, struct backend *be, const void *device_region,
                               size_t device_bytes, struct error *err) {
    TRY(create_locks(writer, err));
    TRY(allocate_buffers(writer, err));
    TRY(writer_account_init(&writer->account, err));
    TRY(writer_targets_init(&writer->publisher, &writer->options, err));
    TRY(snapshot_pool_create(be, device_region, device_bytes, writer->options.host_capacity,
                             writer->options.direct, &writer->pool, err));
    return start_threads(writer, err);
}

enum status writer_create(const struct writer_options *options, struct backend *be,
                          const void *device_region, size_t device_bytes, struct writer **out,
                          struct error *err) {
    *out = NULL;
    struct writer *writer = calloc(1, sizeof *writer);
    CHECK(writer != NULL, err, STATUS_MEMORY, "checkpoint writer: no memory");
    writer->options = *options;
    writer->be = be;
    enum status status = init_writer(writer, be, device_region, device_bytes, err);
    if (status != STATUS_OK) {
        writer_free(writer);
        return status;
    }
    *out = writer;
    return STATUS_OK;
}

static void stop_threads(struct writer *writer) {
    if (!writer->has_copier) { /* the first that is started */
        return;
    }
    pthread_mutex_lock(&writer->mutex);
    writer->closing = true;
    pthread_cond_signal(&writer->work);
    pthread_cond_signal(&writer->listed);
    pthread_mutex_unlock(&writer->mutex);
    if (writer->has_thread) {
        pthread_join(writer->thread, NULL);
    }
    pthread_join(writer->copier, NULL);
}

void writer_free(struct writer *writer) {
    if (writer == NULL) {
        return;
    }
    stop_threads(writer);
    snapshot_pool_free(writer->pool);
    writer_targets_deinit(&writer->publisher);
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        free(writer->jobs[i].strings);
    }
    writer_account_deinit(&writer->account);
    if (writer->has_listed) {
        pthread_cond_destroy(&writer->listed);
    }
    if (writer->has_idle) {
        pthread_cond_destroy(&writer->idle);
    }
    if (writer->has_work) {
        pthread_cond_destroy(&writer->work);
    }
    if (writer->has_mutex) {
        pthread_mutex_destroy(&writer->mutex);
    }
    free(writer);
}
