#include "io/writer_account.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/percentile.h"

enum status writer_account_init(struct writer_account *account, struct error *err) {
    account->results = calloc(WRITER_RESULTS_MAX, sizeof account->results[0]);
    account->stalls = calloc(WRITER_ACCOUNT_STALLS, sizeof account->stalls[0]);
    account->sorted = calloc(WRITER_ACCOUNT_STALLS, sizeof account->sorted[0]);
    CHECK(account->results != NULL && account->stalls != NULL && account->sorted != NULL, err,
          STATUS_MEMORY, "checkpoint writer: no memory for its account of saves");
    return STATUS_OK;
}

void writer_account_deinit(struct writer_account *account) {
    free(account->results);
    free(account->stalls);
    free(account->sorted);
}

/* ---- results ---- */

static void remove_result(struct writer_account *account, size_t at) {
    account->result_count--;
    memmove(&account->results[at], &account->results[at + 1],
            (account->result_count - at) * sizeof account->results[0]);
}

static void make_room(struct writer_account *account) {
    size_t victim = 0;
    for (size_t i = 0; i < account->result_count; i++) {
        if (account->results[i].status == STATUS_OK) {
            victim = i;
            break;
        }
    }
    remove_result(account, victim);
    account->totals.results_lost++;
}

void writer_account_add(struct writer_account *account, const struct save_result *result) {
    if (account->result_count == WRITER_RESULTS_MAX) {
        make_room(account);
    }
    account->results[account->result_count++] = *result;
}

bool writer_account_take(struct writer_account *account, struct save_result *out) {
    if (account->result_count == 0) {
        return false;
    }
    *out = account->results[0];
    remove_result(account, 0);
    bool is_known = account->last_id - out->id < WRITER_ACCOUNT_SETTLES;
    out->settle_seconds = is_known ? account->settles[out->id % WRITER_ACCOUNT_SETTLES] : 0.0;
    out->stall_seconds += out->settle_seconds;
    return true;
}

/* ---- stalls ---- */

static void add_stall(struct writer_account *account, double seconds) {
    double *latest = &account->stalls[(account->stall_count - 1) % WRITER_ACCOUNT_STALLS];
    struct writer_totals *totals = &account->totals;
    *latest += seconds;
    totals->stall_seconds_total += seconds;
    if (*latest > totals->stall_seconds_max) {
        totals->stall_seconds_max = *latest;
    }
}

void writer_account_stall(struct writer_account *account, uint64_t id, double seconds) {
    account->last_id = id;
    account->settles[id % WRITER_ACCOUNT_SETTLES] = 0.0;
    account->stalls[account->stall_count++ % WRITER_ACCOUNT_STALLS] = 0.0;
    add_stall(account, seconds);
}

void writer_account_settle(struct writer_account *account, double seconds) {
    assert(account->stall_count > 0);
    account->settles[account->last_id % WRITER_ACCOUNT_SETTLES] = seconds;
    add_stall(account, seconds);
}

struct writer_totals writer_account_totals(struct writer_account *account) {
    struct writer_totals totals = account->totals;
    size_t count = account->stall_count < WRITER_ACCOUNT_STALLS ? (size_t)account->stall_count
                                                                : WRITER_ACCOUNT_STALLS;
    memcpy(account->sorted, account->stalls, count * sizeof account->stalls[0]);
    percentile_sort(account->sorted, count);
    if (count > 0) {
        totals.stall_seconds_p50 = percentile_of(account->sorted, count, 50);
        totals.stall_seconds_p99 = percentile_of(account->sorted, count, 99);
    }
    return totals;
}
