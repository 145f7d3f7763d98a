/* Parts of footers: what stands in a sealed segment is read when it is asked for, checked once and
 * kept while there is room. Memory is bounded by index_cache_bytes, whatever the store holds.
 *
 * A piece that does not verify costs nothing but time: the frames say the same, so the rows are
 * taken from them and stay in memory. Only if the frames do not verify either is it damage.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WAYS 4u
#define ANNOUNCED 64u /* of a run's pieces at once */

static struct hsl_piece *set_of(struct hsl_log *log, uint32_t segment, uint32_t index)
{
    if (!log->pieces) {
        size_t sets = log->cfg.index_cache_bytes / 4 * 3 / HSL_FOOTER_PIECE / WAYS;
        log->pieces_len = sets > 0 ? sets : 1;
        log->pieces = calloc(log->pieces_len * WAYS, sizeof *log->pieces);
        if (!log->pieces)
            return NULL;
    }
    uint64_t h = ((uint64_t)segment << 32 | index) * 0x9e3779b97f4a7c15u;
    return &log->pieces[(h >> 32) % log->pieces_len * WAYS];
}

static bool take(struct hsl_log *log, uint32_t segment, uint32_t index, size_t from, size_t len,
                 uint8_t *dst)
{
    bool found = false;
    pthread_mutex_lock(&log->pieces_mu);
    struct hsl_piece *set = set_of(log, segment, index);
    for (unsigned i = 0; set && i < WAYS && !found; i++) {
        found = set[i].bytes && set[i].segment == segment && set[i].index == index &&
                from + len <= set[i].len;
        if (found) {
            memcpy(dst, set[i].bytes + from, len);
            set[i].used = ++log->pieces_clock;
        }
    }
    pthread_mutex_unlock(&log->pieces_mu);
    return found;
}

/* Keeps a piece in the place of the one of its set that was not used for longest. */
static void keep(struct hsl_log *log, uint32_t segment, uint32_t index, uint8_t *bytes, size_t len)
{
    pthread_mutex_lock(&log->pieces_mu);
    struct hsl_piece *set = set_of(log, segment, index), *oldest = set;
    for (unsigned i = 0; set && i < WAYS; i++) {
        if (set[i].used < oldest->used)
            oldest = &set[i];
        if (set[i].bytes && set[i].segment == segment && set[i].index == index) {
            oldest = &set[i];
            break;
        }
    }
    if (oldest) {
        free(oldest->bytes);
        *oldest = (struct hsl_piece){segment, index, (uint32_t)len, ++log->pieces_clock, bytes};
    } else {
        free(bytes);
    }
    pthread_mutex_unlock(&log->pieces_mu);
}

static size_t piece_len(const struct hsl_segment *s, uint32_t index)
{
    uint64_t left = s->footer_rows - (uint64_t)index * HSL_FOOTER_PIECE;
    return left < HSL_FOOTER_PIECE ? left : HSL_FOOTER_PIECE;
}

/* What was just written is what is read next: a copy saves the way to the disk and back. */
void hsl_pieces_keep(struct hsl_log *log, const struct hsl_segment *s, const uint8_t *rows)
{
    uint64_t pieces = (s->footer_rows + HSL_FOOTER_PIECE - 1) / HSL_FOOTER_PIECE;
    if (pieces * HSL_FOOTER_PIECE > log->cfg.index_cache_bytes / 2)
        return;
    for (uint32_t i = 0; i < pieces; i++) {
        size_t len = piece_len(s, i);
        uint8_t *copy = malloc(len);
        if (!copy)
            return;
        memcpy(copy, rows + (size_t)i * HSL_FOOTER_PIECE, len);
        keep(log, (uint32_t)s->number, i, copy, len);
    }
}

/* Makes sure of s->rebuilt. */
static int rebuild(struct hsl_log *log, struct hsl_segment *s, int fd)
{
    uint8_t *rows;
    int rc = hsl_segment_rows(log, s, fd, &rows);
    if (rc != HSL_OK)
        return rc;
    pthread_mutex_lock(&log->pieces_mu);
    bool first = !s->rebuilt;
    if (first)
        s->rebuilt = rows;
    pthread_mutex_unlock(&log->pieces_mu);
    if (!first)
        free(rows); /* not reached: two threads at once */
    pthread_mutex_lock(&log->index_mu);
    log->stats.footers_rebuilt += first;
    pthread_mutex_unlock(&log->index_mu);
    return HSL_OK;
}

static bool is_rebuilt(struct hsl_log *log, const struct hsl_segment *s)
{
    pthread_mutex_lock(&log->pieces_mu);
    bool rebuilt = s->rebuilt != NULL;
    pthread_mutex_unlock(&log->pieces_mu);
    return rebuilt;
}

/* Copies out of a piece that is not kept yet, and keeps it. */
static int load(struct hsl_log *log, struct hsl_segment *s, int fd, uint32_t index, size_t from,
                size_t len, uint8_t *dst)
{
    if (!is_rebuilt(log, s)) {
        size_t whole = piece_len(s, index);
        uint8_t *bytes = malloc(whole);
        if (!bytes)
            return HSL_NO_MEMORY;
        uint64_t off = s->footer_off + (uint64_t)index * HSL_FOOTER_PIECE;
        int err = hsl_read_all(log->io, fd, bytes, whole, off);
        if (err == 0 && hsl_crc32c((uint32_t)s->uid, bytes, whole) == s->crcs[index]) {
            memcpy(dst, bytes + from, len);
            keep(log, (uint32_t)s->number, index, bytes, whole);
            return HSL_OK;
        }
        free(bytes);
        if (err < 0 && err != -ENODATA)
            return hsl_fail(log, "read", "segment", -err);
        int rc = rebuild(log, s, fd);
        if (rc != HSL_OK)
            return rc;
    }
    memcpy(dst, s->rebuilt + (size_t)index * HSL_FOOTER_PIECE + from, len);
    return HSL_OK;
}

static int read_piece(struct hsl_log *log, uint32_t segment, uint32_t index, size_t from,
                      size_t len, uint8_t *dst, bool may_block)
{
    if (take(log, segment, index, from, len, dst))
        return HSL_OK;
    if (!may_block)
        return HSL_AGAIN;
    struct hsl_segment *s;
    int fd, rc = hsl_segment_reader(log, segment, &s, &fd);
    if (rc != HSL_OK)
        return rc;
    rc = load(log, s, fd, index, from, len, dst);
    hsl_segment_unread(log, s);
    return rc;
}

int hsl_pieces_read(struct hsl_log *log, uint32_t segment, uint64_t off, size_t len, uint8_t *dst,
                    bool may_block)
{
    while (len > 0) {
        uint32_t index = (uint32_t)(off / HSL_FOOTER_PIECE);
        size_t from = off % HSL_FOOTER_PIECE, n = HSL_FOOTER_PIECE - from;
        if (n > len)
            n = len;
        int rc = read_piece(log, segment, index, from, n, dst, may_block);
        if (rc != HSL_OK)
            return rc;
        off += n;
        dst += n;
        len -= n;
    }
    return HSL_OK;
}

/* Has the disk fetch the rows of a run, which will be read soon: of a large run the first. */
void hsl_pieces_announce(struct hsl_log *log, const struct hsl_run *run)
{
    struct hsl_segment *s;
    int fd;
    if (hsl_segment_reader(log, run->segment, &s, &fd) != HSL_OK)
        return; /* whoever reads them will hear why */
    uint64_t from = run->data / HSL_FOOTER_PIECE * HSL_FOOTER_PIECE;
    uint64_t last = ((uint64_t)run->data + run->data_len - 1) / HSL_FOOTER_PIECE;
    if (last >= from / HSL_FOOTER_PIECE + ANNOUNCED)
        last = from / HSL_FOOTER_PIECE + ANNOUNCED - 1; /* not reached: needs 1 MiB of rows */
    uint64_t end = last * HSL_FOOTER_PIECE + piece_len(s, (uint32_t)last);
    log->io->announce(log->io->ctx, fd, s->footer_off + from, end - from);
    hsl_segment_unread(log, s);
}

void hsl_pieces_free(struct hsl_log *log)
{
    for (size_t i = 0; log->pieces && i < log->pieces_len * WAYS; i++)
        free(log->pieces[i].bytes);
    free(log->pieces);
}
