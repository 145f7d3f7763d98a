/* Joints between the files that include Python.h (py_*.c); nothing else may include it. */
#ifndef HSL_PY_H
#define HSL_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#include "hsl.h"

#define PyMem_Realloc(memory, size) (hsl_alloc_fails() ? NULL : (PyMem_Realloc)(memory, size))
#define PyMem_Calloc(count, size) (hsl_alloc_fails() ? NULL : (PyMem_Calloc)(count, size))

/* Each py_*.c adds its types and functions to the module; 0, or -1 with an exception set. */
int hsl_py_records_install(PyObject *module);
int hsl_py_codec_install(PyObject *module);
int hsl_py_ack_install(PyObject *module);
int hsl_py_keytab_install(PyObject *module);
int hsl_py_log_install(PyObject *module);
int hsl_py_cursor_install(PyObject *module);
int hsl_py_wire_install(PyObject *module);
int hsl_py_signal_install(PyObject *module);

/* Is it so many arguments? A TypeError if not. */
static inline int hsl_py_takes(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given != wanted)
        PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", name, wanted, given);
    return given == wanted;
}

/* Arguments that are numbers; -1 with an exception where one is not. */
static inline int hsl_py_u64s(PyObject *const *args, Py_ssize_t n, uint64_t *out)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        out[i] = PyLong_AsUnsignedLongLong(args[i]);
        if (out[i] == (uint64_t)-1 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* An argument that is a number; false with an exception where it is none. */
static inline bool hsl_py_get_u64(PyObject *o, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(o);
    return !(*out == (uint64_t)-1 && PyErr_Occurred());
}

/* The object whose address an argument is, which the caller keeps alive; NULL: an exception. */
static inline void *hsl_py_handle(PyObject *o)
{
    uint64_t v;
    return hsl_py_get_u64(o, &v) ? (void *)(uintptr_t)v : NULL;
}

/* What the attribute `address` of an owner says; NULL with an exception where it has none. */
static inline void *hsl_py_address(PyObject *owner)
{
    PyObject *address = PyObject_GetAttrString(owner, "address");
    void *found = address ? (void *)(uintptr_t)PyLong_AsUnsignedLongLong(address) : NULL;
    Py_XDECREF(address);
    return PyErr_Occurred() ? NULL : found;
}

/* ---- what was installed from Python: py_log.c ---- */

/* Sets the exception of a status. who: a Journal or Cursor, or the address of a log as an int. */
void hsl_py_raise(PyObject *who, int status, uint64_t a, uint64_t b);
/* A payload as new bytes; NULL with an exception. */
PyObject *hsl_py_decompress(uint8_t codec, const char *payload, size_t len, uint32_t decoded_len);

/* ---- lists of bytes: py_list.c ---- */

void hsl_py_list_install(void);
/* The payloads of a list, which are borrowed from it; false if it holds something else. */
bool hsl_py_list_run(PyObject *list, struct hsl_payload *run, size_t count);
/* What its records will take, encoded, if those that are looked at are among the longest; 0 if one
 * of them is something else. */
size_t hsl_py_list_guess(PyObject *list, size_t count, size_t key_len);
/* Writes the records of a list that was guessed, as hsl_codec_encode_run would; NULL if they take
 * more than that, or one is something else. */
uint8_t *hsl_py_list_encode(PyObject *list, size_t count, uint8_t *out, size_t room,
                            const uint8_t *key, size_t key_len);

/* ---- record ids: py_record_id.c ---- */

int hsl_py_record_id_install(PyObject *module);
PyObject *hsl_py_record_id(uint64_t shard, uint64_t batch, uint32_t index);
Py_hash_t hsl_py_record_id_hash(uint64_t shard, uint64_t lsn);
/* Converters for PyArg_Parse "O&": a uint64_t or uint32_t, ValueError outside its range. */
int hsl_py_u64(PyObject *o, void *out);
int hsl_py_u32(PyObject *o, void *out);

/* Acks runs of a key table, as bytes; UNKNOWN in the flags, and nothing done, if any record is
 * unknown. 0, or -1 with an exception. */
int hsl_py_ack_runs(struct hsl_ackmap *map, PyObject *runs, struct hsl_ack_counts *counts);
void hsl_py_ack_key_runs(struct hsl_ackmap *map, const struct hsl_key_run *runs, size_t count,
                         struct hsl_ack_counts *counts);

/* A piece of stored progress, as sub/checkpoint.py says: a delta of one entry, with what was handed
 * out, merged, where that is listed (NULL: it is not). */
#define HSL_PIECE_BYTES(runs, handed) (58u + 8u * (runs) + 12u * (handed))
uint8_t *hsl_ack_piece(uint8_t *out, uint64_t shard, uint64_t generation,
                       const struct hsl_ack_state *state, const struct hsl_ack_run *runs, size_t n,
                       const struct hsl_key_run *handed, size_t handed_len);
/* What is drained of a map as a piece, with runs that were handed out. As (bytes, low, next), or
 * NULL with an exception. */
PyObject *hsl_py_drain_piece(struct hsl_ackmap *map, uint64_t shard, uint64_t generation,
                             const struct hsl_key_run *handed, size_t handed_len);
#define HSL_PY_PIECE_RUNS 8192

/* ---- storing acks: py_saver.c ---- */

int hsl_py_saver_install(PyObject *module);
/* Stages what was acked; 0 where the group has to be asked, and nothing was done. */
int hsl_py_save(struct hsl_ackmap *map);

/* ---- gates of acks: py_gate.c ---- */

int hsl_py_gate_install(PyObject *module);
/* Borrowed: the consumer of a gate, which may be gone (NULL); what is no gate comes back. */
PyObject *hsl_py_gate_consumer(PyObject *owner);
/* Acks a record through the owner of its delivery: flags of hsl_ackmap_ack, and in *answer,
 * borrowed, what to return. -1 where there is no way through, and nothing was done. */
int hsl_py_gate_ack(PyObject *owner, uint64_t shard, uint64_t lsn, PyObject **answer);
/* May the consumer of a gate take records? It must be open, and the consumer attached. */
int hsl_py_gate_takes(PyObject *owner);
/* Counts records that it took, and notes the time. */
void hsl_py_gate_took(PyObject *owner, uint64_t records, int64_t now);

/* ---- where records are taken: py_hatch.c ---- */

int hsl_py_hatch_install(PyObject *module);
int hsl_py_keyhatch_install(PyObject *module);

/* ---- JSON payloads: py_json.c ---- */

/* bytes of a google.protobuf.Struct; ValueError or TypeError where it cannot hold the value. */
PyObject *hsl_py_json_encode(PyObject *dict);
/* A new dict; NULL without an exception when the bytes are no Struct. */
PyObject *hsl_py_json_decode(const uint8_t *data, size_t len);

/* ---- what users hand over: py_content.c ---- */

/* A payload as bytes, and in *raw whether they are the user's own. */
PyObject *hsl_py_payload(PyObject *o, int *raw);
/* UTF-8 of a str; what names it in the ValueError for surrogates. */
const char *hsl_py_utf8(PyObject *text, const char *what, size_t *len);
/* UTF-8 of a key argument, owned by the str; None and "" give length 0. 0, or -1 with an error. */
int hsl_py_key(PyObject *key, const char **utf8, size_t *len);
/* In *attrs the encoded attributes, or NULL if there are none; 0, or -1 with an exception. */
int hsl_py_attributes(PyObject *o, PyObject **attrs);
/* Calls hstreamlite.typed, which is loaded when it is first needed. */
PyObject *hsl_py_typed(const char *name, PyObject *first, PyObject *second);

/* ---- records: py_records.c ---- */

/* Fills ref from an item to append: a Record, or the payload of one. A record without key takes the
 * default key. 0, or -1 with an exception. *keep is NULL or a new reference; ref is valid while
 * item, the default key and *keep live. Of a bytearray or memoryview the bytes are copied. */
int hsl_py_record_ref(PyObject *item, const char *default_key, size_t default_key_len,
                      struct hsl_record_ref *ref, PyObject **keep);

#define HSL_PY_ALL UINT32_MAX

/* Where in a body decoding stands: a record, and where that begins. */
struct hsl_py_place {
    uint32_t index;
    size_t at;
};
/* Records first..first+count-1 of a body (HSL_PY_ALL: to its end), as Record, or with an owner as
 * Delivery. They are appended to the list given, or to a new one; a reference to it is returned.
 * *place, which is not behind the first, moves behind the last. append_ms 0 is unknown. ValueError
 * when the body is malformed up to the last record asked for or holds fewer; then the list is as
 * before. */
PyObject *hsl_py_decode(const uint8_t *body, size_t len, struct hsl_py_place *place,
                        uint64_t shard, uint64_t batch, uint32_t first, uint32_t count,
                        uint64_t append_ms, PyObject *owner, uint32_t attempt, PyObject *list);
/* -1, with the ValueError for a body that is malformed at pos (got < 0), or holds too few. */
int hsl_py_bad_batch(int got, uint64_t shard, uint64_t batch, const uint8_t *body, size_t len,
                     const uint8_t *pos, uint64_t wanted);

/* ---- excerpts: py_excerpt.c ---- */

int hsl_py_excerpt_install(PyObject *module);
/* An empty excerpt. */
PyObject *hsl_py_excerpt(void);
int hsl_py_is_excerpt(PyObject *o);
uint32_t hsl_py_excerpt_count(PyObject *excerpt);
/* As hsl_py_decode, but the records are copied to the end of an excerpt; 0, or -1. */
int hsl_py_excerpt_add(PyObject *excerpt, const uint8_t *body, size_t len,
                       struct hsl_py_place *place, uint64_t shard, uint64_t batch, uint32_t first,
                       uint32_t count, uint64_t append_ms, uint32_t attempt);
/* Appends copies of records of another excerpt, as the given attempt; 0, or -1 with an exception:
 * then it is of no use any more. */
int hsl_py_excerpt_copy(PyObject *to, PyObject *from, uint32_t first, uint32_t end,
                        uint32_t attempt);
/* Makes room for so many records and bytes more; 0, or -1 with an exception. */
int hsl_py_excerpt_reserve(PyObject *excerpt, size_t records, size_t bytes);
/* Bytes of all its records. */
size_t hsl_py_excerpt_bytes(PyObject *excerpt);

/* ---- batches of deliveries: py_batch.c ---- */

int hsl_py_batch_install(PyObject *module);
/* Records of an excerpt from first to before end, which it has, as a batch of deliveries. */
PyObject *hsl_py_excerpt_batch(PyObject *excerpt, uint32_t first, uint32_t end, PyObject *owner);
/* How many runs the records of a batch of deliveries are, which are written then; 0 where it is
 * none, there are more than cap, or it is known no more. */
size_t hsl_py_batch_runs(PyObject *batch, uint64_t *shard, struct hsl_key_run *runs, size_t cap);

#endif
