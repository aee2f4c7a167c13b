// From values to results: cast, round as NumPy rounds, store; and the check of doubts.
//
// Streaming stores (past the caches) want whole vectors on boundaries of their size; what
// lies before the first cache line of the row, and after the last, is stored as usual.

#define CHUNK 64

// n values, stored as usual.
static void
N(final_values)(const FROM *src, TO *dst, size_t n, const TO_N(rounder) * rounder)
{
    size_t i = 0;
    for (; n - i >= TO_LANES; i += TO_LANES) {
        TO_N(store)(dst + i, TO_N(round)(LOAD_AS(src + i), rounder));
    }
    if (i < n) {
        TO_VEC rest = TO_N(round)(LOAD_SOME_AS(src + i, n - i), rounder);
        TO_N(store_some)(dst + i, rest, n - i);
    }
}

static void
N(row)(const void *from, void *to, size_t n, const pd_rounding *rounding, bool stream)
{
    const FROM *src = from;
    TO *dst = to;
    const TO_N(rounder) rounder = TO_N(rounder_of)(rounding);
    size_t i = 0;
#if HAS_STREAM
    if (stream) {
        size_t head = items_to_boundary(dst, 64, sizeof(TO));
        i = head < n ? head : n;
        N(final_values)(src, dst, i, &rounder);
        for (; n - i >= TO_LANES; i += TO_LANES) {
            TO_N(stream)(dst + i, TO_N(round)(LOAD_AS(src + i), &rounder));
        }
    }
#else
    (void)stream;
#endif
    N(final_values)(src + i, dst + i, n - i, &rounder);
}

// Whether a value v with a doubt t may come out differently.
static bool
N(is_doubtful)(FROM v, FROM t, const TO_N(rounder) * r)
{
    if (!(t < (FROM)INFINITY)) {
        return true;
    }
    // Without a rounding there are no boundaries to be near to: only guards count.
    if (t == 0 || (r->way == TO_N(ROUND_NOT) && sizeof(FROM) <= sizeof(TO))) {
        return false;
    }
    TO low = TO_N(round_one)((TO)(v - t), r);
    TO high = TO_N(round_one)((TO)(v + t), r);
    bool same = low == high && __builtin_signbit(low) == __builtin_signbit(high);
    return !same && !(low != low && high != high);
}

// Whether any of CHUNK pairs may be doubtful, by the bits alone: of NaN and of zeros with
// a doubt of 0 it may say so wrongly.
static bool
N(any_doubtful)(const FROM *v, const FROM *t, const TO_N(rounder) * rounder)
{
    FROM low[CHUNK];
    FROM high[CHUNK];
    bool infinite = false;
    for (size_t i = 0; i < CHUNK; i += FROM_LANES) {
        FROM_VEC value = FROM_N(load)(v + i);
        FROM_VEC doubt = FROM_N(load)(t + i);
        FROM_N(store)(low + i, value - doubt);
        FROM_N(store)(high + i, value + doubt);
        infinite |= FROM_N(any_infinite)(doubt);
    }
    if (infinite || (rounder->way == TO_N(ROUND_NOT) && sizeof(FROM) <= sizeof(TO))) {
        return infinite;
    }
    // Most often the cast makes them one already.
    bool differ = false;
    for (size_t i = 0; i < CHUNK; i += TO_LANES) {
        differ |= TO_N(any_differ)(LOAD_AS(low + i), LOAD_AS(high + i));
    }
    if (!differ || rounder->way == TO_N(ROUND_NOT)) {
        return differ;
    }
    differ = false;
    for (size_t i = 0; i < CHUNK; i += TO_LANES) {
        differ |= TO_N(any_differ)(TO_N(round)(LOAD_AS(low + i), rounder),
                                   TO_N(round)(LOAD_AS(high + i), rounder));
    }
    return differ;
}

// Doubts are rare: whole chunks are looked at first, and single pairs only where need be.
static size_t
N(doubtful)(const void *values,
            const void *doubts,
            size_t n,
            const pd_rounding *rounding,
            unsigned char *flags)
{
    const FROM *v = values;
    const FROM *t = doubts;
    const TO_N(rounder) rounder = TO_N(rounder_of)(rounding);
    size_t count = 0;
    if (flags != NULL) {
        memset(flags, 0, n);
    }
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t end = n - i < CHUNK ? n : i + CHUNK;
        if (n - i >= CHUNK && !N(any_doubtful)(v + i, t + i, &rounder)) {
            continue;
        }
        for (size_t k = i; k < end; k++) {
            bool doubtful = N(is_doubtful)(v[k], t[k], &rounder);
            count += doubtful;
            if (flags != NULL) {
                flags[k] = doubtful;
            }
        }
    }
    return count;
}

#undef CHUNK
