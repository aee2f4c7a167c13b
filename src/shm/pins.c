// Pins: what each process reads, or is filling, in place; and fork.
//
// A block that a slot no longer refers to is freed when nobody has it pinned.  Whoever
// pins writes the block's offset to a cell of his own and counts in the block, both in one
// step under the lock of the block's stripe: so when he dies, whoever reaps knows exactly
// what to count down.
//
//      registry -> holder (process A) -> chunk of cells -> chunk of cells
//                      |                   | |
//                  holder (process B)      v v
//                                        blocks
//
// A process is attached when it first pins something; holders of dead processes are used
// again.  Which of its cells are in use a process keeps in its own memory.
//
// Reaping: whenever a process attaches, and when the heap has grown.
//
// Fork: a child has the parent's views, and nothing in it runs before it uses them.  So the
// parent, just before, makes a holder that pins the same blocks with cells of the same
// numbers; the child takes it over, and until then it counts as the parent's.  (If the
// fork fails, it is reaped with the parent.)  Without pins there is nothing to do.  Where
// there is no memory for it, or a lock cannot be had for a second, the child's views are of
// memory that may be used again when the parent has dropped its own.
//
// Locks: see layout.h.  `tables.mutex` is outermost.
#include "shm/layout.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define FORK_WAIT_NS 1000000000
#define UNPIN_WAIT_NS 1000000

static struct {
    pthread_mutex_t mutex;
    pd_table *first;       // guarded by mutex
    pd_process_id parent;  // the process that forks; guarded by mutex
} tables = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

// Where the parcel of the registry, and that of a holder, is in the segment.
#define REGISTRY_PARCEL (offsetof(pd_shared, registry) + offsetof(pd_registry, granted))
#define HOLDER_PARCEL (sizeof(pd_block) + offsetof(pd_holder, granted))

// ---- The registry ----

static pd_holder *
holder_at(pd_table *table, uint64_t offset)
{
    size_t room;
    pd_block *block = pd_heap_block(table->segment, offset, &room);
    return block != NULL && room >= sizeof(pd_holder) ? pd_block_payload(block) : NULL;
}

static pd_chunk *
chunk_at(pd_table *table, uint64_t offset)
{
    size_t room;
    pd_block *block = pd_heap_block(table->segment, offset, &room);
    return block != NULL && room >= sizeof(pd_chunk) ? pd_block_payload(block) : NULL;
}

// Of a granted block that was linked before its owner died, only the parcel is left.
static pd_status
settle_granted(
    pd_table *table, pd_word *granted, uint64_t where, uint64_t linked, int64_t wait_ns)
{
    uint64_t offset = pd_load(granted);
    if (offset != 0 && offset == linked) {
        pd_store(granted, 0);
        return PD_OK;
    }
    return offset != 0
               ? pd_heap_give(&table->shared->heap, table->segment, where, wait_ns)
               : PD_OK;
}

static pd_status
repair_registry(pd_table *table, int64_t wait_ns)
{
    pd_registry *registry = &table->shared->registry;
    pd_status status = pd_heap_settle(&table->shared->heap, table->segment, wait_ns);
    if (status == PD_OK) {
        status = settle_granted(table, &registry->granted, REGISTRY_PARCEL,
                                pd_load(&registry->holders), wait_ns);
    }
    if (status == PD_OK) {
        pd_store(&registry->dirty, 0);
    }
    return status;
}

static pd_status
lock_registry(pd_table *table, int64_t wait_ns)
{
    pd_registry *registry = &table->shared->registry;
    bool died;
    pd_status status = pd_lock_acquire(&registry->lock, wait_ns, &died);
    if (status != PD_OK) {
        return status;
    }
    if (died) {
        pd_store(&registry->dirty, 1);
        PD_CRASH_POINT();
        pd_lock_repaired(&registry->lock);
    }
    if (pd_load(&registry->dirty) != 0) {
        status = repair_registry(table, wait_ns);
        if (status != PD_OK) {
            (void)pd_lock_release(&registry->lock);
        }
    }
    return status;
}

static void
unlock_registry(pd_table *table)
{
    PD_CRASH_POINT();
    (void)pd_lock_release(&table->shared->registry.lock);
}

// Repairs all stripes whose owner died: what is to be undone there may be in the cells.
static pd_status
settle_stripes(pd_table *table, int64_t wait_ns)
{
    pd_status status = PD_OK;
    for (unsigned i = 0; status == PD_OK && i < PD_STRIPES; i++) {
        pd_stripe *stripe = &table->shared->stripes[i];
        status = pd_stripe_lock(table, stripe, wait_ns);
        if (status == PD_OK) {
            pd_stripe_unlock(table, stripe);
        }
    }
    return status;
}

// Drops the pin in a cell of a dead process, or of this one.  PD_ETIMEDOUT leaves it.
static pd_status
drop_cell(pd_table *table, pd_word *word, uint64_t where, int64_t wait_ns)
{
    uint64_t offset = pd_load(word);
    size_t room;
    pd_block *block = offset != 0 ? pd_heap_block(table->segment, offset, &room) : NULL;
    if (block == NULL) {
        pd_store(word, 0);
        return PD_OK;
    }
    pd_cell cell = {.word = word, .where = where};
    uint64_t index = pd_load(&block->next);
    if (index >= PD_STRIPES) {
        return PD_ECORRUPT;
    }
    pd_stripe *stripe = &table->shared->stripes[index];
    pd_status status = pd_stripe_lock(table, stripe, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    // Had its owner died in the middle of pinning, the repair has just emptied the cell.
    if (pd_load(word) == offset) {
        pd_stripe_begin(stripe);
        pd_pins_drop(table, stripe, &cell, block, offset);
        pd_stripe_commit(table, stripe);
    }
    pd_stripe_unlock(table, stripe);
    return PD_OK;
}

static pd_status
reap_holder(pd_table *table, uint64_t at, pd_holder *holder, int64_t wait_ns)
{
    pd_status status = settle_stripes(table, wait_ns);
    if (status == PD_OK) {
        status = settle_granted(table, &holder->granted, at + HOLDER_PARCEL,
                                pd_load(&holder->chunks), wait_ns);
    }
    uint64_t offset = pd_load(&holder->chunks);
    uint64_t most = pd_segment_size(table->segment) / sizeof(pd_chunk) + 1;
    while (status == PD_OK && offset != 0) {
        pd_chunk *chunk = chunk_at(table, offset);
        if (chunk == NULL || most-- == 0) {
            return PD_ECORRUPT;
        }
        for (unsigned i = 0; status == PD_OK && i < PD_CELLS; i++) {
            if (pd_load(&chunk->cells[i]) != 0) {
                uint64_t where = offset + sizeof(pd_block) + offsetof(pd_chunk, cells) +
                                 i * sizeof(pd_word);
                status = drop_cell(table, &chunk->cells[i], where, wait_ns);
            }
        }
        offset = pd_load(&chunk->next);
    }
    if (status == PD_OK) {
        PD_CRASH_POINT();
        pd_store(&holder->who, 0);
    }
    return status;
}

// Registry's lock held.
static pd_status
reap_locked(pd_table *table, int64_t wait_ns)
{
    pd_status status = pd_heap_settle(&table->shared->heap, table->segment, wait_ns);
    uint64_t offset = pd_load(&table->shared->registry.holders);
    uint64_t most = pd_segment_size(table->segment) / PD_UNIT;
    while (status == PD_OK && offset != 0) {
        pd_holder *holder = holder_at(table, offset);
        if (holder == NULL || most-- == 0) {
            return PD_ECORRUPT;
        }
        uint64_t who = pd_load(&holder->who);
        if (who != 0 && who != pd_process_self() && !pd_process_alive(who)) {
            status = reap_holder(table, offset, holder, wait_ns);
        }
        offset = pd_load(&holder->next);
    }
    return status;
}

pd_status
pd_table_reap(pd_table *table, int64_t wait_ns)
{
    pd_status status = lock_registry(table, wait_ns);
    if (status == PD_OK) {
        status = reap_locked(table, wait_ns);
        unlock_registry(table);
    }
    return status;
}

// A holder for this process; registry's lock held.
static pd_status
take_holder(pd_table *table, int64_t wait_ns, uint64_t *out)
{
    pd_registry *registry = &table->shared->registry;
    uint64_t most = pd_segment_size(table->segment) / PD_UNIT;
    for (uint64_t offset = pd_load(&registry->holders); offset != 0;) {
        pd_holder *holder = holder_at(table, offset);
        if (holder == NULL || most-- == 0) {
            return PD_ECORRUPT;
        }
        if (pd_load(&holder->who) == 0) {
            pd_store(&holder->who, pd_process_self());
            *out = offset;
            return PD_OK;
        }
        offset = pd_load(&holder->next);
    }
    pd_status status = pd_heap_take(&table->shared->heap, table->segment, PD_WORDS,
                                    sizeof(pd_holder), REGISTRY_PARCEL, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    uint64_t offset = pd_load(&registry->granted);
    pd_holder *holder = holder_at(table, offset);
    if (holder == NULL) {
        return PD_ECORRUPT;
    }
    pd_store(&holder->chunks, 0);
    pd_store(&holder->granted, 0);
    pd_store(&holder->next, pd_load(&registry->holders));
    pd_store(&holder->who, pd_process_self());
    PD_CRASH_POINT();
    pd_store(&registry->holders, offset);
    PD_CRASH_POINT();
    pd_store(&registry->granted, 0);
    *out = offset;
    return PD_OK;
}

// Adds a chunk of cells to a holder of this process.
static pd_status
add_chunk(pd_table *table, uint64_t holder_offset, int64_t wait_ns)
{
    pd_holder *holder = holder_at(table, holder_offset);
    if (holder == NULL) {
        return PD_ECORRUPT;
    }
    pd_status status =
        pd_heap_take(&table->shared->heap, table->segment, PD_WORDS, sizeof(pd_chunk),
                     holder_offset + HOLDER_PARCEL, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    uint64_t offset = pd_load(&holder->granted);
    pd_chunk *chunk = chunk_at(table, offset);
    if (chunk == NULL) {
        return PD_ECORRUPT;
    }
    for (unsigned i = 0; i < PD_CELLS; i++) {
        pd_store(&chunk->cells[i], 0);
    }
    pd_store(&chunk->next, pd_load(&holder->chunks));
    PD_CRASH_POINT();
    pd_store(&holder->chunks, offset);
    PD_CRASH_POINT();
    pd_store(&holder->granted, 0);
    return PD_OK;
}

// The offsets of all cells of a holder, the oldest chunk first: a number stays the same
// cell's when chunks are added.  *where is allocated.
static pd_status
list_cells(pd_table *table, uint64_t holder_offset, uint64_t **where, size_t *count)
{
    pd_holder *holder = holder_at(table, holder_offset);
    size_t chunks = 0;
    uint64_t most = pd_segment_size(table->segment) / sizeof(pd_chunk) + 1;
    uint64_t offset = holder != NULL ? pd_load(&holder->chunks) : 1;
    for (uint64_t at = offset; at != 0; chunks++) {
        pd_chunk *chunk = chunk_at(table, at);
        if (chunk == NULL || chunks > most) {
            return PD_ECORRUPT;
        }
        at = pd_load(&chunk->next);
    }
    uint64_t *list = pd_alloc(chunks * PD_CELLS, sizeof(*list));
    if (list == NULL) {
        return PD_ENOMEM;
    }
    *count = chunks * PD_CELLS;
    for (size_t i = chunks; i-- > 0;) {
        pd_chunk *chunk = chunk_at(table, offset);
        if (chunk == NULL) {
            pd_free(list);
            return PD_ECORRUPT;
        }
        for (unsigned j = 0; j < PD_CELLS; j++) {
            list[i * PD_CELLS + j] = offset + sizeof(pd_block) +
                                     offsetof(pd_chunk, cells) + j * sizeof(pd_word);
        }
        offset = pd_load(&chunk->next);
    }
    *where = list;
    return PD_OK;
}

// ---- The process's own books; pins.mutex held ----

static void
forget(pd_pins *pins)
{
    pd_free(pins->where);
    pd_free(pins->unused);
    pd_free(pins->late);
    pins->where = NULL;
    pins->unused = NULL;
    pins->late = NULL;
    pins->cells = pins->unused_count = pins->late_count = 0;
    pins->holder = 0;
}

// Reads the holder's cells anew; those with numbers from `known` on are unused.
static pd_status
read_cells(pd_table *table, size_t known)
{
    pd_pins *pins = &table->pins;
    uint64_t *where;
    size_t count;
    pd_status status = list_cells(table, pins->holder, &where, &count);
    if (status != PD_OK) {
        return status;
    }
    int64_t *unused = pd_alloc(count, sizeof(*unused));
    int64_t *late = pd_alloc(count, sizeof(*late));
    if (unused == NULL || late == NULL) {
        pd_free(where);
        pd_free(unused);
        pd_free(late);
        return PD_ENOMEM;
    }
    if (pins->cells > 0) {
        memcpy(unused, pins->unused, pins->unused_count * sizeof(*unused));
        memcpy(late, pins->late, pins->late_count * sizeof(*late));
    }
    for (size_t i = count; i-- > known;) {
        unused[pins->unused_count++] = (int64_t)i;
    }
    pd_free(pins->where);
    pd_free(pins->unused);
    pd_free(pins->late);
    pins->where = where;
    pins->unused = unused;
    pins->late = late;
    pins->cells = count;
    return PD_OK;
}

// Attaches this process, if it is not.
static pd_status
ensure_holder(pd_table *table, int64_t wait_ns)
{
    pd_pins *pins = &table->pins;
    if (pins->holder != 0 && pins->forks == pd_process_forks()) {
        return PD_OK;
    }
    forget(pins);
    pd_status status = lock_registry(table, wait_ns);
    if (status != PD_OK) {
        return status;
    }
    status = reap_locked(table, wait_ns);
    uint64_t holder = 0;
    if (status == PD_OK) {
        status = take_holder(table, wait_ns, &holder);
    }
    unlock_registry(table);
    if (status != PD_OK) {
        return status;
    }
    pins->holder = holder;
    pins->forks = pd_process_forks();
    return read_cells(table, 0);
}

// Drops what could not be dropped in time.
static void
drop_late(pd_table *table)
{
    pd_pins *pins = &table->pins;
    while (pins->late_count > 0) {
        int64_t pin = pins->late[pins->late_count - 1];
        uint64_t where = pins->where[pin];
        pd_word *cell = pd_segment_at(table->segment, where, sizeof(*cell));
        if (cell == NULL || drop_cell(table, cell, where, 0) == PD_ETIMEDOUT) {
            return;
        }
        pins->late_count--;
        pins->unused[pins->unused_count++] = pin;
    }
}

static pd_status
prepare_locked(pd_table *table, size_t count, int64_t wait_ns)
{
    pd_pins *pins = &table->pins;
    pd_status status = ensure_holder(table, wait_ns);
    if (status == PD_OK) {
        drop_late(table);
    }
    while (status == PD_OK && pins->unused_count < count) {
        status = add_chunk(table, pins->holder, wait_ns);
        if (status == PD_OK) {
            status = read_cells(table, pins->cells);
        }
    }
    return status;
}

pd_status
pd_pins_reserve(pd_table *table, size_t count, int64_t wait_ns, pd_cell *cells)
{
    pd_pins *pins = &table->pins;
    if (atomic_exchange(&table->grew, false)) {
        (void)pd_table_reap(table, 0);
    }
    pthread_mutex_lock(&pins->mutex);
    pd_status status = prepare_locked(table, count, wait_ns);
    for (size_t i = 0; status == PD_OK && i < count; i++) {
        int64_t pin = pins->unused[--pins->unused_count];
        cells[i] = (pd_cell){.pin = pin, .where = pins->where[pin]};
        cells[i].word = pd_segment_at(table->segment, cells[i].where, sizeof(pd_word));
        if (cells[i].word == NULL) {
            status = PD_ECORRUPT;
        }
    }
    pthread_mutex_unlock(&pins->mutex);
    return status;
}

void
pd_pins_unreserve(pd_table *table, int64_t pin)
{
    pd_pins *pins = &table->pins;
    pthread_mutex_lock(&pins->mutex);
    if (pin >= 0 && (size_t)pin < pins->cells && pins->forks == pd_process_forks()) {
        pins->unused[pins->unused_count++] = pin;
    }
    pthread_mutex_unlock(&pins->mutex);
}

void
pd_table_unpin(pd_table *table, int64_t pin)
{
    pd_pins *pins = &table->pins;
    pthread_mutex_lock(&pins->mutex);
    if (pin >= 0 && (size_t)pin < pins->cells && pins->forks == pd_process_forks()) {
        uint64_t where = pins->where[pin];
        pd_word *cell = pd_segment_at(table->segment, where, sizeof(*cell));
        pd_status status =
            cell != NULL ? drop_cell(table, cell, where, UNPIN_WAIT_NS) : PD_ECORRUPT;
        if (status == PD_ETIMEDOUT) {
            pins->late[pins->late_count++] = pin;
        }
        else {
            pins->unused[pins->unused_count++] = pin;
        }
    }
    pthread_mutex_unlock(&pins->mutex);
}

void
pd_pins_point(pd_stripe *stripe, const pd_cell *cell, pd_block *block, uint64_t offset)
{
    pd_stripe_set_at(stripe, cell->word, cell->where, offset);
    pd_stripe_set_at(stripe, &block->pins, offset + offsetof(pd_block, pins),
                     pd_load(&block->pins) + PD_ONE_PIN);
}

void
pd_pins_drop(pd_table *table,
             pd_stripe *stripe,
             const pd_cell *cell,
             pd_block *block,
             uint64_t offset)
{
    uint64_t pins = pd_load(&block->pins);
    pins = pins >= PD_ONE_PIN ? pins - PD_ONE_PIN : 0;
    pd_stripe_set_at(stripe, cell->word, cell->where, 0);
    pd_stripe_set_at(stripe, &block->pins, offset + offsetof(pd_block, pins), pins);
    if (pins == 0) {
        pd_stripe_set(table, stripe, &stripe->returned[0], offset);
    }
}

// ---- Fork ----

// Points cell number i of the child's holder to what this process has pinned there.
static void
copy_pin(pd_table *table, uint64_t from, uint64_t to)
{
    pd_word *mine = pd_segment_at(table->segment, from, sizeof(*mine));
    pd_word *its = pd_segment_at(table->segment, to, sizeof(*its));
    uint64_t offset = mine != NULL ? pd_load(mine) : 0;
    size_t room;
    pd_block *block = offset != 0 ? pd_heap_block(table->segment, offset, &room) : NULL;
    if (its == NULL || block == NULL || pd_load(&block->next) >= PD_STRIPES) {
        return;
    }
    pd_stripe *stripe = &table->shared->stripes[pd_load(&block->next)];
    if (pd_stripe_lock(table, stripe, FORK_WAIT_NS) == PD_OK) {
        pd_stripe_begin(stripe);
        pd_cell cell = {.word = its, .where = to};
        pd_pins_point(stripe, &cell, block, offset);
        pd_stripe_commit(table, stripe);
        pd_stripe_unlock(table, stripe);
    }
}

// Makes the child's holder; pins.mutex held.
static pd_status
make_child_holder(pd_table *table)
{
    pd_pins *pins = &table->pins;
    uint64_t holder = 0;
    pd_status status = lock_registry(table, FORK_WAIT_NS);
    if (status != PD_OK) {
        return status;
    }
    status = take_holder(table, FORK_WAIT_NS, &holder);
    unlock_registry(table);
    uint64_t *where = NULL;
    size_t count = 0;
    while (status == PD_OK && count < pins->cells) {
        pd_free(where);
        where = NULL;
        status = list_cells(table, holder, &where, &count);
        if (status == PD_OK && count < pins->cells) {
            status = add_chunk(table, holder, FORK_WAIT_NS);
        }
    }
    if (status != PD_OK) {
        pd_free(where);
        return status;
    }
    for (size_t i = 0; i < pins->cells; i++) {
        copy_pin(table, pins->where[i], where[i]);
    }
    pins->child_holder = holder;
    pins->child_where = where;
    return PD_OK;
}

static void
before_fork(void)
{
    pthread_mutex_lock(&tables.mutex);
    tables.parent = pd_process_self();
    for (pd_table *table = tables.first; table != NULL; table = table->after) {
        pd_pins *pins = &table->pins;
        pthread_mutex_lock(&pins->mutex);
        bool own = pins->holder != 0 && pins->forks == pd_process_forks();
        if (own && pins->unused_count + pins->late_count < pins->cells) {
            (void)make_child_holder(table);
        }
    }
}

static void
after_fork_in_parent(void)
{
    for (pd_table *table = tables.first; table != NULL; table = table->after) {
        pd_free(table->pins.child_where);
        table->pins.child_where = NULL;
        table->pins.child_holder = 0;
        pthread_mutex_unlock(&table->pins.mutex);
    }
    pthread_mutex_unlock(&tables.mutex);
}

static void
after_fork_in_child(void)
{
    for (pd_table *table = tables.first; table != NULL; table = table->after) {
        pd_pins *pins = &table->pins;
        pd_holder *holder =
            pins->child_holder != 0 ? holder_at(table, pins->child_holder) : NULL;
        // It is somebody else's if the parent is dead and reaped already.
        uint64_t parent = tables.parent;
        if (holder != NULL &&
            atomic_compare_exchange_strong(&holder->who, &parent, pd_process_self()))
        {
            pd_free(pins->where);
            pins->where = pins->child_where;
            pins->holder = pins->child_holder;
            pins->forks = pd_process_forks();
            pins->child_where = NULL;
        }
        pd_free(pins->child_where);
        pins->child_where = NULL;
        pins->child_holder = 0;
        pthread_mutex_unlock(&pins->mutex);
    }
    pthread_mutex_unlock(&tables.mutex);
}

static void
register_fork_handlers(void)
{
    (void)pd_process_forks();  // its handler must have run when ours does
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

pd_status
pd_pins_init(pd_table *table)
{
    pd_pins *pins = &table->pins;
    memset(pins, 0, sizeof(*pins));
    if (pthread_mutex_init(&pins->mutex, NULL) != 0) {
        return PD_ENOMEM;
    }
    pthread_once(&fork_once, register_fork_handlers);
    pthread_mutex_lock(&tables.mutex);
    table->before = NULL;
    table->after = tables.first;
    if (tables.first != NULL) {
        tables.first->before = table;
    }
    tables.first = table;
    pthread_mutex_unlock(&tables.mutex);
    return PD_OK;
}

void
pd_pins_fini(pd_table *table)
{
    pd_pins *pins = &table->pins;
    pthread_mutex_lock(&tables.mutex);
    if (table->before != NULL) {
        table->before->after = table->after;
    }
    else {
        tables.first = table->after;
    }
    if (table->after != NULL) {
        table->after->before = table->before;
    }
    pthread_mutex_unlock(&tables.mutex);

    if (pins->holder != 0 && pins->forks == pd_process_forks()) {
        drop_late(table);
        pd_holder *holder = holder_at(table, pins->holder);
        if (holder != NULL && pins->unused_count == pins->cells) {
            pd_store(&holder->who, 0);
        }
    }
    forget(pins);
    pthread_mutex_destroy(&pins->mutex);
}
