/* Quantizes groups of weights, for omni_quant: the search for scales and zero points, and error feedback in a group.
 *
 *     for LANES rows at a time, for each group
 *         columns [size]: a vector holds one column of all rows
 *         for each candidate: scale, lowest code, error, as vectors; keep the best of each row
 *         codes of the best
 *
 * Results are those of group_search.py and gptq.py to the last bit: sums have the same order, and every operation rounds.
 */
#include "operator.h"
#include "simd.h"

/* A fused multiplication and addition would round once. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

enum { MAX_SIZE = 256 };
#define LARGEST_SCALE 65504.0f

static const float PARTS[] = {1.0f, 1.05f, 0.95f, 0.9f}, FINE_PARTS[] = {0.98f, 1.02f};

/* One group of LANES rows, and the best candidate of each row. */
typedef struct {
    f32 columns[MAX_SIZE];
    int64_t size;
    const float *importance; /* of each column, or NULL */
    float largest;           /* code */
    f32 low, high;           /* the range of values, with 0 */
    f32 error, scale, lowest;
} Group;

typedef uint8_t bytes __attribute__((vector_size(LANES)));

static inline f32 choose(i32 mask, f32 a, f32 b) { return (f32)(((i32)a & mask) | ((i32)b & ~mask)); }

/* To the nearest integer, of two the even one. Values beyond 2^22 stay at least as large. */
static inline f32 nearest(f32 x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

/* Rounds values >= 0 to float16; 0 becomes the smallest float16. Values from 65520 on become larger than all float16. */
static inline f32 representable(f32 x) {
    const f32 step = (x + 0.5f) - 0.5f; /* 0.5 has the spacing of small float16, 2^-24 */
    const f32 small = choose(step == 0.0f, (f32){0} + 0x1p-24f, step);
    const u32 bits = (u32)x;
    const f32 large = (f32)((bits + 0xfff + (bits >> 13 & 1)) & ~(u32){0} << 13);
    return choose(x < 0x1p-14f, small, large);
}

/* Takes `wanted` scales, with their best zero points, for the rows where the error is smaller. */
static inline void try_scales(Group *group, f32 wanted) {
    const f32 scale = representable(minimum(wanted, (f32){0} + LARGEST_SCALE)), inverse = 1.0f / scale;
    const f32 first = nearest(group->low * inverse), last = nearest(group->high * inverse), none = {0};
    const f32 beyond = maximum(last - first - group->largest, none);
    /* beyond / 2, rounded down */
    const f32 lowest = minimum(maximum(first + nearest(beyond * 0.5f - 0.25f), none - group->largest), none);
    const f32 highest = lowest + group->largest;
    f32 error = {0};
    for (int64_t i = 0; i < group->size; i++) {
        const f32 scaled = group->columns[i] * inverse;
        const f32 difference = minimum(maximum(nearest(scaled), lowest), highest) - scaled;
        const f32 square = difference * difference;
        error += group->importance ? square * group->importance[i] : square;
    }
    error *= scale * scale;
    const i32 better = error < group->error;
    group->error = choose(better, error, group->error);
    group->scale = choose(better, scale, group->scale);
    group->lowest = choose(better, lowest, group->lowest);
}

/* Searches; returns 0 where a value is not finite or a scale is too large for float16. */
static int find_best(Group *group) {
    const f32 none = {0};
    f32 low = none, high = none, check = none;
    for (int64_t i = 0; i < group->size; i++) {
        low = minimum(group->columns[i], low);
        high = maximum(group->columns[i], high);
        check += group->columns[i] * 0.0f; /* NaN where a value is not finite */
    }
    const f32 full = representable((high - low) / group->largest);
    const i32 wrong = ~((check == 0.0f) & (full <= LARGEST_SCALE));
    for (int lane = 0; lane < LANES; lane++)
        if (wrong[lane]) return 0;
    group->low = low, group->high = high;
    group->error = none + __builtin_inff(), group->scale = none + 1.0f, group->lowest = none;
    for (size_t part = 0; part < sizeof(PARTS) / sizeof(*PARTS); part++) try_scales(group, full * PARTS[part]);
    const f32 found = group->scale;
    for (size_t part = 0; part < sizeof(FINE_PARTS) / sizeof(*FINE_PARTS); part++)
        try_scales(group, found * FINE_PARTS[part]);
    return 1;
}

/* Codes of the best candidates, uint8 [rows][size], rows `stride` apart. */
static void write_codes(const Group *group, int rows, int64_t stride, uint8_t *codes) {
    const f32 inverse = 1.0f / group->scale, none = {0};
    bytes found[MAX_SIZE];
    for (int64_t i = 0; i < group->size; i++) {
        const f32 code = nearest(group->columns[i] * inverse - group->lowest);
        found[i] = __builtin_convertvector(minimum(maximum(code, none), none + group->largest), bytes);
    }
    for (int row = 0; row < rows; row++)
        for (int64_t i = 0; i < group->size; i++) codes[row * stride + i] = found[i][row];
}

/* Reads, or writes, the first `lanes` lanes. */
static inline f32 load_lanes(const float *from, int lanes) {
    f32 v = {0};
    if (lanes == LANES) return load(from);
    for (int lane = 0; lane < lanes; lane++) v[lane] = from[lane];
    return v;
}

static inline void store_lanes(float *to, f32 v, int lanes) {
    if (lanes == LANES) store(to, v);
    else
        for (int lane = 0; lane < lanes; lane++) to[lane] = v[lane];
}

EXPORT int omni_quantize_groups(const float *values, int64_t row_stride, int64_t column_stride, const float *importance,
                                int64_t rows, int64_t blocks, int64_t size, int bits, uint8_t *codes, float *scales,
                                uint8_t *zero_points);
EXPORT void omni_round_columns(const float *target, const float *within, const float *scales,
                               const uint8_t *zero_points, int64_t rows, int64_t size, int bits, uint8_t *codes,
                               float *values);

/* omni_quant.group_search.quantize_groups with zero points.
 *
 * values: [rows, blocks, size], with distances, in values, between rows and between columns; size <= MAX_SIZE.
 * importance: [blocks, size], or NULL.
 * codes: [rows, blocks, size]. scales, zero_points: [rows, blocks].
 * Returns 0, or 1 where a value is not finite or a scale is too large for float16.
 */
int omni_quantize_groups(const float *values, int64_t row_stride, int64_t column_stride, const float *importance,
                         int64_t rows, int64_t blocks, int64_t size, int bits, uint8_t *codes, float *scales,
                         uint8_t *zero_points) {
    Group group = {.size = size, .largest = (float)((1 << bits) - 1)};
    for (int64_t first = 0; first < rows; first += LANES) {
        const int here = (int)min64(rows - first, LANES);
        for (int64_t block = 0; block < blocks; block++) {
            const float *from = values + first * row_stride + block * size * column_stride;
            for (int64_t i = 0; i < size; i++)
                for (int lane = 0; lane < LANES; lane++)
                    group.columns[i][lane] = from[(lane < here ? lane : 0) * row_stride + i * column_stride];
            group.importance = importance ? importance + block * size : NULL;
            if (!find_best(&group)) return 1;
            const int64_t at = first * blocks + block;
            write_codes(&group, here, blocks * size, codes + at * size);
            for (int lane = 0; lane < here; lane++) {
                scales[at + lane * blocks] = group.scale[lane];
                zero_points[at + lane * blocks] = (uint8_t)-group.lowest[lane];
            }
        }
    }
    return 0;
}

/* omni_quant.gptq._round_columns.
 *
 * target: [size, rows], weights with the feedback of earlier groups; size <= MAX_SIZE.
 * within: [size, size], what the error of a column adds to later ones.
 * scales, zero_points: [rows].
 * codes, values: [size, rows], written.
 */
void omni_round_columns(const float *target, const float *within, const float *scales, const uint8_t *zero_points,
                        int64_t rows, int64_t size, int bits, uint8_t *codes, float *values) {
    f32 columns[MAX_SIZE];
    for (int64_t first = 0; first < rows; first += LANES) {
        const int here = (int)min64(rows - first, LANES);
        f32 scale = {0}, lowest = {0};
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t row = first + (lane < here ? lane : 0);
            scale[lane] = scales[row], lowest[lane] = -(float)zero_points[row];
        }
        const f32 inverse = 1.0f / scale, highest = lowest + (float)((1 << bits) - 1);
        for (int64_t i = 0; i < size; i++) columns[i] = load_lanes(target + i * rows + first, here);
        for (int64_t i = 0; i < size; i++) {
            const f32 code = minimum(maximum(nearest(columns[i] * inverse), lowest), highest), value = code * scale;
            const f32 error = columns[i] - value;
            for (int64_t j = i + 1; j < size; j++) columns[j] -= within[i * size + j] * error;
            const bytes stored = __builtin_convertvector(code - lowest, bytes);
            memcpy(codes + i * rows + first, &stored, (size_t)here);
            store_lanes(values + i * rows + first, value, here);
        }
    }
}
