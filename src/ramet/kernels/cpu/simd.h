// Vectors of 16 lanes, whatever the instruction set: the only header of the kernels that knows one.
//
// A 16-lane value is one register with AVX-512, two with AVX2 and four of 128 bits elsewhere (SSE2, NEON, or
// whatever the compiler makes of GCC vector extensions). Everything has internal linkage, because isa.cpp is
// compiled once per instruction set and no function of one may end up in another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define RAMET_SIMD_AVX512 1
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define RAMET_SIMD_AVX2 1
#else
#define RAMET_SIMD_GENERIC 1
#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif
#endif

#if defined(RAMET_SIMD_AVX512) && defined(__AVX512BF16__)
#define RAMET_NATIVE_BF16 1
#endif

#define RAMET_INLINE static inline __attribute__((always_inline))

namespace ramet {
namespace RAMET_ISA {

constexpr int LANES = 16;

// ------------------------------------------------------------------------------------------------ scalars

RAMET_INLINE float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

RAMET_INLINE uint32_t to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

RAMET_INLINE float bf16_to_f32(uint16_t value) { return from_bits(uint32_t(value) << 16); }

RAMET_INLINE uint16_t f32_to_bf16(float value) {
    uint32_t bits = to_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16) | 0x40;  // stays not-a-number
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

RAMET_INLINE float f16_to_f32(uint16_t value) {
    uint32_t sign = uint32_t(value & 0x8000) << 16, exponent = (value >> 10) & 31, fraction = value & 1023;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        float magnitude = float(fraction) * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -magnitude : magnitude;
    }
    return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

#if defined(RAMET_SIMD_AVX512)
// ------------------------------------------------------------------------------------------------ AVX-512

struct F32 { __m512 v; };
struct I32 { __m512i v; };
struct Bytes { __m512i v; };  // 64 bytes: 16 lanes of 4 int8 or of 2 bf16

RAMET_INLINE F32 zero() { return {_mm512_setzero_ps()}; }
RAMET_INLINE F32 set1(float x) { return {_mm512_set1_ps(x)}; }
RAMET_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
RAMET_INLINE void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
RAMET_INLINE F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
RAMET_INLINE F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
RAMET_INLINE F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
RAMET_INLINE F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
RAMET_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
RAMET_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }  // b if either is not a number
// 1 / x for normal x, to the last bit or so: an estimate of 14 bits and a step of Newton's.
RAMET_INLINE F32 reciprocal(F32 x) {
    __m512 y = _mm512_rcp14_ps(x.v);
    return {_mm512_fmadd_ps(y, _mm512_fnmadd_ps(x.v, y, _mm512_set1_ps(1.0f)), y)};
}
RAMET_INLINE float sum(F32 a) { return _mm512_reduce_add_ps(a.v); }
RAMET_INLINE float maximum(F32 a) { return _mm512_reduce_max_ps(a.v); }
// Lane i is the largest of the 16 values at p + 16 * i; 16 such vectors are read. The order of the arguments of
// each step keeps them so: pairs, fours, eights, all.
RAMET_INLINE F32 maxima16(const float* p) {
    __m512 r[16];
    for (int i = 0; i < 8; ++i) {
        __m512 a = _mm512_loadu_ps(p + 32 * i), b = _mm512_loadu_ps(p + 32 * i + 16);
        r[i] = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (int i = 0; i < 4; ++i) {
        __m512d a = _mm512_castps_pd(r[2 * i]), b = _mm512_castps_pd(r[2 * i + 1]);
        r[i] = _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (int n = 2; n > 0; n /= 2)
        for (int i = 0; i < n; ++i)
            r[i] = _mm512_max_ps(_mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x88),
                                 _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0xdd));
    return {r[0]};
}

// Lanes first .. 15 become `other`.
RAMET_INLINE F32 replace_from(F32 a, int first, F32 other) {
    __mmask16 kept = first >= 16 ? 0xffff : first <= 0 ? 0 : (1u << first) - 1;
    return {_mm512_mask_mov_ps(other.v, kept, a.v)};
}
// Slower than a whole store: with it alone, activations took 10 and rotations 30 % longer. For the end of a row.
RAMET_INLINE void store_first(float* p, F32 a, int count) {
    _mm512_mask_storeu_ps(p, count >= 16 ? 0xffff : (1u << count) - 1, a.v);
}
RAMET_INLINE F32 load_first(const float* p, int count) {
    return {_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : (1u << count) - 1, p)};
}

RAMET_INLINE F32 exp2(F32 x) {
    x.v = _mm512_max_ps(_mm512_set1_ps(-200.0f), x.v);  // operand order: not-a-number passes
    __m512 whole = _mm512_roundscale_ps(x.v, 0);
    __m512 f = _mm512_sub_ps(x.v, whole), y = _mm512_set1_ps(1.5252733804e-5f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.5403530394e-4f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.3333558146e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291076e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504108665e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022650696e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314718056e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return {_mm512_scalef_ps(y, whole)};
}

// 2^x to 2e-6, for finite x (and not-a-number).
RAMET_INLINE F32 exp2_rough(F32 x) {
    __m512 whole = _mm512_roundscale_ps(x.v, 0);
    __m512 f = _mm512_sub_ps(x.v, whole), y = _mm512_set1_ps(1.3333558146e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291076e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504108665e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022650696e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314718056e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return {_mm512_scalef_ps(y, whole)};
}

// The largest magnitude. Compares bits, so that not-a-number is larger than anything.
RAMET_INLINE float largest_magnitude(F32 a, F32 b) {
    __m512i mask = _mm512_set1_epi32(0x7fffffff);
    __m512i x = _mm512_and_si512(_mm512_castps_si512(a.v), mask);
    __m512i y = _mm512_and_si512(_mm512_castps_si512(b.v), mask);
    return from_bits(uint32_t(_mm512_reduce_max_epi32(_mm512_max_epi32(x, y))));
}
// Round 32 values to nearest even and store them as int8; returns their sum. They must lie in -127 .. 127.
RAMET_INLINE int32_t store_int8(int8_t* p, F32 low, F32 high) {
    __m512i a = _mm512_cvtps_epi32(low.v), b = _mm512_cvtps_epi32(high.v);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), _mm512_cvtsepi32_epi8(b));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

RAMET_INLINE F32 load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
RAMET_INLINE F32 load_bf16(const uint16_t* p) {
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
RAMET_INLINE void store_bf16(uint16_t* p, F32 a) {
#if defined(RAMET_NATIVE_BF16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a.v));
#else
    __m512i bits = _mm512_castps_si512(a.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#endif
}

#if defined(RAMET_NATIVE_BF16)
// (first[0] second[0] first[1] second[1] ...)
RAMET_INLINE void store_bf16_pairs(uint16_t* p, F32 first, F32 second) {
    alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(order), both));
}
#endif

RAMET_INLINE Bytes load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
RAMET_INLINE void store_bytes(void* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
RAMET_INLINE Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
RAMET_INLINE Bytes high_nibbles(Bytes a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
RAMET_INLINE Bytes flip_sign_bits(Bytes a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8(char(0x80)))}; }
// The same 4 bytes in every lane.
RAMET_INLINE Bytes broadcast4(const void* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return {_mm512_set1_epi32(word)};
}

RAMET_INLINE I32 set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
RAMET_INLINE F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }

// What is subtracted from bytes of signed weights to make them the unsigned operand of `dot4`.
constexpr int32_t SIGNED_OFFSET = 128;
// acc + the products of 4 unsigned bytes (at most 15, or any for weights from `signed_weights`) and 4 int8.
RAMET_INLINE I32 dot4(I32 acc, Bytes u, Bytes s) { return {_mm512_dpbusd_epi32(acc.v, u.v, s.v)}; }
RAMET_INLINE Bytes signed_weights(Bytes a) { return flip_sign_bits(a); }
RAMET_INLINE I32 dot4_signed(I32 acc, Bytes w, Bytes s) { return dot4(acc, w, s); }

// The two bf16 values of each lane, as floats.
RAMET_INLINE F32 low_bf16(Bytes a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
RAMET_INLINE F32 high_bf16(Bytes a) {
    return {_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(int(0xffff0000))))};
}

// acc + the products of 2 bf16 values.
RAMET_INLINE F32 dot2(F32 acc, Bytes a, Bytes b) {
#if defined(RAMET_NATIVE_BF16)
    return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
#else
    return fma(high_bf16(a), high_bf16(b), fma(low_bf16(a), low_bf16(b), acc));
#endif
}

// Transpose 16 x 16 words of 4 bytes: rows from `in`, columns in registers.
RAMET_INLINE void transpose16(const void* const* in, Bytes (&columns)[16]) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(in[i]);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        columns[i] = {_mm512_shuffle_i32x4(t[i], t[i + 8], 0x88)};
        columns[i + 8] = {_mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd)};
        columns[i + 4] = {_mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88)};
        columns[i + 12] = {_mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd)};
    }
}

// The same, column i stored at out + i * stride.
RAMET_INLINE void transpose16(const void* const* in, void* out, int64_t stride_bytes) {
    Bytes columns[16];
    transpose16(in, columns);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(static_cast<char*>(out) + i * stride_bytes, columns[i].v);
}

// Two rows of 32 16-bit values, interleaved: (a0 b0 a1 b1 ...) in two vectors.
RAMET_INLINE void interleave16(const uint16_t* a, const uint16_t* b, Bytes& first, Bytes& second) {
    alignas(64) static const uint16_t low_order[32] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    __m512i low = _mm512_load_si512(low_order), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    first = {_mm512_permutex2var_epi16(x, low, y)};
    second = {_mm512_permutex2var_epi16(x, high, y)};
}

// A bit for each lane where the comparison holds, lane 0 the lowest. Unordered: one of the two is not a number.
RAMET_INLINE uint32_t equal_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
RAMET_INLINE uint32_t less_equal_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
RAMET_INLINE uint32_t unordered_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q); }
// Lanes without their bit become `other`.
RAMET_INLINE F32 keep_bits(F32 a, uint32_t bits, F32 other) {
    return {_mm512_mask_mov_ps(other.v, __mmask16(bits), a.v)};
}
// Stores the lanes that have their bit, one after the other; returns how many. May write 16 lanes.
RAMET_INLINE int append(float* p, F32 a, uint32_t bits) {
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps(__mmask16(bits), a.v));
    return __builtin_popcount(bits);
}
// The same for the numbers first .. first + 15.
RAMET_INLINE int append_numbers(int32_t* p, int32_t first, uint32_t bits) {
    __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i numbers = _mm512_add_epi32(lanes, _mm512_set1_epi32(first));
    _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(__mmask16(bits), numbers));
    return __builtin_popcount(bits);
}
#endif

}  // namespace RAMET_ISA
}  // namespace ramet

#if defined(RAMET_SIMD_AVX2)
#include "simd_avx2.h"
#elif defined(RAMET_SIMD_GENERIC)
#include "simd_generic.h"
#endif
