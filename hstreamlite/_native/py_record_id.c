/* RecordId: the place of a record, and the number converters its arguments need. */
#include "hsl_py.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

struct record_id {
    PyObject_HEAD
    unsigned long long shard;
    unsigned long long batch;
    unsigned int index;
};

static PyTypeObject *record_id_type;

/* ---- numbers ---- */

static int to_unsigned(PyObject *o, const char *name, uint64_t max, uint64_t *out)
{
    PyObject *number;
    if (!PyIndex_Check(o)) {
        PyObject *type = PyType_GetName(Py_TYPE(o));
        if (type != NULL)
            PyErr_Format(PyExc_TypeError, "%s must be an int, not %U", name, type);
        Py_XDECREF(type);
        return -1;
    }
    if (PyBool_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not bool", name);
        return -1;
    }
    number = PyNumber_Index(o);
    if (number == NULL)
        return -1;
    *out = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred() || *out > max) { /* an int fails by OverflowError only */
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s must be in 0..%llu, not %R", name,
                     (unsigned long long)max, number);
        Py_DECREF(number);
        return -1;
    }
    Py_DECREF(number);
    return 0;
}

int hsl_py_u64(PyObject *o, void *out)
{
    uint64_t value;
    if (to_unsigned(o, "a 64-bit number", UINT64_MAX, &value) < 0)
        return 0;
    *(uint64_t *)out = value;
    return 1;
}

int hsl_py_u32(PyObject *o, void *out)
{
    uint64_t value;
    if (to_unsigned(o, "a 32-bit number", UINT32_MAX, &value) < 0)
        return 0;
    *(uint32_t *)out = (uint32_t)value;
    return 1;
}

/* ---- making ---- */

static PyObject *make(PyTypeObject *type, uint64_t shard, uint64_t batch, uint32_t index)
{
    struct record_id *id = PyObject_New(struct record_id, type);
    if (id != NULL) {
        id->shard = shard;
        id->batch = batch;
        id->index = index;
    }
    return (PyObject *)id;
}

PyObject *hsl_py_record_id(uint64_t shard, uint64_t batch, uint32_t index)
{
    return make(record_id_type, shard, batch, index);
}

static PyObject *record_id_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"shard_id", "batch_id", "batch_index", NULL};
    PyObject *parts[3];
    uint64_t shard, batch, index;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:RecordId", names, &parts[0], &parts[1],
                                     &parts[2]))
        return NULL;
    if (to_unsigned(parts[0], names[0], UINT64_MAX, &shard) < 0 ||
        to_unsigned(parts[1], names[1], UINT64_MAX, &batch) < 0 ||
        to_unsigned(parts[2], names[2], UINT32_MAX, &index) < 0)
        return NULL;
    if (batch > UINT64_MAX - index) {
        PyErr_Format(PyExc_ValueError,
                     "batch_id + batch_index must be in 0..%llu, not %llu + %llu",
                     (unsigned long long)UINT64_MAX, (unsigned long long)batch,
                     (unsigned long long)index);
        return NULL;
    }
    return make(type, shard, batch, (uint32_t)index);
}

static void record_id_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---- text ---- */

/* Reads a decimal number without sign or leading zero; NULL if there is none up to max. */
static const char *read_number(const char *p, const char *end, uint64_t max, uint64_t *out)
{
    const char *start = p;
    uint64_t v = 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (v > (max - digit) / 10)
            return NULL;
        v = v * 10 + digit;
    }
    if (p == start || (*start == '0' && p - start > 1))
        return NULL;
    *out = v;
    return p;
}

static PyObject *record_id_parse(PyObject *type, PyObject *text)
{
    const char *p, *end;
    Py_ssize_t len;
    uint64_t shard, batch, index;
    if (!PyUnicode_Check(text)) {
        PyObject *name = PyType_GetName(Py_TYPE(text));
        if (name != NULL)
            PyErr_Format(PyExc_TypeError, "text must be a str, not %U", name);
        Py_XDECREF(name);
        return NULL;
    }
    p = PyUnicode_AsUTF8AndSize(text, &len);
    if (p == NULL) {
        PyErr_Clear();
        goto malformed;
    }
    end = p + len;
    if ((p = read_number(p, end, UINT64_MAX, &shard)) == NULL || p == end || *p != '-' ||
        (p = read_number(p + 1, end, UINT64_MAX, &batch)) == NULL || p == end || *p != '-' ||
        (p = read_number(p + 1, end, UINT32_MAX, &index)) == NULL || p != end ||
        batch > UINT64_MAX - index)
        goto malformed;
    return make((PyTypeObject *)type, shard, batch, (uint32_t)index);
malformed:
    PyErr_Format(PyExc_ValueError,
                 "a record id is written shard-batch-index, such as '1-5-0' (numbers of 64, 64 and "
                 "32 bits without leading zeros), not %R",
                 text);
    return NULL;
}

static PyObject *record_id_str(PyObject *self)
{
    struct record_id *id = (struct record_id *)self;
    return PyUnicode_FromFormat("%llu-%llu-%u", id->shard, id->batch, id->index);
}

static PyObject *record_id_repr(PyObject *self)
{
    struct record_id *id = (struct record_id *)self;
    return PyUnicode_FromFormat("RecordId('%llu-%llu-%u')", id->shard, id->batch, id->index);
}

static PyObject *record_id_reduce(PyObject *self, PyObject *unused)
{
    struct record_id *id = (struct record_id *)self;
    (void)unused;
    return Py_BuildValue("O(KKI)", (PyObject *)Py_TYPE(self), id->shard, id->batch, id->index);
}

/* ---- comparison: by shard and sequence number ---- */

static inline uint64_t lsn(const struct record_id *id)
{
    return id->batch + id->index;
}

static PyObject *record_id_lsn(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(lsn((struct record_id *)self));
}

Py_hash_t hsl_py_record_id_hash(uint64_t shard, uint64_t lsn)
{
    uint64_t h = (shard + 1) * 0x9e3779b97f4a7c15u ^ lsn;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return (Py_hash_t)h == -1 ? -2 : (Py_hash_t)h;
}

static Py_hash_t record_id_hash(PyObject *self)
{
    struct record_id *id = (struct record_id *)self;
    return hsl_py_record_id_hash(id->shard, lsn(id));
}

static PyObject *record_id_compare(PyObject *self, PyObject *other, int op)
{
    struct record_id *a = (struct record_id *)self, *b = (struct record_id *)other;
    int result;
    if (!Py_IS_TYPE(other, record_id_type))
        Py_RETURN_NOTIMPLEMENTED;
    if (op == Py_EQ || op == Py_NE) {
        int equal = a->shard == b->shard && lsn(a) == lsn(b);
        return PyBool_FromLong(equal == (op == Py_EQ));
    }
    if (a->shard != b->shard) {
        PyErr_Format(PyExc_ValueError,
                     "record ids are ordered within one shard only, and these are of shards "
                     "%llu and %llu",
                     a->shard, b->shard);
        return NULL;
    }
    switch (op) {
    case Py_LT:
        result = lsn(a) < lsn(b);
        break;
    case Py_LE:
        result = lsn(a) <= lsn(b);
        break;
    case Py_GT:
        result = lsn(a) > lsn(b);
        break;
    default:
        result = lsn(a) >= lsn(b);
        break;
    }
    return PyBool_FromLong(result);
}

/* ---- type ---- */

static PyMemberDef record_id_members[] = {
    {"shard_id", T_ULONGLONG, offsetof(struct record_id, shard), READONLY,
     "Number of the shard, the slice of the stream that holds the record."},
    {"batch_id", T_ULONGLONG, offsetof(struct record_id, batch), READONLY,
     "Sequence number of the first record of the batch."},
    {"batch_index", T_UINT, offsetof(struct record_id, index), READONLY,
     "Place of the record in its batch, from 0."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef record_id_getset[] = {
    {"lsn", record_id_lsn, NULL,
     "Sequence number of the record in its shard: batch_id + batch_index.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef record_id_methods[] = {
    {"parse", record_id_parse, METH_O | METH_CLASS,
     "parse($type, text, /)\n--\n\n"
     "Return the id that str() writes as text; ValueError if text is not such a form.\n\n"
     ">>> RecordId.parse('1-5-0')\nRecordId('1-5-0')"},
    {"__reduce__", record_id_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static const char record_id_doc[] =
    "RecordId(shard_id, batch_id, batch_index)\n--\n\n"
    "Place of a record, written shard-batch-index.\n\n"
    "Two ids are equal when shard and lsn are, however the records were batched. They are\n"
    "ordered within a shard; comparing ids of two shards with < is a ValueError.\n\n"
    ">>> str(RecordId(1, 5, 0))\n'1-5-0'\n"
    ">>> RecordId(1, 5, 2) == RecordId(1, 7, 0)\nTrue";

static PyType_Slot record_id_slots[] = {
    {Py_tp_doc, (void *)record_id_doc},
    {Py_tp_new, record_id_new},
    {Py_tp_dealloc, record_id_dealloc},
    {Py_tp_str, record_id_str},
    {Py_tp_repr, record_id_repr},
    {Py_tp_hash, record_id_hash},
    {Py_tp_richcompare, record_id_compare},
    {Py_tp_members, record_id_members},
    {Py_tp_getset, record_id_getset},
    {Py_tp_methods, record_id_methods},
    {0, NULL},
};

static PyType_Spec record_id_spec = {
    .name = "hstreamlite.records.RecordId",
    .basicsize = sizeof(struct record_id),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = record_id_slots,
};

int hsl_py_record_id_install(PyObject *module)
{
    record_id_type = (PyTypeObject *)PyType_FromSpec(&record_id_spec);
    if (record_id_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "RecordId", (PyObject *)record_id_type);
}
