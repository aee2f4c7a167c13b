// How much memory there is to be had.
//
// Linux promises memory that it has not got, and ends processes when it is asked to keep
// the promise; shared memory that is filled at once is not even refused.  So whoever wants
// much asks here first.
#ifndef PD_BASE_MEMORY_H
#define PD_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

// Bytes that could be taken now without swapping or ending anybody, by the machine's
// account and the memory cgroup's: a snapshot, and a guess.  UINT64_MAX where nothing is
// known.  Reads the files below `root` (normally "").  Can't fail.
uint64_t pd_memory_available(const char *root);

// Address space to reserve for one of many things that grow: `most`, but of a limit of this
// process's (ulimit -v, as on many clusters) only a small share.  Can't fail.
size_t pd_memory_reserve(size_t most);

#endif
