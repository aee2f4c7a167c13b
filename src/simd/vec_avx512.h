// AVX-512 F, DQ, BW, VL: 512-bit vectors, 32 registers.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>

#define F64_LANES 8
#define F32_LANES 16
#define FMA_IS_FAST 1
#define HAS_STREAM 1
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

static inline f64v
f64_sqrt(f64v a)
{
    return _mm512_sqrt_pd(a);
}

static inline f64v
f64_rint(f64v a)
{
    return _mm512_roundscale_pd(a, _MM_FROUND_CUR_DIRECTION);
}

static inline f32v
f32_sqrt(f32v a)
{
    return _mm512_sqrt_ps(a);
}

static inline f32v
f32_rint(f32v a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_CUR_DIRECTION);
}

// Load and convert: as many doubles as a vector has floats, and the reverse.
static inline f32v
f32_load_f64(const double *p)
{
    __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(p));
    __m256 high = _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

static inline f64v
f64_load_f32(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}

// Whether any lane of a is infinite or NaN, a >= 0; whether any bits of a and b differ.
static inline bool
f64_any_infinite(f64v a)
{
    return _mm512_cmp_pd_mask(a, _mm512_set1_pd(INFINITY), _CMP_NLT_UQ) != 0;
}

static inline bool
f64_any_differ(f64v a, f64v b)
{
    return _mm512_cmpneq_epi64_mask(_mm512_castpd_si512(a), _mm512_castpd_si512(b)) !=
           0;
}

static inline bool
f32_any_infinite(f32v a)
{
    return _mm512_cmp_ps_mask(a, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ) != 0;
}

static inline bool
f32_any_differ(f32v a, f32v b)
{
    return _mm512_cmpneq_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b)) !=
           0;
}

// Load and store of the first n lanes of a vector, n <= lanes; the others are 0, and the
// memory beyond is not touched.
static inline f64v
f64_load_some(const double *p, size_t n)
{
    return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}

static inline void
f64_store_some(double *p, f64v v, size_t n)
{
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), v);
}

static inline f32v
f32_load_some(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

static inline void
f32_store_some(float *p, f32v v, size_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}

static inline f32v
f32_load_f64_some(const double *p, size_t n)
{
    __m256 low = _mm512_cvtpd_ps(f64_load_some(p, n < 8 ? n : 8));
    __m256 high = _mm512_cvtpd_ps(f64_load_some(p + 8, n < 8 ? 0 : n - 8));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

static inline f64v
f64_load_f32_some(const float *p, size_t n)
{
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps((__mmask8)((1u << n) - 1), p));
}

// Stores past the caches, to an address that is a multiple of the vector's size.
static inline void
f64_stream(double *p, f64v v)
{
    _mm512_stream_pd(p, v);
}

static inline void
f32_stream(float *p, f32v v)
{
    _mm512_stream_ps(p, v);
}

// Lanes `by` .. `by` + lanes of two vectors in a row: f32_shifted(a, b, f32_shift_by(by)).
typedef __m512i f64_shift;
typedef __m512i f32_shift;

static inline f64_shift
f64_shift_by(size_t by)
{
    return _mm512_add_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7),
                            _mm512_set1_epi64((long long)by));
}

static inline f64v
f64_shifted(f64v a, f64v b, f64_shift shift)
{
    return _mm512_permutex2var_pd(a, shift, b);
}

static inline f32_shift
f32_shift_by(size_t by)
{
    return _mm512_add_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32((int)by));
}

static inline f32v
f32_shifted(f32v a, f32v b, f32_shift shift)
{
    return _mm512_permutex2var_ps(a, shift, b);
}

static inline void
stream_fence(void)
{
    _mm_sfence();
}

#endif
