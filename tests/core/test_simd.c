// The simd layer: every level that this CPU has computes the bits of the plain loops
// written down here, for every tail, unaligned starts and every kind of number.
//
// NaN is one value here: which of its bit patterns comes out is nobody's promise.
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "check.h"
#include "reals.h"
#include "simd/simd.h"

#define LONGEST 67  // every tail of vectors of up to 16 lanes, and some whole ones
#define MAX_NR 64   // columns of the widest panel
#define GUARD 0x5a  // what must not be written keeps this byte

static const pd_simd *level;  // the one under test

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
uniform(double low, double high)
{
    return low + (high - low) * (double)(random_bits() >> 11) * 0x1p-53;
}

static const double specials[] = {
    0.0,      -0.0,      1.0,   -1.0,    0.0005,        -0.0015,  2.5,   1e-3,
    INFINITY, -INFINITY, NAN,   DBL_MAX, DBL_MIN,       5e-324,   1e300, -1e-300,
    FLT_MAX,  FLT_MIN,   1e-45, -1e-45,  FLT_MAX * 1.1, 16777217, 0.5,   1e15,
};

#define SPECIALS (sizeof(specials) / sizeof(specials[0]))

// One number in four is special.
static double
any_number(void)
{
    return random_bits() % 4 == 0 ? specials[random_bits() % SPECIALS] : uniform(-4, 4);
}

// ------------------------------------------------------------------------------
// Cells, packing, flushing
// ------------------------------------------------------------------------------

// The terms of one pair, one after the other, rounded to `real` at each step.
static double
cell_of(
    pd_cell cell, pd_real real, const double *x, const double *y, size_t n, double acc)
{
    for (size_t k = 0; k < n; k++) {
        if (real == PD_F32) {
            float d = (float)y[k] - (float)x[k];
            float sum = (float)acc;
            sum = cell == PD_CELL_SQUARES      ? fmaf(d, d, sum)
                  : cell == PD_CELL_ABS        ? sum + fabsf(d)
                  : isnan(d) || fabsf(d) > sum ? fabsf(d)
                                               : sum;
            acc = (double)sum;
        }
        else {
            double d = y[k] - x[k];
            acc = cell == PD_CELL_SQUARES     ? fma(d, d, acc)
                  : cell == PD_CELL_ABS       ? acc + fabs(d)
                  : isnan(d) || fabs(d) > acc ? fabs(d)
                                              : acc;
        }
    }
    return acc;
}

// Numbers as `real` has them.
static void
fill(double *values, size_t n, pd_real real)
{
    for (size_t i = 0; i < n; i++) {
        double value = any_number();
        values[i] = real == PD_F32 ? (double)(float)value : value;
    }
}

static void
check_cells(pd_real real, size_t rows, size_t cols, size_t features, size_t shift)
{
    const pd_metric_ops *ops = level->metrics[real];
    const size_t nr = ops->panel_cols;
    CHECK(nr >= 1 && nr <= MAX_NR);
    static double x[PD_CELL_ROWS][LONGEST], y[MAX_NR][LONGEST];
    static _Alignas(64) double x_reals[PD_CELL_ROWS * (LONGEST + 3) + 1],
        y_reals[MAX_NR * (LONGEST + 2) + 1], panel[MAX_NR * LONGEST + 1],
        acc[PD_CELL_ROWS * (MAX_NR + 5) + 1];
    const size_t size = pd_real_size(real);
    const size_t x_stride = features + 3;
    const ptrdiff_t y_row = (ptrdiff_t)((features + 2) * size);
    char *x_at = (char *)x_reals + shift * size;
    char *y_at = (char *)y_reals + shift * size;
    char *acc_at = (char *)acc + shift * size;
    for (size_t r = 0; r < rows; r++) {
        fill(x[r], features, real);
        for (size_t k = 0; k < features; k++) {
            put(x_at, real, r * x_stride + k, x[r][k]);
        }
    }
    for (size_t c = 0; c < cols; c++) {
        fill(y[c], features, real);
        for (size_t k = 0; k < features; k++) {
            put(y_at, real, c * (features + 2) + k, y[c][k]);
        }
    }
    ops->pack_panel(y_at, y_row, (ptrdiff_t)size, cols, features, panel, nr);
    for (size_t c = 0; c < nr; c++) {
        for (size_t k = 0; k < features; k++) {
            CHECK(same(get(panel, real, k * nr + c), c < cols ? y[c][k] : 0.0));
        }
    }
    for (int cell = 0; cell < PD_CELLS; cell++) {
        for (int first = 1; first >= 0; first--) {
            // The second round goes on from what the first one left.
            double before[PD_CELL_ROWS][MAX_NR];
            for (size_t i = 0; first && i < PD_CELL_ROWS * (MAX_NR + 5); i++) {
                put(acc_at, real, i, 123);
            }
            for (size_t r = 0; r < rows; r++) {
                for (size_t c = 0; c < cols; c++) {
                    before[r][c] = first ? 0 : get(acc_at, real, r * (nr + 5) + c);
                }
            }
            ops->cells[cell](x_at, x_stride, rows, panel, nr, features, acc_at, nr + 5,
                             first != 0);
            for (size_t r = 0; r < rows; r++) {
                for (size_t c = 0; c < cols; c++) {
                    double wanted = cell_of((pd_cell)cell, real, x[r], y[c], features,
                                            before[r][c]);
                    CHECK(same(get(acc_at, real, r * (nr + 5) + c), wanted));
                }
                for (size_t c = nr; c < nr + 5 && r + 1 < rows; c++) {
                    CHECK(get(acc_at, real, r * (nr + 5) + c) == 123);
                }
            }
        }
    }
}

static void
cells_add_their_terms_in_order(void)
{
    for (int real = 0; real < PD_REALS; real++) {
        size_t nr = level->metrics[real]->panel_cols;
        for (size_t features = 0; features <= LONGEST; features++) {
            for (size_t rows = 1; rows <= PD_CELL_ROWS; rows++) {
                size_t cols = random_bits() % 2 == 0 ? nr : 1 + random_bits() % nr;
                check_cells((pd_real)real, rows, cols, features, features % 2);
            }
        }
    }
}

static void
rows_are_packed_from_any_strides(void)
{
    enum { ROWS = 5, FEATURES = 9 };
    static double source[4 * ROWS * FEATURES + 8], packed[ROWS * FEATURES];
    for (int real = 0; real < PD_REALS; real++) {
        const ptrdiff_t size = (ptrdiff_t)pd_real_size((pd_real)real);
        const ptrdiff_t strides[][2] = {
            {FEATURES * size,     size       },
            {size,                ROWS * size},
            {0,                   size       },
            {FEATURES * size,     0          },
            {-FEATURES * size,    size       },
            {FEATURES * size,     -size      },
            {2 * FEATURES * size, 2 * size   },
        };
        for (size_t i = 0; i < sizeof(source) / sizeof(source[0]); i++) {
            put(source, (pd_real)real, i, any_number());
        }
        const pd_metric_ops *ops = level->metrics[real];
        for (size_t s = 0; s < sizeof(strides) / sizeof(strides[0]); s++) {
            ptrdiff_t row = strides[s][0], col = strides[s][1];
            const char *from = (const char *)source;
            from += (row < 0 ? -row * (ROWS - 1) : 0) +
                    (col < 0 ? -col * (FEATURES - 1) : 0);
            ops->pack_rows(from, row, col, ROWS, FEATURES, packed);
            for (ptrdiff_t r = 0; r < ROWS; r++) {
                for (ptrdiff_t k = 0; k < FEATURES; k++) {
                    CHECK(same(get(packed, (pd_real)real, (size_t)(r * FEATURES + k)),
                               get(from + r * row + k * col, (pd_real)real, 0)));
                }
            }
        }
    }
}

static void
flush_adds_to_wide_sums(void)
{
    static float sums[PD_CELL_ROWS * MAX_NR];
    static double wide[PD_CELL_ROWS * (MAX_NR + 8)],
        before[PD_CELL_ROWS * (MAX_NR + 8)];
    const pd_metric_ops *ops = level->metrics[PD_F32];
    const size_t nr = ops->panel_cols, stride = nr + 8;
    for (int round = 0; round < 100; round++) {
        for (size_t rows = 1; rows <= PD_CELL_ROWS; rows++) {
            for (size_t i = 0; i < rows * nr; i++) {
                sums[i] = (float)any_number();
            }
            for (size_t i = 0; i < rows * stride; i++) {
                wide[i] = before[i] = any_number();
            }
            bool first = round % 2 == 0;
            ops->flush(sums, rows, wide, stride, first);
            for (size_t i = 0; i < rows * stride; i++) {
                size_t r = i / stride, c = i % stride;
                double sum = c < nr ? (double)sums[r * nr + c] : 0;
                double wanted = c >= nr ? before[i] : first ? sum : before[i] + sum;
                CHECK(same(wide[i], wanted));
            }
        }
    }
}

// ------------------------------------------------------------------------------
// What is done to sums in the end
// ------------------------------------------------------------------------------

static void
finishing_touches_n_values(void)
{
    static double values[LONGEST + 2], plain[LONGEST + 2];
    const pd_simd *scalar = pd_simd_named("scalar");
    for (int real = 0; real < PD_REALS; real++) {
        for (size_t n = 0; n <= LONGEST; n++) {
            for (int finish = 0; finish < PD_FINISHES; finish++) {
                for (size_t i = 0; i < LONGEST + 2; i++) {
                    double value = any_number();
                    put(values, (pd_real)real, i, value);
                    put(plain, (pd_real)real, i, value);
                }
                size_t size = pd_real_size((pd_real)real);
                char *at = (char *)values + size;  // unaligned
                level->metrics[real]->finish[finish](at, n, 0.75);
                scalar->metrics[real]->finish[finish]((char *)plain + size, n, 0.75);
                for (size_t i = 0; i < LONGEST + 2; i++) {
                    CHECK(same(get(values, (pd_real)real, i),
                               get(plain, (pd_real)real, i)));
                }
            }
        }
    }
}

static void
square_roots_are_rounded_once(void)
{
    for (int i = 0; i < 20000; i++) {
        double value = fabs(any_number()), root = value;
        float single = (float)value, single_root = single;
        level->metrics[PD_F64]->finish[PD_FINISH_SQRT](&root, 1, 0);
        level->metrics[PD_F32]->finish[PD_FINISH_SQRT](&single_root, 1, 0);
        CHECK(same(root, sqrt(value)));
        CHECK(same((double)single_root, (double)sqrtf(single)));
    }
}

// exp(x) of this level.
static double
exp_of(pd_real real, double x)
{
    double value = 0;
    put(&value, real, 0, x);
    level->metrics[real]->finish[PD_FINISH_EXP](&value, 1, -1.0);
    return get(&value, real, 0);
}

// The error of exp(x) in units of the last place of the exact result, which for
// denormal results is the smallest denormal.
static double
exp_error(pd_real real, double x)
{
    const int digits = real == PD_F32 ? FLT_MANT_DIG : DBL_MANT_DIG;
    const int lowest = real == PD_F32 ? FLT_MIN_EXP : DBL_MIN_EXP;
    long double exact = expl((long double)x);
    int exponent;
    (void)frexpl(exact, &exponent);
    exponent = exponent > lowest ? exponent : lowest;
    long double got = (long double)exp_of(real, x);
    return (double)(fabsl(got - exact) / ldexpl(1, exponent - digits));
}

static void
exp_is_within_one_unit_of_the_last_place(void)
{
    // Below the largest argument whose result is finite, down to where it rounds to 0.
    const double low[PD_REALS] = {-103.9, -745.1}, high[PD_REALS] = {88.722, 709.78};
    double worst[PD_REALS] = {0, 0};
    for (int real = 0; real < PD_REALS; real++) {
        for (int i = 0; i < 200000; i++) {
            double x = i % 4 == 0   ? uniform(-1, 1)
                       : i % 4 == 1 ? uniform(low[real], low[real] + 40)  // denormal
                                    : uniform(low[real], high[real]);
            x = real == PD_F32 ? (double)(float)x : x;
            double error = exp_error((pd_real)real, x);
            worst[real] = error > worst[real] ? error : worst[real];
        }
    }
    printf("    exp: %.3f ULP in float, %.3f ULP in double\n", worst[0], worst[1]);
    CHECK(worst[PD_F32] < 1.0 && worst[PD_F64] < 1.0);
}

static void
exp_has_the_limits_of_ieee(void)
{
    for (int real = 0; real < PD_REALS; real++) {
        double top = real == PD_F32 ? 88.7228 : 709.7827;
        double bottom = real == PD_F32 ? -103.97 : -745.13;
        CHECK(exp_of((pd_real)real, 0.0) == 1.0 && exp_of((pd_real)real, -0.0) == 1.0);
        CHECK(isnan(exp_of((pd_real)real, NAN)));
        CHECK(isinf(exp_of((pd_real)real, INFINITY)));
        CHECK(same(exp_of((pd_real)real, -INFINITY), 0.0));
        CHECK(isfinite(exp_of((pd_real)real, top)) &&
              isinf(exp_of((pd_real)real, top + 1)));
        CHECK(exp_of((pd_real)real, bottom + 0.1) > 0);
        CHECK(same(exp_of((pd_real)real, bottom - 1), 0.0));
        CHECK(isinf(exp_of((pd_real)real, 1e30)) && exp_of((pd_real)real, -1e30) == 0);
        CHECK(exp_of((pd_real)real, 1e-30) == 1.0);
    }
}

// ------------------------------------------------------------------------------
// Storing
// ------------------------------------------------------------------------------

static const struct {
    bool rounds;
    int decimals;
} places[] = {
    {false, 0  },
    {true,  0  },
    {true,  3  },
    {true,  -2 },
    {true,  300}
};

#define PLACES (sizeof(places) / sizeof(places[0]))

static pd_rounding
rounding_to(size_t i)
{
    return (pd_rounding){
        .rounds = places[i].rounds,
        .multiplies = places[i].decimals >= 0,
        .scale = pow(10.0, fabs((double)places[i].decimals)),
    };
}

// As NumPy's .astype(to).round(decimals).
static double
final_of(double value, pd_real to, size_t place)
{
    const pd_rounding rounding = rounding_to(place);
    if (to == PD_F32) {
        float v = (float)value, scale = (float)rounding.scale;
        if (!rounding.rounds) {
            return (double)v;
        }
        return (double)(rounding.multiplies ? rintf(v * scale) / scale
                                            : rintf(v / scale) * scale);
    }
    if (!rounding.rounds) {
        return value;
    }
    return rounding.multiplies ? rint(value * rounding.scale) / rounding.scale
                               : rint(value / rounding.scale) * rounding.scale;
}

#define WIDEST 1200  // more than twice the buffer of streamed lines

static void
check_row(pd_real from, pd_real to, size_t n, size_t shift, size_t place, bool stream)
{
    static _Alignas(64) double source[WIDEST + 1];
    static _Alignas(64) char result[(WIDEST + 64) * sizeof(double)];
    const size_t size = pd_real_size(to);
    const void *src = (const char *)source + pd_real_size(from);  // unaligned
    for (size_t i = 0; i <= n; i++) {
        put(source, from, i, any_number());
    }
    memset(result, GUARD, sizeof(result));
    char *dst = result + 64 + shift * size;
    pd_rounding rounding = rounding_to(place);
    level->store->row[from][to](src, dst, n, &rounding, stream);
    level->store->fence();
    for (size_t i = 0; i < n; i++) {
        CHECK(same(get(dst, to, i), final_of(get(src, from, i), to, place)));
    }
    for (const char *c = result; c < result + sizeof(result); c++) {
        CHECK((c >= dst && c < dst + n * size) || *c == GUARD);
    }
}

static void
rows_are_cast_rounded_and_stored(void)
{
    for (int from = 0; from < PD_REALS; from++) {
        for (int to = 0; to < PD_REALS; to++) {
            for (size_t place = 0; place < PLACES; place++) {
                for (int stream = 0; stream < 2; stream++) {
                    for (size_t n = 0; n <= LONGEST; n++) {
                        check_row((pd_real)from, (pd_real)to, n, n % 17, place,
                                  stream != 0);
                    }
                    for (size_t n = 500; n <= WIDEST; n += 77) {
                        check_row((pd_real)from, (pd_real)to, n, n % 16, place,
                                  stream != 0);
                    }
                }
            }
        }
    }
}

// As simd.h says it.
static bool
doubted(double v, double t, pd_real from, pd_real to, size_t place)
{
    if (isnan(t) || isinf(t)) {
        return true;
    }
    if (t == 0 || (from <= to && !places[place].rounds)) {
        return false;
    }
    double low = from == PD_F32 ? (double)((float)v - (float)t) : v - t;
    double high = from == PD_F32 ? (double)((float)v + (float)t) : v + t;
    return !same(final_of(low, to, place), final_of(high, to, place));
}

static void
doubts_are_where_roundings_differ(void)
{
    static double values[LONGEST + 1], doubts[LONGEST + 1];
    unsigned char flags[LONGEST + 1];
    size_t found = 0;
    for (int combination = 0; combination < 4; combination++) {
        const pd_real from = (pd_real)(combination / 2),
                      to = (pd_real)(combination % 2);
        for (size_t place = 0; place < PLACES; place++) {
            pd_rounding rounding = rounding_to(place);
            for (size_t n = 0; n <= LONGEST; n++) {
                for (size_t i = 0; i < n; i++) {
                    put(values, from, i, any_number());
                    put(doubts, from, i,
                        i % 3 == 0   ? 0
                        : i % 3 == 1 ? fabs(any_number())
                                     : uniform(0, 1e-3));
                }
                memset(flags, GUARD, sizeof(flags));
                size_t count = level->store->doubtful[from][to](values, doubts, n,
                                                                &rounding, flags);
                size_t wanted = 0;
                for (size_t i = 0; i < n; i++) {
                    bool doubt = doubted(get(values, from, i), get(doubts, from, i),
                                         from, to, place);
                    CHECK(flags[i] == doubt);
                    wanted += doubt;
                }
                CHECK(count == wanted && flags[n] == GUARD);
                CHECK(level->store->doubtful[from][to](values, doubts, n, &rounding,
                                                       NULL) == wanted);
                found += wanted;
            }
        }
    }
    CHECK(found > 1000);
}

// ------------------------------------------------------------------------------
// Dispatch
// ------------------------------------------------------------------------------

static void
levels_are_chosen_by_name(void)
{
    const char *names[PD_SIMD_LEVELS];
    size_t count = pd_simd_available(names);
    CHECK(count >= 1 && count <= PD_SIMD_LEVELS);
    CHECK(strcmp(names[count - 1], "scalar") == 0);
    CHECK(pd_simd_active() == pd_simd_named(names[0]));
    CHECK(pd_simd_named("nonsense") == NULL && pd_simd_named("") == NULL);
    for (size_t i = 0; i < count; i++) {
        pd_simd_select(pd_simd_named(names[i]));
        CHECK(strcmp(pd_simd_active()->name, names[i]) == 0);
    }
    pd_simd_select(pd_simd_named(names[0]));
}

int
main(void)
{
    RUN(levels_are_chosen_by_name);
    const char *names[PD_SIMD_LEVELS];
    size_t count = pd_simd_available(names);
    for (size_t i = 0; i < count; i++) {
        level = pd_simd_named(names[i]);
        printf(" %s\n", level->name);
        RUN(cells_add_their_terms_in_order);
        RUN(rows_are_packed_from_any_strides);
        RUN(flush_adds_to_wide_sums);
        RUN(finishing_touches_n_values);
        RUN(square_roots_are_rounded_once);
        RUN(exp_is_within_one_unit_of_the_last_place);
        RUN(exp_has_the_limits_of_ieee);
        RUN(rows_are_cast_rounded_and_stored);
        RUN(doubts_are_where_roundings_differ);
    }
    return 0;
}
