// Early stopping, best tracker, save counter and file name templates, case by case. The
// expectations are Keras' documented rules and what Python's str.format gives; whole runs are in
// callbacks_golden_test.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "host/callbacks.h"

namespace {

const double kNaN = std::nan("");

struct early_stopping_config config(int64_t patience, double min_delta = 0, double baseline = kNaN,
                                    uint64_t start = 0, bool restore = false) {
    return {MONITOR_MIN, patience, min_delta, baseline, restore, start};
}

// Zero-based epoch at which a run over `values` stops, -1 if it does not.
int stops_at(const struct early_stopping_config &config, const std::vector<double> &values) {
    struct early_stopping state = {};
    for (size_t epoch = 0; epoch < values.size(); epoch++) {
        if (early_stopping_epoch_end(&state, &config, epoch, values[epoch]).stop) {
            EXPECT_TRUE(state.stopped);
            EXPECT_EQ(state.stopped_epoch, epoch);
            return static_cast<int>(epoch);
        }
    }
    EXPECT_FALSE(state.stopped);
    return -1;
}

TEST(Metrics, NamesAndDirections) {
    for (int i = 0; i < METRIC_COUNT; i++) {
        enum metric parsed;
        ASSERT_TRUE(metric_parse(metric_name(static_cast<enum metric>(i)), &parsed));
        EXPECT_EQ(parsed, i);
    }
    enum metric metric;
    EXPECT_FALSE(metric_parse("val_acc", &metric));
    EXPECT_FALSE(metric_parse("", &metric));
    EXPECT_TRUE(metric_needs_validation(METRIC_VAL_LOSS));
    EXPECT_TRUE(metric_needs_validation(METRIC_VAL_ACCURACY));
    EXPECT_FALSE(metric_needs_validation(METRIC_LOSS));
    EXPECT_FALSE(metric_needs_validation(METRIC_ACCURACY));
    EXPECT_EQ(metric_direction(METRIC_LOSS, MONITOR_AUTO), MONITOR_MIN);
    EXPECT_EQ(metric_direction(METRIC_VAL_LOSS, MONITOR_AUTO), MONITOR_MIN);
    EXPECT_EQ(metric_direction(METRIC_ACCURACY, MONITOR_AUTO), MONITOR_MAX);
    EXPECT_EQ(metric_direction(METRIC_VAL_ACCURACY, MONITOR_AUTO), MONITOR_MAX);
    EXPECT_EQ(metric_direction(METRIC_VAL_ACCURACY, MONITOR_MIN), MONITOR_MIN);
    EXPECT_EQ(metric_direction(METRIC_LOSS, MONITOR_MAX), MONITOR_MAX);
    const struct epoch_row row = {1, 2, 3, 4};
    EXPECT_EQ(metric_value(METRIC_LOSS, &row), 1);
    EXPECT_EQ(metric_value(METRIC_ACCURACY, &row), 2);
    EXPECT_EQ(metric_value(METRIC_VAL_LOSS, &row), 3);
    EXPECT_EQ(metric_value(METRIC_VAL_ACCURACY, &row), 4);
}

TEST(EarlyStopping, PatienceCountsEpochsWithoutImprovement) {
    EXPECT_EQ(stops_at(config(3), {0.5, 0.6, 0.6, 0.6, 0.6}), 3);
    EXPECT_EQ(stops_at(config(3), {0.5, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6}), 6);
    EXPECT_EQ(stops_at(config(2), {0.5, 0.4, 0.3}), -1);
    EXPECT_EQ(stops_at(config(1), {0.5, 0.5}), 1); // equal is not better
}

TEST(EarlyStopping, PatienceZeroStopsAtTheFirstWorseEpochButNeverInEpochZero) {
    EXPECT_EQ(stops_at(config(0), {0.5, 0.4, 0.41}), 2);
    // Epoch 0 is an improvement by definition, so only a restored best can be worse there.
    struct early_stopping state = {};
    state.has_best = true;
    state.best = 0.1;
    const struct early_stopping_config zero = config(0);
    EXPECT_FALSE(early_stopping_epoch_end(&state, &zero, 0, 0.5).stop);
    EXPECT_TRUE(early_stopping_epoch_end(&state, &zero, 1, 0.5).stop);
}

TEST(EarlyStopping, PatienceOffDoesNothing) {
    struct early_stopping state = {};
    const struct early_stopping_config off = config(-1, 0, kNaN, 0, true);
    for (uint64_t epoch = 0; epoch < 20; epoch++) {
        const struct early_stopping_verdict verdict =
            early_stopping_epoch_end(&state, &off, epoch, 1.0 + static_cast<double>(epoch));
        EXPECT_FALSE(verdict.stop || verdict.improved || verdict.capture_weights);
    }
    EXPECT_FALSE(state.has_best || state.has_weights);
}

TEST(EarlyStopping, MinDeltaIsAbsoluteAndStrict) {
    EXPECT_EQ(stops_at(config(1, 0.125), {0.5, 0.375}), 1); // exactly min_delta better: not enough
    EXPECT_EQ(stops_at(config(1, 0.125), {0.5, 0.3749}), -1);
    EXPECT_EQ(stops_at(config(1, -0.125), {0.5, 0.375}), 1);
    struct early_stopping_config up = config(1, 0.125);
    up.direction = MONITOR_MAX;
    EXPECT_EQ(stops_at(up, {0.5, 0.625}), 1);
    EXPECT_EQ(stops_at(up, {0.5, 0.6251}), -1);
}

// Keras' backend compares in single precision: a difference that only doubles see is none.
TEST(EarlyStopping, ComparesInSinglePrecision) {
    EXPECT_EQ(stops_at(config(1), {0.5, 0.5 - 1e-10}), 1);
    EXPECT_EQ(stops_at(config(1), {0.5, 0.5 - 1e-7}), -1);
    ASSERT_LT(0.35 + 0.05, 0.40);
    EXPECT_EQ(stops_at(config(1, 0.05), {0.40, 0.35}), 1);
}

TEST(EarlyStopping, BaselineKeepsTheCountRunning) {
    // 0.9, 0.8, 0.7 improve on each other, but none beats 0.5: they do not reset the count, and
    // they do not stop either; the first epoch that is no improvement does.
    EXPECT_EQ(stops_at(config(2, 0, 0.5), {0.9, 0.8, 0.7}), -1);
    EXPECT_EQ(stops_at(config(2, 0, 0.5), {0.9, 0.8, 0.7, 0.7}), 3);
    EXPECT_EQ(stops_at(config(2, 0, 0.5), {0.9, 0.8, 0.4, 0.5, 0.5}), 4);
}

TEST(EarlyStopping, StartFromEpochSkipsTheWarmUp) {
    EXPECT_EQ(stops_at(config(1, 0, kNaN, 3), {0.1, 0.2, 0.3, 0.9, 0.8, 0.8}), 5);
    struct early_stopping state = {};
    const struct early_stopping_config late = config(1, 0, kNaN, 3, true);
    EXPECT_FALSE(early_stopping_epoch_end(&state, &late, 2, 0.1).capture_weights);
    EXPECT_FALSE(state.has_best);
    EXPECT_TRUE(early_stopping_epoch_end(&state, &late, 3, 0.9).capture_weights);
    EXPECT_EQ(state.best, 0.9);
}

TEST(EarlyStopping, NaNFirstStaysTheBestForEver) {
    struct early_stopping state = {};
    const struct early_stopping_config plain = config(2);
    const struct early_stopping_verdict first = early_stopping_epoch_end(&state, &plain, 0, kNaN);
    EXPECT_TRUE(first.improved);
    EXPECT_TRUE(first.nan_became_best);
    EXPECT_FALSE(early_stopping_epoch_end(&state, &plain, 1, 0.1).improved);
    EXPECT_TRUE(early_stopping_epoch_end(&state, &plain, 2, 0.1).stop);
    EXPECT_TRUE(std::isnan(state.best));
}

TEST(EarlyStopping, LaterNaNIsNoImprovement) {
    struct early_stopping state = {};
    const struct early_stopping_config plain = config(5);
    EXPECT_FALSE(early_stopping_epoch_end(&state, &plain, 0, 0.5).nan_became_best);
    const struct early_stopping_verdict later = early_stopping_epoch_end(&state, &plain, 1, kNaN);
    EXPECT_FALSE(later.improved || later.nan_became_best);
    EXPECT_EQ(state.best, 0.5);
    EXPECT_EQ(state.wait, 1u);
}

TEST(EarlyStopping, CapturesWeightsOnlyWhenAskedTo) {
    struct early_stopping with = {}, without = {};
    const struct early_stopping_config restore = config(5, 0, kNaN, 0, true), plain = config(5);
    EXPECT_TRUE(early_stopping_epoch_end(&with, &restore, 0, 0.5).capture_weights);
    EXPECT_FALSE(early_stopping_epoch_end(&with, &restore, 1, 0.6).capture_weights);
    EXPECT_TRUE(early_stopping_epoch_end(&with, &restore, 2, 0.4).capture_weights);
    EXPECT_EQ(with.best_epoch, 2u);
    EXPECT_FALSE(early_stopping_epoch_end(&without, &plain, 0, 0.5).capture_weights);
    EXPECT_FALSE(without.has_weights);
}

// Switched on between two lives: what comes next is no better, so it is not the best.
TEST(EarlyStopping, CapturesNoWorseWeightsWhereThoseOfTheBestAreMissing) {
    struct early_stopping state = {};
    const struct early_stopping_config plain = config(5), restore = config(5, 0, kNaN, 0, true);
    early_stopping_epoch_end(&state, &plain, 0, 0.5);
    EXPECT_FALSE(early_stopping_epoch_end(&state, &restore, 1, 0.6).capture_weights);
    EXPECT_FALSE(state.has_weights);
    EXPECT_EQ(state.best_epoch, 0u);
    EXPECT_TRUE(early_stopping_epoch_end(&state, &restore, 2, 0.4).capture_weights);
    EXPECT_TRUE(state.has_weights);
    EXPECT_EQ(state.best_epoch, 2u);
}

// The state is a plain value: copied at any epoch, the run goes on as if nothing had happened.
TEST(EarlyStopping, StateIsAllThereIs) {
    const std::vector<double> values = {0.9, 0.7, 0.8, kNaN, 0.6, 0.65, 0.7, 0.7, 0.2};
    const struct early_stopping_config full = config(3, 0.01, 0.75, 1, true);
    for (size_t cut = 0; cut < values.size(); cut++) {
        struct early_stopping straight = {}, resumed = {};
        for (size_t epoch = 0; epoch < values.size(); epoch++) {
            if (epoch == cut) {
                resumed = straight;
            }
            early_stopping_epoch_end(&straight, &full, epoch, values[epoch]);
            if (epoch >= cut) {
                early_stopping_epoch_end(&resumed, &full, epoch, values[epoch]);
            }
        }
        EXPECT_EQ(straight.wait, resumed.wait);
        EXPECT_EQ(straight.best, resumed.best);
        EXPECT_EQ(straight.best_epoch, resumed.best_epoch);
        EXPECT_EQ(straight.stopped_epoch, resumed.stopped_epoch);
    }
}

TEST(BestTracker, KeepsTheBestAndWhereItWasReached) {
    struct best_tracker tracker = {};
    bool nan_became_best = true;
    EXPECT_TRUE(best_tracker_update(&tracker, MONITOR_MAX, 0.5, 0, 10, &nan_became_best));
    EXPECT_FALSE(nan_became_best);
    EXPECT_FALSE(best_tracker_update(&tracker, MONITOR_MAX, 0.5, 1, 20, nullptr));
    EXPECT_TRUE(best_tracker_update(&tracker, MONITOR_MAX, 0.75, 2, 30, nullptr));
    EXPECT_FALSE(best_tracker_update(&tracker, MONITOR_MAX, kNaN, 3, 40, &nan_became_best));
    EXPECT_FALSE(nan_became_best);
    EXPECT_EQ(tracker.best, 0.75);
    EXPECT_EQ(tracker.best_epoch, 2u);
    EXPECT_EQ(tracker.best_step, 30u);
}

TEST(BestTracker, NaNFirstIsReportedAndStays) {
    struct best_tracker tracker = {};
    bool nan_became_best = false;
    EXPECT_TRUE(best_tracker_update(&tracker, MONITOR_MIN, kNaN, 0, 1, &nan_became_best));
    EXPECT_TRUE(nan_became_best);
    EXPECT_FALSE(best_tracker_update(&tracker, MONITOR_MIN, 0.1, 1, 2, &nan_became_best));
    EXPECT_FALSE(nan_became_best);
}

TEST(BestTracker, InitialThresholdIsABestThatWasNeverReached) {
    struct best_tracker tracker = {};
    tracker.has_best = true;
    tracker.best = 0.3;
    EXPECT_FALSE(best_tracker_update(&tracker, MONITOR_MIN, 0.4, 0, 1, nullptr));
    EXPECT_FALSE(best_tracker_update(&tracker, MONITOR_MIN, 0.3, 1, 2, nullptr));
    EXPECT_TRUE(best_tracker_update(&tracker, MONITOR_MIN, 0.2, 2, 3, nullptr));
}

TEST(SaveFreq, CountsBatchesSinceTheLastSaveAcrossEpochs) {
    uint64_t since = 0;
    std::vector<int> saved;
    for (int batch = 1; batch <= 20; batch++) { // two epochs of 10: the count does not start again
        if (save_freq_due(&since, 1, 7)) {
            saved.push_back(batch);
        }
    }
    EXPECT_EQ(saved, (std::vector<int>{7, 14}));
    EXPECT_EQ(since, 6u);
    since = 0;
    EXPECT_TRUE(save_freq_due(&since, 12, 7)); // several batches at once: one save, then from 0
    EXPECT_EQ(since, 0u);
    EXPECT_TRUE(save_freq_due(&since, 1, 1));
}

// ---- templates ----

struct template_values values() {
    struct template_values values = {};
    values.epoch = 7;
    values.has_batch = values.has_metrics = values.has_validation = true;
    values.batch = 1234;
    values.row = {0.693147, 0.5, 0.3161, 0.86524};
    return values;
}

std::string expand(const char *path_template, const struct template_values &values) {
    char out[256];
    struct error error = {};
    const enum status status = filepath_expand(path_template, &values, out, sizeof out, &error);
    if (status != STATUS_OK) {
        EXPECT_EQ(status, STATUS_USAGE);
        EXPECT_NE(std::string(error.message).find("--checkpoint-filepath"), std::string::npos);
        return std::string("! ") + error.message;
    }
    return out;
}

TEST(Filepath, ExpandsAsPython) {
    const struct template_values v = values();
    // Right sides: Python 3.11, "...".format(epoch=7, batch=1234, loss=0.693147, ...).
    EXPECT_EQ(expand("plain", v), "plain");
    EXPECT_EQ(expand("", v), "");
    EXPECT_EQ(expand("{epoch:02d}-{val_loss:.2f}.safetensors.zst", v), "07-0.32.safetensors.zst");
    EXPECT_EQ(expand("e{epoch}b{batch}", v), "e7b1234");
    EXPECT_EQ(expand("{epoch:5d}|{epoch:<5d}|{epoch:^5d}|{epoch:*>5}", v),
              "    7|7    |  7  |****7");
    EXPECT_EQ(expand("{batch:x}-{batch:X}-{batch:o}-{epoch:+d}", v), "4d2-4D2-2322-+7");
    EXPECT_EQ(expand("{epoch:.1f} {epoch:%}", v), "7.0 700.000000%");
    EXPECT_EQ(expand("{loss}-{accuracy}", v), "0.693147-0.5");
    EXPECT_EQ(expand("{loss:.4f}-{accuracy:.1%}-{val_accuracy:08.3f}", v), "0.6931-50.0%-0000.865");
    EXPECT_EQ(expand("{val_loss:e} {val_loss:.3g} {val_loss:.2E}", v),
              "3.161000e-01 0.316 3.16E-01");
    EXPECT_EQ(expand("{{{epoch}}} {{}}", v), "{7} {}");
    EXPECT_EQ(expand("{epoch:<05d}", v), "70000");
}

TEST(Filepath, NumbersAsPythonsRepr) {
    struct template_values v = values();
    const std::vector<std::pair<double, const char *>> cases = {
        {0.1, "0.1"},       {1.0, "1.0"},     {100.0, "100.0"},
        {1e-4, "0.0001"},   {1e-5, "1e-05"},  {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},    {-0.25, "-0.25"}, {1.0 / 3, "0.3333333333333333"},
        {5e-324, "5e-324"}, {kNaN, "nan"},    {-INFINITY, "-inf"},
        {0.0, "0.0"},       {-0.0, "-0.0"},   {123456.789, "123456.789"}};
    for (const auto &[value, text] : cases) {
        v.row.loss = value;
        EXPECT_EQ(expand("{loss}", v), text);
    }
    v.row.loss = kNaN;
    EXPECT_EQ(expand("{loss:07.2f}", v), "0000nan");
}

TEST(Filepath, RefusesWhatItDoesNotKnow) {
    struct template_values v = values();
    EXPECT_NE(expand("{val_acc}", v).find("{val_acc} is not known"), std::string::npos);
    EXPECT_NE(expand("{val_acc}", v).find("{val_accuracy}"), std::string::npos); // what is known
    for (const char *bad : {"{", "}", "{epoch", "epoch}", "{}", "{0}", "{epoch!r}", "{epoch:s}",
                            "{epoch:02}d}", "{epoch:.2d}", "{loss:d}", "{loss:.f}", "{epoch:,}",
                            "{epoch:999d}", "{loss:.99f}", "{epoch.x}", "{Epoch}", "{epoch:02dd}",
                            "{a_name_that_is_longer_than_any_field_could_ever_be}"}) {
        EXPECT_EQ(expand(bad, v).substr(0, 2), "! ") << bad;
    }
    v.has_batch = false;
    EXPECT_EQ(expand("{batch}", v).substr(0, 2), "! ");
    v.has_validation = false;
    EXPECT_EQ(expand("{val_loss}", v).substr(0, 2), "! ");
    EXPECT_EQ(expand("{loss:.1f}", v), "0.7");
    v.has_metrics = false;
    EXPECT_EQ(expand("{loss}", v).substr(0, 2), "! ");
    EXPECT_EQ(expand("\x01{\x02}", v).find('\x02'), std::string::npos); // escaped in the message
}

TEST(Filepath, TooLongIsAnErrorNotACut) {
    const struct template_values v = values();
    char out[8];
    struct error error = {};
    EXPECT_EQ(filepath_expand("{epoch:07d}", &v, out, sizeof out, &error), STATUS_OK);
    EXPECT_STREQ(out, "0000007");
    EXPECT_EQ(filepath_expand("{epoch:08d}", &v, out, sizeof out, &error), STATUS_USAGE);
    EXPECT_EQ(filepath_expand("abcdefgh", &v, out, sizeof out, &error), STATUS_USAGE);
}

} // namespace
