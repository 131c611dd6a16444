#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "decoder_run.h"

namespace ramet {

namespace {

Maxima nothing_seen() {
    Maxima maxima{};
    std::fill_n(maxima.value, PANEL, -INFINITY);
    std::fill_n(maxima.token, PANEL, INT32_MAX);
    return maxima;
}

// The first token with the largest logit that any thread has seen; -1 if it is not finite or a logit is not a number.
template <class EachThread>
int32_t likeliest(const EachThread& each_thread) {
    float most = -INFINITY;
    int32_t token = INT32_MAX;
    bool not_numbers = false;
    each_thread([&](const Maxima& seen) {
        not_numbers |= seen.not_numbers;
        for (int lane = 0; lane < PANEL; ++lane) {
            if (seen.value[lane] < most || (seen.value[lane] == most && seen.token[lane] > token)) continue;
            most = seen.value[lane];
            token = seen.token[lane];
        }
    });
    return not_numbers || !std::isfinite(most) ? -1 : token;
}

}  // namespace

const std::array<const char*, Decoder::NUM_PHASES> Decoder::PHASE_NAMES = {
    "norm and quantize", "qkv product", "rope and KV write", "attention",
    "output product", "gate and up product", "down product", "logits"};

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
    const int64_t qkv_width = q_width + 2 * kv_width;
    const bool f32 = shape_.f32 || !kernels_.native_bf16;

    float* states = hidden_.reserve<float>(n * hidden);
    float* kept_states = kept_.reserve<float>(rows.num_wanted * hidden);
    void* queries = queries_.reserve<float>(shape_.num_kv_heads * n * group * stride_ / (f32 ? 1 : 2) + 1);
    float* attended = attended_.reserve<float>(n * q_width);
    scratch_.reserve<char>(Run::scratch_bytes(*this) * team_->size());
    // Reserve for the largest use before pointers are taken
    for (Workspace& space : workspaces_) {
        const bool is_first = &space == workspaces_.data();
        if (!is_first && !Run::are_many(n, *this)) break;
        const int64_t most = std::min(n, is_first ? ROWS_TOGETHER : 2 * ROWS_APART);
        space.projected.reserve<float>(most * qkv_width);
        for (const LayerWeights& w : layers_) {
            Run::prepare(space.inputs, {&w.q->view, &w.k->view, &w.v->view, &w.gate->view, &w.up->view}, hidden, most);
            Run::prepare(space.inputs, {&w.output->view}, q_width, most);
            Run::prepare(space.gated, {&w.down->view}, shape_.inner, most);
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
        run.team.share(thread, n, [&](int64_t row) {
            kernels_.embed(embedding_->view, rows.ids[row], states + row * hidden);
        });
        run.team.sync(thread);
        for (int64_t index = 0; index < shape_.num_layers; ++index) {
            const LayerWeights& w = layers_[size_t(index)];
            const KVLayer kv = kv_layer(index);
            const bool is_last = index + 1 == shape_.num_layers;
            auto qkv_of = [&](const LayerWeights& of) {
                return Product{{{{&of.q->view, 0}, {&of.k->view, q_width}, {&of.v->view, q_width + kv_width}}}};
            };
            const Product qkv = qkv_of(w), output{{{{&w.output->view, 0}}}}, down{{{{&w.down->view, 0}}}};
            const Product gate{{{{&w.gate->view, 0}}}}, up{{{{&w.up->view, 0}}}};
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
                const Inputs for_qkv = Run::prepare(space.inputs, {&w.q->view, &w.k->view, &w.v->view}, hidden, 0);
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
            run.team.share(thread, int64_t(plan.units().size()), [&](int64_t unit) {
                kernels_.attend(readers.attention, kv, readers.segments, plan.units()[size_t(unit)], run.scratch);
            });
            if (plan.num_split_rows() > 0) {
                run.team.sync(thread);
                run.team.share(thread, plan.num_split_rows(),
                               [&](int64_t row) { merge_row(kernels_, readers.attention, stride_, plan, row); });
            }
            run.end_phase(3, readers.num_rows);

            run.each_stretch(6, readers.num_rows, [&](int64_t begin, int64_t end) {
                Workspace& space = run.workspace();
                const Inputs for_output = Run::prepare(space.inputs, {&w.output->view}, q_width, 0);
                const Inputs for_gate_up = Run::prepare(space.inputs, {&w.gate->view, &w.up->view}, hidden, 0);
                const Inputs for_down = Run::prepare(space.gated, {&w.down->view}, shape_.inner, 0);
                float* of_rows = readers.states + begin * hidden;
                run.each_row(begin, end, [&](int64_t row) {
                    kernels_.convert(attended + row * q_width, row - begin, for_output);
                });
                run.mark(0);
                run.multiply(output, for_output, end - begin, of_rows, hidden, true, &gate);
                run.end_phase(4, end - begin);
                normalize(readers.states, w.post_attention_norm, for_gate_up, begin, end);
                run.multiply_gated(gate, up, for_gate_up, end - begin, for_down, &down);
                run.sync();
                run.mark(5);
                run.multiply(down, for_down, end - begin, of_rows, hidden, true, is_last ? nullptr : &next_qkv);
                run.end_phase(6, readers.num_rows);
            });
        }
        run.team.sync(thread);
        run.team.share(thread, rows.num_wanted, [&](int64_t i) {
            kernels_.rms_norm(kept_states + i * hidden, norm_.data(), hidden, shape_.eps, out + i * hidden);
        });
    });
}

void Decoder::logits(const float* hidden, int64_t num_rows, const int32_t* wanted, int64_t num_wanted, float* out,
                     int32_t* tokens) {
    if (num_rows == 0) return;
    std::lock_guard<std::mutex> one_step(mutex_);
    check();
    Run::prepare(workspaces_[0].inputs, {&head_->view}, shape_.hidden, std::min(num_rows, ROWS_TOGETHER));
    scratch_.reserve<char>(Run::scratch_bytes(*this) * team_->size());
    for (Buffer& maxima : maxima_) maxima.reserve<Maxima>(std::min(num_rows, ROWS_TOGETHER));
    team_->run([&](int thread) {
        Run run(*this, thread);
        const Inputs inputs = Run::prepare(workspaces_[0].inputs, {&head_->view}, shape_.hidden, 0);
        const Product product{{{{&head_->view, 0}}}};
        Maxima* const maxima = maxima_[size_t(thread)].as<Maxima>();
        for (int64_t begin = 0; begin < num_rows; begin += ROWS_TOGETHER) {
            const int64_t end = std::min(begin + ROWS_TOGETHER, num_rows);
            const int32_t *const first_wanted = std::lower_bound(wanted, wanted + num_wanted, begin),
                                 *const end_wanted = std::lower_bound(first_wanted, wanted + num_wanted, end);
            run.each_row(begin, end, [&](int64_t row) {
                kernels_.convert(hidden + row * shape_.hidden, row - begin, inputs);
            });
            std::fill_n(maxima, end - begin, nothing_seen());
            run.multiply_tiles(product, inputs, end - begin, [&](const float* tile, int64_t first, int64_t count) {
                kernels_.update_maxima(tile, end - begin, first, count, maxima);
                for (const int32_t* row = first_wanted; row < end_wanted; ++row)
                    std::memcpy(out + (row - wanted) * shape_.vocab + first, tile + (*row - begin) * BLOCK,
                                size_t(count) * sizeof(float));
            });
            if (end - begin > ROWS_ALONE) run.sync();  // else `each_row` waits itself
            run.each_row(begin, end, [&](int64_t row) {
                tokens[row] = likeliest([&](const auto& look) {
                    for (const Buffer& seen : maxima_) look(seen.as<Maxima>()[row - begin]);
                });
            });
        }
        run.mark(7);
    });
}

}  // namespace ramet
