/* The floor: one fused loop over the samples, in C, that computes the figures of a run.
 *
 * A lane of a vector is a batch and a row is a sample of each, so that the extremes of a batch need no reduction; the
 * hidden units are the inner loop, and nothing but x, y and the figures touches memory. a1's extremes are those of z1
 * through relu, which does not decrease. A sum that is not finite sends its batches to the slow, exact loop: counts
 * and extremes are over finite values, as in cubic.
 *
 *     cc -O3 -march=native -fopenmp -fno-trapping-math -fno-signed-zeros -shared -fPIC
 */
#include <math.h>
#include <stdint.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define ROWS 5
#define TENSORS 3

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

/* `a < b ? a : b` and its mirror: a NaN in `a` is skipped, where fminf would need more instructions. */
#if defined(__AVX512F__)
static inline V smaller(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
static inline V larger(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX__)
static inline V smaller(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
static inline V larger(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
#else
static inline V choose(I which, V a, V b) { return (V)((which & (I)a) | (~which & (I)b)); }
static inline V smaller(V a, V b) { return choose(a < b, a, b); }
static inline V larger(V a, V b) { return choose(a > b, a, b); }
#endif
static inline V relu(V z) { return larger((V){0}, z); } /* NaN stays NaN */

typedef struct { /* of a batch; the extremes in the order of the tensors z1, a1, z2 */
    float *loss, *low[TENSORS], *high[TENSORS];
} History;

typedef struct { /* of a tensor */
    double sum, squares;
    int64_t zeros, nonfinite;
} Moments;

typedef struct {
    const float *x, *y, *w1, *b1, *w2;
    float b2, about[TENSORS]; /* near the means: moments about zero cancel where the values lie far from it */
    int64_t hidden, batch;
} Problem;

static void see(float v, float about, float *low, float *high, Moments *m) {
    if (!isfinite(v)) {
        m->nonfinite++;
        return;
    }
    if (v < *low) *low = v;
    if (v > *high) *high = v;
    m->sum += (double)v - about;
    m->squares += ((double)v - about) * ((double)v - about);
    m->zeros += v == 0;
}

/* One batch, value by value. */
static void exact(const Problem *p, int64_t start, int64_t size, int64_t k, History *to, Moments *moments) {
    float low[TENSORS] = {INFINITY, INFINITY, INFINITY}, high[TENSORS] = {-INFINITY, -INFINITY, -INFINITY};
    double error = 0;
    for (int64_t i = start; i < start + size; i++) {
        float z2 = p->b2;
        for (int h = 0; h < p->hidden; h++) {
            float z1 = p->x[i] * p->w1[h] + p->b1[h], a1 = z1 <= 0 ? 0 : z1;
            z2 += a1 * p->w2[h];
            see(z1, p->about[0], &low[0], &high[0], &moments[0]);
            see(a1, p->about[1], &low[1], &high[1], &moments[1]);
        }
        see(z2, p->about[2], &low[2], &high[2], &moments[2]);
        error += (double)(z2 - p->y[i]) * (z2 - p->y[i]);
    }
    to->loss[k] = error / size;
    for (int t = 0; t < TENSORS; t++) to->low[t][k] = low[t], to->high[t][k] = high[t];
}

typedef struct { /* of LANES batches */
    V error, low[TENSORS], high[TENSORS], sum[TENSORS], squares[TENSORS];
    I zeros[TENSORS];
} Seen;

/* `rows` samples of each of LANES batches. `watch`: 0 the loss, 1 the history, 2 all; both known when compiled. */
static inline __attribute__((always_inline)) void tile(
    const Problem *p, const V *x, const V *y, int rows, int watch, Seen *s) {
    V z2[ROWS], low[2] = {s->low[0], s->low[0]}, high[2] = {s->high[0], s->high[0]};
    V sum = {0}, squares = {0}, asum = {0}, asquares = {0};
    I zeros = {0}, azeros = {0};
    for (int r = 0; r < rows; r++) z2[r] = (V){0} + p->b2;
    for (int h = 0; h < p->hidden; h++) {
        float w1 = p->w1[h], b1 = p->b1[h], w2 = p->w2[h];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            V z1 = x[r] * w1 + b1, a1 = relu(z1);
            z2[r] += a1 * w2;
            if (watch > 0) low[r % 2] = smaller(z1, low[r % 2]), high[r % 2] = larger(z1, high[r % 2]);
            if (watch > 1) {
                V d = z1 - p->about[0], ad = a1 - p->about[1];
                sum += d, squares += d * d, asum += ad, asquares += ad * ad;
                zeros -= z1 == 0, azeros -= a1 == 0;
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        V e = z2[r] - y[r];
        s->error += e * e;
        if (watch > 0) s->low[2] = smaller(z2[r], s->low[2]), s->high[2] = larger(z2[r], s->high[2]);
        V d = z2[r] - p->about[2];
        if (watch > 1) s->sum[2] += d, s->squares[2] += d * d, s->zeros[2] -= z2[r] == 0;
    }
    if (watch > 0) s->low[0] = smaller(low[0], low[1]), s->high[0] = larger(high[0], high[1]);
    if (watch > 1) {
        s->sum[0] += sum, s->squares[0] += squares, s->zeros[0] += zeros;
        s->sum[1] += asum, s->squares[1] += asquares, s->zeros[1] += azeros;
    }
}

typedef struct { /* of LANES batches */
    double error[LANES], sum[TENSORS][LANES], squares[TENSORS][LANES];
    int64_t zeros[TENSORS][LANES];
} Totals;

static void flush(Seen *s, Totals *to, int watch) {
    for (int l = 0; l < LANES; l++) to->error[l] += s->error[l];
    s->error = (V){0};
    if (watch < 2) return;
    for (int t = 0; t < TENSORS; t++) {
        for (int l = 0; l < LANES; l++) {
            to->sum[t][l] += s->sum[t][l], to->squares[t][l] += s->squares[t][l], to->zeros[t][l] += s->zeros[t][l];
        }
        s->sum[t] = s->squares[t] = (V){0}, s->zeros[t] = (I){0};
    }
}

/* The batches from `first` on, at most LANES, each of `size` samples. */
static inline __attribute__((always_inline)) void group(
    const Problem *p, int64_t first, int batches, int64_t size, int watch, History *to, Moments *moments) {
    const V none = {0}, infinite = none + INFINITY;
    Seen s = {.low = {infinite, infinite, infinite}, .high = {-infinite, -infinite, -infinite}};
    Totals totals = {0};
    int64_t at[LANES]; /* a lane too many repeats the last batch, and is left out at the end */
    for (int l = 0; l < LANES; l++) at[l] = (first + (l < batches ? l : batches - 1)) * p->batch;
    for (int64_t i = 0, rows; i < size; i += rows) {
        rows = i + ROWS <= size ? ROWS : 1;
        V x[ROWS], y[ROWS];
        for (int r = 0; r < rows; r++)
            for (int l = 0; l < LANES; l++) x[r][l] = p->x[at[l] + i + r], y[r][l] = p->y[at[l] + i + r];
        if (rows == ROWS) tile(p, x, y, ROWS, watch, &s);
        else tile(p, x, y, 1, watch, &s);
        if ((i + rows) % 50 == 0) flush(&s, &totals, watch); /* sums in float32 stay short */
    }
    flush(&s, &totals, watch);
    s.low[1] = relu(s.low[0]), s.high[1] = relu(s.high[0]);
    for (int l = 0; l < batches; l++) {
        int64_t k = first + l;
        to->loss[k] = totals.error[l] / size;
        if (watch == 0) continue;
        if (!isfinite(totals.error[l] + s.low[0][l] - s.high[0][l])) {
            exact(p, at[l], size, k, to, moments);
            continue;
        }
        for (int t = 0; t < TENSORS; t++) {
            to->low[t][k] = s.low[t][l], to->high[t][k] = s.high[t][l];
            if (watch < 2) continue;
            moments[t].sum += totals.sum[t][l], moments[t].squares += totals.squares[t][l];
            moments[t].zeros += totals.zeros[t][l];
        }
    }
}

static inline __attribute__((always_inline)) void all(
    const Problem *p, int64_t samples, int watch, History *to, Moments *moments) {
    int64_t whole = samples / p->batch;
    Moments total[TENSORS] = {0};
#pragma omp parallel
    {
        Moments mine[TENSORS] = {0};
#pragma omp for schedule(dynamic, 4)
        for (int64_t k = 0; k < whole; k += LANES)
            group(p, k, whole - k < LANES ? whole - k : LANES, p->batch, watch, to, mine);
#pragma omp single nowait
        if (samples % p->batch) group(p, whole, 1, samples % p->batch, watch, to, mine);
#pragma omp critical
        for (int t = 0; t < TENSORS; t++) {
            total[t].sum += mine[t].sum, total[t].squares += mine[t].squares;
            total[t].zeros += mine[t].zeros, total[t].nonfinite += mine[t].nonfinite;
        }
    }
    if (watch > 1)
        for (int t = 0; t < TENSORS; t++) moments[t] = total[t];
}

void observe(const Problem *p, int64_t samples, int watch, History *to, Moments *moments) {
    if (watch == 0) all(p, samples, 0, to, moments);
    else if (watch == 1) all(p, samples, 1, to, moments);
    else all(p, samples, 2, to, moments);
}
