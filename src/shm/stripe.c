// A stripe of the table under its lock: repair, all-or-nothing changes, parcels.
//
//      lock -> (repair) -> take blocks, fill them -> begin -> set ... -> commit -> unlock
//                                                    odd                 even
//
// Repair, by whoever takes the lock after its owner died:
//   1. the heap's lock is taken and released: if the dead one held it, too, what it was
//      doing there is undone, and our parcels are final;
//   2. the log is undone, and the sequence made even: readers without the lock go on;
//   3. what is in a parcel goes back to the heap: nothing refers to it.
// Until the heap's lock could be had the stripe is marked as dirty, and this is the matter
// of the next one who takes its lock.  Step 3 is done by whoever finds a parcel.
#include "shm/layout.h"

bool
pd_log_may_name(uint64_t where)
{
    const uint64_t stripes = offsetof(pd_shared, stripes);
    const uint64_t registry = offsetof(pd_shared, registry);
    if (where < stripes) {
        bool in_heap = where >= offsetof(pd_shared, heap) + sizeof(pd_lock) &&
                       where < offsetof(pd_shared, seed);
        return in_heap || where >= registry + sizeof(pd_lock);
    }
    return where >= PD_BLOCKS_OFFSET ||
           (where - stripes) % sizeof(pd_stripe) >= offsetof(pd_stripe, sequence);
}

static pd_status
repair(pd_table *table, pd_stripe *stripe, int64_t wait_ns)
{
    pd_status status = pd_heap_settle(&table->shared->heap, table->segment, wait_ns);
    if (status == PD_OK) {
        status = pd_log_undo(&stripe->log, table->segment);
    }
    if (status == PD_OK) {
        uint64_t sequence = pd_load(&stripe->sequence);
        pd_store(&stripe->sequence, sequence + sequence % 2);
        PD_CRASH_POINT();
        pd_store(&stripe->dirty, 0);
    }
    return status;
}

static pd_status
give_back(pd_table *table, pd_word *parcel, int64_t wait_ns)
{
    if (pd_load(parcel) == 0) {
        return PD_OK;
    }
    uint64_t where = (uint64_t)((char *)parcel - (char *)table->shared);
    return pd_heap_give(&table->shared->heap, table->segment, where, wait_ns);
}

pd_status
pd_stripe_settle(pd_table *table, pd_stripe *stripe, int64_t wait_ns)
{
    pd_status status = PD_OK;
    for (unsigned i = 0; status == PD_OK && i < PD_PARCELS; i++) {
        status = give_back(table, &stripe->returned[i], wait_ns);
    }
    return status;
}

pd_status
pd_stripe_lock(pd_table *table, pd_stripe *stripe, int64_t wait_ns)
{
    bool died;
    pd_status status = pd_lock_acquire(&stripe->lock, wait_ns, &died);
    if (status != PD_OK) {
        return status;
    }
    PD_CRASH_POINT();
    if (died) {
        pd_store(&stripe->dirty, 1);
        PD_CRASH_POINT();
        pd_lock_repaired(&stripe->lock);
    }
    if (pd_load(&stripe->dirty) != 0) {
        status = repair(table, stripe, wait_ns);
    }
    if (status == PD_OK) {
        status = pd_stripe_settle(table, stripe, wait_ns);
    }
    for (unsigned i = 0; status == PD_OK && i < PD_PARCELS; i++) {
        status = give_back(table, &stripe->granted[i], wait_ns);
    }
    if (status != PD_OK) {
        (void)pd_lock_release(&stripe->lock);
    }
    return status;
}

void
pd_stripe_unlock(pd_table *table, pd_stripe *stripe)
{
    (void)table;
    PD_CRASH_POINT();
    (void)pd_lock_release(&stripe->lock);
    PD_CRASH_POINT();
}

void
pd_stripe_begin(pd_stripe *stripe)
{
    PD_CRASH_POINT();
    pd_store(&stripe->sequence, pd_load(&stripe->sequence) + 1);
    PD_CRASH_POINT();
}

void
pd_stripe_commit(pd_table *table, pd_stripe *stripe)
{
    pd_log_commit(&stripe->log);
    pd_store(&stripe->sequence, pd_load(&stripe->sequence) + 1);
    PD_CRASH_POINT();
    // What the heap has no time for is done by the next one who takes the stripe's lock.
    (void)pd_stripe_settle(table, stripe, 0);
}

void
pd_stripe_set_at(pd_stripe *stripe, pd_word *word, uint64_t where, uint64_t value)
{
    pd_log_set(&stripe->log, word, where, value);
}

void
pd_stripe_set(pd_table *table, pd_stripe *stripe, pd_word *word, uint64_t value)
{
    pd_log_set(&stripe->log, word, (uint64_t)((char *)word - (char *)table->shared),
               value);
}

pd_status
pd_stripe_take(pd_table *table,
               pd_stripe *stripe,
               unsigned parcel,
               pd_family family,
               size_t bytes,
               int64_t wait_ns)
{
    uint64_t where =
        (uint64_t)((char *)&stripe->granted[parcel] - (char *)table->shared);
    return pd_heap_take(&table->shared->heap, table->segment, family, bytes, where,
                        wait_ns);
}

void
pd_stripe_untake(pd_table *table, pd_stripe *stripe, unsigned parcel)
{
    (void)give_back(table, &stripe->granted[parcel], 0);
}

pd_slot *
pd_stripe_slots(pd_table *table, pd_stripe *stripe, uint64_t *mask)
{
    uint64_t offset = pd_load(&stripe->slots);
    *mask = pd_load(&stripe->mask);
    if (*mask >= ((uint64_t)1 << 40) || (*mask & (*mask + 1)) != 0 ||
        offset % PD_UNIT != 0 || offset < PD_BLOCKS_OFFSET)
    {
        return NULL;
    }
    return pd_segment_at(table->segment, offset + PD_UNIT,
                         (*mask + 1) * sizeof(pd_slot));
}
