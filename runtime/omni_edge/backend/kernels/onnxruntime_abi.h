/* The part of onnxruntime's C interface that a custom operator needs.
 *
 * onnxruntime's Python package comes without headers. Its interface is a table of functions that only grows at its end:
 * a function's place in the table identifies it. The places below hold from version 1.17 on.
 */
#ifndef OMNI_EDGE_ONNXRUNTIME_ABI_H
#define OMNI_EDGE_ONNXRUNTIME_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { ABI_VERSION = 17 };
enum { ELEMENT_FLOAT = 1, ELEMENT_UINT8 = 2, ELEMENT_INT8 = 3, ELEMENT_INT16 = 5, ELEMENT_INT32 = 6, ELEMENT_INT64 = 7,
       ELEMENT_BOOL = 9, ELEMENT_FLOAT16 = 10 };
enum { STATUS_FAIL = 1, STATUS_INVALID_ARGUMENT = 2 };
enum { REQUIRED = 0, OPTIONAL = 1, MEMORY_DEFAULT = 0 };

/* Opaque to operators; a null Status is success. */
typedef struct Status Status;
typedef struct Value Value;
typedef struct TensorInfo TensorInfo;
typedef struct Context Context;
typedef struct KernelInfo KernelInfo;
typedef struct SessionOptions SessionOptions;
typedef struct Domain Domain;
typedef struct ShapeContext ShapeContext;

typedef void (*Function)(void);
typedef struct Api {
    Function table[1]; /* its length depends on the version */
} Api;

typedef struct ApiBase {
    const Api *(*api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

/* Name, place, result and arguments of each function in use. */
#define API_FUNCTIONS(F)                                                                              \
    F(create_status, 0, Status *, (int code, const char *message))                                    \
    F(create_domain, 26, Status *, (const char *name, Domain **))                                     \
    F(add_operator, 27, Status *, (Domain *, const struct Operator *))                                \
    F(add_domain, 28, Status *, (SessionOptions *, Domain *))                                         \
    F(tensor_data, 51, Status *, (const Value *, void **))                                            \
    F(element_count, 64, Status *, (const TensorInfo *, size_t *))                                    \
    F(dimension_count, 61, Status *, (const TensorInfo *, size_t *))                                  \
    F(dimensions, 62, Status *, (const TensorInfo *, int64_t *, size_t))                              \
    F(tensor_info, 65, Status *, (const Value *, TensorInfo **))                                      \
    F(attribute_float, 85, Status *, (const KernelInfo *, const char *name, float *))                 \
    F(attribute_int64, 86, Status *, (const KernelInfo *, const char *name, int64_t *))               \
    F(input, 90, Status *, (const Context *, size_t, const Value **))                                 \
    F(output, 91, Status *, (Context *, size_t, const int64_t *dimensions, size_t count, Value **))   \
    F(release_tensor_info, 99, void, (TensorInfo *))                                                  \
    F(parallel_for, 274, Status *, (const Context *, void (*)(void *, size_t), size_t total, size_t batches, void *))

/* The description of an operator, as callbacks. onnxruntime does not call the null ones at this version. */
typedef struct Operator Operator;
struct Operator {
    uint32_t version;
    void *(*create_kernel_v1)(const Operator *, const Api *, const KernelInfo *);
    const char *(*name)(const Operator *);
    const char *(*provider)(const Operator *);
    int (*input_type)(const Operator *, size_t);
    size_t (*input_count)(const Operator *);
    int (*output_type)(const Operator *, size_t);
    size_t (*output_count)(const Operator *);
    void (*compute_v1)(void *kernel, Context *);
    void (*destroy_kernel)(void *kernel);
    int (*input_characteristic)(const Operator *, size_t);
    int (*output_characteristic)(const Operator *, size_t);
    int (*input_memory)(const Operator *, size_t);
    int (*variadic_input_minimum)(const Operator *);
    int (*variadic_input_homogeneous)(const Operator *);
    int (*variadic_output_minimum)(const Operator *);
    int (*variadic_output_homogeneous)(const Operator *);
    Status *(*create_kernel)(const Operator *, const Api *, const KernelInfo *, void **kernel);
    Status *(*compute)(void *kernel, Context *);
    Status *(*infer_shape)(const Operator *, ShapeContext *);
    int (*first_version)(const Operator *);
    int (*last_version)(const Operator *);
};

#define API_FUNCTION(name, place, result, arguments)                          \
    typedef result(*name##_function) arguments;                               \
    static inline name##_function api_##name(const Api *api) {                \
        return (name##_function)((const Function *)api)[place];               \
    }
API_FUNCTIONS(API_FUNCTION)
#undef API_FUNCTION

#endif
