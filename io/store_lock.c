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

_Static_assert((int)HOST_CAPACITY + 64 == (int)STORE_LOCK_OWNER_CAPACITY, "any host's name fits");

/* "cannot WHAT PATH: REASON" */
static enum status lock_error(enum status status, const char *what, const char *path,
                              int negative_errno, struct error *err) {
    char shown[SHOWN_PATH_CAPACITY], reason[256];
    return error_set(err, status, "cannot %s %s: %s", what,
                     text_escape(path, strlen(path), shown, sizeof shown),
                     file_errno_text(negative_errno, reason, sizeof reason));
}

/* Whoever has the lock wrote "pid N on host H" and a newline into the file. */
static void show_owner(const char *owner, ssize_t size, char out[STORE_LOCK_OWNER_CAPACITY]) {
    while (size > 0 && owner[size - 1] == '\n') {
        size--;
    }
    if (size > 0) {
        text_escape(owner, (size_t)size, out, STORE_LOCK_OWNER_CAPACITY);
    } else {
        snprintf(out, STORE_LOCK_OWNER_CAPACITY, "which did not say its pid yet");
    }
}

static enum status locked_by_other(const struct file_table *files, const char *directory, int fd,
                                   struct error *err) {
    char owner[STORE_LOCK_OWNER_CAPACITY], shown_owner[STORE_LOCK_OWNER_CAPACITY];
    char shown[SHOWN_PATH_CAPACITY];
    show_owner(owner, files->read(files->context, fd, owner, sizeof owner), shown_owner);
    return error_set(
        err, STATUS_OUTPUT,
        "another trainer (%s) is using %s; wait for it, stop it, or use another model directory",
        shown_owner, text_escape(directory, strlen(directory), shown, sizeof shown));
}

static bool is_lock_unsupported(int negative_errno) {
    return negative_errno == -ENOSYS || negative_errno == -ENOTSUP || negative_errno == -ENOLCK;
}

static enum status write_owner(const struct file_table *files, struct store_lock *lock,
                               const char *path, struct error *err) {
    char host[HOST_CAPACITY] = "unknown";
    if (gethostname(host, sizeof host - 1) != 0) {
        snprintf(host, sizeof host, "unknown");
    }
    snprintf(lock->owner, sizeof lock->owner, "pid %ld on host %s\n", (long)getpid(), host);
    int result = files->truncate(files->context, lock->fd, 0);
    if (result < 0) {
        return lock_error(STATUS_OUTPUT, "write", path, result, err);
    }
    if (file_write_all(files, lock->fd, path, lock->owner, strlen(lock->owner), err) != STATUS_OK) {
        return error_prefix(err, STATUS_OUTPUT, "cannot use the model directory");
    }
    return STATUS_OK;
}

/* Take the lock; its descriptor is the lock file's. */
static enum status lock_descriptor(const struct file_table *files, const char *directory,
                                   struct store_lock *lock, const char *path, struct error *warning,
                                   struct error *err) {
    int result = files->lock(files->context, lock->fd);
    if (result == -EWOULDBLOCK) {
        return locked_by_other(files, directory, lock->fd, err);
    }
    if (is_lock_unsupported(result)) {
        char shown[SHOWN_PATH_CAPACITY];
        error_set(warning, STATUS_OUTPUT,
                  "the file system of %s has no locks: nothing keeps a second trainer out of it; "
                  "see to it that there is only one",
                  text_escape(directory, strlen(directory), shown, sizeof shown));
    } else if (result < 0) {
        return lock_error(STATUS_OUTPUT, "lock", path, result, err);
    }
    return write_owner(files, lock, path, err);
}

enum status store_lock_take(const struct file_table *files, const char *directory,
                            struct store_lock *out, struct error *warning, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    out->fd = -1;
    CHECK(file_join_path(path, sizeof path, directory, STORE_LOCK_FILE), err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    int opened = files->open(files->context, path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (opened < 0) {
        return lock_error(STATUS_OUTPUT, "open the lock file", path, opened, err);
    }
    out->fd = opened;
    enum status status = lock_descriptor(files, directory, out, path, warning, err);
    if (status != STATUS_OK) {
        files->close(files->context, opened);
        out->fd = -1;
    }
    return status;
}

enum status store_lock_check(const struct file_table *files, const char *directory,
                             const struct store_lock *lock, struct error *err) {
    char path[FILE_PATH_CAPACITY], owner[STORE_LOCK_OWNER_CAPACITY];
    char shown_owner[STORE_LOCK_OWNER_CAPACITY], shown[SHOWN_PATH_CAPACITY];
    CHECK(file_join_path(path, sizeof path, directory, STORE_LOCK_FILE), err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    int fd = files->open(files->context, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd == -ENOENT) {
        return STATUS_OK;
    }
    if (fd < 0) {
        return lock_error(STATUS_IO, "open the lock file", path, fd, err);
    }
    ssize_t size = files->read(files->context, fd, owner, sizeof owner);
    files->close(files->context, fd); /* nothing was written: its result says nothing */
    if (size < 0) {
        return lock_error(STATUS_IO, "read the lock file", path, (int)size, err);
    }
    bool ours =
        (size_t)size == strlen(lock->owner) && memcmp(owner, lock->owner, (size_t)size) == 0;
    show_owner(owner, size, shown_owner);
    CHECK(ours, err, STATUS_OUTPUT,
          "%s was replaced, or taken by another trainer (%s), since this one opened it: nothing is "
          "saved there",
          text_escape(directory, strlen(directory), shown, sizeof shown), shown_owner);
    return STATUS_OK;
}

void store_lock_release(const struct file_table *files, struct store_lock *lock) {
    if (lock->fd >= 0) {
        /* Best effort: the lock goes with the descriptor; an old pid in the file would only
         * confuse. */
        files->truncate(files->context, lock->fd, 0);
        files->close(files->context, lock->fd);
        lock->fd = -1;
    }
}
