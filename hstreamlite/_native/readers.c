/* Handles of segments that are read, so many at most. */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_FILES_MAX 64

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

void hsl_segment_close_handle(struct hsl_log *log, int *fd)
{
    if (*fd >= 0)
        log->io->close(log->io->ctx, *fd);
    *fd = -1;
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
        hsl_segment_close_handle(log, &s->fd_direct);
    if (log->released && s->readers == 0)
        hsl_segment_close_handle(log, &s->fd_read);
    bool gone = s->dropped && s->readers == 0;
    if (gone && s->fd_read >= 0)
        log->open_files--;
    pthread_mutex_unlock(&log->index_mu);
    if (gone)
        hsl_segment_free(log, s);
}
