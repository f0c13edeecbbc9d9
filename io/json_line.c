#include "io/json_line.h"

#include <string.h>

#include "host/base/text.h"

enum status json_line_parse(const char *name, const struct line *line, json_t **out,
                            struct error *err) {
    json_error_t detail;
    /* NUL characters are let through here so that the message can name them as what they are. */
    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL;
    *out = json_loadb(line->bytes, line->size, flags, &detail);
    if (*out == NULL) {
        char reason[JSON_ERROR_TEXT_LENGTH];
        text_escape(detail.text, strlen(detail.text), reason, sizeof reason);
        return error_set(
            err, STATUS_DATA,
            "%s: line %llu, column %d: invalid JSON: %s: expected one JSON value a line", name,
            (unsigned long long)line->number, detail.column, reason);
    }
    return STATUS_OK;
}

const char *json_line_type(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

enum status json_line_string(const char *name, const struct line *line, const json_t *value,
                             const char **text, size_t *size, struct error *err) {
    CHECK(json_is_string(value), err, STATUS_DATA,
          "%s: line %llu: the text is %s: expected a string", name,
          (unsigned long long)line->number, json_line_type(value));
    *text = json_string_value(value);
    *size = json_string_length(value);
    CHECK(memchr(*text, '\0', *size) == NULL, err, STATUS_DATA,
          "%s: line %llu: the text holds a NUL character (\\u0000): expected plain text", name,
          (unsigned long long)line->number);
    return STATUS_OK;
}

enum status json_line_text(const char *name, const struct line *line, const json_t *root,
                           const char **text, size_t *size, struct error *err) {
    CHECK(json_is_object(root), err, STATUS_DATA,
          "%s: line %llu is %s: expected an object with the key \"text\"", name,
          (unsigned long long)line->number, json_line_type(root));
    const json_t *value = json_object_get(root, "text");
    CHECK(value != NULL, err, STATUS_DATA, "%s: line %llu has no key \"text\": expected one", name,
          (unsigned long long)line->number);
    return json_line_string(name, line, value, text, size, err);
}

bool json_line_is_blank(const struct line *line) {
    for (size_t i = 0; i < line->size; i++) {
        if (strchr(" \t\r", line->bytes[i]) == NULL) {
            return false;
        }
    }
    return true;
}
