// AVX2 with FMA: 256-bit vectors, 16 registers.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>

#define F64_LANES 4
#define F32_LANES 8
#define FMA_IS_FAST 1
#define HAS_STREAM 1
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

static inline f64v
f64_sqrt(f64v a)
{
    return _mm256_sqrt_pd(a);
}

static inline f64v
f64_rint(f64v a)
{
    return _mm256_round_pd(a, _MM_FROUND_CUR_DIRECTION);
}

static inline f32v
f32_sqrt(f32v a)
{
    return _mm256_sqrt_ps(a);
}

static inline f32v
f32_rint(f32v a)
{
    return _mm256_round_ps(a, _MM_FROUND_CUR_DIRECTION);
}

// Load and convert: as many doubles as a vector has floats, and the reverse.
static inline f32v
f32_load_f64(const double *p)
{
    __m128 low = _mm256_cvtpd_ps(_mm256_loadu_pd(p));
    __m128 high = _mm256_cvtpd_ps(_mm256_loadu_pd(p + 4));
    return _mm256_set_m128(high, low);
}

static inline f64v
f64_load_f32(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

// Whether any lane of a is infinite or NaN, a >= 0; whether any bits of a and b differ.
static inline bool
f64_any_infinite(f64v a)
{
    __m256d not_below = _mm256_cmp_pd(a, _mm256_set1_pd(INFINITY), _CMP_NLT_UQ);
    return _mm256_movemask_pd(not_below) != 0;
}

static inline bool
f64_any_differ(f64v a, f64v b)
{
    __m256i bits = _mm256_xor_si256(_mm256_castpd_si256(a), _mm256_castpd_si256(b));
    return !_mm256_testz_si256(bits, bits);
}

static inline bool
f32_any_infinite(f32v a)
{
    __m256 not_below = _mm256_cmp_ps(a, _mm256_set1_ps(INFINITY), _CMP_NLT_UQ);
    return _mm256_movemask_ps(not_below) != 0;
}

static inline bool
f32_any_differ(f32v a, f32v b)
{
    __m256i bits = _mm256_xor_si256(_mm256_castps_si256(a), _mm256_castps_si256(b));
    return !_mm256_testz_si256(bits, bits);
}

// Load and store of the first n lanes of a vector, n <= lanes; the others are 0, and the
// memory beyond is not touched.
static inline __m256i
first_4(size_t n)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)n),
                              _mm256_setr_epi64x(0, 1, 2, 3));
}

static inline __m256i
first_8(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline f64v
f64_load_some(const double *p, size_t n)
{
    return _mm256_maskload_pd(p, first_4(n));
}

static inline void
f64_store_some(double *p, f64v v, size_t n)
{
    _mm256_maskstore_pd(p, first_4(n), v);
}

static inline f32v
f32_load_some(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, first_8(n));
}

static inline void
f32_store_some(float *p, f32v v, size_t n)
{
    _mm256_maskstore_ps(p, first_8(n), v);
}

static inline f32v
f32_load_f64_some(const double *p, size_t n)
{
    __m128 low = _mm256_cvtpd_ps(f64_load_some(p, n < 4 ? n : 4));
    __m128 high = _mm256_cvtpd_ps(f64_load_some(p + 4, n < 4 ? 0 : n - 4));
    return _mm256_set_m128(high, low);
}

static inline f64v
f64_load_f32_some(const float *p, size_t n)
{
    return _mm256_cvtps_pd(_mm_maskload_ps(p, _mm256_castsi256_si128(first_8(n))));
}

// Stores past the caches, to an address that is a multiple of the vector's size.
static inline void
f64_stream(double *p, f64v v)
{
    _mm256_stream_pd(p, v);
}

static inline void
f32_stream(float *p, f32v v)
{
    _mm256_stream_ps(p, v);
}

// Lanes `by` .. `by` + lanes of two vectors in a row: f32_shifted(a, b, f32_shift_by(by)).
// A shift holds, for each 32 bits, where they come from in either vector; bit 3 says which.
typedef __m256i f64_shift;
typedef __m256i f32_shift;

static inline f32_shift
f32_shift_by(size_t by)
{
    return _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                            _mm256_set1_epi32((int)by));
}

static inline f32v
f32_shifted(f32v a, f32v b, f32_shift shift)
{
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(shift, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(a, shift),
                            _mm256_permutevar8x32_ps(b, shift), second);
}

static inline f64_shift
f64_shift_by(size_t by)
{
    return f32_shift_by(2 * by);
}

static inline f64v
f64_shifted(f64v a, f64v b, f64_shift shift)
{
    return _mm256_castps_pd(
        f32_shifted(_mm256_castpd_ps(a), _mm256_castpd_ps(b), shift));
}

static inline void
stream_fence(void)
{
    _mm_sfence();
}

#endif
