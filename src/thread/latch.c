// Latches park their waiters in shared buckets.
//
//      waiter                                   setter
//      ------                                   ------
//      lock bucket                              old = exchange(word, SET)
//      word: 0 -> WAITED (or see SET, leave)    if old has WAITED:
//      wait on the bucket's condition  <------      lock bucket, broadcast, unlock
//
// The bucket is chosen by the latch's address; waiters of other latches in the same
// bucket wake for nothing and park again, which with a handful of waiting threads is
// rare, and right in any case.
//
// Invariants
//   I1  WAITED is set only with the bucket locked, and taken away only by the exchange
//       in pd_latch_set(): a waiter that parked is always broadcast to.
//   I2  pd_latch_set() does not touch the latch after the exchange.
//
// Why not a futex: this is as fast when nobody waits, and it runs on Darwin.
// Fork: the child's buckets are made anew; whoever waited there is gone.
#include "thread/latch.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "thread/sync.h"

#define WAITED 1U
#define BUCKETS 64
#define SPIN_NS 30000

typedef struct bucket {
    _Alignas(64) pthread_mutex_t mutex;
    pthread_cond_t woken;
} bucket;

static bucket buckets[BUCKETS];
static int64_t spin_ns;  // written once, before the first wait
static pd_spin spin_history;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
init_buckets(void)
{
    for (int i = 0; i < BUCKETS; i++) {
        pthread_mutex_init(&buckets[i].mutex, NULL);
        (void)pd_cond_init(&buckets[i].woken);
    }
}

static void
init_once(void)
{
    spin_ns = pd_cpu_count().usable > 1 ? SPIN_NS : 0;
    init_buckets();
    pthread_atfork(NULL, NULL, init_buckets);
}

static bucket *
bucket_of(const pd_latch *latch)
{
    // Blocks are at least 16 bytes apart; the product's top bits mix all of them.
    uint64_t hash = ((uint64_t)(uintptr_t)latch >> 4) * 0x9E3779B97F4A7C15U;
    return &buckets[hash >> 58];
}

void
pd_latch_set(pd_latch *latch)
{
    bucket *b = bucket_of(latch);  // before the exchange: see I2
    uint32_t old =
        atomic_exchange_explicit(&latch->word, PD_LATCH_SET, memory_order_acq_rel);
    if (old & WAITED) {
        pthread_mutex_lock(&b->mutex);
        pthread_cond_broadcast(&b->woken);
        pthread_mutex_unlock(&b->mutex);
    }
}

void
pd_latch_clear(pd_latch *latch)
{
    uint32_t set = PD_LATCH_SET;
    atomic_compare_exchange_strong(&latch->word, &set, 0);
}

// Announces a waiter, bucket locked; false if the latch is set.
static bool
announce(pd_latch *latch)
{
    uint32_t word = 0;
    return atomic_compare_exchange_strong(&latch->word, &word, WAITED) ||
           word == WAITED;
}

static bool
spin(const pd_latch *latch, int64_t until_ns)
{
    bool set = false;
    do {
        for (int i = 0; i < 64 && !set; i++) {
            pd_spin_pause();
            set = pd_latch_is_set(latch);
        }
    } while (!set && pd_now_ns() < until_ns);
    pd_spin_ended(&spin_history, set);
    return set;
}

pd_status
pd_latch_wait(pd_latch *latch, int64_t timeout_ns)
{
    if (pd_latch_is_set(latch)) {
        return PD_OK;
    }
    if (timeout_ns <= 0) {
        return PD_ETIMEDOUT;
    }
    pthread_once(&once, init_once);
    int64_t now_ns = pd_now_ns();
    int64_t until_ns =
        timeout_ns > PD_FOREVER - now_ns ? PD_FOREVER : now_ns + timeout_ns;
    if (spin_ns > 0 && pd_spin_pays(&spin_history) && spin(latch, now_ns + spin_ns)) {
        return PD_OK;
    }
    bucket *b = bucket_of(latch);
    pthread_mutex_lock(&b->mutex);
    while (announce(latch)) {
        if (until_ns == PD_FOREVER) {
            pthread_cond_wait(&b->woken, &b->mutex);
            continue;
        }
        int64_t left_ns = until_ns - pd_now_ns();
        if (left_ns <= 0) {
            break;
        }
        (void)pd_cond_wait_ns(&b->woken, &b->mutex, left_ns);
    }
    pthread_mutex_unlock(&b->mutex);
    return pd_latch_is_set(latch) ? PD_OK : PD_ETIMEDOUT;
}
