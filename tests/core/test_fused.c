// The one-pass way of a metric into its result: the same bits as cells, finish and store,
// for every start and length of a row; and the rounding that does without a division.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "check.h"
#include "reals.h"
#include "simd/simd.h"

#define ROWS 3
#define LONGEST 300
#define MOST_FEATURES 34
#define STRIDE (LONGEST + 20 + PD_FUSED_PADDING)
#define GUARD 0x5a

static const pd_simd *level;  // the one under test

static uint64_t seed = 1;

static double
any_number(void)
{
    static const double specials[] = {0.0, -0.0, NAN, INFINITY, -INFINITY, 1e30, 2.5};
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t bits = seed >> 33;
    return bits % 32 < 7 ? specials[bits % 32] : (double)bits * 0x1p-28 - 4;
}

// ------------------------------------------------------------------------------
// One pass against three
// ------------------------------------------------------------------------------

typedef struct shape {
    pd_cell cell;
    pd_finish finish;
    size_t features;
    size_t cols;
    size_t shift;  // results from a boundary of 64 bytes to the first
    size_t gap;    // results between two rows
    int place;     // decimals; NO_PLACE: not rounded
    bool stream;
} shape;

#define NO_PLACE 100

static pd_rounding
rounding_to(int place)
{
    return (pd_rounding){
        .rounds = place != NO_PLACE,
        .multiplies = place >= 0,
        .scale = place == NO_PLACE ? 1 : pow(10.0, fabs((double)place)),
    };
}

static _Alignas(64) double x[ROWS * MOST_FEATURES];
static _Alignas(64) double columns[STRIDE * MOST_FEATURES];

// Row r of the result, by way of a tile.
static void
through_a_tile(const shape *s, pd_real from, pd_real to, size_t r, void *row)
{
    static _Alignas(64) double sums[STRIDE];
    const pd_metric_ops *ops = level->metrics[from];
    const size_t size = pd_real_size(from);
    const pd_rounding rounding = rounding_to(s->place);
    for (size_t c = 0; c < s->cols; c += ops->panel_cols) {
        ops->cells[s->cell]((char *)x + r * s->features * size, s->features, 1,
                            (char *)columns + c * size, STRIDE, s->features,
                            (char *)sums + c * size, STRIDE, true);
    }
    ops->finish[s->finish](sums, s->cols, 0.5);
    level->store->row[from][to](sums, row, s->cols, &rounding, false);
}

static void
check_shape(const shape *s, pd_real from, pd_real to)
{
    static _Alignas(64) char result[(ROWS * (LONGEST + 20) + 64) * sizeof(double)];
    static _Alignas(64) char expected[STRIDE * sizeof(double)];
    const size_t size = pd_real_size(to);
    const pd_rounding rounding = rounding_to(s->place);
    for (size_t i = 0; i < ROWS * s->features; i++) {
        put(x, from, i, any_number());
    }
    for (size_t i = 0; i < STRIDE * s->features; i++) {
        put(columns, from, i, any_number());
    }
    memset(result, GUARD, sizeof(result));
    char *first = result + 64 + s->shift * size;
    const size_t stride = s->cols + s->gap;
    const pd_fused_job job = {
        .x = x,
        .x_stride = s->features,
        .rows = ROWS,
        .columns = columns,
        .column_stride = STRIDE,
        .cols = s->cols,
        .features = s->features,
        .finish = s->finish,
        .parameter = 0.5,
        .out = first,
        .out_stride = stride,
        .rounding = &rounding,
        .stream = s->stream,
    };
    level->fused->rows[s->cell][from][to](&job);
    level->store->fence();
    for (size_t r = 0; r < ROWS; r++) {
        char *row = first + r * stride * size;
        through_a_tile(s, from, to, r, expected);
        for (size_t c = 0; c < s->cols; c++) {
            CHECK(same(get(row, to, c), get(expected, to, c)));
        }
        memset(row, GUARD, s->cols * size);
    }
    for (size_t i = 0; i < sizeof(result); i++) {
        CHECK(result[i] == GUARD);  // nothing was written beside the rows
    }
}

static void
check_types(const shape *s)
{
    for (int from = 0; from < PD_REALS; from++) {
        for (int to = 0; to < PD_REALS; to++) {
            check_shape(s, (pd_real)from, (pd_real)to);
        }
    }
}

static void
one_pass_has_the_bits_of_three(void)
{
    static const size_t features[] = {0, 1, 2, 3, 4, 16, MOST_FEATURES};
    static const int places[] = {NO_PLACE, 3, 0, 9, -1};
    size_t turn = 0;
    for (int cell = 0; cell < PD_CELLS; cell++) {
        for (int finish = 0; finish < PD_FINISHES; finish++) {
            for (size_t f = 0; f < sizeof(features) / sizeof(features[0]); f++) {
                for (size_t p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
                    turn++;
                    check_types(&(shape){(pd_cell)cell, (pd_finish)finish, features[f],
                                         1 + turn * 37 % LONGEST, turn % 16, turn % 5,
                                         places[p], turn % 3 > 0});
                }
            }
        }
    }
}

static void
rows_begin_and_end_anywhere(void)
{
    for (size_t cols = 1; cols <= 140; cols++) {
        for (size_t shift = 0; shift < 16; shift++) {
            check_types(
                &(shape){PD_CELL_ABS, PD_FINISH_NONE, 1, cols, shift, 0, 3, true});
        }
    }
}

// ------------------------------------------------------------------------------
// Rounding
// ------------------------------------------------------------------------------

// Every float of one binade; the others have the same significands.
static void
integers_are_divided_exactly(void)
{
    enum { COUNT = 4096 };
    static float values[COUNT], results[COUNT];
    for (int place = 1; place <= 8; place++) {
        const pd_rounding rounding = rounding_to(place);
        const float scale = (float)rounding.scale;
        for (uint32_t start = 1u << 23; start < 1u << 24; start += COUNT) {
            for (uint32_t i = 0; i < COUNT; i++) {
                values[i] = (float)((double)(start + i) / rounding.scale);
            }
            level->store->row[PD_F32][PD_F32](values, results, COUNT, &rounding, false);
            for (uint32_t i = 0; i < COUNT; i++) {
                CHECK(results[i] == rintf(values[i] * scale) / scale);
            }
        }
    }
}

static void
doubles_are_divided_exactly(void)
{
    enum { COUNT = 4096 };
    static double values[COUNT], results[COUNT];
    for (int place = 1; place <= 8; place++) {
        const pd_rounding rounding = rounding_to(place);
        for (int turn = 0; turn < 200; turn++) {
            for (size_t i = 0; i < COUNT; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                // All of the 53 bits, more often near to a power of two.
                double whole = (double)((seed >> 11) | (UINT64_C(1) << 52));
                values[i] = ldexp(whole, -(int)(seed % 60)) / rounding.scale;
            }
            level->store->row[PD_F64][PD_F64](values, results, COUNT, &rounding, false);
            for (size_t i = 0; i < COUNT; i++) {
                CHECK(results[i] == rint(values[i] * rounding.scale) / rounding.scale);
            }
        }
    }
}

int
main(void)
{
    const char *names[PD_SIMD_LEVELS];
    size_t count = pd_simd_available(names);
    for (size_t i = 0; i < count; i++) {
        level = pd_simd_named(names[i]);
        printf(" %s\n", level->name);
        RUN(one_pass_has_the_bits_of_three);
        RUN(rows_begin_and_end_anywhere);
        RUN(integers_are_divided_exactly);
        RUN(doubles_are_divided_exactly);
    }
    return 0;
}
