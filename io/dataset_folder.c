/* dataset_folder.c - train/{neg,pos}/<name>.txt and test/{neg,pos}/<name>.txt in a folder, or below
 * one folder in it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/dataset_readers.h"

/* ---- listing ---- */

struct names {
    struct text bytes; /* each name, ended by NUL */
    char **sorted;     /* [count] into bytes */
    size_t count;
};

static int collect_name(void *user, const char *name) {
    struct names *names = user;
    text_append(&names->bytes, name, strlen(name) + 1);
    names->count++;
    return names->bytes.failed ? -ENOMEM : 0;
}

static int compare_strings(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void names_free(struct names *names) {
    text_free(&names->bytes);
    free(names->sorted);
}

/* All names in a directory, sorted by bytes. names_free also after a failure. */
static enum status list_directory(const struct dataset *dataset, const char *path,
                                  struct names *names, struct error *err) {
    *names = (struct names){0};
    int listed = dataset->files->list(dataset->files->context, path, collect_name, names);
    if (listed < 0 && listed != -ENOMEM) {
        char reason[160];
        return error_set(err, file_input_status(listed), "cannot list the folder %s: %s", path,
                         file_errno_text(listed, reason, sizeof reason));
    }
    names->sorted = malloc((names->count + 1) * sizeof *names->sorted);
    CHECK(listed == 0 && names->sorted != NULL, err, STATUS_MEMORY, "no memory to list %s", path);
    char *at = names->bytes.bytes;
    for (size_t i = 0; i < names->count; i++) {
        names->sorted[i] = at;
        at += strlen(at) + 1;
    }
    qsort(names->sorted, names->count, sizeof *names->sorted, compare_strings);
    return STATUS_OK;
}

static bool is_directory(const struct dataset *dataset, const char *path) {
    struct file_stat stat;
    return dataset->files->stat(dataset->files->context, path, &stat) >= 0 && stat.is_directory;
}

/* `directory` "/" `name` into `out` (FILE_PATH_CAPACITY bytes). */
static enum status join(const char *directory, const char *name, char *out, struct error *err) {
    CHECK(file_join_path(out, FILE_PATH_CAPACITY, directory, name), err, STATUS_DATA,
          "the path of %s in %s is too long: expected at most %d bytes", name, directory,
          FILE_PATH_CAPACITY - 1);
    return STATUS_OK;
}

/* What a failed call on a file of the tree deserves: one that is listed and cannot be read makes
 * the data set bad. */
static enum status member_failed(int negative_errno, const char *what, const char *path,
                                 struct error *err) {
    char reason[160], shown[512];
    bool bad = negative_errno == -ENOENT || negative_errno == -ENOTDIR ||
               negative_errno == -EACCES || negative_errno == -EISDIR || negative_errno == -ELOOP;
    enum status status = bad ? STATUS_DATA : file_input_status(negative_errno);
    return error_set(err, status, "cannot %s %s: %s%s", what,
                     text_escape(path, strlen(path), shown, sizeof shown),
                     file_errno_text(negative_errno, reason, sizeof reason),
                     bad ? ": expected a readable text file" : "");
}

/* ---- finding the tree ---- */

/* Does `directory` hold train or test? */
static enum status holds_tree(const struct dataset *dataset, const char *directory, bool *out,
                              struct error *err) {
    char path[FILE_PATH_CAPACITY];
    TRY(join(directory, "train", path, err));
    *out = is_directory(dataset, path);
    if (!*out) {
        TRY(join(directory, "test", path, err));
        *out = is_directory(dataset, path);
    }
    return STATUS_OK;
}

/* The one folder in the data set's that holds the tree becomes `top`. */
static enum status find_top(struct dataset *dataset, const struct names *names, struct error *err) {
    for (size_t i = 0; i < names->count; i++) {
        const char *name = names->sorted[i];
        char path[FILE_PATH_CAPACITY];
        bool found;
        TRY(join(dataset->path, name, path, err));
        TRY(holds_tree(dataset, path, &found, err));
        if (!found) {
            continue;
        }
        size_t size = strlen(name);
        CHECK(dataset->top[0] == '\0', err, STATUS_DATA,
              "%s holds two data sets, %s and %s/: expected one, name it directly", dataset->path,
              dataset->top, name);
        CHECK(size + 2 <= sizeof dataset->top, err, STATUS_DATA, "the folder name %s is too long",
              name);
        memcpy(dataset->top, name, size);
        memcpy(dataset->top + size, "/", 2);
    }
    CHECK(dataset->top[0] != '\0', err, STATUS_DATA,
          "%s: no folder train in it: expected train/pos/*.txt and train/neg/*.txt, perhaps "
          "test/pos and test/neg, perhaps below one folder",
          dataset->path);
    return STATUS_OK;
}

/* Report an entry that is not used, a folder with the number of its entries. */
static enum status report_unused(struct dataset *dataset, const char *path, const char *name,
                                 struct error *err) {
    uint64_t entries = 1;
    if (is_directory(dataset, path)) {
        struct names names;
        enum status status = list_directory(dataset, path, &names, err);
        entries = names.count;
        names_free(&names);
        TRY(status);
    }
    dataset_unused(dataset, name, entries);
    return STATUS_OK;
}

/* Report what lies in `directory` beside the names `used` (NULL-terminated); `prefix` stands before
 * the reported names. */
static enum status report_others(struct dataset *dataset, const char *directory, const char *prefix,
                                 const char *const *used, const struct names *names,
                                 struct error *err) {
    for (size_t i = 0; i < names->count; i++) {
        const char *const *match = used;
        while (*match != NULL && strcmp(*match, names->sorted[i]) != 0) {
            match++;
        }
        if (*match != NULL) {
            continue;
        }
        char path[FILE_PATH_CAPACITY], shown[FILE_PATH_CAPACITY];
        TRY(join(directory, names->sorted[i], path, err));
        TRY(join(prefix, names->sorted[i], shown, err));
        TRY(report_unused(dataset, path, prefix[0] == '\0' ? names->sorted[i] : shown, err));
    }
    return STATUS_OK;
}

static enum status folder_scan(struct dataset *dataset, const struct names *names,
                               struct error *err) {
    bool found;
    TRY(holds_tree(dataset, dataset->path, &found, err));
    char directory[FILE_PATH_CAPACITY];
    if (found) {
        memcpy(directory, dataset->path, sizeof directory);
    } else {
        TRY(find_top(dataset, names, err));
        TRY(join(dataset->path, dataset->top, directory, err));
        char top[sizeof dataset->top];
        memcpy(top, dataset->top, sizeof top);
        top[strlen(top) - 1] = '\0';
        const char *const used[] = {top, NULL};
        TRY(report_others(dataset, dataset->path, "", used, names, err));
    }
    char path[FILE_PATH_CAPACITY];
    TRY(join(directory, "test", path, err));
    dataset->has_test = is_directory(dataset, path);

    static const char *const used[] = {"train", "test", NULL};
    struct names inside;
    enum status status = list_directory(dataset, directory, &inside, err);
    if (status == STATUS_OK) {
        status = report_others(dataset, directory, "", used, &inside, err);
    }
    names_free(&inside);
    return status;
}

static enum status folder_open(struct dataset *dataset, struct error *err) {
    struct names names;
    enum status status = list_directory(dataset, dataset->path, &names, err);
    if (status == STATUS_OK) {
        status = folder_scan(dataset, &names, err);
    }
    names_free(&names);
    return status;
}

/* ---- reading ---- */

/* The buffer is reused from file to file; it never grows beyond the longest legal text and one
 * byte. */
struct text_buffer {
    char *bytes;
    size_t size, capacity;
};

static bool buffer_grow(struct text_buffer *buffer) {
    enum { FIRST = 64 << 10, LAST = DATASET_TEXT_BYTES_MAX + 1 };
    size_t capacity = buffer->capacity == 0 ? FIRST : buffer->capacity * 2;
    capacity = capacity < LAST ? capacity : LAST;
    char *bytes = realloc(buffer->bytes, capacity);
    if (bytes == NULL) {
        return false;
    }
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}

static enum status check_regular(const struct dataset *dataset, const char *path,
                                 struct error *err) {
    struct file_stat info;
    int found = dataset->files->stat(dataset->files->context, path, &info);
    CHECK(found < 0 || info.is_regular, err, STATUS_DATA,
          "%s is not a regular file: expected one review a file", path);
    return STATUS_OK;
}

static enum status fill_buffer(const struct dataset *dataset, int fd, const char *path,
                               struct text_buffer *buffer, struct error *err) {
    buffer->size = 0;
    for (;;) {
        CHECK(buffer->size <= DATASET_TEXT_BYTES_MAX, err, STATUS_DATA,
              "%s: the text is longer than %d bytes (16 MiB): expected one review a file", path,
              DATASET_TEXT_BYTES_MAX);
        CHECK(buffer->size < buffer->capacity || buffer_grow(buffer), err, STATUS_MEMORY,
              "no memory to read %s", path);
        ssize_t got =
            dataset->files->read(dataset->files->context, fd, buffer->bytes + buffer->size,
                                 buffer->capacity - buffer->size);
        if (got < 0) {
            return member_failed((int)got, "read", path, err);
        }
        if (got == 0) {
            /* An empty file is an empty text; a pipe without a writer looks the same. */
            return buffer->size > 0 ? STATUS_OK : check_regular(dataset, path, err);
        }
        buffer->size += (size_t)got;
    }
}

static enum status read_file(struct dataset *dataset, const char *path, const char *name,
                             struct text_buffer *buffer, struct error *err) {
    int fd = dataset->files->open(dataset->files->context, path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        return member_failed(fd, "open", path, err);
    }
    enum status status = fill_buffer(dataset, fd, path, buffer, err);
    dataset->files->close(dataset->files->context, fd);
    TRY(status);
    return dataset_push_file(dataset, name, path, buffer->bytes, buffer->size, err);
}

/* All *.txt of one class folder, sorted. */
static enum status read_class(struct dataset *dataset, enum dataset_part part,
                              const char *directory, const char *class_name,
                              const struct names *names, struct text_buffer *buffer,
                              struct error *err) {
    char path[FILE_PATH_CAPACITY], name[FILE_PATH_CAPACITY];
    uint64_t others = 0;
    for (size_t i = 0; i < names->count; i++) {
        if (!dataset_is_text_name(names->sorted[i])) {
            others++;
            continue;
        }
        TRY(join(directory, names->sorted[i], path, err));
        TRY(join(class_name, names->sorted[i], name, err));
        TRY(read_file(dataset, path, name, buffer, err));
    }
    if (others > 0) {
        char group[64];
        snprintf(group, sizeof group, "%s/%s other than *.txt", dataset_part_name(part),
                 class_name);
        dataset_unused(dataset, group, others);
    }
    return STATUS_OK;
}

static enum status read_classes(struct dataset *dataset, enum dataset_part part,
                                const char *directory, struct text_buffer *buffer,
                                struct error *err) {
    static const char *const classes[] = {"neg", "pos", NULL};
    for (size_t i = 0; i < 2; i++) {
        char path[FILE_PATH_CAPACITY];
        TRY(join(directory, classes[i], path, err));
        CHECK(is_directory(dataset, path), err, STATUS_DATA,
              "%s: no folder %s in it: expected the folders neg and pos with *.txt files",
              directory, classes[i]);
        struct names names;
        enum status status = list_directory(dataset, path, &names, err);
        if (status == STATUS_OK) {
            status = read_class(dataset, part, path, classes[i], &names, buffer, err);
        }
        names_free(&names);
        TRY(status);
    }
    struct names names;
    enum status status = list_directory(dataset, directory, &names, err);
    if (status == STATUS_OK) {
        status = report_others(dataset, directory, dataset_part_name(part), classes, &names, err);
    }
    names_free(&names);
    return status;
}

static enum status folder_read(struct dataset *dataset, enum dataset_part part, struct error *err) {
    char below[sizeof dataset->top + 8], directory[FILE_PATH_CAPACITY];
    snprintf(below, sizeof below, "%s%s", dataset->top, dataset_part_name(part));
    TRY(join(dataset->path, below, directory, err));
    CHECK(is_directory(dataset, directory), err, STATUS_DATA,
          "%s: no folder %s in it: expected %s/pos/*.txt and %s/neg/*.txt", dataset->path, below,
          below, below);
    struct text_buffer buffer = {0};
    enum status status = read_classes(dataset, part, directory, &buffer, err);
    free(buffer.bytes);
    return status;
}

const struct dataset_reader dataset_folder = {
    .name = "folder", .open = folder_open, .read = folder_read, .is_tree = true};
