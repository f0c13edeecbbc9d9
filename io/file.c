/* Whole files, directories, paths and the text of file errors, on top of any file table. */
#include "io/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/memory.h"
#include "host/base/text.h"

enum {
    SHOWN_PATH_CAPACITY = 512, /* how much of a path fits into a message */
    READ_CHUNK_BYTES = 64 << 10
};

/* ---- error texts ---- */

static const char *errno_hint(int number) {
    switch (number) {
    case ENOSPC:
        return "; free some space there or use another directory";
    case EDQUOT:
        return "; the quota is used up even where the disk has space: free some or use another "
               "directory";
    case EROFS:
        return "; the file system is read-only: use another directory";
    default:
        return "";
    }
}

char *file_errno_text(int negative_errno, char *out, size_t capacity) {
    assert(negative_errno < 0);
    int number = -negative_errno;
    const char *text = strerrordesc_np(number);
    const char *name = strerrorname_np(number);
    if (text != NULL && name != NULL) {
        snprintf(out, capacity, "%s (%s)%s", text, name, errno_hint(number));
    } else {
        snprintf(out, capacity, "error %d", number);
    }
    return out;
}

enum status file_input_status(int negative_errno) {
    return negative_errno == -EIO ? STATUS_IO : STATUS_INPUT;
}

static enum status path_error(struct error *err, enum status status, const char *what,
                              const char *path, int negative_errno) {
    char shown[SHOWN_PATH_CAPACITY];
    char reason[256];
    return error_set(err, status, "cannot %s %s: %s", what,
                     text_escape(path, strlen(path), shown, sizeof shown),
                     file_errno_text(negative_errno, reason, sizeof reason));
}

/* ---- whole files ---- */

static enum status too_long(const char *path, uint64_t limit_bytes, struct error *err) {
    char shown[SHOWN_PATH_CAPACITY];
    return error_set(err, STATUS_DATA, "%s is longer than the %llu bytes that are accepted here",
                     text_escape(path, strlen(path), shown, sizeof shown),
                     (unsigned long long)limit_bytes);
}

/* Room for at least one chunk and the NUL behind `size` bytes. */
static enum status grow(uint8_t **bytes, size_t size, size_t *capacity, size_t wanted,
                        struct error *err) {
    if (*capacity - size > READ_CHUNK_BYTES) {
        return STATUS_OK;
    }
    size_t grown = *capacity + *capacity / 2 + 2 * (size_t)READ_CHUNK_BYTES;
    if (grown < wanted) {
        grown = wanted;
    }
    uint8_t *moved = realloc(*bytes, grown);
    CHECK(moved != NULL, err, STATUS_MEMORY, "out of memory while reading a file (%zu bytes)",
          grown);
    if (*bytes == NULL) { /* later the block would be several mappings, which cannot move at once */
        memory_ask_large_pages(moved, grown);
    }
    *bytes = moved;
    *capacity = grown;
    return STATUS_OK;
}

/* `hint_bytes` only saves reallocations: the file may be a pipe, or grow while it is read. */
static enum status read_descriptor(const struct file_table *files, int fd, const char *path,
                                   uint64_t limit_bytes, uint64_t hint_bytes, uint8_t **out,
                                   size_t *out_bytes, struct error *err) {
    size_t size = 0;
    size_t capacity = 0;
    size_t wanted = (size_t)(hint_bytes < limit_bytes ? hint_bytes : limit_bytes);
    wanted += 2 * (size_t)READ_CHUNK_BYTES;
    for (;;) {
        TRY(grow(out, size, &capacity, wanted, err));
        ssize_t got = files->read(files->context, fd, *out + size, capacity - size - 1);
        if (got < 0) {
            return path_error(err, file_input_status((int)got), "read", path, (int)got);
        }
        if (got == 0) {
            break;
        }
        size += (size_t)got;
        if (size > limit_bytes) {
            return too_long(path, limit_bytes, err);
        }
    }
    (*out)[size] = 0;
    *out_bytes = size;
    return STATUS_OK;
}

enum status file_read_all(const struct file_table *files, const char *path, uint64_t limit_bytes,
                          uint8_t **out, size_t *out_bytes, struct error *err) {
    *out = NULL;
    *out_bytes = 0;
    int fd = files->open(files->context, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0) {
        return path_error(err, file_input_status(fd), "open", path, fd);
    }
    struct file_stat st;
    uint64_t hint_bytes = 0;
    if (files->stat(files->context, path, &st) == 0 && st.is_regular) {
        hint_bytes = st.bytes;
    }
    enum status status =
        hint_bytes > limit_bytes
            ? too_long(path, limit_bytes, err)
            : read_descriptor(files, fd, path, limit_bytes, hint_bytes, out, out_bytes, err);
    files->close(files->context, fd); /* nothing was written: its result says nothing */
    if (status != STATUS_OK) {
        free(*out);
        *out = NULL;
        *out_bytes = 0;
    }
    return status;
}

enum status file_write_all(const struct file_table *files, int fd, const char *path,
                           const void *bytes, size_t size, struct error *err) {
    const uint8_t *next = bytes;
    while (size > 0) {
        ssize_t done = files->write(files->context, fd, next, size);
        if (done <= 0) { /* a write of nothing would loop for ever */
            return path_error(err, STATUS_IO, "write", path, done < 0 ? (int)done : -EIO);
        }
        next += done;
        size -= (size_t)done;
    }
    return STATUS_OK;
}

/* ---- directories ---- */

int file_sync_directory(const struct file_table *files, const char *directory) {
    int fd = files->open(files->context, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) {
        return fd;
    }
    int result = files->fsync(files->context, fd);
    files->close(files->context, fd); /* read-only: its result says nothing */
    return result == -EINVAL || result == -EBADF ? 0 : result;
}

static int is_same_name(void *user, const char *listed) {
    const char *const *name = user;
    return strcmp(*name, listed) == 0;
}

int file_lists_name(const struct file_table *files, const char *directory, const char *name) {
    return files->list(files->context, directory, is_same_name, &name);
}

static bool is_directory(const struct file_table *files, const char *path) {
    struct file_stat st;
    return files->stat(files->context, path, &st) == 0 && st.is_directory;
}

/* One level; the one above exists. */
static enum status make_directory(const struct file_table *files, const char *path,
                                  struct error *err) {
    if (is_directory(files, path)) {
        return STATUS_OK;
    }
    int result = files->mkdir(files->context, path, 0777);
    if (result == -EEXIST && is_directory(files, path)) {
        return STATUS_OK; /* somebody else was faster */
    }
    if (result < 0) {
        return path_error(err, STATUS_OUTPUT, "create the directory", path, result);
    }
    char parent[FILE_PATH_CAPACITY];
    bool fits = file_split_path(path, parent, sizeof parent) != NULL;
    assert(fits);
    (void)fits;
    result = file_sync_directory(files, parent);
    if (result < 0) {
        return path_error(err, STATUS_OUTPUT, "make durable (fsync) the directory", parent, result);
    }
    return STATUS_OK;
}

enum status file_make_directories(const struct file_table *files, const char *path,
                                  struct error *err) {
    char prefix[FILE_PATH_CAPACITY];
    size_t size = strlen(path);
    CHECK(size > 0, err, STATUS_OUTPUT, "cannot create a directory without a name");
    if (size >= sizeof prefix) {
        return path_error(err, STATUS_OUTPUT, "create the directory", path, -ENAMETOOLONG);
    }
    if (is_directory(files, path)) {
        return STATUS_OK;
    }
    for (size_t i = 1; i <= size; i++) {
        if ((path[i] == '/' || path[i] == '\0') && path[i - 1] != '/') {
            memcpy(prefix, path, i);
            prefix[i] = '\0';
            TRY(make_directory(files, prefix, err));
        }
    }
    return STATUS_OK;
}

/* ---- paths ---- */

const char *file_split_path(const char *path, char *out, size_t capacity) {
    const char *slash = strrchr(path, '/');
    const char *directory = slash == NULL ? "." : path;
    size_t size = slash == NULL ? 1 : (size_t)(slash - path);
    while (size > 1 && directory[size - 1] == '/') {
        size--;
    }
    if (size == 0) {
        size = 1; /* the root */
    }
    if (size >= capacity) {
        return NULL;
    }
    memcpy(out, directory, size);
    out[size] = '\0';
    return slash == NULL ? path : slash + 1;
}

bool file_join_path(char *out, size_t capacity, const char *directory, const char *name) {
    size_t size = strlen(directory);
    const char *slash = size > 0 && directory[size - 1] == '/' ? "" : "/";
    int wanted = snprintf(out, capacity, "%s%s%s", directory, slash, name);
    return wanted >= 0 && (size_t)wanted < capacity;
}
