// _core.Board and _core.Tray: the poster's side of a task board.
//
// A Board keeps, for each slot of the table, what only this process knows of the task:
// the result that waits for it, and the memory that its arguments lie in.  A Tray is the
// reader's end of one worker's mailbox.
//
// Results are read by the engine's thread (collect()), and by whoever waits for one of them
// (pd_board_help()), which saves two changes of thread.  A waiter takes what is no more
// than a result, settles it, and leaves all else, in its order, to the engine's thread:
//
//      waiter                                     engine's thread
//      ------                                     ---------------
//      helping = true: no ring is needed          asleep in poll()
//      settle plain results; look a little
//      helping = false; ask to be rung;
//      ring if a mail came before that,  ------>  collect()
//      or a task waits for a slot
//
// Unpickling may run anybody's code, which may wait too: no waiter helps meanwhile.
//
// Memory of arguments is freed when nobody needs it: the slot holds it until the result
// is there; if the worker has not let go of it by then (a task may keep an array) the
// Tray holds it on, until the worker says so or dies.
//
// Without Python's lock: all below is guarded by the Board's critical section, a Tray's
// mailbox by the Tray's.
// Fork: the child has a copy of the objects and maps the same memory, which is not its.
// It may let go of them and read results, and that is all.
#include "py/board.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "py/async.h"
#include "shm/process.h"
#include "thread/sync.h"

#define PICKLE_PROTOCOL 5
#define WATCHED 64            // mailboxes; a larger pool has no use for so short a wait
#define HELP_NS 100000        // how long a waiter looks for its result before it sleeps
#define LONG_WAIT_NS 1000000  // where waits last longer, it only looks now and then

typedef struct entry {
    pd_job *call;        // owned, as all; NULL: the slot is free
    PyObject *function;  // (number, code, spans, pieces)
    PyObject *payload;   // a Piece, or NULL if it lies inside
    PyObject *pieces;    // a tuple, or NULL
    uint64_t ticket;
} entry;

typedef struct tray {
    PyObject_HEAD
    pd_mailbox *box;   // owned
    PyObject *leases;  // ticket -> pieces that the worker has kept
    pd_span *late;     // owned: returns that there was no room for
    size_t late_count;
    size_t late_room;
    bool handled;    // what collect() returned may not be dealt with yet
    unsigned forks;  // of the process it belongs to; immutable
} tray;

typedef struct board {
    PyObject_HEAD
    pd_board *board;  // owned
    pd_arena *arena;  // owned
    entry *entries;   // one a slot
    uint32_t *free;   // numbers of free slots
    uint32_t free_count;
    tray **trays;          // one a desk, or NULL; owned
    PyObject *queues;      // of tasks that wait for a slot: a tuple; owned, or NULL
    uint64_t ticket;       // the latest
    uint64_t settled;      // plain results
    int ring;              // an eventfd that wakes the engine's thread; owned, or -1
    _Atomic bool helping;  // a waiter reads results; changed in the critical section
    pd_spin helped;
    _Atomic unsigned no_help;  // waits to come that sleep at once
    unsigned forks;            // of the process it belongs to; immutable
} board;

static PyObject *
module_of(PyObject *self)
{
    return PyType_GetModule(Py_TYPE(self));
}

// False with an exception in a forked child.
static bool
is_mine(board *self)
{
    if (self->forks == pd_process_forks()) {
        return true;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "the pool belongs to the process that made it, and this is a fork");
    return false;
}

// ------------------------------------------------------------------------------
// Trays
// ------------------------------------------------------------------------------

static bool
return_late(tray *self)
{
    while (self->late_count > 0) {
        if (!pd_mailbox_give_back(self->box, self->late[self->late_count - 1])) {
            return false;
        }
        self->late_count--;
    }
    return true;
}

static void
return_span(tray *self, pd_span span)
{
    if (return_late(self) && pd_mailbox_give_back(self->box, span)) {
        return;
    }
    if (self->late_count == self->late_room) {
        size_t room = self->late_room == 0 ? 64 : 2 * self->late_room;
        pd_span *late = PyMem_RawRealloc(self->late, room * sizeof(*late));
        if (late == NULL) {
            return;  // the worker's arena is short of this piece until it ends
        }
        self->late = late;
        self->late_room = room;
    }
    self->late[self->late_count++] = span;
}

static void
drop_result(pd_piece *piece)
{
    tray *self = (tray *)piece->owner;
    if (self->forks != pd_process_forks()) {
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    return_span(self, piece->span);
    Py_END_CRITICAL_SECTION();
}

static tray *
new_tray(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    tray *self = PyObject_New(tray, state->tray_type);
    if (self == NULL) {
        return NULL;
    }
    self->box = NULL;
    self->late = NULL;
    self->late_count = self->late_room = 0;
    self->handled = false;
    self->forks = pd_process_forks();
    self->leases = PyDict_New();
    pd_status status = self->leases == NULL ? PD_ENOMEM : pd_mailbox_create(&self->box);
    if (status != PD_OK) {
        pd_raise(status);
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static void
tray_dealloc(PyObject *op)
{
    tray *self = (tray *)op;
    PyTypeObject *type = Py_TYPE(op);
    pd_mailbox_destroy(self->box);
    Py_XDECREF(self->leases);
    PyMem_RawFree(self->late);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot tray_slots[] = {
    {Py_tp_doc,     "The reader's end of a worker's mailbox."},
    {Py_tp_dealloc, tray_dealloc                             },
    {0,             NULL                                     },
};

static PyType_Spec tray_spec = {
    .name = "pydistrib._core.Tray",
    .basicsize = sizeof(tray),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = tray_slots,
};

// ------------------------------------------------------------------------------
// Reading mails
// ------------------------------------------------------------------------------

static PyObject *
corrupt(void)
{
    PyErr_SetString(PyExc_RuntimeError, pd_status_text(PD_ECORRUPT));
    return NULL;
}

// The memory of a span that a worker named, as a Piece whose buffer begins `skip` in.
static PyObject *
result_piece(PyObject *module, tray *t, pd_span span, uint64_t skip)
{
    char *data = span.bytes < skip || span.bytes > PY_SSIZE_T_MAX
                     ? NULL
                     : pd_segment_at(pd_mailbox_segment(t->box), span.at, span.bytes);
    if (data == NULL || span.at < pd_mailbox_end(t->box)) {
        return corrupt();
    }
    return pd_piece_new(module, (PyObject *)t, drop_result, data + skip,
                        (Py_ssize_t)(span.bytes - skip), span);
}

// The buffers that `count` spans name, or None.
static PyObject *
result_buffers(PyObject *module, tray *t, const char *spans, uint32_t count)
{
    if (count == 0) {
        Py_RETURN_NONE;
    }
    PyObject *buffers = PyList_New(count);
    for (uint32_t i = 0; buffers != NULL && i < count; i++) {
        pd_span span;
        memcpy(&span, spans + i * sizeof(span), sizeof(span));
        PyObject *piece = result_piece(module, t, span, 0);
        if (piece == NULL) {
            Py_CLEAR(buffers);
            break;
        }
        PyList_SET_ITEM(buffers, i, piece);
    }
    return buffers;
}

// What a mail carries: its pickle, and its buffers or None.
static int
open_mail(
    PyObject *module, tray *t, const pd_mail *mail, PyObject **data, PyObject **buffers)
{
    const char *inside = (const char *)(mail + 1);
    uint64_t skip = mail->spans * sizeof(pd_span);
    if (mail->span.bytes != 0) {
        *data = result_piece(module, t, mail->span, skip);
        if (*data == NULL) {
            return -1;
        }
        *buffers =
            result_buffers(module, t, ((pd_piece *)*data)->data - skip, mail->spans);
    }
    else {
        if (skip > mail->inside) {
            corrupt();
            return -1;
        }
        *data =
            PyBytes_FromStringAndSize(inside + skip, (Py_ssize_t)(mail->inside - skip));
        *buffers =
            *data == NULL ? NULL : result_buffers(module, t, inside, mail->spans);
    }
    if (*buffers == NULL) {
        Py_CLEAR(*data);
        return -1;
    }
    return 0;
}

static int
hold_lease(tray *t, uint64_t ticket, PyObject *pieces)
{
    PyObject *key = PyLong_FromUnsignedLongLong(ticket);
    int status = key == NULL ? -1 : PyDict_SetItem(t->leases, key, pieces);
    Py_XDECREF(key);
    return status;
}

static int
end_lease(tray *t, uint64_t ticket)
{
    PyObject *key = PyLong_FromUnsignedLongLong(ticket);
    if (key == NULL) {
        return -1;
    }
    int known = PyDict_Contains(t->leases, key);
    int status = known > 0 ? PyDict_DelItem(t->leases, key) : known;
    Py_DECREF(key);
    return status;
}

static void
clear_entry(entry *e)
{
    Py_CLEAR(e->call);
    Py_CLEAR(e->function);
    Py_CLEAR(e->payload);
    Py_CLEAR(e->pieces);
}

// Frees slot `i` and gives its call, a new reference.
static PyObject *
take_call(board *self, uint32_t i)
{
    entry *e = &self->entries[i];
    PyObject *call = (PyObject *)e->call;
    e->call = NULL;
    pd_board_free(self->board, i);
    self->free[self->free_count++] = i;
    clear_entry(e);
    return call;
}

static bool
is_of(board *self, const pd_mail *mail, uint32_t desk, pd_phase phase)
{
    uint32_t owner;
    return mail->slot < pd_board_slots(self->board) &&
           self->entries[mail->slot].call != NULL &&
           self->entries[mail->slot].ticket == mail->ticket &&
           pd_slot_phase(pd_board_slot(self->board, mail->slot), &owner) == phase &&
           owner == desk;
}

// The call that a mail is about, with what the worker keeps noted: NULL and no exception
// for a mail about nothing, which only a worker gone mad sends.
static PyObject *
mail_call(board *self, tray *t, const pd_mail *mail, uint32_t desk)
{
    if (mail->kind == PD_MAIL_BEGUN) {
        // Unless it was doomed meanwhile.
        return is_of(self, mail, desk, PD_CLAIMED) || is_of(self, mail, desk, PD_DONE)
                   ? Py_NewRef((PyObject *)self->entries[mail->slot].call)
                   : Py_NewRef(Py_None);
    }
    if (mail->kind != PD_MAIL_RESULT && mail->kind != PD_MAIL_ERROR) {
        return Py_NewRef(Py_None);
    }
    if (!is_of(self, mail, desk, PD_DONE)) {
        return corrupt();
    }
    entry *e = &self->entries[mail->slot];
    if (e->pieces != NULL && hold_lease(t, e->ticket, e->pieces) < 0) {
        return NULL;
    }
    PyObject *kept = PyTuple_GET_ITEM(e->function, 3);
    if ((mail->flags & PD_MAIL_KEEPS_FUNCTION) != 0 && PyTuple_GET_SIZE(kept) > 0) {
        uint64_t number = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(e->function, 0));
        if (hold_lease(t, number | PD_TICKET_FUNCTION, kept) < 0) {
            return NULL;
        }
    }
    return take_call(self, mail->slot);
}

static int
note_release(board *self, tray *t, const pd_mail *mail)
{
    if (mail->slot < pd_board_slots(self->board) &&
        self->entries[mail->slot].call != NULL &&
        self->entries[mail->slot].ticket == mail->ticket)
    {
        Py_CLEAR(self->entries[mail->slot].pieces);
        return 0;
    }
    return end_lease(t, mail->ticket);
}

// Appends (desk, kind, call, data, buffers) for a mail.
static int
append_event(board *self, PyObject *events, uint32_t desk, tray *t, const pd_mail *mail)
{
    if (mail->kind == PD_MAIL_RELEASE) {
        return note_release(self, t, mail);
    }
    PyObject *data, *buffers;
    if (open_mail(module_of((PyObject *)self), t, mail, &data, &buffers) < 0) {
        return -1;
    }
    PyObject *call = mail_call(self, t, mail, desk);
    PyObject *event =
        call == NULL ? NULL
                     : Py_BuildValue("IIOOO", desk, mail->kind, call, data, buffers);
    Py_XDECREF(call);
    Py_DECREF(data);
    Py_DECREF(buffers);
    if (event == NULL) {
        return -1;
    }
    int status = PyList_Append(events, event);
    Py_DECREF(event);
    return status;
}

// All mails of a desk, at most `limit` in the list.
static int
read_mails(board *self, PyObject *events, uint32_t desk, Py_ssize_t limit)
{
    tray *t = self->trays[desk];
    (void)return_late(t);
    while (PyList_GET_SIZE(events) < limit) {
        const pd_mail *mail;
        pd_status status = pd_mailbox_peek(t->box, &mail);
        if (status == PD_EABSENT) {
            return 0;
        }
        if (status != PD_OK) {
            pd_raise(status);
            return -1;
        }
        if (append_event(self, events, desk, t, mail) < 0) {
            return -1;  // the mail stays, and so does the trouble
        }
        pd_mailbox_next(t->box);
    }
    return 0;
}

// ------------------------------------------------------------------------------
// Waiting for mails
// ------------------------------------------------------------------------------

typedef struct watch {
    tray *trays[WATCHED];  // owned
    uint32_t count;
    const pd_latch *done;  // borrowed, or NULL: ends the wait too
    bool helping;          // the board's flag is this thread's
    bool dear;             // another took the processor for long
} watch;

static void
begin_watch(board *self, watch *w)
{
    w->count = 0;
    Py_BEGIN_CRITICAL_SECTION(self);
    for (uint32_t i = 0; i < pd_board_desks(self->board) && w->count < WATCHED; i++) {
        if (self->trays[i] != NULL) {
            w->trays[w->count++] = (tray *)Py_NewRef((PyObject *)self->trays[i]);
        }
    }
    Py_END_CRITICAL_SECTION();
}

static void
end_watch(watch *w)
{
    for (uint32_t i = 0; i < w->count; i++) {
        Py_DECREF(w->trays[i]);
    }
}

static bool
has_come(const watch *w)
{
    for (uint32_t i = 0; i < w->count; i++) {
        if (pd_mailbox_has_mail(w->trays[i]->box)) {
            return true;
        }
    }
    return w->done != NULL && pd_latch_is_set(w->done);
}

// Looks until then, without Python's lock; false if nothing has come.
static bool
look(watch *w, int64_t until_ns, bool yields)
{
    bool come = false;
    Py_BEGIN_ALLOW_THREADS
    int64_t last_ns, now_ns = pd_now_ns();
    do {
        for (int i = 0; i < 64 && !(come = has_come(w)); i++) {
            pd_relax();
        }
        if (!come && yields) {
            sched_yield();  // to a worker that has no other processor
        }
        last_ns = now_ns;
        now_ns = pd_now_ns();
        w->dear |= yields && now_ns - last_ns > PD_DEAR_YIELD_NS;
    } while (!come && now_ns < until_ns);
    Py_END_ALLOW_THREADS
    return come;
}

PyDoc_STRVAR(
    watch_doc,
    "watch($self, seconds, /)\n--\n\n"
    "Look for reports so long, awake, without Python's lock; whether there are any.\n\n"
    "Not while a waiter does that.");

static PyObject *
board_watch(PyObject *op, PyObject *arg)
{
    board *self = (board *)op;
    double seconds = PyFloat_AsDouble(arg);
    if ((seconds == -1.0 && PyErr_Occurred()) || !is_mine(self)) {
        return NULL;
    }
    if (self->helping) {
        Py_RETURN_FALSE;
    }
    watch w = {.count = 0};
    begin_watch(self, &w);
    bool found = look(&w, pd_now_ns() + (int64_t)(seconds * 1e9), false);
    end_watch(&w);
    return PyBool_FromLong(found);
}

// ------------------------------------------------------------------------------
// Settling results
// ------------------------------------------------------------------------------

typedef enum finding {
    NOTHING,
    A_RESULT,
    ANOTHERS,  // the engine's thread has to read first
} finding;

static bool
is_plain_result(board *self, const pd_mail *mail, uint32_t desk)
{
    return mail->kind == PD_MAIL_RESULT && is_of(self, mail, desk, PD_DONE) &&
           self->entries[mail->slot].call->plain;
}

// Takes the oldest mail of a tray if that is a plain result.  Inside the critical section.
static finding
take_result(
    board *self, uint32_t desk, PyObject **call, PyObject **data, PyObject **buffers)
{
    tray *t = self->trays[desk];
    while (t != NULL) {
        const pd_mail *mail;
        pd_status status = pd_mailbox_peek(t->box, &mail);
        if (status == PD_EABSENT) {
            break;
        }
        if (status != PD_OK || t->handled) {
            return ANOTHERS;
        }
        if (mail->kind == PD_MAIL_RELEASE && note_release(self, t, mail) == 0) {
            pd_mailbox_next(t->box);
            continue;
        }
        if (!is_plain_result(self, mail, desk) ||
            open_mail(module_of((PyObject *)self), t, mail, data, buffers) < 0)
        {
            PyErr_Clear();  // the engine's thread will meet it too
            return ANOTHERS;
        }
        *call = mail_call(self, t, mail, desk);
        if (*call == NULL) {
            Py_DECREF(*data);
            Py_DECREF(*buffers);
            PyErr_Clear();
            return ANOTHERS;
        }
        pd_mailbox_next(t->box);
        return A_RESULT;
    }
    return NOTHING;
}

static PyObject *
unpickle(PyObject *module, PyObject *data, PyObject *buffers)
{
    pd_module_state *state = PyModule_GetState(module);
    PyObject *names = buffers == Py_None ? NULL : Py_BuildValue("(s)", "buffers");
    PyObject *args[2] = {data, buffers};
    PyObject *value = buffers != Py_None && names == NULL
                          ? NULL
                          : PyObject_Vectorcall(state->shared.loads, args, 1, names);
    Py_XDECREF(names);
    return value;
}

// Gives a result to its call; -1 with an exception that a signal's handler raised here.
static int
deliver(PyObject *module, PyObject *call, PyObject *data, PyObject *buffers)
{
    PyObject *raised = NULL;
    PyObject *value = unpickle(module, data, buffers);
    if (value == NULL) {
        // A refusal to be unpickled comes again; what doesn't was a signal's.
        raised = pd_take_exception();
        value = unpickle(module, data, buffers);
    }
    bool success = value != NULL;
    if (!success) {
        value = pd_take_exception();
        if (Py_IS_TYPE(value, Py_TYPE(raised))) {
            Py_CLEAR(raised);
        }
    }
    pd_job_settle((pd_job *)call, success, value);
    Py_DECREF(value);
    if (raised != NULL) {
        pd_raise_object(raised);
        Py_DECREF(raised);
        return -1;
    }
    return 0;
}

static void
ring(board *self)
{
    const uint64_t one = 1;
    // It can fail only if the counter is full, and then the bell rings anyway.
    ssize_t written = write(self->ring, &one, sizeof(one));
    (void)written;
}

// Whether tasks wait for a slot: then the engine's thread had better do it all.
static bool
has_queue(board *self)
{
    bool waits = self->queues == NULL;
    for (Py_ssize_t i = 0; !waits && i < PyTuple_GET_SIZE(self->queues); i++) {
        waits = PyObject_Size(PyTuple_GET_ITEM(self->queues, i)) != 0;
    }
    return waits;
}

static bool
begin_help(board *self, watch *w)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->forks == pd_process_forks() && !self->helping && !has_queue(self)) {
        self->helping = w->helping = true;
        pd_board_awake(self->board);
    }
    Py_END_CRITICAL_SECTION();
    return w->helping;
}

static void
end_help(board *self, watch *w)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    self->helping = w->helping = false;
    pd_board_sleep(self->board);
    Py_END_CRITICAL_SECTION();
    bool needed = has_queue(self);
    for (uint32_t i = 0; i < w->count && !needed; i++) {
        needed = pd_mailbox_has_mail(w->trays[i]->box);
    }
    if (needed) {
        ring(self);
    }
}

// Whether a pickle refers to any function or class.  The bytes may also stand for
// something else: then that is a false alarm, no more.
static bool
may_run_code(PyObject *data)
{
    enum { GLOBAL = 'c', STACK_GLOBAL = 0x93, LONGEST = 64 };
    if (!PyBytes_CheckExact(data) || PyBytes_GET_SIZE(data) > LONGEST) {
        return true;
    }
    const char *pickle = PyBytes_AS_STRING(data);
    size_t bytes = (size_t)PyBytes_GET_SIZE(data);
    return memchr(pickle, GLOBAL, bytes) != NULL ||
           memchr(pickle, STACK_GLOBAL, bytes) != NULL;
}

// deliver() by a helper, or by another if `w` is NULL.
static int
deliver_for(board *self, watch *w, PyObject *call, PyObject *data, PyObject *buffers)
{
    bool pause = w != NULL && may_run_code(data);
    if (pause) {
        end_help(self, w);
    }
    int status = deliver(module_of((PyObject *)self), call, data, buffers);
    if (pause) {
        (void)begin_help(self, w);
    }
    return status;
}

// Settles the plain results of a desk, at most `limit`: 0, 1 if the engine's thread has to
// read, -1 with an exception.  *settled grows by their number; `w` is a helper's, or NULL.
static int
settle_desk(board *self, watch *w, uint32_t desk, Py_ssize_t limit, Py_ssize_t *settled)
{
    PyObject *call, *data, *buffers;
    for (Py_ssize_t i = 0; i < limit; i++) {
        finding what;
        Py_BEGIN_CRITICAL_SECTION(self);
        what = take_result(self, desk, &call, &data, &buffers);
        self->settled += what == A_RESULT;
        Py_END_CRITICAL_SECTION();
        if (what != A_RESULT) {
            return what == ANOTHERS;
        }
        int status = deliver_for(self, w, call, data, buffers);
        Py_DECREF(call);
        Py_DECREF(data);
        Py_DECREF(buffers);
        ++*settled;
        if (status < 0) {
            return -1;
        }
        if (w != NULL && !w->helping) {
            return 1;  // another waiter does that now
        }
        if (w != NULL && pd_latch_is_set(w->done)) {
            return 0;
        }
    }
    return 0;
}

static int
settle_results(board *self, watch *w)
{
    int status = 0;
    Py_ssize_t settled = 0;
    for (uint32_t i = 0; status == 0 && i < pd_board_desks(self->board); i++) {
        status = settle_desk(self, w, i, PY_SSIZE_T_MAX, &settled);
    }
    return status;
}

PyDoc_STRVAR(
    collect_doc,
    "collect($self, desk, limit, /)\n--\n\n"
    "Read what a worker reports: how many results were settled, and a list of (desk, "
    "kind,\ncall, data, buffers) of what came after them.\n\n"
    "Until the next call, waiters leave this worker's results alone, so that none "
    "overtakes\nwhat was reported before it.");

static PyObject *
board_collect(PyObject *op, PyObject *args)
{
    board *self = (board *)op;
    unsigned int desk;
    Py_ssize_t limit, settled = 0;
    int status = 0;
    if (!PyArg_ParseTuple(args, "In:collect", &desk, &limit) || !is_mine(self)) {
        return NULL;
    }
    PyObject *events = PyList_New(0);
    if (events == NULL || desk >= pd_board_desks(self->board) ||
        self->trays[desk] == NULL)
    {
        return events == NULL ? NULL : Py_BuildValue("nN", settled, events);
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->trays[desk] != NULL) {
        self->trays[desk]->handled =
            false;  // all of it is, when the thread is here again
    }
    Py_END_CRITICAL_SECTION();
    if (settle_desk(self, NULL, desk, limit, &settled) < 0) {
        pd_report(module_of(op));
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->trays[desk] != NULL) {
        status = read_mails(self, events, desk, limit);
        self->trays[desk]->handled = PyList_GET_SIZE(events) > 0;
    }
    Py_END_CRITICAL_SECTION();
    if (status < 0 && settled == 0 && PyList_GET_SIZE(events) == 0) {
        Py_DECREF(events);
        return NULL;
    }
    // What was read before trouble is good; the next call meets that again.
    PyErr_Clear();
    return Py_BuildValue("nN", settled, events);
}

// ------------------------------------------------------------------------------
// Reading results by those who wait for them
// ------------------------------------------------------------------------------

PyDoc_STRVAR(
    settle_doc,
    "settle($self, /)\n--\n\n"
    "Settle what results there are, those that any thread may: whether there were "
    "any.");

static PyObject *
board_settle(PyObject *op, PyObject *Py_UNUSED(unused))
{
    board *self = (board *)op;
    uint64_t before = self->settled;
    if (!is_mine(self) || settle_results(self, NULL) < 0) {
        return NULL;
    }
    return PyBool_FromLong(self->settled != before);
}

int
pd_board_help(PyObject *op, const pd_latch *done, int64_t timeout_ns)
{
    board *self = (board *)op;
    watch w = {.done = done};
    if (self->no_help > 0) {
        self->no_help--;
        return 0;
    }
    if (!pd_spin_pays(&self->helped) || !begin_help(self, &w)) {
        return 0;
    }
    begin_watch(self, &w);
    int64_t until_ns = pd_now_ns() + Py_MIN(timeout_ns, HELP_NS);
    int status;
    do {
        status = settle_results(self, &w);
    } while (status == 0 && !pd_latch_is_set(done) && !has_queue(self) &&
             look(&w, until_ns, true));
    if (w.helping) {
        end_help(self, &w);
    }
    end_watch(&w);
    if (w.dear) {
        self->no_help = PD_DEAR_YIELD_REST;
    }
    return status < 0 ? -1 : 0;
}

void
pd_board_waited(PyObject *op, int64_t ns)
{
    pd_spin_ended(&((board *)op)->helped, ns < LONG_WAIT_NS);
}

// ------------------------------------------------------------------------------
// Posting
// ------------------------------------------------------------------------------

static void
drop_argument(pd_piece *piece)
{
    board *self = (board *)piece->owner;
    if (self->forks != pd_process_forks()) {
        return;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    (void)pd_arena_give(self->arena, piece->span.at, piece->span.bytes);
    Py_END_CRITICAL_SECTION();
}

static PyObject *
take_piece(board *self, Py_ssize_t bytes)
{
    pd_span span = {0, bytes > 0 ? (uint64_t)bytes : 1};
    pd_status status;
    char *data = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    status = pd_arena_take(self->arena, span.bytes, &span.at);
    if (status == PD_OK) {
        data = pd_segment_at(pd_board_segment(self->board), span.at, span.bytes);
    }
    Py_END_CRITICAL_SECTION();
    if (status != PD_OK) {
        return pd_raise(status);
    }
    return pd_piece_new(module_of((PyObject *)self), (PyObject *)self, drop_argument,
                        data, bytes, span);
}

PyDoc_STRVAR(put_doc,
             "put($self, buffer, /)\n--\n\nCopy a buffer into shared memory: a Piece.");

static PyObject *
board_put(PyObject *op, PyObject *object)
{
    Py_buffer view;
    if (!is_mine((board *)op) ||
        PyObject_GetBuffer(object, &view, PyBUF_ANY_CONTIGUOUS) < 0)
    {
        return NULL;
    }
    PyObject *piece = take_piece((board *)op, view.len);
    if (piece != NULL) {
        pd_copy_out(((pd_piece *)piece)->data, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return piece;
}

// Writes the spans of `pieces`, and behind them the pickle.
static void
write_payload(char *to, PyObject *pieces, const Py_buffer *pickle)
{
    Py_ssize_t count = pieces == NULL ? 0 : PyTuple_GET_SIZE(pieces);
    for (Py_ssize_t i = 0; i < count; i++) {
        const pd_piece *piece = (pd_piece *)PyTuple_GET_ITEM(pieces, i);
        pd_span span = {piece->span.at, (uint64_t)piece->bytes};
        span.bytes |= piece->shared ? PD_SPAN_SHARED : 0;
        memcpy(to + (size_t)i * sizeof(span), &span, sizeof(span));
    }
    memcpy(to + (size_t)count * sizeof(pd_span), pickle->buf, (size_t)pickle->len);
}

static int
check_pieces(PyObject *module, PyObject *pieces)
{
    pd_module_state *state = PyModule_GetState(module);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(pieces); i++) {
        if (!Py_IS_TYPE(PyTuple_GET_ITEM(pieces, i), state->piece_type)) {
            PyErr_SetString(PyExc_TypeError, "pieces must be made by put()");
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(pack_doc,
             "pack($self, pickle, pieces, /)\n--\n\n"
             "Put a pickle and the places of its buffers into shared memory: a Piece.");

static PyObject *
board_pack(PyObject *op, PyObject *args)
{
    Py_buffer pickle;
    PyObject *pieces;
    if (!is_mine((board *)op) ||
        !PyArg_ParseTuple(args, "y*O!:pack", &pickle, &PyTuple_Type, &pieces))
    {
        return NULL;
    }
    PyObject *piece = NULL;
    if (check_pieces(module_of(op), pieces) == 0) {
        Py_ssize_t spans = PyTuple_GET_SIZE(pieces) * (Py_ssize_t)sizeof(pd_span);
        piece = take_piece((board *)op, spans + pickle.len);
    }
    if (piece != NULL) {
        write_payload(((pd_piece *)piece)->data, pieces, &pickle);
    }
    PyBuffer_Release(&pickle);
    return piece;
}

// Fills and offers a free slot; `pieces` may be NULL; a pickle, if given, goes inside.
static bool
fill_slot(board *self, pd_job *job, PyObject *pieces, const Py_buffer *pickle)
{
    if (self->free_count == 0) {
        return false;
    }
    uint32_t i = self->free[self->free_count - 1];
    pd_slot *slot = pd_board_slot(self->board, i);
    const pd_piece *code = (pd_piece *)PyTuple_GET_ITEM(job->function, 1);
    slot->ticket = ++self->ticket;
    slot->posted_ns = pd_now_ns();
    slot->function = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(job->function, 0));
    slot->mode = job->mode;
    slot->flags = job->announce ? PD_SLOT_ANNOUNCE : 0;
    slot->code = (pd_span){code->span.at, (uint64_t)code->bytes};
    slot->code_spans = (uint32_t)PyTuple_GET_SIZE(PyTuple_GET_ITEM(job->function, 3));
    slot->spans = pieces == NULL ? 0 : (uint32_t)PyTuple_GET_SIZE(pieces);
    if (pickle == NULL) {
        const pd_piece *piece = (pd_piece *)job->payload;
        slot->payload = (pd_span){piece->span.at, (uint64_t)piece->bytes};
    }
    else {
        write_payload(slot->inside, pieces, pickle);
        slot->payload =
            (pd_span){0, slot->spans * sizeof(pd_span) + (uint64_t)pickle->len};
    }
    if (!pd_board_publish(self->board, i)) {
        return false;
    }
    self->free_count--;
    self->entries[i] = (entry){
        .call = (pd_job *)Py_NewRef((PyObject *)job),
        .function = Py_NewRef(job->function),
        .payload = pickle == NULL ? Py_NewRef(job->payload) : NULL,
        .pieces = slot->spans > 0 ? Py_NewRef(pieces) : NULL,
        .ticket = self->ticket,
    };
    return true;
}

// Whether a job has all that a slot needs: its pieces, or NULL with an exception.
static PyObject *
checked_pieces(pd_module_state *state, PyObject *module, PyObject *op)
{
    const pd_job *job = (pd_job *)op;
    if (!PyObject_TypeCheck(op, state->job_type) || job->function == NULL ||
        !PyTuple_Check(job->function) || PyTuple_GET_SIZE(job->function) != 4 ||
        !Py_IS_TYPE(PyTuple_GET_ITEM(job->function, 1), state->piece_type) ||
        !PyTuple_Check(PyTuple_GET_ITEM(job->function, 3)) || job->payload == NULL ||
        (job->pieces != NULL && !PyTuple_Check(job->pieces)))
    {
        PyErr_SetString(PyExc_TypeError, "post() takes a Job that is complete");
        return NULL;
    }
    PyObject *pieces = job->pieces == NULL ? PyTuple_New(0) : Py_NewRef(job->pieces);
    if (pieces != NULL && check_pieces(module, pieces) < 0) {
        Py_CLEAR(pieces);
    }
    return pieces;
}

PyDoc_STRVAR(
    post_doc,
    "post($self, job, /)\n--\n\n"
    "Offer a task to the workers: False if the table is full.\n\n"
    "Its `function` is (number, code, None, pieces); its `payload` a pickle, or what "
    "pack()\nmade of it with the same `pieces`.");

static PyObject *
board_post(PyObject *op, PyObject *arg)
{
    board *self = (board *)op;
    pd_job *job = (pd_job *)arg;
    pd_module_state *state = PyModule_GetState(module_of(op));
    PyObject *pieces = checked_pieces(state, module_of(op), arg);
    if (pieces == NULL || !is_mine(self)) {
        Py_XDECREF(pieces);
        return NULL;
    }
    bool posted = false, packed = Py_IS_TYPE(job->payload, state->piece_type);
    Py_buffer pickle = {0};
    if (!packed && PyObject_GetBuffer(job->payload, &pickle, PyBUF_SIMPLE) < 0) {
        Py_DECREF(pieces);
        return NULL;
    }
    bool fits = pickle.len + PyTuple_GET_SIZE(pieces) * (Py_ssize_t)sizeof(pd_span) <=
                PD_SLOT_INSIDE;
    if (packed || fits) {
        Py_BEGIN_CRITICAL_SECTION(self);
        posted = fill_slot(self, job, pieces, packed ? NULL : &pickle);
        Py_END_CRITICAL_SECTION();
    }
    if (!packed) {
        PyBuffer_Release(&pickle);
    }
    Py_DECREF(pieces);
    if (!packed && !fits) {
        PyErr_SetString(PyExc_ValueError, "the pickle must be packed first");
        return NULL;
    }
    if (posted) {
        pd_board_wake(self->board, false);
    }
    return PyBool_FromLong(posted);
}

// ------------------------------------------------------------------------------
// Posting the items of a map
// ------------------------------------------------------------------------------

// A part of a map: as `model`, but for one item; NULL with an exception.
static pd_job *
make_part(const pd_job *model, Py_ssize_t i, PyObject *item, PyObject *payload)
{
    PyTypeObject *type = Py_TYPE(model);
    pd_job *job = (pd_job *)type->tp_alloc(type, 0);
    if (job == NULL) {
        return NULL;
    }
    job->result = Py_NewRef(model->result);
    job->group = Py_XNewRef(model->group);
    job->function = Py_NewRef(model->function);
    job->limit = Py_XNewRef(model->limit);
    job->payload = Py_NewRef(payload);
    job->start = i;
    job->count = 1;
    job->mode = model->mode;
    job->retries = model->retries;
    job->announce = model->announce;
    job->plain = model->plain;
    job->source = PyTuple_Pack(2, PyTuple_GET_ITEM(model->source, 0), item);
    if (job->source == NULL) {
        Py_CLEAR(job);
    }
    return job;
}

// Nothing inside that a worker could lack, and no buffer: the pickle needs no look.
static bool
is_scalar(PyObject *item)
{
    return PyLong_CheckExact(item) || PyFloat_CheckExact(item) || item == Py_None ||
           PyUnicode_CheckExact(item) || PyBool_Check(item) || PyBytes_CheckExact(item);
}

PyDoc_STRVAR(
    pickle_scalars_doc,
    "pickle_scalars($self, args, kwargs, /)\n--\n\n"
    "Pickle the arguments of a call if these are numbers, strings and the like "
    "and fit\ninto a slot; else None.");

static PyObject *
board_pickle_scalars(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    pd_module_state *state = PyModule_GetState(module_of(op));
    if (nargs != 2 || !PyTuple_CheckExact(args[0]) || args[1] != Py_None) {
        Py_RETURN_NONE;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args[0]); i++) {
        if (!is_scalar(PyTuple_GET_ITEM(args[0], i))) {
            Py_RETURN_NONE;
        }
    }
    PyObject *call = PyTuple_Pack(2, args[0], Py_None);
    PyObject *pickle = call == NULL ? NULL
                                    : PyObject_CallFunction(state->shared.dumps, "Oi",
                                                            call, PICKLE_PROTOCOL);
    Py_XDECREF(call);
    if (pickle != NULL && PyBytes_GET_SIZE(pickle) > (Py_ssize_t)PD_SLOT_INSIDE) {
        Py_SETREF(pickle, Py_NewRef(Py_None));
    }
    return pickle;
}

// The pickle of an item; NULL without an exception if posting it takes more than that.
static PyObject *
pickle_item(pd_module_state *state, PyObject *dumps, PyObject *protocol, PyObject *item)
{
    PyObject *args[2] = {item, protocol};
    PyObject *pickle = is_scalar(item)
                           ? PyObject_Vectorcall(state->shared.dumps, args, 2, NULL)
                           : PyObject_CallOneArg(dumps, item);
    if (pickle == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();  // it comes again where there is somebody to have it
    }
    else if (pickle != NULL && (!PyBytes_CheckExact(pickle) ||
                                PyBytes_GET_SIZE(pickle) > (Py_ssize_t)PD_SLOT_INSIDE))
    {
        Py_CLEAR(pickle);
    }
    return pickle;
}

static bool
post_item(
    board *self, const pd_job *model, Py_ssize_t i, PyObject *item, PyObject *data)
{
    pd_job *job = make_part(model, i, item, data);
    if (job == NULL) {
        PyErr_Clear();  // so the long way, which has somebody to tell
        return false;
    }
    Py_buffer pickle = {.buf = PyBytes_AS_STRING(data), .len = PyBytes_GET_SIZE(data)};
    bool posted;
    Py_BEGIN_CRITICAL_SECTION(self);
    posted = fill_slot(self, job, NULL, &pickle);
    Py_END_CRITICAL_SECTION();
    Py_DECREF(job);
    if (posted) {
        pd_board_wake(self->board, false);
    }
    return posted;
}

PyDoc_STRVAR(
    post_items_doc,
    "post_items($self, model, items, start, dumps, /)\n--\n\n"
    "Post items from `start` on, each as a job like `model`: the first that was "
    "not.\n\n"
    "It stops where the table is full, the map has ended, or an item takes more than a "
    "small\npickle: `dumps` then gives None.");

static PyObject *
board_post_items(PyObject *op, PyObject *args)
{
    board *self = (board *)op;
    pd_module_state *state = PyModule_GetState(module_of(op));
    PyObject *model, *items, *dumps;
    Py_ssize_t i;
    if (!PyArg_ParseTuple(args, "O!OnO:post_items", state->job_type, &model, &items, &i,
                          &dumps) ||
        !is_mine(self))
    {
        return NULL;
    }
    pd_job *job = (pd_job *)model;
    PyObject *pieces = checked_pieces(state, module_of(op), model);
    PyObject *protocol = pieces == NULL ? NULL : PyLong_FromLong(PICKLE_PROTOCOL);
    Py_XDECREF(pieces);
    if (protocol == NULL) {
        return NULL;
    }
    Py_ssize_t count = PySequence_Size(items);
    bool posted = job->result != NULL && job->source != NULL &&
                  PyTuple_Check(job->source) && PyTuple_GET_SIZE(job->source) == 2;
    while (posted && i < count && self->free_count > 0 &&
           atomic_load(&((pd_async *)job->result)->state) != PD_SETTLED)
    {
        PyObject *item = PySequence_GetItem(items, i);
        PyObject *data =
            item == NULL ? NULL : pickle_item(state, dumps, protocol, item);
        posted = data != NULL && post_item(self, job, i, item, data);
        Py_XDECREF(item);
        Py_XDECREF(data);
        i += posted;
    }
    Py_DECREF(protocol);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(i);
}

// ------------------------------------------------------------------------------
// Taking tasks back
// ------------------------------------------------------------------------------

// The slot of a call; the number of slots if it has none.
static uint32_t
find_call(board *self, PyObject *call)
{
    uint32_t count = pd_board_slots(self->board);
    for (uint32_t i = 0; i < count; i++) {
        if ((PyObject *)self->entries[i].call == call) {
            return i;
        }
    }
    return count;
}

PyDoc_STRVAR(retract_doc,
             "retract($self, call, /)\n--\n\n"
             "Take a task back: False if a worker has it, or it is not here.");

static PyObject *
board_retract(PyObject *op, PyObject *call)
{
    board *self = (board *)op;
    if (!is_mine(self)) {
        return NULL;
    }
    PyObject *taken = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    uint32_t i = find_call(self, call);
    if (i < pd_board_slots(self->board) && pd_board_retract(self->board, i)) {
        taken = take_call(self, i);
    }
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(taken);
    return PyBool_FromLong(taken != NULL);
}

PyDoc_STRVAR(doom_doc,
             "doom($self, call, /)\n--\n\n"
             "Keep a running task from finishing: the desk of its worker, which is to "
             "be killed,\nor -1 if it has finished or doesn't run.");

static PyObject *
board_doom(PyObject *op, PyObject *call)
{
    board *self = (board *)op;
    if (!is_mine(self)) {
        return NULL;
    }
    long found = -1;
    Py_BEGIN_CRITICAL_SECTION(self);
    uint32_t desk, i = find_call(self, call);
    if (i < pd_board_slots(self->board) && pd_board_doom(self->board, i, &desk)) {
        found = (long)desk;
    }
    Py_END_CRITICAL_SECTION();
    return PyLong_FromLong(found);
}

PyDoc_STRVAR(close_desk_doc,
             "close_desk($self, desk, /)\n--\n\n"
             "Its worker is dead and its mails are read: the calls that died with it.");

static PyObject *
board_close_desk(PyObject *op, PyObject *arg)
{
    board *self = (board *)op;
    unsigned long desk = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred() || !is_mine(self)) {
        return NULL;
    }
    PyObject *calls = PyList_New(0);
    tray *t = NULL;
    if (calls == NULL || desk >= pd_board_desks(self->board)) {
        return calls;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    for (uint32_t i = 0; i < pd_board_slots(self->board); i++) {
        uint32_t owner;
        pd_phase phase = pd_slot_phase(pd_board_slot(self->board, i), &owner);
        if (phase > PD_READY && owner == desk && self->entries[i].call != NULL) {
            PyObject *call = take_call(self, i);
            if (PyList_Append(calls, call) < 0) {
                PyErr_Clear();  // of one element: memory for a pointer
            }
            Py_DECREF(call);
        }
    }
    t = self->trays[desk];
    self->trays[desk] = NULL;
    pd_board_clear_desk(self->board, (uint32_t)desk);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(t);
    return calls;
}

PyDoc_STRVAR(
    clear_doc,
    "clear($self, /)\n--\n\nTake back all tasks that no worker has: their calls.");

static PyObject *
board_clear_tasks(PyObject *op, PyObject *Py_UNUSED(unused))
{
    board *self = (board *)op;
    PyObject *calls = is_mine(self) ? PyList_New(0) : NULL;
    if (calls == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    for (uint32_t i = 0; i < pd_board_slots(self->board); i++) {
        if (self->entries[i].call != NULL && pd_board_retract(self->board, i)) {
            PyObject *call = take_call(self, i);
            if (PyList_Append(calls, call) < 0) {
                PyErr_Clear();
            }
            Py_DECREF(call);
        }
    }
    Py_END_CRITICAL_SECTION();
    return calls;
}

PyDoc_STRVAR(claimed_doc,
             "claimed($self, /)\n--\n\n"
             "The calls that workers have and have not finished.");

static PyObject *
board_claimed(PyObject *op, PyObject *Py_UNUSED(unused))
{
    board *self = (board *)op;
    PyObject *calls = is_mine(self) ? PyList_New(0) : NULL;
    if (calls == NULL) {
        return NULL;
    }
    int status = 0;
    Py_BEGIN_CRITICAL_SECTION(self);
    for (uint32_t i = 0; status == 0 && i < pd_board_slots(self->board); i++) {
        uint32_t owner;
        if (self->entries[i].call != NULL &&
            pd_slot_phase(pd_board_slot(self->board, i), &owner) == PD_CLAIMED)
        {
            status = PyList_Append(calls, self->entries[i].call);
        }
    }
    Py_END_CRITICAL_SECTION();
    if (status < 0) {
        Py_CLEAR(calls);
    }
    return calls;
}

// ------------------------------------------------------------------------------
// Desks, sleep, numbers
// ------------------------------------------------------------------------------

PyDoc_STRVAR(abandon_doc,
             "abandon($self, /)\n--\n\n"
             "In a forked child: the calls whose results will never come here.");

static PyObject *
board_abandon(PyObject *op, PyObject *Py_UNUSED(unused))
{
    board *self = (board *)op;
    PyObject *calls = PyList_New(0);
    for (uint32_t i = 0; calls != NULL && i < pd_board_slots(self->board); i++) {
        PyObject *call = (PyObject *)self->entries[i].call;
        self->entries[i].call = NULL;
        if (call != NULL && PyList_Append(calls, call) < 0) {
            PyErr_Clear();
        }
        Py_XDECREF(call);
        clear_entry(&self->entries[i]);
    }
    return calls;
}

PyDoc_STRVAR(
    open_desk_doc,
    "open_desk($self, desk, /)\n--\n\n"
    "Make the mailbox of a worker to come: its descriptor, owned by the board.");

static PyObject *
board_open_desk(PyObject *op, PyObject *arg)
{
    board *self = (board *)op;
    unsigned long desk = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred() || !is_mine(self)) {
        return NULL;
    }
    if (desk >= pd_board_desks(self->board) || self->trays[desk] != NULL) {
        return PyErr_Format(PyExc_ValueError, "desk %lu is taken or not there", desk);
    }
    tray *t = new_tray(module_of(op));
    if (t == NULL) {
        return NULL;
    }
    pd_desk *d = pd_board_desk(self->board, (uint32_t)desk);
    atomic_store(&d->since_ns, 0);
    atomic_store(&d->run_ns, 0);
    atomic_store(&d->wait_ns, 0);
    atomic_store(&d->tasks, 0);
    self->trays[desk] = t;
    return PyLong_FromLong(pd_mailbox_segment(t->box)->fd);
}

PyDoc_STRVAR(sleep_doc,
             "sleep($self, sleeping, /)\n--\n\n"
             "Ask to be rung, or no more; then look once again for reports.");

static PyObject *
board_sleep(PyObject *op, PyObject *sleeping)
{
    board *self = (board *)op;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (sleeping != Py_True) {
        pd_board_awake(self->board);
    }
    else if (!self->helping) {
        pd_board_sleep(self->board);  // else the waiter does that at its end
    }
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    attend_doc,
    "attend($self, ring, queues, /)\n--\n\n"
    "From now on waiters may read results: an eventfd, of which the board takes "
    "a copy,\nwakes the thread that calls collect(); the `queues` have the tasks "
    "that wait for a slot.");

static PyObject *
board_attend(PyObject *op, PyObject *args)
{
    board *self = (board *)op;
    int fd;
    PyObject *queues;
    if (!PyArg_ParseTuple(args, "iO!:attend", &fd, &PyTuple_Type, &queues)) {
        return NULL;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (self->ring >= 0) {
        close(self->ring);
    }
    self->ring = copy;
    Py_XSETREF(self->queues, Py_NewRef(queues));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(jobs_doc,
             "jobs($self, result, /)\n--\n\nThe posted jobs whose result that is.");

static PyObject *
board_jobs(PyObject *op, PyObject *result)
{
    board *self = (board *)op;
    PyObject *jobs = PyList_New(0);
    int status = 0;
    if (jobs == NULL) {
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    for (uint32_t i = 0; status == 0 && i < pd_board_slots(self->board); i++) {
        pd_job *job = self->entries[i].call;
        if (job != NULL && job->result == result) {
            status = PyList_Append(jobs, (PyObject *)job);
        }
    }
    Py_END_CRITICAL_SECTION();
    if (status < 0) {
        Py_CLEAR(jobs);
    }
    return jobs;
}

PyDoc_STRVAR(close_doc,
             "close($self, /)\n--\n\nTell the workers that no task will come.");

static PyObject *
board_close(PyObject *op, PyObject *Py_UNUSED(unused))
{
    if (!is_mine((board *)op)) {
        return NULL;
    }
    pd_board_close(((board *)op)->board);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    desk_info_doc,
    "desk_info($self, desk, /)\n--\n\n"
    "(tasks done, ns in them, when it took the last, ns that those it took had "
    "waited).");

static PyObject *
board_desk_info(PyObject *op, PyObject *arg)
{
    board *self = (board *)op;
    unsigned long i = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (i >= pd_board_desks(self->board)) {
        return PyErr_Format(PyExc_ValueError, "no desk %lu", i);
    }
    pd_desk *desk = pd_board_desk(self->board, (uint32_t)i);
    return Py_BuildValue("KLLL", (unsigned long long)atomic_load(&desk->tasks),
                         (long long)atomic_load(&desk->run_ns),
                         (long long)atomic_load(&desk->since_ns),
                         (long long)atomic_load(&desk->wait_ns));
}

PyDoc_STRVAR(fileno_doc, "fileno($self, /)\n--\n\nThe segment's descriptor.");

static PyObject *
board_fileno(PyObject *op, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(pd_board_segment(((board *)op)->board)->fd);
}

static PyObject *
board_free_slots(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(((board *)op)->free_count);
}

static PyObject *
board_slots_count(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(pd_board_slots(((board *)op)->board));
}

static PyObject *
board_used(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(pd_arena_used(((board *)op)->arena));
}

// ------------------------------------------------------------------------------
// The type
// ------------------------------------------------------------------------------

static pd_status
set_up(board *self, unsigned slots, unsigned desks)
{
    pd_status status = pd_board_create(slots, desks, &self->board);
    if (status != PD_OK) {
        return status;
    }
    status = pd_arena_create(pd_board_segment(self->board), pd_board_end(self->board),
                             &self->arena);
    if (status != PD_OK) {
        return status;
    }
    uint32_t count = pd_board_slots(self->board);
    self->entries = PyMem_Calloc(count, sizeof(*self->entries));
    self->free = PyMem_Calloc(count, sizeof(*self->free));
    self->trays = PyMem_Calloc(desks, sizeof(*self->trays));
    if (self->entries == NULL || self->free == NULL || self->trays == NULL) {
        return PD_ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        self->free[i] = count - 1 - i;
    }
    self->free_count = count;
    return PD_OK;
}

static PyObject *
board_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    unsigned slots, desks;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Board() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "II:Board", &slots, &desks)) {
        return NULL;
    }
    board *self = (board *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->forks = pd_process_forks();
    self->ring = -1;
    pd_status status = set_up(self, slots, desks);
    if (status != PD_OK) {
        pd_raise(status);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
board_traverse(PyObject *op, visitproc visit, void *arg)
{
    board *self = (board *)op;
    Py_VISIT(Py_TYPE(op));
    uint32_t count = self->entries == NULL ? 0 : pd_board_slots(self->board);
    for (uint32_t i = 0; i < count; i++) {
        Py_VISIT(self->entries[i].call);
    }
    Py_VISIT(self->queues);
    return 0;
}

static int
board_clear(PyObject *op)
{
    board *self = (board *)op;
    uint32_t count = self->entries == NULL ? 0 : pd_board_slots(self->board);
    for (uint32_t i = 0; i < count; i++) {
        clear_entry(&self->entries[i]);
    }
    for (uint32_t i = 0; self->trays != NULL && i < pd_board_desks(self->board); i++) {
        Py_CLEAR(self->trays[i]);
    }
    Py_CLEAR(self->queues);
    return 0;
}

static void
board_dealloc(PyObject *op)
{
    board *self = (board *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)board_clear(op);
    if (self->ring >= 0) {
        close(self->ring);
    }
    PyMem_Free(self->entries);
    PyMem_Free(self->free);
    PyMem_Free(self->trays);
    pd_arena_destroy(self->arena);
    pd_board_destroy(self->board);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef board_methods[] = {
    {"put",            board_put,                                         METH_O,        put_doc       },
    {"pack",           board_pack,                                        METH_VARARGS,  pack_doc      },
    {"post",           board_post,                                        METH_O,        post_doc      },
    {"attend",         board_attend,                                      METH_VARARGS,  attend_doc    },
    {"pickle_scalars", (PyCFunction)(void (*)(void))board_pickle_scalars, METH_FASTCALL,
     pickle_scalars_doc                                                                                },
    {"settle",         board_settle,                                      METH_NOARGS,   settle_doc    },
    {"post_items",     board_post_items,                                  METH_VARARGS,  post_items_doc},
    {"jobs",           board_jobs,                                        METH_O,        jobs_doc      },
    {"collect",        board_collect,                                     METH_VARARGS,  collect_doc   },
    {"watch",          board_watch,                                       METH_O,        watch_doc     },
    {"retract",        board_retract,                                     METH_O,        retract_doc   },
    {"doom",           board_doom,                                        METH_O,        doom_doc      },
    {"claimed",        board_claimed,                                     METH_NOARGS,   claimed_doc   },
    {"clear",          board_clear_tasks,                                 METH_NOARGS,   clear_doc     },
    {"abandon",        board_abandon,                                     METH_NOARGS,   abandon_doc   },
    {"open_desk",      board_open_desk,                                   METH_O,        open_desk_doc },
    {"close_desk",     board_close_desk,                                  METH_O,        close_desk_doc},
    {"desk_info",      board_desk_info,                                   METH_O,        desk_info_doc },
    {"sleep",          board_sleep,                                       METH_O,        sleep_doc     },
    {"close",          board_close,                                       METH_NOARGS,   close_doc     },
    {"fileno",         board_fileno,                                      METH_NOARGS,   fileno_doc    },
    {NULL,             NULL,                                              0,             NULL          },
};

static PyObject *
board_settled(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((board *)op)->settled);
}

static PyGetSetDef board_getset[] = {
    {"settled", board_settled,     NULL, "How many results were settled here.", NULL},
    {"free",    board_free_slots,  NULL, "How many tasks can be posted.",       NULL},
    {"slots",   board_slots_count, NULL, "How many tasks there can be.",        NULL},
    {"used",    board_used,        NULL, "Bytes of arguments in the memory.",   NULL},
    {NULL,      NULL,              NULL, NULL,                                  NULL},
};

PyDoc_STRVAR(board_doc,
             "Board(slots, desks, /)\n--\n\n"
             "Where this process posts tasks for workers in other processes.");

static PyType_Slot board_slots[] = {
    {Py_tp_doc,      (void *)board_doc},
    {Py_tp_new,      board_new        },
    {Py_tp_traverse, board_traverse   },
    {Py_tp_clear,    board_clear      },
    {Py_tp_dealloc,  board_dealloc    },
    {Py_tp_methods,  board_methods    },
    {Py_tp_getset,   board_getset     },
    {0,              NULL             },
};

static PyType_Spec board_spec = {
    .name = "pydistrib._core.Board",
    .basicsize = sizeof(board),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = board_slots,
};

int
pd_add_board_types(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->tray_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &tray_spec, NULL);
    if (state->tray_type == NULL) {
        return -1;
    }
    state->board_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &board_spec, NULL);
    return state->board_type == NULL ? -1 : PyModule_AddType(module, state->board_type);
}
