// A worker's mailbox: what it reports, and the memory it sends results in.
//
// One process writes and one reads; a mail is there when its end is published, so that
// whatever dies, what was sent stays and what was not is nothing.  The reader survives any
// content: it checks what it reads.
//
//      segment: | header | cursors | ring of mails | returns | memory for large results |
//
// Large results lie in the memory behind the ring, which the writer hands out (an arena)
// and the reader gives back through `returns`.
#ifndef PD_SHM_MAILBOX_H
#define PD_SHM_MAILBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "shm/board.h"
#include "shm/segment.h"

#define PD_MAILBOX_RING ((uint64_t)256 << 10)
#define PD_MAILBOX_LARGEST (PD_MAILBOX_RING / 8)  // of what a mail may hold inside

// The head of a mail; `inside` bytes follow.
typedef struct pd_mail {
    uint32_t kind;  // the users' business; 0 is the mailbox's
    uint32_t slot;
    uint64_t ticket;
    uint64_t inside;
    pd_span span;    // of the segment, or bytes == 0
    uint32_t spans;  // that stand at the beginning of what is sent
    uint32_t flags;
    uint64_t unused[2];
} pd_mail;

typedef struct pd_mailbox pd_mailbox;

pd_status pd_mailbox_create(pd_mailbox **out);

// Takes `fd`, and closes it on failure: PD_ECORRUPT if that is not a mailbox.
pd_status pd_mailbox_attach(int fd, pd_mailbox **out);

void pd_mailbox_destroy(pd_mailbox *box);

pd_segment *pd_mailbox_segment(pd_mailbox *box);

// The first byte of the memory for large results.
uint64_t pd_mailbox_end(const pd_mailbox *box);

// -- by the writer, one thread at a time ---------------------------------------

// Room for a mail with `inside` bytes (at most PD_MAILBOX_LARGEST); its head is zeroed but
// for `inside`.  NULL if there is no room now.
pd_mail *pd_mailbox_begin(pd_mailbox *box, uint64_t inside);

// Sends what pd_mailbox_begin() returned.
void pd_mailbox_send(pd_mailbox *box);

// The next piece of memory that the reader has given back.
bool pd_mailbox_take_return(pd_mailbox *box, pd_span *span);

// -- by the reader, one thread at a time ---------------------------------------

// The oldest mail: PD_EABSENT if there is none, PD_ECORRUPT if it makes no sense.
pd_status pd_mailbox_peek(pd_mailbox *box, const pd_mail **mail);

// Whether there is a mail; any thread may ask.
bool pd_mailbox_has_mail(const pd_mailbox *box);

// Done with the mail that pd_mailbox_peek() returned.
void pd_mailbox_next(pd_mailbox *box);

// False if there is no room now.
bool pd_mailbox_give_back(pd_mailbox *box, pd_span span);

#endif
