// How a thread goes through the phases of a step. Included by decoder.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <initializer_list>

#include "decoder.h"

namespace ramet {

// Rows that all threads take through the products of a layer together, each some of the outputs: few enough for their
// inputs to stay in the cache.
constexpr int64_t ROWS_TOGETHER = 256;
// Where there are rows enough for each thread, it takes them by itself through all phases between two attentions, in
// stretches of about so many if there are more. Nobody waits then, and what becomes of a row stays in the cache of one core.
constexpr int64_t ROWS_APART = 48;
// How many are enough: every thread reads all weights for each stretch, in the time that it multiplies them, so the more
// the more bytes a weight has and the more threads there are. So many for each byte and thread, within these limits.
constexpr int64_t ROWS_PER_BYTE = 12;
constexpr int64_t LEAST_ROWS_APART = 16;
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
        ByteRange bytes() const { return {matrix.panel(panel), count * matrix.panel_bytes}; }
    };
    std::array<Part, 3> parts;

    static int64_t pairs(const Part& part) { return part.matrix ? (part.matrix->panels + 1) / 2 : 0; }
    int64_t num_tasks() const { return pairs(parts[0]) + pairs(parts[1]) + pairs(parts[2]); }
    Task task(int64_t index) const {
        const Part* part = parts.data();
        for (; index >= pairs(*part); ++part) index -= pairs(*part);
        return {*part->matrix, part->column, index * 2, int(std::min<int64_t>(2, part->matrix->panels - index * 2))};
    }
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
        const int64_t most = std::max({d.kernels_.attend_scratch(d.stride_, s.num_heads / s.num_kv_heads),
                                       (s.hidden + PANEL) * int64_t(sizeof(float)),
                                       ROWS_TOGETHER * 2 * BLOCK * int64_t(sizeof(float)),
                                       (2 * d.stride_ + PANEL) * int64_t(sizeof(float))});
        return round_up(most, 64) + 64;
    }

    void mark(int phase) {
        if (thread != 0 || !d.profile_) return;
        auto now = std::chrono::steady_clock::now();
        d.seconds_[size_t(phase)] += std::chrono::duration<double>(now - last).count();
        last = now;
    }

    static bool are_many(int64_t num_rows, const Decoder& d) {
        const int64_t threads = d.team_->size(), rows = int64_t(double(ROWS_PER_BYTE * threads) * d.bytes_per_weight_);
        return num_rows >= threads * std::clamp(rows, LEAST_ROWS_APART, ROWS_APART);
    }

    // Calls body(begin, end) for stretches of the rows: by all threads together, or apart if rows are many. The last
    // phase of the body is `phase`.
    template <class Body>
    void each_stretch(int phase, int64_t num_rows, const Body& body) {
        if (!are_many(num_rows, d)) {
            for (int64_t begin = 0; begin < num_rows; begin += ROWS_TOGETHER)
                body(begin, std::min(begin + ROWS_TOGETHER, num_rows));
            return;
        }
        // Equal stretches of at most 72 rows, and as many for each thread
        const int64_t together = team.size() * ROWS_APART;
        const int64_t count = std::max<int64_t>((num_rows + together / 2) / together, 1) * team.size();
        apart = true;
        team.share(thread, count, [&](int64_t i) { body(num_rows * i / count, num_rows * (i + 1) / count); });
        apart = false;
        team.sync(thread);
        mark(phase);
    }

    Workspace& workspace() const { return d.workspaces_[apart ? size_t(thread) : 0]; }

    void sync() {
        if (!apart) team.sync(thread);
    }

    // Calls body(task, next) for the tasks of a phase: those that `share_stretches` gives this thread, or all.
    template <class Body>
    void each_of(int64_t count, const Body& body) {
        if (!apart) return team.share_stretches(thread, count, body);
        for (int64_t task = 0; task < count; ++task) body(task, task + 1);
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
            team.sync(thread, [&] {
                for (int64_t row = begin; row < end; ++row) body(row);
            });
            return;
        }
        // To take a task costs a good part of a row, and four for each thread are enough to share them evenly
        const int64_t together = std::min<int64_t>((end - begin) / (4 * team.size()) + 1, 4);
        each_of((end - begin + together - 1) / together, [&](int64_t task, int64_t) {
            const int64_t first = begin + task * together;
            for (int64_t row = first; row < std::min(first + together, end); ++row) body(row);
        });
        sync();
    }

    // Calls body(task, soon) for the tasks of a product; `soon` is what this thread will probably read after a task:
    // what its next one does, or the first of the product `then`, if any. The phase is not ended.
    template <class Body>
    void each_task(const Product& product, const Product* then, const Body& body) {
        const int64_t count = product.num_tasks();
        each_of(count, [&](int64_t index, int64_t next) {
            ByteRange soon;
            if (next < count)
                soon = product.task(next).bytes();
            else if (then)
                soon = then->task(apart ? 0 : team.stretch_begin(thread, then->num_tasks())).bytes();
            body(index, soon);
        });
    }

    // out[row][column + n] = product of the inputs with each part. Does not end its phase.
    void multiply(const Product& product, const Inputs& inputs, int64_t num_rows, float* out, int64_t ld,
                  bool accumulate, const Product* then = nullptr) {
        each_task(product, then, [&](int64_t index, ByteRange soon) {
            const Product::Task task = product.task(index);
            kernels.matmul(task.matrix, inputs, num_rows, task.panel, task.count, soon,
                           out + task.column + task.panel * PANEL, ld, accumulate);
        });
    }

    // Calls consume(tile, first, count) for stretches of the outputs of a matrix while they are in the cache of who
    // computed them: outputs first .. first + count - 1 of all rows, tile [num_rows][BLOCK]. Does not end its phase.
    template <class Consume>
    void multiply_tiles(const Product& product, const Inputs& inputs, int64_t num_rows, const Consume& consume) {
        each_task(product, nullptr, [&](int64_t index, ByteRange soon) {
            const Product::Task task = product.task(index);
            kernels.matmul(task.matrix, inputs, num_rows, task.panel, task.count, soon, temporary, BLOCK, false);
            const int64_t first = task.panel * PANEL;
            consume(temporary, first, std::min<int64_t>(BLOCK, task.matrix.n - first));
        });
    }

    // Inputs of the next product: silu(product with `gate`) * product with `up`, block by block, while its outputs
    // are in the cache of who computed them. Does not end its phase.
    void multiply_gated(const Product& gate, const Product& up, const Inputs& inputs, int64_t num_rows,
                        const Inputs& gated, const Product* then) {
        each_task(gate, then, [&](int64_t index, ByteRange soon) {
            const Product::Task gates = gate.task(index), ups = up.task(index);
            kernels.matmul(gates.matrix, inputs, num_rows, gates.panel, gates.count, ups.bytes(), temporary, 2 * BLOCK,
                           false);
            kernels.matmul(ups.matrix, inputs, num_rows, ups.panel, ups.count, soon, temporary + BLOCK, 2 * BLOCK,
                           false);
            kernels.silu_multiply(temporary, num_rows, index, gated);
        });
    }

    // Inputs of `num_rows` rows in the forms that the matrices want, in this memory.
    static Inputs prepare(Workspace::InputBuffers& memory, std::initializer_list<const Matrix*> matrices, int64_t k,
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

}  // namespace ramet
