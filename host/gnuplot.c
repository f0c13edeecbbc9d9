#include "host/gnuplot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/base/stop.h"
#include "host/signals.h"
#include "io/file.h"

enum { NAME_CAPACITY = 400 };

/* ---- the script ------------------------------------------------------------------------------ */

bool gnuplot_format_of(const char *path, enum gnuplot_format *out) {
    size_t size = strlen(path);
    const char *ending = size < 4 ? "" : path + size - 4;
    *out = strcasecmp(ending, ".svg") == 0 ? GNUPLOT_SVG : GNUPLOT_PNG;
    return *out == GNUPLOT_SVG || strcasecmp(ending, ".png") == 0;
}

void gnuplot_begin(struct text *script, enum gnuplot_format format, unsigned width,
                   unsigned height) {
    text_printf(script,
                "set encoding utf8\n"
                "set terminal %s size %u,%u font 'sans,%d' noenhanced background '#FFFFFF'\n",
                format == GNUPLOT_PNG ? "pngcairo" : "svg", width, height,
                format == GNUPLOT_PNG ? 11 : 14); /* points, and pixels */
}

void gnuplot_append_quoted(struct text *script, const char *value) {
    char shown[NAME_CAPACITY];
    text_escape(value, strlen(value), shown, sizeof shown);
    text_append(script, "'", 1);
    for (const char *at = shown; *at != '\0'; at++) {
        text_append(script, "''", *at == '\'' ? 2 : 0);
        text_append(script, at, *at == '\'' ? 0 : 1);
    }
    text_append(script, "'", 1);
}

/* ---- the program ----------------------------------------------------------------------------- */

/* A file in memory. */
static enum status open_memory(const char *name, int *fd, struct error *err) {
    *fd = memfd_create(name, MFD_CLOEXEC);
    CHECK(*fd >= 0, err, STATUS_IO, "no memory for a picture: %s", strerror(errno));
    return STATUS_OK;
}

/* In a locale whose characters are those of the script: gnuplot would look for them in the user's,
 * and warn about each that is not there. Returns 0 or an errno value. */
static int spawn(int script, int picture, pid_t *child) {
    char name[] = "gnuplot", defaults[] = "--default-settings";
    char *const arguments[] = {name, defaults, NULL};
    const char *set = getenv("LC_ALL");
    char *before = set == NULL ? NULL : strdup(set);
    if ((set != NULL && before == NULL) || setenv("LC_ALL", "C.UTF-8", 1) != 0) {
        free(before);
        return ENOMEM;
    }
    int failed = signals_spawn_filter(arguments, script, picture, child);
    if (before == NULL) {
        unsetenv("LC_ALL");
    } else {
        (void)setenv("LC_ALL", before, 1); /* it had room before */
    }
    free(before);
    return failed;
}

/* gnuplot reads `script` and writes to `picture`. */
static enum status run(int script, int picture, bool *found, struct error *err) {
    int state = 0;
    pid_t child;
    int failed = spawn(script, picture, &child);
    *found = failed != ENOENT;
    if (!*found) {
        return STATUS_OK;
    }
    CHECK(failed == 0, err, STATUS_IO, "gnuplot cannot be started: %s", strerror(failed));
    while (waitpid(child, &state, 0) < 0 && errno == EINTR) {
    }
    CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal while drawing");
    CHECK(WIFEXITED(state) && WEXITSTATUS(state) == 0, err, STATUS_IO,
          "gnuplot has failed (see above)");
    return STATUS_OK;
}

static enum status publish_bytes(const char *path, const void *bytes, size_t size,
                                 struct error *err) {
    enum status status = file_publish(&file_posix, path, bytes, size, err);
    if (status == STATUS_IO && err != NULL) {
        err->status = STATUS_OUTPUT;
    }
    return status == STATUS_IO ? STATUS_OUTPUT : status;
}

static enum status publish_memory(int picture, const char *path, struct error *err) {
    off_t size = lseek(picture, 0, SEEK_END);
    CHECK(size > 0, err, STATUS_IO, "gnuplot has drawn nothing (see above)");
    void *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, picture, 0);
    CHECK(bytes != MAP_FAILED, err, STATUS_MEMORY, "no memory for a picture of %lld bytes",
          (long long)size);
    enum status status = publish_bytes(path, bytes, (size_t)size, err);
    munmap(bytes, (size_t)size);
    return status;
}

static enum status draw(const struct text *text, int script, int picture, const char *path,
                        bool *drawn, struct error *err) {
    TRY(file_write_all(&file_posix, script, "the script for gnuplot", text->bytes, text->size,
                       err));
    CHECK(lseek(script, 0, SEEK_SET) == 0, err, STATUS_IO, "the script for gnuplot: %s",
          strerror(errno));
    TRY(run(script, picture, drawn, err));
    return *drawn ? publish_memory(picture, path, err) : STATUS_OK;
}

enum status gnuplot_draw(const struct text *script, const char *path, bool *drawn,
                         struct error *err) {
    int in, out;
    *drawn = false;
    CHECK(!script->failed, err, STATUS_MEMORY, "out of memory for the script of a picture");
    TRY(open_memory("gnuplot-script", &in, err));
    enum status status = open_memory("gnuplot-picture", &out, err);
    if (status == STATUS_OK) {
        status = draw(script, in, out, path, drawn, err);
        close(out);
    }
    close(in);
    *drawn = *drawn && status == STATUS_OK;
    return status;
}
