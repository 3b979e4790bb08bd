/* Vectors of floats, and products of small matrices: what both kinds of attention are made of. */
#ifndef OMNI_EDGE_VECTORS_H
#define OMNI_EDGE_VECTORS_H

#include <stdint.h>
#include <string.h>

/* LANES of a vector of the machine; and how many rows and vectors of columns a product holds in its 16 or 32 registers:
 * the second pair where there are few rows or few columns. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 6, COLUMNS = 4, FEW_ROWS = 8, FEW_COLUMNS = 2 };
#define LOW_MASK 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_MASK 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 6, COLUMNS = 2, FEW_ROWS = 6, FEW_COLUMNS = 2 };
#define LOW_MASK 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_MASK 4, 12, 5, 13, 6, 14, 7, 15
#else
#if defined(__aarch64__)
enum { LANES = 4, ROWS = 6, COLUMNS = 4, FEW_ROWS = 8, FEW_COLUMNS = 2 };
#else
enum { LANES = 4, ROWS = 6, COLUMNS = 2, FEW_ROWS = 6, FEW_COLUMNS = 2 };
#endif
#define LOW_MASK 0, 4, 1, 5
#define HIGH_MASK 2, 6, 3, 7
#endif
enum { MOST_ROWS = 8, MOST_COLUMNS = 4 };

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Bits){__VA_ARGS__})
#endif
#define FETCH(address) __builtin_prefetch(address, 0, 2) /* to the second-level cache */

INLINE Vector load(const float *from) { return *(const Unaligned *)from; }
INLINE void store(float *to, Vector vector) { *(Unaligned *)to = vector; }
/* The lower and the upper halves of a and b, interleaved. */
INLINE Vector low(Vector a, Vector b) { return SHUFFLE(a, b, LOW_MASK); }
INLINE Vector high(Vector a, Vector b) { return SHUFFLE(a, b, HIGH_MASK); }

/* Of each lane. */
INLINE Vector larger(Vector a, Vector b) {
    const Bits first = (Bits)(a > b);
    return (Vector)(((Bits)a & first) | ((Bits)b & ~first));
}

INLINE Vector smaller(Vector a, Vector b) { return -larger(-a, -b); }

/* The lanes' sum. */
INLINE float total(Vector v) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
}

/* The sum of (x - mean)^2 of n values. */
static inline float squares(const float *x, float mean, int64_t n) {
    enum { CHAINS = 4, STEP = CHAINS * LANES }; /* additions that do not wait for each other */
    Vector sums[CHAINS] = {{0}};
    float sum = 0;
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
        for (int j = 0; j < CHAINS; j++) {
            const Vector v = load(x + i + j * LANES) - mean;
            sums[j] += v * v;
        }
    for (; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    for (int j = 0; j < CHAINS; j++) sum += total(sums[j]);
    return sum;
}

/* 2^x for x <= 0, to 2e-7 of it; 0 below 2^-126. */
INLINE Vector power(Vector x) {
    const Vector shifted = x + 12582912.0f; /* 1.5 * 2^23: leaves the nearest integer in the lowest bits */
    const Vector r = x - (shifted - 12582912.0f);
    const Vector p = 1.00000007f + r * (0.693146967f + r * (0.240221197f + r * (0.0555071327f + r * (0.00967554133f +
                     r * 0.00132764715f))));
    return (Vector)(((Bits)p + ((Bits)shifted << 23)) & (Bits)(x >= -126.0f));
}

/* 1 / (1 + 2^-x) for any x. */
INLINE Vector sigmoid(Vector x) {
    const Vector e = power(smaller(x, -x)); /* which cannot overflow */
    const Bits negative = (Bits)(x < 0.0f);
    const Vector upper = (Vector)(((Bits)e & negative) | ((Bits)((Vector){0} + 1.0f) & ~negative));
    return upper / (1.0f + e);
}

/* c = factors * c + a b of a[rows][depth] and b[depth][columns], rows `stride`s apart; without factors, c = a b. */
typedef struct Product {
    const float *a, *b, *factors;
    float *c;
    int64_t a_stride, b_stride, c_stride, rows, depth, columns;
} Product;

/* With `fetch`, what lies `ahead` of b is fetched. */
INLINE void multiply_tile(const int rows, const int columns, const int fetch, const Product *p, int64_t row,
                          int64_t column, int64_t ahead) {
    const float *a = p->a + row * p->a_stride, *b = p->b + column;
    float *c = p->c + row * p->c_stride + column;
    Vector sums[MOST_ROWS][MOST_COLUMNS], right[MOST_COLUMNS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            sums[i][j] = p->factors ? p->factors[row + i] * load(c + i * p->c_stride + j * LANES) : (Vector){0};
    for (int64_t k = 0; k < p->depth; k++, b += p->b_stride) {
        for (int j = 0; j < columns; j++) {
            right[j] = load(b + j * LANES);
            if (fetch) FETCH(b + j * LANES + ahead);
        }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) sums[i][j] += a[i * p->a_stride + k] * right[j];
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) store(c + i * p->c_stride + j * LANES, sums[i][j]);
}

INLINE void multiply_shape(const int most_rows, const int most_columns, const int fetch, const Product *p,
                           int64_t ahead) {
    const int64_t pieces = (p->rows + most_rows - 1) / most_rows;
    for (int64_t column = 0, columns; column < p->columns; column += columns * LANES) {
        columns = p->columns - column < most_columns * LANES ? 1 : most_columns;
        /* As even as possible: seven rows are better done as four and three than as six and one. */
        for (int64_t piece = 0; piece < pieces; piece++) {
            const int64_t row = piece * p->rows / pieces, stop = (piece + 1) * p->rows / pieces;
#define CASE(n)                                                             \
    case n:                                                                 \
        if (n > most_rows) break;                                           \
        if (columns == 1)                                                   \
            multiply_tile(n, 1, fetch, p, row, column, ahead);              \
        else                                                                \
            multiply_tile(n, most_columns, fetch, p, row, column, ahead);   \
        break;
            switch (stop - row) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
        }
    }
}

static inline void multiply(const Product *p) { multiply_shape(ROWS, COLUMNS, 0, p, 0); }
static inline void multiply_narrow(const Product *p) { multiply_shape(FEW_ROWS, FEW_COLUMNS, 0, p, 0); }

/* rows[n][width], `stride` apart, to columns[width][wide], and any numbers beyond n. What lies `ahead` is fetched. Widths
 * are multiples of LANES. */
static inline void transpose(const float *rows, int64_t stride, int64_t n, int64_t width, int64_t ahead, float *columns,
                             int64_t wide) {
    for (int64_t j = 0; j < wide; j += LANES)
        for (int64_t k = 0; k < width; k += LANES) {
            Vector a[LANES], b[LANES];
            for (int i = 0; i < LANES; i++) {
                const int64_t at = (j + i < n ? j + i : n - 1) * stride + k;
                a[i] = load(rows + at);
                FETCH(rows + at + ahead);
            }
            for (int stage = 1; stage < LANES; stage *= 2) {
                for (int i = 0; i < LANES / 2; i++) {
                    b[2 * i] = low(a[i], a[i + LANES / 2]);
                    b[2 * i + 1] = high(a[i], a[i + LANES / 2]);
                }
                memcpy(a, b, sizeof(a));
            }
            for (int i = 0; i < LANES; i++) store(columns + (k + i) * wide + j, a[i]);
        }
}

#endif
