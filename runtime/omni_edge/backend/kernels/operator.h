/* What each operator needs: its description for onnxruntime, and its tensors as plain arrays. */
#ifndef OMNI_EDGE_OPERATOR_H
#define OMNI_EDGE_OPERATOR_H

#include "onnxruntime_abi.h"

enum { MAX_TENSORS = 32, MAX_DIMENSIONS = 8 };

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Marks what the library exports: the flags hide everything else. */
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define TRY(call)                    \
    do {                             \
        Status *status_ = (call);    \
        if (status_) return status_; \
    } while (0)

/* A kind of operator: its name, its counts of inputs and outputs, and the element types of both in order. */
typedef struct Kind {
    Operator operator; /* first, so that a pointer to one is a pointer to the other */
    const char *name;
    size_t inputs, outputs;
    uint32_t optional; /* a bit for each input that a node may leave out */
    int types[MAX_TENSORS];
} Kind;

/* A node of a graph. The structure of an operator with attributes begins with this one. */
typedef struct Kernel {
    const Kind *kind;
    const Api *api;
} Kernel;

typedef struct Tensor {
    void *data;
    size_t elements, rank;
    int64_t shape[MAX_DIMENSIONS];
} Tensor;

/* The description of an operator: `create_` makes a kernel (`create_plain` without attributes), `compute_` runs it. */
#define KIND(name_, create_, compute_, inputs_, outputs_, ...) \
    KIND_OPTIONAL(name_, create_, compute_, inputs_, outputs_, 0, __VA_ARGS__)
/* The same, with a bit for each input that a node may leave out. */
#define KIND_OPTIONAL(name_, create_, compute_, inputs_, outputs_, optional_, ...)                              \
    {                                                                                                           \
        .operator = {.version = ABI_VERSION,                                                                    \
                     .name = kind_name,                                                                         \
                     .provider = kind_provider,                                                                 \
                     .input_type = kind_input_type,                                                             \
                     .input_count = kind_input_count,                                                           \
                     .output_type = kind_output_type,                                                           \
                     .output_count = kind_output_count,                                                         \
                     .destroy_kernel = free,                                                                    \
                     .input_characteristic = kind_input_characteristic,                                         \
                     .output_characteristic = kind_required,                                                    \
                     .input_memory = kind_memory,                                                               \
                     .variadic_input_minimum = kind_one,                                                        \
                     .variadic_input_homogeneous = kind_one,                                                    \
                     .variadic_output_minimum = kind_one,                                                       \
                     .variadic_output_homogeneous = kind_one,                                                   \
                     .create_kernel = create_,                                                                  \
                     .compute = compute_,                                                                       \
                     .first_version = kind_one,                                                                 \
                     .last_version = kind_one},                                                                 \
        .name = name_, .inputs = inputs_, .outputs = outputs_, .optional = optional_, .types = {__VA_ARGS__}    \
    }

const char *kind_name(const Operator *);
const char *kind_provider(const Operator *);
int kind_input_type(const Operator *, size_t);
size_t kind_input_count(const Operator *);
int kind_output_type(const Operator *, size_t);
size_t kind_output_count(const Operator *);
int kind_input_characteristic(const Operator *, size_t);
int kind_required(const Operator *, size_t);
int kind_memory(const Operator *, size_t);
int kind_one(const Operator *);
Status *create_plain(const Operator *, const Api *, const KernelInfo *, void **kernel);

/* A status that says why an operator cannot run. */
Status *refuse(const Api *, const char *reason);
Status *out_of_memory(const Api *);

/* Copies a node's structure to memory that the session frees. */
Status *keep_kernel(const Api *, const void *made, size_t size, void **kernel);

/* An input; the tensor of one that is left out stays as it is. */
Status *input_tensor(const Api *, const Context *, size_t index, Tensor *);
/* All inputs of a kind. */
Status *input_tensors(const Kernel *, const Context *, Tensor *);
Status *output_data(const Api *, Context *, size_t index, const int64_t *shape, size_t rank, void **data);

/* Registers kinds, which must outlive the domain. */
Status *add_kinds(const Api *, Domain *, const Kind *, size_t count);

/* Each file's operators. */
Status *add_attention(const Api *, Domain *);
Status *add_block_attention(const Api *, Domain *);
Status *add_dilated_conv(const Api *, Domain *);
Status *add_dit(const Api *, Domain *);
Status *add_snake(const Api *, Domain *);
/* Those that exist only where the processor has products of bytes (DOT4 in simd.h). */
Status *add_decoder_layer(const Api *, Domain *);
Status *add_linear(const Api *, Domain *);

#endif
