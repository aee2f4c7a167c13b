// Numbers of either type, by index; and when two are the same.
#ifndef PD_TESTS_REALS_H
#define PD_TESTS_REALS_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/real.h"

static inline double
get(const void *reals, pd_real real, size_t i)
{
    return real == PD_F32 ? (double)((const float *)reals)[i]
                          : ((const double *)reals)[i];
}

static inline void
put(void *reals, pd_real real, size_t i, double value)
{
    if (real == PD_F32) {
        ((float *)reals)[i] = (float)value;
    }
    else {
        ((double *)reals)[i] = value;
    }
}

// NaN is one value here: which of its bit patterns comes out is nobody's promise.
static inline bool
same(double a, double b)
{
    return memcmp(&a, &b, sizeof(a)) == 0 || (isnan(a) && isnan(b));
}

#endif
