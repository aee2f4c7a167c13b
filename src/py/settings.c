// What was chosen for this process: processors, threads, instruction set.
#include "py/binding.h"
#include "base/cpu.h"
#include "thread/team.h"

PyDoc_STRVAR(team_threads_doc,
             "team_threads()\n--\n\n"
             "Native threads alive now, the calling thread not counted.");

static PyObject *
team_threads(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(pd_team_threads());
}

PyDoc_STRVAR(
    cpu_info_doc,
    "cpu_info()\n--\n\n"
    "Processors: online, in the affinity mask, cgroup quota (0: none), usable.");

static PyObject *
cpu_info(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    pd_cpu cpu = pd_cpu_count();
    return Py_BuildValue("{s:I,s:I,s:d,s:I}", "online", cpu.online, "affinity",
                         cpu.affinity, "quota", cpu.quota, "usable", cpu.usable);
}

PyMethodDef pd_settings_methods[] = {
    {"cpu_info",     cpu_info,     METH_NOARGS, cpu_info_doc    },
    {"team_threads", team_threads, METH_NOARGS, team_threads_doc},
    {NULL,           NULL,         0,           NULL            },
};
