// The decoder of the Llama family on a CPU: one call computes all layers of a step.
//
// Invariant: what a row becomes depends on its token, its position and the keys and values of its context.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "memory.h"
#include "pack.h"
#include "plan.h"
#include "threads.h"
#include "types.h"

namespace ramet {

struct DecoderShape {
    int64_t hidden, inner, num_layers, num_heads, num_kv_heads, head_dim, vocab;
    float eps;
    bool f32;  // keys, values and attention in float32 instead of bf16
};

struct LayerWeights {
    std::shared_ptr<PackedMatrix> q, k, v, output, gate, up, down;
    std::vector<float> input_norm, query_norm, key_norm, post_attention_norm;
};

// The rows of a step. All indices have been checked.
struct StepRows {
    int64_t num_rows, num_segments;
    const int32_t* ids;
    const int32_t* slots;
    SegmentView segments;
    int64_t num_slots, num_positions;  // the limits that indices were checked with
    const int32_t* wanted;  // rows whose hidden states are returned, in ascending order, each once
    int64_t num_wanted;
};

class Decoder {
public:
    Decoder(std::shared_ptr<Team> team, const Kernels& kernels, const DecoderShape& shape);

    const DecoderShape& shape() const { return shape_; }
    int64_t num_slots() const { return num_slots_; }
    int64_t num_positions() const { return num_positions_; }

    // What is set here is checked before the next step. Throws std::invalid_argument if there is no such layer or
    // name. Safe beside a running step, which is waited for.
    void set_matrix(int64_t layer, const std::string& name, std::shared_ptr<PackedMatrix> matrix);
    void set_norm(int64_t layer, const std::string& name, std::vector<float> values);
    void set_ends(std::shared_ptr<PackedMatrix> embedding, std::shared_ptr<PackedMatrix> head, std::vector<float> norm);
    // cos and sin of every position: [num_positions][2][head_dim / 2]
    void set_rotary(const float* cos_sin, int64_t num_positions);
    void allocate_kv(int64_t num_slots);
    // Has the system back a piece of the pool, 2 MB or less, with memory; pieces come in the order of slots. May run
    // beside steps. False if there is no such piece, or it cannot.
    bool populate_kv(int64_t piece) const;
    // Throws std::invalid_argument if a weight or the pool is missing or has the wrong size.
    void check_weights();

    // Writes keys and values of all rows; `out` [num_wanted][hidden] gets the hidden states after the last norm.
    // Throws what `check_weights` throws, and if the limits that the rows were checked with have changed.
    void forward(const StepRows& rows, float* out);
    // hidden [num_rows][hidden] -> for every row the first token with the largest logit, -1 if that is not finite or a
    // logit is not a number; and the logits of the wanted rows, which ascend: out [num_wanted][vocab].
    void logits(const float* hidden, int64_t num_rows, const int32_t* wanted, int64_t num_wanted, float* out,
                int32_t* tokens);

    // Seconds spent per kind of phase since the last call, when `set_profile` asked for it.
    static constexpr int NUM_PHASES = 8;
    static const std::array<const char*, NUM_PHASES> PHASE_NAMES;
    void set_profile(bool on);
    std::array<double, NUM_PHASES> take_profile();

private:
    struct Readers;
    struct Run;
    // Where rows stand between the phases of a layer.
    struct Workspace {
        using InputBuffers = std::array<Buffer, 7>;
        InputBuffers inputs, gated;
        Buffer projected;
    };
    // Numbers the wanted rows from 0, as the last layer sees them: whose rows they are, positions and segments.
    void keep_wanted(const StepRows& rows);
    LayerWeights& layer(int64_t index);
    int64_t layer_block_bytes() const;  // what a layer has of a block of slots
    KVLayer kv_layer(int64_t layer) const;
    void check();

    std::shared_ptr<Team> team_;
    const Kernels& kernels_;
    DecoderShape shape_;
    int64_t stride_, num_slots_ = 0, num_positions_ = 0;
    std::vector<LayerWeights> layers_;
    std::shared_ptr<PackedMatrix> embedding_, head_;
    std::vector<float> norm_;
    bool checked_ = false;
    double bytes_per_weight_ = 0;  // of the layers; set when they are checked
    Buffer rotary_;
    Buffer kv_;

    std::mutex mutex_;  // one step at a time: they share the buffers below
    AttentionPlan plan_, kept_plan_;
    std::vector<int32_t> kept_of_, kept_positions_, kept_begin_, kept_end_;
    Buffer hidden_, kept_, queries_, attended_, scratch_;
    std::vector<Buffer> maxima_;  // of each thread: the largest logits it has seen of each row
    std::vector<Workspace> workspaces_;  // of each thread; what threads do together is done in the first
    bool profile_ = false;
    std::array<double, NUM_PHASES> seconds_{};
};

}  // namespace ramet
