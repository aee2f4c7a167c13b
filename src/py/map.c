// _core.MapResult: a loop of calls and the list of their results.
//
// It hands out its items by an atomic cursor, `chunk` at a time, and writes the results
// into a list that nobody else sees before the end; so an item costs no object but its
// result.  The thread that does the last item settles the result.
#include "py/async.h"

#include <structmember.h>

typedef struct map {
    pd_async base;              // its args are the items: a tuple or an array, or NULL
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
        !pd_async_claim_outcome(&self->base))
    {
        return;
    }
    PyObject *results = self->results;
    self->results = NULL;
    if (self->first_error != NULL) {
        PyObject *error = self->first_error;
        self->first_error = NULL;
        Py_XDECREF(results);
        pd_async_settle(&self->base, true, error, false);
    }
    else {
        pd_async_settle(&self->base, false, results, false);
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
                PD_SETTLED)
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
        pd_cancelled(pd_module_of((PyObject *)self), "the pool was terminated");
    if (error != NULL) {
        pd_async_fail(&self->base.work, error);
        Py_DECREF(error);
    }
    PyErr_Clear();
}

void
pd_map_share(pd_worker *worker, pd_work *work, bool taken)
{
    map *self = (map *)work;
    PyObject *function, *items;
    pd_queue *queue;

    Py_BEGIN_CRITICAL_SECTION(self);
    function = Py_XNewRef(self->base.function);
    items = Py_XNewRef(self->base.args);
    queue = (pd_queue *)Py_XNewRef((PyObject *)work->queue);
    Py_END_CRITICAL_SECTION();
    (void)pd_async_claim(&self->base, PD_NEW, PD_BEGUN);
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
    pd_map_share(worker, work, true);
}

// ------------------------------------------------------------------------------
// The type
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
    self->has_out = out != NULL && out != Py_None;
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
    map *self = (map *)pd_async_alloc(type, function);
    if (self == NULL) {
        return NULL;
    }
    self->star = star;
    if (set_items(self, items, out) < 0 ||
        pd_async_set_extras(&self->base, callback, error_callback, callback_lane, NULL,
                            NULL) < 0)
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
    return pd_async_traverse(op, visit, arg);
}

static int
map_clear(PyObject *op)
{
    map *self = (map *)op;
    Py_CLEAR(self->results);
    Py_CLEAR(self->first_error);
    return pd_async_clear(op);
}

static void
map_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    (void)map_clear(op);
    pd_async_free(op);
}

// Stores results; what one of them raised stands for its part.
static void
store_part(map *self, Py_ssize_t start, Py_ssize_t count, bool single, PyObject *value)
{
    if (!single && (!PyList_Check(value) || PyList_GET_SIZE(value) != count)) {
        PyErr_SetString(PyExc_ValueError, "the results are no list of their number");
        keep_first_error(self, pd_take_exception());
        return;
    }
    // Settled from outside (terminated): the list is the waiters'.
    for (Py_ssize_t i = 0; i < count && self->results != NULL; i++) {
        PyObject *result = single ? Py_NewRef(value) : PySequence_ITEM(value, i);
        if (store(self, start + i, result) < 0) {
            keep_first_error(self, pd_take_exception());
            return;
        }
    }
}

void
pd_map_part(pd_async *op,
            Py_ssize_t start,
            Py_ssize_t count,
            bool success,
            bool single,
            PyObject *value)
{
    map *self = (map *)op;
    if (start < 0 || count < 1 || start > self->count - count || (single && count > 1))
    {
        return;  // no such part
    }
    if (success) {
        store_part(self, start, count, single, value);
    }
    else {
        keep_first_error(self, Py_NewRef(value));
    }
    count_done(self, count);
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
    pd_map_part(&self->base, start, count, success, false, values);
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
             "MapResult(function, items, chunk, star, out=None, callback=None, "
             "error_callback=None, lane=None, /)\n--\n\n"
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

bool
pd_is_map(PyObject *module, PyObject *object)
{
    pd_module_state *state = PyModule_GetState(module);
    return Py_IS_TYPE(object, state->map_type);
}

int
pd_add_map_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->map_type = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &map_spec, (PyObject *)state->async_type);
    return state->map_type == NULL ? -1 : PyModule_AddType(module, state->map_type);
}
