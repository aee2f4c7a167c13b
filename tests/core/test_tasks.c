// Latch and task queue: every task once, threads on demand, nothing lost when they park,
// close, stop, give up a seat or fork.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "check.h"
#include "thread/latch.h"
#include "thread/tasks.h"

#define COUNT 20000
#define MAX_THREADS 16

// A pool of plain threads; `exclusive` plays Python's lock.
typedef struct pool {
    pd_tasks *tasks;
    pthread_mutex_t exclusive;
    bool has_exclusive;
    pthread_t ids[256];
    _Atomic unsigned started;
    unsigned may_start;  // how many threads the system gives
} pool;

typedef struct job {
    pd_task task;
    pool *owner;
    _Atomic unsigned runs;
    _Atomic int parts;  // a loop of so many parts; 0: a single task
    unsigned total;     // the same number, unchanged
    pd_tasks_end again;
    unsigned plain;  // not atomic: TSan proves that the latch orders it
    bool gives_up;
    pd_latch *block;
    pd_latch done;
} job;

static void
attach(void *thread)
{
    pool *p = thread;
    if (p->has_exclusive) {
        pthread_mutex_lock(&p->exclusive);
    }
}

static void
detach(void *thread)
{
    pool *p = thread;
    if (p->has_exclusive) {
        pthread_mutex_unlock(&p->exclusive);
    }
}

static void
block(pool *p, pd_latch *latch)
{
    detach(p);
    CHECK(pd_latch_wait(latch, PD_FOREVER) == PD_OK);
    attach(p);
}

static bool
run(void *thread, pd_task *task)
{
    pool *p = thread;
    job *self = (job *)task;
    CHECK(p == self->owner);
    int left = atomic_fetch_sub(&self->parts, 1);
    if (left > 1) {
        CHECK(pd_tasks_push(p->tasks, task, self->again) == PD_OK);
    }
    if (self->block != NULL) {
        block(p, self->block);
    }
    unsigned before = atomic_fetch_add(&self->runs, 1);
    if (self->total == 0 || before + 1 == self->total) {
        self->plain = before + 1;
        if (self->gives_up) {
            pd_tasks_give_up(p->tasks);
        }
        pd_latch_set(&self->done);
        return !self->gives_up;
    }
    return true;
}

static void *
thread_main(void *arg)
{
    attach(arg);
    pd_tasks_work(((pool *)arg)->tasks, arg);
    detach(arg);
    return NULL;
}

static bool
start_thread(void *context)
{
    pool *p = context;
    unsigned index = atomic_fetch_add(&p->started, 1);
    if (index >= p->may_start) {
        atomic_fetch_sub(&p->started, 1);
        return false;
    }
    CHECK(pthread_create(&p->ids[index], NULL, thread_main, p) == 0);
    return true;
}

static const pd_tasks_hooks hooks = {attach, detach, run, start_thread};

static void
open_pool(pool *p, unsigned workers, bool exclusive)
{
    memset(p, 0, sizeof(*p));
    CHECK(pthread_mutex_init(&p->exclusive, NULL) == 0);
    p->has_exclusive = exclusive;
    p->may_start = 256;
    CHECK(pd_tasks_create(&hooks, p, workers, exclusive ? 1 : workers, &p->tasks) ==
          PD_OK);
}

static void
join_pool(pool *p)
{
    pd_tasks_close(p->tasks);
    pd_tasks_drain(p->tasks);
    for (unsigned i = 0; i < p->started; i++) {
        CHECK(pthread_join(p->ids[i], NULL) == 0);
    }
    CHECK(pd_tasks_get_info(p->tasks).workers == 0);
    CHECK(pd_tasks_get_info(p->tasks).queued == 0);
    pd_tasks_destroy(p->tasks);
    pthread_mutex_destroy(&p->exclusive);
}

static void
push(pool *p, job *one, pd_tasks_end end)
{
    one->owner = p;
    attach(p);
    CHECK(pd_tasks_push(p->tasks, &one->task, end) == PD_OK);
    detach(p);
}

static job jobs[COUNT];

static void
wait_for(pool *p, job *one)
{
    pd_tasks_note_waiter(p->tasks, 1);
    CHECK(pd_latch_wait(&one->done, PD_FOREVER) == PD_OK);
    pd_tasks_note_waiter(p->tasks, -1);
    pd_tasks_let_detach(p->tasks);
}

// ------------------------------------------------------------------------------

static void
a_latch_waits_until_it_is_set(void)
{
    pd_latch latch = PD_LATCH_INIT;
    CHECK(!pd_latch_is_set(&latch));
    CHECK(pd_latch_wait(&latch, 0) == PD_ETIMEDOUT);
    int64_t start = pd_now_ns();
    CHECK(pd_latch_wait(&latch, 20000000) == PD_ETIMEDOUT);
    CHECK(pd_now_ns() - start >= 20000000);
    pd_latch_set(&latch);
    CHECK(pd_latch_is_set(&latch));
    CHECK(pd_latch_wait(&latch, PD_FOREVER) == PD_OK);
    pd_latch_clear(&latch);
    CHECK(!pd_latch_is_set(&latch));
    CHECK(pd_latch_wait(&latch, 1000) == PD_ETIMEDOUT);
}

static pd_latch ping = PD_LATCH_INIT;
static pd_latch pong = PD_LATCH_INIT;
static int ball;

static void *
answer(void *unused)
{
    for (int i = 0; i < 2000; i++) {
        CHECK(pd_latch_wait(&ping, PD_FOREVER) == PD_OK);
        pd_latch_clear(&ping);
        CHECK(ball++ == 2 * i);
        pd_latch_set(&pong);
    }
    return unused;
}

static void
latches_order_what_was_written_before(void)
{
    pthread_t id;
    CHECK(pthread_create(&id, NULL, answer, NULL) == 0);
    for (int i = 0; i < 2000; i++) {
        pd_latch_set(&ping);
        CHECK(pd_latch_wait(&pong, PD_FOREVER) == PD_OK);
        pd_latch_clear(&pong);
        CHECK(ball++ == 2 * i + 1);
    }
    CHECK(pthread_join(id, NULL) == 0);
}

static void
every_task_runs_once(void)
{
    for (unsigned workers = 1; workers <= MAX_THREADS; workers *= 2) {
        for (int exclusive = 0; exclusive <= 1; exclusive++) {
            pool p;
            open_pool(&p, workers, exclusive);
            memset(jobs, 0, sizeof(jobs));
            for (int i = 0; i < COUNT; i++) {
                push(&p, &jobs[i], PD_TASKS_BACK);
            }
            for (int i = 0; i < COUNT; i++) {
                wait_for(&p, &jobs[i]);
                CHECK(jobs[i].runs == 1 && jobs[i].plain == 1);
            }
            CHECK(p.started <= workers);
            join_pool(&p);
        }
    }
}

static void
round_trips_find_parked_threads(void)
{
    for (int exclusive = 0; exclusive <= 1; exclusive++) {
        pool p;
        open_pool(&p, 4, exclusive);
        memset(jobs, 0, sizeof(jobs));
        for (int i = 0; i < 2000; i++) {
            push(&p, &jobs[i], PD_TASKS_BACK);
            wait_for(&p, &jobs[i]);
            if (i % 100 == 0) {
                usleep(1000);  // long enough for all to park
            }
        }
        join_pool(&p);
    }
}

static void
a_loop_is_shared_and_ends_once(void)
{
    for (int exclusive = 0; exclusive <= 1; exclusive++) {
        for (int end = PD_TASKS_AGAIN; end <= PD_TASKS_FRONT; end++) {
            pool p;
            open_pool(&p, 4, exclusive);
            job loop = {.parts = COUNT, .total = COUNT, .again = (pd_tasks_end)end};
            push(&p, &loop, PD_TASKS_BACK);
            wait_for(&p, &loop);
            CHECK(loop.runs == COUNT && loop.plain == COUNT);
            join_pool(&p);
        }
    }
}

// Tasks that let go of the lock: as many threads run as there are tasks.
static void
blocked_tasks_bring_in_more_threads(void)
{
    pool p;
    open_pool(&p, 8, true);
    pd_latch gate = PD_LATCH_INIT;
    memset(jobs, 0, sizeof(jobs));
    for (int i = 0; i < 7; i++) {
        jobs[i].block = &gate;
        push(&p, &jobs[i], PD_TASKS_BACK);
    }
    push(&p, &jobs[7], PD_TASKS_BACK);
    wait_for(&p, &jobs[7]);  // the eighth thread runs it while seven are stuck
    pd_latch_set(&gate);
    for (int i = 0; i < 7; i++) {
        wait_for(&p, &jobs[i]);
    }
    CHECK(p.started == 8);
    join_pool(&p);
}

static void
taken_tasks_do_not_run(void)
{
    pool p;
    open_pool(&p, 1, true);
    pd_latch gate = PD_LATCH_INIT;
    job first = {.block = &gate};
    job second = {.plain = 0};
    push(&p, &first, PD_TASKS_BACK);
    push(&p, &second, PD_TASKS_BACK);
    CHECK(pd_tasks_take(p.tasks, &second.task));
    CHECK(!pd_tasks_take(p.tasks, &second.task));
    pd_latch_set(&gate);
    join_pool(&p);
    CHECK(first.runs == 1 && second.runs == 0);
}

static void
a_closed_queue_runs_what_it_has_and_takes_no_more(void)
{
    pool p;
    open_pool(&p, 3, true);
    memset(jobs, 0, sizeof(jobs));
    pd_latch gate = PD_LATCH_INIT;
    for (int i = 0; i < 100; i++) {
        jobs[i].block = &gate;
        push(&p, &jobs[i], PD_TASKS_BACK);
    }
    pd_tasks_close(p.tasks);
    job late = {.owner = &p};
    CHECK(pd_tasks_push(p.tasks, &late.task, PD_TASKS_BACK) == PD_ECLOSED);
    pd_latch_set(&gate);
    join_pool(&p);
    for (int i = 0; i < 100; i++) {
        CHECK(jobs[i].runs == 1);
    }
    CHECK(late.runs == 0);
}

static void
a_stopped_queue_gives_its_tasks_back(void)
{
    pool p;
    open_pool(&p, 1, true);
    pd_latch gate = PD_LATCH_INIT;
    job first = {.block = &gate};
    push(&p, &first, PD_TASKS_BACK);
    memset(jobs, 0, sizeof(jobs));
    while (pd_tasks_get_info(p.tasks).queued > 0) {
        usleep(100);
    }
    for (int i = 0; i < 10; i++) {
        push(&p, &jobs[i], PD_TASKS_BACK);
    }
    pd_task *chain = pd_tasks_stop(p.tasks);
    for (int i = 0; i < 10; i++) {
        CHECK(chain == &jobs[i].task);
        chain = chain->next;
    }
    CHECK(chain == NULL);
    CHECK(pd_tasks_stop(p.tasks) == NULL && pd_tasks_take_all(p.tasks) == NULL);
    CHECK(pd_tasks_push(p.tasks, &first.task, PD_TASKS_AGAIN) == PD_ECLOSED);
    pd_latch_set(&gate);
    join_pool(&p);
}

static void
holds_keep_threads_until_drained(void)
{
    pool p;
    open_pool(&p, 2, true);
    job first = {.plain = 0};
    push(&p, &first, PD_TASKS_BACK);
    wait_for(&p, &first);
    pd_tasks_hold(p.tasks, true);
    pd_tasks_close(p.tasks);
    usleep(20000);
    job again = {.owner = &p};
    push(&p, &again, PD_TASKS_AGAIN);  // there still is somebody to run it
    wait_for(&p, &again);
    join_pool(&p);  // drains
    pool q;
    open_pool(&q, 2, true);
    pd_tasks_hold(q.tasks, true);
    pd_tasks_hold(q.tasks, false);
    join_pool(&q);
}

static void
a_seat_given_up_is_filled_again(void)
{
    pool p;
    open_pool(&p, 1, true);
    memset(jobs, 0, sizeof(jobs));
    for (int i = 0; i < 50; i++) {
        jobs[i].gives_up = i % 2 == 0;
        push(&p, &jobs[i], PD_TASKS_BACK);
        wait_for(&p, &jobs[i]);
    }
    CHECK(p.started > 1);
    join_pool(&p);
}

static void
without_threads_a_push_fails_and_forgets(void)
{
    pool p;
    open_pool(&p, 2, false);
    p.may_start = 0;
    job one = {.owner = &p};
    CHECK(pd_tasks_push(p.tasks, &one.task, PD_TASKS_BACK) == PD_EOS);
    CHECK(pd_tasks_get_info(p.tasks).queued == 0);
    p.may_start = 1;  // one is enough
    job two = {.plain = 0};
    push(&p, &two, PD_TASKS_BACK);
    pd_tasks_fill(p.tasks);
    wait_for(&p, &two);
    join_pool(&p);
}

static void
bad_sizes_and_no_memory_are_refused(void)
{
    pd_tasks *q = NULL;
    CHECK(pd_tasks_create(&hooks, NULL, 0, 1, &q) == PD_EINVAL);
    CHECK(pd_tasks_create(&hooks, NULL, 1, 0, &q) == PD_EINVAL);
    pd_fault_after(1);
    CHECK(pd_tasks_create(&hooks, NULL, 1, 1, &q) == PD_ENOMEM);
    pd_fault_after(0);
    CHECK(q == NULL);
    pd_tasks_destroy(NULL);
}

#ifndef PD_TEST_NO_FORK
static void
a_child_can_use_and_drop_its_copy(void)
{
    pool p;
    open_pool(&p, 2, true);
    job first = {.plain = 0};
    push(&p, &first, PD_TASKS_BACK);
    wait_for(&p, &first);
    usleep(10000);  // detached: the child can take `exclusive`
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        p.started = 0;
        CHECK(pd_tasks_get_info(p.tasks).workers == 0);
        job second = {.plain = 0};
        push(&p, &second, PD_TASKS_BACK);
        wait_for(&p, &second);
        join_pool(&p);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    join_pool(&p);
}
#endif

int
main(void)
{
    RUN(a_latch_waits_until_it_is_set);
    RUN(latches_order_what_was_written_before);
    RUN(every_task_runs_once);
    RUN(round_trips_find_parked_threads);
    RUN(a_loop_is_shared_and_ends_once);
    RUN(blocked_tasks_bring_in_more_threads);
    RUN(taken_tasks_do_not_run);
    RUN(a_closed_queue_runs_what_it_has_and_takes_no_more);
    RUN(a_stopped_queue_gives_its_tasks_back);
    RUN(holds_keep_threads_until_drained);
    RUN(a_seat_given_up_is_filled_again);
    RUN(without_threads_a_push_fails_and_forgets);
    RUN(bad_sizes_and_no_memory_are_refused);
#ifndef PD_TEST_NO_FORK
    RUN(a_child_can_use_and_drop_its_copy);
#endif
    CHECK(pd_live_allocs() == 0);
    return 0;
}
