// From a row of logits to a token. Included by isa.cpp.
//
// A token's distance is (peak - logit) / temperature: 0 for the likeliest, infinite for what is banned. exp(-distance)
// is its weight, its probability up to a factor. Distances are never negative, so their bits, read as integers,
// are in the order of likelihood: what top-k and top-p keep is found by counting digits, without sorting.
#pragma once

#include <algorithm>
#include <cfloat>

#include "simd.h"
#include "types.h"

namespace ramet {
namespace RAMET_ISA {

constexpr int64_t GROUPED = 512;   // logits that share a vector of 16 maxima
constexpr int64_t SUMMED = 128;    // weights that are summed in float32, pairwise, before float64 takes over
constexpr int BINS = 2048;
constexpr float LOG2_E = 1.4426950408889634f;

// Where a thread keeps what it needs for one row.
struct Workspace {
    double* sums;        // of SUMMED weights each
    double* masses;      // [BINS]
    uint32_t* members;   // [BINS]
    float* groups;       // maxima of the 16 lanes of GROUPED logits each
    float* distances;    // of the candidates
    float* weights;
    int32_t* ids;        // ascending
};

static int64_t sampling_scratch(int64_t n) {
    return (n / SUMMED + 1 + BINS) * 8 + (BINS + (n / GROUPED + 1) * LANES + 3 * (n + 2 * LANES)) * 4;
}

static Workspace workspace(int64_t n, void* scratch) {
    Workspace w;
    w.sums = static_cast<double*>(scratch);
    w.masses = w.sums + n / SUMMED + 1;
    w.members = reinterpret_cast<uint32_t*>(w.masses + BINS);
    w.groups = reinterpret_cast<float*>(w.members + BINS);
    w.distances = w.groups + (n / GROUPED + 1) * LANES;
    w.weights = w.distances + n + 2 * LANES;
    w.ids = reinterpret_cast<int32_t*>(w.weights + n + 2 * LANES);
    return w;
}

// Which of 16 tokens from a multiple of 16 on may be drawn.
RAMET_INLINE uint32_t allowed_bits(const LogitsView& view, int64_t first) {
    uint32_t bits = view.allowed ? view.allowed[first / 32] >> (first % 32) & 0xffff : 0xffff;
    return view.n - first < LANES ? bits & ((1u << (view.n - first)) - 1) : bits;
}

RAMET_INLINE F32 logits_at(const LogitsView& view, int64_t first, uint32_t allowed) {
    if (allowed == 0xffff) return load(view.logits + first);
    int64_t count = view.n - first;
    F32 x = count < LANES ? load_first(view.logits + first, int(count)) : load(view.logits + first);
    return keep_bits(x, allowed, set1(-INFINITY));
}

RAMET_INLINE F32 distances_at(const LogitsView& view, int64_t first, F32 peak, F32 temperature) {
    return (peak - logits_at(view, first, allowed_bits(view, first))) / temperature;
}

RAMET_INLINE F32 weights_of(F32 distances) { return exp2(distances * set1(-LOG2_E)); }

// The largest logit and the first token that has it; -1 if it is not finite or a logit is not a number.
struct Peak {
    float value;
    int64_t first;
};

static Peak find_peak(const LogitsView& view, void* scratch) {
    float* groups = workspace(view.n, scratch).groups;
    const F32 nothing = set1(-INFINITY);
    F32 best = nothing;
    uint32_t not_numbers = 0;
    int64_t num_groups = 0;
    for (int64_t begin = 0; begin < view.n; begin += GROUPED, num_groups += LANES) {
        F32 m0 = nothing, m1 = nothing, m2 = nothing, m3 = nothing;
        if (!view.allowed && view.n - begin >= GROUPED) {
            const float* from = view.logits + begin;
            for (int64_t i = 0; i < GROUPED; i += 4 * LANES) {
                F32 a = load(from + i), b = load(from + i + 16), c = load(from + i + 32), d = load(from + i + 48);
                m0 = max(m0, a), m1 = max(m1, b), m2 = max(m2, c), m3 = max(m3, d);
                not_numbers |= unordered_bits(a, b) | unordered_bits(c, d);
            }
        } else {
            const int64_t end = view.n - begin < GROUPED ? view.n : begin + GROUPED;
            for (int64_t i = begin; i < end; i += LANES) {
                const uint32_t allowed = allowed_bits(view, i);
                if (!allowed) continue;
                F32 x = logits_at(view, i, allowed);
                m0 = max(m0, x);
                not_numbers |= unordered_bits(x, x);
            }
        }
        F32 most = max(max(m0, m1), max(m2, m3));
        store(groups + num_groups, most);
        best = max(best, most);
    }
    if (not_numbers) return {NAN, -1};
    const float peak = maximum(best);
    if (!std::isfinite(peak)) return {peak, -1};
    int64_t group = 0;
    while (!equal_bits(load(groups + group), set1(peak))) group += LANES;
    for (int64_t i = group / LANES * GROUPED;; i += LANES) {
        const uint32_t bits = equal_bits(logits_at(view, i, allowed_bits(view, i)), set1(peak));
        if (bits) return {peak, i + __builtin_ctz(bits)};
    }
}

static void update_maxima(const float* tile, int64_t num_rows, int64_t first, int64_t count, Maxima* rows) {
    for (int64_t row = 0; row < num_rows; ++row) {
        const LogitsView view{tile + row * BLOCK, count, nullptr};
        Maxima& seen = rows[row];
        const F32 low = logits_at(view, 0, allowed_bits(view, 0));
        const F32 high = count > LANES ? logits_at(view, LANES, allowed_bits(view, LANES)) : set1(-INFINITY);
        seen.not_numbers |= unordered_bits(low, high) != 0;
        // Rare after the first few
        for (uint32_t bits = less_equal_bits(load(seen.value), max(low, high)); bits; bits &= bits - 1) {
            const int lane = __builtin_ctz(bits);
            for (int64_t i = lane; i < count; i += LANES) {
                const float value = view.logits[i];
                const int32_t token = int32_t(first + i);
                if (value > seen.value[lane] || (value == seen.value[lane] && token < seen.token[lane])) {
                    seen.value[lane] = value;
                    seen.token[lane] = token;
                }
            }
        }
    }
}

// The sum of f(i) over vectors i = 0, 16, .. below n: pairwise in float32 for each SUMMED, then in float64.
template <class Vector>
RAMET_INLINE double blocked_sum(int64_t n, double* sums, const Vector& f) {
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += SUMMED) {
        auto at = [&](int64_t i) { return begin + i < n ? f(begin + i) : zero(); };
        F32 low = (at(0) + at(16)) + (at(32) + at(48)), high = (at(64) + at(80)) + (at(96) + at(112));
        const double of_block = double(sum(low + high));
        if (sums) sums[begin / SUMMED] = of_block;
        total += of_block;
    }
    return total;
}

static double sum_weights(const LogitsView& view, float peak) {
    const F32 most = set1(peak), scale = set1(LOG2_E);
    return blocked_sum(view.n, nullptr, [&](int64_t i) {
        return exp2((logits_at(view, i, allowed_bits(view, i)) - most) * scale);
    });
}

// A cut through candidates: what is nearer than `distance` stays, and the first `room` of those just there.
struct Cut {
    float distance;
    int64_t room;
};

// The last candidate, nearest first, before which there is less than `limit`; nothing is before the first. What is
// added up are the candidates' probabilities, or without them their numbers. Candidates must not be empty.
static Cut find_cut(const float* distances, const float* probabilities, int64_t n, double limit, const Workspace& w) {
    uint32_t low = 0, chosen = 0;  // the bits of the distance so far
    double before = 0;
    for (int shift = 20, size = BINS; shift >= 0; shift -= 10, size = BINS / 2) {
        std::memset(w.members, 0, size_t(size) * sizeof *w.members);
        if (probabilities) std::memset(w.masses, 0, size_t(size) * sizeof *w.masses);
        auto count = [&](int64_t i) {
            const uint32_t digit = to_bits(distances[i]) >> shift & uint32_t(size - 1);
            ++w.members[digit];
            if (probabilities) w.masses[digit] += double(probabilities[i]);
        };
        if (shift == 20) {
            for (int64_t i = 0; i < n; ++i) count(i);
        } else {
            const uint32_t infinity = 0x7f800000, high = low + (1u << (shift + 10)) - 1;
            const F32 from = set1(from_bits(low)), to = set1(from_bits(high < infinity ? high : infinity));
            for (int64_t i = 0; i < n; i += LANES) {
                F32 x = load_first(distances + i, n - i < LANES ? int(n - i) : LANES);
                uint32_t bits = less_equal_bits(from, x) & less_equal_bits(x, to);
                if (n - i < LANES) bits &= (1u << (n - i)) - 1;
                for (; bits; bits &= bits - 1) count(i + __builtin_ctz(bits));
            }
        }
        bool found = false;
        double sum = before;
        for (uint32_t digit = 0; digit < uint32_t(size) && !(found && !(sum < limit)); ++digit) {
            if (!w.members[digit]) continue;
            found = true;
            chosen = digit;
            before = sum;
            sum += probabilities ? w.masses[digit] : double(w.members[digit]);
        }
        low |= chosen << shift;
    }
    const double each = probabilities ? w.masses[chosen] / w.members[chosen] : 1.0;
    int64_t room = 0;
    do {
        ++room;
        before += each;
    } while (room < w.members[chosen] && before < limit);
    return {from_bits(low), room};
}

// Moves the candidates from i on that have their bit to place `kept`, which is not behind i; returns how many.
RAMET_INLINE int64_t move_candidates(int64_t i, uint32_t bits, int64_t kept, const Workspace& w) {
    F32 distances = load(w.distances + i), weights = load(w.weights + i);
    if (bits == 0xffff) {
        std::memmove(w.ids + kept, w.ids + i, LANES * sizeof *w.ids);
    } else {
        int count = 0;
        for (uint32_t rest = bits; rest; rest &= rest - 1) w.ids[kept + count++] = w.ids[i + __builtin_ctz(rest)];
    }
    append(w.distances + kept, distances, bits);
    return append(w.weights + kept, weights, bits);
}

// The candidates that a cut keeps; returns how many.
static int64_t keep(Cut cut, int64_t n, const Workspace& w) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        const uint32_t present = n - i < LANES ? (1u << (n - i)) - 1 : 0xffff;
        F32 x = load(w.distances + i), limit = set1(cut.distance);
        uint32_t bits = less_equal_bits(x, limit) & present;
        for (uint32_t equal = equal_bits(x, limit) & present; equal; equal &= equal - 1)
            if (cut.room-- <= 0) bits &= ~(equal & (0 - equal));
        if (bits) kept += move_candidates(i, bits, kept, w);
    }
    return kept;
}

// The candidates whose weight is not below `least`; returns how many.
static int64_t keep_heavy(float least, int64_t n, const Workspace& w) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        uint32_t bits = less_equal_bits(set1(least), load(w.weights + i));
        if (n - i < LANES) bits &= (1u << (n - i)) - 1;
        if (bits) kept += move_candidates(i, bits, kept, w);
    }
    return kept;
}

// Candidates: the tokens at most `bound` away, in order of id; returns how many.
static int64_t gather(const LogitsView& view, float peak, float temperature, float bound, const Workspace& w) {
    const F32 most = set1(peak), divisor = set1(temperature), limit = set1(bound);
    int64_t n = 0;
    for (int64_t i = 0; i < view.n; i += LANES) {
        const uint32_t allowed = allowed_bits(view, i);
        if (!allowed) continue;
        F32 x = (most - logits_at(view, i, allowed)) / divisor;
        const uint32_t bits = less_equal_bits(x, limit) & (view.n - i < LANES ? (1u << (view.n - i)) - 1 : 0xffff);
        if (!bits) continue;
        append_numbers(w.ids + n, int32_t(i), bits);
        n += append(w.distances + n, x, bits);
    }
    return n;
}

// A distance within which there are at least `count` tokens, close to the smallest one; FLT_MAX if unknown.
// Every group of `find_peak` has a token at the distance of its maximum. Changes the groups.
static float bound_of_count(const LogitsView& view, float peak, float temperature, int64_t count, const Workspace& w) {
    const int64_t num_groups = (view.n + GROUPED - 1) / GROUPED * LANES;
    if (count > num_groups) return FLT_MAX;
    for (int64_t i = 0; i < num_groups; i += LANES)
        store(w.groups + i, (set1(peak) - load(w.groups + i)) / set1(temperature));
    return find_cut(w.groups, nullptr, num_groups, double(count), w).distance;
}

// A distance within which there is at least `top_p` of the weight, and the weight of all tokens.
static float bound_of_mass(const LogitsView& view, float peak, float temperature, double top_p, double* total) {
    const F32 most = set1(peak), divisor = set1(temperature);
    constexpr int STEPS = 4;
    const float steps[STEPS] = {1.5f, 3.0f, 4.5f, 6.5f};
    F32 within[STEPS] = {zero(), zero(), zero(), zero()};
    *total = blocked_sum(view.n, nullptr, [&](int64_t i) {
        F32 x = distances_at(view, i, most, divisor), weight = weights_of(x);
        for (int s = 0; s < STEPS; ++s)
            within[s] = within[s] + keep_bits(weight, less_equal_bits(x, set1(steps[s])), zero());
        return weight;
    });
    for (int s = 0; s < STEPS; ++s)
        if (double(sum(within[s])) > (top_p + 1e-3) * *total) return steps[s];  // the margin is for rounding
    // What is farther has less than (1 - top_p) / n of the weight each, so less than 1 - top_p together
    const double farthest = std::log(double(view.n) / *total / (1.0 - top_p)) + 0.01;
    return farthest < double(FLT_MAX) ? float(farthest) : FLT_MAX;
}

RAMET_INLINE F32 weights_at(const float* weights, int64_t first, int64_t n) {
    return n - first < LANES ? load_first(weights + first, int(n - first)) : load(weights + first);
}

// Of n weights, the first one at which their running sum exceeds `uniform` times the whole.
static int64_t pick(const float* weights, int64_t n, double uniform, const Workspace& w) {
    const double total = blocked_sum(n, w.sums, [&](int64_t i) { return weights_at(weights, i, n); });
    const double target = uniform * total;
    const int64_t last_block = (n - 1) / SUMMED;
    double reached = 0;
    int64_t block = 0;
    while (block < last_block && !(reached + w.sums[block] > target)) reached += w.sums[block++];
    for (int64_t i = block * SUMMED; i < n; ++i) {
        reached += double(weights[i]);
        if (weights[i] > 0 && reached > target) return i;
    }
    // Rounding left the sum at the target: the last one that can be drawn at all
    for (int64_t i = n - 1; i > 0; --i)
        if (weights[i] > 0) return i;
    return 0;
}

static int64_t draw(const LogitsView& view, const Draw& how, void* scratch) {
    const Workspace w = workspace(view.n, scratch);
    const Peak peak = find_peak(view, scratch);
    const float temperature = how.temperature;
    if (peak.first < 0 || !(temperature > 0)) return peak.first;
    const bool few = how.top_k > 0 && how.top_k < view.n, nucleus = how.top_p < 1, cut = how.min_p > 0;

    if (!few && !nucleus && !cut) {
        for (int64_t i = 0; i < view.n; i += LANES)
            store(w.weights + i, weights_of(distances_at(view, i, set1(peak.value), set1(temperature))));
        return pick(w.weights, view.n, how.uniform, w);
    }
    double total = 0;
    float bound = FLT_MAX;
    if (few)
        bound = bound_of_count(view, peak.value, temperature, how.top_k, w);
    else if (nucleus)
        bound = bound_of_mass(view, peak.value, temperature, double(how.top_p), &total);
    if (cut && !(few && nucleus))  // top-p of top-k needs the weight of all k
        bound = std::fmin(bound, 0.01f - 1.0001f * std::log(how.min_p));
    if (!(bound <= FLT_MAX)) bound = FLT_MAX;
    int64_t n = gather(view, peak.value, temperature, bound, w);
    if (few && n > how.top_k) n = keep(find_cut(w.distances, nullptr, n, how.top_k, w), n, w);
    for (int64_t i = 0; i < n; i += LANES) store(w.weights + i, weights_of(load(w.distances + i)));
    if (nucleus && few) total = blocked_sum(n, nullptr, [&](int64_t i) { return weights_at(w.weights, i, n); });
    // What is left is the likeliest few in any case, so it is the same to cut by min_p before top_p
    if (cut) n = keep_heavy(how.min_p, n, w);
    if (nucleus && n) {
        for (int64_t i = 0; i < n; i += LANES) store(w.weights + i, load(w.weights + i) / set1(float(total)));
        n = keep(find_cut(w.distances, w.weights, n, double(how.top_p), w), n, w);
    }
    return n ? w.ids[pick(w.weights, n, how.uniform, w)] : peak.first;
}

struct Likelier {
    const float* logits;
    bool operator()(int32_t a, int32_t b) const {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    }
};

static void find_top(const LogitsView& view, int64_t count, int32_t* ids, void* scratch) {
    const Workspace w = workspace(view.n, scratch);
    const Peak peak = find_peak(view, scratch);
    float bound = bound_of_count(view, peak.value, 1.0f, count, w);
    if (bound == FLT_MAX) bound = INFINITY;
    int64_t n = gather(view, peak.value, 1.0f, bound, w);
    n = keep(find_cut(w.distances, nullptr, n, double(count), w), n, w);
    std::memcpy(ids, w.ids, size_t(n) * sizeof *ids);
    std::sort(ids, ids + n, Likelier{view.logits});
}

}  // namespace RAMET_ISA
}  // namespace ramet
