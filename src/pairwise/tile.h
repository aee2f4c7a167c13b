// The seam of the kernels: producers of tiles x consumers of tiles.
//
//            columns (rows of Y) ->
//          +---------+---------+---------+      A *strip* is one column block and
//   rows   | tile 0  |         |         |      a run of rows: one index of the
//  (of X)  +---------+         |         |      team's loop.  Within a strip the
//    |     | tile 1  | strip 1 | strip 2 |      producer prepares the columns once
//    v     +---------+         |         |      and fills one small tile after the
//          |   ...   |         |         |      other; the consumer takes each tile
//          +---------+---------+---------+      while it is still in the L1 or L2.
//
// Where a consumer only keeps values, and says so, a producer may keep them itself
// without a tile in between (pd_sink): small sums cost less than moving them twice.
//
// A producer knows what a pair's value is and nothing of what becomes of it; a
// consumer knows what becomes of values and nothing of where they came from; the
// driver (driver.h) knows neither.  So a new metric is one producer, a new reduction
// one consumer, and each works with every one of the other kind at once.
//
// Invariants
//   I1  A value depends on its pair alone, never on the tile, strip or thread it was
//       computed in: any number of threads gives the same bits.
//   I2  Each pair is in exactly one tile.
//   I3  Producers and consumers are read-only while a loop runs; what a thread needs
//       to write lies in its own scratch, or in parts of the result that are its own.
#ifndef PD_PAIRWISE_TILE_H
#define PD_PAIRWISE_TILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/real.h"
#include "base/status.h"
#include "simd/simd.h"

// Values of the pairs (row .. row + rows) x (col .. col + cols).
typedef struct pd_tile {
    size_t row, col;    // the first pair, counted in the whole matrix
    size_t rows, cols;  // never 0, never more than the producer's tile_rows, tile_cols
    pd_real real;       // of values and doubts: the producer's
    size_t stride;      // reals from one row to the next, a multiple of 64 bytes

    // Owned by the driver, aligned to 64 bytes; `cols` reals a row are meaningful and
    // the rest of the stride is writable padding that a producer may scribble on.
    void *values;

    // Laid out as `values`; NULL if the producer has no doubts.  An upper bound of
    // |value - what the user's function would return|; infinity: ask the function.
    void *doubts;
} pd_tile;

// What a consumer that only keeps values does with them, said so that a producer can do
// it in its stead while it has them in registers: value (i, j) of the matrix, cast and
// rounded, is put at out[i * stride + j].
typedef struct pd_sink {
    void *out;      // n x stride of `real`
    size_t stride;  // reals from one row to the next
    pd_real real;
    pd_rounding rounding;
    bool streams;  // past the caches
} pd_sink;

typedef struct pd_producer pd_producer;

struct pd_producer {
    pd_real real;      // the type of values and doubts
    bool has_doubts;   // fills tile->doubts
    size_t tile_rows;  // the largest tile wanted; both at least 1
    size_t tile_cols;
    size_t keep_cols;  // in place of tile_cols where keep() is used, as it has no tile
    size_t scratch_bytes;  // for one thread; the driver allocates it, aligned
    double pair_ns;        // about what a pair costs one thread: sizes strips

    // Makes the columns col .. col + cols ready in this thread's scratch.  NULL if
    // there is nothing to prepare.
    pd_status (*prepare)(const pd_producer *self,
                         size_t col,
                         size_t cols,
                         void *scratch);

    // Fills `tile`, whose columns are the ones that were prepared last.
    pd_status (*fill)(const pd_producer *self, pd_tile *tile, void *scratch);

    // Does with the values of `tile`, which has no memory for them, what `sink` says.
    // NULL if it cannot: the consumer then takes what fill() filled.  Only for producers
    // without doubts.
    pd_status (*keep)(const pd_producer *self,
                      const pd_tile *tile,
                      const pd_sink *sink,
                      void *scratch);
};

typedef struct pd_consumer pd_consumer;

struct pd_consumer {
    // Takes the values of `tile`, which is only lent.  Runs on many threads at once,
    // each with a `member` of its own.
    pd_status (*take)(pd_consumer *self, const pd_tile *tile, unsigned member);

    // Called by the thread that took a strip's tiles when the strip ends, also after an
    // error.  NULL if there is nothing to do then.
    void (*end_strip)(pd_consumer *self, unsigned member);

    // What take() does with tiles that have no doubts; NULL if it is more than to keep
    // them.  Borrowed from the consumer.
    const pd_sink *sink;
};

#endif
