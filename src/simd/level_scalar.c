// Plain C for any CPU: the meaning that every other level has to reproduce.
#include "simd/levels.h"

#include "simd/vec_scalar.h"

#define LEVEL scalar
#include "simd/level_tpl.h"
