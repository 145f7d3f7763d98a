/* What a signal's handler that raises, as that of Ctrl-C does, cannot tear: locks held together,
 * and what has to follow a step that cannot be taken back.
 *
 * Python runs such handlers between two of its instructions, never in here. So what a context
 * manager or a try block of Python code does behind a call may not come to pass; what is done here
 * before returning does.
 */
#include "hsl_py.h"

#define TRIES 100

struct held {
    PyObject_HEAD
    PyObject *locks; /* a tuple */
    PyObject *blocking;
    Py_ssize_t count; /* how many of them are held, from the first on */
};

/* Releases what is held, the last one first; an exception that is set stays. */
static void release_all(struct held *h)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    while (h->count > 0) {
        PyObject *lock = PyTuple_GetItem(h->locks, --h->count);
        PyObject *done = PyObject_CallMethod(lock, "release", NULL);
        if (!done)
            PyErr_WriteUnraisable(lock);
        Py_XDECREF(done);
    }
    PyErr_Restore(type, value, traceback);
}

static PyObject *held_enter(PyObject *self, PyObject *unused)
{
    struct held *h = (struct held *)self;
    (void)unused;
    if (h->count > 0)
        return PyErr_Format(PyExc_RuntimeError, "the locks are held already");
    while (h->count < PyTuple_Size(h->locks)) {
        PyObject *lock = PyTuple_GetItem(h->locks, h->count);
        PyObject *got = PyObject_CallMethod(lock, "acquire", "O", h->blocking);
        int acquired = got ? PyObject_IsTrue(got) : -1;
        Py_XDECREF(got);
        if (acquired <= 0) {
            release_all(h);
            return acquired < 0 ? NULL : Py_NewRef(Py_False);
        }
        h->count++;
    }
    Py_RETURN_TRUE;
}

static PyObject *held_exit(PyObject *self, PyObject *unused)
{
    (void)unused;
    release_all((struct held *)self);
    Py_RETURN_NONE;
}

static PyObject *held_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"locks", "blocking", NULL};
    PyObject *locks, *tuple;
    int blocking = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|p:Held", names, &locks, &blocking) ||
        !(tuple = PySequence_Tuple(locks)))
        return NULL;
    struct held *h = (struct held *)PyType_GenericAlloc(type, 0);
    if (!h) {
        Py_DECREF(tuple); /* not reached: Python lacks memory */
        return NULL;      /* not reached: as the line before */
    }
    h->locks = tuple;
    h->blocking = blocking ? Py_True : Py_False;
    return (PyObject *)h;
}

static void held_dealloc(PyObject *self)
{
    struct held *h = (struct held *)self;
    PyTypeObject *type = Py_TYPE(self);
    release_all(h);
    Py_XDECREF(h->locks);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* followed(first, then): the answer of first, with which then was called, again while that raised,
 * TRIES times at most; what it raised first is raised in the end. None has no follower. */
static PyObject *py_followed(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *type = NULL, *value = NULL, *traceback = NULL;
    (void)module;
    if (!hsl_py_takes("followed", nargs, 2))
        return NULL;
    PyObject *answer = PyObject_CallFunctionObjArgs(args[0], NULL);
    if (!answer || answer == Py_None)
        return answer;
    for (int tries = 0; tries < TRIES; tries++) {
        PyObject *done = PyObject_CallFunctionObjArgs(args[1], answer, NULL);
        Py_XDECREF(done);
        if (done)
            break;
        if (type)
            PyErr_Clear();
        else
            PyErr_Fetch(&type, &value, &traceback);
    }
    if (!type)
        return answer;
    PyErr_Restore(type, value, traceback);
    Py_DECREF(answer);
    return NULL;
}

/* ---- type ---- */

static PyMethodDef held_methods[] = {
    {"__enter__", held_enter, METH_NOARGS,
     "__enter__($self, /)\n--\n\n"
     "Acquire all locks, in order, and return whether all are held; else none is."},
    {"__exit__", held_exit, METH_VARARGS,
     "__exit__($self, kind, error, traceback, /)\n--\n\nRelease them."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot held_slots[] = {
    {Py_tp_doc, (void *)"Held(locks, blocking=True)\n--\n\n"
                        "Context manager that holds several locks, or tries to."},
    {Py_tp_new, held_new},
    {Py_tp_dealloc, held_dealloc},
    {Py_tp_methods, held_methods},
    {0, NULL},
};

static PyType_Spec held_spec = {
    .name = "hstreamlite._native.Held",
    .basicsize = sizeof(struct held),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = held_slots,
};

static PyMethodDef methods[] = {
    {"followed", (PyCFunction)(void (*)(void))py_followed, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

int hsl_py_signal_install(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&held_spec);
    int rc = type ? PyModule_AddObjectRef(module, "Held", type) : -1;
    Py_XDECREF(type);
    return rc < 0 ? rc : PyModule_AddFunctions(module, methods);
}
