/* The segments of a log: which there are, and which of them are dead. */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of frames that still fit, with footer and checkpoints accounted for. */
uint64_t hsl_segment_room(const struct hsl_segment *s)
{
    uint64_t taken = s->end + s->overhead + s->blocks * HSL_ROW_CLAIM;
    return taken < s->capacity ? s->capacity - taken : 0;
}

struct hsl_segment *hsl_segment_new(uint64_t number)
{
    struct hsl_segment *segment = calloc(1, sizeof *segment);
    if (segment) {
        segment->number = number;
        segment->fd = segment->fd_read = segment->fd_direct = -1;
    }
    return segment;
}

void hsl_segment_free(struct hsl_log *log, struct hsl_segment *segment)
{
    if (!segment)
        return;
    if (segment->fd >= 0)
        log->io->close(log->io->ctx, segment->fd);
    if (segment->fd_read >= 0)
        log->io->close(log->io->ctx, segment->fd_read);
    free(segment->rows);
    free(segment->crcs);
    free(segment->rebuilt);
    free(segment);
}

struct hsl_segment_cover hsl_segment_covers(const struct hsl_segment *s)
{
    if (s->number >= HSL_LEVEL_1)
        return s->cover;
    return (struct hsl_segment_cover){
        .first = s->number,
        .last = s->number,
        .last_uid = s->uid,
        .last_end = s->end,
        .last_crc = s->last_crc,
    };
}

int hsl_segments_add(struct hsl_log *log, struct hsl_segment *segment)
{
    if (log->segments_len == log->segments_cap) {
        size_t cap = log->segments_cap ? log->segments_cap * 2 : 16;
        struct hsl_segment **grown = realloc(log->segments, cap * sizeof *grown);
        if (!grown)
            return HSL_NO_MEMORY;
        log->segments = grown;
        log->segments_cap = cap;
    }
    size_t at = log->segments_len++;
    for (; at > 0 && log->segments[at - 1]->number > segment->number; at--)
        log->segments[at] = log->segments[at - 1];
    log->segments[at] = segment;
    if (segment->number >= HSL_LEVEL_1 && segment->number > log->last_regrouped)
        log->last_regrouped = segment->number;
    return HSL_OK;
}

void hsl_segments_remove(struct hsl_log *log, const struct hsl_segment *segment)
{
    size_t at = 0;
    while (log->segments[at] != segment)
        at++;
    memmove(&log->segments[at], &log->segments[at + 1],
            (log->segments_len - at - 1) * sizeof *log->segments);
    log->segments_len--;
}

struct hsl_segment *hsl_segment_find(struct hsl_log *log, uint64_t number)
{
    size_t lo = 0, hi = log->segments_len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (log->segments[mid]->number < number)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < log->segments_len && log->segments[lo]->number == number ? log->segments[lo]
                                                                         : NULL;
}

/* Gives the files back at close: the log itself lives on while anybody holds a cursor. */
void hsl_segments_release(struct hsl_log *log)
{
    pthread_mutex_lock(&log->index_mu);
    log->released = true;
    for (size_t i = 0; i < log->segments_len; i++) {
        struct hsl_segment *s = log->segments[i];
        hsl_segment_close_handle(log, &s->fd);
        if (s->readers == 0)
            hsl_segment_close_handle(log, &s->fd_read);
    }
    if (log->spare)
        hsl_segment_close_handle(log, &log->spare->fd);
    pthread_mutex_unlock(&log->index_mu);
}

int64_t hsl_log_dead_segments(struct hsl_log *log, int32_t system, uint64_t *numbers, size_t cap)
{
    size_t count = 0;
    pthread_mutex_lock(&log->index_mu);
    for (size_t i = 0; i < log->segments_len; i++) {
        const struct hsl_segment *s = log->segments[i];
        if (!s->sealed || s->live != (system ? s->live_system : 0))
            continue;
        if (count < cap)
            numbers[count] = s->number;
        count++;
    }
    pthread_mutex_unlock(&log->index_mu);
    return (int64_t)count;
}

int64_t hsl_log_segment_facts(struct hsl_log *log, struct hsl_segment_facts *out, size_t cap)
{
    pthread_mutex_lock(&log->index_mu);
    size_t count = log->segments_len;
    for (size_t i = 0; i < count && i < cap; i++) {
        const struct hsl_segment *s = log->segments[i];
        out[i] = (struct hsl_segment_facts){
            .number = s->number,
            .first = hsl_segment_first(s),
            .last = hsl_segment_last(s),
            .bytes = s->file_bytes,
            .live = s->live_bytes,
            .shards = s->live,
            .written = s->run_bytes,
            .largest = s->run_largest,
            .sealed = s->sealed,
        };
    }
    pthread_mutex_unlock(&log->index_mu);
    return (int64_t)count;
}

uint64_t hsl_log_first_segment(struct hsl_log *log)
{
    uint64_t first = 0;
    pthread_mutex_lock(&log->index_mu);
    for (size_t i = 0; i < log->segments_len; i++) {
        uint64_t at = hsl_segment_first(log->segments[i]);
        if (first == 0 || at < first)
            first = at;
    }
    pthread_mutex_unlock(&log->index_mu);
    return first;
}

void hsl_log_number_regrouped(struct hsl_log *log, uint64_t above)
{
    pthread_mutex_lock(&log->index_mu);
    if (above > log->last_regrouped)
        log->last_regrouped = above;
    pthread_mutex_unlock(&log->index_mu);
}

/* Takes a sealed segment without live blocks out of the list; false if it is none. */
static bool detach(struct hsl_log *log, uint64_t number)
{
    pthread_mutex_lock(&log->index_mu);
    struct hsl_segment *s = hsl_segment_find(log, number);
    bool dead = s && s->sealed && s->live == 0;
    if (dead) {
        hsl_segments_remove(log, s);
        s->dropped = true;
        if (s->readers == 0 && s->fd_read >= 0)
            log->open_files--;
    }
    bool idle = dead && s->readers == 0;
    pthread_mutex_unlock(&log->index_mu);
    if (idle)
        hsl_segment_free(log, s);
    return dead;
}

/* What readers hold of them lives on until they let go. */
void hsl_segments_forget(struct hsl_log *log, const uint64_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        detach(log, numbers[i]);
}

/* Unlinks sealed segments without live blocks. That they go must be durable in the system log
 * before; a failure leaves the rest in place, to be dropped at the next open. */
int hsl_log_drop_segments(struct hsl_log *log, const uint64_t *numbers, size_t count)
{
    const struct hsl_io *io = log->io;
    char path[HSL_PATH_MAX + 64];
    int rc = hsl_place_check(log);
    if (rc != HSL_OK)
        return rc;
    for (size_t i = 0; i < count && rc == HSL_OK; i++) {
        if (!detach(log, numbers[i]))
            continue;
        hsl_segment_path(log, path, numbers[i]);
        int err = io->unlink(io->ctx, path);
        if (err < 0 && err != -ENOENT)
            rc = hsl_fail(log, "unlink", path, -err);
        pthread_mutex_lock(&log->stage_mu);
        log->stats.segments_dropped++;
        pthread_mutex_unlock(&log->stage_mu);
    }
    hsl_path(log, path, "segments");
    int err = io->sync_dir(io->ctx, path);
    return rc == HSL_OK && err < 0 ? hsl_fail(log, "sync", path, -err) : rc;
}

/* Files left by the process before: a spare is of no use, a reserve of the right size is. Replaying
 * the mapped stage may have made a spare of this process already. */
int hsl_segments_tidy(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    const struct hsl_io *io = log->io;
    hsl_path(log, path, "segments/spare");
    int err = log->spare ? 0 : io->unlink(io->ctx, path);
    if (err < 0 && err != -ENOENT)
        return hsl_fail(log, "unlink", path, -err);
    hsl_path(log, path, "segments/reserve");
    int fd = io->open(io->ctx, path, HSL_OPEN_READ);
    if (fd == -ENOENT)
        return HSL_OK;
    if (fd < 0)
        return hsl_fail(log, "open", path, -fd);
    int64_t size = io->size(io->ctx, fd);
    io->close(io->ctx, fd);
    if (size == (int64_t)log->cfg.segment_bytes_min) {
        log->reserve_ready = true;
        return HSL_OK;
    }
    err = io->unlink(io->ctx, path);
    return err < 0 ? hsl_fail(log, "unlink", path, -err) : HSL_OK;
}
