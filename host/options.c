#include "host/options.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/options_table.h"

/* ---- strings that options own ------------------------------------------------------------- */

struct options_arena {
    struct options_arena *next;
    char bytes[];
};

static const char *keep_string(struct options *options, const char *string) {
    size_t size = strlen(string) + 1;
    struct options_arena *kept = malloc(sizeof *kept + size);
    if (kept == NULL) {
        return NULL;
    }
    memcpy(kept->bytes, string, size);
    kept->next = options->arena;
    options->arena = kept;
    return kept->bytes;
}

void options_free(struct options *options) {
    while (options->arena != NULL) {
        struct options_arena *next = options->arena->next;
        free(options->arena);
        options->arena = next;
    }
}

/* ---- one value ---------------------------------------------------------------------------- */

static void *field_of(struct options *options, const struct option_row *row) {
    return (char *)options + row->offset;
}

static const void *field_in(const struct options *options, const struct option_row *row) {
    return (const char *)options + row->offset;
}

static bool in_range(const struct option_row *row, double value) {
    if (row->zero_is_allowed && value == 0.0) {
        return true;
    }
    return !isnan(value) && (row->low_is_open ? value > row->low : value >= row->low) &&
           (row->high_is_open ? value < row->high : value <= row->high);
}

/* "an integer from 1 to 65536, or none" */
static void describe_range(const struct option_row *row, char out[160]) {
    bool real = row->kind == OPTION_KIND_REAL;
    bool none = row->none_is_allowed || row->kind == OPTION_KIND_PATIENCE;
    char low[48] = "", high[48] = "";
    if (isfinite(row->low)) {
        snprintf(low, sizeof low, row->low_is_open ? " above %.15g" : " from %.15g", row->low);
    }
    if (isfinite(row->high)) {
        snprintf(high, sizeof high, row->high_is_open ? " below %.15g" : " to %.15g", row->high);
    }
    snprintf(out, 160, "%s%s%s%s%s", real ? "a number" : "an integer", low, high,
             row->zero_is_allowed ? ", or 0" : "", none ? ", or none" : "");
}

static void describe_choices(const struct option_row *row, char out[160]) {
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; row->choices[i] != NULL; i++) {
        const char *separator = i == 0 ? "" : row->choices[i + 1] == NULL ? " or " : ", ";
        int wrote = snprintf(out + used, 160 - used, "%s%s", separator, row->choices[i]);
        used += (size_t)wrote;
        assert(used < 160);
    }
}

static int choice_index(const struct option_row *row, const char *value) {
    for (int i = 0; row->choices[i] != NULL; i++) {
        if (strcmp(row->choices[i], value) == 0) {
            return i;
        }
    }
    return -1;
}

static bool set_string(struct options *options, const struct option_row *row, const char *value,
                       char expected[160], bool *failed_memory) {
    if (row->choices != NULL && choice_index(row, value) < 0) {
        describe_choices(row, expected);
        return false;
    }
    if (value[0] == '\0' && row->value[0] != '\0') {
        snprintf(expected, 160, "%s, not nothing", row->argument);
        return false;
    }
    if (row->valid != NULL && !row->valid(value)) {
        snprintf(expected, 160, "%s", row->expected);
        return false;
    }
    const char *kept = keep_string(options, value);
    *failed_memory = *failed_memory || kept == NULL;
    if (kept != NULL) {
        memcpy(field_of(options, row), &kept, sizeof kept);
    }
    return true;
}

static bool set_integer(struct options *options, const struct option_row *row, const char *value,
                        char expected[160]) {
    uint64_t whole = 0;
    int64_t sign = 0;
    bool is_signed = row->kind != OPTION_KIND_U64;
    describe_range(row, expected);
    if (row->kind == OPTION_KIND_PATIENCE && strcmp(value, "none") == 0) {
        sign = -1;
    } else if (is_signed ? !text_parse_i64(value, &sign) || !in_range(row, (double)sign)
                         : !text_parse_u64(value, &whole) || !in_range(row, (double)whole)) {
        return false;
    }
    memcpy(field_of(options, row), is_signed ? (void *)&sign : (void *)&whole, sizeof whole);
    return true;
}

static bool set_real(struct options *options, const struct option_row *row, const char *value,
                     char expected[160]) {
    double number = NAN;
    describe_range(row, expected);
    if (!(row->none_is_allowed && strcmp(value, "none") == 0) &&
        (!text_parse_double(value, &number) || !in_range(row, number))) {
        return false;
    }
    memcpy(field_of(options, row), &number, sizeof number);
    return true;
}

static bool set_flag(struct options *options, const struct option_row *row, const char *value,
                     char expected[160]) {
    static const char *const words[2][5] = {{"off", "false", "no", "0", NULL},
                                            {"on", "true", "yes", "1", NULL}};
    for (int on = 0; on < 2; on++) {
        for (int i = 0; words[on][i] != NULL; i++) {
            if (strcmp(value, words[on][i]) == 0) {
                bool flag = on == 1;
                memcpy(field_of(options, row), &flag, sizeof flag);
                return true;
            }
        }
    }
    snprintf(expected, 160, "on or off");
    return false;
}

static bool set_choice(struct options *options, const struct option_row *row, const char *value,
                       char expected[160]) {
    int index = choice_index(row, value);
    if (index < 0) {
        describe_choices(row, expected);
        return false;
    }
    unsigned stored = (unsigned)index; /* every enum of options.h has this size */
    memcpy(field_of(options, row), &stored, sizeof stored);
    return true;
}

static bool set_save_freq(struct options *options, const struct option_row *row, const char *value,
                          char expected[160], bool *failed_memory) {
    uint64_t batches = 0;
    if (strcmp(value, "epoch") != 0 && (!text_parse_u64(value, &batches) || batches == 0)) {
        snprintf(expected, 160, "epoch, or a number of batches from 1");
        return false;
    }
    options->save_freq_batches = batches;
    return set_string(options, row, value, expected, failed_memory);
}

bool options_set_row(struct options *options, const struct option_row *row, const char *value,
                     char expected[160], bool *failed_memory) {
    _Static_assert(sizeof(enum shuffle_mode) == sizeof(unsigned), "set_choice stores an unsigned");
    switch (row->kind) {
    case OPTION_KIND_STRING:
        return set_string(options, row, value, expected, failed_memory);
    case OPTION_KIND_U64:
    case OPTION_KIND_I64:
    case OPTION_KIND_PATIENCE:
        return set_integer(options, row, value, expected);
    case OPTION_KIND_REAL:
        return set_real(options, row, value, expected);
    case OPTION_KIND_FLAG:
        return set_flag(options, row, value, expected);
    case OPTION_KIND_CHOICE:
        return set_choice(options, row, value, expected);
    case OPTION_KIND_SAVE_FREQ:
        return set_save_freq(options, row, value, expected, failed_memory);
    }
    return false;
}

/* A decimal that reads back as the same double, with no more digits than people wrote. */
static void format_real(double value, struct text *out) {
    char digits[40];
    double back;
    int precision = 15;
    do {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
    } while ((!text_parse_double(digits, &back) || back != value) && ++precision <= 17);
    text_printf(out, "%s", isnan(value) ? "none" : digits);
}

void options_format_row(const struct options *options, const struct option_row *row,
                        struct text *out) {
    union {
        const char *string;
        uint64_t whole;
        int64_t sign;
        double real;
        bool flag;
        unsigned choice;
    } value = {0};
    const void *field = field_in(options, row);
    switch (row->kind) {
    case OPTION_KIND_STRING:
    case OPTION_KIND_SAVE_FREQ:
        memcpy(&value.string, field, sizeof value.string);
        text_printf(out, "%s", value.string);
        break;
    case OPTION_KIND_U64:
        memcpy(&value.whole, field, sizeof value.whole);
        text_printf(out, "%llu", (unsigned long long)value.whole);
        break;
    case OPTION_KIND_I64:
    case OPTION_KIND_PATIENCE:
        memcpy(&value.sign, field, sizeof value.sign);
        if (row->kind == OPTION_KIND_PATIENCE && value.sign < 0) {
            text_printf(out, "none");
        } else {
            text_printf(out, "%lld", (long long)value.sign);
        }
        break;
    case OPTION_KIND_REAL:
        memcpy(&value.real, field, sizeof value.real);
        format_real(value.real, out);
        break;
    case OPTION_KIND_FLAG:
        memcpy(&value.flag, field, sizeof value.flag);
        text_printf(out, "%s", value.flag ? "on" : "off");
        break;
    case OPTION_KIND_CHOICE:
        memcpy(&value.choice, field, sizeof value.choice);
        text_printf(out, "%s", row->choices[value.choice]);
        break;
    }
}

/* ---- all values --------------------------------------------------------------------------- */

enum status options_init(enum command command, struct options *out, struct error *err) {
    memset(out, 0, sizeof *out);
    out->command = command;
    out->file = "";
    bool failed_memory = false;
    for (size_t i = 0; i < options_row_count(); i++) {
        char expected[160];
        bool good =
            options_set_row(out, &option_rows[i], option_rows[i].value, expected, &failed_memory);
        assert(good);
        (void)good;
    }
    if (failed_memory) {
        options_free(out);
        return error_set(err, STATUS_MEMORY, "out of memory for the options");
    }
    return STATUS_OK;
}

void options_mark_given(struct options *options, size_t row_index) {
    options->given[row_index / 8] |= (unsigned char)(1u << row_index % 8);
}

bool options_given(const struct options *options, const char *name) {
    int index = option_row_find(options->command, name);
    assert(index >= 0);
    return index >= 0 && (options->given[index / 8] >> index % 8 & 1) != 0;
}

enum status options_set(struct options *options, const char *name, const char *value,
                        struct error *err) {
    char shown[128], expected[160];
    bool failed_memory = false;
    int index = option_row_find(options->command, name);
    CHECK(index >= 0, err, STATUS_USAGE, "there is no option --%s",
          text_escape(name, strlen(name), shown, sizeof shown));
    CHECK(options_set_row(options, &option_rows[index], value, expected, &failed_memory), err,
          STATUS_USAGE, "--%s %s: expected %s", name,
          text_escape(value, strlen(value), shown, sizeof shown), expected);
    CHECK(!failed_memory, err, STATUS_MEMORY, "out of memory for the options");
    return STATUS_OK;
}

static bool takes(const struct options *options, const struct option_row *row) {
    return (row->commands >> options->command & 1) != 0;
}

void options_write(const struct options *options, struct text *out) {
    struct text value = {0};
    for (size_t i = 0; i < options_row_count(); i++) {
        if (takes(options, &option_rows[i])) {
            text_clear(&value);
            text_append(&value, "", 0);
            options_format_row(options, &option_rows[i], &value);
            out->failed = out->failed || value.failed;
            options_config_write(out, option_rows[i].name, value.failed ? "" : value.bytes);
        }
    }
    text_free(&value);
}

/* ---- comparison with what a checkpoint says ----------------------------------------------- */

struct saved_options {
    struct options options; /* `given` has the rows that the text holds */
};

static enum status saved_entry(void *user, const char *name, const char *value, struct error *err) {
    struct saved_options *saved = user;
    int index = option_row_find(saved->options.command, name);
    if (index < 0) {
        return STATUS_OK; /* an option of another version: nothing here to compare it with */
    }
    TRY(options_set(&saved->options, name, value, err));
    options_mark_given(&saved->options, (size_t)index);
    return STATUS_OK;
}

static enum status compare_rows(const struct options *now, const struct options *saved,
                                struct option_difference *out, size_t capacity, size_t *count,
                                struct error *err) {
    struct text a = {0}, b = {0};
    *count = 0;
    for (size_t i = 0; i < options_row_count(); i++) {
        const struct option_row *row = &option_rows[i];
        if (!takes(now, row) || !options_given(saved, row->name)) {
            continue;
        }
        text_clear(&a);
        text_clear(&b);
        options_format_row(saved, row, &a);
        options_format_row(now, row, &b);
        bool equal = a.size == b.size && (a.size == 0 || memcmp(a.bytes, b.bytes, a.size) == 0);
        if (equal || a.failed || b.failed || *count == capacity) {
            continue;
        }
        struct option_difference *difference = &out[(*count)++];
        difference->name = row->name;
        difference->change = row->change;
        text_escape(a.size == 0 ? "" : a.bytes, a.size, difference->saved,
                    sizeof difference->saved);
        text_escape(b.size == 0 ? "" : b.bytes, b.size, difference->now, sizeof difference->now);
    }
    bool failed = a.failed || b.failed;
    text_free(&a);
    text_free(&b);
    CHECK(!failed, err, STATUS_MEMORY, "out of memory for comparing options");
    return STATUS_OK;
}

enum status options_compare(const struct options *now, const char *saved, size_t saved_size,
                            struct option_difference *out, size_t capacity, size_t *count,
                            struct error *err) {
    struct saved_options then;
    TRY(options_init(now->command, &then.options, err));
    enum status status = options_config_read(saved, saved_size, "options in the checkpoint",
                                             saved_entry, &then, err);
    if (status == STATUS_OK) {
        status = compare_rows(now, &then.options, out, capacity, count, err);
    } else if (status != STATUS_MEMORY) {
        status = STATUS_CORRUPT;
        if (err != NULL) {
            err->status = status;
        }
    }
    options_free(&then.options);
    return status;
}
