/* Reading a segment file whatever its state: see inspect_api.h.
 *
 *   walk      frames from the header on; where none is valid, page by page to the next that is
 *   judge     how far the file counts, and which of the breaks are damage
 *   rescue    blocks with a matching CRC inside what is damaged
 *
 * What was found is put in order in verdict.c.
 */
#include "inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW (4u << 20)
#define LOOK_AHEAD (64u << 20)
#define FRAME_MAX (40u << 20)
#define RESCUE_WORK (1ull << 30) /* bytes of CRC in one damaged range: what looks like a block */

bool hsl_inspect_grow(void **items, size_t *cap, size_t len, size_t size)
{
    if (len < *cap)
        return true;
    size_t more = *cap ? *cap * 2 : 64;
    void *grown = realloc(*items, more * size);
    if (!grown)
        return false;
    *items = grown;
    *cap = more;
    return true;
}

int hsl_inspect_add_range(struct hsl_inspect *in, int fault, uint64_t frame, uint64_t from,
                          uint64_t to)
{
    if (!hsl_inspect_grow((void **)&in->ranges, &in->ranges_cap, in->ranges_len,
                          sizeof *in->ranges))
        return HSL_NO_MEMORY;
    in->ranges[in->ranges_len++] =
        (struct hsl_inspect_range){.start = from, .stop = to, .frame = frame, .fault = fault};
    return HSL_OK;
}

int hsl_inspect_add_lost(struct hsl_inspect *in, const struct hsl_inspect_lost *lost)
{
    if (!hsl_inspect_grow((void **)&in->lost, &in->lost_cap, in->lost_len, sizeof *in->lost))
        return HSL_NO_MEMORY;
    in->lost[in->lost_len++] = *lost;
    return HSL_OK;
}

const uint8_t *hsl_inspect_view(struct hsl_inspect *in, uint64_t off, size_t need)
{
    if (off + need > in->report.file_bytes)
        return NULL;
    if (off >= in->buf_off && off + need <= in->buf_off + in->buf_len)
        return in->buf + (off - in->buf_off);
    size_t want = hsl_align_page(need > WINDOW || off < in->careful ? need : WINDOW);
    if (want > in->buf_cap) {
        free(in->buf);
        in->buf_cap = in->buf_len = 0;
        in->buf = hsl_page_alloc(want);
        if (!in->buf) {
            in->err = ENOMEM;
            return NULL;
        }
        in->buf_cap = want;
    }
    in->buf_off = off;
    in->buf_len = 0;
    while (in->buf_len < want && off + in->buf_len < in->report.file_bytes) {
        int64_t n = in->io->pread(in->io->ctx, in->fd, in->buf + in->buf_len, want - in->buf_len,
                                  off + in->buf_len);
        if (n == -EIO && want > hsl_align_page(need)) {
            in->careful = off + WINDOW;
            return hsl_inspect_view(in, off, need);
        }
        if (n == -EIO) {
            in->report.unreadable++;
            return NULL;
        }
        if (n < 0) {
            in->err = (int)-n;
            return NULL;
        }
        if (n == 0)
            break;
        in->buf_len += (size_t)n;
        in->report.read_bytes += (uint64_t)n;
    }
    return in->buf_len >= need ? in->buf : NULL;
}

/* The same at any offset. */
static const uint8_t *view_at(struct hsl_inspect *in, uint64_t off, size_t need)
{
    uint64_t page = off & ~(uint64_t)(HSL_PAGE - 1);
    size_t span = (size_t)(off - page) + need;
    uint64_t left = in->report.file_bytes - page;
    if (off + need > in->report.file_bytes)
        return NULL;
    size_t whole = hsl_align_page(span);
    const uint8_t *at = hsl_inspect_view(in, page, whole < left ? whole : (size_t)left);
    return at ? at + (off - page) : NULL;
}

int hsl_inspect_read(struct hsl_inspect *in, uint64_t off, uint32_t len, uint8_t *out)
{
    const uint8_t *at = view_at(in, off, len);
    if (!at)
        return in->err ? -in->err : -ENODATA;
    memcpy(out, at, len);
    return 0;
}

static void read_header(struct hsl_inspect *in)
{
    struct hsl_inspect_report *report = &in->report;
    const uint8_t *page = hsl_inspect_view(in, 0, HSL_PAGE);
    if (!page)
        return;
    struct hsl_segment_header h;
    memcpy(&h, page, sizeof h);
    if (memcmp(h.magic, HSL_SEGMENT_MAGIC, 6) != 0 ||
        h.crc != hsl_crc32c(0, page + 12, HSL_PAGE - 12))
        return;
    report->header = 1;
    report->version = h.major;
    report->required = h.required;
    report->number = h.number;
    report->uid = h.uid;
    report->epoch = h.epoch;
    report->pred_uid = h.pred_uid;
    report->pred_end = h.pred_end;
    report->pred_crc = h.pred_crc;
    report->capacity = h.capacity;
    memcpy(report->uuid, h.uuid, 16);
    report->covers_first = report->covers_last = h.number;
    report->covers_uid = h.uid;
    report->last_crc = h.crc;
    in->chained = true;
    if (h.number < HSL_LEVEL_1)
        return;
    memcpy(&in->cover, page + sizeof h, sizeof in->cover);
    report->covers_first = in->cover.first;
    report->covers_last = in->cover.last;
    report->covers_uid = in->cover.last_uid;
    report->covers_end = in->cover.last_end;
    report->covers_crc = in->cover.last_crc;
    report->last_crc = 0;
}

struct hsl_inspect *hsl_inspect_open(const struct hsl_io *io, const char *path, int32_t direct,
                                     int32_t *err)
{
    struct hsl_inspect *in = calloc(1, sizeof *in);
    *err = ENOMEM;
    if (!in)
        return NULL;
    in->io = io;
    in->fd = io->open(io->ctx, path, HSL_OPEN_READ | (direct ? HSL_OPEN_DIRECT : 0));
    if (in->fd == -EINVAL && direct)
        in->fd = io->open(io->ctx, path, HSL_OPEN_READ);
    int64_t size = in->fd < 0 ? in->fd : io->size(io->ctx, in->fd);
    if (size < 0) {
        *err = (int)-size;
        hsl_inspect_free(in);
        return NULL;
    }
    in->report.file_bytes = (uint64_t)size;
    read_header(in);
    if (in->err) {
        *err = in->err;
        hsl_inspect_free(in);
        return NULL;
    }
    *err = 0;
    return in;
}

void hsl_inspect_free(struct hsl_inspect *in)
{
    if (!in)
        return;
    if (in->fd >= 0)
        in->io->close(in->io->ctx, in->fd);
    free(in->buf);
    free(in->found);
    free(in->ranges);
    free(in->lost);
    free(in->runs);
    free(in);
}

static bool load_trailer(struct hsl_inspect *in)
{
    struct hsl_trailer *t = &in->trailer;
    uint64_t size = in->report.file_bytes;
    uint32_t seed = (uint32_t)in->report.uid;
    if (size < 2 * HSL_PAGE || size % HSL_PAGE)
        return false;
    const uint8_t *page = hsl_inspect_view(in, size - HSL_PAGE, HSL_PAGE);
    if (!page)
        return false;
    memcpy(t, page + HSL_PAGE - sizeof *t, sizeof *t);
    if (memcmp(t->magic, HSL_FOOTER_MAGIC, 8) != 0)
        return false;
    in->footer_torn = true;
    if (t->crc != hsl_crc32c(seed, (uint8_t *)t + 12, sizeof *t - 12) || t->version != 1 ||
        t->footer_off % HSL_PAGE || t->footer_off < HSL_PAGE || t->footer_off > size ||
        t->rows_len > size)
        return false;
    uint64_t pieces = (t->rows_len + HSL_FOOTER_PIECE - 1) / HSL_FOOTER_PIECE;
    uint64_t rest = t->dir_len + 4 * pieces;
    if (t->footer_off + t->rows_len + rest + sizeof *t > size)
        return false;
    const uint8_t *body = hsl_inspect_view(in, t->footer_off, size - t->footer_off);
    if (!body || t->dir_crc != hsl_crc32c(seed, body + t->rows_len, rest))
        return false;
    for (uint64_t i = 0; i < pieces; i++) {
        uint64_t off = i * HSL_FOOTER_PIECE, n = t->rows_len - off;
        uint32_t crc;
        memcpy(&crc, body + t->rows_len + t->dir_len + 4 * i, 4);
        if (crc != hsl_crc32c(seed, body + off, n < HSL_FOOTER_PIECE ? n : HSL_FOOTER_PIECE))
            return false;
    }
    in->footer_torn = false;
    return true;
}

/* Without a header the frames themselves say whose they are. */
static void adopt_uid(struct hsl_inspect *in)
{
    in->report.uid = in->want.uid;
    for (uint64_t off = HSL_PAGE; off + HSL_PAGE <= in->report.file_bytes; off += HSL_PAGE) {
        const uint8_t *page = hsl_inspect_view(in, off, HSL_PAGE);
        if (in->err)
            return;
        struct hsl_frame_header h = {0};
        if (page)
            memcpy(&h, page, sizeof h);
        if (h.magic != HSL_FRAME_MAGIC || h.page != off / HSL_PAGE ||
            h.crc != hsl_crc32c(0, page + 8, sizeof h - 8))
            continue;
        if (in->want.uid == 0)
            in->report.uid = h.uid;
        else if (h.uid != in->want.uid)
            continue;
        in->report.epoch = h.epoch;
        return;
    }
}

void hsl_inspect_expect(struct hsl_inspect *in, const struct hsl_inspect_want *want)
{
    struct hsl_inspect_report *report = &in->report;
    in->want = *want;
    if (in->cover.end) { /* it was complete when it got its name */
        in->want.end = in->cover.end;
        in->want.crc = in->cover.end_crc;
        in->want.tail = 0;
    }
    if (!report->header)
        adopt_uid(in);
    report->sealed = load_trailer(in);
    in->bounded = report->sealed || in->want.end != 0;
    in->limit = in->want.end ? in->want.end : report->file_bytes;
    if (report->sealed)
        in->limit = in->trailer.footer_off;
    if (in->limit > report->file_bytes)
        in->limit = report->file_bytes;
    in->off = in->last_valid = report->end = HSL_PAGE;
}

static int add_block(struct hsl_inspect *in, const uint8_t *block, const struct hsl_block_header *h,
                     uint64_t frame, uint64_t off, bool rescued)
{
    uint32_t len = (uint32_t)sizeof *h + h->ext_len + h->payload_len;
    const uint8_t *payload = block + sizeof *h + h->ext_len;
    bool decodes = h->codec != 0 ? h->codec <= 2
                                 : hsl_unchecked(h) || hsl_codec_count(payload, h->payload_len) ==
                                                           (int64_t)h->count;
    if (!decodes || h->seq == 0 || h->seq + h->count < h->seq)
        return rescued ? HSL_OK : hsl_inspect_add_range(in, HSL_FAULT_BODY, frame, off, off + len);
    if (!hsl_inspect_grow((void **)&in->found, &in->found_cap, in->found_len, sizeof *in->found))
        return HSL_NO_MEMORY; /* not reached: memory ran out */
    in->found[in->found_len++] = (struct found){
        .row = {.shard = h->shard,
                .seq = h->seq,
                .order = h->order,
                .time_ms = h->time_ms,
                .off8 = (uint32_t)(off / 8),
                .len = len,
                .count = h->count},
        .codec = h->codec,
        .rescued = rescued,
    };
    return HSL_OK;
}

/* A block that does not verify. Its header may be right all the same: then the next block, or the
 * frame's end, is where it says. Returns its padded length, 0 if the header is of no use. */
static size_t bad_block(struct hsl_inspect *in, const uint8_t *at, size_t room, bool last,
                        uint64_t off)
{
    struct hsl_block_header h, next;
    if (room < sizeof h)
        return 0;
    memcpy(&h, at, sizeof h);
    uint64_t bytes = sizeof h + (uint64_t)h.ext_len + h.payload_len, len = hsl_align8(bytes);
    if (h.magic != HSL_BLOCK_MAGIC || len > room || h.count == 0)
        return 0;
    if (last ? len != room : hsl_block_check(at + len, room - len, &next) != HSL_OK)
        return 0;
    /* The count is right for certain if the records can still be told apart. */
    const uint8_t *payload = at + sizeof h + h.ext_len;
    if (h.codec != 0 || hsl_codec_count(payload, h.payload_len) != (int64_t)h.count)
        return len;
    struct hsl_inspect_lost lost = {h.shard, h.seq, h.seq + h.count, off, off + bytes, 0};
    return hsl_inspect_add_lost(in, &lost) == HSL_OK ? len : 0;
}

static int walk_blocks(struct hsl_inspect *in, const struct hsl_frame_header *h,
                       const uint8_t *body, uint64_t off)
{
    uint64_t start = off + sizeof *h;
    uint32_t crc = 0;
    size_t at = 0;
    bool whole = true;
    for (uint32_t i = 0; i < h->blocks; i++) {
        struct hsl_block_header block;
        size_t room = h->body_len - at;
        if (hsl_block_check(body + at, room, &block) == HSL_OK) {
            int rc = add_block(in, body + at, &block, off, start + at, false);
            if (rc != HSL_OK)
                return rc;
            crc = hsl_crc32c(crc, body + at + 4, 4);
            at += hsl_align8(sizeof block + block.ext_len + block.payload_len);
            continue;
        }
        size_t len = bad_block(in, body + at, room, i + 1 == h->blocks, start + at);
        whole = false;
        int rc = hsl_inspect_add_range(in, HSL_FAULT_BLOCK, off, start + at,
                                       start + at + (len > 0 ? len : room));
        if (rc != HSL_OK)
            return rc;
        if (len == 0)
            return HSL_OK;
        at += len;
    }
    if (whole && (at != h->body_len || crc != h->body_crc))
        return hsl_inspect_add_range(in, HSL_FAULT_BLOCK, off, start, start + h->body_len);
    return HSL_OK;
}

/* The frame at in->off: 1 and its padded length, 0 if there is none. */
static int walk_frame(struct hsl_inspect *in, size_t *len)
{
    struct hsl_inspect_report *report = &in->report;
    uint64_t off = in->off;
    const uint8_t *at = hsl_inspect_view(in, off, HSL_PAGE);
    if (!at)
        return in->err ? HSL_IO : 0;
    struct hsl_frame_header h;
    memcpy(&h, at, sizeof h);
    if (h.magic != HSL_FRAME_MAGIC || h.uid != report->uid || h.page != off / HSL_PAGE ||
        h.epoch != report->epoch || h.body_len > FRAME_MAX ||
        h.crc != hsl_crc32c(0, at + 8, sizeof h - 8))
        return 0;
    *len = hsl_align_page(sizeof h + h.body_len);
    if (off + *len > in->limit)
        return 0;
    at = hsl_inspect_view(in, off, *len);
    if (!at)
        return in->err ? HSL_IO : 0;
    int rc = HSL_OK;
    if (in->broken)
        rc = hsl_inspect_add_range(in, HSL_FAULT_FRAME, in->broken_from, in->broken_from, off);
    else if (in->chained && (h.number != report->frames + 1 || h.chain != report->last_crc))
        rc = hsl_inspect_add_range(in, HSL_FAULT_CHAIN, off, off, off);
    if (rc == HSL_OK && h.flags & HSL_FRAME_CHECKPOINT) {
        if (h.body_crc != hsl_crc32c(0, at + sizeof h, h.body_len))
            rc = hsl_inspect_add_range(in, HSL_FAULT_INDEX, off, off, off + *len);
    } else if (rc == HSL_OK) {
        rc = walk_blocks(in, &h, at + sizeof h, off);
    }
    report->frames = h.number;
    report->last_crc = h.crc;
    if (h.durable > report->durable)
        report->durable = h.durable;
    in->broken = false;
    in->chained = true;
    in->last_valid = report->end = off + *len;
    return rc == HSL_OK ? 1 : rc;
}

static int walk(struct hsl_inspect *in, uint64_t until)
{
    while (in->off < until && in->off + HSL_PAGE <= in->limit) {
        size_t len = HSL_PAGE;
        int rc = walk_frame(in, &len);
        if (rc < 0)
            return rc;
        if (rc == 0) {
            if (!in->broken) {
                in->broken = true;
                in->broken_from = in->off;
            }
            if (!in->bounded && in->off - in->last_valid > LOOK_AHEAD)
                return HSL_OK;
            len = HSL_PAGE;
        }
        in->off += len;
    }
    return in->off + HSL_PAGE <= in->limit ? HSL_AGAIN : HSL_OK;
}

static void forget_from(struct hsl_inspect *in, uint64_t off)
{
    size_t n = 0;
    for (size_t i = 0; i < in->ranges_len; i++)
        if (in->ranges[i].frame < off)
            in->ranges[n++] = in->ranges[i];
    in->ranges_len = n;
    n = 0;
    for (size_t i = 0; i < in->found_len; i++)
        if ((uint64_t)in->found[i].row.off8 * 8 < off)
            in->found[n++] = in->found[i];
    in->found_len = n;
    n = 0;
    for (size_t i = 0; i < in->lost_len; i++)
        if (in->lost[i].start < off)
            in->lost[n++] = in->lost[i];
    in->lost_len = n;
    in->report.end = off;
}

/* The newest segment, not sealed: what follows the first break that nobody says was durable was
 * never acknowledged. */
static int judge_tail(struct hsl_inspect *in)
{
    struct hsl_inspect_report *report = &in->report;
    uint64_t claim = in->want.claim, mine = report->header ? report->number : report->durable >> 32;
    if (report->durable >> 32 == mine && (report->durable & UINT32_MAX) > claim)
        claim = report->durable & UINT32_MAX;
    for (size_t i = 0; i < in->ranges_len; i++) {
        const struct hsl_inspect_range *range = &in->ranges[i];
        if (range->frame >= claim && range->fault != HSL_FAULT_BODY &&
            range->fault != HSL_FAULT_HEADER) {
            forget_from(in, range->frame);
            break;
        }
    }
    if (report->header && report->file_bytes < report->capacity && !in->footer_torn)
        return hsl_inspect_add_range(in, HSL_FAULT_CUT, report->end, report->end, report->capacity);
    /* Without a header nobody says how long the file was: a frame may have been cut in two. */
    if (!report->header && report->end < report->file_bytes)
        return hsl_inspect_add_range(in, HSL_FAULT_FRAME, report->end, report->end,
                                     claim > report->file_bytes ? claim : report->file_bytes);
    if (claim > report->end)
        return hsl_inspect_add_range(in, HSL_FAULT_FRAME, report->end, report->end, claim);
    if (in->footer_torn && in->want.closed)
        return hsl_inspect_add_range(in, HSL_FAULT_FOOTER, report->end, report->end,
                                     report->file_bytes);
    return HSL_OK;
}

static int judge(struct hsl_inspect *in)
{
    struct hsl_inspect_report *report = &in->report;
    int rc = HSL_OK;
    if (report->file_bytes < HSL_PAGE)
        return hsl_inspect_add_range(in, HSL_FAULT_SHORT, 0, 0, HSL_PAGE);
    if (!report->header)
        rc = hsl_inspect_add_range(in, HSL_FAULT_HEADER, 0, 0, HSL_PAGE);
    if (rc != HSL_OK)
        return rc;
    if (in->want.tail && !report->sealed)
        return judge_tail(in);
    if (report->sealed || in->want.end) {
        uint64_t end = report->sealed ? in->trailer.footer_off : in->want.end;
        uint32_t crc = report->sealed ? in->trailer.last_crc : in->want.crc;
        if (end > report->file_bytes)
            rc = hsl_inspect_add_range(in, HSL_FAULT_CUT, report->end, report->end, end);
        else if (in->want.claim > end)
            rc = hsl_inspect_add_range(in, HSL_FAULT_FRAME, end, end, in->want.claim);
        else if (in->broken || report->end < end)
            rc = hsl_inspect_add_range(in, HSL_FAULT_FRAME, report->end, report->end, end);
        else if (report->last_crc != crc)
            rc = hsl_inspect_add_range(in, HSL_FAULT_CHAIN, end, end, end);
        if (rc == HSL_OK && !report->sealed && end <= report->file_bytes)
            rc = hsl_inspect_add_range(in, HSL_FAULT_FOOTER, end, end, report->file_bytes);
        if (rc == HSL_OK && in->want.end && end != in->want.end)
            rc = hsl_inspect_add_range(in, HSL_FAULT_CHAIN, end, end,
                                       in->want.end > end ? in->want.end : end);
        report->end = end;
        return rc;
    }
    /* Nobody says where the frames end: there was a footer behind them. */
    bool footer = in->footer_torn && report->frames > 0;
    return hsl_inspect_add_range(in, footer ? HSL_FAULT_FOOTER : HSL_FAULT_FRAME, report->end,
                                 report->end, report->file_bytes);
}

/* Looks at every place where a block may begin, from `from` on. Inside a damaged block there may
 * be bytes of the user's that look like one; putting in order lets only those through that fit. */
static int rescue(struct hsl_inspect *in, uint64_t from, uint64_t to, uint64_t frame)
{
    uint64_t work = 0;
    if (to > in->report.file_bytes)
        to = in->report.file_bytes;
    for (uint64_t off = hsl_align8(from); off + sizeof(struct hsl_block_header) <= to;) {
        const uint8_t *at = view_at(in, off, sizeof(struct hsl_block_header));
        if (!at && in->err)
            return HSL_IO;
        if (!at) {
            off = hsl_align_page(off + 1);
            continue;
        }
        struct hsl_block_header h;
        memcpy(&h, at, sizeof h);
        uint64_t len = sizeof h + (uint64_t)h.ext_len + h.payload_len;
        bool maybe = h.magic == HSL_BLOCK_MAGIC && h.version == 1 && h.count > 0 &&
                     off + len <= to && work + len <= RESCUE_WORK;
        if (maybe) {
            work += len;
            at = view_at(in, off, len);
            if (!at && in->err)
                return HSL_IO;
            maybe = at && h.crc == hsl_crc32c(0, at + 8, len - 8);
        }
        if (maybe) {
            int rc = add_block(in, at, &h, frame, off, true);
            if (rc != HSL_OK)
                return rc;
        }
        off += maybe ? hsl_align8(len) : 8;
    }
    return HSL_OK;
}

static int rescue_next(struct hsl_inspect *in)
{
    struct hsl_inspect_range r = in->ranges[in->rescue_next++];
    bool may = r.fault == HSL_FAULT_FRAME || r.fault == HSL_FAULT_BLOCK ||
               r.fault == HSL_FAULT_CUT || r.fault == HSL_FAULT_FOOTER;
    if (!may)
        return HSL_OK;
    return rescue(in, r.start, r.stop, r.frame);
}

int hsl_inspect_step(struct hsl_inspect *in, uint64_t bytes, int32_t *err)
{
    uint64_t until = in->report.read_bytes + bytes;
    int rc = HSL_AGAIN;
    if (in->phase == WALK) {
        rc = in->report.file_bytes < HSL_PAGE ? HSL_OK : walk(in, in->off + bytes);
        if (rc == HSL_OK) {
            rc = judge(in);
            in->phase = RESCUE;
        }
    }
    while (in->phase == RESCUE && rc == HSL_OK) {
        if (in->rescue_next == in->ranges_len)
            in->phase = WALKED;
        else if (in->report.read_bytes > until)
            rc = HSL_AGAIN;
        else
            rc = rescue_next(in);
    }
    *err = in->err;
    return in->err == ENOMEM ? HSL_NO_MEMORY : rc;
}
