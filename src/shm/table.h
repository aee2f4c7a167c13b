// A hash table in shared memory: what processes and threads use as a dict together.
//
// It knows nothing of Python.  A key is a kind and some bytes; a value is a type and some
// bytes, of which it understands integers and floats, to add to them.
//
// Whatever happens to a process, a key has its old value or its new one, and others go on
// within microseconds.  Functions take `wait_ns`: how long they may sleep for a lock, 0
// for not at all.  They return PD_ETIMEDOUT with nothing done and no lock held when that
// was too short, so that a caller can look for signals and come back.  Any of them may
// also return PD_ECORRUPT, if the memory does not hold what it should.
//
// Any thread may call any of these at any time, but pd_table_destroy() last.
#ifndef PD_SHM_TABLE_H
#define PD_SHM_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct pd_table pd_table;  // opaque: a process's handle

#define PD_INLINE_KEY 24     // bytes of a key that fit a slot
#define PD_INLINE_VALUE 16   // bytes of a value that do
#define PD_SMALL_BYTES 1024  // values up to this size are copied under the lock
#define PD_NO_PIN (-1)

// Types of values that pd_table_add() understands; the others are the caller's.
typedef enum pd_value_type {
    PD_VALUE_INT = 1,    // int64_t
    PD_VALUE_FLOAT = 2,  // double
} pd_value_type;

// A key, made by pd_table_key(); its bytes are borrowed.
typedef struct pd_key {
    const unsigned char *bytes;  // `size` that are compared, then `extra` that are not
    uint32_t size;
    uint32_t extra;
    uint8_t kind;
    uint64_t hash;
    uint64_t meta;                      // what the slot's first word is compared with
    uint64_t words[PD_INLINE_KEY / 8];  // the bytes, where they fit
} pd_key;

// A value to be written.
typedef struct pd_value {
    uint8_t type;
    uint64_t size;
    const void *data;  // `size` bytes; not read where `pin` is given
    int64_t pin;       // PD_NO_PIN, or from pd_table_stage()
} pd_value;

// A value that was read.
typedef struct pd_found {
    uint8_t type;
    uint64_t version;  // changes with every write to the key
    uint64_t size;
    const void *data;  // into `copy`, or into shared memory if there is a pin
    int64_t pin;       // PD_NO_PIN, or to be given to pd_table_unpin(): until then the
                       // bytes at `data` stay as they are
    union {
        uint64_t words[PD_INLINE_VALUE / 8];
        unsigned char bytes[PD_SMALL_BYTES];
    } copy;
} pd_found;

typedef enum pd_rule {
    PD_ALWAYS,
    PD_IF_ABSENT,
    PD_IF_VERSION,  // only over the value of that version
} pd_rule;

// A new, empty table.  `flags` are the caller's, for whoever attaches.
pd_status pd_table_create(uint64_t flags, pd_table **out);

// Attaches to another process's table; owns `fd` on success only.
pd_status pd_table_attach(int fd, pd_table **out);

// Accepts NULL.  All pins must have been dropped.
void pd_table_destroy(pd_table *table);

int pd_table_fd(const pd_table *table);
uint64_t pd_table_flags(const pd_table *table);

// Bytes of memory that the table's file takes.
size_t pd_table_bytes(pd_table *table);

// Fills *key.  `kind` < 128; size + extra < 2^31; with extra bytes, size is a multiple of
// 8.  Can't fail.
void pd_table_key(pd_table *table,
                  uint8_t kind,
                  const void *bytes,
                  size_t size,
                  size_t extra,
                  pd_key *key);

// Reads a value: one of at most PD_INLINE_VALUE bytes without a lock, others up to
// PD_SMALL_BYTES copied, larger ones pinned.  PD_EABSENT, PD_ENOMEM.
pd_status pd_table_get(pd_table *table,
                       const pd_key *key,
                       int64_t wait_ns,
                       pd_found *found);

// Whether there is such a key: PD_OK or PD_EABSENT.
pd_status pd_table_has(pd_table *table, const pd_key *key, int64_t wait_ns);

// Writes a value, of more than PD_SMALL_BYTES only if it is staged.  PD_ECHANGED if the
// rule does not hold, PD_ECLAIMED, PD_ENOMEM.  A staged value's pin is used up on success
// and must be dropped by the caller otherwise.
pd_status pd_table_put(pd_table *table,
                       const pd_key *key,
                       const pd_value *value,
                       pd_rule rule,
                       uint64_t version,
                       int64_t wait_ns);

// Room for a value of `size` bytes for that key, to be filled at *data, without a lock,
// and put.  PD_ENOMEM.
pd_status pd_table_stage(pd_table *table,
                         const pd_key *key,
                         uint64_t size,
                         int64_t wait_ns,
                         void **data,
                         int64_t *pin);

// Drops a pin.  Can't fail: what cannot be done at once is done later.
void pd_table_unpin(pd_table *table, int64_t pin);

// Removes a key, under PD_ALWAYS or PD_IF_VERSION; *found, which may be NULL, is what it
// had.  PD_EABSENT, PD_ECHANGED, PD_ECLAIMED, PD_ENOMEM.
pd_status pd_table_remove(pd_table *table,
                          const pd_key *key,
                          pd_rule rule,
                          uint64_t version,
                          int64_t wait_ns,
                          pd_found *found);

// Adds an int64_t or a double at *term to what a key has, or to 0 if there is none, and
// writes the sum, of the value's type, to *term.  PD_EINVAL where the types are not the
// same or the sum overflows; PD_ECLAIMED, PD_ENOMEM.
pd_status pd_table_add(pd_table *table,
                       const pd_key *key,
                       pd_value_type type,
                       void *term,
                       int64_t wait_ns);

// Claims a key, which need not exist, for the calling thread: until pd_table_release()
// the writes of all others to that key return PD_ECLAIMED.  A claim ends with its process.
// PD_ECLAIMED; PD_EINVAL if this thread has it already; PD_ENOMEM.
pd_status pd_table_claim(pd_table *table, const pd_key *key, int64_t wait_ns);

// PD_EABSENT if the calling thread has no such claim.
pd_status pd_table_release(pd_table *table, const pd_key *key, int64_t wait_ns);

// How many keys there are.  Can't fail.
size_t pd_table_count(pd_table *table);

// Removes all keys but the claimed, stripe by stripe.
pd_status pd_table_clear(pd_table *table, int64_t wait_ns);

// One key, and its value if asked for, of a pd_listing.
typedef struct pd_entry {
    uint64_t stamp;  // when the key was inserted
    uint64_t size;   // of the value
    uint64_t version;
    size_t key;        // where in the listing's bytes its key is
    size_t value;      // the same, if there is no pin
    const void *data;  // the value, if there is a pin
    int64_t pin;
    uint32_t key_size;
    uint32_t key_extra;
    uint8_t kind;
    uint8_t type;
} pd_entry;

typedef struct pd_listing {
    pd_entry *entries;  // owned, like `bytes`
    size_t count;
    size_t room;
    unsigned char *bytes;
    size_t bytes_used;
    size_t bytes_room;
} pd_listing;

// All keys, oldest first, with their values if `values`.  If `at_once` it is the state of
// one moment; else only each key with its value is.  PD_ENOMEM.
pd_status pd_table_list(
    pd_table *table, bool values, bool at_once, int64_t wait_ns, pd_listing *listing);

// Frees a listing and drops the pins that are still in it.
void pd_listing_free(pd_table *table, pd_listing *listing);

// Frees what dead processes had pinned.  Done now and then anyway.
pd_status pd_table_reap(pd_table *table, int64_t wait_ns);

// Checks all that should hold, with all locks taken: every key can be found, counts are
// right, every block is used once or free, none is lost.  PD_ECORRUPT.
pd_status pd_table_audit(pd_table *table, int64_t wait_ns);

#endif
