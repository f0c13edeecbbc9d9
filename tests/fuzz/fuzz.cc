#include "tests/fuzz/fuzz.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

void fuzz_check(bool condition, const char *text, const char *file, int line,
                const std::string &detail) {
    if (!condition) {
        fprintf(stderr, "%s:%d: does not hold: %s\n%s\n", file, line, text, detail.c_str());
        abort();
    }
}

void fuzz_check_refusal(enum status status, const struct error &err,
                        const std::vector<enum status> &promised) {
    FUZZ_CHECK(std::find(promised.begin(), promised.end(), status) != promised.end(),
               std::to_string(status) + ": " + err.message);
    const size_t size = strnlen(err.message, sizeof err.message);
    FUZZ_CHECK(size > 0 && size < sizeof err.message);
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = static_cast<unsigned char>(err.message[i]);
        FUZZ_CHECK(c >= 0x20 && c != 0x7F, std::string("a control byte in: ") + err.message);
    }
}

// ---- OneFile ----

struct OneFileCalls {
    static OneFile *self(void *context) { return static_cast<OneFile *>(context); }

    static int open(void *context, const char *path, int, unsigned) {
        self(context)->at_ = 0;
        return self(context)->path_ == path ? OneFile::kDescriptor : -ENOENT;
    }
    static ssize_t read(void *context, int, void *buffer, size_t bytes) {
        OneFile *file = self(context);
        const size_t left = file->bytes_.size() - file->at_;
        const size_t n = std::min({bytes, left, file->piece_});
        memcpy(buffer, file->bytes_.data() + file->at_, n);
        file->at_ += n;
        return static_cast<ssize_t>(n);
    }
    static ssize_t write(void *, int, const void *, size_t) { return -EROFS; }
    static int descriptor(void *, int) { return 0; }
    static int truncate(void *, int, uint64_t) { return -EROFS; }
    static int rename(void *, const char *, const char *) { return -EROFS; }
    static int unlink(void *, const char *) { return -EROFS; }
    static int mkdir(void *, const char *, unsigned) { return -EROFS; }
    static int stat(void *context, const char *path, struct file_stat *out) {
        if (self(context)->path_ != path) {
            return -ENOENT;
        }
        *out = {};
        out->bytes = self(context)->bytes_.size();
        out->is_regular = true;
        return 0;
    }
    static int stat_open(void *, int, struct file_stat *) { return -EBADF; }
    static int list(void *, const char *, int (*)(void *, const char *), void *) {
        return -ENOTDIR;
    }
};

OneFile::OneFile(std::string path, std::string bytes, size_t piece)
    : path_(std::move(path)), bytes_(std::move(bytes)), piece_(std::max<size_t>(piece, 1)) {
    table_ = {};
    table_.context = this;
    table_.open = OneFileCalls::open;
    table_.read = OneFileCalls::read;
    table_.write = OneFileCalls::write;
    table_.fsync = OneFileCalls::descriptor;
    table_.close = OneFileCalls::descriptor;
    table_.truncate = OneFileCalls::truncate;
    table_.rename = OneFileCalls::rename;
    table_.unlink = OneFileCalls::unlink;
    table_.mkdir = OneFileCalls::mkdir;
    table_.stat = OneFileCalls::stat;
    table_.stat_open = OneFileCalls::stat_open;
    table_.lock = OneFileCalls::descriptor;
    table_.list = OneFileCalls::list;
}
