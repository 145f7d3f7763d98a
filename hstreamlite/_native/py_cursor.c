/* Fast functions over struct hsl_cursor: blocks of a shard as Python objects.
 *
 * A cursor comes as a capsule, which frees it. What is at hand is read with the GIL, which is given
 * up for what may have to wait for the disk.
 */
#include "hsl_py.h"
#include "log.h"

#define CLOSE 64 /* records between two runs that are viewed together */

static const char CURSOR[] = "hstreamlite.cursor";

static struct hsl_cursor *get_cursor(PyObject *o) { return PyCapsule_GetPointer(o, CURSOR); }

static void free_cursor(PyObject *capsule) { hsl_cursor_free(get_cursor(capsule)); }

/* cursor(log, shard, LSN) */
static PyObject *py_cursor(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t shard, lsn;
    struct hsl_log *log = hsl_py_takes("cursor", nargs, 3) ? hsl_py_handle(args[0]) : NULL;
    if (!log || !hsl_py_get_u64(args[1], &shard) || !hsl_py_get_u64(args[2], &lsn))
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
    if (!cursor || !hsl_py_get_u64(args[1], &lsn))
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
    hsl_py_raise(who, rc, 0, 0);
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
    return hsl_py_decompress(h->codec, payload, h->payload_len, h->decoded_len);
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
        Py_XDECREF(plain); /* not reached: what is unpacked is bytes */
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
    hsl_py_raise(who, unchecked ? HSL_UNREADABLE : HSL_MALFORMED, h->seq, h->seq + h->count);
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
    if (!cursor || !hsl_py_get_u64(args[2], &max_records) || !hsl_py_get_u64(args[3], &max_bytes) ||
        !hsl_py_get_u64(args[4], &end) || !hsl_py_get_u64(args[6], &attempt))
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
        !hsl_py_get_u64(args[3], &max_bytes))
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
    if (!hsl_py_takes("key_hashes", nargs, 6))
        return NULL;
    struct hsl_cursor *cursor = get_cursor(args[0]);
    if (!cursor || !hsl_py_get_u64(args[2], &max_records) || !hsl_py_get_u64(args[3], &end) ||
        !hsl_py_get_u64(args[5], &seed))
        return NULL;
    uint64_t *out = PyMem_Calloc((size_t)max_records, sizeof *out);
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
    if (!cursor || !hsl_py_get_u64(args[2], &max_batches) || !hsl_py_get_u64(args[3], &max_bytes) ||
        !hsl_py_get_u64(args[4], &end))
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

#define FAST(name, fn) {name, (PyCFunction)(void (*)(void))fn, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    FAST("cursor", py_cursor),
    FAST("cursor_address", py_cursor_address),
    FAST("cursor_lsn", py_cursor_lsn),
    FAST("cursor_seek", py_cursor_seek),
    FAST("cursor_told", py_cursor_told),
    FAST("read_runs", py_read_runs),
    FAST("key_hashes", py_key_hashes),
    FAST("read", py_read),
    FAST("read_batches", py_read_batches),
    {NULL, NULL, 0, NULL},
};

int hsl_py_cursor_install(PyObject *module) { return PyModule_AddFunctions(module, methods); }
