/* options.h - one table of options; help, parsing, config file, environment, run header and
 * checkpoint metadata all come from it.
 *
 * A row of the table (options_table.c) has name, type, range, default, the commands that take it, a
 * help line, and what a change of it means when a run is resumed. Values land in `struct options`.
 * Precedence: flag (`--set name=value` is one more way to write a flag), environment CAIRN_<OPTION>
 * (upper case, '-' as '_'; an empty value is no value; other CAIRN_ names are ignored), `--config`
 * file (INI, read with inih; options of other commands are checked and otherwise left alone),
 * default. Of a repeated option the last counts.
 *
 * Usage:
 *     struct options options;
 *     TRY(options_parse(COMMAND_TRAIN, argc, argv, &options, &exit_early, err));
 *     options_write(&options, &text);      "name = value" for config.ini and the checkpoint
 *     options_free(&options);
 *
 * THREADS: main thread, before others start; afterwards read-only.
 */
#ifndef CAIRN_HOST_OPTIONS_H
#define CAIRN_HOST_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "host/base/status.h"
#include "host/base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

enum command {
    COMMAND_TRAIN,
    COMMAND_EVALUATE,
    COMMAND_PREDICT,
    COMMAND_CHECKPOINTS,
    COMMAND_INSPECT,
    COMMAND_EXPORT,
    COMMAND_PLOT,
    COMMAND_VOCABULARY,
    COMMAND_TOKENIZE,
    COMMAND_BENCH_TRAIN, /* the benchmarks: two words, "bench train" */
    COMMAND_BENCH_OPS,
    COMMAND_BENCH_DATA,
    COMMAND_BENCH_CHECKPOINT,
    COMMAND_COUNT
};

enum shuffle_mode { SHUFFLE_FULL, SHUFFLE_BUFFER, SHUFFLE_NONE };
enum busy_policy { BUSY_SKIP, BUSY_LATEST, BUSY_WAIT };
enum on_error_policy { ON_ERROR_WARN, ON_ERROR_STOP };
enum monitor_mode { MONITOR_AUTO, MONITOR_MIN, MONITOR_MAX };
enum progress_mode { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_LINES, PROGRESS_JSON, PROGRESS_NONE };
enum input_format { INPUT_LINES, INPUT_JSONL };
enum output_format { OUTPUT_TSV, OUTPUT_JSONL };
enum { OPTIONS_DIRECTORIES_MAX = 8 };
enum export_format { EXPORT_SAFETENSORS, EXPORT_ONNX, EXPORT_KERAS, EXPORT_CHECKPOINT };

/* Strings are never NULL: "" means not given. They point into argv, the environment or memory of
 * `arena` and live as long as the struct. Doubles that are not given are NaN. */
struct options {
    enum command command;

    /* data */
    const char *data;
    const char *validation_data; /* "" = the test part of data, "none", or a path */
    double validation_split;     /* 0 = off, in (0, 1) */
    uint64_t validation_steps;   /* 0 = all */
    enum shuffle_mode shuffle;
    uint64_t shuffle_buffer;
    uint64_t bucket_window;
    uint64_t seed;

    /* text */
    uint64_t vocabulary_size; /* 0 = no limit */
    const char *vocabulary;   /* file */
    uint64_t max_length;      /* tokens, 0 = no cut */
    bool strip_html;

    /* model */
    uint64_t embedding_size, hidden_size, dense_size;

    /* training */
    uint64_t epochs;
    uint64_t steps;     /* 0 = not given; of a benchmark: in each repeat, 0 = an epoch */
    uint64_t max_steps; /* 0 = not given */
    uint64_t batch_size;
    double learning_rate;
    double clip_norm; /* 0 = off */

    /* device */
    const char *device;     /* auto, cpu, cuda, cuda:N */
    uint64_t threads;       /* 0 = auto */
    const char *isa;        /* auto or a name */
    const char *lstm;       /* auto, fused, cudnn */
    const char *cuda_graph; /* on, off */
    const char *precision;  /* fp32, tf32, bf16 */

    /* checkpoints, Estimator's */
    const char *model_dir;
    double save_checkpoints_secs;    /* 600; 0 = off */
    uint64_t save_checkpoints_steps; /* 0 = not given */
    uint64_t keep_checkpoint_max;
    double keep_checkpoint_every_n_hours; /* 0 = off */
    const char *resume;                   /* auto, never, FILE */
    const char *init_from;                /* FILE */
    enum busy_policy checkpoint_busy;
    enum on_error_policy checkpoint_on_error;
    int64_t compression_level;
    uint64_t compression_threads;
    bool allow_change;

    /* checkpoints, Keras' */
    const char *checkpoint_filepath;
    const char *monitor;
    enum monitor_mode mode;
    bool save_best_only;
    bool save_weights_only;
    const char *save_freq;          /* "epoch" or a number of batches */
    uint64_t save_freq_batches;     /* parsed from it; 0 = epoch */
    double initial_value_threshold; /* NaN = not given */

    /* early stopping */
    int64_t patience; /* -1 = off ("none") */
    double min_delta;
    double baseline; /* NaN = not given */
    bool restore_best_weights;
    uint64_t start_from_epoch;

    /* output */
    enum progress_mode progress;
    uint64_t verbose;
    uint64_t log_step_count_steps;
    uint64_t save_summary_steps;
    const char *tensorboard; /* on, off */
    uint64_t histogram_freq; /* epochs; 0 = off */

    /* preemption */
    uint64_t preempt_exit_code;
    const char *requeue_command;

    /* evaluate, predict, tokenize, checkpoints */
    const char *checkpoint; /* latest, best, FILE */
    bool allow_untrained;
    bool verify;
    enum input_format input_format;
    enum output_format format;

    /* export */
    enum export_format export_format;
    const char *output; /* PATH; "" = not given */
    bool with_text;

    /* plot */
    bool plot_saves, ascii;
    const char *picture;      /* FILE, "none", or "" = curves.png or saves.png of the first run */
    const char *picture_size; /* "1000x420" */
    const char *plot_monitor; /* "" = what each run watched */

    /* benchmarks */
    const char *json; /* FILE, "" = none */
    uint64_t repeats;
    const char *modes, *intervals, *sizes, *storage; /* lists, as "async,sync" */
    const char *directory;                           /* "" = a temporary one */
    uint64_t saves;                                  /* 0 = as many as each interval makes */
    uint64_t kills;
    double step_ms;
    const char *csv, *stalls, *plot, *keep_state; /* FILE, "" = none */
    bool quick;
    const char *section; /* of bench ops, or "all" */

    /* positional: FILE of predict, tokenize and inspect; "" when absent */
    const char *file;
    /* positional: DIR... of plot */
    const char *directories[OPTIONS_DIRECTORIES_MAX];
    size_t directory_count;

    bool print_config;

    struct options_arena *arena; /* private: copied strings */
    unsigned char given[16];     /* private: one bit per row: given by flag, environment or file */
};

/* What resuming with another value means. */
enum option_change {
    OPTION_CHANGE_FREE,    /* limits, saving, output: may change */
    OPTION_CHANGE_WARN,    /* learning rate, ...: changes with a warning */
    OPTION_CHANGE_REFUSED, /* order, text, data: refused unless --allow-change */
    OPTION_CHANGE_MISFIT   /* model sizes: the tensors decide, exit 76 */
};

/* Parse argv (argv[0] is the command's name; argp may reorder argv). `--help`, `--usage` and
 * `--print-config` print to stdout, then *exit_early is set and the caller has nothing left to do.
 * STATUS_USAGE for an unknown option, a bad or missing value, options that exclude each other or
 * that the command cannot do without; the message names the option, the value and what was
 * expected. STATUS_CONFIG for a bad or unreadable config file (with file and line) or a bad
 * environment value. On success (also with *exit_early) options_free. */
MUST_USE enum status options_parse(enum command command, int argc, char **argv, struct options *out,
                                   bool *exit_early, struct error *err);
void options_free(struct options *options);

/* Was it given by flag, --set, environment or file? `name` in kebab case without dashes. */
bool options_given(const struct options *options, const char *name);

/* Append "name = value\n" for every row of the command, in table order: --print-config, config.ini,
 * and the "options" metadata of a checkpoint. Reading it back with --config gives the same values:
 * what INI cannot hold (long values, ';', control bytes) is quoted and continued as
 * options_config.c says. */
void options_write(const struct options *options, struct text *out);

/* One difference between the options in a checkpoint (`saved`, written by options_write) and now.
 */
struct option_difference {
    const char *name; /* static */
    enum option_change change;
    char saved[256], now[256];
};

/* Compare; at most `capacity` differences into `out`, their number in *count. Rows that the saved
 * text lacks are not compared. STATUS_CORRUPT when the saved text cannot be parsed. */
MUST_USE enum status options_compare(const struct options *now, const char *saved,
                                     size_t saved_size, struct option_difference *out,
                                     size_t capacity, size_t *count, struct error *err);

/* Set one option from text, with the same checks as a flag; for values that a checkpoint decides.
 * It does not count as given. STATUS_USAGE. */
MUST_USE enum status options_set(struct options *options, const char *name, const char *value,
                                 struct error *err);

/* Name of a command ("train"; "bench train" is two words on the command line) and its one line
 * for `cairn --help`. */
const char *command_name(enum command command);
const char *command_summary(enum command command);

/* Number of rows and fields of a row, for tests and completion. */
struct option_row_info {
    const char *name, *argument, *help;
    const char *default_text;  /* parsed like a given value */
    const char *default_shown; /* what --help prints */
    enum option_change change;
    unsigned commands; /* bit per enum command */
};
size_t options_row_count(void);
struct option_row_info options_row(size_t index);

#ifdef __cplusplus
}
#endif
#endif
