/* store_lock.h - one trainer at a time in a model directory.
 *
 * A kernel lock on the file STORE_LOCK_FILE, in which its owner's pid and host stand. The kernel
 * releases it when the process ends, however it ends. The file itself stays for ever: were it
 * removed, a third process could lock a new file of that name while a second one still holds the
 * old. Private to the store (store_trainer.c).
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

/* Take the lock of an existing directory; *fd holds it until store_lock_release. STATUS_OUTPUT
 * naming the owner when another has it, or when the file cannot be made or written. Where the file
 * system has no locks: *warning (may be NULL) is set and the call succeeds. */
MUST_USE enum status store_lock_take(const struct file_table *files, const char *directory, int *fd,
                                     struct error *warning, struct error *err);

/* -1 is fine. */
void store_lock_release(const struct file_table *files, int fd);

#ifdef __cplusplus
}
#endif
#endif
