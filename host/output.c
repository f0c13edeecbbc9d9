#include "host/output.h"

#include <errno.h>
#include <stdio.h>

#include "io/file.h"

static enum status check(bool good, bool *closed, struct error *err) {
    if (good) {
        return STATUS_OK;
    }
    int reason = errno;
    if (reason == EPIPE) {
        *closed = true;
        return STATUS_OK;
    }
    char text[160];
    return error_set(err, STATUS_IO, "cannot write to standard output: %s",
                     file_errno_text(-reason, text, sizeof text));
}

enum status output_write(const void *bytes, size_t size, bool *closed, struct error *err) {
    return check(*closed || size == 0 || fwrite(bytes, 1, size, stdout) == size, closed, err);
}

enum status output_flush(bool *closed, struct error *err) {
    return check(*closed || fflush(stdout) == 0, closed, err);
}
