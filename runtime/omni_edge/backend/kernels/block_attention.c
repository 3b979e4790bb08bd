/* BlockAttention, WindowAttention: each block of frames attends to a few blocks around it, as in the DiT.
 *
 *     for each task, a head of a block: all of it stays in the second-level cache, most of it in the first
 *         head 0: copy queries [rows, depth] and keys [window, depth], rotate them
 *         transpose keys -> columns [depth, wide]; scores [rows, wide] = queries columns
 *         scores -> weights, row by row; y [rows, depth] = weights values
 *
 * rows: frames of a block; depth: a head's width, wide: the window, both rounded up to whole vectors. Where the width
 * is no multiple of LANES, queries, keys and values are copied and padded with zeros.
 */
#include <math.h>
#include <stdlib.h>

#include "matmul.h"
#include "operator.h"

/*
 *     BlockAttention    qkv float32 [B, T, 3 W], cos, sin, bias [B, 1, T, T]: each block attends to itself
 *     WindowAttention   query float32 [B, T, W], keys and values [B, S, W], place int64 [1], cos, sin, bias
 *                       [B, 1, T, S]: each block attends to a window that begins `place` frames before it
 *
 * Output: 0 float32 [B, T, W]. Attribute: num_heads. cos and sin, float32 [positions, W / heads / 2], rotate the first
 * head alone, its values by pairs; positions count from the window's first frame. The bias is added to the scores.
 */
enum { QUERY, KEYS, VALUES, PLACE, APART, PACKED = 1 };
enum { COS, SIN, BIAS, OTHERS }; /* behind the APART ones, or the PACKED one */

typedef struct Attention {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    int64_t heads;
} Attention;

/* One run of the operator, shared by its threads. */
typedef struct Run {
    const float *query, *keys, *values; /* rows `stride` apart */
    const float *cos, *sin, *bias;
    float *y;
    int64_t heads, width, length, window, place; /* width: of a head; length, window: in frames */
    int64_t stride;
    int failed; /* memory was missing */
} Run;

static int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* Rows of a head, `stride` values apart. */
typedef struct Rows {
    const float *at;
    int64_t stride;
} Rows;

/* Copies rows to `scratch`, padded with zeros to whole vectors. */
static Rows copy(const Run *run, Rows rows, int64_t n, float *scratch) {
    const int64_t stride = whole_vectors(run->width);
    for (int64_t i = 0; i < n; i++) {
        memcpy(scratch + i * stride, rows.at + i * rows.stride, (size_t)run->width * sizeof(float));
        for (int64_t k = run->width; k < stride; k++) scratch[i * stride + k] = 0;
    }
    return (Rows){scratch, stride};
}

/* Rotates rows, the first of them at `position`. */
static void rotate(const Run *run, float *x, int64_t rows, int64_t position) {
    const int64_t half = run->width / 2;
    for (int64_t i = 0; i < rows; i++, x += whole_vectors(run->width)) {
        const float *cos = run->cos + (position + i) * half, *sin = run->sin + (position + i) * half;
        for (int64_t k = 0; k < half; k++) {
            const float even = x[2 * k], odd = x[2 * k + 1];
            x[2 * k] = even * cos[k] - odd * sin[k];
            x[2 * k + 1] = odd * cos[k] + even * sin[k];
        }
    }
}

/* A row's scores [wide] become weights whose sum is 1. */
static void weigh(const Run *run, float *scores, const float *bias, float scale, int64_t wide) {
    const float log2e = 1.44269504f; /* weights are powers of 2, not of e */
    for (int64_t j = 0; j < run->window; j++) scores[j] = (scores[j] * scale + bias[j]) * log2e;
    for (int64_t j = run->window; j < wide; j++) scores[j] = -INFINITY;
    f32 top = load(scores), sum = {0};
    for (int64_t j = LANES; j < wide; j += LANES) top = maximum(top, load(scores + j));
    top = broadcast_maximum(top);
    for (int64_t j = 0; j < wide; j += LANES) {
        const f32 weight = exp2_nonpositive(load(scores + j) - top);
        store(scores + j, weight);
        sum += weight;
    }
    const float inverse = 1.0f / sum_lanes(sum);
    for (int64_t j = 0; j < wide; j += LANES) store(scores + j, load(scores + j) * inverse);
}

static void attend(void *argument, size_t task) {
    Run *run = argument;
    const int64_t block = (int64_t)task / run->heads, head = (int64_t)task % run->heads, width = run->width;
    const int64_t rows = run->length, window = run->window, depth = whole_vectors(width), wide = whole_vectors(window);
    const int64_t floats = 2 * rows * depth + 2 * window * depth + depth * wide + rows * wide;
    float *queries = malloc((size_t)floats * sizeof(float));
    if (!queries) {
        __atomic_store_n(&run->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *sums = queries + rows * depth, *keys = sums + rows * depth, *values = keys + window * depth;
    float *columns = values + window * depth, *scores = columns + depth * wide;

    Rows query = {run->query + block * rows * run->stride + head * width, run->stride};
    Rows key = {run->keys + block * window * run->stride + head * width, run->stride};
    Rows value = {run->values + block * window * run->stride + head * width, run->stride};
    float *y = run->y + block * rows * run->heads * width + head * width;
    const int whole = depth == width; /* queries, keys and values can be read where they lie */
    if (!head || !whole) {
        query = copy(run, query, rows, queries);
        key = copy(run, key, window, keys);
    }
    if (!head) {
        rotate(run, queries, rows, run->place);
        rotate(run, keys, window, 0);
    }
    if (!whole) value = copy(run, value, window, values);
    transpose(key.at, key.stride, window, depth, 0, columns, wide);
    const Product products = {.a = query.at, .a_stride = query.stride, .b = columns, .b_stride = wide, .c = scores,
                              .c_stride = wide, .rows = rows, .depth = width, .columns = wide};
    multiply_narrow(&products);
    const float *bias = run->bias + block * rows * window, scale = 1.0f / sqrtf((float)width);
    for (int64_t i = 0; i < rows; i++) weigh(run, scores + i * wide, bias + i * window, scale, wide);
    const Product weighted = {.a = scores, .a_stride = wide, .b = value.at, .b_stride = value.stride,
                              .c = whole ? y : sums, .c_stride = whole ? run->heads * width : depth, .rows = rows,
                              .depth = window, .columns = depth};
    multiply(&weighted);
    for (int64_t i = 0; !whole && i < rows; i++)
        memcpy(y + i * run->heads * width, sums + i * depth, (size_t)width * sizeof(float));
    free(queries);
}

static Status *compute(void *opaque, Context *context) {
    const Attention *attention = opaque;
    const Api *api = attention->kernel.api;
    Tensor in[APART + OTHERS] = {{0}};
    TRY(input_tensors(&attention->kernel, context, in));
    const int packed = attention->kernel.kind->inputs == PACKED + OTHERS;
    const Tensor *query = in, *keys = packed ? in : in + KEYS, *values = packed ? in : in + VALUES;
    const Tensor *others = in + (packed ? PACKED : APART), *cos = others + COS, *sin = others + SIN;
    int fits = query->rank == 3 && keys->rank == 3 && cos->rank == 2 && sin->rank == 2;
    const int64_t blocks = query->shape[0], stride = query->shape[2], all = packed ? stride / 3 : stride;
    Run run = {.heads = attention->heads, .width = all / attention->heads, .length = query->shape[1],
               .window = keys->shape[1], .stride = stride, .query = query->data,
               .keys = keys->data, .values = values->data, .cos = cos->data, .sin = sin->data,
               .bias = others[BIAS].data};
    if (packed)
        run.keys = run.query + all, run.values = run.query + 2 * all;
    else if (in[PLACE].elements == 1)
        run.place = *(const int64_t *)in[PLACE].data;
    const int64_t positions = run.window > run.place + run.length ? run.window : run.place + run.length;
    fits = fits && run.width > 0 && run.width % 2 == 0 && stride == (packed ? 3 : 1) * run.heads * run.width &&
           keys->shape[0] == blocks && keys->shape[2] == stride && keys->elements == values->elements &&
           others[BIAS].elements == (size_t)(blocks * run.length * run.window) && run.window > 0 && run.place >= 0 &&
           cos->shape[0] >= positions && cos->shape[1] == run.width / 2 && sin->elements == cos->elements;
    if (!fits) return refuse(api, "A block attention's inputs do not fit together.");
    const int64_t shape[3] = {blocks, run.length, all};
    TRY(output_data(api, context, 0, shape, 3, (void **)&run.y));
    TRY(api_parallel_for(api)(context, attend, (size_t)(blocks * run.heads), 0, &run));
    return run.failed ? out_of_memory(api) : NULL;
}

static Status *create(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    Attention attention = {.kernel = {(const Kind *)operator, api}};
    TRY(api_attribute_int64(api)(info, "num_heads", &attention.heads));
    if (attention.heads < 1) return refuse(api, "An attention's heads do not fit together.");
    return keep_kernel(api, &attention, sizeof(attention), kernel);
}

#define F ELEMENT_FLOAT

static const Kind KINDS[] = {
    KIND("BlockAttention", create, compute, PACKED + OTHERS, 1, F, F, F, F, F),
    KIND("WindowAttention", create, compute, APART + OTHERS, 1, F, F, F, ELEMENT_INT64, F, F, F, F),
};

Status *add_block_attention(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}
