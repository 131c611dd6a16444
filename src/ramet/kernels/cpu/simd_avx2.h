// The 16-lane vectors of simd.h as pairs of AVX2 registers. Included by simd.h alone.
#pragma once

namespace ramet {
namespace RAMET_ISA {

struct F32 { __m256 a, b; };
struct I32 { __m256i a, b; };
struct Bytes { __m256i a, b; };

RAMET_INLINE F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
RAMET_INLINE F32 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
RAMET_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
RAMET_INLINE void store(float* p, F32 x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
RAMET_INLINE F32 operator+(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
RAMET_INLINE F32 operator-(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
RAMET_INLINE F32 operator*(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
RAMET_INLINE F32 operator/(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
RAMET_INLINE F32 fma(F32 x, F32 y, F32 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
RAMET_INLINE F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
RAMET_INLINE F32 reciprocal(F32 x) { return set1(1.0f) / x; }
RAMET_INLINE float sum(F32 x) {
    __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
RAMET_INLINE float maximum(F32 x) {
    __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
RAMET_INLINE F32 maxima16(const float* p) {
    alignas(64) float all[16];
    for (int i = 0; i < 16; ++i) all[i] = maximum(load(p + 16 * i));
    return load(all);
}

RAMET_INLINE F32 replace_from(F32 x, int first, F32 other) {
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), limit = _mm256_set1_epi32(first);
    __m256 kept_a = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, index));
    __m256 kept_b = _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, _mm256_add_epi32(index, _mm256_set1_epi32(8))));
    return {_mm256_blendv_ps(other.a, x.a, kept_a), _mm256_blendv_ps(other.b, x.b, kept_b)};
}
RAMET_INLINE void store_first(float* p, F32 x, int count) {
    alignas(32) float all[16];
    store(all, x);
    std::memcpy(p, all, sizeof(float) * size_t(count < 16 ? count : 16));
}
RAMET_INLINE F32 load_first(const float* p, int count) {
    alignas(32) float all[16] = {};
    std::memcpy(all, p, sizeof(float) * size_t(count < 16 ? count : 16));
    return load(all);
}

RAMET_INLINE __m256 exp2_half(__m256 x) {
    __m256 usable = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ);  // true for not-a-number
    x = _mm256_max_ps(_mm256_set1_ps(-126.0f), x);
    __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 f = _mm256_sub_ps(x, whole), y = _mm256_set1_ps(1.5252733804e-5f);
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.5403530394e-4f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.3333558146e-3f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(9.6181291076e-3f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(5.5504108665e-2f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(2.4022650696e-1f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(6.9314718056e-1f));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.0f));
    // 2^whole in two steps, so that 2^128 becomes infinity and nothing wraps around
    __m256i n = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(250.0f), whole));
    __m256i half = _mm256_srai_epi32(n, 1), rest = _mm256_sub_epi32(n, half), bias = _mm256_set1_epi32(127);
    y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
    return _mm256_and_ps(y, usable);
}
RAMET_INLINE F32 exp2(F32 x) { return {exp2_half(x.a), exp2_half(x.b)}; }

RAMET_INLINE F32 exp2_rough(F32 x) { return exp2(x); }

RAMET_INLINE float largest_magnitude(F32 x, F32 y) {
    __m256i mask = _mm256_set1_epi32(0x7fffffff);
    auto bits = [&](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), mask); };
    __m256i m = _mm256_max_epi32(_mm256_max_epi32(bits(x.a), bits(x.b)), _mm256_max_epi32(bits(y.a), bits(y.b)));
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return from_bits(uint32_t(_mm_cvtsi128_si32(t)));
}
RAMET_INLINE int32_t store_int8(int8_t* p, F32 low, F32 high) {
    __m256i a = _mm256_cvtps_epi32(low.a), b = _mm256_cvtps_epi32(low.b);
    __m256i c = _mm256_cvtps_epi32(high.a), d = _mm256_cvtps_epi32(high.b);
    __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    // Packing works in halves of 128 bits: put the words of 4 values back in order
    __m256i bytes = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
    __m256i s = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return _mm_cvtsi128_si32(t);
}

RAMET_INLINE F32 load_f16(const uint16_t* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
RAMET_INLINE F32 load_bf16(const uint16_t* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    auto widen = [](__m128i half) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)); };
    return {widen(_mm_loadu_si128(q)), widen(_mm_loadu_si128(q + 1))};
}
RAMET_INLINE void store_bf16(uint16_t* p, F32 x) {
    alignas(32) float all[16];
    store(all, x);
    for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(all[i]);
}

RAMET_INLINE Bytes load_bytes(const void* p) {
    const __m256i* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
RAMET_INLINE Bytes low_nibbles(Bytes x) {
    __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
RAMET_INLINE Bytes high_nibbles(Bytes x) {
    __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(x.b, 4), mask)};
}
RAMET_INLINE Bytes broadcast4(const void* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return {_mm256_set1_epi32(word), _mm256_set1_epi32(word)};
}

RAMET_INLINE I32 set1_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
RAMET_INLINE F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

#if defined(__AVXVNNI__)
constexpr int32_t SIGNED_OFFSET = 128;
RAMET_INLINE I32 dot4(I32 acc, Bytes u, Bytes s) {
    return {_mm256_dpbusd_avx_epi32(acc.a, u.a, s.a), _mm256_dpbusd_avx_epi32(acc.b, u.b, s.b)};
}
RAMET_INLINE Bytes signed_weights(Bytes x) {
    __m256i sign = _mm256_set1_epi8(char(0x80));
    return {_mm256_xor_si256(x.a, sign), _mm256_xor_si256(x.b, sign)};
}
RAMET_INLINE I32 dot4_signed(I32 acc, Bytes w, Bytes s) { return dot4(acc, w, s); }
#else
constexpr int32_t SIGNED_OFFSET = 0;
RAMET_INLINE __m256i dot4_half(__m256i acc, __m256i u, __m256i s) {
    __m256i pairs = _mm256_maddubs_epi16(u, s);  // exact: u is at most 128
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
RAMET_INLINE I32 dot4(I32 acc, Bytes u, Bytes s) { return {dot4_half(acc.a, u.a, s.a), dot4_half(acc.b, u.b, s.b)}; }
RAMET_INLINE Bytes signed_weights(Bytes x) { return x; }
RAMET_INLINE I32 dot4_signed(I32 acc, Bytes w, Bytes s) {
    Bytes magnitude = {_mm256_abs_epi8(w.a), _mm256_abs_epi8(w.b)};
    return dot4(acc, magnitude, {_mm256_sign_epi8(s.a, w.a), _mm256_sign_epi8(s.b, w.b)});
}
#endif

// The two bf16 values of each lane, as floats.
RAMET_INLINE F32 low_bf16(Bytes x) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
}
RAMET_INLINE F32 high_bf16(Bytes x) {
    __m256i mask = _mm256_set1_epi32(int(0xffff0000));
    return {_mm256_castsi256_ps(_mm256_and_si256(x.a, mask)), _mm256_castsi256_ps(_mm256_and_si256(x.b, mask))};
}
RAMET_INLINE F32 dot2(F32 acc, Bytes x, Bytes y) {
    return fma(high_bf16(x), high_bf16(y), fma(low_bf16(x), low_bf16(y), acc));
}

// Transpose 16 x 16 words of 4 bytes: rows from `in`, out row i at out + i * stride.
RAMET_INLINE void transpose16(const void* const* in, void* out, int64_t stride_bytes) {
    for (int from = 0; from < 16; from += 8)
        for (int word = 0; word < 16; word += 8) {
            __m256 r[8], t[8];
            for (int i = 0; i < 8; ++i)
                r[i] = _mm256_loadu_ps(static_cast<const float*>(in[from + i]) + word);
            for (int i = 0; i < 8; i += 2) {
                t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
                t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
            }
            for (int i = 0; i < 8; i += 4) {
                r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
                r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
                r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
                r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
            }
            char* to = static_cast<char*>(out) + word * stride_bytes + from * 4;
            for (int i = 0; i < 4; ++i) {
                _mm256_storeu_ps(reinterpret_cast<float*>(to + i * stride_bytes), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
                _mm256_storeu_ps(reinterpret_cast<float*>(to + (i + 4) * stride_bytes),
                                 _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
            }
        }
}

RAMET_INLINE uint32_t sign_bits(__m256 a, __m256 b) {
    return uint32_t(_mm256_movemask_ps(a)) | uint32_t(_mm256_movemask_ps(b)) << 8;
}
RAMET_INLINE uint32_t equal_bits(F32 x, F32 y) {
    return sign_bits(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
}
RAMET_INLINE uint32_t less_equal_bits(F32 x, F32 y) {
    return sign_bits(_mm256_cmp_ps(x.a, y.a, _CMP_LE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LE_OQ));
}
RAMET_INLINE uint32_t unordered_bits(F32 x, F32 y) {
    return sign_bits(_mm256_cmp_ps(x.a, y.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, y.b, _CMP_UNORD_Q));
}
RAMET_INLINE F32 keep_bits(F32 x, uint32_t bits, F32 other) {
    __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), all = _mm256_set1_epi32(int(bits));
    __m256i low = _mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane);
    lane = _mm256_slli_epi32(lane, 8);
    __m256i high = _mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane);
    return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(low)),
            _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(high))};
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

}  // namespace RAMET_ISA
}  // namespace ramet
