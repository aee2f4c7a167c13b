// Result arrays whose memory is recycled (base/recycle.h) through NumPy's data-memory
// handler: they own their data like any other array, and the handler that made the
// memory frees it, whoever drops the array.
#include "py/binding.h"

#include "base/recycle.h"

static void *
handler_malloc(void *Py_UNUSED(context), size_t bytes)
{
    return pd_recycle_alloc(bytes);
}

static void *
handler_calloc(void *Py_UNUSED(context), size_t count, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? NULL
                                                       : pd_recycle_calloc(bytes);
}

static void *
handler_realloc(void *Py_UNUSED(context), void *block, size_t bytes)
{
    return pd_recycle_realloc(block, bytes);
}

static void
handler_free(void *Py_UNUSED(context), void *block, size_t Py_UNUSED(bytes))
{
    pd_recycle_free(block);
}

// Outlives every array made with it, hence static; never written.
static PyDataMem_Handler handler = {
    .name = "pydistrib_recycle",
    .version = 1,
    .allocator =
        {
                    .ctx = NULL,
                    .malloc = handler_malloc,
                    .calloc = handler_calloc,
                    .realloc = handler_realloc,
                    .free = handler_free,
                    },
};

int
pd_add_result_handler(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->result_handler = PyCapsule_New(&handler, "mem_handler", NULL);
    return state->result_handler == NULL ? -1 : 0;
}

PyDoc_STRVAR(empty_result_doc,
             "empty_result($module, n, m, dtype, /)\n--\n\n"
             "An uninitialised C-ordered (n, m) array whose memory is recycled.");

static PyObject *
empty_result(PyObject *module, PyObject *args)
{
    pd_module_state *state = PyModule_GetState(module);
    npy_intp shape[2];
    PyArray_Descr *dtype = NULL;
    if (!PyArg_ParseTuple(args, "nnO&:empty_result", &shape[0], &shape[1],
                          PyArray_DescrConverter, &dtype))
    {
        return NULL;
    }
    npy_intp bytes;
    if (__builtin_mul_overflow(shape[0], shape[1], &bytes) ||
        __builtin_mul_overflow(bytes, PyDataType_ELSIZE(dtype), &bytes))
    {
        PyErr_Format(PyExc_MemoryError,
                     "a result of shape (%zd, %zd) is larger than the address space",
                     shape[0], shape[1]);
        Py_DECREF(dtype);
        return NULL;
    }
    if ((size_t)bytes < PD_RECYCLE_MIN_BYTES) {
        return PyArray_NewFromDescr(&PyArray_Type, dtype, 2, shape, NULL, NULL, 0,
                                    NULL);
    }
    // The handler in force is a context variable: nobody else sees ours.
    PyObject *previous = PyDataMem_SetHandler(state->result_handler);
    if (previous == NULL) {
        Py_DECREF(dtype);
        return NULL;
    }
    PyObject *array =
        PyArray_NewFromDescr(&PyArray_Type, dtype, 2, shape, NULL, NULL, 0, NULL);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *ours = PyDataMem_SetHandler(previous);
    Py_DECREF(previous);
    if (ours == NULL) {
        Py_CLEAR(array);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return NULL;
    }
    Py_DECREF(ours);
    PyErr_Restore(type, value, traceback);
    return array;
}

PyDoc_STRVAR(
    result_cache_info_doc,
    "result_cache_info($module, /)\n--\n\n"
    "Bytes of freed results that are held for re-use, and the most there can be.");

static PyObject *
result_cache_info(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    pd_recycle_state cache = pd_recycle_get_state();
    return Py_BuildValue("{s:n,s:n}", "held", (Py_ssize_t)cache.held, "limit",
                         (Py_ssize_t)cache.limit);
}

PyDoc_STRVAR(set_result_cache_limit_doc,
             "set_result_cache_limit($module, limit, /)\n--\n\n"
             "Hold at most `limit` bytes of freed results; gives back what is above.");

static PyObject *
set_result_cache_limit(PyObject *Py_UNUSED(module), PyObject *limit)
{
    Py_ssize_t bytes = PyNumber_AsSsize_t(limit, PyExc_OverflowError);
    if (bytes == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (bytes < 0) {
        PyErr_Format(PyExc_ValueError, "limit must be at least 0, not %zd", bytes);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    pd_recycle_set_limit((size_t)bytes);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(recycle_results_doc,
             "recycle_results($module, /)\n--\n\n"
             "Recycle the memory of all arrays that NumPy makes in this context.\n\n"
             "For workers, whose large results live until they were copied.");

static PyObject *
recycle_results(PyObject *module, PyObject *Py_UNUSED(unused))
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *previous = PyDataMem_SetHandler(state->result_handler);
    if (previous == NULL) {
        return NULL;
    }
    Py_DECREF(previous);
    Py_RETURN_NONE;
}

PyMethodDef pd_result_methods[] = {
    {"recycle_results",        recycle_results,        METH_NOARGS,  recycle_results_doc  },
    {"empty_result",           empty_result,           METH_VARARGS, empty_result_doc     },
    {"result_cache_info",      result_cache_info,      METH_NOARGS,  result_cache_info_doc},
    {"set_result_cache_limit", set_result_cache_limit, METH_O,
     set_result_cache_limit_doc                                                           },
    {NULL,                     NULL,                   0,            NULL                 },
};
