#include "steps.h"

#include <algorithm>
#include <vector>

namespace ramet {

SegmentView checked_segments(const SegmentArrays& arrays, const In<int32_t, 1>& positions, int64_t num_slots) {
    const size_t count = arrays.row_begin.size();
    require(arrays.row_end.size() == count && arrays.first_position.size() == count &&
                arrays.slot_offsets.size() == count + 1,
            "the arrays of the segments differ in length");
    require_below(arrays.slots, num_slots, "slot");
    const SegmentView view{arrays.row_begin.data(),    arrays.row_end.data(), arrays.first_position.data(),
                           arrays.slot_offsets.data(), arrays.slots.data(),   positions.data()};
    const int64_t num_rows = int64_t(positions.size()), num_keys = int64_t(arrays.slots.size());
    int32_t previous = 0;
    std::vector<bool> covered(static_cast<size_t>(num_rows));
    for (size_t i = 0; i < count; ++i) {
        require(view.row_begin[i] >= 0 && view.row_begin[i] < view.row_end[i] && view.row_end[i] <= num_rows,
                "a segment reaches outside the rows");
        const int64_t begin = view.slot_offsets[i], end = view.slot_offsets[i + 1];
        require(begin >= 0 && begin < end && end - begin <= CHUNK && end <= num_keys,
                "a segment holds no key or more than a chunk");
        require(view.first_position[i] >= previous && view.first_position[i] % CHUNK == 0,
                "segments are not in order of position or do not begin at a chunk");
        previous = view.first_position[i];
        for (int32_t row = view.row_begin[i]; row < view.row_end[i]; ++row) {
            require(view.positions[row] >= previous, "a row stands before the keys of its segment");
            covered[size_t(row)] = true;
        }
    }
    require(std::find(covered.begin(), covered.end(), false) == covered.end(), "a row belongs to no segment");
    return view;
}

}  // namespace ramet
