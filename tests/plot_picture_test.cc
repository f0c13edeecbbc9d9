// `cairn plot`: what it refuses, and its pictures as files; names that mean something to gnuplot or
// to a terminal do nothing.
#include <cmath>
#include <cstdint>
#include <string>
#include <sys/stat.h>
#include <vector>

#include "tests/support/plot_history.h"

namespace {

using namespace plot_history;

bool has_gnuplot() {
    return run({.program = "/bin/sh", .arguments = {"-c", "command -v gnuplot"}}).code == 0;
}

class PlotPicture : public PlotFixture {
  protected:
    // A directory for PATH with a gnuplot that does `what`.
    std::string fake_gnuplot(const std::string &what) {
        const std::string path = directory.file("bin");
        EXPECT_EQ(mkdir(path.c_str(), 0777), 0);
        write_file(path + "/gnuplot", "#!/bin/sh\n" + what + "\n");
        EXPECT_EQ(chmod((path + "/gnuplot").c_str(), 0755), 0);
        return path;
    }
};

// ---- what cannot be drawn ----

TEST_F(PlotPicture, RefusalsSayWhatIsWrong) {
    const struct {
        const char *name;
        std::string history;
        int code;
        const char *message;
    } cases[] = {
        {"empty", "", 66, "nothing to draw in "},
        {"started", start(), 66, "nothing to draw in "},
        {"nan", start() + step(10, std::nan("")), 66, "no loss is finite"},
        {"noise", start() + "noise\n" + step(10, 0.5), 65, "history.jsonl: line 2"},
        {"cut", start() + "{\"event\":\"step\",\"st\n" + step(10, 0.5), 65, "line 2"},
        {"type",
         start() + R"({"event":"step","step":3,"loss":[1]})"
                   "\n",
         65, "line 2: \"loss\" is an array: expected a number"},
        {"step",
         R"({"event":"step","loss":1})"
         "\n",
         65, "\"step\" is missing"},
        {"negative", start() + save(7, -5, 3), 65, "line 2: \"stall_us\" is -5: expected a time"},
        {"early", start() + save(7, 5, -0.5), 65, "\"durable_ms\" is -0.5"},
        {"list", "[1]\n", 65, "line 1 is an array"},
        {"other", "{\"text\":1}\n", 65, "\"event\" is missing"},
        {"zeros", start() + std::string("\0\0\n", 3), 65, "line 2"},
    };
    for (const auto &item : cases) {
        const Outcome outcome = draw({run_directory(item.name, item.history)});
        EXPECT_EQ(outcome.code, item.code) << item.name << ": " << outcome.err;
        EXPECT_TRUE(contains(outcome.err, item.message)) << item.name << ": " << outcome.err;
        EXPECT_EQ(outcome.out, "") << item.name;
    }
    const Outcome missing = draw({directory.file("nowhere")});
    EXPECT_EQ(missing.code, 66);
    EXPECT_TRUE(contains(missing.err, "nowhere/history.jsonl")) << missing.err;
}

TEST_F(PlotPicture, UsageErrors) {
    const std::string model = run_directory("m", history_of(four_epochs()));
    EXPECT_EQ(run_cairn(words("plot")).code, 2);
    for (const char *bad :
         {"--output p.gif", "--output png", "--size 639x300", "--size 640x299", "--size 800",
          "--size 800x", "--size 9000x400", "--monitor acc", "--format x"}) {
        EXPECT_EQ(plot(words(bad) + std::vector<std::string>{model}).code, 2) << bad;
    }
    const Outcome many = plot(std::vector<std::string>(9, model));
    EXPECT_EQ(many.code, 2);
    EXPECT_TRUE(contains(many.err, "at most 8")) << many.err;
    EXPECT_EQ(draw(std::vector<std::string>(8, model)).code, 0);
    EXPECT_EQ(
        draw(std::vector<std::string>(8, model) + std::vector<std::string>{"--model-dir", model})
            .code,
        2);
}

// ---- pictures ----

uint32_t big_endian(const std::string &bytes, size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
    }
    return value;
}

// CRC-32 as the PNG specification's annex D describes it, bit by bit.
uint32_t crc32_of(const std::string &bytes) {
    uint32_t crc = 0xFFFFFFFF;
    for (unsigned char byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? 0xEDB88320 ^ crc >> 1 : crc >> 1;
        }
    }
    return ~crc;
}

// "width x height" of a PNG whose chunks are all whole; else what is wrong.
std::string png_size(const std::string &bytes) {
    if (bytes.compare(0, 8, "\x89PNG\r\n\x1A\n", 8) != 0) {
        return "no PNG";
    }
    std::string size;
    for (size_t at = 8; at + 12 <= bytes.size();) {
        const size_t length = big_endian(bytes, at);
        if (at + 12 + length > bytes.size()) {
            return "cut";
        }
        const std::string chunk = bytes.substr(at + 4, 4 + length);
        if (crc32_of(chunk) != big_endian(bytes, at + 8 + length)) {
            return "bad checksum";
        }
        if (chunk.compare(0, 4, "IHDR") == 0) {
            size =
                std::to_string(big_endian(chunk, 4)) + "x" + std::to_string(big_endian(chunk, 8));
        }
        if (chunk == "IEND") {
            return at + 12 == bytes.size() ? size : "something behind the end";
        }
        at += 12 + length;
    }
    return "no end";
}

TEST_F(PlotPicture, PicturesAreWholeAndOfTheSizeAskedFor) {
    if (!has_gnuplot()) {
        GTEST_SKIP() << "there is no gnuplot (Debian: gnuplot-nox)";
    }
    const std::string model = run_directory("m", history_of(four_epochs()) + save(7, 90, 3));
    const Outcome curves = plot({model});
    EXPECT_EQ(curves.code, 0) << curves.err;
    EXPECT_EQ(curves.err, "Picture: " + model + "/curves.png\n");
    EXPECT_EQ(png_size(read_file(model + "/curves.png")), "1000x420");
    EXPECT_EQ(plot({model}, {{"LC_ALL", "POSIX"}}).err, curves.err); // no words of gnuplot's
    const Outcome saves = plot({"--saves", model, "--size", "640x300"});
    EXPECT_EQ(saves.err, "Picture: " + model + "/saves.png\n");
    EXPECT_EQ(png_size(read_file(model + "/saves.png")), "640x300");
    EXPECT_EQ(plot({model, "--size", "8000x300", "--output", directory.file("s.PNG")}).code, 0);
    EXPECT_EQ(png_size(read_file(directory.file("s.PNG"))), "8000x300");
    EXPECT_EQ(list_directory(model),
              (std::vector<std::string>{"curves.png", "history.jsonl", "saves.png"}));
}

// Names may hold anything; what gnuplot could obey stays a name.
TEST_F(PlotPicture, NamesAreNeverCommands) {
    if (!has_gnuplot()) {
        GTEST_SKIP() << "there is no gnuplot (Debian: gnuplot-nox)";
    }
    const std::string name =
        "it's <a> \"run\" & `touch pwned`'; system('touch pwned')\n!touch pwned "
        "@x {a_b}^2 \xC3\xA9 \xFF\x1B[31m";
    const std::string model = run_directory(name, history_of(four_epochs()));
    const std::string other = run_directory("b", history_of(four_epochs()));
    const std::string picture = "|touch pwned;.svg";
    const Outcome outcome =
        run({.program = {},
             .arguments = {"plot", model, other, "--output", picture, "--size", "2000x420"},
             .environment = {{"LC_ALL", "C.UTF-8"}},
             .directory = directory.path()});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_FALSE(contains(outcome.out, "\033"));
    EXPECT_FALSE(exists(directory.file("pwned")));
    const std::string svg = read_file(directory.file(picture));
    EXPECT_TRUE(contains(svg, "width=\"2000\" height=\"420\"")) << svg.substr(0, 400);
    EXPECT_TRUE(contains(svg, "</svg>"));
    EXPECT_TRUE(contains(svg, "it's &lt;a> "));
    EXPECT_TRUE(contains(svg, "&amp; `touch pwned`'; system('touch pwned')\\x0A!touch pwned @x "
                              "{a_b}^2 \xC3\xA9 \\xFF\\x1B[31m"));
    EXPECT_EQ(plot({model}).code, 0);
    EXPECT_EQ(png_size(read_file(model + "/curves.png")), "1000x420");
}

// The script that gnuplot gets.
TEST_F(PlotPicture, LongNamesAndLargeNumbersHaveRoom) {
    const std::string got = directory.file("script");
    const std::string path =
        fake_gnuplot("cat >'" + got + "'; printf '%s' \"$LC_ALL\"") + ":/usr/bin:/bin";
    const auto script_of = [&](const std::vector<std::string> &arguments) {
        const Outcome outcome =
            plot(arguments + std::vector<std::string>{"--output", directory.file("p.png")},
                 {{"PATH", path}, {"LC_ALL", "C"}});
        EXPECT_EQ(outcome.code, 0) << outcome.err;
        return read_file(got);
    };
    std::vector<std::string> runs;
    for (char letter = 'a'; letter < 'i'; letter++) {
        runs.push_back(run_directory(letter + std::string(100, 'n') + "-" + letter,
                                     history_of(four_epochs())));
    }
    for (const char *size : {"--size 640x300", "--size 1000x420"}) {
        const std::string script = script_of(runs + words(size));
        for (char letter = 'a'; letter < 'i'; letter++) {
            const size_t end = script.find(std::string("nnnn-") + letter + "'");
            ASSERT_NE(end, std::string::npos) << size << script;
            const std::string title = script.substr(0, end + 6);
            EXPECT_LE(title.size() - title.rfind("'..."), 640u / 9) << title;
        }
        const std::string best =
            contains(size, "640") ? "'best epoch'" : "'best epoch by val_loss'";
        EXPECT_TRUE(contains(script, best)) << script;
    }
    EXPECT_EQ(read_file(directory.file("p.png")), "C.UTF-8"); // not the user's locale
    // Times from microseconds to minutes.
    std::string history = start();
    for (uint64_t i = 0; i < 200; i++) {
        history += save(i, i % 2 == 0 ? 3 : 2e7, i % 2 == 0 ? 0.5 : 123456);
    }
    const std::string script = script_of({"--saves", run_directory("slow", history)});
    for (const char *text : {"'10M'", "'100k'", "'p99 20 s'", "'p50 3 us'", "'p99 123 s'"}) {
        EXPECT_TRUE(contains(script, text)) << text << script;
    }
    // Long curves have shapes, but only some.
    const std::string many =
        script_of({run_directory("m", history_of(std::vector<Epoch>(300, four_epochs()[0])))});
    EXPECT_TRUE(contains(many, " pt 5 ps 0.80 pi 10 ")) << many.substr(many.size() - 2000);
}

TEST_F(PlotPicture, EveryShapeOfHistoryCanBeAPicture) {
    if (!has_gnuplot()) {
        GTEST_SKIP() << "there is no gnuplot (Debian: gnuplot-nox)";
    }
    std::vector<Epoch> gaps(4, {0.5, 0.6, std::nan(""), 0.7});
    gaps[1].val_loss = 0.4;
    std::string crowded = start();
    for (uint64_t i = 0; i < 300; i++) {
        crowded += epoch(i, {0.5, 0.6, 0.4, 0.7}) + start((i + 1) * 100, "\"x\"");
    }
    const struct {
        const char *name;
        std::string history;
    } cases[] = {
        {"batch", start() + step(10, 0.5)},
        {"flat", start() + epoch(0, {0.5, 1, 0.5, 1}) + epoch(1, {0.5, 1, 0.5, 1})},
        {"gaps", history_of(gaps)},
        {"far", start(900, "\"x\"") + epoch(9, four_epochs()[0]) + epoch(10, four_epochs()[1])},
        {"huge", start() + epoch(0, {1e-9, 0, 1e30, 0}) + epoch(1, {1e9, 0, 1, 0})},
        {"crowded", crowded},
    };
    std::vector<std::string> all;
    for (const auto &item : cases) {
        all.push_back(run_directory(item.name, item.history));
        const Outcome outcome = plot({all.back()});
        EXPECT_EQ(outcome.code, 0) << item.name << ": " << outcome.err;
        EXPECT_EQ(png_size(read_file(all.back() + "/curves.png")), "1000x420") << item.name;
    }
    all.erase(all.begin()); // without an epoch
    EXPECT_EQ(plot(all).code, 0);
}

TEST_F(PlotPicture, WithoutGnuplotThereIsTheDrawing) {
    const std::string model = run_directory("m", history_of(four_epochs()));
    const Outcome by_itself = plot({model}, {{"PATH", directory.path()}});
    EXPECT_EQ(by_itself.code, 0) << by_itself.err;
    EXPECT_EQ(by_itself.out, draw({model}).out);
    EXPECT_TRUE(contains(by_itself.err, "apt-get install gnuplot-nox")) << by_itself.err;
    const Outcome asked =
        plot({model, "--output", directory.file("p.png")}, {{"PATH", directory.path()}});
    EXPECT_EQ(asked.code, 73);
    EXPECT_TRUE(contains(asked.err, "apt-get install gnuplot-nox")) << asked.err;
    EXPECT_EQ(asked.out, by_itself.out);
    EXPECT_EQ(list_directory(model), (std::vector<std::string>{"history.jsonl"}));
}

TEST_F(PlotPicture, AFailedPictureLeavesTheOldOne) {
    const std::string model = run_directory("m", history_of(four_epochs()));
    write_file(model + "/curves.png", "old");
    const std::string path = fake_gnuplot("printf half; exit 3") + ":/usr/bin:/bin";
    const Outcome failed = plot({model}, {{"PATH", path}});
    EXPECT_EQ(failed.code, 74);
    EXPECT_TRUE(contains(failed.err, "gnuplot has failed")) << failed.err;
    EXPECT_EQ(read_file(model + "/curves.png"), "old");
    EXPECT_EQ(list_directory(model), (std::vector<std::string>{"curves.png", "history.jsonl"}));
}

TEST_F(PlotPicture, ADirectoryThatCannotTakeThePicture) {
    const std::string model = run_directory("m", history_of(four_epochs()));
    ASSERT_EQ(mkdir((model + "/curves.png").c_str(), 0777), 0); // also root cannot replace that
    const std::string path = fake_gnuplot("cat >/dev/null; printf picture") + ":/usr/bin:/bin";
    const Outcome refused = plot({model}, {{"PATH", path}});
    EXPECT_EQ(refused.code, 73);
    EXPECT_TRUE(contains(refused.err, "--output FILE")) << refused.err;
    EXPECT_TRUE(contains(refused.out, "validation"));
    const Outcome nowhere = plot({model, "--output", directory.file("no/p.svg")}, {{"PATH", path}});
    EXPECT_EQ(nowhere.code, 73) << nowhere.err;
    const Outcome elsewhere = plot({model, "--output", directory.file("p.svg")}, {{"PATH", path}});
    EXPECT_EQ(elsewhere.code, 0) << elsewhere.err;
    EXPECT_EQ(read_file(directory.file("p.svg")), "picture");
    EXPECT_EQ(plot({model, "--output", "none"}, {{"PATH", path}}).code, 0);
}

} // namespace
