/* Reading one shard forward, block by block.
 *
 * Recently written blocks come from the staging chunks, pinned while they are decoded. Others are
 * read from their segment in one piece with the blocks that follow closely, and checked once.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READ_MIN (64u << 10)
#define READ_MAX (1u << 20)
#define GAP_MAX (32u << 10)

struct hsl_cursor {
    struct hsl_log *log;
    uint64_t shard, lsn;
    uint64_t gap_from, gap_to;
    struct hsl_chunk *pinned;
    uint8_t *buf;
    size_t cap, len, ahead;
    uint64_t segment, off; /* what buf holds */
    struct hsl_entry damaged;
    uint32_t expected, found;
};

struct hsl_cursor *hsl_cursor_new(struct hsl_log *log, uint64_t shard, uint64_t lsn)
{
    struct hsl_cursor *cursor = calloc(1, sizeof *cursor);
    if (cursor) {
        cursor->log = log;
        atomic_fetch_add(&log->holders, 1);
        cursor->shard = shard;
        cursor->lsn = lsn;
        cursor->ahead = READ_MIN;
    }
    return cursor;
}

void hsl_cursor_free(struct hsl_cursor *cursor)
{
    if (!cursor)
        return;
    hsl_cursor_release(cursor);
    free(cursor->buf);
    struct hsl_log *log = cursor->log;
    free(cursor);
    hsl_log_free(log);
}

struct hsl_log *hsl_cursor_log(struct hsl_cursor *cursor) { return cursor->log; }

void hsl_cursor_seek(struct hsl_cursor *cursor, uint64_t lsn)
{
    if (lsn != cursor->lsn)
        cursor->ahead = READ_MIN;
    cursor->lsn = lsn;
}

uint64_t hsl_cursor_lsn(struct hsl_cursor *cursor) { return cursor->lsn; }

void hsl_cursor_advance(struct hsl_cursor *cursor, uint64_t records) { cursor->lsn += records; }

void hsl_cursor_gap(struct hsl_cursor *cursor, uint64_t *from, uint64_t *to)
{
    *from = cursor->gap_from;
    *to = cursor->gap_to;
}

void hsl_cursor_release(struct hsl_cursor *cursor)
{
    if (cursor->pinned)
        hsl_cache_unpin(cursor->log, cursor->pinned);
    cursor->pinned = NULL;
}

/* The entry that holds the cursor's LSN, and how far a read from it should go. */
static int locate(struct hsl_cursor *cursor, struct hsl_entry *entry, uint64_t *read_end)
{
    struct hsl_log *log = cursor->log;
    int rc = HSL_NOT_FOUND;
    pthread_mutex_lock(&log->index_mu);
    const struct hsl_shard *shard = hsl_shard_get(log, cursor->shard);
    if (shard && cursor->lsn < shard->first) {
        cursor->gap_from = cursor->lsn;
        cursor->gap_to = cursor->lsn = shard->first;
        pthread_mutex_unlock(&log->index_mu);
        return HSL_TRIMMED;
    }
    size_t at = shard ? hsl_index_find(shard, cursor->lsn) : 0;
    if (shard && at < shard->len && shard->entries[at].seq > cursor->lsn) {
        cursor->gap_from = cursor->lsn;
        cursor->gap_to = cursor->lsn = shard->entries[at].seq;
        pthread_mutex_unlock(&log->index_mu);
        return HSL_TRIMMED;
    }
    if (shard && at < shard->len) {
        *entry = shard->entries[at];
        uint64_t start = (uint64_t)entry->off8 * 8, end = start + entry->len;
        for (size_t i = at + 1; i < shard->len; i++) {
            const struct hsl_entry *e = &shard->entries[i];
            uint64_t off = (uint64_t)e->off8 * 8;
            if (e->segment != entry->segment || off > end + GAP_MAX ||
                off + e->len > start + cursor->ahead)
                break;
            end = off + e->len;
        }
        *read_end = end;
        rc = HSL_OK;
    }
    pthread_mutex_unlock(&log->index_mu);
    return rc;
}

int hsl_cursor_peek(struct hsl_cursor *cursor, uint64_t *order, uint64_t *time_ms, uint64_t *end)
{
    struct hsl_entry entry;
    uint64_t read_end;
    int rc = locate(cursor, &entry, &read_end);
    if (rc == HSL_OK) {
        *order = entry.order;
        *time_ms = entry.time_ms;
        *end = entry.seq + entry.count;
    }
    return rc;
}

static bool buffered(const struct hsl_cursor *cursor, const struct hsl_entry *e)
{
    uint64_t off = (uint64_t)e->off8 * 8;
    return cursor->len > 0 && cursor->segment == e->segment && off >= cursor->off &&
           off + e->len <= cursor->off + cursor->len;
}

static int fill(struct hsl_cursor *cursor, const struct hsl_entry *e, uint64_t end)
{
    struct hsl_log *log = cursor->log;
    uint64_t from = (uint64_t)e->off8 * 8 & ~(uint64_t)(HSL_PAGE - 1);
    size_t need = hsl_align_page(end - from);
    cursor->len = 0;
    if (need > cursor->cap) {
        free(cursor->buf);
        cursor->cap = 0;
        cursor->buf = hsl_page_alloc(need);
        if (!cursor->buf)
            return HSL_NO_MEMORY;
        cursor->cap = need;
    }
    struct hsl_segment *segment;
    int fd, rc = hsl_segment_reader(log, e->segment, &segment, &fd);
    if (rc != HSL_OK)
        return rc;
    size_t got = 0;
    int err = 0;
    while (got < need) {
        int64_t n = log->io->pread(log->io->ctx, fd, cursor->buf + got, need - got, from + got);
        if (n <= 0) {
            err = (int)-n;
            break;
        }
        got += (size_t)n;
    }
    pthread_mutex_lock(&log->index_mu);
    log->stats.reads++;
    log->stats.bytes_read += got;
    pthread_mutex_unlock(&log->index_mu);
    hsl_segment_unread(log, segment);
    if (err)
        return hsl_fail(log, "read", "segment", err);
    cursor->segment = e->segment;
    cursor->off = from;
    cursor->len = got;
    if (cursor->ahead < READ_MAX)
        cursor->ahead *= 2;
    return HSL_OK;
}

static int check(struct hsl_cursor *cursor, const struct hsl_entry *e, const uint8_t *block,
                 struct hsl_block_header *out)
{
    memcpy(out, block, sizeof *out);
    uint64_t len = sizeof *out + (uint64_t)out->ext_len + out->payload_len;
    cursor->expected = out->crc;
    cursor->found = hsl_crc32c(0, block + 8, e->len - 8);
    if (out->magic == HSL_BLOCK_MAGIC && out->version == 1 && len == e->len &&
        out->seq == e->seq && out->shard == cursor->shard && out->count == e->count &&
        cursor->expected == cursor->found)
        return HSL_OK;
    cursor->damaged = *e;
    return HSL_DAMAGED;
}

int hsl_cursor_view(struct hsl_cursor *cursor, bool may_block, struct hsl_block_view *out)
{
    struct hsl_log *log = cursor->log;
    struct hsl_entry entry;
    uint64_t end;
    int rc = locate(cursor, &entry, &end);
    if (rc != HSL_OK)
        return rc;
    const uint8_t *block;
    uint64_t off = (uint64_t)entry.off8 * 8;
    hsl_cursor_release(cursor);
    cursor->pinned = hsl_cache_pin(log, entry.segment, off, entry.len, &block);
    if (cursor->pinned) {
        memcpy(&out->header, block, sizeof out->header);
    } else {
        bool fresh = !buffered(cursor, &entry);
        if (fresh) {
            if (!may_block)
                return HSL_AGAIN;
            rc = fill(cursor, &entry, end);
            if (rc != HSL_OK)
                return rc;
            if (!buffered(cursor, &entry)) {
                cursor->damaged = entry;
                cursor->expected = entry.len;
                cursor->found = (uint32_t)cursor->len;
                return HSL_DAMAGED;
            }
        }
        block = cursor->buf + (off - cursor->off);
        rc = check(cursor, &entry, block, &out->header);
        if (rc != HSL_OK)
            return rc;
    }
    out->payload = block + sizeof out->header + out->header.ext_len;
    return HSL_OK;
}

int hsl_cursor_damage(struct hsl_cursor *cursor, uint64_t *segment, uint64_t *offset,
                      uint64_t *length, uint64_t *first, uint64_t *end, uint32_t *expected,
                      uint32_t *found)
{
    *segment = cursor->damaged.segment;
    *offset = (uint64_t)cursor->damaged.off8 * 8;
    *length = cursor->damaged.len;
    *first = cursor->damaged.seq;
    *end = cursor->damaged.seq + cursor->damaged.count;
    *expected = cursor->expected;
    *found = cursor->found;
    return HSL_OK;
}
