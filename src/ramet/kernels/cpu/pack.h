// From a tensor as its file stores it to the layout the kernels read (see `Matrix`).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "memory.h"
#include "types.h"

namespace ramet {

// A matrix and the memory it lies in.
struct PackedMatrix {
    Matrix view{};
    std::shared_ptr<Arena> memory;
    Buffer bias;

    // Bytes it takes: weights, scales and minima.
    int64_t num_bytes() const { return view.panels * view.panel_bytes; }
};

// The types that `pack` takes: GGML's names.
//   Q4_0, Q4_1 -> q4; Q8_0 -> q8: the blocks as they are, but for the minima of Q4_1: what is left of them, measured
//   from the middle of the block's 16 values, is rounded to bf16. Where a block spans zero that is at most 1/32 of a
//   step of the grid, and usually far less.
//   BF16, F16, F32 -> bf16 (rounded to nearest), or f32 if `keep_f32`.
// `memory` is where it will lie. Throws std::invalid_argument if the type is unknown or the sizes do not fit.
PackedMatrix pack(const std::string& type, const uint8_t* data, int64_t rows, int64_t row_bytes, int64_t columns,
                  bool keep_f32, std::shared_ptr<Arena> memory);

// Quantizes float32 rows to q8: blocks of 32 with a scale, rounded to nearest. The error of a weight is at most
// 1/254 of the largest in its block, and the rounding of the scale to float16 (below 1e-4 that counts).
PackedMatrix pack_q8(const float* data, int64_t rows, int64_t columns, std::shared_ptr<Arena> memory);

// Copies of two matrices that are read together: in turn, two panels of each. Throws std::invalid_argument if they
// differ in the number of outputs.
std::array<PackedMatrix, 2> interleave(const PackedMatrix& a, const PackedMatrix& b, std::shared_ptr<Arena> memory);

void set_bias(PackedMatrix& matrix, const float* bias);

}  // namespace ramet
