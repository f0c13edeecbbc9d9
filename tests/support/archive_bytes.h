// archive_bytes.h - tar files made byte by byte here, and their compressed forms, so that tests
// depend on neither the machine's tar nor on the library that reads them.
#ifndef CAIRN_TESTS_SUPPORT_ARCHIVE_BYTES_H
#define CAIRN_TESTS_SUPPORT_ARCHIVE_BYTES_H

#include <string>

// One ustar entry: header and content, padded to blocks. `type`: '0' a file, '5' a folder, '1' a
// hard link, '2' a symbolic link. Names up to 100 bytes.
std::string tar_entry(const std::string &name, const std::string &content, char type = '0',
                      const std::string &link = "");

// The two blocks of zeros behind the last entry.
std::string tar_end();

// A gzip file of stored (uncompressed) blocks.
std::string gzip_stored(const std::string &content);

// One zstd frame whose header asks for a window of 2^27 bytes, as `zstd --long=27` writes it.
std::string zstd_long_window(const std::string &content);

#endif
