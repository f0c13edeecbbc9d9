// accuracy_test.cc - the whole program learns: the demo corpus, and real reviews where they are at
// hand.
//
// The IMDB reviews (Maas et al. 2011) are not part of the repository. CAIRN_IMDB names an archive
// of aclImdb; by default ../shared/data/aclImdb.tar.zst beside the project. Without it the test is
// skipped.
#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace {

double evaluate(const std::string &model_dir, const std::string &data) {
    Outcome outcome =
        run_cairn({"evaluate", "--data", data, "--model-dir", model_dir, "--checkpoint", "best"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    std::string accuracy = json_field(outcome.out, "accuracy");
    EXPECT_FALSE(accuracy.empty()) << outcome.out;
    return accuracy.empty() ? 0.0 : std::stod(accuracy);
}

// A bag of words stays under 65 % on it (demo_test.cc): what is learned here is order.
TEST(Accuracy, DemoPassesNinetyPercent) {
    TemporaryDirectory dir;
    Outcome train = run_cairn({"train", "--data", "demo", "--model-dir", dir.file("model"),
                               "--learning-rate", "1e-3", "--epochs", "5"});
    ASSERT_EQ(train.code, 0) << train.err;
    double accuracy = evaluate(dir.file("model"), "demo");
    printf("accuracy on the demo's test part: %.4f\n", accuracy);
    EXPECT_GT(accuracy, 0.90);
}

// Unpack every tenth review (by the number in its name) below `target`; false when that is
// impossible.
bool unpack_part(const std::string &archive_path, const std::string &target, int *count) {
    archive *in = archive_read_new();
    archive_read_support_format_tar(in);
    archive_read_support_filter_all(in);
    bool good = archive_read_open_filename(in, archive_path.c_str(), 1 << 16) == ARCHIVE_OK;
    archive_entry *entry;
    while (good && archive_read_next_header(in, &entry) == ARCHIVE_OK) {
        std::string name = archive_entry_pathname(entry);
        size_t slash = name.rfind('/'), underscore = name.rfind('_');
        size_t top = name.find("aclImdb/");
        if (archive_entry_filetype(entry) != AE_IFREG || slash == std::string::npos ||
            underscore == std::string::npos || underscore < slash || underscore == 0 ||
            name[underscore - 1] != '0' || top == std::string::npos ||
            name.find("unsup") != std::string::npos) {
            continue;
        }
        std::string content(static_cast<size_t>(archive_entry_size(entry)), '\0');
        good = archive_read_data(in, content.data(), content.size()) ==
               static_cast<la_ssize_t>(content.size());
        std::string path = target + "/" + name.substr(top + 8);
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        write_file(path, content);
        ++*count;
    }
    archive_read_free(in);
    return good;
}

std::string imdb_archive() {
    const char *given = getenv("CAIRN_IMDB");
    return given != nullptr ? given : CAIRN_SOURCE_DIR "/../shared/data/aclImdb.tar.zst";
}

// A tenth of IMDB, a larger learning rate than the recipe's: chance is 0.5, and when the test was
// written a run of this length reached 0.7684 (AVX-512 kernels; other paths differ in their last
// bits).
TEST(Accuracy, PartOfImdbIsLearned) {
    std::string archive_path = imdb_archive();
    if (!exists(archive_path)) {
        GTEST_SKIP() << archive_path << " is not there (CAIRN_IMDB names another)";
    }
    TemporaryDirectory dir;
    int reviews = 0;
    ASSERT_TRUE(unpack_part(archive_path, dir.file("part"), &reviews));
    EXPECT_EQ(reviews, 5000);
    Outcome train =
        run_cairn({"train", "--data", dir.file("part"), "--model-dir", dir.file("model"),
                   "--learning-rate", "2e-3", "--epochs", "5", "--batch-size", "32"});
    ASSERT_EQ(train.code, 0) << train.err;
    double accuracy = evaluate(dir.file("model"), dir.file("part"));
    printf("accuracy on 2,500 test reviews: %.4f\n", accuracy);
    EXPECT_GT(accuracy, 0.70);
}

} // namespace
