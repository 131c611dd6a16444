#include "plan.h"

#include <algorithm>

namespace ramet {

namespace {

constexpr int64_t LAYOUT_COST = 6;  // of laying a chunk out, in queries
constexpr int64_t UNITS_PER_THREAD = 4;
constexpr int64_t MOST_PARTIAL_BYTES = int64_t(64) << 20;

int64_t cost_of(const SegmentView& segments, int32_t segment, int64_t begin, int64_t end, int64_t group) {
    int64_t first = std::max<int64_t>(segments.row_begin[segment], begin);
    int64_t last = std::min<int64_t>(segments.row_end[segment], end);
    return (last - first) * group + LAYOUT_COST;
}

int64_t count_spans(const SegmentView& segments, const int32_t* indices, int64_t count) {
    int64_t spans = 0, previous = -1;
    for (int64_t i = 0; i < count; ++i) {
        int64_t span = segments.first_position[indices[i]] / SPAN;
        spans += span != previous;
        previous = span;
    }
    return spans;
}

}  // namespace

void AttentionPlan::build(const SegmentView& segments, int64_t num_segments, int64_t num_rows,
                          const AttentionShape& shape, int64_t stride, int num_threads) {
    const int64_t num_blocks = (num_rows + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
    // The segments of each block of rows, in order of position: counted, then filled in
    first_of_block_.assign(size_t(num_blocks) + 1, 0);
    auto each_block = [&](int64_t segment, auto&& act) {
        for (int64_t b = segments.row_begin[segment] / ATTENTION_ROWS;
             b <= (segments.row_end[segment] - 1) / ATTENTION_ROWS; ++b)
            act(b);
    };
    for (int64_t s = 0; s < num_segments; ++s) each_block(s, [&](int64_t b) { ++first_of_block_[size_t(b) + 1]; });
    for (int64_t b = 0; b < num_blocks; ++b) first_of_block_[size_t(b) + 1] += first_of_block_[size_t(b)];
    indices_.resize(size_t(first_of_block_[size_t(num_blocks)]));
    std::vector<int32_t> filled(first_of_block_.begin(), first_of_block_.end() - 1);
    for (int64_t s = 0; s < num_segments; ++s)
        each_block(s, [&](int64_t b) { indices_[size_t(filled[size_t(b)]++)] = int32_t(s); });

    std::vector<int64_t> costs(static_cast<size_t>(num_blocks));
    int64_t total = 0;
    for (int64_t b = 0; b < num_blocks; ++b) {
        const int64_t begin = b * ATTENTION_ROWS, end = std::min(begin + ATTENTION_ROWS, num_rows);
        for (int32_t i = first_of_block_[size_t(b)]; i < first_of_block_[size_t(b) + 1]; ++i)
            costs[size_t(b)] += cost_of(segments, indices_[size_t(i)], begin, end, shape.group);
        total += costs[size_t(b)] * shape.num_kv_heads;
    }
    const int64_t share = std::max<int64_t>(total / (num_threads * UNITS_PER_THREAD), 64);

    units_.clear();
    splits_.clear();
    num_split_rows_ = 0;
    // First which blocks to split, for their partial results want one buffer
    struct Part {
        int64_t begin, end, num_spans, floats;
        const int32_t* indices;
        int64_t count, cost;
    };
    std::vector<Part> parts;
    int64_t num_floats = 0;
    for (int64_t b = 0; b < num_blocks; ++b) {
        Part part{};
        part.begin = b * ATTENTION_ROWS;
        part.end = std::min(part.begin + ATTENTION_ROWS, num_rows);
        part.indices = indices_.data() + first_of_block_[size_t(b)];
        part.count = first_of_block_[size_t(b) + 1] - first_of_block_[size_t(b)];
        part.cost = costs[size_t(b)];
        const int64_t spans = count_spans(segments, part.indices, part.count);
        const int64_t floats =
            shape.num_kv_heads * spans * (part.end - part.begin) * shape.group * partial_floats(stride);
        if (num_threads > 1 && spans > 1 && costs[size_t(b)] > share &&
            (num_floats + floats) * int64_t(sizeof(float)) <= MOST_PARTIAL_BYTES) {
            part.num_spans = spans;
            part.floats = floats;
            num_floats += floats;
        }
        parts.push_back(part);
    }
    // The blocks of most work first, so that no thread is left with a large one at the end
    std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.cost > b.cost; });
    float* partials = num_floats ? partials_.reserve<float>(num_floats) : nullptr;
    for (const Part& part : parts) {
        if (part.num_spans) {
            split(segments, part.begin, part.end, part.indices, part.count, share, shape, stride, partials,
                  part.num_spans);
            splits_.push_back({part.begin, part.end, part.num_spans, partials});
            num_split_rows_ += part.end - part.begin;
            partials += part.floats;
        } else {
            for (int64_t head = 0; head < shape.num_kv_heads; ++head)
                units_.push_back({part.begin, part.end, part.indices, part.count, head, nullptr});
        }
    }
}

void AttentionPlan::split(const SegmentView& segments, int64_t begin, int64_t end, const int32_t* indices,
                          int64_t count, int64_t share, const AttentionShape& shape, int64_t stride, float* partials,
                          int64_t num_spans) {
    const int64_t span_floats = (end - begin) * shape.group * partial_floats(stride);
    int64_t first = 0, first_span = 0, spans = 0, cost = 0;
    auto add = [&](int64_t last) {
        for (int64_t head = 0; head < shape.num_kv_heads; ++head)
            units_.push_back({begin, end, indices + first, last - first, head,
                              partials + (head * num_spans + first_span) * span_floats});
    };
    for (int64_t i = 0; i < count; ++i) {
        const int64_t span = segments.first_position[indices[i]] / SPAN;
        if (i > 0 && span != segments.first_position[indices[i - 1]] / SPAN) {
            ++spans;
            if (cost >= share) {
                add(i);
                first = i;
                first_span = spans;
                cost = 0;
            }
        }
        cost += cost_of(segments, indices[i], begin, end, shape.group);
    }
    add(count);
}

void merge_row(const Kernels& kernels, const AttentionShape& shape, int64_t stride, const AttentionPlan& plan,
               int64_t index, int64_t kv_head) {
    auto split = plan.splits().begin();
    for (; index >= split->row_end - split->row_begin; ++split) index -= split->row_end - split->row_begin;
    const int64_t row_floats = shape.group * partial_floats(stride);
    const int64_t span_floats = (split->row_end - split->row_begin) * row_floats;
    kernels.merge(shape, stride, kv_head, split->row_begin + index,
                  split->partials + kv_head * split->num_spans * span_floats + index * row_floats, split->num_spans,
                  span_floats);
}

}  // namespace ramet
