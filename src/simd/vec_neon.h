// NEON (AdvSIMD) of 64-bit ARM: 128-bit vectors, 32 registers.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <arm_neon.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define F64_LANES 2
#define F32_LANES 4
#define FMA_IS_FAST 1
#define HAS_STREAM 0
#define PANEL_VECTORS 4

typedef float64x2_t f64v;
typedef float32x4_t f32v;

static inline f64v
f64_load(const double *p)
{
    return vld1q_f64(p);
}

static inline void
f64_store(double *p, f64v v)
{
    vst1q_f64(p, v);
}

static inline f64v
f64_set1(double x)
{
    return vdupq_n_f64(x);
}

static inline f64v
f64_fma(f64v a, f64v b, f64v c)
{
    return vfmaq_f64(c, a, b);
}

static inline f64v
f64_abs(f64v a)
{
    return vabsq_f64(a);
}

// Numbers without a sign order as their bits do, and NaN is the largest.
static inline f64v
f64_max_magnitude(f64v a, f64v b)
{
    uint64x2_t greater = vcgtq_s64(vreinterpretq_s64_f64(a), vreinterpretq_s64_f64(b));
    return vbslq_f64(greater, a, b);
}

static inline f32v
f32_load(const float *p)
{
    return vld1q_f32(p);
}

static inline void
f32_store(float *p, f32v v)
{
    vst1q_f32(p, v);
}

static inline f32v
f32_set1(float x)
{
    return vdupq_n_f32(x);
}

static inline f32v
f32_fma(f32v a, f32v b, f32v c)
{
    return vfmaq_f32(c, a, b);
}

static inline f32v
f32_abs(f32v a)
{
    return vabsq_f32(a);
}

static inline f32v
f32_max_magnitude(f32v a, f32v b)
{
    return vreinterpretq_f32_s32(
        vmaxq_s32(vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(b)));
}

static inline f64v
f64_sqrt(f64v a)
{
    return vsqrtq_f64(a);
}

static inline f64v
f64_rint(f64v a)
{
    return vrndiq_f64(a);
}

static inline f32v
f32_sqrt(f32v a)
{
    return vsqrtq_f32(a);
}

static inline f32v
f32_rint(f32v a)
{
    return vrndiq_f32(a);
}

// Load and convert: as many doubles as a vector has floats, and the reverse.
static inline f32v
f32_load_f64(const double *p)
{
    return vcvt_high_f32_f64(vcvt_f32_f64(vld1q_f64(p)), vld1q_f64(p + 2));
}

static inline f64v
f64_load_f32(const float *p)
{
    return vcvt_f64_f32(vld1_f32(p));
}

// Whether any lane of a is infinite or NaN, a >= 0; whether any bits of a and b differ.
static inline bool
f64_any_infinite(f64v a)
{
    uint64x2_t below = vcltq_f64(a, vdupq_n_f64(INFINITY));
    return vminvq_u32(vreinterpretq_u32_u64(below)) == 0;
}

static inline bool
f64_any_differ(f64v a, f64v b)
{
    uint32x4_t bits = veorq_u32(vreinterpretq_u32_f64(a), vreinterpretq_u32_f64(b));
    return vmaxvq_u32(bits) != 0;
}

static inline bool
f32_any_infinite(f32v a)
{
    return vminvq_u32(vcltq_f32(a, vdupq_n_f32(INFINITY))) == 0;
}

static inline bool
f32_any_differ(f32v a, f32v b)
{
    uint32x4_t bits = veorq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b));
    return vmaxvq_u32(bits) != 0;
}

// Load and store of the first n lanes of a vector, n <= lanes; the others are 0, and the
// memory beyond is not touched.
static inline f64v
f64_load_some(const double *p, size_t n)
{
    double lanes[F64_LANES] = {0};
    memcpy(lanes, p, n * sizeof(lanes[0]));
    return f64_load(lanes);
}

static inline void
f64_store_some(double *p, f64v v, size_t n)
{
    double lanes[F64_LANES];
    f64_store(lanes, v);
    memcpy(p, lanes, n * sizeof(lanes[0]));
}

static inline f32v
f32_load_some(const float *p, size_t n)
{
    float lanes[F32_LANES] = {0};
    memcpy(lanes, p, n * sizeof(lanes[0]));
    return f32_load(lanes);
}

static inline void
f32_store_some(float *p, f32v v, size_t n)
{
    float lanes[F32_LANES];
    f32_store(lanes, v);
    memcpy(p, lanes, n * sizeof(lanes[0]));
}

static inline f32v
f32_load_f64_some(const double *p, size_t n)
{
    double lanes[F32_LANES] = {0};
    memcpy(lanes, p, n * sizeof(lanes[0]));
    return f32_load_f64(lanes);
}

static inline f64v
f64_load_f32_some(const float *p, size_t n)
{
    float lanes[F64_LANES] = {0};
    memcpy(lanes, p, n * sizeof(lanes[0]));
    return f64_load_f32(lanes);
}

static inline void
stream_fence(void)
{
}

#endif
