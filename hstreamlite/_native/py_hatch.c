/* Hatch: where a consumer takes records that nobody got before, without asking the group.
 *
 * The group opens it while there is nothing to decide: nobody waits, nothing has to be sent again,
 * and no deadline has passed. What is taken is noted here, and the group reads the notes whenever
 * it has to know who has what: by then most is acked, and the notes are forgotten unread. Notes are
 * in the order of their records, and of their deadlines, for these are all equally far away.
 *
 * As with the functions of py_ack.c, the GIL is held from entry to return, and no Python code runs
 * between the first look at the bitmap and the last change of it. */
#include "hsl_py.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_NOTES 64u
#define FIRST_CHUNKS 4u

struct note {
    uint64_t first;
    uint64_t lease; /* 0: taken here, under none */
    int64_t due;
    uint32_t records;
    uint32_t consumer; /* 0: taken out of the notes */
};

static uint64_t end_of(const struct note *n) { return n->first + n->records; }

struct hatch {
    PyObject_HEAD
    PyObject *acks; /* keeps the map alive */
    struct hsl_ackmap *map;
    uint64_t span, most;
    int64_t timeout;
    bool open;
    uint64_t tail, taken;
    int64_t until, took_ns;
    struct note **chunks; /* by number modulo the capacity, a power of two; NULL: not there */
    struct note *spare;   /* the chunk that was emptied last, or NULL */
    uint64_t head;        /* number of the first note, counted from the first there ever was */
    size_t count, capacity;
};

/* The notes lie in chunks, so that however many there are none is copied and none has room for more
 * than a chunk to spare. */
static struct note **chunk_of(const struct hatch *h, uint64_t number)
{
    return &h->chunks[(number / CHUNK_NOTES) & (h->capacity - 1)];
}

static struct note *at(const struct hatch *h, size_t number)
{
    return &(*chunk_of(h, h->head + number))[(h->head + number) % CHUNK_NOTES];
}

static void drop_first(struct hatch *h)
{
    struct note **chunk = chunk_of(h, h->head);
    h->head++;
    h->count--;
    if (h->head % CHUNK_NOTES == 0) {
        free(h->spare);
        h->spare = *chunk;
        *chunk = NULL;
    }
}

/* Forgets the first notes whose records are all done, or that were taken out. */
static void settle(struct hatch *h, uint64_t low)
{
    while (h->count && (end_of(at(h, 0)) <= low || !at(h, 0)->consumer))
        drop_first(h);
}

/* Makes a place for one chunk more than there are. */
static bool make_place(struct hatch *h)
{
    uint64_t first = h->head / CHUNK_NOTES, behind = (h->head + h->count) / CHUNK_NOTES + 1;
    size_t before = h->capacity;
    struct note **chunks = h->chunks, **more;
    if (behind - first <= before)
        return true;
    more = calloc(before ? 2 * before : FIRST_CHUNKS, sizeof *more);
    if (!more)
        return false;
    h->chunks = more;
    h->capacity = before ? 2 * before : FIRST_CHUNKS;
    for (uint64_t i = first; i - first < before; i++)
        *chunk_of(h, i * CHUNK_NOTES) = chunks[i & (before - 1)];
    free(chunks);
    return true;
}

static bool make_room(struct hatch *h)
{
    if (!make_place(h))
        return false;
    struct note **chunk = chunk_of(h, h->head + h->count);
    if (!*chunk) {
        *chunk = h->spare ? h->spare : malloc(CHUNK_NOTES * sizeof **chunk);
        h->spare = NULL;
    }
    return *chunk;
}

/* There must be room. A deadline that is before that of the last note is told too late by the time
 * between two looks at the clock. */
static void add(struct hatch *h, struct note note)
{
    struct note *last = h->count ? at(h, h->count - 1) : NULL;
    if (last && last->due > note.due)
        note.due = last->due;
    if (last && end_of(last) == note.first && last->due == note.due && !last->lease &&
        !note.lease && last->consumer == note.consumer &&
        last->records <= UINT32_MAX - note.records)
        last->records += note.records;
    else
        *at(h, h->count++) = note;
}

/* The number of the first note that ends behind an LSN. */
static size_t find(const struct hatch *h, uint64_t lsn)
{
    size_t low = 0, high = h->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (end_of(at(h, middle)) > lsn)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Notes by themselves: to make Python objects of them may run other code, which takes and acks. */
struct copies {
    struct note *notes;
    size_t count, capacity;
};

static bool keep(struct copies *c, const struct note *n)
{
    if (c->count == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 64;
        struct note *more = realloc(c->notes, capacity * sizeof *more);
        if (!more)
            return false;
        c->notes = more;
        c->capacity = capacity;
    }
    c->notes[c->count++] = *n;
    return true;
}

/* A list of what was kept, which is freed. */
static PyObject *told(struct copies *c)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < c->count; i++) {
        const struct note *n = &c->notes[i];
        PyObject *item = Py_BuildValue("(KKLKI)", (unsigned long long)n->first,
                                       (unsigned long long)end_of(n), (long long)n->due,
                                       (unsigned long long)n->lease, (unsigned)n->consumer);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
        Py_XDECREF(item);
    }
    free(c->notes);
    return list;
}

/* ---- methods ---- */

/* Which records would be taken now, up to most: [*first, *stop). False: none. */
static bool next_run(struct hatch *h, uint64_t most, int64_t now, uint64_t *first, uint64_t *stop)
{
    struct hsl_ack_state s;
    uint64_t unacked;
    hsl_ackmap_state(h->map, &s);
    settle(h, s.low);
    if (now >= h->until || (h->count && now >= at(h, 0)->due))
        return false;
    unacked = s.next - s.low - s.acked;
    if (s.next >= h->tail || unacked >= h->most || s.next - s.low >= h->span || !most)
        return false;
    if (most > UINT32_MAX)
        most = UINT32_MAX;
    *first = s.next;
    *stop = s.next + (most < h->most - unacked ? most : h->most - unacked);
    if (*stop > h->tail)
        *stop = h->tail;
    if (*stop > s.low + h->span)
        *stop = s.low + h->span;
    return true;
}

static PyObject *hatch_take(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hatch *h = (struct hatch *)self;
    uint64_t a[5], first, stop; /* base, keep, most, consumer, now */
    if (!hsl_py_takes("take", n, 7))
        return NULL;
    if (!h->open || !hsl_py_gate_takes(args[0]))
        Py_RETURN_NONE;
    if (!hsl_py_is_excerpt(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take needs an Excerpt");
        return NULL;
    }
    if (hsl_py_u64s(args + 2, 5, a) < 0)
        return NULL;
    uint64_t end = a[0] + hsl_py_excerpt_count(args[1]);
    uint64_t kept = end < h->tail ? a[1] : 0;
    if (!next_run(h, a[2], (int64_t)a[4], &first, &stop) || first < a[0] || stop + kept > end ||
        !make_room(h) || hsl_ackmap_advance(h->map, stop, 0) < 0)
        Py_RETURN_NONE;
    add(h, (struct note){first, 0, (int64_t)a[4] + h->timeout, (uint32_t)(stop - first),
                         (uint32_t)a[3]});
    hsl_py_gate_took(args[0], stop - first, (int64_t)a[4]);
    h->taken += stop - first;
    h->took_ns = (int64_t)a[4];
    return hsl_py_excerpt_batch(args[1], (uint32_t)(first - a[0]), (uint32_t)(stop - a[0]),
                                args[0]);
}

static PyObject *hatch_wants(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hatch *h = (struct hatch *)self;
    uint64_t a[2], first, stop; /* most, now */
    if (!hsl_py_takes("wants", n, 3) || hsl_py_u64s(args + 1, 2, a) < 0)
        return NULL;
    if (!h->open || !hsl_py_gate_takes(args[0]) ||
        !next_run(h, a[0], (int64_t)a[1], &first, &stop))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(first);
}

static PyObject *hatch_open(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hatch *h = (struct hatch *)self;
    uint64_t a[2];
    if (!hsl_py_takes("open", n, 2) || hsl_py_u64s(args, 2, a) < 0)
        return NULL;
    h->tail = a[0];
    h->until = (int64_t)a[1];
    h->open = true;
    Py_RETURN_NONE;
}

static PyObject *hatch_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    ((struct hatch *)self)->open = false;
    Py_RETURN_NONE;
}

static PyObject *hatch_note(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hatch *h = (struct hatch *)self;
    uint64_t a[5]; /* first, end, due, lease, consumer */
    if (!hsl_py_takes("note", n, 5) || hsl_py_u64s(args, 5, a) < 0)
        return NULL;
    if ((h->count && end_of(at(h, h->count - 1)) > a[0]) || a[1] - a[0] > UINT32_MAX ||
        !make_room(h))
        Py_RETURN_FALSE;
    add(h, (struct note){a[0], a[3], (int64_t)a[2], (uint32_t)(a[1] - a[0]), (uint32_t)a[4]});
    Py_RETURN_TRUE;
}

static PyObject *hatch_settle(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint64_t low;
    if (!hsl_py_takes("settle", n, 1) || hsl_py_u64s(args, 1, &low) < 0)
        return NULL;
    settle((struct hatch *)self, low);
    Py_RETURN_NONE;
}

static PyObject *hatch_clear(PyObject *self, PyObject *unused)
{
    struct hatch *h = (struct hatch *)self;
    (void)unused;
    h->open = false;
    while (h->count)
        drop_first(h);
    Py_RETURN_NONE;
}

static PyObject *hatch_taken(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct hatch *)self)->taken);
}

static PyObject *hatch_took_ns(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromLongLong(((struct hatch *)self)->took_ns);
}

static PyObject *hatch_next_due(PyObject *self, PyObject *unused)
{
    struct hatch *h = (struct hatch *)self;
    (void)unused;
    settle(h, 0);
    if (!h->count)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(at(h, 0)->due);
}

/* Takes out and returns the notes whose deadline has passed; where memory is short, the next call
 * returns the rest. */
static PyObject *hatch_due(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hatch *h = (struct hatch *)self;
    struct copies due = {NULL, 0, 0};
    uint64_t now;
    if (!hsl_py_takes("due", n, 1) || hsl_py_u64s(args, 1, &now) < 0)
        return NULL;
    settle(h, 0);
    while (h->count && at(h, 0)->due <= (int64_t)now && keep(&due, at(h, 0))) {
        drop_first(h);
        settle(h, 0);
    }
    return told(&due);
}

/* The notes that overlap [first, end), of one consumer or (0) of all; taken out if asked for. */
static PyObject *hatch_notes(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct hatch *h = (struct hatch *)self;
    struct copies found = {NULL, 0, 0};
    uint64_t a[4]; /* first, end, consumer, take out */
    if (!hsl_py_takes("notes", n, 4) || hsl_py_u64s(args, 4, a) < 0)
        return NULL;
    size_t begin = find(h, a[0]);
    for (size_t i = begin; i < h->count && at(h, i)->first < a[1]; i++) {
        const struct note *note = at(h, i);
        if (!note->consumer || (a[2] && note->consumer != a[2]))
            continue;
        if (!keep(&found, note)) {
            free(found.notes); /* not reached: memory ran out */
            return PyErr_NoMemory(); /* not reached: as the line before */
        }
    }
    for (size_t i = begin; a[3] && i < h->count && at(h, i)->first < a[1]; i++)
        if (!a[2] || at(h, i)->consumer == a[2])
            at(h, i)->consumer = 0;
    return told(&found);
}

/* ---- type ---- */

static PyObject *hatch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"acks", "span", "most", "timeout", NULL};
    unsigned long long span, most;
    long long timeout;
    PyObject *acks;
    struct hatch *h;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKKL:Hatch", names, &acks, &span, &most,
                                     &timeout))
        return NULL;
    struct hsl_ackmap *map = hsl_py_address(acks);
    if (PyErr_Occurred())
        return NULL;
    h = (struct hatch *)PyType_GenericAlloc(type, 0);
    if (h) {
        h->acks = Py_NewRef(acks);
        h->map = map;
        h->span = span;
        h->most = most;
        h->timeout = timeout;
    }
    return (PyObject *)h;
}

static void hatch_dealloc(PyObject *self)
{
    struct hatch *h = (struct hatch *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(h->acks);
    for (size_t i = 0; i < h->capacity; i++)
        free(h->chunks[i]);
    free(h->chunks);
    free(h->spare);
    PyObject_Free(self);
    Py_DECREF(type);
}

#define FAST(name, function, doc) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, doc}

static PyMethodDef hatch_methods[] = {
    FAST("take", hatch_take,
         "take($self, gate, excerpt, base, keep, most, consumer, now, /)\n--\n\n"
         "Take the next records, up to most, out of an excerpt that begins with LSN base, if "
         "besides them so many are left as to keep or there are no others behind; return them as "
         "a batch, or None where they are not in it or the group has to be asked."),
    FAST("open", hatch_open,
         "open($self, tail, until, /)\n--\n\nLet records below tail be taken until a time."),
    {"close", hatch_close, METH_NOARGS, "close($self, /)\n--\n\nLet nothing be taken."},
    FAST("wants", hatch_wants,
         "wants($self, gate, most, now, /)\n--\n\n"
         "Return the first record that a consumer may take now, None if it may take none."),
    FAST("note", hatch_note,
         "note($self, first, end, due, lease, consumer, /)\n--\n\n"
         "Note what was handed out otherwise; False if it is out of order."),
    FAST("settle", hatch_settle,
         "settle($self, low, /)\n--\n\nForget the first notes, up to an LSN."),
    {"clear", hatch_clear, METH_NOARGS, "clear($self, /)\n--\n\nClose it, and forget all notes."},
    {"taken", hatch_taken, METH_NOARGS,
     "taken($self, /)\n--\n\nReturn how many records were ever taken here."},
    {"took_ns", hatch_took_ns, METH_NOARGS,
     "took_ns($self, /)\n--\n\nReturn when records were last taken here; 0 if never."},
    {"next_due", hatch_next_due, METH_NOARGS,
     "next_due($self, /)\n--\n\nReturn the first deadline, None if there is no note."},
    FAST("due", hatch_due,
         "due($self, now, /)\n--\n\nTake out the notes whose deadlines have passed."),
    FAST("notes", hatch_notes,
         "notes($self, first, end, consumer, out, /)\n--\n\n"
         "Return the notes that overlap a range, of one consumer unless it is 0; taken out if "
         "asked for."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot hatch_slots[] = {
    {Py_tp_doc, (void *)"Hatch(acks, span, most, timeout)\n--\n\n"
                        "Where records of one shard are taken without asking the group."},
    {Py_tp_new, hatch_new},
    {Py_tp_dealloc, hatch_dealloc},
    {Py_tp_methods, hatch_methods},
    {0, NULL},
};

static PyType_Spec hatch_spec = {
    .name = "hstreamlite._native.Hatch",
    .basicsize = sizeof(struct hatch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = hatch_slots,
};

int hsl_py_hatch_install(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&hatch_spec);
    int rc = type ? PyModule_AddObjectRef(module, "Hatch", type) : -1;
    Py_XDECREF(type);
    return rc;
}
