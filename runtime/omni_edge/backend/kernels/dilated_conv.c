/* DilatedConv: dilated convolutions over time, as in BigVGAN's residual units, by Winograd's method (winograd.h).
 *
 *     columns of OUT outputs, `dilation` samples apart; `dilation` columns side by side are a block of samples
 *     U [points, PANEL, depth] of a panel of output channels; V [strips, points, depth, STRIP] of strips of columns
 *         depth: input channels, times the pieces of a filter that is too long for one column
 *     few channels: phase 1, a task for each panel: U, which all tasks share
 *                   phase 2, a task for each range of columns: its V, then each panel's outputs
 *     many channels, for each range of columns, so that V stays in the caches
 *                   phase 1, a task for each input channel: V, which all tasks share
 *                   phase 2, a task for each panel: its U, then its outputs
 *     outputs of a panel: for each point, for each strip: U times V, a matrix product; then from the points' sums to y
 */
#include <stdlib.h>
#include <string.h>

#include "matmul.h"
#include "operator.h"
#include "winograd.h"

/*
 *     DilatedConv      y = the convolution
 *     DilatedConvAdd   y = rest + the convolution
 *
 * Inputs: 0 x float32 [1, I, 1, R + T], R = (taps - 1) dilation / 2; 1 codes of the weights int16 [C, taps, I]; 2 their
 * scales float32 [C]; 3 bias float32 [C]; 4 rest float32 [1, C, 1, T]. The convolution extends x by R zeros at its end.
 * Output: y float32 [1, C, 1, T]. Attribute: dilation.
 */
enum { X, W, SCALES, BIAS, REST, PLAIN = REST, ADDED };

enum { PANEL = 24, STRIP = TILE_VECTORS * LANES, LINE_FLOATS = 16, PREFETCH_BYTES = 4096 };
/* Bytes of U that all tasks share, of V that a task has in its second-level cache, of V in a third-level cache. */
enum { SHARED_U_BYTES = 1 << 20, OWN_V_BYTES = 1 << 18, SHARED_V_BYTES = 1 << 23 };
/* Columns whose sums a task keeps at a time; fewest tasks of a range. */
enum { SUM_COLUMNS = 128, SUM_STRIPS = SUM_COLUMNS > STRIP ? SUM_COLUMNS / STRIP : 1, MIN_TASKS = 16 };

typedef struct Conv {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    int64_t dilation;
} Conv;

/* One run of an operator, shared by its threads. */
typedef struct Run {
    Winograd winograd;
    const float *x, *scales, *bias, *rest;
    const int16_t *w;
    float *y;
    int64_t inputs, channels, taps, dilation, length, given; /* given: samples of x */
    int64_t pieces, depth, panels;                           /* pieces of a filter */
    int64_t blocks, first, count;  /* blocks of samples: all, and the range that phases compute: the first, how many */
    int64_t task_blocks, parts;    /* with few channels blocks of a task; otherwise tasks of a panel */
    float *shared;
    int64_t own_floats; /* memory of a task */
    int failed;         /* a task has no memory */
} Run;

/* A range of columns: whole blocks, in strips. */
typedef struct Range {
    int64_t first, blocks, columns, strips;
} Range;

static Range range_of(const Run *run, int64_t first, int64_t blocks) {
    const int64_t columns = blocks * run->dilation;
    return (Range){first, blocks, columns, quotient_up(columns, STRIP)};
}

/* -- transforms -- */

static int64_t whole_lines(int64_t floats) { return quotient_up(floats, LINE_FLOATS) * LINE_FLOATS; }

/* Memory of which each vector lies in one cache line; `start` is what `free` takes. Null: there is none. */
static float *allocate(int64_t floats, float **start) {
    float *memory = *start = malloc((size_t)(floats + LINE_FLOATS) * sizeof(float));
    return memory ? memory + (LINE_FLOATS - (uintptr_t)memory / sizeof(float) % LINE_FLOATS) : NULL;
}

/* The memory of a task. Without any the operator fails. */
static float *own_memory(Run *run, float **start) {
    float *memory = allocate(run->own_floats, start);
    if (!memory) __atomic_store_n(&run->failed, 1, __ATOMIC_RELAXED);
    return memory;
}

static int64_t u_floats(const Run *run) { return run->winograd.points * PANEL * run->depth; }
static int64_t v_floats(const Run *run, int64_t strips) { return strips * run->winograd.points * run->depth * STRIP; }

/* Blocks behind a range that its columns read. */
static int64_t blocks_behind(const Run *run) { return run->pieces + (run->winograd.points - 1) / OUT; }
static int64_t samples_stride(const Run *run, Range range) {
    return range.strips * STRIP + blocks_behind(run) * run->dilation;
}
static int64_t samples_floats(const Run *run, Range range) { return whole_lines(OUT * samples_stride(run, range)); }

/* The samples of a channel by their place in a column: to [OUT, stride], zero beyond the signal. */
INLINE void gather(const int64_t dilation, const float *restrict x, int64_t left, int64_t blocks, float *restrict to,
                   int64_t stride) {
    for (int64_t block = 0; block < blocks; block++, left -= OUT * dilation)
        for (int64_t i = 0; i < OUT; i++)
            for (int64_t p = 0; p < dilation; p++)
                to[i * stride + block * dilation + p] =
                    left >= OUT * dilation || i * dilation + p < left ? x[(block * OUT + i) * dilation + p] : 0.0f;
}

/* V of one input channel. */
static void transform_channel(const Run *run, Range range, int64_t channel, float *samples, float *v) {
    const int64_t start = range.first * OUT * run->dilation, stride = samples_stride(run, range);
    const int64_t blocks = range.blocks + blocks_behind(run), step = STRIP * run->depth;
    const float *x = run->x + channel * run->given + start;
    const int64_t left = run->given - start;
    switch (run->dilation) {
        case 1: gather(1, x, left, blocks, samples, stride); break;
        case 3: gather(3, x, left, blocks, samples, stride); break;
        case 5: gather(5, x, left, blocks, samples, stride); break;
        default: gather(run->dilation, x, left, blocks, samples, stride);
    }
    for (int i = 0; i < OUT; i++) { /* columns that fill the last strip */
        const int64_t end = blocks * run->dilation;
        memset(samples + i * stride + end, 0, (size_t)(stride - end) * sizeof(float));
    }
    for (int64_t strip = 0; strip < range.strips; strip++)
        for (int64_t piece = 0; piece < run->pieces; piece++) {
            float *to = v + v_floats(run, strip) + (piece * run->inputs + channel) * STRIP;
            const float *from = samples + strip * STRIP + piece * run->dilation;
            for (int64_t i = 0; i < STRIP; i += LANES) {
#define INPUT(pairs) winograd_input(pairs, &run->winograd, from + i, stride, run->dilation, to + i, step)
                WINOGRAD_CASES(run->winograd.pairs, INPUT)
#undef INPUT
            }
        }
}

/* U of a panel of outputs, without the weights' scales. */
static void transform_panel(const Run *run, int64_t panel, float *u) {
    const int64_t first = panel * PANEL, stop = min64(first + PANEL, run->channels);
    for (int64_t channel = first; channel < stop; channel++) {
        const int16_t *w = run->w + channel * run->taps * run->inputs;
        for (int64_t piece = 0; piece < run->pieces; piece++) {
            float *to = u + (channel - first) * run->depth + piece * run->inputs;
            const int64_t given = run->pieces == 1 ? run->taps : min64(OUT, run->taps - piece * OUT);
#define FILTER(pairs)                                                                                      \
    winograd_filter(pairs, &run->winograd, w + piece * OUT * run->inputs, run->inputs, given, to,          \
                    PANEL * run->depth, run->inputs)
            WINOGRAD_CASES(run->winograd.pairs, FILTER)
#undef FILTER
        }
    }
}

/* -- outputs -- */

static int64_t sums_floats(const Run *run) { return run->winograd.points * PANEL * SUM_STRIPS * STRIP; }
enum { Y_FLOATS = OUT * SUM_STRIPS * STRIP };

/* y of a channel and a few strips, from columns back to samples. */
INLINE void scatter(const int64_t dilation, const Run *run, int64_t channel, int64_t column, int64_t stop,
                    const float *restrict from, int64_t stride) {
    float *restrict y = run->y + channel * run->length;
    const float *rest = run->rest ? run->rest + channel * run->length : NULL;
    for (int64_t at = column; at < stop; at++, from++) {
        const int64_t start = at / dilation * OUT * dilation + at % dilation;
        const int64_t n = min64(OUT, quotient_up(run->length - start, dilation));
        if (rest)
            for (int64_t i = 0; i < n; i++) y[start + i * dilation] = rest[start + i * dilation] + from[i * stride];
        else
            for (int64_t i = 0; i < n; i++) y[start + i * dilation] = from[i * stride];
    }
}

/* y of a panel of outputs and a range of columns; strips from `begin` to `end` of the range. */
static void outputs(const Run *run, Range range, int64_t panel, int64_t begin, int64_t end, const float *u,
                    const float *v, float *sums, float *y) {
    const int64_t first = panel * PANEL, rows = min64(PANEL, run->channels - first);
    const int64_t stride = SUM_STRIPS * STRIP, points = run->winograd.points;
    for (int64_t strip = begin; strip < end; strip += SUM_STRIPS) {
        const int64_t strips = min64(SUM_STRIPS, end - strip);
        const int64_t columns = min64(strips * STRIP, range.columns - strip * STRIP);
        for (int64_t point = 0; point < points; point++)
            for (int64_t i = 0; i < strips; i++) {
                const Product product = {
                    .a = u + point * PANEL * run->depth,
                    .b = v + v_floats(run, strip + i) + point * run->depth * STRIP,
                    .c = sums + point * PANEL * stride + i * STRIP,
                    .a_stride = run->depth, .b_stride = STRIP, .c_stride = stride,
                    .rows = rows, .depth = run->depth,
                    .columns = quotient_up(min64(STRIP, columns - i * STRIP), LANES) * LANES,
                };
                multiply_tiles(TILE_ROWS, TILE_VECTORS, 1, &product, PREFETCH_BYTES);
            }
        for (int64_t row = 0; row < rows; row++) {
            const int64_t channel = first + row, at = range.first * run->dilation + strip * STRIP;
            const float scale = run->scales[channel], offset = run->bias[channel];
            for (int64_t i = 0; i < columns; i += LANES) {
#define OUTPUT(pairs)                                                                              \
    winograd_output(pairs, &run->winograd, sums + row * stride + i, PANEL * stride, scale, offset, \
                    y + i, stride)
                WINOGRAD_CASES(run->winograd.pairs, OUTPUT)
#undef OUTPUT
            }
            switch (run->dilation) {
                case 1: scatter(1, run, channel, at, at + columns, y, stride); break;
                case 3: scatter(3, run, channel, at, at + columns, y, stride); break;
                case 5: scatter(5, run, channel, at, at + columns, y, stride); break;
                default: scatter(run->dilation, run, channel, at, at + columns, y, stride);
            }
        }
    }
}

/* -- tasks -- */

static void share_panel(void *argument, size_t panel) {
    const Run *run = argument;
    transform_panel(run, (int64_t)panel, run->shared + (int64_t)panel * u_floats(run));
}

static void columns_task(void *argument, size_t task) {
    Run *run = argument;
    const int64_t first = (int64_t)task * run->task_blocks;
    const Range range = range_of(run, first, min64(run->task_blocks, run->blocks - first));
    float *start, *sums = own_memory(run, &start);
    if (!sums) return;
    float *y = sums + sums_floats(run), *samples = y + Y_FLOATS;
    float *v = samples + samples_floats(run, range_of(run, 0, run->task_blocks));
    for (int64_t channel = 0; channel < run->inputs; channel++) transform_channel(run, range, channel, samples, v);
    for (int64_t panel = 0; panel < run->panels; panel++)
        outputs(run, range, panel, 0, range.strips, run->shared + panel * u_floats(run), v, sums, y);
    free(start);
}

static void share_channel(void *argument, size_t channel) {
    Run *run = argument;
    float *start, *samples = own_memory(run, &start);
    if (!samples) return;
    transform_channel(run, range_of(run, run->first, run->count), (int64_t)channel, samples, run->shared);
    free(start);
}

static void panel_task(void *argument, size_t task) {
    Run *run = argument;
    const Range range = range_of(run, run->first, run->count);
    const int64_t panel = (int64_t)task / run->parts, part = (int64_t)task % run->parts;
    float *start, *sums = own_memory(run, &start);
    if (!sums) return;
    float *y = sums + sums_floats(run), *u = y + Y_FLOATS;
    transform_panel(run, panel, u);
    outputs(run, range, panel, part * range.strips / run->parts, (part + 1) * range.strips / run->parts, u, run->shared,
            sums, y);
    free(start);
}

static Status *few_channels(const Api *api, const Context *context, Run *run) {
    const parallel_for_function parallel = api_parallel_for(api);
    TRY(parallel(context, share_panel, (size_t)run->panels, 0, run));
    return parallel(context, columns_task, (size_t)quotient_up(run->blocks, run->task_blocks), 0, run);
}

static Status *many_channels(const Api *api, const Context *context, Run *run) {
    const parallel_for_function parallel = api_parallel_for(api);
    for (run->first = 0; run->first < run->blocks; run->first += run->task_blocks) {
        run->count = min64(run->task_blocks, run->blocks - run->first);
        run->parts = min64(quotient_up(MIN_TASKS, run->panels), range_of(run, 0, run->count).strips);
        TRY(parallel(context, share_channel, (size_t)run->inputs, 0, run));
        TRY(parallel(context, panel_task, (size_t)(run->panels * run->parts), 0, run));
    }
    return NULL;
}

static Status *convolve(const Api *api, const Context *context, Run *run) {
    run->pieces = run->taps <= MAX_FILTER ? 1 : quotient_up(run->taps, OUT);
    const int64_t filter = run->pieces == 1 ? run->taps : OUT + 1;
    winograd_init(&run->winograd, (int)(filter + OUT - 3) / 2);
    run->depth = run->inputs * run->pieces;
    run->panels = quotient_up(run->channels, PANEL);
    run->blocks = quotient_up(run->length, OUT * run->dilation);
    const int64_t shared_u = run->panels * u_floats(run), strip = v_floats(run, 1);
    const int few = shared_u * (int64_t)sizeof(float) <= SHARED_U_BYTES;
    const int64_t strips = max64((few ? OWN_V_BYTES : SHARED_V_BYTES) / ((int64_t)sizeof(float) * strip), 1);
    run->task_blocks = min64(max64(strips * STRIP / run->dilation, 1), run->blocks);
    const Range range = range_of(run, 0, run->task_blocks);
    const int64_t v = v_floats(run, range.strips), samples = samples_floats(run, range);
    const int64_t own = sums_floats(run) + Y_FLOATS;
    run->own_floats = few ? own + samples + v : max64(own + u_floats(run), samples);
    float *start;
    run->shared = allocate(few ? shared_u : v, &start);
    if (!run->shared) return out_of_memory(api);
    Status *status = (few ? few_channels : many_channels)(api, context, run);
    free(start);
    return !status && run->failed ? out_of_memory(api) : status;
}

static Status *compute(void *opaque, Context *context) {
    const Conv *conv = opaque;
    const Api *api = conv->kernel.api;
    Tensor in[ADDED] = {{0}};
    TRY(input_tensors(&conv->kernel, context, in));
    const int added = conv->kernel.kind->inputs == ADDED;
    const Tensor *x = in + X, *w = in + W;
    int fits = x->rank == 4 && x->shape[0] == 1 && x->shape[2] == 1 && w->rank == 3 && w->shape[2] == x->shape[1] &&
               w->shape[1] % 2 == 1 && in[SCALES].elements == (size_t)w->shape[0] &&
               in[BIAS].elements == (size_t)w->shape[0];
    const int64_t length = x->shape[3] - (w->shape[1] - 1) * conv->dilation / 2;
    fits = fits && length >= 0 && (!added || in[REST].elements == (size_t)(w->shape[0] * length));
    if (!fits) return refuse(api, "A convolution's inputs do not fit together.");
    Run run = {
        .x = x->data,
        .w = w->data,
        .scales = in[SCALES].data,
        .bias = in[BIAS].data,
        .rest = added ? in[REST].data : NULL,
        .inputs = x->shape[1],
        .channels = w->shape[0],
        .taps = w->shape[1],
        .dilation = conv->dilation,
        .length = length,
        .given = x->shape[3],
    };
    const int64_t shape[4] = {1, run.channels, 1, length};
    TRY(output_data(api, context, 0, shape, 4, (void **)&run.y));
    return length && run.channels ? convolve(api, context, &run) : NULL;
}

static Status *create(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    Conv conv = {.kernel = {(const Kind *)operator, api}};
    TRY(api_attribute_int64(api)(info, "dilation", &conv.dilation));
    if (conv.dilation < 1) return refuse(api, "A convolution's dilation is 1 or more.");
    return keep_kernel(api, &conv, sizeof(conv), kernel);
}

#define F ELEMENT_FLOAT

static const Kind KINDS[] = {
    KIND("DilatedConv", create, compute, PLAIN, 1, F, ELEMENT_INT16, F, F, F),
    KIND("DilatedConvAdd", create, compute, ADDED, 1, F, ELEMENT_INT16, F, F, F, F),
};

Status *add_dilated_conv(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}
