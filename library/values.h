/* values.h - a short list of named byte strings, in the order in which they were first set.
 *
 * Usage:
 *     struct values values = {0};
 *     TRY(values_set(&values, 24, "fold", "3", 1, err));
 *     const struct value *value = values_find(&values, "fold");
 *     values_free(&values);
 *
 * Keys, bytes and list are owned by the values. THREADS: plain data.
 */
#ifndef CAIRN_LIBRARY_VALUES_H
#define CAIRN_LIBRARY_VALUES_H

#include <stddef.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { VALUES_MAX = 64 };

struct value {
    char *key;
    char *bytes; /* `size` of them, then a NUL */
    size_t size;
};

struct values {
    struct value items[VALUES_MAX];
    size_t count;
};

/* Set a copy of key and bytes, replacing in place. STATUS_USAGE when there are `limit` (at most
 * VALUES_MAX) already, STATUS_MEMORY; nothing has changed then. */
MUST_USE enum status values_set(struct values *values, size_t limit, const char *key,
                                const void *bytes, size_t size, struct error *err);

/* Remove; a key that is not there is fine. */
void values_remove(struct values *values, const char *key);

/* NULL when there is none. Valid until the values change. */
const struct value *values_find(const struct values *values, const char *key);

/* Bytes of all keys and values. */
size_t values_bytes(const struct values *values);

/* Free everything; the list is empty afterwards. */
void values_free(struct values *values);

#ifdef __cplusplus
}
#endif
#endif
