// Growing text, JSON and terminal escapes, number parsing and clocks of host/base/text.h.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <string>
#include <vector>

#include "host/base/rng.h"
#include "host/base/text.h"

namespace {

struct Text {
    ~Text() { text_free(&text); }
    std::string string() const { return std::string(text.bytes ? text.bytes : "", text.size); }
    struct text text = {};
};

std::string json(const std::string &bytes) {
    Text t;
    text_append_json(&t.text, bytes.data(), bytes.size());
    EXPECT_FALSE(t.text.failed);
    return t.string();
}

TEST(Text, GrowsByAppendAndPrintf) {
    Text t;
    std::string expected;
    for (int i = 0; i < 1000; i++) {
        text_printf(&t.text, "%d:", i);
        text_append(&t.text, "x\0y", 3);
        expected += std::to_string(i) + ":" + std::string("x\0y", 3);
    }
    EXPECT_EQ(t.string(), expected);
    EXPECT_EQ(t.text.bytes[t.text.size], '\0');
    text_clear(&t.text);
    EXPECT_EQ(t.text.size, 0u);
    text_append(&t.text, "", 0);
    EXPECT_EQ(t.string(), "");
    text_printf(&t.text, "%s", std::string(5000, 'q').c_str());
    EXPECT_EQ(t.string(), std::string(5000, 'q'));
}

TEST(Text, FailsForGoodWhenTooLarge) {
    Text t;
    text_append(&t.text, "abc", 3);
    text_append(&t.text, "d", SIZE_MAX - 1);
    EXPECT_TRUE(t.text.failed);
    text_append(&t.text, "e", 1);
    EXPECT_EQ(t.string(), "abc");
    text_clear(&t.text);
    text_append(&t.text, "f", 1);
    EXPECT_EQ(t.string(), "f");
}

TEST(Text, JsonEscapesWhatJsonForbids) {
    EXPECT_EQ(json(""), "\"\"");
    EXPECT_EQ(json("plain /text"), "\"plain /text\"");
    EXPECT_EQ(json("a\"b\\c"), "\"a\\\"b\\\\c\"");
    EXPECT_EQ(json("\b\f\n\r\t"), "\"\\b\\f\\n\\r\\t\"");
    EXPECT_EQ(json(std::string("\0\x01\x1f\x7f", 4)), "\"\\u0000\\u0001\\u001f\x7f\"");
    EXPECT_EQ(json("\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"),
              "\"\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\"");
}

TEST(Text, JsonReplacesInvalidUtf8ByteByByte) {
    const std::string r = "\xEF\xBF\xBD";
    EXPECT_EQ(json("a\xFFz"), "\"a" + r + "z\"");
    EXPECT_EQ(json("\x80"), "\"" + r + "\"");
    EXPECT_EQ(json("\xC0\xAF"), "\"" + r + r + "\"");                 // overlong '/'
    EXPECT_EQ(json("\xE0\x80\xAF"), "\"" + r + r + r + "\"");         // overlong, three bytes
    EXPECT_EQ(json("\xED\xA0\x80"), "\"" + r + r + r + "\"");         // surrogate D800
    EXPECT_EQ(json("\xED\x9F\xBF"), "\"\xED\x9F\xBF\"");              // U+D7FF is legal
    EXPECT_EQ(json("\xF4\x90\x80\x80"), "\"" + r + r + r + r + "\""); // U+110000
    EXPECT_EQ(json("\xF4\x8F\xBF\xBF"), "\"\xF4\x8F\xBF\xBF\"");      // U+10FFFF is legal
    EXPECT_EQ(json("x\xE2\x82"), "\"x" + r + r + "\"");               // cut at the end
    EXPECT_EQ(json("\xE2\x82\xE2\x82\xAC"), "\"" + r + r + "\xE2\x82\xAC\"");
    EXPECT_EQ(json("\xC3\n"), "\"" + r + "\\n\"");
}

TEST(Text, JsonDoublesRoundTrip) {
    struct rng rng = rng_make(1, RNG_STREAM_DEMO, 0);
    std::vector<double> values = {0.0,  -0.0, 0.1, 1.0 / 3, 1e-7, 5e-324, 1.7976931348623157e308,
                                  -1e22};
    while (values.size() < 2000) {
        uint64_t bits = rng_next_u64(&rng);
        double value;
        std::memcpy(&value, &bits, sizeof value);
        if (std::isfinite(value)) {
            values.push_back(value);
        }
    }
    for (double value : values) {
        Text t;
        text_append_json_double(&t.text, value);
        double again;
        ASSERT_TRUE(text_parse_double(t.text.bytes, &again)) << t.text.bytes;
        EXPECT_EQ(std::memcmp(&again, &value, sizeof value), 0) << t.text.bytes;
    }
}

TEST(Text, JsonDoublesThatAreNoNumbersAreStrings) {
    Text t;
    text_append_json_double(&t.text, std::nan(""));
    text_append_json_double(&t.text, std::numeric_limits<double>::infinity());
    text_append_json_double(&t.text, -std::numeric_limits<double>::infinity());
    EXPECT_EQ(t.string(), "\"nan\"\"inf\"\"-inf\"");
}

std::string escape(const std::string &bytes, size_t capacity = 256) {
    std::vector<char> out(capacity, '~');
    return text_escape(bytes.data(), bytes.size(), out.data(), capacity);
}

TEST(Text, EscapesControlBytes) {
    EXPECT_EQ(escape("plain"), "plain");
    EXPECT_EQ(escape("a\nb\x1b[31m\x7f"), "a\\x0Ab\\x1B[31m\\x7F");
    EXPECT_EQ(escape(std::string("\0", 1)), "\\x00");
    EXPECT_EQ(escape("\xC2\x9B"), "\\xC2\\x9B"); // the C1 form of ESC [
    EXPECT_EQ(escape("caf\xC3\xA9"), "caf\xC3\xA9");
    EXPECT_EQ(escape("\xFFz"), "\\xFFz");
}

TEST(Text, EscapeShowsACutAndNeverSplitsACharacter) {
    EXPECT_EQ(escape("abcdef", 7), "abcdef");
    EXPECT_EQ(escape("abcdefg", 7), "abc...");
    EXPECT_EQ(escape("ab\xC3\xA9zzz", 7), "ab...");
    EXPECT_EQ(escape("\n\n", 8), "\\x0A...");
    EXPECT_EQ(escape("abcdef", 3), "..");
    EXPECT_EQ(escape("abcdef", 1), "");
    for (size_t capacity = 1; capacity < 40; capacity++) {
        EXPECT_LT(escape("x\n\xE2\x82\xAC\x01tail and more of it", capacity).size(), capacity);
    }
}

TEST(Text, ParsesIntegers) {
    int64_t i = 0;
    uint64_t u = 0;
    EXPECT_TRUE(text_parse_i64("-9223372036854775808", &i));
    EXPECT_EQ(i, INT64_MIN);
    EXPECT_TRUE(text_parse_i64("+12", &i));
    EXPECT_EQ(i, 12);
    EXPECT_TRUE(text_parse_i64("007", &i));
    EXPECT_EQ(i, 7);
    EXPECT_TRUE(text_parse_u64("18446744073709551615", &u));
    EXPECT_EQ(u, UINT64_MAX);
    for (const char *bad : {"", " 1", "1 ", "x", "1x", "0x10", "-", "+", "--1", "1.0",
                            "9223372036854775808", "-9223372036854775809"}) {
        i = 55;
        EXPECT_FALSE(text_parse_i64(bad, &i)) << bad;
        EXPECT_EQ(i, 55) << bad;
    }
    for (const char *bad : {"", " 1", "-1", "+1", "1k", "18446744073709551616"}) {
        EXPECT_FALSE(text_parse_u64(bad, &u)) << bad;
    }
}

TEST(Text, ParsesDoubles) {
    double d = 0;
    EXPECT_TRUE(text_parse_double("1e-4", &d));
    EXPECT_EQ(d, 1e-4);
    EXPECT_TRUE(text_parse_double("-.5", &d));
    EXPECT_EQ(d, -0.5);
    EXPECT_TRUE(text_parse_double("5e-324", &d)); // the smallest number fits
    EXPECT_EQ(d, std::numeric_limits<double>::denorm_min());
    EXPECT_TRUE(text_parse_double("nan", &d));
    EXPECT_TRUE(std::isnan(d));
    EXPECT_TRUE(text_parse_double("-inf", &d));
    EXPECT_TRUE(std::isinf(d));
    for (const char *bad : {"", " 1", "\n1", "1 ", "1,5", "x", "1e", "1e999", "-1e999"}) {
        d = 55;
        EXPECT_FALSE(text_parse_double(bad, &d)) << bad;
        EXPECT_EQ(d, 55) << bad;
    }
}

TEST(Text, MonotonicClockDoesNotGoBack) {
    double last = clock_monotonic_seconds();
    for (int i = 0; i < 1000; i++) {
        double now = clock_monotonic_seconds();
        EXPECT_GE(now, last);
        last = now;
    }
    EXPECT_NEAR(clock_wall_seconds(), (double)time(nullptr), 5.0);
}

} // namespace
