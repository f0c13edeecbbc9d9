/* The real file system behind the table of io/file.h. */
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Evaluate a system call until no signal interrupts it. */
#define RETRY(result, call)                                                                        \
    do {                                                                                           \
        (result) = (call);                                                                         \
    } while ((result) < 0 && errno == EINTR)

static int posix_open(void *context, const char *path, int flags, unsigned mode) {
    (void)context;
    int fd;
    RETRY(fd, open(path, flags | O_CLOEXEC, (mode_t)mode));
    return fd < 0 ? -errno : fd;
}

static ssize_t posix_read(void *context, int fd, void *buffer, size_t bytes) {
    (void)context;
    ssize_t done;
    RETRY(done, read(fd, buffer, bytes));
    return done < 0 ? -errno : done;
}

static ssize_t posix_write(void *context, int fd, const void *buffer, size_t bytes) {
    (void)context;
    ssize_t done;
    RETRY(done, write(fd, buffer, bytes));
    return done < 0 ? -errno : done;
}

static int posix_fsync(void *context, int fd) {
    (void)context;
    int result;
    RETRY(result, fsync(fd));
    return result < 0 ? -errno : 0;
}

/* Linux frees the descriptor whatever close returns: a second close could hit somebody else's file.
 * EINTR therefore counts as done; every other error (NFS and quotas report late) is passed on. */
static int posix_close(void *context, int fd) {
    (void)context;
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static int posix_truncate(void *context, int fd, uint64_t bytes) {
    (void)context;
    int result;
    RETRY(result, ftruncate(fd, (off_t)bytes));
    return result < 0 ? -errno : 0;
}

/* Not repeated, like unlink and mkdir: Linux interrupts none of them on a local file system. Where a
 * FUSE or network file system does, one that was carried out all the same would fail when repeated. */
static int posix_rename(void *context, const char *from, const char *to) {
    (void)context;
    return rename(from, to) < 0 ? -errno : 0;
}

static int posix_unlink(void *context, const char *path) {
    (void)context;
    return unlink(path) < 0 ? -errno : 0;
}

static int posix_mkdir(void *context, const char *path, unsigned mode) {
    (void)context;
    return mkdir(path, (mode_t)mode) < 0 ? -errno : 0;
}

static struct file_stat of_stat(const struct stat *st) {
    return (struct file_stat){
        .bytes = (uint64_t)st->st_size,
        .modified_seconds = (double)st->st_mtim.tv_sec + (double)st->st_mtim.tv_nsec * 1e-9,
        .is_directory = S_ISDIR(st->st_mode),
        .is_regular = S_ISREG(st->st_mode),
        .device = (uint64_t)st->st_dev,
        .inode = (uint64_t)st->st_ino,
    };
}

static int posix_stat(void *context, const char *path, struct file_stat *out) {
    (void)context;
    struct stat st;
    int result;
    RETRY(result, stat(path, &st));
    if (result < 0) {
        return -errno;
    }
    *out = of_stat(&st);
    return 0;
}

static int posix_stat_open(void *context, int fd, struct file_stat *out) {
    (void)context;
    struct stat st;
    int result;
    RETRY(result, fstat(fd, &st));
    if (result < 0) {
        return -errno;
    }
    *out = of_stat(&st);
    return 0;
}

/* flock, not fcntl: it belongs to the descriptor, so that neither a second open in this process nor
 * the close of another descriptor of the same file can release it. */
static int posix_lock(void *context, int fd) {
    (void)context;
    int result;
    RETRY(result, flock(fd, LOCK_EX | LOCK_NB));
    return result < 0 ? -errno : 0;
}

static int posix_list(void *context, const char *path, int (*entry)(void *user, const char *name),
                      void *user) {
    (void)context;
    DIR *directory;
    do {
        directory = opendir(path);
    } while (directory == NULL && errno == EINTR);
    if (directory == NULL) {
        return -errno;
    }
    int result = 0;
    while (result == 0) {
        errno = 0;
        const struct dirent *found = readdir(directory);
        if (found == NULL) {
            if (errno == EINTR) {
                continue;
            }
            result = -errno;
            break;
        }
        if (strcmp(found->d_name, ".") != 0 && strcmp(found->d_name, "..") != 0) {
            result = entry(user, found->d_name);
        }
    }
    closedir(directory);
    return result;
}

const struct file_table file_posix = {
    .context = NULL,
    .open = posix_open,
    .read = posix_read,
    .write = posix_write,
    .fsync = posix_fsync,
    .close = posix_close,
    .truncate = posix_truncate,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .mkdir = posix_mkdir,
    .stat = posix_stat,
    .stat_open = posix_stat_open,
    .lock = posix_lock,
    .list = posix_list,
};
