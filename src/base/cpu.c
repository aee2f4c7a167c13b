// Processors: sysconf, the affinity mask, and the quotas of cgroup v1 and v2.
//
// A quota may stand at any level between the process's own cgroup and the root, and
// inside a container the path in /proc/self/cgroup may not exist below the mount; so
// every level is asked, and a file that is not there is no limit.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE  // sched_getaffinity, CPU_ALLOC
#endif
#include "base/cpu.h"

#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096

static unsigned
online_count(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}

#ifdef __linux__
static unsigned
affinity_count(unsigned online)
{
    // The mask must be as long as the kernel's, which can be longer than `online`.
    for (int bits = 1024; bits <= 1 << 20; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)bits);
        if (set == NULL) {
            return online;
        }
        size_t bytes = CPU_ALLOC_SIZE((size_t)bits);
        int count = 0;
        if (sched_getaffinity(0, bytes, set) == 0) {
            count = CPU_COUNT_S(bytes, set);
        }
        CPU_FREE(set);
        if (count > 0) {
            return (unsigned)count;
        }
    }
    return online;
}
#else
static unsigned
affinity_count(unsigned online)
{
    return online;
}
#endif

// Reads a small file as text; false if there is none.
static bool
read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    size_t length = 0;
    ssize_t got;
    while (length < size - 1 && (got = read(fd, text + length, size - 1 - length)) > 0)
    {
        length += (size_t)got;
    }
    close(fd);
    text[length] = '\0';
    return length > 0;
}

static double
smaller_quota(double a, double b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

// "max 100000" or "150000 100000".
static double
quota_v2(const char *dir)
{
    char path[PATH_BYTES + 16];
    char text[128];
    snprintf(path, sizeof(path), "%s/cpu.max", dir);
    if (!read_text(path, text, sizeof(text))) {
        return 0;
    }
    char *end = NULL;
    double quota = strtod(text, &end);
    double period = strtod(end, NULL);
    return end != text && quota > 0 && period > 0 ? quota / period : 0;
}

static double
quota_v1(const char *dir)
{
    char path[PATH_BYTES + 32];
    char text[128];
    snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", dir);
    if (!read_text(path, text, sizeof(text))) {
        return 0;
    }
    double quota = strtod(text, NULL);
    snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", dir);
    if (!read_text(path, text, sizeof(text))) {
        return 0;
    }
    double period = strtod(text, NULL);
    return quota > 0 && period > 0 ? quota / period : 0;
}

// The smallest quota on the way from `mount`/`group` up to `mount`.
static double
quota_along(const char *mount, const char *group, double (*quota_of)(const char *))
{
    char dir[PATH_BYTES];
    size_t mount_length = strlen(mount);
    int length = snprintf(dir, sizeof(dir), "%s%s", mount, group);
    if (length < 0 || (size_t)length >= sizeof(dir)) {
        return quota_of(mount);
    }
    double quota = 0;
    for (;;) {
        quota = smaller_quota(quota, quota_of(dir));
        char *slash = strrchr(dir, '/');
        if (slash == NULL || (size_t)(slash - dir) < mount_length) {
            return quota;
        }
        *slash = '\0';
    }
}

// One line of /proc/self/cgroup: "0::/group" (v2) or "4:cpu,cpuacct:/group" (v1).
static double
quota_of_line(const char *root, char *line)
{
    char *controllers = strchr(line, ':');
    char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
    if (group == NULL) {
        return 0;
    }
    *controllers++ = '\0';
    *group++ = '\0';
    char mount[PATH_BYTES];
    if (controllers[0] == '\0') {
        snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup", root);
        return quota_along(mount, group, quota_v2);
    }
    char list[256];
    snprintf(list, sizeof(list), ",%s,", controllers);
    if (strstr(list, ",cpu,") == NULL) {
        return 0;
    }
    snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup/%s", root, controllers);
    double quota = quota_along(mount, group, quota_v1);
    snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup/cpu", root);
    return smaller_quota(quota, quota_along(mount, group, quota_v1));
}

double
pd_cpu_cgroup_quota(const char *root)
{
    char path[PATH_BYTES];
    char text[16384];
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    if (!read_text(path, text, sizeof(text))) {
        return 0;
    }
    double quota = 0;
    char *rest = text;
    for (char *line; (line = strtok_r(rest, "\n", &rest)) != NULL;) {
        quota = smaller_quota(quota, quota_of_line(root, line));
    }
    return quota;
}

pd_cpu
pd_cpu_count(void)
{
    pd_cpu cpu = {.online = online_count()};
    cpu.affinity = affinity_count(cpu.online);
    cpu.quota = pd_cpu_cgroup_quota("");
    cpu.usable = cpu.affinity;
    if (cpu.quota > 0 && ceil(cpu.quota) < cpu.usable) {
        cpu.usable = (unsigned)ceil(cpu.quota);
    }
    return cpu;
}
