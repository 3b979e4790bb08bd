/* Winograd's method for filters over time (Toom-Cook with real points), in float32.
 *
 * OUT outputs of a filter with r taps take n = OUT + r - 1 products in place of OUT r. A column is n inputs x; M are
 * sums over channels of products of the transforms V of x and U of the filter w; y are the column's outputs:
 *
 *     point        V                          U                               y
 *     0            sum_j z_j x[2 j]           w[0] / z_0                      y[0] += M
 *     infinity     sum_j z_j x[2 j + 1]       w[r - 1]                        y[OUT - 1] += M
 *     +v and -v    E + O and E - O            (e + o) / f and (e - o) / f     y[i] += v^i (M+ + M-) for even i
 *                                                                             y[i] += v^i (M+ - M-) for odd i
 *
 *     E = sum_j q_j x[2 j + 2], O = v sum_j q_j x[2 j + 1]; e and o: the sums of v^k w[k] over even and odd k
 *     z: the polynomial prod_u (t - u^2) over all pairs +u, -u of points; q: the same without v; f = 2 v^2 q(v^2)
 */
#ifndef OMNI_EDGE_WINOGRAD_H
#define OMNI_EDGE_WINOGRAD_H

#include "simd.h"

/* Outputs of a column, and the pairs of points that filters of 1, 3 .. 11 taps take. */
enum { OUT = 6, MIN_PAIRS = 2, MAX_PAIRS = 7, MAX_POINTS = 2 * MAX_PAIRS + 2, MAX_FILTER = 2 * MAX_PAIRS - 3 };

/* The coefficients for a number of pairs of points. */
typedef struct Winograd {
    int pairs, points, taps;                    /* points: n; taps: r */
    float z[MAX_PAIRS + 1];
    float q[MAX_PAIRS][MAX_PAIRS], v[MAX_PAIRS];
    float filter[MAX_PAIRS][MAX_FILTER];        /* v^k / f */
    float output[MAX_PAIRS][OUT];               /* v^i */
} Winograd;

/* Points of least rounding error, by search among small fractions: 92 dB at 7 pairs, 110 dB at 5, 120 dB at 3. */
static inline const double *winograd_points(int pairs) {
    static const double points[MAX_PAIRS + 1][MAX_PAIRS] = {
        [2] = {1, 2.0},
        [3] = {1, 2.0, 1 / 2.0},
        [4] = {1, 5 / 2.0, 2 / 5.0, 3 / 4.0},
        [5] = {1, 3 / 2.0, 2 / 3.0, 8 / 3.0, 3 / 8.0},
        [6] = {1, 3.0, 1 / 3.0, 7 / 4.0, 4 / 7.0, 5 / 4.0},
        [7] = {1, 2.0, 1 / 2.0, 4.0, 1 / 4.0, 3 / 4.0, 4 / 3.0},
    };
    return points[pairs];
}

static inline void winograd_init(Winograd *c, int pairs) {
    const double *points = winograd_points(pairs);
    c->pairs = pairs, c->points = 2 * pairs + 2, c->taps = c->points - OUT + 1;
    for (int p = 0; p <= pairs; p++) { /* `pairs` itself: no pair is left out, which gives z */
        double product[MAX_PAIRS + 1] = {1}, f = 1, power = 1;
        int degree = 0;
        for (int u = 0; u < pairs; u++) {
            if (u == p) continue;
            const double square = points[u] * points[u];
            product[++degree] = 0;
            for (int j = degree; j > 0; j--) product[j] = product[j - 1] - square * product[j];
            product[0] *= -square;
            if (p < pairs) f *= points[p] * points[p] - square;
        }
        for (int j = 0; j <= degree; j++) *(p < pairs ? &c->q[p][j] : &c->z[j]) = (float)product[j];
        if (p == pairs) break;
        f *= 2 * points[p] * points[p];
        c->v[p] = (float)points[p];
        for (int k = 0; k < c->taps || k < OUT; k++, power *= points[p]) {
            if (k < c->taps) c->filter[p][k] = (float)(power / f);
            if (k < OUT) c->output[p][k] = (float)power;
        }
    }
}

/* V of LANES columns. x[i] of a column lies at x + i % OUT * x_stride + i / OUT * x_step. V of the points lie v_stride
 * apart, in the order 0, infinity, +v, -v, .. */
INLINE void winograd_input(const int pairs, const Winograd *c, const float *x, int64_t x_stride, int64_t x_step,
                           float *v, int64_t v_stride) {
    f32 in[MAX_POINTS];
    for (int i = 0; i < 2 * pairs + 2; i++) in[i] = load(x + i % OUT * x_stride + i / OUT * x_step);
    f32 zero = {0}, infinity = {0};
    for (int j = 0; j <= pairs; j++) {
        zero += c->z[j] * in[2 * j];
        infinity += c->z[j] * in[2 * j + 1];
    }
    store(v, zero);
    store(v + v_stride, infinity);
    for (int p = 0; p < pairs; p++) {
        f32 even = {0}, odd = {0};
        for (int j = 0; j < pairs; j++) {
            even += c->q[p][j] * in[2 * j + 2];
            odd += c->q[p][j] * in[2 * j + 1];
        }
        store(v + (2 + 2 * p) * v_stride, even + c->v[p] * odd);
        store(v + (3 + 2 * p) * v_stride, even - c->v[p] * odd);
    }
}

/* U of n filters, whose taps lie w_stride apart; taps from `given` on are zero. U of the points lie
 * u_stride apart. */
INLINE void winograd_filter(const int pairs, const Winograd *c, const int16_t *restrict w, int64_t w_stride,
                            int64_t given, float *restrict u, int64_t u_stride, int64_t n) {
    enum { PIECE = 64 };
    const int taps = 2 * pairs + 3 - OUT;
    const float first = 1.0f / c->z[0];
    for (int64_t start = 0; start < n; start += PIECE, w += PIECE, u += PIECE) {
        float f[MAX_FILTER][PIECE];
        const int64_t m = n - start < PIECE ? n - start : PIECE;
        for (int k = 0; k < taps; k++)
            for (int64_t i = 0; i < m; i++) f[k][i] = k < given ? w[k * w_stride + i] : 0;
        for (int64_t i = 0; i < m; i++) {
            u[i] = f[0][i] * first;
            u[u_stride + i] = f[taps - 1][i];
        }
        for (int p = 0; p < pairs; p++) {
            float *restrict plus = u + (2 + 2 * p) * u_stride, *restrict minus = plus + u_stride;
            for (int64_t i = 0; i < m; i++) {
                float even = 0, odd = 0;
                for (int k = 0; k < taps; k += 2) even += c->filter[p][k] * f[k][i];
                for (int k = 1; k < taps; k += 2) odd += c->filter[p][k] * f[k][i];
                plus[i] = even + odd;
                minus[i] = even - odd;
            }
        }
    }
}

/* OUT outputs y[i] + offset of LANES columns, scaled, y_stride apart, from the sums of the points, m_stride apart. */
INLINE void winograd_output(const int pairs, const Winograd *c, const float *m, int64_t m_stride, float scale,
                            float offset, float *y, int64_t y_stride) {
    f32 out[OUT] = {{0}};
    out[0] = load(m);
    out[OUT - 1] = load(m + m_stride);
    for (int p = 0; p < pairs; p++) {
        const f32 plus = load(m + (2 + 2 * p) * m_stride), minus = load(m + (3 + 2 * p) * m_stride);
        const f32 sides[2] = {plus + minus, plus - minus};
        for (int i = 0; i < OUT; i++) out[i] += c->output[p][i] * sides[i % 2];
    }
    for (int i = 0; i < OUT; i++) store(y + i * y_stride, out[i] * scale + offset);
}

/* Calls a macro with a number of pairs that the compiler knows. */
#define WINOGRAD_CASES(pairs, CALL)                        \
    switch (pairs) {                                       \
        case 2: CALL(2); break;                            \
        case 3: CALL(3); break;                            \
        case 4: CALL(4); break;                            \
        case 5: CALL(5); break;                            \
        case 6: CALL(6); break;                            \
        default: CALL(7); break;                           \
    }

#endif
