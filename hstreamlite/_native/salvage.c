/* Copying the blocks of a segment that verify into another store, as they are: same log, LSN, time
 * and order. What is missing between them leaves a hole; a segment holds each log without holes, so
 * a new one is begun there.
 *
 * And reading them where they are: a damaged store that is read only has the same index as a sound
 * one, made of these blocks. */
#include "scan.h"

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
    hsl_stage_commit(log, 0, false, &safe);
    return HSL_OK;
}

int hsl_salvage(struct hsl_log *log, struct hsl_inspect *from)
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
        struct hsl_shard_info info;
        if (b->shard >= HSL_SYSTEM || hsl_log_shard_info(log, b->shard, &info) != HSL_OK ||
            b->seq < info.next)
            continue; /* nobody's, or copied from another segment */
        if (b->len > cap) {
            free(buf);
            cap = b->len;
            buf = malloc(cap);
        }
        rc = !buf ? HSL_NO_MEMORY : hsl_inspect_read(from, b->off, b->len, buf) ? HSL_IO : HSL_OK;
        pthread_mutex_lock(&log->stage_mu);
        struct hsl_shard *shard = hsl_shard_get(log, b->shard);
        bool hole = shard && shard->next > 1 && b->seq != shard->next &&
                    shard->scan_frame == log->scan_frame;
        pthread_mutex_unlock(&log->stage_mu);
        if (rc == HSL_OK && hole)
            rc = roll(log);
        if (rc == HSL_OK)
            rc = hsl_log_shard_restore(log, b->shard, b->seq, 0, 1);
        if (rc == HSL_OK)
            rc = stage(log, hsl_shard_get(log, b->shard), buf);
    }
    free(found);
    free(buf);
    return rc;
}

static int index_block(struct hsl_log *log, struct hsl_segment *s,
                       const struct hsl_inspect_block *b)
{
    struct hsl_shard *shard = hsl_shard_add(log, b->shard);
    if (!shard)
        return HSL_NO_MEMORY;
    if (b->seq < shard->durable_next)
        return HSL_OK; /* known from another segment */
    struct hsl_entry entry = {
        .seq = b->seq,
        .order = b->order,
        .time_ms = b->time_ms,
        .segment = (uint32_t)s->number,
        .off8 = (uint32_t)(b->off / 8),
        .len = b->len,
        .count = b->count,
    };
    int rc = hsl_index_insert(log, s, b->shard, &entry);
    hsl_intake_newest(log, shard, b->time_ms, b->order);
    return rc;
}

int hsl_log_load_inspected(struct hsl_log *log, uint64_t number, struct hsl_inspect *from)
{
    size_t count = hsl_inspect_blocks(from, 0, 0, NULL, 0);
    struct hsl_inspect_block *found = malloc((count + 1) * sizeof *found);
    struct hsl_inspect_report report;
    hsl_inspect_report(from, &report);
    struct hsl_segment *s = hsl_segment_new(number);
    if (!found || !s) {
        free(found);
        free(s);
        return HSL_NO_MEMORY;
    }
    hsl_inspect_blocks(from, 0, 0, found, count);
    s->file_bytes = report.file_bytes;
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
    int rc = hsl_segments_add(log, s);
    if (rc != HSL_OK)
        hsl_segment_free(log, s);
    for (size_t i = 0; rc == HSL_OK && i < count; i++)
        if (found[i].shard < HSL_SYSTEM)
            rc = index_block(log, s, &found[i]);
    if (rc == HSL_OK)
        s->sealed = true; /* nothing is added to it, and it is read through the cache */
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
    free(found);
    return rc;
}
