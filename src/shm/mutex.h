// A lock for users, alone in a segment: held for as long as they like.
//
// Beside the lock stands who holds it, for others to see; the lock does not rely on it.
#ifndef PD_SHM_MUTEX_H
#define PD_SHM_MUTEX_H

#include "shm/lock.h"
#include "shm/segment.h"

typedef struct pd_mutex pd_mutex;  // opaque: a process's handle

pd_status pd_mutex_create(pd_mutex **out);

// Attaches to another process's; owns `fd` on success only.  PD_ECORRUPT.
pd_status pd_mutex_attach(int fd, pd_mutex **out);

// Accepts NULL.  Must not be held by a thread of this process.
void pd_mutex_destroy(pd_mutex *mutex);

int pd_mutex_fd(const pd_mutex *mutex);

// As pd_lock_acquire(); a lock whose owner died is taken as it is, and *died says so.
pd_status pd_mutex_acquire(pd_mutex *mutex, int64_t wait_ns, bool *died);

// PD_EINVAL if the calling thread does not hold it.
pd_status pd_mutex_release(pd_mutex *mutex);

// Whether the calling thread holds it.
bool pd_mutex_is_mine(pd_mutex *mutex);

// Whether some living process held it a moment ago.
bool pd_mutex_is_held(pd_mutex *mutex);

#endif
