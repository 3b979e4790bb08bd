/* Linear layers as phases of other operators; see linear.c. */
#ifndef OMNI_EDGE_LINEAR_H
#define OMNI_EDGE_LINEAR_H

#include "phases.h"

/* One use of a matrix, shared by its threads. The fields up to `stride` are the caller's. */
typedef struct Linear {
    const float *x;           /* [m, k] */
    const uint8_t *b;         /* [n, blocks, block * bits / 8] */
    const float *scales;      /* [n, blocks] */
    const float *bias, *more; /* [n] and [m, n], which are added; or null */
    float *y;                 /* [m, n], rows `stride` apart: n, unless the caller says otherwise */
    int64_t stride;
    int64_t m, n, k, block, blocks;
    int64_t row_bytes, code_bytes; /* of a row of B, of quantized activations */
    int bits, words;               /* of 32 bits: of a block */
    int parts, span;               /* blocks of a unit, units of a block: one of them is 1 */
    int dotted;                    /* row by row */
    int64_t pieces, piece;         /* of a row of activations: how many, and their blocks */
    int64_t pitch, task_rows, tile_rows, panels;
    int8_t *codes;    /* [m, code_bytes]: `span` units; where `dotted` then zeros and scales as below, for each lane */
    float *x_scales;  /* [m, blocks] */
    int32_t *x_zeros; /* [m, blocks]: what the weights' zero point adds to a block's sum, negated */
} Linear;

/* The sizes of m rows of activations times a matrix [n, k]; whether there can be such a matrix. */
Linear linear_of(int64_t m, int64_t n, int64_t k, int64_t bits, int64_t block);
int linear_fits(int64_t n, int64_t k, int64_t bits, int64_t block);

/* How much memory the quantized activations take, and where it begins. */
size_t linear_bytes(const Linear *);
void linear_place(Linear *, void *memory);

/* Quantizes a piece of a row: pieces [piece, piece + pieces) of it; of all rows in order as tasks; the product. */
void linear_quantize(const Linear *, int64_t row, int64_t piece, int64_t pieces);
void linear_quantize_task(void *linear, size_t task);
void linear_multiply_task(void *linear, size_t task);
int64_t linear_tasks(const Linear *);

/* Whether there is too little to do to wake other threads. */
int linear_is_small(const Linear *);

#endif
