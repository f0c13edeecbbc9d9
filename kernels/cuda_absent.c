/* cuda_absent.c - what backend.h promises of CUDA, in a build without it (kernels/cuda/ otherwise). */
#include "kernels/backend.h"

enum status backend_cuda_create(const struct backend_options *options, struct backend **out,
                                struct error *err) {
    (void)options, (void)out;
    return error_set(err, STATUS_DEVICE,
                     "this build has no CUDA backend (CAIRN_CUDA=off or no toolkit was found); "
                     "--device cpu runs everywhere");
}

bool backend_cuda_available(void) {
    return false;
}

const char *backend_cuda_build(void) {
    return "no cuda";
}
