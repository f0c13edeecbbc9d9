/* Taking the event files of a directory back to the restored point: see event_file.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "io/event_internal.h"
#include "io/event_record.h"

/* Years of training make some megabytes. */
#define EVENT_FILE_BYTES_MAX ((uint64_t)1 << 30)

struct names {
    char **items;
    size_t count, capacity;
};

struct rewind {
    const struct file_table *files;
    bool (*keep)(void *context, const struct event_seen *event);
    void *context;
    struct text *survivors;
};

/* ---- which files ---- */

static int add_name(void *user, const char *name) {
    struct names *names = user;
    if (strncmp(name, EVENT_NAME_PREFIX, strlen(EVENT_NAME_PREFIX)) != 0) {
        return 0;
    }
    if (names->count == names->capacity) {
        size_t capacity = names->capacity == 0 ? 16 : 2 * names->capacity;
        char **items = realloc(names->items, capacity * sizeof *items);
        if (items == NULL) {
            return -ENOMEM;
        }
        names->items = items;
        names->capacity = capacity;
    }
    char *copy = strdup(name);
    if (copy == NULL) {
        return -ENOMEM;
    }
    names->items[names->count++] = copy;
    return 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_free(struct names *names) {
    for (size_t i = 0; i < names->count; i++) {
        free(names->items[i]);
    }
    free(names->items);
}

/* ---- one file ---- */

static struct event_seen look(const Tb__Event *event) {
    struct event_seen seen = {.kind = EVENT_OTHER, .step = event->step, .tag = ""};
    switch (event->what_case) {
    case TB__EVENT__WHAT_GRAPH_DEF:
        seen.kind = EVENT_GRAPH;
        break;
    case TB__EVENT__WHAT_SESSION_LOG:
        seen.kind = event->session_log->status == TB__SESSION_LOG__STATUS__START ? EVENT_START
                                                                                 : EVENT_OTHER;
        break;
    case TB__EVENT__WHAT_SUMMARY:
        if (event->summary->n_value > 0) {
            const Tb__Summary__Value *value = event->summary->value[0];
            bool tensor = value->value_case == TB__SUMMARY__VALUE__VALUE_TENSOR;
            seen.kind = tensor ? EVENT_TENSOR : EVENT_SCALARS;
            seen.tag = value->tag;
        }
        break;
    default:
        break;
    }
    return seen;
}

static bool is_ours(const Tb__Event *first) {
    return first->source_metadata != NULL &&
           strcmp(first->source_metadata->writer, EVENT_WRITER) == 0;
}

/* Bytes that stay, in *kept; the file's size when it is not ours. What is kept behind the first
 * event that goes is appended to the survivors. */
static enum status walk(const struct rewind *rewind, const uint8_t *bytes, size_t size,
                        size_t *kept, struct error *err) {
    struct event_record record;
    bool ours = false, cut = false;
    *kept = 0;
    for (size_t at = 0; event_record_next(bytes, size, &at, &record);) {
        Tb__Event *event = tb__event__unpack(NULL, record.size, record.bytes);
        ours = ours || (event != NULL && record.begin == 0 && is_ours(event));
        if (!ours || event == NULL) {
            tb__event__free_unpacked(event, NULL);
            break;
        }
        struct event_seen seen = look(event);
        bool stays = rewind->keep(rewind->context, &seen);
        tb__event__free_unpacked(event, NULL);
        cut = cut || !stays;
        if (!cut) {
            *kept = record.end;
        } else if (stays) {
            text_append(rewind->survivors, bytes + record.begin, record.end - record.begin);
        }
    }
    *kept = ours ? *kept : size;
    CHECK(!rewind->survivors->failed, err, STATUS_MEMORY, "out of memory for event files");
    return STATUS_OK;
}

static enum status rewind_error(const char *what, const char *path, int negative_errno,
                                struct error *err) {
    char reason[256];
    return error_set(err, STATUS_IO, "cannot %s %s: %s", what, path,
                     file_errno_text(negative_errno, reason, sizeof reason));
}

static enum status cut_file(const struct file_table *files, const char *path, uint64_t bytes,
                            struct error *err) {
    int fd = files->open(files->context, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) {
        return rewind_error("open", path, fd, err);
    }
    int result = files->truncate(files->context, fd, bytes);
    if (result >= 0) {
        result = files->fsync(files->context, fd);
    }
    files->close(files->context, fd);
    return result < 0 ? rewind_error("cut", path, result, err) : STATUS_OK;
}

static enum status rewind_file(const struct rewind *rewind, const char *path, struct error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0, kept = 0;
    if (file_read_all(rewind->files, path, EVENT_FILE_BYTES_MAX, &bytes, &size, err) != STATUS_OK) {
        return STATUS_IO;
    }
    enum status status = walk(rewind, bytes, size, &kept, err);
    free(bytes);
    if (status != STATUS_OK || kept == size) {
        return status;
    }
    return cut_file(rewind->files, path, kept, err);
}

/* ---- all of them ---- */

static enum status rewind_names(const struct rewind *rewind, const char *directory,
                                const struct names *names, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    for (size_t i = 0; i < names->count; i++) {
        CHECK(file_join_path(path, sizeof path, directory, names->items[i]), err, STATUS_IO,
              "the path of %s is too long", names->items[i]);
        TRY(rewind_file(rewind, path, err));
    }
    return STATUS_OK;
}

enum status event_file_rewind(const struct file_table *files, const char *directory,
                              bool (*keep)(void *context, const struct event_seen *event),
                              void *context, struct text *survivors, struct error *err) {
    const struct rewind rewind = {files, keep, context, survivors};
    struct names names = {0};
    int result = files->list(files->context, directory, add_name, &names);
    enum status status = STATUS_OK;
    if (result < 0 && result != -ENOENT) {
        status = rewind_error("list", directory, result, err);
    } else if (names.count > 0) {
        qsort(names.items, names.count, sizeof *names.items, compare_names);
        status = rewind_names(&rewind, directory, &names, err);
    }
    names_free(&names);
    return status;
}
