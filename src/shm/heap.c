// The heap: size classes a quarter of a power of two apart, one free list each.
//
//      | header, stripes | block | block | block | ...          | reserved
//                        ^ PD_BLOCKS_OFFSET                     ^ top
//
// Blocks are never split or merged: what is freed serves the next request of its class,
// at most a quarter larger than asked for, in constant time and with few words to log.
// What large free blocks cost is address space, not memory: beyond RESIDENT_BYTES their
// pages go back to the system.
//
// Invariants
//   I1  From PD_BLOCKS_OFFSET to `top` the segment is a row of blocks, each as long as its class
//       says; only the head of a block beyond `top` may be half-written.
//   I2  A block is marked free if and only if it is on the list of its family and class.
//
// Locks: `lock`, innermost; a stripe's lock or the registry's may be held around it.
#include "shm/heap.h"

#define MAGIC 0x50644231u  // upper half of a head
#define FREE_FLAG 0x100u
#define BARE_FLAG 0x200u  // its memory was given back
#define BYTES_FLAG 0x400u
#define CLASS_MASK 0xffu
#define RESIDENT_BYTES ((uint64_t)64 << 20)
#define MOST_SPARE_BYTES ((uint64_t)16 << 20)
#define DISCARD_BYTES \
    ((uint64_t)128 << 10)  // smaller blocks are not worth a system call
#define GROW_BYTES ((uint64_t)256 << 10)

// The class of the smallest blocks with at least `units`; PD_CLASSES if there is none.
// 1 to 8 units have a class each; then come four to each power of two.
static unsigned
class_of(uint64_t units)
{
    if (units <= 8) {
        return units == 0 ? 0 : (unsigned)units - 1;
    }
    unsigned power = 63 - (unsigned)__builtin_clzll(units - 1);
    unsigned quarter = (unsigned)((units - 1) >> (power - 2)) & 3;
    unsigned index = 8 + (power - 3) * 4 + quarter;
    return index < PD_CLASSES ? index : PD_CLASSES;
}

static uint64_t
class_bytes(unsigned index)
{
    if (index < 8) {
        return (uint64_t)(index + 1) * PD_UNIT;
    }
    unsigned power = 3 + (index - 8) / 4;
    uint64_t quarters = 5 + (index - 8) % 4;
    return (quarters << (power - 2)) * PD_UNIT;
}

static uint64_t
make_head(unsigned flags, unsigned index)
{
    return (uint64_t)MAGIC << 32 | flags | index;
}

// The block at `offset` if its head is sound and all of it inside the segment.
static pd_block *
sound_block(pd_segment *segment, uint64_t offset, uint64_t *head)
{
    pd_block *block = offset % PD_UNIT == 0 && offset >= PD_BLOCKS_OFFSET
                          ? pd_segment_at(segment, offset, sizeof(*block))
                          : NULL;
    if (block == NULL) {
        return NULL;
    }
    *head = pd_load(&block->head);
    unsigned index = *head & CLASS_MASK;
    if (*head >> 32 != MAGIC || index >= PD_CLASSES ||
        pd_segment_at(segment, offset, class_bytes(index)) == NULL)
    {
        return NULL;
    }
    return block;
}

pd_block *
pd_heap_block(pd_segment *segment, uint64_t offset, size_t *room)
{
    uint64_t head;
    pd_block *block = sound_block(segment, offset, &head);
    if (block == NULL || (head & FREE_FLAG)) {
        return NULL;
    }
    *room = class_bytes(head & CLASS_MASK) - sizeof(*block);
    return block;
}

uint64_t
pd_block_bytes(pd_block *block)
{
    unsigned index = pd_load(&block->head) & CLASS_MASK;
    return index < PD_CLASSES ? class_bytes(index) : 0;
}

pd_status
pd_heap_init(pd_heap *heap)
{
    pd_store(&heap->top, PD_BLOCKS_OFFSET);
    return pd_lock_init(&heap->lock);
}

static pd_status
lock_heap(pd_heap *heap, pd_segment *segment, int64_t wait_ns)
{
    bool died;
    pd_status status = pd_lock_acquire(&heap->lock, wait_ns, &died);
    if (status == PD_OK && died) {
        status = pd_log_undo(&heap->log, segment);
        if (status != PD_OK) {
            (void)pd_lock_release(&heap->lock);
            return status;
        }
        pd_lock_repaired(&heap->lock);
    }
    return status;
}

static void
unlock_heap(pd_heap *heap)
{
    PD_CRASH_POINT();
    (void)pd_lock_release(&heap->lock);
}

// Sets a word of the heap itself.
static void
set(pd_heap *heap, pd_word *word, uint64_t value)
{
    uint64_t where = PD_HEAP_OFFSET + (uint64_t)((char *)word - (char *)heap);
    pd_log_set(&heap->log, word, where, value);
}

// The latest freed block of a class, off its list; not committed.
static pd_status
take_free(pd_heap *heap, pd_segment *segment, pd_word *list, uint64_t *out)
{
    uint64_t offset = pd_load(list), head;
    pd_block *block = sound_block(segment, offset, &head);
    if (block == NULL || !(head & FREE_FLAG)) {
        return PD_ECORRUPT;
    }
    uint64_t bytes = class_bytes(head & CLASS_MASK);
    if (head & BARE_FLAG) {
        pd_status status = pd_segment_restore(segment, offset, bytes);
        if (status != PD_OK) {
            return status;
        }
    }
    else {
        set(heap, &heap->resident, pd_load(&heap->resident) - bytes);
    }
    set(heap, list, pd_load(&block->next));
    pd_log_set(&heap->log, &block->head, offset,
               head & ~(uint64_t)(FREE_FLAG | BARE_FLAG));
    *out = offset;
    return PD_OK;
}

// A block from beyond `top`; not committed.
static pd_status
take_fresh(
    pd_heap *heap, pd_segment *segment, unsigned flags, unsigned index, uint64_t *out)
{
    uint64_t offset = pd_load(&heap->top);
    uint64_t bytes = class_bytes(index);
    if (offset % PD_UNIT != 0 || offset < PD_BLOCKS_OFFSET || offset > SIZE_MAX / 4 ||
        bytes > SIZE_MAX / 4)
    {
        return PD_ECORRUPT;
    }
    if (pd_segment_at(segment, offset, bytes) == NULL) {
        if (offset > pd_segment_size(segment)) {
            return PD_ECORRUPT;  // all blocks lie in the file: not to fill the machine
        }
        // Some to spare, but not when only just what is needed can be had.
        uint64_t spare = offset / 8 > GROW_BYTES ? offset / 8 : GROW_BYTES;
        spare = spare < MOST_SPARE_BYTES ? spare : MOST_SPARE_BYTES;
        pd_status status = pd_segment_extend(segment, offset + bytes + spare);
        if (status == PD_ENOMEM) {
            status = pd_segment_extend(segment, offset + bytes);
        }
        if (status != PD_OK) {
            return status;
        }
    }
    pd_block *block = pd_segment_at(segment, offset, bytes);
    if (block == NULL) {
        return PD_ENOMEM;
    }
    pd_store(&block->head, make_head(flags, index));
    set(heap, &heap->top, offset + bytes);
    *out = offset;
    return PD_OK;
}

pd_status
pd_heap_take(pd_heap *heap,
             pd_segment *segment,
             pd_family family,
             size_t bytes,
             uint64_t where,
             int64_t wait_ns)
{
    if (bytes > SIZE_MAX / 4) {
        return PD_ENOMEM;
    }
    unsigned index = class_of((bytes + sizeof(pd_block) + PD_UNIT - 1) / PD_UNIT);
    pd_word *parcel = pd_segment_at(segment, where, sizeof(*parcel));
    if (index == PD_CLASSES || parcel == NULL) {
        return index == PD_CLASSES ? PD_ENOMEM : PD_ECORRUPT;
    }
    pd_status status = lock_heap(heap, segment, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    uint64_t offset = 0;
    pd_word *list = &heap->free[family][index];
    unsigned flags = family == PD_BYTES ? BYTES_FLAG : 0;
    status = pd_load(list) != 0 ? take_free(heap, segment, list, &offset)
                                : take_fresh(heap, segment, flags, index, &offset);
    if (status == PD_OK) {
        pd_block *block = pd_segment_at(segment, offset, sizeof(*block));
        pd_store(&block->pins, 0);
        pd_log_set(&heap->log, parcel, where, offset);
        pd_log_commit(&heap->log);
    }
    else {
        (void)pd_log_undo(&heap->log, segment);
    }
    unlock_heap(heap);
    return status;
}

pd_status
pd_heap_give(pd_heap *heap, pd_segment *segment, uint64_t where, int64_t wait_ns)
{
    pd_word *parcel = pd_segment_at(segment, where, sizeof(*parcel));
    if (parcel == NULL) {
        return PD_ECORRUPT;
    }
    pd_status status = lock_heap(heap, segment, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    uint64_t offset = pd_load(parcel), head;
    pd_block *block = offset != 0 ? sound_block(segment, offset, &head) : NULL;
    if (block == NULL || (head & FREE_FLAG)) {
        unlock_heap(heap);
        return offset == 0 ? PD_OK : PD_ECORRUPT;
    }
    uint64_t bytes = class_bytes(head & CLASS_MASK);
    uint64_t flags = FREE_FLAG;
    if (bytes >= DISCARD_BYTES && pd_load(&heap->resident) + bytes > RESIDENT_BYTES &&
        pd_segment_discard(segment, offset + PD_UNIT, bytes - PD_UNIT))
    {
        flags |= BARE_FLAG;
    }
    else {
        set(heap, &heap->resident, pd_load(&heap->resident) + bytes);
    }
    pd_word *list = &heap->free[(head & BYTES_FLAG) != 0][head & CLASS_MASK];
    pd_log_set(&heap->log, &block->next, offset + sizeof(pd_word), pd_load(list));
    pd_log_set(&heap->log, &block->head, offset, head | flags);
    set(heap, list, offset);
    pd_log_set(&heap->log, parcel, where, 0);
    pd_log_commit(&heap->log);
    unlock_heap(heap);
    return PD_OK;
}

pd_status
pd_heap_settle(pd_heap *heap, pd_segment *segment, int64_t wait_ns)
{
    pd_status status = lock_heap(heap, segment, wait_ns);
    if (status == PD_OK) {
        unlock_heap(heap);
    }
    return status;
}

// Counts a free list's blocks; each must be free and of the list's class.
static pd_status
audit_list(pd_heap *heap,
           pd_segment *segment,
           unsigned family,
           unsigned index,
           uint64_t *listed)
{
    uint64_t offset = pd_load(&heap->free[family][index]);
    unsigned flags = family == PD_BYTES ? BYTES_FLAG : 0;
    uint64_t most = pd_segment_size(segment) / class_bytes(index) + 1;
    for (; offset != 0;
         offset = pd_load(
             &((pd_block *)pd_segment_at(segment, offset, sizeof(pd_block)))->next))
    {
        uint64_t head;
        if (most-- == 0 || sound_block(segment, offset, &head) == NULL ||
            (head & ~(uint64_t)BARE_FLAG) != make_head(FREE_FLAG | flags, index))
        {
            return PD_ECORRUPT;
        }
        *listed += class_bytes(index);
    }
    return PD_OK;
}

pd_status
pd_heap_audit(pd_heap *heap,
              pd_segment *segment,
              void (*visit)(void *arg, pd_family family, pd_block *block),
              void *arg)
{
    uint64_t freed = 0, listed = 0, head;
    uint64_t offset = PD_BLOCKS_OFFSET;
    while (offset < pd_load(&heap->top)) {
        pd_block *block = sound_block(segment, offset, &head);
        if (block == NULL) {
            return PD_ECORRUPT;
        }
        if (head & FREE_FLAG) {
            freed += class_bytes(head & CLASS_MASK);
        }
        else {
            visit(arg, head & BYTES_FLAG ? PD_BYTES : PD_WORDS, block);
        }
        offset += class_bytes(head & CLASS_MASK);
    }
    for (unsigned family = 0; family < PD_FAMILIES; family++) {
        for (unsigned index = 0; index < PD_CLASSES; index++) {
            pd_status status = audit_list(heap, segment, family, index, &listed);
            if (status != PD_OK) {
                return status;
            }
        }
    }
    return listed == freed && offset == pd_load(&heap->top) ? PD_OK : PD_ECORRUPT;
}
