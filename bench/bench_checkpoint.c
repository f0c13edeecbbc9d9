/* bench_checkpoint.c - `cairn bench checkpoint`: what a save costs training, how soon it is
 * durable, how fast a restart is, and what a crash loses. bench_checkpoint.h says how all of it is
 * measured. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_checkpoint.h"
#include "bench/bench_checkpoint_report.h"
#include "host/cmd.h"
#include "host/loading.h"

enum { CASES_MAX = CHECKPOINT_PLACES * CHECKPOINT_LIST_MAX, WARM_UP_STEPS = 3, KILL_INTERVAL = 10 };

struct bench {
    struct options options; /* with the repeats of the plan */
    struct checkpoint_plan plan;
    struct checkpoint_place places[CHECKPOINT_PLACES];
    size_t place_count;
    struct checkpoint_kills kills[CHECKPOINT_PLACES][CHECKPOINT_MODES];
    size_t kill_counts[CHECKPOINT_PLACES];
    const char *no_kills[CHECKPOINT_PLACES]; /* why they are left out, or NULL */
    struct backend *be;
    struct checkpoint_output out;
    struct checkpoint_case *cases[CASES_MAX];
    size_t case_count;
};

/* ---- one case -------------------------------------------------------------------------------- */

static void name_state(double megabytes, char *out, size_t capacity) {
    if (megabytes > 0) {
        snprintf(out, capacity, "%g MB", megabytes);
    } else {
        snprintf(out, capacity, "real");
    }
}

static void describe_case(const struct bench *bench, const struct checkpoint_place *place,
                          double megabytes, const struct checkpoint_trainee *trainee,
                          struct checkpoint_case *out) {
    const struct checkpoint_plan *plan = &bench->plan;
    out->place = place->name;
    out->in_memory = place->in_memory;
    out->repeats = plan->repeats;
    out->epoch_steps = trainee->epoch_steps;
    memcpy(out->modes, plan->modes, sizeof out->modes);
    out->interval_count =
        checkpoint_plan_intervals(plan, trainee->made_up, trainee->state_bytes, out->intervals);
    name_state(megabytes, out->state, sizeof out->state);
}

/* All modes at one interval, once. */
static enum status run_turn(const struct bench *bench, struct checkpoint_trainee *trainee,
                            struct checkpoint_case *cell, size_t index, unsigned repeat,
                            struct error *err) {
    const struct checkpoint_plan *plan = &bench->plan;
    uint64_t interval = cell->intervals[index] == 0 ? cell->epoch_steps : cell->intervals[index];
    uint64_t steps = checkpoint_plan_steps(plan, trainee->made_up, trainee->state_bytes, interval);
    enum checkpoint_mode turn[CHECKPOINT_MODES];
    size_t count = checkpoint_plan_turn(cell->modes, repeat, turn);
    for (size_t i = 0; i < count; i++) {
        TRY(checkpoint_block_run(trainee, plan, turn[i], interval, steps,
                                 &cell->rounds[index][turn[i]][repeat],
                                 &cell->stalls[index][turn[i]], err));
    }
    bool compared = cell->modes[CHECKPOINT_OFF];
    double off = cell->rounds[index][CHECKPOINT_OFF][repeat].step_seconds;
    for (unsigned mode = 0; mode < CHECKPOINT_MODES; mode++) {
        struct checkpoint_round *round = &cell->rounds[index][mode][repeat];
        round->lost = compared && cell->modes[mode] ? 1.0 - off / round->step_seconds : (double)NAN;
    }
    return STATUS_OK;
}

static enum status run_cells(const struct bench *bench, struct checkpoint_trainee *trainee,
                             struct checkpoint_case *cell, struct error *err) {
    struct checkpoint_round ignored;
    TRY(checkpoint_block_run(trainee, &bench->plan, CHECKPOINT_OFF, 1, WARM_UP_STEPS, &ignored,
                             NULL, err));
    TRY(checkpoint_block_save(trainee, &bench->plan, err));
    for (unsigned repeat = 0; repeat < cell->repeats; repeat++) {
        fprintf(stderr, "bench checkpoint: %s, %s state: repeat %u of %u\n", cell->place,
                cell->state, repeat + 1, cell->repeats);
        for (size_t i = 0; i < cell->interval_count; i++) {
            TRY(run_turn(bench, trainee, cell, i, repeat, err));
        }
    }
    return STATUS_OK;
}

/* What is measured of the last save when training is over. */
struct last_save {
    struct checkpoint_restore restore;
    struct checkpoint_encoding encoding;
};

static enum status measure_last_save(const struct bench *bench, struct checkpoint_trainee *trainee,
                                     unsigned repeats, struct last_save *out, struct error *err) {
    TRY(checkpoint_block_save(trainee, &bench->plan, err));
    TRY(checkpoint_restore_run(trainee, repeats, &out->restore, err));
    return checkpoint_encoding_run(trainee, &bench->plan, repeats, &out->encoding, err);
}

/* After all that is measured of this state, as it makes work for the disk, and when that is
 * reported, as it can fail. */
static enum status keep_first_state(const struct bench *bench,
                                    const struct checkpoint_trainee *trainee, struct error *err) {
    const char *path = bench->options.keep_state;
    bool wanted = path[0] != '\0' && bench->case_count == 1;
    return wanted ? checkpoint_restore_keep(trainee, path, err) : STATUS_OK;
}

static enum status measure_case(struct bench *bench, struct checkpoint_trainee *trainee,
                                struct checkpoint_case *cell, struct error *err) {
    TRY(run_cells(bench, trainee, cell, err));
    struct last_save *last = calloc(1, sizeof *last);
    CHECK(last != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    enum status status = measure_last_save(bench, trainee, cell->repeats, last, err);
    if (status == STATUS_OK) {
        status = checkpoint_report_case(&bench->out, cell, err);
    }
    if (status == STATUS_OK) {
        checkpoint_report_restore(&bench->out, cell, &last->restore);
        checkpoint_report_encoding(&bench->out, cell, &last->encoding);
        fflush(stdout);
        status = keep_first_state(bench, trainee, err);
    }
    free(last);
    return status;
}

static void leave_out(struct bench *bench, const struct checkpoint_place *place, const char *what,
                      const char *why) {
    char name[96];
    snprintf(name, sizeof name, "left out: %s, %s", place->name, what);
    bench_report_fact(bench->out.report, name, "%s", why);
}

static enum status run_case(struct bench *bench, const struct checkpoint_place *place,
                            double megabytes, struct error *err) {
    char directory[FILE_PATH_CAPACITY];
    struct checkpoint_trainee *trainee;
    const struct checkpoint_plan *plan = &bench->plan;
    const char *lacks = checkpoint_place_lacks(place, megabytes);
    if (lacks != NULL) {
        char state[32];
        name_state(megabytes, state, sizeof state);
        leave_out(bench, place, state, lacks);
        return STATUS_OK;
    }
    TRY(checkpoint_place_enter(place, "models", directory, err));
    TRY(megabytes > 0
            ? checkpoint_synthetic_create(bench->be, megabytes, plan->step_seconds, directory,
                                          &trainee, err)
            : checkpoint_real_create(&bench->options, bench->be, directory, &trainee, err));
    struct checkpoint_case *cell = calloc(1, sizeof *cell);
    enum status status = STATUS_OK;
    if (cell == NULL) {
        status = error_set(err, STATUS_MEMORY, "out of memory for a benchmark");
    } else {
        describe_case(bench, place, megabytes, trainee, cell);
        bench->cases[bench->case_count++] = cell;
        status = measure_case(bench, trainee, cell, err);
    }
    trainee->free(trainee);
    checkpoint_place_remove(directory);
    return status;
}

/* ---- kills ----------------------------------------------------------------------------------- */

static uint64_t kill_interval(const struct checkpoint_plan *plan) {
    for (size_t i = 0; i < plan->interval_count; i++) {
        if (plan->intervals[i] == KILL_INTERVAL) {
            return KILL_INTERVAL;
        }
    }
    /* A made-up state has no epochs; the plan has made sure that there is another interval. */
    size_t first = 0;
    while (plan->sizes[0] > 0 && plan->intervals[first] == 0) {
        first++;
    }
    return plan->intervals[first];
}

/* Before this process has a device, and threads beside the signal watcher. Modes that only some
 * devices have are left out. */
static enum status kill_trainers(struct bench *bench, struct error *err) {
    const struct checkpoint_plan *plan = &bench->plan;
    for (size_t place = 0; place < bench->place_count && plan->kills > 0; place++) {
        bench->no_kills[place] = checkpoint_place_lacks(&bench->places[place], plan->sizes[0]);
        if (bench->no_kills[place] != NULL) {
            continue;
        }
        for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
            if (plan->modes[mode] && checkpoint_mode_saves(mode) &&
                !checkpoint_mode_is_direct(mode)) {
                TRY(checkpoint_kill_run(plan, &bench->places[place], mode, kill_interval(plan),
                                        &bench->kills[place][bench->kill_counts[place]], err));
                bench->kill_counts[place]++;
            }
        }
    }
    return STATUS_OK;
}

static void report_kills_of(struct bench *bench, size_t place) {
    const char *where = bench->places[place].name;
    const struct checkpoint_kills *kills = bench->kills[place];
    char name[32], state[32], every[24];
    snprintf(name, sizeof name, "%s, kill", where);
    name_state(bench->plan.sizes[0], state, sizeof state);
    checkpoint_steps_name(kills[0].interval, every);
    bench_report_fact(bench->out.report, name, "trainers, %s state, saving every %s%s", state,
                      every, kills[0].interval == 0 ? "" : " steps");
    printf("\n%s: steps lost by trainers killed at a random moment (%s state)\n", where, state);
    printf("  %5s %-11s %10s %10s %10s %8s %16s %10s %10s\n", "every", "mode", "lost, mean",
           "lost, max", "interval", "killed", "after", "interval", "durable");
    printf("  %5s %-11s %10s %10s %10s %8s %16s %10s %10s\n", "steps", "", "steps", "steps",
           "steps", "trainers", "s", "ms", "at most, ms");
    for (size_t i = 0; i < bench->kill_counts[place]; i++) {
        checkpoint_report_kills(&bench->out, where, state, &kills[i]);
    }
}

static void report_kills(struct bench *bench) {
    for (size_t place = 0; place < bench->place_count; place++) {
        if (bench->no_kills[place] != NULL) {
            leave_out(bench, &bench->places[place], "kill", bench->no_kills[place]);
        } else if (bench->kill_counts[place] > 0) {
            report_kills_of(bench, place);
        }
    }
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES && bench->plan.kills > 0; mode++) {
        if (bench->plan.modes[mode] && checkpoint_mode_is_direct(mode)) {
            char name[64];
            snprintf(name, sizeof name, "left out: %s, kill", checkpoint_mode_name(mode));
            bench_report_fact(bench->out.report, name,
                              "how many steps a kill loses is measured without it alone");
        }
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static enum status draw_pictures(struct bench *bench, struct error *err) {
    const struct checkpoint_case *drawn[CASES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < bench->case_count; i++) {
        checkpoint_picture_print(bench->cases[i], stdout);
        if (checkpoint_picture_shows(bench->cases[i])) {
            drawn[count++] = bench->cases[i];
        }
    }
    if (bench->options.plot[0] == '\0') {
        return STATUS_OK;
    }
    const char *result = "none, what it would show was left out";
    if (count > 0) {
        bool done;
        TRY(checkpoint_picture_draw(drawn, count, &bench->plan, &done, err));
        result = done ? bench->options.plot : "none, there is no gnuplot on this machine";
    }
    bench_report_fact(bench->out.report, "picture", "%s", result);
    return STATUS_OK;
}

/* What was measured until something failed took its time, too: it is written whatever `status` is,
 * and of several errors the first one is returned. */
static enum status write_files(struct bench *bench, enum status status, struct error *err) {
    struct error later = {0};
    if (status != STATUS_OK) {
        bench_report_fact(bench->out.report, "incomplete", "%s", err->message);
    }
    enum status closed =
        checkpoint_csv_close(&bench->out.csv, &bench->options, status == STATUS_OK ? err : &later);
    status = status == STATUS_OK ? closed : status;
    enum status written = bench_report_write(bench->out.report, status == STATUS_OK ? err : &later);
    return status == STATUS_OK ? written : status;
}

static void report_facts(struct bench *bench) {
    const struct options *options = &bench->options;
    static const char *const policies[] = {
        [BUSY_SKIP] = "skip", [BUSY_LATEST] = "latest", [BUSY_WAIT] = "wait"};
    bench_report_fact(bench->out.report, "data of the real state", "%s", options->data);
    bench_report_fact(bench->out.report, "when the writer is busy", "%s",
                      policies[options->checkpoint_busy]);
    bench_report_number(bench->out.report, "made-up step", bench->plan.step_seconds * 1e3, "ms");
    for (size_t i = 0; i < bench->place_count; i++) {
        const struct checkpoint_place *place = &bench->places[i];
        bool is_said = strcmp(place->name, "dir") == 0 && place->in_memory;
        bench_report_fact(bench->out.report, place->name, "%s%s", place->path,
                          is_said ? " (which is no disk, but memory: tmpfs)" : "");
    }
}

static enum status measure_all(struct bench *bench, struct error *err) {
    for (size_t place = 0; place < bench->place_count; place++) {
        for (size_t i = 0; i < bench->plan.size_count; i++) {
            TRY(run_case(bench, &bench->places[place], bench->plan.sizes[i], err));
        }
    }
    return draw_pictures(bench, err);
}

static enum status run(struct bench *bench, struct error *err) {
    struct options *options = &bench->options;
    TRY(checkpoint_plan_try_file("keep-state", options->keep_state, err));
    TRY(checkpoint_plan_try_file("plot", options->plot, err));
    TRY(checkpoint_plan_try_device(&bench->plan, err));
    TRY(bench_report_create(options, stdout, &bench->out.report, err));
    for (int tmpfs = 0; tmpfs < CHECKPOINT_PLACES; tmpfs++) {
        if (tmpfs == 1 ? bench->plan.tmpfs : bench->plan.disk) {
            TRY(checkpoint_place_make(options, tmpfs == 1, &bench->places[bench->place_count],
                                      err));
            bench->place_count++;
        }
    }
    TRY(checkpoint_csv_try(options, err));
    TRY(kill_trainers(bench, err));
    TRY(loading_create_backend(options, options->hidden_size, &bench->be, err));
    TRY(checkpoint_csv_open(options, &bench->out.csv, err)); /* loses what an earlier run wrote */
    bool drops = checkpoint_plan_fit(&bench->plan, bench->be->unified_memory);
    bench_report_device(bench->out.report, bench->be);
    report_facts(bench);
    if (drops) {
        bench_report_fact(bench->out.report, "left out: direct", "of a GPU only");
    }
    bench_report_quiet(bench->out.report, true);
    report_kills(bench);
    checkpoint_table_legend(stdout);
    enum status status = measure_all(bench, err);
    return write_files(bench, status, err);
}

enum status cmd_bench_checkpoint(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    struct bench *bench = calloc(1, sizeof *bench);
    CHECK(bench != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    bench->options = *options;
    bench->out.table = stdout;
    enum status status = checkpoint_plan_make(&bench->options, &bench->plan, err);
    if (status == STATUS_OK) {
        bench->options.repeats = bench->plan.repeats;
        status = run(bench, err);
    }
    for (size_t i = 0; i < bench->place_count; i++) {
        checkpoint_place_close(&bench->places[i]);
    }
    for (size_t i = 0; i < bench->case_count; i++) {
        checkpoint_case_free(bench->cases[i]);
    }
    (void)!checkpoint_csv_close(&bench->out.csv, &bench->options, NULL);
    bench_report_free(bench->out.report);
    if (bench->be != NULL) {
        bench->be->table->free(bench->be);
    }
    free(bench);
    return status;
}
