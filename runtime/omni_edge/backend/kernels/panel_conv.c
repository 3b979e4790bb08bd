/* Dilated convolutions over time in INT8, as BigVGAN's residual units have them: `QLinearConv`, without its copies.
 *
 *     PanelConv      -> uint8 [1, C, 1, T]
 *     PanelConvAdd   -> float32 [1, C, 1, T]: what is given as `rest` plus the convolution, which is not rounded before
 *
 * Inputs: 0 x uint8 [1, C, 1, R + T], R = (taps - 1) dilation / 2; 1 scale and 2 zero of x; 3 weights int8 [panels,
 * quads, taps, PANEL, 4]; 4 their sums int32 [C]; 5 their scales float32 [C], their zero points being 0 (6); 7 scale
 * and 8 zero of y; 9 bias int32 [C], in steps of the products; 10 rest float32 [1, C, 1, T]. x is followed by R zero
 * points. Attribute: dilation.
 *
 * x is copied once, so that four channels of a sample lie side by side, and the samples one after the other: a vector
 * is LANES samples, and a tap is another place to load it from. The weights lie as they are used, PANEL outputs at a
 * time, four inputs of each; beyond C they are zero. A tile is ROWS outputs of VECTORS vectors; its sums stay in
 * registers from the first input to the last.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lanes.h"
#include "operator.h"

#ifdef LANES

enum { PANEL = 12, QUAD = 4, LINE = 64 };
/* Sums of a tile that stay in registers: rows, of which a panel holds a whole number of times, and vectors. */
#if LANES == 16
enum { ROWS = 12, VECTORS = 2 };
#elif LANES == 8
enum { ROWS = 4, VECTORS = 2 }; /* half as many registers */
#else
enum { ROWS = 6, VECTORS = 4 };
#endif
enum { SAMPLES = VECTORS * LANES };
/* Tasks for any number of threads, and the fewest tiles of one. */
enum { TASKS = 16, FEWEST = 4 };
enum { X, X_SCALE, X_ZERO, W, W_SUMS, W_SCALES, W_ZEROS, Y_SCALE, Y_ZERO, BIAS, REST, PLAIN = REST, ADDED };

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
    int64_t quads, stride;                           /* of the copy: rows, and samples of each */
    int64_t panels, tiles, task_tiles, parts;
    int64_t ahead; /* bytes of the next panel that a tile fetches while it is at a quad */
    float x_scale, y_inverse; /* of the scale of y */
    int x_zero, y_zero;
    uint8_t *copy; /* [quads, stride, QUAD] */
} Run;

/* What `dot` takes activations as: bytes less this. */
INLINE int shift(void) { return 128 - zero_point(8); }

/* Four channels side by side. In the place of one that there is not: any, its weights are zero. */
static void interleave(void *argument, size_t quad) {
    const Run *run = argument;
    const uint8_t *rows[QUAD];
    for (int64_t i = 0; i < QUAD; i++)
        rows[i] = run->x + least((int64_t)quad * QUAD + i, run->channels - 1) * run->given;
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

/* A vector of samples from `at` on, of which `left` exist. */
INLINE void finish(const Run *run, const ints sums, float scale, int64_t at, int64_t left) {
    const floats y = __builtin_convertvector(sums, floats) * scale;
    if (run->rest) {
        const size_t size = (size_t)least(left, LANES) * sizeof(float);
        const floats sum = y + (floats)load_some(run->rest + at, size);
        memcpy((float *)run->y + at, &sum, size);
        return;
    }
    const floats rounding = (floats){0} + 12582912.0f; /* 1.5 * 2^23: leaves no room for what lies behind the point */
    floats code = (y * run->y_inverse + rounding) - rounding + (float)run->y_zero;
    code = smaller(larger(code, (floats){0}), (floats){0} + 255.0f);
    const codes_of_vector codes = __builtin_convertvector(__builtin_convertvector(code, ints), codes_of_vector);
    memcpy((uint8_t *)run->y + at, &codes, left < LANES ? (size_t)left : sizeof(codes));
}

/* ROWS outputs, from `row` of a panel on. A function to itself, so that it has all registers. */
static __attribute__((noinline)) void tile(const Run *run, int64_t panel, int row, int64_t number) {
    const int64_t channel = panel * PANEL + row, first = number * SAMPLES;
    const int8_t *w = run->w + (panel * run->quads * run->taps * PANEL + row) * QUAD;
    ints sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; i++) {
        const int64_t at = least(channel + i, run->channels - 1);
        const ints offset = (ints){0} + (run->bias[at] - (run->x_zero - shift()) * run->sums[at]);
        for (int j = 0; j < VECTORS; j++) sums[i][j] = offset;
    }
    /* Meanwhile each tile fetches its share of the panel that comes next. */
    const int8_t *next = w + run->quads * (run->taps * PANEL * QUAD + number % run->task_tiles * run->ahead);
    for (int64_t quad = 0; quad < run->quads; quad++) {
        const uint8_t *x = run->copy + (quad * run->stride + first) * QUAD;
        for (int64_t i = 0; i < run->ahead; i += LINE) fetch(next + quad * run->ahead, i);
        for (int64_t tap = 0; tap < run->taps; tap++, x += run->dilation * QUAD, w += PANEL * QUAD) {
            ints samples[VECTORS];
            for (int j = 0; j < VECTORS; j++) samples[j] = load(x + j * LANES * QUAD);
            for (int i = 0; i < ROWS; i++) {
                const ints four = every(w + i * QUAD);
                for (int j = 0; j < VECTORS; j++) sums[i][j] = dot(sums[i][j], samples[j], four, 8);
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

/* Tasks: for each range of tiles, its ranges of panels. */
static void panels(void *argument, size_t task) {
    const Run *run = argument;
    const int64_t from = (int64_t)task / run->parts * run->task_tiles, to = least(from + run->task_tiles, run->tiles);
    const int64_t part = (int64_t)task % run->parts, stop = (part + 1) * run->panels / run->parts;
    for (int64_t panel = part * run->panels / run->parts; panel < stop; panel++)
        for (int64_t i = from; i < to; i++)
            for (int row = 0; row < PANEL; row += ROWS) tile(run, panel, row, i);
}

static Status *convolve(const Api *api, const Context *context, Run *run) {
    const parallel_for_function parallel = api_parallel_for(api);
    run->panels = quotient_up(run->channels, PANEL);
    run->tiles = quotient_up(run->length, SAMPLES);
    run->parts = least(run->panels, TASKS);
    run->task_tiles = run->tiles;
    while (run->parts * quotient_up(run->tiles, run->task_tiles) < TASKS && run->task_tiles > FEWEST)
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

#else

Status *add_panel_conv(const Api *api, Domain *domain) {
    (void)api, (void)domain;
    return NULL;
}

#endif
