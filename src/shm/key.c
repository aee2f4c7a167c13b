// Keys of a table: their hash, and the words that stand for them in a slot.
#include <string.h>

#include "shm/layout.h"
#include "shm/slots.h"

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
        hash = hash_feed(table->seed, hash, pd_word_of(bytes, size, i));
    }
    key->hash = hash_end(hash, size);
    uint64_t in_slot = PD_IN_BLOCK;
    if (pd_fits_slot(key)) {
        in_slot = size;
        for (size_t i = 0; i < PD_INLINE_KEY / 8; i++) {
            key->words[i] =
                8 * i < size + extra ? pd_word_of(bytes, size + extra, i) : 0;
        }
    }
    key->meta =
        PD_SLOT_LIVE | (uint64_t)kind << 8 | in_slot << 16 | (key->hash >> 26) << 32;
}
