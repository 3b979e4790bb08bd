/* Linear layers: a matrix of 4 or 8 bits times activations (`com.microsoft.MatMulNBits`), read from the mapped file.
 *
 *     phase 1, m * pieces tasks: linear_quantize.c    x [m, k] -> codes [m, code_bytes], scales and zeros [m, blocks]
 *     phase 2, up to 8 rows of x: linear_rows.c       for each row of B, all of x: bound by the reading of B
 *                                 linear_folded.c    the same for 4-bit weights in blocks of 32
 *              more: linear_panels.c                  for each panel of 2 LANES rows of B, tiles of rows of x
 *
 * A unit fills one vector of a row of B: weights for 4 LANES (8 bits) or 8 LANES (4 bits) activations. With 4 bits, the
 * low nibbles belong to the even activations; their codes precede those of the odd ones.
 *
 * With 4 bits, zero points stay out of the integer loop: sum((b - zero) * x) = sum(b * x) - zero * sum(x). The last sum
 * is computed once, when x is quantized. With 8 bits, the zero point is in the sums' initial values.
 */
#include "linear.h"

#include <stdlib.h>

#include "linear_tiles.h"

#ifdef DOT4

/*
 *     LinearNBitsF16    x float32 [..., K], B uint8 [N, blocks, block_size * bits / 8], scales float16 [N * blocks],
 *                       zero points uint8 [N, (blocks + 1) / 2] (optional, 4 bits only), bias float32 [N] (optional)
 *                       -> float32 [..., N]
 *     LinearNBits       scales in float32, neither zero points nor bias
 *     LinearNBitsBias   scales in float32, no zero points, a bias
 *
 * Attributes: K, N, bits, block_size (a power of two from 32 to 256). Without zero points, they are 8 or 128.
 */
enum { X, MATRIX, BIAS = MATRIX + MATRIX_INPUTS, INPUTS };

/* Tasks for any number of threads, unless their parts of B, or of the activations, get smaller than this. */
enum { TASKS = 32, TASK_BYTES = 32 << 10, PIECE = 1024 };
/* Codes of a task in panels, which stay in the second-level cache. */
enum { TILE_BYTES = 1 << 20 };
/* Activations whose quantization is not worth a dispatch. */
enum { SMALL = 16 << 10 };

/* A node of a graph. */
typedef struct LinearNode {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    int64_t k, n, bits, block;
} LinearNode;

int linear_supports(int64_t n, int64_t k, int64_t bits, int64_t block) {
    return n > 0 && k > 0 && n <= INT32_MAX && k <= INT32_MAX && (bits == 4 || bits == 8) && block >= MIN_BLOCK &&
           block <= MAX_BLOCK && !(block & (block - 1));
}

Linear linear_plan(int64_t m, int64_t n, int64_t k, int64_t bits, int64_t block) {
    Linear run = {.y_stride = n, .shape = {.m = m, .n = n, .k = k, .block = block, .bits = (int)bits}};
    LinearShape *shape = &run.shape;
    shape->blocks = quotient_up(k, block);
    shape->row_bytes = shape->blocks * block * bits / 8;
    shape->words = (int)(block * bits / 32);
    shape->zero_bytes = quotient_up(shape->blocks * bits, 8);
    run.scratch.stride = quotient_up(shape->blocks, LANES) * LANES;

    LinearTiling *tiling = &run.tiling;
    tiling->by_rows = m <= MAX_BY_ROWS;
    tiling->unit_blocks = (int)max64(LANES / shape->words, 1);
    tiling->block_units = (int)max64(shape->words / LANES, 1);
    tiling->folded = tiling->by_rows && shape->words == 4;
    tiling->group_blocks = tiling->folded ? LANES : tiling->unit_blocks;
    tiling->code_bytes = quotient_up(shape->blocks, tiling->group_blocks) * group_bytes(&run);
    tiling->piece = max64(PIECE / (block * tiling->group_blocks), 1) * tiling->group_blocks;
    tiling->pieces = quotient_up(shape->blocks, tiling->piece);

    tiling->stream_rows = n / STREAMS;
    tiling->task_rows = max64(max64(TASK_BYTES / (STREAMS * shape->row_bytes), tiling->stream_rows / TASKS), 1);
    tiling->panels = quotient_up(n, PANEL);
    const int64_t cached_rows = min64(max64(TILE_BYTES / tiling->code_bytes, MIN_TASK_ROWS), MAX_TASK_ROWS);
    int64_t tiles = quotient_up(max64(m, 1), cached_rows);
    while (tiling->panels * tiles < TASKS && m / (2 * tiles) >= MIN_TASK_ROWS) tiles *= 2;
    tiling->tile_rows = max64(quotient_up(m, tiles), 1);
    return run;
}

int64_t linear_tasks(const Linear *run) {
    const LinearTiling *tiling = &run->tiling;
    if (tiling->by_rows) return max64(quotient_up(tiling->stream_rows, tiling->task_rows), 1);
    return quotient_up(run->shape.m, tiling->tile_rows) * tiling->panels;
}

int linear_is_small(const Linear *run) { return linear_tasks(run) == 1 && run->shape.m * run->shape.k <= SMALL; }

size_t linear_scratch_bytes(const Linear *run) {
    const LinearScratch *scratch = &run->scratch;
    const size_t block = sizeof(*scratch->scales) + sizeof(*scratch->sums);
    return UNIT + (size_t)run->shape.m * ((size_t)run->tiling.code_bytes + (size_t)scratch->stride * block);
}

void linear_set_scratch(Linear *run, void *memory) {
    LinearScratch *scratch = &run->scratch;
    scratch->codes = (int8_t *)memory + (UNIT - (uintptr_t)memory % UNIT); /* each vector in one cache line */
    scratch->scales = (float *)(scratch->codes + run->shape.m * run->tiling.code_bytes);
    scratch->sums = scratch->scales + run->shape.m * scratch->stride;
}

int linear_set_matrix(Linear *run, const Tensor *matrix, int float16_scales) {
    const LinearShape *shape = &run->shape;
    const Tensor *zeros = matrix + MATRIX_ZERO_POINTS;
    run->b = matrix[MATRIX_WEIGHTS].data;
    run->scales = matrix[MATRIX_SCALES].data;
    run->float16_scales = float16_scales;
    run->zero_points = zeros->data;
    return matrix[MATRIX_WEIGHTS].elements == (size_t)(shape->n * shape->row_bytes) &&
           matrix[MATRIX_SCALES].elements == (size_t)(shape->n * shape->blocks) &&
           (!zeros->data || (shape->bits == 4 && zeros->elements == (size_t)(shape->n * shape->zero_bytes)));
}

void linear_multiply_task(void *linear, size_t task) {
    const Linear *run = linear;
    if (run->tiling.by_rows)
        linear_rows_task(run, (int64_t)task);
    else
        linear_panel_task(run, (int64_t)task);
}

/* -- the operator -- */

static Status *compute(void *opaque, Context *context) {
    const LinearNode *node = opaque;
    const Api *api = node->kernel.api;
    const int float16_scales = node->kernel.kind->types[MATRIX + MATRIX_SCALES] == ELEMENT_FLOAT16;
    Tensor in[INPUTS] = {{0}}, *x = in + X;
    TRY(input_tensors(&node->kernel, context, in));
    if (!float16_scales) in[BIAS] = in[MATRIX + MATRIX_ZERO_POINTS], in[MATRIX + MATRIX_ZERO_POINTS] = (Tensor){0};
    if (!x->rank || x->shape[x->rank - 1] != node->k) return refuse(api, "The activations do not fit a matrix.");
    Linear run = linear_plan((int64_t)x->elements / node->k, node->n, node->k, node->bits, node->block);
    const LinearShape *shape = &run.shape;
    if (!linear_set_matrix(&run, in + MATRIX, float16_scales) ||
        (in[BIAS].data && in[BIAS].elements != (size_t)shape->n))
        return refuse(api, "A matrix, its scales, its zero points and its bias do not fit together.");
    run.x = x->data;
    run.bias = in[BIAS].data;
    x->shape[x->rank - 1] = shape->n;
    TRY(output_data(api, context, 0, x->shape, x->rank, (void **)&run.y));
    if (!shape->m) return NULL;
    void *memory = malloc(linear_scratch_bytes(&run));
    if (!memory) return out_of_memory(api);
    linear_set_scratch(&run, memory);
    const Phase phases[] = {{linear_quantize_task, &run, shape->m * run.tiling.pieces},
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
    if (!linear_supports(node.n, node.k, node.bits, node.block))
        return refuse(api, "A matrix has 4 or 8 bits, in blocks of 32, 64, 128 or 256.");
    return keep_kernel(api, &node, sizeof(node), kernel);
}

#define F ELEMENT_FLOAT
enum { MAY_LACK = 1 << (MATRIX + MATRIX_ZERO_POINTS) | 1 << BIAS };

static const Kind KINDS[] = {
    KIND_OPTIONAL("LinearNBitsF16", create, compute, INPUTS, 1, MAY_LACK, F, ELEMENT_UINT8, ELEMENT_FLOAT16,
                  ELEMENT_UINT8, F, F),
    KIND("LinearNBits", create, compute, 3, 1, F, ELEMENT_UINT8, F, F),
    KIND("LinearNBitsBias", create, compute, 4, 1, F, ELEMENT_UINT8, F, F, F),
};

Status *add_linear(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}

#endif
