#include "host/progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/text.h"
#include "host/terminal.h"

enum { BAR_WIDTH = 20 };

static const double bar_interval = 0.05, lines_interval = 10.0; /* seconds */

/* ---- numbers as Keras writes them --------------------------------------------------------- */

char *progress_format_metric(double value, char out[32]) {
    if (isnan(value)) {
        snprintf(out, 32, "nan"); /* never "-nan" */
    } else {
        snprintf(out, 32, fabs(value) > 1e-3 && fabs(value) < 1e15 ? "%.4f" : "%.4e", value);
    }
    return out;
}

char *progress_format_per_step(double seconds, char out[32]) {
    if (seconds >= 1 || seconds == 0) {
        snprintf(out, 32, "%.0fs", seconds);
    } else if (seconds >= 1e-3) {
        snprintf(out, 32, "%.0fms", seconds * 1e3);
    } else {
        snprintf(out, 32, "%.0fus", seconds * 1e6);
    }
    return out;
}

char *progress_format_eta(double seconds, char out[32]) {
    unsigned long long whole = seconds > 0 && seconds < 1e15 ? (unsigned long long)seconds : 0;
    if (seconds > 3600) {
        snprintf(out, 32, "%llu:%02llu:%02llu", whole / 3600, whole % 3600 / 60, whole % 60);
    } else if (seconds > 60) {
        snprintf(out, 32, "%llu:%02llu", whole / 60, whole % 60);
    } else {
        snprintf(out, 32, "%llus", whole);
    }
    return out;
}

/* ---- lines -------------------------------------------------------------------------------- */

/* Write `line` in one piece; a failure to show progress is no reason to stop. */
static void emit(struct progress *progress, struct text *line) {
    if (!line->failed && line->size > 0) {
        fwrite(line->bytes, 1, line->size, progress->out);
        fflush(progress->out);
    }
    text_free(line);
}

/* Terminal columns of UTF-8 text: what is printed here is never wide nor combining. */
static unsigned width_of(const char *bytes, size_t size) {
    unsigned width = 0;
    for (size_t i = 0; i < size; i++) {
        width += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    }
    return width;
}

static size_t bytes_of_width(const struct text *line, unsigned width) {
    size_t size = line->size;
    while (width_of(line->bytes, size) > width) {
        size--;
    }
    return size;
}

/* Show `line` in place of the open one. A line that is left open is cut to the terminal's width,
 * since a wrapped one could not be overwritten; a final one is shown whole. */
static void emit_in_place(struct progress *progress, struct text *line, bool final) {
    struct text shown = {0};
    if (!line->failed && line->size > 0) {
        unsigned room = progress->columns > 1 ? progress->columns - 1 : 1;
        size_t size = final ? line->size : bytes_of_width(line, room);
        unsigned width = width_of(line->bytes, size);
        text_printf(&shown, "\r");
        text_append(&shown, line->bytes, size);
        if (width < progress->line_width) {
            text_printf(&shown, "%*s", (int)(progress->line_width - width), "");
        }
        text_printf(&shown, "%s", final ? "\n" : "");
        progress->line_open = !final;
        progress->line_width = final ? 0 : width;
    }
    text_free(line);
    emit(progress, &shown);
}

void progress_finish(struct progress *progress) {
    if (progress->line_open) {
        struct text newline = {0};
        text_printf(&newline, "\n");
        emit(progress, &newline);
        progress->line_open = false;
        progress->line_width = 0;
    }
}

/* ---- begin -------------------------------------------------------------------------------- */

static enum progress_mode resolve_mode(FILE *out, enum progress_mode mode, uint64_t verbose) {
    const char *terminal = getenv("TERM");
    if (verbose == 0) {
        return PROGRESS_NONE;
    }
    if (mode == PROGRESS_AUTO) {
        bool dumb = terminal != NULL && strcmp(terminal, "dumb") == 0;
        mode = isatty(fileno(out)) && !dumb ? PROGRESS_BAR : PROGRESS_LINES;
    }
    return verbose >= 2 && mode == PROGRESS_BAR ? PROGRESS_LINES : mode;
}

void progress_init(struct progress *progress, FILE *out, enum progress_mode mode,
                   uint64_t verbose) {
    *progress = (struct progress){.out = out,
                                  .mode = resolve_mode(out, mode, verbose),
                                  .verbose = verbose,
                                  .columns = terminal_columns(out),
                                  .clock = clock_monotonic_seconds};
    progress->last_update = progress->mode == PROGRESS_LINES ? progress->clock() : 0.0;
}

void progress_epoch_begin(struct progress *progress, uint64_t epoch, uint64_t epochs,
                          uint64_t steps, uint64_t position) {
    progress->epoch = epoch;
    progress->epochs = epochs;
    progress->steps = steps;
    progress->first_step = position;
    progress->epoch_begin = progress->clock();
    /* The first bar comes at once, the first of the seldom lines after their interval. */
    progress->last_update = progress->mode == PROGRESS_BAR ? -INFINITY : progress->epoch_begin;
    progress->first_step_end = NAN;
    struct text line = {0};
    if (progress->mode == PROGRESS_BAR || progress->mode == PROGRESS_LINES) {
        progress_finish(progress);
        text_printf(&line, "Epoch %llu/%llu\n", (unsigned long long)epoch,
                    (unsigned long long)epochs);
    } else if (progress->mode == PROGRESS_JSON) {
        text_printf(
            &line,
            "{\"event\": \"epoch_begin\", \"epoch\": %llu, \"epochs\": %llu, \"steps\": %llu, "
            "\"position\": %llu}\n",
            (unsigned long long)epoch, (unsigned long long)epochs, (unsigned long long)steps,
            (unsigned long long)position);
    }
    emit(progress, &line);
}

/* ---- steps -------------------------------------------------------------------------------- */

/* Keras' estimate: without the first step, which is not like the others, once there are two. */
static double seconds_per_step(const struct progress *progress, uint64_t done, double now) {
    uint64_t steps = done > progress->first_step ? done - progress->first_step : 0;
    if (steps == 0) {
        return 0;
    }
    if (steps > 1 && !isnan(progress->first_step_end)) {
        return (now - progress->first_step_end) / (double)(steps - 1);
    }
    return (now - progress->epoch_begin) / (double)steps;
}

/* "125/625", the first number as wide as the second. */
static void append_count(struct text *line, uint64_t done, uint64_t total) {
    char digits[24];
    int width = snprintf(digits, sizeof digits, "%llu", (unsigned long long)total);
    text_printf(line, "%*llu/%s", width, (unsigned long long)done, digits);
}

static void append_bar(struct text *line, uint64_t done, uint64_t total) {
    double share = total > 0 ? (double)done / (double)total : 1;
    int filled = (int)(BAR_WIDTH * (share < 1 ? share : 1));
    for (int i = 0; i < BAR_WIDTH; i++) {
        text_printf(line, "%s", i < filled ? "\u2501" : "\u2500");
    }
}

static void append_metric(struct text *line, const char *name, double value) {
    char number[32];
    text_printf(line, " - %s: %s", name, progress_format_metric(value, number));
}

static void append_json_number(struct text *line, const char *name, double value) {
    text_printf(line, ", \"%s\": ", name);
    text_append_json_double(line, value);
}

static void step_json(struct progress *progress, uint64_t done, double loss, double accuracy,
                      uint64_t global_step, double per_step) {
    struct text line = {0};
    text_printf(
        &line,
        "{\"event\": \"step\", \"epoch\": %llu, \"done\": %llu, \"steps\": %llu, \"step\": %llu",
        (unsigned long long)progress->epoch, (unsigned long long)done,
        (unsigned long long)progress->steps, (unsigned long long)global_step);
    append_json_number(&line, "loss", loss);
    append_json_number(&line, "accuracy", accuracy);
    append_json_number(&line, "eta_seconds", per_step * (double)(progress->steps - done));
    append_json_number(&line, "ms_per_step", per_step * 1e3);
    text_printf(&line, "}\n");
    emit(progress, &line);
}

static bool update_is_due(const struct progress *progress, double now) {
    switch (progress->mode) {
    case PROGRESS_BAR:
        return now - progress->last_update >= bar_interval;
    case PROGRESS_LINES:
    case PROGRESS_JSON:
        return progress->verbose < 2 && now - progress->last_update >= lines_interval;
    default:
        return false;
    }
}

void progress_step(struct progress *progress, uint64_t done, double loss, double accuracy,
                   uint64_t global_step) {
    double now = progress->clock();
    double per_step = seconds_per_step(progress, done, now);
    if (done == progress->first_step + 1) {
        progress->first_step_end = now;
    }
    if (!update_is_due(progress, now)) {
        return;
    }
    progress->last_update = now;
    if (progress->mode == PROGRESS_JSON) {
        step_json(progress, done, loss, accuracy, global_step, per_step);
        return;
    }
    char eta[32], step[32];
    struct text line = {0};
    uint64_t left = progress->steps > done ? progress->steps - done : 0;
    progress_format_eta(per_step * (double)left, eta);
    progress_format_per_step(per_step, step);
    append_count(&line, done, progress->steps);
    if (progress->mode == PROGRESS_BAR) {
        text_printf(&line, " ");
        append_bar(&line, done, progress->steps);
        text_printf(&line, " %s %s/step", eta, step);
    } else {
        text_printf(&line, " - ETA: %s - %s/step", eta, step);
    }
    append_metric(&line, "accuracy", accuracy);
    append_metric(&line, "loss", loss);
    if (progress->mode == PROGRESS_BAR) {
        emit_in_place(progress, &line, false);
    } else {
        text_printf(&line, "\n");
        emit(progress, &line);
    }
}

void progress_validation(struct progress *progress, uint64_t done, uint64_t total) {
    double now = progress->clock();
    if (!update_is_due(progress, now)) {
        return;
    }
    progress->last_update = now;
    struct text line = {0};
    if (progress->mode == PROGRESS_JSON) {
        text_printf(&line, "{\"event\": \"validation\", \"done\": %llu, \"total\": %llu}\n",
                    (unsigned long long)done, (unsigned long long)total);
        emit(progress, &line);
        return;
    }
    text_printf(&line, "Evaluating ");
    append_count(&line, done, total);
    if (progress->mode == PROGRESS_BAR) {
        text_printf(&line, " ");
        append_bar(&line, done, total);
        emit_in_place(progress, &line, false);
    } else {
        text_printf(&line, "\n");
        emit(progress, &line);
    }
}

/* ---- end of an epoch ---------------------------------------------------------------------- */

static void epoch_json(struct progress *progress, const struct epoch_row *row, bool has_validation,
                       uint64_t global_step, double seconds, double per_step) {
    struct text line = {0};
    text_printf(&line, "{\"event\": \"epoch\", \"epoch\": %llu, \"epochs\": %llu, \"step\": %llu",
                (unsigned long long)progress->epoch, (unsigned long long)progress->epochs,
                (unsigned long long)global_step);
    append_json_number(&line, "seconds", seconds);
    append_json_number(&line, "ms_per_step", per_step * 1e3);
    append_json_number(&line, "accuracy", row->accuracy);
    append_json_number(&line, "loss", row->loss);
    if (has_validation) {
        append_json_number(&line, "val_accuracy", row->val_accuracy);
        append_json_number(&line, "val_loss", row->val_loss);
    }
    text_printf(&line, "}\n");
    emit(progress, &line);
}

void progress_epoch_end(struct progress *progress, const struct epoch_row *row, bool has_validation,
                        uint64_t global_step) {
    double now = progress->clock();
    bool trained = progress->first_step < progress->steps;
    double seconds = trained ? now - progress->epoch_begin : 0.0;
    double per_step = seconds_per_step(progress, progress->steps, now);
    char step[32];
    struct text line = {0};
    if (progress->mode == PROGRESS_NONE) {
        return;
    }
    if (progress->mode == PROGRESS_JSON) {
        epoch_json(progress, row, has_validation, global_step, seconds, per_step);
        return;
    }
    progress_format_per_step(per_step, step);
    append_count(&line, progress->steps, progress->steps);
    if (progress->mode == PROGRESS_BAR) {
        text_printf(&line, " ");
        append_bar(&line, progress->steps, progress->steps);
    }
    if (trained) {
        const char *between = progress->mode == PROGRESS_BAR ? " " : " - ";
        text_printf(&line, "%s%.0fs%s%s/step", between, seconds, between, step);
    }
    append_metric(&line, "accuracy", row->accuracy);
    append_metric(&line, "loss", row->loss);
    if (has_validation) {
        append_metric(&line, "val_accuracy", row->val_accuracy);
        append_metric(&line, "val_loss", row->val_loss);
    }
    if (progress->mode == PROGRESS_BAR) {
        emit_in_place(progress, &line, true);
    } else {
        text_printf(&line, "\n");
        emit(progress, &line);
    }
}

/* ---- messages ----------------------------------------------------------------------------- */

/* `event` names it in json; `lead` stands before it elsewhere. */
static void say(struct progress *progress, const char *event, const char *lead, const char *format,
                va_list arguments) PRINTF_LIKE(4, 0);

static void say(struct progress *progress, const char *event, const char *lead, const char *format,
                va_list arguments) {
    char *message = NULL;
    struct text line = {0};
    int size = vasprintf(&message, format, arguments);
    if (size < 0) {
        return;
    }
    if (progress->mode == PROGRESS_JSON) {
        text_printf(&line, "{\"event\": \"%s\", \"text\": ", event);
        text_append_json(&line, message, (size_t)size);
        text_printf(&line, "}\n");
    } else {
        progress_finish(progress);
        text_printf(&line, "%s%s\n", lead, message);
    }
    free(message);
    emit(progress, &line);
}

void progress_message(struct progress *progress, const char *format, ...) {
    va_list arguments;
    if (progress->mode == PROGRESS_NONE) {
        return;
    }
    va_start(arguments, format);
    say(progress, "message", "", format, arguments);
    va_end(arguments);
}

void progress_warning(struct progress *progress, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(progress, "warning", "Warning: ", format, arguments);
    va_end(arguments);
}
