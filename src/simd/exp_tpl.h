// exp(x) as straight-line arithmetic that a compiler can vectorise.
//
//     n = rint(x / ln 2),  r = x - n ln 2,  |r| <= ln 2 / 2
//     exp(x) = 2^n (1 + r + r^2 q(r)),  q the Taylor polynomial of (e^r - 1 - r) / r^2
//
// n comes from adding 1.5 * 2^mantissa, which leaves it in the low bits of the sum; 2^n
// is applied as 2^h 2^(n-h) with h near n / 2, so that results that underflow are
// rounded once and results near the top do not overflow on the way.
// Error: below 1 ULP (tests/core/test_simd.c measures it); NaN, +-inf, overflow and
// underflow as IEEE has them.

#if REAL_IS_F64
#    define BITS int64_t
#    define MANTISSA_BITS 52
#    define EXPONENT_BIAS 1023
#    define MAGIC 6755399441055744.0  // 1.5 * 2^52
#    define LOG2_E 1.4426950408889634
#    define LN2_HI \
        6.93147180369123816490e-01  // its low 32 bits are 0: n * LN2_HI is exact
#    define LN2_LO 1.90821492927058770002e-10
#    define EXP_MAX 710.0   // exp() of anything larger is infinite
#    define EXP_MIN -746.0  // exp() of anything smaller is 0
#else
#    define BITS int32_t
#    define MANTISSA_BITS 23
#    define EXPONENT_BIAS 127
#    define MAGIC 12582912.0f  // 1.5 * 2^23
#    define LOG2_E 1.44269504f
#    define LN2_HI 0.693145752f
#    define LN2_LO 1.42860677e-6f
#    define EXP_MAX 89.0f
#    define EXP_MIN -104.0f
#endif

// 2^h for an integer h in the low bits of t = h + MAGIC.
static inline REAL
N(power_of_two)(REAL t)
{
    BITS bits;
    memcpy(&bits, &t, sizeof(bits));
#if REAL_IS_F64
    bits = (BITS)(((uint64_t)bits + EXPONENT_BIAS) << MANTISSA_BITS);
#else
    bits = (BITS)(((uint32_t)bits + EXPONENT_BIAS) << MANTISSA_BITS);
#endif
    REAL power;
    memcpy(&power, &bits, sizeof(power));
    return power;
}

static inline REAL
N(exp_poly)(REAL r)
{
#if REAL_IS_F64
    REAL q = 1.0 / 6227020800.0;
    q = FMA(q, r, 1.0 / 479001600.0);
    q = FMA(q, r, 1.0 / 39916800.0);
    q = FMA(q, r, 1.0 / 3628800.0);
    q = FMA(q, r, 1.0 / 362880.0);
    q = FMA(q, r, 1.0 / 40320.0);
    q = FMA(q, r, 1.0 / 5040.0);
    q = FMA(q, r, 1.0 / 720.0);
    q = FMA(q, r, 1.0 / 120.0);
    q = FMA(q, r, 1.0 / 24.0);
    q = FMA(q, r, 1.0 / 6.0);
    q = FMA(q, r, 0.5);
#else
    REAL q = 1.0f / 40320.0f;
    q = FMA(q, r, 1.0f / 5040.0f);
    q = FMA(q, r, 1.0f / 720.0f);
    q = FMA(q, r, 1.0f / 120.0f);
    q = FMA(q, r, 1.0f / 24.0f);
    q = FMA(q, r, 1.0f / 6.0f);
    q = FMA(q, r, 0.5f);
#endif
    return q;
}

static inline REAL
N(exp)(REAL x)
{
    // Comparisons are false for NaN, which therefore goes through unclamped.
    REAL clamped = x > (REAL)EXP_MAX ? (REAL)EXP_MAX : x;
    clamped = clamped < (REAL)EXP_MIN ? (REAL)EXP_MIN : clamped;
    REAL n = FMA(clamped, (REAL)LOG2_E, (REAL)MAGIC) - (REAL)MAGIC;
    REAL r = FMA(n, -(REAL)LN2_HI, clamped);
    r = FMA(n, -(REAL)LN2_LO, r);
    REAL sum = FMA(r * r, N(exp_poly)(r), r) + 1;
    REAL half = n * (REAL)0.5 + (REAL)MAGIC;
    REAL rest = n - (half - (REAL)MAGIC) + (REAL)MAGIC;
    return sum * N(power_of_two)(half) * N(power_of_two)(rest);
}

#undef BITS
#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef MAGIC
#undef LOG2_E
#undef LN2_HI
#undef LN2_LO
#undef EXP_MAX
#undef EXP_MIN
