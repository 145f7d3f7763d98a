/* Excerpt and DeliveryBatch: records copied out of the log as they are stored, and the deliveries
 * of one `receive`, which are made of them when somebody looks at one.
 *
 * Whoever acks a whole batch, or wants its payloads only, never pays for the objects. A batch that
 * was looked at keeps its deliveries and lets the excerpt go, which may be the larger one. */
#include "hsl_py.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

/* Records that follow one another in one batch of the log. */
struct piece {
    uint64_t shard, batch, append_ms;
    uint32_t index, attempt;
    uint32_t number; /* of the first one in the excerpt */
};

struct excerpt {
    PyObject_HEAD
    uint8_t *bytes;
    uint32_t *at; /* where each record begins, and where the last one ends */
    struct piece *pieces;
    uint64_t *hashes; /* of their keys, if hashing */
    size_t len, bytes_cap, at_cap, pieces_cap, piece_count, hashes_cap;
    uint64_t seed;
    uint32_t count;
    bool hashing;
};

struct delivery_batch {
    PyObject_HEAD
    PyObject *items; /* tuple; NULL: they are in the excerpt, from `number` on */
    struct excerpt *excerpt;
    PyObject *owner;
    PyObject *runs;     /* by shard, as they are acked; NULL: not asked for */
    PyObject *consumer; /* NULL: that of the owner */
    uint64_t shard, lsn; /* of the first, if all of them follow one another; else lsn is 0 */
    uint32_t number, count, attempt;
};

static PyTypeObject *excerpt_type;
static PyTypeObject *batch_type;

/* ---- excerpts ---- */

/* Makes an array hold so many items; 0, or -1 with an exception. */
static int make_room(void *array, size_t *cap, size_t need, size_t size)
{
    void **items = array, *more;
    size_t wanted = *cap ? *cap : 64;
    if (need <= *cap)
        return 0;
    while (wanted < need)
        wanted *= 2;
    more = PyMem_Realloc(*items, wanted * size);
    if (more == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *items = more;
    *cap = wanted;
    return 0;
}

PyObject *hsl_py_excerpt(void) { return PyType_GenericAlloc(excerpt_type, 0); }

static int add_piece(struct excerpt *e, struct piece piece)
{
    struct piece *last = e->piece_count ? &e->pieces[e->piece_count - 1] : NULL;
    if (last && last->batch == piece.batch && last->attempt == piece.attempt &&
        last->index + (e->count - last->number) == piece.index)
        return 0;
    if (make_room(&e->pieces, &e->pieces_cap, e->piece_count + 1, sizeof *e->pieces) < 0)
        return -1;
    piece.number = e->count;
    e->pieces[e->piece_count++] = piece;
    return 0;
}

int hsl_py_excerpt_add(PyObject *excerpt, const uint8_t *body, size_t len,
                       struct hsl_py_place *place, uint64_t shard, uint64_t batch, uint32_t first,
                       uint32_t count, uint64_t append_ms, uint32_t attempt)
{
    struct excerpt *e = (struct excerpt *)excerpt;
    const uint8_t *pos = place->at < len ? body + place->at : body, *end = len ? body + len : body;
    struct hsl_record_ref ref;
    uint32_t n = 0;
    int got = hsl_codec_skip(&pos, end, first - place->index);
    const uint8_t *begin = pos;
    if (make_room(&e->at, &e->at_cap, (size_t)e->count + count + 1, sizeof *e->at) < 0)
        return -1;
    if (e->hashing &&
        make_room(&e->hashes, &e->hashes_cap, (size_t)e->count + count, sizeof *e->hashes) < 0)
        return -1;
    for (; got > 0 && n < count; n += got > 0) {
        e->at[e->count + n] = (uint32_t)(e->len + (size_t)(pos - begin));
        got = hsl_codec_next(&pos, end, &ref);
        if (e->hashing && got > 0)
            e->hashes[e->count + n] = hsl_codec_key_hash(ref.key, ref.key_len, e->seed);
    }
    if (got <= 0)
        return hsl_py_bad_batch(got, shard, batch, body, len, pos, (uint64_t)first + count);
    size_t size = (size_t)(pos - begin);
    if (e->len + size > UINT32_MAX) {
        PyErr_NoMemory(); /* not reached: nobody reads so much at once */
        return -1;        /* not reached: as the line before */
    }
    if (make_room(&e->bytes, &e->bytes_cap, e->len + size, 1) < 0 ||
        add_piece(e, (struct piece){shard, batch, append_ms, first, attempt, 0}) < 0)
        return -1;
    if (size > 0)
        memcpy(e->bytes + e->len, begin, size);
    e->len += size;
    e->count += count;
    e->at[e->count] = (uint32_t)e->len;
    *place = (struct hsl_py_place){first + n, (size_t)(pos - body)};
    return 0;
}

int hsl_py_is_excerpt(PyObject *o) { return Py_IS_TYPE(o, excerpt_type); }

uint32_t hsl_py_excerpt_count(PyObject *excerpt) { return ((struct excerpt *)excerpt)->count; }

static void excerpt_dealloc(PyObject *self)
{
    struct excerpt *e = (struct excerpt *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(e->bytes);
    PyMem_Free(e->at);
    PyMem_Free(e->pieces);
    PyMem_Free(e->hashes);
    PyObject_Free(self);
    Py_DECREF(type);
}

static Py_ssize_t excerpt_len(PyObject *self) { return ((struct excerpt *)self)->count; }

/* The number of the piece that holds a record. */
static size_t piece_of(const struct excerpt *e, uint32_t number)
{
    size_t low = 0, high = e->piece_count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (e->pieces[middle].number <= number)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static uint32_t piece_end(const struct excerpt *e, size_t piece)
{
    return piece + 1 < e->piece_count ? e->pieces[piece + 1].number : e->count;
}

static uint64_t lsn_of(const struct piece *p, uint32_t number)
{
    return p->batch + p->index + (number - p->number);
}

int hsl_py_excerpt_reserve(PyObject *excerpt, size_t records, size_t bytes, size_t runs)
{
    struct excerpt *e = (struct excerpt *)excerpt;
    if (make_room(&e->at, &e->at_cap, e->count + records + 1, sizeof *e->at) < 0 ||
        make_room(&e->bytes, &e->bytes_cap, e->len + bytes, 1) < 0 ||
        make_room(&e->pieces, &e->pieces_cap, e->piece_count + runs, sizeof *e->pieces) < 0)
        return -1;
    return 0;
}

size_t hsl_py_excerpt_bytes(PyObject *excerpt, uint32_t first, uint32_t end, size_t *batches)
{
    const struct excerpt *e = (struct excerpt *)excerpt;
    *batches = first < end ? piece_of(e, end - 1) - piece_of(e, first) + 1 : 0;
    return first < end ? e->at[end] - e->at[first] : 0;
}

void hsl_py_excerpt_copy(PyObject *to, PyObject *from, uint32_t first, uint32_t end,
                         uint32_t attempt)
{
    struct excerpt *e = (struct excerpt *)to;
    const struct excerpt *o = (struct excerpt *)from;
    size_t size = o->at[end] - o->at[first];
    if (size > 0)
        memcpy(e->bytes + e->len, o->bytes + o->at[first], size);
    for (size_t i = piece_of(o, first); first < end; i++) {
        struct piece piece = o->pieces[i];
        uint32_t stop = piece_end(o, i) < end ? piece_end(o, i) : end;
        piece.index += first - piece.number;
        piece.attempt = attempt;
        add_piece(e, piece); /* there is room */
        for (; first < stop; first++) {
            e->at[e->count++] = (uint32_t)e->len;
            e->len += o->at[first + 1] - o->at[first];
        }
    }
    e->at[e->count] = (uint32_t)e->len;
}

static PyObject *excerpt_hash_keys(PyObject *self, PyObject *seed)
{
    struct excerpt *e = (struct excerpt *)self;
    if (!hsl_py_u64(seed, &e->seed))
        return NULL;
    e->hashing = e->count == 0;
    Py_RETURN_NONE;
}

static PyObject *excerpt_key_hashes(PyObject *self, PyObject *unused)
{
    const struct excerpt *e = (struct excerpt *)self;
    size_t n = e->hashing ? e->count : 0;
    (void)unused;
    return PyBytes_FromStringAndSize((const char *)e->hashes, (Py_ssize_t)(n * sizeof *e->hashes));
}

/* The caller holds the excerpt: a collection on the way may run code that lets it go elsewhere. */
static PyObject *decode(const struct excerpt *e, uint32_t number, uint32_t end, PyObject *owner)
{
    PyObject *list = PyList_New(0);
    for (size_t i = piece_of(e, number); list && number < end; i++) {
        const struct piece *p = &e->pieces[i];
        uint32_t stop = piece_end(e, i) < end ? piece_end(e, i) : end;
        uint32_t index = p->index + (number - p->number);
        struct hsl_py_place place = {index, 0};
        PyObject *same =
            hsl_py_decode(e->bytes + e->at[number], e->at[stop] - e->at[number], &place, p->shard,
                          p->batch, index, stop - number, p->append_ms, owner, p->attempt, list);
        Py_DECREF(list);
        list = same;
        number = stop;
    }
    return list;
}

/* Arguments that name records of an excerpt: 0, or -1 with an exception. */
static int range_args(const struct excerpt *e, PyObject *const *args, uint32_t *first,
                      uint32_t *end)
{
    if (!hsl_py_u32(args[0], first) || !hsl_py_u32(args[1], end))
        return -1;
    if (*first > *end || *end > e->count) {
        PyErr_Format(PyExc_ValueError, "no records %u to %u among %u", (unsigned)*first,
                     (unsigned)*end, (unsigned)e->count);
        return -1;
    }
    return 0;
}

static PyObject *excerpt_deliveries(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint32_t first, end;
    if (!hsl_py_takes("deliveries", n, 3) ||
        range_args((struct excerpt *)self, args, &first, &end) < 0)
        return NULL;
    return decode((struct excerpt *)self, first, end, args[2] != Py_None ? args[2] : NULL);
}

static PyObject *excerpt_add(PyObject *self, PyObject *args)
{
    const char *body;
    Py_ssize_t len;
    uint64_t shard, batch, append_ms;
    uint32_t base, first, count, attempt;
    struct hsl_py_place place;
    if (!PyArg_ParseTuple(args, "y#O&O&O&O&O&O&O&:add", &body, &len, hsl_py_u64, &shard,
                          hsl_py_u64, &batch, hsl_py_u32, &base, hsl_py_u32, &first, hsl_py_u32,
                          &count, hsl_py_u64, &append_ms, hsl_py_u32, &attempt))
        return NULL;
    if (first < base) {
        PyErr_Format(PyExc_ValueError, "no record %u in what begins with %u", (unsigned)first,
                     (unsigned)base);
        return NULL;
    }
    place = (struct hsl_py_place){base, 0};
    if (hsl_py_excerpt_add(self, (const uint8_t *)body, (size_t)len, &place, shard, batch, first,
                           count, append_ms, attempt) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *excerpt_rest(PyObject *self, PyObject *number)
{
    struct excerpt *e = (struct excerpt *)self, *rest = NULL;
    uint32_t first;
    if (!hsl_py_u32(number, &first))
        return NULL;
    rest = (struct excerpt *)PyType_GenericAlloc(excerpt_type, 0);
    if (rest == NULL || first >= e->count)
        return (PyObject *)rest;
    size_t from = piece_of(e, first), pieces = e->piece_count - from;
    uint32_t count = e->count - first, at = e->at[first];
    if (make_room(&rest->at, &rest->at_cap, (size_t)count + 1, sizeof *rest->at) < 0 ||
        make_room(&rest->bytes, &rest->bytes_cap, e->len - at, 1) < 0 ||
        make_room(&rest->pieces, &rest->pieces_cap, pieces, sizeof *rest->pieces) < 0) {
        Py_DECREF(rest);
        return NULL;
    }
    for (uint32_t i = 0; i <= count; i++)
        rest->at[i] = e->at[first + i] - at;
    memcpy(rest->bytes, e->bytes + at, e->len - at);
    for (size_t i = 0; i < pieces; i++) {
        struct piece *p = &rest->pieces[i];
        *p = e->pieces[from + i];
        uint32_t cut = p->number < first ? first - p->number : 0;
        p->index += cut;
        p->number = p->number + cut - first;
    }
    rest->len = e->len - at;
    rest->count = count;
    rest->piece_count = pieces;
    return (PyObject *)rest;
}

static PyObject *excerpt_sizes(PyObject *self, PyObject *unused)
{
    struct excerpt *e = (struct excerpt *)self;
    const uint8_t *pos = e->bytes, *end = pos ? pos + e->len : pos;
    struct hsl_record_ref ref;
    PyObject *list = PyList_New(e->count);
    (void)unused;
    for (uint32_t i = 0; list && i < e->count; i++) {
        PyObject *size = NULL;
        if (hsl_codec_next(&pos, end, &ref) > 0)
            size = PyLong_FromSize_t(hsl_codec_size(&ref));
        if (size == NULL || PyList_SetItem(list, i, size) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
    }
    return list;
}

/* Do they follow one another, all of one attempt? Then what is true of all is noted. */
static void note_run(struct delivery_batch *b, const struct excerpt *e, uint32_t end)
{
    size_t i = piece_of(e, b->number);
    const struct piece *p = &e->pieces[i];
    uint64_t next = lsn_of(p, b->number);
    b->shard = p->shard;
    b->attempt = p->attempt;
    b->lsn = next;
    for (uint32_t number = b->number; number < end; i++) {
        p = &e->pieces[i];
        if (lsn_of(p, number) != next || p->attempt != b->attempt) {
            b->lsn = 0;
            return;
        }
        next += piece_end(e, i) - number;
        number = piece_end(e, i);
    }
}

static PyObject *excerpt_batch(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint32_t first, end;
    if (!hsl_py_takes("batch", n, 3) ||
        range_args((struct excerpt *)self, args, &first, &end) < 0)
        return NULL;
    return hsl_py_excerpt_batch(self, first, end, args[2]);
}

PyObject *hsl_py_excerpt_batch(PyObject *excerpt, uint32_t first, uint32_t end, PyObject *owner)
{
    struct excerpt *e = (struct excerpt *)excerpt;
    struct delivery_batch *b = (struct delivery_batch *)PyType_GenericAlloc(batch_type, 0);
    if (b == NULL)
        return NULL;
    b->excerpt = (struct excerpt *)Py_NewRef(excerpt);
    b->owner = Py_NewRef(owner);
    b->number = first;
    b->count = end - first;
    if (b->count > 0)
        note_run(b, e, end);
    return (PyObject *)b;
}

/* ---- batches ---- */

static int append_run(PyObject *list, struct hsl_key_run *runs, size_t n, uint64_t shard)
{
    PyObject *item = Py_BuildValue("(Ky#)", (unsigned long long)shard, (const char *)runs,
                                   (Py_ssize_t)(n * sizeof *runs));
    int rc = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return rc;
}

/* Writes the runs of records of an excerpt, if there are no more than cap; returns how many. */
static size_t excerpt_runs(const struct excerpt *e, uint32_t number, uint32_t count,
                           struct hsl_key_run *runs, size_t cap)
{
    size_t n = 0;
    uint32_t end = number + count;
    for (size_t i = piece_of(e, number); number < end; i++) {
        const struct piece *p = &e->pieces[i];
        uint32_t stop = piece_end(e, i) < end ? piece_end(e, i) : end;
        uint64_t lsn = lsn_of(p, number);
        if (n && runs[n - 1].first + runs[n - 1].count == lsn && runs[n - 1].attempt == p->attempt)
            runs[n - 1].count += stop - number;
        else if (n < cap)
            runs[n++] = (struct hsl_key_run){lsn, stop - number, p->attempt};
        else
            return 0;
        number = stop;
    }
    return n;
}

/* The runs of what lies in an excerpt, in a tuple of (shard, bytes). */
static PyObject *runs_in(const struct delivery_batch *b)
{
    PyObject *held = Py_NewRef((PyObject *)b->excerpt);
    const struct excerpt *e = (struct excerpt *)held;
    struct hsl_key_run *runs = PyMem_Calloc(e->piece_count + 1, sizeof *runs);
    PyObject *list = PyList_New(0), *tuple = NULL;
    if (runs == NULL)
        PyErr_NoMemory();
    size_t n = runs ? excerpt_runs(e, b->number, b->count, runs, e->piece_count) : 0;
    if (runs && list &&
        (n == 0 || append_run(list, runs, n, e->pieces[piece_of(e, b->number)].shard) == 0))
        tuple = PyList_AsTuple(list);
    PyMem_Free(runs);
    Py_XDECREF(list);
    Py_DECREF(held);
    return tuple;
}

static PyObject *one_run(const struct delivery_batch *b)
{
    struct hsl_key_run run = {b->lsn, b->count, b->attempt};
    return Py_BuildValue("((Ky#))", (unsigned long long)b->shard, (const char *)&run,
                         (Py_ssize_t)sizeof run);
}

/* Borrowed: the runs as a tuple; NULL with an exception. */
static PyObject *runs_of(struct delivery_batch *b)
{
    PyObject *runs;
    if (b->runs != NULL)
        return b->runs;
    if (b->count > 0 && b->lsn > 0)
        runs = one_run(b);
    else
        runs = b->excerpt != NULL && b->count > 0 ? runs_in(b) : PyTuple_New(0);
    if (b->runs == NULL)
        b->runs = runs;
    else
        Py_XDECREF(runs); /* a collection ran code that asked, too */
    return b->runs;
}

/* Borrowed: the deliveries as a tuple, made if they were not; NULL with an exception. */
static PyObject *items_of(struct delivery_batch *b)
{
    PyObject *list, *items, *excerpt;
    if (b->lsn == 0 && runs_of(b) == NULL)
        return NULL;
    if (b->items != NULL)
        return b->items;
    if (b->excerpt == NULL)
        return b->items = PyTuple_New(0);
    excerpt = Py_NewRef((PyObject *)b->excerpt);
    list = decode((struct excerpt *)excerpt, b->number, b->number + b->count,
                  b->owner != Py_None ? b->owner : NULL);
    Py_DECREF(excerpt);
    if (list == NULL)
        return NULL;
    items = PyList_AsTuple(list);
    Py_DECREF(list);
    if (items != NULL && b->items == NULL) {
        b->items = items;
        Py_CLEAR(b->excerpt);
    } else {
        Py_XDECREF(items); /* a collection ran code that looked at it, too */
    }
    return b->items;
}

size_t hsl_py_batch_runs(PyObject *batch, uint64_t *shard, struct hsl_key_run *runs, size_t cap)
{
    const struct delivery_batch *b = (struct delivery_batch *)batch;
    if (!Py_IS_TYPE(batch, batch_type) || b->count == 0)
        return 0;
    *shard = b->shard;
    if (b->lsn > 0) {
        runs[0] = (struct hsl_key_run){b->lsn, b->count, b->attempt};
        return 1;
    }
    return b->excerpt && !b->runs ? excerpt_runs(b->excerpt, b->number, b->count, runs, cap) : 0;
}

static PyObject *batch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    PyObject *items = NULL;
    struct delivery_batch *b;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:DeliveryBatch", names, &items))
        return NULL;
    items = items ? PySequence_Tuple(items) : PyTuple_New(0);
    if (items == NULL)
        return NULL;
    b = (struct delivery_batch *)PyType_GenericAlloc(type, 0);
    if (b == NULL) {
        Py_DECREF(items); /* not reached: Python lacks memory */
        return NULL;      /* not reached: as the line before */
    }
    b->items = items;
    b->count = (uint32_t)PyTuple_Size(items);
    return (PyObject *)b;
}

static int batch_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(b->items);
    Py_VISIT(b->owner);
    Py_VISIT(b->consumer);
    return 0;
}

static int batch_clear(PyObject *self)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    b->count = 0;
    b->lsn = 0;
    Py_CLEAR(b->items);
    Py_CLEAR(b->excerpt);
    Py_CLEAR(b->owner);
    Py_CLEAR(b->consumer);
    return 0;
}

static void batch_dealloc(PyObject *self)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    batch_clear(self);
    Py_XDECREF(b->runs);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static Py_ssize_t batch_len(PyObject *self) { return ((struct delivery_batch *)self)->count; }

static PyObject *batch_subscript(PyObject *self, PyObject *key)
{
    PyObject *items = items_of((struct delivery_batch *)self);
    return items ? PyObject_GetItem(items, key) : NULL;
}

static PyObject *batch_item(PyObject *self, Py_ssize_t i)
{
    PyObject *items = items_of((struct delivery_batch *)self);
    return items ? PySequence_GetItem(items, i) : NULL;
}

static int batch_contains(PyObject *self, PyObject *item)
{
    PyObject *items = items_of((struct delivery_batch *)self);
    return items ? PySequence_Contains(items, item) : -1;
}

static PyObject *batch_iter(PyObject *self)
{
    PyObject *items = items_of((struct delivery_batch *)self);
    return items ? PyObject_GetIter(items) : NULL;
}

static Py_hash_t batch_hash(PyObject *self)
{
    PyObject *items = items_of((struct delivery_batch *)self);
    return items ? PyObject_Hash(items) : -1;
}

/* Borrowed: what is a batch or a tuple as a tuple. NULL, without an exception for other things. */
static PyObject *tuple_of(PyObject *o)
{
    if (Py_IS_TYPE(o, batch_type))
        return items_of((struct delivery_batch *)o);
    return PyTuple_Check(o) ? o : NULL;
}

static PyObject *batch_compare(PyObject *self, PyObject *other, int op)
{
    PyObject *right = tuple_of(other), *left = right ? tuple_of(self) : NULL;
    if (left == NULL && PyErr_Occurred())
        return NULL;
    if (left == NULL)
        Py_RETURN_NOTIMPLEMENTED;
    return PyObject_RichCompare(left, right, op);
}

static PyObject *batch_add(PyObject *a, PyObject *b)
{
    PyObject *left = tuple_of(a), *right = left ? tuple_of(b) : NULL;
    if (right == NULL && PyErr_Occurred())
        return NULL;
    if (right == NULL)
        Py_RETURN_NOTIMPLEMENTED;
    return PySequence_Concat(left, right);
}

static PyObject *batch_repr(PyObject *self)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    PyObject *items = items_of(b), *first, *last, *text = NULL;
    if (items == NULL || b->count == 0)
        return items ? PyUnicode_FromString("()") : NULL;
    first = PyObject_GetAttrString(PyTuple_GetItem(items, 0), "id");
    last = PyObject_GetAttrString(PyTuple_GetItem(items, (Py_ssize_t)b->count - 1), "id");
    if (first != NULL && last != NULL)
        text = PyUnicode_FromFormat("<DeliveryBatch of %u: %S to %S>", (unsigned)b->count, first,
                                    last);
    Py_XDECREF(first);
    Py_XDECREF(last);
    return text;
}

static PyObject *call_items(PyObject *self, const char *name, PyObject *args)
{
    PyObject *items = items_of((struct delivery_batch *)self);
    PyObject *method = items ? PyObject_GetAttrString(items, name) : NULL;
    PyObject *result = method ? PyObject_CallObject(method, args) : NULL;
    Py_XDECREF(method);
    return result;
}

static PyObject *batch_index(PyObject *self, PyObject *args)
{
    return call_items(self, "index", args);
}

static PyObject *batch_count(PyObject *self, PyObject *args)
{
    return call_items(self, "count", args);
}

static PyObject *batch_reduce(PyObject *self, PyObject *unused)
{
    PyObject *items = items_of((struct delivery_batch *)self);
    (void)unused;
    return items ? Py_BuildValue("O(O)", (PyObject *)&PyTuple_Type, items) : NULL;
}

static PyObject *payload_of(const struct hsl_record_ref *ref)
{
    PyObject *json = NULL;
    if (!ref->raw)
        json = hsl_py_json_decode(ref->payload, ref->payload_len);
    if (json != NULL || PyErr_Occurred())
        return json;
    return PyBytes_FromStringAndSize((const char *)ref->payload, (Py_ssize_t)ref->payload_len);
}

static PyObject *undecoded_payloads(const struct delivery_batch *b)
{
    struct excerpt *e = (struct excerpt *)Py_NewRef((PyObject *)b->excerpt);
    uint32_t count = b->count;
    const uint8_t *pos = e->bytes + e->at[b->number], *end = e->bytes + e->len;
    struct hsl_record_ref ref;
    PyObject *list = PyList_New(count);
    for (uint32_t i = 0; list && i < count; i++) {
        PyObject *payload = hsl_codec_next(&pos, end, &ref) > 0 ? payload_of(&ref) : NULL;
        if (payload == NULL || PyList_SetItem(list, i, payload) < 0)
            Py_CLEAR(list);
    }
    Py_DECREF(e);
    return list;
}

static PyObject *batch_payloads(PyObject *self, PyObject *unused)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    (void)unused;
    if (b->items == NULL && b->excerpt != NULL && b->count > 0)
        return undecoded_payloads(b);
    PyObject *items = items_of(b), *list = items ? PyList_New(0) : NULL;
    for (Py_ssize_t i = 0; list && i < PyTuple_Size(items); i++) {
        PyObject *payload = PyObject_GetAttrString(PyTuple_GetItem(items, i), "payload");
        if (payload == NULL || PyList_Append(list, payload) < 0)
            Py_CLEAR(list);
        Py_XDECREF(payload);
    }
    return list;
}

/* ---- attributes of a batch ---- */

static void replace(PyObject **place, PyObject *value)
{
    PyObject *before = *place;
    *place = Py_XNewRef(value);
    Py_XDECREF(before);
}

static PyObject *get_runs(PyObject *self, void *unused)
{
    (void)unused;
    return Py_XNewRef(runs_of((struct delivery_batch *)self));
}

static PyObject *batch_pieces(PyObject *self, PyObject *unused)
{
    const struct delivery_batch *b = (struct delivery_batch *)self;
    const struct excerpt *e = b->excerpt;
    (void)unused;
    if (e == NULL)
        Py_RETURN_NONE;
    PyObject *list = PyList_New(0), *held = Py_NewRef((PyObject *)e);
    uint32_t number = b->number, end = number + b->count;
    for (size_t i = piece_of(e, number); list && number < end; i++) {
        const struct piece *p = &e->pieces[i];
        uint32_t stop = piece_end(e, i) < end ? piece_end(e, i) : end;
        PyObject *item = Py_BuildValue(
            "(KKIIKIy#)", (unsigned long long)p->shard, (unsigned long long)p->batch,
            (unsigned)(p->index + (number - p->number)), (unsigned)(stop - number),
            (unsigned long long)p->append_ms, (unsigned)p->attempt,
            (const char *)e->bytes + e->at[number], (Py_ssize_t)(e->at[stop] - e->at[number]));
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
        Py_XDECREF(item);
        number = stop;
    }
    Py_DECREF(held);
    return list;
}

static int set_runs(PyObject *self, PyObject *value, void *unused)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    (void)unused;
    b->lsn = 0;
    replace(&b->runs, value);
    return 0;
}

static int append_spans(PyObject *list, PyObject *shard, PyObject *bytes)
{
    const struct hsl_key_run *runs = (const struct hsl_key_run *)PyBytes_AsString(bytes);
    size_t n = runs ? (size_t)PyBytes_Size(bytes) / sizeof *runs : 0;
    for (size_t i = 0; i < n; i++) {
        PyObject *span = Py_BuildValue("(OKK)", shard, (unsigned long long)runs[i].first,
                                       (unsigned long long)runs[i].first + runs[i].count);
        int rc = span ? PyList_Append(list, span) : -1;
        Py_XDECREF(span);
        if (rc < 0)
            return -1; /* not reached: Python lacks memory */
    }
    return runs ? 0 : -1;
}

static PyObject *get_spans(PyObject *self, void *unused)
{
    PyObject *runs = Py_XNewRef(runs_of((struct delivery_batch *)self));
    PyObject *list = runs ? PyList_New(0) : NULL;
    (void)unused;
    for (Py_ssize_t i = 0; list && i < PyTuple_Size(runs); i++) {
        PyObject *part = PyTuple_GetItem(runs, i);
        if (append_spans(list, PyTuple_GetItem(part, 0), PyTuple_GetItem(part, 1)) < 0)
            Py_CLEAR(list); /* not reached: Python lacks memory */
    }
    Py_XDECREF(runs);
    return list;
}

static PyObject *get_consumer(PyObject *self, void *unused)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    PyObject *consumer = b->consumer;
    (void)unused;
    if (consumer == NULL && b->owner != NULL)
        consumer = hsl_py_gate_consumer(b->owner);
    return Py_NewRef(consumer ? consumer : Py_None);
}

static int set_consumer(PyObject *self, PyObject *value, void *unused)
{
    struct delivery_batch *b = (struct delivery_batch *)self;
    (void)unused;
    replace(&b->consumer, value);
    return 0;
}

/* ---- types ---- */

#define FAST(name, function, doc) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, doc}

static PyMethodDef excerpt_methods[] = {
    FAST("batch", excerpt_batch,
         "batch($self, first, end, owner, /)\n--\n\n"
         "Return records by their numbers here as a batch of deliveries."),
    FAST("deliveries", excerpt_deliveries,
         "deliveries($self, first, end, owner, /)\n--\n\nReturn them as a list."),
    {"add", excerpt_add, METH_VARARGS,
     "add($self, body, shard, batch, base, first, count, append_ms, attempt, /)\n--\n\n"
     "Append records first and on of a batch of the same shard, whose body begins with base.\n\n"
     "ValueError, and nothing is appended, where the body does not have them."},
    {"rest", excerpt_rest, METH_O,
     "rest($self, first, /)\n--\n\nReturn a copy of those from a number on, to read more into."},
    {"hash_keys", excerpt_hash_keys, METH_O,
     "hash_keys($self, seed, /)\n--\n\nHash the keys of what is read into it, while it is empty."},
    {"key_hashes", excerpt_key_hashes, METH_NOARGS,
     "key_hashes($self, /)\n--\n\nReturn the hashes of all keys, 8 bytes each, if they are made."},
    {"sizes", excerpt_sizes, METH_NOARGS,
     "sizes($self, /)\n--\n\nReturn the bytes of each record, as it is stored."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot excerpt_slots[] = {
    {Py_tp_doc, (void *)"Records of one shard, copied out of the log."},
    {Py_tp_dealloc, excerpt_dealloc},
    {Py_tp_methods, excerpt_methods},
    {Py_sq_length, excerpt_len},
    {0, NULL},
};

static PyType_Spec excerpt_spec = {
    .name = "hstreamlite._native.Excerpt",
    .basicsize = sizeof(struct excerpt),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = excerpt_slots,
};

static PyMethodDef batch_methods[] = {
    {"_pieces", batch_pieces, METH_NOARGS,
     "_pieces($self, /)\n--\n\n"
     "Return (shard, batch, index, records, append ms, attempt, body) of those side by side.\n\n"
     "None where a delivery was looked at: they are not kept as they were stored, then."},
    {"payloads", batch_payloads, METH_NOARGS,
     "payloads($self, /)\n--\n\n"
     "Return the payloads as a list.\n\n"
     "Where no delivery was looked at, none is made for it: with an `ack` of the whole batch this\n"
     "is the fastest way to consume. The dict of a JSON payload is then a new one on each call."},
    {"index", batch_index, METH_VARARGS,
     "index($self, /, *args)\n--\n\nReturn the first index of a delivery, as `tuple.index` does."},
    {"count", batch_count, METH_VARARGS,
     "count($self, /, *args)\n--\n\nReturn how often it holds a delivery."},
    {"__reduce__", batch_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef batch_getset[] = {
    {"spans", get_spans, NULL, "Ranges covered, as (shard, first LSN, end LSN).", NULL},
    {"consumer", get_consumer, set_consumer, "The consumer that received it.", NULL},
    {"_runs", get_runs, set_runs, "By shard, runs of a key table.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static const char batch_doc[] =
    "DeliveryBatch(deliveries=(), /)\n--\n\n"
    "Deliveries of one `receive`; falsy when there were none.\n\n"
    "In log order per shard, but for what comes again, which comes first.\n\n"
    "A sequence that is as a tuple in all else: equal to one of equal deliveries. They are made\n"
    "when one of them is looked at first, and acking it whole costs one call.";

static PyType_Slot batch_slots[] = {
    {Py_tp_doc, (void *)batch_doc},
    {Py_tp_new, batch_new},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_traverse, batch_traverse},
    {Py_tp_clear, batch_clear},
    {Py_tp_methods, batch_methods},
    {Py_tp_getset, batch_getset},
    {Py_tp_iter, batch_iter},
    {Py_tp_hash, batch_hash},
    {Py_tp_repr, batch_repr},
    {Py_tp_richcompare, batch_compare},
    {Py_nb_add, batch_add},
    {Py_sq_length, batch_len},
    {Py_sq_item, batch_item},
    {Py_sq_contains, batch_contains},
    {Py_mp_length, batch_len},
    {Py_mp_subscript, batch_subscript},
    {0, NULL},
};

static PyType_Spec batch_spec = {
    .name = "hstreamlite.records.DeliveryBatch",
    .basicsize = sizeof(struct delivery_batch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = batch_slots,
};

int hsl_py_batch_install(PyObject *module)
{
    excerpt_type = (PyTypeObject *)PyType_FromSpec(&excerpt_spec);
    batch_type = excerpt_type ? (PyTypeObject *)PyType_FromSpec(&batch_spec) : NULL;
    if (batch_type == NULL ||
        PyModule_AddObjectRef(module, "Excerpt", (PyObject *)excerpt_type) < 0)
        return -1; /* not reached: Python lacks memory */
    return PyModule_AddObjectRef(module, "DeliveryBatch", (PyObject *)batch_type);
}
