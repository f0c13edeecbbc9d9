/* train_mlp.c - a complete trainer that never forgets: a small network on made-up data, saved by
 * libcairn-checkpoint. Kill it whenever you like and start it again by the same command: the
 * weights that it writes at the end are, bit for bit, those of a run that was never stopped.
 *
 *     cc train_mlp.c -o train_mlp $(pkg-config --cflags --libs cairn-checkpoint) -lm
 *     ./train_mlp runs/a weights.bin            [STEPS, default 2000] [SAVE EVERY, default 50]
 *
 * What the next step depends on, and nothing else, is in the checkpoint: weights, momentum, the
 * state of the random numbers, the running loss. Data are drawn from the random numbers, so there
 * is no position to keep.
 *
 * -DHIDDEN=N chooses the number of hidden units. Weights and momentum are 80 bytes of each: with
 * 65536, 5 MB. They are added as steady (checkpoint.h): a save leaves them where they are, and they
 * are copied beside the next step, until its update. -DBATCH=N: examples a step.
 */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cairn/checkpoint.h>

#ifndef HIDDEN
#define HIDDEN 256
#endif
#ifndef BATCH
#define BATCH 32
#endif

enum { INPUTS = 8 };

/* ---- the model: relu(x W1 + b1) W2 + b2, squared error ---- */

struct weights {
    float w1[INPUTS][HIDDEN];
    float b1[HIDDEN];
    float w2[HIDDEN];
    float b2;
};

struct trainer {
    struct weights weights, momentum, gradients;
    uint64_t random;
    double loss; /* running mean */
    uint64_t step;
};

/* xorshift64*, Vigna 2016: 64 bits of state, all of them saved. */
static uint64_t next_random(struct trainer *trainer) {
    trainer->random ^= trainer->random >> 12;
    trainer->random ^= trainer->random << 25;
    trainer->random ^= trainer->random >> 27;
    return trainer->random * UINT64_C(0x2545F4914F6CDD1D);
}

static float uniform(struct trainer *trainer) { /* [-1, 1) */
    return (float)(next_random(trainer) >> 40) * (2.0F / 16777216.0F) - 1.0F;
}

static void initialise(struct trainer *trainer) {
    memset(trainer, 0, sizeof *trainer);
    trainer->random = 42;
    for (int i = 0; i < INPUTS; i++) {
        for (int h = 0; h < HIDDEN; h++) {
            trainer->weights.w1[i][h] = uniform(trainer) * 0.5F;
        }
    }
    for (int h = 0; h < HIDDEN; h++) {
        trainer->weights.w2[h] = uniform(trainer) * 0.05F;
    }
}

/* What is to be learned. */
static float target_of(const float x[INPUTS]) {
    return x[0] * x[1] + sinf(2.0F * x[2]) - 0.5F * x[3];
}

static double one_example(struct trainer *trainer) {
    const struct weights *weights = &trainer->weights;
    struct weights *gradients = &trainer->gradients;
    float x[INPUTS], hidden[HIDDEN], y = weights->b2;
    for (int i = 0; i < INPUTS; i++) {
        x[i] = uniform(trainer);
    }
    for (int h = 0; h < HIDDEN; h++) {
        float sum = weights->b1[h];
        for (int i = 0; i < INPUTS; i++) {
            sum += x[i] * weights->w1[i][h];
        }
        hidden[h] = sum > 0.0F ? sum : 0.0F;
        y += hidden[h] * weights->w2[h];
    }
    float error = y - target_of(x), dy = error / BATCH;
    gradients->b2 += dy;
    for (int h = 0; h < HIDDEN; h++) {
        gradients->w2[h] += dy * hidden[h];
        float dh = hidden[h] > 0.0F ? dy * weights->w2[h] : 0.0F;
        gradients->b1[h] += dh;
        for (int i = 0; i < INPUTS; i++) {
            gradients->w1[i][h] += dh * x[i];
        }
    }
    return 0.5 * (double)error * (double)error;
}

/* Forward, backward, update. A save before this step may still be reading the weights (they are
 * registered as steady); from cairn_checkpoint_settle on they may change. */
static void train_step(struct trainer *trainer, struct cairn_checkpoint *saves) {
    memset(&trainer->gradients, 0, sizeof trainer->gradients);
    double loss = 0.0;
    for (int i = 0; i < BATCH; i++) {
        loss += one_example(trainer) / BATCH;
    }
    cairn_checkpoint_settle(saves);
    /* Structs of floats alone: they can be walked as one array. */
    float *p = (float *)&trainer->weights, *m = (float *)&trainer->momentum;
    const float *g = (const float *)&trainer->gradients;
    const float rate = 0.02F * (256.0F / HIDDEN); /* every unit adds to the one output */
    for (size_t i = 0; i < sizeof(struct weights) / sizeof(float); i++) {
        m[i] = 0.9F * m[i] + g[i];
        p[i] -= rate * m[i];
    }
    trainer->loss = trainer->step == 0 ? loss : 0.99 * trainer->loss + 0.01 * loss;
    trainer->step++;
}

/* ---- checkpoints ---- */

static void fail(const char *what, const struct cairn_error *error) {
    fprintf(stderr, "%s: %s\n", what, error->message);
    exit(1);
}

/* A failed save does not stop training, but nobody should miss it. */
static void on_error(void *context, const struct cairn_error *error) {
    (void)context;
    fprintf(stderr, "checkpoints: %s\n", error->message);
}

static void add_weights(struct cairn_checkpoint *saves, const char *prefix, struct weights *from) {
    char names[4][32];
    const char *parts[4] = {"w1", "b1", "w2", "b2"};
    for (int i = 0; i < 4; i++) {
        snprintf(names[i], sizeof names[i], "%s%s", prefix, parts[i]);
    }
    const struct cairn_tensor tensors[] = {
        {names[0], CAIRN_F32, CAIRN_HOST, from->w1, 2, {INPUTS, HIDDEN}},
        {names[1], CAIRN_F32, CAIRN_HOST, from->b1, 1, {HIDDEN}},
        {names[2], CAIRN_F32, CAIRN_HOST, from->w2, 1, {HIDDEN}},
        {names[3], CAIRN_F32, CAIRN_HOST, &from->b2, 0, {0}},
    };
    struct cairn_error error;
    for (int i = 0; i < 4; i++) {
        if (cairn_checkpoint_add_steady(saves, &tensors[i], &error) != CAIRN_OK) {
            fail("add", &error);
        }
    }
}

static struct cairn_checkpoint *open_checkpoints(const char *directory, struct trainer *trainer) {
    struct cairn_checkpoint_options options = CAIRN_CHECKPOINT_OPTIONS_INIT;
    options.keep_max = 3;
    options.on_error = on_error;
    struct cairn_checkpoint *saves;
    struct cairn_error error;
    if (cairn_checkpoint_open(directory, &options, &saves, &error) != CAIRN_OK) {
        fail("open", &error);
    }
    add_weights(saves, "", &trainer->weights);
    add_weights(saves, "momentum.", &trainer->momentum);
    const struct cairn_tensor random = {"random", CAIRN_I64, CAIRN_HOST, &trainer->random, 0, {0}};
    const struct cairn_tensor loss = {"loss", CAIRN_F64, CAIRN_HOST, &trainer->loss, 0, {0}};
    if (cairn_checkpoint_add(saves, &random, &error) != CAIRN_OK ||
        cairn_checkpoint_add(saves, &loss, &error) != CAIRN_OK) {
        fail("add", &error);
    }
    bool found;
    if (cairn_checkpoint_restore_latest(saves, &found, &trainer->step, &error) != CAIRN_OK) {
        fail("restore", &error);
    }
    if (found) {
        const char *program = cairn_checkpoint_get_string(saves, "program"); /* NULL: not set */
        printf("resumed from step %" PRIu64 ", trained by %s\n", trainer->step,
               program == NULL ? "another program" : program);
    } else if (cairn_checkpoint_set_string(saves, "program", "train_mlp", &error) != CAIRN_OK) {
        fail("set_string", &error);
    }
    return saves;
}

static void save(struct cairn_checkpoint *saves, uint64_t step, unsigned flags) {
    struct cairn_error error;
    if (cairn_checkpoint_save(saves, step, flags, NULL, &error) != CAIRN_OK) {
        fail("save", &error);
    }
}

/* ---- the program ---- */

/* Stopped before the end, everything saved: the same command goes on. With 0 a batch queue would
 * take the job for done; most can be told to run it again at this code (EX_TEMPFAIL). */
enum { EXIT_STOPPED = 75 };

static volatile sig_atomic_t stopped;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static void write_weights(const char *path, const struct trainer *trainer) {
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(&trainer->weights, sizeof trainer->weights, 1, file) != 1 ||
        fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s DIRECTORY WEIGHTS [STEPS] [SAVE EVERY]\n", argv[0]);
        return 2;
    }
    uint64_t steps = argc > 3 ? strtoull(argv[3], NULL, 10) : 2000;
    uint64_t every = argc > 4 ? strtoull(argv[4], NULL, 10) : 50;
    signal(SIGTERM, stop);
    static struct trainer trainer;
    initialise(&trainer);
    struct cairn_checkpoint *saves = open_checkpoints(argv[1], &trainer);
    while (trainer.step < steps && !stopped) {
        train_step(&trainer, saves);
        if (every > 0 && trainer.step % every == 0) {
            save(saves, trainer.step, 0);
        }
    }
    save(saves, trainer.step, CAIRN_CHECKPOINT_MUST);
    struct cairn_error error;
    if (cairn_checkpoint_close(saves, &error) != CAIRN_OK) {
        fail("the last save", &error);
    }
    printf("step %" PRIu64 ", loss %.6f\n", trainer.step, trainer.loss);
    if (trainer.step < steps) {
        return EXIT_STOPPED;
    }
    write_weights(argv[2], &trainer);
    return 0;
}
