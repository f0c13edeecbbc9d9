/* rng.h - counter-based random numbers: a value is a pure function of (seed, stream, counter).
 *
 * Philox4x32-10 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3"
 * (SC 2011), in the implementation of the Random123 library, the same on CPU and GPU. Nothing has
 * to be saved to resume: a stream is addressed, never advanced by history. `stream` separates
 * purposes (RNG_STREAM_*) and instances (an epoch, a tensor).
 *
 * Usage:
 *     struct rng rng = rng_make(seed, RNG_STREAM_SHUFFLE, epoch);
 *     uint64_t *order = ...;
 *     rng_permute(&rng, order, n);
 *
 * THREADS: plain values; a `struct rng` belongs to one thread.
 */
#ifndef CAIRN_HOST_BASE_RNG_H
#define CAIRN_HOST_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum rng_stream {
    RNG_STREAM_INIT = 1,       /* instance: index of the tensor */
    RNG_STREAM_SHUFFLE = 2,    /* instance: epoch */
    RNG_STREAM_BATCHES = 3,    /* instance: epoch */
    RNG_STREAM_BASE_ORDER = 4, /* fixed seed: order of a folder's files */
    RNG_STREAM_DEMO = 5        /* the built-in corpus */
};

struct rng {
    uint64_t seed;
    uint32_t stream;
    uint32_t instance;
    uint64_t block;    /* next counter block */
    uint32_t words[4]; /* current block */
    uint32_t used;     /* words of it handed out */
};

struct rng rng_make(uint64_t seed, enum rng_stream stream, uint32_t instance);

/* The next 32 or 64 random bits. */
uint32_t rng_next_u32(struct rng *rng);
uint64_t rng_next_u64(struct rng *rng);

/* Uniform in [0, bound), without bias (Lemire 2019, rejection). `bound` > 0. */
uint64_t rng_below(struct rng *rng, uint64_t bound);

/* Uniform in [0, 1) with 53 bits; standard normal (Box-Muller). */
double rng_uniform(struct rng *rng);
double rng_normal(struct rng *rng);

/* Fisher-Yates shuffle of `count` values in place. */
void rng_permute(struct rng *rng, uint32_t *values, size_t count);

#ifdef __cplusplus
}
#endif
#endif
