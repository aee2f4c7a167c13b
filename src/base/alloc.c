// Checked, cache-line-aligned allocation on top of aligned_alloc().
//
// Test builds (-DPD_TEST) count live blocks and can fail the n-th allocation, so
// that a test can sweep n over every allocation of an operation.
#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#ifdef PD_TEST
#    include <stdatomic.h>

static _Atomic long fault_countdown;  // 0: no fault armed
static _Atomic long live_blocks;

void
pd_fault_after(long n)
{
    atomic_store(&fault_countdown, n);
}

long
pd_live_allocs(void)
{
    return atomic_load(&live_blocks);
}

static bool
fault_is_due(void)
{
    return atomic_load(&fault_countdown) > 0 &&
           atomic_fetch_sub(&fault_countdown, 1) == 1;
}
#endif

bool
pd_multiply(size_t a, size_t b, size_t *product)
{
    size_t result;
    if (__builtin_mul_overflow(a, b, &result)) {
        return false;
    }
    *product = result;
    return true;
}

void *
pd_alloc(size_t count, size_t size)
{
    size_t bytes;
    if (!pd_multiply(count, size, &bytes) || bytes > (size_t)-1 / 2) {
        return NULL;
    }
    // aligned_alloc() wants a multiple of the alignment, and at least one line.
    bytes = (bytes + PD_CACHE_LINE) & ~(size_t)(PD_CACHE_LINE - 1);
#ifdef PD_TEST
    if (fault_is_due()) {
        return NULL;
    }
#endif
    void *block = aligned_alloc(PD_CACHE_LINE, bytes);
#ifdef PD_TEST
    if (block != NULL) {
        atomic_fetch_add(&live_blocks, 1);
    }
#endif
    return block;
}

void *
pd_calloc(size_t count, size_t size)
{
    void *block = pd_alloc(count, size);
    if (block != NULL) {
        memset(block, 0, count * size);
    }
    return block;
}

void
pd_free(void *block)
{
#ifdef PD_TEST
    if (block != NULL) {
        atomic_fetch_sub(&live_blocks, 1);
    }
#endif
    free(block);
}
