/* dataset_readers.h - what dataset.c and its readers share. Private to io/dataset*.c.
 *
 * A reader has two functions: `open` finds out what is there (has_test, the top folder), `read`
 * pushes the examples of one part. It pushes by dataset_push, or by dataset_push_file where the
 * examples are files whose path decides label and order. Entries it does not use it reports by
 * dataset_unused.
 */
#ifndef CAIRN_IO_DATASET_READERS_H
#define CAIRN_IO_DATASET_READERS_H

#include "host/base/text.h"
#include "io/dataset.h"

struct dataset_reader {
    const char *name; /* for messages: "folder" */
    enum status (*open)(struct dataset *dataset, struct error *err);
    enum status (*read)(struct dataset *dataset, enum dataset_part part, struct error *err);
    bool is_tree; /* train/{pos,neg}, test/{pos,neg}: a folder or an archive */
};

extern const struct dataset_reader dataset_folder, dataset_archive, dataset_csv, dataset_tsv,
    dataset_jsonl, dataset_demo;

enum { DATASET_UNUSED_MAX = 16, DATASET_UNUSED_NAME_CAPACITY = 128 };

/* One kind of entry that is not used, and how many there are. */
struct dataset_unused_group {
    char name[DATASET_UNUSED_NAME_CAPACITY]; /* escaped: fit for a terminal */
    uint64_t entries;
};

struct dataset {
    const struct file_table *files;
    const struct dataset_reader *reader;
    char path[FILE_PATH_CAPACITY];
    char top[256]; /* folder above train and test inside `path`, with a slash behind it; or "" */
    bool has_test;
    bool outside_counted; /* archive: what lies outside both parts is in `unused` already */

    struct dataset_unused_group unused[DATASET_UNUSED_MAX];
    uint32_t unused_count;
    uint64_t unused_more; /* entries of groups beyond DATASET_UNUSED_MAX */
    struct text note;

    /* of the read that runs or ran last */
    dataset_callback callback;
    void *context;
    uint64_t examples, class_examples[2];
    char label_names[2][DATASET_LABEL_CAPACITY];
    struct text names; /* pushed files: path inside the part, each ended by NUL */
    uint64_t *name_at; /* [name_capacity] where each starts */
    uint64_t name_capacity;
    uint32_t *order; /* [examples], NULL: identity */
};

/* Push one example. `label_text` is how the data call its class. */
MUST_USE enum status dataset_push(struct dataset *dataset, const char *text, size_t size,
                                  unsigned label, const char *label_text, size_t label_size,
                                  struct error *err);

/* Push the example in the file `name` ("neg/12_3.txt": class folder and file inside the part);
 * `where` is for messages. STATUS_DATA when it holds a NUL byte. */
MUST_USE enum status dataset_push_file(struct dataset *dataset, const char *name, const char *where,
                                       const char *text, size_t size, struct error *err);

/* Count `entries` that are not used in the group `name`. */
void dataset_unused(struct dataset *dataset, const char *name, uint64_t entries);

/* "train" or "test". */
const char *dataset_part_name(enum dataset_part part);

/* Is it the name of a text file, "*.txt" and not hidden? */
bool dataset_is_text_name(const char *name);

/* The label at *bytes, which is trimmed of white space around it: 0 or 1 into *out. STATUS_DATA
 * with `name` and line. */
MUST_USE enum status dataset_take_label(const char *name, uint64_t line, const char **bytes,
                                        size_t *size, unsigned *out, struct error *err);

#endif
