/* store_lock.h - one trainer at a time in a model directory.
 *
 * A kernel lock on the file STORE_LOCK_FILE, in which its owner's pid and host stand. The kernel
 * releases it when the process ends, however it ends. The file itself stays for ever: were it
 * removed, a third process could lock a new file of that name while a second one still holds the
 * old. Who deletes or moves the whole directory does so all the same, and a run that begins in a
 * new one of that name locks a file of its own: so the owner asks before it writes whether file and
 * directory are still those that it opened. What stands in the file is for people only.
 *
 * Where the file system has no locks it is all there is: the owner writes itself into the file
 * before its first save and asks before each later one whether it still stands there. Of two
 * trainers the one that began to save last goes on. Private to the store (store_trainer.c).
 *
 * THREADS: plain functions; the lock belongs to one thread at a time.
 */
#ifndef CAIRN_IO_STORE_LOCK_H
#define CAIRN_IO_STORE_LOCK_H

#include <stdbool.h>

#include "host/base/status.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { STORE_LOCK_OWNER_CAPACITY = 320 };

struct store_lock {
    int fd;           /* the lock file's; -1: not taken */
    int directory_fd; /* held so that no new directory gets the same inode; -1: not open */
    bool is_held;     /* by the kernel; false where the file system has no locks */
    bool is_claimed;  /* `owner` was written into the file */
    char owner[STORE_LOCK_OWNER_CAPACITY];
};

/* Take the lock of an existing directory; *out holds it until store_lock_release. STATUS_OUTPUT
 * naming the owner when another has it, or when the file cannot be made or written. Where the file
 * system has no locks: *warning (may be NULL) is set and the call succeeds. */
MUST_USE enum status store_lock_take(const struct file_table *files, const char *directory,
                                     struct store_lock *out, struct error *warning,
                                     struct error *err);

/* STATUS_OUTPUT when another directory, or none, has the name of the one that was opened, or when
 * another trainer has the lock; STATUS_IO when that cannot be found out, or the lock file not be
 * written. One that was deleted or replaced alone (a backup that was put back) is locked anew: then
 * *is_new is set. Without a kernel lock nothing is written. */
MUST_USE enum status store_lock_check(const struct file_table *files, const char *directory,
                                      struct store_lock *lock, bool *is_new, struct error *err);

/* Without a kernel lock: the first call writes the owner into the file, each later one asks whether
 * it still stands there, STATUS_OUTPUT naming who does instead. STATUS_IO as above. */
MUST_USE enum status store_lock_claim(const struct file_table *files, const char *directory,
                                      struct store_lock *lock, struct error *err);

/* One that was not taken is fine: STORE_LOCK_NONE. */
void store_lock_release(const struct file_table *files, struct store_lock *lock);

#define STORE_LOCK_NONE                                                                            \
    (struct store_lock) {                                                                          \
        .fd = -1, .directory_fd = -1                                                               \
    }

#ifdef __cplusplus
}
#endif
#endif
