// The state file's text: TensorFlow's, everything the format allows, and everything hostile.
#include <gtest/gtest.h>
#include <string.h>

#include "io/store.h"
#include "tests/support/ring.h"

namespace {

// ---- reading ----

struct Parsed {
    enum status status;
    std::string message;
    std::vector<std::string> names;
    std::vector<double> times;
    double last_preserved = -1;
};

Parsed parse(const std::string &text) {
    Parsed out;
    struct error err = {};
    struct store_state state;
    out.status = store_state_parse(text.data(), text.size(), &state, &err);
    out.message = err.message;
    for (size_t i = 0; i < state.count; i++) {
        out.names.emplace_back(state.names[i]);
        out.times.push_back(state.timestamps[i]);
    }
    out.last_preserved = state.last_preserved;
    store_state_free(&state);
    return out;
}

// As tf.train.CheckpointManager writes it.
TEST(StoreState, ReadsWhatTensorFlowWrites) {
    Parsed got = parse("model_checkpoint_path: \"model.ckpt-200.safetensors.zst\"\n"
                       "all_model_checkpoint_paths: \"model.ckpt-100.safetensors.zst\"\n"
                       "all_model_checkpoint_paths: \"model.ckpt-200.safetensors.zst\"\n"
                       "all_model_checkpoint_timestamps: 1718000000.1234567\n"
                       "all_model_checkpoint_timestamps: 1718000600.0\n"
                       "last_preserved_timestamp: 1717990000.5\n");
    ASSERT_EQ(got.status, STATUS_OK) << got.message;
    EXPECT_EQ(got.names, (std::vector<std::string>{checkpoint_name(100), checkpoint_name(200)}));
    EXPECT_EQ(got.times, (std::vector<double>{1718000000.1234567, 1718000600.0}));
    EXPECT_EQ(got.last_preserved, 1717990000.5);
}

// The rest of protobuf's text format that can stand in such a file.
TEST(StoreState, ReadsTheWholeTextFormat) {
    Parsed got = parse("# edited by hand\n"
                       "last_preserved_timestamp:12,all_model_checkpoint_paths : 'model.ckpt-"
                       "\\061.safetensors.zst' ;\r\n\t"
                       "all_model_checkpoint_paths:\"model\\x2eckpt-2\" '.safe' # cut\n"
                       "  \"tensors.zs\\164\"\n"
                       "model_checkpoint_path: \"model.ckpt-2.safetensors.zst\"");
    ASSERT_EQ(got.status, STATUS_OK) << got.message;
    EXPECT_EQ(got.names, (std::vector<std::string>{checkpoint_name(1), checkpoint_name(2)}));
    EXPECT_EQ(got.times, (std::vector<double>{0, 0}));
    EXPECT_EQ(got.last_preserved, 12);
}

TEST(StoreState, AFileWithOnlyTheNewestHasAListOfOne) {
    Parsed got = parse("model_checkpoint_path: \"model.ckpt-5.safetensors.zst\"\n");
    ASSERT_EQ(got.status, STATUS_OK) << got.message;
    EXPECT_EQ(got.names, std::vector<std::string>{checkpoint_name(5)});
    EXPECT_EQ(got.times, std::vector<double>{0});
    EXPECT_EQ(got.last_preserved, 0);
}

TEST(StoreState, RefusesEverythingElse) {
    const std::string good = "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\"\n";
    ASSERT_EQ(parse(good).status, STATUS_OK);
    const std::string bad[] = {
        "",
        "\n\n# nothing\n",
        std::string("\0", 1),
        "model_checkpoint_path",
        "model_checkpoint_path:",
        "model_checkpoint_path: model.ckpt-5.safetensors.zst",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst'",
        "model_checkpoint_path: \"model.ckpt-5.safe\ntensors.zst\"",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\\",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\\\"",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\\0\"",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\\q\"",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\\777\"",
        "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\\x\"",
        "model_checkpoint_path: \"/run/model.ckpt-5.safetensors.zst\"",
        "model_checkpoint_path: \"../model.ckpt-5.safetensors.zst\"",
        "model_checkpoint_path: \"./model.ckpt-5.safetensors.zst\"",
        "model_checkpoint_path: \"a/../model.ckpt-5.safetensors.zst\"",
        "model_checkpoint_path: \"model.ckpt-5\"",
        "model_checkpoint_path: \"model.ckpt-007.safetensors.zst\"",
        "model_checkpoint_path: \"best.safetensors.zst\"",
        "model_checkpoint_path: \"\"",
        "model_checkpoint_path: \"" + std::string(100000, 'x') + "\"",
        std::string(100000, 'x') + ": 1",
        good + "all_model_checkpoint_paths: \"/etc/passwd\"\n",
        good + "all_model_checkpoint_timestamps: 1\n", // no paths that they would belong to
        good + "all_model_checkpoint_paths: \"model.ckpt-5.safetensors.zst\"\n"
               "all_model_checkpoint_timestamps: 1\nall_model_checkpoint_timestamps: 2\n",
        good + "last_preserved_timestamp: nan\n",
        good + "last_preserved_timestamp: inf\n",
        good + "last_preserved_timestamp: -1\n",
        good + "last_preserved_timestamp: 1e999\n",
        good + "last_preserved_timestamp: \"1\"\n",
        good + "last_preserved_timestamp: 1.5x\n",
        good + "last_preserved_timestamp:\n",
        good + "surprise: 1\n",
        good + "{}",
        good + std::string("\0", 1),
        good + std::string(STORE_STATE_BYTES_MAX, '\n'),
    };
    for (const std::string &text : bad) {
        Parsed got = parse(text);
        EXPECT_EQ(got.status, STATUS_DATA) << text.substr(0, 200);
        EXPECT_NE(got.message.find("line "), std::string::npos) << got.message;
        EXPECT_TRUE(got.names.empty());
    }
}

// Every cut of a good text, and every byte of it replaced, is parsed or refused; nothing but ring
// names comes out.
TEST(StoreState, CutsAndFlipsGiveRingNamesOrNothing) {
    std::string good = "model_checkpoint_path: \"model.ckpt-20.safetensors.zst\"\n"
                       "all_model_checkpoint_paths: 'model.ckpt-1\\060.safetensors.zst'\n"
                       "all_model_checkpoint_paths: \"model.ckpt-20.safetensors.zst\"\n"
                       "all_model_checkpoint_timestamps: 1.5e3\n"
                       "all_model_checkpoint_timestamps: 2000\n";
    ASSERT_EQ(parse(good).status, STATUS_OK);
    size_t refused = 0;
    auto look = [&](const std::string &text) {
        Parsed got = parse(text);
        refused += got.status != STATUS_OK;
        for (const std::string &name : got.names) {
            uint64_t step;
            EXPECT_TRUE(store_parse_name(name.c_str(), &step)) << name;
            EXPECT_EQ(name.find('/'), std::string::npos);
        }
    };
    for (size_t i = 0; i < good.size(); i++) {
        look(good.substr(0, i));
        for (int byte = 0; byte < 256; byte++) {
            std::string text = good;
            text[i] = static_cast<char>(byte);
            look(text);
        }
    }
    EXPECT_GT(refused, good.size() * 100);
}

// ---- writing ----

TEST(StoreState, WritesTensorFlowsText) {
    char names[2][64];
    double times[2] = {1718000000.25, 1718000600.1};
    strcpy(names[0], checkpoint_name(0).c_str());
    strcpy(names[1], checkpoint_name(128).c_str());
    struct store_state state = {names, times, 2, 1717990000.5};
    struct text text = {};
    store_state_format(&state, &text);
    EXPECT_STREQ(text.bytes, "model_checkpoint_path: \"model.ckpt-128.safetensors.zst\"\n"
                             "all_model_checkpoint_paths: \"model.ckpt-0.safetensors.zst\"\n"
                             "all_model_checkpoint_paths: \"model.ckpt-128.safetensors.zst\"\n"
                             "all_model_checkpoint_timestamps: 1718000000.25\n"
                             "all_model_checkpoint_timestamps: 1718000600.1\n"
                             "last_preserved_timestamp: 1717990000.5\n");
    text_clear(&text);
    state.last_preserved = 0;
    store_state_format(&state, &text);
    EXPECT_EQ(strstr(text.bytes, "last_preserved"), nullptr);
    text_free(&text);
}

} // namespace
