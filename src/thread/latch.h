// A latch: four bytes that threads can wait for, until somebody sets them.
//
//     pd_latch done = PD_LATCH_INIT;
//     worker:  result = ...; pd_latch_set(&done);
//     waiter:  if (pd_latch_wait(&done, 50000000) == PD_OK) use(result);
//
// There is one in every task, so it has no mutex and no condition of its own: a waiter
// parks in one of a few buckets that all latches of the process share.  Setting a latch
// that nobody waits for is one atomic exchange.
#ifndef PD_THREAD_LATCH_H
#define PD_THREAD_LATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct pd_latch {
    _Atomic uint32_t word;  // latch.c's business
} pd_latch;

#define PD_LATCH_INIT {0}
#define PD_LATCH_SET 2U

// No time limit, for pd_latch_wait().
#define PD_FOREVER INT64_MAX

// Sets the latch and wakes all who wait.  What was written before is visible to
// everybody who sees it set.  The latch may be freed by a waiter as soon as it is set:
// it is not touched afterwards.  Can't fail.
void pd_latch_set(pd_latch *latch);

// Makes a set latch wait again; no effect on one that is not set.  Can't fail.
void pd_latch_clear(pd_latch *latch);

static inline bool
pd_latch_is_set(const pd_latch *latch)
{
    return (atomic_load_explicit(&latch->word, memory_order_acquire) & PD_LATCH_SET) !=
           0;
}

// Waits until the latch is set or `timeout_ns` has passed: PD_OK or PD_ETIMEDOUT.
// Spins a little first where there is more than one processor.
pd_status pd_latch_wait(pd_latch *latch, int64_t timeout_ns);

#endif
