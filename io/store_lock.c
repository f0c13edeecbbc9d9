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

/* ---- taking it ---- */

static void describe_owner(struct store_lock *lock) {
    char host[HOST_CAPACITY] = "unknown";
    if (gethostname(host, sizeof host - 1) != 0) {
        snprintf(host, sizeof host, "unknown");
    }
    snprintf(lock->owner, sizeof lock->owner, "pid %ld on host %s\n", (long)getpid(), host);
}

/* `refused` here and below: the status where the system refuses. Of a start STATUS_OUTPUT; of a
 * save STATUS_IO, as the next one may have what lacked this time, and the directory is still ours.
 */
static enum status write_owner(const struct file_table *files, struct store_lock *lock,
                               const char *path, enum status refused, struct error *err) {
    int result = files->truncate(files->context, lock->fd, 0);
    if (result < 0) {
        return lock_error(refused, "write", path, result, err);
    }
    if (file_write_all(files, lock->fd, path, lock->owner, strlen(lock->owner), err) != STATUS_OK) {
        return error_prefix(err, refused, "cannot use the model directory");
    }
    lock->is_claimed = true;
    return STATUS_OK;
}

/* Lock the descriptor. */
static enum status lock_descriptor(const struct file_table *files, const char *directory,
                                   struct store_lock *lock, const char *path, enum status refused,
                                   struct error *warning, struct error *err) {
    int result = files->lock(files->context, lock->fd);
    lock->is_held = result >= 0;
    lock->is_claimed = false;
    if (result == -EWOULDBLOCK) {
        return locked_by_other(files, directory, lock->fd, err);
    }
    if (is_lock_unsupported(result)) {
        char shown[SHOWN_PATH_CAPACITY];
        error_set(warning, STATUS_OUTPUT,
                  "the file system of %s has no locks: nothing keeps a second trainer out of it; "
                  "see to it that there is only one",
                  text_escape(directory, strlen(directory), shown, sizeof shown));
        return STATUS_OK; /* who is refused later must not have claimed it */
    }
    return result < 0 ? lock_error(refused, "lock", path, result, err)
                      : write_owner(files, lock, path, refused, err);
}

static enum status lock_path(const char *directory, char path[FILE_PATH_CAPACITY],
                             struct error *err) {
    CHECK(file_join_path(path, FILE_PATH_CAPACITY, directory, STORE_LOCK_FILE), err, STATUS_OUTPUT,
          "the path of the model directory is too long");
    return STATUS_OK;
}

static void close_file(const struct file_table *files, int *fd) {
    if (*fd >= 0) {
        files->close(files->context, *fd); /* what was written is for people only */
        *fd = -1;
    }
}

static enum status take_file(const struct file_table *files, const char *directory,
                             struct store_lock *lock, enum status refused, struct error *warning,
                             struct error *err) {
    char path[FILE_PATH_CAPACITY];
    TRY(lock_path(directory, path, err));
    int opened = files->open(files->context, path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (opened < 0) {
        return lock_error(refused, "open the lock file", path, opened, err);
    }
    lock->fd = opened;
    enum status status = lock_descriptor(files, directory, lock, path, refused, warning, err);
    if (status != STATUS_OK) {
        close_file(files, &lock->fd);
    }
    return status;
}

enum status store_lock_take(const struct file_table *files, const char *directory,
                            struct store_lock *out, struct error *warning, struct error *err) {
    *out = STORE_LOCK_NONE;
    describe_owner(out);
    TRY(take_file(files, directory, out, STATUS_OUTPUT, warning, err));
    int opened = files->open(files->context, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (opened < 0) {
        store_lock_release(files, out);
        return lock_error(STATUS_OUTPUT, "open the model directory", directory, opened, err);
    }
    out->directory_fd = opened;
    return STATUS_OK;
}

/* ---- is it still ours? ---- */

static bool is_gone(int negative_errno) {
    return negative_errno == -ENOENT || negative_errno == -ENOTDIR || negative_errno == -ESTALE;
}

/* *same: the name is still that of the open file. */
static enum status check_name(const struct file_table *files, int fd, const char *path, bool *same,
                              struct error *err) {
    struct file_stat open, named;
    *same = false;
    int result = fd < 0 ? -ENOENT : files->stat_open(files->context, fd, &open);
    if (result >= 0) {
        result = files->stat(files->context, path, &named);
    }
    if (result >= 0) {
        *same = open.device == named.device && open.inode == named.inode;
        return STATUS_OK;
    }
    return is_gone(result) ? STATUS_OK : lock_error(STATUS_IO, "look at", path, result, err);
}

static enum status check_directory(const struct file_table *files, const char *directory,
                                   const struct store_lock *lock, struct error *err) {
    char shown[SHOWN_PATH_CAPACITY];
    bool same;
    TRY(check_name(files, lock->directory_fd, directory, &same, err));
    CHECK(same, err, STATUS_OUTPUT,
          "%s was deleted, moved or replaced since this trainer opened it: nothing is saved there",
          text_escape(directory, strlen(directory), shown, sizeof shown));
    return STATUS_OK;
}

/* What stands in the file, at most STORE_LOCK_OWNER_CAPACITY bytes. */
static enum status read_owner(const struct file_table *files, const char *path, char *owner,
                              size_t *size, struct error *err) {
    int fd = files->open(files->context, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0) {
        return lock_error(STATUS_IO, "open the lock file", path, fd, err);
    }
    ssize_t result = files->read(files->context, fd, owner, STORE_LOCK_OWNER_CAPACITY);
    close_file(files, &fd);
    if (result < 0) {
        return lock_error(STATUS_IO, "read the lock file", path, (int)result, err);
    }
    *size = (size_t)result;
    return STATUS_OK;
}

/* The file was deleted or replaced. Without a kernel lock a claim that we had made still stands
 * where the new one says nothing; whose name is there has claimed it since. */
static enum status take_again(const struct file_table *files, const char *directory,
                              struct store_lock *lock, const char *path, struct error *err) {
    char owner[STORE_LOCK_OWNER_CAPACITY];
    size_t size = 0;
    bool was_claimed = lock->is_claimed;
    TRY(check_directory(files, directory, lock, err));
    close_file(files, &lock->fd);
    enum status status = take_file(files, directory, lock, STATUS_IO, NULL, err);
    if (status == STATUS_OK && !lock->is_held && was_claimed) {
        status = read_owner(files, path, owner, &size, err);
        lock->is_claimed = size > 0;
    }
    if (status != STATUS_OK) { /* the next one to ask comes here again */
        close_file(files, &lock->fd);
        lock->is_claimed = was_claimed;
    }
    return status;
}

enum status store_lock_check(const struct file_table *files, const char *directory,
                             struct store_lock *lock, bool *is_new, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    bool same;
    *is_new = false;
    TRY(lock_path(directory, path, err));
    TRY(check_name(files, lock->fd, path, &same, err));
    if (!same) {
        TRY(take_again(files, directory, lock, path, err));
        *is_new = true;
    }
    return STATUS_OK;
}

enum status store_lock_claim(const struct file_table *files, const char *directory,
                             struct store_lock *lock, struct error *err) {
    char path[FILE_PATH_CAPACITY], owner[STORE_LOCK_OWNER_CAPACITY];
    char shown_owner[STORE_LOCK_OWNER_CAPACITY], shown[SHOWN_PATH_CAPACITY];
    size_t size = 0;
    if (lock->is_held) {
        return STATUS_OK;
    }
    TRY(lock_path(directory, path, err));
    if (!lock->is_claimed) {
        enum status status = write_owner(files, lock, path, STATUS_IO, err);
        if (status != STATUS_OK) { /* behind what was written of it the next try would go on */
            close_file(files, &lock->fd);
        }
        return status;
    }
    TRY(read_owner(files, path, owner, &size, err));
    bool ours = size == strlen(lock->owner) && memcmp(owner, lock->owner, size) == 0;
    show_owner(owner, (ssize_t)size, shown_owner);
    CHECK(ours, err, STATUS_OUTPUT,
          "another trainer (%s) has begun to save in %s, whose file system has no locks: nothing "
          "of this one is saved there any more",
          shown_owner, text_escape(directory, strlen(directory), shown, sizeof shown));
    return STATUS_OK;
}

void store_lock_release(const struct file_table *files, struct store_lock *lock) {
    if (lock->fd >= 0 && lock->is_held) {
        /* Best effort: the lock goes with the descriptor; an old pid in the file would only
         * confuse. Without a lock it may name another by now. */
        files->truncate(files->context, lock->fd, 0);
    }
    close_file(files, &lock->fd);
    close_file(files, &lock->directory_fd);
}
