/* cairn_checkpoint_values.c - strings and bytes that are saved with every checkpoint. */
#include <string.h>

#include "host/base/text.h"
#include "library/handle.h"

_Static_assert((int)CAIRN_STRINGS_MAX <= (int)VALUES_MAX && (int)CAIRN_BYTES_MAX <= (int)VALUES_MAX,
               "the lists are long enough");
_Static_assert((int)CAIRN_TENSORS_MAX + (int)CAIRN_BYTES_MAX <= (int)SNAPSHOT_TENSORS_MAX,
               "tensors and values fit into a snapshot");
_Static_assert((int)CAIRN_BYTES_NAME_MAX + (int)sizeof HANDLE_BYTES_PREFIX ==
                   (int)TENSOR_NAME_CAPACITY,
               "a prefixed key is a tensor name");

bool handle_is_own_key(const char *key) {
    static const char *const own[] = {"format_version", "step", "library",
                                      "created",        "host", "pid"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        if (strcmp(key, own[i]) == 0) {
            return true;
        }
    }
    return strncmp(key, "digest.", 7) == 0;
}

static enum status set_string(struct cairn_checkpoint *handle, const char *key, const char *value,
                              struct error *err) {
    TRY(handle_check(handle, err));
    TRY(handle_check_name("key", key, CAIRN_NAME_BYTES_MAX, err));
    CHECK(!handle_is_own_key(key), err, STATUS_USAGE, "key '%s' is the format's own", key);
    if (value == NULL) {
        values_remove(&handle->strings, key);
        return STATUS_OK;
    }
    size_t size = strlen(value);
    CHECK(text_is_utf8(value, size), err, STATUS_USAGE,
          "the value of '%s' is not UTF-8: cairn_checkpoint_set_bytes takes any bytes", key);
    const struct value *old = values_find(&handle->strings, key);
    size_t freed = old == NULL ? 0 : strlen(key) + old->size;
    size_t total = values_bytes(&handle->strings) - freed + strlen(key) + size;
    CHECK(total <= CAIRN_STRING_BYTES_MAX, err, STATUS_USAGE,
          "with '%s' the strings would take %zu bytes, %d is the limit: use "
          "cairn_checkpoint_set_bytes",
          key, total, CAIRN_STRING_BYTES_MAX);
    return values_set(&handle->strings, CAIRN_STRINGS_MAX, key, value, size, err);
}

static enum status set_bytes(struct cairn_checkpoint *handle, const char *key, const void *bytes,
                             size_t size, struct error *err) {
    TRY(handle_check(handle, err));
    TRY(handle_check_name("key", key, CAIRN_BYTES_NAME_MAX, err));
    if (bytes == NULL) {
        CHECK(size == 0, err, STATUS_USAGE, "'%s': %zu bytes at NULL", key, size);
        values_remove(&handle->bytes, key);
        return STATUS_OK;
    }
    /* A length of -1, which a read that failed leaves behind, comes here too. */
    CHECK(size <= CHECKPOINT_CONTENT_BYTES_MAX &&
              handle_bytes(handle) + size <= CHECKPOINT_CONTENT_BYTES_MAX,
          err, STATUS_USAGE,
          "with the %zu bytes of '%s' all of them are together larger than the 64 GiB that a "
          "checkpoint may be",
          size, key);
    return values_set(&handle->bytes, CAIRN_BYTES_MAX, key, bytes, size, err);
}

enum cairn_status cairn_checkpoint_set_string(struct cairn_checkpoint *handle, const char *key,
                                              const char *value, struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(set_string(handle, key, value, &err), &err, error);
}

enum cairn_status cairn_checkpoint_set_bytes(struct cairn_checkpoint *handle, const char *key,
                                             const void *bytes, size_t size,
                                             struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(set_bytes(handle, key, bytes, size, &err), &err, error);
}

static const struct value *find(const struct values *values, const char *key) {
    return values == NULL || key == NULL ? NULL : values_find(values, key);
}

const char *cairn_checkpoint_get_string(const struct cairn_checkpoint *handle, const char *key) {
    const struct value *value = find(handle == NULL ? NULL : &handle->strings, key);
    return value == NULL ? NULL : value->bytes;
}

const void *cairn_checkpoint_get_bytes(const struct cairn_checkpoint *handle, const char *key,
                                       size_t *size) {
    const struct value *value = find(handle == NULL ? NULL : &handle->bytes, key);
    if (size != NULL) {
        *size = value == NULL ? 0 : value->size;
    }
    return value == NULL ? NULL : value->bytes;
}
