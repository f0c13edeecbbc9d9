/* filepath.c - filepath_expand of callbacks.h: Python's str.format for the fields of a
 * --checkpoint-filepath template. Specs are [[fill]align][sign][#][0][width][.precision][type];
 * what Python knows beyond that (grouping, conversions, nesting) is refused by name. */
#include "host/callbacks.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"

enum {
    FIELD_CAPACITY = 32,
    SPEC_CAPACITY = 32,
    NUMBER_CAPACITY = 512,
    WIDTH_MAX = 64,
    PRECISION_MAX = 30
};

struct spec {
    char fill, align, sign, type; /* align and type: 0 when absent */
    bool alternate;
    unsigned width;
    int precision; /* -1: absent */
};

struct output {
    char *bytes;
    size_t size, capacity;
    bool full;
};

static void put(struct output *out, const char *bytes, size_t size) {
    if (size >= out->capacity - out->size) {
        out->full = true;
        return;
    }
    memcpy(out->bytes + out->size, bytes, size);
    out->size += size;
    out->bytes[out->size] = '\0';
}

/* ---- specs -------------------------------------------------------------------------------- */

static bool is_align(char c) {
    return c == '<' || c == '>' || c == '^' || c == '=';
}

/* Digits at *at as a number up to `limit`; false when there are none or it is larger. */
static bool parse_number(const char **at, unsigned limit, unsigned *out) {
    if (!isdigit((unsigned char)**at)) {
        return false;
    }
    unsigned value = 0;
    while (isdigit((unsigned char)**at)) {
        value = value * 10 + (unsigned)(*(*at)++ - '0');
        if (value > limit) {
            return false;
        }
    }
    *out = value;
    return true;
}

static bool spec_parse(const char *at, bool integer, struct spec *out) {
    *out = (struct spec){.fill = ' ', .sign = '-', .precision = -1};
    bool has_fill = at[0] >= ' ' && at[0] <= '~' && is_align(at[1]);
    if (has_fill) {
        out->fill = at[0];
        out->align = at[1];
        at += 2;
    } else if (is_align(at[0])) {
        out->align = *at++;
    }
    if (*at == '+' || *at == '-' || *at == ' ') {
        out->sign = *at++;
    }
    if (*at == '#') {
        out->alternate = true;
        at++;
    }
    if (*at == '0' &&
        !has_fill) { /* zeros, between sign and digits unless an alignment was given */
        out->fill = '0';
        out->align = out->align == 0 ? '=' : out->align;
        at++;
    }
    if (isdigit((unsigned char)*at) && !parse_number(&at, WIDTH_MAX, &out->width)) {
        return false;
    }
    if (*at == '.') {
        unsigned precision = 0;
        at++;
        if (!parse_number(&at, PRECISION_MAX, &precision)) {
            return false;
        }
        out->precision = (int)precision;
    }
    if (*at != '\0') {
        out->type = *at++;
    }
    if (*at != '\0' || out->alternate) {
        return false;
    }
    if (out->type == '\0') {
        return out->precision < 0;
    }
    if (integer && strchr("dxXo", out->type) != NULL) {
        return out->precision < 0;
    }
    return strchr("eEfFgG%", out->type) != NULL;
}

/* ---- numbers ------------------------------------------------------------------------------ */

/* Python's repr of a finite float >= 0: the fewest digits that read back as the same value;
 * exponent form below 1e-4 and from 1e16; always with a point or an exponent. */
static void format_repr(double value, char out[NUMBER_CAPACITY]) {
    char digits[64];
    int precision = 0;
    do {
        snprintf(digits, sizeof digits, "%.*e", precision, value);
    } while (strtod(digits, NULL) != value && ++precision < 17);
    long exponent = strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, NUMBER_CAPACITY, "%s", digits);
        return;
    }
    int decimals = precision - (int)exponent;
    snprintf(out, NUMBER_CAPACITY, "%.*f", decimals > 1 ? decimals : 1, value);
}

/* `value` >= 0 or NaN, without sign and padding. */
static void format_magnitude(double value, const struct spec *spec, char out[NUMBER_CAPACITY]) {
    const char *percent = spec->type == '%' ? "%" : "";
    bool upper = spec->type == 'E' || spec->type == 'F' || spec->type == 'G';
    if (!isfinite(value)) {
        const char *name = isnan(value) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf");
        snprintf(out, NUMBER_CAPACITY, "%s%s", name, percent);
        return;
    }
    int precision = spec->precision < 0 ? 6 : spec->precision;
    switch (spec->type) {
    case '\0':
        format_repr(value, out);
        return;
    case 'e':
        snprintf(out, NUMBER_CAPACITY, "%.*e", precision, value);
        return;
    case 'E':
        snprintf(out, NUMBER_CAPACITY, "%.*E", precision, value);
        return;
    case 'g':
        snprintf(out, NUMBER_CAPACITY, "%.*g", precision, value);
        return;
    case 'G':
        snprintf(out, NUMBER_CAPACITY, "%.*G", precision, value);
        return;
    default:
        snprintf(out, NUMBER_CAPACITY, "%.*f%s", precision, *percent ? value * 100 : value,
                 percent);
        return;
    }
}

static void format_integer(uint64_t value, const struct spec *spec, char out[NUMBER_CAPACITY]) {
    const char *format = spec->type == 'x'   ? "%llx"
                         : spec->type == 'X' ? "%llX"
                         : spec->type == 'o' ? "%llo"
                                             : "%llu";
    snprintf(out, NUMBER_CAPACITY, format, (unsigned long long)value);
}

static void put_repeated(struct output *out, char c, size_t count) {
    for (size_t i = 0; i < count; i++) {
        put(out, &c, 1);
    }
}

static void put_padded(struct output *out, const char *sign, const char *digits,
                       const struct spec *spec) {
    size_t size = strlen(sign) + strlen(digits);
    size_t padding = spec->width > size ? spec->width - size : 0;
    size_t before = 0, inside = 0;
    if (spec->align == '=') {
        inside = padding;
    } else if (spec->align == '^') {
        before = padding / 2;
    } else if (spec->align != '<') { /* numbers stand at the right by default */
        before = padding;
    }
    put_repeated(out, spec->fill, before);
    put(out, sign, strlen(sign));
    put_repeated(out, spec->fill, inside);
    put(out, digits, strlen(digits));
    put_repeated(out, spec->fill, padding - before - inside);
}

/* ---- fields ------------------------------------------------------------------------------- */

struct field_value {
    bool integer;
    uint64_t whole;
    double real;
};

static bool field_lookup(const char *name, const struct template_values *values,
                         struct field_value *out) {
    enum metric metric;
    *out = (struct field_value){0};
    if (strcmp(name, "epoch") == 0) {
        *out = (struct field_value){.integer = true, .whole = values->epoch};
        return true;
    }
    if (strcmp(name, "batch") == 0) {
        *out = (struct field_value){.integer = true, .whole = values->batch};
        return values->has_batch;
    }
    if (!metric_parse(name, &metric)) {
        return false;
    }
    out->real = metric_value(metric, &values->row);
    return metric_needs_validation(metric) ? values->has_validation : values->has_metrics;
}

static enum status field_expand(const char *name, const char *spec_text,
                                const struct template_values *values, struct output *out,
                                struct error *err) {
    char shown[4 * FIELD_CAPACITY];
    struct field_value value;
    struct spec spec;
    char digits[NUMBER_CAPACITY];
    CHECK(field_lookup(name, values, &value), err, STATUS_USAGE,
          "--checkpoint-filepath: {%s} is not known here; known are {epoch}%s%s%s",
          text_escape(name, strlen(name), shown, sizeof shown),
          values->has_batch ? ", {batch}" : "", values->has_metrics ? ", {loss}, {accuracy}" : "",
          values->has_validation ? ", {val_loss}, {val_accuracy}" : "");
    CHECK(spec_parse(spec_text, value.integer, &spec), err, STATUS_USAGE,
          "--checkpoint-filepath: the format \"%s\" of {%s} is not one for %s, such as %s",
          text_escape(spec_text, strlen(spec_text), shown, sizeof shown), name,
          value.integer ? "an integer" : "a number",
          value.integer ? "{epoch:02d}" : "{val_loss:.2f}");
    const char *sign = spec.sign == '-' ? "" : spec.sign == '+' ? "+" : " ";
    if (value.integer && (spec.type == '\0' || strchr("dxXo", spec.type) != NULL)) {
        format_integer(value.whole, &spec, digits);
    } else {
        double real = value.integer ? (double)value.whole : value.real;
        if (signbit(real) && !isnan(real)) {
            sign = "-";
        }
        format_magnitude(isnan(real) ? real : fabs(real), &spec, digits);
    }
    put_padded(out, sign, digits, &spec);
    return STATUS_OK;
}

/* The field that starts behind a '{' at `begin`; *end is set behind its '}'. */
static enum status field_at(const char *begin, const struct template_values *values,
                            struct output *out, const char **end, struct error *err) {
    char name[FIELD_CAPACITY], spec[SPEC_CAPACITY];
    const char *close = strchr(begin, '}');
    CHECK(close != NULL, err, STATUS_USAGE,
          "--checkpoint-filepath: a \"{\" has no \"}\"; write \"{{\" for a brace itself");
    size_t size = (size_t)(close - begin);
    const char *colon = memchr(begin, ':', size);
    size_t name_size = colon == NULL ? size : (size_t)(colon - begin);
    size_t spec_size = colon == NULL ? 0 : size - name_size - 1;
    char shown[128];
    CHECK(name_size < sizeof name && spec_size < sizeof spec, err, STATUS_USAGE,
          "--checkpoint-filepath: {%s} is not a field with a format such as {epoch:02d}",
          text_escape(begin, size, shown, sizeof shown));
    memcpy(name, begin, name_size);
    name[name_size] = '\0';
    memcpy(spec, colon == NULL ? "" : colon + 1, spec_size);
    spec[spec_size] = '\0';
    *end = close + 1;
    return field_expand(name, spec, values, out, err);
}

enum status filepath_expand(const char *path_template, const struct template_values *values,
                            char *out, size_t capacity, struct error *err) {
    struct output output = {.bytes = out, .capacity = capacity};
    CHECK(capacity > 0, err, STATUS_INTERNAL, "--checkpoint-filepath: no room for the path");
    out[0] = '\0';
    for (const char *at = path_template; *at != '\0';) {
        if ((*at == '{' || *at == '}') && at[1] == *at) {
            put(&output, at, 1);
            at += 2;
        } else if (*at == '{') {
            TRY(field_at(at + 1, values, &output, &at, err));
        } else {
            CHECK(*at != '}', err, STATUS_USAGE,
                  "--checkpoint-filepath: a \"}\" has no \"{\"; write \"}}\" for a brace itself");
            put(&output, at, 1);
            at++;
        }
    }
    CHECK(!output.full, err, STATUS_USAGE,
          "--checkpoint-filepath: the path is longer than %zu bytes", capacity - 1);
    return STATUS_OK;
}
