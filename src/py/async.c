// _core.AsyncResult: one call, and its outcome.  See async.h for its life.
//
// Without Python's lock: the state is atomic; all else is guarded by the object's
// critical section, or belongs to the settler until the latch is set.
#include "py/async.h"

#include <structmember.h>

#include "base/clock.h"
#include "py/board.h"

// ------------------------------------------------------------------------------
// Settling
// ------------------------------------------------------------------------------

// Takes the call away from the result: whoever gets it may run it.
static void
take_call(pd_async *self, PyObject **function, PyObject **args, PyObject **kwargs)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    *function = self->function;
    *args = self->args;
    *kwargs = self->kwargs;
    self->function = self->args = self->kwargs = NULL;
    Py_END_CRITICAL_SECTION();
}

static void
drop_call(pd_async *self)
{
    PyObject *function, *args, *kwargs;
    take_call(self, &function, &args, &kwargs);
    Py_XDECREF(function);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
}

bool
pd_async_claim(pd_async *self, uint8_t from, uint8_t to)
{
    return atomic_compare_exchange_strong(&self->state, &from, to);
}

bool
pd_async_claim_outcome(pd_async *self)
{
    return pd_async_claim(self, PD_BEGUN, PD_SETTLED) ||
           pd_async_claim(self, PD_NEW, PD_SETTLED);
}

// Calls what stands in the list; what it raises is reported, not lost.
static void
call_listeners(pd_async *self, PyObject *listeners)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(listeners); i++) {
        PyObject *listener = PySequence_ITEM(listeners, i);
        PyObject *none = PyObject_CallNoArgs(listener);
        if (none == NULL) {
            pd_report(pd_module_of((PyObject *)self));
        }
        Py_XDECREF(none);
        Py_DECREF(listener);
    }
}

static void
mirror_to_future(pd_async *self)
{
    PyObject *name =
        PyUnicode_FromString(self->failed ? "set_exception" : "set_result");
    // Not by a format string: that would take a tuple apart.
    PyObject *none = name == NULL ? NULL
                                  : PyObject_CallMethodOneArg(self->extras->future,
                                                              name, self->value);
    Py_XDECREF(name);
    if (none == NULL) {
        pd_report(pd_module_of((PyObject *)self));
    }
    Py_XDECREF(none);
    Py_CLEAR(self->extras->future);  // which refers to this result
}

// The last step: sets the latch and tells everybody.
static void
finish(pd_async *self)
{
    PyObject *listeners = NULL, *canceller, *board;
    pd_queue *queue;

    Py_BEGIN_CRITICAL_SECTION(self);
    queue = self->work.queue;
    self->work.queue = NULL;
    canceller = self->canceller;
    self->canceller = NULL;
    board = self->board;
    self->board = NULL;
    pd_latch_set(&self->done);
    if (self->extras != NULL) {
        listeners = self->extras->then;
        self->extras->then = NULL;
    }
    Py_END_CRITICAL_SECTION();

    if (self->extras != NULL && self->extras->future != NULL) {
        mirror_to_future(self);
    }
    if (listeners != NULL) {
        call_listeners(self, listeners);
        Py_DECREF(listeners);
    }
    Py_XDECREF(canceller);
    Py_XDECREF(board);
    Py_XDECREF(queue);
}

void
pd_async_call_back(pd_async *self)
{
    PyObject *callback =
        self->failed ? self->extras->error_callback : self->extras->callback;
    PyObject *none = PyObject_CallOneArg(callback, self->value);
    if (none == NULL) {
        pd_report(pd_module_of((PyObject *)self));
    }
    Py_XDECREF(none);
    Py_CLEAR(self->extras->callback);
    Py_CLEAR(self->extras->error_callback);
    finish(self);
}

// Writes the outcome that this thread has claimed; steals `value`.  The caller holds a
// reference to `self`.
void
pd_async_settle(pd_async *self, bool failed, PyObject *value, bool quiet)
{
    drop_call(self);
    self->failed = failed;
    self->value = value;
    PyObject *callback = NULL;
    if (self->extras != NULL && !quiet) {
        callback = failed ? self->extras->error_callback : self->extras->callback;
    }
    if (callback != NULL) {
        pd_lane_run(self);
    }
    else {
        finish(self);
    }
}

// Settles with what a call returned, or with the present exception if that is NULL.
static void
settle_call(pd_async *self, PyObject *result)
{
    bool failed = result == NULL;
    PyObject *value = failed ? pd_take_exception() : result;
    if (pd_async_claim_outcome(self)) {
        pd_async_settle(self, failed, value, false);
    }
    else {
        Py_DECREF(value);
    }
}

// For a call that will not run: cancels its Future, or finds that its user has done so.
static void
end_future(pd_async *self, bool cancel)
{
    PyObject *future = self->extras->future;
    PyObject *done = PyObject_CallMethod(future, cancel ? "cancel" : "cancelled", NULL);
    if (done == Py_True) {
        Py_SETREF(done,
                  PyObject_CallMethod(future, "set_running_or_notify_cancel", NULL));
        Py_CLEAR(self->extras->future);
    }
    if (done == NULL) {
        pd_report(pd_module_of((PyObject *)self));
    }
    Py_XDECREF(done);
}

void
pd_async_fail(pd_work *work, PyObject *exception)
{
    pd_async *self = (pd_async *)work;
    if (!pd_async_claim_outcome(self)) {
        return;
    }
    PyObject *canceller;
    Py_BEGIN_CRITICAL_SECTION(self);
    canceller = self->canceller;
    self->canceller = NULL;  // it is too late to ask it
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(canceller);
    if (self->extras != NULL && self->extras->future != NULL) {
        pd_module_state *state = PyModule_GetState(pd_module_of((PyObject *)self));
        end_future(self,
                   PyErr_GivenExceptionMatches(exception, state->cancelled_error));
    }
    pd_async_settle(self, true, Py_NewRef(exception), true);
}

bool
pd_async_expire(pd_work *work, PyObject *exception)
{
    pd_async *self = (pd_async *)work;
    if (!pd_async_claim_outcome(self)) {
        return false;
    }
    pd_async_settle(self, true, Py_NewRef(exception), false);
    return true;
}

// ------------------------------------------------------------------------------
// Running a call
// ------------------------------------------------------------------------------

// Tells a Future that its call begins: false if it was cancelled, or can't begin.
static bool
begin_future(pd_async *self)
{
    PyObject *begun =
        PyObject_CallMethod(self->extras->future, "set_running_or_notify_cancel", NULL);
    if (begun == NULL || begun == Py_False) {
        Py_CLEAR(self->extras->future);
        PyObject *why = begun == NULL ? pd_take_exception()
                                      : pd_cancelled(pd_module_of((PyObject *)self),
                                                     "the future was cancelled");
        Py_XDECREF(begun);
        if (pd_async_claim_outcome(self)) {
            pd_async_settle(self, true, why, true);
        }
        else {
            Py_XDECREF(why);
        }
        return false;
    }
    Py_DECREF(begun);
    return true;
}

static int
begin_watch(pd_async *self)
{
    PyObject *none = PyObject_CallFunctionObjArgs(
        self->work.queue->watch, (PyObject *)self, self->extras->timeout, NULL);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

void
pd_async_run(pd_worker *worker, pd_work *work)
{
    pd_async *self = (pd_async *)work;
    if (!pd_async_claim(self, PD_NEW, PD_BEGUN)) {
        return;
    }
    if (self->extras != NULL && self->extras->future != NULL && !begin_future(self)) {
        return;
    }
    PyObject *function, *args, *kwargs;
    PyObject *result = NULL;
    pd_frame frame;
    take_call(self, &function, &args, &kwargs);
    pd_enter(worker, &frame, work);
    if (self->extras == NULL || self->extras->timeout == NULL || begin_watch(self) == 0)
    {
        result = pd_call(function, args, kwargs);
    }
    pd_leave(worker, &frame);
    if (worker != NULL && self->extras != NULL && self->extras->timeout != NULL) {
        // The time limit's exception, if it came too late to be raised in the task.
        (void)PyThreadState_SetAsyncExc(worker->ident, NULL);
    }
    Py_DECREF(function);
    Py_DECREF(args);
    Py_XDECREF(kwargs);
    settle_call(self, result);
    if (worker != NULL) {
        atomic_fetch_add_explicit(&worker->tasks, 1, memory_order_relaxed);
    }
}

// ------------------------------------------------------------------------------
// Waiting
// ------------------------------------------------------------------------------

// A thread of the same queue runs what it waits for itself: so nested calls can't
// deadlock.  It runs nothing else meanwhile, which could want what this thread holds.
static void
help(pd_async *self)
{
    pd_worker *worker = pd_this_worker;
    pd_queue *queue;
    if (worker == NULL) {
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    queue = (pd_queue *)Py_XNewRef((PyObject *)self->work.queue);
    Py_END_CRITICAL_SECTION();
    if (queue != NULL && queue == worker->queue) {
        if (pd_is_map(pd_module_of((PyObject *)self), (PyObject *)self)) {
            pd_map_share(worker, &self->work, false);
        }
        else if (pd_tasks_take(queue->tasks, &self->work.task)) {
            pd_async_run(worker, &self->work);
            Py_DECREF(self);  // the queue's
        }
    }
    Py_XDECREF(queue);
}

// The same for an outcome that arrives on a board: the waiter reads there itself at first.
static int
wait_at_board(pd_async *self, PyObject *board, int64_t timeout_ns)
{
    int64_t start_ns = pd_now_ns();
    if (pd_board_help(board, &self->done, timeout_ns) < 0) {
        return -1;
    }
    if (timeout_ns != PD_FOREVER) {
        timeout_ns -= Py_MIN(timeout_ns, pd_now_ns() - start_ns);
    }
    int done = pd_wait(&self->done, NULL, timeout_ns);
    pd_board_waited(board, pd_now_ns() - start_ns);
    return done;
}

// 1 if it is settled, 0 after the time limit, -1 with an exception.
static int
wait_until_done(pd_async *self, int64_t timeout_ns)
{
    if (pd_latch_is_set(&self->done)) {
        return 1;
    }
    pd_queue *queue;
    PyObject *board;
    if (timeout_ns == PD_FOREVER) {
        help(self);
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    queue = (pd_queue *)Py_XNewRef((PyObject *)self->work.queue);
    board = Py_XNewRef(self->board);
    Py_END_CRITICAL_SECTION();
    int done = board == NULL ? pd_wait(&self->done, queue, timeout_ns)
                             : wait_at_board(self, board, timeout_ns);
    Py_XDECREF(board);
    Py_XDECREF(queue);
    return done;
}

// One optional argument `timeout`, by position or name.
static int
timeout_argument(const char *method,
                 PyObject *const *args,
                 Py_ssize_t nargs,
                 PyObject *kwnames,
                 int64_t *timeout_ns)
{
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (nargs + named > 1 ||
        (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0),
                                                        "timeout") != 0))
    {
        PyErr_Format(PyExc_TypeError, "%s() takes one optional argument, timeout",
                     method);
        return -1;
    }
    return pd_parse_timeout(nargs + named == 1 ? args[0] : NULL, timeout_ns);
}

PyDoc_STRVAR(get_doc,
             "get($self, /, timeout=None)\n--\n\n"
             "Return the result when it arrives, or raise what the task raised.\n"
             "\n"
             "Parameters\n"
             "----------\n"
             "timeout : float, optional\n"
             "    Seconds to wait; by default for ever.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "object\n"
             "    What the task returned; the same at every call.\n"
             "\n"
             "Raises\n"
             "------\n"
             "TimeoutError\n"
             "    If it has not arrived in time: multiprocessing's.\n"
             "Exception\n"
             "    What the task raised.\n");

static PyObject *
async_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    pd_async *self = (pd_async *)op;
    int64_t timeout_ns;
    if (timeout_argument("get", args, nargs, kwnames, &timeout_ns) < 0) {
        return NULL;
    }
    int done = wait_until_done(self, timeout_ns);
    if (done < 0) {
        return NULL;
    }
    if (done == 0) {
        pd_module_state *state = PyModule_GetState(pd_module_of(op));
        PyErr_SetNone(state->timeout_error);
        return NULL;
    }
    if (self->failed) {
        pd_raise_object(self->value);
        return NULL;
    }
    return Py_NewRef(self->value);
}

PyDoc_STRVAR(wait_doc,
             "wait($self, /, timeout=None)\n--\n\n"
             "Wait until the result is there.\n"
             "\n"
             "Parameters\n"
             "----------\n"
             "timeout : float, optional\n"
             "    Seconds to wait at most; by default for ever.\n");

static PyObject *
async_wait(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (timeout_argument("wait", args, nargs, kwnames, &timeout_ns) < 0 ||
        wait_until_done((pd_async *)op, timeout_ns) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(ready_doc,
             "ready($self, /)\n--\n\n"
             "Tell whether the result is there.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "bool\n"
             "    True if `get` would not wait.\n");

static PyObject *
async_ready(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(pd_latch_is_set(&((pd_async *)op)->done));
}

PyDoc_STRVAR(successful_doc,
             "successful($self, /)\n--\n\n"
             "Tell whether the task ended without an exception.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "bool\n"
             "    True if `get` would not raise.\n"
             "\n"
             "Raises\n"
             "------\n"
             "ValueError\n"
             "    If the task has not ended.\n");

static PyObject *
async_successful(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_async *self = (pd_async *)op;
    if (!pd_latch_is_set(&self->done)) {
        return PyErr_Format(PyExc_ValueError, "%R not ready", op);
    }
    return PyBool_FromLong(!self->failed);
}

static PyObject *
async_canceller(PyObject *op, void *Py_UNUSED(closure))
{
    pd_async *self = (pd_async *)op;
    PyObject *canceller;
    Py_BEGIN_CRITICAL_SECTION(self);
    canceller = Py_XNewRef(self->canceller);
    Py_END_CRITICAL_SECTION();
    return canceller == NULL ? Py_NewRef(Py_None) : canceller;
}

PyDoc_STRVAR(
    cancel_doc,
    "cancel($self, /)\n--\n\n"
    "Take back a task that has not begun, or stop one that runs in a process.\n"
    "\n"
    "Its `get` then raises `concurrent.futures.CancelledError`.\n"
    "\n"
    "Returns\n"
    "-------\n"
    "bool\n"
    "    True if that was done, False if it is too late.\n");

static PyObject *
async_cancel(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_async *self = (pd_async *)op;
    pd_queue *queue;
    PyObject *canceller = async_canceller(op, NULL);
    if (canceller != Py_None) {
        PyObject *cancelled = PyObject_CallOneArg(canceller, op);
        Py_DECREF(canceller);
        return cancelled;
    }
    Py_DECREF(canceller);
    PyObject *error = pd_cancelled(pd_module_of(op), "the task was cancelled");
    if (error == NULL) {
        return NULL;
    }
    if (!pd_async_claim(self, PD_NEW, PD_SETTLED)) {
        Py_DECREF(error);
        Py_RETURN_FALSE;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    queue = (pd_queue *)Py_XNewRef((PyObject *)self->work.queue);
    Py_END_CRITICAL_SECTION();
    if (queue != NULL && pd_tasks_take(queue->tasks, &self->work.task)) {
        Py_DECREF(self);  // the queue's
    }
    Py_XDECREF(queue);
    pd_async_settle(self, true, error, true);
    Py_RETURN_TRUE;
}

// ------------------------------------------------------------------------------
// For engines written in Python
// ------------------------------------------------------------------------------

PyDoc_STRVAR(begin_doc,
             "_begin($self, /)\n--\n\n"
             "Take the call to run it: (function, args, kwargs), or None if it was "
             "cancelled.");

static PyObject *
async_begin(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_async *self = (pd_async *)op;
    if (!pd_async_claim(self, PD_NEW, PD_BEGUN) ||
        (self->extras != NULL && self->extras->future != NULL && !begin_future(self)))
    {
        Py_RETURN_NONE;
    }
    PyObject *function, *args, *kwargs;
    take_call(self, &function, &args, &kwargs);
    if (function == NULL) {
        Py_RETURN_NONE;
    }
    if (kwargs == NULL && (kwargs = PyDict_New()) == NULL) {
        Py_DECREF(function);
        Py_DECREF(args);
        return NULL;
    }
    return Py_BuildValue("(NNN)", function, args, kwargs);
}

// True if the Future that mirrors the result was cancelled; its waiters are told.
static bool
future_is_cancelled(pd_async *self)
{
    if (self->extras == NULL || self->extras->future == NULL) {
        return false;
    }
    PyObject *cancelled = PyObject_CallMethod(self->extras->future, "cancelled", NULL);
    if (cancelled == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(cancelled);
    return cancelled == Py_True && !begin_future(self);
}

PyDoc_STRVAR(
    take_doc,
    "_take($self, canceller, board, /)\n--\n\n"
    "Take the call to send it to a worker: (function, args, kwargs or None), or "
    "None if\nit was cancelled.  From now on cancel() calls canceller(self), and who "
    "waits reads\nwhat arrives on the board.");

static PyObject *
async_take(PyObject *op, PyObject *const *arguments, Py_ssize_t nargs)
{
    pd_async *self = (pd_async *)op;
    pd_module_state *state = PyModule_GetState(pd_module_of(op));
    PyObject *function = NULL, *args = NULL, *kwargs = NULL;
    if (nargs != 2 || !Py_IS_TYPE(arguments[1], state->board_type)) {
        PyErr_SetString(PyExc_TypeError, "_take() takes a canceller and a Board");
        return NULL;
    }
    if (future_is_cancelled(self) || atomic_load(&self->state) != PD_NEW) {
        Py_RETURN_NONE;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    Py_XSETREF(self->canceller, Py_NewRef(arguments[0]));
    Py_XSETREF(self->board, Py_NewRef(arguments[1]));
    Py_END_CRITICAL_SECTION();
    take_call(self, &function, &args, &kwargs);
    if (function == NULL) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(NNN)", function, args,
                         kwargs == NULL ? Py_NewRef(Py_None) : kwargs);
}

PyDoc_STRVAR(fail_doc,
             "_fail($self, exception, /)\n--\n\n"
             "It will not run: its waiters get the exception; a Future that has not "
             "begun is\ncancelled.  No callback is called.");

static PyObject *
async_fail(PyObject *op, PyObject *exception)
{
    if (!PyExceptionInstance_Check(exception)) {
        PyErr_SetString(PyExc_TypeError, "exception must be an exception");
        return NULL;
    }
    pd_async_fail(&((pd_async *)op)->work, exception);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(settle_doc,
             "_settle($self, success, value, /)\n--\n\n"
             "Give the outcome; False if there is one already.");

static PyObject *
async_settle(PyObject *op, PyObject *args)
{
    int success;
    PyObject *value;
    if (!PyArg_ParseTuple(args, "pO:_settle", &success, &value)) {
        return NULL;
    }
    if (!success && !PyExceptionInstance_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "value must be an exception");
        return NULL;
    }
    if (!pd_async_claim_outcome((pd_async *)op)) {
        Py_RETURN_FALSE;
    }
    pd_async_settle((pd_async *)op, !success, Py_NewRef(value), false);
    Py_RETURN_TRUE;
}

static pd_extras *
make_extras(pd_async *self)
{
    if (self->extras == NULL) {
        self->extras = PyMem_Calloc(1, sizeof(*self->extras));
        if (self->extras == NULL) {
            PyErr_NoMemory();
        }
    }
    return self->extras;
}

PyDoc_STRVAR(help_doc,
             "_help($self, /)\n--\n\n"
             "In a thread of the pool that has the task queued: run it now.");

static PyObject *
async_help(PyObject *op, PyObject *Py_UNUSED(unused))
{
    help((pd_async *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    then_doc,
    "_then($self, function, /)\n--\n\n"
    "Call function() once the result is there, in whichever thread brings it.");

static PyObject *
async_then(PyObject *op, PyObject *function)
{
    pd_async *self = (pd_async *)op;
    bool now;
    int status = 0;

    Py_BEGIN_CRITICAL_SECTION(self);
    now = pd_latch_is_set(&self->done);
    if (!now) {
        pd_extras *e = make_extras(self);
        if (e != NULL && e->then == NULL) {
            e->then = PyList_New(0);
        }
        status = e == NULL || e->then == NULL ? -1 : PyList_Append(e->then, function);
    }
    Py_END_CRITICAL_SECTION();
    if (status < 0) {
        return NULL;
    }
    return now ? PyObject_CallNoArgs(function) : Py_NewRef(Py_None);
}

static PyObject *
async_await(PyObject *op)
{
    pd_module_state *state = PyModule_GetState(pd_module_of(op));
    if (state->awaiter == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "pydistrib.pools.protocol is not imported");
        return NULL;
    }
    return PyObject_CallOneArg(state->awaiter, op);
}

PyDoc_STRVAR(
    set_hooks_doc,
    "_set_pool_hooks($module, timeout_error, cancelled_error, awaiter, anext, "
    "report, /)\n--\n\n"
    "What results raise, what `await result` iterates over, what "
    "`anext(iterator)`\nawaits, and what is told of errors that nobody else gets.");

static PyObject *
set_hooks(PyObject *module, PyObject *args)
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *timeout_error, *cancelled_error, *awaiter, *anext, *report;
    if (!PyArg_ParseTuple(args, "OOOOO:_set_pool_hooks", &timeout_error,
                          &cancelled_error, &awaiter, &anext, &report))
    {
        return NULL;
    }
    Py_XSETREF(state->timeout_error, Py_NewRef(timeout_error));
    Py_XSETREF(state->cancelled_error, Py_NewRef(cancelled_error));
    Py_XSETREF(state->awaiter, Py_NewRef(awaiter));
    Py_XSETREF(state->anext, Py_NewRef(anext));
    Py_XSETREF(state->report, Py_NewRef(report));
    Py_RETURN_NONE;
}

// ------------------------------------------------------------------------------
// AsyncResult
// ------------------------------------------------------------------------------

static PyObject *
given(PyObject *object)
{
    return object == NULL || object == Py_None ? NULL : object;
}

// Checks and keeps what was given besides the call.
int
pd_async_set_extras(pd_async *self,
                    PyObject *callback,
                    PyObject *error_callback,
                    PyObject *callback_lane,
                    PyObject *future,
                    PyObject *timeout)
{
    callback = given(callback);
    error_callback = given(error_callback);
    if (callback == NULL && error_callback == NULL && given(future) == NULL &&
        given(timeout) == NULL)
    {
        return 0;
    }
    pd_module_state *state = PyModule_GetState(pd_module_of((PyObject *)self));
    if ((callback != NULL || error_callback != NULL) &&
        (given(callback_lane) == NULL || !Py_IS_TYPE(callback_lane, state->lane_type)))
    {
        PyErr_SetString(PyExc_TypeError, "callbacks need a CallbackLane");
        return -1;
    }
    pd_extras *e = make_extras(self);
    if (e == NULL) {
        return -1;
    }
    e->callback = Py_XNewRef(callback);
    e->error_callback = Py_XNewRef(error_callback);
    e->lane = Py_XNewRef(given(callback_lane));
    e->future = Py_XNewRef(given(future));
    e->timeout = Py_XNewRef(given(timeout));
    return 0;
}

static int
check_callable(PyObject *object, const char *name)
{
    if (PyCallable_Check(object)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s must be callable, not %.200s", name,
                 Py_TYPE(object)->tp_name);
    return -1;
}

pd_async *
pd_async_alloc(PyTypeObject *type, PyObject *function)
{
    if (check_callable(function, "func") < 0) {
        return NULL;
    }
    pd_async *self = (pd_async *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->function = Py_NewRef(function);
    }
    return self;
}

// The arguments as a tuple, and a dict or NULL.
static int
set_arguments(pd_async *self, PyObject *args, PyObject *kwargs)
{
    self->args = args == NULL               ? PyTuple_New(0)
                 : PyTuple_CheckExact(args) ? Py_NewRef(args)
                                            : PySequence_Tuple(args);
    if (self->args == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "args must be a sequence, not %.200s",
                         Py_TYPE(args)->tp_name);
        }
        return -1;
    }
    kwargs = given(kwargs);
    if (kwargs == NULL || (PyDict_CheckExact(kwargs) && PyDict_GET_SIZE(kwargs) == 0)) {
        return 0;
    }
    self->kwargs = PyDict_New();
    if (self->kwargs == NULL) {
        return -1;
    }
    if (PyDict_Update(self->kwargs, kwargs) < 0) {
        PyErr_Format(PyExc_TypeError, "kwds must be a mapping, not %.200s",
                     Py_TYPE(kwargs)->tp_name);
        return -1;
    }
    return 0;
}

// AsyncResult(function, args, kwargs, callback, error_callback, lane, future, timeout)
static PyObject *
async_vectorcall(PyObject *type,
                 PyObject *const *args,
                 size_t nargsf,
                 PyObject *kwnames)
{
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs < 1 || nargs > 8 || (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0)) {
        PyErr_SetString(PyExc_TypeError,
                        "AsyncResult() takes 1 to 8 positional arguments");
        return NULL;
    }
    PyObject *full[8] = {NULL};
    for (Py_ssize_t i = 0; i < nargs; i++) {
        full[i] = args[i];
    }
    pd_async *self = pd_async_alloc((PyTypeObject *)type, full[0]);
    if (self == NULL) {
        return NULL;
    }
    if (set_arguments(self, full[1], full[2]) < 0 ||
        (nargs > 3 &&
         pd_async_set_extras(self, full[3], full[4], full[5], full[6], full[7]) < 0))
    {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *
async_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "AsyncResult() takes no keyword arguments");
        return NULL;
    }
    return async_vectorcall((PyObject *)type, &PyTuple_GET_ITEM(args, 0),
                            (size_t)PyTuple_GET_SIZE(args), NULL);
}

int
pd_async_traverse(PyObject *op, visitproc visit, void *arg)
{
    pd_async *self = (pd_async *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->work.queue);
    Py_VISIT(self->function);
    Py_VISIT(self->args);
    Py_VISIT(self->kwargs);
    Py_VISIT(self->value);
    Py_VISIT(self->canceller);
    Py_VISIT(self->board);
    if (self->extras != NULL) {
        Py_VISIT(self->extras->callback);
        Py_VISIT(self->extras->error_callback);
        Py_VISIT(self->extras->lane);
        Py_VISIT(self->extras->future);
        Py_VISIT(self->extras->then);
        Py_VISIT(self->extras->timeout);
    }
    return 0;
}

int
pd_async_clear(PyObject *op)
{
    pd_async *self = (pd_async *)op;
    Py_CLEAR(self->work.queue);
    Py_CLEAR(self->function);
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    Py_CLEAR(self->value);
    Py_CLEAR(self->canceller);
    Py_CLEAR(self->board);
    if (self->extras != NULL) {
        Py_CLEAR(self->extras->callback);
        Py_CLEAR(self->extras->error_callback);
        Py_CLEAR(self->extras->lane);
        Py_CLEAR(self->extras->future);
        Py_CLEAR(self->extras->then);
        Py_CLEAR(self->extras->timeout);
    }
    return 0;
}

void
pd_async_free(PyObject *op)
{
    pd_async *self = (pd_async *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->work.weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)pd_async_clear(op);
    PyMem_Free(self->extras);
    type->tp_free(op);
    Py_DECREF(type);  // a heap type is referenced by its instances
}

static void
async_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    pd_async_free(op);
}

static PyObject *
async_repr(PyObject *op)
{
    pd_async *self = (pd_async *)op;
    const char *state =
        !pd_latch_is_set(&self->done)
            ? (atomic_load(&self->state) == PD_NEW ? "waiting" : "running")
        : self->failed ? "failed"
                       : "done";
    return PyUnicode_FromFormat("<%s %s at %p>", Py_TYPE(op)->tp_name, state, op);
}

static PyObject *
async_timeout(PyObject *op, void *Py_UNUSED(closure))
{
    pd_async *self = (pd_async *)op;
    PyObject *timeout = self->extras == NULL ? NULL : self->extras->timeout;
    return Py_NewRef(timeout == NULL ? Py_None : timeout);
}

static PyMethodDef async_methods[] = {
    {"get",               (PyCFunction)(void (*)(void))async_get,  METH_FASTCALL | METH_KEYWORDS,
     get_doc                                                                                                    },
    {"wait",              (PyCFunction)(void (*)(void))async_wait, METH_FASTCALL | METH_KEYWORDS,
     wait_doc                                                                                                   },
    {"ready",             async_ready,                             METH_NOARGS,                   ready_doc     },
    {"successful",        async_successful,                        METH_NOARGS,                   successful_doc},
    {"cancel",            async_cancel,                            METH_NOARGS,                   cancel_doc    },
    {"_begin",            async_begin,                             METH_NOARGS,                   begin_doc     },
    {"_take",             (PyCFunction)(void (*)(void))async_take, METH_FASTCALL,                 take_doc      },
    {"_fail",             async_fail,                              METH_O,                        fail_doc      },
    {"_settle",           async_settle,                            METH_VARARGS,                  settle_doc    },
    {"_help",             async_help,                              METH_NOARGS,                   help_doc      },
    {"_then",             async_then,                              METH_O,                        then_doc      },
    {"__class_getitem__", Py_GenericAlias,                         METH_O | METH_CLASS,           NULL          },
    {NULL,                NULL,                                    0,                             NULL          },
};

static PyObject *
async_future(PyObject *op, void *Py_UNUSED(closure))
{
    pd_async *self = (pd_async *)op;
    PyObject *future;
    Py_BEGIN_CRITICAL_SECTION(self);
    future = self->extras != NULL ? self->extras->future : NULL;
    future = Py_NewRef(future != NULL ? future : Py_None);
    Py_END_CRITICAL_SECTION();
    return future;
}

static PyObject *
async_has_future(PyObject *op, void *Py_UNUSED(closure))
{
    pd_async *self = (pd_async *)op;
    return PyBool_FromLong(self->extras != NULL && self->extras->future != NULL);
}

static PyObject *
async_is_plain(PyObject *op, void *Py_UNUSED(closure))
{
    const pd_extras *e = ((pd_async *)op)->extras;
    return PyBool_FromLong(e == NULL ||
                           (e->callback == NULL && e->error_callback == NULL &&
                            e->future == NULL && e->timeout == NULL));
}

static PyGetSetDef async_getset[] = {
    {"_plain",      async_is_plain,   NULL, "Whether nothing but get() waits.",    NULL},
    {"_timeout",    async_timeout,    NULL, "Time limit in seconds, or None.",     NULL},
    {"_canceller",  async_canceller,  NULL, "What cancel() calls, or None.",       NULL},
    {"_has_future", async_has_future, NULL, "Whether a Future mirrors it.",        NULL},
    {"_future",     async_future,     NULL, "The Future that mirrors it, if any.", NULL},
    {NULL,          NULL,             NULL, NULL,                                  NULL},
};

static PyMemberDef async_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(pd_work, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    async_doc,
    "AsyncResult(function, args=(), kwargs=None, callback=None, error_callback=None, "
    "lane=None, future=None, timeout=None, /)\n--\n\n"
    "The result of a task that a pool runs: multiprocessing's AsyncResult.\n"
    "\n"
    "Pools make them.  It can be awaited in asyncio.\n"
    "\n"
    "Parameters\n"
    "----------\n"
    "function : callable\n"
    "    What the task calls.\n"
    "args : sequence, optional\n"
    "    Its positional arguments.\n"
    "kwargs : mapping, optional\n"
    "    Its keyword arguments.\n"
    "callback, error_callback : callable, optional\n"
    "    Called with the result or the exception, before `get` returns.\n"
    "lane : CallbackLane, optional\n"
    "    Callbacks of one lane run one at a time.\n"
    "future : concurrent.futures.Future, optional\n"
    "    Gets the outcome too.\n"
    "timeout : float, optional\n"
    "    Seconds that the task may run.\n");

static PyType_Slot async_slots[] = {
    {Py_tp_doc,      (void *)async_doc},
    {Py_tp_new,      async_new        },
    {Py_tp_traverse, pd_async_traverse},
    {Py_tp_clear,    pd_async_clear   },
    {Py_tp_dealloc,  async_dealloc    },
    {Py_tp_repr,     async_repr       },
    {Py_tp_methods,  async_methods    },
    {Py_tp_getset,   async_getset     },
    {Py_tp_members,  async_members    },
    {Py_am_await,    async_await      },
    {0,              NULL             },
};

static PyType_Spec async_spec = {
    .name = "pydistrib._core.AsyncResult",
    .basicsize = sizeof(pd_async),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_BASETYPE,
    .slots = async_slots,
};

bool
pd_is_async(PyObject *module, PyObject *object)
{
    pd_module_state *state = PyModule_GetState(module);
    return PyObject_TypeCheck(object, state->async_type);
}

static PyMethodDef hooks_methods[] = {
    {"_set_pool_hooks", set_hooks, METH_VARARGS, set_hooks_doc},
    {NULL,              NULL,      0,            NULL         },
};

int
pd_add_async_types(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    // Until the pools' module sets its own.
    state->timeout_error = Py_NewRef(PyExc_TimeoutError);
    state->cancelled_error = Py_NewRef(PyExc_RuntimeError);
    state->async_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &async_spec, NULL);
    if (state->async_type == NULL) {
        return -1;
    }
    state->async_type->tp_vectorcall = async_vectorcall;
    return PyModule_AddType(module, state->async_type) < 0 ||
                   pd_add_map_type(module) < 0 || pd_add_lane_type(module) < 0 ||
                   PyModule_AddFunctions(module, hooks_methods) < 0
               ? -1
               : 0;
}
