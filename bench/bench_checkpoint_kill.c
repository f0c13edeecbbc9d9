/* Children that train and save, killed at random moments, and what a new start would find.
 *
 * A child makes everything itself: backend, data, trainer, writer. It tells its steps through a
 * page of shared memory, so that the parent knows how far it was when SIGKILL came. The kernel
 * keeps what a killed process has written, so this is the loss of a crash of the program; after a
 * power cut the same checkpoint is there, or the one before it: what has its name is durable, but
 * the name itself may be younger than the last fsync of the directory. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench_checkpoint.h"
#include "host/base/rng.h"
#include "host/base/stop.h"
#include "host/loading.h"

struct shared {
    _Atomic uint64_t step;
    _Atomic bool started; /* the first state is durable */
    pid_t parent;
    char message[1024]; /* of a child that failed */
};

static const double shortest_run = 0.02, longest_run = 0.5; /* seconds from the first step */

/* ---- the child ------------------------------------------------------------------------------- */

static enum status train_for_ever(struct checkpoint_trainee *trainee,
                                  const struct checkpoint_plan *plan, enum checkpoint_mode mode,
                                  uint64_t interval, struct shared *shared, struct error *err) {
    struct writer *writer;
    struct save_result result;
    enum save_outcome outcome;
    TRY(trainee->rewind(trainee, err));
    TRY(checkpoint_block_writer(trainee, plan->options, mode, &writer, err));
    trainee->writer = writer;
    TRY(trainee->save(trainee, &outcome, err));
    writer_drain(writer);
    atomic_store(&shared->started, true);
    for (pid_t parent = shared->parent;
         getppid() == parent;) { /* without it nobody would end this */
        TRY(trainee->make_step(trainee, err));
        if (trainee->step % interval == 0) {
            TRY(trainee->save(trainee, &outcome, err));
            if (checkpoint_mode_waits(mode)) {
                writer_drain(writer);
            }
        }
        atomic_store(&shared->step, trainee->step);
        while (writer_poll(writer, &result)) {
            CHECK(result.status == STATUS_OK, err, result.status, "%s", result.message);
        }
    }
    return STATUS_OK;
}

static enum status be_a_trainer(const struct checkpoint_plan *plan, enum checkpoint_mode mode,
                                uint64_t interval, const char *directory, struct shared *shared,
                                struct error *err) {
    struct backend *be;
    struct checkpoint_trainee *trainee;
    const struct options *options = plan->options;
    TRY(loading_create_backend(options, options->hidden_size, &be, err));
    if (plan->sizes[0] > 0) {
        TRY(checkpoint_synthetic_create(be, plan->sizes[0], plan->step_seconds, directory, &trainee,
                                        err));
    } else {
        TRY(checkpoint_real_create(options, be, directory, &trainee, err));
    }
    return train_for_ever(trainee, plan, mode, interval == 0 ? trainee->epoch_steps : interval,
                          shared, err);
}

/* ---- the parent ------------------------------------------------------------------------------ */

static void sleep_seconds(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

/* The step of the newest checkpoint that verifies; 0 when there is none. */
static enum status newest_step(const char *directory, uint64_t *out, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    struct checkpoint *checkpoint;
    *out = 0;
    TRY(store_load_newest(&file_posix, directory, NULL, NULL, &checkpoint, path, err));
    checkpoint_free(checkpoint);
    const char *name = strrchr(path, '/');
    bool named = name != NULL && store_parse_name(name + 1, out);
    CHECK(named || checkpoint == NULL, err, STATUS_INTERNAL, "%s is no checkpoint's name", path);
    return STATUS_OK;
}

static enum status kill_child(pid_t child, struct shared *shared, double seconds,
                              struct error *err) {
    int state = 0;
    bool gone = false;
    while (!gone && !atomic_load(&shared->started) && stop_signal() == 0) {
        sleep_seconds(0.001);
        gone = waitpid(child, &state, WNOHANG) == child;
    }
    if (!gone) {
        sleep_seconds(stop_signal() == 0 ? seconds : 0);
        kill(child, SIGKILL);
        while (waitpid(child, &state, 0) < 0 && errno == EINTR) {
        }
    }
    /* Before the child is blamed: a flag that was raised just before the fork stops it, too. */
    CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
    CHECK(!gone && WIFSIGNALED(state) && WTERMSIG(state) == SIGKILL, err, STATUS_IO,
          "a trainer in a process of its own failed: %s",
          shared->message[0] == '\0' ? "a signal ended it" : shared->message);
    return STATUS_OK;
}

static enum status kill_once(const struct checkpoint_plan *plan, enum checkpoint_mode mode,
                             uint64_t interval, const char *directory, double seconds,
                             struct shared *shared, struct error *err) {
    CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
    atomic_store(&shared->started, false);
    atomic_store(&shared->step, 0);
    shared->parent = getpid();
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0, err, STATUS_MEMORY, "cannot start a process: %s", strerror(errno));
    if (child == 0) {
        struct error failure = {0};
        (void)!be_a_trainer(plan, mode, interval, directory, shared, &failure);
        memcpy(shared->message, failure.message, sizeof shared->message);
        _exit(1);
    }
    return kill_child(child, shared, seconds, err);
}

static void add_loss(struct checkpoint_kills *kills, uint64_t steps, uint64_t durable) {
    double lost = steps > durable ? (double)(steps - durable) : 0;
    if (kills->count < BENCH_REPEATS_MAX) {
        kills->lost[kills->count] = lost;
    }
    kills->lost_mean += lost;
    kills->lost_max = lost > kills->lost_max ? lost : kills->lost_max;
    kills->steps_mean += (double)steps;
    kills->count++;
}

static enum status kill_all(const struct checkpoint_plan *plan,
                            const struct checkpoint_place *place, struct checkpoint_kills *kills,
                            struct shared *shared, struct error *err) {
    struct rng rng = rng_make(plan->options->seed, RNG_STREAM_INIT, (uint32_t)kills->mode);
    double longest = plan->options->quick ? 0.1 : longest_run;
    for (uint64_t i = 0; i < plan->kills; i++) {
        char name[64], directory[FILE_PATH_CAPACITY];
        snprintf(name, sizeof name, "kill-%s-%llu", checkpoint_mode_name(kills->mode),
                 (unsigned long long)i);
        TRY(checkpoint_place_enter(place, name, directory, err));
        double seconds = shortest_run + (longest - shortest_run) * rng_uniform(&rng);
        TRY(kill_once(plan, kills->mode, kills->interval, directory, seconds, shared, err));
        uint64_t durable;
        TRY(newest_step(directory, &durable, err));
        add_loss(kills, atomic_load(&shared->step), durable);
        checkpoint_place_remove(directory);
    }
    return STATUS_OK;
}

enum status checkpoint_kill_run(const struct checkpoint_plan *plan,
                                const struct checkpoint_place *place, enum checkpoint_mode mode,
                                uint64_t interval, struct checkpoint_kills *out,
                                struct error *err) {
    *out = (struct checkpoint_kills){.mode = mode, .interval = interval};
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED, err, STATUS_MEMORY, "no shared memory: %s", strerror(errno));
    enum status status = kill_all(plan, place, out, shared, err);
    munmap(shared, sizeof *shared);
    if (out->count > 0) {
        out->lost_mean /= (double)out->count;
        out->steps_mean /= (double)out->count;
    }
    return status;
}
