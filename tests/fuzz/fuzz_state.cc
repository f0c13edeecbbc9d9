// The state file: what is accepted holds ring names only, and survives being written and read
// again.
#include <cmath>
#include <cstring>

#include "io/store.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error err = {};
    struct store_state state;
    const enum status status =
        store_state_parse(reinterpret_cast<const char *>(data), size, &state, &err);
    if (status != STATUS_OK) {
        fuzz_check_refusal(status, err, {STATUS_DATA});
        return 0;
    }
    FUZZ_CHECK(state.count > 0);
    for (size_t i = 0; i < state.count; i++) {
        uint64_t step;
        FUZZ_CHECK(store_parse_name(state.names[i], &step));
        FUZZ_CHECK(strchr(state.names[i], '/') == nullptr);
        FUZZ_CHECK(std::isfinite(state.timestamps[i]) && state.timestamps[i] >= 0);
    }
    struct text text = {};
    struct store_state again;
    store_state_format(&state, &text);
    FUZZ_CHECK(store_state_parse(text.bytes, text.size, &again, &err) == STATUS_OK, err.message);
    FUZZ_CHECK(again.count == state.count);
    for (size_t i = 0; i < state.count; i++) {
        FUZZ_CHECK(strcmp(again.names[i], state.names[i]) == 0);
        FUZZ_CHECK(again.timestamps[i] == state.timestamps[i]);
    }
    FUZZ_CHECK(again.last_preserved == state.last_preserved);
    text_free(&text);
    store_state_free(&state);
    store_state_free(&again);
    return 0;
}
