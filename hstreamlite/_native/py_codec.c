/* Bodies of blocks as functions of the module: encoded, decoded, counted and picked from. */
#include "hsl_py.h"

#include <string.h>

#define FUNCTION(f) (PyCFunction)(void (*)(void))(f)

static PyObject *encode_items(PyObject *items, const char *key, size_t key_len)
{
    Py_ssize_t n = PyTuple_Size(items);
    struct hsl_record_ref *refs = PyMem_Calloc((size_t)n + 1, sizeof *refs);
    PyObject **keeps = PyMem_Calloc((size_t)n + 1, sizeof *keeps);
    PyObject *bytes = NULL;
    size_t size = 0;
    uint8_t *out;
    if (refs == NULL || keeps == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (hsl_py_record_ref(PyTuple_GetItem(items, i), key, key_len, &refs[i], &keeps[i]) < 0)
            goto done;
        size += hsl_codec_size(&refs[i]);
    }
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL)
        goto done;
    out = (uint8_t *)PyBytes_AsString(bytes);
    for (Py_ssize_t i = 0; i < n; i++)
        out = hsl_codec_encode(out, &refs[i]);
done:
    for (Py_ssize_t i = 0; keeps != NULL && i < n; i++)
        Py_XDECREF(keeps[i]);
    PyMem_Free(keeps);
    PyMem_Free(refs);
    return bytes;
}

static PyObject *encode_batch(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"items", "key", NULL};
    PyObject *items, *key = NULL, *bytes;
    const char *utf8;
    size_t len;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:encode_batch", names, &items, &key) ||
        hsl_py_key(key, &utf8, &len) < 0)
        return NULL;
    items = PySequence_Tuple(items);
    if (items == NULL)
        return NULL;
    bytes = encode_items(items, utf8, len);
    Py_DECREF(items);
    return bytes;
}

static PyObject *decode_batch(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"body",      "shard", "batch",   "first", "count",
                            "append_ms", "owner", "attempt", "base",  NULL};
    Py_buffer body;
    uint64_t shard, batch, append_ms = 0;
    uint32_t first = 0, count = HSL_PY_ALL, attempt = 1;
    struct hsl_py_place place = {0, 0};
    PyObject *count_arg = Py_None, *owner = Py_None, *list = NULL;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*O&O&|O&OO&OO&O&:decode_batch", names,
                                     &body, hsl_py_u64, &shard, hsl_py_u64, &batch, hsl_py_u32,
                                     &first, &count_arg, hsl_py_u64, &append_ms, &owner, hsl_py_u32,
                                     &attempt, hsl_py_u32, &place.index))
        return NULL;
    if (first < place.index)
        PyErr_Format(PyExc_ValueError, "the body begins with record %lu, behind record %lu",
                     (unsigned long)place.index, (unsigned long)first);
    else if (count_arg == Py_None || hsl_py_u32(count_arg, &count))
        list = hsl_py_decode(body.buf, (size_t)body.len, &place, shard, batch, first, count,
                             append_ms, owner != Py_None ? owner : NULL, attempt, NULL);
    PyBuffer_Release(&body);
    return list;
}

static PyObject *count_batch(PyObject *module, PyObject *arg)
{
    Py_buffer body;
    int64_t n;
    (void)module;
    if (PyObject_GetBuffer(arg, &body, PyBUF_SIMPLE) < 0)
        return NULL;
    n = hsl_codec_count(body.buf, (size_t)body.len);
    if (n < 0)
        PyErr_Format(PyExc_ValueError, "malformed batch of %zd bytes", body.len);
    PyBuffer_Release(&body);
    return n < 0 ? NULL : PyLong_FromLongLong(n);
}

/* Appends records [first, end) of what is left of a body, of which `at` came before. -1: there
 * are fewer. */
static int pick(const uint8_t **pos, const uint8_t *stop, uint64_t *at, uint64_t first,
                uint64_t end, char **out)
{
    if (first < *at || end <= first || end > UINT32_MAX ||
        hsl_codec_skip(pos, stop, (uint32_t)(first - *at)) != 1)
        return -1;
    const uint8_t *from = *pos;
    if (hsl_codec_skip(pos, stop, (uint32_t)(end - first)) != 1)
        return -1;
    memcpy(*out, from, (size_t)(*pos - from));
    *out += *pos - from;
    *at = end;
    return 0;
}

static PyObject *pick_batch(PyObject *module, PyObject *args)
{
    Py_buffer body;
    PyObject *runs, *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*O!:pick_batch", &body, &PyList_Type, &runs))
        return NULL;
    const uint8_t *pos = body.buf, *stop = pos + body.len;
    char *out = PyMem_Malloc((size_t)body.len + 1), *end = out;
    uint64_t at = 0;
    Py_ssize_t n = PyList_Size(runs), i = 0;
    for (; out && i < n; i++) {
        unsigned long long first, behind;
        if (!PyArg_ParseTuple(PyList_GetItem(runs, i), "KK", &first, &behind))
            goto done;
        if (pick(&pos, stop, &at, first, behind, &end) < 0)
            break;
    }
    if (!out)
        PyErr_NoMemory(); /* not reached: Python lacks memory */
    else if (i < n)
        PyErr_Format(PyExc_ValueError, "malformed batch of %zd bytes, or runs of it", body.len);
    else
        result = PyBytes_FromStringAndSize(out, end - out);
done:
    PyMem_Free(out);
    PyBuffer_Release(&body);
    return result;
}

static PyMethodDef functions[] = {
    {"encode_batch", FUNCTION(encode_batch), METH_VARARGS | METH_KEYWORDS,
     "encode_batch($module, /, items, key=None)\n--\n\n"
     "Return the body of a block that holds the items: records, or payloads of records.\n\n"
     "An item without a key takes the one given."},
    {"decode_batch", FUNCTION(decode_batch), METH_VARARGS | METH_KEYWORDS,
     "decode_batch($module, /, body, shard, batch, first=0, count=None, append_ms=0, owner=None,\n"
     "             attempt=1, base=0)\n--\n\n"
     "Return records first..first+count-1 of a batch, as deliveries if there is an owner.\n\n"
     "The body begins with the record of index base. "
     "Without count to the end of the body. append_ms 0 is unknown. ValueError if the body is\n"
     "malformed or holds fewer records."},
    {"count_batch", count_batch, METH_O,
     "count_batch($module, body, /)\n--\n\n"
     "Return the number of records in a body; ValueError if it is malformed anywhere."},
    {"pick_batch", pick_batch, METH_VARARGS,
     "pick_batch($module, body, runs, /)\n--\n\n"
     "Return a body with the records of some ranges only, given as (first, end), ascending.\n\n"
     "ValueError if the body is malformed up to the last of them, or holds fewer."},
    {NULL, NULL, 0, NULL},
};

int hsl_py_codec_install(PyObject *module) { return PyModule_AddFunctions(module, functions); }
