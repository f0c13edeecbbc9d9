// device_array.h - device memory of any backend, filled and read by the table's copies only.
#ifndef CAIRN_TESTS_SUPPORT_DEVICE_ARRAY_H
#define CAIRN_TESTS_SUPPORT_DEVICE_ARRAY_H

#include <vector>

#include "kernels/backend.h"
#include "tests/support/ragged_batch.h"
#include "gtest/gtest.h"

// `count` elements of device memory.
template <class T> class DeviceArray {
  public:
    DeviceArray(backend *device, size_t elements) : be(device), count(elements) {
        struct error err = {};
        void *memory = nullptr;
        EXPECT_EQ(be->table->device_alloc(be, bytes(), &memory, &err), STATUS_OK) << err.message;
        data = static_cast<T *>(memory);
    }
    ~DeviceArray() { be->table->device_free(be, data); }
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;

    size_t bytes() const { return (count > 0 ? count : 1) * sizeof(T); }

    void upload(const void *host, size_t size) {
        struct error err = {};
        EXPECT_LE(size, bytes());
        if (size == 0) {
            return;
        }
        EXPECT_EQ(be->table->copy(be, data, host, size, BACKEND_STREAM_COMPUTE, &err), STATUS_OK)
            << err.message;
        EXPECT_EQ(be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, &err), STATUS_OK)
            << err.message;
    }
    void upload(const std::vector<T> &host) { upload(host.data(), host.size() * sizeof(T)); }

    std::vector<T> download(size_t elements) const {
        struct error err = {};
        std::vector<T> host(elements);
        if (elements > 0) {
            EXPECT_EQ(be->table->copy(be, host.data(), data, elements * sizeof(T),
                                      BACKEND_STREAM_COMPUTE, &err),
                      STATUS_OK)
                << err.message;
        }
        EXPECT_EQ(be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, &err), STATUS_OK)
            << err.message;
        return host;
    }
    std::vector<T> download() const { return download(count); }

    // All bits set: NaN as float and as double, no index of anything as an integer.
    void spoil() {
        std::vector<unsigned char> ones(bytes(), 0xff);
        upload(ones.data(), ones.size());
    }

    backend *be;
    size_t count;
    T *data = nullptr;
};

// A batch whose token ids are resident in device memory; offsets, lengths and labels stay host
// arrays, as host/model.h wants them. `batch` must outlive it.
class ResidentBatch {
  public:
    ResidentBatch(backend *be, const RaggedBatch &batch)
        : view_(batch.view()), tokens_(be, view_.total_tokens * view_.token_bytes) {
        tokens_.upload(view_.tokens, view_.total_tokens * view_.token_bytes);
        view_.tokens = tokens_.data;
    }
    const batch_view &view() const { return view_; }

  private:
    batch_view view_;
    DeviceArray<unsigned char> tokens_;
};

#endif
