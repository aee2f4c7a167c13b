// AVX-512 F, DQ, BW, VL: 512-bit vectors, 32 registers.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <immintrin.h>

#define F64_LANES 8
#define F32_LANES 16
#define PANEL_VECTORS 2

typedef __m512d f64v;
typedef __m512 f32v;

static inline f64v
f64_load(const double *p)
{
    return _mm512_loadu_pd(p);
}

static inline void
f64_store(double *p, f64v v)
{
    _mm512_storeu_pd(p, v);
}

static inline f64v
f64_set1(double x)
{
    return _mm512_set1_pd(x);
}

static inline f64v
f64_fma(f64v a, f64v b, f64v c)
{
    return _mm512_fmadd_pd(a, b, c);
}

static inline f64v
f64_abs(f64v a)
{
    return _mm512_abs_pd(a);
}

// Numbers without a sign order as their bits do, and NaN is the largest.
static inline f64v
f64_max_magnitude(f64v a, f64v b)
{
    return _mm512_castsi512_pd(
        _mm512_max_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(b)));
}

static inline f32v
f32_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void
f32_store(float *p, f32v v)
{
    _mm512_storeu_ps(p, v);
}

static inline f32v
f32_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline f32v
f32_fma(f32v a, f32v b, f32v c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline f32v
f32_abs(f32v a)
{
    return _mm512_abs_ps(a);
}

static inline f32v
f32_max_magnitude(f32v a, f32v b)
{
    return _mm512_castsi512_ps(
        _mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

// Writes one cache line to an address on a line's boundary.
static inline void
stream_line(void *dst, const void *src)
{
    _mm512_stream_si512(dst, _mm512_loadu_si512(src));
}

static inline void
stream_fence(void)
{
    _mm_sfence();
}

#endif
