// The trainer's saves on a disk that fails where the test wants it: what counts as saved, and what
// the trainer takes for its best model afterwards.
#include <cstdio>
#include <cstdlib>

#include "host/loading.h"
#include "host/trainer.h"
#include "tests/support/checkpoint_edit.h"
#include "tests/support/faulty_files.h"
#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

const std::string kBest = "best.safetensors.zst";

// `cairn train` of the arguments, with every file of the model directory behind `files`.
class Training {
  public:
    Training(const FaultyFiles &files, std::vector<std::string> arguments) {
        std::vector<char *> argv;
        for (std::string &argument : arguments) {
            argv.push_back(argument.data());
        }
        bool exit_early = false;
        struct error err = {};
        EXPECT_EQ(options_parse(COMMAND_TRAIN, static_cast<int>(argv.size()), argv.data(),
                                &options_, &exit_early, &err),
                  STATUS_OK)
            << err.message;
        text_ = open_memstream(&text_bytes_, &text_size_);
        progress_init(&progress_, text_, PROGRESS_LINES, 0);
        status_ = train(files.table());
    }

    ~Training() {
        fclose(text_);
        free(text_bytes_);
        corpora_free(&corpora_);
        if (backend_ != nullptr) {
            backend_->table->free(backend_);
        }
        options_free(&options_);
    }

    Training(const Training &) = delete;
    Training &operator=(const Training &) = delete;

    enum status status() const { return status_; }
    const std::string &message() const { return message_; } // with which it ended
    const struct trainer_outcome &outcome() const { return outcome_; }
    std::string said() const {
        fflush(text_);
        return std::string(text_bytes_, text_size_);
    }

  private:
    enum status load(struct error *err) {
        struct corpus_request request = {};
        request.files = &file_posix;
        request.path = options_.data;
        request.validation_path = options_.validation_data;
        request.vocabulary_limit = options_.vocabulary_size;
        enum status status =
            loading_create_backend(&options_, options_.hidden_size, &backend_, err);
        status = status == STATUS_OK ? corpus_load_training(&request, &corpora_, err) : status;
        for (int i = 0; i < 2; i++) {
            snprintf(rules_.label_names[i], sizeof rules_.label_names[i], "%s",
                     corpora_.label_names[i]);
        }
        return status;
    }

    enum status run(const struct file_table *files, struct store *store, struct error *err) {
        struct trainer_setup setup = {};
        setup.options = &options_;
        setup.be = backend_;
        setup.corpora = &corpora_;
        setup.vocabulary = corpora_.vocabulary;
        setup.rules = &rules_;
        setup.store = store;
        setup.files = files;
        setup.progress = &progress_;
        setup.resumed_path = "";
        setup.run_id = "test";
        struct trainer *trainer = nullptr;
        enum status status = trainer_create(&setup, &trainer, err);
        status = status == STATUS_OK ? trainer_run(trainer, &outcome_, err) : status;
        trainer_free(trainer);
        return status;
    }

    enum status train(const struct file_table *files) {
        struct error err = {}, warning = {};
        struct store *store = nullptr;
        const struct store_options options = {static_cast<uint32_t>(options_.keep_checkpoint_max),
                                              0.0};
        enum status status = load(&err);
        status = status == STATUS_OK
                     ? store_open(files, options_.model_dir, &options, &store, &warning, &err)
                     : status;
        status = status == STATUS_OK ? run(files, store, &err) : status;
        store_close(store);
        message_ = err.message;
        return status;
    }

    struct options options_ = {};
    struct backend *backend_ = nullptr;
    struct corpora corpora_ = {};
    struct text_rules rules_ = {};
    struct progress progress_ = {};
    struct trainer_outcome outcome_ = {};
    FILE *text_ = nullptr;
    char *text_bytes_ = nullptr;
    size_t text_size_ = 0;
    enum status status_;
    std::string message_;
};

class TrainerSaves : public TrainFixture {
  protected:
    std::string best(const std::string &directory) const { return directory + "/" + kBest; }

    FaultyFiles files_{&file_posix};
};

size_t count(const std::string &text, const std::string &part) {
    size_t found = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) {
        found++;
    }
    return found;
}

} // namespace

// An old checkpoint that cannot be deleted takes nothing from the new one, which is not saved again.
TEST_F(TrainerSaves, ADeletionThatFailsLeavesTheCheckpointSaved) {
    files_.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Unlink && contains(path, "/model.ckpt-0.");
        },
        EPERM);
    const Training run(files_, train_arguments({"--max-steps", "4", "--save-checkpoints-steps", "2",
                                                "--keep-checkpoint-max", "1"}));
    EXPECT_EQ(run.status(), STATUS_IO);
    EXPECT_FALSE(run.outcome().final_save_failed);
    EXPECT_EQ(count(run.said(), "checkpoint of step 2 is durable, but the state file or the "
                                "deletion of old checkpoints failed: "),
              1u)
        << run.said();
    EXPECT_EQ(count(run.said(), "checkpoint of step 4 "), 1u) << run.said();
    EXPECT_FALSE(contains(run.said(), "not saved")) << run.said();
    EXPECT_TRUE(contains(run.message(),
                         "2 save(s) failed (see above); the checkpoints saved before "
                         "are kept, the last state is among them"))
        << run.message();
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 4}));
}

// Renamed is there: an epoch that is worse does not replace it, although a power cut might bring
// the older one back.
TEST_F(TrainerSaves, ABestModelWhoseDirectoryIsNotSyncedIsNotReplacedByAWorseOne) {
    // A high rate overfits a small set soon: the best epoch is not the last one.
    const std::vector<std::string> more = {"--epochs",   "12",   "--learning-rate", "0.05",
                                           "--patience", "none", "--model-dir"};
    const std::string sound = dir_.file("sound");
    const Training undisturbed(files_, train_arguments(more + std::vector<std::string>{sound}));
    ASSERT_EQ(undisturbed.status(), STATUS_OK) << undisturbed.message();
    ASSERT_LT(checkpoint_count(best(sound), "state.step"),
              static_cast<int64_t>(12 * kStepsPerEpoch));

    bool renamed = false;
    files_.fail_where(
        [&renamed](FileCall call, const std::string &path, bool is_directory) {
            const bool fails = renamed && call == FileCall::Fsync && is_directory;
            renamed = call == FileCall::Rename ? contains(path, kBest) : renamed && !fails;
            return fails;
        },
        EIO);
    const Training run(files_, train_arguments(more + std::vector<std::string>{model()}));
    EXPECT_GT(files_.failures(), 0u);
    EXPECT_EQ(run.status(), STATUS_IO);
    EXPECT_TRUE(contains(run.said(), " is there, but not known to be durable: ")) << run.said();
    EXPECT_EQ(checkpoint_difference(best(sound), best(model())), "");
    const std::string last = checkpoint_path(model(), 12 * kStepsPerEpoch);
    EXPECT_EQ(checkpoint_count(last, "state.best.step"),
              checkpoint_count(best(model()), "state.step"));
}
