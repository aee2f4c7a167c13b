// _core.TaskQueue: the Python side of thread/tasks.h.
//
// A thread of the queue is a threading.Thread whose target is work(): it keeps its
// thread state for life, and lets go of Python's lock only to wait.  Names, hooks,
// thread-local data and the join at exit are therefore those of any Python thread.
//
// Signals are not blocked in these threads, for a process that a task starts would
// inherit that; the kernel prefers the main thread anyway, and a main thread that waits
// here looks for signals every SIGNAL_NS.
//
// Fork: the threads are gone in the child.  after_fork() gives an error to everybody
// who waits for what they had begun or what was queued, and the queue is usable again.
//
// Exit: a daemon thread that asks for Python's lock while the interpreter ends never
// comes back from attach().  It holds nothing then (thread/tasks.c, I2).
#include "py/tasks.h"

#include <structmember.h>
#include <time.h>

#include "base/clock.h"

#define SIGNAL_NS 50000000  // how often a wait looks for Ctrl-C
#define SWITCH_NS 5000000   // how long C code may keep Python's lock: its own interval
#define MAX_WORKERS 32768

_Thread_local pd_worker *pd_this_worker;

// ------------------------------------------------------------------------------
// Used by all that runs tasks
// ------------------------------------------------------------------------------

void
pd_enter(pd_worker *worker, pd_frame *frame, pd_work *work)
{
    if (worker == NULL) {
        return;
    }
    frame->work = work;
    Py_BEGIN_CRITICAL_SECTION(worker->queue);
    frame->outer = worker->frame;
    worker->frame = frame;
    Py_END_CRITICAL_SECTION();
}

void
pd_leave(pd_worker *worker, pd_frame *frame)
{
    if (worker == NULL) {
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(worker->queue);
    worker->frame = frame->outer;
    Py_END_CRITICAL_SECTION();
}

void
pd_breathe(pd_worker *worker)
{
    if ((++worker->breath & 7) != 0) {
        return;
    }
    int64_t now_ns = pd_now_ns();
    if (now_ns - worker->since_ns > SWITCH_NS) {
        // Who has waited for its interval gets the lock here, as in the interpreter.
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
        worker->since_ns = pd_now_ns();
    }
}

int
pd_wait(pd_latch *latch, pd_queue *queue, int64_t timeout_ns)
{
    int64_t now_ns = pd_now_ns();
    int64_t until_ns =
        timeout_ns > PD_FOREVER - now_ns ? PD_FOREVER : now_ns + timeout_ns;
    for (;;) {
        // A thread of a pool is never the one that signals are handled in.
        int64_t left_ns = until_ns == PD_FOREVER ? PD_FOREVER : until_ns - now_ns;
        int64_t slice_ns =
            pd_this_worker != NULL ? left_ns : Py_MIN(left_ns, SIGNAL_NS);
        pd_status status;
        Py_BEGIN_ALLOW_THREADS
        if (queue != NULL) {
            pd_tasks_note_waiter(queue->tasks, 1);
        }
        status = pd_latch_wait(latch, slice_ns);
        if (queue != NULL) {
            pd_tasks_note_waiter(queue->tasks, -1);
            if (status == PD_OK) {
                pd_tasks_let_detach(queue->tasks);
            }
        }
        Py_END_ALLOW_THREADS
        if (status == PD_OK) {
            return 1;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
        now_ns = pd_now_ns();
        if (now_ns >= until_ns) {
            return pd_latch_is_set(latch);
        }
    }
}

// ------------------------------------------------------------------------------
// Hooks of the core
// ------------------------------------------------------------------------------

static void
attach(void *thread)
{
    pd_worker *worker = thread;
    int64_t start_ns = pd_now_ns();
    PyEval_RestoreThread(worker->state);
    worker->since_ns = worker->now_ns = pd_now_ns();
    atomic_fetch_add_explicit(&worker->gil_ns, worker->since_ns - start_ns,
                              memory_order_relaxed);
}

static void
detach(void *thread)
{
    pd_worker *worker = thread;
    worker->state = PyEval_SaveThread();
}

static bool
run(void *thread, pd_task *task)
{
    pd_worker *worker = thread;
    pd_work *work = (pd_work *)((char *)task - offsetof(pd_work, task));
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)worker->queue));
    int64_t start_ns = worker->now_ns;
    atomic_fetch_add_explicit(&worker->queue_ns, Py_MAX(start_ns - task->pushed_ns, 0),
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&worker->takes, 1, memory_order_relaxed);

    if (pd_is_map(module, (PyObject *)work)) {
        pd_map_run(worker, work);
    }
    else if (pd_is_stream(module, (PyObject *)work)) {
        pd_stream_run(worker, work);
    }
    else {
        pd_async_run(worker, work);
    }
    Py_DECREF(work);  // the queue's
    pd_breathe(worker);
    worker->now_ns = pd_now_ns();
    atomic_fetch_add_explicit(&worker->run_ns, worker->now_ns - start_ns,
                              memory_order_relaxed);
    return !worker->abandoned;
}

// What a signal's handler raised while this thread waited for a new one to begin: start()
// raises it, once the queue is in order.
static _Thread_local PyObject *interruption;

static bool
spawn(void *context)
{
    pd_queue *self = context;
    PyObject *raised = PyObject_CallNoArgs(self->spawn);
    if (raised == NULL) {
        // Others run the task; if there are none, the push says so.
        PyErr_Clear();
        return false;
    }
    if (raised == Py_None) {
        Py_DECREF(raised);
    }
    else {
        Py_XSETREF(interruption, raised);
    }
    return true;
}

// Raises what spawn() has kept, if anything: -1 then.
static int
raise_interruption(void)
{
    PyObject *raised = interruption;
    if (raised == NULL) {
        return 0;
    }
    interruption = NULL;
    pd_raise_object(raised);
    Py_DECREF(raised);
    return -1;
}

void
pd_defer_interruption(PyObject *module)
{
    if (interruption == NULL) {
        return;
    }
    if (PyErr_GivenExceptionMatches(interruption, PyExc_KeyboardInterrupt)) {
        Py_CLEAR(interruption);
        PyErr_SetInterrupt();
        return;
    }
    (void)raise_interruption();
    pd_report(module);
}

static const pd_tasks_hooks hooks = {attach, detach, run, spawn};

// ------------------------------------------------------------------------------
// Threads
// ------------------------------------------------------------------------------

PyDoc_STRVAR(work_doc,
             "work($self, /)\n--\n\n"
             "Make the calling thread, which spawn() started, one of the queue's.");

static PyObject *
queue_work(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_queue *self = (pd_queue *)op;
    if (pd_this_worker != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this thread works for a queue already");
        return NULL;
    }
    pd_worker worker = {
        .queue = self,
        .ident = PyThread_get_thread_ident(),
        .thread = pthread_self(),
    };
    worker.now_ns = worker.since_ns = pd_now_ns();
    Py_BEGIN_CRITICAL_SECTION(self);
    worker.next = self->workers;
    if (self->workers != NULL) {
        self->workers->prev = &worker;
    }
    self->workers = &worker;
    Py_END_CRITICAL_SECTION();

    pd_this_worker = &worker;
    pd_tasks_work(self->tasks, &worker);
    pd_this_worker = NULL;

    Py_BEGIN_CRITICAL_SECTION(self);
    if (worker.next != NULL) {
        worker.next->prev = worker.prev;
    }
    if (worker.prev != NULL) {
        worker.prev->next = worker.next;
    }
    else {
        self->workers = worker.next;
    }
    self->past_tasks += atomic_load(&worker.tasks);
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fill_doc,
             "fill($self, /)\n--\n\n"
             "Start all threads now, rather than when they are needed.");

static PyObject *
queue_fill(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_tasks_fill(((pd_queue *)op)->tasks);
    return raise_interruption() < 0 ? NULL : Py_NewRef(Py_None);
}

// ------------------------------------------------------------------------------
// Tasks
// ------------------------------------------------------------------------------

static PyObject *
broken_error(pd_queue *self)
{
    PyObject *broken;
    Py_BEGIN_CRITICAL_SECTION(self);
    broken = Py_XNewRef(self->broken);
    Py_END_CRITICAL_SECTION();
    return broken;
}

// Raises what start() raises for `status`.
static PyObject *
refuse(pd_status status)
{
    if (status == PD_ECLOSED) {
        PyErr_SetString(PyExc_ValueError, "Pool not running");
    }
    else {
        PyErr_SetString(PyExc_RuntimeError, "can't start a new thread for the pool");
    }
    return NULL;
}

PyDoc_STRVAR(start_doc,
             "start($self, result, /)\n--\n\n"
             "Queue an AsyncResult, MapResult or ResultIterator to be run.");

static PyObject *
queue_start(PyObject *op, PyObject *object)
{
    pd_queue *self = (pd_queue *)op;
    PyObject *module = PyType_GetModule(Py_TYPE(op));
    bool is_stream = pd_is_stream(module, object);
    if (!is_stream && !pd_is_async(module, object)) {
        return PyErr_Format(PyExc_TypeError, "result must be a result, not %.200s",
                            Py_TYPE(object)->tp_name);
    }
    PyObject *broken = broken_error(self);
    if (broken != NULL) {
        pd_raise_object(broken);
        Py_DECREF(broken);
        return NULL;
    }
    pd_work *work = (pd_work *)object;
    bool fresh;
    Py_BEGIN_CRITICAL_SECTION(object);
    fresh = work->queue == NULL;
    if (fresh) {
        work->queue = (pd_queue *)Py_NewRef(op);
    }
    Py_END_CRITICAL_SECTION();
    if (!fresh) {
        PyErr_SetString(PyExc_ValueError, "the result was started already");
        return NULL;
    }
    if (is_stream) {
        pd_stream_hold(work, true);
    }
    Py_INCREF(object);  // the queue's
    pd_status status = pd_tasks_push(self->tasks, &work->task, PD_TASKS_BACK);
    if (status == PD_OK) {
        return raise_interruption() < 0 ? NULL : Py_NewRef(Py_None);
    }
    Py_DECREF(object);
    if (is_stream) {
        pd_stream_hold(work, false);
    }
    Py_BEGIN_CRITICAL_SECTION(object);
    Py_CLEAR(work->queue);
    Py_END_CRITICAL_SECTION();
    return refuse(status);
}

static void
fail_work(PyObject *module, pd_work *work, PyObject *error, bool lost)
{
    if (pd_is_stream(module, (PyObject *)work)) {
        pd_stream_fail(work, error, lost);
    }
    else {
        pd_async_fail(work, error);
    }
}

// Gives `error` to all tasks of the chain, which is the queue's no more.
static void
fail_chain(pd_queue *self, pd_task *chain, PyObject *error)
{
    PyObject *module = PyType_GetModule(Py_TYPE((PyObject *)self));
    while (chain != NULL) {
        pd_work *work = (pd_work *)((char *)chain - offsetof(pd_work, task));
        chain = chain->next;
        work->task.next = work->task.prev = NULL;
        fail_work(module, work, error, false);
        Py_DECREF(work);  // the queue's
    }
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\n"
             "Take no new tasks; the threads end when all are done.");

static PyObject *
queue_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_tasks_close(((pd_queue *)op)->tasks);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(drain_doc,
             "drain($self, /)\n--\n\n"
             "Let the threads of a closed queue end although iterators wait for their "
             "consumers.");

static PyObject *
queue_drain(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_tasks_drain(((pd_queue *)op)->tasks);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(terminate_doc,
             "terminate($self, /)\n--\n\n"
             "Close, and cancel all tasks that have not begun.");

static PyObject *
queue_terminate(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_queue *self = (pd_queue *)op;
    PyObject *error =
        pd_cancelled(PyType_GetModule(Py_TYPE(op)), "the pool was terminated");
    if (error == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    self->terminated = true;
    Py_END_CRITICAL_SECTION();
    fail_chain(self, pd_tasks_stop(self->tasks), error);
    Py_DECREF(error);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    break_doc,
    "break_down($self, error, /)\n--\n\n"
    "Give `error` to all tasks that have not begun, and raise it from start().");

static PyObject *
queue_break(PyObject *op, PyObject *error)
{
    pd_queue *self = (pd_queue *)op;
    if (!PyExceptionInstance_Check(error)) {
        PyErr_SetString(PyExc_TypeError, "error must be an exception");
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->broken == NULL) {
        self->broken = Py_NewRef(error);
    }
    Py_END_CRITICAL_SECTION();
    fail_chain(self, pd_tasks_stop(self->tasks), error);
    Py_RETURN_NONE;
}

// ------------------------------------------------------------------------------
// Time limits
// ------------------------------------------------------------------------------

// Stops the thread that runs `work`, if one does: its identifier, or 0.  Only what is
// innermost is interrupted, and only the outermost task's thread is given up.
static unsigned long
interrupt(pd_queue *self, pd_work *work, PyObject *type, bool *give_up)
{
    unsigned long ident = 0;
    *give_up = false;
    Py_BEGIN_CRITICAL_SECTION(self);
    for (pd_worker *w = self->workers; w != NULL; w = w->next) {
        if (w->frame != NULL && w->frame->work == work) {
            ident = w->ident;
            if (w->frame->outer == NULL && !w->abandoned) {
                w->abandoned = *give_up = true;
            }
            (void)PyThreadState_SetAsyncExc(w->ident, type);
        }
    }
    Py_END_CRITICAL_SECTION();
    return ident;
}

PyDoc_STRVAR(expire_doc,
             "expire($self, result, error, /)\n--\n\n"
             "Give `error` to a result whose time is up.  If it is running, its thread "
             "gets the\nexception too, and is replaced.  Returns that thread's "
             "identifier, 0 if there is none,\nor None if the result had come.");

static PyObject *
queue_expire(PyObject *op, PyObject *args)
{
    pd_queue *self = (pd_queue *)op;
    PyObject *module = PyType_GetModule(Py_TYPE(op));
    PyObject *object, *error;
    if (!PyArg_ParseTuple(args, "OO:expire", &object, &error)) {
        return NULL;
    }
    if (!pd_is_async(module, object) || !PyExceptionInstance_Check(error)) {
        PyErr_SetString(PyExc_TypeError, "expire() takes a result and an exception");
        return NULL;
    }
    if (!pd_async_expire((pd_work *)object, error)) {
        Py_RETURN_NONE;
    }
    bool give_up;
    unsigned long ident =
        interrupt(self, (pd_work *)object, (PyObject *)Py_TYPE(error), &give_up);
    if (give_up) {
        pd_tasks_give_up(self->tasks);
    }
    return PyLong_FromUnsignedLong(give_up ? ident : 0);
}

// ------------------------------------------------------------------------------
// Fork
// ------------------------------------------------------------------------------

PyDoc_STRVAR(after_fork_doc,
             "after_fork($self, error, /)\n--\n\n"
             "In the child: give `error` to all who wait for the parent's tasks.");

static PyObject *
queue_after_fork(PyObject *op, PyObject *error)
{
    pd_queue *self = (pd_queue *)op;
    PyObject *module = PyType_GetModule(Py_TYPE(op));
    // The stacks that these point to belong to threads that are gone, but no thread has
    // been started since that could have got them.
    pd_worker *worker = self->workers;
    self->workers = NULL;
    for (; worker != NULL; worker = worker->next) {
        self->past_tasks += atomic_load(&worker->tasks);
        if (worker == pd_this_worker) {
            continue;  // it forked; it is the child's main thread now
        }
        for (pd_frame *frame = worker->frame; frame != NULL; frame = frame->outer) {
            fail_work(module, frame->work, error, true);
        }
    }
    fail_chain(self, pd_tasks_take_all(self->tasks), error);
    Py_RETURN_NONE;
}

// ------------------------------------------------------------------------------
// What can be asked
// ------------------------------------------------------------------------------

// CPU time of a thread that is alive; -1 where that can't be had.
static int64_t
cpu_ns(pthread_t thread)
{
#ifndef __APPLE__
    clockid_t clock;
    struct timespec used;
    if (pthread_getcpuclockid(thread, &clock) == 0 && clock_gettime(clock, &used) == 0)
    {
        return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
    }
#endif
    (void)thread;
    return -1;
}

PyDoc_STRVAR(info_doc,
             "info($self, /)\n--\n\n"
             "(threads, queued tasks, tasks of ended threads, one tuple a thread); a "
             "thread's\nis (identifier, tasks, taken, queue, run, lock, cpu), times in "
             "nanoseconds.");

static PyObject *
queue_info(PyObject *op, PyObject *Py_UNUSED(unused))
{
    pd_queue *self = (pd_queue *)op;
    pd_tasks_info info = pd_tasks_get_info(self->tasks);
    PyObject *threads = PyList_New(0);
    if (threads == NULL) {
        return NULL;
    }
    int status = 0;
    int64_t past;
    Py_BEGIN_CRITICAL_SECTION(self);
    past = self->past_tasks;
    for (pd_worker *w = self->workers; w != NULL && status == 0; w = w->next) {
        PyObject *row = Py_BuildValue(
            "(kLLLLLL)", w->ident, (long long)atomic_load(&w->tasks),
            (long long)atomic_load(&w->takes), (long long)atomic_load(&w->queue_ns),
            (long long)atomic_load(&w->run_ns), (long long)atomic_load(&w->gil_ns),
            (long long)cpu_ns(w->thread));
        status = row == NULL ? -1 : PyList_Append(threads, row);
        Py_XDECREF(row);
    }
    Py_END_CRITICAL_SECTION();
    if (status < 0) {
        Py_DECREF(threads);
        return NULL;
    }
    return Py_BuildValue("(InLN)", info.workers, (Py_ssize_t)info.queued,
                         (long long)past, threads);
}

// ------------------------------------------------------------------------------
// The type
// ------------------------------------------------------------------------------

// TaskQueue(workers, exclusive, spawn, watch): `exclusive` says that threads share one
// lock, Python's.
static PyObject *
queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Py_ssize_t workers;
    int exclusive;
    PyObject *spawn_hook, *watch;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "TaskQueue() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "npOO:TaskQueue", &workers, &exclusive, &spawn_hook,
                          &watch))
    {
        return NULL;
    }
    if (workers < 1 || workers > MAX_WORKERS) {
        return PyErr_Format(PyExc_ValueError, "workers must be 1 to %d, not %zd",
                            MAX_WORKERS, workers);
    }
    pd_queue *self = (pd_queue *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->spawn = Py_NewRef(spawn_hook);
    self->watch = Py_NewRef(watch);
    unsigned count = (unsigned)workers;
    pd_status status =
        pd_tasks_create(&hooks, self, count, exclusive ? 1 : count, &self->tasks);
    if (status != PD_OK) {
        Py_DECREF(self);
        return pd_raise(status);
    }
    return (PyObject *)self;
}

static int
queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    pd_queue *self = (pd_queue *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->spawn);
    Py_VISIT(self->watch);
    Py_VISIT(self->broken);
    return 0;
}

static int
queue_clear(PyObject *op)
{
    pd_queue *self = (pd_queue *)op;
    Py_CLEAR(self->spawn);
    Py_CLEAR(self->watch);
    Py_CLEAR(self->broken);
    return 0;
}

static void
queue_dealloc(PyObject *op)
{
    // No thread is inside: each refers to the queue, as does each queued task.
    pd_queue *self = (pd_queue *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    (void)queue_clear(op);
    pd_tasks_destroy(self->tasks);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef queue_methods[] = {
    {"start",      queue_start,      METH_O,       start_doc     },
    {"work",       queue_work,       METH_NOARGS,  work_doc      },
    {"fill",       queue_fill,       METH_NOARGS,  fill_doc      },
    {"close",      queue_close,      METH_NOARGS,  close_doc     },
    {"drain",      queue_drain,      METH_NOARGS,  drain_doc     },
    {"terminate",  queue_terminate,  METH_NOARGS,  terminate_doc },
    {"break_down", queue_break,      METH_O,       break_doc     },
    {"expire",     queue_expire,     METH_VARARGS, expire_doc    },
    {"after_fork", queue_after_fork, METH_O,       after_fork_doc},
    {"info",       queue_info,       METH_NOARGS,  info_doc      },
    {NULL,         NULL,             0,            NULL          },
};

static PyMemberDef queue_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(pd_queue, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc,      "The tasks of a pool and the threads that run them."},
    {Py_tp_new,      queue_new                                           },
    {Py_tp_traverse, queue_traverse                                      },
    {Py_tp_clear,    queue_clear                                         },
    {Py_tp_dealloc,  queue_dealloc                                       },
    {Py_tp_methods,  queue_methods                                       },
    {Py_tp_members,  queue_members                                       },
    {0,              NULL                                                },
};

static PyType_Spec queue_spec = {
    .name = "pydistrib._core.TaskQueue",
    .basicsize = sizeof(pd_queue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = queue_slots,
};

int
pd_add_queue_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->queue_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &queue_spec, NULL);
    if (state->queue_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->queue_type);
}
