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
#include "attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
/* Multiplications of queries and keys that are not worth a dispatch. */
enum { SMALL = 1 << 16 };
enum { WIDTH_STEP = 16, MOST_WIDTH = 256 };
/* Bytes that the caches fetch at a time. */
enum { LINE = 64 };
enum { QKV, CACHE, INPUTS = CACHE + CACHE_INPUTS, INPUTS_INT8 = CACHE + CACHE_INPUTS_INT8 };
enum { ATTENDED, PRESENT, OUTPUTS = PRESENT + 2 };

/* A node of a graph. */
typedef struct AttentionNode {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    Heads heads;
} AttentionNode;

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
static const float *head_of(const Attention *run, int64_t position, int64_t head) {
    return run->qkv + (position * (run->heads + 2 * run->kv_heads) + head) * run->width;
}

static float *attended_of(const Attention *run, int64_t kv_head, int64_t row) {
    return run->attended + (row / run->group * run->heads + kv_head * run->group + row % run->group) * run->width;
}

static int64_t rows_of(const Attention *run, int64_t block) {
    const int64_t left = run->length * run->group - block * run->block;
    return left < run->block ? left : run->block;
}

/* Where a slot of a key/value head begins in keys or values, and how many bytes `count` of their elements take. */
static int64_t place_of(const Attention *run, int64_t kv_head, int64_t slot) {
    return (kv_head * run->capacity + slot) * run->width;
}

static size_t size_of(const Attention *run, int64_t count) {
    return (size_t)count * (run->key_step ? sizeof(int8_t) : sizeof(float));
}

/* Blocks of each key/value head. */
static int64_t parts_of(const Attention *run) { return run->blocks * run->kv_heads; }

static int64_t partial_size(const Attention *run) { return run->block * (run->width + 2); }

/* A head's keys or values of a new position, into the cache. */
static void put(const Attention *run, const float *x, const float *steps, int64_t kv_head, int64_t slot, void *cache) {
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
    const Attention *run = argument;
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
static const float *floats_of(const Attention *run, const void *cache, int64_t kv_head, int64_t slot, int64_t n,
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
    Attention *run = argument;
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
    const Attention *run = argument;
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

/* Divides the work. */
static void divide(Attention *run) {
    const int64_t rows = run->length * run->group;
    run->blocks = quotient_up(rows, BLOCK);
    run->block = quotient_up(rows, run->blocks);
    const int64_t spans = most(least(run->total / SPAN, TASKS / parts_of(run)), 1);
    run->span = quotient_up(quotient_up(run->total, spans), TILE) * TILE;
    run->spans = quotient_up(run->total, run->span);
}

/* A cache that goes on in an output: where that is other memory, with what was there before. */
static Status *present(const Attention *run, const Api *api, Context *context, size_t index, const void *past,
                       void **data) {
    const int64_t shape[4] = {1, run->kv_heads, run->capacity, run->width};
    const size_t stride = size_of(run, run->capacity * run->width);
    const size_t before = size_of(run, (run->total - run->length) * run->width);
    TRY(output_data(api, context, index, shape, 4, data));
    for (size_t head = 0; *data != past && head < (size_t)run->kv_heads; head++)
        memcpy((char *)*data + head * stride, (const char *)past + head * stride, before);
    return NULL;
}

Status *attention_of(const Api *api, Context *context, const Heads *heads, const Tensor *cache, size_t inputs,
                     int64_t length, size_t first, Attention *run) {
    static const size_t ranks[CACHE_INPUTS_INT8] = {4, 4, 1, 1, 2, 2, 1, 1};
    int fits = length > 0;
    for (size_t i = 0; i < inputs; i++) fits = fits && cache[i].rank == ranks[i];
    const int64_t *past = cache[PAST_KEY].shape, width = past[3];
    fits = fits && cache[LAST_SLOT].elements == 1 && cache[TOTAL].elements == 1 && past[0] == 1 &&
           past[1] == heads->keys && width > 0 && width <= MOST_WIDTH && width % WIDTH_STEP == 0 &&
           cache[COS].shape[1] == width / 2 && cache[SIN].shape[1] == width / 2 &&
           !memcmp(past, cache[PAST_VALUE].shape, 4 * sizeof(*past));
    for (size_t i = CACHE_INPUTS; i < inputs; i++) fits = fits && cache[i].shape[0] == heads->keys * width;
    const int64_t total = fits ? *(const int32_t *)cache[TOTAL].data : 0;
    fits = fits && total >= length && total <= past[2] && total <= cache[COS].shape[0] &&
           total <= cache[SIN].shape[0] && *(const int32_t *)cache[LAST_SLOT].data == total - 1;
    if (!fits) return refuse(api, "An attention's inputs do not fit together.");

    *run = (Attention){
        .cos = cache[COS].data,
        .sin = cache[SIN].data,
        .key_step = cache[KEY_STEP].data,
        .value_step = cache[VALUE_STEP].data,
        .length = length,
        .heads = heads->queries,
        .kv_heads = heads->keys,
        .group = heads->queries / heads->keys,
        .width = width,
        .capacity = past[2],
        .total = total,
        .scale = heads->scale * 1.44269504f, /* weights are powers of 2, not of e */
    };
    divide(run);
    TRY(present(run, api, context, first, cache[PAST_KEY].data, &run->key));
    return present(run, api, context, first + 1, cache[PAST_VALUE].data, &run->value);
}

size_t attention_bytes(const Attention *run) {
    return run->spans > 1 ? (size_t)(parts_of(run) * run->spans * partial_size(run)) * sizeof(float) : 0;
}

void attention_place(Attention *run, void *memory) { run->partial = run->spans > 1 ? memory : NULL; }

void attention_phases(Attention *run, Phase *phases) {
    const int64_t parts = parts_of(run);
    const Phase all[ATTENTION_PHASES] = {{append, run, run->length},
                                         {attend, run, parts * run->spans},
                                         {merge, run, run->partial ? parts : 0}};
    memcpy(phases, all, sizeof(all));
}

int attention_is_small(const Attention *run) { return run->length * run->heads * run->total * run->width <= SMALL; }

Status *attention_status(const Api *api, const Attention *run) { return run->failed ? out_of_memory(api) : NULL; }

static Status *compute(void *opaque, Context *context) {
    const AttentionNode *node = opaque;
    const Api *api = node->kernel.api;
    Tensor in[INPUTS_INT8] = {{0}};
    TRY(input_tensors(&node->kernel, context, in));
    const int64_t *qkv = in[QKV].shape;
    if (in[QKV].rank != 3 || qkv[0] != 1) return refuse(api, "An attention takes one sequence.");
    Attention run;
    TRY(attention_of(api, context, &node->heads, in + CACHE, node->kernel.kind->inputs - CACHE, qkv[1], PRESENT, &run));
    if (qkv[2] != (run.heads + 2 * run.kv_heads) * run.width)
        return refuse(api, "An attention's inputs do not fit together.");
    run.qkv = in[QKV].data;
    const int64_t shape[3] = {1, run.length, run.heads * run.width};
    TRY(output_data(api, context, ATTENDED, shape, 3, (void **)&run.attended));
    void *memory = NULL;
    if (run.spans > 1 && !(memory = malloc(attention_bytes(&run)))) return out_of_memory(api);
    attention_place(&run, memory);
    Phase phases[ATTENTION_PHASES];
    attention_phases(&run, phases);
    Status *status = run_phases(api, context, phases, ATTENTION_PHASES, attention_is_small(&run));
    free(memory);
    return status ? status : attention_status(api, &run);
}

Status *attention_heads(const Api *api, const KernelInfo *info, Heads *heads) {
    TRY(api_attribute_int64(api)(info, "num_heads", &heads->queries));
    TRY(api_attribute_int64(api)(info, "kv_num_heads", &heads->keys));
    TRY(api_attribute_float(api)(info, "scale", &heads->scale));
    if (heads->keys < 1 || heads->queries < heads->keys || heads->queries % heads->keys)
        return refuse(api, "An attention's heads do not fit together.");
    return NULL;
}

static Status *create(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    AttentionNode node = {.kernel = {(const Kind *)operator, api}};
    TRY(attention_heads(api, info, &node.heads));
    return keep_kernel(api, &node, sizeof(node), kernel);
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
