/* dataset_jsonl.c - one object a line: {"text": "...", "label": 0}. Blank lines are allowed at the
 * end of the file only. */
#include <stdio.h>
#include <string.h>

#include "io/dataset_readers.h"
#include "io/json_line.h"

/* How the data call the class: the string itself, or the number without decimals. */
struct label_text {
    const char *bytes;
    size_t size;
};

static enum status number_label(const struct dataset *dataset, const struct line *line,
                                double number, unsigned *label, struct label_text *out,
                                struct error *err) {
    CHECK(number == 0 || number == 1, err, STATUS_DATA,
          "%s: line %llu: the label is %g: expected 0 or 1, neg or pos, negative or positive",
          dataset->path, (unsigned long long)line->number, number);
    *label = number != 0;
    *out = (struct label_text){.bytes = *label ? "1" : "0", .size = 1};
    return STATUS_OK;
}

static enum status take_label(const struct dataset *dataset, const struct line *line,
                              const json_t *root, unsigned *label, struct label_text *out,
                              struct error *err) {
    const json_t *value = json_object_get(root, "label");
    CHECK(value != NULL, err, STATUS_DATA, "%s: line %llu has no key \"label\": expected one",
          dataset->path, (unsigned long long)line->number);
    if (json_is_number(value)) {
        return number_label(dataset, line, json_number_value(value), label, out, err);
    }
    CHECK(json_is_string(value), err, STATUS_DATA,
          "%s: line %llu: the label is %s: expected a string or a number: 0 or 1, neg or pos, "
          "negative "
          "or positive",
          dataset->path, (unsigned long long)line->number, json_line_type(value));
    *out =
        (struct label_text){.bytes = json_string_value(value), .size = json_string_length(value)};
    return dataset_take_label(dataset->path, line->number, &out->bytes, &out->size, label, err);
}

static void report_other_keys(struct dataset *dataset, const json_t *root) {
    if (json_object_size(root) == 2) {
        return;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)root, key, value) {
        if (strcmp(key, "text") != 0 && strcmp(key, "label") != 0) {
            char group[DATASET_UNUSED_NAME_CAPACITY];
            snprintf(group, sizeof group, "key %.100s", key);
            dataset_unused(dataset, group, 1);
        }
    }
}

static enum status push_object(struct dataset *dataset, const struct line *line, const json_t *root,
                               struct error *err) {
    const char *text;
    size_t size;
    unsigned label = 0;
    struct label_text label_text;
    TRY(json_line_text(dataset->path, line, root, &text, &size, err));
    TRY(take_label(dataset, line, root, &label, &label_text, err));
    report_other_keys(dataset, root);
    return dataset_push(dataset, text, size, label, label_text.bytes, label_text.size, err);
}

static enum status read_objects(struct dataset *dataset, struct lines *lines, struct error *err) {
    TRY(lines_skip_mark(lines, err));
    uint64_t blank = 0;
    for (;;) {
        struct line line;
        TRY(lines_next(lines, &line, err));
        if (line.bytes == NULL) {
            return STATUS_OK;
        }
        if (json_line_is_blank(&line)) {
            blank = blank == 0 ? line.number : blank;
            continue;
        }
        CHECK(blank == 0, err, STATUS_DATA,
              "%s: line %llu is blank: expected an object (blank lines may stand at the end only)",
              dataset->path, (unsigned long long)blank);
        json_t *root;
        TRY(json_line_parse(dataset->path, &line, &root, err));
        enum status status = push_object(dataset, &line, root, err);
        json_decref(root);
        TRY(status);
    }
}

static enum status jsonl_read(struct dataset *dataset, enum dataset_part part, struct error *err) {
    (void)part;
    struct lines lines;
    enum status status = lines_open(dataset->files, dataset->path, &lines, err);
    if (status == STATUS_OK) {
        status = read_objects(dataset, &lines, err);
    }
    lines_close(&lines);
    return status;
}

const struct dataset_reader dataset_jsonl = {.name = "JSONL file", .read = jsonl_read};
