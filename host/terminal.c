#include "host/terminal.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "host/base/text.h"

enum { COLUMNS_DEFAULT = 80 };

/* A size that an environment variable asks for; 0: none. */
static unsigned asked_size(const char *variable) {
    const char *given = getenv(variable);
    uint64_t size;
    bool valid = given != NULL && text_parse_u64(given, &size) && size < 10000;
    return valid ? (unsigned)size : 0;
}

unsigned terminal_columns(FILE *out) {
    unsigned asked = asked_size("COLUMNS");
    struct winsize size;
    if (asked > 0) {
        return asked;
    }
    if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
    return COLUMNS_DEFAULT;
}

unsigned terminal_rows(FILE *out) {
    unsigned asked = asked_size("LINES");
    struct winsize size;
    if (asked > 0) {
        return asked;
    }
    return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 ? size.ws_row : 0;
}

static bool is_set(const char *value) {
    return value != NULL && value[0] != '\0';
}

bool terminal_is_utf8(void) {
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *locale = getenv(names[i]);
        if (is_set(locale)) {
            return strcasestr(locale, "utf-8") != NULL || strcasestr(locale, "utf8") != NULL;
        }
    }
    return false;
}

enum terminal_colours terminal_colours(FILE *out) {
    const char *kind = getenv("TERM");
    if (!isatty(fileno(out)) || is_set(getenv("NO_COLOR")) ||
        (kind != NULL && strcmp(kind, "dumb") == 0)) {
        return TERMINAL_COLOURS_NONE;
    }
    bool many = (kind != NULL && strstr(kind, "256color") != NULL) || is_set(getenv("COLORTERM"));
    return many ? TERMINAL_COLOURS_256 : TERMINAL_COLOURS_8;
}
