/* Files of the segments: creation, sealing, readers, removal.
 *
 * A segment is created as `spare`: reserved space without a name in the sequence. Rolling renames
 * it, writes its header, syncs both and states it in the superblock before any frame counts on it.
 * `reserve` is one more such file that only the store's own records may use when the disk is full.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_FILES_MAX 64
#define WRITE_FLAGS (HSL_OPEN_READ | HSL_OPEN_WRITE | HSL_OPEN_CREATE)

/* Bytes of frames that still fit, with footer and checkpoints accounted for. */
uint64_t hsl_segment_room(const struct hsl_segment *s)
{
    uint64_t taken = s->end + s->overhead + s->blocks * HSL_ROW_CLAIM;
    return taken < s->capacity ? s->capacity - taken : 0;
}

/* What trailer, paddings and the frames of checkpoints take, apart from their rows. */
static uint64_t overhead_of(const struct hsl_log *log, uint64_t capacity)
{
    return 16384 + (capacity / log->cfg.checkpoint_bytes) * 8192;
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
    if (err == -EOPNOTSUPP)
        err = io->truncate(io->ctx, fd, bytes);
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

void hsl_spare_discard(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "segments/spare");
    pthread_mutex_lock(&log->stage_mu);
    struct hsl_segment *old = log->spare;
    log->spare = NULL;
    pthread_mutex_unlock(&log->stage_mu);
    if (old) {
        hsl_segment_free(log, old);
        log->io->unlink(log->io->ctx, path);
    }
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

/* Makes a spare that takes `need` bytes of claims. FULL: no room on the disk, nothing changed. */
int hsl_spare_create(struct hsl_log *log, uint64_t need, bool system)
{
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "segments/spare");
    uint64_t capacity = log->last_capacity ? log->last_capacity * 2 : log->cfg.segment_bytes_min;
    if (capacity > log->cfg.segment_bytes_max)
        capacity = log->cfg.segment_bytes_max;
    uint64_t least = hsl_align_page(need + need / 64 + 65536);
    while (least < HSL_PAGE + overhead_of(log, least) + need)
        least = hsl_align_page(least + least / 8);
    if (capacity < least)
        capacity = least;
    hsl_spare_discard(log); /* its room may be what the next one, or the reserve, needs */
    ensure_reserve(log);
    struct hsl_segment *spare = hsl_segment_new(0);
    if (!spare)
        return HSL_NO_MEMORY;
    int rc = HSL_FULL;
    bool ready = log->reserve_ready || system;
    if (ready && leaves_room(log, capacity))
        rc = reserve_file(log, path, capacity, &spare->fd);
    if (rc == HSL_FULL && ready) {
        capacity = least > log->cfg.segment_bytes_min ? least : log->cfg.segment_bytes_min;
        if (system || leaves_room(log, capacity))
            rc = reserve_file(log, path, capacity, &spare->fd);
    }
    bool emergency = false;
    if (rc == HSL_FULL && system) {
        rc = spare_from_reserve(log, path, need, &spare->fd, &capacity);
        if (rc == HSL_FULL) {
            /* The reserve was used before; sealing it gave most of its space back. */
            capacity = least;
            rc = reserve_file(log, path, capacity, &spare->fd);
        }
        emergency = rc == HSL_OK;
    }
    if (rc != HSL_OK) {
        free(spare);
        return rc;
    }
    spare->capacity = capacity;
    spare->overhead = overhead_of(log, capacity);
    spare->end = HSL_PAGE;
    spare->emergency = emergency;
    spare->file_bytes = capacity;
    pthread_mutex_lock(&log->stage_mu);
    log->spare = spare;
    log->spare_emergency = emergency;
    if (!emergency)
        log->last_capacity = capacity;
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
        .pred_uid = log->pred_uid,
        .pred_end = log->pred_end,
        .pred_crc = log->pred_crc,
        .created_ms = log->io->wall_ms(log->io->ctx),
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

/* Seals the active segment, if any, and makes the spare the active one. */
int hsl_roll(struct hsl_log *log)
{
    int rc;
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
    next->number = log->last_segment + 1;
    next->uid = hsl_random(&log->salt);
    next->epoch = log->epoch;
    next->pred_uid = log->pred_uid;
    next->pred_end = log->pred_end;
    next->pred_crc = log->pred_crc;
    rc = write_header(log, next);
    if (rc != HSL_OK)
        return rc;
    pthread_mutex_lock(&log->stage_mu); /* appenders look at the room */
    next->end = HSL_PAGE;
    pthread_mutex_unlock(&log->stage_mu);
    next->prewritten = HSL_PAGE;
    next->checkpoint_end = HSL_PAGE;
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
        log->spare_emergency = false;
        log->stats.segments_rolled++;
    }
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

static void fill_trailer(const struct hsl_segment *s, struct hsl_trailer *t)
{
    memcpy(t->magic, HSL_FOOTER_MAGIC, 8);
    t->version = 1;
    t->footer_off = s->end;
    t->blocks = (uint32_t)s->rows_len;
    t->last_crc = s->last_crc;
    t->frames = s->frames;
    t->min_time = t->min_order = UINT64_MAX;
    for (size_t i = 0; i < s->rows_len; i++) {
        const struct hsl_row *row = &s->rows[i];
        t->bytes += row->len;
        t->min_time = row->time_ms < t->min_time ? row->time_ms : t->min_time;
        t->max_time = row->time_ms > t->max_time ? row->time_ms : t->max_time;
        t->min_order = row->order < t->min_order ? row->order : t->min_order;
        t->max_order = row->order > t->max_order ? row->order : t->max_order;
    }
}

/* Rows, directory, CRCs and trailer in one buffer that ends on a page boundary. The CRCs are seeded
 * with the segment's uid: sectors of another segment's footer must not fit in between. */
int hsl_footer_build(const struct hsl_segment *s, uint8_t **out, size_t *len,
                     struct hsl_trailer *trailer)
{
    size_t bound = hsl_footer_bound(s->rows_len) + sizeof *trailer;
    uint8_t *buf = hsl_page_alloc(bound + HSL_PAGE);
    struct hsl_footer_size size;
    if (!buf || hsl_footer_encode(s->rows, s->rows_len, buf, &size) != HSL_OK) {
        free(buf);
        return HSL_NO_MEMORY;
    }
    memset(trailer, 0, sizeof *trailer);
    fill_trailer(s, trailer);
    trailer->shards = size.shards;
    trailer->rows_len = size.rows;
    trailer->dir_len = (uint32_t)size.dir;
    size_t total = size.rows + size.dir;
    uint32_t seed = (uint32_t)s->uid;
    for (size_t off = 0; off < size.rows; off += HSL_FOOTER_PIECE) {
        size_t n = size.rows - off < HSL_FOOTER_PIECE ? size.rows - off : HSL_FOOTER_PIECE;
        uint32_t crc = hsl_crc32c(seed, buf + off, n);
        memcpy(buf + total, &crc, 4);
        total += 4;
    }
    trailer->dir_crc = hsl_crc32c(seed, buf + size.rows, total - size.rows);
    *len = hsl_align_page(total + sizeof *trailer);
    memset(buf + total, 0, *len - total);
    trailer->crc = hsl_crc32c(seed, (uint8_t *)trailer + 12, sizeof *trailer - 12);
    memcpy(buf + *len - sizeof *trailer, trailer, sizeof *trailer);
    *out = buf;
    return HSL_OK;
}

/* Takes over what a sealed segment's trailer and directory say of the rows. */
int hsl_segment_footer(struct hsl_segment *s, const struct hsl_trailer *t, const uint8_t *crcs)
{
    size_t pieces = (t->rows_len + HSL_FOOTER_PIECE - 1) / HSL_FOOTER_PIECE;
    s->crcs = malloc(pieces > 0 ? pieces * 4 : 1);
    if (!s->crcs)
        return HSL_NO_MEMORY;
    memcpy(s->crcs, crcs, pieces * 4);
    s->footer_off = t->footer_off;
    s->footer_rows = t->rows_len;
    s->min_time = t->min_time;
    s->min_order = t->min_order;
    s->max_order = t->max_order;
    return HSL_OK;
}

struct sealing {
    struct hsl_log *log;
    struct hsl_segment *segment;
};

static int seal_run(void *ctx, const struct hsl_run *run)
{
    const struct sealing *sealing = ctx;
    return hsl_run_seal(sealing->log, sealing->segment, run);
}

/* The rows of a segment leave memory; each of its shards gets a run instead of entries. */
static int seal_index(struct hsl_log *log, struct hsl_segment *s, const struct hsl_trailer *t,
                      const uint8_t *footer, uint64_t file_bytes)
{
    const uint8_t *dir = footer + t->rows_len;
    struct sealing sealing = {log, s};
    hsl_pieces_keep(log, s, footer);
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
    s->fd = -1;
    s->sealed = true;
    s->file_bytes = file_bytes;
    hsl_segment_end_direct(log, s);
    int rc = hsl_dir_decode(dir, t->dir_len, t->rows_len, t->shards, t->blocks, seal_run,
                            &sealing);
    if (log->active == s)
        log->active = NULL;
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
    free(s->rows);
    s->rows = NULL;
    s->rows_len = s->rows_cap = s->rows_checkpointed = 0;
    return rc;
}

/* Gives the index of a segment that was walked the shape it would have with a footer. */
int hsl_seal_in_memory(struct hsl_log *log, struct hsl_segment *s)
{
    size_t len;
    uint8_t *footer;
    struct hsl_trailer trailer;
    int rc = hsl_footer_build(s, &footer, &len, &trailer);
    if (rc != HSL_OK)
        return rc;
    rc = hsl_segment_footer(s, &trailer, footer + trailer.rows_len + trailer.dir_len);
    uint8_t *rows = malloc(trailer.rows_len ? trailer.rows_len : 1);
    if (rc != HSL_OK || !rows) {
        free(rows);
        free(footer);
        return HSL_NO_MEMORY;
    }
    memcpy(rows, footer, trailer.rows_len);
    pthread_mutex_lock(&log->pieces_mu);
    s->rebuilt = rows;
    pthread_mutex_unlock(&log->pieces_mu);
    rc = seal_index(log, s, &trailer, footer, s->file_bytes);
    free(footer);
    return rc;
}

/* Writes the footer, cuts the file to its length and syncs. The segment is immutable then. The
 * footer is durable before the cut, so that a file below its capacity without one was damaged; and
 * so are the frames that it lists, which a killed process may have left unsynced: a footer counts
 * at the end of its file only. */
int hsl_seal(struct hsl_log *log, struct hsl_segment *s)
{
    const struct hsl_io *io = log->io;
    size_t len;
    uint8_t *footer;
    struct hsl_trailer trailer;
    int rc = hsl_footer_build(s, &footer, &len, &trailer);
    if (rc != HSL_OK)
        return rc;
    rc = hsl_segment_footer(s, &trailer, footer + trailer.rows_len + trailer.dir_len);
    int err = rc != HSL_OK ? 0 : hsl_write_all(io, s->fd, footer, len, s->end);
    if (rc == HSL_OK && err == 0)
        err = io->datasync(io->ctx, s->fd);
    if (rc == HSL_OK && err == 0)
        err = io->truncate(io->ctx, s->fd, s->end + len);
    if (rc == HSL_OK && err == 0)
        err = io->sync(io->ctx, s->fd);
    if (err < 0) {
        char path[HSL_PATH_MAX + 64];
        hsl_segment_path(log, path, s->number);
        rc = hsl_fail(log, "seal", path, -err);
    }
    if (rc == HSL_OK) {
        io->close(io->ctx, s->fd);
        log->syncs++;
        log->pred_uid = s->uid;
        log->pred_end = s->end;
        log->pred_crc = s->last_crc;
        log->durable_at = s->number << 32 | s->end;
        if (log->super.checkpoint >> 32 == s->number)
            log->super.checkpoint = 0;
        rc = seal_index(log, s, &trailer, footer, s->end + len);
    }
    free(footer);
    return rc;
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

static void close_one_reader(struct hsl_log *log)
{
    for (size_t i = 0; i < log->segments_len; i++) {
        struct hsl_segment *s = log->segments[i];
        if (s->fd_read >= 0 && s->readers == 0) {
            log->io->close(log->io->ctx, s->fd_read);
            s->fd_read = -1;
            log->open_files--;
            return;
        }
    }
}

static void close_handle(struct hsl_log *log, int *fd)
{
    if (*fd >= 0)
        log->io->close(log->io->ctx, *fd);
    *fd = -1;
}

/* Gives the files back at close: the log itself lives on while anybody holds a cursor. */
void hsl_segments_release(struct hsl_log *log)
{
    pthread_mutex_lock(&log->index_mu);
    log->released = true;
    for (size_t i = 0; i < log->segments_len; i++) {
        struct hsl_segment *s = log->segments[i];
        close_handle(log, &s->fd);
        if (s->readers == 0)
            close_handle(log, &s->fd_read);
    }
    if (log->spare)
        close_handle(log, &log->spare->fd);
    pthread_mutex_unlock(&log->index_mu);
}

/* Is a file that a follower opened by its name the segment that it knows? */
static int check_named(struct hsl_log *log, const struct hsl_segment *s, int fd)
{
    struct hsl_segment_header h;
    uint8_t *page = hsl_page_alloc(HSL_PAGE);
    if (!page)
        return HSL_NO_MEMORY;
    int err = hsl_read_all(log->io, fd, page, HSL_PAGE, 0);
    memcpy(&h, page, sizeof h);
    free(page);
    if (err < 0 && err != -ENODATA)
        return hsl_fail(log, "read", "segment", -err);
    return err == 0 && h.uid == s->uid ? HSL_OK : HSL_REPLACED;
}

static int open_reader(struct hsl_log *log, struct hsl_segment *s)
{
    char path[HSL_PATH_MAX + 64];
    hsl_segment_path(log, path, s->number);
    if (log->open_files >= OPEN_FILES_MAX)
        close_one_reader(log);
    bool direct = !s->sealed && log->direct;
    int flags = HSL_OPEN_READ | (direct ? HSL_OPEN_DIRECT : 0);
    int fd = log->io->open(log->io->ctx, path, flags);
    if (fd < 0)
        return hsl_fail(log, "open", path, -fd);
    int rc = log->follow ? check_named(log, s, fd) : HSL_OK;
    if (rc != HSL_OK) {
        log->io->close(log->io->ctx, fd);
        return rc;
    }
    log->open_files++;
    s->fd_read = fd;
    s->reads_direct = direct;
    return HSL_OK;
}

static int take_reader(struct hsl_log *log, uint64_t number, bool cached, struct hsl_segment **out,
                       int *fd)
{
    int rc = HSL_OK;
    pthread_mutex_lock(&log->index_mu);
    struct hsl_segment *s = hsl_segment_find(log, number);
    if (log->released) {
        rc = HSL_CLOSED;
    } else if (!s) {
        rc = HSL_NOT_FOUND;
    } else if (s->fd_read < 0) {
        rc = open_reader(log, s);
    }
    if (rc == HSL_OK && cached && s->reads_direct)
        rc = HSL_AGAIN;
    if (rc == HSL_OK) {
        s->readers++;
        *out = s;
        *fd = s->fd_read;
    }
    pthread_mutex_unlock(&log->index_mu);
    return rc;
}

/* A file handle for reading that stays valid until hsl_segment_unread, through seal and drop. */
int hsl_segment_reader(struct hsl_log *log, uint64_t number, struct hsl_segment **out, int *fd)
{
    return take_reader(log, number, false, out, fd);
}

int hsl_segment_cached_reader(struct hsl_log *log, uint64_t number, struct hsl_segment **out,
                              int *fd)
{
    return take_reader(log, number, true, out, fd);
}

void hsl_segment_end_direct(struct hsl_log *log, struct hsl_segment *s)
{
    if (s->fd_read < 0)
        return;
    log->open_files--;
    if (s->readers == 0)
        log->io->close(log->io->ctx, s->fd_read);
    else
        s->fd_direct = s->fd_read; /* not reached: a thread reads just then */
    s->fd_read = -1;
}

void hsl_segment_unread(struct hsl_log *log, struct hsl_segment *s)
{
    pthread_mutex_lock(&log->index_mu);
    s->readers--;
    if (s->readers == 0)
        close_handle(log, &s->fd_direct);
    if (log->released && s->readers == 0)
        close_handle(log, &s->fd_read);
    bool gone = s->dropped && s->readers == 0;
    if (gone && s->fd_read >= 0)
        log->open_files--;
    pthread_mutex_unlock(&log->index_mu);
    if (gone)
        hsl_segment_free(log, s);
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
    int rc = HSL_OK;
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
