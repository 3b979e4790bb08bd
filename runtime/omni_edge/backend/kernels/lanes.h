/* Vectors of 32-bit lanes for the matrix kernels: GNU C's own arithmetic, and what it cannot say, per instruction set.
 *
 *     LANES                of a vector; not defined where there is no instruction set for the kernels
 *     weights_of(codes)    makes weights of what B holds, as `dot` takes them
 *     zero_point           of those
 *     dot(sum, w, x)       adds to each lane the products of its four weights with its four activations
 *     zip_low, zip_high    the lanes of two vectors' lower, or upper, halves by turns
 *     total                of a vector's lanes
 */
#ifndef OMNI_EDGE_LANES_H
#define OMNI_EDGE_LANES_H

#include <stdint.h>
#include <string.h>

#include "instructions.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifdef LANES_OF_MATRICES
#define LANES LANES_OF_MATRICES
#endif

#ifdef LANES

#define INLINE static inline __attribute__((always_inline))

typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(4 * LANES)));

#if LANES == 16

/* Weights as they are, unsigned, times signed activations: what the instruction takes. */
INLINE int zero_point(int bits) { return bits == 4 ? 8 : 128; }
INLINE ints weights_of(ints codes, int bits) { return (void)bits, codes; }
INLINE ints dot(ints sum, ints w, ints x, int bits) {
    return (void)bits, (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}
INLINE ints zip_low(ints a, ints b) {
    const ints from = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    return (ints)_mm512_permutex2var_epi32((__m512i)a, (__m512i)from, (__m512i)b);
}
INLINE ints zip_high(ints a, ints b) {
    const ints from = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (ints)_mm512_permutex2var_epi32((__m512i)a, (__m512i)from, (__m512i)b);
}
INLINE float total(floats v) { return _mm512_reduce_add_ps((__m512)v); }

#elif LANES == 8

#ifdef __AVXVNNI__
INLINE int zero_point(int bits) { return bits == 4 ? 8 : 128; }
INLINE ints weights_of(ints codes, int bits) { return (void)bits, codes; }
INLINE ints dot(ints sum, ints w, ints x, int bits) {
    return (void)bits, (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
}
#else
/* Sums of two products must fit 16 bits: so they do with weights of 4 bits, and with those of 8 bits once they are
 * signed, their sign handed to the activation. */
INLINE int zero_point(int bits) { return bits == 4 ? 8 : 0; }
INLINE ints weights_of(ints codes, int bits) { return bits == 4 ? codes : codes ^ (int32_t)0x80808080; }
INLINE ints dot(ints sum, ints w, ints x, int bits) {
    __m256i a = (__m256i)w, b = (__m256i)x;
    if (bits == 8) a = _mm256_abs_epi8(a), b = _mm256_sign_epi8(b, (__m256i)w);
    return sum + (ints)_mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1));
}
#endif
INLINE ints zip_low(ints a, ints b) {
    const __m256i l = _mm256_unpacklo_epi32((__m256i)a, (__m256i)b), h = _mm256_unpackhi_epi32((__m256i)a, (__m256i)b);
    return (ints)_mm256_permute2x128_si256(l, h, 0x20);
}
INLINE ints zip_high(ints a, ints b) {
    const __m256i l = _mm256_unpacklo_epi32((__m256i)a, (__m256i)b), h = _mm256_unpackhi_epi32((__m256i)a, (__m256i)b);
    return (ints)_mm256_permute2x128_si256(l, h, 0x31);
}
INLINE float total(floats v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

#else

/* Both factors are signed. */
INLINE int zero_point(int bits) { return (void)bits, 0; }
INLINE ints weights_of(ints codes, int bits) {
    return bits == 4 ? (ints)vsubq_u8((uint8x16_t)codes, vdupq_n_u8(8)) : codes ^ (int32_t)0x80808080;
}
INLINE ints dot(ints sum, ints w, ints x, int bits) {
    return (void)bits, (ints)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
}
INLINE ints zip_low(ints a, ints b) { return (ints)vzip1q_s32((int32x4_t)a, (int32x4_t)b); }
INLINE float total(floats v) { return vaddvq_f32((float32x4_t)v); }
INLINE ints zip_high(ints a, ints b) { return (ints)vzip2q_s32((int32x4_t)a, (int32x4_t)b); }

#endif

INLINE ints load(const void *from) {
    ints v;
    memcpy(&v, from, sizeof(v));
    return v;
}

INLINE floats smaller(floats a, floats b) { return (floats)(((ints)a & (a < b)) | ((ints)b & ~(a < b))); }
INLINE floats larger(floats a, floats b) { return (floats)(((ints)a & (a > b)) | ((ints)b & ~(a > b))); }

/* Into the second-level cache, which has more requests under way than the first; it may lie beyond what is mapped. */
INLINE void fetch(const void *from, int64_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)from + (uintptr_t)ahead), 0, 2);
}

/* Reads no more than `left` bytes; the rest is zero. */
INLINE ints load_some(const void *from, size_t left) {
    if (left >= sizeof(ints)) return load(from);
    ints v = {0};
    memcpy(&v, from, left);
    return v;
}

INLINE ints every(const void *four) {
    int32_t value;
    memcpy(&value, four, sizeof(value));
    return (ints){0} + value;
}

/* Each of log2(LANES) rounds of zipping the upper half of the vectors into the lower one. */
INLINE void transpose(ints *v) {
    for (int round = 1; round < LANES; round *= 2) {
        ints out[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            out[2 * i] = zip_low(v[i], v[i + LANES / 2]);
            out[2 * i + 1] = zip_high(v[i], v[i + LANES / 2]);
        }
        memcpy(v, out, sizeof(out));
    }
}

#endif
#endif
