// The driver: walks the tiles of an n x m matrix on the team.
#ifndef PD_PAIRWISE_DRIVER_H
#define PD_PAIRWISE_DRIVER_H

#include <stddef.h>

#include "base/status.h"
#include "pairwise/tile.h"
#include "thread/team.h"

typedef struct pd_walk {
    size_t rows, cols;  // n and m; either may be 0
    unsigned members;   // threads at most, the caller included; at least 1
    pd_team_poll poll;  // see thread/team.h; may be NULL
    void *poll_arg;
} pd_walk;

// Every pair of the matrix goes from `producer` to `consumer` once.  Work too small to
// pay for threads runs on the caller's thread.  Memory: members * (scratch and tile).
//
// PD_OK, PD_ENOMEM, PD_EINVAL, or the first other status of a producer, a consumer or
// the poll.  After an error the consumer has seen some tiles and not others.
pd_status pd_walk_tiles(const pd_producer *producer,
                        pd_consumer *consumer,
                        const pd_walk *walk);

#endif
