/* DecoderLayer: a layer of a decoder in one dispatch, because the work between its matrices is too short for several.
 *
 *     h = x + attention(normed),  n = norm(h),  y = h + down(silu(gate(n)) * up(n)),  then the norm of y
 *
 *     phases, m positions of k values:             scratch they write
 *     quantize, multiply: Q, K and V               qkv [m, heads + 2 kv_heads, width]
 *     append, attend, merge                        attended [m, heads, width]
 *     quantize, multiply: out, plus x              h [m, k]
 *     norm and quantize, multiply: gate and up     gate_up [m, 2 wide + APART]
 *     silu and quantize, multiply: down, plus h    product [m, wide]; then norm
 */
#include <math.h>
#include <stdlib.h>

#include "attention.h"
#include "linear.h"
#include "simd.h"

#ifdef DOT4

/*
 *     DecoderLayer (num_heads, kv_num_heads, scale, epsilon, bits, block_size)      a cache in float32
 *     DecoderLayerInt8 (the same attributes)                                        a cache in int8
 *
 * Inputs: 0 x, 1 its norm float32 [1, S, K]; 2, 3, 4 matrix, scales and bias of Q, K and V together; 5, 6 matrix and
 * scales of the attention's output; 7 weight of the norm of h [K]; 8, 9 matrix and scales of gate and, behind it, up;
 * 10, 11 matrix and scales of down; 12 weight of the norm of y [K]; from 13 on the cache, as CachedAttention takes it.
 * Matrices and scales are those of LinearNBits.
 * Outputs: 0 y, 1 its norm float32 [1, S, K]; 2 present key, 3 present value.
 */
enum { X, NORMED, QKV, QKV_SCALES, QKV_BIAS, OUT, OUT_SCALES, MIDDLE_NORM, GATE_UP, GATE_UP_SCALES, DOWN,
       DOWN_SCALES, NEXT_NORM, CACHE, INPUTS = CACHE + CACHE_INPUTS, INPUTS_INT8 = CACHE + CACHE_INPUTS_INT8 };
enum { Y, Y_NORMED, PRESENT, OUTPUTS = PRESENT + 2 };
enum { MATRICES = 4 };
/* Floats between rows of gate and up, which would otherwise lie whole pages apart and compete for places in caches. */
enum { APART = 16 };

/* A node of a graph. */
typedef struct Layer {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    Heads heads;
    float epsilon;
    int64_t bits, block;
} Layer;

/* A norm, and the quantization for the matrix behind it, if there is one. */
typedef struct Norm {
    const float *x, *weight; /* [m, n], [n] */
    float *y, epsilon;       /* [m, n] */
    int64_t n;
    const Linear *next;
} Norm;

/* The activation between gate and up and the matrix behind them. */
typedef struct Gate {
    const float *gate_up; /* [m, 2 wide], rows `stride` apart */
    int64_t stride;
    float *product; /* [m, wide] */
    const Linear *next;
} Gate;

/* One run of the operator, shared by its threads. */
typedef struct Run {
    int64_t m, k, wide; /* positions, values of x, of gate and of up */
    Attention attention;
    union {
        struct {
            Linear qkv, out, gate_up, down;
        };
        Linear matrices[MATRICES];
    };
    Norm middle, last;
    Gate gate;
} Run;

static void norm_row(void *argument, size_t row) {
    const Norm *norm = argument;
    const int64_t n = norm->n, at = (int64_t)row * n;
    const float *x = norm->x + at;
    float *y = norm->y + at;
    const float inverse = 1.0f / sqrtf(sum_of_squares(x, 0.0f, n) / (float)n + norm->epsilon);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * inverse * norm->weight[i];
    if (norm->next) linear_quantize(norm->next, (int64_t)row, 0, norm->next->tiling.pieces);
}

static void gate_piece(void *argument, size_t task) {
    const Gate *gate = argument;
    const Linear *next = gate->next;
    const int64_t row = (int64_t)task / next->tiling.pieces, piece = (int64_t)task % next->tiling.pieces;
    const int64_t values = next->tiling.piece * next->shape.block, wide = next->shape.k;
    const int64_t begin = piece * values, end = min64(begin + values, wide);
    const float *x = gate->gate_up + row * gate->stride, *up = x + wide;
    float *y = gate->product + row * wide;
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) store(y + i, load(x + i) * sigmoid2(1.44269504f * load(x + i)) * load(up + i));
    for (; i < end; i++) y[i] = x[i] / (1.0f + expf(-x[i])) * up[i];
    linear_quantize(next, row, piece, 1);
}

/* -- the plan -- */

/* Plans the matrix [n, k] and its scales in `in`, for m rows. Returns whether they fit. */
static int plan_matrix(const Layer *layer, const Tensor *in, int64_t m, int64_t n, int64_t k, Linear *linear) {
    if (in[0].rank != 3 || in[0].shape[0] != n || !linear_supports(n, k, layer->bits, layer->block)) return 0;
    *linear = linear_plan(m, n, k, layer->bits, layer->block);
    linear->b = in[0].data;
    linear->scales = in[1].data;
    return in[0].elements == (size_t)(n * linear->shape.row_bytes) &&
           in[1].elements == (size_t)(n * linear->shape.blocks);
}

/* Plans the four matrices. Returns whether all inputs but the cache fit together. */
static int plan_matrices(const Layer *layer, const Tensor *in, Run *run) {
    const int64_t m = run->m, k = run->k;
    const int64_t queries = run->attention.heads * run->attention.width;
    const int64_t heads = queries + 2 * run->attention.kv_heads * run->attention.width;
    const int64_t wide = run->wide = in[GATE_UP].rank ? in[GATE_UP].shape[0] / 2 : 0;
    if (in[NORMED].elements != in[X].elements || in[MIDDLE_NORM].elements != (size_t)k ||
        in[NEXT_NORM].elements != (size_t)k || in[QKV_BIAS].elements != (size_t)heads ||
        !plan_matrix(layer, in + QKV, m, heads, k, &run->qkv) ||
        !plan_matrix(layer, in + OUT, m, k, queries, &run->out) ||
        !plan_matrix(layer, in + GATE_UP, m, 2 * wide, k, &run->gate_up) ||
        !plan_matrix(layer, in + DOWN, m, k, wide, &run->down))
        return 0;
    run->gate_up.y_stride = 2 * wide + APART;
    return 1;
}

/* Floats between the matrices: h, qkv, attended, gate_up, product. */
static size_t buffer_floats(const Run *run) {
    const int64_t row = run->k + run->qkv.shape.n + run->out.shape.k + run->gate_up.y_stride + run->wide;
    return (size_t)(run->m * row);
}

static size_t scratch_bytes(const Run *run) {
    size_t bytes = buffer_floats(run) * sizeof(float) + attention_scratch_bytes(&run->attention);
    for (int i = 0; i < MATRICES; i++) bytes += linear_scratch_bytes(run->matrices + i);
    return bytes;
}

/* Connects the phases by the buffers in `memory`. */
static void connect(Run *run, const Layer *layer, const Tensor *in, float *memory, float *y, float *normed) {
    Linear *const qkv = &run->qkv, *const out = &run->out, *const gate_up = &run->gate_up, *const down = &run->down;
    float *const h = memory, *const packed = h + run->m * run->k, *const attended = packed + run->m * qkv->shape.n;
    float *const both = attended + run->m * out->shape.k, *const product = both + run->m * gate_up->y_stride;
    char *rest = (char *)(product + run->m * run->wide);
    for (int i = 0; i < MATRICES; rest += linear_scratch_bytes(run->matrices + i++))
        linear_set_scratch(run->matrices + i, rest);
    attention_set_scratch(&run->attention, rest);

    qkv->x = in[NORMED].data, qkv->bias = in[QKV_BIAS].data, qkv->y = packed;
    run->attention.qkv = packed, run->attention.attended = attended;
    out->x = attended, out->residual = in[X].data, out->y = h;
    /* The norm of h shares its memory with the norm of y, which is written when that of h has been read. */
    run->middle = (Norm){.x = h, .weight = in[MIDDLE_NORM].data, .y = normed, .epsilon = layer->epsilon, .n = run->k,
                         .next = gate_up};
    gate_up->x = normed, gate_up->y = both;
    run->gate = (Gate){.gate_up = both, .stride = gate_up->y_stride, .product = product, .next = down};
    down->x = product, down->residual = h, down->y = y;
    run->last = (Norm){.x = y, .weight = in[NEXT_NORM].data, .y = normed, .epsilon = layer->epsilon, .n = run->k};
}

static Status *run_layer(const Api *api, Context *context, Run *run) {
    int small = attention_is_small(&run->attention);
    for (int i = 0; i < MATRICES; i++) small = small && linear_is_small(run->matrices + i);
    Phase attend[ATTENTION_PHASES];
    attention_phases(&run->attention, attend);
    const Phase phases[] = {
        {linear_quantize_task, &run->qkv, run->m * run->qkv.tiling.pieces},
        {linear_multiply_task, &run->qkv, linear_tasks(&run->qkv)},
        attend[0],
        attend[1],
        attend[2],
        {linear_quantize_task, &run->out, run->m * run->out.tiling.pieces},
        {linear_multiply_task, &run->out, linear_tasks(&run->out)},
        {norm_row, &run->middle, run->m},
        {linear_multiply_task, &run->gate_up, linear_tasks(&run->gate_up)},
        {gate_piece, &run->gate, run->m * run->down.tiling.pieces},
        {linear_multiply_task, &run->down, linear_tasks(&run->down)},
        {norm_row, &run->last, run->m},
    };
    TRY(run_phases(api, context, phases, sizeof(phases) / sizeof(phases[0]), small));
    return attention_status(api, &run->attention);
}

/* -- the operator -- */

static Status *compute(void *opaque, Context *context) {
    const Layer *layer = opaque;
    const Api *api = layer->kernel.api;
    Tensor in[INPUTS_INT8] = {{0}};
    TRY(input_tensors(&layer->kernel, context, in));
    const Tensor *x = in + X;
    if (x->rank != 3 || x->shape[0] != 1) return refuse(api, "A decoder layer takes one sequence.");
    Run run = {.m = x->shape[1], .k = x->shape[2]};
    TRY(attention_plan(api, context, &layer->heads, in + CACHE, layer->kernel.kind->inputs - CACHE, run.m, PRESENT,
                       &run.attention));
    if (!plan_matrices(layer, in, &run)) return refuse(api, "A decoder layer's inputs do not fit together.");
    float *y, *normed;
    TRY(output_data(api, context, Y, x->shape, 3, (void **)&y));
    TRY(output_data(api, context, Y_NORMED, x->shape, 3, (void **)&normed));
    float *memory = malloc(scratch_bytes(&run));
    if (!memory) return out_of_memory(api);
    connect(&run, layer, in, memory, y, normed);
    Status *status = run_layer(api, context, &run);
    free(memory);
    return status;
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

#endif
