// The numeric loops, one instance for each instruction set, and the choice among them.
//
//     *_tpl.h         a loop, written once, for REAL = double and REAL = float
//     vec_LEVEL.h     the few vector operations that C cannot say portably
//     level_LEVEL.c   raises the instruction set, includes vec_LEVEL.h and every
//                     template, and fills one table of function pointers
//
// Everything in a level file is static, so that no function compiled for one
// instruction set can be linked in place of another's.  Every level computes the same
// bits: fused multiply-adds are written out, sums run in one order (a lane is a pair),
// and nothing is reassociated.
#ifndef PD_SIMD_SIMD_H
#define PD_SIMD_SIMD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/real.h"
#include "simd/blocks.h"

// How a metric's terms add up over the features.
typedef enum pd_cell {
    PD_CELL_SQUARES,  // sum of (x - y)^2, fused
    PD_CELL_ABS,      // sum of |x - y|
    PD_CELL_MAX,      // max of |x - y|; NaN wins
} pd_cell;

#define PD_CELLS 3

// What is done to the sum in the end.
typedef enum pd_finish {
    PD_FINISH_NONE,
    PD_FINISH_SQRT,
    PD_FINISH_EXP,  // exp(-parameter * sum)
} pd_finish;

#define PD_FINISHES 3

// At most this many rows of X meet a panel in one call.
#define PD_CELL_ROWS 4

// The loops of metrics on reals of one type; `real` below stands for that type.
typedef struct pd_metric_ops {
    size_t panel_cols;  // NR: columns that meet some rows in one call

    // A panel holds columns as [feature][panel_stride].
    //
    // acc[r][c] (+)= the terms of the features 0 .. features of row r of `x` and column
    // c of `panel`, for rows x panel_cols pairs; `first`: acc is written, not read.
    void (*cells[PD_CELLS])(const void *x,
                            size_t x_stride,
                            size_t rows,
                            const void *panel,
                            size_t panel_stride,
                            size_t features,
                            void *acc,
                            size_t acc_stride,
                            bool first);

    // Packs `cols` <= panel_stride points, of which element (c, k) lies at
    // src + c * row_stride + k * col_stride bytes, into a panel; what is beyond is zero.
    void (*pack_panel)(const char *src,
                       ptrdiff_t row_stride,
                       ptrdiff_t col_stride,
                       size_t cols,
                       size_t features,
                       void *panel,
                       size_t panel_stride);

    // Copies points as rows of `features` reals each.
    void (*pack_rows)(const char *src,
                      ptrdiff_t row_stride,
                      ptrdiff_t col_stride,
                      size_t rows,
                      size_t features,
                      void *packed);

    // wide[r][c] (+)= acc[r][c] for rows x panel_cols sums; `first`: written, not read.
    void (*flush)(
        const void *acc, size_t rows, double *wide, size_t wide_stride, bool first);

    // In place over n sums.
    void (*finish[PD_FINISHES])(void *sums, size_t n, double parameter);
} pd_metric_ops;

// A result's type and rounding: final(v) = round(cast(v)), as NumPy's
// .astype(dtype).round(decimals) computes it.
typedef struct pd_rounding {
    bool rounds;      // false: cast only
    bool multiplies;  // rint(v * scale) / scale; else rint(v / scale) * scale
    double scale;     // 10^|decimals|, exact in the result's type or rounded to it
} pd_rounding;

typedef struct pd_store_ops {
    // dst[i] = final(src[i]) for i < n; [from][to].  With `stream` past the caches, and
    // then fence() has to follow before another thread may read.
    void (*row[PD_REALS][PD_REALS])(
        const void *src, void *dst, size_t n, const pd_rounding *rounding, bool stream);

    // How many of n values are in doubt: final(v - t) and final(v + t) differ in their
    // bits (t = 0 never doubts), or t is infinite or NaN.  If `flags` is not NULL,
    // flags[i] says which.
    size_t (*doubtful[PD_REALS][PD_REALS])(const void *values,
                                           const void *doubts,
                                           size_t n,
                                           const pd_rounding *rounding,
                                           unsigned char *flags);
    void (*fence)(void);
} pd_store_ops;

// A metric of some rows and columns, and where its values go, rounded.
typedef struct pd_fused_job {
    const void *x;  // row r begins x_stride reals after row r - 1
    size_t x_stride;
    size_t rows;
    const void *columns;   // feature k of column c is the real k * column_stride + c;
    size_t column_stride;  // PD_FUSED_PADDING reals after the last are readable
    size_t cols;
    size_t features;
    pd_finish finish;
    double parameter;
    void *out;  // row r begins out_stride results after row r - 1
    size_t out_stride;
    const pd_rounding *rounding;
    bool stream;  // as in pd_store_ops
} pd_fused_job;

#define PD_FUSED_PADDING 64

typedef struct pd_fused_ops {
    void (*rows[PD_CELLS][PD_REALS][PD_REALS])(const pd_fused_job *job);  // [from][to]
} pd_fused_ops;

typedef struct pd_simd {
    const char *name;
    const pd_metric_ops *metrics[PD_REALS];
    const pd_store_ops *store;
    const pd_fused_ops *fused;
    const pd_block_loop *blocks;  // indexed by pd_block_op
    const pd_block_fold *folds;   // indexed by pd_fold_op
} pd_simd;

// The table in use: the best of this CPU, unless pd_simd_select() chose another.
// Can't fail.
const pd_simd *pd_simd_active(void);

// NULL if `name` is unknown, not built, or beyond this CPU.
const pd_simd *pd_simd_named(const char *name);

// Makes `simd`, from pd_simd_named(), the table in use.  Loops that run go on with the
// table they started with.
void pd_simd_select(const pd_simd *simd);

// The names that pd_simd_named() knows here, best first; `names` has room for
// PD_SIMD_LEVELS.  Returns how many.
size_t pd_simd_available(const char **names);

#define PD_SIMD_LEVELS 4

#endif
