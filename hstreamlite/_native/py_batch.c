/* DeliveryBatch: the deliveries of one `receive`, made of an excerpt when somebody looks at one.
 *
 * Whoever acks a whole batch, or wants its payloads only, never pays for the objects. A batch that
 * was looked at keeps its deliveries and lets the excerpt go, which may be the larger one. */
#include "py_excerpt.h"


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

static PyTypeObject *batch_type;

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

static int append_run(PyObject *list, struct hsl_key_run *runs, size_t n, uint64_t shard)
{
    PyObject *item = Py_BuildValue("(Ky#)", (unsigned long long)shard, (const char *)runs,
                                   (Py_ssize_t)(n * sizeof *runs));
    int rc = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return rc;
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
    size_t n = runs ? hsl_py_excerpt_runs(e, b->number, b->count, runs, e->piece_count) : 0;
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
        return b->items = PyTuple_New(0); /* not reached: a collection cleared it: nobody's */
    excerpt = Py_NewRef((PyObject *)b->excerpt);
    list = hsl_py_excerpt_decode((struct excerpt *)excerpt, b->number, b->number + b->count,
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
    if (b->excerpt == NULL || b->runs != NULL)
        return 0;
    return hsl_py_excerpt_runs(b->excerpt, b->number, b->count, runs, cap);
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
            Py_CLEAR(list); /* not reached: Python lacks memory */
        Py_XDECREF(payload);
    }
    return list;
}

/* ---- attributes ---- */

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

/* ---- type ---- */

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
    batch_type = (PyTypeObject *)PyType_FromSpec(&batch_spec);
    if (batch_type == NULL)
        return -1; /* not reached: Python lacks memory */
    return PyModule_AddObjectRef(module, "DeliveryBatch", (PyObject *)batch_type);
}
