// What the files of the binding share.  Only py/ may include Python.h.
//
// One file a subject; each offers a table of functions or a function that adds its
// types, and module.c puts them into the module.
#ifndef PD_PY_BINDING_H
#define PD_PY_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/status.h"

// NumPy's API table is imported once, by module.c, which defines PD_IMPORT_NUMPY.
#define PY_ARRAY_UNIQUE_SYMBOL pd_numpy_api
#ifndef PD_IMPORT_NUMPY
#    define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

// What the shared types use of Python; see pydistrib.shared.  Set once, when that is
// imported; all strong.
typedef struct pd_shared_hooks {
    PyObject *array_type;     // SharedArray
    PyObject *dtype_to_text;  // dtype -> str, or None if it has no name
    PyObject *text_to_dtype;  // back
    PyObject *dumps;          // pickle's
    PyObject *loads;
    PyTypeObject *pin_type;  // written by the exec slot
} pd_shared_hooks;

// The module's state; every reference is strong.  Written by the exec slot, and the
// pool hooks by pydistrib.pools when it is imported; then immutable.
typedef struct pd_module_state {
    PyTypeObject *producer_type;
    PyObject *result_handler;  // the capsule that NumPy takes
    PyTypeObject *queue_type;
    PyTypeObject *async_type;
    PyTypeObject *map_type;
    PyTypeObject *stream_type;
    PyTypeObject *lane_type;
    PyTypeObject *board_type;
    PyTypeObject *job_type;
    PyTypeObject *piece_type;
    PyTypeObject *tray_type;
    PyTypeObject *lease_type;
    PyObject *timeout_error;  // the pool hooks: see _set_pool_hooks()
    PyObject *cancelled_error;
    PyObject *awaiter;
    PyObject *anext;
    PyObject *report;
    PyObject *main_thread;  // threading.main_thread
    pd_shared_hooks shared;
} pd_module_state;

// The state of the module that `type` or a base of it belongs to; NULL with an exception.
pd_module_state *pd_state_of_type(PyTypeObject *type);

// Sets the exception that belongs to `status`, unless one is set already (a poll that
// met a KeyboardInterrupt has set it).  Returns NULL, for `return`.
PyObject *pd_raise(pd_status status);

// One table a subject, each ending with a zero row.
extern PyMethodDef pd_callable_methods[];
extern PyMethodDef pd_expr_methods[];
extern PyMethodDef pd_metric_methods[];
extern PyMethodDef pd_result_methods[];
extern PyMethodDef pd_settings_methods[];
extern PyMethodDef pd_shared_methods[];
extern PyMethodDef pd_store_methods[];
extern PyMethodDef pd_desk_methods[];

int pd_add_result_handler(PyObject *module);

// NumPy's second API table, which expr.c alone uses.
int pd_import_ufuncs(void);

#endif
