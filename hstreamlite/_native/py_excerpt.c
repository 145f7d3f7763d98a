/* Excerpt: records of one shard, copied out of the log as they are stored. */
#include "py_excerpt.h"

#include <string.h>

static PyTypeObject *excerpt_type;

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

int hsl_py_excerpt_reserve(PyObject *excerpt, size_t records, size_t bytes)
{
    struct excerpt *e = (struct excerpt *)excerpt;
    if (make_room(&e->at, &e->at_cap, e->count + records + 1, sizeof *e->at) < 0 ||
        make_room(&e->bytes, &e->bytes_cap, e->len + bytes, 1) < 0)
        return -1;
    return 0;
}

size_t hsl_py_excerpt_bytes(PyObject *excerpt) { return ((struct excerpt *)excerpt)->len; }

int hsl_py_excerpt_copy(PyObject *to, PyObject *from, uint32_t first, uint32_t end,
                        uint32_t attempt)
{
    struct excerpt *e = (struct excerpt *)to;
    const struct excerpt *o = (struct excerpt *)from;
    uint32_t count = end - first, shift = (uint32_t)e->len - o->at[first];
    size_t size = o->at[end] - o->at[first];
    if (hsl_py_excerpt_reserve(to, count, size) < 0)
        return -1;
    if (size > 0)
        memcpy(e->bytes + e->len, o->bytes + o->at[first], size);
    for (uint32_t i = 0; i <= count; i++)
        e->at[e->count + i] = o->at[first + i] + shift;
    for (size_t i = piece_of(o, first); first < end; i++) {
        struct piece piece = o->pieces[i];
        uint32_t stop = piece_end(o, i) < end ? piece_end(o, i) : end;
        piece.index += first - piece.number;
        piece.attempt = attempt;
        if (add_piece(e, piece) < 0)
            return -1;
        e->count += stop - first;
        first = stop;
    }
    e->len += size;
    return 0;
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

PyObject *hsl_py_excerpt_decode(const struct excerpt *e, uint32_t number, uint32_t end,
                                PyObject *owner)
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
    return hsl_py_excerpt_decode((struct excerpt *)self, first, end,
                                 args[2] != Py_None ? args[2] : NULL);
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

size_t hsl_py_excerpt_runs(const struct excerpt *e, uint32_t number, uint32_t count,
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

static PyObject *excerpt_batch(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    uint32_t first, end;
    if (!hsl_py_takes("batch", n, 3) ||
        range_args((struct excerpt *)self, args, &first, &end) < 0)
        return NULL;
    return hsl_py_excerpt_batch(self, first, end, args[2]);
}

/* ---- type ---- */

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

int hsl_py_excerpt_install(PyObject *module)
{
    excerpt_type = (PyTypeObject *)PyType_FromSpec(&excerpt_spec);
    if (excerpt_type == NULL)
        return -1; /* not reached: Python lacks memory */
    return PyModule_AddObjectRef(module, "Excerpt", (PyObject *)excerpt_type);
}
