// Sums over the features of a block of pairs, and what is done to them in the end.
//
//                 panel: [feature][panel_stride], one lane = one column
//                      k=0 | y00 y10 y20 ... |
//                      k=1 | y01 y11 y21 ... |        ROWS x PANEL_VECTORS vectors of
//     x row r: x_rk  ->    broadcast, subtract, add   sums stay in registers while k runs
//
// One lane is one pair: no horizontal sums, no tails in k, and every pair is summed over
// k in rising order, whatever its neighbours are.

#define NR (PANEL_VECTORS * LANES)

// One term of the sum `acc` of a pair: d is y - x, whose sign no metric here sees.
static inline VEC
N(add_square)(VEC d, VEC acc)
{
    return N(fma)(d, d, acc);
}

static inline VEC
N(add_abs)(VEC d, VEC acc)
{
    return acc + N(abs)(d);
}

static inline VEC
N(take_max)(VEC d, VEC acc)
{
    return N(max_magnitude)(N(abs)(d), acc);
}

// The loop for a constant number of rows, so that sums live in registers.
static inline __attribute__((always_inline)) void
N(cells)(VEC (*add)(VEC, VEC),
         const int rows,
         const REAL *x,
         size_t x_stride,
         const REAL *panel,
         size_t panel_stride,
         size_t features,
         REAL *acc,
         size_t acc_stride,
         bool first)
{
    VEC sums[PD_CELL_ROWS][PANEL_VECTORS];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < PANEL_VECTORS; v++) {
            sums[r][v] =
                first ? N(set1)(0)
                      : N(load)(acc + (size_t)r * acc_stride + (size_t)v * LANES);
        }
    }
    for (size_t k = 0; k < features; k++) {
        VEC y[PANEL_VECTORS];
        for (int v = 0; v < PANEL_VECTORS; v++) {
            y[v] = N(load)(panel + k * panel_stride + (size_t)v * LANES);
        }
        for (int r = 0; r < rows; r++) {
            VEC xr = N(set1)(x[(size_t)r * x_stride + k]);
            for (int v = 0; v < PANEL_VECTORS; v++) {
                sums[r][v] = add(y[v] - xr, sums[r][v]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < PANEL_VECTORS; v++) {
            N(store)(acc + (size_t)r * acc_stride + (size_t)v * LANES, sums[r][v]);
        }
    }
}

// One function a cell: the same loop for 1 .. PD_CELL_ROWS rows.
#define DEFINE_CELLS(name, add)                                                   \
    static void N(name)(const void *x, size_t x_stride, size_t rows,              \
                        const void *panel, size_t panel_stride, size_t features,  \
                        void *acc, size_t acc_stride, bool first)                 \
    {                                                                             \
        switch (rows) {                                                           \
            case 4:                                                               \
                N(cells)(add, 4, x, x_stride, panel, panel_stride, features, acc, \
                         acc_stride, first);                                      \
                break;                                                            \
            case 3:                                                               \
                N(cells)(add, 3, x, x_stride, panel, panel_stride, features, acc, \
                         acc_stride, first);                                      \
                break;                                                            \
            case 2:                                                               \
                N(cells)(add, 2, x, x_stride, panel, panel_stride, features, acc, \
                         acc_stride, first);                                      \
                break;                                                            \
            default:                                                              \
                N(cells)(add, 1, x, x_stride, panel, panel_stride, features, acc, \
                         acc_stride, first);                                      \
                break;                                                            \
        }                                                                         \
    }

DEFINE_CELLS(squares_cells, N(add_square))
DEFINE_CELLS(abs_cells, N(add_abs))
DEFINE_CELLS(max_cells, N(take_max))

static void
N(pack_panel)(const char *src,
              ptrdiff_t row_stride,
              ptrdiff_t col_stride,
              size_t cols,
              size_t features,
              void *panel,
              size_t panel_stride)
{
    REAL *dst = panel;
    for (size_t c = 0; c < panel_stride; c++) {
        const char *from = src + (c < cols ? (ptrdiff_t)c * row_stride : 0);
        for (size_t k = 0; k < features; k++) {
            dst[k * panel_stride + c] =
                c < cols
                    ? *(const REAL *)(const void *)(from + (ptrdiff_t)k * col_stride)
                    : (REAL)0;
        }
    }
}

static void
N(pack_rows)(const char *src,
             ptrdiff_t row_stride,
             ptrdiff_t col_stride,
             size_t rows,
             size_t features,
             void *packed)
{
    REAL *dst = packed;
    for (size_t r = 0; r < rows; r++) {
        const char *from = src + (ptrdiff_t)r * row_stride;
        for (size_t k = 0; k < features; k++) {
            *dst++ = *(const REAL *)(const void *)(from + (ptrdiff_t)k * col_stride);
        }
    }
}

static void
N(flush)(const void *acc, size_t rows, double *wide, size_t wide_stride, bool first)
{
    const REAL *sums = acc;
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < NR; c++) {
            double sum = (double)sums[r * NR + c];
            wide[r * wide_stride + c] = first ? sum : wide[r * wide_stride + c] + sum;
        }
    }
}

static void
N(finish_none)(void *sums, size_t n, double parameter)
{
    (void)sums;
    (void)n;
    (void)parameter;
}

static void
N(finish_sqrt)(void *sums, size_t n, double parameter)
{
    (void)parameter;
    REAL *values = sums;
    for (size_t i = 0; i < n; i++) {
#if REAL_IS_F64
        values[i] = __builtin_sqrt(values[i]);
#else
        values[i] = __builtin_sqrtf(values[i]);
#endif
    }
}

static __attribute__((noinline)) void
N(finish_exp)(void *sums, size_t n, double parameter)
{
    REAL *values = sums;
    REAL factor = -(REAL)parameter;
    for (size_t i = 0; i < n; i++) {
        values[i] = N(exp)(factor * values[i]);
    }
}

static const pd_metric_ops N(metric_ops) = {
    .panel_cols = NR,
    .pack_panel = N(pack_panel),
    .pack_rows = N(pack_rows),
    .flush = N(flush),
    .cells = {N(squares_cells), N(abs_cells),   N(max_cells) },
    .finish = {N(finish_none),   N(finish_sqrt), N(finish_exp)},
};

#undef DEFINE_CELLS
#undef NR
