#include "host/base/text.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- growing ---- */

/* Room for `extra` more bytes and the NUL; false, with `failed` set, when memory runs out. */
static bool reserve(struct text *text, size_t extra) {
    if (text->failed) {
        return false;
    }
    size_t needed;
    if (__builtin_add_overflow(text->size, extra, &needed) || needed > SIZE_MAX / 2) {
        text->failed = true;
        return false;
    }
    if (needed < text->capacity) {
        return true;
    }
    size_t capacity = text->capacity * 2 > needed + 1 ? text->capacity * 2 : needed + 1;
    capacity = capacity < 64 ? 64 : capacity;
    char *bytes = realloc(text->bytes, capacity);
    if (bytes == NULL) {
        text->failed = true;
        return false;
    }
    text->bytes = bytes;
    text->capacity = capacity;
    return true;
}

void text_append(struct text *text, const void *bytes, size_t size) {
    if (!reserve(text, size)) {
        return;
    }
    if (size > 0) {
        memcpy(text->bytes + text->size, bytes, size);
    }
    text->size += size;
    text->bytes[text->size] = '\0';
}

void text_printf(struct text *text, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (size < 0) {
        text->failed = true;
    } else if (reserve(text, (size_t)size)) {
        vsnprintf(text->bytes + text->size, (size_t)size + 1, format, again);
        text->size += (size_t)size;
    }
    va_end(again);
}

void text_clear(struct text *text) {
    text->size = 0;
    text->failed = false;
    if (text->bytes != NULL) {
        text->bytes[0] = '\0';
    }
}

void text_free(struct text *text) {
    free(text->bytes);
    *text = (struct text){0};
}

/* ---- escaping ---- */

/* Bytes of the valid UTF-8 sequence at `at`, 0 when there is none (Unicode 15, table 3-7: no
 * overlong forms, no surrogates, nothing above U+10FFFF). */
static size_t utf8_length(const unsigned char *at, size_t size) {
    unsigned char first = at[0];
    if (first < 0x80) {
        return 1;
    }
    if (first < 0xC2 || first > 0xF4) {
        return 0;
    }
    size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (size < length) {
        return 0;
    }
    unsigned char low = 0x80, high = 0xBF; /* what the second byte may be */
    low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : low;
    high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : high;
    if (at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if (at[i] < 0x80 || at[i] > 0xBF) {
            return 0;
        }
    }
    return length;
}

bool text_is_utf8(const char *bytes, size_t size) {
    const unsigned char *at = (const unsigned char *)bytes;
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length(at + i, size - i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

/* The escape of an ASCII byte inside a JSON string, "" when it stands for itself. */
static void json_escape(unsigned char byte, char out[8]) {
    static const char plain[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
    const char *at = byte != 0 ? strchr(plain, byte) : NULL;
    out[0] = '\0';
    if (at != NULL) {
        snprintf(out, 8, "\\%c", letters[at - plain]);
    } else if (byte < 0x20) {
        snprintf(out, 8, "\\u%04x", byte);
    }
}

void text_append_json(struct text *text, const char *bytes, size_t size) {
    const unsigned char *at = (const unsigned char *)bytes;
    text_append(text, "\"", 1);
    size_t start = 0; /* of the run that is copied as it is */
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length(at + i, size - i);
        char escaped[8] = "\xEF\xBF\xBD"; /* U+FFFD */
        if (length == 1) {
            json_escape(at[i], escaped);
        } else if (length > 1) {
            escaped[0] = '\0';
        }
        if (escaped[0] != '\0') {
            text_append(text, bytes + start, i - start);
            text_append(text, escaped, strlen(escaped));
            start = i + 1;
        }
        i += length > 0 ? length : 1;
    }
    text_append(text, bytes + start, size - start);
    text_append(text, "\"", 1);
}

void text_append_shortest_double(struct text *text, double value) {
    if (isnan(value)) { /* printf may say "-nan" */
        text_printf(text, "nan");
        return;
    }
    char digits[32];
    int precision = 15;
    double back;
    do { /* 17 digits always read back the same */
        snprintf(digits, sizeof digits, "%.*g", precision, value);
    } while (precision++ < 17 &&
             (!text_parse_double(digits, &back) || back < value || back > value));
    text_append(text, digits, strlen(digits));
}

void text_append_json_double(struct text *text, double value) {
    if (isnan(value)) {
        text_printf(text, "\"nan\"");
    } else if (isinf(value)) {
        text_printf(text, "\"%sinf\"", value < 0 ? "-" : "");
    } else {
        text_append_shortest_double(text, value);
    }
}

/* One unit of escaped output for the data at `at` into `unit`; returns the bytes of data it covers.
 * Control bytes are those of ASCII and the C1 block (U+0080 to U+009F), which terminals obey too.
 */
static size_t escape_unit(const unsigned char *at, size_t size, char unit[16]) {
    size_t length = utf8_length(at, size);
    if (length == 0 || (length == 1 && (at[0] < 0x20 || at[0] == 0x7F))) {
        snprintf(unit, 16, "\\x%02X", at[0]);
        return 1;
    }
    if (length == 2 && at[0] == 0xC2 && at[1] < 0xA0) {
        snprintf(unit, 16, "\\x%02X\\x%02X", at[0], at[1]);
        return 2;
    }
    memcpy(unit, at, length);
    unit[length] = '\0';
    return length;
}

char *text_escape(const char *bytes, size_t size, char *out, size_t capacity) {
    if (capacity == 0) {
        return out;
    }
    size_t used = 0;
    size_t keep = 0; /* longest prefix of units that leaves room for the dots */
    for (size_t i = 0; i < size;) {
        char unit[16];
        size_t covered = escape_unit((const unsigned char *)bytes + i, size - i, unit);
        size_t unit_bytes = strlen(unit);
        if (used + unit_bytes >= capacity) {
            snprintf(out + keep, capacity - keep, "...");
            return out;
        }
        memcpy(out + used, unit, unit_bytes);
        used += unit_bytes;
        keep = used + 3 < capacity ? used : keep;
        i += covered;
    }
    out[used] = '\0';
    return out;
}

struct text_shown text_show(const char *string) {
    struct text_shown shown;
    text_escape(string, strlen(string), shown.text, sizeof shown.text);
    return shown;
}

/* ---- numbers ---- */

bool text_parse_i64(const char *string, int64_t *out) {
    bool digit = string[0] >= '0' && string[0] <= '9';
    bool sign = string[0] == '-' || string[0] == '+';
    if (!digit && !(sign && string[1] >= '0' && string[1] <= '9')) {
        return false;
    }
    char *end;
    errno = 0;
    long long value = strtoll(string, &end, 10);
    if (errno != 0 || *end != '\0') {
        return false;
    }
    *out = value;
    return true;
}

bool text_parse_u64(const char *string, uint64_t *out) {
    if (string[0] < '0' || string[0] > '9') {
        return false;
    }
    char *end;
    errno = 0;
    unsigned long long value = strtoull(string, &end, 10);
    if (errno != 0 || *end != '\0') {
        return false;
    }
    *out = value;
    return true;
}

bool text_parse_double(const char *string, double *out) {
    if (string[0] == '\0' || strchr(" \t\n\v\f\r", string[0]) != NULL) {
        return false;
    }
    char *end;
    errno = 0;
    double value = strtod(string, &end);
    bool too_large = errno == ERANGE && fabs(value) > 1.0; /* a tiny number rounds, it fits */
    if (end == string || *end != '\0' || too_large) {
        return false;
    }
    *out = value;
    return true;
}

/* ---- time ---- */

static double clock_seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double clock_monotonic_seconds(void) {
    return clock_seconds(CLOCK_MONOTONIC);
}

double clock_wall_seconds(void) {
    return clock_seconds(CLOCK_REALTIME);
}

double clock_thread_cpu_seconds(void) {
    return clock_seconds(CLOCK_THREAD_CPUTIME_ID);
}
