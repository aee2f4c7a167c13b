// Mailboxes: a ring of mails, and a ring of returned memory the other way.
//
//      ring    ....|mail|mail|mail|........      read <= written, both only grow;
//                  ^read          ^written       a mail lies in one piece: where it does
//                                                not fit before the end, a PAD fills that
//
// Invariants
//   I1  Only the writer moves `written` and `taken`, only the reader `read` and `given`.
//   I2  What lies in [read, written) is not changed by the writer.
//   I3  The reader keeps its own copy of `read` and checks `written` and every head
//       against the size of the ring: a writer gone mad can't lead it outside.
//
// Why not a pipe: a mail costs no system call, is never half there, and survives the
// writer.
#include "shm/mailbox.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/memory.h"
#include "shm/crash.h"

#define RETURNS 4096
#define RESERVE ((size_t)1 << 32)  // a pool has thousands of mailboxes, at most
#define PAD 0
#define ALIGN sizeof(pd_mail)

_Static_assert(sizeof(pd_mail) == 64, "mails stay aligned to cache lines");

typedef struct cursors {
    _Atomic uint64_t written;  // bytes, by the writer
    uint64_t written_padding[7];
    _Atomic uint64_t read;  // by the reader
    uint64_t read_padding[7];
    _Atomic uint64_t given;  // returns, by the reader
    uint64_t given_padding[7];
    _Atomic uint64_t taken;  // by the writer
    uint64_t taken_padding[7];
} cursors;

struct pd_mailbox {
    pd_segment *segment;  // owned
    cursors *cursors;     // in the segment, as all below
    char *ring;
    pd_span *returns;
    uint64_t end;
    // This process's own, so that the other side can't change them.
    uint64_t written;
    uint64_t read;
    uint64_t given;
    uint64_t taken;
    uint64_t begun;   // the writer's: bytes of the mail that is being written
    uint64_t peeked;  // the reader's: of that which is being read
};

static const uint64_t box_bytes =
    sizeof(cursors) + PD_MAILBOX_RING + RETURNS * sizeof(pd_span);

static bool
lay_out(pd_mailbox *box)
{
    uint64_t at = sizeof(pd_segment_header);
    char *base = pd_segment_at(box->segment, at, box_bytes);
    if (base == NULL) {
        return false;
    }
    box->cursors = (cursors *)(void *)base;
    box->ring = base + sizeof(cursors);
    box->returns = (pd_span *)(void *)(box->ring + PD_MAILBOX_RING);
    box->end = at + box_bytes;
    box->written = atomic_load(&box->cursors->written);
    box->read = atomic_load(&box->cursors->read);
    box->given = atomic_load(&box->cursors->given);
    box->taken = atomic_load(&box->cursors->taken);
    return true;
}

pd_status
pd_mailbox_create(pd_mailbox **out)
{
    pd_mailbox *box = pd_calloc(1, sizeof(*box));
    if (box == NULL) {
        return PD_ENOMEM;
    }
    pd_status status =
        pd_segment_create(PD_SEGMENT_MAILBOX, sizeof(pd_segment_header) + box_bytes,
                          pd_memory_reserve(RESERVE), &box->segment);
    if (status != PD_OK) {
        pd_free(box);
        return status;
    }
    (void)lay_out(box);
    *out = box;
    return PD_OK;
}

pd_status
pd_mailbox_attach(int fd, pd_mailbox **out)
{
    pd_mailbox *box = pd_calloc(1, sizeof(*box));
    pd_status status =
        box == NULL ? PD_ENOMEM
                    : pd_segment_attach(fd, PD_SEGMENT_MAILBOX,
                                        pd_memory_reserve(RESERVE), &box->segment);
    if (status != PD_OK) {
        close(fd);
        pd_free(box);
        return status;
    }
    if (!lay_out(box)) {
        pd_mailbox_destroy(box);
        return PD_ECORRUPT;
    }
    *out = box;
    return PD_OK;
}

void
pd_mailbox_destroy(pd_mailbox *box)
{
    if (box != NULL) {
        pd_segment_destroy(box->segment);
        pd_free(box);
    }
}

pd_segment *
pd_mailbox_segment(pd_mailbox *box)
{
    return box->segment;
}

uint64_t
pd_mailbox_end(const pd_mailbox *box)
{
    return box->end;
}

// ------------------------------------------------------------------------------
// Writing
// ------------------------------------------------------------------------------

static uint64_t
whole_mail(uint64_t inside)
{
    return (sizeof(pd_mail) + inside + ALIGN - 1) / ALIGN * ALIGN;
}

static pd_mail *
mail_at(const pd_mailbox *box, uint64_t cursor)
{
    return (pd_mail *)(void *)(box->ring + cursor % PD_MAILBOX_RING);
}

pd_mail *
pd_mailbox_begin(pd_mailbox *box, uint64_t inside)
{
    if (inside > PD_MAILBOX_LARGEST) {
        return NULL;
    }
    uint64_t bytes = whole_mail(inside);
    uint64_t to_end = PD_MAILBOX_RING - box->written % PD_MAILBOX_RING;
    uint64_t pad = bytes > to_end ? to_end : 0;
    // Pairs with the release in pd_mailbox_next(): the reader is done with that part.
    uint64_t read = atomic_load_explicit(&box->cursors->read, memory_order_acquire);
    if (box->written + pad + bytes - read > PD_MAILBOX_RING) {
        return NULL;
    }
    if (pad > 0) {
        *mail_at(box, box->written) =
            (pd_mail){.kind = PAD, .inside = pad - sizeof(pd_mail)};
    }
    pd_mail *mail = mail_at(box, box->written + pad);
    *mail = (pd_mail){.inside = inside};
    box->begun = pad + bytes;
    PD_CRASH_POINT();
    return mail;
}

void
pd_mailbox_send(pd_mailbox *box)
{
    PD_CRASH_POINT();
    box->written += box->begun;
    // Sequentially consistent: the look at whether the reader sleeps comes after it.
    atomic_store(&box->cursors->written, box->written);
    PD_CRASH_POINT();
}

bool
pd_mailbox_take_return(pd_mailbox *box, pd_span *span)
{
    uint64_t given = atomic_load_explicit(&box->cursors->given, memory_order_acquire);
    if (box->taken == given) {
        return false;
    }
    *span = box->returns[box->taken % RETURNS];
    box->taken++;
    atomic_store_explicit(&box->cursors->taken, box->taken, memory_order_release);
    return true;
}

// ------------------------------------------------------------------------------
// Reading
// ------------------------------------------------------------------------------

// The size of the mail at `read`, 0 if it makes no sense.
static uint64_t
checked_bytes(const pd_mailbox *box, uint64_t written, uint64_t inside)
{
    uint64_t to_end = PD_MAILBOX_RING - box->read % PD_MAILBOX_RING;
    if (inside > PD_MAILBOX_RING) {
        return 0;
    }
    uint64_t bytes = whole_mail(inside);
    return bytes <= to_end && bytes <= written - box->read ? bytes : 0;
}

pd_status
pd_mailbox_peek(pd_mailbox *box, const pd_mail **out)
{
    for (;;) {
        uint64_t written = atomic_load(&box->cursors->written);
        if (written == box->read) {
            return PD_EABSENT;
        }
        if (written - box->read > PD_MAILBOX_RING || written % ALIGN != 0) {
            return PD_ECORRUPT;
        }
        const pd_mail *mail = mail_at(box, box->read);
        box->peeked = checked_bytes(box, written, mail->inside);
        if (box->peeked == 0) {
            return PD_ECORRUPT;
        }
        if (mail->kind != PAD) {
            *out = mail;
            return PD_OK;
        }
        pd_mailbox_next(box);
    }
}

bool
pd_mailbox_has_mail(const pd_mailbox *box)
{
    return atomic_load(&box->cursors->written) != atomic_load(&box->cursors->read);
}

void
pd_mailbox_next(pd_mailbox *box)
{
    box->read += box->peeked;
    atomic_store_explicit(&box->cursors->read, box->read, memory_order_release);
}

bool
pd_mailbox_give_back(pd_mailbox *box, pd_span span)
{
    uint64_t taken = atomic_load_explicit(&box->cursors->taken, memory_order_acquire);
    if (box->given - taken >= RETURNS) {
        return false;
    }
    box->returns[box->given % RETURNS] = span;
    box->given++;
    atomic_store_explicit(&box->cursors->given, box->given, memory_order_release);
    return true;
}
