// _core.CallbackLane: callbacks of one pool run one at a time.
//
// A lane is a queue that whoever finds it idle serves until it is empty.  A callback that
// itself settles a result of the same lane (it made a nested call) runs that result's
// callback at once.
#include "py/async.h"

typedef struct pd_lane {
    PyObject_HEAD
    // All guarded by the lane's critical section.
    unsigned long owner;  // the thread that serves the lane, or 0
    pd_async *first;      // waiting, linked by task.next; each owned
    pd_async *last;
} pd_lane;

// Joins the lane; true if this thread has to serve it, false if another one does.
static bool
join_lane(pd_lane *l, pd_async *self, bool *nested)
{
    bool serve = false;
    unsigned long me = PyThread_get_thread_ident();
    *nested = false;

    Py_BEGIN_CRITICAL_SECTION(l);
    if (l->owner == 0) {
        l->owner = me;
        serve = true;
    }
    else if (l->owner == me) {
        *nested = true;
    }
    else {
        // No longer queued, so the link is free.
        self->work.task.next = NULL;
        if (l->last != NULL) {
            l->last->work.task.next = &self->work.task;
        }
        else {
            l->first = self;
        }
        l->last = (pd_async *)Py_NewRef((PyObject *)self);
    }
    Py_END_CRITICAL_SECTION();
    return serve;
}

static pd_async *
next_in_lane(pd_lane *l)
{
    pd_async *first;

    Py_BEGIN_CRITICAL_SECTION(l);
    first = l->first;
    if (first == NULL) {
        l->owner = 0;
    }
    else {
        pd_task *next = first->work.task.next;
        first->work.task.next = NULL;
        l->first =
            next == NULL ? NULL : (pd_async *)((char *)next - offsetof(pd_work, task));
        if (l->first == NULL) {
            l->last = NULL;
        }
    }
    Py_END_CRITICAL_SECTION();
    return first;
}

void
pd_lane_run(pd_async *self)
{
    bool nested;
    pd_lane *l = (pd_lane *)Py_NewRef(self->extras->lane);
    if (join_lane(l, self, &nested)) {
        pd_async_call_back(self);
        pd_async *next;
        while ((next = next_in_lane(l)) != NULL) {
            pd_async_call_back(next);
            Py_DECREF(next);
        }
    }
    else if (nested) {
        pd_async_call_back(self);
    }
    Py_DECREF(l);
}

static int
lane_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void
lane_dealloc(PyObject *op)
{
    // Empty: a thread that serves it, and whoever waits in it, hold references.
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot lane_slots[] = {
    {Py_tp_doc,      "Callbacks that run one at a time."},
    {Py_tp_new,      PyType_GenericNew                  },
    {Py_tp_traverse, lane_traverse                      },
    {Py_tp_dealloc,  lane_dealloc                       },
    {0,              NULL                               },
};

static PyType_Spec lane_spec = {
    .name = "pydistrib._core.CallbackLane",
    .basicsize = sizeof(pd_lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lane_slots,
};

int
pd_add_lane_type(PyObject *module)
{
    pd_module_state *state = PyModule_GetState(module);
    state->lane_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    return state->lane_type == NULL ? -1 : PyModule_AddType(module, state->lane_type);
}
