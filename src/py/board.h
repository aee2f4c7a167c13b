// Task boards for Python: the poster's side (Board, Tray), the worker's (Desk, Lease), and
// what both make: Piece, shared memory as a buffer.
//
// Life: a Piece keeps its owner, and what happens to the memory when the Piece goes is the
// owner's business (`drop`).  The owners:
//
//      Board    arguments; drop gives the memory back to the arena
//      Tray     results of one worker; drop returns the memory to the worker
//      Lease    arguments, as the worker sees them; when the last Piece of a task has
//               gone the Lease tells the poster
#ifndef PD_PY_BOARD_H
#define PD_PY_BOARD_H

#include "py/binding.h"

#include <stdbool.h>

#include "shm/arena.h"
#include "shm/board.h"
#include "shm/mailbox.h"
#include "thread/latch.h"

#if PY_VERSION_HEX < 0x030D0000 && !defined(Py_BEGIN_CRITICAL_SECTION)
#    define Py_BEGIN_CRITICAL_SECTION(op) {
#    define Py_END_CRITICAL_SECTION() }
#endif

// Kinds of mail; pydistrib/pools/worker.py has the same.
typedef enum pd_mail_kind {
    PD_MAIL_RESULT = 1,
    PD_MAIL_ERROR = 2,
    PD_MAIL_BEGUN = 3,
    PD_MAIL_RELEASE = 4,
    PD_MAIL_TEXT = 5,
    PD_MAIL_READY = 6,
    PD_MAIL_FAILED = 7,
    PD_MAIL_LEAVING = 8,
} pd_mail_kind;

// How a task's payload is used, as far as the poster minds; worker.py has them all.
#define PD_MODE_ITEM 1u
#define PD_MODE_STAR 3u

// The flag of a mail: the worker keeps the function that it was sent.
#define PD_MAIL_KEEPS_FUNCTION 1u

// The flag of a slot: the worker says when it begins; and how it is told so, as a bit of
// the mode (BEGIN in worker.py).
#define PD_SLOT_ANNOUNCE 1u
#define PD_BEGIN 16u

// The top bit of a span's size: map it privately, others have it too.
#define PD_SPAN_SHARED ((uint64_t)1 << 63)

// The top bit of a ticket: it stands for a function.
#define PD_TICKET_FUNCTION ((uint64_t)1 << 63)

typedef struct pd_piece {
    PyObject_HEAD
    PyObject *owner;  // owned; immutable
    void (*drop)(struct pd_piece *piece);
    char *data;  // what the buffer shows
    Py_ssize_t bytes;
    pd_span span;  // what was allocated for it
    bool shared;   // several tasks may have it
    PyObject *weakrefs;
} pd_piece;

// What is posted; engines' tasks are subclasses.
typedef struct pd_job {
    PyObject_HEAD
    PyObject *result;  // owned, as all: an AsyncResult, a MapResult, or NULL
    PyObject *function;
    PyObject *payload;
    PyObject *pieces;
    PyObject *source;
    PyObject *limit;
    PyObject *group;
    Py_ssize_t start;
    Py_ssize_t count;
    unsigned mode;
    int retries;
    bool announce;
    bool plain;  // its outcome calls nobody's code: any thread may settle it
    bool cancelled;
    bool settled;
} pd_job;

// Gives an outcome, a borrowed reference, to the result that it is for; once.
void pd_job_settle(pd_job *job, bool success, PyObject *value);

// While waiting for `done`, collect results that arrive on the board, for a short time.
// The caller has Python's lock; -1 with an exception that a signal's handler raised.
int pd_board_help(PyObject *board, const pd_latch *done, int64_t timeout_ns);

// How long the whole wait was: whether to help pays depends on that.
void pd_board_waited(PyObject *board, int64_t ns);

// A new reference to `owner` is taken.
PyObject *pd_piece_new(PyObject *module,
                       PyObject *owner,
                       void (*drop)(pd_piece *piece),
                       char *data,
                       Py_ssize_t bytes,
                       pd_span span);

// Copies, without Python's lock if that takes long.
void pd_copy_out(char *to, const char *from, size_t bytes);

int pd_add_piece_type(PyObject *module);
int pd_add_job_type(PyObject *module);
int pd_add_board_types(PyObject *module);
int pd_add_desk_types(PyObject *module);

#endif
