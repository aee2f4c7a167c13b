// The two number types that the core computes in.
#ifndef PD_BASE_REAL_H
#define PD_BASE_REAL_H

#include <stddef.h>

typedef enum pd_real {
    PD_F32 = 0,  // float
    PD_F64 = 1,  // double
} pd_real;

#define PD_REALS 2  // how many there are: the length of tables indexed by pd_real

static inline size_t
pd_real_size(pd_real real)
{
    return real == PD_F32 ? sizeof(float) : sizeof(double);
}

#endif
