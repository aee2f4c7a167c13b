// What the files about shared memory share: keys, values, waiting.
#ifndef PD_PY_SHARED_H
#define PD_PY_SHARED_H

#include "py/binding.h"

#include <stdbool.h>

#include "shm/table.h"

// _core.SharedTable: a Python handle on one pd_table.
typedef struct pd_table_object {
    PyObject_HEAD
    pd_table *table;         // owned; immutable, like what follows
    pd_module_state *state;  // borrowed: the type keeps the module
    bool allow_pickle;       // whether values may be pickles
} pd_table_object;

// ---- Waiting (sharedwait.c) ----

// One operation on shared memory that may time out, and then has done nothing.
typedef pd_status (*pd_shared_op)(void *call, int64_t wait_ns);

// Runs it: at once, and if that is not possible without the GIL, again and again, until it
// is done or a signal handler raises (PD_ECANCELED).  `detached`: without the GIL from the
// start.  `give_up_ns` limits the waiting; negative: no limit.
pd_status pd_shared_run(pd_shared_op op, void *call, bool detached, int64_t give_up_ns);

// ---- Integers of any size (sharedkey.c) ----

// Little-endian two's complement, as few multiples of `unit` bytes as hold it; and back.
// New references.
PyObject *pd_integer_to_bytes(PyObject *integer, Py_ssize_t unit);
PyObject *pd_integer_from_bytes(const void *bytes, size_t size);

// ---- Keys (sharedkey.c) ----

// A key on its way into the core.
typedef struct pd_key_draft {
    pd_key key;
    uint64_t words[3];      // what key.bytes points to, for numbers
    unsigned char *buffer;  // owned: the same for tuples and long integers
    PyObject *owner;        // owned: the same for text that had to be encoded
} pd_key_draft;

// Borrows from `object`, which must outlive the draft.  -1 with a TypeError.
int pd_key_encode(pd_table *table, PyObject *object, pd_key_draft *draft);

// Accepts what pd_key_encode() left on failure.
void pd_key_clear(pd_key_draft *draft);

// A new reference to the key that was encoded: equal, and of the same type.
PyObject *pd_key_decode(uint8_t kind,
                        const unsigned char *bytes,
                        size_t size,
                        size_t extra);

// ---- Values (sharedvalue.c) ----

typedef struct pd_value_draft {
    pd_value value;
    uint64_t word;         // what value.data points to, for numbers
    PyObject *owner;       // owned: the same for long integers and pickles
    PyArrayObject *array;  // owned: an array that pd_value_fill() copies
    PyObject *dtype;       // owned: text that names the array's dtype
    size_t data_offset;    // where its elements begin
    unsigned char small[PD_SMALL_BYTES];
} pd_value_draft;

// Borrows from `object`, which must outlive the draft.  -1 with an exception.
int pd_value_encode(pd_table_object *self, PyObject *object, pd_value_draft *draft);

// Writes draft->value.size bytes.  -1 with an exception.
int pd_value_fill(pd_value_draft *draft, void *to);

void pd_value_clear(pd_value_draft *draft);

// A new reference.  The pin, if there is one, is used up, also on failure.
PyObject *pd_value_decode(
    pd_table_object *self, uint8_t type, const void *data, uint64_t size, int64_t pin);

int pd_add_pin_type(PyObject *module);
int pd_add_table_type(PyObject *module);
int pd_add_block_type(PyObject *module);
int pd_add_mutex_type(PyObject *module);

#endif
