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
 *     DecoderLayerF16, DecoderLayerF16Int8     matrices as LinearNBitsF16 takes them; a cache in float32 or int8
 *     DecoderLayer, DecoderLayerInt8           matrices as LinearNBits takes them, without places for zero points
 *
 * Attributes: num_heads, kv_num_heads, scale, epsilon. F16: bits and block_size of each matrix, named qkv_bits and so
 * on; the others: bits and block_size of all matrices.
 * Inputs: x, its norm float32 [1, S, K]; the matrix of Q, K and V together, its bias; the matrix of the attention's
 * output; weight of the norm of h [K]; the matrix of gate and, behind it, up; that of down; weight of the norm of y
 * [K]; the cache, as CachedAttention takes it. A matrix is three inputs: weights, scales, zero points.
 * Outputs: y, its norm float32 [1, S, K]; present key, present value.
 */
enum { X, NORMED, QKV, QKV_BIAS = QKV + MATRIX_INPUTS, OUT, MIDDLE_NORM = OUT + MATRIX_INPUTS, GATE_UP,
       DOWN = GATE_UP + MATRIX_INPUTS, NEXT_NORM = DOWN + MATRIX_INPUTS, CACHE, INPUTS = CACHE + CACHE_INPUTS,
       INPUTS_INT8 = CACHE + CACHE_INPUTS_INT8 };
enum { Y, Y_NORMED, PRESENT, OUTPUTS = PRESENT + 2 };
enum { MATRICES = 4 };
/* Floats between rows of gate and up, which would otherwise lie whole pages apart and compete for places in caches. */
enum { APART = 16 };

/* A node of a graph. */
typedef struct Layer {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    Heads heads;
    float epsilon;
    int64_t bits[MATRICES], block[MATRICES];
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

static int has_float16_scales(const Layer *layer) { return layer->kernel.kind->optional != 0; }

/* Plans matrix number `matrix`, [n, k], whose inputs are `in`. Returns whether they fit. */
static int plan_matrix(const Layer *layer, const Tensor *in, int matrix, int64_t n, int64_t k, Run *run) {
    const int64_t bits = layer->bits[matrix], block = layer->block[matrix];
    if (in->rank != 3 || in->shape[0] != n || !linear_supports(n, k, bits, block)) return 0;
    run->matrices[matrix] = linear_plan(run->m, n, k, bits, block);
    return linear_set_matrix(run->matrices + matrix, in, has_float16_scales(layer));
}

/* Plans the four matrices. Returns whether all inputs but the cache fit together. */
static int plan_matrices(const Layer *layer, const Tensor *in, Run *run) {
    const int64_t k = run->k;
    const int64_t queries = run->attention.heads * run->attention.width;
    const int64_t heads = queries + 2 * run->attention.kv_heads * run->attention.width;
    const int64_t wide = run->wide = in[GATE_UP].rank ? in[GATE_UP].shape[0] / 2 : 0;
    if (in[NORMED].elements != in[X].elements || in[MIDDLE_NORM].elements != (size_t)k ||
        in[NEXT_NORM].elements != (size_t)k || in[QKV_BIAS].elements != (size_t)heads ||
        !plan_matrix(layer, in + QKV, 0, heads, k, run) || !plan_matrix(layer, in + OUT, 1, k, queries, run) ||
        !plan_matrix(layer, in + GATE_UP, 2, 2 * wide, k, run) || !plan_matrix(layer, in + DOWN, 3, k, wide, run))
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

static int is_zero_points(size_t input) {
    return input == QKV + MATRIX_ZERO_POINTS || input == OUT + MATRIX_ZERO_POINTS ||
           input == GATE_UP + MATRIX_ZERO_POINTS || input == DOWN + MATRIX_ZERO_POINTS;
}

/* Puts each input at its place, whether or not the operator has inputs for zero points, and counts the places. */
static Status *read_inputs(const Layer *layer, const Context *context, Tensor *in, size_t *count) {
    size_t place = 0;
    for (size_t i = 0; i < layer->kernel.kind->inputs; i++, place++) {
        if (!has_float16_scales(layer) && is_zero_points(place)) place++;
        TRY(input_tensor(layer->kernel.api, context, i, in + place));
    }
    *count = place;
    return NULL;
}

static Status *compute(void *opaque, Context *context) {
    const Layer *layer = opaque;
    const Api *api = layer->kernel.api;
    Tensor in[INPUTS_INT8] = {{0}};
    size_t inputs = 0;
    TRY(read_inputs(layer, context, in, &inputs));
    const Tensor *x = in + X;
    if (x->rank != 3 || x->shape[0] != 1) return refuse(api, "A decoder layer takes one sequence.");
    Run run = {.m = x->shape[1], .k = x->shape[2]};
    TRY(attention_plan(api, context, &layer->heads, in + CACHE, inputs - CACHE, run.m, PRESENT, &run.attention));
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
    static const char *const BITS[] = {"qkv_bits", "out_bits", "gate_up_bits", "down_bits"};
    static const char *const BLOCKS[] = {"qkv_block_size", "out_block_size", "gate_up_block_size", "down_block_size"};
    for (int i = 0; i < MATRICES; i++) {
        const int each = has_float16_scales(&layer);
        TRY(api_attribute_int64(api)(info, each ? BITS[i] : "bits", layer.bits + i));
        TRY(api_attribute_int64(api)(info, each ? BLOCKS[i] : "block_size", layer.block + i));
    }
    return keep_kernel(api, &layer, sizeof(layer), kernel);
}

#define F ELEMENT_FLOAT
#define I8 ELEMENT_INT8
#define MATRIX ELEMENT_UINT8, F
#define MATRIX_F16 ELEMENT_UINT8, ELEMENT_FLOAT16, ELEMENT_UINT8
#define WEIGHTS(matrix) matrix, F, matrix, F, matrix, matrix, F
#define PLACES ELEMENT_INT32, ELEMENT_INT32, F, F
enum { MAY_LACK = 1 << (QKV + MATRIX_ZERO_POINTS) | 1 << (OUT + MATRIX_ZERO_POINTS) |
                  1 << (GATE_UP + MATRIX_ZERO_POINTS) | 1 << (DOWN + MATRIX_ZERO_POINTS) };

static const Kind KINDS[] = {
    KIND_OPTIONAL("DecoderLayerF16", create, compute, INPUTS, OUTPUTS, MAY_LACK, F, F, WEIGHTS(MATRIX_F16), F, F,
                  PLACES, F, F, F, F),
    KIND_OPTIONAL("DecoderLayerF16Int8", create, compute, INPUTS_INT8, OUTPUTS, MAY_LACK, F, F, WEIGHTS(MATRIX_F16),
                  I8, I8, PLACES, F, F, F, F, I8, I8),
    KIND("DecoderLayer", create, compute, INPUTS - MATRICES, OUTPUTS, F, F, WEIGHTS(MATRIX), F, F, PLACES, F, F, F, F),
    KIND("DecoderLayerInt8", create, compute, INPUTS_INT8 - MATRICES, OUTPUTS, F, F, WEIGHTS(MATRIX), I8, I8, PLACES,
         F, F, F, F, I8, I8),
};

Status *add_decoder_layer(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}

#endif
