// The expression machine: blocks and folds against sums written down here, programs
// against an interpreter of one pair at a time, on every level and number of threads;
// words that are no program are refused, whatever they are; failing allocations leave
// nothing behind.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "check.h"
#include "expr/machine.h"
#include "pairwise/driver.h"
#include "pairwise/store.h"
#include "simd/simd.h"
#include "thread/team.h"

static uint64_t seed = 88172645463325252u;

static uint64_t
random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static size_t
random_below(size_t n)
{
    return (size_t)(random_bits() % n);
}

static double
random_number(void)
{
    static const double odd[] = {0.0,     -0.0,     1.0,     -1.0, 0.5,
                                 NAN,     INFINITY, DBL_MIN, 2.5,  -INFINITY,
                                 DBL_MAX, -3.5,     1e-320,  -0.5, -2.0};
    if (random_below(3) == 0) {
        return odd[random_below(sizeof(odd) / sizeof(*odd))];
    }
    return (double)(random_bits() >> 11) * 0x1p-51 - 2;
}

static bool
same(double a, double b)
{
    return memcmp(&a, &b, sizeof(a)) == 0 || (isnan(a) && isnan(b));
}

// ------------------------------------------------------------------------------
// What operations and folds are
// ------------------------------------------------------------------------------

static double
smaller(double a, double b)
{
    return isnan(a) ? a : isnan(b) ? b : b < a ? b : a;
}

static double
value_of(pd_block_op op, double a, double b, double c)
{
    switch (op) {
        case PD_BLOCK_COPY:
            return a;
        case PD_BLOCK_NEG:
            return copysign(a, signbit(a) ? 1 : -1);
        case PD_BLOCK_ABS:
            return fabs(a);
        case PD_BLOCK_SQRT:
            return sqrt(a);
        case PD_BLOCK_SQUARE:
            return a * a;
        case PD_BLOCK_FLOOR:
            return floor(a);
        case PD_BLOCK_CEIL:
            return ceil(a);
        case PD_BLOCK_TRUNC:
            return trunc(a);
        case PD_BLOCK_RINT:
            return nearbyint(a);
        case PD_BLOCK_SIGN:
            return isnan(a) ? a : (double)((a > 0) - (a < 0));
        case PD_BLOCK_ISNAN:
            return isnan(a) ? 1 : 0;
        case PD_BLOCK_ISFINITE:
            return isfinite(a) ? 1 : 0;
        case PD_BLOCK_NOT:
            return !(a != 0);
        case PD_BLOCK_TO_F32:
            return (double)(float)a;
        case PD_BLOCK_ADD:
            return a + b;
        case PD_BLOCK_SUB:
            return a - b;
        case PD_BLOCK_MUL:
            return a * b;
        case PD_BLOCK_DIV:
            return a / b;
        case PD_BLOCK_MIN:
            return smaller(a, b);
        case PD_BLOCK_MAX:
            return -smaller(-a, -b);
        case PD_BLOCK_FMIN:
            return isnan(b) ? a : isnan(a) ? b : smaller(a, b);
        case PD_BLOCK_FMAX:
            return isnan(b) ? a : isnan(a) ? b : -smaller(-a, -b);
        case PD_BLOCK_LT:
            return a < b;
        case PD_BLOCK_LE:
            return a <= b;
        case PD_BLOCK_EQ:
            return a == b;
        case PD_BLOCK_NE:
            return a != b;
        case PD_BLOCK_AND:
            return a != 0 && b != 0;
        case PD_BLOCK_OR:
            return a != 0 || b != 0;
        case PD_BLOCK_ABSDIFF:
            return fabs(a - b);
        case PD_BLOCK_SQDIFF:
            return (a - b) * (a - b);
        case PD_BLOCK_WHERE:
            return a != 0 ? b : c;
        default:
            CHECK(!"an operation that this test does not know");
            return 0;
    }
}

// Programs may fold by floats what is no float; of floats it is float arithmetic.
static double
rounded(double value, bool single)
{
    return single ? (double)(float)value : value;
}

static double
add(double a, double b, bool single)
{
    double sum = rounded(a + b, single);
    if (single && same(a, (double)(float)a) && same(b, (double)(float)b)) {
        CHECK(same(sum, (double)((float)a + (float)b)));
    }
    return sum;
}

// NumPy's order of a sum.
static double
pairwise_sum(const double *v, size_t n, bool single)
{
    if (n > 128) {
        size_t half = n / 2;
        half -= half % 8;
        return add(pairwise_sum(v, half, single),
                   pairwise_sum(v + half, n - half, single), single);
    }
    double sum = v[0];
    size_t i = 1;
    if (n >= 8) {
        double r[8];
        memcpy(r, v, sizeof(r));
        for (i = 8; i < n - n % 8; i += 8) {
            for (size_t j = 0; j < 8; j++) {
                r[j] = add(r[j], v[i + j], single);
            }
        }
        double left = add(add(r[0], r[1], single), add(r[2], r[3], single), single);
        double right = add(add(r[4], r[5], single), add(r[6], r[7], single), single);
        sum = add(left, right, single);
    }
    for (; i < n; i++) {
        sum = add(sum, v[i], single);
    }
    return sum;
}

static double
folded(pd_fold_op op, const double *v, size_t n)
{
    if (op == PD_FOLD_ADD || op == PD_FOLD_ADD_SINGLE) {
        return pairwise_sum(v, n, op == PD_FOLD_ADD_SINGLE);
    }
    double result = v[0];
    for (size_t i = 1; i < n; i++) {
        switch (op) {
            case PD_FOLD_MUL:
                result *= v[i];
                break;
            case PD_FOLD_MUL_SINGLE:
                result = (double)(float)(result * v[i]);
                break;
            case PD_FOLD_MIN:
                result = smaller(result, v[i]);
                break;
            default:
                result = -smaller(-result, -v[i]);
                break;
        }
    }
    return result;
}

static bool
is_single(pd_fold_op op)
{
    return op == PD_FOLD_ADD_SINGLE || op == PD_FOLD_MUL_SINGLE;
}

// ------------------------------------------------------------------------------
// Blocks and folds
// ------------------------------------------------------------------------------

static const unsigned char inputs_of[PD_BLOCK_OPS] = {
#define INPUTS(name, inputs, expression) inputs,
    PD_BLOCK_OP_TABLE(INPUTS)
#undef INPUTS
};

// All mixes of one value and many, any length, nothing written beyond.
static void
check_block(const pd_simd *simd, pd_block_op op, size_t n, unsigned ones)
{
    double in[PD_BLOCK_MAX_INPUTS][80];
    double out[81];
    char *args[PD_BLOCK_MAX_INPUTS + 1];
    ptrdiff_t steps[PD_BLOCK_MAX_INPUTS + 1];
    size_t inputs = inputs_of[op];
    for (size_t k = 0; k < PD_BLOCK_MAX_INPUTS; k++) {
        for (size_t i = 0; i < 80; i++) {
            in[k][i] = random_number();
        }
    }
    for (size_t k = 0; k < inputs; k++) {
        args[k] = (char *)in[k];
        steps[k] = (ones >> k & 1) != 0 ? 0 : (ptrdiff_t)sizeof(double);
    }
    args[inputs] = (char *)out;
    steps[inputs] = sizeof(double);
    out[n] = 42;
    simd->blocks[op](args, &(ptrdiff_t){(ptrdiff_t)n}, steps, NULL);
    CHECK(same(out[n], 42));
    for (size_t i = 0; i < n; i++) {
        double v[PD_BLOCK_MAX_INPUTS] = {0};
        for (size_t k = 0; k < inputs; k++) {
            v[k] = in[k][steps[k] == 0 ? 0 : i];
        }
        CHECK(same(out[i], value_of(op, v[0], v[1], v[2])));
    }
}

static void
blocks_compute_what_they_say(void)
{
    const char *names[PD_SIMD_LEVELS];
    size_t levels = pd_simd_available(names);
    for (size_t level = 0; level < levels; level++) {
        const pd_simd *simd = pd_simd_named(names[level]);
        for (int op = 0; op < PD_BLOCK_OPS; op++) {
            for (size_t n = 0; n <= 80; n += n < 20 ? 1 : 13) {
                unsigned all = (1u << inputs_of[op]) - 1;
                for (unsigned ones = 0; ones <= all; ones++) {
                    if (ones != all || n == 1 || inputs_of[op] == 1) {
                        check_block(simd, (pd_block_op)op, n, ones);
                    }
                }
            }
        }
    }
}

#define LANES 24

// Folds values [feature][LANES] of n <= LANES lanes, each against its own model.
static void
check_fold(const pd_simd *simd, pd_fold_op op, size_t length, size_t n)
{
    pd_fold_plan *plan;
    CHECK(pd_fold_plan_create(op, length, &plan) == PD_OK);
    double *values = pd_alloc(length * LANES, sizeof(*values));
    double *lane = pd_alloc(length, sizeof(*lane));
    double *scratch = pd_alloc(pd_fold_scratch(plan, LANES), sizeof(*scratch));
    CHECK(values != NULL && lane != NULL && scratch != NULL);
    for (size_t i = 0; i < length * LANES; i++) {
        double v =
            length > 40 ? (double)(random_bits() >> 11) * 0x1p-53 : random_number();
        values[i] = is_single(op) ? (double)(float)v : v;
    }
    pd_fold state = {0};
    for (size_t k = 0; k < length; k++) {
        pd_fold_take(plan, &state, simd, values + k * LANES, n, LANES, scratch);
    }
    const double *result = pd_fold_result(plan, scratch, LANES);
    for (size_t c = 0; c < n; c++) {
        for (size_t k = 0; k < length; k++) {
            lane[k] = values[k * LANES + c];
        }
        CHECK(same(result[c], folded(op, lane, length)));
    }
    pd_free(scratch);
    pd_free(lane);
    pd_free(values);
    pd_fold_plan_destroy(plan);
}

static void
folds_run_in_numpys_order(void)
{
    static const size_t large[] = {1000, 1024, 1025, 4095, 16384};
    const char *names[PD_SIMD_LEVELS];
    size_t levels = pd_simd_available(names);
    for (int op = 0; op < PD_FOLD_OPS; op++) {
        for (size_t length = 1; length <= 600; length++) {
            const pd_simd *simd = pd_simd_named(names[length % levels]);
            check_fold(simd, (pd_fold_op)op, length, 1 + length % LANES);
        }
        for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++) {
            check_fold(pd_simd_active(), (pd_fold_op)op, large[i], 3);
        }
    }
    pd_fold_plan *plan;
    CHECK(pd_fold_plan_create(PD_FOLD_ADD, 0, &plan) == PD_EINVAL);
    CHECK(pd_fold_plan_create(PD_FOLD_OPS, 1, &plan) == PD_EINVAL);
}

// ------------------------------------------------------------------------------
// Programs
// ------------------------------------------------------------------------------

#define FEATURES 5
#define ROWS 6
#define COLUMNS 37
#define MOST_WORDS 400

static int foreign_data;

// Functions of somebody else: 2a - b of doubles, and a / 3 of floats.
static void
foreign_double(char **args, const ptrdiff_t *n, const ptrdiff_t *steps, void *data)
{
    CHECK(data == &foreign_data);
    for (ptrdiff_t i = 0; i < *n; i++) {
        double a = *(const double *)(const void *)(args[0] + i * steps[0]);
        double b = *(const double *)(const void *)(args[1] + i * steps[1]);
        *(double *)(void *)(args[2] + i * steps[2]) = 2 * a - b;
    }
}

static void
foreign_float(char **args, const ptrdiff_t *n, const ptrdiff_t *steps, void *data)
{
    CHECK(data == NULL);
    for (ptrdiff_t i = 0; i < *n; i++) {
        float a = *(const float *)(const void *)(args[0] + i * steps[0]);
        *(float *)(void *)(args[1] + i * steps[1]) = a / 3;
    }
}

static const pd_foreign foreign[] = {
    {.loop = foreign_double, .data = &foreign_data, .inputs = 2   },
    {.loop = foreign_float,  .inputs = 1,           .single = true},
};
#define FOREIGN 2

typedef struct words {
    int64_t at[MOST_WORDS];
    size_t count;
} words;

static pd_status
parse(const words *w, size_t features, pd_program **program)
{
    // A block of its own, so that reading beyond is seen.
    int64_t *block = pd_alloc(w->count, sizeof(*block));
    CHECK(block != NULL);
    memcpy(block, w->at, w->count * sizeof(*block));
    pd_status status =
        pd_program_parse(block, w->count, foreign, FOREIGN, features, program);
    pd_free(block);
    return status;
}

static void
put(words *w, int64_t word)
{
    CHECK(w->count < MOST_WORDS);
    w->at[w->count++] = word;
}

static void
put_all(words *w, const int64_t *more, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        put(w, more[i]);
    }
}

#define PUT(w, ...)                              \
    put_all((w), (const int64_t[]){__VA_ARGS__}, \
            sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

static int64_t
bits_of(double value)
{
    int64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

// sqrt(sum((a - b)**2)), and as its doubt a foreign function of x[1] and of the root.
static words
euclidean(void)
{
    words w = {.count = 0};
    PUT(&w, 1, bits_of(0.5));
    PUT(&w, 8, PD_SLOT_NARROW, PD_SLOT_COLUMN, PD_SLOT_WIDE, PD_SLOT_WIDE, PD_SLOT_WIDE,
        PD_SLOT_NARROW, PD_SLOT_NARROW, PD_SLOT_WIDE);
    PUT(&w, 0, 2);
    PUT(&w, FEATURES, 2, 0, PD_SOURCE_X, 0, 1, 1, PD_SOURCE_Y, 0, 1);
    PUT(&w, 1, PD_BLOCK_SQDIFF, 2, 0, 1, 1, PD_FOLD_ADD, 2, 3);
    PUT(&w, 0, 1, 5, PD_SOURCE_X, 1, 0);
    PUT(&w, 3, PD_BLOCK_SQRT, 4, 3, PD_BLOCK_OPS + 1, 6, 5, PD_BLOCK_OPS, 7, 6, 4, 0);
    PUT(&w, 4, 7);
    return w;
}

// A prepare part (the sum of each column, scaled), a loop backwards over constants, and
// no doubt.
static words
prepared(void)
{
    words w = {.count = 0};
    PUT(&w, 3, bits_of(0.5), bits_of(-2.0), bits_of(1.5));
    PUT(&w, 9, PD_SLOT_COLUMN, PD_SLOT_COLUMN, PD_SLOT_NARROW, PD_SLOT_COLUMN,
        PD_SLOT_NARROW, PD_SLOT_NARROW, PD_SLOT_NARROW, PD_SLOT_NARROW, PD_SLOT_WIDE);
    PUT(&w, 2, 2);
    PUT(&w, FEATURES, 1, 0, PD_SOURCE_Y, FEATURES - 1, -1, 0, 1, PD_FOLD_MAX, 0, 1);
    PUT(&w, 0, 1, 2, PD_SOURCE_CONSTANTS, 0, 0, 1, PD_BLOCK_MUL, 3, 1, 2, 0);
    PUT(&w, 3, 2, 4, PD_SOURCE_X, 0, 2, 5, PD_SOURCE_CONSTANTS, 2, -1);
    PUT(&w, 1, PD_BLOCK_MUL, 6, 4, 5, 1, PD_FOLD_ADD_SINGLE, 6, 7);
    PUT(&w, 0, 0, 1, PD_BLOCK_WHERE, 8, 7, 3, 1, 0);
    PUT(&w, 8, -1);
    return w;
}

// A number alone, and a load as the doubt.
static words
constant(void)
{
    words w = {.count = 0};
    PUT(&w, 1, bits_of(1.25));
    PUT(&w, 3, PD_SLOT_NARROW, PD_SLOT_NARROW, PD_SLOT_COLUMN);
    PUT(&w, 0, 1);
    PUT(&w, 0, 2, 0, PD_SOURCE_CONSTANTS, 0, 0, 2, PD_SOURCE_Y, 2, 0);
    PUT(&w, 1, PD_BLOCK_NEG, 1, 0, 0);
    PUT(&w, 1, 2);
    return w;
}

// ------------------------------------------------------------------------------
// The interpreter: one pair, every slot one number
// ------------------------------------------------------------------------------

static double
element(const pd_matrix *matrix, size_t row, size_t col)
{
    const char *from = matrix->data + (ptrdiff_t)row * matrix->row_stride +
                       (ptrdiff_t)col * matrix->col_stride;
    return matrix->real == PD_F32 ? (double)*(const float *)(const void *)from
                                  : *(const double *)(const void *)from;
}

static void
interpret_instruction(const pd_instruction *op, double *slots)
{
    double v[PD_BLOCK_MAX_INPUTS] = {0};
    for (size_t k = 0; k < op->inputs; k++) {
        v[k] = slots[op->src[k]];
    }
    if (op->operation < PD_BLOCK_OPS) {
        slots[op->dst] = value_of((pd_block_op)op->operation, v[0], v[1], v[2]);
    }
    else if (op->operation == PD_BLOCK_OPS) {
        slots[op->dst] = 2 * v[0] - v[1];
    }
    else {
        slots[op->dst] = (double)((float)v[0] / 3);
    }
}

static void
interpret_stage(const pd_program *program,
                const pd_stage *stage,
                const pd_matrix *x,
                size_t i,
                const pd_matrix *y,
                size_t j,
                double *slots)
{
    size_t times = stage->length > 0 ? stage->length : 1;
    double *terms = pd_alloc(times * stage->fold_count, sizeof(*terms));
    CHECK(terms != NULL);
    for (size_t k = 0; k < times; k++) {
        for (size_t l = 0; l < stage->load_count; l++) {
            const pd_load *load = &stage->loads[l];
            size_t at = (size_t)((ptrdiff_t)load->start + (ptrdiff_t)k * load->step);
            slots[load->slot] = load->source == PD_SOURCE_X   ? element(x, i, at)
                                : load->source == PD_SOURCE_Y ? element(y, j, at)
                                                              : program->constants[at];
        }
        for (size_t l = 0; l < stage->instruction_count; l++) {
            interpret_instruction(&stage->instructions[l], slots);
        }
        for (size_t l = 0; l < stage->fold_count; l++) {
            terms[l * times + k] = slots[stage->folds[l].src];
        }
    }
    for (size_t l = 0; l < stage->fold_count; l++) {
        slots[stage->folds[l].dst] =
            folded(pd_fold_plan_op(stage->folds[l].plan), terms + l * times, times);
    }
    pd_free(terms);
}

static void
interpret(const pd_program *program,
          const pd_matrix *x,
          size_t i,
          const pd_matrix *y,
          size_t j,
          double *value,
          double *doubt)
{
    double *slots = pd_calloc(program->slot_count, sizeof(*slots));
    CHECK(slots != NULL);
    for (size_t s = 0; s < program->stage_count; s++) {
        interpret_stage(program, &program->stages[s], x, i, y, j, slots);
    }
    *value = slots[program->value];
    *doubt = program->doubt == SIZE_MAX ? 0 : slots[program->doubt];
    pd_free(slots);
}

// ------------------------------------------------------------------------------
// Running
// ------------------------------------------------------------------------------

// A consumer that keeps values and doubts.
typedef struct keeper {
    pd_consumer base;
    size_t cols;
    double *values;
    double *doubts;
} keeper;

static pd_status
keep(pd_consumer *base, const pd_tile *tile, unsigned member)
{
    (void)member;
    keeper *self = (keeper *)base;
    for (size_t r = 0; r < tile->rows; r++) {
        for (size_t c = 0; c < tile->cols; c++) {
            size_t from = r * tile->stride + c;
            size_t to = (tile->row + r) * self->cols + tile->col + c;
            self->values[to] = ((const double *)tile->values)[from];
            self->doubts[to] =
                tile->doubts == NULL ? 0 : ((const double *)tile->doubts)[from];
        }
    }
    return PD_OK;
}

typedef struct points {
    double numbers[(ROWS + COLUMNS) * FEATURES];
    float floats[(ROWS + COLUMNS) * FEATURES];
    pd_matrix x, y;
} points;

static void
fill_points(points *p, pd_real real, bool backwards)
{
    for (size_t i = 0; i < (ROWS + COLUMNS) * FEATURES; i++) {
        p->numbers[i] = random_number();
        p->floats[i] = (float)p->numbers[i];
    }
    size_t size = real == PD_F32 ? sizeof(float) : sizeof(double);
    const char *data = real == PD_F32 ? (char *)p->floats : (char *)p->numbers;
    ptrdiff_t row = FEATURES * (ptrdiff_t)size;
    ptrdiff_t col = (ptrdiff_t)size;
    p->x = (pd_matrix){data, row, col, ROWS, FEATURES, real};
    p->y = (pd_matrix){data + ROWS * row, row, col, COLUMNS, FEATURES, real};
    if (backwards) {
        p->y.data += (COLUMNS - 1) * row + (FEATURES - 1) * col;
        p->y.row_stride = -row;
        p->y.col_stride = -col;
    }
}

static pd_status
run(pd_program *program,
    const points *p,
    const pd_simd *simd,
    unsigned members,
    keeper *k)
{
    pd_producer *producer;
    pd_status status = pd_machine_create(program, &p->x, &p->y, simd, &producer);
    if (status != PD_OK) {
        pd_program_destroy(program);
        return status;
    }
    pd_walk walk = {.rows = ROWS, .cols = COLUMNS, .members = members};
    status = pd_walk_tiles(producer, &k->base, &walk);
    pd_machine_destroy(producer);
    return status;
}

// What a program computes on every level, for some numbers of threads, is what the
// interpreter says; what is no program is refused.  Returns whether it was one.
static bool
check_words(const words *w, const points *p)
{
    double values[ROWS * COLUMNS];
    double doubts[ROWS * COLUMNS];
    double expected[2][ROWS * COLUMNS];
    pd_program *program = NULL;
    pd_status status = parse(w, FEATURES, &program);
    if (status != PD_OK) {
        CHECK(status == PD_EINVAL && program == NULL);
        return false;
    }
    for (size_t i = 0; i < ROWS; i++) {
        for (size_t j = 0; j < COLUMNS; j++) {
            size_t at = i * COLUMNS + j;
            interpret(program, &p->x, i, &p->y, j, &expected[0][at], &expected[1][at]);
        }
    }
    pd_program_destroy(program);
    const char *names[PD_SIMD_LEVELS];
    size_t levels = pd_simd_available(names);
    for (size_t level = 0; level < levels; level++) {
        keeper k = {{.take = keep}, COLUMNS, values, doubts};
        CHECK(parse(w, FEATURES, &program) == PD_OK);
        unsigned members = 1 + (unsigned)level % 3;
        CHECK(run(program, p, pd_simd_named(names[level]), members, &k) == PD_OK);
        for (size_t i = 0; i < ROWS * COLUMNS; i++) {
            CHECK(same(values[i], expected[0][i]));
            CHECK(same(doubts[i], expected[1][i]));
        }
    }
    return true;
}

static void
programs_compute_what_they_say(void)
{
    const words all[] = {euclidean(), prepared(), constant()};
    points p;
    for (int i = 0; i < 8; i++) {
        fill_points(&p, i % 2 == 0 ? PD_F64 : PD_F32, i % 4 >= 2);
        for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++) {
            CHECK(check_words(&all[k], &p));
        }
    }
}

// ------------------------------------------------------------------------------
// Random programs
// ------------------------------------------------------------------------------

typedef struct writer {
    words w;
    pd_slot kinds[24];
    bool written[24];
    bool fixed[24];
    size_t slots;
} writer;

// A written slot, or SIZE_MAX; `narrow`: a narrow one.
static size_t
some_source(const writer *wr, bool narrow)
{
    for (int tries = 0; tries < 40; tries++) {
        size_t slot = random_below(wr->slots);
        if (wr->written[slot] && (!narrow || wr->kinds[slot] == PD_SLOT_NARROW)) {
            return slot;
        }
    }
    return SIZE_MAX;
}

static size_t
some_destination(const writer *wr, bool preparing)
{
    pd_slot not_here = preparing ? PD_SLOT_WIDE : PD_SLOT_COLUMN;
    for (int tries = 0; tries < 40; tries++) {
        size_t slot = random_below(wr->slots);
        if (!wr->fixed[slot] && wr->kinds[slot] != not_here) {
            return slot;
        }
    }
    return SIZE_MAX;
}

static void
write_loads(writer *wr, size_t length, bool preparing)
{
    size_t at = wr->w.count;
    put(&wr->w, 0);
    for (size_t slot = 0; slot < wr->slots; slot++) {
        if (wr->written[slot] || wr->kinds[slot] == PD_SLOT_WIDE || random_below(3) > 0)
        {
            continue;
        }
        bool column = wr->kinds[slot] == PD_SLOT_COLUMN;
        bool row = !column && !preparing && random_below(2) == 0;
        int64_t start = (int64_t)random_below(FEATURES);
        int64_t step = length > 1 && start == 0 ? 1 : 0;
        step = length > 1 && start + 1 == FEATURES ? -1 : step;
        PUT(&wr->w, (int64_t)slot,
            column ? PD_SOURCE_Y
            : row  ? PD_SOURCE_X
                   : PD_SOURCE_CONSTANTS,
            start, step);
        wr->written[slot] = wr->fixed[slot] = true;
        wr->w.at[at]++;
    }
}

static void
write_instructions(writer *wr, bool preparing)
{
    size_t at = wr->w.count;
    put(&wr->w, 0);
    for (size_t i = random_below(6); i > 0; i--) {
        size_t dst = some_destination(wr, preparing);
        int64_t op = (int64_t)random_below(PD_BLOCK_OPS + FOREIGN);
        size_t inputs =
            op < PD_BLOCK_OPS ? inputs_of[op] : foreign[op - PD_BLOCK_OPS].inputs;
        bool narrow = dst != SIZE_MAX && wr->kinds[dst] == PD_SLOT_NARROW;
        size_t src[PD_BLOCK_MAX_INPUTS];
        bool fits = dst != SIZE_MAX;
        bool any_wide = false;
        for (size_t k = 0; fits && k < inputs; k++) {
            src[k] = some_source(wr, narrow);
            fits = src[k] != SIZE_MAX && src[k] != dst;
            any_wide = any_wide || (fits && wr->kinds[src[k]] != PD_SLOT_NARROW);
        }
        if (!fits || (!narrow && !any_wide && op != PD_BLOCK_COPY)) {
            continue;
        }
        PUT(&wr->w, op, (int64_t)dst);
        for (size_t k = 0; k < inputs; k++) {
            put(&wr->w, (int64_t)src[k]);
        }
        wr->written[dst] = true;
        wr->w.at[at]++;
    }
}

static void
write_folds(writer *wr, size_t length, bool preparing)
{
    size_t at = wr->w.count;
    bool done[24] = {false};
    put(&wr->w, 0);
    for (size_t i = length > 0 ? random_below(4) : 0; i > 0; i--) {
        size_t src = some_source(wr, false);
        size_t dst = some_destination(wr, preparing);
        if (src == SIZE_MAX || dst == SIZE_MAX ||
            (wr->kinds[src] == PD_SLOT_NARROW) != (wr->kinds[dst] == PD_SLOT_NARROW))
        {
            continue;
        }
        PUT(&wr->w, (int64_t)random_below(PD_FOLD_OPS), (int64_t)src, (int64_t)dst);
        done[dst] = true;
        wr->w.at[at]++;
    }
    for (size_t slot = 0; slot < wr->slots; slot++) {
        wr->written[slot] = wr->written[slot] || done[slot];
    }
}

static words
random_program(void)
{
    writer wr = {.slots = 6 + random_below(18)};
    put(&wr.w, FEATURES);
    for (size_t i = 0; i < FEATURES; i++) {
        put(&wr.w, bits_of(random_number()));
    }
    put(&wr.w, (int64_t)wr.slots);
    for (size_t i = 0; i < wr.slots; i++) {
        wr.kinds[i] = (pd_slot)random_below(3);
        put(&wr.w, wr.kinds[i]);
    }
    size_t prepare = random_below(3);
    size_t rest = 1 + random_below(3);
    PUT(&wr.w, (int64_t)prepare, (int64_t)rest);
    for (size_t i = 0; i < prepare + rest; i++) {
        bool preparing = i < prepare;
        if (i == prepare) {
            memcpy(wr.fixed, wr.written, sizeof(wr.fixed));
        }
        size_t length = random_below(2) == 0 ? 0 : 1 + random_below(FEATURES);
        put(&wr.w, (int64_t)length);
        write_loads(&wr, length, preparing);
        write_instructions(&wr, preparing);
        write_folds(&wr, length, preparing);
    }
    size_t value = some_source(&wr, false);
    size_t doubt = some_source(&wr, false);
    PUT(&wr.w, value == SIZE_MAX ? -1 : (int64_t)value,
        random_below(2) == 0 || doubt == SIZE_MAX ? -1 : (int64_t)doubt);
    return wr.w;
}

static void
random_programs_compute_what_they_say(void)
{
    points p;
    int valid = 0;
    for (int i = 0; i < 1500; i++) {
        words w = random_program();
        fill_points(&p, i % 2 == 0 ? PD_F64 : PD_F32, i % 4 >= 2);
        valid += check_words(&w, &p);
    }
    CHECK(valid > 1000);
}

// ------------------------------------------------------------------------------
// Words that are no program
// ------------------------------------------------------------------------------

static void
truncated_programs_are_refused(void)
{
    const words all[] = {euclidean(), prepared(), constant()};
    for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++) {
        pd_program *program = NULL;
        words w = all[k];
        for (w.count = 0; w.count < all[k].count; w.count++) {
            CHECK(parse(&w, FEATURES, &program) == PD_EINVAL);
            CHECK(program == NULL);
        }
        w.at[w.count++] = 0;  // and so is a word too many
        CHECK(parse(&w, FEATURES, &program) == PD_EINVAL);
    }
}

// Every word replaced by others: refused, or a program like any other.
static void
corrupted_programs_stay_within_their_memory(void)
{
    static const int64_t others[] = {
        0,  1,  2,  3,       4,  5,         7,         -1,        -2,   9,
        23, 33, 34, 1 << 14, 40, INT64_MAX, INT64_MIN, 1LL << 32, 16385};
    points p;
    fill_points(&p, PD_F64, false);
    int refused = 0;
    int taken = 0;
    for (int k = 0; k < 23; k++) {
        words w = k == 0   ? euclidean()
                  : k == 1 ? prepared()
                  : k == 2 ? constant()
                           : random_program();
        for (size_t at = 0; at < w.count; at++) {
            int64_t word = w.at[at];
            for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
                w.at[at] = others[i];
                bool valid = check_words(&w, &p);
                taken += valid;
                refused += !valid;
            }
            w.at[at] = word;
        }
    }
    CHECK(refused > 1000);
    CHECK(taken > 1000);
}

static void
programs_must_fit_the_points(void)
{
    pd_program *program = NULL;
    words w = euclidean();
    CHECK(parse(&w, FEATURES - 1, &program) == PD_EINVAL);
    CHECK(parse(&w, 0, &program) == PD_EINVAL);
    CHECK(parse(&w, FEATURES, &program) == PD_OK);
    points p;
    fill_points(&p, PD_F64, false);
    pd_producer *producer = NULL;
    p.y.cols--;
    CHECK(pd_machine_create(program, &p.x, &p.y, pd_simd_active(), &producer) ==
          PD_EINVAL);
    p.x.cols = p.y.cols = PD_MACHINE_MAX_FEATURES + 1;
    CHECK(pd_machine_create(program, &p.x, &p.y, pd_simd_active(), &producer) ==
          PD_EINVAL);
    CHECK(producer == NULL);
    pd_program_destroy(program);
    pd_program_destroy(NULL);
    pd_machine_destroy(NULL);
    pd_fold_plan_destroy(NULL);
}

static void
every_failed_allocation_is_survived(void)
{
    const words all[] = {euclidean(), prepared(), constant()};
    double values[ROWS * COLUMNS];
    double doubts[ROWS * COLUMNS];
    points p;
    fill_points(&p, PD_F64, false);
    for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++) {
        long live = pd_live_allocs();
        long n = 2;  // the first is the test's own, for the words
        for (pd_status status = PD_ENOMEM; status != PD_OK; n++) {
            keeper kept = {{.take = keep}, COLUMNS, values, doubts};
            pd_program *program = NULL;
            pd_fault_after(n);
            status = parse(&all[k], FEATURES, &program);
            if (status == PD_OK) {
                status = run(program, &p, pd_simd_active(), 1, &kept);
            }
            pd_fault_after(0);
            CHECK(status == PD_OK || status == PD_ENOMEM);
            CHECK(pd_live_allocs() == live);
        }
        CHECK(n > 10);
    }
}

int
main(void)
{
    RUN(blocks_compute_what_they_say);
    RUN(folds_run_in_numpys_order);
    RUN(programs_compute_what_they_say);
    RUN(random_programs_compute_what_they_say);
    RUN(truncated_programs_are_refused);
    RUN(corrupted_programs_stay_within_their_memory);
    RUN(programs_must_fit_the_points);
    RUN(every_failed_allocation_is_survived);
    pd_team_shutdown();
    CHECK(pd_live_allocs() == 0);
    return 0;
}
