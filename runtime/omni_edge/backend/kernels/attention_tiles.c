/* The tasks of attention over a cache: flash attention, tile by tile, with a running maximum and sum of each row.
 *
 *     load_queries: the block's rows, rotated and scaled      queries [rows, width]
 *     for each tile of TILE positions of the span             keys and values [TILE, width], in int8 made floats first
 *         score_tile: rows <= FEW: dot products with keys as they lie (bound by memory)    scores [rows, TILE]
 *                     more: transpose keys to columns [width, TILE], matrix product (bound by arithmetic)
 *         accumulate: scores -> weights; sums = factors * sums + weights * values          sums [rows, width]
 *     store_block: attended = sums / totals; with several spans, sums, maxima and totals go to `partial` for the merge
 *
 * With int8, the steps of keys are factors of the queries, and those of values factors of the sums.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "matmul.h"

/* Queries and keys whose dot products stay in registers, where rows are few. */
enum { DOT_ROWS = REGISTERS / 8, DOT_KEYS = 4 };
/* Rows up to which it costs more to transpose keys than to add up the lanes of each score. */
enum { FEW = 16 };
/* Bytes of a cache line. */
enum { LINE = 64 };

/* A block of rows of a key/value head, through a span of the cache. */
typedef struct Task {
    const Attention *run;
    int64_t kv_head, first, rows; /* rows [first, first + rows) of the head */
    int64_t begin, end;           /* positions */
    float *queries, *scores, *columns, *scratch, *sums;
    float maxima[BLOCK], factors[BLOCK], totals[BLOCK * LANES];
} Task;

/* Positions [start, start + n). */
typedef struct Tile {
    int64_t start, n;
    int64_t blind;      /* rows, the first ones, of positions before the tile: they see nothing of it */
    int64_t next_bytes; /* from this tile to the next one of keys or of values; 0 at the end */
} Tile;

static void multiply_each(const float *factors, int64_t n, float *restrict x) {
    for (int64_t i = 0; i < n; i++) x[i] *= factors[i];
}

static void rotate(const float *x, const float *cos, const float *sin, int64_t half, float scale, float *restrict y) {
    for (int64_t i = 0; i < half; i++) {
        y[i] = scale * (x[i] * cos[i] - x[i + half] * sin[i]);
        y[i + half] = scale * (x[i + half] * cos[i] + x[i] * sin[i]);
    }
}

/* A head of a new position; the heads of queries precede those of keys and those of values. */
static const float *head_at(const Attention *run, int64_t position, int64_t head) {
    return run->qkv + (position * (run->heads + 2 * run->kv_heads) + head) * run->width;
}

static float *attended_at(const Attention *run, int64_t kv_head, int64_t row) {
    return run->attended + (row / run->group * run->heads + kv_head * run->group + row % run->group) * run->width;
}

static int64_t rows_of_block(const Attention *run, int64_t block) {
    return min64(run->length * run->group - block * run->block, run->block);
}

/* The first element of a slot of a key/value head, in keys or values. */
static int64_t slot_at(const Attention *run, int64_t kv_head, int64_t slot) {
    return (kv_head * run->capacity + slot) * run->width;
}

/* -- append -- */

/* Writes a head's keys or values of a new position into the cache. */
static void write_slot(const Attention *run, const float *x, const float *steps, int64_t kv_head, int64_t slot,
                       void *cache) {
    const int64_t at = slot_at(run, kv_head, slot);
    if (!steps) {
        memcpy((float *)cache + at, x, attention_cache_bytes(run, run->width));
        return;
    }
    int8_t *restrict codes = (int8_t *)cache + at;
    steps += kv_head * run->width;
    for (int64_t k = 0; k < run->width; k++) {
        const float code = rintf(x[k] * (1 / steps[k])); /* rounds as GroupQueryAttention does */
        codes[k] = (int8_t)(code < INT8_MIN ? INT8_MIN : code > INT8_MAX ? INT8_MAX : code);
    }
}

void attention_append(void *attention, size_t position) {
    const Attention *run = attention;
    const int64_t slot = run->total - run->length + (int64_t)position, half = run->width / 2;
    for (int64_t head = 0; head < run->kv_heads; head++) {
        const float *key = head_at(run, (int64_t)position, run->heads + head);
        const float *value = key + run->kv_heads * run->width;
        float rotated[MAX_WIDTH];
        rotate(key, run->cos + slot * half, run->sin + slot * half, half, 1.0f, rotated);
        write_slot(run, rotated, run->key_step, head, slot, run->key);
        write_slot(run, value, run->value_step, head, slot, run->value);
    }
}

/* -- attend -- */

INLINE void dot_tile(const int rows, const float *queries, const float *const *keys4, int64_t width, int64_t ahead,
                     float *scores) {
    f32 sums[DOT_ROWS * DOT_KEYS] = {{0}};
    float found[DOT_ROWS * DOT_KEYS];
    for (int64_t k = 0; k < width; k += LANES) {
        f32 key[DOT_KEYS];
        for (int j = 0; j < DOT_KEYS; j++) {
            key[j] = load(keys4[j] + k);
            prefetch(keys4[j] + k, ahead);
        }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < DOT_KEYS; j++) sums[i * DOT_KEYS + j] += load(queries + i * width + k) * key[j];
    }
    /* LANES vectors become one of their lanes' sums: each step adds halves and makes one vector of two. */
    for (int first = 0; first < rows * DOT_KEYS; first += LANES) {
        f32 *v = sums + first;
        for (int n = LANES / 2; n; n /= 2)
            for (int i = 0; i < n; i++) v[i] = INTERLEAVE_LOW(v[i], v[i + n]) + INTERLEAVE_HIGH(v[i], v[i + n]);
        store(found + first, v[0]);
    }
    for (int i = 0; i < rows; i++) memcpy(scores + i * TILE, found + i * DOT_KEYS, DOT_KEYS * sizeof(float));
}

/* scores [rows, TILE] = queries [rows, width] keys [n, width]^T, with any values beyond n. Prefetches `ahead` bytes
 * after the keys. */
static void dot(const float *queries, const float *keys, int64_t rows, int64_t n, int64_t width, int64_t ahead,
                float *scores) {
    for (int64_t j = 0; j < n; j += DOT_KEYS) {
        const float *keys4[DOT_KEYS];
        for (int i = 0; i < DOT_KEYS; i++) keys4[i] = keys + min64(j + i, n - 1) * width;
        for (int64_t i = 0; i < rows; i += DOT_ROWS) {
            const float *query = queries + i * width;
            float *score = scores + i * TILE + j;
            switch (min64(rows - i, DOT_ROWS)) {
                case 1: dot_tile(1, query, keys4, width, ahead, score); break;
                case 2: dot_tile(2, query, keys4, width, ahead, score); break;
#if REGISTERS == 32
                case 3: dot_tile(3, query, keys4, width, ahead, score); break;
                case 4: dot_tile(4, query, keys4, width, ahead, score); break;
#endif
            }
        }
    }
}

static void multiply_few(const Product *p, int64_t ahead) { multiply_tiles(NARROW_ROWS, NARROW_VECTORS, 1, p, ahead); }

/* A row's scores become weights; the row sees the first `seen` positions of the tile. Updates the row's maximum and,
 * lane by lane, its sum of weights. Returns the factor of earlier sums, which refer to the earlier maximum. */
static float weigh(float *scores, int64_t seen, float *row_maximum, float *sum) {
    for (int64_t j = seen; j < TILE; j++) scores[j] = -INFINITY;
    f32 top = *row_maximum - (f32){0};
    for (int j = 0; j < TILE; j += LANES) top = maximum(top, load(scores + j));
    top = broadcast_maximum(top);
    const f32 factor = exp2_nonpositive(*row_maximum - top);
    f32 total = factor * load(sum);
    for (int j = 0; j < TILE; j += LANES) {
        const f32 weight = exp2_nonpositive(load(scores + j) - top);
        store(scores + j, weight);
        total += weight;
    }
    store(sum, total);
    *row_maximum = top[0];
    return factor[0];
}

static void convert(const int8_t *restrict codes, int64_t n, float *restrict x) {
    for (int64_t i = 0; i < n; i++) x[i] = codes[i];
}

/* Positions of keys or values as floats: as they lie in the cache, or codes converted into `scratch`. */
INLINE const float *floats_of(const Task *task, const void *cache, const Tile *tile) {
    const Attention *run = task->run;
    const int64_t at = slot_at(run, task->kv_head, tile->start), width = run->width;
    if (!run->key_step) return (const float *)cache + at;
    const int64_t n = tile->n, next = tile->next_bytes;
    for (int64_t j = 0; j < n; j++) {
        const int8_t *codes = (const int8_t *)cache + at + j * width;
        for (int64_t k = 0; k < width; k += LINE) prefetch(codes + k, next);
        convert(codes, width, task->scratch + j * width);
    }
    return task->scratch;
}

/* Bytes from floats_of's result to what is prefetched; codes have been prefetched already. */
static int64_t floats_ahead(const Task *task, const Tile *tile) { return task->run->key_step ? 0 : tile->next_bytes; }

/* Tasks: for each block and key/value head, its spans. The last blocks see most positions and come first.
 * Returns whether there was memory. */
static int begin_task(const Attention *run, int64_t number, Task *task) {
    const int64_t part = number / run->spans, block = run->blocks - 1 - part / run->kv_heads, width = run->width;
    task->run = run;
    task->kv_head = part % run->kv_heads;
    task->first = block * run->block;
    task->rows = rows_of_block(run, block);
    task->begin = number % run->spans * run->span;
    const int64_t last = run->total - run->length + (task->first + task->rows - 1) / run->group;
    task->end = min64(last + 1, task->begin + run->span);

    const int64_t rows = task->rows;
    task->queries = malloc((size_t)(2 * rows * width + rows * TILE + 2 * width * TILE) * sizeof(float));
    if (!task->queries) return 0;
    task->scores = task->queries + rows * width;
    task->columns = task->scores + rows * TILE;
    task->scratch = task->columns + width * TILE;
    task->sums = run->partial ? run->partial + number * attention_partial_size(run) : task->scratch + width * TILE;
    memset(task->sums, 0, (size_t)(rows * width) * sizeof(float));
    memset(task->totals, 0, (size_t)(rows * LANES) * sizeof(float));
    return 1;
}

static void load_queries(Task *task) {
    const Attention *run = task->run;
    const int64_t width = run->width, half = width / 2;
    for (int64_t i = 0; i < task->rows; i++) {
        const int64_t row = task->first + i, position = row / run->group, slot = run->total - run->length + position;
        float *query = task->queries + i * width;
        rotate(head_at(run, position, task->kv_head * run->group + row % run->group), run->cos + slot * half,
               run->sin + slot * half, half, run->scale, query);
        if (run->key_step) multiply_each(run->key_step + task->kv_head * width, width, query);
        task->maxima[i] = -1e30f; /* finite, so that a row that sees nothing of the span gets no NaN */
    }
}

static Tile tile_at(const Task *task, int64_t start) {
    const Attention *run = task->run;
    const int64_t past = run->total - run->length;
    /* The thread of this span is likely to take the next span, so the prefetching goes on into it. */
    const int more = start + 2 * TILE <= run->total;
    return (Tile){.start = start, .n = min64(task->end - start, TILE),
                  .blind = max64((start - past) * run->group - task->first, 0),
                  .next_bytes = more ? (int64_t)attention_cache_bytes(run, TILE * run->width) : 0};
}

static void score_tile(Task *task, const Tile *tile) {
    const int64_t width = task->run->width, ahead = floats_ahead(task, tile), blind = tile->blind;
    const float *keys = floats_of(task, task->run->key, tile);
    if (task->rows <= FEW) {
        dot(task->queries, keys, task->rows, tile->n, width, ahead, task->scores);
        return;
    }
    transpose(keys, width, tile->n, width, ahead, task->columns, TILE);
    const Product products = {.a = task->queries + blind * width, .a_stride = width, .b = task->columns,
                              .b_stride = TILE, .c = task->scores + blind * TILE, .c_stride = TILE,
                              .rows = task->rows - blind, .depth = width, .columns = TILE};
    multiply(&products);
}

static void accumulate(Task *task, const Tile *tile) {
    const Attention *run = task->run;
    const int64_t width = run->width, blind = tile->blind, before = run->total - run->length - tile->start;
    for (int64_t i = blind; i < task->rows; i++)
        task->factors[i] = weigh(task->scores + i * TILE, before + (task->first + i) / run->group + 1,
                                 task->maxima + i, task->totals + i * LANES);
    const float *values = floats_of(task, run->value, tile);
    const Product weighted = {.a = task->scores + blind * TILE, .a_stride = TILE, .b = values, .b_stride = width,
                              .c = task->sums + blind * width, .c_stride = width, .factors = task->factors + blind,
                              .rows = task->rows - blind, .depth = tile->n, .columns = width};
    if (task->rows <= FEW)
        multiply_few(&weighted, floats_ahead(task, tile));
    else
        multiply(&weighted);
}

static void store_block(Task *task) {
    const Attention *run = task->run;
    const int64_t width = run->width;
    float *maxima = task->sums + run->block * width, *totals = maxima + run->block; /* of a partial result */
    for (int64_t i = 0; i < task->rows; i++) {
        const float total = sum_lanes(load(task->totals + i * LANES));
        float *sums = task->sums + i * width;
        if (run->value_step) multiply_each(run->value_step + task->kv_head * width, width, sums);
        if (run->partial) {
            maxima[i] = task->maxima[i];
            totals[i] = total;
        } else {
            float *attended = attended_at(run, task->kv_head, task->first + i);
            for (int64_t k = 0; k < width; k++) attended[k] = sums[k] / total;
        }
    }
}

void attention_attend(void *attention, size_t number) {
    Attention *run = attention;
    Task task;
    if (!begin_task(run, (int64_t)number, &task)) {
        __atomic_store_n(&run->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    load_queries(&task);
    for (int64_t start = task.begin; start < task.end; start += TILE) {
        const Tile tile = tile_at(&task, start);
        score_tile(&task, &tile);
        accumulate(&task, &tile);
    }
    store_block(&task);
    free(task.queries);
}

/* -- merge -- */

/* Adds up what the tasks of a part's spans found. */
void attention_merge(void *attention, size_t part) {
    const Attention *run = attention;
    const int64_t width = run->width, size = attention_partial_size(run);
    const int64_t kv_head = (int64_t)part % run->kv_heads, block = run->blocks - 1 - (int64_t)part / run->kv_heads;
    const float *partial = run->partial + (int64_t)part * run->spans * size;
    for (int64_t i = 0; i < rows_of_block(run, block); i++) {
        const float *maxima = partial + run->block * width + i, *totals = maxima + run->block;
        float *restrict attended = attended_at(run, kv_head, block * run->block + i);
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
