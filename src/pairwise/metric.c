// Metrics: Y is packed into panels for a column block, X rows meet them four at a time.
// Points of few features have one panel for the whole block, which each row of X meets
// in one pass from end to end, past the tile if the consumer only keeps values.
//
//      scratch of a thread
//      +---------------------------+----------------+----------+----------------------+
//      | panels of the columns     | packed x rows  | sums of  | double sums of the   |
//      | [panel][feature][NR]      | (if strided)   | a flush  | tile (float sums of  |
//      |                           |                | [4][NR]  | many features only)  |
//      +---------------------------+----------------+----------+----------------------+
//
// Up to CHUNK features are packed at a time.  If that is all, prepare() does it once for
// a strip; if there are more, fill() goes over the chunks for each tile, whose partial
// sums wait in the tile: memory stays bounded for any number of features.
//
// Tiles: small sums are bound by stores, so their tiles fit the L1; large ones are bound
// by arithmetic, and want many rows for each panel that comes into the L1.
#include "pairwise/metric.h"

#include <string.h>

#include "base/alloc.h"

#define CHUNK 1024
#define FEW_FEATURES PD_METRIC_FLUSH  // which are never widened

#define FEW_PANEL_BYTES ((size_t)32 << 10)  // of the L1
#define PANELS_BYTES ((size_t)256 << 10)    // of the L2
#define TILE_ROW_BYTES ((size_t)4 << 10)
#define KEPT_ROW_BYTES ((size_t)32 << 10)  // both ends of each are broken cache lines

// Points of a million features: a tile must not take longer, since Ctrl-C waits for it.
#define TILE_NS 10e6

struct pd_metric {
    const char *name;
    pd_cell cell;
    pd_finish finish;
    double feature_ns;  // about what a feature of a pair costs with AVX2 in double
    double pair_ns;     // about what a pair costs besides
};

static const pd_metric metrics[] = {
    {"cityblock",   PD_CELL_ABS,     PD_FINISH_NONE, 0.08, 0.2},
    {"sqeuclidean", PD_CELL_SQUARES, PD_FINISH_NONE, 0.05, 0.2},
    {"euclidean",   PD_CELL_SQUARES, PD_FINISH_SQRT, 0.05, 0.8},
    {"chebyshev",   PD_CELL_MAX,     PD_FINISH_NONE, 0.08, 0.2},
    {"rbf",         PD_CELL_SQUARES, PD_FINISH_EXP,  0.05, 1.5},
};

typedef struct metric_producer {
    pd_producer base;
    const pd_metric *metric;
    const pd_simd *simd;
    const pd_metric_ops *ops;
    pd_matrix x;
    pd_matrix y;
    double parameter;
    size_t chunk;         // features packed at a time, at least 1
    size_t panel_stride;  // columns of a panel
    bool x_is_packed;     // rows of x can be read where they are
    bool widens;          // float sums are flushed into double
    size_t x_offset;      // of the parts of the scratch, in bytes
    size_t flush_offset;
    size_t wide_offset;
} metric_producer;

const pd_metric *
pd_metric_named(const char *name)
{
    for (size_t i = 0; i < sizeof(metrics) / sizeof(metrics[0]); i++) {
        if (strcmp(metrics[i].name, name) == 0) {
            return &metrics[i];
        }
    }
    return NULL;
}

static size_t
round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static size_t
smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static const char *
element(const pd_matrix *matrix, size_t row, size_t col)
{
    return matrix->data + (ptrdiff_t)row * matrix->row_stride +
           (ptrdiff_t)col * matrix->col_stride;
}

// Packs the features from .. from + count of a column block.
static void
pack_columns(const metric_producer *self,
             size_t col,
             size_t cols,
             size_t from,
             size_t count,
             char *panels)
{
    size_t stride = self->panel_stride;
    size_t panel_bytes = stride * count * pd_real_size(self->base.real);
    for (size_t c = 0; c < cols; c += stride) {
        self->ops->pack_panel(element(&self->y, col + c, from), self->y.row_stride,
                              self->y.col_stride, smaller(stride, cols - c), count,
                              panels, stride);
        panels += panel_bytes;
    }
}

static pd_status
prepare_metric(const pd_producer *base, size_t col, size_t cols, void *scratch)
{
    const metric_producer *self = (const metric_producer *)base;
    if (self->chunk >= self->x.cols) {
        pack_columns(self, col, cols, 0, self->x.cols, scratch);
    }
    return PD_OK;
}

// Adds the terms of `count` features to the float sums of a block of pairs, by way of
// short float sums that are flushed into double ones.
static void
add_widened(const metric_producer *self,
            const float *x,
            size_t x_stride,
            size_t rows,
            const float *panel,
            size_t count,
            float *sums,
            double *wide,
            size_t wide_stride,
            bool first)
{
    size_t nr = self->ops->panel_cols;
    for (size_t k = 0; k < count; k += PD_METRIC_FLUSH) {
        size_t terms = smaller(PD_METRIC_FLUSH, count - k);
        self->ops->cells[self->metric->cell](x + k, x_stride, rows, panel + k * nr, nr,
                                             terms, sums, nr, true);
        self->ops->flush(sums, rows, wide, wide_stride, first && k == 0);
    }
}

// One chunk of features of a tile.
static void
add_chunk(const metric_producer *self,
          pd_tile *tile,
          char *scratch,
          const char *x,
          size_t x_stride,
          size_t count,
          bool first)
{
    size_t nr = self->ops->panel_cols;
    size_t size = pd_real_size(self->base.real);
    for (size_t c = 0; c < tile->cols; c += nr) {
        size_t panel_at = c / self->panel_stride * self->panel_stride * count;
        const char *panel = scratch + (panel_at + c % self->panel_stride) * size;
        for (size_t r = 0; r < tile->rows; r += PD_CELL_ROWS) {
            size_t rows = smaller(PD_CELL_ROWS, tile->rows - r);
            const char *from = x + r * x_stride * size;
            if (self->widens) {
                double *wide = (double *)(void *)(scratch + self->wide_offset);
                add_widened(self, (const float *)(const void *)from, x_stride, rows,
                            (const float *)(const void *)panel, count,
                            (float *)(void *)(scratch + self->flush_offset),
                            wide + r * tile->stride + c, tile->stride, first);
            }
            else {
                char *sums = (char *)tile->values + (r * tile->stride + c) * size;
                self->ops->cells[self->metric->cell](from, x_stride, rows, panel,
                                                     self->panel_stride, count, sums,
                                                     tile->stride, first);
            }
        }
    }
}

static void
finish_tile(const metric_producer *self, pd_tile *tile, char *scratch)
{
    size_t size = pd_real_size(self->base.real);
    for (size_t r = 0; r < tile->rows; r++) {
        char *row = (char *)tile->values + r * tile->stride * size;
        if (self->widens) {
            double *wide =
                (double *)(void *)(scratch + self->wide_offset) + r * tile->stride;
            const pd_rounding cast = {.rounds = false};
            self->simd->metrics[PD_F64]->finish[self->metric->finish](wide, tile->cols,
                                                                      self->parameter);
            self->simd->store->row[PD_F64][PD_F32](wide, row, tile->cols, &cast, false);
        }
        else {
            self->ops->finish[self->metric->finish](row, tile->cols, self->parameter);
        }
    }
}

// The features from .. from + count of the tile's rows, as arrays of reals.
static const char *
rows_of_tile(const metric_producer *self,
             const pd_tile *tile,
             char *scratch,
             size_t from,
             size_t count,
             size_t *x_stride)
{
    const char *x = element(&self->x, tile->row, from);
    if (self->x_is_packed) {
        *x_stride = (size_t)self->x.row_stride / pd_real_size(self->base.real);
        return x;
    }
    char *packed = scratch + self->x_offset;
    self->ops->pack_rows(x, self->x.row_stride, self->x.col_stride, tile->rows, count,
                         packed);
    *x_stride = count;
    return packed;
}

static pd_status
fill_metric(const pd_producer *base, pd_tile *tile, void *scratch)
{
    const metric_producer *self = (const metric_producer *)base;
    size_t features = self->x.cols;
    size_t from = 0;
    do {
        size_t count = smaller(self->chunk, features - from);
        if (features > self->chunk) {
            pack_columns(self, tile->col, tile->cols, from, count, scratch);
        }
        size_t x_stride;
        const char *x = rows_of_tile(self, tile, scratch, from, count, &x_stride);
        add_chunk(self, tile, scratch, x, x_stride, count, from == 0);
        from += count;
    } while (from < features);
    finish_tile(self, tile, scratch);
    return PD_OK;
}

static pd_status
keep_metric(const pd_producer *base,
            const pd_tile *tile,
            const pd_sink *sink,
            void *scratch)
{
    const metric_producer *self = (const metric_producer *)base;
    pd_fused_job job = {
        .rows = tile->rows,
        .columns = scratch,
        .column_stride = self->panel_stride,
        .cols = tile->cols,
        .features = self->x.cols,
        .finish = self->metric->finish,
        .parameter = self->parameter,
        .out = (char *)sink->out +
               (tile->row * sink->stride + tile->col) * pd_real_size(sink->real),
        .out_stride = sink->stride,
        .rounding = &sink->rounding,
        .stream = sink->streams,
    };
    job.x = rows_of_tile(self, tile, scratch, 0, self->x.cols, &job.x_stride);
    self->simd->fused->rows[self->metric->cell][self->base.real][sink->real](&job);
    return PD_OK;
}

// Whether the rows of x can be read as arrays of reals at a positive stride of reals.
static bool
rows_are_packed(const pd_matrix *x)
{
    ptrdiff_t size = (ptrdiff_t)pd_real_size(x->real);
    return (x->cols <= 1 || x->col_stride == size) && x->row_stride >= 0 &&
           x->row_stride % size == 0;
}

// Columns of a tile whose panels, and one row of whose values, take so many bytes.
static size_t
columns_within(const metric_producer *self, size_t panel_bytes, size_t row_bytes)
{
    size_t size = pd_real_size(self->base.real);
    size_t nr = self->ops->panel_cols;
    size_t cols = smaller(panel_bytes / (self->chunk * size), row_bytes / size);
    cols = round_up(cols > nr ? cols : nr, nr);
    return smaller(cols, round_up(self->y.rows > 0 ? self->y.rows : 1, nr));
}

static void
choose_tile(metric_producer *self)
{
    size_t features = self->x.cols;
    bool few = features <= FEW_FEATURES;
    self->chunk = smaller(features > 0 ? features : 1, CHUNK);
    self->base.tile_rows = features > CHUNK ? 128 : few ? 8 : 32;
    self->base.tile_cols =
        columns_within(self, few ? FEW_PANEL_BYTES : PANELS_BYTES, TILE_ROW_BYTES);
    double tile_ns = self->base.pair_ns * (double)self->base.tile_rows *
                     (double)self->base.tile_cols;
    for (; tile_ns > TILE_NS && self->base.tile_rows > PD_CELL_ROWS; tile_ns /= 2) {
        self->base.tile_rows /= 2;
    }
    self->panel_stride = self->ops->panel_cols;
    if (few) {
        self->base.keep = keep_metric;
        self->base.keep_cols = columns_within(self, FEW_PANEL_BYTES, KEPT_ROW_BYTES);
        self->panel_stride = self->base.keep_cols + PD_FUSED_PADDING;
    }
}

static void
lay_out_scratch(metric_producer *self)
{
    size_t size = pd_real_size(self->base.real);
    size_t nr = self->ops->panel_cols;
    size_t stride = round_up(self->base.tile_cols * size, PD_CACHE_LINE) / size;
    size_t packed_cols = round_up(self->base.tile_cols, self->panel_stride);
    size_t at = round_up(packed_cols * self->chunk * size, PD_CACHE_LINE);
    self->x_offset = at;
    if (!self->x_is_packed) {
        at += round_up(self->base.tile_rows * self->chunk * size, PD_CACHE_LINE);
    }
    self->flush_offset = at;
    self->wide_offset = at + round_up(PD_CELL_ROWS * nr * size, PD_CACHE_LINE);
    if (self->widens) {
        at = self->wide_offset + self->base.tile_rows * stride * sizeof(double);
    }
    self->base.scratch_bytes = at;
}

pd_status
pd_metric_producer_create(const pd_metric *metric,
                          const pd_matrix *x,
                          const pd_matrix *y,
                          double parameter,
                          const pd_simd *simd,
                          pd_producer **out)
{
    if (x->cols != y->cols || x->real != y->real) {
        return PD_EINVAL;
    }
    metric_producer *self = pd_calloc(1, sizeof(*self));
    if (self == NULL) {
        return PD_ENOMEM;
    }
    double scale = x->real == PD_F32 ? 0.5 : 1.0;
    *self = (metric_producer){
        .base =
            {
                   .real = x->real,
                   .pair_ns =
                    scale * (metric->pair_ns + metric->feature_ns * (double)x->cols),
                   .prepare = prepare_metric,
                   .fill = fill_metric,
                   },
        .metric = metric,
        .simd = simd,
        .ops = simd->metrics[x->real],
        .x = *x,
        .y = *y,
        .parameter = parameter,
        .x_is_packed = rows_are_packed(x),
        .widens = x->real == PD_F32 && metric->cell != PD_CELL_MAX &&
                  x->cols > PD_METRIC_FLUSH,
    };
    choose_tile(self);
    lay_out_scratch(self);
    *out = &self->base;
    return PD_OK;
}

void
pd_metric_producer_destroy(pd_producer *producer)
{
    pd_free(producer);
}
