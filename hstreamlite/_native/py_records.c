/* Record and Delivery, and how block bodies become them.
 *
 * A record holds bytes and str objects only: the payload as it is stored, the key, the attribute
 * fields as they are stored. So both passes of an append (size, write) copy from memory, and no
 * reference cycle can run through a record: it stays out of the garbage collector's lists. Two
 * things change that: the dict of a JSON payload, decoded on first use, which the user may change,
 * and the owner of a Delivery. Only these records are tracked.
 */
#include "hsl_py.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

enum { REPR_BYTES = 32, REPR_CHARS = 72 };

enum payload_kind {
    KIND_RAW,
    KIND_JSON,        /* flagged as JSON, not looked into yet */
    KIND_JSON_READ,   /* json is the decoded payload */
    KIND_JSON_FOREIGN /* flagged as JSON, but the bytes are no Struct */
};

struct record {
    PyObject_HEAD
    PyObject *payload; /* bytes; of a JSON record the serialized Struct */
    PyObject *key;     /* str, or NULL */
    PyObject *attrs;   /* bytes, the attribute fields of the header, or NULL */
    PyObject *json;    /* dict, or NULL */
    uint64_t shard;
    uint64_t batch;
    uint64_t append_ms; /* 0: unknown */
    uint32_t index;
    uint8_t kind;
    uint8_t has_id;
};

struct delivery {
    struct record record;
    PyObject *owner;
    unsigned int attempt;
};

static PyTypeObject *record_type;
static PyTypeObject *delivery_type;
static PyObject *epoch;          /* datetime(1970, 1, 1, tzinfo=UTC) */
static PyObject *timedelta_type;
static PyObject *name_ack, *name_acked, *name_release, *name_extend, *name_payload, *name_id;

/* ---- parts of a record ---- */

static void record_ref(const struct record *r, struct hsl_record_ref *ref)
{
    memset(ref, 0, sizeof *ref);
    ref->payload = (const uint8_t *)PyBytes_AsString(r->payload);
    ref->payload_len = (size_t)PyBytes_Size(r->payload);
    ref->raw = r->kind == KIND_RAW;
    if (r->attrs != NULL) {
        ref->attrs = (const uint8_t *)PyBytes_AsString(r->attrs);
        ref->attrs_len = (size_t)PyBytes_Size(r->attrs);
    }
}

/* Decodes the payload if it is flagged as JSON: 0, or -1 with an exception (memory only). */
static int read_json(struct record *r)
{
    PyObject *json;
    if (r->kind != KIND_JSON)
        return 0;
    json = hsl_py_json_decode((const uint8_t *)PyBytes_AsString(r->payload),
                              (size_t)PyBytes_Size(r->payload));
    if (json == NULL && PyErr_Occurred())
        return -1;
    /* A collection during the decoding may have run code that asked for this payload too. */
    if (r->kind != KIND_JSON) {
        Py_XDECREF(json);
        return 0;
    }
    r->json = json;
    r->kind = json != NULL ? KIND_JSON_READ : KIND_JSON_FOREIGN;
    if (json != NULL && !PyObject_GC_IsTracked((PyObject *)r))
        PyObject_GC_Track(r);
    return 0;
}

/* Borrowed: the payload as the user sees it. NULL with an exception (memory only). */
static PyObject *visible_payload(struct record *r)
{
    if (read_json(r) < 0)
        return NULL;
    return r->json != NULL ? r->json : r->payload;
}

static PyObject *text_of(const uint8_t *utf8, size_t len)
{
    return PyUnicode_DecodeUTF8((const char *)utf8, (Py_ssize_t)len, "replace");
}

static PyObject *attributes_dict(const struct record *r)
{
    PyObject *dict = PyDict_New();
    struct hsl_record_ref ref;
    struct hsl_attr_walk walk;
    struct hsl_attr attr;
    if (dict == NULL || r->attrs == NULL)
        return dict;
    record_ref(r, &ref);
    hsl_attr_begin(&walk, &ref);
    while (hsl_attr_next(&walk, &attr) > 0) {
        PyObject *name = text_of(attr.name, attr.name_len);
        PyObject *value = text_of(attr.value, attr.value_len);
        int rc = name != NULL && value != NULL ? PyDict_SetItem(dict, name, value) : -1;
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (rc < 0) {
            Py_DECREF(dict); /* not reached: Python lacks memory */
            return NULL;     /* not reached: as the line before */
        }
    }
    return dict;
}

/* ---- Record: making and ending ---- */

/* Clears everything behind the object header; the allocator left it undefined. */
static void record_init(struct record *r)
{
    memset((char *)r + sizeof(PyObject), 0, sizeof *r - sizeof(PyObject));
}

/* Memory of records that went, for those that come: a loop over a stream makes and drops one after
 * the other. Not where threads run side by side, nor where a sanitizer watches what is freed. */
#if defined(Py_GIL_DISABLED) || defined(__SANITIZE_ADDRESS__)
#define SPARE_RECORDS 0
#else
#define SPARE_RECORDS 512
#endif
static struct record *spare[SPARE_RECORDS + 1];
static unsigned spares;

static struct record *record_take(void)
{
    if (spares == 0)
        return PyObject_GC_New(struct record, record_type);
    return (struct record *)PyObject_Init((PyObject *)spare[--spares], record_type);
}

static void record_give(struct record *r)
{
    if (spares < SPARE_RECORDS)
        spare[spares++] = r;
    else
        PyObject_GC_Del(r);
}

static struct record *record_alloc(PyTypeObject *type)
{
    struct record *r;
    if (type == record_type) {
        r = record_take();
        if (r != NULL)
            record_init(r);
        return r;
    }
    return (struct record *)PyType_GenericAlloc(type, 0);
}

static PyObject *record_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"payload", "key", "attributes", NULL};
    PyObject *payload, *key = NULL, *attributes = NULL, *bytes, *attrs = NULL, *exact = NULL;
    struct record *r;
    const char *utf8;
    size_t len;
    int raw;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OO:Record", names, &payload, &key,
                                     &attributes))
        return NULL;
    if (hsl_py_key(key, &utf8, &len) < 0)
        return NULL;
    bytes = hsl_py_payload(payload, &raw);
    if (bytes == NULL)
        return NULL;
    if (len > 0 && (exact = PyUnicode_FromObject(key)) == NULL)
        goto failed; /* not reached: Python lacks memory */
    if (hsl_py_attributes(attributes, &attrs) < 0)
        goto failed;
    r = record_alloc(type);
    if (r == NULL)
        goto failed; /* not reached: Python lacks memory */
    r->payload = bytes;
    r->key = exact;
    r->attrs = attrs;
    r->kind = raw ? KIND_RAW : KIND_JSON;
    return (PyObject *)r;
failed:
    Py_DECREF(bytes);
    Py_XDECREF(exact);
    Py_XDECREF(attrs);
    return NULL;
}

static int record_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct record *)self)->json);
    return 0;
}

static int delivery_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((struct delivery *)self)->owner);
    return record_traverse(self, visit, arg);
}

/* The dict of a JSON payload breaks its cycles itself; of an owner nothing is known. */
static int delivery_clear(PyObject *self)
{
    Py_CLEAR(((struct delivery *)self)->owner);
    return 0;
}

static void record_dealloc(PyObject *self)
{
    struct record *r = (struct record *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(r->payload);
    Py_XDECREF(r->key);
    Py_XDECREF(r->attrs);
    Py_XDECREF(r->json);
    if (type == delivery_type)
        Py_XDECREF(((struct delivery *)self)->owner);
    if (type == record_type)
        record_give(r);
    else
        PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* ---- Record: pickling ---- */

static PyObject *record_restore(PyObject *type, PyObject *args)
{
    PyObject *payload, *key, *attrs;
    unsigned long long shard, batch, append_ms;
    unsigned int index;
    int raw, has_id;
    struct record *r;
    if (!PyArg_ParseTuple(args, "SpOOpKKIK:_restore", &payload, &raw, &key, &attrs, &has_id, &shard,
                          &batch, &index, &append_ms))
        return NULL;
    if ((key != Py_None && !PyUnicode_Check(key)) || (attrs != Py_None && !PyBytes_Check(attrs))) {
        PyErr_SetString(PyExc_TypeError, "_restore() takes what __reduce__() gave");
        return NULL;
    }
    r = record_alloc((PyTypeObject *)type);
    if (r == NULL)
        return NULL;
    r->payload = Py_NewRef(payload);
    r->key = key != Py_None ? Py_NewRef(key) : NULL;
    r->attrs = attrs != Py_None ? Py_NewRef(attrs) : NULL;
    r->kind = raw ? KIND_RAW : KIND_JSON;
    r->has_id = (uint8_t)has_id;
    r->shard = shard;
    r->batch = batch;
    r->index = index;
    r->append_ms = append_ms;
    return (PyObject *)r;
}

static PyObject *record_reduce(PyObject *self, PyObject *unused)
{
    struct record *r = (struct record *)self;
    PyTypeObject *type = Py_IS_TYPE(self, delivery_type) ? record_type : Py_TYPE(self);
    PyObject *restore = PyObject_GetAttrString((PyObject *)type, "_restore");
    (void)unused;
    if (restore == NULL)
        return NULL;
    return Py_BuildValue("N(OOOOOKKIK)", restore, r->payload,
                         r->kind == KIND_RAW ? Py_True : Py_False, r->key ? r->key : Py_None,
                         r->attrs ? r->attrs : Py_None, r->has_id ? Py_True : Py_False,
                         (unsigned long long)r->shard, (unsigned long long)r->batch,
                         (unsigned int)r->index, (unsigned long long)r->append_ms);
}

/* ---- Record: attributes ---- */

static PyObject *get_payload(PyObject *self, void *unused)
{
    (void)unused;
    return Py_XNewRef(visible_payload((struct record *)self));
}

static PyObject *get_id(PyObject *self, void *unused)
{
    struct record *r = (struct record *)self;
    (void)unused;
    if (!r->has_id)
        Py_RETURN_NONE;
    return hsl_py_record_id(r->shard, r->batch, r->index);
}

/* The two attributes that every loop looks at are found without a search of the type. Not so for
 * deliveries: Python finds a method faster, and `ack` is one, where it may look for itself. */
static PyObject *record_getattro(PyObject *self, PyObject *name)
{
    if (Py_IS_TYPE(self, record_type)) {
        if (name == name_payload)
            return get_payload(self, NULL);
        if (name == name_id)
            return get_id(self, NULL);
    }
    return PyObject_GenericGetAttr(self, name);
}

static PyObject *get_key(PyObject *self, void *unused)
{
    PyObject *key = ((struct record *)self)->key;
    (void)unused;
    return Py_NewRef(key != NULL ? key : Py_None);
}

static PyObject *get_attributes(PyObject *self, void *unused)
{
    (void)unused;
    return attributes_dict((struct record *)self);
}

static PyObject *get_is_json(PyObject *self, void *unused)
{
    struct record *r = (struct record *)self;
    (void)unused;
    if (read_json(r) < 0)
        return NULL;
    return PyBool_FromLong(r->kind == KIND_JSON_READ);
}

static PyObject *get_append_time_ms(PyObject *self, void *unused)
{
    struct record *r = (struct record *)self;
    (void)unused;
    if (r->append_ms == 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(r->append_ms);
}

static PyObject *get_append_time(PyObject *self, void *unused)
{
    struct record *r = (struct record *)self;
    PyObject *since, *time;
    (void)unused;
    if (r->append_ms == 0)
        Py_RETURN_NONE;
    since = PyObject_CallFunction(timedelta_type, "iiiK", 0, 0, 0,
                                  (unsigned long long)r->append_ms);
    if (since == NULL)
        return NULL;
    time = PyNumber_Add(epoch, since);
    Py_DECREF(since);
    return time;
}

/* ---- Record: comparison ---- */

static Py_hash_t record_hash(PyObject *self)
{
    struct record *r = (struct record *)self;
    PyObject *payload = visible_payload(r);
    size_t h = r->has_id ? (size_t)hsl_py_record_id_hash(r->shard, r->batch + r->index) : 0;
    if (payload == NULL)
        return -1;
    if (r->key != NULL)
        h = h * 31u + (size_t)PyObject_Hash(r->key);
    if (PyBytes_Check(payload))
        h = h * 31u + (size_t)PyObject_Hash(payload);
    return (Py_hash_t)h == -1 ? -2 : (Py_hash_t)h;
}

static int same_objects(PyObject *a, PyObject *b)
{
    return a == b || (a != NULL && b != NULL && PyObject_RichCompareBool(a, b, Py_EQ));
}

static int same_attributes(const struct record *a, const struct record *b)
{
    PyObject *left, *right;
    int same = -1;
    if (same_objects(a->attrs, b->attrs))
        return 1;
    left = attributes_dict(a);
    right = attributes_dict(b);
    if (left != NULL && right != NULL)
        same = PyObject_RichCompareBool(left, right, Py_EQ);
    Py_XDECREF(left);
    Py_XDECREF(right);
    return same;
}

static int same_payload(struct record *a, struct record *b)
{
    PyObject *left = Py_XNewRef(visible_payload(a)), *right = NULL;
    int same = -1;
    if (left != NULL)
        right = Py_XNewRef(visible_payload(b));
    if (right != NULL)
        same = PyObject_RichCompareBool(left, right, Py_EQ);
    Py_XDECREF(left);
    Py_XDECREF(right);
    return same;
}

static int same_record(struct record *a, struct record *b)
{
    int same;
    if (a == b)
        return 1;
    if (a->has_id != b->has_id || a->shard != b->shard ||
        a->batch + a->index != b->batch + b->index)
        return 0;
    if (!same_objects(a->key, b->key))
        return 0;
    same = same_attributes(a, b);
    return same == 1 ? same_payload(a, b) : same;
}

static PyObject *record_compare(PyObject *self, PyObject *other, int op)
{
    int same;
    if ((op != Py_EQ && op != Py_NE) || !PyObject_TypeCheck(other, record_type))
        Py_RETURN_NOTIMPLEMENTED;
    same = same_record((struct record *)self, (struct record *)other);
    return same < 0 ? NULL : PyBool_FromLong(same == (op == Py_EQ));
}

/* ---- Record: text ---- */

static PyObject *payload_text(struct record *r)
{
    PyObject *payload = visible_payload(r), *part, *text;
    Py_ssize_t len;
    if (payload == NULL)
        return NULL;
    if (PyBytes_Check(payload)) {
        len = PyBytes_Size(payload);
        if (len <= REPR_BYTES)
            return PyObject_Repr(payload);
        part = PyBytes_FromStringAndSize(PyBytes_AsString(payload), REPR_BYTES);
        text = part != NULL ? PyUnicode_FromFormat("%R... %zd bytes", part, len) : NULL;
        Py_XDECREF(part);
        return text;
    }
    text = PyObject_Repr(payload);
    if (text == NULL || PyUnicode_GetLength(text) <= REPR_CHARS)
        return text;
    part = PyUnicode_Substring(text, 0, REPR_CHARS);
    Py_DECREF(text);
    text = part != NULL ? PyUnicode_FromFormat("%U...", part) : NULL;
    Py_XDECREF(part);
    return text;
}

/* Adds ", name=value" to *text, which becomes NULL on failure. Takes over value, NULL included. */
static void add_part(PyObject **text, const char *name, PyObject *value)
{
    PyObject *longer = NULL;
    if (*text != NULL && value != NULL)
        longer = PyUnicode_FromFormat("%U, %s=%R", *text, name, value);
    Py_XDECREF(*text);
    Py_XDECREF(value);
    *text = longer;
}

static PyObject *record_repr(PyObject *self)
{
    struct record *r = (struct record *)self;
    PyObject *payload = payload_text(r), *text = NULL, *name, *whole;
    name = PyType_GetName(Py_TYPE(self));
    if (payload != NULL && name != NULL)
        text = PyUnicode_FromFormat("%U(%U", name, payload);
    Py_XDECREF(payload);
    Py_XDECREF(name);
    if (text != NULL && r->key != NULL)
        add_part(&text, "key", Py_NewRef(r->key));
    if (text != NULL && r->attrs != NULL)
        add_part(&text, "attributes", attributes_dict(r));
    if (text != NULL && r->has_id)
        add_part(&text, "id", hsl_py_record_id(r->shard, r->batch, r->index));
    if (text != NULL && Py_IS_TYPE(self, delivery_type))
        add_part(&text, "attempt", PyLong_FromUnsignedLong(((struct delivery *)self)->attempt));
    whole = text != NULL ? PyUnicode_FromFormat("%U)", text) : NULL;
    Py_XDECREF(text);
    return whole;
}

/* ---- Delivery ---- */

static PyObject *owner_of(PyObject *self)
{
    PyObject *owner = ((struct delivery *)self)->owner;
    if (owner != NULL)
        owner = hsl_py_gate_consumer(owner);
    if (owner == NULL)
        PyErr_SetString(PyExc_RuntimeError, "the consumer of this delivery is gone");
    return Py_XNewRef(owner);
}

static PyObject *call_owner(PyObject *self, PyObject *method, PyObject *argument)
{
    PyObject *owner = owner_of(self), *result;
    if (owner == NULL)
        return NULL;
    result = PyObject_CallMethodObjArgs(owner, method, self, argument, NULL);
    Py_DECREF(owner);
    return result;
}

static PyObject *delivery_ack(PyObject *self, PyObject *unused)
{
    const struct record *r = (struct record *)self;
    PyObject *owner = ((struct delivery *)self)->owner, *answer, *told, *result;
    int flags = -1;
    (void)unused;
    if (owner != NULL)
        flags = hsl_py_gate_ack(owner, r->shard, r->batch + r->index, &answer);
    if (flags == HSL_ACK_NEW || flags == HSL_ACK_DUPLICATE)
        return Py_NewRef(answer);
    if (flags < 0)
        return call_owner(self, name_ack, NULL);
    told = PyLong_FromLong(flags);
    if (told == NULL)
        return NULL;
    result = call_owner(self, name_acked, told);
    Py_DECREF(told);
    return result;
}

static PyObject *get_consumer(PyObject *self, void *unused)
{
    PyObject *owner = ((struct delivery *)self)->owner;
    (void)unused;
    if (owner != NULL)
        owner = hsl_py_gate_consumer(owner);
    return Py_NewRef(owner != NULL ? owner : Py_None);
}

static PyObject *delivery_release(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"after", "reason", NULL};
    PyObject *after = Py_None, *reason = Py_None, *owner, *result;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:release", names, &after, &reason))
        return NULL;
    owner = owner_of(self);
    if (owner == NULL)
        return NULL;
    result = PyObject_CallMethodObjArgs(owner, name_release, self, after, reason, NULL);
    Py_DECREF(owner);
    return result;
}

static PyObject *delivery_extend(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"by", NULL};
    PyObject *by = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:extend", names, &by))
        return NULL;
    if (by == NULL) {
        PyErr_SetString(PyExc_TypeError, "extend() needs the keyword argument 'by'");
        return NULL;
    }
    return call_owner(self, name_extend, by);
}

/* ---- joints for the other files ---- */

int hsl_py_record_ref(PyObject *item, const char *default_key, size_t default_key_len,
                      struct hsl_record_ref *ref, PyObject **keep)
{
    int raw = 1;
    *keep = NULL;
    if (!PyBytes_CheckExact(item)) {
        if (PyObject_TypeCheck(item, record_type)) {
            struct record *r = (struct record *)item;
            record_ref(r, ref);
            if (r->key == NULL)
                goto without_key;
            ref->key = (const uint8_t *)hsl_py_utf8(r->key, "key", &ref->key_len);
            return ref->key != NULL ? 0 : -1;
        }
        item = *keep = hsl_py_payload(item, &raw);
        if (item == NULL)
            return -1;
    }
    memset(ref, 0, sizeof *ref);
    ref->payload = (const uint8_t *)PyBytes_AsString(item);
    ref->payload_len = (size_t)PyBytes_Size(item);
    ref->raw = raw;
without_key:
    ref->key = (const uint8_t *)default_key;
    ref->key_len = default_key_len;
    return 0;
}

/* What decoding carries from record to record. */
struct batch {
    uint64_t shard;
    uint64_t batch;
    uint64_t append_ms;
    PyObject *owner;
    uint32_t attempt;
    PyObject *key; /* of the record before, and its bytes: runs of a key share one str */
    const uint8_t *key_bytes;
    size_t key_len;
};

static PyObject *batch_key(struct batch *b, const struct hsl_record_ref *ref)
{
    if (b->key == NULL || b->key_len != ref->key_len ||
        memcmp(b->key_bytes, ref->key, ref->key_len) != 0) {
        Py_XDECREF(b->key);
        b->key = text_of(ref->key, ref->key_len);
        b->key_bytes = ref->key;
        b->key_len = ref->key_len;
    }
    return Py_XNewRef(b->key);
}

static PyObject *batch_record(struct batch *b, const struct hsl_record_ref *ref, uint32_t index)
{
    struct record *r;
    if (b->owner != NULL) {
        struct delivery *d = PyObject_GC_New(struct delivery, delivery_type);
        if (d == NULL)
            return NULL;
        d->owner = Py_NewRef(b->owner);
        d->attempt = b->attempt;
        r = &d->record;
    } else {
        r = record_take();
        if (r == NULL)
            return NULL;
    }
    record_init(r);
    r->kind = ref->raw ? KIND_RAW : KIND_JSON;
    r->shard = b->shard;
    r->batch = b->batch;
    r->append_ms = b->append_ms;
    r->index = index;
    r->has_id = 1;
    r->payload =
        PyBytes_FromStringAndSize((const char *)ref->payload, (Py_ssize_t)ref->payload_len);
    if (r->payload == NULL)
        goto failed;
    if (ref->key_len > 0 && (r->key = batch_key(b, ref)) == NULL)
        goto failed; /* not reached: Python lacks memory */
    if (ref->attrs_len > 0) {
        r->attrs = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)hsl_attrs_size(ref));
        if (r->attrs == NULL)
            goto failed;
        hsl_attrs_copy((uint8_t *)PyBytes_AsString(r->attrs), ref);
    }
    if (b->owner != NULL)
        PyObject_GC_Track(r);
    return (PyObject *)r;
failed:
    Py_DECREF(r);
    return NULL;
}

int hsl_py_bad_batch(int got, uint64_t shard, uint64_t batch, const uint8_t *body, size_t len,
                     const uint8_t *pos, uint64_t wanted)
{
    if (got < 0)
        PyErr_Format(PyExc_ValueError, "malformed batch %llu-%llu of %zu bytes, at byte %zd",
                     (unsigned long long)shard, (unsigned long long)batch, len, pos - body);
    else
        PyErr_Format(PyExc_ValueError, "batch %llu-%llu holds %llu records, too few for %llu",
                     (unsigned long long)shard, (unsigned long long)batch,
                     (unsigned long long)hsl_codec_count(body, len), (unsigned long long)wanted);
    return -1;
}

static int decode_into(struct batch *b, const uint8_t *body, size_t len,
                       struct hsl_py_place *place, uint32_t first, uint32_t count, PyObject *list)
{
    const uint8_t *pos = place->at < len ? body + place->at : body, *end = len ? body + len : body;
    struct hsl_record_ref ref;
    uint32_t n = 0;
    int got = hsl_codec_skip(&pos, end, first - place->index), skipped = got > 0;
    while (got > 0 && (count == HSL_PY_ALL || n < count)) {
        got = hsl_codec_next(&pos, end, &ref);
        if (got > 0) {
            PyObject *record = batch_record(b, &ref, first + n);
            int rc = record != NULL ? PyList_Append(list, record) : -1;
            Py_XDECREF(record);
            if (rc < 0)
                return -1;
            n++;
        }
    }
    if (got < 0 || (got == 0 && !(skipped && count == HSL_PY_ALL)))
        return hsl_py_bad_batch(got, b->shard, b->batch, body, len, pos,
                                (uint64_t)first + (count == HSL_PY_ALL ? 0 : count));
    *place = (struct hsl_py_place){first + n, (size_t)(pos - body)};
    return 0;
}

PyObject *hsl_py_decode(const uint8_t *body, size_t len, struct hsl_py_place *place,
                        uint64_t shard, uint64_t batch, uint32_t first, uint32_t count,
                        uint64_t append_ms, PyObject *owner, uint32_t attempt, PyObject *list)
{
    struct batch b = {shard, batch, append_ms, owner, attempt, NULL, NULL, 0};
    Py_ssize_t before;
    list = list != NULL ? Py_NewRef(list) : PyList_New(0);
    if (list == NULL)
        return NULL;
    before = PyList_Size(list);
    if (decode_into(&b, body, len, place, first, count, list) < 0) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (PyList_SetSlice(list, before, PyList_Size(list), NULL) < 0)
            PyErr_Clear(); /* not reached: Python lacks memory */
        PyErr_Restore(type, value, traceback);
        Py_CLEAR(list);
    }
    Py_XDECREF(b.key);
    return list;
}

#define FUNCTION(f) (PyCFunction)(void (*)(void))(f)

/* ---- types ---- */

static PyGetSetDef record_getset[] = {
    {"payload", get_payload, NULL,
     "bytes, or the dict of a JSON record. Changing that dict does not change the record.", NULL},
    {"key", get_key, NULL, "Ordering key, or None.", NULL},
    {"attributes", get_attributes, NULL, "A dict of the attributes, made on each call.", NULL},
    {"is_json", get_is_json, NULL,
     "Whether payload is a dict. False too if the record is flagged as JSON but holds other bytes.",
     NULL},
    {"id", get_id, NULL, "RecordId of a record that was read, else None.", NULL},
    {"append_time", get_append_time, NULL,
     "When the record was appended, an aware datetime in UTC; None if it was not read.", NULL},
    {"append_time_ms", get_append_time_ms, NULL,
     "The same in milliseconds since 1970, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *record_payload_as(PyObject *self, PyObject *type)
{
    return hsl_py_typed("read", self, type);
}

static PyMethodDef record_methods[] = {
    {"payload_as", record_payload_as, METH_O,
     "payload_as($self, type, /)\n--\n\n"
     "Return the payload as a value of a dataclass, a msgspec.Struct or another type JSON has.\n\n"
     "Nested ones are made too; datetimes, dates and times are read from ISO 8601, and keys that\n"
     "the type does not have are left out. PayloadMismatch names the first field that does not\n"
     "fit. It costs a walk over the payload on each call."},
    {"_restore", record_restore, METH_VARARGS | METH_CLASS, NULL},
    {"__reduce__", record_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static const char record_doc[] =
    "Record(payload, *, key=None, attributes=None)\n--\n\n"
    "A payload with an optional key and attributes; immutable.\n\n"
    "The payload is bytes-like, or a dict that JSON can hold: str keys, finite numbers, integers\n"
    "up to 2**53, at most 32 levels; a dataclass or a msgspec.Struct is taken as the dict of its\n"
    "fields, with datetimes as text in ISO 8601. It is encoded here, so later changes of the\n"
    "dict do not count, tuples read as lists and integral floats as int. Records of one key keep\n"
    "their order; the key takes up to 65,536 bytes in UTF-8. Records read from a stream have an\n"
    "id and an append time. Records are equal when payload, key, attributes and id are.\n\n"
    ">>> Record({'qty': 2}, key='customer-9').payload['qty']\n2";

static PyType_Slot record_slots[] = {
    {Py_tp_doc, (void *)record_doc},
    {Py_tp_new, record_new},
    {Py_tp_dealloc, record_dealloc},
    {Py_tp_traverse, record_traverse},
    {Py_tp_repr, record_repr},
    {Py_tp_hash, record_hash},
    {Py_tp_richcompare, record_compare},
    {Py_tp_getset, record_getset},
    {Py_tp_getattro, record_getattro},
    {Py_tp_methods, record_methods},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "hstreamlite.records.Record",
    .basicsize = sizeof(struct record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = record_slots,
};

static PyMemberDef delivery_members[] = {
    {"attempt", T_UINT, offsetof(struct delivery, attempt), READONLY,
     "1 for the first delivery of the record to its subscription, 2 for the next, and so on."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef delivery_getset[] = {
    {"consumer", get_consumer, NULL, "The consumer that received it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef delivery_methods[] = {
    {"ack", delivery_ack, METH_NOARGS,
     "ack($self, /)\n--\n\nTell the subscription that the record is done.\n\n"
     "Returns nothing, so as to cost nothing: `Consumer.ack` tells what an ack did."},
    {"release", FUNCTION(delivery_release), METH_VARARGS | METH_KEYWORDS,
     "release($self, /, *, after=None, reason=None)\n--\n\n"
     "Give the record back, to be delivered again: after so many seconds, or by the back-off.\n\n"
     "After its last attempt it becomes a dead letter, with the reason."},
    {"extend", FUNCTION(delivery_extend), METH_VARARGS | METH_KEYWORDS,
     "extend($self, /, *, by)\n--\n\nHold the record so many seconds longer before it is resent."},
    {NULL, NULL, 0, NULL},
};

static const char delivery_doc[] =
    "A record as handed to a consumer: ack it, release it or hold it longer.\n\n"
    "Made by consumers only. A pickled delivery is the plain record: the lease stays here.";

static PyType_Slot delivery_slots[] = {
    {Py_tp_doc, (void *)delivery_doc},
    {Py_tp_dealloc, record_dealloc},
    {Py_tp_traverse, delivery_traverse},
    {Py_tp_clear, delivery_clear},
    {Py_tp_getattro, PyObject_GenericGetAttr},
    {Py_tp_members, delivery_members},
    {Py_tp_getset, delivery_getset},
    {Py_tp_methods, delivery_methods},
    {0, NULL},
};

static PyType_Spec delivery_spec = {
    .name = "hstreamlite.records.Delivery",
    .basicsize = sizeof(struct delivery),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = delivery_slots,
};

static int import_time(void)
{
    PyObject *datetime = PyImport_ImportModule("datetime"), *timezone, *utc = NULL;
    if (datetime == NULL)
        return -1;
    timedelta_type = PyObject_GetAttrString(datetime, "timedelta");
    timezone = PyObject_GetAttrString(datetime, "timezone");
    if (timezone != NULL)
        utc = PyObject_GetAttrString(timezone, "utc");
    if (utc != NULL)
        epoch = PyObject_CallMethod(datetime, "datetime", "iiiiiiiO", 1970, 1, 1, 0, 0, 0, 0, utc);
    Py_XDECREF(utc);
    Py_XDECREF(timezone);
    Py_DECREF(datetime);
    return timedelta_type != NULL && epoch != NULL ? 0 : -1;
}

static int make_types(void)
{
    PyObject *bases;
    record_type = (PyTypeObject *)PyType_FromSpec(&record_spec);
    if (record_type == NULL)
        return -1;
    bases = PyTuple_Pack(1, (PyObject *)record_type);
    if (bases == NULL)
        return -1;
    delivery_type = (PyTypeObject *)PyType_FromSpecWithBases(&delivery_spec, bases);
    Py_DECREF(bases);
    return delivery_type != NULL ? 0 : -1;
}

int hsl_py_records_install(PyObject *module)
{
    name_ack = PyUnicode_InternFromString("_ack");
    name_acked = PyUnicode_InternFromString("_acked");
    name_release = PyUnicode_InternFromString("_release");
    name_extend = PyUnicode_InternFromString("_extend");
    name_payload = PyUnicode_InternFromString("payload");
    name_id = PyUnicode_InternFromString("id");
    if (name_ack == NULL || name_acked == NULL || name_release == NULL || name_extend == NULL ||
        name_payload == NULL || name_id == NULL)
        return -1;
    if (import_time() < 0 || make_types() < 0 || hsl_py_record_id_install(module) < 0 ||
        PyModule_AddObjectRef(module, "Record", (PyObject *)record_type) < 0 ||
        PyModule_AddObjectRef(module, "Delivery", (PyObject *)delivery_type) < 0)
        return -1; /* not reached: Python lacks memory */
    return 0;
}
