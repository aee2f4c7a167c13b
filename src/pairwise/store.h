// The consumer that stores: cast, round, write into the result; and list what is in doubt.
#ifndef PD_PAIRWISE_STORE_H
#define PD_PAIRWISE_STORE_H

#include <stddef.h>

#include "base/real.h"
#include "base/status.h"
#include "pairwise/tile.h"
#include "simd/simd.h"

typedef struct pd_store pd_store;

// A pair whose value has to be asked of the user's function.
typedef struct pd_pair {
    size_t row, col;
} pd_pair;

// A rectangle of them, where there are too many to be listed one by one.
typedef struct pd_rectangle {
    size_t row, col, rows, cols;
} pd_rectangle;

// Each doubtful pair is in exactly one of the two lists; in no order.
typedef struct pd_doubts {
    const pd_pair *pairs;
    size_t pair_count;
    const pd_rectangle *rectangles;
    size_t rectangle_count;
} pd_doubts;

// Makes the consumer that writes an n x cols matrix of `real` to `out`, in C order, and
// stores it in *store; the caller owns it.  `out` is borrowed.  `members` is the most
// that the walk will have.  Values are written past the caches where the result is larger
// than they are.
//
// PD_ENOMEM, PD_EINVAL if members is 0.
pd_status pd_store_create(void *out,
                          pd_real real,
                          size_t rows,
                          size_t cols,
                          const pd_rounding *rounding,
                          unsigned members,
                          const pd_simd *simd,
                          pd_store **store);

pd_consumer *pd_store_consumer(pd_store *store);

// What was in doubt; borrowed until the store is destroyed.  Call after the walk.
pd_doubts pd_store_doubts(const pd_store *store);

// Accepts NULL.  Can't fail.
void pd_store_destroy(pd_store *store);

#endif
