// Memory inside a segment: blocks of whole cache lines, from free lists by size class.
//
// A block changes hands by a parcel: a word of shared memory that names it.  Taking a
// block and writing its offset to the parcel is one step, all or nothing, and so is giving
// back the block that a parcel names.  So at any moment, whoever dies, each block is on a
// free list, in a parcel, or reachable from a structure.
#ifndef PD_SHM_HEAP_H
#define PD_SHM_HEAP_H

#include "shm/lock.h"
#include "shm/log.h"

#define PD_UNIT 64  // bytes; blocks begin at multiples of it

// A segment with a heap has it directly behind its header.
#define PD_HEAP_OFFSET sizeof(pd_segment_header)

// Blocks lie from here on; whatever else there is lies before.
#define PD_BLOCKS_OFFSET ((uint64_t)64 << 10)

// What a block may be read by.  Blocks keep their family for ever.
typedef enum pd_family {
    // Only ever accessed as atomic words: a reader without a lock may still look at it
    // after it was freed, and finds, if nonsense, then no data race.
    PD_WORDS = 0,
    // Plain bytes, read by those who hold a lock or a pin.
    PD_BYTES = 1,
} pd_family;

#define PD_FAMILIES 2
#define PD_CLASSES 144

// Lies in a segment.  All guarded by `lock`.
typedef struct pd_heap {
    pd_lock lock;
    pd_word top;       // behind the last block
    pd_word resident;  // bytes of the free blocks that still have their memory
    pd_word free[PD_FAMILIES][PD_CLASSES];  // the latest freed of each; 0: none
    pd_log log;
} pd_heap;

// The head of each block; what the caller may use follows it.
typedef struct pd_block {
    pd_word head;  // magic, flags, class: heap.c's business
    pd_word next;  // while free: the next on its list.  Else the owner's
    pd_word pins;  // the owner's; 0 when taken
    pd_word size;  // the owner's
} pd_block;

pd_status pd_heap_init(pd_heap *heap);

// Takes a block of at least `bytes` beyond its head; *parcel, a word at `where` that must
// be 0, becomes its offset.  PD_ENOMEM, PD_ETIMEDOUT (`wait_ns` as for pd_lock_acquire),
// PD_ECORRUPT; *parcel is then unchanged.
pd_status pd_heap_take(pd_heap *heap,
                       pd_segment *segment,
                       pd_family family,
                       size_t bytes,
                       uint64_t where,
                       int64_t wait_ns);

// Gives back the block that the word at `where` names, if any, and sets the word to 0.
// The same failures; the word is then unchanged.
pd_status pd_heap_give(pd_heap *heap,
                       pd_segment *segment,
                       uint64_t where,
                       int64_t wait_ns);

// Takes and releases the lock, and with it repairs what a dead owner left: afterwards the
// parcels of whoever is dead are final.
pd_status pd_heap_settle(pd_heap *heap, pd_segment *segment, int64_t wait_ns);

// The block at `offset` if it is one that is taken, else NULL.  *room is what follows its
// head, in bytes.
pd_block *pd_heap_block(pd_segment *segment, uint64_t offset, size_t *room);

// Where the payload of a block lies.
static inline void *
pd_block_payload(pd_block *block)
{
    return block + 1;
}

// For integrity checks, with nobody else at work: walks all blocks and shows `visit` those
// that are taken.  PD_ECORRUPT if anything is amiss.
pd_status pd_heap_audit(pd_heap *heap,
                        pd_segment *segment,
                        void (*visit)(void *arg, pd_family family, pd_block *block),
                        void *arg);

// The whole size of a block that pd_heap_block() returned.
uint64_t pd_block_bytes(pd_block *block);

#endif
