/* Products of small float matrices, which both kinds of attention consist of.
 *
 *     for each strip of columns, a few vectors wide          b [depth, columns]
 *         for each group of rows, 1 to 8, of even sizes       a [rows, depth]
 *             the sums of the tile stay in registers          c [rows, columns]
 *             for each k of depth: load b's vectors once, multiply with a's elements, one for each row
 *
 * Rows of each matrix lie a stride apart; columns and the depth of a transposition are multiples of LANES.
 */
#ifndef OMNI_EDGE_MATMUL_H
#define OMNI_EDGE_MATMUL_H

#include "simd.h"

/* Rows and vectors of columns of a tile of sums; the second pair for few rows or few columns. */
enum { TILE_ROWS = 6, TILE_VECTORS = REGISTERS / 8, NARROW_ROWS = REGISTERS == 32 ? 8 : 6, NARROW_VECTORS = 2 };
enum { MAX_TILE_ROWS = 8, MAX_TILE_VECTORS = 4 };

/* c = factors * c + a b, with a factor for each row; c = a b where `factors` is null. */
typedef struct Product {
    const float *a, *b, *factors;
    float *c;
    int64_t a_stride, b_stride, c_stride, rows, depth, columns;
} Product;

/* With `prefetching`, prefetches what lies `ahead` bytes after b. */
INLINE void multiply_tile(const int rows, const int vectors, const int prefetching, const Product *p, int64_t row,
                          int64_t column, int64_t ahead) {
    const float *a = p->a + row * p->a_stride, *b = p->b + column;
    float *c = p->c + row * p->c_stride + column;
    f32 sums[MAX_TILE_ROWS][MAX_TILE_VECTORS], right[MAX_TILE_VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            sums[i][j] = p->factors ? p->factors[row + i] * load(c + i * p->c_stride + j * LANES) : (f32){0};
    for (int64_t k = 0; k < p->depth; k++, b += p->b_stride) {
        for (int j = 0; j < vectors; j++) {
            right[j] = load(b + j * LANES);
            if (prefetching) prefetch(b + j * LANES, ahead);
        }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++) sums[i][j] += a[i * p->a_stride + k] * right[j];
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) store(c + i * p->c_stride + j * LANES, sums[i][j]);
}

INLINE void multiply_tiles(const int max_rows, const int max_vectors, const int prefetching, const Product *p,
                           int64_t ahead) {
    const int64_t groups = (p->rows + max_rows - 1) / max_rows;
    for (int64_t column = 0, vectors; column < p->columns; column += vectors * LANES) {
        vectors = p->columns - column < max_vectors * LANES ? 1 : max_vectors;
        /* Groups of even sizes: seven rows run faster as four and three than as six and one. */
        for (int64_t group = 0; group < groups; group++) {
            const int64_t row = group * p->rows / groups, stop = (group + 1) * p->rows / groups;
#define ROWS(n)                                                                  \
    case n:                                                                      \
        if (n > max_rows) break;                                                 \
        if (vectors == 1)                                                        \
            multiply_tile(n, 1, prefetching, p, row, column, ahead);             \
        else                                                                     \
            multiply_tile(n, max_vectors, prefetching, p, row, column, ahead);   \
        break;
            switch (stop - row) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) }
#undef ROWS
        }
    }
}

static inline void multiply(const Product *p) { multiply_tiles(TILE_ROWS, TILE_VECTORS, 0, p, 0); }
static inline void multiply_narrow(const Product *p) { multiply_tiles(NARROW_ROWS, NARROW_VECTORS, 0, p, 0); }

/* rows [n, width] with a stride -> columns [width, wide]; columns from n on are copies of the last row.
 * Prefetches what lies `ahead` bytes after the rows. */
static inline void transpose(const float *rows, int64_t stride, int64_t n, int64_t width, int64_t ahead, float *columns,
                             int64_t wide) {
    for (int64_t j = 0; j < wide; j += LANES)
        for (int64_t k = 0; k < width; k += LANES) {
            i32 square[LANES];
            for (int i = 0; i < LANES; i++) {
                const float *from = rows + (j + i < n ? j + i : n - 1) * stride + k;
                square[i] = load_i32(from);
                prefetch(from, ahead);
            }
            transpose_square(square);
            for (int i = 0; i < LANES; i++) store(columns + (k + i) * wide + j, (f32)square[i]);
        }
}

#endif
