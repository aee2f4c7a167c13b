// AVX-512 F, DQ, BW and VL, raised for this file alone by pragma (see level_avx2.c).
#include "simd/levels.h"

#ifdef PD_X86

// System headers stay outside the raised target.
#    include <immintrin.h>
#    include <math.h>
#    include <stdint.h>
#    include <string.h>

#    if defined(__clang__)
#        pragma clang attribute push(                                               \
            __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
            apply_to = function)
#    else
#        pragma GCC push_options
#        pragma GCC target( \
            "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#    endif

#    include "simd/vec_avx512.h"

#    define LEVEL avx512
#    include "simd/level_tpl.h"

#    if defined(__clang__)
#        pragma clang attribute pop
#    else
#        pragma GCC pop_options
#    endif

#endif
