#include "bench/bench_ops_group.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_ops_count.h"
#include "host/loading.h"

/* ---- backends ---- */

enum status ops_group_backend(const struct ops_bench *bench, const struct ops_variant *variant,
                              uint32_t hidden, struct backend **out, struct error *err) {
    struct options options = *bench->options;
    if (strcmp(options.device, "auto") == 0) {
        options.device = bench->cuda ? "cuda" : "cpu";
    }
    options.isa = variant->isa;
    options.lstm = variant->lstm;
    options.cuda_graph = variant->graph;
    options.threads = variant->threads;
    return loading_create_backend(&options, hidden, out, err);
}

struct ops_group *ops_group_open(struct ops_bench *bench, const char *section, uint32_t hidden,
                                 enum ops_variant_use use) {
    struct ops_group *group = calloc(1, sizeof *group);
    if (group == NULL) {
        return NULL;
    }
    group->bench = bench;
    group->section = section;
    for (size_t i = 0; i < bench->variant_count; i++) {
        const struct ops_variant *variant = &bench->variants[i];
        struct error err = {0};
        if ((variant->use == OPS_VARIANT_ALWAYS || variant->use == use) &&
            ops_group_backend(bench, variant, hidden, &group->backends[i], &err) != STATUS_OK) {
            ops_report_absent(bench->report, variant->name, hidden, err.message);
            group->backends[i] = NULL;
        }
    }
    return group;
}

void ops_group_close(struct ops_group *group) {
    for (size_t i = 0; i < group->rig_count; i++) {
        bench_rig_free(group->rigs[i]);
    }
    for (size_t i = 0; i < OPS_VARIANTS; i++) {
        if (group->backends[i] != NULL) {
            group->backends[i]->table->free(group->backends[i]);
        }
    }
    free(group);
}

/* ---- what is timed ---- */

enum status ops_group_rig(struct ops_group *group, size_t variant, const struct model_shape *shape,
                          const uint32_t *lengths, uint32_t sequences, struct bench_rig **out,
                          struct error *err) {
    CHECK(group->rig_count < OPS_GROUP_MAX, err, STATUS_INTERNAL, "too many rigs in a group");
    TRY(bench_rig_create(group->backends[variant], shape, lengths, sequences,
                         group->bench->repeated, out, err));
    group->rigs[group->rig_count++] = *out;
    return STATUS_OK;
}

void ops_group_add(struct ops_group *group, const char *op, size_t variant, const char *lengths,
                   struct bench_rig *rig, ops_function enqueue, unsigned per_call, double flops) {
    assert(group->count < OPS_GROUP_MAX);
    size_t i = group->count++;
    group->subjects[i] = (struct bench_subject){.enqueue = enqueue,
                                                .finish = bench_rig_finish,
                                                .context = rig,
                                                .per_call = per_call,
                                                .samples = group->samples[i]};
    group->entries[i] = (struct ops_entry){.section = group->section,
                                           .op = op,
                                           .variant = group->bench->variants[variant].name,
                                           .threads = group->bench->variants[variant].threads,
                                           .lengths = lengths,
                                           .rig = rig,
                                           .samples = group->samples[i],
                                           .repeats = group->bench->effort.repeats,
                                           .flops = flops};
}

void ops_group_add_lstm(struct ops_group *group, size_t variant, const char *lengths,
                        struct bench_rig *rig) {
    double one = bench_ops_count_forward(rig), both = one + bench_ops_count_backward(rig);
    ops_group_add(group, "lstm_forward", variant, lengths, rig, bench_rig_forward, 1, one);
    ops_group_add(group, "lstm_forward, inference", variant, lengths, rig, bench_rig_inference, 1,
                  one);
    ops_group_add(group, "lstm_forward + backward", variant, lengths, rig,
                  bench_rig_forward_backward, 1, both);
}

/* ---- measuring and reporting ---- */

enum status ops_group_measure(struct ops_group *group, struct error *err) {
    TRY(bench_clock_run(group->subjects, group->count, &group->bench->effort, err));
    for (size_t i = 0; i < group->count; i++) {
        group->entries[i].times = group->subjects[i].times;
    }
    return STATUS_OK;
}

void ops_group_report(struct ops_group *group) {
    for (size_t i = 0; i < group->count; i++) {
        ops_report_add(group->bench->report, &group->entries[i]);
    }
}

enum status ops_group_run(struct ops_group *group, struct error *err) {
    TRY(ops_group_measure(group, err));
    ops_group_report(group);
    return STATUS_OK;
}

void ops_group_difference(struct ops_group *group, const char *op, size_t like, const double *a,
                          const double *b, double divisor, double *out) {
    struct ops_entry entry = group->entries[like];
    for (unsigned i = 0; i < entry.repeats; i++) {
        out[i] = (a[i] - b[i]) / divisor;
    }
    entry.op = op;
    entry.samples = out;
    entry.times = 0;
    entry.flops = 0.0;
    ops_report_add(group->bench->report, &entry);
}

void ops_group_backward(struct ops_group *group, size_t first, double *out) {
    ops_group_difference(group, "lstm_backward", first + OPS_BOTH, group->samples[first + OPS_BOTH],
                         group->samples[first + OPS_FORWARD], 1.0, out);
}
