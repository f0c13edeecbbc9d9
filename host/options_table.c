#include "host/options_table.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "host/base/text.h"
#include "host/plot.h"

/* ---- commands ----------------------------------------------------------------------------- */

static const struct {
    const char *name, *summary;
} commands[COMMAND_COUNT] = {
    [COMMAND_TRAIN] = {"train", "fit a model, checkpointing as it goes; continues by itself"},
    [COMMAND_EVALUATE] = {"evaluate", "loss and accuracy on a data set, as one JSON object"},
    [COMMAND_PREDICT] = {"predict", "texts in, one line with label and probability out per text"},
    [COMMAND_CHECKPOINTS] = {"checkpoints", "what is in a model directory"},
    [COMMAND_INSPECT] = {"inspect", "metadata, tensors and digest of one checkpoint"},
    [COMMAND_EXPORT] = {"export", "weights, vocabulary and text rules in the formats of others"},
    [COMMAND_PLOT] = {"plot", "learning curves of runs, or their saves, here and as a picture"},
    [COMMAND_VOCABULARY] = {"vocabulary", "learn the vocabulary of a data set and print it"},
    [COMMAND_TOKENIZE] = {"tokenize", "texts in, token ids out"},
    [COMMAND_BENCH_TRAIN] = {"bench train", "time epochs of training, and each phase of a step"},
    [COMMAND_BENCH_OPS] = {"bench ops", "time the operations of a step one by one"},
    [COMMAND_BENCH_DATA] = {"bench data", "time reading, vocabulary, token ids and batches"},
    [COMMAND_BENCH_CHECKPOINT] = {"bench checkpoint", "what a save costs training, how soon it is "
                                                      "durable, how fast a restart is"},
};

const char *command_name(enum command command) {
    assert((unsigned)command < COMMAND_COUNT);
    return commands[command].name;
}

const char *command_summary(enum command command) {
    assert((unsigned)command < COMMAND_COUNT);
    return commands[command].summary;
}

/* ---- what strings may be ------------------------------------------------------------------ */

static bool device_valid(const char *value) {
    uint64_t number;
    if (strncmp(value, "cuda:", 5) == 0) {
        return text_parse_u64(value + 5, &number) && number <= 1023;
    }
    return strcmp(value, "auto") == 0 || strcmp(value, "cpu") == 0 || strcmp(value, "cuda") == 0;
}

static bool filepath_valid(const char *value) {
    const char *slash = strrchr(value, '/');
    const char *name = slash == NULL ? value : slash + 1;
    return value[0] == '\0' || (name[0] != '\0' && strncmp(name, "model.ckpt-", 11) != 0);
}

static bool picture_valid(const char *value) {
    enum gnuplot_format format;
    return value[0] == '\0' || strcmp(value, "none") == 0 || gnuplot_format_of(value, &format);
}

static bool picture_size_valid(const char *value) {
    unsigned width, height;
    return plot_parse_size(value, &width, &height);
}

static bool metric_valid(const char *value) {
    enum metric metric;
    return value[0] == '\0' || metric_parse(value, &metric);
}

static const char *const shuffle_choices[] = {"full", "buffer", "none", NULL};
static const char *const busy_choices[] = {"skip", "latest", "wait", NULL};
static const char *const on_error_choices[] = {"warn", "stop", NULL};
static const char *const mode_choices[] = {"auto", "min", "max", NULL};
static const char *const progress_choices[] = {"auto", "bar", "lines", "json", "none", NULL};
static const char *const input_choices[] = {"lines", "jsonl", NULL};
static const char *const format_choices[] = {"tsv", "jsonl", NULL};
static const char *const export_choices[] = {"safetensors", "onnx", "keras", "checkpoint", NULL};
static const char *const lstm_choices[] = {"auto", "fused", "cudnn", NULL};
static const char *const on_off_choices[] = {"on", "off", NULL};
static const char *const precision_choices[] = {"fp32", "tf32", "bf16", NULL};
static const char *const section_choices[] = {"all",        "recurrence", "batch", "ragged",
                                              "operations", "step",       "save",  NULL};
static const char *const monitor_choices[] = {"loss", "accuracy", "val_loss", "val_accuracy", NULL};

/* ---- the table ---------------------------------------------------------------------------- */

enum group {
    GROUP_DATA,
    GROUP_TEXT,
    GROUP_MODEL,
    GROUP_TRAINING,
    GROUP_DEVICE,
    GROUP_READING,
    GROUP_CHECKPOINT,
    GROUP_KERAS,
    GROUP_STOPPING,
    GROUP_OUTPUT,
    GROUP_BENCH,
    GROUP_PREEMPTION
};

const char *const option_groups[] = {
    [GROUP_DATA] = "Data:",
    [GROUP_TEXT] = "Text:",
    [GROUP_MODEL] = "Model:",
    [GROUP_TRAINING] = "Training:",
    [GROUP_DEVICE] = "Device:",
    [GROUP_READING] = "Model directory:",
    [GROUP_CHECKPOINT] = "Checkpoints (as TensorFlow's Estimator):",
    [GROUP_KERAS] = "More checkpoint files (as Keras' ModelCheckpoint):",
    [GROUP_STOPPING] = "Early stopping (as Keras):",
    [GROUP_OUTPUT] = "Input and output:",
    [GROUP_BENCH] = "Benchmark:",
    [GROUP_PREEMPTION] = "Preemption:",
    NULL,
};

#define BIT(command) (1u << (command))
#define TRAIN BIT(COMMAND_TRAIN)
#define EVALUATE BIT(COMMAND_EVALUATE)
#define PREDICT BIT(COMMAND_PREDICT)
#define CHECKPOINTS BIT(COMMAND_CHECKPOINTS)
#define EXPORT BIT(COMMAND_EXPORT)
#define PLOT BIT(COMMAND_PLOT)
#define VOCABULARY BIT(COMMAND_VOCABULARY)
#define TOKENIZE BIT(COMMAND_TOKENIZE)
#define MODEL_USERS (TRAIN | EVALUATE | PREDICT)
#define BENCH_TRAIN BIT(COMMAND_BENCH_TRAIN)
#define BENCH_OPS BIT(COMMAND_BENCH_OPS)
#define BENCH_DATA BIT(COMMAND_BENCH_DATA)
#define BENCH_CHECKPOINT BIT(COMMAND_BENCH_CHECKPOINT)
#define BENCHES (BENCH_TRAIN | BENCH_OPS | BENCH_DATA | BENCH_CHECKPOINT)
#define BENCH_TRAINERS (BENCH_TRAIN | BENCH_CHECKPOINT)
#define BENCH_READERS (BENCH_TRAINERS | BENCH_DATA) /* that have --data */
#define BENCH_MODELS (BENCH_TRAINERS | BENCH_OPS)   /* that compute */

/* A row begins with name, field, kind, name of the value, default, and what a change at resume
 * means. */
#define ROW(option, field, option_kind, value_name, text, option_change)                           \
    .name = (option), .offset = offsetof(struct options, field),                                   \
    .kind = OPTION_KIND_##option_kind, .argument = (value_name), .value = (text),                  \
    .change = OPTION_CHANGE_##option_change
#define RANGE(from, to) .low = (from), .high = (to)
#define FROM(from) RANGE(from, INFINITY)

/* Sizes are bounded so that the products of the model's shapes cannot overflow. */
#define SIZE_LIMIT 65536
#define COUNT_LIMIT 4294967295.0

const struct option_row option_rows[] = {
    {ROW("data", data, STRING, "PATH", "", FREE), .shown = "none, it must be given; bench: demo",
     .help = "folder with train/ and test/ of pos/ and neg/, a .tar[.gz|.zst] of it, .csv, .tsv, "
             ".jsonl, or \"demo\", a corpus that is built in",
     .commands = MODEL_USERS | VOCABULARY | BENCH_READERS, .group = GROUP_DATA},
    {ROW("validation-data", validation_data, STRING, "PATH", "", FREE),
     .shown = "the test part of --data", .help = "validate on this data set instead, or \"none\"",
     .commands = TRAIN, .group = GROUP_DATA},
    {ROW("validation-split", validation_split, REAL, "F", "0", REFUSED), RANGE(0, 1),
     .high_is_open = true, .help = "keep this share of the training data, its end, for validation",
     .commands = TRAIN | VOCABULARY, .group = GROUP_DATA},
    {ROW("validation-steps", validation_steps, U64, "N", "0", WARN), FROM(0),
     .help = "validate on this many batches; 0 = on all", .commands = TRAIN, .group = GROUP_DATA},
    {ROW("shuffle", shuffle, CHOICE, "full|buffer|none", "full", REFUSED),
     .choices = shuffle_choices,
     .help = "order of the examples, drawn anew each epoch; buffer is tf.data's",
     .commands = TRAIN | BENCH_READERS, .group = GROUP_DATA},
    {ROW("shuffle-buffer", shuffle_buffer, U64, "N", "10000", REFUSED), RANGE(1, COUNT_LIMIT),
     .help = "examples in the buffer of --shuffle buffer", .commands = TRAIN | BENCH_READERS,
     .group = GROUP_DATA},
    {ROW("bucket-window", bucket_window, U64, "N", "4096", REFUSED), RANGE(0, COUNT_LIMIT),
     .help = "make batches of similar length within windows of this many examples; 0 = plain order",
     .commands = TRAIN | BENCH_READERS, .group = GROUP_DATA},
    {ROW("seed", seed, U64, "N", "1", REFUSED), FROM(0),
     .help = "of the initial weights and of every order", .commands = MODEL_USERS | BENCH_READERS,
     .group = GROUP_DATA},

    {ROW("vocabulary-size", vocabulary_size, U64, "N", "1000", REFUSED), RANGE(2, 2147483647),
     .zero_is_allowed = true,
     .help = "most frequent tokens to keep, two special entries included; 0 = all",
     .commands = MODEL_USERS | VOCABULARY | BENCHES, .group = GROUP_TEXT},
    {ROW("vocabulary", vocabulary, STRING, "FILE", "", FREE),
     .shown = "learned from the data, or the checkpoint's",
     .help = "use this vocabulary, one token a line", .commands = MODEL_USERS | TOKENIZE | EXPORT,
     .group = GROUP_TEXT},
    {ROW("max-length", max_length, U64, "N", "0", REFUSED), RANGE(0, COUNT_LIMIT),
     .help = "cut texts after this many tokens; 0 = never",
     .commands = MODEL_USERS | TOKENIZE | BENCH_READERS, .group = GROUP_TEXT},
    {ROW("strip-html", strip_html, FLAG, NULL, "off", REFUSED), .help = "read HTML tags as spaces",
     .commands = MODEL_USERS | VOCABULARY | TOKENIZE | BENCH_READERS, .group = GROUP_TEXT},

    {ROW("embedding-size", embedding_size, U64, "E", "64", MISFIT), RANGE(1, SIZE_LIMIT),
     .help = "numbers per token", .commands = MODEL_USERS | BENCH_MODELS, .group = GROUP_MODEL},
    {ROW("hidden-size", hidden_size, U64, "H", "64", MISFIT), RANGE(1, SIZE_LIMIT),
     .help = "state of the LSTM, per direction", .commands = MODEL_USERS | BENCH_MODELS,
     .group = GROUP_MODEL},
    {ROW("dense-size", dense_size, U64, "D", "64", MISFIT), RANGE(1, SIZE_LIMIT),
     .help = "units of the dense layer", .commands = MODEL_USERS | BENCH_MODELS,
     .group = GROUP_MODEL},

    {ROW("epochs", epochs, U64, "N", "10", FREE), FROM(1),
     .help = "train up to this epoch, counted from the very start", .commands = TRAIN,
     .group = GROUP_TRAINING},
    {ROW("steps", steps, U64, "N", "0", FREE), FROM(0),
     .help = "train for this many batches in this call; 0 = no limit (bench: in each repeat, at "
             "most an epoch; 0 = an epoch)",
     .commands = TRAIN | BENCH_TRAIN, .group = GROUP_TRAINING},
    {ROW("max-steps", max_steps, U64, "N", "0", FREE), FROM(0),
     .help =
         "train up to this batch, counted from the very start; 0 = no limit; not beside --steps",
     .commands = TRAIN, .group = GROUP_TRAINING},
    {ROW("batch-size", batch_size, U64, "B", "64", REFUSED), RANGE(1, 1 << 24),
     .help = "examples per batch", .commands = TRAIN | BENCHES, .group = GROUP_TRAINING},
    {ROW("learning-rate", learning_rate, REAL, "X", "1e-4", WARN), FROM(0), .low_is_open = true,
     .high_is_open = true, .help = "of Adam", .commands = TRAIN, .group = GROUP_TRAINING},
    {ROW("clip-norm", clip_norm, REAL, "X", "0", WARN), FROM(0), .high_is_open = true,
     .help = "scale gradients down to this global norm; 0 = never",
     .commands = TRAIN | BENCH_TRAINERS, .group = GROUP_TRAINING},

    {ROW("device", device, STRING, "auto|cpu|cuda[:N]", "auto", FREE), .valid = device_valid,
     .expected = "auto, cpu, cuda or cuda:N", .help = "where to compute",
     .commands = MODEL_USERS | BENCH_MODELS, .group = GROUP_DEVICE},
    {ROW("threads", threads, U64, "N", "0", FREE), RANGE(0, 4096),
     .help = "of the CPU; 0 = as many as this process may use; the results do not depend on it",
     .commands = MODEL_USERS | BENCH_MODELS, .group = GROUP_DEVICE},
    {ROW("isa", isa, STRING, "auto|NAME", "auto", WARN),
     .help = "instruction set of the CPU path (cairn --version lists them; bench ops: one or more, "
             "separated by commas, or all)",
     .commands = MODEL_USERS | BENCH_MODELS, .group = GROUP_DEVICE},
    {ROW("lstm", lstm, STRING, "auto|fused|cudnn", "auto", WARN), .choices = lstm_choices,
     .help = "recurrence on a GPU: own kernels (hidden size up to 128) or cuDNN",
     .commands = MODEL_USERS | BENCH_MODELS, .group = GROUP_DEVICE},
    {ROW("cuda-graph", cuda_graph, STRING, "on|off", "on", FREE), .choices = on_off_choices,
     .help = "on a GPU: launch the training step as one recorded graph; the results are the same",
     .commands = TRAIN | BENCH_TRAINERS, .group = GROUP_DEVICE},
    {ROW("precision", precision, STRING, "fp32|tf32|bf16", "fp32", WARN),
     .choices = precision_choices,
     .help = "factors of products: tf32, bf16 on a GPU; bf16 in the recurrence on a CPU",
     .commands = MODEL_USERS | BENCH_MODELS, .group = GROUP_DEVICE},

    {ROW("model-dir", model_dir, STRING, "DIR", "", FREE),
     .shown = "train: a fresh temporary directory", .help = "directory of the checkpoints",
     .commands = MODEL_USERS | CHECKPOINTS | TOKENIZE | EXPORT | PLOT, .group = GROUP_READING},
    {ROW("save-checkpoints-secs", save_checkpoints_secs, REAL, "X", "600", FREE), FROM(0),
     .high_is_open = true, .help = "save when this many seconds have passed; 0 = no timer",
     .commands = TRAIN, .group = GROUP_CHECKPOINT},
    {ROW("save-checkpoints-steps", save_checkpoints_steps, U64, "N", "0", FREE), FROM(0),
     .help = "save after every N-th batch instead; 0 = use the timer",
     .commands = TRAIN | BENCH_TRAIN, .group = GROUP_CHECKPOINT},
    {ROW("keep-checkpoint-max", keep_checkpoint_max, U64, "N", "5", FREE), FROM(0),
     .help = "keep the latest N; 0 = all", .commands = TRAIN, .group = GROUP_CHECKPOINT},
    {ROW("keep-checkpoint-every-n-hours", keep_checkpoint_every_n_hours, REAL, "X", "0", FREE),
     FROM(0), .high_is_open = true, .help = "besides, keep one for every X hours; 0 = none",
     .commands = TRAIN, .group = GROUP_CHECKPOINT},
    {ROW("resume", resume, STRING, "auto|never|FILE", "auto", FREE),
     .help = "continue from the latest valid checkpoint of the model directory, refuse a directory "
             "that has one, or continue from this file; one of the directory itself goes back to "
             "it at every start",
     .commands = TRAIN, .group = GROUP_CHECKPOINT},
    {ROW("init-from", init_from, STRING, "FILE", "", FREE), .shown = "fresh weights",
     .help = "begin with the weights (and vocabulary) of this file, when nothing is resumed: a "
             "checkpoint, a .safetensors with our, PyTorch's or Keras' names, or a folder of one",
     .commands = TRAIN, .group = GROUP_CHECKPOINT},
    {ROW("checkpoint-busy", checkpoint_busy, CHOICE, "skip|latest|wait", "skip", FREE),
     .choices = busy_choices, .help = "when a save is due and two are still being written",
     .commands = TRAIN | BENCH_CHECKPOINT, .group = GROUP_CHECKPOINT},
    {ROW("checkpoint-on-error", checkpoint_on_error, CHOICE, "warn|stop", "warn", FREE),
     .choices = on_error_choices, .help = "when a save fails: go on, or stop", .commands = TRAIN,
     .group = GROUP_CHECKPOINT},
    {ROW("compression-level", compression_level, I64, "N", "1", FREE), RANGE(-7, 19),
     .help =
         "of zstd (0 is 3); below 3, what would shrink by less than an eighth is stored as it is",
     .commands = TRAIN | BENCH_TRAINERS, .group = GROUP_CHECKPOINT},
    {ROW("compression-threads", compression_threads, U64, "N", "1", FREE), RANGE(1, 64),
     .help = "that compress a checkpoint, the writer's own included; the file does not depend on "
             "it; more than one is for machines with idle cores, and takes 10 to 80 MB each",
     .commands = TRAIN | BENCH_TRAINERS, .group = GROUP_CHECKPOINT},
    {ROW("allow-change", allow_change, FLAG, NULL, "off", FREE),
     .help = "resume although options or data differ from those of the checkpoint",
     .commands = TRAIN, .group = GROUP_CHECKPOINT},

    {ROW("checkpoint-filepath", checkpoint_filepath, STRING, "TEMPLATE", "", FREE), .shown = "none",
     .valid = filepath_valid, .expected = "the path of a file that is not called model.ckpt-*",
     .help = "also save to this path; {epoch:02d}, {batch}, {loss:.2f}, {val_loss:.2f}, ... are "
             "filled in",
     .commands = TRAIN, .group = GROUP_KERAS},
    {ROW("monitor", monitor, STRING, "METRIC", "val_loss", WARN), .choices = monitor_choices,
     .help =
         "metric of the best model and of early stopping: loss, accuracy, val_loss or val_accuracy",
     .commands = TRAIN, .group = GROUP_KERAS},
    {ROW("mode", mode, CHOICE, "auto|min|max", "auto", WARN), .choices = mode_choices,
     .help = "whether less or more of it is better", .commands = TRAIN, .group = GROUP_KERAS},
    {ROW("save-best-only", save_best_only, FLAG, NULL, "off", FREE),
     .help = "save to --checkpoint-filepath only what is better", .commands = TRAIN,
     .group = GROUP_KERAS},
    {ROW("save-weights-only", save_weights_only, FLAG, NULL, "off", FREE),
     .help = "save to --checkpoint-filepath no optimiser state", .commands = TRAIN,
     .group = GROUP_KERAS},
    {ROW("save-freq", save_freq, SAVE_FREQ, "epoch|N", "epoch", FREE),
     .help = "save to --checkpoint-filepath after every epoch, or every N batches",
     .commands = TRAIN, .group = GROUP_KERAS},
    {ROW("initial-value-threshold", initial_value_threshold, REAL, "X", "none", FREE),
     RANGE(-INFINITY, INFINITY), .low_is_open = true, .high_is_open = true, .none_is_allowed = true,
     .help = "best value to begin with", .commands = TRAIN, .group = GROUP_KERAS},

    {ROW("patience", patience, PATIENCE, "N|none", "5", FREE), RANGE(0, 1e15),
     .help = "stop after this many epochs without improvement; none = never", .commands = TRAIN,
     .group = GROUP_STOPPING},
    {ROW("min-delta", min_delta, REAL, "X", "0", FREE), RANGE(-INFINITY, INFINITY),
     .low_is_open = true, .high_is_open = true, .help = "what counts as an improvement",
     .commands = TRAIN, .group = GROUP_STOPPING},
    {ROW("baseline", baseline, REAL, "X", "none", FREE), RANGE(-INFINITY, INFINITY),
     .low_is_open = true, .high_is_open = true, .none_is_allowed = true,
     .help = "value that must be beaten", .commands = TRAIN, .group = GROUP_STOPPING},
    {ROW("restore-best-weights", restore_best_weights, FLAG, NULL, "off", FREE),
     .help = "end with the weights of the best epoch", .commands = TRAIN, .group = GROUP_STOPPING},
    {ROW("start-from-epoch", start_from_epoch, U64, "N", "0", FREE), FROM(0),
     .help = "begin to watch after this many epochs", .commands = TRAIN, .group = GROUP_STOPPING},

    {ROW("checkpoint", checkpoint, STRING, "latest|best|FILE", "latest", FREE),
     .help = "which checkpoint; a FILE needs no model directory, and may be all that --init-from "
             "takes; a plain .safetensors needs vocab.txt beside it, or --vocabulary",
     .commands = EVALUATE | PREDICT | TOKENIZE | EXPORT, .group = GROUP_READING},
    {ROW("allow-untrained", allow_untrained, FLAG, NULL, "off", FREE),
     .help = "use fresh weights where there is no checkpoint (with --data or --vocabulary)",
     .commands = EVALUATE | PREDICT, .group = GROUP_READING},
    {ROW("verify", verify, FLAG, NULL, "off", FREE),
     .help = "read every byte; exit code 65 if a checkpoint is damaged", .commands = CHECKPOINTS,
     .group = GROUP_READING},
    {ROW("input-format", input_format, CHOICE, "lines|jsonl", "lines", FREE),
     .choices = input_choices, .help = "a text a line, or {\"text\": ...} a line",
     .commands = PREDICT | TOKENIZE, .group = GROUP_OUTPUT},
    {ROW("format", format, CHOICE, "tsv|jsonl", "tsv", FREE), .choices = format_choices,
     .help = "of the predictions", .commands = PREDICT, .group = GROUP_OUTPUT},
    {ROW("format", export_format, CHOICE, "FORMAT", "safetensors", FREE), .choices = export_choices,
     .help = "safetensors: a folder with PyTorch's names; onnx; keras: .keras or .weights.h5; "
             "checkpoint: one file for --checkpoint and --init-from",
     .commands = EXPORT, .group = GROUP_OUTPUT},
    {ROW("output", output, STRING, "PATH", "", FREE), .shown = "none, must be given",
     .help = "the folder or file to write; one that is there is replaced", .commands = EXPORT,
     .group = GROUP_OUTPUT},
    {ROW("with-text", with_text, FLAG, NULL, "off", FREE),
     .help = "onnx: take strings and answer with labels, instead of token ids and logits",
     .commands = EXPORT, .group = GROUP_OUTPUT},

    {ROW("progress", progress, CHOICE, "auto|bar|lines|json|none", "auto", FREE),
     .choices = progress_choices, .help = "auto: bar on a terminal, else lines",
     .commands = TRAIN | EVALUATE, .group = GROUP_OUTPUT},
    {ROW("verbose", verbose, U64, "0|1|2", "1", FREE), RANGE(0, 2),
     .help = "0 = no progress, 2 = one line per epoch", .commands = TRAIN | EVALUATE,
     .group = GROUP_OUTPUT},
    {ROW("log-step-count-steps", log_step_count_steps, U64, "N", "100", FREE), FROM(0),
     .help = "batches between two step events in history.jsonl; 0 = none", .commands = TRAIN,
     .group = GROUP_OUTPUT},
    {ROW("save-summary-steps", save_summary_steps, U64, "N", "100", FREE), FROM(0),
     .help = "batches between two points of loss and accuracy in event files; 0 = none",
     .commands = TRAIN, .group = GROUP_OUTPUT},
    {ROW("tensorboard", tensorboard, STRING, "on|off", "on", FREE), .choices = on_off_choices,
     .help = "write event files for TensorBoard into train/ and validation/ of the model directory",
     .commands = TRAIN, .group = GROUP_OUTPUT},
    {ROW("histogram-freq", histogram_freq, U64, "N", "0", FREE), FROM(0),
     .help = "epochs between two histograms of the weights in event files; 0 = none",
     .commands = TRAIN, .group = GROUP_OUTPUT},

    {ROW("saves", plot_saves, FLAG, NULL, "off", FREE),
     .help = "draw how long training stood still for each save, and when the save was durable",
     .commands = PLOT, .group = GROUP_OUTPUT},
    {ROW("output", picture, STRING, "FILE|none", "", FREE), .valid = picture_valid,
     .expected = "the path of a .png or .svg, or none",
     .shown = "curves.png or saves.png in the first directory",
     .help = "the picture, drawn by gnuplot; .png or .svg", .commands = PLOT,
     .group = GROUP_OUTPUT},
    {ROW("size", picture_size, STRING, "WIDTHxHEIGHT", "1000x420", FREE),
     .valid = picture_size_valid, .expected = "pixels, from 640x300 to 8000x8000",
     .help = "of the picture, in pixels", .commands = PLOT, .group = GROUP_OUTPUT},
    {ROW("monitor", plot_monitor, STRING, "METRIC", "", FREE), .valid = metric_valid,
     .expected = "loss, accuracy, val_loss or val_accuracy", .shown = "what the run watched",
     .help = "mark the best epoch by this metric: loss, accuracy, val_loss or val_accuracy",
     .commands = PLOT, .group = GROUP_OUTPUT},
    {ROW("ascii", ascii, FLAG, NULL, "off", FREE), .shown = "off; on where the locale is not UTF-8",
     .help = "plain characters, no braille", .commands = PLOT, .group = GROUP_OUTPUT},

    {ROW("repeats", repeats, U64, "N", "5", FREE), RANGE(1, 255), .shown = "5; bench checkpoint: 6",
     .help = "measure this often; median, least and most are shown", .commands = BENCHES,
     .group = GROUP_BENCH},
    {ROW("section", section, STRING, "NAME", "all", FREE), .choices = section_choices,
     .help = "measure only recurrence, batch, ragged, operations (of a GPU), step or save",
     .commands = BENCH_OPS, .group = GROUP_BENCH},
    {ROW("quick", quick, FLAG, NULL, "off", FREE),
     .help = "tiny sizes and two repeats where none are given, to see that all of it works",
     .commands = BENCH_OPS | BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("modes", modes, STRING, "LIST",
         "off,copy,sync,sync+zstd,async,async+zstd,direct,direct+zstd", FREE),
     .help = "ways to save; off, to tell what they cost in throughput, and copy, one copy of the "
             "state in memory, to compare a stall with; with zstd at --compression-level (its 1 "
             "and 2 store what hardly shrinks), without at level -7, which stores numbers as they "
             "are; direct, of a GPU only (asked for on a CPU, exit code 69): no copy on the device "
             "first",
     .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("intervals", intervals, STRING, "LIST", "1,10,25,50,100,epoch", FREE),
     .shown = "1,10,25,50,100,epoch; of made-up states 10,25, or 50,100 from 100 MB",
     .help = "save after every N-th batch", .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("sizes", sizes, STRING, "LIST", "real,1.7,33,330,1000", FREE),
     .help =
         "what is saved: the state of a trainer on --data, and made-up states of so many MB; "
         "with all other defaults real takes about 11 minutes in one --storage, and all of them "
         "an estimated hour",
     .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("saves", saves, U64, "N", "0", FREE), RANGE(0, 1000000),
     .shown = "those of 250 steps, or of fewer with a made-up state",
     .help = "saves that each repeat asks for", .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("step-ms", step_ms, REAL, "X", "10", FREE), RANGE(0, 60000), .low_is_open = true,
     .help = "length of a training step beside a made-up state", .commands = BENCH_CHECKPOINT,
     .group = GROUP_BENCH},
    {ROW("storage", storage, STRING, "LIST", "dir,tmpfs", FREE),
     .help = "where to save: dir (--dir), tmpfs (/dev/shm)", .commands = BENCH_CHECKPOINT,
     .group = GROUP_BENCH},
    {ROW("dir", directory, STRING, "DIR", "", FREE), .shown = "$TMPDIR, or /tmp",
     .help = "save into a directory of its own below this one, removed at the end, or by the next "
             "benchmark if this one is killed",
     .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("kills", kills, U64, "N", "30", FREE), RANGE(0, 255),
     .shown = "30, or as many as end within a minute, at least 5",
     .help = "kill this many trainers in each mode to see how many steps are lost",
     .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("csv", csv, STRING, "FILE", "", FREE), .shown = "none",
     .help = "write a line for each repeat to this file", .commands = BENCH_CHECKPOINT,
     .group = GROUP_BENCH},
    {ROW("stalls", stalls, STRING, "FILE", "", FREE), .shown = "none",
     .help = "write a line for each save's stall to this file, as CSV",
     .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("plot", plot, STRING, "FILE", "", FREE), .shown = "none",
     .help = "draw the loss of throughput against the interval into this PNG, with gnuplot; needs "
             "off and a mode that saves, and two intervals",
     .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("keep-state", keep_state, STRING, "FILE", "", FREE), .shown = "none",
     .help = "copy the last checkpoint of the first state that is measured to this file",
     .commands = BENCH_CHECKPOINT, .group = GROUP_BENCH},
    {ROW("json", json, STRING, "FILE", "", FREE), .shown = "none",
     .help = "write the figures to this file as JSON", .commands = BENCHES, .group = GROUP_BENCH},

    {ROW("preempt-exit-code", preempt_exit_code, U64, "N", "75", FREE), RANGE(0, 255),
     .help = "after a stop signal and a good save", .commands = TRAIN, .group = GROUP_PREEMPTION},
    {ROW("requeue-command", requeue_command, STRING, "COMMAND", "", FREE), .shown = "none",
     .help = "run after a stop signal and a good save, without a shell; not for SIGINT",
     .commands = TRAIN, .group = GROUP_PREEMPTION},
};

enum { ROW_COUNT = sizeof option_rows / sizeof option_rows[0] };
_Static_assert(ROW_COUNT <= 8 * sizeof((struct options *)0)->given, "options.given is too small");

size_t options_row_count(void) {
    return ROW_COUNT;
}

struct option_row_info options_row(size_t index) {
    assert(index < ROW_COUNT);
    const struct option_row *row = &option_rows[index];
    return (struct option_row_info){.name = row->name,
                                    .argument = row->argument,
                                    .help = row->help,
                                    .default_text = row->value,
                                    .default_shown = row->shown != NULL ? row->shown : row->value,
                                    .change = row->change,
                                    .commands = row->commands};
}

int option_row_find(enum command command, const char *name) {
    int first = -1;
    for (int i = 0; i < ROW_COUNT; i++) {
        if (strcmp(option_rows[i].name, name) != 0) {
            continue;
        }
        if ((option_rows[i].commands >> command & 1) != 0) {
            return i;
        }
        first = first < 0 ? i : first;
    }
    return first;
}

/* ---- words -------------------------------------------------------------------------------- */

/* Levenshtein's edit distance (1966), one row at a time. */
static size_t edit_distance(const char *a, const char *b) {
    enum { WORD_MAX = 64 };
    size_t row[WORD_MAX + 1], a_size = strlen(a), b_size = strlen(b);
    if (a_size > WORD_MAX || b_size > WORD_MAX) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= b_size; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a_size; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            size_t shorter = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replaced < shorter ? replaced : shorter;
        }
    }
    return row[b_size];
}

const char *options_nearest(const char *word, const char *const *names, size_t count) {
    const char *nearest = NULL;
    size_t size = strlen(word), best = size < 3 ? 1 : size / 3 + 1; /* a third may be wrong */
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(word, names[i]);
        if (distance < best || (distance == best && nearest == NULL)) {
            best = distance;
            nearest = names[i];
        }
    }
    return nearest;
}
