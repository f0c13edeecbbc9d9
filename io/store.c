/* What everyone may ask of a model directory: names, the scan, the newest checkpoint that verifies.
 * The trainer's side is in store_trainer.c, the state file in store_state.c. */
#include "io/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"

static const char name_prefix[] = "model.ckpt-";
static const char name_suffix[] = STORE_NAME_ENDING;

enum {
    NAME_PREFIX_BYTES = sizeof name_prefix - 1,
    NAME_SUFFIX_BYTES = sizeof name_suffix - 1,
    RESCANS_MAX = 1000, /* a trainer would have to delete faster than we can open */
    SHOWN_PATH_CAPACITY = 256
};

/* ---- names ---- */

void store_checkpoint_name(uint64_t step, char out[64]) {
    snprintf(out, 64, "%s%llu%s", name_prefix, (unsigned long long)step, name_suffix);
}

/* Only the very spelling that store_checkpoint_name makes: whatever else lies in the directory is
 * not ours, will not be loaded and will not be deleted. */
bool store_parse_name(const char *name, uint64_t *step) {
    char digits[24], again[64];
    size_t size = strlen(name);
    if (size <= NAME_PREFIX_BYTES + NAME_SUFFIX_BYTES ||
        size - NAME_PREFIX_BYTES - NAME_SUFFIX_BYTES >= sizeof digits) {
        return false;
    }
    size_t digit_count = size - NAME_PREFIX_BYTES - NAME_SUFFIX_BYTES;
    memcpy(digits, name + NAME_PREFIX_BYTES, digit_count);
    digits[digit_count] = '\0';
    if (!text_parse_u64(digits, step)) {
        return false;
    }
    store_checkpoint_name(*step, again);
    return strcmp(name, again) == 0;
}

/* ---- scan ---- */

struct collector {
    struct store_list *list;
    size_t capacity;
    bool failed;
};

static int collect(void *user, const char *name) {
    struct collector *collector = user;
    struct store_list *list = collector->list;
    uint64_t step;
    if (!store_parse_name(name, &step)) {
        return 0;
    }
    if (list->count == collector->capacity) {
        size_t capacity = collector->capacity * 2 + 16;
        struct store_entry *moved = realloc(list->entries, capacity * sizeof *moved);
        if (moved == NULL) {
            collector->failed = true;
            return 1;
        }
        list->entries = moved;
        collector->capacity = capacity;
    }
    struct store_entry *entry = &list->entries[list->count++];
    *entry = (struct store_entry){.step = step};
    store_checkpoint_name(step, entry->name);
    return 0;
}

static int by_step(const void *left, const void *right) {
    uint64_t a = ((const struct store_entry *)left)->step;
    uint64_t b = ((const struct store_entry *)right)->step;
    return (a > b) - (a < b);
}

static enum status scan_error(const char *what, const char *path, int negative_errno,
                              struct error *err) {
    char shown[SHOWN_PATH_CAPACITY], reason[256];
    return error_set(err, file_input_status(negative_errno), "cannot %s %s: %s", what,
                     text_escape(path, strlen(path), shown, sizeof shown),
                     file_errno_text(negative_errno, reason, sizeof reason));
}

/* Size and time of one entry; *keep: it stays in the list. 0 or a negative errno. What is not there
 * has vanished since the listing, or is a link to a file that is not there: its name still is. */
static int stat_entry(const struct file_table *files, const char *directory, const char *path,
                      struct store_entry *entry, bool *keep) {
    struct file_stat st = {0};
    int result = files->stat(files->context, path, &st);
    if (result == -ENOENT) {
        int listed = file_lists_name(files, directory, entry->name);
        if (listed <= 0) {
            return listed == -ENOENT ? 0 : listed;
        }
        result = files->stat(files->context, path, &st); /* it may just have been made again */
        entry->is_broken_link = result == -ENOENT;
    }
    *keep = entry->is_broken_link || (result == 0 && st.is_regular);
    entry->bytes = st.bytes;
    entry->modified_seconds = st.modified_seconds;
    return entry->is_broken_link ? 0 : result;
}

/* What vanished since the listing, or is no file, leaves the list. */
static enum status stat_entries(const struct file_table *files, const char *directory,
                                struct store_list *list, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++) {
        struct store_entry entry = list->entries[i];
        bool keep = false;
        int result = file_join_path(path, sizeof path, directory, entry.name)
                         ? stat_entry(files, directory, path, &entry, &keep)
                         : -ENAMETOOLONG;
        if (result < 0) {
            return scan_error("look at", path, result, err);
        }
        if (keep) {
            list->entries[kept++] = entry;
        }
    }
    list->count = kept;
    return STATUS_OK;
}

enum status store_scan(const struct file_table *files, const char *directory,
                       struct store_list *out, struct error *err) {
    *out = (struct store_list){0};
    struct collector collector = {.list = out};
    int result = files->list(files->context, directory, collect, &collector);
    enum status status = STATUS_OK;
    if (collector.failed) {
        status = error_set(err, STATUS_MEMORY, "out of memory for the list of checkpoints");
    } else if (result < 0 && result != -ENOENT) {
        status = scan_error("list the model directory", directory, result, err);
    } else {
        status = stat_entries(files, directory, out, err);
    }
    if (status != STATUS_OK) {
        store_list_free(out);
    } else if (out->count > 0) {
        qsort(out->entries, out->count, sizeof *out->entries, by_step);
    }
    return status;
}

void store_list_free(struct store_list *list) {
    free(list->entries);
    *list = (struct store_list){0};
}

/* ---- the newest that verifies ---- */

struct search {
    const struct file_table *files;
    const char *directory;
    store_damage_callback on_damage;
    void *context;
    struct store_list damaged; /* already passed over and told about */
    struct error reason;       /* of the newest damaged one */
    struct checkpoint *found;
    char *path; /* FILE_PATH_CAPACITY bytes */
};

static bool is_known_damaged(const struct search *search, uint64_t step) {
    for (size_t i = 0; i < search->damaged.count; i++) {
        if (search->damaged.entries[i].step == step) {
            return true;
        }
    }
    return false;
}

/* The reader puts the path in front of its reasons; the callback gets it as an argument. */
static const char *without_path(const char *message, const char *path) {
    size_t size = strlen(path);
    bool starts = strncmp(message, path, size) == 0 && strncmp(message + size, ": ", 2) == 0;
    return starts ? message + size + 2 : message;
}

static enum status pass_over(struct search *search, const struct store_entry *entry,
                             const struct error *reason, struct error *err) {
    struct store_list *list = &search->damaged;
    struct store_entry *moved = realloc(list->entries, (list->count + 1) * sizeof *moved);
    CHECK(moved != NULL, err, STATUS_MEMORY, "out of memory for the list of damaged checkpoints");
    list->entries = moved;
    list->entries[list->count++] = *entry;
    const char *text = without_path(reason->message, search->path);
    if (list->count == 1) {
        error_set(&search->reason, reason->status, "%s: %s", entry->name, text);
    }
    if (search->on_damage != NULL) {
        search->on_damage(search->context, search->path, text);
    }
    return STATUS_OK;
}

/* What may be whole is not passed over: to go on from an older one would bury it. */
static enum status check_unread(const struct search *search, const struct store_entry *entry,
                                const struct error *reason, bool *again, struct error *err) {
    struct file_stat st;
    int result = search->files->stat(search->files->context, search->path, &st);
    *again = result == -ENOENT && !entry->is_broken_link;
    CHECK(result != -ENOENT || *again, err, STATUS_INPUT,
          "%s: a link to a file that is not there (a disk that is not mounted, data that are not "
          "fetched?), and which may be whole. Bring it back, or move the link away to go on from "
          "an older one",
          search->path);
    CHECK(result != 0 || !st.is_regular, err, STATUS_INPUT,
          "%s: it may be whole. Make it readable, or move it away to go on from an older one",
          reason->message);
    return STATUS_OK;
}

/* Is the file damaged, so that an older one may be taken? *again: it has vanished. */
static enum status check_damaged(const struct search *search, const struct store_entry *entry,
                                 const struct error *reason, bool *again, struct error *err) {
    if (reason->status == STATUS_INPUT) {
        return check_unread(search, entry, reason, again, err);
    }
    CHECK(reason->status != STATUS_DATA, err, STATUS_DATA,
          "%s; or move it away to go on from an older one", reason->message);
    return reason->status == STATUS_MEMORY ? error_set(err, STATUS_MEMORY, "%s", reason->message)
                                           : STATUS_OK;
}

enum status store_check_step(const struct checkpoint *checkpoint, uint64_t step,
                             struct error *err) {
    const char *text = checkpoint_metadata(checkpoint, "step");
    uint64_t held;
    CHECK(text == NULL || !text_parse_u64(text, &held) || held == step, err, STATUS_CORRUPT,
          "it holds step %s, its name says %llu", text, (unsigned long long)step);
    return STATUS_OK;
}

static enum status read_entry(struct search *search, const struct store_entry *entry,
                              struct error *reason) {
    TRY(checkpoint_read_file(search->files, search->path, &search->found, reason));
    enum status status = store_check_step(search->found, entry->step, reason);
    if (status != STATUS_OK) {
        checkpoint_free(search->found);
    }
    return status;
}

/* Try the entries from the newest down. *again: one vanished, so the list is out of date. */
static enum status try_entries(struct search *search, const struct store_list *list, bool *again,
                               struct error *err) {
    *again = false;
    for (size_t i = list->count; i-- > 0 && search->found == NULL && !*again;) {
        const struct store_entry *entry = &list->entries[i];
        if (is_known_damaged(search, entry->step)) {
            continue;
        }
        bool fits =
            file_join_path(search->path, FILE_PATH_CAPACITY, search->directory, entry->name);
        CHECK(fits, err, STATUS_INPUT, "the path of the model directory is too long");
        struct error reason = {0};
        if (read_entry(search, entry, &reason) != STATUS_OK) {
            search->found = NULL;
            TRY(check_damaged(search, entry, &reason, again, err));
            if (!*again) {
                TRY(pass_over(search, entry, &reason, err));
            }
        }
    }
    return STATUS_OK;
}

static enum status none_verifies(const struct search *search, size_t count, struct error *err) {
    char shown[SHOWN_PATH_CAPACITY], reason[SHOWN_PATH_CAPACITY];
    return error_set(
        err, STATUS_CORRUPT,
        "%s has %zu checkpoint%s and none can be used (the newest: %s); restore one "
        "from a backup; to start anew use another model directory, or move them away, "
        "and " STORE_BEST_FILE " with them",
        text_escape(search->directory, strlen(search->directory), shown, sizeof shown), count,
        count == 1 ? "" : "s",
        text_escape(search->reason.message, strlen(search->reason.message), reason, sizeof reason));
}

static enum status search_newest(struct search *search, struct error *err) {
    for (int scans = 0; scans < RESCANS_MAX; scans++) {
        struct store_list list;
        TRY(store_scan(search->files, search->directory, &list, err));
        size_t count = list.count;
        bool again;
        enum status status = try_entries(search, &list, &again, err);
        store_list_free(&list);
        if (status != STATUS_OK || search->found != NULL) {
            return status;
        }
        if (!again) {
            return count == 0 ? STATUS_OK : none_verifies(search, count, err);
        }
    }
    return error_set(err, STATUS_INPUT, "the checkpoints of %s vanish faster than they can be read",
                     search->directory);
}

enum status store_load_newest(const struct file_table *files, const char *directory,
                              store_damage_callback on_damage, void *context,
                              struct checkpoint **out, char *path_out, struct error *err) {
    struct search search = {.files = files,
                            .directory = directory,
                            .on_damage = on_damage,
                            .context = context,
                            .path = path_out};
    *out = NULL;
    path_out[0] = '\0';
    enum status status = search_newest(&search, err);
    store_list_free(&search.damaged);
    *out = search.found;
    return status;
}
