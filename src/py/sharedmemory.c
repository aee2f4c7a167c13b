// _core.SharedBlock, the memory of a SharedArray, and _core.SharedMutex.
//
// A block is a segment whose bytes, behind a page of header, are lent out by the buffer
// protocol: NumPy's arrays keep the block, and the last of them ends the mapping.
//
// A mutex that a thread of this process holds must stay mapped: its memory is on the list
// of locks that the kernel walks when the thread dies.  So while it is held the object
// holds a reference to itself.
#include "py/shared.h"

#include <math.h>

#include "shm/mutex.h"
#include "shm/segment.h"

#define HEADER_BYTES ((size_t)4096)  // keeps the elements on a boundary of a page

// ---- SharedBlock ----

typedef struct block_object {
    PyObject_HEAD
    pd_segment *segment;  // owned; immutable, like what follows
    void *data;
    size_t nbytes;
} block_object;

// What making a block takes, for pd_shared_run().
typedef struct opening {
    int fd;
    size_t nbytes;
    pd_segment *segment;
    pd_mutex *mutex;
} opening;

static pd_status
op_open_block(void *arg, int64_t wait_ns)
{
    opening *o = arg;
    size_t bytes = HEADER_BYTES + o->nbytes;
    (void)wait_ns;
    return o->fd < 0 ? pd_segment_create(PD_SEGMENT_ARRAY, bytes, bytes, &o->segment)
                     : pd_segment_attach(o->fd, PD_SEGMENT_ARRAY, bytes, &o->segment);
}

static PyObject *
block_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int fd;
    Py_ssize_t nbytes;
    if (!PyArg_ParseTuple(args, "in:SharedBlock", &fd, &nbytes)) {
        return NULL;
    }
    if (nbytes < 0 || nbytes > PY_SSIZE_T_MAX / 4) {
        return nbytes < 0 ? pd_raise(PD_EINVAL) : PyErr_NoMemory();
    }
    opening o = {.fd = fd, .nbytes = (size_t)nbytes};
    pd_status status = pd_shared_run(op_open_block, &o, true, -1);
    if (status != PD_OK) {
        return pd_raise(status);
    }
    void *data = pd_segment_at(o.segment, HEADER_BYTES, o.nbytes);
    block_object *self = data != NULL ? (block_object *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        // An attached descriptor is the caller's on failure.
        fd < 0 ? pd_segment_destroy(o.segment) : pd_segment_release(o.segment);
        return data == NULL ? pd_raise(PD_ECORRUPT) : NULL;
    }
    self->segment = o.segment;
    self->data = data;
    self->nbytes = o.nbytes;
    return (PyObject *)self;
}

static void
block_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    pd_segment *segment = ((block_object *)op)->segment;

    Py_BEGIN_ALLOW_THREADS  // gigabytes of pages may be freed
    pd_segment_destroy(segment);
    Py_END_ALLOW_THREADS
    type->tp_free(op);
    Py_DECREF(type);  // a heap type is referenced by its instances
}

static int
block_buffer(PyObject *op, Py_buffer *view, int flags)
{
    block_object *self = (block_object *)op;
    return PyBuffer_FillInfo(view, op, self->data, (Py_ssize_t)self->nbytes, 0, flags);
}

PyDoc_STRVAR(fileno_doc,
             "fileno($self, /)\n--\n\nThe descriptor of the shared memory.");

static PyObject *
block_fileno(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(((block_object *)op)->segment->fd);
}

static PyObject *
block_address(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromVoidPtr(((block_object *)op)->data);
}

static PyObject *
block_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(((block_object *)op)->nbytes);
}

static PyMethodDef block_methods[] = {
    {"fileno", block_fileno, METH_NOARGS, fileno_doc},
    {NULL,     NULL,         0,           NULL      },
};

static PyGetSetDef block_getset[] = {
    {"address", block_address, NULL, "Where this process has it.", NULL},
    {"nbytes",  block_nbytes,  NULL, "Its size.",                  NULL},
    {NULL,      NULL,          NULL, NULL,                         NULL},
};

static PyType_Slot block_slots[] = {
    {Py_tp_doc,       "Bytes in shared memory: SharedBlock(fd or -1, nbytes)."},
    {Py_tp_new,       block_new                                               },
    {Py_tp_dealloc,   block_dealloc                                           },
    {Py_tp_methods,   block_methods                                           },
    {Py_tp_getset,    block_getset                                            },
    {Py_bf_getbuffer, block_buffer                                            },
    {0,               NULL                                                    },
};

static PyType_Spec block_spec = {
    .name = "pydistrib._core.SharedBlock",
    .basicsize = sizeof(block_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = block_slots,
};

int
pd_add_block_type(PyObject *module)
{
    PyTypeObject *type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &block_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, type);
    Py_DECREF(type);
    return result;
}

// ---- SharedMutex ----

typedef struct mutex_object {
    PyObject_HEAD
    pd_mutex *mutex;  // owned; immutable
    // Guarded by the mutex itself, which whoever writes them holds.
    bool held;        // by a thread of this process: the object refers to itself
    bool owner_died;  // before the present owner got it
} mutex_object;

static pd_status
op_open_mutex(void *arg, int64_t wait_ns)
{
    opening *o = arg;
    (void)wait_ns;
    return o->fd < 0 ? pd_mutex_create(&o->mutex) : pd_mutex_attach(o->fd, &o->mutex);
}

static PyObject *
mutex_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int fd;
    if (!PyArg_ParseTuple(args, "i:SharedMutex", &fd)) {
        return NULL;
    }
    opening o = {.fd = fd};
    pd_status status = pd_shared_run(op_open_mutex, &o, false, -1);
    if (status != PD_OK) {
        return pd_raise(status);
    }
    mutex_object *self = (mutex_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        pd_mutex_destroy(o.mutex);
        return NULL;
    }
    self->mutex = o.mutex;
    return (PyObject *)self;
}

static int
mutex_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
mutex_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    pd_mutex_destroy(((mutex_object *)op)->mutex);
    type->tp_free(op);
    Py_DECREF(type);  // a heap type is referenced by its instances
}

typedef struct acquiring {
    pd_mutex *mutex;
    bool died;
} acquiring;

static pd_status
op_acquire(void *arg, int64_t wait_ns)
{
    acquiring *a = arg;
    return pd_mutex_acquire(a->mutex, wait_ns, &a->died);
}

// Takes it, or not within `give_up_ns`.  NULL with an exception.
static PyObject *
acquire(mutex_object *self, int64_t give_up_ns)
{
    acquiring a = {.mutex = self->mutex};
    pd_status status = pd_shared_run(op_acquire, &a, false, give_up_ns);
    if (status == PD_ETIMEDOUT || (status == PD_EINVAL && give_up_ns >= 0)) {
        Py_RETURN_FALSE;
    }
    if (status == PD_EINVAL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this thread holds the lock already, and would wait for ever");
        return NULL;
    }
    if (status != PD_OK) {
        return pd_raise(status);
    }
    self->owner_died = a.died;
    if (!self->held) {
        self->held = true;
        Py_INCREF(self);
    }
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(acquire_doc,
             "acquire($self, blocking=True, timeout=-1)\n--\n\n"
             "Take the lock, waiting for it at most `timeout` seconds; negative: "
             "without limit.\n\n"
             "Returns whether it was taken.  Waiting for a lock that the same thread "
             "holds is a\n"
             "RuntimeError.  When the thread or process that held it died, the next "
             "one gets it\n"
             "at once, and `owner_died` is True until it is released.");

static PyObject *
mutex_acquire(PyObject *op, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"blocking", "timeout", NULL};
    int blocking = 1;
    PyObject *timeout = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|pO:acquire", names, &blocking,
                                     &timeout))
    {
        return NULL;
    }
    double seconds = -1;
    if (timeout != NULL && timeout != Py_None) {
        seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (isnan(seconds) || (!blocking && seconds >= 0)) {
        PyErr_SetString(PyExc_ValueError, isnan(seconds)
                                              ? "timeout must be a number of seconds"
                                              : "a timeout needs blocking=True");
        return NULL;
    }
    int64_t ns = seconds < 0 || seconds > 9e9 ? -1 : (int64_t)(seconds * 1e9);
    return acquire((mutex_object *)op, blocking ? ns : 0);
}

PyDoc_STRVAR(release_doc,
             "release($self, /)\n--\n\n"
             "Give the lock back; a RuntimeError if this thread does not hold it.");

static PyObject *
mutex_release(PyObject *op, PyObject *Py_UNUSED(unused))
{
    mutex_object *self = (mutex_object *)op;
    bool held = self->held, died = self->owner_died;
    // Before the release: afterwards they are another's.
    if (pd_mutex_is_mine(self->mutex)) {
        self->held = false;
        self->owner_died = false;
        if (pd_mutex_release(self->mutex) == PD_OK) {
            if (held) {
                Py_DECREF(self);  // the caller has another
            }
            Py_RETURN_NONE;
        }
        self->held = held;
        self->owner_died = died;
    }
    PyErr_SetString(PyExc_RuntimeError, "this thread does not hold the lock");
    return NULL;
}

static PyObject *
mutex_enter(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return acquire((mutex_object *)op, -1);
}

static PyObject *
mutex_exit(PyObject *op, PyObject *Py_UNUSED(args))
{
    return mutex_release(op, NULL);
}

PyDoc_STRVAR(
    locked_doc,
    "locked($self, /)\n--\n\nWhether any thread of any process holds the lock.");

static PyObject *
mutex_locked(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(pd_mutex_is_held(((mutex_object *)op)->mutex));
}

static PyObject *
mutex_fileno(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(pd_mutex_fd(((mutex_object *)op)->mutex));
}

static PyObject *
mutex_owner_died(PyObject *op, void *Py_UNUSED(closure))
{
    mutex_object *self = (mutex_object *)op;
    return PyBool_FromLong(pd_mutex_is_mine(self->mutex) && self->owner_died);
}

static PyMethodDef mutex_methods[] = {
    {"acquire",   (PyCFunction)(void (*)(void))mutex_acquire,
     METH_VARARGS | METH_KEYWORDS,                                          acquire_doc},
    {"release",   mutex_release,                              METH_NOARGS,  release_doc},
    {"locked",    mutex_locked,                               METH_NOARGS,  locked_doc },
    {"fileno",    mutex_fileno,                               METH_NOARGS,  fileno_doc },
    {"__enter__", mutex_enter,                                METH_NOARGS,  NULL       },
    {"__exit__",  mutex_exit,                                 METH_VARARGS, NULL       },
    {NULL,        NULL,                                       0,            NULL       },
};

static PyGetSetDef mutex_getset[] = {
    {"owner_died", mutex_owner_died, NULL,
     "Whether this thread has the lock because the one that had it died.", NULL},
    {NULL,         NULL,             NULL, NULL,                           NULL},
};

static PyType_Slot mutex_slots[] = {
    {Py_tp_doc,      "A lock in shared memory: SharedMutex(fd or -1)."},
    {Py_tp_new,      mutex_new                                        },
    {Py_tp_traverse, mutex_traverse                                   },
    {Py_tp_dealloc,  mutex_dealloc                                    },
    {Py_tp_methods,  mutex_methods                                    },
    {Py_tp_getset,   mutex_getset                                     },
    {0,              NULL                                             },
};

static PyType_Spec mutex_spec = {
    .name = "pydistrib._core.SharedMutex",
    .basicsize = sizeof(mutex_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = mutex_slots,
};

int
pd_add_mutex_type(PyObject *module)
{
    PyTypeObject *type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &mutex_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, type);
    Py_DECREF(type);
    return result;
}
