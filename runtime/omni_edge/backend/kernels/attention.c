/* CachedAttention: causal attention over a cache, with rotary embedding (GroupQueryAttention), in three phases.
 *
 *     phase 1, a task for each new position: rotate its keys and append keys and values to the cache
 *     phase 2, a task for each block of rows, key/value head and span of positions: flash attention (attention_tiles.c)
 *     phase 3, a task for each block and key/value head, with several spans: merge what the spans found
 *
 * A row is one query head of one new position: a key/value head has length * group of them, ordered by position. A long
 * input has many blocks of rows, each of which reads all of the cache. A single position has one block for each
 * key/value head, so its cache is divided into spans, for all threads to read it.
 */
#include "attention.h"

#include <stdlib.h>
#include <string.h>

/*
 *     CachedAttention      (num_heads, kv_num_heads, scale)  a cache in float32
 *     CachedAttentionInt8  (num_heads, kv_num_heads, scale)  a cache in int8, a step for each channel
 *
 * Inputs: 0 qkv float32 [1, S, (heads + 2 kv_heads) * d]; 1 past key, 2 past value [1, kv_heads, capacity, d];
 * 3 last slot int32 [1]: total - 1; 4 total int32 [1]: positions after this call, the S new ones being the last;
 * 5 cos, 6 sin float32 [capacity, d / 2]: a row for each slot, for halves that rotate;
 * for int8: 7 steps of keys, 8 steps of values float32 [kv_heads * d].
 * Outputs: 0 attended float32 [1, S, heads * d]; 1 present key, 2 present value, shaped as 1 and 2: appended to in
 * place where they are the same memory, otherwise copied first. Slots from `total` on are neither read nor written.
 */
enum { QKV, CACHE, INPUTS = CACHE + CACHE_INPUTS, INPUTS_INT8 = CACHE + CACHE_INPUTS_INT8 };
enum { ATTENDED, PRESENT, OUTPUTS = PRESENT + 2 };

/* Tasks for any number of threads, unless spans would have fewer positions than SPAN. */
enum { TASKS = 32, SPAN = 4 * TILE };
/* Products of queries and keys that are not worth a dispatch. */
enum { SMALL = 1 << 16 };
enum { WIDTH_STEP = 16 };

/* A node of a graph. */
typedef struct AttentionNode {
    Kernel kernel; /* first, so that a pointer to one is a pointer to the other */
    Heads heads;
} AttentionNode;

/* -- the plan -- */

static void divide(Attention *run) {
    const int64_t rows = run->length * run->group;
    run->blocks = quotient_up(rows, BLOCK);
    run->block = quotient_up(rows, run->blocks);
    const int64_t spans = max64(min64(run->total / SPAN, TASKS / attention_parts(run)), 1);
    run->span = quotient_up(quotient_up(run->total, spans), TILE) * TILE;
    run->spans = quotient_up(run->total, run->span);
}

/* The output that continues a cache: if it is other memory, the earlier positions are copied into it. */
static Status *present(const Attention *run, const Api *api, Context *context, size_t index, const void *past,
                       void **data) {
    const int64_t shape[4] = {1, run->kv_heads, run->capacity, run->width};
    const size_t stride = attention_cache_bytes(run, run->capacity * run->width);
    const size_t before = attention_cache_bytes(run, (run->total - run->length) * run->width);
    TRY(output_data(api, context, index, shape, 4, data));
    for (size_t head = 0; *data != past && head < (size_t)run->kv_heads; head++)
        memcpy((char *)*data + head * stride, (const char *)past + head * stride, before);
    return NULL;
}

/* Whether the cache's inputs fit together. */
static int fits(const Heads *heads, const Tensor *cache, size_t inputs, int64_t length) {
    static const size_t ranks[CACHE_INPUTS_INT8] = {4, 4, 1, 1, 2, 2, 1, 1};
    for (size_t i = 0; i < inputs; i++)
        if (cache[i].rank != ranks[i]) return 0;
    const int64_t *past = cache[PAST_KEY].shape, width = past[3];
    if (length <= 0 || cache[LAST_SLOT].elements != 1 || cache[TOTAL].elements != 1 || past[0] != 1 ||
        past[1] != heads->keys || width <= 0 || width > MAX_WIDTH || width % WIDTH_STEP ||
        cache[COS].shape[1] != width / 2 || cache[SIN].shape[1] != width / 2 ||
        memcmp(past, cache[PAST_VALUE].shape, 4 * sizeof(*past)))
        return 0;
    for (size_t i = CACHE_INPUTS; i < inputs; i++)
        if (cache[i].shape[0] != heads->keys * width) return 0;
    const int64_t total = *(const int32_t *)cache[TOTAL].data;
    return total >= length && total <= past[2] && total <= cache[COS].shape[0] && total <= cache[SIN].shape[0] &&
           *(const int32_t *)cache[LAST_SLOT].data == total - 1;
}

Status *attention_plan(const Api *api, Context *context, const Heads *heads, const Tensor *cache, size_t inputs,
                       int64_t length, size_t first, Attention *run) {
    if (!fits(heads, cache, inputs, length)) return refuse(api, "An attention's inputs do not fit together.");
    *run = (Attention){
        .cos = cache[COS].data,
        .sin = cache[SIN].data,
        .key_step = inputs > KEY_STEP ? cache[KEY_STEP].data : NULL,
        .value_step = inputs > VALUE_STEP ? cache[VALUE_STEP].data : NULL,
        .length = length,
        .total = *(const int32_t *)cache[TOTAL].data,
        .capacity = cache[PAST_KEY].shape[2],
        .heads = heads->queries,
        .kv_heads = heads->keys,
        .group = heads->queries / heads->keys,
        .width = cache[PAST_KEY].shape[3],
        .scale = heads->scale * 1.44269504f, /* weights are powers of 2, not of e */
    };
    divide(run);
    TRY(present(run, api, context, first, cache[PAST_KEY].data, &run->key));
    return present(run, api, context, first + 1, cache[PAST_VALUE].data, &run->value);
}

size_t attention_scratch_bytes(const Attention *run) {
    if (run->spans == 1) return 0;
    return (size_t)(attention_parts(run) * run->spans * attention_partial_size(run)) * sizeof(float);
}

void attention_set_scratch(Attention *run, void *memory) { run->partial = run->spans > 1 ? memory : NULL; }

void attention_phases(Attention *run, Phase *phases) {
    const int64_t parts = attention_parts(run);
    const Phase all[ATTENTION_PHASES] = {{attention_append, run, run->length},
                                         {attention_attend, run, parts * run->spans},
                                         {attention_merge, run, run->partial ? parts : 0}};
    memcpy(phases, all, sizeof(all));
}

int attention_is_small(const Attention *run) { return run->length * run->heads * run->total * run->width <= SMALL; }

Status *attention_status(const Api *api, const Attention *run) { return run->failed ? out_of_memory(api) : NULL; }

/* -- the operator -- */

static Status *compute(void *opaque, Context *context) {
    const AttentionNode *node = opaque;
    const Api *api = node->kernel.api;
    Tensor in[INPUTS_INT8] = {{0}};
    TRY(input_tensors(&node->kernel, context, in));
    const int64_t *qkv = in[QKV].shape;
    if (in[QKV].rank != 3 || qkv[0] != 1) return refuse(api, "An attention takes one sequence.");
    Attention run;
    TRY(attention_plan(api, context, &node->heads, in + CACHE, node->kernel.kind->inputs - CACHE, qkv[1], PRESENT,
                       &run));
    if (qkv[2] != (run.heads + 2 * run.kv_heads) * run.width)
        return refuse(api, "An attention's inputs do not fit together.");
    run.qkv = in[QKV].data;
    const int64_t shape[3] = {1, run.length, run.heads * run.width};
    TRY(output_data(api, context, ATTENDED, shape, 3, (void **)&run.attended));
    void *memory = NULL;
    if (run.spans > 1 && !(memory = malloc(attention_scratch_bytes(&run)))) return out_of_memory(api);
    attention_set_scratch(&run, memory);
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
