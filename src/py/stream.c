// _core.ResultIterator: what imap() and imap_unordered() return.
//
//      queue --take--> pull a unit off the input --push again--> run it --> deliver
//        ^                                            |
//        |                                            v  as many units out as allowed
//        +------ the consumer takes a unit <------ stalled
//
// The stream is off the queue while its input is advanced, so the input is used by one
// thread at a time, and nobody waits for it under a lock.  A unit is one item, or with
// `chunk` > 1 a list of items whose results travel together.
//
// Units that are out (pulled and not yet taken by the consumer) lie in a ring: in the
// order of the input, or, for an unordered stream, in the order of arrival.  `limit`
// bounds how many may be out; at the bound the stream stays off the queue until the
// consumer takes one and pushes it again.  So an endless input needs constant memory.
//
// When the pool is closed and its threads have gone, the consumer of a stalled stream
// finds nobody to push it to, and goes on by itself, in its own thread.
//
// Invariants (under the critical section of the stream)
//   I1  taken <= arrived <= pulled;  length < 0 until the input has ended.
//   I2  From start() on exactly one of these holds: it is queued, a thread that took it
//       off pulls, it is stalled, its length is known.
#include "py/tasks.h"

#include <structmember.h>

typedef struct slot {
    PyObject *value;  // owned; NULL: not there yet
    bool failed;
} slot;

typedef struct stream {
    pd_work work;
    PyObject *function;  // owned; immutable until the end
    PyObject *input;     // owned: the iterator; used by the thread that pulls
    Py_ssize_t chunk;    // immutable
    Py_ssize_t limit;    // units that may be out, or 0; immutable
    bool star;           // immutable
    bool ordered;        // immutable

    // All below guarded by the critical section.
    slot *ring;  // owned; of `mask + 1` slots
    Py_ssize_t mask;
    Py_ssize_t pulled;   // units taken off the input
    Py_ssize_t arrived;  // units whose results are there
    Py_ssize_t taken;    // units given to the consumer
    Py_ssize_t length;   // units in all, once that is known
    PyObject *unit;      // owned: results of a chunk that is being consumed
    Py_ssize_t unit_next;
    PyObject *listener;  // owned: called when the next unit arrives or the end comes
    PyObject *on_taken;  // owned: told when the consumer took a unit
    PyObject *stopped;   // owned: raised at the end instead of StopIteration
    bool stalled;
    bool lost;    // what is out will never arrive: the process forked
    bool alone;   // no thread will come: the consumer pulls
    bool closed;  // the consumer wants no more
    bool holds;   // the queue is held: see pd_tasks_hold()
    pd_latch news;
} stream;

// ------------------------------------------------------------------------------
// The ring; under the critical section
// ------------------------------------------------------------------------------

// Makes room for unit `index`.
static int
reserve(stream *self, Py_ssize_t index)
{
    Py_ssize_t size = self->mask + 1;
    if (index - self->taken < size) {
        return 0;
    }
    Py_ssize_t new_size = size;
    while (index - self->taken >= new_size) {
        if (new_size > PY_SSIZE_T_MAX / 2) {
            PyErr_NoMemory();
            return -1;
        }
        new_size *= 2;
    }
    slot *ring = PyMem_Calloc((size_t)new_size, sizeof(*ring));
    if (ring == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = self->taken; i < self->taken + size; i++) {
        ring[i & (new_size - 1)] = self->ring[i & self->mask];
    }
    PyMem_Free(self->ring);
    self->ring = ring;
    self->mask = new_size - 1;
    return 0;
}

static bool
is_over(const stream *self)
{
    return self->closed || self->lost ||
           (self->length >= 0 && self->taken >= self->length);
}

// Lets go of what a finished stream needs no more.  The queue stays: it tells a thread
// of its own from others.
static void
take_source(stream *self, PyObject **function, PyObject **input, bool *held)
{
    *function = self->function;
    *input = self->input;
    *held = self->holds;
    self->function = self->input = NULL;
    self->holds = false;
}

// Wakes the consumer, and whoever asked to be told.
static void
tell(stream *self)
{
    PyObject *listener;
    Py_BEGIN_CRITICAL_SECTION(self);
    pd_latch_set(&self->news);
    listener = self->listener;
    self->listener = NULL;
    Py_END_CRITICAL_SECTION();
    if (listener != NULL) {
        PyObject *none = PyObject_CallNoArgs(listener);
        if (none == NULL) {
            pd_report(pd_module_of((PyObject *)self));
        }
        Py_XDECREF(none);
        Py_DECREF(listener);
    }
}

// No more units than `length` (less than 0: than were pulled) will come.  `stopped` is
// borrowed and may be NULL.
static void
end_stream(stream *self, Py_ssize_t length, PyObject *stopped)
{
    PyObject *function, *input;
    bool held;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->length < 0) {
        self->length = length < 0 ? self->pulled : length;
        self->stopped = Py_XNewRef(stopped);
    }
    self->stalled = false;
    take_source(self, &function, &input, &held);
    Py_END_CRITICAL_SECTION();
    if (held) {
        pd_tasks_hold(self->work.queue->tasks, false);
    }
    Py_XDECREF(function);
    Py_XDECREF(input);
    tell(self);
}

// Puts a unit's result into the ring; steals `value`.
static void
deliver(stream *self, Py_ssize_t index, bool failed, PyObject *value)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    if (!self->closed) {
        // A slot was reserved when the unit was pulled.
        Py_ssize_t at = self->ordered ? index : self->arrived;
        slot *s = &self->ring[at & self->mask];
        s->value = value;
        s->failed = failed;
        value = NULL;
    }
    self->arrived++;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(value);
    tell(self);
}

// ------------------------------------------------------------------------------
// Producing
// ------------------------------------------------------------------------------

// The next unit, a new reference; NULL with an exception, or without at the end.
static PyObject *
pull(stream *self, PyObject *input)
{
    if (self->chunk == 1) {
        return PyIter_Next(input);
    }
    PyObject *items = PyList_New(0);
    for (Py_ssize_t i = 0; items != NULL && i < self->chunk; i++) {
        PyObject *item = PyIter_Next(input);
        if (item == NULL && !PyErr_Occurred()) {
            break;
        }
        if (item == NULL || PyList_Append(items, item) < 0) {
            Py_CLEAR(items);
        }
        Py_XDECREF(item);
    }
    if (items != NULL && PyList_GET_SIZE(items) == 0) {
        Py_CLEAR(items);
    }
    return items;
}

static PyObject *
run_unit(stream *self, PyObject *function, PyObject *unit)
{
    if (self->chunk == 1) {
        return pd_call_item(function, unit, self->star);
    }
    // The list is this thread's alone: results take the places of the items.
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(unit); i++) {
        PyObject *item = PySequence_ITEM(unit, i);
        PyObject *result = pd_call_item(function, item, self->star);
        Py_DECREF(item);
        if (result == NULL || PyList_SetItem(unit, i, result) < 0) {
            return NULL;
        }
    }
    return Py_NewRef(unit);
}

// Puts the stream back for another thread, or leaves it stalled.
static void
offer_rest(stream *self)
{
    bool offer;
    Py_BEGIN_CRITICAL_SECTION(self);
    offer = !self->closed && !self->alone &&
            (self->limit == 0 || self->pulled - self->taken < self->limit);
    self->stalled = !offer && !self->closed;
    Py_END_CRITICAL_SECTION();
    if (!offer) {
        return;
    }
    Py_INCREF(self);  // the queue's
    if (pd_tasks_push(self->work.queue->tasks, &self->work.task, PD_TASKS_AGAIN) !=
        PD_OK)
    {
        Py_DECREF(self);
        PyObject *error =
            pd_cancelled(pd_module_of((PyObject *)self), "the pool was terminated");
        end_stream(self, -1, error);
        Py_XDECREF(error);
    }
}

// Pulls a unit as the only thread that does so: its index, or -1 at the end.
static Py_ssize_t
begin_unit(stream *self, PyObject *input, PyObject **unit)
{
    Py_ssize_t index = -1;
    *unit = pull(self, input);
    PyObject *error = *unit == NULL && PyErr_Occurred() ? pd_take_exception() : NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (*unit != NULL || error != NULL) {
        if (reserve(self, self->pulled) == 0) {
            index = self->pulled++;
        }
        else if (error == NULL) {
            error = pd_take_exception();
        }
        else {
            PyErr_Clear();
        }
    }
    Py_END_CRITICAL_SECTION();
    if (index >= 0 && error == NULL) {
        return index;
    }
    // The end of the input, or its error, which takes the place of a result.
    Py_CLEAR(*unit);
    if (error != NULL && index >= 0) {
        deliver(self, index, true, error);
        error = NULL;
    }
    end_stream(self, -1, error);
    Py_XDECREF(error);
    return -1;
}

void
pd_stream_run(pd_worker *worker, pd_work *work)
{
    stream *self = (stream *)work;
    PyObject *function, *input, *unit;

    Py_BEGIN_CRITICAL_SECTION(self);
    function = Py_XNewRef(self->function);
    input = Py_XNewRef(self->input);
    Py_END_CRITICAL_SECTION();
    if (function != NULL && input != NULL) {
        pd_frame frame;
        pd_enter(worker, &frame, work);
        Py_ssize_t index = begin_unit(self, input, &unit);
        if (index >= 0) {
            offer_rest(self);
            PyObject *result = run_unit(self, function, unit);
            Py_DECREF(unit);
            if (result == NULL) {
                deliver(self, index, true, pd_take_exception());
            }
            else {
                deliver(self, index, false, result);
            }
        }
        pd_leave(worker, &frame);
        if (worker != NULL) {
            atomic_fetch_add_explicit(&worker->tasks, 1, memory_order_relaxed);
            pd_breathe(worker);
        }
    }
    Py_XDECREF(function);
    Py_XDECREF(input);
}

void
pd_stream_fail(pd_work *work, PyObject *exception, bool lost)
{
    stream *self = (stream *)work;
    Py_BEGIN_CRITICAL_SECTION(self);
    self->lost = lost;
    Py_END_CRITICAL_SECTION();
    end_stream(self, -1, exception);
}

// ------------------------------------------------------------------------------
// Consuming
// ------------------------------------------------------------------------------

typedef enum outcome { READY, OVER, NOT_YET, HELP } outcome;

// Takes the next unit, if it is there.  `restart` tells that the stream is to be pushed
// again, HELP that the caller has to pull by itself.
static outcome
take_unit(stream *self, slot *unit, bool *restart, PyObject **on_taken)
{
    outcome found = NOT_YET;
    *restart = false;
    *on_taken = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    slot *s = &self->ring[self->taken & self->mask];
    if (!self->closed && s->value != NULL) {
        *unit = *s;
        s->value = NULL;
        self->taken++;
        *restart = self->stalled && !self->alone;
        if (*restart) {
            self->stalled = false;
        }
        *on_taken = Py_XNewRef(self->on_taken);
        found = READY;
    }
    else if (is_over(self)) {
        found = OVER;
    }
    else if (self->alone && self->stalled) {
        self->stalled = false;
        found = HELP;
    }
    else {
        pd_latch_clear(&self->news);
    }
    Py_END_CRITICAL_SECTION();
    return found;
}

static void
push_again(stream *self)
{
    Py_INCREF(self);  // the queue's
    if (pd_tasks_push(self->work.queue->tasks, &self->work.task, PD_TASKS_AGAIN) ==
        PD_OK)
    {
        return;
    }
    Py_DECREF(self);
    bool terminated;
    Py_BEGIN_CRITICAL_SECTION(self->work.queue);
    terminated = self->work.queue->terminated;
    Py_END_CRITICAL_SECTION();
    if (terminated) {
        PyObject *error =
            pd_cancelled(pd_module_of((PyObject *)self), "the pool was terminated");
        end_stream(self, -1, error);
        Py_XDECREF(error);
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    self->alone = true;
    self->stalled = true;
    Py_END_CRITICAL_SECTION();
}

// A thread of the same queue runs a unit of the stream that it waits for.
static bool
help(stream *self)
{
    pd_worker *worker = pd_this_worker;
    pd_queue *queue = self->work.queue;
    if (worker == NULL || queue == NULL || worker->queue != queue ||
        !pd_tasks_take(queue->tasks, &self->work.task))
    {
        return false;
    }
    pd_stream_run(worker, &self->work);
    Py_DECREF(self);  // the queue's
    return true;
}

// The next result of a chunk that is being consumed, or NULL without an exception.
static PyObject *
next_of_chunk(stream *self)
{
    PyObject *result = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->unit != NULL) {
        result = PySequence_ITEM(self->unit, self->unit_next++);
        if (self->unit_next == PyList_GET_SIZE(self->unit)) {
            Py_CLEAR(self->unit);
        }
    }
    Py_END_CRITICAL_SECTION();
    return result;
}

static PyObject *
give_unit(stream *self, slot unit)
{
    if (unit.failed) {
        pd_raise_object(unit.value);
        Py_DECREF(unit.value);
        return NULL;
    }
    if (self->chunk == 1) {
        return unit.value;
    }
    PyObject *old;
    Py_BEGIN_CRITICAL_SECTION(self);
    old = self->unit;
    self->unit = unit.value;
    self->unit_next = 0;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    return next_of_chunk(self);
}

// At the end: NULL, with an exception if the stream was stopped.
static PyObject *
end_of_stream(stream *self)
{
    PyObject *stopped;
    Py_BEGIN_CRITICAL_SECTION(self);
    stopped = self->closed ? NULL : Py_XNewRef(self->stopped);
    Py_END_CRITICAL_SECTION();
    if (stopped != NULL) {
        pd_raise_object(stopped);
        Py_DECREF(stopped);
    }
    return NULL;
}

static PyObject *
next_result(stream *self, int64_t timeout_ns)
{
    PyObject *result = next_of_chunk(self);
    while (result == NULL) {
        slot unit;
        bool restart;
        PyObject *on_taken;
        outcome found = take_unit(self, &unit, &restart, &on_taken);
        if (restart) {
            push_again(self);
            pd_defer_interruption(pd_module_of((PyObject *)self));
        }
        if (on_taken != NULL) {
            PyObject *none = PyObject_CallNoArgs(on_taken);
            Py_DECREF(on_taken);
            if (none == NULL) {
                Py_DECREF(unit.value);
                return NULL;
            }
            Py_DECREF(none);
        }
        if (found == READY) {
            return give_unit(self, unit);
        }
        if (found == OVER) {
            return end_of_stream(self);
        }
        if (found == HELP) {
            pd_stream_run(NULL, &self->work);
            continue;
        }
        if (timeout_ns == PD_FOREVER && help(self)) {
            continue;
        }
        int told = pd_wait(&self->news, self->work.queue, timeout_ns);
        if (told <= 0) {
            if (told == 0) {
                pd_module_state *state =
                    PyModule_GetState(pd_module_of((PyObject *)self));
                PyErr_SetNone(state->timeout_error);
            }
            return NULL;
        }
    }
    return result;
}

static PyObject *
stream_iternext(PyObject *op)
{
    return next_result((stream *)op, PD_FOREVER);
}

PyDoc_STRVAR(next_doc,
             "next($self, /, timeout=None)\n--\n\n"
             "Return the next result, or raise what its task raised.\n"
             "\n"
             "Parameters\n"
             "----------\n"
             "timeout : float, optional\n"
             "    Seconds to wait; by default for ever.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "object\n"
             "    What the task returned.\n"
             "\n"
             "Raises\n"
             "------\n"
             "TimeoutError\n"
             "    If it has not arrived in time: multiprocessing's.\n"
             "StopIteration\n"
             "    At the end.\n"
             "Exception\n"
             "    What the task raised; the next result can be taken after that.\n");

static PyObject *
stream_next(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = NULL;
    int64_t timeout_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:next", names, &timeout) ||
        pd_parse_timeout(timeout, &timeout_ns) < 0)
    {
        return NULL;
    }
    PyObject *result = next_result((stream *)op, timeout_ns);
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Take no more of the input and forget results that were not consumed.\n"
             "\n"
             "Tasks that run go on; those that have not begun won't.\n");

static PyObject *
stream_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    stream *self = (stream *)op;
    pd_queue *queue = self->work.queue;
    if (queue != NULL && pd_tasks_take(queue->tasks, &self->work.task)) {
        Py_DECREF(self);  // the queue's
    }
    slot *ring;
    Py_ssize_t size;
    Py_BEGIN_CRITICAL_SECTION(self);
    self->closed = true;
    ring = self->ring;
    size = self->mask + 1;
    self->ring = PyMem_Calloc(1, sizeof(*ring));
    self->mask = 0;
    if (self->ring == NULL) {
        self->ring = ring;
        self->mask = size - 1;
        ring = NULL;
    }
    Py_END_CRITICAL_SECTION();
    if (ring == NULL) {
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        Py_XDECREF(ring[i].value);
    }
    PyMem_Free(ring);
    end_stream(self, -1, NULL);
    PyObject *on_taken;
    Py_BEGIN_CRITICAL_SECTION(self);
    Py_CLEAR(self->unit);
    on_taken = self->on_taken;
    self->on_taken = NULL;
    Py_END_CRITICAL_SECTION();
    PyObject *none =
        on_taken == NULL ? Py_NewRef(Py_None) : PyObject_CallNoArgs(on_taken);
    Py_XDECREF(on_taken);
    return none;
}

// ------------------------------------------------------------------------------
// For asyncio, and for engines written in Python
// ------------------------------------------------------------------------------

PyDoc_STRVAR(listen_doc,
             "_listen($self, function, /)\n--\n\n"
             "Call function() once when there is news; False if next() needn't wait.");

static PyObject *
stream_listen(PyObject *op, PyObject *function)
{
    stream *self = (stream *)op;
    bool wait;
    PyObject *old = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    wait = self->unit == NULL && !is_over(self) && !self->alone &&
           self->ring[self->taken & self->mask].value == NULL;
    if (wait) {
        old = self->listener;
        self->listener = Py_NewRef(function);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    return PyBool_FromLong(wait);
}

PyDoc_STRVAR(deliver_doc,
             "_deliver($self, index, success, value, /)\n--\n\n"
             "Give the result of the unit `index`: a value, or a list with chunk > 1.");

static PyObject *
stream_deliver(PyObject *op, PyObject *args)
{
    stream *self = (stream *)op;
    Py_ssize_t index;
    int success, status;
    PyObject *value;
    if (!PyArg_ParseTuple(args, "npO:_deliver", &index, &success, &value)) {
        return NULL;
    }
    if (success && self->chunk > 1 &&
        (!PyList_CheckExact(value) || PyList_GET_SIZE(value) == 0))
    {
        PyErr_SetString(PyExc_TypeError, "value must be a list of results");
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    status = self->closed || index < self->taken ? 0 : reserve(self, index);
    self->pulled = Py_MAX(self->pulled, index + 1);
    Py_END_CRITICAL_SECTION();
    if (status < 0) {
        return NULL;
    }
    deliver(self, index, !success, Py_NewRef(value));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(end_doc,
             "_end($self, length, error=None, /)\n--\n\n"
             "Say how many units there are; `error` is raised after the last of them.");

static PyObject *
stream_end(PyObject *op, PyObject *args)
{
    Py_ssize_t length;
    PyObject *error = Py_None;
    if (!PyArg_ParseTuple(args, "n|O:_end", &length, &error)) {
        return NULL;
    }
    end_stream((stream *)op, length, error == Py_None ? NULL : error);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(source_doc,
             "_source($self, on_taken, /)\n--\n\n"
             "Take the input to feed the stream from Python: (function, iterator).\n\n"
             "on_taken() is called for every unit that the consumer takes, and once "
             "when it\ncloses the stream.");

static PyObject *
stream_source(PyObject *op, PyObject *on_taken)
{
    stream *self = (stream *)op;
    PyObject *function, *input;
    bool held;
    Py_BEGIN_CRITICAL_SECTION(self);
    take_source(self, &function, &input, &held);
    Py_XSETREF(self->on_taken, Py_NewRef(on_taken));
    Py_END_CRITICAL_SECTION();
    if (function == NULL) {
        Py_XDECREF(input);
        PyErr_SetString(PyExc_ValueError, "the stream has begun");
        return NULL;
    }
    return Py_BuildValue("(NN)", function, input);
}

static PyObject *
stream_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((stream *)op)->closed);
}

// ------------------------------------------------------------------------------
// The type
// ------------------------------------------------------------------------------

// ResultIterator(function, iterable, chunk, star, ordered, limit)
static PyObject *
stream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *function, *iterable;
    Py_ssize_t chunk, limit;
    int star, ordered;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "ResultIterator() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOnppn:ResultIterator", &function, &iterable, &chunk,
                          &star, &ordered, &limit))
    {
        return NULL;
    }
    if (!PyCallable_Check(function)) {
        return PyErr_Format(PyExc_TypeError, "func must be callable, not %.200s",
                            Py_TYPE(function)->tp_name);
    }
    if (chunk < 1 || limit < 0) {
        return PyErr_Format(PyExc_ValueError, "chunk must be at least 1, limit 0");
    }
    PyObject *input = PyObject_GetIter(iterable);
    if (input == NULL) {
        return NULL;
    }
    stream *self = (stream *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(input);
        return NULL;
    }
    self->input = input;
    self->function = Py_NewRef(function);
    self->chunk = chunk;
    self->limit = limit;
    self->star = star;
    self->ordered = ordered;
    self->length = -1;
    self->mask = 7;
    self->ring = PyMem_Calloc(8, sizeof(*self->ring));
    if (self->ring == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int
stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    stream *self = (stream *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->work.queue);
    Py_VISIT(self->function);
    Py_VISIT(self->input);
    Py_VISIT(self->unit);
    Py_VISIT(self->listener);
    Py_VISIT(self->on_taken);
    Py_VISIT(self->stopped);
    for (Py_ssize_t i = 0; self->ring != NULL && i <= self->mask; i++) {
        Py_VISIT(self->ring[i].value);
    }
    return 0;
}

static int
stream_clear(PyObject *op)
{
    stream *self = (stream *)op;
    if (self->holds) {
        self->holds = false;
        pd_tasks_hold(self->work.queue->tasks, false);
    }
    Py_CLEAR(self->work.queue);
    Py_CLEAR(self->function);
    Py_CLEAR(self->input);
    Py_CLEAR(self->unit);
    Py_CLEAR(self->listener);
    Py_CLEAR(self->on_taken);
    Py_CLEAR(self->stopped);
    for (Py_ssize_t i = 0; self->ring != NULL && i <= self->mask; i++) {
        Py_CLEAR(self->ring[i].value);
    }
    return 0;
}

static void
stream_dealloc(PyObject *op)
{
    stream *self = (stream *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->work.weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)stream_clear(op);
    PyMem_Free(self->ring);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
stream_anext(PyObject *op)
{
    pd_module_state *state = PyModule_GetState(pd_module_of(op));
    if (state->anext == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "pydistrib.pools.protocol is not imported");
        return NULL;
    }
    return PyObject_CallOneArg(state->anext, op);
}

static PyMethodDef stream_methods[] = {
    {"next",     (PyCFunction)(void (*)(void))stream_next, METH_VARARGS | METH_KEYWORDS,
     next_doc                                                                                       },
    {"close",    stream_close,                             METH_NOARGS,                  close_doc  },
    {"_listen",  stream_listen,                            METH_O,                       listen_doc },
    {"_deliver", stream_deliver,                           METH_VARARGS,                 deliver_doc},
    {"_end",     stream_end,                               METH_VARARGS,                 end_doc    },
    {"_source",  stream_source,                            METH_O,                       source_doc },
    {NULL,       NULL,                                     0,                            NULL       },
};

static PyGetSetDef stream_getset[] = {
    {"_closed", stream_closed, NULL, "Whether the consumer has closed it.", NULL},
    {NULL,      NULL,          NULL, NULL,                                  NULL},
};

static PyMemberDef stream_members[] = {
    {"_chunk", T_PYSSIZET, offsetof(stream, chunk), READONLY, NULL},
    {"_limit", T_PYSSIZET, offsetof(stream, limit), READONLY, NULL},
    {"_star", T_BOOL, offsetof(stream, star), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(pd_work, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    stream_doc,
    "ResultIterator(function, iterable, chunk, star, ordered, limit, /)\n--\n\n"
    "The results of `imap` or `imap_unordered`, as they come.\n"
    "\n"
    "Pools make them.  Works with ``for`` and ``async for``; `close` cancels the "
    "rest.\n"
    "\n"
    "Parameters\n"
    "----------\n"
    "function : callable\n"
    "    Called for each item.\n"
    "iterable : iterable\n"
    "    The items.\n"
    "chunk : int\n"
    "    How many of them make a task.\n"
    "star : bool\n"
    "    Whether an item holds several arguments.\n"
    "ordered : bool\n"
    "    Whether results come in the order of the items.\n"
    "limit : int\n"
    "    How many tasks may be out, or 0 for any number.\n");

static PyType_Slot stream_slots[] = {
    {Py_tp_doc,      (void *)stream_doc},
    {Py_tp_new,      stream_new        },
    {Py_tp_traverse, stream_traverse   },
    {Py_tp_clear,    stream_clear      },
    {Py_tp_dealloc,  stream_dealloc    },
    {Py_tp_iter,     PyObject_SelfIter },
    {Py_tp_iternext, stream_iternext   },
    {Py_am_aiter,    PyObject_SelfIter },
    {Py_am_anext,    stream_anext      },
    {Py_tp_methods,  stream_methods    },
    {Py_tp_getset,   stream_getset     },
    {Py_tp_members,  stream_members    },
    {0,              NULL              },
};

static PyType_Spec stream_spec = {
    .name = "pydistrib._core.ResultIterator",
    .basicsize = sizeof(stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stream_slots,
};

bool
pd_is_stream(PyObject *module, PyObject *object)
{
    pd_module_state *state = PyModule_GetState(module);
    return Py_IS_TYPE(object, state->stream_type);
}

void
pd_stream_hold(pd_work *work, bool hold)
{
    stream *self = (stream *)work;
    if (self->limit > 0 && self->holds != hold) {
        self->holds = hold;
        pd_tasks_hold(work->queue->tasks, hold);
    }
}

int
pd_add_stream_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->stream_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &stream_spec, NULL);
    if (state->stream_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->stream_type);
}
