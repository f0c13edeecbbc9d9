/* dataset.h - labelled texts out of folders, archives, CSV, TSV, JSONL and the built-in demo
 * corpus.
 *
 * A data set has a training part, a test part, or one part without a name (a single file). Readers
 * push: each example goes to a callback, and only the few that were read ahead (read_ahead.h) are in
 * memory. Files keep their order. Folders and archives are read in any order and afterwards
 * permuted into the base order: sorted paths, permuted by a fixed key, the same for a folder and
 * for an archive of it, so that the head of the list sees both classes.
 *
 * What is read exactly:
 * - folder, archive: train/{neg,pos}/NAME.txt (not hidden), each file a text as it stands; in an
 *   archive a link in such a place, or a path that occurs twice, is an error.
 * - CSV, TSV: RFC 4180; a quote inside a field without quotes is an error; header names in any case
 *   and order; other columns are noted.
 * - JSONL: an object a line; other keys are noted; a key that occurs twice is an error.
 * - All three: LF or CR LF; a byte order mark is passed over; the last newline may be missing;
 *   blank lines may stand at the end only, elsewhere they are an error.
 * - "demo" is always the built-in corpus; a folder of that name is "./demo".
 *
 * Usage:
 *     TRY(dataset_open(files, "aclImdb", &dataset, err));
 *     TRY(dataset_read(dataset, DATASET_TRAIN, on_example, &corpus, err));
 *     const uint32_t *order;
 *     dataset_base_order(dataset, &order);    order[i]: which example read is the i-th
 *     dataset_close(dataset);
 *
 * ERRORS: bad input is STATUS_DATA with file, line (or archive entry) and what was expected; a
 * missing path STATUS_INPUT. Nothing is skipped silently: entries that are not used are reported by
 * dataset_note. stop_signal() is polled: STATUS_STOPPED.
 * THREADS: one thread at a time. dataset_read reads on a thread of its own, which has ended when it
 * returns; the callback runs on the caller's.
 */
#ifndef CAIRN_IO_DATASET_H
#define CAIRN_IO_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATASET_TEXT_BYTES_MAX = 16 << 20 }; /* longest text, and longest line of a file */

enum dataset_part { DATASET_TRAIN, DATASET_TEST };

enum { DATASET_LABEL_CAPACITY = 32 };

struct dataset;

/* One example. `text` is not NUL-terminated, holds no NUL byte and is valid during the call only.
 * Any status but OK ends the reading and is returned. */
typedef enum status (*dataset_callback)(void *context, const char *text, size_t size,
                                        unsigned label, struct error *err);

/* Find out what `path` is: "demo", a folder with train/{pos,neg} and perhaps test/{pos,neg}, a
 * .tar, .tar.gz, .tgz or .tar.zst with the same tree (perhaps below one top folder), a .csv or .tsv
 * with a header that has `text` and `label`, a .jsonl. A folder may also hold the tree below one
 * top folder. */
MUST_USE enum status dataset_open(const struct file_table *files, const char *path,
                                  struct dataset **out, struct error *err);

/* Has it a test part of its own? Single files do not. (An archive is scanned for this once.) */
bool dataset_has_test(const struct dataset *dataset);

/* Push every example of a part. For a single file DATASET_TRAIN is the whole file and DATASET_TEST
 * an error. STATUS_DATA as well when the part has no example or a class has none. */
MUST_USE enum status dataset_read(struct dataset *dataset, enum dataset_part part,
                                  dataset_callback callback, void *context, struct error *err);

/* After dataset_read: how many examples it pushed, and base order: the i-th example of the data set
 * is the order[i]-th one pushed. *order is NULL when that is the identity. Valid until the next
 * call. */
uint64_t dataset_base_order(const struct dataset *dataset, const uint32_t **order);

/* After dataset_read: how class 0 and class 1 are called in this data ("neg", "pos"; as first seen
 * in a file). Valid as long as the data set. */
const char *dataset_label_name(const struct dataset *dataset, unsigned label);

/* One line about what was not used ("train/unsup: 50000 entries not used"), or NULL. */
const char *dataset_note(const struct dataset *dataset);

void dataset_close(struct dataset *dataset);

/* Parse a label (0/1, neg/pos, negative/positive; any case): 0, 1, or -1. */
int dataset_parse_label(const char *bytes, size_t size);

/* ---- the readers behind it, each in a file of its own; see dataset_readers.h ---- */

#ifdef __cplusplus
}
#endif
#endif
