/* Every repeat of everything as a line of --csv, and every stall as one of --stalls. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/bench_checkpoint_report.h"

/* Behind the columns of the saves come those of what is measured once of a state, or of a place. */
enum {
    RESTORE_FIELDS = CHECKPOINT_CACHES * CHECKPOINT_RESTORE_PARTS,
    ENCODE_FIELDS = 4,
    KILL_FIELDS = 6
};

const char *const checkpoint_cache_names[CHECKPOINT_CACHES] = {"cold", "warm"};

/* ---- files ----------------------------------------------------------------------------------- */

/* "stall_p99_us" of {"stall p99", "us"}. */
static void print_column_name(FILE *csv, const struct checkpoint_column *column) {
    const char *unit = strcmp(column->unit, "%") == 0 ? "percent" : column->unit;
    fprintf(csv, ",");
    for (const char *at = column->name; *at != '\0'; at++) {
        fputc(*at == ' ' ? '_' : *at, csv);
    }
    if (unit[0] != '\0') {
        fprintf(csv, "_%s", strcmp(unit, "MB/s") == 0 ? "MB_per_s" : unit);
    }
}

static void print_head(FILE *csv) {
    fprintf(csv, "kind,storage,state,mode,interval,repeat");
    for (size_t i = 0; i < checkpoint_column_count; i++) {
        print_column_name(csv, &checkpoint_columns[i]);
    }
    for (int cache = 0; cache < CHECKPOINT_CACHES; cache++) {
        for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
            fprintf(csv, ",restore_%s_%s_ms", checkpoint_cache_names[cache],
                    checkpoint_restore_part_name(part));
        }
    }
    fprintf(csv, ",encode_MB_per_s,encode_ratio,zstd_alone_MB_per_s,zstd_alone_ratio");
    fprintf(csv, ",steps_lost,steps_made,lived_ms,steps_lost_mean,steps_lost_max,interval_steps\n");
}

/* NULL, with STATUS_OK, where no file is asked for. */
static enum status open_file(const char *path, const char *option, const char *mode, FILE **out,
                             struct error *err) {
    *out = path[0] == '\0' ? NULL : fopen(path, mode);
    CHECK(path[0] == '\0' || *out != NULL, err, STATUS_OUTPUT, "--%s %s cannot be written: %s",
          option, path, strerror(errno));
    return STATUS_OK;
}

static enum status try_file(const char *path, const char *option, struct error *err) {
    struct stat about;
    FILE *file;
    if (stat(path, &about) == 0 && !S_ISREG(about.st_mode) && !S_ISDIR(about.st_mode)) {
        return STATUS_OK; /* who reads a pipe would take a first closing for the end */
    }
    TRY(open_file(path, option, "a", &file, err));
    if (file != NULL) {
        fclose(file);
    }
    return STATUS_OK;
}

enum status checkpoint_csv_try(const struct options *options, struct error *err) {
    TRY(try_file(options->csv, "csv", err));
    return try_file(options->stalls, "stalls", err);
}

enum status checkpoint_csv_open(const struct options *options, struct checkpoint_csv *out,
                                struct error *err) {
    TRY(open_file(options->csv, "csv", "w", &out->lines, err));
    TRY(open_file(options->stalls, "stalls", "w", &out->stalls, err));
    if (out->lines != NULL) {
        print_head(out->lines);
    }
    if (out->stalls != NULL) {
        fprintf(out->stalls, "storage,state,mode,interval,repeat,stall_us,stall_cpu_us\n");
    }
    return STATUS_OK;
}

static enum status close_file(FILE **file, const char *path, const char *option,
                              struct error *err) {
    if (*file == NULL) {
        return STATUS_OK;
    }
    bool written = !ferror(*file);
    written = fclose(*file) == 0 && written;
    *file = NULL;
    CHECK(written, err, STATUS_IO, "--%s %s could not be written: %s", option, path,
          strerror(errno));
    return STATUS_OK;
}

enum status checkpoint_csv_close(struct checkpoint_csv *csv, const struct options *options,
                                 struct error *err) {
    struct error later = {0};
    enum status status = close_file(&csv->lines, options->csv, "csv", err);
    enum status second =
        close_file(&csv->stalls, options->stalls, "stalls", status == STATUS_OK ? err : &later);
    return status == STATUS_OK ? second : status;
}

/* ---- lines of cells -------------------------------------------------------------------------- */

static void skip_fields(size_t count, FILE *csv) {
    while (count-- > 0) {
        fputc(',', csv);
    }
}

static void begin_line(FILE *csv, const char *kind, const struct checkpoint_case *cell,
                       size_t interval, enum checkpoint_mode mode) {
    char every[24];
    fprintf(csv, "%s,%s,%s,%s,%s,", kind, cell->place, cell->state, checkpoint_mode_name(mode),
            checkpoint_interval_name(cell, interval, every));
}

static void print_round(FILE *csv, enum checkpoint_mode mode,
                        const struct checkpoint_round *round) {
    for (size_t i = 0; i < checkpoint_column_count; i++) {
        double value = checkpoint_column_value(&checkpoint_columns[i], round);
        fputc(',', csv);
        if (checkpoint_column_applies(&checkpoint_columns[i], mode) && !isnan(value)) {
            fprintf(csv, "%.10g", value);
        }
    }
    skip_fields(RESTORE_FIELDS + ENCODE_FIELDS + KILL_FIELDS, csv);
    fputc('\n', csv);
}

static void print_stalls(FILE *csv, const struct checkpoint_case *cell, size_t interval,
                         enum checkpoint_mode mode) {
    const struct checkpoint_stalls *stalls = &cell->stalls[interval][mode];
    char every[24];
    checkpoint_interval_name(cell, interval, every);
    size_t at = 0;
    for (unsigned repeat = 0; repeat < cell->repeats; repeat++) {
        size_t end = at + (size_t)cell->rounds[interval][mode][repeat].stalls;
        for (; at < end; at++) {
            fprintf(csv, "%s,%s,%s,%s,%u,%.10g,%.10g\n", cell->place, cell->state,
                    checkpoint_mode_name(mode), every, repeat + 1, stalls->walls[at] * 1e6,
                    stalls->cpus[at] * 1e6);
        }
    }
}

void checkpoint_csv_cell(struct checkpoint_csv *csv, const struct checkpoint_case *cell,
                         size_t interval, enum checkpoint_mode mode,
                         const struct checkpoint_round *whole) {
    for (unsigned repeat = 0; csv->lines != NULL && repeat < cell->repeats; repeat++) {
        begin_line(csv->lines, "repeat", cell, interval, mode);
        fprintf(csv->lines, "%u", repeat + 1);
        print_round(csv->lines, mode, &cell->rounds[interval][mode][repeat]);
    }
    if (csv->lines != NULL && whole != NULL) {
        begin_line(csv->lines, "all repeats", cell, interval, mode);
        print_round(csv->lines, mode, whole);
    }
    if (csv->stalls != NULL) {
        print_stalls(csv->stalls, cell, interval, mode);
    }
}

/* ---- lines of states and places -------------------------------------------------------------- */

void checkpoint_csv_restores(struct checkpoint_csv *csv, const struct checkpoint_case *cell,
                             const struct checkpoint_restore *restore) {
    FILE *file = csv->lines;
    for (unsigned repeat = 0; file != NULL && repeat < restore->repeats; repeat++) {
        fprintf(file, "restore,%s,%s,,,%u", cell->place, cell->state, repeat + 1);
        skip_fields(checkpoint_column_count, file);
        for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
            fputc(',', file);
            if (restore->cold_possible) {
                fprintf(file, "%.10g", restore->cold[part][repeat] * 1e3);
            }
        }
        for (enum checkpoint_restore_part part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
            fprintf(file, ",%.10g", restore->warm[part][repeat] * 1e3);
        }
        skip_fields(ENCODE_FIELDS + KILL_FIELDS, file);
        fputc('\n', file);
    }
}

void checkpoint_csv_encodings(struct checkpoint_csv *csv, const struct checkpoint_case *cell,
                              const struct checkpoint_encoding *encoding) {
    FILE *file = csv->lines;
    for (unsigned repeat = 0; file != NULL && repeat < encoding->repeats; repeat++) {
        fprintf(file, "encode,%s,%s,,,%u", cell->place, cell->state, repeat + 1);
        skip_fields(checkpoint_column_count + RESTORE_FIELDS, file);
        fprintf(file, ",%.10g,%.10g,%.10g,%.10g", encoding->speed[repeat] * 1e-6,
                encoding->raw_bytes / encoding->bytes, encoding->zstd_speed[repeat] * 1e-6,
                encoding->raw_bytes / encoding->zstd_bytes);
        skip_fields(KILL_FIELDS, file);
        fputc('\n', file);
    }
}

void checkpoint_csv_kills(struct checkpoint_csv *csv, const char *place, const char *state,
                          const struct checkpoint_kills *kills) {
    FILE *file = csv->lines;
    size_t others = checkpoint_column_count + RESTORE_FIELDS + ENCODE_FIELDS;
    const char *mode = checkpoint_mode_name(kills->mode);
    char every[24];
    checkpoint_steps_name(kills->interval, every);
    for (unsigned i = 0; file != NULL && i < kills->count; i++) {
        fprintf(file, "kill,%s,%s,%s,%s,%u", place, state, mode, every, i + 1);
        skip_fields(others, file);
        fprintf(file, ",%.10g,%.10g,%.10g,,,\n", kills->lost[i], kills->made[i],
                kills->lived[i] * 1e3);
    }
    if (file != NULL) {
        fprintf(file, "all kills,%s,%s,%s,%s,", place, state, mode, every);
        skip_fields(others, file);
        fprintf(file, ",,,,%.10g,%.10g,%llu\n", checkpoint_kills_mean(kills),
                checkpoint_kills_most(kills), (unsigned long long)kills->interval_steps);
    }
}
