// The driver: strips of tiles on the team.
//
// Strips are numbered down the columns first: a thread that takes the next strip most
// often stays in its column block and keeps what it prepared.  A strip is long enough
// that handing it out is noise, and short enough that threads end together and that
// Ctrl-C is answered soon.
#include "pairwise/driver.h"

#include <math.h>
#include <stdint.h>

#include "base/alloc.h"

#define STRIP_NS 200000.0  // aimed at
#define INLINE_NS 40000.0  // below this, waking a thread costs more than it gives
#define STRIPS_PER_MEMBER 4

typedef struct member {
    void *values;  // owned, as are the next two; NULL where nothing is needed
    void *doubts;
    void *scratch;
    size_t prepared;  // the column block that `scratch` is prepared for
} member;

typedef struct walk_job {
    const pd_producer *producer;
    pd_consumer *consumer;
    const pd_walk *walk;
    bool keeps;         // the producer does the consumer's work
    member *members;    // one a member of the team; each writes its own
    size_t tile_cols;   // at most
    size_t stride;      // of tiles, in reals
    size_t strip_rows;  // a multiple of tile_rows
    size_t row_strips;  // strips of one column block
    size_t col_blocks;
} walk_job;

static size_t
blocks_of(size_t n, size_t block)
{
    return n / block + (n % block != 0);
}

static pd_status
walk_tile(const walk_job *job, pd_tile *tile, void *scratch, unsigned number)
{
    const pd_producer *producer = job->producer;
    if (job->keeps) {
        return producer->keep(producer, tile, job->consumer->sink, scratch);
    }
    pd_status status = producer->fill(producer, tile, scratch);
    if (status == PD_OK) {
        status = job->consumer->take(job->consumer, tile, number);
    }
    return status;
}

static pd_status
walk_strip(void *arg, size_t index, unsigned number)
{
    walk_job *job = arg;
    const pd_producer *producer = job->producer;
    member *me = &job->members[number];
    size_t block = index / job->row_strips;
    size_t row = index % job->row_strips * job->strip_rows;
    size_t end = job->walk->rows - row > job->strip_rows ? row + job->strip_rows
                                                         : job->walk->rows;
    size_t col = block * job->tile_cols;
    size_t left = job->walk->cols - col;
    pd_tile tile = {
        .col = col,
        .cols = left < job->tile_cols ? left : job->tile_cols,
        .real = producer->real,
        .stride = job->stride,
        .values = me->values,
        .doubts = me->doubts,
    };
    if (me->prepared != block && producer->prepare != NULL) {
        pd_status status = producer->prepare(producer, col, tile.cols, me->scratch);
        if (status != PD_OK) {
            return status;
        }
        me->prepared = block;
    }
    pd_status status = PD_OK;
    for (; status == PD_OK && row < end; row += producer->tile_rows) {
        tile.row = row;
        tile.rows = end - row < producer->tile_rows ? end - row : producer->tile_rows;
        status = walk_tile(job, &tile, me->scratch, number);
    }
    if (job->consumer->end_strip != NULL) {
        job->consumer->end_strip(job->consumer, number);
    }
    return status;
}

static pd_status
allocate_member(const walk_job *job, member *me)
{
    const pd_producer *producer = job->producer;
    size_t reals;
    if (!pd_multiply(producer->tile_rows, job->stride, &reals)) {
        return PD_ENOMEM;
    }
    me->prepared = SIZE_MAX;
    if (!job->keeps) {
        me->values = pd_alloc(reals, pd_real_size(producer->real));
    }
    if (producer->has_doubts) {
        me->doubts = pd_alloc(reals, pd_real_size(producer->real));
    }
    me->scratch = pd_alloc(producer->scratch_bytes, 1);
    bool complete = me->scratch != NULL && (me->values != NULL || job->keeps) &&
                    (me->doubts != NULL || !producer->has_doubts);
    return complete ? PD_OK : PD_ENOMEM;
}

static void
cut_strips(walk_job *job, unsigned members)
{
    const pd_producer *producer = job->producer;
    const pd_walk *walk = job->walk;
    double tile_ns =
        producer->pair_ns * (double)job->tile_cols * (double)producer->tile_rows;
    double total_ns = producer->pair_ns * (double)walk->rows * (double)walk->cols;
    double share_ns = total_ns / (members * STRIPS_PER_MEMBER);
    double tiles = floor((share_ns < STRIP_NS ? share_ns : STRIP_NS) / tile_ns);
    size_t row_tiles = blocks_of(walk->rows, producer->tile_rows);
    job->strip_rows = producer->tile_rows;
    if (tiles > 1) {
        job->strip_rows *= tiles < (double)row_tiles ? (size_t)tiles : row_tiles;
    }
    job->row_strips = blocks_of(walk->rows, job->strip_rows);
    job->col_blocks = blocks_of(walk->cols, job->tile_cols);
}

pd_status
pd_walk_tiles(const pd_producer *producer, pd_consumer *consumer, const pd_walk *walk)
{
    if (walk->members == 0 || producer->tile_rows == 0 || producer->tile_cols == 0) {
        return PD_EINVAL;
    }
    if (walk->rows == 0 || walk->cols == 0) {
        return PD_OK;
    }
    unsigned members = walk->members < PD_TEAM_MAX ? walk->members : PD_TEAM_MAX;
    if (producer->pair_ns * (double)walk->rows * (double)walk->cols < INLINE_NS) {
        members = 1;
    }
    bool keeps = producer->keep != NULL && consumer->sink != NULL;
    size_t line_reals = PD_CACHE_LINE / pd_real_size(producer->real);
    walk_job job = {
        .producer = producer,
        .consumer = consumer,
        .walk = walk,
        .stride = blocks_of(producer->tile_cols, line_reals) * line_reals,
        .keeps = keeps,
        .tile_cols = keeps ? producer->keep_cols : producer->tile_cols,
    };
    cut_strips(&job, members);
    size_t strips;
    if (!pd_multiply(job.row_strips, job.col_blocks, &strips)) {
        return PD_EINVAL;
    }
    members = strips < members ? (unsigned)strips : members;

    pd_status status = PD_ENOMEM;
    job.members = pd_calloc(members, sizeof(*job.members));
    if (job.members == NULL) {
        return status;
    }
    for (unsigned i = 0; i < members; i++) {
        status = allocate_member(&job, &job.members[i]);
        if (status != PD_OK) {
            goto free_members;
        }
    }
    status = pd_team_run(members, strips, walk_strip, &job, walk->poll, walk->poll_arg);

free_members:
    for (unsigned i = 0; i < members; i++) {
        pd_free(job.members[i].scratch);
        pd_free(job.members[i].doubts);
        pd_free(job.members[i].values);
    }
    pd_free(job.members);
    return status;
}
