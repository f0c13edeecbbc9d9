#include "host/export_output.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/base/text.h"
#include "host/import.h"
#include "io/store.h"

enum { CONFIG_BYTES_MAX = 1 << 20 };

/* ---- small things ---------------------------------------------------------------------------- */

static bool same_file(const char *left, const char *right) {
    struct stat a, b;
    return stat(left, &a) == 0 && stat(right, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* Is there anything of that name in the directory? */
static bool holds(const char *directory, const char *name) {
    char path[FILE_PATH_CAPACITY];
    struct stat info;
    return file_join_path(path, sizeof path, directory, name) && lstat(path, &info) == 0;
}

/* A trainer's lock stays for ever, so a directory without it never was one, or is a copy. */
static bool is_model_directory(const char *directory) {
    return holds(directory, STORE_LOCK_FILE) || holds(directory, STORE_BEST_FILE);
}

/* ---- a run's own files ----------------------------------------------------------------------- */

/* Names of a whole training state: an export there would take the optimiser state and the run's
 * position away, wherever the directory has been copied to. */
static bool names_training_state(const char *name) {
    uint64_t step;
    return store_parse_name(name, &step) || strcmp(name, STORE_BEST_FILE) == 0;
}

/* What else a run keeps in its model directory. */
static bool names_file_of_run(const char *name) {
    static const char *const names[] = {
        STORE_LOCK_FILE, STORE_STATE_FILE, STORE_SUPERSEDED_DIRECTORY,
        "config.ini",    "train",          "validation",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return strncmp(name, "history.", 8) == 0 || strncmp(name, "model.ckpt-", 11) == 0;
}

static enum status check_name(const char *path, struct error *err) {
    char directory[FILE_PATH_CAPACITY];
    const char *name = file_split_path(path, directory, sizeof directory);
    CHECK(name != NULL, err, STATUS_OUTPUT, "--output: the path is too long");
    CHECK(!names_training_state(name), err, STATUS_OUTPUT,
          "--output %s has the name of a checkpoint of a model directory, which holds more than is "
          "exported (optimiser state, position): choose another name",
          text_show(path).text);
    CHECK(!is_model_directory(directory) || !names_file_of_run(name), err, STATUS_OUTPUT,
          "--output %s is the name of a file that the run in %s keeps for itself: choose another "
          "name",
          text_show(path).text, text_show(directory).text);
    return STATUS_OK;
}

/* ---- a folder -------------------------------------------------------------------------------- */

static int note_visible(void *user, const char *name) {
    (void)user;
    return name[0] != '.'; /* .git of a clone, a temporary of an export that was killed */
}

/* Does the folder's config.json say that an export wrote it? */
static bool is_exported(const char *path) {
    char name[FILE_PATH_CAPACITY];
    uint8_t *bytes;
    size_t size;
    if (!file_join_path(name, sizeof name, path, IMPORT_CONFIG_FILE) ||
        file_read_all(&file_posix, name, CONFIG_BYTES_MAX, &bytes, &size, NULL) != STATUS_OK) {
        return false;
    }
    json_t *config = json_loadb((const char *)bytes, size, 0, NULL);
    free(bytes);
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *class_name =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    bool ours = type != NULL && strcmp(type, "bilstm") == 0 && class_name != NULL &&
                strcmp(class_name, "BiLSTMForTextClassification") == 0;
    json_decref(config);
    return ours;
}

/* The four files are replaced by renames too. */
static enum status check_parts(const char *path, struct error *err) {
    static const char *const names[] = {IMPORT_WEIGHTS_FILE, IMPORT_CONFIG_FILE,
                                        IMPORT_VOCABULARY_FILE, "README.md"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[FILE_PATH_CAPACITY];
        struct stat info;
        bool there = file_join_path(name, sizeof name, path, names[i]) && lstat(name, &info) == 0;
        CHECK(!there || S_ISREG(info.st_mode), err, STATUS_OUTPUT,
              "--output %s: %s in it is not a regular file (a symbolic link perhaps), and the "
              "export would replace it: name another folder",
              text_show(path).text, names[i]);
    }
    return STATUS_OK;
}

static enum status check_folder(const char *path, const char *format, struct error *err) {
    struct stat info;
    char reason[256];
    if (stat(path, &info) != 0) {
        int error_number = errno;
        CHECK(lstat(path, &info) != 0, err, STATUS_OUTPUT,
              "--output %s is a symbolic link that leads nowhere: name another path",
              text_show(path).text);
        CHECK(error_number == ENOENT, err, STATUS_OUTPUT, "--output %s: %s", text_show(path).text,
              file_errno_text(-error_number, reason, sizeof reason));
        return STATUS_OK; /* to be made */
    }
    CHECK(S_ISDIR(info.st_mode), err, STATUS_OUTPUT,
          "--output %s is a file, and --format %s writes a folder (model.safetensors, config.json, "
          "vocab.txt, README.md): name another path",
          text_show(path).text, format);
    CHECK(!is_model_directory(path), err, STATUS_OUTPUT,
          "--output %s is a model directory: name a folder of its own for the export",
          text_show(path).text);
    int result = file_posix.list(file_posix.context, path, note_visible, NULL);
    CHECK(result >= 0, err, STATUS_OUTPUT, "--output %s: %s", text_show(path).text,
          file_errno_text(result, reason, sizeof reason));
    CHECK(result == 0 || is_exported(path), err, STATUS_OUTPUT,
          "--output %s holds files that no export wrote: name a folder that is new, empty, or an "
          "exported one",
          text_show(path).text);
    return check_parts(path, err);
}

/* ---- one file -------------------------------------------------------------------------------- */

static enum status check_parent(const char *path, const char *format, struct error *err) {
    char directory[FILE_PATH_CAPACITY];
    const char *name = file_split_path(path, directory, sizeof directory);
    CHECK(name != NULL, err, STATUS_OUTPUT, "--output: the path is too long");
    struct stat info;
    CHECK(stat(directory, &info) == 0 && S_ISDIR(info.st_mode), err, STATUS_OUTPUT,
          "--output %s: there is no directory %s: make it first, or name another path",
          text_show(path).text, text_show(directory).text);
    CHECK(name[0] != '\0', err, STATUS_OUTPUT,
          "--output %s is a directory, and --format %s writes one file: name a file, in it or "
          "elsewhere",
          text_show(path).text, format);
    return STATUS_OK;
}

/* The rename at the end would replace a link or a device by a file. */
static enum status check_file(const char *path, const char *format, struct error *err) {
    TRY(check_parent(path, format, err));
    struct stat info;
    if (lstat(path, &info) != 0) {
        char reason[256];
        CHECK(errno == ENOENT, err, STATUS_OUTPUT, "--output %s: %s", text_show(path).text,
              file_errno_text(-errno, reason, sizeof reason));
        return STATUS_OK;
    }
    CHECK(!S_ISDIR(info.st_mode), err, STATUS_OUTPUT,
          "--output %s is a directory, and --format %s writes one file: name a file, in it or "
          "elsewhere",
          text_show(path).text, format);
    CHECK(!S_ISLNK(info.st_mode), err, STATUS_OUTPUT,
          "--output %s is a symbolic link, which the export would replace: name the file itself",
          text_show(path).text);
    CHECK(S_ISREG(info.st_mode), err, STATUS_OUTPUT,
          "--output %s is not a regular file: name another", text_show(path).text);
    return STATUS_OK;
}

/* ---- both ------------------------------------------------------------------------------------ */

enum status export_output_check(const char *path, bool folder, const char *format,
                                struct error *err) {
    TRY(check_name(path, err));
    return folder ? check_folder(path, format, err) : check_file(path, format, err);
}

enum status export_output_check_source(const char *path, bool folder, const char *source,
                                       struct error *err) {
    char weights[FILE_PATH_CAPACITY], in_source[FILE_PATH_CAPACITY];
    bool same = same_file(path, source);
    if (file_join_path(in_source, sizeof in_source, source, IMPORT_WEIGHTS_FILE)) {
        same = same || same_file(path, in_source);
    }
    if (folder && file_join_path(weights, sizeof weights, path, IMPORT_WEIGHTS_FILE)) {
        same = same || same_file(weights, source);
    }
    CHECK(!same, err, STATUS_OUTPUT,
          "--output %s is what is exported, or holds it: choose another name",
          text_show(path).text);
    return STATUS_OK;
}
