/* The callbacks by which onnxruntime reads a Kind, and the ways to its tensors. */
#include "operator.h"

#include <stdlib.h>
#include <string.h>

static const Kind *kind_of(const Operator *operator) { return (const Kind *)operator; }

const char *kind_name(const Operator *operator) { return kind_of(operator)->name; }

const char *kind_provider(const Operator *operator) {
    (void)operator;
    return NULL; /* the CPU */
}

int kind_input_type(const Operator *operator, size_t index) { return kind_of(operator)->types[index]; }

size_t kind_input_count(const Operator *operator) { return kind_of(operator)->inputs; }

int kind_output_type(const Operator *operator, size_t index) {
    return kind_of(operator)->types[kind_of(operator)->inputs + index];
}

size_t kind_output_count(const Operator *operator) { return kind_of(operator)->outputs; }

int kind_input_characteristic(const Operator *operator, size_t index) {
    return kind_of(operator)->optional >> index & 1 ? OPTIONAL : REQUIRED;
}

int kind_required(const Operator *operator, size_t index) {
    (void)operator, (void)index;
    return REQUIRED;
}

int kind_memory(const Operator *operator, size_t index) {
    (void)operator, (void)index;
    return MEMORY_DEFAULT;
}

int kind_one(const Operator *operator) {
    (void)operator;
    return 1;
}

Status *create_plain(const Operator *operator, const Api *api, const KernelInfo *info, void **kernel) {
    (void)info;
    const Kernel made = {kind_of(operator), api};
    return keep_kernel(api, &made, sizeof(made), kernel);
}

Status *keep_kernel(const Api *api, const void *made, size_t size, void **kernel) {
    *kernel = malloc(size);
    if (!*kernel) return out_of_memory(api);
    memcpy(*kernel, made, size);
    return NULL;
}

Status *refuse(const Api *api, const char *reason) { return api_create_status(api)(STATUS_INVALID_ARGUMENT, reason); }

Status *out_of_memory(const Api *api) { return api_create_status(api)(STATUS_FAIL, "No memory is left."); }

Status *input_tensor(const Api *api, const Context *context, size_t index, Tensor *tensor) {
    const Value *value;
    TensorInfo *info;
    TRY(api_input(api)(context, index, &value));
    if (!value) return NULL;
    TRY(api_tensor_data(api)(value, &tensor->data));
    TRY(api_tensor_info(api)(value, &info));
    Status *status = api_element_count(api)(info, &tensor->elements);
    if (!status) status = api_dimension_count(api)(info, &tensor->rank);
    if (!status && tensor->rank > MAX_DIMENSIONS) status = refuse(api, "A tensor has too many dimensions.");
    if (!status) status = api_dimensions(api)(info, tensor->shape, tensor->rank);
    api_release_tensor_info(api)(info);
    return status;
}

Status *input_tensors(const Kernel *kernel, const Context *context, Tensor *tensors) {
    for (size_t i = 0; i < kernel->kind->inputs; i++) TRY(input_tensor(kernel->api, context, i, tensors + i));
    return NULL;
}

Status *output_data(const Api *api, Context *context, size_t index, const int64_t *shape, size_t rank, void **data) {
    Value *value;
    TRY(api_output(api)(context, index, shape, rank, &value));
    return api_tensor_data(api)(value, data);
}

Status *add_kinds(const Api *api, Domain *domain, const Kind *kinds, size_t count) {
    for (size_t i = 0; i < count; i++) TRY(api_add_operator(api)(domain, &kinds[i].operator));
    return NULL;
}
