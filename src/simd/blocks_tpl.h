// One loop for each operation of blocks.h, plain C that the compiler vectorises for the
// level.  An input of step 0 is read once, before the loop.

#define IN(k) ((const double *)(const void *)args[k])
#define VALUES(k) const double *restrict in##k = IN(k)

#define DEFINE_BLOCK_1(NAME, expression)                                              \
    static void block_##NAME(char **args, const ptrdiff_t *n, const ptrdiff_t *steps, \
                             void *data)                                              \
    {                                                                                 \
        (void)data;                                                                   \
        double *restrict out = (double *)(void *)args[1];                             \
        VALUES(0);                                                                    \
        if (steps[0] == 0) {                                                          \
            const double a = *in0;                                                    \
            const double value = expression;                                          \
            for (ptrdiff_t i = 0; i < *n; i++) {                                      \
                out[i] = value;                                                       \
            }                                                                         \
            return;                                                                   \
        }                                                                             \
        for (ptrdiff_t i = 0; i < *n; i++) {                                          \
            const double a = in0[i];                                                  \
            out[i] = expression;                                                      \
        }                                                                             \
    }

#define DEFINE_BLOCK_2(NAME, expression)                                              \
    static void block_##NAME(char **args, const ptrdiff_t *n, const ptrdiff_t *steps, \
                             void *data)                                              \
    {                                                                                 \
        (void)data;                                                                   \
        double *restrict out = (double *)(void *)args[2];                             \
        VALUES(0);                                                                    \
        VALUES(1);                                                                    \
        if (steps[0] == 0) {                                                          \
            const double a = *in0;                                                    \
            for (ptrdiff_t i = 0; i < *n; i++) {                                      \
                const double b = in1[i];                                              \
                out[i] = expression;                                                  \
            }                                                                         \
        }                                                                             \
        else if (steps[1] == 0) {                                                     \
            const double b = *in1;                                                    \
            for (ptrdiff_t i = 0; i < *n; i++) {                                      \
                const double a = in0[i];                                              \
                out[i] = expression;                                                  \
            }                                                                         \
        }                                                                             \
        else {                                                                        \
            for (ptrdiff_t i = 0; i < *n; i++) {                                      \
                const double a = in0[i];                                              \
                const double b = in1[i];                                              \
                out[i] = expression;                                                  \
            }                                                                         \
        }                                                                             \
    }

#define BLOCK_3_LOOP(second_value, third_value, expression) \
    if (steps[0] != 0) {                                    \
        for (ptrdiff_t i = 0; i < *n; i++) {                \
            const double a = in0[i];                        \
            const double b = second_value;                  \
            const double c = third_value;                   \
            out[i] = expression;                            \
        }                                                   \
    }                                                       \
    else {                                                  \
        const double a = *in0;                              \
        for (ptrdiff_t i = 0; i < *n; i++) {                \
            const double b = second_value;                  \
            const double c = third_value;                   \
            out[i] = expression;                            \
        }                                                   \
    }

// A loop for each mix of steps: with a stride that is only known at run time the compiler
// would not use vectors.
#define DEFINE_BLOCK_3(NAME, expression)                                              \
    static void block_##NAME(char **args, const ptrdiff_t *n, const ptrdiff_t *steps, \
                             void *data)                                              \
    {                                                                                 \
        (void)data;                                                                   \
        double *restrict out = (double *)(void *)args[3];                             \
        VALUES(0);                                                                    \
        VALUES(1);                                                                    \
        VALUES(2);                                                                    \
        if (steps[1] != 0 && steps[2] != 0) {                                         \
            BLOCK_3_LOOP(in1[i], in2[i], expression)                                  \
        }                                                                             \
        else if (steps[1] != 0) {                                                     \
            const double third = *in2;                                                \
            BLOCK_3_LOOP(in1[i], third, expression)                                   \
        }                                                                             \
        else if (steps[2] != 0) {                                                     \
            const double second = *in1;                                               \
            BLOCK_3_LOOP(second, in2[i], expression)                                  \
        }                                                                             \
        else {                                                                        \
            const double second = *in1;                                               \
            const double third = *in2;                                                \
            BLOCK_3_LOOP(second, third, expression)                                   \
        }                                                                             \
    }

#define DEFINE_BLOCK(NAME, inputs, expression) \
    PD_PASTE(DEFINE_BLOCK_, inputs)(NAME, expression)
PD_BLOCK_OP_TABLE(DEFINE_BLOCK)

#define BLOCK_ENTRY(NAME, inputs, expression) block_##NAME,
static const pd_block_loop block_loops[PD_BLOCK_OPS] = {PD_BLOCK_OP_TABLE(BLOCK_ENTRY)};

#define DEFINE_FOLD(name, expression)                                            \
    static void fold_##name(double *restrict acc, const double *restrict values, \
                            size_t n)                                            \
    {                                                                            \
        for (size_t i = 0; i < n; i++) {                                         \
            const double a = acc[i];                                             \
            const double b = values[i];                                          \
            acc[i] = expression;                                                 \
        }                                                                        \
    }
DEFINE_FOLD(add, a + b)
DEFINE_FOLD(mul, a *b)
DEFINE_FOLD(add_single, (double)(float)(a + b))
DEFINE_FOLD(mul_single, (double)(float)(a *b))
DEFINE_FOLD(min, a <= b ? a : (a != a ? a : b))
DEFINE_FOLD(max, a >= b ? a : (a != a ? a : b))

static const pd_block_fold block_folds[PD_FOLD_OPS] = {
    [PD_FOLD_ADD] = fold_add,
    [PD_FOLD_MUL] = fold_mul,
    [PD_FOLD_ADD_SINGLE] = fold_add_single,
    [PD_FOLD_MUL_SINGLE] = fold_mul_single,
    [PD_FOLD_MIN] = fold_min,
    [PD_FOLD_MAX] = fold_max,
};

#undef DEFINE_FOLD
#undef BLOCK_ENTRY
#undef DEFINE_BLOCK
#undef DEFINE_BLOCK_3
#undef BLOCK_3_LOOP
#undef DEFINE_BLOCK_2
#undef DEFINE_BLOCK_1
#undef VALUES
#undef IN
