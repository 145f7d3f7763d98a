/* Fast functions over the order of keys, called with the table's address.
 *
 * They hold the GIL throughout, as those of py_ack.c do, for both change the same ack map. Runs are
 * bytes: an array of struct hsl_key_run, as keytab_take returned it.
 */
#include "hsl_py.h"

#include <errno.h>
#include <string.h>

#define RUNS_AT_ONCE 4096

typedef unsigned long long ull;

static struct hsl_keytab *table(ull address)
{
    if (address == 0)
        PyErr_SetString(PyExc_ValueError, "the key table has no address");
    return (struct hsl_keytab *)(uintptr_t)address;
}

/* No window holds more records than this. */
#define RECORDS_MAX (1ull << 31)

static void *room_for(uint64_t records, size_t each)
{
    return records < RECORDS_MAX ? PyMem_Calloc((size_t)records + 1, each) : NULL;
}

static PyObject *failure(int64_t rc)
{
    if (rc == -ENOMEM)
        return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, "keys are not described in order");
    return NULL;
}

static uint64_t records_of(const char *runs, Py_ssize_t len)
{
    uint64_t records = 0;
    for (size_t i = 0; i < (size_t)len / sizeof(struct hsl_key_run); i++)
        records += ((const struct hsl_key_run *)runs)[i].count;
    return records;
}

/* (records, those that are a first attempt, runs) */
static PyObject *runs_result(struct hsl_key_run *out, int64_t n)
{
    uint64_t records = 0, first = 0;
    for (int64_t i = 0; i < n; i++) {
        records += out[i].count;
        first += out[i].attempt == 1 ? out[i].count : 0;
    }
    Py_ssize_t size = (Py_ssize_t)n * (Py_ssize_t)sizeof *out;
    PyObject *result = n < 0 ? failure(n)
                             : Py_BuildValue("(KKy#)", (ull)records, (ull)first, (char *)out, size);
    PyMem_Free(out);
    return result;
}

static PyObject *heads_result(struct hsl_key_head *out, int64_t n, uint64_t count)
{
    PyObject *list = n < 0 ? failure(n) : PyList_New(0);
    for (int64_t i = 0; list && i < n; i++) {
        PyObject *head = Py_BuildValue("(KII)", (ull)out[i].lsn, out[i].failures, out[i].attempts);
        if (!head || PyList_Append(list, head) < 0)
            Py_CLEAR(list);
        Py_XDECREF(head);
    }
    PyMem_Free(out);
    return list ? Py_BuildValue("(KN)", (ull)count, list) : NULL;
}

/* take(table, consumer, parcel, max, fresh, end) -> (records, first attempts, runs) */
static PyObject *py_take(PyObject *self, PyObject *args)
{
    ull address, max, fresh, end;
    unsigned consumer, parcel;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIIKKK:keytab_take", &address, &consumer, &parcel, &max, &fresh,
                          &end) ||
        !(t = table(address)))
        return NULL;
    struct hsl_key_run *out = room_for(max, sizeof *out);
    if (!out)
        return PyErr_NoMemory();
    return runs_result(out, hsl_keytab_take(t, consumer, parcel, max, fresh, end, out));
}

/* confirm(table, parcel, runs, count) -> the same, of what is out */
static PyObject *py_confirm(PyObject *self, PyObject *args)
{
    ull address, count;
    unsigned parcel;
    const char *runs;
    Py_ssize_t len;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIy#K:keytab_confirm", &address, &parcel, &runs, &len, &count) ||
        !(t = table(address)))
        return NULL;
    struct hsl_key_run *out = room_for(records_of(runs, len), sizeof *out);
    if (!out)
        return PyErr_NoMemory();
    size_t n = (size_t)len / sizeof *out;
    const struct hsl_key_run *in = (const struct hsl_key_run *)runs;
    return runs_result(out, hsl_keytab_confirm(t, parcel, in, n, count, out));
}

/* take_back(table, parcel, runs) -> (how many were out, [(LSN, failures, attempts), ...]) */
static PyObject *py_take_back(PyObject *self, PyObject *args)
{
    ull address;
    unsigned parcel;
    const char *runs;
    Py_ssize_t len;
    uint64_t count = 0;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIy#:keytab_take_back", &address, &parcel, &runs, &len) ||
        !(t = table(address)))
        return NULL;
    struct hsl_key_head *out = room_for(records_of(runs, len), sizeof *out);
    if (!out)
        return PyErr_NoMemory();
    const struct hsl_key_run *in = (const struct hsl_key_run *)runs;
    size_t n = (size_t)len / sizeof *in;
    int64_t heads = hsl_keytab_take_back(t, parcel, in, n, out, &count);
    return heads_result(out, heads, count);
}

/* release(table, consumer, first, end, was it sent), as take_back */
static PyObject *py_release(PyObject *self, PyObject *args)
{
    ull address, first, end;
    unsigned consumer;
    int sent;
    uint64_t count = 0;
    struct hsl_keytab *t;
    struct hsl_key_state state;
    if (!PyArg_ParseTuple(args, "KIKKi:keytab_release", &address, &consumer, &first, &end, &sent) ||
        !(t = table(address)))
        return NULL;
    hsl_keytab_state(t, &state);
    end = end < state.scan ? end : state.scan;
    size_t most = first < end && end - first < state.window ? (size_t)(end - first)
                                                           : (size_t)state.window;
    struct hsl_key_head *out = PyMem_Calloc(most + 1, sizeof *out);
    if (!out)
        return PyErr_NoMemory();
    int64_t heads = sent ? hsl_keytab_release(t, consumer, first, end, out, &count)
                         : hsl_keytab_unsend(t, consumer, first, end, out, &count);
    return heads_result(out, heads, count);
}

/* describe(table, first, hashes) */
static PyObject *py_describe(PyObject *self, PyObject *args)
{
    ull address, first;
    const char *hashes;
    Py_ssize_t len;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KKy#:keytab_describe", &address, &first, &hashes, &len) ||
        !(t = table(address)))
        return NULL;
    int rc = hsl_keytab_describe(t, first, (const uint64_t *)hashes, (size_t)len / 8);
    if (rc < 0)
        return failure(rc);
    Py_RETURN_NONE;
}

/* restore(table, attempts, times that doom) */
static PyObject *py_restore(PyObject *self, PyObject *args)
{
    ull address;
    const char *attempts;
    Py_ssize_t len;
    unsigned doom_at;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "Ky#I:keytab_restore", &address, &attempts, &len, &doom_at) ||
        !(t = table(address)))
        return NULL;
    int rc = hsl_keytab_restore(t, (const uint32_t *)attempts, (size_t)len / 4, doom_at);
    if (rc < 0)
        return failure(rc);
    Py_RETURN_NONE;
}

static int append_run(PyObject *list, const struct hsl_key_run *run)
{
    PyObject *item = Py_BuildValue("(KKI)", (ull)run->first, (ull)(run->first + run->count),
                                   run->attempt);
    int rc = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return rc;
}

/* attempts(table, first) -> [(first, end, attempt), ...] */
static PyObject *py_attempts(PyObject *self, PyObject *args)
{
    ull address, first;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KK:keytab_attempts", &address, &first) || !(t = table(address)))
        return NULL;
    struct hsl_key_run *out = PyMem_Calloc(RUNS_AT_ONCE, sizeof *out);
    PyObject *list = out ? PyList_New(0) : PyErr_NoMemory();
    uint64_t lsn = first;
    size_t n = RUNS_AT_ONCE;
    while (list && n == RUNS_AT_ONCE) {
        n = hsl_keytab_attempts(t, &lsn, out, RUNS_AT_ONCE);
        for (size_t i = 0; list && i < n; i++) {
            if (append_run(list, &out[i]) < 0)
                Py_CLEAR(list);
        }
    }
    PyMem_Free(out);
    return list;
}

/* state(table) -> (scan, described, fresh, again, owned, keys, bytes) */
static PyObject *py_state(PyObject *self, PyObject *args)
{
    ull address;
    struct hsl_keytab *t;
    struct hsl_key_state s;
    if (!PyArg_ParseTuple(args, "K:keytab_state", &address) || !(t = table(address)))
        return NULL;
    hsl_keytab_state(t, &s);
    return Py_BuildValue("(KKKKKKK)", (ull)s.scan, (ull)s.described, (ull)s.fresh, (ull)s.again,
                         (ull)s.owned, (ull)s.keys, (ull)s.bytes);
}

/* The rest take numbers and return one. */
enum call { MOVE, HOLDS, DELAY, EXPOSE, WAKE, LEAVE, READY, CHECK };

static PyObject *call_numbers(PyObject *args, const char *format, enum call call)
{
    ull address, a = 0, b = 0, c = 0, d = 0;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, format, &address, &a, &b, &c, &d) || !(t = table(address)))
        return NULL;
    uint64_t result = 0;
    switch (call) {
    case MOVE: result = hsl_keytab_move(t, (uint32_t)a, (uint32_t)b, c, d); break;
    case HOLDS: result = (uint64_t)hsl_keytab_holds(t, (uint32_t)a, b, c); break;
    case DELAY: result = (uint64_t)hsl_keytab_delay(t, a); break;
    case EXPOSE: result = (uint64_t)(int64_t)hsl_keytab_expose(t, a); break;
    case WAKE: hsl_keytab_wake(t, a); break;
    case LEAVE: hsl_keytab_leave(t, (uint32_t)a); break;
    case READY: result = (uint64_t)hsl_keytab_ready(t, (uint32_t)a, b, c); break;
    case CHECK: result = (uint64_t)hsl_keytab_check(t); break;
    }
    return result >= (uint64_t)-ENOMEM ? PyErr_NoMemory() : PyLong_FromUnsignedLongLong(result);
}

#define NUMBERS(name, format, call)                       \
    static PyObject *name(PyObject *self, PyObject *args) \
    {                                                     \
        return call_numbers(args, format, call);          \
    }

NUMBERS(py_move, "KKKKK:keytab_move", MOVE)
NUMBERS(py_holds, "KKKK:keytab_holds", HOLDS)
NUMBERS(py_delay, "KK:keytab_delay", DELAY)
NUMBERS(py_expose, "KK:keytab_expose", EXPOSE)
NUMBERS(py_wake, "KK:keytab_wake", WAKE)
NUMBERS(py_leave, "KK:keytab_leave", LEAVE)
NUMBERS(py_ready, "KKKK:keytab_ready", READY)
NUMBERS(py_check, "K:keytab_check", CHECK)

/* parcels(table, consumer, first, end) -> [parcel, ...] */
static PyObject *py_parcels(PyObject *self, PyObject *args)
{
    ull address, first, end;
    unsigned consumer;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIKK:keytab_parcels", &address, &consumer, &first, &end) ||
        !(t = table(address)))
        return NULL;
    PyObject *list = PyList_New(0);
    uint64_t at = first;
    for (uint32_t parcel; list && (parcel = hsl_keytab_next_parcel(t, consumer, &at, end)) != 0;) {
        PyObject *number = PyLong_FromUnsignedLong(parcel);
        if (!number || PyList_Append(list, number) < 0)
            Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

/* open(table, parcel, runs) -> (how many are unacked, the first of them) */
static PyObject *py_open(PyObject *self, PyObject *args)
{
    ull address;
    unsigned parcel;
    const char *runs;
    Py_ssize_t len;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIy#:keytab_open", &address, &parcel, &runs, &len) ||
        !(t = table(address)))
        return NULL;
    const struct hsl_key_run *in = (const struct hsl_key_run *)runs;
    uint64_t first, open = hsl_keytab_open(t, parcel, in, (size_t)len / sizeof *in, &first);
    return Py_BuildValue("(KK)", (ull)open, (ull)first);
}

/* merge(runs, low) -> [(first, end, attempt), ...] */
static PyObject *py_merge(PyObject *self, PyObject *args)
{
    ull low;
    const char *runs;
    Py_ssize_t len;
    if (!PyArg_ParseTuple(args, "y#K:key_runs_merge", &runs, &len, &low))
        return NULL;
    struct hsl_key_run *own = PyMem_Malloc((size_t)len + 1);
    PyObject *list = own ? PyList_New(0) : PyErr_NoMemory();
    if (list) {
        memcpy(own, runs, (size_t)len);
        size_t n = hsl_key_runs_merge(own, (size_t)len / sizeof *own, low);
        for (size_t i = 0; list && i < n; i++) {
            if (append_run(list, &own[i]) < 0)
                Py_CLEAR(list);
        }
    }
    PyMem_Free(own);
    return list;
}

/* key_runs_again(runs) -> how many of their records are delivered for the second time or later */
static PyObject *py_again(PyObject *self, PyObject *runs)
{
    char *bytes;
    Py_ssize_t len;
    unsigned long long count = 0;
    if (PyBytes_AsStringAndSize(runs, &bytes, &len) < 0)
        return NULL;
    for (size_t i = 0; i < (size_t)len / sizeof(struct hsl_key_run); i++) {
        struct hsl_key_run run;
        memcpy(&run, bytes + i * sizeof run, sizeof run);
        count += run.attempt > 1 ? run.count : 0;
    }
    return PyLong_FromUnsignedLongLong(count);
}

static PyMethodDef methods[] = {
    {"key_runs_merge", py_merge, METH_VARARGS, NULL},
    {"key_runs_again", py_again, METH_O, NULL},
    {"keytab_take", py_take, METH_VARARGS, NULL},
    {"keytab_confirm", py_confirm, METH_VARARGS, NULL},
    {"keytab_take_back", py_take_back, METH_VARARGS, NULL},
    {"keytab_release", py_release, METH_VARARGS, NULL},
    {"keytab_describe", py_describe, METH_VARARGS, NULL},
    {"keytab_restore", py_restore, METH_VARARGS, NULL},
    {"keytab_attempts", py_attempts, METH_VARARGS, NULL},
    {"keytab_state", py_state, METH_VARARGS, NULL},
    {"keytab_move", py_move, METH_VARARGS, NULL},
    {"keytab_holds", py_holds, METH_VARARGS, NULL},
    {"keytab_open", py_open, METH_VARARGS, NULL},
    {"keytab_parcels", py_parcels, METH_VARARGS, NULL},
    {"keytab_expose", py_expose, METH_VARARGS, NULL},
    {"keytab_delay", py_delay, METH_VARARGS, NULL},
    {"keytab_wake", py_wake, METH_VARARGS, NULL},
    {"keytab_leave", py_leave, METH_VARARGS, NULL},
    {"keytab_ready", py_ready, METH_VARARGS, NULL},
    {"keytab_check", py_check, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int hsl_py_keytab_install(PyObject *module) { return PyModule_AddFunctions(module, methods); }
