/* progress.h - what a person (or a machine) sees on stderr while a run goes on.
 *
 * bar: Keras' progress line, in place, on a terminal. lines: one line every few seconds (10 s) and
 * one per epoch, for files and pipes. json: one object per line, stable names. none: warnings only.
 * auto: bar on a terminal (unless TERM=dumb), else lines. --verbose 0 is none, 2 is one line per
 * epoch (with json: no step events). NO_COLOR is honoured (no colour is used anyway: the rest of
 * the bar is a thin line where Keras uses grey); COLUMNS, or else the terminal's own width, limits
 * an in-place line.
 *
 * json events: epoch_begin (epoch, epochs, steps, position), step (epoch, done, steps, step, loss,
 * accuracy, eta_seconds, ms_per_step), validation (done, total), epoch (epoch, epochs, step,
 * seconds, ms_per_step, accuracy, loss, val_accuracy, val_loss), message and warning (text).
 * Numbers that are not finite are the strings "nan", "inf", "-inf". An epoch of which only the
 * validation was left to a resumed run has no times (json: 0).
 *
 * Usage:
 *     progress_init(&progress, stderr, PROGRESS_AUTO, 1);
 *     progress_epoch_begin(&progress, 2, 10, 391);
 *     progress_step(&progress, 17, loss, accuracy);
 *     progress_epoch_end(&progress, &row, has_validation);
 *
 * THREADS: the trainer's thread.
 */
#ifndef CAIRN_HOST_PROGRESS_H
#define CAIRN_HOST_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "host/base/status.h"
#include "host/options.h"
#include "io/history.h"

#ifdef __cplusplus
extern "C" {
#endif

struct progress {
    FILE *out;
    enum progress_mode mode; /* resolved: never AUTO */
    uint64_t verbose;
    unsigned columns;
    double (*clock)(void); /* seconds; progress_init takes clock_monotonic_seconds, tests another */
    uint64_t epoch, epochs, steps, first_step; /* epoch is 1-based */
    double epoch_begin, last_update, first_step_end;
    bool line_open; /* an in-place line waits for its newline */
    unsigned line_width;
};

void progress_init(struct progress *progress, FILE *out, enum progress_mode mode, uint64_t verbose);

/* `epoch` is 1-based; `steps` per epoch; `position` batches are already done (resume), all of them
 * where only the validation is left. */
void progress_epoch_begin(struct progress *progress, uint64_t epoch, uint64_t epochs,
                          uint64_t steps, uint64_t position);

/* After batch `done` (1-based count in the epoch) with the epoch's running means. Cheap: returns at
 * once when no update is due (bar: 0.05 s, lines and json: 10 s). */
void progress_step(struct progress *progress, uint64_t done, double loss, double accuracy,
                   uint64_t global_step);

/* During a validation or an evaluation: `done` of `total` examples. */
void progress_validation(struct progress *progress, uint64_t done, uint64_t total);

void progress_epoch_end(struct progress *progress, const struct epoch_row *row, bool has_validation,
                        uint64_t global_step);

/* A line of its own (a pending bar line is ended first). Shown in every mode but none; in json mode
 * as
 * {"event":"message","text":...}. No newline at the end of the format. */
void progress_message(struct progress *progress, const char *format, ...) PRINTF_LIKE(2, 3);

/* "Warning: ...", shown in every mode. */
void progress_warning(struct progress *progress, const char *format, ...) PRINTF_LIKE(2, 3);

/* End a pending in-place line. */
void progress_finish(struct progress *progress);

/* Keras' number format: 4 decimals if |x| > 1e-3, else "%.4e". Returns `out` (32 bytes). */
char *progress_format_metric(double value, char out[32]);
/* Keras' time to go: "59s", "1:05", "1:00:01". Returns `out` (32 bytes). */
char *progress_format_eta(double seconds, char out[32]);
/* Keras' duration per step: "12s", "19ms", "230us" with its rules. Returns `out` (32 bytes). */
char *progress_format_per_step(double seconds, char out[32]);

#ifdef __cplusplus
}
#endif
#endif
