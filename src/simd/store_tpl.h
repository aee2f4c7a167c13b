// From values to results: cast, round as NumPy rounds, store; and the check of doubts.
//
// Streaming stores (past the caches) want whole vectors on boundaries of their size; what
// lies before the first cache line of the row, and after the last, is stored as usual.

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

static inline TO
N(final)(FROM value, const pd_rounding *rounding, TO scale)
{
    TO v = (TO)value;
    if (!rounding->rounds) {
        return v;
    }
    v = rounding->multiplies ? v * scale : v / scale;
    v = sizeof(TO) == sizeof(double) ? (TO)__builtin_rint((double)v)
                                     : (TO)__builtin_rintf((float)v);
    return rounding->multiplies ? v / scale : v * scale;
}

// Whether a value v with a doubt t may come out differently.
static inline bool
N(is_doubtful)(FROM v, FROM t, const pd_rounding *rounding, TO scale, bool exact_type)
{
    if (!(t < (FROM)INFINITY)) {
        return true;
    }
    // Without a rounding there are no boundaries to be near to: only guards count.
    if (exact_type && !rounding->rounds) {
        return false;
    }
    TO low = N(final)(v - t, rounding, scale);
    TO high = N(final)(v + t, rounding, scale);
    bool same = low == high && __builtin_signbit(low) == __builtin_signbit(high);
    return t != 0 && !same && !(low != low && high != high);
}

// Whether any of n values needs a closer look, by a test that vectorises: it takes some
// that are not doubtful and leaves out none that is.
static bool
N(any_suspect)(const FROM *v, const FROM *t, size_t n, bool moves_count)
{
    size_t suspects = 0;
    for (size_t i = 0; i < n; i++) {
        FROM low = v[i] - t[i];
        FROM high = v[i] + t[i];
        bool moves = ((TO)low != (TO)high) | ((low < 0) != (high < 0));
        bool unknown = !(t[i] < (FROM)INFINITY);
        suspects += unknown | (moves & moves_count);
    }
    return suspects > 0;
}

static size_t
N(doubtful)(const void *values,
            const void *doubts,
            size_t n,
            const pd_rounding *given,
            unsigned char *flags)
{
    const FROM *v = values;
    const FROM *t = doubts;
    const pd_rounding rounding = *given;
    const TO scale = (TO)rounding.scale;
    const bool exact_type = sizeof(FROM) <= sizeof(TO);
    size_t count = 0;
    if (!N(any_suspect)(v, t, n, !exact_type || rounding.rounds)) {
        if (flags != NULL) {
            memset(flags, 0, n);
        }
        return 0;
    }
    if (flags == NULL) {
        for (size_t i = 0; i < n; i++) {
            count += N(is_doubtful)(v[i], t[i], &rounding, scale, exact_type);
        }
        return count;
    }
    for (size_t i = 0; i < n; i++) {
        flags[i] = N(is_doubtful)(v[i], t[i], &rounding, scale, exact_type);
        count += flags[i];
    }
    return count;
}
