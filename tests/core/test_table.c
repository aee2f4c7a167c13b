// The shared table: what a dict does, growth, pins, claims, and threads.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "shm/layout.h"
#include "table_case.h"
#include "thread/sync.h"

#define WAIT_NS 5000000000

static pd_status
put_int(pd_table *table, const char *text, int64_t number)
{
    pd_key key = text_key(table, text);
    pd_value value = {
        .type = PD_VALUE_INT, .size = 8, .data = &number, .pin = PD_NO_PIN};
    return pd_table_put(table, &key, &value, PD_ALWAYS, 0, WAIT_NS);
}

static int64_t
get_int(pd_table *table, const char *text)
{
    pd_key key = text_key(table, text);
    pd_found found;
    int64_t number;
    CHECK(pd_table_get(table, &key, WAIT_NS, &found) == PD_OK);
    CHECK(found.type == PD_VALUE_INT && found.size == 8);
    memcpy(&number, found.data, 8);
    return number;
}

static void
values_of_every_size(void)
{
    static const size_t sizes[] = {0,    1,    15,   16,   17,    100,    1023,   1024,
                                   1025, 2000, 4096, 5000, 70000, 300000, 5 << 20};
    unsigned char *data = pd_alloc(5 << 20, 1);
    for (size_t i = 0; i < 5 << 20; i++) {
        data[i] = (unsigned char)(i * 7);
    }
    pd_table *table;
    CHECK(pd_table_create(5, &table) == PD_OK);
    CHECK(pd_table_flags(table) == 5);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            size_t size = sizes[(i + (size_t)round * 4) % 15];
            char name[20];
            snprintf(name, sizeof(name), "key %zu", i);
            CHECK(put_bytes(table, name, data, size, WAIT_NS) == PD_OK);
            pd_key key = text_key(table, name);
            pd_found found;
            CHECK(pd_table_get(table, &key, WAIT_NS, &found) == PD_OK);
            CHECK(found.size == size && found.type == 9);
            CHECK(memcmp(found.data, data, size) == 0);
            CHECK((found.pin != PD_NO_PIN) == (size > PD_SMALL_BYTES));
            if (found.pin != PD_NO_PIN) {
                pd_table_unpin(table, found.pin);
            }
        }
        CHECK(pd_table_count(table) == 15);
        CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    }
    pd_table_destroy(table);
    pd_free(data);
}

static void
keys_of_every_size(void)
{
    pd_table *table;
    char text[3000];
    memset(text, 'x', sizeof(text));
    CHECK(pd_table_create(0, &table) == PD_OK);
    for (int round = 0; round < 2; round++) {
        for (size_t size = 0; size < sizeof(text); size += size < 40 ? 1 : 97) {
            for (size_t extra = 0; extra < (size % 8 ? 1u : 40u); extra += 13) {
                pd_key key, other;
                uint64_t number = size * 100;
                pd_value value = {
                    .type = 9, .size = 8, .data = &number, .pin = PD_NO_PIN};
                pd_table_key(table, 1, text, size, extra, &key);
                CHECK(pd_table_put(table, &key, &value, PD_ALWAYS, 0, WAIT_NS) ==
                      PD_OK);
                // Another kind, and extra bytes that differ.
                pd_table_key(table, 2, text, size, 0, &other);
                CHECK(pd_table_has(table, &other, WAIT_NS) == PD_EABSENT);
                pd_table_key(table, 1, text, size, 0, &other);
                pd_found found;
                CHECK(pd_table_get(table, &other, WAIT_NS, &found) == PD_OK);
                CHECK(memcmp(found.data, &number, 8) == 0);
            }
        }
        CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    }
    CHECK(pd_table_clear(table, WAIT_NS) == PD_OK);
    CHECK(pd_table_count(table) == 0);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    pd_table_destroy(table);
}

static void
many_keys_come_and_go(void)
{
    enum { MANY = 30000 };
    pd_table *table;
    char name[60];
    CHECK(pd_table_create(0, &table) == PD_OK);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "a key of some length, number %d", i);
        CHECK(put_int(table, name, i) == PD_OK);
    }
    CHECK(pd_table_count(table) == MANY);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "a key of some length, number %d", i);
        CHECK(get_int(table, name) == i);
        if (i % 3) {
            pd_key key = text_key(table, name);
            pd_found found;
            CHECK(pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, &found) == PD_OK);
            CHECK(found.size == 8 && pd_table_has(table, &key, WAIT_NS) == PD_EABSENT);
            CHECK(pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, NULL) ==
                  PD_EABSENT);
        }
    }
    CHECK(pd_table_count(table) == MANY / 3);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    // One key that comes and goes leaves nothing behind.
    size_t bytes = pd_table_bytes(table);
    for (int i = 0; i < 10 * MANY; i++) {
        snprintf(name, sizeof(name), "another key of some length, number %d", i);
        pd_key key = text_key(table, name);
        CHECK(put_int(table, name, i) == PD_OK);
        CHECK(pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, NULL) == PD_OK);
    }
    CHECK(pd_table_bytes(table) <= bytes + (2 << 20));
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    pd_listing listing;
    CHECK(pd_table_list(table, true, false, WAIT_NS, &listing) == PD_OK);
    CHECK(listing.count == MANY / 3);
    for (size_t i = 0; i < listing.count; i++) {  // oldest first
        int64_t number;
        memcpy(&number, listing.bytes + listing.entries[i].value, 8);
        CHECK(number == (int64_t)i * 3);
    }
    pd_listing_free(table, &listing);
    pd_table_destroy(table);
}

static void
conditional_writes(void)
{
    pd_table *table;
    pd_found found;
    int64_t number = 1;
    pd_value value = {
        .type = PD_VALUE_INT, .size = 8, .data = &number, .pin = PD_NO_PIN};
    CHECK(pd_table_create(0, &table) == PD_OK);
    pd_key key = text_key(table, "key");
    CHECK(pd_table_put(table, &key, &value, PD_IF_VERSION, 1, WAIT_NS) == PD_ECHANGED);
    CHECK(pd_table_put(table, &key, &value, PD_IF_ABSENT, 0, WAIT_NS) == PD_OK);
    CHECK(pd_table_put(table, &key, &value, PD_IF_ABSENT, 0, WAIT_NS) == PD_ECHANGED);
    CHECK(pd_table_get(table, &key, WAIT_NS, &found) == PD_OK);
    uint64_t version = found.version;
    CHECK(pd_table_put(table, &key, &value, PD_IF_VERSION, version, WAIT_NS) == PD_OK);
    CHECK(pd_table_put(table, &key, &value, PD_IF_VERSION, version, WAIT_NS) ==
          PD_ECHANGED);
    CHECK(pd_table_remove(table, &key, PD_IF_VERSION, version, WAIT_NS, NULL) ==
          PD_ECHANGED);
    CHECK(pd_table_count(table) == 1);
    pd_table_destroy(table);
}

static void
sums(void)
{
    pd_table *table;
    CHECK(pd_table_create(0, &table) == PD_OK);
    pd_key key = text_key(table, "count"), real = text_key(table, "real");
    int64_t term = 5;
    CHECK(pd_table_add(table, &key, PD_VALUE_INT, &term, WAIT_NS) == PD_OK &&
          term == 5);
    term = -7;
    CHECK(pd_table_add(table, &key, PD_VALUE_INT, &term, WAIT_NS) == PD_OK &&
          term == -2);
    term = INT64_MIN;
    CHECK(pd_table_add(table, &key, PD_VALUE_INT, &term, WAIT_NS) == PD_EINVAL);
    CHECK(term == INT64_MIN && get_int(table, "count") == -2);
    double number = 0.5;
    CHECK(pd_table_add(table, &key, PD_VALUE_FLOAT, &number, WAIT_NS) == PD_EINVAL);
    CHECK(pd_table_add(table, &real, PD_VALUE_FLOAT, &number, WAIT_NS) == PD_OK);
    CHECK(pd_table_add(table, &real, PD_VALUE_FLOAT, &number, WAIT_NS) == PD_OK);
    CHECK(number == 1.0);
    pd_table_destroy(table);
}

static void
pins_keep_what_was_read(void)
{
    enum { COUNT = 1200, SIZE = 3000 };
    static unsigned char data[SIZE];
    static int64_t pins[COUNT];
    static const unsigned char *seen[COUNT];
    pd_table *table;
    CHECK(pd_table_create(0, &table) == PD_OK);
    pd_key key = text_key(table, "key");
    for (int i = 0; i < COUNT; i++) {
        memset(data, i & 0xff, SIZE);
        CHECK(put_bytes(table, "key", data, SIZE, WAIT_NS) == PD_OK);
        pd_found found;
        CHECK(pd_table_get(table, &key, WAIT_NS, &found) == PD_OK);
        pins[i] = found.pin;
        seen[i] = found.data;
    }
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    pd_found last;
    CHECK(pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, &last) == PD_OK);
    CHECK(last.size == SIZE && memcmp(last.data, data, SIZE) == 0);
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < SIZE; j++) {
            CHECK(seen[i][j] == (i & 0xff));
        }
        pd_table_unpin(table, pins[i]);
    }
    pd_table_unpin(table, last.pin);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    size_t bytes = pd_table_bytes(table);
    for (int i = 0; i < COUNT; i++) {
        CHECK(put_bytes(table, "key", data, SIZE, WAIT_NS) == PD_OK);
    }
    CHECK(pd_table_bytes(table) == bytes);
    pd_table_destroy(table);
}

static void
listings_of_large_values(void)
{
    enum { COUNT = 1500, SIZE = 1100 };
    static unsigned char data[SIZE];
    pd_table *table;
    CHECK(pd_table_create(0, &table) == PD_OK);
    for (int i = 0; i < COUNT; i++) {
        char name[20];
        snprintf(name, sizeof(name), "%d", i);
        memset(data, i & 0xff, SIZE);
        CHECK(put_bytes(table, name, data, SIZE, WAIT_NS) == PD_OK);
    }
    for (int at_once = 0; at_once < 2; at_once++) {
        pd_listing listing;
        CHECK(pd_table_list(table, true, at_once, WAIT_NS, &listing) == PD_OK);
        CHECK(listing.count == COUNT);
        CHECK(pd_table_clear(table, WAIT_NS) == PD_OK);
        for (size_t i = 0; i < listing.count; i++) {
            const unsigned char *bytes = listing.entries[i].data;
            CHECK(listing.entries[i].size == SIZE);
            CHECK(bytes[0] == (i & 0xff) && bytes[SIZE - 1] == (i & 0xff));
        }
        CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
        pd_listing_free(table, &listing);
        CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
        for (int i = 0; i < COUNT; i++) {
            char name[20];
            snprintf(name, sizeof(name), "%d", i);
            memset(data, i & 0xff, SIZE);
            CHECK(put_bytes(table, name, data, SIZE, WAIT_NS) == PD_OK);
        }
    }
    pd_table_destroy(table);
}

static void *
find_claimed(void *arg)
{
    pd_table *table = arg;
    pd_key key = text_key(table, "key");
    int64_t term = 1;
    CHECK(pd_table_claim(table, &key, WAIT_NS) == PD_ECLAIMED);
    CHECK(put_int(table, "key", 2) == PD_ECLAIMED);
    CHECK(pd_table_add(table, &key, PD_VALUE_INT, &term, WAIT_NS) == PD_ECLAIMED);
    CHECK(pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, NULL) == PD_ECLAIMED);
    CHECK(pd_table_release(table, &key, WAIT_NS) == PD_EABSENT);
    CHECK(pd_table_clear(table, WAIT_NS) == PD_OK);
    CHECK(get_int(table, "key") == 1);
    CHECK(put_int(table, "another", 3) == PD_OK);
    return NULL;
}

static void
claims(void)
{
    pd_table *table;
    pthread_t thread;
    CHECK(pd_table_create(0, &table) == PD_OK);
    pd_key key = text_key(table, "key");
    CHECK(pd_table_release(table, &key, WAIT_NS) == PD_EABSENT);
    CHECK(pd_table_claim(table, &key, WAIT_NS) == PD_OK);
    CHECK(pd_table_count(table) == 0);
    CHECK(pd_table_claim(table, &key, WAIT_NS) == PD_EINVAL);
    CHECK(put_int(table, "key", 1) == PD_OK);
    CHECK(pthread_create(&thread, NULL, find_claimed, table) == 0);
    pthread_join(thread, NULL);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    CHECK(pd_table_release(table, &key, WAIT_NS) == PD_OK);
    CHECK(pd_table_release(table, &key, WAIT_NS) == PD_EABSENT);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    CHECK(pd_table_clear(table, WAIT_NS) == PD_OK);
    CHECK(pd_table_count(table) == 0);
    pd_table_destroy(table);
}

// ---- Threads, which TSan watches ----

enum { THREADS = 4, STEPS = 3000 };

static void *
work(void *arg)
{
    pd_table *table = arg;
    static _Atomic unsigned numbers;
    unsigned seed = atomic_fetch_add(&numbers, 1) * 77 + 1;
    static unsigned char data[2000];
    for (int i = 0; i < STEPS; i++) {
        seed = seed * 1664525 + 1013904223;
        char name[60];
        // Some keys are long; there are few, so that all meet.
        snprintf(name, sizeof(name),
                 seed & 64 ? "%u" : "%u, a key that is too long for a slot",
                 (seed >> 8) % 40);
        pd_key key = text_key(table, name), sum = text_key(table, "sum");
        int64_t one = 1;
        CHECK(pd_table_add(table, &sum, PD_VALUE_INT, &one, WAIT_NS) == PD_OK);
        pd_found found;
        switch (seed >> 28) {
            case 0:
            case 1:
                CHECK(put_bytes(table, name, data, (seed >> 16) % 2000, WAIT_NS) ==
                      PD_OK);
                break;
            case 2:
            case 3: {
                pd_status status =
                    pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, &found);
                CHECK(status == PD_OK || status == PD_EABSENT);
                if (status == PD_OK && found.pin != PD_NO_PIN) {
                    pd_table_unpin(table, found.pin);
                }
                break;
            }
            case 4: {
                pd_listing listing;
                CHECK(pd_table_list(table, true, seed & 32, WAIT_NS, &listing) ==
                      PD_OK);
                pd_listing_free(table, &listing);
                break;
            }
            case 5:
            case 6:
                CHECK(put_int(table, name, (int64_t)seed) == PD_OK);
                break;
            default: {
                pd_status status = pd_table_get(table, &key, WAIT_NS, &found);
                CHECK(status == PD_OK || status == PD_EABSENT);
                if (status == PD_OK) {
                    unsigned char sum_of = 0;
                    for (size_t j = 0; j < found.size; j++) {
                        sum_of =
                            (unsigned char)(sum_of +
                                            ((const unsigned char *)found.data)[j]);
                    }
                    CHECK(found.type == PD_VALUE_INT || sum_of == 0);
                    if (found.pin != PD_NO_PIN) {
                        pd_table_unpin(table, found.pin);
                    }
                }
            }
        }
    }
    return NULL;
}

static void
threads_meet(void)
{
    pd_table *table;
    pthread_t threads[THREADS];
    CHECK(pd_table_create(0, &table) == PD_OK);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, table) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(get_int(table, "sum") == THREADS * STEPS);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    pd_table_destroy(table);
}

static atomic_bool heap_is_contended, heap_was_held;

// Takes the heap's lock again and again, after pauses in which others get some way or none.
static void *
hold_heap(void *arg)
{
    pd_table *table = arg;
    pd_lock *lock = &table->shared->heap.lock;
    const struct timespec hold = {.tv_nsec = 200000};
    int64_t pause_ns = 0;
    while (atomic_load(&heap_is_contended)) {
        bool died;
        CHECK(pd_lock_acquire(lock, WAIT_NS, &died) == PD_OK && !died);
        atomic_store(&heap_was_held, true);
        nanosleep(&hold, NULL);
        CHECK(pd_lock_release(lock) == PD_OK);
        pause_ns = (pause_ns + 7000) % 50000;
        for (int64_t until = pd_now_ns() + pause_ns; pd_now_ns() < until;) {
            pd_spin_pause();
        }
    }
    return NULL;
}

// A heap that is busy for long is waited for, as long as the caller allows.
static void
busy_heap(void)
{
    pd_table *table;
    pthread_t thread;
    CHECK(pd_table_create(0, &table) == PD_OK);
    atomic_store(&heap_is_contended, true);
    CHECK(pthread_create(&thread, NULL, hold_heap, table) == 0);
    while (!atomic_load(&heap_was_held)) {
        sched_yield();
    }
    char name[60];
    for (int i = 0; i < 100000; i++) {  // tables of slots are made anew many times
        snprintf(name, sizeof(name), "%d", i);
        CHECK(put_int(table, name, i) == PD_OK);
    }
    CHECK(pd_table_clear(table, WAIT_NS) == PD_OK);
    CHECK(pd_table_count(table) == 0);
    atomic_store(&heap_is_contended, false);
    pthread_join(thread, NULL);
    CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
    pd_table_destroy(table);
}

static void
attaching_checks(void)
{
    pd_table *table, *other;
    CHECK(pd_table_create(0, &table) == PD_OK);
    struct stat about;
    CHECK(fstat(pd_table_fd(table), &about) == 0 && (about.st_mode & 0777) == 0600);
    CHECK(ftruncate(pd_table_fd(table), 0) < 0);
    CHECK(put_int(table, "key", 42) == PD_OK);
    int fd = dup(pd_table_fd(table));
    CHECK(pd_table_attach(fd, &other) == PD_OK);
    CHECK(get_int(other, "key") == 42);
    // What one makes larger, the other sees.
    unsigned char *large = pd_calloc(6 << 20, 1);
    CHECK(put_bytes(table, "large", large, 6 << 20, WAIT_NS) == PD_OK);
    pd_key key = text_key(other, "large");
    pd_found found;
    CHECK(pd_table_get(other, &key, WAIT_NS, &found) == PD_OK);
    CHECK(memcmp(found.data, large, 6 << 20) == 0);
    pd_table_unpin(other, found.pin);
    pd_free(large);
    pd_table_destroy(other);
    pd_table_destroy(table);

    fd = memfd_create("foreign", MFD_ALLOW_SEALING);
    CHECK(pd_table_attach(fd, &other) == PD_ECORRUPT);
    CHECK(ftruncate(fd, 1 << 20) == 0);
    CHECK(pd_table_attach(fd, &other) == PD_ECORRUPT);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    CHECK(pd_table_attach(fd, &other) == PD_ECORRUPT);
    CHECK(fcntl(fd, F_GETFD) >= 0);  // still the caller's
    close(fd);
    fd = open("/dev/null", O_RDWR);
    CHECK(pd_table_attach(fd, &other) == PD_ECORRUPT);
    close(fd);
}

static void
memory_runs_out_here(void)
{
    long live = pd_live_allocs();
    for (long n = 1;; n++) {
        pd_fault_after(n);
        pd_table *table;
        pd_status status = pd_table_create(0, &table);
        if (status == PD_OK) {
            char big[5000] = {0};
            status = put_bytes(table, "key", big, sizeof(big), WAIT_NS);
            pd_listing listing;
            if (status == PD_OK) {
                status = pd_table_list(table, true, true, WAIT_NS, &listing);
            }
            if (status == PD_OK) {
                pd_listing_free(table, &listing);
            }
            pd_fault_after(0);
            CHECK(pd_table_audit(table, WAIT_NS) == PD_OK);
            pd_table_destroy(table);
        }
        pd_fault_after(0);
        CHECK(pd_live_allocs() == live);
        if (status == PD_OK) {
            break;
        }
        CHECK(status == PD_ENOMEM);
        CHECK(n < 100);
    }
}

int
main(void)
{
    RUN(values_of_every_size);
    RUN(keys_of_every_size);
    RUN(many_keys_come_and_go);
    RUN(conditional_writes);
    RUN(sums);
    RUN(pins_keep_what_was_read);
    RUN(listings_of_large_values);
    RUN(claims);
    RUN(threads_meet);
    RUN(busy_heap);
    RUN(attaching_checks);
    RUN(memory_runs_out_here);
    return 0;
}
