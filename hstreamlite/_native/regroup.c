/* The writer of segments of level 1.
 *
 * Frames of about 1 MiB, written one by one to `segments/regroup`; then the footer, a sync, the
 * header, a sync, and the final name. A file with that name is whole. The header comes last because
 * it states what the frames end with: so the chain of the frames begins at 0 and not at its CRC.
 */
#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_BYTES (1u << 20)
#define NAME_BYTES (HSL_PATH_MAX + 64)

struct hsl_regroup {
    const struct hsl_io *io;
    struct hsl_regroup_config cfg;
    char dir[NAME_BYTES], temporary[NAME_BYTES], path[NAME_BYTES];
    struct hsl_segment *out;
    uint8_t *buf; /* the frame in the making, behind room for its header */
    size_t len, cap;
    uint32_t blocks, body_crc;
    uint64_t shard, next; /* of the block added last */
    uint8_t *footer;      /* when it is finished */
    struct hsl_trailer trailer;
    bool created, named;
    const char *what;
    int err;
};

static int failed(struct hsl_regroup *r, const char *what, int err)
{
    r->what = what;
    r->err = err;
    return hsl_status_of(err);
}

static int open_file(struct hsl_regroup *r)
{
    int flags = HSL_OPEN_READ | HSL_OPEN_WRITE | HSL_OPEN_CREATE, fd = -EINVAL;
    if (r->cfg.direct)
        fd = r->io->open(r->io->ctx, r->temporary, flags | HSL_OPEN_DIRECT);
    if (fd == -EINVAL || fd == -EOPNOTSUPP)
        fd = r->io->open(r->io->ctx, r->temporary, flags);
    if (fd < 0)
        return failed(r, "create", -fd);
    r->created = true;
    r->out->fd = fd;
    return HSL_OK;
}

/* What the file will take, or a little more: a disk too small for it says so at once. */
static uint64_t size_bound(const struct hsl_regroup_config *c)
{
    uint64_t frames = 2 * (c->bytes / FRAME_BYTES) + 1;
    uint64_t data = c->bytes + frames * (sizeof(struct hsl_frame_header) + HSL_PAGE / 2);
    return hsl_align_page(data + c->blocks * 16 + 3 * HSL_PAGE);
}

static int reserve(struct hsl_regroup *r)
{
    const struct hsl_io *io = r->io;
    int fd = r->out->fd;
    int err = io->truncate(io->ctx, fd, 0); /* what a process before left unfinished */
    if (err == 0)
        err = io->allocate(io->ctx, fd, 0, size_bound(&r->cfg));
    return err < 0 ? failed(r, "reserve", -err) : HSL_OK;
}

int hsl_regroup_begin(const struct hsl_io *io, const char *path,
                      const struct hsl_regroup_config *config, struct hsl_regroup **out)
{
    *out = NULL;
    if (strlen(path) >= HSL_PATH_MAX)
        return HSL_TOO_LARGE;
    struct hsl_regroup *r = calloc(1, sizeof *r);
    if (!r)
        return HSL_NO_MEMORY;
    *out = r;
    r->io = io;
    r->cfg = *config;
    snprintf(r->dir, sizeof r->dir, "%s/segments", path);
    snprintf(r->temporary, sizeof r->temporary, "%s/segments/regroup", path);
    snprintf(r->path, sizeof r->path, "%s/segments/%016llx.seg", path,
             (unsigned long long)config->number);
    r->out = hsl_segment_new(config->number);
    r->cap = FRAME_BYTES + HSL_PAGE;
    r->buf = hsl_page_alloc(r->cap);
    if (!r->out || !r->buf)
        return HSL_NO_MEMORY;
    r->len = sizeof(struct hsl_frame_header);
    r->out->uid = config->uid;
    r->out->epoch = config->epoch;
    r->out->end = HSL_PAGE;
    int rc = open_file(r);
    return rc == HSL_OK ? reserve(r) : rc;
}

static int write_frame(struct hsl_regroup *r)
{
    struct hsl_segment *s = r->out;
    if (r->blocks == 0)
        return HSL_OK;
    struct hsl_frame_header h = {
        .body_len = (uint32_t)(r->len - sizeof h),
        .blocks = r->blocks,
        .body_crc = r->body_crc,
    };
    hsl_frame_finish(s, &h, s->end);
    memcpy(r->buf, &h, sizeof h);
    size_t padded = hsl_align_page(r->len);
    memset(r->buf + r->len, 0, padded - r->len);
    int err = hsl_write_all(r->io, s->fd, r->buf, padded, s->end);
    if (err < 0)
        return failed(r, "write", -err);
    s->end += padded;
    r->len = sizeof h;
    r->blocks = r->body_crc = 0;
    return HSL_OK;
}

/* Room for `need` more bytes in the frame; one larger than a frame gets a frame of its own. */
static int frame_room(struct hsl_regroup *r, size_t need)
{
    if (r->len + need > FRAME_BYTES) {
        int rc = write_frame(r);
        if (rc != HSL_OK)
            return rc;
    }
    size_t cap = hsl_align_page(r->len + need);
    if (cap <= r->cap)
        return HSL_OK;
    uint8_t *grown = hsl_page_alloc(cap);
    if (!grown)
        return HSL_NO_MEMORY;
    free(r->buf);
    r->buf = grown;
    r->cap = cap;
    return HSL_OK;
}

int hsl_regroup_add(struct hsl_regroup *r, const uint8_t *block, size_t room)
{
    struct hsl_block_header h;
    if (hsl_block_check(block, room, &h) != HSL_OK)
        return HSL_DAMAGED;
    if (h.shard < r->shard || (h.shard == r->shard && r->next && h.seq != r->next))
        return HSL_DAMAGED;
    size_t len = sizeof h + h.ext_len + h.payload_len, padded = hsl_align8(len);
    int rc = frame_room(r, padded);
    if (rc != HSL_OK)
        return rc;
    struct hsl_row row = hsl_block_row(&h, r->out->end + r->len);
    rc = hsl_rows_push(r->out, &row);
    if (rc != HSL_OK)
        return rc;
    memcpy(r->buf + r->len, block, len);
    memset(r->buf + r->len + len, 0, padded - len);
    r->body_crc = hsl_crc32c(r->body_crc, (const uint8_t *)&h.crc, 4);
    r->len += padded;
    r->blocks++;
    r->out->blocks++;
    r->shard = h.shard;
    r->next = h.seq + h.count;
    return HSL_OK;
}

static int write_footer(struct hsl_regroup *r)
{
    struct hsl_segment *s = r->out;
    size_t len;
    int rc = hsl_footer_build(s, &r->footer, &len, &r->trailer);
    if (rc != HSL_OK)
        return rc;
    int err = hsl_write_all(r->io, s->fd, r->footer, len, s->end);
    s->capacity = s->file_bytes = s->end + len;
    if (err < 0)
        return failed(r, "write", -err);
    err = r->io->truncate(r->io->ctx, s->fd, s->file_bytes);
    if (err < 0)
        return failed(r, "cut", -err);
    err = r->io->datasync(r->io->ctx, s->fd);
    return err < 0 ? failed(r, "sync", -err) : HSL_OK;
}

static int write_header(struct hsl_regroup *r)
{
    const struct hsl_regroup_config *c = &r->cfg;
    const struct hsl_segment *s = r->out;
    struct hsl_segment_header header = {
        .major = HSL_VERSION_MAJOR,
        .minor = HSL_VERSION_MINOR,
        .number = c->number,
        .uid = c->uid,
        .epoch = c->epoch,
        .pred_uid = c->pred_uid,
        .pred_end = c->pred_end,
        .pred_crc = c->pred_crc,
        .level = 1,
        .created_ms = hsl_wall_ms(r->io),
        .capacity = s->capacity,
    };
    struct hsl_segment_cover cover = {
        .first = c->first,
        .last = c->last,
        .last_uid = c->last_uid,
        .last_end = c->last_end,
        .last_crc = c->last_crc,
        .end_crc = s->last_crc,
        .end = s->end,
        .frames = s->frames,
    };
    r->out->cover = cover;
    memcpy(header.magic, HSL_SEGMENT_MAGIC, 6);
    memcpy(header.uuid, c->uuid, 16);
    memset(r->buf, 0, HSL_PAGE);
    memcpy(r->buf, &header, sizeof header);
    memcpy(r->buf + sizeof header, &cover, sizeof cover);
    header.crc = hsl_crc32c(0, r->buf + 12, HSL_PAGE - 12);
    memcpy(r->buf, &header, sizeof header);
    int err = hsl_write_all(r->io, s->fd, r->buf, HSL_PAGE, 0);
    if (err < 0)
        return failed(r, "write", -err);
    err = r->io->sync(r->io->ctx, s->fd);
    return err < 0 ? failed(r, "sync", -err) : HSL_OK;
}

int hsl_regroup_finish(struct hsl_regroup *r, int32_t *named)
{
    *named = 0;
    int rc = write_frame(r);
    if (rc == HSL_OK)
        rc = write_footer(r);
    if (rc == HSL_OK)
        rc = write_header(r);
    if (rc != HSL_OK)
        return rc;
    *named = 1;
    r->named = true;
    int err = r->io->rename(r->io->ctx, r->temporary, r->path);
    if (err < 0)
        return failed(r, "rename", -err);
    err = r->io->sync_dir(r->io->ctx, r->dir);
    if (err < 0)
        return failed(r, "sync", -err);
    r->io->close(r->io->ctx, r->out->fd);
    r->out->fd = -1;
    r->out->sealed = true;
    return HSL_OK;
}

/* Gives the written segment away, with its footer in memory; the caller frees both. */
struct hsl_segment *hsl_regroup_take(struct hsl_regroup *r, struct hsl_trailer *trailer,
                                     uint8_t **footer)
{
    struct hsl_segment *s = r->out;
    free(s->rows);
    s->rows = NULL;
    s->rows_len = s->rows_cap = 0;
    s->pred_uid = r->cfg.pred_uid;
    s->pred_end = r->cfg.pred_end;
    s->pred_crc = r->cfg.pred_crc;
    *trailer = r->trailer;
    *footer = r->footer;
    r->out = NULL;
    r->footer = NULL;
    return s;
}

uint64_t hsl_regroup_bytes(const struct hsl_regroup *r)
{
    return r->out ? r->out->file_bytes : 0;
}

int hsl_regroup_error(const struct hsl_regroup *r, const char **what)
{
    *what = r->what ? r->what : "";
    return r->err;
}

void hsl_regroup_free(struct hsl_regroup *r)
{
    if (!r)
        return;
    if (r->out && r->out->fd >= 0)
        r->io->close(r->io->ctx, r->out->fd);
    if (r->created && !r->named)
        r->io->unlink(r->io->ctx, r->temporary);
    if (r->out) {
        free(r->out->rows);
        free(r->out->crcs);
        free(r->out);
    }
    free(r->footer);
    free(r->buf);
    free(r);
}
