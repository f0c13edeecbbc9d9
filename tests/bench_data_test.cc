// `cairn bench data`: that every phase is there and says how much it did, with a test part and
// without one, and that what cannot be read or written is said before anything is measured.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <jansson.h>

#include "tests/support/process.h"
#include "gtest/gtest.h"

namespace {

class BenchData : public testing::Test {
  protected:
    ~BenchData() override { json_decref(root_); }
    Outcome bench(const std::string &data) {
        const std::string path = directory_.file("data.json");
        Outcome outcome =
            run_cairn(words("bench data --repeats 1 --data " + data + " --json " + path));
        root_ = json_load_file(path.c_str(), 0, nullptr);
        return outcome;
    }
    double fact(const char *name) const {
        return json_number_value(json_object_get(json_object_get(root_, "facts"), name));
    }
    double figure(const std::string &section, const std::string &name) const {
        size_t i;
        json_t *figure;
        json_array_foreach(json_object_get(root_, "figures"), i, figure) {
            if (section == json_string_value(json_object_get(figure, "section")) &&
                name == json_string_value(json_object_get(figure, "name"))) {
                EXPECT_EQ(json_array_size(json_object_get(figure, "samples")), 1u);
                return json_number_value(json_object_get(figure, "median"));
            }
        }
        ADD_FAILURE() << section << "/" << name << " is missing";
        return 0.0;
    }
    // How much the phase did: its rate times its time.
    double amount(const std::string &section, const std::string &name, double unit = 1.0) const {
        return figure(section, name) * unit * figure(section, "time");
    }
    // Bytes, examples and tokens of both parts, and of the training part alone.
    void expect_amounts(double examples, double train_examples) const {
        const std::vector<std::string> all = {"reading", "loading", "tokens, from memory",
                                              "ids, from memory"};
        const double bytes = amount("reading", "text", 1e6);
        const double tokens = amount("tokens, from memory", "tokens", 1e6);
        EXPECT_GT(bytes, 0.0);
        EXPECT_GT(tokens, 0.0);
        for (const std::string &section : all) {
            EXPECT_NEAR(amount(section, "examples"), examples, 1e-6 * examples) << section;
            EXPECT_NEAR(amount(section, "text", 1e6), bytes, 1e-6 * bytes) << section;
        }
        EXPECT_NEAR(amount("loading", "tokens", 1e6), tokens, 1e-6 * tokens);
        EXPECT_NEAR(amount("ids, from memory", "tokens", 1e6), tokens, 1e-6 * tokens);
        const std::string vocabulary = "vocabulary of the training part, from memory";
        for (const std::string &section : {vocabulary, std::string("batches of an epoch")}) {
            EXPECT_NEAR(amount(section, "examples"), train_examples, 1e-6 * train_examples);
        }
        EXPECT_NEAR(amount(vocabulary, "tokens", 1e6), amount("batches of an epoch", "tokens", 1e6),
                    1e-6 * tokens);
    }
    TemporaryDirectory directory_;
    json_t *root_ = nullptr;
};

TEST_F(BenchData, ReportsEveryPhaseOfBothParts) {
    const Outcome outcome = bench("demo");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    ASSERT_NE(root_, nullptr);
    EXPECT_STREQ(json_string_value(json_object_get(root_, "benchmark")), "bench data");
    EXPECT_TRUE(json_is_null(json_object_get(root_, "device")));
    const double train = fact("training examples"), validation = fact("validation examples");
    EXPECT_GT(train, 0.0);
    EXPECT_GT(validation, 0.0);
    EXPECT_GT(fact("vocabulary"), 2.0);
    EXPECT_GT(fact("peak memory of loading"), 0.0);
    expect_amounts(train + validation, train);
}

TEST_F(BenchData, TakesADataSetWithoutATestPart) {
    write_file(directory_.file("d.csv"), "text,label\na b a,0\nb,1\nc d,0\nc c c,1\n");
    const Outcome outcome = bench(directory_.file("d.csv"));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    ASSERT_NE(root_, nullptr);
    EXPECT_EQ(fact("training examples"), 4.0);
    EXPECT_EQ(fact("validation examples"), 0.0);
    expect_amounts(4, 4);
    EXPECT_NEAR(amount("reading", "text", 1e6), 14, 1e-6); // "a b a", "b", "c d", "c c c"
    EXPECT_NEAR(amount("tokens, from memory", "tokens", 1e6), 9, 1e-6);
}

TEST_F(BenchData, Errors) {
    const Outcome nowhere = run_cairn(words("bench data --data demo --json /nowhere/x.json"));
    EXPECT_EQ(nowhere.code, 73);
    EXPECT_TRUE(contains(nowhere.err, "--json /nowhere/x.json cannot be written")) << nowhere.err;
    EXPECT_EQ(bench(directory_.file("missing")).code, 66);
    EXPECT_FALSE(exists(directory_.file("data.json")));
}

} // namespace
