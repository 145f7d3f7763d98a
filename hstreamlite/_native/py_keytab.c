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

/* Is that a parcel of the table? A ValueError if not. */
static int has_parcel(struct hsl_keytab *t, ull parcel)
{
    int has = hsl_keytab_has(t, parcel);
    if (!has)
        PyErr_Format(PyExc_ValueError, "the key table has no parcel %llu", parcel);
    return has;
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

/* The runs of a parcel as bytes; *first counts those of a first attempt. */
static PyObject *runs_bytes(struct hsl_keytab *t, uint32_t parcel, ull *first)
{
    size_t n = 0;
    const struct hsl_key_run *runs = parcel ? hsl_keytab_runs(t, parcel, &n) : NULL;
    *first = 0;
    for (size_t i = 0; i < n; i++)
        *first += runs[i].attempt == 1 ? runs[i].count : 0;
    return PyBytes_FromStringAndSize((const char *)runs, (Py_ssize_t)(n * sizeof *runs));
}

static PyObject *heads_result(struct hsl_key_head *out, int64_t n, uint64_t count)
{
    PyObject *list = n < 0 ? failure(n) : PyList_New(0);
    for (int64_t i = 0; list && i < n; i++) {
        PyObject *head = Py_BuildValue("(KII)", (ull)out[i].lsn, out[i].failures, out[i].attempts);
        if (!head || PyList_Append(list, head) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
        Py_XDECREF(head);
    }
    PyMem_Free(out);
    return list ? Py_BuildValue("(KN)", (ull)count, list) : NULL;
}

/* take(table, consumer, parcel, max, fresh, end) -> (records, first attempts, parcel, runs) */
static PyObject *py_take(PyObject *self, PyObject *args)
{
    ull address, max, fresh, end, first;
    unsigned consumer, parcel;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIIKKK:keytab_take", &address, &consumer, &parcel, &max, &fresh,
                          &end) ||
        !(t = table(address)) || (parcel != 0 && !has_parcel(t, parcel)))
        return NULL;
    uint32_t number = parcel;
    int64_t got = hsl_keytab_take(t, consumer, &number, max, fresh, end);
    if (got < 0)
        return failure(got);
    PyObject *runs = runs_bytes(t, number, &first);
    return runs ? Py_BuildValue("(LKIN)", (long long)got, first, (unsigned)number, runs) : NULL;
}

/* confirm(table, parcel, count, due) -> (records, runs), of what is out */
static PyObject *py_confirm(PyObject *self, PyObject *args)
{
    ull address, count, first;
    unsigned parcel;
    long long due;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIKL:keytab_confirm", &address, &parcel, &count, &due) ||
        !(t = table(address)) || !has_parcel(t, parcel))
        return NULL;
    int64_t got = hsl_keytab_confirm(t, parcel, count, due);
    if (got < 0)
        return failure(got);
    PyObject *runs = runs_bytes(t, got > 0 ? parcel : 0, &first);
    return runs ? Py_BuildValue("(LN)", (long long)got, runs) : NULL;
}

static PyObject *take_back(struct hsl_keytab *t, uint32_t parcel)
{
    uint64_t count = 0;
    struct hsl_key_head *out = room_for(hsl_keytab_records(t, parcel), sizeof *out);
    if (!out)
        return PyErr_NoMemory();
    int64_t heads = hsl_keytab_take_back(t, parcel, out, &count);
    return heads_result(out, heads, count);
}

/* take_back(table, parcel) -> (how many were out, [(LSN, failures, attempts), ...]) */
static PyObject *py_take_back(PyObject *self, PyObject *args)
{
    ull address;
    unsigned parcel;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KI:keytab_take_back", &address, &parcel) ||
        !(t = table(address)) || !has_parcel(t, parcel))
        return NULL;
    return take_back(t, parcel);
}

/* take_back_due(table, now), as take_back of what is due first; None: nothing is */
static PyObject *py_take_back_due(PyObject *self, PyObject *args)
{
    ull address;
    long long now;
    int64_t due;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KL:keytab_take_back_due", &address, &now) || !(t = table(address)))
        return NULL;
    uint32_t parcel = hsl_keytab_next_due(t, &due);
    if (parcel == 0 || due > now)
        Py_RETURN_NONE;
    return take_back(t, parcel);
}

/* take_back_of(table, consumer), as take_back of what it has held longest; None: it holds
 * nothing */
static PyObject *py_take_back_of(PyObject *self, PyObject *args)
{
    ull address;
    unsigned consumer;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KI:keytab_take_back_of", &address, &consumer) ||
        !(t = table(address)))
        return NULL;
    uint32_t parcel = hsl_keytab_next_held(t, consumer, 0);
    if (parcel == 0)
        Py_RETURN_NONE;
    return take_back(t, parcel);
}

static PyObject *time_or_none(int64_t due)
{
    if (due == HSL_KEY_RESERVED)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(due);
}

/* next_due(table) -> when something is due, or None */
static PyObject *py_next_due(PyObject *self, PyObject *args)
{
    ull address;
    int64_t due;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "K:keytab_next_due", &address) || !(t = table(address)))
        return NULL;
    hsl_keytab_next_due(t, &due);
    return time_or_none(due);
}

/* due_of(table, LSN) -> when it is due, None if it is not out */
static PyObject *py_due_of(PyObject *self, PyObject *args)
{
    ull address, lsn;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KK:keytab_due_of", &address, &lsn) || !(t = table(address)))
        return NULL;
    return time_or_none(hsl_keytab_due_of(t, lsn));
}

/* extend(table, consumer, first, end, due) -> how many records it has there */
static PyObject *py_extend(PyObject *self, PyObject *args)
{
    ull address, first, end;
    unsigned consumer;
    long long due;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KIKKL:keytab_extend", &address, &consumer, &first, &end, &due) ||
        !(t = table(address)))
        return NULL;
    int64_t held = hsl_keytab_extend(t, consumer, first, end, due);
    return held < 0 ? failure(held) : PyLong_FromLongLong(held);
}

static int append_out(PyObject *list, const struct hsl_key_out *out)
{
    PyObject *item = Py_BuildValue("(LKKK)", (long long)out->due, (ull)out->first, (ull)out->end,
                                   (ull)out->open);
    int rc = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return rc;
}

/* out(table, consumer) -> [(due, first unacked LSN, end, unacked), ...] */
static PyObject *py_out(PyObject *self, PyObject *args)
{
    ull address;
    unsigned consumer;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, "KI:keytab_out", &address, &consumer) || !(t = table(address)))
        return NULL;
    size_t runs = 0, n = 0, of_parcel;
    for (uint32_t at = 0; (at = hsl_keytab_next_held(t, consumer, at)) != 0; runs += of_parcel)
        hsl_keytab_runs(t, at, &of_parcel);
    struct hsl_key_out *out = room_for(runs, sizeof *out);
    if (!out)
        return PyErr_NoMemory();
    for (uint32_t at = 0; (at = hsl_keytab_next_held(t, consumer, at)) != 0;)
        n += hsl_keytab_out(t, at, out + n);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < n; i++) {
        if (append_out(list, &out[i]) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
    }
    PyMem_Free(out);
    return list;
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
                Py_CLEAR(list); /* not reached: Python lacks memory */
        }
    }
    PyMem_Free(out);
    return list;
}

/* state(table) -> (scan, described, fresh, again, owned, handed, keys, bytes) */
static PyObject *py_state(PyObject *self, PyObject *args)
{
    ull address;
    struct hsl_keytab *t;
    struct hsl_key_state s;
    if (!PyArg_ParseTuple(args, "K:keytab_state", &address) || !(t = table(address)))
        return NULL;
    hsl_keytab_state(t, &s);
    return Py_BuildValue("(KKKKKKKK)", (ull)s.scan, (ull)s.described, (ull)s.fresh, (ull)s.again,
                         (ull)s.owned, (ull)s.handed, (ull)s.keys, (ull)s.bytes);
}

/* The rest take numbers and return one. */
enum call {
    HOLDS,
    OPEN,
    FRESH_IN,
    COUNT,
    FIRST_OUT,
    DELAY,
    EXPOSE,
    WAKE,
    READY,
    CHECK
};

static uint64_t count_of(struct hsl_keytab *t, uint32_t consumer)
{
    uint64_t count = 0;
    for (uint32_t at = 0; (at = hsl_keytab_next_held(t, consumer, at)) != 0;)
        count += hsl_keytab_open(t, at);
    return count;
}

static PyObject *call_numbers(PyObject *args, const char *format, enum call call)
{
    ull address, a = 0, b = 0, c = 0;
    struct hsl_keytab *t;
    if (!PyArg_ParseTuple(args, format, &address, &a, &b, &c) || !(t = table(address)))
        return NULL;
    if ((call == OPEN || call == FRESH_IN) && !has_parcel(t, a))
        return NULL;
    uint64_t result = 0;
    switch (call) {
    case HOLDS: result = (uint64_t)hsl_keytab_holds(t, (uint32_t)a, b, c); break;
    case OPEN: result = hsl_keytab_open(t, (uint32_t)a); break;
    case FRESH_IN: result = hsl_keytab_fresh_in(t, (uint32_t)a); break;
    case COUNT: result = count_of(t, (uint32_t)a); break;
    case FIRST_OUT: result = hsl_keytab_first_out(t, a); break;
    case DELAY: result = (uint64_t)hsl_keytab_delay(t, a); break;
    case EXPOSE: result = (uint64_t)(int64_t)hsl_keytab_expose(t, a); break;
    case WAKE: hsl_keytab_wake(t, a); break;
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

NUMBERS(py_holds, "KKKK:keytab_holds", HOLDS)
NUMBERS(py_open, "KK:keytab_open", OPEN)
NUMBERS(py_fresh_in, "KK:keytab_fresh_in", FRESH_IN)
NUMBERS(py_count, "KK:keytab_count", COUNT)
NUMBERS(py_first_out, "KK:keytab_first_out", FIRST_OUT)
NUMBERS(py_delay, "KK:keytab_delay", DELAY)
NUMBERS(py_expose, "KK:keytab_expose", EXPOSE)
NUMBERS(py_wake, "KK:keytab_wake", WAKE)
NUMBERS(py_ready, "KKKK:keytab_ready", READY)
NUMBERS(py_check, "K:keytab_check", CHECK)

/* handed(table, low) -> [(first, end, attempt), ...] of what went out since the last call, in that
 * order, without what is below low */
static PyObject *py_handed(PyObject *self, PyObject *args)
{
    ull address, low;
    struct hsl_keytab *t;
    const struct hsl_key_run *runs;
    if (!PyArg_ParseTuple(args, "KK:keytab_handed", &address, &low) || !(t = table(address)))
        return NULL;
    size_t n = hsl_keytab_handed(t, low, &runs);
    struct hsl_key_run *own = room_for(n, sizeof *own); /* what is made next may run code */
    if (!own)
        return PyErr_NoMemory();
    if (n > 0)
        memcpy(own, runs, n * sizeof *own);
    hsl_keytab_told(t);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < n; i++) {
        if (append_run(list, &own[i]) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
    }
    PyMem_Free(own);
    return list;
}

/* drain_piece(table, map, shard, generation, low, next) -> what was acked and what was handed out
 * since the last call as a piece of progress, as ackmap_drain_piece says */
static PyObject *py_drain_piece(PyObject *self, PyObject *args)
{
    ull address, map, shard, generation, low, next;
    struct hsl_keytab *t;
    struct hsl_key_state state;
    struct hsl_ack_state s;
    const struct hsl_key_run *runs;
    if (!PyArg_ParseTuple(args, "KKKKKK:keytab_drain_piece", &address, &map, &shard, &generation,
                          &low, &next) ||
        !(t = table(address)))
        return NULL;
    if (map == 0) {
        PyErr_SetString(PyExc_ValueError, "the ack map has no address");
        return NULL;
    }
    hsl_keytab_state(t, &state);
    hsl_ackmap_state((struct hsl_ackmap *)(uintptr_t)map, &s);
    if (s.acked_since > HSL_PY_PIECE_RUNS || state.handed > HSL_PY_PIECE_RUNS)
        Py_RETURN_NONE;
    if (s.acked_since == 0 && state.handed == 0 && s.low == low && s.next == next)
        return Py_BuildValue("(yKK)", "", low, next);
    size_t n = hsl_keytab_handed(t, s.low, &runs);
    PyObject *piece = hsl_py_drain_piece((struct hsl_ackmap *)(uintptr_t)map, shard, generation,
                                         runs, n);
    if (piece)
        hsl_keytab_told(t);
    return piece;
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
    {"key_runs_again", py_again, METH_O, NULL},
    {"keytab_take", py_take, METH_VARARGS, NULL},
    {"keytab_confirm", py_confirm, METH_VARARGS, NULL},
    {"keytab_take_back", py_take_back, METH_VARARGS, NULL},
    {"keytab_take_back_due", py_take_back_due, METH_VARARGS, NULL},
    {"keytab_take_back_of", py_take_back_of, METH_VARARGS, NULL},
    {"keytab_next_due", py_next_due, METH_VARARGS, NULL},
    {"keytab_due_of", py_due_of, METH_VARARGS, NULL},
    {"keytab_extend", py_extend, METH_VARARGS, NULL},
    {"keytab_out", py_out, METH_VARARGS, NULL},
    {"keytab_handed", py_handed, METH_VARARGS, NULL},
    {"keytab_drain_piece", py_drain_piece, METH_VARARGS, NULL},
    {"keytab_count", py_count, METH_VARARGS, NULL},
    {"keytab_fresh_in", py_fresh_in, METH_VARARGS, NULL},
    {"keytab_first_out", py_first_out, METH_VARARGS, NULL},
    {"keytab_release", py_release, METH_VARARGS, NULL},
    {"keytab_describe", py_describe, METH_VARARGS, NULL},
    {"keytab_restore", py_restore, METH_VARARGS, NULL},
    {"keytab_attempts", py_attempts, METH_VARARGS, NULL},
    {"keytab_state", py_state, METH_VARARGS, NULL},
    {"keytab_holds", py_holds, METH_VARARGS, NULL},
    {"keytab_open", py_open, METH_VARARGS, NULL},
    {"keytab_expose", py_expose, METH_VARARGS, NULL},
    {"keytab_delay", py_delay, METH_VARARGS, NULL},
    {"keytab_wake", py_wake, METH_VARARGS, NULL},
    {"keytab_ready", py_ready, METH_VARARGS, NULL},
    {"keytab_check", py_check, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int hsl_py_keytab_install(PyObject *module) { return PyModule_AddFunctions(module, methods); }
