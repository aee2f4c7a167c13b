// A stripe of the table under its lock: repair, all-or-nothing changes, parcels.
//
//      lock -> (repair) -> take blocks, fill them -> begin -> set ... -> commit -> unlock
//                                                    odd                 even
//
// Repair, by whoever takes the lock after its owner died:
//   1. the heap's lock is taken and released: if the dead one held it, too, what it was
//      doing there is undone, and our parcels are final;
//   2. the log is undone;
//   3. granted blocks, which nothing refers to, go back to the heap;
//   4. the sequence becomes even, and readers without the lock go on.
// Returned blocks stay in their parcels until the next commit or lock gives them back.
#include "shm/layout.h"

#define HEAP_WAIT_NS 50000000

// For steps that cannot be left half done: the heap's lock is never held for long.
static pd_status
give_for_sure(pd_table *table, pd_word *parcel)
{
    if (pd_load(parcel) == 0) {
        return PD_OK;
    }
    uint64_t where = (uint64_t)((char *)parcel - (char *)table->shared);
    pd_status status;
    do {
        status =
            pd_heap_give(&table->shared->heap, table->segment, where, HEAP_WAIT_NS);
    } while (status == PD_ETIMEDOUT);
    return status;
}

static pd_status
repair(pd_table *table, pd_stripe *stripe)
{
    pd_status status;
    do {
        status = pd_heap_settle(&table->shared->heap, table->segment, HEAP_WAIT_NS);
    } while (status == PD_ETIMEDOUT);
    if (status == PD_OK) {
        status = pd_log_undo(&stripe->log, table->segment);
    }
    for (unsigned i = 0; status == PD_OK && i < PD_PARCELS; i++) {
        status = give_for_sure(table, &stripe->granted[i]);
    }
    uint64_t sequence = pd_load(&stripe->sequence);
    if (status == PD_OK && sequence % 2 != 0) {
        pd_store(&stripe->sequence, sequence + 1);
    }
    return status;
}

// What cannot be given back at once waits for the next time.
static void
give_returned(pd_table *table, pd_stripe *stripe)
{
    for (unsigned i = 0; i < PD_PARCELS; i++) {
        if (pd_load(&stripe->returned[i]) != 0) {
            (void)give_for_sure(table, &stripe->returned[i]);
        }
    }
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
        status = repair(table, stripe);
        if (status != PD_OK) {
            (void)pd_lock_release(&stripe->lock);
            return status;
        }
        PD_CRASH_POINT();
        pd_lock_repaired(&stripe->lock);
    }
    give_returned(table, stripe);
    return PD_OK;
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
    give_returned(table, stripe);
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
    (void)give_for_sure(table, &stripe->granted[parcel]);
}

pd_slot *
pd_stripe_slots(pd_table *table, pd_stripe *stripe, uint64_t *mask)
{
    uint64_t offset = pd_load(&stripe->slots);
    *mask = pd_load(&stripe->mask);
    if (*mask >= ((uint64_t)1 << 40) || (*mask & (*mask + 1)) != 0 ||
        offset % PD_UNIT != 0)
    {
        return NULL;
    }
    return pd_segment_at(table->segment, offset + PD_UNIT,
                         (*mask + 1) * sizeof(pd_slot));
}
