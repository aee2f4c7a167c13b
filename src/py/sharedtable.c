// _core.SharedTable: what SharedDict needs of C, which is most of it.
//
// Each method encodes its arguments, runs one operation of the core through
// pd_shared_run(), and decodes what came out.  No lock of the core is held while Python
// code runs, and no Python object is shared between threads: the core's locks are enough
// without the GIL.
#include "py/shared.h"

#include <string.h>

#define LARGE_VALUE ((uint64_t)1 << 20)  // memory for it may take the kernel a while

// What the operations of this file take; each uses some of it.
typedef struct call {
    pd_table *table;
    const pd_key *key;
    pd_found *found;
    const pd_value *value;
    pd_rule rule;
    uint64_t version;
    pd_value_type type;  // of add
    void *term;
    uint64_t size;  // of stage
    void *room;
    int64_t pin;
    bool values;  // of list
    bool at_once;
    pd_listing *listing;
} call;

static pd_status
op_get(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_get(c->table, c->key, wait_ns, c->found);
}

static pd_status
op_has(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_has(c->table, c->key, wait_ns);
}

static pd_status
op_put(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_put(c->table, c->key, c->value, c->rule, c->version, wait_ns);
}

static pd_status
op_stage(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_stage(c->table, c->key, c->size, wait_ns, &c->room, &c->pin);
}

static pd_status
op_remove(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_remove(c->table, c->key, PD_ALWAYS, 0, wait_ns, c->found);
}

static pd_status
op_add(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_add(c->table, c->key, c->type, c->term, wait_ns);
}

static pd_status
op_claim(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_claim(c->table, c->key, wait_ns);
}

static pd_status
op_release(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_release(c->table, c->key, wait_ns);
}

static pd_status
op_list(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_list(c->table, c->values, c->at_once, wait_ns, c->listing);
}

static pd_status
op_clear(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_clear(c->table, wait_ns);
}

static pd_status
op_audit(void *arg, int64_t wait_ns)
{
    call *c = arg;
    return pd_table_audit(c->table, wait_ns);
}

// ---- Reading ----

// The value of a key: PD_OK and a new reference, PD_EABSENT, or another status with an
// exception.
static pd_status
read_value(pd_table_object *self, PyObject *key, PyObject **value, uint64_t *version)
{
    pd_key_draft draft;
    pd_found found;
    *value = NULL;
    if (pd_key_encode(self->table, key, &draft) < 0) {
        pd_key_clear(&draft);
        return PD_EINVAL;
    }
    call c = {.table = self->table, .key = &draft.key, .found = &found};
    pd_status status = pd_shared_run(op_get, &c, false, -1);
    pd_key_clear(&draft);
    if (status == PD_OK) {
        *version = found.version;
        *value = pd_value_decode(self, found.type, found.data, found.size, found.pin);
        return *value != NULL ? PD_OK : PD_EINVAL;
    }
    if (status != PD_EABSENT) {
        (void)pd_raise(status);
    }
    return status;
}

static PyObject *
raise_key_error(PyObject *key)
{
    // As dict does: a tuple would be taken for the exception's arguments.
    PyObject *args = PyTuple_Pack(1, key);
    if (args != NULL) {
        PyErr_SetObject(PyExc_KeyError, args);
        Py_DECREF(args);
    }
    return NULL;
}

static PyObject *
table_subscript(PyObject *op, PyObject *key)
{
    PyObject *value;
    uint64_t version;
    pd_status status = read_value((pd_table_object *)op, key, &value, &version);
    return status == PD_EABSENT ? raise_key_error(key) : value;
}

PyDoc_STRVAR(get_doc,
             "get($self, key, default=None, /)\n--\n\n"
             "The value of a key, or `default` if there is no such key.");

static PyObject *
table_get(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    PyObject *value;
    uint64_t version;
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "get() takes 1 or 2 arguments, not %zd",
                            count);
    }
    pd_status status = read_value((pd_table_object *)op, args[0], &value, &version);
    return status == PD_EABSENT ? Py_NewRef(count == 2 ? args[1] : Py_None) : value;
}

PyDoc_STRVAR(read_doc,
             "_read($self, key, /)\n--\n\n"
             "(value, version), or None if there is no such key.");

static PyObject *
table_read(PyObject *op, PyObject *key)
{
    PyObject *value;
    uint64_t version;
    pd_status status = read_value((pd_table_object *)op, key, &value, &version);
    if (status == PD_EABSENT) {
        Py_RETURN_NONE;
    }
    return status == PD_OK ? Py_BuildValue("(NK)", value, (unsigned long long)version)
                           : NULL;
}

// Runs an operation that needs only a key.  -1 with an exception but for the statuses
// PD_OK (1), PD_EABSENT (0), and PD_EINVAL (2).
static int
run_on_key(pd_table_object *self, pd_shared_op op, PyObject *key, pd_found *found)
{
    pd_key_draft draft;
    if (pd_key_encode(self->table, key, &draft) < 0) {
        pd_key_clear(&draft);
        return -1;
    }
    call c = {.table = self->table, .key = &draft.key, .found = found};
    pd_status status = pd_shared_run(op, &c, false, -1);
    pd_key_clear(&draft);
    switch (status) {
        case PD_OK:
            return 1;
        case PD_EABSENT:
            return 0;
        case PD_EINVAL:
            return 2;
        default:
            (void)pd_raise(status);
            return -1;
    }
}

static int
table_contains(PyObject *op, PyObject *key)
{
    return run_on_key((pd_table_object *)op, op_has, key, NULL);
}

static Py_ssize_t
table_length(PyObject *op)
{
    return (Py_ssize_t)pd_table_count(((pd_table_object *)op)->table);
}

// ---- Writing ----

// Takes shared memory for a large value and copies it there, without a lock.
static int
stage_value(pd_table_object *self, const pd_key *key, pd_value_draft *draft)
{
    call c = {.table = self->table, .key = key, .size = draft->value.size};
    bool detached = c.size >= LARGE_VALUE;
    pd_status status = pd_shared_run(op_stage, &c, detached, -1);
    if (status != PD_OK) {
        (void)pd_raise(status);
        return -1;
    }
    if (pd_value_fill(draft, c.room) < 0) {
        pd_table_unpin(self->table, c.pin);
        return -1;
    }
    draft->value.pin = c.pin;
    return 0;
}

// PD_OK, PD_ECHANGED, or another status with an exception.
static pd_status
write_encoded(pd_table_object *self,
              const pd_key *key,
              PyObject *value,
              pd_rule rule,
              uint64_t version)
{
    pd_value_draft draft;
    pd_status status = PD_EINVAL;
    if (pd_value_encode(self, value, &draft) == 0 &&
        (draft.value.size <= PD_SMALL_BYTES || stage_value(self, key, &draft) == 0))
    {
        call c = {.table = self->table,
                  .key = key,
                  .value = &draft.value,
                  .rule = rule,
                  .version = version};
        status = pd_shared_run(op_put, &c, false, -1);
        if (status != PD_OK && draft.value.pin != PD_NO_PIN) {
            pd_table_unpin(self->table, draft.value.pin);
        }
        if (status != PD_OK && status != PD_ECHANGED) {
            (void)pd_raise(status);
        }
    }
    pd_value_clear(&draft);
    return status;
}

static pd_status
write_value(pd_table_object *self,
            PyObject *key,
            PyObject *value,
            pd_rule rule,
            uint64_t version)
{
    pd_key_draft draft;
    pd_status status = PD_EINVAL;
    if (pd_key_encode(self->table, key, &draft) == 0) {
        status = write_encoded(self, &draft.key, value, rule, version);
    }
    pd_key_clear(&draft);
    return status;
}

static int
table_assign(PyObject *op, PyObject *key, PyObject *value)
{
    pd_table_object *self = (pd_table_object *)op;
    if (value != NULL) {
        return write_value(self, key, value, PD_ALWAYS, 0) == PD_OK ? 0 : -1;
    }
    int done = run_on_key(self, op_remove, key, NULL);
    if (done == 0) {
        (void)raise_key_error(key);
    }
    return done == 1 ? 0 : -1;
}

PyDoc_STRVAR(
    replace_doc,
    "_replace($self, key, version, value, /)\n--\n\n"
    "Write if the key still has that version; None: if there is no such key.\n\n"
    "Returns whether it was written.");

static PyObject *
table_replace(PyObject *op, PyObject *args)
{
    PyObject *key, *version, *value;
    if (!PyArg_ParseTuple(args, "OOO:_replace", &key, &version, &value)) {
        return NULL;
    }
    pd_rule rule = version == Py_None ? PD_IF_ABSENT : PD_IF_VERSION;
    unsigned long long number = 0;
    if (rule == PD_IF_VERSION) {
        number = PyLong_AsUnsignedLongLong(version);
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    pd_status status = write_value((pd_table_object *)op, key, value, rule, number);
    if (status != PD_OK && status != PD_ECHANGED) {
        return NULL;
    }
    return PyBool_FromLong(status == PD_OK);
}

PyDoc_STRVAR(setdefault_doc,
             "setdefault($self, key, default=None, /)\n--\n\n"
             "The value of a key, after inserting `default` if there was none.");

static PyObject *
table_setdefault(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    pd_table_object *self = (pd_table_object *)op;
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError,
                            "setdefault() takes 1 or 2 arguments, not %zd", count);
    }
    PyObject *fresh = count == 2 ? args[1] : Py_None;
    for (;;) {
        PyObject *value;
        uint64_t version;
        pd_status status = read_value(self, args[0], &value, &version);
        if (status != PD_EABSENT) {
            return value;
        }
        status = write_value(self, args[0], fresh, PD_IF_ABSENT, 0);
        // What was written, as everybody reads it from now on.
        if (status != PD_OK && status != PD_ECHANGED) {
            return NULL;
        }
    }
}

PyDoc_STRVAR(
    pop_doc,
    "pop($self, key, default=<unset>, /)\n--\n\n"
    "Remove a key and return its value; `default`, if given, if there is none.");

static PyObject *
table_pop(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    pd_table_object *self = (pd_table_object *)op;
    pd_found found;
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "pop() takes 1 or 2 arguments, not %zd",
                            count);
    }
    int done = run_on_key(self, op_remove, args[0], &found);
    if (done == 1) {
        return pd_value_decode(self, found.type, found.data, found.size, found.pin);
    }
    if (done == 0) {
        return count == 2 ? Py_NewRef(args[1]) : raise_key_error(args[0]);
    }
    return NULL;
}

PyDoc_STRVAR(add_doc,
             "add($self, key, n=1, /)\n--\n\n"
             "Add to the value of a key, in one step, and return the sum.\n\n"
             "A key that is not there counts as 0.  Whatever can be added will do, but "
             "ints and\n"
             "floats are added without reading the value first.");

// n as a term that the core can add; false if it is none.
static bool
term_of(PyObject *n, pd_value_type *type, long long *integer, double *real)
{
    int overflow = 0;
    if (PyFloat_CheckExact(n)) {
        *type = PD_VALUE_FLOAT;
        *real = PyFloat_AS_DOUBLE(n);
        return true;
    }
    *type = PD_VALUE_INT;
    if (PyLong_CheckExact(n)) {
        *integer = PyLong_AsLongLongAndOverflow(n, &overflow);
        return overflow == 0;
    }
    return false;
}

static PyObject *
table_add(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    pd_table_object *self = (pd_table_object *)op;
    pd_value_type type = PD_VALUE_INT;
    long long integer = 1;
    double real = 0;
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError, "add() takes 1 or 2 arguments, not %zd",
                            count);
    }
    pd_status status = PD_EINVAL;
    if (count == 1 || term_of(args[1], &type, &integer, &real)) {
        pd_key_draft draft;
        if (pd_key_encode(self->table, args[0], &draft) < 0) {
            pd_key_clear(&draft);
            return NULL;
        }
        bool is_real = type == PD_VALUE_FLOAT;
        call c = {.table = self->table,
                  .key = &draft.key,
                  .type = type,
                  .term = is_real ? (void *)&real : (void *)&integer};
        status = pd_shared_run(op_add, &c, false, -1);
        pd_key_clear(&draft);
        if (status == PD_OK) {
            return is_real ? PyFloat_FromDouble(real) : PyLong_FromLongLong(integer);
        }
    }
    if (status != PD_EINVAL) {
        return pd_raise(status);
    }
    // Not of one type, or too large for 64 bits: as any function of the value.
    PyObject *one = count == 1 ? PyLong_FromLong(1) : Py_NewRef(args[1]);
    PyObject *sum =
        one != NULL ? PyObject_CallMethod(op, "_add_any", "OO", args[0], one) : NULL;
    Py_XDECREF(one);
    return sum;
}

// ---- The whole table ----

static PyObject *
decode_entry(pd_table_object *self, pd_listing *listing, pd_entry *entry, bool values)
{
    PyObject *key = pd_key_decode(entry->kind, listing->bytes + entry->key,
                                  entry->key_size, entry->key_extra);
    if (key == NULL || !values) {
        return key;
    }
    int64_t pin = entry->pin;
    const void *data = pin != PD_NO_PIN ? entry->data : listing->bytes + entry->value;
    entry->pin = PD_NO_PIN;  // used up
    PyObject *value = pd_value_decode(self, entry->type, data, entry->size, pin);
    if (value == NULL) {
        Py_DECREF(key);
        return NULL;
    }
    return Py_BuildValue("(NN)", key, value);
}

PyDoc_STRVAR(
    list_doc,
    "_list($self, values, at_once, /)\n--\n\n"
    "The keys, or (key, value) pairs, oldest first; `at_once`: of one moment.");

static PyObject *
table_list(PyObject *op, PyObject *args)
{
    pd_table_object *self = (pd_table_object *)op;
    int values, at_once;
    if (!PyArg_ParseTuple(args, "pp:_list", &values, &at_once)) {
        return NULL;
    }
    pd_listing listing;
    call c = {.table = self->table,
              .values = values != 0,
              .at_once = at_once != 0,
              .listing = &listing};
    pd_status status = pd_shared_run(op_list, &c, true, -1);
    if (status != PD_OK) {
        return pd_raise(status);
    }
    PyObject *list = PyList_New((Py_ssize_t)listing.count);
    for (size_t i = 0; list != NULL && i < listing.count; i++) {
        PyObject *item = decode_entry(self, &listing, &listing.entries[i], values != 0);
        if (item == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    pd_listing_free(self->table, &listing);
    return list;
}

static PyObject *
run_on_table(PyObject *op, pd_shared_op operation)
{
    call c = {.table = ((pd_table_object *)op)->table};
    pd_status status = pd_shared_run(operation, &c, true, -1);
    if (status != PD_OK) {
        return pd_raise(status);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(clear_doc,
             "clear($self, /)\n--\n\nRemove all keys that nobody is editing.");

static PyObject *
table_clear(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return run_on_table(op, op_clear);
}

PyDoc_STRVAR(audit_doc,
             "_audit($self, /)\n--\n\n"
             "Check everything in the shared memory; a RuntimeError if it is damaged.");

static PyObject *
table_audit(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return run_on_table(op, op_audit);
}

// ---- Claims ----

PyDoc_STRVAR(
    claim_doc,
    "_claim($self, key, /)\n--\n\n"
    "Wait until no other thread may write to the key; False if this one has it.");

static PyObject *
table_claim(PyObject *op, PyObject *key)
{
    int done = run_on_key((pd_table_object *)op, op_claim, key, NULL);
    return done < 0 ? NULL : PyBool_FromLong(done == 1);
}

PyDoc_STRVAR(release_doc,
             "_release($self, key, /)\n--\n\nEnd a claim; False if there is none.");

static PyObject *
table_release(PyObject *op, PyObject *key)
{
    int done = run_on_key((pd_table_object *)op, op_release, key, NULL);
    return done < 0 ? NULL : PyBool_FromLong(done == 1);
}

// ---- Life ----

// What creating and attaching have in common for pd_shared_run().
typedef struct opening {
    int fd;
    pd_table *table;
} opening;

static pd_status
op_open(void *arg, int64_t wait_ns)
{
    opening *o = arg;
    (void)wait_ns;
    return o->fd < 0 ? pd_table_create(0, &o->table)
                     : pd_table_attach(o->fd, &o->table);
}

static PyObject *
table_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int fd, allow_pickle;
    if (!PyArg_ParseTuple(args, "ip:SharedTable", &fd, &allow_pickle)) {
        return NULL;
    }
    pd_module_state *state = pd_state_of_type(type);
    if (state == NULL) {
        return NULL;
    }
    opening o = {.fd = fd};
    pd_status status = pd_shared_run(op_open, &o, false, -1);
    if (status != PD_OK) {
        return pd_raise(status);
    }
    pd_table_object *self = (pd_table_object *)type->tp_alloc(type, 0);
    if (self == NULL) {
        pd_table_destroy(o.table);
        return NULL;
    }
    self->table = o.table;
    self->state = state;
    self->allow_pickle = allow_pickle != 0;
    return (PyObject *)self;
}

static int
table_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
table_dealloc(PyObject *op)
{
    pd_table_object *self = (pd_table_object *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    pd_table_destroy(self->table);
    type->tp_free(op);
    Py_DECREF(type);  // a heap type is referenced by its instances
}

PyDoc_STRVAR(fileno_doc,
             "fileno($self, /)\n--\n\nThe descriptor of the shared memory.");

static PyObject *
table_fileno(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(pd_table_fd(((pd_table_object *)op)->table));
}

static PyObject *
table_allow_pickle(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((pd_table_object *)op)->allow_pickle);
}

static PyObject *
table_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(pd_table_bytes(((pd_table_object *)op)->table));
}

static PyMethodDef table_methods[] = {
    {"get",        (PyCFunction)(void (*)(void))table_get,        METH_FASTCALL, get_doc    },
    {"setdefault", (PyCFunction)(void (*)(void))table_setdefault, METH_FASTCALL,
     setdefault_doc                                                                         },
    {"pop",        (PyCFunction)(void (*)(void))table_pop,        METH_FASTCALL, pop_doc    },
    {"add",        (PyCFunction)(void (*)(void))table_add,        METH_FASTCALL, add_doc    },
    {"_read",      table_read,                                    METH_O,        read_doc   },
    {"_replace",   table_replace,                                 METH_VARARGS,  replace_doc},
    {"_list",      table_list,                                    METH_VARARGS,  list_doc   },
    {"_claim",     table_claim,                                   METH_O,        claim_doc  },
    {"_release",   table_release,                                 METH_O,        release_doc},
    {"_audit",     table_audit,                                   METH_NOARGS,   audit_doc  },
    {"clear",      table_clear,                                   METH_NOARGS,   clear_doc  },
    {"fileno",     table_fileno,                                  METH_NOARGS,   fileno_doc },
    {NULL,         NULL,                                          0,             NULL       },
};

static PyGetSetDef table_getset[] = {
    {"allow_pickle", table_allow_pickle, NULL, "Whether values may be pickles.",     NULL},
    {"nbytes",       table_nbytes,       NULL, "Bytes of the shared memory's file.", NULL},
    {NULL,           NULL,               NULL, NULL,                                 NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc,           "A hash table in shared memory: SharedTable(fd or -1, allow_pickle)."},
    {Py_tp_new,           table_new                                                            },
    {Py_tp_traverse,      table_traverse                                                       },
    {Py_tp_dealloc,       table_dealloc                                                        },
    {Py_tp_methods,       table_methods                                                        },
    {Py_tp_getset,        table_getset                                                         },
    {Py_mp_subscript,     table_subscript                                                      },
    {Py_mp_ass_subscript, table_assign                                                         },
    {Py_mp_length,        table_length                                                         },
    {Py_sq_contains,      table_contains                                                       },
    {0,                   NULL                                                                 },
};

static PyType_Spec table_spec = {
    .name = "pydistrib._core.SharedTable",
    .basicsize = sizeof(pd_table_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = table_slots,
};

int
pd_add_table_type(PyObject *module)
{
    PyTypeObject *type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &table_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, type);
    Py_DECREF(type);
    return result;
}

PyDoc_STRVAR(
    hooks_doc,
    "_set_shared_hooks($module, array_type, dtype_to_text, text_to_dtype, dumps, "
    "loads, /)\n--\n\n"
    "What SharedTable uses of Python.  Called once, by pydistrib.shared.");

static PyObject *
set_shared_hooks(PyObject *module, PyObject *args)
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *hooks[5];
    if (!PyArg_ParseTuple(args, "OOOOO:_set_shared_hooks", &hooks[0], &hooks[1],
                          &hooks[2], &hooks[3], &hooks[4]))
    {
        return NULL;
    }
    PyObject **places[5] = {
        &state->shared.array_type,    &state->shared.dtype_to_text,
        &state->shared.text_to_dtype, &state->shared.dumps,
        &state->shared.loads,
    };
    for (int i = 0; i < 5; i++) {
        Py_XSETREF(*places[i], Py_NewRef(hooks[i]));
    }
    Py_RETURN_NONE;
}

PyMethodDef pd_shared_methods[] = {
    {"_set_shared_hooks", set_shared_hooks, METH_VARARGS, hooks_doc},
    {NULL,                NULL,             0,            NULL     },
};
