// Crash points: a countdown that ends in SIGKILL.  Test builds only.
#include "shm/crash.h"

#ifdef PD_TEST
#    include <signal.h>
#    include <stdatomic.h>
#    include <unistd.h>

static _Atomic long countdown;  // 0: off

void
pd_crash_after(long n)
{
    atomic_store(&countdown, n);
}

void
pd_crash_point(void)
{
    if (atomic_load(&countdown) > 0 && atomic_fetch_sub(&countdown, 1) == 1) {
        (void)kill(getpid(), SIGKILL);
    }
}
#else
typedef int pd_crash_is_empty;  // ISO C forbids an empty file
#endif
