// Process identities, read from /proc/<pid>/stat where there is one.
//
// Fork: the handler counts, and the child, whose pid is another, forgets the cached id.
// The two are atomics, so that it may run whatever other threads were doing.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include "shm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static _Atomic unsigned forks;
static _Atomic uint64_t self;  // 0: not read yet

static void
forget_self(void)
{
    atomic_fetch_add(&forks, 1);
    atomic_store(&self, 0);
}

static void
register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, forget_self);
}

unsigned
pd_process_forks(void)
{
    pthread_once(&fork_once, register_fork_handler);
    return atomic_load(&forks);
}

// The state letter and the start time of a process; false if they cannot be read.
static bool
read_stat(pid_t pid, char *state, uint64_t *start)
{
    char path[48], text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t length = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (length <= 0) {
        return false;
    }
    text[length] = '\0';
    // The name, in parentheses, may contain anything; field 3 follows the last one.
    char *field = strrchr(text, ')');
    if (field == NULL || field[1] != ' ') {
        return false;
    }
    *state = field[2];
    field += 2;
    for (int i = 3; i < 22 && field != NULL; i++) {
        field = strchr(field + 1, ' ');
    }
    if (field == NULL) {
        return false;
    }
    *start = strtoull(field, NULL, 10);
    return true;
}

static pd_process_id
join_id(pid_t pid, uint64_t start)
{
    return start << PD_PID_BITS | ((uint64_t)pid & ((1u << PD_PID_BITS) - 1));
}

pd_process_id
pd_process_self(void)
{
    pthread_once(&fork_once, register_fork_handler);
    uint64_t known = atomic_load(&self);
    if (known != 0) {
        return known;
    }
    char state;
    uint64_t start = 0;
    pid_t pid = getpid();
    (void)read_stat(pid, &state, &start);
    known = join_id(pid, start);
    atomic_store(&self, known);
    return known;
}

uint64_t
pd_thread_self(void)
{
    static _Thread_local char mine;
    return (uint64_t)(uintptr_t)&mine;
}

bool
pd_process_alive(pd_process_id who)
{
    pid_t pid = (pid_t)(who & ((1u << PD_PID_BITS) - 1));
    char state;
    uint64_t start;
    if (pid <= 0) {
        return false;
    }
    if (read_stat(pid, &state, &start)) {
        uint64_t its_start = who >> PD_PID_BITS;
        bool same = its_start == 0 || join_id(pid, start) == who;
        return same && state != 'Z' && state != 'X';
    }
    return kill(pid, 0) == 0 || errno == EPERM;
}
