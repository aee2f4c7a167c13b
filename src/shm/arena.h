// Memory of a segment, handed out by one process: the bookkeeping is private to it.
//
// What others do to the segment, or their death, can't damage it.  Freed memory stays
// warm, since the first touch of fresh pages costs ten times a copy, up to a limit.
#ifndef PD_SHM_ARENA_H
#define PD_SHM_ARENA_H

#include <stdint.h>

#include "base/status.h"
#include "shm/segment.h"

// Extents of a page and more begin at a page; smaller ones at a cache line.
#define PD_ARENA_PAGE 4096

// Bytes that may lie freed in memory before large extents are given back to the system.
#define PD_ARENA_WARM ((uint64_t)256 << 20)

typedef struct pd_arena pd_arena;

// Hands out what lies behind `first`.  The segment is borrowed, and extended when needed.
pd_status pd_arena_create(pd_segment *segment, uint64_t first, pd_arena **out);

// Accepts NULL.
void pd_arena_destroy(pd_arena *arena);

// Takes `bytes` (at least 1).  PD_ENOMEM.
pd_status pd_arena_take(pd_arena *arena, uint64_t bytes, uint64_t *at);

// Gives back what was taken, with the same size.  PD_EINVAL if that was not taken;
// without memory for a note of it the extent is lost until the arena goes.
pd_status pd_arena_give(pd_arena *arena, uint64_t at, uint64_t bytes);

// Bytes that are taken.
uint64_t pd_arena_used(const pd_arena *arena);

#endif
