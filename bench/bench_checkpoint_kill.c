/* Children that train and save, killed at random moments, and what a new start would find.
 *
 * A child makes everything itself: backend, data, trainer, writer. It tells its steps through a
 * page of shared memory, so that the parent knows how far it was when SIGKILL came. The kernel
 * keeps what a killed process has written, so this is the loss of a crash of the program; after a
 * power cut the same checkpoint is there, or the one before it: what has its name is durable, but
 * the name itself may be younger than the last fsync of the directory. */
#include <errno.h>
#include <math.h>
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

enum { LEARNED_SAVES = 5, KILLS_LEAST = 5 };

static const double patience_seconds = 60; /* for the trainers of a mode, if nobody says how many */

struct shared {
    _Atomic uint64_t step;
    _Atomic bool started; /* the first state is durable, and interval_steps is there */
    _Atomic bool learned; /* the times are there */
    uint64_t interval_steps;
    double interval_seconds, durable_seconds;
    pid_t parent;
    char message[1024]; /* of a child that failed */
};

double checkpoint_kills_mean(const struct checkpoint_kills *kills) {
    double sum = 0;
    for (unsigned i = 0; i < kills->count; i++) {
        sum += kills->lost[i];
    }
    return kills->count > 0 ? sum / kills->count : 0;
}

double checkpoint_kills_most(const struct checkpoint_kills *kills) {
    double most = 0;
    for (unsigned i = 0; i < kills->count; i++) {
        most = kills->lost[i] > most ? kills->lost[i] : most;
    }
    return most;
}

/* ---- the child ------------------------------------------------------------------------------- */

/* What a trainer learns of its saves while it makes them. */
struct lesson {
    uint64_t first_step, saves;
    double begin, durable_seconds; /* the second: of the save that took longest */
};

static enum status poll_results(struct writer *writer, struct lesson *lesson, struct error *err) {
    struct save_result result;
    while (writer_poll(writer, &result)) {
        CHECK(result.status == STATUS_OK, err, result.status, "%s", result.message);
        lesson->saves++;
        lesson->durable_seconds = fmax(lesson->durable_seconds, result.durable_seconds);
    }
    return STATUS_OK;
}

static void tell(const struct lesson *lesson, uint64_t step, struct shared *shared) {
    if (lesson->saves >= LEARNED_SAVES && !shared->learned) {
        double seconds = bench_clock_now() - lesson->begin;
        double intervals = (double)(step - lesson->first_step) / (double)shared->interval_steps;
        shared->interval_seconds = seconds / intervals;
        shared->durable_seconds = lesson->durable_seconds;
        shared->learned = true;
    }
}

static enum status train_for_ever(struct checkpoint_trainee *trainee, enum checkpoint_mode mode,
                                  struct shared *shared, struct error *err) {
    struct writer *writer = trainee->writer;
    enum save_outcome outcome;
    struct lesson lesson = {.first_step = trainee->step, .begin = bench_clock_now()};
    for (pid_t parent = shared->parent;
         getppid() == parent;) { /* without it nobody would end this */
        TRY(trainee->make_step(trainee, err));
        shared->step = trainee->step; /* made, though a kill may come before a save of it ends */
        if (trainee->step % shared->interval_steps == 0) {
            TRY(trainee->save(trainee, &outcome, err));
            if (checkpoint_mode_waits(mode)) {
                writer_drain(writer);
            }
        }
        TRY(poll_results(writer, &lesson, err));
        tell(&lesson, trainee->step, shared);
    }
    return STATUS_OK;
}

static enum status save_and_train(struct checkpoint_trainee *trainee,
                                  const struct checkpoint_plan *plan, enum checkpoint_mode mode,
                                  uint64_t interval, struct shared *shared, struct error *err) {
    enum save_outcome outcome;
    struct lesson ignored = {0};
    TRY(trainee->rewind(trainee, err));
    TRY(checkpoint_block_writer(trainee, plan->options, mode, &trainee->writer, err));
    TRY(trainee->save(trainee, &outcome, err));
    writer_drain(trainee->writer);
    TRY(poll_results(trainee->writer, &ignored, err));
    shared->interval_steps = interval == 0 ? trainee->epoch_steps : interval;
    shared->started = true;
    return train_for_ever(trainee, mode, shared, err);
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
    return save_and_train(trainee, plan, mode, interval, shared, err);
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

/* Until the flag is raised; true when the child has ended by itself. */
static bool ends_before(pid_t child, const _Atomic bool *flag, int *state) {
    while (!*flag && stop_signal() == 0) {
        sleep_seconds(0.001);
        if (waitpid(child, state, WNOHANG) == child) {
            return true;
        }
    }
    return false;
}

/* A stop signal ends it: some live for long. */
static void let_live(double seconds) {
    const double slice = 0.01, end = bench_clock_now() + seconds;
    for (double left = seconds; left > 0 && stop_signal() == 0; left = end - bench_clock_now()) {
        sleep_seconds(left < slice ? left : slice);
    }
}

/* After so many seconds, or with none when it has told what it has learned. *lived is from its
 * first checkpoint on. */
static enum status kill_child(pid_t child, struct shared *shared, double seconds, double *lived,
                              struct error *err) {
    int state = 0;
    bool gone = ends_before(child, &shared->started, &state);
    double begin = bench_clock_now();
    if (!gone && seconds > 0) {
        let_live(seconds);
    } else if (!gone) {
        gone = ends_before(child, &shared->learned, &state);
    }
    *lived = bench_clock_now() - begin;
    if (!gone) {
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

/* What is measured of one mode in one place. */
struct killing {
    const struct checkpoint_plan *plan;
    const struct checkpoint_place *place;
    struct checkpoint_kills *kills;
    struct shared *shared;
};

static enum status start_and_kill(const struct killing *killing, const char *directory,
                                  double seconds, double *lived, struct error *err) {
    struct shared *shared = killing->shared;
    const struct checkpoint_kills *kills = killing->kills;
    CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
    shared->started = shared->learned = false;
    shared->step = 0;
    shared->parent = getpid();
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0, err, STATUS_MEMORY, "cannot start a process: %s", strerror(errno));
    if (child == 0) {
        struct error failure = {0};
        (void)!be_a_trainer(killing->plan, kills->mode, kills->interval, directory, shared,
                            &failure);
        memcpy(shared->message, failure.message, sizeof shared->message);
        _exit(1);
    }
    return kill_child(child, shared, seconds, lived, err);
}

/* One trainer in a directory of its own; `durable` is the newest step in it. */
static enum status kill_one(const struct killing *killing, double seconds, double *lived,
                            uint64_t *durable, struct error *err) {
    char name[64], directory[FILE_PATH_CAPACITY];
    snprintf(name, sizeof name, "kill-%s-%u", checkpoint_mode_name(killing->kills->mode),
             killing->kills->count);
    TRY(checkpoint_place_enter(killing->place, name, directory, err));
    TRY(start_and_kill(killing, directory, seconds, lived, err));
    TRY(newest_step(directory, durable, err));
    checkpoint_place_remove(directory);
    return STATUS_OK;
}

static enum status learn_times(const struct killing *killing, struct error *err) {
    double lived;
    uint64_t durable;
    struct checkpoint_kills *kills = killing->kills;
    TRY(kill_one(killing, 0, &lived, &durable, err));
    kills->interval_steps = killing->shared->interval_steps;
    kills->interval_seconds = killing->shared->interval_seconds;
    kills->durable_seconds = killing->shared->durable_seconds;
    return STATUS_OK;
}

static bool is_enough(const struct killing *killing, double begin) {
    const struct checkpoint_plan *plan = killing->plan;
    unsigned count = killing->kills->count;
    bool late = bench_clock_now() - begin > patience_seconds;
    return count >= plan->kills || (!plan->kills_given && count >= KILLS_LEAST && late);
}

static enum status kill_all(const struct killing *killing, struct error *err) {
    struct checkpoint_kills *kills = killing->kills;
    const char *mode = checkpoint_mode_name(kills->mode);
    struct rng rng = rng_make(killing->plan->options->seed, RNG_STREAM_INIT, (uint32_t)kills->mode);
    fprintf(stderr, "bench checkpoint: %s, kill, %s: how long its saves take\n",
            killing->place->name, mode);
    TRY(learn_times(killing, err));
    /* In the first of these lives' ends the first save that is due has had its time: from there on
     * no moment is unlike the others. */
    double least = kills->interval_seconds + kills->durable_seconds;
    fprintf(stderr, "bench checkpoint: %s, kill, %s: %u trainer%s, each after %.2f to %.2f s\n",
            killing->place->name, mode, (unsigned)killing->plan->kills,
            killing->plan->kills == 1 ? "" : "s", least, 5 * least);
    for (double begin = bench_clock_now(); !is_enough(killing, begin);) {
        double lived, seconds = least * (1 + 4 * rng_uniform(&rng));
        uint64_t durable;
        TRY(kill_one(killing, seconds, &lived, &durable, err));
        uint64_t made = killing->shared->step;
        kills->made[kills->count] = (double)made;
        kills->lost[kills->count] = made > durable ? (double)(made - durable) : 0;
        kills->lived[kills->count] = lived;
        kills->count++;
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
    const struct killing killing = {plan, place, out, shared};
    enum status status = kill_all(&killing, err);
    munmap(shared, sizeof *shared);
    return status;
}
