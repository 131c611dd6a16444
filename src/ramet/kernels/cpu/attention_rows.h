// Attention of queries that do not fill lanes: keys are lanes, and each query is a row. Included by attention.h.
#pragma once

#include "attention_chunk.h"

namespace ramet {
namespace RAMET_ISA {

#if defined(RAMET_SIMD_AVX512)
constexpr int QUERY_TILE = 6;
#elif defined(RAMET_SIMD_AVX2)
constexpr int QUERY_TILE = 2;
#else
constexpr int QUERY_TILE = 1;
#endif
constexpr int QUERY_BATCH = 12;  // a multiple of the tiles

// ---- the arithmetic of a tile: R queries against one chunk, its keys in columns

template <class Math>
struct Chunk {
    const typename Math::Element* keys;
    const typename Math::Element* values;
};

// A query's scores of a chunk, and its weights, stand CHUNK apart. `most` gets the largest score of each lane.
template <class Math, int R, int V>
static inline __attribute__((always_inline)) void score(const typename Math::Element* queries, int64_t stride,
                                                        const Chunk<Math>& chunk, float* scores, float* most) {
    constexpr int P = Math::PER_STEP;
    F32 acc[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = zero();
    for (int64_t d = 0; d < stride; d += P) {
        const typename Math::Element* keys = chunk.keys + d * CHUNK;
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                acc[r][v] = Math::multiply(acc[r][v], keys + v * LANES * P, queries + r * stride + d);
    }
    for (int r = 0; r < R; ++r) {
        F32 largest = acc[r][0];
        for (int v = 1; v < V; ++v) largest = max(acc[r][v], largest);
        store(most + r * LANES, largest);
        for (int v = 0; v < V; ++v) store(scores + r * CHUNK + v * LANES, acc[r][v]);
    }
}

// From scores to weights; their sum joins the parts of the total, of which `keep` is kept.
template <class Math, int V>
RAMET_INLINE void soften(const float* scores, float peak, float keep, float* total, typename Math::Element* weights) {
    const F32 peak_all = set1(peak);
    F32 weight[V];
    for (int v = 0; v < V; ++v) weight[v] = Math::exponential(load(scores + v * LANES) - peak_all);
    F32 sum = weight[0];
    for (int v = 1; v < V; ++v) sum = sum + weight[v];
    store(total, fma(load(total), set1(keep), sum));
    for (int v = 0; v < V; ++v) Math::put(weights + v * LANES, weight[v]);
}

template <class Math, int R, int V>
static inline __attribute__((always_inline)) void weigh(const typename Math::Element* weights, const Chunk<Math>& chunk,
                                                        int64_t steps, int64_t stride, int64_t d, const float* keep, float* records,
                                                        int64_t record_floats) {
    constexpr int P = Math::PER_STEP;
    F32 acc[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = load(records + r * record_floats + d + v * LANES) * set1(keep[r]);
    for (int64_t i = 0; i < steps; ++i) {
        const typename Math::Element* values = chunk.values + (i * stride + d) * P;
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                acc[r][v] = Math::multiply(acc[r][v], values + v * LANES * P, weights + r * CHUNK + i * P);
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(records + r * record_floats + d + v * LANES, acc[r][v]);
}

// ---- the same, for a single batch of queries

// A chunk as it lies in the pool: keys are turned, and values paired, on the way into registers, anew for each tile. While
// they are, the memory has time for the chunk that comes next.
struct ChunkAsItLies {
    const void* const* rows;
    Ahead& ahead;
};

#if defined(RAMET_NATIVE_BF16)
template <class Math, int R, int V>
static inline __attribute__((always_inline)) void score(const uint16_t* queries, int64_t stride,
                                                        const ChunkAsItLies& chunk, float* scores, float* most) {
    for (int64_t d = 0; d < stride; d += HEAD_ALIGN)
        for (int v = 0; v < V; ++v) {  // inside, so that the sums of one vector do not wait for each other
            const void* in[LANES];
            for (int i = 0; i < LANES; ++i) in[i] = static_cast<const uint16_t*>(chunk.rows[v * LANES + i]) + d;
            Bytes columns[LANES];
            transpose16(in, columns);
            F32 acc[R];
            for (int r = 0; r < R; ++r) acc[r] = d == 0 ? zero() : load(scores + r * CHUNK + v * LANES);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) {
                if (i % 4 == 0) chunk.ahead.ask(1);
                for (int r = 0; r < R; ++r)
                    acc[r] = dot2(acc[r], columns[i], broadcast4(queries + r * stride + d + 2 * i));
            }
            for (int r = 0; r < R; ++r) store(scores + r * CHUNK + v * LANES, acc[r]);
        }
    for (int r = 0; r < R; ++r) {
        F32 largest = load(scores + r * CHUNK);
        for (int v = 1; v < V; ++v) largest = max(load(scores + r * CHUNK + v * LANES), largest);
        store(most + r * LANES, largest);
    }
}

template <class Math, int R, int V>
static inline __attribute__((always_inline)) void weigh(const uint16_t* weights, const ChunkAsItLies& chunk,
                                                        int64_t steps, int64_t stride, int64_t d, const float* keep,
                                                        float* records, int64_t record_floats) {
    F32 acc[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = load(records + r * record_floats + d + v * LANES) * set1(keep[r]);
    for (int64_t i = 0; i < steps; ++i) {
        auto* first = static_cast<const uint16_t*>(chunk.rows[2 * i]) + stride + d;
        auto* second = static_cast<const uint16_t*>(chunk.rows[2 * i + 1]) + stride + d;
        Bytes values[V];
        for (int v = 0; v < V; v += 2) interleave16(first + v * LANES, second + v * LANES, values[v], values[v + 1]);
        for (int r = 0; r < R; ++r) {
            const Bytes weight = broadcast4(weights + r * CHUNK + i * 2);
            for (int v = 0; v < V; ++v) acc[r][v] = dot2(acc[r][v], values[v], weight);
        }
        if (d == 0) chunk.ahead.ask(1);
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(records + r * record_floats + d + v * LANES, acc[r][v]);
}
#endif

template <int R>
struct Tile {
    static constexpr int rows = R;
};

template <class Do>
RAMET_INLINE void for_tiles(int count, const Do& each) {
    int q = 0;
    for (; count - q >= QUERY_TILE; q += QUERY_TILE) each(Tile<QUERY_TILE>{}, q);
    switch (count - q) {
        case 5: if constexpr (QUERY_TILE > 5) each(Tile<5>{}, q); break;
        case 4: if constexpr (QUERY_TILE > 4) each(Tile<4>{}, q); break;
        case 3: if constexpr (QUERY_TILE > 3) each(Tile<3>{}, q); break;
        case 2: if constexpr (QUERY_TILE > 2) each(Tile<2>{}, q); break;
        case 1: if constexpr (QUERY_TILE > 1) each(Tile<1>{}, q); break;
        default: break;
    }
}

// Up to QUERY_BATCH queries against a chunk; `last_key[q]` is the last key query q may see, `peaks[q]` its largest score
// so far (there are LANES of them, whatever the count). All scores first, then all weights, then all sums: each stretch
// has enough queries that none waits for another.
template <class Math, class SomeChunk>
static void attend_batch(const typename Math::Element* queries, int count, int64_t stride, const SomeChunk& chunk,
                         const int* last_key, float* peaks, float* records, int64_t record_floats, Ahead& ahead,
                         int ask) {
    alignas(64) float scores[QUERY_BATCH * CHUNK], most[LANES * LANES];
    int tile_last[QUERY_BATCH];  // keys that no query of a tile may see would only add zeros to it
    for_tiles(count, [&](auto tile, int q) {
        constexpr int R = decltype(tile)::rows;
        int last = 0;
        for (int r = 0; r < R; ++r) last = last_key[q + r] > last ? last_key[q + r] : last;
        for (int r = 0; r < R; ++r) tile_last[q + r] = last;
        for_vectors(last, [&](auto vectors) {
            score<Math, R, decltype(vectors)::count>(queries + q * stride, stride, chunk, scores + q * CHUNK,
                                                     most + q * LANES);
        });
        ahead.ask(ask);
    });

    for (int q = 0; q < count; ++q) {  // keys that a query may not see
        const int num_vectors = tile_last[q] / LANES + 1;
        if (last_key[q] == num_vectors * LANES - 1) continue;
        F32 largest = set1(NOTHING);
        for (int v = 0; v < num_vectors; ++v) {
            float* at = scores + q * CHUNK + v * LANES;
            store(at, replace_from(load(at), last_key[q] + 1 - v * LANES, set1(NOTHING)));
            largest = max(load(at), largest);
        }
        store(most + q * LANES, largest);
    }
    for (int q = count; q < LANES; ++q) store(most + q * LANES, set1(NOTHING));  // the peaks behind stay as they are
    alignas(64) float peak[LANES], keep[LANES];
    const F32 old = load(peaks), now = max(maxima16(most), old);
    store(peak, now);
    store(keep, exp2_rough(old - now));
    store(peaks, now);

    alignas(64) typename Math::Element weights[QUERY_BATCH * CHUNK];
    for (int q = 0; q < count; ++q)
        for_vectors(tile_last[q], [&](auto vectors) {
            soften<Math, decltype(vectors)::count>(scores + q * CHUNK, peak[q], keep[q],
                                                   records + q * record_floats + stride, weights + q * CHUNK);
        });

    for_tiles(count, [&](auto tile, int q) {
        constexpr int R = decltype(tile)::rows;
        const int64_t steps = tile_last[q] / Math::PER_STEP + 1;
        float* to = records + q * record_floats;
        int64_t d = 0;
        for (; d + 4 * LANES <= stride; d += 4 * LANES)
            weigh<Math, R, 4>(weights + q * CHUNK, chunk, steps, stride, d, keep + q, to, record_floats);
        for (; d < stride; d += 2 * LANES)
            weigh<Math, R, 2>(weights + q * CHUNK, chunk, steps, stride, d, keep + q, to, record_floats);
        ahead.ask(ask);
    });
}

}  // namespace RAMET_ISA
}  // namespace ramet
