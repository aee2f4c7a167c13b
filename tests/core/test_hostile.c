// A damaged or hostile segment: any bytes of it may be anything, and all there is for it is
// an error.  Whatever is returned may be read, within its bounds, and nothing hangs.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "shm/layout.h"
#include "table_case.h"

#define WAIT_NS 100000
#define ROUNDS 400
#define SECONDS \
    15  // for each test at most: waiting for locks that make no sense is slow

static uint64_t state = 88172645463325252u;

static uint64_t
random_word(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void
put_fill(pd_table *table, const char *text, size_t size)
{
    static char data[5000];
    (void)put_bytes(table, text, data, size, WAIT_NS);
}

static void
names(int i, char *name, size_t size)
{
    static const char *const formats[] = {"%d",
                                          "%d, a name that needs a block of its own"};
    snprintf(name, size, formats[i % 2], i);
}

// Reads all that a value claims to be.
static volatile unsigned sum;

static void
touch(const void *data, uint64_t size)
{
    CHECK(size <= (uint64_t)1 << 30);
    for (uint64_t i = 0; i < size; i++) {
        sum += ((const unsigned char *)data)[i];
    }
}

// Every operation, on what is left.
static void
use(pd_table *table)
{
    char name[80];
    for (int i = 0; i < 30; i++) {
        names(i, name, sizeof(name));
        pd_key key = text_key(table, name);
        pd_found found;
        int64_t term = 1;
        if (pd_table_get(table, &key, WAIT_NS, &found) == PD_OK) {
            touch(found.data, found.size);
            if (found.pin != PD_NO_PIN) {
                pd_table_unpin(table, found.pin);
            }
        }
        (void)pd_table_has(table, &key, WAIT_NS);
        (void)pd_table_add(table, &key, PD_VALUE_INT, &term, WAIT_NS);
        put_fill(table, name, random_word() % 5000);
        if (pd_table_claim(table, &key, WAIT_NS) == PD_OK) {
            (void)pd_table_release(table, &key, WAIT_NS);
        }
        if (pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, &found) == PD_OK) {
            touch(found.data, found.size);
            if (found.pin != PD_NO_PIN) {
                pd_table_unpin(table, found.pin);
            }
        }
    }
    pd_listing listing;
    if (pd_table_list(table, true, true, WAIT_NS, &listing) == PD_OK) {
        for (size_t i = 0; i < listing.count; i++) {
            pd_entry *entry = &listing.entries[i];
            touch(listing.bytes + entry->key, entry->key_size + entry->key_extra);
            touch(entry->pin != PD_NO_PIN ? entry->data : listing.bytes + entry->value,
                  entry->size);
        }
        pd_listing_free(table, &listing);
    }
    (void)pd_table_reap(table, WAIT_NS);
    (void)pd_table_audit(table, WAIT_NS);
    (void)pd_table_clear(table, WAIT_NS);
}

// Values that are more likely to do harm than any.
static uint64_t
nasty_word(uint64_t old, size_t size)
{
    switch (random_word() % 8) {
        case 0:
            return random_word();
        case 1:
            return random_word() % (2 * size);
        case 2:
            return random_word() % (size / 64 + 1) * 64;
        case 3:
            return old ^ (uint64_t)1 << random_word() % 64;
        case 4:
            return UINT64_MAX - random_word() % 3;
        case 5:
            return 0;
        case 6:
            return old + random_word() % 129 - 64;
        default:
            return (uint64_t)1 << random_word() % 64;
    }
}

static pd_table *
make_table(void)
{
    pd_table *table;
    char name[80];
    CHECK(pd_table_create(0, &table) == PD_OK);
    for (int i = 0; i < 200; i++) {
        static const size_t sizes[] = {0, 8, 16, 100, 1000, 3000};
        names(i, name, sizeof(name));
        put_fill(table, name, sizes[i % 6]);
    }
    for (int i = 0; i < 100; i += 3) {
        names(i, name, sizeof(name));
        pd_key key = text_key(table, name);
        (void)pd_table_remove(table, &key, PD_ALWAYS, 0, WAIT_NS, NULL);
    }
    return table;
}

// `count` words of those from `first` on become nasty; the locks, whose own memory glibc
// links and unlinks, only while nobody uses them.
static void
damage(uint64_t *words, size_t first, size_t last, size_t count, size_t size)
{
    while (count-- > 0) {
        size_t i = first + random_word() % (last - first);
        words[i] = nasty_word(words[i], size);
    }
}

static void
any_words_are_nasty(void)
{
    int64_t until = pd_now_ns() + SECONDS * 1000000000LL;
    for (int round = 0; round < ROUNDS && pd_now_ns() < until; round++) {
        pd_table *table = make_table();
        size_t size = pd_table_bytes(table);
        uint64_t *words = (uint64_t *)(void *)table->shared;
        size_t count = 1 + random_word() % 40;
        size_t blocks = sizeof(pd_shared) / 8;
        size_t used = pd_load(&table->shared->heap.top) / 8;
        // The first window of a test build may end before the file does.
        used = used < (1 << 20) / 8 ? used : (1 << 20) / 8;
        if (round % 3 == 0) {
            damage(words, 8, blocks, count, size);
        }
        else if (round % 3 == 1) {
            damage(words, blocks, used, 20 * count, size);
        }
        else {
            damage(words, 8, used, 10 * count, size);
        }
        // Attached anew, as another process would.
        pd_table *other;
        int fd = dup(pd_table_fd(table));
        if (pd_table_attach(fd, &other) == PD_OK) {
            use(other);
            use(table);
            pd_table_destroy(other);
        }
        else {
            close(fd);
        }
        pd_table_destroy(table);
    }
}

static void
the_log_is_nasty(void)
{
    int64_t until = pd_now_ns() + SECONDS * 1000000000LL;
    for (int round = 0; round < ROUNDS && pd_now_ns() < until; round++) {
        pd_table *table = make_table();
        size_t size = pd_table_bytes(table);
        for (unsigned i = 0; i < PD_STRIPES; i++) {
            pd_stripe *stripe = &table->shared->stripes[i];
            damage((uint64_t *)(void *)&stripe->sequence, 0,
                   (sizeof(*stripe) - offsetof(pd_stripe, sequence)) / 8, 8, size);
            pd_store(&stripe->dirty, 1);
        }
        use(table);
        pd_table_destroy(table);
    }
}

static void
cut_short_or_mislabelled(void)
{
    for (size_t bytes = 0; bytes < 200000; bytes = bytes * 3 + 7) {
        for (int good = 0; good < 2; good++) {
            pd_table *table, *other;
            int fd = memfd_create("hostile", MFD_ALLOW_SEALING);
            CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
            CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
            CHECK(pd_table_create(0, &table) == PD_OK);
            if (good && bytes > 0) {
                size_t length = bytes < sizeof(pd_shared) ? bytes : sizeof(pd_shared);
                CHECK(pwrite(fd, table->shared, length, 0) == (ssize_t)length);
            }
            pd_status status = pd_table_attach(fd, &other);
            if (status == PD_OK) {
                CHECK(good && bytes >= sizeof(pd_shared));
                use(other);
                pd_table_destroy(other);
            }
            else {
                close(fd);
            }
            pd_table_destroy(table);
        }
    }
}

static void
an_owner_that_is_made_up(void)
{
    pd_table *table = make_table();
    pd_key key = text_key(table, "1");
    pd_stripe *stripe = &table->shared->stripes[pd_stripe_of(key.hash)];
#ifdef __GLIBC__
    stripe->lock.mutex.__data.__lock = 0x3ffffff1;
#endif
    int64_t number = 1;
    pd_value value = {.type = 1, .size = 8, .data = &number, .pin = PD_NO_PIN};
    CHECK(pd_table_put(table, &key, &value, PD_ALWAYS, 0, WAIT_NS) == PD_ECORRUPT);
    pd_table_destroy(table);
}

int
main(void)
{
    alarm(280);
    RUN(cut_short_or_mislabelled);
    RUN(an_owner_that_is_made_up);
    RUN(the_log_is_nasty);
    RUN(any_words_are_nasty);
    return 0;
}
