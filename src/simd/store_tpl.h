// From values to results: cast, round as NumPy rounds, store; and the check of doubts.
//
// Streaming stores (past the caches) want whole, aligned cache lines: values are
// finished into a small buffer in L1 and its lines streamed; what lies before the first
// and after the last line boundary of the row is stored as usual.

#define LINE_ITEMS (64 / sizeof(TO))
#define BUFFER_ITEMS 512

static inline TO
N(final)(FROM value, const pd_rounding *rounding, TO scale)
{
    TO v = (TO)value;
    if (!rounding->rounds) {
        return v;
    }
    if (rounding->multiplies) {
        v *= scale;
    }
    else {
        v /= scale;
    }
    v = sizeof(TO) == sizeof(double) ? (TO)__builtin_rint((double)v)
                                     : (TO)__builtin_rintf((float)v);
    return rounding->multiplies ? v / scale : v * scale;
}

static inline void
N(finish_row)(const FROM *src, TO *dst, size_t n, const pd_rounding *given)
{
    // A copy, and branches on constants: the loops below vectorise.
    const pd_rounding rounding = *given;
    const TO scale = (TO)rounding.scale;
    if (!rounding.rounds && sizeof(FROM) == sizeof(TO)) {
        memcpy(dst, src, n * sizeof(TO));
    }
    else if (!rounding.rounds) {
        for (size_t i = 0; i < n; i++) {
            dst[i] = (TO)src[i];
        }
    }
    else if (rounding.multiplies) {
        const pd_rounding multiply = {.rounds = true, .multiplies = true};
        for (size_t i = 0; i < n; i++) {
            dst[i] = N(final)(src[i], &multiply, scale);
        }
    }
    else {
        const pd_rounding divide = {.rounds = true, .multiplies = false};
        for (size_t i = 0; i < n; i++) {
            dst[i] = N(final)(src[i], &divide, scale);
        }
    }
}

static void
N(row)(const void *from, void *to, size_t n, const pd_rounding *rounding, bool stream)
{
    const FROM *src = from;
    TO *dst = to;
    if (!stream) {
        N(finish_row)(src, dst, n, rounding);
        return;
    }
    size_t head = (64 - (uintptr_t)dst % 64) % 64 / sizeof(TO);
    head = head < n ? head : n;
    N(finish_row)(src, dst, head, rounding);
    size_t i = head;
    if (!rounding->rounds && sizeof(FROM) == sizeof(TO)) {
        for (; n - i >= LINE_ITEMS; i += LINE_ITEMS) {
            stream_line(dst + i, src + i);
        }
    }
    while (n - i >= LINE_ITEMS) {
        _Alignas(64) TO buffer[BUFFER_ITEMS];
        size_t count = n - i < BUFFER_ITEMS ? n - i : BUFFER_ITEMS;
        count -= count % LINE_ITEMS;
        N(finish_row)(src + i, buffer, count, rounding);
        for (size_t k = 0; k < count; k += LINE_ITEMS) {
            stream_line(dst + i + k, buffer + k);
        }
        i += count;
    }
    N(finish_row)(src + i, dst + i, n - i, rounding);
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

#undef LINE_ITEMS
#undef BUFFER_ITEMS
