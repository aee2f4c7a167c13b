// Waiting until a monotonic deadline, and what a spinning thread does meanwhile.
#ifndef PD_THREAD_SYNC_H
#define PD_THREAD_SYNC_H

#include <pthread.h>
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

#endif
