#include "tests/support/crash_replay.h"

#include <algorithm>
#include <set>

std::string parent_directory(const std::string &path) {
    size_t slash = path.rfind('/');
    return slash == 0 ? "/" : path.substr(0, slash);
}

void overwrite(std::string *data, uint64_t offset, const std::string &bytes) {
    if (data->size() < offset + bytes.size()) {
        data->resize(offset + bytes.size());
    }
    data->replace(offset, bytes.size(), bytes);
}

namespace {

// Up to so many entries of a directory that are not durable every subset is tried, beyond prefixes.
constexpr size_t kSubsetsUpTo = 6;
// Up to so many files with unsynced bytes every combination of outcomes is tried.
constexpr size_t kProductUpTo = 2;

using Names = std::map<std::string, uint64_t>;

// One change of directory entries, durable as a whole or not at all.
struct NameOp {
    std::vector<std::pair<std::string, uint64_t>> entries; // inode 0: the name goes
    std::set<std::string> directories;                     // not yet synced ones
};

// What a replay of the log knows of a file's bytes.
struct FileData {
    bool directory = false;
    std::string durable, full;
    double modified = 0;
};

struct Outcome {
    std::string name, data;
};

// A prefix of the new bytes arrived; behind it the old ones, or zeros up to the new size.
void add_torn(const FileData &file, size_t same, size_t block, std::vector<Outcome> *out) {
    std::set<size_t> cuts;
    size_t first = (same / block + 1) * block;
    if (first < file.full.size()) {
        size_t last = (file.full.size() - 1) / block * block;
        cuts = {first, (first + last) / 2 / block * block, last};
    } else if (same + 1 < file.full.size()) {
        cuts = {same + (file.full.size() - same) / 2}; // smaller than a block: torn anyway
    }
    for (size_t cut : cuts) {
        std::string text = "torn at " + std::to_string(cut);
        std::string kept = file.full.substr(0, cut);
        std::string old = file.durable.size() > cut ? file.durable.substr(cut) : "";
        out->push_back({text, kept + old});
        out->push_back({text + ", zeros behind", kept + std::string(file.full.size() - cut, '\0')});
    }
}

std::vector<Outcome> outcomes_of(const FileData &file) {
    std::vector<Outcome> out = {{"kept", file.full}};
    if (file.durable == file.full) {
        return out;
    }
    out.push_back({"lost", file.durable});
    size_t common = std::min(file.durable.size(), file.full.size());
    size_t same = static_cast<size_t>(std::mismatch(file.full.begin(),
                                                    file.full.begin() + static_cast<long>(common),
                                                    file.durable.begin())
                                          .first -
                                      file.full.begin());
    add_torn(file, same, 512, &out);
    add_torn(file, same, 4096, &out);
    out.push_back(
        {"zero-filled", file.full.substr(0, same) + std::string(file.full.size() - same, '\0')});
    return out;
}

// The log played up to a point: which names and bytes are durable there and which are not.
struct Replay {
    Names base;
    std::vector<NameOp> name_ops; // in order; durable ones have no directories left
    std::map<uint64_t, FileData> files;

    void name_op(std::vector<std::pair<std::string, uint64_t>> entries) {
        NameOp op;
        for (const auto &entry : entries) {
            op.directories.insert(parent_directory(entry.first));
        }
        op.entries = std::move(entries);
        name_ops.push_back(std::move(op));
    }

    void step(const FileOp &op) {
        FileData &file = files[op.inode];
        switch (op.call) {
        case FileCall::Open:
            if (op.created) {
                file.modified = op.now;
                name_op({{op.path, op.inode}});
            }
            break;
        case FileCall::Mkdir:
            file.directory = true;
            file.modified = op.now;
            name_op({{op.path, op.inode}});
            break;
        case FileCall::Write:
            overwrite(&file.full, op.offset, op.bytes);
            file.modified = op.now;
            break;
        case FileCall::Truncate:
            file.full.resize(op.offset);
            file.modified = op.now;
            break;
        case FileCall::Fsync:
            file.durable = file.full;
            for (NameOp &pending : name_ops) {
                pending.directories.erase(op.is_directory ? op.path : "");
            }
            break;
        case FileCall::Rename:
            name_op({{op.path, 0}, {op.to, op.inode}});
            break;
        case FileCall::Unlink:
            name_op({{op.path, 0}});
            break;
        default:
            break;
        }
    }

    std::vector<size_t> pending() const {
        std::vector<size_t> out;
        for (size_t i = 0; i < name_ops.size(); i++) {
            if (!name_ops[i].directories.empty()) {
                out.push_back(i);
            }
        }
        return out;
    }

    // Names when, of the pending operations, only those in `kept` reached the disk.
    Names names_with(const std::set<size_t> &kept) const {
        Names names = base;
        for (size_t i = 0; i < name_ops.size(); i++) {
            if (!name_ops[i].directories.empty() && kept.count(i) == 0) {
                continue;
            }
            for (const auto &[path, inode] : name_ops[i].entries) {
                if (inode == 0) {
                    names.erase(path);
                } else {
                    names[path] = inode;
                }
            }
        }
        drop_orphans(&names);
        return names;
    }

    // A lost directory takes everything in it along. Parents sort before their children.
    void drop_orphans(Names *names) const {
        for (auto it = names->begin(); it != names->end();) {
            auto parent = names->find(parent_directory(it->first));
            bool fine =
                it->first == "/" || (parent != names->end() && files.at(parent->second).directory);
            it = fine ? std::next(it) : names->erase(it);
        }
    }
};

std::vector<std::set<size_t>> choices(const std::vector<size_t> &pending) {
    std::vector<std::set<size_t>> out;
    if (pending.size() <= kSubsetsUpTo) {
        for (size_t bits = 0; bits < (size_t{1} << pending.size()); bits++) {
            std::set<size_t> chosen;
            for (size_t i = 0; i < pending.size(); i++) {
                if ((bits >> i & 1) != 0) {
                    chosen.insert(pending[i]);
                }
            }
            out.push_back(chosen);
        }
        return out;
    }
    for (size_t n = 0; n <= pending.size(); n++) {
        out.emplace_back(pending.begin(), pending.begin() + static_cast<long>(n));
    }
    return out;
}

// Each element: which outcome each dirty file takes.
std::vector<std::map<uint64_t, size_t>>
combinations(const std::map<uint64_t, std::vector<Outcome>> &outcomes) {
    std::vector<std::map<uint64_t, size_t>> out = {{}};
    if (outcomes.size() <= kProductUpTo) {
        for (const auto &[inode, list] : outcomes) {
            std::vector<std::map<uint64_t, size_t>> longer;
            for (const auto &head : out) {
                for (size_t i = 0; i < list.size(); i++) {
                    longer.push_back(head);
                    longer.back()[inode] = i;
                }
            }
            out = longer;
        }
        return out;
    }
    size_t most = 0;
    for (const auto &[inode, list] : outcomes) {
        most = std::max(most, list.size());
    }
    out.clear();
    for (size_t i = 0; i < most; i++) {
        out.emplace_back();
        for (const auto &[inode, list] : outcomes) {
            out.back()[inode] = std::min(i, list.size() - 1);
        }
    }
    return out;
}

Disk disk_of(const Replay &replay, const Names &names,
             const std::map<uint64_t, std::vector<Outcome>> &outcomes,
             const std::map<uint64_t, size_t> &chosen, std::string *what) {
    Disk disk;
    for (const auto &[path, inode] : names) {
        const FileData &file = replay.files.at(inode);
        disk[path] = {inode, file.directory, file.full, file.modified};
        auto dirty = chosen.find(inode);
        if (dirty != chosen.end()) {
            const Outcome &outcome = outcomes.at(inode)[dirty->second];
            disk[path].data = outcome.data;
            *what += ", " + path + " " + outcome.name;
        }
    }
    return disk;
}

// Paths and bytes: what can tell two disks apart.
std::map<std::string, std::string> visible(const Disk &disk) {
    std::map<std::string, std::string> out;
    for (const auto &[path, file] : disk) {
        out[path] = file.data;
    }
    return out;
}

} // namespace

void for_each_crash_disk(
    const Disk &base, const std::vector<FileOp> &log,
    const std::function<void(const std::string &what, const Disk &disk)> &visit) {
    Replay replay;
    for (const auto &[path, file] : base) {
        replay.base[path] = file.inode;
        replay.files[file.inode] = {file.is_directory, file.data, file.data, file.modified};
    }
    for (const FileOp &op : log) {
        if (op.result >= 0) {
            replay.step(op);
        }
    }
    std::map<uint64_t, std::vector<Outcome>> outcomes;
    for (const auto &[inode, file] : replay.files) {
        if (file.durable != file.full) {
            outcomes[inode] = outcomes_of(file);
        }
    }
    std::vector<size_t> pending = replay.pending();
    std::set<std::map<std::string, std::string>> seen;
    for (const std::set<size_t> &kept : choices(pending)) {
        Names names = replay.names_with(kept);
        for (const auto &chosen : combinations(outcomes)) {
            std::string what = ", names: " + std::to_string(kept.size()) + " of " +
                               std::to_string(pending.size()) + " kept";
            Disk disk = disk_of(replay, names, outcomes, chosen, &what);
            if (seen.insert(visible(disk)).second) {
                visit(what, disk);
            }
        }
    }
}
