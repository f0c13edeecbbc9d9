#include <stdio.h>

#include "host/cmd.h"
#include "host/corpus.h"
#include "host/output.h"

enum status cmd_vocabulary(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    CHECK(options->data[0] != '\0', err, STATUS_USAGE,
          "--data PATH is missing: expected a folder, a file, or the word demo");
    struct corpus_request request = {
        .files = &file_posix,
        .path = options->data,
        .validation_split = options->validation_split,
        .vocabulary_limit = options->vocabulary_size,
        .strip_html = options->strip_html,
    };
    struct vocabulary *vocabulary = NULL;
    struct text notes = {0};
    enum status status = corpus_learn_vocabulary(&request, &vocabulary, &notes, err);
    if (status == STATUS_OK && notes.size > 0) {
        fprintf(stderr, "Data: %s", notes.bytes);
    }
    text_free(&notes);
    TRY(status);
    size_t size;
    const char *text = vocabulary_text(vocabulary, &size);
    bool closed = false;
    status = output_write(text, size, &closed, err);
    if (status == STATUS_OK) {
        status = output_flush(&closed, err);
    }
    vocabulary_free(vocabulary);
    return status;
}
