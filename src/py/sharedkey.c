// Keys of a SharedDict as bytes, such that equal keys are the same bytes everywhere.
//
// Python's own hash() will not do: that of text differs between processes.  And numbers
// that are equal are one key: 1, 1.0 and True are the integer 1; what type it was when it
// was inserted is said by a byte that is stored with the key but not compared.
//
//      kind     bytes                                               uncompared
//      INT      int64                                               type, if not int
//      BIG      two's complement, whole words, no more than needed  type, if not int
//      FLOAT    double; only those that are no integers
//      STR      UTF-8
//      BYTES    as they are
//      NONE     none
//      TUPLE    for each element (kind | size << 8, bytes)          a type per number
//
// Inside a tuple everything is padded to whole words.
#include "py/shared.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { INT = 1, BIG, FLOAT, STR, BYTES, NONE, TUPLE };

enum { IS_INT = 0, IS_BOOL = 'b', IS_FLOAT = 'f' };

#define MAX_KEY_BYTES ((size_t)1 << 30)

// ---- Leaves ----

// Something to be encoded: a leaf of a tuple, or a key that is no tuple.
typedef struct leaf {
    uint8_t kind;
    uint8_t type;      // of a number: IS_...
    const void *data;  // borrowed, or in `word` or `owner`
    size_t size;
    uint64_t word;
    PyObject *owner;  // owned
} leaf;

static int
encode_text(PyObject *object, leaf *out)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(object, &size);
    out->kind = STR;
    if (text == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return -1;
        }
        PyErr_Clear();  // lone surrogates
        out->owner = PyUnicode_AsEncodedString(object, "utf-8", "surrogatepass");
        if (out->owner == NULL) {
            return -1;
        }
        text = PyBytes_AS_STRING(out->owner);
        size = PyBytes_GET_SIZE(out->owner);
    }
    out->data = text;
    out->size = (size_t)size;
    return 0;
}

static PyObject *
signed_keyword(void)
{
    return Py_BuildValue("{s:O}", "signed", Py_True);
}

PyObject *
pd_integer_to_bytes(PyObject *integer, Py_ssize_t unit)
{
    PyObject *bits = PyObject_CallMethod(integer, "bit_length", NULL);
    Py_ssize_t count = bits != NULL ? PyLong_AsSsize_t(bits) : -1;
    Py_XDECREF(bits);
    if (count < 0) {
        return NULL;
    }
    PyObject *method = PyObject_GetAttrString(integer, "to_bytes");
    PyObject *args = Py_BuildValue("(ns)", (count / (8 * unit) + 1) * unit, "little");
    PyObject *keywords = signed_keyword();
    PyObject *bytes =
        method && args && keywords ? PyObject_Call(method, args, keywords) : NULL;
    Py_XDECREF(method);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return bytes;
}

PyObject *
pd_integer_from_bytes(const void *bytes, size_t size)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)&PyLong_Type, "from_bytes");
    PyObject *args = Py_BuildValue("(y#s)", bytes, (Py_ssize_t)size, "little");
    PyObject *keywords = signed_keyword();
    PyObject *integer =
        method && args && keywords ? PyObject_Call(method, args, keywords) : NULL;
    Py_XDECREF(method);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return integer;
}

static int
encode_big(PyObject *integer, leaf *out)
{
    out->owner = pd_integer_to_bytes(integer, 8);
    if (out->owner == NULL) {
        return -1;
    }
    out->kind = BIG;
    out->data = PyBytes_AS_STRING(out->owner);
    out->size = (size_t)PyBytes_GET_SIZE(out->owner);
    return 0;
}

static int
encode_integer(PyObject *integer, leaf *out)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(integer, &overflow);
    if (overflow != 0) {
        return encode_big(integer, out);
    }
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    out->kind = INT;
    memcpy(&out->word, &number, sizeof(number));
    out->data = &out->word;
    out->size = sizeof(out->word);
    return 0;
}

static int
encode_float(double number, leaf *out)
{
    out->type = IS_FLOAT;
    if (isfinite(number) && number == floor(number)) {
        PyObject *integer = PyLong_FromDouble(number);
        int result = integer != NULL ? encode_integer(integer, out) : -1;
        Py_XDECREF(integer);
        return result;
    }
    number = isnan(number) ? NAN : number;  // one key, whatever its bits
    out->kind = FLOAT;
    memcpy(&out->word, &number, sizeof(number));
    out->data = &out->word;
    out->size = sizeof(out->word);
    return 0;
}

static int
refuse(PyObject *object)
{
    PyErr_Format(
        PyExc_TypeError,
        "a key must be a str, bytes, int, float, bool, None or a tuple of these, "
        "not %.200s",
        Py_TYPE(object)->tp_name);
    return -1;
}

static int
encode_numpy_scalar(PyObject *object, leaf *out)
{
    if (PyArray_IsScalar(object, Bool)) {
        int truth = PyObject_IsTrue(object);
        out->type = IS_BOOL;
        return truth < 0 ? -1 : encode_integer(truth ? Py_True : Py_False, out);
    }
    bool integer = PyArray_IsScalar(object, Integer);
    if (!integer && !PyArray_IsScalar(object, Floating)) {
        return refuse(object);
    }
    PyObject *number = integer ? PyNumber_Index(object) : PyNumber_Float(object);
    int result = -1;
    if (number != NULL) {
        result = integer ? encode_integer(number, out)
                         : encode_float(PyFloat_AS_DOUBLE(number), out);
    }
    Py_XDECREF(number);
    return result;
}

static int
encode_leaf(PyObject *object, leaf *out)
{
    out->type = IS_INT;
    out->owner = NULL;
    if (PyUnicode_Check(object)) {
        return encode_text(object, out);
    }
    if (PyLong_Check(object)) {
        out->type = PyBool_Check(object) ? IS_BOOL : IS_INT;
        return encode_integer(object, out);
    }
    if (PyBytes_Check(object)) {
        out->kind = BYTES;
        out->data = PyBytes_AS_STRING(object);
        out->size = (size_t)PyBytes_GET_SIZE(object);
        return 0;
    }
    if (PyFloat_Check(object)) {
        return encode_float(PyFloat_AS_DOUBLE(object), out);
    }
    if (object == Py_None) {
        out->kind = NONE;
        out->data = &out->word;
        out->size = 0;
        return 0;
    }
    return encode_numpy_scalar(object, out);
}

// ---- Tuples ----

// A tuple's bytes and, apart until the end, its types.
typedef struct writer {
    unsigned char *bytes;
    size_t size, room;
    unsigned char *types;
    size_t type_count, type_room;
} writer;

static int
append(
    unsigned char **buffer, size_t *size, size_t *room, const void *data, size_t count)
{
    if (count > MAX_KEY_BYTES || *size + count > MAX_KEY_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a key must be smaller than 1 GiB");
        return -1;
    }
    if (count == 0) {
        return 0;
    }
    if (*size + count > *room) {
        size_t more = (*size + count) * 2 + 64;
        unsigned char *grown = PyMem_Realloc(*buffer, more);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        *buffer = grown;
        *room = more;
    }
    memcpy(*buffer + *size, data, count);
    *size += count;
    return 0;
}

static int
append_element(writer *to, uint8_t kind, size_t size, const void *data)
{
    static const unsigned char zeros[8];
    uint64_t head = kind | (uint64_t)size << 8;
    if (append(&to->bytes, &to->size, &to->room, &head, sizeof(head)) < 0 ||
        append(&to->bytes, &to->size, &to->room, data, size) < 0)
    {
        return -1;
    }
    return append(&to->bytes, &to->size, &to->room, zeros, (8 - size % 8) % 8);
}

static int append_tuple(writer *to, PyObject *tuple);

static int
append_item(writer *to, PyObject *item)
{
    if (PyTuple_Check(item)) {
        if (Py_EnterRecursiveCall(" in a key")) {
            return -1;
        }
        uint64_t head = TUPLE | (uint64_t)PyTuple_GET_SIZE(item) << 8;
        int result = append(&to->bytes, &to->size, &to->room, &head, sizeof(head));
        if (result == 0) {
            result = append_tuple(to, item);
        }
        Py_LeaveRecursiveCall();
        return result;
    }
    leaf part;
    if (encode_leaf(item, &part) < 0) {
        return -1;
    }
    int result = append_element(to, part.kind, part.size, part.data);
    Py_XDECREF(part.owner);
    if (result == 0 && (part.kind == INT || part.kind == BIG)) {
        result = append(&to->types, &to->type_count, &to->type_room, &part.type, 1);
    }
    return result;
}

static int
append_tuple(writer *to, PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (append_item(to, PyTuple_GET_ITEM(tuple, i)) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
encode_tuple(pd_table *table, PyObject *tuple, pd_key_draft *draft)
{
    writer to = {0};
    int result = append_tuple(&to, tuple);
    size_t size = to.size;
    if (result == 0) {
        result = append(&to.bytes, &to.size, &to.room, to.types, to.type_count);
    }
    PyMem_Free(to.types);
    draft->buffer = to.bytes;
    if (result == 0) {
        pd_table_key(table, TUPLE, to.bytes, size, to.type_count, &draft->key);
    }
    return result;
}

int
pd_key_encode(pd_table *table, PyObject *object, pd_key_draft *draft)
{
    draft->buffer = NULL;
    draft->owner = NULL;
    if (PyTuple_Check(object)) {
        return encode_tuple(table, object, draft);
    }
    leaf part;
    int result = encode_leaf(object, &part);
    draft->owner = part.owner;
    if (result < 0) {
        return -1;
    }
    if (part.size >= MAX_KEY_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a key must be smaller than 1 GiB");
        return -1;
    }
    const void *data = part.data;
    size_t extra = part.type != IS_INT && (part.kind == INT || part.kind == BIG);
    if (part.kind == INT || part.kind == FLOAT) {
        draft->words[0] = part.word;
        draft->words[1] = part.type;
        data = draft->words;
    }
    else if (extra != 0) {
        size_t room = 0, size = 0;
        if (append(&draft->buffer, &size, &room, part.data, part.size) < 0 ||
            append(&draft->buffer, &size, &room, &part.type, 1) < 0)
        {
            return -1;
        }
        data = draft->buffer;
    }
    pd_table_key(table, part.kind, data, part.size, extra, &draft->key);
    return 0;
}

void
pd_key_clear(pd_key_draft *draft)
{
    PyMem_Free(draft->buffer);
    Py_XDECREF(draft->owner);
}

// ---- Back ----

static PyObject *
damaged(void)
{
    return pd_raise(PD_ECORRUPT);
}

static PyObject *
decode_integer(const unsigned char *bytes, size_t size, uint8_t type)
{
    long long number;
    PyObject *integer;
    if (size == sizeof(number)) {
        memcpy(&number, bytes, sizeof(number));
        if (type == IS_BOOL) {
            return PyBool_FromLong(number != 0);
        }
        integer = PyLong_FromLongLong(number);
    }
    else {
        integer = pd_integer_from_bytes(bytes, size);
    }
    if (integer == NULL || type != IS_FLOAT) {
        return integer;
    }
    PyObject *real = PyNumber_Float(integer);
    Py_DECREF(integer);
    return real;
}

static PyObject *
decode_leaf(uint8_t kind, const unsigned char *bytes, size_t size, uint8_t type)
{
    double number;
    switch (kind) {
        case INT:
            return size == 8 ? decode_integer(bytes, size, type) : damaged();
        case BIG:
            return size > 8 ? decode_integer(bytes, size, type) : damaged();
        case FLOAT:
            if (size != sizeof(number)) {
                return damaged();
            }
            memcpy(&number, bytes, sizeof(number));
            return PyFloat_FromDouble(number);
        case STR:
            return PyUnicode_DecodeUTF8((const char *)bytes, (Py_ssize_t)size,
                                        "surrogatepass");
        case BYTES:
            return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
        case NONE:
            Py_RETURN_NONE;
        default:
            return damaged();
    }
}

// What is left of a tuple's bytes and types.
typedef struct reader {
    const unsigned char *bytes;
    size_t size;
    const unsigned char *types;
    size_t type_count;
} reader;

static PyObject *read_items(reader *from, uint64_t count);

static PyObject *
read_item(reader *from)
{
    uint64_t head;
    if (from->size < sizeof(head)) {
        return damaged();
    }
    memcpy(&head, from->bytes, sizeof(head));
    from->bytes += sizeof(head);
    from->size -= sizeof(head);
    uint8_t kind = (uint8_t)head, type = IS_INT;
    uint64_t size = head >> 8;
    if (kind == TUPLE) {
        return read_items(from, size);
    }
    uint64_t whole = (size + 7) / 8 * 8;
    bool number = kind == INT || kind == BIG;
    if (size > from->size || whole > from->size || (number && from->type_count == 0)) {
        return damaged();
    }
    if (number) {
        type = *from->types++;
        from->type_count--;
    }
    PyObject *item = decode_leaf(kind, from->bytes, size, type);
    from->bytes += whole;
    from->size -= whole;
    return item;
}

static PyObject *
read_items(reader *from, uint64_t count)
{
    if (count > from->size / 8) {
        return damaged();
    }
    if (Py_EnterRecursiveCall(" in a key")) {
        return NULL;
    }
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (uint64_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *item = read_item(from);
        if (item == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
    }
    Py_LeaveRecursiveCall();
    return tuple;
}

// How many elements a tuple of that many bytes has at its outermost level.
static bool
count_items(const unsigned char *bytes, size_t size, uint64_t *count)
{
    uint64_t open = 0;  // elements of inner tuples that are still to come
    *count = 0;
    while (size >= 8) {
        uint64_t head;
        memcpy(&head, bytes, sizeof(head));
        uint64_t length = head >> 8;
        uint64_t whole = (uint8_t)head == TUPLE ? 8 : 8 + (length + 7) / 8 * 8;
        if (whole > size || length > size) {
            return false;
        }
        *count += open == 0;
        open -= open > 0;
        open += (uint8_t)head == TUPLE ? length : 0;
        bytes += whole;
        size -= whole;
    }
    return size == 0 && open == 0;
}

PyObject *
pd_key_decode(uint8_t kind, const unsigned char *bytes, size_t size, size_t extra)
{
    if (kind != TUPLE) {
        return decode_leaf(kind, bytes, size, extra > 0 ? bytes[size] : IS_INT);
    }
    uint64_t count;
    if (!count_items(bytes, size, &count)) {
        return damaged();
    }
    reader from = {bytes, size, bytes + size, extra};
    return read_items(&from, count);
}
