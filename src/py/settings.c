// What was chosen for this process: processors, threads, instruction set.
#include "py/binding.h"
#include "thread/team.h"

PyDoc_STRVAR(team_threads_doc,
             "team_threads()\n--\n\n"
             "Native threads alive now, the calling thread not counted.");

static PyObject *
team_threads(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(pd_team_threads());
}

PyMethodDef pd_settings_methods[] = {
    {"team_threads", team_threads, METH_NOARGS, team_threads_doc},
    {NULL,           NULL,         0,           NULL            },
};
