// AVX2 and FMA, raised for this file alone by pragma: setuptools gives all sources the
// same flags, and a flag would let the compiler use AVX2 before the CPU was checked.
#include "simd/levels.h"

#ifdef PD_X86

// System headers stay outside the raised target.
#    include <immintrin.h>
#    include <math.h>
#    include <stdint.h>
#    include <string.h>

#    if defined(__clang__)
#        pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                                     apply_to = function)
#    else
#        pragma GCC push_options
#        pragma GCC target("avx2,fma")
#    endif

#    include "simd/vec_avx2.h"

#    define LEVEL avx2
#    include "simd/level_tpl.h"

#    if defined(__clang__)
#        pragma clang attribute pop
#    else
#        pragma GCC pop_options
#    endif

#endif
