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
    std::vector<int64_t> filled(size_t(num_blocks) + 1, 0);
    auto each_block = [&](int64_t segment, auto&& act) {
        if (segments.row_begin[segment] == segments.row_end[segment]) return;
        for (int64_t b = segments.row_begin[segment] / ATTENTION_ROWS;
             b <= (segments.row_end[segment] - 1) / ATTENTION_ROWS; ++b)
            act(b);
    };
    for (int64_t s = 0; s < num_segments; ++s) each_block(s, [&](int64_t b) { ++filled[size_t(b) + 1]; });
    for (int64_t b = 0; b < num_blocks; ++b) filled[size_t(b) + 1] += filled[size_t(b)];
    indices_.resize(size_t(filled.back()));
    parts_.clear();
    int64_t total = 0;
    for (int64_t b = 0; b < num_blocks; ++b) {
        const int64_t begin = b * ATTENTION_ROWS;
        parts_.push_back({begin, std::min(begin + ATTENTION_ROWS, num_rows), filled[size_t(b)],
                          filled[size_t(b) + 1] - filled[size_t(b)], 0, 0, 0});
    }
    for (int64_t s = 0; s < num_segments; ++s)
        each_block(s, [&](int64_t b) { indices_[size_t(filled[size_t(b)]++)] = int32_t(s); });
    for (Part& part : parts_) {
        measure(segments, part, shape.group);
        total += part.cost * shape.num_kv_heads;
    }
    const int64_t share = std::max<int64_t>(total / (num_threads * UNITS_PER_THREAD), 64);
    if (num_threads > 1)
        for (size_t i = 0; i < parts_.size(); ++i)  // grows as it goes
            while (parts_[i].cost > share && parts_[i].num_spans < 2 && halve(segments, i, shape.group)) {
            }
    const auto costs_more = [](const auto& a, const auto& b) { return a.cost > b.cost; };
    // Large parts first: what is small fits in anywhere
    std::stable_sort(parts_.begin(), parts_.end(), costs_more);

    auto floats_of = [&](const Part& part) {  // of a head's partial results
        return part.num_spans * (part.end - part.begin) * shape.group * partial_floats(stride);
    };
    // First which heads to split by position, for their partial results want one buffer
    std::vector<int64_t> loads(size_t(num_threads), 0);
    const int64_t most_whole = total * (UNITS_PER_THREAD - 1) / (num_threads * UNITS_PER_THREAD);  // of a thread
    int64_t num_floats = 0, to_split = 0;
    for (Part& part : parts_) {
        part.whole_heads = shape.num_kv_heads;
        if (num_threads == 1 || part.cost <= share) continue;
        part.whole_heads = 0;
        for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
            int64_t& least = *std::min_element(loads.begin(), loads.end());
            if (part.num_spans > 1 && least + part.cost > most_whole &&
                (num_floats + floats_of(part)) * int64_t(sizeof(float)) <= MOST_PARTIAL_BYTES) {
                num_floats += floats_of(part);
                to_split += part.cost;
            } else {
                least += part.cost;
                ++part.whole_heads;
            }
        }
    }
    // Of what is split, as many units for each thread
    const int64_t num_units = round_up((to_split + share - 1) / share, num_threads);
    float* partials = num_floats ? partials_.reserve<float>(num_floats) : nullptr;
    units_.clear();
    splits_.clear();
    num_split_rows_ = 0;
    for (const Part& part : parts_) {
        const int32_t* indices = indices_.data() + part.first;
        for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
            if (head < part.whole_heads) {
                units_.push_back({part.begin, part.end, indices, part.count, head, nullptr, part.cost});
                continue;
            }
            splits_.push_back({part.begin, part.end, head, part.num_spans, partials});
            num_split_rows_ += part.end - part.begin;
            split(segments, part, head, to_split / num_units, shape.group, stride, partials);
            partials += floats_of(part);
        }
    }
    // Those of most work first, so that no thread is left with a large one at the end
    std::stable_sort(units_.begin(), units_.end(), costs_more);
}

void AttentionPlan::measure(const SegmentView& segments, Part& part, int64_t group) const {
    const int32_t* indices = indices_.data() + part.first;
    part.num_spans = count_spans(segments, indices, part.count);
    part.cost = 0;
    for (int64_t i = 0; i < part.count; ++i)
        part.cost += cost_of(segments, indices[i], part.begin, part.end, group);
}

bool AttentionPlan::halve(const SegmentView& segments, size_t index, int64_t group) {
    const Part whole = parts_[index];
    if (whole.end - whole.begin < 2) return false;
    const int64_t middle = (whole.begin + whole.end) / 2;
    auto half = [&](int64_t begin, int64_t end) {
        Part part{begin, end, int64_t(indices_.size()), 0, 0, 0, 0};
        for (int64_t i = whole.first; i < whole.first + whole.count; ++i) {
            const int32_t segment = indices_[size_t(i)];
            if (segments.row_begin[segment] < end && segments.row_end[segment] > begin) indices_.push_back(segment);
        }
        part.count = int64_t(indices_.size()) - part.first;
        measure(segments, part, group);
        return part;
    };
    const Part low = half(whole.begin, middle), high = half(middle, whole.end);
    if (low.cost + high.cost > whole.cost + whole.cost / 8) {  // what they share would be laid out twice
        indices_.resize(size_t(low.first));
        return false;
    }
    parts_[index] = low;
    parts_.push_back(high);
    return true;
}

void AttentionPlan::split(const SegmentView& segments, const Part& part, int64_t head, int64_t share, int64_t group,
                          int64_t stride, float* partials) {
    const int64_t span_floats = (part.end - part.begin) * group * partial_floats(stride);
    const int32_t* indices = indices_.data() + part.first;
    int64_t first = 0, cost = 0, span_cost = 0;
    auto add = [&](int64_t last) {
        units_.push_back({part.begin, part.end, indices + first, last - first, head, partials, cost});
        partials += count_spans(segments, indices + first, last - first) * span_floats;
        first = last;
        cost = 0;
    };
    for (int64_t i = 0; i < part.count; ++i) {
        if (i > 0 && segments.first_position[indices[i]] / SPAN != segments.first_position[indices[i - 1]] / SPAN) {
            if (2 * cost + span_cost >= 2 * share) add(i);  // one more like the last would be further from the share
            span_cost = 0;
        }
        const int64_t more = cost_of(segments, indices[i], part.begin, part.end, group);
        cost += more;
        span_cost += more;
    }
    add(part.count);
}

void merge_row(const Kernels& kernels, const AttentionShape& shape, int64_t stride, const AttentionPlan& plan,
               int64_t index) {
    auto split = plan.splits().begin();
    for (; index >= split->row_end - split->row_begin; ++split) index -= split->row_end - split->row_begin;
    const int64_t row_floats = shape.group * partial_floats(stride);
    const int64_t span_floats = (split->row_end - split->row_begin) * row_floats;
    kernels.merge(shape, stride, split->kv_head, split->row_begin + index, split->partials + index * row_floats,
                  split->num_spans, span_floats);
}

}  // namespace ramet
