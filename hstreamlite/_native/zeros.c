/* Zeros written into the active segment ahead of small frames: a sync of blocks that were written
 * before costs half of one that must also convert reserved extents.
 *
 * `prewritten` is where they end; the holder of `writing` alone looks at it and moves it. Once half
 * of them are used up, the next are written and synced by whoever is `minding`, beside groups, so
 * that nobody waits for them. They begin where the last ones end, behind all that has its place;
 * while that is under way (`zeroing`, set with `writing` free), a group whose place would reach
 * into them waits: zeros must not come to lie on a frame. Where they were not due in time, whoever
 * lays out a group writes them itself.
 */
#include "log.h"

#include <string.h>

#define SMALL_GROUP (128u << 10)

/* Takes over what was written beside groups. stage_mu and `writing` held. */
static void take_over(struct hsl_segment *s)
{
    if (s->zeroed > s->prewritten)
        s->prewritten = s->zeroed;
}

void hsl_zeros_await(struct hsl_log *log, uint64_t end)
{
    if (end <= log->active->prewritten)
        return;
    pthread_mutex_lock(&log->stage_mu);
    while (log->zeroing)
        pthread_cond_wait(&log->turn_cv, &log->stage_mu);
    take_over(log->active);
    pthread_mutex_unlock(&log->stage_mu);
}

static uint64_t room_behind(const struct hsl_log *log, const struct hsl_segment *s, uint64_t from)
{
    uint64_t to = from + log->cfg.prewrite_bytes, last = s->capacity & ~(uint64_t)(HSL_PAGE - 1);
    if (to > last)
        to = last;
    return to > from ? to - from : 0;
}

/* *written: how many there are now, none without memory. `writing` held, or zeroing. */
static int write_zeros(struct hsl_log *log, struct hsl_segment *s, uint64_t from, uint64_t *written)
{
    *written = 0;
    if (!log->zeros) {
        log->zeros = hsl_page_alloc(log->cfg.prewrite_bytes);
        if (!log->zeros)
            return HSL_OK;
        memset(log->zeros, 0, log->cfg.prewrite_bytes);
    }
    uint64_t room = room_behind(log, s, from);
    int err = hsl_write_all(log->io, s->fd, log->zeros, room, from);
    if (err < 0)
        return hsl_fail(log, "prewrite", "segment", -err);
    log->bytes_prewritten += room;
    *written = room;
    return HSL_OK;
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
    if (end + len <= active->prewritten || room_behind(log, active, active->prewritten) == 0)
        return HSL_OK;
    uint64_t written;
    int rc = write_zeros(log, active, active->prewritten, &written);
    active->prewritten += written;
    return rc;
}

bool hsl_zeros_due(struct hsl_log *log)
{
    struct hsl_segment *active = log->active;
    if (log->writing || !active)
        return false;
    take_over(active);
    uint64_t left = active->prewritten > active->end ? active->prewritten - active->end : 0;
    return left > 0 && left < log->cfg.prewrite_bytes / 2 &&
           room_behind(log, active, active->prewritten) > 0;
}

int hsl_zeros_ahead(struct hsl_log *log)
{
    struct hsl_segment *active = log->active;
    uint64_t from = active->prewritten, written;
    log->zeroing = true;
    pthread_mutex_unlock(&log->stage_mu);
    int rc = write_zeros(log, active, from, &written);
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
    active->zeroed = from + written;
    log->zeroing = false;
    return rc;
}
