/* Staging: appenders encode blocks into the open frame, and closed frames queue for the writer: in
 * the order of their tickets, with their places in the log still to be given.
 */
#include "log.h"

#include <string.h>

#define LOCK_TRIES 200 /* writers hold the lock for microseconds; to sleep takes tens of them */
#define COPY_LARGE 16384u /* bytes that take longer to copy than a lock to be taken again */
#define COPY_HELD (256u << 10) /* bytes for which a lock is kept that nobody is about to want */

/* Disk bytes a frame can cost: itself, its rows in the footer and in a checkpoint. */
uint64_t hsl_claim(size_t bytes, uint32_t blocks)
{
    return hsl_align_page(bytes) + (uint64_t)blocks * HSL_ROW_CLAIM;
}

static bool open_takes(const struct hsl_log *log, size_t bytes)
{
    if (!log->has_open)
        return false;
    const struct hsl_frame *open = &log->open;
    if (open->off + hsl_align_page(open->len + bytes) > open->chunk->cap)
        return false;
    return open->blocks == 0 || open->len + bytes <= log->cfg.frame_bytes;
}

static bool disk_room(const struct hsl_log *log, size_t bytes, uint32_t blocks, bool system)
{
    uint64_t total = log->claimed;
    if (open_takes(log, bytes))
        total += hsl_claim(log->open.len + bytes, log->open.blocks + blocks) - log->open.claim;
    else
        total += hsl_claim(sizeof(struct hsl_frame_header) + bytes, blocks);
    if (log->active && (system || !log->active->emergency) &&
        total <= hsl_segment_room(log->active))
        return true;
    return log->spare && (system || !log->spare->emergency) &&
           total <= hsl_segment_room(log->spare);
}

void hsl_stage_close_frame(struct hsl_log *log)
{
    if (!log->has_open)
        return;
    struct hsl_frame *open = &log->open;
    log->has_open = false;
    log->last_block = NULL;
    if (open->blocks == 0 && open->flags == 0) {
        log->claimed -= open->claim;
        open->chunk->unwritten--;
        log->next_ticket--;
        return;
    }
    size_t padded = hsl_align_page(open->len);
    memset(open->chunk->mem + open->off + open->len, 0, padded - open->len);
    open->chunk->used = open->off + padded;
    log->queue[(log->queue_head + log->queue_len++) % HSL_QUEUE_MAX] = *open;
}

/* An open frame without blocks is dropped unwritten, and its ticket given again. */
uint64_t hsl_last_ticket(const struct hsl_log *log)
{
    bool empty = log->has_open && log->open.blocks == 0 && log->open.flags == 0;
    return log->next_ticket - (empty ? 2 : 1);
}

/* Makes the open frame hold `bytes` more in one piece. */
static int place(struct hsl_log *log, size_t bytes)
{
    if (open_takes(log, bytes))
        return HSL_OK;
    hsl_stage_close_frame(log);
    if (log->queue_len >= HSL_QUEUE_MAX - 1)
        return HSL_AGAIN;
    bool no_memory;
    size_t need = hsl_align_page(sizeof(struct hsl_frame_header) + bytes);
    struct hsl_chunk *chunk = hsl_chunk_acquire(log, need, &no_memory);
    if (!chunk)
        return no_memory ? HSL_NO_MEMORY : HSL_AGAIN;
    log->open = (struct hsl_frame){
        .chunk = chunk,
        .off = chunk->used,
        .len = sizeof(struct hsl_frame_header),
        .ticket = log->next_ticket++,
        .staged_ns = log->io->mono_ns(log->io->ctx),
        .stage_end = log->stage_head,
        .claim = 0,
    };
    chunk->unwritten++;
    log->has_open = true;
    return HSL_OK;
}

static bool os_stage_takes(const struct hsl_log *log, size_t bytes)
{
    return !log->os_stage || (log->stage_hole <= atomic_load(&log->durable_ticket) &&
                              hsl_os_stage_room(log, bytes));
}

static void spin(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* HSL_OK leaves stage_mu locked until the call ends; every other result leaves it unlocked.
 * HSL_AGAIN: call hsl_stage_room, which may block, and try again. */
int hsl_stage_begin(struct hsl_log *log, size_t bytes, uint32_t blocks, int flags)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    if (flags & HSL_STAGE_TRY) {
        for (int tries = 0; pthread_mutex_trylock(&log->stage_mu) != 0; tries++) {
            if (tries == LOCK_TRIES)
                return HSL_AGAIN;
            spin();
        }
    } else {
        pthread_mutex_lock(&log->stage_mu);
    }
    int rc = hsl_state(log);
    if (rc == HSL_OK && (!disk_room(log, bytes, blocks, flags & HSL_STAGE_SYSTEM) ||
                         ((flags & HSL_STAGE_OS) && !log->os_stage) || !os_stage_takes(log, bytes)))
        rc = HSL_AGAIN;
    if (rc == HSL_OK)
        rc = place(log, bytes);
    if (rc != HSL_OK) {
        pthread_mutex_unlock(&log->stage_mu);
        return rc;
    }
    log->call_start = log->open.len;
    log->call_blocks = 0;
    log->call_extended = 0;
    return HSL_OK;
}

/* Blocks until hsl_stage_begin with the same arguments is likely to succeed. FULL: the disk has no
 * room for a segment; nothing was staged and the log goes on. */
int hsl_stage_room(struct hsl_log *log, size_t bytes, uint32_t blocks, int flags)
{
    bool system = (flags & HSL_STAGE_SYSTEM) != 0;
    if (hsl_forked(log))
        return HSL_FORKED;
    pthread_mutex_lock(&log->stage_mu);
    int rc;
    while ((rc = hsl_state(log)) == HSL_OK) {
        if ((flags & HSL_STAGE_OS) && !log->os_stage) {
            rc = hsl_os_stage_enable(log);
            if (rc != HSL_OK)
                break;
        }
        bool disk = disk_room(log, bytes, blocks, system);
        if (disk && os_stage_takes(log, bytes)) {
            rc = place(log, bytes);
            if (rc != HSL_AGAIN)
                break;
        }
        if (hsl_staged(log) || log->writing || log->minding || log->flying > 0) {
            hsl_get_on(log);
            continue;
        }
        if (disk)
            break;
        hsl_turn_take(log);
        hsl_spare_discard(log); /* its room may be what the next one, or the reserve, needs */
        pthread_mutex_unlock(&log->stage_mu);
        rc = hsl_spare_create(log, hsl_claim(sizeof(struct hsl_frame_header) + bytes, blocks),
                              system);
        pthread_mutex_lock(&log->stage_mu);
        hsl_turn_give(log);
        if (rc == HSL_FULL)
            log->stats.full++;
        if (rc != HSL_OK)
            break;
    }
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

int hsl_log_make_room(struct hsl_log *log, uint64_t bytes, int os)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    int flags = HSL_STAGE_SYSTEM | (os ? HSL_STAGE_OS : 0);
    return hsl_stage_room(log, hsl_block_bytes(bytes), 1, flags);
}

static uint64_t now_for(const struct hsl_log *log, const struct hsl_shard *shard)
{
    uint64_t now = hsl_wall_ms(log->io);
    return now > shard->last_time ? now : shard->last_time;
}

static void count_block(struct hsl_log *log, const struct hsl_shard *shard, size_t bytes,
                        uint32_t blocks, uint32_t records)
{
    struct hsl_frame *open = &log->open;
    open->len += bytes;
    open->blocks += blocks;
    open->records += records;
    open->users += shard->id < HSL_SYSTEM ? records : 0;
    uint64_t claim = hsl_claim(open->len, open->blocks);
    log->claimed += claim - open->claim;
    open->claim = claim;
    log->stats.bytes_staged += bytes;
}

/* Adds a block; returns where its payload goes. The room was made by hsl_stage_begin. */
uint8_t *hsl_stage_block(struct hsl_log *log, struct hsl_shard *shard, int codec, uint32_t count,
                         uint32_t payload_len, uint32_t decoded_len, uint64_t *seq)
{
    uint8_t *block = log->open.chunk->mem + log->open.off + log->open.len;
    struct hsl_block_header header = {
        .magic = HSL_BLOCK_MAGIC,
        .version = 1,
        .codec = (uint8_t)codec,
        .shard = shard->id,
        .seq = shard->next,
        .time_ms = now_for(log, shard),
        .payload_len = payload_len,
        .decoded_len = decoded_len,
        .count = count,
        .order = log->next_order++,
    };
    size_t bytes = hsl_block_bytes(payload_len);
    memcpy(block, &header, sizeof header);
    memset(block + sizeof header + payload_len, 0, bytes - sizeof header - payload_len);
    *seq = shard->next;
    shard->next += count;
    shard->last_time = header.time_ms;
    shard->last_ticket = log->open.ticket;
    count_block(log, shard, bytes, 1, count);
    log->call_blocks++;
    log->last_block = NULL;
    return block + sizeof header;
}

/* Adds one record to the newest block if that is an open block of the same shard and millisecond;
 * NULL if not. After hsl_stage_block the caller opens a block by setting last_block. */
uint8_t *hsl_stage_extend(struct hsl_log *log, struct hsl_shard *shard, uint32_t payload_len,
                          bool any_time, uint64_t *first, uint32_t *index)
{
    if (!log->last_block || log->last_shard != shard)
        return NULL;
    struct hsl_block_header header;
    memcpy(&header, log->last_block, sizeof header);
    if ((!any_time && header.time_ms != now_for(log, shard)) ||
        header.payload_len + payload_len > log->cfg.eager_bytes)
        return NULL;
    uint8_t *payload = log->last_block + sizeof header + header.payload_len;
    size_t before = hsl_block_bytes(header.payload_len);
    header.payload_len += payload_len;
    header.decoded_len += payload_len;
    *first = header.seq;
    *index = header.count++;
    memcpy(log->last_block, &header, sizeof header);
    size_t after = hsl_block_bytes(header.payload_len);
    memset(log->last_block + sizeof header + header.payload_len, 0,
           after - sizeof header - header.payload_len);
    shard->next++;
    shard->last_ticket = log->open.ticket;
    count_block(log, shard, after - before, 0, 1);
    log->call_extended = payload_len;
    return payload;
}

/* The record that a call added to a block, as a block of its own that continues that one. */
static void put_continued(const struct hsl_log *log, uint8_t *out, size_t len)
{
    struct hsl_block_header header;
    memcpy(&header, log->last_block, sizeof header);
    const uint8_t *end = log->last_block + sizeof header + header.payload_len;
    header.seq += header.count - 1;
    header.count = 1;
    header.payload_len = header.decoded_len = log->call_extended;
    header.flags |= HSL_BLOCK_CONTINUED;
    memset(out + len - 8, 0, 8);
    memcpy(out, &header, sizeof header);
    memcpy(out + sizeof header, end - log->call_extended, log->call_extended);
}

/* false when the call is too large for the ring: then later calls wait until it is durable. */
static bool copy_to_os_stage(struct hsl_log *log)
{
    bool extended = log->call_extended > 0;
    size_t len = extended ? hsl_block_bytes(log->call_extended) : log->open.len - log->call_start;
    uint8_t *entry = hsl_os_stage_put(log, len);
    if (!entry) {
        log->stage_hole = log->open.ticket;
        return false;
    }
    if (extended) {
        uint8_t *block = entry + sizeof(struct hsl_stage_entry);
        put_continued(log, block, len);
        hsl_os_stage_publish(log, entry, block, len, 1);
    } else {
        const uint8_t *frame = log->open.chunk->mem + log->open.off;
        hsl_os_stage_publish(log, entry, frame + log->call_start, len, log->call_blocks);
    }
    log->open.stage_end = log->stage_head;
    return true;
}

uint8_t *hsl_stage_next(const struct hsl_log *log)
{
    const struct hsl_frame *open = &log->open;
    return open->chunk->mem + open->off + open->len + sizeof(struct hsl_block_header);
}

bool hsl_stage_holds(const struct hsl_log *log, size_t bytes)
{
    bool wanted = !log->os_stage && (log->writing || log->flying > 0);
    return bytes < COPY_LARGE || (bytes < COPY_HELD && !wanted);
}

/* One at a time: callers copy with the GIL held. The mapped stage takes entries in the order of the
 * log, so nothing may overtake a copy there. */
uint64_t hsl_stage_copy(struct hsl_log *log, size_t bytes)
{
    if (bytes < COPY_LARGE || log->os_stage || log->copying != 0)
        return 0;
    uint64_t ticket = log->copying = log->open.ticket;
    pthread_mutex_unlock(&log->stage_mu);
    return ticket;
}

uint64_t hsl_stage_commit(struct hsl_log *log, uint64_t copied, bool waits, bool *safe)
{
    uint64_t ticket = copied;
    bool held_up = false; /* somebody may have met the frame while it was copied into */
    *safe = false;
    if (copied != 0) {
        pthread_mutex_lock(&log->stage_mu);
        log->copying = 0;
        held_up = log->waiters > 0 || log->tail_waiters > 0;
    } else {
        ticket = log->open.ticket;
        *safe = log->os_stage && copy_to_os_stage(log);
    }
    pthread_cond_t *woken = NULL;
    if (held_up)
        hsl_pass_on(log);
    else if (!waits)
        woken = hsl_woken_by_staging(log);
    pthread_mutex_unlock(&log->stage_mu);
    if (woken) /* with the mutex free it need not be waited for */
        pthread_cond_signal(woken);
    return ticket;
}

/* Ends a call that staged nothing. */
void hsl_stage_abort(struct hsl_log *log) { pthread_mutex_unlock(&log->stage_mu); }

/* Opens a frame without blocks (idle or close marker). stage_mu held. */
int hsl_stage_empty_frame(struct hsl_log *log, uint32_t flags)
{
    if (!log->active)
        return HSL_AGAIN;
    int rc = place(log, 0);
    if (rc == HSL_OK) {
        log->open.flags = flags;
        log->open.claim = HSL_PAGE;
        log->claimed += HSL_PAGE;
    }
    return rc;
}
