// The team: every index once, failures end the loop, callers share, fork is survived.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "thread/team.h"

#define COUNT 5000

typedef struct tally {
    _Atomic unsigned hits[COUNT];
    _Atomic unsigned busy[64];
    unsigned plain[COUNT];  // not atomic: TSan proves the end of the loop orders it
    size_t fail_at;
    _Atomic size_t begun;
} tally;

static tally t;

static pd_status
hit(void *job, size_t index, unsigned member)
{
    tally *self = job;
    CHECK(member < 64);
    CHECK(atomic_fetch_add(&self->busy[member], 1) == 0);
    atomic_fetch_add(&self->begun, 1);
    atomic_fetch_add(&self->hits[index], 1);
    self->plain[index] = (unsigned)index + 1;
    atomic_fetch_sub(&self->busy[member], 1);
    return index == self->fail_at ? PD_ENOMEM : PD_OK;
}

static void
reset(void)
{
    memset(&t, 0, sizeof(t));
    t.fail_at = COUNT;
}

static void
every_index_runs_once(void)
{
    for (unsigned members = 1; members <= 9; members++) {
        for (size_t count = 0; count <= COUNT; count = count * 3 + 1) {
            reset();
            CHECK(pd_team_run(members, count, hit, &t, NULL, NULL) == PD_OK);
            for (size_t i = 0; i < COUNT; i++) {
                CHECK(t.hits[i] == (i < count));
                CHECK(t.plain[i] == (i < count ? i + 1 : 0));
            }
        }
    }
}

static void
no_members_is_refused(void)
{
    CHECK(pd_team_run(0, 1, hit, &t, NULL, NULL) == PD_EINVAL);
}

static void
a_failure_ends_the_loop_and_is_returned(void)
{
    for (unsigned members = 1; members <= 4; members++) {
        reset();
        t.fail_at = 10;
        CHECK(pd_team_run(members, COUNT, hit, &t, NULL, NULL) == PD_ENOMEM);
        CHECK(t.hits[10] == 1);
        CHECK(members > 1 || t.begun == 11);
    }
}

static _Atomic bool release;

static pd_status
wait_for_release(void *job, size_t index, unsigned member)
{
    (void)job;
    (void)index;
    (void)member;
    while (!atomic_load(&release)) {
        sched_yield();
    }
    return PD_OK;
}

static pd_status
cancel_and_release(void *arg)
{
    ++*(int *)arg;
    atomic_store(&release, true);
    return PD_ECANCELED;
}

static pd_status
slow_for_the_caller(void *job, size_t index, unsigned member)
{
    // The caller's own index ends at once; the worker's waits for the poll.
    return member == 0 ? PD_OK : wait_for_release(job, index, member);
}

static void
poll_is_called_while_waiting_and_can_cancel(void)
{
    int polls = 0;
    for (int attempt = 0; attempt < 100 && polls == 0; attempt++) {
        atomic_store(&release, false);
        pd_status status = pd_team_run(2, COUNT, slow_for_the_caller, NULL,
                                       cancel_and_release, &polls);
        // The worker may have come too late for an index; then there is no wait.
        CHECK(polls == 0 ? status == PD_OK : status == PD_ECANCELED);
        atomic_store(&release, true);
    }
    CHECK(polls > 0);
}

static pd_status
cancel_and_count(void *arg)
{
    ++*(int *)arg;
    return PD_ECANCELED;
}

static pd_status
long_for_the_worker(void *job, size_t index, unsigned member)
{
    (void)job;
    (void)index;
    if (member != 0) {
        const struct timespec several_polls = {0, 5 * PD_TEAM_POLL_NS};
        nanosleep(&several_polls, NULL);
    }
    return PD_OK;
}

static void
a_loop_that_has_ended_is_not_polled(void)
{
    for (int attempt = 0; attempt < 10; attempt++) {
        int polls = 0;
        (void)pd_team_run(2, COUNT, long_for_the_worker, NULL, cancel_and_count,
                          &polls);
        CHECK(polls <= 1);
    }
}

static pd_status
nest(void *job, size_t index, unsigned member)
{
    (void)index;
    (void)member;
    tally *own = calloc(1, sizeof(*own));
    CHECK(own != NULL);
    own->fail_at = COUNT;
    pd_status status = pd_team_run(4, 100, hit, own, NULL, NULL);
    for (size_t i = 0; i < 100; i++) {
        CHECK(own->hits[i] == 1);
    }
    free(own);
    atomic_fetch_add((_Atomic unsigned *)job, 1);
    return status;
}

static void
nested_loops_run_inline(void)
{
    _Atomic unsigned runs = 0;
    CHECK(pd_team_run(3, 50, nest, &runs, NULL, NULL) == PD_OK);
    CHECK(runs == 50);
}

static void *
call_many(void *arg)
{
    (void)arg;
    _Atomic unsigned runs = 0;
    for (int i = 0; i < 50; i++) {
        CHECK(pd_team_run(3, 5, nest, &runs, NULL, NULL) == PD_OK);
    }
    CHECK(runs == 250);
    return NULL;
}

static void
callers_share_the_team(void)
{
    pthread_t ids[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&ids[i], NULL, call_many, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(ids[i], NULL) == 0);
    }
}

static pd_status
check_mask(void *job, size_t index, unsigned member)
{
    (void)job;
    (void)index;
    sigset_t mask;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
    CHECK(sigismember(&mask, SIGINT) == (member == 0 ? 0 : 1));
    return PD_OK;
}

static void
workers_block_signals(void)
{
    CHECK(pd_team_run(4, COUNT, check_mask, NULL, NULL, NULL) == PD_OK);
}

static void
idle_threads_end(void)
{
    pd_team_set_idle_ns(1000000);
    reset();
    CHECK(pd_team_run(4, COUNT, hit, &t, NULL, NULL) == PD_OK);
    while (pd_team_threads() > 0) {
        sched_yield();
    }
    reset();
    CHECK(pd_team_run(4, COUNT, hit, &t, NULL, NULL) == PD_OK);
    CHECK(t.begun == COUNT);
    pd_team_set_idle_ns(5000000000);
}

static void
shutdown_ends_every_thread(void)
{
    reset();
    CHECK(pd_team_run(4, COUNT, hit, &t, NULL, NULL) == PD_OK);
    pd_team_shutdown();
    CHECK(pd_team_threads() == 0);
}

#ifndef PD_TEST_NO_FORK  // ThreadSanitizer cannot start threads after a fork
static void
a_forked_child_builds_its_own_team(void)
{
    reset();
    CHECK(pd_team_run(4, COUNT, hit, &t, NULL, NULL) == PD_OK);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        reset();
        bool empty = pd_team_threads() == 0;
        bool ran = pd_team_run(4, COUNT, hit, &t, NULL, NULL) == PD_OK;
        _exit(empty && ran && t.begun == COUNT ? 0 : 1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(pd_team_run(4, COUNT, hit, &t, NULL, NULL) == PD_OK);
}

static pd_status
slow_hit(void *job, size_t index, unsigned member)
{
    if (index == 0) {
        const struct timespec poll_is_due = {0, 2 * PD_TEAM_POLL_NS};
        nanosleep(&poll_is_due, NULL);
    }
    return hit(job, index, member);
}

static pd_status
fork_once(void *arg)
{
    pid_t *child = arg;
    if (*child < 0) {
        *child = fork();
    }
    return PD_OK;
}

static void
a_loop_that_runs_alone_goes_on_in_a_forked_child(void)
{
    pid_t child = -1;
    reset();
    pd_status status = pd_team_run(1, COUNT, slow_hit, &t, fork_once, &child);
    if (child == 0) {
        _exit(status == PD_OK && t.begun == COUNT ? 0 : 1);
    }
    int code = 0;
    CHECK(child > 0 && status == PD_OK);
    CHECK(waitpid(child, &code, 0) == child && code == 0);
}

static pid_t child_of_poll = -1;

static pd_status
fork_in_poll(void *arg)
{
    (void)arg;
    atomic_store(&release, true);
    if (child_of_poll < 0) {
        child_of_poll = fork();
        CHECK(child_of_poll >= 0);
    }
    return PD_OK;
}

static void
fork_inside_a_loop_gives_the_child_an_error_and_not_a_hang(void)
{
    for (int attempt = 0; attempt < 100 && child_of_poll < 0; attempt++) {
        atomic_store(&release, false);
        pd_status status =
            pd_team_run(2, COUNT, slow_for_the_caller, NULL, fork_in_poll, NULL);
        if (child_of_poll == 0) {
            _exit(status == PD_EFORKED ? 0 : 1);
        }
        CHECK(status == PD_OK);
        atomic_store(&release, true);
    }
    int status = 0;
    CHECK(child_of_poll > 0);
    CHECK(waitpid(child_of_poll, &status, 0) == child_of_poll && status == 0);
}
#endif

int
main(void)
{
    RUN(every_index_runs_once);
    RUN(no_members_is_refused);
    RUN(a_failure_ends_the_loop_and_is_returned);
    RUN(poll_is_called_while_waiting_and_can_cancel);
    RUN(a_loop_that_has_ended_is_not_polled);
    RUN(nested_loops_run_inline);
    RUN(callers_share_the_team);
    RUN(workers_block_signals);
    RUN(idle_threads_end);
    RUN(shutdown_ends_every_thread);
#ifndef PD_TEST_NO_FORK
    RUN(a_forked_child_builds_its_own_team);
    RUN(a_loop_that_runs_alone_goes_on_in_a_forked_child);
    RUN(fork_inside_a_loop_gives_the_child_an_error_and_not_a_hang);
#endif
    pd_team_shutdown();
    return 0;
}
