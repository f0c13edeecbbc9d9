#include "host/terminal.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "host/base/text.h"

enum { COLUMNS_DEFAULT = 80 };

unsigned terminal_columns(FILE *out) {
    const char *given = getenv("COLUMNS");
    uint64_t columns;
    struct winsize size;
    if (given != NULL && text_parse_u64(given, &columns) && columns > 0 && columns < 10000) {
        return (unsigned)columns;
    }
    if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
    return COLUMNS_DEFAULT;
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
