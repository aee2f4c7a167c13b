// Recycled blocks: anonymous mappings on 2 MiB boundaries, with a header line in front.
//
//      mapping                                           a multiple of HUGE_BYTES
//      |header|payload ..................................|
//             ^ what the caller gets, 64-byte aligned
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
#define HEADER_BYTES ((size_t)64)
#define MAX_HELD 32

typedef struct header {
    size_t payload;  // bytes the caller may use
    size_t mapped;   // bytes of the mapping; 0: the block came from aligned_alloc()
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
        munmap(oldest, oldest->mapped);
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

// A fresh mapping whose start is a multiple of HUGE_BYTES.
static header *
map_block(size_t mapped)
{
    size_t wide = mapped + HUGE_BYTES;
    char *raw =
        mmap(NULL, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) {
        return NULL;
    }
    size_t lead = (HUGE_BYTES - (uintptr_t)raw % HUGE_BYTES) % HUGE_BYTES;
    if (lead > 0) {
        munmap(raw, lead);
    }
    if (lead < HUGE_BYTES) {
        munmap(raw + lead + mapped, HUGE_BYTES - lead);
    }
#ifdef MADV_HUGEPAGE
    (void)madvise(raw + lead, mapped, MADV_HUGEPAGE);  // advice: may be refused
#endif
    header *block = (header *)(void *)(raw + lead);
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
        size_t mapped = (bytes + HEADER_BYTES + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
        block = reuse_block(mapped);
        if (block == NULL) {
            block = map_block(mapped);
        }
    }
    if (block == NULL) {
        return NULL;
    }
    block->payload = bytes;
    return (char *)block + HEADER_BYTES;
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
#ifdef MADV_FREE
        // From the second page on: the header has to stay.
        (void)madvise((char *)block + 4096, block->mapped - 4096, MADV_FREE);
#endif
        held.blocks[held.count++] = block;
        held.bytes += block->mapped;
    }
    unlock_held();
    if (!hold) {
        munmap(block, block->mapped);
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
        munmap(oldest, oldest->mapped);
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
