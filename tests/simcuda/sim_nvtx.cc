// NVTX ranges, counted.
#include <nvtx3/nvToolsExt.h>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {
ProfilerRanges ranges;
thread_local int depth = 0;
} // namespace

ProfilerRanges profiler_ranges() {
    Entered entered;
    return ranges;
}

void forget_nvtx() {
    ranges = {};
    depth = 0;
}

} // namespace simcuda

using namespace simcuda;

int nvtxRangePushA(const char *) {
    Entered entered;
    ranges.pushes++;
    return depth++;
}

int nvtxRangePop() {
    Entered entered;
    if (depth == 0) {
        ranges.unmatched_pops++;
        return -1;
    }
    ranges.pops++;
    return --depth;
}

void nvtxMarkA(const char *) {}
