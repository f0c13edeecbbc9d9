#include "host/run_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* 138369 as "138,369". */
static const char *with_commas(uint64_t value, char out[32]) {
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%" PRIu64, value), used = 0;
    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0) {
            out[used++] = ',';
        }
        out[used++] = digits[i];
    }
    out[used] = '\0';
    return out;
}

void run_header_model(struct progress *progress, const struct model_shape *shape) {
    uint64_t v = shape->vocabulary, e = shape->embedding, h = shape->hidden, d = shape->dense;
    const struct {
        const char *name, *kind;
        uint64_t width, parameters;
    } layers[] = {
        {"embedding", "Embedding", e, v * e},
        {"lstm", "Bidirectional LSTM", 2 * h, 2 * (4 * h * e + 4 * h * h + 4 * h)},
        {"dense", "Dense, ReLU", d, 2 * h * d + d},
        {"output", "Dense", 1, d + 1},
    };
    uint64_t total = 0;
    progress_message(progress, "%-12s %-20s %12s %12s", "Layer", "Type", "Output", "Parameters");
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        char shape_text[40], number[32];
        snprintf(shape_text, sizeof shape_text, i == 0 ? "(tokens, %" PRIu64 ")" : "(%" PRIu64 ")",
                 layers[i].width);
        progress_message(progress, "%-12s %-20s %12s %12s", layers[i].name, layers[i].kind,
                         shape_text, with_commas(layers[i].parameters, number));
        total += layers[i].parameters;
    }
    char number[32];
    progress_message(progress, "Total parameters: %s", with_commas(total, number));
}

static void print_corpus(struct progress *progress, const char *name, const struct corpus *corpus) {
    char examples[32], tokens[32];
    progress_message(progress, "%s: %s examples, %s tokens (longest %" PRIu32 ", %.1f %% unknown)",
                     name, with_commas(corpus->examples, examples),
                     with_commas(corpus->token_count, tokens), corpus->longest,
                     corpus->token_count > 0
                         ? 100.0 * (double)corpus->unknown_tokens / (double)corpus->token_count
                         : 0.0);
}

/* Notes come as lines; each becomes a message of its own. */
static void print_notes(struct progress *progress, const struct text *notes) {
    const char *at = notes->bytes, *end = at != NULL ? at + notes->size : NULL;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end;
        if (stop > at) {
            progress_message(progress, "Data: %.*s", (int)(stop - at), at);
        }
        at = stop + 1;
    }
}

static void print_resume(struct progress *progress, const struct resume *resume) {
    if (resume->checkpoint == NULL) {
        progress_message(progress, "A new run.");
        return;
    }
    const struct run_state *state = &resume->state;
    const char *created = checkpoint_metadata(resume->checkpoint, "created");
    progress_message(progress,
                     "Resumed from %s: step %" PRId64 ", epoch %" PRId64 ", batch %" PRId64
                     "%s; saved %s",
                     resume->path, state->step, state->epoch + 1, state->position,
                     state->phase == RUN_EPOCH_END ? " (validation to come)" : "",
                     created != NULL ? created : "at an unknown time");
}

void run_header_print(struct progress *progress, const struct options *options,
                      const struct corpora *corpora, uint32_t vocabulary_entries,
                      const struct backend *be, const struct resume *resume) {
    print_notes(progress, &corpora->notes);
    print_corpus(progress, "Training data", &corpora->train);
    if (corpora->validation.examples > 0) {
        print_corpus(progress, "Validation data", &corpora->validation);
    }
    progress_message(progress, "Vocabulary: %" PRIu32 " entries; labels: 0 = %s, 1 = %s",
                     vocabulary_entries, corpora->label_names[0], corpora->label_names[1]);
    struct model_shape shape = {vocabulary_entries, (uint32_t)options->embedding_size,
                                (uint32_t)options->hidden_size, (uint32_t)options->dense_size};
    run_header_model(progress, &shape);
    progress_message(progress, "Device: %s", be->description);
    char every[64];
    if (options->save_checkpoints_steps > 0) {
        snprintf(every, sizeof every, "every %" PRIu64 " steps", options->save_checkpoints_steps);
    } else if (options->save_checkpoints_secs > 0.0) {
        snprintf(every, sizeof every, "every %g s", options->save_checkpoints_secs);
    } else {
        snprintf(every, sizeof every, "at the beginning and the end only");
    }
    progress_message(progress, "Checkpoints: %s, %s", options->model_dir, every);
    print_resume(progress, resume);
}
