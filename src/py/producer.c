// _core.Producer, and the way from an ndarray to a pd_matrix.
#include "py/producer.h"

static int
producer_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((pd_producer_object *)op)->reads);
    return 0;
}

static int
producer_clear(PyObject *op)
{
    Py_CLEAR(((pd_producer_object *)op)->reads);
    return 0;
}

static void
producer_dealloc(PyObject *op)
{
    pd_producer_object *self = (pd_producer_object *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    self->destroy(self->producer);
    (void)producer_clear(op);
    type->tp_free(op);
    Py_DECREF(type);  // a heap type is referenced by its instances
}

static PyObject *
producer_shape(PyObject *op, void *Py_UNUSED(closure))
{
    pd_producer_object *self = (pd_producer_object *)op;
    return Py_BuildValue("(nn)", self->rows, self->cols);
}

static PyObject *
producer_has_doubts(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((pd_producer_object *)op)->producer->has_doubts);
}

static PyGetSetDef producer_getset[] = {
    {"shape",      producer_shape,      NULL, "Shape (n, m) of the matrix.",    NULL},
    {"has_doubts", producer_has_doubts, NULL, "Whether pairs may be in doubt.", NULL},
    {NULL,         NULL,                NULL, NULL,                             NULL},
};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc,      "One way to compute the values of all pairs of two arrays."},
    {Py_tp_traverse, producer_traverse                                          },
    {Py_tp_clear,    producer_clear                                             },
    {Py_tp_dealloc,  producer_dealloc                                           },
    {Py_tp_getset,   producer_getset                                            },
    {0,              NULL                                                       },
};

static PyType_Spec producer_spec = {
    .name = "pydistrib._core.Producer",
    .basicsize = sizeof(pd_producer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = producer_slots,
};

int
pd_add_producer_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->producer_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &producer_spec, NULL);
    if (state->producer_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->producer_type);
}

PyObject *
pd_producer_wrap(PyObject *module,
                 pd_producer *producer,
                 void (*destroy)(pd_producer *),
                 PyObject *reads,
                 const pd_matrix *x,
                 const pd_matrix *y,
                 bool needs_gil)
{
    pd_module_state *state = PyModule_GetState(module);
    PyTypeObject *type = state->producer_type;
    pd_producer_object *self = (pd_producer_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        destroy(producer);
        return NULL;
    }
    self->producer = producer;
    self->destroy = destroy;
    self->reads = Py_NewRef(reads);
    self->rows = (Py_ssize_t)x->rows;
    self->cols = (Py_ssize_t)y->rows;
    self->needs_gil = needs_gil;
    return (PyObject *)self;
}

pd_producer_object *
pd_producer_check(PyObject *module, PyObject *object)
{
    pd_module_state *state = PyModule_GetState(module);
    if (!PyObject_TypeCheck(object, state->producer_type)) {
        PyErr_Format(PyExc_TypeError, "expected a Producer, not %.200s",
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    if (((pd_producer_object *)object)->reads == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the garbage collector has cleared this producer");
        return NULL;
    }
    return (pd_producer_object *)object;
}

int
pd_matrix_from_array(PyObject *object, const char *name, pd_matrix *matrix)
{
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be an ndarray, not %.200s", name,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    int type = PyArray_TYPE(array);
    int ndim = PyArray_NDIM(array);
    if ((type != NPY_FLOAT && type != NPY_DOUBLE) || !PyArray_ISBEHAVED_RO(array) ||
        ndim < 1 || ndim > 2)
    {
        PyErr_Format(PyExc_TypeError,
                     "%s must be a 1-D or 2-D aligned native float32 or float64 array",
                     name);
        return -1;
    }
    *matrix = (pd_matrix){
        .data = PyArray_BYTES(array),
        .row_stride = PyArray_STRIDE(array, 0),
        .col_stride = ndim == 2 ? PyArray_STRIDE(array, 1) : 0,
        .rows = (size_t)PyArray_DIM(array, 0),
        .cols = ndim == 2 ? (size_t)PyArray_DIM(array, 1) : 1,
        .real = type == NPY_FLOAT ? PD_F32 : PD_F64,
    };
    return 0;
}
