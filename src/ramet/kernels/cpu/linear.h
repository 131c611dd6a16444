// Matrix products with packed weights. Included by isa.cpp.
//
// Every output element is summed in one order: by blocks of inputs, then the minima, then bias and the old
// value. Tiles of different shapes only do that for more or fewer elements at a time, so a row gets the same
// bits alone and among thousands.
#pragma once

#include "simd.h"
#include "types.h"

namespace ramet {
namespace RAMET_ISA {

#if defined(RAMET_SIMD_AVX512)
constexpr int QUANT_ROWS = 6, FLOAT_ROWS = 12, TILE_PANELS = 2;
#elif defined(RAMET_SIMD_AVX2)
constexpr int QUANT_ROWS = 3, FLOAT_ROWS = 4, TILE_PANELS = 1;
#else
constexpr int QUANT_ROWS = 2, FLOAT_ROWS = 2, TILE_PANELS = 1;
#endif

// Weights come from memory. Tiles ask for them ahead, a block's worth at a time, so that the memory is always busy.
class Prefetcher {
public:
    // Weights that are read once are asked for LEAD bytes before they are multiplied: a processor fetches most of such
    // a stream by itself. Those that are read in several passes were asked for by the task before, and all passes ask
    // for what comes next.
    Prefetcher(ByteRange own, ByteRange next, int64_t num_passes, int64_t num_blocks) {
        const int64_t lead = num_passes == 1 ? LEAD : MOST, ahead = next.bytes < lead ? next.bytes : lead;
        at_ = num_passes == 1 && own.bytes > lead ? own.data + lead : own.data + own.bytes;
        end_ = own.data + own.bytes;
        next_ = next.data;
        next_end_ = next.data + ahead;
        rate_ = (end_ - at_ + ahead + num_passes * num_blocks - 1) / (num_passes * num_blocks);
    }
    void block() {
#pragma GCC unroll 1  // one instruction that walks through memory is what processors look for
        for (due_ += rate_; due_ > 0; due_ -= 64, at_ += 64) {
            if (at_ >= end_) {
                at_ = next_;
                end_ = next_ = next_end_;
                if (at_ >= end_) return;
            }
            __builtin_prefetch(at_, 0, 3);
        }
    }

private:
    static constexpr int64_t LEAD = 512;
    static constexpr int64_t MOST = 256 << 10;  // a part of a core's cache
    const uint8_t *at_, *end_, *next_, *next_end_;
    int64_t rate_, due_ = 0;
};

// ---- where a tile's 8-bit weights come from: groups of 2 x 4 inputs, unpacked on the way into registers, which
// ---- the vector units do beside the products; and the scale of a block

struct Q4 {
    static constexpr bool is_signed = false;
    static constexpr int64_t block_bytes = 256;
    RAMET_INLINE void pair(const uint8_t* block, int g, Bytes& low, Bytes& high) {
        Bytes both = load_bytes(block + g * 64);
        low = low_nibbles(both);
        high = high_nibbles(both);
    }
};

struct Q8 {
    static constexpr bool is_signed = true;
    static constexpr int64_t block_bytes = 512;
    RAMET_INLINE void pair(const uint8_t* block, int g, Bytes& low, Bytes& high) {
        low = signed_weights(load_bytes(block + g * 128));
        high = signed_weights(load_bytes(block + g * 128 + 64));
    }
};

RAMET_INLINE void finish(F32 value, const Matrix& w, int64_t panel, float* out, bool accumulate) {
    int64_t first = panel * PANEL, count = w.n - first;
    if (w.bias) value = value + load(w.bias + first);
    if (count >= PANEL) {
        store(out, accumulate ? load(out) + value : value);
    } else {
        store_first(out, accumulate ? load_first(out, int(count)) + value : value, int(count));
    }
}

template <int R, int C, class Source>
static inline __attribute__((always_inline)) void quant_tile(const Matrix& w, const Inputs& x, int64_t row,
                                                             int64_t panel, Prefetcher& prefetch, float* out, int64_t ld,
                                                             bool accumulate) {
    const int64_t blocks = w.blocks, width = blocks * BLOCK;
    const int8_t* bytes = x.bytes + row * width;
    const float* scales = x.scales + row * blocks;
    const int32_t* offsets = (Source::is_signed ? x.offsets8 : x.offsets4) + row * blocks;
    const uint8_t* pair[C];
    for (int c = 0; c < C; ++c) pair[c] = w.panel(panel + c);
    F32 acc[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) acc[r][c] = zero();
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t second = b % 2;  // of its pair
        I32 dot[R][C];
        for (int r = 0; r < R; ++r) {
            I32 first = Source::is_signed && SIGNED_OFFSET == 0 ? set1_int(0) : set1_int(offsets[r * blocks + b]);
            for (int c = 0; c < C; ++c) dot[r][c] = first;
        }
        prefetch.block();
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) {
            Bytes low[C], high[C];
            for (int c = 0; c < C; ++c) Source::pair(pair[c] + second * Source::block_bytes, g, low[c], high[c]);
            for (int r = 0; r < R; ++r) {
                const int8_t* from = bytes + r * width + b * BLOCK + g * 8;
                Bytes x_low = broadcast4(from), x_high = broadcast4(from + 4);
                for (int c = 0; c < C; ++c) {
                    if (Source::is_signed) {
                        dot[r][c] = dot4_signed(dot4_signed(dot[r][c], low[c], x_low), high[c], x_high);
                    } else {
                        dot[r][c] = dot4(dot4(dot[r][c], low[c], x_low), high[c], x_high);
                    }
                }
            }
        }
        F32 scale[C];
        for (int c = 0; c < C; ++c)
            scale[c] = load_f16(reinterpret_cast<const uint16_t*>(pair[c] + 2 * Source::block_bytes) + second * PANEL);
        for (int r = 0; r < R; ++r) {
            F32 x_scale = set1(scales[r * blocks + b]);
            for (int c = 0; c < C; ++c) acc[r][c] = fma(to_float(dot[r][c]), scale[c] * x_scale, acc[r][c]);
        }
        for (int c = 0; c < C; ++c) pair[c] += second * w.pair_bytes;
    }
    if (!Source::is_signed && w.minima_at) {
        for (int64_t b = 0; b < blocks; b += 2) {
            Bytes minimum[C];
            for (int c = 0; c < C; ++c) minimum[c] = load_bytes(w.panel(panel + c) + w.minima_of(b));
            for (int r = 0; r < R; ++r) {
                Bytes sum = broadcast4(x.sums + (row + r) * even(blocks) + b);
                for (int c = 0; c < C; ++c) acc[r][c] = dot2(acc[r][c], minimum[c], sum);
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) finish(acc[r][c], w, panel + c, out + (row + r) * ld + c * PANEL, accumulate);
}

template <bool IsF32>
constexpr int64_t STEPS_PER_BLOCK = IsF32 ? BLOCK : BLOCK / 2;

template <int R, int C, bool IsF32>
static inline __attribute__((always_inline)) void float_tile(const Matrix& w, const Inputs& x, int64_t row,
                                                             int64_t panel, Prefetcher& prefetch, float* out, int64_t ld,
                                                             bool accumulate) {
    const int64_t steps = IsF32 ? w.k : even(w.k) / 2;
    const uint8_t* weights = w.panel(panel);
    F32 acc[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) acc[r][c] = zero();
    const char* inputs = IsF32 ? reinterpret_cast<const char*>(x.f32) : reinterpret_cast<const char*>(x.bf16);
    inputs += row * steps * 4;
    for (int64_t i = 0; i < steps; ++i) {
        if (i % STEPS_PER_BLOCK<IsF32> == 0) prefetch.block();
        for (int r = 0; r < R; ++r) {
            const char* from = inputs + (r * steps + i) * 4;
            for (int c = 0; c < C; ++c) {
                const uint8_t* at = weights + c * w.panel_bytes + i * 64;
                if (IsF32) {
                    float value;
                    std::memcpy(&value, from, 4);
                    acc[r][c] = fma(load(reinterpret_cast<const float*>(at)), set1(value), acc[r][c]);
                } else {
                    acc[r][c] = dot2(acc[r][c], load_bytes(at), broadcast4(from));
                }
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) finish(acc[r][c], w, panel + c, out + (row + r) * ld + c * PANEL, accumulate);
}

// ---- all rows, in tiles of at most `Most` rows

template <int Most, class Tile>
RAMET_INLINE void by_tiles(int64_t num_rows, const Tile& tile) {
    int64_t row = 0;
    for (; row + Most <= num_rows; row += Most) tile.template run<Most>(row);
    switch (num_rows - row) {
        case 11: if constexpr (Most > 11) tile.template run<11>(row); break;
        case 10: if constexpr (Most > 10) tile.template run<10>(row); break;
        case 9: if constexpr (Most > 9) tile.template run<9>(row); break;
        case 8: if constexpr (Most > 8) tile.template run<8>(row); break;
        case 7: if constexpr (Most > 7) tile.template run<7>(row); break;
        case 6: if constexpr (Most > 6) tile.template run<6>(row); break;
        case 5: if constexpr (Most > 5) tile.template run<5>(row); break;
        case 4: if constexpr (Most > 4) tile.template run<4>(row); break;
        case 3: if constexpr (Most > 3) tile.template run<3>(row); break;
        case 2: if constexpr (Most > 2) tile.template run<2>(row); break;
        case 1: if constexpr (Most > 1) tile.template run<1>(row); break;
        default: break;
    }
}

template <int C, class Source>
struct QuantTile {
    const Matrix& w;
    const Inputs& x;
    int64_t panel;
    Prefetcher& prefetch;
    float* out;
    int64_t ld;
    bool accumulate;
    template <int R>
    void run(int64_t row) const {
        quant_tile<R, C, Source>(w, x, row, panel, prefetch, out, ld, accumulate);
    }
};

template <int C, bool IsF32>
struct FloatTile {
    const Matrix& w;
    const Inputs& x;
    int64_t panel;
    Prefetcher& prefetch;
    float* out;
    int64_t ld;
    bool accumulate;
    template <int R>
    void run(int64_t row) const {
        float_tile<R, C, IsF32>(w, x, row, panel, prefetch, out, ld, accumulate);
    }
};

template <int C>
static void product(const Matrix& w, const Inputs& x, int64_t num_rows, int64_t panel, Prefetcher& prefetch, float* out,
                    int64_t ld, bool accumulate) {
    switch (w.format) {
        case Format::q4:
            by_tiles<QUANT_ROWS>(num_rows, QuantTile<C, Q4>{w, x, panel, prefetch, out, ld, accumulate});
            break;
        case Format::q8:
            by_tiles<QUANT_ROWS>(num_rows, QuantTile<C, Q8>{w, x, panel, prefetch, out, ld, accumulate});
            break;
        case Format::bf16:
            by_tiles<FLOAT_ROWS>(num_rows, FloatTile<C, false>{w, x, panel, prefetch, out, ld, accumulate});
            break;
        case Format::f32:
            by_tiles<FLOAT_ROWS>(num_rows, FloatTile<C, true>{w, x, panel, prefetch, out, ld, accumulate});
            break;
    }
}

static void matmul(const Matrix& w, const Inputs& x, int64_t num_rows, int64_t panel, int count, ByteRange next,
                   float* out, int64_t ld, bool accumulate) {
    if (num_rows == 0) return;
    const bool quantized = w.format == Format::q4 || w.format == Format::q8;
    const int64_t tile_rows = quantized ? QUANT_ROWS : FLOAT_ROWS, passes = (num_rows + tile_rows - 1) / tile_rows;
    // Panels that are read once are one stream if they are read one after the other
    const bool together = TILE_PANELS == 2 && count == 2 && passes > 1;
    Prefetcher prefetch({w.panel(panel), count * w.panel_bytes}, next, passes, w.blocks * (together ? 1 : count));
    if (together) {
        product<TILE_PANELS>(w, x, num_rows, panel, prefetch, out, ld, accumulate);
        return;
    }
    for (int c = 0; c < count; ++c) product<1>(w, x, num_rows, panel + c, prefetch, out + c * PANEL, ld, accumulate);
}

}  // namespace RAMET_ISA
}  // namespace ramet
