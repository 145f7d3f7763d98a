/* Finding blocks: by LSN, by time, by order number, by the size of what follows.
 *
 * The runs of a shard are searched in memory, the rows of one run in its segment's footer: first
 * for the group, by the heads of the groups, then within it. All keys grow along a shard. Nothing
 * is locked while a footer is read, so every step starts again from an LSN.
 */
#include "log.h"

#include <stdlib.h>
#include <string.h>

static uint64_t key_of(const struct hsl_row *row, enum hsl_key key)
{
    if (key == HSL_KEY_TIME)
        return row->time_ms;
    return key == HSL_KEY_ORDER ? row->order : row->seq;
}

static uint32_t rows_of_group(const struct hsl_run *run, uint32_t group)
{
    uint32_t left = run->blocks - group * HSL_ROW_GROUP;
    return left < HSL_ROW_GROUP ? left : HSL_ROW_GROUP;
}

/* Copies bytes of the run's rows; `want` is cut to what the run has. */
static int run_bytes(struct hsl_log *log, const struct hsl_run *run, size_t off, size_t want,
                     bool may_block, uint8_t *dst, size_t *got)
{
    if (off > run->data_len)
        return HSL_DAMAGED;
    *got = run->data_len - off < want ? run->data_len - off : want;
    return hsl_pieces_read(log, run->segment, (uint64_t)run->data + off, *got, dst, may_block);
}

static int group_start(struct hsl_log *log, const struct hsl_run *run, uint32_t group,
                       bool may_block, size_t *start)
{
    size_t table = hsl_group_table(run->blocks), got;
    uint32_t off = 0;
    if (table > 0) {
        int rc = run_bytes(log, run, 4 * (size_t)group, 4, may_block, (uint8_t *)&off, &got);
        if (rc != HSL_OK)
            return rc;
        if (got != 4)
            return HSL_DAMAGED;
    }
    *start = table + off;
    return HSL_OK;
}

static int group_head(struct hsl_log *log, const struct hsl_run *run, uint32_t group,
                      bool may_block, struct hsl_row *row)
{
    uint8_t bytes[HSL_ROW_MAX];
    size_t start, got;
    int rc = group_start(log, run, group, may_block, &start);
    if (rc == HSL_OK)
        rc = run_bytes(log, run, start, sizeof bytes, may_block, bytes, &got);
    if (rc != HSL_OK)
        return rc;
    return hsl_group_head(bytes, bytes + got, row) ? HSL_OK : HSL_DAMAGED;
}

static int read_group(struct hsl_log *log, const struct hsl_run *run, uint32_t group,
                      bool may_block, struct hsl_row *out)
{
    uint8_t bytes[HSL_ROW_GROUP * HSL_ROW_MAX];
    size_t start, got;
    int rc = group_start(log, run, group, may_block, &start);
    if (rc == HSL_OK)
        rc = run_bytes(log, run, start, sizeof bytes, may_block, bytes, &got);
    if (rc != HSL_OK)
        return rc;
    uint32_t count = rows_of_group(run, group);
    return hsl_group_decode(bytes, bytes + got, run->shard, count, out) ? HSL_OK : HSL_DAMAGED;
}

/* The last group whose head has a key below `value`, or equal to it for an LSN; else the first. */
static int find_group(struct hsl_log *log, const struct hsl_run *run, enum hsl_key key,
                      uint64_t value, bool may_block, uint32_t *group)
{
    uint32_t lo = 0, hi = (run->blocks + HSL_ROW_GROUP - 1) / HSL_ROW_GROUP - 1;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        struct hsl_row head;
        int rc = group_head(log, run, mid, may_block, &head);
        if (rc != HSL_OK)
            return rc;
        uint64_t at = key_of(&head, key);
        if (at < value || (at == value && key == HSL_KEY_LSN))
            lo = mid;
        else
            hi = mid - 1;
    }
    *group = lo;
    return HSL_OK;
}

int hsl_run_rows(struct hsl_log *log, const struct hsl_run *run, enum hsl_key key, uint64_t value,
                 bool may_block, struct hsl_row *out, uint32_t *count)
{
    uint32_t group;
    int rc = find_group(log, run, key, value, may_block, &group);
    if (rc == HSL_OK)
        rc = read_group(log, run, group, may_block, out);
    if (rc != HSL_OK)
        return rc;
    *count = rows_of_group(run, group);
    bool last = (group + 1) * (uint64_t)HSL_ROW_GROUP >= run->blocks;
    if (!last && key != HSL_KEY_LSN && key_of(&out[*count - 1], key) < value) {
        rc = read_group(log, run, group + 1, may_block, out);
        *count = rows_of_group(run, group + 1);
    }
    return rc;
}

/* Where the first block with a value lies, as far as a run's segment tells without its footer. */
enum place { BEHIND, AT_START, WITHIN };

/* The run that holds lsn or the first one behind, as a copy, and where in it the value is.
 * NOT_FOUND when lsn lies behind all runs; the shard's entries are searched in the same breath. */
static int next_run(struct hsl_log *log, uint64_t id, uint64_t lsn, enum hsl_key key,
                    uint64_t value, struct hsl_run *run, enum place *place)
{
    const struct hsl_shard *shard = hsl_shard_get(log, id);
    const struct hsl_run *found = shard ? hsl_run_find(shard, lsn) : NULL;
    if (!found)
        return HSL_NOT_FOUND;
    *run = *found;
    const struct hsl_segment *s = hsl_segment_find(log, run->segment);
    bool by_time = key == HSL_KEY_TIME;
    uint64_t least = !s ? 0 : by_time ? s->min_time : s->min_order;
    uint64_t most = by_time ? run->last_time : s ? s->max_order : UINT64_MAX;
    *place = most < value ? BEHIND : least >= value ? AT_START : WITHIN;
    return HSL_OK;
}

static uint64_t seek_entries(const struct hsl_shard *shard, enum hsl_key key, uint64_t value)
{
    size_t lo = shard->head, hi = shard->len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const struct hsl_entry *e = &shard->entries[mid];
        if ((key == HSL_KEY_TIME ? e->time_ms : e->order) < value)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < shard->len ? shard->entries[lo].seq : shard->durable_next;
}

/* First LSN from `from` on whose block has at least this time or order number. */
static int seek(struct hsl_log *log, uint64_t id, enum hsl_key key, uint64_t value, uint64_t *lsn)
{
    uint64_t at = 0;
    for (;;) {
        struct hsl_run run;
        struct hsl_row rows[HSL_ROW_GROUP];
        uint32_t count = 0;
        enum place place = BEHIND;
        pthread_mutex_lock(&log->index_mu);
        const struct hsl_shard *shard = hsl_shard_get(log, id);
        uint64_t first = shard ? shard->first : 0;
        if (at < first)
            at = first;
        int rc = next_run(log, id, at, key, value, &run, &place);
        if (rc == HSL_NOT_FOUND && shard)
            *lsn = seek_entries(shard, key, value);
        pthread_mutex_unlock(&log->index_mu);
        if (!shard)
            return HSL_NOT_FOUND;
        if (rc == HSL_NOT_FOUND) {
            if (*lsn < first)
                *lsn = first;
            return HSL_OK;
        }
        if (place == AT_START) {
            *lsn = run.first < first ? first : run.first;
            return HSL_OK;
        }
        if (place == WITHIN) {
            rc = hsl_run_rows(log, &run, key, value, true, rows, &count);
            if (rc == HSL_NOT_FOUND)
                continue; /* not reached: the segment went between two locks; look again */
            if (rc != HSL_OK)
                return rc;
        }
        for (uint32_t i = 0; i < count; i++) {
            if (key_of(&rows[i], key) < value)
                continue;
            *lsn = rows[i].seq < at ? at : rows[i].seq;
            return HSL_OK;
        }
        at = run.end;
    }
}

int hsl_log_seek_time(struct hsl_log *log, uint64_t id, uint64_t time_ms, uint64_t *lsn)
{
    return seek(log, id, HSL_KEY_TIME, time_ms, lsn);
}

int hsl_log_seek_order(struct hsl_log *log, uint64_t id, uint64_t order, uint64_t *lsn)
{
    return seek(log, id, HSL_KEY_ORDER, order, lsn);
}

/* Where to go on in the oldest run so that at most `bytes` of it remain. */
static int seek_in_run(struct hsl_log *log, const struct hsl_run *run, uint64_t bytes,
                       uint64_t *lsn)
{
    uint64_t left = run->bytes;
    uint32_t groups = (run->blocks + HSL_ROW_GROUP - 1) / HSL_ROW_GROUP;
    for (uint32_t group = 0; group < groups; group++) {
        struct hsl_row rows[HSL_ROW_GROUP];
        int rc = read_group(log, run, group, true, rows);
        if (rc != HSL_OK)
            return rc;
        for (uint32_t i = 0; i < rows_of_group(run, group); i++) {
            if (left <= bytes) {
                *lsn = rows[i].seq;
                return HSL_OK;
            }
            left -= rows[i].len < left ? rows[i].len : left;
        }
    }
    *lsn = run->end;
    return HSL_OK;
}

int hsl_log_seek_bytes(struct hsl_log *log, uint64_t id, uint64_t max_bytes, uint64_t *lsn)
{
    for (;;) {
        struct hsl_run run = {0};
        pthread_mutex_lock(&log->index_mu);
        const struct hsl_shard *shard = hsl_shard_get(log, id);
        if (!shard) {
            pthread_mutex_unlock(&log->index_mu);
            return HSL_NOT_FOUND;
        }
        uint64_t bytes = shard->bytes, first = shard->first;
        uint32_t at = shard->runs_head;
        while (at < shard->runs_len && bytes > max_bytes) {
            run = shard->runs[at++];
            bytes -= run.bytes;
        }
        bool within = run.blocks > 0 && bytes <= max_bytes;
        uint32_t e = shard->head;
        while (!within && e < shard->len && bytes > max_bytes)
            bytes -= shard->entries[e++].len;
        if (at < shard->runs_len)
            *lsn = shard->runs[at].first;
        else
            *lsn = e < shard->len ? shard->entries[e].seq : shard->durable_next;
        pthread_mutex_unlock(&log->index_mu);
        int rc = within ? seek_in_run(log, &run, max_bytes - bytes, lsn) : HSL_OK;
        if (rc == HSL_NOT_FOUND)
            continue; /* not reached: the segment went between two locks; look again */
        if (rc == HSL_OK && *lsn < first)
            *lsn = first;
        return rc;
    }
}

/* What of `bytes`, shared evenly by the records [first, end), lies from lsn on. */
static uint64_t share_from(uint64_t bytes, uint64_t first, uint64_t end, uint64_t lsn)
{
    if (lsn <= first)
        return bytes;
    if (lsn >= end)
        return 0;
    return (uint64_t)((double)bytes * (double)(end - lsn) / (double)(end - first));
}

int hsl_log_bytes_from(struct hsl_log *log, uint64_t id, uint64_t lsn, uint64_t *bytes)
{
    uint64_t found = 0;
    pthread_mutex_lock(&log->index_mu);
    const struct hsl_shard *shard = hsl_shard_get(log, id);
    uint64_t unsealed = shard ? shard->bytes : 0;
    for (uint32_t i = shard ? shard->runs_head : 0; shard && i < shard->runs_len; i++) {
        const struct hsl_run *run = &shard->runs[i];
        unsealed -= run->bytes;
        found += share_from(run->bytes, run->first, run->end, lsn);
    }
    if (shard && shard->head < shard->len)
        found += share_from(unsealed, shard->entries[shard->head].seq, shard->durable_next, lsn);
    pthread_mutex_unlock(&log->index_mu);
    *bytes = found;
    return shard ? HSL_OK : HSL_NOT_FOUND;
}

int hsl_log_block_of(struct hsl_log *log, uint64_t id, uint64_t lsn, struct hsl_block_place *out)
{
    for (;;) {
        struct hsl_run run = {0};
        int rc = HSL_NOT_FOUND;
        pthread_mutex_lock(&log->index_mu);
        const struct hsl_shard *shard = hsl_shard_get(log, id);
        const struct hsl_run *found = shard ? hsl_run_find(shard, lsn) : NULL;
        bool sealed = found && found->first <= lsn;
        uint64_t kept = shard ? shard->first : 0;
        if (sealed)
            run = *found;
        size_t at = shard ? hsl_index_find(shard, lsn) : 0;
        if (!sealed && shard && at < shard->len && shard->entries[at].seq <= lsn) {
            const struct hsl_entry *e = &shard->entries[at];
            *out = (struct hsl_block_place){e->seq, e->order, e->time_ms};
            rc = HSL_OK;
        }
        pthread_mutex_unlock(&log->index_mu);
        if (!sealed)
            return rc;
        struct hsl_row rows[HSL_ROW_GROUP];
        uint32_t count;
        rc = hsl_run_rows(log, &run, HSL_KEY_LSN, lsn, true, rows, &count);
        if (rc == HSL_NOT_FOUND)
            continue; /* not reached: the segment went between two locks; look again */
        for (uint32_t i = 0; rc == HSL_OK && i < count; i++) {
            if (lsn < rows[i].seq + rows[i].count) {
                *out = (struct hsl_block_place){rows[i].seq, rows[i].order, rows[i].time_ms};
                return rows[i].seq + rows[i].count > kept ? HSL_OK : HSL_NOT_FOUND;
            }
        }
        return rc == HSL_OK ? HSL_DAMAGED : rc;
    }
}
