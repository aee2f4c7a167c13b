// Checked allocation: every size is a product that cannot overflow, every block
// is aligned to a cache line, and test builds can make the n-th one fail.
#ifndef PD_BASE_ALLOC_H
#define PD_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

// Also the width of the widest vector register there is, so vector loads and
// streaming stores to the start of a block are always aligned.
#define PD_CACHE_LINE 64

// count * size bytes, uninitialised; NULL if the product overflows or there is no
// memory.  A count of 0 gives a valid block of no use.  Free with pd_free().
void *pd_alloc(size_t count, size_t size);

// The same, zeroed.
void *pd_calloc(size_t count, size_t size);

// Accepts NULL.  Can't fail.
void pd_free(void *block);

// *product = a * b and true, or false and *product unchanged on overflow.
bool pd_multiply(size_t a, size_t b, size_t *product);

#ifdef PD_TEST
// Test builds only.  The n-th allocation from now on fails, once; 0 turns it off.
void pd_fault_after(long n);

// How many blocks are allocated and not yet freed.
long pd_live_allocs(void);
#endif

#endif
