// How many processors this process may use: what the machine has, what the affinity
// mask leaves of it, and what a container's quota leaves of that.
#ifndef PD_BASE_CPU_H
#define PD_BASE_CPU_H

typedef struct pd_cpu {
    unsigned online;    // processors of the machine
    unsigned affinity;  // of these, the ones this thread may run on
    double quota;       // processors' worth of time the cgroups allow; 0 means no limit
    unsigned usable;    // min(affinity, quota rounded up), at least 1
} pd_cpu;

// Reads the system each time: some 50 microseconds.  What cannot be read is taken as
// no limit.  Can't fail.
pd_cpu pd_cpu_count(void);

// The quota that the cgroup files below `root` (normally "") give, as pd_cpu.quota;
// split out so that a test can lay out a file tree of its own.
double pd_cpu_cgroup_quota(const char *root);

#endif
