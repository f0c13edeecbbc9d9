/* A directory of its own on a disk or in memory, removed at the end. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
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

/* What programs can have without swapping: free pages, and the page cache as far as it can go. */
static double available_memory(void) {
    char line[128];
    double kibibytes = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file != NULL && kibibytes == 0 && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %lf kB", &kibibytes) != 1) {
            kibibytes = 0;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kibibytes > 0 ? kibibytes * 1024
                         : (double)sysconf(_SC_AVPHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}

/* A state is in memory five times (itself, two slots, what is read, what is decoded), and in the
 * place, which may be memory too, twice: a checkpoint stays beside the one being written. */
const char *checkpoint_place_lacks(const struct checkpoint_place *place, double megabytes) {
    bool tmpfs = strcmp(place->name, "tmpfs") == 0;
    struct statvfs about;
    if (megabytes * 1e6 * (tmpfs ? 7 : 5) > 0.9 * available_memory()) {
        return "there is too little free memory";
    }
    if (statvfs(place->path, &about) == 0 &&
        megabytes * 1e6 * 2 > 0.9 * (double)about.f_bavail * (double)about.f_frsize) {
        return "there is too little free space";
    }
    return NULL;
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
