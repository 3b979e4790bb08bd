/* The library's entry for onnxruntime, which calls it for each session with which the library is registered. */
#include "operator.h"
#include "simd.h"

EXPORT Status *RegisterCustomOps(SessionOptions *options, const ApiBase *base);

EXPORT Status *RegisterCustomOps(SessionOptions *options, const ApiBase *base) {
    const Api *api = base->api(ABI_VERSION);
    Domain *domain; /* must outlive the session, whose end is not reported: a few bytes are never freed */
    if (!api) return NULL;
    TRY(api_create_domain(api)("omni.edge", &domain));
    TRY(add_attention(api, domain));
    TRY(add_block_attention(api, domain));
    TRY(add_dilated_conv(api, domain));
    TRY(add_dit(api, domain));
    TRY(add_snake(api, domain));
#ifdef DOT4
    TRY(add_decoder_layer(api, domain));
    TRY(add_linear(api, domain));
#endif
    return api_add_domain(api)(options, domain);
}
