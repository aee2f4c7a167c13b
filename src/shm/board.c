// The task board: slots, and a queue of their numbers.
//
//      poster                                   worker
//      ------                                   ------
//      fill slot; state = READY(gen)            entry = queue[head]
//      queue[tail] = (gen, slot); ++tail  --->  CAS slot: READY(gen) -> CLAIMED(gen, desk)
//      wake a sleeper, if nobody searches       CAS head -> head + 1
//
// The queue gives the order; who has a task is said by its slot alone.  An entry whose
// slot is not READY in that generation is used up (claimed by a worker that died before
// it moved the head, or retracted), and whoever meets it moves the head.  A worker with
// an old head may claim a later task than the first: no harm.
//
// Sleep (attention of a desk): BUSY -> SEARCHING -> PARKED, and back by the worker, or by
// whoever wakes it.  A worker parks after one more look at the queue, and a poster looks
// at attention after it has moved the tail: with sequentially consistent accesses one of
// them sees the other.  A worker that claims while there is more wakes the next, so one
// wake is enough for any number of tasks.  What a stopped or killed worker swallowed is
// found by the others, who look again after a second, or by pd_board_clear_desk().
//
// Invariants
//   I1  Only the poster makes a slot READY or FREE; a generation is never used twice.
//   I2  head <= tail <= head + the size of the queue.
//
// Why a table and not a queue for each worker: any idle worker can take any task, and
// nothing that waits is lost or late with the worker it was meant for.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include "shm/board.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/memory.h"
#include "shm/crash.h"

#ifdef __linux__
#    include <linux/futex.h>
#    include <sys/syscall.h>
#endif

enum { BUSY, SEARCHING, PARKED };

#define SLOT_BITS 20  // of a slot's number in an entry of the queue
#define DESK_SHIFT 4  // state: generation (44 bits), desk (16), phase (4)
#define PHASE_MASK 15u
#define DESK_MASK 65535u
#define QUEUE_PER_SLOT 4  // entries that are used up take room until they are met

// The start of the board in the segment; each group on a line of its own.
typedef struct head {
    uint32_t slots;
    uint32_t desks;
    _Atomic uint32_t closed;
    _Atomic uint32_t asleep;  // the poster waits for a ring
    uint64_t padding[6];
    _Atomic uint64_t head;
    uint64_t head_padding[7];
    _Atomic uint64_t tail;
    uint64_t tail_padding[7];
} head;

struct pd_board {
    pd_segment *segment;  // owned
    head *head;           // all below in the segment
    pd_desk *desks;
    _Atomic uint64_t *queue;
    pd_slot *slots;
    uint32_t slot_count;
    uint32_t desk_count;
    _Atomic uint32_t no_search;  // waits to come that park at once: a guess, relaxed
    uint64_t end;
};

_Static_assert(sizeof(pd_slot) == PD_SLOT_BYTES, "a slot is whole cache lines");
_Static_assert(sizeof(pd_desk) == 128, "a desk has its own cache lines");

// ------------------------------------------------------------------------------
// Life
// ------------------------------------------------------------------------------

static uint64_t
board_bytes(uint32_t slots, uint32_t desks)
{
    return sizeof(head) + (uint64_t)desks * sizeof(pd_desk) +
           (uint64_t)slots * (QUEUE_PER_SLOT * sizeof(uint64_t) + sizeof(pd_slot));
}

// Finds the parts; false if they do not lie inside the segment.
static bool
lay_out(pd_board *board, uint32_t slots, uint32_t desks)
{
    uint64_t at = sizeof(pd_segment_header);
    uint64_t bytes = board_bytes(slots, desks);
    char *base = pd_segment_at(board->segment, at, bytes);
    if (base == NULL) {
        return false;
    }
    board->head = (head *)(void *)base;
    board->desks = (pd_desk *)(void *)(base + sizeof(head));
    board->slots = (pd_slot *)(void *)(board->desks + desks);
    board->queue = (_Atomic uint64_t *)(void *)(board->slots + slots);
    board->slot_count = slots;
    board->desk_count = desks;
    board->end = at + bytes;
    return true;
}

pd_status
pd_board_create(uint32_t slots, uint32_t desks, pd_board **out)
{
    if (slots == 0 || slots > 1u << SLOT_BITS || desks == 0 || desks > DESK_MASK) {
        return PD_EINVAL;
    }
    uint32_t count = 1;
    while (count < slots) {
        count *= 2;
    }
    pd_board *board = pd_calloc(1, sizeof(*board));
    if (board == NULL) {
        return PD_ENOMEM;
    }
    uint64_t bytes = sizeof(pd_segment_header) + board_bytes(count, desks);
    pd_status status = pd_segment_create(
        PD_SEGMENT_BOARD, bytes, pd_memory_reserve(PD_BOARD_RESERVE), &board->segment);
    if (status != PD_OK) {
        pd_free(board);
        return status;
    }
    (void)lay_out(board, count, desks);
    board->head->slots = count;
    board->head->desks = desks;
    *out = board;
    return PD_OK;
}

pd_status
pd_board_attach(int fd, pd_board **out)
{
    pd_board *board = pd_calloc(1, sizeof(*board));
    pd_status status =
        board == NULL
            ? PD_ENOMEM
            : pd_segment_attach(fd, PD_SEGMENT_BOARD,
                                pd_memory_reserve(PD_BOARD_RESERVE), &board->segment);
    if (status != PD_OK) {
        close(fd);
        pd_free(board);
        return status;
    }
    const head *h =
        pd_segment_at(board->segment, sizeof(pd_segment_header), sizeof(head));
    uint32_t slots = h == NULL ? 0 : h->slots, desks = h == NULL ? 0 : h->desks;
    if (slots == 0 || slots > 1u << SLOT_BITS || (slots & (slots - 1)) != 0 ||
        desks > DESK_MASK || !lay_out(board, slots, desks))
    {
        pd_board_destroy(board);
        return PD_ECORRUPT;
    }
    *out = board;
    return PD_OK;
}

void
pd_board_destroy(pd_board *board)
{
    if (board != NULL) {
        pd_segment_destroy(board->segment);
        pd_free(board);
    }
}

pd_segment *
pd_board_segment(pd_board *board)
{
    return board->segment;
}

uint32_t
pd_board_slots(const pd_board *board)
{
    return board->slot_count;
}

uint32_t
pd_board_desks(const pd_board *board)
{
    return board->desk_count;
}

uint64_t
pd_board_end(const pd_board *board)
{
    return board->end;
}

pd_slot *
pd_board_slot(pd_board *board, uint32_t i)
{
    return &board->slots[i];
}

pd_desk *
pd_board_desk(pd_board *board, uint32_t i)
{
    return &board->desks[i];
}

// ------------------------------------------------------------------------------
// States
// ------------------------------------------------------------------------------

static uint64_t
state_of(uint64_t generation, uint32_t desk, pd_phase phase)
{
    return generation << SLOT_BITS | (uint64_t)desk << DESK_SHIFT | (uint64_t)phase;
}

static uint32_t
desk_of(uint64_t state)
{
    return (uint32_t)(state >> DESK_SHIFT) & DESK_MASK;
}

pd_phase
pd_slot_phase(const pd_slot *slot, uint32_t *desk)
{
    uint64_t state = atomic_load(&slot->state);
    *desk = desk_of(state);
    return (pd_phase)(state & PHASE_MASK);
}

// From one phase to another, by whoever it concerns, with the generation and desk kept.
static bool
move(pd_slot *slot, pd_phase from, pd_phase to)
{
    uint64_t state = atomic_load(&slot->state);
    return (state & PHASE_MASK) == from &&
           atomic_compare_exchange_strong(&slot->state, &state,
                                          (state & ~(uint64_t)PHASE_MASK) | to);
}

static uint64_t
queue_size(const pd_board *board)
{
    return (uint64_t)board->slot_count * QUEUE_PER_SLOT;
}

// ------------------------------------------------------------------------------
// The poster
// ------------------------------------------------------------------------------

// Moves the head over entries that are used up.
static void
skip_used_up(pd_board *board)
{
    uint64_t at = atomic_load(&board->head->head);
    uint64_t tail = atomic_load(&board->head->tail);
    while (at < tail) {
        uint64_t entry = atomic_load(&board->queue[at & (queue_size(board) - 1)]);
        uint64_t slot = entry & ((1u << SLOT_BITS) - 1);
        if (slot < board->slot_count && atomic_load(&board->slots[slot].state) ==
                                            state_of(entry >> SLOT_BITS, 0, PD_READY))
        {
            return;
        }
        if (atomic_compare_exchange_strong(&board->head->head, &at, at + 1)) {
            at++;
        }
    }
}

bool
pd_board_publish(pd_board *board, uint32_t i)
{
    uint64_t tail = atomic_load(&board->head->tail);
    if (tail - atomic_load(&board->head->head) >= queue_size(board)) {
        skip_used_up(board);
        if (tail - atomic_load(&board->head->head) >= queue_size(board)) {
            return false;
        }
    }
    pd_slot *slot = &board->slots[i];
    uint64_t generation = (atomic_load(&slot->state) >> SLOT_BITS) + 1;
    atomic_store(&slot->state, state_of(generation, 0, PD_READY));
    atomic_store(&board->queue[tail & (queue_size(board) - 1)],
                 generation << SLOT_BITS | i);
    atomic_store(&board->head->tail, tail + 1);
    return true;
}

bool
pd_board_retract(pd_board *board, uint32_t i)
{
    return move(&board->slots[i], PD_READY, PD_FREE);
}

bool
pd_board_doom(pd_board *board, uint32_t i, uint32_t *desk)
{
    *desk = desk_of(atomic_load(&board->slots[i].state));
    return move(&board->slots[i], PD_CLAIMED, PD_DOOMED);
}

void
pd_board_free(pd_board *board, uint32_t i)
{
    uint64_t state = atomic_load(&board->slots[i].state);
    atomic_store(&board->slots[i].state, state_of(state >> SLOT_BITS, 0, PD_FREE));
}

void
pd_board_close(pd_board *board)
{
    atomic_store(&board->head->closed, 1);
    pd_board_wake(board, true);
}

void
pd_board_sleep(pd_board *board)
{
    atomic_store(&board->head->asleep, 1);
}

void
pd_board_awake(pd_board *board)
{
    atomic_store(&board->head->asleep, 0);
}

// ------------------------------------------------------------------------------
// Sleep
// ------------------------------------------------------------------------------

#ifdef __linux__
static void
park(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    (void)syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, NULL, 0);
}

static void
unpark(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
#else
// No board can exist here: segments can't.
static void
park(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    (void)word, (void)value, (void)timeout_ns;
}

static void
unpark(_Atomic uint32_t *word)
{
    (void)word;
}
#endif

void
pd_board_wake(pd_board *board, bool all)
{
    for (uint32_t i = 0; !all && i < board->desk_count; i++) {
        if (atomic_load(&board->desks[i].attention) == SEARCHING) {
            return;
        }
    }
    for (uint32_t i = 0; i < board->desk_count; i++) {
        _Atomic uint32_t *attention = &board->desks[i].attention;
        uint32_t parked = PARKED;
        if (atomic_compare_exchange_strong(attention, &parked, BUSY)) {
            unpark(attention);
            if (!all) {
                return;
            }
        }
    }
}

void
pd_board_clear_desk(pd_board *board, uint32_t desk)
{
    atomic_store(&board->desks[desk].attention, BUSY);
    pd_board_wake(board, true);
}

static bool
may_have_tasks(pd_board *board)
{
    return atomic_load(&board->head->head) != atomic_load(&board->head->tail) ||
           atomic_load(&board->head->closed) != 0;
}

// Looks for tasks awake; true if there may be some.
static bool
search(pd_board *board, int64_t spin_ns)
{
    int64_t now_ns = pd_now_ns(), end_ns = now_ns + spin_ns;
    while (now_ns < end_ns) {
        for (int i = 0; i < 32; i++) {
            if (may_have_tasks(board)) {
                return true;
            }
            pd_relax();
        }
        sched_yield();  // to a poster that has no other processor
        now_ns = pd_now_ns();
    }
    if (now_ns > end_ns + PD_DEAR_YIELD_NS) {
        atomic_store_explicit(&board->no_search, PD_DEAR_YIELD_REST,
                              memory_order_relaxed);
    }
    return false;
}

void
pd_board_wait(pd_board *board, uint32_t desk, int64_t spin_ns, int64_t timeout_ns)
{
    _Atomic uint32_t *attention = &board->desks[desk].attention;
    atomic_store(attention, SEARCHING);
    PD_CRASH_POINT();
    uint32_t rest = atomic_load_explicit(&board->no_search, memory_order_relaxed);
    if (rest > 0) {
        atomic_store_explicit(&board->no_search, rest - 1, memory_order_relaxed);
    }
    else if (search(board, spin_ns)) {
        atomic_store(attention, BUSY);
        return;
    }
    atomic_store(attention, PARKED);
    PD_CRASH_POINT();
    if (!may_have_tasks(board)) {
        park(attention, PARKED, timeout_ns);
    }
    PD_CRASH_POINT();
    atomic_store(attention, BUSY);
    PD_CRASH_POINT();
}

// ------------------------------------------------------------------------------
// Workers
// ------------------------------------------------------------------------------

pd_status
pd_board_claim(pd_board *board, uint32_t desk, uint32_t *slot)
{
    for (;;) {
        uint64_t at = atomic_load(&board->head->head);
        uint64_t tail = atomic_load(&board->head->tail);
        if (at >= tail) {
            return atomic_load(&board->head->closed) ? PD_ECLOSED : PD_EABSENT;
        }
        uint64_t entry = atomic_load(&board->queue[at & (queue_size(board) - 1)]);
        uint64_t i = entry & ((1u << SLOT_BITS) - 1);
        if (i >= board->slot_count) {
            return PD_ECORRUPT;
        }
        uint64_t ready = state_of(entry >> SLOT_BITS, 0, PD_READY);
        PD_CRASH_POINT();
        bool mine = atomic_compare_exchange_strong(
            &board->slots[i].state, &ready,
            state_of(entry >> SLOT_BITS, desk, PD_CLAIMED));
        PD_CRASH_POINT();
        (void)atomic_compare_exchange_strong(&board->head->head, &at, at + 1);
        PD_CRASH_POINT();
        if (mine) {
            if (at + 1 < tail) {
                pd_board_wake(board, false);
            }
            PD_CRASH_POINT();
            *slot = (uint32_t)i;
            return PD_OK;
        }
    }
}

bool
pd_board_finish(pd_board *board, uint32_t desk, uint32_t slot)
{
    (void)desk;
    PD_CRASH_POINT();
    bool finished = move(&board->slots[slot], PD_CLAIMED, PD_DONE);
    PD_CRASH_POINT();
    return finished;
}

bool
pd_board_must_ring(pd_board *board)
{
    PD_CRASH_POINT();
    return atomic_load(&board->head->asleep) != 0 &&
           atomic_exchange(&board->head->asleep, 0) != 0;
}
