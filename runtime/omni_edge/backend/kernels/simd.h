/* Vectors of 32-bit lanes: GNU C's own arithmetic, and what it cannot say, for each instruction set.
 *
 *     LANES, REGISTERS     lanes of a vector, vector registers of the processor
 *     f32, i32, u32        vectors of LANES elements; +, *, >>, & and comparisons work lane by lane
 *     DOT4                 defined where products of bytes exist (AVX2, AVX512BW, NEON with dotprod)
 *     dot4(sum, w, x)      adds to each lane the products of its four weights and its four activations
 *     dot4_begin, dot4_add, dot4_end    the same for up to DOT4_TERMS products, where sums of 16 bits make it cheaper
 *     dot4_weights         stored 8-bit codes -> weights as dot4 takes them; 4-bit codes are weights
 *     dot4_zero_point      the 8-bit weight, as dot4 takes it, that stands for code 128
 *     DOT8_PAIRS           defined where products of two by two rows of eight bytes exist (NEON with i8mm)
 *     dot8_pairs(sum, w, x)    adds them: each row of w and each row of x fills two lanes
 *     dot4_fold            adds up four lanes at a time of FOLDED vectors of products: one vector of sums
 */
#ifndef OMNI_EDGE_SIMD_H
#define OMNI_EDGE_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define LANES 16
#define DOT4
#elif defined(__AVX__)
#define LANES 8
#ifdef __AVX2__
#define DOT4
#endif
#else
#define LANES 4
#if defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__)
#define DOT4
#ifdef __ARM_FEATURE_MATMUL_INT8
#define DOT8_PAIRS
#endif
#endif
#endif

#if LANES == 16 || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif

typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef int32_t i32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* -- memory -- */

INLINE f32 load(const float *from) {
    f32 v;
    memcpy(&v, from, sizeof(v));
    return v;
}

INLINE i32 load_i32(const void *from) {
    i32 v;
    memcpy(&v, from, sizeof(v));
    return v;
}

/* Reads at most `left` bytes; the rest of the vector is zero. */
INLINE i32 load_partial(const void *from, size_t left) {
    if (left >= sizeof(i32)) return load_i32(from);
    i32 v = {0};
    memcpy(&v, from, left);
    return v;
}

INLINE void store(float *to, f32 v) { memcpy(to, &v, sizeof(v)); }

/* Reads at most `left` float16 values; the rest of the vector is zero. */
INLINE f32 load_float16(const uint16_t *from, int64_t left) {
    uint16_t end[LANES] = {0};
    if (left < LANES) from = memcpy(end, from, (size_t)left * sizeof(*from));
#if LANES == 16
    return (f32)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)from));
#elif LANES == 8 && defined(__F16C__)
    return (f32)_mm256_cvtph_ps(_mm_loadu_si128((const void *)from));
#elif LANES == 4 && defined(__aarch64__)
    return (f32)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#else
    u32 v = {0};
    for (int lane = 0; lane < LANES; lane++) v[lane] = from[lane];
    const u32 value = (u32)((f32)((v & 0x7fff) << 13) * 0x1p112f); /* the exponents' offsets differ by 112 */
    const u32 not_finite = (u32)((v & 0x7c00) == 0x7c00) & 0x7f800000;
    return (f32)(value | not_finite | (v & 0x8000) << 16);
#endif
}

/* 0, 1, 2 .. */
INLINE i32 lane_numbers(void) {
    i32 v;
    for (int lane = 0; lane < LANES; lane++) v[lane] = lane;
    return v;
}

/* Those of LANES 4-bit codes, even ones in low nibbles, that have the given numbers. */
INLINE i32 pick_nibbles(const uint8_t *from, i32 numbers) {
    uint32_t codes[2] = {0};
    memcpy(codes, from, LANES / 2);
    u32 v = (u32){0} + codes[0];
    const u32 upper = (u32)(numbers > 7);
    if (LANES > 8) v = (v & ~upper) | (((u32){0} + codes[1]) & upper);
    return (i32)(v >> (u32)(numbers % 8 * 4) & 15);
}

/* Reads at most `left` 4-bit codes, even ones from low nibbles; the rest of the vector is zero if `left` is even. */
INLINE i32 load_nibbles(const uint8_t *from, int64_t left) {
    uint8_t end[LANES / 2] = {0};
    if (left < LANES) from = memcpy(end, from, (size_t)(left + 1) / 2);
    return pick_nibbles(from, lane_numbers());
}

/* The 32 bits at `from`, in every lane. */
INLINE i32 broadcast32(const void *from) {
    int32_t value;
    memcpy(&value, from, sizeof(value));
    return (i32){0} + value;
}

/* The 64 bits at `from`, in every pair of lanes. */
INLINE i32 broadcast64(const void *from) {
    typedef int64_t pairs __attribute__((vector_size(4 * LANES)));
    int64_t value;
    memcpy(&value, from, sizeof(value));
    return (i32)((pairs){0} + value);
}

/* The 64 bits at each of two addresses, one behind the other. */
INLINE i32 load_pair64(const void *low, const void *high) {
    i32 v = {0};
    memcpy(&v, low, 8);
    memcpy((char *)&v + 8, high, 8);
    return v;
}

/* Prefetches `ahead` bytes after `from` into the second-level cache, which has more requests under way than the first.
 * The address may lie outside of mapped memory. */
INLINE void prefetch(const void *from, int64_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)from + (uintptr_t)ahead), 0, 2);
}

/* -- lanes -- */

#if LANES == 16
#define LOW_MASK 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_MASK 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW_MASK 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_MASK 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW_MASK 0, 4, 1, 5
#define HIGH_MASK 2, 6, 3, 7
#endif

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (i32){__VA_ARGS__})
#endif

/* The lower, or the upper, halves of two vectors of any type, lane by lane in alternation. */
#define INTERLEAVE_LOW(a, b) SHUFFLE(a, b, LOW_MASK)
#define INTERLEAVE_HIGH(a, b) SHUFFLE(a, b, HIGH_MASK)

/* Transposes a square of LANES vectors: log2(LANES) rounds that interleave its upper with its lower half. */
INLINE void transpose_square(i32 *v) {
    for (int round = 1; round < LANES; round *= 2) {
        i32 out[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            out[2 * i] = INTERLEAVE_LOW(v[i], v[i + LANES / 2]);
            out[2 * i + 1] = INTERLEAVE_HIGH(v[i], v[i + LANES / 2]);
        }
        memcpy(v, out, sizeof(out));
    }
}

/* Lane by lane; b where either is not a number. */
INLINE f32 minimum(f32 a, f32 b) { return (f32)(((i32)a & (a < b)) | ((i32)b & ~(a < b))); }
INLINE f32 maximum(f32 a, f32 b) { return (f32)(((i32)a & (a > b)) | ((i32)b & ~(a > b))); }

/* The largest lane, in every lane. */
INLINE f32 broadcast_maximum(f32 v) {
    for (int round = 1; round < LANES; round *= 2) v = maximum(INTERLEAVE_LOW(v, v), INTERLEAVE_HIGH(v, v));
    return v;
}

/* The sum of the lanes. */
INLINE float sum_lanes(f32 v) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#elif LANES == 8
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#elif defined(__aarch64__)
    return vaddvq_f32((float32x4_t)v);
#else
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
#endif
}

/* The vector, which compilers may not compute in another order than written: they would run out of registers. */
INLINE i32 in_order(i32 v) {
#if defined(__x86_64__)
    __asm__("" : "+x"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

/* -- functions of floats -- */

/* The sum of (x - mean)^2 of n values. */
static inline float sum_of_squares(const float *x, float mean, int64_t n) {
    enum { CHAINS = 4, STEP = CHAINS * LANES }; /* independent chains of additions */
    f32 sums[CHAINS] = {{0}};
    float sum = 0;
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
        for (int j = 0; j < CHAINS; j++) {
            const f32 v = load(x + i + j * LANES) - mean;
            sums[j] += v * v;
        }
    for (; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    for (int j = 0; j < CHAINS; j++) sum += sum_lanes(sums[j]);
    return sum;
}

/* 2^x for x <= 0, with a relative error of 2e-7; 0 below 2^-126. */
INLINE f32 exp2_nonpositive(f32 x) {
    const f32 shifted = x + 12582912.0f; /* 1.5 * 2^23 leaves the nearest integer in the lowest bits */
    const f32 r = x - (shifted - 12582912.0f);
    const f32 p = 1.00000007f + r * (0.693146967f + r * (0.240221197f + r * (0.0555071327f + r * (0.00967554133f +
                  r * 0.00132764715f))));
    return (f32)(((u32)p + ((u32)shifted << 23)) & (u32)(x >= -126.0f));
}

/* 1 / (1 + 2^-x). */
INLINE f32 sigmoid2(f32 x) {
    const f32 e = exp2_nonpositive(minimum(x, -x)); /* cannot overflow */
    const u32 negative = (u32)(x < 0.0f);
    const f32 upper = (f32)(((u32)e & negative) | ((u32)((f32){0} + 1.0f) & ~negative));
    return upper / (1.0f + e);
}

/* -- products of bytes -- */

#ifdef DOT4

#if defined(__AVX512VNNI__) && LANES == 16 || defined(__AVXVNNI__) && LANES == 8
#define DOT4_UNSIGNED
#endif
/* Whether sums of products of 4-bit weights have 16 bits first. */
#if LANES == 4 || defined(DOT4_UNSIGNED)
#define DOT4_SHORT_SUMS 0
#else
#define DOT4_SHORT_SUMS 1
#endif

/* Products of 4-bit weights that dot4_add may add between dot4_begin and dot4_end: 8 * 2 * 15 * 127 fits in 16 bits. */
enum { DOT4_TERMS = 8 };

#if LANES == 4

/* Both factors are signed. */
INLINE int dot4_zero_point(void) { return 0; }
INLINE i32 dot4_weights(i32 codes) { return codes ^ (int32_t)0x80808080; }
INLINE i32 dot4(i32 sum, i32 w, i32 x, int bits) {
    return (void)bits, (i32)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
}

#ifdef DOT8_PAIRS
/* Lanes 0 and 1 are the products of x's first row with both rows of w, lanes 2 and 3 those of its second row. */
INLINE i32 dot8_pairs(i32 sum, i32 w, i32 x) {
    return (i32)vmmlaq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w);
}
#endif

#elif defined(DOT4_UNSIGNED)

/* The weights are unsigned, as they are stored; the activations are signed. */
INLINE int dot4_zero_point(void) { return 128; }
INLINE i32 dot4_weights(i32 codes) { return codes; }
INLINE i32 dot4(i32 sum, i32 w, i32 x, int bits) {
    (void)bits;
#if LANES == 16
    return (i32)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#else
    return (i32)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
#endif
}

#else

/* Sums of two products must fit in 16 bits. Those of 4-bit weights do; 8-bit weights become signed, and their sign
 * moves to the activation. */
INLINE int dot4_zero_point(void) { return 0; }
INLINE i32 dot4_weights(i32 codes) { return codes ^ (int32_t)0x80808080; }
INLINE i32 dot4(i32 sum, i32 w, i32 x, int bits) {
#if LANES == 16
    __m512i a = (__m512i)w, b = (__m512i)x;
    if (bits == 8) {
        b = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
        a = _mm512_abs_epi8(a);
    }
    return sum + (i32)_mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1));
#else
    __m256i a = (__m256i)w, b = (__m256i)x;
    if (bits == 8) a = _mm256_abs_epi8(a), b = _mm256_sign_epi8(b, (__m256i)w);
    return sum + (i32)_mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1));
#endif
}

#endif

#if DOT4_SHORT_SUMS

INLINE i32 dot4_begin(i32 sum, int bits) { return bits == 4 ? (i32){0} : sum; }
INLINE i32 dot4_add(i32 sums, i32 w, i32 x, int bits) {
    if (bits != 4) return dot4(sums, w, x, bits);
#if LANES == 16
    return (i32)_mm512_add_epi16((__m512i)sums, _mm512_maddubs_epi16((__m512i)w, (__m512i)x));
#else
    return (i32)_mm256_add_epi16((__m256i)sums, _mm256_maddubs_epi16((__m256i)w, (__m256i)x));
#endif
}
INLINE i32 dot4_end(i32 sum, i32 sums, int bits) {
    if (bits != 4) return sums;
#if LANES == 16
    return sum + (i32)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(1));
#else
    return sum + (i32)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1));
#endif
}

#else

INLINE i32 dot4_begin(i32 sum, int bits) { return (void)bits, sum; }
INLINE i32 dot4_add(i32 sums, i32 w, i32 x, int bits) { return dot4(sums, w, x, bits); }
INLINE i32 dot4_end(i32 sum, i32 sums, int bits) { return (void)sum, (void)bits, sums; }

#endif

/* -- folding: each sum is that of four lanes, a quad, of FOLDED vectors -- */

enum { FOLDED = 4, QUADS = LANES / 4 };

/* A shuffle of two vectors, the same in each quad, and the order in which folding leaves the quads. */
#if LANES == 16
#define QUAD_MASK(a, b, c, d) \
    a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12
#define FOLDED_MASK 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15
#elif LANES == 8
#define QUAD_MASK(a, b, c, d) a, b, c, d, a + 4, b + 4, c + 4, d + 4
#define FOLDED_MASK 0, 2, 4, 6, 1, 3, 5, 7
#else
#define QUAD_MASK(a, b, c, d) a, b, c, d
#define FOLDED_MASK 0, 1, 2, 3
#endif

/* Puts values of consecutive quads into the order that folding leaves; the three forms say what is read. */
INLINE f32 folded_order(f32 v) { return SHUFFLE(v, v, FOLDED_MASK); }
INLINE i32 load_nibbles_folded(const uint8_t *from) { return pick_nibbles(from, (i32){FOLDED_MASK}); }
INLINE f32 load_float16_folded(const uint16_t *from) {
#if LANES == 8 && defined(__F16C__)
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return (f32)_mm256_cvtph_ps(_mm_shuffle_epi8(_mm_loadu_si128((const void *)from), order));
#else
    return folded_order(load_float16(from, LANES));
#endif
}

/* Adds terms as dot4_add leaves them. */
INLINE i32 add_terms(i32 a, i32 b) {
#if DOT4_SHORT_SUMS
    typedef int16_t i16 __attribute__((vector_size(4 * LANES)));
    return (i32)((i16)a + (i16)b);
#else
    return a + b;
#endif
}

/* Adds two lanes of each quad: those of a come first. */
INLINE f32 fold_pair(i32 a, i32 b) {
    enum { N = LANES };
    return (f32)add_terms(SHUFFLE(a, b, QUAD_MASK(0, 1, N, N + 1)), SHUFFLE(a, b, QUAD_MASK(2, 3, N + 2, N + 3)));
}

/* The terms, of DOT4_TERMS / FOLDED products of 4-bit weights each, began at 0. */
INLINE i32 dot4_fold(const i32 *terms) {
    enum { N = LANES };
    /* As floats, because that shuffle is one instruction. */
    const f32 a = fold_pair(terms[0], terms[1]), b = fold_pair(terms[2], terms[3]);
    const f32 even = SHUFFLE(a, b, QUAD_MASK(0, 2, N, N + 2)), odd = SHUFFLE(a, b, QUAD_MASK(1, 3, N + 1, N + 3));
    return dot4_end((i32){0}, add_terms((i32)even, (i32)odd), 4);
}

#endif
#endif
