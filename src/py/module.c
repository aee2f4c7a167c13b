// pydistrib._core: the module object.  It only collects what the other files offer.
#define PD_IMPORT_NUMPY
#include "py/binding.h"
#include "py/board.h"
#include "py/producer.h"
#include "py/shared.h"
#include "py/tasks.h"

PyObject *
pd_raise(pd_status status)
{
    if (PyErr_Occurred()) {
        return NULL;
    }
    switch (status) {
        case PD_ENOMEM:
            return PyErr_NoMemory();
        case PD_EOS:
            return PyErr_SetFromErrno(PyExc_OSError);
        case PD_EINVAL:
            PyErr_SetString(PyExc_ValueError, pd_status_text(status));
            return NULL;
        default:
            PyErr_SetString(PyExc_RuntimeError, pd_status_text(status));
            return NULL;
    }
}

static int
add_main_thread(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *threading = PyImport_ImportModule("threading");
    if (threading == NULL) {
        return -1;
    }
    state->main_thread = PyObject_GetAttrString(threading, "main_thread");
    Py_DECREF(threading);
    return state->main_thread == NULL ? -1 : 0;
}

static int
core_exec(PyObject *module)
{
    if (PyArray_ImportNumPyAPI() < 0 || pd_import_ufuncs() < 0) {
        return -1;
    }
    PyMethodDef *const tables[] = {
        pd_callable_methods, pd_desk_methods,     pd_expr_methods,   pd_metric_methods,
        pd_result_methods,   pd_settings_methods, pd_shared_methods, pd_store_methods,
    };
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0) {
            return -1;
        }
    }
    int (*const adders[])(PyObject *) = {
        pd_add_producer_type, pd_add_result_handler, pd_add_queue_type,
        pd_add_async_types,   pd_add_stream_type,    pd_add_counter_type,
        pd_add_piece_type,    pd_add_job_type,       pd_add_board_types,
        pd_add_desk_types,    pd_add_pin_type,       pd_add_table_type,
        pd_add_block_type,    pd_add_mutex_type,     add_main_thread,
    };
    for (size_t i = 0; i < sizeof(adders) / sizeof(adders[0]); i++) {
        if (adders[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    pd_module_state *state = PyModule_GetState(module);
    Py_VISIT(state->producer_type);
    Py_VISIT(state->result_handler);
    Py_VISIT(state->queue_type);
    Py_VISIT(state->async_type);
    Py_VISIT(state->map_type);
    Py_VISIT(state->stream_type);
    Py_VISIT(state->lane_type);
    Py_VISIT(state->board_type);
    Py_VISIT(state->job_type);
    Py_VISIT(state->piece_type);
    Py_VISIT(state->tray_type);
    Py_VISIT(state->lease_type);
    Py_VISIT(state->timeout_error);
    Py_VISIT(state->cancelled_error);
    Py_VISIT(state->awaiter);
    Py_VISIT(state->anext);
    Py_VISIT(state->report);
    Py_VISIT(state->main_thread);
    Py_VISIT(state->shared.array_type);
    Py_VISIT(state->shared.dtype_to_text);
    Py_VISIT(state->shared.text_to_dtype);
    Py_VISIT(state->shared.dumps);
    Py_VISIT(state->shared.loads);
    Py_VISIT(state->shared.pin_type);
    return 0;
}

static int
core_clear(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->producer_type);
    Py_CLEAR(state->result_handler);
    Py_CLEAR(state->queue_type);
    Py_CLEAR(state->async_type);
    Py_CLEAR(state->map_type);
    Py_CLEAR(state->stream_type);
    Py_CLEAR(state->lane_type);
    Py_CLEAR(state->board_type);
    Py_CLEAR(state->job_type);
    Py_CLEAR(state->piece_type);
    Py_CLEAR(state->tray_type);
    Py_CLEAR(state->lease_type);
    Py_CLEAR(state->timeout_error);
    Py_CLEAR(state->cancelled_error);
    Py_CLEAR(state->awaiter);
    Py_CLEAR(state->anext);
    Py_CLEAR(state->report);
    Py_CLEAR(state->main_thread);
    Py_CLEAR(state->shared.array_type);
    Py_CLEAR(state->shared.dtype_to_text);
    Py_CLEAR(state->shared.text_to_dtype);
    Py_CLEAR(state->shared.dumps);
    Py_CLEAR(state->shared.loads);
    Py_CLEAR(state->shared.pin_type);
    return 0;
}

static void
core_free(void *module)
{
    (void)core_clear(module);  // also undoes a core_exec() that failed half way
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec,                  core_exec                                 },
#if PY_VERSION_HEX >= 0x030C0000
    // NumPy, whose C API this module uses, runs in one interpreter only.
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    // What calls share is atomic or guarded by a mutex of the core; each Python
    // object that changes is guarded by its critical section.
    {Py_mod_gil,                   Py_MOD_GIL_NOT_USED                       },
#endif
    {0,                            NULL                                      },
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pydistrib._core",
    .m_doc = "The native core of pydistrib.",
    .m_size = sizeof(pd_module_state),
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

pd_module_state *
pd_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &core_module);
    return module != NULL ? PyModule_GetState(module) : NULL;
}

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
