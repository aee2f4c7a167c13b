// The team: one loop at a time, indices handed out by one counter.
//
//      caller (member 0)                       worker
//      -----------------                       ------
//      team.loop = &loop, ++epoch  ------->    spins on epoch, else parked on `wake`
//      start or wake what is missing           takes a seat: member = loop.joined++
//      run indices from loop.next              runs indices from loop.next
//      team.loop = NULL: seats closed          --loop.inside, last one signals `done`
//      wait until loop.inside == 0  <-------   spins a little, parks, in the end leaves
//
// The loop lies on the caller's stack, which is why the caller waits for `inside`: a
// worker touches the loop only between taking a seat and leaving it.
//
// Why one counter and not a range for each thread with stealing: an index here is a
// strip of some 100 microseconds, so a contended add per index is noise, and rising
// order keeps memory traffic regular.
//
// Why spin before parking: waking a parked thread costs tens of microseconds on a
// virtual machine, as much as a small kernel; loops come in bursts.  With one
// processor spinning would only steal it from the caller, so there nobody spins.
//
// Invariants
//   I1  team.loop, loop.joined and every field said to be guarded change only with
//       team.mutex held.
//   I2  loop.inside > 0 implies team.epoch's loop is alive: the caller has not returned.
//   I3  A status once set in loop.status never changes; no index begins after that.
//
// Locks: team.mutex alone; no body and no poll runs with it held.
// Signals: workers block them all, so that Ctrl-C reaches a thread that runs Python.
// Fork: the child has no workers; its handlers make the state new, and a caller that
// forked inside its own poll finds another generation and gives up with PD_EFORKED.
#include "thread/team.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "thread/sync.h"

#define SPIN_NS 30000
#define IDLE_NS 5000000000

typedef struct loop {
    size_t count;         // immutable
    pd_team_body body;    // immutable
    void *job;            // immutable; borrowed
    unsigned members;     // immutable
    bool claimed;         // the team is this loop's; written by the caller alone
    unsigned joined;      // seats taken, the caller's included; guarded by team.mutex
    uint64_t generation;  // of the team when it was claimed; immutable

    // Written by all members; on lines of their own, since every index touches `next`.
    _Alignas(64) _Atomic size_t next;
    _Atomic int status;
    _Alignas(
        64) _Atomic unsigned inside;  // workers in the loop; falls outside the mutex
} loop;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t wake;  // a loop has free seats
    pthread_cond_t done;  // a loop's last worker left, or a thread ended

    loop *loop;        // the loop that takes members; guarded by mutex
    bool busy;         // a caller is between its start and its end; guarded by mutex
    bool stopping;     // threads are to end; guarded by mutex
    unsigned threads;  // alive; written with mutex held, read anywhere
    unsigned parked;   // waiting on `wake`; guarded by mutex
    int64_t idle_ns;   // guarded by mutex
    int64_t spin_ns;   // set once, before the first thread starts

    // Raised with mutex held whenever a loop opens; spinning workers watch it.
    _Alignas(64) _Atomic uint64_t epoch;
    // Raised in the child of a fork.
    _Atomic uint64_t generation;
} team = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .idle_ns = IDLE_NS,
};

static pthread_once_t team_once = PTHREAD_ONCE_INIT;
static pd_status team_once_status;

// ------------------------------------------------------------------------------
// Fork and first use
// ------------------------------------------------------------------------------

static void
before_fork(void)
{
    pthread_mutex_lock(&team.mutex);
}

static void
after_fork_in_parent(void)
{
    pthread_mutex_unlock(&team.mutex);
}

static void
after_fork_in_child(void)
{
    // The other threads are gone; what they held or waited for has to be made anew.
    pthread_mutex_init(&team.mutex, NULL);
    (void)pd_cond_init(&team.wake);
    (void)pd_cond_init(&team.done);
    team.loop = NULL;
    team.busy = false;
    team.stopping = false;
    team.threads = 0;
    team.parked = 0;
    atomic_fetch_add(&team.generation, 1);
}

static void
init_team(void)
{
    team_once_status = pd_cond_init(&team.wake);
    if (team_once_status == PD_OK) {
        team_once_status = pd_cond_init(&team.done);
    }
    team.spin_ns = pd_cpu_count().usable > 1 ? SPIN_NS : 0;
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

// ------------------------------------------------------------------------------
// Running indices
// ------------------------------------------------------------------------------

static void
fail_loop(loop *lp, pd_status status)
{
    int ok = PD_OK;
    atomic_compare_exchange_strong(&lp->status, &ok, (int)status);
}

// Runs one index; false when there is none left or the loop has ended.
static bool
run_index(loop *lp, unsigned member)
{
    if (atomic_load_explicit(&lp->status, memory_order_relaxed) != PD_OK) {
        return false;
    }
    // Relaxed: the mutex ordered the job's publication, and its results are ordered by
    // `inside` or the mutex; the counter only hands out numbers.
    size_t index = atomic_fetch_add_explicit(&lp->next, 1, memory_order_relaxed);
    if (index >= lp->count) {
        return false;
    }
    pd_status status = lp->body(lp->job, index, member);
    if (status != PD_OK) {
        fail_loop(lp, status);
    }
    return true;
}

// ------------------------------------------------------------------------------
// Workers
// ------------------------------------------------------------------------------

// Takes a seat in the open loop, if there is one; mutex held.
static loop *
take_seat(unsigned *member)
{
    loop *lp = team.loop;
    if (lp == NULL || lp->joined == lp->members) {
        return NULL;
    }
    *member = lp->joined++;
    atomic_fetch_add_explicit(&lp->inside, 1, memory_order_relaxed);
    return lp;
}

// Leaves the loop.  Acquire-release with the caller's load of `inside` in
// wait_for_workers(): what the bodies wrote is visible once it reads 0.
static void
leave_seat(loop *lp)
{
    if (atomic_fetch_sub_explicit(&lp->inside, 1, memory_order_acq_rel) == 1) {
        // The caller may have seen the 0 and be gone: only the team is touched here.
        pthread_mutex_lock(&team.mutex);
        pthread_cond_broadcast(&team.done);
        pthread_mutex_unlock(&team.mutex);
    }
}

static void
spin_until_epoch_moves(uint64_t seen)
{
    if (team.spin_ns == 0) {
        return;
    }
    int64_t until = pd_now_ns() + team.spin_ns;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&team.epoch, memory_order_acquire) != seen) {
                return;
            }
            pd_spin_pause();
        }
    } while (pd_now_ns() < until);
}

static void *
worker_main(void *unused)
{
    (void)unused;
    unsigned member = 0;
    bool idle = false;

    pthread_mutex_lock(&team.mutex);
    while (!team.stopping) {
        loop *lp = take_seat(&member);
        if (lp != NULL) {
            idle = false;
            uint64_t seen = atomic_load_explicit(&team.epoch, memory_order_relaxed);
            pthread_mutex_unlock(&team.mutex);
            while (run_index(lp, member)) {
            }
            leave_seat(lp);
            spin_until_epoch_moves(seen);
            pthread_mutex_lock(&team.mutex);
            continue;
        }
        if (idle) {
            break;
        }
        team.parked++;
        idle = !pd_cond_wait_ns(&team.wake, &team.mutex, team.idle_ns);
        team.parked--;
    }
    team.threads--;
    pthread_cond_broadcast(&team.done);
    pthread_mutex_unlock(&team.mutex);
    return NULL;
}

// Starts one detached worker with every signal blocked; mutex held.
static bool
start_worker(void)
{
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0) {
        return false;
    }
    sigset_t all;
    sigset_t old;
    pthread_t id;
    sigfillset(&all);
    bool started = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
                   pthread_sigmask(SIG_SETMASK, &all, &old) == 0;
    if (started) {
        started = pthread_create(&id, &attr, worker_main, NULL) == 0;
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    pthread_attr_destroy(&attr);
    return started;
}

// ------------------------------------------------------------------------------
// Callers
// ------------------------------------------------------------------------------

// Whether this is the child of a fork that the poll made, and the workers are gone.
static bool
was_forked(const loop *lp)
{
    return lp->claimed && atomic_load(&team.generation) != lp->generation;
}

// Calls poll when it is due; false once it has ended the loop.  A loop that has ended is
// not polled again: the poll may have an error of its own in hand.
static bool
poll_if_due(loop *lp, pd_team_poll poll, void *poll_arg, int64_t *due_ns)
{
    if (poll == NULL || atomic_load(&lp->status) != PD_OK || pd_now_ns() < *due_ns) {
        return true;
    }
    pd_status status = poll(poll_arg);
    if (was_forked(lp)) {
        status = PD_EFORKED;
    }
    *due_ns = pd_now_ns() + PD_TEAM_POLL_NS;
    if (status != PD_OK) {
        fail_loop(lp, status);
        return false;
    }
    return true;
}

// Opens the loop's seats to workers, starting those that do not exist yet.
static void
open_seats(loop *lp)
{
    team.loop = lp;
    atomic_fetch_add_explicit(&team.epoch, 1, memory_order_release);
    unsigned wanted = lp->members - 1;
    while (team.threads < wanted && start_worker()) {
        team.threads++;
    }
    if (team.parked > 0) {
        pthread_cond_broadcast(&team.wake);
    }
}

// Waits until no worker is inside any more; seats are closed already.
static void
wait_for_workers(loop *lp, pd_team_poll poll, void *poll_arg, int64_t *due_ns)
{
    int64_t spin_until = pd_now_ns() + team.spin_ns;
    while (atomic_load_explicit(&lp->inside, memory_order_acquire) != 0) {
        if (pd_now_ns() < spin_until) {
            pd_spin_pause();
            continue;
        }
        pthread_mutex_lock(&team.mutex);
        if (atomic_load_explicit(&lp->inside, memory_order_acquire) != 0) {
            (void)pd_cond_wait_ns(&team.done, &team.mutex, PD_TEAM_POLL_NS);
        }
        pthread_mutex_unlock(&team.mutex);
        poll_if_due(lp, poll, poll_arg, due_ns);
        if (was_forked(lp)) {
            return;
        }
    }
}

// Claims the team for a caller that wants company, unless it is taken.
static void
claim_team(loop *lp)
{
    if (lp->members == 1 || lp->count <= 1) {
        return;
    }
    pthread_once(&team_once, init_team);
    if (team_once_status != PD_OK) {
        return;
    }
    pthread_mutex_lock(&team.mutex);
    if (!team.busy && !team.stopping) {
        team.busy = true;
        lp->claimed = true;
        lp->generation = atomic_load(&team.generation);
        open_seats(lp);
    }
    pthread_mutex_unlock(&team.mutex);
}

pd_status
pd_team_run(unsigned members,
            size_t count,
            pd_team_body body,
            void *job,
            pd_team_poll poll,
            void *poll_arg)
{
    if (members == 0) {
        return PD_EINVAL;
    }
    loop lp = {
        .count = count,
        .body = body,
        .job = job,
        .members = members < PD_TEAM_MAX ? members : PD_TEAM_MAX,
        .joined = 1,
    };
    if (lp.members > count) {
        lp.members = count > 0 ? (unsigned)count : 1;
    }
    int64_t due_ns = pd_now_ns() + PD_TEAM_POLL_NS;
    claim_team(&lp);

    while (run_index(&lp, 0) && poll_if_due(&lp, poll, poll_arg, &due_ns)) {
    }
    if (lp.claimed && !was_forked(&lp)) {
        pthread_mutex_lock(&team.mutex);
        team.loop = NULL;
        pthread_mutex_unlock(&team.mutex);
        wait_for_workers(&lp, poll, poll_arg, &due_ns);
    }
    if (lp.claimed && !was_forked(&lp)) {
        pthread_mutex_lock(&team.mutex);
        team.busy = false;
        pthread_mutex_unlock(&team.mutex);
    }
    return (pd_status)atomic_load(&lp.status);
}

unsigned
pd_team_threads(void)
{
    pthread_mutex_lock(&team.mutex);
    unsigned threads = team.threads;
    pthread_mutex_unlock(&team.mutex);
    return threads;
}

void
pd_team_set_idle_ns(int64_t idle_ns)
{
    pthread_mutex_lock(&team.mutex);
    team.idle_ns = idle_ns;
    pthread_mutex_unlock(&team.mutex);
}

void
pd_team_shutdown(void)
{
    pthread_once(&team_once, init_team);
    pthread_mutex_lock(&team.mutex);
    team.stopping = true;
    pthread_cond_broadcast(&team.wake);
    while (team.threads > 0) {
        pthread_cond_wait(&team.done, &team.mutex);
    }
    team.stopping = false;
    pthread_mutex_unlock(&team.mutex);
}
