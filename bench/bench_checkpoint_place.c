/* A directory of its own on a disk or in memory, removed at the end. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench_checkpoint.h"

static const char *base_of(const struct options *options, bool tmpfs) {
    const char *temporary = getenv("TMPDIR");
    if (tmpfs) {
        return "/dev/shm";
    }
    if (options->directory[0] != '\0') {
        return options->directory;
    }
    return temporary != NULL && temporary[0] != '\0' ? temporary : "/tmp";
}

enum status checkpoint_place_make(const struct options *options, bool tmpfs,
                                  struct checkpoint_place *out, struct error *err) {
    const char *base = base_of(options, tmpfs);
    out->name = tmpfs ? "tmpfs" : "dir";
    bool made = file_join_path(out->path, sizeof out->path, base, "cairn-bench-XXXXXX") &&
                mkdtemp(out->path) != NULL;
    if (!made) {
        out->path[0] = '\0';
        return error_set(err, STATUS_OUTPUT, "cannot create a directory below %s: %s; %s", base,
                         strerror(errno), tmpfs ? "pass --storage dir" : "pass another --dir");
    }
    return STATUS_OK;
}

enum status checkpoint_place_enter(const struct checkpoint_place *place, const char *name,
                                   char out[FILE_PATH_CAPACITY], struct error *err) {
    CHECK(file_join_path(out, FILE_PATH_CAPACITY, place->path, name) && mkdir(out, 0777) == 0, err,
          STATUS_OUTPUT, "cannot create %s in %s: %s", name, place->path, strerror(errno));
    return STATUS_OK;
}

void checkpoint_place_remove(const char *path) {
    char inner[FILE_PATH_CAPACITY];
    DIR *directory = path[0] == '\0' ? NULL : opendir(path);
    if (directory == NULL) {
        return;
    }
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        bool itself = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (!itself && file_join_path(inner, sizeof inner, path, entry->d_name) &&
            unlink(inner) != 0) {
            checkpoint_place_remove(inner);
        }
    }
    closedir(directory);
    rmdir(path);
}
