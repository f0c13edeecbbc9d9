// train_fixture.h - what tests of the whole program share: a small data set, a model directory, and
// the command that trains in it within a fraction of a second.
#ifndef CAIRN_TESTS_SUPPORT_TRAIN_FIXTURE_H
#define CAIRN_TESTS_SUPPORT_TRAIN_FIXTURE_H

#include <string>
#include <vector>

#include "tests/support/process.h"
#include "tests/support/small_data.h"
#include "gtest/gtest.h"

class TrainFixture : public testing::Test {
  protected:
    // 128 training examples in batches of 16: 8 steps per epoch.
    static constexpr uint64_t kStepsPerEpoch = 8;

    void SetUp() override {
        write_jsonl(dir_.file("train.jsonl"), small_examples(128, 1));
        write_jsonl(dir_.file("validation.jsonl"), small_examples(64, 2));
        data_ = {"--data", dir_.file("train.jsonl"), "--validation-data",
                 dir_.file("validation.jsonl")};
    }

    std::string model() const { return dir_.file("model"); }

    // Two epochs; `more` comes last and so overrides.
    std::vector<std::string> train_arguments(const std::vector<std::string> &more = {}) const {
        return words("train --epochs 2 --batch-size 16 --embedding-size 8 --hidden-size 8 "
                     "--dense-size 8 --vocabulary-size 20 --learning-rate 1e-2 --threads 1 "
                     "--checkpoint-busy wait --model-dir " +
                     model()) +
               data_ + more;
    }

    Outcome train(const std::vector<std::string> &more = {}) const {
        return run_cairn(train_arguments(more));
    }

    TemporaryDirectory dir_;
    std::vector<std::string> data_; // options that say what is trained on
};

// Fails with the whole story when the exit code is another one.
#define EXPECT_EXIT_CODE(outcome, wanted)                                                          \
    EXPECT_EQ((outcome).code, wanted) << "stdout:\n"                                               \
                                      << (outcome).out << "stderr:\n"                              \
                                      << (outcome).err

#define EXPECT_SAYS(outcome, part)                                                                 \
    EXPECT_TRUE(contains((outcome).err, part)) << "not said: " << (part) << "\n" << (outcome).err

#endif
