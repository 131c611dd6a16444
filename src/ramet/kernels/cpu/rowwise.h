// What is done to each row on its own: norms, activations, quantization, rotation, embedding. Included by isa.cpp.
#pragma once

#include "simd.h"
#include "types.h"

namespace ramet {
namespace RAMET_ISA {

// x / sqrt(mean(x^2) + eps) * weight
static void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    F32 squares[4] = {zero(), zero(), zero(), zero()};  // so that additions do not wait for each other
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; ++j) {
            F32 part = load(x + i + j * LANES);
            squares[j] = fma(part, part, squares[j]);
        }
    for (; i < n; i += LANES) {
        F32 rest = load_first(x + i, n - i < LANES ? int(n - i) : LANES);
        squares[0] = fma(rest, rest, squares[0]);
    }
    const float mean = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / float(n);
    F32 scale = set1(1.0f / std::sqrt(mean + eps));
    for (i = 0; i + LANES <= n; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
    if (i < n) {
        int count = int(n - i);
        store_first(out + i, load_first(x + i, count) * scale * load_first(weight + i, count), count);
    }
}

// Up to QUANTIZE_BLOCKS blocks at a time: what is done per block with vectors, what is done per scale with loops over
// blocks that the compiler turns into vectors.
constexpr int QUANTIZE_BLOCKS = 64;

// 32 inputs, of which `count` are there; the rest are 0.
RAMET_INLINE void load_block(const float* x, int64_t count, F32& low, F32& high) {
    if (count >= BLOCK) {
        low = load(x);
        high = load(x + LANES);
    } else {
        low = load_first(x, count < LANES ? int(count) : LANES);
        high = count > LANES ? load_first(x + LANES, int(count) - LANES) : zero();
    }
}

// Where blocks come from and go to: neighbours in a row, or the same block of neighbouring rows.
template <bool InRow>
struct Blocks {
    const float* x;
    int64_t x_step;      // from block to block
    int64_t row, first;  // of the first
    const Inputs& to;

    int64_t count(int i) const { return to.k - (first + (InRow ? i : 0)) * BLOCK; }
    int64_t at(int i) const { return row * to.blocks + first + i * (InRow ? 1 : to.blocks); }
    int64_t sum_at(int i) const { return row * even(to.blocks) + first + i * (InRow ? 1 : even(to.blocks)); }
};

template <bool InRow>
static void quantize_blocks(const Blocks<InRow>& blocks, int count) {
    alignas(64) float most[QUANTIZE_BLOCKS], factor[QUANTIZE_BLOCKS], scale[QUANTIZE_BLOCKS];
    alignas(64) int32_t total[QUANTIZE_BLOCKS];
    const Inputs& to = blocks.to;
    F32 low, high;
    for (int b = 0; b < count; ++b) {
        load_block(blocks.x + b * blocks.x_step, blocks.count(b), low, high);
        most[b] = largest_magnitude(low, high);
    }
    for (int b = 0; b < count; ++b) {
        // Of blocks so small that 127 / most overflows nothing is left; what is not finite ends up in the scale,
        // and so in every output
        const float inverse = 127.0f / most[b];
        const bool usable = inverse < INFINITY && most[b] < INFINITY;
        factor[b] = usable ? inverse : 0.0f;
        scale[b] = usable ? most[b] * (1.0f / 127.0f) : most[b] < 1.0f ? 0.0f : NAN;
    }
    for (int b = 0; b < count; ++b) {
        int8_t* bytes = to.bytes + blocks.at(b) * BLOCK;
        total[b] = 0;
        if (factor[b] > 0) {
            load_block(blocks.x + b * blocks.x_step, blocks.count(b), low, high);
            total[b] = store_int8(bytes, low * set1(factor[b]), high * set1(factor[b]));
        } else {  // all zeros, or not numbers: the scale tells
            std::memset(bytes, 0, BLOCK);
        }
    }
    for (int b = 0; b < count; ++b) {
        to.scales[blocks.at(b)] = scale[b];
        to.offsets4[blocks.at(b)] = -8 * total[b];
        to.offsets8[blocks.at(b)] = -SIGNED_OFFSET * total[b];
        most[b] = scale[b] * float(total[b]);
    }
    for (int b = 0; b < count; ++b) to.sums[blocks.sum_at(b)] = f32_to_bf16(most[b]);
}

static void quantize(const float* x, int64_t row, const Inputs& to) {
    for (int64_t b = 0; b < to.blocks; b += QUANTIZE_BLOCKS)
        quantize_blocks<true>({x + b * BLOCK, BLOCK, row, b, to},
                              to.blocks - b < QUANTIZE_BLOCKS ? int(to.blocks - b) : QUANTIZE_BLOCKS);
    if (to.blocks & 1) to.sums[row * even(to.blocks) + to.blocks] = 0;
}

// `count` values of a row from `first` on, as bf16. The last of an odd row gets a zero beside it.
RAMET_INLINE void to_bf16(const float* x, int64_t row, int64_t first, int64_t count, const Inputs& to) {
    uint16_t* out = to.bf16 + row * even(to.k) + first;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store_bf16(out + i, load(x + i));
    for (; i < count; ++i) out[i] = f32_to_bf16(x[i]);
    if (first + count == to.k && to.k & 1) out[count] = 0;
}

// A row of float32 in every form that `to` has room for.
static void convert(const float* x, int64_t row, const Inputs& to) {
    if (to.bytes) quantize(x, row, to);
    if (to.bf16) to_bf16(x, row, 0, to.k, to);
    if (to.f32) std::memcpy(to.f32 + row * to.k, x, size_t(to.k) * sizeof(float));
}

// silu(gate) * up of one block of inputs for each row, in every form that `to` has room for: 32 gates of `tile`
// [num_rows][2][BLOCK] become what they let through.
static void silu_multiply(float* tile, int64_t num_rows, int64_t block, const Inputs& to) {
    // Bounded, so that 1 + exp(-gate) stays finite and has a reciprocal
    const F32 log2e = set1(1.4426950408889634f), least = set1(-126.0f), one = set1(1.0f);
    const int64_t left = to.k - block * BLOCK, count = left < BLOCK ? left : BLOCK;
    for (int64_t row = 0; row < num_rows; ++row)
        for (int64_t i = 0; i < BLOCK; i += LANES) {  // what is behind the last input is whatever was there
            float* at = tile + row * 2 * BLOCK + i;
            const F32 g = load(at), u = load(at + BLOCK);
            store(at, g * reciprocal(one + exp2(zero() - max(least, g * log2e))) * u);
        }
    for (int64_t row = 0; row < num_rows; row += QUANTIZE_BLOCKS) {
        if (!to.bytes) break;
        const int64_t some = num_rows - row < QUANTIZE_BLOCKS ? num_rows - row : QUANTIZE_BLOCKS;
        quantize_blocks<false>({tile + row * 2 * BLOCK, 2 * BLOCK, row, block, to}, int(some));
    }
    const bool ends_odd = block + 1 == to.blocks && to.blocks & 1;
    for (int64_t row = 0; row < num_rows; ++row) {
        const float* from = tile + row * 2 * BLOCK;
        if (to.bytes && ends_odd) to.sums[row * even(to.blocks) + to.blocks] = 0;
        if (to.bf16) to_bf16(from, row, block * BLOCK, count, to);
        if (to.f32) std::memcpy(to.f32 + row * to.k + block * BLOCK, from, size_t(count) * sizeof(float));
    }
}

// Row `id` of a packed matrix, in float32.
static void embed(const Matrix& w, int64_t id, float* out) {
    const uint8_t* panel = w.panel(id / PANEL);
    const int64_t lane = id % PANEL;
    auto half = [&](int64_t at, int64_t index) { return reinterpret_cast<const uint16_t*>(panel + at)[index]; };
    switch (w.format) {
        case Format::q4:
        case Format::q8:
            for (int64_t b = 0; b < w.blocks; ++b) {
                const uint8_t* block = panel + w.block_at(b);
                float scale = f16_to_f32(half(w.scales_of(b), lane));
                float minimum = w.minima_at ? bf16_to_f32(half(w.minima_of(b), lane * 2)) : 0;
                for (int64_t i = 0; i < BLOCK && b * BLOCK + i < w.k; ++i) {
                    int value;
                    if (w.format == Format::q4) {
                        uint8_t both = block[i / 8 * 64 + lane * 4 + i % 4];
                        value = (i / 4 % 2 ? both >> 4 : both & 15) - 8;
                    } else {
                        value = static_cast<int8_t>(block[i / 4 * 64 + lane * 4 + i % 4]);
                    }
                    out[b * BLOCK + i] = scale * float(value) + minimum;
                }
            }
            break;
        case Format::bf16: {
            auto* values = reinterpret_cast<const uint16_t*>(panel);
            for (int64_t i = 0; i < w.k; ++i) out[i] = bf16_to_f32(values[i / 2 * 2 * PANEL + lane * 2 + i % 2]);
            break;
        }
        case Format::f32: {
            auto* values = reinterpret_cast<const float*>(panel);
            for (int64_t i = 0; i < w.k; ++i) out[i] = values[i * PANEL + lane];
            break;
        }
    }
}

// Rotates the pairs (x[i], x[i + half]) and scales; out may be x.
RAMET_INLINE void rotate(const float* x, const float* cos, const float* sin, int64_t half, float scale, float* out) {
    const F32 factor = set1(scale);
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        F32 first = load(x + i), second = load(x + half + i), c = load(cos + i), s = load(sin + i);
        store(out + i, (first * c - second * s) * factor);
        store(out + half + i, (second * c + first * s) * factor);
    }
    if (i < half) {
        const int count = int(half - i);
        F32 first = load_first(x + i, count), second = load_first(x + half + i, count);
        F32 c = load_first(cos + i, count), s = load_first(sin + i, count);
        store_first(out + i, (first * c - second * s) * factor, count);
        store_first(out + half + i, (second * c + first * s) * factor, count);
    }
}

// `stride` numbers as elements of a pool or of queries.
RAMET_INLINE void put(const float* from, int64_t stride, bool is_f32, void* to, int64_t at) {
    if (is_f32) {
        std::memcpy(static_cast<float*>(to) + at, from, size_t(stride) * sizeof(float));
    } else {
        for (int64_t i = 0; i < stride; i += LANES) store_bf16(static_cast<uint16_t*>(to) + at + i, load(from + i));
    }
}

constexpr float LARGEST_BF16 = 3.38e38f;

static void write_kv(const float* key, const float* value, int64_t dim, const KVLayer& kv, int64_t head, int64_t slot,
                     float* scratch) {
    // A value that is not finite would reach, as 0 times infinity, rows before it that share its chunk. Its key speaks
    // for it instead: rows that may see it become not-a-number, and the others never look.
    bool poisoned = false;
    for (int64_t i = 0; i < dim; i += BLOCK) {
        F32 low, high;
        load_block(value + i, dim - i, low, high);
        poisoned |= !(largest_magnitude(low, high) < LARGEST_BF16);
    }
    char* const record = kv.record(head, slot);
    auto write = [&](const float* from, float if_poisoned, int64_t at) {
        if (poisoned || dim < kv.stride) {
            for (int64_t i = 0; i < kv.stride; ++i) scratch[i] = i >= dim ? 0.0f : poisoned ? if_poisoned : from[i];
            from = scratch;
        }
        put(from, kv.stride, kv.is_f32, record, at);
    };
    write(key, NAN, 0);
    write(value, 0.0f, kv.stride);
}

static void rope(const RopeShape& shape, const float* qkv, const float* cos_sin, int64_t row, int64_t slot,
                 void* queries, const KVLayer& kv, float* scratch) {
    const int64_t dim = shape.head_dim, half = dim / 2, stride = shape.stride;
    const int64_t group = shape.num_heads / shape.num_kv_heads;
    const float *cos = cos_sin, *sin = cos_sin + half;
    for (int64_t head = 0; head < shape.num_kv_heads; ++head) {  // wanted from memory by the time the queries are done
        const char* record = kv.record(head, slot);
        for (int64_t byte = 0; byte < kv.record_bytes(); byte += 64) __builtin_prefetch(record + byte, 1, 3);
    }
    for (int64_t i = 0; i < stride; ++i) scratch[i] = 0.0f;  // the padding behind head_dim stays zero
    for (int64_t head = 0; head < shape.num_heads && row >= 0; ++head) {
        const float* from = qkv + head * dim;
        if (shape.query_norm) {
            rms_norm(from, shape.query_norm, dim, shape.eps, scratch);
            from = scratch;
        }
        rotate(from, cos, sin, half, shape.query_scale, scratch);
        int64_t at = ((head / group * shape.num_rows + row) * group + head % group) * stride;
        put(scratch, stride, shape.f32, queries, at);
    }
    const float* keys = qkv + shape.num_heads * dim;
    const float* values = keys + shape.num_kv_heads * dim;
    float* rotated = scratch + stride;
    for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        const float* from = keys + head * dim;
        if (shape.key_norm) {
            rms_norm(from, shape.key_norm, dim, shape.eps, rotated);
            from = rotated;
        }
        rotate(from, cos, sin, half, 1.0f, rotated);
        write_kv(rotated, values + head * dim, dim, kv, head, slot, scratch);
    }
}

}  // namespace RAMET_ISA
}  // namespace ramet
