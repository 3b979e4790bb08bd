/* Attention over a cache as phases of other operators; see attention.c. */
#ifndef OMNI_EDGE_ATTENTION_H
#define OMNI_EDGE_ATTENTION_H

#include "operator.h"
#include "phases.h"

/* Heads of queries, heads of keys and values, and the factor of scores. */
typedef struct Heads {
    int64_t queries, keys;
    float scale;
} Heads;

/* The inputs that describe the cache, in order; the steps belong to a cache in int8. */
enum { PAST_KEY, PAST_VALUE, LAST_SLOT, TOTAL, COS, SIN, CACHE_INPUTS, KEY_STEP = CACHE_INPUTS, VALUE_STEP,
       CACHE_INPUTS_INT8 };

/* One use of the cache, shared by its threads. The caller sets the first two fields. */
typedef struct Attention {
    const float *qkv;                        /* [length, heads + 2 kv_heads, width] */
    float *attended;                         /* [length, heads, width] */
    const float *cos, *sin;                  /* [capacity, width / 2] */
    const float *key_step, *value_step;      /* [kv_heads, width] for a cache in int8, or null */
    void *key, *value;                       /* [kv_heads, capacity, width], float or int8 */
    int64_t length, total, capacity;         /* new positions, positions with them, slots */
    int64_t heads, kv_heads, group, width;   /* group: query heads of a key/value head; width: of a head */
    int64_t blocks, block;                   /* of a key/value head's length * group rows: count, rows of each */
    int64_t spans, span;                     /* of the cache's positions: count, positions of each */
    float scale;
    float *partial;                          /* with several spans: each task's sums, maxima and totals of a block */
    int failed;                              /* memory was missing */
} Attention;

/* Parts of the work: blocks of each key/value head. */
static inline int64_t attention_parts(const Attention *run) { return run->blocks * run->kv_heads; }
/* Floats of what a task leaves in `partial`: sums [block, width], maxima [block], totals [block]. */
static inline int64_t attention_partial_size(const Attention *run) { return run->block * (run->width + 2); }
/* Bytes of `count` elements of the cache. */
static inline size_t attention_cache_bytes(const Attention *run, int64_t count) {
    return (size_t)count * (run->key_step ? sizeof(int8_t) : sizeof(float));
}

/* Rows of a block at most: enough to make transposing cheap, few enough for the second-level cache. */
enum { BLOCK = 96 };
/* Positions at a time: their keys, transposed, stay in the first-level cache. */
enum { TILE = 64 };
enum { MAX_WIDTH = 256 };

/* Reads num_heads, kv_num_heads and scale. */
Status *attention_heads(const Api *, const KernelInfo *, Heads *);

/* Plans `length` new positions behind those in the cache's inputs. Two outputs from `present` on are the new cache. */
Status *attention_plan(const Api *, Context *, const Heads *, const Tensor *cache, size_t inputs, int64_t length,
                       size_t present, Attention *);

/* Bytes of scratch memory, and its assignment. */
size_t attention_scratch_bytes(const Attention *);
void attention_set_scratch(Attention *, void *memory);

/* The ATTENTION_PHASES phases; a phase without work has no tasks. */
enum { ATTENTION_PHASES = 3 };
void attention_phases(Attention *, Phase *);

/* Their tasks: a new position; a span of a part; a part. */
void attention_append(void *attention, size_t position);
void attention_attend(void *attention, size_t task);
void attention_merge(void *attention, size_t part);

/* Whether the work is too short to wake other threads, and whether memory was missing. */
int attention_is_small(const Attention *);
Status *attention_status(const Api *, const Attention *);

#endif
