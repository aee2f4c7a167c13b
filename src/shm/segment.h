// A piece of memory that several processes map, without a name anywhere.
//
// It is a memfd: nothing to unlink, nothing left after kill -9, no part of /dev/shm and
// its limit.  Whoever holds the descriptor has access; the file is sealed against
// shrinking, so that no peer can make a mapped page vanish (SIGBUS).  Growing it reserves
// memory at once: a full machine is PD_ENOMEM here, and never a signal later.
//
// What is inside refers to itself by offsets, which every access has checked.
#ifndef PD_SHM_SEGMENT_H
#define PD_SHM_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum pd_segment_kind {
    PD_SEGMENT_TABLE = 1,
    PD_SEGMENT_ARRAY = 2,
    PD_SEGMENT_LOCK = 3,
} pd_segment_kind;

// The first bytes of every segment.  Written by its creator, then immutable.
typedef struct pd_segment_header {
    uint64_t magic;
    uint32_t version;  // of the layout of everything inside
    uint32_t abi;      // pointer and mutex sizes, byte order
    uint64_t kind;     // a pd_segment_kind
    uint64_t id;       // random; never 0
    uint64_t unused[4];
} pd_segment_header;

// One mapping of the file, from its start.  Never unmapped before the segment is.
typedef struct pd_window {
    char *base;             // immutable
    size_t reserved;        // bytes of address space; immutable
    _Atomic size_t usable;  // of these, bytes known to lie inside the file; grows only
    struct pd_window *before;  // the one it replaced, still mapped; immutable
} pd_window;

// A process's handle.  Its fields are segment.c's business; they stand here so that
// pd_segment_at() can be inlined.
typedef struct pd_segment {
    _Atomic(pd_window *) window;  // the widest so far; replaced only by a wider one
    int fd;                       // owned; immutable
} pd_segment;

// A new segment of `bytes`, zeroed but for its header; of it, and of what it may grow to,
// `reserve` bytes of address space are taken where that is possible.
// PD_ENOMEM; PD_EOS with errno where the system refuses or has no such memory.
pd_status pd_segment_create(pd_segment_kind kind,
                            size_t bytes,
                            size_t reserve,
                            pd_segment **out);

// Maps a segment that another process made.  On success the segment owns `fd`; on failure
// the caller still does.  PD_ECORRUPT if it is not a segment of that kind, of this layout
// and this machine's ABI, or is not sealed.
pd_status pd_segment_attach(int fd,
                            pd_segment_kind kind,
                            size_t reserve,
                            pd_segment **out);

// Unmaps and closes.  Accepts NULL.  Nobody may use what is inside any more.
void pd_segment_destroy(pd_segment *segment);

// The same, but the descriptor stays open and is the caller's again.
void pd_segment_release(pd_segment *segment);

// The size of the file now.
size_t pd_segment_size(pd_segment *segment);

// Makes the file at least `bytes` long; callers take turns by a lock of theirs.
pd_status pd_segment_extend(pd_segment *segment, size_t bytes);

// Gives the memory of the whole pages in a range back to the system; they read as zero.
// Returns whether there was anything to give back.
bool pd_segment_discard(pd_segment *segment, uint64_t offset, size_t bytes);

// Reserves memory for a range that was given back.
pd_status pd_segment_restore(pd_segment *segment, uint64_t offset, size_t bytes);

// pd_segment_at() where the range lies beyond what this process has seen of the file.
void *pd_segment_reach(pd_segment *segment, uint64_t offset, size_t bytes);

// `bytes` bytes at `offset`, or NULL if they do not lie inside the file.
static inline void *
pd_segment_at(pd_segment *segment, uint64_t offset, size_t bytes)
{
    pd_window *window = atomic_load_explicit(&segment->window, memory_order_acquire);
    size_t usable = atomic_load_explicit(&window->usable, memory_order_relaxed);
    if (bytes <= usable && offset <= usable - bytes) {
        return window->base + offset;
    }
    return pd_segment_reach(segment, offset, bytes);
}

#endif
