/* Linear layers as phases of other operators; see linear.c. */
#ifndef OMNI_EDGE_LINEAR_H
#define OMNI_EDGE_LINEAR_H

#include "operator.h"
#include "phases.h"

/* y [m, n] = x [m, k] B^T. B's rows are cut into blocks along k, which share a scale. */
typedef struct LinearShape {
    int64_t m, n, k;
    int bits;           /* of a weight: 4 or 8 */
    int words;          /* 32-bit words of a block */
    int64_t block;      /* weights of a block */
    int64_t blocks;     /* of a row of B */
    int64_t row_bytes;  /* of a row of B */
    int64_t zero_bytes; /* of a row's zero points */
} LinearShape;

/* How the work is divided. One of unit_blocks and block_units is 1. */
typedef struct LinearTiling {
    int by_rows;            /* the product runs row by row of B; otherwise panel by panel */
    int unit_blocks;        /* blocks of a unit, which fills one vector */
    int block_units;        /* units of a block */
    int folded;             /* by rows, with blocks of four words: see linear_folded.c */
    int group_blocks;       /* blocks of a group of codes: whole units; folded, LANES */
    int64_t code_bytes;     /* of a row of quantized activations */
    int64_t piece, pieces;  /* blocks of a quantization task, tasks of a row of activations */
    int64_t stream_rows;    /* by rows: rows of B of a stream */
    int64_t task_rows;      /* by rows: rows of each stream that make a task */
    int64_t panels;         /* by panels: panels of B */
    int64_t tile_rows;      /* by panels: rows of activations of a task */
} LinearTiling;

/* The quantized activations. */
typedef struct LinearScratch {
    int8_t *codes;  /* [m, code_bytes]: units; by rows, each group of units is followed by (8 bits) zeros, and scales */
    float *scales;  /* [m, stride] */
    union {
        float *sums;    /* 4 bits: [m, stride], a block's scale times the sum of its codes */
        int32_t *zeros; /* 8 bits: [m, stride], what the weights' zero point adds to a block's sum, negated */
    };
    int64_t stride; /* blocks, and zeros up to whole vectors */
} LinearScratch;

/* One use of a matrix, shared by its threads. The caller sets the pointers before `shape`. */
typedef struct Linear {
    const float *x;         /* [m, k] */
    const uint8_t *b;       /* [n, blocks, block * bits / 8] */
    const void *scales;     /* [n, blocks], float or float16 */
    int float16_scales;
    const uint8_t *zero_points; /* [n, zero_bytes], 4 bits each, even blocks in low nibbles; null: mid-range */
    const float *bias;      /* [n], or null */
    const float *residual;  /* [m, n], added to the product, or null */
    float *y;               /* [m, n], rows y_stride apart */
    int64_t y_stride;       /* n, unless the caller changes it */
    LinearShape shape;
    LinearTiling tiling;
    LinearScratch scratch;
} Linear;

/* Whether such a matrix can be multiplied, and the plan for m rows of activations. */
int linear_supports(int64_t n, int64_t k, int64_t bits, int64_t block);
Linear linear_plan(int64_t m, int64_t n, int64_t k, int64_t bits, int64_t block);

/* The inputs that are a matrix: B uint8, its scales in float or float16, zero points uint8 (absent: mid-range). */
enum { MATRIX_WEIGHTS, MATRIX_SCALES, MATRIX_ZERO_POINTS, MATRIX_INPUTS };
/* Sets B, scales and zero points. Returns whether they fit the shape. */
int linear_set_matrix(Linear *, const Tensor *matrix, int float16_scales);

/* Bytes of scratch memory, and its assignment. */
size_t linear_scratch_bytes(const Linear *);
void linear_set_scratch(Linear *, void *memory);

/* Quantizes `pieces` pieces of a row, from `piece` on. */
void linear_quantize(const Linear *, int64_t row, int64_t piece, int64_t pieces);

/* Two phases: m * pieces tasks that quantize, then linear_tasks() tasks that multiply. */
void linear_quantize_task(void *linear, size_t task);
void linear_multiply_task(void *linear, size_t task);
int64_t linear_tasks(const Linear *);

/* Whether the work is too short to wake other threads. */
int linear_is_small(const Linear *);

#endif
