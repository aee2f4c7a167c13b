// Reductions over the features, in the order in which NumPy reduces a 1-D array.
//
// A sum of floats depends on its order.  NumPy adds eight interleaved partial sums in
// runs of at most 128 elements and the runs in a binary tree; a traced function has to
// return the same bits, so the machine does it in that order too, lane by lane:
//
//     run of 8 or more:   ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7)),
//                         r_j the sum of elements j, j + 8, ...; then the rest, one by one
//     shorter run:        one by one
//     longer:             the left half, of a multiple of 8 elements, plus the right half
//
// Values arrive one feature at a time, each a block of lanes; a fold holds what the tree
// needs between them.  Products, minima and maxima run in plain order.
#ifndef PD_EXPR_FOLD_H
#define PD_EXPR_FOLD_H

#include <stddef.h>

#include "base/status.h"
#include "simd/simd.h"

typedef struct pd_fold_plan pd_fold_plan;  // immutable once made: threads share it

// Plans a reduction over `length` >= 1 features; the caller owns *plan.  PD_ENOMEM.
pd_status pd_fold_plan_create(pd_fold_op op, size_t length, pd_fold_plan **plan);

// Accepts NULL.  Can't fail.
void pd_fold_plan_destroy(pd_fold_plan *plan);

// What it folds by.
pd_fold_op pd_fold_plan_op(const pd_fold_plan *plan);

// Doubles of scratch that a fold over blocks of `lanes` needs.
size_t pd_fold_scratch(const pd_fold_plan *plan, size_t lanes);

// Where a fold stands.  Start from all zeros.
typedef struct pd_fold {
    size_t run;    // runs done
    size_t at;     // elements of the present run done
    size_t depth;  // partial results waiting
} pd_fold;

// Takes the block of the next feature: n <= lanes values.  `scratch` holds
// pd_fold_scratch() doubles, the same for all features.
void pd_fold_take(const pd_fold_plan *plan,
                  pd_fold *fold,
                  const pd_simd *simd,
                  const double *values,
                  size_t n,
                  size_t lanes,
                  double *scratch);

// The result after all features: n doubles within `scratch`.
const double *pd_fold_result(const pd_fold_plan *plan,
                             const double *scratch,
                             size_t lanes);

#endif
