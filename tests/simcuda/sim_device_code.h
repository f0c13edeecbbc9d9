// sim_device_code.h - what device code may use: built-in variables, intrinsics, shared memory. Part
// of cuda_runtime.h. A thread of a block is a fiber; every function here that waits switches to
// another fiber. A violation ends the launch: the function does not return then.
//
// The defaulted `line` and `file` arguments say where in the kernel a report points to.
#ifndef CAIRN_TESTS_SIMCUDA_SIM_DEVICE_CODE_H
#define CAIRN_TESTS_SIMCUDA_SIM_DEVICE_CODE_H

#include <string.h>

namespace simcuda {

// ---- the thread that runs now ----

struct Running {
    unsigned index = 0; // of the thread in its block
    uint3 thread{};
    uint3 block{};
    dim3 block_dim{};
    dim3 grid_dim{};
};
extern Running running;

enum class WarpOperation : uint8_t { NONE, SHUFFLE, VOTE, SYNC };

void sync_block(const char *file, int line);
// All lanes of `mask` meet; the result is what lane `source` brought. VOTE: the mask of the lanes
// that brought something other than 0.
uint64_t meet_warp(WarpOperation operation, unsigned mask, uint64_t value, unsigned source,
                   const char *file, int line);
inline unsigned lane_now() {
    return running.index % 32;
}

template <class T> T shuffle(unsigned mask, T value, unsigned source, const char *file, int line) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = meet_warp(WarpOperation::SHUFFLE, mask, bits, source, file, line);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

// ---- shared memory ----

// First call in a kernel: the block must have `threads` threads.
void expect_block(unsigned threads);
// The report's name of the next launch of the calling thread; a literal.
void name_launch(const char *name);

// What an array asks at every access. `byte` counts from the beginning of the block's shared
// memory, `bytes` is a multiple of 4; the access lies inside.
enum class Access : uint8_t { READ, WRITE, ATOMIC };
void *access_shared(Access kind, unsigned byte, unsigned bytes, const char *file, int line);
[[noreturn]] void shared_out_of_bounds(unsigned index, unsigned width, unsigned count,
                                       const char *file, int line);
[[noreturn]] void shared_misaligned(unsigned index, const char *file, int line);
// Byte offset of a new array, from `next` on; `next` moves behind it.
unsigned take_shared(unsigned *next, size_t bytes);

// The interface of the device version in kernels/cuda/cuda_util.cuh, every access checked.
template <class T> struct Shared {
    static_assert(sizeof(T) % 4 == 0, "races are watched by words of 4 bytes");
    static_assert(std::is_trivially_copyable_v<T>);
    unsigned first; // byte in the block's shared memory
    unsigned count;

    T load(unsigned i, const char *file = __builtin_FILE(), int line = __builtin_LINE()) const {
        T value;
        memcpy(&value, reach(Access::READ, i, 1, file, line), sizeof(T));
        return value;
    }
    void store(unsigned i, T value, const char *file = __builtin_FILE(),
               int line = __builtin_LINE()) const {
        memcpy(reach(Access::WRITE, i, 1, file, line), &value, sizeof(T));
    }
    float4 load4(unsigned i, const char *file = __builtin_FILE(),
                 int line = __builtin_LINE()) const {
        static_assert(std::is_same_v<T, float>);
        float4 value;
        memcpy(&value, reach(Access::READ, i, 4, file, line), sizeof(value));
        return value;
    }
    void store4(unsigned i, float4 value, const char *file = __builtin_FILE(),
                int line = __builtin_LINE()) const {
        static_assert(std::is_same_v<T, float>);
        memcpy(reach(Access::WRITE, i, 4, file, line), &value, sizeof(value));
    }
    T atomic_add(unsigned i, T value, const char *file = __builtin_FILE(),
                 int line = __builtin_LINE()) const {
        static_assert(std::is_integral_v<T>);
        void *place = reach(Access::ATOMIC, i, 1, file, line);
        T before;
        memcpy(&before, place, sizeof(T));
        T after = static_cast<T>(before + value);
        memcpy(place, &after, sizeof(T));
        return before;
    }

  private:
    void *reach(Access kind, unsigned i, unsigned width, const char *file, int line) const {
        if (i >= count || count - i < width) {
            shared_out_of_bounds(i, width, count, file, line);
        }
        if (width == 4 && i % 4 != 0) {
            shared_misaligned(i, file, line);
        }
        return access_shared(kind, first + i * static_cast<unsigned>(sizeof(T)),
                             width * static_cast<unsigned>(sizeof(T)), file, line);
    }
};

class SharedMemory {
  public:
    template <class T> Shared<T> take(unsigned count) {
        return {take_shared(&next_, count * sizeof(T)), count};
    }

  private:
    unsigned next_ = 0;
};

} // namespace simcuda

// ---- built-in variables ----

inline const uint3 &threadIdx = simcuda::running.thread;
inline const uint3 &blockIdx = simcuda::running.block;
inline const dim3 &blockDim = simcuda::running.block_dim;
inline const dim3 &gridDim = simcuda::running.grid_dim;
constexpr int warpSize = 32;

// ---- barriers and warp functions ----

inline void __syncthreads(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    simcuda::sync_block(file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const char *file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
    simcuda::meet_warp(simcuda::WarpOperation::SYNC, mask, 0, simcuda::lane_now(), file, line);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    const unsigned w = static_cast<unsigned>(width);
    const unsigned base = simcuda::lane_now() & ~(w - 1);
    return simcuda::shuffle(mask, value, base + (static_cast<unsigned>(source) & (w - 1)), file,
                            line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    const unsigned lane = simcuda::lane_now();
    const unsigned inside = lane & (static_cast<unsigned>(width) - 1);
    return simcuda::shuffle(mask, value, delta <= inside ? lane - delta : lane, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    const unsigned lane = simcuda::lane_now();
    const unsigned w = static_cast<unsigned>(width);
    const unsigned inside = lane & (w - 1);
    return simcuda::shuffle(mask, value, delta < w - inside ? lane + delta : lane, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    const unsigned lane = simcuda::lane_now();
    const unsigned w = static_cast<unsigned>(width);
    const unsigned source = lane ^ static_cast<unsigned>(lanes);
    // A segment after the own one is out of reach, one before it is not (CUDA C++ guide, 10.22.2).
    return simcuda::shuffle(mask, value, source < (lane & ~(w - 1)) + w ? source : lane, file,
                            line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const char *file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
    return static_cast<unsigned>(simcuda::meet_warp(
        simcuda::WarpOperation::VOTE, mask, predicate != 0, simcuda::lane_now(), file, line));
}
inline int __any_sync(unsigned mask, int predicate, const char *file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, const char *file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, file, line) == mask;
}

// ---- memory ----

template <class T> T __ldg(const T *p) {
    return *p;
}
// Threads run one at a time, so that order and atomicity are given; what a fence is there for on a
// device cannot be seen here (README.md).
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T> T atomicAdd(T *p, T value) {
    static_assert(std::is_integral_v<T>, "no float atomics: their sums depend on the order");
    const T before = *p;
    *p = static_cast<T>(before + value);
    return before;
}
template <class T> T atomicMax(T *p, T value) {
    static_assert(std::is_integral_v<T>);
    const T before = *p;
    *p = before < value ? value : before;
    return before;
}
template <class T> T atomicMin(T *p, T value) {
    static_assert(std::is_integral_v<T>);
    const T before = *p;
    *p = value < before ? value : before;
    return before;
}
template <class T> T atomicOr(T *p, T value) {
    static_assert(std::is_integral_v<T>);
    const T before = *p;
    *p = before | value;
    return before;
}

// ---- arithmetic ----

inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline int2 make_int2(int x, int y) {
    return {x, y};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
    return {x, y, z};
}
inline double2 make_double2(double x, double y) {
    return {x, y};
}

inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

// The toolkit's own mixtures: the unsigned or the wider type wins.
#define SIMCUDA_MIN_MAX(result, left, right)                                                       \
    inline result min(left a, right b) {                                                           \
        return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(a)            \
                                                               : static_cast<result>(b);           \
    }                                                                                              \
    inline result max(left a, right b) {                                                           \
        return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(b)            \
                                                               : static_cast<result>(a);           \
    }
SIMCUDA_MIN_MAX(int, int, int)
SIMCUDA_MIN_MAX(unsigned, unsigned, unsigned)
SIMCUDA_MIN_MAX(unsigned, int, unsigned)
SIMCUDA_MIN_MAX(unsigned, unsigned, int)
SIMCUDA_MIN_MAX(long, long, long)
SIMCUDA_MIN_MAX(unsigned long, unsigned long, unsigned long)
SIMCUDA_MIN_MAX(unsigned long, long, unsigned long)
SIMCUDA_MIN_MAX(unsigned long, unsigned long, long)
SIMCUDA_MIN_MAX(long long, long long, long long)
SIMCUDA_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
SIMCUDA_MIN_MAX(unsigned long long, long long, unsigned long long)
SIMCUDA_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef SIMCUDA_MIN_MAX
inline float min(float a, float b) {
    return fminf(a, b);
}
inline float max(float a, float b) {
    return fmaxf(a, b);
}
inline double min(double a, double b) {
    return fmin(a, b);
}
inline double max(double a, double b) {
    return fmax(a, b);
}

#endif
