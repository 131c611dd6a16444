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

// Rows that all threads take through the products of a layer together, each some of the outputs: few enough for their
// inputs to stay in the cache.
constexpr int64_t ROWS_TOGETHER = 256;
// Where there are so many rows for each thread, it takes them by itself through all phases between two attentions, in
// stretches of about so many. Nobody waits then, and what becomes of a row stays in the cache of one core. Every thread
// reads all weights for each stretch: some 5 GB/s a core.
constexpr int64_t ROWS_APART = 48;
// Up to so many rows in a step, what is done to each is done by one thread while the others wait: sharing costs more.
constexpr int64_t ROWS_ALONE = 2;

// Matrices that multiply the same inputs, and where their outputs stand in the output rows. A task is two panels.
struct Product {
    struct Part {
        const Matrix* matrix;
        int64_t column;
    };
    struct Task {
        const Matrix& matrix;
        int64_t column, panel;
        int count;
    };
    std::array<Part, 3> parts;

    static int64_t pairs(const Part& part) { return part.matrix ? (part.matrix->panels + 1) / 2 : 0; }
    int64_t num_tasks() const { return pairs(parts[0]) + pairs(parts[1]) + pairs(parts[2]); }
    Task task(int64_t index) const {
        const Part* part = parts.data();
        for (; index >= pairs(*part); ++part) index -= pairs(*part);
        return {*part->matrix, part->column, index * 2, int(std::min<int64_t>(2, part->matrix->panels - index * 2))};
    }
    ByteRange bytes_of(int64_t index) const {
        const Task t = task(index);
        return {t.matrix.panel(t.panel), t.count * t.matrix.panel_bytes};
    }
};

}  // namespace

const std::array<const char*, Decoder::NUM_PHASES> Decoder::PHASE_NAMES = {
    "norm and quantize", "qkv product", "rope and KV write", "attention",
    "output product", "gate and up product", "activation", "down product"};

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

// The rows that read the context in a layer, and what becomes of them.
struct Decoder::Readers {
    int64_t num_rows;
    float* states;  // [num_rows][hidden]
    SegmentView segments;
    AttentionShape attention;
    const AttentionPlan& plan;
};

// One step as one thread sees it. All threads build the same object and walk through it together.
struct Decoder::Run {
    Decoder& d;
    Team& team;
    const Kernels& kernels;
    const DecoderShape& shape;
    const int thread;
    char* scratch;
    float* temporary;
    bool apart = false;  // in phases that this thread goes through by itself
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

    static bool are_many(int64_t num_rows, const Team& team) { return num_rows >= team.size() * ROWS_APART; }

    // Calls body(begin, end) for stretches of the rows: by all threads together, or apart if rows are many. The last
    // phase of the body is `phase`.
    template <class Body>
    void each_stretch(int phase, int64_t num_rows, const Body& body) {
        if (!are_many(num_rows, team)) {
            for (int64_t begin = 0; begin < num_rows; begin += ROWS_TOGETHER)
                body(begin, std::min(begin + ROWS_TOGETHER, num_rows));
            return;
        }
        // Equal stretches of 32 to 72 rows, and as many for each thread
        const int64_t together = team.size() * ROWS_APART, count = (num_rows + together / 2) / together * team.size();
        apart = true;
        team.share(count, [&](int64_t i) { body(num_rows * i / count, num_rows * (i + 1) / count); });
        apart = false;
        team.sync();
        mark(phase);
    }

    Workspace& workspace() const { return d.workspaces_[apart ? size_t(thread) : 0]; }

    template <class Body>
    void share(int64_t count, const Body& body) {
        if (!apart) return team.share(count, body);
        for (int64_t task = 0; task < count; ++task) body(task);
    }

    void sync() {
        if (!apart) team.sync();
    }

    // Waits for the others, unless `each_row` for so few rows comes next: it waits itself.
    void end_phase(int phase, int64_t num_rows) {
        if (num_rows > ROWS_ALONE || d.profile_) sync();
        mark(phase);
    }

    // Calls body(row) for each row: shared, or alone if they are few. Ends its phase.
    template <class Body>
    void each_row(int64_t begin, int64_t end, const Body& body) {
        if (end - begin <= ROWS_ALONE && !apart) {
            team.sync([&] {
                for (int64_t row = begin; row < end; ++row) body(row);
            });
            return;
        }
        // To take a task costs a good part of a row, and four for each thread are enough to share them evenly
        const int64_t together = std::min<int64_t>((end - begin) / (4 * team.size()) + 1, 4);
        share((end - begin + together - 1) / together, [&](int64_t task) {
            const int64_t first = begin + task * together;
            for (int64_t row = first; row < std::min(first + together, end); ++row) body(row);
        });
        sync();
    }

    // out[row][column + n] = product of the inputs with each part; the phase is not ended. Told what comes
    // next, tasks prefetch it: the next of a thread, and at its end the first of the product `then`, if any.
    void multiply(const Product& product, const Inputs& inputs, int64_t num_rows, float* out, int64_t ld,
                  bool accumulate, const Product* then = nullptr) {
        const int64_t num_tasks = product.num_tasks();
        auto compute = [&](int64_t index, int64_t next) {
            const Product::Task task = product.task(index);
            ByteRange soon;
            if (next < num_tasks)
                soon = product.bytes_of(next);
            else if (then)
                soon = then->bytes_of(apart ? 0 : team.stretch_begin(thread, then->num_tasks()));
            kernels.matmul(task.matrix, inputs, num_rows, task.panel, task.count, soon, out + task.column, ld,
                           accumulate);
        };
        if (apart) {
            for (int64_t index = 0; index < num_tasks; ++index) compute(index, index + 1);
        } else {
            team.share_stretches(thread, num_tasks, compute);
        }
    }

    // Inputs of `num_rows` rows in the forms that the matrices want; the memory is the workspace's.
    static Inputs prepare(Workspace& workspace, std::initializer_list<const Matrix*> matrices, int64_t k,
                          int64_t num_rows) {
        Inputs inputs{};
        inputs.k = k;
        inputs.blocks = (k + BLOCK - 1) / BLOCK;
        bool bytes = false, bf16 = false, f32 = false;
        for (const Matrix* m : matrices) {
            bytes |= m->format == Format::q4 || m->format == Format::q8;
            bf16 |= m->format == Format::bf16;
            f32 |= m->format == Format::f32;
        }
        auto& memory = workspace.inputs;
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

void Decoder::keep_wanted(const StepRows& rows) {
    kept_of_.assign(size_t(rows.num_rows), -1);
    kept_positions_.resize(size_t(rows.num_wanted));
    for (int64_t i = 0; i < rows.num_wanted; ++i) {
        kept_of_[size_t(rows.wanted[i])] = int32_t(i);
        kept_positions_[size_t(i)] = rows.segments.positions[rows.wanted[i]];
    }
    if (rows.num_wanted == rows.num_rows) return;  // they keep their numbers, and segments their rows
    kept_begin_.resize(size_t(rows.num_segments));
    kept_end_.resize(size_t(rows.num_segments));
    auto first_kept = [&](int32_t row) {
        return int32_t(std::lower_bound(rows.wanted, rows.wanted + rows.num_wanted, row) - rows.wanted);
    };
    for (int64_t s = 0; s < rows.num_segments; ++s) {
        kept_begin_[size_t(s)] = first_kept(rows.segments.row_begin[s]);
        kept_end_[size_t(s)] = first_kept(rows.segments.row_end[s]);
    }
}

void Decoder::forward(const StepRows& rows, float* out) {
    std::lock_guard<std::mutex> one_step(mutex_);
    check();
    if (rows.num_slots != num_slots_ || rows.num_positions != num_positions_)
        throw std::invalid_argument("the pool or the rotary angles changed while a step was on its way");
    const int64_t n = rows.num_rows, hidden = shape_.hidden, group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t q_width = shape_.num_heads * shape_.head_dim, kv_width = shape_.num_kv_heads * shape_.head_dim;
    const int64_t qkv_width = q_width + 2 * kv_width, gate_up_width = 2 * shape_.inner;
    const bool f32 = shape_.f32 || !kernels_.native_bf16;

    float* states = hidden_.reserve<float>(n * hidden);
    float* kept_states = kept_.reserve<float>(rows.num_wanted * hidden);
    void* queries = queries_.reserve<float>(shape_.num_kv_heads * n * group * stride_ / (f32 ? 1 : 2) + 1);
    float* attended = attended_.reserve<float>(n * q_width);
    scratch_.reserve<char>(Run::scratch_bytes(*this) * team_->size());
    // Reserve for the largest use before pointers are taken
    for (Workspace& space : workspaces_) {
        const bool is_first = &space == workspaces_.data();
        if (!is_first && !Run::are_many(n, *team_)) break;
        const int64_t most = std::min(n, is_first ? ROWS_TOGETHER : 2 * ROWS_APART);
        space.projected.reserve<float>(most * std::max(qkv_width, gate_up_width));
        for (const LayerWeights& w : layers_) {
            Run::prepare(space, {&w.q->view, &w.k->view, &w.v->view, &w.gate->view, &w.up->view}, hidden, most);
            Run::prepare(space, {&w.output->view}, q_width, most);
            Run::prepare(space, {&w.down->view}, shape_.inner, most);
        }
    }
    // All rows leave keys and values in every layer, but of the last layer's outputs only the wanted rows' are used
    keep_wanted(rows);
    auto read_by = [&](AttentionPlan& plan, int64_t num_rows, float* of_rows, const SegmentView& segments) {
        const AttentionShape shape{shape_.num_kv_heads, group, shape_.head_dim, f32, num_rows, queries, attended};
        plan.build(segments, rows.num_segments, num_rows, shape, stride_, team_->size());
        return Readers{num_rows, of_rows, segments, shape, plan};
    };
    SegmentView kept_segments = rows.segments;
    kept_segments.row_begin = kept_begin_.data();
    kept_segments.row_end = kept_end_.data();
    kept_segments.positions = kept_positions_.data();
    const Readers all = read_by(plan_, n, states, rows.segments);
    const Readers kept = rows.num_wanted == n
                             ? Readers{n, kept_states, rows.segments, all.attention, plan_}
                             : read_by(kept_plan_, rows.num_wanted, kept_states, kept_segments);

    team_->run([&](int thread) {
        Run run(*this, thread);
        run.team.share(n, [&](int64_t row) { kernels_.embed(embedding_->view, rows.ids[row], states + row * hidden); });
        run.team.sync();
        for (int64_t index = 0; index < shape_.num_layers; ++index) {
            const LayerWeights& w = layers_[size_t(index)];
            const KVLayer kv = kv_layer(index);
            const bool is_last = index + 1 == shape_.num_layers;
            auto qkv_of = [&](const LayerWeights& of) {
                return Product{{{{&of.q->view, 0}, {&of.k->view, q_width}, {&of.v->view, q_width + kv_width}}}};
            };
            const Product qkv = qkv_of(w), output{{{{&w.output->view, 0}}}}, down{{{{&w.down->view, 0}}}};
            const Product gate_up{{{{&w.gate->view, 0}, {&w.up->view, shape_.inner}}}};
            const Product next_qkv = qkv_of(layers_[size_t(is_last ? index : index + 1)]);
            const Readers& readers = is_last ? kept : all;
            const RopeShape rope{shape_.num_heads,
                                 shape_.num_kv_heads,
                                 shape_.head_dim,
                                 stride_,
                                 readers.num_rows,
                                 f32,
                                 w.query_norm.empty() ? nullptr : w.query_norm.data(),
                                 w.key_norm.empty() ? nullptr : w.key_norm.data(),
                                 shape_.eps,
                                 1.4426950408889634f / std::sqrt(float(shape_.head_dim))};
            auto normalize = [&](const float* of_rows, const std::vector<float>& weight, const Inputs& to,
                                 int64_t begin, int64_t end) {
                run.each_row(begin, end, [&](int64_t row) {
                    kernels_.rms_norm(of_rows + row * hidden, weight.data(), hidden, shape_.eps, run.temporary);
                    kernels_.convert(run.temporary, row - begin, to);
                });
                run.mark(0);
            };

            run.each_stretch(2, n, [&](int64_t begin, int64_t end) {
                Workspace& space = run.workspace();
                const Inputs for_qkv = Run::prepare(space, {&w.q->view, &w.k->view, &w.v->view}, hidden, 0);
                float* projected = space.projected.as<float>();
                normalize(states, w.input_norm, for_qkv, begin, end);
                run.multiply(qkv, for_qkv, end - begin, projected, qkv_width, false, &output);
                run.end_phase(1, end - begin);
                run.each_row(begin, end, [&](int64_t row) {
                    const float* cos_sin =
                        rotary_.as<float>() + int64_t(rows.segments.positions[row]) * shape_.head_dim;
                    const int64_t reader = is_last ? kept_of_[size_t(row)] : row;
                    kernels_.rope(rope, projected + (row - begin) * qkv_width, cos_sin, reader, rows.slots[row],
                                  queries, kv, run.temporary);
                    if (is_last && reader >= 0)
                        std::memcpy(kept_states + reader * hidden, states + row * hidden,
                                    size_t(hidden) * sizeof(float));
                });
                run.mark(2);
            });

            const AttentionPlan& plan = readers.plan;
            run.team.share(int64_t(plan.units().size()), [&](int64_t unit) {
                kernels_.attend(readers.attention, kv, readers.segments, plan.units()[size_t(unit)], run.scratch);
            });
            if (plan.num_split_rows() > 0) {
                run.team.sync();
                run.team.share(plan.num_split_rows() * shape_.num_kv_heads, [&](int64_t task) {
                    merge_row(kernels_, readers.attention, stride_, plan, task / shape_.num_kv_heads,
                              task % shape_.num_kv_heads);
                });
            }
            run.end_phase(3, readers.num_rows);

            run.each_stretch(7, readers.num_rows, [&](int64_t begin, int64_t end) {
                Workspace& space = run.workspace();
                const Inputs for_output = Run::prepare(space, {&w.output->view}, q_width, 0);
                const Inputs for_gate_up = Run::prepare(space, {&w.gate->view, &w.up->view}, hidden, 0);
                const Inputs for_down = Run::prepare(space, {&w.down->view}, shape_.inner, 0);
                float* projected = space.projected.as<float>();
                float* of_rows = readers.states + begin * hidden;
                run.each_row(begin, end, [&](int64_t row) {
                    kernels_.convert(attended + row * q_width, row - begin, for_output);
                });
                run.mark(0);
                run.multiply(output, for_output, end - begin, of_rows, hidden, true, &gate_up);
                run.end_phase(4, end - begin);
                normalize(readers.states, w.post_attention_norm, for_gate_up, begin, end);
                run.multiply(gate_up, for_gate_up, end - begin, projected, gate_up_width, false, &down);
                run.end_phase(5, end - begin);
                run.each_row(begin, end, [&](int64_t row) {
                    const float* gate = projected + (row - begin) * gate_up_width;
                    kernels_.silu_multiply(gate, gate + shape_.inner, shape_.inner, run.temporary);
                    kernels_.convert(run.temporary, row - begin, for_down);
                });
                run.mark(6);
                run.multiply(down, for_down, end - begin, of_rows, hidden, true, is_last ? nullptr : &next_qkv);
                run.end_phase(7, readers.num_rows);
            });
        }
        run.team.sync();
        run.team.share(rows.num_wanted, [&](int64_t i) {
            kernels_.rms_norm(kept_states + i * hidden, norm_.data(), hidden, shape_.eps, out + i * hidden);
        });
    });
}

void Decoder::logits(const float* hidden, int64_t num_rows, float* out) {
    if (num_rows == 0) return;
    std::lock_guard<std::mutex> one_step(mutex_);
    check();
    Run::prepare(workspaces_[0], {&head_->view}, shape_.hidden, std::min(num_rows, ROWS_TOGETHER));
    scratch_.reserve<char>(Run::scratch_bytes(*this) * team_->size());
    team_->run([&](int thread) {
        Run run(*this, thread);
        const Inputs inputs = Run::prepare(workspaces_[0], {&head_->view}, shape_.hidden, 0);
        for (int64_t begin = 0; begin < num_rows; begin += ROWS_TOGETHER) {
            const int64_t end = std::min(begin + ROWS_TOGETHER, num_rows);
            run.each_row(begin, end, [&](int64_t row) {
                kernels_.convert(hidden + row * shape_.hidden, row - begin, inputs);
            });
            run.multiply({{{{&head_->view, 0}}}}, inputs, end - begin, out + begin * shape_.vocab, shape_.vocab, false);
            run.team.sync();
        }
    });
}

}  // namespace ramet
