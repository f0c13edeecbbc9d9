// Whole training runs made with Keras (../shared/golden, or CAIRN_GOLDEN_DIR), replayed step by
// step with every instruction set that this processor has.
//
// Seen on an AMD Zen 5 core, over both cases and all instruction sets: first-step logits within
// 2e-8 and final logits within 3e-7 of Keras' (absolute), gradients within 2e-6 and final weights
// within 8e-6 of a tensor's largest value, losses within 2e-7 relative.
#include <gtest/gtest.h>
#include <jansson.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "host/model.h"
#include "host/tokenizer.h"
#include "kernels/backend.h"
#include "tests/support/ragged_batch.h"

namespace {

namespace fs = std::filesystem;

constexpr double logit_tolerance = 1e-5;    // relative, of at least 0.1: logits start near zero
constexpr double loss_tolerance = 1e-5;     // relative
constexpr double gradient_tolerance = 1e-4; // of the tensor's largest value
constexpr double weight_tolerance = 1e-4;   // of the tensor's largest value

// ---- reading a case, by code of the test's own ----

using Tensors = std::map<std::string, std::vector<float>>;
using Ids = std::vector<std::vector<uint32_t>>;

std::string read_file(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file.good()) << path;
    std::stringstream bytes;
    bytes << file.rdbuf();
    return bytes.str();
}

struct Json {
    explicit Json(const std::string &text) {
        json_error_t error;
        root = json_loadb(text.data(), text.size(), JSON_DECODE_ANY, &error);
        EXPECT_NE(root, nullptr) << error.text;
    }
    ~Json() { json_decref(root); }
    Json(const Json &) = delete;
    Json &operator=(const Json &) = delete;
    double number(const char *key) const {
        json_t *value = json_object_get(root, key);
        EXPECT_TRUE(json_is_number(value)) << key;
        return json_number_value(value);
    }
    std::vector<double> numbers(const char *key) const {
        std::vector<double> out;
        json_t *list = json_object_get(root, key);
        for (size_t i = 0; i < json_array_size(list); i++) {
            out.push_back(json_number_value(json_array_get(list, i)));
        }
        return out;
    }
    json_t *root;
};

// A safetensors file: 8 bytes of header size, the header (JSON), the data. `ids` (I32, padded with
// zeros at the end of each row) is returned as lists.
Tensors read_safetensors(const fs::path &path, Ids *ids = nullptr) {
    std::string bytes = read_file(path);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    Json json(bytes.substr(8, header));
    const char *data = bytes.data() + 8 + header;
    Tensors tensors;
    const char *name;
    json_t *entry;
    json_object_foreach(json.root, name, entry) {
        json_t *range = json_object_get(entry, "data_offsets");
        if (range == nullptr) {
            continue; // __metadata__
        }
        size_t begin = (size_t)json_integer_value(json_array_get(range, 0));
        size_t end = (size_t)json_integer_value(json_array_get(range, 1));
        std::string dtype = json_string_value(json_object_get(entry, "dtype"));
        if (dtype == "F32") {
            std::vector<float> values((end - begin) / 4);
            std::memcpy(values.data(), data + begin, end - begin);
            tensors[name] = values;
        } else if (ids != nullptr && dtype == "I32") {
            json_t *shape = json_object_get(entry, "shape");
            size_t width = (size_t)json_integer_value(json_array_get(shape, 1));
            std::vector<int32_t> values((end - begin) / 4);
            std::memcpy(values.data(), data + begin, end - begin);
            for (size_t at = 0; width > 0 && at < values.size(); at += width) {
                std::vector<uint32_t> row(values.begin() + (long)at,
                                          values.begin() + (long)(at + width));
                while (!row.empty() && row.back() == 0) {
                    row.pop_back();
                }
                ids->push_back(row);
            }
        }
    }
    return tensors;
}

struct Case {
    std::string name;
    model_shape shape;
    size_t batch, steps;
    double learning_rate, final_loss, final_accuracy;
    std::vector<double> losses, final_logits;
    Tensors initial, first_step, final;
    Ids first_ids, ids; // of the first step, as Keras had them; of every text, by our tokenizer
    std::vector<uint8_t> labels;
};

std::vector<uint32_t> tokenize(const vocabulary *words, const std::string &text) {
    std::vector<uint32_t> ids;
    tokenizer walk;
    tokenizer_init(&walk, false);
    EXPECT_EQ(tokenizer_start(&walk, text.data(), text.size(), nullptr), STATUS_OK);
    token found;
    while (tokenizer_next(&walk, &found)) {
        ids.push_back(vocabulary_lookup(words, found.bytes, found.size));
    }
    tokenizer_deinit(&walk);
    return ids;
}

void read_texts(const fs::path &folder, Case *c) {
    std::string vocabulary_text = read_file(folder / "vocab.txt");
    vocabulary *words = nullptr;
    error err = {};
    ASSERT_EQ(
        vocabulary_parse(vocabulary_text.data(), vocabulary_text.size(), "vocab.txt", &words, &err),
        STATUS_OK)
        << err.message;
    std::istringstream lines(read_file(folder / "train.jsonl"));
    for (std::string line; std::getline(lines, line);) {
        Json row(line);
        json_t *text = json_object_get(row.root, "text");
        c->ids.push_back(
            tokenize(words, std::string(json_string_value(text), json_string_length(text))));
        c->labels.push_back((uint8_t)row.number("label"));
    }
    vocabulary_free(words);
}

Case read_case(const fs::path &folder) {
    Case c = {};
    Json expected(read_file(folder / "expected.json"));
    c.name = folder.filename().string();
    c.shape = {(uint32_t)expected.number("vocabulary"), (uint32_t)expected.number("embedding"),
               (uint32_t)expected.number("hidden"), (uint32_t)expected.number("dense")};
    c.batch = (size_t)expected.number("batch");
    c.steps = (size_t)expected.number("steps");
    c.learning_rate = expected.number("learning_rate");
    c.final_loss = expected.number("final_loss");
    c.final_accuracy = expected.number("final_accuracy");
    c.losses = expected.numbers("loss_per_step");
    c.final_logits = expected.numbers("final_logits_first_64");
    c.initial = read_safetensors(folder / "initial.safetensors");
    c.first_step = read_safetensors(folder / "first_step.safetensors", &c.first_ids);
    c.final = read_safetensors(folder / "final.safetensors");
    read_texts(folder, &c);
    return c;
}

class TrainingGolden : public testing::Test {
  protected:
    void SetUp() override {
        const char *given = std::getenv("CAIRN_GOLDEN_DIR");
        fs::path root = given != nullptr ? fs::path(given)
                                         : fs::path(CAIRN_SOURCE_DIR) / ".." / "shared" / "golden";
        if (!fs::is_directory(root)) {
            GTEST_SKIP() << "no golden cases: " << root << " is missing (CAIRN_GOLDEN_DIR)";
        }
        for (const auto &entry : fs::directory_iterator(root)) {
            if (fs::exists(entry.path() / "expected.json")) {
                cases.push_back(read_case(entry.path()));
            }
        }
        ASSERT_FALSE(cases.empty()) << root << " holds no folder with an expected.json";
    }
    std::vector<Case> cases;
};

// ---- our side ----

// A model with a case's initial weights on one instruction set.
struct Replay {
    Replay(const Case &c, const std::string &isa) : golden(c) {
        error err = {};
        backend_options options = {2, isa.c_str()};
        EXPECT_EQ(backend_cpu_create(&options, &be, &err), STATUS_OK) << err.message;
        model_options model_options = {};
        model_options.limits.sequences = (uint32_t)c.ids.size();
        for (const auto &ids : c.ids) {
            model_options.limits.total_tokens += ids.size();
            model_options.limits.longest =
                std::max(model_options.limits.longest, (uint32_t)ids.size());
        }
        model_options.training = true;
        model_options.learning_rate = c.learning_rate;
        EXPECT_EQ(model_create(be, &c.shape, &model_options, &net, &err), STATUS_OK) << err.message;
        for (auto &view : views(net->weights)) {
            auto values = c.initial.find(view.name);
            EXPECT_NE(values, c.initial.end()) << view.name;
            uint64_t bytes = 0;
            EXPECT_TRUE(tensor_bytes(&view, &bytes));
            EXPECT_EQ(bytes, values->second.size() * sizeof(float)) << view.name;
            EXPECT_EQ(model_upload(net, view.data, values->second.data(), bytes, nullptr),
                      STATUS_OK);
        }
    }
    ~Replay() {
        model_free(net);
        be->table->free(be);
    }
    Replay(const Replay &) = delete;
    Replay &operator=(const Replay &) = delete;

    std::vector<tensor_view> views(float *part) const {
        std::vector<tensor_view> list(MODEL_TENSORS);
        model_views(net, "", part, list.data());
        return list;
    }

    RaggedBatch batch(size_t first, size_t count) const {
        size_t end = std::min(first + count, golden.ids.size());
        return RaggedBatch(Ids(golden.ids.begin() + (long)first, golden.ids.begin() + (long)end),
                           std::vector<uint8_t>(golden.labels.begin() + (long)first,
                                                golden.labels.begin() + (long)end));
    }

    // Logits in the order of the texts.
    std::vector<double> logits(const RaggedBatch &batch, std::vector<double> *losses = nullptr) {
        batch_view view = batch.view();
        std::vector<float> raw(view.sequences);
        std::vector<double> loss(view.sequences), out(view.sequences);
        EXPECT_EQ(model_forward(net, &view, raw.data(), loss.data(), nullptr), STATUS_OK);
        for (size_t k = 0; k < raw.size(); k++) {
            out[batch.order()[k]] = raw[k];
        }
        if (losses != nullptr) {
            *losses = loss;
        }
        return out;
    }

    void expect_tensors(float *part, const Tensors &expected, double tolerance, const char *what) {
        for (const auto &view : views(part)) {
            const std::vector<float> &theirs = expected.at(view.name);
            std::vector<float> ours(theirs.size());
            ASSERT_EQ(
                model_download(net, ours.data(), view.data, ours.size() * sizeof(float), nullptr),
                STATUS_OK);
            double largest = 0, difference = 0;
            for (size_t i = 0; i < theirs.size(); i++) {
                largest = std::max(largest, std::fabs((double)theirs[i]));
                double d = std::fabs((double)ours[i] - (double)theirs[i]);
                difference = d <= difference ? difference : d; // a NaN stays
            }
            EXPECT_GT(largest, 0) << what << " " << view.name;
            EXPECT_LE(difference, tolerance * largest) << what << " " << view.name;
            if (std::getenv("CAIRN_GOLDEN_SHOW") != nullptr) {
                printf("%s %s %s %s: %.1e\n", golden.name.c_str(), be->kernel_path, what, view.name,
                       difference / largest);
            }
        }
    }

    const Case &golden;
    backend *be = nullptr;
    model *net = nullptr;
};

void expect_close(const std::vector<double> &ours, const std::vector<double> &theirs,
                  double tolerance, const char *what) {
    ASSERT_EQ(ours.size(), theirs.size()) << what;
    double worst = 0;
    for (size_t i = 0; i < ours.size(); i++) {
        double error = std::fabs(ours[i] - theirs[i]);
        worst = std::max(worst, error);
        EXPECT_LE(error, tolerance * std::max(0.1, std::fabs(theirs[i]))) << what << " " << i;
    }
    if (std::getenv("CAIRN_GOLDEN_SHOW") != nullptr) {
        printf("%s: %.1e\n", what, worst);
    }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

// Sanitizers slow the kernels' inner loops down a hundred times. Under them the best instruction
// set and short texts have to do; ops_test has all instruction sets under sanitizers too.
bool too_slow(const Case &c) {
    size_t tokens = 0;
    for (const auto &ids : c.ids) {
        tokens += ids.size();
    }
    return sanitized && tokens > 20000;
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const char *const *name = backend_cpu_isa_names(); *name != nullptr; name++) {
        names.push_back(*name);
    }
    names.resize(sanitized ? 1 : names.size());
    return names;
}

TEST_F(TrainingGolden, TokenIdsAreKeras) {
    for (const Case &c : cases) {
        SCOPED_TRACE(c.name);
        ASSERT_EQ(c.first_ids.size(), std::min(c.batch, c.ids.size()));
        for (size_t i = 0; i < c.first_ids.size(); i++) {
            EXPECT_EQ(c.ids[i], c.first_ids[i]) << "text " << i;
        }
    }
}

// A fresh replay of every case on every instruction set.
void for_each_replay(const std::vector<Case> &cases,
                     const std::function<void(const Case &, Replay &)> &check) {
    size_t checked = 0;
    for (const Case &c : cases) {
        if (too_slow(c)) {
            printf("%s is too long for a build with sanitizers\n", c.name.c_str());
            continue;
        }
        checked++;
        for (const std::string &isa : isas()) {
            SCOPED_TRACE(c.name + " " + isa);
            Replay run(c, isa);
            check(c, run);
        }
    }
    EXPECT_GT(checked, 0u);
}

TEST_F(TrainingGolden, FirstStepLogitsAndGradients) {
    for_each_replay(cases, [](const Case &c, Replay &run) {
        RaggedBatch first = run.batch(0, c.batch);
        const std::vector<float> &theirs = c.first_step.at("logits");
        expect_close(run.logits(first), std::vector<double>(theirs.begin(), theirs.end()),
                     logit_tolerance, "logits");
        batch_view view = first.view();
        ASSERT_EQ(model_gradients(run.net, &view, nullptr), STATUS_OK);
        run.expect_tensors(run.net->gradients, c.first_step, gradient_tolerance, "gradient");
    });
}

TEST_F(TrainingGolden, LossesFinalWeightsAndPredictions) {
    for_each_replay(cases, [](const Case &c, Replay &run) {
        std::vector<double> losses;
        for (size_t step = 0; step < c.steps; step++) {
            RaggedBatch batch = run.batch(step * c.batch, c.batch);
            batch_view view = batch.view();
            ASSERT_EQ(model_train_step(run.net, &view, step + 1, nullptr), STATUS_OK);
            pass_sums sums;
            ASSERT_EQ(model_read_sums(run.net, &sums, nullptr), STATUS_OK);
            losses.push_back(sums.batch_loss);
        }
        expect_close(losses, c.losses, loss_tolerance, "losses");
        run.expect_tensors(run.net->weights, c.final, weight_tolerance, "final weight");

        RaggedBatch all = run.batch(0, c.ids.size());
        std::vector<double> example_losses;
        std::vector<double> logits = run.logits(all, &example_losses);
        double loss = 0, right = 0;
        for (size_t i = 0; i < logits.size(); i++) {
            loss += example_losses[i] / (double)logits.size();
            right += (logits[i] > 0) == (c.labels[i] == 1);
        }
        EXPECT_NEAR(loss, c.final_loss, loss_tolerance * c.final_loss);
        EXPECT_DOUBLE_EQ(right / (double)logits.size(), c.final_accuracy);
        logits.resize(std::min<size_t>(64, logits.size()));
        expect_close(logits, c.final_logits, logit_tolerance, "final logits");
    });
}

} // namespace
