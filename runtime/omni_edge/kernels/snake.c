/* BigVGAN's anti-aliased snake activation as one operator of onnxruntime instead of twenty-five.
 *
 * A bundle defines these operators as functions over standard ones, and runs everywhere as that. Where this library is
 * registered, the same nodes run here: up-sampling by two, snake, down-sampling by two and the quantization around
 * them, tile by tile, so that the doubled signal never leaves the first-level cache.
 *
 *     Snake                float32 -> float32
 *     SnakeQuantizeLinear  float32 -> uint8, extended to the left by what the next convolution needs
 *     QLinearSnake         uint8 -> uint8, likewise
 *
 * Inputs: 0 x [1, C, 1, T]; 1 past float32 [1, C, 1, 9 (+ R)]: three samples of x, of the even and of the odd phase of
 * the doubled signal, and R of the convolution's input; 2 begin bool [1]: there is no past; 3 stop int64 [1]: samples
 * of x that are finished; 4 cycles float32 [C, 1, 1, 1]: a / pi; 5 root float32 [1, C, 1, 1]: sqrt(a / (pi b)); 6 up
 * and 7 down float32 [1, 1, 2, 7]: filter taps, the second row of `up` for the even phase, the first of `down`; then,
 * with quantization, 8 scale and 9 zero of y; 10 scale and 11 zero of x.
 * Outputs: 0 y [1, C, 1, (R +) T]; 1 next past, like 1.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum { REACH = 3, TAPS = 7, ROWS = 2, PAST = 3 * REACH };
/* Samples of x at a time: the buffers of a tile take 10 KB. */
enum { TILE = 512, WIDE = TILE + 2 * REACH };
enum { X, PAST_IN, BEGIN, STOP, CYCLES, ROOT, UP, DOWN, Y_SCALE, Y_ZERO, X_SCALE, X_ZERO, INPUTS };
enum { Y, PAST_OUT, OUTPUTS };

typedef struct Kind {
    Operator operator; /* first, so that one pointer is both */
    const char *name;
    int x_type, y_type;
    size_t inputs;
} Kind;

typedef struct Kernel {
    const Kind *kind;
    const Api *api;
} Kernel;

/* One run of an operator, shared by the threads that work on its channels. */
typedef struct Run {
    const void *x;
    void *y;
    const float *past, *cycles, *root, *up, *down;
    float *next_past;
    int64_t length, reach, stop;
    int begin, x_bytes, y_bytes;
    float x_scale, y_scale;
    int x_zero, y_zero;
} Run;

static inline float clamp(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

static void quantize(const float *restrict in, uint8_t *restrict out, float inverse_scale, float zero, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = (uint8_t)(int32_t)clamp(rintf(in[i] * inverse_scale) + zero, 0.0f, 255.0f);
}

static void dequantize(const uint8_t *restrict in, float *restrict out, float scale, int zero, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = (float)(in[i] - zero) * scale;
}

/* One phase of the doubled signal, in turns: a filter of six taps, then t + root^2 sin(pi t)^2. */
static void phase(const float *restrict x, const float *restrict taps, float *restrict out, float cycles, float square,
                  int64_t n) {
    const float a = taps[0], b = taps[1], c = taps[2], d = taps[3], e = taps[4], f = taps[5];
    for (int64_t i = 0; i < n; i++) {
        const float v = a * x[i] + b * x[i + 1] + c * x[i + 2] + d * x[i + 3] + e * x[i + 4] + f * x[i + 5];
        const float turns = cycles * v;
        const float r = turns - rintf(turns);
        const float s = r * r;
        /* sin(pi r) on |r| <= 1/2 to 6e-7 */
        const float sine = r * (3.14158198f + s * (-5.1671413f + s * (2.54188707f + s * -0.55460885f)));
        out[i] = turns + square * (sine * sine);
    }
}

/* Both phases filtered, added, and no longer in turns. */
static void down_sample(const float *restrict even, const float *restrict odd, const float *restrict taps,
                        float *restrict out, float cycles, int64_t n) {
    const float per_turn = 1.0f / cycles;
    const float *restrict p = taps, *restrict q = taps + TAPS;
    for (int64_t i = 0; i < n; i++)
        out[i] = per_turn * (
                 p[1] * even[i + 1] + p[2] * even[i + 2] + p[3] * even[i + 3] + p[4] * even[i + 4] +
                 p[5] * even[i + 5] + p[6] * even[i + 6] + q[0] * odd[i] + q[1] * odd[i + 1] + q[2] * odd[i + 2] +
                 q[3] * odd[i + 3] + q[4] * odd[i + 4] + q[5] * odd[i + 5]);
}

static void read_x(const Run *run, size_t channel, int64_t start, float *out, int64_t n) {
    const int64_t offset = (int64_t)channel * run->length + start;
    if (run->x_bytes == 1)
        dequantize((const uint8_t *)run->x + offset, out, run->x_scale, run->x_zero, n);
    else
        memcpy(out, (const float *)run->x + offset, (size_t)n * sizeof(float));
}

/* x[start .. start + n) where the signal goes on beyond its ends: to the left as the past says, at the utterance's own
 * ends with its outermost samples. */
static void read_extended(const Run *run, size_t channel, const float *past, int64_t start, float *out, int64_t n) {
    int64_t first = start < 0 ? -start : 0, last = run->length - start;
    if (last > n) last = n;
    read_x(run, channel, start + first, out + first, last - first);
    for (int64_t i = 0; i < first; i++) {
        if (run->begin)
            read_x(run, channel, 0, out + i, 1);
        else
            out[i] = past[REACH + start + i];
    }
    for (int64_t i = last; i < n; i++) read_x(run, channel, run->length - 1, out + i, 1);
}

/* Keeps those of the `REACH` values before `stop` that lie in values[0 .. n), which begin at `start`. */
static void keep(float *next, int64_t stop, const float *values, int64_t start, int64_t n) {
    for (int64_t i = 0; i < REACH; i++) {
        const int64_t at = stop - REACH + i - start;
        if (at >= 0 && at < n) next[i] = values[at];
    }
}

static void keep_convolution(const Run *run, const uint8_t *extended, float *next) {
    dequantize(extended + run->stop, next, run->y_scale, run->y_zero, run->reach);
}

static void channel(void *argument, size_t channel) {
    const Run *run = argument;
    const int64_t length = run->length, reach = run->reach, width = PAST + reach;
    const float *past = run->past + (int64_t)channel * width;
    float *next = run->next_past + (int64_t)channel * width;
    const float cycles = run->cycles[channel], square = run->root[channel] * run->root[channel];
    float x[WIDE + 2 * REACH], even[WIDE], odd[WIDE], y[TILE];
    uint8_t *codes = (uint8_t *)run->y + (int64_t)channel * (reach + length);
    float *samples = (float *)run->y + (int64_t)channel * length;
    if (run->y_bytes == 1) quantize(past + PAST, codes, 1.0f / run->y_scale, (float)run->y_zero, reach);

    for (int64_t start = 0; start < length; start += TILE) {
        const int64_t n = length - start < TILE ? length - start : TILE;
        /* even[i] and odd[i] are the phases at start - REACH + i; those up to start + REACH are there from the tile
         * before. */
        const int64_t known = start ? 2 * REACH : REACH;
        int64_t stop = start + n + REACH;
        if (stop > length) stop = length;
        const int64_t from = start - REACH + known, fresh = stop - from;
        if (start) {
            memmove(even, even + TILE, 2 * REACH * sizeof(float));
            memmove(odd, odd + TILE, 2 * REACH * sizeof(float));
        }
        if (fresh > 0) {
            read_extended(run, channel, past, from - REACH, x, fresh + 2 * REACH);
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
        if (run->y_bytes == 1) {
            down_sample(even, odd, run->down, y, cycles, n);
            quantize(y, codes + reach + start, 1.0f / run->y_scale, (float)run->y_zero, n);
        } else {
            down_sample(even, odd, run->down, samples + start, cycles, n);
        }
    }
    if (run->y_bytes == 1) keep_convolution(run, codes, next + PAST);
}

/* Data of an input, and its size along the axes that count: channels, time; a scalar has one element. */
static Status *input(const Api *api, const Context *context, size_t index, const void **data, int64_t *shape,
                     size_t *elements) {
    const Value *value;
    TensorInfo *info;
    size_t count;
    TRY(api_input(api)(context, index, &value));
    TRY(api_tensor_data(api)(value, (void **)data));
    TRY(api_tensor_info(api)(value, &info));
    Status *status = api_element_count(api)(info, elements);
    if (!status) status = api_dimension_count(api)(info, &count);
    if (!status && shape) {
        if (count != 4)
            status = api_create_status(api)(STATUS_INVALID_ARGUMENT, "A snake's signal has four dimensions.");
        else
            status = api_dimensions(api)(info, shape, count);
    }
    api_release_tensor_info(api)(info);
    return status;
}

static Status *compute(void *opaque, Context *context) {
    const Kernel *kernel = opaque;
    const Kind *kind = kernel->kind;
    const Api *api = kernel->api;
    const void *data[INPUTS];
    size_t elements[INPUTS];
    int64_t x[4], past[4];
    for (size_t i = 0; i < kind->inputs; i++)
        TRY(input(api, context, i, data + i, i == X ? x : i == PAST_IN ? past : NULL, elements + i));

    const int64_t channels = x[1], length = x[3];
    Run run = {
        .x = data[X],
        .past = data[PAST_IN],
        .cycles = data[CYCLES],
        .root = data[ROOT],
        .up = data[UP],
        .down = data[DOWN],
        .length = length,
        .reach = past[3] - PAST,
        .begin = *(const uint8_t *)data[BEGIN],
        .stop = *(const int64_t *)data[STOP],
        .x_bytes = kind->x_type == ELEMENT_UINT8 ? 1 : 4,
        .y_bytes = kind->y_type == ELEMENT_UINT8 ? 1 : 4,
    };
    if (kind->inputs > Y_ZERO) {
        run.y_scale = *(const float *)data[Y_SCALE];
        run.y_zero = *(const uint8_t *)data[Y_ZERO];
    }
    if (kind->inputs > X_ZERO) {
        run.x_scale = *(const float *)data[X_SCALE];
        run.x_zero = *(const uint8_t *)data[X_ZERO];
    }
    const int fits = x[0] == 1 && x[2] == 1 && length > 0 && past[1] == channels && run.reach >= 0 &&
                     (run.y_bytes == 1 || run.reach == 0) && run.stop >= 0 && run.stop <= length &&
                     elements[CYCLES] == (size_t)channels && elements[ROOT] == (size_t)channels &&
                     elements[UP] == ROWS * TAPS && elements[DOWN] == ROWS * TAPS;
    if (!fits) return api_create_status(api)(STATUS_INVALID_ARGUMENT, "A snake's inputs do not fit together.");

    Value *y, *next;
    const int64_t y_shape[4] = {1, channels, 1, run.reach + length};
    TRY(api_output(api)(context, Y, y_shape, 4, &y));
    TRY(api_output(api)(context, PAST_OUT, past, 4, &next));
    TRY(api_tensor_data(api)(y, &run.y));
    TRY(api_tensor_data(api)(next, (void **)&run.next_past));
    return api_parallel_for(api)(context, channel, (size_t)channels, 0, &run);
}

/* -- what the operators tell of themselves -- */

static const Kind *kind_of(const Operator *operator) { return (const Kind *)operator; }

static const char *name(const Operator *operator) { return kind_of(operator)->name; }

static const char *provider(const Operator *operator) {
    (void)operator;
    return NULL; /* the CPU */
}

static int input_type(const Operator *operator, size_t index) {
    switch (index) {
        case X: return kind_of(operator)->x_type;
        case BEGIN: return ELEMENT_BOOL;
        case STOP: return ELEMENT_INT64;
        case X_ZERO:
        case Y_ZERO: return ELEMENT_UINT8;
        default: return ELEMENT_FLOAT;
    }
}

static int output_type(const Operator *operator, size_t index) {
    return index == Y ? kind_of(operator)->y_type : ELEMENT_FLOAT;
}

static size_t input_count(const Operator *operator) { return kind_of(operator)->inputs; }

static size_t output_count(const Operator *operator) {
    (void)operator;
    return OUTPUTS;
}

static int required(const Operator *operator, size_t index) {
    (void)operator, (void)index;
    return REQUIRED;
}

static int memory(const Operator *operator, size_t index) {
    (void)operator, (void)index;
    return MEMORY_DEFAULT;
}

static int one(const Operator *operator) {
    (void)operator;
    return 1;
}

static Status *create_kernel(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    (void)info;
    Kernel *made = malloc(sizeof(Kernel));
    if (!made) return api_create_status(api)(STATUS_FAIL, "No memory is left.");
    *made = (Kernel){kind_of(operator), api};
    *kernel = made;
    return NULL;
}

#define OPERATOR                                                                                             \
    {                                                                                                        \
        .version = ABI_VERSION, .name = name, .provider = provider, .input_type = input_type,                \
        .input_count = input_count, .output_type = output_type, .output_count = output_count,                \
        .destroy_kernel = free, .input_characteristic = required, .output_characteristic = required,         \
        .input_memory = memory, .variadic_input_minimum = one, .variadic_input_homogeneous = one,            \
        .variadic_output_minimum = one, .variadic_output_homogeneous = one, .create_kernel = create_kernel,  \
        .compute = compute, .first_version = one, .last_version = one                                        \
    }

static const Kind KINDS[] = {
    {OPERATOR, "Snake", ELEMENT_FLOAT, ELEMENT_FLOAT, DOWN + 1},
    {OPERATOR, "SnakeQuantizeLinear", ELEMENT_FLOAT, ELEMENT_UINT8, Y_ZERO + 1},
    {OPERATOR, "QLinearSnake", ELEMENT_UINT8, ELEMENT_UINT8, X_ZERO + 1},
};

Status *add_snake(const Api *api, Domain *domain) {
    for (size_t i = 0; i < sizeof(KINDS) / sizeof(KINDS[0]); i++)
        TRY(api_add_operator(api)(domain, &KINDS[i].operator));
    return NULL;
}
