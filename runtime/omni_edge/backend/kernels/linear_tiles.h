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
/* Rows of activations up to which the product runs row by row. */
enum { MAX_BY_ROWS = 8 };
/* Bytes of B from what is read to what is prefetched, row by row. */
enum { AHEAD = 512 };
/* Rows of activations of a task in panels: its sums lie on the stack. */
enum { MIN_TASK_ROWS = 48, MAX_TASK_ROWS = 256 };

/* Vectors of activation codes for each vector of B: with 4 bits one for the low and one for the high nibbles. */
INLINE int phases_of(int bits) { return 8 / bits; }

/* By rows: vectors behind the codes of a group of units, zeros (8 bits) and scales. */
INLINE int row_extra(int bits) { return bits == 8 ? 2 : 1; }

INLINE i32 low_nibbles(i32 w) { return w & ((i32){0} + 0x0f0f0f0f); }
INLINE i32 high_nibbles(i32 w) { return (w >> 4) & ((i32){0} + 0x0f0f0f0f); }

#ifdef DOT4

/* LANES scales from `at` on, of which `left` may be read; `count` of them belong to the row, the others become 0. */
INLINE f32 load_scales(const Linear *run, int64_t at, int64_t left, int64_t count, const int float16_scales) {
    const f32 v = float16_scales ? load_float16((const uint16_t *)run->scales + at, left)
                                 : (f32)load_partial((const float *)run->scales + at, (size_t)left * sizeof(float));
    return count < LANES ? (f32)((i32)v & (lane_numbers() < (int32_t)count)) : v;
}

/* LANES zero points of 4-bit weights, of which `left` may be read; `from` is null where they are mid-range. */
INLINE f32 load_zero_points(const uint8_t *from, int64_t left) {
    return from ? __builtin_convertvector(load_nibbles(from, left), f32) : (f32){0} + 8.0f;
}

/* Bytes of a folded group's codes, their blocks' scales, and those times the sums of the codes. */
enum { FOLDED_GROUP = (2 * FOLDED + 2) * UNIT };

/* Bytes of a group of codes; by rows, with what lies behind them: zeros and scales, or scales and sums. */
INLINE int64_t group_bytes(const Linear *run) {
    const LinearTiling *tiling = &run->tiling;
    if (tiling->folded) return FOLDED_GROUP;
    return (tiling->block_units * phases_of(run->shape.bits) + tiling->by_rows * row_extra(run->shape.bits)) * UNIT;
}

void linear_rows_task(const Linear *, int64_t task);
void linear_folded_rows(const Linear *, int64_t n, int64_t pitch);
void linear_panel_task(const Linear *, int64_t task);

#endif
#endif
