// Waiting until a monotonic deadline, and what a spinning thread does meanwhile.
#ifndef PD_THREAD_SYNC_H
#define PD_THREAD_SYNC_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

// A condition whose timed waits use the monotonic clock.  PD_EOS on failure.
pd_status pd_cond_init(pthread_cond_t *cond);

// Waits with `mutex` held until signalled or for about `wait_ns`; returns false if the
// time ran out.  May wake for no reason, as every condition may.
bool pd_cond_wait_ns(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t wait_ns);

// Tells the core that this is a spin loop, so that its sibling or the hypervisor can
// have the cycles.
static inline void
pd_spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// Whether spinning before parking is worth it.  On a busy machine what one waits for
// does not come while one spins, since the other thread has no processor: then only
// every PD_SPIN_PROBE-th time is tried.  Starts zeroed; any thread may use it.
typedef struct pd_spin {
    _Atomic unsigned misses;  // in a row
    _Atomic unsigned asked;
} pd_spin;

#define PD_SPIN_MISSES 4
#define PD_SPIN_PROBE 16

static inline bool
pd_spin_pays(pd_spin *spin)
{
    return atomic_load_explicit(&spin->misses, memory_order_relaxed) < PD_SPIN_MISSES ||
           atomic_fetch_add_explicit(&spin->asked, 1, memory_order_relaxed) %
                   PD_SPIN_PROBE ==
               0;
}

static inline void
pd_spin_ended(pd_spin *spin, bool hit)
{
    unsigned misses = atomic_load_explicit(&spin->misses, memory_order_relaxed);
    // Racing threads may lose a count, which does no harm.
    atomic_store_explicit(&spin->misses, hit ? 0 : misses + 1, memory_order_relaxed);
}

#endif
