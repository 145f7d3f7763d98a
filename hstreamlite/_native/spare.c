/* Files of segments to come: spare, reserve, and rolling to the next.
 *
 * A segment is created as `spare`: reserved space without a name in the sequence. Rolling renames
 * it, writes its header, syncs both and states it in the superblock before any frame counts on it.
 * `reserve` is one more such file that only the store's own records may use when the disk is full.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WRITE_FLAGS (HSL_OPEN_READ | HSL_OPEN_WRITE | HSL_OPEN_CREATE)

/* What trailer, paddings and the frames of checkpoints take, apart from their rows. */
static uint64_t overhead_of(const struct hsl_log *log, uint64_t capacity)
{
    return 16384 + (capacity / log->cfg.checkpoint_bytes) * 8192;
}

/* Opens for direct I/O and, where that is refused, buffered from then on. */
static int open_direct(struct hsl_log *log, const char *path, int flags)
{
    if (log->direct) {
        int fd = log->io->open(log->io->ctx, path, flags | HSL_OPEN_DIRECT);
        if (fd != -EINVAL && fd != -EOPNOTSUPP)
            return fd;
        log->direct = false;
    }
    return log->io->open(log->io->ctx, path, flags);
}

/* Reserves a file of `bytes`; leaves nothing behind on failure. */
static int reserve_file(struct hsl_log *log, const char *path, uint64_t bytes, int *out)
{
    const struct hsl_io *io = log->io;
    int fd = open_direct(log, path, WRITE_FLAGS);
    if (fd < 0)
        return hsl_fail(log, "create", path, -fd);
    int err = io->allocate(io->ctx, fd, 0, bytes);
    if (err < 0) {
        io->close(io->ctx, fd);
        io->unlink(io->ctx, path);
        return hsl_fail(log, "reserve", path, -err);
    }
    *out = fd;
    return HSL_OK;
}

static void ensure_reserve(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "segments/reserve");
    int fd;
    if (log->reserve_ready || reserve_file(log, path, log->cfg.segment_bytes_min, &fd) != HSL_OK)
        return;
    log->io->close(log->io->ctx, fd);
    log->reserve_ready = true;
}

static int spare_from_reserve(struct hsl_log *log, const char *spare_path, uint64_t need,
                              int *fd, uint64_t *capacity)
{
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "segments/reserve");
    const struct hsl_io *io = log->io;
    if (!log->reserve_ready || need + 32768 > log->cfg.segment_bytes_min)
        return HSL_FULL;
    int err = io->rename(io->ctx, path, spare_path);
    if (err < 0)
        return hsl_fail(log, "rename", path, -err);
    *fd = open_direct(log, spare_path, WRITE_FLAGS);
    if (*fd < 0) { /* it goes on being the reserve, if the name can be given back */
        log->reserve_ready = io->rename(io->ctx, spare_path, path) >= 0;
        return hsl_fail(log, "open", spare_path, -*fd);
    }
    log->reserve_ready = false;
    *capacity = log->cfg.segment_bytes_min;
    return HSL_OK;
}

/* What is staged must not count on its room. stage_mu held; released meanwhile. */
void hsl_spare_discard(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "segments/spare");
    struct hsl_segment *old = log->spare;
    log->spare = NULL;
    if (!old)
        return;
    pthread_mutex_unlock(&log->stage_mu);
    hsl_segment_free(log, old);
    if (hsl_place_check(log) == HSL_OK)
        log->io->unlink(log->io->ctx, path);
    pthread_mutex_lock(&log->stage_mu);
}

/* What appends leave of the disk: room to write anew what little is left of old segments, without
 * which a disk filled by them would stay full. */
static uint64_t room_to_clean(struct hsl_log *log)
{
    uint64_t bytes = 0, most = log->cfg.segment_bytes_max / 2;
    pthread_mutex_lock(&log->index_mu);
    for (size_t i = 0; i < log->segments_len; i++)
        bytes += log->segments[i]->file_bytes;
    pthread_mutex_unlock(&log->index_mu);
    return bytes / 8 < most ? bytes / 8 : most;
}

/* Whether a file of this size leaves that room; where nobody can tell, it does. */
static bool leaves_room(struct hsl_log *log, uint64_t bytes)
{
    int64_t left = log->io->free_bytes(log->io->ctx, log->path);
    return left < 0 || (uint64_t)left >= bytes + room_to_clean(log);
}

/* The smallest file that takes `need` bytes of claims. */
static uint64_t least_capacity(const struct hsl_log *log, uint64_t need)
{
    uint64_t least = hsl_align_page(need + need / 64 + 65536);
    while (least < HSL_PAGE + overhead_of(log, least) + need)
        least = hsl_align_page(least + least / 8);
    return least;
}

/* Reserves the spare's file: twice as large as the last one, else as small as may be. For the
 * store's own records what appends leave is taken too, then the reserve. */
static int reserve_spare(struct hsl_log *log, const char *path, uint64_t need, bool system,
                         struct hsl_segment *spare)
{
    uint64_t small = log->cfg.segment_bytes_min, least = least_capacity(log, need);
    uint64_t usual = log->last_capacity ? log->last_capacity * 2 : small;
    bool ready = log->reserve_ready || system;
    int rc = HSL_FULL;
    if (usual > log->cfg.segment_bytes_max)
        usual = log->cfg.segment_bytes_max;
    spare->capacity = usual > least ? usual : least;
    if (ready && leaves_room(log, spare->capacity))
        rc = reserve_file(log, path, spare->capacity, &spare->fd);
    if (rc == HSL_FULL && ready) {
        spare->capacity = small > least ? small : least;
        if (system || leaves_room(log, spare->capacity))
            rc = reserve_file(log, path, spare->capacity, &spare->fd);
    }
    if (rc != HSL_FULL || !system)
        return rc;
    rc = spare_from_reserve(log, path, need, &spare->fd, &spare->capacity);
    if (rc == HSL_FULL) { /* it was used before; sealing it gave most of its space back */
        spare->capacity = least;
        rc = reserve_file(log, path, least, &spare->fd);
    }
    spare->emergency = rc == HSL_OK;
    return rc;
}

/* Makes a spare, where there is none, that takes `need` bytes of claims. FULL: no room on the disk,
 * nothing changed. */
int hsl_spare_create(struct hsl_log *log, uint64_t need, bool system)
{
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "segments/spare");
    int rc = hsl_place_check(log);
    if (rc != HSL_OK)
        return rc;
    ensure_reserve(log);
    struct hsl_segment *spare = hsl_segment_new(0);
    if (!spare)
        return HSL_NO_MEMORY;
    rc = reserve_spare(log, path, need, system, spare);
    if (rc != HSL_OK) {
        free(spare);
        return rc;
    }
    spare->overhead = overhead_of(log, spare->capacity);
    spare->end = HSL_PAGE;
    spare->prewritten = HSL_PAGE;
    spare->checkpoint_end = HSL_PAGE;
    spare->file_bytes = spare->capacity;
    pthread_mutex_lock(&log->stage_mu);
    log->spare = spare;
    if (!spare->emergency)
        log->last_capacity = spare->capacity;
    pthread_mutex_unlock(&log->stage_mu);
    return HSL_OK;
}

static void fill_header(struct hsl_log *log, const struct hsl_segment *s, uint8_t *page)
{
    struct hsl_segment_header header = {
        .major = HSL_VERSION_MAJOR,
        .minor = HSL_VERSION_MINOR,
        .number = s->number,
        .uid = s->uid,
        .epoch = s->epoch,
        .pred_uid = s->pred_uid,
        .pred_end = s->pred_end,
        .pred_crc = s->pred_crc,
        .created_ms = hsl_wall_ms(log->io),
        .capacity = s->capacity,
    };
    memcpy(header.magic, HSL_SEGMENT_MAGIC, 6);
    memcpy(header.uuid, log->uuid, 16);
    memset(page, 0, HSL_PAGE);
    memcpy(page, &header, sizeof header);
    header.crc = hsl_crc32c(0, page + 12, HSL_PAGE - 12);
    memcpy(page, &header, sizeof header);
}

static int write_header(struct hsl_log *log, struct hsl_segment *s)
{
    const struct hsl_io *io = log->io;
    char path[HSL_PATH_MAX + 64], spare[HSL_PATH_MAX + 64], dir[HSL_PATH_MAX + 64];
    hsl_path(log, spare, "segments/spare");
    hsl_path(log, dir, "segments");
    hsl_segment_path(log, path, s->number);
    uint8_t *page = hsl_page_alloc(HSL_PAGE);
    if (!page)
        return HSL_NO_MEMORY;
    fill_header(log, s, page);
    s->last_crc = ((struct hsl_segment_header *)(void *)page)->crc;
    int err = hsl_write_all(io, s->fd, page, HSL_PAGE, 0);
    free(page);
    if (err == 0)
        err = io->sync(io->ctx, s->fd);
    if (err == 0)
        err = io->rename(io->ctx, spare, path);
    if (err == 0)
        err = io->sync_dir(io->ctx, dir);
    return err < 0 ? hsl_fail(log, "start", path, -err) : HSL_OK;
}

/* Behind the segment that was sealed last. */
static void take_number(struct hsl_log *log, struct hsl_segment *next)
{
    next->number = log->last_segment + 1;
    next->uid = hsl_random(&log->salt);
    next->epoch = log->epoch;
    next->pred_uid = log->pred_uid;
    next->pred_end = log->pred_end;
    next->pred_crc = log->pred_crc;
}

/* Seals the active segment, if any, and makes the spare the active one. */
int hsl_roll(struct hsl_log *log)
{
    int rc = hsl_place_check(log);
    if (rc != HSL_OK)
        return rc;
    if (!log->spare) {
        rc = hsl_spare_create(log, 0, true);
        if (rc != HSL_OK)
            return rc;
    }
    if (log->active) {
        rc = hsl_seal(log, log->active);
        if (rc != HSL_OK)
            return rc;
    }
    struct hsl_segment *next = log->spare;
    take_number(log, next);
    rc = write_header(log, next);
    if (rc != HSL_OK)
        return rc;
    log->last_segment = next->number;
    log->durable_at = next->number << 32 | HSL_PAGE;
    rc = hsl_super_write(log);
    if (rc != HSL_OK)
        return rc;
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
    rc = hsl_segments_add(log, next);
    if (rc == HSL_OK) {
        log->active = next;
        log->spare = NULL;
        log->stats.segments_rolled++;
    }
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}
