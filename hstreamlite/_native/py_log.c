/* Fast functions over struct hsl_log: staging records and reading them back as Python objects.
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
#define AHEAD 24 /* objects of a list that are asked of the memory before they are looked at */
#define CLOSE 64 /* records between two runs that are viewed together */

enum level { LEVEL_MEMORY = 0, LEVEL_OS = 1, LEVEL_SYNC = 2 };

static PyObject *error_factory;
static PyObject *decompressor;

/* who: a Journal or Cursor, or the address of a log as an int. */
static void raise_of(PyObject *who, int status, uint64_t a, uint64_t b)
{
    PyObject *error = PyObject_CallFunction(error_factory, "OiKK", who, status,
                                            (unsigned long long)a, (unsigned long long)b);
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static PyObject *raise_status(void *handle, int status, uint64_t a, uint64_t b)
{
    PyObject *at = PyLong_FromUnsignedLongLong((uintptr_t)handle);
    if (at)
        raise_of(at, status, a, b);
    Py_XDECREF(at);
    return NULL;
}

static bool get_u64(PyObject *o, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(o);
    return !(*out == (uint64_t)-1 && PyErr_Occurred());
}

static bool get_int(PyObject *o, int *out)
{
    *out = (int)PyLong_AsLong(o);
    return !(*out == -1 && PyErr_Occurred());
}

static void *get_handle(PyObject *o)
{
    uint64_t v;
    return get_u64(o, &v) ? (void *)(uintptr_t)v : NULL;
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
    struct hsl_log *log = get_handle(args[0]);
    if (!log || !get_u64(args[1], &shard_id))
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

/* Where a list object points to its items, in pointers from its start; 0 = not known. The stable
 * ABI has a call for each item, which is a tenth of what taking in a short record costs. */
static size_t list_items_at;

static void find_list_items(void)
{
    PyObject *size = PyObject_GetAttrString((PyObject *)&PyList_Type, "__basicsize__");
    PyObject *list = Py_BuildValue("[OO]", Py_None, Py_True);
    /* Count, type and length, the items, and how many have room. */
    if (list && size && PyLong_AsLong(size) == 5 * (long)sizeof(void *)) {
        PyObject **const *fields = (PyObject **const *)(const void *)list;
        if (Py_SIZE(list) == 2 && fields[3][0] == Py_None && fields[3][1] == Py_True)
            list_items_at = 3;
    }
    Py_XDECREF(list);
    Py_XDECREF(size);
    PyErr_Clear();
}

/* Fills op->run: 1, or 0 if the list holds something else than bytes, or -1. Nothing in here lets
 * other code run. */
static int plan_run(struct op *op, size_t *largest)
{
    op->run = malloc((op->count + 1) * sizeof *op->run);
    if (!op->run) {
        PyErr_NoMemory();
        return -1;
    }
    ptrdiff_t inside = 0; /* where a bytes object holds its bytes */
    PyObject **const *fields = (PyObject **const *)(const void *)op->items;
    PyObject **items = list_items_at ? fields[list_items_at] : NULL;
    for (size_t i = 0; i < op->count; i++) {
        /* Mostly none of the objects is in a near cache: they are asked for long before they are
         * looked at, with what a short one holds. */
        if (items && i + AHEAD < op->count) {
            const char *next = (const char *)items[i + AHEAD];
            __builtin_prefetch(next);
            __builtin_prefetch(next + 64);
        }
        PyObject *item = items ? items[i] : PyList_GetItem(op->items, (Py_ssize_t)i);
        if (!PyBytes_CheckExact(item)) {
            free(op->run);
            op->run = NULL;
            return 0;
        }
        if (i == 0)
            inside = PyBytes_AsString(item) - (const char *)item;
        op->run[i].data = (const uint8_t *)item + inside;
        op->run[i].len = (size_t)Py_SIZE(item);
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
        !get_u64(PyTuple_GetItem(tuple, 3), &count) ||
        !get_u64(PyTuple_GetItem(tuple, 4), &decoded))
        return -1;
    op->body = (const uint8_t *)body;
    op->body_len = (size_t)len;
    op->count = count;
    op->decoded_len = decoded > UINT32_MAX ? 0 : (uint32_t)decoded;
    if (PyTuple_Size(tuple) == 6) {
        uint64_t firsts;
        if (!get_u64(PyTuple_GetItem(tuple, 5), &firsts))
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
        if (!get_u64(PyTuple_GetItem(tuple, 0), &op->shard))
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

/* stage(log, ops, level, system, wait) -> (ticket, [(shard, first LSN, count), ...]); all of it
 * lies in one frame. The ticket is 0 when the level is reached. wait as for append. */
static PyObject *py_stage(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (!hsl_py_takes("stage", nargs, 5))
        return NULL;
    struct hsl_log *log = get_handle(args[0]);
    int level;
    if (!log || !get_int(args[2], &level))
        return NULL;
    enum waiting waiting = waiting_of(args[4]);
    bool system = args[3] == Py_True, wait = waiting == WAIT_LEVEL;
    struct call call = {0};
    PyObject *result = NULL;
    bool staged = false;
    struct placed *placed = NULL;
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
    int flags = (level == LEVEL_OS ? HSL_STAGE_OS : 0) | (system ? HSL_STAGE_SYSTEM : 0);
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
    bool safe;
    uint64_t ticket = encode(log, &call, placed, wait && level == LEVEL_SYNC, &safe);
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
    struct hsl_log *log = hsl_py_takes("wait", nargs, 2) ? get_handle(args[0]) : NULL;
    if (!log || !get_u64(args[1], &ticket) || wait_ticket(log, ticket) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static const char CURSOR[] = "hstreamlite.cursor";

static struct hsl_cursor *get_cursor(PyObject *o) { return PyCapsule_GetPointer(o, CURSOR); }

static void free_cursor(PyObject *capsule) { hsl_cursor_free(get_cursor(capsule)); }

/* cursor(log, shard, LSN) */
static PyObject *py_cursor(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t shard, lsn;
    struct hsl_log *log = hsl_py_takes("cursor", nargs, 3) ? get_handle(args[0]) : NULL;
    if (!log || !get_u64(args[1], &shard) || !get_u64(args[2], &lsn))
        return NULL;
    struct hsl_cursor *cursor = hsl_cursor_new(log, shard, lsn);
    if (!cursor)
        return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(cursor, CURSOR, free_cursor);
    if (!capsule)
        hsl_cursor_free(cursor); /* not reached: Python lacks memory */
    return capsule;
}

static PyObject *py_cursor_address(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (!hsl_py_takes("cursor_address", nargs, 1))
        return NULL;
    struct hsl_cursor *cursor = get_cursor(args[0]);
    return cursor ? PyLong_FromUnsignedLongLong((uintptr_t)cursor) : NULL;
}

static PyObject *py_cursor_lsn(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct hsl_cursor *cursor = hsl_py_takes("cursor_lsn", nargs, 1) ? get_cursor(args[0]) : NULL;
    return cursor ? PyLong_FromUnsignedLongLong(hsl_cursor_lsn(cursor)) : NULL;
}

/* cursor_seek(cursor, LSN) */
static PyObject *py_cursor_seek(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t lsn;
    struct hsl_cursor *cursor = hsl_py_takes("cursor_seek", nargs, 2) ? get_cursor(args[0]) : NULL;
    if (!cursor || !get_u64(args[1], &lsn))
        return NULL;
    hsl_cursor_seek(cursor, lsn);
    Py_RETURN_NONE;
}

/* cursor_told(cursor) -> bytes and records read since the last call, while the GIL is held */
static PyObject *py_cursor_told(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t bytes, records;
    struct hsl_cursor *cursor = hsl_py_takes("cursor_told", nargs, 1) ? get_cursor(args[0]) : NULL;
    if (!cursor)
        return NULL;
    hsl_cursor_tell(cursor, &bytes, &records);
    return Py_BuildValue("(KK)", (unsigned long long)bytes, (unsigned long long)records);
}

/* bounds(log, shard) -> first LSN kept, the one behind what is durable, the next to be given; None
 * for a shard that is not known */
static PyObject *py_bounds(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t shard;
    struct hsl_shard_info info;
    struct hsl_log *log = hsl_py_takes("bounds", nargs, 2) ? get_handle(args[0]) : NULL;
    if (!log || !get_u64(args[1], &shard))
        return NULL;
    if (hsl_log_shard_info(log, shard, &info) != HSL_OK)
        Py_RETURN_NONE;
    return Py_BuildValue("(KKK)", (unsigned long long)info.first,
                         (unsigned long long)info.durable_next, (unsigned long long)info.next);
}

/* 1: a block is in *view. 0: the tail. 2: it needs a read and may_block is false. -1: an error. */
static int next_block(PyObject *who, struct hsl_cursor *cursor, bool may_block, uint64_t records,
                      struct hsl_block_view *view)
{
    int rc = hsl_cursor_view(cursor, HSL_AT_HAND, records, view);
    if (rc == HSL_AGAIN) {
        enum hsl_patience patience = may_block ? HSL_MAY_BLOCK : HSL_CACHED;
        Py_BEGIN_ALLOW_THREADS;
        rc = hsl_cursor_view(cursor, patience, records, view);
        Py_END_ALLOW_THREADS;
    }
    if (rc == HSL_AGAIN)
        return 2;
    if (rc == HSL_OK)
        return 1;
    if (rc == HSL_NOT_FOUND)
        return 0;
    raise_of(who, rc, 0, 0);
    return -1;
}

/* What was read comes first: the next call meets the error again, also that of a gap. */
static void stay(struct hsl_cursor *cursor, uint64_t lsn)
{
    PyErr_Clear();
    hsl_cursor_seek(cursor, lsn);
}

/* The payload of a block as a new object, decompressed. */
static PyObject *unpack(const struct hsl_block_view *view)
{
    const struct hsl_block_header *h = &view->header;
    const char *payload = (const char *)view->payload;
    if (h->codec == 0)
        return PyBytes_FromStringAndSize(payload, (Py_ssize_t)h->payload_len);
    return PyObject_CallFunction(decompressor, "iy#I", (int)h->codec, payload,
                                 (Py_ssize_t)h->payload_len, (unsigned)h->decoded_len);
}

/* What is in view as plain bytes: the block's own, or those that the cursor keeps of one that is
 * compressed, or that a client encoded and that was looked through. */
static int plain_body(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                      const uint8_t **body, size_t *len)
{
    const struct hsl_block_header *h = &view->header;
    *body = view->payload;
    *len = view->len;
    if ((h->codec == 0 && !hsl_unchecked(h)) || (*body = hsl_cursor_body(cursor, view, len)))
        return 0;
    PyObject *plain = unpack(view);
    char *data;
    Py_ssize_t size;
    if (!plain || PyBytes_AsStringAndSize(plain, &data, &size) < 0) {
        Py_XDECREF(plain);
        return -1;
    }
    if (hsl_unchecked(h) &&
        hsl_codec_count((const uint8_t *)data, (size_t)size) != (int64_t)h->count) {
        Py_DECREF(plain);
        PyErr_Format(PyExc_ValueError, "no batch of %u records", (unsigned)h->count);
        return -1;
    }
    hsl_cursor_keep_body(cursor, view, (const uint8_t *)data, (size_t)size);
    Py_DECREF(plain);
    *body = hsl_cursor_body(cursor, view, len);
    if (!*body)
        PyErr_NoMemory();
    return *body ? 0 : -1;
}

/* Decodes the records of a block from the cursor's LSN on, so many at most, and steps over them;
 * returns their number, or 0 with an exception. */
static uint64_t decode_some(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                            uint64_t most, uint64_t max_bytes, uint32_t attempt,
                            PyObject *records, uint64_t *bytes)
{
    const struct hsl_block_header *h = &view->header;
    uint32_t first = (uint32_t)(hsl_cursor_lsn(cursor) - h->seq), in_view = view->end - view->first;
    const uint8_t *body;
    size_t len;
    if (plain_body(cursor, view, &body, &len) < 0)
        return 0;
    uint64_t take = view->end - first;
    if (take > most)
        take = most;
    if (max_bytes < len && take > max_bytes * in_view / len + 1)
        take = max_bytes * in_view / len + 1;
    struct hsl_py_place place = {view->index, view->at - view->from};
    if (hsl_py_is_excerpt(records)) {
        if (hsl_py_excerpt_add(records, body, len, &place, h->shard, h->seq, first, (uint32_t)take,
                               h->time_ms, attempt) < 0)
            return 0;
    } else {
        PyObject *got = hsl_py_decode(body, len, &place, h->shard, h->seq, first, (uint32_t)take,
                                      h->time_ms, NULL, 0, records);
        if (!got)
            return 0;
        Py_DECREF(got);
    }
    *bytes += len * take / in_view;
    hsl_cursor_advance(cursor, view, take, view->from + place.at);
    return take;
}

/* In the place of a ValueError. What a client encoded is met once: the cursor goes behind it. */
static void tell_malformed(PyObject *who, struct hsl_cursor *cursor,
                           const struct hsl_block_header *h)
{
    bool unchecked = hsl_unchecked(h);
    PyErr_Clear();
    if (unchecked)
        hsl_cursor_seek(cursor, h->seq + h->count);
    raise_of(who, unchecked ? HSL_UNREADABLE : HSL_MALFORMED, h->seq, h->seq + h->count);
}

struct reading {
    PyObject *who, *records; /* a list, or an excerpt */
    struct hsl_cursor *cursor;
    uint64_t max_bytes, bytes, count, batches;
    struct hsl_block_view view;
    bool may_block;
};

/* Views what the cursor stands at, and so many records from there; no more than once. */
static int look(struct reading *r, uint64_t records)
{
    if (hsl_cursor_resume(r->cursor, &r->view))
        return 1;
    r->view.header.count = 0;
    return next_block(r->who, r->cursor, r->may_block, records, &r->view);
}

/* Reads so many records before an LSN from the cursor on; others up to `reach` are asked for next.
 * 1: there may be more. 0: that is all for now. 2: nothing yet, and it would block. -1: an
 * exception, and nothing was read. */
static int read_up_to(struct reading *r, uint64_t max_records, uint64_t end, uint64_t reach,
                      uint32_t attempt)
{
    struct hsl_cursor *cursor = r->cursor;
    uint64_t lsn, begin = r->count;
    while (r->count - begin < max_records && r->bytes < r->max_bytes &&
           (lsn = hsl_cursor_lsn(cursor)) < end) {
        uint64_t most = max_records - (r->count - begin);
        if (most > end - lsn)
            most = end - lsn;
        int rc = look(r, reach > lsn + most ? reach - lsn : most);
        if (rc < 0 && r->count > 0)
            stay(cursor, lsn);
        if (rc != 1)
            return rc == 2 && r->count == 0 ? 2 : rc < 0 && r->count == 0 ? -1 : 0;
        uint64_t got = decode_some(cursor, &r->view, most, r->max_bytes - r->bytes, attempt,
                                   r->records, &r->bytes);
        if (got == 0 && r->count > 0) {
            stay(cursor, lsn);
            return 0;
        }
        if (got == 0) {
            if (PyErr_ExceptionMatches(PyExc_ValueError))
                tell_malformed(r->who, cursor, &r->view.header);
            return -1;
        }
        r->count += got;
        r->batches += hsl_cursor_enters(cursor, r->view.header.seq);
    }
    return r->count - begin == max_records ? 1 : 0;
}

static PyObject *read_result(struct reading *r, int rc)
{
    hsl_cursor_release(r->cursor);
    if (r->count > 0)
        hsl_cursor_count(r->cursor, r->bytes, r->count, r->batches);
    if (rc == 2 || rc < 0)
        Py_CLEAR(r->records);
    if (rc == 2)
        Py_RETURN_NONE;
    return r->records;
}

/* read(cursor, who, max_records, max_bytes, end LSN, into, attempt, may_block, last: no record
 * behind these will be asked for) -> list of records, empty at the tail or at the end LSN; None if
 * it would block. Into an excerpt that is given they are copied, and it comes back. */
static PyObject *py_read(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t max_records, max_bytes, end, attempt;
    if (!hsl_py_takes("read", nargs, 9))
        return NULL;
    struct hsl_cursor *cursor = get_cursor(args[0]);
    if (!cursor || !get_u64(args[2], &max_records) || !get_u64(args[3], &max_bytes) ||
        !get_u64(args[4], &end) || !get_u64(args[6], &attempt))
        return NULL;
    struct reading r = {
        .who = args[1],
        .records = hsl_py_is_excerpt(args[5]) ? Py_NewRef(args[5]) : PyList_New(0),
        .cursor = cursor,
        .max_bytes = max_bytes,
        .may_block = args[7] == Py_True,
    };
    if (!r.records)
        return NULL;
    if (args[8] == Py_True && max_records < end - hsl_cursor_lsn(cursor))
        hsl_cursor_until(cursor, hsl_cursor_lsn(cursor) + max_records);
    PyObject *result = read_result(&r, read_up_to(&r, max_records, end, 0, (uint32_t)attempt));
    hsl_cursor_until(cursor, UINT64_MAX);
    return result;
}

/* Where a read of runs[i] and of those that follow it closely ends. */
static uint64_t reach(const struct hsl_key_run *runs, size_t i, size_t n)
{
    uint64_t end = runs[i].first + runs[i].count;
    while (++i < n && runs[i].first >= end && runs[i].first - end <= CLOSE)
        end = runs[i].first + runs[i].count;
    return end;
}

/* read_runs(cursor, who, runs, max_bytes, may_block) -> excerpt: as read, run after run; one that
 * is shorter than the runs ends where reading did. */
static PyObject *py_read_runs(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t max_bytes;
    char *bytes;
    Py_ssize_t len;
    if (!hsl_py_takes("read_runs", nargs, 5))
        return NULL;
    struct hsl_cursor *cursor = get_cursor(args[0]);
    if (!cursor || PyBytes_AsStringAndSize(args[2], &bytes, &len) < 0 ||
        !get_u64(args[3], &max_bytes))
        return NULL;
    struct reading r = {
        .who = args[1],
        .records = hsl_py_excerpt(),
        .cursor = cursor,
        .max_bytes = max_bytes,
        .may_block = args[4] == Py_True,
    };
    if (!r.records)
        return NULL;
    const struct hsl_key_run *runs = (const struct hsl_key_run *)bytes;
    size_t n = (size_t)len / sizeof *runs;
    int rc = 1;
    for (size_t i = 0; i < n && rc == 1; i++) {
        hsl_cursor_seek(cursor, runs[i].first);
        rc = read_up_to(&r, runs[i].count, runs[i].first + runs[i].count, reach(runs, i, n),
                        runs[i].attempt);
    }
    return read_result(&r, rc);
}

/* The hashes of the keys of a block's records from the cursor's LSN on, so many at most; returns
 * their number, or 0 with an exception. All of a batch that cannot be decoded is of one key. */
static uint64_t hash_some(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                          PyObject *who, uint64_t most, uint64_t seed, uint64_t *out)
{
    const struct hsl_block_header *h = &view->header;
    uint64_t first = hsl_cursor_lsn(cursor) - h->seq, take = view->end - first;
    const uint8_t *body;
    size_t len;
    take = take < most ? take : most;
    if (plain_body(cursor, view, &body, &len) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError))
            return 0;
        if (!hsl_unchecked(h)) {
            tell_malformed(who, cursor, h);
            return 0;
        }
        PyErr_Clear();
        for (uint64_t i = 0; i < take; i++)
            out[i] = hsl_codec_key_hash((const uint8_t *)&h->seq, sizeof h->seq, seed);
        hsl_cursor_advance(cursor, view, take, 0);
        return take;
    }
    const uint8_t *pos = body + (view->at - view->from);
    bool sound = hsl_codec_skip(&pos, body + len, (uint32_t)first - view->index) == 1;
    for (uint64_t i = 0; sound && i < take; i++) {
        struct hsl_record_ref ref;
        sound = hsl_codec_next(&pos, body + len, &ref) == 1;
        out[i] = sound ? hsl_codec_key_hash(ref.key, ref.key_len, seed) : 0;
    }
    if (!sound) {
        tell_malformed(who, cursor, h);
        return 0;
    }
    hsl_cursor_advance(cursor, view, take, view->from + (size_t)(pos - body));
    return take;
}

/* key_hashes(cursor, who, max_records, end LSN, may_block, seed) -> bytes, 8 a record, empty at the
 * tail or at the end LSN; None if it would block */
static PyObject *py_key_hashes(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t max_records, end, seed, lsn, count = 0;
    if (nargs != 6) {
        PyErr_SetString(PyExc_TypeError, "key_hashes takes 6 arguments");
        return NULL;
    }
    struct hsl_cursor *cursor = get_cursor(args[0]);
    if (!cursor || !get_u64(args[2], &max_records) || !get_u64(args[3], &end) ||
        !get_u64(args[5], &seed))
        return NULL;
    uint64_t *out = PyMem_Calloc((size_t)max_records + 1, sizeof *out);
    if (!out)
        return PyErr_NoMemory();
    int rc = 1;
    while (rc == 1 && count < max_records && (lsn = hsl_cursor_lsn(cursor)) < end) {
        struct hsl_block_view view;
        uint64_t most = max_records - count < end - lsn ? max_records - count : end - lsn;
        rc = next_block(args[1], cursor, args[4] == Py_True, most, &view);
        if (rc != 1)
            break;
        uint64_t got = hash_some(cursor, &view, args[1], most, seed, out + count);
        hsl_cursor_release(cursor);
        rc = got > 0 ? 1 : -1;
        count += got;
        if (rc < 0)
            hsl_cursor_seek(cursor, lsn);
    }
    if (rc < 0 && count > 0) {
        PyErr_Clear(); /* the next call meets it again */
        rc = 1;
    }
    PyObject *result = NULL;
    if (rc == 2 && count == 0)
        result = Py_NewRef(Py_None);
    else if (rc >= 0)
        result = PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)count * 8);
    PyMem_Free(out);
    return result;
}

/* read_batches(cursor, who, max_batches, max_bytes, end LSN, may_block)
 * -> list of (shard, first LSN, first index, end index, count, time ms, order, codec, decoded
 * length, body); None if it would block */
static PyObject *py_read_batches(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t max_batches, max_bytes, end, bytes = 0, records = 0, entered = 0;
    if (!hsl_py_takes("read_batches", nargs, 6))
        return NULL;
    struct hsl_cursor *cursor = get_cursor(args[0]);
    if (!cursor || !get_u64(args[2], &max_batches) || !get_u64(args[3], &max_bytes) ||
        !get_u64(args[4], &end))
        return NULL;
    PyObject *batches = PyList_New(0);
    for (uint64_t n = 0; batches && n < max_batches && bytes < max_bytes; n++) {
        if (hsl_cursor_lsn(cursor) >= end)
            break;
        struct hsl_block_view view;
        uint64_t at = hsl_cursor_lsn(cursor);
        int rc = next_block(args[1], cursor, args[5] == Py_True, HSL_WHOLE, &view);
        if (rc == 2 && n == 0) {
            Py_DECREF(batches);
            Py_RETURN_NONE;
        }
        if (rc < 0 && n > 0)
            stay(cursor, at);
        if (rc < 0 && n == 0)
            Py_CLEAR(batches);
        if (rc != 1)
            break;
        const struct hsl_block_header *h = &view.header;
        uint64_t lsn = hsl_cursor_lsn(cursor);
        uint64_t stop = h->seq + h->count < end ? h->seq + h->count : end;
        PyObject *batch = Py_BuildValue(
            "(KKKKIKKiIy#)", (unsigned long long)h->shard, (unsigned long long)h->seq,
            (unsigned long long)(lsn - h->seq), (unsigned long long)(stop - h->seq),
            (unsigned)h->count, (unsigned long long)h->time_ms, (unsigned long long)h->order,
            (int)h->codec, (unsigned)h->decoded_len, (const char *)view.payload,
            (Py_ssize_t)h->payload_len);
        hsl_cursor_release(cursor);
        if (!batch || PyList_Append(batches, batch) < 0)
            Py_CLEAR(batches); /* not reached: Python lacks memory */
        Py_XDECREF(batch);
        bytes += h->payload_len;
        records += stop - lsn;
        entered += hsl_cursor_enters(cursor, h->seq);
        hsl_cursor_advance(cursor, &view, stop - lsn, 0);
    }
    hsl_cursor_release(cursor);
    if (bytes > 0)
        hsl_cursor_count(cursor, bytes, records, entered);
    return batches;
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
    FAST("cursor", py_cursor),
    FAST("cursor_address", py_cursor_address),
    FAST("cursor_lsn", py_cursor_lsn),
    FAST("cursor_seek", py_cursor_seek),
    FAST("cursor_told", py_cursor_told),
    FAST("read_runs", py_read_runs),
    FAST("key_hashes", py_key_hashes),
    FAST("read", py_read),
    FAST("read_batches", py_read_batches),
    FAST("mono_ns", py_mono_ns),
    FAST("set_hooks", py_set_hooks),
    {NULL, NULL, 0, NULL},
};

int hsl_py_log_install(PyObject *module)
{
    find_list_items();
    return PyModule_AddFunctions(module, methods);
}
