// Values of a SharedDict as bytes.
//
//      INT     int64                    STR    UTF-8
//      FLOAT   double                   BYTES  as they are
//      NONE    none                     BIG    two's complement, of any length
//      BOOL    one byte                 PICKLE protocol 5
//      ARRAY   | array_head | shape | name of the dtype | padding | elements |
//
// What is read of them comes from memory that others may write: sizes are checked, and
// text is copied before it is decoded.  An array is a view of its elements, read-only, whose
// base drops the pin.
//
// Only the plain types themselves are stored so; anything derived from them is pickled, and
// comes back as what it was.
#include "py/shared.h"

#include <string.h>

enum {
    INT = PD_VALUE_INT,
    FLOAT = PD_VALUE_FLOAT,
    NONE,
    BOOL,
    STR,
    BYTES,
    BIG,
    PICKLE,
    ARRAY,
};

#define LARGE_COPY ((size_t)256 << 10)  // worth releasing the GIL for

// The payload of a block begins 32 bytes behind a boundary of 64: so that elements begin at
// one, too, they lie this far behind a multiple of it.
#define ELEMENTS_BEHIND 32

typedef struct array_head {
    uint32_t data_offset;
    uint32_t dtype_size;
    uint32_t ndim;
    uint32_t fortran;
} array_head;

// ---- Writing ----

static int
encode_number(pd_value_draft *draft, uint8_t type, const void *number, size_t size)
{
    memcpy(&draft->word, number, size);
    draft->value.type = type;
    draft->value.size = size;
    draft->value.data = &draft->word;
    return 0;
}

static int
encode_bytes(pd_value_draft *draft, uint8_t type, PyObject *bytes)
{
    draft->value.type = type;
    draft->value.data = PyBytes_AS_STRING(bytes);
    draft->value.size = (uint64_t)PyBytes_GET_SIZE(bytes);
    return 0;
}

static int
encode_pickle(pd_table_object *self, PyObject *object, pd_value_draft *draft)
{
    if (!self->allow_pickle) {
        PyErr_Format(
            PyExc_TypeError,
            "allow_pickle=False: a value must be an int, float, bool, None, str, "
            "bytes or an array without objects, not %.200s",
            Py_TYPE(object)->tp_name);
        return -1;
    }
    draft->owner = PyObject_CallFunction(self->state->shared.dumps, "Oi", object, 5);
    if (draft->owner == NULL) {
        return -1;
    }
    if (!PyBytes_CheckExact(draft->owner)) {
        PyErr_SetString(PyExc_TypeError, "a pickle must be bytes");
        return -1;
    }
    return encode_bytes(draft, PICKLE, draft->owner);
}

static int
encode_integer(PyObject *object, pd_value_draft *draft)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow == 0) {
        return number == -1 && PyErr_Occurred()
                   ? -1
                   : encode_number(draft, INT, &number, sizeof(number));
    }
    draft->owner = pd_integer_to_bytes(object, 1);
    return draft->owner != NULL ? encode_bytes(draft, BIG, draft->owner) : -1;
}

// Text that UTF-8 cannot hold is pickled.
static int
encode_text(pd_table_object *self, PyObject *object, pd_value_draft *draft)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return -1;
        }
        PyErr_Clear();
        return encode_pickle(self, object, draft);
    }
    draft->value.type = STR;
    draft->value.data = text;
    draft->value.size = (uint64_t)size;
    return 0;
}

// An array whose dtype has a name; 0 and no array in the draft if it has none.
static int
encode_array(pd_table_object *self, PyArrayObject *array, pd_value_draft *draft)
{
    draft->dtype = PyObject_CallOneArg(self->state->shared.dtype_to_text,
                                       (PyObject *)PyArray_DESCR(array));
    if (draft->dtype == NULL) {
        return -1;
    }
    if (!PyUnicode_CheckExact(draft->dtype)) {
        Py_CLEAR(draft->dtype);
        return 0;
    }
    Py_ssize_t text_size;
    if (PyUnicode_AsUTF8AndSize(draft->dtype, &text_size) == NULL) {
        return -1;
    }
    size_t head = sizeof(array_head) + (size_t)PyArray_NDIM(array) * sizeof(int64_t) +
                  (size_t)text_size;
    draft->data_offset = (head + ELEMENTS_BEHIND - 1) / 64 * 64 + ELEMENTS_BEHIND;
    if (draft->data_offset < head) {
        draft->data_offset += 64;
    }
    draft->array = (PyArrayObject *)Py_NewRef(array);
    draft->value.type = ARRAY;
    draft->value.size = draft->data_offset + (uint64_t)PyArray_NBYTES(array);
    draft->value.data = NULL;
    if (draft->value.size <= PD_SMALL_BYTES) {
        draft->value.data = draft->small;
        return pd_value_fill(draft, draft->small);
    }
    return 0;
}

static bool
is_plain_array(pd_table_object *self, PyObject *object)
{
    return PyArray_CheckExact(object) ||
           (PyObject *)Py_TYPE(object) == self->state->shared.array_type;
}

int
pd_value_encode(pd_table_object *self, PyObject *object, pd_value_draft *draft)
{
    draft->owner = NULL;
    draft->array = NULL;
    draft->dtype = NULL;
    draft->value.pin = PD_NO_PIN;
    if (PyLong_CheckExact(object)) {
        return encode_integer(object, draft);
    }
    if (PyFloat_CheckExact(object)) {
        double number = PyFloat_AS_DOUBLE(object);
        return encode_number(draft, FLOAT, &number, sizeof(number));
    }
    if (PyUnicode_CheckExact(object)) {
        return encode_text(self, object, draft);
    }
    if (PyBool_Check(object)) {
        unsigned char truth = object == Py_True;
        return encode_number(draft, BOOL, &truth, 1);
    }
    if (object == Py_None) {
        return encode_number(draft, NONE, "", 0);
    }
    if (PyBytes_CheckExact(object)) {
        return encode_bytes(draft, BYTES, object);
    }
    if (is_plain_array(self, object)) {
        if (encode_array(self, (PyArrayObject *)object, draft) < 0) {
            return -1;
        }
        if (draft->array != NULL) {
            return 0;
        }
    }
    return encode_pickle(self, object, draft);
}

void
pd_value_clear(pd_value_draft *draft)
{
    Py_XDECREF(draft->owner);
    Py_XDECREF(draft->array);
    Py_XDECREF(draft->dtype);
}

static void
copy_bytes(void *to, const void *from, size_t size)
{
    if (size < LARGE_COPY) {
        memcpy(to, from, size);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, size);
    Py_END_ALLOW_THREADS
}

// Whether the elements are written in Fortran's order.
static bool
is_fortran(PyArrayObject *array)
{
    return PyArray_IS_F_CONTIGUOUS(array) && !PyArray_IS_C_CONTIGUOUS(array);
}

static int
fill_array(pd_value_draft *draft, char *to)
{
    PyArrayObject *array = draft->array;
    int ndim = PyArray_NDIM(array);
    Py_ssize_t text_size;
    const char *text = PyUnicode_AsUTF8AndSize(draft->dtype, &text_size);
    array_head head = {
        .data_offset = (uint32_t)draft->data_offset,
        .dtype_size = (uint32_t)text_size,
        .ndim = (uint32_t)ndim,
        .fortran = is_fortran(array),
    };
    char *at = to + sizeof(head);
    memcpy(to, &head, sizeof(head));
    for (int i = 0; i < ndim; i++, at += sizeof(int64_t)) {
        int64_t length = PyArray_DIM(array, i);
        memcpy(at, &length, sizeof(length));
    }
    memcpy(at, text, (size_t)text_size);
    memset(at + text_size, 0, draft->data_offset - (size_t)(at + text_size - to));
    if (PyArray_IS_C_CONTIGUOUS(array) || head.fortran) {
        copy_bytes(to + draft->data_offset, PyArray_DATA(array),
                   (size_t)PyArray_NBYTES(array));
        return 0;
    }
    PyObject *target = PyArray_NewFromDescr(
        &PyArray_Type, (PyArray_Descr *)Py_NewRef(PyArray_DESCR(array)), ndim,
        PyArray_DIMS(array), NULL, to + draft->data_offset, NPY_ARRAY_CARRAY, NULL);
    if (target == NULL) {
        return -1;
    }
    int result = PyArray_CopyInto((PyArrayObject *)target, array);
    Py_DECREF(target);
    return result;
}

int
pd_value_fill(pd_value_draft *draft, void *to)
{
    if (draft->array != NULL) {
        return fill_array(draft, to);
    }
    copy_bytes(to, draft->value.data, draft->value.size);
    return 0;
}

// ---- Pins as objects ----

typedef struct pin_object {
    PyObject_HEAD
    pd_table_object *owner;  // owned
    int64_t pin;
} pin_object;

static void
pin_dealloc(PyObject *op)
{
    pin_object *self = (pin_object *)op;
    PyTypeObject *type = Py_TYPE(op);

    pd_table_unpin(self->owner->table, self->pin);
    Py_DECREF(self->owner);
    type->tp_free(op);
    Py_DECREF(type);  // a heap type is referenced by its instances
}

static PyType_Slot pin_slots[] = {
    {Py_tp_doc,     "What keeps a value in shared memory as it was read."},
    {Py_tp_dealloc, pin_dealloc                                          },
    {0,             NULL                                                 },
};

static PyType_Spec pin_spec = {
    .name = "pydistrib._core.SharedPin",
    .basicsize = sizeof(pin_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pin_slots,
};

int
pd_add_pin_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->shared.pin_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &pin_spec, NULL);
    if (state->shared.pin_type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, state->shared.pin_type);
}

// Uses up the pin, also on failure.
static PyObject *
wrap_pin(pd_table_object *self, int64_t pin)
{
    PyTypeObject *type = self->state->shared.pin_type;
    pin_object *wrapped = (pin_object *)type->tp_alloc(type, 0);
    if (wrapped == NULL) {
        pd_table_unpin(self->table, pin);
        return NULL;
    }
    wrapped->owner = (pd_table_object *)Py_NewRef(self);
    wrapped->pin = pin;
    return (PyObject *)wrapped;
}

// ---- Reading ----

static PyObject *
decode_text(const void *data, uint64_t size)
{
    if (size <= PD_SMALL_BYTES) {  // read_slot() has copied it
        return PyUnicode_DecodeUTF8(data, (Py_ssize_t)size, NULL);
    }
    char *copy = PyMem_Malloc(size);
    if (copy == NULL) {
        return PyErr_NoMemory();
    }
    copy_bytes(copy, data, size);
    PyObject *text = PyUnicode_DecodeUTF8(copy, (Py_ssize_t)size, NULL);
    PyMem_Free(copy);
    return text;
}

static PyObject *
decode_pickle(pd_table_object *self, const void *data, uint64_t size)
{
    if (!self->allow_pickle) {
        PyErr_SetString(PyExc_ValueError,
                        "the value is a pickle, and allow_pickle=False");
        return NULL;
    }
    PyObject *view =
        PyMemoryView_FromMemory((char *)(uintptr_t)data, (Py_ssize_t)size, PyBUF_READ);
    if (view == NULL) {
        return NULL;
    }
    PyObject *object = PyObject_CallOneArg(self->state->shared.loads, view);
    Py_DECREF(view);
    return object;
}

// Where everything is in an array's record; false if it does not fit into `size`.
static bool
read_head(const char *data,
          uint64_t size,
          array_head *head,
          npy_intp shape[NPY_MAXDIMS])
{
    if (size < sizeof(*head)) {
        return false;
    }
    memcpy(head, data, sizeof(*head));
    uint64_t shape_size = (uint64_t)head->ndim * sizeof(int64_t);
    if (head->ndim > NPY_MAXDIMS || head->data_offset > size ||
        sizeof(*head) + shape_size + head->dtype_size > head->data_offset)
    {
        return false;
    }
    for (uint32_t i = 0; i < head->ndim; i++) {
        int64_t length;
        memcpy(&length, data + sizeof(*head) + i * sizeof(length), sizeof(length));
        if (length < 0) {
            return false;
        }
        shape[i] = (npy_intp)length;
    }
    return true;
}

static bool
elements_fit(const array_head *head,
             const npy_intp *shape,
             npy_intp itemsize,
             uint64_t size)
{
    uint64_t bytes = (uint64_t)itemsize;
    bool none = false;
    for (uint32_t i = 0; i < head->ndim; i++) {
        none = none || shape[i] == 0;
        if (shape[i] != 0 && __builtin_mul_overflow(bytes, (uint64_t)shape[i], &bytes))
        {
            return false;
        }
    }
    return bytes <= INT64_MAX && (none || bytes <= size - head->data_offset);
}

static PyArray_Descr *
read_dtype(pd_table_object *self, const char *text, size_t size)
{
    PyObject *name = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL);
    if (name == NULL) {
        return NULL;
    }
    PyObject *dtype = PyObject_CallOneArg(self->state->shared.text_to_dtype, name);
    Py_DECREF(name);
    if (dtype != NULL &&
        (!PyArray_DescrCheck(dtype) || PyDataType_REFCHK((PyArray_Descr *)dtype)))
    {
        Py_DECREF(dtype);
        (void)pd_raise(PD_ECORRUPT);
        return NULL;
    }
    return (PyArray_Descr *)dtype;
}

// A view of what is pinned, or a copy; `pin` is used up.
static PyObject *
decode_array(pd_table_object *self, const char *data, uint64_t size, int64_t pin)
{
    PyObject *base = pin != PD_NO_PIN ? wrap_pin(self, pin) : NULL;
    if (pin != PD_NO_PIN && base == NULL) {
        return NULL;
    }
    array_head head;
    npy_intp shape[NPY_MAXDIMS];
    PyArray_Descr *dtype = NULL;
    if (read_head(data, size, &head, shape)) {
        const char *text = data + sizeof(head) + head.ndim * sizeof(int64_t);
        dtype = read_dtype(self, text, head.dtype_size);
    }
    else {
        (void)pd_raise(PD_ECORRUPT);
    }
    if (dtype != NULL && !elements_fit(&head, shape, PyDataType_ELSIZE(dtype), size)) {
        Py_CLEAR(dtype);
        (void)pd_raise(PD_ECORRUPT);
    }
    if (dtype == NULL) {
        Py_XDECREF(base);
        return NULL;
    }
    int flags = head.fortran ? NPY_ARRAY_F_CONTIGUOUS : NPY_ARRAY_C_CONTIGUOUS;
    PyObject *array = PyArray_NewFromDescr(
        &PyArray_Type, dtype, (int)head.ndim, shape, NULL,
        base != NULL ? (char *)(uintptr_t)data + head.data_offset : NULL,
        base != NULL || head.fortran ? flags : 0, NULL);
    if (array == NULL) {
        Py_XDECREF(base);
        return NULL;
    }
    if (base == NULL) {
        memcpy(PyArray_DATA((PyArrayObject *)array), data + head.data_offset,
               (size_t)PyArray_NBYTES((PyArrayObject *)array));
        PyArray_CLEARFLAGS((PyArrayObject *)array, NPY_ARRAY_WRITEABLE);
    }
    else if (PyArray_SetBaseObject((PyArrayObject *)array, base) < 0) {
        Py_CLEAR(array);
    }
    return array;
}

static PyObject *
decode_plain(pd_table_object *self, uint8_t type, const void *data, uint64_t size)
{
    long long integer;
    double number;
    switch (type) {
        case INT:
            if (size != sizeof(integer)) {
                break;
            }
            memcpy(&integer, data, sizeof(integer));
            return PyLong_FromLongLong(integer);
        case FLOAT:
            if (size != sizeof(number)) {
                break;
            }
            memcpy(&number, data, sizeof(number));
            return PyFloat_FromDouble(number);
        case NONE:
            Py_RETURN_NONE;
        case BOOL:
            if (size != 1) {
                break;
            }
            return PyBool_FromLong(*(const unsigned char *)data != 0);
        case STR:
            return decode_text(data, size);
        case BYTES:
            return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
        case BIG:
            return pd_integer_from_bytes(data, size);
        case PICKLE:
            return decode_pickle(self, data, size);
        default:
            break;
    }
    return pd_raise(PD_ECORRUPT);
}

PyObject *
pd_value_decode(
    pd_table_object *self, uint8_t type, const void *data, uint64_t size, int64_t pin)
{
    if (type == ARRAY) {
        return decode_array(self, data, size, pin);
    }
    PyObject *object = decode_plain(self, type, data, size);
    if (pin != PD_NO_PIN) {
        pd_table_unpin(self->table, pin);
    }
    return object;
}
