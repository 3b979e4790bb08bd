/* BigVGAN's anti-aliased activation for training: up-sampling by two, snake-beta, down-sampling by two; and gradients.
 *
 *     for each row of batch * channels, which stays in the cache        x, y, gradients: [batch * channels][n]
 *         pad x with its outermost samples to [n + 6], as the reference does
 *         filter and activate: even, odd [n + 6], the two phases of the doubled signal, in separate buffers
 *         filter both and add: y [n]
 *     backward: the same, then the transposed steps in reverse order
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REACH 3 /* each phase reads 3 samples to either side */
#define TAPS 6  /* non-zero taps of one phase */

/* Offsets of the taps: up -3..2 for even and -2..3 for odd samples; down -2..3 for even and -3..2 for odd ones. */

static void pad(const float *restrict row, float *restrict padded, long n) {
    for (int i = 0; i < REACH; i++) padded[i] = row[0];
    memcpy(padded + REACH, row, n * sizeof(float));
    for (int i = 0; i < REACH; i++) padded[REACH + n + i] = row[n - 1];
}

static void filter(const float *restrict in, const float *restrict taps, float *restrict out, long n) {
    const float a = taps[0], b = taps[1], c = taps[2], d = taps[3], e = taps[4], f = taps[5];
    for (long t = 0; t < n; t++)
        out[t] = a * in[t] + b * in[t + 1] + c * in[t + 2] + d * in[t + 3] + e * in[t + 4] + f * in[t + 5];
}

static void snake(const float *restrict in, float *restrict out, float a, float inverse_b, long n) {
    for (long t = 0; t < n; t++) {
        const float s = sinf(in[t] * a);
        out[t] = in[t] + inverse_b * s * s;
    }
}

/* Pads both phases of the doubled signal, which begins with the first even and ends with the last odd sample. */
static void pad_phases(float *restrict even, float *restrict odd, long n) {
    const float first = even[REACH], last = odd[REACH + n - 1];
    for (int i = 0; i < REACH; i++) {
        even[i] = odd[i] = first;
        even[REACH + n + i] = odd[REACH + n + i] = last;
    }
}

/* up: [2][6] taps of the even and the odd phase; down: [2][6]. x, y: [batch * channels][n]. */
void snake_forward(const float *x, const float *a, const float *inverse_b, const float *up, const float *down,
                   float *y, long batch, long channels, long n) {
    const long width = n + 2 * REACH;
    float *work = aligned_alloc(64, ((4 * width + 2 * n) * sizeof(float) / 64 + 2) * 64);
    float *padded = work, *even = work + width, *odd = even + width, *raw = odd + width, *part = raw + n;
    for (long r = 0; r < batch * channels; r++) {
        const long c = r % channels;
        pad(x + r * n, padded, n);
        filter(padded, up, raw, n);
        snake(raw, even + REACH, a[c], inverse_b[c], n);
        filter(padded + 1, up + TAPS, raw, n);
        snake(raw, odd + REACH, a[c], inverse_b[c], n);
        pad_phases(even, odd, n);
        filter(even + 1, down, part, n);
        float *out = y + r * n;
        filter(odd, down + TAPS, out, n);
        for (long t = 0; t < n; t++) out[t] += part[t];
    }
    free(work);
}

/* Turns the gradient of one activated phase into that of its input; adds to the gradients of a and of 1/b. */
static void snake_gradient(const float *restrict raw, float *restrict grad, float a, float inverse_b, float *ga, float *gb,
                           long n) {
    float sum_a = 0, sum_b = 0;
    for (long t = 0; t < n; t++) {
        const float g = grad[t], double_angle = sinf(2 * raw[t] * a), s = sinf(raw[t] * a);
        sum_a += g * double_angle * raw[t];
        sum_b += g * s * s;
        grad[t] = g * (1 + inverse_b * a * double_angle);
    }
    *ga += sum_a * inverse_b;
    *gb += sum_b;
}

/* out[t] += sum over k of taps[k] * in[t - k], the transpose of `filter`: in [n], out [n + 5], zeros [n + 10]. */
static void scatter(const float *restrict in, const float *restrict taps, float *restrict out, float *restrict zeros,
                    long n) {
    memset(zeros, 0, (TAPS - 1) * sizeof(float));
    memcpy(zeros + TAPS - 1, in, n * sizeof(float));
    memset(zeros + TAPS - 1 + n, 0, (TAPS - 1) * sizeof(float));
    const float a = taps[5], b = taps[4], c = taps[3], d = taps[2], e = taps[1], f = taps[0];
    for (long t = 0; t < n + TAPS - 1; t++)
        out[t] += a * zeros[t] + b * zeros[t + 1] + c * zeros[t + 2] + d * zeros[t + 3] + e * zeros[t + 4] +
                  f * zeros[t + 5];
}

void snake_backward(const float *x, const float *a, const float *inverse_b, const float *up, const float *down,
                    const float *gy, float *gx, float *ga, float *gb, long batch, long channels, long n) {
    const long width = n + 2 * REACH;
    float *work = aligned_alloc(64, ((7 * width + 16) * sizeof(float) / 64 + 2) * 64);
    float *padded = work, *even = padded + width, *odd = even + width, *g_even = odd + width, *g_odd = g_even + width,
          *zeros = g_odd + width;
    for (long r = 0; r < batch * channels; r++) {
        const long c = r % channels;
        const float *g = gy + r * n;
        pad(x + r * n, padded, n);
        filter(padded, up, even, n);
        filter(padded + 1, up + TAPS, odd, n);
        memset(g_even, 0, width * sizeof(float));
        memset(g_odd, 0, width * sizeof(float));
        scatter(g, down, g_even + 1, zeros, n);
        scatter(g, down + TAPS, g_odd, zeros, n);
        for (int i = 0; i < REACH; i++) {
            g_even[REACH] += g_even[i] + g_odd[i];
            g_odd[REACH + n - 1] += g_even[REACH + n + i] + g_odd[REACH + n + i];
        }
        snake_gradient(even, g_even + REACH, a[c], inverse_b[c], ga + c, gb + c, n);
        snake_gradient(odd, g_odd + REACH, a[c], inverse_b[c], ga + c, gb + c, n);
        memset(padded, 0, width * sizeof(float));
        scatter(g_even + REACH, up, padded, zeros, n);
        scatter(g_odd + REACH, up + TAPS, padded + 1, zeros, n);
        float *out = gx + r * n;
        memcpy(out, padded + REACH, n * sizeof(float));
        for (int i = 0; i < REACH; i++) {
            out[0] += padded[i];
            out[n - 1] += padded[REACH + n + i];
        }
    }
    free(work);
}
