#include "library/library_device.h"

bool library_cuda_built(void) {
    return false;
}

static enum status absent(struct error *err) {
    return error_set(err, STATUS_DEVICE,
                     "this build of libcairn-checkpoint has no CUDA: build it with a toolkit, or "
                     "register host memory");
}

enum status library_cuda_create(int device, void *stream, struct backend **out, struct error *err) {
    (void)device, (void)stream;
    *out = NULL;
    return absent(err);
}

enum status library_cuda_device_of(const void *pointer, int *device, struct error *err) {
    (void)pointer;
    *device = -1;
    return absent(err);
}
