/* What to measure: the lists of options, and the defaults that go with a state's size. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench_checkpoint.h"
#include "host/base/text.h"
#include "host/loading.h"
#include "io/file.h"

enum {
    REAL_STEPS = 250,   /* of a block, at least: six have 100 saves, even if most are skipped */
    MADE_UP_STEPS = 50, /* small states */
    LARGE_SAVES = 3,    /* of a block with a large state */
    QUICK_STEPS = 4,
    QUICK_REPEATS = 2,
    MADE_UP_INTERVALS = 2
};

static const double large_bytes = 100e6;
/* Two each, or there would be no line to draw; large states need longer ones for their saves. */
static const uint64_t small_intervals[MADE_UP_INTERVALS] = {10, 25};
static const uint64_t large_intervals[MADE_UP_INTERVALS] = {50, 100};

/* ---- modes ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    bool saves, waits, stored, direct;
} modes[CHECKPOINT_MODES] = {
    [CHECKPOINT_OFF] = {.name = "off"},
    [CHECKPOINT_COPY] = {.name = "copy"},
    [CHECKPOINT_SYNC] = {.name = "sync", .saves = true, .waits = true, .stored = true},
    [CHECKPOINT_SYNC_ZSTD] = {.name = "sync+zstd", .saves = true, .waits = true},
    [CHECKPOINT_ASYNC] = {.name = "async", .saves = true, .stored = true},
    [CHECKPOINT_ASYNC_ZSTD] = {.name = "async+zstd", .saves = true},
    [CHECKPOINT_DIRECT] = {.name = "direct", .saves = true, .stored = true, .direct = true},
    [CHECKPOINT_DIRECT_ZSTD] = {.name = "direct+zstd", .saves = true, .direct = true},
};

const char *checkpoint_mode_name(enum checkpoint_mode mode) {
    return modes[mode].name;
}

bool checkpoint_mode_saves(enum checkpoint_mode mode) {
    return modes[mode].saves;
}

bool checkpoint_mode_waits(enum checkpoint_mode mode) {
    return modes[mode].waits;
}

bool checkpoint_mode_is_direct(enum checkpoint_mode mode) {
    return modes[mode].direct;
}

int checkpoint_mode_level(enum checkpoint_mode mode, const struct options *options) {
    return modes[mode].stored ? CHECKPOINT_STORED_LEVEL : (int)options->compression_level;
}

/* ---- lists ----------------------------------------------------------------------------------- */

/* Takes one word of a list; false when it is none. */
typedef bool (*word_function)(struct checkpoint_plan *plan, const char *word);

static enum status each_word(struct checkpoint_plan *plan, const char *option, const char *list,
                             word_function take, const char *expected, struct error *err) {
    char word[32], shown[160];
    for (const char *at = list;; at++) {
        size_t size = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)size, at);
        CHECK(size < sizeof word && take(plan, word), err, STATUS_USAGE,
              "--%s %s: expected a list of at most %d, separated by commas, of %s", option,
              text_escape(list, strlen(list), shown, sizeof shown), (int)CHECKPOINT_LIST_MAX,
              expected);
        at += size;
        if (*at == '\0') {
            return STATUS_OK;
        }
    }
}

static bool take_mode(struct checkpoint_plan *plan, const char *word) {
    for (int mode = 0; mode < CHECKPOINT_MODES; mode++) {
        if (strcmp(word, modes[mode].name) == 0) {
            plan->modes[mode] = true;
            return true;
        }
    }
    return false;
}

static bool take_interval(struct checkpoint_plan *plan, const char *word) {
    uint64_t interval = 0;
    bool known = strcmp(word, "epoch") == 0 ||
                 (text_parse_u64(word, &interval) && interval >= 1 && interval <= 1000000);
    for (size_t i = 0; i < plan->interval_count && known; i++) {
        if (plan->intervals[i] == interval) {
            return true;
        }
    }
    if (!known || plan->interval_count == CHECKPOINT_LIST_MAX) {
        return false;
    }
    plan->intervals[plan->interval_count++] = interval;
    return true;
}

static bool take_size(struct checkpoint_plan *plan, const char *word) {
    double megabytes = 0;
    bool known = strcmp(word, "real") == 0 ||
                 (text_parse_double(word, &megabytes) && megabytes >= 0.01 && megabytes <= 50000);
    for (size_t i = 0; i < plan->size_count && known; i++) {
        if (plan->sizes[i] == megabytes) {
            return true;
        }
    }
    if (!known || plan->size_count == CHECKPOINT_LIST_MAX) {
        return false;
    }
    plan->sizes[plan->size_count++] = megabytes;
    return true;
}

static bool take_storage(struct checkpoint_plan *plan, const char *word) {
    bool disk = strcmp(word, "dir") == 0, tmpfs = strcmp(word, "tmpfs") == 0;
    plan->disk = plan->disk || disk;
    plan->tmpfs = plan->tmpfs || tmpfs;
    return disk || tmpfs;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* `list`, or with --quick and nothing given a shorter one. */
static const char *choose(const struct options *options, const char *option, const char *list,
                          const char *quick) {
    return options->quick && !options_given(options, option) ? quick : list;
}

/* Made-up states have no epochs: some other interval must be left for them. */
static enum status check_intervals(const struct checkpoint_plan *plan, struct error *err) {
    bool made_up = false, in_steps = false;
    for (size_t i = 0; i < plan->size_count; i++) {
        made_up = made_up || plan->sizes[i] > 0;
    }
    for (size_t i = 0; i < plan->interval_count; i++) {
        in_steps = in_steps || plan->intervals[i] > 0;
    }
    CHECK(!made_up || in_steps, err, STATUS_USAGE,
          "--intervals %s: made-up states have no epochs; add a number of steps, or pass --sizes "
          "real",
          plan->options->intervals);
    return STATUS_OK;
}

/* A state has losses at two intervals or more to draw. */
static bool has_line(const struct checkpoint_plan *plan) {
    uint64_t intervals[CHECKPOINT_LIST_MAX];
    for (size_t i = 0; i < plan->size_count; i++) {
        double bytes = plan->sizes[i] * 1e6;
        if (checkpoint_plan_intervals(plan, bytes > 0, bytes, intervals) > 1) {
            return true;
        }
    }
    return false;
}

static enum status check_picture(const struct checkpoint_plan *plan, struct error *err) {
    bool saves = false;
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        saves = saves || (plan->modes[mode] && checkpoint_mode_saves(mode));
    }
    CHECK(plan->options->plot[0] == '\0' ||
              (plan->modes[CHECKPOINT_OFF] && saves && has_line(plan)),
          err, STATUS_USAGE,
          "--plot draws what saving costs against the interval: it needs off and a mode that saves "
          "in --modes, and two --intervals of one state");
    return STATUS_OK;
}

/* A regular file that is there, or the same name of one that is not. Devices can take it all. */
static bool is_one_file(const char *a, const char *b) {
    struct stat first, second;
    if (stat(a, &first) != 0 || stat(b, &second) != 0) {
        return strcmp(a, b) == 0;
    }
    return S_ISREG(first.st_mode) && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

static enum status check_files(const struct options *options, struct error *err) {
    const struct {
        const char *option, *path;
    } files[] = {{"json", options->json},
                 {"csv", options->csv},
                 {"stalls", options->stalls},
                 {"plot", options->plot},
                 {"keep-state", options->keep_state}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        for (size_t j = 0; j < i; j++) {
            CHECK(files[i].path[0] == '\0' || !is_one_file(files[i].path, files[j].path), err,
                  STATUS_USAGE, "--%s and --%s are both to be written to %s", files[j].option,
                  files[i].option, files[i].path);
        }
    }
    return STATUS_OK;
}

enum status checkpoint_plan_make(const struct options *options, struct checkpoint_plan *out,
                                 struct error *err) {
    bool quick = options->quick;
    *out = (struct checkpoint_plan){
        .options = options,
        .repeats = (unsigned)options->repeats,
        .kills = quick && !options_given(options, "kills") ? 1 : options->kills,
        .kills_given = options_given(options, "kills"),
        .saves = options->saves,
        .step_seconds = 1e-3 * (quick && !options_given(options, "step-ms") ? 1 : options->step_ms),
        .intervals_given = options_given(options, "intervals") || quick,
    };
    if (quick && !options_given(options, "repeats")) {
        out->repeats = QUICK_REPEATS;
    }
    TRY(each_word(out, "modes", options->modes, take_mode,
                  "off, copy, sync, sync+zstd, async, async+zstd, direct, direct+zstd", err));
    TRY(each_word(out, "intervals", choose(options, "intervals", options->intervals, "1,10,epoch"),
                  take_interval, "numbers of steps from 1 to 1000000, or epoch", err));
    TRY(each_word(out, "sizes", choose(options, "sizes", options->sizes, "real,1.7"), take_size,
                  "real, and numbers of MB from 0.01 to 50000", err));
    TRY(check_intervals(out, err));
    TRY(each_word(out, "storage", choose(options, "storage", options->storage, "dir"), take_storage,
                  "dir, tmpfs", err));
    TRY(check_picture(out, err));
    return check_files(options, err);
}

enum status checkpoint_plan_try_file(const char *option, const char *path, struct error *err) {
    if (path[0] == '\0' || publish_try(&file_posix, path, err) == STATUS_OK) {
        return STATUS_OK;
    }
    return error_prefix(err, STATUS_OUTPUT, "--%s", option);
}

/* ---- the device ------------------------------------------------------------------------------ */

static bool has_direct(const struct checkpoint_plan *plan) {
    return plan->modes[CHECKPOINT_DIRECT] || plan->modes[CHECKPOINT_DIRECT_ZSTD];
}

/* The list of all modes asks for none: so says a file of --print-config. */
static bool asks_for_modes(const struct options *options) {
    struct option_row_info row;
    for (size_t i = 0; i < options_row_count(); i++) {
        row = options_row(i);
        if (strcmp(row.name, "modes") == 0) {
            return strcmp(options->modes, row.default_text) != 0;
        }
    }
    return false;
}

enum status checkpoint_plan_try_device(const struct checkpoint_plan *plan, struct error *err) {
    enum { HAS_NOT = 3 };
    const struct options *options = plan->options;
    int state = 0;
    if (!has_direct(plan) || !asks_for_modes(options)) {
        return STATUS_OK;
    }
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0, err, STATUS_MEMORY, "cannot start a process: %s", strerror(errno));
    if (child == 0) {
        struct error ignored = {0}; /* the parent meets it, too, and says it */
        struct backend *be;
        bool made =
            loading_create_backend(options, options->hidden_size, &be, &ignored) == STATUS_OK;
        _exit(made && be->unified_memory ? HAS_NOT : 0);
    }
    while (waitpid(child, &state, 0) < 0 && errno == EINTR) {
    }
    CHECK(!WIFEXITED(state) || WEXITSTATUS(state) != HAS_NOT, err, STATUS_DEVICE,
          "--modes %s: direct is of a GPU only, and --device %s is the CPU here; leave it out, or "
          "pass --device cuda",
          options->modes, options->device);
    return STATUS_OK;
}

bool checkpoint_plan_fit(struct checkpoint_plan *plan, bool unified_memory) {
    bool drops = unified_memory && has_direct(plan);
    if (unified_memory) {
        plan->modes[CHECKPOINT_DIRECT] = plan->modes[CHECKPOINT_DIRECT_ZSTD] = false;
    }
    return drops;
}

size_t checkpoint_plan_intervals(const struct checkpoint_plan *plan, bool made_up, double bytes,
                                 uint64_t out[CHECKPOINT_LIST_MAX]) {
    size_t count = 0;
    if (made_up && !plan->intervals_given) {
        memcpy(out, bytes < large_bytes ? small_intervals : large_intervals,
               sizeof small_intervals);
        return MADE_UP_INTERVALS;
    }
    for (size_t i = 0; i < plan->interval_count; i++) {
        if (plan->intervals[i] > 0 || !made_up) {
            out[count++] = plan->intervals[i];
        }
    }
    return count;
}

uint64_t checkpoint_plan_steps(const struct checkpoint_plan *plan, bool made_up, double bytes,
                               uint64_t interval) {
    uint64_t least = plan->options->quick  ? QUICK_STEPS
                     : !made_up            ? REAL_STEPS
                     : bytes < large_bytes ? MADE_UP_STEPS
                                           : LARGE_SAVES * interval;
    uint64_t saves = plan->saves > 0 ? plan->saves : (least + interval - 1) / interval;
    return saves * interval;
}

size_t checkpoint_plan_turn(const bool asked[CHECKPOINT_MODES], unsigned repeat,
                            enum checkpoint_mode out[CHECKPOINT_MODES]) {
    enum checkpoint_mode modes_asked[CHECKPOINT_MODES];
    size_t count = 0;
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        if (asked[mode]) {
            modes_asked[count++] = mode;
        }
    }
    for (size_t i = 0; i < count; i++) {
        size_t at = (i + repeat / 2) % count;
        out[repeat % 2 == 0 ? i : count - 1 - i] = modes_asked[at];
    }
    return count;
}
