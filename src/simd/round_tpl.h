// round(v) as NumPy's round(decimals) computes it, on a vector.
//
// A vector division costs as much as all the rest of a store.  rint(v * s) is an
// integer x, and x / s, correctly rounded, is also
//
//     fma(x, high, x * low)        high + low = 1 / s, high rounded down
//
// for s = 10, 100, ... 10^8.  Say the type has p bits.  The sum before its last rounding
// is off by less than 2^(2 - 2p) of the quotient: one half from low, one from x * low.
// That rounds to the right neighbour unless a midpoint M between two of them is as near;
// but x - M s is a non-zero multiple of the odd part of s's unit, so M is off by at least
// 1 / (2^(p + 1) 5^8), which is more than 2^(-p - 20).  As high <= 1 / s, low is
// positive, which keeps the sign of zero, and infinity.

#define RECIPROCAL_MAX 1e8

typedef enum N(rounding_way) {
    N(ROUND_NOT),
    N(ROUND_BY_RECIPROCAL),
    N(ROUND_BY_DIVISION),
    N(ROUND_LEFT_OF_POINT),  // negative decimals: divide, then multiply
} N(rounding_way);

typedef struct N(rounder) {
    N(rounding_way) way;
    VEC scale;
    VEC high;
    VEC low;
} N(rounder);

static N(rounder) N(rounder_of)(const pd_rounding *rounding)
{
    REAL scale = (REAL)rounding->scale;
    REAL high = 1 / scale;
    REAL left = FMA(-high, scale, (REAL)1);  // exact
    if (left < 0) {
        high = NEXT_TOWARDS_ZERO(high);
        left = FMA(-high, scale, (REAL)1);
    }
    N(rounder)
    rounder = {
        .way = N(ROUND_BY_DIVISION),
        .scale = N(set1)(scale),
        .high = N(set1)(high),
        .low = N(set1)(left / scale),
    };
    if (!rounding->rounds) {
        rounder.way = N(ROUND_NOT);
    }
    else if (!rounding->multiplies) {
        rounder.way = N(ROUND_LEFT_OF_POINT);
    }
    else if (FMA_IS_FAST && scale > 1 && scale <= (REAL)RECIPROCAL_MAX) {
        rounder.way = N(ROUND_BY_RECIPROCAL);
    }
    return rounder;
}

static inline __attribute__((always_inline)) VEC
N(round)(VEC v, const N(rounder) * r)
{
    if (r->way == N(ROUND_NOT)) {
        return v;
    }
    if (r->way == N(ROUND_LEFT_OF_POINT)) {
        return N(rint)(v / r->scale) * r->scale;
    }
    VEC x = N(rint)(v * r->scale);
    if (r->way == N(ROUND_BY_DIVISION)) {
        return x / r->scale;
    }
    return N(fma)(x, r->high, x * r->low);
}

#undef RECIPROCAL_MAX
