// How attention over a step's segments is cut into units of work for a team of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.h"
#include "types.h"

namespace ramet {

// A block of rows and a KV head whose context several units share: their partial results are merged at the end.
struct SplitBlock {
    int64_t row_begin, row_end;
    int64_t kv_head;
    int64_t num_spans;
    const float* partials;  // [num_spans][rows * group][partial_floats]
};

class AttentionPlan {
public:
    // Cuts by ATTENTION_ROWS rows and by KV head. Parts that hold too large a share of the work are cut further: by
    // spans of positions if there are several, else by rows if these have little context in common. Partial results of
    // spans travel from core to core, so heads stay whole as long as that is no more than three quarters of a thread's
    // work.
    void build(const SegmentView& segments, int64_t num_segments, int64_t num_rows, const AttentionShape& shape,
               int64_t stride, int num_threads);

    const std::vector<AttentionUnit>& units() const { return units_; }
    const std::vector<SplitBlock>& splits() const { return splits_; }
    int64_t num_split_rows() const { return num_split_rows_; }  // of all splits

private:
    struct Part {
        int64_t begin, end;    // rows
        int64_t first, count;  // of indices_: its segments
        int64_t num_spans, cost;  // of each head
        int64_t whole_heads;      // the first of them, each one unit
    };
    void measure(const SegmentView& segments, Part& part, int64_t group) const;
    bool halve(const SegmentView& segments, size_t index, int64_t group);
    void split(const SegmentView& segments, const Part& part, int64_t head, int64_t share, int64_t group, int64_t stride,
               float* partials);

    std::vector<Part> parts_;
    std::vector<int32_t> indices_;
    std::vector<AttentionUnit> units_;
    std::vector<SplitBlock> splits_;
    int64_t num_split_rows_ = 0;
    Buffer partials_;
};

// Merges the partial results of the plan's `index`-th split row into its output.
void merge_row(const Kernels& kernels, const AttentionShape& shape, int64_t stride, const AttentionPlan& plan,
               int64_t index);

}  // namespace ramet
