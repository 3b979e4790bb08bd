/* What each file of operators offers to `register.c`. */
#ifndef OMNI_EDGE_KERNELS_H
#define OMNI_EDGE_KERNELS_H

#include "onnxruntime_abi.h"

#define TRY(call)                     \
    do {                              \
        Status *status_ = (call);     \
        if (status_) return status_;  \
    } while (0)

/* Adds the file's operators, or none where the processor has not what they need. */
Status *add_snake(const Api *api, Domain *domain);

#endif
