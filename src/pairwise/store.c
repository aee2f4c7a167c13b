// Storing tiles, and the list of doubtful pairs.
//
// Doubts are rare: a few pairs in a billion.  They go to one list under one mutex, which
// is bounded, since a function may sit on a rounding boundary everywhere: when it is full,
// or a tile is doubtful in most of its pairs, the whole tile is recorded as a rectangle.
// Tiles of one strip lie below each other, so a member's rectangles grow rather than
// multiply.
//
// Invariants
//   I1  A doubtful pair is in exactly one entry: a tile adds pairs or one rectangle, whole.
//   I2  open[member] is the index of the rectangle that this member added last, and only
//       that member extends it.
//
// Locks: mutex, guarding every field said to be.
#include "pairwise/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"

#define MAX_PAIRS ((size_t)1 << 16)

// Results larger than this are written past the caches: they would not survive in them.
#define STREAM_BYTES ((size_t)8 << 20)

struct pd_store {
    pd_consumer base;
    pd_sink sink;  // immutable, as is all down to the mutex; out is borrowed
    const pd_store_ops *ops;

    pthread_mutex_t mutex;
    pd_pair *pairs;  // owned; this and all below guarded by mutex
    size_t pair_count;
    size_t pair_capacity;
    pd_rectangle *rectangles;  // owned
    size_t rectangle_count;
    size_t rectangle_capacity;
    size_t *open;  // owned; one a member, SIZE_MAX for none
};

// Makes room for one more entry in a list that grows by doubling.
static pd_status
grow(void **list, size_t *capacity, size_t count, size_t entry_bytes)
{
    if (count < *capacity) {
        return PD_OK;
    }
    size_t wider = *capacity == 0 ? 64 : *capacity * 2;
    void *entries = pd_alloc(wider, entry_bytes);
    if (entries == NULL) {
        return PD_ENOMEM;
    }
    if (count > 0) {
        memcpy(entries, *list, count * entry_bytes);
    }
    pd_free(*list);
    *list = entries;
    *capacity = wider;
    return PD_OK;
}

static pd_status
add_pair(pd_store *self, size_t row, size_t col)
{
    pd_status status = grow((void **)&self->pairs, &self->pair_capacity,
                            self->pair_count, sizeof(pd_pair));
    if (status == PD_OK) {
        self->pairs[self->pair_count++] = (pd_pair){.row = row, .col = col};
    }
    return status;
}

static pd_status
add_rectangle(pd_store *self, const pd_tile *tile, unsigned member)
{
    size_t last = self->open[member];
    if (last != SIZE_MAX) {
        pd_rectangle *above = &self->rectangles[last];
        if (above->col == tile->col && above->cols == tile->cols &&
            above->row + above->rows == tile->row)
        {
            above->rows += tile->rows;
            return PD_OK;
        }
    }
    pd_status status = grow((void **)&self->rectangles, &self->rectangle_capacity,
                            self->rectangle_count, sizeof(pd_rectangle));
    if (status == PD_OK) {
        self->open[member] = self->rectangle_count;
        self->rectangles[self->rectangle_count++] = (pd_rectangle){
            .row = tile->row, .col = tile->col, .rows = tile->rows, .cols = tile->cols};
    }
    return status;
}

static const char *
row_of(const void *reals, const pd_tile *tile, size_t r)
{
    return (const char *)reals + r * tile->stride * pd_real_size(tile->real);
}

// Adds the doubtful pairs of one row of a tile; mutex held.
static pd_status
add_row_pairs(pd_store *self, const pd_tile *tile, size_t r)
{
    unsigned char flags[256];
    for (size_t c = 0; c < tile->cols; c += sizeof(flags)) {
        size_t n = tile->cols - c < sizeof(flags) ? tile->cols - c : sizeof(flags);
        size_t offset = c * pd_real_size(tile->real);
        size_t found = self->ops->doubtful[tile->real][self->sink.real](
            row_of(tile->values, tile, r) + offset,
            row_of(tile->doubts, tile, r) + offset, n, &self->sink.rounding, flags);
        for (size_t k = 0; found > 0 && k < n; k++) {
            if (flags[k]) {
                pd_status status = add_pair(self, tile->row + r, tile->col + c + k);
                if (status != PD_OK) {
                    return status;
                }
            }
        }
    }
    return PD_OK;
}

static pd_status
list_doubts(pd_store *self, const pd_tile *tile, unsigned member)
{
    size_t count = 0;
    for (size_t r = 0; r < tile->rows; r++) {
        count += self->ops->doubtful[tile->real][self->sink.real](
            row_of(tile->values, tile, r), row_of(tile->doubts, tile, r), tile->cols,
            &self->sink.rounding, NULL);
    }
    if (count == 0) {
        return PD_OK;
    }
    pd_status status = PD_OK;
    pthread_mutex_lock(&self->mutex);
    if (count > tile->rows * tile->cols / 2 || self->pair_count + count > MAX_PAIRS) {
        status = add_rectangle(self, tile, member);
    }
    else {
        for (size_t r = 0; status == PD_OK && r < tile->rows; r++) {
            status = add_row_pairs(self, tile, r);
        }
    }
    pthread_mutex_unlock(&self->mutex);
    return status;
}

static pd_status
take_tile(pd_consumer *base, const pd_tile *tile, unsigned member)
{
    pd_store *self = (pd_store *)base;
    size_t size = pd_real_size(self->sink.real);
    for (size_t r = 0; r < tile->rows; r++) {
        char *to = (char *)self->sink.out +
                   ((tile->row + r) * self->sink.stride + tile->col) * size;
        self->ops->row[tile->real][self->sink.real](row_of(tile->values, tile, r), to,
                                                    tile->cols, &self->sink.rounding,
                                                    self->sink.streams);
    }
    return tile->doubts == NULL ? PD_OK : list_doubts(self, tile, member);
}

// Streaming stores are weakly ordered: the mutex that ends the loop does not order them.
static void
end_strip(pd_consumer *base, unsigned member)
{
    (void)member;
    pd_store *self = (pd_store *)base;
    if (self->sink.streams) {
        self->ops->fence();
    }
}

pd_status
pd_store_create(void *out,
                pd_real real,
                size_t rows,
                size_t cols,
                const pd_rounding *rounding,
                unsigned members,
                const pd_simd *simd,
                pd_store **store)
{
    if (members == 0) {
        return PD_EINVAL;
    }
    pd_status status = PD_ENOMEM;
    pd_store *self = pd_calloc(1, sizeof(*self));
    if (self == NULL) {
        return status;
    }
    self->open = pd_alloc(members, sizeof(*self->open));
    if (self->open == NULL) {
        goto fail_self;
    }
    memset(self->open, 0xff, members * sizeof(*self->open));
    int error = pthread_mutex_init(&self->mutex, NULL);
    if (error != 0) {
        errno = error;
        status = PD_EOS;
        goto fail_open;
    }
    self->base.take = take_tile;
    self->base.end_strip = end_strip;
    self->base.sink = &self->sink;
    self->sink = (pd_sink){
        .out = out,
        .stride = cols,
        .real = real,
        .rounding = *rounding,
        .streams =
            (double)rows * (double)cols * (double)pd_real_size(real) > STREAM_BYTES,
    };
    self->ops = simd->store;
    *store = self;
    return PD_OK;

fail_open:
    pd_free(self->open);
fail_self:
    pd_free(self);
    return status;
}

pd_consumer *
pd_store_consumer(pd_store *store)
{
    return &store->base;
}

pd_doubts
pd_store_doubts(const pd_store *store)
{
    return (pd_doubts){
        .pairs = store->pairs,
        .pair_count = store->pair_count,
        .rectangles = store->rectangles,
        .rectangle_count = store->rectangle_count,
    };
}

void
pd_store_destroy(pd_store *store)
{
    if (store == NULL) {
        return;
    }
    pthread_mutex_destroy(&store->mutex);
    pd_free(store->rectangles);
    pd_free(store->pairs);
    pd_free(store->open);
    pd_free(store);
}
