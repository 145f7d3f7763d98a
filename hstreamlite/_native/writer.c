/* Group commit: staged frames become durable, strictly in order.
 *
 * One caller at a time leads (`writing`): it takes the queued frames, fills in checksums and
 * headers, writes, syncs once, publishes the blocks in the index and moves the durable ticket.
 * An idle store's caller leads for itself; while a write is in flight later callers wait and the
 * writer thread takes the next group, so that nobody pays a hand-over for a single append.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES (4u << 20)
#define SMALL_GROUP (128u << 10)

struct run { /* adjacent frames of one chunk that go out in one write */
    struct hsl_chunk *chunk;
    size_t from, to;
    uint64_t at;
};

struct batch {
    struct hsl_frame frames[HSL_BATCH_MAX];
    uint64_t segment[HSL_BATCH_MAX];
    uint64_t off[HSL_BATCH_MAX];
    uint32_t count;
    uint32_t written; /* frames whose claim was given back by a roll */
    uint64_t bytes;   /* of all frames */
    uint64_t end;     /* in the active segment */
    uint64_t blocks;
    struct run run;
};

static int flush_run(struct hsl_log *log, struct run *run)
{
    if (run->to == run->from)
        return HSL_OK;
    struct hsl_segment *active = log->active;
    size_t len = run->to - run->from;
    int err = hsl_write_all(log->io, active->fd, run->chunk->mem + run->from, len, run->at);
    run->from = run->to = 0;
    log->bytes_written += len;
    return err < 0 ? hsl_fail(log, "write", "segment", -err) : HSL_OK;
}

/* Zeros are written ahead of small frames: a sync of blocks that were written before costs half of
 * one that must also convert reserved extents. */
static int prewrite(struct hsl_log *log, uint64_t end, uint64_t len, uint64_t group)
{
    struct hsl_segment *active = log->active;
    if (active->prewritten < end)
        active->prewritten = end;
    if (group >= SMALL_GROUP) {
        if (active->prewritten < end + len)
            active->prewritten = end + len;
        return HSL_OK;
    }
    if (end + len <= active->prewritten || log->cfg.prewrite_bytes == 0)
        return HSL_OK;
    uint64_t to = active->prewritten + log->cfg.prewrite_bytes;
    if (to > active->capacity)
        to = active->capacity & ~(uint64_t)(HSL_PAGE - 1);
    if (to <= active->prewritten)
        return HSL_OK;
    size_t room = to - active->prewritten;
    if (!log->zeros) {
        log->zeros = hsl_page_alloc(log->cfg.prewrite_bytes);
        if (!log->zeros)
            return HSL_OK;
        memset(log->zeros, 0, hsl_align_page(log->cfg.prewrite_bytes));
    }
    int err = hsl_write_all(log->io, active->fd, log->zeros, room, active->prewritten);
    if (err < 0)
        return hsl_fail(log, "prewrite", "segment", -err);
    log->bytes_prewritten += room;
    active->prewritten = to;
    return HSL_OK;
}

static void seal_header(struct hsl_log *log, struct hsl_frame_header *header, uint64_t off)
{
    struct hsl_segment *active = log->active;
    header->magic = HSL_FRAME_MAGIC;
    header->uid = active->uid;
    header->page = (uint32_t)(off / HSL_PAGE);
    header->number = ++active->frames;
    header->chain = active->last_crc;
    header->durable = log->durable_at;
    header->epoch = active->epoch;
    header->zero = 0;
    header->crc = hsl_crc32c(0, (uint8_t *)header + 8, sizeof *header - 8);
    active->last_crc = header->crc;
}

static int write_checkpoint(struct hsl_log *log, struct batch *b)
{
    struct hsl_segment *active = log->active;
    size_t rows = active->rows_len - active->rows_checkpointed;
    size_t bound = sizeof(struct hsl_frame_header) + sizeof(struct hsl_checkpoint) +
                   hsl_footer_bound(rows);
    if (rows == 0)
        return HSL_OK;
    int rc = flush_run(log, &b->run);
    if (rc != HSL_OK)
        return rc;
    uint8_t *page = hsl_page_alloc(bound);
    if (!page)
        return HSL_OK;
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
        return HSL_OK; /* a later one will hold these rows too */
    }
    point.shards = size.shards;
    point.rows_len = (uint32_t)size.rows;
    point.dir_len = (uint32_t)size.dir;
    memcpy(body, &point, sizeof point);
    header.body_len = (uint32_t)(sizeof point + size.rows + size.dir);
    header.body_crc = hsl_crc32c(0, body, header.body_len);
    size_t used = sizeof header + header.body_len, len = hsl_align_page(used);
    memset(body + header.body_len, 0, len - used);
    seal_header(log, &header, b->end);
    memcpy(page, &header, sizeof header);
    int err = hsl_write_all(log->io, active->fd, page, len, b->end);
    free(page);
    if (err < 0)
        return hsl_fail(log, "write checkpoint", "segment", -err);
    active->checkpoint = b->end;
    active->rows_checkpointed = active->rows_len;
    b->end += len;
    active->checkpoint_end = b->end;
    log->bytes_written += len;
    return HSL_OK;
}

/* Checksums of the blocks, and their rows for the footer. */
static int finish_blocks(struct hsl_log *log, const struct hsl_frame *frame, uint64_t off,
                         uint32_t *body_crc)
{
    uint8_t *at = frame->chunk->mem + frame->off + sizeof(struct hsl_frame_header);
    uint32_t crc = 0;
    for (uint32_t i = 0; i < frame->blocks; i++) {
        struct hsl_block_header header;
        memcpy(&header, at, sizeof header);
        uint32_t len = (uint32_t)sizeof header + header.ext_len + header.payload_len;
        header.crc = hsl_crc32c(0, at + 8, len - 8);
        memcpy(at + 4, &header.crc, 4);
        crc = hsl_crc32c(crc, at + 4, 4);
        struct hsl_row row = {
            .shard = header.shard,
            .seq = header.seq,
            .order = header.order,
            .time_ms = header.time_ms,
            .off8 = (uint32_t)((off + (uint64_t)(at - frame->chunk->mem) - frame->off) / 8),
            .len = len,
            .count = header.count,
        };
        int rc = hsl_rows_push(log->active, &row);
        if (rc != HSL_OK)
            return hsl_fail(log, "index", "segment", ENOMEM);
        at += hsl_align8(len);
    }
    *body_crc = crc;
    return HSL_OK;
}

static int roll_batch(struct hsl_log *log, struct batch *b, uint32_t next)
{
    int rc = flush_run(log, &b->run);
    if (rc != HSL_OK)
        return rc;
    if (log->active) {
        /* A footer is believed without a look at the frames, so they must be durable before it. */
        int err = b->end > log->active->end ? log->io->datasync(log->io->ctx, log->active->fd) : 0;
        if (err < 0)
            return hsl_fail(log, "sync", "segment", -err);
        pthread_mutex_lock(&log->stage_mu); /* appenders look at the room */
        log->active->end = b->end;
        log->active->blocks += b->blocks;
        pthread_mutex_unlock(&log->stage_mu);
    }
    rc = hsl_roll(log);
    if (rc != HSL_OK)
        return rc;
    pthread_mutex_lock(&log->stage_mu);
    for (; b->written < next; b->written++)
        log->claimed -= b->frames[b->written].claim;
    pthread_mutex_unlock(&log->stage_mu);
    b->end = log->active->end;
    b->blocks = 0;
    return HSL_OK;
}

static int write_frame(struct hsl_log *log, struct batch *b, uint32_t i)
{
    struct hsl_frame *frame = &b->frames[i];
    size_t len = hsl_align_page(frame->len);
    int rc;
    if (log->active && b->end - log->active->checkpoint_end >= log->cfg.checkpoint_bytes) {
        rc = write_checkpoint(log, b);
        if (rc != HSL_OK)
            return rc;
    }
    uint64_t used = log->active ? b->end - log->active->end + b->blocks * HSL_ROW_CLAIM : 0;
    /* A full segment takes one more marker out of its overhead: without it a flipped bit in the
     * last frame would look like a torn tail. */
    bool marker = frame->blocks == 0 && (frame->flags & HSL_FRAME_IDLE);
    if (!log->active ||
        (!marker &&
         used + hsl_claim(frame->len, frame->blocks) > hsl_segment_room(log->active))) {
        rc = roll_batch(log, b, i);
        if (rc != HSL_OK)
            return rc;
    }
    struct hsl_frame_header header = {
        .body_len = (uint32_t)(frame->len - sizeof header),
        .blocks = frame->blocks,
        .flags = frame->flags,
    };
    rc = finish_blocks(log, frame, b->end, &header.body_crc);
    if (rc == HSL_OK)
        rc = prewrite(log, b->end, len, b->bytes);
    if (rc != HSL_OK)
        return rc;
    seal_header(log, &header, b->end);
    memcpy(frame->chunk->mem + frame->off, &header, sizeof header);
    if (b->run.chunk != frame->chunk || b->run.to != frame->off || b->run.to == b->run.from) {
        rc = flush_run(log, &b->run);
        if (rc != HSL_OK)
            return rc;
        b->run = (struct run){frame->chunk, frame->off, frame->off, b->end};
    }
    b->run.to += len;
    b->segment[i] = log->active->number;
    b->off[i] = b->end;
    b->end += len;
    b->blocks += frame->blocks;
    return HSL_OK;
}

static int publish(struct hsl_log *log, const struct batch *b)
{
    int rc = HSL_OK;
    pthread_mutex_lock(&log->index_mu);
    for (uint32_t i = 0; i < b->count && rc == HSL_OK; i++) {
        const struct hsl_frame *frame = &b->frames[i];
        struct hsl_segment *segment = hsl_segment_find(log, b->segment[i]);
        const uint8_t *start = frame->chunk->mem + frame->off, *at = start + 64;
        for (uint32_t j = 0; j < frame->blocks && rc == HSL_OK; j++) {
            struct hsl_block_header header;
            memcpy(&header, at, sizeof header);
            struct hsl_entry entry = {
                .seq = header.seq,
                .order = header.order,
                .time_ms = header.time_ms,
                .segment = (uint32_t)b->segment[i],
                .off8 = (uint32_t)((b->off[i] + (uint64_t)(at - start)) / 8),
                .len = (uint32_t)sizeof header + header.ext_len + header.payload_len,
                .count = header.count,
            };
            rc = hsl_index_insert(log, segment, header.shard, &entry);
            at += hsl_align8(entry.len);
        }
    }
    pthread_mutex_unlock(&log->index_mu);
    return rc;
}

static int write_batch(struct hsl_log *log, struct batch *b)
{
    b->end = log->active ? log->active->end : 0;
    b->blocks = 0;
    uint64_t checkpoint = log->active ? log->active->checkpoint : 0;
    for (uint32_t i = 0; i < b->count; i++) {
        int rc = write_frame(log, b, i);
        if (rc != HSL_OK)
            return rc;
    }
    int rc = flush_run(log, &b->run);
    if (rc != HSL_OK)
        return rc;
    int err = log->io->datasync(log->io->ctx, log->active->fd);
    if (err < 0)
        return hsl_fail(log, "sync", "segment", -err);
    log->syncs++;
    log->durable_at = log->active->number << 32 | b->end;
    hsl_tail_publish(log, HSL_TAIL_OPEN);
    if (log->active->checkpoint != 0 && log->active->checkpoint != checkpoint) {
        log->super.checkpoint = log->active->number << 32 | log->active->checkpoint;
        rc = hsl_super_write(log);
        if (rc != HSL_OK)
            return rc;
    }
    return publish(log, b);
}

static void take_batch(struct hsl_log *log, struct batch *b)
{
    size_t bytes = 0;
    b->count = 0;
    b->written = 0;
    b->run = (struct run){0};
    while (b->count < log->queue_len && b->count < HSL_BATCH_MAX) {
        const struct hsl_frame *frame =
            &log->queue[(log->queue_head + b->count) % HSL_QUEUE_MAX];
        if (b->count > 0 && bytes + frame->len > BATCH_BYTES)
            break;
        bytes += frame->len;
        b->frames[b->count++] = *frame;
    }
    b->bytes = bytes;
}

static void finish_batch(struct hsl_log *log, struct batch *b)
{
    struct hsl_segment *active = log->active;
    active->end = b->end;
    active->blocks += b->blocks;
    for (uint32_t i = 0; i < b->count; i++) {
        const struct hsl_frame *frame = &b->frames[i];
        if (i >= b->written)
            log->claimed -= frame->claim;
        frame->chunk->unwritten--;
        log->stats.frames++;
        log->stats.blocks += frame->blocks;
        log->stats.records += frame->records;
        hsl_cache_add(log, frame, b->segment[i], b->off[i]);
    }
    log->queue_head = (log->queue_head + b->count) % HSL_QUEUE_MAX;
    log->queue_len -= b->count;
    const struct hsl_frame *last = &b->frames[b->count - 1];
    hsl_os_stage_release(log, last->stage_end);
    log->idle_marked = b->count == 1 && (last->flags & HSL_FRAME_IDLE) != 0;
    log->last_write_ns = log->io->mono_ns(log->io->ctx);
    atomic_store_explicit(&log->durable_ticket, last->ticket, memory_order_release);
}

/* Writes one group. stage_mu held and !writing on entry and on return; released between. */
void hsl_lead(struct hsl_log *log)
{
    struct batch b;
    hsl_stage_close_frame(log);
    take_batch(log, &b);
    if (b.count == 0)
        return;
    log->writing = true;
    pthread_mutex_unlock(&log->stage_mu);
    int rc = write_batch(log, &b);
    pthread_mutex_lock(&log->stage_mu);
    if (rc == HSL_OK) {
        finish_batch(log, &b);
        if (!log->spare && hsl_segment_room(log->active) < log->active->capacity / 2) {
            pthread_cond_broadcast(&log->durable_cv);
            pthread_mutex_unlock(&log->stage_mu);
            hsl_spare_create(log, 0, false); /* a full disk shows when the room is needed */
            pthread_mutex_lock(&log->stage_mu);
        }
    } else if (!log->failed) {
        log->failed = hsl_errno_of(rc);
    }
    log->writing = false;
    pthread_cond_broadcast(&log->durable_cv);
    bool more = log->queue_len + log->has_open > 0 && log->waiters > 0;
    if (log->thread_wakes_ns != 0 && (more || log->thread_wakes_ns == UINT64_MAX)) {
        log->thread_wakes_ns = 0;
        pthread_cond_signal(&log->writer_cv);
    }
    hsl_notify(log->cfg.notify_fd);
}

bool hsl_wants_write(struct hsl_log *log, uint64_t now)
{
    if (log->queue_len == 0 && !log->has_open) {
        if (log->idle_marked || now < log->last_write_ns + log->cfg.idle_mark_ns)
            return false;
        if (hsl_stage_empty_frame(log, HSL_FRAME_IDLE) != HSL_OK) {
            log->idle_marked = true;
            return false;
        }
        return true;
    }
    const struct hsl_frame *oldest =
        log->queue_len > 0 ? &log->queue[log->queue_head] : &log->open;
    return log->queue_len > 0 || log->waiters > 0 || log->tail_waiters > 0 || log->closing ||
           log->want_ticket > atomic_load(&log->durable_ticket) ||
           log->claimed >= log->cfg.eager_bytes || now >= oldest->staged_ns + log->cfg.linger_ns;
}

static void sleep_until(struct hsl_log *log, uint64_t at, uint64_t now)
{
    log->thread_wakes_ns = at;
    if (at == UINT64_MAX) {
        pthread_cond_wait(&log->writer_cv, &log->stage_mu);
        log->thread_wakes_ns = 0;
        return;
    }
    struct timespec deadline;
    clock_gettime(HSL_WAIT_CLOCK, &deadline);
    uint64_t ns = (uint64_t)deadline.tv_nsec + (at > now ? at - now : 0);
    deadline.tv_sec += (time_t)(ns / 1000000000u);
    deadline.tv_nsec = (long)(ns % 1000000000u);
    pthread_cond_timedwait(&log->writer_cv, &log->stage_mu, &deadline);
    log->thread_wakes_ns = 0;
}

void *hsl_writer_main(void *arg)
{
    struct hsl_log *log = arg;
    pthread_mutex_lock(&log->stage_mu);
    while (!log->closing && !log->failed) {
        uint64_t now = log->io->mono_ns(log->io->ctx);
        if (!log->writing && hsl_wants_write(log, now)) {
            hsl_lead(log);
            continue;
        }
        uint64_t at = UINT64_MAX;
        if (log->queue_len > 0)
            at = log->queue[log->queue_head].staged_ns + log->cfg.linger_ns;
        else if (log->has_open)
            at = log->open.staged_ns + log->cfg.linger_ns;
        else if (!log->idle_marked)
            at = log->last_write_ns + log->cfg.idle_mark_ns;
        if (log->writing && at < now + 1000000u)
            at = now + 1000000u;
        sleep_until(log, at, now);
    }
    pthread_mutex_unlock(&log->stage_mu);
    return NULL;
}
