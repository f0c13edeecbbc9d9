// The built-in corpus: labels that follow from the sentences, varied texts, and words that alone do
// not decide. (That the model learns it is shown where the model is tested.)
#include <gtest/gtest.h>
#include <math.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "host/tokenizer.h"
#include "io/dataset.h"

namespace {

struct Example {
    std::vector<std::string> words;
    std::string text;
    unsigned label;
};

status collect(void *context, const char *text, size_t size, unsigned label, error *) {
    Example example = {{}, std::string(text, size), label};
    tokenizer words;
    tokenizer_init(&words, false);
    EXPECT_EQ(tokenizer_start(&words, text, size, nullptr), STATUS_OK);
    token word;
    while (tokenizer_next(&words, &word)) {
        example.words.emplace_back(word.bytes, word.size);
    }
    tokenizer_deinit(&words);
    static_cast<std::vector<Example> *>(context)->push_back(example);
    return STATUS_OK;
}

std::vector<Example> read_demo(dataset_part part) {
    std::vector<Example> examples;
    dataset *dataset;
    EXPECT_EQ(dataset_open(&file_posix, "demo", &dataset, nullptr), STATUS_OK);
    EXPECT_TRUE(dataset_has_test(dataset));
    EXPECT_EQ(dataset_read(dataset, part, collect, &examples, nullptr), STATUS_OK);
    EXPECT_STREQ(dataset_label_name(dataset, 0), "neg");
    EXPECT_STREQ(dataset_label_name(dataset, 1), "pos");
    dataset_close(dataset);
    return examples;
}

// ---- logistic regression on a bag of words: Newton's method until the gradient vanishes ----

using Vector = std::vector<double>;

// Solve a x = b for a symmetric positive definite matrix (row-major, overwritten) by Cholesky.
Vector solve(Vector a, Vector b) {
    size_t n = b.size();
    for (size_t j = 0; j < n; j++) {
        for (size_t i = j; i < n; i++) {
            double sum = a[i * n + j];
            for (size_t k = 0; k < j; k++) {
                sum -= a[i * n + k] * a[j * n + k];
            }
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[j * n + j];
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++) {
            b[i] -= a[i * n + k] * b[k];
        }
        b[i] /= a[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
        for (size_t k = i + 1; k < n; k++) {
            b[i] -= a[k * n + i] * b[k];
        }
        b[i] /= a[i * n + i];
    }
    return b;
}

class BagOfWords {
  public:
    // `presence`: 0 or 1 per word instead of its count.
    BagOfWords(const std::vector<Example> &examples, bool presence) : presence_(presence) {
        for (const Example &example : examples) {
            for (const std::string &word : example.words) {
                columns_.emplace(word, columns_.size());
            }
        }
        weights_.assign(columns_.size() + 1, 0);
        std::vector<Features> rows;
        for (const Example &example : examples) {
            rows.push_back(features(example));
        }
        for (int i = 0; i < 30 && (i == 0 || gradient_norm_ > 1e-7); i++) {
            newton_step(examples, rows);
        }
    }

    double accuracy(const std::vector<Example> &examples) const {
        size_t right = 0;
        for (const Example &example : examples) {
            right += (score(features(example)) > 0) == (example.label == 1);
        }
        return static_cast<double>(right) / static_cast<double>(examples.size());
    }

    double gradient_norm() const { return gradient_norm_; }

  private:
    using Features = std::vector<std::pair<size_t, double>>; // column, value

    Features features(const Example &example) const {
        std::map<size_t, double> features = {{columns_.size(), 1}}; // bias
        for (const std::string &word : example.words) {
            auto column = columns_.find(word);
            if (column != columns_.end()) {
                double &value = features[column->second];
                value = presence_ ? 1 : value + 1;
            }
        }
        return Features(features.begin(), features.end());
    }

    double score(const Features &features) const {
        double score = 0;
        for (const auto &[column, value] : features) {
            score += weights_[column] * value;
        }
        return score;
    }

    void newton_step(const std::vector<Example> &examples, const std::vector<Features> &rows) {
        const double ridge = 1e-2; // keeps the matrix regular; far too small to matter
        size_t n = weights_.size();
        Vector gradient(n, 0), hessian(n * n, 0);
        for (size_t i = 0; i < n; i++) {
            gradient[i] = ridge * weights_[i];
            hessian[i * n + i] = ridge;
        }
        for (size_t row = 0; row < rows.size(); row++) {
            const Features &x = rows[row];
            double p = 1 / (1 + exp(-score(x)));
            for (const auto &[i, xi] : x) {
                gradient[i] += (p - examples[row].label) * xi;
                for (const auto &[j, xj] : x) {
                    hessian[i * n + j] += p * (1 - p) * xi * xj;
                }
            }
        }
        gradient_norm_ = 0;
        Vector step = solve(hessian, gradient);
        for (size_t i = 0; i < n; i++) {
            weights_[i] -= step[i];
            gradient_norm_ = std::max(gradient_norm_, fabs(gradient[i]));
        }
    }

    bool presence_;
    std::map<std::string, size_t> columns_;
    Vector weights_;
    double gradient_norm_ = 0;
};

TEST(Demo, BagOfWordsStaysBelow65Percent) {
    std::vector<Example> train = read_demo(DATASET_TRAIN), test = read_demo(DATASET_TEST);
    for (bool presence : {false, true}) {
        BagOfWords model(train, presence);
        double on_train = model.accuracy(train), on_test = model.accuracy(test);
        printf("bag of words by %s: %.1f %% of the training part, %.1f %% of the test part\n",
               presence ? "presence" : "count", 100 * on_train, 100 * on_test);
        EXPECT_LT(model.gradient_norm(), 1e-6); // trained to the end
        EXPECT_LT(on_test, 0.65);
        EXPECT_LT(on_train, 0.65);
    }
}

// The regression above must be able to learn, or its failure would say nothing.
TEST(Demo, BagOfWordsLearnsWhatWordsDecide) {
    std::vector<Example> train = read_demo(DATASET_TRAIN), test = read_demo(DATASET_TEST);
    for (std::vector<Example> *part : {&train, &test}) {
        for (Example &example : *part) {
            auto count = [&example](const char *word) {
                return std::count(example.words.begin(), example.words.end(), word);
            };
            example.label = count("i") + count("not") > count("the");
        }
    }
    EXPECT_GT(BagOfWords(train, false).accuracy(test), 0.99);
}

// ---- labels from the sentences, by rules written here ----

// Each opinion in the text, in order: is it positive?
std::vector<bool> opinions_in(const Example &example) {
    const std::set<std::string> good = {
        "good",  "great",  "brilliant", "charming",   "funny",  "clever",     "moving", "gripping",
        "fresh", "honest", "warm",      "convincing", "lovely", "delightful", "superb"};
    const std::set<std::string> bad = {"bad",   "dull",      "boring", "weak",     "clumsy",
                                       "silly", "flat",      "slow",   "tired",    "noisy",
                                       "cold",  "confusing", "awful",  "dreadful", "poor"};
    std::vector<bool> opinions;
    const std::vector<std::string> &words = example.words;
    for (size_t i = 0; i < words.size(); i++) {
        if (good.count(words[i]) + bad.count(words[i]) == 0) {
            continue;
        }
        const std::string &before = words[i - 1];
        bool negated = before == "not" || before == "never" || before == "hardly" ||
                       (before == "all" && words[i - 3] == "not");
        opinions.push_back((good.count(words[i]) != 0) != negated);
    }
    return opinions;
}

TEST(Demo, LabelsFollowFromNegationContrastAndOrder) {
    size_t pairs = 0, singles = 0;
    for (dataset_part part : {DATASET_TRAIN, DATASET_TEST}) {
        for (const Example &example : read_demo(part)) {
            std::vector<bool> opinions = opinions_in(example);
            ASSERT_GE(opinions.size(), 1u) << example.text;
            ASSERT_LE(opinions.size(), 2u) << example.text;
            bool first_decides = example.text.find(", although ") != std::string::npos ||
                                 example.text.find(" rather than ") != std::string::npos;
            bool decides = first_decides ? opinions.front() : opinions.back();
            ASSERT_EQ(decides, example.label == 1) << example.text;
            if (opinions.size() == 2) {
                ASSERT_NE(opinions.front(), opinions.back()) << example.text;
            }
            (opinions.size() == 2 ? pairs : singles)++;
        }
    }
    EXPECT_GT(pairs, singles);
}

// ---- what the texts are like ----

TEST(Demo, TextsAreVariedAndBalanced) {
    std::vector<Example> train = read_demo(DATASET_TRAIN), test = read_demo(DATASET_TEST);
    EXPECT_GE(train.size(), 4000u);
    EXPECT_GE(test.size(), 1000u);
    std::set<std::string> seen;
    std::set<std::string> vocabulary;
    size_t positive = 0;
    for (const Example &example : train) {
        seen.insert(example.text);
        positive += example.label;
        vocabulary.insert(example.words.begin(), example.words.end());
        EXPECT_GE(example.words.size(), 6u) << example.text;
        EXPECT_LE(example.words.size(), 40u) << example.text;
        EXPECT_EQ(example.text.find_first_of("{}\n"), std::string::npos) << example.text;
        EXPECT_EQ(example.text.find("  "), std::string::npos) << example.text;
    }
    EXPECT_GT(seen.size(), train.size() * 99 / 100);
    EXPECT_NEAR(static_cast<double>(positive) / static_cast<double>(train.size()), 0.5, 0.03);
    EXPECT_GT(vocabulary.size(), 100u);
    EXPECT_LT(vocabulary.size(), 998u); // all of it fits the default vocabulary
    size_t repeated = 0;
    for (const Example &example : test) {
        repeated += seen.count(example.text);
        for (const std::string &word : example.words) {
            EXPECT_EQ(vocabulary.count(word), 1u) << word;
        }
    }
    EXPECT_LE(repeated, test.size() / 100);
}

TEST(Demo, IsTheSameEveryTime) {
    for (dataset_part part : {DATASET_TRAIN, DATASET_TEST}) {
        std::vector<Example> first = read_demo(part), second = read_demo(part);
        ASSERT_EQ(first.size(), second.size());
        for (size_t i = 0; i < first.size(); i++) {
            ASSERT_EQ(first[i].text, second[i].text);
            ASSERT_EQ(first[i].label, second[i].label);
        }
    }
}

} // namespace
