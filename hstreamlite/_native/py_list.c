/* Lists of bytes: their payloads looked at, and encoded while they are looked at.
 *
 * Mostly none of the objects is in a near cache, and to bring them there takes longer than all that
 * is done with them. So they are asked for long before they are looked at, with what a short one
 * holds. Nothing in here lets other code run.
 */
#include "hsl_py.h"

#include "codec.h"

#define AHEAD 24       /* objects between the one that is asked for and the one looked at */
#define OUT_AHEAD 1536 /* bytes, where they are written */
#define SAMPLES 8u

/* Where a list object points to its items, in pointers from its start; 0 = not known. The stable
 * ABI has a call for each item, which is a tenth of what taking in a short record costs. */
static size_t items_at;

void hsl_py_list_install(void)
{
    PyObject *size = PyObject_GetAttrString((PyObject *)&PyList_Type, "__basicsize__");
    PyObject *list = Py_BuildValue("[OO]", Py_None, Py_True);
    /* Count, type and length, the items, and how many have room. */
    if (list && size && PyLong_AsLong(size) == 5 * (long)sizeof(void *)) {
        PyObject **const *fields = (PyObject **const *)(const void *)list;
        if (Py_SIZE(list) == 2 && fields[3][0] == Py_None && fields[3][1] == Py_True)
            items_at = 3;
    }
    Py_XDECREF(list);
    Py_XDECREF(size);
    PyErr_Clear();
}

/* NULL: they have to be asked for one by one. */
static PyObject **items_of(PyObject *list)
{
    PyObject **const *fields = (PyObject **const *)(const void *)list;
    return items_at ? fields[items_at] : NULL;
}

static inline PyObject *item_of(PyObject *list, PyObject **items, size_t at)
{
    return items ? items[at] : PyList_GetItem(list, (Py_ssize_t)at);
}

/* Item `at` as a payload, if it is bytes. *inside: where such an object holds them, 0 at first. */
static inline bool payload_at(PyObject *list, PyObject **items, size_t at, size_t count,
                              ptrdiff_t *inside, struct hsl_payload *out)
{
    if (items && at + AHEAD < count) {
        const char *next = (const char *)items[at + AHEAD];
        __builtin_prefetch(next);
        __builtin_prefetch(next + 64);
    }
    PyObject *item = item_of(list, items, at);
    if (!PyBytes_CheckExact(item))
        return false;
    if (*inside == 0)
        *inside = PyBytes_AsString(item) - (const char *)item;
    out->data = (const uint8_t *)item + *inside;
    out->len = (size_t)Py_SIZE(item);
    return true;
}

bool hsl_py_list_run(PyObject *list, struct hsl_payload *run, size_t count)
{
    ptrdiff_t inside = 0;
    PyObject **items = items_of(list);
    for (size_t i = 0; i < count; i++)
        if (!payload_at(list, items, i, count, &inside, &run[i]))
            return false;
    return true;
}

size_t hsl_py_list_guess(PyObject *list, size_t count, size_t key_len)
{
    PyObject **items = items_of(list);
    size_t longest = 0;
    for (size_t i = 0; i < count; i += count / SAMPLES + 1) {
        PyObject *item = item_of(list, items, i);
        if (!PyBytes_CheckExact(item))
            return 0;
        longest = (size_t)Py_SIZE(item) > longest ? (size_t)Py_SIZE(item) : longest;
    }
    return count * hsl_codec_run_record_size(hsl_codec_run_header_len(key_len), longest);
}

uint8_t *hsl_py_list_encode(PyObject *list, size_t count, uint8_t *out, size_t room,
                            const uint8_t *key, size_t key_len)
{
    const uint8_t *end = out + room;
    PyObject **items = items_of(list);
    ptrdiff_t inside = 0;
    struct hsl_codec_run_form form;
    struct hsl_payload payload;
    payload_at(list, items, 0, count, &inside, &payload);
    out = hsl_codec_run_begin(out, &payload, key, key_len, &form);
    for (size_t i = 1; i < count; i++) {
        if (!payload_at(list, items, i, count, &inside, &payload) ||
            hsl_codec_run_record_size(form.header_len, payload.len) > (size_t)(end - out))
            return NULL;
        __builtin_prefetch(out + OUT_AHEAD, 1);
        out = hsl_codec_run_put(out, &form, payload.data, payload.len);
    }
    return out;
}
