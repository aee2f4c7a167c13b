// Segments: memfd_create(), sealed, mapped once with room to grow.
//
//      window     |header|......... in use .........|.... reserved address space ....|
//      file       |header|......... in use .........|
//
// The mapping is longer than the file.  When somebody extends the file, all others can
// read the new part through the mapping they have: nothing moves, so that pointers
// handed to NumPy stay good.  Where the reserve was not enough, a wider window is mapped
// beside the first.
//
// Invariants
//   I1  `usable` of a window never exceeds the size of the file, which never shrinks: a
//       page below it can be touched without SIGBUS.
//   I2  Windows are unmapped only by pd_segment_destroy().
//
// Why not shm_open(): names that outlive a crash, the limit of /dev/shm, and ftruncate()
// that promises memory there is none of.  On Darwin, which has no memfd, an unlinked
// temporary file would stand here: its POSIX shared memory cannot grow.
//
// Locks: none.  Two threads that widen at once map twice; one of the windows is dropped.
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE  // memfd_create, fallocate
#endif
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/memory.h"

#define MAGIC 0x62697274736964ffu  // not text, and not the same backwards
#define LAYOUT_VERSION 1
#define ASK_BYTES ((size_t)64 << 20)  // for more than this the system is asked first
#define PIECE ((size_t)4 << 20)       // fallocate() starts over when a signal comes

#ifdef __linux__

#    include <sys/random.h>

#    ifndef MFD_NOEXEC_SEAL
#        define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3
#    endif

static uint32_t
abi_tag(void)
{
    const uint16_t one = 1;
    uint32_t little = *(const unsigned char *)&one;
    return (uint32_t)(sizeof(void *) << 24 | sizeof(pthread_mutex_t) << 8 | little);
}

// A descriptor of `bytes` bytes of memory, private to this user, that can only grow.
static int
open_memory(void)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create("pydistrib", flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create("pydistrib", flags);
    }
    if (fd < 0) {
        return -1;
    }
    if (fchmod(fd, S_IRUSR | S_IWUSR) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
    {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

// fallocate() is no test of whether there is memory: the kernel would rather end processes
// than refuse.
static pd_status
fill_range(int fd, size_t from, size_t to)
{
    if (from < to && to - from >= ASK_BYTES && to - from > pd_memory_available("")) {
        return PD_ENOMEM;
    }
    while (from < to) {
        size_t bytes = to - from < PIECE ? to - from : PIECE;
        if (fallocate(fd, 0, (off_t)from, (off_t)bytes) < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == ENOSPC || errno == ENOMEM || errno == EFBIG ? PD_ENOMEM
                                                                        : PD_EOS;
        }
        from += bytes;
    }
    return PD_OK;
}

static bool
file_size(int fd, size_t *size)
{
    struct stat about;
    if (fstat(fd, &about) < 0 || about.st_size < 0) {
        return false;
    }
    *size = (size_t)about.st_size;
    return true;
}

// Maps `reserve` bytes, or as much as an address space limit allows, but all of the file.
static pd_status
map_window(int fd, size_t size, size_t reserve, pd_window *before, pd_window **out)
{
    pd_window *window = pd_alloc(1, sizeof(*window));
    if (window == NULL) {
        return PD_ENOMEM;
    }
    size_t bytes = reserve > size ? reserve : size;
    void *base = MAP_FAILED;
    for (;;) {
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                    0);
        if (base != MAP_FAILED || bytes == size) {
            break;
        }
        bytes = bytes / 2 > size ? bytes / 2 : size;
    }
    if (base == MAP_FAILED) {
        pd_free(window);
        return errno == ENOMEM ? PD_ENOMEM : PD_EOS;
    }
    window->base = base;
    window->reserved = bytes;
    window->before = before;
    atomic_init(&window->usable, size);
    *out = window;
    return PD_OK;
}

static void
unmap_window(pd_window *window)
{
    munmap(window->base, window->reserved);
    pd_free(window);
}

static pd_status
open_segment(int fd, size_t size, size_t reserve, pd_segment **out)
{
    pd_segment *segment = pd_alloc(1, sizeof(*segment));
    if (segment == NULL) {
        return PD_ENOMEM;
    }
    pd_window *window;
    pd_status status = map_window(fd, size, reserve, NULL, &window);
    if (status != PD_OK) {
        pd_free(segment);
        return status;
    }
    segment->fd = fd;
    atomic_init(&segment->window, window);
    *out = segment;
    return PD_OK;
}

pd_status
pd_segment_create(pd_segment_kind kind, size_t bytes, size_t reserve, pd_segment **out)
{
    if (bytes < sizeof(pd_segment_header) || bytes > SIZE_MAX / 4) {
        return PD_EINVAL;
    }
    uint64_t id = 0;
    if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id)) {
        return PD_EOS;
    }
    int fd = open_memory();
    if (fd < 0) {
        return PD_EOS;
    }
    pd_segment *segment = NULL;
    pd_status status = fill_range(fd, 0, bytes);
    if (status == PD_OK) {
        status = open_segment(fd, bytes, reserve, &segment);
    }
    if (status != PD_OK) {
        int error = errno;
        close(fd);
        errno = error;
        return status;
    }
    *(pd_segment_header *)pd_segment_at(segment, 0, sizeof(pd_segment_header)) =
        (pd_segment_header){
            .magic = MAGIC,
            .version = LAYOUT_VERSION,
            .abi = abi_tag(),
            .kind = kind,
            .id = id | 1,
        };
    *out = segment;
    return PD_OK;
}

pd_status
pd_segment_attach(int fd, pd_segment_kind kind, size_t reserve, pd_segment **out)
{
    size_t size;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || !file_size(fd, &size) ||
        size < sizeof(pd_segment_header))
    {
        return PD_ECORRUPT;
    }
    pd_segment *segment;
    pd_status status = open_segment(fd, size, reserve, &segment);
    if (status != PD_OK) {
        return status;
    }
    const pd_segment_header *header =
        pd_segment_at(segment, 0, sizeof(pd_segment_header));
    if (header->magic != MAGIC || header->version != LAYOUT_VERSION ||
        header->abi != abi_tag() || header->kind != kind)
    {
        pd_segment_release(segment);
        return PD_ECORRUPT;
    }
    *out = segment;
    return PD_OK;
}

void
pd_segment_release(pd_segment *segment)
{
    pd_window *window = atomic_load(&segment->window);
    while (window != NULL) {
        pd_window *before = window->before;
        unmap_window(window);
        window = before;
    }
    pd_free(segment);
}

void
pd_segment_destroy(pd_segment *segment)
{
    if (segment != NULL) {
        close(segment->fd);
        pd_segment_release(segment);
    }
}

size_t
pd_segment_size(pd_segment *segment)
{
    size_t size = 0;
    (void)file_size(segment->fd, &size);
    return size;
}

// Replaces `window` by one of at least `size` bytes, unless another thread has.
static void
widen(pd_segment *segment, pd_window *window, size_t size)
{
    pd_window *wider;
    if (size > SIZE_MAX / 4 ||
        map_window(segment->fd, size, 2 * size, window, &wider) != PD_OK)
    {
        return;
    }
    if (!atomic_compare_exchange_strong(&segment->window, &window, wider)) {
        unmap_window(wider);
    }
}

void *
pd_segment_reach(pd_segment *segment, uint64_t offset, size_t bytes)
{
    size_t size;
    if (!file_size(segment->fd, &size) || bytes > size || offset > size - bytes) {
        return NULL;
    }
    for (int attempt = 0; attempt < 3; attempt++) {
        pd_window *window = atomic_load(&segment->window);
        size_t usable = size < window->reserved ? size : window->reserved;
        // Of two threads here the one that read the smaller size may be the later.
        size_t known = atomic_load(&window->usable);
        while (known < usable &&
               !atomic_compare_exchange_weak(&window->usable, &known, usable))
        {
        }
        if (offset + bytes <= atomic_load(&window->usable)) {
            return window->base + offset;
        }
        widen(segment, window, size);
    }
    return NULL;
}

pd_status
pd_segment_extend(pd_segment *segment, size_t bytes)
{
    size_t size;
    if (!file_size(segment->fd, &size)) {
        return PD_EOS;
    }
    pd_status status = bytes > size ? fill_range(segment->fd, size, bytes) : PD_OK;
    if (status == PD_OK && pd_segment_at(segment, 0, bytes) == NULL) {
        return PD_ENOMEM;  // there is memory, but no address space to map it
    }
    return status;
}

bool
pd_segment_discard(pd_segment *segment, uint64_t offset, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t first = (offset + page - 1) / page * page;
    uint64_t last = (offset + bytes) / page * page;
    return first < last &&
           fallocate(segment->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)first, (off_t)(last - first)) == 0;
}

pd_status
pd_segment_restore(pd_segment *segment, uint64_t offset, size_t bytes)
{
    return fill_range(segment->fd, (size_t)offset, (size_t)offset + bytes);
}

#else  // Not Linux: see the top of this file for what would stand here.

pd_status
pd_segment_create(pd_segment_kind kind, size_t bytes, size_t reserve, pd_segment **out)
{
    (void)kind, (void)bytes, (void)reserve, (void)out;
    errno = ENOTSUP;
    return PD_EOS;
}

pd_status
pd_segment_attach(int fd, pd_segment_kind kind, size_t reserve, pd_segment **out)
{
    (void)fd, (void)kind, (void)reserve, (void)out;
    errno = ENOTSUP;
    return PD_EOS;
}

// No segment can exist, so nobody calls these.
void
pd_segment_release(pd_segment *segment)
{
    (void)segment;
}

void
pd_segment_destroy(pd_segment *segment)
{
    (void)segment;
}

size_t
pd_segment_size(pd_segment *segment)
{
    (void)segment;
    return 0;
}

pd_status
pd_segment_extend(pd_segment *segment, size_t bytes)
{
    (void)segment, (void)bytes;
    return PD_ENOMEM;
}

bool
pd_segment_discard(pd_segment *segment, uint64_t offset, size_t bytes)
{
    (void)segment, (void)offset, (void)bytes;
    return false;
}

pd_status
pd_segment_restore(pd_segment *segment, uint64_t offset, size_t bytes)
{
    (void)segment, (void)offset, (void)bytes;
    return PD_ENOMEM;
}

void *
pd_segment_reach(pd_segment *segment, uint64_t offset, size_t bytes)
{
    (void)segment, (void)offset, (void)bytes;
    return NULL;
}

#endif
