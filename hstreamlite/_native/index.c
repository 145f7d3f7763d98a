/* Shards, and where their durable blocks are.
 *
 * A shard has one run for each sealed segment that holds blocks of it, and behind them one entry
 * for each block of the active segment. Both are arrays in LSN order; trimming moves their heads.
 * So memory grows with segments, not with blocks.
 */
#include "log.h"

#include <stdlib.h>
#include <string.h>

#define SLAB 64

struct hsl_shard_slab {
    struct hsl_shard shards[SLAB];
    uint32_t used;
    struct hsl_shard_slab *next;
};

/* Shards made together are mostly used together: eight of them share a line of the table. */
static size_t home_of(const struct hsl_log *log, uint64_t id)
{
    uint64_t h = (id >> 3) * 0x9e3779b97f4a7c15u;
    return ((size_t)(h >> 32) << 3 | (id & 7)) & (log->shards_cap - 1);
}

static size_t slot_of(const struct hsl_log *log, uint64_t id)
{
    size_t at = home_of(log, id);
    while (log->shards[at] && log->shards[at]->id != id)
        at = (at + 1) & (log->shards_cap - 1);
    return at;
}

/* Caller holds stage_mu or index_mu. */
struct hsl_shard *hsl_shard_get(struct hsl_log *log, uint64_t id)
{
    return log->shards_cap ? log->shards[slot_of(log, id)] : NULL;
}

static struct hsl_shard *allocate(struct hsl_log *log)
{
    if (!log->slabs || log->slabs->used == SLAB) {
        struct hsl_shard_slab *slab = aligned_alloc(HSL_CACHE_LINE, sizeof *slab);
        if (!slab)
            return NULL;
        memset(slab, 0, sizeof *slab);
        slab->next = log->slabs;
        log->slabs = slab;
    }
    return &log->slabs->shards[log->slabs->used++];
}

/* Caller holds both mutexes or is alone. */
struct hsl_shard *hsl_shard_add(struct hsl_log *log, uint64_t id)
{
    struct hsl_shard *shard = hsl_shard_get(log, id);
    if (shard)
        return shard;
    if (log->shards_len * 2 >= log->shards_cap) {
        size_t cap = log->shards_cap ? log->shards_cap * 2 : 64;
        struct hsl_shard **old = log->shards;
        size_t old_cap = log->shards_cap;
        struct hsl_shard **grown = calloc(cap, sizeof *grown);
        if (!grown)
            return NULL;
        log->shards = grown;
        log->shards_cap = cap;
        for (size_t i = 0; i < old_cap; i++)
            if (old[i])
                log->shards[slot_of(log, old[i]->id)] = old[i];
        free(old);
    }
    shard = allocate(log);
    if (!shard)
        return NULL;
    shard->id = id;
    shard->next = 1;
    shard->durable_next = 1;
    shard->first = 1;
    log->shards[slot_of(log, id)] = shard;
    log->shards_len++;
    return shard;
}

void hsl_shards_free(struct hsl_log *log)
{
    for (size_t i = 0; i < log->shards_cap; i++) {
        if (!log->shards[i])
            continue;
        free(log->shards[i]->runs);
        free(log->shards[i]->entries);
    }
    free(log->shards);
    while (log->slabs) {
        struct hsl_shard_slab *next = log->slabs->next;
        free(log->slabs);
        log->slabs = next;
    }
}

static int reserve_entry(struct hsl_shard *shard)
{
    if (shard->head > 64 && shard->head > shard->len / 2) {
        memmove(shard->entries, shard->entries + shard->head,
                (shard->len - shard->head) * sizeof *shard->entries);
        shard->len -= shard->head;
        shard->head = 0;
    }
    if (shard->len < shard->cap)
        return HSL_OK;
    uint32_t cap = shard->cap ? shard->cap * 2 : 2;
    struct hsl_entry *grown = realloc(shard->entries, cap * sizeof *grown);
    if (!grown)
        return HSL_NO_MEMORY;
    shard->entries = grown;
    shard->cap = cap;
    return HSL_OK;
}

static void count_live(struct hsl_segment *segment, uint64_t shard_id, int by)
{
    segment->live += (uint64_t)by;
    if (shard_id >= HSL_SYSTEM)
        segment->live_system += (uint64_t)by;
}

/* The shard goes on at `first`, up to `end`; tells where a hole before it ends. */
static void continue_at(struct hsl_shard *shard, uint64_t first, uint64_t end)
{
    if (first != shard->durable_next && shard->durable_next != 1)
        shard->gap_end = first;
    shard->durable_next = end;
}

/* Asks the memory for what hsl_index_insert will look at, all of it at once. Some shard is
 * known. */
void hsl_index_fetch(struct hsl_log *log, const uint64_t *ids, uint32_t count)
{
    struct hsl_shard *found[HSL_FETCHED];
    for (uint32_t i = 0; i < count; i++)
        __builtin_prefetch(&log->shards[home_of(log, ids[i])]);
    for (uint32_t i = 0; i < count; i++)
        if ((found[i] = log->shards[home_of(log, ids[i])]))
            __builtin_prefetch(&found[i]->durable_next, 1);
    for (uint32_t i = 0; i < count; i++)
        if (found[i] && found[i]->entries)
            __builtin_prefetch(&found[i]->entries[found[i]->len], 1);
}

/* Adds a durable block behind the others of its shard; its segment is not sealed. */
int hsl_index_insert(struct hsl_log *log, struct hsl_segment *segment, uint64_t shard_id,
                     const struct hsl_entry *entry)
{
    struct hsl_shard *shard = hsl_shard_get(log, shard_id);
    if (!shard)
        return HSL_NOT_FOUND;
    continue_at(shard, entry->seq, entry->seq + entry->count);
    if (entry->order > log->durable_order)
        log->durable_order = entry->order;
    if (shard->durable_next <= shard->first)
        return HSL_OK;
    int rc = reserve_entry(shard);
    if (rc != HSL_OK)
        return rc;
    shard->entries[shard->len++] = *entry;
    shard->bytes += entry->len;
    count_live(segment, shard_id, 1);
    log->index_blocks++;
    return HSL_OK;
}

static void count_run(struct hsl_log *log, struct hsl_shard *shard, struct hsl_segment *segment,
                      const struct hsl_run *run)
{
    shard->bytes += run->bytes;
    count_live(segment, shard->id, 1);
    segment->live_bytes += run->bytes;
    segment->run_bytes += run->bytes;
    if (run->bytes > segment->run_largest)
        segment->run_largest = run->bytes;
    log->index_blocks += run->blocks;
}

static void forget_run(struct hsl_log *log, struct hsl_shard *shard, const struct hsl_run *run)
{
    struct hsl_segment *segment = hsl_segment_find(log, run->segment);
    if (segment) {
        count_live(segment, shard->id, -1);
        segment->live_bytes -= run->bytes;
    }
    shard->bytes -= run->bytes;
    log->index_blocks -= run->blocks;
}

static int push_run(struct hsl_log *log, struct hsl_shard *shard, struct hsl_segment *segment,
                    const struct hsl_run *run)
{
    if (run->end <= shard->first)
        return HSL_OK;
    if (shard->runs_head > 0 && shard->runs_head >= shard->runs_len / 2) {
        memmove(shard->runs, shard->runs + shard->runs_head,
                (shard->runs_len - shard->runs_head) * sizeof *shard->runs);
        shard->runs_len -= shard->runs_head;
        shard->runs_head = 0;
    }
    if (shard->runs_len == shard->runs_cap) {
        uint32_t cap = shard->runs_cap ? shard->runs_cap * 2 : 1;
        struct hsl_run *grown = realloc(shard->runs, cap * sizeof *grown);
        if (!grown)
            return HSL_NO_MEMORY;
        shard->runs = grown;
        shard->runs_cap = cap;
    }
    struct hsl_run *added = &shard->runs[shard->runs_len++];
    *added = *run;
    added->segment = (uint32_t)segment->number;
    count_run(log, shard, segment, run);
    return HSL_OK;
}

/* Adds the blocks of a sealed segment behind the others of their shard. */
int hsl_run_insert(struct hsl_log *log, struct hsl_segment *segment, const struct hsl_run *run)
{
    struct hsl_shard *shard = hsl_shard_get(log, run->shard);
    if (!shard)
        return HSL_NOT_FOUND;
    continue_at(shard, run->first, run->end);
    return push_run(log, shard, segment, run);
}

int hsl_run_seal(struct hsl_log *log, struct hsl_segment *segment, const struct hsl_run *run)
{
    struct hsl_shard *shard = hsl_shard_get(log, run->shard);
    if (!shard)
        return HSL_NOT_FOUND;
    uint32_t kept = shard->len;
    while (kept > shard->head && shard->entries[kept - 1].segment == segment->number)
        kept--;
    for (uint32_t i = kept; i < shard->len; i++) {
        shard->bytes -= shard->entries[i].len;
        count_live(segment, shard->id, -1);
        log->index_blocks--;
    }
    shard->len = kept;
    if (shard->head == shard->len) {
        free(shard->entries);
        shard->entries = NULL;
        shard->head = shard->len = shard->cap = 0;
    }
    return push_run(log, shard, segment, run);
}

void hsl_run_replace(struct hsl_log *log, struct hsl_segment *segment, const struct hsl_run *run)
{
    struct hsl_shard *shard = hsl_shard_get(log, run->shard);
    const struct hsl_run *found = shard ? hsl_run_find(shard, run->first) : NULL;
    if (!found || run->end <= shard->first)
        return;
    uint32_t at = (uint32_t)(found - shard->runs), end = at;
    while (end < shard->runs_len && shard->runs[end].first < run->end)
        forget_run(log, shard, &shard->runs[end++]);
    if (end == at)
        return;
    shard->runs[at] = *run;
    shard->runs[at].segment = (uint32_t)segment->number;
    memmove(&shard->runs[at + 1], &shard->runs[end],
            (shard->runs_len - end) * sizeof *shard->runs);
    shard->runs_len -= end - at - 1;
    count_run(log, shard, segment, run);
}

const struct hsl_run *hsl_run_find(const struct hsl_shard *shard, uint64_t lsn)
{
    uint32_t lo = shard->runs_head, hi = shard->runs_len;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (shard->runs[mid].end <= lsn)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < shard->runs_len ? &shard->runs[lo] : NULL;
}

int hsl_rows_push(struct hsl_segment *segment, const struct hsl_row *row)
{
    if (segment->rows_len == segment->rows_cap) {
        size_t cap = segment->rows_cap ? segment->rows_cap * 2 : 256;
        struct hsl_row *grown = realloc(segment->rows, cap * sizeof *grown);
        if (!grown)
            return HSL_NO_MEMORY;
        segment->rows = grown;
        segment->rows_cap = cap;
    }
    segment->rows[segment->rows_len++] = *row;
    return HSL_OK;
}

/* Index of the entry that holds lsn, or of the first one behind it; len if none. */
size_t hsl_index_find(const struct hsl_shard *shard, uint64_t lsn)
{
    size_t lo = shard->head, hi = shard->len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const struct hsl_entry *e = &shard->entries[mid];
        if (e->seq + e->count <= lsn)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void lock_both(struct hsl_log *log)
{
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
}

static void unlock_both(struct hsl_log *log)
{
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
}

static void drop_runs(struct hsl_log *log, struct hsl_shard *shard)
{
    while (shard->runs_head < shard->runs_len &&
           shard->runs[shard->runs_head].end <= shard->first) {
        forget_run(log, shard, &shard->runs[shard->runs_head++]);
    }
    if (shard->runs_head == shard->runs_len && shard->runs_cap > 0) {
        free(shard->runs);
        shard->runs = NULL;
        shard->runs_head = shard->runs_len = shard->runs_cap = 0;
    }
}

static void drop_below(struct hsl_log *log, struct hsl_shard *shard, uint64_t first)
{
    if (first > shard->first)
        shard->first = first;
    drop_runs(log, shard);
    while (shard->head < shard->len) {
        struct hsl_entry *e = &shard->entries[shard->head];
        if (e->seq + e->count > shard->first)
            break;
        struct hsl_segment *segment = hsl_segment_find(log, e->segment);
        if (segment)
            count_live(segment, shard->id, -1);
        shard->bytes -= e->len;
        shard->head++;
        log->index_blocks--;
    }
    if (shard->head == shard->len && shard->cap > 64) {
        free(shard->entries);
        shard->entries = NULL;
        shard->head = shard->len = shard->cap = 0;
    }
}

/* Makes the shard known. Called for new shards, and at recovery with what a snapshot says. */
int hsl_log_shard_restore(struct hsl_log *log, uint64_t id, uint64_t next, uint64_t last_time,
                          uint64_t first)
{
    lock_both(log);
    struct hsl_shard *shard = hsl_shard_add(log, id);
    if (shard) {
        if (next > shard->next)
            shard->next = next;
        if (next > shard->durable_next)
            shard->durable_next = next;
        if (last_time > shard->last_time)
            shard->last_time = last_time;
        drop_below(log, shard, first);
    }
    unlock_both(log);
    return shard ? HSL_OK : HSL_NO_MEMORY;
}

/* Later appends to the shard get NOT_FOUND. */
int hsl_log_shard_close(struct hsl_log *log, uint64_t id)
{
    lock_both(log);
    struct hsl_shard *shard = hsl_shard_get(log, id);
    if (shard)
        shard->closed = true;
    unlock_both(log);
    return shard ? HSL_OK : HSL_NOT_FOUND;
}

/* What trimming has left of the oldest run, in proportion: its rows are not in memory. */
static uint64_t trimmed_bytes(const struct hsl_shard *shard)
{
    if (shard->runs_head == shard->runs_len)
        return 0;
    const struct hsl_run *run = &shard->runs[shard->runs_head];
    if (shard->first <= run->first)
        return 0;
    double share = (double)(shard->first - run->first) / (double)(run->end - run->first);
    return (uint64_t)(share * (double)run->bytes);
}

int hsl_log_shard_info(struct hsl_log *log, uint64_t id, struct hsl_shard_info *out)
{
    lock_both(log);
    const struct hsl_shard *shard = hsl_shard_get(log, id);
    if (shard) {
        *out = (struct hsl_shard_info){
            .id = id,
            .first = shard->first,
            .durable_next = shard->durable_next,
            .next = shard->next,
            .last_time = shard->last_time,
            .last_ticket = shard->last_ticket,
            .bytes = shard->bytes - trimmed_bytes(shard),
            .gap_end = shard->gap_end,
        };
    }
    unlock_both(log);
    return shard ? HSL_OK : HSL_NOT_FOUND;
}

int64_t hsl_log_shards(struct hsl_log *log, uint64_t *ids, size_t cap)
{
    size_t count = 0;
    lock_both(log);
    for (size_t i = 0; i < log->shards_cap; i++) {
        if (!log->shards[i])
            continue;
        if (count < cap)
            ids[count] = log->shards[i]->id;
        count++;
    }
    unlock_both(log);
    return (int64_t)count;
}

/* Records below first become unreadable; first beyond the durable tail is cut to it. */
int hsl_log_trim(struct hsl_log *log, uint64_t id, uint64_t first)
{
    lock_both(log);
    struct hsl_shard *shard = hsl_shard_get(log, id);
    if (shard)
        drop_below(log, shard, first < shard->durable_next ? first : shard->durable_next);
    unlock_both(log);
    return shard ? HSL_OK : HSL_NOT_FOUND;
}

uint64_t hsl_log_order(struct hsl_log *log)
{
    pthread_mutex_lock(&log->index_mu);
    uint64_t order = log->durable_order;
    pthread_mutex_unlock(&log->index_mu);
    return order;
}

static int check_runs(struct hsl_log *log, const struct hsl_shard *shard, uint64_t *bytes,
                      uint64_t *blocks)
{
    for (uint32_t j = shard->runs_head; j < shard->runs_len; j++) {
        const struct hsl_run *run = &shard->runs[j];
        *bytes += run->bytes;
        *blocks += run->blocks;
        if (run->shard != shard->id || run->first >= run->end || run->end <= shard->first)
            return __LINE__;
        if (j > shard->runs_head && run->first < run[-1].end)
            return __LINE__;
        const struct hsl_segment *segment = hsl_segment_find(log, run->segment);
        if (!segment || !segment->sealed)
            return __LINE__;
    }
    return 0;
}

static int check_entries(struct hsl_log *log, const struct hsl_shard *shard, uint64_t *bytes,
                         uint64_t *blocks)
{
    for (uint32_t j = shard->head; j < shard->len; j++) {
        const struct hsl_entry *e = &shard->entries[j];
        *bytes += e->len;
        *blocks += 1;
        if (e->count == 0 || e->seq + e->count <= shard->first)
            return __LINE__;
        uint64_t next = j > shard->head ? e[-1].seq + e[-1].count : e->seq;
        if (e->seq < next || (e->seq > next && !log->cfg.follower)) /* a damaged store has holes */
            return __LINE__;
        if (j > shard->head && (e->order <= e[-1].order || e->time_ms < e[-1].time_ms))
            return __LINE__;
        if (!hsl_segment_find(log, e->segment))
            return __LINE__;
    }
    if (shard->head < shard->len && shard->runs_head < shard->runs_len &&
        shard->entries[shard->head].seq < shard->runs[shard->runs_len - 1].end)
        return __LINE__; /* not reached: the index is right */
    return 0;
}

/* Checks the invariants of the index; 0, or the line of the first that does not hold. */
int hsl_log_check(struct hsl_log *log)
{
    int line = 0;
    uint64_t blocks = 0, live = 0, refs = 0;
    lock_both(log);
    for (size_t i = 0; i < log->shards_cap && !line; i++) {
        const struct hsl_shard *shard = log->shards[i];
        if (!shard)
            continue;
        uint64_t bytes = 0;
        line = check_runs(log, shard, &bytes, &blocks);
        if (!line)
            line = check_entries(log, shard, &bytes, &blocks);
        if (!line && (bytes != shard->bytes || shard->durable_next > shard->next))
            line = __LINE__; /* not reached: the index is right */
        refs += shard->runs_len - shard->runs_head + shard->len - shard->head;
    }
    for (size_t i = 0; i < log->segments_len; i++)
        live += log->segments[i]->live;
    if (!line && (blocks != log->index_blocks || live != refs))
        line = __LINE__; /* not reached: the index is right */
    unlock_both(log);
    return line;
}

/* Nothing is appended yet: the runs are all there is. */
uint64_t hsl_log_segment_of(struct hsl_log *log, uint64_t id, uint64_t lsn)
{
    if (hsl_forked(log))
        return 0;
    pthread_mutex_lock(&log->index_mu);
    const struct hsl_shard *shard = hsl_shard_get(log, id);
    const struct hsl_run *run = shard ? hsl_run_find(shard, lsn) : NULL;
    uint64_t number = run && run->first <= lsn ? run->segment : 0;
    pthread_mutex_unlock(&log->index_mu);
    return number;
}

int64_t hsl_log_holes(struct hsl_log *log, uint64_t id, struct hsl_range *out, size_t cap)
{
    size_t count = 0;
    lock_both(log);
    const struct hsl_shard *shard = hsl_shard_get(log, id);
    uint64_t next = shard ? shard->first : 0;
    for (uint32_t i = shard ? shard->runs_head : 0; shard && i < shard->runs_len; i++) {
        const struct hsl_run *run = &shard->runs[i];
        if (run->first > next) {
            if (count < cap)
                out[count] = (struct hsl_range){id, next, run->first};
            count++;
        }
        if (run->end > next)
            next = run->end;
    }
    if (shard && shard->head < shard->len && shard->entries[shard->head].seq > next) {
        if (count < cap)
            out[count] = (struct hsl_range){id, next, shard->entries[shard->head].seq};
        count++;
    }
    unlock_both(log);
    return (int64_t)count;
}
