// The task queue: one list, one mutex, one runner and one standby.
//
// Where threads must hold something exclusive while they run tasks (Python's lock),
// waking a thread for every task makes them fight for it.  So of the idle threads at
// most `max_standby`, there 1, are awake: the standby waits in attach().
//
//      parked --called by push()--> standby --attach() returns--> runner
//        ^                                                          |  takes tasks until
//        |                                                          |  there are none
//        +---- spins a little, detached <---- detach() <------------+
//
// While the runner computes, the standby sleeps in attach(), and the runner goes from
// task to task without a wake or a switch.  When a task lets go of the lock (it reads a
// file, or runs native code), the standby gets it at once, becomes a runner too, takes
// the next task and calls the next standby: so as many threads run as tasks let go, and
// not one more.  Without an exclusive lock all threads may be standbys.
//
// One thread may spin, detached, before it parks, which saves the futex calls and the
// wake-up time in round trips: it sees the length of the list change.  If a waiter is
// about to detach (`waiting`), it lets that happen first, and finds attach() free.
//
// Invariants
//   I1  Every field said to be guarded changes only with the mutex held.
//   I2  The mutex is a leaf: no hook is called with it held.  attach() may block for
//       ever, so nothing is owed to anybody while a thread is in it but its standby
//       count, which a fork and the end of the process make moot.
//   I3  standby counts the threads that were called or spawned, or found something to do
//       when they were about to park, and have not looked at the list since.  idling
//       counts those that will look before they park.  If the list is not empty then
//       standby + idling > 0, or all `max_workers` are running tasks and will look.
//   I4  A worker's seat is counted in `workers` from before spawn() until it leaves.
//
// Fork: every queue is on a list; all mutexes are taken around fork(), and the child's
// queues have no threads.  Their tasks stay queued, for the owner to stop.
#include "thread/tasks.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "thread/sync.h"

#define SPIN_NS 30000   // how long an idle thread spins for the next task
#define YIELD_NS 10000  // how long it leaves the pusher to detach
#define LET_DETACH_NS 5000

typedef struct seat {
    struct seat *next;    // of the parked ones; guarded by mutex
    pthread_cond_t wake;  // immutable
    bool called;          // counted as standby by whoever called; guarded by mutex
} seat;

struct pd_tasks {
    const pd_tasks_hooks *hooks;  // immutable; borrowed
    void *context;                // immutable; borrowed
    unsigned max_workers;         // immutable
    unsigned max_standby;         // immutable
    int64_t spin_ns;              // immutable

    pthread_mutex_t mutex;
    pd_task list;      // its head: a ring; guarded by mutex
    seat *parked;      // last in, first out: warm caches; guarded by mutex
    unsigned workers;  // guarded by mutex
    unsigned standby;  // guarded by mutex
    unsigned running;  // threads inside run(); guarded by mutex
    unsigned idling;   // threads that will look at the list; guarded by mutex
    unsigned useful;   // threads that ran tasks at a time of late; guarded by mutex
    unsigned holds;    // guarded by mutex
    bool closed;       // guarded by mutex
    bool draining;     // holds don't count any more; guarded by mutex
    bool stopped;      // guarded by mutex

    pd_tasks *next_queue;  // guarded by queues_mutex
    pd_tasks *prev_queue;

    // Written with mutex held, read by the spinning thread.
    _Alignas(64) _Atomic size_t length;
    _Atomic bool ending;    // closed, for the spinning thread
    _Atomic bool spinning;  // a thread spins; set and cleared by it
    pd_spin spin;           // whether it has been worth it
    _Atomic int waiting;    // waiters that are detached
    _Atomic int attached;   // threads of the queue that hold or want attach()
};

// ------------------------------------------------------------------------------
// Fork
// ------------------------------------------------------------------------------

static pthread_mutex_t queues_mutex = PTHREAD_MUTEX_INITIALIZER;
static pd_tasks *queues;  // guarded by queues_mutex
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
before_fork(void)
{
    pthread_mutex_lock(&queues_mutex);
    for (pd_tasks *q = queues; q != NULL; q = q->next_queue) {
        pthread_mutex_lock(&q->mutex);
    }
}

static void
after_fork_in_parent(void)
{
    for (pd_tasks *q = queues; q != NULL; q = q->next_queue) {
        pthread_mutex_unlock(&q->mutex);
    }
    pthread_mutex_unlock(&queues_mutex);
}

static void
after_fork_in_child(void)
{
    for (pd_tasks *q = queues; q != NULL; q = q->next_queue) {
        pthread_mutex_init(&q->mutex, NULL);
        q->parked = NULL;
        q->workers = 0;
        q->standby = 0;
        q->running = 0;
        q->idling = 0;
        atomic_store(&q->spinning, false);
        atomic_store(&q->waiting, 0);
        atomic_store(&q->attached, 0);
    }
    pthread_mutex_init(&queues_mutex, NULL);
}

static void
install_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

// ------------------------------------------------------------------------------
// Life
// ------------------------------------------------------------------------------

static pthread_once_t spin_once = PTHREAD_ONCE_INIT;
static int64_t spin_ns;  // written once

// Once for the process: reading the system takes longer than starting a thread.
static void
measure_spin(void)
{
    spin_ns = pd_cpu_count().usable > 1 ? SPIN_NS : 0;
}

pd_status
pd_tasks_create(const pd_tasks_hooks *hooks,
                void *context,
                unsigned max_workers,
                unsigned max_standby,
                pd_tasks **out)
{
    if (max_workers == 0 || max_standby == 0) {
        return PD_EINVAL;
    }
    pd_tasks *q = pd_calloc(1, sizeof(*q));
    if (q == NULL) {
        return PD_ENOMEM;
    }
    if (pthread_mutex_init(&q->mutex, NULL) != 0) {
        pd_free(q);
        return PD_EOS;
    }
    q->hooks = hooks;
    q->context = context;
    q->max_workers = max_workers;
    q->max_standby = max_standby;
    pthread_once(&spin_once, measure_spin);
    q->spin_ns = spin_ns;
    q->list.next = q->list.prev = &q->list;

    pthread_once(&fork_once, install_fork_handlers);
    pthread_mutex_lock(&queues_mutex);
    q->next_queue = queues;
    if (queues != NULL) {
        queues->prev_queue = q;
    }
    queues = q;
    pthread_mutex_unlock(&queues_mutex);
    *out = q;
    return PD_OK;
}

void
pd_tasks_destroy(pd_tasks *q)
{
    if (q == NULL) {
        return;
    }
    pthread_mutex_lock(&queues_mutex);
    if (q->next_queue != NULL) {
        q->next_queue->prev_queue = q->prev_queue;
    }
    if (q->prev_queue != NULL) {
        q->prev_queue->next_queue = q->next_queue;
    }
    else {
        queues = q->next_queue;
    }
    pthread_mutex_unlock(&queues_mutex);
    pthread_mutex_destroy(&q->mutex);
    pd_free(q);
}

// ------------------------------------------------------------------------------
// The list; all with the mutex held
// ------------------------------------------------------------------------------

static bool
is_empty(const pd_tasks *q)
{
    return q->list.next == &q->list;
}

static void
insert_before(pd_tasks *q, pd_task *task, pd_task *where)
{
    task->next = where;
    task->prev = where->prev;
    where->prev->next = task;
    where->prev = task;
    atomic_fetch_add_explicit(&q->length, 1, memory_order_relaxed);
}

static void
unlink_task(pd_tasks *q, pd_task *task)
{
    task->prev->next = task->next;
    task->next->prev = task->prev;
    task->next = task->prev = NULL;
    atomic_fetch_sub_explicit(&q->length, 1, memory_order_relaxed);
}

static pd_task *
pop(pd_tasks *q)
{
    if (is_empty(q)) {
        return NULL;
    }
    pd_task *task = q->list.next;
    unlink_task(q, task);
    return task;
}

// ------------------------------------------------------------------------------
// Calling a standby
// ------------------------------------------------------------------------------

// How many threads may be awake with nothing to run yet, for work that all can share;
// mutex held.  That others are inside run() while this thread is attached means that
// tasks let go: so the number of runners doubles from step to step, and the next loop
// begins with as many threads as were of use in the last ones.
static unsigned
standby_limit(const pd_tasks *q)
{
    unsigned useful = q->running > q->useful ? q->running : q->useful;
    return useful > q->max_standby ? useful : q->max_standby;
}

// Sees to it that somebody comes for what is in the list; mutex held.  True if the
// caller is to start a thread, whose seat and standby are counted already.
static bool
call_standby(pd_tasks *q, unsigned limit)
{
    if (is_empty(q) || q->idling > 0) {
        return false;
    }
    while (q->standby < limit && q->parked != NULL) {
        seat *called = q->parked;
        q->parked = called->next;
        called->called = true;
        q->standby++;
        pthread_cond_signal(&called->wake);
    }
    if (q->standby >= limit || q->workers >= q->max_workers) {
        return false;
    }
    q->workers++;
    q->standby++;
    return true;
}

// Starts the thread that call_standby() asked for; mutex not held.
static bool
spawn(pd_tasks *q)
{
    if (q->hooks->spawn(q->context)) {
        return true;
    }
    pthread_mutex_lock(&q->mutex);
    q->workers--;
    q->standby--;
    pthread_mutex_unlock(&q->mutex);
    return false;
}

pd_status
pd_tasks_push(pd_tasks *q, pd_task *task, pd_tasks_end end)
{
    task->pushed_ns = pd_now_ns();
    pthread_mutex_lock(&q->mutex);
    if (q->stopped || (q->closed && (end == PD_TASKS_BACK || q->workers == 0))) {
        pthread_mutex_unlock(&q->mutex);
        return PD_ECLOSED;
    }
    insert_before(q, task, end == PD_TASKS_FRONT ? q->list.next : &q->list);
    // A new task needs one thread; what was pushed again has work for all that can.
    bool wanted = call_standby(q, end == PD_TASKS_BACK ? 1 : standby_limit(q));
    pthread_mutex_unlock(&q->mutex);
    if (!wanted || spawn(q)) {
        return PD_OK;
    }
    pthread_mutex_lock(&q->mutex);
    bool lost = q->workers == 0 && task->next != NULL;
    if (lost) {
        unlink_task(q, task);
    }
    pthread_mutex_unlock(&q->mutex);
    return lost ? PD_EOS : PD_OK;
}

bool
pd_tasks_take(pd_tasks *q, pd_task *task)
{
    pthread_mutex_lock(&q->mutex);
    bool queued = task->next != NULL;
    if (queued) {
        unlink_task(q, task);
    }
    pthread_mutex_unlock(&q->mutex);
    return queued;
}

// ------------------------------------------------------------------------------
// Threads
// ------------------------------------------------------------------------------

// Spins for a task, detached, unless another thread does so already.
static void
spin_for_task(pd_tasks *q)
{
    if (q->spin_ns == 0 || atomic_exchange(&q->spinning, true)) {
        return;
    }
    if (!pd_spin_pays(&q->spin)) {
        atomic_store(&q->spinning, false);
        return;
    }
    int64_t until_ns = pd_now_ns() + q->spin_ns;
    bool seen = false;
    while (!seen && pd_now_ns() < until_ns) {
        for (int i = 0; i < 64 && !seen; i++) {
            seen = atomic_load_explicit(&q->length, memory_order_relaxed) > 0 ||
                   atomic_load_explicit(&q->ending, memory_order_relaxed);
            pd_spin_pause();
        }
    }
    pd_spin_ended(&q->spin, seen);
    // Whoever pushed still holds what attach() wants; it may be about to let go.
    until_ns = pd_now_ns() + YIELD_NS;
    while (seen && q->max_standby == 1 &&
           atomic_load_explicit(&q->waiting, memory_order_relaxed) == 0 &&
           pd_now_ns() < until_ns)
    {
        pd_spin_pause();
    }
    atomic_store(&q->spinning, false);
}

// Whether threads without a task have to leave; mutex held.  A running task may push
// itself again, and a held queue waits for somebody else to.
static bool
is_over(const pd_tasks *q)
{
    return q->closed && is_empty(q) && q->running == 0 &&
           (q->holds == 0 || q->draining || q->stopped);
}

// Calls all parked threads if they have to leave; mutex held.
static void
call_all_if_over(pd_tasks *q)
{
    if (!is_over(q)) {
        return;
    }
    atomic_store(&q->ending, true);
    while (q->parked != NULL) {
        seat *called = q->parked;
        q->parked = called->next;
        called->called = true;
        q->standby++;
        pthread_cond_signal(&called->wake);
    }
}

// Waits, detached and counted as idling, until this thread is a standby or has to end.
static void
become_standby(pd_tasks *q, seat *me)
{
    spin_for_task(q);
    pthread_mutex_lock(&q->mutex);
    q->idling--;
    while (!me->called) {
        if (is_over(q) || (!is_empty(q) && q->standby < q->max_standby)) {
            q->standby++;
            break;
        }
        me->next = q->parked;
        q->parked = me;
        do {
            pthread_cond_wait(&me->wake, &q->mutex);
        } while (!me->called);
    }
    me->called = false;
    pthread_mutex_unlock(&q->mutex);
}

// Runs one task; called and left with the mutex held.  False if the thread is to end.
static bool
run_one(pd_tasks *q, void *thread, pd_task *task)
{
    q->running++;
    if (q->running > q->useful) {
        q->useful = q->running;
    }
    size_t length = atomic_load_explicit(&q->length, memory_order_relaxed);
    unsigned limit = standby_limit(q);
    bool wanted = call_standby(q, length < limit ? (unsigned)length : limit);
    pthread_mutex_unlock(&q->mutex);
    if (wanted) {
        (void)spawn(q);
    }
    bool stays = q->hooks->run(thread, task);
    pthread_mutex_lock(&q->mutex);
    if (stays) {  // else pd_tasks_give_up() has counted this thread out
        q->running--;
    }
    call_all_if_over(q);
    return stays;
}

void
pd_tasks_work(pd_tasks *q, void *thread)
{
    seat me = {.called = false};
    (void)pd_cond_init(&me.wake);
    bool stays = true;
    bool called_in_vain = true;  // until it finds a task

    atomic_fetch_add(&q->attached, 1);
    pthread_mutex_lock(&q->mutex);
    q->standby--;
    while (stays) {
        pd_task *task = pop(q);
        if (task != NULL) {
            called_in_vain = false;
            stays = run_one(q, thread, task);
            continue;
        }
        if (is_over(q)) {
            break;
        }
        if (called_in_vain && q->useful > 0) {
            q->useful--;
        }
        q->idling++;
        pthread_mutex_unlock(&q->mutex);
        q->hooks->detach(thread);
        atomic_fetch_sub(&q->attached, 1);
        become_standby(q, &me);
        atomic_fetch_add(&q->attached, 1);
        q->hooks->attach(thread);
        called_in_vain = true;
        pthread_mutex_lock(&q->mutex);
        q->standby--;
    }
    if (stays) {
        q->workers--;
    }
    pthread_mutex_unlock(&q->mutex);
    atomic_fetch_sub(&q->attached, 1);
    pthread_cond_destroy(&me.wake);
}

void
pd_tasks_fill(pd_tasks *q)
{
    bool more = true;
    while (more) {
        pthread_mutex_lock(&q->mutex);
        more = !q->closed && q->workers < q->max_workers;
        if (more) {
            q->workers++;
            q->standby++;
        }
        pthread_mutex_unlock(&q->mutex);
        more = more && spawn(q);
    }
}

void
pd_tasks_give_up(pd_tasks *q)
{
    pthread_mutex_lock(&q->mutex);
    q->workers--;
    q->running--;
    call_all_if_over(q);
    bool wanted = call_standby(q, q->max_standby);
    pthread_mutex_unlock(&q->mutex);
    if (wanted) {
        (void)spawn(q);
    }
}

// ------------------------------------------------------------------------------
// The end, and what can be asked
// ------------------------------------------------------------------------------

void
pd_tasks_close(pd_tasks *q)
{
    pthread_mutex_lock(&q->mutex);
    q->closed = true;
    call_all_if_over(q);
    pthread_mutex_unlock(&q->mutex);
}

void
pd_tasks_hold(pd_tasks *q, bool hold)
{
    pthread_mutex_lock(&q->mutex);
    q->holds += hold ? 1U : -1U;
    call_all_if_over(q);
    pthread_mutex_unlock(&q->mutex);
}

void
pd_tasks_drain(pd_tasks *q)
{
    pthread_mutex_lock(&q->mutex);
    q->draining = q->closed;
    call_all_if_over(q);
    pthread_mutex_unlock(&q->mutex);
}

static pd_task *
take_all(pd_tasks *q)
{
    if (is_empty(q)) {
        return NULL;
    }
    pd_task *chain = q->list.next;
    q->list.prev->next = NULL;
    q->list.next = q->list.prev = &q->list;
    atomic_store(&q->length, 0);
    return chain;
}

pd_task *
pd_tasks_take_all(pd_tasks *q)
{
    pthread_mutex_lock(&q->mutex);
    pd_task *chain = take_all(q);
    pthread_mutex_unlock(&q->mutex);
    return chain;
}

pd_task *
pd_tasks_stop(pd_tasks *q)
{
    pthread_mutex_lock(&q->mutex);
    q->closed = true;
    q->stopped = true;
    pd_task *chain = take_all(q);
    call_all_if_over(q);
    pthread_mutex_unlock(&q->mutex);
    return chain;
}

void
pd_tasks_note_waiter(pd_tasks *q, int change)
{
    atomic_fetch_add_explicit(&q->waiting, change, memory_order_relaxed);
}

void
pd_tasks_let_detach(pd_tasks *q)
{
    if (q->spin_ns == 0 || q->max_standby > 1) {
        return;
    }
    int64_t until_ns = pd_now_ns() + LET_DETACH_NS;
    while (atomic_load_explicit(&q->attached, memory_order_relaxed) > 0 &&
           pd_now_ns() < until_ns)
    {
        pd_spin_pause();
    }
}

pd_tasks_info
pd_tasks_get_info(pd_tasks *q)
{
    pthread_mutex_lock(&q->mutex);
    pd_tasks_info info = {
        .workers = q->workers,
        .queued = atomic_load_explicit(&q->length, memory_order_relaxed),
        .closed = q->closed,
    };
    pthread_mutex_unlock(&q->mutex);
    return info;
}
