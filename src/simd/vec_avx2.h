// AVX2 with FMA: 256-bit vectors, 16 registers.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <immintrin.h>

#define F64_LANES 4
#define F32_LANES 8
#define PANEL_VECTORS 2

typedef __m256d f64v;
typedef __m256 f32v;

static inline f64v
f64_load(const double *p)
{
    return _mm256_loadu_pd(p);
}

static inline void
f64_store(double *p, f64v v)
{
    _mm256_storeu_pd(p, v);
}

static inline f64v
f64_set1(double x)
{
    return _mm256_set1_pd(x);
}

static inline f64v
f64_fma(f64v a, f64v b, f64v c)
{
    return _mm256_fmadd_pd(a, b, c);
}

static inline f64v
f64_abs(f64v a)
{
    return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a);
}

// Numbers without a sign order as their bits do, and NaN is the largest.
static inline f64v
f64_max_magnitude(f64v a, f64v b)
{
    __m256i greater =
        _mm256_cmpgt_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(b));
    return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(greater));
}

static inline f32v
f32_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void
f32_store(float *p, f32v v)
{
    _mm256_storeu_ps(p, v);
}

static inline f32v
f32_set1(float x)
{
    return _mm256_set1_ps(x);
}

static inline f32v
f32_fma(f32v a, f32v b, f32v c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline f32v
f32_abs(f32v a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

static inline f32v
f32_max_magnitude(f32v a, f32v b)
{
    return _mm256_castsi256_ps(
        _mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

// Writes one cache line to an address on a line's boundary.
static inline void
stream_line(void *dst, const void *src)
{
    const __m256i *from = src;
    __m256i *to = dst;
    _mm256_stream_si256(to, _mm256_loadu_si256(from));
    _mm256_stream_si256(to + 1, _mm256_loadu_si256(from + 1));
}

static inline void
stream_fence(void)
{
    _mm_sfence();
}

#endif
