#include "bench/gpu_ops_group.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const struct variant cpu_variants[VARIANTS] = {{"cpu", "auto", false, false}};
static const struct variant cuda_variants[VARIANTS] = {{"fused", "fused", true, false},
                                                       {"fused-no-graph", "fused", false, true},
                                                       {"cudnn", "cudnn", false, false}};

const struct variant *group_variants(const char *device) {
    return group_is_cuda(device) ? cuda_variants : cpu_variants;
}

bool group_is_cuda(const char *device) {
    return strncmp(device, "cuda", strlen("cuda")) == 0;
}

enum status group_open_backend(const char *device, const struct variant *variant, uint32_t hidden,
                               struct backend **out, struct error *err) {
    const char *ordinal = strchr(device, ':');
    struct backend_options options = {
        .isa = "auto",
        .device = ordinal != NULL ? (uint32_t)strtoul(ordinal + 1, NULL, 10) : 0,
        .hidden = hidden,
        .lstm = variant->lstm,
        .precision = "fp32",
        .graph = variant->graph,
    };
    return group_is_cuda(device) ? backend_cuda_create(&options, out, err)
                                 : backend_cpu_create(&options, out, err);
}

struct group *group_open(struct bench *bench, const char *section, uint32_t hidden,
                         bool whole_steps) {
    struct group *group = calloc(1, sizeof *group);
    if (group == NULL) {
        return NULL;
    }
    group->bench = bench;
    group->section = section;
    const struct variant *variants = group_variants(bench->device);
    for (size_t i = 0; i < VARIANTS && variants[i].name != NULL; i++) {
        const struct variant *variant = &variants[i];
        struct error err = {0};
        if ((!variant->steps_only || whole_steps) &&
            group_open_backend(bench->device, variant, hidden, &group->backends[i], &err) !=
                STATUS_OK) {
            report_absent(bench->report, variant->name, hidden, err.message);
            group->backends[i] = NULL;
        }
    }
    return group;
}

void group_close(struct group *group) {
    for (size_t i = 0; i < group->rig_count; i++) {
        bench_rig_free(group->rigs[i]);
    }
    for (size_t i = 0; i < VARIANTS; i++) {
        if (group->backends[i] != NULL) {
            group->backends[i]->table->free(group->backends[i]);
        }
    }
    free(group);
}

enum status group_rig(struct group *group, size_t variant, const struct model_shape *shape,
                      const uint32_t *lengths, uint32_t sequences, struct bench_rig **out,
                      struct error *err) {
    CHECK(group->rig_count < GROUP_MAX, err, STATUS_INTERNAL, "too many rigs in a group");
    TRY(bench_rig_create(group->backends[variant], shape, lengths, sequences,
                         group->bench->repeated, out, err));
    group->rigs[group->rig_count++] = *out;
    return STATUS_OK;
}

void group_add(struct group *group, const char *op, size_t variant, const char *lengths,
               struct bench_rig *rig, enqueue_function enqueue, unsigned per_call) {
    assert(group->count < GROUP_MAX);
    size_t i = group->count++;
    group->subjects[i] = (struct bench_subject){.enqueue = enqueue,
                                                .finish = bench_rig_finish,
                                                .context = rig,
                                                .per_call = per_call,
                                                .samples = group->samples[i]};
    group->entries[i] =
        (struct report_entry){.section = group->section,
                              .op = op,
                              .variant = group_variants(group->bench->device)[variant].name,
                              .lengths = lengths,
                              .rig = rig,
                              .samples = group->samples[i],
                              .repeats = group->bench->effort.repeats};
}

enum status group_run(struct group *group, struct error *err) {
    TRY(bench_clock_run(group->subjects, group->count, &group->bench->effort, err));
    for (size_t i = 0; i < group->count; i++) {
        group->entries[i].times = group->subjects[i].times;
        report_add(group->bench->report, &group->entries[i]);
    }
    return STATUS_OK;
}

void group_difference(struct group *group, const char *op, size_t like, const double *a,
                      const double *b, double divisor, double *out) {
    struct report_entry entry = group->entries[like];
    for (unsigned i = 0; i < entry.repeats; i++) {
        out[i] = (a[i] - b[i]) / divisor;
    }
    entry.op = op;
    entry.samples = out;
    entry.times = 0;
    report_add(group->bench->report, &entry);
}
