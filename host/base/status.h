/* status.h - how every function of Cairn reports failure.
 *
 * A function that can fail returns `enum status`; results come back through pointers. Detail for a
 * person (what, where, what was expected, what to do) goes into the caller's `struct error`, which
 * may be NULL where nobody will read it. The status decides the process' exit code
 * (status_exit_code); library rooms never exit and never print.
 *
 * Usage:
 *     enum status widget_open(const char *path, struct widget **out, struct error *err) {
 *         CHECK(path[0] != '\0', err, STATUS_USAGE, "--widget needs a path");
 *         TRY(file_read(path, &bytes, err));
 *         ...
 *         return STATUS_OK;
 *     }
 *
 * THREADS: no shared state; a `struct error` belongs to the thread that passes it.
 */
#ifndef CAIRN_HOST_BASE_STATUS_H
#define CAIRN_HOST_BASE_STATUS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* name, exit code, short text. The exit codes follow sysexits.h where it has a fitting one. */
#define STATUS_LIST(X)                                                                             \
    X(OK, 0, "ok")                                                                                 \
    X(INTERNAL, 1, "internal error")                                                               \
    X(MEMORY, 1, "out of memory")                                                                  \
    X(USAGE, 2, "wrong usage")                                                                     \
    X(DATA, 65, "bad data")                                                                        \
    X(CORRUPT, 65, "corrupt checkpoint")                                                           \
    X(INPUT, 66, "input missing")                                                                  \
    X(DEVICE, 69, "no such device or device failure")                                              \
    X(NONFINITE, 70, "non-finite value")                                                           \
    X(OUTPUT, 73, "output may not be used")                                                        \
    X(IO, 74, "input/output error")                                                                \
    X(STOPPED, 75, "stopped by a signal")                                                          \
    X(MISFIT, 76, "checkpoint does not fit the model")                                             \
    X(CONFIG, 78, "bad or changed configuration")

enum status {
#define STATUS_ENUM(name, code, text) STATUS_##name,
    STATUS_LIST(STATUS_ENUM)
#undef STATUS_ENUM
        STATUS_COUNT
};

#if defined(__GNUC__)
#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first_index)                                                     \
    __attribute__((format(printf, format_index, first_index)))
#else
#define MUST_USE
#define PRINTF_LIKE(format_index, first_index)
#endif

struct error {
    enum status status;
    char message[1024]; /* one sentence or several, UTF-8, no trailing newline; cut when too long */
};

/* Record a failure. `err` may be NULL. Returns `status`, so that callers can `return
 * error_set(...)`. An earlier message in `err` is replaced. Control bytes from data are the
 * caller's to escape (text_escape in text.h). */
enum status error_set(struct error *err, enum status status, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* Put "context: " in front of the message already in `err` (which may be NULL); the status stays.
 * Returns `status`. */
enum status error_prefix(struct error *err, enum status status, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* The process exit code that belongs to a status. */
int status_exit_code(enum status status);

/* Short English text, static. */
const char *status_text(enum status status);

/* Forward a failure: evaluate a call that returns a status, leave the function if it is not OK. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum status try_status_ = (call);                                                          \
        if (try_status_ != STATUS_OK) {                                                            \
            return try_status_;                                                                    \
        }                                                                                          \
    } while (0)

/* Leave the function with `status` and a message unless `condition` holds. */
#define CHECK(condition, err, status, ...)                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            return error_set((err), (status), __VA_ARGS__);                                        \
        }                                                                                          \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
