/* PanelConv: dilated INT8 convolutions over time, as in BigVGAN's residual units (`QLinearConv`, without its copies).
 *
 *     phase 1, a task for each quad of channels: x [C, samples] -> copy [quads, stride, QUAD], padded with zero points
 *     phase 2, a task for a range of panels of outputs and a range of tiles of samples
 *         for each tile: ROWS outputs of VECTORS vectors of samples; a lane is a sample; sums stay in registers
 *             for each quad, for each tap: load VECTORS vectors from the tap's place in the copy,
 *                 dot4 with four weights of each output, w [panels, quads, taps, PANEL, QUAD]
 *             scale, then round to uint8, or add `rest`: y [C, T]
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "operator.h"
#include "simd.h"

#ifdef DOT4

/*
 *     PanelConv      -> uint8 [1, C, 1, T]
 *     PanelConvAdd   -> float32 [1, C, 1, T]: `rest` plus the convolution, which is not rounded before
 *
 * Inputs: 0 x uint8 [1, C, 1, R + T], R = (taps - 1) dilation / 2; 1 scale, 2 zero of x; 3 weights int8 [panels,
 * quads, taps, PANEL, 4], zero beyond C; 4 their sums int32 [C]; 5 their scales float32 [C]; 6 their zero points, all
 * 0; 7 scale, 8 zero of y; 9 bias int32 [C], in steps of the products; 10 rest float32 [1, C, 1, T]. The convolution
 * extends x by R zero points at its end. Attribute: dilation.
 */
enum { X, X_SCALE, X_ZERO, W, W_SUMS, W_SCALES, W_ZEROS, Y_SCALE, Y_ZERO, BIAS, REST, PLAIN = REST, ADDED };

enum { PANEL = 12, QUAD = 4, LINE = 64 };
/* The tile of sums that stays in registers: rows, a divisor of PANEL, and vectors. */
#if LANES == 16
enum { ROWS = 12, VECTORS = 2 };
#elif LANES == 8
enum { ROWS = 4, VECTORS = 2 }; /* 16 registers */
#else
enum { ROWS = 6, VECTORS = 4 };
#endif
enum { SAMPLES = VECTORS * LANES };
/* Tasks for any number of threads, and the fewest tiles of a task. */
enum { TASKS = 16, MIN_TILES = 4 };
typedef uint8_t codes_of_vector __attribute__((vector_size(LANES)));

typedef struct Conv {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    int64_t dilation;
} Conv;

/* One run of an operator, shared by its threads. */
typedef struct Run {
    const uint8_t *x;
    const int8_t *w;
    const int32_t *sums, *bias;
    const float *scales, *rest;
    void *y;
    int64_t channels, taps, dilation, length, given; /* given: samples of x */
    int64_t quads, stride;                           /* rows of the copy, and samples of each */
    int64_t panels, tiles, task_tiles, parts;        /* tiles of a task; parts: ranges of panels */
    int64_t ahead; /* bytes of the next panel that a tile prefetches at each quad */
    float x_scale, y_inverse; /* y_inverse: 1 / scale of y */
    int x_zero, y_zero;
    uint8_t *copy; /* [quads, stride, QUAD] */
} Run;

/* dot4 takes activations as bytes less this. */
INLINE int shift(void) { return 128 - dot4_zero_point(8); }

/* Copies four channels side by side. The last one stands in for channels beyond C, whose weights are zero. */
static void interleave(void *argument, size_t quad) {
    const Run *run = argument;
    const uint8_t *rows[QUAD];
    for (int64_t i = 0; i < QUAD; i++)
        rows[i] = run->x + min64((int64_t)quad * QUAD + i, run->channels - 1) * run->given;
    const uint8_t *restrict a = rows[0], *restrict b = rows[1], *restrict c = rows[2], *restrict d = rows[3];
    uint8_t *restrict to = run->copy + (int64_t)quad * run->stride * QUAD;
    const uint8_t less = (uint8_t)shift();
    for (int64_t i = 0; i < run->given; i++) {
        to[QUAD * i] = (uint8_t)(a[i] - less);
        to[QUAD * i + 1] = (uint8_t)(b[i] - less);
        to[QUAD * i + 2] = (uint8_t)(c[i] - less);
        to[QUAD * i + 3] = (uint8_t)(d[i] - less);
    }
    memset(to + QUAD * run->given, run->x_zero - less, (size_t)((run->stride - run->given) * QUAD));
}

/* Stores a vector of samples at `at`, of which `left` exist. */
INLINE void finish(const Run *run, const i32 sums, float scale, int64_t at, int64_t left) {
    const f32 y = __builtin_convertvector(sums, f32) * scale;
    if (run->rest) {
        const size_t size = (size_t)min64(left, LANES) * sizeof(float);
        const f32 sum = y + (f32)load_partial(run->rest + at, size);
        memcpy((float *)run->y + at, &sum, size);
        return;
    }
    const f32 rounding = (f32){0} + 12582912.0f; /* 1.5 * 2^23: leaves no bits for the fraction */
    f32 code = (y * run->y_inverse + rounding) - rounding + (float)run->y_zero;
    code = minimum(maximum(code, (f32){0}), (f32){0} + 255.0f);
    const codes_of_vector codes = __builtin_convertvector(__builtin_convertvector(code, i32), codes_of_vector);
    memcpy((uint8_t *)run->y + at, &codes, left < LANES ? (size_t)left : sizeof(codes));
}

/* ROWS outputs, from `row` of a panel on. A function of its own, so that the loops have all registers. */
static __attribute__((noinline)) void tile(const Run *run, int64_t panel, int row, int64_t number) {
    const int64_t channel = panel * PANEL + row, first = number * SAMPLES;
    const int8_t *w = run->w + (panel * run->quads * run->taps * PANEL + row) * QUAD;
    i32 sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; i++) {
        const int64_t at = min64(channel + i, run->channels - 1);
        const i32 offset = (i32){0} + (run->bias[at] - (run->x_zero - shift()) * run->sums[at]);
        for (int j = 0; j < VECTORS; j++) sums[i][j] = offset;
    }
    /* Each tile prefetches its share of the next panel. */
    const int8_t *next = w + run->quads * (run->taps * PANEL * QUAD + number % run->task_tiles * run->ahead);
    for (int64_t quad = 0; quad < run->quads; quad++) {
        const uint8_t *x = run->copy + (quad * run->stride + first) * QUAD;
        for (int64_t i = 0; i < run->ahead; i += LINE) prefetch(next + quad * run->ahead, i);
        for (int64_t tap = 0; tap < run->taps; tap++, x += run->dilation * QUAD, w += PANEL * QUAD) {
            i32 samples[VECTORS];
            for (int j = 0; j < VECTORS; j++) samples[j] = load_i32(x + j * LANES * QUAD);
            for (int i = 0; i < ROWS; i++) {
                const i32 weights = broadcast32(w + i * QUAD);
                for (int j = 0; j < VECTORS; j++) sums[i][j] = dot4(sums[i][j], samples[j], weights, 8);
            }
        }
    }
    for (int i = 0; i < ROWS && channel + i < run->channels; i++) {
        const float scale = run->x_scale * run->scales[channel + i];
        for (int j = 0; j < VECTORS && first + j * LANES < run->length; j++)
            finish(run, sums[i][j], scale, (channel + i) * run->length + first + j * LANES,
                   run->length - first - j * LANES);
    }
}

/* A task: a range of tiles and a range of panels. */
static void panels(void *argument, size_t task) {
    const Run *run = argument;
    const int64_t from = (int64_t)task / run->parts * run->task_tiles, to = min64(from + run->task_tiles, run->tiles);
    const int64_t part = (int64_t)task % run->parts, stop = (part + 1) * run->panels / run->parts;
    for (int64_t panel = part * run->panels / run->parts; panel < stop; panel++)
        for (int64_t i = from; i < to; i++)
            for (int row = 0; row < PANEL; row += ROWS) tile(run, panel, row, i);
}

static Status *convolve(const Api *api, const Context *context, Run *run) {
    const parallel_for_function parallel = api_parallel_for(api);
    run->panels = quotient_up(run->channels, PANEL);
    run->tiles = quotient_up(run->length, SAMPLES);
    run->parts = min64(run->panels, TASKS);
    run->task_tiles = run->tiles;
    while (run->parts * quotient_up(run->tiles, run->task_tiles) < TASKS && run->task_tiles > MIN_TILES)
        run->task_tiles = quotient_up(run->task_tiles, 2);
    run->ahead = quotient_up(run->taps * PANEL * QUAD, run->task_tiles * LINE) * LINE;
    run->stride = run->tiles * SAMPLES + (run->taps - 1) * run->dilation;
    run->copy = malloc((size_t)(run->quads * run->stride * QUAD));
    if (!run->copy) return out_of_memory(api);
    Status *status = parallel(context, interleave, (size_t)run->quads, 0, run);
    if (!status)
        status = parallel(context, panels, (size_t)(run->parts * quotient_up(run->tiles, run->task_tiles)), 0, run);
    free(run->copy);
    return status;
}

static Status *compute(void *opaque, Context *context) {
    const Conv *conv = opaque;
    const Api *api = conv->kernel.api;
    Tensor in[ADDED] = {{0}};
    TRY(input_tensors(&conv->kernel, context, in));
    const int added = conv->kernel.kind->inputs == ADDED;
    const Tensor *x = in + X, *w = in + W;
    const size_t channels = in[W_SUMS].elements;
    int fits = x->rank == 4 && x->shape[0] == 1 && x->shape[2] == 1 && w->rank == 5 && w->shape[3] == PANEL &&
               w->shape[4] == QUAD && x->shape[1] == (int64_t)channels &&
               w->shape[0] == quotient_up(x->shape[1], PANEL) && w->shape[1] == quotient_up(x->shape[1], QUAD) &&
               in[W_SCALES].elements == channels && in[BIAS].elements == channels;
    for (int i = X_SCALE; i <= Y_ZERO; i++)
        fits = fits && ((i >= W && i <= W_ZEROS) || in[i].elements == 1);
    const int64_t reach = (w->shape[2] - 1) * conv->dilation / 2, length = x->shape[3] - reach;
    fits = fits && length >= 0 && (!added || in[REST].elements == channels * (size_t)length);
    if (!fits) return refuse(api, "A convolution's inputs do not fit together.");
    Run run = {
        .x = x->data,
        .w = w->data,
        .sums = in[W_SUMS].data,
        .bias = in[BIAS].data,
        .scales = in[W_SCALES].data,
        .rest = added ? in[REST].data : NULL,
        .channels = (int64_t)channels,
        .taps = w->shape[2],
        .dilation = conv->dilation,
        .length = length,
        .given = x->shape[3],
        .quads = w->shape[1],
        .x_scale = *(const float *)in[X_SCALE].data,
        .y_inverse = 1.0f / *(const float *)in[Y_SCALE].data,
        .x_zero = *(const uint8_t *)in[X_ZERO].data,
        .y_zero = *(const uint8_t *)in[Y_ZERO].data,
    };
    const int64_t shape[4] = {1, run.channels, 1, length};
    TRY(output_data(api, context, 0, shape, 4, &run.y));
    return length ? convolve(api, context, &run) : NULL;
}

static Status *create(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    Conv conv = {.kernel = {(const Kind *)operator, api}};
    TRY(api_attribute_int64(api)(info, "dilation", &conv.dilation));
    if (conv.dilation < 1) return refuse(api, "A convolution's dilation is 1 or more.");
    return keep_kernel(api, &conv, sizeof(conv), kernel);
}

#define F ELEMENT_FLOAT
#define U ELEMENT_UINT8
#define QUANTIZED U, F, U, ELEMENT_INT8, ELEMENT_INT32, F, ELEMENT_INT8, F, U, ELEMENT_INT32

static const Kind KINDS[] = {
    KIND("PanelConv", create, compute, PLAIN, 1, QUANTIZED, U),
    KIND("PanelConvAdd", create, compute, ADDED, 1, QUANTIZED, F, F),
};

Status *add_panel_conv(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}

#endif
