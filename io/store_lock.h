/* store_lock.h - one trainer at a time in a model directory.
 *
 * A kernel lock on the file STORE_LOCK_FILE, in which its owner's pid and host stand. The kernel
 * releases it when the process ends, however it ends. The file itself stays for ever: were it
 * removed, a third process could lock a new file of that name while a second one still holds the
 * old. Who deletes the whole directory removes it all the same, and a run that begins in a new one
 * of that name locks a file of its own: so the owner asks before it writes whether the file still
 * names it. Private to the store (store_trainer.c).
 *
 * THREADS: plain functions; the lock belongs to the descriptor.
 */
#ifndef CAIRN_IO_STORE_LOCK_H
#define CAIRN_IO_STORE_LOCK_H

#include "host/base/status.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { STORE_LOCK_OWNER_CAPACITY = 320 };

struct store_lock {
    int fd;                                /* -1: not taken */
    char owner[STORE_LOCK_OWNER_CAPACITY]; /* what we wrote into the file */
};

/* Take the lock of an existing directory; *out holds it until store_lock_release. STATUS_OUTPUT
 * naming the owner when another has it, or when the file cannot be made or written. Where the file
 * system has no locks: *warning (may be NULL) is set and the call succeeds. */
MUST_USE enum status store_lock_take(const struct file_table *files, const char *directory,
                                     struct store_lock *out, struct error *warning,
                                     struct error *err);

/* STATUS_OUTPUT when the lock file of `directory` names another owner than us, or none; STATUS_IO
 * when it cannot be read. A file that is not there says nothing of another one. Any thread. */
MUST_USE enum status store_lock_check(const struct file_table *files, const char *directory,
                                      const struct store_lock *lock, struct error *err);

/* One that was not taken is fine. */
void store_lock_release(const struct file_table *files, struct store_lock *lock);

#ifdef __cplusplus
}
#endif
#endif
