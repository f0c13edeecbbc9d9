#include "tests/support/cuda_device.h"

#if defined(CAIRN_CUDA_SIM)
#include "tests/simcuda/simcuda.h"
#endif

CudaBackend::CudaBackend(const CudaChoice &choice) {
    backend_options options = {};
    options.hidden = choice.hidden;
    options.lstm = choice.lstm;
    options.precision = "fp32";
    options.graph = choice.graph;
    struct error err = {};
    EXPECT_EQ(backend_cuda_create(&options, &be, &err), STATUS_OK) << err.message;
}

bool cuda_has_cudnn() {
    backend_options options = {};
    options.hidden = 64;
    options.lstm = "cudnn";
    options.precision = "fp32";
    struct error err = {};
    backend *be = nullptr;
    if (backend_cuda_create(&options, &be, &err) != STATUS_OK) {
        return false;
    }
    be->table->free(be);
    return true;
}

CudaBackend::~CudaBackend() {
    if (be != nullptr) {
        be->table->free(be);
    }
}

ReferenceBackend::ReferenceBackend() {
    backend_options options = {};
    options.threads = 1;
    options.isa = "reference";
    struct error err = {};
    EXPECT_EQ(backend_cpu_create(&options, &be, &err), STATUS_OK) << err.message;
}

ReferenceBackend::~ReferenceBackend() {
    if (be != nullptr) {
        be->table->free(be);
    }
}

#if defined(CAIRN_CUDA_SIM)
bool cuda_is_simulated() {
    return true;
}

namespace {

std::string faults; // that nobody has asked for yet
size_t reports_seen;

void collect_faults() {
    std::vector<simcuda::Report> reports = simcuda::take_reports(); // all since the latest reset
    for (; reports_seen < reports.size(); reports_seen++) {
        faults += reports[reports_seen].kind + ": " + reports[reports_seen].text + "\n";
    }
}

// Of a schedule that has ended: nothing of it may be left.
void collect_leaks() {
    for (const std::string &leak : simcuda::leaks()) {
        faults += "leak: " + leak + "\n";
    }
}

} // namespace

void cuda_schedule(uint64_t seed) {
    collect_faults();
    collect_leaks();
    simcuda::reset(seed);
    reports_seen = 0;
}

std::string cuda_faults() {
    collect_faults();
    return faults;
}

std::string cuda_take_faults() {
    collect_faults();
    std::string taken;
    taken.swap(faults);
    return taken;
}
#else
bool cuda_is_simulated() {
    return false;
}

void cuda_schedule(uint64_t) {}

std::string cuda_faults() {
    return "";
}

std::string cuda_take_faults() {
    return "";
}
#endif

void CudaTest::SetUp() {
    if (!cuda_is_simulated() && !backend_cuda_available()) {
        GTEST_SKIP() << "gpu: no CUDA device that can be used (" << backend_cuda_build() << ")";
    }
    cuda_schedule(1);
    cuda_take_faults();
}

void CudaTest::TearDown() {
    cuda_schedule(1); // what is left of the last schedule is a leak
    EXPECT_EQ(cuda_take_faults(), "");
}
