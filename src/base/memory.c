// Available memory: /proc/meminfo, and the limit of the cgroup v2 that is mounted as root.
#include "base/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LIMIT_SHARE 256

// The number behind `key` in a small file, or UINT64_MAX: no file, no key, or "max".
static uint64_t
number_after(const char *root, const char *path, const char *key)
{
    char full[4096];
    char text[8192];
    int length = snprintf(full, sizeof(full), "%s%s", root, path);
    if (length < 0 || (size_t)length >= sizeof(full)) {
        return UINT64_MAX;
    }
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return UINT64_MAX;
    }
    ssize_t bytes = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (bytes <= 0) {
        return UINT64_MAX;
    }
    text[bytes] = '\0';
    const char *found = strstr(text, key);
    if (found == NULL) {
        return UINT64_MAX;
    }
    const char *number = found + strlen(key);
    char *end;
    uint64_t value = strtoull(number, &end, 10);
    return end == number ? UINT64_MAX : value;
}

uint64_t
pd_memory_available(const char *root)
{
    uint64_t available = number_after(root, "/proc/meminfo", "MemAvailable:");
    available = available > UINT64_MAX / 1024 ? UINT64_MAX : available * 1024;
    uint64_t limit = number_after(root, "/sys/fs/cgroup/memory.max", "");
    uint64_t used = number_after(root, "/sys/fs/cgroup/memory.current", "");
    if (limit != UINT64_MAX && used != UINT64_MAX) {
        uint64_t left = used < limit ? limit - used : 0;
        available = left < available ? left : available;
    }
    return available;
}

size_t
pd_memory_reserve(size_t most)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        most <= limit.rlim_cur / LIMIT_SHARE)
    {
        return most;
    }
    return (size_t)(limit.rlim_cur / LIMIT_SHARE);
}
