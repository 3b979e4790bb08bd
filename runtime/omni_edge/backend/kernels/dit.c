/* GatedNorm, GeluTanh: the work between the linear layers of a transformer with modulated norms (the DiT).
 *
 *     GatedNorm: a task for each row: sum = x + gate * delta, its mean and variance, then norm(sum) * scale + shift
 *     GeluTanh: a task for each piece of PIECE values
 */
#include <math.h>
#include <stdlib.h>

#include "operator.h"
#include "simd.h"

/*
 *     GatedNorm (epsilon)   x, delta float32 [..., K], gate, scale, shift float32 [K]
 *                           -> sum and norm float32 [..., K]
 *     GeluTanh              float32 [...] -> float32 [...]: gelu in its tanh form
 */
enum { X, DELTA, GATE, SCALE, SHIFT, INPUTS };
enum { SUM, NORMED, OUTPUTS };
enum { PIECE = 4096 };

typedef struct Norm {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    float epsilon;
} Norm;

/* One run of an operator, shared by its threads. */
typedef struct Run {
    const float *x, *delta, *gate, *scale, *shift;
    float *sum, *y;
    int64_t n; /* values of a row; of gelu, all values */
    float epsilon;
} Run;

static void norm_row(void *argument, size_t row) {
    const Run *run = argument;
    enum { CHAINS = 4, STEP = CHAINS * LANES }; /* independent chains of additions */
    const int64_t n = run->n, at = (int64_t)row * n;
    const float *x = run->x + at, *delta = run->delta + at;
    float *sum = run->sum + at, *y = run->y + at, mean = 0;
    f32 sums[CHAINS] = {{0}};
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
        for (int j = 0; j < CHAINS; j++) {
            const int64_t k = i + j * LANES;
            const f32 v = load(x + k) + load(run->gate + k) * load(delta + k);
            store(sum + k, v);
            sums[j] += v;
        }
    for (; i < n; i++) mean += sum[i] = x[i] + run->gate[i] * delta[i];
    for (int j = 0; j < CHAINS; j++) mean += sum_lanes(sums[j]);
    mean /= (float)n;

    const float inverse = 1.0f / sqrtf(sum_of_squares(sum, mean, n) / (float)n + run->epsilon);
    for (i = 0; i + LANES <= n; i += LANES)
        store(y + i, (load(sum + i) - mean) * inverse * load(run->scale + i) + load(run->shift + i));
    for (; i < n; i++) y[i] = (sum[i] - mean) * inverse * run->scale[i] + run->shift[i];
}

static Status *compute_norm(void *opaque, Context *context) {
    const Norm *norm = opaque;
    const Api *api = norm->kernel.api;
    Tensor in[INPUTS] = {{0}};
    TRY(input_tensors(&norm->kernel, context, in));
    const Tensor *x = in + X;
    Run run = {.x = x->data, .delta = in[DELTA].data, .gate = in[GATE].data, .scale = in[SCALE].data,
               .shift = in[SHIFT].data, .n = x->rank ? x->shape[x->rank - 1] : 0, .epsilon = norm->epsilon};
    int fits = x->rank && in[DELTA].elements == x->elements;
    for (int i = GATE; i < INPUTS; i++) fits = fits && in[i].elements == (size_t)run.n;
    if (!fits) return refuse(api, "A gated norm's inputs do not fit together.");
    TRY(output_data(api, context, SUM, x->shape, x->rank, (void **)&run.sum));
    TRY(output_data(api, context, NORMED, x->shape, x->rank, (void **)&run.y));
    return x->elements ? api_parallel_for(api)(context, norm_row, x->elements / (size_t)run.n, 0, &run) : NULL;
}

/* 0.5 (1 + tanh(u)) is 1 / (1 + e^-2u). */
INLINE f32 gelu(f32 x) {
    return x * sigmoid2(x * (2.30220819f + 0.102943240f * (x * x))); /* 2 u / log(2) */
}

static void gelu_piece(void *argument, size_t piece) {
    const Run *run = argument;
    const int64_t from = (int64_t)piece * PIECE, to = min64(from + PIECE, run->n);
    int64_t i = from;
    for (; i + LANES <= to; i += LANES) store(run->y + i, gelu(load(run->x + i)));
    if (i < to) {
        float last[LANES] = {0};
        memcpy(last, run->x + i, (size_t)(to - i) * sizeof(float));
        store(last, gelu(load(last)));
        memcpy(run->y + i, last, (size_t)(to - i) * sizeof(float));
    }
}

static Status *compute_gelu(void *opaque, Context *context) {
    const Kernel *kernel = opaque;
    Tensor x = {0};
    TRY(input_tensors(kernel, context, &x));
    Run run = {.x = x.data, .n = (int64_t)x.elements};
    TRY(output_data(kernel->api, context, 0, x.shape, x.rank, (void **)&run.y));
    const size_t pieces = (x.elements + PIECE - 1) / PIECE;
    return pieces ? api_parallel_for(kernel->api)(context, gelu_piece, pieces, 0, &run) : NULL;
}

static Status *create_norm(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    Norm norm = {.kernel = {(const Kind *)operator, api}};
    TRY(api_attribute_float(api)(info, "epsilon", &norm.epsilon));
    return keep_kernel(api, &norm, sizeof(norm), kernel);
}

#define F ELEMENT_FLOAT

static const Kind KINDS[] = {
    KIND("GatedNorm", create_norm, compute_norm, INPUTS, OUTPUTS, F, F, F, F, F, F, F),
    KIND("GeluTanh", create_plain, compute_gelu, 1, 1, F, F),
};

Status *add_dit(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}
