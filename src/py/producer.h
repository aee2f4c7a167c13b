// _core.Producer: a Python handle on one pd_producer and on what it reads.
//
// Constructors live beside their subject (metrics.c, expr.c, callable.c); what takes a
// producer (store.c and later reductions) works with any of them.
#ifndef PD_PY_PRODUCER_H
#define PD_PY_PRODUCER_H

#include "py/binding.h"

#include <stdbool.h>

#include "pairwise/matrix.h"
#include "pairwise/tile.h"

typedef struct pd_producer_object {
    PyObject_HEAD
    // Immutable once the constructor has returned, but for `busy`.
    pd_producer *producer;           // owned
    void (*destroy)(pd_producer *);  // frees it
    PyObject *reads;                 // owned: keeps arrays and functions alive
    Py_ssize_t rows;                 // of the matrix it produces
    Py_ssize_t cols;
    bool needs_gil;  // fill() runs Python: one thread, the caller's, with the GIL

    _Atomic bool busy;  // a thread walks it; of those that need the GIL only one may
} pd_producer_object;

// Makes a handle that owns `producer`, also when it fails (NULL, exception set).
// `reads` is borrowed.
PyObject *pd_producer_wrap(PyObject *module,
                           pd_producer *producer,
                           void (*destroy)(pd_producer *),
                           PyObject *reads,
                           const pd_matrix *x,
                           const pd_matrix *y,
                           bool needs_gil);

// `object` as a producer, or NULL with an exception; borrowed.
pd_producer_object *pd_producer_check(PyObject *module, PyObject *object);

// Describes a 1-D or 2-D float32 or float64 array (1-D: as one feature) that is aligned
// and in native byte order; borrowed from the array.  -1 with an exception otherwise.
int pd_matrix_from_array(PyObject *array, const char *name, pd_matrix *matrix);

int pd_add_producer_type(PyObject *module);

#endif
