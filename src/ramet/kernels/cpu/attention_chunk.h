// A chunk of an attention segment: how its numbers are multiplied, and how it is read and laid out.
#pragma once

#include "simd.h"
#include "types.h"

namespace ramet {
namespace RAMET_ISA {

constexpr int CHUNK_VECTORS = CHUNK / LANES;
alignas(64) static const float NO_RECORD[2 * 512] = {};  // stands behind the last of a chunk, in whole vectors
constexpr float NOTHING = -1e30f;  // the score of a key that may not be seen: finite, so that differences are

// ---- how numbers are multiplied: one float at a time, or pairs of bf16

struct FloatMath {
    static constexpr bool TURNS_IN_REGISTERS = false;
    using Element = float;
    static constexpr int PER_STEP = 1;  // elements along the sum that a multiplication takes
    RAMET_INLINE F32 multiply(F32 acc, const float* b, const float* a) { return fma(load(b), set1(*a), acc); }
    RAMET_INLINE F32 exponential(F32 x) { return exp2(x); }
    RAMET_INLINE void put(float* to, F32 x) { store(to, x); }
    RAMET_INLINE void put_two(float* to, int64_t step, F32 first, F32 second) { store(to, first), store(to + step, second); }
};

#if defined(RAMET_NATIVE_BF16)
struct PairMath {
    static constexpr bool TURNS_IN_REGISTERS = true;
    using Element = uint16_t;
    static constexpr int PER_STEP = 2;
    RAMET_INLINE F32 multiply(F32 acc, const uint16_t* b, const uint16_t* a) {
        return dot2(acc, load_bytes(b), broadcast4(a));
    }
    RAMET_INLINE F32 exponential(F32 x) { return exp2_rough(x); }
    RAMET_INLINE void put(uint16_t* to, F32 x) { store_bf16(to, x); }
    RAMET_INLINE void put_two(uint16_t* to, int64_t, F32 first, F32 second) { store_bf16_pairs(to, first, second); }
};
#endif

// The records of the chunk after the one at work, asked for a few at a time: all at once would fill the queues to
// memory and then leave it idle.
struct Ahead {
    KVLayer kv;
    int64_t head;
    const int32_t* slots;
    int left;

    // Into the second cache: the first has no room beside the chunk at work and what is made of it.
    void ask(int count) {
        for (; count > 0 && left > 0; --count, --left, ++slots) {
            const char* record = kv.record(head, *slots);
#pragma GCC unroll 1  // one instruction that walks through memory is what processors look for
            for (int64_t byte = 0; byte < kv.record_bytes(); byte += 64) __builtin_prefetch(record + byte, 0, 2);
        }
    }
};

// Calls each(Vectors<V>{}) with the V vectors that the keys up to `last` of a chunk take.
template <int V>
struct Vectors {
    static constexpr int count = V;
};

template <class Do>
RAMET_INLINE void for_vectors(int last, const Do& each) {
    switch (last / LANES) {
        case 0: each(Vectors<1>{}); break;
        case 1: each(Vectors<2>{}); break;
        case 2: each(Vectors<3>{}); break;
        default: each(Vectors<CHUNK_VECTORS>{});
    }
}

// ---- laying out a chunk: keys one by one, or in columns, [stride / PER_STEP][CHUNK][PER_STEP]; values as
// ---- [CHUNK / PER_STEP][stride][PER_STEP]. Of `rows` there are whole vectors.

template <class Math>
struct ChunkLayout;

template <>
struct ChunkLayout<FloatMath> {
    // Whether keys can be multiplied as they lie in the pool.
    static bool as_they_lie(bool is_f32) { return is_f32; }
    static void key(const void* row, int64_t stride, bool is_f32, float* out) {
        for (int64_t d = 0; d < stride; d += LANES)
            store(out + d, is_f32 ? load(static_cast<const float*>(row) + d)
                                  : load_bf16(static_cast<const uint16_t*>(row) + d));
    }
    static void key_columns(const void* const* rows, int count, int64_t stride, bool is_f32, float* out) {
        const int64_t elements_per_word = is_f32 ? 1 : 2;
        for (int first = 0; first < count; first += LANES) {
            for (int64_t d = 0; d < stride; d += LANES * elements_per_word) {
                const void* in[LANES];
                for (int i = 0; i < LANES; ++i)
                    in[i] = static_cast<const char*>(rows[first + i]) + d / elements_per_word * 4;
                if (is_f32) {
                    transpose16(in, out + d * CHUNK + first, CHUNK * int64_t(sizeof(float)));
                    continue;
                }
                alignas(64) uint32_t pairs[LANES * LANES];
                transpose16(in, pairs, LANES * 4);
                for (int i = 0; i < LANES; ++i) {
                    Bytes pair = load_bytes(pairs + i * LANES);
                    store(out + (d + 2 * i) * CHUNK + first, low_bf16(pair));
                    store(out + (d + 2 * i + 1) * CHUNK + first, high_bf16(pair));
                }
            }
        }
    }
    static void values(const void* const* rows, int count, int64_t stride, bool is_f32, float* out) {
        for (int i = 0; i < count; ++i) {
            for (int64_t d = 0; d < stride; d += LANES) {
                // A value stands `stride` elements behind its key
                F32 value = is_f32 ? load(static_cast<const float*>(rows[i]) + stride + d)
                                   : load_bf16(static_cast<const uint16_t*>(rows[i]) + stride + d);
                store(out + i * stride + d, value);
            }
        }
    }
};

#if defined(RAMET_NATIVE_BF16)
template <>
struct ChunkLayout<PairMath> {
    static bool as_they_lie(bool) { return true; }
    static void key(const void* row, int64_t stride, bool, uint16_t* out) {
        std::memcpy(out, row, size_t(stride) * sizeof(uint16_t));
    }
    static void key_columns(const void* const* rows, int count, int64_t stride, bool, uint16_t* out) {
        for (int first = 0; first < count; first += LANES) {
            for (int64_t d = 0; d < stride; d += HEAD_ALIGN) {
                const void* in[LANES];
                for (int i = 0; i < LANES; ++i)
                    in[i] = static_cast<const uint16_t*>(rows[first + i]) + d;
                transpose16(in, out + d * CHUNK + first * 2, CHUNK * 4);
            }
        }
    }
    static void values(const void* const* rows, int count, int64_t stride, bool, uint16_t* out) {
        for (int i = 0; i < count; i += 2) {
            for (int64_t d = 0; d < stride; d += HEAD_ALIGN) {
                auto* first = static_cast<const uint16_t*>(rows[i]) + stride + d;
                auto* second = static_cast<const uint16_t*>(rows[i + 1]) + stride + d;
                Bytes low, high;
                interleave16(first, second, low, high);
                store_bytes(out + i * stride + d * 2, low);
                store_bytes(out + i * stride + d * 2 + 2 * LANES, high);
            }
        }
    }
};
#endif

}  // namespace RAMET_ISA
}  // namespace ramet
