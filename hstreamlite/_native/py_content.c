/* What users hand over as payload, key and attributes, and how records and batches hold it. */
#include "hsl_py.h"

#include <string.h>

enum { KEY_BYTES_MAX = 64 * 1024 };

static void set_type_error(const char *format, PyObject *o)
{
    PyObject *name = PyType_GetName(Py_TYPE(o));
    if (name != NULL)
        PyErr_Format(PyExc_TypeError, format, name);
    Py_XDECREF(name);
}

PyObject *hsl_py_typed(const char *name, PyObject *first, PyObject *second)
{
    PyObject *module = PyImport_ImportModule("hstreamlite.typed"), *function, *result;
    if (module == NULL)
        return NULL;
    function = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    if (function == NULL)
        return NULL;
    result = PyObject_CallFunctionObjArgs(function, first, second, NULL);
    Py_DECREF(function);
    return result;
}

/* Whether it is an instance of a dataclass, or of a struct of msgspec. */
static int has_fields(PyObject *o)
{
    PyObject *type = (PyObject *)Py_TYPE(o);
    return PyObject_HasAttrString(type, "__dataclass_fields__") ||
           PyObject_HasAttrString(type, "__struct_fields__");
}

static PyObject *typed_bytes(PyObject *o)
{
    PyObject *object = hsl_py_typed("to_object", o, NULL), *bytes = NULL;
    if (object != NULL)
        bytes = hsl_py_json_encode(object);
    Py_XDECREF(object);
    return bytes;
}

PyObject *hsl_py_payload(PyObject *o, int *raw)
{
    *raw = 1;
    if (PyBytes_CheckExact(o))
        return Py_NewRef(o);
    if (PyDict_Check(o)) {
        *raw = 0;
        return hsl_py_json_encode(o);
    }
    if (PyObject_CheckBuffer(o))
        return PyBytes_FromObject(o);
    if (has_fields(o)) {
        *raw = 0;
        return typed_bytes(o);
    }
    if (PyUnicode_Check(o))
        set_type_error("a payload must be bytes-like or a dict, not %U: encode the text, as in "
                       "text.encode()", o);
    else if (o == Py_None || PyList_Check(o) || PyTuple_Check(o) || PyLong_Check(o) ||
             PyFloat_Check(o))
        set_type_error("a payload must be bytes-like or a dict, not %U: wrap JSON values in a "
                       "dict, as in {'value': ...}", o);
    else
        set_type_error("a payload must be bytes-like or a dict, not %U", o);
    return NULL;
}

const char *hsl_py_utf8(PyObject *text, const char *what, size_t *len)
{
    Py_ssize_t n;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &n);
    *len = 0;
    if (utf8 == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "%s must be text that UTF-8 can hold, and %A has a "
                         "surrogate", what, text);
        }
        return NULL;
    }
    *len = (size_t)n;
    return utf8;
}

int hsl_py_key(PyObject *key, const char **utf8, size_t *len)
{
    *utf8 = "";
    *len = 0;
    if (key == NULL || key == Py_None)
        return 0;
    if (!PyUnicode_Check(key)) {
        set_type_error("key must be a str or None, not %U", key);
        return -1;
    }
    *utf8 = hsl_py_utf8(key, "key", len);
    if (*utf8 == NULL)
        return -1;
    if (*len > KEY_BYTES_MAX) {
        PyErr_Format(PyExc_ValueError, "key may take %d bytes in UTF-8, and this one takes %zu",
                     (int)KEY_BYTES_MAX, *len);
        return -1;
    }
    return 0;
}

static size_t string_field_size(size_t len)
{
    return 1 + hsl_wire_varint_size(len) + len;
}

static uint8_t *put_string_field(uint8_t *out, uint8_t tag, const char *utf8, size_t len)
{
    *out++ = tag;
    out = hsl_wire_varint(out, len);
    memcpy(out, utf8, len);
    return out + len;
}

/* Size of the attribute field, or 0 with an exception. */
static size_t attribute_size(PyObject *name, PyObject *value, size_t *entry)
{
    size_t name_len, value_len;
    if (!PyUnicode_Check(name) || !PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "attributes must map str to str, not %R to %R", name, value);
        return 0;
    }
    if (hsl_py_utf8(name, "attributes", &name_len) == NULL ||
        hsl_py_utf8(value, "attributes", &value_len) == NULL)
        return 0;
    *entry = string_field_size(name_len) + string_field_size(value_len);
    return string_field_size(*entry);
}

static PyObject *encode_attributes(PyObject *dict)
{
    PyObject *name, *value, *bytes;
    Py_ssize_t at = 0;
    size_t size = 0, entry, len;
    uint8_t *out;
    const char *utf8;
    while (PyDict_Next(dict, &at, &name, &value)) {
        size_t field = attribute_size(name, value, &entry);
        if (field == 0)
            return NULL;
        size += field;
    }
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL)
        return NULL;
    out = (uint8_t *)PyBytes_AsString(bytes);
    at = 0;
    while (PyDict_Next(dict, &at, &name, &value)) {
        attribute_size(name, value, &entry);
        *out++ = 2 << 3 | 2;
        out = hsl_wire_varint(out, entry);
        utf8 = hsl_py_utf8(name, "attributes", &len);
        out = put_string_field(out, 1 << 3 | 2, utf8, len);
        utf8 = hsl_py_utf8(value, "attributes", &len);
        out = put_string_field(out, 2 << 3 | 2, utf8, len);
    }
    return bytes;
}

int hsl_py_attributes(PyObject *o, PyObject **attrs)
{
    PyObject *dict;
    *attrs = NULL;
    if (o == NULL || o == Py_None)
        return 0;
    if (!PyDict_Check(o) && !PyObject_HasAttrString(o, "keys")) {
        set_type_error("attributes must be a mapping of str to str or None, not %U", o);
        return -1;
    }
    /* A copy, so that no code of a mapping runs between the two passes of the encoder. */
    dict = PyObject_CallFunctionObjArgs((PyObject *)&PyDict_Type, o, NULL);
    if (dict == NULL)
        return -1;
    if (PyDict_Size(dict) > 0)
        *attrs = encode_attributes(dict);
    Py_DECREF(dict);
    return *attrs == NULL && PyErr_Occurred() ? -1 : 0;
}
