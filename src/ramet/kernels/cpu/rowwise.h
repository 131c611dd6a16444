// What is done to each row on its own: norms, activations, quantization, rotation, embedding. Included by isa.cpp.
#pragma once

#include "simd.h"
#include "types.h"

namespace ramet {
namespace RAMET_ISA {

// x / sqrt(mean(x^2) + eps) * weight
static void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    F32 squares = zero();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
    if (i < n) {
        F32 rest = load_first(x + i, int(n - i));
        squares = fma(rest, rest, squares);
    }
    F32 scale = set1(1.0f / std::sqrt(sum(squares) / float(n) + eps));
    for (i = 0; i + LANES <= n; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
    if (i < n) {
        int count = int(n - i);
        store_first(out + i, load_first(x + i, count) * scale * load_first(weight + i, count), count);
    }
}

static void quantize(const float* x, int64_t row, const Inputs& to) {
    int8_t* bytes = to.bytes + row * to.blocks * BLOCK;
    uint16_t* sums = to.sums + row * even(to.blocks);
    for (int64_t b = 0; b < to.blocks; ++b) {
        int64_t first = b * BLOCK, count = to.k - first;
        F32 low = load_first(x + first, count < LANES ? int(count) : LANES);
        F32 high = count > LANES ? load_first(x + first + LANES, int(count) - LANES) : zero();
        float most = largest_magnitude(low, high);
        // Infinities and not-a-number end up in the scale, and so in every output
        float scale = most * (1.0f / 127.0f), inverse = most > 0 && most < INFINITY ? 127.0f / most : 0.0f;
        if (inverse == INFINITY) scale = inverse = 0.0f;  // denormal inputs: nothing of them would be left
        if (!(most < INFINITY)) scale = NAN;
        F32 factor = set1(inverse);
        int32_t total = store_int8(bytes + first, low * factor, high * factor);
        to.scales[row * to.blocks + b] = scale;
        to.offsets4[row * to.blocks + b] = -8 * total;
        to.offsets8[row * to.blocks + b] = -SIGNED_OFFSET * total;
        sums[b] = f32_to_bf16(scale * float(total));
    }
    if (to.blocks & 1) sums[to.blocks] = 0;
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
    const F32 minus_log2e = set1(-1.4426950408889634f), one = set1(1.0f);
    for (int64_t i = 0; i < n; i += LANES) {
        int count = n - i < LANES ? int(n - i) : LANES;
        F32 g = load_first(gate + i, count), u = load_first(up + i, count);
        store_first(out + i, g / (one + exp2(g * minus_log2e)) * u, count);
    }
}

// Row `id` of a packed matrix, in float32.
static void embed(const Matrix& w, int64_t id, float* out) {
    int64_t panel = id / PANEL, lane = id % PANEL;
    switch (w.format) {
        case Format::q4:
        case Format::q8:
            for (int64_t b = 0; b < w.blocks; ++b) {
                int64_t at = panel * w.blocks + b;
                float scale = f16_to_f32(w.scales[at * PANEL + lane]), minimum = 0;
                if (w.minima) {
                    int64_t pairs = even(w.blocks) / 2;
                    minimum = bf16_to_f32(w.minima[((panel * pairs + b / 2) * PANEL + lane) * 2 + b % 2]);
                }
                for (int64_t i = 0; i < BLOCK && b * BLOCK + i < w.k; ++i) {
                    int value;
                    if (w.format == Format::q4) {
                        uint8_t both = w.weights[at * 256 + i / 8 * 64 + lane * 4 + i % 4];
                        value = (i / 4 % 2 ? both >> 4 : both & 15) - 8;
                    } else {
                        value = static_cast<int8_t>(w.weights[at * 512 + i / 4 * 64 + lane * 4 + i % 4]);
                    }
                    out[b * BLOCK + i] = scale * float(value) + minimum;
                }
            }
            break;
        case Format::bf16: {
            auto* values = reinterpret_cast<const uint16_t*>(w.weights) + panel * even(w.k) * PANEL;
            for (int64_t i = 0; i < w.k; ++i) out[i] = bf16_to_f32(values[i / 2 * 2 * PANEL + lane * 2 + i % 2]);
            break;
        }
        case Format::f32: {
            auto* values = reinterpret_cast<const float*>(w.weights) + panel * w.k * PANEL;
            for (int64_t i = 0; i < w.k; ++i) out[i] = values[i * PANEL + lane];
            break;
        }
    }
}

// Rotates the pairs (x[i], x[i + half]) and scales; out may be x.
RAMET_INLINE void rotate(const float* x, const float* cos, const float* sin, int64_t half, float scale, float* out) {
    F32 factor = set1(scale);
    for (int64_t i = 0; i < half; i += LANES) {
        int count = half - i < LANES ? int(half - i) : LANES;
        F32 first = load_first(x + i, count), second = load_first(x + half + i, count);
        F32 c = load_first(cos + i, count), s = load_first(sin + i, count);
        store_first(out + i, (first * c - second * s) * factor, count);
        store_first(out + half + i, (second * c + first * s) * factor, count);
    }
}

static void rope(const RopeShape& shape, const float* qkv, const float* cos_sin, int64_t row, int64_t slot,
                 void* queries, const KVLayer& kv, float* scratch) {
    const int64_t dim = shape.head_dim, half = dim / 2, stride = shape.stride;
    const int64_t group = shape.num_heads / shape.num_kv_heads;
    const float *cos = cos_sin, *sin = cos_sin + half;
    auto put = [&](void* to, int64_t at, const float* from, bool is_f32) {
        if (is_f32) {
            std::memcpy(static_cast<float*>(to) + at, from, size_t(stride) * sizeof(float));
        } else {
            for (int64_t i = 0; i < stride; i += LANES) store_bf16(static_cast<uint16_t*>(to) + at + i, load(from + i));
        }
    };
    for (int64_t i = 0; i < stride; ++i) scratch[i] = 0.0f;  // the padding behind head_dim stays zero
    for (int64_t head = 0; head < shape.num_heads; ++head) {
        const float* from = qkv + head * dim;
        if (shape.query_norm) {
            rms_norm(from, shape.query_norm, dim, shape.eps, scratch);
            from = scratch;
        }
        rotate(from, cos, sin, half, shape.query_scale, scratch);
        int64_t at = ((head / group * shape.num_rows + row) * group + head % group) * stride;
        put(queries, at, scratch, shape.f32);
    }
    const float* keys = qkv + shape.num_heads * dim;
    const float* values = keys + shape.num_kv_heads * dim;
    for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        const float* from = keys + head * dim;
        if (shape.key_norm) {
            rms_norm(from, shape.key_norm, dim, shape.eps, scratch);
            from = scratch;
        }
        rotate(from, cos, sin, half, 1.0f, scratch);
        int64_t at = (head * kv.num_slots + slot) * 2 * stride;
        put(kv.data, at, scratch, kv.is_f32);
        std::memcpy(scratch, values + head * dim, size_t(dim) * sizeof(float));
        put(kv.data, at + stride, scratch, kv.is_f32);
    }
}

}  // namespace RAMET_ISA
}  // namespace ramet
