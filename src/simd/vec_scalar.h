// Vectors of one: plain C, the reference meaning of every loop.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define F64_LANES 1
#define F32_LANES 1
#define FMA_IS_FAST 0
#define HAS_STREAM 0
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

static inline f64v
f64_sqrt(f64v a)
{
    return __builtin_sqrt(a);
}

static inline f64v
f64_rint(f64v a)
{
    return __builtin_rint(a);
}

static inline f32v
f32_sqrt(f32v a)
{
    return __builtin_sqrtf(a);
}

static inline f32v
f32_rint(f32v a)
{
    return __builtin_rintf(a);
}

// Load and convert: as many doubles as a vector has floats, and the reverse.
static inline f32v
f32_load_f64(const double *p)
{
    return (float)*p;
}

static inline f64v
f64_load_f32(const float *p)
{
    return (double)*p;
}

// Whether any lane of a is infinite or NaN, a >= 0; whether any bits of a and b differ.
static inline bool
f64_any_infinite(f64v a)
{
    return !(a < INFINITY);
}

static inline bool
f64_any_differ(f64v a, f64v b)
{
    return memcmp(&a, &b, sizeof(a)) != 0;
}

static inline bool
f32_any_infinite(f32v a)
{
    return !(a < INFINITY);
}

static inline bool
f32_any_differ(f32v a, f32v b)
{
    return memcmp(&a, &b, sizeof(a)) != 0;
}

// Load and store of the first n lanes of a vector, n <= lanes; the others are 0, and the
// memory beyond is not touched.
static inline f64v
f64_load_some(const double *p, size_t n)
{
    return n > 0 ? *p : 0;
}

static inline void
f64_store_some(double *p, f64v v, size_t n)
{
    if (n > 0) {
        *p = v;
    }
}

static inline f32v
f32_load_some(const float *p, size_t n)
{
    return n > 0 ? *p : 0;
}

static inline void
f32_store_some(float *p, f32v v, size_t n)
{
    if (n > 0) {
        *p = v;
    }
}

static inline f32v
f32_load_f64_some(const double *p, size_t n)
{
    return n > 0 ? (float)*p : 0;
}

static inline f64v
f64_load_f32_some(const float *p, size_t n)
{
    return n > 0 ? (double)*p : 0;
}

static inline void
stream_fence(void)
{
}

#endif
