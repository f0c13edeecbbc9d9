#include "tests/support/memory_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <algorithm>

#include "tests/support/crash_replay.h"

namespace {

struct Inode {
    bool directory = false;
    std::string data;
    double modified = 0;
};

struct Descriptor {
    std::string path;
    uint64_t inode = 0;
    int flags = 0;
    uint64_t offset = 0;
};

std::string normalise(const std::string &path) {
    std::string out;
    size_t start = 0;
    while (start <= path.size()) {
        size_t end = std::min(path.find('/', start), path.size());
        std::string part = path.substr(start, end - start);
        if (!part.empty() && part != ".") {
            out += "/" + part;
        }
        start = end + 1;
    }
    return out.empty() ? "/" : out;
}

using Names = std::map<std::string, uint64_t>;

} // namespace

struct MemoryFiles::Model {
    Names names, base_names;
    std::map<uint64_t, Inode> inodes, base_inodes;
    uint64_t next_inode = 2;
    std::map<int, Descriptor> descriptors;
    int next_fd = 1000; // never used twice, so that a use after close is seen
    std::map<uint64_t, int> locks;
    std::vector<FileOp> log;
    double now = 1e9;
    int lock_error = 0;
    size_t bad_uses = 0;

    Model() {
        names["/"] = 1;
        inodes[1].directory = true;
        base_names = names;
        base_inodes = inodes;
    }

    Inode *find(const std::string &path) {
        auto it = names.find(path);
        return it == names.end() ? nullptr : &inodes[it->second];
    }

    // Why there is nothing at a path
    int missing(const std::string &path) {
        std::string above = parent_directory(path);
        const Inode *found = find(above);
        return found == nullptr ? missing(above) : found->directory ? -ENOENT : -ENOTDIR;
    }

    // 0, or why a name cannot be made there
    int parent_error(const std::string &path) {
        const Inode *parent = find(parent_directory(path));
        return parent != nullptr && parent->directory ? 0 : missing(path);
    }

    Descriptor *descriptor(int fd) {
        auto it = descriptors.find(fd);
        if (it == descriptors.end()) {
            bad_uses++;
            return nullptr;
        }
        return &it->second;
    }

    uint64_t make(const std::string &path, bool directory) {
        uint64_t inode = next_inode++;
        names[path] = inode;
        inodes[inode] = {directory, "", now};
        return inode;
    }

    long record(FileCall call, const std::string &path, long result, uint64_t inode = 0) {
        FileOp op;
        op.call = call;
        op.path = path;
        op.result = result;
        op.inode = inode;
        op.now = now;
        log.push_back(std::move(op));
        return result;
    }

    long open(const std::string &path, int flags) {
        bool writes = (flags & O_ACCMODE) != O_RDONLY;
        Inode *file = find(path);
        long error = 0;
        if (file == nullptr) {
            error = parent_error(path);
            error = error != 0 ? error : (flags & O_CREAT) != 0 ? 0 : missing(path);
        } else if ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) {
            error = -EEXIST;
        } else if (file->directory && writes) {
            error = -EISDIR;
        } else if (!file->directory && (flags & O_DIRECTORY) != 0) {
            error = -ENOTDIR;
        }
        if (error != 0) {
            return record(FileCall::Open, path, error);
        }
        bool created = file == nullptr;
        uint64_t inode = created ? make(path, false) : names[path];
        int fd = next_fd++;
        descriptors[fd] = {path, inode, flags, 0};
        record(FileCall::Open, path, fd, inode);
        log.back().created = created;
        if ((flags & O_TRUNC) != 0 && !inodes[inode].data.empty()) {
            truncate(fd, 0); // logged as a call of its own
        }
        return fd;
    }

    long read(int fd, void *buffer, size_t bytes) {
        Descriptor *at = descriptor(fd);
        if (at == nullptr || (at->flags & O_ACCMODE) == O_WRONLY) {
            return record(FileCall::Read, at == nullptr ? "" : at->path, -EBADF);
        }
        const Inode &file = inodes[at->inode];
        if (file.directory) {
            return record(FileCall::Read, at->path, -EISDIR);
        }
        size_t left = file.data.size() - std::min<size_t>(file.data.size(), at->offset);
        size_t done = std::min(bytes, left);
        memcpy(buffer, file.data.data() + (left == 0 ? 0 : at->offset), done);
        at->offset += done;
        return record(FileCall::Read, at->path, static_cast<long>(done), at->inode);
    }

    long write(int fd, const void *buffer, size_t bytes) {
        Descriptor *at = descriptor(fd);
        if (at == nullptr || (at->flags & O_ACCMODE) == O_RDONLY) {
            return record(FileCall::Write, at == nullptr ? "" : at->path, -EBADF);
        }
        Inode &file = inodes[at->inode];
        uint64_t offset = (at->flags & O_APPEND) != 0 ? file.data.size() : at->offset;
        std::string text(static_cast<const char *>(buffer), bytes);
        overwrite(&file.data, offset, text);
        file.modified = now;
        at->offset = offset + bytes;
        record(FileCall::Write, at->path, static_cast<long>(bytes), at->inode);
        log.back().offset = offset;
        log.back().bytes = std::move(text);
        return static_cast<long>(bytes);
    }

    long fsync(int fd) {
        Descriptor *at = descriptor(fd);
        if (at == nullptr) {
            return record(FileCall::Fsync, "", -EBADF);
        }
        record(FileCall::Fsync, at->path, 0, at->inode);
        log.back().is_directory = inodes[at->inode].directory;
        return 0;
    }

    long close(int fd) {
        Descriptor *at = descriptor(fd);
        if (at == nullptr) {
            return record(FileCall::Close, "", -EBADF);
        }
        auto lock = locks.find(at->inode);
        if (lock != locks.end() && lock->second == fd) {
            locks.erase(lock);
        }
        record(FileCall::Close, at->path, 0, at->inode);
        descriptors.erase(fd);
        return 0;
    }

    long truncate(int fd, uint64_t bytes) {
        Descriptor *at = descriptor(fd);
        if (at == nullptr || (at->flags & O_ACCMODE) == O_RDONLY) {
            return record(FileCall::Truncate, at == nullptr ? "" : at->path, -EBADF);
        }
        inodes[at->inode].data.resize(bytes);
        inodes[at->inode].modified = now;
        record(FileCall::Truncate, at->path, 0, at->inode);
        log.back().offset = bytes;
        return 0;
    }

    // The kernel walks both paths before it looks at the names.
    long rename_error(const std::string &from, const std::string &to) {
        const Inode *source = find(from);
        const Inode *target = find(to);
        if (parent_error(from) != 0 || parent_error(to) != 0) {
            return parent_error(from) != 0 ? parent_error(from) : parent_error(to);
        }
        if (source == nullptr || source->directory) {
            return source == nullptr ? -ENOENT : -EINVAL; // directories: not modelled
        }
        if (from.rfind(to + "/", 0) == 0) {
            return -ENOTEMPTY;
        }
        return target != nullptr && target->directory ? -EISDIR : 0;
    }

    long rename(const std::string &from, const std::string &to) {
        long error = rename_error(from, to);
        if (error != 0) {
            record(FileCall::Rename, from, error);
            log.back().to = to;
            return error;
        }
        uint64_t inode = names[from];
        names.erase(from);
        names[to] = inode;
        record(FileCall::Rename, from, 0, inode);
        log.back().to = to;
        return 0;
    }

    long unlink(const std::string &path) {
        const Inode *file = find(path);
        long error = file == nullptr ? missing(path) : file->directory ? -EISDIR : 0;
        if (error != 0) {
            return record(FileCall::Unlink, path, error);
        }
        uint64_t inode = names[path];
        names.erase(path);
        return record(FileCall::Unlink, path, 0, inode);
    }

    long mkdir(const std::string &path) {
        long error = find(path) != nullptr ? -EEXIST : parent_error(path);
        if (error != 0) {
            return record(FileCall::Mkdir, path, error);
        }
        return record(FileCall::Mkdir, path, 0, make(path, true));
    }

    static struct file_stat info_of(const Inode &file, uint64_t inode) {
        return {file.data.size(), file.modified, file.directory, !file.directory, 1, inode};
    }

    long stat(const std::string &path, struct file_stat *out) {
        const Inode *file = find(path);
        if (file == nullptr) {
            return record(FileCall::Stat, path, missing(path));
        }
        *out = info_of(*file, names[path]);
        return record(FileCall::Stat, path, 0, names[path]);
    }

    long stat_open(int fd, struct file_stat *out) {
        Descriptor *at = descriptor(fd);
        if (at == nullptr) {
            return record(FileCall::StatOpen, "", -EBADF);
        }
        *out = info_of(inodes[at->inode], at->inode);
        return record(FileCall::StatOpen, at->path, 0, at->inode);
    }

    long lock(int fd) {
        Descriptor *at = descriptor(fd);
        if (at == nullptr) {
            return record(FileCall::Lock, "", -EBADF);
        }
        auto holder = locks.find(at->inode);
        long result = lock_error != 0                                 ? lock_error
                      : holder != locks.end() && holder->second != fd ? -EWOULDBLOCK
                                                                      : 0;
        if (result == 0) {
            locks[at->inode] = fd;
        }
        return record(FileCall::Lock, at->path, result, at->inode);
    }

    std::vector<std::string> children(const std::string &directory) const {
        std::vector<std::string> out;
        for (const auto &[path, inode] : names) {
            if (path != "/" && parent_directory(path) == directory) {
                out.push_back(path.substr(path.rfind('/') + 1));
            }
        }
        return out;
    }
};

// ---- the table ----

struct MemoryTable {
    static MemoryFiles *self(void *context) { return static_cast<MemoryFiles *>(context); }

    template <typename Work> static long locked(void *context, Work work) {
        std::lock_guard<std::mutex> guard(self(context)->mutex_);
        return work(*self(context)->model_);
    }

    static int open(void *context, const char *path, int flags, unsigned) {
        return static_cast<int>(
            locked(context, [&](auto &model) { return model.open(normalise(path), flags); }));
    }
    static ssize_t read(void *context, int fd, void *buffer, size_t bytes) {
        return locked(context, [&](auto &model) { return model.read(fd, buffer, bytes); });
    }
    static ssize_t write(void *context, int fd, const void *buffer, size_t bytes) {
        return locked(context, [&](auto &model) { return model.write(fd, buffer, bytes); });
    }
    static int fsync(void *context, int fd) {
        return static_cast<int>(locked(context, [&](auto &model) { return model.fsync(fd); }));
    }
    static int close(void *context, int fd) {
        return static_cast<int>(locked(context, [&](auto &model) { return model.close(fd); }));
    }
    static int truncate(void *context, int fd, uint64_t bytes) {
        return static_cast<int>(
            locked(context, [&](auto &model) { return model.truncate(fd, bytes); }));
    }
    static int rename(void *context, const char *from, const char *to) {
        return static_cast<int>(locked(
            context, [&](auto &model) { return model.rename(normalise(from), normalise(to)); }));
    }
    static int unlink(void *context, const char *path) {
        return static_cast<int>(
            locked(context, [&](auto &model) { return model.unlink(normalise(path)); }));
    }
    static int mkdir(void *context, const char *path, unsigned) {
        return static_cast<int>(
            locked(context, [&](auto &model) { return model.mkdir(normalise(path)); }));
    }
    static int stat(void *context, const char *path, struct file_stat *out) {
        return static_cast<int>(
            locked(context, [&](auto &model) { return model.stat(normalise(path), out); }));
    }
    static int stat_open(void *context, int fd, struct file_stat *out) {
        return static_cast<int>(
            locked(context, [&](auto &model) { return model.stat_open(fd, out); }));
    }
    static int lock(void *context, int fd) {
        return static_cast<int>(locked(context, [&](auto &model) { return model.lock(fd); }));
    }
    // The callback runs without the mutex: it may call the table.
    static int list(void *context, const char *path, int (*entry)(void *user, const char *name),
                    void *user) {
        std::vector<std::string> names;
        long error = locked(context, [&](auto &model) {
            std::string directory = normalise(path);
            const Inode *found = model.find(directory);
            long result = found == nullptr   ? model.missing(directory)
                          : found->directory ? 0
                                             : -ENOTDIR;
            names = model.children(directory);
            return model.record(FileCall::List, directory, result);
        });
        int result = static_cast<int>(error);
        for (size_t i = 0; i < names.size() && result == 0; i++) {
            result = entry(user, names[i].c_str());
        }
        return result;
    }
};

MemoryFiles::MemoryFiles() : model_(std::make_unique<Model>()) {
    table_ = {this,
              MemoryTable::open,
              MemoryTable::read,
              MemoryTable::write,
              MemoryTable::fsync,
              MemoryTable::close,
              MemoryTable::truncate,
              MemoryTable::rename,
              MemoryTable::unlink,
              MemoryTable::mkdir,
              MemoryTable::stat,
              MemoryTable::stat_open,
              MemoryTable::lock,
              MemoryTable::list};
}

MemoryFiles::~MemoryFiles() = default;

// ---- the test's own access ----

void MemoryFiles::make_directory(const std::string &path) {
    std::lock_guard<std::mutex> guard(mutex_);
    std::string whole = normalise(path);
    for (size_t end = whole.find('/', 1);; end = whole.find('/', end + 1)) {
        std::string part = whole.substr(0, end);
        if (model_->find(part) == nullptr) {
            uint64_t inode = model_->make(part, true);
            model_->base_names[part] = inode;
            model_->base_inodes[inode] = model_->inodes[inode];
        }
        if (end == std::string::npos) {
            return;
        }
    }
}

void MemoryFiles::put(const std::string &path, const std::string &bytes) {
    std::string whole = normalise(path);
    make_directory(parent_directory(whole));
    std::lock_guard<std::mutex> guard(mutex_);
    uint64_t inode = model_->make(whole, false);
    model_->inodes[inode].data = bytes;
    model_->base_names[whole] = inode;
    model_->base_inodes[inode] = model_->inodes[inode];
}

void MemoryFiles::remove(const std::string &path) {
    std::lock_guard<std::mutex> guard(mutex_);
    model_->names.erase(normalise(path));
    model_->base_names.erase(normalise(path));
}

std::optional<std::string> MemoryFiles::get(const std::string &path) const {
    std::lock_guard<std::mutex> guard(mutex_);
    const Inode *file = model_->find(normalise(path));
    return file == nullptr || file->directory ? std::nullopt : std::make_optional(file->data);
}

bool MemoryFiles::exists(const std::string &path) const {
    std::lock_guard<std::mutex> guard(mutex_);
    return model_->find(normalise(path)) != nullptr;
}

std::vector<std::string> MemoryFiles::names(const std::string &directory) const {
    std::lock_guard<std::mutex> guard(mutex_);
    return model_->children(normalise(directory));
}

void MemoryFiles::set_now(double wall_seconds) {
    std::lock_guard<std::mutex> guard(mutex_);
    model_->now = wall_seconds;
}

void MemoryFiles::set_modified(const std::string &path, double wall_seconds) {
    std::lock_guard<std::mutex> guard(mutex_);
    uint64_t inode = model_->names.at(normalise(path));
    model_->inodes[inode].modified = wall_seconds;
    auto base = model_->base_inodes.find(inode);
    if (base != model_->base_inodes.end()) {
        base->second.modified = wall_seconds;
    }
}

void MemoryFiles::set_lock_error(int negative_errno) {
    std::lock_guard<std::mutex> guard(mutex_);
    model_->lock_error = negative_errno;
}

size_t MemoryFiles::open_descriptors() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return model_->descriptors.size();
}

size_t MemoryFiles::bad_descriptor_uses() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return model_->bad_uses;
}

std::map<std::string, std::string> MemoryFiles::contents() const {
    std::lock_guard<std::mutex> guard(mutex_);
    std::map<std::string, std::string> out;
    for (const auto &[path, inode] : model_->names) {
        const Inode &file = model_->inodes.at(inode);
        if (path != "/") {
            out[file.directory ? path + "/" : path] = file.data;
        }
    }
    return out;
}

// ---- the log ----

const char *file_call_name(FileCall call) {
    static const char *const names[] = {"open",      "read",   "write",  "fsync", "close",
                                        "truncate",  "rename", "unlink", "mkdir", "stat",
                                        "stat_open", "lock",   "list"};
    return names[static_cast<size_t>(call)];
}

std::string FileOp::text() const {
    std::string out = std::string(file_call_name(call)) + " " + path;
    if (call == FileCall::Rename) {
        out += " -> " + to;
    } else if (call == FileCall::Write) {
        out += " (" + std::to_string(bytes.size()) + " bytes)";
    }
    return result < 0 ? out + " = " + strerror(static_cast<int>(-result)) : out;
}

std::vector<FileOp> MemoryFiles::log() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return model_->log;
}

size_t MemoryFiles::op_count() const {
    std::lock_guard<std::mutex> guard(mutex_);
    return model_->log.size();
}

void MemoryFiles::forget_log() {
    std::lock_guard<std::mutex> guard(mutex_);
    model_->log.clear();
    model_->base_names = model_->names;
    model_->base_inodes = model_->inodes;
}

// ---- crashes ----

std::vector<size_t> MemoryFiles::crash_points() const {
    std::lock_guard<std::mutex> guard(mutex_);
    std::vector<size_t> out = {0};
    for (size_t i = 0; i < model_->log.size(); i++) {
        const FileOp &op = model_->log[i];
        bool changes = op.created || op.call == FileCall::Write || op.call == FileCall::Fsync ||
                       op.call == FileCall::Truncate || op.call == FileCall::Rename ||
                       op.call == FileCall::Unlink || op.call == FileCall::Mkdir;
        if (changes && op.result >= 0) {
            out.push_back(i + 1);
        }
    }
    return out;
}

void MemoryFiles::crashes_at(
    size_t op_count,
    const std::function<void(const std::string &what, MemoryFiles &left)> &visit) const {
    std::vector<FileOp> log;
    std::map<std::string, DiskFile> base;
    double now = 0;
    {
        std::lock_guard<std::mutex> guard(mutex_);
        log.assign(model_->log.begin(), model_->log.begin() + static_cast<long>(op_count));
        now = model_->now;
        for (const auto &[path, inode] : model_->base_names) {
            const Inode &file = model_->base_inodes.at(inode);
            base[path] = {inode, file.directory, file.data, file.modified};
        }
    }
    for_each_crash_disk(base, log, [&](const std::string &what, const auto &disk) {
        MemoryFiles left;
        for (const auto &[path, file] : disk) {
            left.model_->names[path] = file.inode;
            left.model_->inodes[file.inode] = {file.is_directory, file.data, file.modified};
            left.model_->next_inode = std::max(left.model_->next_inode, file.inode + 1);
        }
        left.model_->now = now;
        left.forget_log();
        visit("crash after call " + std::to_string(op_count) +
                  (log.empty() ? "" : " (" + log.back().text() + ")") + what,
              left);
    });
}

size_t MemoryFiles::for_each_crash(
    const std::function<void(const std::string &what, MemoryFiles &left)> &visit) const {
    size_t count = 0;
    for (size_t point : crash_points()) {
        crashes_at(point, [&](const std::string &what, MemoryFiles &left) {
            count++;
            visit(what, left);
        });
    }
    return count;
}
