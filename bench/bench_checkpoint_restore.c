/* The way back from a checkpoint, split in its parts, with a cold and with a warm page cache. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench_checkpoint.h"
#include "host/base/stop.h"

static const char *const part_names[CHECKPOINT_RESTORE_PARTS] = {
    [CHECKPOINT_FIND] = "find",     [CHECKPOINT_READ] = "read",
    [CHECKPOINT_VERIFY] = "verify", [CHECKPOINT_DECOMPRESS] = "decompress",
    [CHECKPOINT_LOAD] = "load",     [CHECKPOINT_WHOLE] = "whole",
};

const char *checkpoint_restore_part_name(enum checkpoint_restore_part part) {
    return part_names[part];
}

/* ---- the page cache -------------------------------------------------------------------------- */

/* Share of the file's pages that are in memory; 1 when that cannot be told. */
static double resident_share(int fd, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (bytes + page - 1) / page, resident = 0;
    unsigned char *map = malloc(pages);
    void *view = bytes == 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    bool told = map != NULL && view != MAP_FAILED && mincore(view, bytes, map) == 0;
    for (size_t i = 0; told && i < pages; i++) {
        resident += map[i] & 1;
    }
    if (view != MAP_FAILED) {
        munmap(view, bytes);
    }
    free(map);
    return told ? (double)resident / (double)pages : 1.0;
}

/* Ask the kernel to forget the file's bytes, which are on the disk. In tmpfs it cannot. */
static bool drop_cache(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    bool dropped = fd >= 0 && fstat(fd, &about) == 0 &&
                   posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0 &&
                   resident_share(fd, (size_t)about.st_size) < 0.01;
    if (fd >= 0) {
        close(fd);
    }
    return dropped;
}

/* ---- the newest checkpoint ------------------------------------------------------------------- */

static enum status find_newest(const char *directory, char path[FILE_PATH_CAPACITY],
                               struct error *err) {
    struct store_list list;
    TRY(store_scan(&file_posix, directory, &list, err));
    bool found = list.count > 0 && file_join_path(path, FILE_PATH_CAPACITY, directory,
                                                  list.entries[list.count - 1].name);
    store_list_free(&list);
    CHECK(found, err, STATUS_INTERNAL, "%s holds no checkpoint", directory);
    return STATUS_OK;
}

enum status checkpoint_restore_read(struct checkpoint_trainee *trainee, struct checkpoint **out,
                                    struct error *err) {
    char path[FILE_PATH_CAPACITY];
    TRY(store_load_newest(&file_posix, store_directory(trainee->store), NULL, NULL, out, path,
                          err));
    CHECK(*out != NULL, err, STATUS_INTERNAL, "there is no checkpoint to restore");
    return STATUS_OK;
}

enum status checkpoint_restore_keep(const struct checkpoint_trainee *trainee, const char *path,
                                    struct error *err) {
    char newest[FILE_PATH_CAPACITY];
    uint8_t *file;
    size_t size;
    TRY(find_newest(store_directory(trainee->store), newest, err));
    TRY(file_read_all(&file_posix, newest, CHECKPOINT_FILE_BYTES_MAX, &file, &size, err));
    enum status status = file_publish(&file_posix, path, file, size, err);
    free(file);
    return status == STATUS_OK ? status : error_prefix(err, status, "--keep-state");
}

/* ---- one restore ----------------------------------------------------------------------------- */

static double lap(double *clock) {
    double before = *clock;
    *clock = bench_clock_now();
    return *clock - before;
}

static enum status restore_in_parts(struct checkpoint_trainee *trainee,
                                    double seconds[CHECKPOINT_RESTORE_PARTS], double *bytes,
                                    struct error *err) {
    char path[FILE_PATH_CAPACITY];
    double clock = bench_clock_now();
    TRY(find_newest(store_directory(trainee->store), path, err));
    seconds[CHECKPOINT_FIND] = lap(&clock);
    uint8_t *file;
    size_t size;
    TRY(file_read_all(&file_posix, path, CHECKPOINT_FILE_BYTES_MAX, &file, &size, err));
    seconds[CHECKPOINT_READ] = lap(&clock);
    struct checkpoint *checkpoint;
    enum status status = checkpoint_decode(file, size, &checkpoint, err);
    free(file);
    TRY(status);
    seconds[CHECKPOINT_VERIFY] = checkpoint->verify_seconds;
    seconds[CHECKPOINT_DECOMPRESS] = checkpoint->decompress_seconds;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        uint64_t tensor = 0;
        *bytes += tensor_bytes(&checkpoint->tensors[i], &tensor) ? (double)tensor : 0;
    }
    (void)lap(&clock);
    status = trainee->load(trainee, checkpoint, err);
    seconds[CHECKPOINT_LOAD] = lap(&clock);
    checkpoint_free(checkpoint);
    return status;
}

static enum status restore_whole(struct checkpoint_trainee *trainee, double *seconds,
                                 struct error *err) {
    struct checkpoint *checkpoint;
    double begin = bench_clock_now();
    TRY(checkpoint_restore_read(trainee, &checkpoint, err));
    enum status status = trainee->load(trainee, checkpoint, err);
    *seconds = bench_clock_now() - begin;
    checkpoint_free(checkpoint);
    return status;
}

/* Two restores: one that is taken apart, one as it is. */
static enum status restore_twice(struct checkpoint_trainee *trainee, const char *cold,
                                 struct checkpoint_restore *out, unsigned repeat,
                                 struct error *err) {
    double seconds[CHECKPOINT_RESTORE_PARTS];
    bool dropped = cold != NULL && drop_cache(cold);
    out->bytes = 0;
    TRY(restore_in_parts(trainee, seconds, &out->bytes, err));
    dropped = cold != NULL && drop_cache(cold) && dropped;
    TRY(restore_whole(trainee, &seconds[CHECKPOINT_WHOLE], err));
    for (size_t part = 0; part < CHECKPOINT_RESTORE_PARTS; part++) {
        (cold != NULL ? out->cold : out->warm)[part][repeat] = seconds[part];
    }
    out->cold_possible = out->cold_possible && (cold == NULL || dropped);
    return STATUS_OK;
}

enum status checkpoint_restore_run(struct checkpoint_trainee *trainee, unsigned repeats,
                                   struct checkpoint_restore *out, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    out->repeats = repeats;
    out->cold_possible = true;
    TRY(find_newest(store_directory(trainee->store), path, err));
    for (unsigned repeat = 0; repeat < repeats; repeat++) {
        CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
        TRY(restore_twice(trainee, path, out, repeat, err));
        CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
        TRY(restore_twice(trainee, NULL, out, repeat, err));
    }
    return STATUS_OK;
}
