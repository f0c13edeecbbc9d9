/* dataset_archive.c - the tree of dataset_folder.c inside a tar file, plain or compressed by gzip
 * or zstd, read once per pass from front to end through libarchive. Nothing is ever unpacked to
 * disk. */
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/stop.h"
#include "io/dataset_readers.h"

enum { BLOCK_BYTES = 256 << 10 };

/* One pass over the archive. */
struct pass {
    struct dataset *dataset;
    struct archive *archive;
    struct archive_entry *entry;
    struct text name_bytes;
    const char *name; /* of the entry, in name_bytes; NULL before the first and behind the last */
    int fd;
    int read_error;  /* negative errno of a failed read, 0 */
    bool file_ended; /* a read returned nothing */
    unsigned char *block;
    char *text; /* DATASET_TEXT_BYTES_MAX + 1 bytes, of which only touched pages cost memory */
};

/* ---- opening and closing ---- */

static la_ssize_t read_block(struct archive *archive, void *context, const void **out) {
    struct pass *pass = context;
    const struct file_table *files = pass->dataset->files;
    ssize_t got = files->read(files->context, pass->fd, pass->block, BLOCK_BYTES);
    if (got < 0) {
        pass->read_error = (int)got;
        archive_set_error(archive, (int)-got, "read failed");
        return -1;
    }
    pass->file_ended = got == 0;
    *out = pass->block;
    return got;
}

static void pass_close(struct pass *pass) {
    archive_read_free(pass->archive);
    if (pass->fd >= 0) {
        pass->dataset->files->close(pass->dataset->files->context, pass->fd);
    }
    text_free(&pass->name_bytes);
    free(pass->block);
    free(pass->text);
}

/* Why libarchive, or a read below it, failed. */
static enum status pass_failed(const struct pass *pass, struct error *err) {
    const char *path = pass->dataset->path;
    if (pass->read_error != 0) {
        char reason[160];
        return error_set(err, file_input_status(pass->read_error), "cannot read %s: %s", path,
                         file_errno_text(pass->read_error, reason, sizeof reason));
    }
    char shown[256], why[256];
    const char *text = archive_error_string(pass->archive);
    text = text != NULL ? text : "unknown error";
    text_escape(text, strlen(text), why, sizeof why);
    if (pass->name == NULL) {
        return error_set(err, STATUS_DATA,
                         "%s: %s: expected a tar file, plain or compressed by gzip or zstd", path,
                         why);
    }
    return error_set(err, STATUS_DATA,
                     "%s: in or behind the entry %s: %s: expected an undamaged tar file", path,
                     text_escape(pass->name, strlen(pass->name), shown, sizeof shown), why);
}

/* pass_close also after a failure. */
static enum status pass_open(struct dataset *dataset, struct pass *pass, struct error *err) {
    *pass = (struct pass){.dataset = dataset, .fd = -1};
    pass->block = malloc(BLOCK_BYTES);
    pass->text = malloc((size_t)DATASET_TEXT_BYTES_MAX + 1);
    pass->archive = archive_read_new();
    CHECK(pass->block != NULL && pass->text != NULL && pass->archive != NULL, err, STATUS_MEMORY,
          "no memory to read %s", dataset->path);
    pass->fd = dataset->files->open(dataset->files->context, dataset->path, O_RDONLY, 0);
    if (pass->fd < 0) {
        char reason[160];
        return error_set(err, file_input_status(pass->fd), "cannot open %s: %s", dataset->path,
                         file_errno_text(pass->fd, reason, sizeof reason));
    }
    /* Only these: other filters of libarchive start programs. */
    if (archive_read_support_filter_gzip(pass->archive) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(pass->archive) != ARCHIVE_OK ||
        archive_read_support_format_tar(pass->archive) != ARCHIVE_OK) {
        return error_set(err, STATUS_DATA,
                         "cannot read %s: the libarchive on this machine lacks tar, gzip or zstd",
                         dataset->path);
    }
    if (archive_read_open2(pass->archive, pass, NULL, read_block, NULL, NULL) != ARCHIVE_OK) {
        return pass_failed(pass, err);
    }
    return STATUS_OK;
}

/* A tar file ends with a mark (two blocks of zeros); one that just stops was cut between two
 * entries. For the compressed kinds the decompressor notices a cut. */
static bool ends_without_mark(const struct pass *pass) {
    return pass->file_ended && archive_filter_count(pass->archive) == 1;
}

/* Keep the entry's name, without leading "./" and "/": in UTF-8 where the archive says so, else the
 * bytes that are there. A copy, because messages about what follows name it when the entry is gone.
 */
static enum status take_name(struct pass *pass, struct error *err) {
    const char *name = archive_entry_pathname_utf8(pass->entry);
    if (name == NULL) {
        name = archive_entry_pathname(pass->entry);
    }
    CHECK(name != NULL, err, STATUS_DATA, "%s: an entry has no readable name: expected one",
          pass->dataset->path);
    while (name[0] == '/' || (name[0] == '.' && name[1] == '/')) {
        name++;
    }
    text_clear(&pass->name_bytes);
    text_append(&pass->name_bytes, name, strlen(name) + 1);
    CHECK(!pass->name_bytes.failed, err, STATUS_MEMORY, "no memory to read %s",
          pass->dataset->path);
    pass->name = pass->name_bytes.bytes;
    return STATUS_OK;
}

/* The next entry that is not a folder; pass->name is NULL at the end. */
static enum status pass_next(struct pass *pass, struct error *err) {
    const char *path = pass->dataset->path;
    do {
        CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal while reading %s",
              path);
        int result = archive_read_next_header(pass->archive, &pass->entry);
        if (result == ARCHIVE_EOF) {
            CHECK(!ends_without_mark(pass), err, STATUS_DATA,
                  "%s: the end-of-archive mark is missing: expected a whole tar file (was it cut?)",
                  path);
            pass->name = NULL;
            return STATUS_OK;
        }
        /* ARCHIVE_WARN: an odd date or a name that the locale cannot show; the entry is good. */
        if (result != ARCHIVE_OK && result != ARCHIVE_WARN) {
            return pass_failed(pass, err);
        }
        TRY(take_name(pass, err));
    } while (archive_entry_filetype(pass->entry) == AE_IFDIR &&
             archive_entry_hardlink(pass->entry) == NULL);
    return STATUS_OK;
}

/* ---- where an entry lies ---- */

/* If `name` is "<part>/neg/..." or "<part>/pos/...", below at most one folder: the length of that
 * folder with its slash, else -1. */
static int tree_offset(const char *name, enum dataset_part part) {
    const char *part_name = dataset_part_name(part);
    size_t size = strlen(part_name);
    const char *slash = strchr(name, '/');
    const char *starts[2] = {name, slash != NULL ? slash + 1 : NULL};
    for (size_t i = 0; i < 2 && starts[i] != NULL; i++) {
        const char *at = starts[i];
        if (strncmp(at, part_name, size) == 0 &&
            (strncmp(at + size, "/neg/", 5) == 0 || strncmp(at + size, "/pos/", 5) == 0)) {
            return (int)(at - name);
        }
    }
    return -1;
}

static enum status set_top(struct dataset *dataset, const char *name, int offset,
                           struct error *err) {
    CHECK((size_t)offset < sizeof dataset->top, err, STATUS_DATA,
          "%s: a folder name is longer than %zu bytes", dataset->path, sizeof dataset->top - 1);
    memcpy(dataset->top, name, (size_t)offset);
    dataset->top[offset] = '\0';
    return STATUS_OK;
}

/* The part of the name below the top folder, where the entry lies in the data set's tree at all. */
static const char *inside_top(const struct dataset *dataset, const char *name) {
    size_t size = strlen(dataset->top);
    return strncmp(name, dataset->top, size) == 0 ? name + size : NULL;
}

/* Find the top folder, and whether there is a test part: ends with the first entry of one. */
static enum status scan(struct pass *pass, struct error *err) {
    struct dataset *dataset = pass->dataset;
    bool found = false;
    for (;;) {
        TRY(pass_next(pass, err));
        if (pass->name == NULL) {
            break;
        }
        int test = tree_offset(pass->name, DATASET_TEST);
        int offset = test >= 0 ? test : tree_offset(pass->name, DATASET_TRAIN);
        if (offset >= 0 && !found) {
            TRY(set_top(dataset, pass->name, offset, err));
            found = true;
        }
        if (test >= 0) {
            dataset->has_test = true;
            return STATUS_OK;
        }
    }
    CHECK(found, err, STATUS_DATA,
          "%s: no entry train/pos/*.txt in it: expected train/pos and train/neg, perhaps test/pos "
          "and "
          "test/neg, perhaps below one folder",
          dataset->path);
    return STATUS_OK;
}

static enum status archive_open_dataset(struct dataset *dataset, struct error *err) {
    struct pass pass;
    enum status status = pass_open(dataset, &pass, err);
    if (status == STATUS_OK) {
        status = scan(&pass, err);
    }
    pass_close(&pass);
    return status;
}

/* ---- reading ---- */

static enum status read_text(struct pass *pass, size_t *out_size, struct error *err) {
    size_t size = 0;
    for (;;) {
        la_ssize_t got = archive_read_data(pass->archive, pass->text + size,
                                           (size_t)DATASET_TEXT_BYTES_MAX + 1 - size);
        if (got < 0) {
            return pass_failed(pass, err);
        }
        if (got == 0) {
            break;
        }
        size += (size_t)got;
        if (size > DATASET_TEXT_BYTES_MAX) {
            char shown[256];
            return error_set(
                err, STATUS_DATA,
                "%s: the entry %s is longer than %d bytes (16 MiB): expected one review "
                "an entry",
                pass->dataset->path,
                text_escape(pass->name, strlen(pass->name), shown, sizeof shown),
                DATASET_TEXT_BYTES_MAX);
        }
    }
    *out_size = size;
    return STATUS_OK;
}

static enum status push_entry(struct pass *pass, const char *name, struct error *err) {
    if (archive_entry_filetype(pass->entry) != AE_IFREG ||
        archive_entry_hardlink(pass->entry) != NULL) {
        char shown[256];
        return error_set(err, STATUS_DATA,
                         "%s: the entry %s is a link or a special file: expected a regular file",
                         pass->dataset->path,
                         text_escape(pass->name, strlen(pass->name), shown, sizeof shown));
    }
    size_t size = 0;
    TRY(read_text(pass, &size, err));
    char where[FILE_PATH_CAPACITY + 512];
    snprintf(where, sizeof where, "%s: entry %s", pass->dataset->path, pass->name);
    return dataset_push_file(pass->dataset, name, where, pass->text, size, err);
}

static bool lies_in(const char *inside, enum dataset_part part) {
    const char *name = dataset_part_name(part);
    size_t size = strlen(name);
    return inside != NULL && strncmp(inside, name, size) == 0 && inside[size] == '/';
}

/* Count an entry that is not used, under the name of the folder it lies in: "train/unsup". */
static void count_unused(struct dataset *dataset, enum dataset_part part, const char *name) {
    const char *inside = inside_top(dataset, name);
    bool in_own = lies_in(inside, part);
    if (lies_in(inside, part == DATASET_TRAIN ? DATASET_TEST : DATASET_TRAIN) ||
        (!in_own && dataset->outside_counted)) {
        return;
    }
    const char *shown = inside != NULL ? inside : name;
    size_t size = strcspn(shown, "/");
    if (in_own) {
        size += 1 + strcspn(shown + size + 1, "/");
    }
    bool of_class = in_own && (memcmp(shown + size - 4, "/neg", 4) == 0 ||
                               memcmp(shown + size - 4, "/pos", 4) == 0);
    char group[DATASET_UNUSED_NAME_CAPACITY];
    int shown_size = (int)(size < sizeof group ? size : sizeof group - 1);
    snprintf(group, sizeof group, "%.*s%s", shown_size, shown, of_class ? " other than *.txt" : "");
    dataset_unused(dataset, group, 1);
}

/* Is the entry an example of the part? Then *out is its name inside the part: "neg/1_2.txt". */
static enum status is_example(struct dataset *dataset, enum dataset_part part, const char *name,
                              const char **out, struct error *err) {
    *out = NULL;
    int offset = tree_offset(name, part);
    if (offset < 0) {
        return STATUS_OK;
    }
    const char *example = name + offset + strlen(dataset_part_name(part)) + 1;
    if (strchr(example + 4, '/') != NULL || !dataset_is_text_name(example + 4)) {
        return STATUS_OK;
    }
    if (strlen(dataset->top) != (size_t)offset ||
        strncmp(name, dataset->top, (size_t)offset) != 0) {
        char first[256], second[256];
        return error_set(err, STATUS_DATA,
                         "%s holds two data sets, one in \"%s\" and one in \"%s\": expected one",
                         dataset->path,
                         text_escape(dataset->top, strlen(dataset->top), first, sizeof first),
                         text_escape(name, (size_t)offset, second, sizeof second));
    }
    *out = example;
    return STATUS_OK;
}

static enum status read_part(struct pass *pass, enum dataset_part part, struct error *err) {
    for (;;) {
        TRY(pass_next(pass, err));
        if (pass->name == NULL) {
            pass->dataset->outside_counted = true;
            return STATUS_OK;
        }
        const char *example;
        TRY(is_example(pass->dataset, part, pass->name, &example, err));
        if (example != NULL) {
            TRY(push_entry(pass, example, err));
        } else {
            count_unused(pass->dataset, part, pass->name);
        }
    }
}

static enum status archive_read_dataset(struct dataset *dataset, enum dataset_part part,
                                        struct error *err) {
    struct pass pass;
    enum status status = pass_open(dataset, &pass, err);
    if (status == STATUS_OK) {
        status = read_part(&pass, part, err);
    }
    pass_close(&pass);
    return status;
}

const struct dataset_reader dataset_archive = {
    .name = "archive", .open = archive_open_dataset, .read = archive_read_dataset, .is_tree = true};
