// The checkpoint reader, with a mutator that knows the format.
//
// Checksums, digests and seek table would refuse nearly everything a plain fuzzer tries. The
// mutator takes a file apart (frames, header, tensors' bytes), changes one part, and repairs
// what guards it, so that the change is seen by the code behind the guard; sometimes it leaves
// one guard as it was.
//
// What is accepted: every tensor can be touched and has the digest that the metadata give; the
// content as a plain safetensors file says the same; written by the encoder it is read back the
// same.
#include <algorithm>
#include <cstring>
#include <jansson.h>
#include <random>
#include <zstd.h>

#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/checkpoint_bytes.h"

namespace {

const size_t kContentMax = 1 << 20; // what the mutator takes apart; the reader gets any size

// ---- properties ----

void check_tensors(const struct checkpoint &checkpoint) {
    for (size_t i = 0; i < checkpoint.tensor_count; i++) {
        const struct tensor_view &tensor = checkpoint.tensors[i];
        uint64_t bytes = 0;
        char digest[33];
        FUZZ_CHECK(tensor_bytes(&tensor, &bytes));
        FUZZ_CHECK(reinterpret_cast<uintptr_t>(tensor.data) % 8 == 0);
        checkpoint_digest_hex(tensor.data, static_cast<size_t>(bytes), digest); // touches all
        const char *said =
            checkpoint_metadata(&checkpoint, (std::string("digest.") + tensor.name).c_str());
        FUZZ_CHECK(said == nullptr ? checkpoint.plain : strcmp(said, digest) == 0, tensor.name);
    }
}

// Content as a plain file: the same tensors, or, for the rules that only bind files of ours, the
// same file.
void check_plain(const std::string &bytes, const Decoded &decoded) {
    const Decoded plain = decode(decompress_all(bytes));
    FUZZ_CHECK(plain.status == STATUS_OK, plain.message);
    FUZZ_CHECK(plain.everything() == decoded.everything());
}

// The encoder refuses what must not be published (NaNs, names that no terminal shows); what it
// takes comes back.
void check_round_trip(const Decoded &decoded) {
    const struct checkpoint &checkpoint = *decoded.checkpoint;
    std::vector<Tensor> tensors;
    Metadata metadata;
    for (size_t i = 0; i < checkpoint.tensor_count; i++) {
        tensors.push_back({checkpoint.tensors[i], decoded.bytes_of(checkpoint.tensors[i].name)});
    }
    for (size_t i = 0; i < checkpoint.metadata_count; i++) {
        const std::string key = checkpoint.metadata[i].key;
        if (key != "format_version" && key.rfind("digest.", 0) != 0) {
            metadata.emplace_back(key, checkpoint.metadata[i].value);
        }
    }
    const Encoded encoded = encode(tensors, metadata);
    if (encoded.status == STATUS_OK) {
        const Decoded again = decode(encoded.bytes);
        FUZZ_CHECK(again.status == STATUS_OK, again.message);
        FUZZ_CHECK(again.everything() == decoded.everything());
        for (const auto &[key, value] : metadata) {
            FUZZ_CHECK(checkpoint_metadata(again.checkpoint.get(), key.c_str()) == value);
        }
    } else { // a NaN; of a plain file also a name, or more than a checkpoint holds
        FUZZ_CHECK(encoded.status == STATUS_NONFINITE || encoded.status == STATUS_CONFIG);
    }
}

// ---- taking apart ----

struct Parts {
    std::string header; // length and JSON
    std::string data;
};

// As far as the frames go; false when the file does not even begin with one.
bool take_apart(const std::string &bytes, Parts *out) {
    size_t at = 0;
    bool first = true;
    while (at < bytes.size()) {
        const size_t frame = ZSTD_findFrameCompressedSize(bytes.data() + at, bytes.size() - at);
        if (ZSTD_isError(frame)) {
            break;
        }
        std::string content(kContentMax, '\0');
        const size_t size =
            ZSTD_decompress(content.data(), content.size(), bytes.data() + at, frame);
        if (ZSTD_isError(size)) {
            break;
        }
        content.resize(size);
        (first ? out->header : out->data) += content;
        first = false;
        at += frame;
    }
    return out->header.size() >= SAFETENSORS_LENGTH_BYTES;
}

std::string json_of(const Parts &parts) {
    return parts.header.substr(SAFETENSORS_LENGTH_BYTES);
}

// The header around a JSON text, with its true length.
std::string header_of(const std::string &json) {
    return little_endian(json.size(), 8) + json;
}

// ---- repairing ----

// "digest.<name>" of every tensor that lies within the data, as its bytes now say. False when
// the JSON cannot be read.
bool repair_digests(Parts *parts) {
    json_t *root = json_loads(json_of(*parts).c_str(), 0, nullptr);
    json_t *metadata = json_object_get(root, "__metadata__");
    if (!json_is_object(metadata)) {
        json_decref(root);
        return false;
    }
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry) {
        const json_t *offsets = json_object_get(entry, "data_offsets");
        const json_int_t begin = json_integer_value(json_array_get(offsets, 0));
        const json_int_t end = json_integer_value(json_array_get(offsets, 1));
        if (offsets != nullptr && begin >= 0 && begin <= end &&
            end <= static_cast<json_int_t>(parts->data.size())) {
            const std::string bytes =
                parts->data.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
            json_object_set_new(metadata, (std::string("digest.") + name).c_str(),
                                json_string(xxh3_hex(bytes).c_str()));
        }
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(root);
    if (text == nullptr) {
        return false;
    }
    parts->header = header_of(text);
    free(text);
    return true;
}

// All offsets and the data's size as dtype and shape ask for, so that a changed shape is a file
// like any other.
bool repair_offsets(Parts *parts) {
    json_t *root = json_loads(json_of(*parts).c_str(), 0, nullptr);
    const char *name;
    json_t *entry;
    uint64_t at = 0;
    json_object_foreach(root, name, entry) {
        const json_t *shape = json_object_get(entry, "shape");
        const char *type = json_string_value(json_object_get(entry, "dtype"));
        enum dtype dtype = DTYPE_U8;
        if (strcmp(name, "__metadata__") == 0 || shape == nullptr || type == nullptr ||
            !dtype_from_name(type, &dtype)) {
            continue;
        }
        uint64_t bytes = dtype_bytes(dtype);
        for (size_t i = 0; i < json_array_size(shape); i++) {
            const auto edge = static_cast<uint64_t>(json_integer_value(json_array_get(shape, i)));
            bytes = edge > 65536 || bytes > 65536 ? 65536 : bytes * edge;
        }
        json_object_set_new(
            entry, "data_offsets",
            json_pack("[I,I]", static_cast<json_int_t>(at), static_cast<json_int_t>(at + bytes)));
        at += bytes;
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(root);
    if (text == nullptr || at > kContentMax) {
        free(text);
        return false;
    }
    parts->header = header_of(text);
    parts->data.resize(static_cast<size_t>(at), 'x');
    free(text);
    return true;
}

// Replace the last bytes of a file by a digest frame and a seek table that fit its frames.
std::string repair_end(const std::string &bytes) {
    std::vector<Frame> frames;
    size_t at = 0;
    while (at < bytes.size() && bytes.compare(at, 4, little_endian(0xFD2FB528, 4)) == 0) {
        const size_t size = ZSTD_findFrameCompressedSize(bytes.data() + at, bytes.size() - at);
        if (ZSTD_isError(size)) {
            break;
        }
        const unsigned long long content = ZSTD_getFrameContentSize(bytes.data() + at, size);
        Frame frame = {bytes.substr(at, size), ""};
        frame.content.resize(content <= kContentMax ? static_cast<size_t>(content) : 0);
        const size_t made =
            ZSTD_decompress(frame.content.data(), frame.content.size(), frame.bytes.data(), size);
        frame.content.resize(ZSTD_isError(made) ? 0 : made);
        frames.push_back(frame);
        at += size;
    }
    return assemble(frames);
}

} // namespace

// ---- the mutator ----

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
    __attribute__((weak));

static std::string mutate(std::string bytes, size_t more) {
    const size_t size = bytes.size();
    bytes.resize(size + more);
    bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(bytes.data()), size, bytes.size()));
    return bytes;
}

static std::string mutated(const std::string &bytes, std::minstd_rand *random) {
    Parts parts;
    if ((*random)() % 5 == 0 || !take_apart(bytes, &parts)) {
        return mutate(bytes, 64);
    }
    switch ((*random)() % 6) {
    case 0: // a frame is changed, the end fits it
        return repair_end(mutate(bytes, 64));
    case 1:
        parts.data = mutate(parts.data, 256);
        repair_digests(&parts);
        break;
    case 2:
        parts.header = mutate(parts.header, 64);
        break;
    case 3:
        parts.header = header_of(mutate(json_of(parts), 128));
        break;
    case 4:
        parts.header = header_of(mutate(json_of(parts), 128));
        repair_digests(&parts);
        break;
    default:
        parts.header = header_of(mutate(json_of(parts), 128));
        repair_offsets(&parts);
        repair_digests(&parts);
    }
    if ((*random)() % 8 == 0) {
        return parts.header + parts.data; // a plain safetensors file
    }
    return assemble(parts.header, parts.data);
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                                          unsigned seed) {
    std::minstd_rand random(seed);
    const std::string out = mutated(std::string(data, data + size), &random);
    if (out.size() > max_size) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    memcpy(data, out.data(), out.size());
    return out.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string bytes(data, data + size);
    const Decoded decoded = decode(bytes);
    if (decoded.status != STATUS_OK) {
        struct error err = {};
        snprintf(err.message, sizeof err.message, "%s", decoded.message.c_str());
        fuzz_check_refusal(decoded.status, err, {STATUS_CORRUPT, STATUS_DATA, STATUS_MEMORY});
        // What is damaged must not pass for another version's: that is refused, not passed over.
        FUZZ_CHECK((decoded.status == STATUS_DATA) ==
                   (decoded.message.find("has format version '") != std::string::npos));
        return 0;
    }
    check_tensors(*decoded.checkpoint);
    FUZZ_CHECK(decoded.checkpoint->file_bytes == size);
    if (!decoded.checkpoint->plain) {
        check_plain(bytes, decoded);
    }
    check_round_trip(decoded);
    return 0;
}
