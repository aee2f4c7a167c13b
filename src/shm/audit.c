// Checking a whole table, with all its locks taken: for tests, and for whoever doubts.
#include "shm/layout.h"

// What the blocks that something refers to take.
typedef struct tally {
    uint64_t linked;    // tables, keys, and values of slots
    uint64_t holders;   // holders and chunks
    uint64_t unlinked;  // values that only pins refer to
    uint64_t taken;     // all blocks that are not free
    uint64_t cells;     // that point to a block
    uint64_t pins;      // that blocks count
    bool lost;          // a value that nothing refers to
} tally;

static pd_status
audit_value(pd_table *table, pd_stripe *stripe, pd_slot *slot, tally *sum)
{
    uint64_t size = (pd_load(&slot->info) >> 8) & 0xff, offset;
    if (size <= PD_INLINE_VALUE) {
        return PD_OK;
    }
    pd_block *block = pd_slot_value(table, slot, &offset, &size);
    if (block == NULL || !(pd_load(&block->pins) & PD_LINKED) ||
        pd_load(&block->size) != size ||
        pd_load(&block->next) != (uint64_t)(stripe - table->shared->stripes))
    {
        return PD_ECORRUPT;
    }
    sum->linked += pd_block_bytes(block);
    return PD_OK;
}

// A live slot: its hash leads to it, and no second one has the key.
static pd_status
audit_slot(pd_table *table, pd_stripe *stripe, uint64_t index, tally *sum)
{
    uint64_t mask, block;
    pd_slot *slots = pd_stripe_slots(table, stripe, &mask);
    pd_slot *slot = &slots[index];
    uint32_t size, extra;
    const pd_word *words = pd_slot_key(table, slot, &size, &extra, &block);
    if (words == NULL) {
        return PD_ECORRUPT;
    }
    uint8_t kind = (uint8_t)(pd_load(&slot->meta) >> 8) & (uint8_t)~PD_HIDDEN_KIND;
    uint64_t hash = pd_table_hash(table->seed, kind, words, size);
    if (pd_stripe_of(hash) != (unsigned)(stripe - table->shared->stripes) ||
        (hash >> 26) << 32 != (pd_load(&slot->meta) & (uint64_t)UINT32_MAX << 32))
    {
        return PD_ECORRUPT;
    }
    for (uint64_t at = hash & mask; at != index; at = (at + 1) & mask) {
        pd_slot *other = &slots[at];
        bool same = pd_load(&other->meta) == pd_load(&slot->meta) && block == 0;
        for (unsigned i = 0; i < 3; i++) {
            same = same && pd_load(&other->key[i]) == pd_load(&slot->key[i]);
        }
        if (same || (pd_load(&other->meta) & 0xff) == PD_SLOT_EMPTY) {
            return PD_ECORRUPT;
        }
    }
    size_t room;
    if (block != 0) {
        sum->linked += pd_block_bytes(pd_heap_block(table->segment, block, &room));
    }
    return audit_value(table, stripe, slot, sum);
}

static pd_status
audit_stripe(pd_table *table, pd_stripe *stripe, tally *sum)
{
    uint64_t mask, live = 0, claims = 0, used = 0;
    pd_slot *slots = pd_stripe_slots(table, stripe, &mask);
    size_t room;
    pd_block *block = pd_heap_block(table->segment, pd_load(&stripe->slots), &room);
    if (slots == NULL || block == NULL || pd_load(&stripe->sequence) % 2 != 0 ||
        pd_load(&stripe->log.count) != 0)
    {
        return PD_ECORRUPT;
    }
    sum->linked += pd_block_bytes(block);
    for (uint64_t i = 0; i <= mask; i++) {
        uint64_t meta = pd_load(&slots[i].meta);
        used += (meta & 0xff) != PD_SLOT_EMPTY;
        if ((meta & 0xff) != PD_SLOT_LIVE) {
            continue;
        }
        *((meta >> 8) & PD_HIDDEN_KIND ? &claims : &live) += 1;
        pd_status status = audit_slot(table, stripe, i, sum);
        if (status != PD_OK) {
            return status;
        }
    }
    for (unsigned i = 0; i < PD_PARCELS; i++) {
        if (pd_load(&stripe->granted[i]) != 0 || pd_load(&stripe->returned[i]) != 0) {
            return PD_ECORRUPT;
        }
    }
    return live == pd_load(&stripe->count) && claims == pd_load(&stripe->claims) &&
                   used == pd_load(&stripe->used)
               ? PD_OK
               : PD_ECORRUPT;
}

static pd_status
audit_chunk(pd_table *table, pd_chunk *chunk, tally *sum)
{
    for (unsigned i = 0; i < PD_CELLS; i++) {
        uint64_t offset = pd_load(&chunk->cells[i]);
        size_t room;
        if (offset == 0) {
            continue;
        }
        pd_block *block = pd_heap_block(table->segment, offset, &room);
        if (block == NULL || pd_load(&block->pins) < PD_ONE_PIN) {
            return PD_ECORRUPT;
        }
        sum->cells++;
    }
    return PD_OK;
}

static pd_status
audit_holders(pd_table *table, tally *sum)
{
    uint64_t offset = pd_load(&table->shared->registry.holders);
    uint64_t most = pd_segment_size(table->segment) / PD_UNIT;
    size_t room;
    while (offset != 0) {
        pd_block *block = pd_heap_block(table->segment, offset, &room);
        if (block == NULL || room < sizeof(pd_holder) || most-- == 0) {
            return PD_ECORRUPT;
        }
        pd_holder *holder = pd_block_payload(block);
        sum->holders += pd_block_bytes(block);
        for (uint64_t at = pd_load(&holder->chunks); at != 0;) {
            pd_block *chunk_block = pd_heap_block(table->segment, at, &room);
            if (chunk_block == NULL || room < sizeof(pd_chunk) || most-- == 0) {
                return PD_ECORRUPT;
            }
            pd_chunk *chunk = pd_block_payload(chunk_block);
            sum->holders += pd_block_bytes(chunk_block);
            pd_status status = audit_chunk(table, chunk, sum);
            if (status != PD_OK) {
                return status;
            }
            at = pd_load(&chunk->next);
        }
        offset = pd_load(&holder->next);
    }
    return PD_OK;
}

static void
audit_block(void *arg, pd_family family, pd_block *block)
{
    tally *sum = arg;
    sum->taken += pd_block_bytes(block);
    if (family == PD_BYTES) {
        uint64_t pins = pd_load(&block->pins);
        sum->pins += pins / PD_ONE_PIN;
        sum->unlinked += pins & PD_LINKED ? 0 : pd_block_bytes(block);
        sum->lost = sum->lost || pins == 0;
    }
}

static pd_status
audit_locked(pd_table *table)
{
    tally sum = {0};
    pd_status status = PD_OK;
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        status = audit_stripe(table, &table->shared->stripes[i], &sum);
    }
    if (status == PD_OK) {
        status = audit_holders(table, &sum);
    }
    if (status == PD_OK) {
        status = pd_heap_audit(&table->shared->heap, table->segment, audit_block, &sum);
    }
    if (status != PD_OK) {
        return status;
    }
    bool whole = sum.taken == sum.linked + sum.holders + sum.unlinked;
    return whole && sum.cells == sum.pins && !sum.lost ? PD_OK : PD_ECORRUPT;
}

pd_status
pd_table_audit(pd_table *table, int64_t wait_ns)
{
    pd_status status = pd_table_reap(table, wait_ns);
    unsigned locked = 0;
    while (status == PD_OK && locked < PD_STRIPES) {
        status = pd_stripe_lock(table, &table->shared->stripes[locked], wait_ns);
        locked += status == PD_OK;
    }
    if (status == PD_OK) {
        status = audit_locked(table);
    }
    while (locked > 0) {
        pd_stripe_unlock(table, &table->shared->stripes[--locked]);
    }
    return status;
}
