// _core.Desk: the worker's side of a task board.
//
//      take() -> a task      give(...) <- its result, or its error
//      code() -> its function            say(...)  <- anything else
//
// Arguments are Pieces over the poster's memory.  What several tasks may have is mapped
// privately (copy on write), so that a task can change what it was given; what is this
// task's alone is used where it lies.  The Pieces of a task share a Lease, and the last
// one to go tells the poster, who then uses the memory again.
//
// Results are copied into this worker's own memory, which the poster maps; what it has
// dropped comes back through the mailbox.
//
// Without Python's lock: what is written is guarded by the Desk's critical section.
#include "py/board.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#ifdef __linux__
#    include <signal.h>
#    include <sys/prctl.h>
#endif

#define NO_SLOT UINT32_MAX
#define LONG_WAIT_NS 1000000000  // then a worker looks around, and for signals
#define FULL_WAIT_US 100

typedef struct desk {
    PyObject_HEAD
    pd_board *board;  // owned, as all
    pd_mailbox *box;
    pd_arena *arena;
    int ring;  // an eventfd
    uint32_t desk;
    uint32_t slot;  // of the task that is being run, or NO_SLOT
    int64_t spin_ns;
    uint64_t *late;  // tickets whose release there was no room to send
    size_t late_count;
    size_t late_room;
} desk;

typedef struct lease {
    PyObject_HEAD
    desk *owner;  // owned
    uint64_t ticket;
    uint32_t slot;
} lease;

static PyObject *
module_of(PyObject *self)
{
    return PyType_GetModule(Py_TYPE(self));
}

// ------------------------------------------------------------------------------
// Sending
// ------------------------------------------------------------------------------

static void
ring(desk *self)
{
    if (pd_board_must_ring(self->board)) {
        const uint64_t one = 1;
        // It can fail only if the counter is full, and then the bell rings anyway.
        ssize_t written = write(self->ring, &one, sizeof(one));
        (void)written;
    }
}

static bool
send_release(desk *self, uint64_t ticket, uint32_t slot)
{
    pd_mail *mail = pd_mailbox_begin(self->box, 0);
    if (mail == NULL) {
        return false;
    }
    mail->kind = PD_MAIL_RELEASE;
    mail->ticket = ticket;
    mail->slot = slot;
    pd_mailbox_send(self->box);
    return true;
}

static void
release_late(desk *self)
{
    while (self->late_count > 0 &&
           send_release(self, self->late[self->late_count - 1], NO_SLOT))
    {
        self->late_count--;
    }
}

static void
release(desk *self, uint64_t ticket, uint32_t slot)
{
    release_late(self);
    if (self->late_count == 0 && send_release(self, ticket, slot)) {
        return;
    }
    if (self->late_count == self->late_room) {
        size_t room = self->late_room == 0 ? 64 : 2 * self->late_room;
        uint64_t *late = PyMem_RawRealloc(self->late, room * sizeof(*late));
        if (late == NULL) {
            return;  // the poster keeps the memory until this process ends
        }
        self->late = late;
        self->late_room = room;
    }
    self->late[self->late_count++] = ticket;
}

// Waits for room in the mailbox, without Python's lock: -1 if a signal's handler raised.
static int
wait_for_room(desk *self)
{
    ring(self);
    Py_BEGIN_ALLOW_THREADS(void)
    usleep(FULL_WAIT_US);
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals();
}

// Fills and sends a mail if there is room now.
static bool
try_send(desk *self,
         const pd_mail *head,
         const void *first,
         size_t first_bytes,
         const void *second,
         size_t second_bytes)
{
    bool sent = false;
    Py_BEGIN_CRITICAL_SECTION(self);
    release_late(self);
    uint64_t inside = head->span.bytes == 0 ? first_bytes + second_bytes : 0;
    pd_mail *mail = pd_mailbox_begin(self->box, inside);
    if (mail != NULL) {
        *mail = *head;
        mail->inside = inside;
        if (inside > 0) {
            memcpy(mail + 1, first, first_bytes);
            memcpy((char *)(mail + 1) + first_bytes, second, second_bytes);
        }
        pd_mailbox_send(self->box);
        sent = true;
    }
    Py_END_CRITICAL_SECTION();
    return sent;
}

// ------------------------------------------------------------------------------
// Memory for results
// ------------------------------------------------------------------------------

static pd_status
take_memory(desk *self, uint64_t bytes, pd_span *span, char **data)
{
    pd_status status;
    Py_BEGIN_CRITICAL_SECTION(self);
    pd_span back;
    while (pd_mailbox_take_return(self->box, &back)) {
        (void)pd_arena_give(self->arena, back.at, back.bytes);
    }
    span->bytes = bytes;
    status = pd_arena_take(self->arena, bytes, &span->at);
    if (status == PD_OK) {
        *data = pd_segment_at(pd_mailbox_segment(self->box), span->at, bytes);
    }
    Py_END_CRITICAL_SECTION();
    return status;
}

static void
give_memory(desk *self, const pd_span *spans, Py_ssize_t count)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    for (Py_ssize_t i = 0; i < count; i++) {
        (void)pd_arena_give(self->arena, spans[i].at, spans[i].bytes);
    }
    Py_END_CRITICAL_SECTION();
}

// Copies buffers into memory of the worker; -1 with an exception, and nothing is taken.
static int
copy_buffers(desk *self, PyObject *buffers, pd_span *spans)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(buffers); i++) {
        Py_buffer view;
        char *data;
        pd_status status = PD_OK;
        bool got = PyObject_GetBuffer(PyTuple_GET_ITEM(buffers, i), &view,
                                      PyBUF_ANY_CONTIGUOUS) == 0;
        if (got) {
            status = take_memory(self, view.len > 0 ? (uint64_t)view.len : 1, &spans[i],
                                 &data);
            if (status == PD_OK) {
                pd_copy_out(data, view.buf, (size_t)view.len);
            }
            PyBuffer_Release(&view);
        }
        if (!got || status != PD_OK) {
            pd_raise(status);
            give_memory(self, spans, i);
            return -1;
        }
    }
    return 0;
}

// ------------------------------------------------------------------------------
// Giving results
// ------------------------------------------------------------------------------

// Moves what does not fit into a mail into memory of its own.
static int
place_payload(desk *self,
              pd_mail *head,
              const pd_span *spans,
              size_t span_bytes,
              const Py_buffer *pickle)
{
    size_t bytes = span_bytes + (size_t)pickle->len;
    if (bytes <= PD_MAILBOX_LARGEST) {
        return 0;
    }
    char *data;
    pd_status status = take_memory(self, bytes, &head->span, &data);
    if (status != PD_OK) {
        pd_raise(status);
        return -1;
    }
    if (span_bytes > 0) {
        memcpy(data, spans, span_bytes);
    }
    pd_copy_out(data + span_bytes, pickle->buf, (size_t)pickle->len);
    return 0;
}

static void
count_task(desk *self)
{
    pd_desk *d = pd_board_desk(self->board, self->desk);
    int64_t spent =
        pd_now_ns() - atomic_load_explicit(&d->since_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&d->run_ns, spent, memory_order_relaxed);
    atomic_fetch_add_explicit(&d->tasks, 1, memory_order_relaxed);
}

// Sends a result whose parts are in place: 1, or 0 if the task was doomed.
static int
send_result(desk *self,
            const pd_mail *head,
            const pd_span *spans,
            size_t span_bytes,
            const Py_buffer *pickle)
{
    count_task(self);
    if (!pd_board_finish(self->board, self->desk, self->slot)) {
        return 0;
    }
    self->slot = NO_SLOT;
    bool interrupted = false;
    while (!try_send(self, head, spans, span_bytes, pickle->buf, (size_t)pickle->len)) {
        // The result is on its way: a signal has to wait.
        if (wait_for_room(self) < 0) {
            PyErr_Clear();
            interrupted = true;
        }
    }
    ring(self);
    if (interrupted) {
        PyErr_SetNone(PyExc_KeyboardInterrupt);
        return -1;
    }
    return 1;
}

PyDoc_STRVAR(give_doc,
             "give($self, success, pickle, buffers, keeps, /)\n--\n\n"
             "Send the outcome of the task; False if it was taken away: then this "
             "process is\nabout to be killed.");

static PyObject *
desk_give(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    desk *self = (desk *)op;
    if (nargs != 4 || !PyTuple_Check(args[2]) || self->slot == NO_SLOT) {
        PyErr_SetString(PyExc_TypeError, "give() was called wrongly");
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(args[2]);
    pd_span *spans = PyMem_Calloc((size_t)count + 1, sizeof(*spans));
    Py_buffer pickle;
    if (spans == NULL || PyObject_GetBuffer(args[1], &pickle, PyBUF_SIMPLE) < 0) {
        PyMem_Free(spans);
        return spans == NULL ? PyErr_NoMemory() : NULL;
    }
    size_t span_bytes = (size_t)count * sizeof(*spans);
    pd_mail head = {
        .kind = args[0] == Py_True ? PD_MAIL_RESULT : PD_MAIL_ERROR,
        .slot = self->slot,
        .ticket = pd_board_slot(self->board, self->slot)->ticket,
        .spans = (uint32_t)count,
        .flags = args[3] == Py_True ? PD_MAIL_KEEPS_FUNCTION : 0,
    };
    int given = copy_buffers(self, args[2], spans);
    if (given == 0) {
        given = place_payload(self, &head, spans, span_bytes, &pickle);
        if (given < 0) {
            give_memory(self, spans, count);
        }
    }
    if (given == 0) {
        given = send_result(self, &head, spans, span_bytes, &pickle);
    }
    PyBuffer_Release(&pickle);
    PyMem_Free(spans);
    return given < 0 ? NULL : PyBool_FromLong(given);
}

PyDoc_STRVAR(say_doc,
             "say($self, kind, text, /)\n--\n\n"
             "Send something that is no result; in pieces if it is long.");

static PyObject *
desk_say(PyObject *op, PyObject *args)
{
    desk *self = (desk *)op;
    unsigned kind;
    Py_buffer text;
    if (!PyArg_ParseTuple(args, "Iy*:say", &kind, &text)) {
        return NULL;
    }
    pd_mail head = {.kind = kind, .slot = NO_SLOT};
    size_t sent = 0;
    int status = 0;
    do {
        size_t bytes = Py_MIN((size_t)text.len - sent, (size_t)PD_MAILBOX_LARGEST);
        if (try_send(self, &head, NULL, 0, (char *)text.buf + sent, bytes)) {
            sent += bytes;
        }
        else {
            status = wait_for_room(self);
        }
    } while (status == 0 && sent < (size_t)text.len);
    ring(self);
    PyBuffer_Release(&text);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

// ------------------------------------------------------------------------------
// Taking tasks
// ------------------------------------------------------------------------------

static void
drop_mapping(pd_piece *piece)
{
    if (piece->shared) {
        (void)munmap(piece->data, (size_t)piece->span.bytes);
    }
}

// A buffer of the poster's as this worker sees it.
static PyObject *
argument_piece(desk *self, PyObject *owner, pd_span span)
{
    bool shared = (span.bytes & PD_SPAN_SHARED) != 0;
    span.bytes &= ~PD_SPAN_SHARED;
    pd_segment *segment = pd_board_segment(self->board);
    char *data = span.bytes > PY_SSIZE_T_MAX
                     ? NULL
                     : pd_segment_at(segment, span.at, span.bytes);
    if (data == NULL) {
        pd_raise(PD_ECORRUPT);
        return NULL;
    }
    if (shared) {
        data = mmap(NULL, (size_t)span.bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_NORESERVE, segment->fd, (off_t)span.at);
        if (data == MAP_FAILED) {
            return PyErr_SetFromErrno(errno == ENOMEM ? PyExc_MemoryError
                                                      : PyExc_OSError);
        }
    }
    PyObject *piece = pd_piece_new(module_of((PyObject *)self), owner, drop_mapping,
                                   data, (Py_ssize_t)span.bytes, span);
    if (piece == NULL) {
        if (shared) {
            (void)munmap(data, (size_t)span.bytes);
        }
        return NULL;
    }
    ((pd_piece *)piece)->shared = shared;
    return piece;
}

static PyObject *
new_lease(desk *self, uint64_t ticket, uint32_t slot)
{
    pd_module_state *state = PyModule_GetState(module_of((PyObject *)self));
    lease *new = PyObject_New(lease, state->lease_type);
    if (new != NULL) {
        new->owner = (desk *)Py_NewRef((PyObject *)self);
        new->ticket = ticket;
        new->slot = slot;
    }
    return (PyObject *)new;
}

// (pickle, buffers or None) of what a span of the board names: spans, then a pickle.
static PyObject *
open_span(desk *self, const char *data, uint64_t bytes, uint32_t spans, PyObject *owner)
{
    uint64_t skip = spans * sizeof(pd_span);
    if (data == NULL || skip > bytes || bytes > PY_SSIZE_T_MAX) {
        return pd_raise(PD_ECORRUPT);
    }
    PyObject *buffers = spans == 0 ? Py_NewRef(Py_None) : PyList_New(spans);
    for (uint32_t i = 0; buffers != NULL && i < spans; i++) {
        pd_span span;
        memcpy(&span, data + i * sizeof(span), sizeof(span));
        PyObject *piece = argument_piece(self, owner, span);
        if (piece == NULL) {
            Py_CLEAR(buffers);
            break;
        }
        PyList_SET_ITEM(buffers, i, piece);
    }
    if (buffers == NULL) {
        return NULL;
    }
    PyObject *pickle =
        bytes - skip <= PD_SLOT_INSIDE
            ? PyBytes_FromStringAndSize(data + skip, (Py_ssize_t)(bytes - skip))
            : PyMemoryView_FromMemory((char *)data + skip, (Py_ssize_t)(bytes - skip),
                                      PyBUF_READ);
    if (pickle == NULL) {
        Py_DECREF(buffers);
        return NULL;
    }
    return Py_BuildValue("(NN)", pickle, buffers);
}

static const char *
span_data(desk *self, pd_span span)
{
    return pd_segment_at(pd_board_segment(self->board), span.at, span.bytes);
}

// Waits for a task, without Python's lock: PD_OK, PD_ETIMEDOUT, PD_ECLOSED, PD_ECANCELED
// with an exception.
static pd_status
wait_for_task(desk *self, int64_t timeout_ns, uint32_t *slot)
{
    int64_t end = timeout_ns < 0 ? INT64_MAX : pd_now_ns() + timeout_ns;
    for (;;) {
        pd_status status = pd_board_claim(self->board, self->desk, slot);
        if (status != PD_EABSENT) {
            return status;
        }
        int64_t left = end == INT64_MAX ? LONG_WAIT_NS : end - pd_now_ns();
        if (left <= 0) {
            return PD_ETIMEDOUT;
        }
        Py_BEGIN_ALLOW_THREADS
        pd_board_wait(self->board, self->desk, self->spin_ns,
                      left < LONG_WAIT_NS ? left : LONG_WAIT_NS);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return PD_ECANCELED;
        }
    }
}

PyDoc_STRVAR(
    begin_doc,
    "begin($self, /)\n--\n\n"
    "Tell the poster that the task begins now; for tasks whose mode has BEGIN.");

static PyObject *
desk_begin(PyObject *op, PyObject *Py_UNUSED(unused))
{
    desk *self = (desk *)op;
    if (self->slot == NO_SLOT) {
        PyErr_SetString(PyExc_RuntimeError, "there is no task");
        return NULL;
    }
    pd_mail head = {
        .kind = PD_MAIL_BEGUN,
        .slot = self->slot,
        .ticket = pd_board_slot(self->board, self->slot)->ticket,
    };
    while (!try_send(self, &head, NULL, 0, NULL, 0)) {
        if (wait_for_room(self) < 0) {
            return NULL;
        }
    }
    ring(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(take_doc,
             "take($self, timeout, /)\n--\n\n"
             "Wait for a task: (mode, function number), None after `timeout` seconds, "
             "False when\nno more will come.");

static PyObject *
desk_take(PyObject *op, PyObject *arg)
{
    desk *self = (desk *)op;
    double timeout = PyFloat_AsDouble(arg);
    uint32_t slot;
    if (timeout == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (self->slot != NO_SLOT) {
        PyErr_SetString(PyExc_RuntimeError, "the last task's result was not given");
        return NULL;
    }
    if (self->late_count > 0) {
        Py_BEGIN_CRITICAL_SECTION(self);
        release_late(self);
        Py_END_CRITICAL_SECTION();
    }
    pd_status status =
        wait_for_task(self, timeout < 0 ? -1 : (int64_t)(timeout * 1e9), &slot);
    if (status == PD_ETIMEDOUT) {
        Py_RETURN_NONE;
    }
    if (status == PD_ECLOSED) {
        Py_RETURN_FALSE;
    }
    if (status != PD_OK) {
        return pd_raise(status);
    }
    self->slot = slot;
    pd_desk *d = pd_board_desk(self->board, self->desk);
    atomic_store_explicit(&d->since_ns, pd_now_ns(), memory_order_relaxed);
    const pd_slot *task = pd_board_slot(self->board, slot);
    uint32_t mode = task->mode | ((task->flags & PD_SLOT_ANNOUNCE) != 0 ? PD_BEGIN : 0);
    return Py_BuildValue("(IK)", mode, (unsigned long long)task->function);
}

PyDoc_STRVAR(
    payload_doc,
    "payload($self, /)\n--\n\n(pickle, buffers or None) of the task's arguments.");

static PyObject *
desk_payload(PyObject *op, PyObject *Py_UNUSED(unused))
{
    desk *self = (desk *)op;
    if (self->slot == NO_SLOT) {
        PyErr_SetString(PyExc_RuntimeError, "there is no task");
        return NULL;
    }
    const pd_slot *task = pd_board_slot(self->board, self->slot);
    const char *data =
        task->payload.at == 0 ? task->inside : span_data(self, task->payload);
    uint64_t bytes = task->payload.bytes;
    if (task->payload.at == 0 && bytes > PD_SLOT_INSIDE) {
        return pd_raise(PD_ECORRUPT);
    }
    if (task->spans == 0) {
        return open_span(self, data, bytes, 0, NULL);
    }
    PyObject *owner = new_lease(self, task->ticket, self->slot);
    PyObject *result =
        owner == NULL ? NULL : open_span(self, data, bytes, task->spans, owner);
    Py_XDECREF(owner);
    return result;
}

PyDoc_STRVAR(code_doc,
             "code($self, /)\n--\n\n(pickle, buffers or None) of the task's function.");

static PyObject *
desk_code(PyObject *op, PyObject *Py_UNUSED(unused))
{
    desk *self = (desk *)op;
    if (self->slot == NO_SLOT) {
        PyErr_SetString(PyExc_RuntimeError, "there is no task");
        return NULL;
    }
    const pd_slot *task = pd_board_slot(self->board, self->slot);
    const char *data = span_data(self, task->code);
    if (task->code_spans == 0) {
        return open_span(self, data, task->code.bytes, 0, NULL);
    }
    PyObject *owner = new_lease(self, task->function | PD_TICKET_FUNCTION, NO_SLOT);
    PyObject *result = owner == NULL ? NULL
                                     : open_span(self, data, task->code.bytes,
                                                 task->code_spans, owner);
    Py_XDECREF(owner);
    return result;
}

static PyObject *
desk_busy(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((desk *)op)->slot != NO_SLOT);
}

// ------------------------------------------------------------------------------
// The types
// ------------------------------------------------------------------------------

static void
lease_dealloc(PyObject *op)
{
    lease *self = (lease *)op;
    PyTypeObject *type = Py_TYPE(op);
    Py_BEGIN_CRITICAL_SECTION(self->owner);
    release(self->owner, self->ticket, self->slot);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(self->owner);
    type->tp_free(op);
    Py_DECREF(type);
}

static pd_status
attach(desk *self, int board_fd, int box_fd)
{
    pd_status status = pd_board_attach(board_fd, &self->board);
    if (status != PD_OK) {
        close(box_fd);
        return status;
    }
    status = pd_mailbox_attach(box_fd, &self->box);
    if (status != PD_OK) {
        return status;
    }
    if (self->desk >= pd_board_desks(self->board)) {
        return PD_EINVAL;
    }
    return pd_arena_create(pd_mailbox_segment(self->box), pd_mailbox_end(self->box),
                           &self->arena);
}

static PyObject *
desk_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    int board_fd, box_fd, ring_fd;
    unsigned number;
    double spin;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Desk() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iiiId:Desk", &board_fd, &box_fd, &ring_fd, &number,
                          &spin))
    {
        return NULL;
    }
    desk *self = (desk *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->ring = ring_fd;
    self->desk = number;
    self->slot = NO_SLOT;
    self->spin_ns = (int64_t)(spin * 1e9);
    pd_status status = attach(self, board_fd, box_fd);
    if (status != PD_OK) {
        pd_raise(status);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
desk_dealloc(PyObject *op)
{
    desk *self = (desk *)op;
    PyTypeObject *type = Py_TYPE(op);
    pd_arena_destroy(self->arena);
    pd_mailbox_destroy(self->box);
    pd_board_destroy(self->board);
    PyMem_RawFree(self->late);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef desk_methods[] = {
    {"take",    desk_take,                              METH_O,        take_doc   },
    {"begin",   desk_begin,                             METH_NOARGS,   begin_doc  },
    {"payload", desk_payload,                           METH_NOARGS,   payload_doc},
    {"code",    desk_code,                              METH_NOARGS,   code_doc   },
    {"give",    (PyCFunction)(void (*)(void))desk_give, METH_FASTCALL, give_doc   },
    {"say",     desk_say,                               METH_VARARGS,  say_doc    },
    {NULL,      NULL,                                   0,             NULL       },
};

static PyGetSetDef desk_getset[] = {
    {"busy", desk_busy, NULL, "Whether a task was taken and not given.", NULL},
    {NULL,   NULL,      NULL, NULL,                                      NULL},
};

PyDoc_STRVAR(desk_type_doc,
             "Desk(board_fd, mailbox_fd, ring_fd, desk, spin, /)\n--\n\n"
             "A worker's place at a board of another process.  It takes the first two "
             "descriptors;\n`spin` is how many seconds it looks for tasks before it "
             "sleeps.");

static PyType_Slot desk_slots[] = {
    {Py_tp_doc,     (void *)desk_type_doc},
    {Py_tp_new,     desk_new             },
    {Py_tp_dealloc, desk_dealloc         },
    {Py_tp_methods, desk_methods         },
    {Py_tp_getset,  desk_getset          },
    {0,             NULL                 },
};

static PyType_Spec desk_spec = {
    .name = "pydistrib._core.Desk",
    .basicsize = sizeof(desk),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = desk_slots,
};

static PyType_Slot lease_slots[] = {
    {Py_tp_doc,     "What a worker was lent."},
    {Py_tp_dealloc, lease_dealloc            },
    {0,             NULL                     },
};

static PyType_Spec lease_spec = {
    .name = "pydistrib._core.Lease",
    .basicsize = sizeof(lease),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lease_slots,
};

int
pd_add_desk_types(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->lease_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &lease_spec, NULL);
    if (state->lease_type == NULL) {
        return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &desk_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int status = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return status;
}

// ------------------------------------------------------------------------------
// Life and death
// ------------------------------------------------------------------------------

PyDoc_STRVAR(die_with_parent_doc,
             "die_with_parent($module, parent, /)\n--\n\n"
             "Have this process killed when its parent, of that pid, ends: False if it "
             "has ended\nalready.");

static PyObject *
die_with_parent(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long parent = PyLong_AsLong(arg);
    if (parent == -1 && PyErr_Occurred()) {
        return NULL;
    }
#ifdef __linux__
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
#endif
    return PyBool_FromLong(getppid() == (pid_t)parent);
}

PyMethodDef pd_desk_methods[] = {
    {"die_with_parent", die_with_parent, METH_O, die_with_parent_doc},
    {NULL,              NULL,            0,      NULL               },
};
