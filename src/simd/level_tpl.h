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
#include "simd/exp_tpl.h"
#include "simd/metrics_tpl.h"
#undef REAL
#undef VEC
#undef LANES
#undef N
#undef REAL_IS_F64

#define REAL float
#define VEC f32v
#define LANES F32_LANES
#define N(name) PD_PASTE(f32_, name)
#define REAL_IS_F64 0
#include "simd/exp_tpl.h"
#include "simd/metrics_tpl.h"
#undef REAL
#undef VEC
#undef LANES
#undef N
#undef REAL_IS_F64

#define FROM double
#define TO double
#define N(name) PD_PASTE(f64_f64_, name)
#include "simd/store_tpl.h"
#undef TO
#undef N
#define TO float
#define N(name) PD_PASTE(f64_f32_, name)
#include "simd/store_tpl.h"
#undef FROM
#undef TO
#undef N
#define FROM float
#define TO double
#define N(name) PD_PASTE(f32_f64_, name)
#include "simd/store_tpl.h"
#undef TO
#undef N
#define TO float
#define N(name) PD_PASTE(f32_f32_, name)
#include "simd/store_tpl.h"
#undef FROM
#undef TO
#undef N

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

const pd_simd PD_PASTE(pd_simd_, LEVEL) = {
    .name = PD_TEXT(LEVEL),
    .metrics = {&f32_metric_ops, &f64_metric_ops},
    .store = &store_ops,
    .blocks = block_loops,
    .folds = block_folds,
};
