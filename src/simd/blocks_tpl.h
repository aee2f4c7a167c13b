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

// Any mix of steps: the inputs of step 0 are read with a stride of 0.
#define DEFINE_BLOCK_3(NAME, expression)                                              \
    static void block_##NAME(char **args, const ptrdiff_t *n, const ptrdiff_t *steps, \
                             void *data)                                              \
    {                                                                                 \
        (void)data;                                                                   \
        double *restrict out = (double *)(void *)args[3];                             \
        VALUES(0);                                                                    \
        VALUES(1);                                                                    \
        VALUES(2);                                                                    \
        if (steps[0] != 0 && steps[1] != 0 && steps[2] != 0) {                        \
            for (ptrdiff_t i = 0; i < *n; i++) {                                      \
                const double a = in0[i];                                              \
                const double b = in1[i];                                              \
                const double c = in2[i];                                              \
                out[i] = expression;                                                  \
            }                                                                         \
            return;                                                                   \
        }                                                                             \
        const ptrdiff_t s0 = steps[0] != 0;                                           \
        const ptrdiff_t s1 = steps[1] != 0;                                           \
        const ptrdiff_t s2 = steps[2] != 0;                                           \
        for (ptrdiff_t i = 0; i < *n; i++) {                                          \
            const double a = in0[i * s0];                                             \
            const double b = in1[i * s1];                                             \
            const double c = in2[i * s2];                                             \
            out[i] = expression;                                                      \
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
#undef DEFINE_BLOCK_2
#undef DEFINE_BLOCK_1
#undef VALUES
#undef IN
