// Replays CAIRN_GOLDEN_DIR/callbacks.jsonl: what EarlyStopping and ModelCheckpoint of Keras did
// with the same logs. Every field of `expected` is compared, every case is found at run time.
#include <gtest/gtest.h>
#include <jansson.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "host/callbacks.h"

namespace {

using Json = std::unique_ptr<json_t, decltype(&json_decref)>;

std::string golden_directory() {
    const char *given = getenv("CAIRN_GOLDEN_DIR");
    return given != nullptr && given[0] != '\0' ? given : CAIRN_SOURCE_DIR "/../shared/golden";
}

// A number, "nan" or null (as NaN). `*present` is false for null and for a missing value.
double number(const json_t *value, bool *present) {
    *present = value != nullptr && !json_is_null(value);
    if (!*present) {
        return NAN;
    }
    if (json_is_string(value)) {
        return std::stod(json_string_value(value));
    }
    EXPECT_TRUE(json_is_number(value));
    return json_number_value(value);
}

double number_or_nan(const json_t *object, const char *key) {
    bool present;
    return number(json_object_get(object, key), &present);
}

enum metric metric_of(const json_t *arguments) {
    enum metric metric = METRIC_COUNT;
    const char *name = json_string_value(json_object_get(arguments, "monitor"));
    EXPECT_TRUE(metric_parse(name, &metric)) << name;
    return metric;
}

enum monitor_mode direction_of(const json_t *arguments) {
    const std::string mode = json_string_value(json_object_get(arguments, "mode"));
    EXPECT_TRUE(mode == "auto" || mode == "min" || mode == "max") << mode;
    return metric_direction(metric_of(arguments), mode == "min"   ? MONITOR_MIN
                                                  : mode == "max" ? MONITOR_MAX
                                                                  : MONITOR_AUTO);
}

struct Outcome {
    int epochs_run = 0;
    bool stopped_early = false;
    std::vector<int> saved_at_epochs;
    int weights_at_end_from_epoch = 0;
    bool has_early_stopping_best = false, has_model_checkpoint_best = false;
    double early_stopping_best = NAN, model_checkpoint_best = NAN;
};

// What the trainer does with the two callbacks, without a model: the weights are the epoch's
// number.
Outcome replay(const json_t *arguments) {
    const json_t *stopping = json_object_get(arguments, "early_stopping");
    const json_t *checkpoint = json_object_get(arguments, "model_checkpoint");
    const struct early_stopping_config config = {
        direction_of(stopping),
        json_integer_value(json_object_get(stopping, "patience")),
        number_or_nan(stopping, "min_delta"),
        number_or_nan(stopping, "baseline"),
        static_cast<bool>(json_is_true(json_object_get(stopping, "restore_best_weights"))),
        static_cast<uint64_t>(json_integer_value(json_object_get(stopping, "start_from_epoch"))),
    };
    const bool best_only = json_is_true(json_object_get(checkpoint, "save_best_only"));
    struct early_stopping state = {};
    struct best_tracker tracker = {};
    tracker.best =
        number(json_object_get(checkpoint, "initial_value_threshold"), &tracker.has_best);

    Outcome outcome;
    int captured = 0;
    size_t index;
    json_t *logs;
    json_array_foreach(json_object_get(arguments, "epochs"), index, logs) {
        const struct epoch_row row = {number_or_nan(logs, "loss"), number_or_nan(logs, "accuracy"),
                                      number_or_nan(logs, "val_loss"),
                                      number_or_nan(logs, "val_accuracy")};
        outcome.epochs_run = static_cast<int>(index) + 1;
        // A metric that is not logged: early stopping skips the epoch, the checkpoint is saved.
        const enum metric watched = metric_of(checkpoint);
        const bool logged = json_object_get(logs, metric_name(watched)) != nullptr;
        if (!best_only || !logged ||
            best_tracker_update(&tracker, direction_of(checkpoint), metric_value(watched, &row),
                                index, index, nullptr)) {
            outcome.saved_at_epochs.push_back(outcome.epochs_run);
        }
        if (json_object_get(logs, metric_name(metric_of(stopping))) == nullptr) {
            continue;
        }
        const struct early_stopping_verdict verdict = early_stopping_epoch_end(
            &state, &config, index, metric_value(metric_of(stopping), &row));
        captured = verdict.capture_weights ? outcome.epochs_run : captured;
        if (verdict.stop) {
            break;
        }
    }
    outcome.stopped_early = state.stopped;
    outcome.weights_at_end_from_epoch = state.has_weights ? captured : outcome.epochs_run;
    if (state.has_weights) {
        EXPECT_EQ(state.best_epoch + 1, static_cast<uint64_t>(captured));
    }
    outcome.has_early_stopping_best = state.has_best;
    outcome.early_stopping_best = state.best;
    outcome.has_model_checkpoint_best = tracker.has_best;
    outcome.model_checkpoint_best = tracker.best;
    return outcome;
}

void expect_best(const json_t *expected, const char *key, bool has_best, double best) {
    bool present;
    const double value = number(json_object_get(expected, key), &present);
    EXPECT_EQ(has_best, present) << key;
    if (present && std::isnan(value)) {
        EXPECT_TRUE(std::isnan(best)) << key << " is " << best;
    } else if (present) {
        EXPECT_EQ(best, value) << key; // the very value that was logged
    }
}

void compare(const json_t *expected, const Outcome &outcome) {
    EXPECT_EQ(outcome.epochs_run, json_integer_value(json_object_get(expected, "epochs_run")));
    EXPECT_EQ(outcome.stopped_early,
              static_cast<bool>(json_is_true(json_object_get(expected, "stopped_early"))));
    std::vector<int> saved;
    size_t index;
    json_t *epoch;
    json_array_foreach(json_object_get(expected, "saved_at_epochs"), index, epoch) {
        saved.push_back(static_cast<int>(json_integer_value(epoch)));
    }
    EXPECT_EQ(outcome.saved_at_epochs, saved);
    EXPECT_EQ(outcome.weights_at_end_from_epoch,
              json_integer_value(json_object_get(expected, "weights_at_end_from_epoch")));
    expect_best(expected, "early_stopping_best", outcome.has_early_stopping_best,
                outcome.early_stopping_best);
    expect_best(expected, "model_checkpoint_best", outcome.has_model_checkpoint_best,
                outcome.model_checkpoint_best);
}

TEST(CallbacksGolden, EveryCaseAsKeras) {
    const std::string directory = golden_directory();
    if (!std::filesystem::is_directory(directory)) {
        GTEST_SKIP() << "no golden cases: " << directory << " is missing (CAIRN_GOLDEN_DIR)";
    }
    std::ifstream file(directory + "/callbacks.jsonl");
    ASSERT_TRUE(file) << directory << "/callbacks.jsonl cannot be read";
    int line_number = 0, cases = 0;
    for (std::string line; std::getline(file, line);) {
        line_number++;
        if (line.empty()) {
            continue;
        }
        SCOPED_TRACE("callbacks.jsonl:" + std::to_string(line_number));
        json_error_t error;
        const Json arguments(json_loads(line.c_str(), 0, &error), json_decref);
        ASSERT_NE(arguments, nullptr) << error.text;
        const json_t *expected = json_object_get(arguments.get(), "expected");
        ASSERT_EQ(json_object_size(expected), 6u) << "a field that this test does not compare";
        compare(expected, replay(arguments.get()));
        cases++;
    }
    EXPECT_GT(cases, 0) << directory << "/callbacks.jsonl holds no case";
    RecordProperty("cases", cases);
}

} // namespace
