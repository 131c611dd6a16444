// Attention of many queries: each is a lane, and keys are rows. Included by attention.h.
//
// Keys are multiplied one after the other with 16 queries at a time, so they need not be transposed, nor even copied
// where they are neighbours, and what a query needs of all its scores (the largest, the sum of the weights) stays in its
// lane. It pays where queries fill the lanes. A lane that goes unused adds nothing to its record: its weights are zero, and
// values are finite (`write_kv`). Every number is summed in the order of attention_rows.h, to its bits.
#pragma once

#include "attention_chunk.h"

namespace ramet {
namespace RAMET_ISA {

// A tile is KEY_TILE keys, or as many elements of the values, by at most LANE_VECTORS vectors of queries. A segment is
// attended in lanes if no more than SPARE_LANES lanes go unused: beyond that, rows were measured to be faster.
#if defined(RAMET_SIMD_AVX512)
constexpr int KEY_TILE = 8, LANE_VECTORS = 3, SPARE_LANES = 2;
#else
constexpr int KEY_TILE = 4, LANE_VECTORS = 1, SPARE_LANES = 4;
#endif

// The keys of a chunk, a tile at a time: a key is `step` elements behind the one before.
template <class Math>
struct KeyTiles {
    struct {
        const typename Math::Element* keys;
        int64_t step;
    } tiles[CHUNK / KEY_TILE];

    // Of `rows` there are whole vectors. Neighbours in the pool stay where they are, others are copied to `room`,
    // [CHUNK][stride].
    KeyTiles(const void* const* rows, int count, int64_t stride, const KVLayer& kv, typename Math::Element* room) {
        for (int first = 0; first < round_up(count, LANES); first += KEY_TILE, room += KEY_TILE * stride) {
            const char* at = static_cast<const char*>(rows[first]);
            bool together = ChunkLayout<Math>::as_they_lie(kv.is_f32);
            for (int k = 1; k < KEY_TILE; ++k)
                together = together && uintptr_t(rows[first + k]) == uintptr_t(at) + uintptr_t(k * kv.record_bytes());
            if (!together)
                for (int k = 0; k < KEY_TILE; ++k)
                    ChunkLayout<Math>::key(rows[first + k], stride, kv.is_f32, room + k * stride);
            auto& tile = tiles[first / KEY_TILE];
            tile.keys = together ? reinterpret_cast<const typename Math::Element*>(at) : room;
            tile.step = together ? 2 * stride : stride;
        }
    }

    // Into the first cache, which has room for a tile, but not for a chunk beside all that is made of the one at work.
    void ask(int index, int64_t stride) const {
        for (int k = 0; k < KEY_TILE; ++k)
            for (int64_t d = 0; d < stride; d += 64 / int64_t(sizeof(typename Math::Element)))
                __builtin_prefetch(tiles[index].keys + k * tiles[index].step + d, 0, 3);
    }
};

// What a chunk is multiplied with: V vectors of queries.
template <class Math>
struct LaneQueries {
    const typename Math::Element* queries;  // [V][stride / PER_STEP][LANES][PER_STEP]
    float* state;                           // [V][stride + LANES][LANES]: records, transposed
    float* peaks;                           // [V][LANES]
    const float* last_keys;                 // [V][LANES] the last key that each may see; -1 where a lane goes unused
    int last;                               // the largest of them
    bool all_see_all;                       // all of them are `last`, and the last of a vector of keys
};

template <class Math, int V>
static void score_lanes(const LaneQueries<Math>& q, int64_t stride, const KeyTiles<Math>& keys, int num_keys,
                        float* scores, Ahead& ahead, int ask) {
    constexpr int P = Math::PER_STEP;
    for (int first = 0; first < num_keys; first += KEY_TILE) {
        const typename Math::Element* tile = keys.tiles[first / KEY_TILE].keys;
        const int64_t step = keys.tiles[first / KEY_TILE].step;
        if (first + KEY_TILE < num_keys) keys.ask(first / KEY_TILE + 1, stride);
        F32 acc[KEY_TILE][V];
        for (int k = 0; k < KEY_TILE; ++k)
            for (int v = 0; v < V; ++v) acc[k][v] = zero();
        for (int64_t d = 0; d < stride; d += P)
            for (int k = 0; k < KEY_TILE; ++k)
                for (int v = 0; v < V; ++v)
                    acc[k][v] = Math::multiply(acc[k][v], q.queries + (v * stride + d) * LANES, tile + k * step + d);
        for (int k = 0; k < KEY_TILE; ++k)
            for (int v = 0; v < V; ++v) store(scores + ((first + k) * V + v) * LANES, acc[k][v]);
        ahead.ask(ask);
    }
}

// The largest score of each query, once those of keys that it may not see are set aside.
template <class Math, int V>
RAMET_INLINE F32 largest_scores(const LaneQueries<Math>& q, int num_keys, int v, float* scores) {
    if (!q.all_see_all) {
        const F32 last = load(q.last_keys + v * LANES);
        for (int k = 0; k < num_keys; ++k) {
            float* at = scores + (k * V + v) * LANES;
            store(at, keep_bits(load(at), less_equal_bits(set1(float(k)), last), set1(NOTHING)));
        }
    }
    F32 most[4] = {set1(NOTHING), set1(NOTHING), set1(NOTHING), set1(NOTHING)};
    for (int k = 0; k < num_keys; k += 4)
        for (int i = 0; i < 4; ++i) most[i] = max(load(scores + ((k + i) * V + v) * LANES), most[i]);
    return max(max(most[0], most[1]), max(most[2], most[3]));
}

// From scores to weights; the sums of every 16th weight join the parts of the total. N: vectors that the keys would fill.
template <class Math, int V, int N>
RAMET_INLINE void soften_lanes(const float* scores, F32 base, F32 keep, float* totals, typename Math::Element* weights) {
    for (int k = 0; k < LANES; k += 2) {
        F32 sums[2];
        for (int n = 0; n < N; ++n) {
            F32 pair[2];
            for (int i = 0; i < 2; ++i) {
                pair[i] = Math::exponential(load(scores + (k + i + n * LANES) * V * LANES) - base);
                sums[i] = n == 0 ? pair[i] : sums[i] + pair[i];
            }
            Math::put_two(weights + (k + n * LANES) * V * LANES, V * LANES, pair[0], pair[1]);
        }
        for (int i = 0; i < 2; ++i) store(totals + (k + i) * LANES, fma(load(totals + (k + i) * LANES), keep, sums[i]));
    }
}

template <class Math, int V>
static void weigh_lanes(const LaneQueries<Math>& q, const typename Math::Element* weights,
                        const typename Math::Element* values, int64_t stride, const F32* keep, Ahead& ahead, int ask) {
    constexpr int P = Math::PER_STEP;
    const int64_t vector_floats = partial_floats(stride) * LANES, steps = q.last / P + 1;
    float* state = q.state;
    for (int64_t d = 0; d < stride; d += KEY_TILE) {
        F32 acc[KEY_TILE][V];
        for (int k = 0; k < KEY_TILE; ++k)
            for (int v = 0; v < V; ++v) acc[k][v] = load(state + v * vector_floats + (d + k) * LANES) * keep[v];
        for (int64_t i = 0; i < steps; ++i)
            for (int k = 0; k < KEY_TILE; ++k)
                for (int v = 0; v < V; ++v)
                    acc[k][v] = Math::multiply(acc[k][v], weights + (i * V + v) * LANES * P,
                                               values + (i * stride + d + k) * P);
        for (int k = 0; k < KEY_TILE; ++k)
            for (int v = 0; v < V; ++v) store(state + v * vector_floats + (d + k) * LANES, acc[k][v]);
        ahead.ask(ask);
    }
}

// V vectors of queries against a chunk.
template <class Math, int V>
static void attend_lanes(const LaneQueries<Math>& q, int64_t stride, const KeyTiles<Math>& keys,
                         const typename Math::Element* values, Ahead& ahead, int ask) {
    alignas(64) float scores[CHUNK * V * LANES];                    // [CHUNK][V][LANES]
    alignas(64) typename Math::Element weights[CHUNK * V * LANES];  // [CHUNK / PER_STEP][V][LANES][PER_STEP]
    const int num_keys = (q.last / LANES + 1) * LANES;
    score_lanes<Math, V>(q, stride, keys, num_keys, scores, ahead, ask);
    F32 keep[V];
    for (int v = 0; v < V; ++v) {
        const F32 old = load(q.peaks + v * LANES);
        const F32 now = max(largest_scores<Math, V>(q, num_keys, v, scores), old);
        store(q.peaks + v * LANES, now);
        keep[v] = exp2_rough(old - now);
        // A query that has not seen anything yet must not find that NOTHING is as large as its peak
        const F32 base = keep_bits(zero(), equal_bits(now, set1(NOTHING)), now);
        float* totals = q.state + v * partial_floats(stride) * LANES + stride * LANES;
        for_vectors(q.last, [&](auto vectors) {
            soften_lanes<Math, V, decltype(vectors)::count>(scores + v * LANES, base, keep[v], totals,
                                                            weights + v * LANES * Math::PER_STEP);
        });
    }
    weigh_lanes<Math, V>(q, weights, values, stride, keep, ahead, ask);
}

// 16 rows of `count` floats, `step` apart, become `count` vectors of lanes, or the other way round.
RAMET_INLINE void to_lanes(const float* rows, int64_t step, int64_t count, float* lanes) {
    for (int64_t d = 0; d < count; d += LANES) {
        const void* in[LANES];
        for (int i = 0; i < LANES; ++i) in[i] = rows + i * step + d;
        transpose16(in, lanes + d * LANES, LANES * int64_t(sizeof(float)));
    }
}
RAMET_INLINE void to_rows(const float* lanes, int64_t step, int64_t count, float* rows) {
    for (int64_t d = 0; d < count; d += LANES) {
        const void* in[LANES];
        for (int i = 0; i < LANES; ++i) in[i] = lanes + (d + i) * LANES;
        transpose16(in, rows + d, step * int64_t(sizeof(float)));
    }
}

}  // namespace RAMET_ISA
}  // namespace ramet
