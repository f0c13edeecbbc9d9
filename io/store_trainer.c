/* The trainer's side of a model directory: stale temporaries, superseding, state file,
 * retention.
 *
 * Retention must decide the same after a crash at any point. Its whole memory is the directory and
 * last_preserved: everything saved up to that time is decided (it was deleted, or stays for ever).
 * The state file gets the value from before the deletions that follow it, so that a crash between
 * them repeats the same decisions on what is left. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"
#include "io/store.h"
#include "io/store_lock.h"

enum { SHOWN_PATH_CAPACITY = 400 };

struct known_time {
    uint64_t step;
    double seconds;
};

struct store {
    /* constant after store_open */
    const struct file_table *files;
    struct store_options options;
    char directory[FILE_PATH_CAPACITY];
    struct store_lock lock;
    /* the thread that commits */
    bool has_protected;
    uint64_t protected_step;
    bool has_newest; /* `newest` is the checkpoint gone on from, or else the last one committed */
    uint64_t newest_step;
    struct file_stat newest;
    bool is_lost;             /* another run has begun in the directory */
    bool was_empty;           /* no ring when the store was opened */
    double last_preserved;    /* 0: not known yet */
    struct known_time *times; /* by step; when the state file says they were saved */
    size_t time_count;
};

/* "cannot WHAT PATH: REASON" */
static enum status store_error(enum status status, const char *what, const char *path,
                               int negative_errno, struct error *err) {
    char shown[SHOWN_PATH_CAPACITY], reason[256];
    return error_set(err, status, "cannot %s %s: %s", what,
                     text_escape(path, strlen(path), shown, sizeof shown),
                     file_errno_text(negative_errno, reason, sizeof reason));
}

static enum status store_path(const struct store *store, const char *name, char *out,
                              struct error *err) {
    CHECK(file_join_path(out, FILE_PATH_CAPACITY, store->directory, name), err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    return STATUS_OK;
}

/* ---- stale temporaries ---- */

static int collect_temporary(void *user, const char *name) {
    struct text *names = user; /* each with its NUL */
    if (strncmp(name, PUBLISH_TEMP_PREFIX, strlen(PUBLISH_TEMP_PREFIX)) == 0) {
        text_append(names, name, strlen(name) + 1);
    }
    return names->failed ? 1 : 0;
}

static enum status remove_temporary(const struct file_table *files, const char *directory,
                                    const char *name, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    struct file_stat st;
    CHECK(file_join_path(path, sizeof path, directory, name), err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    if (files->stat(files->context, path, &st) == 0 && st.is_directory) {
        return STATUS_OK; /* not made by publish_begin */
    }
    int result = files->unlink(files->context, path);
    if (result < 0 && result != -ENOENT) {
        return store_error(STATUS_OUTPUT, "remove the stale temporary file", path, result, err);
    }
    return STATUS_OK;
}

static enum status remove_temporaries(const struct file_table *files, const char *directory,
                                      bool own, struct error *err) {
    struct text names = {0};
    enum status status = STATUS_OK;
    int result = files->list(files->context, directory, collect_temporary, &names);
    if (result < 0) {
        status = store_error(STATUS_OUTPUT, "list", directory, result, err);
    } else if (names.failed) {
        status = error_set(err, STATUS_MEMORY, "out of memory for the list of temporary files");
    }
    for (size_t at = 0; at < names.size && status == STATUS_OK;) {
        if (own || !publish_is_own_temp(names.bytes + at)) {
            status = remove_temporary(files, directory, names.bytes + at, err);
        }
        at += strlen(names.bytes + at) + 1;
    }
    text_free(&names);
    return status;
}

/* What a kill left beside checkpoints, and beside those that a going-back put aside. `own`: also
 * those whose name has our pid. */
static enum status remove_all_temporaries(const struct store *store, bool own, struct error *err) {
    char superseded[FILE_PATH_CAPACITY];
    struct file_stat st;
    TRY(remove_temporaries(store->files, store->directory, own, err));
    TRY(store_path(store, STORE_SUPERSEDED_DIRECTORY, superseded, err));
    bool is_there = store->files->stat(store->files->context, superseded, &st) >= 0;
    if (is_there && st.is_directory) { /* what cannot be tidied there is in nobody's way */
        enum status ignored = remove_temporaries(store->files, superseded, own, NULL);
        (void)ignored;
    }
    return STATUS_OK;
}

/* ---- times ---- */

static int by_step(const void *left, const void *right) {
    uint64_t a = ((const struct known_time *)left)->step;
    uint64_t b = ((const struct known_time *)right)->step;
    return (a > b) - (a < b);
}

/* When the checkpoint was saved: as the state file has it, else when its file was written (a copied
 * directory has new file times, a lost state file leaves only those). Never after `now`. */
static double saved_at(const struct store *store, const struct store_entry *entry, double now) {
    struct known_time key = {.step = entry->step};
    const struct known_time *known =
        store->time_count == 0
            ? NULL
            : bsearch(&key, store->times, store->time_count, sizeof key, by_step);
    double seconds = known != NULL && known->seconds > 0 ? known->seconds : entry->modified_seconds;
    return seconds < now ? seconds : now;
}

static enum status learn_times(struct store *store, const struct store_state *state,
                               struct error *err) {
    struct known_time *times = calloc(state->count + 1, sizeof *times);
    CHECK(times != NULL, err, STATUS_MEMORY, "out of memory for the times of checkpoints");
    for (size_t i = 0; i < state->count; i++) {
        bool is_ring_name = store_parse_name(state->names[i], &times[i].step);
        assert(is_ring_name);
        (void)is_ring_name;
        times[i].seconds = state->timestamps[i];
    }
    qsort(times, state->count, sizeof *times, by_step);
    free(store->times);
    store->times = times;
    store->time_count = state->count;
    return STATUS_OK;
}

/* What the state file says is a hint: one that cannot be read or parsed is none. */
static enum status read_hints(struct store *store, struct error *err) {
    struct store_state state;
    enum status status = store_state_read(store->files, store->directory, &state, err);
    if (status == STATUS_OK) {
        store->last_preserved = state.last_preserved;
        status = learn_times(store, &state, err);
        store_state_free(&state);
        return status;
    }
    return status == STATUS_MEMORY ? status : STATUS_OK;
}

/* ---- open and close ---- */

/* A process that died between creating a directory and syncing its parent leaves a directory that a
 * power cut can take away with everything in it. Whoever comes next cannot know, so the names on
 * the way are made durable before the first checkpoint. A parent that may not be opened is not
 * ours: it was there before. */
static enum status sync_way(const struct store *store, struct error *err) {
    char path[FILE_PATH_CAPACITY], parent[FILE_PATH_CAPACITY];
    snprintf(path, sizeof path, "%s", store->directory);
    for (;;) {
        bool fits = file_split_path(path, parent, sizeof parent) != NULL;
        assert(fits);
        (void)fits;
        int result = file_sync_directory(store->files, parent);
        if (result < 0 && result != -EACCES && result != -EPERM) {
            char reason[160];
            return error_set(err, STATUS_OUTPUT, "cannot make %s durable: fsync of %s failed: %s",
                             store->directory, parent,
                             file_errno_text(result, reason, sizeof reason));
        }
        if (strcmp(parent, ".") == 0 || strcmp(parent, "/") == 0) {
            return STATUS_OK;
        }
        memcpy(path, parent, sizeof path);
    }
}

static enum status open_directory(struct store *store, struct error *warning, struct error *err) {
    TRY(file_make_directories(store->files, store->directory, err));
    TRY(store_lock_take(store->files, store->directory, &store->lock, warning, err));
    if (store->lock.is_held) {
        TRY(remove_all_temporaries(store, true, err));
    }
    TRY(read_hints(store, err));
    struct store_list list;
    TRY(store_scan(store->files, store->directory, &list, err));
    store->was_empty = list.count == 0;
    store_list_free(&list);
    return store->was_empty ? sync_way(store, err) : STATUS_OK;
}

enum status store_open(const struct file_table *files, const char *directory,
                       const struct store_options *options, struct store **out,
                       struct error *warning, struct error *err) {
    *out = NULL;
    if (warning != NULL) {
        *warning = (struct error){.status = STATUS_OK};
    }
    CHECK(strlen(directory) < FILE_PATH_CAPACITY, err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    struct store *store = calloc(1, sizeof *store);
    CHECK(store != NULL, err, STATUS_MEMORY, "out of memory for the model directory");
    store->files = files;
    store->options = *options;
    store->lock = STORE_LOCK_NONE;
    memcpy(store->directory, directory, strlen(directory) + 1);
    enum status status = open_directory(store, warning, err);
    if (status != STATUS_OK) {
        store_close(store);
        return status;
    }
    *out = store;
    return STATUS_OK;
}

const char *store_directory(const struct store *store) {
    return store->directory;
}

/* ---- is it still ours? ---- */

/* False as well where it cannot be found out. */
static bool look_at(const struct store *store, uint64_t step, struct file_stat *out) {
    char name[64], path[FILE_PATH_CAPACITY];
    store_checkpoint_name(step, name);
    return file_join_path(path, sizeof path, store->directory, name) &&
           store->files->stat(store->files->context, path, out) == 0;
}

static void remember_newest(struct store *store, uint64_t step) {
    store->newest_step = step;
    store->has_newest = look_at(store, step, &store->newest);
}

/* The lock file was gone. Who deletes it alone changes nothing; where the newest checkpoint went
 * with it the directory was emptied, and what is there now may be another run's, which ours would
 * mix with and retention delete. */
static bool is_emptied(const struct store *store) {
    struct file_stat now;
    return store->has_newest &&
           !(look_at(store, store->newest_step, &now) && now.device == store->newest.device &&
             now.inode == store->newest.inode);
}

static enum status claim(struct store *store, struct error *err) {
    bool was_claimed = store->lock.is_claimed;
    TRY(store_lock_claim(store->files, store->directory, &store->lock, err));
    if (!was_claimed) {
        /* Until now one of them might have been another trainer's, in the middle of a save. Of ours
         * the trainer's thread may be writing a log; what cannot be removed is in nobody's way. */
        enum status ignored = remove_all_temporaries(store, false, NULL);
        (void)ignored;
    }
    return STATUS_OK;
}

enum status store_check_owned(struct store *store, bool claims, struct error *err) {
    if (!store->is_lost) {
        bool is_new;
        TRY(store_lock_check(store->files, store->directory, &store->lock, &is_new, err));
        store->is_lost = is_new && is_emptied(store);
        if (store->is_lost) {
            store_lock_release(store->files, &store->lock);
        } else if (claims || store->lock.is_claimed) {
            TRY(claim(store, err));
        }
    }
    char shown[SHOWN_PATH_CAPACITY];
    CHECK(!store->is_lost, err, STATUS_OUTPUT,
          "%s was emptied since this trainer's last save (the lock file and the checkpoint of step "
          "%llu are gone): it may be another run's by now, and nothing is saved there",
          text_escape(store->directory, strlen(store->directory), shown, sizeof shown),
          (unsigned long long)store->newest_step);
    return STATUS_OK;
}

void store_protect(struct store *store, uint64_t step) {
    store->has_protected = true;
    store->protected_step = step;
    remember_newest(store, step);
}

void store_close(struct store *store) {
    if (store == NULL) {
        return;
    }
    store_lock_release(store->files, &store->lock);
    free(store->times);
    free(store);
}

/* ---- the state file ---- */

/* Publish a state that lists `entries` (all of them are there to stay), with times as known at
 * `now`; remember these times. */
static enum status publish_state(struct store *store, const struct store_entry *entries,
                                 size_t count, double now, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    TRY(store_path(store, STORE_STATE_FILE, path, err));
    struct store_state state = {.count = count, .last_preserved = store->last_preserved};
    state.names = calloc(count, sizeof *state.names);
    state.timestamps = calloc(count, sizeof *state.timestamps);
    struct text text = {0};
    enum status status = STATUS_OK;
    if (state.names == NULL || state.timestamps == NULL) {
        status = error_set(err, STATUS_MEMORY, "out of memory for the state file");
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        memcpy(state.names[i], entries[i].name, sizeof state.names[i]);
        state.timestamps[i] = saved_at(store, &entries[i], now);
    }
    store_state_format(&state, &text);
    if (text.failed) {
        status = error_set(err, STATUS_MEMORY, "out of memory for the state file");
        goto done;
    }
    status = file_publish(store->files, path, text.bytes, text.size, err);
    if (status == STATUS_OK) {
        status = learn_times(store, &state, err);
    }
done:
    text_free(&text);
    store_state_free(&state);
    return status;
}

/* ---- superseding ---- */

/* Comes before whatever is changed: reading the data may have taken minutes since the directory was
 * opened. */
static enum status make_aside(struct store *store, char directory[FILE_PATH_CAPACITY],
                              struct error *err) {
    TRY(store_check_owned(store, true, err));
    TRY(store_path(store, STORE_SUPERSEDED_DIRECTORY, directory, err));
    return file_make_directories(store->files, directory, err);
}

enum status store_aside_path(struct store *store, const char *name, char path[FILE_PATH_CAPACITY],
                             struct error *err) {
    char directory[FILE_PATH_CAPACITY], free_name[96];
    assert(strlen(name) > strlen(STORE_NAME_ENDING) && strlen(name) < 64);
    const int stem = (int)(strlen(name) - strlen(STORE_NAME_ENDING));
    TRY(make_aside(store, directory, err));
    snprintf(free_name, sizeof free_name, "%s", name);
    for (unsigned number = 2;; number++) {
        int taken = file_lists_name(store->files, directory, free_name);
        if (taken < 0) {
            return store_error(STATUS_IO, "list", directory, taken, err);
        }
        if (taken == 0) {
            break;
        }
        snprintf(free_name, sizeof free_name, "%.*s-%u%s", stem, name, number, name + stem);
    }
    CHECK(file_join_path(path, FILE_PATH_CAPACITY, directory, free_name), err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    return STATUS_OK;
}

/* Durable under its new name before the old name may vanish for good. */
static enum status move_away(struct store *store, const char *name, struct error *err) {
    const struct file_table *files = store->files;
    char from[FILE_PATH_CAPACITY], to[FILE_PATH_CAPACITY], aside[FILE_PATH_CAPACITY];
    TRY(store_path(store, name, from, err));
    TRY(store_aside_path(store, name, to, err));
    TRY(store_path(store, STORE_SUPERSEDED_DIRECTORY, aside, err));
    int result = files->rename(files->context, from, to);
    if (result < 0) {
        return store_error(STATUS_IO, "move into " STORE_SUPERSEDED_DIRECTORY "/:", from, result,
                           err);
    }
    result = file_sync_directory(files, aside);
    if (result == 0) {
        result = file_sync_directory(files, store->directory);
    }
    if (result < 0) {
        return store_error(STATUS_IO, "make durable (fsync) the move of", from, result, err);
    }
    return STATUS_OK;
}

static enum status remove_state(const struct store *store, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    TRY(store_path(store, STORE_STATE_FILE, path, err));
    int result = store->files->unlink(store->files->context, path);
    if (result < 0 && result != -ENOENT) {
        return store_error(STATUS_IO, "remove", path, result, err);
    }
    return STATUS_OK;
}

/* Whatever can refuse comes before the first move: then nothing was changed. The state file may
 * list fewer than there are; the other way round it would name files that are gone, and who comes
 * again after the last move finds nothing newer to begin with. */
static enum status supersede_list(struct store *store, const struct store_list *list, uint64_t step,
                                  struct error *err) {
    size_t kept = list->count;
    while (kept > 0 && list->entries[kept - 1].step > step) {
        kept--;
    }
    if (kept == list->count) {
        return STATUS_OK;
    }
    char aside[FILE_PATH_CAPACITY];
    TRY(make_aside(store, aside, err));
    TRY(kept == 0 ? remove_state(store, err)
                  : publish_state(store, list->entries, kept,
                                  list->entries[kept - 1].modified_seconds, err));
    for (size_t i = list->count; i-- > kept;) {
        TRY(move_away(store, list->entries[i].name, err));
    }
    return STATUS_OK;
}

enum status store_supersede_newer(struct store *store, uint64_t step, struct error *err) {
    struct store_list list;
    TRY(store_scan(store->files, store->directory, &list, err));
    enum status status = supersede_list(store, &list, step, err);
    store_list_free(&list);
    return status;
}

enum status store_supersede_best(struct store *store, struct error *err) {
    char best[FILE_PATH_CAPACITY];
    struct file_stat st;
    TRY(store_path(store, STORE_BEST_FILE, best, err));
    int result = store->files->stat(store->files->context, best, &st);
    if (result == -ENOENT) {
        return STATUS_OK;
    }
    if (result < 0) {
        return store_error(STATUS_IO, "look at", best, result, err);
    }
    return move_away(store, STORE_BEST_FILE, err);
}

/* ---- retention ---- */

/* Where a retention without memory begins. A fresh run: just before its first checkpoint, as
 * TensorFlow does. A directory with checkpoints of which nothing is known: its oldest may be one
 * that was to stay for ever, so it stays. */
static void begin_preserving(struct store *store, double oldest, double now) {
    if (store->options.keep_every_n_seconds > 0 && store->last_preserved <= 0) {
        store->last_preserved = store->was_empty ? oldest - 1.0 : oldest;
    }
    if (store->last_preserved > now) {
        store->last_preserved = now; /* the clock was set back */
    }
}

/* Split `entries`, whose last one was just committed: those that stay remain there, in order, and
 * their number is returned; the others go to `doomed`. *last_preserved: its value once they are
 * gone. */
static size_t choose(const struct store *store, struct store_entry *entries, size_t count,
                     struct store_entry *doomed, double *last_preserved) {
    double now = entries[count - 1].modified_seconds;
    double every = store->options.keep_every_n_seconds;
    size_t candidates = 0;
    for (size_t i = 0; i < count; i++) {
        candidates += saved_at(store, &entries[i], now) > store->last_preserved;
    }
    size_t keep = store->options.keep_max;
    size_t excess = keep > 0 && candidates > keep ? candidates - keep : 0;
    size_t kept = 0, gone = 0;
    *last_preserved = store->last_preserved;
    for (size_t i = 0; i < count; i++) {
        double seconds = saved_at(store, &entries[i], now);
        bool decided = seconds <= store->last_preserved; /* stays for ever */
        bool is_protected = store->has_protected && entries[i].step == store->protected_step;
        bool goes = excess > 0 && i + 1 < count && !decided && !is_protected;
        excess -= goes;
        if (goes && every > 0 && seconds - every >= *last_preserved) {
            *last_preserved = seconds;
            goes = false;
        }
        if (goes) {
            doomed[gone++] = entries[i];
        } else {
            entries[kept++] = entries[i];
        }
    }
    return kept;
}

/* All of them are tried; the first failure is reported. */
static enum status delete_doomed(const struct store *store, const struct store_entry *doomed,
                                 size_t count, struct error *err) {
    enum status status = STATUS_OK;
    char path[FILE_PATH_CAPACITY];
    for (size_t i = 0; i < count; i++) {
        if (!file_join_path(path, sizeof path, store->directory, doomed[i].name)) {
            continue; /* cannot be: the scan made the same path */
        }
        int result = store->files->unlink(store->files->context, path);
        if (result < 0 && result != -ENOENT && status == STATUS_OK) {
            status = store_error(STATUS_IO, "delete the old checkpoint", path, result, err);
        }
    }
    return status;
}

/* `entries`: the ring up to the one just committed, which is the last. */
static enum status commit_list(struct store *store, struct store_entry *entries, size_t count,
                               struct error *err) {
    struct store_entry *doomed = calloc(count, sizeof *doomed);
    CHECK(doomed != NULL, err, STATUS_MEMORY, "out of memory for the retention");
    double now = entries[count - 1].modified_seconds, before = store->last_preserved;
    begin_preserving(store, saved_at(store, &entries[0], now), now);
    double last_preserved;
    size_t kept = choose(store, entries, count, doomed, &last_preserved);
    enum status status = publish_state(store, entries, kept, now, err);
    if (status == STATUS_OK) {
        status = delete_doomed(store, doomed, count - kept, err);
    } else {
        store->last_preserved = before; /* the times of those that stay were not learned either */
    }
    if (status == STATUS_OK) {
        store->last_preserved = last_preserved;
    }
    free(doomed);
    return status;
}

/* A save of a step that was saved before: its old time is no longer true. */
static void forget_time(struct store *store, uint64_t step) {
    for (size_t i = 0; i < store->time_count; i++) {
        if (store->times[i].step == step) {
            store->times[i].seconds = 0;
        }
    }
}

enum status store_committed(struct store *store, uint64_t step, struct error *err) {
    if (store->has_protected && step > store->protected_step) {
        store->has_protected = false;
    }
    forget_time(store, step);
    remember_newest(store, step);
    struct store_list list;
    enum status status = store_scan(store->files, store->directory, &list, err);
    if (status != STATUS_OK) { /* of a save nothing is input */
        return status == STATUS_INPUT ? error_prefix(err, STATUS_IO, "retention") : status;
    }
    size_t count = list.count;
    while (count > 0 && list.entries[count - 1].step > step) {
        count--; /* not of this run: see the header */
    }
    if (count == 0 || list.entries[count - 1].step != step) {
        char shown[SHOWN_PATH_CAPACITY];
        status = error_set(
            err, STATUS_IO,
            "the checkpoint of step %llu has vanished from %s right after it was saved: who else "
            "deletes files there?",
            (unsigned long long)step,
            text_escape(store->directory, strlen(store->directory), shown, sizeof shown));
    } else {
        status = commit_list(store, list.entries, count, err);
    }
    store_list_free(&list);
    return status;
}
