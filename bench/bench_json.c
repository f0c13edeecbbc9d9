#include "bench/bench_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "host/base/text.h"
#include "host/revision.h" /* made by the build */
#include "kernels/backend.h"

json_t *bench_json_begin(const char *benchmark) {
    char date[40];
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc) == NULL ||
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0) {
        snprintf(date, sizeof date, "unknown");
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i}", "program", "cairn", "version", CAIRN_VERSION,
                     "revision", CAIRN_REVISION, "date", date, "benchmark", benchmark, "format", 1);
}

json_t *bench_json_text(const char *bytes, size_t size) {
    enum { ESCAPED = 4 }; /* "\xHH" for one byte */
    if (text_is_utf8(bytes, size)) {
        return json_stringn(bytes, size);
    }
    size_t capacity = ESCAPED * size + 1;
    char *escaped = malloc(capacity);
    if (escaped == NULL) {
        return NULL;
    }
    json_t *text = json_string(text_escape(bytes, size, escaped, capacity));
    free(escaped);
    return text;
}

json_t *bench_json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

/* ---- the machine -------------------------------------------------------------------------- */

static void read_processor(char *out, size_t capacity) {
    struct utsname name;
    char line[256];
    snprintf(out, capacity, "%s", uname(&name) == 0 ? name.machine : "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", strlen("model name")) == 0 && colon != NULL) {
            size_t skipped = strspn(colon + 1, " ");
            snprintf(out, capacity, "%.*s", (int)strcspn(colon + 1 + skipped, "\n"),
                     colon + 1 + skipped);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

json_t *bench_json_machine(struct bench_machine *out) {
    char system[sizeof(struct utsname)] = "unknown";
    struct utsname name;
    json_int_t memory = (json_int_t)sysconf(_SC_PHYS_PAGES) * (json_int_t)sysconf(_SC_PAGESIZE);
    read_processor(out->processor, sizeof out->processor);
    out->cores = backend_cpu_default_threads();
    if (uname(&name) == 0) {
        snprintf(system, sizeof system, "%s %s %s", name.sysname, name.release, name.machine);
    }
    return json_pack("{s:o, s:I, s:I, s:o}", "processor",
                     bench_json_text(out->processor, strlen(out->processor)), "cores",
                     (json_int_t)out->cores, "memory_bytes", memory, "system",
                     bench_json_text(system, strlen(system)));
}

/* ---- the options -------------------------------------------------------------------------- */

/* A line of options_write: "name = value". */
static bool add_option(json_t *options, const char *line, const char *end) {
    const char *equals = strstr(line, " = ");
    if (equals == NULL || equals > end) {
        return true;
    }
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(equals - line), line);
    const char *value = equals + strlen(" = ");
    return json_object_set_new(options, name, bench_json_text(value, (size_t)(end - value))) == 0;
}

json_t *bench_json_options(const struct options *options) {
    struct text text = {0};
    json_t *object = json_object();
    options_write(options, &text);
    bool whole = object != NULL && !text.failed;
    for (const char *line = text.bytes; whole && line != NULL && *line != '\0';) {
        const char *end = line + strcspn(line, "\n");
        whole = add_option(object, line, end);
        line = *end == '\0' ? NULL : end + 1;
    }
    text_free(&text);
    if (!whole) {
        json_decref(object);
        return NULL;
    }
    return object;
}
