#include "tests/support/archive_bytes.h"

#include <gtest/gtest.h>
#include <stdint.h>
#include <stdio.h>
#include <zstd.h>

#include <algorithm>

std::string tar_entry(const std::string &name, const std::string &content, char type,
                      const std::string &link) {
    EXPECT_LE(name.size(), 100u);
    std::string header(512, '\0');
    auto put = [&header](size_t at, const std::string &bytes) {
        header.replace(at, bytes.size(), bytes);
    };
    char size[13];
    snprintf(size, sizeof size, "%011zo", type == '0' ? content.size() : 0);
    put(0, name);
    put(100, type == '5' ? "0000755" : "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, size);
    put(136, "00000000000");
    put(148, "        "); // the checksum counts as blanks
    put(156, std::string(1, type));
    put(157, link);
    put(257, std::string("ustar\0"
                         "00",
                         8));
    unsigned sum = 0;
    for (char c : header) {
        sum += static_cast<unsigned char>(c);
    }
    char checksum[8];
    snprintf(checksum, sizeof checksum, "%06o", sum & 0777777);
    put(148, checksum);
    header[154] = '\0';
    if (type != '0') {
        return header;
    }
    return header + content + std::string((512 - content.size() % 512) % 512, '\0');
}

std::string tar_end() {
    return std::string(1024, '\0');
}

static std::string little_endian(uint64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; i++) {
        out += static_cast<char>(value >> (8 * i) & 255);
    }
    return out;
}

static uint32_t crc32_of(const std::string &content) {
    uint32_t crc = 0xffffffff;
    for (char c : content) {
        crc ^= static_cast<unsigned char>(c);
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb88320 : 0);
        }
    }
    return ~crc;
}

std::string gzip_stored(const std::string &content) {
    std::string out("\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
    size_t at = 0;
    do {
        std::string block = content.substr(at, std::min<size_t>(65535, content.size() - at));
        at += block.size();
        out += at == content.size() ? '\1' : '\0'; // the last block
        out += little_endian(block.size(), 2) + little_endian(~block.size(), 2) + block;
    } while (at < content.size());
    return out + little_endian(crc32_of(content), 4) + little_endian(content.size(), 4);
}

std::string zstd_long_window(const std::string &content) {
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 27);
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    std::string out(ZSTD_compressBound(content.size()), '\0');
    // Without the size of the content in the header the window is not made smaller to fit it.
    ZSTD_outBuffer target = {out.data(), out.size(), 0};
    size_t half = content.size() / 2;
    ZSTD_inBuffer first = {content.data(), half, 0};
    ZSTD_inBuffer second = {content.data() + half, content.size() - half, 0};
    EXPECT_FALSE(ZSTD_isError(ZSTD_compressStream2(context, &target, &first, ZSTD_e_flush)));
    EXPECT_EQ(ZSTD_compressStream2(context, &target, &second, ZSTD_e_end), 0u);
    ZSTD_freeCCtx(context);
    out.resize(target.pos);
    EXPECT_EQ(static_cast<unsigned char>(out[4]) & 0x20, 0); // no single-segment frame
    EXPECT_EQ(static_cast<unsigned char>(out[5]), (27 - 10) << 3);
    return out;
}
