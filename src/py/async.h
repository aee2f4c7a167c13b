// AsyncResult's inside, for the files that build on it: map.c and lane.c.
//
//      NEW --begin()--> BEGUN --settle()--> SETTLED --callbacks--> latch set
//        \____________________________________^
//          cancel(), terminate(), a time limit
//
// Whoever moves the state to SETTLED owns the outcome and writes it once; a result that
// comes later (a task that ended after its time limit) is dropped.  The latch is set
// last, after the callbacks, so that get() returns when they have run, as it does for
// the standard library's results.
#ifndef PD_PY_ASYNC_H
#define PD_PY_ASYNC_H

#include "py/tasks.h"

enum { PD_NEW, PD_BEGUN, PD_SETTLED };

// What few results have.
typedef struct pd_extras {
    PyObject *callback;  // owned or NULL, as all
    PyObject *error_callback;
    PyObject *lane;
    PyObject *future;   // concurrent.futures.Future that mirrors the result
    PyObject *then;     // list of functions to call at the end
    PyObject *timeout;  // seconds
} pd_extras;

typedef struct pd_async {
    pd_work work;
    PyObject *function;   // owned until begun or settled, as args and kwargs
    PyObject *args;       // a tuple
    PyObject *kwargs;     // a dict or NULL
    PyObject *value;      // owned: the result or the exception; written by the settler
    PyObject *canceller;  // owned or NULL: cancels it where another engine has it
    PyObject *board;      // owned or NULL: where its outcome arrives
    pd_extras *extras;    // owned or NULL
    pd_latch done;
    _Atomic uint8_t state;
    bool failed;  // written by the settler
} pd_async;

// Moves the state, if it is `from`; true if this thread did it.
bool pd_async_claim(pd_async *self, uint8_t from, uint8_t to);

// Moves the state to SETTLED from any other; true if this thread did it.
bool pd_async_claim_outcome(pd_async *self);

// Writes the outcome that this thread has claimed; steals `value`.  `quiet`: without
// callbacks.  The caller holds a reference to `self`.
void pd_async_settle(pd_async *self, bool failed, PyObject *value, bool quiet);

// Calls the callback for the outcome, then sets the latch and tells everybody.
void pd_async_call_back(pd_async *self);

// Does that in turn with the other results of the lane.
void pd_lane_run(pd_async *self);

// Gives a MapResult the outcome of `count` items from `start` on: a list of their results
// (with `single` the one result), or what one of them raised.
void pd_map_part(pd_async *self,
                 Py_ssize_t start,
                 Py_ssize_t count,
                 bool success,
                 bool single,
                 PyObject *value);

// Works on the items of a MapResult until all are handed out: `taken` if this thread
// took it off the queue, and so may put it back for another.
void pd_map_share(pd_worker *worker, pd_work *work, bool taken);

// For constructors: checks `function` and makes the object; keeps what was given besides
// (each may be NULL or None).
pd_async *pd_async_alloc(PyTypeObject *type, PyObject *function);
int pd_async_set_extras(pd_async *self,
                        PyObject *callback,
                        PyObject *error_callback,
                        PyObject *callback_lane,
                        PyObject *future,
                        PyObject *timeout);

// For the types: the parts that a subtype's own functions end with.
int pd_async_traverse(PyObject *op, visitproc visit, void *arg);
int pd_async_clear(PyObject *op);
void pd_async_free(PyObject *op);

int pd_add_map_type(PyObject *module);
int pd_add_lane_type(PyObject *module);

#endif
