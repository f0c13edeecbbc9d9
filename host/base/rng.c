#include "host/base/rng.h"

#include <assert.h>
#include <math.h>

#include <Random123/philox.h>

/* Counter words: block (low, high), stream, instance; key words: seed (low, high). */
static void draw_block(struct rng *rng) {
    philox4x32_ctr_t counter = {
        {(uint32_t)rng->block, (uint32_t)(rng->block >> 32), rng->stream, rng->instance}};
    philox4x32_key_t key = {{(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)}};
    philox4x32_ctr_t result = philox4x32(counter, key);
    for (int i = 0; i < 4; i++) {
        rng->words[i] = result.v[i];
    }
    rng->block++;
    rng->used = 0;
}

struct rng rng_make(uint64_t seed, enum rng_stream stream, uint32_t instance) {
    return (struct rng){.seed = seed, .stream = (uint32_t)stream, .instance = instance, .used = 4};
}

uint32_t rng_next_u32(struct rng *rng) {
    if (rng->used == 4) {
        draw_block(rng);
    }
    return rng->words[rng->used++];
}

uint64_t rng_next_u64(struct rng *rng) {
    uint64_t low = rng_next_u32(rng);
    uint64_t high = rng_next_u32(rng);
    return high << 32 | low;
}

/* The 128-bit product of two 64-bit numbers: the high half is returned. */
static uint64_t multiply_wide(uint64_t a, uint64_t b, uint64_t *low) {
    uint64_t a0 = (uint32_t)a, a1 = a >> 32;
    uint64_t b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t p00 = a0 * b0, p01 = a0 * b1, p10 = a1 * b0, p11 = a1 * b1;
    uint64_t middle = (p00 >> 32) + (uint32_t)p01 + (uint32_t)p10;
    *low = middle << 32 | (uint32_t)p00;
    return p11 + (p01 >> 32) + (p10 >> 32) + (middle >> 32);
}

uint64_t rng_below(struct rng *rng, uint64_t bound) {
    assert(bound > 0);
    uint64_t low;
    uint64_t high = multiply_wide(rng_next_u64(rng), bound, &low);
    if (low < bound) {
        uint64_t threshold =
            (0 - bound) % bound; /* 2^64 mod bound: values below it would be bias */
        while (low < threshold) {
            high = multiply_wide(rng_next_u64(rng), bound, &low);
        }
    }
    return high;
}

double rng_uniform(struct rng *rng) {
    return (double)(rng_next_u64(rng) >> 11) * 0x1p-53;
}

double rng_normal(struct rng *rng) {
    double u = 1.0 - rng_uniform(rng); /* (0, 1], so that the logarithm exists */
    double v = rng_uniform(rng);
    return sqrt(-2.0 * log(u)) * cos(2.0 * 3.14159265358979323846 * v);
}

void rng_permute(struct rng *rng, uint32_t *values, size_t count) {
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)rng_below(rng, i);
        uint32_t other = values[j];
        values[j] = values[i - 1];
        values[i - 1] = other;
    }
}
