/* dataset.c - what all data sets share: which reader it is, labels, counting, base order, notes. */
#include "io/dataset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host/base/rng.h"
#include "host/base/stop.h"
#include "io/dataset_readers.h"
#include "io/read_ahead.h"

/* Seed of the base order: part of the meaning of every data set, never to be changed. */
static const uint64_t base_order_seed = 20110626;

/* ---- what is not used ---- */

void dataset_unused(struct dataset *dataset, const char *name, uint64_t entries) {
    char shown[DATASET_UNUSED_NAME_CAPACITY];
    text_escape(name, strlen(name), shown, sizeof shown);
    for (uint32_t i = 0; i < dataset->unused_count; i++) {
        if (strcmp(dataset->unused[i].name, shown) == 0) {
            dataset->unused[i].entries += entries;
            return;
        }
    }
    if (dataset->unused_count == DATASET_UNUSED_MAX) {
        dataset->unused_more += entries;
        return;
    }
    struct dataset_unused_group *group = &dataset->unused[dataset->unused_count++];
    memcpy(group->name, shown, sizeof shown);
    group->entries = entries;
}

/* Groups of a part are counted anew by each read of it; a single file is one part. */
static void forget_unused_of(struct dataset *dataset, enum dataset_part part) {
    const char *name = dataset_part_name(part);
    size_t size = strlen(name);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < dataset->unused_count; i++) {
        const struct dataset_unused_group *group = &dataset->unused[i];
        bool of_part = strncmp(group->name, name, size) == 0 && group->name[size] == '/';
        if (dataset->reader->is_tree && !of_part) {
            dataset->unused[kept++] = *group;
        }
    }
    dataset->unused_count = kept;
}

static enum status make_note(struct dataset *dataset, struct error *err) {
    struct text *note = &dataset->note;
    text_clear(note);
    for (uint32_t i = 0; i < dataset->unused_count; i++) {
        const struct dataset_unused_group *group = &dataset->unused[i];
        if (i == 0) {
            text_printf(note, "%s: not used: ", dataset->path);
        }
        text_printf(note, "%s%s", i > 0 ? ", " : "", group->name);
        if (group->entries > 1) {
            text_printf(note, " (%llu entries)", (unsigned long long)group->entries);
        }
    }
    if (dataset->unused_more > 0) {
        text_printf(note, " and %llu more", (unsigned long long)dataset->unused_more);
    }
    CHECK(!note->failed, err, STATUS_MEMORY, "no memory for a note about %s", dataset->path);
    return STATUS_OK;
}

const char *dataset_note(const struct dataset *dataset) {
    return dataset->note.size > 0 ? dataset->note.bytes : NULL;
}

/* ---- opening ---- */

static bool ends_with(const char *path, const char *suffix) {
    size_t size = strlen(path), suffix_size = strlen(suffix);
    return size >= suffix_size && strcasecmp(path + size - suffix_size, suffix) == 0;
}

static const struct dataset_reader *reader_for_file(const char *path) {
    static const struct {
        const char *suffix;
        const struct dataset_reader *reader;
    } kinds[] = {
        {".tar", &dataset_archive},     {".tar.gz", &dataset_archive}, {".tgz", &dataset_archive},
        {".tar.zst", &dataset_archive}, {".csv", &dataset_csv},        {".tsv", &dataset_tsv},
        {".jsonl", &dataset_jsonl},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (ends_with(path, kinds[i].suffix)) {
            return kinds[i].reader;
        }
    }
    return NULL;
}

static enum status choose_reader(struct dataset *dataset, struct error *err) {
    const char *path = dataset->path;
    if (strcmp(path, "demo") == 0) {
        dataset->reader = &dataset_demo;
        return STATUS_OK;
    }
    struct file_stat stat;
    int found = dataset->files->stat(dataset->files->context, path, &stat);
    if (found < 0) {
        char reason[160];
        return error_set(err, file_input_status(found),
                         "cannot open the data %s: %s (expected a folder, an archive, a .csv, .tsv "
                         "or .jsonl file, or the word demo)",
                         path, file_errno_text(found, reason, sizeof reason));
    }
    dataset->reader = stat.is_directory ? &dataset_folder : reader_for_file(path);
    CHECK(dataset->reader != NULL, err, STATUS_DATA,
          "%s: unknown kind of data: expected a folder, or a file named .tar, .tar.gz, .tgz, "
          ".tar.zst, "
          ".csv, .tsv or .jsonl",
          path);
    CHECK(dataset->reader != &dataset_archive || stat.is_regular, err, STATUS_DATA,
          "%s is not a regular file: an archive is read more than once", path);
    return STATUS_OK;
}

enum status dataset_open(const struct file_table *files, const char *path, struct dataset **out,
                         struct error *err) {
    size_t size = strlen(path);
    CHECK(size > 0, err, STATUS_USAGE,
          "the path of the data is empty: expected a folder or a file");
    CHECK(size < FILE_PATH_CAPACITY, err, STATUS_INPUT,
          "the path of the data is too long: %zu bytes", size);
    struct dataset *dataset = calloc(1, sizeof *dataset);
    CHECK(dataset != NULL, err, STATUS_MEMORY, "no memory for a data set");
    dataset->files = files;
    memcpy(dataset->path, path, size + 1);
    while (size > 1 && dataset->path[size - 1] == '/') {
        dataset->path[--size] = '\0';
    }
    enum status status = choose_reader(dataset, err);
    if (status == STATUS_OK && dataset->reader->open != NULL) {
        status = dataset->reader->open(dataset, err);
    }
    if (status == STATUS_OK) {
        status = make_note(dataset, err);
    }
    if (status != STATUS_OK) {
        dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return STATUS_OK;
}

void dataset_close(struct dataset *dataset) {
    if (dataset != NULL) {
        text_free(&dataset->note);
        text_free(&dataset->names);
        free(dataset->name_at);
        free(dataset->order);
        free(dataset);
    }
}

bool dataset_has_test(const struct dataset *dataset) {
    return dataset->has_test;
}

const char *dataset_part_name(enum dataset_part part) {
    return part == DATASET_TRAIN ? "train" : "test";
}

bool dataset_is_text_name(const char *name) {
    size_t size = strlen(name);
    return size > 4 && name[0] != '.' && strcmp(name + size - 4, ".txt") == 0;
}

/* ---- labels ---- */

static const char *const label_words[2][3] = {{"0", "neg", "negative"}, {"1", "pos", "positive"}};

int dataset_parse_label(const char *bytes, size_t size) {
    for (int label = 0; label < 2; label++) {
        for (size_t i = 0; i < 3; i++) {
            const char *word = label_words[label][i];
            if (strlen(word) == size && strncasecmp(word, bytes, size) == 0) {
                return label;
            }
        }
    }
    return -1;
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

enum status dataset_take_label(const char *name, uint64_t line, const char **bytes, size_t *size,
                               unsigned *out, struct error *err) {
    while (*size > 0 && is_blank((*bytes)[0])) {
        ++*bytes;
        --*size;
    }
    while (*size > 0 && is_blank((*bytes)[*size - 1])) {
        --*size;
    }
    int label = dataset_parse_label(*bytes, *size);
    if (label < 0) {
        char shown[64];
        return error_set(
            err, STATUS_DATA,
            "%s: line %llu: the label is \"%s\": expected 0 or 1, neg or pos, negative "
            "or positive",
            name, (unsigned long long)line, text_escape(*bytes, *size, shown, sizeof shown));
    }
    *out = (unsigned)label;
    return STATUS_OK;
}

const char *dataset_label_name(const struct dataset *dataset, unsigned label) {
    return dataset->label_names[label & 1];
}

/* ---- pushing ---- */

enum status dataset_push(struct dataset *dataset, const char *text, size_t size, unsigned label,
                         const char *label_text, size_t label_size, struct error *err) {
    CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal while reading %s",
          dataset->path);
    CHECK(dataset->examples < UINT32_MAX, err, STATUS_DATA, "%s: more than %u examples",
          dataset->path, UINT32_MAX);
    if (dataset->class_examples[label] == 0 && label_size < DATASET_LABEL_CAPACITY) {
        memcpy(dataset->label_names[label], label_text, label_size);
        dataset->label_names[label][label_size] = '\0';
    }
    TRY(dataset->callback(dataset->context, text, size, label, err));
    dataset->examples++;
    dataset->class_examples[label]++;
    return STATUS_OK;
}

static enum status remember_name(struct dataset *dataset, const char *name, struct error *err) {
    if (dataset->examples == dataset->name_capacity) {
        uint64_t capacity = dataset->name_capacity == 0 ? 4096 : dataset->name_capacity * 2;
        uint64_t *name_at = realloc(dataset->name_at, capacity * sizeof *name_at);
        CHECK(name_at != NULL, err, STATUS_MEMORY, "no memory for the file names of %s",
              dataset->path);
        dataset->name_at = name_at;
        dataset->name_capacity = capacity;
    }
    dataset->name_at[dataset->examples] = dataset->names.size;
    text_append(&dataset->names, name, strlen(name) + 1);
    CHECK(!dataset->names.failed, err, STATUS_MEMORY, "no memory for the file names of %s",
          dataset->path);
    return STATUS_OK;
}

enum status dataset_push_file(struct dataset *dataset, const char *name, const char *where,
                              const char *text, size_t size, struct error *err) {
    const char *nul = memchr(text, '\0', size);
    if (nul != NULL) {
        unsigned long long line = 1;
        for (const char *at = text; at < nul; at++) {
            line += *at == '\n';
        }
        char shown[512];
        return error_set(err, STATUS_DATA,
                         "%s: line %llu holds a NUL byte: expected a text file (is it binary, or "
                         "UTF-16?)",
                         text_escape(where, strlen(where), shown, sizeof shown), line);
    }
    TRY(remember_name(dataset, name, err));
    size_t label_size = strcspn(name, "/");
    int label = dataset_parse_label(name, label_size);
    CHECK(label >= 0, err, STATUS_INTERNAL, "%s lies in no class folder", where);
    return dataset_push(dataset, text, size, (unsigned)label, name, label_size, err);
}

/* ---- base order ---- */

static int compare_names(const void *left, const void *right, void *context) {
    const struct dataset *dataset = context;
    return strcmp(dataset->names.bytes + dataset->name_at[*(const uint32_t *)left],
                  dataset->names.bytes + dataset->name_at[*(const uint32_t *)right]);
}

static enum status refuse_duplicates(struct dataset *dataset, const uint32_t *sorted,
                                     struct error *err) {
    for (uint64_t i = 1; i < dataset->examples; i++) {
        if (compare_names(&sorted[i - 1], &sorted[i], dataset) == 0) {
            const char *name = dataset->names.bytes + dataset->name_at[sorted[i]];
            char shown[256];
            return error_set(err, STATUS_DATA, "%s: the entry %s is there twice: expected it once",
                             dataset->path, text_escape(name, strlen(name), shown, sizeof shown));
        }
    }
    return STATUS_OK;
}

/* Sorted paths, permuted by a fixed key. */
static enum status make_base_order(struct dataset *dataset, enum dataset_part part,
                                   struct error *err) {
    size_t count = (size_t)dataset->examples;
    uint32_t *sorted = malloc((count + 1) * sizeof *sorted);
    uint32_t *order = malloc((count + 1) * sizeof *order);
    enum status status = STATUS_OK;
    if (sorted == NULL || order == NULL) {
        status = error_set(err, STATUS_MEMORY, "no memory for the order of %s", dataset->path);
        goto done;
    }
    for (uint32_t i = 0; i < count; i++) {
        sorted[i] = order[i] = i;
    }
    qsort_r(sorted, count, sizeof *sorted, compare_names, dataset);
    status = refuse_duplicates(dataset, sorted, err);
    if (status != STATUS_OK) {
        goto done;
    }
    struct rng rng = rng_make(base_order_seed, RNG_STREAM_BASE_ORDER, (uint32_t)part);
    rng_permute(&rng, order, count);
    for (size_t i = 0; i < count; i++) {
        order[i] = sorted[order[i]];
    }
    free(dataset->order);
    dataset->order = order;
    order = NULL;
done:
    free(sorted);
    free(order);
    return status;
}

uint64_t dataset_base_order(const struct dataset *dataset, const uint32_t **order) {
    *order = dataset->order;
    return dataset->examples;
}

/* ---- reading ---- */

static void forget_last_read(struct dataset *dataset, enum dataset_part part) {
    forget_unused_of(dataset, part);
    text_clear(&dataset->names);
    free(dataset->order);
    dataset->order = NULL;
    dataset->examples = 0;
    memset(dataset->class_examples, 0, sizeof dataset->class_examples);
    memset(dataset->label_names, 0, sizeof dataset->label_names);
}

static enum status check_classes(const struct dataset *dataset, enum dataset_part part,
                                 struct error *err) {
    const char *of_part = dataset->has_test ? dataset_part_name(part) : "data";
    CHECK(dataset->examples > 0, err, STATUS_DATA,
          "%s: the %s part holds no example: expected examples of both classes", dataset->path,
          of_part);
    for (int label = 0; label < 2; label++) {
        CHECK(
            dataset->class_examples[label] > 0, err, STATUS_DATA,
            "%s: the %s part has no example of class %d (label %d, %s or %s): expected examples of "
            "both classes",
            dataset->path, of_part, label, label, label_words[label][1], label_words[label][2]);
    }
    return STATUS_OK;
}

struct part_source {
    struct dataset *dataset;
    enum dataset_part part;
};

static enum status push_part(void *context, dataset_callback push, void *push_context,
                             struct error *err) {
    const struct part_source *source = context;
    struct dataset *dataset = source->dataset;
    dataset->callback = push;
    dataset->context = push_context;
    return dataset->reader->read(dataset, source->part, err);
}

enum status dataset_read(struct dataset *dataset, enum dataset_part part, dataset_callback callback,
                         void *context, struct error *err) {
    CHECK(part == DATASET_TRAIN || dataset->has_test, err, STATUS_DATA,
          "%s has no test part: expected test/pos and test/neg", dataset->path);
    forget_last_read(dataset, part);
    struct part_source source = {.dataset = dataset, .part = part};
    TRY(read_ahead(push_part, &source, callback, context, err));
    TRY(make_note(dataset, err));
    TRY(check_classes(dataset, part, err));
    return dataset->reader->is_tree ? make_base_order(dataset, part, err) : STATUS_OK;
}
