/* Copying the blocks of a segment that verify into another store, as they are: same log, LSN, time
 * and order. What is missing between them leaves a hole; a segment holds each log without holes, so
 * a new one is begun there. */
#include "log.h"

#include <stdlib.h>
#include <string.h>

static int by_off(const void *a, const void *b)
{
    const struct hsl_inspect_block *x = a, *y = b;
    return x->off < y->off ? -1 : x->off > y->off;
}

/* Ends the active segment, so that the next block begins another. */
static int roll(struct hsl_log *log)
{
    int rc = hsl_log_wait(log, hsl_log_staged(log), -1);
    if (rc != HSL_OK)
        return rc;
    pthread_mutex_lock(&log->stage_mu);
    hsl_turn_take(log);
    pthread_mutex_unlock(&log->stage_mu);
    if (log->active)
        rc = hsl_roll(log);
    pthread_mutex_lock(&log->stage_mu);
    hsl_turn_give(log);
    log->scan_frame++;
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

static int stage(struct hsl_log *log, struct hsl_shard *shard, const uint8_t *block)
{
    struct hsl_block_header h, *out;
    memcpy(&h, block, sizeof h);
    size_t bytes = hsl_block_bytes(h.payload_len);
    int rc;
    while ((rc = hsl_stage_begin(log, bytes, 1, 0)) == HSL_AGAIN)
        if ((rc = hsl_stage_room(log, bytes, 1, 0)) != HSL_OK)
            return rc;
    if (rc != HSL_OK)
        return rc;
    uint64_t seq, order = log->next_order;
    bool safe;
    uint8_t *payload = hsl_stage_block(log, shard, h.codec, h.count, h.payload_len, h.decoded_len,
                                       &seq);
    memcpy(payload, block + sizeof h + h.ext_len, h.payload_len);
    out = (struct hsl_block_header *)(void *)(payload - sizeof h);
    out->time_ms = shard->last_time = h.time_ms;
    out->order = h.order;
    log->next_order = order;
    shard->scan_frame = log->scan_frame;
    hsl_stage_commit(log, false, &safe);
    return HSL_OK;
}

int hsl_salvage(struct hsl_log *log, struct hsl_inspect *from, uint64_t *blocks, uint64_t *records)
{
    size_t count = hsl_inspect_blocks(from, 0, 0, NULL, 0);
    struct hsl_inspect_block *found = malloc((count + 1) * sizeof *found);
    uint8_t *buf = NULL;
    uint32_t cap = 0;
    int rc = found ? HSL_OK : HSL_NO_MEMORY;
    if (found)
        hsl_inspect_blocks(from, 0, 0, found, count);
    if (found)
        qsort(found, count, sizeof *found, by_off);
    for (size_t i = 0; rc == HSL_OK && i < count; i++) {
        const struct hsl_inspect_block *b = &found[i];
        if (b->shard >= HSL_SYSTEM)
            continue;
        struct hsl_shard_info info;
        bool known = hsl_log_shard_info(log, b->shard, &info) == HSL_OK;
        if (known && b->seq < info.next)
            continue; /* copied from another segment */
        if (b->len > cap) {
            free(buf);
            cap = b->len;
            buf = malloc(cap);
        }
        rc = !buf ? HSL_NO_MEMORY : hsl_inspect_read(from, b->off, b->len, buf) ? HSL_IO : HSL_OK;
        pthread_mutex_lock(&log->stage_mu);
        struct hsl_shard *shard = hsl_shard_get(log, b->shard);
        bool hole = shard && b->seq != shard->next && shard->scan_frame == log->scan_frame;
        pthread_mutex_unlock(&log->stage_mu);
        if (rc == HSL_OK && hole)
            rc = roll(log);
        if (rc == HSL_OK)
            rc = hsl_log_shard_restore(log, b->shard, b->seq, 0, 1);
        if (rc == HSL_OK)
            rc = stage(log, hsl_shard_get(log, b->shard), buf);
        *blocks += rc == HSL_OK;
        *records += rc == HSL_OK ? b->count : 0;
    }
    free(found);
    free(buf);
    return rc;
}
