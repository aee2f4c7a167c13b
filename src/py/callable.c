// A Python function of two points: as a producer, and on single pairs.
//
// The producer runs with the GIL on the caller's own thread, one tile row after the
// other, each row over all columns: so the function is called exactly once a pair and
// in the order of the double loop that it replaces, which functions with a state notice.
//
// A 1-D input's points are NumPy scalars, made once for a row or, up to KEPT_POINTS
// columns, once for the whole matrix; a 2-D input's points are fresh read-only views of
// its rows, since what a function does to one view must not show in the next call.
#include "py/producer.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/clock.h"

// A scalar object and its pointer take some 40 bytes: at most 4 MB are kept.
#define KEPT_POINTS 100000

// A tile is one row; wider matrices are cut here, at the price of the order of calls.
#define MAX_TILE_COLS ((size_t)1 << 20)

#define SIGNAL_NS 20000000

typedef struct callable_producer {
    pd_producer base;
    PyObject *function;  // borrowed from the handle's `reads`, as are x and y
    PyArrayObject *x;
    PyArrayObject *y;
    PyObject **kept;  // owned: the points of y, made on first use; may be NULL
    size_t kept_count;
    int64_t signals_due_ns;  // when to look for Ctrl-C again
} callable_producer;

// Point i of a 1-D or 2-D array: a new scalar or a new read-only view.
static PyObject *
point(PyArrayObject *array, npy_intp i)
{
    char *data = PyArray_BYTES(array) + i * PyArray_STRIDE(array, 0);
    PyArray_Descr *dtype = PyArray_DESCR(array);
    if (PyArray_NDIM(array) == 1) {
        return PyArray_Scalar(data, dtype, (PyObject *)array);
    }
    Py_INCREF(dtype);
    PyObject *view = PyArray_NewFromDescr(
        &PyArray_Type, dtype, 1, PyArray_DIMS(array) + 1, PyArray_STRIDES(array) + 1,
        data, PyArray_FLAGS(array) & NPY_ARRAY_ALIGNED, NULL);
    if (view == NULL) {
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)view, Py_NewRef(array)) < 0) {
        Py_DECREF(view);
        return NULL;
    }
    PyArray_UpdateFlags((PyArrayObject *)view,
                        NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS);
    return view;
}

static int
refuse_result(PyObject *result, size_t i, size_t j)
{
    if (PyArray_Check(result)) {
        PyErr_Format(
            PyExc_TypeError,
            "the distance function returned an array of %d dimensions, %zd "
            "elements and dtype %S for the pair (%zu, %zu); it must return one "
            "real number",
            PyArray_NDIM((PyArrayObject *)result),
            PyArray_SIZE((PyArrayObject *)result),
            (PyObject *)PyArray_DESCR((PyArrayObject *)result), i, j);
        return -1;
    }
    PyErr_Format(PyExc_TypeError,
                 "the distance function returned %.100R of type %.100s for the pair "
                 "(%zu, %zu); it must return one real number",
                 result, Py_TYPE(result)->tp_name, i, j);
    return -1;
}

// Whether float(object) asks the object itself.  Text that looks like a number, complex
// numbers and spans of time are no real numbers, whatever float() makes of them.
static bool
is_real(PyObject *object)
{
    const PyNumberMethods *number = Py_TYPE(object)->tp_as_number;
    return number != NULL && (number->nb_float != NULL || number->nb_index != NULL) &&
           !PyComplex_Check(object) && !PyArray_IsScalar(object, ComplexFloating) &&
           !PyArray_IsScalar(object, Flexible) &&
           !PyArray_IsScalar(object, Timedelta) && !PyArray_IsScalar(object, Datetime);
}

// An array of one number counts as that number, as where it is assigned to an element.
static bool
is_real_array(PyArrayObject *array)
{
    return PyArray_SIZE(array) == 1 && !PyArray_ISCOMPLEX(array) &&
           (PyArray_ISNUMBER(array) || PyArray_ISBOOL(array));
}

// What assigning `result` to an element of a float64 array would store; -1 with an
// exception if it is no real number.
static int
real_result(PyObject *result, size_t i, size_t j, double *value)
{
    if (PyFloat_Check(result)) {
        *value = PyFloat_AS_DOUBLE(result);
        return 0;
    }
    if (PyArray_Check(result) ? !is_real_array((PyArrayObject *)result)
                              : !is_real(result))
    {
        return refuse_result(result, i, j);
    }
    // Not for subclasses: what np.ma.masked holds is not what it is.
    if (PyArray_CheckExact(result)) {
        PyArrayObject *array = (PyArrayObject *)result;
        PyObject *scalar =
            PyArray_Scalar(PyArray_BYTES(array), PyArray_DESCR(array), result);
        if (scalar == NULL) {
            return -1;
        }
        int status = real_result(scalar, i, j, value);
        Py_DECREF(scalar);
        return status;
    }
    PyObject *number = PyNumber_Float(result);
    if (number == NULL) {
        return -1;
    }
    *value = PyFloat_AS_DOUBLE(number);
    Py_DECREF(number);
    return 0;
}

static int
call_pair(
    PyObject *function, PyObject *a, PyObject *b, size_t i, size_t j, double *value)
{
    // The slot before the arguments is ours to lend to bound methods.
    PyObject *args[3] = {NULL, a, b};
    PyObject *result = PyObject_Vectorcall(function, args + 1,
                                           2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (result == NULL) {
        return -1;
    }
    int status = real_result(result, i, j, value);
    Py_DECREF(result);
    return status;
}

// Functions written in C never look for signals themselves, nor do they let other
// threads have the GIL.
static int
check_signals(int64_t *due_ns)
{
    int64_t now = pd_now_coarse_ns();
    if (now < *due_ns) {
        return 0;
    }
    *due_ns = now + SIGNAL_NS;
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals();
}

// Point j of y, from the kept ones where it is among them; a new reference.
static PyObject *
column_point(callable_producer *self, size_t j)
{
    if (j >= self->kept_count) {
        return point(self->y, (npy_intp)j);
    }
    if (self->kept[j] == NULL) {
        self->kept[j] = point(self->y, (npy_intp)j);
    }
    return Py_XNewRef(self->kept[j]);
}

static pd_status
fill_row(callable_producer *self, size_t i, size_t col, size_t cols, double *values)
{
    PyObject *a = PyArray_NDIM(self->x) == 1 ? point(self->x, (npy_intp)i) : NULL;
    int status = a == NULL && PyErr_Occurred() ? -1 : 0;
    for (size_t j = 0; status == 0 && j < cols; j++) {
        PyObject *row = a != NULL ? Py_NewRef(a) : point(self->x, (npy_intp)i);
        PyObject *b = row == NULL ? NULL : column_point(self, col + j);
        status =
            b == NULL ? -1 : call_pair(self->function, row, b, i, col + j, &values[j]);
        Py_XDECREF(b);
        Py_XDECREF(row);
        if (status == 0) {
            status = check_signals(&self->signals_due_ns);
        }
    }
    Py_XDECREF(a);
    return status == 0 ? PD_OK : PD_ECANCELED;
}

static pd_status
fill_callable(const pd_producer *base, pd_tile *tile, void *Py_UNUSED(scratch))
{
    // One thread runs this, so the cache of points and the clock may change.
    callable_producer *self = (callable_producer *)(uintptr_t)base;
    for (size_t r = 0; r < tile->rows; r++) {
        double *values = (double *)tile->values + r * tile->stride;
        pd_status status = fill_row(self, tile->row + r, tile->col, tile->cols, values);
        if (status != PD_OK) {
            return status;
        }
    }
    return PD_OK;
}

static void
destroy_callable(pd_producer *base)
{
    callable_producer *self = (callable_producer *)base;
    for (size_t j = 0; j < self->kept_count; j++) {
        Py_XDECREF(self->kept[j]);
    }
    pd_free(self->kept);
    pd_free(self);
}

static int
check_points(PyObject *array, const char *name)
{
    if (PyArray_Check(array) && (PyArray_NDIM((PyArrayObject *)array) == 1 ||
                                 PyArray_NDIM((PyArrayObject *)array) == 2))
    {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s must be a 1-D or 2-D ndarray", name);
    return -1;
}

// Views of our own, as the function may give the arrays another shape.
static PyObject *
function_and_views(PyObject *function, PyArrayObject *x, PyArrayObject *y)
{
    PyObject *x_view = PyArray_View(x, NULL, &PyArray_Type);
    PyObject *y_view = x_view == NULL ? NULL : PyArray_View(y, NULL, &PyArray_Type);
    PyObject *reads = y_view == NULL ? NULL : PyTuple_Pack(3, function, x_view, y_view);
    Py_XDECREF(y_view);
    Py_XDECREF(x_view);
    return reads;
}

// NULL without an exception if there is no memory.
static callable_producer *
new_callable(PyObject *reads)
{
    callable_producer *self = pd_calloc(1, sizeof(*self));
    if (self == NULL) {
        return NULL;
    }
    self->function = PyTuple_GET_ITEM(reads, 0);
    self->x = (PyArrayObject *)PyTuple_GET_ITEM(reads, 1);
    self->y = (PyArrayObject *)PyTuple_GET_ITEM(reads, 2);
    size_t cols = (size_t)PyArray_DIM(self->y, 0);
    self->base = (pd_producer){
        .real = PD_F64,
        .tile_rows = 1,
        .tile_cols = cols == 0              ? 1
                     : cols < MAX_TILE_COLS ? cols
                                            : MAX_TILE_COLS,
        .pair_ns = 100,
        .fill = fill_callable,
    };
    if (PyArray_NDIM(self->y) == 1) {
        self->kept_count = cols < KEPT_POINTS ? cols : KEPT_POINTS;
        self->kept = pd_calloc(self->kept_count, sizeof(*self->kept));
        if (self->kept == NULL) {
            pd_free(self);
            return NULL;
        }
    }
    return self;
}

PyDoc_STRVAR(callable_producer_doc,
             "callable_producer($module, function, x, y, /)\n--\n\n"
             "A producer that calls function(x[i], y[j]) in row-major order.");

static PyObject *
new_callable_producer(PyObject *module, PyObject *args)
{
    PyObject *function, *x, *y;
    if (!PyArg_ParseTuple(args, "OOO:callable_producer", &function, &x, &y) ||
        check_points(x, "x") < 0 || check_points(y, "y") < 0)
    {
        return NULL;
    }
    PyObject *reads =
        function_and_views(function, (PyArrayObject *)x, (PyArrayObject *)y);
    if (reads == NULL) {
        return NULL;
    }
    callable_producer *self = new_callable(reads);
    if (self == NULL) {
        Py_DECREF(reads);
        return PyErr_NoMemory();
    }
    pd_matrix rows = {.rows = (size_t)PyArray_DIM(self->x, 0)};
    pd_matrix columns = {.rows = (size_t)PyArray_DIM(self->y, 0)};
    PyObject *producer = pd_producer_wrap(module, &self->base, destroy_callable, reads,
                                          &rows, &columns, true);
    Py_DECREF(reads);
    return producer;
}

PyDoc_STRVAR(call_pairs_doc,
             "call_pairs($module, function, x, y, i, j, /)\n--\n\n"
             "function(x[i[k]], y[j[k]]) for every k, as a float64 array.");

static PyObject *
call_pairs(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *function, *x, *y, *i_object, *j_object;
    if (!PyArg_ParseTuple(args, "OOOOO:call_pairs", &function, &x, &y, &i_object,
                          &j_object) ||
        check_points(x, "x") < 0 || check_points(y, "y") < 0)
    {
        return NULL;
    }
    PyArrayObject *i_array =
        (PyArrayObject *)PyArray_FROMANY(i_object, NPY_INTP, 1, 1, NPY_ARRAY_CARRAY_RO);
    PyArrayObject *j_array =
        (PyArrayObject *)PyArray_FROMANY(j_object, NPY_INTP, 1, 1, NPY_ARRAY_CARRAY_RO);
    PyArrayObject *values = NULL;
    int status = -1;
    if (i_array == NULL || j_array == NULL) {
        goto done;
    }
    npy_intp count = PyArray_DIM(i_array, 0);
    if (PyArray_DIM(j_array, 0) != count) {
        PyErr_SetString(PyExc_ValueError, "i and j must have the same length");
        goto done;
    }
    values = (PyArrayObject *)PyArray_SimpleNew(1, &count, NPY_DOUBLE);
    if (values == NULL) {
        goto done;
    }
    const npy_intp *i = PyArray_DATA(i_array);
    const npy_intp *j = PyArray_DATA(j_array);
    int64_t due_ns = 0;
    status = 0;
    for (npy_intp k = 0; status == 0 && k < count; k++) {
        if (i[k] < 0 || i[k] >= PyArray_DIM((PyArrayObject *)x, 0) || j[k] < 0 ||
            j[k] >= PyArray_DIM((PyArrayObject *)y, 0))
        {
            PyErr_Format(PyExc_IndexError, "no pair (%zd, %zd)", i[k], j[k]);
            status = -1;
            break;
        }
        PyObject *a = point((PyArrayObject *)x, i[k]);
        PyObject *b = a == NULL ? NULL : point((PyArrayObject *)y, j[k]);
        status = b == NULL ? -1
                           : call_pair(function, a, b, (size_t)i[k], (size_t)j[k],
                                       (double *)PyArray_DATA(values) + k);
        Py_XDECREF(b);
        Py_XDECREF(a);
        if (status == 0) {
            status = check_signals(&due_ns);
        }
    }

done:
    Py_XDECREF(i_array);
    Py_XDECREF(j_array);
    if (status < 0) {
        Py_CLEAR(values);
    }
    return (PyObject *)values;
}

PyMethodDef pd_callable_methods[] = {
    {"callable_producer", new_callable_producer, METH_VARARGS, callable_producer_doc},
    {"call_pairs",        call_pairs,            METH_VARARGS, call_pairs_doc       },
    {NULL,                NULL,                  0,            NULL                 },
};
