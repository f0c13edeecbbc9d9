// make_seeds DIRECTORY: writes the inputs that fuzzing starts from, one folder a target. The
// ordinary suite replays them.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/support/checkpoint_bytes.h"

namespace {

namespace fs = std::filesystem;

struct Seeds {
    fs::path directory;
    int count = 0;

    void add(const std::string &bytes) {
        fs::create_directories(directory);
        std::ofstream file(directory / ("seed-" + std::to_string(count++)), std::ios::binary);
        file << bytes;
    }
};

void checkpoints(Seeds seeds) {
    const Tensor weight = make_tensor<float>("w", DTYPE_F32, {1, 2}, {1.0f, -2.0f});
    const Tensor step = make_tensor<int64_t>("state.step", DTYPE_I64, {}, {7});
    const Tensor words = make_tensor<uint8_t>("vocabulary", DTYPE_U8, {3}, {'\n', 'a', '\n'});
    const Tensor rows = make_tensor<double>("history.epochs", DTYPE_F64, {2, 2}, {0.5, 1, 2, 3});
    const Tensor empty = make_tensor<float>("nothing", DTYPE_F32, {0, 3}, {});
    const Tensor long_one =
        make_tensor<uint8_t>("long", DTYPE_U8, {2, 2, 2, 250}, std::vector<uint8_t>(2000, 'x'));
    for (const std::vector<Tensor> &tensors : std::vector<std::vector<Tensor>>{
             {}, {weight}, {weight, step, words, rows, empty}, {long_one}}) {
        const std::string bytes = encode(tensors, {{"note", "caf\xC3\xA9"}, {"step", "7"}}).bytes;
        seeds.add(bytes);
        seeds.add(decompress_all(bytes));
    }
    seeds.add(assemble(safetensors_header("{\"__metadata__\":{\"format_version\":\"2\"}}"), ""));
    seeds.add(assemble(safetensors_header("{}"), ""));
    // Two data frames: 4 MiB and some of one value.
    const std::vector<uint8_t> many((size_t{4} << 20) + 100, 0);
    seeds.add(encode({make_tensor<uint8_t>("many", DTYPE_U8, {many.size()}, many)}).bytes);
}

void headers(Seeds seeds) {
    seeds.add("{}");
    seeds.add("{\"__metadata__\":{\"format_version\":\"1\",\"digest.a\":\"00\"}}");
    seeds.add("{" + json_entry("a", "U8", "[8]", "[0,8]") + "," +
              json_entry("b", "F32", "[2,1]", "[8,16]") + "," +
              json_entry("c", "F64", "[]", "[16,24]") + "," +
              json_entry("d", "I64", "[0]", "[24,24]") + "}   ");
    seeds.add("{" + json_entry("a", "F32", "[4611686018427387904,4]", "[0,0]") + "}");
    seeds.add("{" + json_entry("a", "U8", "[8]", "[4,12]") + "}");
}

void states(Seeds seeds) {
    const std::string name = "model.ckpt-100.safetensors.zst";
    seeds.add("model_checkpoint_path: \"" + name + "\"\n");
    seeds.add(
        "model_checkpoint_path: \"" + name + "\"\nall_model_checkpoint_paths: \"" + name +
        "\"\nall_model_checkpoint_timestamps: 1718000000.25\nlast_preserved_timestamp: 1.5e9\n");
    seeds.add(
        "# a comment\nmodel_checkpoint_path : 'model.ckpt-' \"\\x31\\060.safetensors.zst\" ;");
    seeds.add("model_checkpoint_path: \"../../etc/passwd\"\n");
}

void tables(Seeds seeds) {
    seeds.add(",text,label\nA film,1\n\"dull, \"\"very\"\"\r\ntwo lines\",neg\n");
    seeds.add("\1text,label\r\nA film,1\r\n\"dull, \"\"very\"\"\ntwo lines\",neg\r\n\n");
    seeds.add("\1\xEF\xBB\xBFid,Label , text\n7,positive,\n8,0,\"\"\n");
    seeds.add("\2text\tlabel\nA film\t1\ndull\tNEGATIVE");
}

void objects(Seeds seeds) {
    seeds.add("{\"text\": \"a film\", \"label\": 1}\n{\"label\": \"neg\", \"text\": "
              "\"\\u00e9\\n\", \"id\": [7]}\n");
    seeds.add("\xEF\xBB\xBF{\"text\":\"\",\"label\":0.0}\r\n{\"text\":\"x\",\"label\":\"Positive\"}"
              "\r\n\r\n");
    seeds.add("{\"text\": \"a\", \"text\": \"b\", \"label\": 1}\n");
    seeds.add("[1,2]\nnull\n");
}

void configurations(Seeds seeds) {
    seeds.add("data = demo\n; a comment\nlearning-rate = 1e-3\nsave-best-only = on\n");
    seeds.add("model-dir = \"a\\x3b b\"\\\n    \" and more \\\"\\\\\"\nvocabulary =\n");
    seeds.add("[section]\nepochs = 3\n");
    seeds.add("epochs: 3\nseed=1 ; two\n indented = 1\n");
}

void vocabularies(Seeds seeds) {
    seeds.add("\n[UNK]\nthe\ncaf\xC3\xA9\n");
    seeds.add("the\r\nmovie\r\nwas");
    seeds.add("the\n\nwas\n");
    seeds.add("the\nthe\n");
}

void texts(Seeds seeds) {
    seeds.add(std::string(1, '\0') + "The movie was cool. It's <br /> great\xC3\x89!");
    seeds.add("\1The <b>movie</b> a < b <!-- x --> <unclosed");
    seeds.add("\7a b a" + std::string(1, '\0') + "c b" + std::string(1, '\0') +
              "[UNK] a\tb\vc\fd\re");
    seeds.add("\1" + std::string(600, 'a') + " " + std::string(600, '<') + "b>" +
              std::string(1100, ' ') + "end");
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: make_seeds DIRECTORY\n");
        return 2;
    }
    const fs::path root = argv[1];
    checkpoints({root / "checkpoint"});
    headers({root / "safetensors"});
    states({root / "state"});
    tables({root / "csv"});
    objects({root / "jsonl"});
    configurations({root / "config"});
    vocabularies({root / "vocabulary"});
    texts({root / "tokenizer"});
    return 0;
}
