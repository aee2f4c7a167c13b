// What runs Python tasks: the queue of a pool, and the results that are its tasks.
//
// A result is its own task: AsyncResult (one call), MapResult (a loop over items) and
// ResultIterator (a stream) each begin with a pd_work, which the queue links.  Results
// of engines that are not native are settled from Python and never queued.
//
// Lock order: Python's lock or a critical section, then the queue's mutex (a leaf).
#ifndef PD_PY_TASKS_H
#define PD_PY_TASKS_H

#include "py/binding.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "thread/latch.h"
#include "thread/tasks.h"

#if PY_VERSION_HEX < 0x030D0000
#    define Py_BEGIN_CRITICAL_SECTION(op) {
#    define Py_END_CRITICAL_SECTION() }
#endif

typedef struct pd_queue pd_queue;
typedef struct pd_work pd_work;
typedef struct pd_worker pd_worker;

// The common head of everything that can be queued.
struct pd_work {
    PyObject_HEAD
    pd_task task;
    // Strong while the work may be queued or running; guarded by the critical section.
    pd_queue *queue;
    PyObject *weakrefs;
};

// What a thread has begun and not ended, innermost first; on the threads' stacks.
typedef struct pd_frame {
    pd_work *work;  // borrowed from whoever runs it
    struct pd_frame *outer;
} pd_frame;

// A thread of a queue; on its stack.
struct pd_worker {
    pd_queue *queue;       // immutable; borrowed from the thread's own reference
    PyThreadState *state;  // while detached; written by the thread
    unsigned long ident;   // immutable
    pd_frame *frame;       // guarded by the queue's critical section
    bool abandoned;        // counted out by expire(); guarded likewise
    pd_worker *next;       // of the queue's threads; guarded likewise
    pd_worker *prev;

    // Written by the thread; read by stats(), which may see old values.
    int64_t now_ns;    // end of the last task: the start of the next
    int64_t since_ns;  // when it last took Python's lock
    unsigned breath;
    _Atomic int64_t tasks;
    _Atomic int64_t takes;     // tasks taken off the queue
    _Atomic int64_t queue_ns;  // how long those had been in it
    _Atomic int64_t run_ns;
    _Atomic int64_t gil_ns;  // waiting for Python's lock before a task
    pthread_t thread;        // immutable
};

struct pd_queue {
    PyObject_HEAD
    pd_tasks *tasks;     // owned; immutable
    PyObject *spawn;     // owned; immutable: starts a thread that calls work()
    PyObject *watch;     // owned; immutable: watch(result, seconds)
    PyObject *broken;    // owned, or NULL: raised by start(); guarded by this object
    bool terminated;     // guarded by this object
    pd_worker *workers;  // guarded by this object
    int64_t past_tasks;  // of threads that have ended; guarded by this object
    PyObject *weakrefs;
};

// The thread that runs this, if it is one of a queue's.
extern _Thread_local pd_worker *pd_this_worker;

// Begins and ends a piece of work; `worker` may be NULL.
void pd_enter(pd_worker *worker, pd_frame *frame, pd_work *work);
void pd_leave(pd_worker *worker, pd_frame *frame);

// To be called every now and then in loops that run only C code: lets other threads have
// Python's lock when it is their turn.  `worker` may be NULL.
void pd_breathe(pd_worker *worker);

// Waits for the latch without Python's lock: 1 set, 0 time out, -1 an exception (a
// signal's handler raised).  `queue` may be NULL.
int pd_wait(pd_latch *latch, pd_queue *queue, int64_t timeout_ns);

// None: PD_FOREVER; else seconds.  -1 with an exception.
int pd_parse_timeout(PyObject *object, int64_t *timeout_ns);

// The module that an object of one of its types belongs to; borrowed.
PyObject *pd_module_of(PyObject *self);

// The present exception, normalised and with its traceback; the indicator is cleared.
PyObject *pd_take_exception(void);

// Tells the user of the present exception, which has nobody else to go to.
void pd_report(PyObject *module);

// Raises `exception` as `raise exception` does.
void pd_raise_object(PyObject *exception);

// function(*args, **kwargs) with a tuple and a dict or NULL.
PyObject *pd_call(PyObject *function, PyObject *args, PyObject *kwargs);

// function(item) or, with `star`, function(*item).
PyObject *pd_call_item(PyObject *function, PyObject *item, bool star);

// A new CancelledError of concurrent.futures.
PyObject *pd_cancelled(PyObject *module, const char *why);

// The work of a thread, by its type.  Each leaves no exception behind.
void pd_async_run(pd_worker *worker, pd_work *work);
void pd_map_run(pd_worker *worker, pd_work *work);
void pd_stream_run(pd_worker *worker, pd_work *work);

// The work will not run (any more): its waiters get `exception`.
void pd_async_fail(pd_work *work, PyObject *exception);
// `lost`: nor will the units arrive that threads are running.
void pd_stream_fail(pd_work *work, PyObject *exception, bool lost);

// Fails an AsyncResult whose time is up, unless it has a result: true if that was done.
bool pd_async_expire(pd_work *work, PyObject *exception);

bool pd_is_async(PyObject *module, PyObject *object);
bool pd_is_map(PyObject *module, PyObject *object);
bool pd_is_stream(PyObject *module, PyObject *object);

// After a push that has something to give its caller first: what a signal's handler
// raised meanwhile is raised soon (KeyboardInterrupt) or reported.
void pd_defer_interruption(PyObject *module);

// Called by start(): a bounded stream keeps the threads of a closed pool, until its end.
void pd_stream_hold(pd_work *work, bool hold);

int pd_add_queue_type(PyObject *module);
int pd_add_async_types(PyObject *module);
int pd_add_stream_type(PyObject *module);
int pd_add_counter_type(PyObject *module);

#endif
