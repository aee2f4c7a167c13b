// Reading a whole table: its keys and values, oldest first; and emptying it.
//
// A stripe is copied under its lock, values of more than PD_SMALL_BYTES are pinned.  For
// the state of one moment all stripes are locked first, in ascending order.
//
// Cells for pins cannot be made under a stripe's lock (layout.h, lock order).  So when they
// run out, all is given up, twice as many are prepared, and it starts over.
#include "shm/layout.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

// Doubles an array of `size`-byte elements until `wanted` fit.
static pd_status
grow(void **array, size_t size, size_t used, size_t *room, size_t wanted)
{
    size_t more = *room != 0 ? *room : 64;
    while (more < wanted) {
        more *= 2;
    }
    void *grown = pd_alloc(more, size);
    if (grown == NULL) {
        return PD_ENOMEM;
    }
    if (used > 0) {
        memcpy(grown, *array, used * size);
    }
    pd_free(*array);
    *array = grown;
    *room = more;
    return PD_OK;
}

// Room for `size` more bytes, beginning at *where, a multiple of 8.
static pd_status
add_bytes(pd_listing *listing, size_t size, size_t *where)
{
    size_t begin = (listing->bytes_used + 7) & ~(size_t)7;
    size_t end = begin + ((size + 7) & ~(size_t)7);
    if (end > listing->bytes_room) {
        void *bytes = listing->bytes;
        pd_status status =
            grow(&bytes, 1, listing->bytes_used, &listing->bytes_room, end);
        if (status != PD_OK) {
            return status;
        }
        listing->bytes = bytes;
    }
    listing->bytes_used = end;
    *where = begin;
    return PD_OK;
}

static pd_status
add_key(pd_table *table, pd_slot *slot, pd_listing *listing, pd_entry *entry)
{
    uint64_t block;
    const pd_word *words =
        pd_slot_key(table, slot, &entry->key_size, &entry->key_extra, &block);
    if (words == NULL) {
        return PD_ECORRUPT;
    }
    size_t bytes = (size_t)entry->key_size + entry->key_extra;
    pd_status status = add_bytes(listing, bytes, &entry->key);
    for (size_t i = 0; status == PD_OK && i < (bytes + 7) / 8; i++) {
        uint64_t word = pd_load(&words[i]);
        memcpy(listing->bytes + entry->key + 8 * i, &word, sizeof(word));
    }
    return status;
}

static pd_status
pin_value(pd_table *table,
          pd_stripe *stripe,
          pd_block *block,
          uint64_t offset,
          pd_entry *entry,
          bool *needs_cells)
{
    uint64_t where;
    if (!pd_pins_try(table, &entry->pin, &where)) {
        *needs_cells = true;
        return PD_ETIMEDOUT;
    }
    pd_word *cell = pd_segment_at(table->segment, where, sizeof(*cell));
    if (cell == NULL) {
        return PD_ECORRUPT;
    }
    pd_stripe_begin(stripe);
    pd_pins_point(stripe, cell, where, block, offset);
    pd_stripe_commit(table, stripe);
    entry->data = pd_block_payload(block);
    return PD_OK;
}

static pd_status
add_value(pd_table *table,
          pd_stripe *stripe,
          pd_slot *slot,
          pd_listing *listing,
          pd_entry *entry,
          bool *needs_cells)
{
    uint64_t info = pd_load(&slot->info), offset;
    uint64_t words[2] = {pd_load(&slot->value[0]), pd_load(&slot->value[1])};
    const void *data = words;
    entry->type = (uint8_t)info;
    entry->version = info >> 16;
    entry->size = (info >> 8) & 0xff;
    if (entry->size > PD_INLINE_VALUE) {
        pd_block *block = pd_slot_value(table, slot, &offset, &entry->size);
        if (block == NULL ||
            pd_load(&block->next) != (uint64_t)(stripe - table->shared->stripes))
        {
            return PD_ECORRUPT;
        }
        if (entry->size > PD_SMALL_BYTES) {
            return pin_value(table, stripe, block, offset, entry, needs_cells);
        }
        data = pd_block_payload(block);
    }
    pd_status status = add_bytes(listing, entry->size, &entry->value);
    if (status == PD_OK) {
        memcpy(listing->bytes + entry->value, data, entry->size);
    }
    return status;
}

// Lists a locked stripe.
static pd_status
list_stripe(pd_table *table,
            pd_stripe *stripe,
            bool values,
            pd_listing *listing,
            bool *needs_cells)
{
    uint64_t mask;
    pd_slot *slots = pd_stripe_slots(table, stripe, &mask);
    if (slots == NULL) {
        return PD_ECORRUPT;
    }
    for (uint64_t i = 0; i <= mask; i++) {
        uint64_t meta = pd_load(&slots[i].meta);
        if ((meta & 0xff) != PD_SLOT_LIVE || ((meta >> 8) & PD_HIDDEN_KIND)) {
            continue;
        }
        if (listing->count == listing->room) {
            void *entries = listing->entries;
            pd_status status = grow(&entries, sizeof(pd_entry), listing->count,
                                    &listing->room, listing->count + 1);
            if (status != PD_OK) {
                return status;
            }
            listing->entries = entries;
        }
        pd_entry *entry = &listing->entries[listing->count];
        *entry = (pd_entry){
            .kind = (uint8_t)(meta >> 8),
            .stamp = pd_load(&slots[i].stamp),
            .pin = PD_NO_PIN,
        };
        pd_status status = add_key(table, &slots[i], listing, entry);
        if (status == PD_OK && values) {
            status = add_value(table, stripe, &slots[i], listing, entry, needs_cells);
        }
        if (status != PD_OK) {
            return status;
        }
        listing->count++;
    }
    return PD_OK;
}

static pd_status
list_one_by_one(pd_table *table,
                bool values,
                int64_t wait_ns,
                pd_listing *listing,
                bool *needs_cells)
{
    pd_status status = PD_OK;
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        pd_stripe *stripe = &table->shared->stripes[i];
        if (pd_load(&stripe->count) == 0) {
            continue;
        }
        status = pd_stripe_lock(table, stripe, wait_ns);
        if (status == PD_OK) {
            status = list_stripe(table, stripe, values, listing, needs_cells);
            pd_stripe_unlock(table, stripe);
        }
    }
    return status;
}

static pd_status
list_at_once(pd_table *table,
             bool values,
             int64_t wait_ns,
             pd_listing *listing,
             bool *needs_cells)
{
    pd_stripe *stripes = table->shared->stripes;
    pd_status status = PD_OK;
    unsigned locked = 0;
    while (status == PD_OK && locked < PD_STRIPES) {
        status = pd_stripe_lock(table, &stripes[locked], wait_ns);
        locked += status == PD_OK;
    }
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        status = list_stripe(table, &stripes[i], values, listing, needs_cells);
    }
    while (locked > 0) {
        pd_stripe_unlock(table, &stripes[--locked]);
    }
    return status;
}

static int
compare_stamps(const void *a, const void *b)
{
    const pd_entry *first = a, *second = b;
    return (first->stamp > second->stamp) - (first->stamp < second->stamp);
}

pd_status
pd_table_list(
    pd_table *table, bool values, bool at_once, int64_t wait_ns, pd_listing *listing)
{
    pd_status status = PD_OK;
    for (size_t cells = PD_CELLS; status == PD_OK; cells *= 2) {
        bool needs_cells = false;
        *listing = (pd_listing){0};
        status = at_once
                     ? list_at_once(table, values, wait_ns, listing, &needs_cells)
                     : list_one_by_one(table, values, wait_ns, listing, &needs_cells);
        if (status == PD_OK) {
            break;
        }
        pd_listing_free(table, listing);
        if (needs_cells) {
            status = pd_pins_prepare(table, cells, wait_ns);
        }
    }
    if (status == PD_OK && listing->count > 1) {
        qsort(listing->entries, listing->count, sizeof(pd_entry), compare_stamps);
    }
    return status;
}

void
pd_listing_free(pd_table *table, pd_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++) {
        if (listing->entries[i].pin != PD_NO_PIN) {
            pd_table_unpin(table, listing->entries[i].pin);
        }
    }
    pd_free(listing->entries);
    pd_free(listing->bytes);
    *listing = (pd_listing){0};
}

pd_status
pd_table_clear(pd_table *table, int64_t wait_ns)
{
    pd_status status = PD_OK;
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        pd_stripe *stripe = &table->shared->stripes[i];
        status = pd_stripe_lock(table, stripe, wait_ns);
        if (status == PD_OK) {
            status = pd_stripe_clear(table, stripe);
            pd_stripe_unlock(table, stripe);
        }
    }
    return status;
}
