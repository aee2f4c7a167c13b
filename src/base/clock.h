// Monotonic time in nanoseconds: never set back by an administrator.
#ifndef PD_BASE_CLOCK_H
#define PD_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

// Can't fail on the systems this is built for.
static inline int64_t
pd_now_ns(void)
{
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// The same clock, some milliseconds late, for a fraction of the price where there is one.
static inline int64_t
pd_now_coarse_ns(void)
{
#ifdef CLOCK_MONOTONIC_COARSE
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#else
    return pd_now_ns();
#endif
}

#endif
