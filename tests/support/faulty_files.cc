#include "tests/support/faulty_files.h"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <utility>

// ---- settings ----

void FaultyFiles::fail(size_t nth, int error_number, Repeat repeat) {
    std::lock_guard<std::mutex> guard(mutex_);
    nth_ = nth;
    error_ = -error_number;
    repeat_ = repeat;
    calls_ = 0;
    failures_ = 0;
    last_failure_.clear();
}

void FaultyFiles::fail_where(Match match, int error_number) {
    std::lock_guard<std::mutex> guard(mutex_);
    always_ = std::move(match);
    always_error_ = -error_number;
}

void FaultyFiles::heal() {
    fail(0, 0, Once);
    fail_where(nullptr, 0);
    room(SIZE_MAX);
}

void FaultyFiles::count_only(Match match) {
    std::lock_guard<std::mutex> guard(mutex_);
    counted_ = std::move(match);
}

void FaultyFiles::after_effect(bool on) {
    std::lock_guard<std::mutex> guard(mutex_);
    after_effect_ = on;
}

void FaultyFiles::short_writes(size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    short_bytes_ = bytes;
}

void FaultyFiles::room(size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    room_ = bytes;
    room_used_ = 0;
}

size_t FaultyFiles::room_used() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return room_used_;
}

void FaultyFiles::drop_file_fsync(bool on) {
    std::lock_guard<std::mutex> guard(mutex_);
    drop_file_fsync_ = on;
}

void FaultyFiles::drop_directory_fsync(bool on) {
    std::lock_guard<std::mutex> guard(mutex_);
    drop_directory_fsync_ = on;
}

void FaultyFiles::drop_fsync_where(Match match) {
    std::lock_guard<std::mutex> guard(mutex_);
    dropped_fsync_ = std::move(match);
}

void FaultyFiles::fsync_after_rename(bool on) {
    std::lock_guard<std::mutex> guard(mutex_);
    fsync_after_rename_ = on;
}

size_t FaultyFiles::calls() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return calls_;
}

size_t FaultyFiles::failures() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return failures_;
}

std::string FaultyFiles::last_failure() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return last_failure_;
}

size_t FaultyFiles::dropped() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return dropped_;
}

size_t FaultyFiles::uses_after_failed_fsync() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return uses_after_failed_fsync_;
}

// ---- holding calls back ----

void FaultyFiles::hold(Match match) {
    std::lock_guard<std::mutex> guard(mutex_);
    held_ = std::move(match);
    passes_ = 0;
}

void FaultyFiles::wait_until_held(size_t callers) {
    std::unique_lock<std::mutex> guard(mutex_);
    changed_.wait(guard, [&] { return blocked_ >= callers; });
}

void FaultyFiles::let_one_pass() {
    std::lock_guard<std::mutex> guard(mutex_);
    passes_++;
    changed_.notify_all();
}

void FaultyFiles::release() {
    std::lock_guard<std::mutex> guard(mutex_);
    held_ = nullptr;
    changed_.notify_all();
}

// ---- what every call goes through ----

int FaultyFiles::enter(FileCall call, const std::string &path, bool is_directory) {
    std::unique_lock<std::mutex> guard(mutex_);
    if (held_ && held_(call, path, is_directory)) {
        blocked_++;
        changed_.notify_all();
        changed_.wait(guard, [&] { return !held_ || passes_ > 0; });
        blocked_--;
        passes_ -= held_ ? 1 : 0;
    }
    int error = 0;
    if (!counted_ || counted_(call, path, is_directory)) {
        calls_++;
        if (nth_ != 0 && (calls_ == nth_ || (repeat_ == ForEver && calls_ > nth_))) {
            error = error_;
        }
    }
    if (error == 0 && always_ && always_(call, path, is_directory)) {
        error = always_error_;
    }
    if (error != 0) {
        failures_++;
        last_failure_ = std::string(file_call_name(call)) + " " + path;
    }
    return error;
}

FaultyFiles::Descriptor FaultyFiles::descriptor(int fd) const {
    std::lock_guard<std::mutex> guard(mutex_);
    auto it = descriptors_.find(fd);
    return it == descriptors_.end() ? Descriptor() : it->second;
}

// Any use but close.
FaultyFiles::Descriptor FaultyFiles::use(int fd) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto it = descriptors_.find(fd);
    if (it == descriptors_.end()) {
        return Descriptor();
    }
    uses_after_failed_fsync_ += it->second.fsync_failed ? 1 : 0;
    return it->second;
}

// ---- the table ----

struct FaultyTable {
    static FaultyFiles *self(void *context) { return static_cast<FaultyFiles *>(context); }
    static const struct file_table *inner(void *context) { return self(context)->inner_; }

    static int open(void *context, const char *path, int flags, unsigned mode) {
        bool directory = (flags & O_DIRECTORY) != 0;
        int error = self(context)->enter(FileCall::Open, path, directory);
        if (error != 0) {
            return error;
        }
        int fd = inner(context)->open(inner(context)->context, path, flags, mode);
        if (fd >= 0) {
            std::lock_guard<std::mutex> guard(self(context)->mutex_);
            self(context)->descriptors_[fd] = {path, directory, false, false};
        }
        return fd;
    }

    static ssize_t read(void *context, int fd, void *buffer, size_t bytes) {
        auto at = self(context)->use(fd);
        int error = self(context)->enter(FileCall::Read, at.path, at.is_directory);
        return error != 0 ? error
                          : inner(context)->read(inner(context)->context, fd, buffer, bytes);
    }

    static ssize_t write(void *context, int fd, const void *buffer, size_t bytes) {
        auto at = self(context)->use(fd);
        int error = self(context)->enter(FileCall::Write, at.path, at.is_directory);
        size_t most = self(context)->short_write_bytes();
        if (error != 0) {
            if (bytes > 1) { // what a full disk still takes; the caller cannot tell how much it was
                (void)inner(context)->write(inner(context)->context, fd, buffer, bytes / 2);
            }
            return error;
        }
        size_t granted = most == 0 ? bytes : std::min(bytes, most);
        if (!self(context)->take_room(granted, &granted)) {
            return -ENOSPC;
        }
        return inner(context)->write(inner(context)->context, fd, buffer, granted);
    }

    static int fsync(void *context, int fd) {
        auto at = self(context)->use(fd);
        int error = self(context)->enter(FileCall::Fsync, at.path, at.is_directory);
        if (error != 0) {
            self(context)->note_failed_fsync(fd);
            return error;
        }
        if (self(context)->drops_fsync(fd)) {
            return 0;
        }
        return inner(context)->fsync(inner(context)->context, fd);
    }

    static int close(void *context, int fd) {
        auto at = self(context)->descriptor(fd);
        int error = self(context)->enter(FileCall::Close, at.path, at.is_directory);
        bool late = self(context)->forget(fd);
        int result = late ? 0 : inner(context)->close(inner(context)->context, fd);
        return error != 0 ? error : result;
    }

    static int truncate(void *context, int fd, uint64_t bytes) {
        auto at = self(context)->use(fd);
        int error = self(context)->enter(FileCall::Truncate, at.path, at.is_directory);
        return error != 0 ? error : inner(context)->truncate(inner(context)->context, fd, bytes);
    }

    static int rename(void *context, const char *from, const char *to) {
        int error = self(context)->enter(FileCall::Rename, from, false);
        if (error != 0 && !self(context)->has_after_effect()) {
            return error;
        }
        int result = inner(context)->rename(inner(context)->context, from, to);
        for (int fd : self(context)->take_late()) {
            (void)inner(context)->fsync(inner(context)->context, fd);
            (void)inner(context)->close(inner(context)->context, fd);
        }
        return error != 0 ? error : result;
    }

    static int unlink(void *context, const char *path) {
        int error = self(context)->enter(FileCall::Unlink, path, false);
        if (error != 0 && !self(context)->has_after_effect()) {
            return error;
        }
        int result = inner(context)->unlink(inner(context)->context, path);
        return error != 0 ? error : result;
    }

    static int mkdir(void *context, const char *path, unsigned mode) {
        int error = self(context)->enter(FileCall::Mkdir, path, true);
        if (error != 0 && !self(context)->has_after_effect()) {
            return error;
        }
        int result = inner(context)->mkdir(inner(context)->context, path, mode);
        return error != 0 ? error : result;
    }

    static int stat(void *context, const char *path, struct file_stat *out) {
        int error = self(context)->enter(FileCall::Stat, path, false);
        return error != 0 ? error : inner(context)->stat(inner(context)->context, path, out);
    }

    static int stat_open(void *context, int fd, struct file_stat *out) {
        auto at = self(context)->use(fd);
        int error = self(context)->enter(FileCall::StatOpen, at.path, at.is_directory);
        return error != 0 ? error : inner(context)->stat_open(inner(context)->context, fd, out);
    }

    static int lock(void *context, int fd) {
        auto at = self(context)->use(fd);
        int error = self(context)->enter(FileCall::Lock, at.path, at.is_directory);
        return error != 0 ? error : inner(context)->lock(inner(context)->context, fd);
    }

    static int list(void *context, const char *path, int (*entry)(void *user, const char *name),
                    void *user) {
        int error = self(context)->enter(FileCall::List, path, true);
        return error != 0 ? error
                          : inner(context)->list(inner(context)->context, path, entry, user);
    }
};

FaultyFiles::FaultyFiles(const struct file_table *inner) : inner_(inner) {
    table_ = {this,
              FaultyTable::open,
              FaultyTable::read,
              FaultyTable::write,
              FaultyTable::fsync,
              FaultyTable::close,
              FaultyTable::truncate,
              FaultyTable::rename,
              FaultyTable::unlink,
              FaultyTable::mkdir,
              FaultyTable::stat,
              FaultyTable::stat_open,
              FaultyTable::lock,
              FaultyTable::list};
}

// ---- what the table asks for ----

size_t FaultyFiles::short_write_bytes() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return short_bytes_;
}

// As a disk does: a write that does not fit takes what is left, the one after it fails.
bool FaultyFiles::take_room(size_t wanted, size_t *granted) {
    std::lock_guard<std::mutex> guard(mutex_);
    *granted = std::min(wanted, room_ - room_used_);
    room_used_ += *granted;
    const bool full = wanted > 0 && *granted == 0;
    failures_ += full ? 1 : 0;
    return !full;
}

bool FaultyFiles::has_after_effect() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return after_effect_;
}

void FaultyFiles::note_failed_fsync(int fd) {
    std::lock_guard<std::mutex> guard(mutex_);
    descriptors_[fd].fsync_failed = true;
}

bool FaultyFiles::drops_fsync(int fd) {
    std::lock_guard<std::mutex> guard(mutex_);
    Descriptor &at = descriptors_[fd];
    at.late_fsync = fsync_after_rename_ && !at.is_directory;
    bool drop = at.late_fsync || (at.is_directory ? drop_directory_fsync_ : drop_file_fsync_) ||
                (dropped_fsync_ && dropped_fsync_(FileCall::Fsync, at.path, at.is_directory));
    dropped_ += drop ? 1 : 0;
    return drop;
}

bool FaultyFiles::forget(int fd) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto it = descriptors_.find(fd);
    bool late = it != descriptors_.end() && it->second.late_fsync;
    if (late) {
        late_.push_back(fd);
    }
    if (it != descriptors_.end()) {
        descriptors_.erase(it);
    }
    return late;
}

std::vector<int> FaultyFiles::take_late() {
    std::lock_guard<std::mutex> guard(mutex_);
    return std::exchange(late_, {});
}
