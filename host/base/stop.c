#include "host/base/stop.h"

#include <stdatomic.h>

static atomic_int stop_flag;

int stop_signal(void) {
    return atomic_load_explicit(&stop_flag, memory_order_relaxed);
}

void stop_raise(int signal_number) {
    int none = 0;
    atomic_compare_exchange_strong(&stop_flag, &none, signal_number);
}

void stop_reset(void) {
    atomic_store(&stop_flag, 0);
}
