#include "tests/support/op_run.h"

namespace {

model_layout layout_of(const model_shape &shape) {
    model_layout layout = {};
    struct error err = {};
    EXPECT_EQ(model_layout_make(&shape, &layout, &err), STATUS_OK) << err.message;
    return layout;
}

size_t workspace_bytes(backend *be, const model_shape &shape, const batch_limits &limits) {
    size_t bytes = 0;
    struct error err = {};
    EXPECT_EQ(be->table->workspace_bytes(be, &shape, &limits, &bytes, &err), STATUS_OK)
        << err.message;
    EXPECT_LT(bytes, (size_t)1 << 34) << "no workspace of this size was expected";
    return bytes;
}

// The parameters of a part, as host/model.h lays them out.
model_weights weights_at(const model_layout &layout, float *part) {
    const size_t *at = layout.offset;
    model_weights w = {};
    w.embedding = part + at[0];
    for (int dir = 0; dir < 2; dir++) {
        w.w_ih[dir] = part + at[1 + 3 * dir];
        w.w_hh[dir] = part + at[2 + 3 * dir];
        w.bias[dir] = part + at[3 + 3 * dir];
    }
    w.dense_weight = part + at[7];
    w.dense_bias = part + at[8];
    w.output_weight = part + at[9];
    w.output_bias = part + at[10];
    return w;
}

template <class T> bool same(const std::vector<T> &a, const std::vector<T> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

} // namespace

std::string bits_difference(const OpResult &a, const OpResult &b) {
    if (!same(a.final_state, b.final_state)) {
        return "final_state";
    }
    if (!same(a.logits, b.logits)) {
        return "logits";
    }
    if (!same(a.losses, b.losses)) {
        return "losses";
    }
    if (!same(a.d_final_state, b.d_final_state)) {
        return "d_final_state";
    }
    if (std::memcmp(&a.sums, &b.sums, sizeof a.sums) != 0) {
        return "sums";
    }
    for (size_t i = 0; i < a.gradients.size() && i < b.gradients.size(); i++) {
        if (!same(a.gradients[i], b.gradients[i])) {
            return "gradient " + std::to_string(i);
        }
    }
    return a.gradients.size() == b.gradients.size() ? "" : "number of gradients";
}

OpRun::OpRun(backend *be, const model_shape &shape, const batch_limits &limits,
             uint32_t token_bytes)
    : be_(be), shape_(shape), limits_(limits), token_bytes_(token_bytes), layout_(layout_of(shape)),
      weights_(be, layout_.part_floats), gradients_(be, layout_.part_floats),
      final_state_(be, (size_t)limits.sequences * 2 * shape.hidden),
      d_final_state_(be, (size_t)limits.sequences * 2 * shape.hidden),
      logits_(be, limits.sequences), losses_(be, limits.sequences), sums_(be, 1),
      workspace_(be, workspace_bytes(be, shape, limits)),
      tokens_(be, limits.total_tokens * token_bytes), inputs_(be, 1), first_(be, limits.sequences),
      length_(be, limits.sequences), label_(be, limits.sequences) {}

OpRun::~OpRun() {
    be_->table->recording_free(be_, recording_);
}

lstm_args OpRun::lstm(bool training) const {
    lstm_args args = {};
    args.shape = shape_;
    args.limits = limits_;
    args.batch = view_;
    args.weights = weights_at(layout_, weights_.data);
    args.gradients = weights_at(layout_, gradients_.data);
    args.final_state = final_state_.data;
    args.d_final_state = d_final_state_.data;
    args.workspace = workspace_.data;
    args.training = training;
    return args;
}

head_args OpRun::head_arguments(bool training, bool labels) const {
    head_args args = {};
    args.shape = shape_;
    args.limits = limits_;
    args.batch = view_;
    args.weights = weights_at(layout_, weights_.data);
    args.gradients = weights_at(layout_, gradients_.data);
    args.final_state = final_state_.data;
    args.d_final_state = d_final_state_.data;
    args.logits = logits_.data;
    args.losses = labels ? losses_.data : nullptr;
    args.sums = labels ? sums_.data : nullptr;
    args.workspace = workspace_.data;
    args.training = training;
    if (!labels) {
        args.batch.label = nullptr;
    }
    return args;
}

// The batch into device memory, everything else spoilt.
void OpRun::place(const RaggedBatch &batch) {
    batch_view host = batch.view();
    ASSERT_EQ(host.token_bytes, token_bytes_);
    ASSERT_LE(host.sequences, limits_.sequences);
    ASSERT_LE(host.total_tokens, limits_.total_tokens);
    ASSERT_LE(batch.longest(), limits_.longest);
    workspace_.spoil();
    gradients_.spoil();
    final_state_.spoil();
    d_final_state_.spoil();
    logits_.spoil();
    losses_.spoil();
    first_.spoil();
    length_.spoil();
    label_.spoil();
    tokens_.spoil();
    sums_.upload({pass_sums{10, 20, 30, 40}});
    tokens_.upload(host.tokens, host.total_tokens * token_bytes_);
    first_.upload(host.first, host.sequences * sizeof *host.first);
    length_.upload(host.length, host.sequences * sizeof *host.length);
    label_.upload(host.label, host.sequences * sizeof *host.label);
    step_inputs inputs = {};
    inputs.total_tokens = host.total_tokens;
    inputs.sequences = host.sequences;
    inputs_.upload({inputs});
    view_ = host;
    view_.tokens = tokens_.data;
    view_.first = first_.data;
    view_.length = length_.data;
    view_.length_host = host.length;
    view_.label = label_.data;
    view_.inputs = inputs_.data;
}

enum status OpRun::enqueue(What what, struct error *err) {
    const backend_table *table = be_->table;
    bool training = what == What::STEP || what == What::RECURRENCE || what == What::HEAD;
    lstm_args lstm_arguments = lstm(training);
    if (what != What::HEAD && what != What::HEAD_ONLY_FORWARD) {
        TRY(table->lstm_forward(be_, &lstm_arguments, err));
    }
    if (what != What::RECURRENCE) {
        head_args head = head_arguments(training, what != What::INFERENCE_UNLABELLED);
        TRY(table->head_forward_backward(be_, &head, err));
    }
    if (what == What::STEP || what == What::RECURRENCE) {
        TRY(table->lstm_backward(be_, &lstm_arguments, err));
        TRY(table->embedding_grad(be_, &lstm_arguments, err));
    }
    return STATUS_OK;
}

enum status OpRun::enqueue_step(void *context, struct error *err) {
    return static_cast<OpRun *>(context)->enqueue(What::STEP, err);
}

OpResult OpRun::collect(size_t sequences) const {
    OpResult result = {};
    result.final_state = final_state_.download(sequences * 2 * shape_.hidden);
    result.d_final_state = d_final_state_.download(sequences * 2 * shape_.hidden);
    result.logits = logits_.download(sequences);
    result.losses = losses_.download(sequences);
    result.sums = sums_.download()[0];
    std::vector<float> flat = gradients_.download();
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        uint64_t count = 0;
        EXPECT_TRUE(tensor_elements(&layout_.tensors[i], &count));
        const float *begin = flat.data() + layout_.offset[i];
        result.gradients.emplace_back(begin, begin + count);
    }
    return result;
}

OpResult OpRun::step(const RaggedBatch &batch) {
    struct error err = {};
    place(batch);
    EXPECT_EQ(be_->table->replay(be_, &recording_, enqueue_step, this, &err), STATUS_OK)
        << err.message;
    return collect(batch.view().sequences);
}

OpResult OpRun::recurrence(const RaggedBatch &batch, const std::vector<float> &d_final_state) {
    struct error err = {};
    place(batch);
    d_final_state_.upload(d_final_state);
    EXPECT_EQ(enqueue(What::RECURRENCE, &err), STATUS_OK) << err.message;
    return collect(batch.view().sequences);
}

OpResult OpRun::head(const RaggedBatch &batch, const std::vector<float> &final_state,
                     bool training) {
    struct error err = {};
    place(batch);
    final_state_.upload(final_state);
    EXPECT_EQ(enqueue(training ? What::HEAD : What::HEAD_ONLY_FORWARD, &err), STATUS_OK)
        << err.message;
    return collect(batch.view().sequences);
}

OpResult OpRun::inference(const RaggedBatch &batch, bool labels) {
    struct error err = {};
    place(batch);
    EXPECT_EQ(enqueue(labels ? What::INFERENCE : What::INFERENCE_UNLABELLED, &err), STATUS_OK)
        << err.message;
    return collect(batch.view().sequences);
}
