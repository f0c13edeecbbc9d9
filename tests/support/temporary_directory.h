// temporary_directory.h - a directory that lives as long as the object. Below $TMPDIR (default
// /tmp).
#ifndef CAIRN_TESTS_SUPPORT_TEMPORARY_DIRECTORY_H
#define CAIRN_TESTS_SUPPORT_TEMPORARY_DIRECTORY_H

#include <string>

class TemporaryDirectory {
  public:
    TemporaryDirectory();
    ~TemporaryDirectory(); // removes it with everything in it
    TemporaryDirectory(const TemporaryDirectory &) = delete;
    TemporaryDirectory &operator=(const TemporaryDirectory &) = delete;
    const std::string &path() const { return path_; }
    std::string file(const std::string &name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

void write_file(const std::string &path, const std::string &content); // fails the test on error
std::string read_file(const std::string &path); // "" and a failure when absent

#endif
