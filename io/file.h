/* file.h - every file system call of Cairn goes through one table.
 *
 * `file_posix` is the real one. Tests put a table of their own in its place: one that fails the Nth
 * call, one that lives in memory and can lose what was never synced (tests/support/).
 * A call returns a value >= 0, or -errno. The POSIX filling restarts calls that a signal
 * interrupted (EINTR), except close, which Linux never wants repeated.
 *
 * On top of the table: reading a whole file, and the one way in which Cairn publishes a file
 * (publish_*): temporary name in the same directory - write - fsync - close - rename - fsync of the
 * directory. A crash at any point leaves either the old file or the new one, plus perhaps a stale
 * temporary that store_open removes. The protocol is that of Redis' RDB writer.
 *
 * Usage:
 *     struct publish publish;
 *     TRY(publish_begin(files, "runs/a/checkpoint", &publish, err));
 *     enum status status = publish_write(&publish, bytes, size, err);
 *     if (status == STATUS_OK) {
 *         return publish_commit(&publish, err);
 *     }
 *     publish_abort(&publish);
 *     return status;
 *
 * THREADS: file_posix may be called from any thread; a `struct publish` belongs to one thread.
 */
#ifndef CAIRN_IO_FILE_H
#define CAIRN_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct file_stat {
    uint64_t bytes;
    double modified_seconds; /* wall clock */
    bool is_directory;
    bool is_regular;
    uint64_t device, inode; /* together they tell one file from another, whatever their names */
};

struct file_table {
    void *context; /* first argument of every call */
    int (*open)(void *context, const char *path, int flags, unsigned mode);    /* descriptor */
    ssize_t (*read)(void *context, int fd, void *buffer, size_t bytes);        /* 0 at the end */
    ssize_t (*write)(void *context, int fd, const void *buffer, size_t bytes); /* may be short */
    int (*fsync)(void *context, int fd);
    int (*close)(void *context, int fd);
    int (*truncate)(void *context, int fd, uint64_t bytes);
    int (*rename)(void *context, const char *from, const char *to);
    int (*unlink)(void *context, const char *path);
    int (*mkdir)(void *context, const char *path, unsigned mode);
    int (*stat)(void *context, const char *path, struct file_stat *out); /* follows links */
    int (*stat_open)(void *context, int fd, struct file_stat *out);
    int (*lock)(void *context, int fd); /* exclusive, not blocking, held until close; -EWOULDBLOCK
                                           when another process has it; -ENOSYS, -ENOTSUP, -ENOLCK
                                           where the file system has no locks */
    /* Call `entry` with every name in a directory but "." and "..", in any order, until it returns
     * non-zero; that value is returned. `name` is valid during the call only. */
    int (*list)(void *context, const char *path, int (*entry)(void *user, const char *name),
                void *user);
};

/* The real file system. Descriptors are opened close-on-exec. Constant. */
extern const struct file_table file_posix;

/* "No space left on device (ENOSPC)" for a negative errno, plus a hint for ENOSPC, EDQUOT and
 * EROFS. `out` holds `capacity` bytes. Returns `out`. */
char *file_errno_text(int negative_errno, char *out, size_t capacity);

/* The status that a failed call on an input deserves: STATUS_IO for EIO, which says that the disk
 * has lost what was there, else STATUS_INPUT: it is missing, or cannot be had now (permissions, too
 * many open files, a server that does not answer) and may be whole. */
enum status file_input_status(int negative_errno);

/* Read a whole file of at most `limit_bytes`. The caller frees *out (malloc). A NUL byte stands
 * behind the last one and is not counted. STATUS_DATA when it is longer than the limit, otherwise
 * as file_input_status. Blocking. */
MUST_USE enum status file_read_all(const struct file_table *files, const char *path,
                                   uint64_t limit_bytes, uint8_t **out, size_t *out_bytes,
                                   struct error *err);

/* Write all of `bytes` to a descriptor; `path` is for the message. Blocking. */
MUST_USE enum status file_write_all(const struct file_table *files, int fd, const char *path,
                                    const void *bytes, size_t size, struct error *err);

/* Create a directory and those above it; existing ones are fine. Each new name is made durable by
 * an fsync of its parent. STATUS_OUTPUT on failure. */
MUST_USE enum status file_make_directories(const struct file_table *files, const char *path,
                                           struct error *err);

/* Make the names in a directory durable. 0 or a negative errno; EINVAL and EBADF, which mean that
 * this file system cannot fsync a directory, count as 0. Blocking. */
int file_sync_directory(const struct file_table *files, const char *directory);

/* Is `name` listed in a directory? 1, 0 or a negative errno. Looking at the file does not tell: a
 * link that leads nowhere has its name all the same. Blocking. */
int file_lists_name(const struct file_table *files, const char *directory, const char *name);

/* Directory part of `path` ("." when it has none) into `out`; the part after the last slash is
 * returned, as a pointer into `path`. NULL when the directory part does not fit. */
const char *file_split_path(const char *path, char *out, size_t capacity);

/* `directory` "/" `name`; false when it does not fit. */
bool file_join_path(char *out, size_t capacity, const char *directory, const char *name);

enum { FILE_PATH_CAPACITY = 4096 };

struct publish {
    const struct file_table *files;
    int fd;
    uint64_t bytes_written;
    double write_seconds, fsync_seconds, rename_seconds; /* rename includes the directory's fsync */
    bool is_renamed; /* final_path is the new file, durable or not */
    char temp_path[FILE_PATH_CAPACITY];
    char final_path[FILE_PATH_CAPACITY];
};

/* Prefix of every temporary name: ".cairn-tmp-". The rest is the final name, the process id, a
 * number that the process has drawn, and a counter, so that two processes never share one. */
#define PUBLISH_TEMP_PREFIX ".cairn-tmp-"

/* Has a temporary of that name, which begins with the prefix, been made by this process? */
bool publish_is_own_temp(const char *name);

/* Open a fresh temporary file beside `final_path` (O_CREAT|O_EXCL|O_CLOEXEC|O_NOFOLLOW, mode 0666
 * under the umask). Afterwards exactly one of publish_commit and publish_abort must be called. On
 * failure neither. All statuses: STATUS_IO, the message names the step that failed and its errno.
 */
MUST_USE enum status publish_begin(const struct file_table *files, const char *final_path,
                                   struct publish *out, struct error *err);
MUST_USE enum status publish_write(struct publish *publish, const void *bytes, size_t size,
                                   struct error *err);
/* fsync and close: for several files that must be safe before the first is renamed. On failure the
 * temporary is unlinked. publish_commit does it where it has not been done. */
MUST_USE enum status publish_seal(struct publish *publish, struct error *err);
/* fsync, close, rename, fsync of the directory. On any failure before the rename the temporary is
 * unlinked and the old file is untouched; a descriptor whose fsync failed is never used again. When
 * only the directory's fsync failed (other than EINVAL or EBADF, which mean "not supported here")
 * the new file is visible but not known to be durable: STATUS_IO, and is_renamed. */
MUST_USE enum status publish_commit(struct publish *publish, struct error *err);
/* Close and unlink the temporary. */
void publish_abort(struct publish *publish);

/* Could a file be published as `path` now? For paths that are needed only after hours. What is
 * there and is not a regular file (a directory, a device) is refused, STATUS_OUTPUT; STATUS_IO,
 * with the step that failed, where no temporary file can be made beside it. */
MUST_USE enum status publish_try(const struct file_table *files, const char *path,
                                 struct error *err);

/* publish_begin, publish_write, publish_commit for a small file that is whole in memory. */
MUST_USE enum status file_publish(const struct file_table *files, const char *final_path,
                                  const void *bytes, size_t size, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
