// Recycled blocks: usable to the last byte, re-used, held up to the limit and no more.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/recycle.h"
#include "check.h"

#define MIB ((size_t)1 << 20)

static void
blocks_are_aligned_and_usable(void)
{
    const size_t sizes[] = {0,       1,          63, 4096, MIB - 1, MIB, 2 * MIB - 64,
                            2 * MIB, 5 * MIB + 3};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        unsigned char *block = pd_recycle_alloc(sizes[i]);
        CHECK(block != NULL && (uintptr_t)block % 64 == 0);
        memset(block, 0xa5, sizes[i]);
        pd_recycle_free(block);
        block = pd_recycle_calloc(sizes[i]);
        CHECK(block != NULL);
        for (size_t k = 0; k < sizes[i]; k++) {
            CHECK(block[k] == 0);
        }
        pd_recycle_free(block);
    }
    pd_recycle_free(NULL);
    CHECK(pd_recycle_alloc(SIZE_MAX) == NULL);
    CHECK(pd_recycle_alloc(SIZE_MAX / 2 - 1) == NULL);
}

static void
a_freed_block_comes_back(void)
{
    pd_recycle_set_limit(0);  // gives back what other tests left
    pd_recycle_set_limit(PD_RECYCLE_LIMIT_BYTES);
    void *first = pd_recycle_alloc(8 * MIB);
    pd_recycle_free(first);
    CHECK(pd_recycle_get_state().held >= 8 * MIB);
    void *second = pd_recycle_alloc(8 * MIB - 1000);
    CHECK(second == first);
    // Much too large a block is not wasted on a small request.
    void *small = pd_recycle_alloc(MIB);
    pd_recycle_free(second);
    void *other = pd_recycle_alloc(2 * MIB);
    CHECK(other != second);
    pd_recycle_free(small);
    pd_recycle_free(other);
}

static void
the_limit_holds(void)
{
    void *blocks[100];
    pd_recycle_set_limit(20 * MIB);
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = pd_recycle_alloc(MIB + i * 10000);
        CHECK(blocks[i] != NULL);
    }
    for (size_t i = 0; i < 100; i++) {
        pd_recycle_free(blocks[i]);
        CHECK(pd_recycle_get_state().held <= 20 * MIB);
    }
    CHECK(pd_recycle_get_state().held > 0);
    pd_recycle_set_limit(0);
    CHECK(pd_recycle_get_state().held == 0);
    pd_recycle_free(pd_recycle_alloc(4 * MIB));
    CHECK(pd_recycle_get_state().held == 0);
    pd_recycle_set_limit(PD_RECYCLE_LIMIT_BYTES);
}

static void
realloc_keeps_the_content(void)
{
    const size_t sizes[] = {10, 100000, MIB, 7 * MIB, 3 * MIB, 50};
    unsigned char *block = pd_recycle_realloc(NULL, 10);
    memset(block, 7, 10);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        block = pd_recycle_realloc(block, sizes[i]);
        CHECK(block != NULL);
        for (size_t k = 0; k < 10; k++) {
            CHECK(block[k] == 7);
        }
    }
    CHECK(pd_recycle_realloc(block, SIZE_MAX) == NULL && block[0] == 7);
    pd_recycle_free(block);
}

#ifndef PD_TEST_NO_FORK
static _Atomic bool forking;

static void *
take_and_free(void *arg)
{
    while (atomic_load(&forking)) {
        pd_recycle_free(pd_recycle_alloc(MIB));
    }
    return arg;
}

static void
a_fork_finds_the_lock_free(void)
{
    pthread_t id;
    atomic_store(&forking, true);
    CHECK(pthread_create(&id, NULL, take_and_free, NULL) == 0);
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(20);  // a locked mutex would hang it
            pd_recycle_free(pd_recycle_alloc(2 * MIB));
            _exit(pd_recycle_get_state().held > 0 ? 0 : 1);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    atomic_store(&forking, false);
    CHECK(pthread_join(id, NULL) == 0);
}
#endif

static void *
churn(void *arg)
{
    size_t seed = (size_t)(uintptr_t)arg;
    for (size_t i = 0; i < 200; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t bytes = MIB + (seed >> 40) % (3 * MIB);
        unsigned char *block = pd_recycle_alloc(bytes);
        CHECK(block != NULL);
        block[0] = block[bytes - 1] = (unsigned char)i;
        CHECK(block[0] == (unsigned char)i && block[bytes - 1] == (unsigned char)i);
        pd_recycle_free(block);
    }
    return NULL;
}

static void
threads_may_share_it(void)
{
    pthread_t ids[4];
    for (uintptr_t i = 0; i < 4; i++) {
        CHECK(pthread_create(&ids[i], NULL, churn, (void *)(i + 1)) == 0);
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK(pthread_join(ids[i], NULL) == 0);
    }
}

int
main(void)
{
    RUN(blocks_are_aligned_and_usable);
    RUN(a_freed_block_comes_back);
    RUN(the_limit_holds);
    RUN(realloc_keeps_the_content);
    RUN(threads_may_share_it);
#ifndef PD_TEST_NO_FORK
    RUN(a_fork_finds_the_lock_free);
#endif
    pd_recycle_set_limit(0);
    return 0;
}
