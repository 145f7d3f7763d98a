/* Sealing a segment: its footer, and its runs in the place of its rows in the index. */
#include "log.h"

#include <stdlib.h>
#include <string.h>

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
