#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/rng.h"
#include "host/base/stop.h"
#include "host/cmd.h"
#include "host/import.h"
#include "host/loading.h"
#include "host/resume.h"
#include "host/run_header.h"
#include "host/signals.h"
#include "host/trainer.h"

/* Everything that a run opens, in the order in which it is opened; train_close undoes it. */
struct train {
    struct options options; /* a copy whose model_dir is never empty */
    bool temporary;
    bool began;   /* the trainer exists: the model directory is in use */
    bool stopped; /* by a signal, after a good save or with nothing to save */
    char temporary_directory[FILE_PATH_CAPACITY];
    char run_id[33];
    struct progress progress;
    struct backend *be;
    struct store *store;
    struct resume resume;
    struct checkpoint *init_from;
    struct vocabulary *given_vocabulary; /* of the checkpoint, --init-from or --vocabulary */
    struct corpora corpora;
    struct text_rules rules;
    struct trainer *trainer;
};

static void train_close(struct train *train) {
    trainer_free(train->trainer);
    corpora_free(&train->corpora);
    vocabulary_free(train->given_vocabulary);
    checkpoint_free(train->init_from);
    resume_close(&train->resume);
    store_close(train->store);
    if (train->temporary && !train->began) { /* nothing but the lock file is in it */
        char lock[FILE_PATH_CAPACITY];
        if (file_join_path(lock, sizeof lock, train->temporary_directory, STORE_LOCK_FILE)) {
            unlink(lock);
        }
        rmdir(train->temporary_directory);
    }
    if (train->be != NULL) {
        train->be->table->free(train->be);
    }
}

/* ---- preparation ----------------------------------------------------------------------------- */

static enum status choose_directory(struct train *train, struct error *err) {
    if (train->options.model_dir[0] != '\0') {
        return STATUS_OK;
    }
    const char *base = getenv("TMPDIR");
    bool fits = file_join_path(train->temporary_directory, sizeof train->temporary_directory,
                               base != NULL && base[0] != '\0' ? base : "/tmp", "cairn-XXXXXX");
    CHECK(fits && mkdtemp(train->temporary_directory) != NULL, err, STATUS_OUTPUT,
          "cannot create a temporary model directory (%s): pass --model-dir DIR",
          fits ? strerror(errno) : "the path is too long");
    train->temporary = true;
    train->options.model_dir = train->temporary_directory;
    /* Said under every --progress: nobody could find the checkpoints otherwise. */
    fprintf(stderr, "Model directory: %s (temporary; --model-dir chooses another)\n",
            train->temporary_directory);
    return STATUS_OK;
}

static enum status open_store(struct train *train, struct error *err) {
    struct store_options options = {
        .keep_max = train->options.keep_checkpoint_max > UINT32_MAX
                        ? 0
                        : (uint32_t)train->options.keep_checkpoint_max,
        .keep_every_n_seconds = train->options.keep_checkpoint_every_n_hours * 3600.0,
    };
    struct error warning = {0};
    TRY(store_open(&file_posix, train->options.model_dir, &options, &train->store, &warning, err));
    if (warning.status != STATUS_OK) {
        progress_warning(&train->progress, "%s", warning.message);
    }
    return STATUS_OK;
}

/* The run id is the same over all restarts of a run. */
static void choose_run_id(struct train *train) {
    const char *saved = train->resume.checkpoint != NULL
                            ? checkpoint_metadata(train->resume.checkpoint, "run_id")
                            : NULL;
    if (saved != NULL && strlen(saved) < sizeof train->run_id) {
        snprintf(train->run_id, sizeof train->run_id, "%s", saved);
        return;
    }
    struct {
        double time;
        pid_t pid;
    } unique;
    memset(&unique, 0, sizeof unique);
    unique.time = clock_wall_seconds();
    unique.pid = getpid();
    checkpoint_digest_hex(&unique, sizeof unique, train->run_id);
    train->run_id[16] = '\0';
}

/* --init-from counts only for a fresh run, so that a requeued job may keep it; it is not even
 * looked at otherwise. Its sizes must be those asked for. */
static enum status open_init_from(struct train *train, struct error *err) {
    const struct options *options = &train->options;
    if (options->init_from[0] == '\0') {
        return STATUS_OK;
    }
    if (train->resume.checkpoint != NULL) {
        progress_message(&train->progress, "--init-from %s is not used: this run goes on from %s",
                         text_show(options->init_from).text, text_show(train->resume.path).text);
        return STATUS_OK;
    }
    /* A vocabulary that the user names goes before one that lies beside the file. */
    enum status status = import_read(&file_posix, options->init_from,
                                     options->vocabulary[0] == '\0', &train->init_from, err);
    if (status != STATUS_OK) {
        return error_prefix(err, status, "--init-from");
    }
    struct model_shape have;
    TRY(loading_shape(train->init_from, options->init_from, &have, err));
    struct model_shape want = {
        .vocabulary = have.vocabulary,
        .embedding = (uint32_t)options->embedding_size,
        .hidden = (uint32_t)options->hidden_size,
        .dense = (uint32_t)options->dense_size,
    };
    bool own_words = tensor_find(train->init_from->tensors, train->init_from->tensor_count,
                                 TENSOR_VOCABULARY) != NULL;
    if (own_words && options_given(options, "vocabulary-size") &&
        options->vocabulary_size < have.vocabulary && options->vocabulary_size > 0) {
        want.vocabulary = (uint32_t)options->vocabulary_size;
    }
    TRY(loading_check_fit(train->init_from, options->init_from, &want, false,
                          "leave --init-from away to begin with fresh weights", err));
    TRY(loading_check_vocabulary(train->init_from, options->init_from, options->vocabulary, err));
    return STATUS_OK;
}

/* A vocabulary that is not learned: the checkpoint's own, that of --init-from, or --vocabulary. */
static enum status choose_vocabulary(struct train *train, struct error *err) {
    struct text_rules ignored;
    const struct options *options = &train->options;
    if (train->resume.checkpoint != NULL) {
        return loading_read_text(train->resume.checkpoint, train->resume.path, options->vocabulary,
                                 &train->given_vocabulary, &ignored, err);
    }
    if (train->init_from != NULL &&
        tensor_find(train->init_from->tensors, train->init_from->tensor_count, TENSOR_VOCABULARY) !=
            NULL) {
        return loading_read_text(train->init_from, options->init_from, "", &train->given_vocabulary,
                                 &ignored, err);
    }
    if (options->vocabulary[0] != '\0') {
        return vocabulary_load(&file_posix, options->vocabulary, &train->given_vocabulary, err);
    }
    return STATUS_OK;
}

static const struct vocabulary *vocabulary_in_use(const struct train *train) {
    return train->given_vocabulary != NULL ? train->given_vocabulary : train->corpora.vocabulary;
}

/* Right for a model of the same data; nobody but the user can know. */
static void warn_of_learned_words(struct train *train) {
    if (train->given_vocabulary == NULL) {
        progress_warning(&train->progress,
                         "--init-from %s holds no vocabulary, and no vocab.txt lies beside it: its "
                         "rows are taken for the words learned from --data, in their order; "
                         "--vocabulary FILE names others",
                         train->options.init_from);
    }
}

static bool init_from_has(const struct train *train, const char *name) {
    return tensor_find(train->init_from->tensors, train->init_from->tensor_count, name) != NULL;
}

static void warn_of_other_labels(struct train *train, const struct text_rules *theirs,
                                 const char *path) {
    const struct text_rules *ours = &train->rules;
    char shown[2][4 * DATASET_LABEL_CAPACITY];
    bool same = true;
    for (int i = 0; i < 2; i++) {
        const char *name = theirs->label_names[i];
        same = same && strcmp(name, ours->label_names[i]) == 0;
        text_escape(name, strlen(name), shown[i], sizeof shown[i]);
    }
    if (!same && init_from_has(train, TENSOR_LABEL_NAMES)) {
        progress_warning(&train->progress,
                         "--init-from %s calls its classes '%s' and '%s', the data '%s' and '%s', "
                         "which this run keeps",
                         path, shown[0], shown[1], ours->label_names[0], ours->label_names[1]);
    }
}

/* The run's own rules and names count; weights that were trained under others go on, but not in
 * silence. */
static void warn_of_other_rules(struct train *train) {
    const struct text_rules *ours = &train->rules;
    const char *init_from = train->options.init_from;
    char path[400];
    text_escape(init_from, strlen(init_from), path, sizeof path);
    struct text_rules theirs;
    loading_read_rules(train->init_from, &theirs);
    if (init_from_has(train, TENSOR_STRIP_HTML) && theirs.strip_html != ours->strip_html) {
        progress_warning(&train->progress,
                         "--init-from %s was trained with --strip-html %s, this run has %s", path,
                         theirs.strip_html ? "on" : "off", ours->strip_html ? "on" : "off");
    }
    if (init_from_has(train, TENSOR_MAX_LENGTH) && theirs.max_length != ours->max_length) {
        progress_warning(&train->progress,
                         "--init-from %s was trained with --max-length %" PRIu64
                         ", this run has %" PRIu64 " (0: all tokens)",
                         path, theirs.max_length, ours->max_length);
    }
    warn_of_other_labels(train, &theirs, path);
}

static enum status load_data(struct train *train, struct error *err) {
    const struct options *options = &train->options;
    struct corpus_request request = {
        .files = &file_posix,
        .path = options->data,
        .validation_path = options->validation_data,
        .validation_split = options->validation_split,
        .vocabulary = train->given_vocabulary,
        .vocabulary_limit = options->vocabulary_size,
        .max_length = options->max_length,
        .strip_html = options->strip_html,
    };
    TRY(corpus_load_training(&request, &train->corpora, err));
    train->rules.strip_html = options->strip_html;
    train->rules.max_length = options->max_length;
    memcpy(train->rules.label_names, train->corpora.label_names, sizeof train->rules.label_names);
    if (train->init_from != NULL) {
        uint32_t entries = vocabulary_size(vocabulary_in_use(train));
        struct model_shape have;
        TRY(loading_shape(train->init_from, options->init_from, &have, err));
        CHECK(have.vocabulary == entries, err, STATUS_MISFIT,
              "--init-from %s: embedding.weight has %u rows, the vocabulary has %u entries; pass "
              "the vocabulary it was trained with as --vocabulary FILE",
              options->init_from, have.vocabulary, entries);
        warn_of_learned_words(train);
        warn_of_other_rules(train);
    }
    return STATUS_OK;
}

/* For people and for --config; a resume reads the checkpoint's own copy, so failing is no more than
 * a warning. What --resume asked for was asked of this start only: with the file a run goes on. */
static void write_config(struct train *train) {
    char path[FILE_PATH_CAPACITY];
    struct error err = {0};
    struct text config = {0};
    struct options options = train->options;
    options.resume = "auto";
    options_write(&options, &config);
    bool usable =
        !config.failed && file_join_path(path, sizeof path, train->options.model_dir, "config.ini");
    enum status status = usable ? file_publish(&file_posix, path, config.bytes, config.size, &err)
                                : error_set(&err, STATUS_MEMORY, "no memory for the options");
    if (status != STATUS_OK) {
        progress_warning(&train->progress, "config.ini is not written: %s", err.message);
    }
    text_free(&config);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Once it has trained: with --resume never it would be refused, and where --resume went back it
 * would go back again. */
static void say_how_to_go_on(const struct train *train) {
    bool other = train->resume.supersede || strcmp(train->options.resume, "never") == 0;
    fprintf(stderr, "Run the same command again%s to go on%s%s.\n",
            other ? " without --resume" : "", train->temporary ? ", with --model-dir " : "",
            train->temporary ? train->options.model_dir : "");
}

/* SIGINT is a person at the keyboard, who does not want the job back in the queue. */
static void requeue(const struct train *train) {
    const char *command = train->options.requeue_command;
    if (command[0] == '\0' || stop_signal() == SIGINT) {
        return;
    }
    int exit_code = 0;
    struct error err = {0};
    if (signals_run_command(command, &exit_code, &err) != STATUS_OK) {
        fprintf(stderr, "Warning: --requeue-command: %s\n", err.message);
    } else if (exit_code != 0) {
        fprintf(stderr, "Warning: --requeue-command ended with exit code %d\n", exit_code);
    }
}

static void say_stopped(struct train *train, const struct trainer_outcome *outcome) {
    bool failed = outcome->save_failures > 0;
    if (failed) {
        progress_warning(&train->progress, "%" PRIu64 " save(s) failed (see above)",
                         outcome->save_failures);
    }
    fprintf(stderr, "Stopped by %s after step %" PRIu64 "; %s is saved. ",
            signals_name(stop_signal()), outcome->step, failed ? "the last state" : "everything");
    say_how_to_go_on(train);
}

static enum status run(struct train *train, int *exit_code, struct error *err) {
    const struct trainer_setup setup = {
        .options = &train->options,
        .be = train->be,
        .corpora = &train->corpora,
        .vocabulary = vocabulary_in_use(train),
        .rules = &train->rules,
        .store = train->store,
        .files = &file_posix,
        .progress = &train->progress,
        .resumed = train->resume.checkpoint,
        .resumed_path = train->resume.path,
        .resumed_in_ring = train->resume.in_ring,
        .supersede = train->resume.supersede,
        .supersede_best = train->resume.supersede_best,
        .best_unusable = train->resume.best_unusable,
        .monitor_changed = train->resume.monitor_changed,
        .init_from = train->init_from,
        .run_id = train->run_id,
    };
    TRY(store_check_owned(train->store, false, err)); /* reading may have taken minutes */
    TRY(trainer_create(&setup, &train->trainer, err));
    train->began = true;
    write_config(train);
    struct trainer_outcome outcome;
    TRY(trainer_run(train->trainer, &outcome, err));
    if (outcome.end == TRAINER_END_SIGNAL) {
        say_stopped(train, &outcome);
        train->stopped = true;
        *exit_code = (int)train->options.preempt_exit_code;
    }
    return STATUS_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

static enum status prepare(struct train *train, bool *nothing_to_do, struct error *err) {
    const struct options *options = &train->options;
    CHECK(options->data[0] != '\0', err, STATUS_USAGE,
          "--data PATH is missing: a folder, an archive, a .csv, .tsv or .jsonl file, or 'demo'");
    TRY(loading_create_backend(options, options->hidden_size, &train->be, err));
    TRY(choose_directory(train, err));
    TRY(open_store(train, err));
    TRY(resume_find(options, train->store, &train->resume, err));
    TRY(resume_check_options(&train->resume, options, train->be->kernel_path, err));
    char why[256];
    bool there = resume_already_there(&train->resume, options, why, sizeof why);
    if (there) {
        progress_warning(&train->progress, "%s", why);
    }
    *nothing_to_do = there && !train->resume.supersede; /* going back is something to do */
    if (*nothing_to_do) {
        return STATUS_OK;
    }
    choose_run_id(train);
    TRY(open_init_from(train, err));
    TRY(choose_vocabulary(train, err));
    TRY(load_data(train, err));
    TRY(resume_check_data(&train->resume, options, &train->corpora, err));
    run_header_print(&train->progress, options, &train->corpora,
                     vocabulary_size(vocabulary_in_use(train)), train->be, &train->resume);
    return STATUS_OK;
}

enum status cmd_train(const struct options *options, int *exit_code, struct error *err) {
    struct train *train = calloc(1, sizeof *train);
    CHECK(train != NULL, err, STATUS_MEMORY, "no memory for the command");
    train->options = *options;
    progress_init(&train->progress, stderr, options->progress, options->verbose);
    bool nothing_to_do = false;
    enum status status = prepare(train, &nothing_to_do, err);
    if (status == STATUS_OK && !nothing_to_do) {
        status = run(train, exit_code, err);
    } else if (status == STATUS_STOPPED) {
        /* Nothing is saved or gone back to: --resume is still to be obeyed. A temporary directory
         * goes with train_close. */
        fprintf(stderr,
                "Stopped by %s before training began; nothing is lost. Run the same command again "
                "to go on.\n",
                signals_name(stop_signal()));
        train->stopped = true;
        *exit_code = (int)options->preempt_exit_code;
        status = STATUS_OK;
    }
    train_close(train);
    if (train->stopped) {
        requeue(train); /* the directory is free: who starts at once may have it */
    }
    free(train);
    return status;
}
