// Producers of traced functions: a program, and NumPy's own loops for what it calls.
#include "py/producer.h"

// NumPy's header declares a function without a prototype.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <numpy/ufuncobject.h>
#pragma GCC diagnostic pop

#include "expr/machine.h"

#define MOST_FUNCTIONS 1000

// Finds the loop of `ufunc` from floating inputs of one type to one output of that type.
static int
foreign_from_ufunc(PyObject *object, int single, pd_foreign *foreign)
{
    if (!PyObject_TypeCheck(object, &PyUFunc_Type)) {
        PyErr_Format(PyExc_TypeError, "expected a NumPy ufunc, not %.200s",
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    const PyUFuncObject *ufunc = (const PyUFuncObject *)object;
    char wanted = single ? NPY_FLOAT : NPY_DOUBLE;
    if (ufunc->nout != 1 || ufunc->nin < 1 || ufunc->nin > PD_BLOCK_MAX_INPUTS ||
        ufunc->core_enabled || ufunc->functions == NULL)
    {
        PyErr_Format(PyExc_ValueError, "%R is no elementwise function of one result",
                     object);
        return -1;
    }
    for (int i = 0; i < ufunc->ntypes; i++) {
        const char *types = ufunc->types + (ptrdiff_t)i * ufunc->nargs;
        int k = 0;
        while (k < ufunc->nargs && types[k] == wanted) {
            k++;
        }
        if (k == ufunc->nargs && ufunc->functions[i] != NULL) {
            *foreign = (pd_foreign){
                .loop = ufunc->functions[i],
                .data = ufunc->data == NULL ? NULL : (void *)ufunc->data[i],
                .inputs = (size_t)ufunc->nin,
                .single = single != 0,
            };
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "%R has no loop for %s", object,
                 single ? "float32" : "float64");
    return -1;
}

// functions: a tuple of (ufunc, single) pairs.
static int
read_functions(PyObject *functions, pd_foreign *foreign, size_t *count)
{
    Py_ssize_t n = PyTuple_GET_SIZE(functions);
    if (n > MOST_FUNCTIONS) {
        PyErr_Format(PyExc_ValueError, "more than %d functions", MOST_FUNCTIONS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *ufunc;
        int single;
        PyObject *entry = PyTuple_GET_ITEM(functions, i);
        if (!PyTuple_Check(entry)) {
            PyErr_SetString(PyExc_TypeError, "functions must be (ufunc, single) pairs");
            return -1;
        }
        if (!PyArg_ParseTuple(entry, "Op", &ufunc, &single) ||
            foreign_from_ufunc(ufunc, single, &foreign[i]) < 0)
        {
            return -1;
        }
    }
    *count = (size_t)n;
    return 0;
}

PyDoc_STRVAR(
    expr_producer_doc,
    "expr_producer($module, words, functions, x, y, /)\n--\n\n"
    "A producer that runs a program (see src/expr/program.h) for all pairs.\n\n"
    "`functions` are (ufunc, single) pairs; values are computed in float64.");

static PyObject *
expr_producer(PyObject *module, PyObject *args)
{
    PyObject *words_object, *functions, *x, *y;
    pd_matrix x_matrix, y_matrix;
    if (!PyArg_ParseTuple(args, "OO!OO:expr_producer", &words_object, &PyTuple_Type,
                          &functions, &x, &y) ||
        pd_matrix_from_array(x, "x", &x_matrix) < 0 ||
        pd_matrix_from_array(y, "y", &y_matrix) < 0)
    {
        return NULL;
    }
    PyArrayObject *words = (PyArrayObject *)PyArray_FROMANY(words_object, NPY_INT64, 1,
                                                            1, NPY_ARRAY_CARRAY_RO);
    if (words == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    pd_program *program = NULL;
    pd_producer *producer = NULL;
    size_t function_count = 0;
    pd_foreign *foreign =
        PyMem_Calloc((size_t)PyTuple_GET_SIZE(functions) + 1, sizeof(*foreign));
    if (foreign == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    if (read_functions(functions, foreign, &function_count) < 0) {
        goto done;
    }
    pd_status status =
        pd_program_parse(PyArray_DATA(words), (size_t)PyArray_DIM(words, 0), foreign,
                         function_count, x_matrix.cols, &program);
    if (status == PD_OK) {
        status = pd_machine_create(program, &x_matrix, &y_matrix, pd_simd_active(),
                                   &producer);
    }
    if (status != PD_OK) {
        pd_program_destroy(program);
        if (status == PD_EINVAL) {
            PyErr_SetString(PyExc_ValueError, "the program is not valid for x and y");
        }
        else {
            pd_raise(status);
        }
        goto done;
    }
    result = pd_producer_wrap(module, producer, pd_machine_destroy, args, &x_matrix,
                              &y_matrix, false);

done:
    PyMem_Free(foreign);
    Py_DECREF(words);
    return result;
}

PyDoc_STRVAR(
    expr_operations_doc,
    "expr_operations($module, /)\n--\n\n"
    "Names of a program's own operations, in order; functions come after them.");

static PyObject *
expr_operations(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("("
#define NAME(name, inputs, expression) "s"
                         PD_BLOCK_OP_TABLE(NAME)
#undef NAME
                             ")"
#define NAME(name, inputs, expression) , #name
                         PD_BLOCK_OP_TABLE(NAME)
#undef NAME
    );
}

int
pd_import_ufuncs(void)
{
    return PyUFunc_ImportUFuncAPI();
}

PyMethodDef pd_expr_methods[] = {
    {"expr_producer",   expr_producer,   METH_VARARGS, expr_producer_doc  },
    {"expr_operations", expr_operations, METH_NOARGS,  expr_operations_doc},
    {NULL,              NULL,            0,            NULL               },
};
