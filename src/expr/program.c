// Parsing programs: one pass over the words with every number checked as it is read.
//
// Invariants of what comes out
//   I1  Every slot is written before it is read, by loads or instructions or folds.
//   I2  A slot that a load sets is set by one load only and never written otherwise.
//   I3  An instruction is wide if and only if its destination is not NARROW; then at
//       least one of its sources is not NARROW, or it copies.  A narrow one has narrow
//       sources.  An instruction never writes one of its sources.
//   I4  The prepare part writes no WIDE slots, the rest no COLUMN ones and none that the
//       prepare part wrote: what a row is given does not depend on the rows before.
#include "expr/program.h"

#include <string.h>

#include "base/alloc.h"

// More is a mistake or an attack: no traced function comes near.
#define MOST_WORDS ((int64_t)1 << 24)

typedef struct reader {
    const int64_t *at;
    const int64_t *end;
    bool failed;     // a number was missing or out of range
    bool *written;   // one a slot (I1)
    bool *is_fixed;  // one a slot: not to be written any more (I2, I4)
    bool preparing;  // inside the prepare part
    size_t features;
} reader;

// The next word, which must be within low .. high; low if it is not, and all reading fails.
static int64_t
take(reader *r, int64_t low, int64_t high)
{
    if (r->failed || r->at == r->end || *r->at < low || *r->at > high) {
        r->failed = true;
        return low;
    }
    return *r->at++;
}

static size_t
take_count(reader *r)
{
    return (size_t)take(r, 0, r->end - r->at);
}

static size_t
take_slot(reader *r, const pd_program *p)
{
    return (size_t)take(r, 0, (int64_t)p->slot_count - 1);
}

// A slot that holds something by now.
static size_t
take_source(reader *r, const pd_program *p)
{
    size_t slot = take_slot(r, p);
    if (!r->failed && !r->written[slot]) {
        r->failed = true;
    }
    return slot;
}

// A slot to write (I2, I4).
static size_t
take_destination(reader *r, const pd_program *p)
{
    size_t slot = take_slot(r, p);
    pd_slot foreign_part = r->preparing ? PD_SLOT_WIDE : PD_SLOT_COLUMN;
    if (!r->failed && (r->is_fixed[slot] || p->slots[slot] == foreign_part)) {
        r->failed = true;
    }
    return slot;
}

static void
parse_load(reader *r, const pd_program *p, const pd_stage *stage, pd_load *load)
{
    load->slot = take_slot(r, p);
    load->source = (pd_source)take(r, PD_SOURCE_X, PD_SOURCE_CONSTANTS);
    size_t available =
        load->source == PD_SOURCE_CONSTANTS ? p->constant_count : r->features;
    int64_t last = (int64_t)available - 1;
    load->start = (size_t)take(r, 0, last);
    load->step = (ptrdiff_t)take(r, -last, last);
    if (r->failed) {
        return;
    }
    int64_t steps = stage->length > 0 ? (int64_t)stage->length - 1 : 0;
    int64_t reach;
    pd_slot kind = load->source == PD_SOURCE_Y ? PD_SLOT_COLUMN : PD_SLOT_NARROW;
    r->failed = __builtin_mul_overflow(steps, (int64_t)load->step, &reach) ||
                __builtin_add_overflow(reach, (int64_t)load->start, &reach) ||
                reach < 0 || reach > last || p->slots[load->slot] != kind ||
                r->written[load->slot] || (r->preparing && load->source == PD_SOURCE_X);
    r->written[load->slot] = true;
    r->is_fixed[load->slot] = true;
}

static size_t
inputs_of(const pd_program *p, size_t operation)
{
    static const unsigned char inputs[PD_BLOCK_OPS] = {
#define INPUTS(name, inputs, expression) inputs,
        PD_BLOCK_OP_TABLE(INPUTS)
#undef INPUTS
    };
    return operation < PD_BLOCK_OPS ? inputs[operation]
                                    : p->foreign[operation - PD_BLOCK_OPS].inputs;
}

static void
parse_instruction(reader *r, const pd_program *p, pd_instruction *op)
{
    op->operation = (size_t)take(r, 0, PD_BLOCK_OPS + (int64_t)p->foreign_count - 1);
    op->dst = take_destination(r, p);
    if (r->failed) {
        return;
    }
    op->inputs = inputs_of(p, op->operation);
    op->wide = p->slots[op->dst] != PD_SLOT_NARROW;
    bool any_wide = false;
    for (size_t k = 0; k < op->inputs; k++) {
        op->src[k] = take_source(r, p);
        if (r->failed) {
            return;
        }
        bool wide = p->slots[op->src[k]] != PD_SLOT_NARROW;
        op->steps[k] = wide ? (ptrdiff_t)sizeof(double) : 0;
        any_wide = any_wide || wide;
        r->failed = op->src[k] == op->dst;
    }
    op->steps[op->inputs] = sizeof(double);
    r->failed = r->failed ||
                (op->wide ? !any_wide && op->operation != PD_BLOCK_COPY : any_wide);
    r->written[op->dst] = true;
}

// A fold's destination becomes readable after its stage.
static pd_status
parse_fold(reader *r, pd_program *p, const pd_stage *stage, pd_stage_fold *fold)
{
    pd_fold_op op = (pd_fold_op)take(r, 0, PD_FOLD_OPS - 1);
    fold->src = take_source(r, p);
    fold->dst = take_destination(r, p);
    if (r->failed || stage->length == 0 ||
        (p->slots[fold->src] == PD_SLOT_NARROW) !=
            (p->slots[fold->dst] == PD_SLOT_NARROW))
    {
        r->failed = true;
        return PD_EINVAL;
    }
    pd_status status = pd_fold_plan_create(op, stage->length, &fold->plan);
    if (status == PD_OK) {
        fold->offset = p->fold_blocks;
        p->fold_blocks += pd_fold_scratch(fold->plan, 1);
    }
    return status;
}

// An owned, zeroed array of as many entries as the next word says.
static pd_status
take_array(reader *r, size_t entry_bytes, void *array, size_t *count)
{
    size_t wanted = take_count(r);
    if (r->failed) {
        return PD_EINVAL;
    }
    void *entries = pd_calloc(wanted, entry_bytes);
    if (entries == NULL) {
        return PD_ENOMEM;
    }
    memcpy(array, &entries, sizeof(entries));
    *count = wanted;
    return PD_OK;
}

static pd_status
parse_stage(reader *r, pd_program *p, pd_stage *stage)
{
    stage->length = (size_t)take(r, 0, PD_PROGRAM_MAX_LENGTH);
    pd_status status =
        take_array(r, sizeof(*stage->loads), &stage->loads, &stage->load_count);
    for (size_t i = 0; status == PD_OK && i < stage->load_count; i++) {
        parse_load(r, p, stage, &stage->loads[i]);
    }
    if (status == PD_OK) {
        status = take_array(r, sizeof(*stage->instructions), &stage->instructions,
                            &stage->instruction_count);
    }
    for (size_t i = 0; status == PD_OK && i < stage->instruction_count; i++) {
        parse_instruction(r, p, &stage->instructions[i]);
    }
    if (status == PD_OK) {
        status =
            take_array(r, sizeof(*stage->folds), &stage->folds, &stage->fold_count);
    }
    for (size_t i = 0; status == PD_OK && i < stage->fold_count; i++) {
        status = parse_fold(r, p, stage, &stage->folds[i]);
    }
    for (size_t i = 0; status == PD_OK && i < stage->fold_count; i++) {
        r->written[stage->folds[i].dst] = true;
    }
    if (stage->fold_count > p->most_folds) {
        p->most_folds = stage->fold_count;
    }
    return status == PD_OK && r->failed ? PD_EINVAL : status;
}

static pd_status
parse_constants(reader *r, pd_program *p)
{
    pd_status status =
        take_array(r, sizeof(*p->constants), &p->constants, &p->constant_count);
    for (size_t i = 0; status == PD_OK && i < p->constant_count; i++) {
        int64_t bits = take(r, INT64_MIN, INT64_MAX);
        memcpy(&p->constants[i], &bits, sizeof(bits));
    }
    return status;
}

static pd_status
parse_slots(reader *r, pd_program *p)
{
    pd_status status = take_array(r, sizeof(*p->slots), &p->slots, &p->slot_count);
    for (size_t i = 0; status == PD_OK && i < p->slot_count; i++) {
        p->slots[i] = (pd_slot)take(r, PD_SLOT_NARROW, PD_SLOT_COLUMN);
    }
    if (status != PD_OK) {
        return status;
    }
    r->written = pd_calloc(p->slot_count, sizeof(*r->written));
    r->is_fixed = pd_calloc(p->slot_count, sizeof(*r->is_fixed));
    return r->written == NULL || r->is_fixed == NULL ? PD_ENOMEM : PD_OK;
}

static pd_status
parse_stages(reader *r, pd_program *p)
{
    size_t prepare = take_count(r);
    size_t rest = take_count(r);
    if (r->failed) {
        return PD_EINVAL;
    }
    p->stages = pd_calloc(prepare + rest, sizeof(*p->stages));
    if (p->stages == NULL) {
        return PD_ENOMEM;
    }
    p->prepare_count = prepare;
    p->stage_count = prepare + rest;
    pd_status status = PD_OK;
    for (size_t i = 0; status == PD_OK && i < p->stage_count; i++) {
        r->preparing = i < prepare;
        if (i == prepare) {
            memcpy(r->is_fixed, r->written, p->slot_count * sizeof(*r->is_fixed));
        }
        status = parse_stage(r, p, &p->stages[i]);
    }
    return status;
}

static pd_status
parse(reader *r, pd_program *p)
{
    pd_status status = parse_constants(r, p);
    if (status == PD_OK) {
        status = parse_slots(r, p);
    }
    if (status == PD_OK) {
        status = parse_stages(r, p);
    }
    if (status != PD_OK) {
        return status;
    }
    p->value = take_source(r, p);
    p->doubt = SIZE_MAX;
    if (!r->failed && r->at != r->end && *r->at == -1) {
        r->at++;
    }
    else {
        p->doubt = take_source(r, p);
    }
    return r->failed || r->at != r->end ? PD_EINVAL : PD_OK;
}

pd_status
pd_program_parse(const int64_t *words,
                 size_t count,
                 const pd_foreign *foreign,
                 size_t foreign_count,
                 size_t features,
                 pd_program **program)
{
    if (count > MOST_WORDS) {
        return PD_EINVAL;
    }
    pd_program *self = pd_calloc(1, sizeof(*self));
    if (self == NULL) {
        return PD_ENOMEM;
    }
    reader r = {.at = words, .end = words + count, .features = features};
    pd_status status = PD_ENOMEM;
    self->foreign = pd_alloc(foreign_count, sizeof(*foreign));
    if (self->foreign != NULL) {
        if (foreign_count > 0) {
            memcpy(self->foreign, foreign, foreign_count * sizeof(*foreign));
        }
        self->foreign_count = foreign_count;
        status = parse(&r, self);
    }
    pd_free(r.is_fixed);
    pd_free(r.written);
    if (status != PD_OK) {
        pd_program_destroy(self);
        return status;
    }
    *program = self;
    return PD_OK;
}

void
pd_program_destroy(pd_program *program)
{
    if (program == NULL) {
        return;
    }
    for (size_t i = 0; i < program->stage_count; i++) {
        pd_stage *stage = &program->stages[i];
        for (size_t k = 0; k < stage->fold_count; k++) {
            pd_fold_plan_destroy(stage->folds[k].plan);
        }
        pd_free(stage->folds);
        pd_free(stage->instructions);
        pd_free(stage->loads);
    }
    pd_free(program->stages);
    pd_free(program->foreign);
    pd_free(program->slots);
    pd_free(program->constants);
    pd_free(program);
}
