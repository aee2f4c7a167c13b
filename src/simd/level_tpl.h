// The body of a level file: every template for both reals, and the table.
//
// Before including it define LEVEL (a name) and include the level's vec header.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "simd/levels.h"

#define PD_PASTE_(a, b) a##b
#define PD_PASTE(a, b) PD_PASTE_(a, b)
#define PD_TEXT_(a) #a
#define PD_TEXT(a) PD_TEXT_(a)

#define REAL double
#define VEC f64v
#define LANES F64_LANES
#define N(name) PD_PASTE(f64_, name)
#define REAL_IS_F64 1
#define FMA(a, b, c) __builtin_fma(a, b, c)
#define NEXT_TOWARDS_ZERO(a) __builtin_nextafter(a, 0)
#include "simd/exp_tpl.h"
#include "simd/round_tpl.h"
#include "simd/metrics_tpl.h"
#undef REAL
#undef VEC
#undef LANES
#undef N
#undef REAL_IS_F64
#undef FMA
#undef NEXT_TOWARDS_ZERO

#define REAL float
#define VEC f32v
#define LANES F32_LANES
#define N(name) PD_PASTE(f32_, name)
#define REAL_IS_F64 0
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#define NEXT_TOWARDS_ZERO(a) __builtin_nextafterf(a, 0)
#include "simd/exp_tpl.h"
#include "simd/round_tpl.h"
#include "simd/metrics_tpl.h"
#undef REAL
#undef VEC
#undef LANES
#undef N
#undef REAL_IS_F64
#undef FMA
#undef NEXT_TOWARDS_ZERO

#if HAS_STREAM
// How many items lie between an address, a multiple of their size, and a boundary.
static inline size_t
items_to_boundary(const void *address, size_t boundary, size_t item_bytes)
{
    return (boundary - (uintptr_t)address % boundary) % boundary / item_bytes;
}
#endif

#define FROM_N(name) PD_PASTE(f64_, name)
#define FROM double
#define FROM_VEC f64v
#define FROM_LANES F64_LANES

#define TO_N(name) PD_PASTE(f64_, name)
#define TO double
#define TO_VEC f64v
#define TO_LANES F64_LANES
#define N(name) PD_PASTE(f64_f64_, name)
#define LOAD_AS f64_load
#define LOAD_SOME_AS f64_load_some
#include "simd/store_tpl.h"
#include "simd/fused_tpl.h"
#undef TO_N
#undef TO
#undef TO_VEC
#undef TO_LANES
#undef N
#undef LOAD_AS
#undef LOAD_SOME_AS

#define TO_N(name) PD_PASTE(f32_, name)
#define TO float
#define TO_VEC f32v
#define TO_LANES F32_LANES
#define N(name) PD_PASTE(f64_f32_, name)
#define LOAD_AS f32_load_f64
#define LOAD_SOME_AS f32_load_f64_some
#include "simd/store_tpl.h"
#include "simd/fused_tpl.h"
#undef TO_N
#undef TO
#undef TO_VEC
#undef TO_LANES
#undef N
#undef LOAD_AS
#undef LOAD_SOME_AS

#undef FROM_N
#undef FROM
#undef FROM_VEC
#undef FROM_LANES
#define FROM_N(name) PD_PASTE(f32_, name)
#define FROM float
#define FROM_VEC f32v
#define FROM_LANES F32_LANES

#define TO_N(name) PD_PASTE(f64_, name)
#define TO double
#define TO_VEC f64v
#define TO_LANES F64_LANES
#define N(name) PD_PASTE(f32_f64_, name)
#define LOAD_AS f64_load_f32
#define LOAD_SOME_AS f64_load_f32_some
#include "simd/store_tpl.h"
#include "simd/fused_tpl.h"
#undef TO_N
#undef TO
#undef TO_VEC
#undef TO_LANES
#undef N
#undef LOAD_AS
#undef LOAD_SOME_AS

#define TO_N(name) PD_PASTE(f32_, name)
#define TO float
#define TO_VEC f32v
#define TO_LANES F32_LANES
#define N(name) PD_PASTE(f32_f32_, name)
#define LOAD_AS f32_load
#define LOAD_SOME_AS f32_load_some
#include "simd/store_tpl.h"
#include "simd/fused_tpl.h"
#undef TO_N
#undef TO
#undef TO_VEC
#undef TO_LANES
#undef N
#undef LOAD_AS
#undef LOAD_SOME_AS

#undef FROM_N
#undef FROM
#undef FROM_VEC
#undef FROM_LANES

#include "simd/blocks_tpl.h"

static void
fence(void)
{
    stream_fence();
}

static const pd_store_ops store_ops = {
    .row = {{f32_f32_row, f32_f64_row},           {f64_f32_row, f64_f64_row}},
    .doubtful = {{f32_f32_doubtful, f32_f64_doubtful},
            {f64_f32_doubtful, f64_f64_doubtful}                            },
    .fence = fence,
};

// A row of function pointers by the types of values and results.
#define BY_TYPES(name)                     \
    {                                      \
        {f32_f32_##name, f32_f64_##name},  \
        {                                  \
            f64_f32_##name, f64_f64_##name \
        }                                  \
    }

static const pd_fused_ops fused_ops = {
    .rows =
        {
               [PD_CELL_SQUARES] = BY_TYPES(fused_squares),
               [PD_CELL_ABS] = BY_TYPES(fused_abs),
               [PD_CELL_MAX] = BY_TYPES(fused_max),
               },
};

const pd_simd PD_PASTE(pd_simd_, LEVEL) = {
    .name = PD_TEXT(LEVEL),
    .metrics = {&f32_metric_ops, &f64_metric_ops},
    .store = &store_ops,
    .fused = &fused_ops,
    .blocks = block_loops,
    .folds = block_folds,
};
