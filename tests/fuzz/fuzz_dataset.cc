#include "tests/fuzz/fuzz_dataset.h"

#include "tests/fuzz/fuzz.h"

static enum status collect(void *context, const char *text, size_t size, unsigned label,
                           struct error *) {
    FUZZ_CHECK(label <= 1);
    static_cast<DatasetRead *>(context)->examples.emplace_back(std::string(text, size), label);
    return STATUS_OK;
}

DatasetRead fuzz_read_dataset(const std::string &name, const std::string &bytes, size_t piece) {
    const OneFile file(name, bytes, piece);
    DatasetRead out;
    struct error err = {};
    struct dataset *dataset = nullptr;
    out.status = dataset_open(file.table(), name.c_str(), &dataset, &err);
    if (out.status == STATUS_OK) {
        out.status = dataset_read(dataset, DATASET_TRAIN, collect, &out, &err);
    }
    if (out.status == STATUS_OK) {
        FUZZ_CHECK(dataset_label_name(dataset, 0)[0] != '\0');
        (void)dataset_note(dataset);
    } else {
        fuzz_check_refusal(out.status, err, {STATUS_DATA});
        out.message = err.message;
    }
    dataset_close(dataset);
    return out;
}

void fuzz_dataset(const std::string &name, const std::string &bytes,
                  std::string (*write)(const DatasetRead &)) {
    const DatasetRead whole = fuzz_read_dataset(name, bytes, 1 << 20);
    const DatasetRead pieces = fuzz_read_dataset(name, bytes, 1 + bytes.size() % 7);
    FUZZ_CHECK(whole.status == pieces.status && whole.message == pieces.message, pieces.message);
    FUZZ_CHECK(whole.examples == pieces.examples);
    if (whole.status != STATUS_OK) {
        return;
    }
    const std::string written = write(whole);
    const DatasetRead again = fuzz_read_dataset(name, written, 1 << 20);
    FUZZ_CHECK(again.status == STATUS_OK, again.message + "\n" + written);
    FUZZ_CHECK(again.examples == whole.examples, written);
}
