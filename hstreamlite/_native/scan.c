/* Reading segments back at open.
 *
 * A sealed segment with a valid directory is trusted: its runs go to the index, its rows are read
 * when they are asked for, its blocks are checked when they are read. Any other segment is walked
 * frame by frame. A frame is accepted if and only if its header CRC, uid, own offset, number,
 * epoch and chain hold, every block in it verifies, and every block continues its shard. The walk
 * reports where it stopped and what valid frames lie behind; whether that is a torn tail or damage
 * is decided by the caller.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW (4u << 20)
#define CHECKPOINT_WINDOW (64u << 10) /* most of them take a few KiB */
#define LOOK_AHEAD (64u << 20)
#define FRAME_MAX (40u << 20)

struct reader { /* a window over one file, aligned for direct reads */
    struct hsl_log *log;
    int fd;
    uint64_t size, off;
    size_t len, cap;
    size_t window; /* read at least so much at a time: a page to look at, more to walk */
    uint8_t *buf;
};

/* `need` bytes at a page-aligned offset, or NULL past the end or on error (*err). */
static const uint8_t *view(struct reader *r, uint64_t off, size_t need, int *err)
{
    *err = 0;
    if (off + need > r->size)
        return NULL;
    if (off >= r->off && off + need <= r->off + r->len)
        return r->buf + (off - r->off);
    size_t want = hsl_align_page(need > r->window ? need : r->window);
    if (want > r->cap) {
        uint8_t *grown = hsl_page_alloc(want);
        if (!grown) {
            *err = ENOMEM;
            return NULL;
        }
        free(r->buf);
        r->buf = grown;
        r->cap = want;
    }
    r->off = off;
    r->len = 0;
    uint64_t left = r->size - off;
    if (want > left)
        want = hsl_align_page(left);
    while (r->len < want && r->off + r->len < r->size) {
        int64_t n = r->log->io->pread(r->log->io->ctx, r->fd, r->buf + r->len, want - r->len,
                                      off + r->len);
        if (n < 0) {
            *err = (int)-n;
            return NULL;
        }
        if (n == 0)
            break;
        r->len += (size_t)n;
    }
    return r->len >= need ? r->buf : NULL;
}

int hsl_block_check(const uint8_t *block, size_t room, struct hsl_block_header *out)
{
    if (room < sizeof *out)
        return HSL_DAMAGED;
    memcpy(out, block, sizeof *out);
    uint64_t len = sizeof *out + (uint64_t)out->ext_len + out->payload_len;
    if (out->magic != HSL_BLOCK_MAGIC || out->version != 1 || out->count == 0 ||
        hsl_align8(len) > room)
        return HSL_DAMAGED;
    return out->crc == hsl_crc32c(0, block + 8, len - 8) ? HSL_OK : HSL_DAMAGED;
}

static bool header_valid(const struct hsl_frame_header *h, uint64_t uid, uint64_t off)
{
    return h->magic == HSL_FRAME_MAGIC && h->uid == uid && h->page == off / HSL_PAGE &&
           h->crc == hsl_crc32c(0, (const uint8_t *)h + 8, sizeof *h - 8);
}

static void note_claim(struct hsl_segment_report *report, const struct hsl_frame_header *h)
{
    if (h->durable > report->durable_claim)
        report->durable_claim = h->durable;
}

/* A follower's readers are at work while it goes on. */
static void lock_index(struct hsl_log *log)
{
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
}

static void unlock_index(struct hsl_log *log)
{
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
}

struct insert {
    struct hsl_log *log;
    struct hsl_segment *segment;
    struct hsl_segment_report *report;
    uint64_t durable; /* up to this offset everything was, as is known from elsewhere */
    bool hole; /* some segment before this one is gone: a shard may continue higher */
    bool seal;  /* runs take the place of entries that the segment has */
    bool adopt; /* runs take the place of those of other segments */
};

/* Do records from `first` on continue their shard? What holds for every block and every run. */
static bool continues(const struct insert *in, uint64_t next, uint64_t first)
{
    return next == 1 || first == next || (in->hole && first > next);
}

static void note_newest(struct hsl_log *log, struct hsl_shard *shard, uint64_t time_ms,
                        uint64_t order)
{
    shard->next = shard->durable_next;
    if (time_ms > shard->last_time)
        shard->last_time = time_ms;
    if (order >= log->next_order)
        log->next_order = order + 1;
}

/* One row into the index; checks that it continues its shard. */
static int insert_row(void *ctx, const struct hsl_row *row)
{
    struct insert *in = ctx;
    struct hsl_log *log = in->log;
    struct hsl_shard *shard = hsl_shard_add(log, row->shard);
    if (!shard)
        return HSL_NO_MEMORY;
    if (!continues(in, shard->durable_next, row->seq))
        return HSL_DAMAGED;
    struct hsl_entry entry = {
        .seq = row->seq,
        .order = row->order,
        .time_ms = row->time_ms,
        .segment = (uint32_t)in->segment->number,
        .off8 = row->off8,
        .len = row->len,
        .count = row->count,
    };
    if (shard->durable_next == 1 && row->seq != 1)
        shard->gap_end = row->seq;
    int rc = hsl_index_insert(log, in->segment, row->shard, &entry);
    if (rc == HSL_OK)
        rc = hsl_rows_push(in->segment, row);
    note_newest(log, shard, row->time_ms, row->order);
    in->segment->blocks++;
    in->report->blocks++;
    return rc;
}

static int insert_run(void *ctx, const struct hsl_run *run)
{
    struct insert *in = ctx;
    struct hsl_shard *shard = hsl_shard_add(in->log, run->shard);
    if (!shard)
        return HSL_NO_MEMORY;
    if (!continues(in, shard->durable_next, run->first))
        return HSL_DAMAGED;
    if (shard->durable_next == 1 && run->first != 1)
        shard->gap_end = run->first;
    int rc = hsl_run_insert(in->log, in->segment, run);
    note_newest(in->log, shard, run->last_time, 0);
    return rc;
}

static int seal_run(void *ctx, const struct hsl_run *run)
{
    const struct insert *in = ctx;
    return hsl_run_seal(in->log, in->segment, run);
}

/* A run of level 1 in the place of those it was made from, as far as they are known here. */
static int adopt_run(void *ctx, const struct hsl_run *run)
{
    struct insert *in = ctx;
    struct hsl_shard *shard = hsl_shard_add(in->log, run->shard);
    if (!shard)
        return HSL_NO_MEMORY;
    const struct hsl_run *found = hsl_run_find(shard, run->first);
    if (!found || found->first >= run->end)
        return run->end > shard->durable_next ? insert_run(in, run) : HSL_OK;
    hsl_run_replace(in->log, in->segment, run);
    if (run->end > shard->durable_next)
        shard->durable_next = run->end;
    note_newest(in->log, shard, run->last_time, 0);
    return HSL_OK;
}

static hsl_run_fn taking(const struct insert *in)
{
    return in->seal ? seal_run : in->adopt ? adopt_run : insert_run;
}

/* Do the blocks of the frame continue their shards? Checked before any of them is inserted. 0, the
 * damage, or a status below 0. */
static int frame_continues(struct insert *in, const uint8_t *body, uint32_t blocks)
{
    const uint8_t *at = body;
    uint64_t frame = ++in->log->scan_frame;
    for (uint32_t i = 0; i < blocks; i++) {
        struct hsl_block_header h;
        memcpy(&h, at, sizeof h);
        struct hsl_shard *shard = hsl_shard_add(in->log, h.shard);
        if (!shard)
            return HSL_NO_MEMORY;
        if (shard->scan_frame != frame) {
            shard->scan_frame = frame;
            shard->scan_next = shard->durable_next;
        }
        if (!continues(in, shard->scan_next, h.seq))
            return HSL_DAMAGE_SEQUENCE;
        shard->scan_next = h.seq + h.count;
        at += hsl_align8(sizeof h + h.ext_len + h.payload_len);
    }
    return HSL_DAMAGE_NONE;
}

/* Calls fn with the row of every block of a frame. */
static int frame_rows(const uint8_t *body, uint32_t blocks, uint64_t off, hsl_row_fn fn, void *ctx)
{
    const uint8_t *at = body;
    for (uint32_t i = 0; i < blocks; i++) {
        struct hsl_block_header h;
        memcpy(&h, at, sizeof h);
        struct hsl_row row = {
            .shard = h.shard,
            .seq = h.seq,
            .order = h.order,
            .time_ms = h.time_ms,
            .off8 = (uint32_t)((off + (uint64_t)(at - body)) / 8),
            .len = (uint32_t)sizeof h + h.ext_len + h.payload_len,
            .count = h.count,
        };
        int rc = fn(ctx, &row);
        if (rc != HSL_OK)
            return rc;
        at += hsl_align8(row.len);
    }
    return HSL_OK;
}

static int push_row(void *segment, const struct hsl_row *row)
{
    return hsl_rows_push(segment, row);
}

static bool blocks_valid(const uint8_t *body, const struct hsl_frame_header *h)
{
    uint32_t crc = 0;
    size_t at = 0;
    for (uint32_t i = 0; i < h->blocks; i++) {
        struct hsl_block_header block;
        if (hsl_block_check(body + at, h->body_len - at, &block) != HSL_OK)
            return false;
        crc = hsl_crc32c(crc, body + at + 4, 4);
        at += hsl_align8(sizeof block + block.ext_len + block.payload_len);
    }
    return at == h->body_len && crc == h->body_crc;
}

struct insert_rows {
    struct insert *in;
    const uint8_t *rows;
};

static int insert_run_rows(void *ctx, const struct hsl_run *run)
{
    const struct insert_rows *of = ctx;
    return hsl_rows_decode(run, of->rows, insert_row, of->in);
}

static int insert_checkpoint(struct insert *in, const uint8_t *body, size_t len)
{
    struct hsl_checkpoint point;
    if (len < sizeof point)
        return HSL_DAMAGED;
    memcpy(&point, body, sizeof point);
    if ((uint64_t)point.rows_len + point.dir_len != len - sizeof point)
        return HSL_DAMAGED;
    struct insert_rows of = {in, body + sizeof point};
    lock_index(in->log);
    int rc = hsl_dir_decode(of.rows + point.rows_len, point.dir_len, point.rows_len, point.shards,
                            point.blocks, insert_run_rows, &of);
    unlock_index(in->log);
    return rc;
}

/* Was the frame at `off`, `len` long, durable? As is known, or as one of those behind it states.
 * What was not may be half of a write. */
static bool was_durable(struct reader *r, const struct insert *in, uint64_t off, size_t len,
                        struct hsl_frame_header h)
{
    const struct hsl_segment *s = in->segment;
    uint64_t place = s->number << 32 | off;
    bool stated = in->durable > off;
    while (!stated) {
        struct hsl_frame_header before = h;
        int err;
        off += len;
        const uint8_t *at = view(r, off, HSL_PAGE, &err);
        if (!at)
            return false;
        memcpy(&h, at, sizeof h);
        if (!header_valid(&h, s->uid, off) || h.epoch != s->epoch || h.body_len > FRAME_MAX ||
            h.number != before.number + 1 || h.chain != before.crc)
            return false;
        len = hsl_align_page(sizeof h + h.body_len);
        stated = h.durable > place;
    }
    return true;
}

/* One frame at `off`; *len is its padded length when accepted. */
static int accept_frame(struct reader *r, struct insert *in, uint64_t off, bool from_checkpoint,
                        size_t *len)
{
    struct hsl_segment *s = in->segment;
    int err;
    const uint8_t *at = view(r, off, HSL_PAGE, &err);
    if (!at)
        return err ? hsl_fail(in->log, "read", "segment", err) : HSL_DAMAGE_FRAME;
    struct hsl_frame_header h;
    memcpy(&h, at, sizeof h);
    if (!header_valid(&h, s->uid, off) || h.epoch != s->epoch || h.body_len > FRAME_MAX)
        return HSL_DAMAGE_FRAME;
    if (!from_checkpoint && (h.number != s->frames + 1 || h.chain != s->last_crc))
        return HSL_DAMAGE_FRAME;
    *len = hsl_align_page(sizeof h + h.body_len);
    at = view(r, off, *len, &err);
    if (!at)
        return err ? hsl_fail(in->log, "read", "segment", err) : HSL_DAMAGE_BLOCK;
    const uint8_t *body = at + sizeof h;
    int rc = HSL_OK;
    if (h.flags & HSL_FRAME_CHECKPOINT) {
        if (h.body_crc != hsl_crc32c(0, body, h.body_len)) {
            if (!was_durable(r, in, off, *len, h))
                return HSL_DAMAGE_BLOCK;
            in->report->bad_checkpoints++; /* its rows were found in the frames before it */
        }
        s->checkpoint = off;
        s->rows_checkpointed = s->rows_len;
        s->checkpoint_end = off + *len;
    } else {
        if (!blocks_valid(body, &h))
            return HSL_DAMAGE_BLOCK;
        lock_index(in->log);
        rc = frame_continues(in, body, h.blocks);
        if (rc == HSL_DAMAGE_NONE)
            rc = frame_rows(body, h.blocks, off + sizeof h, insert_row, in);
        unlock_index(in->log);
        if (rc != HSL_OK)
            return rc;
    }
    s->frames = h.number;
    s->last_crc = h.crc;
    note_claim(in->report, &h);
    return rc;
}

static int note_lost(struct hsl_log *log, uint64_t shard_id, uint64_t seq)
{
    const struct hsl_shard *shard = hsl_shard_get(log, shard_id);
    uint64_t next = shard ? shard->durable_next : 1;
    for (size_t i = 0; i < log->lost_len; i++)
        if (log->lost[i].shard == shard_id)
            return HSL_OK;
    if (seq <= next)
        return HSL_OK;
    if (log->lost_len == log->lost_cap) {
        size_t cap = log->lost_cap ? log->lost_cap * 2 : 16;
        struct hsl_range *grown = realloc(log->lost, cap * sizeof *grown);
        if (!grown)
            return HSL_NO_MEMORY;
        log->lost = grown;
        log->lost_cap = cap;
    }
    log->lost[log->lost_len++] = (struct hsl_range){shard_id, next, seq};
    return HSL_OK;
}

/* Looks for valid frames of this uid behind the end of the walk, and for the ids they show to be
 * missing. Frames are written in sequence, so a long stretch without any ends the search. */
static int look_ahead(struct reader *r, struct hsl_log *log, struct hsl_segment *s,
                      struct hsl_segment_report *report)
{
    uint64_t last = report->end;
    for (uint64_t off = report->end + HSL_PAGE; off + HSL_PAGE <= r->size; off += HSL_PAGE) {
        if (off - last > LOOK_AHEAD)
            break;
        int err;
        const uint8_t *at = view(r, off, HSL_PAGE, &err);
        if (!at)
            return err ? hsl_fail(log, "read", "segment", err) : HSL_OK;
        struct hsl_frame_header h;
        memcpy(&h, at, sizeof h);
        if (!header_valid(&h, s->uid, off))
            continue;
        if (!report->next_valid)
            report->next_valid = off;
        note_claim(report, &h);
        last = off;
        if (h.body_len > FRAME_MAX || (h.flags & HSL_FRAME_CHECKPOINT))
            continue;
        at = view(r, off, hsl_align_page(sizeof h + h.body_len), &err);
        if (!at || !blocks_valid(at + sizeof h, &h))
            continue;
        const uint8_t *block = at + sizeof h;
        for (uint32_t i = 0; i < h.blocks; i++) {
            struct hsl_block_header b;
            memcpy(&b, block, sizeof b);
            int rc = note_lost(log, b.shard, b.seq);
            if (rc != HSL_OK)
                return rc;
            block += hsl_align8(sizeof b + b.ext_len + b.payload_len);
        }
    }
    return HSL_OK;
}

static int walk(struct reader *r, struct insert *in, uint64_t off, bool from_checkpoint)
{
    struct hsl_segment_report *report = in->report;
    for (;;) {
        size_t len = 0;
        int rc = accept_frame(r, in, off, from_checkpoint, &len);
        if (rc < 0)
            return rc;
        report->end = off;
        if (rc > 0) {
            report->damage = rc;
            break;
        }
        from_checkpoint = false;
        report->frames++;
        off += len;
    }
    report->last_crc = in->segment->last_crc;
    in->segment->end = report->end;
    return look_ahead(r, in->log, in->segment, report);
}

/* Loads the index pieces of the checkpoints up to the one at `at`; false if any does not verify,
 * with nothing inserted. */
static int load_checkpoints(struct reader *r, struct insert *in, uint64_t at, bool *loaded)
{
    struct {
        uint64_t off;
        size_t len;
    } chain[4096];
    size_t count = 0;
    int err;
    *loaded = false;
    for (uint64_t off = at; off != 0;) {
        const uint8_t *page = view(r, off, HSL_PAGE, &err);
        struct hsl_frame_header h;
        if (!page || off % HSL_PAGE || count == sizeof chain / sizeof *chain)
            return err ? hsl_fail(in->log, "read", "segment", err) : HSL_OK;
        memcpy(&h, page, sizeof h);
        if (!header_valid(&h, in->segment->uid, off) || !(h.flags & HSL_FRAME_CHECKPOINT) ||
            h.body_len > FRAME_MAX)
            return HSL_OK;
        page = view(r, off, hsl_align_page(sizeof h + h.body_len), &err);
        if (!page || h.body_crc != hsl_crc32c(0, page + sizeof h, h.body_len))
            return err ? hsl_fail(in->log, "read", "segment", err) : HSL_OK;
        chain[count].off = off;
        chain[count++].len = h.body_len;
        struct hsl_checkpoint point;
        memcpy(&point, page + sizeof h, sizeof point);
        if (point.previous >= off)
            return HSL_OK;
        off = point.previous;
    }
    while (count-- > 0) {
        size_t head = sizeof(struct hsl_frame_header), len = chain[count].len;
        const uint8_t *page = view(r, chain[count].off, hsl_align_page(head + len), &err);
        if (!page)
            return hsl_fail(in->log, "read", "segment", err ? err : EIO);
        int rc = insert_checkpoint(in, page + head, len);
        if (rc != HSL_OK)
            return rc;
    }
    *loaded = true;
    return HSL_OK;
}

static bool trailer_valid(const struct hsl_trailer *t, uint32_t seed, uint64_t size)
{
    uint64_t pieces = (t->rows_len + HSL_FOOTER_PIECE - 1) / HSL_FOOTER_PIECE;
    return t->crc == hsl_crc32c(seed, (const uint8_t *)t + 12, sizeof *t - 12) &&
           t->version == 1 && t->footer_off % HSL_PAGE == 0 && t->footer_off >= HSL_PAGE &&
           t->footer_off <= size && t->rows_len <= size &&
           t->footer_off + t->rows_len + t->dir_len + 4 * pieces + sizeof *t <= size;
}

/* Reads trailer and directory; the rows are left in the file. */
static int load_footer(struct reader *r, struct insert *in, bool *loaded)
{
    struct hsl_segment_report *report = in->report;
    struct hsl_segment *s = in->segment;
    struct hsl_trailer t;
    int err;
    *loaded = false;
    if (r->size < 2 * HSL_PAGE || r->size % HSL_PAGE)
        return HSL_OK;
    const uint8_t *page = view(r, r->size - HSL_PAGE, HSL_PAGE, &err);
    if (!page)
        return err ? hsl_fail(in->log, "read", "segment", err) : HSL_OK;
    memcpy(&t, page + HSL_PAGE - sizeof t, sizeof t);
    if (memcmp(t.magic, HSL_FOOTER_MAGIC, 8) != 0)
        return HSL_OK;
    report->damage = HSL_DAMAGE_FOOTER;
    uint32_t seed = (uint32_t)s->uid;
    if (!trailer_valid(&t, seed, r->size))
        return HSL_OK;
    uint64_t at = t.footer_off + t.rows_len, from = at & ~(uint64_t)(HSL_PAGE - 1);
    size_t pieces = (t.rows_len + HSL_FOOTER_PIECE - 1) / HSL_FOOTER_PIECE;
    const uint8_t *dir = view(r, from, at - from + t.dir_len + 4 * pieces, &err);
    if (!dir)
        return err ? hsl_fail(in->log, "read", "segment", err) : HSL_OK;
    dir += at - from;
    if (t.dir_crc != hsl_crc32c(seed, dir, t.dir_len + 4 * pieces))
        return HSL_OK;
    int rc = in->seal ? hsl_scan_on(in->log, s, r->fd, t.footer_off, report) : HSL_OK;
    if (rc == HSL_OK && in->seal && s->last_crc != t.last_crc)
        return HSL_OK;
    s->blocks = t.blocks;
    if (rc == HSL_OK)
        rc = hsl_segment_footer(s, &t, dir + t.dir_len);
    if (rc != HSL_OK)
        return rc;
    lock_index(in->log);
    rc = hsl_dir_decode(dir, t.dir_len, t.rows_len, t.shards, t.blocks, taking(in), in);
    if (t.blocks > 0 && t.max_order >= in->log->next_order)
        in->log->next_order = t.max_order + 1;
    if (t.max_order > in->log->durable_order)
        in->log->durable_order = t.max_order;
    s->sealed = rc == HSL_OK;
    if (in->seal)
        hsl_segment_end_direct(in->log, s);
    unlock_index(in->log);
    if (rc != HSL_OK)
        return rc;
    report->damage = HSL_DAMAGE_NONE;
    report->sealed = 1;
    report->end = t.footer_off;
    report->last_crc = t.last_crc;
    report->frames = t.frames;
    report->blocks = t.blocks;
    s->frames = t.frames;
    s->last_crc = t.last_crc;
    s->end = t.footer_off;
    *loaded = true;
    return HSL_OK;
}

static int load_header(struct reader *r, struct hsl_segment *s, struct hsl_segment_report *report)
{
    int err;
    const uint8_t *page = view(r, 0, HSL_PAGE, &err);
    report->damage = HSL_DAMAGE_SHORT;
    if (!page)
        return err ? hsl_fail(r->log, "read", "segment", err) : HSL_OK;
    struct hsl_segment_header h;
    memcpy(&h, page, sizeof h);
    report->damage = HSL_DAMAGE_HEADER;
    if (memcmp(h.magic, HSL_SEGMENT_MAGIC, 6) != 0 ||
        h.crc != hsl_crc32c(0, page + 12, HSL_PAGE - 12))
        return HSL_OK;
    report->version = h.major;
    report->required = h.required;
    report->uid = s->uid = h.uid;
    report->epoch = s->epoch = h.epoch;
    report->pred_uid = h.pred_uid;
    report->pred_end = h.pred_end;
    report->pred_crc = h.pred_crc;
    report->number = h.number;
    memcpy(report->uuid, h.uuid, 16);
    report->capacity = s->capacity = h.capacity;
    s->pred_uid = h.pred_uid;
    s->pred_end = h.pred_end;
    s->pred_crc = h.pred_crc;
    if (h.level == 1)
        memcpy(&s->cover, page + sizeof h, sizeof s->cover);
    s->last_crc = report->last_crc = h.level == 1 ? 0 : h.crc;
    s->end = report->end = HSL_PAGE;
    s->checkpoint_end = HSL_PAGE;
    report->damage = h.major != HSL_VERSION_MAJOR || h.required ? HSL_DAMAGE_VERSION
                                                                : HSL_DAMAGE_NONE;
    if (report->damage == HSL_DAMAGE_NONE && h.level != (h.number >= HSL_LEVEL_1))
        report->damage = HSL_DAMAGE_HEADER;
    return HSL_OK;
}

/* For what the segment stands, and what its own frames must end with. */
static void tell_cover(const struct hsl_segment *s, struct hsl_segment_report *report)
{
    struct hsl_segment_cover cover = hsl_segment_covers(s);
    report->covers_first = cover.first;
    report->covers_last = cover.last;
    report->covers_uid = cover.last_uid;
    report->covers_end = cover.last_end;
    report->covers_crc = cover.last_crc;
    report->stated_end = cover.end;
    report->stated_crc = cover.end_crc;
    report->stated_frames = cover.frames;
}

/* Whether a log may go on higher than it ended: something between is gone, or was left out of a
 * segment of level 1 because it was trimmed. The trims of the catalog are compared later. */
static bool expect(struct hsl_log *log, const struct hsl_segment *s)
{
    struct hsl_segment_cover cover = hsl_segment_covers(s);
    if (cover.first != log->scan_number + 1 || s->number >= HSL_LEVEL_1)
        log->scan_hole = true;
    log->scan_number = cover.last;
    return log->scan_hole;
}

static int open_segment(struct hsl_log *log, uint64_t number, struct reader *r,
                        struct hsl_segment **out, struct hsl_segment_report *report)
{
    char path[HSL_PATH_MAX + 64];
    hsl_segment_path(log, path, number);
    memset(report, 0, sizeof *report);
    const struct hsl_io *io = log->io;
    r->fd = io->open(io->ctx, path, HSL_OPEN_READ | (log->direct ? HSL_OPEN_DIRECT : 0));
    if (r->fd == -EINVAL && log->direct) {
        log->direct = false;
        r->fd = io->open(io->ctx, path, HSL_OPEN_READ);
    }
    if (r->fd < 0)
        return r->fd == -ENOENT && log->cfg.follower ? HSL_NOT_FOUND
                                                     : hsl_fail(log, "open", path, -r->fd);
    *out = hsl_segment_new(number);
    int64_t size = io->size(io->ctx, r->fd);
    if (!*out)
        return HSL_NO_MEMORY;
    if (size < 0)
        return hsl_fail(log, "size", path, (int)-size);
    r->size = report->file_bytes = (*out)->file_bytes = (uint64_t)size;
    int rc = load_header(r, *out, report);
    if (rc == HSL_OK && report->damage == HSL_DAMAGE_NONE)
        tell_cover(*out, report);
    return rc;
}

static void close_segment(struct reader *r)
{
    free(r->buf);
    if (r->fd >= 0)
        r->log->io->close(r->log->io->ctx, r->fd);
}

/* Reads the header only. */
int hsl_log_read_segment(struct hsl_log *log, uint64_t number, struct hsl_segment_report *report)
{
    struct reader r = {.log = log, .window = HSL_PAGE, .fd = -1};
    struct hsl_segment *s = NULL;
    int rc = open_segment(log, number, &r, &s, report);
    free(s);
    close_segment(&r);
    return rc;
}

/* Makes a file known in whose place another stands: there is nothing in it but space to free. */
int hsl_log_add_replaced(struct hsl_log *log, uint64_t number)
{
    struct hsl_segment_report report;
    struct reader r = {.log = log, .window = HSL_PAGE, .fd = -1};
    struct hsl_segment *s = NULL;
    int rc = open_segment(log, number, &r, &s, &report);
    close_segment(&r);
    if (rc == HSL_OK)
        rc = hsl_segments_add(log, s);
    if (rc == HSL_OK)
        s->sealed = true;
    else
        free(s);
    return rc;
}

/* A follower keeps the file of the active segment: the writer may drop it later. */
void hsl_scan_keep(struct hsl_log *log, int fd)
{
    if (log->loaded_fd >= 0)
        log->io->close(log->io->ctx, log->loaded_fd);
    log->loaded_fd = fd;
}

static void take_out(struct hsl_log *log, const struct hsl_segment *s)
{
    lock_index(log);
    hsl_segments_remove(log, s);
    unlock_index(log);
}

/* Up to which offset the superblock states that a segment was durable. */
static uint64_t stated_durable(const struct hsl_log *log, uint64_t number)
{
    uint64_t place = log->super.durable;
    if (place >> 32 == number)
        return (uint32_t)place;
    return place >> 32 > number ? UINT64_MAX : 0;
}

/* With a limit the segment is one that is being written elsewhere: it is walked so far and no
 * further, and whatever lies behind means nothing. */
static int load_segment(struct hsl_log *log, uint64_t number, uint64_t checkpoint, uint64_t limit,
                        struct hsl_segment_report *report)
{
    log->lost_len = 0;
    struct reader r = {.log = log, .window = HSL_PAGE, .fd = -1};
    struct hsl_segment *s = NULL;
    int rc = open_segment(log, number, &r, &s, report);
    if (rc != HSL_OK || report->damage != HSL_DAMAGE_NONE || report->number != number)
        goto fail;
    if (limit != 0 && limit < r.size)
        r.size = limit;
    lock_index(log);
    rc = hsl_segments_add(log, s);
    unlock_index(log);
    if (rc != HSL_OK)
        goto fail;
    struct insert in = {.log = log, .segment = s, .report = report};
    in.durable = limit != 0 ? limit : stated_durable(log, number);
    uint64_t before = log->scan_number;
    bool hole = log->scan_hole, loaded = false;
    in.hole = expect(log, s);
    if (limit == 0)
        rc = load_footer(&r, &in, &loaded);
    if (rc == HSL_IO) { /* nothing of it is in the index: whoever tries again begins anew */
        take_out(log, s);
        log->scan_number = before;
        log->scan_hole = hole;
        goto fail;
    }
    if (rc == HSL_OK && !loaded) {
        bool torn_footer = report->damage == HSL_DAMAGE_FOOTER;
        uint64_t from = HSL_PAGE;
        report->damage = HSL_DAMAGE_NONE;
        if (checkpoint != 0) {
            r.window = CHECKPOINT_WINDOW;
            rc = load_checkpoints(&r, &in, checkpoint, &loaded);
            if (loaded)
                from = checkpoint;
        }
        r.window = WINDOW;
        report->scanned = from;
        if (rc == HSL_OK)
            rc = walk(&r, &in, from, from != HSL_PAGE);
        if (torn_footer && report->damage == HSL_DAMAGE_FRAME)
            report->damage = HSL_DAMAGE_FOOTER;
    }
    log->loaded = s;
    tell_cover(s, report);
    if (rc == HSL_DAMAGED) {
        report->damage = HSL_DAMAGE_SEQUENCE;
        rc = HSL_OK;
    }
    bool keep = log->cfg.follower && !s->sealed;
    hsl_scan_keep(log, keep ? r.fd : -1);
    if (keep)
        r.fd = -1;
    close_segment(&r);
    return rc;
fail:
    free(s);
    close_segment(&r);
    return rc;
}

/* Puts one segment into the index. `checkpoint` is an offset to start the walk from, or 0. */
int hsl_log_load_segment(struct hsl_log *log, uint64_t number, uint64_t checkpoint,
                         struct hsl_segment_report *report)
{
    return load_segment(log, number, checkpoint, 0, report);
}

int hsl_log_load_active(struct hsl_log *log, uint64_t number, uint64_t checkpoint, uint64_t limit,
                        struct hsl_segment_report *report)
{
    return load_segment(log, number, checkpoint, limit, report);
}

/* Reads [off, off + len), or what there is of it, into the window, which has room for it. */
static int fill(struct reader *r, uint64_t off, size_t len)
{
    const struct hsl_io *io = r->log->io;
    r->off = off;
    for (r->len = 0; r->len < len;) {
        int64_t n = io->pread(io->ctx, r->fd, r->buf + r->len, len - r->len, off + r->len);
        if (n < 0)
            return hsl_fail(r->log, "read", "segment", (int)-n);
        if (n == 0)
            break;
        r->len += (size_t)n;
    }
    return HSL_OK;
}

/* Padded length of the frame at an offset in the window, as its header says. */
static size_t stated_length(const struct reader *r, const struct hsl_segment *s, uint64_t off)
{
    struct hsl_frame_header h;
    if (off + sizeof h > r->off + r->len)
        return HSL_PAGE;
    memcpy(&h, r->buf + (off - r->off), sizeof h);
    if (!header_valid(&h, s->uid, off) || h.body_len > FRAME_MAX)
        return HSL_PAGE;
    return hsl_align_page(sizeof h + h.body_len);
}

/* Takes in the frames that are whole in a window of at least `need` bytes; its memory then serves
 * cursors. *need: what the next one must hold at least. */
static int scan_window(struct reader *r, struct insert *in, uint64_t upto, bool told, size_t *need)
{
    struct hsl_log *log = r->log;
    struct hsl_segment *s = in->segment;
    uint64_t from = s->end;
    size_t len = *need > log->cfg.chunk_bytes ? *need : log->cfg.chunk_bytes;
    if (len > upto - from)
        len = upto - from;
    struct hsl_chunk *chunk = hsl_chunk_take(log, len);
    if (!chunk)
        return HSL_NO_MEMORY;
    r->buf = chunk->mem + chunk->used;
    r->cap = len;
    r->off = from;
    r->len = len;
    int rc = HSL_OK;
    if (told)
        rc = hsl_tail_copy(log, s->number, from, len, r->buf) ? HSL_OK : HSL_DAMAGE_FRAME;
    else
        rc = fill(r, from, len);
    r->size = from + r->len;
    if (rc == HSL_OK)
        *need = HSL_PAGE;
    while (rc == HSL_OK && s->end < r->size) {
        *need = stated_length(r, s, s->end);
        if (s->end + *need > r->size && r->size < upto)
            break;
        size_t frame;
        rc = accept_frame(r, in, s->end, false, &frame);
        if (rc == HSL_OK)
            s->end += frame;
    }
    if (rc == HSL_OK && r->len < len)
        rc = HSL_DAMAGE_FRAME; /* the file ends before what is durable */
    hsl_chunk_keep(log, chunk, s->number, from, s->end - from);
    return rc == HSL_DAMAGED ? HSL_DAMAGE_SEQUENCE : rc;
}

int hsl_scan_on(struct hsl_log *log, struct hsl_segment *s, int fd, uint64_t upto,
                struct hsl_segment_report *report)
{
    struct reader r = {.log = log, .fd = fd};
    struct insert in = {.log = log, .segment = s, .report = report, .durable = upto};
    in.hole = log->scan_hole;
    int rc = HSL_OK;
    for (size_t need = HSL_PAGE; rc == HSL_OK && s->end < upto;) {
        rc = scan_window(&r, &in, upto, true, &need);
        if (rc > 0)
            rc = scan_window(&r, &in, upto, false, &need);
    }
    report->end = s->end;
    report->file_bytes = upto;
    if (rc > 0) {
        report->damage = rc;
        rc = HSL_DAMAGED;
    }
    return rc;
}

int hsl_scan_seal(struct hsl_log *log, struct hsl_segment *s, int fd,
                  struct hsl_segment_report *report)
{
    struct reader r = {.log = log, .fd = fd, .window = HSL_PAGE};
    struct insert in = {.log = log, .segment = s, .report = report, .seal = true};
    int64_t size = log->io->size(log->io->ctx, fd);
    if (size < 0)
        return hsl_fail(log, "size", "segment", (int)-size);
    memset(report, 0, sizeof *report);
    r.size = report->file_bytes = (uint64_t)size;
    bool loaded;
    int rc = load_footer(&r, &in, &loaded);
    free(r.buf);
    if (rc != HSL_OK || !loaded)
        return rc;
    lock_index(log);
    s->file_bytes = (uint64_t)size;
    struct hsl_row *rows = s->rows;
    s->rows = NULL;
    s->rows_len = s->rows_cap = s->rows_checkpointed = 0;
    unlock_index(log);
    free(rows);
    return HSL_OK;
}

int hsl_scan_adopt(struct hsl_log *log, uint64_t number, uint64_t after, uint64_t unsealed,
                   struct hsl_segment_report *report)
{
    struct reader r = {.log = log, .window = HSL_PAGE, .fd = -1};
    struct hsl_segment *s = NULL;
    int rc = open_segment(log, number, &r, &s, report);
    bool known = rc == HSL_OK && report->damage == HSL_DAMAGE_NONE && report->number == number;
    if (!known || report->covers_first > after + 1 || report->covers_last >= unsealed) {
        close_segment(&r);
        free(s);
        return rc != HSL_OK ? rc : known ? HSL_AGAIN : HSL_DAMAGED;
    }
    struct insert in = {.log = log, .segment = s, .report = report, .adopt = true, .hole = true};
    bool loaded;
    lock_index(log);
    rc = hsl_segments_add(log, s);
    s->live = 1; /* until it has all its runs */
    unlock_index(log);
    if (rc != HSL_OK) {
        close_segment(&r);
        free(s);
        return rc;
    }
    log->scan_hole = true;
    rc = load_footer(&r, &in, &loaded);
    close_segment(&r);
    if (rc == HSL_IO) { /* before any of its runs */
        take_out(log, s);
        free(s);
        return rc;
    }
    lock_index(log);
    s->live--;
    unlock_index(log);
    if (rc == HSL_OK && report->covers_last > after)
        log->scan_number = report->covers_last;
    log->loaded = s;
    return rc == HSL_OK && !loaded ? HSL_DAMAGED : rc;
}

int64_t hsl_log_lost(struct hsl_log *log, struct hsl_range *out, size_t cap)
{
    for (size_t i = 0; i < log->lost_len && i < cap; i++)
        out[i] = log->lost[i];
    return (int64_t)log->lost_len;
}

/* Walks the frames of a sealed segment without touching the index; the rows go to `out`. */
static int collect_rows(struct reader *r, const struct hsl_segment *s, struct hsl_segment *out)
{
    const uint8_t *page;
    int err;
    for (uint64_t off = HSL_PAGE; off < s->footer_off;) {
        struct hsl_frame_header h;
        page = view(r, off, HSL_PAGE, &err);
        if (!page)
            return err ? hsl_fail(r->log, "read", "segment", err) : HSL_DAMAGED;
        memcpy(&h, page, sizeof h);
        if (!header_valid(&h, s->uid, off) || h.body_len > FRAME_MAX)
            return HSL_DAMAGED;
        size_t len = hsl_align_page(sizeof h + h.body_len);
        page = view(r, off, len, &err);
        if (!page)
            return err ? hsl_fail(r->log, "read", "segment", err) : HSL_DAMAGED;
        if (!(h.flags & HSL_FRAME_CHECKPOINT)) {
            if (!blocks_valid(page + sizeof h, &h))
                return HSL_DAMAGED;
            int rc = frame_rows(page + sizeof h, h.blocks, off + sizeof h, push_row, out);
            if (rc != HSL_OK)
                return rc;
        }
        off += len;
    }
    return HSL_OK;
}

int hsl_segment_rows(struct hsl_log *log, const struct hsl_segment *s, int fd, uint8_t **rows)
{
    struct reader r = {.log = log, .fd = fd, .size = s->footer_off, .window = WINDOW};
    struct hsl_segment out = {0};
    struct hsl_footer_size size;
    int rc = collect_rows(&r, s, &out);
    free(r.buf);
    uint8_t *buf = NULL;
    if (rc == HSL_OK && out.rows_len != s->blocks)
        rc = HSL_DAMAGED;
    if (rc == HSL_OK) {
        buf = malloc(hsl_footer_bound(out.rows_len));
        rc = buf ? hsl_footer_encode(out.rows, out.rows_len, buf, &size) : HSL_NO_MEMORY;
    }
    if (rc == HSL_OK && size.rows != s->footer_rows)
        rc = HSL_DAMAGED;
    free(out.rows);
    if (rc != HSL_OK)
        free(buf);
    else
        *rows = buf;
    return rc;
}

/* Copies the accepted prefix to a new file that replaces the old one: pages that a failed sync
 * left only in the cache are written once more. */
static int rewrite_loaded(struct hsl_log *log, struct hsl_segment *s, const char *path)
{
    const struct hsl_io *io = log->io;
    char copy[HSL_PATH_MAX + 64], dir[HSL_PATH_MAX + 64];
    hsl_path(log, copy, "segments/copy");
    hsl_path(log, dir, "segments");
    uint8_t *buf = hsl_page_alloc(WINDOW);
    int from = io->open(io->ctx, path, HSL_OPEN_READ);
    int to = io->open(io->ctx, copy, HSL_OPEN_READ | HSL_OPEN_WRITE | HSL_OPEN_CREATE);
    int err = !buf ? -ENOMEM : from < 0 ? from : to < 0 ? to : io->truncate(io->ctx, to, 0);
    if (err == 0)
        err = io->truncate(io->ctx, to, s->capacity);
    for (uint64_t off = 0; err == 0 && off < s->end;) {
        size_t n = s->end - off < WINDOW ? s->end - off : WINDOW;
        err = hsl_read_all(io, from, buf, n, off);
        if (err == 0)
            err = hsl_write_all(io, to, buf, n, off);
        off += n;
    }
    if (err == 0)
        err = io->sync(io->ctx, to);
    if (err < 0 && to >= 0)
        io->unlink(io->ctx, copy); /* a full disk needs the space */
    if (err == 0)
        err = io->rename(io->ctx, copy, path);
    if (err == 0)
        err = io->sync_dir(io->ctx, dir);
    if (from >= 0)
        io->close(io->ctx, from);
    if (to >= 0)
        io->close(io->ctx, to);
    free(buf);
    return err < 0 ? hsl_fail(log, "rewrite", path, -err) : HSL_OK;
}

int hsl_log_seal_loaded(struct hsl_log *log, int32_t rewrite)
{
    struct hsl_segment *s = log->loaded;
    char path[HSL_PATH_MAX + 64];
    hsl_segment_path(log, path, s->number);
    if (rewrite) {
        int rc = rewrite_loaded(log, s, path);
        if (rc != HSL_OK)
            return rc;
    }
    int flags = HSL_OPEN_READ | HSL_OPEN_WRITE | (log->direct ? HSL_OPEN_DIRECT : 0);
    if (s->fd >= 0)
        log->io->close(log->io->ctx, s->fd); /* of an attempt that failed */
    s->fd = log->io->open(log->io->ctx, path, flags);
    return s->fd < 0 ? hsl_fail(log, "open", path, -s->fd) : hsl_seal(log, s);
}
