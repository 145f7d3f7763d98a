/* What a segment holds into the index: frames that were walked, runs that its directory names.
 *
 * A frame is accepted if and only if its header CRC, uid, own offset, number, epoch and chain hold,
 * every block in it verifies, and every block continues its shard.
 */
#include "scan.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW (4u << 20)

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

/* Do records from `first` on continue their shard? What holds for every block and every run. */
static bool continues(const struct insert *in, uint64_t next, uint64_t first)
{
    return next == 1 || first == next || (in->hole && first > next);
}

void hsl_intake_newest(struct hsl_log *log, struct hsl_shard *shard, uint64_t time_ms,
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
    struct hsl_entry entry = hsl_row_entry(row, in->segment->number);
    if (shard->durable_next == 1 && row->seq != 1)
        shard->gap_end = row->seq;
    int rc = hsl_index_insert(log, in->segment, row->shard, &entry);
    if (rc == HSL_OK)
        rc = hsl_rows_push(in->segment, row);
    hsl_intake_newest(log, shard, row->time_ms, row->order);
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
    hsl_intake_newest(in->log, shard, run->last_time, 0);
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
    hsl_intake_newest(in->log, shard, run->last_time, 0);
    return HSL_OK;
}

hsl_run_fn hsl_intake_runs(const struct insert *in)
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
        struct hsl_row row = hsl_block_row(&h, off + (uint64_t)(at - body));
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

bool hsl_intake_blocks_valid(const uint8_t *body, const struct hsl_frame_header *h)
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

int hsl_intake_checkpoint(struct insert *in, const uint8_t *body, size_t len)
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
        const uint8_t *at = hsl_reader_view(r, off, HSL_PAGE, &err);
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

int hsl_intake_frame(struct reader *r, struct insert *in, uint64_t off, bool from_checkpoint,
                     size_t *len)
{
    struct hsl_segment *s = in->segment;
    int err;
    const uint8_t *at = hsl_reader_view(r, off, HSL_PAGE, &err);
    if (!at)
        return err ? hsl_fail(in->log, "read", "segment", err) : HSL_DAMAGE_FRAME;
    struct hsl_frame_header h;
    memcpy(&h, at, sizeof h);
    if (!header_valid(&h, s->uid, off) || h.epoch != s->epoch || h.body_len > FRAME_MAX)
        return HSL_DAMAGE_FRAME;
    if (!from_checkpoint && (h.number != s->frames + 1 || h.chain != s->last_crc))
        return HSL_DAMAGE_FRAME;
    *len = hsl_align_page(sizeof h + h.body_len);
    at = hsl_reader_view(r, off, *len, &err);
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
        if (!hsl_intake_blocks_valid(body, &h))
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

/* Walks the frames of a sealed segment without touching the index; the rows go to `out`. */
static int collect_rows(struct reader *r, const struct hsl_segment *s, struct hsl_segment *out)
{
    const uint8_t *page;
    int err;
    for (uint64_t off = HSL_PAGE; off < s->footer_off;) {
        struct hsl_frame_header h;
        page = hsl_reader_view(r, off, HSL_PAGE, &err);
        if (!page)
            return err ? hsl_fail(r->log, "read", "segment", err) : HSL_DAMAGED;
        memcpy(&h, page, sizeof h);
        if (!header_valid(&h, s->uid, off) || h.body_len > FRAME_MAX)
            return HSL_DAMAGED;
        size_t len = hsl_align_page(sizeof h + h.body_len);
        page = hsl_reader_view(r, off, len, &err);
        if (!page)
            return err ? hsl_fail(r->log, "read", "segment", err) : HSL_DAMAGED;
        if (!(h.flags & HSL_FRAME_CHECKPOINT)) {
            if (!hsl_intake_blocks_valid(page + sizeof h, &h))
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
