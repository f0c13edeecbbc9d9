// What no exported model reaches of an ONNX file: sizes beyond the format, failing disks, scopes,
// left-out names. That real models are right is tests/python/onnx_export.py's affair.
#include <errno.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>
#include <vector>

#include "io/export.h"
#include "io/onnx_graph.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"

namespace {

const struct onnx_about kAbout = {8, 17, 0, 0, "test", "", nullptr, 0};

enum status encode(struct onnx_graph *graph, std::string *out, struct error *err) {
    uint8_t *bytes = nullptr;
    size_t size = 0;
    enum status status = onnx_graph_encode(graph, &kAbout, &bytes, &size, err);
    if (status == STATUS_OK) {
        out->assign(reinterpret_cast<char *>(bytes), size);
    }
    free(bytes);
    return status;
}

// A protobuf string field: its number and kind, its length, its bytes.
std::string field(int number, const std::string &bytes) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

// V = 3, E = 2, H = 2, D = 1, all weights zero.
class SmallModel {
  public:
    SmallModel() {
        add("embedding.weight", {3, 2});
        for (const char *end : {"l0", "l0_reverse"}) {
            add(std::string("lstm.weight_ih_") + end, {8, 2});
            add(std::string("lstm.weight_hh_") + end, {8, 2});
            add(std::string("lstm.bias_") + end, {8});
        }
        add("dense.weight", {1, 4});
        add("dense.bias", {1});
        add("output.weight", {1, 1});
        add("output.bias", {1});
    }

    struct export_model model() const {
        struct export_model out = {};
        out.vocabulary_size = 3;
        out.embedding_size = out.hidden_size = 2;
        out.dense_size = 1;
        out.weights = weights_.data();
        out.weight_count = weights_.size();
        out.tokens = tokens_;
        out.label_names[0] = "no";
        out.label_names[1] = "yes";
        return out;
    }

  private:
    void add(const std::string &name, const std::vector<uint64_t> &shape) {
        weights_.push_back(tensor_make(name.c_str(), DTYPE_F32, const_cast<float *>(zeros_),
                                       static_cast<uint32_t>(shape.size()), shape.data()));
    }

    const float zeros_[16] = {};
    const char *const tokens_[3] = {"", "[UNK]", "word"};
    std::vector<struct tensor_view> weights_;
};

} // namespace

TEST(OnnxGraph, ScopesAndNamesThatAreLeftOut) {
    struct error err = {};
    std::string bytes;
    struct onnx_graph *graph = onnx_graph_create("g");
    onnx_graph_scope(graph, "head_%d", 7);
    onnx_graph_node(graph, "ai.onnx.ml:Op", "- .out", "a  %s -", ".in");
    EXPECT_STREQ(onnx_graph_name(graph, ".sum"), "head_7.sum");
    EXPECT_STREQ(onnx_graph_name(graph, "sum"), "sum");
    ASSERT_EQ(encode(graph, &bytes, &err), STATUS_OK) << err.message;
    const std::string node = field(1, "a") + field(1, "head_7.in") + field(1, "") + field(2, "") +
                             field(2, "head_7.out") + field(3, "head_7.out") + field(4, "Op") +
                             field(7, "ai.onnx.ml");
    EXPECT_NE(bytes.find(field(1, node)), std::string::npos);
    onnx_graph_free(graph);
}

TEST(OnnxGraph, MoreThanTwoGibibytesAreRefused) {
    const float nothing = 0; // never read: the size alone decides
    struct error err = {};
    std::string bytes;
    struct onnx_graph *graph = onnx_graph_create("g");
    onnx_graph_weight(graph, "w", 2, std::vector<uint64_t>{1 << 20, 512}.data(), &nothing);
    EXPECT_EQ(encode(graph, &bytes, &err), STATUS_DATA);
    EXPECT_NE(std::string(err.message).find("2 GiB"), std::string::npos) << err.message;
    onnx_graph_free(graph);
}

TEST(OnnxGraph, WithoutMemoryNothingIsDone) {
    struct error err = {};
    std::string bytes;
    const uint64_t too_large[] = {UINT64_MAX / 4}; // refused before malloc is asked
    struct onnx_graph *graph = onnx_graph_create("g");
    EXPECT_EQ(onnx_graph_new_weight(graph, "w", 1, too_large), nullptr);
    onnx_graph_node(graph, "Relu", "y", "x");
    onnx_graph_int(graph, "axis", 1);
    onnx_graph_body(graph, "body", onnx_graph_create_body(graph, "b"));
    EXPECT_EQ(encode(graph, &bytes, &err), STATUS_MEMORY);
    onnx_graph_free(graph);
    onnx_graph_node(nullptr, "Relu", "y", "x");
    onnx_graph_int(nullptr, "axis", 1);
    EXPECT_EQ(encode(nullptr, &bytes, &err), STATUS_MEMORY);
    onnx_graph_free(nullptr);
}

// Whichever call fails: the old file or the whole new one, and no temporary.
TEST(ExportOnnx, AFailingDiskLeavesTheOldFile) {
    const SmallModel small;
    const struct export_model model = small.model();
    for (const bool with_text : {false, true}) {
        MemoryFiles good;
        struct error err = {};
        good.make_directory("/out");
        ASSERT_EQ(export_onnx(good.table(), &model, "/out/m.onnx", with_text, &err), STATUS_OK)
            << err.message;
        const std::string whole = *good.get("/out/m.onnx");
        ASSERT_GT(whole.size(), 500u);
        size_t failed = 0;
        for (size_t nth = 1;; nth++) {
            MemoryFiles disk;
            disk.put("/out/m.onnx", "old");
            FaultyFiles files(disk.table());
            files.fail(nth, ENOSPC, FaultyFiles::Once);
            const enum status status =
                export_onnx(files.table(), &model, "/out/m.onnx", with_text, &err);
            if (files.failures() == 0) {
                break;
            }
            failed++;
            const std::string left = *disk.get("/out/m.onnx");
            EXPECT_TRUE(left == "old" || left == whole) << files.last_failure();
            EXPECT_TRUE(status == STATUS_IO || status == STATUS_OUTPUT || left == whole)
                << files.last_failure();
            EXPECT_EQ(disk.names("/out").size(), 1u) << files.last_failure();
            EXPECT_EQ(disk.open_descriptors(), 0u) << files.last_failure();
        }
        EXPECT_GE(failed, 5u);
    }
}
