/* The product with many rows of activations, panel by panel of B: bound by the arithmetic.
 *
 *     task: one panel, PANEL = 2 LANES rows of B, and tile_rows rows of x; y's rows may lie far apart, so its sums
 *         [tile_rows][2] of vectors lie on the stack; a lane is a row of B
 *     for each chunk of CHUNK weights along k
 *         unpack: B [PANEL, chunk] transposed -> weights [chunk / 4][2], scales and, with 4 bits, zero points
 *             [blocks][2], in the first-level cache
 *         for each tile of at most MAX_ROWS rows of x, whose sums of products stay in registers
 *             for each block
 *                 for each word of it: broadcast four codes of each row of x, dot4 with both vectors; with DOT8_PAIRS,
 *                     for each pair of words: eight codes of each pair of rows of x, dot8_pairs with both vectors
 *                 sums += scale of B * (scale of x * products - zero point * scaled sum of x's codes)
 */
#include "linear_tiles.h"

#ifdef DOT4

/* Weights of a chunk; rows of activations of a tile at most. */
enum { CHUNK = 512, MAX_ROWS = 8 };
/* Words between dot4_begin and dot4_end: with 4 bits, two products each. */
enum { WORDS = DOT4_TERMS / 2 };

/* A chunk of a panel: pairs of vectors, with 4 bits those of low and of high nibbles in alternation. With DOT8_PAIRS, the
 * vectors of two consecutive words hold eight weights of the first two rows of a side, and of its last two. */
typedef struct Unpacked {
    i32 weights[CHUNK / 4][2];
    f32 scales[CHUNK / MIN_BLOCK][2];
    f32 zeros[CHUNK / MIN_BLOCK][2]; /* 4 bits: zero points */
} Unpacked;

/* Blocks [first, first + count) of one side of a panel: LANES rows of B. Unpacked, its vectors are every second one. */
typedef struct Side {
    int64_t rows[LANES];
    int64_t first, count;
} Side;

/* Rows of activations of a tile: as many as the registers hold sums of, and sums of 16 bits beside them. */
INLINE int tile_rows(int bits) { return REGISTERS > 16 ? MAX_ROWS : bits == 4 && DOT4_SHORT_SUMS ? 4 : 5; }

INLINE void unpack_weights(const Linear *run, const Side *side, int64_t ahead, i32 *out, const int bits) {
    const int64_t words = run->shape.words, begin = side->first * words * 4;
    const int64_t units = quotient_up(side->count * words, LANES);
    for (int64_t unit = 0; unit < units; unit++) {
        const int64_t at = begin + unit * UNIT;
        i32 v[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const uint8_t *row = run->b + side->rows[lane] * run->shape.row_bytes + at;
            prefetch(row, ahead);
            v[lane] = load_partial(row, (size_t)(run->shape.row_bytes - at));
        }
        transpose_square(v);
#ifdef DOT8_PAIRS
        for (int word = 0; word < LANES; word += 2) {
            const i32 first = INTERLEAVE_LOW(v[word], v[word + 1]);
            v[word + 1] = INTERLEAVE_HIGH(v[word], v[word + 1]);
            v[word] = first;
        }
#endif
        for (int word = 0; word < LANES; word++, out += 2 * phases_of(bits)) {
            if (bits == 4) {
                out[0] = low_nibbles(v[word]);
                out[2] = high_nibbles(v[word]);
            } else {
                out[0] = dot4_weights(v[word]);
            }
        }
    }
}

/* Scales [blocks] and, with 4 bits, zero points. */
INLINE void unpack_scales(const Linear *run, const Side *side, f32 *scales, f32 *zeros, const int bits,
                          const int float16_scales) {
    const int64_t blocks = run->shape.blocks, zero_bytes = run->shape.zero_bytes;
    for (int64_t done = 0; done < side->count; done += LANES) {
        const int64_t first = side->first + done, count = min64(LANES, side->count - done);
        i32 v[LANES], z[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t n = side->rows[lane], rows = run->shape.n - n;
            const f32 scale = load_scales(run, n * blocks + first, rows * blocks - first, count, float16_scales);
            const uint8_t *zero = run->zero_points ? run->zero_points + n * zero_bytes + first / 2 : NULL;
            v[lane] = (i32)scale;
            if (bits == 4) z[lane] = (i32)load_zero_points(zero, 2 * rows * zero_bytes - first);
        }
        transpose_square(v);
        for (int64_t i = 0; i < count; i++) scales[2 * (done + i)] = (f32)v[i];
        if (bits != 4) continue;
        transpose_square(z);
        for (int64_t i = 0; i < count; i++) zeros[2 * (done + i)] = (f32)z[i];
    }
}

INLINE void unpack(const Linear *run, int64_t n, int64_t first, int64_t blocks, Unpacked *out, const int bits) {
    const LinearShape *shape = &run->shape;
    const int64_t units = quotient_up(blocks * shape->words, LANES);
    /* This thread unpacks the next chunk next, or the first one of the next panel. */
    const int64_t ahead = first + blocks < shape->blocks ? units * UNIT
                                                         : PANEL * shape->row_bytes - first * shape->words * 4;
    for (int i = 0; i < 2; i++) {
        Side side = {.first = first, .count = blocks};
        /* The last row stands in for rows beyond it. */
        for (int lane = 0; lane < LANES; lane++) side.rows[lane] = min64(n + i * LANES + lane, shape->n - 1);
        unpack_weights(run, &side, ahead, out->weights[0] + i, bits);
        if (run->float16_scales)
            unpack_scales(run, &side, out->scales[0] + i, out->zeros[0] + i, bits, 1);
        else
            unpack_scales(run, &side, out->scales[0] + i, out->zeros[0] + i, bits, 0);
    }
}

/* Adds the products of a block's words to `products`.
 *
 *     x    the codes of its first row of activations, from `place` on, a word of the row
 *     w    the block's weights
 */
INLINE void multiply_block(const Linear *run, const int8_t *x, int64_t place, const i32 (*w)[2], i32 (*products)[2],
                           const int rows, const int bits, const int block_words) {
    const int64_t code_bytes = run->tiling.code_bytes;
    const int phases = phases_of(bits);
#ifdef DOT8_PAIRS
    /* Of two rows r and r + 1 of x, terms[r] are the products with the first two rows of each side, terms[r + 1] those with
     * its last two. */
    i32 terms[MAX_ROWS][2] = {{{0}}};
#endif
    for (int word = 0; word < block_words; word += WORDS, place += WORDS) {
        const int8_t *codes = x + place / LANES * UNIT * phases + place % LANES * 4;
#ifdef DOT8_PAIRS
#pragma GCC unroll 4
        for (int i = 0; i < WORDS; i += 2, codes += 8, w += 2 * phases)
            for (int phase = 0; phase < phases; phase++)
                for (int r = 0; r < rows; r += 2) {
                    const int8_t *row = codes + r * code_bytes + phase * UNIT;
                    const i32 both = load_pair64(row, r + 1 < rows ? row + code_bytes : row);
                    for (int side = 0; side < 2; side++)
                        for (int half = 0; half < 2; half++)
                            terms[r + half][side] =
                                in_order(dot8_pairs(terms[r + half][side], w[half * phases + phase][side], both));
                }
#else
        i32 terms[MAX_ROWS][2];
        for (int r = 0; r < rows; r++)
            for (int side = 0; side < 2; side++) terms[r][side] = dot4_begin(products[r][side], bits);
#pragma GCC unroll 4
        for (int i = 0; i < WORDS; i++, codes += 4)
            for (int phase = 0; phase < phases; phase++, w++)
                for (int r = 0; r < rows; r++) {
                    const i32 row = broadcast32(codes + r * code_bytes + phase * UNIT);
                    for (int side = 0; side < 2; side++)
                        terms[r][side] = in_order(dot4_add(terms[r][side], w[0][side], row, bits));
                }
        for (int r = 0; r < rows; r++)
            for (int side = 0; side < 2; side++) products[r][side] = dot4_end(products[r][side], terms[r][side], bits);
#endif
    }
#ifdef DOT8_PAIRS
    for (int r = 0; r < rows; r++)
        for (int side = 0; side < 2; side++) {
            const i32 first = terms[r & ~1][side], last = terms[r | 1][side];
            products[r][side] += r & 1 ? SHUFFLE(first, last, 2, 3, 6, 7) : SHUFFLE(first, last, 0, 1, 4, 5);
        }
#endif
}

/* Adds a chunk's products to the sums of `rows` rows of activations from m on. `short_blocks`: of WORDS words. */
INLINE void add_tile(const Linear *run, int64_t m, int64_t first, int64_t blocks, const Unpacked *in, f32 (*sums)[2],
                     const int rows, const int bits, const int short_blocks) {
    const LinearScratch *scratch = &run->scratch;
    const int64_t code_bytes = run->tiling.code_bytes, stride = scratch->stride;
    const int block_words = short_blocks ? WORDS : run->shape.words, phases = phases_of(bits);
    const i32(*w)[2] = in->weights;
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t at = m * stride + first + block;
        i32 products[MAX_ROWS][2];
        for (int r = 0; r < rows; r++)
            products[r][0] = products[r][1] = bits == 4 ? (i32){0} : broadcast32(scratch->zeros + at + r * stride);
        multiply_block(run, scratch->codes + m * code_bytes, (first + block) * block_words, w, products, rows, bits,
                       block_words);
        w += block_words * phases;
        for (int r = 0; r < rows; r++) {
            const f32 scale = (f32)broadcast32(scratch->scales + at + r * stride);
            const f32 sum = bits == 4 ? (f32)broadcast32(scratch->sums + at + r * stride) : (f32){0};
            for (int side = 0; side < 2; side++) {
                f32 added = scale * __builtin_convertvector(products[r][side], f32);
                if (bits == 4) added -= sum * in->zeros[block][side];
                sums[r][side] += in->scales[block][side] * added;
            }
        }
    }
}

#define SHAPE(rows, bits) ((rows) * 16 + (bits))
#define ROW_COUNTS(F, bits) F(1, bits) F(2, bits) F(3, bits) F(4, bits) F(5, bits) F(6, bits) F(7, bits) F(8, bits)

/* A function of its own, so that the loops have all registers. */
static __attribute__((noinline)) void add_rows(const Linear *run, int64_t m, int64_t first, int64_t blocks,
                                               const Unpacked *in, f32 (*sums)[2], int64_t rows) {
#define CASE(rows, bits) \
    case SHAPE(rows, bits): add_tile(run, m, first, blocks, in, sums, rows, bits, 0); break;
#define CASE_OF_SHORT_BLOCKS(rows, bits) \
    case rows: add_tile(run, m, first, blocks, in, sums, rows, bits, 1); break;
    if (run->shape.words == WORDS) {
        switch (rows) { ROW_COUNTS(CASE_OF_SHORT_BLOCKS, 4) }
    } else {
        switch (SHAPE(rows, run->shape.bits)) { ROW_COUNTS(CASE, 4) ROW_COUNTS(CASE, 8) }
    }
#undef CASE
}

INLINE void add_panel(const Linear *run, int64_t from, int64_t to, int64_t n, f32 (*sums)[2], const int bits) {
    const int64_t chunk = CHUNK / run->shape.block;
    Unpacked in;
    for (int64_t first = 0; first < run->shape.blocks; first += chunk) {
        const int64_t blocks = min64(chunk, run->shape.blocks - first);
        unpack(run, n, first, blocks, &in, bits);
        int64_t tiles = quotient_up(to - from, tile_rows(bits));
        for (int64_t m = from, rows; m < to; m += rows, tiles--) {
            rows = quotient_up(to - m, tiles); /* tiles of even sizes keep as many registers busy */
            add_rows(run, m, first, blocks, &in, sums + m - from, rows);
        }
    }
}

void linear_panel_task(const Linear *run, int64_t task) {
    const int64_t tile_rows = run->tiling.tile_rows, panels = run->tiling.panels;
    const int64_t from = task / panels * tile_rows, to = min64(from + tile_rows, run->shape.m);
    const int64_t n = task % panels * PANEL, columns = min64(PANEL, run->shape.n - n);
    float bias[PANEL] = {0};
    f32 sums[MAX_TASK_ROWS][2];
    if (run->bias) memcpy(bias, run->bias + n, (size_t)columns * sizeof(float));
    for (int64_t m = 0; m < to - from; m++) {
        memcpy(sums[m], bias, sizeof(bias));
        const float *residual = run->residual ? run->residual + (from + m) * run->shape.n + n : NULL;
        for (int64_t i = 0; residual && i < columns; i++) sums[m][i / LANES][i % LANES] += residual[i];
    }
    if (run->shape.bits == 4)
        add_panel(run, from, to, n, sums, 4);
    else
        add_panel(run, from, to, n, sums, 8);
    for (int64_t m = from; m < to; m++)
        memcpy(run->y + m * run->y_stride + n, sums[m - from], (size_t)columns * sizeof(float));
}

#endif
