// All or nothing: an undo log for a few words of shared memory.
//
// Whoever holds a lock changes the words that it guards by pd_log_set(), which first notes
// the old value in the log that belongs to the lock, and ends with pd_log_commit().  When
// a process dies in between, the next owner of the lock calls pd_log_undo(), and all words
// are what they were.  Undoing twice does no harm, so death in there is no matter.
//
//      note (where, old) -> count + 1 -> store         ... -> count = 0
//                                        ^ killed here: undone     ^ here: done
//
// It guards against the death of a process, not of the machine: a store that was executed
// is seen, in order, by whoever takes the lock later, so no flushes are needed.
#ifndef PD_SHM_LOG_H
#define PD_SHM_LOG_H

#include <stdatomic.h>
#include <stdint.h>

#include "shm/crash.h"
#include "shm/segment.h"

// What shared structures consist of.  Stored with release and loaded with acquire order,
// so that a reader without the lock sees what a word refers to (free on x86).
typedef _Atomic uint64_t pd_word;

#define PD_LOG_ENTRIES 30

// Lies in a segment; guarded by the lock it belongs to.
typedef struct pd_log {
    pd_word count;
    pd_word unused;
    struct {
        pd_word where;  // offset in the segment
        pd_word old;
    } entries[PD_LOG_ENTRIES];
} pd_log;

static inline uint64_t
pd_load(const pd_word *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static inline void
pd_store(pd_word *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

// Sets a word of the segment at `where`.  The log has room: an operation changes fewer
// words than it has entries.
static inline void
pd_log_set(pd_log *log, pd_word *word, uint64_t where, uint64_t value)
{
    uint64_t count = pd_load(&log->count) % PD_LOG_ENTRIES;
    PD_CRASH_POINT();
    pd_store(&log->entries[count].where, where);
    PD_CRASH_POINT();
    pd_store(&log->entries[count].old, pd_load(word));
    PD_CRASH_POINT();
    pd_store(&log->count, count + 1);
    PD_CRASH_POINT();
    pd_store(word, value);
    PD_CRASH_POINT();
}

static inline void
pd_log_commit(pd_log *log)
{
    PD_CRASH_POINT();
    pd_store(&log->count, 0);
    PD_CRASH_POINT();
}

// Whether a log may name a word at that place: in a block, or in the structures before
// them but not in a lock, whose memory is the C library's.  (stripe.c knows the layout.)
bool pd_log_may_name(uint64_t where);

// Takes back what was not committed.  PD_ECORRUPT if the log makes no sense.
pd_status pd_log_undo(pd_log *log, pd_segment *segment);

#endif
