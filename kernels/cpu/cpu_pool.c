#include "kernels/cpu/cpu_pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/thread.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* THREADS: cpu_pool_run publishes a loop under `mutex` by raising `generation` and wakes the
 * workers; each worker takes part once per generation and reports back through `running`. Tasks are
 * dealt out by `next`, one at a time, so that long ones do not wait behind each other.
 * A training step is a dozen loops with little between them, and waking a sleeping thread takes as
 * long as a small loop, on a virtual machine longer. So who waits looks for SPINS pauses, without
 * the mutex, before it goes to sleep; what it looks at says only that asking again is worth while. */
struct cpu_pool {
    /* constant after create */
    uint32_t threads;   /* workers and the caller */
    pthread_t *workers; /* [threads - 1] */

    /* the loop that runs; written by cpu_pool_run while it is closed */
    void (*task)(void *context, uint32_t index);
    void *context;
    uint32_t tasks;
    atomic_uint next; /* first task nobody has taken */

    /* guarded by mutex */
    pthread_mutex_t mutex;
    pthread_cond_t start;
    pthread_cond_t finish;
    _Atomic uint64_t generation; /* also read without the mutex, as `running` is */
    bool open;                   /* workers may take part in this generation */
    atomic_uint running;         /* workers that take part now */
    uint32_t sleeping;           /* workers that wait for `start` */
    bool stop;
};

/* ---- denormals ---- */

#if defined(__SSE2__)
typedef unsigned int float_mode;
static float_mode flush_denormals(void) {
    float_mode before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u); /* flush to zero, denormals are zero */
    return before;
}
static void restore_mode(float_mode mode) {
    _mm_setcsr(mode);
}
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static float_mode flush_denormals(void) {
    float_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (uint64_t)1 << 24)); /* FZ */
    return before;
}
static void restore_mode(float_mode mode) {
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}
#else
typedef int float_mode;
static float_mode flush_denormals(void) {
    return 0;
}
static void restore_mode(float_mode mode) {
    (void)mode;
}
#endif

/* ---- running ---- */

static void run_tasks(struct cpu_pool *pool) {
    float_mode mode = flush_denormals();
    uint32_t index;
    while ((index = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) <
           pool->tasks) {
        pool->task(pool->context, index);
    }
    restore_mode(mode);
}

enum { SPINS = 2000 }; /* some 30 to 90 us: a pause takes 40 to 140 cycles, by processor */

static void pause_briefly(void) {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void spin_until_next(struct cpu_pool *pool, uint64_t seen) {
    for (int i = 0;
         i < SPINS && atomic_load_explicit(&pool->generation, memory_order_relaxed) == seen; i++) {
        pause_briefly();
    }
}

static void spin_until_finished(struct cpu_pool *pool) {
    for (int i = 0; i < SPINS && atomic_load_explicit(&pool->running, memory_order_relaxed) > 0;
         i++) {
        pause_briefly();
    }
}

static void *work(void *argument) {
    struct cpu_pool *pool = argument;
    uint64_t seen = 0;
    for (;;) {
        spin_until_next(pool, seen);
        pthread_mutex_lock(&pool->mutex);
        while ((!pool->open || pool->generation == seen) && !pool->stop) {
            pool->sleeping++;
            pthread_cond_wait(&pool->start, &pool->mutex);
            pool->sleeping--;
        }
        if (pool->stop) {
            break;
        }
        seen = pool->generation;
        pool->running++;
        pthread_mutex_unlock(&pool->mutex);
        run_tasks(pool);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->running == 0) {
            pthread_cond_signal(&pool->finish);
        }
        pthread_mutex_unlock(&pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

void cpu_pool_run(struct cpu_pool *pool, uint32_t tasks,
                  void (*task)(void *context, uint32_t index), void *context) {
    assert(tasks <= UINT32_MAX / 2); /* every thread raises `next` once beyond the end */
    pool->task = task;
    pool->context = context;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    bool alone = pool->threads == 1 || tasks <= 1;
    if (!alone) {
        pthread_mutex_lock(&pool->mutex);
        pool->generation++;
        pool->open = true;
        if (pool->sleeping > 0) {
            pthread_cond_broadcast(&pool->start);
        }
        pthread_mutex_unlock(&pool->mutex);
    }
    run_tasks(pool);
    if (!alone) {
        pthread_mutex_lock(&pool->mutex);
        pool->open = false; /* who has not come by now is not needed */
        pthread_mutex_unlock(&pool->mutex);
        spin_until_finished(pool);
        pthread_mutex_lock(&pool->mutex);
        while (pool->running > 0) {
            pthread_cond_wait(&pool->finish, &pool->mutex);
        }
        pthread_mutex_unlock(&pool->mutex);
    }
}

uint32_t cpu_pool_threads(const struct cpu_pool *pool) {
    return pool->threads;
}

/* ---- making ---- */

enum status cpu_pool_create(uint32_t threads, struct cpu_pool **out, struct error *err) {
    assert(threads > 0);
    struct cpu_pool *pool = calloc(1, sizeof *pool);
    pthread_t *workers = calloc(threads, sizeof *workers);
    if (pool == NULL || workers == NULL) {
        free(pool);
        free(workers);
        return error_set(err, STATUS_MEMORY, "out of memory for %u compute threads", threads);
    }
    pool->workers = workers;
    pool->threads = 1;
    atomic_init(&pool->next, 0);
    atomic_init(&pool->generation, 0);
    atomic_init(&pool->running, 0);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->finish, NULL);
    for (uint32_t i = 0; i + 1 < threads; i++) {
        int code = thread_start(&pool->workers[i], work, pool);
        if (code != 0) {
            cpu_pool_free(pool);
            return error_set(err, STATUS_DEVICE,
                             "cannot start compute thread %u of %u: %s; ask for fewer by --threads",
                             i + 2, threads, strerror(code));
        }
        pool->threads++;
    }
    *out = pool;
    return STATUS_OK;
}

void cpu_pool_free(struct cpu_pool *pool) {
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i + 1 < pool->threads; i++) {
        pthread_join(pool->workers[i], NULL);
    }
    pthread_cond_destroy(&pool->finish);
    pthread_cond_destroy(&pool->start);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}
