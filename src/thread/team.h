// The team: the process's native threads, for loops that need no Python.
//
//     for (size_t i = 0; i < count; i++) {      pd_team_run(members, count, body,
//         body(job, i, 0);                 =>               job, poll, poll_arg);
//     }
//
// There is one team in a process, so that however many callers there are, native
// threads never outnumber what one caller asked for: the first caller gets the
// team, and a caller that finds it taken (another thread's loop, or its own outer
// loop) runs its loop alone, on its own thread.  Threads start at the first loop
// that wants them and end after some idle seconds.
#ifndef PD_THREAD_TEAM_H
#define PD_THREAD_TEAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// One index of the loop.  `member` tells who runs it, 0 <= member < members, and no
// two calls with the same member overlap: use it to pick scratch memory.  A status
// other than PD_OK ends the loop: no index is begun after that.
typedef pd_status (*pd_team_body)(void *job, size_t index, unsigned member);

// Called on the caller's own thread between indices and while it waits for the
// others, at most every PD_TEAM_POLL_NS.  A status other than PD_OK ends the loop, and it
// is not called again then.  It has to return: the loop lies on the caller's stack.
typedef pd_status (*pd_team_poll)(void *arg);

#define PD_TEAM_POLL_NS 20000000

// The most members a loop can have; larger requests are clamped.
#define PD_TEAM_MAX 1024

// Runs body(job, i, member) once for every i < count on `members` threads at most,
// the caller being member 0, and returns when all have ended.  Indices are handed
// out in rising order.  `poll` may be NULL.
//
// PD_OK, or the first status other than PD_OK of a body or of poll, or PD_EFORKED.
// PD_EINVAL if members is 0.  A thread that cannot be started is no error: the loop
// runs on those that could.  Everything that the bodies wrote is visible to the
// caller afterwards.
pd_status pd_team_run(unsigned members,
                      size_t count,
                      pd_team_body body,
                      void *job,
                      pd_team_poll poll,
                      void *poll_arg);

// Threads alive now, the callers not counted.  Can't fail.
unsigned pd_team_threads(void);

// How long idle threads live; the default is 5 s.  Can't fail.
void pd_team_set_idle_ns(int64_t idle_ns);

// Ends all threads and waits for them; the next loop starts new ones.  Must not be
// called from a body.  Can't fail.
void pd_team_shutdown(void);

#endif
