// A configuration file: what is accepted survives being written and read again, name by name,
// value by value.
#include <utility>

#include "host/options_table.h"
#include "tests/fuzz/fuzz.h"

namespace {

using Entries = std::vector<std::pair<std::string, std::string>>;

enum status collect(void *user, const char *name, const char *value, struct error *) {
    static_cast<Entries *>(user)->emplace_back(name, value);
    return STATUS_OK;
}

// Names of options: no name in a file that holds anything else gets as far as being written.
bool is_option_name(const std::string &name) {
    return !name.empty() &&
           name.find_first_not_of("abcdefghijklmnopqrstuvwxyz-") == std::string::npos;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error err = {};
    Entries entries, again;
    const enum status status = options_config_read(reinterpret_cast<const char *>(data), size,
                                                   "config.ini", collect, &entries, &err);
    if (status != STATUS_OK) {
        fuzz_check_refusal(status, err, {STATUS_CONFIG});
        return 0;
    }
    struct text text = {};
    Entries kept;
    for (const auto &entry : entries) {
        if (is_option_name(entry.first)) {
            options_config_write(&text, entry.first.c_str(), entry.second.c_str());
            kept.push_back(entry);
        }
    }
    const std::string written(text.size > 0 ? text.bytes : "", text.size);
    text_free(&text);
    FUZZ_CHECK(options_config_read(written.data(), written.size(), "config.ini", collect, &again,
                                   &err) == STATUS_OK,
               err.message + ("\n" + written));
    FUZZ_CHECK(again == kept, written);
    return 0;
}
