// Weights under other names: PyTorch's and Keras' tensors end where ours are, whatever people call
// their modules; what is another model is refused by name. Files are made by hand here; tests/python/
// has files that PyTorch and Keras wrote.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "host/import.h"
#include "host/import_names.h"
#include "io/model_names.h"
#include "io/safetensors.h"
#include "tests/support/memory_files.h"

namespace {

constexpr uint64_t V = 4, E = 2, H = 3, D = 5;

struct Entry {
    std::string name;
    enum dtype dtype;
    std::vector<uint64_t> shape;
    std::string bytes;
};

std::string bytes_of(const std::vector<float> &values) {
    return std::string(reinterpret_cast<const char *>(values.data()),
                       values.size() * sizeof(float));
}

// Values that say where they are: base + index / 64, exact in fp32.
std::vector<float> ramp(float base, const std::vector<uint64_t> &shape) {
    uint64_t count = 1;
    for (uint64_t n : shape) {
        count *= n;
    }
    std::vector<float> out;
    for (uint64_t i = 0; i < count; i++) {
        out.push_back(base + static_cast<float>(i) / 64.0f);
    }
    return out;
}

Entry floats(const std::string &name, const std::vector<uint64_t> &shape, float base) {
    return {name, DTYPE_F32, shape, bytes_of(ramp(base, shape))};
}

using Metadata = std::vector<std::pair<std::string, std::string>>;

std::string file_of(const std::vector<Entry> &entries, const Metadata &metadata = {}) {
    struct safetensors_builder builder = {};
    std::string data;
    for (const auto &pair : metadata) {
        safetensors_add_metadata(&builder, pair.first.c_str(), pair.second.c_str());
    }
    for (const Entry &entry : entries) {
        struct tensor_view view =
            tensor_make(entry.name.c_str(), entry.dtype, nullptr,
                        static_cast<uint32_t>(entry.shape.size()), entry.shape.data());
        safetensors_add_tensor(&builder, &view);
        data += entry.bytes;
    }
    struct error err = {};
    EXPECT_EQ(safetensors_finish(&builder, &err), STATUS_OK) << err.message;
    std::string out(builder.text.bytes, builder.text.size);
    text_free(&builder.text);
    return out + data;
}

// As a state_dict has them: sorted by name, two biases.
std::vector<Entry> torch_entries(const std::string &lstm = "rnn.") {
    return {
        floats("fc1.bias", {D}, 90),
        floats("fc1.weight", {D, 2 * H}, 80),
        floats("fc2.bias", {1}, 110),
        floats("fc2.weight", {1, D}, 100),
        floats(lstm + "bias_hh_l0", {4 * H}, 0.5f),
        floats(lstm + "bias_hh_l0_reverse", {4 * H}, 0.25f),
        floats(lstm + "bias_ih_l0", {4 * H}, 40),
        floats(lstm + "bias_ih_l0_reverse", {4 * H}, 70),
        floats(lstm + "weight_hh_l0", {4 * H, H}, 30),
        floats(lstm + "weight_hh_l0_reverse", {4 * H, H}, 60),
        floats(lstm + "weight_ih_l0", {4 * H, E}, 20),
        floats(lstm + "weight_ih_l0_reverse", {4 * H, E}, 50),
        floats("word_vectors.weight", {V, E}, 10),
    };
}

// As w.path of Keras 3 spells them.
std::vector<Entry> keras_entries(const std::string &end = "") {
    const std::string lstm = "m/bidirectional/";
    std::vector<Entry> out = {floats("m/embedding/embeddings" + end, {V, E}, 10)};
    float base = 20;
    for (const char *direction : {"forward_lstm", "backward_lstm"}) {
        const std::string cell = lstm + direction + "/lstm_cell/";
        out.push_back(floats(cell + "kernel" + end, {E, 4 * H}, base));
        out.push_back(floats(cell + "recurrent_kernel" + end, {H, 4 * H}, base + 10));
        out.push_back(floats(cell + "bias" + end, {4 * H}, base + 20));
        base += 30;
    }
    out.push_back(floats("m/dense/kernel" + end, {2 * H, D}, 80));
    out.push_back(floats("m/dense/bias" + end, {D}, 90));
    out.push_back(floats("m/dense_1/kernel" + end, {D, 1}, 100));
    out.push_back(floats("m/dense_1/bias" + end, {1}, 110));
    return out;
}

void rename(std::vector<Entry> *entries, const std::string &from, const Entry &to) {
    for (Entry &entry : *entries) {
        if (entry.name == from) {
            entry = to;
            return;
        }
    }
    FAIL() << "there is no " << from;
}

void erase(std::vector<Entry> *entries, const std::string &part) {
    std::vector<Entry> out;
    for (const Entry &entry : *entries) {
        if (entry.name.find(part) == std::string::npos) {
            out.push_back(entry);
        }
    }
    ASSERT_LT(out.size(), entries->size()) << part;
    *entries = out;
}

class Import : public testing::Test {
  protected:
    void TearDown() override { checkpoint_free(checkpoint_); }

    enum status read(const std::string &path, bool beside = true) {
        checkpoint_free(checkpoint_);
        checkpoint_ = nullptr;
        err_ = {};
        return import_read(disk_.table(), path.c_str(), beside, &checkpoint_, &err_);
    }
    enum status read_entries(const std::vector<Entry> &entries) {
        disk_.put("/w.safetensors", file_of(entries));
        return read("/w.safetensors");
    }
    const struct tensor_view *tensor(const std::string &name) const {
        return tensor_find(checkpoint_->tensors, checkpoint_->tensor_count, name.c_str());
    }
    std::vector<float> values(const std::string &name) const {
        const struct tensor_view *found = tensor(name);
        uint64_t elements = 0;
        if (found == nullptr || found->dtype != DTYPE_F32 || !tensor_elements(found, &elements)) {
            ADD_FAILURE() << name << " is missing";
            return {};
        }
        const float *data = static_cast<const float *>(found->data);
        return std::vector<float>(data, data + elements);
    }
    std::string bytes(const std::string &name) const {
        const struct tensor_view *found = tensor(name);
        return found == nullptr
                   ? "(missing)"
                   : std::string(static_cast<const char *>(found->data), found->shape[0]);
    }
    int64_t number(const std::string &name) const {
        const struct tensor_view *found = tensor(name);
        int64_t value = -1;
        if (found != nullptr) {
            memcpy(&value, found->data, sizeof value);
        }
        return value;
    }
    // base + column-th row-th element of a [columns, rows] matrix: what a transpose puts in place.
    static std::vector<float> transposed(float base, uint64_t rows, uint64_t columns) {
        std::vector<float> out;
        for (uint64_t row = 0; row < rows; row++) {
            for (uint64_t column = 0; column < columns; column++) {
                out.push_back(base + static_cast<float>(column * rows + row) / 64.0f);
            }
        }
        return out;
    }
    void expect_refused(const std::vector<Entry> &entries, const std::vector<std::string> &parts) {
        EXPECT_EQ(read_entries(entries), STATUS_MISFIT) << err_.message;
        for (const std::string &part : parts) {
            EXPECT_NE(std::string(err_.message).find(part), std::string::npos) << part << "\n"
                                                                               << err_.message;
        }
    }

    MemoryFiles disk_;
    struct checkpoint *checkpoint_ = nullptr;
    struct error err_ = {};
};

// ---- PyTorch ----

TEST_F(Import, TorchNamesBecomeOurs) {
    for (const char *prefix : {"rnn.", "model.encoder.lstm.", ""}) {
        ASSERT_EQ(read_entries(torch_entries(prefix)), STATUS_OK) << err_.message;
        EXPECT_EQ(checkpoint_->tensor_count, static_cast<size_t>(MODEL_TENSORS));
        EXPECT_EQ(values("embedding.weight"), ramp(10, {V, E}));
        EXPECT_EQ(values("lstm.weight_ih_l0"), ramp(20, {4 * H, E}));
        EXPECT_EQ(values("lstm.weight_hh_l0"), ramp(30, {4 * H, H}));
        EXPECT_EQ(values("lstm.weight_ih_l0_reverse"), ramp(50, {4 * H, E}));
        EXPECT_EQ(values("lstm.weight_hh_l0_reverse"), ramp(60, {4 * H, H}));
        EXPECT_EQ(values("dense.weight"), ramp(80, {D, 2 * H}));
        EXPECT_EQ(values("dense.bias"), ramp(90, {D}));
        EXPECT_EQ(values("output.weight"), ramp(100, {1, D}));
        EXPECT_EQ(values("output.bias"), ramp(110, {1}));
        // Both ramps rise by 1/64.
        std::vector<float> bias = values("lstm.bias_l0"), back = values("lstm.bias_l0_reverse");
        ASSERT_EQ(bias.size(), 4 * H);
        ASSERT_EQ(back.size(), 4 * H);
        for (size_t i = 0; i < bias.size(); i++) {
            EXPECT_EQ(bias[i], 40.5f + static_cast<float>(i) / 32.0f);
            EXPECT_EQ(back[i], 70.25f + static_cast<float>(i) / 32.0f);
        }
    }
}

TEST_F(Import, CountersAreNoWeights) {
    std::vector<Entry> entries = torch_entries();
    entries.insert(entries.begin(), {"counter", DTYPE_I64, {}, std::string(8, '\0')});
    EXPECT_EQ(read_entries(entries), STATUS_OK) << err_.message;
    EXPECT_EQ(tensor("counter"), nullptr);
}

TEST_F(Import, OtherFloatsAreRead) {
    struct Case {
        enum dtype dtype;
        std::string bytes;
        std::vector<float> values;
    };
    auto pack16 = [](const std::vector<uint16_t> &bits) {
        return std::string(reinterpret_cast<const char *>(bits.data()), bits.size() * 2);
    };
    const double doubles[] = {1.0, -0.5, 3.25, 1e-3, 0.0};
    const float infinity = std::numeric_limits<float>::infinity();
    const Case cases[] = {
        {DTYPE_F64,
         std::string(reinterpret_cast<const char *>(doubles), sizeof doubles),
         {1.0f, -0.5f, 3.25f, 1e-3f, 0.0f}},
        // one, the largest, the smallest subnormal, the smallest normal negated, -2
        {DTYPE_F16,
         pack16({0x3C00, 0x7BFF, 0x0001, 0x8400, 0xC000}),
         {1.0f, 65504.0f, 0x1p-24f, -0x1p-14f, -2.0f}},
        {DTYPE_F16,
         pack16({0x7C00, 0xFC00, 0x83FF, 0x3555, 0x0000}),
         {infinity, -infinity, -1023 * 0x1p-24f, 0.333251953125f, 0.0f}},
        {DTYPE_BF16,
         pack16({0x3F80, 0xC040, 0x0001, 0x7F7F, 0x3EAB}),
         {1.0f, -3.0f, 0x1p-133f, 0x1.FEp127f, 0.333984375f}},
    };
    for (const Case &test : cases) {
        std::vector<Entry> entries = torch_entries();
        rename(&entries, "fc1.bias", {"fc1.bias", test.dtype, {D}, test.bytes});
        ASSERT_EQ(read_entries(entries), STATUS_OK) << err_.message;
        EXPECT_EQ(values("dense.bias"), test.values) << dtype_name(test.dtype);
    }
}

TEST_F(Import, OtherTorchModelsAreRefusedByName) {
    std::vector<Entry> entries = torch_entries();
    erase(&entries, "weight_hh_l0_reverse");
    expect_refused(entries, {"/w.safetensors", "rnn.weight_hh_l0_reverse is missing"});
    entries = torch_entries();
    erase(&entries, "bias_hh");
    expect_refused(entries, {"rnn.bias_hh_l0 is missing"});
    entries = torch_entries();
    entries.push_back(floats("rnn.weight_ih_l1", {4 * H, 2 * H}, 1));
    expect_refused(entries, {"rnn.weight_ih_l1 [12, 6]", "one layer"});
    entries = torch_entries();
    rename(&entries, "rnn.weight_ih_l0", floats("rnn.weight_ih_l0", {3 * H, E}, 1));
    expect_refused(entries, {"rnn.weight_ih_l0", "[9, 2]", "[12, 2]"});
    entries = torch_entries();
    rename(&entries, "fc2.weight", floats("fc2.weight", {2, D}, 1));
    expect_refused(entries, {"fc2.weight [2, 5]", "from 6", "single logit"});
    entries = torch_entries();
    erase(&entries, "word_vectors");
    expect_refused(entries, {"embedding"});
    entries = torch_entries();
    rename(&entries, "word_vectors.weight", floats("word_vectors.weight", {V, E + 1}, 1));
    expect_refused(entries, {"rnn.weight_ih_l0", "[12, 2]", "[12, 3]"});
    // All that a name can hold is shown without harm.
    entries = torch_entries();
    entries.push_back(floats("evil\x1b[2Jname.weight", {1, 1}, 1));
    EXPECT_EQ(read_entries(entries), STATUS_MISFIT);
    EXPECT_EQ(std::string(err_.message).find('\x1b'), std::string::npos) << err_.message;
}

// The LSTM's name as a tensor of integers: found by no one.
TEST_F(Import, IntegersUnderTheNamesOfWeightsAreMissing) {
    std::vector<Entry> entries = {{"weight_ih_l0", DTYPE_I64, {1}, std::string(8, '\0')}};
    expect_refused(entries, {"weight_ih_l0"});
}

// ---- Keras ----

TEST_F(Import, KerasNamesBecomeOursTransposed) {
    for (const char *end : {"", ":0"}) {
        ASSERT_EQ(read_entries(keras_entries(end)), STATUS_OK) << err_.message;
        EXPECT_EQ(values("embedding.weight"), ramp(10, {V, E}));
        EXPECT_EQ(values("lstm.weight_ih_l0"), transposed(20, 4 * H, E));
        EXPECT_EQ(values("lstm.weight_hh_l0"), transposed(30, 4 * H, H));
        EXPECT_EQ(values("lstm.bias_l0"), ramp(40, {4 * H}));
        EXPECT_EQ(values("lstm.weight_ih_l0_reverse"), transposed(50, 4 * H, E));
        EXPECT_EQ(values("lstm.weight_hh_l0_reverse"), transposed(60, 4 * H, H));
        EXPECT_EQ(values("lstm.bias_l0_reverse"), ramp(70, {4 * H}));
        EXPECT_EQ(values("dense.weight"), transposed(80, D, 2 * H));
        EXPECT_EQ(values("dense.bias"), ramp(90, {D}));
        EXPECT_EQ(values("output.weight"), transposed(100, 1, D));
        EXPECT_EQ(values("output.bias"), ramp(110, {1}));
        EXPECT_EQ(std::string(checkpoint_metadata(checkpoint_, "imported.dense.weight")),
                  std::string("m/dense/kernel") + end);
    }
}

// A model that is called like a direction.
TEST_F(Import, TheDirectionIsTheLayersAndNotTheModels) {
    std::vector<Entry> entries = keras_entries();
    for (Entry &entry : entries) {
        entry.name = "forward_net/backward_branch/" + entry.name.substr(2);
    }
    ASSERT_EQ(read_entries(entries), STATUS_OK) << err_.message;
    EXPECT_EQ(values("lstm.bias_l0"), ramp(40, {4 * H}));
    EXPECT_EQ(values("lstm.bias_l0_reverse"), ramp(70, {4 * H}));
}

TEST_F(Import, OtherKerasModelsAreRefusedByName) {
    std::vector<Entry> entries = keras_entries();
    erase(&entries, "backward_lstm");
    expect_refused(entries, {"backward_", "Bidirectional"});
    entries = keras_entries();
    erase(&entries, "forward_lstm/lstm_cell/bias");
    expect_refused(entries, {"m/bidirectional/forward_lstm/lstm_cell/bias is missing"});
    entries = keras_entries();
    entries.push_back(floats("m/dense_2/kernel", {7, 7}, 1));
    entries.push_back(floats("m/dense_2/bias", {7}, 1));
    expect_refused(entries, {"m/dense_2/kernel [7, 7] has no place"});
    entries = keras_entries();
    rename(&entries, "m/dense/kernel", floats("m/dense/kernel", {2 * H + 1, D}, 1));
    expect_refused(entries, {"m/dense/kernel [7, 5]", "from 6"});
}

// ---- what lies beside ----

TEST_F(Import, WordsRulesAndNamesBesideTheFile) {
    disk_.put("/hub/model.safetensors", file_of(torch_entries()));
    disk_.put("/hub/vocab.txt", "\xEF\xBB\xBF[PAD]\r\n<unk>\r\ngood\r\nbad");
    disk_.put("/hub/config.json", R"({"text": {"strip_html": true, "max_length": 12},
        "id2label": {"0": "no", "1": "yes"}, "step": 99, "vocab_size": 4, "other": [1, null]})");
    for (const char *path : {"/hub", "/hub/model.safetensors"}) {
        ASSERT_EQ(read(path), STATUS_OK) << err_.message;
        EXPECT_EQ(bytes(TENSOR_VOCABULARY), "\n[UNK]\ngood\r\nbad");
        EXPECT_EQ(number(TENSOR_STRIP_HTML), 1);
        EXPECT_EQ(number(TENSOR_MAX_LENGTH), 12);
        EXPECT_EQ(bytes(TENSOR_LABEL_NAMES), "no\nyes\n");
        EXPECT_STREQ(checkpoint_metadata(checkpoint_, "step"), "99");
    }
    ASSERT_EQ(read("/hub", false), STATUS_OK) << err_.message;
    EXPECT_EQ(tensor(TENSOR_VOCABULARY), nullptr); // the user named another one
    EXPECT_EQ(number(TENSOR_MAX_LENGTH), 12);
    // Words without the two special lines are left to the vocabulary's own rules.
    disk_.put("/hub/vocab.txt", "good\nbad\n");
    ASSERT_EQ(read("/hub"), STATUS_OK);
    EXPECT_EQ(bytes(TENSOR_VOCABULARY), "good\nbad\n");
}

TEST_F(Import, AConfigOfOthersSaysNothing) {
    disk_.put("/hub/model.safetensors", file_of(torch_entries()));
    for (const char *config :
         {"{}", "[1]", R"({"text": null, "id2label": null, "step": null})",
          R"({"text": {"strip_html": null}, "label2id": {"a": 0}, "max_length": -3})"}) {
        disk_.put("/hub/config.json", config);
        ASSERT_EQ(read("/hub"), STATUS_OK) << config << err_.message;
        EXPECT_EQ(checkpoint_->tensor_count, static_cast<size_t>(MODEL_TENSORS)) << config;
        EXPECT_EQ(checkpoint_metadata(checkpoint_, "step"), nullptr) << config;
    }
}

TEST_F(Import, AnUnusableEntryOfOursIsNamed) {
    const std::string label31(31, 'x'), label32(32, 'x');
    auto labels = [](const std::string &first, const std::string &second) {
        return R"({"id2label": {"0": ")" + first + R"(", "1": ")" + second + R"("}})";
    };
    const std::vector<std::pair<std::string, std::string>> cases = {
        {R"({"text": 3})", "\"text\""},
        {R"({"text": {"strip_html": 1}})", "\"text.strip_html\""},
        {R"({"text": {"max_length": -5}})", "\"text.max_length\""},
        {R"({"text": {"max_length": "9"}})", "\"text.max_length\""},
        {R"({"text": {"max_length": 1e3}})", "\"text.max_length\""},
        {R"({"text": {"lowercase": false}})", "\"text.lowercase\""},
        {R"({"text": {"split": "character"}})", "\"text.split\""},
        {R"({"step": -1})", "\"step\""},
        {R"({"id2label": ["a", "b"]})", "\"id2label\""},
        {R"({"id2label": {"0": "a"}})", "\"id2label\""},
        {R"({"id2label": {"0": 1, "1": "b"}})", "\"id2label\""},
        {labels("a\\nb", "c"), "\"id2label\""},
        {labels("a\\tb", "c"), "\"id2label\""},
        {labels("a", "\\u001b[31m"), "\"id2label\""},
        {labels("a", "\x7F"), "\"id2label\""},
        {labels("", "c"), "\"id2label\""},
        {labels("a", "a"), "\"id2label\""},
        {labels("a", label32), "\"id2label\""},
    };
    disk_.put("/hub/model.safetensors", file_of(torch_entries()));
    for (const auto &test : cases) {
        disk_.put("/hub/config.json", test.first);
        EXPECT_EQ(read("/hub"), STATUS_DATA) << test.first;
        const std::string said = err_.message;
        EXPECT_NE(said.find("/hub/config.json: " + test.second), std::string::npos) << said;
    }
    disk_.put("/hub/config.json", labels("y" + label31.substr(1), label31)); // just short enough
    ASSERT_EQ(read("/hub"), STATUS_OK) << err_.message;
    EXPECT_EQ(bytes(TENSOR_LABEL_NAMES), "y" + label31.substr(1) + "\n" + label31 + "\n");
}

// Finite in the file: the file is not to be called broken.
TEST_F(Import, ValuesTooLargeForFp32AreNamed) {
    const double huge[] = {1.0, 1e300, 0.0, 0.0, 0.0};
    std::vector<Entry> entries = torch_entries();
    rename(&entries, "fc1.bias",
           {"fc1.bias", DTYPE_F64, {D}, std::string(reinterpret_cast<const char *>(huge), 40)});
    EXPECT_EQ(read_entries(entries), STATUS_NONFINITE);
    for (const char *part : {"/w.safetensors", "fc1.bias [5]", "element 1", "too large for fp32"}) {
        EXPECT_NE(std::string(err_.message).find(part), std::string::npos) << err_.message;
    }
    entries = torch_entries();
    for (const char *bias : {"rnn.bias_ih_l0", "rnn.bias_hh_l0"}) {
        rename(&entries, bias,
               {bias, DTYPE_F32, {4 * H}, bytes_of(std::vector<float>(4 * H, 3e38f))});
    }
    EXPECT_EQ(read_entries(entries), STATUS_NONFINITE);
    EXPECT_NE(std::string(err_.message).find("rnn.bias_ih_l0"), std::string::npos) << err_.message;
}

TEST_F(Import, MetadataOfOthersDoNotMatter) {
    disk_.put("/w.safetensors", file_of(torch_entries(), {{"format", "pt"},
                                                          {"imported.embedding.weight", "x"},
                                                          {"digest.of", "something"}}));
    ASSERT_EQ(read("/w.safetensors"), STATUS_OK) << err_.message;
    EXPECT_STREQ(checkpoint_metadata(checkpoint_, "imported.embedding.weight"),
                 "word_vectors.weight");
    EXPECT_STREQ(checkpoint_metadata(checkpoint_, "format"), "pt");
}

// What people have at hand instead.
TEST_F(Import, FilesOfOtherFormatsAreRecognised) {
    const std::vector<std::pair<std::string, std::vector<const char *>>> cases = {
        {std::string("PK\3\4\x14\0\0\0", 8), {"ZIP archive", ".keras", "torch.save"}},
        {"\x89HDF\r\n\x1a\n", {"HDF5", ".weights.h5", "w.path"}},
        {"\x80\x02\x8a\x0al\xfc\x9c\x46", {"pickle", "safetensors.torch.save_model"}},
        {"\x80\x04\x95xxxxx", {"pickle", "safetensors.torch.save_model"}},
    };
    for (const auto &test : cases) {
        disk_.put("/model", test.first + std::string(60, '\0'));
        EXPECT_EQ(read("/model"), STATUS_CORRUPT);
        for (const char *part : test.second) {
            EXPECT_NE(std::string(err_.message).find(part), std::string::npos) << err_.message;
        }
    }
}

TEST_F(Import, PathsAreShownWithoutHarm) {
    disk_.put("/h\x1b[2J/model.safetensors", file_of(torch_entries()));
    for (const char *config : {"{", "{\"step\": -1}"}) {
        disk_.put("/h\x1b[2J/config.json", config);
        EXPECT_EQ(read("/h\x1b[2J"), STATUS_DATA);
        EXPECT_NE(std::string(err_.message).find("/h\\x1B[2J"), std::string::npos) << err_.message;
    }
    disk_.remove("/h\x1b[2J/config.json");
    disk_.put("/h\x1b[2J/vocab.txt", "");
    EXPECT_EQ(read("/h\x1b[2J"), STATUS_DATA);
    EXPECT_EQ(std::string(err_.message).find('\x1b'), std::string::npos) << err_.message;
    disk_.put("/h\x1b[2J/model.safetensors", "no such format");
    EXPECT_EQ(read("/h\x1b[2J"), STATUS_CORRUPT);
    EXPECT_EQ(std::string(err_.message).find('\x1b'), std::string::npos) << err_.message;
    disk_.make_directory("/e\x1b[2J");
    EXPECT_EQ(read("/e\x1b[2J"), STATUS_INPUT);
    EXPECT_EQ(std::string(err_.message).find('\x1b'), std::string::npos) << err_.message;
}

TEST_F(Import, BrokenFilesBesideAreNamed) {
    disk_.put("/hub/model.safetensors", file_of(torch_entries()));
    disk_.put("/hub/config.json", "{\"a\":");
    EXPECT_EQ(read("/hub"), STATUS_DATA);
    EXPECT_NE(std::string(err_.message).find("/hub/config.json"), std::string::npos);
    disk_.remove("/hub/config.json");
    disk_.put("/hub/vocab.txt", "");
    EXPECT_EQ(read("/hub"), STATUS_DATA);
    EXPECT_NE(std::string(err_.message).find("/hub/vocab.txt"), std::string::npos);
}

TEST_F(Import, OurOwnNamesStayAsTheyAre) {
    ASSERT_EQ(read_entries(torch_entries()), STATUS_OK);
    std::vector<Entry> ours;
    for (size_t i = 0; i < checkpoint_->tensor_count; i++) {
        const struct tensor_view &view = checkpoint_->tensors[i];
        ours.push_back({view.name, view.dtype,
                        std::vector<uint64_t>(view.shape, view.shape + view.rank),
                        bytes_of(values(view.name))});
    }
    disk_.put("/dir/ours.safetensors", file_of(ours));
    disk_.put("/dir/vocab.txt", "\n[UNK]\ngood\nbad\n");
    ASSERT_EQ(read("/dir/ours.safetensors"), STATUS_OK) << err_.message;
    EXPECT_EQ(bytes(TENSOR_VOCABULARY), "\n[UNK]\ngood\nbad\n");
    EXPECT_EQ(values("dense.weight"), ramp(80, {D, 2 * H}));
    // One that holds its words does not look around.
    ours.push_back({TENSOR_VOCABULARY, DTYPE_U8, {10}, "\n[UNK]\nx\ny"});
    disk_.put("/dir/ours.safetensors", file_of(ours));
    disk_.put("/dir/config.json", "broken");
    ASSERT_EQ(read("/dir/ours.safetensors"), STATUS_OK) << err_.message;
    EXPECT_EQ(bytes(TENSOR_VOCABULARY), "\n[UNK]\nx\ny");
}

// Files from anywhere: whatever stands in them, they are read or refused with a reason.
TEST_F(Import, ChangedFilesAreReadOrRefused) {
    std::mt19937 random(17);
    size_t misfits = 0;
    for (const std::vector<Entry> &entries : {torch_entries(), keras_entries()}) {
        const std::string good = file_of(entries);
        const size_t header =
            8 + safetensors_length(reinterpret_cast<const uint8_t *>(good.data()));
        for (int round = 0; round < 3000; round++) {
            std::string bytes = good;
            for (auto changes = 1 + random() % 3; changes > 0; changes--) {
                static const char kBytes[] = "0123456789,:[]\"./_ehlw";
                bytes[8 + random() % (header - 8)] = kBytes[random() % (sizeof kBytes - 1)];
            }
            disk_.put("/w.safetensors", bytes);
            enum status status = read("/w.safetensors");
            EXPECT_TRUE(status == STATUS_OK || status == STATUS_CORRUPT || status == STATUS_MISFIT)
                << status_text(status) << ": " << err_.message;
            EXPECT_EQ(status == STATUS_OK, err_.message[0] == '\0');
            misfits += status == STATUS_MISFIT;
        }
    }
    EXPECT_GT(misfits, 100u); // names and shapes were reached, not only the JSON
}

TEST_F(Import, WhatIsNotThereIsSaid) {
    EXPECT_EQ(read("/nowhere.safetensors"), STATUS_INPUT);
    disk_.make_directory("/empty");
    EXPECT_EQ(read("/empty"), STATUS_INPUT);
    EXPECT_NE(std::string(err_.message).find("model.safetensors"), std::string::npos);
    disk_.put("/bad.safetensors", "no such format");
    EXPECT_EQ(read("/bad.safetensors"), STATUS_CORRUPT);
}

} // namespace
