// Folds: a plan lists the runs of the summation tree, a fold walks it.
//
//      scratch, in blocks of `lanes` doubles
//      | r0 | r1 | ... | r7 | partial results, the deepest last ... |
//
// After a run its result lies on top of the partial results, and `merges` of the run says
// how many pairs of them are then complete.
#include "expr/fold.h"

#include <string.h>

#include "base/alloc.h"

#define LANE_SUMS 8
#define LONGEST_RUN 128

typedef struct run {
    size_t length;
    size_t merges;
} run;

struct pd_fold_plan {
    pd_fold_op op;
    size_t run_count;
    size_t depth;  // the most partial results at once
    run *runs;     // owned
};

// Whether runs have eight interleaved sums.
static bool
has_lane_sums(const pd_fold_plan *plan)
{
    return plan->op == PD_FOLD_ADD || plan->op == PD_FOLD_ADD_SINGLE;
}

static size_t
left_half(size_t length)
{
    size_t half = length / 2;
    return half - half % LANE_SUMS;
}

static size_t
count_runs(size_t length)
{
    if (length <= LONGEST_RUN) {
        return 1;
    }
    size_t left = left_half(length);
    return count_runs(left) + count_runs(length - left);
}

// Appends the runs of a tree over `length` elements; returns its depth.
static size_t
list_runs(size_t length, run *runs, size_t *count)
{
    if (length <= LONGEST_RUN) {
        runs[(*count)++] = (run){.length = length};
        return 1;
    }
    size_t left = left_half(length);
    size_t left_depth = list_runs(left, runs, count);
    size_t right_depth = list_runs(length - left, runs, count) + 1;
    runs[*count - 1].merges++;
    return left_depth > right_depth ? left_depth : right_depth;
}

pd_status
pd_fold_plan_create(pd_fold_op op, size_t length, pd_fold_plan **plan)
{
    if (length == 0 || op >= PD_FOLD_OPS) {
        return PD_EINVAL;
    }
    pd_fold_plan *self = pd_calloc(1, sizeof(*self));
    if (self == NULL) {
        return PD_ENOMEM;
    }
    self->op = op;
    bool tree = has_lane_sums(self);
    self->runs = pd_alloc(tree ? count_runs(length) : 1, sizeof(run));
    if (self->runs == NULL) {
        pd_free(self);
        return PD_ENOMEM;
    }
    if (tree) {
        self->depth = list_runs(length, self->runs, &self->run_count);
    }
    else {
        self->runs[0] = (run){.length = length};
        self->run_count = 1;
        self->depth = 1;
    }
    *plan = self;
    return PD_OK;
}

void
pd_fold_plan_destroy(pd_fold_plan *plan)
{
    if (plan != NULL) {
        pd_free(plan->runs);
        pd_free(plan);
    }
}

pd_fold_op
pd_fold_plan_op(const pd_fold_plan *plan)
{
    return plan->op;
}

static double *
partial_results(const pd_fold_plan *plan, double *scratch, size_t lanes)
{
    return scratch + (has_lane_sums(plan) ? LANE_SUMS * lanes : 0);
}

size_t
pd_fold_scratch(const pd_fold_plan *plan, size_t lanes)
{
    return (plan->depth + (has_lane_sums(plan) ? LANE_SUMS : 0)) * lanes;
}

// top = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7)); the sums are used up.
static void
join_lane_sums(pd_block_fold add, double *sums, size_t n, size_t lanes, double *top)
{
    for (size_t width = 1; width < LANE_SUMS; width *= 2) {
        for (size_t j = 0; j < LANE_SUMS; j += 2 * width) {
            add(sums + j * lanes, sums + (j + width) * lanes, n);
        }
    }
    memcpy(top, sums, n * sizeof(*top));
}

// One element of a run of at least LANE_SUMS.
static void
take_interleaved(pd_block_fold add,
                 const run *present,
                 size_t at,
                 const double *values,
                 size_t n,
                 size_t lanes,
                 double *sums,
                 double *top)
{
    size_t whole = present->length - present->length % LANE_SUMS;
    if (at < LANE_SUMS) {
        memcpy(sums + at * lanes, values, n * sizeof(*sums));
    }
    else if (at < whole) {
        add(sums + at % LANE_SUMS * lanes, values, n);
    }
    else {
        add(top, values, n);
    }
    if (at + 1 == whole) {
        join_lane_sums(add, sums, n, lanes, top);
    }
}

void
pd_fold_take(const pd_fold_plan *plan,
             pd_fold *fold,
             const pd_simd *simd,
             const double *values,
             size_t n,
             size_t lanes,
             double *scratch)
{
    pd_block_fold apply = simd->folds[plan->op];
    const run *present = &plan->runs[fold->run];
    double *partial = partial_results(plan, scratch, lanes);
    double *top = partial + fold->depth * lanes;
    if (has_lane_sums(plan) && present->length >= LANE_SUMS) {
        take_interleaved(apply, present, fold->at, values, n, lanes, scratch, top);
    }
    else if (fold->at == 0) {
        memcpy(top, values, n * sizeof(*top));
    }
    else {
        apply(top, values, n);
    }
    fold->at++;
    if (fold->at < present->length) {
        return;
    }
    for (size_t i = 0; i < present->merges; i++) {
        apply(top - lanes, top, n);
        top -= lanes;
        fold->depth--;
    }
    fold->depth++;
    fold->run++;
    fold->at = 0;
}

const double *
pd_fold_result(const pd_fold_plan *plan, const double *scratch, size_t lanes)
{
    return scratch + (has_lane_sums(plan) ? LANE_SUMS * lanes : 0);
}
