/* cpu_backend.c - the backend table on ordinary memory and threads.
 *
 * Streams run at once: a call has done its work when it returns, so an event has been reached as
 * soon as it is recorded. The record still publishes: what was written before it is visible to a
 * thread that has waited for the event.
 */
#include "kernels/backend.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/memory.h"
#include "host/base/parallel.h"
#include "kernels/cpu/cpu_limits.h"
#include "kernels/cpu/cpu_pool.h"
#include "kernels/cpu/cpu_probe.h"
#include "kernels/cpu/reference.h"

struct cpu_backend {
    struct backend base; /* first, so that the pointers are the same */
    struct cpu_pool *pool;
    const struct cpu_kernels *kernels;
};

static struct cpu_backend *cpu(struct backend *be) {
    return (struct cpu_backend *)be;
}

/* ---- memory ---- */

enum { ALIGNMENT = 64 };
#define ADDRESSABLE_BYTES (SIZE_MAX >> 17) /* 47 bits on 64-bit processors; more cannot be had */

/* Zero-filled, aligned; pages of large blocks are touched on first use only. What calloc gave is
 * kept in front of the block. Large pages, because the kernels walk through many megabytes per step
 * and looking up small pages would take a good part of the time. */
static enum status device_alloc(struct backend *be, size_t bytes, void **out, struct error *err) {
    (void)be;
    size_t extra = ALIGNMENT + sizeof(void *);
    char *raw = bytes <= ADDRESSABLE_BYTES ? calloc(1, bytes + extra) : NULL;
    CHECK(raw != NULL, err, STATUS_MEMORY, "out of memory: %zu bytes asked for", bytes);
    uintptr_t at = ((uintptr_t)raw + extra) & ~(uintptr_t)(ALIGNMENT - 1);
    char *memory = raw + (at - (uintptr_t)raw);
    memcpy(memory - sizeof raw, &raw, sizeof raw);
    memory_ask_large_pages(memory, bytes);
    *out = memory;
    return STATUS_OK;
}

static void device_free(struct backend *be, void *memory) {
    (void)be;
    if (memory != NULL) {
        char *raw;
        memcpy(&raw, (char *)memory - sizeof raw, sizeof raw);
        free(raw);
    }
}

static enum status host_alloc(struct backend *be, size_t bytes, void **out, struct error *err) {
    TRY(device_alloc(be, bytes, out, err));
    volatile char *touch = *out;
    for (size_t i = 0; i < bytes; i += 4096) {
        touch[i] = 0;
    }
    return STATUS_OK;
}

/* ---- copies ---- */

static enum status copy(struct backend *be, void *dst, const void *src, size_t bytes,
                        enum backend_stream stream, struct error *err) {
    (void)be, (void)stream, (void)err;
    memory_copy(dst, src, bytes);
    return STATUS_OK;
}

static enum status fill_zero(struct backend *be, void *dst, size_t bytes,
                             enum backend_stream stream, struct error *err) {
    (void)be, (void)stream, (void)err;
    if (bytes > 0) {
        memset(dst, 0, bytes);
    }
    return STATUS_OK;
}

/* ---- streams and events ---- */

struct backend_event {
    atomic_uint records; /* its release and acquire order the memory around it */
};

static enum status stream_synchronize(struct backend *be, enum backend_stream stream,
                                      struct error *err) {
    (void)be, (void)stream, (void)err;
    return STATUS_OK;
}

static enum status stream_wait_event(struct backend *be, enum backend_stream stream,
                                     struct backend_event *event, struct error *err) {
    (void)be, (void)stream, (void)event, (void)err;
    return STATUS_OK;
}

static enum status event_create(struct backend *be, struct backend_event **out, struct error *err) {
    (void)be;
    struct backend_event *event = malloc(sizeof *event);
    CHECK(event != NULL, err, STATUS_MEMORY, "out of memory for an event");
    atomic_init(&event->records, 0);
    *out = event;
    return STATUS_OK;
}

static void event_free(struct backend *be, struct backend_event *event) {
    (void)be;
    free(event);
}

static enum status event_record(struct backend *be, struct backend_event *event,
                                enum backend_stream stream, struct error *err) {
    (void)be, (void)stream, (void)err;
    atomic_fetch_add_explicit(&event->records, 1, memory_order_release);
    return STATUS_OK;
}

static enum status event_wait(struct backend *be, struct backend_event *event, struct error *err) {
    (void)be, (void)err;
    atomic_load_explicit(&event->records, memory_order_acquire);
    return STATUS_OK;
}

static enum status event_query(struct backend *be, struct backend_event *event, bool *done,
                               struct error *err) {
    *done = true;
    return event_wait(be, event, err);
}

/* ---- operations ---- */

static enum status workspace_bytes(struct backend *be, const struct model_shape *shape,
                                   const struct batch_limits *limits, size_t *out,
                                   struct error *err) {
    *out = cpu(be)->kernels->workspace_bytes(shape, limits->sequences, limits->total_tokens,
                                             limits->training);
    CHECK(*out != SIZE_MAX, err, STATUS_MEMORY,
          "batches of %u sequences and %" PRIu64 " tokens with hidden size %u are larger than "
          "memory can be",
          limits->sequences, limits->total_tokens, shape->hidden);
    return STATUS_OK;
}

static void check_batch(const struct model_shape *shape, const struct batch_view *batch) {
    assert(shape->vocabulary > 0 && shape->embedding > 0 && shape->hidden > 0 && shape->dense > 0);
    assert(batch->sequences > 0);
    assert(batch->token_bytes == 2 || batch->token_bytes == 4);
    for (uint32_t b = 1; b < batch->sequences; b++) {
        assert(batch->length[b] <= batch->length[b - 1]);
    }
    (void)shape, (void)batch;
}

static enum status lstm_forward(struct backend *be, const struct lstm_args *args,
                                struct error *err) {
    (void)err;
    const struct cpu_kernels *kernels = cpu(be)->kernels;
    check_batch(&args->shape, &args->batch);
    if (kernels->lstm_words != NULL) {
        be->table->range_begin(be, "words");
        kernels->lstm_words(cpu(be)->pool, args);
        be->table->range_end(be);
    }
    kernels->lstm_forward(cpu(be)->pool, args);
    return STATUS_OK;
}

static enum status head_forward_backward(struct backend *be, const struct head_args *args,
                                         struct error *err) {
    (void)err;
    check_batch(&args->shape, &args->batch);
    assert(args->batch.label != NULL || !args->training);
    cpu(be)->kernels->head_forward_backward(cpu(be)->pool, args);
    return STATUS_OK;
}

static enum status lstm_backward(struct backend *be, const struct lstm_args *args,
                                 struct error *err) {
    (void)err;
    assert(args->training);
    cpu(be)->kernels->lstm_backward(cpu(be)->pool, args);
    return STATUS_OK;
}

static enum status embedding_grad(struct backend *be, const struct lstm_args *args,
                                  struct error *err) {
    (void)err;
    assert(args->training);
    cpu(be)->kernels->embedding_grad(cpu(be)->pool, args);
    return STATUS_OK;
}

static enum status global_norm(struct backend *be, const struct norm_args *args,
                               struct error *err) {
    (void)err;
    cpu(be)->kernels->global_norm(cpu(be)->pool, args);
    return STATUS_OK;
}

static enum status adam_step(struct backend *be, const struct adam_args *args, struct error *err) {
    (void)err;
    cpu(be)->kernels->adam_step(cpu(be)->pool, args);
    return STATUS_OK;
}

/* ---- recorded steps, profiler ranges ---- */

static enum status replay(struct backend *be, struct backend_recording **recording,
                          enum status (*enqueue)(void *context, struct error *err), void *context,
                          struct error *err) {
    (void)be, (void)recording;
    return enqueue(context, err);
}

static void recording_free(struct backend *be, struct backend_recording *recording) {
    (void)be, (void)recording;
}

static void range_begin(struct backend *be, const char *name) {
    (void)be, (void)name;
}

static void range_end(struct backend *be) {
    (void)be;
}

static void cpu_free(struct backend *be) {
    if (be != NULL) {
        cpu_pool_free(cpu(be)->pool);
        free(be);
    }
}

static const struct backend_table cpu_table = {
    .device_alloc = device_alloc,
    .device_free = device_free,
    .host_alloc = host_alloc,
    .host_free = device_free,
    .copy = copy,
    .fill_zero = fill_zero,
    .stream_synchronize = stream_synchronize,
    .stream_wait_event = stream_wait_event,
    .event_create = event_create,
    .event_free = event_free,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_query = event_query,
    .workspace_bytes = workspace_bytes,
    .lstm_forward = lstm_forward,
    .head_forward_backward = head_forward_backward,
    .lstm_backward = lstm_backward,
    .embedding_grad = embedding_grad,
    .global_norm = global_norm,
    .adam_step = adam_step,
    .replay = replay,
    .recording_free = recording_free,
    .range_begin = range_begin,
    .range_end = range_end,
    .free = cpu_free,
};

/* ---- choice of instruction set and threads ---- */

/* Best first. Every processor that runs one of these runs the ones after it. */
static const struct cpu_kernels *const fused_built[] = {
#if defined(__x86_64__)
    &cpu_fused_avx512, &cpu_fused_avx2,
#endif
    &cpu_fused_portable};
static const struct cpu_kernels *const reference_built[] = {
#if defined(__x86_64__)
    &cpu_kernels_avx512, &cpu_kernels_avx2,
#endif
    &cpu_kernels_portable};
static const struct cpu_probe *const probes_built[] = {
#if defined(__x86_64__)
    &cpu_probe_avx512, &cpu_probe_avx2,
#endif
    &cpu_probe_portable};
static const char *const isa_names[] = {
#if defined(__x86_64__)
    "avx512", "avx2",
#endif
    "portable", "reference", NULL};
enum { KERNELS_BUILT = sizeof fused_built / sizeof fused_built[0] };

/* Index of the best kernels that this processor runs. */
static size_t best_kernels(void) {
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    return avx512 ? 0 : avx2 ? 1 : 2;
#else
    return 0;
#endif
}

const char *const *backend_cpu_isa_names(void) {
    return isa_names + best_kernels();
}

static const struct cpu_kernels *bf16_kernels(void) {
#if defined(__x86_64__)
    if (best_kernels() == 0 && __builtin_cpu_supports("avx512bf16")) {
        return &cpu_fused_avx512_bf16;
    }
#endif
    return NULL;
}

/* The kernels called `isa`, or NULL. */
static const struct cpu_kernels *find_kernels(const char *isa) {
    size_t best = best_kernels();
    if (isa == NULL || strcmp(isa, "auto") == 0) {
        return fused_built[best];
    }
    if (strcmp(isa, "reference") == 0) {
        return reference_built[best];
    }
    for (size_t i = best; i < KERNELS_BUILT; i++) {
        if (strcmp(isa, fused_built[i]->isa) == 0) {
            return fused_built[i];
        }
    }
    return NULL;
}

const struct cpu_probe *cpu_probe_find(const char *isa) {
    for (size_t i = best_kernels(); i < KERNELS_BUILT; i++) {
        if (strcmp(isa, probes_built[i]->isa) == 0) {
            return probes_built[i];
        }
    }
    return NULL;
}

static enum status choose_bf16(const char *isa, const struct cpu_kernels **out, struct error *err) {
    bool asked = isa != NULL && strcmp(isa, "auto") != 0 && strcmp(isa, "avx512") != 0;
    CHECK(
        !asked, err, STATUS_DEVICE,
        "--precision bf16: of the CPU kernels only avx512 has bf16, and --isa %.40s is asked for; "
        "leave one of them out",
        isa);
    *out = bf16_kernels();
    CHECK(*out != NULL, err, STATUS_DEVICE,
          "--precision bf16: this processor has no instructions for it (AVX-512 BF16; avx512_bf16 "
          "in /proc/cpuinfo); leave it out for fp32");
    return STATUS_OK;
}

static enum status choose_kernels(const char *isa, const char *precision,
                                  const struct cpu_kernels **out, struct error *err) {
    if (precision != NULL && strcmp(precision, "bf16") == 0) {
        return choose_bf16(isa, out, err);
    }
    *out = find_kernels(isa);
    if (*out != NULL) {
        return STATUS_OK;
    }
    char names[64] = "";
    size_t used = 0;
    for (const char *const *name = backend_cpu_isa_names(); *name != NULL; name++) {
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used > 0 ? ", " : "",
                                 *name);
    }
    return error_set(err, STATUS_DEVICE,
                     "no CPU kernels called '%.40s' run on this processor; there are: auto, %s%s",
                     isa, names,
                     strstr(isa, "bf16") != NULL ? " (bf16 is asked for by --precision)" : "");
}

uint32_t backend_cpu_default_threads(void) {
    uint32_t threads = parallel_processors();
    uint32_t quota = cpu_limits_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    return quota > 0 && quota < threads ? quota : threads;
}

enum status backend_cpu_create(const struct backend_options *options, struct backend **out,
                               struct error *err) {
    const struct cpu_kernels *kernels = NULL;
    TRY(choose_kernels(options->isa, options->precision, &kernels, err));
    uint32_t threads = options->threads > 0 ? options->threads : backend_cpu_default_threads();
    struct cpu_backend *be = calloc(1, sizeof *be);
    CHECK(be != NULL, err, STATUS_MEMORY, "out of memory for the CPU backend");
    enum status status = cpu_pool_create(threads, &be->pool, err);
    if (status != STATUS_OK) {
        free(be);
        return status;
    }
    be->kernels = kernels;
    be->base.table = &cpu_table;
    be->base.device = "cpu";
    be->base.kernel_path = kernels->path;
    be->base.unified_memory = true;
    bool fused = strncmp(kernels->path, "cpu-fused-", strlen("cpu-fused-")) == 0;
    snprintf(be->base.description, sizeof be->base.description, "CPU, %s kernels (%s), %u thread%s",
             fused ? "fused" : "reference", kernels->isa, threads, threads == 1 ? "" : "s");
    *out = &be->base;
    return STATUS_OK;
}
