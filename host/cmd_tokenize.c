/* cmd_tokenize.c - texts in, token ids out: what a model sees of a text. */
#include <stdio.h>

#include "host/cmd.h"
#include "host/loading.h"
#include "host/output.h"
#include "host/texts.h"

struct tokenize {
    struct vocabulary *vocabulary;
    struct tokenizer tokenizer;
    uint64_t max_length;
    struct text line; /* the answer being written */
};

/* Vocabulary and rules: the checkpoint's where one is named, else --vocabulary. Flags that were
 * given go before the checkpoint's rules, so that their effect can be looked at. */
static enum status open_rules(const struct options *options, struct tokenize *out,
                              struct error *err) {
    bool from_checkpoint = options->model_dir[0] != '\0' || options_given(options, "checkpoint");
    bool strip_html = options->strip_html;
    out->max_length = options->max_length;
    if (from_checkpoint) {
        struct loaded loaded = {0};
        TRY(loading_open(options, &loaded, err));
        out->vocabulary = loaded.vocabulary;
        loaded.vocabulary = NULL; /* ours now */
        if (!options_given(options, "max-length")) {
            out->max_length = loaded.rules.max_length;
        }
        if (!options_given(options, "strip-html")) {
            strip_html = loaded.rules.strip_html;
        }
        loading_close(&loaded);
    } else {
        CHECK(options->vocabulary[0] != '\0', err, STATUS_USAGE,
              "no vocabulary: expected --vocabulary FILE (one token a line), --model-dir DIR or "
              "--checkpoint FILE");
        TRY(vocabulary_load(&file_posix, options->vocabulary, &out->vocabulary, err));
    }
    tokenizer_init(&out->tokenizer, strip_html);
    return STATUS_OK;
}

/* "12 1 7\n" for a text; just the newline for one without tokens. */
static enum status write_ids(struct tokenize *tokenize, const struct text_item *text, bool *closed,
                             struct error *err) {
    struct text *line = &tokenize->line;
    text_clear(line);
    TRY(tokenizer_start(&tokenize->tokenizer, text->bytes, text->size, err));
    struct token token;
    uint64_t left = tokenize->max_length == 0 ? UINT64_MAX : tokenize->max_length;
    while (left-- > 0 && tokenizer_next(&tokenize->tokenizer, &token)) {
        text_printf(line, "%s%u", line->size > 0 ? " " : "",
                    vocabulary_lookup(tokenize->vocabulary, token.bytes, token.size));
    }
    text_append(line, "\n", 1);
    CHECK(!line->failed, err, STATUS_MEMORY, "no memory for the ids of line %llu",
          (unsigned long long)text->line);
    return output_write(line->bytes, line->size, closed, err);
}

static enum status answer_all(struct tokenize *tokenize, struct texts *texts, struct error *err) {
    bool closed = false;
    while (!closed) {
        if (texts_would_wait(texts)) {
            TRY(output_flush(&closed, err));
        }
        struct text_item text;
        TRY(texts_next(texts, &text, err));
        if (text.bytes == NULL) {
            break;
        }
        TRY(write_ids(tokenize, &text, &closed, err));
    }
    return output_flush(&closed, err);
}

enum status cmd_tokenize(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    struct tokenize tokenize = {0};
    TRY(open_rules(options, &tokenize, err));
    struct texts texts;
    enum status status = texts_open(&file_posix, options->file, options->input_format, &texts, err);
    if (status == STATUS_OK) {
        status = answer_all(&tokenize, &texts, err);
    }
    texts_close(&texts);
    tokenizer_deinit(&tokenize.tokenizer);
    vocabulary_free(tokenize.vocabulary);
    text_free(&tokenize.line);
    return status;
}
