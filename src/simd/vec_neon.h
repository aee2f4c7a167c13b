// NEON (AdvSIMD) of 64-bit ARM: 128-bit vectors, 32 registers.
#ifndef PD_SIMD_VEC_H
#define PD_SIMD_VEC_H

#include <arm_neon.h>
#include <string.h>

#define F64_LANES 2
#define F32_LANES 4
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

// There is no portable streaming store here; the write combining of ordinary ones does.
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
