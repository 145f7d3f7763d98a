/* AckGate: the way of an ack from a delivery to the bitmap, without Python code between.
 *
 * Each consumer has a gate, which its deliveries hold; the gate holds the consumer, and so the
 * bitmaps that it knows live. Whoever is only to know whether a consumer is still there refers to
 * its gate weakly. It stands open until it is closed, or one that it lies behind: that
 * of the subscription, and that of the store. Through a closed gate nothing passes, and the caller
 * goes the way that says why. */
#include "hsl_py.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <structmember.h>

#define BATCH_RUNS 256

struct lane {
    uint64_t shard;
    struct hsl_ackmap *map;
};

struct gate {
    PyObject_HEAD
    PyObject *consumer; /* NULL at a gate that only others lie behind */
    PyObject *answer;   /* what an ack returns */
    struct gate *behind; /* or NULL */
    PyObject *weak_refs;
    struct lane *lanes;
    size_t count;
    uint64_t acks; /* records newly acked through it */
    uint64_t taken; /* records that its consumer took of itself since that was last asked */
    int64_t took_ns; /* when it took the last of them; 0: never */
    bool closed;
    bool left; /* its consumer is not attached any more, and takes nothing */
};

static PyTypeObject *gate_type;

static int fill_lanes(struct gate *gate, PyObject *maps)
{
    Py_ssize_t at = 0;
    PyObject *shard, *address;
    gate->lanes = calloc((size_t)PyDict_Size(maps) + 1, sizeof *gate->lanes);
    if (gate->lanes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    while (PyDict_Next(maps, &at, &shard, &address)) {
        struct lane *lane = &gate->lanes[gate->count++];
        lane->shard = PyLong_AsUnsignedLongLong(shard);
        lane->map = (struct hsl_ackmap *)(uintptr_t)PyLong_AsUnsignedLongLong(address);
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

static PyObject *gate_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"behind", "consumer", "maps", "answer", NULL};
    PyObject *behind = Py_None, *consumer = NULL, *maps = NULL, *answer = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOO!O:AckGate", names, &behind, &consumer,
                                     &PyDict_Type, &maps, &answer))
        return NULL;
    if (behind != Py_None && !Py_IS_TYPE(behind, gate_type)) {
        PyErr_SetString(PyExc_TypeError, "behind must be an AckGate or None");
        return NULL;
    }
    struct gate *gate = (struct gate *)PyType_GenericAlloc(type, 0);
    if (gate == NULL)
        return NULL;
    gate->consumer = Py_XNewRef(consumer);
    gate->answer = Py_NewRef(answer);
    if (behind != Py_None)
        gate->behind = (struct gate *)Py_NewRef(behind);
    if (maps != NULL && fill_lanes(gate, maps) < 0)
        Py_CLEAR(gate);
    return (PyObject *)gate;
}

static int gate_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct gate *gate = (struct gate *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(gate->consumer);
    Py_VISIT(gate->answer);
    Py_VISIT((PyObject *)gate->behind);
    return 0;
}

static int gate_clear(PyObject *self)
{
    struct gate *gate = (struct gate *)self;
    gate->closed = true; /* the bitmaps may go with the consumer */
    Py_CLEAR(gate->consumer);
    return 0;
}

static void gate_dealloc(PyObject *self)
{
    struct gate *gate = (struct gate *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (gate->weak_refs != NULL)
        PyObject_ClearWeakRefs(self);
    Py_XDECREF(gate->consumer);
    Py_XDECREF(gate->answer);
    Py_XDECREF((PyObject *)gate->behind);
    free(gate->lanes);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *gate_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((struct gate *)self)->closed = true;
    Py_RETURN_NONE;
}

static PyObject *gate_acks(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct gate *)self)->acks);
}

static bool is_open(const struct gate *gate)
{
    for (; gate != NULL; gate = gate->behind)
        if (gate->closed)
            return false;
    return true;
}

static struct hsl_ackmap *map_of(const struct gate *gate, uint64_t shard)
{
    for (size_t i = 0; i < gate->count; i++)
        if (gate->lanes[i].shard == shard)
            return gate->lanes[i].map;
    return NULL;
}

/* Flags of an ack, without ATTENTION where that was to be stored and could be. */
static unsigned attended(struct hsl_ackmap *map, unsigned flags)
{
    return flags & HSL_ACK_ATTENTION && hsl_py_save(map) ? flags & ~HSL_ACK_ATTENTION : flags;
}

static PyObject *counts_result(const struct hsl_ack_counts *c)
{
    return Py_BuildValue("(KKKI)", (unsigned long long)c->fresh, (unsigned long long)c->duplicate,
                         (unsigned long long)c->voided, c->flags);
}

static PyObject *gate_ack_runs(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct gate *gate = (struct gate *)self;
    struct hsl_ack_counts counts;
    struct hsl_ackmap *map;
    if (!hsl_py_takes("ack_runs", n, 2))
        return NULL;
    uint64_t shard = PyLong_AsUnsignedLongLong(args[0]);
    if (PyErr_Occurred())
        return NULL;
    map = is_open(gate) ? map_of(gate, shard) : NULL;
    if (map == NULL)
        Py_RETURN_NONE;
    if (hsl_py_ack_runs(map, args[1], &counts) < 0)
        return NULL;
    if (counts.flags & HSL_ACK_UNKNOWN)
        Py_RETURN_NONE;
    gate->acks += counts.fresh;
    counts.flags = attended(map, counts.flags);
    return counts_result(&counts);
}

static PyObject *gate_ack_batch(PyObject *self, PyObject *batch)
{
    struct gate *gate = (struct gate *)self;
    struct hsl_ack_counts counts;
    struct hsl_key_run runs[BATCH_RUNS];
    uint64_t shard;
    size_t count = is_open(gate) ? hsl_py_batch_runs(batch, &shard, runs, BATCH_RUNS) : 0;
    struct hsl_ackmap *map = count > 0 ? map_of(gate, shard) : NULL;
    if (map == NULL)
        Py_RETURN_NONE;
    hsl_py_ack_key_runs(map, runs, count, &counts);
    if (counts.flags & HSL_ACK_UNKNOWN)
        Py_RETURN_NONE;
    gate->acks += counts.fresh;
    counts.flags = attended(map, counts.flags);
    return counts_result(&counts);
}

static PyObject *gate_taken(PyObject *self, PyObject *unused)
{
    (void)unused;
    uint64_t taken = ((struct gate *)self)->taken;
    ((struct gate *)self)->taken = 0;
    return PyLong_FromUnsignedLongLong(taken);
}

static PyObject *gate_took_ns(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLongLong(((struct gate *)self)->took_ns);
}

static PyObject *gate_leave(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((struct gate *)self)->left = true;
    Py_RETURN_NONE;
}

/* ---- joints ---- */

PyObject *hsl_py_gate_consumer(PyObject *owner)
{
    return Py_IS_TYPE(owner, gate_type) ? ((struct gate *)owner)->consumer : owner;
}

int hsl_py_gate_ack(PyObject *owner, uint64_t shard, uint64_t lsn, PyObject **answer)
{
    struct gate *gate = (struct gate *)owner;
    struct hsl_ackmap *map;
    if (!Py_IS_TYPE(owner, gate_type) || !is_open(gate) || (map = map_of(gate, shard)) == NULL)
        return -1;
    *answer = gate->answer;
    unsigned flags = hsl_ackmap_ack(map, lsn);
    gate->acks += flags & HSL_ACK_NEW;
    return (int)attended(map, flags);
}

int hsl_py_gate_takes(PyObject *owner)
{
    return Py_IS_TYPE(owner, gate_type) && !((struct gate *)owner)->left &&
           is_open((struct gate *)owner);
}

void hsl_py_gate_took(PyObject *owner, uint64_t records, int64_t now)
{
    ((struct gate *)owner)->taken += records;
    ((struct gate *)owner)->took_ns = now;
}

/* ---- type ---- */

static PyMethodDef gate_methods[] = {
    {"acks", gate_acks, METH_NOARGS,
     "acks($self, /)\n--\n\nReturn how many records were newly acked through it."},
    {"ack_runs", (PyCFunction)(void (*)(void))gate_ack_runs, METH_FASTCALL,
     "ack_runs($self, shard, runs, /)\n--\n\n"
     "Ack runs of a key table: (new, duplicate, void, flags). None where there is no way through, "
     "or any of it is unknown: then nothing was done."},
    {"ack_batch", gate_ack_batch, METH_O,
     "ack_batch($self, batch, /)\n--\n\n"
     "The same for a batch of deliveries; None also where they lie in too many places."},
    {"taken", gate_taken, METH_NOARGS,
     "taken($self, /)\n--\n\nReturn how many records its consumer took since the last call."},
    {"took_ns", gate_took_ns, METH_NOARGS,
     "took_ns($self, /)\n--\n\nReturn when its consumer last took records; 0 if it never did."},
    {"leave", gate_leave, METH_NOARGS,
     "leave($self, /)\n--\n\nLet the consumer take nothing from now on."},
    {"close", gate_close, METH_NOARGS, "close($self, /)\n--\n\nLet nothing pass from now on."},
    {NULL, NULL, 0, NULL},
};

static const char gate_doc[] =
    "AckGate(behind=None, consumer=None, maps={}, answer=None)\n--\n\n"
    "The way of acks from the deliveries of a consumer to the bitmaps, by shard their addresses.";

static PyMemberDef gate_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct gate, weak_refs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot gate_slots[] = {
    {Py_tp_doc, (void *)gate_doc},
    {Py_tp_new, gate_new},
    {Py_tp_dealloc, gate_dealloc},
    {Py_tp_traverse, gate_traverse},
    {Py_tp_clear, gate_clear},
    {Py_tp_methods, gate_methods},
    {Py_tp_members, gate_members},
    {0, NULL},
};

static PyType_Spec gate_spec = {
    .name = "hstreamlite._native.AckGate",
    .basicsize = sizeof(struct gate),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gate_slots,
};

int hsl_py_gate_install(PyObject *module)
{
    gate_type = (PyTypeObject *)PyType_FromSpec(&gate_spec);
    if (gate_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "AckGate", (PyObject *)gate_type);
}
