/* trainer_internal.h - the trainer's struct, shared by trainer.c (the loop), trainer_setup.c
 * (create and free), trainer_save.c (snapshots and their results), trainer_supersede.c (what is
 * moved away at the start) and trainer_report.c (history lines, end of run). Private to them.
 *
 * THREADS: as trainer.h.
 */
#ifndef CAIRN_HOST_TRAINER_INTERNAL_H
#define CAIRN_HOST_TRAINER_INTERNAL_H

#include "host/batcher.h"
#include "host/callbacks.h"
#include "host/evaluator.h"
#include "host/model.h"
#include "host/summary.h"
#include "host/trainer.h"
#include "io/history.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Room for weights, m, v, best, the run state, sums, vocabulary and text rules. */
enum { TRAINER_SOURCES_MAX = 4 * MODEL_TENSORS + RUN_STATE_TENSORS + 8 };

/* A best model on its way to the disk. */
struct best_save {
    uint64_t id; /* the writer's */
    struct best_tracker tracker;
};

/* The two slots and as many results that were not looked at yet. */
enum { TRAINER_BEST_SAVES_MAX = 2 * SNAPSHOT_SLOTS };

/* The save that secures the start is tried twice. */
enum { TRAINER_EARLY_SAVES = 2 };

struct trainer {
    struct trainer_setup setup;

    /* made at creation */
    struct model *model;
    struct batcher *batcher;
    struct evaluator *evaluator; /* NULL without validation data */
    struct writer *writer;
    struct history *history;
    struct summary *summary; /* NULL before trainer_open_logs, and with --tensorboard off */
    bool logs_open;
    struct save_result early_saves[TRAINER_EARLY_SAVES]; /* ended before that */
    size_t early_count;
    void *tokens; /* the training tokens where the device reads them */
    uint64_t steps_per_epoch;
    uint64_t last_step; /* absolute step at which --steps or --max-steps ends the run; UINT64_MAX if
                           none */
    enum metric monitor;
    bool monitor_available; /* false: a val_* monitor without validation data */
    enum monitor_mode direction;
    struct early_stopping_config stopping; /* patience -1 when off */
    struct text options_text;              /* for metadata */
    int64_t strip_html, max_length;        /* what the text.* tensors point to */
    char label_names[2 * DATASET_LABEL_CAPACITY + 2];

    bool took_best_weights; /* of the best model, as the checkpoint resumed has none */

    /* what is saved */
    struct run_state state;
    struct pass_sums sums; /* host copy of the latest */

    /* of this process only */
    uint64_t state_version; /* counts changes of the state */
    uint64_t ring_version;  /* state_version of the latest accepted ring save; 0 = none */
    double last_save;       /* monotonic seconds of the latest accepted ring save */
    double log_time;        /* of the latest `step` event */
    uint64_t log_examples;  /* examples since then */
    uint64_t first_step;    /* state.step at the start */
    double start_time;
    double epoch_begin;               /* first batch request of the epoch in this process */
    uint64_t accepted_saves;          /* the writer's id of the latest one */
    struct best_tracker durable_best; /* what the best file on disk is known to hold */
    struct best_save best_saves[TRAINER_BEST_SAVES_MAX]; /* not known to be durable, oldest first */
    size_t best_save_count;
    uint64_t save_failures;
    bool save_nonfinite; /* the writer refused a non-finite state */
    bool directory_lost; /* the latest save failed because the directory is no longer ours */
    bool best_unusable;  /* there is no file of the best model, or not a good one */
    bool warned_missing_monitor, warned_history;
};

/* ---- trainer_save.c ---- */

enum save_kind {
    SAVE_RING_DUE = 1 << 0,  /* a timer or step save: may be skipped */
    SAVE_RING_MUST = 1 << 1, /* first, last, stop */
    SAVE_BEST = 1 << 2,      /* best.safetensors.zst */
    SAVE_FILEPATH = 1 << 3   /* --checkpoint-filepath, expanded with `values` */
};

/* Snapshot the state and queue it under the names that `kinds` asks for (best first, ring last).
 * `values` may be NULL without SAVE_FILEPATH. */
MUST_USE enum status trainer_save(struct trainer *trainer, unsigned kinds,
                                  const struct template_values *values, struct error *err);

/* Wait until no save reads the weights and moments any more; `trainer` is one. For
 * model_before_change. */
void trainer_settle(void *trainer);

/* Log finished saves; count failures. Never blocks. */
void trainer_collect_saves(struct trainer *trainer);

/* Make sure that the state as it is now is durable as a ring checkpoint: save if it is not, wait,
 * once again if that failed. False when it is not durable in the end. */
MUST_USE enum status trainer_save_final(struct trainer *trainer, bool *durable, struct error *err);

/* Is a ring save due after this step? */
bool trainer_save_due(const struct trainer *trainer);

/* Swap weights and best weights (state.restored_best tells which is which). */
MUST_USE enum status trainer_swap_best(struct trainer *trainer, struct error *err);

/* ---- trainer_supersede.c ---- */

/* Where --resume went back to a file under another name, the save that secures the start replaces
 * what the ring has of that step: keep it in superseded/, unless it is the same state. */
MUST_USE enum status trainer_keep_replaced(struct trainer *trainer, struct error *err);

/* What of an earlier course of the run would be in the way is moved into superseded/, and that is
 * said: where --resume went back newer checkpoints, and the best model that resume.h names. Only if
 * the state at the start is `durable` in the ring: else STATUS_IO, and nothing was changed. */
MUST_USE enum status trainer_supersede(struct trainer *trainer, bool durable, struct error *err);

/* ---- trainer_report.c ---- */

/* Open history and event files, take them back to the step of the state, log the start. What was
 * saved before is logged behind it. */
void trainer_open_logs(struct trainer *trainer);
void trainer_log_step(struct trainer *trainer);
void trainer_log_epoch(struct trainer *trainer, uint64_t epoch, const struct epoch_row *row,
                       double train_seconds, double validation_seconds);
void trainer_log_save(struct trainer *trainer, const struct save_result *result);
void trainer_log_end(struct trainer *trainer, const struct trainer_outcome *outcome);
void trainer_report_end(struct trainer *trainer, const struct trainer_outcome *outcome);
const char *trainer_end_name(enum trainer_end end);

#ifdef __cplusplus
}
#endif
#endif
