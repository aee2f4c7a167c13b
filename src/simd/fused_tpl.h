// A metric of few features and the store of its values in one pass, without a tile.
//
// Through a tile, arithmetic and streaming stores take turns: the stores of a row wait
// for memory while nothing is computed, since at most some 70 stores may be under way.
// Here a block of BLOCK pairs is computed and stored at once, so that memory is busy all
// the time.  The operations and their order are those of metrics_tpl.h and store_tpl.h,
// so the bits are the same.
//
//     columns: [feature][column_stride], a block is BLOCK columns of it
//         k=0 | y00 y10 y20 ...
//         k=1 | y01 y11 y21 ...

#define BLOCK_VECTORS 4  // enough sums at a time to hide the latency of an addition
#define BLOCK (BLOCK_VECTORS * FROM_LANES)

// The values of the pairs of row x and BLOCK columns.
static inline __attribute__((always_inline)) void
N(fused_block)(FROM_VEC (*add)(FROM_VEC, FROM_VEC),
               const FROM *x,
               const FROM *columns,
               const size_t features,
               const pd_fused_job *job,
               FROM *values)
{
    FROM_VEC sums[BLOCK_VECTORS];
    for (size_t v = 0; v < BLOCK_VECTORS; v++) {
        sums[v] = FROM_N(set1)(0);
    }
    for (size_t k = 0; k < features; k++) {
        FROM_VEC xk = FROM_N(set1)(x[k]);
        const FROM *y = columns + k * job->column_stride;
        for (size_t v = 0; v < BLOCK_VECTORS; v++) {
            sums[v] = add(FROM_N(load)(y + v * FROM_LANES) - xk, sums[v]);
        }
    }
    for (size_t v = 0; v < BLOCK_VECTORS; v++) {
        FROM_VEC sum = job->finish == PD_FINISH_SQRT ? FROM_N(sqrt)(sums[v]) : sums[v];
        FROM_N(store)(values + v * FROM_LANES, sum);
    }
    if (job->finish == PD_FINISH_EXP) {
        FROM_N(finish_exp)(values, BLOCK, job->parameter);
    }
}

static inline __attribute__((always_inline)) void
N(fused_row)(FROM_VEC (*add)(FROM_VEC, FROM_VEC),
             const FROM *x,
             const size_t features,
             const pd_fused_job *job,
             const TO_N(rounder) * rounder,
             TO *dst)
{
    _Alignas(64) FROM values[BLOCK];
    for (size_t i = 0; i < job->cols; i += BLOCK) {
        N(fused_block)(add, x, (const FROM *)job->columns + i, features, job, values);
        if (job->cols - i < BLOCK) {
            N(final_values)(values, dst + i, job->cols - i, rounder);
            break;
        }
        for (size_t k = 0; k < BLOCK; k += TO_LANES) {
            TO_N(store)(dst + i + k, TO_N(round)(LOAD_AS(values + k), rounder));
        }
    }
}

#if HAS_STREAM
// The same past the caches.  A row of results begins anywhere between two boundaries of
// vectors, but columns are loaded from boundaries (elsewhere a load touches two cache
// lines): each vector to store is the end of one result and the start of the next.
//
//     results      | b e f o r e | r e s u l t |
//     stored at             | v e c t o r |          `head` results after `before` begins

typedef struct N(stream) {
    TO *dst;      // the row
    size_t cols;  // its length
    size_t head;  // results before the first boundary
    TO_N(shift) shift;
    const TO_N(rounder) * rounder;
} N(stream);

// Streams v to dst[at], on a boundary, or stores what of it is inside the row.
static inline void
N(put)(const N(stream) * s, size_t at, TO_VEC v)
{
    if (at + TO_LANES <= s->cols) {
        TO_N(stream)(s->dst + at, v);
    }
    else if (at < s->cols) {
        TO_N(store_some)(s->dst + at, v, s->cols - at);
    }
}

// The block that begins at column i and has an end of the row in it.  Returns its last
// result.
static __attribute__((noinline)) TO_VEC
N(put_end_block)(const N(stream) * s, const FROM *values, size_t i, TO_VEC before)
{
    for (size_t k = 0; k < BLOCK && i + k < s->cols; k += TO_LANES) {
        TO_VEC result = TO_N(round)(LOAD_AS(values + k), s->rounder);
        if (i + k > 0) {
            N(put)(s, i + k - TO_LANES + s->head,
                   TO_N(shifted)(before, result, s->shift));
        }
        else {
            TO_N(store_some)(s->dst, result, s->head < s->cols ? s->head : s->cols);
        }
        before = result;
    }
    return before;
}

// Any other block.
static inline __attribute__((always_inline)) TO_VEC
N(put_inner_block)(const N(stream) * s,
                   const TO_N(rounder) * rounder,
                   const FROM *values,
                   size_t i,
                   TO_VEC before)
{
    TO *to = s->dst + i - TO_LANES + s->head;
    for (size_t k = 0; k < BLOCK; k += TO_LANES) {
        TO_VEC result = TO_N(round)(LOAD_AS(values + k), rounder);
        TO_N(stream)(to + k, TO_N(shifted)(before, result, s->shift));
        before = result;
    }
    return before;
}

static inline __attribute__((always_inline)) void
N(fused_row_streamed)(FROM_VEC (*add)(FROM_VEC, FROM_VEC),
                      const FROM *x,
                      const size_t features,
                      const pd_fused_job *job,
                      const TO_N(rounder) * rounder,
                      TO *dst)
{
    const size_t head = items_to_boundary(dst, sizeof(TO_VEC), sizeof(TO));
    const N(stream) s = {dst, job->cols, head, TO_N(shift_by)(head), rounder};
    const TO_N(rounder) own = *rounder;  // in registers: nobody else has its address
    TO_VEC before = TO_N(set1)(0);
    _Alignas(64) FROM values[BLOCK];
    for (size_t i = 0; i < job->cols; i += BLOCK) {
        N(fused_block)(add, x, (const FROM *)job->columns + i, features, job, values);
        if (i == 0 || job->cols - i < BLOCK) {
            before = N(put_end_block)(&s, values, i, before);
        }
        else if (rounder->way == TO_N(ROUND_NOT)) {
            const TO_N(rounder) none = {.way = TO_N(ROUND_NOT)};
            before = N(put_inner_block)(&s, &none, values, i, before);
        }
        else {
            before = N(put_inner_block)(&s, &own, values, i, before);
        }
    }
    size_t last = (job->cols - 1) / TO_LANES * TO_LANES;  // where `before` begins
    N(put)(&s, last + head, TO_N(shifted)(before, before, s.shift));
}
#endif

static inline __attribute__((always_inline)) void
N(fused_rows)(FROM_VEC (*add)(FROM_VEC, FROM_VEC),
              const size_t features,
              const pd_fused_job *job)
{
    const TO_N(rounder) rounder = TO_N(rounder_of)(job->rounding);
    for (size_t r = 0; r < job->rows; r++) {
        const FROM *x = (const FROM *)job->x + r * job->x_stride;
        TO *dst = (TO *)job->out + r * job->out_stride;
#if HAS_STREAM
        if (job->stream) {
            N(fused_row_streamed)(add, x, features, job, &rounder, dst);
            continue;
        }
#endif
        N(fused_row)(add, x, features, job, &rounder, dst);
    }
}

// One function a cell; a constant number of features unrolls the loop over them.
#define DEFINE_FUSED(name, add)                         \
    static void N(name)(const pd_fused_job *job)        \
    {                                                   \
        switch (job->features) {                        \
            case 1:                                     \
                N(fused_rows)(add, 1, job);             \
                break;                                  \
            case 2:                                     \
                N(fused_rows)(add, 2, job);             \
                break;                                  \
            case 3:                                     \
                N(fused_rows)(add, 3, job);             \
                break;                                  \
            default:                                    \
                N(fused_rows)(add, job->features, job); \
                break;                                  \
        }                                               \
    }

DEFINE_FUSED(fused_squares, FROM_N(add_square))
DEFINE_FUSED(fused_abs, FROM_N(add_abs))
DEFINE_FUSED(fused_max, FROM_N(take_max))

#undef DEFINE_FUSED
#undef BLOCK
#undef BLOCK_VECTORS
