// Producers of the built-in metrics, made from arrays.
#include "py/producer.h"

#include "pairwise/metric.h"

PyDoc_STRVAR(metric_producer_doc,
             "metric_producer($module, name, x, y, parameter, /)\n--\n\n"
             "A producer of metric(x[i], y[j]) for arrays of one dtype.");

static PyObject *
metric_producer(PyObject *module, PyObject *args)
{
    const char *name;
    PyObject *x, *y;
    double parameter;
    if (!PyArg_ParseTuple(args, "sOOd:metric_producer", &name, &x, &y, &parameter)) {
        return NULL;
    }
    const pd_metric *metric = pd_metric_named(name);
    if (metric == NULL) {
        return PyErr_Format(PyExc_ValueError, "metric %s is unknown to the core", name);
    }
    pd_matrix rows, columns;
    if (pd_matrix_from_array(x, "x", &rows) < 0 ||
        pd_matrix_from_array(y, "y", &columns) < 0)
    {
        return NULL;
    }
    pd_producer *producer;
    pd_status status = pd_metric_producer_create(metric, &rows, &columns, parameter,
                                                 pd_simd_active(), &producer);
    if (status != PD_OK) {
        return pd_raise(status);
    }
    return pd_producer_wrap(module, producer, pd_metric_producer_destroy, args, &rows,
                            &columns, false);
}

PyMethodDef pd_metric_methods[] = {
    {"metric_producer", metric_producer, METH_VARARGS, metric_producer_doc},
    {NULL,              NULL,            0,            NULL               },
};
