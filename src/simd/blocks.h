// The elementwise operations of the expression machine, on blocks of doubles.
//
// Every loop has the shape of a NumPy inner loop, so that the machine runs its own
// operations and a library's functions in one way.
#ifndef PD_SIMD_BLOCKS_H
#define PD_SIMD_BLOCKS_H

#include <stddef.h>

// args[k][i * steps[k]] for the inputs k in order, then the output; i < *n; steps in
// bytes.  The operations below take steps of 0 (one value for all) and sizeof(double)
// for inputs, but not 0 for all of several inputs unless *n is 1, and sizeof(double) for
// the output, which must not overlap an input.
typedef void (*pd_block_loop)(char **args,
                              const ptrdiff_t *n,
                              const ptrdiff_t *steps,
                              void *data);

// X(NAME, inputs, expression in a, b, c).  Truth is 1.0 and 0.0; anything but 0 is true.
// MIN and MAX let a NaN win, FMIN and FMAX the number; SIGN of 0 is 0 and of NaN is NaN.
#define PD_BLOCK_OP_TABLE(X)                                      \
    X(COPY, 1, a)                                                 \
    X(NEG, 1, -a)                                                 \
    X(ABS, 1, __builtin_fabs(a))                                  \
    X(SQRT, 1, __builtin_sqrt(a))                                 \
    X(SQUARE, 1, (a) * (a))                                       \
    X(FLOOR, 1, __builtin_floor(a))                               \
    X(CEIL, 1, __builtin_ceil(a))                                 \
    X(TRUNC, 1, __builtin_trunc(a))                               \
    X(RINT, 1, __builtin_rint(a))                                 \
    X(SIGN, 1, a > 0 ? 1.0 : (a < 0 ? -1.0 : (a == 0 ? 0.0 : a))) \
    X(ISNAN, 1, a != a ? 1.0 : 0.0)                               \
    X(ISFINITE, 1, __builtin_fabs(a) <= __DBL_MAX__ ? 1.0 : 0.0)  \
    X(NOT, 1, a == 0 ? 1.0 : 0.0)                                 \
    X(TO_F32, 1, (double)(float)a)                                \
    X(ADD, 2, a + b)                                              \
    X(SUB, 2, a - b)                                              \
    X(MUL, 2, (a) * (b))                                          \
    X(DIV, 2, a / b)                                              \
    X(MIN, 2, a <= b ? a : (a != a ? a : b))                      \
    X(MAX, 2, a >= b ? a : (a != a ? a : b))                      \
    X(FMIN, 2, a <= b ? a : (b != b ? a : b))                     \
    X(FMAX, 2, a >= b ? a : (b != b ? a : b))                     \
    X(LT, 2, a < b ? 1.0 : 0.0)                                   \
    X(LE, 2, a <= b ? 1.0 : 0.0)                                  \
    X(EQ, 2, a == b ? 1.0 : 0.0)                                  \
    X(NE, 2, a != b ? 1.0 : 0.0)                                  \
    X(AND, 2, a != 0 ? (b != 0 ? 1.0 : 0.0) : 0.0)                \
    X(OR, 2, a != 0 ? 1.0 : (b != 0 ? 1.0 : 0.0))                 \
    X(ABSDIFF, 2, __builtin_fabs(a - b))                          \
    X(SQDIFF, 2, (a - b) * (a - b))                               \
    X(WHERE, 3, a != 0 ? b : c)

typedef enum pd_block_op {
#define PD_BLOCK_OP_NAME(name, inputs, expression) PD_BLOCK_##name,
    PD_BLOCK_OP_TABLE(PD_BLOCK_OP_NAME)
#undef PD_BLOCK_OP_NAME
        PD_BLOCK_OPS  // how many there are
} pd_block_op;

#define PD_BLOCK_MAX_INPUTS 3

// acc[i] = acc[i] op values[i] for i < n; MIN and MAX as above.  The SINGLE ones round to
// float: of two floats that is what float arithmetic gives.
typedef void (*pd_block_fold)(double *acc, const double *values, size_t n);

typedef enum pd_fold_op {
    PD_FOLD_ADD,
    PD_FOLD_MUL,
    PD_FOLD_ADD_SINGLE,
    PD_FOLD_MUL_SINGLE,
    PD_FOLD_MIN,
    PD_FOLD_MAX,
    PD_FOLD_OPS  // how many there are
} pd_fold_op;

#endif
