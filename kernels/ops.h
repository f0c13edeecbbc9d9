/* ops.h - the mathematics of the model and the arguments of every operation.
 *
 * Letters (the same everywhere): V vocabulary, E embedding, H hidden, D dense, B sequences of the
 * batch, N tokens of the batch (sum of its lengths), T steps of one sequence.
 * Gate order everywhere, in weights, biases and workspaces: i, f, g, o (input, forget, candidate,
 * output), that is rows [0,H) [H,2H) [2H,3H) [3H,4H).
 * Matrices are row-major fp32. Direction 0 reads a sequence from its first token to its last,
 * direction 1 ("_reverse") from its last to its first.
 *
 * One direction of the recurrence for token x_t (Hochreiter & Schmidhuber 1997, with the forget
 * gate of Gers et al. 2000), h and c starting at zero:
 *     z_t = W_ih embedding[x_t] + b + W_hh h_{t-1}
 *     i = sigmoid(z_i)  f = sigmoid(z_f)  g = tanh(z_g)  o = sigmoid(z_o)
 *     c_t = f c_{t-1} + i g        h_t = o tanh(c_t)
 * The state after the last step of each direction is concatenated: final_state = [h forward, h
 * reverse]; a sequence without tokens has zeros. Then
 *     a = relu(W_dense final_state + b_dense)      logit = w_output a + b_output
 *     loss = max(logit, 0) - logit y + log(1 + exp(-|logit|)), mean over the batch
 *
 * Sequences are ragged: padding does not exist and nothing computes a padded step. The sequences of
 * a batch are sorted by descending length, so that the ones still running at step t are a prefix.
 *
 * The same structs serve every backend. All pointers are device memory of that backend unless their
 * name ends in `_host`. No argument may alias another one's output. An op is enqueued on the
 * backend's compute stream; on the CPU it has run when the call returns. Results are bit for bit
 * repeatable and do not depend on the number of threads: every sum has an order fixed by the data.
 */
#ifndef CAIRN_KERNELS_OPS_H
#define CAIRN_KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct model_shape {
    uint32_t vocabulary; /* V, 2 to 2^31 - 1 */
    uint32_t embedding;  /* E, from 1 */
    uint32_t hidden;     /* H, from 1 */
    uint32_t dense;      /* D, from 1 */
};

/* The parameters of the model, or gradients of the same shapes. */
struct model_weights {
    float *embedding;     /* [V, E] */
    float *w_ih[2];       /* [4H, E] per direction */
    float *w_hh[2];       /* [4H, H] */
    float *bias[2];       /* [4H] */
    float *dense_weight;  /* [D, 2H] */
    float *dense_bias;    /* [D] */
    float *output_weight; /* [1, D] */
    float *output_bias;   /* [1] */
};

/* What a step gets anew beside the batch's arrays, in device memory. A backend that replays a
 * recorded step (backend.h, `replay`) reads sizes from here and not from its arguments, which are
 * those of the step that was recorded. */
struct step_inputs {
    uint64_t total_tokens; /* N of this batch */
    uint32_t sequences;    /* B of this batch */
    float rate; /* Adam's: learning_rate sqrt(1 - b2^t) / (1 - b1^t), t from 1; 0 where nothing is
                   trained */
};

/* Largest batch that the ops will see; sizes the workspace and, where steps are replayed, every
 * launch. The same in all ops of a model. */
struct batch_limits {
    uint32_t sequences;    /* B */
    uint64_t total_tokens; /* N */
    uint32_t longest;      /* T */
    bool training;         /* false: forward only */
};

/* A ragged batch. The token ids of a whole data set stay resident; a batch only points into them.
 */
struct batch_view {
    const void *tokens;          /* ids of the data set, all of them < V */
    uint32_t token_bytes;        /* 2 (uint16_t) or 4 (uint32_t) */
    uint32_t sequences;          /* B, from 1 */
    uint64_t total_tokens;       /* N, sum of `length` */
    const uint64_t *first;       /* [B] index in `tokens` of each sequence's first token */
    const uint32_t *length;      /* [B] descending; 0 is legal */
    const uint8_t *label;        /* [B] 0 or 1; may be NULL where no loss is asked for */
    const uint32_t *length_host; /* [B] the same in host memory, for libraries that want both */
    const struct step_inputs *inputs; /* [1] the sizes above, and what Adam needs */
};

/* Running sums of a pass over data, in device memory: training adds to them step after step, so
 * they belong to the training state and are saved with it. Doubles: counts below 2^53 are exact. */
struct pass_sums {
    double loss;    /* sum over examples */
    double correct; /* examples with (logit > 0) == label */
    double examples;
    double batch_loss; /* mean loss of the latest batch, not a sum */
};

struct lstm_args {
    struct model_shape shape;
    struct batch_limits limits; /* what workspace_bytes was asked for */
    struct batch_view batch;
    struct model_weights weights;
    struct model_weights gradients; /* lstm_backward writes w_hh, bias; embedding_grad writes
                                       embedding, w_ih. Overwritten, not added to */
    float *final_state;             /* [B, 2H] out of lstm_forward */
    const float *d_final_state;     /* [B, 2H] in to lstm_backward */
    void *workspace; /* what lstm_forward(training) leaves for lstm_backward, and that
                        for embedding_grad; backend_workspace_bytes() bytes, aligned to
                        64; the same one in all three calls */
    bool training;   /* false: no backward will follow, store nothing for it */
};

struct head_args {
    struct model_shape shape;
    struct batch_limits limits;
    struct batch_view batch;
    struct model_weights weights;
    struct model_weights gradients; /* written if training: dense_*, output_*. Overwritten */
    const float *final_state;       /* [B, 2H] */
    float *d_final_state;           /* [B, 2H] out if training */
    float *logits;                  /* [B] out */
    double *losses;                 /* [B] out, per example; may be NULL when batch.label is NULL */
    struct pass_sums *sums;         /* [1] added to in batch order; may be NULL */
    void *workspace;                /* the same as in lstm_args; a part of it is the head's own */
    bool training;
};

/* Global norm of all gradients (Pascanu et al. 2013; Keras' global_clipnorm). */
struct norm_args {
    const float *gradients; /* [count] */
    size_t count;
    double clip_norm; /* 0: no clipping */
    float *scale;     /* [1] out: 1, or clip_norm / norm when the norm is larger */
    double *norm;     /* [1] out, non-finite when a gradient is */
};

/* Adam (Kingma & Ba 2015) in Keras' form, dense:
 *     m += (g - m) (1 - b1)   v += (g g - v) (1 - b2)   p -= rate m / (sqrt(v) + epsilon)
 * with g = gradient * scale; rate contains the bias corrections (struct step_inputs). */
struct adam_args {
    float *parameters;      /* [count] */
    float *m, *v;           /* [count] */
    const float *gradients; /* [count] */
    size_t count;
    const float *scale;               /* [1] from global_norm; NULL is 1 */
    const struct step_inputs *inputs; /* [1] `rate` */
    double beta1, beta2, epsilon;
};

#ifdef __cplusplus
}
#endif
#endif
