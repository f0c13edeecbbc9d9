/* cuda_cudnn.cu - the recurrence by cuDNN, for hidden sizes above the fused kernels' or on request.
 *
 * cuDNN takes the batch packed by time (cuda_packed.cu): embeddings are gathered into that order
 * and their gradients scattered back, after which they are summed by word like those of the fused
 * kernels. Sequences without tokens are at the end of the batch; cuDNN never sees them.
 * It keeps weights in a space of its own layout: copied there before each forward pass, and the
 * gradients back after the backward pass.
 *
 * It wants the lengths on the host, so steps are enqueued anew each time, never recorded, and sizes
 * may be taken from the arguments. How much temporary memory it wants does not grow steadily with
 * the batch ("not monotonic", says the documentation of cudnnGetRNNTempSpaceSizes): the workspace
 * has room for a batch that fills the limits, and one that wants more gets a buffer that is kept.
 */
#include "kernels/cuda/cuda_internal.cuh"

#if !defined(CAIRN_CUDNN)

/* backend_cuda_create refuses before any of these can be reached. */
static enum status absent(struct error *err) {
    return error_set(err, STATUS_DEVICE, "this build lacks cuDNN");
}

enum status cuda_cudnn_create(struct cuda_backend *be, const char *precision, struct error *err) {
    (void)be, (void)precision;
    return absent(err);
}

void cuda_cudnn_free(struct cuda_backend *be) {
    (void)be;
}

enum status cuda_cudnn_workspace_bytes(struct cuda_backend *be, const struct model_shape *shape,
                                       const struct batch_limits *limits, size_t *out,
                                       struct error *err) {
    (void)be, (void)shape, (void)limits, (void)out;
    return absent(err);
}

enum status cuda_cudnn_forward(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, struct error *err) {
    (void)be, (void)ws, (void)args;
    return absent(err);
}

enum status cuda_cudnn_backward(struct cuda_backend *be, const struct cuda_workspace *ws,
                                const struct lstm_args *args, struct error *err) {
    (void)be, (void)ws, (void)args;
    return absent(err);
}

enum status cuda_cudnn_embedding_gradients(struct cuda_backend *be, const struct cuda_workspace *ws,
                                           const struct lstm_args *args, struct error *err) {
    (void)be, (void)ws, (void)args;
    return absent(err);
}

#else

#include <assert.h>
#include <cudnn.h>
#include <stdlib.h>
#include <string.h>

enum { GATES = 4 };
static const uint32_t steps_max = 65535;

struct temporary_bytes {
    size_t bytes[2]; /* work, reserve */
};

/* What cuDNN wants for a model and its limits. It is asked once, so that the workspace is divided
 * as it was when it was allocated. */
struct answer {
    struct answer *next;
    struct model_shape shape;
    struct batch_limits limits;
    size_t weight_bytes;
    struct temporary_bytes temporary;
    size_t workspace_bytes; /* all of it, with the common part */
};

/* What cuDNN's part of the workspace holds, behind the common part. */
struct spaces {
    uint32_t *packed_row; /* [N] where each of our rows is in the packed order */
    float *x, *dx;        /* [N, E] packed */
    float *y, *dy;        /* [N, 2H] packed; dy is zero: only the final states have gradients */
    float *state;         /* [2, B, H] final states, then their gradients */
    char *weights, *d_weights;
    size_t weight_bytes;
    void *temporary[2]; /* work, reserve */
    size_t end;
};

/* The batch that lstm_forward saw last and the descriptors describe: its backward pass must get the
 * same memory. */
struct cudnn_batch {
    const void *workspace; /* NULL: none */
    bool training;
    uint32_t running; /* sequences with tokens */
    struct spaces spaces;
    struct temporary_bytes need;
};

struct cuda_cudnn {
    cudnnHandle_t handle;
    cudnnDropoutDescriptor_t dropout; /* none; the descriptor of the recurrence wants one */
    cudnnMathType_t math;
    cudnnRNNDescriptor_t rnn;
    uint32_t embedding, hidden;               /* what `rnn` was set to; 0 before */
    cudnnRNNDataDescriptor_t inputs, outputs; /* of the current batch */
    cudnnTensorDescriptor_t state;            /* [2, sequences with tokens, H] */
    cudnnTensorDescriptor_t matrix, vector;   /* for asking where weights are */
    int *length;                              /* [length_capacity] */
    uint32_t length_capacity;
    void *extra[2]; /* work and reserve of batches that want more than the workspace has */
    size_t extra_bytes[2];
    struct answer *answers;
    struct cudnn_batch batch;
};

#define CUDNN_TRY(call, name, err)                                                                 \
    do {                                                                                           \
        cudnnStatus_t cudnn_try_status = (call);                                                   \
        if (cudnn_try_status != CUDNN_STATUS_SUCCESS) {                                            \
            return cudnn_failed(cudnn_try_status, name, err);                                      \
        }                                                                                          \
    } while (0)

static enum status cudnn_failed(cudnnStatus_t status, const char *name, struct error *err) {
    char words[256] = "";
    cudnnGetLastErrorString(words, sizeof words);
    return error_set(err, status == CUDNN_STATUS_ALLOC_FAILED ? STATUS_MEMORY : STATUS_DEVICE,
                     "%s: %s%s%s", name, cudnnGetErrorString(status), words[0] != '\0' ? ": " : "",
                     words);
}

/* ---- creation ---- */

static enum status make(struct cuda_backend *be, struct cuda_cudnn *cd, struct error *err) {
    CUDNN_TRY(cudnnCreate(&cd->handle), "cudnnCreate", err);
    CUDNN_TRY(cudnnSetStream(cd->handle, be->stream[BACKEND_STREAM_COMPUTE]), "cudnnSetStream",
              err);
    CUDNN_TRY(cudnnCreateDropoutDescriptor(&cd->dropout), "cudnnCreateDropoutDescriptor", err);
    CUDNN_TRY(cudnnSetDropoutDescriptor(cd->dropout, cd->handle, 0.0f, NULL, 0, 0),
              "cudnnSetDropoutDescriptor", err);
    CUDNN_TRY(cudnnCreateRNNDescriptor(&cd->rnn), "cudnnCreateRNNDescriptor", err);
    CUDNN_TRY(cudnnCreateRNNDataDescriptor(&cd->inputs), "cudnnCreateRNNDataDescriptor", err);
    CUDNN_TRY(cudnnCreateRNNDataDescriptor(&cd->outputs), "cudnnCreateRNNDataDescriptor", err);
    CUDNN_TRY(cudnnCreateTensorDescriptor(&cd->state), "cudnnCreateTensorDescriptor", err);
    CUDNN_TRY(cudnnCreateTensorDescriptor(&cd->matrix), "cudnnCreateTensorDescriptor", err);
    CUDNN_TRY(cudnnCreateTensorDescriptor(&cd->vector), "cudnnCreateTensorDescriptor", err);
    return STATUS_OK;
}

enum status cuda_cudnn_create(struct cuda_backend *be, const char *precision, struct error *err) {
    struct cuda_cudnn *cd = (struct cuda_cudnn *)calloc(1, sizeof *cd);
    CHECK(cd != NULL, err, STATUS_MEMORY, "out of memory for cuDNN");
    be->cudnn = cd; /* freed with the backend, however far this gets */
    /* The default would be tf32 where the device has it. */
    cd->math = strcmp(precision, "fp32") == 0 ? CUDNN_FMA_MATH : CUDNN_DEFAULT_MATH;
    /* cuDNN multiplies through cuBLAS handles of its own on several streams, whose results may
     * differ from run to run unless their workspaces have one size (cuBLAS documentation, "Results
     * reproducibility"). The user's own setting stays. */
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
    return make(be, cd, err);
}

void cuda_cudnn_free(struct cuda_backend *be) {
    struct cuda_cudnn *cd = be->cudnn;
    if (cd == NULL) {
        return;
    }
    cudaFree(cd->extra[0]);
    cudaFree(cd->extra[1]);
    cudnnTensorDescriptor_t tensors[] = {cd->vector, cd->matrix, cd->state};
    for (cudnnTensorDescriptor_t tensor : tensors) {
        if (tensor != NULL) {
            cudnnDestroyTensorDescriptor(tensor);
        }
    }
    cudnnRNNDataDescriptor_t sequences[] = {cd->outputs, cd->inputs};
    for (cudnnRNNDataDescriptor_t data : sequences) {
        if (data != NULL) {
            cudnnDestroyRNNDataDescriptor(data);
        }
    }
    if (cd->rnn != NULL) {
        cudnnDestroyRNNDescriptor(cd->rnn);
    }
    if (cd->dropout != NULL) {
        cudnnDestroyDropoutDescriptor(cd->dropout);
    }
    if (cd->handle != NULL) {
        cudnnDestroy(cd->handle);
    }
    while (cd->answers != NULL) {
        struct answer *answer = cd->answers;
        cd->answers = answer->next;
        free(answer);
    }
    free(cd->length);
    free(cd);
    be->cudnn = NULL;
}

/* ---- descriptions ---- */

static enum status describe_model(struct cuda_cudnn *cd, const struct model_shape *shape,
                                  struct error *err) {
    if (cd->embedding == shape->embedding && cd->hidden == shape->hidden) {
        return STATUS_OK;
    }
    CHECK(shape->embedding <= INT32_MAX && shape->hidden <= INT32_MAX / 2, err, STATUS_DEVICE,
          "cuDNN: embedding size %u or hidden size %u is too large", shape->embedding,
          shape->hidden);
    cd->embedding = 0;
    cd->batch.workspace = NULL; /* no longer described */
    CUDNN_TRY(cudnnSetRNNDescriptor_v8(
                  cd->rnn, CUDNN_RNN_ALGO_STANDARD, CUDNN_LSTM, CUDNN_RNN_SINGLE_INP_BIAS,
                  CUDNN_BIDIRECTIONAL, CUDNN_LINEAR_INPUT, CUDNN_DATA_FLOAT, CUDNN_DATA_FLOAT,
                  cd->math, (int32_t)shape->embedding, (int32_t)shape->hidden,
                  (int32_t)shape->hidden, 1, cd->dropout, CUDNN_RNN_PADDED_IO_DISABLED),
              "cudnnSetRNNDescriptor_v8", err);
    cd->embedding = shape->embedding;
    cd->hidden = shape->hidden;
    return STATUS_OK;
}

static enum status describe_sequences(struct cuda_cudnn *cd, const struct model_shape *shape,
                                      uint32_t sequences, struct error *err) {
    int count = (int)sequences, longest = cd->length[0];
    CUDNN_TRY(cudnnSetRNNDataDescriptor(cd->inputs, CUDNN_DATA_FLOAT,
                                        CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED, longest, count,
                                        (int)shape->embedding, cd->length, NULL),
              "cudnnSetRNNDataDescriptor", err);
    CUDNN_TRY(cudnnSetRNNDataDescriptor(cd->outputs, CUDNN_DATA_FLOAT,
                                        CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED, longest, count,
                                        2 * (int)shape->hidden, cd->length, NULL),
              "cudnnSetRNNDataDescriptor", err);
    int sizes[] = {2, count, (int)shape->hidden};
    int strides[] = {count * (int)shape->hidden, (int)shape->hidden, 1};
    CUDNN_TRY(cudnnSetTensorNdDescriptor(cd->state, CUDNN_DATA_FLOAT, 3, sizes, strides),
              "cudnnSetTensorNdDescriptor", err);
    return STATUS_OK;
}

static enum status room_for_lengths(struct cuda_cudnn *cd, uint32_t sequences, struct error *err) {
    if (sequences > cd->length_capacity) {
        int *length = (int *)realloc(cd->length, sequences * sizeof *length);
        CHECK(length != NULL, err, STATUS_MEMORY, "out of memory for %u lengths", sequences);
        cd->length = length;
        cd->length_capacity = sequences;
    }
    return STATUS_OK;
}

static enum status check_length(uint32_t tokens, struct error *err) {
    CHECK(tokens <= steps_max, err, STATUS_DEVICE,
          "a text of %u tokens is longer than the %u that the cuDNN path takes; pass --max-length "
          "%u, or a hidden size up to %d with --lstm fused, which takes any length",
          tokens, steps_max, steps_max, CUDA_FUSED_HIDDEN_MAX);
    return STATUS_OK;
}

/* A batch that fills the limits: as many of the longest texts as they have tokens for, and the rest
 * in a shorter one. No text is empty. */
static enum status describe_limits(struct cuda_cudnn *cd, const struct model_shape *shape,
                                   const struct batch_limits *limits, struct error *err) {
    uint64_t longest = limits->longest < steps_max ? limits->longest : steps_max;
    uint64_t left = limits->total_tokens;
    longest = longest > 0 ? longest : 1;
    left = left > 0 ? left : 1;
    uint64_t texts = (left + longest - 1) / longest;
    uint32_t count = texts < limits->sequences ? (uint32_t)texts : limits->sequences;
    TRY(room_for_lengths(cd, count, err));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t length = left < longest ? left : longest;
        cd->length[i] = (int)length;
        left -= length;
    }
    return describe_sequences(cd, shape, count, err);
}

/* *sequences: those with tokens, which are the first ones. */
static enum status describe_batch(struct cuda_cudnn *cd, const struct lstm_args *args,
                                  uint32_t *sequences, struct error *err) {
    const struct batch_view *batch = &args->batch;
    CHECK(batch->length_host != NULL, err, STATUS_INTERNAL,
          "cuDNN needs the lengths of the batch in host memory");
    TRY(room_for_lengths(cd, batch->sequences, err));
    TRY(check_length(batch->length_host[0], err));
    uint32_t count = 0;
    while (count < batch->sequences && batch->length_host[count] > 0) {
        cd->length[count] = (int)batch->length_host[count];
        count++;
    }
    *sequences = count;
    return count > 0 ? describe_sequences(cd, &args->shape, count, err) : STATUS_OK;
}

/* ---- memory ---- */

static enum status ask_temporary(struct cuda_cudnn *cd, bool training, struct temporary_bytes *out,
                                 struct error *err) {
    cudnnForwardMode_t mode = training ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE;
    CUDNN_TRY(cudnnGetRNNTempSpaceSizes(cd->handle, cd->rnn, mode, cd->inputs, &out->bytes[0],
                                        &out->bytes[1]),
              "cudnnGetRNNTempSpaceSizes", err);
    return STATUS_OK;
}

static char *take(char *memory, size_t *used, uint64_t bytes) {
    char *piece = memory != NULL ? memory + *used : NULL;
    *used += (bytes + 255) / 256 * 256;
    return piece;
}

/* The spaces behind the `used` bytes of the common part; `memory` NULL: only where they end. */
static void divide(char *memory, size_t used, const struct answer *answer, struct spaces *s) {
    uint64_t N = answer->limits.total_tokens, B = answer->limits.sequences;
    uint64_t E = answer->shape.embedding, H = answer->shape.hidden;
    uint64_t training = answer->limits.training ? 1 : 0;
    s->weight_bytes = answer->weight_bytes;
    s->packed_row = (uint32_t *)take(memory, &used, N * sizeof(uint32_t));
    s->x = (float *)take(memory, &used, N * E * sizeof(float));
    s->y = (float *)take(memory, &used, N * 2 * H * sizeof(float));
    s->state = (float *)take(memory, &used, B * 2 * H * sizeof(float));
    s->weights = take(memory, &used, s->weight_bytes);
    s->dx = (float *)take(memory, &used, training * N * E * sizeof(float));
    s->dy = (float *)take(memory, &used, training * N * 2 * H * sizeof(float));
    s->d_weights = take(memory, &used, training * s->weight_bytes);
    s->temporary[0] = take(memory, &used, answer->temporary.bytes[0]);
    s->temporary[1] = take(memory, &used, answer->temporary.bytes[1]);
    s->end = used;
}

static const struct answer *find_answer(const struct cuda_cudnn *cd,
                                        const struct model_shape *shape,
                                        const struct batch_limits *limits) {
    const struct answer *a = cd->answers;
    while (a != NULL &&
           (a->shape.vocabulary != shape->vocabulary || a->shape.embedding != shape->embedding ||
            a->shape.hidden != shape->hidden || a->shape.dense != shape->dense ||
            a->limits.sequences != limits->sequences ||
            a->limits.total_tokens != limits->total_tokens ||
            a->limits.longest != limits->longest || a->limits.training != limits->training)) {
        a = a->next;
    }
    return a;
}

/* The answer for its shape and limits. */
static enum status ask(struct cuda_backend *be, struct answer *answer, struct error *err) {
    struct cuda_cudnn *cd = be->cudnn;
    cd->batch.workspace = NULL; /* the descriptors will be of something else */
    TRY(describe_model(cd, &answer->shape, err));
    TRY(describe_limits(cd, &answer->shape, &answer->limits, err));
    TRY(ask_temporary(cd, answer->limits.training, &answer->temporary, err));
    CUDNN_TRY(cudnnGetRNNWeightSpaceSize(cd->handle, cd->rnn, &answer->weight_bytes),
              "cudnnGetRNNWeightSpaceSize", err);
    struct spaces s;
    divide(NULL, cuda_workspace_bytes(be, &answer->shape, &answer->limits), answer, &s);
    answer->workspace_bytes = s.end;
    return STATUS_OK;
}

static enum status new_answer(struct cuda_backend *be, const struct model_shape *shape,
                              const struct batch_limits *limits, const struct answer **out,
                              struct error *err) {
    struct answer *answer = (struct answer *)calloc(1, sizeof *answer);
    CHECK(answer != NULL, err, STATUS_MEMORY, "out of memory for cuDNN");
    answer->shape = *shape;
    answer->limits = *limits;
    enum status status = ask(be, answer, err);
    if (status != STATUS_OK) {
        free(answer);
        return status;
    }
    answer->next = be->cudnn->answers;
    be->cudnn->answers = answer;
    *out = answer;
    return STATUS_OK;
}

enum status cuda_cudnn_workspace_bytes(struct cuda_backend *be, const struct model_shape *shape,
                                       const struct batch_limits *limits, size_t *out,
                                       struct error *err) {
    if (limits->training) {
        TRY(check_length(limits->longest, err)); /* not hours later, at its batch */
    }
    const struct answer *answer = find_answer(be->cudnn, shape, limits);
    if (answer == NULL) {
        TRY(new_answer(be, shape, limits, &answer, err));
    }
    *out = answer->workspace_bytes;
    return STATUS_OK;
}

static enum status make_spaces(struct cuda_backend *be, const struct lstm_args *args,
                               const struct answer **answer, struct spaces *out,
                               struct error *err) {
    *answer = find_answer(be->cudnn, &args->shape, &args->limits);
    CHECK(*answer != NULL, err, STATUS_INTERNAL, "the workspace is not for these limits");
    divide((char *)args->workspace, cuda_workspace_bytes(be, &args->shape, &args->limits), *answer,
           out);
    assert(out->end == (*answer)->workspace_bytes);
    return describe_model(be->cudnn, &args->shape, err);
}

/* The kept buffer with at least `bytes`. */
static enum status extra_memory(struct cuda_cudnn *cd, int i, size_t bytes, void **out,
                                struct error *err) {
    if (bytes > cd->extra_bytes[i]) {
        cudaFree(cd->extra[i]); /* waits for the device */
        cd->extra[i] = NULL;
        cd->extra_bytes[i] = 0;
        CUDA_TRY(cudaMalloc(&cd->extra[i], bytes), "memory for cuDNN", err);
        cd->extra_bytes[i] = bytes;
    }
    *out = cd->extra[i];
    return STATUS_OK;
}

/* Everything that the passes over args->batch need, in cd->batch. */
static enum status prepare(struct cuda_backend *be, const struct lstm_args *args,
                           struct error *err) {
    struct cuda_cudnn *cd = be->cudnn;
    struct cudnn_batch *batch = &cd->batch;
    const struct answer *answer;
    *batch = (struct cudnn_batch){};
    TRY(make_spaces(be, args, &answer, &batch->spaces, err));
    TRY(describe_batch(cd, args, &batch->running, err));
    if (batch->running > 0) {
        TRY(ask_temporary(cd, args->training, &batch->need, err));
    }
    for (int i = 0; i < 2; i++) {
        if (batch->need.bytes[i] > answer->temporary.bytes[i]) {
            TRY(extra_memory(cd, i, batch->need.bytes[i], &batch->spaces.temporary[i], err));
        }
    }
    batch->training = args->training;
    batch->workspace = args->workspace;
    return STATUS_OK;
}

/* Is cd->batch what the forward pass over this batch used? */
static enum status check_forward(const struct cuda_cudnn *cd, const struct lstm_args *args,
                                 struct error *err) {
    CHECK(cd->batch.workspace == args->workspace && cd->batch.training, err, STATUS_INTERNAL,
          "a backward pass without its forward pass");
    return STATUS_OK;
}

/* ---- weights ---- */

/* What is copied between our layout and cuDNN's: for a direction and a gate (i, f, g, o in both)
 * the rows of w_ih, w_hh and bias. cuDNN numbers the matrices of the input 0 to 3 and those of the
 * hidden state 4 to 7; the bias belongs to the former. */
struct gate_places {
    void *w_ih, *w_hh, *bias; /* in cuDNN's space */
};

static enum status find_gate(struct cuda_cudnn *cd, const struct spaces *s, char *space, int dir,
                             int gate, struct gate_places *out, struct error *err) {
    void *no_bias = NULL;
    *out = (struct gate_places){};
    CUDNN_TRY(cudnnGetRNNWeightParams(cd->handle, cd->rnn, dir, s->weight_bytes, space, gate,
                                      cd->matrix, &out->w_ih, cd->vector, &out->bias),
              "cudnnGetRNNWeightParams", err);
    CUDNN_TRY(cudnnGetRNNWeightParams(cd->handle, cd->rnn, dir, s->weight_bytes, space,
                                      GATES + gate, cd->matrix, &out->w_hh, cd->vector, &no_bias),
              "cudnnGetRNNWeightParams", err);
    CHECK(out->w_ih != NULL && out->w_hh != NULL && out->bias != NULL && no_bias == NULL, err,
          STATUS_INTERNAL, "cuDNN keeps the weights otherwise than was asked for");
    return STATUS_OK;
}

enum { COPY_W_IH = 1, COPY_W_HH = 2, COPY_BIAS = 4, COPY_ALL = 7 };

static enum status copy_block(struct cuda_backend *be, float *ours, void *theirs, uint64_t floats,
                              bool to_cudnn, struct error *err) {
    CUDA_TRY(cudaMemcpyAsync(to_cudnn ? theirs : ours, to_cudnn ? ours : theirs,
                             floats * sizeof(float), cudaMemcpyDeviceToDevice,
                             be->stream[BACKEND_STREAM_COMPUTE]),
             "copying the weights for cuDNN", err);
    return STATUS_OK;
}

static enum status copy_weights(struct cuda_backend *be, const struct model_shape *shape,
                                const struct spaces *s, char *space,
                                const struct model_weights *ours, int which, bool to_cudnn,
                                struct error *err) {
    uint64_t E = shape->embedding, H = shape->hidden;
    for (int i = 0; i < 2 * GATES; i++) {
        int dir = i / GATES, gate = i % GATES;
        struct gate_places at;
        TRY(find_gate(be->cudnn, s, space, dir, gate, &at, err));
        if ((which & COPY_W_IH) != 0) {
            TRY(copy_block(be, ours->w_ih[dir] + gate * H * E, at.w_ih, H * E, to_cudnn, err));
        }
        if ((which & COPY_W_HH) != 0) {
            TRY(copy_block(be, ours->w_hh[dir] + gate * H * H, at.w_hh, H * H, to_cudnn, err));
        }
        if ((which & COPY_BIAS) != 0) {
            TRY(copy_block(be, ours->bias[dir] + gate * H, at.bias, H, to_cudnn, err));
        }
    }
    return STATUS_OK;
}

/* ---- passes ---- */

static const int32_t *device_lengths(const struct lstm_args *args) {
    return reinterpret_cast<const int32_t *>(args->batch.length); /* at most steps_max */
}

enum status cuda_cudnn_forward(struct cuda_backend *be, const struct cuda_workspace *ws,
                               const struct lstm_args *args, struct error *err) {
    struct cuda_cudnn *cd = be->cudnn;
    TRY(prepare(be, args, err));
    const struct spaces *s = &cd->batch.spaces;
    const struct temporary_bytes *need = &cd->batch.need;
    if (cd->batch.running > 0) {
        TRY(cuda_packed_gather(be, ws, args, s->packed_row, s->x, err));
        TRY(copy_weights(be, &args->shape, s, s->weights, &args->weights, COPY_ALL, true, err));
        CUDNN_TRY(cudnnRNNForward(
                      cd->handle, cd->rnn,
                      args->training ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE,
                      device_lengths(args), cd->inputs, s->x, cd->outputs, s->y, cd->state, NULL,
                      s->state, cd->state, NULL, NULL, s->weight_bytes, s->weights, need->bytes[0],
                      s->temporary[0], need->bytes[1], need->bytes[1] > 0 ? s->temporary[1] : NULL),
                  "cudnnRNNForward", err);
    }
    return cuda_packed_final_state(be, args, s->state, cd->batch.running, err);
}

static enum status run_backward(struct cuda_cudnn *cd, const struct lstm_args *args,
                                struct error *err) {
    const struct spaces *s = &cd->batch.spaces;
    const struct temporary_bytes *need = &cd->batch.need;
    CUDNN_TRY(cudnnRNNBackwardData_v8(cd->handle, cd->rnn, device_lengths(args), cd->outputs, s->y,
                                      s->dy, cd->inputs, s->dx, cd->state, NULL, s->state, NULL,
                                      cd->state, NULL, NULL, NULL, s->weight_bytes, s->weights,
                                      need->bytes[0], s->temporary[0], need->bytes[1],
                                      s->temporary[1]),
              "cudnnRNNBackwardData_v8", err);
    CUDNN_TRY(cudnnRNNBackwardWeights_v8(
                  cd->handle, cd->rnn, CUDNN_WGRAD_MODE_ADD, device_lengths(args), cd->inputs, s->x,
                  cd->state, NULL, cd->outputs, s->y, s->weight_bytes, s->d_weights, need->bytes[0],
                  s->temporary[0], need->bytes[1], s->temporary[1]),
              "cudnnRNNBackwardWeights_v8", err);
    return STATUS_OK;
}

enum status cuda_cudnn_backward(struct cuda_backend *be, const struct cuda_workspace *ws,
                                const struct lstm_args *args, struct error *err) {
    (void)ws;
    cudaStream_t stream = be->stream[BACKEND_STREAM_COMPUTE];
    uint64_t dy_bytes = args->batch.total_tokens * 2 * args->shape.hidden * sizeof(float);
    struct cuda_cudnn *cd = be->cudnn;
    TRY(check_forward(cd, args, err));
    const struct spaces *s = &cd->batch.spaces;
    /* cuDNN adds to the gradients of the weights. */
    CUDA_TRY(cudaMemsetAsync(s->d_weights, 0, s->weight_bytes, stream), "lstm_backward", err);
    if (cd->batch.running > 0) {
        TRY(cuda_packed_d_state(be, args, s->state, cd->batch.running, err));
        CUDA_TRY(cudaMemsetAsync(s->dy, 0, dy_bytes, stream), "lstm_backward", err);
        TRY(run_backward(cd, args, err));
    }
    return copy_weights(be, &args->shape, s, s->d_weights, &args->gradients, COPY_W_HH | COPY_BIAS,
                        false, err);
}

enum status cuda_cudnn_embedding_gradients(struct cuda_backend *be, const struct cuda_workspace *ws,
                                           const struct lstm_args *args, struct error *err) {
    const struct answer *answer;
    struct spaces s;
    TRY(make_spaces(be, args, &answer, &s, err));
    TRY(cuda_packed_scatter(be, ws, args, s.packed_row, s.dx, err));
    TRY(cuda_embedding_sum_tokens(be, ws, args, err));
    return copy_weights(be, &args->shape, &s, s.d_weights, &args->gradients, COPY_W_IH, false, err);
}

#endif
