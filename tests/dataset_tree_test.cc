// Folders and archives: what is read, in which order, and what is refused with which status and
// place.
#include <errno.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "host/base/stop.h"
#include "tests/support/archive_bytes.h"
#include "tests/support/dataset_reading.h"

namespace {

namespace fs = std::filesystem;

using Folder = DatasetTest;
using Archive = DatasetTest;

// ---- folders ----

TEST_F(Folder, BothPartsAndNames) {
    std::string path = make_tree("data");
    Read train = read(path), test = read(path + "/", DATASET_TEST);
    ASSERT_EQ(train.result, STATUS_OK) << train.message;
    ASSERT_EQ(test.result, STATUS_OK) << test.message;
    EXPECT_TRUE(train.has_test);
    std::sort(train.examples.begin(), train.examples.end());
    std::sort(test.examples.begin(), test.examples.end());
    EXPECT_EQ(train.examples, (Examples{{"bad one", 0}, {"good one", 1}}));
    EXPECT_EQ(test.examples, (Examples{{"bad eight\n", 0}, {"good seven", 1}}));
    EXPECT_EQ(train.names[0], "neg");
    EXPECT_EQ(train.names[1], "pos");
    EXPECT_EQ(train.note, "");
}

TEST_F(Folder, BelowOneTopFolder) {
    make_tree("outer/aclImdb");
    file("outer/README", "x");
    Read got = read(directory.file("outer"));
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples.size(), 2u);
    EXPECT_TRUE(got.has_test);
    EXPECT_TRUE(has(got.note, "not used: README"));
    make_tree("outer/second");
    got = read(directory.file("outer"));
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "two data sets"));
}

TEST_F(Folder, WithoutTestPart) {
    file("d/train/pos/1.txt", "a");
    file("d/train/neg/1.txt", "b");
    EXPECT_FALSE(read(directory.file("d")).has_test);
    Read got = read(directory.file("d"), DATASET_TEST);
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "no test part"));
}

TEST_F(Folder, OtherEntriesAreReportedInOneLine) {
    std::string path = make_tree("d");
    for (int i = 0; i < 5; i++) {
        file("d/train/unsup/" + std::to_string(i) + ".txt", "x");
    }
    file("d/train/labeledBow.feat", "x");
    file("d/train/pos/notes.md", "x");
    file("d/train/pos/.hidden.txt", "x");
    file("d/imdb.vocab", "x");
    Read got = read(path);
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples.size(), 2u);
    EXPECT_EQ(got.note, path + ": not used: imdb.vocab, train/pos other than *.txt (2 entries), "
                               "train/labeledBow.feat, train/unsup (5 entries)");
}

TEST_F(Folder, BaseOrderMixesClassesAndDependsOnNothingElse) {
    std::set<std::string> wanted;
    for (int i = 0; i < 300; i++) {
        for (const char *name : {"pos", "neg"}) {
            std::string text = std::string(name) + std::to_string(i);
            file("d/train/" + std::string(name) + "/" + std::to_string(i) + "_7.txt", text);
            wanted.insert(text);
        }
    }
    Read got = read(directory.file("d"));
    ASSERT_EQ(got.examples.size(), 600u);
    std::set<std::string> seen;
    unsigned positive = 0;
    for (size_t i = 0; i < 600; i++) {
        seen.insert(got.examples[i].first);
        positive += i < 200 ? got.examples[i].second : 0;
    }
    EXPECT_EQ(seen, wanted);
    EXPECT_GT(positive, 70u); // 100 expected; the standard deviation is about 6
    EXPECT_LT(positive, 130u);
    EXPECT_EQ(read(directory.file("d")).examples, got.examples);
}

TEST_F(Folder, Refusals) {
    Read got = read(directory.file("nothing"));
    EXPECT_EQ(got.result, STATUS_INPUT);
    EXPECT_EQ(status_exit_code(got.result), 66);
    EXPECT_TRUE(has(got.message, directory.file("nothing")));

    fs::create_directories(directory.file("empty"));
    got = read(directory.file("empty"));
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "expected train/pos/*.txt"));

    file("a/train/pos/1.txt", "x");
    got = read(directory.file("a"));
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "a/train: no folder neg"));

    fs::create_directories(directory.file("a/train/neg"));
    got = read(directory.file("a"));
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "no example of class 0"));

    file("a/train/neg/1.txt", std::string("line\nwith a \0", 13));
    got = read(directory.file("a"));
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, directory.file("a/train/neg/1.txt") + ": line 2"));
    EXPECT_TRUE(has(got.message, "NUL"));

    file("a/train/neg/1.txt", std::string((16 << 20) + 1, 'a'));
    got = read(directory.file("a"));
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "16 MiB"));
    file("a/train/neg/1.txt", std::string(16 << 20, 'a'));
    EXPECT_EQ(read(directory.file("a")).result, STATUS_OK);
}

TEST_F(Folder, UnreadableFiles) {
    std::string path = make_tree("d");
    std::string link = path + "/train/neg/2.txt";
    ASSERT_EQ(symlink("/nonexistent", link.c_str()), 0);
    Read got = read(path);
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, link));
    fs::remove(link);
    fs::create_directories(link);
    got = read(path);
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, link));

    // Root may read everything, so "permission denied" and a bad disk come from the table.
    fs::remove(link);
    file_table table = file_posix;
    table.open = [](void *context, const char *name, int flags, unsigned mode) {
        return strstr(name, "neg/1.txt") != nullptr ? -EACCES
                                                    : file_posix.open(context, name, flags, mode);
    };
    got = read(path, DATASET_TRAIN, &table);
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, path + "/train/neg/1.txt"));
    table = file_posix;
    table.read = [](void *, int, void *, size_t) -> ssize_t { return -EIO; };
    EXPECT_EQ(read(path, DATASET_TRAIN, &table).result, STATUS_IO);
}

// Files are read ahead; what is reported is still the first bad one, behind all that came before.
TEST_F(Folder, FirstBadFileInOrderIsNamed) {
    std::string path = make_tree("d");
    for (int i = 1000; i < 1600; i++) {
        file("d/train/neg/" + std::to_string(i) + ".txt", std::string(2000, 'x'));
    }
    file("d/train/neg/1500.txt", std::string("a\n\0", 3));
    file("d/train/neg/1550.txt", std::string("\0", 1));
    dataset *dataset;
    ASSERT_EQ(dataset_open(&file_posix, path.c_str(), &dataset, nullptr), STATUS_OK);
    Examples pushed;
    error err = {};
    EXPECT_EQ(dataset_read(dataset, DATASET_TRAIN, collect_example, &pushed, &err), STATUS_DATA);
    EXPECT_TRUE(has(err.message, path + "/train/neg/1500.txt: line 2"));
    EXPECT_EQ(pushed.size(), 501u); // 1.txt and 1000 to 1499
    dataset_close(dataset);
}

// ---- archives ----

std::string tree_archive(const std::string &top) {
    return tar_entry(top, "", '5') + tar_entry(top + "test/neg/8.txt", "bad eight\n") +
           tar_entry(top + "test/pos/7.txt", "good seven") +
           tar_entry(top + "train/pos/1.txt", "good one") +
           tar_entry(top + "train/neg/1.txt", "bad one");
}

TEST_F(Archive, EqualsTheFolder) {
    std::string folder = make_tree("d");
    for (int i = 0; i < 50; i++) {
        file("d/train/pos/x" + std::to_string(i) + ".txt", "text " + std::to_string(i));
    }
    for (const char *top : {"d/", "./d/", "./", ""}) {
        std::string tar = top[0] == '\0' ? "" : tar_entry(top, "", '5');
        // Entries in no order at all.
        for (const char *name : {"train/pos/1.txt", "test/neg/8.txt", "train/neg/1.txt"}) {
            tar += tar_entry(top + std::string(name), read_file(folder + "/" + name));
        }
        for (int i = 49; i >= 0; i--) {
            std::string name = "train/pos/x" + std::to_string(i) + ".txt";
            tar += tar_entry(top + name, read_file(folder + "/" + name));
        }
        tar += tar_entry(top + std::string("test/pos/7.txt"), "good seven") + tar_end();
        for (const auto &[name, bytes] : std::vector<std::pair<std::string, std::string>>{
                 {"a.tar", tar},
                 {"a.tar.gz", gzip_stored(tar)},
                 {"a.tgz", gzip_stored(tar)},
                 {"a.tar.zst", zstd_long_window(tar)}}) {
            for (dataset_part part : {DATASET_TRAIN, DATASET_TEST}) {
                Read got = read(file(name, bytes), part);
                Read wanted = read(folder, part);
                ASSERT_EQ(got.result, STATUS_OK) << got.message;
                EXPECT_TRUE(got.has_test);
                EXPECT_EQ(got.examples, wanted.examples) << name << " below \"" << top << "\"";
                EXPECT_EQ(got.names[1], "pos");
                EXPECT_EQ(got.note, "");
            }
        }
    }
}

TEST_F(Archive, OtherEntriesAreReportedInOneLine) {
    std::string tar = tree_archive("aclImdb/");
    for (int i = 0; i < 3; i++) {
        tar += tar_entry("aclImdb/train/unsup/" + std::to_string(i) + ".txt", "x");
    }
    tar += tar_entry("aclImdb/README", "x") + tar_entry("aclImdb/train/pos/a.md", "x") +
           tar_entry("aclImdb/test/urls_pos.txt", "x") + tar_end();
    std::string path = file("a.tar", tar);
    EXPECT_EQ(read(path).note, path + ": not used: train/unsup (3 entries), README, "
                                      "train/pos other than *.txt");
    EXPECT_EQ(read(path, DATASET_TEST).note, path + ": not used: README, test/urls_pos.txt");
}

TEST_F(Archive, Refusals) {
    auto expect_refused = [this](const std::string &name, const std::string &bytes,
                                 const std::string &part) {
        Read got = read_content(name, bytes);
        EXPECT_EQ(got.result, STATUS_DATA) << got.message;
        EXPECT_TRUE(has(got.message, directory.file(name)));
        EXPECT_TRUE(has(got.message, part));
        EXPECT_TRUE(has(got.message, "expected"));
    };
    std::string tree = tree_archive("d/");
    expect_refused("a.tar", tar_entry("d/readme.txt", "x") + tar_end(), "no entry train/pos");
    expect_refused("b.tar", "this is no archive at all", "expected a tar file");
    expect_refused("c.tar.gz", "neither is this", "expected a tar file");
    expect_refused("d.tar",
                   tree + tar_entry("d/train/neg/2.txt", std::string("a\nb\0c", 5)) + tar_end(),
                   "entry d/train/neg/2.txt: line 2");
    expect_refused("e.tar", tree + tar_entry("d/train/neg/2.txt", "", '2', "1.txt") + tar_end(),
                   "d/train/neg/2.txt is a link");
    expect_refused("f.tar",
                   tree + tar_entry("d/train/neg/2.txt", "", '1', "d/train/neg/1.txt") + tar_end(),
                   "d/train/neg/2.txt is a link");
    expect_refused("g.tar", tree + tar_entry("d/train/neg/1.txt", "again") + tar_end(),
                   "neg/1.txt is there twice");
    expect_refused("h.tar", tree + tar_entry("other/train/neg/1.txt", "x") + tar_end(),
                   "two data sets");
    expect_refused("i.tar", tree, "end-of-archive mark");
    expect_refused("j.tar", tar_entry("train/pos/1.txt", "x") + tar_end(), "no example of class 0");
    expect_refused("k.tar",
                   tree + tar_entry("d/train/pos/2.txt", std::string((16 << 20) + 1, 'a')) +
                       tar_end(),
                   "d/train/pos/2.txt is longer");
    EXPECT_EQ(read(directory.file("none.tar")).result, STATUS_INPUT);
}

// Whatever is cut off or flipped: an error or the same examples, never others. (A flip in a file's
// bytes inside a plain tar cannot be noticed: tar has checksums of headers only.)
TEST_F(Archive, DamageIsNoticed) {
    std::string tar = tree_archive("d/") + tar_end();
    for (const auto &[name, bytes] : std::vector<std::pair<std::string, std::string>>{
             {"a.tar.gz", gzip_stored(tar)}, {"a.tar.zst", zstd_long_window(tar)}}) {
        Examples wanted = read(file(name, bytes)).examples;
        ASSERT_EQ(wanted.size(), 2u);
        int refused = 0;
        for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 200) {
            Read got = read_content(name, bytes.substr(0, size));
            refused += got.result == STATUS_DATA;
            EXPECT_TRUE(got.result == STATUS_DATA || got.examples == wanted) << size;
        }
        EXPECT_GT(refused, 50) << name;
    }
    for (size_t size = 0; size < tar.size() - 1024; size += 512) {
        EXPECT_EQ(read_content("a.tar", tar.substr(0, size)).result, STATUS_DATA) << size;
    }
}

TEST_F(Archive, FailingDiskIsAnInputOutputError) {
    std::string path = file("a.tar", tree_archive("d/") + tar_end());
    file_table table = file_posix;
    table.read = [](void *, int, void *, size_t) -> ssize_t { return -EIO; };
    Read got = read(path, DATASET_TRAIN, &table);
    EXPECT_EQ(got.result, STATUS_IO);
    EXPECT_TRUE(has(got.message, path));
}

// ---- all kinds ----

TEST_F(DatasetTest, StopSignalEndsEveryReader) {
    std::string paths[] = {make_tree("d"), file("a.tar", tree_archive("d/") + tar_end()),
                           file("a.csv", "text,label\nfine,1\ndull,0\n"),
                           file("a.jsonl", "{\"text\": \"fine\", \"label\": 1}\n"), "demo"};
    stop_raise(SIGTERM);
    for (const std::string &path : paths) {
        EXPECT_EQ(read(path).result, STATUS_STOPPED) << path;
    }
    stop_reset();
}

// The signal comes while much is left to read: reading ahead is bounded, so it is seen.
TEST_F(DatasetTest, StopSignalEndsAReadThatRuns) {
    std::string content = "text,label\n";
    while (content.size() < 4 << 20) {
        content += std::string(1000, 'a') + ",0\n" + std::string(1000, 'b') + ",1\n";
    }
    dataset *dataset;
    std::string path = file("a.csv", content);
    ASSERT_EQ(dataset_open(&file_posix, path.c_str(), &dataset, nullptr), STATUS_OK);
    auto stop_at_first = [](void *, const char *, size_t, unsigned, error *) {
        stop_raise(SIGTERM);
        return STATUS_OK;
    };
    error err = {};
    EXPECT_EQ(dataset_read(dataset, DATASET_TRAIN, stop_at_first, nullptr, &err), STATUS_STOPPED);
    EXPECT_TRUE(has(err.message, path));
    stop_reset();
    dataset_close(dataset);
}

} // namespace
