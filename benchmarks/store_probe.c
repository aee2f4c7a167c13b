// How fast memory takes writes: the floor under every kernel that stores its matrix.
//
//     fill(buffer, threads, stream, repeats) -> seconds of one filling
//
// An extension module of its own, compiled when the benchmarks run: it shares no code
// with the package that is measured against it.  Each thread writes one half (a third,
// ...) of the buffer with the widest stores that the CPU has, `repeats` times; `stream`
// chooses stores that go past the caches.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <time.h>

#if defined(__x86_64__)
#    include <immintrin.h>
#endif

#define LINE 64
#define MAX_THREADS 256

typedef struct part {
    char *start;
    size_t bytes;  // a multiple of LINE
    int stream;
    long repeats;
} part;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void
fill_512(char *to, size_t bytes, int stream)
{
    __m512i v = _mm512_set1_epi32(0x3f800000);
    for (size_t i = 0; stream && i < bytes; i += LINE) {
        _mm512_stream_si512((void *)(to + i), v);
    }
    for (size_t i = 0; !stream && i < bytes; i += LINE) {
        _mm512_store_si512((void *)(to + i), v);
    }
    _mm_sfence();
}

static void
fill_128(char *to, size_t bytes, int stream)
{
    __m128i v = _mm_set1_epi32(0x3f800000);
    for (size_t i = 0; stream && i < bytes; i += sizeof(v)) {
        _mm_stream_si128((void *)(to + i), v);
    }
    for (size_t i = 0; !stream && i < bytes; i += sizeof(v)) {
        _mm_store_si128((void *)(to + i), v);
    }
    _mm_sfence();
}
#endif

static void
fill_lines(char *to, size_t bytes, int stream)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        fill_512(to, bytes, stream);
        return;
    }
    fill_128(to, bytes, stream);
#else
    (void)stream;  // no portable way to ask for it
    memset(to, 0x3f, bytes);
#endif
}

static void *
fill_part(void *arg)
{
    const part *p = arg;
    for (long i = 0; i < p->repeats; i++) {
        fill_lines(p->start, p->bytes, p->stream);
    }
    return NULL;
}

// Splits whole lines among the threads; the first part runs on the calling thread.
static int
fill_on_threads(char *start, size_t lines, unsigned threads, int stream, long repeats)
{
    part parts[MAX_THREADS];
    pthread_t ids[MAX_THREADS];
    unsigned started = 1;
    for (unsigned t = 0; t < threads; t++) {
        size_t from = lines * t / threads;
        size_t to = lines * (t + 1) / threads;
        parts[t] = (part){start + from * LINE, (to - from) * LINE, stream, repeats};
    }
    while (started < threads &&
           pthread_create(&ids[started], NULL, fill_part, &parts[started]) == 0)
    {
        started++;
    }
    if (started == threads) {
        fill_part(&parts[0]);
    }
    for (unsigned t = 1; t < started; t++) {
        pthread_join(ids[t], NULL);
    }
    return started == threads ? 0 : -1;
}

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static PyObject *
fill(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer buffer;
    unsigned int threads;
    int stream;
    long repeats;
    if (!PyArg_ParseTuple(args, "w*Ipl:fill", &buffer, &threads, &stream, &repeats)) {
        return NULL;
    }
    size_t skip = (LINE - (size_t)buffer.buf % LINE) % LINE;
    size_t lines = (size_t)buffer.len > skip ? ((size_t)buffer.len - skip) / LINE : 0;
    if (threads < 1 || threads > MAX_THREADS || repeats < 1 || lines == 0) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_ValueError, "threads, repeats or buffer out of range");
        return NULL;
    }
    int failed;
    double seconds;
    Py_BEGIN_ALLOW_THREADS
    double start = now();
    failed = fill_on_threads((char *)buffer.buf + skip, lines, threads, stream, repeats);
    seconds = now() - start;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    if (failed) {
        PyErr_SetString(PyExc_OSError, "a thread could not be started");
        return NULL;
    }
    return PyFloat_FromDouble(seconds / (double)repeats);
}

static PyMethodDef methods[] = {
    {"fill", fill, METH_VARARGS, "fill(buffer, threads, stream, repeats) -> seconds"},
    {NULL,   NULL, 0,            NULL                                              },
};

static struct PyModuleDef store_probe = {
    PyModuleDef_HEAD_INIT,
    .m_name = "store_probe",
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit_store_probe(void)
{
    return PyModule_Create(&store_probe);
}
