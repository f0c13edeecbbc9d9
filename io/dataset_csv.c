/* dataset_csv.c - comma-separated (RFC 4180) and tab-separated files with a header that names the
 * columns `text` and `label`.
 *
 * A field in quotes may hold separators, line ends and doubled quotes. Quotes elsewhere are an
 * error: a file that has them was made by other rules, and guessing would shift fields. Blank lines
 * are allowed at the end of the file only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "io/dataset_readers.h"
#include "io/lines.h"

struct csv {
    struct dataset *dataset;
    struct lines lines;
    char separator;

    /* the record read last */
    struct text bytes; /* its fields, one behind the other */
    size_t *field_end; /* [field_capacity] where each ends in `bytes` */
    size_t field_count, field_capacity;
    uint64_t record_line; /* where it starts */
    bool at_end;          /* there was none */

    /* from the header */
    size_t column_count, text_column, label_column;
};

/* ---- records ---- */

static enum status end_field(struct csv *csv, struct error *err) {
    if (csv->field_count == csv->field_capacity) {
        size_t capacity = csv->field_capacity == 0 ? 16 : csv->field_capacity * 2;
        size_t *field_end = realloc(csv->field_end, capacity * sizeof *field_end);
        CHECK(field_end != NULL, err, STATUS_MEMORY, "no memory to read %s", csv->dataset->path);
        csv->field_end = field_end;
        csv->field_capacity = capacity;
    }
    csv->field_end[csv->field_count++] = csv->bytes.size;
    return STATUS_OK;
}

/* Take the rest of a quoted field, over as many lines as it has. `*at` is behind the opening quote,
 * and behind the closing one afterwards; `line` may become a later line. */
static enum status take_quoted(struct csv *csv, struct line *line, size_t *at, struct error *err) {
    const char *path = csv->dataset->path;
    uint64_t opened = line->number;
    for (;;) {
        const char *from = line->bytes + *at;
        const char *quote = memchr(from, '"', line->size - *at);
        size_t plain = quote != NULL ? (size_t)(quote - from) : line->size - *at;
        text_append(&csv->bytes, from, plain);
        CHECK(csv->bytes.size <= DATASET_TEXT_BYTES_MAX, err, STATUS_DATA,
              "%s: line %llu: the quoted field that starts here is longer than %d bytes (16 MiB): "
              "expected a closing quote before",
              path, (unsigned long long)opened, DATASET_TEXT_BYTES_MAX);
        *at += plain;
        if (quote != NULL && *at + 1 < line->size && quote[1] == '"') {
            text_append(&csv->bytes, "\"", 1);
            *at += 2;
            continue;
        }
        if (quote != NULL) {
            *at += 1;
            return STATUS_OK;
        }
        text_append(&csv->bytes, line->bytes + line->size, line->ending_size);
        TRY(lines_next(&csv->lines, line, err));
        CHECK(line->bytes != NULL, err, STATUS_DATA,
              "%s: line %llu: the quote that opens here is never closed: expected a closing quote",
              path, (unsigned long long)opened);
        *at = 0;
    }
}

static enum status take_unquoted(struct csv *csv, const struct line *line, size_t *at,
                                 struct error *err) {
    const char *from = line->bytes + *at;
    size_t rest = line->size - *at;
    const char *separator = memchr(from, csv->separator, rest);
    size_t size = separator != NULL ? (size_t)(separator - from) : rest;
    CHECK(
        memchr(from, '"', size) == NULL, err, STATUS_DATA,
        "%s: line %llu, field %zu: a quote inside a field without quotes: expected the whole field "
        "in quotes, quotes inside it doubled",
        csv->dataset->path, (unsigned long long)line->number, csv->field_count + 1);
    text_append(&csv->bytes, from, size);
    *at += size;
    return STATUS_OK;
}

/* The fields of a record that starts with `line`. */
static enum status parse_record(struct csv *csv, struct line line, struct error *err) {
    text_clear(&csv->bytes);
    csv->field_count = 0;
    csv->record_line = line.number;
    for (size_t at = 0;; at++) {
        if (at < line.size && line.bytes[at] == '"') {
            at++;
            TRY(take_quoted(csv, &line, &at, err));
        } else {
            TRY(take_unquoted(csv, &line, &at, err));
        }
        TRY(end_field(csv, err));
        if (at == line.size) {
            CHECK(!csv->bytes.failed, err, STATUS_MEMORY, "no memory to read %s",
                  csv->dataset->path);
            return STATUS_OK;
        }
        CHECK(line.bytes[at] == csv->separator, err, STATUS_DATA,
              "%s: line %llu, field %zu: text behind a closing quote: expected a %s or the end of "
              "the "
              "line (a quote inside a field is written twice)",
              csv->dataset->path, (unsigned long long)line.number, csv->field_count,
              csv->separator == ',' ? "comma" : "tab");
    }
}

/* The next record into csv; at_end when only blank lines, or none, are left. */
static enum status next_record(struct csv *csv, struct error *err) {
    struct line line;
    uint64_t blank = 0;
    do {
        TRY(lines_next(&csv->lines, &line, err));
        csv->at_end = line.bytes == NULL;
        if (!csv->at_end && line.size == 0 && blank == 0) {
            blank = line.number;
        }
    } while (!csv->at_end && line.size == 0);
    if (csv->at_end) {
        return STATUS_OK;
    }
    CHECK(blank == 0, err, STATUS_DATA,
          "%s: line %llu is blank: expected a record (blank lines may stand at the end only)",
          csv->dataset->path, (unsigned long long)blank);
    return parse_record(csv, line, err);
}

static const char *field(const struct csv *csv, size_t index, size_t *size) {
    size_t from = index == 0 ? 0 : csv->field_end[index - 1];
    *size = csv->field_end[index] - from;
    return csv->bytes.bytes == NULL ? "" : csv->bytes.bytes + from;
}

/* ---- header ---- */

static bool names_column(const char *bytes, size_t size, const char *name) {
    while (size > 0 && bytes[0] == ' ') {
        bytes++;
        size--;
    }
    while (size > 0 && bytes[size - 1] == ' ') {
        size--;
    }
    return size == strlen(name) && strncasecmp(bytes, name, size) == 0;
}

/* The names of the columns, for a message; cut where they are many. */
static void show_header(const struct csv *csv, char *out, size_t capacity) {
    struct text names = {0};
    for (size_t i = 0; i < csv->field_count && names.size < capacity; i++) {
        size_t size;
        const char *bytes = field(csv, i, &size);
        text_append(&names, i > 0 ? ", " : "", i > 0 ? 2 : 0);
        text_append(&names, bytes, size < capacity ? size : capacity);
    }
    text_escape(names.size > 0 ? names.bytes : "", names.size, out, capacity);
    text_free(&names);
}

/* The column called `name`, which must be there once. */
static enum status find_column(const struct csv *csv, const char *name, size_t *out,
                               struct error *err) {
    size_t found = 0;
    for (size_t i = 0; i < csv->field_count; i++) {
        size_t size;
        const char *bytes = field(csv, i, &size);
        if (names_column(bytes, size, name)) {
            *out = i;
            found++;
        }
    }
    if (found == 1) {
        return STATUS_OK;
    }
    char shown[160];
    show_header(csv, shown, sizeof shown);
    return error_set(err, STATUS_DATA,
                     "%s: line %llu: %s column \"%s\" among the %zu of the header (%s): expected a "
                     "header that names the columns text and label, separated by %s",
                     csv->dataset->path, (unsigned long long)csv->record_line,
                     found == 0 ? "no" : "more than one", name, csv->field_count, shown,
                     csv->separator == ',' ? "commas" : "tabs");
}

static enum status read_header(struct csv *csv, struct error *err) {
    TRY(lines_skip_mark(&csv->lines, err));
    TRY(next_record(csv, err));
    CHECK(!csv->at_end, err, STATUS_DATA,
          "%s: line 1: the file is empty: expected a header "
          "with the columns text and label",
          csv->dataset->path);
    TRY(find_column(csv, "text", &csv->text_column, err));
    TRY(find_column(csv, "label", &csv->label_column, err));
    csv->column_count = csv->field_count;
    for (size_t i = 0; i < csv->field_count; i++) {
        if (i != csv->text_column && i != csv->label_column) {
            size_t size;
            const char *bytes = field(csv, i, &size);
            char name[64], group[80];
            snprintf(group, sizeof group, "column %s", text_escape(bytes, size, name, sizeof name));
            dataset_unused(csv->dataset, group, 0);
        }
    }
    return STATUS_OK;
}

/* ---- reading ---- */

static enum status push_record(struct csv *csv, struct error *err) {
    const char *path = csv->dataset->path;
    CHECK(
        csv->field_count == csv->column_count, err, STATUS_DATA,
        "%s: line %llu: %zu field%s: expected %zu, as in the header (a field with a %s in it needs "
        "quotes)",
        path, (unsigned long long)csv->record_line, csv->field_count,
        csv->field_count == 1 ? "" : "s", csv->column_count,
        csv->separator == ',' ? "comma" : "tab");
    size_t size, label_size;
    const char *label_text = field(csv, csv->label_column, &label_size);
    const char *text = field(csv, csv->text_column, &size);
    unsigned label = 0;
    TRY(dataset_take_label(path, csv->record_line, &label_text, &label_size, &label, err));
    return dataset_push(csv->dataset, text, size, label, label_text, label_size, err);
}

static enum status read_records(struct csv *csv, struct error *err) {
    TRY(read_header(csv, err));
    for (;;) {
        TRY(next_record(csv, err));
        if (csv->at_end) {
            return STATUS_OK;
        }
        TRY(push_record(csv, err));
    }
}

static enum status read_separated(struct dataset *dataset, char separator, struct error *err) {
    struct csv csv = {.dataset = dataset, .separator = separator};
    enum status status = lines_open(dataset->files, dataset->path, &csv.lines, err);
    if (status == STATUS_OK) {
        status = read_records(&csv, err);
    }
    lines_close(&csv.lines);
    text_free(&csv.bytes);
    free(csv.field_end);
    return status;
}

static enum status csv_read(struct dataset *dataset, enum dataset_part part, struct error *err) {
    (void)part;
    return read_separated(dataset, ',', err);
}

static enum status tsv_read(struct dataset *dataset, enum dataset_part part, struct error *err) {
    (void)part;
    return read_separated(dataset, '\t', err);
}

const struct dataset_reader dataset_csv = {.name = "CSV file", .read = csv_read};
const struct dataset_reader dataset_tsv = {.name = "TSV file", .read = tsv_read};
