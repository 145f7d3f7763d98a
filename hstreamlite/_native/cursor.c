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
    struct hsl_entry *page; /* blocks of one group of a footer's rows */
    uint32_t page_len;
    bool announced; /* the rest of the page is being read ahead */
    struct hsl_cursor_damage damage;
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
    free(cursor->page);
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

static bool page_holds(const struct hsl_cursor *cursor, const struct hsl_run *run)
{
    if (cursor->page_len == 0 || cursor->page[0].segment != run->segment)
        return false;
    const struct hsl_entry *last = &cursor->page[cursor->page_len - 1];
    return cursor->page[0].seq <= cursor->lsn && cursor->lsn < last->seq + last->count;
}

/* Footer and frames of the segment both do not verify: the whole run cannot be found. */
static int damaged_run(struct hsl_cursor *cursor, const struct hsl_run *run)
{
    cursor->damage = (struct hsl_cursor_damage){
        .segment = run->segment,
        .offset = run->data,
        .length = run->data_len,
        .first = run->first,
        .end = run->end,
        .in_footer = 1,
    };
    return HSL_DAMAGED;
}

static int load_page(struct hsl_cursor *cursor, const struct hsl_run *run, bool may_block)
{
    struct hsl_row rows[HSL_ROW_GROUP];
    uint32_t count;
    cursor->page_len = 0;
    cursor->announced = false;
    int rc = hsl_run_rows(cursor->log, run, HSL_KEY_LSN, cursor->lsn, may_block, rows, &count);
    if (rc != HSL_OK)
        return rc == HSL_DAMAGED ? damaged_run(cursor, run) : rc;
    if (!cursor->page)
        cursor->page = malloc(HSL_ROW_GROUP * sizeof *cursor->page);
    if (!cursor->page)
        return HSL_NO_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        cursor->page[i] = (struct hsl_entry){
            .seq = rows[i].seq,
            .order = rows[i].order,
            .time_ms = rows[i].time_ms,
            .segment = run->segment,
            .off8 = rows[i].off8,
            .len = rows[i].len,
            .count = rows[i].count,
        };
    }
    cursor->page_len = count;
    return page_holds(cursor, run) ? HSL_OK : damaged_run(cursor, run);
}

/* How far a read that starts with entries[at] should go. */
static uint64_t read_ahead(const struct hsl_cursor *cursor, const struct hsl_entry *entries,
                           size_t at, size_t len)
{
    uint64_t start = (uint64_t)entries[at].off8 * 8, end = start + entries[at].len;
    for (size_t i = at + 1; i < len; i++) {
        const struct hsl_entry *e = &entries[i];
        uint64_t off = (uint64_t)e->off8 * 8;
        if (e->segment != entries[at].segment || off > end + GAP_MAX ||
            off + e->len > start + cursor->ahead)
            break;
        end = off + e->len;
    }
    return end;
}

static int skip_to(struct hsl_cursor *cursor, uint64_t lsn)
{
    cursor->gap_from = cursor->lsn;
    cursor->gap_to = cursor->lsn = lsn;
    return HSL_TRIMMED;
}

/* What memory knows of the cursor's LSN: OK with an entry, or AGAIN with the run that has it. */
static int locate_in_memory(struct hsl_cursor *cursor, struct hsl_entry *entry, uint64_t *read_end,
                            struct hsl_run *run)
{
    const struct hsl_shard *shard = hsl_shard_get(cursor->log, cursor->shard);
    if (!shard)
        return HSL_NOT_FOUND;
    if (cursor->lsn < shard->first)
        return skip_to(cursor, shard->first);
    const struct hsl_run *found = hsl_run_find(shard, cursor->lsn);
    if (found && found->first > cursor->lsn)
        return skip_to(cursor, found->first);
    if (found) {
        *run = *found;
        return HSL_AGAIN;
    }
    size_t at = hsl_index_find(shard, cursor->lsn);
    if (at == shard->len)
        return HSL_NOT_FOUND;
    if (shard->entries[at].seq > cursor->lsn)
        return skip_to(cursor, shard->entries[at].seq);
    *entry = shard->entries[at];
    *read_end = read_ahead(cursor, shard->entries, at, shard->len);
    return HSL_OK;
}

/* The entry that holds the cursor's LSN, and how far a read from it should go. */
static int locate(struct hsl_cursor *cursor, bool may_block, struct hsl_entry *entry,
                  uint64_t *read_end)
{
    for (;;) {
        struct hsl_run run;
        pthread_mutex_lock(&cursor->log->index_mu);
        int rc = locate_in_memory(cursor, entry, read_end, &run);
        pthread_mutex_unlock(&cursor->log->index_mu);
        if (rc != HSL_AGAIN)
            return rc;
        if (!page_holds(cursor, &run)) {
            rc = load_page(cursor, &run, may_block);
            if (rc == HSL_NOT_FOUND)
                continue; /* the segment went meanwhile: look again */
            if (rc != HSL_OK)
                return rc;
        }
        uint32_t at = 0;
        while (cursor->page[at].seq + cursor->page[at].count <= cursor->lsn)
            at++;
        *entry = cursor->page[at];
        *read_end = read_ahead(cursor, cursor->page, at, cursor->page_len);
        return HSL_OK;
    }
}

int hsl_cursor_peek(struct hsl_cursor *cursor, int32_t may_block, uint64_t *order,
                    uint64_t *time_ms, uint64_t *end)
{
    struct hsl_entry entry;
    uint64_t read_end;
    int rc = locate(cursor, may_block, &entry, &read_end);
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

static uint64_t page_end(const struct hsl_cursor *cursor)
{
    const struct hsl_entry *last = &cursor->page[cursor->page_len - 1];
    return (uint64_t)last->off8 * 8 + last->len;
}

/* Blocks of a log lie scattered where many logs share a segment: whoever reads on has the disk
 * fetch all of a page at once instead of one after the other. */
static void announce(struct hsl_cursor *cursor, int fd, uint64_t from)
{
    const struct hsl_io *io = cursor->log->io;
    if (cursor->announced || !io->announce || cursor->ahead == READ_MIN)
        return;
    for (uint32_t i = 0; i < cursor->page_len; i++) {
        uint64_t off = (uint64_t)cursor->page[i].off8 * 8;
        if (off >= from)
            io->announce(io->ctx, fd, off, cursor->page[i].len);
    }
    cursor->announced = true;
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
    if (cursor->page_len > 0 && cursor->page[0].segment == e->segment && end < page_end(cursor))
        announce(cursor, fd, end);
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

static int damaged_block(struct hsl_cursor *cursor, const struct hsl_entry *e, uint32_t expected,
                         uint32_t found)
{
    cursor->damage = (struct hsl_cursor_damage){
        .segment = e->segment,
        .offset = (uint64_t)e->off8 * 8,
        .length = e->len,
        .first = e->seq,
        .end = e->seq + e->count,
        .expected = expected,
        .found = found,
    };
    return HSL_DAMAGED;
}

static int check(struct hsl_cursor *cursor, const struct hsl_entry *e, const uint8_t *block,
                 struct hsl_block_header *out)
{
    memcpy(out, block, sizeof *out);
    uint64_t len = sizeof *out + (uint64_t)out->ext_len + out->payload_len;
    uint32_t found = hsl_crc32c(0, block + 8, e->len - 8);
    if (out->magic == HSL_BLOCK_MAGIC && out->version == 1 && len == e->len &&
        out->seq == e->seq && out->shard == cursor->shard && out->count == e->count &&
        out->crc == found)
        return HSL_OK;
    return damaged_block(cursor, e, out->crc, found);
}

static int view_file(struct hsl_cursor *cursor, const struct hsl_entry *entry, uint64_t end,
                     bool may_block, struct hsl_block_view *out)
{
    if (!buffered(cursor, entry)) {
        if (!may_block)
            return HSL_AGAIN;
        int rc = fill(cursor, entry, end);
        if (rc != HSL_OK)
            return rc;
        if (!buffered(cursor, entry))
            return damaged_block(cursor, entry, entry->len, (uint32_t)cursor->len);
    }
    const uint8_t *block = cursor->buf + ((uint64_t)entry->off8 * 8 - cursor->off);
    int rc = check(cursor, entry, block, &out->header);
    if (rc == HSL_OK)
        out->payload = block + sizeof out->header + out->header.ext_len;
    return rc;
}

int hsl_cursor_view(struct hsl_cursor *cursor, bool may_block, struct hsl_block_view *out)
{
    for (;;) {
        struct hsl_entry entry;
        uint64_t end;
        const uint8_t *block;
        int rc = locate(cursor, may_block, &entry, &end);
        if (rc != HSL_OK)
            return rc;
        hsl_cursor_release(cursor);
        uint64_t off = (uint64_t)entry.off8 * 8;
        cursor->pinned = hsl_cache_pin(cursor->log, entry.segment, off, entry.len, &block);
        if (cursor->pinned) {
            memcpy(&out->header, block, sizeof out->header);
            out->payload = block + sizeof out->header + out->header.ext_len;
            return HSL_OK;
        }
        rc = view_file(cursor, &entry, end, may_block, out);
        if (rc != HSL_NOT_FOUND)
            return rc;
        cursor->page_len = 0; /* the segment went meanwhile: look again */
    }
}

void hsl_cursor_damage(struct hsl_cursor *cursor, struct hsl_cursor_damage *out)
{
    *out = cursor->damage;
}
