/* history.h - history.jsonl and history.csv of a model directory.
 *
 * history.jsonl: one JSON object per line with an `event` (contract, section 2). Appended line by
 * line with one write each. history.csv: Keras' CSVLogger columns (epoch from 0, accuracy, loss,
 * val_accuracy, val_loss; without validation only the first three), rewritten from the epoch
 * history at a resume and appended to afterwards. A resumed run continues both from the restored
 * point: whatever was logged after it is cut (also a torn last line), nothing is written twice.
 *
 * Usage:
 *     TRY(history_open(files, dir, &point, &history, &lost_step, err));
 *     TRY(history_event(history, json_line, err));
 *     TRY(history_epoch_row(history, epoch, &row, err));
 *     history_close(history);
 *
 * THREADS: the trainer's thread only. Errors are STATUS_IO; the trainer treats them as warnings.
 */
#ifndef CAIRN_IO_HISTORY_H
#define CAIRN_IO_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Metrics of one finished epoch, the row of the epoch history. A pair (loss and accuracy, val_loss
 * and val_accuracy) of which both are NaN was not measured: "NA" in the CSV. A loss that is NaN
 * beside an accuracy (which is a count and always finite) is a real one: "nan". */
struct epoch_row {
    double loss, accuracy, val_loss, val_accuracy;
};

/* Where a resumed run stands. A fresh run: all zero. */
struct history_point {
    uint64_t step;                /* keep `step`, `save` and `end` events up to this step */
    const struct epoch_row *rows; /* epochs finished; keep `epoch` events up to this count */
    size_t row_count;
    bool has_validation; /* columns of the CSV */
};

struct history;

/* Open (create) both files in `directory`. jsonl is cut at the first line that is torn, or is a
 * `step`, `save` or `end` event with "step" > point->step, or an `epoch` event with "epoch" >=
 * point->row_count ("epoch" counts from 0, as in the CSV), or a `start` event with "step" >
 * point->step. csv is rewritten from the rows. *lost_step (may be NULL): the largest "step" among
 * what was cut, 0 when nothing was: how far the run had come after the restored checkpoint. The cut
 * is an fsynced truncation, so a crash leaves the old length or the new one, and the next open cuts
 * again. */
MUST_USE enum status history_open(const struct file_table *files, const char *directory,
                                  const struct history_point *point, struct history **out,
                                  uint64_t *lost_step, struct error *err);

/* Append one line to history.jsonl; `line` is a JSON object without newline. What a failed append
 * left of a line is cut before the next one. */
MUST_USE enum status history_event(struct history *history, const char *line, struct error *err);

/* Append one row to history.csv; `epoch` from 0. */
MUST_USE enum status history_epoch_row(struct history *history, uint64_t epoch,
                                       const struct epoch_row *row, struct error *err);

/* NULL is fine. */
void history_close(struct history *history);

#ifdef __cplusplus
}
#endif
#endif
