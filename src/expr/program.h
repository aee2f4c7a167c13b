// A traced function as a program: what to compute for one row against a block of columns.
//
// A program works on *slots*.  What a slot holds decides how often it is computed:
//
//     NARROW   one value                        for each row
//     WIDE     one value for each column        for each row
//     COLUMN   one value for each column        once for a block of columns
//
// and is made of *stages*, the first few of which (the prepare part) run once for a block of
// columns and know nothing of rows.  A stage of length 0 runs its instructions once.  A
// stage of length L runs them for k = 0 .. L-1, its loads giving them feature
// `start + k * step` of the two points (or that element of the constants), and its folds
// reducing values over k:
//
//     sum((a - b)**2)       stage, length d        then a stage of length 0
//     and its root          load  s0 = x[k]        s4 = SQRT s3
//                           load  s1 = y[k]
//                           s2 = SQDIFF s0 s1
//                           fold  s3 = ADD s2
//
// Programs come as words, so that they can be stored and sent; parsing checks everything,
// and no sequence of words makes a program that touches memory that is not its own:
//
//     constants (count, then their bits)
//     slots (count, then a pd_slot each)
//     stages of the prepare part (count), stages of the rest (count), then the stages:
//         length
//         loads        (count; slot, pd_source, start, step)
//         instructions (count; operation, destination, then as many sources as it takes)
//         folds        (count; pd_fold_op, source, destination)
//     the slot of the value, the slot of the doubt or -1
//
// An operation below PD_BLOCK_OPS is one of simd/blocks.h; those from there on are the
// caller's functions, in order.
#ifndef PD_EXPR_PROGRAM_H
#define PD_EXPR_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "expr/fold.h"
#include "simd/blocks.h"

// No stage is longer: a block of the columns' points would not stay in a cache.
#define PD_PROGRAM_MAX_LENGTH 16384

typedef enum pd_slot {
    PD_SLOT_NARROW,
    PD_SLOT_WIDE,
    PD_SLOT_COLUMN,
} pd_slot;

typedef enum pd_source {
    PD_SOURCE_X,          // a feature of the row's point: NARROW
    PD_SOURCE_Y,          // a feature of the columns' points: COLUMN
    PD_SOURCE_CONSTANTS,  // NARROW
} pd_source;

// A function of somebody else, of doubles or (`single`) floats, in the shape of
// simd/blocks.h.  It may run on many threads at once and must not fail.
typedef struct pd_foreign {
    pd_block_loop loop;
    void *data;
    size_t inputs;  // 1 .. PD_BLOCK_MAX_INPUTS
    bool single;
} pd_foreign;

typedef struct pd_load {
    size_t slot;
    pd_source source;
    size_t start;
    ptrdiff_t step;
} pd_load;

typedef struct pd_instruction {
    size_t operation;
    size_t inputs;
    size_t dst;
    size_t src[PD_BLOCK_MAX_INPUTS];
    ptrdiff_t steps[PD_BLOCK_MAX_INPUTS + 1];  // of the sources, then the destination
    bool wide;                                 // over all columns; else one value
} pd_instruction;

typedef struct pd_stage_fold {
    pd_fold_plan *plan;  // owned
    size_t src;
    size_t dst;
    size_t offset;  // of its scratch, in blocks, among all folds of the program
} pd_stage_fold;

typedef struct pd_stage {
    size_t length;
    pd_load *loads;  // owned, as are the next two
    size_t load_count;
    pd_instruction *instructions;
    size_t instruction_count;
    pd_stage_fold *folds;
    size_t fold_count;
} pd_stage;

// Immutable once parsed: threads share it.
typedef struct pd_program {
    double *constants;
    size_t constant_count;
    pd_slot *slots;
    size_t slot_count;
    pd_foreign *foreign;
    size_t foreign_count;
    pd_stage *stages;
    size_t prepare_count;  // of these, the first
    size_t stage_count;
    size_t fold_blocks;  // scratch blocks of all folds
    size_t most_folds;   // of any stage
    size_t value;        // slot
    size_t doubt;        // slot; SIZE_MAX for none
} pd_program;

// Parses and checks `count` words for points of `features` features; the caller owns
// *program.  `foreign` is copied, what it points to is borrowed.
//
// PD_EINVAL if the words are no valid program; PD_ENOMEM.
pd_status pd_program_parse(const int64_t *words,
                           size_t count,
                           const pd_foreign *foreign,
                           size_t foreign_count,
                           size_t features,
                           pd_program **program);

// Accepts NULL.  Can't fail.
void pd_program_destroy(pd_program *program);

#endif
