// The tables that this build has; for dispatch.c and the level files alone.
#ifndef PD_SIMD_LEVELS_H
#define PD_SIMD_LEVELS_H

#include "simd/simd.h"

#if defined(__x86_64__)
#    define PD_X86
#elif defined(__aarch64__)
#    define PD_ARM64
#endif

extern const pd_simd pd_simd_scalar;
#ifdef PD_X86
extern const pd_simd pd_simd_avx2;
extern const pd_simd pd_simd_avx512;
#endif
#ifdef PD_ARM64
extern const pd_simd pd_simd_neon;
#endif

#endif
