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

// Up to QUANTIZE_BLOCKS blocks, in stretches: what is done per block with vectors, what is done per scale with loops
// over blocks that the compiler turns into vectors.
constexpr int QUANTIZE_BLOCKS = 64;

RAMET_INLINE void load_block(const float* x, int64_t first, int64_t k, F32& low, F32& high) {
    const int64_t count = k - first;
    if (count >= BLOCK) {
        low = load(x + first);
        high = load(x + first + LANES);
    } else {
        low = load_first(x + first, count < LANES ? int(count) : LANES);
        high = count > LANES ? load_first(x + first + LANES, int(count) - LANES) : zero();
    }
}

static void quantize_blocks(const float* x, int64_t row, const Inputs& to, int64_t begin, int count) {
    alignas(64) float most[QUANTIZE_BLOCKS], factor[QUANTIZE_BLOCKS];
    alignas(64) int32_t total[QUANTIZE_BLOCKS];
    F32 low, high;
    for (int b = 0; b < count; ++b) {
        load_block(x, (begin + b) * BLOCK, to.k, low, high);
        most[b] = largest_magnitude(low, high);
    }
    float* scales = to.scales + row * to.blocks + begin;
    for (int b = 0; b < count; ++b) {
        // Of blocks so small that 127 / most overflows nothing is left; what is not finite ends up in the scale,
        // and so in every output
        const float inverse = 127.0f / most[b];
        const bool usable = inverse < INFINITY && most[b] < INFINITY;
        factor[b] = usable ? inverse : 0.0f;
        scales[b] = usable ? most[b] * (1.0f / 127.0f) : most[b] < 1.0f ? 0.0f : NAN;
    }
    int8_t* bytes = to.bytes + (row * to.blocks + begin) * BLOCK;
    for (int b = 0; b < count; ++b) {
        total[b] = 0;
        if (factor[b] > 0) {
            load_block(x, (begin + b) * BLOCK, to.k, low, high);
            total[b] = store_int8(bytes + b * BLOCK, low * set1(factor[b]), high * set1(factor[b]));
        } else {  // all zeros, or not numbers: the scale tells
            std::memset(bytes + b * BLOCK, 0, BLOCK);
        }
    }
    int32_t* offsets4 = to.offsets4 + row * to.blocks + begin;
    int32_t* offsets8 = to.offsets8 + row * to.blocks + begin;
    uint16_t* sums = to.sums + row * even(to.blocks) + begin;
    for (int b = 0; b < count; ++b) {
        offsets4[b] = -8 * total[b];
        offsets8[b] = -SIGNED_OFFSET * total[b];
        most[b] = scales[b] * float(total[b]);
    }
    for (int b = 0; b < count; ++b) sums[b] = f32_to_bf16(most[b]);
}

static void quantize(const float* x, int64_t row, const Inputs& to) {
    for (int64_t b = 0; b < to.blocks; b += QUANTIZE_BLOCKS)
        quantize_blocks(x, row, to, b, to.blocks - b < QUANTIZE_BLOCKS ? int(to.blocks - b) : QUANTIZE_BLOCKS);
    if (to.blocks & 1) to.sums[row * even(to.blocks) + to.blocks] = 0;
}

// A row of float32 in every form that `to` has room for.
static void convert(const float* x, int64_t row, const Inputs& to) {
    if (to.bytes) quantize(x, row, to);
    if (to.bf16) {
        uint16_t* out = to.bf16 + row * even(to.k);
        int64_t i = 0;
        for (; i + LANES <= to.k; i += LANES) store_bf16(out + i, load(x + i));
        for (; i < to.k; ++i) out[i] = f32_to_bf16(x[i]);
        if (to.k & 1) out[to.k] = 0;
    }
    if (to.f32) std::memcpy(to.f32 + row * to.k, x, size_t(to.k) * sizeof(float));
}

// silu(gate) * up
static void silu_multiply(const float* gate, const float* up, int64_t n, float* out) {
    // Bounded, so that 1 + exp(-gate) stays finite and has a reciprocal
    const F32 log2e = set1(1.4426950408889634f), least = set1(-126.0f), one = set1(1.0f);
    auto gated = [&](F32 g, F32 u) { return g * reciprocal(one + exp2(zero() - max(least, g * log2e))) * u; };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, gated(load(gate + i), load(up + i)));
    if (i < n) {
        const int count = int(n - i);
        store_first(out + i, gated(load_first(gate + i, count), load_first(up + i, count)), count);
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
        load_block(value, i, dim, low, high);
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
