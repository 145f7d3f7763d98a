/* JSON payloads: a Python dict to and from a serialized google.protobuf.Struct.
 *
 *   Struct      1 fields: map<string, Value>
 *   Value       one of  1 null  2 number: double  3 string  4 bool  5 Struct  6 ListValue
 *   ListValue   1 values: repeated Value
 *
 * Numbers are doubles on the wire: integral ones up to 2**53 come back as int, a larger int is
 * refused. The reader merges repeated messages as protobuf does, but takes an unknown field as the
 * sign that the bytes are something else: clients exist that send any bytes under the JSON flag.
 */
#include "hsl_py.h"

#include <math.h>
#include <string.h>

/* A dict costs three nested messages and protobuf parsers stop at 100, so a deeper one than the
 * first limit could be written but not read by other clients. */
enum { WRITE_DEPTH_MAX = 32, READ_DEPTH_MAX = 64 };
#define INTEGER_MAX (1LL << 53)

enum { KIND_NONE = 0, KIND_NULL, KIND_NUMBER, KIND_STRING, KIND_BOOL, KIND_STRUCT, KIND_LIST };
enum { VARINT = 0, FIXED64 = 1, BYTES = 2 };
#define TAG(number, type) (uint8_t)((number) << 3 | (type))

/* ---- writing ---- */

struct buffer {
    uint8_t *data;
    size_t len;
    size_t cap;
    uint8_t small[1024];
};

static int reserve(struct buffer *b, size_t n)
{
    uint8_t *data;
    size_t cap;
    if (n <= b->cap - b->len)
        return 0;
    if (n > (size_t)PY_SSIZE_T_MAX / 4 - b->len) {
        PyErr_NoMemory(); /* not reached: no payload is so large */
        return -1;        /* not reached: as the line before */
    }
    cap = 2 * (b->len + n);
    data = PyMem_Realloc(b->data == b->small ? NULL : b->data, cap);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (b->data == b->small)
        memcpy(data, b->small, b->len);
    b->data = data;
    b->cap = cap;
    return 0;
}

/* Opens a message field with room for a length of one byte; end_message makes the rest. */
static int begin_message(struct buffer *b, uint8_t tag, size_t *start)
{
    if (reserve(b, 2) < 0)
        return -1;
    b->data[b->len] = tag;
    b->len += 2;
    *start = b->len;
    return 0;
}

static int end_message(struct buffer *b, size_t start)
{
    size_t len = b->len - start, more = hsl_wire_varint_size(len) - 1;
    if (more > 0) {
        if (reserve(b, more) < 0)
            return -1;
        memmove(b->data + start + more, b->data + start, len);
        b->len += more;
    }
    hsl_wire_varint(b->data + start - 1, len);
    return 0;
}

static int put_string(struct buffer *b, uint8_t tag, PyObject *text)
{
    Py_ssize_t len;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &len);
    if (utf8 == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "a JSON payload is UTF-8, which cannot hold the "
                         "surrogate in %A", text);
        }
        return -1;
    }
    if (reserve(b, 11 + (size_t)len) < 0)
        return -1;
    b->data[b->len++] = tag;
    b->len = (size_t)(hsl_wire_varint(b->data + b->len, (uint64_t)len) - b->data);
    memcpy(b->data + b->len, utf8, (size_t)len);
    b->len += (size_t)len;
    return 0;
}

static int put_number(struct buffer *b, double number)
{
    uint64_t bits;
    if (reserve(b, 9) < 0)
        return -1;
    memcpy(&bits, &number, sizeof bits);
    b->data[b->len++] = TAG(KIND_NUMBER, FIXED64);
    for (int i = 0; i < 8; i++)
        b->data[b->len++] = (uint8_t)(bits >> (8 * i));
    return 0;
}

static int put_byte(struct buffer *b, uint8_t tag, uint8_t value)
{
    if (reserve(b, 2) < 0)
        return -1;
    b->data[b->len++] = tag;
    b->data[b->len++] = value;
    return 0;
}

static int put_int(struct buffer *b, PyObject *o)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (value == -1 && !overflow && PyErr_Occurred())
        return -1;
    if (overflow || value > INTEGER_MAX || value < -INTEGER_MAX) {
        PyErr_SetString(PyExc_ValueError,
                        "a JSON payload holds integers up to 2**53 exactly, and one of the given "
                        "is beyond: write it as a str");
        return -1;
    }
    return put_number(b, (double)value);
}

static int put_float(struct buffer *b, PyObject *o)
{
    double value = PyFloat_AsDouble(o);
    if (value == -1.0 && PyErr_Occurred())
        return -1;
    if (!isfinite(value)) {
        PyErr_Format(PyExc_ValueError, 
                     "a JSON payload cannot hold %R: JSON has finite numbers only",
                     o);
        return -1;
    }
    return put_number(b, value);
}

static int put_fields(struct buffer *b, PyObject *dict, int depth);

static int put_values(struct buffer *b, PyObject *list, int depth);

static int put_value(struct buffer *b, PyObject *o, int depth)
{
    size_t start;
    PyObject *name;
    if (o == Py_None)
        return put_byte(b, TAG(KIND_NULL, VARINT), 0);
    if (o == Py_True || o == Py_False)
        return put_byte(b, TAG(KIND_BOOL, VARINT), o == Py_True);
    if (PyUnicode_Check(o))
        return put_string(b, TAG(KIND_STRING, BYTES), o);
    if (PyLong_Check(o))
        return put_int(b, o);
    if (PyFloat_Check(o))
        return put_float(b, o);
    if (PyDict_Check(o)) {
        if (begin_message(b, TAG(KIND_STRUCT, BYTES), &start) < 0 ||
            put_fields(b, o, depth + 1) < 0)
            return -1;
        return end_message(b, start);
    }
    if (PyList_Check(o) || PyTuple_Check(o)) {
        if (begin_message(b, TAG(KIND_LIST, BYTES), &start) < 0 ||
            put_values(b, o, depth + 1) < 0)
            return -1;
        return end_message(b, start);
    }
    name = PyType_GetName(Py_TYPE(o));
    if (name != NULL)
        PyErr_Format(PyExc_TypeError,
                     "a JSON payload holds dict, list, tuple, str, int, float, bool and None, "
                     "not %U", name);
    Py_XDECREF(name);
    return -1;
}

static int check_depth(int depth)
{
    if (depth <= WRITE_DEPTH_MAX)
        return 0;
    PyErr_Format(PyExc_ValueError, "a JSON payload may be nested %d deep, and this one is deeper",
                 (int)WRITE_DEPTH_MAX);
    return -1;
}

static int put_fields(struct buffer *b, PyObject *dict, int depth)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    size_t entry, start;
    if (check_depth(depth) < 0)
        return -1;
    while (PyDict_Next(dict, &at, &key, &value)) {
        if (!PyUnicode_Check(key)) {
            PyErr_Format(PyExc_TypeError, "the keys of a JSON payload must be str, and %R is not",
                         key);
            return -1;
        }
        if (begin_message(b, TAG(1, BYTES), &entry) < 0 ||
            put_string(b, TAG(1, BYTES), key) < 0 ||
            begin_message(b, TAG(2, BYTES), &start) < 0 || put_value(b, value, depth) < 0 ||
            end_message(b, start) < 0 || end_message(b, entry) < 0)
            return -1;
    }
    return 0;
}

static int put_values(struct buffer *b, PyObject *items, int depth)
{
    int is_list = PyList_Check(items);
    Py_ssize_t n = is_list ? PyList_Size(items) : PyTuple_Size(items);
    size_t start;
    if (check_depth(depth) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = is_list ? PyList_GetItem(items, i) : PyTuple_GetItem(items, i);
        if (item == NULL || begin_message(b, TAG(1, BYTES), &start) < 0 ||
            put_value(b, item, depth) < 0 || end_message(b, start) < 0)
            return -1;
    }
    return 0;
}

PyObject *hsl_py_json_encode(PyObject *dict)
{
    struct buffer b;
    PyObject *bytes = NULL;
    b.data = b.small;
    b.len = 0;
    b.cap = sizeof b.small;
    if (put_fields(&b, dict, 1) == 0)
        bytes = PyBytes_FromStringAndSize((const char *)b.data, (Py_ssize_t)b.len);
    if (b.data != b.small)
        PyMem_Free(b.data);
    return bytes;
}

/* ---- reading: 0, or -1 with an exception or, when the bytes are no Struct, without ---- */

static PyObject *get_string(const uint8_t *data, size_t len)
{
    PyObject *text = PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)len, "strict");
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        PyErr_Clear();
    return text;
}

static PyObject *get_number(uint64_t bits)
{
    double number;
    memcpy(&number, &bits, sizeof number);
    if (fabs(number) <= (double)INTEGER_MAX && number == floor(number) &&
        !(number == 0 && signbit(number)))
        return PyLong_FromLongLong((long long)number);
    return PyFloat_FromDouble(number);
}

static int get_fields(const uint8_t *pos, const uint8_t *end, int depth, PyObject *dict);

static int get_values(const uint8_t *pos, const uint8_t *end, int depth, PyObject *list);

/* *value and *kind are what the message held so far: a repeated dict or list is merged into. */
static int get_value(const uint8_t *pos, const uint8_t *end, int depth, PyObject **value,
                     uint32_t *kind)
{
    static const uint32_t types[] = {BYTES, VARINT, FIXED64, BYTES, VARINT, BYTES, BYTES};
    struct hsl_wire_field f;
    int got;
    while ((got = hsl_wire_next(&pos, end, &f)) > 0) {
        PyObject *next = NULL;
        if (f.number > KIND_LIST || f.type != types[f.number])
            return -1;
        switch (f.number) {
        case KIND_NULL:
            next = Py_NewRef(Py_None);
            break;
        case KIND_NUMBER:
            next = get_number(f.value);
            break;
        case KIND_STRING:
            next = get_string(f.data, f.len);
            break;
        case KIND_BOOL:
            next = PyBool_FromLong(f.value != 0);
            break;
        case KIND_STRUCT:
            next = *kind == KIND_STRUCT ? Py_NewRef(*value) : PyDict_New();
            if (next != NULL && get_fields(f.data, f.data + f.len, depth + 1, next) < 0)
                Py_CLEAR(next);
            break;
        case KIND_LIST:
            next = *kind == KIND_LIST ? Py_NewRef(*value) : PyList_New(0);
            if (next != NULL && get_values(f.data, f.data + f.len, depth + 1, next) < 0)
                Py_CLEAR(next);
            break;
        }
        if (next == NULL)
            return -1;
        Py_XDECREF(*value);
        *value = next;
        *kind = f.number;
    }
    return got;
}

static int get_entry(const uint8_t *pos, const uint8_t *end, int depth, PyObject *dict)
{
    struct hsl_wire_field f;
    PyObject *value = NULL, *name = NULL;
    uint32_t kind = KIND_NONE;
    int got, rc = -1;
    while ((got = hsl_wire_next(&pos, end, &f)) > 0) {
        if (f.type != BYTES || f.number > 2)
            goto done;
        if (f.number == 1) {
            /* The last key counts, but all have to be UTF-8 for a parser to take the entry. */
            Py_XDECREF(name);
            name = get_string(f.data, f.len);
            if (name == NULL)
                goto done;
        } else if (get_value(f.data, f.data + f.len, depth, &value, &kind) < 0) {
            goto done;
        }
    }
    if (got < 0)
        goto done;
    if (name == NULL)
        name = get_string(pos, 0);
    rc = name != NULL ? PyDict_SetItem(dict, name, value != NULL ? value : Py_None) : -1;
done:
    Py_XDECREF(name);
    Py_XDECREF(value);
    return rc;
}

static int get_fields(const uint8_t *pos, const uint8_t *end, int depth, PyObject *dict)
{
    struct hsl_wire_field f;
    int got;
    if (depth > READ_DEPTH_MAX)
        return -1;
    while ((got = hsl_wire_next(&pos, end, &f)) > 0)
        if (f.number != 1 || f.type != BYTES ||
            get_entry(f.data, f.data + f.len, depth, dict) < 0)
            return -1;
    return got;
}

static int get_values(const uint8_t *pos, const uint8_t *end, int depth, PyObject *list)
{
    struct hsl_wire_field f;
    int got, rc;
    if (depth > READ_DEPTH_MAX)
        return -1;
    while ((got = hsl_wire_next(&pos, end, &f)) > 0) {
        PyObject *value = NULL;
        uint32_t kind = KIND_NONE;
        if (f.number != 1 || f.type != BYTES)
            return -1;
        rc = get_value(f.data, f.data + f.len, depth, &value, &kind);
        if (rc == 0)
            rc = PyList_Append(list, value != NULL ? value : Py_None);
        Py_XDECREF(value);
        if (rc < 0)
            return -1;
    }
    return got;
}

PyObject *hsl_py_json_decode(const uint8_t *data, size_t len)
{
    PyObject *dict = PyDict_New();
    if (dict != NULL && get_fields(data, len ? data + len : data, 1, dict) < 0)
        Py_CLEAR(dict);
    return dict;
}
