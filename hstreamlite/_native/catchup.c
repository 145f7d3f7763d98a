/* Going on in segments that another process writes, seals and puts in the place of others. */
#include "scan.h"

#include <stdlib.h>
#include <string.h>

/* Reads [off, off + len), or what there is of it, into the window, which has room for it. */
static int fill(struct reader *r, uint64_t off, size_t len)
{
    const struct hsl_io *io = r->log->io;
    r->off = off;
    for (r->len = 0; r->len < len;) {
        int64_t n = io->pread(io->ctx, r->fd, r->buf + r->len, len - r->len, off + r->len);
        if (n < 0)
            return hsl_fail(r->log, "read", "segment", (int)-n);
        if (n == 0)
            break;
        r->len += (size_t)n;
    }
    return HSL_OK;
}

/* Padded length of the frame at an offset in the window, as its header says. */
static size_t stated_length(const struct reader *r, const struct hsl_segment *s, uint64_t off)
{
    struct hsl_frame_header h;
    if (off + sizeof h > r->off + r->len)
        return HSL_PAGE;
    memcpy(&h, r->buf + (off - r->off), sizeof h);
    if (!header_valid(&h, s->uid, off) || h.body_len > FRAME_MAX)
        return HSL_PAGE;
    return hsl_align_page(sizeof h + h.body_len);
}

/* Takes in the frames that are whole in a window of at least `need` bytes; its memory then serves
 * cursors. *need: what the next one must hold at least. */
static int scan_window(struct reader *r, struct insert *in, uint64_t upto, bool told, size_t *need)
{
    struct hsl_log *log = r->log;
    struct hsl_segment *s = in->segment;
    uint64_t from = s->end;
    size_t len = *need > log->cfg.chunk_bytes ? *need : log->cfg.chunk_bytes;
    if (len > upto - from)
        len = upto - from;
    struct hsl_chunk *chunk = hsl_chunk_take(log, len);
    if (!chunk)
        return HSL_NO_MEMORY;
    r->buf = chunk->mem + chunk->used;
    r->cap = len;
    r->off = from;
    r->len = len;
    int rc = HSL_OK;
    if (told)
        rc = hsl_tail_copy(log, s->number, from, len, r->buf) ? HSL_OK : HSL_DAMAGE_FRAME;
    else
        rc = fill(r, from, len);
    r->size = from + r->len;
    if (rc == HSL_OK)
        *need = HSL_PAGE;
    while (rc == HSL_OK && s->end < r->size) {
        *need = stated_length(r, s, s->end);
        if (s->end + *need > r->size && r->size < upto)
            break;
        size_t frame;
        rc = hsl_intake_frame(r, in, s->end, false, &frame);
        if (rc == HSL_OK)
            s->end += frame;
    }
    if (rc == HSL_OK && r->len < len)
        rc = HSL_DAMAGE_FRAME; /* the file ends before what is durable */
    hsl_chunk_keep(log, chunk, s->number, from, s->end - from);
    return rc == HSL_DAMAGED ? HSL_DAMAGE_SEQUENCE : rc;
}

int hsl_scan_on(struct hsl_log *log, struct hsl_segment *s, int fd, uint64_t upto,
                struct hsl_segment_report *report)
{
    struct reader r = {.log = log, .fd = fd};
    struct insert in = {.log = log, .segment = s, .report = report, .durable = upto};
    in.hole = log->scan_hole;
    int rc = HSL_OK;
    for (size_t need = HSL_PAGE; rc == HSL_OK && s->end < upto;) {
        rc = scan_window(&r, &in, upto, true, &need);
        if (rc > 0)
            rc = scan_window(&r, &in, upto, false, &need);
    }
    report->end = s->end;
    report->file_bytes = upto;
    if (rc > 0) {
        report->damage = rc;
        rc = HSL_DAMAGED;
    }
    return rc;
}

int hsl_scan_seal(struct hsl_log *log, struct hsl_segment *s, int fd,
                  struct hsl_segment_report *report)
{
    struct reader r = {.log = log, .fd = fd, .window = HSL_PAGE};
    struct insert in = {.log = log, .segment = s, .report = report, .seal = true};
    int64_t size = log->io->size(log->io->ctx, fd);
    if (size < 0)
        return hsl_fail(log, "size", "segment", (int)-size);
    memset(report, 0, sizeof *report);
    r.size = report->file_bytes = (uint64_t)size;
    bool loaded;
    int rc = hsl_scan_load_footer(&r, &in, &loaded);
    free(r.buf);
    if (rc != HSL_OK || !loaded)
        return rc;
    lock_index(log);
    s->file_bytes = (uint64_t)size;
    struct hsl_row *rows = s->rows;
    s->rows = NULL;
    s->rows_len = s->rows_cap = s->rows_checkpointed = 0;
    unlock_index(log);
    free(rows);
    return HSL_OK;
}

int hsl_scan_adopt(struct hsl_log *log, uint64_t number, uint64_t after, uint64_t unsealed,
                   struct hsl_segment_report *report)
{
    struct reader r = {.log = log, .window = HSL_PAGE, .fd = -1};
    struct hsl_segment *s = NULL;
    int rc = hsl_scan_open_segment(log, number, &r, &s, report);
    bool known = rc == HSL_OK && report->damage == HSL_DAMAGE_NONE && report->number == number;
    if (!known || report->covers_first > after + 1 || report->covers_last >= unsealed) {
        hsl_scan_close_segment(&r);
        free(s);
        return rc != HSL_OK ? rc : known ? HSL_AGAIN : HSL_DAMAGED;
    }
    struct insert in = {.log = log, .segment = s, .report = report, .adopt = true, .hole = true};
    bool loaded;
    lock_index(log);
    rc = hsl_segments_add(log, s);
    s->live = 1; /* until it has all its runs */
    unlock_index(log);
    if (rc != HSL_OK) {
        hsl_scan_close_segment(&r); /* not reached: memory ran out */
        free(s);                    /* not reached: as the line before */
        return rc;                  /* not reached: as the line before */
    }
    log->scan_hole = true;
    rc = hsl_scan_load_footer(&r, &in, &loaded);
    hsl_scan_close_segment(&r);
    if (rc == HSL_IO) { /* before any of its runs */
        hsl_scan_take_out(log, s);
        free(s);
        return rc;
    }
    lock_index(log);
    s->live--;
    unlock_index(log);
    if (rc == HSL_OK && report->covers_last > after)
        log->scan_number = report->covers_last;
    log->loaded = s;
    return rc == HSL_OK && !loaded ? HSL_DAMAGED : rc;
}
