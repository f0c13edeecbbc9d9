// run_state_test.cc - what is saved of a run comes back, all of it, to the last bit.
#include "host/run_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace {

class RunState : public testing::Test {
  protected:
    void SetUp() override {
        run_state_init(&state_, 77);
        run_state_init(&restored_, 0);
    }
    void TearDown() override {
        run_state_deinit(&state_);
        run_state_deinit(&restored_);
        checkpoint_free(checkpoint_);
    }

    // Through the real encoder and decoder.
    void encode() {
        snapshot_source sources[RUN_STATE_TENSORS];
        size_t count = run_state_sources(&state_, sources);
        ASSERT_LE(count, static_cast<size_t>(RUN_STATE_TENSORS));
        std::vector<tensor_view> views;
        for (size_t i = 0; i < count; i++) {
            views.push_back(sources[i].view);
        }
        encode_views(views);
    }

    void encode_views(const std::vector<tensor_view> &views) {
        checkpoint_free(checkpoint_);
        checkpoint_ = nullptr;
        checkpoint_encoder *encoder = nullptr;
        ASSERT_EQ(checkpoint_encoder_create(1, 1, &encoder, &err_), STATUS_OK) << err_.message;
        std::string bytes;
        auto sink = [](void *context, const void *data, size_t size, error *) {
            static_cast<std::string *>(context)->append(static_cast<const char *>(data), size);
            return STATUS_OK;
        };
        enum status status = checkpoint_encode(encoder, views.data(), views.size(), nullptr, 0,
                                               sink, &bytes, nullptr, nullptr, &err_);
        checkpoint_encoder_free(encoder);
        ASSERT_EQ(status, STATUS_OK) << err_.message;
        ASSERT_EQ(checkpoint_decode(bytes.data(), bytes.size(), &checkpoint_, &err_), STATUS_OK)
            << err_.message;
    }

    run_state state_, restored_;
    checkpoint *checkpoint_ = nullptr;
    error err_ = {};
};

// Every byte of the struct up to the rows is a field: fill them with values of their own and
// compare the bytes, so that a field which the table forgets is found.
TEST_F(RunState, EveryFieldComesBack) {
    constexpr size_t field_bytes = offsetof(run_state, rows);
    for (size_t at = 0; at < field_bytes; at += 8) {
        int64_t value = static_cast<int64_t>(at / 8 + 2);
        memcpy(reinterpret_cast<char *>(&state_) + at, &value, sizeof value);
    }
    state_.phase = RUN_EPOCH_END;
    state_.epoch = 2; // as many as there are rows
    state_.stopping_best_epoch = 1;
    state_.stopping_has_best = state_.stopping_has_weights = state_.stopping_stopped = 1;
    state_.best_has_best = state_.save_freq_has_best = state_.restored_best = 1;
    state_.stopping_best = std::nan("");
    state_.best_value = 0.1;
    state_.data_fingerprint = INT64_MIN;
    state_.seed = -1;
    const epoch_row rows[] = {{0.7, 0.5, 0.6, 0.55}, {0.1 + 0.2, 1.0, NAN, NAN}};
    for (const epoch_row &row : rows) {
        ASSERT_EQ(run_state_add_row(&state_, &row, &err_), STATUS_OK);
    }
    encode();
    ASSERT_EQ(run_state_read(&restored_, checkpoint_, &err_), STATUS_OK) << err_.message;
    EXPECT_EQ(memcmp(&state_, &restored_, field_bytes), 0);
    ASSERT_EQ(restored_.row_count, 2u);
    EXPECT_EQ(memcmp(restored_.rows, rows, sizeof rows), 0);
}

// The trainer changes it at the end of an epoch without asking whether a save still reads it, so a
// save must copy it at once: nothing of it is steady, whatever was in the array before.
TEST_F(RunState, IsCopiedInTheCallOfASave) {
    snapshot_source sources[RUN_STATE_TENSORS];
    memset(static_cast<void *>(sources), 0xFF, sizeof sources);
    size_t count = run_state_sources(&state_, sources);
    for (size_t i = 0; i < count; i++) {
        unsigned char steady;
        memcpy(&steady, &sources[i].steady, 1);
        EXPECT_EQ(steady, 0) << sources[i].view.name;
        EXPECT_EQ(sources[i].kind, SNAPSHOT_HOST) << sources[i].view.name;
    }
}

TEST_F(RunState, CallbackStructsGoBothWays) {
    early_stopping stopping = {};
    stopping.best = 0.25;
    stopping.has_best = true;
    stopping.wait = 3;
    stopping.best_epoch = 4;
    stopping.has_weights = true;
    stopping.stopped = true;
    stopping.stopped_epoch = 7;
    run_state_set_stopping(&state_, &stopping);
    early_stopping back = run_state_stopping(&state_);
    EXPECT_EQ(back.best, 0.25);
    EXPECT_TRUE(back.has_best && back.has_weights && back.stopped);
    EXPECT_EQ(back.wait, 3u);
    EXPECT_EQ(back.best_epoch, 4u);
    EXPECT_EQ(back.stopped_epoch, 7u);
    best_tracker best = {0.5, true, 2, 90};
    run_state_set_best(&state_, &best);
    best_tracker best_back = run_state_best(&state_);
    EXPECT_EQ(best_back.best, 0.5);
    EXPECT_TRUE(best_back.has_best);
    EXPECT_EQ(best_back.best_epoch, 2u);
    EXPECT_EQ(best_back.best_step, 90u);
}

TEST_F(RunState, MissingTensorIsAMisfitAndNamed) {
    float weight = 1.0f;
    uint64_t shape = 1;
    encode_views({tensor_make("output.bias", DTYPE_F32, &weight, 1, &shape)});
    EXPECT_EQ(run_state_read(&restored_, checkpoint_, &err_), STATUS_MISFIT);
    EXPECT_NE(std::string(err_.message).find("state.step"), std::string::npos) << err_.message;
    EXPECT_NE(std::string(err_.message).find("--init-from"), std::string::npos) << err_.message;
}

TEST_F(RunState, ImpossibleValueIsRefused) {
    state_.phase = 2; // neither training nor epoch end
    encode();
    EXPECT_EQ(run_state_read(&restored_, checkpoint_, &err_), STATUS_CORRUPT);
    EXPECT_NE(std::string(err_.message).find("state.phase"), std::string::npos) << err_.message;
}

TEST_F(RunState, NegativeStepIsRefused) {
    state_.step = -1;
    encode();
    EXPECT_EQ(run_state_read(&restored_, checkpoint_, &err_), STATUS_CORRUPT);
}

// Rows and epochs go together; the weights kept belong to an epoch that was.
TEST_F(RunState, EpochWithoutItsRowIsRefused) {
    state_.epoch = 1;
    encode();
    EXPECT_EQ(run_state_read(&restored_, checkpoint_, &err_), STATUS_CORRUPT);
    EXPECT_NE(std::string(err_.message).find("history.epochs"), std::string::npos) << err_.message;
}

TEST_F(RunState, BestEpochBeyondTheHistoryIsRefused) {
    const epoch_row row = {0.5, 0.5, 0.5, 0.5};
    ASSERT_EQ(run_state_add_row(&state_, &row, &err_), STATUS_OK);
    state_.epoch = 1;
    state_.stopping_has_weights = 1;
    state_.stopping_best_epoch = 1;
    encode();
    EXPECT_EQ(run_state_read(&restored_, checkpoint_, &err_), STATUS_CORRUPT);
    state_.stopping_best_epoch = 0;
    encode();
    EXPECT_EQ(run_state_read(&restored_, checkpoint_, &err_), STATUS_OK) << err_.message;
}

} // namespace
