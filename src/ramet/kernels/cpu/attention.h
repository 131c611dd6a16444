// Tree attention: queries of neighbouring rows against the chunks of positions they share. Included by isa.cpp.
//
// For one KV head, the keys and values of a segment (at most CHUNK positions) are read once and multiplied with the
// queries of all its rows: query heads of a group count as further rows. Where they fill vectors, each query is a lane
// (attention_lanes.h), else a row (attention_rows.h), with the same bits. Chunks are folded into a running softmax in
// order of position (arXiv 2205.14135), over SPAN positions at a time, and spans are folded into the total in the same
// way. So the sum of a row has one order, whether one thread walks its whole context or several take spans of it, and
// whatever rows stand beside it.
#pragma once

#include "attention_lanes.h"
#include "attention_rows.h"

namespace ramet {
namespace RAMET_ISA {

// ---- the running softmax of one query: `stride` values, then, while a span is at work, LANES parts of the total, and
// ---- once it is closed, the peak and the total

RAMET_INLINE float& peak_of(float* record, int64_t stride) { return record[stride]; }
RAMET_INLINE float& total_of(float* record, int64_t stride) { return record[stride + 1]; }

RAMET_INLINE void close(float* record, int64_t stride, float peak) {
    const float total = sum(load(record + stride));
    peak_of(record, stride) = peak;
    total_of(record, stride) = total;
}

RAMET_INLINE void clear(float* record, int64_t stride) {
    for (int64_t d = 0; d <= stride; d += LANES) store(record + d, zero());
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

// How the records of LANES queries are kept at the moment: one after the other, or transposed.
enum class Form : uint8_t { empty, rows, lanes };

// One unit of work, walked through segment by segment.
template <class Math>
class UnitWalk {
    using Element = typename Math::Element;

public:
    UnitWalk(const AttentionShape& shape, const KVLayer& kv, const SegmentView& plan, const AttentionUnit& unit,
             void* scratch)
        : shape_(shape), kv_(kv), plan_(plan), unit_(unit), stride_(kv.stride), record_floats_(partial_floats(stride_)),
          num_queries_((unit.row_end - unit.row_begin) * shape.group), num_vectors_(round_up(num_queries_, LANES) / LANES) {
        const int64_t most = ATTENTION_ROWS * shape.group;  // a multiple of LANES
        keys_ = static_cast<Element*>(scratch);
        values_ = keys_ + CHUNK * stride_;
        lane_queries_ = values_ + CHUNK * stride_;
        totals_ = reinterpret_cast<float*>(lane_queries_ + most * stride_);
        rows_ = totals_ + most * record_floats_;
        lanes_ = rows_ + most * record_floats_;
        peaks_ = lanes_ + most * record_floats_;
        forms_ = reinterpret_cast<Form*>(peaks_ + most + LANES);
        has_lane_queries_ = reinterpret_cast<bool*>(forms_ + most / LANES);
        queries_ = static_cast<const Element*>(shape.queries) +
                   (unit.kv_head * shape.num_rows + unit.row_begin) * shape.group * stride_;
    }

    void run() {
        if (!unit_.partials)
            for (int64_t q = 0; q < num_queries_; ++q) clear(totals_ + q * record_floats_, stride_);
        std::memset(has_lane_queries_, 0, size_t(num_vectors_));
        int64_t span = -1;
        for (int64_t index = 0; index < unit_.num_segments; ++index) {
            const int64_t now = plan_.first_position[unit_.segments[index]] / SPAN;
            if (now != span) {
                if (span >= 0) end_span();
                span = now;
                begin_span();
            }
            attend_segment(index);
        }
        if (span >= 0) end_span();
        if (unit_.partials) return;
        for (int64_t q = 0; q < num_queries_; ++q)
            write_out(shape_, stride_, unit_.kv_head, unit_.row_begin * shape_.group + q, totals_ + q * record_floats_);
    }

private:
    void begin_span() {
        std::memset(forms_, int(Form::empty), size_t(num_vectors_));
        for (int64_t v = 0; v < num_vectors_; ++v) store(peaks_ + v * LANES, set1(NOTHING));
    }

    void end_span() {
        for (int64_t v = 0; v < num_vectors_; ++v) keep_as(Form::rows, v);
        for (int64_t q = 0; q < num_queries_; ++q) close(rows_ + q * record_floats_, stride_, peaks_[q]);
        if (unit_.partials) {
            const int64_t floats = num_queries_ * record_floats_;
            std::memcpy(unit_.partials + num_spans_done_++ * floats, rows_, size_t(floats) * sizeof(float));
            return;
        }
        for (int64_t q = 0; q < num_queries_; ++q)
            fold(totals_ + q * record_floats_, rows_ + q * record_floats_, stride_);
    }

    void keep_as(Form form, int64_t vector) {
        const int64_t at = vector * LANES * record_floats_;
        if (forms_[vector] == form) return;
        if (forms_[vector] == Form::empty)
            std::memset((form == Form::rows ? rows_ : lanes_) + at, 0, size_t(LANES * record_floats_) * sizeof(float));
        else if (form == Form::rows)
            to_rows(lanes_ + at, record_floats_, record_floats_, rows_ + at);
        else
            to_lanes(rows_ + at, record_floats_, record_floats_, lanes_ + at);
        forms_[vector] = form;
    }

    void attend_segment(int64_t index) {
        const int32_t segment = unit_.segments[index];
        const int64_t first = plan_.first_position[segment], group = shape_.group;
        int64_t begin = plan_.row_begin[segment], end = plan_.row_end[segment];
        begin = begin > unit_.row_begin ? begin : unit_.row_begin;
        end = end < unit_.row_end ? end : unit_.row_end;
        const int32_t* slots = plan_.slots + plan_.slot_offsets[segment];
        const int length = plan_.slot_offsets[segment + 1] - plan_.slot_offsets[segment];
        int count = 0, fewest = length;  // keys that any row of this unit may see, that each may
        for (int64_t row = begin; row < end; ++row) {
            const int64_t seen = plan_.positions[row] - first + 1;
            if (seen > count) count = seen < length ? int(seen) : length;
            if (seen < fewest) fewest = int(seen);
        }
        const void* rows[CHUNK];
        for (int i = 0; i < count; ++i) rows[i] = kv_.record(unit_.kv_head, slots[i]);
        for (int i = count; i % LANES != 0; ++i) rows[i] = NO_RECORD;
        Ahead ahead{kv_, unit_.kv_head, nullptr, 0};
        if (index + 1 < unit_.num_segments) {
            const int32_t next = unit_.segments[index + 1];
            ahead.slots = plan_.slots + plan_.slot_offsets[next];
            ahead.left = plan_.slot_offsets[next + 1] - plan_.slot_offsets[next];
        }
        const int64_t q_begin = (begin - unit_.row_begin) * group, q_end = (end - unit_.row_begin) * group;
        const int64_t used = q_end - q_begin, taken = round_up(q_end, LANES) - q_begin / LANES * LANES;
        if (taken - used <= SPARE_LANES)
            attend_in_lanes(rows, count, fewest == count && count % LANES == 0, first, q_begin, q_end, ahead);
        else
            attend_in_rows(rows, count, first, q_begin, q_end, ahead);
    }

    // The last keys that queries may see, in order.
    struct LastKeys {
        const int32_t* position;
        int64_t first, group, head;
        int most;
        int next() {
            const int64_t last = *position - first;
            if (++head == group) head = 0, ++position;  // counted, for a division takes as long as a vector's softmax
            return last < most ? int(last) : most;
        }
    };

    void attend_in_rows(const void* const* rows, int count, int64_t first, int64_t q_begin, int64_t q_end, Ahead& ahead) {
        for (int64_t v = q_begin / LANES; v * LANES < q_end; ++v) keep_as(Form::rows, v);
        LastKeys last_keys{plan_.positions + unit_.row_begin + q_begin / shape_.group, first, shape_.group, 0, count - 1};
        if constexpr (Math::TURNS_IN_REGISTERS)
            if (q_end - q_begin <= QUERY_BATCH) {  // measured to be faster up to these
                attend_next_batch(ChunkAsItLies{rows, ahead}, q_begin, q_end, last_keys, ahead, 0);
                ahead.ask(CHUNK);  // what a short chunk has left
                return;
            }
        const int64_t num_tiles = (q_end - q_begin + QUERY_TILE - 1) / QUERY_TILE;
        const int ask = int(CHUNK / (2 * num_tiles + 2)) + 1;  // not all at once: that fills the queues to memory
        ahead.ask(ask);
        ChunkLayout<Math>::key_columns(rows, count, stride_, kv_.is_f32, keys_);
        ahead.ask(ask);
        ChunkLayout<Math>::values(rows, count, stride_, kv_.is_f32, values_);
        for (int64_t q = q_begin; q < q_end; q += QUERY_BATCH)
            attend_next_batch(Chunk<Math>{keys_, values_}, q, q_end, last_keys, ahead, ask);
    }

    template <class SomeChunk>
    void attend_next_batch(const SomeChunk& chunk, int64_t q, int64_t q_end, LastKeys& last_keys, Ahead& ahead, int ask) {
        const int batch = q_end - q < QUERY_BATCH ? int(q_end - q) : QUERY_BATCH;
        int last_key[QUERY_BATCH];
        for (int i = 0; i < batch; ++i) last_key[i] = last_keys.next();
        attend_batch<Math>(queries_ + q * stride_, batch, stride_, chunk, last_key, peaks_ + q, rows_ + q * record_floats_,
                           record_floats_, ahead, ask);
    }

    void attend_in_lanes(const void* const* rows, int count, bool all_see_all, int64_t first, int64_t q_begin, int64_t q_end,
                         Ahead& ahead) {
        const int64_t vectors_begin = q_begin / LANES, vectors_end = round_up(q_end, LANES) / LANES;
        const int64_t num_batches = (vectors_end - vectors_begin + LANE_VECTORS - 1) / LANE_VECTORS;
        const KeyTiles<Math> keys(rows, count, stride_, kv_, keys_);
        ChunkLayout<Math>::values(rows, count, stride_, kv_.is_f32, values_);
        const int ask = int(KEY_TILE / (2 * num_batches)) + 1;  // twice CHUNK / KEY_TILE times a batch, or so
        LastKeys last_keys{plan_.positions + unit_.row_begin + q_begin / shape_.group, first, shape_.group, 0, count - 1};
        for (int64_t v = vectors_begin; v < vectors_end; v += LANE_VECTORS) {
            const int num = vectors_end - v < LANE_VECTORS ? int(vectors_end - v) : LANE_VECTORS;
            float last_key[LANE_VECTORS * LANES];
            int least = CHUNK, most = 0;
            if (all_see_all && q_begin <= v * LANES && (v + num) * LANES <= q_end) {
                least = most = count - 1;  // nobody looks at last_key, and last_keys has this for every query left
            } else {
                for (int i = 0; i < num * LANES; ++i) {
                    const int64_t q = v * LANES + i;
                    const int last = q < q_begin || q >= q_end ? -1 : last_keys.next();
                    last_key[i] = float(last);
                    least = last < least ? last : least;
                    most = last > most ? last : most;
                }
            }
            for (int i = 0; i < num; ++i) {
                keep_as(Form::lanes, v + i);
                bring_queries(v + i);
            }
            const LaneQueries<Math> q{lane_queries_ + v * LANES * stride_, lanes_ + v * LANES * record_floats_,
                                      peaks_ + v * LANES, last_key, most, least == most && (most + 1) % LANES == 0};
            if (num == 1) attend_lanes<Math, 1>(q, stride_, keys, values_, ahead, ask);
            if constexpr (LANE_VECTORS > 1)
                if (num == 2) attend_lanes<Math, 2>(q, stride_, keys, values_, ahead, ask);
            if constexpr (LANE_VECTORS > 2)
                if (num == 3) attend_lanes<Math, 3>(q, stride_, keys, values_, ahead, ask);
        }
    }

    void bring_queries(int64_t vector) {
        if (has_lane_queries_[vector]) return;
        has_lane_queries_[vector] = true;
        for (int64_t d = 0; d < stride_; d += LANES * Math::PER_STEP) {
            const void* in[LANES];
            for (int i = 0; i < LANES; ++i) {
                const int64_t q = vector * LANES + i;
                in[i] = q < num_queries_ ? static_cast<const void*>(queries_ + q * stride_ + d) : NO_RECORD;
            }
            transpose16(in, lane_queries_ + (vector * stride_ + d) * LANES, LANES * int64_t(sizeof(float)));
        }
    }

    const AttentionShape& shape_;
    const KVLayer& kv_;
    const SegmentView& plan_;
    const AttentionUnit& unit_;
    const int64_t stride_, record_floats_, num_queries_, num_vectors_;
    const Element* queries_;
    Element *keys_, *values_, *lane_queries_;
    float *totals_, *rows_, *lanes_, *peaks_;
    Form* forms_;             // [num_vectors_]
    bool* has_lane_queries_;  // [num_vectors_]
    int64_t num_spans_done_ = 0;
};

static void attend(const AttentionShape& shape, const KVLayer& kv, const SegmentView& plan, const AttentionUnit& unit,
                   void* scratch) {
#if defined(RAMET_NATIVE_BF16)
    if (!shape.f32) {
        UnitWalk<PairMath>(shape, kv, plan, unit, scratch).run();
        return;
    }
#endif
    UnitWalk<FloatMath>(shape, kv, plan, unit, scratch).run();
}

static int64_t attend_scratch(int64_t stride, int64_t group) {
    const int64_t queries = ATTENTION_ROWS * group;  // of each: three records, itself, its peak and its flags
    return (2 * CHUNK * stride + queries * (3 * partial_floats(stride) + stride + 2) + 2 * LANES) * int64_t(sizeof(float));
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
