/* options_config.c - "name = value" in INI files, read with inih.
 *
 * inih reads a value up to a ';' behind white space, drops white space at both ends, and takes
 * lines of at most 199 bytes. So that every value can be written, one may be quoted: between double
 * quotes, \" \\ and \xHH stand for a quote, a backslash and any byte; a quoted piece with a
 * backslash behind it is continued by the quoted piece on the next line, which is indented. Other
 * indented lines, section headings, NUL bytes and longer lines are errors: nothing is skipped or
 * cut silently. */
#include <ctype.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "host/options_table.h"

enum { PIECE_BYTES = 120, LINE_BYTES = 190 };

struct reading {
    const char *at, *end; /* what inih has not been given yet */
    const char *where;
    config_entry entry;
    void *user;
    struct error *err;
    int line;           /* of the line that inih holds, from 1 */
    bool indented;      /* that line starts with white space */
    bool continued;     /* the value so far ends with a backslash */
    int continued_line; /* where */
    char name[64];      /* whose value that is */
    struct text value;
    enum status status; /* the first failure ends it all */
};

/* ---- reading ------------------------------------------------------------------------------ */

static int fail(struct reading *reading, int line, const char *what) {
    if (reading->status == STATUS_OK) {
        reading->status =
            error_set(reading->err, STATUS_CONFIG, "%s:%d: %s", reading->where, line, what);
    }
    return 0;
}

/* inih's fgets. */
static char *next_line(char *buffer, int capacity, void *user) {
    struct reading *reading = user;
    if (reading->at == reading->end || reading->status != STATUS_OK) {
        return NULL;
    }
    const char *newline = memchr(reading->at, '\n', (size_t)(reading->end - reading->at));
    const char *next = newline == NULL ? reading->end : newline + 1;
    size_t size = (size_t)(next - reading->at);
    reading->line++;
    if (size >= (size_t)capacity) {
        fail(reading, reading->line,
             "the line is too long; continue it: name = \"first part\"\\ and on the next line, "
             "indented, \"second part\"");
        return NULL;
    }
    if (memchr(reading->at, '\0', size) != NULL) {
        fail(reading, reading->line, "a NUL byte; the file must be text");
        return NULL;
    }
    memcpy(buffer, reading->at, size);
    buffer[size] = '\0';
    reading->indented = isspace((unsigned char)buffer[0]) != 0;
    reading->at = next;
    return buffer;
}

static int hex_digit(char c) {
    return isdigit((unsigned char)c)    ? c - '0'
           : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10
                                        : -1;
}

/* The escape behind the backslash at `at` goes to `out`; returns what follows it, NULL if it is
 * none. */
static const char *append_escape(const char *at, struct text *out) {
    char byte = at[1];
    if (byte == '"' || byte == '\\') {
        text_append(out, &byte, 1);
        return at + 2;
    }
    if (byte != 'x' || hex_digit(at[2]) < 0 || hex_digit(at[3]) < 0) {
        return NULL;
    }
    byte = (char)(hex_digit(at[2]) * 16 + hex_digit(at[3]));
    if (byte == '\0') {
        return NULL;
    }
    text_append(out, &byte, 1);
    return at + 4;
}

/* One quoted piece, from its first quote; *continued tells of a backslash behind it. False when it
 * is none. */
static bool append_quoted(const char *at, struct text *out, bool *continued) {
    for (at++; at != NULL && *at != '"';) {
        if (*at == '\0') {
            return false;
        }
        if (*at == '\\') {
            at = append_escape(at, out);
        } else {
            text_append(out, at++, 1);
        }
    }
    *continued = at != NULL && at[1] == '\\';
    return at != NULL && at[*continued ? 2 : 1] == '\0';
}

static int finish_entry(struct reading *reading, int line) {
    struct error detail;
    text_append(&reading->value, "", 0);
    if (reading->value.failed) {
        reading->status = error_set(reading->err, STATUS_MEMORY, "out of memory for an option");
        return 0;
    }
    enum status status =
        reading->entry(reading->user, reading->name, reading->value.bytes, &detail);
    if (status != STATUS_OK) {
        reading->status =
            error_set(reading->err, status, "%s:%d: %.900s", reading->where, line, detail.message);
    }
    return status == STATUS_OK;
}

/* inih's handler: called for each "name = value" and, with the name above, for each indented line.
 */
static int take_value(void *user, const char *section, const char *name, const char *value) {
    struct reading *reading = user;
    int line = reading->line;
    if (reading->status != STATUS_OK) {
        return 0;
    }
    if (section[0] != '\0') {
        return fail(reading, line, "options stand in no section; remove the [heading] above");
    }
    if (reading->continued != reading->indented) {
        return fail(reading, reading->continued ? reading->continued_line : line,
                    reading->continued
                        ? "a backslash at the end, but the next line is not indented"
                        : "an indented line belongs to the one above; remove the white space");
    }
    if (!reading->continued) {
        text_clear(&reading->value);
        snprintf(reading->name, sizeof reading->name, "%s", name);
        reading->continued_line = line;
    }
    reading->continued = false;
    if (value[0] == '"') {
        if (!append_quoted(value, &reading->value, &reading->continued)) {
            return fail(reading, line,
                        "a quoted value ends with a quote and knows only \\\", \\\\ and \\xHH "
                        "(write ; as \\x3b)");
        }
    } else if (reading->indented) {
        return fail(reading, line, "a continued value must be quoted");
    } else {
        text_append(&reading->value, value, strlen(value));
    }
    return reading->continued ? 1 : finish_entry(reading, reading->continued_line);
}

enum status options_config_read(const char *bytes, size_t size, const char *where,
                                config_entry entry, void *user, struct error *err) {
    struct reading reading = {
        .at = bytes, .end = bytes + size, .where = where, .entry = entry, .user = user, .err = err};
    int line = ini_parse_stream(next_line, &reading, take_value, &reading);
    if (line > 0) {
        fail(&reading, line, "expected name = value");
    } else if (line < 0 && reading.status == STATUS_OK) {
        reading.status = error_set(err, STATUS_MEMORY, "out of memory for %s", where);
    }
    if (reading.continued) {
        fail(&reading, reading.continued_line, "a backslash at the end, but nothing follows");
    }
    text_free(&reading.value);
    return reading.status;
}

/* ---- writing ------------------------------------------------------------------------------ */

static bool is_plain(const char *name, const char *value) {
    size_t size = strlen(value);
    if (size == 0) {
        return true;
    }
    for (size_t i = 0; i < size; i++) {
        if (iscntrl((unsigned char)value[i]) || value[i] == ';') {
            return false;
        }
    }
    return value[0] != '"' && value[0] != ' ' && value[size - 1] != ' ' &&
           strlen(name) + size + 3 <= LINE_BYTES;
}

void options_config_write(struct text *out, const char *name, const char *value) {
    if (is_plain(name, value)) {
        text_printf(out, value[0] == '\0' ? "%s =%s\n" : "%s = %s\n", name, value);
        return;
    }
    text_printf(out, "%s = \"", name);
    size_t piece = 0;
    for (const char *at = value; *at != '\0'; at++) {
        if (piece >= PIECE_BYTES) {
            text_printf(out, "\"\\\n    \"");
            piece = 0;
        }
        if (*at == '"' || *at == '\\') {
            text_printf(out, "\\%c", *at);
            piece += 2;
        } else if (iscntrl((unsigned char)*at) || *at == ';') {
            text_printf(out, "\\x%02x", (unsigned)(unsigned char)*at);
            piece += 4;
        } else {
            text_append(out, at, 1);
            piece++;
        }
    }
    text_printf(out, "\"\n");
}
