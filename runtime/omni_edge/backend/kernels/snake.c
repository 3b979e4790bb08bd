/* Snake: BigVGAN's anti-aliased activation as one operator instead of twenty-five.
 *
 *     for each channel, for each tile of TILE samples, so that the doubled signal stays in the first-level cache
 *         x [TILE + 4 REACH], extended to both sides by the past or the signal's outermost samples
 *         up-sample and activate: even, odd [TILE + 2 REACH], the two phases of the doubled signal; 2 REACH of each
 *             are kept from the tile before
 *         down-sample: y [TILE]
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "operator.h"

/*
 * Inputs: 0 x float32 [1, C, 1, T]; 1 past float32 [1, C, 1, 9]: three samples of x, of the even and of the odd phase
 * of the doubled signal; 2 begin bool [1]: there is no past; 3 stop int64 [1]: samples of x that are finished; 4 cycles
 * float32 [C, 1, 1, 1]: a / pi; 5 root float32 [1, C, 1, 1]: sqrt(a / (pi b)); 6 up and 7 down float32 [1, 1, 2, 7]:
 * filter taps, the second row of `up` for the even phase, the first of `down`.
 * Outputs: 0 y float32 [1, C, 1, T]; 1 next past, shaped as 1.
 */
enum { X, PAST_IN, BEGIN, STOP, CYCLES, ROOT, UP, DOWN, INPUTS };
enum { Y, PAST_OUT, OUTPUTS };

enum { REACH = 3, TAPS = 7, ROWS = 2, PAST = 3 * REACH };
/* Samples of x of a tile, whose buffers take 10 KB. */
enum { TILE = 512, WIDE = TILE + 2 * REACH };

/* One run of an operator, shared by its threads. */
typedef struct Run {
    const float *x, *past, *cycles, *root, *up, *down;
    float *y, *next_past;
    int64_t length, stop;
    int begin;
} Run;

/* One phase of the doubled signal, in cycles t of the sine: a filter of six taps, then t + root^2 sin(pi t)^2. */
static void phase(const float *restrict x, const float *restrict taps, float *restrict out, float cycles, float square,
                  int64_t n) {
    const float a = taps[0], b = taps[1], c = taps[2], d = taps[3], e = taps[4], f = taps[5];
    for (int64_t i = 0; i < n; i++) {
        const float v = a * x[i] + b * x[i + 1] + c * x[i + 2] + d * x[i + 3] + e * x[i + 4] + f * x[i + 5];
        const float t = cycles * v;
        const float r = t - rintf(t);
        const float s = r * r;
        /* sin(pi r) on |r| <= 1/2 to 6e-7 */
        const float sine = r * (3.14158198f + s * (-5.1671413f + s * (2.54188707f + s * -0.55460885f)));
        out[i] = t + square * (sine * sine);
    }
}

/* Filters both phases, adds them, and converts from cycles to samples. */
static void down_sample(const float *restrict even, const float *restrict odd, const float *restrict taps,
                        float *restrict out, float cycles, int64_t n) {
    const float per_cycle = 1.0f / cycles;
    const float *restrict p = taps, *restrict q = taps + TAPS;
    for (int64_t i = 0; i < n; i++)
        out[i] = per_cycle * (p[1] * even[i + 1] + p[2] * even[i + 2] + p[3] * even[i + 3] + p[4] * even[i + 4] +
                             p[5] * even[i + 5] + p[6] * even[i + 6] + q[0] * odd[i] + q[1] * odd[i + 1] +
                             q[2] * odd[i + 2] + q[3] * odd[i + 3] + q[4] * odd[i + 4] + q[5] * odd[i + 5]);
}

/* x[start .. start + n), extended beyond the signal's ends: to the left by the past, at the utterance's own ends by its
 * outermost samples. */
static void read_extended(const Run *run, const float *x, const float *past, int64_t start, float *out, int64_t n) {
    int64_t first = start < 0 ? -start : 0, last = run->length - start;
    if (last > n) last = n;
    if (last > first) memcpy(out + first, x + start + first, (size_t)(last - first) * sizeof(float));
    for (int64_t i = 0; i < first; i++) out[i] = run->begin ? x[0] : past[REACH + start + i];
    for (int64_t i = last; i < n; i++) out[i] = x[run->length - 1];
}

/* Copies to `next` the part of the REACH values before `stop` that lies in values[0 .. n), which begin at `start`. */
static void keep(float *next, int64_t stop, const float *values, int64_t start, int64_t n) {
    for (int64_t i = 0; i < REACH; i++) {
        const int64_t at = stop - REACH + i - start;
        if (at >= 0 && at < n) next[i] = values[at];
    }
}

static void channel(void *argument, size_t channel) {
    const Run *run = argument;
    const int64_t length = run->length;
    const float *signal = run->x + (int64_t)channel * length, *past = run->past + (int64_t)channel * PAST;
    float *next = run->next_past + (int64_t)channel * PAST, *y = run->y + (int64_t)channel * length;
    const float cycles = run->cycles[channel], square = run->root[channel] * run->root[channel];
    float x[WIDE + 2 * REACH], even[WIDE], odd[WIDE];

    for (int64_t start = 0; start < length; start += TILE) {
        const int64_t n = length - start < TILE ? length - start : TILE;
        /* even[i] and odd[i] are the phases at start - REACH + i; the tile before computed them up to start + REACH. */
        const int64_t known = start ? 2 * REACH : REACH;
        int64_t stop = start + n + REACH;
        if (stop > length) stop = length;
        const int64_t from = start - REACH + known, fresh = stop - from;
        if (start) {
            memmove(even, even + TILE, 2 * REACH * sizeof(float));
            memmove(odd, odd + TILE, 2 * REACH * sizeof(float));
        }
        if (fresh > 0) {
            read_extended(run, signal, past, from - REACH, x, fresh + 2 * REACH);
            phase(x, run->up + TAPS, even + known, cycles, square, fresh);
            phase(x + 1, run->up + 1, odd + known, cycles, square, fresh);
            keep(next, run->stop, x, from - REACH, fresh + 2 * REACH);
        }
        for (int64_t i = 0; !start && i < REACH; i++) {
            even[i] = run->begin ? even[REACH] : past[REACH + i];
            odd[i] = run->begin ? even[REACH] : past[2 * REACH + i];
        }
        const int64_t end = stop - start + REACH;
        for (int64_t i = end; i < n + 2 * REACH; i++) even[i] = odd[i] = odd[end - 1];
        keep(next + REACH, run->stop, even, start - REACH, n + 2 * REACH);
        keep(next + 2 * REACH, run->stop, odd, start - REACH, n + 2 * REACH);
        down_sample(even, odd, run->down, y + start, cycles, n);
    }
}

static Status *compute(void *opaque, Context *context) {
    const Kernel *kernel = opaque;
    Tensor in[INPUTS] = {{0}};
    TRY(input_tensors(kernel, context, in));
    const Tensor *x = in + X, *past = in + PAST_IN;
    const int64_t *shape = x->shape, channels = shape[1], length = shape[3];
    Run run = {
        .x = x->data,
        .past = past->data,
        .cycles = in[CYCLES].data,
        .root = in[ROOT].data,
        .up = in[UP].data,
        .down = in[DOWN].data,
        .length = length,
        .begin = *(const uint8_t *)in[BEGIN].data,
        .stop = *(const int64_t *)in[STOP].data,
    };
    const int fits = x->rank == 4 && past->rank == 4 && shape[0] == 1 && shape[2] == 1 && length > 0 &&
                     past->shape[1] == channels && past->shape[3] == PAST && run.stop >= 0 && run.stop <= length &&
                     in[CYCLES].elements == (size_t)channels && in[ROOT].elements == (size_t)channels &&
                     in[UP].elements == ROWS * TAPS && in[DOWN].elements == ROWS * TAPS;
    if (!fits) return refuse(kernel->api, "A snake's inputs do not fit together.");

    TRY(output_data(kernel->api, context, Y, shape, 4, (void **)&run.y));
    TRY(output_data(kernel->api, context, PAST_OUT, past->shape, 4, (void **)&run.next_past));
    return api_parallel_for(kernel->api)(context, channel, (size_t)channels, 0, &run);
}

#define F ELEMENT_FLOAT

static const Kind KINDS[] = {
    KIND("Snake", create_plain, compute, INPUTS, OUTPUTS, F, F, ELEMENT_BOOL, ELEMENT_INT64, F, F, F, F, F, F),
};

Status *add_snake(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}
