/* A layer of a decoder as one operator: what lies between its matrices is too short for a dispatch to the threads each.
 *
 *     DecoderLayer (num_heads, kv_num_heads, scale, epsilon, bits, block_size)      a cache in float32
 *     DecoderLayerInt8 (the same)                                                   a cache in int8
 *
 * Inputs: 0 x and 1 its norm float32 [1, S, K]; 2 to 4 matrix, scales and bias of Q, K and V together; 5 and 6 matrix
 * and scales of the attention's output; 7 weight of the norm of h [K]; 8 and 9 matrix and scales of gate and, behind it,
 * up; 10 and 11 those of down; 12 weight of the norm of y; from 13 on the cache, as CachedAttention takes it. Matrices
 * and scales are LinearNBits's.
 * Outputs: 0 y and 1 its norm float32 [1, S, K]; 2 present key and 3 present value.
 *
 *     h = x + attention(normed),  n = norm(h),  y = h + down(silu(gate(n)) * up(n))
 */
#include <math.h>
#include <stdlib.h>

#include "attention.h"
#include "instructions.h"
#include "linear.h"
#include "vectors.h"

#ifdef LANES_OF_MATRICES

enum { X, NORMED, QKV, QKV_SCALES, QKV_BIAS, OUT, OUT_SCALES, MIDDLE_NORM, GATE_UP, GATE_UP_SCALES, DOWN,
       DOWN_SCALES, NEXT_NORM, CACHE, INPUTS = CACHE + CACHE_INPUTS, INPUTS_INT8 = CACHE + CACHE_INPUTS_INT8 };
enum { Y, Y_NORMED, PRESENT, OUTPUTS = PRESENT + 2 };
enum { MATRICES = 4 };
/* Rows of gate and up would lie whole pages apart, and compete for the same places in the caches. */
enum { APART = 16 };

typedef struct Layer {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    Heads heads;
    float epsilon;
    int64_t bits, block;
} Layer;

/* A norm, and the quantization for the matrix behind it, if there is one. */
typedef struct Norm {
    const float *x, *weight;
    float *y, epsilon;
    int64_t n; /* values of a row */
    const Linear *next;
} Norm;

/* What gate and up have given, for the matrix behind them. */
typedef struct Gate {
    const float *gate_up;
    int64_t stride; /* of its rows */
    float *product;
    const Linear *next;
} Gate;

static void norm_row(void *argument, size_t row) {
    const Norm *norm = argument;
    const int64_t n = norm->n, at = (int64_t)row * n;
    const float *x = norm->x + at;
    float *y = norm->y + at;
    const float inverse = 1.0f / sqrtf(squares(x, 0.0f, n) / (float)n + norm->epsilon);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * inverse * norm->weight[i];
    if (norm->next) linear_quantize(norm->next, (int64_t)row, 0, norm->next->pieces);
}

static void gate_piece(void *argument, size_t task) {
    const Gate *gate = argument;
    const Linear *next = gate->next;
    const int64_t row = (int64_t)task / next->pieces, piece = (int64_t)task % next->pieces;
    const int64_t begin = piece * next->piece * next->block, end = least(begin + next->piece * next->block, next->k);
    const float *x = gate->gate_up + row * gate->stride, *up = x + next->k;
    float *y = gate->product + row * next->k;
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) store(y + i, load(x + i) * sigmoid(1.44269504f * load(x + i)) * load(up + i));
    for (; i < end; i++) y[i] = x[i] / (1.0f + expf(-x[i])) * up[i];
    linear_quantize(next, row, piece, 1);
}

/* The matrix [n, k] and its scales in `in`, for m rows. */
static int matrix_of(const Layer *layer, const Tensor *in, int64_t m, int64_t n, int64_t k, Linear *linear) {
    if (in[0].rank != 3 || in[0].shape[0] != n || !linear_fits(n, k, layer->bits, layer->block)) return 0;
    *linear = linear_of(m, n, k, layer->bits, layer->block);
    linear->b = in[0].data;
    linear->scales = in[1].data;
    return in[0].elements == (size_t)(n * linear->row_bytes) && in[1].elements == (size_t)(n * linear->blocks);
}

static Status *compute(void *opaque, Context *context) {
    const Layer *layer = opaque;
    const Api *api = layer->kernel.api;
    const size_t inputs = layer->kernel.kind->inputs;
    Tensor in[INPUTS_INT8] = {{0}};
    TRY(input_tensors(&layer->kernel, context, in));
    const Tensor *x = in + X;
    if (x->rank != 3 || x->shape[0] != 1) return refuse(api, "A decoder layer takes one sequence.");
    const int64_t m = x->shape[1], k = x->shape[2];
    Attention attention;
    TRY(attention_of(api, context, &layer->heads, in + CACHE, inputs - CACHE, m, PRESENT, &attention));

    const int64_t queries = attention.heads * attention.width;
    const int64_t heads = queries + 2 * attention.kv_heads * attention.width;
    const int64_t wide = in[GATE_UP].rank ? in[GATE_UP].shape[0] / 2 : 0;
    Linear qkv, out, gate_up, down;
    Linear *const matrices[] = {&qkv, &out, &gate_up, &down};
    if (in[NORMED].elements != x->elements || in[MIDDLE_NORM].elements != (size_t)k ||
        in[NEXT_NORM].elements != (size_t)k || in[QKV_BIAS].elements != (size_t)heads ||
        !matrix_of(layer, in + QKV, m, heads, k, &qkv) || !matrix_of(layer, in + OUT, m, k, queries, &out) ||
        !matrix_of(layer, in + GATE_UP, m, 2 * wide, k, &gate_up) || !matrix_of(layer, in + DOWN, m, k, wide, &down))
        return refuse(api, "A decoder layer's inputs do not fit together.");
    float *y, *normed;
    TRY(output_data(api, context, Y, x->shape, 3, (void **)&y));
    TRY(output_data(api, context, Y_NORMED, x->shape, 3, (void **)&normed));

    size_t bytes = attention_bytes(&attention);
    for (int i = 0; i < MATRICES; i++) bytes += linear_bytes(matrices[i]);
    gate_up.stride = 2 * wide + APART;
    float *const memory = malloc((size_t)(m * (k + heads + queries + gate_up.stride + wide)) * sizeof(float) + bytes);
    if (!memory) return out_of_memory(api);
    float *const sum = memory, *const packed = sum + m * k, *const attended = packed + m * heads;
    float *const both = attended + m * queries, *const product = both + m * gate_up.stride;
    char *rest = (char *)(product + m * wide);
    for (int i = 0; i < MATRICES; rest += linear_bytes(matrices[i++])) linear_place(matrices[i], rest);
    attention_place(&attention, rest);

    qkv.x = in[NORMED].data, qkv.bias = in[QKV_BIAS].data, qkv.y = packed;
    attention.qkv = packed, attention.attended = attended;
    out.x = attended, out.more = x->data, out.y = sum;
    /* The norm of h is not needed any more when that of y takes its place. */
    Norm middle = {.x = sum, .weight = in[MIDDLE_NORM].data, .y = normed, .epsilon = layer->epsilon, .n = k,
                   .next = &gate_up};
    gate_up.x = normed, gate_up.y = both;
    Gate gate = {.gate_up = both, .stride = gate_up.stride, .product = product, .next = &down};
    down.x = product, down.more = sum, down.y = y;
    Norm last = {.x = y, .weight = in[NEXT_NORM].data, .y = normed, .epsilon = layer->epsilon, .n = k};
    int small = attention_is_small(&attention);
    for (int i = 0; i < MATRICES; i++) small = small && linear_is_small(matrices[i]);
    Phase attend[ATTENTION_PHASES];
    attention_phases(&attention, attend);
    const Phase phases[] = {
        {linear_quantize_task, &qkv, m * qkv.pieces},
        {linear_multiply_task, &qkv, linear_tasks(&qkv)},
        attend[0],
        attend[1],
        attend[2],
        {linear_quantize_task, &out, m * out.pieces},
        {linear_multiply_task, &out, linear_tasks(&out)},
        {norm_row, &middle, m},
        {linear_multiply_task, &gate_up, linear_tasks(&gate_up)},
        {gate_piece, &gate, m * down.pieces},
        {linear_multiply_task, &down, linear_tasks(&down)},
        {norm_row, &last, m},
    };
    Status *status = run_phases(api, context, phases, sizeof(phases) / sizeof(phases[0]), small);
    free(memory);
    return status ? status : attention_status(api, &attention);
}

static Status *create(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    Layer layer = {.kernel = {(const Kind *)operator, api}};
    TRY(attention_heads(api, info, &layer.heads));
    TRY(api_attribute_float(api)(info, "epsilon", &layer.epsilon));
    TRY(api_attribute_int64(api)(info, "bits", &layer.bits));
    TRY(api_attribute_int64(api)(info, "block_size", &layer.block));
    return keep_kernel(api, &layer, sizeof(layer), kernel);
}

#define F ELEMENT_FLOAT
#define MATRIX ELEMENT_UINT8, F
#define WEIGHTS MATRIX, F, MATRIX, F, MATRIX, MATRIX, F
#define PLACES ELEMENT_INT32, ELEMENT_INT32, F, F

static const Kind KINDS[] = {
    KIND("DecoderLayer", create, compute, INPUTS, OUTPUTS, F, F, WEIGHTS, F, F, PLACES, F, F, F, F),
    KIND("DecoderLayerInt8", create, compute, INPUTS_INT8, OUTPUTS, F, F, WEIGHTS, ELEMENT_INT8, ELEMENT_INT8, PLACES,
         F, F, F, F, ELEMENT_INT8, ELEMENT_INT8),
};

Status *add_decoder_layer(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}

#else

Status *add_decoder_layer(const Api *api, Domain *domain) {
    (void)api, (void)domain;
    return NULL;
}

#endif
