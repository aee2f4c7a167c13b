// Recycled blocks: anonymous mappings, whose payload is whole huge pages.
//
//      LEAD_BYTES      a multiple of HUGE_BYTES
//      | ... |header|payload ..................................|
//                   ^ what the caller gets, on a boundary of HUGE_BYTES
//
// The header stands on a page of its own, so that all of the payload can be marked with
// MADV_FREE and every page of it stays huge: 64 MiB are marked in some 40 microseconds
// and written again without a fault.  (With the header inside, its huge page is split,
// and marking and writing 4 MiB takes twice as long as writing alone.)
//
// Why not mark every block: it interrupts all other CPUs that run this process, which
// on a virtual machine costs 0.1 ms, as much as computing 4 MB.  So the blocks freed last
// are spared, up to PD_RECYCLE_RESIDENT_BYTES.
//
// Held blocks stand in a small array, oldest first.  A request takes the tightest one
// that fits and is at most a quarter too large; to hold a block the oldest are unmapped
// until it fits under the limit.
//
// Why not malloc(): its trimming and its threshold for mmap() give a large block back
// to the system at once, and its blocks are not aligned for huge pages.
//
// Locks: `held.mutex`, innermost; under it no calls but munmap() and madvise().
// Fork: the handlers hold the mutex across the fork, so that the child finds it whole.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE  // MADV_HUGEPAGE, MADV_FREE
#endif
#include "base/recycle.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)
#define LEAD_BYTES ((size_t)64 << 10)  // whole pages, whatever their size
#define HEADER_BYTES ((size_t)64)
#define MAX_HELD 32

typedef struct header {
    size_t payload;  // bytes the caller may use
    size_t mapped;   // bytes of whole pages; 0: the block came from aligned_alloc()
    bool marked;     // with MADV_FREE since it was freed; guarded by held.mutex
} header;

static struct {
    pthread_mutex_t mutex;
    header *blocks[MAX_HELD];  // oldest first; guarded by mutex
    size_t count;              // guarded by mutex
    size_t bytes;              // sum of their `mapped`; guarded by mutex
    size_t limit;              // guarded by mutex
} held = {.mutex = PTHREAD_MUTEX_INITIALIZER, .limit = PD_RECYCLE_LIMIT_BYTES};

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
lock_for_fork(void)
{
    pthread_mutex_lock(&held.mutex);
}

static void
unlock_held(void)
{
    pthread_mutex_unlock(&held.mutex);
}

static void
register_fork_handlers(void)
{
    pthread_atfork(lock_for_fork, unlock_held, unlock_held);
}

// The handlers stand before the mutex is held for the first time.
static void
lock_held(void)
{
    pthread_once(&fork_once, register_fork_handlers);
    pthread_mutex_lock(&held.mutex);
}

static char *
payload_of(header *block)
{
    return (char *)block + HEADER_BYTES;
}

static void
unmap_block(header *block)
{
    munmap(payload_of(block) - LEAD_BYTES, LEAD_BYTES + block->mapped);
}

// Takes block i out of the array; mutex held.
static header *
take_block(size_t i)
{
    header *block = held.blocks[i];
    held.count--;
    held.bytes -= block->mapped;
    memmove(&held.blocks[i], &held.blocks[i + 1],
            (held.count - i) * sizeof(held.blocks[0]));
    return block;
}

// Unmaps the oldest blocks until `bytes` more and one more would be within the limits;
// mutex held.
static void
make_room(size_t bytes)
{
    while (held.count > 0 &&
           (held.count == MAX_HELD || held.bytes + bytes > held.limit))
    {
        header *oldest = take_block(0);
        unmap_block(oldest);
    }
}

// Marks the oldest blocks as free to reclaim until what is not marked is within its limit;
// mutex held.
static void
mark_blocks(void)
{
    size_t kept = 0;
    for (size_t i = held.count; i-- > 0;) {
        header *block = held.blocks[i];
        kept += block->marked ? 0 : block->mapped;
        if (!block->marked && kept > PD_RECYCLE_RESIDENT_BYTES) {
            kept -= block->mapped;
            block->marked = true;
#ifdef MADV_FREE
            (void)madvise(payload_of(block), block->mapped, MADV_FREE);
#endif
        }
    }
}

static header *
reuse_block(size_t mapped)
{
    header *found = NULL;
    lock_held();
    size_t best = held.count;
    for (size_t i = 0; i < held.count; i++) {
        size_t size = held.blocks[i]->mapped;
        if (size >= mapped && size - mapped <= mapped / 4 &&
            (best == held.count || size < held.blocks[best]->mapped))
        {
            best = i;
        }
    }
    if (best < held.count) {
        found = take_block(best);
    }
    unlock_held();
    return found;
}

static header *
map_block(size_t mapped)
{
    size_t wide = LEAD_BYTES + mapped + HUGE_BYTES;
    char *raw =
        mmap(NULL, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) {
        return NULL;
    }
    // Of a mapping that is one huge page too long, keep what is around a boundary.
    size_t before = HUGE_BYTES - (uintptr_t)(raw + LEAD_BYTES) % HUGE_BYTES;
    size_t after = HUGE_BYTES - before;
    munmap(raw, before);
    if (after > 0) {
        munmap(raw + wide - after, after);
    }
    char *payload = raw + before + LEAD_BYTES;
#ifdef MADV_HUGEPAGE
    (void)madvise(payload, mapped, MADV_HUGEPAGE);  // advice: may be refused
#endif
    header *block = (header *)(void *)(payload - HEADER_BYTES);
    block->mapped = mapped;
    return block;
}

static header *
small_block(size_t bytes)
{
    size_t whole = (bytes + 2 * HEADER_BYTES) & ~(HEADER_BYTES - 1);
    header *block = aligned_alloc(HEADER_BYTES, whole);
    if (block != NULL) {
        block->mapped = 0;
    }
    return block;
}

void *
pd_recycle_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX / 2) {
        return NULL;
    }
    header *block;
    if (bytes < PD_RECYCLE_MIN_BYTES) {
        block = small_block(bytes);
    }
    else {
        size_t mapped = (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
        block = reuse_block(mapped);
        if (block == NULL) {
            block = map_block(mapped);
        }
    }
    if (block == NULL) {
        return NULL;
    }
    block->payload = bytes;
    return payload_of(block);
}

void *
pd_recycle_calloc(size_t bytes)
{
    void *payload = pd_recycle_alloc(bytes);
    if (payload != NULL) {
        memset(payload, 0, bytes);
    }
    return payload;
}

void
pd_recycle_free(void *payload)
{
    if (payload == NULL) {
        return;
    }
    header *block = (header *)(void *)((char *)payload - HEADER_BYTES);
    if (block->mapped == 0) {
        free(block);
        return;
    }
    lock_held();
    bool hold = block->mapped <= held.limit;
    if (hold) {
        make_room(block->mapped);
        block->marked = false;
        held.blocks[held.count++] = block;
        held.bytes += block->mapped;
        mark_blocks();
    }
    unlock_held();
    if (!hold) {
        unmap_block(block);
    }
}

void *
pd_recycle_realloc(void *payload, size_t bytes)
{
    void *moved = pd_recycle_alloc(bytes);
    if (moved == NULL || payload == NULL) {
        return moved;
    }
    header *old = (header *)(void *)((char *)payload - HEADER_BYTES);
    memcpy(moved, payload, old->payload < bytes ? old->payload : bytes);
    pd_recycle_free(payload);
    return moved;
}

void
pd_recycle_set_limit(size_t bytes)
{
    lock_held();
    held.limit = bytes;
    while (held.count > 0 && held.bytes > held.limit) {
        header *oldest = take_block(0);
        unmap_block(oldest);
    }
    unlock_held();
}

pd_recycle_state
pd_recycle_get_state(void)
{
    lock_held();
    pd_recycle_state state = {.held = held.bytes, .limit = held.limit};
    unlock_held();
    return state;
}
