/* Taking the event files of a directory back to the restored point: see event_file.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/event_internal.h"
#include "io/event_record.h"

/* Years of training make some megabytes. */
#define EVENT_FILE_BYTES_MAX ((uint64_t)1 << 30)

enum { FIRST_RECORD_BYTES_MAX = 4096 }; /* ours have some sixty */

/* What a temporary is called. TensorBoard reads every name that has "tfevents" in it. */
#define REWOUND_NAME "rewound"

struct names {
    char **items;
    size_t count, capacity;
};

struct rewind {
    const struct file_table *files;
    bool (*keep)(void *context, const struct event_seen *event);
    void *context;
};

/* ---- which files ---- */

static bool begins_with(const char *name, const char *prefix) {
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool is_stale(const char *name) {
    return begins_with(name, PUBLISH_TEMP_PREFIX REWOUND_NAME ".");
}

static int add_name(void *user, const char *name) {
    struct names *names = user;
    if (!begins_with(name, EVENT_NAME_PREFIX) && !is_stale(name)) {
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

/* ---- whose file ---- */

static enum status rewind_error(const char *what, const char *path, int negative_errno,
                                struct error *err) {
    char reason[256];
    return error_set(err, STATUS_IO, "cannot %s %s: %s", what, path,
                     file_errno_text(negative_errno, reason, sizeof reason));
}

static bool begins_as_ours(const uint8_t *bytes, size_t size) {
    struct event_record record;
    size_t at = 0;
    if (!event_record_next(bytes, size, &at, &record)) {
        return false;
    }
    Tb__Event *first = tb__event__unpack(NULL, record.size, record.bytes);
    bool ours = first != NULL && first->source_metadata != NULL &&
                strcmp(first->source_metadata->writer, EVENT_WRITER) == 0;
    tb__event__free_unpacked(first, NULL);
    return ours;
}

static ssize_t read_begin(const struct file_table *files, int fd, uint8_t *out, size_t capacity) {
    size_t size = 0;
    ssize_t got = 1;
    while (size < capacity && got > 0) {
        got = files->read(files->context, fd, out + size, capacity - size);
        size += got > 0 ? (size_t)got : 0;
    }
    return got < 0 ? got : (ssize_t)size;
}

/* What is no regular file, or is not for us to read, is not ours. */
static enum status find_owner(const struct file_table *files, const char *path, bool *ours,
                              struct error *err) {
    struct file_stat info;
    uint8_t bytes[FIRST_RECORD_BYTES_MAX];
    *ours = false;
    int found = files->stat(files->context, path, &info);
    if (found >= 0 && !info.is_regular) {
        return STATUS_OK;
    }
    int fd = found < 0 ? found : files->open(files->context, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd == -ENOENT || fd == -EACCES || fd == -EPERM || fd == -ELOOP) {
        return STATUS_OK;
    }
    if (fd < 0) {
        return rewind_error("open", path, fd, err);
    }
    ssize_t size = read_begin(files, fd, bytes, sizeof bytes);
    files->close(files->context, fd);
    if (size < 0) {
        return rewind_error("read", path, (int)size, err);
    }
    *ours = begins_as_ours(bytes, (size_t)size);
    return STATUS_OK;
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

/* The records that stay. */
static enum status filter(const struct rewind *rewind, const uint8_t *bytes, size_t size,
                          struct text *kept, struct error *err) {
    struct event_record record;
    for (size_t at = 0; event_record_next(bytes, size, &at, &record);) {
        Tb__Event *event = tb__event__unpack(NULL, record.size, record.bytes);
        if (event == NULL) {
            break;
        }
        struct event_seen seen = look(event);
        if (rewind->keep(rewind->context, &seen)) {
            text_append(kept, bytes + record.begin, record.end - record.begin);
        }
        tb__event__free_unpacked(event, NULL);
    }
    CHECK(!kept->failed, err, STATUS_MEMORY, "out of memory for event files");
    return STATUS_OK;
}

/* A new file takes the name of the old one, so that a failure or a crash costs no event that stays,
 * and other names of the old one (cp -al makes some; a link leads to one) keep what they have. */
static enum status replace_file(const struct file_table *files, const char *path,
                                const struct text *kept, struct error *err) {
    char directory[FILE_PATH_CAPACITY], beside[FILE_PATH_CAPACITY];
    CHECK(file_split_path(path, directory, sizeof directory) != NULL &&
              file_join_path(beside, sizeof beside, directory, REWOUND_NAME),
          err, STATUS_IO, "the path of %s is too long", path);
    struct publish publish;
    TRY(publish_begin(files, beside, &publish, err));
    snprintf(publish.final_path, sizeof publish.final_path, "%s", path);
    enum status status = publish_write(&publish, kept->bytes, kept->size, err);
    if (status != STATUS_OK) {
        publish_abort(&publish);
        return status;
    }
    return publish_commit(&publish, err);
}

static enum status rewind_file(const struct rewind *rewind, const char *path, struct error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    struct text kept = {0};
    bool ours;
    TRY(find_owner(rewind->files, path, &ours, err));
    if (!ours) {
        return STATUS_OK;
    }
    if (file_read_all(rewind->files, path, EVENT_FILE_BYTES_MAX, &bytes, &size, err) != STATUS_OK) {
        return STATUS_IO;
    }
    enum status status = filter(rewind, bytes, size, &kept, err);
    free(bytes);
    if (status == STATUS_OK && kept.size != size) {
        status = replace_file(rewind->files, path, &kept, err);
    }
    text_free(&kept);
    return status;
}

/* ---- all of them ---- */

/* The table has no lstat: a link is what does not open unless it may be followed. */
static enum status refuse_link(const struct file_table *files, const char *directory,
                               struct error *err) {
    int fd =
        files->open(files->context, directory, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd >= 0) {
        files->close(files->context, fd);
    }
    CHECK(
        fd != -ELOOP, err, STATUS_IO,
        "%s is a symbolic link, perhaps to the events of another run: put a directory in its place",
        directory);
    return STATUS_OK;
}

static enum status rewind_names(const struct rewind *rewind, const char *directory,
                                const struct names *names, struct error *err) {
    const struct file_table *files = rewind->files;
    char path[FILE_PATH_CAPACITY];
    for (size_t i = 0; i < names->count; i++) {
        CHECK(file_join_path(path, sizeof path, directory, names->items[i]), err, STATUS_IO,
              "the path of %s is too long", names->items[i]);
        if (is_stale(names->items[i])) {
            files->unlink(files->context, path); /* of a start that was killed; harmless */
        } else {
            TRY(rewind_file(rewind, path, err));
        }
    }
    return STATUS_OK;
}

enum status event_file_rewind(const struct file_table *files, const char *directory,
                              bool (*keep)(void *context, const struct event_seen *event),
                              void *context, struct error *err) {
    const struct rewind rewind = {files, keep, context};
    struct names names = {0};
    TRY(refuse_link(files, directory, err));
    int result = files->list(files->context, directory, add_name, &names);
    enum status status = STATUS_OK;
    if (result < 0 && result != -ENOENT && result != -ENOTDIR) {
        status = rewind_error("list", directory, result, err);
    } else if (names.count > 0) {
        qsort(names.items, names.count, sizeof *names.items, compare_names);
        status = rewind_names(&rewind, directory, &names, err);
    }
    names_free(&names);
    return status;
}
