#include "host/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum status error_set(struct error *err, enum status status, const char *format, ...) {
    if (err == NULL) {
        return status;
    }
    err->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return status;
}

enum status error_prefix(struct error *err, enum status status, const char *format, ...) {
    if (err == NULL) {
        return status;
    }
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    va_list args;
    va_start(args, format);
    int used = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    size_t at = used < 0 ? 0 : (size_t)used;
    const char *parts[] = {": ", old};
    for (size_t i = 0; i < 2 && at < sizeof err->message; i++) {
        size_t room = sizeof err->message - 1 - at;
        size_t size = strnlen(parts[i], room);
        memcpy(err->message + at, parts[i], size);
        at += size;
        err->message[at] = '\0';
    }
    return status;
}

int status_exit_code(enum status status) {
    static const int codes[] = {
#define STATUS_CODE(name, code, text) code,
        STATUS_LIST(STATUS_CODE)
#undef STATUS_CODE
    };
    return (unsigned)status < STATUS_COUNT ? codes[status] : 1;
}

const char *status_text(enum status status) {
    static const char *const texts[] = {
#define STATUS_NAME(name, code, text) text,
        STATUS_LIST(STATUS_NAME)
#undef STATUS_NAME
    };
    return (unsigned)status < STATUS_COUNT ? texts[status] : "unknown status";
}
