// _core.Job: what is posted on a board, and whom its outcome is for.
//
// The engine's tasks are subclasses.  What is here is read and written for every task: the
// board takes a job as it is, and whoever collects its outcome settles it without Python
// code, so that a signal's handler can't come in between.
#include "py/board.h"

#include <structmember.h>

#include "py/async.h"

static bool
is_single(const pd_job *self)
{
    return self->mode == PD_MODE_ITEM || self->mode == PD_MODE_STAR;
}

void
pd_job_settle(pd_job *self, bool success, PyObject *value)
{
    pd_async *result = (pd_async *)self->result;
    if (self->settled || result == NULL) {
        return;
    }
    self->settled = true;
    if (Py_IS_TYPE(result, pd_state_of_type(Py_TYPE(self))->map_type)) {
        pd_map_part(result, self->start, self->count, success, is_single(self), value);
    }
    else if (pd_async_claim_outcome(result)) {
        pd_async_settle(result, !success, Py_NewRef(value), false);
    }
}

PyDoc_STRVAR(settle_doc,
             "settle($self, success, value, /)\n--\n\n"
             "Give the outcome to the result that it is for, once.");

static PyObject *
job_settle(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || (args[0] != Py_True && !PyExceptionInstance_Check(args[1]))) {
        PyErr_SetString(PyExc_TypeError,
                        "settle() takes True and a value, or False "
                        "and an exception");
        return NULL;
    }
    pd_job_settle((pd_job *)op, args[0] == Py_True, args[1]);
    Py_RETURN_NONE;
}

static int
set_result(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    pd_module_state *state = pd_state_of_type(Py_TYPE(op));
    if (value == NULL || !PyObject_TypeCheck(value, state->async_type)) {
        PyErr_SetString(PyExc_TypeError, "result must be an AsyncResult");
        return -1;
    }
    Py_XSETREF(((pd_job *)op)->result, Py_NewRef(value));
    return 0;
}

static PyObject *
get_result(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *result = ((pd_job *)op)->result;
    return Py_NewRef(result == NULL ? Py_None : result);
}

// ------------------------------------------------------------------------------
// The type
// ------------------------------------------------------------------------------

static int
job_traverse(PyObject *op, visitproc visit, void *arg)
{
    pd_job *self = (pd_job *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->result);
    Py_VISIT(self->function);
    Py_VISIT(self->payload);
    Py_VISIT(self->pieces);
    Py_VISIT(self->source);
    Py_VISIT(self->limit);
    Py_VISIT(self->group);
    return 0;
}

static int
job_clear(PyObject *op)
{
    pd_job *self = (pd_job *)op;
    Py_CLEAR(self->result);
    Py_CLEAR(self->function);
    Py_CLEAR(self->payload);
    Py_CLEAR(self->pieces);
    Py_CLEAR(self->source);
    Py_CLEAR(self->limit);
    Py_CLEAR(self->group);
    return 0;
}

static void
job_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)job_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

// Subclasses take what they like.
static PyObject *
job_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    bool has_arguments =
        PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0);
    if (has_arguments && type->tp_init == PyBaseObject_Type.tp_init) {
        PyErr_SetString(PyExc_TypeError, "Job() takes no arguments");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static PyMethodDef job_methods[] = {
    {"settle", (PyCFunction)(void (*)(void))job_settle, METH_FASTCALL, settle_doc},
    {NULL,     NULL,                                    0,             NULL      },
};

static PyGetSetDef job_getset[] = {
    {"result", get_result, set_result, "Gets the outcome.", NULL},
    {NULL,     NULL,       NULL,       NULL,                NULL},
};

static PyMemberDef job_members[] = {
    {"mode", T_UINT, offsetof(pd_job, mode), 0, "How it is called."},
    {"start", T_PYSSIZET, offsetof(pd_job, start), 0, "Its first item of a map."},
    {"count", T_PYSSIZET, offsetof(pd_job, count), 0, "How many; 0: it is a call."},
    {"retries", T_INT, offsetof(pd_job, retries), 0, "After the worker's death."},
    {"announce", T_BOOL, offsetof(pd_job, announce), 0, "Its worker says it begins."},
    {"plain", T_BOOL, offsetof(pd_job, plain), 0, "Any thread may settle it."},
    {"cancelled", T_BOOL, offsetof(pd_job, cancelled), 0, "It is not wanted any more."},
    {"settled", T_BOOL, offsetof(pd_job, settled), 0, "It has had its outcome."},
    {"function", T_OBJECT, offsetof(pd_job, function), 0,
     "(number, code, None, pieces)"},
    {"payload", T_OBJECT, offsetof(pd_job, payload), 0, "A pickle, or a Piece."},
    {"pieces", T_OBJECT, offsetof(pd_job, pieces), 0, "A tuple of its buffers."},
    {"source", T_OBJECT, offsetof(pd_job, source), 0, "(function, argument)"},
    {"limit", T_OBJECT, offsetof(pd_job, limit), 0, "Seconds, or None."},
    {"group", T_OBJECT, offsetof(pd_job, group), 0, "What it is a part of."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    job_doc,
    "Job()\n--\n\nA task for a Board, and the result that its outcome is for.");

static PyType_Slot job_slots[] = {
    {Py_tp_doc,      (void *)job_doc},
    {Py_tp_new,      job_new        },
    {Py_tp_traverse, job_traverse   },
    {Py_tp_clear,    job_clear      },
    {Py_tp_dealloc,  job_dealloc    },
    {Py_tp_methods,  job_methods    },
    {Py_tp_getset,   job_getset     },
    {Py_tp_members,  job_members    },
    {0,              NULL           },
};

static PyType_Spec job_spec = {
    .name = "pydistrib._core.Job",
    .basicsize = sizeof(pd_job),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_BASETYPE,
    .slots = job_slots,
};

int
pd_add_job_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->job_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &job_spec, NULL);
    return state->job_type == NULL ? -1 : PyModule_AddType(module, state->job_type);
}
