// The pairwise layer: metrics against sums written down here, bit for bit, for any
// strides, level and number of threads; each pair and each doubt once; errors, cancelling
// and failing allocations leave nothing behind.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "check.h"
#include "reals.h"
#include "pairwise/driver.h"
#include "pairwise/metric.h"
#include "pairwise/store.h"
#include "simd/simd.h"
#include "thread/team.h"

static const pd_rounding as_it_is = {.rounds = false, .multiplies = true, .scale = 1};

static uint64_t seed = 88172645463325252u;

static uint64_t
random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static double
random_number(void)
{
    return (double)(random_bits() >> 11) * 0x1p-51 - 2;
}

static double
element(const pd_matrix *matrix, size_t row, size_t col)
{
    return get(matrix->data + (ptrdiff_t)row * matrix->row_stride +
                   (ptrdiff_t)col * matrix->col_stride,
               matrix->real, 0);
}

// ------------------------------------------------------------------------------
// What a metric's value is
// ------------------------------------------------------------------------------

enum kind { CITYBLOCK, SQEUCLIDEAN, EUCLIDEAN, CHEBYSHEV, RBF, KINDS };

static const char *const names[] = {"cityblock", "sqeuclidean", "euclidean",
                                    "chebyshev", "rbf"};

#define GAMMA 0.3

static double
term(enum kind kind, double d, double sum)
{
    switch (kind) {
        case CITYBLOCK:
            return sum + fabs(d);
        case CHEBYSHEV:
            return isnan(d) || fabs(d) > sum ? fabs(d) : sum;
        default:
            return fma(d, d, sum);
    }
}

static float
term_in_float(enum kind kind, float d, float sum)
{
    switch (kind) {
        case CITYBLOCK:
            return sum + fabsf(d);
        case CHEBYSHEV:
            return isnan(d) || fabsf(d) > sum ? fabsf(d) : sum;
        default:
            return fmaf(d, d, sum);
    }
}

// `sum` as a value of the metric, in `real`.  exp() is the scalar level's, which
// test_simd.c measures.
static double
finish(enum kind kind, pd_real real, double sum)
{
    if (kind == EUCLIDEAN) {
        return real == PD_F32 ? (double)sqrtf((float)sum) : sqrt(sum);
    }
    if (kind == RBF) {
        double value = 0;
        put(&value, real, 0, sum);
        pd_simd_named("scalar")->metrics[real]->finish[PD_FINISH_EXP](&value, 1, GAMMA);
        return get(&value, real, 0);
    }
    return sum;
}

static double
value_of(enum kind kind, const pd_matrix *x, size_t i, const pd_matrix *y, size_t j)
{
    const size_t features = x->cols;
    if (x->real == PD_F64) {
        double sum = 0;
        for (size_t k = 0; k < features; k++) {
            sum = term(kind, element(y, j, k) - element(x, i, k), sum);
        }
        return finish(kind, PD_F64, sum);
    }
    const bool widens = kind != CHEBYSHEV && features > PD_METRIC_FLUSH;
    double wide = 0;
    float sum = 0;
    for (size_t k = 0; k < features; k++) {
        float d = (float)element(y, j, k) - (float)element(x, i, k);
        sum = term_in_float(kind, d, sum);
        if (widens && ((k + 1) % PD_METRIC_FLUSH == 0 || k + 1 == features)) {
            wide += (double)sum;
            sum = 0;
        }
    }
    return widens ? (double)(float)finish(kind, PD_F64, wide)
                  : finish(kind, PD_F32, (double)sum);
}

// ------------------------------------------------------------------------------
// Points at any strides
// ------------------------------------------------------------------------------

enum layout {
    PACKED,
    WIDE_ROWS,
    BY_COLUMN,
    ROWS_BACKWARDS,
    FEATURES_BACKWARDS,
    ONE_ROW,
    ONE_FEATURE,
    LAYOUTS,
};

// A matrix laid out in a fresh block, which the caller frees.
static pd_matrix
make_points(size_t rows, size_t cols, pd_real real, enum layout layout, void **block)
{
    const ptrdiff_t size = (ptrdiff_t)pd_real_size(real);
    const ptrdiff_t height = (ptrdiff_t)rows, width = (ptrdiff_t)cols;
    const size_t count = rows * (cols + 3) + 1;
    *block = pd_alloc(count, pd_real_size(real));
    CHECK(*block != NULL);
    for (size_t i = 0; i < count; i++) {
        put(*block, real, i, random_number());
    }
    // Off the line's boundary by one element.
    const char *first = (const char *)*block + size;
    pd_matrix matrix = {.rows = rows, .cols = cols, .real = real};
    switch (layout) {
        case WIDE_ROWS:
            matrix.row_stride = (width + 3) * size, matrix.col_stride = size;
            break;
        case BY_COLUMN:
            matrix.row_stride = size, matrix.col_stride = height * size;
            break;
        case ROWS_BACKWARDS:
            matrix.row_stride = -width * size, matrix.col_stride = size;
            first += rows > 0 ? (height - 1) * width * size : 0;
            break;
        case FEATURES_BACKWARDS:
            matrix.row_stride = width * size, matrix.col_stride = -size;
            first += cols > 0 ? (width - 1) * size : 0;
            break;
        case ONE_ROW:
            matrix.row_stride = 0, matrix.col_stride = size;
            break;
        case ONE_FEATURE:
            matrix.row_stride = size, matrix.col_stride = 0;
            break;
        default:
            matrix.row_stride = width * size, matrix.col_stride = size;
            break;
    }
    matrix.data = first;
    return matrix;
}

// All pairs into `out`, of the metric's own type, without rounding.
static pd_status
compute(enum kind kind,
        const pd_matrix *x,
        const pd_matrix *y,
        const pd_simd *simd,
        unsigned members,
        void *out)
{
    pd_producer *producer = NULL;
    pd_store *store = NULL;
    pd_status status = pd_metric_producer_create(pd_metric_named(names[kind]), x, y,
                                                 GAMMA, simd, &producer);
    if (status != PD_OK) {
        CHECK(producer == NULL);
        return status;
    }
    status = pd_store_create(out, x->real, x->rows, y->rows, &as_it_is, members, simd,
                             &store);
    if (status == PD_OK) {
        pd_walk walk = {.rows = x->rows, .cols = y->rows, .members = members};
        status = pd_walk_tiles(producer, pd_store_consumer(store), &walk);
        pd_doubts doubts = pd_store_doubts(store);
        CHECK(doubts.pair_count == 0 && doubts.rectangle_count == 0);
    }
    else {
        CHECK(store == NULL);
    }
    pd_store_destroy(store);
    pd_metric_producer_destroy(producer);
    return status;
}

static void
check_values(enum kind kind,
             const pd_matrix *x,
             const pd_matrix *y,
             const double *wanted)
{
    const size_t count = x->rows * y->rows;
    const char *levels[PD_SIMD_LEVELS];
    const size_t level_count = pd_simd_available(levels);
    void *out = pd_alloc(count, pd_real_size(x->real));
    CHECK(out != NULL);
    for (size_t level = 0; level < level_count; level++) {
        for (unsigned members = 1; members <= 4; members += x->cols > 100 ? 3 : 1) {
            memset(out, 0x5a, count * pd_real_size(x->real));
            CHECK(compute(kind, x, y, pd_simd_named(levels[level]), members, out) ==
                  PD_OK);
            for (size_t i = 0; i < count; i++) {
                CHECK(same(get(out, x->real, i), wanted[i]));
            }
        }
    }
    pd_free(out);
}

static void
check_metrics(size_t n, size_t m, size_t features, enum layout x_as, enum layout y_as)
{
    double *wanted = pd_alloc(n * m, sizeof(*wanted));
    CHECK(wanted != NULL);
    for (int real = 0; real < PD_REALS; real++) {
        void *x_block, *y_block;
        pd_matrix x = make_points(n, features, (pd_real)real, x_as, &x_block);
        pd_matrix y = make_points(m, features, (pd_real)real, y_as, &y_block);
        for (int kind = 0; kind < KINDS; kind++) {
            for (size_t i = 0; i < n * m; i++) {
                wanted[i] = value_of((enum kind)kind, &x, i / m, &y, i % m);
            }
            check_values((enum kind)kind, &x, &y, wanted);
        }
        pd_free(y_block);
        pd_free(x_block);
    }
    pd_free(wanted);
}

static void
metrics_have_the_same_bits_at_any_strides(void)
{
    const size_t features[] = {0, 1, 3, 16, 33, 128};
    for (size_t f = 0; f < sizeof(features) / sizeof(features[0]); f++) {
        for (int layout = 0; layout < LAYOUTS; layout++) {
            check_metrics(13, 37, features[f], (enum layout)layout,
                          (enum layout)((layout * 3 + 1) % LAYOUTS));
        }
    }
}

static void
metrics_have_the_same_bits_for_many_features(void)
{
    check_metrics(9, 35, 1024, PACKED, PACKED);
    check_metrics(9, 35, 1500, PACKED, BY_COLUMN);
    check_metrics(135, 19, 1025, ROWS_BACKWARDS, PACKED);
}

static void
metrics_have_the_same_bits_in_many_tiles(void)
{
    check_metrics(61, 2500, 1, PACKED, PACKED);
    check_metrics(61, 1300, 3, BY_COLUMN, WIDE_ROWS);
    check_metrics(77, 1100, 40, PACKED, BY_COLUMN);
    check_metrics(1, 700, 2, PACKED, PACKED);
    check_metrics(700, 1, 2, PACKED, PACKED);
}

static void
nan_makes_its_pairs_nan_and_no_others(void)
{
    enum { N = 7, FEATURES = 5 };
    for (int real = 0; real < PD_REALS; real++) {
        for (int kind = 0; kind < KINDS; kind++) {
            void *block;
            double out[N * N];
            pd_matrix x = make_points(N, FEATURES, (pd_real)real, PACKED, &block);
            put((char *)block + pd_real_size((pd_real)real), (pd_real)real,
                2 * FEATURES + 3, NAN);
            CHECK(compute((enum kind)kind, &x, &x, pd_simd_active(), 1, out) == PD_OK);
            for (size_t i = 0; i < N * N; i++) {
                CHECK(!!isnan(get(out, (pd_real)real, i)) ==
                      (i / N == 2 || i % N == 2));
            }
            pd_free(block);
        }
    }
}

static void
infinities_follow_ieee(void)
{
    const double points[] = {INFINITY, -INFINITY, 1};
    const double apart[KINDS] = {INFINITY, INFINITY, INFINITY, INFINITY, 0};
    pd_matrix x = {.data = (const char *)points,
                   .row_stride = sizeof(double),
                   .rows = 3,
                   .cols = 1,
                   .real = PD_F64};
    for (int kind = 0; kind < KINDS; kind++) {
        double out[9];
        CHECK(compute((enum kind)kind, &x, &x, pd_simd_active(), 1, out) == PD_OK);
        CHECK(isnan(out[0]) && isnan(out[4]) && out[8] == (kind == RBF ? 1.0 : 0.0));
        CHECK(out[1] == apart[kind] && out[2] == apart[kind] && out[7] == apart[kind]);
    }
}

static void
metrics_that_do_not_fit_are_refused(void)
{
    void *block;
    pd_producer *producer = NULL;
    pd_matrix x = make_points(2, 3, PD_F64, PACKED, &block);
    pd_matrix narrow = x, single = x;
    narrow.cols = 2;
    single.real = PD_F32;
    CHECK(pd_metric_named("nonsense") == NULL);
    const pd_metric *metric = pd_metric_named("cityblock");
    CHECK(pd_metric_producer_create(metric, &x, &narrow, 0, pd_simd_active(),
                                    &producer) == PD_EINVAL);
    CHECK(pd_metric_producer_create(metric, &x, &single, 0, pd_simd_active(),
                                    &producer) == PD_EINVAL);
    CHECK(producer == NULL);
    pd_metric_producer_destroy(NULL);
    pd_free(block);
}

// ------------------------------------------------------------------------------
// The driver, by a producer and a consumer that only count
// ------------------------------------------------------------------------------

#define MAX_ROWS 90
#define MAX_COLS 120

typedef struct counter {
    pd_producer producer;
    pd_consumer consumer;
    size_t rows, cols;
    size_t fail_row, fail_col;  // the tile with this pair fails; SIZE_MAX: none
    bool fails_in_prepare, fails_in_take;
    long sleep_ns;  // of each tile
    _Atomic unsigned taken[MAX_ROWS * MAX_COLS];
    _Atomic unsigned strips_open[PD_TEAM_MAX];  // tiles since the last end of a strip
    _Atomic size_t tiles;
} counter;

typedef struct scratch {
    size_t col, cols;
} scratch;

static bool
holds(const counter *self, const pd_tile *tile)
{
    return self->fail_row - tile->row < tile->rows &&
           self->fail_col - tile->col < tile->cols;
}

static pd_status
count_prepare(const pd_producer *base, size_t col, size_t cols, void *memory)
{
    const counter *self = (const counter *)base;
    CHECK(col % base->tile_cols == 0 && cols >= 1 && cols <= base->tile_cols);
    *(scratch *)memory = (scratch){.col = col, .cols = cols};
    return self->fails_in_prepare && self->fail_col - col < cols ? PD_EOS : PD_OK;
}

static pd_status
count_fill(const pd_producer *base, pd_tile *tile, void *memory)
{
    const counter *self = (const counter *)base;
    const scratch *mine = memory;
    CHECK(mine->col == tile->col && mine->cols == tile->cols);
    CHECK(tile->rows >= 1 && tile->rows <= base->tile_rows);
    CHECK(tile->stride >= tile->cols && tile->stride * sizeof(double) % 64 == 0);
    CHECK((uintptr_t)tile->values % 64 == 0 && (uintptr_t)tile->doubts % 64 == 0);
    CHECK((tile->doubts != NULL) == base->has_doubts);
    for (size_t r = 0; r < tile->rows; r++) {
        for (size_t c = 0; c < tile->stride; c++) {  // the padding too
            ((double *)tile->values)[r * tile->stride + c] =
                (double)((tile->row + r) * 1000 + tile->col + c);
        }
    }
    if (self->sleep_ns > 0) {
        struct timespec time = {0, self->sleep_ns};
        nanosleep(&time, NULL);
    }
    return !self->fails_in_take && !self->fails_in_prepare && holds(self, tile) ? PD_EOS
                                                                                : PD_OK;
}

static counter *
counter_of(pd_consumer *consumer)
{
    return (counter *)(void *)((char *)consumer - offsetof(counter, consumer));
}

static pd_status
count_take(pd_consumer *base, const pd_tile *tile, unsigned member)
{
    counter *self = counter_of(base);
    atomic_fetch_add(&self->strips_open[member], 1);
    atomic_fetch_add(&self->tiles, 1);
    if (self->fails_in_take && holds(self, tile)) {
        return PD_EOS;
    }
    for (size_t r = 0; r < tile->rows; r++) {
        for (size_t c = 0; c < tile->cols; c++) {
            size_t i = tile->row + r, j = tile->col + c;
            CHECK(i < self->rows && j < self->cols);
            CHECK(((const double *)tile->values)[r * tile->stride + c] ==
                  (double)(i * 1000 + j));
            atomic_fetch_add(&self->taken[i * self->cols + j], 1);
        }
    }
    return PD_OK;
}

static void
count_end_strip(pd_consumer *base, unsigned member)
{
    counter *self = counter_of(base);
    atomic_store(&self->strips_open[member], 0);
}

static counter k;

static void
set_counter(size_t rows, size_t cols, size_t tile_rows, size_t tile_cols)
{
    memset(&k, 0, sizeof(k));
    k.rows = rows;
    k.cols = cols;
    k.fail_row = k.fail_col = SIZE_MAX;
    k.producer = (pd_producer){
        .real = PD_F64,
        .tile_rows = tile_rows,
        .tile_cols = tile_cols,
        .scratch_bytes = sizeof(scratch),
        .pair_ns = 1000,
        .prepare = count_prepare,
        .fill = count_fill,
    };
    k.consumer = (pd_consumer){.take = count_take, .end_strip = count_end_strip};
}

static pd_status
walk_counter(unsigned members, pd_team_poll poll)
{
    pd_walk walk = {.rows = k.rows, .cols = k.cols, .members = members, .poll = poll};
    pd_status status = pd_walk_tiles(&k.producer, &k.consumer, &walk);
    for (size_t i = 0; i < PD_TEAM_MAX; i++) {
        CHECK(k.strips_open[i] == 0);  // every strip was ended, also after an error
    }
    return status;
}

static void
every_pair_is_taken_once(void)
{
    const size_t tiles[][2] = {
        {1,   1  },
        {3,   7  },
        {8,   64 },
        {200, 300},
        {1,   120},
        {90,  1  }
    };
    const size_t sizes[][2] = {
        {0,  5  },
        {5,  0  },
        {0,  0  },
        {1,  1  },
        {90, 120},
        {17, 61 },
        {89, 2  }
    };
    for (size_t t = 0; t < sizeof(tiles) / sizeof(tiles[0]); t++) {
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            for (unsigned members = 1; members <= 4; members++) {
                set_counter(sizes[s][0], sizes[s][1], tiles[t][0], tiles[t][1]);
                k.producer.pair_ns = members % 2 == 0 ? 1000 : 100000;
                CHECK(walk_counter(members, NULL) == PD_OK);
                for (size_t i = 0; i < k.rows * k.cols; i++) {
                    CHECK(k.taken[i] == 1);
                }
            }
        }
    }
}

static void
small_work_starts_no_thread(void)
{
    pd_team_shutdown();
    set_counter(20, 20, 1, 20);
    k.producer.pair_ns = 1;
    CHECK(walk_counter(4, NULL) == PD_OK);
    CHECK(pd_team_threads() == 0);
    set_counter(20, 20, 1, 20);
    k.producer.pair_ns = 1e6;
    CHECK(walk_counter(4, NULL) == PD_OK);
    CHECK(pd_team_threads() == 3);
}

static void
failures_end_the_walk_and_are_returned(void)
{
    for (int where = 0; where < 3; where++) {
        for (unsigned members = 1; members <= 4; members++) {
            set_counter(90, 120, 4, 16);
            k.fail_row = 41;
            k.fail_col = 50;
            k.fails_in_prepare = where == 1;
            k.fails_in_take = where == 2;
            CHECK(walk_counter(members, NULL) == PD_EOS);
            CHECK(k.taken[41 * 120 + 50] == 0);
            for (size_t i = 0; i < k.rows * k.cols; i++) {
                CHECK(k.taken[i] <= 1);
            }
        }
    }
}

static pd_status
cancel(void *unused)
{
    (void)unused;
    return PD_ECANCELED;
}

static void
the_poll_can_cancel(void)
{
    for (unsigned members = 1; members <= 4; members++) {
        set_counter(90, 120, 1, 1);
        k.producer.pair_ns = 1e6;  // a strip is one tile
        k.sleep_ns = 1000000;
        CHECK(walk_counter(members, cancel) == PD_ECANCELED);
        // It is polled every 20 ms and there are more than ten seconds of work.
        CHECK(k.tiles > 0 && k.tiles < 4000);
    }
}

static void
walks_that_make_no_sense_are_refused(void)
{
    set_counter(5, 5, 2, 2);
    CHECK(walk_counter(0, NULL) == PD_EINVAL);
    k.producer.tile_rows = 0;
    CHECK(walk_counter(1, NULL) == PD_EINVAL);
    // Strips that cannot be counted.
    set_counter(SIZE_MAX / 2, SIZE_MAX / 2, 1, 1);
    CHECK(walk_counter(1, NULL) == PD_EINVAL);
    pd_store *store = NULL;
    CHECK(pd_store_create(NULL, PD_F64, 1, 1, &as_it_is, 0, pd_simd_active(), &store) ==
          PD_EINVAL);
    CHECK(store == NULL);
    pd_store_destroy(NULL);
}

// ------------------------------------------------------------------------------
// Storing, and doubts
// ------------------------------------------------------------------------------

typedef struct doubter {
    pd_producer producer;
    bool (*doubts)(size_t row, size_t col);
} doubter;

static pd_status
fill_doubts(const pd_producer *base, pd_tile *tile, void *unused)
{
    (void)unused;
    const doubter *self = (const doubter *)base;
    for (size_t r = 0; r < tile->rows; r++) {
        for (size_t c = 0; c < tile->stride; c++) {
            size_t at = r * tile->stride + c;
            bool doubt = c < tile->cols && self->doubts(tile->row + r, tile->col + c);
            ((double *)tile->values)[at] = (double)(tile->row + r) + 0.25;
            // The padding is full of doubts that are nobody's.
            ((double *)tile->doubts)[at] = doubt || c >= tile->cols ? INFINITY : 0.0;
        }
    }
    return PD_OK;
}

static bool
no_doubts(size_t row, size_t col)
{
    (void)row;
    (void)col;
    return false;
}

static bool
few_doubts(size_t row, size_t col)
{
    return (row * 31 + col * 17) % 97 == 0;
}

static bool
one_in_three(size_t row, size_t col)
{
    return (row + col) % 3 == 0;
}

static bool
left_half(size_t row, size_t col)
{
    (void)row;
    return col < 200;
}

static bool
every_other_tile(size_t row, size_t col)
{
    (void)col;
    return row / 8 % 2 == 0;
}

static bool
all_doubts(size_t row, size_t col)
{
    (void)row;
    (void)col;
    return true;
}

#define DOUBT_ROWS 600
#define DOUBT_COLS 401

static pd_status
store_doubts(doubter *producer, unsigned members, float *out, unsigned char *seen)
{
    pd_store *store = NULL;
    pd_status status = pd_store_create(out, PD_F32, DOUBT_ROWS, DOUBT_COLS, &as_it_is,
                                       members, pd_simd_active(), &store);
    if (status != PD_OK) {
        CHECK(store == NULL);
        return status;
    }
    pd_walk walk = {.rows = DOUBT_ROWS, .cols = DOUBT_COLS, .members = members};
    status = pd_walk_tiles(&producer->producer, pd_store_consumer(store), &walk);
    pd_doubts doubts = pd_store_doubts(store);
    CHECK(doubts.pair_count <= 1 << 16 && doubts.rectangle_count <= 2000);
    for (size_t i = 0; i < doubts.pair_count; i++) {
        seen[doubts.pairs[i].row * DOUBT_COLS + doubts.pairs[i].col]++;
    }
    for (size_t i = 0; i < doubts.rectangle_count; i++) {
        const pd_rectangle *area = &doubts.rectangles[i];
        CHECK(area->rows > 0 && area->row + area->rows <= DOUBT_ROWS);
        CHECK(area->cols > 0 && area->col + area->cols <= DOUBT_COLS);
        for (size_t at = 0; at < area->rows * area->cols; at++) {
            seen[(area->row + at / area->cols) * DOUBT_COLS + area->col +
                 at % area->cols]++;
        }
    }
    pd_store_destroy(store);
    return status;
}

static doubter
make_doubter(bool (*doubts)(size_t, size_t))
{
    return (doubter){
        .producer = {.real = PD_F64,
                     .has_doubts = true,
                     .tile_rows = 8,
                     .tile_cols = 128,
                     .pair_ns = 10,
                     .fill = fill_doubts},
        .doubts = doubts,
    };
}

static void
each_doubt_is_listed_once(void)
{
    static float out[DOUBT_ROWS * DOUBT_COLS];
    static unsigned char seen[DOUBT_ROWS * DOUBT_COLS];
    bool (*const kinds[])(size_t, size_t) = {every_other_tile, no_doubts, few_doubts,
                                             one_in_three,     left_half, all_doubts};
    for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
        for (unsigned members = 1; members <= 4; members++) {
            doubter producer = make_doubter(kinds[kind]);
            memset(seen, 0, sizeof(seen));
            CHECK(store_doubts(&producer, members, out, seen) == PD_OK);
            size_t listed = 0, doubted = 0;
            for (size_t i = 0; i < DOUBT_ROWS * DOUBT_COLS; i++) {
                bool doubt = kinds[kind](i / DOUBT_COLS, i % DOUBT_COLS);
                // A rectangle may hold pairs that are in no doubt, but none twice.
                CHECK(seen[i] <= 1 && (seen[i] == 1 || !doubt));
                CHECK(out[i] == (float)(i / DOUBT_COLS) + 0.25f);
                listed += seen[i];
                doubted += doubt;
            }
            CHECK(kinds[kind] == one_in_three || listed <= doubted * 2);
        }
    }
}

// ------------------------------------------------------------------------------
// Out of memory
// ------------------------------------------------------------------------------

static void
every_failed_allocation_is_survived(void)
{
    static float out[DOUBT_ROWS * DOUBT_COLS];
    static unsigned char seen[DOUBT_ROWS * DOUBT_COLS];
    void *block;
    pd_matrix x = make_points(60, 40, PD_F32, BY_COLUMN, &block);
    const long live = pd_live_allocs();
    for (unsigned members = 1; members <= 4; members += 3) {
        long n = 1;
        for (pd_status status = PD_ENOMEM; status != PD_OK; n++) {
            pd_fault_after(n);
            status = compute(SQEUCLIDEAN, &x, &x, pd_simd_active(), members, out);
            pd_fault_after(0);
            CHECK(status == PD_OK || status == PD_ENOMEM);
            CHECK(pd_live_allocs() == live);
        }
        CHECK(n > 6);
        doubter producer = make_doubter(one_in_three);
        n = 1;
        for (pd_status status = PD_ENOMEM; status != PD_OK; n++) {
            pd_fault_after(n);
            status = store_doubts(&producer, members, out, seen);
            pd_fault_after(0);
            CHECK(status == PD_OK || status == PD_ENOMEM);
            CHECK(pd_live_allocs() == live);
        }
        CHECK(n > 16);  // the list of pairs grows ten times
    }
    pd_free(block);
}

int
main(void)
{
    RUN(metrics_have_the_same_bits_at_any_strides);
    RUN(metrics_have_the_same_bits_for_many_features);
    RUN(metrics_have_the_same_bits_in_many_tiles);
    RUN(nan_makes_its_pairs_nan_and_no_others);
    RUN(infinities_follow_ieee);
    RUN(metrics_that_do_not_fit_are_refused);
    RUN(every_pair_is_taken_once);
    RUN(small_work_starts_no_thread);
    RUN(failures_end_the_walk_and_are_returned);
    RUN(the_poll_can_cancel);
    RUN(walks_that_make_no_sense_are_refused);
    RUN(each_doubt_is_listed_once);
    RUN(every_failed_allocation_is_survived);
    pd_team_shutdown();
    CHECK(pd_live_allocs() == 0);
    return 0;
}
