#include "decoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace ramet {

namespace {

// Rows that go through the products of a layer together: few enough for their inputs to stay in the cache.
constexpr int64_t ROWS_TOGETHER = 256;
// Up to so many rows, what is done to each row is done by one thread while the others wait: sharing costs more.
constexpr int64_t ROWS_ALONE = 2;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A product whose outputs stand at a column of the output rows.
struct Part {
    const Matrix* matrix;
    int64_t column;
};

}  // namespace

const std::array<const char*, Decoder::NUM_PHASES> Decoder::PHASE_NAMES = {
    "norm and quantize", "qkv product", "rope and KV write", "attention",
    "output product", "gate and up product", "activation", "down product"};

Decoder::Decoder(std::shared_ptr<Team> team, const Kernels& kernels, const DecoderShape& shape)
    : team_(std::move(team)), kernels_(kernels), shape_(shape), stride_(round_up(shape.head_dim, HEAD_ALIGN)),
      layers_(size_t(shape.num_layers)) {
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
    kv_.clear();
    const size_t bytes = size_t(shape_.num_kv_heads * num_slots * 2 * stride_) * (shape_.f32 ? 4 : 2);
    for (int64_t layer = 0; layer < shape_.num_layers; ++layer) kv_.emplace_back(bytes);
    num_slots_ = num_slots;
}

bool Decoder::populate_kv(int64_t piece) const {
    constexpr size_t most = size_t(2) << 20;  // a huge page: less would come with it anyway
    const int64_t regions = shape_.num_layers * shape_.num_kv_heads;
    const size_t bytes = size_t(num_slots_ * 2 * stride_) * (shape_.f32 ? 4 : 2);
    const size_t offset = size_t(piece / regions) * most;
    if (offset >= bytes) return false;
    const int64_t layer = piece % regions / shape_.num_kv_heads, head = piece % shape_.num_kv_heads;
    return kv_[size_t(layer)].populate(size_t(head) * bytes + offset, std::min(most, bytes - offset));
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
    checked_ = true;
}

void Decoder::check_weights() {
    std::lock_guard<std::mutex> one_step(mutex_);
    check();
}

void Decoder::set_profile(bool on) {
    std::lock_guard<std::mutex> one_step(mutex_);  // threads of a running step must agree on it
    profile_ = on;
}

std::array<double, Decoder::NUM_PHASES> Decoder::take_profile() {
    std::lock_guard<std::mutex> one_step(mutex_);
    auto taken = seconds_;
    seconds_.fill(0);
    return taken;
}

// One step as one thread sees it. All threads build the same object and walk through it together.
struct Decoder::Run {
    Decoder& d;
    Team& team;
    const Kernels& kernels;
    const DecoderShape& shape;
    const int thread;
    char* scratch;
    float* temporary;
    std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();

    Run(Decoder& decoder, int thread_index)
        : d(decoder), team(*decoder.team_), kernels(decoder.kernels_), shape(decoder.shape_), thread(thread_index) {
        const int64_t each = int64_t(decoder.scratch_.size()) / team.size() / 64 * 64;
        scratch = decoder.scratch_.as<char>() + each * thread;
        temporary = reinterpret_cast<float*>(scratch);
    }

    static int64_t scratch_bytes(const Decoder& d) {
        const DecoderShape& s = d.shape_;
        const int64_t widest = std::max({s.hidden, s.inner, s.num_heads * s.head_dim});
        const int64_t most = std::max({d.kernels_.attend_scratch(d.stride_, s.num_heads / s.num_kv_heads),
                                       (widest + PANEL) * int64_t(sizeof(float)),
                                       (2 * d.stride_ + PANEL) * int64_t(sizeof(float))});
        return round_up(most, 64) + 64;
    }

    void mark(int phase) {
        if (thread != 0 || !d.profile_) return;
        auto now = std::chrono::steady_clock::now();
        d.seconds_[size_t(phase)] += std::chrono::duration<double>(now - last).count();
        last = now;
    }

    // Waits for the others, unless `each_row` for so few rows comes next: it waits itself.
    void end_phase(int phase, int64_t num_rows) {
        if (num_rows > ROWS_ALONE || d.profile_) team.sync();
        mark(phase);
    }

    // Calls body(row) for each row: shared, or alone if they are few. Ends its phase.
    template <class Body>
    void each_row(int64_t begin, int64_t end, const Body& body) {
        if (end - begin <= ROWS_ALONE) {
            team.sync([&] {
                for (int64_t row = begin; row < end; ++row) body(row);
            });
            return;
        }
        const int64_t together = end - begin < 64 ? 1 : 4;
        team.share((end - begin + together - 1) / together, [&](int64_t task) {
            const int64_t first = begin + task * together;
            for (int64_t row = first; row < std::min(first + together, end); ++row) body(row);
        });
        team.sync();
    }

    // out[row][column + n] = product of the inputs with each part; the phase is not ended.
    void multiply(std::initializer_list<Part> parts, const Inputs& inputs, int64_t num_rows, float* out, int64_t ld,
                  bool accumulate) {
        int64_t panels = 0;
        for (const Part& part : parts) panels += part.matrix->panels;
        // The fewer rows, the larger the tasks: the weights are then read from memory, in long runs
        const int64_t most = num_rows >= 128 ? 2 : 32;
        const int64_t grain = std::clamp<int64_t>(panels / (team.size() * 6) / 2 * 2, 2, most);
        int64_t num_tasks = 0;
        for (const Part& part : parts) num_tasks += (part.matrix->panels + grain - 1) / grain;
        team.share(num_tasks, [&](int64_t task) {
            for (const Part& part : parts) {
                const int64_t tasks = (part.matrix->panels + grain - 1) / grain;
                if (task >= tasks) {
                    task -= tasks;
                    continue;
                }
                const int64_t end = std::min((task + 1) * grain, part.matrix->panels);
                for (int64_t panel = task * grain; panel < end; panel += 2)
                    kernels.matmul(*part.matrix, inputs, num_rows, panel, int(std::min<int64_t>(2, end - panel)),
                                   out + part.column, ld, accumulate);
                return;
            }
        });
    }

    // Inputs of `num_rows` rows in the forms that the matrices want; the memory is the decoder's.
    static Inputs prepare(Decoder& d, std::initializer_list<const Matrix*> matrices, int64_t k, int64_t num_rows) {
        Inputs inputs{};
        inputs.k = k;
        inputs.blocks = (k + BLOCK - 1) / BLOCK;
        bool bytes = false, bf16 = false, f32 = false;
        for (const Matrix* m : matrices) {
            bytes |= m->format == Format::q4 || m->format == Format::q8;
            bf16 |= m->format == Format::bf16;
            f32 |= m->format == Format::f32;
        }
        auto& memory = d.input_memory_;
        if (bytes) {
            inputs.bytes = memory[0].reserve<int8_t>(num_rows * inputs.blocks * BLOCK);
            inputs.scales = memory[1].reserve<float>(num_rows * inputs.blocks);
            inputs.offsets4 = memory[2].reserve<int32_t>(num_rows * inputs.blocks);
            inputs.offsets8 = memory[3].reserve<int32_t>(num_rows * inputs.blocks);
            inputs.sums = memory[4].reserve<uint16_t>(num_rows * even(inputs.blocks));
        }
        if (bf16) inputs.bf16 = memory[5].reserve<uint16_t>(num_rows * even(k));
        if (f32) inputs.f32 = memory[6].reserve<float>(num_rows * k);
        return inputs;
    }
};

void Decoder::forward(const StepRows& rows, float* out) {
    std::lock_guard<std::mutex> one_step(mutex_);
    check();
    if (rows.num_slots != num_slots_ || rows.num_positions != num_positions_)
        throw std::invalid_argument("the pool or the rotary angles changed while a step was on its way");
    const int64_t n = rows.num_rows, hidden = shape_.hidden, group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t q_width = shape_.num_heads * shape_.head_dim, kv_width = shape_.num_kv_heads * shape_.head_dim;
    const int64_t qkv_width = q_width + 2 * kv_width, gate_up_width = 2 * shape_.inner;
    const int64_t together = std::min(n, ROWS_TOGETHER);
    const bool f32 = shape_.f32 || !kernels_.native_bf16;

    float* states = hidden_.reserve<float>(n * hidden);
    void* queries = queries_.reserve<float>(shape_.num_kv_heads * n * group * stride_ / (f32 ? 1 : 2) + 1);
    float* attended = attended_.reserve<float>(n * q_width);
    float* projected = projected_.reserve<float>(together * std::max(qkv_width, gate_up_width));
    scratch_.reserve<char>(Run::scratch_bytes(*this) * team_->size());
    // Reserve for the largest use before pointers are taken
    for (const LayerWeights& w : layers_) {
        Run::prepare(*this, {&w.q->view, &w.k->view, &w.v->view, &w.gate->view, &w.up->view}, hidden, together);
        Run::prepare(*this, {&w.output->view}, q_width, together);
        Run::prepare(*this, {&w.down->view}, shape_.inner, together);
    }
    const AttentionShape attention{shape_.num_kv_heads, group, shape_.head_dim, f32, n, queries, attended};
    plan_.build(rows.segments, rows.num_segments, n, attention, stride_, team_->size());
    const RopeShape rope{shape_.num_heads, shape_.num_kv_heads, shape_.head_dim, stride_, n, f32, nullptr, nullptr,
                         shape_.eps, 1.4426950408889634f / std::sqrt(float(shape_.head_dim))};

    team_->run([&](int thread) {
        Run run(*this, thread);
        run.team.share(n, [&](int64_t row) { kernels_.embed(embedding_->view, rows.ids[row], states + row * hidden); });
        run.team.sync();
        for (int64_t index = 0; index < shape_.num_layers; ++index) {
            const LayerWeights& w = layers_[size_t(index)];
            const KVLayer kv{kv_[size_t(index)].as<void>(), num_slots_, stride_, shape_.f32};
            const Inputs for_qkv = Run::prepare(*this, {&w.q->view, &w.k->view, &w.v->view}, hidden, 0);
            const Inputs for_output = Run::prepare(*this, {&w.output->view}, q_width, 0);
            const Inputs for_gate_up = Run::prepare(*this, {&w.gate->view, &w.up->view}, hidden, 0);
            const Inputs for_down = Run::prepare(*this, {&w.down->view}, shape_.inner, 0);
            RopeShape rope_here = rope;
            rope_here.query_norm = w.query_norm.empty() ? nullptr : w.query_norm.data();
            rope_here.key_norm = w.key_norm.empty() ? nullptr : w.key_norm.data();
            auto normalize = [&](const std::vector<float>& weight, const Inputs& to, int64_t begin, int64_t end) {
                run.each_row(begin, end, [&](int64_t row) {
                    kernels_.rms_norm(states + row * hidden, weight.data(), hidden, shape_.eps, run.temporary);
                    kernels_.convert(run.temporary, row - begin, to);
                });
                run.mark(0);
            };

            for (int64_t begin = 0; begin < n; begin += ROWS_TOGETHER) {
                const int64_t end = std::min(begin + ROWS_TOGETHER, n);
                normalize(w.input_norm, for_qkv, begin, end);
                run.multiply({{&w.q->view, 0}, {&w.k->view, q_width}, {&w.v->view, q_width + kv_width}}, for_qkv,
                             end - begin, projected, qkv_width, false);
                run.end_phase(1, end - begin);
                run.each_row(begin, end, [&](int64_t row) {
                    const float* cos_sin =
                        rotary_.as<float>() + int64_t(rows.segments.positions[row]) * shape_.head_dim;
                    kernels_.rope(rope_here, projected + (row - begin) * qkv_width, cos_sin, row, rows.slots[row],
                                  queries, kv, run.temporary);
                });
                run.mark(2);
            }

            run.team.share(int64_t(plan_.units().size()), [&](int64_t unit) {
                kernels_.attend(attention, kv, rows.segments, plan_.units()[size_t(unit)], run.scratch);
            });
            if (plan_.num_split_rows() > 0) {
                run.team.sync();
                run.team.share(plan_.num_split_rows() * shape_.num_kv_heads, [&](int64_t task) {
                    merge_row(kernels_, attention, stride_, plan_, task / shape_.num_kv_heads,
                              task % shape_.num_kv_heads);
                });
            }
            run.end_phase(3, n);

            for (int64_t begin = 0; begin < n; begin += ROWS_TOGETHER) {
                const int64_t end = std::min(begin + ROWS_TOGETHER, n);
                run.each_row(begin, end, [&](int64_t row) {
                    kernels_.convert(attended + row * q_width, row - begin, for_output);
                });
                run.mark(0);
                run.multiply({{&w.output->view, 0}}, for_output, end - begin, states + begin * hidden, hidden, true);
                run.end_phase(4, end - begin);
                normalize(w.post_attention_norm, for_gate_up, begin, end);
                run.multiply({{&w.gate->view, 0}, {&w.up->view, shape_.inner}}, for_gate_up, end - begin, projected,
                             gate_up_width, false);
                run.end_phase(5, end - begin);
                run.each_row(begin, end, [&](int64_t row) {
                    const float* gate = projected + (row - begin) * gate_up_width;
                    kernels_.silu_multiply(gate, gate + shape_.inner, shape_.inner, run.temporary);
                    kernels_.convert(run.temporary, row - begin, for_down);
                });
                run.mark(6);
                run.multiply({{&w.down->view, 0}}, for_down, end - begin, states + begin * hidden, hidden, true);
                run.end_phase(7, n);
            }
        }
        run.team.sync();
        run.team.share(rows.num_wanted, [&](int64_t i) {
            kernels_.rms_norm(states + rows.wanted[i] * hidden, norm_.data(), hidden, shape_.eps, out + i * hidden);
        });
    });
}

void Decoder::logits(const float* hidden, int64_t num_rows, float* out) {
    if (num_rows == 0) return;
    std::lock_guard<std::mutex> one_step(mutex_);
    check();
    const int64_t together = std::min(num_rows, ROWS_TOGETHER);
    Run::prepare(*this, {&head_->view}, shape_.hidden, together);
    scratch_.reserve<char>(Run::scratch_bytes(*this) * team_->size());
    team_->run([&](int thread) {
        Run run(*this, thread);
        const Inputs inputs = Run::prepare(*this, {&head_->view}, shape_.hidden, 0);
        for (int64_t begin = 0; begin < num_rows; begin += ROWS_TOGETHER) {
            const int64_t end = std::min(begin + ROWS_TOGETHER, num_rows);
            run.each_row(begin, end, [&](int64_t row) {
                kernels_.convert(hidden + row * shape_.hidden, row - begin, inputs);
            });
            run.multiply({{&head_->view, 0}}, inputs, end - begin, out + begin * shape_.vocab, shape_.vocab, false);
            run.team.sync();
        }
    });
}

}  // namespace ramet
