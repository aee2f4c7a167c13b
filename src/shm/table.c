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
#include "thread/sync.h"

#define READ_ATTEMPTS 100
#ifdef PD_TEST
#    define RESERVE_BYTES ((size_t)1 << 20)  // so that tests need wider windows
#else
#    define RESERVE_BYTES ((size_t)64 << 30)
#endif
#define SHARED_BYTES sizeof(pd_shared)
#define VERSION_BITS 48

// ---- Keys ----

static inline uint64_t
mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

// A hash is begun, fed with words, and ended.  The seed, which is random, keeps an
// adversary from choosing keys that collide.
static inline uint64_t
hash_begin(uint64_t seed, uint8_t kind, size_t size)
{
    return mix(seed ^ size ^ (uint64_t)kind << 32, 0x9e3779b97f4a7c15u);
}

static inline uint64_t
hash_feed(uint64_t seed, uint64_t hash, uint64_t word)
{
    return mix(hash ^ word, seed ^ 0xe7037ed1a0b428dbu);
}

static inline uint64_t
hash_end(uint64_t hash, size_t size)
{
    return mix(hash ^ size, 0xd6e8feb86659fd93u);
}

uint64_t
pd_table_hash(uint64_t seed, uint8_t kind, const pd_word *words, size_t size)
{
    uint64_t hash = hash_begin(seed, kind, size);
    for (size_t i = 0; i < (size + 7) / 8; i++) {
        hash = hash_feed(seed, hash, pd_load(&words[i]));
    }
    return hash_end(hash, size);
}

// Word i of some bytes; what is behind them reads as zero.
static inline uint64_t
word_of(const unsigned char *bytes, size_t size, size_t i)
{
    uint64_t word = 0;
    size_t left = size - 8 * i;
    memcpy(&word, bytes + 8 * i, left < 8 ? left : 8);
    return word;
}

static inline bool
fits_slot(const pd_key *key)
{
    return key->size <= PD_INLINE_KEY && key->extra <= PD_INLINE_KEY - key->size;
}

void
pd_table_key(pd_table *table,
             uint8_t kind,
             const void *bytes,
             size_t size,
             size_t extra,
             pd_key *key)
{
    key->bytes = bytes;
    key->size = (uint32_t)size;
    key->extra = (uint32_t)extra;
    key->kind = kind;
    uint64_t hash = hash_begin(table->seed, kind, size);
    for (size_t i = 0; i < (size + 7) / 8; i++) {
        hash = hash_feed(table->seed, hash, word_of(bytes, size, i));
    }
    key->hash = hash_end(hash, size);
    uint64_t in_slot = PD_IN_BLOCK;
    if (fits_slot(key)) {
        in_slot = size;
        for (size_t i = 0; i < PD_INLINE_KEY / 8; i++) {
            key->words[i] = 8 * i < size + extra ? word_of(bytes, size + extra, i) : 0;
        }
    }
    key->meta =
        PD_SLOT_LIVE | (uint64_t)kind << 8 | in_slot << 16 | (key->hash >> 26) << 32;
}

// The same key, of the kind that a claim on it has; it lies in the same stripe.
static pd_key
claim_key(const pd_key *key)
{
    pd_key claim = *key;
    claim.kind |= PD_HIDDEN_KIND;
    claim.meta |= (uint64_t)PD_HIDDEN_KIND << 8;
    return claim;
}

// ---- Finding ----

// Whether a slot whose meta word fits has the key; `words` are its bytes.
static inline bool
same_words(const pd_word *words, const pd_key *key)
{
    for (size_t i = 0; i < ((size_t)key->size + 7) / 8; i++) {
        if (pd_load(&words[i]) != word_of(key->bytes, key->size, i)) {
            return false;
        }
    }
    return true;
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
find(
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
typedef struct locked {
    pd_stripe *stripe;
    pd_slot *slots;
    uint64_t mask;
} locked;

static pd_status
lock_stripe(pd_table *table, uint64_t hash, int64_t wait_ns, locked *at)
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
        pd_slot *slot = find(table, slots, mask, key, NULL);
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

pd_block *
pd_slot_value(pd_table *table, pd_slot *slot, uint64_t *offset, uint64_t *size)
{
    size_t room;
    *offset = pd_load(&slot->value[0]);
    *size = pd_load(&slot->value[1]);
    pd_block *block = pd_heap_block(table->segment, *offset, &room);
    return block != NULL && *size <= room ? block : NULL;
}

// Reads a slot of a locked stripe.  A large value needs a cell: without one,
// *needs_cell says so.  If it was used, found->pin is its number.
static pd_status
read_slot(pd_table *table,
          const locked *at,
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
    locked at;
    pd_status status = lock_stripe(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    pd_slot *slot = find(table, at.slots, at.mask, key, NULL);
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
    locked at;
    status = lock_stripe(table, key->hash, wait_ns, &at);
    if (status == PD_OK) {
        status = find(table, at.slots, at.mask, key, NULL) != NULL ? PD_OK : PD_EABSENT;
        pd_stripe_unlock(table, at.stripe);
    }
    return status;
}

// ---- Steps of writing; the stripe is locked ----

static void
set_slot(locked *at, pd_word *word, uint64_t value)
{
    uint64_t where = pd_load(&at->stripe->slots) + PD_UNIT +
                     (uint64_t)((char *)word - (char *)at->slots);
    pd_stripe_set_at(at->stripe, word, where, value);
}

static void
set_own(pd_table *table, locked *at, pd_word *word, uint64_t value)
{
    pd_stripe_set(table, at->stripe, word, value);
}

// The block of a value that its slot does not refer to any more.
static void
unlink_block(pd_table *table, locked *at, pd_block *block, uint64_t offset)
{
    uint64_t pins = pd_load(&block->pins) & ~(uint64_t)PD_LINKED;
    pd_stripe_set_at(at->stripe, &block->pins, offset + offsetof(pd_block, pins), pins);
    if (pins == 0) {
        set_own(table, at, &at->stripe->returned[0], offset);
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
fill_slots(pd_table *table, locked *at, pd_slot *slots, uint64_t mask, uint64_t *live)
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
rebuild(pd_table *table, locked *at, int64_t wait_ns)
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
    set_own(table, at, &stripe->returned[1], pd_load(&stripe->slots));
    set_own(table, at, &stripe->slots, offset);
    set_own(table, at, &stripe->mask, slots_wanted - 1);
    set_own(table, at, &stripe->used, copied);
    set_own(table, at, &stripe->granted[0], 0);
    pd_stripe_commit(table, stripe);
    at->slots = slots;
    at->mask = slots_wanted - 1;
    return pd_stripe_settle(table, stripe, wait_ns);
}

// Takes a slot out of its table, between begin and commit; its value is not its matter.
static void
erase_slot(pd_table *table, locked *at, pd_slot *slot)
{
    pd_stripe *stripe = at->stripe;
    uint32_t size, extra;
    uint64_t key_block;
    bool hidden = (pd_load(&slot->meta) >> 8) & PD_HIDDEN_KIND;
    (void)pd_slot_key(table, slot, &size, &extra, &key_block);
    if (key_block != 0) {
        set_own(table, at, &stripe->returned[1], key_block);
    }
    // Behind the last slot of a run, the dead one can be empty at once.
    pd_slot *next = &at->slots[((uint64_t)(slot - at->slots) + 1) & at->mask];
    bool last = (pd_load(&next->meta) & 0xff) == PD_SLOT_EMPTY;
    set_slot(at, &slot->meta, last ? PD_SLOT_EMPTY : PD_SLOT_DEAD);
    if (last) {
        set_own(table, at, &stripe->used, pd_load(&stripe->used) - 1);
    }
    pd_word *counter = hidden ? &stripe->claims : &stripe->count;
    set_own(table, at, counter, pd_load(counter) - 1);
}

// PD_ECLAIMED if another living thread has claimed the key.
static pd_status
check_claim(pd_table *table, locked *at, const pd_key *key, int64_t wait_ns)
{
    if (pd_load(&at->stripe->claims) == 0) {
        return PD_OK;
    }
    pd_key claim = claim_key(key);
    pd_slot *slot = find(table, at->slots, at->mask, &claim, NULL);
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
    erase_slot(table, at, slot);
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
static pd_status
remove_slot(pd_table *table, locked *at, pd_slot *slot)
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
    erase_slot(table, at, slot);
    pd_stripe_commit(table, at->stripe);
    return PD_OK;
}

// What is to be written, and the blocks that were taken for it.
typedef struct draft {
    const pd_key *key;
    const pd_value *value;
    uint64_t key_block;    // in granted[1]; 0 if the key is inline or there already
    uint64_t value_block;  // in granted[0], or in the pin's cell; 0 if it is inline
    pd_word *cell;         // of the pin
    uint64_t where;
} draft;

static pd_status
take_value_block(pd_table *table, locked *at, draft *work, int64_t wait_ns)
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
take_key_block(pd_table *table, locked *at, draft *work, int64_t wait_ns)
{
    const pd_key *key = work->key;
    size_t bytes = (size_t)key->size + key->extra;
    if (fits_slot(key)) {
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
        pd_store(&words[i], word_of(key->bytes, bytes, i));
    }
    return PD_OK;
}

// A key for a vacant slot, between begin and commit.
static void
write_key(pd_table *table, locked *at, pd_slot *slot, const draft *work)
{
    const pd_key *key = work->key;
    uint64_t words[3] = {work->key_block, key->size, key->extra};
    uint64_t meta = key->meta;
    if (work->key_block == 0) {
        memcpy(words, key->words, sizeof(words));
        meta |= (uint64_t)key->extra << 24;
    }
    else {
        set_own(table, at, &at->stripe->granted[1], 0);
    }
    if ((pd_load(&slot->meta) & 0xff) == PD_SLOT_EMPTY) {
        set_own(table, at, &at->stripe->used, pd_load(&at->stripe->used) + 1);
    }
    bool hidden = key->kind & PD_HIDDEN_KIND;
    pd_word *counter = hidden ? &at->stripe->claims : &at->stripe->count;
    set_own(table, at, counter, pd_load(counter) + 1);
    for (size_t i = 0; i < 3; i++) {
        set_slot(at, &slot->key[i], words[i]);
    }
    set_slot(at, &slot->stamp, (uint64_t)pd_now_ns());
    set_slot(at, &slot->meta, meta);
}

static uint64_t
next_version(locked *at)
{
    uint64_t version =
        (pd_load(&at->stripe->clock) + 1) & (((uint64_t)1 << VERSION_BITS) - 1);
    pd_store(&at->stripe->clock,
             version);  // none is given twice; one lost does no harm
    return version;
}

// A value, between begin and commit.
static void
write_value(pd_table *table, locked *at, pd_slot *slot, const draft *work)
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
            set_own(table, at, &at->stripe->granted[0], 0);
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
static pd_status
write_slot(pd_table *table, locked *at, pd_slot *slot, bool vacant, draft *work)
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

static pd_status
check_rule(pd_slot *slot, pd_rule rule, uint64_t version)
{
    bool holds = rule == PD_ALWAYS || (rule == PD_IF_ABSENT && slot == NULL) ||
                 (rule == PD_IF_VERSION && slot != NULL &&
                  pd_load(&slot->info) >> 16 == version);
    return holds ? PD_OK : PD_ECHANGED;
}

static pd_status
put_locked(pd_table *table,
           locked *at,
           draft *work,
           pd_rule rule,
           uint64_t version,
           int64_t wait_ns)
{
    pd_slot *vacant = NULL;
    pd_slot *slot = find(table, at->slots, at->mask, work->key, &vacant);
    pd_status status = check_rule(slot, rule, version);
    if (status == PD_OK && slot == NULL &&
        (vacant == NULL || 4 * (pd_load(&at->stripe->used) + 1) > 3 * (at->mask + 1)))
    {
        status = rebuild(table, at, wait_ns);
        if (status == PD_OK) {
            (void)find(table, at->slots, at->mask, work->key, &vacant);
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
            write_slot(table, at, slot != NULL ? slot : vacant, slot == NULL, work);
    }
    if (status != PD_OK) {
        pd_stripe_untake(table, at->stripe, 0);
        pd_stripe_untake(table, at->stripe, 1);
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
    draft work = {.key = key, .value = value};
    if (value->pin != PD_NO_PIN) {
        work.cell = cell_of(table, value->pin, &work.where);
        if (work.cell == NULL) {
            return PD_EINVAL;
        }
    }
    locked at;
    pd_status status = lock_stripe(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status = check_claim(table, &at, key, wait_ns);
    if (status == PD_OK) {
        status = put_locked(table, &at, &work, rule, version, wait_ns);
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
             locked *at,
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
    set_own(table, at, &stripe->granted[0], 0);
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
    locked at;
    status = lock_stripe(table, key->hash, wait_ns, &at);
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
              locked *at,
              pd_slot *slot,
              const pd_cell *spare,
              pd_found *found,
              bool *needs_cell)
{
    pd_status status =
        found != NULL ? read_slot(table, at, slot, spare, found, needs_cell) : PD_OK;
    return status == PD_OK ? remove_slot(table, at, slot) : status;
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
    locked at;
    pd_status status = lock_stripe(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status = check_claim(table, &at, key, wait_ns);
    if (status == PD_OK) {
        pd_slot *slot = find(table, at.slots, at.mask, key, NULL);
        status = slot == NULL ? PD_EABSENT : check_rule(slot, rule, version);
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
           locked *at,
           const pd_key *key,
           pd_value_type type,
           void *term,
           int64_t wait_ns)
{
    pd_slot *slot = find(table, at->slots, at->mask, key, NULL);
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
    draft work = {.key = key, .value = &value};
    pd_status status = slot != NULL
                           ? write_slot(table, at, slot, false, &work)
                           : put_locked(table, at, &work, PD_ALWAYS, 0, wait_ns);
    if (status == PD_OK) {
        memcpy(term, &sum, sizeof(sum));
    }
    return status;
}

pd_status
pd_table_add(
    pd_table *table, const pd_key *key, pd_value_type type, void *term, int64_t wait_ns)
{
    locked at;
    pd_status status = lock_stripe(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status = check_claim(table, &at, key, wait_ns);
    if (status == PD_OK) {
        status = add_locked(table, &at, key, type, term, wait_ns);
    }
    pd_stripe_unlock(table, at.stripe);
    return status;
}

// Whether somebody has a claim on a live slot's key.  It goes by the tag: once in four
// thousand million it says so of a key that only looks like a claimed one.
static bool
is_claimed(pd_table *table, locked *at, pd_slot *slot)
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
    locked at = {.stripe = stripe};
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
            pd_status status = remove_slot(table, &at, &at.slots[i]);
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

// ---- Claims ----

pd_status
pd_table_claim(pd_table *table, const pd_key *key, int64_t wait_ns)
{
    pd_key claim = claim_key(key);
    uint64_t owner[2] = {pd_process_self(), pd_thread_self()};
    pd_value value = {.size = sizeof(owner), .data = owner, .pin = PD_NO_PIN};
    draft work = {.key = &claim, .value = &value};
    locked at;
    pd_status status = lock_stripe(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    status = check_claim(table, &at, key, wait_ns);  // ends that of a dead process
    if (status == PD_OK) {
        status = put_locked(table, &at, &work, PD_IF_ABSENT, 0, wait_ns);
        status = status == PD_ECHANGED ? PD_EINVAL : status;
    }
    pd_stripe_unlock(table, at.stripe);
    return status;
}

pd_status
pd_table_release(pd_table *table, const pd_key *key, int64_t wait_ns)
{
    pd_key claim = claim_key(key);
    locked at;
    pd_status status = lock_stripe(table, key->hash, wait_ns, &at);
    if (status != PD_OK) {
        return status;
    }
    pd_slot *slot = find(table, at.slots, at.mask, &claim, NULL);
    if (slot != NULL && pd_load(&slot->value[0]) == pd_process_self() &&
        pd_load(&slot->value[1]) == pd_thread_self())
    {
        pd_stripe_begin(at.stripe);
        erase_slot(table, &at, slot);
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
