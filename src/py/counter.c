// _core.Counter: an integer that threads add to without a lock.
//
// A 64-bit atomic, so that counting costs no Python object, no lock and no retry under
// the GIL or without it.  Overflow is an error and leaves the value as it was.
#include "py/binding.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct counter {
    PyObject_HEAD
    _Atomic int64_t value;
} counter;

static int
to_int64(PyObject *object, int64_t *value)
{
    PyObject *index = PyNumber_Index(object);
    if (index == NULL) {
        return -1;
    }
    long long number = PyLong_AsLongLong(index);
    Py_DECREF(index);
    if (number == -1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_SetString(PyExc_OverflowError, "a Counter holds 64 bits");
        }
        return -1;
    }
    *value = number;
    return 0;
}

static PyObject *
counter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"value", NULL};
    PyObject *object = NULL;
    int64_t value = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Counter", names, &object) ||
        (object != NULL && to_int64(object, &value) < 0))
    {
        return NULL;
    }
    counter *self = (counter *)type->tp_alloc(type, 0);
    if (self != NULL) {
        atomic_init(&self->value, value);
    }
    return (PyObject *)self;
}

static void
counter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

// *after = the value that adding `n` gave.
static int
add(counter *self, int64_t n, int64_t *after)
{
    int64_t before = atomic_load_explicit(&self->value, memory_order_relaxed);
    do {
        if (__builtin_add_overflow(before, n, after)) {
            PyErr_SetString(PyExc_OverflowError, "a Counter holds 64 bits");
            return -1;
        }
    } while (!atomic_compare_exchange_weak(&self->value, &before, *after));
    return 0;
}

PyDoc_STRVAR(add_doc,
             "add($self, n=1, /)\n--\n\n"
             "Add to the value, as one step.\n"
             "\n"
             "Parameters\n"
             "----------\n"
             "n : int, optional\n"
             "    What to add.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "int\n"
             "    The new value.\n"
             "\n"
             "Raises\n"
             "------\n"
             "OverflowError\n"
             "    If that has more than 64 bits; the value is what it was.\n");

static PyObject *
counter_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t n = 1;
    int64_t after;
    if (nargs > 1) {
        return PyErr_Format(PyExc_TypeError, "add() takes at most 1 argument, not %zd",
                            nargs);
    }
    if ((nargs == 1 && to_int64(args[0], &n) < 0) || add((counter *)op, n, &after) < 0)
    {
        return NULL;
    }
    return PyLong_FromLongLong(after);
}

PyDoc_STRVAR(exchange_doc,
             "exchange($self, value, /)\n--\n\n"
             "Set the value, as one step.\n"
             "\n"
             "Parameters\n"
             "----------\n"
             "value : int\n"
             "    The new value.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "int\n"
             "    The value before.\n");

static PyObject *
counter_exchange(PyObject *op, PyObject *object)
{
    int64_t value;
    if (to_int64(object, &value) < 0) {
        return NULL;
    }
    return PyLong_FromLongLong(atomic_exchange(&((counter *)op)->value, value));
}

PyDoc_STRVAR(compare_and_set_doc,
             "compare_and_set($self, expected, value, /)\n--\n\n"
             "Set the value if it is the expected one, as one step.\n"
             "\n"
             "Parameters\n"
             "----------\n"
             "expected : int\n"
             "    What the value has to be.\n"
             "value : int\n"
             "    The new value.\n"
             "\n"
             "Returns\n"
             "-------\n"
             "bool\n"
             "    True if the value was the expected one, and was set.\n");

static PyObject *
counter_compare_and_set(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t expected, value;
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError,
                            "compare_and_set() takes 2 arguments, not %zd", nargs);
    }
    if (to_int64(args[0], &expected) < 0 || to_int64(args[1], &value) < 0) {
        return NULL;
    }
    return PyBool_FromLong(
        atomic_compare_exchange_strong(&((counter *)op)->value, &expected, value));
}

static PyObject *
counter_iadd(PyObject *op, PyObject *other)
{
    int64_t n, after;
    if (!PyIndex_Check(other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (to_int64(other, &n) < 0 || add((counter *)op, n, &after) < 0) {
        return NULL;
    }
    return Py_NewRef(op);
}

static PyObject *
counter_isub(PyObject *op, PyObject *other)
{
    int64_t n, after;
    if (!PyIndex_Check(other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (to_int64(other, &n) < 0) {
        return NULL;
    }
    if (n == INT64_MIN) {
        PyErr_SetString(PyExc_OverflowError, "a Counter holds 64 bits");
        return NULL;
    }
    if (add((counter *)op, -n, &after) < 0) {
        return NULL;
    }
    return Py_NewRef(op);
}

static PyObject *
counter_int(PyObject *op)
{
    return PyLong_FromLongLong(atomic_load(&((counter *)op)->value));
}

static PyObject *
counter_value(PyObject *op, void *Py_UNUSED(closure))
{
    return counter_int(op);
}

static PyObject *
counter_repr(PyObject *op)
{
    return PyUnicode_FromFormat("Counter(%lld)",
                                (long long)atomic_load(&((counter *)op)->value));
}

static PyMethodDef counter_methods[] = {
    {"add",             (PyCFunction)(void (*)(void))counter_add,             METH_FASTCALL, add_doc            },
    {"exchange",        counter_exchange,                                     METH_O,        exchange_doc       },
    {"compare_and_set", (PyCFunction)(void (*)(void))counter_compare_and_set,
     METH_FASTCALL,                                                                          compare_and_set_doc},
    {NULL,              NULL,                                                 0,             NULL               },
};

static PyGetSetDef counter_getset[] = {
    {"value", counter_value, NULL, "The value now.", NULL},
    {NULL,    NULL,          NULL, NULL,             NULL},
};

PyDoc_STRVAR(
    counter_doc,
    "Counter(value=0)\n--\n\n"
    "An integer that many threads can add to without a lock.\n\n"
    "Each method is one indivisible step; ``counter += n`` adds as `add` does.\n"
    "It holds 64 bits: OverflowError, and no change, beyond them.\n\n"
    "Parameters\n----------\n"
    "value : int, optional\n    The value to begin with.\n\n"
    "See Also\n--------\n"
    "Local : One value for each thread, added up when it is read.\n\n"
    "Examples\n--------\n"
    ">>> from pydistrib import Counter\n"
    ">>> hits = Counter()\n"
    ">>> hits.add(3)\n3\n"
    ">>> hits += 1\n"
    ">>> hits.value\n4\n");

static PyType_Slot counter_slots[] = {
    {Py_tp_doc,              (void *)counter_doc},
    {Py_tp_new,              counter_new        },
    {Py_tp_dealloc,          counter_dealloc    },
    {Py_tp_repr,             counter_repr       },
    {Py_tp_methods,          counter_methods    },
    {Py_tp_getset,           counter_getset     },
    {Py_nb_inplace_add,      counter_iadd       },
    {Py_nb_inplace_subtract, counter_isub       },
    {Py_nb_int,              counter_int        },
    {Py_nb_index,            counter_int        },
    {0,                      NULL               },
};

static PyType_Spec counter_spec = {
    .name = "pydistrib._core.Counter",
    .basicsize = sizeof(counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = counter_slots,
};

int
pd_add_counter_type(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &counter_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}
