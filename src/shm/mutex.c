// The lock of users.
#include "shm/mutex.h"

#include "base/alloc.h"
#include "shm/log.h"
#include "shm/process.h"

typedef struct shared_mutex {
    pd_segment_header header;
    pd_lock lock;
    pd_word holder;  // a pd_process_id, 0: none; written by the owner of the lock
    pd_word thread;  // of the holder: pd_thread_self(); likewise
} shared_mutex;

struct pd_mutex {
    pd_segment *segment;  // owned
    shared_mutex *shared;
};

static pd_status
open_mutex(pd_segment *segment, pd_mutex **out)
{
    shared_mutex *shared = pd_segment_at(segment, 0, sizeof(*shared));
    pd_mutex *mutex = shared != NULL ? pd_alloc(1, sizeof(*mutex)) : NULL;
    if (mutex == NULL) {
        return shared == NULL ? PD_ECORRUPT : PD_ENOMEM;
    }
    mutex->segment = segment;
    mutex->shared = shared;
    *out = mutex;
    return PD_OK;
}

pd_status
pd_mutex_create(pd_mutex **out)
{
    pd_segment *segment;
    pd_status status = pd_segment_create(PD_SEGMENT_LOCK, sizeof(shared_mutex),
                                         sizeof(shared_mutex), &segment);
    if (status != PD_OK) {
        return status;
    }
    pd_mutex *mutex;
    status = open_mutex(segment, &mutex);
    if (status == PD_OK) {
        status = pd_lock_init(&mutex->shared->lock);
        if (status == PD_OK) {
            *out = mutex;
            return PD_OK;
        }
        pd_free(mutex);
    }
    pd_segment_destroy(segment);
    return status;
}

pd_status
pd_mutex_attach(int fd, pd_mutex **out)
{
    pd_segment *segment;
    pd_status status =
        pd_segment_attach(fd, PD_SEGMENT_LOCK, sizeof(shared_mutex), &segment);
    if (status != PD_OK) {
        return status;
    }
    status = open_mutex(segment, out);
    if (status != PD_OK) {
        pd_segment_release(segment);
    }
    return status;
}

void
pd_mutex_destroy(pd_mutex *mutex)
{
    if (mutex != NULL) {
        pd_segment_destroy(mutex->segment);
        pd_free(mutex);
    }
}

int
pd_mutex_fd(const pd_mutex *mutex)
{
    return mutex->segment->fd;
}

pd_status
pd_mutex_acquire(pd_mutex *mutex, int64_t wait_ns, bool *died)
{
    pd_status status = pd_lock_acquire(&mutex->shared->lock, wait_ns, died);
    if (status == PD_OK) {
        if (*died) {
            pd_lock_repaired(&mutex->shared->lock);
        }
        pd_store(&mutex->shared->thread, pd_thread_self());
        pd_store(&mutex->shared->holder, pd_process_self());
    }
    return status;
}

pd_status
pd_mutex_release(pd_mutex *mutex)
{
    if (!pd_mutex_is_mine(mutex)) {
        return PD_EINVAL;
    }
    pd_store(&mutex->shared->holder, 0);
    return pd_lock_release(&mutex->shared->lock);
}

bool
pd_mutex_is_mine(pd_mutex *mutex)
{
    return pd_load(&mutex->shared->holder) == pd_process_self() &&
           pd_load(&mutex->shared->thread) == pd_thread_self();
}

bool
pd_mutex_is_held(pd_mutex *mutex)
{
    uint64_t holder = pd_load(&mutex->shared->holder);
    return holder != 0 && pd_process_alive(holder);
}
