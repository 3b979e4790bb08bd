/* The product with few rows of activations, row by row of B: as fast as memory delivers B.
 *
 *     task: task_rows rows of each of STREAMS streams; a stream is stream_rows consecutive rows of B
 *     for each row n of the task                              B [n + stream * stream_rows, blocks]
 *         for strips of 4, 2 or 1 rows x of activations       codes [x, code_bytes]
 *             for each span of SPAN blocks along k            scales in float; minus what the zero points add
 *                 for each group of units                     scales broadcast over the lanes of their block
 *                     for each stream: load B once, dot4 with each x; its sums [stream][x] stay in registers
 *
 * Tasks are cut across the streams: what a task prefetches is where the thread's next task begins.
 */
#include "linear_tiles.h"

#ifdef DOT4

/* Most rows of activations, and rows of B for more than one of them, that are multiplied at a time. */
enum { STRIP = 4, STRIP_ROWS = 4 };
enum { MAX_UNIT_BLOCKS = LANES / 4 };
/* Blocks whose scales are converted at a time: whole vectors of scales, whole units, whole bytes of zero points. */
enum { SPAN = 32 };
/* Bytes of B from what is read to what is prefetched. */
enum { AHEAD = 512 };
#ifdef DOT4_SHORT_SUMS
_Static_assert(MAX_BLOCK / 4 / LANES <= DOT4_TERMS, "a lane's products of a block must fit in 16 bits");
#endif

/* A group of units along k: of the first row of B, of its scales and of the first row of activations. */
typedef struct Group {
    const uint8_t *b;
    const float (*scales)[SPAN]; /* by row, those of the span */
    const int8_t *codes;
    int64_t b_pitch, codes_pitch; /* from row to row, in bytes */
} Group;

/* The scales of a unit's blocks, each over the lanes of its block. */
INLINE f32 broadcast_scales(const float *scales, const int blocks) {
    i32 v = broadcast32(scales);
    for (int block = 1; block < blocks; block++) {
        i32 mask;
        for (int lane = 0; lane < LANES; lane++) mask[lane] = lane * blocks / LANES == block ? -1 : 0;
        v = (v & ~mask) | (broadcast32(scales + block) & mask);
    }
    return (f32)v;
}

/* Adds the products of the units that begin with the span's block `block`. */
INLINE void add_group(const Group *group, int64_t block, const int rows, const int xs, const int bits,
                      const int unit_blocks, const int block_units, f32 (*sums)[STRIP]) {
    const int phases = phases_of(bits), codes_bytes = block_units * phases * UNIT;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const f32 scales = broadcast_scales(group->scales[r] + block, unit_blocks);
        i32 zeros[STRIP], products[STRIP];
        for (int i = 0; i < xs; i++) {
            zeros[i] = load_i32(group->codes + i * group->codes_pitch + codes_bytes);
            products[i] = dot4_begin(zeros[i], bits);
        }
        for (int unit = 0; unit < block_units; unit++) {
            const uint8_t *at = group->b + r * group->b_pitch + unit * UNIT;
            const i32 w = load_i32(at);
            prefetch(at, AHEAD);
            for (int i = 0; i < xs; i++) {
                const int8_t *codes = group->codes + i * group->codes_pitch + unit * phases * UNIT;
                if (bits == 4) {
                    products[i] = dot4_add(products[i], dot4_weights(low_nibbles(w), 4), load_i32(codes), 4);
                    products[i] = dot4_add(products[i], dot4_weights(high_nibbles(w), 4), load_i32(codes + UNIT), 4);
                } else {
                    products[i] = dot4_add(products[i], dot4_weights(w, 8), load_i32(codes), 8);
                }
            }
        }
        for (int i = 0; i < xs; i++)
            sums[r][i] += __builtin_convertvector(dot4_end(zeros[i], products[i], bits), f32) *
                          (scales * (f32)load_i32(group->codes + i * group->codes_pitch + codes_bytes + UNIT));
    }
}

/* Blocks [first, first + count) of `rows` rows of B: their scales in float; the sums less what zero points add. */
INLINE void load_span(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                      int64_t first, int64_t count, float (*scales)[SPAN], f32 (*sums)[STRIP],
                      const int float16_scales) {
    const int64_t bytes = float16_scales ? sizeof(uint16_t) : sizeof(float);
    const float *x_sums = run->scratch.sums + x * run->scratch.sums_stride + first;
    for (int r = 0; r < rows; r++) {
        const int64_t row = n + r * pitch;
        prefetch((const char *)run->scales + (row * run->shape.blocks + first) * bytes, SPAN * bytes);
        if (run->zero_points) prefetch(run->zero_points + row * run->shape.zero_bytes + first / 2, SPAN / 2);
        for (int64_t i = 0; i < count; i += LANES) {
            const f32 v = load_scales(run, row, first + i, float16_scales);
            store(scales[r] + i, v);
            if (!run->zero_points) continue;
            const f32 zeros = v * load_zero_points(run, row, first + i);
            for (int j = 0; j < xs; j++) sums[r][j] -= zeros * load(x_sums + j * run->scratch.sums_stride + i);
        }
    }
}

INLINE void store_sums(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                       f32 (*sums)[STRIP]) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < xs; i++) {
            const int64_t at = n + r * pitch;
            const float residual = run->residual ? run->residual[(x + i) * run->shape.n + at] : 0.0f;
            const float bias = run->bias ? run->bias[at] : 0.0f;
            run->y[(x + i) * run->y_stride + at] = sum_lanes(sums[r][i]) + bias + residual;
        }
}

/* `rows` rows of B, n, n + pitch .., times xs rows of activations from x on. */
INLINE void multiply_units(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                           const int bits, const int unit_blocks, const int block_units) {
    float scales[STREAMS][SPAN];
    Group group = {.b = run->b + n * run->shape.row_bytes, .scales = scales,
                   .codes = run->scratch.codes + x * run->tiling.code_bytes, .b_pitch = pitch * run->shape.row_bytes,
                   .codes_pitch = run->tiling.code_bytes};
    uint8_t b_ends[STREAMS * UNIT] = {0};
    f32 sums[STREAMS][STRIP] = {{{0}}};
    for (int64_t first = 0; first < run->shape.blocks; first += SPAN) {
        const int64_t count = min64(SPAN, run->shape.blocks - first);
        if (run->float16_scales)
            load_span(run, n, pitch, rows, x, xs, first, count, scales, sums, 1);
        else
            load_span(run, n, pitch, rows, x, xs, first, count, scales, sums, 0);
        for (int64_t block = 0; block < count; block += unit_blocks) {
            if (count - block < unit_blocks) { /* the row does not fill the unit */
                for (int r = 0; r < rows; r++)
                    memcpy(b_ends + r * UNIT, group.b + r * group.b_pitch,
                           (size_t)(count - block) * (UNIT / (size_t)unit_blocks));
                group.b = b_ends, group.b_pitch = UNIT;
            }
            add_group(&group, block, rows, xs, bits, unit_blocks, block_units, sums);
            group.b += block_units * UNIT;
            group.codes += (block_units * phases_of(bits) + 2) * UNIT;
        }
    }
    store_sums(run, n, pitch, rows, x, xs, sums);
}

INLINE void multiply_strip(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                           const int bits) {
    if (run->tiling.block_units > 1)
        multiply_units(run, n, pitch, rows, x, xs, bits, 1, run->tiling.block_units);
    else if (run->tiling.unit_blocks == 1)
        multiply_units(run, n, pitch, rows, x, xs, bits, 1, 1);
    else if (run->tiling.unit_blocks == 2)
        multiply_units(run, n, pitch, rows, x, xs, bits, 2, 1);
    else
        multiply_units(run, n, pitch, rows, x, xs, bits, MAX_UNIT_BLOCKS, 1);
}

#define SHAPE(xs, bits) ((xs) * 16 + (bits))
#define SHAPES(F) F(1, 4) F(2, 4) F(4, 4) F(1, 8) F(2, 8) F(4, 8)

/* Row n of each stream; with a pitch of 0, row n alone. */
static __attribute__((noinline)) void multiply_streams(const Linear *run, int64_t n, int64_t pitch) {
    for (int64_t x = 0, xs; x < run->shape.m; x += xs) {
        xs = run->shape.m - x >= 4 ? 4 : run->shape.m - x >= 2 ? 2 : 1;
        const int rows = xs == 1 ? STREAMS : STRIP_ROWS;
        for (int stream = 0; stream < (pitch ? STREAMS : rows); stream += rows) {
            const int64_t row = n + stream * pitch;
#define CASE(xs, bits)                                                                            \
    case SHAPE(xs, bits): multiply_strip(run, row, pitch, xs == 1 ? STREAMS : STRIP_ROWS, x, xs, bits); break;
            switch (SHAPE(xs, run->shape.bits)) { SHAPES(CASE) }
#undef CASE
        }
    }
}

void linear_rows_task(const Linear *run, int64_t task) {
    const int64_t rows = run->tiling.stream_rows;
    const int64_t from = task * run->tiling.task_rows, to = min64(from + run->tiling.task_rows, rows);
    /* The last task takes the rows that the streams leave over. */
    const int64_t end = to == rows ? to + run->shape.n - rows * STREAMS : to;
    for (int64_t n = from; n < end; n++) {
        const int left_over = n >= rows;
        multiply_streams(run, left_over ? n + rows * (STREAMS - 1) : n, left_over ? 0 : rows);
    }
}

#endif
