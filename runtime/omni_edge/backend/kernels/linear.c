/* A matrix of 4 or 8 bits times activations: `com.microsoft.MatMulNBits`, used as it lies in the file.
 *
 * onnxruntime packs such a matrix when it loads it, into memory of its own. This operator reads it where it is mapped,
 * so that loading costs nothing and processes share the pages, and unpacks it as it goes.
 *
 *     LinearNBits(x float32 [..., K], B uint8 [N, blocks, block_size * bits / 8], scales float32 [N * blocks])
 *         -> float32 [..., N]
 *     LinearNBitsBias(..., bias float32 [N])
 *
 * with the attributes K, N, bits and block_size, a power of two from 32 to 256. A block of weights along K shares a
 * scale; their zero point is 8, or 128. The activations are quantized per block too, to signed bytes, so that products
 * are sums of products of bytes. Those run in vectors of LANES sums, four bytes' products each. A unit is what fills
 * one vector of a row of B: the weights of 4 LANES (8 bits) or of 8 LANES (4 bits) activations. With 4 bits the low
 * nibbles belong to the even ones, the high nibbles to the odd ones, and so the quantized activations of a unit lie:
 * those before these.
 *
 * Up to DOTTED rows of activations are bound by the reading of B: `dots` takes it row by row, as fast as memory gives
 * it, in STREAMS that run through all of B: tasks are cut across them, so that what one task fetches ahead is what the
 * thread's next task begins with. More are bound by the arithmetic: `panel` transposes PANEL rows of B, a chunk of K at
 * a time, into the first-level cache, so that a lane is a row of B, and multiplies them with all activations, each group
 * of four broadcast, in tiles that fill the registers.
 */
#include "linear.h"

#include <stdlib.h>
#include <string.h>

#include "lanes.h"
#include "operator.h"

#ifdef LANES

enum { X, B, SCALES, BIAS, INPUTS };
enum { SMALLEST_BLOCK = 32, LARGEST_BLOCK = 256 };
enum { UNIT = 4 * LANES, PANEL = 2 * LANES, MOST_PARTS = LANES / 4 };
/* Row by row: rows of B that are read at once, those of them and rows of activations that are multiplied at a time, and
 * bytes from what is read to what is fetched meanwhile, of B and of the scales. */
enum { DOTTED = 8, STREAMS = LANES == 16 ? 8 : 4, DOT_ROWS = 4, DOT_XS = 4, AHEAD = 512, SCALES_AHEAD = AHEAD / 8 };
/* In panels: elements of a chunk, rows of activations in registers, and those that stay in the second-level cache. */
enum { CHUNK = 512, MOST_ROWS = 8, TILE_ROWS = LANES == 8 ? 5 : MOST_ROWS }; /* AVX2 has half as many registers */
enum { TILE_BYTES = 1 << 20, SMALLEST_TILE = 48, LARGEST_TILE = 256 };
/* Work for the threads: about so many parts of it, unless they get too small; activations that one quantizes. */
enum { TASKS = 32, TASK_BYTES = 32 << 10, PIECE = 1024 };
/* Activations whose quantization is not worth a dispatch. */
enum { SMALL = 16 << 10 };

/* A node of a graph. */
typedef struct LinearNode {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    int64_t k, n, bits, block;
} LinearNode;

/* -- activations -- */

/* The largest absolute value. */
static float largest(const float *x, int64_t n) {
    uint32_t found = 0; /* bits, which order as the values do */
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        bits &= 0x7fffffff;
        found = found > bits ? found : bits;
    }
    float value;
    memcpy(&value, &found, sizeof(value));
    return value;
}

/* Rounds to codes of -127 to 127 and returns their sum. */
static int32_t round_block(const float *restrict x, float inverse, int8_t *restrict codes, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float code = __builtin_rintf(x[i] * inverse);
        code = code > -127.0f ? code : -127.0f; /* which NaN is not */
        codes[i] = (int8_t)(code < 127.0f ? code : 127.0f);
    }
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += codes[i];
    return sum;
}

static void split(const int8_t *restrict codes, int8_t *restrict even, int8_t *restrict odd, int64_t n) {
    for (int64_t i = 0; i < n; i++) even[i] = codes[2 * i], odd[i] = codes[2 * i + 1];
}

/* Of the quantized activations of as many blocks as make whole units. */
INLINE int64_t group_bytes(const Linear *run) { return (run->span * 8 / run->bits + 2 * run->dotted) * UNIT; }

void linear_quantize(const Linear *run, int64_t row, int64_t piece, int64_t pieces) {
    const float *x = run->x + row * run->k;
    const int64_t begin = piece * run->piece, end = least(begin + pieces * run->piece, run->blocks);
    int8_t *to = run->codes + row * run->code_bytes + begin / run->parts * group_bytes(run);
    const int phases = 8 / run->bits, words = (int)least(run->words, LANES);
    float padded[LARGEST_BLOCK] = {0};
    int8_t codes[LARGEST_BLOCK];

    for (int64_t first = begin; first < end; first += run->parts) {
        float lane_scales[LANES] = {0};
        const int64_t blocks = least(run->parts, run->blocks - first);
        for (int part = 0; part < blocks; part++) {
            const int64_t at = (first + part) * run->block, block = row * run->blocks + first + part;
            const float *from = x + at;
            if (run->k - at < run->block) from = memcpy(padded, from, (size_t)(run->k - at) * sizeof(float));
            const float bound = largest(from, run->block);
            const float scale = run->x_scales[block] = bound / 127.0f;
            const int32_t sum = round_block(from, bound > 0.0f ? 127.0f / bound : 0.0f, codes, run->block);
            run->x_zeros[block] = -sum * zero_point(run->bits);
            for (int word = 0; word < run->words; word += words) {
                int8_t *place = to + (word / LANES * phases) * UNIT + part * words * 4;
                if (phases == 2)
                    split(codes + word * 8, place, place + UNIT, words * 4);
                else
                    memcpy(place, codes + word * 4, (size_t)words * 4);
            }
            for (int word = 0; word < words; word++) lane_scales[part * words + word] = scale;
        }
        for (int phase = 0; blocks < run->parts && phase < phases; phase++)
            memset(to + phase * UNIT + blocks * words * 4, 0, (size_t)(run->parts - blocks) * (size_t)words * 4);
        const int units = run->span * phases;
        if (run->dotted) {
            ints sum = {0};
            for (int i = 0; i < units; i++) sum = dot(sum, (ints){0} + 0x01010101, load(to + i * UNIT), 4);
            sum *= -zero_point(run->bits);
            memcpy(to + units * UNIT, &sum, UNIT);
            memcpy(to + (units + 1) * UNIT, lane_scales, UNIT);
            to += 2 * UNIT;
        }
        to += units * UNIT;
    }
}

void linear_quantize_task(void *linear, size_t task) {
    const Linear *run = linear;
    linear_quantize(run, (int64_t)task / run->pieces, (int64_t)task % run->pieces, 1);
}

/* -- few activations: row by row -- */

/* The scales of the blocks that lie in a unit, each over its lanes. */
INLINE floats spread(const float *scales, const int parts) {
    ints v = every(scales);
    for (int part = 1; part < parts; part++) {
        ints mask;
        for (int lane = 0; lane < LANES; lane++) mask[lane] = lane * parts / LANES == part ? -1 : 0;
        v = (v & ~mask) | (every(scales + part) & mask);
    }
    return (floats)v;
}

/* `rows` rows of B, n, n + pitch .., times xs rows of activations from x on. */
INLINE void dot_rows(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                     const int bits, const int parts, const int span) {
    const int phases = 8 / bits, codes_bytes = span * phases * UNIT;
    const int64_t x_bytes = run->code_bytes;
    const int8_t *with = run->codes + x * x_bytes;
    const uint8_t *row = run->b + n * run->row_bytes;
    const float *scale = run->scales + n * run->blocks;
    int64_t row_pitch = pitch * run->row_bytes, scale_pitch = pitch * run->blocks;
    uint8_t row_ends[STREAMS * UNIT] = {0};
    float scale_ends[STREAMS * MOST_PARTS] = {0};
    floats sums[STREAMS][DOT_XS] = {{{0}}};
    for (int64_t left = run->blocks; left > 0; left -= parts) {
        if (left < parts) { /* a unit that the row does not fill */
            for (int r = 0; r < rows; r++) {
                memcpy(row_ends + r * UNIT, row + r * row_pitch, (size_t)left * (UNIT / (size_t)parts));
                memcpy(scale_ends + r * MOST_PARTS, scale + r * scale_pitch, (size_t)left * sizeof(float));
            }
            row = row_ends, row_pitch = UNIT, scale = scale_ends, scale_pitch = MOST_PARTS;
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const floats scales = spread(scale + r * scale_pitch, parts);
            ints products[DOT_XS];
            fetch(scale + r * scale_pitch, SCALES_AHEAD);
            for (int i = 0; i < xs; i++) products[i] = load(with + i * x_bytes + codes_bytes);
            for (int unit = 0; unit < span; unit++) {
                const uint8_t *at = row + r * row_pitch + unit * UNIT;
                const ints w = load(at), nibble = (ints){0} + 0x0f0f0f0f;
                fetch(at, AHEAD);
                for (int i = 0; i < xs; i++) {
                    const int8_t *codes = with + i * x_bytes + unit * phases * UNIT;
                    if (bits == 4) {
                        products[i] = dot(products[i], weights_of(w & nibble, 4), load(codes), 4);
                        products[i] = dot(products[i], weights_of((w >> 4) & nibble, 4), load(codes + UNIT), 4);
                    } else {
                        products[i] = dot(products[i], weights_of(w, 8), load(codes), 8);
                    }
                }
            }
            for (int i = 0; i < xs; i++)
                sums[r][i] += __builtin_convertvector(products[i], floats) *
                              (scales * (floats)load(with + i * x_bytes + codes_bytes + UNIT));
        }
        row += span * UNIT, scale += parts, with += codes_bytes + 2 * UNIT;
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < xs; i++) {
            const int64_t at = n + r * pitch;
            const float more = run->more ? run->more[(x + i) * run->n + at] : 0.0f;
            run->y[(x + i) * run->stride + at] = total(sums[r][i]) + (run->bias ? run->bias[at] : 0.0f) + more;
        }
}

INLINE void dot_xs(const Linear *run, int64_t n, int64_t pitch, const int rows, int64_t x, const int xs,
                   const int bits) {
    if (run->span > 1)
        dot_rows(run, n, pitch, rows, x, xs, bits, 1, run->span);
    else if (run->parts == 1)
        dot_rows(run, n, pitch, rows, x, xs, bits, 1, 1);
    else if (run->parts == 2)
        dot_rows(run, n, pitch, rows, x, xs, bits, 2, 1);
    else
        dot_rows(run, n, pitch, rows, x, xs, bits, MOST_PARTS, 1);
}

/* Row n of each stream of B. */
static __attribute__((noinline)) void dot_all(const Linear *run, int64_t n, int64_t pitch) {
    for (int64_t x = 0, xs; x < run->m; x += xs) {
        xs = run->m - x >= 4 ? 4 : run->m - x >= 2 ? 2 : 1;
        if (xs == 1) {
            if (run->bits == 4)
                dot_xs(run, n, pitch, STREAMS, x, 1, 4);
            else
                dot_xs(run, n, pitch, STREAMS, x, 1, 8);
            continue;
        }
        for (int some = 0; some < (pitch ? STREAMS : DOT_ROWS); some += DOT_ROWS) {
            const int64_t row = n + some * pitch;
            switch (xs * 8 + run->bits) {
                case 20: dot_xs(run, row, pitch, DOT_ROWS, x, 2, 4); break;
                case 24: dot_xs(run, row, pitch, DOT_ROWS, x, 2, 8); break;
                case 36: dot_xs(run, row, pitch, DOT_ROWS, x, 4, 4); break;
                case 40: dot_xs(run, row, pitch, DOT_ROWS, x, 4, 8); break;
            }
        }
    }
}

static void dots(const Linear *run, int64_t task) {
    const int64_t from = task * run->task_rows, to = least(from + run->task_rows, run->pitch);
    for (int64_t n = from; n < to; n++) dot_all(run, n, run->pitch);
    /* What the streams leave over: the same row, as often as there are streams. */
    for (int64_t n = run->pitch * STREAMS; to == run->pitch && n < run->n; n++) dot_all(run, n, 0);
}

/* -- many activations: panels -- */

/* A chunk of a panel, as `tile` takes it: pairs of vectors, with 4 bits those of low and of high nibbles by turns. */
typedef struct Unpacked {
    ints weights[CHUNK / 4][2];
    floats scales[CHUNK / SMALLEST_BLOCK][2];
} Unpacked;

INLINE void unpack(const Linear *run, int64_t n, int64_t first, int64_t blocks, Unpacked *out, const int bits) {
    const int64_t begin = first * run->words * 4, units = quotient_up(blocks * run->words, LANES);
    /* What this thread unpacks next: the next chunk, or that which begins the next panel. */
    const int64_t ahead = first + blocks < run->blocks ? units * UNIT : PANEL * run->row_bytes - begin;
    for (int side = 0; side < 2; side++) {
        int64_t rows[LANES]; /* past the last one it is read again */
        for (int lane = 0; lane < LANES; lane++) rows[lane] = least(n + side * LANES + lane, run->n - 1);
        for (int64_t unit = 0; unit < units; unit++) {
            const int64_t at = begin + unit * UNIT;
            ints v[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                const uint8_t *row = run->b + rows[lane] * run->row_bytes + at;
                fetch(row, ahead);
                v[lane] = load_some(row, (size_t)(run->row_bytes - at));
            }
            transpose(v);
            for (int word = 0; word < LANES; word++) {
                ints(*to)[2] = out->weights + (unit * LANES + word) * (8 / bits);
                const ints nibble = (ints){0} + 0x0f0f0f0f;
                if (bits == 4) {
                    to[0][side] = weights_of(v[word] & nibble, 4);
                    to[1][side] = weights_of((v[word] >> 4) & nibble, 4);
                } else {
                    to[0][side] = weights_of(v[word], 8);
                }
            }
        }
        for (int64_t done = 0; done < blocks; done += LANES) {
            ints v[LANES];
            for (int lane = 0; lane < LANES; lane++)
                v[lane] = load_some(run->scales + rows[lane] * run->blocks + first + done,
                                    (size_t)(run->blocks - first - done) * sizeof(float));
            transpose(v);
            for (int i = 0; i < LANES && done + i < blocks; i++) out->scales[done + i][side] = (floats)v[i];
        }
    }
}

/* Adds to `rows` rows of sums what the chunk contributes. */
INLINE void tile(const Linear *run, int64_t m, int64_t first, int64_t blocks, const Unpacked *in, floats (*sums)[2],
                 const int rows, const int bits) {
    const int words = (int)least(run->words, LANES);
    const ints(*w)[2] = in->weights;
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t at = m * run->blocks + first + block;
        ints products[MOST_ROWS][2];
        for (int r = 0; r < rows; r++) products[r][0] = products[r][1] = every(run->x_zeros + at + r * run->blocks);
        for (int word = 0; word < run->words; word += words) {
            const int64_t place = (first + block) * run->words + word;
            const int8_t *x = run->codes + m * run->code_bytes + place / LANES * UNIT * (8 / bits) + place % LANES * 4;
            for (int i = 0; i < words; i++, x += 4)
                for (int phase = 0; phase < 8 / bits; phase++, w++)
                    for (int r = 0; r < rows; r++) {
                        const ints four = every(x + r * run->code_bytes + phase * UNIT);
                        products[r][0] = dot(products[r][0], w[0][0], four, bits);
                        products[r][1] = dot(products[r][1], w[0][1], four, bits);
                    }
        }
        for (int r = 0; r < rows; r++) {
            const floats scale = (floats)every(run->x_scales + at + r * run->blocks);
            for (int side = 0; side < 2; side++)
                sums[r][side] += __builtin_convertvector(products[r][side], floats) * (scale * in->scales[block][side]);
        }
    }
}

/* A function to itself, so that the compiler has all registers for the loops in it. */
static __attribute__((noinline)) void tile_of(const Linear *run, int64_t m, int64_t first, int64_t blocks,
                                              const Unpacked *in, floats (*sums)[2], int64_t rows) {
    switch (rows + (run->bits == 8) * MOST_ROWS) {
        case 1: tile(run, m, first, blocks, in, sums, 1, 4); break;
        case 2: tile(run, m, first, blocks, in, sums, 2, 4); break;
        case 3: tile(run, m, first, blocks, in, sums, 3, 4); break;
        case 4: tile(run, m, first, blocks, in, sums, 4, 4); break;
        case 5: tile(run, m, first, blocks, in, sums, 5, 4); break;
        case 6: tile(run, m, first, blocks, in, sums, 6, 4); break;
        case 7: tile(run, m, first, blocks, in, sums, 7, 4); break;
        case 8: tile(run, m, first, blocks, in, sums, 8, 4); break;
        case 9: tile(run, m, first, blocks, in, sums, 1, 8); break;
        case 10: tile(run, m, first, blocks, in, sums, 2, 8); break;
        case 11: tile(run, m, first, blocks, in, sums, 3, 8); break;
        case 12: tile(run, m, first, blocks, in, sums, 4, 8); break;
        case 13: tile(run, m, first, blocks, in, sums, 5, 8); break;
        case 14: tile(run, m, first, blocks, in, sums, 6, 8); break;
        case 15: tile(run, m, first, blocks, in, sums, 7, 8); break;
        case 16: tile(run, m, first, blocks, in, sums, 8, 8); break;
    }
}

INLINE void panel_of(const Linear *run, int64_t from, int64_t to, int64_t n, floats (*sums)[2], const int bits) {
    const int64_t chunk = CHUNK / run->block;
    Unpacked in;
    for (int64_t first = 0; first < run->blocks; first += chunk) {
        const int64_t blocks = least(chunk, run->blocks - first);
        unpack(run, n, first, blocks, &in, bits);
        int64_t tiles = quotient_up(to - from, TILE_ROWS);
        for (int64_t m = from, rows; m < to; m += rows, tiles--) {
            rows = quotient_up(to - m, tiles); /* tiles of about the same size keep as many registers busy */
            tile_of(run, m, first, blocks, &in, sums + m - from, rows);
        }
    }
}

static void panel(const Linear *run, int64_t task) {
    const int64_t from = task / run->panels * run->tile_rows, to = least(from + run->tile_rows, run->m);
    const int64_t n = task % run->panels * PANEL, columns = least(PANEL, run->n - n);
    float bias[PANEL] = {0};
    floats sums[LARGEST_TILE][2]; /* not in y, whose rows may lie far apart */
    if (run->bias) memcpy(bias, run->bias + n, (size_t)columns * sizeof(float));
    for (int64_t m = 0; m < to - from; m++) {
        memcpy(sums[m], bias, sizeof(bias));
        const float *more = run->more ? run->more + (from + m) * run->n + n : NULL;
        for (int64_t i = 0; more && i < columns; i++) sums[m][i / LANES][i % LANES] += more[i];
    }
    if (run->bits == 4)
        panel_of(run, from, to, n, sums, 4);
    else
        panel_of(run, from, to, n, sums, 8);
    for (int64_t m = from; m < to; m++)
        memcpy(run->y + m * run->stride + n, sums[m - from], (size_t)columns * sizeof(float));
}

void linear_multiply_task(void *linear, size_t task) {
    const Linear *run = linear;
    if (run->dotted)
        dots(run, (int64_t)task);
    else
        panel(run, (int64_t)task);
}

/* -- sizes -- */

int linear_fits(int64_t n, int64_t k, int64_t bits, int64_t block) {
    return n > 0 && k > 0 && n <= INT32_MAX && k <= INT32_MAX && (bits == 4 || bits == 8) && block >= SMALLEST_BLOCK &&
           block <= LARGEST_BLOCK && !(block & (block - 1));
}

Linear linear_of(int64_t m, int64_t n, int64_t k, int64_t bits, int64_t block) {
    Linear run = {.stride = n, .m = m, .n = n, .k = k, .block = block, .bits = (int)bits};
    run.blocks = quotient_up(k, block);
    run.row_bytes = run.blocks * block * bits / 8;
    run.words = (int)(block * bits / 32);
    run.parts = (int)most(LANES / run.words, 1);
    run.span = (int)most(run.words / LANES, 1);
    run.dotted = m <= DOTTED;
    run.code_bytes = quotient_up(run.blocks, run.parts) * group_bytes(&run);
    run.piece = most(PIECE / (block * run.parts), 1) * run.parts;
    run.pieces = quotient_up(run.blocks, run.piece);

    run.pitch = n / STREAMS;
    run.task_rows = most(most(TASK_BYTES / (STREAMS * run.row_bytes), run.pitch / TASKS), 1);
    run.panels = quotient_up(n, PANEL);
    int64_t tiles = quotient_up(most(m, 1), least(most(TILE_BYTES / run.code_bytes, SMALLEST_TILE), LARGEST_TILE));
    while (run.panels * tiles < TASKS && m / (2 * tiles) >= SMALLEST_TILE) tiles *= 2;
    run.tile_rows = most(quotient_up(m, tiles), 1);
    return run;
}

int64_t linear_tasks(const Linear *run) {
    return run->dotted ? most(quotient_up(run->pitch, run->task_rows), 1)
                       : quotient_up(run->m, run->tile_rows) * run->panels;
}

int linear_is_small(const Linear *run) { return linear_tasks(run) == 1 && run->m * run->k <= SMALL; }

size_t linear_bytes(const Linear *run) {
    return UNIT + (size_t)(run->m * run->code_bytes) +
           (size_t)(run->m * run->blocks) * (sizeof(*run->x_scales) + sizeof(*run->x_zeros));
}

void linear_place(Linear *run, void *memory) {
    run->codes = (int8_t *)memory + (UNIT - (uintptr_t)memory % UNIT); /* vectors lie in one cache line each */
    run->x_scales = (float *)(run->codes + run->m * run->code_bytes);
    run->x_zeros = (int32_t *)(run->x_scales + run->m * run->blocks);
}

/* -- the operator -- */

static Status *compute(void *opaque, Context *context) {
    const LinearNode *node = opaque;
    const Api *api = node->kernel.api;
    Tensor in[INPUTS] = {{0}};
    TRY(input_tensors(&node->kernel, context, in));
    Tensor *x = in + X;
    if (!x->rank || x->shape[x->rank - 1] != node->k) return refuse(api, "The activations do not fit a matrix.");
    Linear run = linear_of((int64_t)x->elements / node->k, node->n, node->k, node->bits, node->block);
    if (in[B].elements != (size_t)(run.n * run.row_bytes) || in[SCALES].elements != (size_t)(run.n * run.blocks) ||
        (in[BIAS].data && in[BIAS].elements != (size_t)run.n))
        return refuse(api, "A matrix, its scales and its bias do not fit together.");
    run.x = x->data;
    run.b = in[B].data;
    run.scales = in[SCALES].data;
    run.bias = in[BIAS].data;
    x->shape[x->rank - 1] = run.n;
    TRY(output_data(api, context, 0, x->shape, x->rank, (void **)&run.y));
    if (!run.m) return NULL;
    void *memory = malloc(linear_bytes(&run));
    if (!memory) return out_of_memory(api);
    linear_place(&run, memory);
    const Phase phases[] = {{linear_quantize_task, &run, run.m * run.pieces},
                            {linear_multiply_task, &run, linear_tasks(&run)}};
    Status *status = run_phases(api, context, phases, 2, linear_is_small(&run));
    free(memory);
    return status;
}

static Status *create(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    LinearNode node = {.kernel = {(const Kind *)operator, api}};
    TRY(api_attribute_int64(api)(info, "K", &node.k));
    TRY(api_attribute_int64(api)(info, "N", &node.n));
    TRY(api_attribute_int64(api)(info, "bits", &node.bits));
    TRY(api_attribute_int64(api)(info, "block_size", &node.block));
    if (!linear_fits(node.n, node.k, node.bits, node.block))
        return refuse(api, "A matrix has 4 or 8 bits, in blocks of 32, 64, 128 or 256.");
    return keep_kernel(api, &node, sizeof(node), kernel);
}

#define MATRIX ELEMENT_FLOAT, ELEMENT_UINT8, ELEMENT_FLOAT

static const Kind KINDS[] = {
    KIND("LinearNBits", create, compute, SCALES + 1, 1, MATRIX, ELEMENT_FLOAT),
    KIND("LinearNBitsBias", create, compute, BIAS + 1, 1, MATRIX, ELEMENT_FLOAT, ELEMENT_FLOAT),
};

Status *add_linear(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}

#else

Status *add_linear(const Api *api, Domain *domain) {
    (void)api, (void)domain;
    return NULL;
}

#endif
