// Fibers: one stack per thread of a block, switched by Boost.Context, and signals that a fiber
// causes. The sanitizers are told of every switch.
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>

#include "tests/simcuda/sim_internal.h"

#if defined(__has_feature) // Clang's way to say it
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace context = boost::context::detail;

namespace simcuda {

void (*fiber_body)(unsigned index);
void (*fiber_signal)(int signal_number, uintptr_t address, bool write, bool overflow);

namespace {

// Sanitizers make frames larger.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t STACK_BYTES = 256 * 1024;
#else
constexpr size_t STACK_BYTES = 64 * 1024;
#endif

struct Fiber {
    context::fcontext_t at = nullptr; // where it goes on
    char *stack = nullptr;            // STACK_BYTES, an inaccessible page below
    void *fake_stack = nullptr;       // AddressSanitizer's
    void *tsan = nullptr;
};

Fiber fibers[FIBERS];
unsigned current;
bool on_fiber; // the thread that holds the mutex is on fibers[current]
pthread_t on_thread;

context::fcontext_t scheduler_at;
[[maybe_unused]] void *scheduler_fake_stack;
[[maybe_unused]] const void *scheduler_stack;
[[maybe_unused]] size_t scheduler_stack_bytes;
[[maybe_unused]] void *scheduler_tsan;

// ---- switching ----

// Each side is told where the one that it comes from goes on, through the address that this one
// hands over.
context::transfer_t jump(context::fcontext_t to, context::fcontext_t *own_place) {
    const context::transfer_t from = context::jump_fcontext(to, own_place);
    *static_cast<context::fcontext_t *>(from.data) = from.fctx;
    return from;
}

void before_fiber(void **own_fake_stack, const Fiber &fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(own_fake_stack, fiber.stack, STACK_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber.tsan, 0);
#endif
    (void)own_fake_stack;
    (void)fiber;
}

void before_scheduler(Fiber *fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fiber->fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(scheduler_tsan, 0);
#endif
    (void)fiber;
}

void on_fiber_again(Fiber *fiber, const void *came_from) {
#if defined(__SANITIZE_ADDRESS__)
    const void *bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &bottom, &bytes);
    if (came_from == &scheduler_at) {
        scheduler_stack = bottom;
        scheduler_stack_bytes = bytes;
    }
#endif
    (void)fiber;
    (void)came_from;
}

// ---- life of a fiber ----

void fiber_main(context::transfer_t from) {
    Fiber *fiber = &fibers[current];
    on_fiber_again(fiber, from.data);
    *static_cast<context::fcontext_t *>(from.data) = from.fctx;
    for (;;) {
        fiber_body(static_cast<unsigned>(fiber - fibers));
        fiber_leave();
    }
}

void make_fiber(Fiber *fiber) {
    if (fiber->stack == nullptr) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        void *memory = mmap(nullptr, STACK_BYTES + page, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(static_cast<char *>(memory) + page, STACK_BYTES,
                                             PROT_READ | PROT_WRITE) != 0) {
            abort();
        }
        fiber->stack = static_cast<char *>(memory) + page;
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
    fiber->fake_stack = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
    fiber->tsan = __tsan_create_fiber(0);
#endif
    // Tops at different offsets in a page: stacks of a warp would share the same sets of the cache.
    const size_t colour = static_cast<size_t>(fiber - fibers) % 32 * 128;
    fiber->at = context::make_fcontext(fiber->stack + STACK_BYTES - colour, STACK_BYTES - colour,
                                       fiber_main);
}

} // namespace

void fiber_resume(unsigned index) {
    Fiber *fiber = &fibers[index];
    if (fiber->at == nullptr) {
        make_fiber(fiber);
    }
    current = index;
    on_fiber = true;
#if defined(__SANITIZE_THREAD__)
    scheduler_tsan = __tsan_get_current_fiber();
#endif
    before_fiber(&scheduler_fake_stack, *fiber);
    jump(fiber->at, &scheduler_at);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
    on_fiber = false;
}

void fiber_switch(unsigned index) {
    Fiber *fiber = &fibers[current];
    current = index;
    before_fiber(&fiber->fake_stack, fibers[index]);
    const context::transfer_t from = jump(fibers[index].at, &fiber->at);
    on_fiber_again(fiber, from.data);
}

void fiber_leave() {
    Fiber *fiber = &fibers[current];
    before_scheduler(fiber);
    const context::transfer_t from = jump(scheduler_at, &fiber->at);
    on_fiber_again(fiber, from.data);
}

void fiber_discard(unsigned index) {
    Fiber *fiber = &fibers[index];
#if defined(__SANITIZE_THREAD__)
    if (fiber->tsan != nullptr) {
        __tsan_destroy_fiber(fiber->tsan);
        fiber->tsan = nullptr;
    }
#endif
    fiber->at = nullptr;
}

// ---- signals ----

namespace {

struct Caught {
    int signal_number;
    uintptr_t address;
    bool write;
    bool overflow;
};
Caught caught;

// Where a fiber goes on after its signal: the frames above are given up.
void after_signal() {
    fiber_signal(caught.signal_number, caught.address, caught.write, caught.overflow);
    abort(); // fiber_signal does not return
}

// Make the interrupted fiber go on in after_signal, at the top of its stack.
bool divert(ucontext_t *where, Fiber *fiber) {
    const uintptr_t top =
        (reinterpret_cast<uintptr_t>(fiber->stack) + STACK_BYTES - 8192) & ~uintptr_t{15};
#if defined(__x86_64__)
    caught.write = (where->uc_mcontext.gregs[REG_ERR] & 2) != 0;
    where->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(&after_signal);
    where->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(top - 8); // as after a call
    return true;
#elif defined(__aarch64__)
    where->uc_mcontext.pc = reinterpret_cast<uintptr_t>(&after_signal);
    where->uc_mcontext.sp = top;
    return true;
#else
    (void)where;
    (void)top;
    return false;
#endif
}

const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction before[3];

void handle(int number, siginfo_t *info, void *context_of) {
    if (on_fiber && pthread_equal(on_thread, pthread_self())) {
        Fiber *fiber = &fibers[current];
        caught.signal_number = number;
        caught.address = reinterpret_cast<uintptr_t>(info->si_addr);
        caught.write = false;
        const uintptr_t stack = reinterpret_cast<uintptr_t>(fiber->stack);
        caught.overflow = caught.address < stack && caught.address >= stack - 4096;
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
        if (divert(static_cast<ucontext_t *>(context_of), fiber)) {
            return;
        }
    }
    // Not ours: what was there before, and the instruction again.
    for (size_t i = 0; i < 3; i++) {
        if (SIGNALS[i] == number) {
            sigaction(number, &before[i], nullptr);
        }
    }
}

// A fiber that overflows its stack has none to handle the signal on.
class SignalStack {
  public:
    SignalStack() {
        stack_t old;
        if (sigaltstack(nullptr, &old) == 0 && (old.ss_flags & SS_DISABLE) != 0) {
            memory_ = malloc(BYTES);
            stack_t own{};
            own.ss_sp = memory_;
            own.ss_size = BYTES;
            sigaltstack(&own, nullptr);
        }
    }
    ~SignalStack() {
        if (memory_ != nullptr) {
            stack_t none{};
            none.ss_flags = SS_DISABLE;
            sigaltstack(&none, nullptr);
            free(memory_);
        }
    }

  private:
    static constexpr size_t BYTES = 64 * 1024;
    void *memory_ = nullptr;
};

} // namespace

SignalsCaught::SignalsCaught() {
    static bool installed;
    static thread_local SignalStack stack_of_thread;
    (void)stack_of_thread;
    if (!installed) {
        installed = true;
        struct sigaction action {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        for (size_t i = 0; i < 3; i++) {
            sigaction(SIGNALS[i], &action, &before[i]);
        }
    }
    // A thread that blocks all signals would be killed by one that it causes itself.
    static_assert(sizeof(mask_) >= sizeof(sigset_t));
    sigset_t open;
    sigemptyset(&open);
    for (int number : SIGNALS) {
        sigaddset(&open, number);
    }
    pthread_sigmask(SIG_UNBLOCK, &open, reinterpret_cast<sigset_t *>(mask_));
    on_thread = pthread_self();
}

SignalsCaught::~SignalsCaught() {
    pthread_sigmask(SIG_SETMASK, reinterpret_cast<sigset_t *>(mask_), nullptr);
}

} // namespace simcuda
