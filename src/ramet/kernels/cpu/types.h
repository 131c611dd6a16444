// What the step and the kernels pass to each other: plain structs of pointers, no ownership.
#pragma once

#include <cstdint>

namespace ramet {

constexpr int PANEL = 16;     // output features that are computed together, one per lane
constexpr int BLOCK = 32;     // input features that share a scale
constexpr int CHUNK = 64;     // positions of an attention chunk, see ramet.model_io
constexpr int SPAN = 512;     // positions whose chunks are merged among themselves before they meet others
constexpr int HEAD_ALIGN = 32;  // heads are padded with zeros to a multiple of this in the KV pool
constexpr int ATTENTION_ROWS = 64;  // rows that one unit of attention work covers

enum class Format : uint8_t { q4, q8, bf16, f32 };

// A packed weight matrix. Panels of 16 output features stand one after the other, each one run of memory that is read
// from its first byte to its last: what a processor fetches ahead by itself. Matrices that are read together may take
// turns, each with two panels. A panel is
//   bf16: per pair of inputs 16 x 2 values.   f32: per input 16 values.
//   q4, q8: pairs of blocks (the last may be half empty). A pair is the weights of its two blocks, then their scales,
//         f16 [2][PANEL], then, if the matrix has them, their minima, bf16 [PANEL][2]. The weights of a block are
//         q4: 4 groups of 64 bytes; byte (o, j) of group g holds inputs 8g + j (low nibble) and 8g + 4 + j (high) of
//             output o. The weight is scale * (nibble - 8) + minimum.
//         q8: 8 groups of 64 bytes; byte (o, j) of group g is input 4g + j, int8.
struct Matrix {
    Format format;
    int64_t n, k;                   // output and input features
    int64_t panels, blocks;         // ceil(n / PANEL), ceil(k / BLOCK)
    const uint8_t* data;            // the first panel
    int64_t panel_bytes;
    int64_t panels_step;            // from a pair of panels to the next: between them may be those of another matrix
    int64_t pair_bytes;             // of two blocks, with scales and minima
    int64_t scales_at, minima_at;   // within a pair; 0: it has none
    const float* bias;              // [panels * PANEL], or null

    const uint8_t* panel(int64_t index) const { return data + index / 2 * panels_step + index % 2 * panel_bytes; }
    // Within a panel: where the weights of a block begin, its scales, and its first minimum; its minima are every other
    // value from there.
    int64_t block_at(int64_t block) const { return block / 2 * pair_bytes + block % 2 * (scales_at / 2); }
    int64_t scales_of(int64_t block) const { return block / 2 * pair_bytes + scales_at + block % 2 * PANEL * 2; }
    int64_t minima_of(int64_t block) const { return block / 2 * pair_bytes + minima_at + block % 2 * 2; }
};

// A stretch of memory; none if null.
struct ByteRange {
    const uint8_t* data = nullptr;
    int64_t bytes = 0;
};

// Rows of inputs in the forms that the formats want. Each pointer may be null if no matrix wants that form.
struct Inputs {
    int64_t k, blocks;
    int8_t* bytes;             // [rows][blocks * BLOCK]
    float* scales;             // [rows][blocks]
    int32_t* offsets4;         // [rows][blocks] -8 * sum of the block's bytes
    int32_t* offsets8;         // [rows][blocks] -SIGNED_OFFSET * sum
    uint16_t* sums;            // [rows][even(blocks)] bf16: scale * sum of the block's bytes
    uint16_t* bf16;            // [rows][even(k)]
    float* f32;                // [rows][k]
};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t even(int64_t n) { return round_up(n, 2); }

constexpr int64_t KV_BLOCK = 512;  // slots; with 32 a step of many contexts took 1 % longer

// Keys and values of one layer. A pool is blocks of KV_BLOCK slots, a block the records of layer after layer, head
// after head, slot after slot: what a head reads of a block lies together, and so does what a token writes, so that
// steps touch no memory beyond the blocks in use. A record is a key, and a value `stride` elements behind it.
struct KVLayer {
    char* data;                // the layer's first record
    int64_t block_bytes;       // from one block to the next, over all layers
    int64_t stride;            // head_dim rounded up to HEAD_ALIGN
    bool is_f32;

    static constexpr int64_t bytes_of_record(int64_t stride, bool is_f32) { return 2 * stride * (is_f32 ? 4 : 2); }
    int64_t record_bytes() const { return bytes_of_record(stride, is_f32); }
    char* record(int64_t head, uint32_t slot) const {  // unsigned: quick to divide
        return data + (slot / KV_BLOCK) * block_bytes + (head * KV_BLOCK + slot % KV_BLOCK) * record_bytes();
    }
};

// The plan of `ramet.model_io.Segments`, and the positions of the rows. A segment may have no row.
struct SegmentView {
    const int32_t* row_begin;
    const int32_t* row_end;
    const int32_t* first_position;
    const int32_t* slot_offsets;
    const int32_t* slots;
    const int32_t* positions;
};

// What one thread does at a time: some rows, one KV head, and all or a stretch of the segments these rows read.
struct AttentionUnit {
    int64_t row_begin, row_end;           // rows of the unit
    const int32_t* segments;              // indices of its segments, in order of position
    int64_t num_segments;
    int64_t kv_head;
    float* partials;                      // null, or where to leave one result per (span, query)
    int64_t cost;                         // roughly, in queries times segments
};

struct AttentionShape {
    int64_t num_kv_heads, group, head_dim;
    bool f32;                             // queries and arithmetic in float32
    int64_t num_rows;
    const void* queries;                  // [kv_heads][num_rows][group][stride], scaled by log2(e) / sqrt(head_dim)
    float* out;                           // [num_rows][kv_heads * group * head_dim]
};

// The running softmax of one query is a record: `stride` weighted values, not divided by the total yet; the peak;
// the total; padding. This is its size.
inline int64_t partial_floats(int64_t stride) { return stride + 16; }

struct RopeShape {
    int64_t num_heads, num_kv_heads, head_dim, stride, num_rows;
    bool f32;                             // form of the queries
    const float* query_norm;              // [head_dim] or null
    const float* key_norm;
    float eps;
    float query_scale;
};

// A row of logits as a sample sees it.
struct LogitsView {
    const float* logits;
    int64_t n;
    const uint32_t* allowed;              // bit i % 32 of word i / 32: whether token i may be drawn; null = all
};

// The largest logits of a row that a thread has seen so far, lane by lane.
struct alignas(64) Maxima {
    float value[PANEL];
    int32_t token[PANEL];                 // the first that has it
    bool not_numbers;
};

// How to draw. Filters in this order: top_k (0 = all), top_p (1 = all), min_p (0 = all).
struct Draw {
    float temperature;                    // 0 = greedy
    int32_t top_k;
    float top_p, min_p;
    double uniform;                       // in [0, 1)
};

// One instruction set's kernels. All are thread-safe; `scratch` belongs to the calling thread.
struct Kernels {
    const char* name;
    bool native_bf16;                     // attention over a bf16 pool multiplies bf16 pairs

    // Rows [0, num_rows) of x times panels [panel, panel + count) of w; count is 1 or 2. `next` is what
    // will be read after them: as much of it is prefetched as helps.
    // out[row * ld + n] = (accumulate ? out : 0) + product + bias, n counted from the first panel on
    void (*matmul)(const Matrix& w, const Inputs& x, int64_t num_rows, int64_t panel, int count, ByteRange next,
                   float* out, int64_t ld, bool accumulate);

    void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
    void (*convert)(const float* x, int64_t row, const Inputs& to);
    // Block `block` of the inputs `to` of each row: silu(gate) * up, of tile [num_rows][gate, up][BLOCK], which it changes.
    void (*silu_multiply)(float* tile, int64_t num_rows, int64_t block, const Inputs& to);
    void (*embed)(const Matrix& w, int64_t id, float* out);
    // One row: rotates queries and keys by cos_sin [2][head_dim / 2], writes queries (none if `row` is negative),
    // keys and values.
    void (*rope)(const RopeShape& shape, const float* qkv, const float* cos_sin, int64_t row, int64_t slot,
                 void* queries, const KVLayer& kv, float* scratch);
    // The record of one head and slot. `scratch` has room for `stride` floats (`rope`: twice that).
    void (*write_kv)(const float* key, const float* value, int64_t head_dim, const KVLayer& kv, int64_t head,
                     int64_t slot, float* scratch);

    void (*attend)(const AttentionShape& shape, const KVLayer& kv, const SegmentView& segments,
                   const AttentionUnit& unit, void* scratch);
    int64_t (*attend_scratch)(int64_t stride, int64_t group);
    // Merges the partials [num_spans][group] of a row, `step` floats apart from span to span, into its output.
    void (*merge)(const AttentionShape& shape, int64_t stride, int64_t kv_head, int64_t row,
                  const float* partials, int64_t num_spans, int64_t step);

    // Takes the logits of `count` tokens from `first` on, at most BLOCK: tile [num_rows][BLOCK]. Any order of tokens.
    void (*update_maxima)(const float* tile, int64_t num_rows, int64_t first, int64_t count, Maxima* rows);
    // Sum of exp(logit - peak).
    double (*sum_weights)(const LogitsView& view, float peak);
    // The token that `uniform` falls on; -1 if the peak is not finite.
    int64_t (*draw)(const LogitsView& view, const Draw& how, void* scratch);
    // The likeliest `count` tokens in order, equal ones by id. The peak must be finite, count in 1 .. n.
    void (*find_top)(const LogitsView& view, int64_t count, int32_t* ids, void* scratch);
    int64_t (*sampling_scratch)(int64_t n);  // bytes
};

}  // namespace ramet
