// Tree attention: queries of neighbouring rows against the chunks of positions they share. Included by isa.cpp.
//
// For one KV head, the keys and values of a segment (at most CHUNK positions) are read and laid out for the
// vector units once, then multiplied with the queries of all its rows: query heads of a group count as further
// rows. Chunks are folded into a running softmax in order of position (arXiv 2205.14135), over SPAN positions
// at a time, and spans are folded into the total in the same way. So the sum of a row has one order, whether
// one thread walks its whole context or several take spans of it, and whatever rows stand beside it.
#pragma once

#include "simd.h"
#include "types.h"

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
constexpr int CHUNK_VECTORS = CHUNK / LANES;
alignas(64) static const float NO_RECORD[2 * 512] = {};  // stands behind the last of a chunk, in whole vectors
constexpr float NOTHING = -1e30f;  // the score of a key that may not be seen: finite, so that differences are

// ---- how numbers are multiplied: one float at a time, or pairs of bf16

struct FloatMath {
    using Element = float;
    static constexpr int PER_STEP = 1;  // elements along the sum that a multiplication takes
    RAMET_INLINE F32 multiply(F32 acc, const float* b, const float* a) { return fma(load(b), set1(*a), acc); }
    RAMET_INLINE F32 exponential(F32 x) { return exp2(x); }
    RAMET_INLINE void put(float* to, F32 x) { store(to, x); }
};

#if defined(RAMET_NATIVE_BF16)
struct PairMath {
    using Element = uint16_t;
    static constexpr int PER_STEP = 2;
    RAMET_INLINE F32 multiply(F32 acc, const uint16_t* b, const uint16_t* a) {
        return dot2(acc, load_bytes(b), broadcast4(a));
    }
    RAMET_INLINE F32 exponential(F32 x) { return exp2_rough(x); }
    RAMET_INLINE void put(uint16_t* to, F32 x) { store_bf16(to, x); }
};
#endif

// The records of the chunk after the one at work, asked for a few at a time: all at once would fill the queues to
// memory and then leave it idle.
struct Ahead {
    KVLayer kv;
    int64_t head;
    const int32_t* slots;
    int left;
    void ask(int count) {
        for (; count > 0 && left > 0; --count, --left, ++slots) {
            const char* record = kv.record(head, *slots);
            for (int64_t byte = 0; byte < kv.record_bytes(); byte += 64) __builtin_prefetch(record + byte, 0, 3);
        }
    }
};

// ---- laying out a chunk: keys as [stride / PER_STEP][CHUNK][PER_STEP], values as [CHUNK / PER_STEP][stride][PER_STEP].
// ---- Of `rows` there are whole vectors.

template <class Math>
struct ChunkLayout;

template <>
struct ChunkLayout<FloatMath> {
    static void keys(const void* const* rows, int count, int64_t stride, bool is_f32, float* out, Ahead& ahead) {
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
            ahead.ask(LANES / 2);
        }
    }
    static void values(const void* const* rows, int count, int64_t stride, bool is_f32, float* out, Ahead& ahead) {
        for (int i = 0; i < count; ++i) {
            for (int64_t d = 0; d < stride; d += LANES) {
                // A value stands `stride` elements behind its key
                F32 value = is_f32 ? load(static_cast<const float*>(rows[i]) + stride + d)
                                   : load_bf16(static_cast<const uint16_t*>(rows[i]) + stride + d);
                store(out + i * stride + d, value);
            }
            ahead.ask(1);
        }
    }
};

#if defined(RAMET_NATIVE_BF16)
template <>
struct ChunkLayout<PairMath> {
    static void keys(const void* const* rows, int count, int64_t stride, bool, uint16_t* out, Ahead& ahead) {
        for (int first = 0; first < count; first += LANES) {
            for (int64_t d = 0; d < stride; d += HEAD_ALIGN) {
                const void* in[LANES];
                for (int i = 0; i < LANES; ++i)
                    in[i] = static_cast<const uint16_t*>(rows[first + i]) + d;
                transpose16(in, out + d * CHUNK + first * 2, CHUNK * 4);
            }
            ahead.ask(LANES / 2);
        }
    }
    static void values(const void* const* rows, int count, int64_t stride, bool, uint16_t* out, Ahead& ahead) {
        for (int i = 0; i < count; i += 2) {
            for (int64_t d = 0; d < stride; d += HEAD_ALIGN) {
                auto* first = static_cast<const uint16_t*>(rows[i]) + stride + d;
                auto* second = static_cast<const uint16_t*>(rows[i + 1]) + stride + d;
                interleave16(first, second, out + i * stride + d * 2);
            }
            ahead.ask(1);
        }
    }
};
#endif

// ---- the running softmax of one query: `stride` values, then, while a span is at work, LANES parts of the total, and
// ---- once it is closed, the peak and the total

RAMET_INLINE float& peak_of(float* record, int64_t stride) { return record[stride]; }
RAMET_INLINE float& total_of(float* record, int64_t stride) { return record[stride + 1]; }

RAMET_INLINE void open(float* record, int64_t stride) {
    for (int64_t d = 0; d <= stride; d += LANES) store(record + d, zero());
}

RAMET_INLINE void close(float* record, int64_t stride, float peak) {
    const float total = sum(load(record + stride));
    peak_of(record, stride) = peak;
    total_of(record, stride) = total;
}

RAMET_INLINE void clear(float* record, int64_t stride) {
    open(record, stride);
    peak_of(record, stride) = NOTHING;
}

RAMET_INLINE float exp2_scalar(float x) {
    alignas(64) float all[LANES];
    store(all, exp2(set1(x)));
    return all[0];
}

// Folds a span's record into the total. Records that no key reached change nothing.
static void fold(float* total, const float* span, int64_t stride) {
    if (span[stride + 1] == 0) return;
    float peak = span[stride], old = peak_of(total, stride), most = old > peak ? old : peak;
    float keep = exp2_scalar(old - most), gain = exp2_scalar(peak - most);
    F32 keep_all = set1(keep), gain_all = set1(gain);
    for (int64_t d = 0; d < stride; d += LANES)
        store(total + d, fma(load(total + d), keep_all, load(span + d) * gain_all));
    peak_of(total, stride) = most;
    total_of(total, stride) = total_of(total, stride) * keep + span[stride + 1] * gain;
}

static void write_out(const AttentionShape& shape, int64_t stride, int64_t kv_head, int64_t query, const float* record) {
    int64_t row = query / shape.group, head = kv_head * shape.group + query % shape.group;
    float* to = shape.out + (row * shape.num_kv_heads * shape.group + head) * shape.head_dim;
    const F32 total = set1(record[stride + 1]);
    int64_t d = 0;
    for (; d + LANES <= shape.head_dim; d += LANES) store(to + d, load(record + d) / total);
    if (d < shape.head_dim) store_first(to + d, load(record + d) / total, int(shape.head_dim - d));
}

// ---- the arithmetic of a tile: R queries against one chunk

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

template <int R>
struct Tile {
    static constexpr int rows = R;
};

template <class Do>
RAMET_INLINE void for_tiles(int count, const Do& each) {
    int q = 0;
    for (; count - q >= QUERY_TILE; q += QUERY_TILE) each(Tile<QUERY_TILE>{}, q);
    if constexpr (QUERY_TILE > 3)
        for (; count - q >= 3; q += 3) each(Tile<3>{}, q);
    if constexpr (QUERY_TILE > 2)
        for (; count - q >= 2; q += 2) each(Tile<2>{}, q);
    for (; q < count; ++q) each(Tile<1>{}, q);
}

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

// Up to QUERY_BATCH queries against a chunk; `last_key[q]` is the last key query q may see, `peaks[q]` its largest score
// so far (there are LANES of them, whatever the count). All scores first, then all weights, then all sums: each stretch
// has enough queries that none waits for another.
template <class Math>
static void attend_batch(const typename Math::Element* queries, int count, int64_t stride, const Chunk<Math>& chunk,
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

template <class Math>
static void attend_unit(const AttentionShape& shape, const KVLayer& kv, const SegmentView& plan,
                        const AttentionUnit& unit, void* scratch) {
    using Element = typename Math::Element;
    const int64_t stride = kv.stride, group = shape.group, record_floats = partial_floats(stride);
    const int64_t num_queries = (unit.row_end - unit.row_begin) * group;
    auto* keys = static_cast<Element*>(scratch);
    Element* values = keys + CHUNK * stride;
    auto* totals = reinterpret_cast<float*>(values + CHUNK * stride);
    float* spans = totals + ATTENTION_ROWS * group * record_floats;
    float* peaks = spans + ATTENTION_ROWS * group * record_floats;
    const auto* queries = static_cast<const Element*>(shape.queries) +
                          (unit.kv_head * shape.num_rows + unit.row_begin) * group * stride;
    if (!unit.partials)
        for (int64_t q = 0; q < num_queries; ++q) clear(totals + q * record_floats, stride);

    int64_t span = -1, num_spans_done = 0;
    float* current = spans;
    auto end_span = [&] {
        for (int64_t q = 0; q < num_queries; ++q) close(current + q * record_floats, stride, peaks[q]);
        if (unit.partials) {
            ++num_spans_done;
            return;
        }
        for (int64_t q = 0; q < num_queries; ++q) fold(totals + q * record_floats, spans + q * record_floats, stride);
    };
    for (int64_t index = 0; index < unit.num_segments; ++index) {
        const int32_t segment = unit.segments[index];
        const int64_t first = plan.first_position[segment];
        if (first / SPAN != span) {
            if (span >= 0) end_span();
            span = first / SPAN;
            if (unit.partials) current = unit.partials + num_spans_done * num_queries * record_floats;
            for (int64_t q = 0; q < num_queries; ++q) {
                open(current + q * record_floats, stride);
                peaks[q] = NOTHING;
            }
        }
        int64_t begin = plan.row_begin[segment], end = plan.row_end[segment];
        begin = begin > unit.row_begin ? begin : unit.row_begin;
        end = end < unit.row_end ? end : unit.row_end;
        const int32_t* slots = plan.slots + plan.slot_offsets[segment];
        const int length = plan.slot_offsets[segment + 1] - plan.slot_offsets[segment];
        int count = 0;  // keys that any row of this unit may see
        for (int64_t row = begin; row < end; ++row) {
            int64_t seen = plan.positions[row] - first + 1;
            if (seen > count) count = seen < length ? int(seen) : length;
        }
        const void* rows[CHUNK];
        for (int i = 0; i < count; ++i) rows[i] = kv.record(unit.kv_head, slots[i]);
        for (int i = count; i % LANES != 0; ++i) rows[i] = NO_RECORD;
        Ahead ahead{kv, unit.kv_head, nullptr, 0};
        if (index + 1 < unit.num_segments) {
            const int32_t next = unit.segments[index + 1];
            ahead.slots = plan.slots + plan.slot_offsets[next];
            ahead.left = plan.slot_offsets[next + 1] - plan.slot_offsets[next];
        }
        // With many queries the memory has time while they are multiplied, with few only while the chunk is laid out
        const int64_t num_tiles = ((end - begin) * group + QUERY_TILE - 1) / QUERY_TILE;
        const bool many = num_tiles >= 4;
        Ahead idle{};
        ChunkLayout<Math>::keys(rows, count, stride, kv.is_f32, keys, many ? idle : ahead);
        ChunkLayout<Math>::values(rows, count, stride, kv.is_f32, values, many ? idle : ahead);
        const int ask = many ? int(CHUNK / (2 * num_tiles) + 1) : CHUNK;
        Chunk<Math> chunk{keys, values};

        const int64_t q_end = (end - unit.row_begin) * group;
        int64_t row = begin, head = 0;  // of the query: counted, for a division takes as long as a vector's softmax
        for (int64_t q = (begin - unit.row_begin) * group; q < q_end; q += QUERY_BATCH) {
            const int batch = q_end - q < QUERY_BATCH ? int(q_end - q) : QUERY_BATCH;
            int last_key[QUERY_BATCH];
            for (int i = 0; i < batch; ++i) {
                const int64_t last = plan.positions[row] - first;
                last_key[i] = last < count - 1 ? int(last) : count - 1;
                if (++head == group) head = 0, ++row;
            }
            attend_batch<Math>(queries + q * stride, batch, stride, chunk, last_key, peaks + q,
                               current + q * record_floats, record_floats, ahead, ask);
        }
    }
    if (span >= 0) end_span();
    if (unit.partials) return;
    for (int64_t q = 0; q < num_queries; ++q)
        write_out(shape, stride, unit.kv_head, unit.row_begin * group + q, totals + q * record_floats);
}

static void attend(const AttentionShape& shape, const KVLayer& kv, const SegmentView& plan, const AttentionUnit& unit,
                   void* scratch) {
#if defined(RAMET_NATIVE_BF16)
    if (!shape.f32) {
        attend_unit<PairMath>(shape, kv, plan, unit, scratch);
        return;
    }
#endif
    attend_unit<FloatMath>(shape, kv, plan, unit, scratch);
}

static int64_t attend_scratch(int64_t stride, int64_t group) {
    const int64_t queries = ATTENTION_ROWS * group;
    return (2 * CHUNK * stride + queries * (2 * partial_floats(stride) + 1) + LANES) * int64_t(sizeof(float));
}

static void merge(const AttentionShape& shape, int64_t stride, int64_t kv_head, int64_t row, const float* partials,
                  int64_t num_spans, int64_t step) {
    alignas(64) float total[512 + LANES];
    for (int64_t g = 0; g < shape.group; ++g) {
        clear(total, stride);
        for (int64_t s = 0; s < num_spans; ++s)
            fold(total, partials + s * step + g * partial_floats(stride), stride);
        write_out(shape, stride, kv_head, row * shape.group + g, total);
    }
}

}  // namespace RAMET_ISA
}  // namespace ramet
