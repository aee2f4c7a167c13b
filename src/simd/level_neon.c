// NEON, which every 64-bit ARM CPU has: no target to raise.
#include "simd/levels.h"

#ifdef PD_ARM64

#    include "simd/vec_neon.h"

#    define LEVEL neon
#    include "simd/level_tpl.h"

#endif
