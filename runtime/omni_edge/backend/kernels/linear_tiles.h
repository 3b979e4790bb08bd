/* What the files of the linear layer share: units of quantized activations, and the two ways to multiply. */
#ifndef OMNI_EDGE_LINEAR_TILES_H
#define OMNI_EDGE_LINEAR_TILES_H

#include "linear.h"
#include "operator.h"
#include "simd.h"

/* Bytes of a unit: one vector of B, and one vector (8 bits) or two (4 bits) of activation codes. */
enum { UNIT = 4 * LANES };
enum { MIN_BLOCK = 32, MAX_BLOCK = 256 };
/* Rows of B of a panel. */
enum { PANEL = 2 * LANES };
/* Streams that run through B side by side. */
enum { STREAMS = LANES == 16 ? 8 : 4 };
/* Rows of activations of a task in panels: its sums lie on the stack. */
enum { MIN_TASK_ROWS = 48, MAX_TASK_ROWS = 256 };

/* Vectors of activation codes for each vector of B: with 4 bits one for the low and one for the high nibbles. */
INLINE int phases_of(int bits) { return 8 / bits; }

INLINE i32 low_nibbles(i32 w) { return w & ((i32){0} + 0x0f0f0f0f); }
INLINE i32 high_nibbles(i32 w) { return (w >> 4) & ((i32){0} + 0x0f0f0f0f); }

#ifdef DOT4

/* The scales of LANES blocks of row n of B, from block `first` on; 0 beyond the row. */
INLINE f32 load_scales(const Linear *run, int64_t n, int64_t first, const int float16_scales) {
    const int64_t at = n * run->shape.blocks + first, left = run->shape.blocks - first;
    const int64_t readable = run->shape.n * run->shape.blocks - at;
    const f32 v = float16_scales
                      ? load_float16((const uint16_t *)run->scales + at, readable)
                      : (f32)load_partial((const float *)run->scales + at, (size_t)readable * sizeof(float));
    return left < LANES ? (f32)((i32)v & (lane_numbers() < (int32_t)left)) : v;
}

/* The zero points of the same blocks, less what dot4_weights subtracts; any finite value beyond the row. */
INLINE f32 load_zero_points(const Linear *run, int64_t n, int64_t first) {
    const int64_t at = n * run->shape.zero_bytes + first / 2, readable = run->shape.n * run->shape.zero_bytes - at;
    const i32 zeros = load_nibbles(run->zero_points + at, 2 * readable) - (8 - dot4_zero_point(4));
    return __builtin_convertvector(zeros, f32);
}

#endif

/* Bytes of the codes of the fewest blocks that fill whole units; by rows, with zeros and scales behind them. */
INLINE int64_t group_bytes(const Linear *run) {
    const LinearTiling *tiling = &run->tiling;
    return (tiling->block_units * phases_of(run->shape.bits) + 2 * tiling->by_rows) * UNIT;
}

void linear_rows_task(const Linear *, int64_t task);
void linear_panel_task(const Linear *, int64_t task);

#endif
