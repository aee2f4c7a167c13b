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
    REAL scale;
    REAL high;
    REAL low;
} N(rounder);

static N(rounding_way) N(way_of)(const pd_rounding *rounding, REAL scale)
{
    if (!rounding->rounds) {
        return N(ROUND_NOT);
    }
    if (!rounding->multiplies) {
        return N(ROUND_LEFT_OF_POINT);
    }
    return FMA_IS_FAST && scale > 1 && scale <= (REAL)RECIPROCAL_MAX
               ? N(ROUND_BY_RECIPROCAL)
               : N(ROUND_BY_DIVISION);
}

static N(rounder) N(rounder_of)(const pd_rounding *rounding)
{
    REAL scale = (REAL)rounding->scale;
    REAL high = 1 / scale;
    REAL left = FMA(-high, scale, (REAL)1);  // exact
    if (left < 0) {
        high = NEXT_TOWARDS_ZERO(high);
        left = FMA(-high, scale, (REAL)1);
    }
    return (N(rounder)){
        .way = N(way_of)(rounding, scale),
        .scale = scale,
        .high = high,
        .low = left / scale,
    };
}

static inline __attribute__((always_inline)) VEC
N(round)(VEC v, const N(rounder) * r)
{
    const VEC scale = N(set1)(r->scale);
    if (r->way == N(ROUND_NOT)) {
        return v;
    }
    if (r->way == N(ROUND_LEFT_OF_POINT)) {
        return N(rint)(v / scale) * scale;
    }
    VEC x = N(rint)(v * scale);
    if (r->way == N(ROUND_BY_DIVISION)) {
        return x / scale;
    }
    return N(fma)(x, N(set1)(r->high), x * N(set1)(r->low));
}

// The same for one value.
static REAL
N(round_one)(REAL v, const N(rounder) * r)
{
    REAL lanes[LANES];
    N(store)(lanes, N(round)(N(set1)(v), r));
    return lanes[0];
}

#undef RECIPROCAL_MAX
