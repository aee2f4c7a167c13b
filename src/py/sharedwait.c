// Waiting for locks in shared memory: briefly with the GIL, long without, and never deaf.
#include "py/shared.h"

#include <time.h>

#include "base/clock.h"

#define SLICE_NS 50000000   // how long Ctrl-C may have to wait
#define FIRST_NAP_NS 20000  // between two looks at a claim
#define LONGEST_NAP_NS 2000000

static bool
must_wait(pd_status status)
{
    return status == PD_ETIMEDOUT || status == PD_ECLAIMED;
}

static void
nap(int64_t ns)
{
    struct timespec time = {.tv_sec = 0, .tv_nsec = (long)ns};
    (void)nanosleep(&time, NULL);
}

// Locks wake who waits for them; claims, which are few and long, are looked at.
static pd_status
run_slice(
    pd_shared_op op, void *call, pd_status last, int64_t slice_ns, int64_t *nap_ns)
{
    if (last == PD_ECLAIMED) {
        nap(*nap_ns < slice_ns ? *nap_ns : slice_ns);
        *nap_ns = *nap_ns * 2 < LONGEST_NAP_NS ? *nap_ns * 2 : LONGEST_NAP_NS;
    }
    return op(call, slice_ns);
}

pd_status
pd_shared_run(pd_shared_op op, void *call, bool detached, int64_t give_up_ns)
{
    pd_status status = PD_ETIMEDOUT;
    if (!detached) {
        status = op(call, 0);
        if (!must_wait(status)) {
            return status;
        }
    }
    int64_t until = give_up_ns < 0 ? INT64_MAX : pd_now_ns() + give_up_ns;
    int64_t nap_ns = FIRST_NAP_NS;
    for (;;) {
        int64_t left = until - pd_now_ns();
        int64_t slice = left < SLICE_NS ? left : SLICE_NS;
        if (slice < 0 || (slice == 0 && !detached)) {
            return status;
        }
        detached = false;
        Py_BEGIN_ALLOW_THREADS
        status = run_slice(op, call, status, slice, &nap_ns);
        Py_END_ALLOW_THREADS
        if (!must_wait(status)) {
            return status;
        }
        if (PyErr_CheckSignals() < 0) {
            return PD_ECANCELED;
        }
    }
}
