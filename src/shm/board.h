// The task board: where one process posts tasks and others claim them.
//
// There is no lock: a worker claims a task by one compare-and-swap that also says who it
// is.  So at any moment, whoever dies, each task is free, waiting, or somebody's; and the
// poster can take one back, or doom one so that its worker can do nothing but end.
//
//      FREE --publish--> READY --claim--> CLAIMED(desk) --finish--> DONE(desk) --> FREE
//                          |                   |
//                       retract              doom
//                          v                   v
//                        FREE             DOOMED(desk): the worker stops, and is killed
//
// A worker has a desk, a number; what it reports goes by its mailbox.
#ifndef PD_SHM_BOARD_H
#define PD_SHM_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "shm/segment.h"

// A piece of a segment.
typedef struct pd_span {
    uint64_t at;
    uint64_t bytes;
} pd_span;

// Address space that a board takes to grow in.
#define PD_BOARD_RESERVE ((size_t)1 << 36)

#define PD_SLOT_BYTES 512
#define PD_SLOT_INSIDE (PD_SLOT_BYTES - 80)

typedef enum pd_phase {
    PD_FREE,
    PD_READY,
    PD_CLAIMED,
    PD_DONE,
    PD_DOOMED,
} pd_phase;

// One task.  `state` is the board's business; the rest is written by the poster while the
// slot is free, and read by the worker that has claimed it.
typedef struct pd_slot {
    _Atomic uint64_t state;
    uint64_t ticket;    // of the task: no two have the same
    uint64_t function;  // its number: the same number, the same function
    uint32_t mode;
    uint32_t flags;
    pd_span code;         // of the function
    pd_span payload;      // at == 0: inside
    uint32_t spans;       // that stand at the beginning of the payload
    uint32_t code_spans;  // and of the code
    int64_t posted_ns;    // when it was
    char inside[PD_SLOT_INSIDE];
} pd_slot;

// A worker's place.  Written by the worker, but for `attention`.
typedef struct pd_desk {
    _Atomic uint32_t attention;  // see board.c
    uint32_t unused;
    _Atomic int64_t since_ns;  // when it claimed its latest task
    _Atomic int64_t run_ns;    // in tasks, until then
    _Atomic uint64_t tasks;    // ended
    _Atomic int64_t wait_ns;   // that what it claimed had been waiting, in all
    uint64_t padding[11];
} pd_desk;

typedef struct pd_board pd_board;

// Who waits awake yields its processor now and then, to whoever it waits for.  Where a
// third has that then for a whole slice, one had better sleep, which lets one be woken at
// once: so many times, before one tries again.
#define PD_DEAR_YIELD_NS 200000
#define PD_DEAR_YIELD_REST 64

// For loops that wait awake.
static inline void
pd_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// `slots` (at most 2^20) is rounded up to a power of two; `desks` is at most 65535.
pd_status pd_board_create(uint32_t slots, uint32_t desks, pd_board **out);

// Takes `fd`, and closes it on failure: PD_ECORRUPT if that is not a board.
pd_status pd_board_attach(int fd, pd_board **out);

void pd_board_destroy(pd_board *board);

pd_segment *pd_board_segment(pd_board *board);
uint32_t pd_board_slots(const pd_board *board);
uint32_t pd_board_desks(const pd_board *board);

// The first byte of the segment that the board does not use.
uint64_t pd_board_end(const pd_board *board);

pd_slot *pd_board_slot(pd_board *board, uint32_t i);
pd_desk *pd_board_desk(pd_board *board, uint32_t i);

// What a slot's state says; *desk for those that have one.
pd_phase pd_slot_phase(const pd_slot *slot, uint32_t *desk);

// -- by the poster, one thread at a time ---------------------------------------

// Offers slot `i`, which is free and filled.  False if there is no room in the queue.
bool pd_board_publish(pd_board *board, uint32_t i);

// Wakes a worker that sleeps, unless one looks for tasks anyway; or all.
void pd_board_wake(pd_board *board, bool all);

// Takes a task back: false if a worker has it.
bool pd_board_retract(pd_board *board, uint32_t i);

// True if the task is claimed and can't finish any more: kill the worker at *desk.
bool pd_board_doom(pd_board *board, uint32_t i, uint32_t *desk);

// The task is dealt with, and the slot free.
void pd_board_free(pd_board *board, uint32_t i);

// No more tasks come: workers find that out when there are none left.
void pd_board_close(pd_board *board);

// A dead worker's desk is cleared; whom it should have woken is.
void pd_board_clear_desk(pd_board *board, uint32_t desk);

// The poster is about to sleep: the next report will ring.  Check for reports after it.
void pd_board_sleep(pd_board *board);
void pd_board_awake(pd_board *board);

// -- by workers ----------------------------------------------------------------

// Claims the next task for `desk`: PD_OK; PD_EABSENT if there is none now; PD_ECLOSED if
// none will come; PD_ECORRUPT.
pd_status pd_board_claim(pd_board *board, uint32_t desk, uint32_t *slot);

// Sleeps until there may be a task, or for `timeout_ns`.  Spins `spin_ns` first.
void pd_board_wait(pd_board *board, uint32_t desk, int64_t spin_ns, int64_t timeout_ns);

// The task is done, and its result is about to be sent: false if it was doomed.
bool pd_board_finish(pd_board *board, uint32_t desk, uint32_t slot);

// A report was sent: true if the poster sleeps and the caller is to ring.
bool pd_board_must_ring(pd_board *board);

#endif
