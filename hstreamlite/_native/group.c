/* One group: its frames get their place, their bytes, and go out.
 *
 * A group lies in one segment, behind the group before it. Laying it out is serial, because each
 * frame header names the CRC of the one before; writing is not. What a header states as durable is
 * what was durable when it was built, never the group in flight before it: if that one is torn by
 * a crash and this one is not, recovery finds valid frames behind a hole that claim nothing beyond
 * it, which is a torn tail.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_BYTES (4u << 20)

/* Does the frame fit the active segment behind `taken` claimed bytes? A full segment takes one
 * more marker out of its overhead: without it a flipped bit in the last frame would look like a
 * torn tail. */
bool hsl_group_fits(const struct hsl_log *log, const struct hsl_frame *frame, uint64_t taken)
{
    bool marker = frame->blocks == 0 && (frame->flags & HSL_FRAME_IDLE);
    return log->active && (marker || taken + hsl_claim(frame->len, frame->blocks) <=
                                         hsl_segment_room(log->active));
}

static uint64_t group_bytes(const struct hsl_log *log)
{
    uint64_t share = log->cfg.stage_bytes / 4;
    return share < GROUP_BYTES ? share : GROUP_BYTES;
}

/* Takes frames off the queue, as many as belong together and are complete: at least the first,
 * which is (hsl_may_submit) and fits (roll). stage_mu and `writing` held. */
void hsl_group_take(struct hsl_log *log, struct hsl_group *g)
{
    uint64_t claim = 0;
    g->count = 0;
    g->bytes = 0;
    g->blocks = 0;
    while (log->queue_len > 0 && g->count < HSL_GROUP_FRAMES) {
        const struct hsl_frame *frame = &log->queue[log->queue_head];
        if (g->count > 0 &&
            (g->bytes + frame->len > group_bytes(log) || !hsl_group_fits(log, frame, claim) ||
             frame->ticket == log->copying))
            break;
        if (g->count > 0 && !log->cfg.threaded && hsl_random(&log->course) % 2 == 0)
            break; /* the writer came before the rest was staged */
        claim += hsl_claim(frame->len, frame->blocks);
        g->bytes += frame->len;
        g->blocks += frame->blocks;
        g->frames[g->count++] = *frame;
        log->queue_head = (log->queue_head + 1) % HSL_QUEUE_MAX;
        log->queue_len--;
    }
}

static void add_write(struct hsl_group *g, const uint8_t *from, size_t len, uint64_t at)
{
    struct hsl_write *last = g->writes_len > 0 ? &g->writes[g->writes_len - 1] : NULL;
    if (last && last->from + last->len == from && last->at + last->len == at)
        last->len += len;
    else
        g->writes[g->writes_len++] = (struct hsl_write){from, len, at};
}

void hsl_frame_finish(struct hsl_segment *s, struct hsl_frame_header *header, uint64_t off)
{
    header->magic = HSL_FRAME_MAGIC;
    header->uid = s->uid;
    header->page = (uint32_t)(off / HSL_PAGE);
    header->number = ++s->frames;
    header->chain = s->last_crc;
    header->epoch = s->epoch;
    header->crc = hsl_crc32c(0, (uint8_t *)header + 8, sizeof *header - 8);
    s->last_crc = header->crc;
}

static void finish_header(struct hsl_log *log, struct hsl_frame_header *header, uint64_t off)
{
    struct hsl_segment *active = log->active;
    header->durable = log->durable_at;
    hsl_frame_finish(active, header, off);
}

/* The index of the blocks since the last checkpoint, as the first frame of the group. */
static void build_checkpoint(struct hsl_log *log, struct hsl_group *g)
{
    struct hsl_segment *active = log->active;
    size_t rows = active->rows_len - active->rows_checkpointed;
    size_t bound = sizeof(struct hsl_frame_header) + sizeof(struct hsl_checkpoint) +
                   hsl_footer_bound(rows);
    uint8_t *page = rows > 0 ? hsl_page_alloc(bound) : NULL;
    if (!page)
        return;
    struct hsl_frame_header header = {.flags = HSL_FRAME_CHECKPOINT};
    struct hsl_checkpoint point = {
        .previous = active->checkpoint,
        .blocks = (uint32_t)rows,
        .blocks_before = active->rows_checkpointed,
    };
    uint8_t *body = page + sizeof header;
    struct hsl_footer_size size;
    if (hsl_footer_encode(active->rows + active->rows_checkpointed, rows, body + sizeof point,
                          &size) != HSL_OK) {
        free(page);
        return; /* a later one will hold these rows too */
    }
    point.shards = size.shards;
    point.rows_len = (uint32_t)size.rows;
    point.dir_len = (uint32_t)size.dir;
    memcpy(body, &point, sizeof point);
    header.body_len = (uint32_t)(sizeof point + size.rows + size.dir);
    header.body_crc = hsl_crc32c(0, body, header.body_len);
    size_t used = sizeof header + header.body_len, len = hsl_align_page(used);
    memset(body + header.body_len, 0, len - used);
    hsl_zeros_await(log, g->end + len);
    finish_header(log, &header, g->end);
    memcpy(page, &header, sizeof header);
    add_write(g, page, len, g->end);
    g->page = page;
    g->checkpoint = active->checkpoint = g->end;
    active->rows_checkpointed = active->rows_len;
    g->end += len;
    active->checkpoint_end = g->end;
}

/* Checksums of the blocks, and their rows for the footer. */
static int finish_blocks(struct hsl_log *log, const struct hsl_frame *frame, uint64_t off,
                         uint32_t *body_crc)
{
    uint8_t *start = frame->chunk->mem + frame->off, *at = start + sizeof(struct hsl_frame_header);
    uint32_t crc = 0;
    for (uint32_t i = 0; i < frame->blocks; i++) {
        struct hsl_block_header header;
        memcpy(&header, at, sizeof header);
        struct hsl_row row = hsl_block_row(&header, off + (uint64_t)(at - start));
        header.crc = hsl_crc32c(0, at + 8, row.len - 8);
        memcpy(at + 4, &header.crc, 4);
        crc = hsl_crc32c(crc, at + 4, 4);
        int rc = hsl_rows_push(log->active, &row);
        if (rc != HSL_OK)
            return hsl_fail(log, "index", "segment", ENOMEM);
        at += hsl_align8(row.len);
    }
    *body_crc = crc;
    return HSL_OK;
}

static int build_frame(struct hsl_log *log, struct hsl_group *g, uint32_t i)
{
    const struct hsl_frame *frame = &g->frames[i];
    size_t len = hsl_align_page(frame->len);
    struct hsl_frame_header header = {
        .body_len = (uint32_t)(frame->len - sizeof header),
        .blocks = frame->blocks,
        .flags = frame->flags,
    };
    int rc = finish_blocks(log, frame, g->end, &header.body_crc);
    if (rc == HSL_OK)
        rc = hsl_zeros_before(log, g->end, len, g->bytes);
    if (rc != HSL_OK)
        return rc;
    finish_header(log, &header, g->end);
    memcpy(frame->chunk->mem + frame->off, &header, sizeof header);
    add_write(g, frame->chunk->mem + frame->off, len, g->end);
    g->off[i] = g->end;
    g->end += len;
    return HSL_OK;
}

/* Fills in offsets, checksums and headers. `writing` held. */
int hsl_group_build(struct hsl_log *log, struct hsl_group *g)
{
    struct hsl_segment *active = log->active;
    g->segment = active;
    g->end = active->end;
    g->checkpoint = 0;
    g->page = NULL;
    g->writes_len = 0;
    if (g->end - active->checkpoint_end >= log->cfg.checkpoint_bytes)
        build_checkpoint(log, g);
    int rc = HSL_OK;
    for (uint32_t i = 0; i < g->count && rc == HSL_OK; i++)
        rc = build_frame(log, g, i);
    if (rc != HSL_OK)
        free(g->page);
    return rc;
}

/* Moves the end of the segment behind the group, and its claims into it. stage_mu and `writing`
 * held. */
void hsl_group_place(struct hsl_log *log, struct hsl_group *g)
{
    g->segment->end = g->end;
    g->segment->blocks += g->blocks;
    for (uint32_t i = 0; i < g->count; i++)
        log->claimed -= g->frames[i].claim;
}

/* By the group's owner, beside whoever writes another. */
int hsl_group_write(struct hsl_log *log, struct hsl_group *g)
{
    int err = 0;
    for (uint32_t i = 0; i < g->writes_len && err == 0; i++) {
        const struct hsl_write *w = &g->writes[i];
        err = hsl_write_all(log->io, g->segment->fd, w->from, w->len, w->at);
        log->bytes_written += w->len;
    }
    free(g->page);
    g->page = NULL;
    return err < 0 ? hsl_fail(log, "write", "segment", -err) : HSL_OK;
}

/* Returns where the block behind this one begins. */
static const uint8_t *read_block(const uint8_t *at, uint64_t off, uint64_t segment,
                                 uint64_t *shard, struct hsl_entry *out)
{
    struct hsl_block_header header;
    memcpy(&header, at, sizeof header);
    struct hsl_row row = hsl_block_row(&header, off);
    *shard = row.shard;
    *out = hsl_row_entry(&row, segment);
    return at + hsl_align8(row.len);
}

/* The blocks of a durable group go to the index. */
int hsl_group_publish(struct hsl_log *log, const struct hsl_group *g)
{
    uint64_t shards[HSL_FETCHED];
    struct hsl_entry entries[HSL_FETCHED];
    int rc = HSL_OK;
    pthread_mutex_lock(&log->index_mu);
    for (uint32_t i = 0; i < g->count; i++) {
        const struct hsl_frame *frame = &g->frames[i];
        const uint8_t *start = frame->chunk->mem + frame->off;
        const uint8_t *at = start + sizeof(struct hsl_frame_header);
        for (uint32_t left = frame->blocks, n; left > 0 && rc == HSL_OK; left -= n) {
            n = left < HSL_FETCHED ? left : HSL_FETCHED;
            for (uint32_t j = 0; j < n; j++)
                at = read_block(at, g->off[i] + (uint64_t)(at - start), g->segment->number,
                                &shards[j], &entries[j]);
            hsl_index_fetch(log, shards, n);
            for (uint32_t j = 0; j < n && rc == HSL_OK; j++)
                rc = hsl_index_insert(log, g->segment, shards[j], &entries[j]);
        }
    }
    pthread_mutex_unlock(&log->index_mu);
    return rc;
}

/* A durable group is acknowledged. In order; stage_mu held. */
void hsl_group_finish(struct hsl_log *log, struct hsl_group *g)
{
    uint64_t now = log->io->mono_ns(log->io->ctx);
    for (uint32_t i = 0; i < g->count; i++) {
        const struct hsl_frame *frame = &g->frames[i];
        frame->chunk->unwritten--;
        log->stats.frames++;
        log->stats.blocks += frame->blocks;
        log->stats.records += frame->records;
        hsl_cache_add(log, frame, g->segment->number, g->off[i]);
        if (frame->users > 0)
            hsl_histogram_count(&log->append_latency, now - frame->staged_ns, frame->users);
    }
    const struct hsl_frame *last = &g->frames[g->count - 1];
    hsl_os_stage_release(log, last->stage_end);
    log->idle_marked = g->count == 1 && (last->flags & HSL_FRAME_IDLE) != 0;
    log->last_write_ns = now;
    uint64_t before = log->durable_ticket;
    atomic_store_explicit(&log->durable_ticket, last->ticket, memory_order_release);
    hsl_wake_durable(log, before, last->ticket);
}
