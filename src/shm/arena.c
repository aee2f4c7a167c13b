// Arenas: a sorted array of free extents, best fit, neighbours joined.
//
//      first                                             top        end of the segment
//        | taken | free, warm | taken | free, cold | taken |  untouched    |
//
// An extent is cold when its pages were given back to the system; taking it reserves them
// again, so that a full machine is an error here and not a signal at the first touch.
//
// Invariants
//   I1  free[] is sorted, its extents lie in [first, top) and do not touch each other.
//   I2  used + the bytes of free[] == top - first.
//
// Why an array: extents are large and few, since small messages travel without one.
// Locks: none; the caller sees to it that one thread at a time is in here.
#include "shm/arena.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/memory.h"

#define STEP ((uint64_t)4 << 20)  // the segment grows by at least this
#define COLD_BYTES ((uint64_t)1 << 20)
#define ASK_BYTES ((uint64_t)64 << 20)  // for more than this the system is asked first

typedef struct extent {
    uint64_t at;
    uint64_t bytes;
    bool cold;
} extent;

struct pd_arena {
    pd_segment *segment;  // borrowed
    uint64_t first;
    uint64_t top;
    uint64_t used;
    uint64_t warm;  // bytes of free[] that are not cold
    extent *free;   // owned
    size_t count;
    size_t room;
};

static uint64_t
whole_extent(uint64_t bytes)
{
    uint64_t unit = bytes >= PD_ARENA_PAGE ? PD_ARENA_PAGE : PD_CACHE_LINE;
    return (bytes + unit - 1) / unit * unit;
}

pd_status
pd_arena_create(pd_segment *segment, uint64_t first, pd_arena **out)
{
    pd_arena *arena = pd_calloc(1, sizeof(*arena));
    if (arena == NULL) {
        return PD_ENOMEM;
    }
    arena->segment = segment;
    arena->first = (first + PD_ARENA_PAGE - 1) / PD_ARENA_PAGE * PD_ARENA_PAGE;
    arena->top = arena->first;
    *out = arena;
    return PD_OK;
}

void
pd_arena_destroy(pd_arena *arena)
{
    if (arena != NULL) {
        pd_free(arena->free);
        pd_free(arena);
    }
}

uint64_t
pd_arena_used(const pd_arena *arena)
{
    return arena->used;
}

// ------------------------------------------------------------------------------
// The array of free extents
// ------------------------------------------------------------------------------

static bool
make_room(pd_arena *arena)
{
    if (arena->count < arena->room) {
        return true;
    }
    size_t room = arena->room == 0 ? 64 : 2 * arena->room;
    extent *free = pd_alloc(room, sizeof(*free));
    if (free == NULL) {
        return false;
    }
    if (arena->count > 0) {
        memcpy(free, arena->free, arena->count * sizeof(*free));
    }
    pd_free(arena->free);
    arena->free = free;
    arena->room = room;
    return true;
}

static void
insert(pd_arena *arena, size_t i, extent e)
{
    memmove(&arena->free[i + 1], &arena->free[i],
            (arena->count - i) * sizeof(*arena->free));
    arena->free[i] = e;
    arena->count++;
    arena->warm += e.cold ? 0 : e.bytes;
}

static void delete(pd_arena *arena, size_t i)
{
    arena->warm -= arena->free[i].cold ? 0 : arena->free[i].bytes;
    arena->count--;
    memmove(&arena->free[i], &arena->free[i + 1],
            (arena->count - i) * sizeof(*arena->free));
}

// Where an extent at `at` stands or would stand.
static size_t
position(const pd_arena *arena, uint64_t at)
{
    size_t low = 0, high = arena->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (arena->free[middle].at < at) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

// How many bytes of an extent lie before its first page that `bytes` may begin at.
static uint64_t
gap_before(uint64_t at, uint64_t bytes)
{
    return bytes < PD_ARENA_PAGE ? 0
                                 : (PD_ARENA_PAGE - at % PD_ARENA_PAGE) % PD_ARENA_PAGE;
}

// The smallest that will do, a warm one if possible; count if there is none.
static size_t
best_fit(const pd_arena *arena, uint64_t bytes)
{
    size_t best = arena->count;
    for (size_t i = 0; i < arena->count; i++) {
        const extent *e = &arena->free[i];
        if (e->bytes < bytes + gap_before(e->at, bytes)) {
            continue;
        }
        if (best == arena->count || (arena->free[best].cold && !e->cold) ||
            (arena->free[best].cold == e->cold && e->bytes < arena->free[best].bytes))
        {
            best = i;
            if (e->bytes == bytes && !e->cold) {
                break;
            }
        }
    }
    return best;
}

// Whether so much memory can be had.  Reserving it is no test: the kernel would rather
// kill processes than refuse.
static bool
may_have(uint64_t bytes)
{
    return bytes < ASK_BYTES || bytes < pd_memory_available("");
}

// ------------------------------------------------------------------------------
// Taking and giving
// ------------------------------------------------------------------------------

// Cuts [at, at + bytes) out of free extent `i`; there is room for one more.
static void
cut(pd_arena *arena, size_t i, uint64_t at, uint64_t bytes)
{
    extent e = arena->free[i];
    delete (arena, i);
    uint64_t before = at - e.at, after = e.bytes - before - bytes;
    if (after > 0) {
        insert(arena, i, (extent){at + bytes, after, e.cold});
    }
    if (before > 0) {
        insert(arena, i, (extent){e.at, before, e.cold});
    }
}

static pd_status
take_from_top(pd_arena *arena, uint64_t bytes, uint64_t *at)
{
    uint64_t gap = gap_before(arena->top, bytes);
    uint64_t end = arena->top + gap + bytes;
    uint64_t size = pd_segment_size(arena->segment);
    if (end < bytes || (end > size && !may_have(end - size))) {
        return PD_ENOMEM;
    }
    if (end > size) {
        uint64_t step = size / 8 > STEP ? size / 8 : STEP;
        uint64_t wish = end > size + step ? end : size + step;
        // Where there is no memory for more than is needed, that will do.
        if (!may_have(wish - size) || pd_segment_extend(arena->segment, wish) != PD_OK)
        {
            pd_status status = pd_segment_extend(arena->segment, end);
            if (status != PD_OK) {
                return status;
            }
        }
    }
    if (gap > 0) {
        insert(arena, arena->count, (extent){arena->top, gap, false});
    }
    *at = arena->top + gap;
    arena->top = end;
    arena->used += bytes;
    return PD_OK;
}

pd_status
pd_arena_take(pd_arena *arena, uint64_t bytes, uint64_t *at)
{
    if (bytes == 0 || bytes > UINT64_MAX / 4) {
        return bytes == 0 ? PD_EINVAL : PD_ENOMEM;
    }
    bytes = whole_extent(bytes);
    if (!make_room(arena)) {
        return PD_ENOMEM;
    }
    size_t i = best_fit(arena, bytes);
    if (i == arena->count) {
        return take_from_top(arena, bytes, at);
    }
    extent e = arena->free[i];
    uint64_t start = e.at + gap_before(e.at, bytes);
    if (e.cold && !may_have(bytes)) {
        return PD_ENOMEM;
    }
    if (e.cold) {
        pd_status status = pd_segment_restore(arena->segment, start, bytes);
        if (status != PD_OK) {
            return status;
        }
    }
    cut(arena, i, start, bytes);
    arena->used += bytes;
    *at = start;
    return PD_OK;
}

pd_status
pd_arena_give(pd_arena *arena, uint64_t at, uint64_t bytes)
{
    bytes = whole_extent(bytes);
    if (at < arena->first || bytes > arena->used || at > arena->top - bytes) {
        return PD_EINVAL;
    }
    if (!make_room(arena)) {
        return PD_ENOMEM;
    }
    size_t i = position(arena, at);
    extent e = {at, bytes, false};
    if (bytes >= COLD_BYTES && arena->warm + bytes > PD_ARENA_WARM) {
        e.cold = pd_segment_discard(arena->segment, at, bytes);
    }
    // Neighbours join if both are warm or both cold.
    if (i < arena->count && at + bytes == arena->free[i].at &&
        arena->free[i].cold == e.cold)
    {
        e.bytes += arena->free[i].bytes;
        delete (arena, i);
    }
    if (i > 0 && arena->free[i - 1].at + arena->free[i - 1].bytes == at &&
        arena->free[i - 1].cold == e.cold)
    {
        e.at = arena->free[i - 1].at;
        e.bytes += arena->free[i - 1].bytes;
        delete (arena, --i);
    }
    insert(arena, i, e);
    arena->used -= bytes;
    return PD_OK;
}
