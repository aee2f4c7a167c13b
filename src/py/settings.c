// What was chosen for this process: processors, threads, instruction set.
#include "py/binding.h"
#include "base/cpu.h"
#include "simd/simd.h"
#include "thread/team.h"

// By this symbol threadpoolctl knows the library: see pydistrib/_threadpoolctl.py.
__attribute__((visibility("default"))) extern const int pydistrib_threads_api;
const int pydistrib_threads_api = 1;

PyDoc_STRVAR(team_threads_doc,
             "team_threads($module, /)\n--\n\n"
             "Native threads alive now, the calling thread not counted.");

static PyObject *
team_threads(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(pd_team_threads());
}

PyDoc_STRVAR(
    cpu_info_doc,
    "cpu_info($module, /)\n--\n\n"
    "Processors: online, in the affinity mask, cgroup quota (0: none), usable.");

static PyObject *
cpu_info(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    pd_cpu cpu = pd_cpu_count();
    return Py_BuildValue("{s:I,s:I,s:d,s:I}", "online", cpu.online, "affinity",
                         cpu.affinity, "quota", cpu.quota, "usable", cpu.usable);
}

PyDoc_STRVAR(simd_info_doc,
             "simd_info($module, /)\n--\n\n"
             "The instruction set in use, and all that this machine and build have.");

static PyObject *
simd_info(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    const char *names[PD_SIMD_LEVELS];
    size_t count = pd_simd_available(names);
    PyObject *available = PyTuple_New((Py_ssize_t)count);
    if (available == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL) {
            Py_DECREF(available);
            return NULL;
        }
        PyTuple_SET_ITEM(available, (Py_ssize_t)i, name);
    }
    return Py_BuildValue("{s:s,s:N}", "active", pd_simd_active()->name, "available",
                         available);
}

PyDoc_STRVAR(
    simd_select_doc,
    "simd_select($module, name, /)\n--\n\n"
    "Use the instruction set `name` from the next call on; False if there is none.");

static PyObject *
simd_select(PyObject *Py_UNUSED(module), PyObject *name)
{
    const char *text = PyUnicode_AsUTF8(name);
    if (text == NULL) {
        return NULL;
    }
    const pd_simd *simd = pd_simd_named(text);
    if (simd == NULL) {
        Py_RETURN_FALSE;
    }
    pd_simd_select(simd);
    Py_RETURN_TRUE;
}

PyMethodDef pd_settings_methods[] = {
    {"simd_info",    simd_info,    METH_NOARGS, simd_info_doc   },
    {"simd_select",  simd_select,  METH_O,      simd_select_doc },
    {"cpu_info",     cpu_info,     METH_NOARGS, cpu_info_doc    },
    {"team_threads", team_threads, METH_NOARGS, team_threads_doc},
    {NULL,           NULL,         0,           NULL            },
};
