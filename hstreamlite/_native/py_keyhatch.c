/* KeyHatch: where a consumer takes records in the order of their keys, without asking the group.
 *
 * As at the hatch of py_hatch.c, the group opens it while there is nothing to decide; but what
 * comes again it need not know of, for the key table does. The records are copied out of what was
 * read ahead, which lies here in pieces, from low on if that is not too much: what waits for its
 * key is taken long after it was read. Whatever is taken and is not there goes back, and the group
 * is asked.
 *
 * The GIL is held from entry to return, and no Python code runs between the first look at the table
 * and the last change of it: what is allocated there are no objects that Python collects. */
#include "hsl_py.h"

#include <stdbool.h>

#define STOCK_BYTES (8u << 20)

struct stock {
    PyObject *excerpt;
    uint64_t first, end;
    size_t bytes;
};

struct keyhatch {
    PyObject_HEAD
    PyObject *acks, *table; /* keep the map and the table alive */
    struct hsl_ackmap *map;
    struct hsl_keytab *keys;
    uint64_t span, most;
    int64_t timeout;
    bool open;
    uint64_t tail, taken, again;
    int64_t until, took_ns;
    struct stock *stocks; /* in log order; they need not meet */
    size_t count, capacity, bytes;
    uint64_t records;
};

/* ---- what was read ahead ---- */

static void drop_stocks(struct keyhatch *h, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        h->bytes -= h->stocks[i].bytes;
        h->records -= h->stocks[i].end - h->stocks[i].first;
        Py_DECREF(h->stocks[i].excerpt);
    }
    h->count -= n;
    for (size_t i = 0; i < h->count && n > 0; i++)
        h->stocks[i] = h->stocks[i + n];
}

/* Lets go of what lies below low, and of the first ones if they are too much. */
static void settle(struct keyhatch *h, uint64_t low)
{
    size_t n = 0, left = h->bytes;
    for (; n < h->count && (h->stocks[n].end <= low || left > STOCK_BYTES); n++)
        left -= h->stocks[n].bytes;
    drop_stocks(h, n);
}

static uint64_t stock_end(const struct keyhatch *h)
{
    return h->count > 0 ? h->stocks[h->count - 1].end : 0;
}

/* The stock that holds a record; NULL: there is none. Most are where the one before it was. */
static const struct stock *stock_of(const struct keyhatch *h, uint64_t lsn, size_t *at)
{
    for (size_t looked = 0; looked < h->count; looked++) {
        const struct stock *s = &h->stocks[*at];
        if (lsn >= s->first && lsn < s->end)
            return s;
        *at = *at + 1 < h->count ? *at + 1 : 0;
    }
    return NULL;
}

/* Copies runs of so many records to an excerpt; false: they are not all there, or memory is short.
 * There is room at once if they are not larger than others. */
static bool gather(const struct keyhatch *h, const struct hsl_key_run *runs, size_t n,
                   uint64_t records, PyObject *excerpt)
{
    size_t at = h->count - 1;
    size_t bytes = records < h->records ? h->bytes * records / h->records : h->bytes;
    int rc = hsl_py_excerpt_reserve(excerpt, records, bytes + bytes / 8);
    for (size_t i = 0; i < n; i++) {
        struct hsl_key_run part = runs[i];
        while (rc == 0 && part.count > 0) {
            const struct stock *s = stock_of(h, part.first, &at);
            if (!s)
                return false;
            uint64_t stop = part.first + part.count < s->end ? part.first + part.count : s->end;
            uint32_t from = (uint32_t)(part.first - s->first), to = (uint32_t)(stop - s->first);
            rc = hsl_py_excerpt_copy(excerpt, s->excerpt, from, to, part.attempt);
            part.count -= to - from;
            part.first = stop;
        }
    }
    if (rc < 0)
        PyErr_Clear();
    return rc == 0;
}

static PyObject *keyhatch_add(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct keyhatch *h = (struct keyhatch *)self;
    uint64_t first;
    char *hashes;
    Py_ssize_t len;
    struct hsl_key_state state;
    if (!hsl_py_takes("add", n, 3) || hsl_py_u64s(args + 1, 1, &first) < 0 ||
        PyBytes_AsStringAndSize(args[2], &hashes, &len) < 0)
        return NULL;
    if (!hsl_py_is_excerpt(args[0])) {
        PyErr_SetString(PyExc_TypeError, "add needs an Excerpt");
        return NULL;
    }
    uint32_t count = hsl_py_excerpt_count(args[0]);
    if ((size_t)len != 8 * (size_t)count) {
        PyErr_SetString(PyExc_ValueError, "add needs a hash of each record");
        return NULL;
    }
    if (count == 0 || h->keys == NULL)
        Py_RETURN_FALSE;
    hsl_keytab_state(h->keys, &state);
    if (first < stock_end(h) || first > state.described)
        Py_RETURN_FALSE;
    if (h->count == h->capacity) {
        size_t capacity = h->capacity ? 2 * h->capacity : 16;
        struct stock *more = PyMem_Realloc(h->stocks, capacity * sizeof *more);
        if (!more)
            return PyErr_NoMemory();
        h->stocks = more;
        h->capacity = capacity;
    }
    if (first + count > state.described) {
        size_t known = (size_t)(state.described - first);
        if (hsl_keytab_describe(h->keys, state.described, (const uint64_t *)hashes + known,
                                count - known) < 0)
            return PyErr_NoMemory();
    }
    size_t bytes = hsl_py_excerpt_bytes(args[0]);
    h->stocks[h->count++] = (struct stock){Py_NewRef(args[0]), first, first + count, bytes};
    h->bytes += bytes;
    h->records += count;
    Py_RETURN_TRUE;
}

/* ---- taking ---- */

struct scope {
    uint64_t room; /* records that may be handed out for the first time */
    uint64_t scan, end;
};

/* What may be taken now; false: nothing, or the group has to be asked. */
static bool look(struct keyhatch *h, int64_t now, struct scope *scope)
{
    struct hsl_ack_state s;
    struct hsl_key_state k;
    int64_t due;
    if (now >= h->until)
        return false;
    uint32_t first = hsl_keytab_next_due(h->keys, &due);
    if (first != 0 && now >= due)
        return false;
    hsl_ackmap_state(h->map, &s);
    hsl_keytab_state(h->keys, &k);
    settle(h, s.low);
    uint64_t out = s.next - s.low - s.acked - k.fresh;
    scope->room = out < h->most ? h->most - out : 0;
    scope->scan = k.scan;
    scope->end = h->tail < s.low + h->span ? h->tail : s.low + h->span;
    return true;
}

static bool enough(const struct keyhatch *h, const struct scope *scope, uint64_t most)
{
    uint64_t end = stock_end(h);
    return h->count > 0 && (end >= scope->end || scope->scan >= scope->end ||
                            (end > scope->scan && end - scope->scan >= most));
}

static PyObject *keyhatch_take(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct keyhatch *h = (struct keyhatch *)self;
    uint64_t a[4]; /* keep, most, consumer, now */
    struct scope scope;
    uint32_t parcel = 0;
    size_t len;
    if (!hsl_py_takes("take", n, 5))
        return NULL;
    if (!h->open || !hsl_py_gate_takes(args[0]))
        Py_RETURN_NONE;
    if (hsl_py_u64s(args + 1, 4, a) < 0)
        return NULL;
    if (!look(h, (int64_t)a[3], &scope) || !enough(h, &scope, a[0] + a[1]))
        Py_RETURN_NONE;
    PyObject *excerpt = hsl_py_excerpt();
    if (!excerpt)
        return NULL;
    uint64_t end = stock_end(h) < scope.end ? stock_end(h) : scope.end;
    int64_t got = hsl_keytab_take(h->keys, (uint32_t)a[2], &parcel, a[1], scope.room, end);
    const struct hsl_key_run *runs = got > 0 ? hsl_keytab_runs(h->keys, parcel, &len) : NULL;
    if (!runs || !gather(h, runs, len, (uint64_t)got, excerpt)) {
        if (runs)
            hsl_keytab_confirm(h->keys, parcel, 0, 0); /* without memory it waits for its group */
        Py_DECREF(excerpt);
        Py_RETURN_NONE;
    }
    for (size_t i = 0; i < len; i++)
        h->again += runs[i].attempt > 1 ? runs[i].count : 0;
    hsl_keytab_start(h->keys, parcel, (int64_t)a[3] + h->timeout);
    hsl_py_gate_took(args[0], (uint64_t)got, (int64_t)a[3]);
    h->taken += (uint64_t)got;
    h->took_ns = (int64_t)a[3];
    PyObject *batch = hsl_py_excerpt_batch(excerpt, 0, (uint32_t)got, args[0]);
    Py_DECREF(excerpt);
    return batch;
}

static PyObject *keyhatch_wants(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct keyhatch *h = (struct keyhatch *)self;
    uint64_t a[2]; /* most, now */
    struct scope scope;
    if (!hsl_py_takes("wants", n, 3) || hsl_py_u64s(args + 1, 2, a) < 0)
        return NULL;
    if (!h->open || !hsl_py_gate_takes(args[0]) || !look(h, (int64_t)a[1], &scope) ||
        enough(h, &scope, a[0]) || scope.scan >= scope.end)
        Py_RETURN_NONE;
    uint64_t end = stock_end(h);
    return PyLong_FromUnsignedLongLong(end > scope.scan ? end : scope.scan);
}

/* ---- the group's side ---- */

static PyObject *keyhatch_open(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct keyhatch *h = (struct keyhatch *)self;
    uint64_t a[2];
    if (!hsl_py_takes("open", n, 2) || hsl_py_u64s(args, 2, a) < 0)
        return NULL;
    h->tail = a[0];
    h->until = (int64_t)a[1];
    h->open = h->keys != NULL;
    Py_RETURN_NONE;
}

static PyObject *keyhatch_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((struct keyhatch *)self)->open = false;
    Py_RETURN_NONE;
}

static PyObject *keyhatch_clear(PyObject *self, PyObject *unused)
{
    struct keyhatch *h = (struct keyhatch *)self;
    (void)unused;
    drop_stocks(h, h->count);
    Py_RETURN_NONE;
}

static PyObject *keyhatch_bind(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct keyhatch *h = (struct keyhatch *)self;
    if (!hsl_py_takes("bind", n, 2))
        return NULL;
    void *map = hsl_py_address(args[0]), *keys = map ? hsl_py_address(args[1]) : NULL;
    if (!keys)
        return NULL;
    PyObject *acks = h->acks, *table = h->table;
    h->open = false;
    h->map = map;
    h->keys = keys;
    h->acks = Py_NewRef(args[0]);
    h->table = Py_NewRef(args[1]);
    drop_stocks(h, h->count);
    Py_XDECREF(acks);
    Py_XDECREF(table);
    Py_RETURN_NONE;
}

static PyObject *keyhatch_taken(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct keyhatch *)self)->taken);
}

static PyObject *keyhatch_again(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct keyhatch *)self)->again);
}

static PyObject *keyhatch_took_ns(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLongLong(((struct keyhatch *)self)->took_ns);
}

/* ---- type ---- */

static PyObject *keyhatch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"span", "most", "timeout", NULL};
    unsigned long long span, most;
    long long timeout;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KKL:KeyHatch", names, &span, &most, &timeout))
        return NULL;
    struct keyhatch *h = (struct keyhatch *)PyType_GenericAlloc(type, 0);
    if (h) {
        h->span = span;
        h->most = most;
        h->timeout = timeout;
    }
    return (PyObject *)h;
}

static void keyhatch_dealloc(PyObject *self)
{
    struct keyhatch *h = (struct keyhatch *)self;
    PyTypeObject *type = Py_TYPE(self);
    drop_stocks(h, h->count);
    PyMem_Free(h->stocks);
    Py_XDECREF(h->acks);
    Py_XDECREF(h->table);
    PyObject_Free(self);
    Py_DECREF(type);
}

#define FAST(name, function, doc) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, doc}

static PyMethodDef keyhatch_methods[] = {
    FAST("take", keyhatch_take,
         "take($self, gate, keep, most, consumer, now, /)\n--\n\n"
         "Take records, up to most, out of what was added, if besides them so many are left as to "
         "keep or there are no others behind; return them as a batch, or None where more has to be "
         "added or the group to be asked."),
    FAST("wants", keyhatch_wants,
         "wants($self, gate, most, now, /)\n--\n\n"
         "Return the record from which on to add some, None if the group has to be asked."),
    FAST("add", keyhatch_add,
         "add($self, excerpt, first, hashes, /)\n--\n\n"
         "Add what was read from an LSN on, with the hashes of its keys; False if it is too late "
         "for it."),
    FAST("bind", keyhatch_bind,
         "bind($self, acks, table, /)\n--\n\nClose it, and take records of a table from now on."),
    FAST("open", keyhatch_open,
         "open($self, tail, until, /)\n--\n\nLet records below tail be taken until a time."),
    {"close", keyhatch_close, METH_NOARGS, "close($self, /)\n--\n\nLet nothing be taken."},
    {"clear", keyhatch_clear, METH_NOARGS, "clear($self, /)\n--\n\nForget what was added."},
    {"taken", keyhatch_taken, METH_NOARGS,
     "taken($self, /)\n--\n\nReturn how many records were ever taken here."},
    {"again", keyhatch_again, METH_NOARGS,
     "again($self, /)\n--\n\nReturn how many of them were not taken for the first time."},
    {"took_ns", keyhatch_took_ns, METH_NOARGS,
     "took_ns($self, /)\n--\n\nReturn when records were last taken here; 0 if never."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot keyhatch_slots[] = {
    {Py_tp_doc, (void *)"KeyHatch(span, most, timeout)\n--\n\n"
                        "Where records are taken in the order of keys without asking the group."},
    {Py_tp_new, keyhatch_new},
    {Py_tp_dealloc, keyhatch_dealloc},
    {Py_tp_methods, keyhatch_methods},
    {0, NULL},
};

static PyType_Spec keyhatch_spec = {
    .name = "hstreamlite._native.KeyHatch",
    .basicsize = sizeof(struct keyhatch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = keyhatch_slots,
};

int hsl_py_keyhatch_install(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&keyhatch_spec);
    int rc = type ? PyModule_AddObjectRef(module, "KeyHatch", type) : -1;
    Py_XDECREF(type);
    return rc;
}
