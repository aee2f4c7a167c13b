// What the files of the table share: the structures in the segment, and the handle.
//
//      | segment header | heap | table header | stripe 0 | ... | stripe 63 | blocks ...
//
//      stripe --slots--> block of slots --key[0]----> block with a long key
//                                       --value[0]--> block with a value
//      header --holders--> holder of a process --chunks--> cells --> blocks it has pinned
//
// Locks, outermost first: the process's pins.mutex, the registry's lock, stripes in
// ascending order, the heap's lock.
#ifndef PD_SHM_LAYOUT_H
#define PD_SHM_LAYOUT_H

#include <pthread.h>
#include <stddef.h>

#include "shm/heap.h"
#include "shm/lock.h"
#include "shm/log.h"
#include "shm/process.h"
#include "shm/segment.h"
#include "shm/table.h"

#ifdef PD_TEST
#    define PD_STRIPE_BITS 4  // so that they meet, and TSan can follow all locks
#else
#    define PD_STRIPE_BITS 6
#endif
#define PD_STRIPES (1u << PD_STRIPE_BITS)
#define PD_FIRST_SLOTS 8
#define PD_PARCELS 2

// A slot is one cache line.
//   meta   state | kind << 8 | inline key size << 16 | inline extra << 24 | tag << 32
//   info   type | inline value size << 8 | version << 16
// Sizes are PD_IN_BLOCK where the bytes are in a block; then key is {offset, size, extra}
// and value is {offset, size}.
typedef struct pd_slot {
    pd_word meta;
    pd_word key[3];
    pd_word info;
    pd_word value[2];
    pd_word stamp;  // monotonic time of the insertion
} pd_slot;

#define PD_IN_BLOCK 255u
#define PD_SLOT_EMPTY 0u
#define PD_SLOT_LIVE 1u
#define PD_SLOT_DEAD 2u       // was live: a search goes on
#define PD_HIDDEN_KIND 0x80u  // a claim on the key of the same bytes
#define PD_META_EXTRA ((uint64_t)0xff << 24)

// Guarded by `lock`, but for reading what readers without it look at.
typedef struct pd_stripe {
    _Alignas(PD_UNIT) pd_lock lock;

    // Read without the lock: odd while a write is going on.
    _Alignas(PD_UNIT) pd_word sequence;
    pd_word slots;  // offset of a block whose payload, behind padding, is the slots
    pd_word mask;   // their number - 1, a power of two - 1
    pd_word count;  // live slots that are not claims
    pd_word used;   // slots that are not empty
    pd_word claims;
    pd_word clock;  // the latest version

    // Taken from the heap and not in use yet; no longer in use and not given back yet.
    _Alignas(PD_UNIT) pd_word granted[PD_PARCELS];
    pd_word returned[PD_PARCELS];
    pd_word dirty;  // 1: its owner died and it is not repaired yet
    pd_log log;
} pd_stripe;

// The processes that are attached.  Guarded by `lock`.
typedef struct pd_registry {
    pd_lock lock;
    pd_word holders;  // the first of the list
    pd_word granted;
    pd_word dirty;  // as in a stripe
} pd_registry;

// The payload of a block: one process's pins.
typedef struct pd_holder {
    pd_word who;   // a pd_process_id; 0: free for another process
    pd_word next;  // immutable
    pd_word
        chunks;  // written by the process itself; when it is dead, by the registry's
    pd_word granted;  // owner, like what follows
} pd_holder;

#define PD_CELLS 500

typedef struct pd_chunk {
    pd_word next;  // immutable
    pd_word
        cells[PD_CELLS];  // 0 or the offset of a block; guarded by the block's stripe
} pd_chunk;

typedef struct pd_shared {
    pd_segment_header header;
    pd_heap heap;
    _Alignas(PD_UNIT) uint64_t seed;  // immutable, like flags
    uint64_t flags;
    pd_registry registry;
    pd_stripe stripes[PD_STRIPES];
} pd_shared;

_Static_assert(sizeof(pd_slot) == PD_UNIT, "a slot is a cache line");
_Static_assert(offsetof(pd_shared, heap) == PD_HEAP_OFFSET, "heap.c relies on it");
_Static_assert(sizeof(pd_shared) <= PD_BLOCKS_OFFSET, "blocks follow");

// The pins of this process.  All guarded by `mutex`.
typedef struct pd_pins {
    pthread_mutex_t mutex;
    unsigned forks;   // pd_process_forks() when the holder was taken
    uint64_t holder;  // offset of the holder's block; 0: none yet
    uint64_t *where;  // owned: offsets of the cells, by number
    int64_t *unused;  // owned: a stack of the numbers of those without a pin
    size_t cells;
    size_t unused_count;
    int64_t *late;  // owned: pins to be dropped when their stripe can be locked
    size_t late_count;
    // Made before a fork for the child: see pins.c.
    uint64_t child_holder;
    uint64_t *child_where;
} pd_pins;

struct pd_table {
    pd_segment *segment;  // owned
    pd_shared *shared;    // its start, in the first window
    uint64_t seed;        // as when it was attached, like flags
    uint64_t flags;
    pd_pins pins;
    _Atomic size_t known_bytes;  // of the file, when a value was staged last
    _Atomic bool grew;           // since the last reaping
    // All tables of the process, for fork; guarded by a mutex of pins.c.
    pd_table *before;
    pd_table *after;
};

// ---- stripe.c: one stripe under its lock ----

// Locks a stripe, repairs it if its last owner died, and empties its parcels.
pd_status pd_stripe_lock(pd_table *table, pd_stripe *stripe, int64_t wait_ns);

void pd_stripe_unlock(pd_table *table, pd_stripe *stripe);

// Between these two, words are changed by pd_stripe_set() and pd_stripe_set_at(): all of
// them, or, if the process dies, none.  The commit gives back what was returned.
void pd_stripe_begin(pd_stripe *stripe);
void pd_stripe_commit(pd_table *table, pd_stripe *stripe);

// Waits until the heap has taken back what a commit returned, so that the next one can
// return something; needed between two commits under one lock.
pd_status pd_stripe_settle(pd_table *table, pd_stripe *stripe, int64_t wait_ns);

// A word of the shared header, or of a block at a known offset.
void pd_stripe_set(pd_table *table, pd_stripe *stripe, pd_word *word, uint64_t value);
void pd_stripe_set_at(pd_stripe *stripe, pd_word *word, uint64_t where, uint64_t value);

// Takes a block into granted[parcel].
pd_status pd_stripe_take(pd_table *table,
                         pd_stripe *stripe,
                         unsigned parcel,
                         pd_family family,
                         size_t bytes,
                         int64_t wait_ns);

// Gives back granted[parcel], if anything.
void pd_stripe_untake(pd_table *table, pd_stripe *stripe, unsigned parcel);

// The slots of a locked stripe; NULL if they do not lie where they could.
pd_slot *pd_stripe_slots(pd_table *table, pd_stripe *stripe, uint64_t *mask);

static inline unsigned
pd_stripe_of(uint64_t hash)
{
    return (unsigned)(hash >> (64 - PD_STRIPE_BITS));
}

// ---- pins.c ----
//
// The second word of a value's block is its stripe; the third is pins * 2 + linked, where
// linked means that a slot refers to it.  It is free to go when that is 0.

#define PD_LINKED 1u
#define PD_ONE_PIN 2u

pd_status pd_pins_init(pd_table *table);
void pd_pins_fini(pd_table *table);

// A cell that the caller may point to a block.
typedef struct pd_cell {
    int64_t pin;     // its number
    uint64_t where;  // in the segment
    pd_word *word;
} pd_cell;

// `count` cells without a pin.  Takes pins.mutex, and may take the registry's lock and the
// heap's, so no other may be held.
pd_status pd_pins_reserve(pd_table *table,
                          size_t count,
                          int64_t wait_ns,
                          pd_cell *cells);
void pd_pins_unreserve(pd_table *table, int64_t pin);

// Steps of an operation on a locked stripe, between begin and commit: points a cell to a
// value's block; or takes it away, and returns the block if nothing else needs it.
void pd_pins_point(pd_stripe *stripe,
                   const pd_cell *cell,
                   pd_block *block,
                   uint64_t offset);
void pd_pins_drop(pd_table *table,
                  pd_stripe *stripe,
                  const pd_cell *cell,
                  pd_block *block,
                  uint64_t offset);

// ---- slots.c, key.c ----

// The bytes of a live slot's key: inline, or in a block.  NULL if they cannot be.
const pd_word *pd_slot_key(
    pd_table *table, pd_slot *slot, uint32_t *size, uint32_t *extra, uint64_t *block);

// The block of a slot's value, NULL if it makes no sense; *size as the slot says.
pd_block *pd_slot_value(pd_table *table,
                        pd_slot *slot,
                        uint64_t *offset,
                        uint64_t *size);

uint64_t pd_table_hash(uint64_t seed, uint8_t kind, const pd_word *words, size_t size);

// Removes the keys of a locked stripe, but for those that somebody has claimed.
pd_status pd_stripe_clear(pd_table *table, pd_stripe *stripe, int64_t wait_ns);

#endif
