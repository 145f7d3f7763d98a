/* Saver: stores the acks of one shard of a subscription as they come, without Python code between.
 *
 * The group arms the saver when it has stored something itself. From then on the ack that makes
 * the number full which is to be stored at once stages them, with nothing else: what a shard has to
 * tell besides waits for the group. While it is not armed, or finds no room, the caller goes the
 * way through the group. It is disarmed while the group stores, or wants to hear of acks.
 *
 * As with the functions of py_ack.c, the GIL is held from entry to return, and no Python code runs.
 */
#include "hsl_py.h"
#include "log.h"

#include <string.h>

#define RUNS_MAX 1024u
#define HANDED_MAX 2048u
#define PREFIX 8u

struct saver {
    PyObject_HEAD
    PyObject *acks;  /* keeps the map alive */
    PyObject *table; /* the same of `keys`; or NULL */
    struct hsl_keytab *keys; /* what was handed out there is stored, too; or NULL */
    struct hsl_ackmap *map;
    struct hsl_log *log;
    uint64_t to;           /* the log's shard for progress */
    uint64_t subscription; /* what a piece begins with there */
    uint64_t shard, generation, low, next;
    bool armed;
};

/* Stages one record; false, and nothing done, where that would have to wait. */
static bool stage(const struct saver *v, const uint8_t *data, size_t len)
{
    struct hsl_record_ref ref = {.payload = data, .payload_len = len, .raw = 1};
    size_t body = hsl_codec_size(&ref);
    if (hsl_stage_begin(v->log, hsl_block_bytes(body), 1, HSL_STAGE_TRY | HSL_STAGE_SYSTEM) !=
        HSL_OK)
        return false;
    struct hsl_shard *shard = hsl_shard_get(v->log, v->to);
    uint64_t seq;
    bool safe;
    hsl_meter_append(v->log, shard, len, 1);
    uint8_t *to = hsl_stage_block(v->log, shard, 0, 1, (uint32_t)body, (uint32_t)body, &seq);
    hsl_codec_encode(to, &ref);
    hsl_stage_commit(v->log, 0, false, &safe);
    return true;
}

int hsl_py_save(struct hsl_ackmap *map)
{
    struct saver *v = hsl_ackmap_saver(map);
    struct hsl_ack_run runs[RUNS_MAX];
    uint8_t piece[PREFIX + HSL_PIECE_BYTES(RUNS_MAX, HANDED_MAX)], *out = piece;
    const struct hsl_key_run *handed = NULL;
    struct hsl_ack_state s;
    if (!v || !v->armed)
        return 0;
    hsl_ackmap_state(map, &s);
    size_t out_since = v->keys ? hsl_keytab_handed(v->keys, s.low, &handed) : 0;
    if ((s.held > 0 && !v->keys) || s.acked_since >= RUNS_MAX || out_since > HANDED_MAX)
        return 0;
    size_t n = hsl_ackmap_unsaved(map, runs, RUNS_MAX);
    for (unsigned at = 0; at < PREFIX; at++)
        *out++ = (uint8_t)(v->subscription >> 8 * at);
    out = hsl_ack_piece(out, v->shard, v->generation, &s, runs, n, handed, out_since);
    if (!stage(v, piece, (size_t)(out - piece)))
        return 0;
    hsl_ackmap_drain(map, runs, RUNS_MAX);
    if (v->keys)
        hsl_keytab_told(v->keys);
    v->low = s.low;
    v->next = s.next;
    return 1;
}

/* ---- methods ---- */

static PyObject *saver_arm(PyObject *self, PyObject *args)
{
    struct saver *v = (struct saver *)self;
    unsigned long long generation, low, next;
    PyObject *table = Py_None, *before = v->table;
    void *keys = NULL;
    if (!PyArg_ParseTuple(args, "KKK|O:arm", &generation, &low, &next, &table))
        return NULL;
    if (table != Py_None && !(keys = hsl_py_address(table)))
        return NULL;
    v->table = table != Py_None ? Py_NewRef(table) : NULL;
    v->keys = keys;
    v->generation = generation;
    v->low = low;
    v->next = next;
    v->armed = true;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *saver_disarm(PyObject *self, PyObject *unused)
{
    struct saver *v = (struct saver *)self;
    (void)unused;
    if (!v->armed)
        Py_RETURN_NONE;
    v->armed = false;
    return Py_BuildValue("(KKK)", (unsigned long long)v->generation, (unsigned long long)v->low,
                         (unsigned long long)v->next);
}

static PyObject *saver_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"acks", "shard", "log", "to", "subscription", NULL};
    unsigned long long shard, log, to, subscription;
    PyObject *acks;
    struct saver *v;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKKKK:Saver", names, &acks, &shard, &log, &to,
                                     &subscription))
        return NULL;
    struct hsl_ackmap *map = hsl_py_address(acks);
    if (PyErr_Occurred())
        return NULL;
    v = (struct saver *)PyType_GenericAlloc(type, 0);
    if (v) {
        v->acks = Py_NewRef(acks);
        v->map = map;
        v->shard = shard;
        v->log = (struct hsl_log *)(uintptr_t)log;
        v->to = to;
        v->subscription = subscription;
    }
    if (v)
        hsl_ackmap_save_by(v->map, v);
    return (PyObject *)v;
}

static void saver_dealloc(PyObject *self)
{
    struct saver *v = (struct saver *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (v->map && hsl_ackmap_saver(v->map) == v)
        hsl_ackmap_save_by(v->map, NULL);
    Py_XDECREF(v->acks);
    Py_XDECREF(v->table);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---- type ---- */

static PyMethodDef saver_methods[] = {
    {"arm", saver_arm, METH_VARARGS,
     "arm($self, generation, low, next, table=None, /)\n--\n\n"
     "Let acks be stored here, that are new since progress was stored with these, and what is\n"
     "handed out of a key table."},
    {"disarm", saver_disarm, METH_NOARGS,
     "disarm($self, /)\n--\n\n"
     "Store nothing from now on; return what `arm` would be called with now, None if it was not."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot saver_slots[] = {
    {Py_tp_doc, (void *)"Saver(acks, shard, log, to, subscription)\n--\n\n"
                        "Stores the acks of a shard in a log, which has to be open while it is "
                        "armed and anybody acks."},
    {Py_tp_new, saver_new},
    {Py_tp_dealloc, saver_dealloc},
    {Py_tp_methods, saver_methods},
    {0, NULL},
};

static PyType_Spec saver_spec = {
    .name = "hstreamlite._native.Saver",
    .basicsize = sizeof(struct saver),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = saver_slots,
};

int hsl_py_saver_install(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&saver_spec);
    int rc = type ? PyModule_AddObjectRef(module, "Saver", type) : -1;
    Py_XDECREF(type);
    return rc;
}
