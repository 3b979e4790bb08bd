/* The product with few rows of activations, row by row of B: as fast as memory delivers B.
 *
 *     task: task_rows rows of each of STREAMS streams; a stream is stream_rows consecutive rows of B
 *     for each row n of the task                              B [n + stream * stream_rows, blocks]
 *         for strips of 4, 2 or 1 rows x of activations       codes [x, code_bytes]
 *             for each span of SPAN blocks along k            converts scales; adds up what zero points subtract
 *                 for each group of units                     scales broadcast over the lanes of their block
 *                     for each stream: load B once, dot4 with each x; its sums [stream][x] stay in registers
 *
 * Blocks of 32 weights of 4 bits go to linear_folded.c. Tasks are cut across the streams: what a task prefetches is
 * where the thread's next task begins.
 */
#include "linear_tiles.h"

#ifdef DOT4

/* Most rows of activations, and rows of B for more than one of them, that are multiplied at a time. */
enum { STRIP = 4, STRIP_ROWS = 4 };
enum { MAX_UNIT_BLOCKS = LANES / 4 };
/* Blocks whose scales are converted at a time: whole vectors of scales, whole units, whole bytes of zero points. */
enum { SPAN = 32 };
#if DOT4_SHORT_SUMS
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
#if LANES == 16
    if (blocks == 4) {
        const i32 low = broadcast64(scales), high = broadcast64(scales + 2);
        return (f32)SHUFFLE(low, high, 0, 0, 0, 0, 1, 1, 1, 1, 16, 16, 16, 16, 17, 17, 17, 17);
    }
    if (blocks == 2) {
        const i32 v = broadcast64(scales);
        return (f32)SHUFFLE(v, v, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    }
#elif LANES == 8
    if (blocks == 2) {
        const i32 v = broadcast64(scales);
        return (f32)SHUFFLE(v, v, 0, 0, 0, 0, 5, 5, 5, 5); /* within halves, which is faster */
    }
#endif
    return (void)blocks, (f32)broadcast32(scales);
}

/* Adds the products of a vector of B. */
INLINE i32 add_unit(i32 products, i32 w, const i32 *codes, const int bits) {
    if (bits == 8) return dot4_add(products, dot4_weights(w), codes[0], 8);
    return dot4_add(dot4_add(products, low_nibbles(w), codes[0], 4), high_nibbles(w), codes[1], 4);
}

/* For one row of activations, whose scales are in those of the span: its codes stay in registers for all rows of B. */
INLINE void add_to_one(const Group *group, int64_t block, const int rows, const int bits, const int unit_blocks,
                       const int block_units, f32 (*sums)[STRIP]) {
    const int phases = phases_of(bits);
    const i32 zeros = bits == 4 ? (i32){0} : load_i32(group->codes + block_units * UNIT);
    i32 products[STREAMS];
    for (int r = 0; r < rows; r++) products[r] = dot4_begin(zeros, bits);
    for (int unit = 0; unit < block_units; unit++) {
        i32 codes[2];
        for (int phase = 0; phase < phases; phase++)
            codes[phase] = load_i32(group->codes + (unit * phases + phase) * UNIT);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const uint8_t *at = group->b + r * group->b_pitch + unit * UNIT;
            prefetch(at, AHEAD);
            products[r] = add_unit(products[r], load_i32(at), codes, bits);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        sums[r][0] += __builtin_convertvector(dot4_end(zeros, products[r], bits), f32) *
                      broadcast_scales(group->scales[r] + block, unit_blocks);
}

/* For xs rows of activations: each vector of B is read once. */
INLINE void add_to_strip(const Group *group, int64_t block, const int rows, const int xs, const int bits,
                         const int unit_blocks, const int block_units, f32 (*sums)[STRIP]) {
    const int phases = phases_of(bits), ends = block_units * phases * UNIT;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        const f32 scales = broadcast_scales(group->scales[r] + block, unit_blocks);
        i32 zeros[STRIP], products[STRIP];
        for (int i = 0; i < xs; i++) {
            zeros[i] = bits == 4 ? (i32){0} : load_i32(group->codes + i * group->codes_pitch + ends);
            products[i] = dot4_begin(zeros[i], bits);
        }
        for (int unit = 0; unit < block_units; unit++) {
            const uint8_t *at = group->b + r * group->b_pitch + unit * UNIT;
            const i32 w = load_i32(at);
            prefetch(at, AHEAD);
            for (int i = 0; i < xs; i++) {
                i32 codes[2];
                for (int phase = 0; phase < phases; phase++)
                    codes[phase] = load_i32(group->codes + i * group->codes_pitch + (unit * phases + phase) * UNIT);
                products[i] = add_unit(products[i], w, codes, bits);
            }
        }
        for (int i = 0; i < xs; i++) {
            const int8_t *x_scales = group->codes + i * group->codes_pitch + ends + (row_extra(bits) - 1) * UNIT;
            sums[r][i] += __builtin_convertvector(dot4_end(zeros[i], products[i], bits), f32) *
                          (scales * (f32)load_i32(x_scales));
        }
    }
}

/* Adds the products of the units that begin with the span's block `block`. */
INLINE void add_group(const Group *group, int64_t block, const int rows, const int xs, const int bits,
                      const int unit_blocks, const int block_units, f32 (*sums)[STRIP]) {
    if (xs == 1)
        add_to_one(group, block, rows, bits, unit_blocks, block_units, sums);
    else
        add_to_strip(group, block, rows, xs, bits, unit_blocks, block_units, sums);
}

/* SPAN blocks of some rows of B, for some rows of activations. */
typedef struct Span {
    float scales[STREAMS][SPAN]; /* of B; for one row of activations, times those of x */
    f32 zeros[STREAMS][STRIP];   /* 4 bits: what zero points add to the sums, from the first span on */
} Span;

/* The scales of row n of B from block `first` on, and what the zero points add to the sums of xs rows of activations
 * from x on. `whole`: whole vectors may be read, beyond the row's end too, where the scales of x are zeros. */
INLINE void load_row(const Linear *run, int64_t n, int64_t first, int64_t x, float *scales, f32 *zeros, const int xs,
                     const int bits, const int float16_scales, const int zero_points, const int whole) {
    const int64_t blocks = run->shape.blocks, zero_bytes = run->shape.zero_bytes, rows = run->shape.n - n;
    const int64_t count = min64(SPAN, blocks - first), readable = rows * blocks - first, stride = run->scratch.stride;
    const int64_t at = n * blocks + first, bytes = float16_scales ? sizeof(uint16_t) : sizeof(float);
    const uint8_t *points = zero_points ? run->zero_points + n * zero_bytes + first / 2 : NULL;
    const float *x_scales = run->scratch.scales + x * stride + first, *x_sums = run->scratch.sums + x * stride + first;
    f32 added[STRIP];
    for (int j = 0; j < xs; j++) added[j] = first ? zeros[j] : (f32){0};
    prefetch((const char *)run->scales + at * bytes, SPAN * bytes);
    if (zero_points) prefetch(points, SPAN / 2);
    for (int64_t i = 0; i < count; i += LANES) {
        const int64_t left = whole ? LANES : readable - i;
        const f32 v = load_scales(run, at + i, left, whole ? LANES : count - i, float16_scales);
        store(scales + i, xs == 1 ? v * load(x_scales + i) : v);
        if (bits != 4) continue;
        const int64_t points_left = whole ? LANES : 2 * rows * zero_bytes - first - i;
        const f32 zero = v * load_zero_points(zero_points ? points + i / 2 : NULL, points_left);
        for (int j = 0; j < xs; j++) added[j] += zero * load(x_sums + j * stride + i);
    }
    for (int j = 0; j < xs; j++) zeros[j] = added[j];
}

typedef void LoadSpan(const Linear *run, int64_t n, int64_t pitch, int64_t first, int64_t x, Span *);

INLINE void store_sums(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                       f32 (*sums)[STRIP], const Span *span) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < xs; i++) {
            const int64_t at = n + r * pitch;
            const float residual = run->residual ? run->residual[(x + i) * run->shape.n + at] : 0.0f;
            const float bias = run->bias ? run->bias[at] : 0.0f;
            run->y[(x + i) * run->y_stride + at] = sum_lanes(sums[r][i] - span->zeros[r][i]) + bias + residual;
        }
}

/* `rows` rows of B, n, n + pitch .., times xs rows of activations from x on. */
INLINE void multiply_units(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                           const int bits, const int unit_blocks, const int block_units, LoadSpan *load_span) {
    Span span;
    Group group = {.b = run->b + n * run->shape.row_bytes, .scales = span.scales,
                   .codes = run->scratch.codes + x * run->tiling.code_bytes, .b_pitch = pitch * run->shape.row_bytes,
                   .codes_pitch = run->tiling.code_bytes};
    uint8_t b_ends[STREAMS * UNIT] = {0};
    f32 sums[STREAMS][STRIP];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < xs; i++) sums[r][i] = (f32){0};
    for (int64_t first = 0; first < run->shape.blocks; first += SPAN) {
        const int64_t count = min64(SPAN, run->shape.blocks - first);
        load_span(run, n, pitch, first, x, &span);
        for (int64_t block = 0; block < count; block += unit_blocks) {
            if (count - block < unit_blocks) { /* the row does not fill the unit */
                for (int r = 0; r < rows; r++)
                    memcpy(b_ends + r * UNIT, group.b + r * group.b_pitch,
                           (size_t)(count - block) * (UNIT / (size_t)unit_blocks));
                group.b = b_ends, group.b_pitch = UNIT;
            }
            add_group(&group, block, rows, xs, bits, unit_blocks, block_units, sums);
            group.b += block_units * UNIT;
            group.codes += (block_units * phases_of(bits) + row_extra(bits)) * UNIT;
        }
    }
    store_sums(run, n, pitch, rows, x, xs, sums, &span);
}

INLINE void multiply_strip(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                           const int bits, LoadSpan *load_span) {
    if (run->tiling.block_units > 1)
        multiply_units(run, n, pitch, rows, x, xs, bits, 1, run->tiling.block_units, load_span);
    else if (run->tiling.unit_blocks == 1)
        multiply_units(run, n, pitch, rows, x, xs, bits, 1, 1, load_span);
    else if (run->tiling.unit_blocks == 2)
        multiply_units(run, n, pitch, rows, x, xs, bits, 2, 1, load_span);
    else
        multiply_units(run, n, pitch, rows, x, xs, bits, MAX_UNIT_BLOCKS, 1, load_span);
}

#define SHAPE(xs, bits) ((xs) * 16 + (bits))
#define SHAPES(F) F(1, 4) F(2, 4) F(4, 4) F(1, 8) F(2, 8) F(4, 8)
#define ROWS(xs) ((xs) == 1 ? STREAMS : STRIP_ROWS)

/* The cases that matter have code of their own: whole vectors of the scales and zero points of new bundles. */
INLINE void load_rows(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t first, int64_t x, Span *span,
                      const int xs, const int bits) {
    const int64_t readable = (run->shape.n - n - (rows - 1) * pitch) * run->shape.blocks - first;
    const int whole = readable >= SPAN || (run->shape.blocks - first) % LANES == 0;
    if (whole && run->float16_scales && (bits == 8 || run->zero_points))
        for (int r = 0; r < rows; r++)
            load_row(run, n + r * pitch, first, x, span->scales[r], span->zeros[r], xs, bits, 1, bits == 4, 1);
    else
        for (int r = 0; r < rows; r++)
            load_row(run, n + r * pitch, first, x, span->scales[r], span->zeros[r], xs, bits, run->float16_scales,
                     run->zero_points != NULL, 0);
}

/* Functions of their own, because compilers allocate the registers of small functions better. */
#define FUNCTIONS(xs, bits)                                                                                           \
    static __attribute__((noinline)) void load_span_##xs##_##bits(const Linear *run, int64_t n, int64_t pitch,        \
                                                                  int64_t first, int64_t x, Span *span) {             \
        load_rows(run, n, pitch, ROWS(xs), first, x, span, xs, bits);                                                 \
    }                                                                                                                 \
    static __attribute__((noinline)) void multiply_##xs##_##bits(const Linear *run, int64_t n, int64_t pitch,         \
                                                                 int64_t x) {                                         \
        multiply_strip(run, n, pitch, ROWS(xs), x, xs, bits, load_span_##xs##_##bits);                                \
    }
SHAPES(FUNCTIONS)
#undef FUNCTIONS

/* Row n of each stream; with a pitch of 0, row n alone. */
static void multiply_streams(const Linear *run, int64_t n, int64_t pitch) {
    for (int64_t x = 0, xs; x < run->shape.m; x += xs) {
        xs = run->shape.m - x >= 4 ? 4 : run->shape.m - x >= 2 ? 2 : 1;
        const int rows = ROWS(xs);
        for (int stream = 0; stream < (pitch ? STREAMS : rows); stream += rows) {
            const int64_t row = n + stream * pitch;
#define CASE(xs, bits) \
    case SHAPE(xs, bits): multiply_##xs##_##bits(run, row, pitch, x); break;
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
        const int64_t row = left_over ? n + rows * (STREAMS - 1) : n, pitch = left_over ? 0 : rows;
        if (run->tiling.folded)
            linear_folded_rows(run, row, pitch);
        else
            multiply_streams(run, row, pitch);
    }
}

#endif
