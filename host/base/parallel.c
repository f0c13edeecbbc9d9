#include "host/base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "host/base/text.h"
#include "host/base/thread.h"

/* The mask of a large machine may need more than the usual 1024 bits. */
unsigned parallel_processors(void) {
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (set == NULL) {
            break;
        }
        size_t bytes = CPU_ALLOC_SIZE((size_t)cpus);
        int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (count > 0) {
            return (unsigned)count;
        }
    }
    return 1;
}

struct lane {
    void (*work)(void *context, unsigned lane);
    void *context;
    unsigned index;
    pthread_t thread;
    double cpu_seconds;
};

static void *run_lane(void *context) {
    struct lane *lane = context;
    lane->work(lane->context, lane->index);
    lane->cpu_seconds = clock_thread_cpu_seconds();
    return NULL;
}

double parallel_run(unsigned lanes, void (*work)(void *context, unsigned lane), void *context) {
    struct lane others[PARALLEL_LANES_MAX];
    unsigned started = 1, wanted = lanes < PARALLEL_LANES_MAX ? lanes : PARALLEL_LANES_MAX;
    for (; started < wanted; started++) {
        struct lane *lane = &others[started];
        *lane = (struct lane){.work = work, .context = context, .index = started};
        if (thread_start(&lane->thread, run_lane, lane) != 0) {
            break;
        }
    }
    work(context, 0);
    double cpu_seconds = 0;
    for (unsigned i = 1; i < started; i++) {
        pthread_join(others[i].thread, NULL);
        cpu_seconds += others[i].cpu_seconds;
    }
    return cpu_seconds;
}

unsigned parallel_lanes_for(uint64_t bytes, unsigned most) {
    enum { BYTES_WORTH_A_THREAD = 4 << 20 }; /* a thread's start and end cost as much as 100 KB */
    uint64_t worth = 1 + bytes / BYTES_WORTH_A_THREAD;
    return worth < most ? (unsigned)worth : most;
}

struct tasks {
    void *context;
    enum status (*work)(void *context, unsigned lane, uint64_t index, struct error *err);
    uint64_t count;
    atomic_uint_fast64_t next;
    atomic_bool stop;
    pthread_mutex_t mutex; /* guards the rest */
    uint64_t failed;       /* the first task that did; `count`: none */
    enum status status;    /* its result */
    struct error err;
};

static void note_failure(struct tasks *tasks, uint64_t index, enum status status,
                         const struct error *err) {
    atomic_store(&tasks->stop, true);
    pthread_mutex_lock(&tasks->mutex);
    if (index < tasks->failed) {
        tasks->failed = index;
        tasks->status = status;
        tasks->err = *err;
    }
    pthread_mutex_unlock(&tasks->mutex);
}

static void run_tasks(void *context, unsigned lane) {
    struct tasks *tasks = context;
    while (!atomic_load(&tasks->stop)) {
        uint64_t index = atomic_fetch_add(&tasks->next, 1);
        if (index >= tasks->count) {
            return;
        }
        struct error err = {STATUS_OK, ""};
        enum status status = tasks->work(tasks->context, lane, index, &err);
        if (status != STATUS_OK) {
            note_failure(tasks, index, status, &err);
        }
    }
}

enum status parallel_tasks(unsigned lanes, uint64_t count,
                           enum status (*work)(void *context, unsigned lane, uint64_t index,
                                               struct error *err),
                           void *context, struct error *err) {
    struct tasks tasks = {.context = context,
                          .work = work,
                          .count = count,
                          .mutex = PTHREAD_MUTEX_INITIALIZER,
                          .failed = count,
                          .status = STATUS_OK};
    (void)parallel_run(lanes, run_tasks, &tasks);
    if (tasks.status != STATUS_OK && err != NULL) {
        *err = tasks.err;
    }
    return tasks.status;
}
