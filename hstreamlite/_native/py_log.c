/* Fast functions over struct hsl_log: staging records, and waiting for them.
 *
 * Handles come as integers: the address of the C object, which the caller keeps alive. The GIL
 * is kept for work in memory and given up before any wait for the disk or for room:
 * hsl_stage_begin is tried, and what may block runs in hsl_stage_room without the GIL. Locks that
 * are held for microseconds are waited for with it.
 * Failures become exceptions through one factory, installed from Python.
 */
#include "hsl_py.h"
#include "log.h"

#include <stdlib.h>
#include <string.h>

#define WAIT_SLICE_NS 100000000
#define SYSTEM_BLOCK (1u << 20)

enum level { LEVEL_MEMORY = 0, LEVEL_OS = 1, LEVEL_SYNC = 2 };

static PyObject *error_factory;
static PyObject *decompressor;

void hsl_py_raise(PyObject *who, int status, uint64_t a, uint64_t b)
{
    PyObject *error = PyObject_CallFunction(error_factory, "OiKK", who, status,
                                            (unsigned long long)a, (unsigned long long)b);
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

PyObject *hsl_py_decompress(uint8_t codec, const char *payload, size_t len, uint32_t decoded_len)
{
    return PyObject_CallFunction(decompressor, "iy#I", (int)codec, payload, (Py_ssize_t)len,
                                 (unsigned)decoded_len);
}

static PyObject *raise_status(void *handle, int status, uint64_t a, uint64_t b)
{
    PyObject *at = PyLong_FromUnsignedLongLong((uintptr_t)handle);
    if (at)
        hsl_py_raise(at, status, a, b);
    Py_XDECREF(at);
    return NULL;
}

static bool get_int(PyObject *o, int *out)
{
    *out = (int)PyLong_AsLong(o);
    return !(*out == -1 && PyErr_Occurred());
}

/* Waits without the GIL, in slices so that a signal handler can raise. 0, or -1 with an error. */
static int wait_ticket(struct hsl_log *log, uint64_t ticket)
{
    int rc;
    do {
        Py_BEGIN_ALLOW_THREADS;
        rc = hsl_log_wait(log, ticket, WAIT_SLICE_NS);
        Py_END_ALLOW_THREADS;
        if (rc == HSL_TIMEOUT && PyErr_CheckSignals() < 0)
            return -1;
    } while (rc == HSL_TIMEOUT);
    if (rc != HSL_OK) {
        raise_status(log, rc, ticket, 0);
        return -1;
    }
    return 0;
}

enum waiting { WAIT_NOT = 0, WAIT_LEVEL = 1, WAIT_NEVER = 2 };

/* What a `wait` argument says: True waits for the level, False for room only, None for nothing. */
static enum waiting waiting_of(PyObject *o)
{
    return o == Py_None ? WAIT_NEVER : o == Py_True ? WAIT_LEVEL : WAIT_NOT;
}

struct call;
static int pin(struct call *call);

/* 0 with the stage locked, 1 if it would have to wait and may not, -1 with an error. */
static int begin(struct hsl_log *log, size_t bytes, uint32_t blocks, int flags,
                 enum waiting waiting, struct call *call)
{
    for (;;) {
        int rc = hsl_stage_begin(log, bytes, blocks, flags | HSL_STAGE_TRY);
        if (rc == HSL_OK)
            return 0;
        if (rc == HSL_AGAIN && waiting == WAIT_NEVER)
            return 1;
        if (rc == HSL_AGAIN) {
            if (call && pin(call) < 0)
                return -1;
            Py_BEGIN_ALLOW_THREADS;
            rc = hsl_stage_room(log, bytes, blocks, flags);
            Py_END_ALLOW_THREADS;
        }
        if (rc != HSL_OK) {
            raise_status(log, rc, bytes, 0);
            return -1;
        }
    }
}

/* Reaches the level asked for; *ticket becomes 0 when nothing is left to wait for. */
static int settle(struct hsl_log *log, int level, bool safe, bool wait, uint64_t *ticket)
{
    if (level == LEVEL_MEMORY || (level == LEVEL_OS && safe))
        *ticket = 0;
    if (*ticket == 0 || !wait)
        return 0;
    return wait_ticket(log, *ticket);
}

/* (object, ticket); takes over the object. */
static PyObject *with_ticket(PyObject *object, uint64_t ticket)
{
    PyObject *number = PyLong_FromUnsignedLongLong(ticket);
    PyObject *pair = number ? PyTuple_Pack(2, object, number) : NULL;
    Py_XDECREF(number);
    Py_DECREF(object);
    return pair;
}

/* append(log, shard, item, key, level, wait) -> RecordId, or (RecordId, ticket) if wait is not
 * True; None if wait is None and it would have to */
static PyObject *py_append(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t shard_id;
    if (!hsl_py_takes("append", nargs, 6))
        return NULL;
    struct hsl_log *log = hsl_py_handle(args[0]);
    if (!log || !hsl_py_get_u64(args[1], &shard_id))
        return NULL;
    const char *key;
    size_t key_len;
    int level;
    if (hsl_py_key(args[3], &key, &key_len) < 0 || !get_int(args[4], &level))
        return NULL;
    enum waiting waiting = waiting_of(args[5]);
    bool wait = waiting == WAIT_LEVEL;
    struct hsl_record_ref ref;
    PyObject *keep;
    if (hsl_py_record_ref(args[2], key, key_len, &ref, &keep) < 0)
        return NULL;
    PyObject *result = NULL;
    bool staged = false;
    size_t size = hsl_codec_size(&ref);
    if (size > log->cfg.block_bytes) {
        raise_status(log, HSL_TOO_LARGE, size, log->cfg.block_bytes);
        goto out;
    }
    int begun =
        begin(log, hsl_block_bytes(size), 1, level == LEVEL_OS ? HSL_STAGE_OS : 0, waiting, NULL);
    if (begun != 0) {
        result = begun > 0 ? Py_NewRef(Py_None) : NULL;
        goto out;
    }
    struct hsl_shard *shard = hsl_shard_get(log, shard_id);
    if (!shard || shard->closed) {
        hsl_stage_abort(log);
        raise_status(log, HSL_NOT_FOUND, shard_id, 0);
        goto out;
    }
    uint64_t first;
    uint32_t index = 0;
    uint8_t *payload = hsl_stage_extend(log, shard, (uint32_t)size, false, &first, &index);
    if (!payload) {
        payload = hsl_stage_block(log, shard, 0, 1, (uint32_t)size, (uint32_t)size, &first);
        log->last_block = payload - sizeof(struct hsl_block_header);
        log->last_shard = shard;
    }
    hsl_meter_append(log, shard, size, 1);
    staged = true;
    uint64_t copied = hsl_stage_copy(log, size);
    hsl_codec_encode(payload, &ref);
    bool safe;
    uint64_t ticket = hsl_stage_commit(log, copied, wait && level == LEVEL_SYNC, &safe);
    if (settle(log, level, safe, wait, &ticket) < 0)
        goto out;
    result = hsl_py_record_id(shard_id, first, index);
    if (result && !wait)
        result = with_ticket(result, ticket);
out:
    if (!result)
        hsl_meter_failed(log, shard_id, staged);
    Py_XDECREF(keep);
    return result;
}

/* record_bytes(item) -> what a record takes in the body of a block */
static PyObject *py_record_bytes(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct hsl_record_ref ref;
    PyObject *keep;
    if (!hsl_py_takes("record_bytes", nargs, 1))
        return NULL;
    if (hsl_py_record_ref(args[0], "", 0, &ref, &keep) < 0)
        return NULL;
    size_t size = hsl_codec_size(&ref);
    Py_XDECREF(keep);
    return PyLong_FromSize_t(size);
}

struct op { /* one shard's part of a call */
    uint64_t shard;
    PyObject *items;         /* list of records, or NULL for a ready body */
    struct hsl_payload *run; /* the records, if all are bytes; they are borrowed from the list */
    PyObject *pinned;        /* what holds them while others may change the list, or NULL */
    struct hsl_record_ref *refs; /* the records, if not; each keeps what it points into */
    PyObject **keep;
    const char *key;
    size_t key_len;
    size_t count;
    size_t bytes;        /* of all records */
    size_t limit;        /* bytes of one block of this shard */
    int codec;
    const uint8_t *body;
    size_t body_len;
    uint32_t decoded_len;
    size_t firsts;       /* so many u64 at the body's end take the first LSNs of the call's ops */
    uint64_t first;      /* LSN of the op's first record, once staged */
};

struct call {
    struct op *ops;
    size_t count;
    size_t bytes, user_bytes; /* user_bytes: without the store's own records */
    uint32_t blocks;
};

static void free_call(struct call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        struct op *op = &call->ops[i];
        for (size_t j = 0; op->keep && j < op->count; j++)
            Py_XDECREF(op->keep[j]);
        free(op->keep);
        free(op->refs);
        Py_XDECREF(op->pinned);
        free(op->run);
    }
    free(call->ops);
}

/* Takes references to what is borrowed from lists that others may change meanwhile: 0, or -1. */
static int pin(struct call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        struct op *op = &call->ops[i];
        if (op->run && !op->pinned &&
            !(op->pinned = PyList_GetSlice(op->items, 0, (Py_ssize_t)op->count)))
            return -1;
    }
    return 0;
}

static size_t record_bytes(const struct op *op, size_t at)
{
    size_t largest;
    if (op->run)
        return hsl_codec_run_size(&op->run[at], 1, op->key_len, &largest);
    return hsl_codec_size(&op->refs[at]);
}

/* Records of one block, from `from`: as many as fit the limit. */
static size_t block_end(const struct op *op, size_t from, size_t *body)
{
    size_t at = from;
    if (from == 0 && op->bytes <= op->limit) {
        *body = op->bytes;
        return op->count;
    }
    *body = 0;
    while (at < op->count) {
        size_t size = record_bytes(op, at);
        if (at > from && *body + size > op->limit)
            break;
        *body += size;
        at++;
    }
    return at;
}

/* Fills op->run: 1, or 0 if the list holds something else than bytes, or -1. */
static int plan_run(struct op *op, size_t *largest)
{
    op->run = malloc((op->count + 1) * sizeof *op->run);
    if (!op->run) {
        PyErr_NoMemory();
        return -1;
    }
    if (!hsl_py_list_run(op->items, op->run, op->count)) {
        free(op->run);
        op->run = NULL;
        return 0;
    }
    op->bytes = hsl_codec_run_size(op->run, op->count, op->key_len, largest);
    return 1;
}

static int plan_refs(struct op *op, size_t *largest)
{
    op->refs = malloc((op->count + 1) * sizeof *op->refs);
    op->keep = calloc(op->count + 1, sizeof *op->keep);
    if (!op->refs || !op->keep) {
        PyErr_NoMemory();
        return -1;
    }
    *largest = 0;
    for (size_t i = 0; i < op->count; i++) {
        PyObject *item = PyList_GetItem(op->items, (Py_ssize_t)i);
        if (!item || hsl_py_record_ref(item, op->key, op->key_len, &op->refs[i], &op->keep[i]) < 0)
            return -1;
        if (!op->keep[i])
            op->keep[i] = Py_NewRef(item);
        size_t size = hsl_codec_size(&op->refs[i]);
        op->bytes += size;
        *largest = size > *largest ? size : *largest;
    }
    return 0;
}

static int plan_items(struct hsl_log *log, struct call *call, struct op *op, PyObject *key)
{
    size_t largest;
    if (hsl_py_key(key, &op->key, &op->key_len) < 0)
        return -1;
    op->count = (size_t)PyList_Size(op->items);
    int plain = plan_run(op, &largest);
    if (plain < 0 || (plain == 0 && plan_refs(op, &largest) < 0))
        return -1;
    if (largest > op->limit) {
        size_t at = 0;
        while (record_bytes(op, at) <= op->limit)
            at++;
        raise_status(log, HSL_TOO_LARGE, record_bytes(op, at), op->limit);
        return -1;
    }
    for (size_t at = 0; at < op->count;) {
        size_t body;
        at = block_end(op, at, &body);
        call->bytes += hsl_block_bytes(body);
        call->blocks++;
    }
    return 0;
}

static int plan_body(struct hsl_log *log, struct call *call, struct op *op, PyObject *tuple)
{
    uint64_t count, decoded;
    char *body;
    Py_ssize_t len;
    if (!get_int(PyTuple_GetItem(tuple, 1), &op->codec) ||
        PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, 2), &body, &len) < 0 ||
        !hsl_py_get_u64(PyTuple_GetItem(tuple, 3), &count) ||
        !hsl_py_get_u64(PyTuple_GetItem(tuple, 4), &decoded))
        return -1;
    op->body = (const uint8_t *)body;
    op->body_len = (size_t)len;
    op->count = count;
    op->decoded_len = decoded > UINT32_MAX ? 0 : (uint32_t)decoded;
    if (PyTuple_Size(tuple) == 6) {
        uint64_t firsts;
        if (!hsl_py_get_u64(PyTuple_GetItem(tuple, 5), &firsts))
            return -1;
        if (firsts > call->count || firsts * 8 > op->body_len) {
            PyErr_SetString(PyExc_ValueError, "more LSNs asked for than there are ops or room");
            return -1;
        }
        op->firsts = firsts;
    }
    if (op->body_len > op->limit || count == 0 || count > UINT32_MAX) {
        raise_status(log, HSL_TOO_LARGE, op->body_len, op->limit);
        return -1;
    }
    call->bytes += hsl_block_bytes(op->body_len);
    call->blocks++;
    return 0;
}

/* ops: list of (shard, list of items, key) or (shard, codec, body, count, decoded length), the
 * latter with an optional number of LSNs to fill in */
static int plan(struct hsl_log *log, struct call *call, PyObject *ops)
{
    Py_ssize_t count = PyList_Size(ops);
    if (count < 0)
        return -1;
    call->ops = calloc((size_t)count + 1, sizeof *call->ops);
    if (!call->ops) {
        PyErr_NoMemory();
        return -1;
    }
    call->count = (size_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *tuple = PyList_GetItem(ops, i);
        Py_ssize_t fields = PyTuple_Check(tuple) ? PyTuple_Size(tuple) : 0;
        struct op *op = &call->ops[i];
        if (fields != 3 && fields != 5 && fields != 6) {
            PyErr_SetString(PyExc_TypeError, "an op is a tuple of 3, 5 or 6");
            return -1;
        }
        if (!hsl_py_get_u64(PyTuple_GetItem(tuple, 0), &op->shard))
            return -1;
        /* The limits are the user's: the store's own records have to fit whatever they are. */
        op->limit = log->cfg.block_bytes;
        if (op->shard >= HSL_SYSTEM && op->limit < SYSTEM_BLOCK)
            op->limit = SYSTEM_BLOCK;
        size_t before = call->bytes;
        int rc;
        if (fields == 3) {
            op->items = PyTuple_GetItem(tuple, 1);
            rc = plan_items(log, call, op, PyTuple_GetItem(tuple, 2));
        } else {
            rc = plan_body(log, call, op, tuple);
        }
        if (rc < 0)
            return -1;
        if (op->shard < HSL_SYSTEM)
            call->user_bytes += call->bytes - before;
    }
    if (call->user_bytes > log->cfg.transaction_bytes) {
        raise_status(log, HSL_TOO_LARGE, call->user_bytes, log->cfg.transaction_bytes);
        return -1;
    }
    return 0;
}

static int add_run(PyObject *runs, uint64_t shard, uint64_t first, size_t count)
{
    PyObject *run = Py_BuildValue("(KKn)", (unsigned long long)shard, (unsigned long long)first,
                                  (Py_ssize_t)count);
    int rc = run ? PyList_Append(runs, run) : -1;
    Py_XDECREF(run);
    return rc;
}

struct placed {
    uint64_t first;
    size_t count;
    uint8_t *payload;
};

/* Gives the blocks of an op their places. */
static void place_op(struct hsl_log *log, struct op *op, struct placed **placed)
{
    struct hsl_shard *shard = hsl_shard_get(log, op->shard);
    op->first = shard->next;
    hsl_meter_append(log, shard, op->items ? op->bytes : op->body_len, op->count);
    if (!op->items) {
        struct placed *p = (*placed)++;
        p->payload = hsl_stage_block(log, shard, op->codec, (uint32_t)op->count,
                                     (uint32_t)op->body_len, op->decoded_len, &p->first);
        p->count = op->count;
        return;
    }
    for (size_t at = 0; at < op->count;) {
        struct placed *p = (*placed)++;
        size_t body, end = block_end(op, at, &body);
        p->payload = hsl_stage_block(log, shard, 0, (uint32_t)(end - at), (uint32_t)body,
                                     (uint32_t)body, &p->first);
        p->count = end - at;
        at = end;
    }
}

static void fill_op(const struct call *call, const struct op *op, const struct placed **placed)
{
    if (!op->items) {
        uint8_t *payload = (*placed)++->payload;
        memcpy(payload, op->body, op->body_len);
        for (size_t i = 0; i < op->firsts; i++)
            memcpy(payload + op->body_len - 8 * (op->firsts - i), &call->ops[i].first, 8);
        return;
    }
    for (size_t at = 0; at < op->count;) {
        const struct placed *p = (*placed)++;
        uint8_t *payload = p->payload;
        if (op->run)
            hsl_codec_encode_run(payload, op->run + at, p->count, (const uint8_t *)op->key,
                                 op->key_len);
        for (size_t i = at; op->refs && i < at + p->count; i++)
            payload = hsl_codec_encode(payload, &op->refs[i]);
        at += p->count;
    }
}

/* Writes all blocks and ends the call. */
static uint64_t encode(struct hsl_log *log, struct call *call, struct placed *placed, bool waits,
                       bool *safe)
{
    struct placed *next = placed;
    for (size_t i = 0; i < call->count; i++)
        place_op(log, &call->ops[i], &next);
    uint64_t copied = hsl_stage_copy(log, call->bytes);
    const struct placed *filled = placed;
    for (size_t i = 0; i < call->count; i++)
        fill_op(call, &call->ops[i], &filled);
    return hsl_stage_commit(log, copied, waits, safe);
}

static PyObject *make_runs(const struct call *call, const struct placed *placed)
{
    PyObject *runs = PyList_New(0);
    for (size_t i = 0; runs && i < call->count; i++) {
        const struct op *op = &call->ops[i];
        for (size_t done = 0; done < op->count; placed++) {
            if (add_run(runs, op->shard, placed->first, placed->count) < 0) {
                Py_DECREF(runs); /* not reached: Python lacks memory */
                return NULL;     /* not reached: as the line before */
            }
            done += placed->count;
        }
    }
    return runs;
}

/* Encodes the one list of a call while looking at it, if that is of bytes: to look first what they
 * take, and to get them from the caches again, costs more than all else. So that is guessed, and
 * nothing is staged before all of it lies in its place. false: nothing was done. */
static bool stage_list(struct hsl_log *log, PyObject *ops, int flags, bool waits, struct op *op,
                       uint64_t *ticket, bool *safe)
{
    PyObject *tuple = PyList_Check(ops) && PyList_Size(ops) == 1 ? PyList_GetItem(ops, 0) : NULL;
    if (!tuple || !PyTuple_Check(tuple) || PyTuple_Size(tuple) != 3)
        return false;
    op->items = PyTuple_GetItem(tuple, 1);
    if (!hsl_py_get_u64(PyTuple_GetItem(tuple, 0), &op->shard) || !PyList_Check(op->items) ||
        hsl_py_key(PyTuple_GetItem(tuple, 2), &op->key, &op->key_len) < 0) {
        PyErr_Clear(); /* plan says what is wrong */
        return false;
    }
    op->count = (size_t)PyList_Size(op->items);
    size_t room = hsl_py_list_guess(op->items, op->count, op->key_len);
    size_t bytes = hsl_block_bytes(room);
    if (room == 0 || bytes > log->cfg.block_bytes || bytes > log->cfg.transaction_bytes ||
        op->shard >= HSL_SYSTEM ||
        hsl_stage_begin(log, bytes, 1, flags | HSL_STAGE_TRY) != HSL_OK)
        return false;
    struct hsl_shard *shard = hsl_shard_get(log, op->shard);
    uint8_t *body = hsl_stage_next(log), *end = NULL;
    if (shard && !shard->closed && hsl_stage_holds(log, bytes))
        end = hsl_py_list_encode(op->items, op->count, body, room, (const uint8_t *)op->key,
                                 op->key_len);
    if (!end) {
        hsl_stage_abort(log);
        return false;
    }
    op->bytes = (size_t)(end - body);
    hsl_stage_block(log, shard, 0, (uint32_t)op->count, (uint32_t)op->bytes, (uint32_t)op->bytes,
                    &op->first);
    hsl_meter_append(log, shard, op->bytes, op->count);
    *ticket = hsl_stage_commit(log, 0, waits, safe);
    return true;
}

/* stage(log, ops, level, system, wait) -> (ticket, [(shard, first LSN, count), ...]); all of it
 * lies in one frame. The ticket is 0 when the level is reached. wait as for append. */
static PyObject *py_stage(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (!hsl_py_takes("stage", nargs, 5))
        return NULL;
    struct hsl_log *log = hsl_py_handle(args[0]);
    int level;
    if (!log || !get_int(args[2], &level))
        return NULL;
    enum waiting waiting = waiting_of(args[4]);
    bool system = args[3] == Py_True, wait = waiting == WAIT_LEVEL;
    bool waits = wait && level == LEVEL_SYNC;
    int flags = (level == LEVEL_OS ? HSL_STAGE_OS : 0) | (system ? HSL_STAGE_SYSTEM : 0);
    struct call call = {0};
    struct op list = {0};
    uint64_t ticket;
    bool safe, staged = false;
    PyObject *result = NULL;
    struct placed *placed = NULL;
    if (stage_list(log, args[1], flags, waits, &list, &ticket, &safe)) {
        if (settle(log, level, safe, wait, &ticket) == 0)
            result = Py_BuildValue("(K[(KKn)])", (unsigned long long)ticket,
                                   (unsigned long long)list.shard, (unsigned long long)list.first,
                                   (Py_ssize_t)list.count);
        if (!result)
            hsl_meter_failed(log, list.shard, true);
        return result;
    }
    if (plan(log, &call, args[1]) < 0)
        goto out;
    if (call.blocks == 0) {
        result = Py_BuildValue("(K[])", 0ULL);
        goto out;
    }
    placed = malloc(call.blocks * sizeof *placed);
    if (!placed) {
        PyErr_NoMemory();
        goto out;
    }
    int begun = begin(log, call.bytes, call.blocks, flags, waiting, &call);
    if (begun != 0) {
        result = begun > 0 ? Py_NewRef(Py_None) : NULL;
        goto out;
    }
    for (size_t i = 0; i < call.count; i++) {
        const struct hsl_shard *shard = hsl_shard_get(log, call.ops[i].shard);
        if (!shard || shard->closed) {
            hsl_stage_abort(log);
            raise_status(log, HSL_NOT_FOUND, call.ops[i].shard, 0);
            goto out;
        }
    }
    staged = true;
    ticket = encode(log, &call, placed, waits, &safe);
    if (settle(log, level, safe, wait, &ticket) < 0)
        goto out;
    PyObject *runs = make_runs(&call, placed);
    result = runs ? Py_BuildValue("(KN)", (unsigned long long)ticket, runs) : NULL;
out:
    for (size_t i = 0; !result && i < call.count; i++)
        hsl_meter_failed(log, call.ops[i].shard, staged);
    free(placed);
    free_call(&call);
    return result;
}

/* wait(log, ticket): returns when the ticket is durable. */
static PyObject *py_wait(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t ticket;
    struct hsl_log *log = hsl_py_takes("wait", nargs, 2) ? hsl_py_handle(args[0]) : NULL;
    if (!log || !hsl_py_get_u64(args[1], &ticket) || wait_ticket(log, ticket) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* bounds(log, shard) -> first LSN kept, the one behind what is durable, the next to be given; None
 * for a shard that is not known */
static PyObject *py_bounds(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t shard;
    struct hsl_shard_info info;
    struct hsl_log *log = hsl_py_takes("bounds", nargs, 2) ? hsl_py_handle(args[0]) : NULL;
    if (!log || !hsl_py_get_u64(args[1], &shard))
        return NULL;
    if (hsl_log_shard_info(log, shard, &info) != HSL_OK)
        Py_RETURN_NONE;
    return Py_BuildValue("(KKK)", (unsigned long long)info.first,
                         (unsigned long long)info.durable_next, (unsigned long long)info.next);
}

/* The clock of a struct hsl_io, by its address: asked at each delivery. */
static PyObject *py_mono_ns(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (!hsl_py_takes("mono_ns", nargs, 1))
        return NULL;
    struct hsl_io *io = PyLong_AsVoidPtr(args[0]);
    if (!io) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the files have no address");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(io->mono_ns(io->ctx));
}

static PyObject *py_set_hooks(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (!hsl_py_takes("set_hooks", nargs, 2))
        return NULL;
    Py_INCREF(args[0]);
    Py_INCREF(args[1]);
    Py_XDECREF(error_factory);
    Py_XDECREF(decompressor);
    error_factory = args[0];
    decompressor = args[1];
    Py_RETURN_NONE;
}

#define FAST(name, fn) {name, (PyCFunction)(void (*)(void))fn, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    FAST("append", py_append),
    FAST("record_bytes", py_record_bytes),
    FAST("stage", py_stage),
    FAST("wait", py_wait),
    FAST("bounds", py_bounds),
    FAST("mono_ns", py_mono_ns),
    FAST("set_hooks", py_set_hooks),
    {NULL, NULL, 0, NULL},
};

int hsl_py_log_install(PyObject *module)
{
    hsl_py_list_install();
    return PyModule_AddFunctions(module, methods);
}
