// Interpretation by blocks: each instruction is one vectorised loop over a block of columns,
// so that what it costs to interpret is spread over hundreds of pairs, while all blocks
// that are alive fit the L1.
//
//      scratch of a thread
//      +--------+-------+----------+---------------------+------------+---------+---------+
//      | where  | x of  | NARROW   | y of the block's    | WIDE and   | folds   | floats  |
//      | each   | the   | slots,   | columns, a feature  | COLUMN     |         | for the |
//      | slot   | row   | a double | a row of the panel  | slots,     |         | foreign |
//      | is     |       | each     | [feature][block]    | a block    |         |         |
//      +--------+-------+----------+---------------------+------------+---------+---------+
//
// A load moves no data: it points its slot at the feature.  Likewise the slot of the value
// is pointed at the tile's row, so that the last instruction writes there.
//
// Why no compiler: a traced function is a handful of operations; interpreted by blocks
// abs(a - b) is as fast as the hand-written loop, since both wait for memory.
#include "expr/machine.h"

#include <stdint.h>
#include <string.h>

#include "base/alloc.h"

#define LEAST_COLS 8
#define MOST_COLS 1024
#define BLOCKS_BYTES ((size_t)32 << 10)  // of all blocks together: an L1
#define PANEL_BYTES ((size_t)256 << 10)  // of a panel, if more than LEAST_COLS fit
#define TILE_ROWS 4

// What an instruction costs for one pair, about; a foreign function is dearer.
#define OPERATION_NS 0.12
#define FOREIGN_NS 3.0

typedef struct machine {
    pd_producer base;
    pd_program *program;  // owned
    const pd_simd *simd;
    pd_matrix x;
    pd_matrix y;
    size_t *slot_offset;  // owned; in bytes from the scratch's start
    size_t fold_state;    // offsets of the other parts, in bytes
    size_t x_row;
    size_t panel;
    size_t fold_blocks;
    size_t floats;
} machine;

// One thread's view of its scratch.
typedef struct context {
    const machine *self;
    char *scratch;
    double **at;  // where each slot is now
    size_t cols;  // of the present block
} context;

static context
enter(const machine *self, void *scratch, size_t cols)
{
    return (context){.self = self, .scratch = scratch, .at = scratch, .cols = cols};
}

static double *
doubles_at(const context *ctx, size_t offset)
{
    return (double *)(void *)(ctx->scratch + offset);
}

// ------------------------------------------------------------------------------
// Running a program
// ------------------------------------------------------------------------------

static void
point_loads(const context *ctx, const pd_stage *stage, size_t k)
{
    const machine *self = ctx->self;
    for (size_t i = 0; i < stage->load_count; i++) {
        const pd_load *load = &stage->loads[i];
        size_t element = (size_t)((ptrdiff_t)load->start + (ptrdiff_t)k * load->step);
        switch (load->source) {
            case PD_SOURCE_X:
                ctx->at[load->slot] = doubles_at(ctx, self->x_row) + element;
                break;
            case PD_SOURCE_Y:
                ctx->at[load->slot] =
                    doubles_at(ctx, self->panel) + element * self->base.tile_cols;
                break;
            default:
                ctx->at[load->slot] = self->program->constants + element;
                break;
        }
    }
}

// A function of floats: its values are floats already, held in doubles.
static void
call_single(const context *ctx, const pd_instruction *op, const pd_foreign *foreign)
{
    size_t block = ctx->self->base.tile_cols;
    float *floats = (float *)(void *)(ctx->scratch + ctx->self->floats);
    char *args[PD_BLOCK_MAX_INPUTS + 1];
    ptrdiff_t steps[PD_BLOCK_MAX_INPUTS + 1];
    size_t n = op->wide ? ctx->cols : 1;
    for (size_t k = 0; k < op->inputs; k++) {
        size_t count = op->steps[k] == 0 ? 1 : n;
        float *to = floats + k * block;
        for (size_t i = 0; i < count; i++) {
            to[i] = (float)ctx->at[op->src[k]][i];
        }
        args[k] = (char *)to;
        steps[k] = op->steps[k] == 0 ? 0 : (ptrdiff_t)sizeof(float);
    }
    float *result = floats + op->inputs * block;
    args[op->inputs] = (char *)result;
    steps[op->inputs] = sizeof(float);
    foreign->loop(args, &(ptrdiff_t){(ptrdiff_t)n}, steps, foreign->data);
    for (size_t i = 0; i < n; i++) {
        ctx->at[op->dst][i] = (double)result[i];
    }
}

static void
run_instruction(const context *ctx, const pd_instruction *op)
{
    pd_block_loop loop;
    void *data = NULL;
    if (op->operation < PD_BLOCK_OPS) {
        loop = ctx->self->simd->blocks[op->operation];
    }
    else {
        const pd_foreign *foreign =
            &ctx->self->program->foreign[op->operation - PD_BLOCK_OPS];
        if (foreign->single) {
            call_single(ctx, op, foreign);
            return;
        }
        loop = foreign->loop;
        data = foreign->data;
    }
    char *args[PD_BLOCK_MAX_INPUTS + 1];
    for (size_t k = 0; k < op->inputs; k++) {
        args[k] = (char *)ctx->at[op->src[k]];
    }
    args[op->inputs] = (char *)ctx->at[op->dst];
    ptrdiff_t n = op->wide ? (ptrdiff_t)ctx->cols : 1;
    loop(args, &n, op->steps, data);
}

static size_t
lanes_of(const context *ctx, size_t slot)
{
    return ctx->self->program->slots[slot] == PD_SLOT_NARROW ? 1 : ctx->cols;
}

static void
take_folds(const context *ctx, const pd_stage *stage, pd_fold *states)
{
    const machine *self = ctx->self;
    size_t block = self->base.tile_cols;
    double *blocks = doubles_at(ctx, self->fold_blocks);
    for (size_t i = 0; i < stage->fold_count; i++) {
        const pd_stage_fold *fold = &stage->folds[i];
        pd_fold_take(fold->plan, &states[i], self->simd, ctx->at[fold->src],
                     lanes_of(ctx, fold->src), block, blocks + fold->offset * block);
    }
}

static void
end_folds(const context *ctx, const pd_stage *stage)
{
    size_t block = ctx->self->base.tile_cols;
    const double *blocks = doubles_at(ctx, ctx->self->fold_blocks);
    for (size_t i = 0; i < stage->fold_count; i++) {
        const pd_stage_fold *fold = &stage->folds[i];
        memcpy(ctx->at[fold->dst],
               pd_fold_result(fold->plan, blocks + fold->offset * block, block),
               lanes_of(ctx, fold->dst) * sizeof(double));
    }
}

static void
run_stage(const context *ctx, const pd_stage *stage)
{
    pd_fold *states = (pd_fold *)(void *)(ctx->scratch + ctx->self->fold_state);
    memset(states, 0, stage->fold_count * sizeof(*states));
    size_t times = stage->length > 0 ? stage->length : 1;
    for (size_t k = 0; k < times; k++) {
        point_loads(ctx, stage, k);
        for (size_t i = 0; i < stage->instruction_count; i++) {
            run_instruction(ctx, &stage->instructions[i]);
        }
        take_folds(ctx, stage, states);
    }
    end_folds(ctx, stage);
}

// ------------------------------------------------------------------------------
// The producer
// ------------------------------------------------------------------------------

static double
element(const pd_matrix *matrix, size_t row, size_t feature)
{
    const char *from = matrix->data + (ptrdiff_t)row * matrix->row_stride +
                       (ptrdiff_t)feature * matrix->col_stride;
    return matrix->real == PD_F32 ? (double)*(const float *)(const void *)from
                                  : *(const double *)(const void *)from;
}

static pd_status
prepare_block(const pd_producer *base, size_t col, size_t cols, void *scratch)
{
    const machine *self = (const machine *)base;
    const pd_program *program = self->program;
    context ctx = enter(self, scratch, cols);
    for (size_t slot = 0; slot < program->slot_count; slot++) {
        ctx.at[slot] = doubles_at(&ctx, self->slot_offset[slot]);
    }
    double *panel = doubles_at(&ctx, self->panel);
    for (size_t c = 0; c < cols; c++) {
        for (size_t k = 0; k < self->y.cols; k++) {
            panel[k * base->tile_cols + c] = element(&self->y, col + c, k);
        }
    }
    for (size_t i = 0; i < program->prepare_count; i++) {
        run_stage(&ctx, &program->stages[i]);
    }
    return PD_OK;
}

// Where the slot's values are wanted: a wide slot may be computed right there.
static void
aim(const context *ctx, size_t slot, double *row)
{
    if (ctx->self->program->slots[slot] == PD_SLOT_WIDE) {
        ctx->at[slot] = row;
    }
}

// Copies what could not be computed in place.
static void
deliver(const context *ctx, size_t slot, double *row)
{
    if (ctx->at[slot] == row) {
        return;
    }
    size_t step = ctx->self->program->slots[slot] == PD_SLOT_NARROW ? 0 : 1;
    for (size_t c = 0; c < ctx->cols; c++) {
        row[c] = ctx->at[slot][c * step];
    }
}

static pd_status
fill_tile(const pd_producer *base, pd_tile *tile, void *scratch)
{
    const machine *self = (const machine *)base;
    const pd_program *program = self->program;
    context ctx = enter(self, scratch, tile->cols);
    double *x = doubles_at(&ctx, self->x_row);
    for (size_t r = 0; r < tile->rows; r++) {
        double *values = (double *)tile->values + r * tile->stride;
        double *doubts = NULL;
        for (size_t k = 0; k < self->x.cols; k++) {
            x[k] = element(&self->x, tile->row + r, k);
        }
        if (program->doubt != SIZE_MAX) {
            doubts = (double *)tile->doubts + r * tile->stride;
            aim(&ctx, program->doubt, doubts);
        }
        aim(&ctx, program->value, values);
        for (size_t i = program->prepare_count; i < program->stage_count; i++) {
            run_stage(&ctx, &program->stages[i]);
        }
        deliver(&ctx, program->value, values);
        if (doubts != NULL) {
            deliver(&ctx, program->doubt, doubts);
        }
    }
    return PD_OK;
}

// ------------------------------------------------------------------------------
// Making one
// ------------------------------------------------------------------------------

static double
cost_of_pair(const pd_program *program)
{
    double ns = 0.3;
    for (size_t i = program->prepare_count; i < program->stage_count; i++) {
        const pd_stage *stage = &program->stages[i];
        double once = OPERATION_NS * (double)stage->fold_count;
        for (size_t k = 0; k < stage->instruction_count; k++) {
            if (stage->instructions[k].wide) {
                once += stage->instructions[k].operation < PD_BLOCK_OPS ? OPERATION_NS
                                                                        : FOREIGN_NS;
            }
        }
        ns += once * (stage->length > 0 ? (double)stage->length : 1);
    }
    return ns;
}

static size_t
count_blocks(const pd_program *program)
{
    size_t blocks = program->fold_blocks + 1;
    for (size_t slot = 0; slot < program->slot_count; slot++) {
        blocks += program->slots[slot] != PD_SLOT_NARROW;
    }
    return blocks;
}

static size_t
choose_cols(const pd_program *program, size_t features, size_t columns)
{
    size_t cols = BLOCKS_BYTES / sizeof(double) / count_blocks(program);
    size_t panel_cols = PANEL_BYTES / sizeof(double) / (features > 0 ? features : 1);
    cols = cols < panel_cols ? cols : panel_cols;
    cols = cols < MOST_COLS ? cols : MOST_COLS;
    cols = cols < columns ? cols : columns;
    // Whole cache lines, also where there are fewer columns.
    return cols < LEAST_COLS ? LEAST_COLS
                             : (cols + LEAST_COLS - 1) / LEAST_COLS * LEAST_COLS;
}

// Appends `count` things of `size` bytes to the scratch; false on overflow.
static bool
append(size_t *end, size_t count, size_t size, size_t *offset)
{
    size_t bytes;
    if (!pd_multiply(count, size, &bytes) || bytes > SIZE_MAX / 4 - *end) {
        return false;
    }
    *offset = *end;
    *end = (*end + bytes + PD_CACHE_LINE - 1) & ~(size_t)(PD_CACHE_LINE - 1);
    return true;
}

static bool
lay_out_scratch(machine *self)
{
    const pd_program *program = self->program;
    size_t block = self->base.tile_cols;
    size_t end = 0;
    size_t pointers;
    size_t narrow;
    bool fits =
        append(&end, program->slot_count, sizeof(double *), &pointers) &&
        append(&end, program->most_folds, sizeof(pd_fold), &self->fold_state) &&
        append(&end, self->x.cols, sizeof(double), &self->x_row) &&
        append(&end, program->slot_count, sizeof(double), &narrow) &&
        append(&end, self->y.cols * block, sizeof(double), &self->panel) &&
        append(&end, program->fold_blocks, block * sizeof(double),
               &self->fold_blocks) &&
        append(&end, (PD_BLOCK_MAX_INPUTS + 1) * block, sizeof(float), &self->floats);
    for (size_t slot = 0; fits && slot < program->slot_count; slot++) {
        if (program->slots[slot] == PD_SLOT_NARROW) {
            self->slot_offset[slot] = narrow + slot * sizeof(double);
        }
        else {
            fits = append(&end, block, sizeof(double), &self->slot_offset[slot]);
        }
    }
    self->base.scratch_bytes = end;
    return fits;
}

pd_status
pd_machine_create(pd_program *program,
                  const pd_matrix *x,
                  const pd_matrix *y,
                  const pd_simd *simd,
                  pd_producer **out)
{
    if (x->cols != y->cols || x->cols > PD_MACHINE_MAX_FEATURES) {
        return PD_EINVAL;
    }
    machine *self = pd_calloc(1, sizeof(*self));
    if (self == NULL) {
        return PD_ENOMEM;
    }
    self->slot_offset = pd_calloc(program->slot_count, sizeof(*self->slot_offset));
    if (self->slot_offset == NULL) {
        goto fail;
    }
    self->base = (pd_producer){
        .real = PD_F64,
        .has_doubts = program->doubt != SIZE_MAX,
        .tile_rows = TILE_ROWS,
        .tile_cols = choose_cols(program, x->cols, y->rows),
        .pair_ns = cost_of_pair(program),
        .prepare = prepare_block,
        .fill = fill_tile,
    };
    self->program = program;
    self->simd = simd;
    self->x = *x;
    self->y = *y;
    if (!lay_out_scratch(self)) {
        goto fail;
    }
    *out = &self->base;
    return PD_OK;

fail:
    pd_free(self->slot_offset);
    pd_free(self);
    return PD_ENOMEM;
}

void
pd_machine_destroy(pd_producer *producer)
{
    if (producer == NULL) {
        return;
    }
    machine *self = (machine *)producer;
    pd_program_destroy(self->program);
    pd_free(self->slot_offset);
    pd_free(self);
}
