#include "pack.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#define RAMET_ISA packing
#include "simd.h"

namespace ramet {

namespace {

using packing::bf16_to_f32;
using packing::f16_to_f32;
using packing::f32_to_bf16;
using packing::from_bits;
using packing::to_bits;

uint16_t f32_to_f16(float value) {
    uint32_t bits = to_bits(value), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x47800000) return uint16_t(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (bits < 0x38800000) {
        // Denormal: adding 0.5 leaves the rounded fraction in the low bits
        return uint16_t(sign | (to_bits(from_bits(bits) + 0.5f) - to_bits(0.5f)));
    }
    uint32_t odd = bits >> 13 & 1;
    return uint16_t(sign | ((bits - 0x38000000 + 0xfff + odd) >> 13));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Matrix shape_of(Format format, int64_t rows, int64_t columns) {
    constexpr int64_t most = int64_t(1) << 31;
    if (rows < 1 || columns < 1 || rows > most || columns > most)
        throw std::invalid_argument("a matrix has between 1 and 2^31 rows and columns");
    Matrix view{};
    view.format = format;
    view.n = rows;
    view.k = columns;
    view.panels = ceil_div(rows, PANEL);
    view.blocks = ceil_div(columns, BLOCK);
    return view;
}

// Writes one block of a row into the panel's layout: for q4 the 16 bytes of a file's block (value i in the low half
// of byte i, value i + 16 in the high half), for q8 32 values of -127..127.
void put_q4(uint8_t* block, int64_t lane, const uint8_t* from) {
    constexpr uint32_t low = 0x0f0f0f0f, high = 0xf0f0f0f0;
    for (int i = 0; i < 2; ++i) {
        uint32_t a, b;  // four bytes at a time: a group of ours is values 8i to 8i + 3 below 8i + 4 to 8i + 7
        std::memcpy(&a, from + i * 8, 4);
        std::memcpy(&b, from + i * 8 + 4, 4);
        const uint32_t first = (a & low) | (b & low) << 4, second = (a & high) >> 4 | (b & high);
        std::memcpy(block + i * 64 + lane * 4, &first, 4);
        std::memcpy(block + (i + 2) * 64 + lane * 4, &second, 4);
    }
}

void put_q8(uint8_t* block, int64_t lane, const int8_t* values) {
    for (int i = 0; i < BLOCK; i += 4) std::memcpy(block + i / 4 * 64 + lane * 4, values + i, 4);
}

// Memory for panels of `panel_bytes`, and where it begins.
uint8_t* allocate(PackedMatrix& out, int64_t panel_bytes) {
    uint8_t* data = out.memory->take(size_t(out.view.panels * panel_bytes));
    out.view.panel_bytes = panel_bytes;
    out.view.panels_step = 2 * panel_bytes;
    out.view.data = data;
    return data;
}

uint8_t* allocate_blocks(PackedMatrix& out, int64_t block_bytes, bool has_minima) {
    Matrix& view = out.view;
    constexpr int64_t beside = 2 * PANEL * 2;  // bytes of the scales of a pair of blocks, or of its minima
    view.scales_at = 2 * block_bytes;
    view.minima_at = has_minima ? view.scales_at + beside : 0;
    view.pair_bytes = view.scales_at + beside + (has_minima ? beside : 0);
    return allocate(out, even(view.blocks) / 2 * view.pair_bytes);
}

uint16_t* halves_at(uint8_t* panel, int64_t offset) { return reinterpret_cast<uint16_t*>(panel + offset); }

PackedMatrix pack_blocks(Format format, bool has_minima, const uint8_t* data, int64_t rows, int64_t row_bytes,
                         int64_t columns, std::shared_ptr<Arena> memory) {
    PackedMatrix out;
    out.memory = std::move(memory);
    out.view = shape_of(format, rows, columns);
    const Matrix& view = out.view;
    const int64_t header = has_minima ? 4 : 2, payload = format == Format::q4 ? 16 : 32;
    if (columns % BLOCK || row_bytes != view.blocks * (header + payload))
        throw std::invalid_argument("rows of blocks do not have the bytes that their columns ask for");
    const int64_t block_bytes = format == Format::q4 ? 256 : 512;
    uint8_t* panels = allocate_blocks(out, block_bytes, has_minima);
    if (format == Format::q4 && rows % PANEL) {  // the lanes past the last row hold zeros
        uint8_t* last = panels + (view.panels - 1) * view.panel_bytes;
        for (int64_t b = 0; b < view.blocks; ++b) std::memset(last + view.block_at(b), 0x88, size_t(block_bytes));
    }
    for (int64_t row = 0; row < rows; ++row) {
        uint8_t* panel = panels + row / PANEL * view.panel_bytes;
        const int64_t lane = row % PANEL;
        for (int64_t b = 0; b < view.blocks; ++b) {
            const uint8_t* from = data + row * row_bytes + b * (header + payload);
            uint16_t scale;
            std::memcpy(&scale, from, 2);
            halves_at(panel, view.scales_of(b))[lane] = scale;
            if (has_minima) {
                uint16_t minimum;
                std::memcpy(&minimum, from + 2, 2);
                // Weights are scale * q + minimum; ours are scale * (q - 8) + minimum
                float middle = f16_to_f32(minimum) + 8.0f * f16_to_f32(scale);
                halves_at(panel, view.minima_of(b))[lane * 2] = f32_to_bf16(middle);
            }
            if (format == Format::q8) {
                put_q8(panel + view.block_at(b), lane, reinterpret_cast<const int8_t*>(from + header));
            } else {
                put_q4(panel + view.block_at(b), lane, from + header);
            }
        }
    }
    return out;
}

void decode_row(const std::string& type, const uint8_t* row, int64_t columns, float* out) {
    if (type == "F32") {
        std::memcpy(out, row, size_t(columns) * 4);
        return;
    }
    const bool is_bf16 = type == "BF16";
    for (int64_t i = 0; i < columns; ++i) {
        uint16_t half;
        std::memcpy(&half, row + i * 2, 2);
        out[i] = is_bf16 ? bf16_to_f32(half) : f16_to_f32(half);
    }
}

PackedMatrix pack_floats(const std::string& type, const uint8_t* data, int64_t rows, int64_t row_bytes,
                         int64_t columns, bool keep_f32, std::shared_ptr<Arena> memory) {
    PackedMatrix out;
    out.memory = std::move(memory);
    out.view = shape_of(keep_f32 ? Format::f32 : Format::bf16, rows, columns);
    if (row_bytes != columns * (type == "F32" ? 4 : 2))
        throw std::invalid_argument("rows of floats do not have the bytes that their columns ask for");
    const int64_t width = keep_f32 ? columns : even(columns), size = keep_f32 ? 4 : 2;
    uint8_t* panels = allocate(out, PANEL * width * size);
    std::vector<float> values(static_cast<size_t>(columns));
    for (int64_t row = 0; row < rows; ++row) {
        decode_row(type, data + row * row_bytes, columns, values.data());
        uint8_t* panel = panels + row / PANEL * out.view.panel_bytes;
        const int64_t lane = row % PANEL;
        if (keep_f32) {
            float* to = reinterpret_cast<float*>(panel) + lane;
            for (int64_t i = 0; i < columns; ++i) to[i * PANEL] = values[size_t(i)];
        } else {
            uint16_t* to = halves_at(panel, 0) + lane * 2;
            for (int64_t i = 0; i < columns; ++i) to[i / 2 * 2 * PANEL + i % 2] = f32_to_bf16(values[size_t(i)]);
        }
    }
    return out;
}

}  // namespace

PackedMatrix pack(const std::string& type, const uint8_t* data, int64_t rows, int64_t row_bytes, int64_t columns,
                  bool keep_f32, std::shared_ptr<Arena> memory) {
    if (type == "Q4_0") return pack_blocks(Format::q4, false, data, rows, row_bytes, columns, std::move(memory));
    if (type == "Q4_1") return pack_blocks(Format::q4, true, data, rows, row_bytes, columns, std::move(memory));
    if (type == "Q8_0") return pack_blocks(Format::q8, false, data, rows, row_bytes, columns, std::move(memory));
    if (type == "F32" || type == "F16" || type == "BF16")
        return pack_floats(type, data, rows, row_bytes, columns, keep_f32, std::move(memory));
    throw std::invalid_argument("cannot pack tensors of type " + type);
}

PackedMatrix pack_q8(const float* data, int64_t rows, int64_t columns, std::shared_ptr<Arena> memory) {
    PackedMatrix out;
    out.memory = std::move(memory);
    out.view = shape_of(Format::q8, rows, columns);
    const Matrix& view = out.view;
    uint8_t* panels = allocate_blocks(out, 512, false);
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t b = 0; b < view.blocks; ++b) {
            uint8_t* panel = panels + row / PANEL * view.panel_bytes;
            const int64_t count = std::min<int64_t>(BLOCK, columns - b * BLOCK);
            const float* from = data + row * columns + b * BLOCK;
            float most = 0;
            bool finite = true;
            for (int64_t i = 0; i < count; ++i) {
                most = std::max(most, std::fabs(from[i]));
                finite &= std::isfinite(from[i]);
            }
            // What is not finite makes the scale, and with it the output, not a number
            const uint16_t scale = finite ? f32_to_f16(most / 127.0f) : 0x7e00;
            const float stored = f16_to_f32(scale);
            int8_t values[BLOCK] = {};
            for (int64_t i = 0; i < count && stored > 0 && stored < INFINITY; ++i)
                values[i] = int8_t(std::lrint(std::fmin(std::fmax(from[i] / stored, -127.0f), 127.0f)));
            halves_at(panel, view.scales_of(b))[row % PANEL] = scale;
            put_q8(panel + view.block_at(b), row % PANEL, values);
        }
    return out;
}

std::array<PackedMatrix, 2> interleave(const PackedMatrix& a, const PackedMatrix& b, std::shared_ptr<Arena> memory) {
    if (a.view.n != b.view.n) throw std::invalid_argument("matrices that take turns must have as many outputs");
    const std::array<const PackedMatrix*, 2> from{&a, &b};
    std::array<PackedMatrix, 2> out;
    const int64_t pairs = ceil_div(a.view.panels, 2), step = 2 * (a.view.panel_bytes + b.view.panel_bytes);
    uint8_t* data = memory->take(size_t(pairs * step));
    for (size_t i = 0; i < 2; ++i) {
        out[i].memory = memory;
        out[i].view = from[i]->view;
        out[i].view.data = data;
        out[i].view.panels_step = step;
        for (int64_t panel = 0; panel < out[i].view.panels; ++panel)
            std::memcpy(data + panel / 2 * step + panel % 2 * out[i].view.panel_bytes, from[i]->view.panel(panel),
                        size_t(out[i].view.panel_bytes));
        if (from[i]->view.bias) set_bias(out[i], from[i]->view.bias);
        data += 2 * out[i].view.panel_bytes;
    }
    return out;
}

void set_bias(PackedMatrix& matrix, const float* bias) {
    matrix.bias = Buffer(size_t(matrix.view.panels * PANEL) * sizeof(float));
    std::memcpy(matrix.bias.as<float>(), bias, size_t(matrix.view.n) * sizeof(float));
    matrix.view.bias = matrix.bias.as<float>();
}

}  // namespace ramet
