// Vectors of one: plain C, the reference meaning of every loop.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define F64_LANES 1
#define F32_LANES 1
#define PANEL_VECTORS 8  // a panel of 8 columns

typedef double f64v;
typedef float f32v;

static inline f64v
f64_load(const double *p)
{
    return *p;
}

static inline void
f64_store(double *p, f64v v)
{
    *p = v;
}

static inline f64v
f64_set1(double x)
{
    return x;
}

static inline f64v
f64_fma(f64v a, f64v b, f64v c)
{
    return __builtin_fma(a, b, c);
}

static inline f64v
f64_abs(f64v a)
{
    return __builtin_fabs(a);
}

// The larger of two numbers without sign; a NaN is larger than any.
static inline f64v
f64_max_magnitude(f64v a, f64v b)
{
    int64_t x;
    int64_t y;
    memcpy(&x, &a, sizeof(x));
    memcpy(&y, &b, sizeof(y));
    return x > y ? a : b;
}

static inline f32v
f32_load(const float *p)
{
    return *p;
}

static inline void
f32_store(float *p, f32v v)
{
    *p = v;
}

static inline f32v
f32_set1(float x)
{
    return x;
}

static inline f32v
f32_fma(f32v a, f32v b, f32v c)
{
    return __builtin_fmaf(a, b, c);
}

static inline f32v
f32_abs(f32v a)
{
    return __builtin_fabsf(a);
}

static inline f32v
f32_max_magnitude(f32v a, f32v b)
{
    int32_t x;
    int32_t y;
    memcpy(&x, &a, sizeof(x));
    memcpy(&y, &b, sizeof(y));
    return x > y ? a : b;
}

// Writes one cache line to an address on a line's boundary.
static inline void
stream_line(void *dst, const void *src)
{
    memcpy(dst, src, 64);
}

static inline void
stream_fence(void)
{
}

#endif
