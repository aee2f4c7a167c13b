// _core.AsyncResult and _core.MapResult: a call, or a loop of calls, and its outcome.
//
//      NEW --begin()--> BEGUN --settle()--> SETTLED --callbacks--> latch set
//        \____________________________________^
//          cancel(), terminate(), a time limit
//
// Whoever moves the state to SETTLED owns the outcome and writes it once; a result that
// comes later (a task that ended after its time limit) is dropped.  The latch is set
// last, after the callbacks, so that get() returns when they have run, as it does for
// the standard library's results.
//
// Callbacks of one pool run one at a time: a CallbackLane is a queue that whoever finds
// it idle serves until it is empty.  A callback that itself settles a result of the same
// lane (it made a nested call) runs that result's callback at once.
//
// A MapResult hands out its items by an atomic cursor, `chunk` at a time, and writes the
// results into a list that nobody else sees before the end; so an item costs no object
// but its result.
//
// Without Python's lock: `state` and the counters are atomic; all else is guarded by the
// object's critical section, or belongs to the settler until the latch is set.
#include "py/tasks.h"

#include <structmember.h>

enum { NEW, BEGUN, SETTLED };

typedef struct lane {
    PyObject_HEAD
    // All guarded by the lane's critical section.
    unsigned long owner;  // the thread that serves the lane, or 0
    struct async *first;  // waiting, linked by task.next; each owned
    struct async *last;
} lane;

// What few results have.
typedef struct extras {
    PyObject *callback;  // owned or NULL, as all
    PyObject *error_callback;
    PyObject *lane;
    PyObject *future;   // concurrent.futures.Future that mirrors the result
    PyObject *then;     // list of functions to call at the end
    PyObject *timeout;  // seconds
} extras;

typedef struct async {
    pd_work work;
    PyObject *function;  // owned until begun or settled, as args and kwargs
    PyObject *args;      // a tuple
    PyObject *kwargs;    // a dict or NULL
    PyObject *value;     // owned: the result or the exception; written by the settler
    extras *extras;      // owned or NULL
    pd_latch done;
    _Atomic uint8_t state;
    bool failed;  // written by the settler
} async;

typedef struct map {
    async base;                 // its args are the items: a tuple or an array, or NULL
    PyObject *results;          // owned: a list, or the array `out`
    PyObject *first_error;      // owned; guarded by the critical section
    Py_ssize_t count;           // immutable
    Py_ssize_t chunk;           // immutable
    bool star;                  // immutable
    bool has_out;               // immutable
    _Atomic Py_ssize_t cursor;  // the next item to be handed out
    _Atomic Py_ssize_t inside;  // threads that have handed-out items
    _Atomic Py_ssize_t left;    // items that are not done
} map;

// ------------------------------------------------------------------------------
// Small things
// ------------------------------------------------------------------------------

PyObject *
pd_take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_XDECREF(type);
    return value;
#endif
}

void
pd_raise_object(PyObject *exception)
{
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
}

PyObject *
pd_call(PyObject *function, PyObject *args, PyObject *kwargs)
{
    if (kwargs == NULL) {
        return PyObject_Vectorcall(function, &PyTuple_GET_ITEM(args, 0),
                                   (size_t)PyTuple_GET_SIZE(args), NULL);
    }
    return PyObject_Call(function, args, kwargs);
}

PyObject *
pd_call_item(PyObject *function, PyObject *item, bool star)
{
    if (!star) {
        // The slot before the argument is ours to lend to bound methods.
        PyObject *args[2] = {NULL, item};
        return PyObject_Vectorcall(function, args + 1,
                                   1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    PyObject *args = PySequence_Tuple(item);
    if (args == NULL) {
        return NULL;
    }
    PyObject *result = pd_call(function, args, NULL);
    Py_DECREF(args);
    return result;
}

int
pd_parse_timeout(PyObject *object, int64_t *timeout_ns)
{
    if (object == NULL || object == Py_None) {
        *timeout_ns = PD_FOREVER;
        return 0;
    }
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError,
                         "timeout must be a number of seconds or None, not %.200s",
                         Py_TYPE(object)->tp_name);
        }
        return -1;
    }
    if (seconds != seconds) {
        PyErr_SetString(PyExc_ValueError, "timeout must not be NaN");
        return -1;
    }
    *timeout_ns = seconds <= 0    ? 0
                  : seconds > 9e9 ? PD_FOREVER
                                  : (int64_t)(seconds * 1e9);
    return 0;
}

void
pd_report(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *error = pd_take_exception();
    PyObject *none =
        state->report == NULL ? NULL : PyObject_CallOneArg(state->report, error);
    if (none == NULL) {
        PyErr_Clear();  // the hook that tells of errors has one itself
    }
    Py_XDECREF(none);
    Py_DECREF(error);
}

static PyObject *
module_of(PyObject *self)
{
    return PyType_GetModule(Py_TYPE(self));
}

// ------------------------------------------------------------------------------
// Settling
// ------------------------------------------------------------------------------

// Takes the call away from the result: whoever gets it may run it.
static void
take_call(async *self, PyObject **function, PyObject **args, PyObject **kwargs)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    *function = self->function;
    *args = self->args;
    *kwargs = self->kwargs;
    self->function = self->args = self->kwargs = NULL;
    Py_END_CRITICAL_SECTION();
}

static void
drop_call(async *self)
{
    PyObject *function, *args, *kwargs;
    take_call(self, &function, &args, &kwargs);
    Py_XDECREF(function);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
}

static bool
claim(async *self, uint8_t from, uint8_t to)
{
    return atomic_compare_exchange_strong(&self->state, &from, to);
}

static bool
claim_outcome(async *self)
{
    return claim(self, BEGUN, SETTLED) || claim(self, NEW, SETTLED);
}

// Calls what stands in the list; what it raises is reported, not lost.
static void
call_listeners(async *self, PyObject *listeners)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(listeners); i++) {
        PyObject *listener = PySequence_ITEM(listeners, i);
        PyObject *none = PyObject_CallNoArgs(listener);
        if (none == NULL) {
            pd_report(module_of((PyObject *)self));
        }
        Py_XDECREF(none);
        Py_DECREF(listener);
    }
}

static void
mirror_to_future(async *self)
{
    PyObject *name =
        PyUnicode_FromString(self->failed ? "set_exception" : "set_result");
    // Not by a format string: that would take a tuple apart.
    PyObject *none = name == NULL ? NULL
                                  : PyObject_CallMethodOneArg(self->extras->future,
                                                              name, self->value);
    Py_XDECREF(name);
    if (none == NULL) {
        pd_report(module_of((PyObject *)self));
    }
    Py_XDECREF(none);
    Py_CLEAR(self->extras->future);  // which refers to this result
}

// The last step: sets the latch and tells everybody.
static void
finish(async *self)
{
    PyObject *listeners = NULL;
    pd_queue *queue;

    Py_BEGIN_CRITICAL_SECTION(self);
    queue = self->work.queue;
    self->work.queue = NULL;
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
    Py_XDECREF(queue);
}

static void
call_callback(async *self)
{
    PyObject *callback =
        self->failed ? self->extras->error_callback : self->extras->callback;
    PyObject *none = PyObject_CallOneArg(callback, self->value);
    if (none == NULL) {
        pd_report(module_of((PyObject *)self));
    }
    Py_XDECREF(none);
    Py_CLEAR(self->extras->callback);
    Py_CLEAR(self->extras->error_callback);
    finish(self);
}

// Joins the lane; true if this thread has to serve it, false if another one does.
static bool
join_lane(lane *l, async *self, bool *nested)
{
    bool serve = false;
    unsigned long me = PyThread_get_thread_ident();
    *nested = false;

    Py_BEGIN_CRITICAL_SECTION(l);
    if (l->owner == 0) {
        l->owner = me;
        serve = true;
    }
    else if (l->owner == me) {
        *nested = true;
    }
    else {
        // No longer queued, so the link is free.
        self->work.task.next = NULL;
        if (l->last != NULL) {
            l->last->work.task.next = &self->work.task;
        }
        else {
            l->first = self;
        }
        l->last = (async *)Py_NewRef((PyObject *)self);
    }
    Py_END_CRITICAL_SECTION();
    return serve;
}

static async *
next_in_lane(lane *l)
{
    async *first;

    Py_BEGIN_CRITICAL_SECTION(l);
    first = l->first;
    if (first == NULL) {
        l->owner = 0;
    }
    else {
        pd_task *next = first->work.task.next;
        first->work.task.next = NULL;
        l->first =
            next == NULL ? NULL : (async *)((char *)next - offsetof(pd_work, task));
        if (l->first == NULL) {
            l->last = NULL;
        }
    }
    Py_END_CRITICAL_SECTION();
    return first;
}

static void
run_in_lane(async *self)
{
    bool nested;
    lane *l = (lane *)Py_NewRef(self->extras->lane);
    if (join_lane(l, self, &nested)) {
        call_callback(self);
        async *next;
        while ((next = next_in_lane(l)) != NULL) {
            call_callback(next);
            Py_DECREF(next);
        }
    }
    else if (nested) {
        call_callback(self);
    }
    Py_DECREF(l);
}

// Writes the outcome that this thread has claimed; steals `value`.  The caller holds a
// reference to `self`.
static void
settle(async *self, bool failed, PyObject *value, bool quiet)
{
    drop_call(self);
    self->failed = failed;
    self->value = value;
    PyObject *callback = NULL;
    if (self->extras != NULL && !quiet) {
        callback = failed ? self->extras->error_callback : self->extras->callback;
    }
    if (callback != NULL) {
        run_in_lane(self);
    }
    else {
        finish(self);
    }
}

// Settles with what a call returned, or with the present exception if that is NULL.
static void
settle_call(async *self, PyObject *result)
{
    bool failed = result == NULL;
    PyObject *value = failed ? pd_take_exception() : result;
    if (claim_outcome(self)) {
        settle(self, failed, value, false);
    }
    else {
        Py_DECREF(value);
    }
}

// For a call that will not run: cancels its Future, or finds that its user has done so.
static void
end_future(async *self, bool cancel)
{
    PyObject *future = self->extras->future;
    PyObject *done = PyObject_CallMethod(future, cancel ? "cancel" : "cancelled", NULL);
    if (done == Py_True) {
        Py_SETREF(done,
                  PyObject_CallMethod(future, "set_running_or_notify_cancel", NULL));
        Py_CLEAR(self->extras->future);
    }
    if (done == NULL) {
        pd_report(module_of((PyObject *)self));
    }
    Py_XDECREF(done);
}

void
pd_async_fail(pd_work *work, PyObject *exception)
{
    async *self = (async *)work;
    if (!claim_outcome(self)) {
        return;
    }
    if (self->extras != NULL && self->extras->future != NULL) {
        pd_module_state *state = PyModule_GetState(module_of((PyObject *)self));
        end_future(self,
                   PyErr_GivenExceptionMatches(exception, state->cancelled_error));
    }
    settle(self, true, Py_NewRef(exception), true);
}

bool
pd_async_expire(pd_work *work, PyObject *exception)
{
    async *self = (async *)work;
    if (!claim_outcome(self)) {
        return false;
    }
    settle(self, true, Py_NewRef(exception), false);
    return true;
}

// ------------------------------------------------------------------------------
// Running a call
// ------------------------------------------------------------------------------

// Tells a Future that its call begins: false if it was cancelled, or can't begin.
static bool
begin_future(async *self)
{
    PyObject *begun =
        PyObject_CallMethod(self->extras->future, "set_running_or_notify_cancel", NULL);
    if (begun == NULL || begun == Py_False) {
        Py_CLEAR(self->extras->future);
        PyObject *why = begun == NULL ? pd_take_exception()
                                      : pd_cancelled(module_of((PyObject *)self),
                                                     "the future was cancelled");
        Py_XDECREF(begun);
        if (claim_outcome(self)) {
            settle(self, true, why, true);
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
begin_watch(async *self)
{
    PyObject *none = PyObject_CallFunctionObjArgs(
        self->work.queue->watch, (PyObject *)self, self->extras->timeout, NULL);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

void
pd_async_run(pd_worker *worker, pd_work *work)
{
    async *self = (async *)work;
    if (!claim(self, NEW, BEGUN)) {
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
// Running a loop
// ------------------------------------------------------------------------------

// Steals `error`.
static void
keep_first_error(map *self, PyObject *error)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->first_error == NULL) {
        self->first_error = error;
        error = NULL;
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(error);
}

// Takes `done` items off the count; the last one settles the result.
static void
count_done(map *self, Py_ssize_t done)
{
    if (done == 0 || atomic_fetch_sub(&self->left, done) != done ||
        !claim_outcome(&self->base))
    {
        return;
    }
    PyObject *results = self->results;
    self->results = NULL;
    if (self->first_error != NULL) {
        PyObject *error = self->first_error;
        self->first_error = NULL;
        Py_XDECREF(results);
        settle(&self->base, true, error, false);
    }
    else {
        settle(&self->base, false, results, false);
    }
}

// Stores a result; steals it.
static int
store(map *self, Py_ssize_t i, PyObject *result)
{
    if (!self->has_out) {
        PyList_SET_ITEM(self->results, i, result);
        return 0;
    }
    int status = PySequence_SetItem(self->results, i, result);
    Py_DECREF(result);
    return status;
}

static int
run_item(map *self, PyObject *function, PyObject *items, Py_ssize_t i)
{
    PyObject *result;
    if (PyTuple_CheckExact(items)) {
        result = pd_call_item(function, PyTuple_GET_ITEM(items, i), self->star);
    }
    else {
        PyObject *item = PySequence_GetItem(items, i);
        if (item == NULL) {
            return -1;
        }
        result = pd_call_item(function, item, self->star);
        Py_DECREF(item);
    }
    return result == NULL ? -1 : store(self, i, result);
}

// Hands out items to this thread until there are none; returns how many.
static Py_ssize_t
run_items(pd_worker *worker, map *self, PyObject *function, PyObject *items)
{
    Py_ssize_t done = 0;
    for (;;) {
        Py_ssize_t start = atomic_fetch_add(&self->cursor, self->chunk);
        if (start >= self->count) {
            break;
        }
        Py_ssize_t end = Py_MIN(start + self->chunk, self->count);
        for (Py_ssize_t i = start; i < end; i++) {
            if (atomic_load_explicit(&self->base.state, memory_order_relaxed) ==
                SETTLED)
            {
                return done;  // cancelled: nobody wants the rest
            }
            // As in the standard library, an error ends its chunk, not the others.
            if (run_item(self, function, items, i) < 0) {
                keep_first_error(self, pd_take_exception());
                break;
            }
            pd_breathe(worker);
        }
        done += end - start;
    }
    return done;
}

// Puts the loop back for another thread, if there is more than this one will take now.
static void
offer_rest(map *self, pd_queue *queue)
{
    if (atomic_load(&self->cursor) + self->chunk >= self->count) {
        return;
    }
    Py_INCREF(self);  // the queue's
    if (pd_tasks_push(queue->tasks, &self->base.work.task, PD_TASKS_FRONT) == PD_OK) {
        return;
    }
    Py_DECREF(self);
    PyObject *error =
        pd_cancelled(module_of((PyObject *)self), "the pool was terminated");
    if (error != NULL) {
        pd_async_fail(&self->base.work, error);
        Py_DECREF(error);
    }
    PyErr_Clear();
}

// Works on the loop: `taken` if this thread took it off the queue, and so may put it
// back for another.
static void
share(pd_worker *worker, map *self, bool taken)
{
    pd_work *work = &self->base.work;
    PyObject *function, *items;
    pd_queue *queue;

    Py_BEGIN_CRITICAL_SECTION(self);
    function = Py_XNewRef(self->base.function);
    items = Py_XNewRef(self->base.args);
    queue = (pd_queue *)Py_XNewRef((PyObject *)work->queue);
    Py_END_CRITICAL_SECTION();
    (void)claim(&self->base, NEW, BEGUN);
    if (function != NULL && queue != NULL) {
        pd_frame frame;
        atomic_fetch_add(&self->inside, 1);
        pd_enter(worker, &frame, work);
        if (taken) {
            offer_rest(self, queue);
        }
        Py_ssize_t done = run_items(worker, self, function, items);
        pd_leave(worker, &frame);
        atomic_fetch_sub(&self->inside, 1);
        atomic_fetch_add_explicit(&worker->tasks, done, memory_order_relaxed);
        // All handed out: nobody needs to come for it any more.
        if (pd_tasks_take(queue->tasks, &work->task)) {
            Py_DECREF(self);
        }
        count_done(self, done);
    }
    Py_XDECREF(function);
    Py_XDECREF(items);
    Py_XDECREF(queue);
}

void
pd_map_run(pd_worker *worker, pd_work *work)
{
    share(worker, (map *)work, true);
}

// ------------------------------------------------------------------------------
// Waiting
// ------------------------------------------------------------------------------

// A thread of the same queue runs what it waits for itself: so nested calls can't
// deadlock.  It runs nothing else meanwhile, which could want what this thread holds.
static void
help(async *self)
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
        if (pd_is_map(module_of((PyObject *)self), (PyObject *)self)) {
            share(worker, (map *)self, false);
        }
        else if (pd_tasks_take(queue->tasks, &self->work.task)) {
            pd_async_run(worker, &self->work);
            Py_DECREF(self);  // the queue's
        }
    }
    Py_XDECREF(queue);
}

// 1 if it is settled, 0 after the time limit, -1 with an exception.
static int
wait_until_done(async *self, int64_t timeout_ns)
{
    if (pd_latch_is_set(&self->done)) {
        return 1;
    }
    pd_queue *queue;
    if (timeout_ns == PD_FOREVER) {
        help(self);
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    queue = (pd_queue *)Py_XNewRef((PyObject *)self->work.queue);
    Py_END_CRITICAL_SECTION();
    int done = pd_wait(&self->done, queue, timeout_ns);
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
    async *self = (async *)op;
    int64_t timeout_ns;
    if (timeout_argument("get", args, nargs, kwnames, &timeout_ns) < 0) {
        return NULL;
    }
    int done = wait_until_done(self, timeout_ns);
    if (done < 0) {
        return NULL;
    }
    if (done == 0) {
        pd_module_state *state = PyModule_GetState(module_of(op));
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
        wait_until_done((async *)op, timeout_ns) < 0)
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
    return PyBool_FromLong(pd_latch_is_set(&((async *)op)->done));
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
    async *self = (async *)op;
    if (!pd_latch_is_set(&self->done)) {
        return PyErr_Format(PyExc_ValueError, "%R not ready", op);
    }
    return PyBool_FromLong(!self->failed);
}

PyDoc_STRVAR(cancel_doc,
             "cancel($self, /)\n--\n\n"
             "Take back a task that has not begun.\n"
             "\n"
             "Its `get` then raises `concurrent.futures.CancelledError`.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "bool\n"
             "    True if the task will not run, False if it has begun or ended.\n");

static PyObject *
async_cancel(PyObject *op, PyObject *Py_UNUSED(unused))
{
    async *self = (async *)op;
    pd_queue *queue;
    PyObject *error = pd_cancelled(module_of(op), "the task was cancelled");
    if (error == NULL) {
        return NULL;
    }
    if (!claim(self, NEW, SETTLED)) {
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
    settle(self, true, error, true);
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
    async *self = (async *)op;
    if (!claim(self, NEW, BEGUN) ||
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
    if (!claim_outcome((async *)op)) {
        Py_RETURN_FALSE;
    }
    settle((async *)op, !success, Py_NewRef(value), false);
    Py_RETURN_TRUE;
}

static extras *
make_extras(async *self)
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
    help((async *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    then_doc,
    "_then($self, function, /)\n--\n\n"
    "Call function() once the result is there, in whichever thread brings it.");

static PyObject *
async_then(PyObject *op, PyObject *function)
{
    async *self = (async *)op;
    bool now;
    int status = 0;

    Py_BEGIN_CRITICAL_SECTION(self);
    now = pd_latch_is_set(&self->done);
    if (!now) {
        extras *e = make_extras(self);
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
    pd_module_state *state = PyModule_GetState(module_of(op));
    if (state->awaiter == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "pydistrib.pools.protocol is not imported");
        return NULL;
    }
    return PyObject_CallOneArg(state->awaiter, op);
}

PyDoc_STRVAR(
    set_hooks_doc,
    "_set_pool_hooks($module, timeout_error, cancelled_error, awaiter, anext, "
    "/)\n--\n\n"
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
static int
set_extras(async *self,
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
    pd_module_state *state = PyModule_GetState(module_of((PyObject *)self));
    if ((callback != NULL || error_callback != NULL) &&
        (given(callback_lane) == NULL || !Py_IS_TYPE(callback_lane, state->lane_type)))
    {
        PyErr_SetString(PyExc_TypeError, "callbacks need a CallbackLane");
        return -1;
    }
    extras *e = make_extras(self);
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

static async *
alloc_async(PyTypeObject *type, PyObject *function)
{
    if (check_callable(function, "func") < 0) {
        return NULL;
    }
    async *self = (async *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->function = Py_NewRef(function);
    }
    return self;
}

// The arguments as a tuple, and a dict or NULL.
static int
set_arguments(async *self, PyObject *args, PyObject *kwargs)
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
    async *self = alloc_async((PyTypeObject *)type, full[0]);
    if (self == NULL) {
        return NULL;
    }
    if (set_arguments(self, full[1], full[2]) < 0 ||
        (nargs > 3 &&
         set_extras(self, full[3], full[4], full[5], full[6], full[7]) < 0))
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

static int
async_traverse(PyObject *op, visitproc visit, void *arg)
{
    async *self = (async *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->work.queue);
    Py_VISIT(self->function);
    Py_VISIT(self->args);
    Py_VISIT(self->kwargs);
    Py_VISIT(self->value);
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

static int
async_clear(PyObject *op)
{
    async *self = (async *)op;
    Py_CLEAR(self->work.queue);
    Py_CLEAR(self->function);
    Py_CLEAR(self->args);
    Py_CLEAR(self->kwargs);
    Py_CLEAR(self->value);
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

static void
async_free(PyObject *op)
{
    async *self = (async *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->work.weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)async_clear(op);
    PyMem_Free(self->extras);
    type->tp_free(op);
    Py_DECREF(type);  // a heap type is referenced by its instances
}

static void
async_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    async_free(op);
}

static PyObject *
async_repr(PyObject *op)
{
    async *self = (async *)op;
    const char *state = !pd_latch_is_set(&self->done)
                            ? (atomic_load(&self->state) == NEW ? "waiting" : "running")
                        : self->failed ? "failed"
                                       : "done";
    return PyUnicode_FromFormat("<%s %s at %p>", Py_TYPE(op)->tp_name, state, op);
}

static PyObject *
async_timeout(PyObject *op, void *Py_UNUSED(closure))
{
    async *self = (async *)op;
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
    {"_settle",           async_settle,                            METH_VARARGS,                  settle_doc    },
    {"_help",             async_help,                              METH_NOARGS,                   help_doc      },
    {"_then",             async_then,                              METH_O,                        then_doc      },
    {"__class_getitem__", Py_GenericAlias,                         METH_O | METH_CLASS,           NULL          },
    {NULL,                NULL,                                    0,                             NULL          },
};

static PyGetSetDef async_getset[] = {
    {"_timeout", async_timeout, NULL, "Time limit in seconds, or None.", NULL},
    {NULL,       NULL,          NULL, NULL,                              NULL},
};

static PyMemberDef async_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(pd_work, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(async_doc,
             "AsyncResult(function, args, kwargs, callback, error_callback, lane, "
             "future, timeout, /)\n--\n\n"
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
    {Py_tp_traverse, async_traverse   },
    {Py_tp_clear,    async_clear      },
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
    .basicsize = sizeof(async),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_BASETYPE,
    .slots = async_slots,
};

// ------------------------------------------------------------------------------
// MapResult
// ------------------------------------------------------------------------------

static int
set_items(map *self, PyObject *items, PyObject *out)
{
    if (PyLong_Check(items)) {
        self->count = PyLong_AsSsize_t(items);  // of an engine that feeds it
    }
    else if (PyTuple_CheckExact(items) || PyArray_Check(items)) {
        self->count = PySequence_Size(items);
        self->base.args = Py_NewRef(items);
    }
    else {
        PyErr_SetString(PyExc_TypeError, "items must be a tuple, an array or a count");
        return -1;
    }
    if (self->count < 0) {
        return -1;
    }
    self->has_out = given(out) != NULL;
    self->results = self->has_out ? Py_NewRef(out) : PyList_New(self->count);
    return self->results == NULL ? -1 : 0;
}

// MapResult(function, items, chunk, star, out, callback, error_callback, lane)
static PyObject *
map_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *function, *items;
    PyObject *out = NULL, *callback = NULL, *error_callback = NULL;
    PyObject *callback_lane = NULL;
    Py_ssize_t chunk;
    int star;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "MapResult() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOnp|OOOO:MapResult", &function, &items, &chunk, &star,
                          &out, &callback, &error_callback, &callback_lane))
    {
        return NULL;
    }
    if (chunk < 1) {
        PyErr_Format(PyExc_ValueError, "chunk must be at least 1, not %zd", chunk);
        return NULL;
    }
    map *self = (map *)alloc_async(type, function);
    if (self == NULL) {
        return NULL;
    }
    self->star = star;
    if (set_items(self, items, out) < 0 ||
        set_extras(&self->base, callback, error_callback, callback_lane, NULL, NULL) <
            0)
    {
        Py_DECREF(self);
        return NULL;
    }
    // No larger than the items, so that the cursor can't overflow.
    self->chunk = Py_MIN(chunk, Py_MAX(self->count, 1));
    atomic_store(&self->left, self->count);
    return (PyObject *)self;
}

static int
map_traverse(PyObject *op, visitproc visit, void *arg)
{
    map *self = (map *)op;
    Py_VISIT(self->results);
    Py_VISIT(self->first_error);
    return async_traverse(op, visit, arg);
}

static int
map_clear(PyObject *op)
{
    map *self = (map *)op;
    Py_CLEAR(self->results);
    Py_CLEAR(self->first_error);
    return async_clear(op);
}

static void
map_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    (void)map_clear(op);
    async_free(op);
}

PyDoc_STRVAR(
    part_doc,
    "_part($self, start, count, success, values, /)\n--\n\n"
    "Give the results of the items from `start` on, or what one of them raised.");

static PyObject *
map_part(PyObject *op, PyObject *args)
{
    map *self = (map *)op;
    Py_ssize_t start, count;
    int success;
    PyObject *values;
    if (!PyArg_ParseTuple(args, "nnpO:_part", &start, &count, &success, &values)) {
        return NULL;
    }
    if (start < 0 || count < 1 || start > self->count - count ||
        (success && (!PyList_Check(values) || PyList_GET_SIZE(values) != count)))
    {
        PyErr_SetString(PyExc_ValueError, "no such part, or not a list of its length");
        return NULL;
    }
    if (!success) {
        keep_first_error(self, Py_NewRef(values));
    }
    // Settled from outside (terminated): the list is the waiters'.
    for (Py_ssize_t i = 0; success && i < count && self->results != NULL; i++) {
        if (store(self, start + i, PySequence_ITEM(values, i)) < 0) {
            keep_first_error(self, pd_take_exception());
            break;
        }
    }
    count_done(self, count);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(completed_doc, "How many of the items have been done.");

static PyObject *
map_completed(PyObject *op, void *Py_UNUSED(closure))
{
    map *self = (map *)op;
    Py_ssize_t handed = Py_MIN(atomic_load(&self->cursor), self->count);
    Py_ssize_t working = atomic_load(&self->inside) * self->chunk;
    Py_ssize_t done = self->count - atomic_load(&self->left);
    return PyLong_FromSsize_t(Py_MAX(done, handed - working));
}

static PyMethodDef map_methods[] = {
    {"_part", map_part, METH_VARARGS, part_doc},
    {NULL,    NULL,     0,            NULL    },
};

static PyGetSetDef map_getset[] = {
    {"completed", map_completed, NULL, completed_doc, NULL},
    {NULL,        NULL,          NULL, NULL,          NULL},
};

static PyMemberDef map_members[] = {
    {"total", T_PYSSIZET, offsetof(map, count), READONLY, "How many items."},
    {"_star", T_BOOL, offsetof(map, star), READONLY, NULL},
    {"_chunk", T_PYSSIZET, offsetof(map, chunk), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(pd_work, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(map_doc,
             "MapResult(function, items, chunk, star, out, callback, error_callback, "
             "lane, /)\n--\n\n"
             "The result of `map_async`: a list in the order of the items.\n"
             "\n"
             "Parameters\n"
             "----------\n"
             "function : callable\n"
             "    Called for each item.\n"
             "items : tuple or ndarray\n"
             "    The items.\n"
             "chunk : int\n"
             "    How many of them a worker takes at a time.\n"
             "star : bool\n"
             "    Whether an item holds several arguments.\n"
             "out : ndarray, optional\n"
             "    Gets the results instead of a list.\n"
             "callback, error_callback : callable, optional\n"
             "    Called with the list or the first exception, before `get` returns.\n"
             "lane : CallbackLane, optional\n"
             "    Callbacks of one lane run one at a time.\n");

static PyType_Slot map_slots[] = {
    {Py_tp_doc,      (void *)map_doc},
    {Py_tp_new,      map_new        },
    {Py_tp_traverse, map_traverse   },
    {Py_tp_clear,    map_clear      },
    {Py_tp_dealloc,  map_dealloc    },
    {Py_tp_methods,  map_methods    },
    {Py_tp_getset,   map_getset     },
    {Py_tp_members,  map_members    },
    {0,              NULL           },
};

static PyType_Spec map_spec = {
    .name = "pydistrib._core.MapResult",
    .basicsize = sizeof(map),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = map_slots,
};

// ------------------------------------------------------------------------------
// CallbackLane
// ------------------------------------------------------------------------------

static int
lane_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
lane_dealloc(PyObject *op)
{
    // Empty: a thread that serves it, and whoever waits in it, hold references.
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot lane_slots[] = {
    {Py_tp_doc,      "Callbacks that run one at a time."},
    {Py_tp_new,      PyType_GenericNew                  },
    {Py_tp_traverse, lane_traverse                      },
    {Py_tp_dealloc,  lane_dealloc                       },
    {0,              NULL                               },
};

static PyType_Spec lane_spec = {
    .name = "pydistrib._core.CallbackLane",
    .basicsize = sizeof(lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lane_slots,
};

bool
pd_is_async(PyObject *module, PyObject *object)
{
    pd_module_state *state = PyModule_GetState(module);
    return PyObject_TypeCheck(object, state->async_type);
}

bool
pd_is_map(PyObject *module, PyObject *object)
{
    pd_module_state *state = PyModule_GetState(module);
    return Py_IS_TYPE(object, state->map_type);
}

PyObject *
pd_cancelled(PyObject *module, const char *why)
{
    pd_module_state *state = PyModule_GetState(module);
    return PyObject_CallFunction(state->cancelled_error, "s", why);
}

static PyMethodDef hooks_methods[] = {
    {"_set_pool_hooks", set_hooks, METH_VARARGS, set_hooks_doc},
    {NULL,              NULL,      0,            NULL         },
};

int
pd_add_async_types(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->async_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &async_spec, NULL);
    if (state->async_type == NULL) {
        return -1;
    }
    state->async_type->tp_vectorcall = async_vectorcall;
    // Until the pools' module sets its own.
    state->timeout_error = Py_NewRef(PyExc_TimeoutError);
    state->cancelled_error = Py_NewRef(PyExc_RuntimeError);
    state->map_type = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &map_spec, (PyObject *)state->async_type);
    state->lane_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    if (state->map_type == NULL || state->lane_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->async_type) < 0 ||
                   PyModule_AddType(module, state->map_type) < 0 ||
                   PyModule_AddType(module, state->lane_type) < 0 ||
                   PyModule_AddFunctions(module, hooks_methods) < 0
               ? -1
               : 0;
}
