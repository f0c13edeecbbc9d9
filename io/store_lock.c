/* The lock of a model directory: see store_lock.h. */
#include "io/store_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host/base/text.h"
#include "io/store.h"

enum { SHOWN_PATH_CAPACITY = 400, HOST_CAPACITY = 256 };

/* "cannot WHAT PATH: REASON" */
static enum status lock_error(const char *what, const char *path, int negative_errno,
                              struct error *err) {
    char shown[SHOWN_PATH_CAPACITY], reason[256];
    return error_set(err, STATUS_OUTPUT, "cannot %s %s: %s", what,
                     text_escape(path, strlen(path), shown, sizeof shown),
                     file_errno_text(negative_errno, reason, sizeof reason));
}

/* Whoever has the lock wrote "pid N on host H" into the file. */
static enum status locked_by_other(const struct file_table *files, const char *directory, int fd,
                                   struct error *err) {
    char owner[HOST_CAPACITY + 64], shown_owner[HOST_CAPACITY + 64], shown[SHOWN_PATH_CAPACITY];
    ssize_t size = files->read(files->context, fd, owner, sizeof owner);
    while (size > 0 && owner[size - 1] == '\n') {
        size--;
    }
    text_escape(owner, size > 0 ? (size_t)size : 0, shown_owner, sizeof shown_owner);
    return error_set(
        err, STATUS_OUTPUT,
        "another trainer (%s) is using %s; wait for it, stop it, or use another model directory",
        size > 0 ? shown_owner : "which did not say its pid yet",
        text_escape(directory, strlen(directory), shown, sizeof shown));
}

static bool is_lock_unsupported(int negative_errno) {
    return negative_errno == -ENOSYS || negative_errno == -ENOTSUP || negative_errno == -ENOLCK;
}

static enum status write_owner(const struct file_table *files, int fd, const char *path,
                               struct error *err) {
    char host[HOST_CAPACITY] = "unknown", owner[HOST_CAPACITY + 64];
    if (gethostname(host, sizeof host - 1) != 0) {
        snprintf(host, sizeof host, "unknown");
    }
    int size = snprintf(owner, sizeof owner, "pid %ld on host %s\n", (long)getpid(), host);
    int result = files->truncate(files->context, fd, 0);
    if (result < 0) {
        return lock_error("write", path, result, err);
    }
    if (file_write_all(files, fd, path, owner, (size_t)size, err) != STATUS_OK) {
        return error_prefix(err, STATUS_OUTPUT, "cannot use the model directory");
    }
    return STATUS_OK;
}

/* Take the lock; `fd` is the lock file's. */
static enum status lock_descriptor(const struct file_table *files, const char *directory, int fd,
                                   const char *path, struct error *warning, struct error *err) {
    int result = files->lock(files->context, fd);
    if (result == -EWOULDBLOCK) {
        return locked_by_other(files, directory, fd, err);
    }
    if (is_lock_unsupported(result)) {
        char shown[SHOWN_PATH_CAPACITY];
        error_set(warning, STATUS_OUTPUT,
                  "the file system of %s has no locks: nothing keeps a second trainer out of it; "
                  "see to it that there is only one",
                  text_escape(directory, strlen(directory), shown, sizeof shown));
    } else if (result < 0) {
        return lock_error("lock", path, result, err);
    }
    return write_owner(files, fd, path, err);
}

enum status store_lock_take(const struct file_table *files, const char *directory, int *fd,
                            struct error *warning, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    *fd = -1;
    CHECK(file_join_path(path, sizeof path, directory, STORE_LOCK_FILE), err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    int opened = files->open(files->context, path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (opened < 0) {
        return lock_error("open the lock file", path, opened, err);
    }
    enum status status = lock_descriptor(files, directory, opened, path, warning, err);
    if (status != STATUS_OK) {
        files->close(files->context, opened);
        return status;
    }
    *fd = opened;
    return STATUS_OK;
}

void store_lock_release(const struct file_table *files, int fd) {
    if (fd >= 0) {
        /* Best effort: the lock goes with the descriptor; an old pid in the file would only
         * confuse. */
        files->truncate(files->context, fd, 0);
        files->close(files->context, fd);
    }
}
