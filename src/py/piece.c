// _core.Piece: shared memory that exports a buffer.
#include "py/board.h"

#include <string.h>
#include <structmember.h>

#define LONG_COPY ((size_t)256 << 10)

void
pd_copy_out(char *to, const char *from, size_t bytes)
{
    if (bytes < LONG_COPY) {
        memcpy(to, from, bytes);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, bytes);
    Py_END_ALLOW_THREADS
}

PyObject *
pd_piece_new(PyObject *module,
             PyObject *owner,
             void (*drop)(pd_piece *piece),
             char *data,
             Py_ssize_t bytes,
             pd_span span)
{
    pd_module_state *state = PyModule_GetState(module);
    pd_piece *self = PyObject_New(pd_piece, state->piece_type);
    if (self == NULL) {
        return NULL;
    }
    self->owner = Py_NewRef(owner);
    self->drop = drop;
    self->data = data;
    self->bytes = bytes;
    self->span = span;
    self->shared = false;
    self->weakrefs = NULL;
    return (PyObject *)self;
}

static void
piece_dealloc(PyObject *op)
{
    pd_piece *self = (pd_piece *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    self->drop(self);
    Py_DECREF(self->owner);
    type->tp_free(op);
    Py_DECREF(type);
}

static int
piece_get_buffer(PyObject *op, Py_buffer *view, int flags)
{
    pd_piece *self = (pd_piece *)op;
    return PyBuffer_FillInfo(view, op, self->data, self->bytes, 0, flags);
}

static Py_ssize_t
piece_length(PyObject *op)
{
    return ((pd_piece *)op)->bytes;
}

PyDoc_STRVAR(same_doc,
             "same($self, buffer, /)\n--\n\n"
             "Tell whether the buffer has the same bytes.");

static PyObject *
piece_same(PyObject *op, PyObject *object)
{
    pd_piece *self = (pd_piece *)op;
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    bool same = view.len == self->bytes;
    if (same) {
        Py_BEGIN_ALLOW_THREADS
        same = memcmp(view.buf, self->data, (size_t)self->bytes) == 0;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return PyBool_FromLong(same);
}

static PyMethodDef piece_methods[] = {
    {"same", piece_same, METH_O, same_doc},
    {NULL,   NULL,       0,      NULL    },
};

static PyMemberDef piece_members[] = {
    {"shared", T_BOOL, offsetof(pd_piece, shared), 0,
     "Whether several tasks may have it."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(pd_piece, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(piece_doc, "A piece of shared memory; use it through a memoryview.");

static PyType_Slot piece_slots[] = {
    {Py_tp_doc,       (void *)piece_doc},
    {Py_tp_dealloc,   piece_dealloc    },
    {Py_tp_methods,   piece_methods    },
    {Py_tp_members,   piece_members    },
    {Py_sq_length,    piece_length     },
    {Py_bf_getbuffer, piece_get_buffer },
    {0,               NULL             },
};

static PyType_Spec piece_spec = {
    .name = "pydistrib._core.Piece",
    .basicsize = sizeof(pd_piece),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = piece_slots,
};

int
pd_add_piece_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->piece_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &piece_spec, NULL);
    return state->piece_type == NULL ? -1 : PyModule_AddType(module, state->piece_type);
}
