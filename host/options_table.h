/* options_table.h - the rows behind options.h, and the pieces that only options*.c and main.c
 * share.
 *
 * THREADS: constants; functions belong to the main thread.
 */
#ifndef CAIRN_HOST_OPTIONS_TABLE_H
#define CAIRN_HOST_OPTIONS_TABLE_H

#include "host/options.h"

#ifdef __cplusplus
extern "C" {
#endif

enum option_kind {
    OPTION_KIND_STRING, /* const char *; one of `choices` where there are any, else `valid` decides
                         */
    OPTION_KIND_U64,    /* uint64_t */
    OPTION_KIND_I64,    /* int64_t */
    OPTION_KIND_REAL,   /* double; NaN is written "none" */
    OPTION_KIND_FLAG,   /* bool; "on" or "off", without a value "on" */
    OPTION_KIND_CHOICE, /* an enum whose values are indices of `choices` */
    OPTION_KIND_PATIENCE, /* int64_t; "none" is -1 */
    OPTION_KIND_SAVE_FREQ /* const char * plus save_freq_batches; "epoch" or a number */
};

struct option_row {
    const char *name;     /* kebab case */
    const char *argument; /* name of the value in --help; NULL for flags */
    const char *help;
    const char *value; /* default as text, parsed like any other value */
    const char *shown; /* the default in words, where the text alone would not tell; or NULL */
    enum option_kind kind;
    size_t offset;    /* in struct options */
    double low, high; /* closed range of numbers, but: */
    bool low_is_open, high_is_open;
    bool zero_is_allowed;             /* 0 is fine although it is below `low` */
    bool none_is_allowed;             /* REAL: "none" is NaN */
    const char *const *choices;       /* NULL-terminated, or NULL */
    bool (*valid)(const char *value); /* STRING; NULL: any text */
    const char *expected;             /* says what `valid` wants */
    enum option_change change;
    unsigned commands; /* bit per enum command */
    unsigned group;    /* index into option_groups */
};

extern const struct option_row option_rows[];
extern const char *const option_groups[]; /* headings of --help */

/* Index of the row called `name`: the command's own where it takes one of that name (two commands
 * may have different options of one name), else the first; -1 when there is none. */
int option_row_find(enum command command, const char *name);

/* ---- values (options.c) ---- */

/* All rows of the table at their defaults. */
MUST_USE enum status options_init(enum command command, struct options *out, struct error *err);

/* Set a row from text. False, with *expected (static or in `buffer`, 160 bytes) saying what the row
 * takes, when the value is not one. `*failed_memory` is set when memory ran out. */
MUST_USE bool options_set_row(struct options *options, const struct option_row *row,
                              const char *value, char expected[160], bool *failed_memory);

/* The value of a row as text, such that setting it gives the same value. */
void options_format_row(const struct options *options, const struct option_row *row,
                        struct text *out);

void options_mark_given(struct options *options, size_t row_index);

/* ---- configuration files (options_config.c) ---- */

/* Called for each "name = value"; a status other than OK ends the reading. */
typedef enum status (*config_entry)(void *user, const char *name, const char *value,
                                    struct error *err);

/* Read INI text with inih. Messages start with "<where>:<line>: ". STATUS_CONFIG, or what `entry`
 * returned. */
MUST_USE enum status options_config_read(const char *bytes, size_t size, const char *where,
                                         config_entry entry, void *user, struct error *err);

/* Append "name = value\n", quoted and continued where INI needs it. */
void options_config_write(struct text *out, const char *name, const char *value);

/* ---- options that depend on each other (options_rules.c) ---- */

/* Settle --save-checkpoints-secs and -steps, of which one turns the other off, and refuse two that
 * were given at the same level. `level_of` says where a row's value comes from: a higher number
 * counts more, 0 is the default. */
MUST_USE enum status options_settle(struct options *options, const unsigned char *level_of,
                                    struct error *err);

/* Options that exclude each other. */
MUST_USE enum status options_check(const struct options *options, struct error *err);

/* Options that the command cannot do without. */
MUST_USE enum status options_check_required(const struct options *options, struct error *err);

/* ---- words ---- */

/* The one of `names` [count] that `word` was probably meant to be, or NULL. */
const char *options_nearest(const char *word, const char *const *names, size_t count);

#ifdef __cplusplus
}
#endif
#endif
