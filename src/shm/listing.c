// Reading a whole table: its keys and values, oldest first; and emptying it.
//
// A stripe is copied under its lock, values of more than PD_SMALL_BYTES are pinned.  For
// the state of one moment all stripes are locked first, in ascending order.
//
// Cells for pins cannot be had under a stripe's lock (layout.h, lock order).  So when they
// run out, all is given up, more are reserved, and it starts over.
#include "shm/layout.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

// What a listing is made with.
typedef struct lister {
    pd_table *table;
    pd_listing *listing;
    bool values;
    pd_cell *cells;  // reserved; owned
    size_t cell_count;
    size_t cells_used;
    bool needs_cells;
} lister;

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
pin_value(
    lister *job, pd_stripe *stripe, pd_block *block, uint64_t offset, pd_entry *entry)
{
    if (job->cells_used == job->cell_count) {
        job->needs_cells = true;
        return PD_ETIMEDOUT;
    }
    pd_cell *cell = &job->cells[job->cells_used++];
    pd_stripe_begin(stripe);
    pd_pins_point(stripe, cell, block, offset);
    pd_stripe_commit(job->table, stripe);
    entry->pin = cell->pin;
    entry->data = pd_block_payload(block);
    return PD_OK;
}

static pd_status
add_value(lister *job, pd_stripe *stripe, pd_slot *slot, pd_entry *entry)
{
    pd_table *table = job->table;
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
            return pin_value(job, stripe, block, offset, entry);
        }
        data = pd_block_payload(block);
    }
    pd_status status = add_bytes(job->listing, entry->size, &entry->value);
    if (status == PD_OK) {
        memcpy(job->listing->bytes + entry->value, data, entry->size);
    }
    return status;
}

static pd_status
add_slot(lister *job, pd_stripe *stripe, pd_slot *slot)
{
    pd_listing *listing = job->listing;
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
        .kind = (uint8_t)(pd_load(&slot->meta) >> 8),
        .stamp = pd_load(&slot->stamp),
        .pin = PD_NO_PIN,
    };
    pd_status status = add_key(job->table, slot, listing, entry);
    if (status == PD_OK && job->values) {
        status = add_value(job, stripe, slot, entry);
    }
    listing->count += status == PD_OK;
    return status;
}

// Lists a locked stripe.
static pd_status
list_stripe(lister *job, pd_stripe *stripe)
{
    uint64_t mask;
    pd_slot *slots = pd_stripe_slots(job->table, stripe, &mask);
    if (slots == NULL) {
        return PD_ECORRUPT;
    }
    pd_status status = PD_OK;
    for (uint64_t i = 0; status == PD_OK && i <= mask; i++) {
        uint64_t meta = pd_load(&slots[i].meta);
        if ((meta & 0xff) == PD_SLOT_LIVE && !((meta >> 8) & PD_HIDDEN_KIND)) {
            status = add_slot(job, stripe, &slots[i]);
        }
    }
    return status;
}

static pd_status
list_one_by_one(lister *job, int64_t wait_ns)
{
    pd_status status = PD_OK;
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        pd_stripe *stripe = &job->table->shared->stripes[i];
        if (pd_load(&stripe->count) == 0) {
            continue;
        }
        status = pd_stripe_lock(job->table, stripe, wait_ns);
        if (status == PD_OK) {
            status = list_stripe(job, stripe);
            pd_stripe_unlock(job->table, stripe);
        }
    }
    return status;
}

static pd_status
list_at_once(lister *job, int64_t wait_ns)
{
    pd_stripe *stripes = job->table->shared->stripes;
    pd_status status = PD_OK;
    unsigned locked = 0;
    while (status == PD_OK && locked < PD_STRIPES) {
        status = pd_stripe_lock(job->table, &stripes[locked], wait_ns);
        locked += status == PD_OK;
    }
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        status = list_stripe(job, &stripes[i]);
    }
    while (locked > 0) {
        pd_stripe_unlock(job->table, &stripes[--locked]);
    }
    return status;
}

static pd_status
reserve_more(lister *job, int64_t wait_ns)
{
    size_t more = job->cell_count == 0 ? PD_CELLS : job->cell_count;
    size_t room = job->cell_count;
    void *cells = job->cells;
    pd_status status =
        grow(&cells, sizeof(pd_cell), job->cell_count, &room, job->cell_count + more);
    if (status != PD_OK) {
        return status;
    }
    job->cells = cells;
    status = pd_pins_reserve(job->table, more, wait_ns, &job->cells[job->cell_count]);
    job->cell_count += status == PD_OK ? more : 0;
    return status;
}

// Lists once; the cells of what fails are without pins again.
static pd_status
try_list(lister *job, bool at_once, int64_t wait_ns)
{
    job->needs_cells = false;
    job->cells_used = 0;
    pd_status status =
        at_once ? list_at_once(job, wait_ns) : list_one_by_one(job, wait_ns);
    if (status != PD_OK) {
        // Dropping a pin makes its cell anybody's.
        pd_listing_free(job->table, job->listing);
        for (size_t i = job->cells_used; i < job->cell_count; i++) {
            job->cells[i - job->cells_used] = job->cells[i];
        }
        job->cell_count -= job->cells_used;
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
    lister job = {.table = table, .listing = listing, .values = values};
    *listing = (pd_listing){0};
    pd_status status = try_list(&job, at_once, wait_ns);
    for (size_t wanted = PD_CELLS; status != PD_OK && job.needs_cells; wanted *= 2) {
        status = PD_OK;
        while (status == PD_OK && job.cell_count < wanted) {
            status = reserve_more(&job, wait_ns);
        }
        job.needs_cells = false;
        if (status == PD_OK) {
            status = try_list(&job, at_once, wait_ns);
        }
    }
    for (size_t i = status == PD_OK ? job.cells_used : 0; i < job.cell_count; i++) {
        pd_pins_unreserve(table, job.cells[i].pin);
    }
    pd_free(job.cells);
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
            status = pd_stripe_clear(table, stripe, wait_ns);
            pd_stripe_unlock(table, stripe);
        }
    }
    return status;
}
