// Who a process is, so that another one can tell whether it is still alive.
//
// A pid alone is not enough: the system hands it out again.  Together with the time the
// process was started it is unique until the machine is.
#ifndef PD_SHM_PROCESS_H
#define PD_SHM_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

// pid in the lower PD_PID_BITS, start time in clock ticks since boot above them: one
// word, so that it can be stored at once.  Never 0.
typedef uint64_t pd_process_id;

#define PD_PID_BITS 22  // the largest pid_max of Linux is 2^22

// This process.  Reads /proc once a process; after fork() the child reads it anew.
pd_process_id pd_process_self(void);

// The calling thread, as a number that no other living thread of this process has.
uint64_t pd_thread_self(void);

// Whether `who` may still run.  A zombie does not; whoever cannot be seen (another user's,
// a /proc that hides it) is taken as alive as long as its pid exists.  About 10 us.
bool pd_process_alive(pd_process_id who);

// How many fork()s lie between this process and the one that loaded the library: what is
// cached and belongs to one process is stale when this has changed.
unsigned pd_process_forks(void);

#endif
