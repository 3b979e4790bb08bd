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

/* Bytes of the codes of the fewest blocks that fill whole units; by rows, with zeros and scales behind them. */
INLINE int64_t group_bytes(const Linear *run) {
    const LinearTiling *tiling = &run->tiling;
    return (tiling->block_units * phases_of(run->shape.bits) + 2 * tiling->by_rows) * UNIT;
}

void linear_rows_task(const Linear *, int64_t task);
void linear_panel_task(const Linear *, int64_t task);

#endif
