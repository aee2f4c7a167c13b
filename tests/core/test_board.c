// The task board and its mailboxes: killed at every step, no task is lost or run twice.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "check.h"
#include "shm/arena.h"
#include "shm/board.h"
#include "shm/crash.h"
#include "shm/mailbox.h"

#define SLOTS 16

static pd_board *
new_board(uint32_t desks)
{
    pd_board *board;
    CHECK(pd_board_create(SLOTS, desks, &board) == PD_OK);
    CHECK(pd_board_slots(board) == SLOTS && pd_board_desks(board) == desks);
    return board;
}

static void
post(pd_board *board, uint32_t i, uint64_t ticket)
{
    pd_board_slot(board, i)->ticket = ticket;
    CHECK(pd_board_publish(board, i));
}

static void
tasks_are_claimed_in_order(void)
{
    pd_board *board = new_board(2);
    uint32_t slot, desk;
    CHECK(pd_board_claim(board, 0, &slot) == PD_EABSENT);
    for (uint32_t i = 0; i < SLOTS; i++) {
        post(board, SLOTS - 1 - i, i);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK(pd_board_claim(board, i % 2, &slot) == PD_OK);
        CHECK(pd_board_slot(board, slot)->ticket == i);
        CHECK(pd_slot_phase(pd_board_slot(board, slot), &desk) == PD_CLAIMED);
        CHECK(desk == i % 2);
        CHECK(pd_board_finish(board, i % 2, slot));
        CHECK(pd_slot_phase(pd_board_slot(board, slot), &desk) == PD_DONE);
        pd_board_free(board, slot);
    }
    CHECK(pd_board_claim(board, 0, &slot) == PD_EABSENT);
    pd_board_close(board);
    CHECK(pd_board_claim(board, 0, &slot) == PD_ECLOSED);
    pd_board_destroy(board);
}

static void
what_was_taken_back_is_not_claimed(void)
{
    pd_board *board = new_board(1);
    uint32_t slot;
    // Far more often than the queue is long: entries that are used up are skipped.
    for (uint64_t ticket = 0; ticket < 1000; ticket++) {
        post(board, 3, ticket);
        CHECK(pd_board_retract(board, 3));
        CHECK(!pd_board_retract(board, 3));
    }
    CHECK(pd_board_claim(board, 0, &slot) == PD_EABSENT);
    post(board, 3, 7);
    CHECK(pd_board_claim(board, 0, &slot) == PD_OK && slot == 3);
    CHECK(!pd_board_retract(board, 3));
    pd_board_destroy(board);
}

static void
a_doomed_task_cannot_finish(void)
{
    pd_board *board = new_board(4);
    uint32_t slot, desk;
    post(board, 5, 1);
    CHECK(!pd_board_doom(board, 5, &desk));  // nobody has it
    CHECK(pd_board_claim(board, 2, &slot) == PD_OK);
    CHECK(pd_board_doom(board, 5, &desk) && desk == 2);
    CHECK(!pd_board_finish(board, 2, slot));
    pd_board_free(board, slot);
    post(board, 5, 2);
    CHECK(pd_board_claim(board, 2, &slot) == PD_OK);
    CHECK(pd_board_finish(board, 2, slot));
    CHECK(!pd_board_doom(board, 5, &desk));  // too late
    pd_board_destroy(board);
}

static void
foreign_memory_is_refused(void)
{
    pd_mailbox *box;
    pd_board *board, *other;
    CHECK(pd_mailbox_create(&box) == PD_OK);
    int fd = dup(pd_mailbox_segment(box)->fd);
    CHECK(pd_board_attach(fd, &board) == PD_ECORRUPT);
    board = new_board(1);
    fd = dup(pd_board_segment(board)->fd);
    CHECK(pd_mailbox_attach(fd, &box) == PD_ECORRUPT);
    fd = dup(pd_board_segment(board)->fd);
    CHECK(pd_board_attach(fd, &other) == PD_OK);
    post(board, 1, 9);
    uint32_t slot;
    CHECK(pd_board_claim(other, 0, &slot) == PD_OK && slot == 1);
    pd_board_destroy(other);
    pd_board_destroy(board);
    pd_mailbox_destroy(box);
}

static void
mails_come_whole_and_in_order(void)
{
    pd_mailbox *box;
    CHECK(pd_mailbox_create(&box) == PD_OK);
    const pd_mail *mail;
    CHECK(pd_mailbox_peek(box, &mail) == PD_EABSENT);
    CHECK(pd_mailbox_begin(box, PD_MAILBOX_LARGEST + 1) == NULL);
    uint64_t sent = 0, read = 0;
    uint32_t seed = 1;
    while (read < 20000) {
        seed = seed * 1664525u + 1013904223u;
        uint64_t bytes = (seed >> 8) % 3000;
        pd_mail *new = pd_mailbox_begin(box, bytes);
        if (new != NULL) {
            new->kind = 1;
            new->ticket = sent++;
            memset(new + 1, (int)(new->ticket & 255), bytes);
            pd_mailbox_send(box);
        }
        if (new != NULL && seed % 3 != 0) {
            continue;
        }
        while (pd_mailbox_peek(box, &mail) == PD_OK) {
            CHECK(mail->ticket == read);
            const unsigned char *text = (const unsigned char *)(mail + 1);
            for (uint64_t i = 0; i < mail->inside; i++) {
                CHECK(text[i] == (read & 255));
            }
            read++;
            pd_mailbox_next(box);
        }
    }
    pd_mailbox_destroy(box);
}

static void
a_mailbox_gone_mad_leads_nobody_astray(void)
{
    for (uint32_t seed = 1; seed < 300; seed++) {
        pd_mailbox *box;
        CHECK(pd_mailbox_create(&box) == PD_OK);
        pd_segment *segment = pd_mailbox_segment(box);
        uint64_t bytes = pd_mailbox_end(box) - sizeof(pd_segment_header);
        uint32_t *words = pd_segment_at(segment, sizeof(pd_segment_header), bytes);
        uint32_t state = seed;
        // The cursors small enough to be believed, the mails anything.
        for (uint64_t i = 64; i < bytes / 4; i += 5) {
            state = state * 1664525u + 1013904223u;
            words[i] = seed % 2 == 0 ? state : state & 1023;
        }
        *(uint64_t *)(void *)words = 64 * (state % 4096);
        const pd_mail *mail;
        for (int i = 0; i < 10000 && pd_mailbox_peek(box, &mail) == PD_OK; i++) {
            CHECK(mail->inside <= PD_MAILBOX_RING);
            pd_mailbox_next(box);
        }
        pd_mailbox_destroy(box);
    }
}

static void
returns_come_back(void)
{
    pd_mailbox *box;
    pd_span span;
    CHECK(pd_mailbox_create(&box) == PD_OK);
    CHECK(!pd_mailbox_take_return(box, &span));
    uint64_t given = 0;
    while (pd_mailbox_give_back(box, (pd_span){given, 1})) {
        given++;
    }
    CHECK(given > 100);
    for (uint64_t i = 0; i < given; i++) {
        CHECK(pd_mailbox_take_return(box, &span) && span.at == i);
    }
    CHECK(pd_mailbox_give_back(box, (pd_span){1, 1}));
    pd_mailbox_destroy(box);
}

static void
an_arena_hands_out_no_byte_twice(void)
{
    pd_board *board = new_board(1);
    pd_segment *segment = pd_board_segment(board);
    pd_arena *arena;
    CHECK(pd_arena_create(segment, pd_board_end(board), &arena) == PD_OK);
    struct {
        uint64_t at, bytes;
        unsigned char mark;
    } held[64] = {0};
    uint32_t seed = 3;
    for (int round = 0; round < 20000; round++) {
        seed = seed * 1664525u + 1013904223u;
        unsigned i = (seed >> 10) % 64;
        if (held[i].bytes != 0) {
            unsigned char *data = pd_segment_at(segment, held[i].at, held[i].bytes);
            CHECK(data[0] == held[i].mark && data[held[i].bytes - 1] == held[i].mark);
            CHECK(pd_arena_give(arena, held[i].at, held[i].bytes) == PD_OK);
            held[i].bytes = 0;
            continue;
        }
        uint64_t bytes = 1 + (seed >> 16) % (seed % 5 == 0 ? 300000 : 3000);
        CHECK(pd_arena_take(arena, bytes, &held[i].at) == PD_OK);
        CHECK(held[i].at % (bytes >= PD_ARENA_PAGE ? PD_ARENA_PAGE : 64) == 0);
        held[i].bytes = bytes;
        held[i].mark = (unsigned char)round;
        unsigned char *data = pd_segment_at(segment, held[i].at, bytes);
        CHECK(data != NULL);
        memset(data, held[i].mark, bytes);
    }
    for (unsigned i = 0; i < 64; i++) {
        if (held[i].bytes != 0) {
            CHECK(pd_arena_give(arena, held[i].at, held[i].bytes) == PD_OK);
        }
    }
    CHECK(pd_arena_used(arena) == 0);
    uint64_t at;
    CHECK(pd_arena_take(arena, 0, &at) == PD_EINVAL);
    CHECK(pd_arena_take(arena, UINT64_MAX / 8, &at) == PD_ENOMEM);
    CHECK(pd_arena_give(arena, 64, 64) == PD_EINVAL);
    pd_arena_destroy(arena);
    pd_board_destroy(board);
}

// -- worker threads: for ThreadSanitizer, and for doom against finish ----------

#define TASKS 20000
#define THREADS 3
enum { RESULT = 1, GAVE_UP };

typedef struct bench {
    pd_board *board;
    pd_mailbox *box;
    uint32_t desk;
} bench;

static void *
work_in_a_thread(void *arg)
{
    bench *b = arg;
    for (;;) {
        uint32_t slot;
        pd_status status = pd_board_claim(b->board, b->desk, &slot);
        if (status == PD_EABSENT) {
            pd_board_wait(b->board, b->desk, 1000, 1000000);
            continue;
        }
        if (status != PD_OK) {
            return NULL;
        }
        uint64_t ticket = pd_board_slot(b->board, slot)->ticket;
        bool finished = pd_board_finish(b->board, b->desk, slot);
        pd_mail *mail;
        while ((mail = pd_mailbox_begin(b->box, 0)) == NULL) {
            usleep(100);
        }
        mail->kind = finished ? RESULT : GAVE_UP;
        mail->slot = slot;
        mail->ticket = ticket;
        pd_mailbox_send(b->box);
        (void)pd_board_must_ring(b->board);
    }
}

typedef struct tally {
    bool settled[TASKS];
    bool doomed[TASKS];
    uint32_t count;
    bool taken[SLOTS];
} tally;

static void
settle_once(pd_board *board, tally *t, uint32_t slot, uint64_t ticket)
{
    CHECK(ticket < TASKS && !t->settled[ticket] && t->taken[slot]);
    t->settled[ticket] = true;
    t->taken[slot] = false;
    t->count++;
    pd_board_free(board, slot);
}

static void
read_all(bench *b, tally *t)
{
    const pd_mail *mail;
    while (pd_mailbox_peek(b->box, &mail) == PD_OK) {
        CHECK((mail->kind == GAVE_UP) == t->doomed[mail->ticket]);
        settle_once(b->board, t, mail->slot, mail->ticket);
        pd_mailbox_next(b->box);
    }
}

// Posts what there is room for, and now and then takes a task back, or dooms one.
static void
post_and_meddle(pd_board *board, tally *t, uint64_t *next, uint32_t *seed)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        uint64_t ticket = pd_board_slot(board, i)->ticket;
        uint32_t desk;
        if (!t->taken[i] && *next < TASKS) {
            pd_board_slot(board, i)->ticket = *next;
            // The queue may be full of what was taken back, behind a task that waits.
            t->taken[i] = pd_board_publish(board, i);
            *next += t->taken[i] ? 1 : 0;
            pd_board_wake(board, false);
        }
        else if (t->taken[i] && *seed >> 29 == 0 && pd_board_retract(board, i)) {
            settle_once(board, t, i, ticket);
        }
        else if (t->taken[i] && *seed >> 29 == 1 && pd_board_doom(board, i, &desk)) {
            CHECK(desk < THREADS);
            t->doomed[ticket] = true;
        }
    }
}

static void
each_task_ends_once(void)
{
    static tally t;
    pd_board *board = new_board(THREADS);
    bench benches[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        benches[i] = (bench){.board = board, .desk = i};
        CHECK(pd_mailbox_create(&benches[i].box) == PD_OK);
        CHECK(pthread_create(&threads[i], NULL, work_in_a_thread, &benches[i]) == 0);
    }
    uint64_t next = 0;
    uint32_t seed = 7;
    while (t.count < TASKS) {
        post_and_meddle(board, &t, &next, &seed);
        for (uint32_t i = 0; i < THREADS; i++) {
            read_all(&benches[i], &t);
        }
    }
    pd_board_close(board);
    for (uint32_t i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        pd_mailbox_destroy(benches[i].box);
    }
    pd_board_destroy(board);
}

#ifndef PD_TEST_NO_FORK
// What a worker does with all tasks there are.
static void
work(pd_board *board, pd_mailbox *box, uint32_t desk)
{
    uint32_t slot;
    while (pd_board_claim(board, desk, &slot) == PD_OK) {
        if (!pd_board_finish(board, desk, slot)) {
            return;
        }
        pd_mail *mail = pd_mailbox_begin(box, 0);
        CHECK(mail != NULL);
        mail->kind = 1;
        mail->slot = slot;
        mail->ticket = pd_board_slot(board, slot)->ticket;
        pd_mailbox_send(box);
        (void)pd_board_must_ring(board);
    }
}

// Runs a worker that dies at the n-th crash point; true if it got through.
static bool
worker_dies_at(pd_board *board, pd_mailbox *box, uint32_t desk, long n)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        pd_crash_after(n);
        work(board, box, desk);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Counts each task once: by its mail, or as what its worker took down.
static unsigned
settle(pd_board *board, pd_mailbox *box, uint32_t desk, bool *settled)
{
    const pd_mail *mail;
    uint32_t owner;
    unsigned lost = 0;
    while (pd_mailbox_peek(box, &mail) == PD_OK) {
        CHECK(!settled[mail->ticket]);
        settled[mail->ticket] = true;
        pd_board_free(board, mail->slot);
        pd_mailbox_next(box);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        pd_slot *slot = pd_board_slot(board, i);
        if (pd_slot_phase(slot, &owner) > PD_READY && owner == desk) {
            CHECK(!settled[slot->ticket]);
            settled[slot->ticket] = true;
            pd_board_free(board, i);
            lost++;
        }
    }
    pd_board_clear_desk(board, desk);
    return lost;
}

static void
killed_at_every_step(void)
{
    bool through = false;
    for (long n = 1; !through; n++) {
        CHECK(n < 10000);
        pd_board *board = new_board(2);
        bool settled[5] = {false};
        for (uint32_t i = 0; i < 5; i++) {
            post(board, i, i);
        }
        pd_mailbox *first, *second;
        CHECK(pd_mailbox_create(&first) == PD_OK);
        CHECK(pd_mailbox_create(&second) == PD_OK);
        through = worker_dies_at(board, first, 1, n);
        CHECK(settle(board, first, 1, settled) <= 1);
        CHECK(worker_dies_at(board, second, 0, 0));
        CHECK(settle(board, second, 0, settled) == 0);
        for (uint32_t i = 0; i < 5; i++) {
            CHECK(settled[i]);
        }
        pd_mailbox_destroy(first);
        pd_mailbox_destroy(second);
        pd_board_destroy(board);
    }
}

#    define PARKED 2  // of board.c

static pid_t
start_sleeper(pd_board *board, uint32_t desk, int64_t spin_ns, long crash)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        uint32_t slot;
        alarm(30);  // its sleep is longer: who is not woken fails
        pd_crash_after(crash);
        while (pd_board_claim(board, desk, &slot) == PD_EABSENT) {
            pd_board_wait(board, desk, spin_ns, (int64_t)60 * 1000000000);
        }
        _exit(pd_board_finish(board, desk, slot) ? 0 : 1);
    }
    return pid;
}

// The first desk dies while it waits, is woken, or has just got its task; the second
// sleeps.  What the first swallowed, the second gets.
static void
killed_at_every_step_of_waiting(void)
{
    bool through = false;
    for (long n = 1; !through; n++) {
        CHECK(n < 100);
        pd_board *board = new_board(2);
        pid_t sleeper = start_sleeper(board, 1, 0, 0);
        while (atomic_load(&pd_board_desk(board, 1)->attention) != PARKED) {
            usleep(100);
        }
        pid_t first = start_sleeper(board, 0, 100000, n);
        usleep(5000);  // so that it is parked, or dead
        post(board, 0, 0);
        pd_board_wake(board, false);
        int status;
        CHECK(waitpid(first, &status, 0) == first);
        through = WIFEXITED(status);
        CHECK(through || WTERMSIG(status) == SIGKILL);
        uint32_t owner;
        if (pd_slot_phase(pd_board_slot(board, 0), &owner) > PD_READY) {
            CHECK(owner == 0);
            pd_board_free(board, 0);
            post(board, 1, 1);
        }
        pd_board_clear_desk(board, 0);
        CHECK(waitpid(sleeper, &status, 0) == sleeper && status == 0);
        pd_board_destroy(board);
    }
}

static void
a_sleeper_is_woken(void)
{
    pd_board *board = new_board(1);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        uint32_t slot;
        while (pd_board_claim(board, 0, &slot) == PD_EABSENT) {
            pd_board_wait(board, 0, 0, (int64_t)60 * 1000000000);
        }
        _exit(pd_board_slot(board, slot)->ticket == 4 ? 0 : 1);
    }
    usleep(50000);
    post(board, 2, 4);
    pd_board_wake(board, false);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    pd_board_destroy(board);
}
#endif

int
main(void)
{
    RUN(tasks_are_claimed_in_order);
    RUN(what_was_taken_back_is_not_claimed);
    RUN(a_doomed_task_cannot_finish);
    RUN(foreign_memory_is_refused);
    RUN(mails_come_whole_and_in_order);
    RUN(a_mailbox_gone_mad_leads_nobody_astray);
    RUN(returns_come_back);
    RUN(an_arena_hands_out_no_byte_twice);
    RUN(each_task_ends_once);
#ifndef PD_TEST_NO_FORK
    RUN(killed_at_every_step);
    RUN(killed_at_every_step_of_waiting);
    RUN(a_sleeper_is_woken);
#endif
    CHECK(pd_live_allocs() == 0);
    return 0;
}
