/* Messages of HStreamDB's protocol that have an entry for each record of a batch: made and read
 * here, since from Python a protobuf library takes longer for them than all else of a call.
 *
 *   AppendResponse           1 streamName  2 shardId  3 recordIds: repeated RecordId
 *   StreamingFetchResponse   1 receivedRecords: ReceivedRecord
 *   ReceivedRecord           1 recordIds: repeated RecordId  2 record: BatchedRecord
 *   BatchedRecord            1 compressionType  2 publishTime  3 batchSize  4 payload
 *   StreamingFetchRequest    1 subscriptionId  2 consumerName  3 ackIds: repeated RecordId
 *   RecordId                 1 shardId  2 batchId  3 batchIndex
 */
#include "hsl_py.h"

#include <string.h>

enum { VARINT = 0, BYTES = 2 };
#define LSN_MAX ((uint64_t)1 << 62)

/* A field of a number, left out where it is 0, as proto3 has it. */
static uint8_t *put_number(uint8_t *out, int field, uint64_t value)
{
    if (value == 0)
        return out;
    *out++ = (uint8_t)(field << 3 | VARINT);
    return hsl_wire_varint(out, value);
}

static size_t number_size(uint64_t value) { return value ? 1 + hsl_wire_varint_size(value) : 0; }

static uint8_t *put_head(uint8_t *out, int field, size_t len)
{
    *out++ = (uint8_t)(field << 3 | BYTES);
    return hsl_wire_varint(out, len);
}

static uint8_t *put_bytes(uint8_t *out, int field, const void *data, size_t len)
{
    if (len == 0)
        return out;
    out = put_head(out, field, len);
    memcpy(out, data, len);
    return out + len;
}

static uint8_t *put_id(uint8_t *out, int field, uint64_t shard, uint64_t batch, uint32_t index)
{
    out = put_head(out, field, number_size(shard) + number_size(batch) + number_size(index));
    out = put_number(out, 1, shard);
    out = put_number(out, 2, batch);
    return put_number(out, 3, index);
}

static size_t id_size(uint64_t shard, uint64_t batch, uint32_t index)
{
    return 2 + number_size(shard) + number_size(batch) + number_size(index);
}

static PyObject *append_answer(PyObject *module, PyObject *args)
{
    const char *stream;
    Py_ssize_t stream_len;
    uint64_t shard, batch;
    uint32_t count;
    (void)module;
    if (!PyArg_ParseTuple(args, "s#O&O&O&:append_answer", &stream, &stream_len, hsl_py_u64, &shard,
                          hsl_py_u64, &batch, hsl_py_u32, &count))
        return NULL;
    size_t size = number_size(shard);
    if (stream_len)
        size += 1 + hsl_wire_varint_size((uint64_t)stream_len) + (size_t)stream_len;
    for (uint32_t i = 0; i < count; i++)
        size += id_size(shard, batch, i);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    uint8_t *out = (uint8_t *)PyBytes_AsString(bytes);
    out = put_bytes(out, 1, stream, (size_t)stream_len);
    out = put_number(out, 2, shard);
    for (uint32_t i = 0; i < count; i++)
        out = put_id(out, 3, shard, batch, i);
    return bytes;
}

/* The indexes of a batch's records: all of them if there is no list. 0, or -1 with an exception. */
static int index_at(PyObject *list, Py_ssize_t at, uint32_t *index)
{
    *index = (uint32_t)at;
    return !list || hsl_py_u32(PyTuple_GetItem(list, at), index) ? 0 : -1;
}

static PyObject *delivery(PyObject *module, PyObject *args)
{
    uint64_t shard, batch, time_ms;
    uint32_t codec, index;
    PyObject *indexes, *list, *bytes;
    const char *payload;
    Py_ssize_t len, count;
    (void)module;
    if (!PyArg_ParseTuple(args, "O&O&OO&O&y#:delivery", hsl_py_u64, &shard, hsl_py_u64, &batch,
                          &indexes, hsl_py_u32, &codec, hsl_py_u64, &time_ms, &payload, &len))
        return NULL;
    list = PyTuple_Check(indexes) ? indexes : NULL;
    count = list ? PyTuple_Size(list) : PyLong_AsSsize_t(indexes);
    if (count < 0 || count > UINT32_MAX) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "a batch of %zd records", count);
        return NULL;
    }
    uint64_t seconds = time_ms / 1000, nanos = time_ms % 1000 * 1000000;
    size_t time = number_size(seconds) + number_size(nanos);
    size_t record = number_size(codec) + 2 + time + number_size((uint64_t)count);
    if (len)
        record += 1 + hsl_wire_varint_size((uint64_t)len) + (size_t)len;
    size_t ids = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (index_at(list, i, &index) < 0)
            return NULL;
        ids += id_size(shard, batch, index);
    }
    size_t received = ids + 1 + hsl_wire_varint_size(record) + record;
    size_t whole = 1 + hsl_wire_varint_size(received) + received;
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)whole);
    if (!bytes)
        return NULL;
    uint8_t *out = (uint8_t *)PyBytes_AsString(bytes);
    out = put_head(out, 1, received);
    for (Py_ssize_t i = 0; i < count; i++) {
        index_at(list, i, &index);
        out = put_id(out, 1, shard, batch, index);
    }
    out = put_head(out, 2, record);
    out = put_number(out, 1, codec);
    out = put_head(out, 2, time);
    out = put_number(out, 1, seconds);
    out = put_number(out, 2, nanos);
    out = put_number(out, 3, (uint64_t)count);
    put_bytes(out, 4, payload, (size_t)len);
    return bytes;
}

/* 1 and shard and LSN of a RecordId, the LSN 0 where no record has such an id; 0 if malformed. */
static int read_id(const struct hsl_wire_field *id, uint64_t *shard, uint64_t *lsn)
{
    const uint8_t *pos = id->data, *end = id->data + id->len;
    struct hsl_wire_field f;
    uint64_t batch = 0;
    uint32_t index = 0;
    int got;
    *shard = 0;
    while ((got = hsl_wire_next(&pos, end, &f)) > 0) {
        if (f.type != VARINT)
            continue;
        if (f.number == 1)
            *shard = f.value;
        else if (f.number == 2)
            batch = f.value;
        else if (f.number == 3)
            index = (uint32_t)f.value;
    }
    *lsn = batch > 0 && batch < LSN_MAX && batch + index < LSN_MAX ? batch + index : 0;
    return got == 0;
}

/* Borrowed: the list of a shard, made if there is none. */
static PyObject *list_of(PyObject *places, uint64_t shard)
{
    PyObject *key = PyLong_FromUnsignedLongLong(shard);
    PyObject *list = key ? PyDict_GetItemWithError(places, key) : NULL;
    if (key && !list && !PyErr_Occurred()) {
        PyObject *made = PyList_New(0);
        if (made && PyDict_SetItem(places, key, made) == 0)
            list = made;
        Py_XDECREF(made);
    }
    Py_XDECREF(key);
    return list;
}

static int add_place(PyObject *list, uint64_t lsn)
{
    PyObject *number = PyLong_FromUnsignedLongLong(lsn);
    int rc = number ? PyList_Append(list, number) : -1;
    Py_XDECREF(number);
    return rc;
}

static PyObject *ack_places(PyObject *module, PyObject *request)
{
    char *data;
    Py_ssize_t len;
    struct hsl_wire_field f;
    PyObject *places, *list = NULL;
    uint64_t shard, lsn, last = 0;
    int got;
    (void)module;
    if (PyBytes_AsStringAndSize(request, &data, &len) < 0)
        return NULL;
    const uint8_t *pos = (const uint8_t *)data, *end = pos + len;
    places = PyDict_New();
    if (!places)
        return NULL;
    while ((got = hsl_wire_next(&pos, end, &f)) > 0) {
        if (f.number != 3 || f.type != BYTES)
            continue;
        if (!read_id(&f, &shard, &lsn)) {
            got = -1;
            break;
        }
        if (!list || shard != last) {
            list = list_of(places, shard);
            last = shard;
        }
        if (!list || add_place(list, lsn) < 0)
            goto failed; /* not reached: Python lacks memory */
    }
    if (got == 0)
        return places;
    PyErr_Format(PyExc_ValueError, "malformed request of %zd bytes", len);
failed:
    Py_DECREF(places);
    return NULL;
}

static PyMethodDef functions[] = {
    {"append_answer", append_answer, METH_VARARGS,
     "append_answer($module, stream, shard, batch, records, /)\n--\n\n"
     "Return a serialized AppendResponse with the ids of all records of a batch."},
    {"delivery", delivery, METH_VARARGS,
     "delivery($module, shard, batch, indexes, codec, time_ms, payload, /)\n--\n\n"
     "Return a serialized StreamingFetchResponse with a batch.\n\n"
     "indexes are a tuple of those in the payload, or the number of all records."},
    {"ack_places", ack_places, METH_O,
     "ack_places($module, request, /)\n--\n\n"
     "Return the LSNs that a serialized StreamingFetchRequest acks, in a list for each shard.\n\n"
     "0 stands for an id that no record can have. ValueError if the request is malformed."},
    {NULL, NULL, 0, NULL},
};

int hsl_py_wire_install(PyObject *module) { return PyModule_AddFunctions(module, functions); }
