// What a writer tells of its saves: results that nobody fetches, and what they kept the trainer.
#include "io/writer_account.h"

#include <gtest/gtest.h>

#include <vector>

namespace {

class WriterAccount : public testing::Test {
  protected:
    WriterAccount() { EXPECT_EQ(writer_account_init(&account, nullptr), STATUS_OK); }
    ~WriterAccount() override { writer_account_deinit(&account); }

    void add(uint64_t id, enum status status = STATUS_OK) {
        struct save_result result = {};
        result.id = id;
        result.status = status;
        writer_account_add(&account, &result);
    }

    std::vector<uint64_t> take_all() {
        std::vector<uint64_t> ids;
        struct save_result result;
        while (writer_account_take(&account, &result)) {
            ids.push_back(result.id);
        }
        return ids;
    }

    struct writer_account account = {};
};

} // namespace

TEST_F(WriterAccount, ResultsComeInTheOrderOfTheirEnds) {
    struct save_result result;
    EXPECT_FALSE(writer_account_take(&account, &result));
    for (uint64_t id : {1, 3, 2}) {
        add(id);
    }
    EXPECT_EQ(take_all(), (std::vector<uint64_t>{1, 3, 2}));
    EXPECT_EQ(account.totals.results_lost, 0u);
}

// Bad news stays as long as there is good news to drop.
TEST_F(WriterAccount, WhenNobodyFetchesThemTheOldestGoodNewsGoesFirst) {
    const uint64_t full = WRITER_RESULTS_MAX;
    for (uint64_t id = 1; id <= full; id++) {
        add(id, id == 1 || id == 3 ? STATUS_IO : STATUS_OK);
    }
    add(full + 1);
    add(full + 2);
    EXPECT_EQ(account.totals.results_lost, 2u);
    std::vector<uint64_t> expected = {1, 3};
    for (uint64_t id = 5; id <= full + 2; id++) { // without 2 and 4
        expected.push_back(id);
    }
    EXPECT_EQ(take_all(), expected);

    for (uint64_t id = 1; id <= full; id++) {
        add(id, STATUS_IO);
    }
    add(full + 1, STATUS_IO);
    EXPECT_EQ(account.totals.results_lost, 3u);
    EXPECT_EQ(take_all().front(), 2u);
}

TEST_F(WriterAccount, WhatSettlingTookIsPartOfTheStallOfItsSave) {
    writer_account_stall(&account, 1, 0.25);
    writer_account_stall(&account, 2, 0.5);
    writer_account_settle(&account, 2.0);
    writer_account_stall(&account, 3, 1.0);
    struct save_result result = {};
    for (uint64_t id = 1; id <= 3; id++) {
        add(id);
    }
    const double settled[] = {0, 2, 0};
    for (double seconds : settled) {
        ASSERT_TRUE(writer_account_take(&account, &result));
        EXPECT_EQ(result.settle_seconds, seconds) << result.id;
        EXPECT_EQ(result.stall_seconds, seconds) << result.id;
    }
    const struct writer_totals totals = writer_account_totals(&account);
    EXPECT_EQ(totals.stall_seconds_total, 3.75);
    EXPECT_EQ(totals.stall_seconds_max, 2.5);
    EXPECT_EQ(totals.stall_seconds_p50, 1.0); // of 0.25, 1 and 2.5
    EXPECT_EQ(totals.stall_seconds_p99, 2.5);
}

// A result that is fetched so late that the memory of its settling is another save's by now.
TEST_F(WriterAccount, OfASaveLongAgoSettlingIsForgottenNotMistaken) {
    writer_account_stall(&account, 1, 0.0);
    writer_account_settle(&account, 1.0);
    add(1);
    for (uint64_t id = 2; id <= 1 + WRITER_ACCOUNT_SETTLES; id++) {
        writer_account_stall(&account, id, 0.0);
        writer_account_settle(&account, 7.0);
    }
    struct save_result result;
    ASSERT_TRUE(writer_account_take(&account, &result));
    EXPECT_EQ(result.settle_seconds, 0.0);
}

TEST_F(WriterAccount, PercentilesAreOfTheLatestSaves) {
    EXPECT_EQ(writer_account_totals(&account).stall_seconds_p99, 0.0);
    for (uint64_t id = 1; id <= 100; id++) {
        writer_account_stall(&account, id, 1000.0);
    }
    for (uint64_t i = 1; i <= WRITER_ACCOUNT_STALLS; i++) { // the hundred are no longer among them
        writer_account_stall(&account, 100 + i, static_cast<double>(i));
    }
    const struct writer_totals totals = writer_account_totals(&account);
    EXPECT_EQ(totals.stall_seconds_p50, WRITER_ACCOUNT_STALLS / 2);
    EXPECT_EQ(totals.stall_seconds_p99, 64881.0); // the first that 99 % of 65,536 do not exceed
    EXPECT_EQ(totals.stall_seconds_max, static_cast<double>(WRITER_ACCOUNT_STALLS));
}
