// Conditions on the monotonic clock, which Darwin can only wait for relatively.
#include "thread/sync.h"

#include <errno.h>
#include <time.h>

#include "base/clock.h"

pd_status
pd_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    int error = pthread_condattr_init(&attr);
    if (error != 0) {
        errno = error;
        return PD_EOS;
    }
#ifndef __APPLE__
    error = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
#endif
    if (error == 0) {
        error = pthread_cond_init(cond, &attr);
    }
    pthread_condattr_destroy(&attr);
    if (error != 0) {
        errno = error;
        return PD_EOS;
    }
    return PD_OK;
}

bool
pd_cond_wait_ns(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t wait_ns)
{
#ifdef __APPLE__
    int64_t until_ns = wait_ns;
#else
    int64_t until_ns = pd_now_ns() + wait_ns;
#endif
    struct timespec until = {
        .tv_sec = (time_t)(until_ns / 1000000000),
        .tv_nsec = (long)(until_ns % 1000000000),
    };
#ifdef __APPLE__
    return pthread_cond_timedwait_relative_np(cond, mutex, &until) != ETIMEDOUT;
#else
    return pthread_cond_timedwait(cond, mutex, &until) != ETIMEDOUT;
#endif
}
