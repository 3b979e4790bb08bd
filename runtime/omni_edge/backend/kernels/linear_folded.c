/* The product with few rows of activations where blocks are short: 4-bit weights in blocks of 32.
 *
 *     for each row n of a task (linear_rows.c), for each group of LANES blocks along k
 *         for each stream: load FOLDED units of B, their scales and zero points
 *             for each row x of activations                                      codes [x, code_bytes]
 *                 dot4 of each unit: a block is a quad of lanes; folded, all blocks are one vector, a lane a block
 *                 sums [stream][x] += scale of B * (scale of x * folded - zero point * scaled sum of x's codes)
 *
 * So scales are converted, and sums multiplied, once for LANES blocks. A block after the other, as in linear_rows.c,
 * that takes as long as the products of bytes themselves.
 */
#include "linear_tiles.h"

#ifdef DOT4

enum { BLOCK_BYTES = MIN_BLOCK / 2, GROUP_BYTES = LANES * BLOCK_BYTES, CACHE_LINE = 64 };
#if DOT4_SHORT_SUMS
_Static_assert(2 * FOLDED <= DOT4_TERMS, "the products of a block must fit in 16 bits");
#endif

/* A group of a row of B: nibbles of each unit; scales and zero points in the order that folding leaves. */
typedef struct Weights {
    i32 low[FOLDED], high[FOLDED];
    f32 scales, zeros;
} Weights;

/* The group of row n that begins with `block`. `whole`: of a new bundle, and all of its blocks may be read. */
INLINE Weights load_group(const Linear *run, int64_t n, int64_t block, const int whole) {
    const LinearShape *shape = &run->shape;
    const int64_t rows = shape->n - n, blocks = shape->blocks - block, at = n * shape->blocks + block;
    const uint8_t *b = run->b + n * shape->row_bytes + block * BLOCK_BYTES;
    const uint8_t *zeros = run->zero_points ? run->zero_points + n * shape->zero_bytes + block / 2 : NULL;
    uint8_t end[GROUP_BYTES];
    Weights w;
    for (int i = 0; i < GROUP_BYTES; i += CACHE_LINE) prefetch(b + i, AHEAD);
    if (!whole && blocks < LANES) b = memcpy(memset(end, 0, sizeof(end)), b, (size_t)blocks * BLOCK_BYTES);
    for (int i = 0; i < FOLDED; i++) {
        const i32 v = load_i32(b + i * UNIT);
        w.low[i] = low_nibbles(v), w.high[i] = high_nibbles(v);
    }
    if (whole) {
        const uint16_t *scales = (const uint16_t *)run->scales + at;
        prefetch(scales, AHEAD / BLOCK_BYTES * sizeof(*scales));
        w.scales = load_float16_folded(scales);
        w.zeros = __builtin_convertvector(load_nibbles_folded(zeros), f32);
    } else {
        w.scales = folded_order(load_scales(run, at, rows * shape->blocks - block, blocks, run->float16_scales));
        w.zeros = folded_order(load_zero_points(zeros, 2 * rows * shape->zero_bytes - block));
    }
    return w;
}

/* sum + the products of a group, a lane a block. */
INLINE f32 add_group(f32 sum, const Weights *w, const int8_t *codes) {
    i32 terms[FOLDED];
    for (int i = 0; i < FOLDED; i++, codes += 2 * UNIT) {
        const i32 low = dot4_add(dot4_begin((i32){0}, 4), w->low[i], load_i32(codes), 4);
        terms[i] = dot4_add(low, w->high[i], load_i32(codes + UNIT), 4);
    }
    const f32 scales = (f32)load_i32(codes), scaled_sums = (f32)load_i32(codes + UNIT);
    return sum + w->scales * (scales * __builtin_convertvector(dot4_fold(terms), f32) - scaled_sums * w->zeros);
}

/* A row of each stream, n, n + pitch .., times xs rows of activations. */
INLINE void multiply_streams(const Linear *run, int64_t n, int64_t pitch, const int xs, const int whole) {
    const int8_t *codes = run->scratch.codes;
    f32 sums[STREAMS][MAX_BY_ROWS];
    for (int stream = 0; stream < STREAMS; stream++)
        for (int x = 0; x < xs; x++) sums[stream][x] = (f32){0};
    for (int64_t block = 0; block < run->shape.blocks; block += LANES, codes += FOLDED_GROUP) {
#pragma GCC unroll 8
        for (int stream = 0; stream < STREAMS; stream++) {
            const Weights w = load_group(run, n + stream * pitch, block, whole);
            for (int x = 0; x < xs; x++)
                sums[stream][x] = add_group(sums[stream][x], &w, codes + x * run->tiling.code_bytes);
        }
    }
    for (int stream = 0; stream < STREAMS; stream++)
        for (int x = 0; x < xs; x++) {
            const int64_t row = n + stream * pitch;
            const float residual = run->residual ? run->residual[x * run->shape.n + row] : 0.0f;
            const float bias = run->bias ? run->bias[row] : 0.0f;
            run->y[x * run->y_stride + row] = sum_lanes(sums[stream][x]) + bias + residual;
        }
}

/* Functions of their own, because compilers allocate the registers of small functions better. */
static __attribute__((noinline)) void multiply_one(const Linear *run, int64_t n, int64_t pitch) {
    multiply_streams(run, n, pitch, 1, 1);
}

static __attribute__((noinline)) void multiply_several(const Linear *run, int64_t n, int64_t pitch) {
    multiply_streams(run, n, pitch, (int)run->shape.m, 1);
}

static __attribute__((noinline)) void multiply_partial(const Linear *run, int64_t n, int64_t pitch) {
    multiply_streams(run, n, pitch, (int)run->shape.m, 0);
}

/* Row n of each stream; with a pitch of 0, row n alone. A row's last group may end in the next row: the codes and the
 * scales of x are zeros there. */
void linear_folded_rows(const Linear *run, int64_t n, int64_t pitch) {
    const int64_t rows = run->shape.n - n - (STREAMS - 1) * pitch, blocks = run->shape.blocks;
    if (rows * blocks < quotient_up(blocks, LANES) * LANES || !run->float16_scales || !run->zero_points)
        multiply_partial(run, n, pitch);
    else if (run->shape.m > 1)
        multiply_several(run, n, pitch);
    else
        multiply_one(run, n, pitch);
}

#endif
