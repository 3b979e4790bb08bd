/* Attention over a cache as phases of other operators; see attention.c. */
#ifndef OMNI_EDGE_ATTENTION_H
#define OMNI_EDGE_ATTENTION_H

#include "operator.h"
#include "phases.h"

/* Heads of queries, of keys and values; the factor of scores. */
typedef struct Heads {
    int64_t queries, keys;
    float scale;
} Heads;

/* The inputs that are the cache, in order; the steps belong to one in int8. */
enum { PAST_KEY, PAST_VALUE, LAST_SLOT, TOTAL, COS, SIN, CACHE_INPUTS, KEY_STEP = CACHE_INPUTS, VALUE_STEP,
       CACHE_INPUTS_INT8 };

/* One use of the cache, shared by its threads. The first two fields are the caller's. */
typedef struct Attention {
    const float *qkv; /* [length, (heads + 2 kv_heads) * width] */
    float *attended;  /* [length, heads * width] */
    const float *cos, *sin, *key_step, *value_step; /* steps: of a cache in int8 */
    void *key, *value;
    int64_t length, heads, kv_heads, group, width, capacity, total;
    int64_t blocks, block, spans, span; /* of rows, of positions: how many and how large */
    float scale;
    float *partial; /* what the tasks have found where there are several spans: sums, maxima, totals of a block */
    int failed;
} Attention;

/* Reads num_heads, kv_num_heads and scale. */
Status *attention_heads(const Api *, const KernelInfo *, Heads *);

/* `length` new positions behind what the cache's inputs hold, of which two outputs from `present` on are the new ones. */
Status *attention_of(const Api *, Context *, const Heads *, const Tensor *cache, size_t inputs, int64_t length,
                     size_t present, Attention *);

/* How much memory it takes beside, and where that begins. */
size_t attention_bytes(const Attention *);
void attention_place(Attention *, void *memory);

/* Its ATTENTION_PHASES phases; those that there is nothing to do in have no tasks. */
enum { ATTENTION_PHASES = 3 };
void attention_phases(Attention *, Phase *);

/* Whether there is too little to do to wake other threads, and whether memory was missing. */
int attention_is_small(const Attention *);
Status *attention_status(const Api *, const Attention *);

#endif
