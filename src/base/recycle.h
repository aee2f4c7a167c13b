// Large blocks of memory whose pages are kept for the next caller.
//
// The first write to a fresh page costs a page fault and its zeroing: for a 64 MB
// result 5 to 7 ms, several times what computing it takes.  Freed blocks are therefore
// held, up to a limit, and handed out again with their pages in place.  Of what is held,
// all but PD_RECYCLE_RESIDENT_BYTES is marked as free to reclaim (MADV_FREE, where there
// is such a thing): under memory pressure the kernel takes it back by itself, so that
// what an idle process withholds from others is no more than those.
#ifndef PD_BASE_RECYCLE_H
#define PD_BASE_RECYCLE_H

#include <stddef.h>

// Smaller requests are better served by malloc(); they are forwarded to it.
#define PD_RECYCLE_MIN_BYTES ((size_t)1 << 20)

#define PD_RECYCLE_LIMIT_BYTES ((size_t)256 << 20)
#define PD_RECYCLE_RESIDENT_BYTES ((size_t)32 << 20)

// A block of at least `bytes`, aligned to 64 bytes, its content undefined; NULL if
// there is no memory.  Any thread may call any of these functions at any time.
void *pd_recycle_alloc(size_t bytes);

// The same, zeroed.
void *pd_recycle_calloc(size_t bytes);

// Moves a block, which may be NULL, to one of at least `bytes`.  NULL if there is no
// memory; the old block is then unchanged.
void *pd_recycle_realloc(void *block, size_t bytes);

// Accepts NULL.  Can't fail.
void pd_recycle_free(void *block);

// Sets how many bytes may be held, and gives back what is above.  0 holds nothing.
void pd_recycle_set_limit(size_t bytes);

typedef struct pd_recycle_state {
    size_t held;   // bytes in freed blocks
    size_t limit;  // the most there can be
} pd_recycle_state;

pd_recycle_state pd_recycle_get_state(void);

#endif
