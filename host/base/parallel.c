#include "host/base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "host/base/text.h"

unsigned parallel_processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        return (unsigned)CPU_COUNT(&set);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than the set can name */
    return online > 0 ? (unsigned)online : 1;
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
    sigset_t all, before; /* a thread inherits the mask: signals go to those that wait for them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < wanted; started++) {
        struct lane *lane = &others[started];
        *lane = (struct lane){.work = work, .context = context, .index = started};
        if (pthread_create(&lane->thread, NULL, run_lane, lane) != 0) {
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    work(context, 0);
    double cpu_seconds = 0;
    for (unsigned i = 1; i < started; i++) {
        pthread_join(others[i].thread, NULL);
        cpu_seconds += others[i].cpu_seconds;
    }
    return cpu_seconds;
}
