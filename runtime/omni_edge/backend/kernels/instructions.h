/* LANES_OF_MATRICES: 32-bit lanes of a vector in the matrix kernels, for which a processor needs products of bytes; not
 * defined where it has none. */
#ifndef OMNI_EDGE_INSTRUCTIONS_H
#define OMNI_EDGE_INSTRUCTIONS_H

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define LANES_OF_MATRICES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES_OF_MATRICES 8
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__)
#define LANES_OF_MATRICES 4
#endif

#endif
