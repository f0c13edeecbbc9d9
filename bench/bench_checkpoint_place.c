/* A directory of its own on a disk or in memory, removed at the end, or by the next benchmark. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
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

static bool is_in_memory(const char *path) {
    struct statfs about;
    return statfs(path, &about) == 0 &&
           (about.f_type == TMPFS_MAGIC || about.f_type == RAMFS_MAGIC);
}

/* ---- what a killed benchmark leaves ---------------------------------------------------------- */

static const char prefix[] = "cairn-bench-", lock_name[] = "lock";

/* Of the directory, if it is ours and has a lock's file; -1 otherwise. */
static int open_lock(const char *path) {
    struct stat about;
    char lock[FILE_PATH_CAPACITY];
    bool ours = lstat(path, &about) == 0 && S_ISDIR(about.st_mode) && about.st_uid == geteuid();
    return ours && file_join_path(lock, sizeof lock, path, lock_name)
               ? open(lock, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
               : -1;
}

static void remove_if_left(const char *path) {
    int lock = open_lock(path);
    if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0) {
        fprintf(stderr, "bench checkpoint: removing %s, which a killed benchmark has left\n", path);
        checkpoint_place_remove(path);
    }
    if (lock >= 0) {
        close(lock);
    }
}

static void remove_left(const char *base) {
    char path[FILE_PATH_CAPACITY];
    DIR *directory = opendir(base);
    for (struct dirent *entry = directory == NULL ? NULL : readdir(directory); entry != NULL;
         entry = readdir(directory)) {
        if (strncmp(entry->d_name, prefix, sizeof prefix - 1) == 0 &&
            file_join_path(path, sizeof path, base, entry->d_name)) {
            remove_if_left(path);
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
}

/* Without a lock the directory must not look as if it were left. The lock's file is created under
 * another name and gets its own when it is locked. */
static void lock_place(struct checkpoint_place *place) {
    char new_name[FILE_PATH_CAPACITY], lock[FILE_PATH_CAPACITY];
    place->lock = -1;
    if (!file_join_path(new_name, sizeof new_name, place->path, "new") ||
        !file_join_path(lock, sizeof lock, place->path, lock_name)) {
        return;
    }
    int file = open(new_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0 && rename(new_name, lock) == 0) {
        place->lock = file;
        return;
    }
    if (file >= 0) {
        unlink(new_name);
        close(file);
    }
}

/* ---- a place --------------------------------------------------------------------------------- */

enum status checkpoint_place_make(const struct options *options, bool tmpfs,
                                  struct checkpoint_place *out, struct error *err) {
    const char *base = base_of(options, tmpfs);
    char name[32];
    out->name = tmpfs ? "tmpfs" : "dir";
    snprintf(name, sizeof name, "%sXXXXXX", prefix);
    remove_left(base);
    if (!file_join_path(out->path, sizeof out->path, base, name) || mkdtemp(out->path) == NULL) {
        return error_set(err, STATUS_OUTPUT, "cannot create a directory below %s: %s; %s", base,
                         strerror(errno), tmpfs ? "pass --storage dir" : "pass another --dir");
    }
    out->in_memory = tmpfs || is_in_memory(out->path);
    lock_place(out);
    return STATUS_OK;
}

void checkpoint_place_close(struct checkpoint_place *place) {
    checkpoint_place_remove(place->path);
    if (place->lock >= 0) {
        close(place->lock);
    }
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
    struct statvfs about;
    if (megabytes * 1e6 * (place->in_memory ? 7 : 5) > 0.9 * available_memory()) {
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
