// A mutex in shared memory that survives the death of its owner.
//
// The kernel wakes a waiter the moment the owner dies; whoever takes the lock next is told
// so, repairs what it guards, and says so.  The owner is a thread.
#ifndef PD_SHM_LOCK_H
#define PD_SHM_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

// Lies in a segment.
typedef struct pd_lock {
    pthread_mutex_t mutex;
} pd_lock;

// PD_EOS on failure, or where the system has no such mutexes.
pd_status pd_lock_init(pd_lock *lock);

// Takes the lock, sleeping up to `wait_ns` for it (0: not at all, but it spins for some
// hundred nanoseconds first).  *died tells whether the owner died with the lock held; then
// pd_lock_repaired() is due before the release.
//
// PD_ETIMEDOUT; PD_EINVAL if this thread has it already; PD_ECORRUPT if it was released
// without a repair, or the memory does not hold such a lock.
pd_status pd_lock_acquire(pd_lock *lock, int64_t wait_ns, bool *died);

// The calling thread must own the lock.  Can't fail.
void pd_lock_repaired(pd_lock *lock);

// PD_EINVAL if the calling thread does not own it.
pd_status pd_lock_release(pd_lock *lock);

#endif
