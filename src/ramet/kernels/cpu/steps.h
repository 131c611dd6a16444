// The checked way from a step's arrays to what kernels take.
#pragma once

#include "arrays.h"
#include "types.h"

namespace ramet {

// The arrays of `ramet.model_io.Segments`.
struct SegmentArrays {
    In<int32_t, 1> row_begin, row_end, first_position, slot_offsets, slots;
};

// Throws std::invalid_argument if a segment reaches outside the rows or the pool, holds no key or too many,
// or stands out of order, or if a row precedes it.
SegmentView checked_segments(const SegmentArrays& arrays, const In<int32_t, 1>& positions, int64_t num_slots);

}  // namespace ramet
