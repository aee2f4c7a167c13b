// The slots of a locked stripe: found, written, removed, copied to a larger table.
//
// Who changes slots takes the blocks that are needed first, and fills them; then, between
// begin and commit, each word is noted in the log before it changes.  What can fail comes
// before begin, so a change is never half done (stripe.c has the rest of that story).
#include "shm/slots.h"

#include <string.h>

#include "base/clock.h"

#define VERSION_BITS 48

pd_status
pd_slots_lock(pd_table *table, uint64_t hash, int64_t wait_ns, pd_locked *at)
{
    at->stripe = &table->shared->stripes[pd_stripe_of(hash)];
    pd_status status = pd_stripe_lock(table, at->stripe, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    at->slots = pd_stripe_slots(table, at->stripe, &at->mask);
    if (at->slots == NULL) {
        pd_stripe_unlock(table, at->stripe);
        return PD_ECORRUPT;
    }
    return PD_OK;
}

const pd_word *
pd_slot_key(
    pd_table *table, pd_slot *slot, uint32_t *size, uint32_t *extra, uint64_t *block)
{
    uint64_t meta = pd_load(&slot->meta);
    *block = 0;
    *size = (uint32_t)(meta >> 16) & 0xff;
    *extra = (uint32_t)(meta >> 24) & 0xff;
    if (*size <= PD_INLINE_KEY) {
        return *extra <= PD_INLINE_KEY - *size ? slot->key : NULL;
    }
    uint64_t offset = pd_load(&slot->key[0]);
    uint64_t long_size = pd_load(&slot->key[1]), long_extra = pd_load(&slot->key[2]);
    size_t room;
    pd_block *found = pd_heap_block(table->segment, offset, &room);
    if (*size != PD_IN_BLOCK || found == NULL || long_size > room ||
        long_extra > room - long_size || long_size > UINT32_MAX ||
        long_extra > UINT32_MAX)
    {
        return NULL;
    }
    *size = (uint32_t)long_size;
    *extra = (uint32_t)long_extra;
    *block = offset;
    return pd_block_payload(found);
}

pd_block *
pd_slot_value(pd_table *table, pd_slot *slot, uint64_t *offset, uint64_t *size)
{
    size_t room;
    *offset = pd_load(&slot->value[0]);
    *size = pd_load(&slot->value[1]);
    pd_block *block = pd_heap_block(table->segment, *offset, &room);
    return block != NULL && *size <= room ? block : NULL;
}

static void
set_slot(pd_locked *at, pd_word *word, uint64_t value)
{
    uint64_t where = pd_load(&at->stripe->slots) + PD_UNIT +
                     (uint64_t)((char *)word - (char *)at->slots);
    pd_stripe_set_at(at->stripe, word, where, value);
}

// The block of a value that its slot does not refer to any more.
static void
unlink_block(pd_table *table, pd_locked *at, pd_block *block, uint64_t offset)
{
    uint64_t pins = pd_load(&block->pins) & ~(uint64_t)PD_LINKED;
    pd_stripe_set_at(at->stripe, &block->pins, offset + offsetof(pd_block, pins), pins);
    if (pins == 0) {
        pd_stripe_set(table, at->stripe, &at->stripe->returned[0], offset);
    }
}

// Sets all slots of a new block to empty, word by word.
static void
clear_slots(pd_slot *slots, uint64_t count)
{
    pd_word *words = (pd_word *)slots;
    for (uint64_t i = 0; i < count * sizeof(pd_slot) / sizeof(pd_word); i++) {
        pd_store(&words[i], 0);
    }
}

static void
copy_slot(pd_slot *to, pd_slot *from)
{
    pd_word *target = (pd_word *)to, *source = (pd_word *)from;
    for (size_t i = 0; i < sizeof(pd_slot) / sizeof(pd_word); i++) {
        pd_store(&target[i], pd_load(&source[i]));
    }
}

// Copies the live slots to a new table.
static pd_status
fill_slots(
    pd_table *table, pd_locked *at, pd_slot *slots, uint64_t mask, uint64_t *live)
{
    *live = 0;
    clear_slots(slots, mask + 1);
    for (uint64_t i = 0; i <= at->mask; i++) {
        pd_slot *slot = &at->slots[i];
        uint64_t meta = pd_load(&slot->meta), block;
        if ((meta & 0xff) != PD_SLOT_LIVE) {
            continue;
        }
        uint32_t size, extra;
        const pd_word *words = pd_slot_key(table, slot, &size, &extra, &block);
        if (words == NULL || ++*live > mask) {
            return PD_ECORRUPT;
        }
        uint8_t kind = (uint8_t)(meta >> 8) & (uint8_t)~PD_HIDDEN_KIND;
        uint64_t hash = pd_table_hash(table->seed, kind, words, size);
        while (pd_load(&slots[hash & mask].meta) != 0) {
            hash++;
        }
        copy_slot(&slots[hash & mask], slot);
    }
    return PD_OK;
}

// Gives the stripe a table with room for more, and without dead slots.
static pd_status
rebuild(pd_table *table, pd_locked *at, int64_t wait_ns)
{
    pd_stripe *stripe = at->stripe;
    uint64_t live = pd_load(&stripe->count) + pd_load(&stripe->claims);
    uint64_t slots_wanted = PD_FIRST_SLOTS;
    if (live > at->mask + 1) {
        return PD_ECORRUPT;
    }
    while (slots_wanted < 2 * (live + 1)) {
        slots_wanted *= 2;
    }
    size_t bytes = slots_wanted * sizeof(pd_slot) + PD_UNIT - sizeof(pd_block);
    pd_status status = pd_stripe_take(table, stripe, 0, PD_WORDS, bytes, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    uint64_t offset = pd_load(&stripe->granted[0]);
    pd_slot *slots = pd_segment_at(table->segment, offset + PD_UNIT, bytes);
    uint64_t copied = 0;
    status = slots != NULL ? fill_slots(table, at, slots, slots_wanted - 1, &copied)
                           : PD_ECORRUPT;
    if (status != PD_OK) {
        pd_stripe_untake(table, stripe, 0);
        return status;
    }
    pd_stripe_begin(stripe);
    pd_stripe_set(table, stripe, &stripe->returned[1], pd_load(&stripe->slots));
    pd_stripe_set(table, stripe, &stripe->slots, offset);
    pd_stripe_set(table, stripe, &stripe->mask, slots_wanted - 1);
    pd_stripe_set(table, stripe, &stripe->used, copied);
    pd_stripe_set(table, stripe, &stripe->granted[0], 0);
    pd_stripe_commit(table, stripe);
    at->slots = slots;
    at->mask = slots_wanted - 1;
    return pd_stripe_settle(table, stripe, wait_ns);
}

// Takes a slot out of its table, between begin and commit; its value is not its matter.
void
pd_slots_erase(pd_table *table, pd_locked *at, pd_slot *slot)
{
    pd_stripe *stripe = at->stripe;
    uint32_t size, extra;
    uint64_t key_block;
    bool hidden = (pd_load(&slot->meta) >> 8) & PD_HIDDEN_KIND;
    (void)pd_slot_key(table, slot, &size, &extra, &key_block);
    if (key_block != 0) {
        pd_stripe_set(table, stripe, &stripe->returned[1], key_block);
    }
    // Behind the last slot of a run, the dead one can be empty at once.
    pd_slot *next = &at->slots[((uint64_t)(slot - at->slots) + 1) & at->mask];
    bool last = (pd_load(&next->meta) & 0xff) == PD_SLOT_EMPTY;
    set_slot(at, &slot->meta, last ? PD_SLOT_EMPTY : PD_SLOT_DEAD);
    if (last) {
        pd_stripe_set(table, stripe, &stripe->used, pd_load(&stripe->used) - 1);
    }
    pd_word *counter = hidden ? &stripe->claims : &stripe->count;
    pd_stripe_set(table, stripe, counter, pd_load(counter) - 1);
}

// PD_ECLAIMED if another living thread has claimed the key.
pd_status
pd_slots_check_claim(pd_table *table, pd_locked *at, const pd_key *key, int64_t wait_ns)
{
    if (pd_load(&at->stripe->claims) == 0) {
        return PD_OK;
    }
    pd_key claim = pd_claim_key(key);
    pd_slot *slot = pd_slots_find(table, at->slots, at->mask, &claim, NULL);
    if (slot == NULL) {
        return PD_OK;
    }
    uint64_t who = pd_load(&slot->value[0]);
    if (who == pd_process_self() && pd_load(&slot->value[1]) == pd_thread_self()) {
        return PD_OK;
    }
    if (pd_process_alive(who)) {
        return PD_ECLAIMED;
    }
    pd_stripe_begin(at->stripe);
    pd_slots_erase(table, at, slot);
    pd_stripe_commit(table, at->stripe);
    return pd_stripe_settle(table, at->stripe, wait_ns);
}

// The block of a slot's value, NULL if it is inline; PD_ECORRUPT if it makes no sense.
static pd_status
find_value_block(pd_table *table, pd_slot *slot, pd_block **block, uint64_t *offset)
{
    uint64_t size;
    *block = NULL;
    if (((pd_load(&slot->info) >> 8) & 0xff) == PD_IN_BLOCK) {
        *block = pd_slot_value(table, slot, offset, &size);
        return *block != NULL ? PD_OK : PD_ECORRUPT;
    }
    return PD_OK;
}

// Removes a live slot with its value.
pd_status
pd_slots_remove(pd_table *table, pd_locked *at, pd_slot *slot)
{
    pd_block *block;
    uint64_t offset;
    pd_status status = find_value_block(table, slot, &block, &offset);
    if (status != PD_OK) {
        return status;
    }
    pd_stripe_begin(at->stripe);
    if (block != NULL) {
        unlink_block(table, at, block, offset);
    }
    pd_slots_erase(table, at, slot);
    pd_stripe_commit(table, at->stripe);
    return PD_OK;
}

static pd_status
take_value_block(pd_table *table, pd_locked *at, pd_draft *work, int64_t wait_ns)
{
    const pd_value *value = work->value;
    if (value->size <= PD_INLINE_VALUE) {
        return PD_OK;
    }
    if (value->pin != PD_NO_PIN) {
        work->value_block = pd_load(work->cell);
        return PD_OK;
    }
    if (value->size > PD_SMALL_BYTES) {
        return PD_EINVAL;
    }
    pd_status status =
        pd_stripe_take(table, at->stripe, 0, PD_BYTES, value->size, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    work->value_block = pd_load(&at->stripe->granted[0]);
    size_t room;
    pd_block *block = pd_heap_block(table->segment, work->value_block, &room);
    if (block == NULL || room < value->size) {
        return PD_ECORRUPT;
    }
    pd_store(&block->next, (uint64_t)(at->stripe - table->shared->stripes));
    pd_store(&block->size, value->size);
    memcpy(pd_block_payload(block), value->data, value->size);
    return PD_OK;
}

static pd_status
take_key_block(pd_table *table, pd_locked *at, pd_draft *work, int64_t wait_ns)
{
    const pd_key *key = work->key;
    size_t bytes = (size_t)key->size + key->extra;
    if (pd_fits_slot(key)) {
        return PD_OK;
    }
    size_t whole = (bytes + 7) / 8 * 8;
    pd_status status = pd_stripe_take(table, at->stripe, 1, PD_WORDS, whole, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    work->key_block = pd_load(&at->stripe->granted[1]);
    size_t room;
    pd_block *block = pd_heap_block(table->segment, work->key_block, &room);
    if (block == NULL || room < whole) {
        return PD_ECORRUPT;
    }
    pd_word *words = pd_block_payload(block);
    for (size_t i = 0; i < whole / 8; i++) {
        pd_store(&words[i], pd_word_of(key->bytes, bytes, i));
    }
    return PD_OK;
}

// A key for a vacant slot, between begin and commit.
static void
write_key(pd_table *table, pd_locked *at, pd_slot *slot, const pd_draft *work)
{
    const pd_key *key = work->key;
    uint64_t words[3] = {work->key_block, key->size, key->extra};
    uint64_t meta = key->meta;
    if (work->key_block == 0) {
        memcpy(words, key->words, sizeof(words));
        meta |= (uint64_t)key->extra << 24;
    }
    else {
        pd_stripe_set(table, at->stripe, &at->stripe->granted[1], 0);
    }
    if ((pd_load(&slot->meta) & 0xff) == PD_SLOT_EMPTY) {
        pd_stripe_set(table, at->stripe, &at->stripe->used,
                      pd_load(&at->stripe->used) + 1);
    }
    bool hidden = key->kind & PD_HIDDEN_KIND;
    pd_word *counter = hidden ? &at->stripe->claims : &at->stripe->count;
    pd_stripe_set(table, at->stripe, counter, pd_load(counter) + 1);
    for (size_t i = 0; i < 3; i++) {
        set_slot(at, &slot->key[i], words[i]);
    }
    set_slot(at, &slot->stamp, (uint64_t)pd_now_ns());
    set_slot(at, &slot->meta, meta);
}

static uint64_t
next_version(pd_locked *at)
{
    uint64_t version =
        (pd_load(&at->stripe->clock) + 1) & (((uint64_t)1 << VERSION_BITS) - 1);
    pd_store(&at->stripe->clock,
             version);  // none is given twice; one lost does no harm
    return version;
}

// A value, between begin and commit.
static void
write_value(pd_table *table, pd_locked *at, pd_slot *slot, const pd_draft *work)
{
    const pd_value *value = work->value;
    uint64_t words[2] = {work->value_block, value->size};
    uint64_t in_slot = PD_IN_BLOCK;
    if (work->value_block == 0) {
        in_slot = value->size;
        words[0] = words[1] = 0;
        memcpy(words, value->data, value->size);
    }
    else {
        size_t room;
        pd_block *block = pd_heap_block(table->segment, work->value_block, &room);
        uint64_t where = work->value_block + offsetof(pd_block, pins);
        uint64_t pins = block != NULL ? pd_load(&block->pins) : 0;
        if (work->cell != NULL) {
            pins -= PD_ONE_PIN;
            pd_stripe_set_at(at->stripe, work->cell, work->where, 0);
        }
        else {
            pd_stripe_set(table, at->stripe, &at->stripe->granted[0], 0);
        }
        if (block != NULL) {
            pd_stripe_set_at(at->stripe, &block->pins, where, pins | PD_LINKED);
        }
    }
    uint64_t info = value->type | in_slot << 8 | next_version(at) << 16;
    if (words[0] != pd_load(&slot->value[0])) {
        set_slot(at, &slot->value[0], words[0]);
    }
    if (words[1] != pd_load(&slot->value[1])) {
        set_slot(at, &slot->value[1], words[1]);
    }
    set_slot(at, &slot->info, info);
}

// Writes to a slot that has the key, or to a vacant one.
pd_status
pd_slots_write(
    pd_table *table, pd_locked *at, pd_slot *slot, bool vacant, pd_draft *work)
{
    pd_block *old = NULL;
    uint64_t old_offset = 0;
    pd_status status =
        vacant ? PD_OK : find_value_block(table, slot, &old, &old_offset);
    if (status != PD_OK) {
        return status;
    }
    pd_stripe_begin(at->stripe);
    if (old != NULL) {
        unlink_block(table, at, old, old_offset);
    }
    write_value(table, at, slot, work);
    if (vacant) {
        write_key(table, at, slot, work);
    }
    pd_stripe_commit(table, at->stripe);
    return PD_OK;
}

pd_status
pd_slots_check_rule(pd_slot *slot, pd_rule rule, uint64_t version)
{
    bool holds = rule == PD_ALWAYS || (rule == PD_IF_ABSENT && slot == NULL) ||
                 (rule == PD_IF_VERSION && slot != NULL &&
                  pd_load(&slot->info) >> 16 == version);
    return holds ? PD_OK : PD_ECHANGED;
}

pd_status
pd_slots_put(pd_table *table,
             pd_locked *at,
             pd_draft *work,
             pd_rule rule,
             uint64_t version,
             int64_t wait_ns)
{
    pd_slot *vacant = NULL;
    pd_slot *slot = pd_slots_find(table, at->slots, at->mask, work->key, &vacant);
    pd_status status = pd_slots_check_rule(slot, rule, version);
    if (status == PD_OK && slot == NULL &&
        (vacant == NULL || 4 * (pd_load(&at->stripe->used) + 1) > 3 * (at->mask + 1)))
    {
        status = rebuild(table, at, wait_ns);
        if (status == PD_OK) {
            (void)pd_slots_find(table, at->slots, at->mask, work->key, &vacant);
        }
    }
    if (status == PD_OK) {
        status = take_value_block(table, at, work, wait_ns);
    }
    if (status == PD_OK && slot == NULL) {
        status =
            vacant != NULL ? take_key_block(table, at, work, wait_ns) : PD_ECORRUPT;
    }
    if (status == PD_OK) {
        status =
            pd_slots_write(table, at, slot != NULL ? slot : vacant, slot == NULL, work);
    }
    if (status != PD_OK) {
        pd_stripe_untake(table, at->stripe, 0);
        pd_stripe_untake(table, at->stripe, 1);
    }
    return status;
}

// Whether somebody has a claim on a live slot's key.  It goes by the tag: once in four
// thousand million it says so of a key that only looks like a claimed one.
static bool
is_claimed(pd_table *table, pd_locked *at, pd_slot *slot)
{
    pd_key key = {.hash = 0};
    uint64_t block;
    const pd_word *words = pd_slot_key(table, slot, &key.size, &key.extra, &block);
    if (words == NULL) {
        return false;
    }
    uint8_t kind = (uint8_t)(pd_load(&slot->meta) >> 8);
    uint64_t claim_meta =
        (pd_load(&slot->meta) & ~PD_META_EXTRA) | (uint64_t)PD_HIDDEN_KIND << 8;
    uint64_t hash = pd_table_hash(table->seed, kind, words, key.size);
    for (uint64_t i = 0; i <= at->mask; i++) {
        uint64_t meta = pd_load(&at->slots[(hash + i) & at->mask].meta);
        if ((meta & ~PD_META_EXTRA) == claim_meta) {
            return true;
        }
        if ((meta & 0xff) == PD_SLOT_EMPTY) {
            break;
        }
    }
    return false;
}

pd_status
pd_stripe_clear(pd_table *table, pd_stripe *stripe, int64_t wait_ns)
{
    pd_locked at = {.stripe = stripe};
    at.slots = pd_stripe_slots(table, stripe, &at.mask);
    if (at.slots == NULL) {
        return PD_ECORRUPT;
    }
    bool claims = pd_load(&stripe->claims) != 0;
    // Backwards: behind each slot that goes there is then an empty one.
    for (uint64_t i = at.mask + 1; i-- > 0;) {
        uint64_t meta = pd_load(&at.slots[i].meta);
        bool goes = (meta & 0xff) == PD_SLOT_LIVE && !((meta >> 8) & PD_HIDDEN_KIND);
        if (goes && !(claims && is_claimed(table, &at, &at.slots[i]))) {
            pd_status status = pd_slots_remove(table, &at, &at.slots[i]);
            if (status == PD_OK) {
                status = pd_stripe_settle(table, stripe, wait_ns);
            }
            if (status != PD_OK) {
                return status;
            }
        }
    }
    return PD_OK;
}
