// A matrix that somebody else owns: rows of float or double at any byte strides.
#ifndef PD_PAIRWISE_MATRIX_H
#define PD_PAIRWISE_MATRIX_H

#include <stddef.h>

#include "base/real.h"

// Element (i, k) is the `real` at data + i * row_stride + k * col_stride, aligned for
// its type.  Strides may be 0 or negative.
typedef struct pd_matrix {
    const char *data;      // borrowed, never written
    ptrdiff_t row_stride;  // bytes
    ptrdiff_t col_stride;  // bytes
    size_t rows;           // points
    size_t cols;           // features
    pd_real real;
} pd_matrix;

#endif
