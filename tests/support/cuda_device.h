// cuda_device.h - the CUDA backend for tests: on the simulated device (CAIRN_CUDA=sim) always there,
// in a build for real devices only where one can be used; elsewhere such a test is skipped and says
// "gpu: ...".
//
//     class CudaOps : public CudaTest {};
//     TEST_F(CudaOps, Something) { CudaBackend device; device.be->table->... }
#ifndef CAIRN_TESTS_SUPPORT_CUDA_DEVICE_H
#define CAIRN_TESTS_SUPPORT_CUDA_DEVICE_H

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/backend.h"
#include "gtest/gtest.h"

struct CudaChoice {
    uint32_t hidden = 64;
    bool graph = true;
    const char *lstm = "auto";
};

struct CudaBackend {
    explicit CudaBackend(const CudaChoice &choice = {});
    ~CudaBackend();
    CudaBackend(const CudaBackend &) = delete;
    CudaBackend &operator=(const CudaBackend &) = delete;
    backend *be = nullptr;
};

// Does this build have cuDNN, and a device that it can run on? Never on the simulated one.
bool cuda_has_cudnn();

// The specification: the CPU's reference loops, one thread.
struct ReferenceBackend {
    ReferenceBackend();
    ~ReferenceBackend();
    ReferenceBackend(const ReferenceBackend &) = delete;
    ReferenceBackend &operator=(const ReferenceBackend &) = delete;
    backend *be = nullptr;
};

bool cuda_is_simulated();

// The simulated device's order of streams and threads from now on; nothing on a real one. To be
// called while no backend lives.
void cuda_schedule(uint64_t seed);
// What the simulated device has to report since the test began, a fault a line; "" on a real one.
std::string cuda_faults();
// The same, and forgets it: for tests that plant a fault.
std::string cuda_take_faults();

// Each test begins with the simulated device's first seed and ends with nothing that it has to
// report: no fault, nothing allocated.
class CudaTest : public testing::Test {
  protected:
    void SetUp() override;
    void TearDown() override;
};

#endif
