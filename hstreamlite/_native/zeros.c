/* Zeros written into the active segment ahead of small frames: a sync of blocks that were written
 * before costs half of one that must also convert reserved extents.
 *
 * `prewritten` is where they end. Once half of them are used up, the next are written and synced
 * by whoever is `minding`, beside groups, so that nobody waits for them. They begin where the last
 * end, behind all that has its place; while that is under way (`zeroing`, set with `writing` free),
 * a group whose place would reach into them waits: zeros must not come to lie on a frame. Where
 * they were not due in time, whoever lays out a group writes them itself. So who is zeroing moves
 * `prewritten`, else the holder of `writing`.
 */
#include "log.h"

#include <string.h>

#define SMALL_GROUP (128u << 10)

void hsl_zeros_await(struct hsl_log *log, uint64_t end)
{
    if (end <= log->active->prewritten)
        return;
    pthread_mutex_lock(&log->stage_mu);
    while (log->zeroing)
        pthread_cond_wait(&log->turn_cv, &log->stage_mu);
    pthread_mutex_unlock(&log->stage_mu);
}

/* Bytes of the next zeros; 0 = the segment is full. */
static uint64_t next_len(const struct hsl_log *log)
{
    const struct hsl_segment *s = log->active;
    uint64_t from = s->prewritten, to = from + log->cfg.prewrite_bytes;
    uint64_t last = s->capacity & ~(uint64_t)(HSL_PAGE - 1);
    if (to > last)
        to = last;
    return to > from ? to - from : 0;
}

/* Moves nothing. `writing` held, or zeroing. */
static int write_next(struct hsl_log *log, uint64_t len)
{
    struct hsl_segment *s = log->active;
    int err = hsl_write_all(log->io, s->fd, log->zeros, len, s->prewritten);
    if (err < 0)
        return hsl_fail(log, "prewrite", "segment", -err);
    log->bytes_prewritten += len;
    return HSL_OK;
}

static bool has_zeros(struct hsl_log *log)
{
    if (!log->zeros) {
        log->zeros = hsl_page_alloc(log->cfg.prewrite_bytes);
        if (log->zeros)
            memset(log->zeros, 0, log->cfg.prewrite_bytes);
    }
    return log->zeros != NULL;
}

int hsl_zeros_before(struct hsl_log *log, uint64_t end, uint64_t len, uint64_t group)
{
    struct hsl_segment *active = log->active;
    hsl_zeros_await(log, end + len);
    if (active->prewritten < end)
        active->prewritten = end;
    if (group >= SMALL_GROUP) {
        if (active->prewritten < end + len)
            active->prewritten = end + len;
        return HSL_OK;
    }
    uint64_t next = next_len(log);
    if (end + len <= active->prewritten || next == 0 || !has_zeros(log))
        return HSL_OK;
    int rc = write_next(log, next);
    if (rc == HSL_OK)
        active->prewritten += next;
    return rc;
}

bool hsl_zeros_due(struct hsl_log *log)
{
    struct hsl_segment *active = log->active;
    if (log->writing || !active)
        return false;
    uint64_t left = active->prewritten > active->end ? active->prewritten - active->end : 0;
    /* Where some are left there is memory of them. */
    return left > 0 && left < log->cfg.prewrite_bytes / 2 && next_len(log) > 0;
}

int hsl_zeros_ahead(struct hsl_log *log)
{
    struct hsl_segment *active = log->active;
    uint64_t next = next_len(log);
    log->zeroing = true;
    pthread_mutex_unlock(&log->stage_mu);
    int rc = write_next(log, next);
    pthread_mutex_lock(&log->stage_mu);
    while (log->syncing)
        pthread_cond_wait(&log->turn_cv, &log->stage_mu);
    if (rc == HSL_OK && !log->failed) {
        log->syncing = true; /* a failure that this sync is told of, no other may be told of */
        pthread_mutex_unlock(&log->stage_mu);
        int err = log->io->datasync(log->io->ctx, active->fd);
        pthread_mutex_lock(&log->stage_mu);
        log->syncing = false;
        log->syncs++;
        if (err < 0)
            rc = hsl_fail(log, "sync", "segment", -err);
    }
    if (rc == HSL_OK)
        active->prewritten += next;
    log->zeroing = false;
    return rc;
}
