/* bench_phases.h - where the time of a training step goes: a backend whose operations are timed.
 *
 * bench_phases_begin puts a copy of the backend's table in its place, in which every operation of
 * a step waits for the stream, runs, waits again and adds what that took to its phase. Everything
 * else is the backend's own. What is computed stays the same, bit for bit. On a device that works
 * behind the host the waiting itself costs time, and recorded steps are not replayed but enqueued
 * one operation at a time: a total belongs into another pass, without phases.
 *
 * A profiler range called "words" inside lstm_forward (kernels/cpu: the table of distinct words) is
 * a phase of its own; backends without it have that work in BENCH_PHASE_FORWARD.
 *
 * Usage:
 *     struct bench_phases phases;
 *     bench_phases_begin(&phases, be);
 *     ... steps ...
 *     bench_phases_end(&phases);
 *     phases.seconds[BENCH_PHASE_BACKWARD], phases.calls[BENCH_PHASE_BACKWARD]
 *
 * THREADS: begin, end and the operations on the trainer's thread; no other thread may be in a call
 * of the backend during begin and end (drain the writer before). In between others may call what
 * the table allows them.
 */
#ifndef CAIRN_BENCH_BENCH_PHASES_H
#define CAIRN_BENCH_BENCH_PHASES_H

#include <pthread.h>
#include <stdint.h>

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum bench_phase {
    BENCH_PHASE_WORDS,     /* range "words" of lstm_forward */
    BENCH_PHASE_FORWARD,   /* lstm_forward, the rest: each token's row of words is gathered here */
    BENCH_PHASE_HEAD,      /* head_forward_backward */
    BENCH_PHASE_BACKWARD,  /* lstm_backward */
    BENCH_PHASE_EMBEDDING, /* embedding_grad */
    BENCH_PHASE_UPDATE,    /* global_norm, adam_step */
    BENCH_PHASE_COUNT
};

/* "backward"; static. */
const char *bench_phase_name(enum bench_phase phase);

struct bench_phases {
    struct backend_table table; /* first: found again through be->table */
    struct backend *be;
    const struct backend_table *original;
    double seconds[BENCH_PHASE_COUNT];
    uint64_t calls[BENCH_PHASE_COUNT];
    /* private */
    pthread_t owner;
    double words_begin;
    unsigned words_depth; /* ranges that are open inside "words", itself included */
};

/* Zero the figures and time `be` from now on. `out` must stay where it is until bench_phases_end. */
void bench_phases_begin(struct bench_phases *out, struct backend *be);
/* The backend has its own table again; the figures stay. */
void bench_phases_end(struct bench_phases *phases);

#ifdef __cplusplus
}
#endif
#endif
