#include "library/values.h"

#include <stdlib.h>
#include <string.h>

static char *copy_of(const void *bytes, size_t size) {
    char *copy = malloc(size + 1);
    if (copy != NULL) {
        if (size > 0) {
            memcpy(copy, bytes, size);
        }
        copy[size] = '\0';
    }
    return copy;
}

static void free_value(struct value *value) {
    free(value->key);
    free(value->bytes);
}

static size_t index_of(const struct values *values, const char *key) {
    size_t i = 0;
    while (i < values->count && strcmp(values->items[i].key, key) != 0) {
        i++;
    }
    return i;
}

enum status values_set(struct values *values, size_t limit, const char *key, const void *bytes,
                       size_t size, struct error *err) {
    size_t index = index_of(values, key);
    CHECK(index < limit, err, STATUS_USAGE, "'%s' would be one value too many: the limit is %zu",
          key, limit);
    struct value made = {copy_of(key, strlen(key)), copy_of(bytes, size), size};
    if (made.key == NULL || made.bytes == NULL) {
        free_value(&made);
        return error_set(err, STATUS_MEMORY, "no memory for the %zu bytes of '%s'", size, key);
    }
    if (index < values->count) {
        free_value(&values->items[index]);
    } else {
        values->count++;
    }
    values->items[index] = made;
    return STATUS_OK;
}

void values_remove(struct values *values, const char *key) {
    size_t index = index_of(values, key);
    if (index < values->count) {
        free_value(&values->items[index]);
        values->count--;
        memmove(&values->items[index], &values->items[index + 1],
                (values->count - index) * sizeof values->items[0]);
    }
}

const struct value *values_find(const struct values *values, const char *key) {
    size_t index = index_of(values, key);
    return index < values->count ? &values->items[index] : NULL;
}

size_t values_bytes(const struct values *values) {
    size_t total = 0;
    for (size_t i = 0; i < values->count; i++) {
        total += strlen(values->items[i].key) + values->items[i].size;
    }
    return total;
}

void values_free(struct values *values) {
    for (size_t i = 0; i < values->count; i++) {
        free_value(&values->items[i]);
    }
    values->count = 0;
}
