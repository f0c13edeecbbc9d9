#include "host/resume.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/best_model.h"
#include "host/loading.h"
#include "host/model.h"

/* ---- which checkpoint ------------------------------------------------------------------------ */

static enum status count_checkpoints(const char *directory, size_t *count, struct error *err) {
    struct store_list list = {0};
    TRY(store_scan(&file_posix, directory, &list, err));
    *count = list.count;
    store_list_free(&list);
    return STATUS_OK;
}

static enum status load_file(const char *path, struct resume *out, struct error *err) {
    TRY(checkpoint_read_file(&file_posix, path, &out->checkpoint, err));
    snprintf(out->path, sizeof out->path, "%s", path);
    return STATUS_OK;
}

static bool best_path(const char *directory, char path[FILE_PATH_CAPACITY]) {
    struct file_stat info;
    return file_join_path(path, FILE_PATH_CAPACITY, directory, STORE_BEST_FILE) &&
           file_posix.stat(file_posix.context, path, &info) >= 0 && info.is_regular;
}

/* No checkpoint in the ring but a best model, which is a whole state too: never a fresh start over
 * it. */
static enum status load_best_alone(const char *directory, struct resume *out, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    if (!best_path(directory, path)) {
        return STATUS_OK;
    }
    fprintf(stderr, "%s holds no model.ckpt-*: going on from " STORE_BEST_FILE "\n", directory);
    return load_file(path, out, err);
}

static bool best_file_step(const char *path, uint64_t *step) {
    struct checkpoint *best;
    if (checkpoint_read_file(&file_posix, path, &best, NULL) != STATUS_OK) {
        return false;
    }
    bool known = best_model_step(best, step);
    checkpoint_free(best);
    return known;
}

/* No checkpoint of the ring can be used; a best model that can is a way out. */
static enum status offer_best(const char *directory, struct error *err) {
    char path[FILE_PATH_CAPACITY], shown[400];
    uint64_t step;
    struct error what = *err;
    return !best_path(directory, path) || !best_file_step(path, &step)
               ? what.status
               : error_set(err, what.status,
                           "%s. Or go on from the best model, of step %" PRIu64 ": --resume %s",
                           what.message, step,
                           text_escape(path, strlen(path), shown, sizeof shown));
}

/* With a number, too. */
static int count_name(void *user, const char *name) {
    size_t *count = user, size = strlen(name), ending = strlen(STORE_NAME_ENDING);
    *count +=
        name[0] != '.' && size > ending && strcmp(name + size - ending, STORE_NAME_ENDING) == 0;
    return 0;
}

/* Somebody who takes a going-back back is between two moves, maybe. */
static void warn_of_superseded(const char *directory) {
    char path[FILE_PATH_CAPACITY];
    size_t count = 0;
    if (file_join_path(path, sizeof path, directory, STORE_SUPERSEDED_DIRECTORY) &&
        file_posix.list(file_posix.context, path, count_name, &count) >= 0 && count > 0) {
        fprintf(
            stderr,
            "Warning: %s holds no checkpoint, but its " STORE_SUPERSEDED_DIRECTORY
            "/ holds %zu: this is a new run. To go on from those, stop it and move the ones of one "
            "course into %s, without the -2, -3, ... in their names\n",
            directory, count, directory);
    }
}

static enum status load_newest(struct store *store, struct resume *out, struct error *err) {
    const char *directory = store_directory(store);
    enum status status = store_load_newest(&file_posix, directory, loading_name_damage, NULL,
                                           &out->checkpoint, out->path, err);
    if (status != STATUS_OK) {
        return status == STATUS_CORRUPT ? offer_best(directory, err) : status;
    }
    out->in_ring = out->checkpoint != NULL;
    status = out->in_ring ? STATUS_OK : load_best_alone(directory, out, err);
    if (status == STATUS_OK && out->checkpoint == NULL) {
        warn_of_superseded(directory);
    }
    return status;
}

/* Where a symbolic link leads; false when `path` is none. */
static bool follow(char path[FILE_PATH_CAPACITY]) {
    char target[PATH_MAX], parent[FILE_PATH_CAPACITY];
    ssize_t size = readlink(path, target, sizeof target - 1);
    if (size <= 0) {
        return false;
    }
    target[size] = '\0';
    if (target[0] == '/') {
        return snprintf(path, FILE_PATH_CAPACITY, "%s", target) < FILE_PATH_CAPACITY;
    }
    file_split_path(path, parent, sizeof parent);
    return file_join_path(path, FILE_PATH_CAPACITY, parent, target);
}

/* The last of the files that `asked` leads to, from link to link, that lies in the directory; false
 * when none of them does. */
static bool leads_into(const char *asked, const char *directory, char path[FILE_PATH_CAPACITY]) {
    enum { LINKS_MAX = 40 }; /* as many as Linux follows */
    char at[FILE_PATH_CAPACITY];
    bool found = false;
    snprintf(at, sizeof at, "%s", asked);
    for (int links = 0; links <= LINKS_MAX; links++) {
        if (loading_lies_in(at, directory)) {
            memcpy(path, at, sizeof at);
            found = true;
        }
        if (!follow(at)) {
            break;
        }
    }
    return found;
}

/* The file that --resume names, if it lies in the directory: by its bare name, by its path, also
 * where that is a link to a file elsewhere, or behind a link that lies elsewhere; *own is false
 * when it is from elsewhere. One that is not there, but could only lie here, is an error: to go on
 * from the newest would delete, sooner or later, what was to be gone back to. */
static enum status find_own(const char *asked, const char *directory, char path[FILE_PATH_CAPACITY],
                            bool *own, struct error *err) {
    char shown[400], shown_directory[400];
    struct file_stat info;
    bool is_bare = strchr(asked, '/') == NULL;
    *own = is_bare && file_join_path(path, FILE_PATH_CAPACITY, directory, asked) &&
           file_posix.stat(file_posix.context, path, &info) >= 0;
    if (!*own && file_posix.stat(file_posix.context, asked, &info) >= 0) {
        *own = leads_into(asked, directory, path);
        return STATUS_OK;
    }
    CHECK(*own || !(is_bare || loading_lies_in(asked, directory)), err, STATUS_INPUT,
          "--resume %s: there is no such file; `cairn checkpoints --model-dir %s` lists those that "
          "can be gone back to",
          text_escape(asked, strlen(asked), shown, sizeof shown),
          text_escape(directory, strlen(directory), shown_directory, sizeof shown_directory));
    return STATUS_OK;
}

/* What was put aside is not from elsewhere: who names it wants it, and not the newest. Also where
 * there is nothing else, as soon there would be. */
static enum status refuse_superseded(const char *asked, const char *directory, struct error *err) {
    char aside[FILE_PATH_CAPACITY], shown[400], shown_directory[400];
    CHECK(!file_join_path(aside, sizeof aside, directory, STORE_SUPERSEDED_DIRECTORY) ||
              !loading_lies_in(asked, aside),
          err, STATUS_INPUT,
          "--resume %s: only files in %s itself can be gone back to: copy it there, under a name "
          "that nothing has, and --resume the copy",
          text_escape(asked, strlen(asked), shown, sizeof shown),
          text_escape(directory, strlen(directory), shown_directory, sizeof shown_directory));
    return STATUS_OK;
}

static bool has_name_of_ring(const char *path, int64_t step) {
    uint64_t named;
    char parent[FILE_PATH_CAPACITY];
    return store_parse_name(file_split_path(path, parent, sizeof parent), &named) && step >= 0 &&
           named == (uint64_t)step;
}

enum status resume_find(const struct options *options, struct store *store, struct resume *out,
                        struct error *err) {
    memset(out, 0, sizeof *out);
    const char *directory = store_directory(store);
    size_t count;
    char path[FILE_PATH_CAPACITY];
    bool own = false;
    TRY(count_checkpoints(directory, &count, err));
    count += best_path(directory, path);
    if (strcmp(options->resume, "never") == 0) {
        CHECK(
            count == 0, err, STATUS_OUTPUT,
            "--resume never, but %s holds %zu checkpoint(s): choose another --model-dir, or leave "
            "--resume away to go on from the newest",
            directory, count);
        return STATUS_OK;
    }
    bool newest = strcmp(options->resume, "auto") == 0;
    if (!newest) {
        TRY(find_own(options->resume, directory, path, &own, err));
        TRY(own ? STATUS_OK : refuse_superseded(options->resume, directory, err));
    }
    if (newest) {
        TRY(load_newest(store, out, err));
    } else if (own) {
        /* Newer ones are moved away by the trainer, once it can start from here. */
        TRY(load_file(path, out, err));
        out->supersede = true;
    } else if (count > 0) {
        fprintf(stderr, "%s holds checkpoints of its own: going on from the newest, not from %s\n",
                directory, options->resume);
        TRY(load_newest(store, out, err));
    } else {
        TRY(load_file(options->resume, out, err));
    }
    if (out->checkpoint != NULL) {
        enum status status = run_state_read(&out->state, out->checkpoint, err);
        if (status != STATUS_OK) {
            return error_prefix(err, status, "%s", out->path);
        }
        if (out->supersede) {
            out->in_ring = has_name_of_ring(path, out->state.step);
        }
    }
    return STATUS_OK;
}

/* ---- the best model -------------------------------------------------------------------------- */

enum { DIFFERENCES_MAX = 64 };

/* False when they cannot be compared; a checkpoint that does not say has none. */
static bool find_differences(const struct checkpoint *checkpoint, const struct options *options,
                             struct option_difference out[DIFFERENCES_MAX], size_t *count) {
    const char *saved = checkpoint_metadata(checkpoint, "options");
    *count = 0;
    return saved == NULL || options_compare(options, saved, strlen(saved), out, DIFFERENCES_MAX,
                                            count, NULL) == STATUS_OK;
}

/* Would a run with these options compute what comes after `checkpoint` as that one's run did? */
static bool is_computed_alike(const struct checkpoint *checkpoint, const struct options *options,
                              const char *kernel_path) {
    struct option_difference differences[DIFFERENCES_MAX];
    size_t count;
    const char *kernels = checkpoint_metadata(checkpoint, "kernel_path");
    if (!find_differences(checkpoint, options, differences, &count)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (differences[i].change != OPTION_CHANGE_FREE) {
            return false;
        }
    }
    return kernels == NULL || strcmp(kernels, kernel_path) == 0;
}

static bool has_other_monitor(const struct option_difference *differences, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(differences[i].name, "monitor") == 0 ||
            strcmp(differences[i].name, "mode") == 0) {
            return true;
        }
    }
    return false;
}

/* The run may have changed its metric at an earlier start, which was killed before it could move
 * the best model away: the checkpoint does not tell, the best model does. */
static bool is_of_other_monitor(const struct checkpoint *best, const struct options *options) {
    struct option_difference differences[DIFFERENCES_MAX];
    size_t count;
    return find_differences(best, options, differences, &count) &&
           has_other_monitor(differences, count);
}

static bool has_same_data(const struct checkpoint *one, const struct run_state *other) {
    struct run_state state = {0};
    bool same = run_state_read(&state, one, NULL) == STATUS_OK &&
                state.data_fingerprint == other->data_fingerprint &&
                state.validation_fingerprint == other->validation_fingerprint;
    run_state_deinit(&state);
    return same;
}

static bool best_is_newer(const struct resume *resume) {
    return resume->best_has_step && resume->best_step > (uint64_t)resume->state.step;
}

/* Nothing reads the best model while a run goes on: unless it is looked at here, a damage shows
 * when the run is over and the model is wanted. Going back, one that is newer is no damage. */
static void look_at_best(struct resume *resume, const struct options *options,
                         const char *kernel_path) {
    char path[FILE_PATH_CAPACITY] = "";
    struct checkpoint *best = NULL;
    struct error why = {0};
    resume->best_is_there = best_path(options->model_dir, path);
    resume->changed = !is_computed_alike(resume->checkpoint, options, kernel_path);
    enum status status = checkpoint_read_file(&file_posix, path, &best, &why);
    if (status == STATUS_OK) {
        resume->best_has_step = best_model_step(best, &resume->best_step);
        resume->best_of_other_monitor = is_of_other_monitor(best, options);
        status = best_model_compare(path, best, resume->checkpoint, &why);
        bool alike =
            is_computed_alike(best, options, kernel_path) && has_same_data(best, &resume->state);
        if (status == STATUS_OK && best_is_newer(resume) && !alike) {
            resume->changed = true;
        }
    }
    checkpoint_free(best);
    bool has_own = resume->in_ring || resume->supersede; /* else its best model lies elsewhere */
    bool goes = resume->supersede && best_is_newer(resume);
    if (status != STATUS_OK && has_own && !goes && best_model_is_claimed(&resume->state)) {
        resume->best_unusable = true;
        fprintf(stderr,
                "Warning: the best model (end of epoch %lld) cannot be used until a better one "
                "replaces it: %s\n",
                (long long)resume->state.best_epoch + 1, why.message);
    }
}

/* The best model stays where it is as long as this run compares with it or makes it again. It is of
 * another metric: neither. It is newer than the checkpoint: made again, unless the run goes back or
 * goes on otherwise than it did. What is moved is said once it is (host/trainer_supersede.c). */
static void settle_best(struct resume *resume) {
    char *text = resume->best_text;
    const size_t capacity = sizeof resume->best_text;
    const char *const moved = "was moved into " STORE_SUPERSEDED_DIRECTORY "/";
    const struct run_state *state = &resume->state;
    bool again = !resume->supersede && !resume->changed;
    if (!resume->best_is_there) {
        return;
    }
    if (resume->monitor_changed || resume->best_of_other_monitor) {
        snprintf(text, capacity, "the best model is that of another --monitor or --mode: it %s",
                 moved);
    } else if (again || (resume->best_has_step && !best_is_newer(resume))) {
        return;
    } else if (!resume->best_has_step) {
        snprintf(text, capacity, "of which step the best model is cannot be read: it %s", moved);
    } else if (!best_model_is_claimed(state) || resume->best_unusable) {
        snprintf(text, capacity,
                 "the best model, of step %" PRIu64 ", is newer than the checkpoint: it %s",
                 resume->best_step, moved);
    } else {
        resume->best_unusable = true;
        snprintf(text, capacity,
                 "the best model, of step %" PRIu64 ", is newer than the checkpoint: it %s. The "
                 "one up to there (end of epoch %lld) was replaced by it: there is none until a "
                 "better one is found",
                 resume->best_step, moved, (long long)state->best_epoch + 1);
    }
    resume->supersede_best = text;
}

/* ---- does the model fit ---------------------------------------------------------------------- */

/* --vocabulary-size counts as the size asked for when it differs from the one that the checkpoint
 * was made with; otherwise V is what the vocabulary in the checkpoint has. */
static uint32_t vocabulary_asked(const struct option_difference *differences, size_t count,
                                 const struct model_shape *have) {
    for (size_t i = 0; i < count; i++) {
        uint64_t now;
        if (strcmp(differences[i].name, "vocabulary-size") == 0 &&
            text_parse_u64(differences[i].now, &now)) {
            return now > UINT32_MAX ? UINT32_MAX : (uint32_t)now;
        }
    }
    return have->vocabulary;
}

/* What of its factors a path multiplies: "bf16", "tf32" or all of them, "". */
static const char *precision_of(const char *kernel_path) {
    return strstr(kernel_path, "bf16") != NULL   ? "bf16"
           : strstr(kernel_path, "tf32") != NULL ? "tf32"
                                                 : "";
}

/* `saved` is NULL in a checkpoint that does not say. */
static void warn_of_kernels(const char *saved, const char *now) {
    if (saved == NULL || strcmp(saved, now) == 0) {
        return;
    }
    const char *difference = "the same mathematics, but not the same last bits";
    const char *remedy = strncmp(saved, "cpu-", 4) == 0 ? " (--isa pins the path)" : "";
    if (strcmp(precision_of(saved), precision_of(now)) != 0) {
        difference = "products of another precision, which is more than last bits";
        remedy = " (--precision pins it)";
    }
    fprintf(stderr, "Warning: the checkpoint was computed by %s, this run goes on with %s: %s%s\n",
            saved, now, difference, remedy);
}

/* ---- changed options ------------------------------------------------------------------------- */

static enum status judge(const struct option_difference *difference, const struct options *options,
                         struct error *err) {
    const char *name = difference->name;
    if (difference->change == OPTION_CHANGE_WARN) {
        fprintf(stderr, "Warning: --%s was %s, is %s from here on\n", name, difference->saved,
                difference->now);
        return STATUS_OK;
    }
    if (difference->change != OPTION_CHANGE_REFUSED || strcmp(name, "vocabulary-size") == 0) {
        return STATUS_OK;
    }
    if (options->allow_change) {
        fprintf(stderr,
                "Warning: --%s was %s, is %s from here on (--allow-change): the result is no "
                "longer that of one run\n",
                name, difference->saved, difference->now);
        return STATUS_OK;
    }
    return error_set(
        err, STATUS_CONFIG,
        "--%s was %s when the checkpoint was made and is %s now; that changes what comes "
        "next. Use the old value, another --model-dir, or --allow-change",
        name, difference->saved, difference->now);
}

enum status resume_check_options(struct resume *resume, const struct options *options,
                                 const char *kernel_path, struct error *err) {
    if (resume->checkpoint == NULL) {
        return STATUS_OK;
    }
    struct option_difference differences[DIFFERENCES_MAX];
    size_t count = 0;
    const char *saved = checkpoint_metadata(resume->checkpoint, "options");
    if (saved != NULL) {
        TRY(options_compare(options, saved, strlen(saved), differences, DIFFERENCES_MAX, &count,
                            err));
    }
    struct model_shape have, want;
    TRY(loading_shape(resume->checkpoint, resume->path, &have, err));
    uint32_t vocabulary = vocabulary_asked(differences, count, &have);
    CHECK(vocabulary > 0, err, STATUS_MISFIT,
          "%s does not fit the model asked for: tensor embedding.weight has %u rows there, and "
          "--vocabulary-size 0 (no limit) asks for every word of the data. Either ask for the old "
          "value, or choose another --model-dir for the new model",
          resume->path, have.vocabulary);
    want = (struct model_shape){
        .vocabulary = vocabulary,
        .embedding = (uint32_t)options->embedding_size,
        .hidden = (uint32_t)options->hidden_size,
        .dense = (uint32_t)options->dense_size,
    };
    TRY(loading_check_fit(resume->checkpoint, resume->path, &want, true,
                          "choose another --model-dir for the new model", err));
    TRY(loading_check_vocabulary(resume->checkpoint, resume->path, options->vocabulary, err));
    for (size_t i = 0; i < count; i++) {
        TRY(judge(&differences[i], options, err));
    }
    resume->monitor_changed = has_other_monitor(differences, count);
    warn_of_kernels(checkpoint_metadata(resume->checkpoint, "kernel_path"), kernel_path);
    look_at_best(resume, options, kernel_path);
    return STATUS_OK;
}

static enum status check_fingerprint(const char *what, int64_t saved, uint64_t now,
                                     struct resume *resume, const struct options *options,
                                     struct error *err) {
    uint64_t before;
    memcpy(&before, &saved, sizeof before);
    if (before == now) {
        return STATUS_OK;
    }
    if (options->allow_change) {
        fprintf(stderr,
                "Warning: the %s data differ from those of the checkpoint (--allow-change)\n",
                what);
        resume->changed = true;
        return STATUS_OK;
    }
    return error_set(err, STATUS_CONFIG,
                     "the %s data are not those that %s was trained with (fingerprint %016" PRIx64
                     " there, %016" PRIx64 " here). Pass the same data, another --model-dir, or "
                     "--allow-change",
                     what, resume->path, before, now);
}

enum status resume_check_data(struct resume *resume, const struct options *options,
                              const struct corpora *corpora, struct error *err) {
    if (resume->checkpoint == NULL) {
        return STATUS_OK;
    }
    TRY(check_fingerprint("training", resume->state.data_fingerprint, corpora->train.fingerprint,
                          resume, options, err));
    TRY(check_fingerprint("validation", resume->state.validation_fingerprint,
                          corpora->validation.fingerprint, resume, options, err));
    settle_best(resume);
    return STATUS_OK;
}

/* ---- nothing left ---------------------------------------------------------------------------- */

bool resume_already_there(const struct resume *resume, const struct options *options, char *text,
                          size_t capacity) {
    const struct run_state *state = &resume->state;
    /* A full epoch without its validation, or best weights still to be restored, is work left. */
    if (resume->checkpoint == NULL || state->phase == RUN_EPOCH_END) {
        return false;
    }
    if (options->max_steps > 0 && (uint64_t)state->step >= options->max_steps) {
        snprintf(text, capacity,
                 "nothing to do: the checkpoint is at step %" PRId64 ", --max-steps is %" PRIu64
                 " (an absolute number)",
                 state->step, options->max_steps);
        return true;
    }
    bool knows_best = !resume->monitor_changed; /* else it is forgotten, patience too */
    if (options->restore_best_weights && knows_best && state->stopping_has_weights &&
        !state->restored_best) {
        return false;
    }
    if (options->patience >= 0 && knows_best && state->stopping_stopped &&
        state->stopping_wait >= options->patience) {
        snprintf(text, capacity,
                 "nothing to do: the run stopped early at epoch %" PRId64 ", after %" PRId64
                 " epochs without improvement (--patience %" PRId64
                 "; a larger one or 'none' goes on)",
                 state->stopping_stopped_epoch + 1, state->stopping_wait, options->patience);
        return true;
    }
    if ((uint64_t)state->epoch >= options->epochs) {
        snprintf(text, capacity,
                 "nothing to do: the checkpoint has finished %" PRId64
                 " epochs, --epochs is %" PRIu64 " (an absolute number)",
                 state->epoch, options->epochs);
        return true;
    }
    return false;
}

void resume_close(struct resume *resume) {
    checkpoint_free(resume->checkpoint);
    run_state_deinit(&resume->state);
    memset(resume, 0, sizeof *resume);
}
