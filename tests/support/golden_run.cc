#include "tests/support/golden_run.h"

#include <gtest/gtest.h>
#include <jansson.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "host/tokenizer.h"
#include "tests/support/device_array.h"

namespace {

namespace fs = std::filesystem;

constexpr double logit_tolerance = 1e-5;    // relative, of at least 0.1: logits start near zero
constexpr double loss_tolerance = 1e-5;     // relative
constexpr double gradient_tolerance = 1e-4; // of the tensor's largest value
constexpr double weight_tolerance = 1e-4;   // of the tensor's largest value

// ---- reading a case, by code of the tests' own ----

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
GoldenTensors read_safetensors(const fs::path &path, GoldenIds *ids = nullptr) {
    std::string bytes = read_file(path);
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    Json json(bytes.substr(8, header));
    const char *data = bytes.data() + 8 + header;
    GoldenTensors tensors;
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

void read_texts(const fs::path &folder, GoldenCase *c) {
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

GoldenCase read_case(const fs::path &folder) {
    GoldenCase c = {};
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

} // namespace

size_t GoldenCase::tokens() const {
    size_t sum = 0;
    for (const auto &text : ids) {
        sum += text.size();
    }
    return sum;
}

std::string golden_directory() {
    const char *given = std::getenv("CAIRN_GOLDEN_DIR");
    return given != nullptr ? given : std::string(CAIRN_SOURCE_DIR) + "/../shared/golden";
}

std::vector<GoldenCase> golden_cases() {
    std::vector<GoldenCase> cases;
    if (!fs::is_directory(golden_directory())) {
        return cases;
    }
    for (const auto &entry : fs::directory_iterator(golden_directory())) {
        if (fs::exists(entry.path() / "expected.json")) {
            cases.push_back(read_case(entry.path()));
        }
    }
    EXPECT_FALSE(cases.empty()) << golden_directory() << " holds no folder with an expected.json";
    return cases;
}

// ---- our side ----

GoldenReplay::GoldenReplay(const GoldenCase &golden, backend *be) : golden_(golden), be_(be) {
    error err = {};
    model_options options = {};
    options.limits.sequences = (uint32_t)golden.ids.size();
    options.limits.total_tokens = golden.tokens();
    for (const auto &ids : golden.ids) {
        options.limits.longest = std::max(options.limits.longest, (uint32_t)ids.size());
    }
    options.training = true;
    options.learning_rate = golden.learning_rate;
    EXPECT_EQ(model_create(be, &golden.shape, &options, &net_, &err), STATUS_OK) << err.message;
    for (auto &view : views(net_->weights)) {
        auto values = golden.initial.find(view.name);
        EXPECT_NE(values, golden.initial.end()) << view.name;
        uint64_t bytes = 0;
        EXPECT_TRUE(tensor_bytes(&view, &bytes));
        EXPECT_EQ(bytes, values->second.size() * sizeof(float)) << view.name;
        EXPECT_EQ(model_upload(net_, view.data, values->second.data(), bytes, nullptr), STATUS_OK);
    }
}

GoldenReplay::~GoldenReplay() {
    model_free(net_);
}

std::vector<tensor_view> GoldenReplay::views(float *part) const {
    std::vector<tensor_view> list(MODEL_TENSORS);
    model_views(net_, "", part, list.data());
    return list;
}

RaggedBatch GoldenReplay::batch(size_t first, size_t count) const {
    long begin = (long)first, end = (long)std::min(first + count, golden_.ids.size());
    return RaggedBatch(
        GoldenIds(golden_.ids.begin() + begin, golden_.ids.begin() + end),
        std::vector<uint8_t>(golden_.labels.begin() + begin, golden_.labels.begin() + end));
}

// In the order of the texts.
std::vector<double> GoldenReplay::logits(const RaggedBatch &batch, std::vector<double> *losses) {
    ResidentBatch resident(be_, batch);
    size_t B = resident.view().sequences;
    std::vector<float> raw(B);
    std::vector<double> loss(B), out(B);
    EXPECT_EQ(model_forward(net_, &resident.view(), raw.data(), loss.data(), nullptr), STATUS_OK);
    for (size_t k = 0; k < raw.size(); k++) {
        out[batch.order()[k]] = raw[k];
    }
    if (losses != nullptr) {
        *losses = loss;
    }
    return out;
}

void GoldenReplay::expect_tensors(float *part, const GoldenTensors &expected, double tolerance,
                                  const char *what) {
    for (const auto &view : views(part)) {
        const std::vector<float> &theirs = expected.at(view.name);
        std::vector<float> ours(theirs.size());
        ASSERT_EQ(
            model_download(net_, ours.data(), view.data, ours.size() * sizeof(float), nullptr),
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
            printf("%s %s %s %s: %.1e\n", golden_.name.c_str(), be_->kernel_path, what, view.name,
                   difference / largest);
        }
    }
}

void GoldenReplay::check_first_step() {
    RaggedBatch first = batch(0, golden_.batch);
    const std::vector<float> &theirs = golden_.first_step.at("logits");
    expect_close(logits(first), std::vector<double>(theirs.begin(), theirs.end()), logit_tolerance,
                 "logits");
    ResidentBatch resident(be_, first);
    ASSERT_EQ(model_gradients(net_, &resident.view(), nullptr), STATUS_OK);
    expect_tensors(net_->gradients, golden_.first_step, gradient_tolerance, "gradient");
}

// The loss of each step.
std::vector<double> GoldenReplay::train() {
    // All texts stay resident, as those of a data set do: a recorded step knows where they lie.
    RaggedBatch all = batch(0, golden_.ids.size());
    DeviceArray<uint16_t> tokens(be_, golden_.tokens());
    tokens.upload(all.view().tokens, golden_.tokens() * sizeof(uint16_t));
    std::vector<double> losses;
    uint64_t first = 0;
    for (size_t step = 0; step < golden_.steps; step++) {
        RaggedBatch part = batch(step * golden_.batch, golden_.batch);
        batch_view view = part.view();
        std::vector<uint64_t> starts(view.first, view.first + view.sequences);
        for (uint64_t &start : starts) {
            start += first;
        }
        first += view.total_tokens;
        view.tokens = tokens.data;
        view.first = starts.data();
        EXPECT_EQ(model_train_step(net_, &view, step + 1, nullptr), STATUS_OK);
        pass_sums sums;
        EXPECT_EQ(model_read_sums(net_, &sums, nullptr), STATUS_OK);
        losses.push_back(sums.batch_loss);
    }
    return losses;
}

void GoldenReplay::check_predictions() {
    std::vector<double> losses;
    std::vector<double> all = logits(batch(0, golden_.ids.size()), &losses);
    double loss = 0, right = 0;
    for (size_t i = 0; i < all.size(); i++) {
        loss += losses[i] / (double)all.size();
        right += (all[i] > 0) == (golden_.labels[i] == 1);
    }
    EXPECT_NEAR(loss, golden_.final_loss, loss_tolerance * golden_.final_loss);
    EXPECT_DOUBLE_EQ(right / (double)all.size(), golden_.final_accuracy);
    all.resize(std::min<size_t>(64, all.size()));
    expect_close(all, golden_.final_logits, logit_tolerance, "final logits");
}

void GoldenReplay::check_training() {
    expect_close(train(), golden_.losses, loss_tolerance, "losses");
    expect_tensors(net_->weights, golden_.final, weight_tolerance, "final weight");
    check_predictions();
}
