/* Attention over a cache as one operator of onnxruntime: GroupQueryAttention, causal, with rotary embedding.
 *
 * A bundle defines this operator as a function over onnxruntime's own, and runs everywhere as that. Where this library
 * is registered, the same node runs here, and reads the cache once for all query heads that share it.
 *
 *     CachedAttention (num_heads, kv_num_heads, scale)         a cache in float32
 *     CachedAttentionInt8 (num_heads, kv_num_heads, scale)     a cache in int8, a step for each channel
 *
 * Inputs: 0 qkv float32 [1, S, (heads + 2 kv_heads) * d]; 1 past key and 2 past value [1, kv_heads, capacity, d]; 3
 * last slot int32 [1]: total - 1; 4 total int32 [1]: positions after this call, the S new ones are the last of them; 5
 * cos and 6 sin float32 [capacity, d / 2]: a row per slot, for halves that rotate; of int8, 7 steps of keys and 8 of
 * values float32 [kv_heads * d].
 * Outputs: 0 attended float32 [1, S, heads * d]; 1 present key and 2 present value, like 1 and 2: appended to in place
 * where they are the same memory, otherwise copied first. Slots from `total` on are neither used nor written.
 *
 * A "row" is one query head of one new position: a key/value head has S * group of them, in order of position. A task
 * takes a block of rows through a span of the cache, tile by tile, with a running maximum and sum (flash attention):
 * scores, weights, weighted values. There are two regimes:
 *
 *   A long input has many blocks, each of which reads all of the cache, and is bound by arithmetic: a tile's keys are
 *   transposed, and both products are matrix products in tiles of registers.
 *   A single position has one block of `group` rows for each key/value head, and is bound by memory: the cache is
 *   divided into spans, for all threads to read it, and what they have found is merged. Keys are used as they lie,
 *   and while one tile is worked on, the next is fetched.
 *
 * Of a cache in int8, a tile's codes become floats before they are used; the steps of keys are factors of the queries,
 * those of values factors of the sums.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "operator.h"
#include "vectors.h"

/* Queries and keys of a tile of scores in registers, where there are few rows. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { DOT_ROWS = 4 };
#else
enum { DOT_ROWS = 2 };
#endif
enum { DOT_KEYS = 4 };

/* Positions at a time: their keys, transposed, stay in the first-level cache. */
enum { TILE = 64 };
/* Rows of a block: enough to make transposing cheap, few enough for the second-level cache. */
enum { BLOCK = 96 };
/* Up to so many rows are few: to transpose keys for them costs more than to add up the lanes of each score. */
enum { FEW = 16 };
/* For any number of threads there are about so many tasks, unless spans were of fewer positions than so many. */
enum { TASKS = 32, SPAN = 4 * TILE };
/* What is not worth a dispatch: to append so many positions, so many multiplications of queries and keys. */
enum { SMALL_APPEND = 16, SMALL = 1 << 16 };
enum { WIDTH_STEP = 16, MOST_WIDTH = 256 };
/* Bytes that the caches fetch at a time. */
enum { LINE = 64 };
enum { QKV, PAST_KEY, PAST_VALUE, LAST_SLOT, TOTAL, COS, SIN, INPUTS, KEY_STEP = INPUTS, VALUE_STEP, INPUTS_INT8 };
enum { ATTENDED, PRESENT_KEY, PRESENT_VALUE, OUTPUTS };

typedef struct Attention {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    int64_t heads, kv_heads;
    float scale;
} Attention;

/* One run of the operator, shared by its threads. */
typedef struct Run {
    const float *qkv, *cos, *sin, *key_step, *value_step; /* steps: of a cache in int8 */
    void *key, *value;
    float *attended;
    int64_t length, heads, kv_heads, group, width, capacity, total;
    int64_t blocks, block, spans, span; /* of rows, of positions: how many and how large */
    float scale;
    float *partial; /* what the tasks have found where there are several spans: sums, maxima, totals of a block */
    int failed;
} Run;

static void multiply_few(const Product *p, int64_t ahead) { multiply_shape(FEW_ROWS, FEW_COLUMNS, 1, p, ahead); }

INLINE void dot_tile(const int rows, const float *queries, const float *const *keys, int64_t width, int64_t ahead,
                     float *scores) {
    Vector sums[DOT_ROWS * DOT_KEYS] = {{0}};
    float found[DOT_ROWS * DOT_KEYS];
    for (int64_t k = 0; k < width; k += LANES) {
        Vector key[DOT_KEYS];
        for (int j = 0; j < DOT_KEYS; j++) {
            key[j] = load(keys[j] + k);
            FETCH(keys[j] + k + ahead);
        }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < DOT_KEYS; j++) sums[i * DOT_KEYS + j] += load(queries + i * width + k) * key[j];
    }
    /* LANES vectors become one of their lanes' sums: each step adds halves, and two vectors become one. */
    for (int first = 0; first < rows * DOT_KEYS; first += LANES) {
        Vector *some = sums + first;
        for (int n = LANES / 2; n; n /= 2)
            for (int i = 0; i < n; i++) some[i] = low(some[i], some[i + n]) + high(some[i], some[i + n]);
        store(found + first, some[0]);
    }
    for (int i = 0; i < rows; i++) memcpy(scores + i * TILE, found + i * DOT_KEYS, DOT_KEYS * sizeof(float));
}

/* scores[rows][TILE] = queries[rows][width] keys[n][width]^T, and anything beyond n. What lies `ahead` is fetched. */
static void dot(const float *queries, const float *keys, int64_t rows, int64_t n, int64_t width, int64_t ahead,
                float *scores) {
    for (int64_t j = 0; j < n; j += DOT_KEYS) {
        const float *some[DOT_KEYS];
        for (int i = 0; i < DOT_KEYS; i++) some[i] = keys + (j + i < n ? j + i : n - 1) * width;
        for (int64_t i = 0; i < rows; i += DOT_ROWS) {
            const float *query = queries + i * width;
            float *score = scores + i * TILE + j;
            switch (rows - i < DOT_ROWS ? rows - i : DOT_ROWS) {
                case 1: dot_tile(1, query, some, width, ahead, score); break;
                case 2: dot_tile(2, query, some, width, ahead, score); break;
#if !defined(__x86_64__) || defined(__AVX512F__)
                case 3: dot_tile(3, query, some, width, ahead, score); break;
                case 4: dot_tile(4, query, some, width, ahead, score); break;
#endif
            }
        }
    }
}

/* A row's scores become weights; it sees the first `seen` positions of the tile. Updates the row's maximum and its
 * sum of weights, each lane for itself. Returns the factor for what has been summed up with the old maximum. */
static float weigh(float *scores, int64_t seen, float *maximum, float *sum) {
    for (int64_t j = seen; j < TILE; j++) scores[j] = -INFINITY;
    Vector top = *maximum - (Vector){0};
    for (int j = 0; j < TILE; j += LANES) top = larger(top, load(scores + j));
    for (int stage = 1; stage < LANES; stage *= 2) top = larger(low(top, top), high(top, top));
    const Vector factor = power(*maximum - top);
    Vector total = factor * load(sum);
    for (int j = 0; j < TILE; j += LANES) {
        const Vector weight = power(load(scores + j) - top);
        store(scores + j, weight);
        total += weight;
    }
    store(sum, total);
    *maximum = top[0];
    return factor[0];
}

static void multiply_each(const float *factors, int64_t n, float *restrict x) {
    for (int64_t i = 0; i < n; i++) x[i] *= factors[i];
}

static void rotate(const float *x, const float *cos, const float *sin, int64_t half, float scale, float *restrict y) {
    for (int64_t i = 0; i < half; i++) {
        y[i] = scale * (x[i] * cos[i] - x[i + half] * sin[i]);
        y[i + half] = scale * (x[i + half] * cos[i] + x[i] * sin[i]);
    }
}

/* A head of a new position: those of queries come first, then those of keys and of values. */
static const float *head_of(const Run *run, int64_t position, int64_t head) {
    return run->qkv + (position * (run->heads + 2 * run->kv_heads) + head) * run->width;
}

static float *attended_of(const Run *run, int64_t kv_head, int64_t row) {
    return run->attended + (row / run->group * run->heads + kv_head * run->group + row % run->group) * run->width;
}

static int64_t rows_of(const Run *run, int64_t block) {
    const int64_t left = run->length * run->group - block * run->block;
    return left < run->block ? left : run->block;
}

/* Where a slot of a key/value head begins in keys or values, and how many bytes `count` of their elements take. */
static int64_t place_of(const Run *run, int64_t kv_head, int64_t slot) {
    return (kv_head * run->capacity + slot) * run->width;
}

static size_t size_of(const Run *run, int64_t count) {
    return (size_t)count * (run->key_step ? sizeof(int8_t) : sizeof(float));
}

static int64_t partial_size(const Run *run) { return run->block * (run->width + 2); }

/* A head's keys or values of a new position, into the cache. */
static void put(const Run *run, const float *x, const float *steps, int64_t kv_head, int64_t slot, void *cache) {
    const int64_t at = place_of(run, kv_head, slot);
    if (!steps) {
        memcpy((float *)cache + at, x, size_of(run, run->width));
        return;
    }
    int8_t *restrict codes = (int8_t *)cache + at;
    steps += kv_head * run->width;
    for (int64_t k = 0; k < run->width; k++) {
        const float code = rintf(x[k] * (1 / steps[k])); /* as GroupQueryAttention rounds */
        codes[k] = (int8_t)(code < INT8_MIN ? INT8_MIN : code > INT8_MAX ? INT8_MAX : code);
    }
}

static void append(void *argument, size_t position) {
    const Run *run = argument;
    const int64_t slot = run->total - run->length + (int64_t)position, half = run->width / 2;
    for (int64_t head = 0; head < run->kv_heads; head++) {
        float rotated[MOST_WIDTH];
        rotate(head_of(run, (int64_t)position, run->heads + head), run->cos + slot * half, run->sin + slot * half, half,
               1.0f, rotated);
        put(run, rotated, run->key_step, head, slot, run->key);
        put(run, head_of(run, (int64_t)position, run->heads + run->kv_heads + head), run->value_step, head, slot,
            run->value);
    }
}

/* Positions of keys or values as floats: as they lie, or in `room`, where codes become numbers of steps. */
static const float *floats_of(const Run *run, const void *cache, int64_t kv_head, int64_t slot, int64_t n,
                              int64_t next, float *restrict room) {
    const int64_t at = place_of(run, kv_head, slot), width = run->width;
    if (!run->key_step) return (const float *)cache + at;
    for (int64_t j = 0; j < n; j++) {
        const int8_t *codes = (const int8_t *)cache + at + j * width;
        for (int64_t k = 0; k < width; k += LINE) FETCH(codes + k + next);
        for (int64_t k = 0; k < width; k++) room[j * width + k] = codes[k];
    }
    return room;
}

/* Tasks: for each block and key/value head, its spans. The last blocks see most and come first. */
static void attend(void *argument, size_t task) {
    Run *run = argument;
    const int64_t width = run->width, half = width / 2, past = run->total - run->length;
    const int64_t begin = (int64_t)task % run->spans * run->span, part = (int64_t)task / run->spans;
    const int64_t kv_head = part % run->kv_heads, block = run->blocks - 1 - part / run->kv_heads;
    const int64_t rows = rows_of(run, block), first = block * run->block;
    float maxima[BLOCK], factors[BLOCK], totals[BLOCK * LANES];
    float *queries = malloc((size_t)(2 * rows * width + rows * TILE + 2 * width * TILE) * sizeof(float));
    if (!queries) {
        __atomic_store_n(&run->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *scores = queries + rows * width, *columns = scores + rows * TILE;
    float *room = columns + width * TILE, *sums = room + width * TILE;
    if (run->partial) sums = run->partial + (int64_t)task * partial_size(run);

    for (int64_t i = 0; i < rows; i++) {
        const int64_t position = (first + i) / run->group, slot = past + position;
        rotate(head_of(run, position, kv_head * run->group + (first + i) % run->group), run->cos + slot * half,
               run->sin + slot * half, half, run->scale, queries + i * width);
        if (run->key_step) multiply_each(run->key_step + kv_head * width, width, queries + i * width);
        maxima[i] = -1e30f; /* finite, so that a row that sees nothing of the span gets no NaN */
    }
    memset(sums, 0, (size_t)(rows * width) * sizeof(float));
    memset(totals, 0, (size_t)(rows * LANES) * sizeof(float));

    int64_t end = past + (first + rows - 1) / run->group + 1;
    if (end > begin + run->span) end = begin + run->span;
    for (int64_t start = begin; start < end; start += TILE) {
        const int64_t n = end - start < TILE ? end - start : TILE;
        /* The thread that works on this span is likely to go on with the next one. */
        const int64_t next = start + 2 * TILE <= run->total ? TILE * width : 0;
        const float *keys = floats_of(run, run->key, kv_head, start, n, next, room);
        const int64_t ahead = keys == room ? 0 : next; /* codes have been fetched */
        /* Rows of earlier positions see nothing of the tile. */
        const int64_t earlier = (start - past) * run->group - first, blind = earlier > 0 ? earlier : 0;
        const Product products = {.a = queries + blind * width, .a_stride = width, .b = columns, .b_stride = TILE,
                                  .c = scores + blind * TILE, .c_stride = TILE, .rows = rows - blind, .depth = width,
                                  .columns = TILE};
        if (rows <= FEW) {
            dot(queries, keys, rows, n, width, ahead, scores);
        } else {
            transpose(keys, width, n, width, ahead, columns, TILE);
            multiply(&products);
        }
        for (int64_t i = blind; i < rows; i++)
            factors[i] = weigh(scores + i * TILE, past + (first + i) / run->group + 1 - start, maxima + i,
                               totals + i * LANES);
        const Product weighted = {.a = scores + blind * TILE, .a_stride = TILE,
                                  .b = floats_of(run, run->value, kv_head, start, n, next, room), .b_stride = width,
                                  .c = sums + blind * width, .c_stride = width, .factors = factors + blind,
                                  .rows = rows - blind, .depth = n, .columns = width};
        if (rows <= FEW)
            multiply_few(&weighted, ahead);
        else
            multiply(&weighted);
    }

    for (int64_t i = 0; i < rows; i++) {
        const float all = total(load(totals + i * LANES));
        if (run->value_step) multiply_each(run->value_step + kv_head * width, width, sums + i * width);
        if (run->partial) {
            sums[run->block * width + i] = maxima[i];
            sums[run->block * (width + 1) + i] = all;
        } else {
            float *attended = attended_of(run, kv_head, first + i);
            for (int64_t k = 0; k < width; k++) attended[k] = sums[i * width + k] / all;
        }
    }
    free(queries);
}

/* Adds up what the tasks have found in a part's spans; a part is a block of a key/value head. */
static void merge(void *argument, size_t part) {
    const Run *run = argument;
    const int64_t width = run->width, size = partial_size(run);
    const int64_t kv_head = (int64_t)part % run->kv_heads, block = run->blocks - 1 - (int64_t)part / run->kv_heads;
    const float *partial = run->partial + (int64_t)part * run->spans * size;
    for (int64_t i = 0; i < rows_of(run, block); i++) {
        const float *maxima = partial + run->block * width + i, *totals = maxima + run->block;
        float *restrict attended = attended_of(run, kv_head, block * run->block + i);
        float top = -INFINITY, total = 0;
        for (int64_t s = 0; s < run->spans; s++) top = maxima[s * size] > top ? maxima[s * size] : top;
        for (int64_t s = 0; s < run->spans; s++) total += exp2f(maxima[s * size] - top) * totals[s * size];
        memset(attended, 0, (size_t)width * sizeof(float));
        for (int64_t s = 0; s < run->spans; s++) {
            const float *sums = partial + s * size + i * width, weight = exp2f(maxima[s * size] - top) / total;
            for (int64_t k = 0; k < width; k++) attended[k] += weight * sums[k];
        }
    }
}

/* Divides the work; returns the number of parts. */
static int64_t divide(Run *run) {
    const int64_t rows = run->length * run->group;
    run->blocks = (rows + BLOCK - 1) / BLOCK;
    run->block = (rows + run->blocks - 1) / run->blocks;
    const int64_t parts = run->blocks * run->kv_heads;
    int64_t spans = run->total / SPAN;
    if (spans > TASKS / parts) spans = TASKS / parts;
    if (spans < 1) spans = 1;
    run->span = ((run->total + spans - 1) / spans + TILE - 1) / TILE * TILE;
    run->spans = (run->total + run->span - 1) / run->span;
    return parts;
}

/* Calls with 0 .. count - 1, by all threads or by this one. */
static Status *each(const Api *api, const Context *context, void (*call)(void *, size_t), int64_t count, int alone,
                    Run *run) {
    if (!alone) return api_parallel_for(api)(context, call, (size_t)count, 0, run);
    for (int64_t i = 0; i < count; i++) call(run, (size_t)i);
    return NULL;
}

/* A cache that goes on in an output: where that is other memory, with what was there before. */
static Status *present(const Run *run, const Api *api, Context *context, size_t index, const void *past, void **data) {
    const int64_t shape[4] = {1, run->kv_heads, run->capacity, run->width};
    const size_t stride = size_of(run, run->capacity * run->width);
    const size_t before = size_of(run, (run->total - run->length) * run->width);
    TRY(output_data(api, context, index, shape, 4, data));
    for (size_t head = 0; *data != past && head < (size_t)run->kv_heads; head++)
        memcpy((char *)*data + head * stride, (const char *)past + head * stride, before);
    return NULL;
}

static Status *compute(void *opaque, Context *context) {
    const Attention *attention = opaque;
    const Api *api = attention->kernel.api;
    static const size_t ranks[INPUTS_INT8] = {3, 4, 4, 1, 1, 2, 2, 1, 1};
    const size_t inputs = attention->kernel.kind->inputs;
    Tensor in[INPUTS_INT8] = {{0}};
    TRY(input_tensors(&attention->kernel, context, in));
    int fits = 1;
    for (size_t i = 0; i < inputs; i++) fits = fits && in[i].rank == ranks[i];
    const int64_t *qkv = in[QKV].shape, *past = in[PAST_KEY].shape, length = qkv[1], width = past[3];
    fits = fits && in[LAST_SLOT].elements == 1 && in[TOTAL].elements == 1 && qkv[0] == 1 && length > 0 &&
           past[0] == 1 && past[1] == attention->kv_heads && width > 0 && width <= MOST_WIDTH &&
           width % WIDTH_STEP == 0 && qkv[2] == (attention->heads + 2 * attention->kv_heads) * width &&
           in[COS].shape[1] == width / 2 && in[SIN].shape[1] == width / 2 &&
           !memcmp(past, in[PAST_VALUE].shape, 4 * sizeof(*past));
    for (size_t i = INPUTS; i < inputs; i++) fits = fits && in[i].shape[0] == attention->kv_heads * width;
    const int64_t total = fits ? *(const int32_t *)in[TOTAL].data : 0;
    fits = fits && total >= length && total <= past[2] && total <= in[COS].shape[0] && total <= in[SIN].shape[0] &&
           *(const int32_t *)in[LAST_SLOT].data == total - 1;
    if (!fits) return refuse(api, "An attention's inputs do not fit together.");

    Run run = {
        .qkv = in[QKV].data,
        .cos = in[COS].data,
        .sin = in[SIN].data,
        .key_step = in[KEY_STEP].data,
        .value_step = in[VALUE_STEP].data,
        .length = length,
        .heads = attention->heads,
        .kv_heads = attention->kv_heads,
        .group = attention->heads / attention->kv_heads,
        .width = width,
        .capacity = past[2],
        .total = total,
        .scale = attention->scale * 1.44269504f, /* weights are powers of 2, not of e */
    };
    const int64_t shape[3] = {1, length, run.heads * width};
    TRY(output_data(api, context, ATTENDED, shape, 3, (void **)&run.attended));
    TRY(present(&run, api, context, PRESENT_KEY, in[PAST_KEY].data, &run.key));
    TRY(present(&run, api, context, PRESENT_VALUE, in[PAST_VALUE].data, &run.value));

    TRY(each(api, context, append, length, length <= SMALL_APPEND, &run));
    const int64_t parts = divide(&run);
    if (run.spans > 1) {
        run.partial = malloc((size_t)(parts * run.spans * partial_size(&run)) * sizeof(float));
        if (!run.partial) return out_of_memory(api);
    }
    const int small = length * run.heads * total * width <= SMALL;
    Status *status = each(api, context, attend, parts * run.spans, small, &run);
    if (!status && run.failed) status = out_of_memory(api);
    if (!status && run.partial) status = each(api, context, merge, parts, run.blocks == 1, &run);
    free(run.partial);
    return status;
}

static Status *create(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    Attention attention = {.kernel = {(const Kind *)operator, api}};
    TRY(api_attribute_int64(api)(info, "num_heads", &attention.heads));
    TRY(api_attribute_int64(api)(info, "kv_num_heads", &attention.kv_heads));
    TRY(api_attribute_float(api)(info, "scale", &attention.scale));
    if (attention.kv_heads < 1 || attention.heads < attention.kv_heads || attention.heads % attention.kv_heads)
        return refuse(api, "An attention's heads do not fit together.");
    return keep_kernel(api, &attention, sizeof(attention), kernel);
}

#define F ELEMENT_FLOAT
#define POSITIONS ELEMENT_INT32, ELEMENT_INT32, F, F

static const Kind KINDS[] = {
    KIND("CachedAttention", create, compute, INPUTS, OUTPUTS, F, F, F, POSITIONS, F, F, F),
    KIND("CachedAttentionInt8", create, compute, INPUTS_INT8, OUTPUTS, F, ELEMENT_INT8, ELEMENT_INT8, POSITIONS, F, F,
         F, ELEMENT_INT8, ELEMENT_INT8),
};

Status *add_attention(const Api *api, Domain *domain) {
    return add_kinds(api, domain, KINDS, sizeof(KINDS) / sizeof(KINDS[0]));
}
