// The slots of a stripe.  Used by the table (table.c) and by what walks it; no other folder
// sees this.  But for pd_slots_find() the stripe is locked.
#ifndef PD_SHM_SLOTS_H
#define PD_SHM_SLOTS_H

#include <string.h>

#include "shm/layout.h"

// Word i of some bytes; what is behind them reads as zero.
static inline uint64_t
pd_word_of(const unsigned char *bytes, size_t size, size_t i)
{
    uint64_t word = 0;
    size_t left = size - 8 * i;
    memcpy(&word, bytes + 8 * i, left < 8 ? left : 8);
    return word;
}

static inline bool
pd_fits_slot(const pd_key *key)
{
    return key->size <= PD_INLINE_KEY && key->extra <= PD_INLINE_KEY - key->size;
}

// The same key, of the kind that a claim on it has; it lies in the same stripe.
static inline pd_key
pd_claim_key(const pd_key *key)
{
    pd_key claim = *key;
    claim.kind |= PD_HIDDEN_KIND;
    claim.meta |= (uint64_t)PD_HIDDEN_KIND << 8;
    return claim;
}

// Whether a slot whose meta word fits has the key; `words` are its bytes.
static inline bool
same_words(const pd_word *words, const pd_key *key)
{
    for (size_t i = 0; i < ((size_t)key->size + 7) / 8; i++) {
        if (pd_load(&words[i]) != pd_word_of(key->bytes, key->size, i)) {
            return false;
        }
    }
    return true;
}

static inline bool
slot_has(pd_table *table, pd_slot *slot, uint64_t meta, const pd_key *key)
{
    if ((meta & ~PD_META_EXTRA) != key->meta) {
        return false;
    }
    if (((meta >> 16) & 0xff) <= PD_INLINE_KEY) {
        // Compares the three words of a slot at once; those that are not the key's but
        // only extra are left out.
        uint64_t differ = 0;
        for (size_t i = 0; i < ((size_t)key->size + 7) / 8; i++) {
            differ |= pd_load(&slot->key[i]) ^ key->words[i];
        }
        return differ == 0;
    }
    uint32_t size, extra;
    uint64_t block;
    const pd_word *words = pd_slot_key(table, slot, &size, &extra, &block);
    return words != NULL && size == key->size && same_words(words, key);
}

// The live slot that has the key, or NULL; *vacant, unless NULL, is then where it would
// go.  Readers without a lock may call it: it ends whatever the slots hold.
static inline pd_slot *
pd_slots_find(
    pd_table *table, pd_slot *slots, uint64_t mask, const pd_key *key, pd_slot **vacant)
{
    pd_slot *place = NULL;
    for (uint64_t i = 0; i <= mask; i++) {
        pd_slot *slot = &slots[(key->hash + i) & mask];
        uint64_t meta = pd_load(&slot->meta);
        if (slot_has(table, slot, meta, key)) {
            return slot;
        }
        unsigned state = meta & 0xff;
        if (place == NULL && state != PD_SLOT_LIVE) {
            place = slot;
        }
        if (state == PD_SLOT_EMPTY) {
            break;
        }
    }
    if (vacant != NULL) {
        *vacant = place;
    }
    return NULL;
}

// A stripe that is locked, and its slots.
typedef struct pd_locked {
    pd_stripe *stripe;
    pd_slot *slots;
    uint64_t mask;
} pd_locked;

// What is to be written, and the blocks that were taken for it.
typedef struct pd_draft {
    const pd_key *key;
    const pd_value *value;
    uint64_t key_block;    // in granted[1]; 0 if the key is inline or there already
    uint64_t value_block;  // in granted[0], or in the pin's cell; 0 if it is inline
    pd_word *cell;         // of the pin
    uint64_t where;
} pd_draft;

// Locks the stripe of a hash, repaired if need be.  PD_ETIMEDOUT, PD_ECORRUPT.
pd_status pd_slots_lock(pd_table *table, uint64_t hash, int64_t wait_ns, pd_locked *at);

// PD_ECLAIMED if another living thread has claimed the key; the claim of a dead one ends.
pd_status pd_slots_check_claim(pd_table *table,
                               pd_locked *at,
                               const pd_key *key,
                               int64_t wait_ns);

// PD_ECHANGED unless the rule holds; slot is NULL if there is no such key.
pd_status pd_slots_check_rule(pd_slot *slot, pd_rule rule, uint64_t version);

// Takes a slot out of its table, between begin and commit; its value is not its matter.
void pd_slots_erase(pd_table *table, pd_locked *at, pd_slot *slot);

// Removes a live slot with its value.
pd_status pd_slots_remove(pd_table *table, pd_locked *at, pd_slot *slot);

// Writes what needs no block to a slot that has the key, or to a vacant one.
pd_status pd_slots_write(
    pd_table *table, pd_locked *at, pd_slot *slot, bool vacant, pd_draft *work);

// Writes under a rule; takes the blocks that are needed, and makes room.
pd_status pd_slots_put(pd_table *table,
                       pd_locked *at,
                       pd_draft *work,
                       pd_rule rule,
                       uint64_t version,
                       int64_t wait_ns);

#endif
