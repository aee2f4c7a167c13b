// Calls, exceptions and time limits: what all that runs tasks shares.
#include "py/tasks.h"

PyObject *
pd_module_of(PyObject *self)
{
    return PyType_GetModule(Py_TYPE(self));
}

PyObject *
pd_take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_XDECREF(type);
    return value;
#endif
}

void
pd_raise_object(PyObject *exception)
{
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
}

PyObject *
pd_call(PyObject *function, PyObject *args, PyObject *kwargs)
{
    if (kwargs == NULL) {
        return PyObject_Vectorcall(function, &PyTuple_GET_ITEM(args, 0),
                                   (size_t)PyTuple_GET_SIZE(args), NULL);
    }
    return PyObject_Call(function, args, kwargs);
}

PyObject *
pd_call_item(PyObject *function, PyObject *item, bool star)
{
    if (!star) {
        // The slot before the argument is ours to lend to bound methods.
        PyObject *args[2] = {NULL, item};
        return PyObject_Vectorcall(function, args + 1,
                                   1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    PyObject *args = PySequence_Tuple(item);
    if (args == NULL) {
        return NULL;
    }
    PyObject *result = pd_call(function, args, NULL);
    Py_DECREF(args);
    return result;
}

int
pd_parse_timeout(PyObject *object, int64_t *timeout_ns)
{
    if (object == NULL || object == Py_None) {
        *timeout_ns = PD_FOREVER;
        return 0;
    }
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError,
                         "timeout must be a number of seconds or None, not %.200s",
                         Py_TYPE(object)->tp_name);
        }
        return -1;
    }
    if (seconds != seconds) {
        PyErr_SetString(PyExc_ValueError, "timeout must not be NaN");
        return -1;
    }
    *timeout_ns = seconds <= 0    ? 0
                  : seconds > 9e9 ? PD_FOREVER
                                  : (int64_t)(seconds * 1e9);
    return 0;
}

void
pd_report(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *error = pd_take_exception();
    PyObject *none =
        state->report == NULL ? NULL : PyObject_CallOneArg(state->report, error);
    if (none == NULL) {
        PyErr_Clear();  // the hook that tells of errors has one itself
    }
    Py_XDECREF(none);
    Py_DECREF(error);
}

PyObject *
pd_cancelled(PyObject *module, const char *why)
{
    pd_module_state *state = PyModule_GetState(module);
    return PyObject_CallFunction(state->cancelled_error, "s", why);
}
