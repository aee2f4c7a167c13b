// _core.store: any producer x the consumer that stores.
#include "py/producer.h"

#include <math.h>
#include <stdatomic.h>

#include "pairwise/driver.h"
#include "pairwise/store.h"

// The Python thread that called, while it is inside the core without the GIL.
typedef struct detached_caller {
    PyThreadState *thread_state;
} detached_caller;

// Looks for Ctrl-C between strips.
static pd_status
poll_signals(void *arg)
{
    detached_caller *caller = arg;
    PyEval_RestoreThread(caller->thread_state);
    int interrupted = PyErr_CheckSignals();
    caller->thread_state = PyEval_SaveThread();
    return interrupted < 0 ? PD_ECANCELED : PD_OK;
}

// Python runs signal handlers on its main thread only: another one need not take the GIL
// from whoever has it to look for them.  -1 with an exception.
static int
answers_signals(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *thread = PyObject_CallNoArgs(state->main_thread);
    if (thread == NULL) {
        return -1;
    }
    PyObject *ident = PyObject_GetAttrString(thread, "ident");
    Py_DECREF(thread);
    if (ident == NULL) {
        return -1;
    }
    unsigned long id = PyLong_AsUnsignedLongMask(ident);
    Py_DECREF(ident);
    return PyErr_Occurred() ? -1 : id == PyThread_get_thread_ident();
}

static pd_status
walk_python(pd_producer_object *handle, pd_store *store, const pd_walk *plan)
{
    // Two threads inside would share its points; so would a function that comes back.
    if (atomic_exchange(&handle->busy, true)) {
        PyErr_SetString(PyExc_RuntimeError, "the producer is in use already");
        return PD_EINVAL;
    }
    pd_status status = pd_walk_tiles(handle->producer, pd_store_consumer(store), plan);
    atomic_store(&handle->busy, false);
    return status;
}

static pd_status
walk(PyObject *module, pd_producer_object *handle, pd_store *store, unsigned workers)
{
    pd_walk plan = {
        .rows = (size_t)handle->rows,
        .cols = (size_t)handle->cols,
        .members = workers,
    };
    if (handle->needs_gil) {
        plan.members = 1;
        return walk_python(handle, store, &plan);
    }
    int polls = answers_signals(module);
    if (polls < 0) {
        return PD_ECANCELED;
    }
    detached_caller caller = {.thread_state = PyEval_SaveThread()};
    plan.poll = polls ? poll_signals : NULL;
    plan.poll_arg = &caller;
    pd_status status = pd_walk_tiles(handle->producer, pd_store_consumer(store), &plan);
    PyEval_RestoreThread(caller.thread_state);
    return status;
}

static PyArrayObject *
index_array(npy_intp rows, npy_intp cols)
{
    npy_intp shape[2] = {rows, cols};
    return (PyArrayObject *)PyArray_SimpleNew(2, shape, NPY_INTP);
}

// None, or (pairs, rectangles): rows (row, col) and (row, col, rows, cols).
static PyObject *
doubts_as_python(const pd_doubts *doubts)
{
    if (doubts->pair_count == 0 && doubts->rectangle_count == 0) {
        Py_RETURN_NONE;
    }
    PyArrayObject *pairs = index_array((npy_intp)doubts->pair_count, 2);
    PyArrayObject *rectangles = index_array((npy_intp)doubts->rectangle_count, 4);
    if (pairs == NULL || rectangles == NULL) {
        Py_XDECREF(pairs);
        Py_XDECREF(rectangles);
        return NULL;
    }
    npy_intp *to = PyArray_DATA(pairs);
    for (size_t i = 0; i < doubts->pair_count; i++) {
        *to++ = (npy_intp)doubts->pairs[i].row;
        *to++ = (npy_intp)doubts->pairs[i].col;
    }
    to = PyArray_DATA(rectangles);
    for (size_t i = 0; i < doubts->rectangle_count; i++) {
        *to++ = (npy_intp)doubts->rectangles[i].row;
        *to++ = (npy_intp)doubts->rectangles[i].col;
        *to++ = (npy_intp)doubts->rectangles[i].rows;
        *to++ = (npy_intp)doubts->rectangles[i].cols;
    }
    return Py_BuildValue("(NN)", pairs, rectangles);
}

// 10^|n| by multiplying, as NumPy does: above 10^22 pow() gives other bits.
static double
power_of_ten(long n)
{
    double power = 1;
    for (; n != 0 && isfinite(power); n += n < 0 ? 1 : -1) {
        power *= 10;
    }
    return power;
}

// `decimals` as the core wants it.
static int
rounding_from_decimals(PyObject *decimals, pd_rounding *rounding)
{
    *rounding = (pd_rounding){.rounds = false, .multiplies = true, .scale = 1};
    if (decimals == Py_None) {
        return 0;
    }
    long places = PyLong_AsLong(decimals);
    if (places == -1 && PyErr_Occurred()) {
        return -1;
    }
    rounding->rounds = true;
    rounding->multiplies = places >= 0;
    rounding->scale = power_of_ten(places);
    return 0;
}

PyDoc_STRVAR(store_doc,
             "store($module, producer, out, decimals, workers, /)\n--\n\n"
             "Write the producer's matrix to `out`, cast to its dtype and rounded.\n\n"
             "Returns None, or (pairs, rectangles) of what is in doubt.");

static PyObject *
store(PyObject *module, PyObject *args)
{
    PyObject *object, *out, *decimals;
    Py_ssize_t workers;
    if (!PyArg_ParseTuple(args, "OO!On:store", &object, &PyArray_Type, &out, &decimals,
                          &workers))
    {
        return NULL;
    }
    if (workers < 1) {
        return PyErr_Format(PyExc_ValueError, "workers must be at least 1, not %zd",
                            workers);
    }
    unsigned members = workers < PD_TEAM_MAX ? (unsigned)workers : PD_TEAM_MAX;
    pd_producer_object *handle = pd_producer_check(module, object);
    if (handle == NULL) {
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)out;
    int type = PyArray_TYPE(array);
    if (PyArray_NDIM(array) != 2 || PyArray_DIM(array, 0) != handle->rows ||
        PyArray_DIM(array, 1) != handle->cols || !PyArray_ISCARRAY(array) ||
        (type != NPY_FLOAT && type != NPY_DOUBLE))
    {
        PyErr_Format(
            PyExc_ValueError,
            "out must be a writable C-ordered float32 or float64 array of shape "
            "(%zd, %zd)",
            handle->rows, handle->cols);
        return NULL;
    }
    pd_rounding rounding;
    if (rounding_from_decimals(decimals, &rounding) < 0) {
        return NULL;
    }
    pd_store *consumer;
    pd_status status = pd_store_create(
        PyArray_DATA(array), type == NPY_FLOAT ? PD_F32 : PD_F64, (size_t)handle->rows,
        (size_t)handle->cols, &rounding, members, pd_simd_active(), &consumer);
    if (status != PD_OK) {
        return pd_raise(status);
    }
    status = walk(module, handle, consumer, members);
    PyObject *result;
    if (status == PD_OK) {
        pd_doubts doubts = pd_store_doubts(consumer);
        result = doubts_as_python(&doubts);
    }
    else {
        result = pd_raise(status);
    }
    pd_store_destroy(consumer);
    return result;
}

PyMethodDef pd_store_methods[] = {
    {"store", store, METH_VARARGS, store_doc},
    {NULL,    NULL,  0,            NULL     },
};
