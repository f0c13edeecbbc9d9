// Files that no encoder of ours would write, made by hand: each is refused, and the reason says
// what is wrong.
#include <gtest/gtest.h>
#include <zstd.h>

#include "io/checkpoint.h"
#include "tests/support/checkpoint_bytes.h"

namespace {

constexpr size_t FRAME = size_t{4} << 20;

// Refused, and the reason says what it should.
void expect_refused(const std::string &bytes, const std::string &reason, const std::string &what,
                    enum status status = STATUS_CORRUPT) {
    Decoded decoded = decode(bytes);
    EXPECT_EQ(decoded.status, status) << what << ": " << decoded.message;
    EXPECT_EQ(decoded.checkpoint, nullptr) << what;
    EXPECT_NE(decoded.message.find(reason), std::string::npos)
        << what << ": '" << decoded.message << "' does not say '" << reason << "'";
}

TEST(Refuse, HeadersThatLie) {
    std::string good = json_entry("w", "U8", "[8]", "[0,8]");
    const struct {
        std::string json, reason;
    } cases[] = {
        {"", "does not start with '{'"},
        {" {" + good + "}", "does not start with '{'"},
        {"[" + good + "]", "does not start with '{'"},
        {"{" + good, "not valid JSON"},
        {"{" + good + "}}", "not valid JSON"},
        {"{" + good + "} x", "not valid JSON"},
        {"{" + good + "," + good + "}", "not valid JSON"}, // duplicate name
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}," + good + "}", "not valid JSON"},
        {"{\"__metadata__\":{\"a\":1}," + good + "}", "metadata 'a' is not a string"},
        {"{\"__metadata__\":[]," + good + "}", "is not an object"},
        {"{\"a\\u0000b\":1," + good + "}", "not valid JSON"},
        {"{\"w\":7}", "is not described by exactly"},
        {"{\"w\":[]}", "is not described by exactly"},
        {"{\"w\":{\"dtype\":\"U8\",\"shape\":[8]}}", "is not described by exactly"},
        {"{\"w\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8],\"x\":1}}",
         "is not described by exactly"},
        {"{\"w\":{\"dtype\":8,\"shape\":[8],\"data_offsets\":[0,8]}}", "\"dtype\" is not a string"},
        {"{" + json_entry("w", "I16", "[4]", "[0,8]") + "}", "has dtype 'I16'"},
        {"{" + json_entry("w", "f32", "[2]", "[0,8]") + "}", "has dtype 'f32'"},
        {"{" + json_entry("w", "F32\\u001b[31m", "[2]", "[0,8]") + "}", "dtype 'F32\\x1B[31m'"},
        {"{" + json_entry("w", "U8", "8", "[0,8]") + "}", "is not a list"},
        {"{" + json_entry("w", "U8", "[1,1,1,1,8]", "[0,8]") + "}", "5 dimensions, 4 is the limit"},
        {"{" + json_entry("w", "U8", "[-8]", "[0,8]") + "}", "dimension 0"},
        {"{" + json_entry("w", "U8", "[8.0]", "[0,8]") + "}", "dimension 0"},
        {"{" + json_entry("w", "U8", "[1,\"8\"]", "[0,8]") + "}", "dimension 1"},
        {"{" + json_entry("w", "U8", "[18446744073709551624]", "[0,8]") + "}", "not valid JSON"},
        {"{" + json_entry("w", "U8", "[4294967296,4294967296]", "[0,8]") + "}", "overflows"},
        // 2^62 + 2 elements of 4 bytes are 8 bytes when 64 bits wrap.
        {"{" + json_entry("w", "F32", "[4611686018427387906]", "[0,8]") + "}", "overflows"},
        {"{" + json_entry("w", "F64", "[2305843009213693953]", "[0,8]") + "}", "overflows"},
        {"{" + json_entry("w", "U8", "[8]", "0") + "}", "not two ascending numbers"},
        {"{" + json_entry("w", "U8", "[8]", "[8]") + "}", "not two ascending numbers"},
        {"{" + json_entry("w", "U8", "[8]", "[0,4,8]") + "}", "not two ascending numbers"},
        {"{" + json_entry("w", "U8", "[8]", "[8,0]") + "}", "not two ascending numbers"},
        {"{" + json_entry("w", "U8", "[8]", "[-8,0]") + "}", "not two ascending numbers"},
        {"{" + json_entry("w", "U8", "[8]", "[0,7]") + "}",
         "need 8 bytes, its data_offsets hold 7"},
        {"{" + json_entry("w", "U8", "[4]", "[0,4]") + "," + json_entry("x", "U8", "[5]", "[3,8]") +
             "}",
         "overlap"},
        {"{" + json_entry("w", "U8", "[8]", "[0,8]") + "," + json_entry("x", "U8", "[8]", "[0,8]") +
             "}",
         "overlap"},
        {"{" + json_entry("w", "U8", "[4]", "[0,4]") + "," + json_entry("x", "U8", "[3]", "[5,8]") +
             "}",
         "hole"},
        {"{" + json_entry("w", "U8", "[7]", "[1,8]") + "}", "hole"},
        {"{" + json_entry("x", "U8", "[0]", "[9,9]") + "," + good + "}", "hole"},
        {"{" + json_entry("w", "U8", "[68719476737]", "[0,68719476737]") + "}", "is the limit"},
        {"{" + json_entry("", "U8", "[8]", "[0,8]") + "}", "empty name"},
        {"{" + json_entry(std::string(96, 'n'), "U8", "[8]", "[0,8]") + "}", "has 96 bytes"},
        {"{\"w\":" + std::string(5000, '[') + std::string(5000, ']') + "}", "not valid JSON"},
    };
    std::string data = "12345678";
    for (const auto &c : cases) {
        expect_refused(safetensors_header(c.json) + data, c.reason,
                       "plain " + c.json.substr(0, 80));
        expect_refused(assemble(safetensors_header(c.json), data), c.reason, c.json.substr(0, 80));
    }
}

TEST(Refuse, TooManyTensorsAndTooLargeHeaders) {
    std::string json = "{" + json_entry("w", "U8", "[8]", "[0,8]");
    for (int i = 0; i < 1024; i++) {
        json += "," + json_entry("e" + std::to_string(i), "U8", "[0]", "[8,8]");
    }
    expect_refused(safetensors_header(json + "}") + "12345678", "more than 1024 tensors",
                   "tensors");
    std::string huge = "{\"__metadata__\":{\"a\":\"" + std::string(1 << 20, 'x') + "\"}}";
    expect_refused(safetensors_header(huge), "is the limit", "plain");
    expect_refused(assemble(safetensors_header(huge), ""), "the header's frame holds",
                   "compressed");
    expect_refused(little_endian(UINT64_MAX, 8) + "{}", "is the limit", "length of all ones");
    expect_refused(little_endian(1000, 8) + "{}      ", "cut off in its header", "cut");
}

TEST(Refuse, PlainFilesOfTheWrongLength) {
    std::string file =
        safetensors_header("{" + json_entry("w", "U8", "[8]", "[0,8]") + "}") + "12345678";
    ASSERT_EQ(decode(file).status, STATUS_OK);
    expect_refused(file + "x", "holds 9 bytes of tensors", "trailing byte");
    for (size_t size = 0; size < file.size(); size++) {
        EXPECT_EQ(decode(file.substr(0, size)).status, STATUS_CORRUPT) << size;
    }
    // A tensor of 60 GiB in a file of 100 bytes must not cost 60 GiB of memory.
    expect_refused(
        safetensors_header("{" + json_entry("w", "U8", "[64424509440]", "[0,64424509440]") + "}"),
        "holds 0 bytes of tensors, its header describes 64424509440", "60 GiB");
}

// A small good checkpoint in parts, to be taken apart by the tests below.
struct Parts {
    std::string data = std::string(1000, 'd') + std::string(1000, 'e');
    std::string json = "{\"__metadata__\":{\"format_version\":\"1\",\"digest.w\":\"" +
                       xxh3_hex(data) + "\"}," + json_entry("w", "U8", "[2000]", "[0,2000]") + "}";
    std::string header = safetensors_header(json);
};

TEST(Refuse, ContainersThatLie) {
    Parts p;
    ASSERT_EQ(decode(assemble(p.header, p.data)).status, STATUS_OK);
    Frame head = make_frame(p.header), data = make_frame(p.data);
    FrameOptions bare, sizeless, wide;
    bare.checksum = false;
    sizeless.content_size = false;
    wide.window_log = 24;

    expect_refused(assemble({head, make_frame(p.data, bare)}), "no content checksum", "data");
    expect_refused(assemble({make_frame(p.header, bare), data}), "no content checksum", "header");
    expect_refused(assemble({head, make_frame(p.data, sizeless)}), "how large its content is",
                   "data");
    expect_refused(assemble({make_frame(p.header, sizeless), data}), "how large", "header");
    expect_refused(assemble({head, make_frame(p.data, wide)}), "window", "window of 16 MiB");
    expect_refused(assemble({head, data, make_frame("")}), "seek table", "an empty frame more");
    expect_refused(
        assemble({head, make_frame(p.data.substr(0, 1000)), make_frame(p.data.substr(1000))}),
        "seek table", "two frames for one");
    expect_refused(assemble({head}), "cut off", "no data");
    expect_refused(assemble({head, make_frame(p.data + "x")}), "holds 2001 bytes, 2000", "longer");
    expect_refused(assemble({head, make_frame(p.data.substr(1))}), "holds 1999 bytes, 2000",
                   "shorter");
    expect_refused(assemble({data, head}), "header", "order");
    expect_refused(assemble({make_frame(p.header + "y"), data}), "bytes of JSON", "header longer");
    expect_refused(assemble({make_frame(p.header.substr(0, 7)), data}), "header's frame",
                   "7 bytes");

    // Descriptor: one byte of dictionary id, one of size, single segment, checksum; one raw block.
    std::string foreign = little_endian(0xFD2FB528, 4) + "\x25\x07\x01" +
                          little_endian(0x000009, 3) + "x" + little_endian(xxh64_low("x"), 4);
    expect_refused(assemble({head, {foreign, "x"}}), "has a dictionary", "dictionary");

    std::string frames = head.bytes + data.bytes, digest = digest_frame(frames);
    std::string table = seek_table({head, data});
    ASSERT_EQ(decode(frames + digest + table).status, STATUS_OK);
    expect_refused(frames, "cut off", "frames only, as plain zstd writes them");
    expect_refused(frames + digest, "cut off", "no seek table");
    expect_refused(frames + table, "zstd frame is expected", "no digest");
    expect_refused(frames + digest_frame(frames + "x") + table, "digest", "another digest");
    expect_refused(frames + digest + digest + table, "frames end at", "digest twice");
    expect_refused(frames + digest + table + table, "frames", "table twice");
    expect_refused(frames + digest + table + "x", "does not end with a seek table", "appended");
    expect_refused(frames + digest + seek_table({head, head}), "entry 1 of the seek table",
                   "entry");
    expect_refused(frames + digest + seek_table({data, data}), "entry 0 of the seek table",
                   "entry");
    std::string skippable = little_endian(0x184D2A50, 4) + little_endian(4, 4) + "evil";
    expect_refused(skippable + frames + digest + table, "neither a checkpoint", "skippable first");
    expect_refused(head.bytes + skippable + data.bytes + digest + table, "zstd frame is expected",
                   "skippable between");
}

TEST(Refuse, DecompressionBombs) {
    // The frames hold more than the header says: nothing but what it says may be decompressed.
    Parts p;
    std::string zeros(FRAME, '\0');
    std::vector<Frame> frames = {make_frame(p.header)};
    for (int i = 0; i < 64; i++) {
        frames.push_back(make_frame(zeros));
    }
    expect_refused(assemble(frames), "seek table", "256 MiB behind a header of 2000 bytes");

    // One frame of 64 MiB.
    std::string json = "{\"__metadata__\":{\"format_version\":\"1\"}," +
                       json_entry("w", "U8", "[67108864]", "[0,67108864]") + "}";
    std::string header = safetensors_header(json);
    std::vector<Frame> one(17, make_frame("x"));
    one[0] = make_frame(header);
    one[1] = make_frame(std::string(size_t{64} << 20, '\0'));
    expect_refused(assemble(one), "claims to hold 67108864 bytes", "a frame of 64 MiB");

    // A frame of a few bytes that claims 4 MiB: a header with the size, one raw block, a checksum.
    std::string claim = little_endian(0xFD2FB528, 4) + '\xA4' + little_endian(FRAME, 4) +
                        little_endian(0x000009, 3) + "x" + little_endian(xxh64_low("x"), 4);
    ASSERT_EQ(ZSTD_getFrameContentSize(claim.data(), claim.size()), FRAME);
    ASSERT_EQ(ZSTD_findFrameCompressedSize(claim.data(), claim.size()), claim.size());
    std::string size = std::to_string(FRAME);
    std::string lie =
        safetensors_header("{\"__metadata__\":{\"format_version\":\"1\"}," +
                           json_entry("w", "U8", "[" + size + "]", "[0," + size + "]") + "}");
    expect_refused(assemble({make_frame(lie), {claim, zeros}}), "claims to hold 4194304 bytes",
                   "a frame of 17 bytes");

    // 60 GiB in the header, a few bytes of file.
    std::string giant =
        safetensors_header("{\"__metadata__\":{\"format_version\":\"1\"}," +
                           json_entry("w", "U8", "[64424509440]", "[0,64424509440]") + "}");
    expect_refused(assemble({make_frame(giant), make_frame("x")}), "cut off", "60 GiB");
}

TEST(Refuse, OtherVersionsSayingWhich) {
    auto file = [](const std::string &version) {
        return safetensors_header("{\"__metadata__\":{\"format_version\":\"" + version + "\"}}");
    };
    for (const std::string version : {"2", "0", "01", "1.0", "", "x\\ny"}) {
        Decoded compressed = decode(assemble(file(version), ""));
        EXPECT_EQ(compressed.status, STATUS_DATA);
        EXPECT_NE(compressed.message.find("format version '" +
                                          (version == "x\\ny" ? "x\\x0Ay" : version) +
                                          "', this program reads version 1"),
                  std::string::npos)
            << compressed.message;
        EXPECT_EQ(decode(file(version)).status, STATUS_DATA);
    }
    // A later version may know more, and end differently: it is still the version that is reported.
    const std::string later = "{\"__metadata__\":{\"format_version\":\"2\"},";
    for (const std::string &unknown :
         {json_entry("w", "F8_E4M3", "[1]", "[0,1]"), json_entry("w", "U8", "[1,1,1,1,1]", "[0,1]"),
          json_entry("a name", "U8", "[1]", "[7,8]"),
          std::string("\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"scale\":2}"),
          std::string("\"w\":[]")}) {
        const std::string header = safetensors_header(later + unknown + "}");
        expect_refused(assemble(header, "x"), "version '2'", unknown, STATUS_DATA);
        EXPECT_EQ(decode(header + "x").status, STATUS_DATA) << unknown;
    }
    expect_refused(zstd_frame(file("2")) + "something new", "version '2'", "unknown end",
                   STATUS_DATA);
    expect_refused(assemble(safetensors_header("{}"), ""), "lack \"format_version\"", "none");
}

TEST(Refuse, AHeaderThatIsNotInTheFormThatIsPromised) {
    const std::string json = "{\"__metadata__\": {\"format_version\":\"1\"}}";
    ASSERT_EQ(json.size() % 8, 0u);
    EXPECT_EQ(decode(assemble(safetensors_header(json), "")).status, STATUS_OK);
    for (const std::string padding : {"\n       ", "       \t", " "}) {
        const std::string padded = json + padding;
        expect_refused(assemble(little_endian(padded.size(), 8) + padded, ""), "padded with spaces",
                       "padding");
        EXPECT_EQ(decode(little_endian(padded.size(), 8) + padded).status, STATUS_OK)
            << "plain safetensors files may be of other programs";
    }
    for (const std::string name : {"a b", "\\u0001", "\xC3\xA9"}) {
        const std::string digest(32, '0');
        const std::string named = safetensors_header(
            "{\"__metadata__\":{\"format_version\":\"1\",\"digest." + name + "\":\"" + digest +
            "\"}," + json_entry(name, "U8", "[1]", "[0,1]") + "}");
        expect_refused(assemble(named, "x"), "cannot be the name of a tensor", name);
    }
}

TEST(Refuse, DigestsOfTensors) {
    Parts p;
    std::string other = p.data;
    other[1500] ^= 1;
    expect_refused(assemble(p.header, other), "tensor 'w' does not have the digest", "one bit");
    std::string undigested = safetensors_header("{\"__metadata__\":{\"format_version\":\"1\"}," +
                                                json_entry("w", "U8", "[2000]", "[0,2000]") + "}");
    expect_refused(assemble(undigested, p.data), "tensor 'w' has no digest", "no digest");
    std::string json = p.json;
    json.replace(json.find("\"digest.w\""), 10, "\"digest.x\":\"\",\"digest.w\"");
    expect_refused(assemble(safetensors_header(json), p.data), "digests of 2 tensors",
                   "one too many");
}

TEST(Refuse, ThingsThatAreNoCheckpoint) {
    expect_refused("", "empty", "nothing");
    expect_refused("x", "neither a checkpoint nor", "one byte");
    expect_refused(std::string(100, '\0'), "does not start with '{'", "zeros");
    expect_refused("PK\x03\x04 an archive of some kind", "neither a checkpoint", "zip");
    expect_refused("\x28\xB5\x2F\xFD", "cut off or damaged", "magic only");
    expect_refused(zstd_frame(std::string(100, 'a')), "says", "zstd of something else");
}

} // namespace
