/* Quantizes the activations of a linear layer to signed bytes, block by block.
 *
 *     for each group of group_blocks blocks (1, 2 or 4; folded, LANES)
 *         for each block: x [block] -> codes -127 .. 127, its scale and zero
 *         its words, in groups of at most LANES, go to their place in the units of codes
 *         by rows of B: behind the units a vector of zeros per lane (8 bits only), and one of scales; folded, one of
 *             scales and one of scales times sums of codes
 *
 * Codes of one row: [groups][units of a group * phases (+ 1 or 2)][UNIT bytes]. Blocks beyond the row are zeros.
 */
#include "linear_tiles.h"

#ifdef DOT4

/* The largest absolute value. */
static float largest(const float *x, int64_t n) {
    uint32_t found = 0; /* the bits of a value, which order as the values do */
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
        code = code > -127.0f ? code : -127.0f; /* NaN becomes -127 */
        codes[i] = (int8_t)(code < 127.0f ? code : 127.0f);
    }
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += codes[i];
    return sum;
}

static void split(const int8_t *restrict codes, int8_t *restrict even, int8_t *restrict odd, int64_t n) {
    for (int64_t i = 0; i < n; i++) even[i] = codes[2 * i], odd[i] = codes[2 * i + 1];
}

/* Quantizes a block of a row, which is number `part` of its group, into the group's units. Returns its scale. */
static float quantize_block(const Linear *run, int64_t row, int64_t block, int part, int8_t *to) {
    const LinearShape *shape = &run->shape;
    const int phases = phases_of(shape->bits), words = (int)min64(shape->words, LANES);
    const int64_t at = block * shape->block, index = row * run->scratch.stride + block;
    float padded[MAX_BLOCK];
    int8_t codes[MAX_BLOCK];
    const float *from = run->x + row * shape->k + at;
    if (shape->k - at < shape->block) {
        memset(padded, 0, sizeof(padded));
        from = memcpy(padded, from, (size_t)(shape->k - at) * sizeof(float));
    }
    const float bound = largest(from, shape->block);
    const float scale = run->scratch.scales[index] = bound / 127.0f;
    const int32_t sum = round_block(from, bound > 0.0f ? 127.0f / bound : 0.0f, codes, shape->block);
    if (shape->bits == 4)
        run->scratch.sums[index] = scale * (float)sum;
    else
        run->scratch.zeros[index] = -sum * dot4_zero_point();
    for (int word = 0; word < shape->words; word += words) {
        int8_t *place = to + (word / LANES * phases) * UNIT + part * words * 4;
        if (phases == 2)
            split(codes + word * 8, place, place + UNIT, words * 4);
        else
            memcpy(place, codes + word * 4, (size_t)words * 4);
    }
    return scale;
}

/* A folded group: codes of LANES blocks, then their scales and scaled sums in the order that folding leaves. */
static void quantize_folded(const Linear *run, int64_t row, int64_t first, int64_t blocks, int8_t *to) {
    const int64_t at = row * run->scratch.stride + first;
    if (blocks < LANES) memset(to, 0, FOLDED_GROUP);
    for (int i = 0; i < blocks; i++) quantize_block(run, row, first + i, i % QUADS, to + i / QUADS * 2 * UNIT);
    const f32 scales = folded_order(load(run->scratch.scales + at)), sums = folded_order(load(run->scratch.sums + at));
    memcpy(to + 2 * FOLDED * UNIT, &scales, UNIT);
    memcpy(to + (2 * FOLDED + 1) * UNIT, &sums, UNIT);
}

/* A group of whole units. */
static void quantize_units(const Linear *run, int64_t row, int64_t first, int64_t blocks, int8_t *to) {
    const LinearTiling *tiling = &run->tiling;
    const int bits = run->shape.bits, phases = phases_of(bits), words = (int)min64(run->shape.words, LANES);
    const int units = tiling->block_units * phases;
    float lane_scales[LANES] = {0};
    if (blocks < tiling->unit_blocks) memset(to, 0, (size_t)phases * UNIT);
    for (int part = 0; part < blocks; part++) {
        const float scale = quantize_block(run, row, first + part, part, to);
        for (int word = 0; word < words; word++) lane_scales[part * words + word] = scale;
    }
    if (!tiling->by_rows) return;
    if (bits == 8) {
        i32 zeros = {0};
        for (int i = 0; i < units; i++) zeros = dot4(zeros, (i32){0} + 0x01010101, load_i32(to + i * UNIT), 4);
        zeros *= -dot4_zero_point();
        memcpy(to + units * UNIT, &zeros, UNIT);
    }
    memcpy(to + (units + row_extra(bits) - 1) * UNIT, lane_scales, UNIT);
}

void linear_quantize(const Linear *run, int64_t row, int64_t piece, int64_t pieces) {
    const LinearTiling *tiling = &run->tiling;
    const int64_t begin = piece * tiling->piece, end = min64(begin + pieces * tiling->piece, run->shape.blocks);
    int8_t *to = run->scratch.codes + row * tiling->code_bytes + begin / tiling->group_blocks * group_bytes(run);

    for (int64_t i = end; end == run->shape.blocks && i < run->scratch.stride; i++) {
        const int64_t index = row * run->scratch.stride + i;
        run->scratch.scales[index] = run->scratch.sums[index] = 0.0f;
    }
    for (int64_t first = begin; first < end; first += tiling->group_blocks, to += group_bytes(run)) {
        const int64_t blocks = min64(tiling->group_blocks, end - first);
        if (tiling->folded)
            quantize_folded(run, row, first, blocks, to);
        else
            quantize_units(run, row, first, blocks, to);
    }
}

void linear_quantize_task(void *linear, size_t task) {
    const Linear *run = linear;
    linear_quantize(run, (int64_t)task / run->tiling.pieces, (int64_t)task % run->tiling.pieces, 1);
}

#endif
