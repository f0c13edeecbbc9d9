/* The state file `checkpoint`: TensorFlow's CheckpointState in protobuf text format.
 *
 *     model_checkpoint_path: "model.ckpt-200.safetensors.zst"
 *     all_model_checkpoint_paths: "model.ckpt-100.safetensors.zst"
 *     all_model_checkpoint_paths: "model.ckpt-200.safetensors.zst"
 *     all_model_checkpoint_timestamps: 1718000000.25
 *     all_model_checkpoint_timestamps: 1718000600.5
 *     last_preserved_timestamp: 1718000000.25
 *
 * People edit it, tools rewrite it, and it may come from elsewhere: it is parsed as untrusted text,
 * and a name that is not a ring name (a path, "..") makes it void. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/store.h"

struct parser {
    const char *at;
    const char *end;
    size_t line;
    struct error *err;
};

static enum status bad(const struct parser *parser, const char *what) {
    return error_set(parser->err, STATUS_DATA, "state file, line %zu: %s", parser->line, what);
}

/* ---- tokens ---- */

static void skip_space(struct parser *parser) {
    while (parser->at < parser->end) {
        char c = *parser->at;
        if (c == '#') {
            while (parser->at < parser->end && *parser->at != '\n') {
                parser->at++;
            }
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            parser->line += c == '\n';
            parser->at++;
        } else {
            return;
        }
    }
}

static bool accept(struct parser *parser, char c) {
    skip_space(parser);
    if (parser->at < parser->end && *parser->at == c) {
        parser->at++;
        return true;
    }
    return false;
}

/* A run of letters, digits and the characters in `more`; false when there is none or it is too
 * long. */
static bool take_word(struct parser *parser, const char *more, char *out, size_t capacity) {
    skip_space(parser);
    size_t size = 0;
    while (parser->at < parser->end && *parser->at != '\0' &&
           (isalnum((unsigned char)*parser->at) || strchr(more, *parser->at) != NULL)) {
        if (size + 1 >= capacity) {
            return false;
        }
        out[size++] = *parser->at++;
    }
    out[size] = '\0';
    return size > 0;
}

static int digit_value(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    int lower = tolower((unsigned char)c);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : 99;
}

/* Up to `most` digits of `base`; -1 when there is none. */
static int take_digits(struct parser *parser, int base, int most) {
    int value = -1;
    while (most-- > 0 && parser->at < parser->end && digit_value(*parser->at) < base) {
        value = (value < 0 ? 0 : value) * base + digit_value(*parser->at++);
    }
    return value;
}

/* The byte that an escape stands for, the backslash being read; -1 when it is not one. */
static int take_escape(struct parser *parser) {
    static const char letters[] = "abfnrtv\\'\"?", bytes[] = "\a\b\f\n\r\t\v\\'\"?";
    if (parser->at == parser->end || *parser->at == '\0') {
        return -1;
    }
    const char *letter = strchr(letters, *parser->at);
    if (letter != NULL) {
        parser->at++;
        return bytes[letter - letters];
    }
    int value;
    if (*parser->at == 'x' || *parser->at == 'X') {
        parser->at++;
        value = take_digits(parser, 16, 2);
    } else {
        value = take_digits(parser, 8, 3);
    }
    return value <= 255 ? value : -1;
}

/* One or more adjacent quoted strings. */
static enum status take_string(struct parser *parser, char *out, size_t capacity) {
    size_t size = 0;
    skip_space(parser);
    if (parser->at == parser->end || (*parser->at != '"' && *parser->at != '\'')) {
        return bad(parser, "expected a quoted file name");
    }
    while (parser->at < parser->end && (*parser->at == '"' || *parser->at == '\'')) {
        char quote = *parser->at++;
        while (parser->at < parser->end && *parser->at != quote && *parser->at != '\n') {
            int byte = (unsigned char)*parser->at++;
            if (byte == '\\') {
                byte = take_escape(parser);
            }
            if (byte <= 0) {
                return bad(parser, "a bad escape or a NUL byte in a file name");
            }
            if (size + 1 >= capacity) {
                return bad(parser, "a file name that is not a checkpoint's (too long)");
            }
            out[size++] = (char)byte;
        }
        if (parser->at == parser->end || *parser->at != quote) {
            return bad(parser, "a string without its closing quote");
        }
        parser->at++;
        skip_space(parser);
    }
    out[size] = '\0';
    return STATUS_OK;
}

/* ---- fields ---- */

static enum status parse_name(struct parser *parser, char out[64]) {
    uint64_t step;
    TRY(take_string(parser, out, 64));
    if (!store_parse_name(out, &step)) {
        return bad(parser, "a file name that is not model.ckpt-<step>.safetensors.zst");
    }
    return STATUS_OK;
}

static enum status parse_time(struct parser *parser, double *out) {
    char word[64];
    if (!take_word(parser, "+-.", word, sizeof word) || !text_parse_double(word, out) ||
        !isfinite(*out) || *out < 0) {
        return bad(parser, "expected a time in seconds");
    }
    return STATUS_OK;
}

static enum status append(struct parser *parser, void **items, size_t count, size_t item_bytes,
                          const void *item) {
    if ((count & (count - 1)) == 0) { /* full at every power of two */
        void *moved = realloc(*items, (count == 0 ? 1 : 2 * count) * item_bytes);
        CHECK(moved != NULL, parser->err, STATUS_MEMORY, "out of memory for the state file");
        *items = moved;
    }
    memcpy((char *)*items + count * item_bytes, item, item_bytes);
    return STATUS_OK;
}

static enum status parse_field(struct parser *parser, struct store_state *state, char newest[64],
                               size_t *time_count) {
    char field[64];
    if (!take_word(parser, "_", field, sizeof field) || !accept(parser, ':')) {
        return bad(parser, "expected `field: value`");
    }
    if (strcmp(field, "model_checkpoint_path") == 0) {
        TRY(parse_name(parser, newest));
    } else if (strcmp(field, "all_model_checkpoint_paths") == 0) {
        char name[64];
        TRY(parse_name(parser, name));
        TRY(append(parser, (void **)&state->names, state->count, sizeof name, name));
        state->count++;
    } else if (strcmp(field, "all_model_checkpoint_timestamps") == 0) {
        double time;
        TRY(parse_time(parser, &time));
        TRY(append(parser, (void **)&state->timestamps, *time_count, sizeof time, &time));
        (*time_count)++;
    } else if (strcmp(field, "last_preserved_timestamp") == 0) {
        TRY(parse_time(parser, &state->last_preserved));
    } else {
        return bad(parser, "a field that CheckpointState does not have");
    }
    if (!accept(parser, ',')) { /* the format allows either behind a value */
        (void)accept(parser, ';');
    }
    return STATUS_OK;
}

/* What holds between the fields. */
static enum status complete(struct parser *parser, struct store_state *state, const char *newest,
                            size_t time_count) {
    if (newest[0] == '\0') {
        return bad(parser, "model_checkpoint_path is missing");
    }
    if (time_count != 0 && time_count != state->count) {
        return bad(parser, "not as many timestamps as paths");
    }
    if (state->count == 0) {
        TRY(append(parser, (void **)&state->names, 0, sizeof *state->names, newest));
        state->count = 1;
    }
    if (time_count == 0) {
        free(state->timestamps);
        state->timestamps = calloc(state->count, sizeof *state->timestamps);
        CHECK(state->timestamps != NULL, parser->err, STATUS_MEMORY,
              "out of memory for the state file");
    }
    return STATUS_OK;
}

enum status store_state_parse(const char *text, size_t size, struct store_state *out,
                              struct error *err) {
    *out = (struct store_state){0};
    struct parser parser = {.at = text, .end = text + size, .line = 1, .err = err};
    char newest[64] = "";
    size_t time_count = 0;
    enum status status = STATUS_OK;
    if (size > STORE_STATE_BYTES_MAX) {
        status = bad(&parser, "larger than any state file");
    }
    skip_space(&parser);
    while (status == STATUS_OK && parser.at < parser.end) {
        status = parse_field(&parser, out, newest, &time_count);
        skip_space(&parser);
    }
    if (status == STATUS_OK) {
        status = complete(&parser, out, newest, time_count);
    }
    if (status != STATUS_OK) {
        store_state_free(out);
    }
    return status;
}

enum status store_state_read(const struct file_table *files, const char *directory,
                             struct store_state *out, struct error *err) {
    *out = (struct store_state){0};
    char path[FILE_PATH_CAPACITY];
    CHECK(file_join_path(path, sizeof path, directory, STORE_STATE_FILE), err, STATUS_INPUT,
          "the path of the model directory is too long");
    uint8_t *bytes;
    size_t size;
    TRY(file_read_all(files, path, STORE_STATE_BYTES_MAX, &bytes, &size, err));
    enum status status = store_state_parse((const char *)bytes, size, out, err);
    free(bytes);
    return status == STATUS_OK ? status : error_prefix(err, status, "%s", path);
}

void store_state_free(struct store_state *state) {
    free(state->names);
    free(state->timestamps);
    *state = (struct store_state){0};
}

/* ---- writing ---- */

static void append_time(struct text *out, const char *field, double value) {
    text_printf(out, "%s: ", field);
    text_append_shortest_double(out, value);
    text_append(out, "\n", 1);
}

/* Ring names need no escapes. */
void store_state_format(const struct store_state *state, struct text *out) {
    text_printf(out, "model_checkpoint_path: \"%s\"\n", state->names[state->count - 1]);
    for (size_t i = 0; i < state->count; i++) {
        text_printf(out, "all_model_checkpoint_paths: \"%s\"\n", state->names[i]);
    }
    for (size_t i = 0; i < state->count; i++) {
        append_time(out, "all_model_checkpoint_timestamps", state->timestamps[i]);
    }
    if (state->last_preserved > 0) {
        append_time(out, "last_preserved_timestamp", state->last_preserved);
    }
}
