// Which table runs: the first of the list that this CPU has, or the one asked for.
//
// By feature bits, never by model numbers, which are out of date the day a new CPU comes.
// __builtin_cpu_supports() also checks that the operating system saves the registers.
#include "simd/simd.h"

#include <stdatomic.h>
#include <string.h>

#include "simd/levels.h"

static bool
always(void)
{
    return true;
}

#ifdef PD_X86
static bool
has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
}

static bool
has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

// Best first.
static const struct {
    bool (*supported)(void);
    const pd_simd *simd;
} candidates[] = {
#ifdef PD_X86
    {has_avx512, &pd_simd_avx512},
    {has_avx2,   &pd_simd_avx2  },
#endif
#ifdef PD_ARM64
    {always,     &pd_simd_neon  },
#endif
    {always,     &pd_simd_scalar},
};

#define CANDIDATES (sizeof(candidates) / sizeof(candidates[0]))

// Published with release, read with acquire; the tables themselves are constant.
static const pd_simd *_Atomic chosen;

const pd_simd *
pd_simd_active(void)
{
    const pd_simd *simd = atomic_load_explicit(&chosen, memory_order_acquire);
    if (simd == NULL) {
        size_t i = 0;
        while (!candidates[i].supported()) {
            i++;
        }
        simd = candidates[i].simd;
        // Threads that race here store the same pointer, but a choice made meanwhile wins.
        const pd_simd *none = NULL;
        if (!atomic_compare_exchange_strong(&chosen, &none, simd)) {
            simd = none;
        }
    }
    return simd;
}

const pd_simd *
pd_simd_named(const char *name)
{
    for (size_t i = 0; i < CANDIDATES; i++) {
        if (strcmp(candidates[i].simd->name, name) == 0) {
            return candidates[i].supported() ? candidates[i].simd : NULL;
        }
    }
    return NULL;
}

void
pd_simd_select(const pd_simd *simd)
{
    atomic_store_explicit(&chosen, simd, memory_order_release);
}

size_t
pd_simd_available(const char **names)
{
    size_t count = 0;
    for (size_t i = 0; i < CANDIDATES; i++) {
        if (candidates[i].supported()) {
            names[count++] = candidates[i].simd->name;
        }
    }
    return count;
}
