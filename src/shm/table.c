// The table: 64 stripes, each with its own lock and its own open-addressing table.
//
//      hash    | stripe (6 bits) | tag (32 bits, kept in the slot) | ...  slot (low bits) |
//
//      reader, no lock          writer, under the stripe's lock
//      ---------------          -------------------------------
//      read sequence, even      begin: sequence becomes odd
//      find the slot, copy      set words, each noted in the log
//      read sequence again      commit: log empty, sequence even
//      the same: it was so      give back what is replaced
//
// A reader that meets a writer, or a dead one's odd sequence, tries a while and then takes
// the lock, and with it repairs.  What it reads meanwhile may be nonsense, but it lies in
// memory that is never unmapped and only ever accessed as atomic words (heap.h, PD_WORDS).
//
// Values up to 16 bytes lie in the slot.  Others are written once, to a block, before the
// slot refers to it, so that whoever has a block pinned can read it without a lock.
//
// Invariants (pd_table_audit() checks them)
//   I1  A key has at most one live slot, in the stripe of its hash, and no empty slot lies
//       between where its probe begins and the slot.
//   I2  count, used and claims count the stripe's slots; used <= 3/4 of them, so that
//       every probe ends.
//   I3  The block of a value is linked if and only if exactly one live slot refers to it.
//
// Why not one lock-free table: a value and its key are several words, which must change at
// once, also if the writer dies.  An uncontended lock costs 25 ns, and reads have none.
#include "shm/table.h"

#include <string.h>
#ifdef __linux__
#    include <sys/random.h>
#endif

#include "base/alloc.h"
#include "base/clock.h"
#include "shm/layout.h"
#include "shm/slots.h"
#include "thread/sync.h"

#define READ_ATTEMPTS 100
#ifdef PD_TEST
#    define RESERVE_BYTES ((size_t)1 << 20)  // so that tests need wider windows
#else
#    define RESERVE_BYTES ((size_t)64 << 30)
#endif
#define SHARED_BYTES sizeof(pd_shared)

// ---- Reading ----

static void
read_inline(uint64_t info, const uint64_t words[2], pd_found *found)
{
    found->type = (uint8_t)info;
    found->size = (info >> 8) & 0xff;
    found->version = info >> 16;
    found->pin = PD_NO_PIN;
    found->copy.words[0] = words[0];
    found->copy.words[1] = words[1];
    found->data = found->copy.bytes;
}

// Without a lock.  PD_ETIMEDOUT means that it has to be done with the lock.
static pd_status
peek(pd_table *table, const pd_key *key, pd_found *found)
{
    pd_stripe *stripe = &table->shared->stripes[pd_stripe_of(key->hash)];
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        uint64_t sequence = pd_load(&stripe->sequence), mask;
        pd_slot *slots =
            sequence % 2 == 0 ? pd_stripe_slots(table, stripe, &mask) : NULL;
        if (slots == NULL) {
            pd_spin_pause();
            continue;
        }
        pd_slot *slot = pd_slots_find(table, slots, mask, key, NULL);
        uint64_t info = 0, words[2] = {0, 0};
        if (slot != NULL) {
            info = pd_load(&slot->info);
            words[0] = pd_load(&slot->value[0]);
            words[1] = pd_load(&slot->value[1]);
        }
        if (pd_load(&stripe->sequence) == sequence) {
            if (slot == NULL) {
                return PD_EABSENT;
            }
            read_inline(info, words, found);
            return found->size <= PD_INLINE_VALUE ? PD_OK : PD_ETIMEDOUT;
        }
    }
    return PD_ETIMEDOUT;
}

// Reads a slot of a locked stripe.  A large value needs a cell: without one,
// *needs_cell says so.  If it was used, found->pin is its number.
static pd_status
read_slot(pd_table *table,
          const pd_locked *at,
          pd_slot *slot,
          const pd_cell *spare,
          pd_found *found,
          bool *needs_cell)
{
    uint64_t words[2] = {pd_load(&slot->value[0]), pd_load(&slot->value[1])};
    read_inline(pd_load(&slot->info), words, found);
    if (found->size <= PD_INLINE_VALUE) {
        return PD_OK;
    }
    uint64_t offset;
    pd_block *block = pd_slot_value(table, slot, &offset, &found->size);
    if (block == NULL ||
        pd_load(&block->next) != (uint64_t)(at->stripe - table->shared->stripes))
    {
        return PD_ECORRUPT;
    }
    found->data = pd_block_payload(block);
    if (found->size <= PD_SMALL_BYTES) {
        memcpy(found->copy.bytes, found->data, found->size);
        found->data = found->copy.bytes;
        return PD_OK;
    }
    if (spare == NULL) {
        *needs_cell = true;
        return PD_ETIMEDOUT;
    }
    pd_stripe_begin(at->stripe);
    pd_pins_point(at->stripe, spare, block, offset);
    pd_stripe_commit(table, at->stripe);
    found->pin = spare->pin;
    return PD_OK;
}

static pd_status
get_locked(pd_table *table,
           const pd_key *key,
           const pd_cell *spare,
           int64_t wait_ns,
           pd_found *found,
           bool *needs_cell)
{
    pd_locked at;
    pd_status status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    pd_slot *slot = pd_slots_find(table, at.slots, at.mask, key, NULL);
    status = slot != NULL ? read_slot(table, &at, slot, spare, found, needs_cell)
                          : PD_EABSENT;
    pd_stripe_unlock(table, at.stripe);
    return status;
}

pd_status
pd_table_get(pd_table *table, const pd_key *key, int64_t wait_ns, pd_found *found)
{
    pd_status status = peek(table, key, found);
    if (status != PD_ETIMEDOUT) {
        return status;
    }
    bool needs_cell = false;
    status = get_locked(table, key, NULL, wait_ns, found, &needs_cell);
    if (!needs_cell) {
        return status;
    }
    pd_cell spare;
    status = pd_pins_reserve(table, 1, wait_ns, &spare);
    if (status != PD_OK) {
        return status;
    }
    status = get_locked(table, key, &spare, wait_ns, found, &needs_cell);
    if (status != PD_OK || found->pin == PD_NO_PIN) {
        pd_pins_unreserve(table, spare.pin);
    }
    return status;
}

pd_status
pd_table_has(pd_table *table, const pd_key *key, int64_t wait_ns)
{
    pd_found found;
    pd_status status = peek(table, key, &found);
    if (status != PD_ETIMEDOUT) {
        return status;
    }
    pd_locked at;
    status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status == PD_OK) {
        status = pd_slots_find(table, at.slots, at.mask, key, NULL) != NULL
                     ? PD_OK
                     : PD_EABSENT;
        pd_stripe_unlock(table, at.stripe);
    }
    return status;
}

// ---- Writing ----

// The cell that a pin stands for; it stays the caller's.
static pd_word *
cell_of(pd_table *table, int64_t pin, uint64_t *where)
{
    pd_pins *pins = &table->pins;
    pthread_mutex_lock(&pins->mutex);
    bool known =
        pin >= 0 && (size_t)pin < pins->cells && pins->forks == pd_process_forks();
    *where = known ? pins->where[pin] : 0;
    pthread_mutex_unlock(&pins->mutex);
    return known ? pd_segment_at(table->segment, *where, sizeof(pd_word)) : NULL;
}

pd_status
pd_table_put(pd_table *table,
             const pd_key *key,
             const pd_value *value,
             pd_rule rule,
             uint64_t version,
             int64_t wait_ns)
{
    pd_draft work = {.key = key, .value = value};
    if (value->pin != PD_NO_PIN) {
        work.cell = cell_of(table, value->pin, &work.where);
        if (work.cell == NULL) {
            return PD_EINVAL;
        }
    }
    pd_locked at;
    pd_status status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status = pd_slots_check_claim(table, &at, key, wait_ns);
    if (status == PD_OK) {
        status = pd_slots_put(table, &at, &work, rule, version, wait_ns);
    }
    pd_stripe_unlock(table, at.stripe);
    if (status == PD_OK && work.cell != NULL) {
        pd_pins_unreserve(table, value->pin);
    }
    return status;
}

// Takes a block of a locked stripe into a cell.
static pd_status
stage_locked(pd_table *table,
             pd_locked *at,
             uint64_t size,
             const pd_cell *spare,
             int64_t wait_ns,
             void **data)
{
    pd_stripe *stripe = at->stripe;
    pd_status status = pd_stripe_take(table, stripe, 0, PD_BYTES, size, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    uint64_t offset = pd_load(&stripe->granted[0]);
    size_t room;
    pd_block *block = pd_heap_block(table->segment, offset, &room);
    if (block == NULL || room < size) {
        return PD_ECORRUPT;
    }
    pd_store(&block->next, (uint64_t)(stripe - table->shared->stripes));
    pd_store(&block->size, size);
    pd_stripe_begin(stripe);
    pd_pins_point(stripe, spare, block, offset);
    pd_stripe_set(table, at->stripe, &stripe->granted[0], 0);
    pd_stripe_commit(table, stripe);
    *data = pd_block_payload(block);
    return PD_OK;
}

pd_status
pd_table_stage(pd_table *table,
               const pd_key *key,
               uint64_t size,
               int64_t wait_ns,
               void **data,
               int64_t *pin)
{
    pd_cell spare;
    pd_status status = pd_pins_reserve(table, 1, wait_ns, &spare);
    if (status != PD_OK) {
        return status;
    }
    pd_locked at;
    status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status == PD_OK) {
        status = stage_locked(table, &at, size, &spare, wait_ns, data);
        pd_stripe_unlock(table, at.stripe);
    }
    if (status != PD_OK) {
        pd_pins_unreserve(table, spare.pin);
        return status;
    }
    pd_window *window = atomic_load(&table->segment->window);
    size_t usable = atomic_load(&window->usable);
    if (atomic_exchange(&table->known_bytes, usable) < usable) {
        atomic_store(&table->grew, true);
    }
    *pin = spare.pin;
    return PD_OK;
}

static pd_status
remove_locked(pd_table *table,
              pd_locked *at,
              pd_slot *slot,
              const pd_cell *spare,
              pd_found *found,
              bool *needs_cell)
{
    pd_status status =
        found != NULL ? read_slot(table, at, slot, spare, found, needs_cell) : PD_OK;
    return status == PD_OK ? pd_slots_remove(table, at, slot) : status;
}

static pd_status
try_remove(pd_table *table,
           const pd_key *key,
           pd_rule rule,
           uint64_t version,
           const pd_cell *spare,
           int64_t wait_ns,
           pd_found *found,
           bool *needs_cell)
{
    pd_locked at;
    pd_status status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status = pd_slots_check_claim(table, &at, key, wait_ns);
    if (status == PD_OK) {
        pd_slot *slot = pd_slots_find(table, at.slots, at.mask, key, NULL);
        status = slot == NULL ? PD_EABSENT : pd_slots_check_rule(slot, rule, version);
        if (status == PD_OK) {
            status = remove_locked(table, &at, slot, spare, found, needs_cell);
        }
    }
    pd_stripe_unlock(table, at.stripe);
    return status;
}

pd_status
pd_table_remove(pd_table *table,
                const pd_key *key,
                pd_rule rule,
                uint64_t version,
                int64_t wait_ns,
                pd_found *found)
{
    bool needs_cell = false;
    pd_status status =
        try_remove(table, key, rule, version, NULL, wait_ns, found, &needs_cell);
    if (!needs_cell) {
        return status;
    }
    pd_cell spare;
    status = pd_pins_reserve(table, 1, wait_ns, &spare);
    if (status != PD_OK) {
        return status;
    }
    found->pin = PD_NO_PIN;
    status = try_remove(table, key, rule, version, &spare, wait_ns, found, &needs_cell);
    if (status != PD_OK || found->pin == PD_NO_PIN) {
        pd_pins_unreserve(table, spare.pin);
    }
    return status;
}

// *word + *term to both; false if the sum is none of the type's.
static bool
add_term(pd_value_type type, uint64_t *word, void *term)
{
    if (type == PD_VALUE_FLOAT) {
        double sum, its;
        memcpy(&sum, word, sizeof(sum));
        memcpy(&its, term, sizeof(its));
        sum += its;
        memcpy(word, &sum, sizeof(sum));
        memcpy(term, &sum, sizeof(sum));
        return true;
    }
    int64_t sum, its;
    memcpy(&sum, word, sizeof(sum));
    memcpy(&its, term, sizeof(its));
    if (__builtin_add_overflow(sum, its, &sum)) {
        return false;
    }
    memcpy(word, &sum, sizeof(sum));
    memcpy(term, &sum, sizeof(sum));
    return true;
}

static pd_status
add_locked(pd_table *table,
           pd_locked *at,
           const pd_key *key,
           pd_value_type type,
           void *term,
           int64_t wait_ns)
{
    pd_slot *slot = pd_slots_find(table, at->slots, at->mask, key, NULL);
    uint64_t word = 0, sum;
    memcpy(&sum, term, sizeof(sum));
    if (slot != NULL) {
        uint64_t info = pd_load(&slot->info);
        if ((uint8_t)info != type || ((info >> 8) & 0xff) != sizeof(word)) {
            return PD_EINVAL;
        }
        word = pd_load(&slot->value[0]);
        if (!add_term(type, &word, &sum)) {
            return PD_EINVAL;
        }
    }
    else if (!add_term(type, &word, &sum)) {
        return PD_EINVAL;
    }
    pd_value value = {
        .type = (uint8_t)type, .size = sizeof(word), .data = &word, .pin = PD_NO_PIN};
    pd_draft work = {.key = key, .value = &value};
    pd_status status = slot != NULL
                           ? pd_slots_write(table, at, slot, false, &work)
                           : pd_slots_put(table, at, &work, PD_ALWAYS, 0, wait_ns);
    if (status == PD_OK) {
        memcpy(term, &sum, sizeof(sum));
    }
    return status;
}

pd_status
pd_table_add(
    pd_table *table, const pd_key *key, pd_value_type type, void *term, int64_t wait_ns)
{
    pd_locked at;
    pd_status status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status = pd_slots_check_claim(table, &at, key, wait_ns);
    if (status == PD_OK) {
        status = add_locked(table, &at, key, type, term, wait_ns);
    }
    pd_stripe_unlock(table, at.stripe);
    return status;
}

// ---- Claims ----

pd_status
pd_table_claim(pd_table *table, const pd_key *key, int64_t wait_ns)
{
    pd_key claim = pd_claim_key(key);
    uint64_t owner[2] = {pd_process_self(), pd_thread_self()};
    pd_value value = {.size = sizeof(owner), .data = owner, .pin = PD_NO_PIN};
    pd_draft work = {.key = &claim, .value = &value};
    pd_locked at;
    pd_status status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status =
        pd_slots_check_claim(table, &at, key, wait_ns);  // ends that of a dead process
    if (status == PD_OK) {
        status = pd_slots_put(table, &at, &work, PD_IF_ABSENT, 0, wait_ns);
        status = status == PD_ECHANGED ? PD_EINVAL : status;
    }
    pd_stripe_unlock(table, at.stripe);
    return status;
}

pd_status
pd_table_release(pd_table *table, const pd_key *key, int64_t wait_ns)
{
    pd_key claim = pd_claim_key(key);
    pd_locked at;
    pd_status status = pd_slots_lock(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    pd_slot *slot = pd_slots_find(table, at.slots, at.mask, &claim, NULL);
    if (slot != NULL && pd_load(&slot->value[0]) == pd_process_self() &&
        pd_load(&slot->value[1]) == pd_thread_self())
    {
        pd_stripe_begin(at.stripe);
        pd_slots_erase(table, &at, slot);
        pd_stripe_commit(table, at.stripe);
    }
    else {
        status = PD_EABSENT;
    }
    pd_stripe_unlock(table, at.stripe);
    return status;
}

// ---- Life ----

static pd_status
init_stripe(pd_table *table, pd_stripe *stripe)
{
    pd_status status = pd_lock_init(&stripe->lock);
    size_t bytes = PD_FIRST_SLOTS * sizeof(pd_slot) + PD_UNIT - sizeof(pd_block);
    if (status == PD_OK) {
        status = pd_stripe_take(table, stripe, 0, PD_WORDS, bytes, 0);
    }
    if (status == PD_OK) {
        pd_store(&stripe->slots, pd_load(&stripe->granted[0]));
        pd_store(&stripe->mask, PD_FIRST_SLOTS - 1);
        pd_store(&stripe->granted[0], 0);
    }
    return status;
}

// A handle on a segment, which it then owns.
static pd_status
open_table(pd_segment *segment, pd_table **out)
{
    pd_table *table = pd_calloc(1, sizeof(*table));
    if (table == NULL) {
        return PD_ENOMEM;
    }
    table->segment = segment;
    table->shared = pd_segment_at(segment, 0, SHARED_BYTES);
    if (table->shared == NULL) {
        pd_free(table);
        return PD_ECORRUPT;
    }
    pd_status status = pd_pins_init(table);
    if (status != PD_OK) {
        pd_free(table);
        return status;
    }
    table->seed = table->shared->seed;
    table->flags = table->shared->flags;
    *out = table;
    return PD_OK;
}

static uint64_t
random_seed(const pd_segment *segment)
{
    uint64_t seed = (uint64_t)(uintptr_t)segment ^ (uint64_t)pd_now_ns();
#ifdef __linux__
    (void)getrandom(&seed, sizeof(seed), GRND_NONBLOCK);
#endif
    return seed;
}

pd_status
pd_table_create(uint64_t flags, pd_table **out)
{
    size_t bytes =
        PD_BLOCKS_OFFSET + PD_STRIPES * (PD_FIRST_SLOTS + 2) * sizeof(pd_slot);
    pd_segment *segment;
    pd_status status =
        pd_segment_create(PD_SEGMENT_TABLE, bytes, RESERVE_BYTES, &segment);
    if (status != PD_OK) {
        return status;
    }
    pd_table *table;
    pd_shared *shared = pd_segment_at(segment, 0, SHARED_BYTES);
    shared->seed = random_seed(segment);
    shared->flags = flags;
    status = open_table(segment, &table);
    if (status != PD_OK) {
        pd_segment_destroy(segment);
        return status;
    }
    status = pd_heap_init(&shared->heap);
    if (status == PD_OK) {
        status = pd_lock_init(&shared->registry.lock);
    }
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        status = init_stripe(table, &shared->stripes[i]);
    }
    if (status != PD_OK) {
        pd_table_destroy(table);
        return status;
    }
    *out = table;
    return PD_OK;
}

pd_status
pd_table_attach(int fd, pd_table **out)
{
    pd_segment *segment;
    pd_status status = pd_segment_attach(fd, PD_SEGMENT_TABLE, RESERVE_BYTES, &segment);
    if (status != PD_OK) {
        return status;
    }
    status = open_table(segment, out);
    if (status != PD_OK) {
        pd_segment_release(segment);
    }
    return status;
}

void
pd_table_destroy(pd_table *table)
{
    if (table == NULL) {
        return;
    }
    pd_pins_fini(table);
    pd_segment_destroy(table->segment);
    pd_free(table);
}

int
pd_table_fd(const pd_table *table)
{
    return table->segment->fd;
}

uint64_t
pd_table_flags(const pd_table *table)
{
    return table->flags;
}

size_t
pd_table_bytes(pd_table *table)
{
    return pd_segment_size(table->segment);
}

size_t
pd_table_count(pd_table *table)
{
    size_t count = 0;
    for (unsigned i = 0; i < PD_STRIPES; i++) {
        count += (size_t)pd_load(&table->shared->stripes[i].count);
    }
    return count;
}
