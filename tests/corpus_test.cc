// Data sets as ids in memory: the same whatever the container, and equal to a plain calculation
// done here.
#include "host/corpus.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "host/base/stop.h"
#include "tests/support/archive_bytes.h"
#include "tests/support/temporary_directory.h"

namespace {

using Ids = std::vector<uint32_t>;

struct Part {
    std::vector<Ids> ids;
    std::vector<unsigned> labels;
    uint64_t fingerprint = 0;

    explicit Part(const corpus &corpus) : fingerprint(corpus.fingerprint) {
        for (uint64_t i = 0; i < corpus.examples; i++) {
            Ids row;
            for (uint64_t at = corpus.first[i]; at < corpus.first[i + 1]; at++) {
                row.push_back(corpus.token_bytes == 2
                                  ? static_cast<const uint16_t *>(corpus.tokens)[at]
                                  : static_cast<const uint32_t *>(corpus.tokens)[at]);
            }
            ids.push_back(row);
            labels.push_back(corpus.labels[i]);
        }
        EXPECT_EQ(corpus.examples == 0 ? 0 : corpus.first[corpus.examples], corpus.token_count);
    }
    bool operator==(const Part &other) const {
        return ids == other.ids && labels == other.labels && fingerprint == other.fingerprint;
    }
};

// corpora that free themselves.
struct Loaded {
    corpora data = {};
    status result;
    error err = {};

    explicit Loaded(const corpus_request &request) {
        result = corpus_load_training(&request, &data, &err);
    }
    ~Loaded() {
        if (result == STATUS_OK) {
            corpora_free(&data);
        }
    }
    Loaded(const Loaded &) = delete;
    Loaded &operator=(const Loaded &) = delete;

    std::vector<std::string> entries() const {
        std::vector<std::string> entries;
        for (uint32_t id = 0; id < vocabulary_size(data.vocabulary); id++) {
            token entry = vocabulary_entry(data.vocabulary, id);
            entries.emplace_back(entry.bytes, entry.size);
        }
        return entries;
    }
    Part train() const { return Part(data.train); }
    Part validation() const { return Part(data.validation); }
};

const std::string demo_path = "demo";

corpus_request request_for(std::string &&) = delete; // the request borrows the path
corpus_request request_for(const std::string &path) {
    corpus_request request = {};
    request.files = &file_posix;
    request.path = path.c_str();
    request.validation_path = "";
    return request;
}

// Lower-case words separated by blanks: tokens need no tokenizer.
std::vector<std::string> words_of(const std::string &text) {
    std::istringstream in(text);
    std::vector<std::string> words;
    for (std::string word; in >> word;) {
        words.push_back(word);
    }
    return words;
}

using Texts = std::vector<std::pair<std::string, unsigned>>;

Texts random_texts(unsigned seed, size_t count, size_t kinds = 300) {
    std::mt19937 random(seed);
    Texts texts;
    for (size_t i = 0; i < count; i++) {
        std::string text;
        for (size_t words = random() % 20; words > 0; words--) {
            // Small numbers are more frequent, as in real texts.
            text += "w" + std::to_string(random() % (1 + random() % kinds)) + " ";
        }
        texts.emplace_back(text, static_cast<unsigned>(random() % 2));
    }
    texts[0].second = 0;
    texts[1].second = 1;
    return texts;
}

// The vocabulary of texts, as the rules say.
std::vector<std::string> expected_vocabulary(const Texts &texts, size_t limit) {
    std::map<std::string, int> counts;
    for (const auto &[text, label] : texts) {
        for (const std::string &word : words_of(text)) {
            counts[word]++;
        }
    }
    std::vector<std::pair<int, std::string>> order;
    for (const auto &[word, count] : counts) {
        order.emplace_back(count, word);
    }
    std::sort(order.rbegin(), order.rend());
    std::vector<std::string> entries = {"", "[UNK]"};
    for (const auto &[count, word] : order) {
        if (limit == 0 || entries.size() < limit) {
            entries.push_back(word);
        }
    }
    return entries;
}

std::vector<Ids> expected_ids(const Texts &texts, const std::vector<std::string> &entries,
                              size_t max_length = SIZE_MAX) {
    std::map<std::string, uint32_t> index;
    for (uint32_t id = 2; id < entries.size(); id++) {
        index[entries[id]] = id;
    }
    std::vector<Ids> all;
    for (const auto &[text, label] : texts) {
        Ids ids;
        for (const std::string &word : words_of(text)) {
            if (ids.size() < max_length) {
                ids.push_back(index.count(word) != 0 ? index[word] : 1);
            }
        }
        all.push_back(ids);
    }
    return all;
}

std::vector<unsigned> labels_of(const Texts &texts) {
    std::vector<unsigned> labels;
    for (const auto &[text, label] : texts) {
        labels.push_back(label);
    }
    return labels;
}

class CorpusTest : public testing::Test {
  protected:
    std::string write_csv(const std::string &name, const Texts &texts) {
        std::string content = "text,label\n";
        for (const auto &[text, label] : texts) {
            content += text + "," + std::to_string(label) + "\n";
        }
        write_file(directory.file(name), content);
        return directory.file(name);
    }

    // A folder of these texts, and a tar of the same files in another order.
    std::string write_tree(const std::string &name, const Texts &train, const Texts &test,
                           std::string *tar) {
        std::vector<std::pair<std::string, std::string>> files;
        for (const auto &[part, texts] : {std::pair("train", &train), std::pair("test", &test)}) {
            for (size_t i = 0; i < texts->size(); i++) {
                const auto &[text, label] = (*texts)[i];
                files.emplace_back(std::string(part) + (label == 1 ? "/pos/" : "/neg/") +
                                       std::to_string(i) + "_5.txt",
                                   text);
            }
        }
        std::shuffle(files.begin(), files.end(), std::mt19937(5));
        for (const auto &[path, text] : files) {
            std::filesystem::path full = directory.file(name + "/" + path);
            std::filesystem::create_directories(full.parent_path());
            write_file(full.string(), text);
            *tar += tar_entry("some/" + path, text);
        }
        *tar += tar_end();
        return directory.file(name);
    }

    TemporaryDirectory directory;
};

// ---- containers ----

TEST_F(CorpusTest, FolderAndArchivesGiveTheSameCorpus) {
    Texts train = random_texts(1, 400), test = random_texts(2, 90);
    std::string tar;
    std::string folder = write_tree("d", train, test, &tar);
    write_file(directory.file("d.tar"), tar);
    write_file(directory.file("d.tar.gz"), gzip_stored(tar));
    write_file(directory.file("d.tar.zst"), zstd_long_window(tar));

    corpus_request request = request_for(folder);
    request.vocabulary_limit = 100;
    Loaded wanted(request);
    ASSERT_EQ(wanted.result, STATUS_OK) << wanted.err.message;
    EXPECT_EQ(wanted.entries(), expected_vocabulary(train, 100));
    EXPECT_EQ(wanted.data.train.examples, train.size());
    EXPECT_EQ(wanted.data.validation.examples, test.size());
    EXPECT_STREQ(wanted.data.label_names[0], "neg");
    EXPECT_STREQ(wanted.data.label_names[1], "pos");
    // The same examples as the texts, in some order.
    std::vector<Ids> ids = expected_ids(train, wanted.entries()), got = wanted.train().ids;
    EXPECT_NE(got, ids);
    std::sort(ids.begin(), ids.end());
    std::sort(got.begin(), got.end());
    EXPECT_EQ(got, ids);

    for (const char *name : {"d.tar", "d.tar.gz", "d.tar.zst"}) {
        std::string path = directory.file(name);
        request.path = path.c_str();
        Loaded archive(request);
        ASSERT_EQ(archive.result, STATUS_OK) << archive.err.message;
        EXPECT_TRUE(archive.train() == wanted.train()) << name;
        EXPECT_TRUE(archive.validation() == wanted.validation()) << name;
        EXPECT_EQ(archive.entries(), wanted.entries());
    }
}

TEST_F(CorpusTest, FileKeepsItsOrderAndCountsWhatItHolds) {
    Texts texts = random_texts(3, 500);
    texts[17].first = "";
    std::string path = write_csv("a.csv", texts);
    corpus_request request = request_for(path);
    request.vocabulary_limit = 50;
    Loaded loaded(request);
    ASSERT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
    std::vector<Ids> ids = expected_ids(texts, expected_vocabulary(texts, 50));
    EXPECT_EQ(loaded.train().ids, ids);
    EXPECT_EQ(loaded.train().labels, labels_of(texts));
    EXPECT_TRUE(loaded.train().ids[17].empty());
    EXPECT_EQ(loaded.data.validation.examples, 0u);

    const corpus &train = loaded.data.train;
    uint64_t tokens = 0, unknown = 0, longest = 0, bytes = 0;
    for (size_t i = 0; i < texts.size(); i++) {
        tokens += ids[i].size();
        unknown += static_cast<uint64_t>(std::count(ids[i].begin(), ids[i].end(), 1u));
        longest = std::max<uint64_t>(longest, ids[i].size());
        bytes += texts[i].first.size();
    }
    EXPECT_EQ(train.token_count, tokens);
    EXPECT_EQ(train.unknown_tokens, unknown);
    EXPECT_EQ(train.longest, longest);
    EXPECT_EQ(train.text_bytes, bytes);
    EXPECT_GT(unknown, 0u);
}

// ---- validation data ----

TEST_F(CorpusTest, SplitTakesTheEndAndLearnsFromTheRest) {
    Texts texts = random_texts(4, 200);
    texts[199].first = "onlyhere onlyhere onlyhere " + texts[199].first;
    std::string path = write_csv("a.csv", texts);
    corpus_request request = request_for(path);
    request.validation_split = 0.25;
    Loaded loaded(request);
    ASSERT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
    Texts train(texts.begin(), texts.begin() + 150), rest(texts.begin() + 150, texts.end());
    std::vector<std::string> entries = expected_vocabulary(train, 0);
    EXPECT_EQ(loaded.entries(), entries);
    EXPECT_EQ(std::count(entries.begin(), entries.end(), "onlyhere"), 0);
    EXPECT_EQ(loaded.train().ids, expected_ids(train, entries));
    EXPECT_EQ(loaded.validation().ids, expected_ids(rest, entries));
    EXPECT_EQ(loaded.validation().labels, labels_of(rest));

    // The same halves as files of their own have the same fingerprints.
    std::string train_path = write_csv("t.csv", train), rest_path = write_csv("v.csv", rest);
    request = request_for(train_path);
    request.validation_path = rest_path.c_str();
    Loaded apart(request);
    ASSERT_EQ(apart.result, STATUS_OK) << apart.err.message;
    EXPECT_TRUE(apart.train() == loaded.train());
    EXPECT_TRUE(apart.validation() == loaded.validation());
}

TEST_F(CorpusTest, SplitReplacesTheTestPart) {
    std::string tar;
    std::string folder = write_tree("d", random_texts(1, 100), random_texts(2, 30), &tar);
    corpus_request request = request_for(folder);
    request.validation_split = 0.1;
    Loaded loaded(request);
    ASSERT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
    EXPECT_EQ(loaded.data.train.examples, 90u);
    EXPECT_EQ(loaded.data.validation.examples, 10u);
    // It is the end of the base order, which the whole training part shows.
    request.validation_split = 0;
    request.validation_path = "none";
    request.vocabulary = loaded.data.vocabulary;
    Loaded whole(request);
    ASSERT_EQ(whole.result, STATUS_OK) << whole.err.message;
    EXPECT_EQ(whole.data.validation.examples, 0u);
    std::vector<Ids> both = loaded.train().ids, end = loaded.validation().ids;
    both.insert(both.end(), end.begin(), end.end());
    EXPECT_EQ(whole.train().ids, both);
}

TEST_F(CorpusTest, SplitThatLeavesASideEmptyIsAUsageError) {
    std::string path = write_csv("a.csv", {{"a", 0}, {"b", 1}, {"c", 1}});
    for (double split : {0.001, 0.999}) {
        corpus_request request = request_for(path);
        request.validation_split = split;
        Loaded loaded(request);
        // 3 * (1 - 0.001) is cut to 2 for training; 3 * (1 - 0.999) to none.
        EXPECT_EQ(loaded.result, split > 0.5 ? STATUS_USAGE : STATUS_OK) << loaded.err.message;
    }
}

TEST_F(CorpusTest, SplitOfASortedFile) {
    std::string path = write_csv("a.csv", {{"a", 0}, {"b", 0}, {"c", 1}, {"d", 1}});
    corpus_request request = request_for(path);
    request.validation_split = 0.5;
    Loaded loaded(request);
    EXPECT_EQ(loaded.result, STATUS_DATA);
    EXPECT_NE(std::string(loaded.err.message).find("sorted by label"), std::string::npos);
    request.validation_split = 0.25;
    Loaded told(request);
    ASSERT_EQ(told.result, STATUS_OK) << told.err.message;
    EXPECT_NE(std::string(told.data.notes.bytes).find("one class"), std::string::npos);
}

TEST_F(CorpusTest, ValidationPathHasATestPartOrIsAllOfIt) {
    std::string tar;
    Texts test = random_texts(2, 30);
    std::string folder = write_tree("d", random_texts(1, 100), test, &tar);
    std::string csv = write_csv("a.csv", random_texts(9, 40));
    corpus_request request = request_for(csv);
    request.validation_path = folder.c_str();
    Loaded loaded(request);
    ASSERT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
    EXPECT_EQ(loaded.data.validation.examples, 30u);
    std::vector<Ids> wanted = expected_ids(test, loaded.entries()), got = loaded.validation().ids;
    std::sort(wanted.begin(), wanted.end());
    std::sort(got.begin(), got.end());
    EXPECT_EQ(got, wanted);
    request.validation_path = "missing.csv";
    EXPECT_EQ(Loaded(request).result, STATUS_INPUT);
}

// ---- text rules ----

TEST_F(CorpusTest, MaxLengthCutsIdsButNotTheVocabulary) {
    Texts texts = random_texts(6, 300);
    std::string path = write_csv("a.csv", texts);
    corpus_request request = request_for(path);
    request.max_length = 5;
    Loaded loaded(request);
    ASSERT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
    std::vector<std::string> entries = expected_vocabulary(texts, 0);
    EXPECT_EQ(loaded.entries(), entries);
    EXPECT_EQ(loaded.train().ids, expected_ids(texts, entries, 5));
    EXPECT_EQ(loaded.data.train.longest, 5u);

    request.vocabulary = loaded.data.vocabulary; // the other way of cutting
    Loaded again(request);
    ASSERT_EQ(again.result, STATUS_OK);
    EXPECT_EQ(again.data.vocabulary, nullptr);
    EXPECT_TRUE(again.train() == loaded.train());
}

TEST_F(CorpusTest, StripHtmlReachesTheTokenizer) {
    std::string path = write_csv("a.csv", {{"good<br />film", 1}, {"bad", 0}});
    corpus_request request = request_for(path);
    EXPECT_EQ(Loaded(request).entries(),
              (std::vector<std::string>{"", "[UNK]", "goodbr", "film", "bad"}));
    request.strip_html = true;
    EXPECT_EQ(Loaded(request).entries(),
              (std::vector<std::string>{"", "[UNK]", "good", "film", "bad"}));
}

TEST_F(CorpusTest, SixteenBitsWhileTheVocabularyFits) {
    // w0 occurs most often; every other word once: 65,536 entries with 65,534 words.
    for (uint32_t words : {65534u, 65535u}) {
        Texts texts = {{"w0", 0}, {"w0", 1}};
        for (uint32_t i = 0; i < words; i++) {
            texts[i % 2].first += " w" + std::to_string(i);
        }
        std::string path = write_csv("a.csv", texts);
        corpus_request request = request_for(path);
        Loaded loaded(request);
        ASSERT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
        EXPECT_EQ(vocabulary_size(loaded.data.vocabulary), words + 2);
        EXPECT_EQ(loaded.data.train.token_bytes, words == 65534 ? 2u : 4u);
        EXPECT_EQ(loaded.train().ids, expected_ids(texts, expected_vocabulary(texts, 0)));
    }
}

// ---- fingerprint ----

TEST_F(CorpusTest, FingerprintIsOfTextsLabelsAndOrderOnly) {
    Texts texts = random_texts(8, 50);
    auto fingerprint = [this](const Texts &of, uint64_t limit, uint64_t max_length) {
        std::string path = write_csv("f.csv", of);
        corpus_request request = request_for(path);
        request.vocabulary_limit = limit;
        request.max_length = max_length;
        Loaded loaded(request);
        EXPECT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
        return loaded.data.train.fingerprint;
    };
    uint64_t wanted = fingerprint(texts, 0, 0);
    EXPECT_EQ(fingerprint(texts, 20, 3), wanted);
    std::set<uint64_t> all = {wanted};
    Texts changed = texts;
    changed[30].second ^= 1;
    all.insert(fingerprint(changed, 0, 0));
    changed = texts;
    changed[30].first += "!"; // the same tokens
    all.insert(fingerprint(changed, 0, 0));
    changed = texts;
    std::swap(changed[30], changed[31]);
    all.insert(fingerprint(changed, 0, 0));
    changed = texts;
    changed.pop_back();
    all.insert(fingerprint(changed, 0, 0));
    EXPECT_EQ(all.size(), 5u);
}

// Runs are resumed by this number: base order, generator and hash must not change by accident.
TEST_F(CorpusTest, FingerprintsStayWhatTheyAre) {
    corpus_request request = request_for(demo_path);
    Loaded demo(request);
    ASSERT_EQ(demo.result, STATUS_OK);
    EXPECT_EQ(demo.data.train.fingerprint, 10693954499175534083u);
    EXPECT_EQ(demo.data.validation.fingerprint, 7870784938336182514u);
    std::string tar;
    std::string folder =
        write_tree("d", {{"a", 0}, {"b", 1}, {"c", 0}, {"d", 1}, {"e", 1}}, {}, &tar);
    request = request_for(folder);
    Loaded tree(request);
    ASSERT_EQ(tree.result, STATUS_OK);
    EXPECT_EQ(tree.data.train.fingerprint, 3397761710710879802u);
}

// ---- the other entries ----

TEST_F(CorpusTest, EvaluationTakesTheTestPartOrAll) {
    std::string tar;
    Texts test = random_texts(2, 30);
    std::string folder = write_tree("d", random_texts(1, 100), test, &tar);
    std::string csv = write_csv("a.csv", test);
    Loaded trained(request_for(folder));
    ASSERT_EQ(trained.result, STATUS_OK);
    for (const std::string &path : {folder, csv}) {
        corpus_request request = request_for(path);
        request.vocabulary = trained.data.vocabulary;
        corpus corpus;
        char names[2][DATASET_LABEL_CAPACITY];
        text notes = {};
        error err = {};
        ASSERT_EQ(corpus_load_evaluation(&request, &corpus, names, &notes, &err), STATUS_OK)
            << err.message;
        EXPECT_STREQ(names[1], path == folder ? "pos" : "1");
        std::vector<Ids> wanted = expected_ids(test, trained.entries()), got = Part(corpus).ids;
        if (path == folder) {
            EXPECT_TRUE(Part(corpus) == trained.validation());
        } else {
            EXPECT_EQ(got, wanted);
        }
        corpus_free(&corpus);
        text_free(&notes);
    }
}

TEST_F(CorpusTest, VocabularyAloneEqualsTheTrainers) {
    Texts texts = random_texts(12, 400);
    std::string path = write_csv("a.csv", texts);
    for (double split : {0.0, 0.5}) {
        corpus_request request = request_for(path);
        request.vocabulary_limit = 70;
        request.validation_split = split;
        Loaded loaded(request);
        ASSERT_EQ(loaded.result, STATUS_OK) << loaded.err.message;
        vocabulary *vocabulary;
        ASSERT_EQ(corpus_learn_vocabulary(&request, &vocabulary, nullptr, nullptr), STATUS_OK);
        size_t size, loaded_size;
        const char *text = vocabulary_text(vocabulary, &size);
        const char *loaded_text = vocabulary_text(loaded.data.vocabulary, &loaded_size);
        EXPECT_EQ(std::string(text, size), std::string(loaded_text, loaded_size));
        vocabulary_free(vocabulary);
    }
}

TEST_F(CorpusTest, NotesTellWhatWasNotUsed) {
    std::string tar;
    std::string folder = write_tree("d", random_texts(1, 20), random_texts(2, 20), &tar);
    std::filesystem::create_directories(folder + "/train/unsup");
    write_file(folder + "/train/unsup/1.txt", "x");
    write_file(folder + "/train/unsup/2.txt", "x");
    Loaded loaded(request_for(folder));
    ASSERT_EQ(loaded.result, STATUS_OK);
    EXPECT_EQ(std::string(loaded.data.notes.bytes),
              folder + ": not used: train/unsup (2 entries)\n");
}

TEST_F(CorpusTest, StopSignalEndsLoading) {
    stop_raise(SIGTERM);
    EXPECT_EQ(Loaded(request_for(demo_path)).result, STATUS_STOPPED);
    vocabulary *vocabulary;
    corpus_request request = request_for(demo_path);
    EXPECT_EQ(corpus_learn_vocabulary(&request, &vocabulary, nullptr, nullptr), STATUS_STOPPED);
    stop_reset();
}

} // namespace
