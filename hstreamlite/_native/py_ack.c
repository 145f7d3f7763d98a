/* Fast functions over ack bitmaps, called with the map's address.
 *
 * They hold the GIL throughout and run no Python code between reading an argument and returning, so
 * each is atomic against every other; the shell may ack without its lock. The address must be that
 * of a live map: hstreamlite.sub.ackmap.AckMap owns it.
 */
#include "hsl_py.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define STACK_LSNS 1024
#define STACK_RUNS 256

/* PyLong_AsLong has a short path for numbers of several digits, which the long long functions of
 * CPython 3.11 lack: twice the speed for LSNs beyond 2^30 and for addresses. */
#if LONG_MAX >= INT64_MAX
#define AS_INT64(arg) PyLong_AsLong(arg)
#else
#define AS_INT64(arg) PyLong_AsLongLong(arg)
#endif

static struct hsl_ackmap *map_arg(PyObject *arg)
{
    int64_t address = AS_INT64(arg);
    if (__builtin_expect(address <= 0, 0)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the ack map has no address");
        return NULL;
    }
    return (struct hsl_ackmap *)(uintptr_t)address;
}

/* Negative and huge numbers become UINT64_MAX, an LSN that no map knows. */
static int odd_lsn(uint64_t *out)
{
    *out = UINT64_MAX;
    if (!PyErr_Occurred())
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError))
        return -1;
    PyErr_Clear();
    return 0;
}

static inline int lsn_arg(PyObject *arg, uint64_t *out)
{
    int64_t value = AS_INT64(arg);
    if (__builtin_expect(value < 0, 0))
        return odd_lsn(out);
    *out = (uint64_t)value;
    return 0;
}

static PyObject *counts_result(const struct hsl_ack_counts *c)
{
    return Py_BuildValue("(KKKI)", (unsigned long long)c->fresh, (unsigned long long)c->duplicate,
                         (unsigned long long)c->voided, c->flags);
}

static int append_runs(PyObject *list, const struct hsl_ack_run *runs, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) {
        PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)runs[i].first,
                                       (unsigned long long)runs[i].end);
        int rc = pair ? PyList_Append(list, pair) : -1;
        Py_XDECREF(pair);
        if (rc < 0)
            return -1; /* not reached: Python lacks memory */
    }
    return 0;
}

static PyObject *py_ack(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t lsn;
    if (!hsl_py_takes("ackmap_ack", n, 2) || !(m = map_arg(args[0])) || lsn_arg(args[1], &lsn) < 0)
        return NULL;
    return PyLong_FromLong((long)hsl_ackmap_ack(m, lsn));
}

static PyObject *py_ack_range(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    struct hsl_ack_counts counts;
    uint64_t first, end;
    if (!hsl_py_takes("ackmap_ack_range", n, 3) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &first) < 0 || lsn_arg(args[2], &end) < 0)
        return NULL;
    hsl_ackmap_ack_range(m, first, end, &counts);
    return counts_result(&counts);
}

/* Lists longer than the stack buffer are converted twice, so that nothing is acked before every
 * number is known to be good. */
static int ack_sequence(struct hsl_ackmap *m, PyObject *seq,
                        PyObject *(*item)(PyObject *, Py_ssize_t),
                        Py_ssize_t n, struct hsl_ack_counts *total)
{
    uint64_t lsns[STACK_LSNS];
    Py_ssize_t i;
    int apply = n <= STACK_LSNS;
    memset(total, 0, sizeof *total);
    for (;;) {
        size_t filled = 0;
        for (i = 0; i < n; i++) {
            if (lsn_arg(item(seq, i), &lsns[filled]) < 0)
                return -1;
            if (!apply) {
                if (!hsl_ackmap_known(m, lsns[0])) {
                    total->flags = HSL_ACK_UNKNOWN;
                    return 0;
                }
            } else if (++filled == STACK_LSNS || i + 1 == n) {
                struct hsl_ack_counts part;
                hsl_ackmap_ack_list(m, lsns, filled, &part);
                total->fresh += part.fresh;
                total->duplicate += part.duplicate;
                total->voided += part.voided;
                total->flags |= part.flags;
                filled = 0;
            }
        }
        if (apply)
            return 0;
        apply = 1;
    }
}

static PyObject *py_ack_many(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    struct hsl_ack_counts counts;
    PyObject *copy;
    int rc;
    if (!hsl_py_takes("ackmap_ack_many", n, 2) || !(m = map_arg(args[0])))
        return NULL;
    if (PyList_Check(args[1])) {
        rc = ack_sequence(m, args[1], PyList_GetItem, PyList_Size(args[1]), &counts);
    } else {
        copy = PySequence_Tuple(args[1]);
        if (!copy)
            return NULL;
        rc = ack_sequence(m, copy, PyTuple_GetItem, PyTuple_Size(copy), &counts);
        Py_DECREF(copy);
    }
    return rc < 0 ? NULL : counts_result(&counts);
}

void hsl_py_ack_key_runs(struct hsl_ackmap *m, const struct hsl_key_run *runs, size_t count,
                         struct hsl_ack_counts *total)
{
    struct hsl_ack_counts part;
    memset(total, 0, sizeof *total);
    for (size_t i = 0; i < count; i++) {
        if (!hsl_ackmap_known(m, runs[i].first) ||
            !hsl_ackmap_known(m, runs[i].first + runs[i].count - 1)) {
            total->flags = HSL_ACK_UNKNOWN;
            return;
        }
    }
    for (size_t i = 0; i < count; i++) {
        hsl_ackmap_ack_range(m, runs[i].first, runs[i].first + runs[i].count, &part);
        total->fresh += part.fresh;
        total->duplicate += part.duplicate;
        total->voided += part.voided;
        total->flags |= part.flags;
    }
}

int hsl_py_ack_runs(struct hsl_ackmap *m, PyObject *object, struct hsl_ack_counts *total)
{
    char *bytes;
    Py_ssize_t len;
    if (PyBytes_AsStringAndSize(object, &bytes, &len) < 0)
        return -1;
    const struct hsl_key_run *runs = (const struct hsl_key_run *)bytes;
    hsl_py_ack_key_runs(m, runs, (size_t)len / sizeof *runs, total);
    return 0;
}

/* ack_runs(map, runs of a key table) -> counts; UNKNOWN, and nothing done, if any is unknown */
static PyObject *py_ack_runs(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    struct hsl_ack_counts counts;
    if (!hsl_py_takes("ackmap_ack_runs", n, 2) || !(m = map_arg(args[0])) ||
        hsl_py_ack_runs(m, args[1], &counts) < 0)
        return NULL;
    return counts_result(&counts);
}

static PyObject *py_state(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    struct hsl_ack_state s;
    if (!hsl_py_takes("ackmap_state", n, 1) || !(m = map_arg(args[0])))
        return NULL;
    hsl_ackmap_state(m, &s);
    return Py_BuildValue("(KKKKKK)", (unsigned long long)s.origin, (unsigned long long)s.low,
                         (unsigned long long)s.next, (unsigned long long)s.acked,
                         (unsigned long long)s.held, (unsigned long long)s.acked_since);
}

static PyObject *py_reset(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t low;
    if (!hsl_py_takes("ackmap_reset", n, 2) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &low) < 0)
        return NULL;
    if (low < 1 || low > (uint64_t)1 << 62) {
        PyErr_Format(PyExc_ValueError, "low is %R, must be within 1 to 2**62", args[1]);
        return NULL;
    }
    hsl_ackmap_reset(m, low);
    Py_RETURN_NONE;
}

static PyObject *py_advance(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t next;
    int hold, rc;
    if (!hsl_py_takes("ackmap_advance", n, 3) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &next) < 0 || (hold = PyObject_IsTrue(args[2])) < 0)
        return NULL;
    rc = hsl_ackmap_advance(m, next, hold);
    if (rc == -ENOMEM)
        return PyErr_NoMemory();
    if (rc < 0) {
        PyErr_Format(PyExc_ValueError, "next is %R, outside of the window's span", args[1]);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *py_hold(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t first, end;
    int hold;
    if (!hsl_py_takes("ackmap_hold", n, 4) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &first) < 0 || lsn_arg(args[2], &end) < 0 ||
        (hold = PyObject_IsTrue(args[3])) < 0)
        return NULL;
    hsl_ackmap_hold(m, first, end, hold);
    Py_RETURN_NONE;
}

static PyObject *py_acked_ever(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    if (!hsl_py_takes("ackmap_acked_ever", n, 1) || !(m = map_arg(args[0])))
        return NULL;
    return PyLong_FromUnsignedLongLong(hsl_ackmap_acked_ever(m));
}

static PyObject *py_acked_since(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    struct hsl_ack_state s;
    if (!hsl_py_takes("ackmap_acked_since", n, 1) || !(m = map_arg(args[0])))
        return NULL;
    hsl_ackmap_state(m, &s);
    return PyLong_FromUnsignedLongLong(s.acked_since);
}

static PyObject *py_attention(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t at;
    if (!hsl_py_takes("ackmap_attention", n, 2) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &at) < 0)
        return NULL;
    hsl_ackmap_attention(m, at);
    Py_RETURN_NONE;
}

static PyObject *py_skip(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t lsn;
    if (!hsl_py_takes("ackmap_skip", n, 2) || !(m = map_arg(args[0])) || lsn_arg(args[1], &lsn) < 0)
        return NULL;
    if (lsn > (uint64_t)1 << 62) {
        PyErr_Format(PyExc_ValueError, "lsn is %R, must be within 0 to 2**62", args[1]);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(hsl_ackmap_skip(m, lsn));
}

static PyObject *py_next_unacked(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t lsn;
    if (!hsl_py_takes("ackmap_next_unacked", n, 2) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &lsn) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(hsl_ackmap_next_unacked(m, lsn));
}

static PyObject *py_count(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t first, end;
    if (!hsl_py_takes("ackmap_count", n, 3) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &first) < 0 || lsn_arg(args[2], &end) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(hsl_ackmap_count(m, first, end));
}

static PyObject *py_runs(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ack_run runs[STACK_RUNS];
    struct hsl_ackmap *m;
    uint64_t kind, first, end, limit;
    size_t got, wanted;
    PyObject *list;
    if (!hsl_py_takes("ackmap_runs", n, 5) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &kind) < 0 || lsn_arg(args[2], &first) < 0 ||
        lsn_arg(args[3], &end) < 0 || lsn_arg(args[4], &limit) < 0)
        return NULL;
    list = PyList_New(0);
    while (list && limit) {
        wanted = limit < STACK_RUNS ? (size_t)limit : STACK_RUNS;
        got = hsl_ackmap_runs(m, (int)kind, first, end, runs, wanted);
        if (append_runs(list, runs, got) < 0) {
            Py_CLEAR(list); /* not reached: Python lacks memory */
            break;          /* not reached: as the line before */
        }
        if (got < wanted)
            break;
        first = runs[got - 1].end;
        limit -= got;
    }
    return list;
}

static PyObject *py_drain(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ack_run runs[STACK_RUNS];
    struct hsl_ackmap *m;
    size_t got = STACK_RUNS;
    PyObject *list;
    if (!hsl_py_takes("ackmap_drain", n, 1) || !(m = map_arg(args[0])))
        return NULL;
    list = PyList_New(0);
    while (list && got == STACK_RUNS) {
        got = hsl_ackmap_drain(m, runs, STACK_RUNS);
        if (append_runs(list, runs, got) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
    }
    return list;
}

static void put_u32(uint8_t **out, uint64_t value)
{
    for (int at = 0; at < 4; at++)
        *(*out)++ = (uint8_t)(value >> 8 * at);
}

static void put_u64(uint8_t **out, uint64_t value)
{
    put_u32(out, value);
    put_u32(out, value >> 32);
}

#define PIECE_LISTED 4u

uint8_t *hsl_ack_piece(uint8_t *out, uint64_t shard, uint64_t generation,
                       const struct hsl_ack_state *s, const struct hsl_ack_run *runs, size_t n,
                       const struct hsl_key_run *handed, size_t handed_len)
{
    *out++ = 1; /* version */
    *out++ = 0; /* a delta */
    put_u32(&out, 0);
    put_u32(&out, 1);
    put_u64(&out, shard);
    put_u32(&out, handed ? PIECE_LISTED : 0);
    put_u32(&out, generation);
    put_u64(&out, s->origin);
    put_u64(&out, s->low);
    put_u64(&out, s->next);
    put_u32(&out, n);
    put_u32(&out, handed_len);
    for (size_t i = 0; i < n; i++) {
        put_u32(&out, runs[i].first - s->low);
        put_u32(&out, runs[i].end - s->low);
    }
    for (size_t i = 0; i < handed_len; i++) {
        put_u32(&out, handed[i].first - s->low);
        put_u32(&out, handed[i].first + handed[i].count - s->low);
        put_u32(&out, handed[i].attempt);
    }
    return out;
}

PyObject *hsl_py_drain_piece(struct hsl_ackmap *m, uint64_t shard, uint64_t generation,
                             const struct hsl_key_run *handed, size_t handed_len)
{
    struct hsl_ack_run few[STACK_RUNS], *runs = few;
    struct hsl_ack_state s;
    hsl_ackmap_state(m, &s);
    size_t cap = (size_t)s.acked_since + 1; /* so many runs there cannot be */
    if (cap > STACK_RUNS && !(runs = malloc(cap * sizeof *runs)))
        return PyErr_NoMemory();
    size_t n = hsl_ackmap_drain(m, runs, cap);
    Py_ssize_t size = (Py_ssize_t)HSL_PIECE_BYTES(n, handed_len);
    PyObject *piece = PyBytes_FromStringAndSize(NULL, size);
    if (piece)
        hsl_ack_piece((uint8_t *)PyBytes_AsString(piece), shard, generation, &s, runs, n, handed,
                      handed_len);
    if (runs != few)
        free(runs);
    return piece ? Py_BuildValue("(NKK)", piece, (unsigned long long)s.low,
                                 (unsigned long long)s.next)
                 : NULL;
}

/* drain_piece(map, shard, generation, low, next) -> (what is drained as a piece of progress, low,
 * next); an empty piece if nothing was acked and the map stands there. None, and nothing done,
 * where some are held or it may not fit. */
static PyObject *py_drain_piece(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ack_state s;
    struct hsl_ackmap *m;
    uint64_t shard, generation, low, next;
    if (!hsl_py_takes("ackmap_drain_piece", n, 5) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &shard) < 0 || lsn_arg(args[2], &generation) < 0 ||
        lsn_arg(args[3], &low) < 0 || lsn_arg(args[4], &next) < 0)
        return NULL;
    hsl_ackmap_state(m, &s);
    if (s.held > 0 || s.acked_since > HSL_PY_PIECE_RUNS)
        Py_RETURN_NONE;
    if (s.acked_since == 0 && s.low == low && s.next == next)
        return Py_BuildValue("(yOO)", "", args[3], args[4]);
    return hsl_py_drain_piece(m, shard, generation, NULL, 0);
}

/* pack_below(low, [tuple of ints, ...], how many of each are LSNs) -> u32 of each, LSNs less low */
static PyObject *py_pack(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint64_t low, lsns;
    if (!hsl_py_takes("pack_below", n, 3) || lsn_arg(args[0], &low) < 0 ||
        lsn_arg(args[2], &lsns) < 0)
        return NULL;
    Py_ssize_t items = PyList_Size(args[1]), width = 0;
    PyObject *first = items > 0 ? PyList_GetItem(args[1], 0) : NULL;
    if (items < 0 || (first && (width = PyTuple_Size(first)) < 0))
        return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, items * width * 4);
    uint8_t *out = bytes ? (uint8_t *)PyBytes_AsString(bytes) : NULL;
    for (Py_ssize_t i = 0; bytes && i < items * width; i++) {
        PyObject *number = PyTuple_GetItem(PyList_GetItem(args[1], i / width), i % width);
        uint64_t value;
        if (!number || lsn_arg(number, &value) < 0) {
            Py_CLEAR(bytes);
            break;
        }
        value -= (uint64_t)(i % width) < lsns ? low : 0;
        put_u32(&out, value < UINT32_MAX ? value : UINT32_MAX);
    }
    return bytes;
}

/* weigh(map, address of the totals) */
static PyObject *py_weigh(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t totals;
    if (!hsl_py_takes("ackmap_weigh", n, 2) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &totals) < 0)
        return NULL;
    if (hsl_ackmap_weigh(m, (struct hsl_loads *)(uintptr_t)totals) < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* reserve_load(map, end) */
static PyObject *py_reserve_load(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t end;
    if (!hsl_py_takes("ackmap_reserve_load", n, 2) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &end) < 0)
        return NULL;
    if (hsl_ackmap_reserve_load(m, end) < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* load(map, first, weights as an array of u32, owner) */
static PyObject *py_load(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t first, owner;
    char *weights;
    Py_ssize_t len;
    if (!hsl_py_takes("ackmap_load", n, 4) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &first) < 0 || PyBytes_AsStringAndSize(args[2], &weights, &len) < 0 ||
        lsn_arg(args[3], &owner) < 0)
        return NULL;
    hsl_ackmap_load(m, first, (const uint32_t *)(const void *)weights, (size_t)len / 4,
                    (uint32_t)owner);
    Py_RETURN_NONE;
}

/* unload(map, first, end) */
static PyObject *py_unload(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    uint64_t first, end;
    if (!hsl_py_takes("ackmap_unload", n, 3) || !(m = map_arg(args[0])) ||
        lsn_arg(args[1], &first) < 0 || lsn_arg(args[2], &end) < 0)
        return NULL;
    hsl_ackmap_unload(m, first, end);
    Py_RETURN_NONE;
}

/* loads_bytes(address of the totals, owner) */
static PyObject *py_loads_bytes(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint64_t totals, owner;
    if (!hsl_py_takes("loads_bytes", n, 2) || lsn_arg(args[0], &totals) < 0 ||
        lsn_arg(args[1], &owner) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(
        hsl_loads_bytes((const struct hsl_loads *)(uintptr_t)totals, (uint32_t)owner));
}

static PyObject *py_check(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hsl_ackmap *m;
    if (!hsl_py_takes("ackmap_check", n, 1) || !(m = map_arg(args[0])))
        return NULL;
    return PyLong_FromLong(hsl_ackmap_check(m));
}

#define FAST(name, function) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    FAST("ackmap_ack", py_ack),
    FAST("ackmap_ack_range", py_ack_range),
    FAST("ackmap_ack_many", py_ack_many),
    FAST("ackmap_ack_runs", py_ack_runs),
    FAST("ackmap_state", py_state),
    FAST("ackmap_reset", py_reset),
    FAST("ackmap_advance", py_advance),
    FAST("ackmap_hold", py_hold),
    FAST("ackmap_attention", py_attention),
    FAST("ackmap_acked_ever", py_acked_ever),
    FAST("ackmap_acked_since", py_acked_since),
    FAST("ackmap_skip", py_skip),
    FAST("ackmap_next_unacked", py_next_unacked),
    FAST("ackmap_count", py_count),
    FAST("ackmap_runs", py_runs),
    FAST("ackmap_drain", py_drain),
    FAST("ackmap_drain_piece", py_drain_piece),
    FAST("ackmap_weigh", py_weigh),
    FAST("ackmap_reserve_load", py_reserve_load),
    FAST("ackmap_load", py_load),
    FAST("ackmap_unload", py_unload),
    FAST("loads_bytes", py_loads_bytes),
    FAST("ackmap_check", py_check),
    FAST("pack_below", py_pack),
    {NULL, NULL, 0, NULL},
};

int hsl_py_ack_install(PyObject *module) { return PyModule_AddFunctions(module, methods); }
