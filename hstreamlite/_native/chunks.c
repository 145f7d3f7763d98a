/* The memory of staged frames, and the cache of the log's tail in it.
 *
 * It is a list of chunks in the order they were filled. A chunk holds consecutive frames, each on a
 * page boundary, exactly as they go to disk. Once durable, a frame stays readable there until its
 * chunk is needed again: that is the cache. A chunk stays as it is while a frame in it is unwritten
 * or a reader has it pinned.
 */
#include "log.h"

#include <stdlib.h>

static void drop_cached(struct hsl_log *log, const struct hsl_chunk *chunk)
{
    while (log->cached_len > 0 && log->cached[log->cached_head].chunk == chunk) {
        log->cached_head = (log->cached_head + 1) % log->cached_cap;
        log->cached_len--;
    }
}

static struct hsl_chunk *chunk_new(size_t cap)
{
    struct hsl_chunk *chunk = malloc(sizeof *chunk);
    uint8_t *mem = hsl_page_alloc(cap);
    if (!chunk || !mem) {
        free(chunk);
        free(mem);
        return NULL;
    }
    chunk->mem = mem;
    chunk->cap = cap;
    return chunk;
}

static void chunk_free(struct hsl_chunk *chunk)
{
    free(chunk->mem);
    free(chunk);
}

static void chunk_give_back(struct hsl_log *log, struct hsl_chunk *chunk)
{
    log->chunk_total -= chunk->cap;
    chunk_free(chunk);
}

static struct hsl_chunk *take_ahead(struct hsl_log *log)
{
    struct hsl_chunk *chunk = log->ahead;
    log->ahead = chunk->next;
    return chunk;
}

static bool too_much(const struct hsl_log *log, size_t more)
{
    return log->chunk_total + more > log->cfg.stage_bytes;
}

static bool lacks_chunks(const struct hsl_log *log)
{
    return log->oldest != log->newest && !too_much(log, log->cfg.chunk_bytes);
}

/* Gives memory back that nothing needs, until a chunk of `cap` bytes is not too much. One of that
 * size is kept and returned instead; NULL if there was none. */
static struct hsl_chunk *reclaim(struct hsl_log *log, size_t cap)
{
    if (log->ahead && log->ahead->cap == cap)
        return take_ahead(log);
    while (log->ahead && too_much(log, cap))
        chunk_give_back(log, take_ahead(log));
    while (log->oldest && too_much(log, cap) && log->oldest->unwritten == 0 &&
           log->oldest->refs == 0) {
        struct hsl_chunk *old = log->oldest;
        drop_cached(log, old);
        log->oldest = old->next;
        if (!log->oldest)
            log->newest = NULL;
        if (old->cap == cap)
            return old;
        chunk_give_back(log, old);
    }
    return NULL;
}

static bool any_unwritten(const struct hsl_log *log)
{
    for (const struct hsl_chunk *c = log->oldest; c; c = c->next)
        if (c->unwritten > 0)
            return true;
    return false;
}

struct hsl_chunk *hsl_chunk_acquire(struct hsl_log *log, size_t need, bool *no_memory)
{
    *no_memory = false;
    if (log->newest && log->newest->cap - log->newest->used >= need)
        return log->newest;
    size_t cap = hsl_align_page(need > log->cfg.chunk_bytes ? need : log->cfg.chunk_bytes);
    struct hsl_chunk *chunk = reclaim(log, cap);
    if (!chunk) {
        if (too_much(log, cap) && any_unwritten(log))
            return NULL;
        chunk = chunk_new(cap);
        *no_memory = !chunk;
        if (!chunk)
            return NULL;
        log->chunk_total += cap;
    }
    chunk->used = 0;
    chunk->refs = 0;
    chunk->unwritten = 0;
    chunk->next = NULL;
    if (log->newest)
        log->newest->next = chunk;
    else
        log->oldest = chunk;
    log->newest = chunk;
    return chunk;
}

bool hsl_stage_untouched(const struct hsl_log *log)
{
    return log->touching == HSL_TOUCH_NOT && (lacks_chunks(log) || hsl_os_stage_untouched(log));
}

void hsl_stage_touch(struct hsl_log *log)
{
    log->touching = HSL_TOUCHING;
    if (hsl_os_stage_untouched(log)) { /* first: that is a fault for every page */
        hsl_os_stage_touch(log);
    } else if (lacks_chunks(log)) {
        size_t cap = log->cfg.chunk_bytes;
        log->chunk_total += cap;
        pthread_mutex_unlock(&log->stage_mu);
        struct hsl_chunk *chunk = chunk_new(cap);
        for (size_t at = 0; chunk && at < cap; at += HSL_PAGE)
            chunk->mem[at] = 0;
        pthread_mutex_lock(&log->stage_mu);
        if (!chunk) {
            log->chunk_total -= cap; /* not reached: memory ran out */
            return; /* not reached: as the line before; and no more is tried */
        }
        chunk->next = log->ahead;
        log->ahead = chunk;
    }
    log->touching = HSL_TOUCH_NOT;
    if (hsl_stage_untouched(log))
        log->touching = HSL_TOUCH_ASKED;
}

void hsl_chunks_free(struct hsl_log *log)
{
    while (log->oldest) {
        struct hsl_chunk *next = log->oldest->next;
        chunk_free(log->oldest);
        log->oldest = next;
    }
    while (log->ahead)
        chunk_free(take_ahead(log));
    log->newest = NULL;
}

void hsl_cache_add(struct hsl_log *log, const struct hsl_frame *frame, uint64_t segment,
                   uint64_t off)
{
    if (log->cached_len == log->cached_cap) {
        uint32_t cap = log->cached_cap ? log->cached_cap * 2 : 256;
        struct hsl_cached *grown = malloc(cap * sizeof *grown);
        if (!grown)
            return; /* the frame is read from disk instead */
        for (uint32_t i = 0; i < log->cached_len; i++)
            grown[i] = log->cached[(log->cached_head + i) % log->cached_cap];
        free(log->cached);
        log->cached = grown;
        log->cached_cap = cap;
        log->cached_head = 0;
    }
    log->cached[(log->cached_head + log->cached_len++) % log->cached_cap] =
        (struct hsl_cached){frame->chunk, segment, off, frame->off, frame->len};
}

struct hsl_chunk *hsl_chunk_take(struct hsl_log *log, size_t need)
{
    bool no_memory;
    pthread_mutex_lock(&log->stage_mu);
    struct hsl_chunk *chunk = hsl_chunk_acquire(log, need, &no_memory);
    pthread_mutex_unlock(&log->stage_mu);
    return chunk;
}

void hsl_chunk_keep(struct hsl_log *log, struct hsl_chunk *chunk, uint64_t segment, uint64_t off,
                    size_t len)
{
    if (len == 0)
        return;
    struct hsl_frame frames = {.chunk = chunk, .off = chunk->used, .len = len};
    pthread_mutex_lock(&log->stage_mu);
    hsl_cache_add(log, &frames, segment, off);
    chunk->used += len;
    pthread_mutex_unlock(&log->stage_mu);
}

struct hsl_chunk *hsl_cache_pin(struct hsl_log *log, uint64_t segment, uint64_t off, size_t len,
                                const uint8_t **mem)
{
    struct hsl_chunk *found = NULL;
    pthread_mutex_lock(&log->stage_mu);
    uint32_t lo = 0, hi = log->cached_len;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        const struct hsl_cached *c =
            &log->cached[(log->cached_head + mid) % log->cached_cap];
        if (c->segment < segment || (c->segment == segment && c->off + c->len <= off))
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < log->cached_len) {
        const struct hsl_cached *c = &log->cached[(log->cached_head + lo) % log->cached_cap];
        if (c->segment == segment && c->off <= off && off + len <= c->off + c->len) {
            found = c->chunk;
            found->refs++;
            *mem = found->mem + c->chunk_off + (off - c->off);
        }
    }
    pthread_mutex_unlock(&log->stage_mu);
    return found;
}

void hsl_cache_unpin(struct hsl_log *log, struct hsl_chunk *chunk)
{
    if (hsl_forked(log))
        return;
    pthread_mutex_lock(&log->stage_mu);
    chunk->refs--;
    pthread_mutex_unlock(&log->stage_mu);
}
