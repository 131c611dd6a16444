// What a decoder holds between steps: its weights and its KV pool, and whether they fit together.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "decoder.h"

namespace ramet {

Decoder::Decoder(std::shared_ptr<Team> team, const Kernels& kernels, const DecoderShape& shape)
    : team_(std::move(team)), kernels_(kernels), shape_(shape), stride_(round_up(shape.head_dim, HEAD_ALIGN)),
      layers_(size_t(shape.num_layers)), maxima_(size_t(team_->size())),
      workspaces_(size_t(team_->size())) {
    if (shape.hidden < 1 || shape.inner < 1 || shape.num_layers < 1 || shape.vocab < 1)
        throw std::invalid_argument("a size of the model is not positive");
    if (shape.head_dim < 2 || shape.head_dim > 512 || shape.head_dim % 2)
        throw std::invalid_argument("head_dim must be even and lie in 2..512");
    if (shape.num_heads < 1 || shape.num_kv_heads < 1 || shape.num_heads % shape.num_kv_heads)
        throw std::invalid_argument("num_heads must be a multiple of num_kv_heads");
}

void Decoder::set_rotary(const float* cos_sin, int64_t num_positions) {
    std::lock_guard<std::mutex> one_step(mutex_);
    checked_ = false;
    num_positions_ = 0;
    rotary_ = Buffer();
    const size_t bytes = size_t(num_positions * shape_.head_dim) * sizeof(float);
    rotary_ = Buffer(bytes);
    std::memcpy(rotary_.as<float>(), cos_sin, bytes);
    num_positions_ = num_positions;
}

LayerWeights& Decoder::layer(int64_t index) {
    if (index < 0 || index >= shape_.num_layers) throw std::invalid_argument("there is no such layer");
    checked_ = false;
    return layers_[size_t(index)];
}

void Decoder::set_matrix(int64_t index, const std::string& name, std::shared_ptr<PackedMatrix> matrix) {
    std::lock_guard<std::mutex> one_step(mutex_);
    LayerWeights& w = layer(index);
    std::shared_ptr<PackedMatrix>* const place = name == "q"        ? &w.q
                                                 : name == "k"      ? &w.k
                                                 : name == "v"      ? &w.v
                                                 : name == "output" ? &w.output
                                                 : name == "gate"   ? &w.gate
                                                 : name == "up"     ? &w.up
                                                 : name == "down"   ? &w.down
                                                                    : nullptr;
    if (!place) throw std::invalid_argument("a layer has no matrix of the name " + name);
    *place = std::move(matrix);
}

void Decoder::set_norm(int64_t index, const std::string& name, std::vector<float> values) {
    std::lock_guard<std::mutex> one_step(mutex_);
    LayerWeights& w = layer(index);
    std::vector<float>* const place = name == "input_norm"            ? &w.input_norm
                                      : name == "post_attention_norm" ? &w.post_attention_norm
                                      : name == "query_norm"          ? &w.query_norm
                                      : name == "key_norm"            ? &w.key_norm
                                                                      : nullptr;
    if (!place) throw std::invalid_argument("a layer has no norm of the name " + name);
    *place = std::move(values);
}

void Decoder::set_ends(std::shared_ptr<PackedMatrix> embedding, std::shared_ptr<PackedMatrix> head,
                       std::vector<float> norm) {
    std::lock_guard<std::mutex> one_step(mutex_);
    checked_ = false;
    embedding_ = std::move(embedding);
    head_ = std::move(head);
    norm_ = std::move(norm);
}

void Decoder::allocate_kv(int64_t num_slots) {
    std::lock_guard<std::mutex> one_step(mutex_);
    checked_ = false;
    num_slots_ = 0;
    kv_ = Buffer();
    kv_ = Buffer(size_t(round_up(num_slots, KV_BLOCK) / KV_BLOCK * shape_.num_layers * layer_block_bytes()));
    num_slots_ = num_slots;
}

bool Decoder::populate_kv(int64_t piece) const {
    constexpr size_t bytes = size_t(2) << 20;  // a huge page: less would come with it anyway
    return kv_.populate(size_t(piece) * bytes, bytes);
}

int64_t Decoder::layer_block_bytes() const {
    return shape_.num_kv_heads * KV_BLOCK * KVLayer::bytes_of_record(stride_, shape_.f32);
}

KVLayer Decoder::kv_layer(int64_t layer) const {
    return {kv_.as<char>() + layer * layer_block_bytes(), shape_.num_layers * layer_block_bytes(), stride_, shape_.f32};
}

void Decoder::check() {
    if (checked_) return;
    auto expect = [](const std::shared_ptr<PackedMatrix>& matrix, int64_t n, int64_t k, const char* name) {
        if (!matrix) throw std::invalid_argument(std::string("the weight ") + name + " is missing");
        if (matrix->view.n != n || matrix->view.k != k)
            throw std::invalid_argument(std::string("the weight ") + name + " has the wrong shape");
    };
    auto expect_norm = [](const std::vector<float>& values, int64_t n, const char* name) {
        if (int64_t(values.size()) != n) throw std::invalid_argument(std::string(name) + " has the wrong size");
    };
    const int64_t queries = shape_.num_heads * shape_.head_dim, keys = shape_.num_kv_heads * shape_.head_dim;
    expect(embedding_, shape_.vocab, shape_.hidden, "embedding");
    expect(head_, shape_.vocab, shape_.hidden, "head");
    expect_norm(norm_, shape_.hidden, "the last norm");
    for (const LayerWeights& layer : layers_) {
        expect(layer.q, queries, shape_.hidden, "q");
        expect(layer.k, keys, shape_.hidden, "k");
        expect(layer.v, keys, shape_.hidden, "v");
        expect(layer.output, shape_.hidden, queries, "output");
        expect(layer.gate, shape_.inner, shape_.hidden, "gate");
        expect(layer.up, shape_.inner, shape_.hidden, "up");
        expect(layer.down, shape_.hidden, shape_.inner, "down");
        expect_norm(layer.input_norm, shape_.hidden, "input_norm");
        expect_norm(layer.post_attention_norm, shape_.hidden, "post_attention_norm");
        if (!layer.query_norm.empty()) expect_norm(layer.query_norm, shape_.head_dim, "query_norm");
        if (!layer.key_norm.empty()) expect_norm(layer.key_norm, shape_.head_dim, "key_norm");
    }
    if (num_positions_ == 0) throw std::invalid_argument("there are no rotary angles");
    if (num_slots_ == 0) throw std::invalid_argument("there is no KV pool");
    double bytes = 0, weights = 0;
    for (const LayerWeights& w : layers_)
        for (const auto* matrix : {&w.q, &w.k, &w.v, &w.output, &w.gate, &w.up, &w.down}) {
            const Matrix& m = (*matrix)->view;
            bytes += double(m.panels * m.panel_bytes);
            weights += double(m.n * m.k);
        }
    bytes_per_weight_ = bytes / weights;
    checked_ = true;
}

void Decoder::check_weights() {
    std::lock_guard<std::mutex> one_step(mutex_);
    check();
}

}  // namespace ramet
