// The task queue: threads that take opaque tasks off a list and run them.
//
// It knows nothing of Python.  What a task is, and what has to be held while one runs
// (Python's lock, or nothing at all), the owner says by hooks:
//
//     thread of the pool                         anybody
//     ------------------                         -------
//     attach();                                  attach();
//     pd_tasks_work(q, me);                      pd_tasks_push(q, &task, ...);
//       -> run(me, task), run(me, task) ...      pd_tasks_close(q);
//     detach();                                  (threads return from pd_tasks_work)
//
// Threads are made on demand, by a hook: the queue asks for another one when there is a
// task, nobody is about to take it, and fewer than `max_workers` exist.
//
// A task is taken off the queue before it is run, once for every push.  A task that
// several threads can work on at a time (a loop, a stream) pushes itself again before
// it does its part.
#ifndef PD_THREAD_TASKS_H
#define PD_THREAD_TASKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// Part of the owner's struct.  Zero it before the first push.
typedef struct pd_task {
    struct pd_task *next;  // both guarded by the queue; NULL while not queued
    struct pd_task *prev;
    int64_t pushed_ns;  // when, on the clock of base/clock.h
} pd_task;

typedef struct pd_tasks pd_tasks;

typedef struct pd_tasks_hooks {
    // Blocks until the thread may run tasks.  Called with no lock of the queue held.
    // May never return (an interpreter that ends keeps its threads here).
    void (*attach)(void *thread);

    // The reverse.  Doesn't block.
    void (*detach)(void *thread);

    // Runs a task that was taken off the queue.  Returns false if this thread shall end:
    // its seat must have been given up by pd_tasks_give_up().
    bool (*run)(void *thread, pd_task *task);

    // Starts a thread that calls pd_tasks_work(); false if that can't be done.  Called
    // attached, from pd_tasks_push() or pd_tasks_work().
    bool (*spawn)(void *context);
} pd_tasks_hooks;

typedef enum pd_tasks_end {
    PD_TASKS_BACK,   // a new task: after all others; refused once the queue is closed
    PD_TASKS_AGAIN,  // a stream that has more: after all others, also when closed
    PD_TASKS_FRONT,  // a loop that has more: before all others, also when closed
} pd_tasks_end;

// Stores a queue without threads in *out.  `max_workers` is at least 1.  `max_standby`
// says how many threads may be awake with nothing to run yet: 1 where only one can be
// attached at a time, `max_workers` where all can.  `hooks` is borrowed, and so is
// `context`.  PD_EINVAL, PD_ENOMEM or PD_EOS; then *out is unchanged.
pd_status pd_tasks_create(const pd_tasks_hooks *hooks,
                          void *context,
                          unsigned max_workers,
                          unsigned max_standby,
                          pd_tasks **out);

// Pre: no thread is in pd_tasks_work() or about to call it.  Tasks still queued are
// forgotten.  Accepts NULL.  Can't fail.
void pd_tasks_destroy(pd_tasks *queue);

// Queues a task that is not queued.  PD_ECLOSED if the queue doesn't take it; PD_EOS if
// no thread exists and none could be started: then it is not queued either.
pd_status pd_tasks_push(pd_tasks *queue, pd_task *task, pd_tasks_end end);

// Takes this very task off the queue, for a thread that wants to run it itself or to
// throw it away; false if it isn't queued (any more).  Can't fail otherwise.
bool pd_tasks_take(pd_tasks *queue, pd_task *task);

// Makes the caller, attached, one of the queue's threads until the queue is closed and
// all is done, or run() says no.  Only for threads started by spawn().
void pd_tasks_work(pd_tasks *queue, void *thread);

// Starts threads until there are `max_workers` or one can't be started.
void pd_tasks_fill(pd_tasks *queue);

// Counts out a thread that is inside run(), stuck in a task that nobody waits for any
// more: another one may take its seat.  Called attached, by any thread, once; that run()
// must return false.
void pd_tasks_give_up(pd_tasks *queue);

// No new tasks; threads end once those there are have run, and nobody holds the queue.
void pd_tasks_close(pd_tasks *queue);

// Keeps the threads of a closed queue (true) until as many calls say false: for a
// stream that is not queued since it waits for its consumer, who will push it again.
void pd_tasks_hold(pd_tasks *queue, bool hold);

// The threads of a closed queue no longer stay for those who hold it.
void pd_tasks_drain(pd_tasks *queue);

// Takes all tasks off and returns them as a chain by `next`, for the caller to throw
// away; it has to zero both `next` and `prev` of each.
pd_task *pd_tasks_take_all(pd_tasks *queue);

// The same, and no task will be taken again, not even a running one that has more.
pd_task *pd_tasks_stop(pd_tasks *queue);

// A thread that is detached and waits for a result of this queue says so, before and
// after (+1, -1): then threads that take over need not fight for what it held.
void pd_tasks_note_waiter(pd_tasks *queue, int change);

// Waits, detached and for some microseconds at most, until no thread of the queue is
// attached: a waiter whose result just came in does so before it attaches.
void pd_tasks_let_detach(pd_tasks *queue);

typedef struct pd_tasks_info {
    unsigned workers;  // threads alive or being started
    size_t queued;     // tasks in the list
    bool closed;
} pd_tasks_info;

pd_tasks_info pd_tasks_get_info(pd_tasks *queue);

#endif
