/* Reading segments back at open.
 *
 * A sealed segment with a valid directory is trusted: its runs go to the index, its rows are read
 * when they are asked for, its blocks are checked when they are read. Any other segment is walked
 * frame by frame. The walk reports where it stopped and what valid frames lie behind; whether that
 * is a torn tail or damage is decided by the caller.
 */
#include "scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW (4u << 20)
#define CHECKPOINT_WINDOW (64u << 10) /* most of them take a few KiB */
#define LOOK_AHEAD (64u << 20)

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
        const uint8_t *at = hsl_reader_view(r, off, HSL_PAGE, &err);
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
        at = hsl_reader_view(r, off, hsl_align_page(sizeof h + h.body_len), &err);
        if (!at || !hsl_intake_blocks_valid(at + sizeof h, &h))
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
        int rc = hsl_intake_frame(r, in, off, from_checkpoint, &len);
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
        const uint8_t *page = hsl_reader_view(r, off, HSL_PAGE, &err);
        struct hsl_frame_header h;
        if (!page || off % HSL_PAGE || count == sizeof chain / sizeof *chain)
            return err ? hsl_fail(in->log, "read", "segment", err) : HSL_OK;
        memcpy(&h, page, sizeof h);
        if (!header_valid(&h, in->segment->uid, off) || !(h.flags & HSL_FRAME_CHECKPOINT) ||
            h.body_len > FRAME_MAX)
            return HSL_OK;
        page = hsl_reader_view(r, off, hsl_align_page(sizeof h + h.body_len), &err);
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
        const uint8_t *page =
            hsl_reader_view(r, chain[count].off, hsl_align_page(head + len), &err);
        if (!page)
            return hsl_fail(in->log, "read", "segment", err ? err : EIO);
        int rc = hsl_intake_checkpoint(in, page + head, len);
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

int hsl_scan_load_footer(struct reader *r, struct insert *in, bool *loaded)
{
    struct hsl_segment_report *report = in->report;
    struct hsl_segment *s = in->segment;
    struct hsl_trailer t;
    int err;
    *loaded = false;
    if (r->size < 2 * HSL_PAGE || r->size % HSL_PAGE)
        return HSL_OK;
    const uint8_t *page = hsl_reader_view(r, r->size - HSL_PAGE, HSL_PAGE, &err);
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
    const uint8_t *dir = hsl_reader_view(r, from, at - from + t.dir_len + 4 * pieces, &err);
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
    rc = hsl_dir_decode(dir, t.dir_len, t.rows_len, t.shards, t.blocks, hsl_intake_runs(in), in);
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
    const uint8_t *page = hsl_reader_view(r, 0, HSL_PAGE, &err);
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

int hsl_scan_open_segment(struct hsl_log *log, uint64_t number, struct reader *r,
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

void hsl_scan_close_segment(struct reader *r)
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
    int rc = hsl_scan_open_segment(log, number, &r, &s, report);
    free(s);
    hsl_scan_close_segment(&r);
    return rc;
}

/* Makes a file known in whose place another stands: there is nothing in it but space to free. */
int hsl_log_add_replaced(struct hsl_log *log, uint64_t number)
{
    struct hsl_segment_report report;
    struct reader r = {.log = log, .window = HSL_PAGE, .fd = -1};
    struct hsl_segment *s = NULL;
    int rc = hsl_scan_open_segment(log, number, &r, &s, &report);
    hsl_scan_close_segment(&r);
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

void hsl_scan_take_out(struct hsl_log *log, const struct hsl_segment *s)
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
    int rc = hsl_scan_open_segment(log, number, &r, &s, report);
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
        rc = hsl_scan_load_footer(&r, &in, &loaded);
    if (rc == HSL_IO) { /* nothing of it is in the index: whoever tries again begins anew */
        hsl_scan_take_out(log, s);
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
    hsl_scan_close_segment(&r);
    return rc;
fail:
    free(s);
    hsl_scan_close_segment(&r);
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

int64_t hsl_log_lost(struct hsl_log *log, struct hsl_range *out, size_t cap)
{
    for (size_t i = 0; i < log->lost_len && i < cap; i++)
        out[i] = log->lost[i];
    return (int64_t)log->lost_len;
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
