// The 16-lane vectors of simd.h in GCC vector extensions: SSE2, NEON, or scalars. Included by simd.h alone.
#pragma once

namespace ramet {
namespace RAMET_ISA {

typedef float F32x4 __attribute__((vector_size(16)));
typedef int32_t I32x4 __attribute__((vector_size(16)));
typedef uint32_t U32x4 __attribute__((vector_size(16)));

struct F32 { F32x4 q[4]; };
struct I32 { I32x4 q[4]; };
struct Bytes { U32x4 q[4]; };

#define RAMET_EACH for (int i = 0; i < 4; ++i)

RAMET_INLINE F32 set1(float x) {
    F32 r;
    RAMET_EACH r.q[i] = F32x4{x, x, x, x};
    return r;
}
RAMET_INLINE F32 zero() { return set1(0.0f); }
RAMET_INLINE F32 load(const float* p) {
    F32 r;
    std::memcpy(&r, p, sizeof r);
    return r;
}
RAMET_INLINE void store(float* p, F32 x) { std::memcpy(p, &x, sizeof x); }
RAMET_INLINE F32 operator+(F32 x, F32 y) {
    RAMET_EACH x.q[i] += y.q[i];
    return x;
}
RAMET_INLINE F32 operator-(F32 x, F32 y) {
    RAMET_EACH x.q[i] -= y.q[i];
    return x;
}
RAMET_INLINE F32 operator*(F32 x, F32 y) {
    RAMET_EACH x.q[i] *= y.q[i];
    return x;
}
RAMET_INLINE F32 operator/(F32 x, F32 y) {
    RAMET_EACH x.q[i] /= y.q[i];
    return x;
}
RAMET_INLINE F32x4 fma4(F32x4 x, F32x4 y, F32x4 z) {
#if defined(__aarch64__)
    return (F32x4)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y);
#else
    return x * y + z;
#endif
}
RAMET_INLINE F32 fma(F32 x, F32 y, F32 z) {
    RAMET_EACH x.q[i] = fma4(x.q[i], y.q[i], z.q[i]);
    return x;
}
RAMET_INLINE F32 max(F32 x, F32 y) {
    RAMET_EACH x.q[i] = x.q[i] > y.q[i] ? x.q[i] : y.q[i];
    return x;
}
RAMET_INLINE F32 reciprocal(F32 x) { return set1(1.0f) / x; }
RAMET_INLINE float sum(F32 x) {
    F32x4 s = (x.q[0] + x.q[1]) + (x.q[2] + x.q[3]);
    return (s[0] + s[1]) + (s[2] + s[3]);
}
RAMET_INLINE float maximum(F32 x) {
    float m = x.q[0][0];
    for (int i = 1; i < 16; ++i) m = x.q[i / 4][i % 4] > m ? x.q[i / 4][i % 4] : m;
    return m;
}
RAMET_INLINE F32 maxima16(const float* p) {
    alignas(64) float all[16];
    for (int i = 0; i < 16; ++i) all[i] = maximum(load(p + 16 * i));
    return load(all);
}
RAMET_INLINE F32 replace_from(F32 x, int first, F32 other) {
    for (int i = first < 0 ? 0 : first; i < 16; ++i) x.q[i / 4][i % 4] = other.q[i / 4][i % 4];
    return x;
}
RAMET_INLINE void store_first(float* p, F32 x, int count) {
    std::memcpy(p, &x, sizeof(float) * size_t(count < 16 ? count : 16));
}
RAMET_INLINE F32 load_first(const float* p, int count) {
    F32 r = zero();
    std::memcpy(&r, p, sizeof(float) * size_t(count < 16 ? count : 16));
    return r;
}

RAMET_INLINE F32 exp2(F32 x) {
    F32 r;
    RAMET_EACH {
        F32x4 v = x.q[i], low = {-126.0f, -126.0f, -126.0f, -126.0f}, high = {250.0f, 250.0f, 250.0f, 250.0f};
        I32x4 too_low = v < low;
        v = too_low ? low : v;
        F32x4 bounded = v > high ? high : v;
        // Adding and taking away 1.5 * 2^23 rounds to a whole number
        const float shift = 12582912.0f;
        F32x4 whole = (bounded + shift) - shift;
        F32x4 f = bounded - whole, y = f * 1.5252733804e-5f + 1.5403530394e-4f;
        y = y * f + 1.3333558146e-3f;
        y = y * f + 9.6181291076e-3f;
        y = y * f + 5.5504108665e-2f;
        y = y * f + 2.4022650696e-1f;
        y = y * f + 6.9314718056e-1f;
        y = y * f + 1.0f;
        I32x4 is_nan = v != v;
        F32x4 usable = is_nan ? low : whole;  // converting not-a-number to an integer is undefined
        I32x4 n = __builtin_convertvector(usable, I32x4), half = n >> 1, rest = n - half;
        y = y * (F32x4)((half + 127) << 23) * (F32x4)((rest + 127) << 23);
        r.q[i] = (F32x4)((I32x4)(is_nan ? v : y) & ~too_low);
    }
    return r;
}

RAMET_INLINE F32 exp2_rough(F32 x) { return exp2(x); }

RAMET_INLINE float largest_magnitude(F32 x, F32 y) {
    uint32_t most = 0;
    for (int i = 0; i < 16; ++i) {
        uint32_t a = to_bits(x.q[i / 4][i % 4]) & 0x7fffffff, b = to_bits(y.q[i / 4][i % 4]) & 0x7fffffff;
        most = a > most ? a : most;
        most = b > most ? b : most;
    }
    return from_bits(most);
}
RAMET_INLINE int32_t store_int8(int8_t* p, F32 low, F32 high) {
    int32_t total = 0;
    for (int i = 0; i < 32; ++i) {
        const F32& from = i < 16 ? low : high;
        float v = from.q[i / 4 % 4][i % 4];
        const float shift = 12582912.0f;
        int32_t whole = v == v ? int32_t((v + shift) - shift) : 0;
        p[i] = int8_t(whole);
        total += whole;
    }
    return total;
}

RAMET_INLINE F32 load_f16(const uint16_t* p) {
    F32 r;
    for (int i = 0; i < 16; ++i) r.q[i / 4][i % 4] = f16_to_f32(p[i]);
    return r;
}
RAMET_INLINE F32 load_bf16(const uint16_t* p) {
    F32 r;
    for (int i = 0; i < 16; ++i) r.q[i / 4][i % 4] = bf16_to_f32(p[i]);
    return r;
}
RAMET_INLINE void store_bf16(uint16_t* p, F32 x) {
    for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(x.q[i / 4][i % 4]);
}

RAMET_INLINE Bytes load_bytes(const void* p) {
    Bytes r;
    std::memcpy(&r, p, sizeof r);
    return r;
}
RAMET_INLINE Bytes low_nibbles(Bytes x) {
    RAMET_EACH x.q[i] &= 0x0f0f0f0f;
    return x;
}
RAMET_INLINE Bytes high_nibbles(Bytes x) {
    RAMET_EACH x.q[i] = (x.q[i] >> 4) & 0x0f0f0f0f;
    return x;
}
RAMET_INLINE Bytes broadcast4(const void* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    Bytes r;
    RAMET_EACH r.q[i] = U32x4{word, word, word, word};
    return r;
}

RAMET_INLINE I32 set1_int(int32_t x) {
    I32 r;
    RAMET_EACH r.q[i] = I32x4{x, x, x, x};
    return r;
}
RAMET_INLINE F32 to_float(I32 x) {
    F32 r;
    RAMET_EACH r.q[i] = __builtin_convertvector(x.q[i], F32x4);
    return r;
}

constexpr int32_t SIGNED_OFFSET = 0;
RAMET_INLINE I32 dot4_signed(I32 acc, Bytes w, Bytes s) {
#if defined(__ARM_FEATURE_DOTPROD)
    RAMET_EACH acc.q[i] = (I32x4)vdotq_s32((int32x4_t)acc.q[i], (int8x16_t)w.q[i], (int8x16_t)s.q[i]);
#else
    // Sign-extended in place: shifting a byte to the top and back down keeps its sign
    for (int byte = 0; byte < 4; ++byte) {
        int up = 24 - 8 * byte;
        RAMET_EACH acc.q[i] += ((I32x4)(w.q[i] << up) >> 24) * ((I32x4)(s.q[i] << up) >> 24);
    }
#endif
    return acc;
}
// Unsigned weights are at most 15 here, so their sign bit is clear.
RAMET_INLINE I32 dot4(I32 acc, Bytes u, Bytes s) { return dot4_signed(acc, u, s); }
RAMET_INLINE Bytes signed_weights(Bytes x) { return x; }

// The two bf16 values of each lane, as floats.
RAMET_INLINE F32 low_bf16(Bytes x) {
    F32 r;
    RAMET_EACH r.q[i] = (F32x4)(x.q[i] << 16);
    return r;
}
RAMET_INLINE F32 high_bf16(Bytes x) {
    F32 r;
    RAMET_EACH r.q[i] = (F32x4)(x.q[i] & 0xffff0000);
    return r;
}
RAMET_INLINE F32 dot2(F32 acc, Bytes x, Bytes y) {
    return fma(high_bf16(x), high_bf16(y), fma(low_bf16(x), low_bf16(y), acc));
}

// Transpose 16 x 16 words of 4 bytes: rows from `in`, out row i at out + i * stride.
RAMET_INLINE void transpose16(const void* const* in, void* out, int64_t stride_bytes) {
    for (int i = 0; i < 16; ++i)
        for (int word = 0; word < 16; ++word) {
            uint32_t value;
            std::memcpy(&value, static_cast<const char*>(in[i]) + word * 4, 4);
            std::memcpy(static_cast<char*>(out) + word * stride_bytes + i * 4, &value, 4);
        }
}

// Bit i of the result: lane i of the four comparisons is true.
RAMET_INLINE uint32_t lane_bits(const I32x4* holds) {
    uint32_t bits = 0;
    RAMET_EACH {
#if defined(__SSE2__)
        bits |= uint32_t(_mm_movemask_ps((__m128)holds[i])) << (4 * i);
#else
        I32x4 own = holds[i] & (I32x4{1, 2, 4, 8} << (4 * i));
        bits |= uint32_t(own[0] | own[1] | own[2] | own[3]);
#endif
    }
    return bits;
}
RAMET_INLINE uint32_t equal_bits(F32 x, F32 y) {
    I32x4 holds[4];
    RAMET_EACH holds[i] = x.q[i] == y.q[i];
    return lane_bits(holds);
}
RAMET_INLINE uint32_t less_equal_bits(F32 x, F32 y) {
    I32x4 holds[4];
    RAMET_EACH holds[i] = x.q[i] <= y.q[i];
    return lane_bits(holds);
}
RAMET_INLINE uint32_t unordered_bits(F32 x, F32 y) {
    I32x4 holds[4];
    RAMET_EACH holds[i] = (x.q[i] != x.q[i]) | (y.q[i] != y.q[i]);
    return lane_bits(holds);
}
RAMET_INLINE F32 keep_bits(F32 x, uint32_t bits, F32 other) {
    RAMET_EACH {
        I32x4 lane = I32x4{1, 2, 4, 8} << (4 * i), all = {int(bits), int(bits), int(bits), int(bits)};
        x.q[i] = (all & lane) != 0 ? x.q[i] : other.q[i];
    }
    return x;
}
RAMET_INLINE int append(float* p, F32 x, uint32_t bits) {
    alignas(32) float all[16];
    store(all, x);
    int count = 0;
    for (; bits; bits &= bits - 1) p[count++] = all[__builtin_ctz(bits)];
    return count;
}
RAMET_INLINE int append_numbers(int32_t* p, int32_t first, uint32_t bits) {
    int count = 0;
    for (; bits; bits &= bits - 1) p[count++] = first + __builtin_ctz(bits);
    return count;
}

#undef RAMET_EACH

}  // namespace RAMET_ISA
}  // namespace ramet
