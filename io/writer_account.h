/* writer_account.h - what a writer tells of its saves: results to be polled, totals, percentiles.
 *
 *     writer's thread:   writer_account_add      a save has ended
 *     trainer's thread:  writer_account_stall    a save was accepted
 *                        writer_account_settle   ... and what was put off was waited for
 *                        writer_account_take     a result, with all of its stall
 *
 * Memory is allocated by writer_account_init alone and bounded: a result that nobody fetches
 * neither blocks the writer nor piles up.
 *
 * THREADS: none of its own, and no lock: call with the writer's mutex held (io/writer.c), but for
 * init and deinit.
 */
#ifndef CAIRN_IO_WRITER_ACCOUNT_H
#define CAIRN_IO_WRITER_ACCOUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "io/writer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* STALLS: of so many latest saves are the percentiles. SETTLES: of so many ids back is known what
 * settling took. */
enum { WRITER_ACCOUNT_STALLS = 65536, WRITER_ACCOUNT_SETTLES = 2 * WRITER_RESULTS_MAX };

struct writer_account {
    struct writer_totals totals; /* without the percentiles; the writer counts in it, too */
    /* private */
    struct save_result *results; /* [WRITER_RESULTS_MAX], oldest first */
    size_t result_count;
    double *stalls; /* ring [WRITER_ACCOUNT_STALLS]; seconds */
    double *sorted; /* the same size, for the percentiles */
    uint64_t stall_count, last_id;
    double settles[WRITER_ACCOUNT_SETTLES]; /* of the save of id i: [i % WRITER_ACCOUNT_SETTLES] */
};

/* `account` is all zeros before; deinit undoes it, also after a failure (STATUS_MEMORY). */
MUST_USE enum status writer_account_init(struct writer_account *account, struct error *err);
void writer_account_deinit(struct writer_account *account);

/* Keep a copy of `result` until it is taken. When WRITER_RESULTS_MAX are there the oldest good news
 * goes, then the oldest of all: totals.results_lost. */
void writer_account_add(struct writer_account *account, const struct save_result *result);

/* The oldest result, with what settling took added to its stall; false when there is none. */
bool writer_account_take(struct writer_account *account, struct save_result *out);

/* The save `id`, the latest so far, kept the trainer for so many seconds. */
void writer_account_stall(struct writer_account *account, uint64_t id, double seconds);

/* So many more, for the same save. Once at most after each writer_account_stall. */
void writer_account_settle(struct writer_account *account, double seconds);

/* The totals, with percentiles by nearest rank. Sorts. */
struct writer_totals writer_account_totals(struct writer_account *account);

#ifdef __cplusplus
}
#endif
#endif
