// crash_replay.h - which disks a power cut may leave, given the calls made so far. The rules are in
// memory_files.h, which is what tests use.
#ifndef CAIRN_TESTS_SUPPORT_CRASH_REPLAY_H
#define CAIRN_TESTS_SUPPORT_CRASH_REPLAY_H

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/support/memory_files.h"

struct DiskFile {
    uint64_t inode = 0;
    bool is_directory = false;
    std::string data;
    double modified = 0;
};
using Disk = std::map<std::string, DiskFile>; // by path; "/" is in it

std::string parent_directory(const std::string &path);                        // of "/a/b": "/a"
void overwrite(std::string *data, uint64_t offset, const std::string &bytes); // grows with zeros

// `base`: what was durable before the first call of `log`. `visit` sees each distinct disk once.
void for_each_crash_disk(
    const Disk &base, const std::vector<FileOp> &log,
    const std::function<void(const std::string &what, const Disk &disk)> &visit);

#endif
