/* The one way in which Cairn publishes a file: see io/file.h for the protocol. */
#include "io/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "host/base/text.h"

enum {
    SHOWN_PATH_CAPACITY = 400,
    TEMP_NAME_SHARE = 200, /* bytes of the final name in the temporary's, whose limit is NAME_MAX */
    TEMP_TRIES = 10000
};

/* "cannot save PATH: STEP failed: REASON". Always STATUS_IO. */
static enum status step_error(const struct publish *publish, const char *step, int negative_errno,
                              struct error *err) {
    char shown[SHOWN_PATH_CAPACITY];
    char reason[256];
    return error_set(
        err, STATUS_IO, "cannot save %s: %s failed: %s",
        text_escape(publish->final_path, strlen(publish->final_path), shown, sizeof shown), step,
        file_errno_text(negative_errno, reason, sizeof reason));
}

/* In a container a process id comes again at every start: what a dead process has left would pass
 * for ours without a number that nobody else draws. */
static uint32_t process_number;
static pthread_once_t process_number_once = PTHREAD_ONCE_INIT;

static void draw_process_number(void) {
    if (getrandom(&process_number, sizeof process_number, GRND_NONBLOCK) !=
        (ssize_t)sizeof process_number) { /* the kernel has none yet, just after it was started */
        process_number = (uint32_t)(uint64_t)(clock_wall_seconds() * 1e6);
    }
}

enum { PROCESS_CAPACITY = 32 };

/* ".PID-NUMBER", the part of our temporaries' names that stands before the counter. */
static void name_process(char out[PROCESS_CAPACITY]) {
    (void)pthread_once(&process_number_once, draw_process_number);
    snprintf(out, PROCESS_CAPACITY, ".%ld-%08" PRIx32, (long)getpid(), process_number);
}

/* Beside the final file: a rename never crosses file systems. No shared counter is needed: O_EXCL
 * refuses every name that is taken. */
static bool temp_name(struct publish *publish, unsigned counter) {
    char directory[FILE_PATH_CAPACITY];
    char name[NAME_MAX + 1];
    const char *base = file_split_path(publish->final_path, directory, sizeof directory);
    if (base == NULL) {
        return false;
    }
    char process[PROCESS_CAPACITY];
    name_process(process);
    snprintf(name, sizeof name, PUBLISH_TEMP_PREFIX "%.*s%s.%u", (int)TEMP_NAME_SHARE, base,
             process, counter);
    return file_join_path(publish->temp_path, sizeof publish->temp_path, directory, name);
}

bool publish_is_own_temp(const char *name) {
    char own[PROCESS_CAPACITY];
    name_process(own);
    const ptrdiff_t size = (ptrdiff_t)strlen(own);
    const char *counter = strrchr(name, '.'); /* there is one: the prefix begins with it */
    return counter - name >= size && strncmp(counter - size, own, (size_t)size) == 0;
}

enum status publish_begin(const struct file_table *files, const char *final_path,
                          struct publish *out, struct error *err) {
    memset(out, 0, sizeof *out);
    out->files = files;
    out->fd = -1;
    size_t size = strlen(final_path);
    memcpy(out->final_path, final_path, size < FILE_PATH_CAPACITY ? size : FILE_PATH_CAPACITY - 1);
    int fd = -EEXIST;
    for (unsigned counter = 0; counter < TEMP_TRIES && fd == -EEXIST; counter++) {
        if (size >= FILE_PATH_CAPACITY || !temp_name(out, counter)) {
            fd = -ENAMETOOLONG;
            break;
        }
        fd = files->open(files->context, out->temp_path,
                         O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    }
    if (fd < 0) {
        return step_error(out, "creating a temporary file beside it", fd, err);
    }
    out->fd = fd;
    return STATUS_OK;
}

enum status publish_write(struct publish *publish, const void *bytes, size_t size,
                          struct error *err) {
    assert(publish->fd >= 0);
    const struct file_table *files = publish->files;
    double start = clock_monotonic_seconds();
    const uint8_t *next = bytes;
    ssize_t done = 1;
    while (size > 0 && done > 0) {
        done = files->write(files->context, publish->fd, next, size);
        if (done > 0) {
            next += done;
            size -= (size_t)done;
            publish->bytes_written += (uint64_t)done;
        }
    }
    publish->write_seconds += clock_monotonic_seconds() - start;
    if (size > 0) {
        return step_error(publish, "write to the temporary file", done < 0 ? (int)done : -EIO, err);
    }
    return STATUS_OK;
}

/* Report a failed step; the old file is untouched, the temporary goes. */
static enum status give_up(struct publish *publish, const char *step, int negative_errno,
                           struct error *err) {
    publish_abort(publish);
    return step_error(publish, step, negative_errno, err);
}

/* Data and size on the disk, descriptor closed (before the rename: some network file systems refuse
 * to rename an open file). After a failed fsync the kernel may have marked the lost pages clean, so
 * a second one would report success: there is none. */
enum status publish_seal(struct publish *publish, struct error *err) {
    const struct file_table *files = publish->files;
    double start = clock_monotonic_seconds();
    int result = files->fsync(files->context, publish->fd);
    publish->fsync_seconds = clock_monotonic_seconds() - start;
    if (result < 0) {
        return give_up(publish, "fsync of the temporary file", result, err);
    }
    int fd = publish->fd;
    publish->fd = -1; /* closed whatever close returns */
    result = files->close(files->context, fd);
    if (result < 0) {
        return give_up(publish, "close of the temporary file", result, err);
    }
    return STATUS_OK;
}

enum status publish_commit(struct publish *publish, struct error *err) {
    assert(publish->temp_path[0] != '\0');
    if (publish->fd >= 0) {
        TRY(publish_seal(publish, err));
    }
    const struct file_table *files = publish->files;
    double start = clock_monotonic_seconds();
    int result = files->rename(files->context, publish->temp_path, publish->final_path);
    if (result < 0) {
        return give_up(publish, "rename of the temporary file", result, err);
    }
    publish->temp_path[0] = '\0';
    publish->is_renamed = true;
    char directory[FILE_PATH_CAPACITY];
    bool fits = file_split_path(publish->final_path, directory, sizeof directory) != NULL;
    assert(fits);
    (void)fits;
    result = file_sync_directory(files, directory);
    publish->rename_seconds = clock_monotonic_seconds() - start;
    if (result < 0) {
        return step_error(publish,
                          "fsync of its directory (the file is there, but a power cut may lose it)",
                          result, err);
    }
    return STATUS_OK;
}

void publish_abort(struct publish *publish) {
    const struct file_table *files = publish->files;
    if (publish->fd >= 0) {
        files->close(files->context, publish->fd);
        publish->fd = -1;
    }
    if (publish->temp_path[0] != '\0') {
        files->unlink(files->context, publish->temp_path);
        publish->temp_path[0] = '\0';
    }
}

enum status publish_try(const struct file_table *files, const char *path, struct error *err) {
    struct file_stat there;
    struct publish publish;
    bool is_there = files->stat(files->context, path, &there) >= 0;
    CHECK(!is_there || there.is_regular, err, STATUS_OUTPUT, "%s is %s", path,
          there.is_directory ? "a directory" : "not a regular file");
    TRY(publish_begin(files, path, &publish, err));
    publish_abort(&publish);
    return STATUS_OK;
}

enum status file_publish(const struct file_table *files, const char *final_path, const void *bytes,
                         size_t size, struct error *err) {
    struct publish publish;
    TRY(publish_begin(files, final_path, &publish, err));
    enum status status = publish_write(&publish, bytes, size, err);
    if (status != STATUS_OK) {
        publish_abort(&publish);
        return status;
    }
    return publish_commit(&publish, err);
}
