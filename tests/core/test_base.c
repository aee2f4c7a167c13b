// The base layer: statuses have texts, allocation is checked, quotas are read.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/memory.h"
#include "base/status.h"
#include "check.h"

static void
every_status_has_a_text(void)
{
    for (int code = PD_OK; code <= PD_ETIMEDOUT; code++) {
        CHECK(strcmp(pd_status_text((pd_status)code), "unknown status") != 0);
    }
    CHECK(strcmp(pd_status_text((pd_status)1000), "unknown status") == 0);
}

static void
sizes_that_overflow_are_refused(void)
{
    size_t product = 7;
    CHECK(!pd_multiply(SIZE_MAX, 2, &product) && product == 7);
    CHECK(pd_multiply(SIZE_MAX / 2, 2, &product));
    CHECK(pd_alloc(SIZE_MAX, 2) == NULL);
    CHECK(pd_alloc(SIZE_MAX - 8, 1) == NULL);
}

static void
blocks_are_aligned_and_counted(void)
{
    long before = pd_live_allocs();
    for (size_t n = 0; n < 200; n++) {
        unsigned char *block = pd_calloc(n, 1);
        CHECK(block != NULL && (uintptr_t)block % PD_CACHE_LINE == 0);
        for (size_t i = 0; i < n; i++) {
            CHECK(block[i] == 0);
        }
        pd_free(block);
    }
    pd_free(NULL);
    CHECK(pd_live_allocs() == before);
}

static void
the_nth_allocation_can_be_made_to_fail(void)
{
    pd_fault_after(2);
    void *first = pd_alloc(1, 1);
    CHECK(first != NULL);
    CHECK(pd_alloc(1, 1) == NULL);
    void *third = pd_alloc(1, 1);
    CHECK(third != NULL);
    pd_free(first);
    pd_free(third);
    pd_fault_after(0);
}

static void
the_clock_does_not_go_back(void)
{
    int64_t last = pd_now_ns();
    for (int i = 0; i < 1000; i++) {
        int64_t now = pd_now_ns();
        CHECK(now >= last);
        last = now;
    }
}

static void
put(const char *root, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        (void)mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void
cgroup_quotas_are_found_at_any_level(void)
{
    char root[] = "/tmp/pd_test_cpu_XXXXXX";
    CHECK(mkdtemp(root) != NULL);
    CHECK(pd_cpu_cgroup_quota(root) == 0);

    put(root, "/proc/self/cgroup", "0::/a/b\n");
    put(root, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(pd_cpu_cgroup_quota(root) == 0);
    put(root, "/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    CHECK(pd_cpu_cgroup_quota(root) == 1.5);
    put(root, "/sys/fs/cgroup/cpu.max", "50000 100000\n");
    CHECK(pd_cpu_cgroup_quota(root) == 0.5);

    put(root, "/proc/self/cgroup", "3:memory:/x\n4:cpu,cpuacct:/x\n");
    put(root, "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
    put(root, "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
    CHECK(pd_cpu_cgroup_quota(root) == 0);
    put(root, "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "300000\n");
    CHECK(pd_cpu_cgroup_quota(root) == 3);

    put(root, "/proc/self/cgroup", "nonsense\n\n::\n");
    CHECK(pd_cpu_cgroup_quota(root) >= 0);
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", root);
    CHECK(system(command) == 0);
}

static void
there_is_at_least_one_processor(void)
{
    pd_cpu cpu = pd_cpu_count();
    CHECK(cpu.online >= 1 && cpu.affinity >= 1 && cpu.usable >= 1);
    double quota = ceil(cpu.quota);
    CHECK(cpu.usable ==
          (quota > 0 && quota < cpu.affinity ? (unsigned)quota : cpu.affinity));
}

static void
a_limit_of_address_space_is_not_used_up(void)
{
    struct rlimit before, limit;
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    CHECK(pd_memory_reserve(4096) == 4096);
    limit = before;
    limit.rlim_cur = (rlim_t)1 << 40;  // sanitizers need much
    if (before.rlim_max >= limit.rlim_cur && setrlimit(RLIMIT_AS, &limit) == 0) {
        CHECK(pd_memory_reserve((size_t)1 << 40) <= (size_t)1 << 34);
        CHECK(pd_memory_reserve(4096) == 4096);
        CHECK(setrlimit(RLIMIT_AS, &before) == 0);
    }
}

static void
the_smaller_of_what_machine_and_cgroup_have_is_available(void)
{
    char root[] = "/tmp/pd_test_memory_XXXXXX";
    CHECK(mkdtemp(root) != NULL);
    CHECK(pd_memory_available(root) == UINT64_MAX);

    put(root, "/proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:   8000 kB\n");
    CHECK(pd_memory_available(root) == 8000 * 1024);
    put(root, "/sys/fs/cgroup/memory.max", "max\n");
    put(root, "/sys/fs/cgroup/memory.current", "1000\n");
    CHECK(pd_memory_available(root) == 8000 * 1024);
    put(root, "/sys/fs/cgroup/memory.max", "5000\n");
    CHECK(pd_memory_available(root) == 4000);
    put(root, "/sys/fs/cgroup/memory.current", "6000\n");
    CHECK(pd_memory_available(root) == 0);
    put(root, "/proc/meminfo", "nonsense\n");
    put(root, "/sys/fs/cgroup/memory.max", "\n");
    CHECK(pd_memory_available(root) == UINT64_MAX);
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", root);
    CHECK(system(command) == 0);
    CHECK(pd_memory_available("") > 0);
}

int
main(void)
{
    RUN(every_status_has_a_text);
    RUN(sizes_that_overflow_are_refused);
    RUN(blocks_are_aligned_and_counted);
    RUN(the_nth_allocation_can_be_made_to_fail);
    RUN(the_clock_does_not_go_back);
    RUN(cgroup_quotas_are_found_at_any_level);
    RUN(there_is_at_least_one_processor);
    RUN(a_limit_of_address_space_is_not_used_up);
    RUN(the_smaller_of_what_machine_and_cgroup_have_is_available);
    return 0;
}
