// What is shown, literally. The bar lines, numbers and times are what Keras 3.15's Progbar printed
// for the same calls at the same times, but for its colours: the rest of the bar is a thin line
// here.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <string>
#include <vector>

#include "host/progress.h"

namespace {

double now; // the clock of the tests

double test_clock() {
    return now;
}

std::string repeat(const std::string &piece, int count) {
    std::string out;
    for (int i = 0; i < count; i++) {
        out += piece;
    }
    return out;
}

std::string bar(int filled) {
    return repeat("\u2501", filled) + repeat("\u2500", 20 - filled);
}

// Width in columns: every character of the progress line takes one.
size_t columns(const std::string &text) {
    size_t width = 0;
    for (char c : text) {
        width += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    }
    return width;
}

class Progress : public testing::Test {
  protected:
    void SetUp() override {
        unsetenv("COLUMNS");
        setenv("TERM", "xterm", 1);
        now = 100;
        out_ = open_memstream(&buffer_, &size_);
    }
    void TearDown() override {
        fclose(out_);
        free(buffer_);
    }
    void begin(enum progress_mode mode, uint64_t verbose = 1, unsigned width = 200) {
        progress_init(&progress, out_, mode, verbose);
        progress.clock = test_clock;
        progress.columns = width;
    }
    // What was written since the last call.
    std::string taken() {
        fflush(out_);
        std::string text(buffer_ + taken_, size_ - taken_);
        taken_ = size_;
        return text;
    }
    std::string step(double seconds, uint64_t done, double accuracy, double loss) {
        now += seconds;
        progress_step(&progress, done, loss, accuracy, 1000 + done);
        return taken();
    }
    struct progress progress = {};
    FILE *out_ = nullptr;

  private:
    char *buffer_ = nullptr;
    size_t size_ = 0, taken_ = 0;
};

TEST_F(Progress, BarAsKeras) {
    begin(PROGRESS_BAR);
    progress_epoch_begin(&progress, 3, 10, 5, 0);
    EXPECT_EQ(taken(), "Epoch 3/10\n");
    EXPECT_EQ(step(1, 1, .5, .7),
              "\r1/5 " + bar(4) + " 4s 1s/step - accuracy: 0.5000 - loss: 0.7000");
    EXPECT_EQ(step(.3, 2, .51, .69),
              "\r2/5 " + bar(8) + " 0s 300ms/step - accuracy: 0.5100 - loss: 0.6900");
    EXPECT_EQ(step(.04, 3, .52, .68), ""); // within 0.05 s of the last
    EXPECT_EQ(step(.02, 4, .53, .67),
              "\r4/5 " + bar(16) + " 0s 120ms/step - accuracy: 0.5300 - loss: 0.6700");
    EXPECT_EQ(step(.2, 5, .54, .66),
              "\r5/5 " + bar(20) + " 0s 140ms/step - accuracy: 0.5400 - loss: 0.6600");
    now += .9;
    const struct epoch_row row = {.0005, .54, .65, .6};
    progress_epoch_end(&progress, &row, true, 1005);
    EXPECT_EQ(taken(), "\r5/5 " + bar(20) +
                           " 2s 365ms/step - accuracy: 0.5400 - loss: 5.0000e-04 - val_accuracy: "
                           "0.6000 - val_loss: 0.6500\n");
}

TEST_F(Progress, CountsAreAsWideAsTheTotalAndShorterLinesArePadded) {
    begin(PROGRESS_BAR);
    progress_epoch_begin(&progress, 1, 1, 1000, 0);
    taken();
    EXPECT_EQ(step(.001, 1, .5, .7),
              "\r   1/1000 " + bar(0) + " 0s 1ms/step - accuracy: 0.5000 - loss: 0.7000");
    EXPECT_EQ(step(.1, 2, .5, .7),
              "\r   2/1000 " + bar(0) + " 1:39 100ms/step - accuracy: 0.5000 - loss: 0.7000");
    EXPECT_EQ(step(60, 3, .5, .7),
              "\r   3/1000 " + bar(0) + " 8:19:19 30s/step - accuracy: 0.5000 - loss: 0.7000");
    now += .9;
    const struct epoch_row row = {.66, .54, NAN, NAN};
    progress_epoch_end(&progress, &row, false, 3);
    EXPECT_EQ(taken(),
              "\r1000/1000 " + bar(20) + " 61s 61ms/step - accuracy: 0.5400 - loss: 0.6600   \n");
}

TEST_F(Progress, AResumedEpochCountsItsOwnStepsForTheSpeed) {
    begin(PROGRESS_BAR);
    progress_epoch_begin(&progress, 1, 1, 100, 90);
    taken();
    EXPECT_EQ(step(5, 91, .5, .7),
              "\r 91/100 " + bar(18) + " 45s 5s/step - accuracy: 0.5000 - loss: 0.7000");
    EXPECT_EQ(step(1, 92, .5, .7),
              "\r 92/100 " + bar(18) + " 8s 1s/step - accuracy: 0.5000 - loss: 0.7000 ");
}

TEST_F(Progress, OpenLinesFitTheTerminalAndTheLastIsWhole) {
    begin(PROGRESS_BAR, 1, 40);
    progress_epoch_begin(&progress, 1, 1, 5, 0);
    taken();
    const std::string line = step(1, 2, .5, .7);
    EXPECT_EQ(columns(line), 1 + 39u);                      // the return, and one column left free
    EXPECT_EQ(line, "\r2/5 " + bar(8) + " 1s 500ms/step "); // cut before "- accuracy"
    const struct epoch_row row = {.7, .5, .7, .5};
    progress_epoch_end(&progress, &row, true, 1);
    const std::string last = taken();
    EXPECT_NE(last.find("val_loss: 0.7000\n"), std::string::npos) << last;
}

TEST_F(Progress, MessagesEndAnOpenLine) {
    begin(PROGRESS_BAR);
    progress_epoch_begin(&progress, 1, 1, 5, 0);
    step(1, 1, .5, .7);
    progress_message(&progress, "saved %d", 7);
    EXPECT_EQ(taken(), "\nsaved 7\n");
    progress_warning(&progress, "oh %s", "no");
    EXPECT_EQ(taken(), "Warning: oh no\n");
    EXPECT_EQ(step(1, 2, .5, .7).substr(0, 1), "\r");
    progress_finish(&progress);
    EXPECT_EQ(taken(), "\n");
    progress_finish(&progress);
    EXPECT_EQ(taken(), "");
}

TEST_F(Progress, LinesComeEveryTenSeconds) {
    begin(PROGRESS_LINES);
    progress_epoch_begin(&progress, 2, 10, 500, 0);
    EXPECT_EQ(taken(), "Epoch 2/10\n");
    std::string all;
    for (uint64_t done = 1; done <= 350; done++) { // 0.1 s a step: 35 s
        all += step(.1, done, .25, .5);
    }
    std::vector<std::string> lines;
    for (size_t at = 0; at < all.size(); at = all.find('\n', at) + 1) {
        lines.push_back(all.substr(at, all.find('\n', at) - at));
    }
    ASSERT_EQ(lines.size(), 3u) << all;
    EXPECT_EQ(lines[0].find('\r'), std::string::npos);
    EXPECT_TRUE(lines[0] == "100/500 - ETA: 40s - 100ms/step - accuracy: 0.2500 - loss: 0.5000" ||
                lines[0] == "101/500 - ETA: 39s - 100ms/step - accuracy: 0.2500 - loss: 0.5000")
        << lines[0]; // a hundred times 0.1 may fall short of 10 by a rounding
    const struct epoch_row row = {.5, .25, .75, .125};
    now = 160.2;
    progress_epoch_end(&progress, &row, true, 500);
    EXPECT_EQ(taken(),
              "500/500 - 60s - 120ms/step - accuracy: 0.2500 - loss: 0.5000 - val_accuracy: "
              "0.1250 - val_loss: 0.7500\n");
}

TEST_F(Progress, VerboseTwoIsOneLinePerEpochAsKeras) {
    begin(PROGRESS_BAR, 2);
    EXPECT_EQ(progress.mode, PROGRESS_LINES);
    progress_epoch_begin(&progress, 1, 1, 5, 0);
    EXPECT_EQ(taken(), "Epoch 1/1\n");
    const double seconds[] = {1, .3, .04, .02, 100};
    for (uint64_t done = 1; done <= 5; done++) {
        EXPECT_EQ(step(seconds[done - 1], done, .5, .5), "");
    }
    now = 102.46;
    const struct epoch_row row = {.0005, .54, .65, .6};
    progress_epoch_end(&progress, &row, true, 5);
    EXPECT_EQ(taken(),
              "5/5 - 2s - 365ms/step - accuracy: 0.5400 - loss: 5.0000e-04 - val_accuracy: "
              "0.6000 - val_loss: 0.6500\n");
}

TEST_F(Progress, NoneShowsWarningsOnly) {
    for (const enum progress_mode mode : {PROGRESS_NONE, PROGRESS_BAR}) {
        begin(mode, mode == PROGRESS_NONE ? 1 : 0);
        progress_epoch_begin(&progress, 1, 1, 5, 0);
        const struct epoch_row row = {.5, .5, .5, .5};
        step(50, 1, .5, .5);
        progress_validation(&progress, 1, 2);
        progress_epoch_end(&progress, &row, true, 5);
        progress_message(&progress, "hello");
        progress_finish(&progress);
        EXPECT_EQ(taken(), "");
        progress_warning(&progress, "careful");
        EXPECT_EQ(taken(), "Warning: careful\n");
    }
}

TEST_F(Progress, ValidationInEveryMode) {
    begin(PROGRESS_BAR);
    progress_validation(&progress, 50, 200);
    EXPECT_EQ(taken(), "\rEvaluating  50/200 " + bar(5));
    progress_validation(&progress, 60, 200);
    EXPECT_EQ(taken(), "");
    begin(PROGRESS_LINES);
    progress_epoch_begin(&progress, 1, 1, 5, 0);
    taken();
    progress_validation(&progress, 50, 200);
    EXPECT_EQ(taken(), "");
    now += 10;
    progress_validation(&progress, 60, 200);
    EXPECT_EQ(taken(), "Evaluating  60/200\n");
    begin(PROGRESS_JSON);
    now += 10;
    progress_validation(&progress, 70, 200);
    EXPECT_EQ(taken(), "{\"event\": \"validation\", \"done\": 70, \"total\": 200}\n");
}

// Resumed between the last step of an epoch and its validation: there is no time to tell.
TEST_F(Progress, AnEpochWithoutStepsHasNoTimes) {
    const struct epoch_row row = {.5, .25, .75, .125};
    const std::string metrics = " - accuracy: 0.2500 - loss: 0.5000 - val_accuracy: 0.1250 - "
                                "val_loss: 0.7500\n";
    auto end = [&](enum progress_mode mode) {
        begin(mode);
        progress_epoch_begin(&progress, 1, 2, 94, 94);
        taken();
        now += 7; // the validation
        progress_epoch_end(&progress, &row, true, 94);
        return taken();
    };
    EXPECT_EQ(end(PROGRESS_BAR), "\r94/94 " + bar(20) + metrics);
    EXPECT_EQ(end(PROGRESS_LINES), "94/94" + metrics);
    EXPECT_EQ(end(PROGRESS_JSON),
              "{\"event\": \"epoch\", \"epoch\": 1, \"epochs\": 2, \"step\": 94, \"seconds\": 0, "
              "\"ms_per_step\": 0, \"accuracy\": 0.25, \"loss\": 0.5, \"val_accuracy\": 0.125, "
              "\"val_loss\": 0.75}\n");
    EXPECT_EQ(end(PROGRESS_NONE), "");
}

TEST_F(Progress, JsonIsOneObjectPerLine) {
    begin(PROGRESS_JSON);
    progress_epoch_begin(&progress, 2, 3, 400, 7);
    EXPECT_EQ(taken(), "{\"event\": \"epoch_begin\", \"epoch\": 2, \"epochs\": 3, \"steps\": 400, "
                       "\"position\": 7}\n");
    EXPECT_EQ(step(9, 8, .5, .5), "");
    EXPECT_EQ(
        step(1, 9, .5, NAN),
        "{\"event\": \"step\", \"epoch\": 2, \"done\": 9, \"steps\": 400, \"step\": 1009, "
        "\"loss\": \"nan\", \"accuracy\": 0.5, \"eta_seconds\": 391, \"ms_per_step\": 1000}\n");
    now = 132;
    const struct epoch_row row = {.25, .5, .75, .125};
    progress_epoch_end(&progress, &row, true, 1400);
    const std::string with = taken();
    EXPECT_EQ(with.find("{\"event\": \"epoch\", \"epoch\": 2, \"epochs\": 3, \"step\": 1400, "
                        "\"seconds\": 32, \"ms_per_step\": "),
              0u)
        << with;
    EXPECT_NE(with.find(", \"accuracy\": 0.5, \"loss\": 0.25, \"val_accuracy\": 0.125, "
                        "\"val_loss\": 0.75}\n"),
              std::string::npos)
        << with;
    progress_epoch_end(&progress, &row, false, 1400);
    const std::string without = taken();
    EXPECT_NE(without.find("\"accuracy\": 0.5, \"loss\": 0.25}\n"), std::string::npos) << without;
    progress_message(&progress, "a \"quote\" and a\nline");
    EXPECT_EQ(taken(), "{\"event\": \"message\", \"text\": \"a \\\"quote\\\" and a\\nline\"}\n");
    progress_warning(&progress, "w");
    EXPECT_EQ(taken(), "{\"event\": \"warning\", \"text\": \"w\"}\n");
}

TEST_F(Progress, AutoIsABarOnlyOnATerminal) {
    begin(PROGRESS_AUTO);
    EXPECT_EQ(progress.mode, PROGRESS_LINES); // a memory stream is none
    int controller, terminal;
    struct winsize size = {};
    size.ws_col = 57;
    size.ws_row = 20;
    ASSERT_EQ(openpty(&controller, &terminal, nullptr, nullptr, &size), 0);
    FILE *out = fdopen(terminal, "w");
    progress_init(&progress, out, PROGRESS_AUTO, 1);
    EXPECT_EQ(progress.mode, PROGRESS_BAR);
    EXPECT_EQ(progress.columns, 57u);
    setenv("COLUMNS", "44", 1);
    progress_init(&progress, out, PROGRESS_AUTO, 1);
    EXPECT_EQ(progress.columns, 44u);
    setenv("COLUMNS", "many", 1);
    progress_init(&progress, out, PROGRESS_AUTO, 1);
    EXPECT_EQ(progress.columns, 57u);
    setenv("TERM", "dumb", 1);
    progress_init(&progress, out, PROGRESS_AUTO, 1);
    EXPECT_EQ(progress.mode, PROGRESS_LINES);
    progress_init(&progress, out, PROGRESS_AUTO, 0);
    EXPECT_EQ(progress.mode, PROGRESS_NONE);
    unsetenv("COLUMNS");
    fclose(out);
    close(controller);
}

TEST_F(Progress, NumbersAsKeras) {
    char out[32];
    const std::vector<std::pair<double, const char *>> metrics = {
        {0.69314, "0.6931"},      {0.0010001, "0.0010"}, {0.001, "1.0000e-03"},
        {0, "0.0000e+00"},        {-0.5, "-0.5000"},     {12345.67891, "12345.6789"},
        {-0.0001, "-1.0000e-04"}, {NAN, "nan"},          {-NAN, "nan"},
        {1e300, "1.0000e+300"}};
    for (const auto &[value, text] : metrics) {
        EXPECT_STREQ(progress_format_metric(value, out), text);
    }
    const std::vector<std::pair<double, const char *>> steps = {
        {0, "0s"},     {1, "1s"},         {1.5, "2s"},       {2.5, "2s"},
        {12.4, "12s"}, {.9999, "1000ms"}, {.019, "19ms"},    {.0014996, "1ms"},
        {.001, "1ms"}, {.00099, "990us"}, {.00023, "230us"}, {4e-7, "0us"}};
    for (const auto &[value, text] : steps) {
        EXPECT_STREQ(progress_format_per_step(value, out), text);
    }
    const std::vector<std::pair<double, const char *>> etas = {
        {0, "0s"},       {59.9, "59s"},     {60, "60s"},         {60.5, "1:00"},
        {3600, "60:00"}, {3601, "1:00:01"}, {36000, "10:00:00"}, {-1, "0s"}};
    for (const auto &[value, text] : etas) {
        EXPECT_STREQ(progress_format_eta(value, out), text);
    }
}

} // namespace
