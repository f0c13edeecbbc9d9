/* options_rules.c - what holds between options, as opposed to within one. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "host/callbacks.h"
#include "host/options_table.h"
#include "host/signals.h"

static unsigned level_in(enum command command, const unsigned char *level_of, const char *name) {
    int index = option_row_find(command, name);
    assert(index >= 0);
    return level_of[index];
}

static unsigned level(const unsigned char *level_of, const char *name) {
    return level_in(COMMAND_TRAIN, level_of, name);
}

/* A flag goes before the environment, which goes before the file, also between options that exclude
 * each other; both at one level are refused by check_train. */
static void settle_steps(struct options *options, const unsigned char *level_of) {
    unsigned steps = level(level_of, "steps"), max_steps = level(level_of, "max-steps");
    if (options->steps == 0 || options->max_steps == 0 || steps == max_steps) {
        return;
    }
    if (steps > max_steps) {
        options->max_steps = 0;
    } else {
        options->steps = 0;
    }
}

/* A benchmark that reads data has the demo corpus to read. */
static void settle_data(struct options *options) {
    bool reads = options->command == COMMAND_BENCH_TRAIN ||
                 options->command == COMMAND_BENCH_DATA ||
                 options->command == COMMAND_BENCH_CHECKPOINT;
    if (reads && options->data[0] == '\0') {
        options->data = "demo";
    }
}

/* So many that there is an interval for the median of what saves cost, which is what it is for. */
static void settle_repeats(struct options *options, const unsigned char *level_of) {
    const uint64_t of_checkpoints = 6;
    if (options->command == COMMAND_BENCH_CHECKPOINT &&
        level_in(options->command, level_of, "repeats") == 0) {
        options->repeats = of_checkpoints;
    }
}

enum status options_settle(struct options *options, const unsigned char *level_of,
                           struct error *err) {
    settle_steps(options, level_of);
    settle_data(options);
    settle_repeats(options, level_of);
    unsigned seconds = level(level_of, "save-checkpoints-secs");
    unsigned steps = level(level_of, "save-checkpoints-steps");
    if (options->save_checkpoints_steps == 0 || options->save_checkpoints_secs == 0) {
        return STATUS_OK;
    }
    CHECK(seconds != steps, err, STATUS_USAGE,
          "--save-checkpoints-secs and --save-checkpoints-steps exclude each other; give one of "
          "them");
    if (seconds > steps) {
        options->save_checkpoints_steps = 0;
    } else {
        options->save_checkpoints_secs = 0;
    }
    return STATUS_OK;
}

/* The template is tried out with the values that it will get. */
static enum status check_filepath(const struct options *options, struct error *err) {
    char path[4096];
    bool per_epoch = options->save_freq_batches == 0;
    struct template_values values = {.epoch = options->epochs,
                                     .has_batch = !per_epoch,
                                     .batch = 1,
                                     .has_metrics = true,
                                     .has_validation = per_epoch,
                                     .row = {0.5, 0.5, 0.5, 0.5}};
    return filepath_expand(options->checkpoint_filepath, &values, path, sizeof path, err);
}

static enum status check_train(const struct options *options, struct error *err) {
    CHECK(options->steps == 0 || options->max_steps == 0, err, STATUS_USAGE,
          "--steps (of this call) and --max-steps (of the whole run) exclude each other; give one "
          "of them");
    CHECK(options->validation_split == 0 || options->validation_data[0] == '\0', err, STATUS_USAGE,
          "--validation-split and --validation-data exclude each other; give one of them");
    if (options->checkpoint_filepath[0] != '\0') {
        TRY(check_filepath(options, err));
    }
    if (options->requeue_command[0] != '\0' &&
        signals_check_command(options->requeue_command, err) != STATUS_OK) {
        return error_prefix(err, STATUS_USAGE, "--requeue-command");
    }
    return STATUS_OK;
}

static enum status check_export(const struct options *options, struct error *err) {
    CHECK(!options->with_text || options->export_format == EXPORT_ONNX, err, STATUS_USAGE,
          "--with-text is for --format onnx; the other formats always have vocabulary and text "
          "rules with them");
    return STATUS_OK;
}

enum status options_check(const struct options *options, struct error *err) {
    if (options->command == COMMAND_EXPORT) {
        return check_export(options, err);
    }
    return options->command == COMMAND_TRAIN ? check_train(options, err) : STATUS_OK;
}

/* A checkpoint is a FILE, or latest or best of a model directory. */
static bool names_checkpoint_file(const struct options *options) {
    return strcmp(options->checkpoint, "latest") != 0 && strcmp(options->checkpoint, "best") != 0;
}

static enum status require_model(const struct options *options, struct error *err) {
    if (options->model_dir[0] != '\0' || names_checkpoint_file(options)) {
        return STATUS_OK;
    }
    if (options->command == COMMAND_TOKENIZE) {
        CHECK(options->vocabulary[0] != '\0', err, STATUS_USAGE,
              "--vocabulary FILE, --model-dir DIR or --checkpoint FILE must be given");
        return STATUS_OK;
    }
    CHECK(options->allow_untrained, err, STATUS_USAGE,
          "--model-dir DIR or --checkpoint FILE must be given");
    return STATUS_OK;
}

enum status options_check_required(const struct options *options, struct error *err) {
    switch (options->command) {
    case COMMAND_TRAIN:
    case COMMAND_EVALUATE:
    case COMMAND_VOCABULARY:
        CHECK(options->data[0] != '\0', err, STATUS_USAGE,
              "--data PATH must be given; \"--data demo\" is built in");
        return options->command == COMMAND_EVALUATE ? require_model(options, err) : STATUS_OK;
    case COMMAND_PREDICT:
        CHECK(!options->allow_untrained || options->model_dir[0] != '\0' ||
                  options->data[0] != '\0' || options->vocabulary[0] != '\0' ||
                  names_checkpoint_file(options),
              err, STATUS_USAGE,
              "--allow-untrained needs --data PATH or --vocabulary FILE for the vocabulary");
        return require_model(options, err);
    case COMMAND_TOKENIZE:
        return require_model(options, err);
    case COMMAND_EXPORT:
        CHECK(options->output[0] != '\0', err, STATUS_USAGE,
              "--output PATH must be given: the folder or file to write");
        return require_model(options, err);
    case COMMAND_PLOT:
        CHECK(options->model_dir[0] != '\0' || options->directory_count > 0, err, STATUS_USAGE,
              "--model-dir DIR must be given, or the DIR of each run to compare");
        return STATUS_OK;
    case COMMAND_CHECKPOINTS:
        CHECK(options->model_dir[0] != '\0', err, STATUS_USAGE, "--model-dir DIR must be given");
        return STATUS_OK;
    case COMMAND_INSPECT:
        CHECK(options->file[0] != '\0', err, STATUS_USAGE, "a FILE must be given");
        return STATUS_OK;
    case COMMAND_BENCH_TRAIN:
    case COMMAND_BENCH_OPS:
    case COMMAND_BENCH_DATA:
    case COMMAND_BENCH_CHECKPOINT:
    case COMMAND_COUNT:
        break;
    }
    return STATUS_OK;
}
