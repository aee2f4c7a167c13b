// Robust locks: pthread mutexes that are process-shared, robust and error-checking.
//
// Robustness costs some 6 ns over a plain mutex, so there is no other kind.
//
// The mutex lies in memory that others can write.  Before each use its kind is compared
// with that of a mutex made here: glibc takes a kind of garbage for anything, priority
// inheritance included.  And a lock word with the id of a thread that does not exist would
// be waited for without end: after each wait that failed it is looked at.
//
// Why not a lock word with pid and start time: the kernel knows first who died, and wakes
// the waiters.  On Darwin, which has no robust mutexes, that lock word would stand here.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE  // pthread_mutex_clocklock
#endif
#include "shm/lock.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "thread/sync.h"

#define SPINS 100

// PTHREAD_MUTEX_ROBUST is an enumerator, not a macro, in glibc: ask for the system.
#ifdef __linux__
#    define HAVE_ROBUST 1
#else
#    define HAVE_ROBUST 0
#endif

#if HAVE_ROBUST

static int
init_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;
    int error = pthread_mutexattr_init(&attr);
    if (error != 0) {
        return error;
    }
    error = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (error == 0) {
        error = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    }
    if (error == 0) {
        error = pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
    }
    if (error == 0) {
        error = pthread_mutex_init(mutex, &attr);
    }
    pthread_mutexattr_destroy(&attr);
    return error;
}

#    ifdef __GLIBC__

static pthread_mutex_t pattern;
static pthread_once_t pattern_once = PTHREAD_ONCE_INIT;
static int pattern_kind = -1;  // written by make_pattern() only

static void
make_pattern(void)
{
    if (init_mutex(&pattern) == 0) {
        pattern_kind = pattern.__data.__kind;
    }
}

static bool
looks_sound(const pd_lock *lock)
{
    pthread_once(&pattern_once, make_pattern);
    const volatile int *kind = &lock->mutex.__data.__kind;
    return *kind == pattern_kind;
}

// Whether the lock names an owner that does not exist.  The kernel marks the locks of a
// thread before its id can vanish, so the same id before and after means that nobody will.
static bool
owner_is_made_up(const pd_lock *lock)
{
    const unsigned tid_mask = 0x3fffffff, died = 0x40000000;
    const volatile int *word = &lock->mutex.__data.__lock;
    unsigned before = (unsigned)*word;
    pid_t owner = (pid_t)(before & tid_mask);
    if (owner == 0 || (before & died) != 0) {
        return false;
    }
    bool absent = syscall(SYS_tkill, owner, 0) < 0 && errno != EPERM;
    return absent && ((unsigned)*word & tid_mask) == (before & tid_mask);
}

#    else

static bool
looks_sound(const pd_lock *lock)
{
    (void)lock;
    return true;
}

static bool
owner_is_made_up(const pd_lock *lock)
{
    (void)lock;
    return false;
}

#    endif

// Sleeps for the mutex; the monotonic clock where the library can.
static int
wait_for(pthread_mutex_t *mutex, int64_t wait_ns)
{
#    if defined(__GLIBC_PREREQ) && !defined(__SANITIZE_THREAD__)
#        if __GLIBC_PREREQ(2, 30)
#            define WAIT_CLOCK CLOCK_MONOTONIC
#        endif
#    endif
    struct timespec until;
#    ifdef WAIT_CLOCK
    clock_gettime(WAIT_CLOCK, &until);
#    else
    clock_gettime(CLOCK_REALTIME, &until);
#    endif
    int64_t ns = until.tv_nsec + wait_ns % 1000000000;
    until.tv_sec += (time_t)(wait_ns / 1000000000 + ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
#    ifdef WAIT_CLOCK
    return pthread_mutex_clocklock(mutex, WAIT_CLOCK, &until);
#    else
    return pthread_mutex_timedlock(mutex, &until);
#    endif
}

pd_status
pd_lock_init(pd_lock *lock)
{
    int error = init_mutex(&lock->mutex);
    if (error != 0) {
        errno = error;
        return PD_EOS;
    }
    return PD_OK;
}

static pd_status
status_of(int error, bool *died)
{
    *died = error == EOWNERDEAD;
    switch (error) {
        case 0:
        case EOWNERDEAD:
            return PD_OK;
        case EBUSY:
        case ETIMEDOUT:
            return PD_ETIMEDOUT;
        case EDEADLK:
            return PD_EINVAL;
        default:  // ENOTRECOVERABLE, or no mutex
            return PD_ECORRUPT;
    }
}

pd_status
pd_lock_acquire(pd_lock *lock, int64_t wait_ns, bool *died)
{
    if (!looks_sound(lock)) {
        return PD_ECORRUPT;
    }
    int error = pthread_mutex_trylock(&lock->mutex);
    for (int i = 0; error == EBUSY && i < SPINS; i++) {
        pd_spin_pause();
        error = pthread_mutex_trylock(&lock->mutex);
    }
    if (error == EBUSY && wait_ns > 0) {
        error = wait_for(&lock->mutex, wait_ns);
        if (error == ETIMEDOUT && owner_is_made_up(lock)) {
            return PD_ECORRUPT;
        }
    }
    return status_of(error, died);
}

void
pd_lock_repaired(pd_lock *lock)
{
    (void)pthread_mutex_consistent(&lock->mutex);
}

pd_status
pd_lock_release(pd_lock *lock)
{
    return pthread_mutex_unlock(&lock->mutex) == 0 ? PD_OK : PD_EINVAL;
}

#else

pd_status
pd_lock_init(pd_lock *lock)
{
    (void)lock;
    errno = ENOTSUP;
    return PD_EOS;
}

// No lock can be made, so nobody calls these.
pd_status
pd_lock_acquire(pd_lock *lock, int64_t wait_ns, bool *died)
{
    (void)lock, (void)wait_ns, (void)died;
    return PD_ECORRUPT;
}

void
pd_lock_repaired(pd_lock *lock)
{
    (void)lock;
}

pd_status
pd_lock_release(pd_lock *lock)
{
    (void)lock;
    return PD_EINVAL;
}

#endif
