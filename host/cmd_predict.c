/* cmd_predict.c - texts in, one answer a line out, in the same order.
 *
 * Texts are collected into chunks, because kernels like many sequences of similar length at once,
 * and a chunk is answered when it is full, when the input ends, or when a pipe or a person waits
 * for the answer. Memory is that of one chunk, however long the input.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/cmd.h"
#include "host/corpus.h"
#include "host/evaluator.h"
#include "host/loading.h"
#include "host/output.h"
#include "host/texts.h"

enum {
    CHUNK_TEXTS = 4096,
    CHUNK_TEXT_BYTES = 8 << 20,
    CHUNK_TOKENS = 1 << 20,
    BATCH_TOKENS = 1 << 17 /* of a forward pass, unless one text is longer */
};

struct chunk {
    struct text texts; /* all bytes, one after the other */
    size_t text_end[CHUNK_TEXTS];
    uint32_t *tokens;
    size_t token_count, token_capacity;
    uint64_t first[CHUNK_TEXTS + 1];
    uint8_t labels[CHUNK_TEXTS]; /* none are known: zero */
    float logits[CHUNK_TEXTS];
    size_t count;
};

struct predict {
    const struct options *options;
    struct loaded loaded;
    struct backend *be;
    struct model *model;
    struct tokenizer tokenizer;
    struct chunk chunk;
    struct text line;
    bool answers_at_once; /* the input is a pipe or a terminal */
    char names[2][DATASET_LABEL_CAPACITY];
};

/* ---- collecting ------------------------------------------------------------------------------ */

static enum status append_token(struct chunk *chunk, uint32_t id, struct error *err) {
    if (chunk->token_count == chunk->token_capacity) {
        size_t capacity = chunk->token_capacity == 0 ? 1 << 16 : chunk->token_capacity * 2;
        uint32_t *tokens = realloc(chunk->tokens, capacity * sizeof *tokens);
        CHECK(tokens != NULL, err, STATUS_MEMORY, "no memory for %zu tokens", capacity);
        chunk->tokens = tokens;
        chunk->token_capacity = capacity;
    }
    chunk->tokens[chunk->token_count++] = id;
    return STATUS_OK;
}

static enum status collect(struct predict *predict, const struct text_item *text,
                           struct error *err) {
    struct chunk *chunk = &predict->chunk;
    uint64_t max_length = predict->loaded.rules.max_length;
    uint64_t left = max_length == 0 ? UINT64_MAX : max_length;
    TRY(tokenizer_start(&predict->tokenizer, text->bytes, text->size, err));
    struct token token;
    while (left-- > 0 && tokenizer_next(&predict->tokenizer, &token)) {
        TRY(append_token(
            chunk, vocabulary_lookup(predict->loaded.vocabulary, token.bytes, token.size), err));
    }
    if (predict->options->format == OUTPUT_TSV) {
        text_append(&chunk->texts, text->bytes, text->size);
        CHECK(!chunk->texts.failed, err, STATUS_MEMORY, "no memory for the text of line %llu",
              (unsigned long long)text->line);
    }
    chunk->text_end[chunk->count++] = chunk->texts.size;
    chunk->first[chunk->count] = chunk->token_count;
    return STATUS_OK;
}

static bool is_full(const struct chunk *chunk) {
    return chunk->count == CHUNK_TEXTS || chunk->texts.size >= CHUNK_TEXT_BYTES ||
           chunk->token_count >= CHUNK_TOKENS;
}

/* ---- asking the model ------------------------------------------------------------------------ */

/* A model with room for the longest text of the chunk: nearly always the first one stays, and a
 * device's memory need not hold the longest text that could be. */
static enum status make_room(struct predict *predict, struct error *err) {
    const struct chunk *chunk = &predict->chunk;
    uint64_t longest = BATCH_TOKENS;
    for (size_t i = 0; i < chunk->count; i++) {
        uint64_t length = chunk->first[i + 1] - chunk->first[i];
        longest = length > longest ? length : longest;
    }
    if (predict->model != NULL && longest <= predict->model->options.limits.longest) {
        return STATUS_OK;
    }
    model_free(predict->model);
    predict->model = NULL;
    struct batch_limits limits = {
        .sequences = EVALUATOR_BATCH, .total_tokens = longest, .longest = (uint32_t)longest};
    return loading_create_model(&predict->loaded, predict->be, &limits, &predict->model, err);
}

/* The logits of the chunk's texts, by length in batches, put back in input order. */
static enum status compute_logits(struct predict *predict, struct error *err) {
    struct chunk *chunk = &predict->chunk;
    struct corpus corpus = {
        .tokens = chunk->tokens,
        .token_bytes = sizeof *chunk->tokens,
        .token_count = chunk->token_count,
        .first = chunk->first,
        .labels = chunk->labels,
        .examples = chunk->count,
    };
    struct evaluator *evaluator;
    TRY(make_room(predict, err));
    TRY(evaluator_create(predict->model, &corpus, chunk->count, &evaluator, err));
    enum status status = evaluator_logits(evaluator, chunk->logits, err);
    evaluator_free(evaluator);
    return status;
}

/* ---- answering ------------------------------------------------------------------------------- */

static double probability(float logit) {
    return 1.0 / (1.0 + exp(-(double)logit));
}

/* A text from JSON may hold line ends, which would break the promise of one line a text. */
static void append_one_line(struct text *line, const char *bytes, size_t size) {
    size_t begin = line->size;
    text_append(line, bytes, size);
    for (size_t i = begin; !line->failed && i < line->size; i++) {
        if (line->bytes[i] == '\n' || line->bytes[i] == '\r') {
            line->bytes[i] = ' ';
        }
    }
}

static void format_answer(struct predict *predict, size_t index) {
    const struct chunk *chunk = &predict->chunk;
    float logit = chunk->logits[index];
    const char *name = predict->names[logit > 0.0f ? 1 : 0];
    struct text *line = &predict->line;
    text_clear(line);
    if (predict->options->format == OUTPUT_JSONL) {
        text_printf(line, "{\"label\":");
        text_append_json(line, name, strlen(name));
        text_printf(line, ",\"probability\":");
        text_append_json_double(line, probability(logit));
        text_printf(line, ",\"logit\":");
        text_append_json_double(line, (double)logit);
        text_printf(line, "}\n");
        return;
    }
    size_t begin = index > 0 ? chunk->text_end[index - 1] : 0;
    text_printf(line, "%s\t%.6f\t", name, probability(logit));
    append_one_line(line, chunk->texts.size > 0 ? chunk->texts.bytes + begin : "",
                    chunk->text_end[index] - begin);
    text_append(line, "\n", 1);
}

static enum status answer_chunk(struct predict *predict, bool *closed, struct error *err) {
    struct chunk *chunk = &predict->chunk;
    if (chunk->count == 0) {
        return STATUS_OK;
    }
    TRY(compute_logits(predict, err));
    for (size_t i = 0; i < chunk->count && !*closed; i++) {
        format_answer(predict, i);
        CHECK(!predict->line.failed, err, STATUS_MEMORY, "no memory for an answer");
        TRY(output_write(predict->line.bytes, predict->line.size, closed, err));
    }
    text_clear(&chunk->texts);
    chunk->count = 0;
    chunk->token_count = 0;
    return output_flush(closed, err);
}

static enum status answer_all(struct predict *predict, struct texts *texts, struct error *err) {
    bool closed = false;
    while (!closed) {
        if (is_full(&predict->chunk) || (predict->answers_at_once && texts_would_wait(texts))) {
            TRY(answer_chunk(predict, &closed, err));
        }
        struct text_item text;
        enum status status = texts_next(texts, &text, err);
        if (status == STATUS_DATA) { /* what came before the bad line is answered */
            TRY(answer_chunk(predict, &closed, NULL));
        }
        TRY(status);
        if (text.bytes == NULL) {
            return answer_chunk(predict, &closed, err);
        }
        TRY(collect(predict, &text, err));
    }
    return STATUS_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* neg and pos are shown as words; other names as they are in the data. */
static void choose_names(struct predict *predict) {
    char(*names)[DATASET_LABEL_CAPACITY] = predict->loaded.rules.label_names;
    bool words = strcasecmp(names[0], "neg") == 0 && strcasecmp(names[1], "pos") == 0;
    snprintf(predict->names[0], sizeof predict->names[0], "%s", words ? "Negative" : names[0]);
    snprintf(predict->names[1], sizeof predict->names[1], "%s", words ? "Positive" : names[1]);
}

/* A regular file is there as a whole; whoever writes into a pipe may wait for our answer. */
static bool is_regular(const char *path) {
    struct stat info;
    bool standard_input = path[0] == '\0' || strcmp(path, "-") == 0;
    int result = standard_input ? fstat(STDIN_FILENO, &info) : stat(path, &info);
    return result == 0 && S_ISREG(info.st_mode);
}

static enum status predict_open(struct predict *predict, struct error *err) {
    TRY(loading_open(predict->options, &predict->loaded, err));
    TRY(loading_create_backend(predict->options, predict->loaded.shape.hidden, &predict->be, err));
    tokenizer_init(&predict->tokenizer, predict->loaded.rules.strip_html);
    choose_names(predict);
    predict->answers_at_once = !is_regular(predict->options->file);
    /* Made before the first text is read, so that a checkpoint that does not fit says so at once. */
    return make_room(predict, err);
}

static void predict_close(struct predict *predict) {
    model_free(predict->model);
    tokenizer_deinit(&predict->tokenizer);
    loading_close(&predict->loaded);
    if (predict->be != NULL) {
        predict->be->table->free(predict->be);
    }
    text_free(&predict->chunk.texts);
    text_free(&predict->line);
    free(predict->chunk.tokens);
    free(predict);
}

enum status cmd_predict(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    struct predict *predict = calloc(1, sizeof *predict);
    CHECK(predict != NULL, err, STATUS_MEMORY, "no memory for the command");
    predict->options = options;
    enum status status = predict_open(predict, err);
    if (status == STATUS_OK) {
        struct texts texts;
        status = texts_open(&file_posix, options->file, options->input_format, &texts, err);
        if (status == STATUS_OK) {
            status = answer_all(predict, &texts, err);
        }
        texts_close(&texts);
    }
    predict_close(predict);
    return status;
}
