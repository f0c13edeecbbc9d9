// Device and pinned memory. Each allocation has pages of its own between inaccessible ones and ends
// as near to the last of them as an alignment of 256 allows; what is left of its pages holds the
// poison and is watched. Pages of device memory are accessible only while work runs, those of freed
// memory never again.
#include <cuda_runtime.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {

std::map<uintptr_t, Allocation> allocations; // by map_begin; the freed ones too
uint64_t allocation_number;
size_t device_bytes;
unsigned open_depth;

constexpr size_t ALIGNMENT = 256;
constexpr size_t HUGE_PAGE = size_t{2} << 20;

size_t page_bytes() {
    static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return page;
}

void protect(const Allocation &a, int access) {
    if (mprotect(reinterpret_cast<void *>(a.map_begin), a.map_bytes, access) != 0) {
        abort();
    }
}

// The allocation whose pages or guard pages hold `address`, live or freed.
const Allocation *around(uintptr_t address) {
    auto next = allocations.upper_bound(address + page_bytes());
    if (next == allocations.begin()) {
        return nullptr;
    }
    const Allocation &a = std::prev(next)->second;
    return address < a.map_begin + a.map_bytes + page_bytes() ? &a : nullptr;
}

cudaError_t allocate(void **out, size_t bytes, bool pinned) {
    *out = nullptr;
    if (bytes == 0) {
        return pinned ? cudaErrorInvalidValue : cudaSuccess;
    }
    if (injected(&state.fail_allocation) || bytes > SIZE_MAX / 2 ||
        (!pinned && bytes > state.device_memory - std::min(device_bytes, state.device_memory))) {
        return cudaErrorMemoryAllocation;
    }
    const size_t page = page_bytes();
    const size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t map_bytes = (rounded + page - 1) / page * page;
    // Large ones end at a multiple of a huge page, where those are to be had: far fewer entries of
    // the page table change when device memory is opened and closed.
    const size_t unit = map_bytes < 2 * HUGE_PAGE ? page : HUGE_PAGE;
    Allocation a{};
    a.reserved_bytes = map_bytes + 2 * page + unit;
    void *memory = mmap(nullptr, a.reserved_bytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return cudaErrorMemoryAllocation;
    }
    a.reserved_begin = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t map_end = (a.reserved_begin + page + map_bytes + unit - 1) / unit * unit;
    a.map_begin = map_end - map_bytes;
    a.map_bytes = map_bytes;
    madvise(reinterpret_cast<void *>(a.map_begin), map_bytes, MADV_HUGEPAGE);
    a.begin = a.map_begin + map_bytes - rounded;
    a.bytes = bytes;
    a.pinned = pinned;
    a.number = ++allocation_number;
    protect(a, PROT_READ | PROT_WRITE);
    poison_words(reinterpret_cast<void *>(a.map_begin), map_bytes);
    if (!pinned) {
        device_bytes += bytes;
        if (open_depth == 0) {
            protect(a, PROT_NONE);
        }
    }
    allocations[a.map_begin] = a;
    state.counts.allocations++;
    *out = reinterpret_cast<void *>(a.begin);
    return cudaSuccess;
}

cudaError_t release(void *p, bool pinned) {
    const char *call = pinned ? "cudaFreeHost" : "cudaFree";
    const uintptr_t address = reinterpret_cast<uintptr_t>(p);
    const Allocation *found = around(address);
    if (found == nullptr || found->begin != address || found->freed || found->pinned != pinned) {
        report("free", format("%s of %s", call, describe_address(address).c_str()));
        return cudaErrorInvalidValue;
    }
    check_canaries(call);
    Allocation &a = allocations[found->map_begin];
    a.freed = true;
    device_bytes -= pinned ? 0 : a.bytes;
    // New pages in the place of the old ones: the memory goes back, the addresses stay taken.
    if (mmap(reinterpret_cast<void *>(a.map_begin), a.map_bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
        abort();
    }
    return cudaSuccess;
}

} // namespace

// ---- poison ----

void poison_words(void *p, size_t bytes) {
    char *to = static_cast<char *>(p);
    const uint32_t word = POISON;
    for (size_t i = 0; i < bytes; i += sizeof(word)) {
        memcpy(to + i, &word, std::min(sizeof(word), bytes - i));
    }
}

bool holds_poison(const void *p, size_t bytes) {
    // As it was written; the double that it is made of two words, rounded to float; the upper half
    // of a double that a float was widened to. The sign is free.
    constexpr uint32_t NARROWED = 0x7fe57f2bu, WIDENED = 0x7fff95fcu;
    const char *from = static_cast<const char *>(p);
    size_t i = (4 - reinterpret_cast<uintptr_t>(p) % 4) % 4;
    for (; i + 4 <= bytes; i += 4) {
        uint32_t word;
        memcpy(&word, from + i, sizeof(word));
        word &= 0x7fffffffu;
        if (word == POISON || word == NARROWED || word == WIDENED) {
            return true;
        }
    }
    return false;
}

// Restores [begin, end), which must hold the poison that starts at `origin`; false if it did not.
static bool restore_canary(uintptr_t origin, uintptr_t begin, uintptr_t end) {
    bool intact = true;
    for (uintptr_t at = begin; at < end; at++) {
        const unsigned char expected =
            static_cast<unsigned char>(POISON >> (8 * ((at - origin) % 4)));
        unsigned char *byte = reinterpret_cast<unsigned char *>(at);
        if (*byte != expected) {
            *byte = expected;
            intact = false;
        }
    }
    return intact;
}

void check_canaries(const char *culprit) {
    DeviceMemoryOpen open;
    for (auto &[key, a] : allocations) {
        if (a.freed) {
            continue;
        }
        const bool before = restore_canary(a.map_begin, a.map_begin, a.begin);
        const bool behind =
            restore_canary(a.map_begin, a.begin + a.bytes, a.map_begin + a.map_bytes);
        if (!before || !behind) {
            report("out-of-bounds",
                   format("%s: bytes %s %s were overwritten", culprit,
                          before ? "just behind" : "before", describe_address(a.begin).c_str()));
            fail_device(cudaErrorIllegalAddress);
        }
    }
}

// ---- looking up ----

const Allocation *find_allocation(const void *p, size_t bytes) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(p);
    const Allocation *a = around(address);
    if (a == nullptr || a->freed || address < a->begin || address - a->begin > a->bytes ||
        a->bytes - (address - a->begin) < bytes) {
        return nullptr;
    }
    return a;
}

bool is_device_address(const void *p) {
    return around(reinterpret_cast<uintptr_t>(p)) != nullptr;
}

std::string describe_address(uintptr_t address) {
    const Allocation *a = around(address);
    if (a == nullptr) {
        return format("address %#zx, which is neither device nor pinned memory",
                      static_cast<size_t>(address));
    }
    const std::string what = format("%s%s memory #%llu (%zu bytes)", a->freed ? "freed " : "",
                                    a->pinned ? "pinned" : "device",
                                    static_cast<unsigned long long>(a->number), a->bytes);
    if (address < a->begin) {
        return format("byte -%zu of ", static_cast<size_t>(a->begin - address)) + what;
    }
    return format("byte %zu of ", static_cast<size_t>(address - a->begin)) + what;
}

bool pointer_is_usable(const void *p) {
    Entered entered;
    return p == nullptr || is_device_address(p);
}

void list_memory(std::vector<std::string> *out) {
    std::map<uint64_t, const Allocation *> by_number;
    for (const auto &[key, a] : allocations) {
        if (!a.freed) {
            by_number[a.number] = &a;
        }
    }
    for (const auto &[number, a] : by_number) {
        out->push_back(format("%s memory #%llu (%zu bytes)", a->pinned ? "pinned" : "device",
                              static_cast<unsigned long long>(number), a->bytes));
    }
}

void forget_memory() {
    for (const auto &[key, a] : allocations) {
        munmap(reinterpret_cast<void *>(a.reserved_begin), a.reserved_bytes);
    }
    allocations.clear();
    allocation_number = 0;
    device_bytes = 0;
}

DeviceMemoryOpen::DeviceMemoryOpen() {
    if (open_depth++ == 0) {
        for (const auto &[key, a] : allocations) {
            if (!a.pinned && !a.freed) {
                protect(a, PROT_READ | PROT_WRITE);
            }
        }
    }
}

DeviceMemoryOpen::~DeviceMemoryOpen() {
    if (--open_depth == 0) {
        for (const auto &[key, a] : allocations) {
            if (!a.pinned && !a.freed) {
                protect(a, PROT_NONE);
            }
        }
    }
}

} // namespace simcuda

using namespace simcuda;

// ---- the API ----

cudaError_t cudaMalloc(void **devPtr, size_t size) {
    Entered entered;
    cudaError_t error = usable();
    if (error == cudaSuccess) {
        error = refuse_unsafe_in_capture();
    }
    if (error == cudaSuccess) {
        error = allocate(devPtr, size, false);
        poll();
    }
    return returned(error);
}

cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int) {
    Entered entered;
    cudaError_t error = usable();
    if (error == cudaSuccess) {
        error = refuse_unsafe_in_capture();
    }
    if (error == cudaSuccess) {
        error = allocate(pHost, size, true);
        poll();
    }
    return returned(error);
}

cudaError_t cudaMallocHost(void **ptr, size_t size, unsigned int flags) {
    return cudaHostAlloc(ptr, size, flags);
}

// Both wait for all work, as the runtime does, and give the memory back even when the device is
// lost, so that a program that cleans up after an error leaks nothing.
static cudaError_t free_either(void *p, bool pinned) {
    Entered entered;
    if (p == nullptr) {
        return returned(usable());
    }
    if (cudaError_t error = refuse_unsafe_in_capture()) {
        return returned(error);
    }
    run_everything();
    const cudaError_t error = release(p, pinned);
    return returned(usable() != cudaSuccess ? usable() : error);
}

cudaError_t cudaFree(void *devPtr) {
    return free_either(devPtr, false);
}

cudaError_t cudaFreeHost(void *ptr) {
    return free_either(ptr, true);
}

cudaError_t cudaHostGetDevicePointer(void **pDevice, void *pHost, unsigned int) {
    Entered entered;
    const Allocation *a = find_allocation(pHost, 0);
    if (usable() != cudaSuccess || a == nullptr || !a->pinned) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidValue);
    }
    *pDevice = pHost;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *ptr) {
    Entered entered;
    const Allocation *a = find_allocation(ptr, 0);
    void *p = const_cast<void *>(ptr);
    *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, p};
    if (a != nullptr) {
        *attributes = {a->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice, 0, p,
                       a->pinned ? p : nullptr};
    }
    return returned(usable());
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    Entered entered;
    *total = state.device_memory;
    *free = state.device_memory - std::min(device_bytes, state.device_memory);
    return returned(usable());
}
