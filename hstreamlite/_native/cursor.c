/* Reading one shard forward, block by block.
 *
 * Recently written blocks come from the staging chunks, pinned while they are decoded. Others are
 * read from their segment in one piece with the blocks that follow closely, and checked once. A
 * block may be decoded in several steps: the cursor remembers where it stands in it.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READ_MIN (64u << 10)
#define READ_MAX (1u << 20)

struct hsl_cursor {
    struct hsl_log *log;
    uint64_t shard, lsn;
    uint64_t until; /* LSN from which on nothing will be asked for; UINT64_MAX = not known */
    uint64_t gap_from, gap_to;
    struct hsl_chunk *pinned;
    uint8_t *buf;
    size_t cap, len, ahead;
    uint64_t segment, off; /* what buf holds */
    uint64_t checked;      /* offset in the file of the block in buf that was checked; 0 = none */
    uint64_t block;        /* first LSN of the block that these tell of: */
    uint32_t index;        /* a record of it, and where that begins in the plain body */
    size_t at;
    uint8_t *body; /* its plain body, if it is compressed */
    size_t body_len;
    struct hsl_entry *page; /* blocks of one group of a footer's rows */
    uint32_t page_len;
    struct hsl_run run;     /* whose they are */
    bool use_cache;         /* what the system has of files is at hand */
    bool announced;         /* the rest of the page is being read ahead */
    struct hsl_ahead behind; /* what lies behind the run */
    struct hsl_pages then[HSL_FETCHES]; /* what is to be read next, if the cursor reads on */
    uint32_t then_len;
    struct hsl_fetches *fetches; /* NULL until something is read ahead */
    struct hsl_shard *metered; /* the shard, once something of it was read */
    uint64_t counted;          /* first LSN of the block that was counted last */
    uint64_t told_bytes, told_records; /* read since they were told */
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
        cursor->until = UINT64_MAX;
        cursor->ahead = READ_MIN;
    }
    return cursor;
}

void hsl_cursor_free(struct hsl_cursor *cursor)
{
    if (!cursor)
        return;
    hsl_cursor_release(cursor);
    if (!hsl_forked(cursor->log))
        hsl_fetch_free(cursor->log, cursor->fetches);
    free(cursor->body);
    free(cursor->buf);
    free(cursor->page);
    struct hsl_log *log = cursor->log;
    free(cursor);
    hsl_log_free(log);
}

void hsl_cursor_seek(struct hsl_cursor *cursor, uint64_t lsn)
{
    if (lsn != cursor->lsn)
        cursor->ahead = READ_MIN;
    cursor->lsn = lsn;
}

uint64_t hsl_cursor_lsn(struct hsl_cursor *cursor) { return cursor->lsn; }

void hsl_cursor_use_cache(struct hsl_cursor *cursor)
{
    cursor->use_cache = cursor->log->io->pread_cached != NULL;
}

void hsl_cursor_until(struct hsl_cursor *cursor, uint64_t lsn) { cursor->until = lsn; }

/* The cursor stands in another block: what it kept of the last one is of no use. */
static void turn_to(struct hsl_cursor *cursor, uint64_t block)
{
    if (cursor->block == block)
        return;
    free(cursor->body);
    cursor->body = NULL;
    cursor->block = block;
    cursor->index = 0;
    cursor->at = 0;
}

bool hsl_cursor_resume(const struct hsl_cursor *cursor, struct hsl_block_view *view)
{
    uint64_t seq = view->header.seq, at = cursor->lsn - seq;
    if (view->header.count == 0 || cursor->lsn < seq + view->first || at >= view->end)
        return false;
    bool before = cursor->block == seq && view->first <= cursor->index && cursor->index <= at;
    view->index = before ? cursor->index : view->first;
    view->at = before ? cursor->at : view->from;
    return true;
}

void hsl_cursor_advance(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                        uint64_t records, size_t at)
{
    cursor->lsn += records;
    if (at > 0 && cursor->lsn - view->header.seq < view->header.count) {
        cursor->index = (uint32_t)(cursor->lsn - view->header.seq);
        cursor->at = at;
    } else {
        turn_to(cursor, 0);
    }
}

const uint8_t *hsl_cursor_body(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                               size_t *len)
{
    *len = cursor->body_len;
    return cursor->block == view->header.seq ? cursor->body : NULL;
}

void hsl_cursor_keep_body(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                          const uint8_t *body, size_t len)
{
    turn_to(cursor, view->header.seq);
    free(cursor->body);
    cursor->body = malloc(len + 1);
    cursor->body_len = len;
    if (cursor->body)
        memcpy(cursor->body, body, len);
}

void hsl_cursor_tell(struct hsl_cursor *cursor, uint64_t *bytes, uint64_t *records)
{
    *bytes = cursor->told_bytes;
    *records = cursor->told_records;
    cursor->told_bytes = cursor->told_records = 0;
}

bool hsl_cursor_enters(struct hsl_cursor *cursor, uint64_t block)
{
    bool other = cursor->counted != block;
    cursor->counted = block;
    return other;
}

void hsl_cursor_count(struct hsl_cursor *cursor, uint64_t bytes, uint64_t records,
                      uint64_t batches)
{
    cursor->told_bytes += bytes;
    cursor->told_records += records;
    struct hsl_log *log = cursor->log;
    if (!cursor->metered) {
        pthread_mutex_lock(&log->index_mu);
        cursor->metered = hsl_shard_get(log, cursor->shard);
        pthread_mutex_unlock(&log->index_mu);
    }
    hsl_meter_read(log, cursor->metered, bytes, batches);
}

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
    int rc = hsl_run_rows(cursor->log, run, HSL_KEY_LSN, cursor->lsn, may_block, rows, &count);
    if (rc != HSL_OK)
        return rc == HSL_DAMAGED ? damaged_run(cursor, run) : rc;
    if (!cursor->page)
        cursor->page = malloc(HSL_ROW_GROUP * sizeof *cursor->page);
    if (!cursor->page)
        return HSL_NO_MEMORY;
    hsl_rows_entries(run, rows, count, cursor->page);
    cursor->page_len = count;
    if (!page_holds(cursor, run))
        return damaged_run(cursor, run); /* not reached: rows under a valid CRC hold their run */
    const struct hsl_entry *last = &cursor->page[count - 1];
    cursor->announced = cursor->lsn >= cursor->behind.blocks &&
                        last->seq + last->count <= cursor->behind.blocks_end;
    cursor->run = *run;
    return HSL_OK;
}

/* Whether a read that ends there may go on with a block: it is close, and wanted. */
static bool follows(const struct hsl_cursor *cursor, const struct hsl_entry *e, uint32_t segment,
                    uint64_t end)
{
    return e->segment == segment && (uint64_t)e->off8 * 8 <= end + HSL_GAP_MAX &&
           e->seq < cursor->until;
}

/* How far a read that starts with entries[*at] should go; *at moves behind the last of them. */
static uint64_t read_ahead(const struct hsl_cursor *cursor, const struct hsl_entry *entries,
                           size_t *at, size_t len)
{
    const struct hsl_entry *e = &entries[*at];
    uint32_t segment = e->segment;
    uint64_t start = (uint64_t)e->off8 * 8, end = start + e->len;
    for (++*at; *at < len; ++*at) {
        e = &entries[*at];
        uint64_t to = (uint64_t)e->off8 * 8 + e->len;
        if (!follows(cursor, e, segment, end) || to > start + cursor->ahead)
            break;
        end = to;
    }
    return end;
}

/* The page to read from for a block. The system takes a read from the start of a file for the begin
 * of a scan and reads ahead, and one behind the header of the segment for a single one. */
static uint64_t read_from(uint32_t off8)
{
    uint64_t page = (uint64_t)off8 * 8 & ~(uint64_t)(HSL_PAGE - 1);
    return page > HSL_PAGE ? page : 0;
}

/* How far to read from entries[at] on, and what then. */
static uint64_t plan(struct hsl_cursor *cursor, const struct hsl_entry *entries, size_t at,
                     size_t len)
{
    uint32_t segment = entries[at].segment;
    uint64_t first = read_ahead(cursor, entries, &at, len), end = first;
    cursor->then_len = 0;
    while (cursor->ahead == READ_MAX && cursor->then_len < HSL_FETCHES && at < len &&
           follows(cursor, &entries[at], segment, end)) {
        struct hsl_pages *then = &cursor->then[cursor->then_len++];
        then->from = read_from(entries[at].off8);
        end = read_ahead(cursor, entries, &at, len);
        then->end = hsl_align_page(end);
    }
    return first;
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
    *read_end = plan(cursor, shard->entries, at, shard->len);
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
                continue; /* not reached: the segment went between two locks; look again */
            if (rc != HSL_OK)
                return rc;
        }
        uint32_t at = 0;
        while (cursor->page[at].seq + cursor->page[at].count <= cursor->lsn)
            at++;
        *entry = cursor->page[at];
        *read_end = plan(cursor, cursor->page, at, cursor->page_len);
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

/* Has the disk fetch what follows a block, if the cursor reads on. */
static void announce(struct hsl_cursor *cursor, const struct hsl_entry *e, int fd, uint64_t from,
                     uint64_t end)
{
    if (cursor->page_len == 0 || cursor->page[0].segment != e->segment)
        return;
    const struct hsl_entry *last = &cursor->page[cursor->page_len - 1];
    if (cursor->ahead == READ_MIN || cursor->until <= e->seq + e->count)
        return;
    const struct hsl_pages now = {cursor->announced ? end : from, end};
    if (!cursor->announced)
        hsl_announce_blocks(cursor->log, fd, cursor->page, cursor->page_len, end);
    cursor->announced = true;
    bool at_end = last->seq + last->count == cursor->run.end;
    hsl_announce_behind(cursor->log, &cursor->run, fd, &now, at_end, &cursor->behind);
}

static void count_read(struct hsl_log *log, size_t got, uint64_t begin)
{
    uint64_t end = log->io->mono_ns(log->io->ctx);
    pthread_mutex_lock(&log->index_mu);
    log->stats.reads++;
    log->stats.bytes_read += got;
    hsl_histogram_count(&log->read_latency, end - begin, 1);
    pthread_mutex_unlock(&log->index_mu);
}

/* Makes buf hold what was read ahead from a block on; OK, AGAIN or NOT_FOUND as hsl_fetch_take. */
static int fetched(struct hsl_cursor *cursor, const struct hsl_entry *e, bool may_block)
{
    struct hsl_log *log = cursor->log;
    uint64_t begin = log->io->mono_ns(log->io->ctx), from = read_from(e->off8);
    size_t got;
    int rc = hsl_fetch_take(log, cursor->fetches, e->segment, from, may_block, &cursor->buf,
                            &cursor->cap, &got);
    if (rc != HSL_OK)
        return rc;
    cursor->segment = e->segment;
    cursor->off = from;
    cursor->len = got;
    cursor->checked = 0;
    if (!buffered(cursor, e))
        return HSL_NOT_FOUND;
    count_read(log, got, begin);
    return HSL_OK;
}

/* Makes buf hold [from, end) of the entry's segment, or as much as there is; both page-aligned. */
static int fill(struct hsl_cursor *cursor, enum hsl_patience patience, const struct hsl_entry *e,
                uint64_t from, uint64_t end)
{
    struct hsl_log *log = cursor->log;
    bool cached = patience == HSL_CACHED;
    int64_t (*read_at)(void *, int, void *, size_t, uint64_t) =
        cached ? log->io->pread_cached : log->io->pread;
    size_t need = end - from;
    cursor->len = 0;
    cursor->checked = 0;
    if (!hsl_page_room(&cursor->buf, &cursor->cap, need))
        return HSL_NO_MEMORY;
    struct hsl_segment *segment;
    int fd, rc = cached ? hsl_segment_cached_reader(log, e->segment, &segment, &fd)
                        : hsl_segment_reader(log, e->segment, &segment, &fd);
    if (rc != HSL_OK)
        return rc;
    if (!cached)
        announce(cursor, e, fd, from, end);
    size_t got = 0;
    int err = 0;
    uint64_t begin = log->io->mono_ns(log->io->ctx);
    while (got < need) {
        int64_t n = read_at(log->io->ctx, fd, cursor->buf + got, need - got, from + got);
        if (n <= 0) {
            err = (int)-n;
            break;
        }
        got += (size_t)n;
    }
    if (cached && err == EAGAIN) {
        if (from + got < (uint64_t)e->off8 * 8 + e->len) {
            hsl_segment_unread(log, segment);
            return HSL_AGAIN;
        }
        err = 0;
    }
    if (cached)
        announce(cursor, e, fd, from + got, from + got);
    count_read(log, got, begin);
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

static int check(struct hsl_cursor *cursor, const struct hsl_entry *e, const uint8_t *block)
{
    struct hsl_block_header h;
    memcpy(&h, block, sizeof h);
    uint64_t len = sizeof h + (uint64_t)h.ext_len + h.payload_len;
    uint32_t found = hsl_crc32c(0, block + 8, e->len - 8);
    if (h.magic == HSL_BLOCK_MAGIC && h.version == 1 && len == e->len && h.seq == e->seq &&
        h.shard == cursor->shard && h.count == e->count && h.crc == found)
        return HSL_OK;
    return damaged_block(cursor, e, h.crc, found);
}

static void take_view(struct hsl_cursor *cursor, const uint8_t *block, struct hsl_block_view *out)
{
    memcpy(&out->header, block, sizeof out->header);
    out->payload = block + sizeof out->header + out->header.ext_len;
    out->from = 0;
    out->len = out->header.payload_len;
    out->first = 0;
    out->end = out->header.count;
    turn_to(cursor, out->header.seq);
    bool before = cursor->index <= cursor->lsn - out->header.seq;
    out->index = before ? cursor->index : 0;
    out->at = before ? cursor->at : 0;
}

/* Views the part of a block that holds so many records. DAMAGED: it does not verify, or is more
 * than half of the block, and all of that is to be read. */
static int view_part(struct hsl_cursor *cursor, enum hsl_patience patience,
                     const struct hsl_entry *e, const struct hsl_marks *m, uint64_t records,
                     struct hsl_block_view *out)
{
    uint32_t first = (uint32_t)(cursor->lsn - e->seq), lo = 0, hi = 0;
    uint32_t end = records < e->count - first ? first + (uint32_t)records : e->count;
    while (lo + 1 < m->parts && m->mark[lo + 1].index <= first)
        lo++;
    while (m->mark[hi].index < end)
        hi++;
    const struct hsl_mark *start = &m->mark[lo], *behind = &m->mark[hi];
    uint64_t body = hsl_marks_body(m), page = hsl_marks_page(m, 0);
    uint32_t from = (uint32_t)((body + start->at - page) / m->part_bytes);
    uint32_t last = (uint32_t)((body + behind->at - 1 - page) / m->part_bytes);
    if ((last - from + 1) * 2 > m->parts)
        return HSL_DAMAGED;
    uint64_t at = hsl_marks_page(m, from);
    int rc = fill(cursor, patience, e, at, hsl_align_page(hsl_marks_to(m, last)));
    bool whole = cursor->len >= hsl_marks_to(m, last) - at;
    cursor->len = 0; /* holds no whole block */
    if (rc != HSL_OK)
        return rc;
    for (uint32_t i = from; whole && i <= last; i++) {
        uint64_t begin = hsl_marks_from(m, i);
        uint32_t crc = hsl_crc32c(0, cursor->buf + (begin - at), hsl_marks_to(m, i) - begin);
        whole = crc == m->mark[i].crc;
    }
    if (!whole)
        return HSL_DAMAGED;
    turn_to(cursor, e->seq);
    *out = (struct hsl_block_view){
        .header = m->header,
        .payload = cursor->buf + (body + start->at - at),
        .from = start->at,
        .len = behind->at - start->at,
        .first = start->index,
        .end = behind->index,
        .index = start->index,
        .at = start->at,
    };
    return HSL_OK;
}

/* Views all of a block, which is in buf. */
static int view_whole(struct hsl_cursor *cursor, const struct hsl_entry *e, bool sought,
                      struct hsl_block_view *out)
{
    uint64_t off = (uint64_t)e->off8 * 8;
    const uint8_t *block = cursor->buf + (off - cursor->off);
    if (cursor->checked != off) {
        int rc = check(cursor, e, block);
        if (rc != HSL_OK)
            return rc;
        cursor->checked = off;
        if (sought)
            hsl_marks_add(cursor->log, e, block);
    }
    take_view(cursor, block, out);
    return HSL_OK;
}

/* Has what comes next read while the cursor is at what is in buf. */
static void fetch_next(struct hsl_cursor *cursor)
{
    hsl_fetch_ask(cursor->log, &cursor->fetches, cursor->segment, cursor->then, cursor->then_len);
}

static int view_file(struct hsl_cursor *cursor, const struct hsl_entry *e, uint64_t end,
                     enum hsl_patience patience, uint64_t records, struct hsl_block_view *out)
{
    bool sought = false;
    if (!buffered(cursor, e)) {
        int rc = fetched(cursor, e, patience == HSL_MAY_BLOCK);
        if (rc == HSL_OK) {
            fetch_next(cursor);
            return view_whole(cursor, e, false, out);
        }
        if (patience == HSL_AT_HAND || (patience == HSL_CACHED && !cursor->use_cache))
            return HSL_AGAIN;
        bool near = cursor->ahead == READ_MIN || cursor->until < e->seq + e->count;
        if (near && records != HSL_WHOLE) {
            struct hsl_marks marks;
            sought = !hsl_marks_get(cursor->log, e, &marks);
            rc = sought ? HSL_DAMAGED : view_part(cursor, patience, e, &marks, records, out);
            if (rc != HSL_DAMAGED)
                return rc;
        }
        rc = fill(cursor, patience, e, read_from(e->off8), hsl_align_page(end));
        if (rc != HSL_OK)
            return rc;
        if (!buffered(cursor, e))
            return damaged_block(cursor, e, e->len, (uint32_t)cursor->len);
        fetch_next(cursor);
    }
    return view_whole(cursor, e, sought, out);
}

int hsl_cursor_view(struct hsl_cursor *cursor, enum hsl_patience patience, uint64_t records,
                    struct hsl_block_view *out)
{
    bool may_block = patience == HSL_MAY_BLOCK;
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
            take_view(cursor, block, out);
            return HSL_OK;
        }
        rc = view_file(cursor, &entry, end, patience, records, out);
        if (rc != HSL_NOT_FOUND)
            return rc;
        cursor->page_len = 0; /* not reached: the segment went between two locks; look again */
    }
}

void hsl_cursor_damage(struct hsl_cursor *cursor, struct hsl_cursor_damage *out)
{
    *out = cursor->damage;
}
